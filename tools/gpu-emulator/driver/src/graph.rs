//! Graphs: captured work with its order, instantiated once and replayed.
//!
//! A replay runs nodes one at a time in an order the graph's edges allow. Where they leave a choice, the node captured last runs
//! first, so that a dependency which only the order of calls suggested is seen to be missing.

use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::handle::Handle;
use crate::inject::Kind;
use crate::session::{Session, find, find_mut};
use crate::status::{CudaError, Outcome};
use crate::work::{Position, Work};

/// One node.
pub struct Node {
    /// What it does.
    pub work: Work,
    /// The nodes it follows, all captured before it.
    pub after: Vec<usize>,
}

/// A captured graph.
pub struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// A graph of nodes, each after those it follows.
    pub fn new(nodes: Vec<Node>) -> Graph {
        Graph { nodes }
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes in the order a replay runs them.
    fn schedule(&self) -> Vec<usize> {
        let mut missing: Vec<usize> = self.nodes.iter().map(|node| node.after.len()).collect();
        let mut followers = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            node.after.iter().for_each(|before| followers[*before].push(index));
        }
        let mut ready: BinaryHeap<usize> = (0..self.nodes.len()).filter(|index| missing[*index] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(index) = ready.pop() {
            order.push(index);
            for follower in &followers[index] {
                missing[*follower] -= 1;
                if missing[*follower] == 0 {
                    ready.push(*follower);
                }
            }
        }
        order
    }
}

/// An instantiated graph.
pub struct Executable {
    work: Arc<[Work]>,
    /// Flags it was instantiated with.
    pub flags: u64,
    /// The place behind its last launch: a launch waits for the one before, in whatever stream that was.
    last: Option<Position>,
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
const AUTO_FREE: u64 = 1;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH`.
const DEVICE_LAUNCH: u64 = 4;
/// All flags there are.
const ALL_FLAGS: u64 = 15;

impl Session<'_> {
    /// `cuGraphInstantiate`.
    pub fn instantiate(&mut self, graph: Handle, flags: u64) -> Outcome<Handle> {
        if flags & !ALL_FLAGS != 0 || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH {
            return Err(CudaError::InvalidValue);
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(CudaError::NotSupported);
        }
        self.count_allocation(Kind::Instantiate)?;
        let graph = find(&self.context.graphs, graph)?;
        let work = graph.schedule().into_iter().map(|index| graph.nodes[index].work.clone()).collect();
        let executable = self.process.handles.take();
        self.context.executables.insert(executable, Executable { work, flags, last: None });
        Ok(executable)
    }

    /// `cuGraphLaunch`.
    pub fn launch_graph(&mut self, handle: Handle, stream: Handle) -> Outcome<()> {
        let executable = find(&self.context.executables, handle)?;
        let (work, last) = (executable.work.clone(), executable.last);
        if self.capture_of(stream)?.is_some() {
            return self.submit(stream, Work::Graph(work));
        }
        let work = self.spoil(Kind::Graph, Work::Graph(work))?;
        if let Some(place) = last.filter(|place| !self.reached(*place)) {
            self.submit(stream, Work::Wait(place))?;
        }
        self.submit(stream, work)?;
        let tail = self.tail(stream);
        find_mut(&mut self.context.executables, handle)?.last = Some(tail);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(after: &[usize]) -> Node {
        Node { work: Work::Free(0), after: after.to_vec() }
    }

    #[test]
    fn a_chain_keeps_its_order_and_branches_run_last_captured_first() {
        let chain = Graph::new(vec![node(&[]), node(&[0]), node(&[1])]);
        assert_eq!(chain.schedule(), [0, 1, 2]);
        let fork = Graph::new(vec![node(&[]), node(&[0]), node(&[0]), node(&[1, 2])]);
        assert_eq!(fork.schedule(), [0, 2, 1, 3]);
        let apart = Graph::new(vec![node(&[]), node(&[]), node(&[0])]);
        assert_eq!(apart.schedule(), [1, 0, 2]);
    }
}
