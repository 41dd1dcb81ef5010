//! Errors stick until the context is destroyed; faults are told; faults on demand come when asked for.

mod support;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use support::{Code, Device, PTX, code, in_child, reset, row, stderr};

/// Writes a word at an offset of a buffer.
fn write_at(device: &Device, stream: &CudaStream, buffer: &mut CudaSlice<u8>, offset: u64) -> Result<(), DriverError> {
    let kernel = device.context.load_module(Ptx::from_src(PTX))?.load_function("write_at")?;
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(buffer).arg(&offset).launch(row(1, 1)) }?;
    stream.synchronize()
}

#[test]
fn a_fault_sticks_until_the_context_is_reset() {
    let device = Device::new();
    let stream = device.stream();
    let mut buffer = stream.alloc_zeros::<u8>(64).unwrap();
    write_at(&device, &stream, &mut buffer, 60).unwrap();
    let illegal = Some(Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(write_at(&device, &stream, &mut buffer, 64)), illegal);
    assert_eq!(code(stream.synchronize()), illegal);
    assert_eq!(code(stream.alloc_zeros::<u8>(1)), illegal);
    assert_eq!(code(device.context.load_module(Ptx::from_src(PTX))), illegal);
    // What is dropped now records the error in the context, as with a real driver.
    drop((buffer, stream));
    assert_eq!(code(device.context.check_err()), illegal);

    reset();
    assert_eq!(code(device.context.synchronize()), Some(Code::CUDA_ERROR_CONTEXT_IS_DESTROYED));
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let fresh = stream.clone_htod(&[1_u8, 2, 3]).unwrap();
    assert_eq!(stream.clone_dtoh(&fresh).unwrap(), [1, 2, 3]);
    assert_eq!(context.mem_get_info().unwrap().0, (2 << 30) - 3, "nothing of the old context is left");
}

#[test]
fn each_kind_of_fault_has_its_code() {
    for (offset, expected) in [(1 << 40, Code::CUDA_ERROR_ILLEGAL_ADDRESS), (2, Code::CUDA_ERROR_MISALIGNED_ADDRESS)] {
        let device = Device::new();
        let stream = device.stream();
        let mut buffer = stream.alloc_zeros::<u8>(64).unwrap();
        assert_eq!(code(write_at(&device, &stream, &mut buffer, offset)), Some(expected));
    }
    let device = Device::new();
    let stream = device.stream();
    let kernel = device.kernel("race");
    let mut out = stream.alloc_zeros::<u32>(64).unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(&mut out).launch(row(1, 64)) }.unwrap();
    assert_eq!(code(stream.synchronize()), Some(Code::CUDA_ERROR_LAUNCH_FAILED));
}

