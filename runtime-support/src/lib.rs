//! Loads compiled models: the safe Rust face of the C ABI in `include/onnxc.h`.
