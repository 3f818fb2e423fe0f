//! The operations of the Tensor IR with their meaning. This set is closed and small: ONNX operators desugar into it in
//! the frontend and no later stage knows their names.
//!
//! Conventions: `in0`, `in1`, ... are the inputs; shapes are row-major; an axis is an index into the shape, never negative.
//! Index inputs are clamped into range when they are used, so no value of an input can reach outside a tensor.

mod products;

use smallvec::SmallVec;

pub use self::products::{Contract, Conv, Label, Panel, Window};

use super::{Constant, External, Region, Shape};
use crate::dim::{Dim, Symbol};
use crate::scalar::{ScalarExpr, ScalarInst};
use crate::strings::StringFunction;

/// How a reduction combines elements, starting from its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// Sum; identity 0. Floats accumulate in `f32` (or `f64`) whatever the element type.
    Sum,
    /// Product; identity 1.
    Prod,
    /// Least; identity the greatest value of the type (`inf`, or `true` on `Bool`). NaN wins.
    Min,
    /// Greatest; identity the least value of the type. NaN wins.
    Max,
    /// Index (`i64`) of the least element along the one reduced axis; the first of equals, or the last.
    ArgMin {
        /// Whether the last of equal elements is taken.
        last: bool,
    },
    /// Index (`i64`) of the greatest element along the one reduced axis; the first of equals, or the last.
    ArgMax {
        /// Whether the last of equal elements is taken.
        last: bool,
    },
}

/// Where the coordinate of one dimension of the indexed tensor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coord {
    /// The position along this axis of the index space.
    Axis(u32),
    /// The element of this input (2nd and later inputs count from 0) at the position, broadcast to the index space.
    Input(u32),
}

/// What a scatter does where something is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScatterOp {
    /// Overwrites; of several updates of one place the last in row-major order holds.
    Set,
    /// Adds.
    Add,
    /// Multiplies.
    Mul,
    /// Keeps the lesser.
    Min,
    /// Keeps the greater.
    Max,
}

/// A structure that a schedule may want whole. The body, in primitives, defines the meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CompositeKind {
    /// `exp(x - max) / sum(exp(x - max))` over the trailing axes from `axis` (merged as one).
    Softmax {
        /// First normalised axis; all later axes are normalised with it.
        axis: u32,
    },
    /// Logarithm of Softmax.
    LogSoftmax {
        /// First normalised axis.
        axis: u32,
    },
    /// Inputs x, scale, then bias if there is one: `(x - mean) / sqrt(var + epsilon) * scale + bias` over the trailing axes
    /// from `axis`; scale and bias have the shape of these axes.
    LayerNorm {
        /// First normalised axis.
        axis: u32,
        /// The epsilon's `f32` bits.
        epsilon: u32,
    },
    /// Inputs x, scale: `x / sqrt(mean(x^2) + epsilon) * scale` over the trailing axes from `axis`.
    RmsNorm {
        /// First normalised axis.
        axis: u32,
        /// The epsilon's `f32` bits.
        epsilon: u32,
    },
    /// One direction of a recurrent layer. The body is a [`Op::Loop`] over time with the cell in primitives.
    Recurrent {
        /// Which cell: `lstm`, `gru` or `rnn`.
        cell: RecurrentCell,
    },
    /// A named ONNX function or model-local function kept together for readability of dumps; inlined by lowering.
    Function(String),
}

