//! Products through the library's calls, as cudarc makes them: waited for, captured and replayed, refused.

use std::sync::OnceLock;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtMatmulDescAttributes_t as Attribute, cublasStatus_t as Status};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Loads both libraries, so that their sonames are there when cudarc asks for them.
fn load() {
    static LOADED: OnceLock<[Library; 2]> = OnceLock::new();
    LOADED.get_or_init(|| {
        ["libemulated_cuda.so", "libemulated_cublaslt.so"].map(|name| {
            let path = std::env::current_exe().unwrap().with_file_name(name);
            // SAFETY: the libraries are this workspace's; loading them runs no code with requirements.
            unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
        })
    });
}

/// out [2, 3] = x [2, 4] W[3, 4]^T in f32, with all that cuBLASLt wants for it.
struct Product {
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Product {
    fn new() -> Product {
        let f32s = sys::cudaDataType::CUDA_R_32F;
        let handle = result::create_handle().unwrap();
        let operation = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32s).unwrap();
        let transposed = 1u32;
        let layouts = [(4, 3, 4), (4, 2, 4), (3, 2, 4)]
            .map(|(rows, columns, leading)| result::create_matrix_layout(f32s, rows, columns, leading).unwrap());
        let preference = result::create_matmul_pref().unwrap();
        let [weight, x, out] = layouts;
        // SAFETY: the objects were just made; the attribute is a 32-bit number.
        let found = unsafe {
            let attribute = Attribute::CUBLASLT_MATMUL_DESC_TRANSA;
            result::set_matmul_desc_attribute(operation, attribute, (&raw const transposed).cast(), 4).unwrap();
            result::get_matmul_algo_heuristic(handle, operation, weight, x, out, out, preference).unwrap()
        };
        assert_eq!(found.workspaceSize, 0, "no workspace was allowed");
        Product { handle, operation, layouts, algorithm: found.algo }
    }

    /// Enqueues `out += x W^T`.
    fn run(
        &self,
        stream: &CudaStream,
        (weight, x): (&CudaSlice<f32>, &CudaSlice<f32>),
        out: &mut CudaSlice<f32>,
    ) -> Result<(), CublasError> {
        let [weight_layout, x_layout, out_layout] = self.layouts;
        let one = 1.0f32;
        let ((weight, _a), (x, _b), (out, _c)) =
            (weight.device_ptr(stream), x.device_ptr(stream), out.device_ptr_mut(stream));
        // SAFETY: the layouts are those of the slices.
        unsafe {
            result::matmul(
                self.handle,
                self.operation,
                (&raw const one).cast(),
                (&raw const one).cast(),
                weight as *const _,
                weight_layout,
                x as *const _,
                x_layout,
                out as *const _,
                out_layout,
                out as *mut _,
                out_layout,
                &self.algorithm,
                std::ptr::null_mut(),
                0,
                stream.cu_stream().cast(),
            )
        }
    }
}

const WEIGHT: [f32; 12] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
const X: [f32; 8] = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, -1.0];
/// x W^T, with the column between rows that is nobody's.
const PRODUCT: [f32; 8] = [10.0, 26.0, 42.0, 0.0, -3.0, -3.0, -3.0, 0.0];

#[test]
fn products_run_in_stream_order_and_from_graphs() {
    load();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: this test orders its stream itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let operands = (&stream.clone_htod(&WEIGHT).unwrap(), &stream.clone_htod(&X).unwrap());
    let mut out = stream.alloc_zeros::<f32>(8).unwrap();
    let product = Product::new();
    product.run(&stream, operands, &mut out).unwrap();
    product.run(&stream, operands, &mut out).unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), PRODUCT.map(|value| 2.0 * value));

    stream.begin_capture(cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    product.run(&stream, operands, &mut out).unwrap();
    let graph = stream.end_capture(cudarc::driver::sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), PRODUCT.map(|value| 2.0 * value), "a captured product does not run");
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), PRODUCT.map(|value| 4.0 * value));

    // SAFETY: the layout is not used again but to see it refused.
    unsafe { result::destroy_matrix_layout(product.layouts[1]) }.unwrap();
    let stale = product.run(&stream, operands, &mut out);
    assert_eq!(stale, Err(CublasError(Status::CUBLAS_STATUS_INVALID_VALUE)));
    // SAFETY: a handle that is a layout's number.
    let wrong = unsafe { result::destroy_handle(product.layouts[0].cast()) };
    assert_eq!(wrong, Err(CublasError(Status::CUBLAS_STATUS_INVALID_VALUE)));
}
