//! KV pages: who owns which page of the history pool. The pages' contents and layout are the device's own affair.

/// Hands out page numbers. All pages exist from the start; running out is an answer, not growth.
#[derive(Debug)]
pub struct PageAllocator {
    /// Free pages; the last is handed out next.
    free: Vec<u32>,
    /// Whether each page is handed out: catches a page released twice.
    taken: Vec<bool>,
}

impl PageAllocator {
    /// `pages` free pages.
    pub fn new(pages: usize) -> PageAllocator {
        let count = u32::try_from(pages).expect("a pool has fewer than 2^32 pages");
        PageAllocator { free: (0..count).rev().collect(), taken: vec![false; pages] }
    }

    /// Pages not handed out.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Pages in all.
    pub fn total(&self) -> usize {
        self.taken.len()
    }

    /// Takes `count` pages, or none when there are fewer.
    pub fn reserve(&mut self, count: usize) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count)?;
        let pages: Vec<u32> = self.free.drain(rest..).rev().collect();
        for &page in &pages {
            assert!(!std::mem::replace(&mut self.taken[page as usize], true), "page {page} handed out twice");
        }
        Some(pages)
    }

    /// Gives pages back.
    ///
    /// # Panics
    /// If a page was not handed out: a bug in the scheduler that must not go on unseen.
    pub fn release(&mut self, pages: Vec<u32>) {
        for page in pages {
            assert!(std::mem::replace(&mut self.taken[page as usize], false), "page {page} released twice");
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_out_once_and_come_back() {
        let mut pages = PageAllocator::new(5);
        let first = pages.reserve(3).unwrap();
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(pages.reserve(3), None, "all or nothing");
        assert_eq!(pages.available(), 2);
        let second = pages.reserve(2).unwrap();
        assert!(second.iter().all(|page| !first.contains(page)));
        pages.release(first);
        pages.release(second);
        assert_eq!(pages.available(), pages.total());
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_page_released_twice_is_a_bug() {
        let mut pages = PageAllocator::new(2);
        let page = pages.reserve(1).unwrap();
        pages.release(page.clone());
        pages.release(page);
    }
}
