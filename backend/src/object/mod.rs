//! Relocatable objects: compiled functions, descriptors and weights to bytes.
//!
//! [`ObjectSpec`] says what an object holds, without a format; [`emit`] turns it into an ELF, COFF or Mach-O file, an
//! archive or an image in memory. Weights are the only large part: an ELF object keeps them last in the file, so that
//! everything before them is laid out in memory and the weights are streamed behind it, chunk by chunk. Functions come
//! as machine code with relocations from whichever code generator made them, which is why no code generator's own
//! object writer is used.
//!
//! Invariants: equal specs give equal bytes. Every symbol is the prefix or begins with the prefix and `_`, and nothing
//! outside is referenced but `memcpy`, `memset`, `memmove` and `onnxc_*` ([`ObjectSpec::check`]).
//!
//! How code reaches data:
//! - descriptors and small constants: PC-relative, or absolute 8-byte words in other descriptors;
//! - weights: always through the GOT (`X86GOTPCRel4`; `Aarch64AdrGotPage21` and `Aarch64Ld64GotLo12Nc`) or through an
//!   absolute word in a descriptor, whatever their size, because above [`LARGE_WEIGHTS`] they lie in `.lrodata`,
//!   out of reach of 32-bit displacements. Code does not depend on which section it became.

mod cranelift_code;
mod eh_frame;
mod elf;
pub mod emit;
mod generic;
mod relocation;
pub mod symbol_names;
pub mod weights;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;

pub use cranelift_codegen::binemit::Reloc;
pub use cranelift_codegen::isa::unwind::UnwindInfo;
use gimli::write::CallFrameInstruction;
use thiserror::Error;

use crate::target::Target;
use weights::Weights;

/// Weights of more bytes than this lie in a large-model section on x86-64 ELF.
pub const LARGE_WEIGHTS: u64 = 256 << 20;

/// What may be undefined besides `onnxc_*`.
pub const C_LIBRARY_SYMBOLS: [&str; 3] = ["memcpy", "memmove", "memset"];

/// A place in code or data that depends on a symbol's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Byte offset in the function or data object.
    pub offset: u64,
    /// How the address goes in, in Cranelift's names; the addend of PC-relative kinds is relative to the field.
    pub kind: Reloc,
    /// The symbol whose address goes in.
    pub symbol: String,
    /// What is added to the address.
    pub addend: i64,
}

/// A function as machine code.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledFunction {
    /// The symbol.
    pub name: String,
    /// Visible outside the object.
    pub global: bool,
    /// Machine code, with its constant pool where it has one.
    pub code: Vec<u8>,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// In any order.
    pub relocations: Vec<Relocation>,
    /// Bytes of stack that a call takes, return address and saved registers included, without those of what it calls.
    pub stack_bytes: u32,
    /// How to unwind through the function; only ELF objects carry it.
    pub unwind: Option<Unwind>,
}

/// How to find the frame of a function's caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Unwind {
    /// As Cranelift says it.
    Cranelift(UnwindInfo),
    /// What holds from which offset on, in the convention of x86-64.
    Frame(Vec<(u32, CallFrameInstruction)>),
}

/// Data: a descriptor, a table, a string.
///
/// Objects without relocations go to `.rodata`, others to `.data.rel.ro`; what a run may write goes to `.data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataObject {
    /// The symbol.
    pub name: String,
    /// Visible outside the object.
    pub global: bool,
    /// The contents; relocated words are 0 here.
    pub bytes: Vec<u8>,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// In any order.
    pub relocations: Vec<Relocation>,
    /// Whether code writes to it.
    pub writable: bool,
}

impl DataObject {
    /// An empty local object aligned to 8 bytes, to be filled by the methods below.
    pub fn new(name: impl Into<String>) -> Self {
        let (bytes, relocations) = (Vec::new(), Vec::new());
        Self { name: name.into(), global: false, bytes, align: 8, relocations, writable: false }
    }

    /// A NUL-terminated string.
    pub fn c_string(name: impl Into<String>, text: &str) -> Self {
        let mut object = Self { align: 1, ..Self::new(name) };
        object.put(text.as_bytes());
        object.put(&[0]);
        object
    }

    /// Makes the object visible outside.
    pub fn exported(mut self) -> Self {
        self.global = true;
        self
    }

    /// Lets code write to the object.
    pub fn writable(mut self) -> Self {
        self.writable = true;
        self
    }

    /// Appends raw bytes.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a 32-bit word, aligned to itself.
    pub fn put_u32(&mut self, value: u32) -> &mut Self {
        self.pad_to(4).put(&value.to_le_bytes())
    }

    /// Appends a 64-bit word, aligned to itself.
    pub fn put_u64(&mut self, value: u64) -> &mut Self {
        self.pad_to(8).put(&value.to_le_bytes())
    }

    /// Appends the address of `symbol` plus `addend`, aligned to itself.
    pub fn put_pointer(&mut self, symbol: impl Into<String>, addend: i64) -> &mut Self {
        self.pad_to(8);
        let offset = self.bytes.len() as u64;
        self.relocations.push(Relocation { offset, kind: Reloc::Abs8, symbol: symbol.into(), addend });
        self.put(&[0; 8])
    }

    /// Appends zeros up to a multiple of `align` bytes.
    pub fn pad_to(&mut self, align: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        self
    }
}

