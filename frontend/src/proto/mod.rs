//! ONNX files: the protobuf messages, mapping and decoding, elements of tensors.
//!
//! The messages are written by hand from the published field numbers, so that building needs no protoc; a test holds
//! them against what the `onnx` package says. Everything here treats a file as hostile: sizes are checked arithmetic,
//! nesting and counts have limits, and external data stays beneath the model's folder.

mod dtypes;
mod error;
mod external;
mod limits;
mod mapping;
mod model;
#[cfg(test)]
mod schema_tests;
mod sparse;
mod tensor;
#[cfg(test)]
mod tests;
mod types;
mod values;

pub use dtypes::{dtype_from_onnx, dtype_to_onnx};
pub use error::{LoadError, LoadProblem};
pub use external::ExternalData;
pub use mapping::{FileMessage, ModelFile, decode, map_file};
pub use model::*;
pub use sparse::densify;
pub use tensor::{Elements, TensorData};
pub use types::*;
pub use values::*;
