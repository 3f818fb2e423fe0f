//! What can go wrong between a Rust program and a compiled model.

use crate::status::Status;

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A pointer handed to [`Model::from_raw`](crate::Model::from_raw) is no model of this ABI.
    #[error("not a model that this version can run: {0}")]
    Descriptor(&'static str),
    /// The model or the support library refused a call.
    #[error("{place}{status}{detail}")]
    Call {
        /// The status that was returned.
        status: Status,
        /// Which port, axis or step it is about, as the message begins: `input 0 ("x"), axis 1: `; or empty.
        place: String,
        /// The numbers it is about, as the message ends: ` (expected 3, got 4)`; or empty.
        detail: String,
    },
    /// The number of inputs is not the model's.
    #[error("the model has {expected} inputs, not {actual}")]
    InputCount {
        /// Inputs of the model.
        expected: usize,
        /// Inputs given.
        actual: usize,
    },
    /// The number of dims is not that of the model's symbols.
    #[error("the model has {expected} named dims, not {actual}")]
    SymbolCount {
        /// Symbols of the model.
        expected: usize,
        /// Dims given.
        actual: usize,
    },
    /// A tensor's bytes are not as many as its shape and dtype ask for.
    #[error("a tensor of {expected} bytes by its shape has {actual} bytes of data")]
    DataLength {
        /// Bytes by the shape, or `None` where they overflow.
        expected: OptionalBytes,
        /// Bytes given.
        actual: usize,
    },
    /// A tensor has more than [`MAX_RANK`](crate::abi::MAX_RANK) axes.
    #[error("a tensor of rank {0} is beyond the greatest rank 8")]
    Rank(usize),
    /// A tensor was read as elements of another type.
    #[error("a tensor of {actual} was read as {expected}")]
    ElementType {
        /// The type asked for.
        expected: crate::DataType,
        /// The tensor's.
        actual: crate::DataType,
    },
    /// A tensor's bytes are no valid elements of its type: misaligned, or a `bool` other than 0 and 1.
    #[error("the bytes of a tensor of {0} are misaligned or no values of that type")]
    Elements(crate::DataType),
    /// The model has an output that is not a tensor where only tensors are served.
    #[error("output {0} is not a tensor")]
    NotATensor(usize),
}

impl Error {
    /// A status without a place.
    pub(crate) fn status(code: i32) -> Self {
        Self::Call { status: Status::from_code(code), place: String::new(), detail: String::new() }
    }
}

/// A number of bytes, or the fact that it overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalBytes(pub Option<usize>);

impl std::fmt::Display for OptionalBytes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => write!(formatter, "{bytes}"),
            None => formatter.write_str("too many"),
        }
    }
}
