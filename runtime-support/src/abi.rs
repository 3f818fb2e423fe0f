//! The structs, constants and functions of `include/onnxc.h` and `include/onnxc_support.h`, field for field.
//!
//! Names are the header's, so that either file explains the other; offsets are asserted at the foot, as the header
//! asserts its own.

#![allow(non_camel_case_types)]

use core::ffi::{c_char, c_int, c_void};

/// `ONNXC_ABI_VERSION`.
pub const ABI_VERSION: u32 = 1;
/// `ONNXC_MAX_RANK`: the greatest rank of inputs and outputs.
pub const MAX_RANK: usize = 8;
/// `ONNXC_MAX_WORKERS`.
pub const MAX_WORKERS: usize = 256;
/// `ONNXC_ALIGN`: the alignment of the arena and of external weights, in bytes.
pub const ALIGN: usize = 64;

/// `kDLCPU`.
pub const DEVICE_CPU: i32 = 1;

/// `ONNXC_KIND_NONE`: an absent optional.
pub const KIND_NONE: i32 = 0;
/// `ONNXC_KIND_TENSOR`.
pub const KIND_TENSOR: i32 = 1;
/// `ONNXC_KIND_SEQUENCE`.
pub const KIND_SEQUENCE: i32 = 2;
/// `ONNXC_KIND_MAP`.
pub const KIND_MAP: i32 = 3;

/// `ONNXC_VALUE_OWNS_DATA`.
pub const VALUE_OWNS_DATA: u32 = 1;
/// `ONNXC_VALUE_OWNS_ITEMS`.
pub const VALUE_OWNS_ITEMS: u32 = 2;
/// `ONNXC_VALUE_OWNS_STRINGS`.
pub const VALUE_OWNS_STRINGS: u32 = 4;

/// `ONNXC_PORT_OPTIONAL`.
pub const PORT_OPTIONAL: u32 = 1;
/// `ONNXC_PORT_STATE`: kept from run to run, in one buffer with an output.
pub const PORT_STATE: u32 = 2;

/// `ONNXC_MEMORY_STATIC`.
pub const MEMORY_STATIC: u32 = 0;
/// `ONNXC_MEMORY_DIMS`.
pub const MEMORY_DIMS: u32 = 1;
/// `ONNXC_MEMORY_DATA`.
pub const MEMORY_DATA: u32 = 2;

/// `ONNXC_MODEL_EXTERNAL_WEIGHTS`.
pub const MODEL_EXTERNAL_WEIGHTS: u32 = 1;
/// `ONNXC_MODEL_GPU`.
pub const MODEL_GPU: u32 = 2;

/// DLPack's device.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DLDevice {
    pub device_type: i32,
    pub device_id: i32,
}

/// DLPack's element type.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DLDataType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}

/// DLPack's borrowed tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct DLTensor {
    pub data: *mut c_void,
    pub device: DLDevice,
    pub ndim: i32,
    pub dtype: DLDataType,
    pub shape: *mut i64,
    pub strides: *mut i64,
    pub byte_offset: u64,
}

/// One element of a string tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct onnxc_string {
    pub offset: u64,
    pub length: u64,
}

/// An input or an output.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_value {
    pub tensor: DLTensor,
    pub capacity_bytes: u64,
    pub kind: i32,
    pub flags: u32,
    pub dims: [i64; MAX_RANK],
    pub items: *mut onnxc_value,
    pub item_count: i64,
    pub item_capacity: i64,
    pub string_bytes: *mut c_char,
    pub string_used: u64,
    pub string_capacity: u64,
    pub reserved: [u64; 2],
}

/// Runs one task: `(arg, task, worker)`.
pub type onnxc_task_fn = unsafe extern "C" fn(*mut c_void, i64, c_int);
/// Runs every task below a count: `(user, fn, arg, tasks)`.
pub type onnxc_parallel_for_fn = unsafe extern "C" fn(*mut c_void, onnxc_task_fn, *mut c_void, i64);
/// Allocates: `(user, bytes, align)`.
pub type onnxc_alloc_fn = unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
/// Releases: `(user, pointer, bytes)`.
pub type onnxc_release_fn = unsafe extern "C" fn(*mut c_void, *mut c_void, usize);
/// Reports a step: `(user, step, begin)`.
pub type onnxc_trace_fn = unsafe extern "C" fn(*mut c_void, i64, c_int);

/// Where a call found a wrong argument; -1 where a field says nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct onnxc_fault {
    pub output: i32,
    pub port: i32,
    pub axis: i32,
    pub step: i32,
    pub expected: i64,
    pub actual: i64,
}

