//! Inputs and outputs of a model as files: `.npy`, and the protobuf values of ONNX's test data; and comparing them.

mod compare;
mod distribution;
mod elements;
mod npy;
#[cfg(test)]
mod tests;
mod values;

pub use compare::{Comparison, Mismatch, Tolerance, Worst, compare};
pub use distribution::compare_distributions;
pub use elements::Element;
pub use npy::{read_npy, write_npy};
pub use values::{DataValue, ValueKind};
