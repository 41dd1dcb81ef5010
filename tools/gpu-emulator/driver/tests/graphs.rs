//! Capture and replay, and the calls a capture forbids.

mod support;

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DevicePtr, PushKernelArg, result, sys};
use support::{Code, Device, Pinned, code, row};
use sys::CUgraphInstantiate_flags as Flags;
use sys::CUstreamCaptureMode as Mode;
use sys::CUstreamCaptureStatus as Status;

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// A call and the error it answers.
type Call<'a> = &'a dyn Fn() -> Option<Code>;

/// Multiplies 32 floats.
fn scale(stream: &CudaStream, kernel: &CudaFunction, values: &mut CudaSlice<f32>, factor: f32) {
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(kernel).arg(values).arg(&factor).launch(row(1, 32)) }.unwrap();
}

fn ones(stream: &Arc<CudaStream>) -> CudaSlice<f32> {
    let values = stream.clone_htod(&[1.0_f32; 32]).unwrap();
    stream.synchronize().unwrap();
    values
}

#[test]
fn a_capture_runs_nothing_and_replays_run_it_all() {
    let device = Device::new();
    let stream = device.stream();
    let kernel = device.kernel("scale");
    let mut values = ones(&stream);
    let mut staging = Pinned::new(32);
    let at = values.device_ptr(&stream).0;
    stream.begin_capture(THREAD_LOCAL).unwrap();
    assert_eq!(stream.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    // SAFETY: the memory outlives the graph.
    unsafe { result::memcpy_htod_async(at, staging.words(), stream.cu_stream()) }.unwrap();
    scale(&stream, &kernel, &mut values, 2.0);
    scale(&stream, &kernel, &mut values, 5.0);
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!(stream.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_NONE);
    let mut nodes = 0;
    // SAFETY: the graph lives; a null array asks for the number.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut nodes).result().unwrap() };
    assert_eq!(nodes, 3);
    assert_eq!(stream.clone_dtoh(&values).unwrap(), [1.0; 32]);
    graph.upload().unwrap();
    for input in [3.0_f32, 4.0] {
        // Parameters were copied at capture; pinned memory is read at each replay.
        staging.set(input.to_bits());
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [10.0 * input; 32]);
    }
}

