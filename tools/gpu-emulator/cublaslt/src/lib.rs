//! A stand-in for `libcublasLt.so.13`, on the stand-in driver: matrix products on a machine without a GPU.
//!
//! It has the calls that a program needs to multiply by a transposed matrix in f32 or bf16 (`D = alpha A^T B + beta C`, column-major),
//! and is strict where the real library crashes, reads beside a matrix or quietly does something else: types, shapes, leading
//! dimensions, alignment, workspaces and stale objects are checked at every call. A product is work of the stand-in driver's streams, so
//! that it waits, is captured and is replayed as a kernel is, and reads and writes device memory under the same checks.
//!
//! What a program asks for decides what it gets: with split sums allowed (`CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK`, as by
//! default) the first algorithm offered adds the rows from the 65th on in another order. `GPU_EMULATOR_CUBLASLT_UNEVEN=n` makes the
//! first n of the others do so too, which a real library may.

mod abi;
mod driver;
mod matmul;
mod objects;
mod status;
