//! The C functions of the driver API that onnxc's programs use, under the driver's names.
//!
//! Work runs when something waits for it, all streams' in the order of calls; events tell nothing. So a result that is used
//! before it was waited for is not there. A stream that captures records instead, and the graph replays. An error of a launch
//! stays until a context is pushed, and its string is the report.
//!
//! Environment: `ONNXC_STANDIN_CAPABILITY` (80 unless told, 0 for no device), `ONNXC_STANDIN_RACES=0` leaves races unseen,
//! `ONNXC_STANDIN_FAIL=3` lets the third launch fail.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_int};
use std::sync::{Mutex, MutexGuard};

use crate::kernel::Kernel;
use crate::launch::{Grid, launch};
use crate::memory::Memory;

mod context;
mod memory;
mod stream;

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
    Launch {
        kernel: &'static Kernel,
        grid: Grid,
        params: Vec<u8>,
    },
    ToDevice {
        to: u64,
        from: usize,
        bytes: usize,
    },
    /// What `ToDevice` becomes when it is given: the caller may write to its memory again.
    Write {
        to: u64,
        data: Vec<u8>,
    },
    ToHost {
        to: usize,
        from: u64,
        bytes: usize,
    },
    Move {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Set {
        to: u64,
        value: Vec<u8>,
        count: usize,
    },
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
    /// Kernels that ran, and were launched; graphs that were.
    counts: [u64; 3],
    /// What was given and not run yet.
    given: VecDeque<Step>,
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
    /// Takes a step, or records it where the stream captures.
    fn give(&mut self, stream: usize, step: Step) -> c_int {
        match (self.streams.get_mut(stream), step) {
            (Some(Some(recorded)), step) => recorded.push(step),
            (Some(None), Step::ToDevice { to, from, bytes }) => {
                // SAFETY: the caller of the copy vouches for `bytes` bytes at its pointer.
                let data = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }.to_vec();
                self.given.push_back(Step::Write { to, data });
            }
            (Some(None), step) => self.given.push_back(step),
            (None, _) => return INVALID_VALUE,
        }
        0
    }

    /// Runs all that was given.
    fn wait(&mut self) -> c_int {
        while let Some(step) = self.given.pop_front() {
            let code = self.run(&step);
            if code != 0 {
                self.given.clear();
                return code;
            }
        }
        0
    }

    fn capturing(&self) -> bool {
        self.streams.iter().any(Option::is_some)
    }

    fn run(&mut self, step: &Step) -> c_int {
        let result = match step {
            Step::Launch { kernel, grid, params } => {
                self.counts[0] += 1;
                if std::env::var("ONNXC_STANDIN_FAIL").is_ok_and(|n| n.parse() == Ok(self.counts[0])) {
                    return self.fail(LAUNCH_FAILED, format!("{}: fails as it was asked to", kernel.name));
                }
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
            Step::ToDevice { .. } => unreachable!("given as Step::Write"),
            Step::Write { to, data } => {
                self.memory.range(*to, data.len() as u64).map(|range| range.copy_from_slice(data))
            }
            Step::ToHost { to, from, bytes } => self.memory.range(*from, *bytes as u64).map(|range| {
                // SAFETY: the caller of the copy vouches for its pointer; the memory of a device is no memory of the caller's.
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

/// An out-parameter: writes where the pointer is not null.
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
