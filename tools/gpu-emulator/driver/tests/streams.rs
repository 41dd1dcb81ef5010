//! Streams are lazy and pinned memory is read late: missing synchronisation is seen, and what is synchronised works.

mod support;

use std::ffi::c_void;
use std::time::{Duration, Instant};

use cudarc::driver::{DevicePtr, PushKernelArg, result, sys};
use support::{Code, Device, Pinned, code, row};

#[test]
fn nothing_runs_until_somebody_waits() {
    let device = Device::new();
    let stream = device.stream();
    let ones = stream.clone_htod(&[1_u32; 4]).unwrap();
    let mut seen = Pinned::new(4);
    // SAFETY: the memory outlives the work.
    unsafe { result::memcpy_dtoh_async(seen.words(), ones.device_ptr(&stream).0, stream.cu_stream()) }.unwrap();
    assert_eq!(seen.words(), [0; 4], "the copy was not waited for");
    stream.synchronize().unwrap();
    assert_eq!(seen.words(), [1; 4]);
}

#[test]
fn a_staging_buffer_used_again_too_early_shows() {
    let device = Device::new();
    let stream = device.stream();
    let first = stream.alloc_zeros::<u32>(4).unwrap();
    let second = stream.alloc_zeros::<u32>(4).unwrap();
    let upload = |staging: &mut Pinned, value, to| {
        staging.set(value);
        // SAFETY: both memories outlive the copy.
        unsafe { result::memcpy_htod_async(to, staging.words(), stream.cu_stream()) }.unwrap();
    };
    let mut staging = Pinned::new(4);
    upload(&mut staging, 1, first.device_ptr(&stream).0);
    upload(&mut staging, 2, second.device_ptr(&stream).0);
    assert_eq!(stream.clone_dtoh(&first).unwrap(), [2; 4], "the first copy read the second one's data");

    upload(&mut staging, 1, first.device_ptr(&stream).0);
    stream.synchronize().unwrap();
    upload(&mut staging, 2, second.device_ptr(&stream).0);
    assert_eq!(stream.clone_dtoh(&first).unwrap(), [1; 4]);
    assert_eq!(stream.clone_dtoh(&second).unwrap(), [2; 4]);
}

#[test]
fn pageable_memory_is_read_at_the_call() {
    let device = Device::new();
    let stream = device.stream();
    let target = stream.alloc_zeros::<u32>(4).unwrap();
    let mut data = [1_u32; 4];
    // SAFETY: pageable memory may be changed after the call.
    unsafe { result::memcpy_htod_async(target.device_ptr(&stream).0, &data, stream.cu_stream()) }.unwrap();
    data.fill(2);
    assert_eq!(stream.clone_dtoh(&target).unwrap(), [1; 4]);
    assert_eq!(data, [2; 4]);
}

#[test]
fn a_missing_event_shows_and_an_event_orders_streams() {
    let device = Device::new();
    let (producer, consumer) = (device.stream(), device.stream());
    let buffer = producer.alloc_zeros::<u32>(4).unwrap();
    producer.synchronize().unwrap();
    let at = buffer.device_ptr(&producer).0;
    let mut source = Pinned::new(4);
    source.set(5);
    let mut seen = Pinned::new(4);
    let mut pass_on = |wait: bool, seen: &mut Pinned| {
        // SAFETY: all memory outlives the work.
        unsafe {
            result::memset_d8_async(at, 0, 16, consumer.cu_stream()).unwrap();
            consumer.synchronize().unwrap();
            result::memcpy_htod_async(at, source.words(), producer.cu_stream()).unwrap();
            if wait {
                consumer.join(&producer).unwrap();
            }
            result::memcpy_dtoh_async(seen.words(), at, consumer.cu_stream()).unwrap();
        }
        consumer.synchronize().unwrap();
        producer.synchronize().unwrap();
        seen.words()[0]
    };
    assert_eq!(pass_on(false, &mut seen), 0, "the consumer ran first");
    assert_eq!(pass_on(true, &mut seen), 5);
}

#[test]
fn long_chains_of_waits_between_streams_end() {
    let device = Device::new();
    let streams = [device.stream(), device.stream(), device.stream()];
    let kernel = device.kernel("histogram");
    let values = streams[0].clone_htod(&[3_u8; 1]).unwrap();
    let mut bins = streams[0].alloc_zeros::<u32>(4).unwrap();
    for round in 0..3000 {
        let stream = &streams[round % 3];
        stream.join(&streams[(round + 2) % 3]).unwrap();
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&kernel).arg(&values).arg(&mut bins).arg(&1_u32).launch(row(1, 1)) }.unwrap();
    }
    assert_eq!(streams[2].clone_dtoh(&bins).unwrap(), [0, 0, 0, 3000]);
}

