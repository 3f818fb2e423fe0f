//! onnxc: compiles ONNX models ahead of time into native object files.
//!
//! [`build`] is for the build scripts of Rust programs. [`driver`] runs the whole compiler: import, lowering, code
//! generation, output. [`diagnostics`] is what it says when something is wrong, [`values`] reads, writes and compares
//! tensors in files, [`peak`] measures the machine.

pub mod build;
pub mod diagnostics;
pub mod driver;
#[cfg(feature = "run")]
pub mod peak;
#[cfg(feature = "run")]
pub mod values;
