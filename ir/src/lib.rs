//! Intermediate representations of the compiler.
