//! The Cranelift backend: every kernel on every instruction set that Cranelift has, in vectors of 128 bits, and the host
//! program of every model.

pub mod kernel;
