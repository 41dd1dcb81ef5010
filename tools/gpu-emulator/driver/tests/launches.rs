//! Modules and launches: results, and everything a driver refuses.

mod support;

use cudarc::driver::{PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;
use support::{Code, Device, PTX, code, row};
use sys::CUfunction_attribute_enum as Attribute;

#[test]
fn vector_add_adds() {
    let device = Device::new();
    let stream = device.context.default_stream();
    let kernel = device.kernel("vector_add");
    let a: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..1000).map(|i| 0.5 * i as f32).collect();
    let (on_a, on_b) = (stream.clone_htod(&a).unwrap(), stream.clone_htod(&b).unwrap());
    let mut sum = stream.alloc_zeros::<f32>(1000).unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(&on_a).arg(&on_b).arg(&mut sum).arg(&1000_u32).launch(row(4, 256)) }
        .unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(stream.clone_dtoh(&sum).unwrap(), expected);
}

#[test]
fn histogram_counts() {
    let device = Device::new();
    let stream = device.stream();
    let kernel = device.kernel("histogram");
    let values: Vec<u8> = (0..5000_u32).map(|i| (i * i % 251) as u8).collect();
    let on_device = stream.clone_htod(&values).unwrap();
    let mut bins = stream.alloc_zeros::<u32>(256).unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe { stream.launch_builder(&kernel).arg(&on_device).arg(&mut bins).arg(&5000_u32).launch(row(20, 256)) }
        .unwrap();
    let mut expected = vec![0; 256];
    values.iter().for_each(|value| expected[*value as usize] += 1);
    assert_eq!(stream.clone_dtoh(&bins).unwrap(), expected);
}

#[test]
fn dynamic_shared_memory_is_bounded_by_what_the_kernel_asked_for() {
    let device = Device::new();
    let stream = device.stream();
    let kernel = device.kernel("reverse");
    let mut values = stream.clone_htod(&(0..256).collect::<Vec<u32>>()).unwrap();
    let mut launch = |shared_mem_bytes| {
        let config = cudarc::driver::LaunchConfig { shared_mem_bytes, ..row(1, 256) };
        // SAFETY: the arguments are the kernel's, and it needs 4 bytes a thread.
        code(unsafe { stream.launch_builder(&kernel).arg(&mut values).launch(config) })
    };
    assert_eq!(launch(48 << 10), None);
    assert_eq!(launch((48 << 10) + 4), Some(Code::CUDA_ERROR_INVALID_VALUE));
    let limit = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(code(kernel.set_attribute(limit, 166_913)), Some(Code::CUDA_ERROR_INVALID_VALUE));
    kernel.set_attribute(limit, 64 << 10).unwrap();
    assert_eq!(launch(64 << 10), None);
    assert_eq!(launch((64 << 10) + 4), Some(Code::CUDA_ERROR_INVALID_VALUE));
    let expected: Vec<u32> = (0..256).collect();
    assert_eq!(stream.clone_dtoh(&values).unwrap(), expected, "reversed twice");
}

#[test]
fn shapes_are_bounded_by_device_and_kernel() {
    let device = Device::new();
    let stream = device.stream();
    let kernel = device.kernel("scale");
    let mut values = stream.clone_htod(&[1.0_f32; 64]).unwrap();
    let mut launch = |grid_dim, block_dim| {
        let config = cudarc::driver::LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 };
        // SAFETY: the arguments are the kernel's.
        code(unsafe { stream.launch_builder(&kernel).arg(&mut values).arg(&3.0_f32).launch(config) })
    };
    let refused = Some(Code::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((0, 1, 1), (64, 1, 1)), refused);
    assert_eq!(launch((1, 65_536, 1), (64, 1, 1)), refused);
    assert_eq!(launch((1, 1, 1), (0, 1, 1)), refused);
    assert_eq!(launch((1, 1, 1), (65, 1, 1)), refused, "the kernel promised at most 64");
    assert_eq!(launch((1, 1, 1), (1, 1, 65)), refused);
    assert_eq!(launch((1, 1, 1), (64, 1, 1)), None);
    assert_eq!(stream.clone_dtoh(&values).unwrap(), [3.0; 64]);
    assert_eq!(kernel.get_attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).unwrap(), 64);
    assert_eq!(device.kernel("race").get_attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES).unwrap(), 256);
}

