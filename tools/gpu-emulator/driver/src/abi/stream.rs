//! Streams, events, capture.

use std::ffi::{c_int, c_uint, c_void};

use super::pointers::{HostPointer, Out};
use super::{Code, answer};
use crate::attributes::PRIORITIES;
use crate::capture::{Mode, Status, exchange_mode};
use crate::driver::in_context;
use crate::handle::Handle;
use crate::host::HostCall;
use crate::session::{Session, find};
use crate::status::{CudaError, Outcome};
use crate::stream::Kind;
use crate::work::Work;

/// `CU_EVENT_DISABLE_TIMING`.
const UNTIMED: c_uint = 2;
/// Blocking sync, disable timing; events between processes are not supported.
const EVENT_FLAGS: c_uint = 3;

/// Makes a call on a stream.
pub(super) fn on_stream(stream: Handle, call: impl FnOnce(&mut Session<'_>, Handle) -> Outcome<()>) -> Code {
    answer(in_context(|session| {
        let stream = session.context.stream(&mut session.process.handles, stream)?;
        call(session, stream)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) -> Code {
    cuStreamCreateWithPriority(stream, flags, 0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, priority: c_int) -> Code {
    answer(in_context(|session| {
        let kind = match flags {
            0 => Kind::Blocking,
            1 => Kind::NonBlocking,
            _ => return Err(CudaError::InvalidValue),
        };
        stream.put(session.create_stream(kind, priority.clamp(PRIORITIES.1, PRIORITIES.0)))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.destroy_stream(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.wait_for_stream(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.query_stream(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) -> Code {
    on_stream(
        stream,
        |session, stream| {
            if flags == 0 { session.wait_for_event(stream, event) } else { Err(CudaError::NotSupported) }
        },
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) -> Code {
    on_stream(stream, |session, stream| priority.put(find(&session.context.streams, stream)?.priority))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) -> Code {
    on_stream(stream, |session, stream| {
        let kind = find(&session.context.streams, stream)?.kind;
        flags.put((kind == Kind::NonBlocking).into())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetId(stream: Handle, id: Out<u64>) -> Code {
    on_stream(stream, |_, stream| id.put(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) -> Code {
    on_stream(stream, |session, _| context.put(session.context.id))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetDevice(stream: Handle, device: Out<c_int>) -> Code {
    on_stream(stream, |_, _| device.put(0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: HostPointer,
) -> Code {
    on_stream(stream, |session, stream| {
        let function = function.ok_or(CudaError::InvalidValue)?;
        // SAFETY: cuda.h asks of the caller what `HostCall::new` does.
        let call = unsafe { HostCall::new(function, data.raw()) };
        session.submit(stream, Work::Host(call))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<Handle>, flags: c_uint) -> Code {
    answer(in_context(|session| match flags {
        0..=EVENT_FLAGS => event.put(session.create_event(flags & UNTIMED == 0)),
        _ => Err(CudaError::NotSupported),
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> Code {
    answer(in_context(|session| session.context.events.remove(&event).map(|_| ()).ok_or(CudaError::InvalidHandle)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> Code {
    on_stream(stream, |session, stream| session.record_event(event, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) -> Code {
    if flags == 0 { cuEventRecord(event, stream) } else { answer(Err(CudaError::NotSupported)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> Code {
    answer(in_context(|session| session.query_event(event)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> Code {
    answer(in_context(|session| session.synchronize_event(event)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, from: Handle, to: Handle) -> Code {
    answer(in_context(|session| milliseconds.put(session.elapsed_ms(from, to)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, from: Handle, to: Handle) -> Code {
    cuEventElapsedTime(milliseconds, from, to)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) -> Code {
    on_stream(stream, |session, stream| session.begin_capture(stream, Mode::of(mode)?))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) -> Code {
    on_stream(stream, |session, stream| {
        graph.put(0)?;
        graph.put(session.end_capture(stream)?)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Handle, status: Out<c_int>) -> Code {
    on_stream(stream, |session, stream| status.put(session.capture_status(stream).0 as c_int))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo(stream: Handle, status: Out<c_int>, id: Out<u64>) -> Code {
    on_stream(stream, |session, stream| {
        let (found, capture) = session.capture_status(stream);
        if found == Status::Active {
            id.put_if_wanted(capture.unwrap_or(0));
        }
        status.put(found as c_int)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    status: Out<c_int>,
    id: Out<u64>,
    graph: Out<Handle>,
    dependencies: Out<*const Handle>,
    dependency_count: Out<usize>,
) -> Code {
    // The graph under construction has no handle here; nothing that could be done to it is supported.
    if !graph.is_null() || !dependencies.is_null() || !dependency_count.is_null() {
        return answer(Err(CudaError::NotSupported));
    }
    cuStreamGetCaptureInfo(stream, status, id)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<c_int>) -> Code {
    answer(mode.get().and_then(|code| mode.put(exchange_mode(Mode::of(code)?) as c_int)))
}