/// The cell of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum RecurrentCell {
    Rnn,
    Gru,
    Lstm,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `() -> tensor`: a constant.
    Constant(Constant),
    /// `() -> i64 scalar`: the value of a dimension expression.
    DimValue(Dim),
    /// `(x i64 scalar or vector) -> i64 tensor like x`: sizes that data decides. After it each symbol has the value of its
    /// element of `x`, which has to lie between `low` and `high`: a run stops where it does not. The result is `x`. What
    /// mentions a symbol comes after the node that binds it, in the same region or in one nested in it.
    BindSizes {
        /// One per element of `x`, bound nowhere else.
        symbols: SmallVec<[Symbol; 4]>,
        /// The least value of each.
        low: Shape,
        /// The greatest value of each.
        high: Shape,
    },
    /// `(tensor...) -> tensor`: computes each output element from the inputs' elements at the same position. Inputs are
    /// broadcast to the output's shape: aligned at the last dimension, each of their dimensions is 1 or equal. The
    /// output's shape is stated by the node's type.
    Elementwise(ScalarExpr),
    /// `(x) -> tensor`: reduces the axes and removes them from the shape.
    Reduce {
        /// How elements combine.
        op: ReduceOp,
        /// The axes, ascending. `ArgMin` and `ArgMax` take one.
        axes: SmallVec<[u32; 4]>,
    },
    /// `(x) -> tensor`: running reduction along an axis (`Sum` or `Prod`); same shape.
    Cumulate {
        /// `Sum` or `Prod`.
        op: ReduceOp,
        /// The axis.
        axis: u32,
        /// Whether an element's own value is left out.
        exclusive: bool,
        /// Whether it runs from the end.
        reverse: bool,
    },
    /// `(lhs, rhs) -> tensor`. See [`Contract`].
    Contract(Contract),
    /// `(x, filter) -> tensor`. See [`Conv`].
    Conv(Conv),
    /// `(x) -> tensor`. See [`Window`].
    Window(Window),
    /// `(x) -> tensor`: same elements in row-major order; the output's type states the shape, whose product is equal.
    Reshape,
    /// `(x) -> tensor`: output axis `i` is input axis `perm[i]`.
    Transpose {
        /// The permutation.
        perm: SmallVec<[u32; 5]>,
    },
    /// `(x) -> tensor`: repeats along dimensions of 1 and new leading dimensions, to the shape that the node's type states.
    Broadcast,
    /// `(x) -> tensor`: `out[i] = in0[start + i * step]` in each dimension; the node's type states the sizes. The frontend
    /// has clamped starts and sizes, so that every index is in range.
    Slice {
        /// First index per dimension.
        starts: Shape,
        /// Step per dimension, not 0.
        steps: SmallVec<[i64; 5]>,
    },
    /// `(x, fill) -> tensor`: surrounds by the scalar `fill`. Amounts are at least 0.
    Pad {
        /// Elements before, per dimension.
        lo: Shape,
        /// Elements after, per dimension.
        hi: Shape,
    },
    /// `(tensor...) -> tensor`: joins along an axis.
    Concat {
        /// The axis.
        axis: u32,
    },
    /// `(data, index...) -> tensor`: `out[p] = data[c0(p), c1(p), ...]` with one [`Coord`] per dimension of `data`. The
    /// index space is the output's shape, stated by the node's type. Covers Gather, GatherElements and GatherND.
    Gather {
        /// One per dimension of `data`.
        coords: SmallVec<[Coord; 5]>,
    },
    /// `(data, updates, index...) -> tensor`: a copy of `data`, changed at `[c0(p), c1(p), ...]` by `updates[p]` for each
    /// position `p` of `updates` in row-major order. Positions with an index outside of `data` are skipped.
    Scatter {
        /// One per dimension of `data`; `Input(0)` is the first index input, the third input.
        coords: SmallVec<[Coord; 5]>,
        /// How an update meets what is there.
        op: ScatterOp,
    },
    /// `(x) -> (values, indices i64)`: sorts along an axis; stable, NaN as greater than every number.
    Sort {
        /// The axis.
        axis: u32,
        /// Greatest first.
        descending: bool,
    },
    /// `(tensor...) -> tensors`: what a function outside of the model computes; the node's types state the shapes. See
    /// [`External`].
    External(External),
    /// `(tensor...) -> tensor`: a function on strings, of the support library. The node states the result's type; where data
    /// decides its size, another function has computed that before. A function may fail: the run then ends with a status.
    Strings(StringFunction),
    /// `(cond bool scalar, captures...) -> values`: one of two regions over the captures.
    If {
        /// Run if the condition holds.
        then: Region,
        /// Run otherwise.
        otherwise: Region,
        /// The sizes of the results that differ between the branches: bound to those of the branch that ran.
        sizes: SmallVec<[Symbol; 2]>,
    },
    /// `(trip count i64 scalar, cond bool scalar, carried..., captures...) -> (carried..., scanned...)`. The body takes
    /// `(iteration i64 scalar, carried..., captures...)` and gives `(cond, carried..., scanned...)`. It runs while the
    /// condition holds and the iteration is below the trip count; each scanned result is stacked along a new leading
    /// axis, whose size the node's type states.
    Loop {
        /// The body.
        body: Region,
        /// How many values are carried.
        carried: u32,
        /// The sizes of carried values that may change: in the body, those that an iteration begins with.
        varying: SmallVec<[Symbol; 2]>,
        /// The sizes of the results that are known only after the loop.
        sizes: SmallVec<[Symbol; 2]>,
    },
    /// `(inputs...) -> outputs`: the region applied to the inputs; `kind` tells what it is.
    Composite {
        /// What it is.
        kind: CompositeKind,
        /// What it means.
        body: Region,
    },
    /// `(inputs...) -> outputs`: a region that is scheduled as one kernel or a few. Made by the pass `fuse`.
    Group {
        /// The fused nodes.
        body: Region,
    },
}

impl Op {
    /// The regions that the operation owns.
    pub fn regions(&self) -> SmallVec<[Region; 2]> {
        match self {
            Op::If { then, otherwise, .. } => SmallVec::from_slice(&[*then, *otherwise]),
            Op::Loop { body, .. } | Op::Composite { body, .. } | Op::Group { body } => SmallVec::from_slice(&[*body]),
            Op::Constant(_)
            | Op::DimValue(_)
            | Op::BindSizes { .. }
            | Op::Elementwise(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_) => SmallVec::new(),
        }
    }

