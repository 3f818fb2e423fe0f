//! A compiled model as Rust sees it: the checked descriptor and its ports.

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::sync::Arc;

use crate::abi::{self, onnxc_model, onnxc_port};
use crate::dtype::DataType;
use crate::error::Error;

/// One extent of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this extent.
    Fixed(i64),
    /// The extent of a symbol, an index into [`Model::symbols`].
    Symbol(usize),
    /// An expression over symbols, or known only after a run.
    Unknown,
}

/// What a port holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor.
    Tensor,
    /// A sequence of tensors.
    Sequence,
    /// A map.
    Map,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name in the model.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// The element type; `None` for one that this version does not know.
    pub dtype: Option<DataType>,
    /// The extents, `None` when even the rank depends on data.
    pub dims: Option<Vec<Dim>>,
    /// Whether the value may be absent.
    pub optional: bool,
    /// Whether it is a state that sessions keep from run to run: runs neither take it nor give it.
    pub state: bool,
    /// The axis along which an input that is a state grows; `None` where it does not.
    pub grows: Option<usize>,
    /// The output that is the next value of an input that is a state.
    pub next: Option<usize>,
}

/// A named dim of the model and the range it was compiled for, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The name in the model.
    pub name: String,
    /// The least extent.
    pub min: i64,
    /// The greatest extent.
    pub max: i64,
}

/// How a model's memory is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Every size is fixed.
    Static,
    /// Sizes follow from the symbols.
    Dims,
    /// Sizes depend on data.
    Data,
}

/// A compiled model. Cheap to clone; any number of sessions, on any threads, may use it at once.
#[derive(Clone)]
pub struct Model {
    raw: *const onnxc_model,
    described: Arc<Description>,
    _keep: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the descriptor is read-only and the model's functions are re-entrant (the contract of `from_raw`).
unsafe impl Send for Model {}
// SAFETY: as for Send.
unsafe impl Sync for Model {}

struct Description {
    name: String,
    target: String,
    memory: Memory,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    symbols: Vec<Symbol>,
    steps: Vec<String>,
}

impl Model {
    /// A model linked into the program.
    ///
    /// # Safety
    /// As for [`Model::from_raw`].
    pub unsafe fn from_static(model: &'static onnxc_model) -> Result<Self, Error> {
        // SAFETY: the caller's promise; a static lives long enough.
        unsafe { Self::describe(model, None) }
    }

    /// A model that a loader placed in memory; `keep` owns that memory and is dropped after the last clone and session.
    ///
    /// # Safety
    /// `model` points to the descriptor of an object made by onnxc (or by hand to the contract of `onnxc.h`), loaded,
    /// relocated and executable, which stays so and unchanged while `keep` lives. If its first 8 bytes are readable
    /// and name another ABI version, nothing else is read.
    pub unsafe fn from_raw(model: *const onnxc_model, keep: Arc<dyn Any + Send + Sync>) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        unsafe { Self::describe(model, Some(keep)) }
    }

    /// Checks and copies the descriptor.
    ///
    /// # Safety
    /// As for [`Model::from_raw`].
    unsafe fn describe(raw: *const onnxc_model, keep: Option<Arc<dyn Any + Send + Sync>>) -> Result<Self, Error> {
        if raw.is_null() || !raw.is_aligned() {
            return Err(Error::Descriptor("its pointer is null or misaligned"));
        }
        // SAFETY: not null, aligned and readable by the caller's promise; only these two fields are read before the
        // version is known.
        let (version, size) = unsafe { ((*raw).abi_version, (*raw).struct_size) };
        if version != abi::ABI_VERSION {
            return Err(Error::Descriptor("its ABI version is another"));
        }
        if (size as usize) < size_of::<onnxc_model>() {
            return Err(Error::Descriptor("its struct is too small"));
        }
        // SAFETY: a descriptor of this version and size, by the caller's promise.
        let model = unsafe { &*raw };
        if model.plan.is_none() || model.run.is_none() {
            return Err(Error::Descriptor("it lacks a function"));
        }
        let memory = match model.memory {
            abi::MEMORY_STATIC => Memory::Static,
            abi::MEMORY_DIMS => Memory::Dims,
            abi::MEMORY_DATA => Memory::Data,
            _ => return Err(Error::Descriptor("its memory class is unknown")),
        };
        // SAFETY: counts and pointers of a descriptor belong together, and its strings end, by the caller's promise.
        let described = unsafe {
            Description {
                name: text(model.name)?,
                target: text(model.target)?,
                memory,
                inputs: table(model.inputs, model.input_count)?.iter().map(|p| port(p)).collect::<Result<_, _>>()?,
                outputs: table(model.outputs, model.output_count)?
                    .iter()
                    .map(|p| Ok(Port { next: None, ..port(p)? }))
                    .collect::<Result<_, Error>>()?,
                symbols: table(model.symbols, model.symbol_count)?
                    .iter()
                    .map(|symbol| Ok(Symbol { name: text(symbol.name)?, min: symbol.min, max: symbol.max }))
                    .collect::<Result<_, Error>>()?,
                steps: table(model.steps, model.step_count)?.iter().map(|&s| text(s)).collect::<Result<_, _>>()?,
            }
        };
        let symbol_count = described.symbols.len();
        let dims = described.inputs.iter().chain(&described.outputs).flat_map(|port| port.dims.iter().flatten());
        if dims.into_iter().any(|dim| matches!(dim, Dim::Symbol(index) if *index >= symbol_count)) {
            return Err(Error::Descriptor("a dim's symbol does not exist"));
        }
        let outputs = described.outputs.len();
        if described.inputs.iter().any(|port| port.next.is_some_and(|next| next >= outputs) || !grows_by_symbol(port)) {
            return Err(Error::Descriptor("a state's output or axis does not exist"));
        }
        Ok(Self { raw, described: Arc::new(described), _keep: keep })
    }

