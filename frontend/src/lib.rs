//! ONNX models to onnxc's Tensor IR. [`proto`] reads files and trusts nothing in them; [`import`] turns names into values;
//! [`ops`] is the table of operators, each of which is one row and one function.

pub mod data;
pub mod import;
pub mod ops;
pub mod proto;
