//! ONNX to Tensor IR.
