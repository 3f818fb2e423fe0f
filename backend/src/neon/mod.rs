//! Kernels for AArch64 that use what Cranelift cannot emit: conversions of 16-bit floats, dot products of bytes by one lane
//! of a register, and vectors of 8- and 16-bit integers.
//!
//! It makes the kernels that have one of these; all others go to Cranelift, whose loops of `f32` products are as good: of 96
//! products and 22 loads they have 125 instructions, and this backend's 123. The stages: [`select`] walks the legalised kernel and picks words over
//! virtual registers, [`crate::machine`] drops what nobody uses and assigns registers, [`emit`] lays the words out. Every word
//! carries its text ([`words`]), which tests assemble and compare. A kernel that uses what is not implemented here is
//! [`Unsupported`] and goes to Cranelift, which has the same calling convention: that of the architecture.

mod constants;
mod control;
mod conversions;
mod emit;
mod groups;
mod lanes;
mod listing;
mod machine;
mod memory;
mod registers;
mod select;
mod values;
mod words;

use gimli::write::CallFrameInstruction;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::legalize::{Caps, legalize};
use onnxc_ir::loops::{InstData, Kernel, LaneType};

use crate::machine::allocate::Allocatable;
use crate::machine::dead;
pub use crate::vector::Unsupported;

/// What a processor has beyond the base of AArch64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Dot products of four bytes of one signedness.
    pub dotprod: bool,
    /// Dot products of four signed and four unsigned bytes.
    pub i8mm: bool,
    /// Conversion to `bf16`.
    pub bf16: bool,
}

/// A kernel's machine code.
#[derive(Clone, Debug, PartialEq)]
pub struct NeonCode {
    /// Instructions, then the constants that they read.
    pub bytes: Vec<u8>,
    /// How many of the bytes are instructions.
    pub instruction_bytes: usize,
    /// Bytes of stack that a call takes.
    pub stack_bytes: u32,
    /// How to unwind: from which offset on what else holds.
    pub frame: Vec<(u32, CallFrameInstruction)>,
    lines: Vec<listing::Line>,
}

impl NeonCode {
    /// The instructions in the syntax of the GNU assembler, and the constants as words.
    pub fn disassembly(&self) -> String {
        listing::text(self)
    }
}

/// What this backend has beyond the common operations.
const CAPS: Caps = Caps {
    native_unary: Vec::new(),
    converts: &[DType::F16, DType::BF16],
    multiplies_bytes: true,
    narrow_tails_apart: false,
};

/// Whether a kernel has what Cranelift cannot make one instruction of, or has no vectors for.
pub fn is_wanted(kernel: &Kernel, features: Features) -> bool {
    let halves = |dtype: DType| matches!(dtype, DType::F16 | DType::BF16);
    let narrow = |ty: &LaneType| ty.lanes > 1 && matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16);
    let converts = kernel.vals.values().any(|ty| halves(ty.dtype)) || kernel.buffers.values().any(|b| halves(b.dtype));
    let mut multiplies = kernel.insts.values().filter(|inst| matches!(inst.data, InstData::Dot4 { .. })).peekable();
    // Without the instruction Cranelift makes a few of a dot product.
    let lacks_dots = multiplies.peek().is_some() && !features.dotprod;
    !lacks_dots && (converts || multiplies.peek().is_some() || kernel.vals.values().any(narrow))
}

/// Machine code for a kernel, position-independent and without relocations. The processor has these features.
pub fn compile(kernel: &Kernel, features: Features) -> Result<NeonCode, Unsupported> {
    let legal = legalize(kernel, &CAPS);
    let mut code = select::select(&legal, features)?;
    dead::remove(&mut code);
    let allocatable = Allocatable::new(&code);
    let output = allocatable.allocate(&registers::environment());
    emit::emit(&code, &allocatable, &output)
}
