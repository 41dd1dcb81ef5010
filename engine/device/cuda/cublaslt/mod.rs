//! Linear weights whose products cuBLASLt computes, when it is asked for: which weights those are, with which algorithm, where.
//!
//! Bits must not depend on a batch, and NVIDIA promises that of equal calls alone. So the engine makes few different calls
//! ([`ROW_COUNTS`]), with one algorithm for a weight's shape and one kind of rows, and takes an algorithm only after
//! `trial` has seen it give a row the same bits at every place of every one of those calls. A weight for which there is none is
//! packed for the engine's own kernels.
//!
//! The rows beyond a bucket's live ones are computed as well. They are finite where they were finite before, nobody reads them, and
//! buffers have them ([`padded`]).

mod library;
mod trial;

use std::collections::BTreeMap;

use cudarc::cublaslt::result::CublasError;

pub(super) use library::{ALIGNMENT, Algorithm, Combine, Place, Product};
use library::{Library, WORKSPACE_BYTES};
use trial::Trial;

use super::driver::Driver;
use super::memory::{Memory, Purpose};
use crate::device::{DeviceError, Dtype, Queue};

/// Whether cuBLASLt computes the products of linear weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cublaslt {
    /// The engine's own kernels do.
    #[default]
    Off,
    /// Where the library is there.
    Auto,
    /// The device does not open without it.
    On,
}

/// Whether this machine has the library.
pub fn is_present() -> bool {
    library::is_present()
}

/// Rows of a call, ascending.
const ROW_COUNTS: [usize; 5] = [128, 256, 512, 1024, 2048];
/// Most rows of a call.
pub(super) const MOST_ROWS: usize = ROW_COUNTS[ROW_COUNTS.len() - 1];

/// (first row, rows) of the calls for a bucket.
pub(super) fn calls(bucket: usize) -> impl Iterator<Item = (usize, usize)> {
    let rows = move |first: usize| {
        let rest = bucket - first;
        ROW_COUNTS.into_iter().find(|&count| count >= rest).unwrap_or(MOST_ROWS)
    };
    (0..bucket).step_by(MOST_ROWS).map(move |first| (first, rows(first)))
}

/// Rows that the calls for `rows` rows, or fewer, touch.
pub(super) fn padded(rows: usize) -> usize {
    calls(rows).last().map_or(0, |(first, count)| first + count)
}

/// Which algorithm of a weight: a batch of prompts wants other tiles than some beams. It follows from the lane, never from how
/// much the lane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Prompts,
    Beams,
}

impl Kind {
    /// Rows that the algorithm is chosen for.
    fn typical_rows(self) -> usize {
        match self {
            Kind::Prompts => MOST_ROWS,
            Kind::Beams => ROW_COUNTS[0],
        }
    }
}

/// The algorithms of a weight's shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Algorithms {
    prompts: Algorithm,
    beams: Algorithm,
}

impl Algorithms {
    pub(super) fn of(&self, kind: Kind) -> &Algorithm {
        match kind {
            Kind::Prompts => &self.prompts,
            Kind::Beams => &self.beams,
        }
    }
}

/// f32 scratch between a product and its epilogue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) address: u64, // [rows, stride]
    pub(super) rows: usize,
    pub(super) stride: usize,
}

/// What a queue has for its products alone.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    workspace: u64,
    sums: Sums,
}

/// The library with what was decided for each shape of weights.
pub(super) struct Products {
    library: Library,
    chosen: BTreeMap<(usize, usize), Option<Algorithms>>, // by (n, k)
    prefill: Room,
    search: Room,
}

/// What went wrong in a call once the device works.
pub(super) fn failed(op: &'static str, error: CublasError) -> DeviceError {
    DeviceError::Lost { op, reason: format!("cuBLASLt: {error}") }
}

impl Products {
    /// Starts the library, where that is wanted.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] when it must be there and is not.
    pub(super) fn open(
        wanted: Cublaslt,
        compute: Dtype,
        (driver, memory): (&Driver, &mut Memory),
    ) -> Result<Option<Products>, DeviceError> {
        if wanted == Cublaslt::Off {
            return Ok(None);
        }
        driver.bind().map_err(|error| super::failed("start", error))?;
        let library = match Library::start(compute) {
            Ok(library) => library,
            Err(reason) if wanted == Cublaslt::Auto => {
                tracing::info!(reason, "the engine's own kernels compute all products");
                return Ok(None);
            }
            Err(reason) => return Err(DeviceError::Unavailable(format!("{reason}; --cublaslt off needs none"))),
        };
        let mut room = |queue: &str| -> Result<Room, DeviceError> {
            let what = format!("cuBLASLt on the {queue} queue");
            Ok(Room { workspace: memory.zeroed(Purpose::Workspace, what, WORKSPACE_BYTES)?, sums: Sums::default() })
        };
        let (prefill, search) = (room("prefill")?, room("search")?);
        Ok(Some(Products { library, chosen: BTreeMap::new(), prefill, search }))
    }

