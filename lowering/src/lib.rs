//! Tensor IR to Loop IR.
