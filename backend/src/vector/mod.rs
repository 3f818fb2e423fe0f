//! The wide backend for AVX-512: Loop IR kernels with 32 registers of 512 bits and mask registers.
//!
//! Cranelift's vectors end at 128 bits and 16 registers; kernels that live on arithmetic need four times that. The stages:
//! [`select`] walks the legalised kernel and picks instructions over virtual registers, [`allocate`] lets regalloc2 assign
//! registers (its independent checker runs in debug builds), [`emit`] encodes with iced-x86. A kernel that uses what is
//! not implemented here is [`Unsupported`] and goes to Cranelift, which has the same calling convention.

mod allocate;
mod codes;
mod conversions;
mod emit;
mod machine;
mod memory;
mod scalars;
mod select;
mod vectors;
mod width;

use onnxc_ir::loops::Kernel;

/// What this backend lacks for a kernel; the text completes "has no code for ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wide backend has no code for {0}")]
pub struct Unsupported(pub &'static str);

/// Machine code for a legalised kernel, position-independent and without relocations. The processor has AVX-512 F, VL, DQ
/// and BW.
pub fn compile(kernel: &Kernel) -> Result<Vec<u8>, Unsupported> {
    let code = select::select(kernel)?;
    let allocatable = allocate::Allocatable::new(&code);
    let output = allocatable.allocate();
    Ok(emit::emit(&code, &allocatable, &output))
}
