//! Graphs: instantiated from captures, launched, destroyed. Graphs cannot be built or changed node by node.

use std::ffi::{c_char, c_ulonglong};

use super::pointers::Out;
use super::stream::on_stream;
use super::{Code, answer};
use crate::driver::in_context;
use crate::handle::Handle;
use crate::session::find;
use crate::status::CudaError;

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: c_ulonglong) -> Code {
    answer(in_context(|session| executable.put(session.instantiate(graph, flags)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiate(executable: Out<Handle>, graph: Handle, flags: c_ulonglong) -> Code {
    cuGraphInstantiateWithFlags(executable, graph, flags)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiate_v2(
    executable: Out<Handle>,
    graph: Handle,
    error_node: Out<Handle>,
    log: Out<c_char>,
    log_bytes: usize,
) -> Code {
    error_node.put_if_wanted(0);
    if log_bytes > 0 {
        log.put_if_wanted(0);
    }
    cuGraphInstantiateWithFlags(executable, graph, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(executable: Handle, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.launch_graph(executable, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(executable: Handle, stream: Handle) -> Code {
    on_stream(stream, |session, _| find(&session.context.executables, executable).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecGetFlags(executable: Handle, flags: Out<c_ulonglong>) -> Code {
    answer(in_context(|session| flags.put(find(&session.context.executables, executable)?.flags)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: Handle) -> Code {
    answer(in_context(|session| session.context.graphs.remove(&graph).map(|_| ()).ok_or(CudaError::InvalidValue)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(executable: Handle) -> Code {
    answer(in_context(|session| {
        // Launches in streams keep their work.
        session.context.executables.remove(&executable).map(|_| ()).ok_or(CudaError::InvalidValue)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) -> Code {
    answer(in_context(|session| {
        let len = find(&session.context.graphs, graph)?.len();
        if nodes.is_null() {
            return count.put(len);
        }
        // A node's handle is its number, from 1: it can be counted and compared, nothing else.
        let room = count.get()?;
        nodes.put_all((1..=len as Handle).chain(std::iter::repeat(0)), room)?;
        count.put(room.min(len))
    }))
}
