//! The exported functions, under the names and with the arguments of `cublasLt.h`: the only part that sees raw pointers. Each is
//! null, or valid for what its type says for the length of the call; null is checked here.
#![allow(non_snake_case)]

use std::ffi::{c_int, c_void};

use crate::driver;
use crate::matmul::{Algorithm, Call, Problem, Words};
use crate::objects::{self, Layout, Object, Operation, Preference};
use crate::status::{Outcome, Refusal, code};

type Code = c_int;

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Heuristic {
    algorithm: Words,
    workspace_bytes: usize,
    state: Code,
    waves: f32,
    reserved: [c_int; 4],
}

impl Heuristic {
    fn of(algorithm: &Algorithm) -> Heuristic {
        let workspace_bytes = algorithm.workspace_bytes as usize;
        Heuristic { algorithm: algorithm.words(), workspace_bytes, state: 0, waves: 1.0, reserved: [0; 4] }
    }
}

/// Writes a result.
fn put<T>(place: *mut T, value: T) -> Outcome<()> {
    if place.is_null() {
        return Err(Refusal::InvalidValue);
    }
    // SAFETY: not null, so the caller gave a place for a `T`.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Reads a value.
fn take<T: Copy>(place: *const T) -> Outcome<T> {
    if place.is_null() {
        return Err(Refusal::InvalidValue);
    }
    // SAFETY: not null, so the caller gave a `T`.
    Ok(unsafe { place.read_unaligned() })
}

/// An attribute's bytes.
fn bytes<'a>(place: *const c_void, size: usize) -> Outcome<&'a [u8]> {
    if place.is_null() {
        return Err(Refusal::InvalidValue);
    }
    // SAFETY: not null, so the caller gave `size` bytes; nothing keeps them beyond the call.
    Ok(unsafe { std::slice::from_raw_parts(place.cast(), size) })
}

fn problem(operation: usize, layouts: [usize; 4]) -> Outcome<Problem> {
    let Object::Operation(operation) = objects::get(operation)? else { return Err(Refusal::InvalidValue) };
    let [a, b, c, d] = layouts.map(objects::layout);
    Problem::new(&operation, [a?, b?, c?, d?])
}

fn check_handle(handle: usize) -> Outcome<()> {
    match objects::get(handle)? {
        Object::Handle => Ok(()),
        _ => Err(Refusal::InvalidValue),
    }
}

/// How many leading algorithms treat rows differently.
fn uneven() -> Outcome<u64> {
    match std::env::var("GPU_EMULATOR_CUBLASLT_UNEVEN") {
        Err(_) => Ok(0),
        // A misspelt setting is an error, never a silent default.
        Ok(number) => number.parse().map_err(|_| Refusal::InternalError),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtCreate(handle: *mut usize) -> Code {
    code(driver::count_call().and_then(|()| put(handle, objects::add(Object::Handle))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtDestroy(handle: usize) -> Code {
    code(objects::remove(handle, |object| matches!(object, Object::Handle)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut usize,
    dtype: c_int,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Code {
    code(put(layout, objects::add(Object::Layout(Layout { dtype, rows, columns, leading }))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutDestroy(layout: usize) -> Code {
    code(objects::remove(layout, |object| matches!(object, Object::Layout(_))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescCreate(operation: *mut usize, compute: c_int, scale: c_int) -> Code {
    let made = Operation::new(compute, scale).map(|made| objects::add(Object::Operation(made)));
    code(made.and_then(|number| put(operation, number)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: usize,
    attribute: c_int,
    value: *const c_void,
    size: usize,
) -> Code {
    code(bytes(value, size).and_then(|value| {
        objects::change(operation, |object| match object {
            Object::Operation(operation) => operation.set(attribute, value),
            _ => Err(Refusal::InvalidValue),
        })
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescDestroy(operation: usize) -> Code {
    code(objects::remove(operation, |object| matches!(object, Object::Operation(_))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut usize) -> Code {
    code(put(preference, objects::add(Object::Preference(Preference::default()))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: usize,
    attribute: c_int,
    value: *const c_void,
    size: usize,
) -> Code {
    code(bytes(value, size).and_then(|value| {
        objects::change(preference, |object| match object {
            Object::Preference(preference) => preference.set(attribute, value),
            _ => Err(Refusal::InvalidValue),
        })
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceDestroy(preference: usize) -> Code {
    code(objects::remove(preference, |object| matches!(object, Object::Preference(_))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: usize,
    operation: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    preference: usize,
    wanted: c_int,
    found: *mut Heuristic,
    count: *mut c_int,
) -> Code {
    let find = || {
        driver::count_call()?;
        check_handle(handle)?;
        let problem = problem(operation, [a, b, c, d])?;
        let Object::Preference(preference) = objects::get(preference)? else { return Err(Refusal::InvalidValue) };
        let room = usize::try_from(wanted).ok().filter(|&room| room > 0).ok_or(Refusal::InvalidValue)?;
        let mut written = 0;
        for algorithm in problem.algorithms(&preference, uneven()?).iter().take(room) {
            // Within the room that the caller said there is.
            put(found.wrapping_add(written), Heuristic::of(algorithm))?;
            written += 1;
        }
        put(count, written as c_int)
    };
    code(find())
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulAlgoCheck(
    handle: usize,
    operation: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    algorithm: *const Words,
    answer: *mut Heuristic,
) -> Code {
    let check = || {
        driver::count_call()?;
        check_handle(handle)?;
        let algorithm = Algorithm::of(&take(algorithm)?)?;
        problem(operation, [a, b, c, d])?.check(&algorithm)?;
        put(answer, Heuristic::of(&algorithm))
    };
    code(check())
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmul(
    handle: usize,
    operation: usize,
    alpha: *const f32,
    a: u64,
    a_layout: usize,
    b: u64,
    b_layout: usize,
    beta: *const f32,
    c: u64,
    c_layout: usize,
    d: u64,
    d_layout: usize,
    algorithm: *const Words,
    workspace: u64,
    workspace_bytes: usize,
    stream: usize,
) -> Code {
    let multiply = || {
        check_handle(handle)?;
        // The real library chooses one where none is given: which one, and whether always the same, nobody would know.
        let algorithm = Algorithm::of(&take(algorithm)?)?;
        let call = Call {
            addresses: [a, b, c, d],
            alpha: take(alpha)?,
            beta: take(beta)?,
            workspace,
            workspace_bytes: workspace_bytes as u64,
        };
        let problem = problem(operation, [a_layout, b_layout, c_layout, d_layout])?;
        driver::multiply(&problem.product(&algorithm, &call)?, stream)
    };
    code(multiply())
}