    fn room(&self, queue: Queue) -> &Room {
        match queue {
            Queue::Prefill => &self.prefill,
            Queue::Search => &self.search,
        }
    }

    /// Where a queue's products run.
    fn place(&self, driver: &Driver, queue: Queue) -> Place {
        Place { stream: driver.raw_stream(queue).cast(), workspace: self.room(queue).workspace }
    }

    /// A queue's scratch.
    pub(super) fn sums(&self, queue: Queue) -> Sums {
        self.room(queue).sums
    }

    /// Makes a queue's scratch large enough for any call of `rows` rows, of `columns` sums each.
    pub(super) fn plan_sums(
        &mut self,
        memory: &mut Memory,
        queue: Queue,
        (rows, columns): (usize, usize),
    ) -> Result<(), DeviceError> {
        let (rows, stride) = (padded(rows).min(MOST_ROWS), columns.next_multiple_of(64));
        let room = match queue {
            Queue::Prefill => &mut self.prefill,
            Queue::Search => &mut self.search,
        };
        let now = room.sums;
        let (rows, stride) = (rows.max(now.rows), stride.max(now.stride));
        if (rows, stride) == (now.rows, now.stride) || rows * stride == 0 {
            return Ok(());
        }
        if now.address != 0 {
            memory.give_back(now.address);
        }
        let what = format!("sums of cuBLASLt [{rows}, {stride}]");
        let address = memory.zeroed(Purpose::Workspace, what, rows * stride * size_of::<f32>())?;
        room.sums = Sums { address, rows, stride };
        Ok(())
    }

    /// The algorithms for weights `[n, k]`, or none when the engine's kernels have to do.
    ///
    /// # Errors
    /// [`DeviceError::Lost`] when a call fails, [`DeviceError::OutOfMemory`] when the trial finds no room.
    pub(super) fn algorithms(
        &mut self,
        driver: &Driver,
        compute: Dtype,
        (n, k): (usize, usize),
    ) -> Result<Option<Algorithms>, DeviceError> {
        // Rows of the weight that begin at no multiple of 16 bytes: tensor cores cannot be fed from them.
        if n == 0 || k == 0 || !(k * compute.bytes()).is_multiple_of(ALIGNMENT) {
            return Ok(None);
        }
        if let Some(&known) = self.chosen.get(&(n, k)) {
            return Ok(known);
        }
        let place = self.place(driver, Queue::Search);
        let mut trial = Trial::new(driver, compute, (n, k))?;
        let mut choose = |kind: Kind| trial.choose(&mut self.library, place, kind);
        let chosen = match (choose(Kind::Prompts)?, choose(Kind::Beams)?) {
            (Some(prompts), Some(beams)) => Some(Algorithms { prompts, beams }),
            _ => {
                tracing::warn!(n, k, "cuBLASLt keeps no row apart from its batch: the engine's own kernel computes");
                None
            }
        };
        self.chosen.insert((n, k), chosen);
        Ok(chosen)
    }

    /// Enqueues a product.
    pub(super) fn enqueue(
        &mut self,
        (driver, queue): (&Driver, Queue),
        product: &Product,
        algorithm: &Algorithm,
    ) -> Result<(), DeviceError> {
        driver.bind().map_err(|error| super::failed("linear", error))?;
        let place = self.place(driver, queue);
        self.library.enqueue(place, product, algorithm).map_err(|error| failed("linear", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_cover_a_bucket_and_buffers_hold_them() {
        let all = |bucket| calls(bucket).collect::<Vec<_>>();
        assert_eq!(all(0), []);
        assert_eq!(all(8), [(0, 128)]);
        assert_eq!(all(129), [(0, 256)]);
        assert_eq!(all(2048), [(0, 2048)]);
        assert_eq!(all(2049), [(0, 2048), (2048, 128)]);
        assert_eq!(all(7000), [(0, 2048), (2048, 2048), (4096, 2048), (6144, 1024)]);
        for rows in 1..5000 {
            assert!(padded(rows) >= rows && padded(rows) >= padded(rows - 1), "{rows} rows");
        }
    }
}