#[test]
fn waiting_spoils_a_capture() {
    let device = Device::new();
    let stream = device.stream();
    let values = ones(&stream);
    let event = device.context.new_event(None).unwrap();
    let refused = Some(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    // SAFETY: handles live; the calls are refused.
    let calls: [(&str, Option<Code>, Call<'_>); 6] = [
        ("stream", refused, &|| code(stream.synchronize())),
        ("query", refused, &|| code(unsafe { sys::cuStreamQuery(stream.cu_stream()) }.result())),
        ("context", refused, &|| code(device.context.synchronize())),
        ("pageable copy", refused, &|| code(stream.clone_dtoh(&values))),
        ("event query", Some(Code::CUDA_ERROR_CAPTURED_EVENT), &|| {
            event.record(&stream).unwrap();
            code(event.try_is_complete())
        }),
        ("event", Some(Code::CUDA_ERROR_CAPTURED_EVENT), &|| {
            event.record(&stream).unwrap();
            code(event.synchronize())
        }),
    ];
    for (name, expected, call) in calls {
        stream.begin_capture(THREAD_LOCAL).unwrap();
        assert_eq!(call(), expected, "{name}");
        assert_eq!(stream.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED, "{name}");
        let more = event.record(&stream);
        assert_eq!(code(more), Some(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{name}");
        let end = code(stream.end_capture(Flags(0)));
        assert_eq!(end, Some(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{name}");
        stream.synchronize().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&values).unwrap(), [1.0; 32]);
}

#[test]
fn modes_decide_whose_unsafe_calls_are_forbidden() {
    let device = Device::new();
    let stream = device.stream();
    let allocate = || {
        device.context.bind_to_thread().unwrap();
        // SAFETY: freed below and not used.
        let memory = unsafe { result::malloc_sync(16) };
        code(memory)
    };
    let elsewhere = || std::thread::scope(|scope| scope.spawn(allocate).join().unwrap());
    let refused = Some(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    for (mode, here, there) in [(GLOBAL, refused, refused), (THREAD_LOCAL, refused, None), (RELAXED, None, None)] {
        for (call, expected) in [(&allocate as Call<'_>, here), (&elsewhere, there)] {
            stream.begin_capture(mode).unwrap();
            assert_eq!(call(), expected, "{mode:?}");
            let spoilt = code(stream.end_capture(Flags(0)));
            assert_eq!(spoilt, expected.map(|_| Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{mode:?}");
        }
    }
}

#[test]
fn branches_fork_and_join_by_events() {
    let device = Device::new();
    let (main, side) = (device.stream(), device.stream());
    let kernel = device.kernel("scale");
    let (mut first, mut second) = (ones(&main), ones(&main));
    main.begin_capture(THREAD_LOCAL).unwrap();
    scale(&main, &kernel, &mut first, 2.0);
    side.join(&main).unwrap();
    assert_eq!(side.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    scale(&side, &kernel, &mut second, 3.0);
    main.join(&side).unwrap();
    scale(&main, &kernel, &mut second, 5.0);
    let graph = main.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!(side.capture_status().unwrap(), Status::CU_STREAM_CAPTURE_STATUS_NONE);
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!(main.clone_dtoh(&first).unwrap(), [4.0; 32]);
    assert_eq!(main.clone_dtoh(&second).unwrap(), [225.0; 32]);
}

#[test]
fn a_dependency_missing_in_a_graph_shows() {
    let device = Device::new();
    let (main, side) = (device.stream(), device.stream());
    let buffer = main.alloc_zeros::<u32>(1).unwrap();
    let seen = main.alloc_zeros::<u32>(1).unwrap();
    let (at, out) = (buffer.device_ptr(&main).0, seen.device_ptr(&main).0);
    main.synchronize().unwrap();
    main.begin_capture(THREAD_LOCAL).unwrap();
    side.join(&main).unwrap();
    // SAFETY: the memory outlives the graph.
    unsafe {
        result::memset_d8_async(at, 1, 4, main.cu_stream()).unwrap();
        // Reads what the other branch writes, without waiting for it: captured later, run earlier.
        result::memcpy_dtod_async(out, at, 4, side.cu_stream()).unwrap();
    }
    main.join(&side).unwrap();
    main.end_capture(Flags(0)).unwrap().unwrap().launch().unwrap();
    assert_eq!(main.clone_dtoh(&seen).unwrap(), [0]);
}

#[test]
fn captures_that_do_not_hang_together_are_refused() {
    let device = Device::new();
    let (main, side) = (device.stream(), device.stream());
    let kernel = device.kernel("scale");
    let mut values = ones(&main);
    main.begin_capture(THREAD_LOCAL).unwrap();
    side.join(&main).unwrap();
    scale(&side, &kernel, &mut values, 3.0);
    assert_eq!(code(main.end_capture(Flags(0))), Some(Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));

    let outside = side.record_event(None).unwrap();
    main.begin_capture(THREAD_LOCAL).unwrap();
    assert_eq!(code(main.wait(&outside)), Some(Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION));
    assert_eq!(code(main.end_capture(Flags(0))), Some(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));

    main.begin_capture(THREAD_LOCAL).unwrap();
    side.begin_capture(THREAD_LOCAL).unwrap();
    assert_eq!(code(main.join(&side)), Some(Code::CUDA_ERROR_STREAM_CAPTURE_MERGE));
    for stream in [&main, &side] {
        assert_eq!(code(stream.end_capture(Flags(0))), Some(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    }

    main.begin_capture(THREAD_LOCAL).unwrap();
    side.join(&main).unwrap();
    assert_eq!(code(side.end_capture(Flags(0))), Some(Code::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED));
    assert_eq!(code(main.end_capture(Flags(0))), Some(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));

    assert_eq!(code(main.begin_capture(THREAD_LOCAL)), None);
    assert_eq!(code(main.begin_capture(THREAD_LOCAL)), Some(Code::CUDA_ERROR_ILLEGAL_STATE));
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| code(main.end_capture(Flags(0)))).join().unwrap());
    assert_eq!(elsewhere, Some(Code::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
    assert_eq!(code(main.end_capture(Flags(0))), None);
    assert_eq!(code(main.end_capture(Flags(0))), Some(Code::CUDA_ERROR_ILLEGAL_STATE));

    let default = device.context.default_stream();
    assert_eq!(code(default.begin_capture(RELAXED)), Some(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
    main.synchronize().unwrap();
    assert_eq!(main.clone_dtoh(&values).unwrap(), [1.0; 32], "nothing captured ran");
}

#[test]
fn launches_of_one_graph_follow_each_other_in_any_streams() {
    let device = Device::new();
    let (main, other) = (device.stream(), device.stream());
    let mut staging = Pinned::new(1);
    let mut seen = Pinned::new(1);
    let buffer = main.alloc_zeros::<u32>(1).unwrap();
    let at = buffer.device_ptr(&main).0;
    main.synchronize().unwrap();
    main.begin_capture(THREAD_LOCAL).unwrap();
    // SAFETY: the memory outlives the graph.
    unsafe { result::memcpy_htod_async(at, staging.words(), main.cu_stream()) }.unwrap();
    let graph = main.end_capture(Flags(0)).unwrap().unwrap();
    staging.set(6);
    graph.launch().unwrap();
    // SAFETY: the graph and the memory live until the stream was waited for.
    unsafe {
        result::memset_d8_async(at, 0, 4, main.cu_stream()).unwrap();
        result::graph::launch(graph.cu_graph_exec(), other.cu_stream()).unwrap();
        result::memcpy_dtoh_async(seen.words(), at, other.cu_stream()).unwrap();
    }
    other.synchronize().unwrap();
    assert_eq!(seen.words(), [6], "the second launch came after the first, though not after the memset behind it");
    main.synchronize().unwrap();
    assert_eq!(main.clone_dtoh(&buffer).unwrap(), [0]);
}
