//! The C functions of the driver API that onnxc's programs use, under the driver's names.
//!
//! Work runs when it is given: streams are in order of calls, events tell nothing. A stream that captures records instead,
//! and the graph replays. An error of a launch stays until a context is pushed, and its string is the report.
//!
//! Environment: `ONNXC_STANDIN_CAPABILITY` (80 unless told, 0 for no device), `ONNXC_STANDIN_RACES=0` leaves races unseen.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard};

use crate::kernel::{Kernel, Module};
use crate::launch::{DEFAULT_SHARED, Grid, MAX_SHARED, launch};
use crate::memory::Memory;

const INVALID_VALUE: c_int = 1;
const NOT_INITIALIZED: c_int = 3;
const NO_DEVICE: c_int = 100;
const NO_BINARY_FOR_GPU: c_int = 209;
const INVALID_PTX: c_int = 218;
const NOT_FOUND: c_int = 500;
const ILLEGAL_ADDRESS: c_int = 700;
const MISALIGNED_ADDRESS: c_int = 716;
const LAUNCH_FAILED: c_int = 719;
const CAPTURE_UNSUPPORTED: c_int = 900;

/// A step of a captured graph. Pointers of the host are followed when the graph runs.
#[derive(Clone)]
enum Step {
    Launch { kernel: &'static Kernel, grid: Grid, params: Vec<u8> },
    ToDevice { to: u64, from: usize, bytes: usize },
    ToHost { to: usize, from: u64, bytes: usize },
    Move { to: u64, from: u64, bytes: usize },
    Set { to: u64, value: Vec<u8>, count: usize },
}

#[derive(Default)]
struct State {
    memory: Memory,
    segment: u32,
    initialised: bool,
    failed: c_int,
    report: CString,
    /// Streams by number, with what they record.
    streams: Vec<Option<Vec<Step>>>,
    launches: u64,
    /// Dynamic shared memory that launches of a kernel, by address, were given by attribute.
    dynamic: HashMap<usize, u32>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(|broken| broken.into_inner())
}

fn with(f: impl FnOnce(&mut State) -> c_int) -> c_int {
    let mut guard = state();
    let state = guard.get_or_insert_with(|| State { segment: 1, streams: vec![None], ..State::default() });
    if !state.initialised {
        return NOT_INITIALIZED;
    }
    if state.failed != 0 {
        return state.failed;
    }
    f(state)
}

fn capability() -> u32 {
    std::env::var("ONNXC_STANDIN_CAPABILITY").ok().and_then(|v| v.parse().ok()).unwrap_or(80)
}

impl State {
    /// Runs a step, or records it where the stream captures.
    fn give(&mut self, stream: usize, step: Step) -> c_int {
        match self.streams.get_mut(stream) {
            Some(Some(recorded)) => {
                recorded.push(step);
                0
            }
            Some(None) => self.run(&step),
            None => INVALID_VALUE,
        }
    }

    fn capturing(&self) -> bool {
        self.streams.iter().any(Option::is_some)
    }

    fn run(&mut self, step: &Step) -> c_int {
        let result = match step {
            Step::Launch { kernel, grid, params } => {
                self.launches += 1;
                let races = std::env::var_os("ONNXC_STANDIN_RACES").is_none_or(|v| v != "0");
                match launch(kernel, &mut self.memory, params, *grid, races, &mut self.segment) {
                    Ok(()) => return 0,
                    Err(report) => {
                        let code = if report.invalid {
                            INVALID_VALUE
                        } else if report.misaligned {
                            MISALIGNED_ADDRESS
                        } else if report.race {
                            LAUNCH_FAILED
                        } else {
                            ILLEGAL_ADDRESS
                        };
                        return self.fail(code, report.text);
                    }
                }
            }
            Step::ToDevice { to, from, bytes } => self.memory.range(*to, *bytes as u64).map(|range| {
                // SAFETY: the caller of the copy vouches for `bytes` bytes at its pointer.
                range.copy_from_slice(unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) });
            }),
            Step::ToHost { to, from, bytes } => self.memory.range(*from, *bytes as u64).map(|range| {
                // SAFETY: as above; the memory of a device is no memory of the caller's.
                unsafe { std::ptr::copy_nonoverlapping(range.as_ptr(), *to as *mut u8, *bytes) };
            }),
            Step::Move { to, from, bytes } => self
                .memory
                .range(*from, *bytes as u64)
                .map(|range| range.to_vec())
                .and_then(|data| self.memory.range(*to, *bytes as u64).map(|range| range.copy_from_slice(&data))),
            Step::Set { to, value, count } => self
                .memory
                .range(*to, (value.len() * count) as u64)
                .map(|range| range.chunks_exact_mut(value.len()).for_each(|part| part.copy_from_slice(value))),
        };
        match result {
            Ok(()) => 0,
            Err(fault) => self.fail(INVALID_VALUE, format!("a copy or fill is out of bounds: {fault:?}")),
        }
    }

    fn fail(&mut self, code: c_int, text: String) -> c_int {
        eprintln!("stand-in CUDA driver: {text}");
        self.report = CString::new(text.replace('\0', " ")).unwrap_or_default();
        if code != INVALID_VALUE {
            self.failed = code;
        }
        code
    }
}

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

