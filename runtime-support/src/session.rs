//! Runs a model with an arena, outputs and, where wanted, threads of its own.

use std::ffi::{c_int, c_void};
use std::fmt::Write;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::abi::{self, onnxc_fault, onnxc_session, onnxc_value};
use crate::dtype::DataType;
use crate::error::Error;
use crate::model::{Dim, Model};
use crate::pool::Pool;
use crate::status::Status;
use crate::tensor::TensorView;
use crate::weights::Weights;

/// Told of a step's begin (`true`) and end (`false`): an index into [`Model::steps`].
pub type Trace = Box<dyn FnMut(usize, bool) + Send>;

/// Memory for a session: its arena, its outputs, and tensors whose sizes data decides.
pub trait Allocator: Send {
    /// `bytes` (not 0) of memory that nothing else uses until it is released, or null. `align` is a power of two.
    fn allocate(&mut self, bytes: usize, align: usize) -> *mut u8;

    /// Takes back what `allocate` gave for that many bytes.
    fn release(&mut self, pointer: *mut u8, bytes: usize);
}

/// A model that is ready to run.
pub struct Session {
    raw: NonNull<onnxc_session>,
    model: Model,
    /// Boxed twice, so that the library can hold a thin pointer to it.
    trace: Option<Box<Trace>>,
    ran: bool,
    /// As `trace`, and dropped after the session.
    _allocator: Option<Box<Box<dyn Allocator>>>,
    /// Mapped as long as the session may read it.
    weights: Option<Arc<Weights>>,
    /// Dropped after the session: fields drop after `Drop::drop`.
    _pool: Option<Arc<Pool>>,
}

// SAFETY: the library's session has no ties to a thread; &Session only reads what no run is writing.
unsafe impl Send for Session {}

impl Session {
    /// A session for these values of the model's symbols (none for a static model). `threads`: 1 runs on the calling
    /// thread, more start a pool, 0 takes one worker per processor.
    pub fn new(model: &Model, dims: &[i64], threads: usize) -> Result<Self, Error> {
        let pool = if threads == 1 { None } else { Some(Arc::new(Pool::new(threads)?)) };
        Self::with_pool(model, dims, pool)
    }

    /// A session on a pool that others may use too; `None` runs on the calling thread.
    pub fn with_pool(model: &Model, dims: &[i64], pool: Option<Arc<Pool>>) -> Result<Self, Error> {
        model.check_symbol_count(dims)?;
        let mut raw = std::ptr::null_mut();
        let pool_pointer = pool.as_ref().map_or(std::ptr::null_mut(), |pool| pool.as_ptr());
        // SAFETY: the model is checked, has a dim per symbol, and outlives the session as the pool does.
        let status = unsafe { abi::onnxc_session_create_on(model.raw(), dims.as_ptr(), pool_pointer, &mut raw) };
        match NonNull::new(raw) {
            Some(raw) if status == 0 => Ok(Self {
                raw,
                model: model.clone(),
                trace: None,
                ran: false,
                weights: None,
                _allocator: None,
                _pool: pool,
            }),
            _ => Err(Error::status(status)),
        }
    }

