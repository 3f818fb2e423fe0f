//! What a compiled model shows to its callers, for those who write it down: the Rust module and the contract.

use onnxc_ir::dtype::DType;
use onnxc_ir::program::{Port, Program};

/// One extent of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always this.
    Fixed(i64),
    /// An expression over dims that inputs or data decide, as text.
    Varies(String),
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePort {
    /// Its ONNX name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its extents, outermost first.
    pub dims: Vec<Extent>,
}

impl InterfacePort {
    /// The extents, where all are fixed.
    pub fn fixed(&self) -> Option<Vec<i64>> {
        let fixed = |dim: &Extent| match dim {
            Extent::Fixed(n) => Some(*n),
            Extent::Varies(_) => None,
        };
        self.dims.iter().map(fixed).collect()
    }
}

impl std::fmt::Display for InterfacePort {
    /// `f32[batch, 10]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self
            .dims
            .iter()
            .map(|dim| match dim {
                Extent::Fixed(n) => n.to_string(),
                Extent::Varies(text) => text.clone(),
            })
            .collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

/// A named dim that inputs decide, and its range, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSymbol {
    /// The name in the model.
    pub name: String,
    /// The least extent.
    pub min: i64,
    /// The greatest extent.
    pub max: i64,
}

/// How a model's memory is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryClass {
    /// Every size is fixed.
    Static,
    /// Sizes follow from the symbols.
    Dims,
    /// Sizes depend on data.
    Data,
}

/// A compiled model from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The prefix of its symbols.
    pub prefix: String,
    /// In the model's order.
    pub inputs: Vec<InterfacePort>,
    /// In the model's order.
    pub outputs: Vec<InterfacePort>,
    /// In the order that `plan` takes.
    pub symbols: Vec<InterfaceSymbol>,
    /// How its memory is found.
    pub memory: MemoryClass,
    /// Bytes of the arena without the workers' scratch, as an expression over the symbols.
    pub arena: Extent,
    /// Bytes of scratch that each worker adds.
    pub worker_bytes: u64,
    /// Bytes of the arena of one worker, at most; none where nothing bounds it.
    pub arena_bytes_most: Option<u64>,
}

impl Interface {
    /// Of a lowered model.
    pub fn of(program: &Program) -> Self {
        let extent = |dim: &onnxc_ir::dim::Dim| match dim.as_const() {
            Some(n) => Extent::Fixed(n),
            None => Extent::Varies(dim.display(&program.symbols).to_string()),
        };
        let port = |port: &Port| InterfacePort {
            name: port.name.clone(),
            dtype: port.ty.dtype,
            dims: port.ty.shape.iter().map(extent).collect(),
        };
        let named = program.named_symbols();
        let symbol = |s| {
            let (min, max) = program.symbols.bounds(s);
            InterfaceSymbol { name: program.symbols.name(s).to_owned(), min, max }
        };
        Self {
            prefix: program.name.clone(),
            inputs: program.inputs.iter().map(port).collect(),
            outputs: program.outputs.iter().map(port).collect(),
            symbols: program.symbols.iter().take(named).map(symbol).collect(),
            memory: match (program.allocates(), named) {
                (true, _) => MemoryClass::Data,
                (false, 0) => MemoryClass::Static,
                (false, _) => MemoryClass::Dims,
            },
            arena: extent(&program.arena_bytes),
            worker_bytes: program.scratch_bytes,
            arena_bytes_most: match program.arena_bytes.bounds(&program.symbols).1 {
                i64::MAX => None,
                most => Some(most as u64 + program.scratch_bytes),
            },
        }
    }

    /// Bytes of the arena of one worker, where every size is fixed.
    pub fn arena_bytes(&self) -> Option<u64> {
        match self.arena {
            Extent::Fixed(bytes) => Some(bytes as u64 + self.worker_bytes),
            Extent::Varies(_) => None,
        }
    }
}
