//! Device memory: copies, fills, limits, and what is refused.

mod support;

use cudarc::driver::{CudaContext, result, sys};
use support::{Code, Device, Pinned, code, in_child, stderr};

#[test]
fn copies_and_fills_arrive() {
    let device = Device::new();
    let stream = device.stream();
    let data: Vec<u32> = (0..1000).collect();
    let first = stream.clone_htod(&data).unwrap();
    let mut second = stream.alloc_zeros::<u32>(1000).unwrap();
    assert_eq!(stream.clone_dtoh(&second).unwrap(), vec![0; 1000]);
    stream.memcpy_dtod(&first, &mut second).unwrap();
    assert_eq!(stream.clone_dtoh(&second).unwrap(), data);
    // SAFETY: the addresses lie in the allocation, which outlives the calls.
    unsafe {
        let words = result::malloc_sync(16).unwrap();
        sys::cuMemsetD32_v2(words, 0x0403_0201, 3).result().unwrap();
        sys::cuMemsetD16_v2(words + 12, 0x0605, 2).result().unwrap();
        result::memset_d8_sync(words, 9, 1).unwrap();
        let mut bytes = [0_u8; 16];
        result::memcpy_dtoh_sync(&mut bytes, words).unwrap();
        assert_eq!(bytes, [9, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 5, 6]);
        result::free_sync(words).unwrap();
    }
}

#[test]
fn calls_outside_allocations_are_refused_and_leave_the_context_whole() {
    let device = Device::new();
    let stream = device.stream();
    // SAFETY: that is what is tested: the driver checks the addresses.
    unsafe {
        let words = result::malloc_sync(64).unwrap();
        let refused = Some(Code::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::memcpy_htod_sync(words + 8, &[0_u8; 57])), refused);
        assert_eq!(code(result::memcpy_htod_async(words - 1, &[0_u8; 2], stream.cu_stream())), refused);
        assert_eq!(code(result::memcpy_dtoh_sync(&mut [0_u8; 65], words)), refused);
        assert_eq!(code(result::memset_d8_sync(words, 0, 65)), refused);
        assert_eq!(code(sys::cuMemsetD32_v2(words + 2, 0, 1).result()), refused, "not a multiple of the width");
        assert_eq!(code(result::free_sync(words + 8)), refused);
        assert_eq!(code(result::malloc_sync(0)), refused);
        result::free_async(words, stream.cu_stream()).unwrap();
        assert_eq!(
            code(result::memset_d8_sync(words, 0, 1)),
            refused,
            "freed in stream order, so no later call may use it"
        );
        assert_eq!(code(result::free_sync(words)), refused, "freed twice");
    }
    device.context.synchronize().unwrap();
}

#[test]
fn memory_runs_out_and_comes_back() {
    let (half, total) = (1 << 19, 1 << 20);
    in_child("memory_runs_out_and_comes_back", &[("GPU_EMULATOR_MEMORY_BYTES", "1048576")], || {
        let device = Device::new();
        let stream = device.stream();
        let free = || device.context.mem_get_info().unwrap().0;
        assert_eq!(free(), total);
        // SAFETY: the memory is freed once and not used.
        unsafe {
            let first = result::malloc_sync(half).unwrap();
            let second = result::malloc_async(stream.cu_stream(), half - 4096).unwrap();
            assert_eq!(free(), 4096);
            assert_eq!(code(result::malloc_sync(8192)), Some(Code::CUDA_ERROR_OUT_OF_MEMORY));
            result::free_async(second, stream.cu_stream()).unwrap();
            assert_eq!(free(), 4096, "the stream has not got there");
            let third =
                result::malloc_sync(half - 4096).expect("an allocation that needs the memory lets the stream go on");
            result::free_sync(first).unwrap();
            result::free_sync(third).unwrap();
        }
        assert_eq!(free(), total);
    });
}

