//! Memory of the device: allocations, copies, fills.

use std::ffi::{c_int, c_uint, c_void};

use super::*;
use crate::tensor::Map;

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    let all = 16usize << 30;
    with(|s| {
        let free_bytes = all.saturating_sub(s.memory.in_use() as usize);
        // SAFETY: the caller's contract.
        unsafe { put(free, free_bytes) | put(total, all) }
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    with(|s| {
        let at = s.memory.allocate(bytes as u64);
        // SAFETY: the caller's contract.
        unsafe { put(address, at) }
    })
}

/// Runs what was given, and frees what `cuMemAlloc` gave.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    with(|s| match s.wait() {
        0 if s.memory.free(address) => 0,
        0 => INVALID_VALUE,
        code => code,
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_int {
    with(|s| {
        if s.capturing() {
            CAPTURE_UNSUPPORTED
        } else {
            s.give(0, Step::ToDevice { to, from: from as usize, bytes }) | s.wait()
        }
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int {
    with(|s| {
        if s.capturing() {
            CAPTURE_UNSUPPORTED
        } else {
            s.give(0, Step::ToHost { to: to as usize, from, bytes }) | s.wait()
        }
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> c_int {
    with(|s| s.give(stream, Step::ToDevice { to, from: from as usize, bytes }))
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> c_int {
    with(|s| s.give(stream, Step::ToHost { to: to as usize, from, bytes }))
}

/// Copies on the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> c_int {
    with(|s| s.give(stream, Step::Move { to, from, bytes }))
}

/// Fills with bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) -> c_int {
    with(|s| s.give(stream, Step::Set { to, value: vec![value], count }))
}

/// Fills with words.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) -> c_int {
    with(|s| s.give(stream, Step::Set { to, value: value.to_le_bytes().to_vec(), count }))
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes: `map` for 128 bytes, the lists for
/// `rank` numbers, those of strides for one less.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut u8,
    kind: c_int,
    rank: c_uint,
    address: u64,
    sizes: *const u64,
    strides: *const u64,
    lengths: *const c_uint,
    steps: *const c_uint,
    interleave: c_int,
    swizzle: c_int,
    _promotion: c_int,
    fill: c_int,
) -> c_int {
    let element = match kind {
        0 => 1,
        1 | 6 | 9 => 2,
        2 | 3 | 7 | 10 | 11 => 4,
        4 | 5 | 8 => 8,
        _ => return INVALID_VALUE,
    };
    let (rank, width) = match (rank, swizzle) {
        (1..=5, 0..=3) => (rank as usize, 16 << swizzle),
        _ => return INVALID_VALUE,
    };
    // SAFETY: the caller's contract.
    let (sizes, strides, lengths, steps) = unsafe {
        (
            std::slice::from_raw_parts(sizes, rank).to_vec(),
            std::slice::from_raw_parts(strides, rank - 1).to_vec(),
            std::slice::from_raw_parts(lengths, rank).to_vec(),
            std::slice::from_raw_parts(steps, rank),
        )
    };
    // Steps, interleaving and NaN outside are not in the subset.
    if capability() < 90
        || interleave != 0
        || fill != 0
        || steps.iter().any(|&n| n != 1)
        || !(map as usize).is_multiple_of(64)
    {
        return INVALID_VALUE;
    }
    match (Map { element, base: address, sizes, strides, lengths, width }).encode() {
        // SAFETY: the caller's contract.
        Some(bytes) => unsafe { put(map.cast(), bytes) },
        None => INVALID_VALUE,
    }
}
