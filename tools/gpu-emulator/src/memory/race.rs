//! Races between blocks of one launch on global memory.
//!
//! Every 4-byte word remembers the last block that wrote it and the block that read it (or that several did), with the bytes
//! concerned. Cells exist only for pages that kernels touch, and a page's cells are cleared when a newer launch first touches it.
//! Where two blocks use different bytes of a word, the older mark is forgotten: a race can be missed there, never invented.

const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 4;

/// Blocks a launch may have: their numbers must fit a cell.
pub(crate) const MAX_BLOCKS: u64 = (1 << 27) - 2;
const SEVERAL: u32 = (1 << 27) - 1;
const ATOMIC: u32 = 1 << 4;

/// Who touched a word: bytes in the low four bits, whether atomically, then the block's number plus one.
type Mark = u32;

#[derive(Clone, Copy, Default)]
struct Cell {
    writer: Mark,
    reader: Mark,
}

struct Page {
    launch: u32,
    cells: [Cell; PAGE_WORDS],
}

/// The other side of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Block(u32),
    Several,
}

/// Who accesses, when, and how.
#[derive(Clone, Copy)]
pub(crate) struct Visitor {
    pub launch: u32,
    pub block: u32,
    pub atomic: bool,
}

impl Visitor {
    fn mark(self, bytes: u32) -> Mark {
        (self.block + 1) << 5 | if self.atomic { ATOMIC } else { 0 } | bytes
    }

    /// Whether a mark is another block's and touches these bytes, not atomics meeting atomics.
    #[inline(always)]
    fn conflicts(self, mark: Mark, bytes: u32) -> bool {
        mark >> 5 != self.block + 1 && mark & bytes != 0 && !(self.atomic && mark & ATOMIC != 0)
    }
}

fn other(mark: Mark) -> Other {
    if mark >> 5 == SEVERAL { Other::Several } else { Other::Block((mark >> 5) - 1) }
}

/// The cells of one allocation.
pub(crate) struct RaceShadow(Vec<Option<Box<Page>>>);

impl RaceShadow {
    pub(crate) fn new(bytes: usize) -> Self {
        let mut pages = Vec::new();
        pages.resize_with(bytes.div_ceil(PAGE_BYTES), || None);
        RaceShadow(pages)
    }

    #[inline]
    fn page(&mut self, index: usize, launch: u32) -> &mut Page {
        let page = self.0[index].get_or_insert_with(|| Box::new(Page { launch, cells: [Cell::default(); PAGE_WORDS] }));
        if page.launch != launch {
            page.launch = launch;
            page.cells.fill(Cell::default());
        }
        page
    }

    /// Visits the words of a range; `f` gets each cell and the bytes of it.
    #[inline]
    fn each(
        &mut self,
        range: std::ops::Range<usize>,
        launch: u32,
        mut f: impl FnMut(&mut Cell, u32) -> Option<Other>,
    ) -> Option<(usize, Other)> {
        let mut at = range.start;
        while at < range.end {
            let page = at / PAGE_BYTES;
            let stop = range.end.min((page + 1) * PAGE_BYTES);
            let cells = &mut self.page(page, launch).cells;
            while at < stop {
                let next = stop.min((at / 4 + 1) * 4);
                let bytes = ((1u32 << (next - at)) - 1) << (at % 4);
                if let Some(other) = f(&mut cells[at % PAGE_BYTES / 4], bytes) {
                    return Some((at, other));
                }
                at = next;
            }
        }
        None
    }

    /// Marks a read; reports the first word another block wrote, unless `excuse` says that block came before.
    #[inline]
    pub(crate) fn read(
        &mut self,
        range: std::ops::Range<usize>,
        visitor: Visitor,
        excuse: impl Fn(Other) -> bool,
    ) -> Option<(usize, Other)> {
        self.each(range, visitor.launch, |cell, bytes| {
            if visitor.conflicts(cell.writer, bytes) && !excuse(other(cell.writer)) {
                return Some(other(cell.writer));
            }
            let mine = visitor.mark(bytes);
            if cell.reader >> 5 == visitor.block + 1 {
                cell.reader |= bytes;
                if !visitor.atomic {
                    cell.reader &= !ATOMIC;
                }
            } else if cell.reader & bytes != 0 {
                cell.reader = SEVERAL << 5 | cell.reader & mine & ATOMIC | cell.reader & bytes;
            } else {
                cell.reader = mine;
            }
            None
        })
    }

    /// Marks a write; reports the first word another block wrote or read.
    #[inline]
    pub(crate) fn write(
        &mut self,
        range: std::ops::Range<usize>,
        visitor: Visitor,
        excuse: impl Fn(Other) -> bool,
    ) -> Option<(usize, Other)> {
        self.each(range, visitor.launch, |cell, bytes| {
            for mark in [cell.writer, cell.reader] {
                if visitor.conflicts(mark, bytes) && !excuse(other(mark)) {
                    return Some(other(mark));
                }
            }
            cell.writer = if cell.writer >> 5 == visitor.block + 1 {
                (cell.writer | bytes) & if visitor.atomic { !0 } else { !ATOMIC }
            } else {
                visitor.mark(bytes)
            };
            None
        })
    }
}
