//! ONNX models to onnxc's Tensor IR.

pub mod proto;