/// How to run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_call {
    pub struct_size: u32,
    pub abi_version: u32,
    pub arena: *mut c_void,
    pub arena_bytes: usize,
    pub user: *mut c_void,
    pub parallel_for: Option<onnxc_parallel_for_fn>,
    pub max_workers: i32,
    pub flags: u32,
    pub alloc: Option<onnxc_alloc_fn>,
    pub release: Option<onnxc_release_fn>,
    pub trace: Option<onnxc_trace_fn>,
    pub weights: *const c_void,
    pub weights_bytes: u64,
    pub fault: *mut onnxc_fault,
    pub stream: *mut c_void,
}

impl onnxc_call {
    /// `ONNXC_CALL_INIT`: one worker, nothing else.
    pub const INIT: Self = Self {
        struct_size: size_of::<Self>() as u32,
        abi_version: ABI_VERSION,
        arena: core::ptr::null_mut(),
        arena_bytes: 0,
        user: core::ptr::null_mut(),
        parallel_for: None,
        max_workers: 1,
        flags: 0,
        alloc: None,
        release: None,
        trace: None,
        weights: core::ptr::null(),
        weights_bytes: 0,
        fault: core::ptr::null_mut(),
        stream: core::ptr::null_mut(),
    };
}

/// An input or output of a model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_port {
    pub name: *const c_char,
    pub kind: i32,
    pub ndim: i32,
    pub dtype: DLDataType,
    pub onnx_dtype: i32,
    pub dims: [i64; MAX_RANK],
    pub symbols: [i32; MAX_RANK],
    pub bytes: i64,
    pub item: *const onnxc_port,
    pub key_dtype: DLDataType,
    pub flags: u32,
}

/// A named dim.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_symbol {
    pub name: *const c_char,
    pub min: i64,
    pub max: i64,
}

/// `NAME_plan`.
pub type onnxc_plan_fn = unsafe extern "C" fn(*const i64, c_int, *mut usize) -> c_int;
/// `NAME_run`.
pub type onnxc_run_fn = unsafe extern "C" fn(*const onnxc_value, *mut onnxc_value, *const onnxc_call) -> c_int;
/// `NAME_run_dl`.
pub type onnxc_run_dl_fn =
    unsafe extern "C" fn(*const *const DLTensor, *const *mut DLTensor, *const onnxc_call) -> c_int;
/// `NAME_status`.
pub type onnxc_status_fn = unsafe extern "C" fn(c_int) -> *const c_char;

/// What a compiled model says about itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_model {
    pub abi_version: u32,
    pub struct_size: u32,
    pub name: *const c_char,
    pub hash: [u8; 32],
    pub memory: u32,
    pub flags: u32,
    pub input_count: u32,
    pub output_count: u32,
    pub inputs: *const onnxc_port,
    pub outputs: *const onnxc_port,
    pub symbol_count: u32,
    pub step_count: u32,
    pub symbols: *const onnxc_symbol,
    pub steps: *const *const c_char,
    pub arena_bytes: u64,
    pub worker_bytes: u64,
    pub code_bytes: u64,
    pub weight_bytes: u64,
    pub plan: Option<onnxc_plan_fn>,
    pub run: Option<onnxc_run_fn>,
    pub run_dl: Option<onnxc_run_dl_fn>,
    pub status: Option<onnxc_status_fn>,
    pub target: *const c_char,
    pub weights_hash: *const u8,
    pub reserved: u64,
}

// SAFETY: a descriptor is read-only data of an object; nothing behind its pointers is ever written.
unsafe impl Sync for onnxc_model {}

#[cfg(feature = "sessions")]
/// Where a session takes its memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_memory {
    pub user: *mut c_void,
    pub alloc: Option<onnxc_alloc_fn>,
    pub release: Option<onnxc_release_fn>,
}

#[cfg(feature = "sessions")]
/// External weights that are open.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct onnxc_weights {
    pub data: *const c_void,
    pub bytes: u64,
}

#[cfg(feature = "sessions")]
/// The support library's pool of threads, behind a pointer.
#[repr(C)]
pub struct onnxc_pool {
    opaque: [u8; 0],
}

#[cfg(feature = "sessions")]
/// The support library's session, behind a pointer.
#[repr(C)]
pub struct onnxc_session {
    opaque: [u8; 0],
}

