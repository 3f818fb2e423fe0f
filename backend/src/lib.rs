//! Loop IR to machine code.

pub mod target;
