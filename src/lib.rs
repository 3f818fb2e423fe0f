//! onnxc.