/// Everything that one object file holds.
#[derive(Debug)]
pub struct ObjectSpec<'a> {
    /// What the code was compiled for.
    pub target: &'a Target,
    /// The model's prefix: a C identifier that every symbol begins with.
    pub prefix: String,
    /// The code, in the order in which it is laid out.
    pub functions: Vec<CompiledFunction>,
    /// Data other than weights, in the order in which it is laid out.
    pub data: Vec<DataObject>,
    /// Embedded weights.
    pub weights: Option<Weights<'a>>,
    /// The user's functions that the code calls.
    pub externals: Vec<String>,
}

impl ObjectSpec<'_> {
    /// Checks the invariants that code generation must keep.
    pub fn check(&self) -> Result<(), ObjectError> {
        symbol_names::check_prefix(&self.prefix)?;
        let broken = |message: String| Err(ObjectError::Invalid(message));
        let mut defined = HashSet::new();
        for (name, align) in self.definitions() {
            if !symbol_names::belongs_to(name, &self.prefix) {
                return broken(format!("symbol `{name}` does not begin with `{}_`", self.prefix));
            }
            if !align.is_power_of_two() {
                return broken(format!("symbol `{name}` has an alignment of {align}"));
            }
            if !defined.insert(name) {
                return broken(format!("symbol `{name}` is defined twice"));
            }
        }
        if let Some(weights) = &self.weights {
            weights.check()?;
        }
        for (owner, size, relocation) in self.relocations() {
            let Relocation { offset, kind, symbol, .. } = relocation;
            let width = relocation::width(*kind);
            if offset.checked_add(width).is_none_or(|end| end > size) {
                return broken(format!("relocation of `{owner}` at {offset} is outside of it"));
            }
            let outside = C_LIBRARY_SYMBOLS.contains(&symbol.as_str())
                || symbol.starts_with("onnxc_")
                || self.externals.contains(symbol);
            if !defined.contains(symbol.as_str()) && !outside {
                return broken(format!("`{owner}` refers to `{symbol}`, which nothing defines"));
            }
        }
        Ok(())
    }

    /// What the object needs from outside, sorted.
    pub fn undefined_symbols(&self) -> BTreeSet<&str> {
        let defined: HashSet<&str> = self.definitions().map(|(name, _)| name).collect();
        let used = self.relocations().map(|(_, _, relocation)| relocation.symbol.as_str());
        used.filter(|symbol| !defined.contains(symbol)).collect()
    }

    /// Bytes of machine code, constant pools included.
    pub fn code_bytes(&self) -> u64 {
        self.functions.iter().map(|function| function.code.len() as u64).sum()
    }

    /// A bound of the stack that the entry points take: the deepest chain of functions of which each refers to the next,
    /// and the greatest kernel, which is called through a pointer. Callbacks and the C library are not counted.
    pub fn stack_bound(&self) -> u64 {
        let functions: HashMap<&str, &CompiledFunction> = self.functions.iter().map(|f| (f.name.as_str(), f)).collect();
        let kernel = format!("{}_k", self.prefix);
        let is_kernel =
            |name: &str| name.strip_prefix(&kernel).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        fn depth<'f>(
            function: &'f CompiledFunction,
            functions: &HashMap<&str, &'f CompiledFunction>,
            known: &mut HashMap<&'f str, u64>,
        ) -> u64 {
            if let Some(&depth) = known.get(function.name.as_str()) {
                return depth;
            }
            // The host program does not call itself; a reference to itself would add nothing.
            known.insert(&function.name, 0);
            let callees = function.relocations.iter().filter_map(|r| functions.get(r.symbol.as_str()));
            let deepest = callees.map(|callee| depth(callee, functions, known)).max().unwrap_or(0);
            let all = u64::from(function.stack_bytes) + deepest;
            known.insert(&function.name, all);
            all
        }
        let (kernels, host): (HashMap<&str, &CompiledFunction>, HashMap<&str, &CompiledFunction>) =
            functions.iter().partition(|(name, _)| is_kernel(name));
        let mut known = HashMap::new();
        let chain = host.values().map(|function| depth(function, &host, &mut known)).max().unwrap_or(0);
        chain + kernels.values().map(|kernel| u64::from(kernel.stack_bytes)).max().unwrap_or(0)
    }

    fn definitions(&self) -> impl Iterator<Item = (&str, u32)> {
        let functions = self.functions.iter().map(|function| (function.name.as_str(), function.align));
        let data = self.data.iter().map(|object| (object.name.as_str(), object.align));
        let weights = self.weights.iter().map(|weights| (weights.symbol.as_str(), weights::ALIGN as u32));
        functions.chain(data).chain(weights)
    }

    /// Owner, owner's size and relocation.
    fn relocations(&self) -> impl Iterator<Item = (&str, u64, &Relocation)> {
        let functions = self.functions.iter().flat_map(|function| {
            function.relocations.iter().map(|reloc| (function.name.as_str(), function.code.len() as u64, reloc))
        });
        let data = self.data.iter().flat_map(|object| {
            object.relocations.iter().map(|reloc| (object.name.as_str(), object.bytes.len() as u64, reloc))
        });
        functions.chain(data)
    }
}

/// Why an object could not be written.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The prefix that the user asked for cannot begin C symbols.
    #[error("`{prefix}` cannot name a model: {reason}")]
    Prefix {
        /// The prefix as given.
        prefix: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The spec breaks a rule of [`ObjectSpec`]: a fault of the compiler, not of the model.
    #[error("invalid object: {0}")]
    Invalid(String),
    /// The format has no such thing.
    #[error("{format} objects cannot hold {what}")]
    Unsupported {
        /// `ELF`, `COFF` or `Mach-O`.
        format: &'static str,
        /// What was asked for.
        what: String,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file that was to appear.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A weight could not be computed or read.
    #[error("cannot produce the weights: {0}")]
    Weights(io::Error),
}