#[test]
fn polling_an_event_or_a_stream_ends() {
    let device = Device::new();
    let stream = device.stream();
    let event = device.context.new_event(None).unwrap();
    assert!(event.try_is_complete().unwrap(), "an event never recorded is complete");
    let _zeros = stream.alloc_zeros::<u32>(4).unwrap();
    event.record(&stream).unwrap();
    let polls = (0..100).take_while(|_| !event.try_is_complete().unwrap()).count();
    assert!((1..100).contains(&polls), "{polls} polls");
    let _more = stream.alloc_zeros::<u32>(4).unwrap();
    // SAFETY: the handle is the stream's.
    let query = || code(unsafe { sys::cuStreamQuery(stream.cu_stream()) }.result());
    assert_eq!(query(), Some(Code::CUDA_ERROR_NOT_READY));
    let polls = (0..100).take_while(|_| query().is_some()).count();
    assert!((1..100).contains(&polls), "{polls} polls");
}

unsafe extern "C" fn sleep_ms(milliseconds: *mut c_void) {
    std::thread::sleep(Duration::from_millis(milliseconds as u64));
}

#[test]
fn events_measure_the_work_between_them() {
    let device = Device::new();
    let stream = device.stream();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timed).unwrap();
    // SAFETY: the function takes its argument as a number.
    unsafe { result::stream::launch_host_function(stream.cu_stream(), sleep_ms, 20 as *mut c_void) }.unwrap();
    let end = stream.record_event(timed).unwrap();
    let mut milliseconds = 0.0;
    // SAFETY: handles of events that live.
    let early = unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, start.cu_event(), end.cu_event()) };
    assert_eq!(code(early.result()), Some(Code::CUDA_ERROR_NOT_READY));
    let clock = Instant::now();
    let elapsed = start.elapsed_ms(&end).unwrap();
    assert!(elapsed >= 20.0 && elapsed <= clock.elapsed().as_secs_f32() * 1e3, "{elapsed} ms");
    assert_eq!(end.elapsed_ms(&start).unwrap(), -elapsed);
    let untimed = stream.record_event(None).unwrap();
    assert_eq!(code(start.elapsed_ms(&untimed)), Some(Code::CUDA_ERROR_INVALID_HANDLE));
}

unsafe extern "C" fn call_driver(answer: *mut c_void) {
    let mut free = 0;
    let mut total = 0;
    // SAFETY: the argument is a place for the answer, the pointers are to numbers.
    unsafe { answer.cast::<Code>().write(sys::cuMemGetInfo_v2(&mut free, &mut total)) };
}

#[test]
fn host_functions_may_not_call_the_driver() {
    let device = Device::new();
    let stream = device.stream();
    let mut answer = Code::CUDA_SUCCESS;
    // SAFETY: the place outlives the work.
    unsafe { result::stream::launch_host_function(stream.cu_stream(), call_driver, (&raw mut answer).cast()) }.unwrap();
    stream.synchronize().unwrap();
    assert_eq!(answer, Code::CUDA_ERROR_NOT_PERMITTED);
}

#[test]
fn the_default_stream_waits_for_blocking_streams_only() {
    let device = Device::new();
    let default = device.context.default_stream();
    let target = default.alloc_zeros::<u32>(1).unwrap();
    default.synchronize().unwrap();
    let at = target.device_ptr(&default).0;
    for (kind, expected) in
        [(result::stream::StreamKind::NonBlocking, 0), (result::stream::StreamKind::Default, 0x0101_0101)]
    {
        // SAFETY: the memory outlives the work, the stream is destroyed once.
        unsafe {
            let stream = result::stream::create(kind).unwrap();
            result::memset_d8_async(at, 1, 4, stream).unwrap();
            let mut seen = [9_u32];
            result::memcpy_dtoh_sync(&mut seen, at).unwrap();
            assert_eq!(seen, [expected]);
            result::stream::destroy(stream).unwrap();
            assert_eq!(code(result::stream::synchronize(stream)), Some(Code::CUDA_ERROR_INVALID_HANDLE));
        }
    }
    device.context.synchronize().unwrap();
}

#[test]
fn freeing_waits_for_the_work_that_uses_the_memory() {
    let device = Device::new();
    let stream = device.stream();
    let mut staging = Pinned::new(4);
    staging.set(3);
    let mut seen = Pinned::new(4);
    // SAFETY: that is what is tested: the frees come before the work is waited for.
    unsafe {
        let first = result::malloc_async(stream.cu_stream(), 16).unwrap();
        result::memcpy_htod_async(first, staging.words(), stream.cu_stream()).unwrap();
        drop(staging);
        result::memcpy_dtoh_async(seen.words(), first, stream.cu_stream()).unwrap();
        result::free_async(first, stream.cu_stream()).unwrap();
        let second = result::malloc_sync(16).unwrap();
        result::memset_d8_async(second, 0, 16, stream.cu_stream()).unwrap();
        result::free_sync(second).unwrap();
    }
    assert_eq!(seen.words(), [3; 4], "cuMemFree waited for everything");
}
