//! Device memory from the host's side: sizes, bounds, marks.

mod support;

use gpu_emulator::machine::{LaunchConfig, launch};
use gpu_emulator::memory::{GlobalMemory, MemoryError};
use gpu_emulator::{Fault, ptx::Module};
use support::snippet::HEADER;

#[test]
fn capacity_is_a_limit() {
    let mut memory = GlobalMemory::new(1000);
    let first = memory.alloc(600).unwrap();
    assert_eq!(memory.alloc(401), Err(MemoryError::OutOfMemory { bytes: 401, used: 600, capacity: 1000 }));
    assert_eq!(memory.alloc(0), Err(MemoryError::Empty));
    assert_eq!((memory.used(), memory.capacity(), first % 512), (600, 1000, 0));
    memory.free(first).unwrap();
    assert_eq!(memory.used(), 0);
    assert!(matches!(memory.free(first), Err(MemoryError::NotAllocated { .. })));
    assert!(memory.alloc(1000).unwrap() > first, "an address is not used twice");
}

#[test]
fn accesses_stay_inside_one_allocation() {
    let mut memory = GlobalMemory::new(1 << 20);
    let (a, b) = (memory.alloc(100).unwrap(), memory.alloc(100).unwrap());
    assert!(memory.contains(a, 100) && !memory.contains(a, 101) && !memory.contains(a - 1, 2));
    let error = memory.write(a + 99, &[1, 2]).unwrap_err();
    assert!(error.to_string().contains("nearest allocation: 100 bytes"), "{error}");
    assert!(memory.copy(b, a, 101).is_err() && memory.fill(b, &[0], 101).is_err());
    assert!(matches!(memory.fill(b, &[0; 3], 1), Err(MemoryError::Pattern { bytes: 3, .. })));
    assert!(memory.read(u64::MAX, &mut [0; 2]).is_err());
    memory.free(b).unwrap();
    let error = memory.write(b, &[0]).unwrap_err();
    assert!(error.to_string().contains("freed allocation"), "{error}");
}

#[test]
fn fills_and_copies() {
    let mut memory = GlobalMemory::new(1 << 20);
    let (a, b) = (memory.alloc(8).unwrap(), memory.alloc(8).unwrap());
    let mut bytes = [0; 8];
    memory.read(a, &mut bytes).unwrap();
    assert_eq!(bytes, [0xff; 8], "poison");
    memory.fill(a, &[1, 2], 4).unwrap();
    memory.copy(b + 2, a + 1, 4).unwrap();
    memory.read(b, &mut bytes).unwrap();
    assert_eq!(bytes, [0xff, 0xff, 2, 1, 2, 1, 0xff, 0xff]);
}

/// A copy carries the marks: what was never written at the source is not written at the destination.
#[test]
fn marks_travel_with_copies() {
    let text = format!(
        "{HEADER}.visible .entry k(.param .u64 at)\n{{ .reg .b64 %l; .reg .b32 %r; ld.param.u64 %l, [at]; \
         ld.global.u32 %r, [%l]; ret; }}"
    );
    let module = Module::parse(&text).unwrap();
    let config = LaunchConfig { grid: [1; 3], block: [1; 3], dynamic_shared_bytes: 0 };
    let mut memory = GlobalMemory::new(1 << 20);
    let (a, b) = (memory.alloc(8).unwrap(), memory.alloc(8).unwrap());
    memory.write(a, &[0; 4]).unwrap();
    memory.fill(b, &[0], 8).unwrap();
    memory.copy(b, a, 8).unwrap();
    let mut read = |at: u64| launch(module.kernel("k").unwrap(), &config, &at.to_le_bytes(), &mut memory);
    assert!(read(b).is_ok());
    assert!(matches!(read(b + 4), Err(Fault::Uninitialised { .. })));
}
