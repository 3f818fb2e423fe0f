//! Launches, streams, graphs, events.

use std::ffi::{c_int, c_uint, c_void};

use super::*;
use crate::launch::DEFAULT_SHARED;

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes: `params` points to one pointer for each parameter of the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *const Kernel,
    blocks_x: c_uint,
    blocks_y: c_uint,
    blocks_z: c_uint,
    threads_x: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    dynamic_shared: c_uint,
    stream: usize,
    params: *const *const u8,
    _extra: *const *mut c_void,
) -> c_int {
    // SAFETY: a kernel of a module, and modules live on.
    let kernel: &'static Kernel = unsafe { &*function };
    let mut bytes = Vec::new();
    for (i, &(offset, size)) in kernel.params.iter().enumerate() {
        bytes.resize(offset as usize, 0);
        // SAFETY: the caller's contract.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(*params.add(i), size as usize) });
    }
    let grid =
        Grid { blocks: [blocks_x, blocks_y, blocks_z], threads: [threads_x, threads_y, threads_z], dynamic_shared };
    with(|s| {
        s.counts[1] += 1;
        let shared = kernel.shared + u64::from(dynamic_shared);
        if shared > DEFAULT_SHARED && s.dynamic.get(&(function as usize)).is_none_or(|&most| dynamic_shared > most) {
            let text =
                format!("{}: {shared} bytes of shared memory, which no attribute of the kernel allows", kernel.name);
            return s.fail(INVALID_VALUE, text);
        }
        s.give(stream, Step::Launch { kernel, grid, params: bytes })
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> c_int {
    with(|s| {
        s.streams.push(None);
        // SAFETY: the caller's contract.
        unsafe { put(stream, s.streams.len() - 1) }
    })
}

/// Keeps the number.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> c_int {
    with(|s| if stream < s.streams.len() { 0 } else { INVALID_VALUE })
}

/// Runs what was given.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> c_int {
    with(|s| match s.streams.get(stream) {
        Some(None) => s.wait(),
        Some(Some(_)) => CAPTURE_UNSUPPORTED,
        None => INVALID_VALUE,
    })
}

/// Streams are in order of calls, so nothing waits.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(_stream: usize, _event: usize, _flags: c_uint) -> c_int {
    with(|_| 0)
}

/// Begins to record.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) -> c_int {
    with(|s| match s.streams.get_mut(stream) {
        // The default stream cannot capture.
        Some(recorded @ None) if stream != 0 => {
            *recorded = Some(Vec::new());
            0
        }
        _ => CAPTURE_UNSUPPORTED,
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut *mut c_void) -> c_int {
    with(|s| match s.streams.get_mut(stream).and_then(Option::take) {
        // SAFETY: the caller's contract.
        Some(steps) => unsafe { put(graph, Box::into_raw(Box::new(steps)).cast()) },
        None => CAPTURE_UNSUPPORTED,
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|s| unsafe { put(status, c_int::from(s.streams.get(stream).is_some_and(Option::is_some))) })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes: a graph of cuStreamEndCapture.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(exec: *mut *mut c_void, graph: *mut c_void, _flags: u64) -> c_int {
    // SAFETY: the caller's contract.
    let steps = unsafe { (*graph.cast::<Vec<Step>>()).clone() };
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(exec, Box::into_raw(Box::new(steps)).cast()) })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes: a graph of cuGraphInstantiateWithFlags.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: *mut c_void, stream: usize) -> c_int {
    // SAFETY: the caller's contract.
    let steps = unsafe { &*exec.cast::<Vec<Step>>() };
    with(|s| {
        s.counts[2] += 1;
        steps.iter().map(|step| s.give(stream, step.clone())).find(|&code| code != 0).unwrap_or(0)
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes, once for each graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: *mut c_void) -> c_int {
    // SAFETY: made by Box::into_raw in cuStreamEndCapture.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Step>>()) });
    0
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes, once for each graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: *mut c_void) -> c_int {
    // SAFETY: made by Box::into_raw in cuGraphInstantiateWithFlags.
    drop(unsafe { Box::from_raw(exec.cast::<Vec<Step>>()) });
    0
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut usize, _flags: c_uint) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(event, 1) })
}

/// Events tell nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(_event: usize, _stream: usize) -> c_int {
    with(|_| 0)
}

/// Runs what was given.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_event: usize) -> c_int {
    with(State::wait)
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes. The time is 0: this tool measures nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, _from: usize, _to: usize) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(milliseconds, 0.0) })
}

/// Events own nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(_event: usize) -> c_int {
    0
}

/// For tests, what was counted since the library was loaded: 0 kernels that ran, 1 calls of `cuLaunchKernel`, 2 of
/// `cuGraphLaunch`. No function of the real driver.
#[unsafe(no_mangle)]
pub extern "C" fn onnxcStandinCount(what: c_int) -> u64 {
    state().as_ref().and_then(|s| s.counts.get(what as usize).copied()).unwrap_or(0)
}