#[test]
fn a_fault_of_one_stream_ends_the_work_of_all() {
    let device = Device::new();
    let (bad, good) = (device.stream(), device.stream());
    let mut buffer = good.alloc_zeros::<u8>(64).unwrap();
    let event = good.record_event(None).unwrap();
    assert!(write_at(&device, &bad, &mut buffer, 64).is_err());
    assert_eq!(code(event.try_is_complete()), Some(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert_eq!(code(good.synchronize()), Some(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
}

#[test]
fn faults_are_told_and_appended_to_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("faults");
    let environment = [("GPU_EMULATOR_REPORT", report.to_str().unwrap())];
    let output = in_child("faults_are_told_and_appended_to_the_report", &environment, || {
        for offset in [64, 2] {
            let device = Device::new();
            let stream = device.stream();
            let mut buffer = stream.alloc_zeros::<u8>(64).unwrap();
            assert!(write_at(&device, &stream, &mut buffer, offset).is_err());
        }
    });
    let Some(output) = output else { return };
    let told = stderr(&output);
    assert!(told.contains("gpu-emulator: CUDA_ERROR_ILLEGAL_ADDRESS (700): kernel write_at"), "{told}");
    let report = std::fs::read_to_string(report).unwrap();
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(lines.len(), 2, "{report}");
    assert!(lines[0].starts_with("CUDA_ERROR_ILLEGAL_ADDRESS (700): kernel write_at"), "{report}");
    assert!(lines[0].contains("PTX line"), "{report}");
    assert!(lines[1].starts_with("CUDA_ERROR_MISALIGNED_ADDRESS (716): kernel write_at"), "{report}");
}

/// A step of the test below, on a device of its own: upload, launch, download.
fn round_trip(device: &Device) -> Result<Vec<f32>, DriverError> {
    let stream = device.context.new_stream()?;
    let mut values = stream.clone_htod(&[2.0_f32; 32])?;
    let kernel = device.context.load_module(Ptx::from_src(PTX))?.load_function("scale")?;
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(&mut values).arg(&3.0_f32).launch(row(1, 32)) }?;
    stream.synchronize()?;
    stream.clone_dtoh(&values)
}

#[test]
fn faults_come_on_demand() {
    // Each try makes an allocation, an upload, a launch, a wait and a download, as far as it comes.
    let plan = "alloc:2, htod:2, launch:3!, sync:3, dtoh:2, alloc:8*";
    let output = in_child("faults_come_on_demand", &[("GPU_EMULATOR_FAIL", plan)], || {
        let expected = [
            None,
            Some(Code::CUDA_ERROR_OUT_OF_MEMORY),
            Some(Code::CUDA_ERROR_ILLEGAL_ADDRESS), // the upload's, when the stream got there
            Some(Code::CUDA_ERROR_LAUNCH_FAILED),   // the launch's, from the call
            Some(Code::CUDA_ERROR_LAUNCH_FAILED),   // the wait's
            Some(Code::CUDA_ERROR_ILLEGAL_ADDRESS), // the download's
            None,
            Some(Code::CUDA_ERROR_OUT_OF_MEMORY),
            Some(Code::CUDA_ERROR_OUT_OF_MEMORY),
        ];
        for (attempt, expected) in expected.into_iter().enumerate() {
            let device = Device::new();
            let outcome = round_trip(&device);
            if let Ok(values) = &outcome {
                assert_eq!(*values, [6.0; 32]);
            }
            assert_eq!(code(outcome), expected, "try {attempt}");
            let sticks = expected.is_some_and(|error| error != Code::CUDA_ERROR_OUT_OF_MEMORY);
            assert_eq!(device.context.mem_get_info().is_err(), sticks, "try {attempt}");
        }
    });
    if let Some(output) = output {
        assert!(stderr(&output).contains("injected fault: launch 3 of this process"), "{}", stderr(&output));
    }
}

#[test]
fn a_graph_launch_fails_on_demand() {
    in_child("a_graph_launch_fails_on_demand", &[("GPU_EMULATOR_FAIL", "graph:2")], || {
        let device = Device::new();
        let stream = device.stream();
        let mut values = stream.alloc_zeros::<u8>(4).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        stream.memset_zeros(&mut values).unwrap();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        graph.launch().unwrap();
        assert_eq!(code(stream.synchronize()), Some(Code::CUDA_ERROR_LAUNCH_FAILED));
    });
}

#[test]
fn the_summary_names_kernels_and_copies() {
    let output = in_child("the_summary_names_kernels_and_copies", &[("GPU_EMULATOR_LOG", "1")], || {
        let device = Device::new();
        assert_eq!(round_trip(&device).unwrap(), [6.0; 32]);
    });
    let Some(output) = output else { return };
    let told = stderr(&output);
    let line =
        |wanted: &str| told.lines().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{told}")).to_owned();
    assert!(line("scale").contains("1 launches"), "{told}");
    assert!(line("host to device").contains("128 bytes"), "{told}");
    assert!(line("device to host").contains("128 bytes"), "{told}");
    assert!(line("calls  sync").trim().starts_with('1'), "{told}");
}
