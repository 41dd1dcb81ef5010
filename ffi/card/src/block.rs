//! Memory of the card, all bytes 0xff at first, freed when dropped.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DriverError, result};

/// A block on the card; its work is on one stream.
pub(crate) struct Block {
    address: u64,
    bytes: usize,
    stream: Arc<CudaStream>,
}

impl Block {
    pub(crate) fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Block, DriverError> {
        let bytes = bytes.max(1);
        // SAFETY: the size is not zero; freed once, by `drop`.
        let address = unsafe { result::malloc_sync(bytes) }?;
        let block = Block { address, bytes, stream: Arc::clone(stream) };
        // SAFETY: the block is live and that long.
        unsafe { result::memset_d8_async(address, 0xff, bytes, stream.cu_stream()) }?;
        stream.synchronize()?;
        Ok(block)
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn write(&self, content: &[u8]) -> Result<(), DriverError> {
        assert!(content.len() <= self.bytes, "{} bytes into a block of {}", content.len(), self.bytes);
        // SAFETY: the block is as long as the content, which outlives the wait.
        unsafe { result::memcpy_htod_async(self.address, content, self.stream.cu_stream()) }?;
        self.stream.synchronize()
    }

    pub(crate) fn read(&self, bytes: usize) -> Result<Vec<u8>, DriverError> {
        assert!(bytes <= self.bytes, "{bytes} bytes of a block of {}", self.bytes);
        let mut content = vec![0; bytes];
        // SAFETY: the block is as long as the content; nothing that was enqueued writes it any more.
        unsafe { result::memcpy_dtoh_sync(&mut content, self.address) }?;
        Ok(content)
    }

    /// Enqueues a copy of another block of the same size.
    pub(crate) fn copy_from(&self, from: &Block) -> Result<(), DriverError> {
        assert_eq!(self.bytes, from.bytes, "blocks of two sizes");
        // SAFETY: both blocks are live and `bytes` long.
        unsafe { result::memcpy_dtod_async(self.address, from.address, self.bytes, self.stream.cu_stream()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // A broken context has lost its memory anyway.
        let _ = self.stream.synchronize();
        // SAFETY: allocated in `new`, freed once; nothing that was enqueued uses it any more.
        let _ = unsafe { result::free_sync(self.address) };
    }
}
