//! The wide backend for AVX-512 and AVX2: Loop IR kernels with all lanes and registers that these have.
//!
//! Cranelift's vectors end at 128 bits and 16 registers; kernels that live on arithmetic need four times that. The stages:
//! [`select`] walks the legalised kernel and picks AVX-512 instructions over virtual registers, [`avx2`] rewrites those for
//! processors without, [`crate::machine`] drops what nobody uses and assigns registers, [`emit`] encodes with iced-x86. A kernel that uses what is
//! not implemented here is [`Unsupported`] and goes to Cranelift, which has the same calling convention.

mod addresses;
mod avx2;
mod bytes;
mod codes;
mod control;
mod conversions;
mod disassemble;
mod emit;
mod halves;
mod lanes;
mod machine;
mod memory;
mod registers;
mod scalars;
mod select;
mod vectors;
mod width;

pub use machine::Isa;

use gimli::write::CallFrameInstruction;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Kernel;
use onnxc_ir::loops::legalize::{Caps, legalize};

use crate::machine::allocate::Allocatable;
use crate::machine::dead;

/// What the instruction sets have beyond the common operations.
fn caps(isa: Isa) -> Caps {
    Caps { converts: &[DType::F16], multiplies_bytes: true, narrow_tails_apart: isa == Isa::Avx2, ..Caps::default() }
}

/// What this backend lacks for a kernel; the text completes "has no code for ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wide backend has no code for {0}")]
pub struct Unsupported(pub &'static str);

/// A kernel's machine code.
#[derive(Clone, Debug, PartialEq)]
pub struct WideCode {
    /// Instructions, then the constants that they read.
    pub bytes: Vec<u8>,
    /// How many of the bytes are instructions.
    pub instruction_bytes: usize,
    /// Bytes of stack that a call takes, return address included.
    pub stack_bytes: u32,
    /// How to unwind: from which offset on what else holds.
    pub frame: Vec<(u32, CallFrameInstruction)>,
}

impl WideCode {
    /// The instructions in the syntax of the GNU assembler, and the constants as words.
    pub fn disassembly(&self) -> String {
        disassemble::text(self)
    }
}

/// Machine code for a kernel that the verifier accepts, position-independent and without relocations. The processor has what
/// the instruction set says. With `flush`, the kernel takes subnormal numbers of `f32` for zero while it runs, if no type
/// that it computes with needs them: arithmetic on them is done by microcode, at a hundred cycles each.
pub fn compile(kernel: &Kernel, isa: Isa, flush: bool) -> Result<WideCode, Unsupported> {
    let flush = flush && flushes(kernel);
    let kernel = &legalize(kernel, &caps(isa));
    let mut code = select::select(kernel, isa)?;
    if isa == Isa::Avx2 {
        avx2::rewrite(&mut code)?;
    }
    dead::remove(&mut code);
    let allocatable = Allocatable::new(&code);
    let output = allocatable.allocate(&registers::environment(isa));
    Ok(emit::emit(&code, &allocatable, &output, isa, flush))
}

/// Whether the kernel computes with floats, and with none whose values pass through subnormal numbers of `f32`: those of
/// 8 bits do when they are converted.
fn flushes(kernel: &Kernel) -> bool {
    let values = kernel.vals.values().map(|ty| ty.dtype).chain(kernel.buffers.values().map(|b| b.dtype));
    let mut floats = values.filter(|dtype| dtype.is_float()).peekable();
    floats.peek().is_some() && floats.all(|dtype| matches!(dtype, DType::F16 | DType::BF16 | DType::F32))
}