    /// The dimension expressions among the attributes; those of nested regions are not.
    pub fn dims(&self) -> SmallVec<[&Dim; 4]> {
        match self {
            Op::DimValue(dim) => SmallVec::from_iter([dim]),
            Op::BindSizes { low, high, .. } => low.iter().chain(high).collect(),
            Op::Elementwise(expr) => expr.insts.iter().filter_map(inst_dim).collect(),
            Op::Slice { starts, .. } => starts.iter().collect(),
            Op::Pad { lo, hi } => lo.iter().chain(hi).collect(),
            Op::Constant(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_)
            | Op::If { .. }
            | Op::Loop { .. }
            | Op::Composite { .. }
            | Op::Group { .. } => SmallVec::new(),
        }
    }

    /// The symbols that get their values where the operation has run.
    pub fn bound_sizes(&self) -> &[Symbol] {
        match self {
            Op::BindSizes { symbols, .. } => symbols,
            Op::If { sizes, .. } | Op::Loop { sizes, .. } => sizes,
            Op::Constant(_)
            | Op::DimValue(_)
            | Op::Elementwise(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_)
            | Op::Composite { .. }
            | Op::Group { .. } => &[],
        }
    }

    /// The symbols that the operation gives values, for what comes after it and for its regions.
    pub fn own_sizes(&self) -> SmallVec<[Symbol; 4]> {
        let inside: &[Symbol] = if let Op::Loop { varying, .. } = self { varying } else { &[] };
        inside.iter().chain(self.bound_sizes()).copied().collect()
    }

    /// Renames the symbols that the operation gives values.
    pub fn rename_sizes(&mut self, f: impl Fn(Symbol) -> Symbol) {
        let change = |symbols: &mut [Symbol]| symbols.iter_mut().for_each(|s| *s = f(*s));
        match self {
            Op::BindSizes { symbols, .. } => change(symbols),
            Op::If { sizes, .. } => change(sizes),
            Op::Loop { varying, sizes, .. } => {
                change(varying);
                change(sizes);
            }
            Op::Constant(_)
            | Op::DimValue(_)
            | Op::Elementwise(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_)
            | Op::Composite { .. }
            | Op::Group { .. } => {}
        }
    }

    /// Replaces the dimension expressions among the attributes; those of nested regions stay.
    pub fn map_dims(&mut self, f: impl Fn(&Dim) -> Dim) {
        let change = |dims: &mut Shape| dims.iter_mut().for_each(|d| *d = f(d));
        match self {
            Op::DimValue(dim) => *dim = f(dim),
            Op::BindSizes { low, high, .. } => [low, high].into_iter().for_each(change),
            Op::Elementwise(expr) => {
                for inst in &mut expr.insts {
                    if let ScalarInst::Dim(dim) = inst {
                        *dim = f(dim);
                    }
                }
            }
            Op::Slice { starts, .. } => change(starts),
            Op::Pad { lo, hi } => [lo, hi].into_iter().for_each(change),
            Op::Constant(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_)
            | Op::If { .. }
            | Op::Loop { .. }
            | Op::Composite { .. }
            | Op::Group { .. } => {}
        }
    }

    /// Whether the operation must run even when no result is used. All are pure functions, but a size that may have one
    /// value only is bound for the sake of the test.
    pub fn has_effect(&self) -> bool {
        matches!(self, Op::BindSizes { low, high, .. } if low.iter().zip(high).any(|(low, high)| low == high))
    }

    /// The name in textual IR.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Constant(_) => "constant",
            Op::DimValue(_) => "dim_value",
            Op::BindSizes { .. } => "bind_sizes",
            Op::Elementwise(_) => "elementwise",
            Op::Reduce { .. } => "reduce",
            Op::Cumulate { .. } => "cumulate",
            Op::Contract(_) => "contract",
            Op::Conv(_) => "conv",
            Op::Window(_) => "window",
            Op::Reshape => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Broadcast => "broadcast",
            Op::Slice { .. } => "slice",
            Op::Pad { .. } => "pad",
            Op::Concat { .. } => "concat",
            Op::Gather { .. } => "gather",
            Op::Scatter { .. } => "scatter",
            Op::Sort { .. } => "sort",
            Op::External(_) => "external",
            Op::Strings(_) => "strings",
            Op::If { .. } => "if",
            Op::Loop { .. } => "loop",
            Op::Composite { .. } => "composite",
            Op::Group { .. } => "group",
        }
    }
}

fn inst_dim(inst: &ScalarInst) -> Option<&Dim> {
    match inst {
        ScalarInst::Dim(dim) => Some(dim),
        ScalarInst::Arg(_)
        | ScalarInst::Index(_)
        | ScalarInst::Const(_)
        | ScalarInst::Unary(..)
        | ScalarInst::Binary(..)
        | ScalarInst::Compare(..)
        | ScalarInst::MulAdd(..)
        | ScalarInst::Select(..)
        | ScalarInst::Cast(..)
        | ScalarInst::Bitcast(..) => None,
    }
}