/// One of the out-parameters below: writes where the pointer is not null.
///
/// # Safety
/// The pointer is null or valid for a write.
unsafe fn put<T>(to: *mut T, value: T) -> c_int {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's contract.
    unsafe { to.write(value) };
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
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(count, 1) })
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| if ordinal == 0 { unsafe { put(device, 0) } } else { INVALID_VALUE })
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> c_int {
    let text = c"stand-in (PTX interpreter)".to_bytes_with_nul();
    let count = text.len().min(length.max(0) as usize);
    // SAFETY: the caller's contract: `length` bytes at `name`.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), count) };
    0
}

/// # Safety
/// As above.
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
        81 | 97 => MAX_SHARED as c_int,
        106 => 32,
        _ => return INVALID_VALUE,
    };
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(value, known) })
}

/// # Safety
/// As above.
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
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> c_int {
    // SAFETY: the caller's contract.
    with(|_| if context.is_null() { 0 } else { unsafe { put(context, 1) } })
}

/// Everything is done already; gives the error that stays.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    with(|s| if s.capturing() { CAPTURE_UNSUPPORTED } else { 0 })
}

/// # Safety
/// As above. Option 5 is the buffer of the error log and 6 its size.
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
    with(|_| 0)
}

/// # Safety
/// As above.
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
/// As above: a kernel of cuModuleGetFunction.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(function: *const Kernel, attribute: c_int, value: c_int) -> c_int {
    // SAFETY: the caller's contract.
    let declared = unsafe { (*function).shared };
    with(|s| match u32::try_from(value) {
        Ok(bytes) if attribute != 8 || declared + u64::from(bytes) <= MAX_SHARED => {
            if attribute == 8 {
                s.dynamic.insert(function as usize, bytes);
            }
            0
        }
        _ => INVALID_VALUE,
    })
}

/// # Safety
/// As above.
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
/// As above.
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

/// Frees what `cuMemAlloc` gave.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    with(|s| if s.memory.free(address) { 0 } else { INVALID_VALUE })
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_int {
    with(
        |s| if s.capturing() { CAPTURE_UNSUPPORTED } else { s.run(&Step::ToDevice { to, from: from as usize, bytes }) },
    )
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_int {
    with(|s| if s.capturing() { CAPTURE_UNSUPPORTED } else { s.run(&Step::ToHost { to: to as usize, from, bytes }) })
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> c_int {
    with(|s| s.give(stream, Step::ToDevice { to, from: from as usize, bytes }))
}

/// # Safety
/// As above.
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
/// As above: `params` points to one pointer for each parameter of the kernel.
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
/// As above.
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

/// Everything is done already.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> c_int {
    with(|s| match s.streams.get(stream) {
        Some(None) => 0,
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
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut *mut c_void) -> c_int {
    with(|s| match s.streams.get_mut(stream).and_then(Option::take) {
        // SAFETY: the caller's contract.
        Some(steps) => unsafe { put(graph, Box::into_raw(Box::new(steps)).cast()) },
        None => CAPTURE_UNSUPPORTED,
    })
}

/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut c_int) -> c_int {
    // SAFETY: the caller's contract.
    with(|s| unsafe { put(status, c_int::from(s.streams.get(stream).is_some_and(Option::is_some))) })
}

/// # Safety
/// As above: a graph of cuStreamEndCapture.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(exec: *mut *mut c_void, graph: *mut c_void, _flags: u64) -> c_int {
    // SAFETY: the caller's contract.
    let steps = unsafe { (*graph.cast::<Vec<Step>>()).clone() };
    // SAFETY: the caller's contract.
    with(|_| unsafe { put(exec, Box::into_raw(Box::new(steps)).cast()) })
}

/// # Safety
/// As above: a graph of cuGraphInstantiateWithFlags.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: *mut c_void, stream: usize) -> c_int {
    // SAFETY: the caller's contract.
    let steps = unsafe { &*exec.cast::<Vec<Step>>() };
    with(|s| steps.iter().map(|step| s.give(stream, step.clone())).find(|&code| code != 0).unwrap_or(0))
}

/// # Safety
/// As above, once for each graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: *mut c_void) -> c_int {
    // SAFETY: made by Box::into_raw in cuStreamEndCapture.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Step>>()) });
    0
}

/// # Safety
/// As above, once for each graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(exec: *mut c_void) -> c_int {
    // SAFETY: made by Box::into_raw in cuGraphInstantiateWithFlags.
    drop(unsafe { Box::from_raw(exec.cast::<Vec<Step>>()) });
    0
}

/// # Safety
/// As above.
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

/// Everything is done already.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(_event: usize) -> c_int {
    with(|_| 0)
}

/// # Safety
/// As above. The time is 0: this tool measures nothing.
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
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> c_int {
    match name(code) {
        // SAFETY: the caller's contract.
        Some(name) => unsafe { put(text, name.as_ptr()) },
        None => INVALID_VALUE,
    }
}

/// # Safety
/// As above. The string of the error that stays is its report, good until the next error.
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

/// How many kernels ran since the library was loaded, for tests. No function of the real driver.
#[unsafe(no_mangle)]
pub extern "C" fn onnxcStandinLaunches() -> u64 {
    state().as_ref().map_or(0, |s| s.launches)
}
