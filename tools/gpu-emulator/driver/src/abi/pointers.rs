//! Pointers as C passes them.
//!
//! Each type is a pointer that only an exported function's caller can make, so the contract of `cuda.h` holds for it: it is null, or
//! valid for what its type says for the length of the call. Null is checked here, once.

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;

use crate::host::HostBuffer;
use crate::status::{CudaError, Outcome};

/// Where a result goes.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A place whose type another argument names.
    pub fn from_untyped(place: *mut c_void) -> Out<T> {
        Out(place.cast())
    }

    /// Whether the caller wants none.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Writes the result; null is an error.
    pub fn put(&self, value: T) -> Outcome<()> {
        if self.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: not null, so the caller gave a place for a `T`.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Writes the result if it is wanted.
    pub fn put_if_wanted(&self, value: T) {
        if !self.is_null() {
            // SAFETY: not null, so the caller gave a place for a `T`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes as many values as the caller said there is room for.
    pub fn put_all(&self, values: impl Iterator<Item = T>, room: usize) -> Outcome<()> {
        if self.is_null() && room > 0 {
            return Err(CudaError::InvalidValue);
        }
        for (index, value) in values.take(room).enumerate() {
            // SAFETY: the caller gave room for `room` values and `index` is below it.
            unsafe { self.0.add(index).write_unaligned(value) };
        }
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    /// What is there now, where a place is both read and written.
    pub fn get(&self) -> Outcome<T> {
        if self.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: not null, so the caller gave a `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }
}

/// An array or a single value to read.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Whether there is none.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Element of an array.
    pub fn get(&self, index: usize) -> Outcome<T> {
        if self.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: not null, so the caller gave an array, and `index` is within what `cuda.h` says it holds.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

/// A C string.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// The string; names in CUDA are ASCII.
    pub fn get(&self) -> Outcome<&str> {
        if self.0.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: not null, so the caller gave a string that ends in NUL.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| CudaError::InvalidValue)
    }
}

/// Memory of the host whose size another argument gives.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct HostPointer(*mut c_void);

impl HostPointer {
    /// Its address as a number.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// Bytes to read during this call.
    pub fn bytes(&self, bytes: usize) -> Outcome<&[u8]> {
        match (bytes, self.0.is_null()) {
            (0, _) => Ok(&[]),
            (_, true) => Err(CudaError::InvalidValue),
            // SAFETY: not null, so the caller gave `bytes` readable bytes; nothing here keeps the slice.
            _ => Ok(unsafe { std::slice::from_raw_parts(self.0.cast::<u8>(), bytes) }),
        }
    }

    /// Bytes to write during this call.
    pub fn buffer(&mut self, bytes: usize) -> Outcome<HostBuffer<'_>> {
        match (bytes, self.0.is_null()) {
            (0, _) => Ok(HostBuffer(&mut [])),
            (_, true) => Err(CudaError::InvalidValue),
            // SAFETY: not null, so the caller gave `bytes` writable bytes; they may be uninitialised, which the type allows.
            _ => Ok(HostBuffer(unsafe { std::slice::from_raw_parts_mut(self.0.cast::<MaybeUninit<u8>>(), bytes) })),
        }
    }

    /// The start of an image, up to four bytes, shorter where it ends in NUL.
    pub fn magic(&self) -> Outcome<Vec<u8>> {
        let bytes = In(self.0.cast_const().cast::<u8>());
        let mut start = Vec::with_capacity(4);
        while start.len() < 4 {
            match bytes.get(start.len())? {
                0 => break,
                byte => start.push(byte),
            }
        }
        Ok(start)
    }

    /// The same memory as a string.
    pub fn text(self) -> Text {
        Text(self.0.cast_const().cast())
    }

    /// The size kept there.
    pub fn size(self) -> Outcome<usize> {
        In(self.0.cast_const().cast::<usize>()).get(0)
    }

    /// The raw pointer, to hand back to the caller's own code.
    pub fn raw(self) -> *mut c_void {
        self.0
    }
}
