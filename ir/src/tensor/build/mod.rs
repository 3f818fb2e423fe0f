//! The builder: appends well-typed nodes to a region. The importer and the passes both build with it.
//!
//! Every method checks what it is given and answers with a [`BuildError`] that shows types and shapes, because most of
//! it comes from a model. Operations that change nothing (a reshape to the same shape, a cast to the same type, a slice
//! of everything) give their input and add no node. Sizes that have to be equal and are not provably so are recorded as
//! assumptions of the graph.
//!
//! After each method the node's types satisfy [`infer::check`](super::infer::check), and what
//! [`known`](super::known) derives about the elements of small integer results is stored in the graph.

mod control;
mod elementwise;
mod expr;
mod index;
mod linear;
mod shape;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;

pub use control::LoopSpec;
pub use expr::ExprBuilder;

use super::constant::{ConstantData, ConstantSource, TensorBytes};
use super::infer::{self, InferError, OutputType};
use super::shape::ShapeError;
use super::{Constant, Graph, Node, Op, Origins, Region, Shape, TensorType, Type, Value, known};
use crate::dim::{Dim, DimError};
use crate::dtype::DType;
use crate::scalar::Scalar;

/// Why an operation could not be built. The text is made for the user of the compiler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The operation does not fit its inputs.
    #[error("{op}: {error}")]
    Op {
        /// The operation's name.
        op: &'static str,
        /// What does not fit.
        error: InferError,
    },
    /// Arithmetic on dimensions failed.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// Shapes, axes or other arguments do not fit; the text shows them.
    #[error("{0}")]
    Invalid(String),
}

/// Appends nodes to the end of a region.
pub struct Builder<'g> {
    /// The graph that grows.
    pub graph: &'g mut Graph,
    /// The region that nodes go to.
    pub region: Region,
    /// The origins of the nodes that are added.
    pub origins: Origins,
}

fn invalid<T>(message: impl Into<String>) -> Result<T, BuildError> {
    Err(BuildError::Invalid(message.into()))
}

impl<'g> Builder<'g> {
    /// A builder at the end of a region.
    pub fn new(graph: &'g mut Graph, region: Region, origins: impl Into<Origins>) -> Builder<'g> {
        Builder { graph, region, origins: origins.into() }
    }

    /// A builder for another region of the same graph, with the same origins.
    pub fn within(&mut self, region: Region) -> Builder<'_> {
        Builder { graph: self.graph, region, origins: self.origins.clone() }
    }

    /// The value's type.
    pub fn ty(&self, value: Value) -> &Type {
        self.graph.ty(value)
    }

    /// The value's tensor type.
    ///
    /// # Errors
    /// If it is no tensor.
    pub fn tensor(&self, value: Value) -> Result<&TensorType, BuildError> {
        match self.graph.ty(value) {
            Type::Tensor(t) => Ok(t),
            other => invalid(format!("expects a tensor and gets {}", self.graph.type_text(other))),
        }
    }

    /// The tensor's dimensions.
    ///
    /// # Errors
    /// If it is no tensor.
    pub fn shape(&self, value: Value) -> Result<Shape, BuildError> {
        Ok(self.tensor(value)?.shape.clone())
    }

    /// The tensor's element type.
    ///
    /// # Errors
    /// If it is no tensor.
    pub fn dtype(&self, value: Value) -> Result<DType, BuildError> {
        Ok(self.tensor(value)?.dtype)
    }

    /// The tensor's number of dimensions.
    ///
    /// # Errors
    /// If it is no tensor.
    pub fn rank(&self, value: Value) -> Result<usize, BuildError> {
        Ok(self.tensor(value)?.rank())
    }

    /// The elements of a small integer or `bool` tensor as expressions over the symbols, where all are known.
    pub fn known_dims(&self, value: Value) -> Option<Vec<Dim>> {
        if let Some(known) = &self.graph.known[value] {
            return known.all();
        }
        // Nothing is all there is to know about a tensor without elements.
        let nothing = self.tensor(value).is_ok_and(|t| t.static_len() == Some(0));
        nothing.then(Vec::new)
    }