    /// A session on the calling thread with memory from `allocator`. A panic in it aborts the process.
    pub fn with_allocator(model: &Model, dims: &[i64], allocator: Box<dyn Allocator>) -> Result<Self, Error> {
        unsafe extern "C" fn alloc(user: *mut c_void, bytes: usize, align: usize) -> *mut c_void {
            // SAFETY: user is the boxed allocator of a session that one thread uses at a time.
            unsafe { &mut *user.cast::<Box<dyn Allocator>>() }.allocate(bytes, align).cast()
        }
        unsafe extern "C" fn release(user: *mut c_void, pointer: *mut c_void, bytes: usize) {
            // SAFETY: as above.
            unsafe { &mut *user.cast::<Box<dyn Allocator>>() }.release(pointer.cast(), bytes)
        }
        model.check_symbol_count(dims)?;
        let mut allocator = Box::new(allocator);
        let user = (&raw mut *allocator).cast();
        let memory = abi::onnxc_memory { user, alloc: Some(alloc), release: Some(release) };
        let mut raw = std::ptr::null_mut();
        let no_pool = std::ptr::null_mut();
        // SAFETY: the model is checked and has a dim per symbol; it and the box outlive the session.
        let status = unsafe { abi::onnxc_session_create_in(model.raw(), dims.as_ptr(), no_pool, &memory, &mut raw) };
        let model = model.clone();
        match NonNull::new(raw) {
            Some(raw) if status == 0 => Ok(Self {
                raw,
                model,
                trace: None,
                ran: false,
                weights: None,
                _allocator: Some(allocator),
                _pool: None,
            }),
            _ => Err(Error::status(status)),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Plans again for other values of the symbols.
    pub fn set_dims(&mut self, dims: &[i64]) -> Result<(), Error> {
        self.model.check_symbol_count(dims)?;
        self.ran = false;
        // SAFETY: one dim per symbol.
        let status = unsafe { abi::onnxc_session_set_dims(self.raw.as_ptr(), dims.as_ptr()) };
        if status == 0 { Ok(()) } else { Err(Error::status(status)) }
    }

    /// Gives the session the weights of a model that has them in a file of their own.
    ///
    /// # Errors
    /// [`Status::Weights`] where they are another model's.
    pub fn set_weights(&mut self, weights: Arc<Weights>) -> Result<(), Error> {
        if !weights.belong_to(&self.model) {
            return Err(Error::status(Status::Weights.code()));
        }
        let raw = weights.raw();
        // SAFETY: the session's call lives as long as the session, and nothing runs on it.
        unsafe {
            let call = abi::onnxc_session_call(self.raw.as_ptr());
            (*call).weights = raw.data;
            (*call).weights_bytes = raw.bytes;
        }
        self.weights = Some(weights);
        Ok(())
    }

    /// The bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        // SAFETY: the session's call lives as long as the session.
        unsafe { (*abi::onnxc_session_call(self.raw.as_ptr())).arena_bytes }
    }

    /// Reports the steps of runs to come; `None` stops it. A panic in the callback aborts the process.
    pub fn set_trace(&mut self, trace: Option<Trace>) {
        unsafe extern "C" fn call(user: *mut c_void, step: i64, begin: c_int) {
            // SAFETY: user is the boxed Trace of a session that is running, which nobody else touches meanwhile.
            let trace = unsafe { &mut *user.cast::<Trace>() };
            trace(step as usize, begin != 0);
        }
        let mut boxed = trace.map(Box::new);
        let (function, user) = match &mut boxed {
            Some(trace) => (Some(call as abi::onnxc_trace_fn), (&raw mut **trace).cast::<c_void>()),
            None => (None, std::ptr::null_mut()),
        };
        // SAFETY: the box lives until it is replaced here or the session is dropped.
        unsafe { abi::onnxc_session_set_trace(self.raw.as_ptr(), function, user) };
        self.trace = boxed;
    }

    /// Begins again: growing states are empty, the others zeros, as in a new session.
    pub fn reset(&mut self) {
        // SAFETY: the session is alive and nothing runs on it.
        unsafe { abi::onnxc_session_reset(self.raw.as_ptr()) }
    }

    /// Puts contents into the state that is the model's input of this number, as if runs had left them there. Its dims are
    /// those of the session, but for the axis that grows.
    ///
    /// # Errors
    /// Where the type or the shape is not the state's, or there is no room.
    pub fn put_state(&mut self, input: usize, contents: &TensorView<'_>) -> Result<(), Error> {
        let place = self.state_place(input)?;
        let mut shape = place.shape.clone();
        let same_rank = contents.shape().len() == shape.len();
        if let (Some(axis), true) = (place.grows, same_rank) {
            shape[axis] = contents.shape()[axis];
            if shape[axis] > place.most {
                return Err(Error::status(Status::DimRange.code()));
            }
        }
        if contents.shape() != shape {
            return Err(Error::status(Status::Dim.code()));
        }
        if contents.dtype() != place.dtype {
            return Err(Error::ElementType { expected: place.dtype, actual: contents.dtype() });
        }
        let (rows, apart, row) = place.rows(&shape);
        for (number, from) in (0..rows).zip(contents.bytes().chunks_exact(row.max(1))) {
            // SAFETY: the buffer has room for as many rows of the greatest extent, each `apart` bytes, of which `row` are
            // no more; nothing runs on the session.
            unsafe { place.data.add(number * apart).copy_from_nonoverlapping(from.as_ptr(), row) };
        }
        if let Some(axis) = place.grows {
            self.set_extent(input, axis, shape[axis]);
        }
        Ok(())
    }

    /// Forgets what runs have put into a state that grows behind the first `extent` positions.
    ///
    /// # Errors
    /// Where the input is no such state, or has fewer.
    pub fn truncate_state(&mut self, input: usize, extent: i64) -> Result<(), Error> {
        let place = self.state_place(input)?;
        match place.grows {
            Some(axis) if (0..=place.shape[axis]).contains(&extent) => {
                self.set_extent(input, axis, extent);
                Ok(())
            }
            _ => Err(Error::status(Status::DimRange.code())),
        }
    }

    /// The shape and the elements of the state that is the model's input of this number, densely.
    ///
    /// # Errors
    /// Where the input is no state.
    pub fn state(&self, input: usize) -> Result<(DataType, Vec<i64>, Vec<u8>), Error> {
        let place = self.state_place(input)?;
        let (rows, apart, row) = place.rows(&place.shape);
        let mut bytes = Vec::with_capacity(rows * row);
        for number in 0..rows {
            // SAFETY: as for `put_state`; the bytes were zeros before runs wrote them.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(place.data.add(number * apart), row) });
        }
        Ok((place.dtype, place.shape, bytes))
    }

    fn set_extent(&mut self, input: usize, axis: usize, extent: i64) {
        // SAFETY: the session has as many input values as the model has inputs, and nothing runs on it.
        let value = unsafe { &mut *abi::onnxc_session_inputs(self.raw.as_ptr()).add(input) };
        value.dims[axis] = extent;
    }

    fn state_place(&self, input: usize) -> Result<StatePlace, Error> {
        let port = self.model.inputs().get(input).filter(|port| port.state);
        let (Some(port), Some(dtype)) = (port, port.and_then(|port| port.dtype)) else {
            return Err(Error::status(Status::PortIndex.code()));
        };
        // SAFETY: the session has as many input values as the model has inputs.
        let value = unsafe { &*abi::onnxc_session_inputs(self.raw.as_ptr()).add(input) };
        let shape = value.dims[..value.tensor.ndim as usize].to_vec();
        let most = port.grows.map_or(0, |axis| match port.dims.as_ref().and_then(|dims| dims.get(axis)) {
            Some(Dim::Symbol(symbol)) => self.model.symbols()[*symbol].max,
            _ => shape[axis],
        });
        Ok(StatePlace { data: value.tensor.data.cast(), dtype, shape, grows: port.grows, most })
    }

    /// Runs on tensors in the order of the model's inputs, without those that are states.
    pub fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<(), Error> {
        let count = self.model.inputs().len();
        let expected = self.model.inputs().iter().filter(|port| !port.state).count();
        if inputs.len() != expected {
            return Err(Error::InputCount { expected, actual: inputs.len() });
        }
        self.ran = false;
        // SAFETY: the session has as many input values as the model has inputs, and nothing else refers to them.
        let values = unsafe { std::slice::from_raw_parts_mut(abi::onnxc_session_inputs(self.raw.as_ptr()), count) };
        let given = values.iter_mut().zip(self.model.inputs()).filter(|(_, port)| !port.state);
        for ((value, _), input) in given.zip(inputs) {
            set_input(value, input);
        }
        // SAFETY: the inputs' data, shapes and sizes are those of the views, which outlive the run.
        let status = unsafe { abi::onnxc_session_run(self.raw.as_ptr()) };
        if status != 0 {
            return Err(self.failure(status));
        }
        self.ran = true;
        Ok(())
    }

    /// Output `index` of the last run; states are none that can be had.
    ///
    /// # Panics
    /// When there is no such output, or the last run failed or never was.
    pub fn output(&self, index: usize) -> Result<TensorView<'_>, Error> {
        assert!(self.ran, "outputs exist after a successful run");
        let count = self.model.outputs().len();
        assert!(index < count, "the model has {count} outputs");
        // SAFETY: the session has as many output values as the model has outputs.
        let value = unsafe { &*abi::onnxc_session_outputs(self.raw.as_ptr()).add(index) };
        let dtype = DataType::from_dlpack(value.tensor.dtype);
        let state = self.model.outputs()[index].state;
        let (abi::KIND_TENSOR, Some(dtype), false) = (value.kind, dtype, state) else {
            return Err(Error::NotATensor(index));
        };
        let shape = &value.dims[..value.tensor.ndim as usize];
        let length = dtype.tensor_bytes(shape).expect("a model's outputs have sizes");
        let bytes = if length == 0 {
            &[]
        } else {
            // SAFETY: a successful run fills its outputs, which stay until the next run: &self holds that off.
            unsafe {
                let first = value.tensor.data.cast::<u8>().add(value.tensor.byte_offset as usize);
                std::slice::from_raw_parts(first, length)
            }
        };
        let view = TensorView::from_bytes(dtype, shape, bytes)?;
        if value.string_bytes.is_null() {
            return Ok(view);
        }
        // SAFETY: as above; the run says how many bytes it used.
        let text = unsafe { std::slice::from_raw_parts(value.string_bytes.cast::<u8>(), value.string_used as usize) };
        Ok(view.with_text(text))
    }

