//! The Cranelift backend: every kernel on every instruction set that Cranelift has, in vectors of 128 bits, and the host
//! program of every model. [`compile`] puts both together with descriptors and weights.

pub mod code;
pub mod compile;
pub mod entry;
pub mod kernel;
mod operators;
mod strings;