    /// The prefix of the model's symbols.
    pub fn name(&self) -> &str {
        &self.described.name
    }

    /// The target that the model was compiled for.
    pub fn target(&self) -> &str {
        &self.described.target
    }

    /// How the model's memory is found.
    pub fn memory(&self) -> Memory {
        self.described.memory
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Port] {
        &self.described.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Port] {
        &self.described.outputs
    }

    /// The named dims.
    pub fn symbols(&self) -> &[Symbol] {
        &self.described.symbols
    }

    /// The names of the steps that a trace reports.
    pub fn steps(&self) -> &[String] {
        &self.described.steps
    }

    /// The hash of the source model and of what the compiler was asked for.
    pub fn hash(&self) -> [u8; 32] {
        self.raw().hash
    }

    /// The bytes of machine code.
    pub fn code_bytes(&self) -> u64 {
        self.raw().code_bytes
    }

    /// The bytes of weights, embedded or external.
    pub fn weight_bytes(&self) -> u64 {
        self.raw().weight_bytes
    }

    /// What the file of external weights hashes to (SHA-256); `None` where the weights are embedded.
    pub fn weights_hash(&self) -> Option<[u8; 32]> {
        let model = self.raw();
        let external = model.flags & abi::MODEL_EXTERNAL_WEIGHTS != 0 && !model.weights_hash.is_null();
        // SAFETY: a pointer of a descriptor that is not null has 32 bytes behind it, by the promise of `from_raw`.
        external.then(|| unsafe { model.weights_hash.cast::<[u8; 32]>().read() })
    }

    /// The bytes of arena that a run needs for these values of the symbols and this many workers.
    pub fn plan(&self, dims: &[i64], workers: usize) -> Result<usize, Error> {
        self.check_symbol_count(dims)?;
        let workers = i32::try_from(workers).map_err(|_| Error::status(crate::Status::Workers.code()))?;
        let plan = self.raw().plan.expect("describe checked it");
        let mut bytes = 0;
        // SAFETY: one dim per symbol, and a place for the answer.
        let status = unsafe { plan(dims.as_ptr(), workers, &mut bytes) };
        if status == 0 { Ok(bytes) } else { Err(Error::status(status)) }
    }

    /// The descriptor.
    pub fn raw(&self) -> &onnxc_model {
        // SAFETY: checked by `describe`; it lives as long as `_keep`, and so as `self`.
        unsafe { &*self.raw }
    }

    pub(crate) fn check_symbol_count(&self, dims: &[i64]) -> Result<(), Error> {
        let expected = self.symbols().len();
        if dims.len() == expected { Ok(()) } else { Err(Error::SymbolCount { expected, actual: dims.len() }) }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Model").field("name", &self.name()).field("target", &self.target()).finish()
    }
}

/// Whether the axis along which a state grows, if it does, is there and a symbol, whose range says how far.
fn grows_by_symbol(port: &Port) -> bool {
    let Some(axis) = port.grows else { return true };
    matches!(port.dims.as_ref().and_then(|dims| dims.get(axis)), Some(Dim::Symbol(_)))
}

/// The entries of a table of the descriptor.
///
/// # Safety
/// A pointer that is not null has `count` entries behind it.
unsafe fn table<'a, T>(first: *const T, count: u32) -> Result<&'a [T], Error> {
    match (first.is_null() || !first.is_aligned(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Error::Descriptor("a table is null or misaligned")),
        // SAFETY: the caller's promise, not null and aligned.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(first, count as usize) }),
    }
}

/// A string of the descriptor.
///
/// # Safety
/// A pointer that is not null leads to a terminated string.
unsafe fn text(pointer: *const c_char) -> Result<String, Error> {
    if pointer.is_null() {
        return Err(Error::Descriptor("a name is null"));
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(pointer) };
    Ok(bytes.to_string_lossy().into_owned())
}

/// A port of the descriptor.
///
/// # Safety
/// The port's name is null or a terminated string.
unsafe fn port(raw: &onnxc_port) -> Result<Port, Error> {
    let kind = match raw.kind {
        abi::KIND_TENSOR => Kind::Tensor,
        abi::KIND_SEQUENCE => Kind::Sequence,
        abi::KIND_MAP => Kind::Map,
        _ => return Err(Error::Descriptor("a port's kind is unknown")),
    };
    let rank = usize::try_from(raw.ndim).ok();
    if rank.is_some_and(|rank| rank > abi::MAX_RANK) {
        return Err(Error::Descriptor("a port's rank is too great"));
    }
    let dim = |axis: usize| match (raw.dims[axis], usize::try_from(raw.symbols[axis])) {
        (fixed @ 0.., _) => Dim::Fixed(fixed),
        (_, Ok(symbol)) => Dim::Symbol(symbol),
        (_, Err(_)) => Dim::Unknown,
    };
    let state = raw.flags & abi::PORT_STATE != 0;
    Ok(Port {
        // SAFETY: the caller's promise.
        name: unsafe { text(raw.name)? },
        kind,
        dtype: DataType::from_onnx(raw.onnx_dtype),
        dims: rank.map(|rank| (0..rank).map(dim).collect()),
        optional: raw.flags & abi::PORT_OPTIONAL != 0,
        state,
        grows: state.then_some(((raw.flags >> 4) & 15) as usize).and_then(|axis| axis.checked_sub(1)),
        next: state.then_some((raw.flags >> 8) as usize),
    })
}
