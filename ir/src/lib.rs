//! Intermediate representations of the compiler.
pub mod machine;
