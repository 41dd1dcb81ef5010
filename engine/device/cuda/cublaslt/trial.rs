//! Finds out whether an algorithm of cuBLASLt keeps rows apart: the same row stands at every place of every call that the engine
//! makes, and must come out with the same bits.
//!
//! In which order an algorithm adds does not depend on the numbers. Where two places or two row counts differ in it, some of a
//! weight's thousands of sums of noise round differently, so that equal bits in all of them show one order. It is what this card
//! and this library were seen to do, not what anybody promised.

use cudarc::driver::DriverError;
use half::bf16;

use super::library::{Algorithm, Combine, Library, Place, Product};
use super::{Kind, MOST_ROWS, ROW_COUNTS, failed};
use crate::device::cuda::driver::{self, Driver};
use crate::device::{DeviceError, Dtype, Queue};

/// Memory of a trial: freed at its end, before lanes are planned.
struct Temporary<'a> {
    driver: &'a Driver,
    address: u64,
}

impl<'a> Temporary<'a> {
    fn new(driver: &'a Driver, bytes: usize) -> Result<Temporary<'a>, DeviceError> {
        match driver.allocate(bytes) {
            Ok(address) => Ok(Temporary { driver, address }),
            Err(DriverError(cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let what = "a trial of cuBLASLt".to_owned();
                let reason = "the card has no more; --cublaslt off needs none".to_owned();
                Err(DeviceError::OutOfMemory { what, bytes, reason })
            }
            Err(error) => Err(lost(error)),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        self.driver.free(self.address);
    }
}

fn lost(error: DriverError) -> DeviceError {
    driver::failed("trial of cuBLASLt", error)
}

/// Numbers between -1 and 1, in the compute type.
fn noise(mut state: u64, len: usize, compute: Dtype) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len * compute.bytes());
    for _ in 0..len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match compute {
            Dtype::F32 => bytes.extend(value.to_ne_bytes()),
            Dtype::Bf16 => bytes.extend(bf16::from_f32(value).to_ne_bytes()),
        }
    }
    bytes
}

/// A weight of noise, one row of noise at every place of the input, and room for the output.
pub(super) struct Trial<'a> {
    driver: &'a Driver,
    weight: Temporary<'a>, // [n, k]
    x: Temporary<'a>,      // [MOST_ROWS, x_stride]
    out: Temporary<'a>,    // f32[MOST_ROWS, out_stride]
    n: usize,
    k: usize,
    x_stride: usize,
    out_stride: usize,
}

impl<'a> Trial<'a> {
    /// Prepares a trial for weights `[n, k]`.
    pub(super) fn new(driver: &'a Driver, compute: Dtype, (n, k): (usize, usize)) -> Result<Trial<'a>, DeviceError> {
        let (x_stride, out_stride) = (k.next_multiple_of(64), n.next_multiple_of(64));
        let holding = |content: &[u8]| {
            let memory = Temporary::new(driver, content.len())?;
            driver.write(memory.address, content).map_err(lost)?;
            Ok(memory)
        };
        let mut row = noise(1, k, compute);
        row.resize(x_stride * compute.bytes(), 0);
        Ok(Trial {
            driver,
            weight: holding(&noise(2, n * k, compute))?,
            x: holding(&row.repeat(MOST_ROWS))?,
            out: Temporary::new(driver, MOST_ROWS * out_stride * size_of::<f32>())?,
            n,
            k,
            x_stride,
            out_stride,
        })
    }

    fn product(&self, rows: usize) -> Product {
        Product {
            weight: self.weight.address,
            x: self.x.address,
            out: self.out.address,
            rows,
            n: self.n,
            k: self.k,
            x_stride: self.x_stride,
            out_stride: self.out_stride,
            combine: Combine::Add,
        }
    }

    /// The best algorithm that keeps rows apart.
    pub(super) fn choose(
        &mut self,
        library: &mut Library,
        place: Place,
        kind: Kind,
    ) -> Result<Option<Algorithm>, DeviceError> {
        let broken = |error| failed("cublasLtMatmulAlgoGetHeuristic", error);
        for algorithm in library.algorithms(&self.product(kind.typical_rows())).map_err(broken)? {
            if self.keeps_rows_apart(library, place, &algorithm)? {
                return Ok(Some(algorithm));
            }
        }
        Ok(None)
    }

    fn keeps_rows_apart(
        &self,
        library: &mut Library,
        place: Place,
        algorithm: &Algorithm,
    ) -> Result<bool, DeviceError> {
        for rows in ROW_COUNTS {
            let can = library.can_do(&self.product(rows), algorithm);
            if !can.map_err(|error| failed("cublasLtMatmulAlgoCheck", error))? {
                return Ok(false);
            }
        }
        let mut first = None;
        for rows in ROW_COUNTS {
            let sums = self.sums(library, (place, rows), algorithm)?;
            let reference = first.get_or_insert_with(|| sums[..self.n].to_vec());
            // Bits, not values: -0 is not 0 here.
            if sums.chunks(self.out_stride).any(|row| row[..self.n] != reference[..]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bits of the products of `rows` rows.
    fn sums(
        &self,
        library: &mut Library,
        (place, rows): (Place, usize),
        algorithm: &Algorithm,
    ) -> Result<Vec<u32>, DeviceError> {
        let mut sums = vec![0u32; rows * self.out_stride];
        self.driver.zero(Queue::Search, self.out.address, size_of_val(&sums[..])).map_err(lost)?;
        let product = self.product(rows);
        library.enqueue(place, &product, algorithm).map_err(|error| failed("cublasLtMatmul", error))?;
        self.driver.drain().map_err(lost)?;
        self.driver.read(self.out.address, bytemuck::cast_slice_mut(&mut sums)).map_err(lost)?;
        Ok(sums)
    }
}
