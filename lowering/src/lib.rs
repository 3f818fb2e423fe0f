//! From the Tensor IR to a program of Loop IR kernels. [`pipeline`] lists the passes in their order; [`schedules`] turn
//! groups of operations into loops; [`program`] puts kernels, launches and memory together.
//!
//! Nothing here knows ONNX operators or a particular processor: the one is gone after the frontend, the other is a
//! [`MachineModel`](onnxc_ir::machine::MachineModel).

pub mod codegen;
pub mod passes;
pub mod pipeline;
pub mod plan_memory;
pub mod program;
pub mod schedules;
pub mod specialize;
mod variants;

/// Why a graph cannot be lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// An input or output is a sequence, optional or map.
    #[error("`{name}` is no tensor; compiled models take and give tensors only so far")]
    NotTensor {
        /// The input's or output's name.
        name: String,
    },
    /// A tensor's size overflows 64 bits.
    #[error("a tensor is too large to address")]
    TooLarge,
    /// The sizes of tensors that depend on symbols cannot be added up.
    #[error("the tensors cannot be laid out in one arena: {0}")]
    Arena(#[from] onnxc_ir::dim::DimError),
    /// A size that the model was to be compiled for as well cannot be had.
    #[error("{case}: {why}")]
    Sizes {
        /// The sizes.
        case: String,
        /// Why not.
        why: String,
    },
    /// Operations that no schedule exists for yet.
    #[error("{} operation(s) cannot be compiled yet: {}", .nodes.len(), .nodes.join(", "))]
    Unsupported {
        /// One text for each node: its name, operator and what is missing.
        nodes: Vec<String>,
    },
}