#[test]
fn parameters_follow_the_kernels_list() {
    let device = Device::new();
    let stream = device.stream();
    // SAFETY: handles and pointers are of this test; the driver checks sizes.
    unsafe {
        let text = std::ffi::CString::new(PTX).unwrap();
        let module = result::module::load_data(text.as_ptr().cast()).unwrap();
        let kernel = result::module::get_function(module, c"scale".into()).unwrap();
        let (mut offset, mut bytes) = (0, 0);
        sys::cuFuncGetParamInfo(kernel, 1, &mut offset, &mut bytes).result().unwrap();
        assert_eq!((offset, bytes), (8, 4));
        let beyond = sys::cuFuncGetParamInfo(kernel, 2, &mut offset, &mut bytes).result();
        assert_eq!(code(beyond), Some(Code::CUDA_ERROR_INVALID_VALUE));

        let values = stream.clone_htod(&[2.0_f32; 32]).unwrap();
        use cudarc::driver::DevicePtr;
        let mut packed = Vec::from(values.device_ptr(&stream).0.to_le_bytes());
        packed.extend(5.0_f32.to_le_bytes());
        let mut launch = |mut size: usize| {
            // Pairs of a word and a value: 1 the buffer, 2 its size, 0 the end.
            let word = std::ptr::without_provenance_mut;
            let mut extra = [word(1), packed.as_mut_ptr().cast(), word(2), (&raw mut size).cast(), word(0)];
            let none = std::ptr::null_mut();
            code(
                sys::cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream.cu_stream(), none, extra.as_mut_ptr())
                    .result(),
            )
        };
        assert_eq!(launch(8), Some(Code::CUDA_ERROR_INVALID_VALUE), "too few bytes");
        assert_eq!(launch(12), None);
        let mut missing = [std::ptr::null_mut(), std::ptr::null_mut()];
        let outcome = result::launch_kernel(kernel, (1, 1, 1), (32, 1, 1), 0, stream.cu_stream(), &mut missing);
        assert_eq!(code(outcome), Some(Code::CUDA_ERROR_INVALID_VALUE), "a null parameter");
        assert_eq!(stream.clone_dtoh(&values).unwrap(), [10.0; 32]);
        result::module::unload(module).unwrap();
        let stale = result::launch_kernel(kernel, (1, 1, 1), (32, 1, 1), 0, stream.cu_stream(), &mut missing);
        assert_eq!(code(stale), Some(Code::CUDA_ERROR_INVALID_HANDLE), "a function of an unloaded module");
    }
}

#[test]
fn code_for_hardware_is_refused_and_ptx_taken() {
    let device = Device::new();
    let load = |image: Ptx| code(device.context.load_module(image));
    let no_binary = Some(Code::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(load(Ptx::from_binary(b"\x7fELF\x02\x01\x01\x41".to_vec())), no_binary);
    assert_eq!(load(Ptx::from_binary(vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0])), no_binary);
    assert_eq!(load(Ptx::from_binary(vec![1, 2, 3, 4, 0])), Some(Code::CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(load(Ptx::from_src("not PTX")), Some(Code::CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(load(Ptx::from_src(PTX.replace("sm_80", "sm_90a"))), no_binary);
    let newer = Ptx::from_src(PTX.replace(".version 8.8", ".version 9.0"));
    assert_eq!(load(newer), Some(Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
    assert_eq!(load(Ptx::from_src(PTX.replace(".reg .pred", ".reg %"))), Some(Code::CUDA_ERROR_INVALID_PTX));
    assert_eq!(load(Ptx::from_src(PTX)), None);
    let module = device.context.load_module(Ptx::from_src(PTX)).unwrap();
    assert_eq!(code(module.load_function("absent")), Some(Code::CUDA_ERROR_NOT_FOUND));
}