#[cfg(feature = "sessions")]
#[allow(missing_docs)]
unsafe extern "C" {
    pub fn onnxc_status_message(status: c_int) -> *const c_char;
    pub fn onnxc_arena_alloc(bytes: usize) -> *mut c_void;
    pub fn onnxc_arena_free(arena: *mut c_void);
    pub fn onnxc_heap_alloc(user: *mut c_void, bytes: usize, align: usize) -> *mut c_void;
    pub fn onnxc_heap_release(user: *mut c_void, pointer: *mut c_void, bytes: usize);
    pub fn onnxc_value_release(value: *mut onnxc_value, call: *const onnxc_call);
    pub fn onnxc_weights_open(model: *const onnxc_model, path: *const c_char, weights: *mut onnxc_weights) -> c_int;
    pub fn onnxc_weights_close(weights: *mut onnxc_weights);
    pub fn onnxc_weights_check(model: *const onnxc_model, data: *const c_void, bytes: u64) -> c_int;
    pub fn onnxc_pool_create(workers: c_int, pool: *mut *mut onnxc_pool) -> c_int;
    pub fn onnxc_pool_destroy(pool: *mut onnxc_pool);
    pub fn onnxc_pool_workers(pool: *const onnxc_pool) -> c_int;
    pub fn onnxc_pool_parallel_for(pool: *mut c_void, task: onnxc_task_fn, arg: *mut c_void, tasks: i64);
    pub fn onnxc_session_create(
        model: *const onnxc_model,
        dims: *const i64,
        threads: c_int,
        session: *mut *mut onnxc_session,
    ) -> c_int;
    pub fn onnxc_session_create_on(
        model: *const onnxc_model,
        dims: *const i64,
        pool: *mut onnxc_pool,
        session: *mut *mut onnxc_session,
    ) -> c_int;
    pub fn onnxc_session_create_in(
        model: *const onnxc_model,
        dims: *const i64,
        pool: *mut onnxc_pool,
        memory: *const onnxc_memory,
        session: *mut *mut onnxc_session,
    ) -> c_int;
    pub fn onnxc_session_destroy(session: *mut onnxc_session);
    pub fn onnxc_session_set_dims(session: *mut onnxc_session, dims: *const i64) -> c_int;
    pub fn onnxc_session_reset(session: *mut onnxc_session);
    pub fn onnxc_session_inputs(session: *mut onnxc_session) -> *mut onnxc_value;
    pub fn onnxc_session_outputs(session: *const onnxc_session) -> *const onnxc_value;
    pub fn onnxc_session_call(session: *mut onnxc_session) -> *mut onnxc_call;
    pub fn onnxc_session_set_trace(session: *mut onnxc_session, trace: Option<onnxc_trace_fn>, user: *mut c_void);
    pub fn onnxc_session_run(session: *mut onnxc_session) -> c_int;
    pub fn onnxc_session_fault(session: *const onnxc_session) -> *const onnxc_fault;
}

/// Asserts the size of a struct and the offsets of its fields.
#[cfg(target_pointer_width = "64")]
macro_rules! layout {
    ($type:ty, $size:literal, $($field:ident = $offset:literal),+) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)+
        };
    };
}

#[cfg(target_pointer_width = "64")]
mod layouts {
    use super::*;

    layout!(DLDevice, 8, device_type = 0, device_id = 4);
    layout!(DLDataType, 4, code = 0, bits = 1, lanes = 2);
    layout!(DLTensor, 48, data = 0, device = 8, ndim = 16, dtype = 20, shape = 24, strides = 32, byte_offset = 40);
    layout!(onnxc_string, 16, offset = 0, length = 8);
    layout!(
        onnxc_value,
        192,
        tensor = 0,
        capacity_bytes = 48,
        kind = 56,
        flags = 60,
        dims = 64,
        items = 128,
        item_count = 136,
        item_capacity = 144,
        string_bytes = 152,
        string_used = 160,
        string_capacity = 168,
        reserved = 176
    );
    layout!(onnxc_fault, 32, output = 0, port = 4, axis = 8, step = 12, expected = 16, actual = 24);
    layout!(
        onnxc_call,
        104,
        struct_size = 0,
        abi_version = 4,
        arena = 8,
        arena_bytes = 16,
        user = 24,
        parallel_for = 32,
        max_workers = 40,
        flags = 44,
        alloc = 48,
        release = 56,
        trace = 64,
        weights = 72,
        weights_bytes = 80,
        fault = 88,
        stream = 96
    );
    layout!(
        onnxc_port,
        144,
        name = 0,
        kind = 8,
        ndim = 12,
        dtype = 16,
        onnx_dtype = 20,
        dims = 24,
        symbols = 88,
        bytes = 120,
        item = 128,
        key_dtype = 136,
        flags = 140
    );
    layout!(onnxc_symbol, 24, name = 0, min = 8, max = 16);
    layout!(
        onnxc_model,
        192,
        abi_version = 0,
        struct_size = 4,
        name = 8,
        hash = 16,
        memory = 48,
        flags = 52,
        input_count = 56,
        output_count = 60,
        inputs = 64,
        outputs = 72,
        symbol_count = 80,
        step_count = 84,
        symbols = 88,
        steps = 96,
        arena_bytes = 104,
        worker_bytes = 112,
        code_bytes = 120,
        weight_bytes = 128,
        plan = 136,
        run = 144,
        run_dl = 152,
        status = 160,
        target = 168,
        weights_hash = 176,
        reserved = 184
    );
}