    /// Puts the session's record of a failure into words.
    fn failure(&self, code: i32) -> Error {
        // SAFETY: the record lives as long as the session.
        let fault = unsafe { *abi::onnxc_session_fault(self.raw.as_ptr()) };
        let status = Status::from_code(code);
        Error::Call { status, place: self.place(&fault), detail: detail(&fault) }
    }

    fn place(&self, fault: &onnxc_fault) -> String {
        let mut place = String::new();
        let (word, ports) =
            if fault.output == 0 { ("input", self.model.inputs()) } else { ("output", self.model.outputs()) };
        if let Some(port) = usize::try_from(fault.port).ok().and_then(|index| ports.get(index)) {
            write!(place, "{word} {} ({:?})", fault.port, port.name).expect("a String takes all");
            if fault.axis >= 0 {
                write!(place, ", axis {}", fault.axis).expect("a String takes all");
            }
            place.push_str(": ");
        } else if let Some(step) = usize::try_from(fault.step).ok().and_then(|index| self.model.steps().get(index)) {
            write!(place, "{step}: ").expect("a String takes all");
        }
        place
    }
}

/// Where a state lies: as if the axis that grows had its greatest extent.
struct StatePlace {
    data: *mut u8,
    dtype: DataType,
    shape: Vec<i64>,
    grows: Option<usize>,
    most: i64,
}

