//! Functions outside of the model: what a user's C function computes.

use smallvec::SmallVec;

use crate::dtype::DType;

/// A call of a C function, which is taken for a pure one: equal calls are made once, and calls without use not at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct External {
    /// The function's symbol.
    pub symbol: String,
    /// The operator that it computes, with its domain.
    pub operator: String,
    /// One for each of the function's inputs: whether it is there. Those that are there are the node's inputs.
    pub present: SmallVec<[bool; 4]>,
    /// The element types of the results; the node's types state the shapes.
    pub results: SmallVec<[DType; 2]>,
    /// Constants that the function is given, by name.
    pub attributes: Vec<(String, Attribute)>,
}

/// The value of an attribute; one number or text is a list of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Integers.
    Ints(Vec<i64>),
    /// The bits of `f32` numbers.
    Floats(Vec<u32>),
    /// Texts without NUL.
    Texts(Vec<String>),
}