#[test]
fn memory_size_and_driver_version_are_the_environments() {
    let environment = [("GPU_EMULATOR_MEMORY_BYTES", "1048576"), ("GPU_EMULATOR_DRIVER_VERSION", "12040")];
    in_child("memory_size_and_driver_version_are_the_environments", &environment, || {
        let device = Device::new();
        assert_eq!(device.context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
        let mut version = 0;
        // SAFETY: the pointer is to a number.
        unsafe { sys::cuDriverGetVersion(&mut version).result().unwrap() };
        assert_eq!(version, 12_040);
    });
}

#[test]
fn an_environment_that_cannot_be_read_fails_cuinit_and_says_why() {
    let test = "an_environment_that_cannot_be_read_fails_cuinit_and_says_why";
    let output = in_child(test, &[("GPU_EMULATOR_FAIL", "lunch:1")], || {
        let _ = std::panic::catch_unwind(Device::new);
        assert_eq!(code(CudaContext::new(0)), Some(Code::CUDA_ERROR_INVALID_VALUE));
    });
    if let Some(output) = output {
        assert!(
            stderr(&output).contains("GPU_EMULATOR_FAIL: \"lunch\" is not one of launch, product"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn the_device_says_what_it_is() {
    let device = Device::new();
    let context = &device.context;
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    assert_eq!(context.total_mem().unwrap(), 2 << 30);
    let attribute = |attribute| context.attribute(attribute).unwrap();
    use sys::CUdevice_attribute as Attribute;
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 4);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 49_152);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 166_912);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR), 167_936);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK), 65_536);
    assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH), 0);
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    assert_eq!(code(CudaContext::new(1)), Some(Code::CUDA_ERROR_INVALID_DEVICE));
    let error = code(device.context.load_module(cudarc::nvrtc::Ptx::from_binary(vec![1, 2, 3, 0]))).unwrap();
    assert_eq!(
        format!("{:?}", cudarc::driver::DriverError(error)),
        "DriverError(CUDA_ERROR_INVALID_IMAGE, \"device kernel image is invalid\")"
    );
}

#[test]
fn what_is_not_supported_says_so() {
    let test = "what_is_not_supported_says_so";
    let output = in_child(test, &[], || {
        let _device = Device::new();
        // SAFETY: the pointer is to an address; the calls are refused.
        unsafe {
            let mut address = 0;
            for _ in 0..2 {
                let outcome = sys::cuMemAllocManaged(&mut address, 16, 1).result();
                assert_eq!(code(outcome), Some(Code::CUDA_ERROR_NOT_SUPPORTED));
            }
        }
    });
    if let Some(output) = output {
        assert_eq!(stderr(&output).matches("cuMemAllocManaged is not supported").count(), 1);
    }
}

#[test]
fn pinned_memory_is_checked_and_outlives_no_context() {
    let device = Device::new();
    let mut pinned = Pinned::new(4);
    pinned.set(7);
    let mut registered = vec![0_u32; 8];
    let at = registered.as_mut_ptr();
    // SAFETY: the vector outlives its registration; the driver checks the rest.
    unsafe {
        sys::cuMemHostRegister_v2(at.cast(), 32, 0).result().unwrap();
        let again = sys::cuMemHostRegister_v2(at.add(2).cast(), 4, 0).result();
        assert_eq!(code(again), Some(Code::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED));
        sys::cuMemHostUnregister(at.cast()).result().unwrap();
        let again = sys::cuMemHostUnregister(at.cast()).result();
        assert_eq!(code(again), Some(Code::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED));
        assert_eq!(code(result::free_host(at.cast())), Some(Code::CUDA_ERROR_INVALID_VALUE));
    }
    drop(device);
    let _device = Device::new();
    // SAFETY: refused: the memory's context is gone.
    assert_eq!(code(unsafe { result::free_host(pinned.0.cast()) }), Some(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(pinned.words(), [7; 4], "a stale reference must not crash the test that finds it");
}
