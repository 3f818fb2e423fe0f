//! A test tool: a stand-in for the CUDA driver, `libcuda.so.1`, that runs PTX on the processor.
//!
//! Machines without an NVIDIA device test compiled GPU programs with it: loader, memory plan, launches and numbers. It
//! interprets the PTX subset that onnxc emits, a warp at a time, and reports what a device would let pass: accesses outside
//! of every allocation, misaligned ones, and races, which are two threads that touch a byte with no barrier in between, one
//! of them writing. A report becomes a CUDA error whose string names the kernel, the line, the thread and the address.
//!
//! It says nothing about speed. No number that it takes for a run may be quoted as one of a GPU.
//!
//! What a device leaves open is defined here: approximate functions (`ex2.approx` and others) give the nearest value,
//! division of integers by zero gives all ones, fresh device memory holds bytes 0xFF, which are NaN to floating point.

// Operations are written for all integer types at once, of which one needs no cast.
#![allow(clippy::unnecessary_cast)]

mod access;
mod arith;
mod barriers;
mod convert;
mod decode;
mod driver;
mod flow;
mod groups;
mod kernel;
mod launch;
mod matrix;
mod memory;
mod races;
mod tensor;
mod text;
mod types;
mod warp;

pub use kernel::{Kernel, Module};
pub use launch::{Grid, Report, launch};
pub use memory::{Fault, Memory};
pub use tensor::Map;
