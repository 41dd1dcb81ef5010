//! Products of the stand-in cuBLASLt: work of a stream like any launch, captured and replayed with it.

use std::time::Instant;

use gpu_emulator::memory::MemoryError;
use gpu_emulator::product::Product;

use crate::handle::Handle;
use crate::inject::Kind;
use crate::session::Session;
use crate::status::{CudaError, Outcome};
use crate::work::Work;

impl Session<'_> {
    /// Enqueues a product.
    pub fn multiply(&mut self, product: Product, stream: Handle) -> Outcome<()> {
        let work = Work::Product(Box::new(product));
        let captured = self.capture_of(stream)?.is_some();
        let work = if captured { work } else { self.spoil(Kind::Product, work)? };
        self.submit(stream, work)
    }

    /// Counts a call of cuBLASLt's that enqueues nothing, which the fault plan may refuse.
    pub fn count_cublas(&mut self) -> Outcome<()> {
        if self.process.plan.count(Kind::Cublas).is_some() { Err(CudaError::Unknown) } else { Ok(()) }
    }

    /// Runs a product to its end; a fault breaks the context.
    pub fn run_product(&mut self, product: &Product) -> Outcome<()> {
        let start = Instant::now();
        match product.run(&mut self.context.memory) {
            Ok(()) => {
                self.process.statistics.count_kernel("cublasLtMatmul", 0, start.elapsed());
                Ok(())
            }
            Err(fault) => {
                let error = match fault {
                    MemoryError::Unwritten { .. } => CudaError::LaunchFailed,
                    _ => CudaError::IllegalAddress,
                };
                Err(self.fail(error, &format!("cublasLtMatmul ({product:?}): {fault}")))
            }
        }
    }
}
