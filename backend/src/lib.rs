//! Loop IR to machine code.

pub mod object;
pub mod target;
