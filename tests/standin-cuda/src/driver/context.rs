//! Devices, contexts, modules, kernels, errors.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::*;
use crate::kernel::Module;
use crate::launch::{DEFAULT_SHARED, max_shared};

/// Initialises.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    if capability() == 0 {
        return NO_DEVICE;
    }
    let mut guard = state();
    let state = guard.get_or_insert_with(|| State { segment: 1, streams: vec![None], ..State::default() });
    state.initialised = true;
    0
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's contract, here and in all functions below.
    unsafe { put(version, 12020) }
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(count, 1) })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| if ordinal == 0 { unsafe { put(device, 0) } } else { INVALID_VALUE })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> c_int {
    let text = c"stand-in (PTX interpreter)".to_bytes_with_nul();
    let count = text.len().min(length.max(0) as usize);
    // SAFETY: the caller's contract: `length` bytes at `name`.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), count) };
    0
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> c_int {
    let known = match attribute {
        1 => 1024,
        8 => DEFAULT_SHARED as c_int,
        10 => 32,
        // Few processors make few warps, which is quick; more than one makes several blocks.
        16 => 4,
        39 => 2048,
        75 => capability() as c_int / 10,
        76 => capability() as c_int % 10,
        81 | 97 => max_shared(capability()) as c_int,
        106 => 32,
        _ => return INVALID_VALUE,
    };
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(value, known) })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, _device: c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(context, 1) })
}

/// Keeps the context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_int {
    0
}

/// There is one context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: usize) -> c_int {
    with(|_| 0)
}

/// There is one context. An error ends here, so that one process can test many models; a device's would stay.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(_context: usize) -> c_int {
    if let Some(s) = state().as_mut() {
        s.failed = 0;
        s.streams.iter_mut().for_each(|recorded| *recorded = None);
    }
    with(|_| 0)
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| if context.is_null() { 0 } else { unsafe { put(context, 1) } })
}

/// Runs what was given; gives the error that stays.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    with(|s| if s.capturing() { CAPTURE_UNSUPPORTED } else { s.wait() })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes. Option 5 is the buffer of the error log and 6 its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *const Module,
    image: *const c_char,
    count: c_uint,
    options: *const c_int,
    values: *const *mut c_void,
) -> c_int {
    // SAFETY: the caller's contract: a text that ends with 0.
    let text = unsafe { CStr::from_ptr(image) }.to_string_lossy().into_owned();
    with(|s| match Module::load(&text, capability(), &mut s.memory) {
        // SAFETY: the caller's contract.
        Ok(loaded) => unsafe { put(module, Box::leak(Box::new(loaded)) as *const Module) },
        Err(what) => {
            let (mut log, mut size) = (std::ptr::null_mut::<u8>(), 0);
            for i in 0..count as usize {
                // SAFETY: the caller's contract: `count` options and values.
                let (option, value) = unsafe { (*options.add(i), *values.add(i)) };
                match option {
                    5 => log = value.cast(),
                    6 => size = value as usize,
                    _ => {}
                }
            }
            let line = format!("ptxas stand-in, {what}\n");
            if !log.is_null() && size > 0 {
                let bytes = line.len().min(size - 1);
                // SAFETY: the caller's contract: `size` bytes at the buffer.
                unsafe {
                    std::ptr::copy_nonoverlapping(line.as_ptr(), log, bytes);
                    log.add(bytes).write(0);
                }
            }
            if what.contains("compute capability") { NO_BINARY_FOR_GPU } else { INVALID_PTX }
        }
    })
}

/// Keeps the module: others may still name its kernels.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(_module: *const Module) -> c_int {
    with(State::wait)
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *const Kernel,
    module: *const Module,
    name: *const c_char,
) -> c_int {
    // SAFETY: the caller's contract: a module of cuModuleLoadDataEx, which lives on, and a name.
    let found = unsafe { (*module).kernel(&CStr::from_ptr(name).to_string_lossy()) };
    match found {
        // SAFETY: the caller's contract.
        Some(kernel) => with(|_| unsafe { put(function, kernel as *const Kernel) }),
        None => NOT_FOUND,
    }
}

/// Attribute 8 is the dynamic shared memory that launches may have; kernels need no others here.
///
/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes: a kernel of cuModuleGetFunction.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: *const Kernel, attribute: c_int, value: c_int) -> c_int {
    // SAFETY: the caller's contract.
    let (declared, most) = unsafe { ((*function).shared, (*function).most_shared) };
    with(|s| match u32::try_from(value) {
        Ok(bytes) if attribute != 8 || declared + u64::from(bytes) <= most => {
            if attribute == 8 {
                s.dynamic.insert(function as usize, bytes);
            }
            0
        }
        _ => INVALID_VALUE,
    })
}

fn name(code: c_int) -> Option<&'static CStr> {
    Some(match code {
        0 => c"CUDA_SUCCESS",
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        NOT_INITIALIZED => c"CUDA_ERROR_NOT_INITIALIZED",
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        NO_BINARY_FOR_GPU => c"CUDA_ERROR_NO_BINARY_FOR_GPU",
        INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        MISALIGNED_ADDRESS => c"CUDA_ERROR_MISALIGNED_ADDRESS",
        LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        _ => return None,
    })
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> c_int {
    match name(code) {
        // SAFETY: the caller's contract.
        Some(name) => unsafe { put(text, name.as_ptr()) },
        None => INVALID_VALUE,
    }
}

/// # Safety
/// As the driver's functions: pointers are valid for what the function reads and writes. The string of the error that stays is its report, good until the next error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> c_int {
    let guard = state();
    match guard.as_ref().filter(|s| code != 0 && s.failed == code) {
        // SAFETY: the caller's contract.
        Some(s) => unsafe { put(text, s.report.as_ptr()) },
        // SAFETY: the caller's contract.
        None => unsafe { cuGetErrorName(code, text) },
    }
}
