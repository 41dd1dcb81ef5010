//! cuBLASLt's calls, for the one product that the engine asks it for: `out = x W^T (+ out)`, sums in f32.
//!
//! cuBLASLt is column-major: a row-major matrix is its own transpose there. So the operation is `out^T = W x^T`, with the weight
//! transposed, and every layout below has the row-major matrix's columns as rows.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as ComputeType, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasStatus_t as Status,
};

use crate::device::Dtype;

/// What each queue gives cuBLASLt to work in. Algorithms that split a sum over blocks are what needs much, and they are excluded.
pub(in crate::device::cuda) const WORKSPACE_BYTES: usize = 4 << 20;
/// What every address and every row of an operand is a multiple of.
pub(in crate::device::cuda) const ALIGNMENT: usize = 16;
/// The oldest library whose calls are those of the bindings.
const OLDEST: usize = 120_000;
/// `CUBLAS_OP_T`, which the bindings leave out.
const TRANSPOSED: u32 = 1;
/// Algorithms that are asked for, best first.
const CANDIDATES: usize = 8;

/// A way to compute a product. It belongs to the types and the alignment that it was asked for with, and to no row count.
pub(in crate::device::cuda) type Algorithm = sys::cublasLtMatmulAlgo_t;

/// A product of dense row-major matrices; `x` and the weight have the compute type, `out` is f32.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct Product {
    pub(in crate::device::cuda) weight: u64, // [n, k]
    pub(in crate::device::cuda) x: u64,      // [rows, x_stride]
    pub(in crate::device::cuda) out: u64,    // [rows, out_stride]
    pub(in crate::device::cuda) rows: usize,
    pub(in crate::device::cuda) n: usize,
    pub(in crate::device::cuda) k: usize,
    pub(in crate::device::cuda) x_stride: usize,
    pub(in crate::device::cuda) out_stride: usize,
    pub(in crate::device::cuda) combine: Combine,
}

/// What becomes of `out`'s former values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device::cuda) enum Combine {
    Replace,
    /// One addition, in f32, of the finished sum.
    Add,
}

/// Where a product is enqueued.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct Place {
    pub(in crate::device::cuda) stream: sys::cudaStream_t,
    pub(in crate::device::cuda) workspace: u64, // [WORKSPACE_BYTES], of this stream alone
}

/// A row-major matrix as a layout names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Matrix {
    dtype: Dtype,
    rows: usize,
    columns: usize,
    stride: usize,
}

/// The library, started in the current context.
pub(in crate::device::cuda) struct Library {
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    preference: sys::cublasLtMatmulPreference_t,
    layouts: BTreeMap<Matrix, sys::cublasLtMatrixLayout_t>,
    compute: Dtype,
}

// SAFETY: the objects belong to this value alone, and cuBLASLt's may be used from any thread, one at a time.
unsafe impl Send for Library {}

/// Whether the library can be loaded.
pub(super) fn is_present() -> bool {
    // SAFETY: only looks for the library.
    unsafe { sys::is_culib_present() }
}

/// Name of a status, with the call that answered it.
pub(super) fn named(call: &'static str) -> impl Fn(CublasError) -> String {
    move |error| format!("{call}: {error}")
}