    /// The elements of a small integer or `bool` tensor, where all are known constants.
    pub fn known_i64s(&self, value: Value) -> Option<Vec<i64>> {
        self.known_dims(value)?.iter().map(Dim::as_const).collect()
    }

    /// A node with stated output types.
    ///
    /// # Errors
    /// If the operation does not fit the inputs or the types.
    pub fn node(&mut self, op: Op, inputs: &[Value], types: &[Type]) -> Result<Node, BuildError> {
        self.check(&op, inputs, types)?;
        Ok(self.append(op, inputs, types.iter().cloned()))
    }

    /// A node whose output types follow from its inputs.
    ///
    /// # Errors
    /// If the operation does not fit the inputs.
    pub fn derived(&mut self, op: Op, inputs: &[Value]) -> Result<Node, BuildError> {
        let types = self.infer(&op, inputs)?;
        let types: SmallVec<[Type; 2]> = types
            .into_iter()
            .map(|t| match t {
                OutputType::Exact(t) => Ok(t),
                OutputType::Partial(..) | OutputType::Stated(_) => {
                    invalid(format!("{} needs a stated shape", op.name()))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(self.append(op, inputs, types))
    }

    /// The only output of [`Builder::derived`].
    fn derive(&mut self, op: Op, inputs: &[Value]) -> Result<Value, BuildError> {
        let node = self.derived(op, inputs)?;
        Ok(self.graph.output(node))
    }

    /// A node with one output of a stated shape; the element type follows from the inputs.
    fn state(&mut self, op: Op, inputs: &[Value], shape: Shape) -> Result<Value, BuildError> {
        let dtype = match self.infer(&op, inputs)?.as_slice() {
            [OutputType::Partial(dtype, _) | OutputType::Stated(dtype)] => *dtype,
            [OutputType::Exact(Type::Tensor(t))] => t.dtype,
            _ => return invalid(format!("{} has not one tensor as its result", op.name())),
        };
        let node = self.node(op, inputs, &[TensorType { dtype, shape }.into()])?;
        Ok(self.graph.output(node))
    }

    fn check(&self, op: &Op, inputs: &[Value], types: &[Type]) -> Result<(), BuildError> {
        let input_types: SmallVec<[&Type; 4]> = inputs.iter().map(|&v| self.graph.ty(v)).collect();
        let output_types: SmallVec<[&Type; 2]> = types.iter().collect();
        infer::check(self.graph, op, &input_types, &output_types)
            .map_err(|error| BuildError::Op { op: op.name(), error })
    }

    fn infer(&self, op: &Op, inputs: &[Value]) -> Result<infer::Inferred, BuildError> {
        let types: SmallVec<[&Type; 4]> = inputs.iter().map(|&v| self.graph.ty(v)).collect();
        infer::infer(self.graph, op, &types).map_err(|error| BuildError::Op { op: op.name(), error })
    }

    fn append(&mut self, op: Op, inputs: &[Value], types: impl IntoIterator<Item = Type>) -> Node {
        let node = self.graph.add_node(self.region, op, inputs.iter().copied(), types, &self.origins);
        known::derive(self.graph, node);
        node
    }

    /// A constant. `name` is the initializer's, for dumps.
    ///
    /// # Errors
    /// If the bytes are not as many as the type and shape need.
    pub fn constant(&mut self, tensor: TensorBytes, name: &str) -> Result<Value, BuildError> {
        let TensorBytes { dtype, shape, bytes } = tensor;
        let ty = TensorType::fixed(dtype, &shape);
        let elements = ty.static_len().and_then(|n| u64::try_from(n).ok());
        let needed = elements.filter(|_| shape.iter().all(|&d| d >= 0)).and_then(|n| dtype.packed_bytes(n));
        if needed != Some(bytes.len() as u64) {
            let have = bytes.len();
            return invalid(format!("constant `{name}` of type {dtype}{shape:?} has {have} bytes"));
        }
        Ok(self.add_constant(ty, ConstantSource::Bytes(bytes), name))
    }

    /// One element repeated.
    ///
    /// # Errors
    /// If a dimension is negative.
    pub fn splat(&mut self, scalar: Scalar, shape: &[i64]) -> Result<Value, BuildError> {
        if shape.iter().any(|&d| d < 0) {
            return invalid(format!("constant of shape {shape:?}"));
        }
        Ok(self.add_constant(TensorType::fixed(scalar.dtype, shape), ConstantSource::Splat(scalar), ""))
    }

    fn add_constant(&mut self, ty: TensorType, source: ConstantSource, name: &str) -> Value {
        let constant = self.graph.constants.push(ConstantData { ty, source, name: name.to_owned() });
        self.constant_node(constant)
    }

    /// A node for a constant that the graph holds already.
    pub fn constant_node(&mut self, constant: Constant) -> Value {
        let ty = self.graph.constants[constant].ty.clone();
        let node = self.append(Op::Constant(constant), &[], [ty.into()]);
        self.graph.output(node)
    }

    /// A constant of rank 0.
    pub fn scalar(&mut self, scalar: Scalar) -> Value {
        self.add_constant(TensorType::fixed(scalar.dtype, &[]), ConstantSource::Splat(scalar), "")
    }

    /// A number as a constant of rank 0 of any numeric type.
    ///
    /// # Errors
    /// If the type has no such constants.
    pub fn number(&mut self, dtype: DType, value: f64) -> Result<Value, BuildError> {
        let scalar = expr::number(dtype, value)?;
        Ok(self.scalar(scalar))
    }

    /// An `f32` constant of rank 0.
    pub fn scalar_f32(&mut self, value: f32) -> Value {
        self.scalar(Scalar::f32(value))
    }

    /// An `i64` constant of rank 0.
    pub fn scalar_i64(&mut self, value: i64) -> Value {
        self.scalar(Scalar::i64(value))
    }

    /// A `bool` constant of rank 0.
    pub fn scalar_bool(&mut self, value: bool) -> Value {
        self.scalar(Scalar::bool(value))
    }

    /// An `i64` constant of rank 1.
    pub fn i64s(&mut self, values: &[i64]) -> Value {
        let TensorBytes { dtype, bytes, .. } = TensorBytes::from_i64(&[values.len() as i64], values);
        self.add_constant(TensorType::fixed(dtype, &[values.len() as i64]), ConstantSource::Bytes(bytes), "")
    }

    /// The value of a dimension expression, `i64` of rank 0.
    pub fn dim_value(&mut self, dim: &Dim) -> Value {
        match dim.as_const() {
            Some(value) => self.scalar_i64(value),
            None => {
                let ty = TensorType::fixed(DType::I64, &[]).into();
                let node = self.append(Op::DimValue(dim.clone()), &[], [ty]);
                self.graph.output(node)
            }
        }
    }

    /// The values of dimension expressions, `i64` of rank 1.
    ///
    /// # Errors
    /// None in practice: the element count is that of a list in memory.
    pub fn dim_values(&mut self, dims: &[Dim]) -> Result<Value, BuildError> {
        if let Some(values) = dims.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() {
            return Ok(self.i64s(&values));
        }
        let scalars: Vec<Value> = dims.iter().map(|d| self.dim_value(d)).collect();
        let vectors = scalars.iter().map(|&v| self.reshape(v, &[Dim::ONE])).collect::<Result<Vec<_>, _>>()?;
        self.concat(&vectors, 0)
    }

    /// Sizes from the elements of an integer vector or scalar: known ones as they are, the others as fresh symbols, bound
    /// here to what a run finds. Each element has its range, least and greatest; a run stops where it lies outside.
    ///
    /// # Errors
    /// If the value is no vector or scalar of integers of as many elements as there are ranges.
    pub fn bind_sizes(&mut self, value: Value, prefix: &str, ranges: &[(Dim, Dim)]) -> Result<Vec<Dim>, BuildError> {
        let ty = self.tensor(value)?;
        if !ty.dtype.is_int() || ty.rank() > 1 || ty.static_len() != Some(ranges.len() as i64) {
            let text = self.graph.type_text(self.graph.ty(value));
            return invalid(format!("{} sizes from a tensor of type {text}", ranges.len()));
        }
        let value = self.cast(value, DType::I64)?;
        let known = |graph: &Graph, i: usize| graph.known[value].as_ref()?.elements()[i].as_ref()?.as_dim().cloned();
        if let Some(dims) = (0..ranges.len()).map(|i| known(self.graph, i)).collect() {
            return Ok(dims);
        }
        let mut symbols = SmallVec::new();
        let mut sizes = Vec::with_capacity(ranges.len());
        for (i, (low, high)) in ranges.iter().enumerate() {
            let symbol = self.graph.symbols.fresh(prefix);
            let (least, most) = (low.bounds(&self.graph.symbols).0, high.bounds(&self.graph.symbols).1);
            if !self.graph.symbols.widen(symbol, least, most) {
                return invalid(format!("a size between {least} and {most}"));
            }
            symbols.push(symbol);
            sizes.push(known(self.graph, i).unwrap_or_else(|| Dim::symbol(symbol)));
        }
        let (low, high) = ranges.iter().cloned().unzip();
        self.derived(Op::BindSizes { symbols, low, high }, &[value])?;
        Ok(sizes)
    }

    /// A run stops here unless the integer, or `bool`, is `expected`.
    ///
    /// # Errors
    /// If the value is no tensor of one such element, or is known to be another.
    pub fn require(&mut self, value: Value, expected: i64) -> Result<(), BuildError> {
        let value = self.cast(value, DType::I64)?;
        let value = self.reshape(value, &[Dim::ONE])?;
        match self.known_i64s(value).as_deref() {
            Some([known]) if *known == expected => return Ok(()),
            Some([known]) => return invalid(format!("{known}, which has to be {expected}")),
            _ => {}
        }
        let symbol = self.graph.symbols.fresh("required");
        self.graph.symbols.widen(symbol, expected, expected);
        let range: SmallVec<[Dim; 2]> = SmallVec::from_elem(Dim::from(expected), 1);
        let symbols = SmallVec::from_elem(symbol, 1);
        self.derived(
            Op::BindSizes { symbols, low: range.clone().into_iter().collect(), high: range.into_iter().collect() },
            &[value],
        )?;
        Ok(())
    }

    /// Makes two dimensions equal, recording an assumption where only a run can tell.
    fn unify(&mut self, a: &Dim, b: &Dim, what: impl FnOnce(&Graph) -> String) -> Result<(), BuildError> {
        let result = self.graph.assume_equal(a, b);
        result.map_err(|e| self.shape_error(e, what))
    }

    fn shape_error(&self, error: ShapeError, what: impl FnOnce(&Graph) -> String) -> BuildError {
        match error {
            ShapeError::Dim(e) => BuildError::Dim(e),
            ShapeError::Differ(a, b) => {
                let s = &self.graph.symbols;
                BuildError::Invalid(format!("{}: sizes {} and {} differ", what(self.graph), a.display(s), b.display(s)))
            }
        }
    }

    /// The shape that the values broadcast to.
    ///
    /// # Errors
    /// If they do not broadcast.
    pub fn broadcast_shape(&mut self, values: &[Value]) -> Result<Shape, BuildError> {
        let shapes = values.iter().map(|&v| self.shape(v)).collect::<Result<Vec<Shape>, _>>()?;
        let result = self.graph.broadcast_shapes(shapes.iter().map(|s| s.as_slice()));
        result.map_err(|e| {
            self.shape_error(e, |g| {
                let texts: Vec<String> = shapes.iter().map(|s| g.shape_text(s)).collect();
                format!("shapes {} do not broadcast", texts.join(" and "))
            })
        })
    }

    /// An axis of a value of rank `rank`, counted from the end where it is negative.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, BuildError> {
        let signed = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
        match usize::try_from(signed) {
            Ok(a) if a < rank => Ok(a),
            _ => invalid(format!("axis {axis} of a tensor of rank {rank}")),
        }
    }
}