impl StatePlace {
    /// How many rows a state of this shape has, how many bytes they are apart, and how many each has.
    fn rows(&self, shape: &[i64]) -> (usize, usize, usize) {
        let bytes = |shape: &[i64]| self.dtype.tensor_bytes(shape).expect("a model's states have sizes");
        let Some(axis) = self.grows else { return (1, bytes(shape), bytes(shape)) };
        let rows = shape[..axis].iter().product::<i64>() as usize;
        let most: Vec<i64> = std::iter::once(self.most).chain(shape[axis + 1..].iter().copied()).collect();
        (rows, bytes(&most), bytes(&shape[axis..]))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: created by the library, and nobody else holds it.
        unsafe { abi::onnxc_session_destroy(self.raw.as_ptr()) }
    }
}

fn detail(fault: &onnxc_fault) -> String {
    if fault.expected < 0 && fault.actual == -1 {
        return String::new();
    }
    format!(" (expected {}, got {})", fault.expected, fault.actual)
}

fn set_input(value: &mut onnxc_value, input: &TensorView<'_>) {
    let shape = input.shape();
    value.kind = abi::KIND_TENSOR;
    value.dims[..shape.len()].copy_from_slice(shape);
    value.capacity_bytes = input.bytes().len() as u64;
    value.tensor.data = input.bytes().as_ptr().cast_mut().cast();
    value.tensor.ndim = shape.len() as i32;
    value.tensor.dtype = input.dtype().dlpack();
    value.tensor.shape = value.dims.as_mut_ptr();
    value.tensor.strides = std::ptr::null_mut();
    value.tensor.byte_offset = 0;
    value.string_bytes = input.text().as_ptr().cast_mut().cast();
    value.string_used = input.text().len() as u64;
    value.string_capacity = 0;
}