impl Library {
    /// Starts the library in the current context.
    ///
    /// # Errors
    /// What is missing, in one line.
    pub(super) fn start(compute: Dtype) -> Result<Library, String> {
        if !is_present() {
            return Err("no cuBLASLt (libcublasLt.so.13 or .12) on this machine".to_owned());
        }
        // SAFETY: the library is there; the call takes nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version < OLDEST {
            return Err(format!("libcublasLt is of version {version}; {OLDEST} is needed"));
        }
        let handle = result::create_handle().map_err(named("cublasLtCreate"))?;
        let layouts = BTreeMap::new();
        let mut library = Library { handle, operation: ptr::null_mut(), preference: ptr::null_mut(), layouts, compute };
        library.describe()?;
        tracing::info!(version, "cuBLASLt started");
        Ok(library)
    }

    /// Describes the operation, and which algorithms it may be done with.
    fn describe(&mut self) -> Result<(), String> {
        let compute_type = match self.compute {
            Dtype::Bf16 => ComputeType::CUBLAS_COMPUTE_32F,
            // No TF32 and no emulation of f32 by bf16, whatever the environment asks cuBLAS for.
            Dtype::F32 => ComputeType::CUBLAS_COMPUTE_32F_PEDANTIC,
        };
        let scale = sys::cudaDataType::CUDA_R_32F;
        self.operation = result::create_matmul_desc(compute_type, scale).map_err(named("cublasLtMatmulDescCreate"))?;
        let transposed = TRANSPOSED;
        // SAFETY: the descriptor is there; the attribute is a 32-bit number.
        let set = unsafe {
            let attribute = DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA;
            result::set_matmul_desc_attribute(self.operation, attribute, (&raw const transposed).cast(), 4)
        };
        set.map_err(named("cublasLtMatmulDescSetAttribute"))?;
        self.preference = result::create_matmul_pref().map_err(named("cublasLtMatmulPreferenceCreate"))?;
        let prefer = |attribute, value: &[u8]| {
            // SAFETY: the preference is there; the value has the attribute's size.
            unsafe { result::set_matmul_pref_attribute(self.preference, attribute, value.as_ptr().cast(), value.len()) }
                .map_err(named("cublasLtMatmulPreferenceSetAttribute"))
        };
        prefer(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE_BYTES as u64).to_ne_bytes())?;
        // Not a sum that several blocks share: its order would be another one for another number of rows.
        let whole = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        prefer(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &whole.to_ne_bytes())?;
        for attribute in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            prefer(attribute, &(ALIGNMENT as u32).to_ne_bytes())?;
        }
        Ok(())
    }

    /// The layout of a matrix: made at its first use, and kept.
    fn layout(&mut self, matrix: Matrix) -> Result<sys::cublasLtMatrixLayout_t, CublasError> {
        if let Some(&layout) = self.layouts.get(&matrix) {
            return Ok(layout);
        }
        let dtype = match matrix.dtype {
            Dtype::F32 => sys::cudaDataType::CUDA_R_32F,
            Dtype::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let (rows, columns) = (matrix.columns as u64, matrix.rows as u64);
        let layout = result::create_matrix_layout(dtype, rows, columns, matrix.stride as i64)?;
        self.layouts.insert(matrix, layout);
        Ok(layout)
    }

    /// Layouts of weight, x and out.
    fn operands(&mut self, product: &Product) -> Result<[sys::cublasLtMatrixLayout_t; 3], CublasError> {
        let Product { rows, n, k, x_stride, out_stride, .. } = *product;
        let dtype = self.compute;
        let weight = self.layout(Matrix { dtype, rows: n, columns: k, stride: k })?;
        let x = self.layout(Matrix { dtype, rows, columns: k, stride: x_stride })?;
        let out = self.layout(Matrix { dtype: Dtype::F32, rows, columns: n, stride: out_stride })?;
        Ok([weight, x, out])
    }

    /// The algorithms that the library proposes for a product, best first; none where it cannot do it.
    pub(super) fn algorithms(&mut self, product: &Product) -> Result<Vec<Algorithm>, CublasError> {
        let [weight, x, out] = self.operands(product)?;
        let none = sys::cublasLtMatmulHeuristicResult_t {
            algo: Algorithm { data: [0; 8] },
            workspaceSize: 0,
            state: Status::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let (mut found, mut count) = ([none; CANDIDATES], 0);
        // SAFETY: the objects are this library's; `found` has room for as many as are asked for.
        let answer = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.operation,
                weight,
                x,
                out,
                out,
                self.preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        match answer.result() {
            Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED)) => return Ok(Vec::new()),
            other => other?,
        }
        let found = found.into_iter().take(count.max(0) as usize);
        Ok(found.filter(|one| one.state == Status::CUBLAS_STATUS_SUCCESS).map(|one| one.algo).collect())
    }

    /// Whether an algorithm can do a product, in the workspace that it will have.
    pub(super) fn can_do(&mut self, product: &Product, algorithm: &Algorithm) -> Result<bool, CublasError> {
        let [weight, x, out] = self.operands(product)?;
        let mut answer = std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        // SAFETY: the objects are this library's; the answer is plain data with a place of its own.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                self.operation,
                weight,
                x,
                out,
                out,
                algorithm,
                answer.as_mut_ptr(),
            )
        };
        match status.result() {
            Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED | Status::CUBLAS_STATUS_INVALID_VALUE)) => {
                return Ok(false);
            }
            other => other?,
        }
        // SAFETY: zeroes, which is a value of every field, or what the library wrote.
        let answer = unsafe { answer.assume_init() };
        Ok(answer.state == Status::CUBLAS_STATUS_SUCCESS && answer.workspaceSize <= WORKSPACE_BYTES)
    }

    /// Enqueues a product. The context must be current.
    pub(in crate::device::cuda) fn enqueue(
        &mut self,
        place: Place,
        product: &Product,
        algorithm: &Algorithm,
    ) -> Result<(), CublasError> {
        let [weight, x, out] = self.operands(product)?;
        let alpha = 1.0f32;
        let beta = match product.combine {
            Combine::Replace => 0.0f32,
            Combine::Add => 1.0,
        };
        // SAFETY: the addresses are of planned memory that outlives the queues, and hold what the layouts say; the factors are read
        // during the call.
        unsafe {
            result::matmul(
                self.handle,
                self.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.weight as *const c_void,
                weight,
                product.x as *const c_void,
                x,
                product.out as *const c_void,
                out,
                product.out as *mut c_void,
                out,
                algorithm,
                place.workspace as *mut c_void,
                WORKSPACE_BYTES,
                place.stream,
            )
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // What a broken context cannot give back went with it.
        // SAFETY: each object was made by this value, and is destroyed once; a null one was never made.
        unsafe {
            for &layout in self.layouts.values() {
                let _ = result::destroy_matrix_layout(layout);
            }
            if !self.preference.is_null() {
                let _ = result::destroy_matmul_pref(self.preference);
            }
            if !self.operation.is_null() {
                let _ = result::destroy_matmul_desc(self.operation);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}
