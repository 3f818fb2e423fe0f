//! What can be wrong with a file.

use onnxc_ir::dtype::DType;
use std::fmt;
use std::io;

/// A problem and where in the file it is.
#[derive(Debug)]
pub struct LoadError {
    /// The way to the place, outermost first: a file, a graph, a node or tensor, a field. Empty for the file as a whole.
    pub path: Vec<String>,
    /// What is wrong there.
    pub problem: LoadProblem,
}

/// What is wrong with a file or a tensor in it.
#[derive(Debug, thiserror::Error)]
pub enum LoadProblem {
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A folder, a device or a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// The bytes are no protobuf message of the expected kind.
    #[error("not a valid {expected}: {reason}")]
    Malformed {
        /// The message that was expected.
        expected: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Messages nest too deeply.
    #[error("messages nest deeper than {0} levels")]
    TooDeep(u32),
    /// Too many messages for the memory that they would take.
    #[error("more than {0} messages in one file")]
    TooMany(u64),
    /// An element type that ONNX does not define, or that onnxc does not know.
    #[error("unknown element type {0}")]
    UnknownDType(i32),
    /// A negative dimension, or a product of dimensions that does not fit.
    #[error("impossible dimensions {0:?}")]
    Dimensions(Vec<i64>),
    /// Rank above the limit.
    #[error("rank {0} is above the limit of {1}")]
    Rank(usize, usize),
    /// The data's length contradicts the dimensions.
    #[error("{dtype} {dims:?} needs {needed} {unit}, the file has {found}")]
    Length {
        /// Element type of the tensor.
        dtype: DType,
        /// Dimensions of the tensor.
        dims: Vec<i64>,
        /// What the dimensions ask for.
        needed: u64,
        /// What is there.
        found: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// Elements in a field that the element type does not use, or in two fields.
    #[error("{dtype} elements cannot be in `{field}`")]
    WrongField {
        /// Element type of the tensor.
        dtype: DType,
        /// The field that must be empty.
        field: &'static str,
    },
    /// A number in `int32_data` that the element type cannot hold.
    #[error("{value} is no {dtype}")]
    Range {
        /// Element type of the tensor.
        dtype: DType,
        /// The number.
        value: i64,
    },
    /// An external file that may not be read.
    #[error("external data `{location}`: {reason}")]
    External {
        /// The location as the model writes it.
        location: String,
        /// Why not.
        reason: String,
    },
    /// A sparse tensor whose parts do not fit together.
    #[error("sparse tensor: {0}")]
    Sparse(String),
    /// An `.npy` file that is none, or of a kind that no tensor corresponds to.
    #[error("npy: {0}")]
    Npy(String),
    /// A feature that onnxc does not read.
    #[error("{0} are not supported")]
    Unsupported(&'static str),
}

impl LoadProblem {
    /// The problem at a place yet to be told.
    pub fn here(self) -> LoadError {
        LoadError { path: Vec::new(), problem: self }
    }

    /// The problem at a place.
    pub fn at(self, place: impl Into<String>) -> LoadError {
        LoadError { path: vec![place.into()], problem: self }
    }
}

impl LoadError {
    /// The same problem, with the place that its path starts in.
    pub fn within(mut self, place: impl Into<String>) -> LoadError {
        self.path.insert(0, place.into());
        self
    }

    /// The code that `onnxc explain` knows: `I...` for files and systems, `M...` for models, `U...` for what is valid
    /// but not supported.
    pub fn code(&self) -> &'static str {
        match self.problem {
            LoadProblem::Io(_) | LoadProblem::NotAFile => "I001",
            LoadProblem::Npy(_) => "I002",
            LoadProblem::Malformed { .. } | LoadProblem::TooDeep(_) | LoadProblem::TooMany(_) => "M001",
            LoadProblem::Dimensions(_)
            | LoadProblem::Length { .. }
            | LoadProblem::WrongField { .. }
            | LoadProblem::Range { .. }
            | LoadProblem::Sparse(_) => "M002",
            LoadProblem::External { .. } => "M003",
            LoadProblem::UnknownDType(_) | LoadProblem::Rank(..) | LoadProblem::Unsupported(_) => "U002",
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in &self.path {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.problem)
    }
}
