//! Blocks of a file through workers into commits, in the order of the file.

use std::collections::BTreeMap;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::batch::Batch;
use super::{BadRecord, LoadError, LoadOptions, LoadReport, Watcher};
use crate::store::{Store, StoreError};

/// Bytes of one commit at most: dirty pages are in memory until then.
const BATCH_BYTES: usize = 64 << 20;

/// A file that is cut into blocks on one thread, which are parsed on others.
pub(super) trait Source: Send {
    /// What is handed to a worker.
    type Block: Send;

    /// The next block and where it ends in the file; `None` at the end.
    fn next(&mut self) -> Result<Option<(Self::Block, u64)>, LoadError>;

    /// What workers do with a block. It has nothing of the source but what it took along.
    fn parser(&self) -> impl Fn(Self::Block, &mut Batch) + Send + Clone + 'static + use<Self>;

    /// Bytes of the file.
    fn total(&self) -> u64;

    /// What places count.
    fn unit(&self) -> &'static str;
}

struct Numbered<T> {
    number: u64,
    ends_at: u64,
    content: T,
}

/// Runs a load.
pub(super) fn run<S: Source>(
    mut source: S,
    path: &Path,
    store: &Store,
    options: &LoadOptions,
    watcher: &mut dyn Watcher,
) -> Result<LoadReport, LoadError> {
    let (total, unit) = (source.total(), source.unit());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let (to_workers, blocks) = bounded::<Numbered<S::Block>>(workers);
    let (to_writer, parsed) = bounded::<Numbered<Batch>>(workers);
    let (give_back, spare) = bounded::<Batch>(2 * workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (blocks, to_writer, spare, parse) = (blocks.clone(), to_writer.clone(), spare.clone(), source.parser());
            std::thread::Builder::new()
                .name("store-parse".into())
                .spawn_scoped(scope, move || work(&blocks, &to_writer, &spare, parse))
                .map_err(StoreError::Thread)?;
        }
        drop((to_writer, blocks));
        let reading = std::thread::Builder::new()
            .name("store-read".into())
            .spawn_scoped(scope, move || read(&mut source, &to_workers))
            .map_err(StoreError::Thread)?;
        let mut writing = Writing { path, unit, options, total, watcher, report: LoadReport::default() };
        let written = writing.run(store, &parsed, &give_back);
        // Workers and the reader end when nobody takes their work any more.
        drop(parsed);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written?;
        read?;
        Ok(writing.report)
    })
}

fn read<S: Source>(source: &mut S, to_workers: &Sender<Numbered<S::Block>>) -> Result<(), LoadError> {
    let mut number = 0;
    while let Some((content, ends_at)) = source.next()? {
        if to_workers.send(Numbered { number, ends_at, content }).is_err() {
            break;
        }
        number += 1;
    }
    Ok(())
}

fn work<B>(
    blocks: &Receiver<Numbered<B>>,
    to_writer: &Sender<Numbered<Batch>>,
    spare: &Receiver<Batch>,
    parse: impl Fn(B, &mut Batch),
) {
    for Numbered { number, ends_at, content } in blocks {
        let mut batch = spare.try_recv().unwrap_or_default();
        batch.clear();
        parse(content, &mut batch);
        if to_writer.send(Numbered { number, ends_at, content: batch }).is_err() {
            return;
        }
    }
}

struct Writing<'a> {
    path: &'a Path,
    unit: &'static str,
    options: &'a LoadOptions,
    total: u64,
    watcher: &'a mut dyn Watcher,
    report: LoadReport,
}

impl Writing<'_> {
    fn run(
        &mut self,
        store: &Store,
        parsed: &Receiver<Numbered<Batch>>,
        give_back: &Sender<Batch>,
    ) -> Result<(), LoadError> {
        let mut sink = store.backend.sink(self.options.ttl)?;
        let mut commit = |this: &mut Self, batch: &mut Batch, done: u64| -> Result<(), LoadError> {
            if !batch.is_empty() {
                batch.sort();
                sink.write(&mut batch.records())?;
                this.report.records += batch.len() as u64;
                this.report.bytes += batch.bytes() as u64;
                this.report.batches += 1;
                batch.clear();
            }
            this.watcher.progress(done, this.total);
            Ok(())
        };
        // Blocks that came before their turn: never more than there are workers.
        let mut early = BTreeMap::new();
        let (mut next, mut done) = (0, 0);
        let mut batch = Batch::default();
        for block in parsed {
            early.insert(block.number, block);
            while let Some(mut block) = early.remove(&next) {
                next += 1;
                done = block.ends_at;
                for bad in block.content.bad.drain(..) {
                    self.tell(bad)?;
                }
                let mut taken = 0;
                while taken < block.content.len() {
                    let room = self.options.batch.max(1) - batch.len();
                    let end = block.content.len().min(taken + room);
                    batch.append(&block.content, taken..end);
                    taken = end;
                    if batch.len() >= self.options.batch.max(1) || batch.bytes() >= BATCH_BYTES {
                        commit(self, &mut batch, done)?;
                    }
                }
                // Lost if there are enough already.
                let _ = give_back.try_send(block.content);
            }
        }
        commit(self, &mut batch, done)
    }

    fn tell(&mut self, bad: BadRecord) -> Result<(), LoadError> {
        self.report.bad += 1;
        if self.options.strict {
            let (path, unit, records) = (self.path.to_owned(), self.unit, self.report.records);
            return Err(LoadError::Bad { path, unit, bad, records });
        }
        self.watcher.bad(self.unit, bad);
        Ok(())
    }
}
