//! What the modules of [`include_model!`](crate::include_model) stand on: runs of a model that is linked into the program,
//! with inputs and outputs whose Rust types say their shapes.
//!
//! A generated module names its ports and builds [`onnxc_value`]s from them; everything else is here. Nothing here locks,
//! starts a thread or, without the feature `alloc`, allocates.

mod array;
mod failure;
#[cfg(feature = "alloc")]
mod owned;
mod parallel;

use core::mem::MaybeUninit;

pub use array::{Array, View, ViewError};
pub use failure::RunError;
#[cfg(feature = "alloc")]
pub use owned::{Fixed, Growing};
pub use parallel::Parallel;

use crate::abi::{self, onnxc_call, onnxc_fault, onnxc_model, onnxc_value};
use crate::status::Status;
use parallel::run_tasks;

/// Brings in the module that `onnxc::build` made for the model of this name: `include_model!(pub digits);` declares
/// `pub mod digits`, with `Inputs`, `Outputs`, `Model` (feature `alloc`) and `run_in`.
#[macro_export]
macro_rules! include_model {
    ($(#[$attribute:meta])* $visibility:vis $name:ident) => {
        $(#[$attribute])*
        #[allow(dead_code)]
        $visibility mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

/// What needs the feature `alloc` of this crate, whatever the features of the crate that says it.
#[cfg(feature = "alloc")]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_alloc {
    ($($item:item)*) => { $($item)* };
}

/// What needs the feature `alloc` of this crate, which is off.
#[cfg(not(feature = "alloc"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __with_alloc {
    ($($item:item)*) => {};
}

/// Memory of an arena: 64 bytes aligned to 64.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Block([MaybeUninit<u8>; abi::ALIGN]);

impl Block {
    /// A block of no particular contents.
    pub const NEW: Self = Self([MaybeUninit::uninit(); abi::ALIGN]);
}

impl Default for Block {
    fn default() -> Self {
        Self::NEW
    }
}

/// A type that a generated module makes of numbers, `bool`s and arrays of them.
///
/// # Safety
/// All bytes zero is a value of the type.
pub unsafe trait Zeroable {}

/// The most symbols of a model that [`plan`] takes.
pub const MAX_SYMBOLS: usize = 64;

/// Blocks for this many bytes.
pub const fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(abi::ALIGN)
}

/// An input (or output) of the model over elements at `data`, of which there are as many as `dims` say.
///
/// # Panics
/// When there are more dims than [`abi::MAX_RANK`], or a dim is beyond `i64`.
pub fn value<T>(model: &onnxc_model, output: bool, port: usize, data: *const T, dims: &[usize]) -> onnxc_value {
    // SAFETY: a descriptor has as many ports as it says, and a generated module counts them right.
    let port = unsafe { &*if output { model.outputs } else { model.inputs }.add(port) };
    let mut value = onnxc_value {
        tensor: abi::DLTensor {
            data: data.cast_mut().cast(),
            device: abi::DLDevice { device_type: abi::DEVICE_CPU, device_id: 0 },
            ndim: dims.len() as i32,
            dtype: port.dtype,
            // `run` points it to the dims, once the value has its place.
            shape: core::ptr::null_mut(),
            strides: core::ptr::null_mut(),
            byte_offset: 0,
        },
        capacity_bytes: 0,
        kind: abi::KIND_TENSOR,
        flags: 0,
        dims: [0; abi::MAX_RANK],
        items: core::ptr::null_mut(),
        item_count: 0,
        item_capacity: 0,
        string_bytes: core::ptr::null_mut(),
        string_used: 0,
        string_capacity: 0,
        reserved: [0; 2],
    };
    for (place, &dim) in value.dims[..dims.len()].iter_mut().zip(dims) {
        *place = i64::try_from(dim).expect("an extent fits i64");
    }
    value
}

/// An output of the model with room for `bytes` bytes at `data`.
pub fn room(model: &onnxc_model, port: usize, data: *mut u8, bytes: usize) -> onnxc_value {
    let mut value = value(model, true, port, data, &[]);
    value.capacity_bytes = bytes as u64;
    value
}

/// The arena of a run.
#[derive(Clone, Copy)]
pub struct Memory {
    first: *mut Block,
    bytes: usize,
}

impl Memory {
    /// These blocks.
    pub fn of(blocks: &mut [Block]) -> Self {
        Self { first: blocks.as_mut_ptr(), bytes: size_of_val(blocks) }
    }
}

/// Runs a model. Afterwards the outputs' `dims` say their shapes, and `bool`s are 0 or 1.
///
/// # Safety
/// The model is an object of onnxc's, linked in. `inputs` and `outputs` have a value for each of its ports; behind each is
/// as much memory as its dims or its capacity say, of outputs and arena for this call alone.
pub unsafe fn run(
    model: &'static onnxc_model,
    inputs: &mut [onnxc_value],
    outputs: &mut [onnxc_value],
    memory: Memory,
    parallel: Option<&dyn Parallel>,
) -> Result<(), RunError> {
    // SAFETY: the caller's promise.
    unsafe { run_with(model, inputs, outputs, memory, parallel, None) }
}

/// The caller's functions that give and take memory.
type Heap = (abi::onnxc_alloc_fn, abi::onnxc_release_fn);

/// As [`run`], with memory for what data decides.
///
/// # Safety
/// As for [`run`]; the functions keep the contract of `onnxc.h` and do not look at `user`.
unsafe fn run_with(
    model: &'static onnxc_model,
    inputs: &mut [onnxc_value],
    outputs: &mut [onnxc_value],
    memory: Memory,
    parallel: Option<&dyn Parallel>,
    heap: Option<Heap>,
) -> Result<(), RunError> {
    assert_eq!((inputs.len(), outputs.len()), (model.input_count as usize, model.output_count as usize));
    for value in inputs.iter_mut().chain(outputs.iter_mut()) {
        value.tensor.shape = value.dims.as_mut_ptr();
    }
    let mut fault = onnxc_fault { output: 0, port: -1, axis: -1, step: -1, expected: -1, actual: -1 };
    let mut call = onnxc_call {
        arena: memory.first.cast(),
        arena_bytes: memory.bytes,
        fault: &raw mut fault,
        alloc: heap.map(|(alloc, _)| alloc),
        release: heap.map(|(_, release)| release),
        ..onnxc_call::INIT
    };
    if let Some(parallel) = &parallel {
        call.user = (&raw const *parallel).cast_mut().cast();
        call.parallel_for = Some(run_tasks);
        call.max_workers = parallel.workers().clamp(1, abi::MAX_WORKERS) as i32;
    }
    let function = model.run.expect("an object of onnxc's has all functions");
    // SAFETY: the caller's promise; the call and what it points to live until the function returns.
    let status = unsafe { function(inputs.as_ptr(), outputs.as_mut_ptr(), &call) };
    if status != 0 {
        return Err(RunError::new(model, Status::from_code(status), fault));
    }
    for output in outputs.iter().filter(|output| output.tensor.dtype == crate::DataType::Bool.dlpack()) {
        let elements = output.dims[..output.tensor.ndim as usize].iter().product::<i64>() as usize;
        for place in 0..elements {
            // SAFETY: the run filled as many bytes as its shape says.
            unsafe {
                let byte = output.tensor.data.cast::<u8>().add(place);
                *byte = u8::from(*byte != 0);
            }
        }
    }
    Ok(())
}

/// The extents of an output after a run.
///
/// # Panics
/// When its rank is another one.
pub fn shape<const RANK: usize>(output: &onnxc_value) -> [usize; RANK] {
    assert_eq!(output.tensor.ndim as usize, RANK, "the rank is the port's");
    core::array::from_fn(|axis| output.dims[axis] as usize)
}

/// An output of fixed shape after a run.
///
/// # Safety
/// `A` is the Rust type of the port, and the memory behind the output is not written to while `'a` lasts.
pub unsafe fn array<'a, A: Array>(output: &onnxc_value) -> &'a A {
    if size_of::<A>() == 0 {
        // SAFETY: a type without bytes is anywhere.
        return unsafe { core::ptr::NonNull::<A>::dangling().as_ref() };
    }
    // SAFETY: the run filled the array, for as long as the caller says.
    unsafe { &*output.tensor.data.cast_const().cast::<A>() }
}

/// The bytes of arena that a run on one worker needs for these values of the model's symbols.
pub fn plan(model: &'static onnxc_model, dims: &[usize]) -> Result<usize, RunError> {
    let nothing = onnxc_fault { output: 0, port: -1, axis: -1, step: -1, expected: -1, actual: -1 };
    let mut numbers = [0; MAX_SYMBOLS];
    assert_eq!(dims.len(), model.symbol_count as usize, "the module has all symbols");
    for (place, &dim) in numbers.iter_mut().zip(dims) {
        *place = i64::try_from(dim).map_err(|_| RunError::new(model, Status::DimRange, nothing))?;
    }
    let mut bytes = 0;
    let function = model.plan.expect("an object of onnxc's has all functions");
    // SAFETY: a number per symbol, and a place for the answer.
    let status = unsafe { function(numbers.as_ptr(), 1, &mut bytes) };
    if status == 0 { Ok(bytes) } else { Err(RunError::new(model, Status::from_code(status), nothing)) }
}

/// The elements of an output after a run.
///
/// # Safety
/// `T` is the Rust type of the port, and the memory behind the output is not written to while `'a` lasts.
pub unsafe fn elements<'a, T, const RANK: usize>(output: &onnxc_value) -> View<'a, T, RANK> {
    let shape = shape(output);
    let length = shape.iter().product();
    let data = match length {
        0 => &[],
        // SAFETY: the run filled as many elements as the shape says, aligned to one, for as long as the caller says.
        _ => unsafe { core::slice::from_raw_parts(output.tensor.data.cast_const().cast::<T>(), length) },
    };
    View::new(shape, data).expect("there are as many elements as the shape says")
}
