//! Runs one piece of work on the emulated device. Whatever goes wrong here breaks the context, as it would on hardware.

use std::time::Instant;

use crate::handle::Handle;
use crate::session::Session;
use crate::status::{CudaError, Outcome};
use crate::stream::Mark;
use crate::work::{Fill, HostSource, Work};

impl Session<'_> {
    /// Runs work that its stream has just given up.
    pub fn run(&mut self, work: Work, stream: Handle) -> Outcome<()> {
        match work {
            Work::Launch(launch) => self.run_launch(&launch),
            Work::Product(product) => self.run_product(&product),
            Work::Upload { to, from } => self.run_upload(to, &from),
            Work::Download { to, from } => {
                let data = self.read_device(from, to.bytes())?;
                self.process.statistics.count_bytes("device to host", data.len());
                let written = self.process.pinned.write(to, &data);
                written.ok_or_else(|| self.unpinned())
            }
            Work::Copy { to, from, bytes } => {
                self.process.statistics.count_bytes("device to device", bytes);
                let copied = self.context.memory.copy(to, from, bytes as u64);
                copied.map_err(|error| self.fail(CudaError::IllegalAddress, &format!("device to device copy: {error}")))
            }
            Work::Fill(fill) => self.run_fill(fill),
            Work::Free(address) => self.release(address),
            Work::Record(event) => {
                self.stamp(event, stream);
                Ok(())
            }
            Work::Wait(_) => Ok(()),
            Work::Host(call) => {
                crate::driver::calling_back(|| call.run());
                Ok(())
            }
            Work::Graph(nodes) => nodes.iter().try_for_each(|node| self.run(node.clone(), stream)),
            Work::Spoiled(spoiled) => Err(self.fail(spoiled.error, &spoiled.what)),
        }
    }

    /// Device bytes now.
    pub fn read_device(&mut self, from: u64, bytes: usize) -> Outcome<Vec<u8>> {
        let mut data = vec![0; bytes];
        match self.context.memory.read(from, &mut data) {
            Ok(()) => Ok(data),
            Err(error) => Err(self.fail(CudaError::IllegalAddress, &format!("device to host copy: {error}"))),
        }
    }

    fn run_upload(&mut self, to: u64, from: &HostSource) -> Outcome<()> {
        self.process.statistics.count_bytes("host to device", from.bytes());
        let written = match from {
            HostSource::Snapshot(data) => self.context.memory.write(to, data),
            HostSource::Pinned(range) => match self.process.pinned.read(*range) {
                Some(data) => self.context.memory.write(to, &data),
                None => return Err(self.unpinned()),
            },
        };
        written.map_err(|error| self.fail(CudaError::IllegalAddress, &format!("host to device copy: {error}")))
    }

    fn run_fill(&mut self, fill: Fill) -> Outcome<()> {
        self.process.statistics.count_bytes("fill", fill.count * fill.width);
        let pattern = &fill.value[..fill.width];
        let written = self.context.memory.fill(fill.address, pattern, fill.count as u64);
        written.map_err(|error| self.fail(CudaError::IllegalAddress, &format!("memset: {error}")))
    }

    fn unpinned(&mut self) -> CudaError {
        self.fail(CudaError::IllegalAddress, "a copy ran after its pinned host memory was freed or unregistered")
    }

    /// Notes the time an event is reached, unless it was recorded again since.
    fn stamp(&mut self, event: Handle, stream: Handle) {
        let done = self.context.streams.get(&stream).map_or(0, |stream| stream.done);
        let Some(event) = self.context.events.get_mut(&event) else { return };
        if let Mark::Place { position, reached } = &mut event.mark
            && position.stream == stream
            && position.ticket == done
        {
            *reached = Some(Instant::now());
        }
    }
}
