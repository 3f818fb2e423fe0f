//! The intermediate representations of the compiler, in the order in which a model passes through them: the
//! [Tensor IR](tensor), a typed graph over whole tensors; the [Loop IR](loops), structured loops over scalars and
//! vectors; and the [program](program), the kernels of a model with their launches, constants and arena.
//!
//! Each has its definition, builder, verifier, printer, parser and reference interpreter here. This crate knows neither
//! ONNX nor any machine.

pub mod dim;
pub mod dtype;
pub mod evaluate;
pub mod loops;
pub mod machine;
pub mod program;
pub mod scalar;
pub mod strings;
pub mod tensor;
