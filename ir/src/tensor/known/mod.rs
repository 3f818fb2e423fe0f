//! Value propagation: what is known about the elements of small tensors while the graph is built.
//!
//! Models compute shapes with tensors (the shape of a tensor, one element of it, a product, a concatenation, the target of
//! a reshape). Each element of such a tensor is an expression over the symbols. The builder derives it for every node that
//! it adds, so that the importer can ask for the target shape at once.
//!
//! Tracked are integer and `bool` tensors of rank at most 2 with at most [`MAX_ELEMENTS`] elements, and those of floats of
//! 16 bits or more with at most [`MAX_FLOATS`], which only hold constants. What is stored is true in every run that satisfies the
//! graph's assumptions; sizes are taken not to overflow the integer type that a model computes them in.

mod elements;

use std::sync::Arc;

use self::elements::{constant_elements, fits, is_tracked_float, scalar_element};
use super::op::{Coord, ReduceOp, ScatterOp};
use super::{Graph, Node, Op, Region, Type, Value};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::{BinaryOp, ScalarExpr, ScalarInst};

/// The most elements of a tracked integer tensor.
pub const MAX_ELEMENTS: i64 = 1024;
/// The most elements of a tracked floating-point tensor.
pub const MAX_FLOATS: i64 = 64;

/// A known element.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// An integer; 0 or 1 for `bool`.
    Int(Dim),
    /// A constant of a floating-point type, representable in it.
    Float(f64),
}

/// What is known about a tensor, element by element in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownValue(Arc<[Option<Element>]>);

impl KnownValue {
    /// The elements; `None` where nothing is known.
    pub fn elements(&self) -> &[Option<Element>] {
        &self.0
    }

    /// What is known with other expressions in place of these.
    pub fn map_dims(&self, f: impl Fn(&Dim) -> Dim) -> KnownValue {
        let change = |e: &Option<Element>| match e {
            Some(Element::Int(dim)) => Some(Element::Int(f(dim))),
            other => other.clone(),
        };
        KnownValue(self.0.iter().map(change).collect())
    }

    /// All elements, where all are known integers.
    pub fn all(&self) -> Option<Vec<Dim>> {
        self.0.iter().map(|e| e.as_ref().and_then(Element::as_dim).cloned()).collect()
    }

    /// All elements, where all are known floating-point constants.
    pub fn all_floats(&self) -> Option<Vec<f64>> {
        let float = |e: &Option<Element>| match e {
            Some(Element::Float(value)) => Some(*value),
            Some(Element::Int(_)) | None => None,
        };
        self.0.iter().map(float).collect()
    }
}

impl Element {
    /// The integer.
    pub fn as_dim(&self) -> Option<&Dim> {
        match self {
            Element::Int(d) => Some(d),
            Element::Float(_) => None,
        }
    }

    fn as_const(&self) -> Option<i64> {
        self.as_dim()?.as_const()
    }

    fn int(value: i64) -> Element {
        Element::Int(Dim::from(value))
    }

    fn truth(value: bool) -> Element {
        Element::int(value.into())
    }
}

/// Whether tensors of this type are tracked; then their constant shape.
fn tracked(ty: &Type) -> Option<(DType, Vec<usize>)> {
    let Type::Tensor(t) = ty else { return None };
    let limit = match t.dtype {
        d if is_tracked_float(d) => MAX_FLOATS,
        d if d.is_int() || d == DType::Bool => MAX_ELEMENTS,
        _ => return None,
    };
    if t.rank() > 2 || t.static_len().is_none_or(|n| n > limit) {
        return None;
    }
    let shape = t.static_shape()?.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    Some((t.dtype, shape))
}

/// Derives what is known about the outputs of a node and stores it in the graph.
pub(super) fn derive(graph: &mut Graph, node: Node) {
    for (n, value) in graph.nodes[node].outputs.clone().into_iter().enumerate() {
        if let Some((dtype, shape)) = tracked(graph.ty(value))
            && let Some(elements) = (Rule { graph, node, dtype, shape }).elements(n)
            && elements.iter().any(Option::is_some)
        {
            graph.known[value] = Some(KnownValue(elements.into()));
        }
    }
}

/// The derivation for one output.
struct Rule<'g> {
    graph: &'g Graph,
    node: Node,
    dtype: DType,
    shape: Vec<usize>,
}

/// Row-major index of coordinates that are already in range.
fn flat(shape: &[usize], coords: impl IntoIterator<Item = usize>) -> usize {
    coords.into_iter().zip(shape).fold(0, |at, (c, size)| at * size + c)
}

impl<'g> Rule<'g> {
    fn input(&self, n: usize) -> Option<Value> {
        self.graph.nodes[self.node].inputs.get(n).copied()
    }

    fn input_shape(&self, n: usize) -> Option<Vec<usize>> {
        tracked(self.graph.ty(self.input(n)?)).map(|(_, shape)| shape)
    }

    fn known(&self, n: usize) -> Option<&'g [Option<Element>]> {
        self.graph.known[self.input(n)?].as_ref().map(KnownValue::elements)
    }

    /// The element of input `n` at a position of the output that it broadcasts to.
    fn broadcast_element(&self, n: usize, position: &[usize]) -> Option<Element> {
        let shape = self.input_shape(n)?;
        let offset = position.len().checked_sub(shape.len())?;
        let coords = shape.iter().zip(&position[offset..]).map(|(&size, &p)| if size == 1 { 0 } else { p });
        self.known(n)?.get(flat(&shape, coords))?.clone()
    }

    fn fill(&self, element: impl Fn(&[usize]) -> Option<Element>) -> Vec<Option<Element>> {
        let count = self.shape.iter().product();
        let mut position = vec![0; self.shape.len()];
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(element(&position));
            for axis in (0..position.len()).rev() {
                position[axis] += 1;
                if position[axis] < self.shape[axis] {
                    break;
                }
                position[axis] = 0;
            }
        }
        all
    }

    fn elements(&self, output: usize) -> Option<Vec<Option<Element>>> {
        match &self.graph.nodes[self.node].op {
            Op::Constant(c) => {
                let data = &self.graph.constants[*c];
                constant_elements(&data.ty, &data.source)
            }
            Op::DimValue(dim) => Some(vec![Some(Element::Int(dim.clone()))]),
            Op::BindSizes { symbols, .. } => Some(symbols.iter().map(|&s| Some(Element::Int(s.into()))).collect()),
            Op::Elementwise(expr) => {
                let inputs = self.graph.nodes[self.node].inputs.iter();
                let dtypes = inputs.map(|&v| Some(self.graph.ty(v).as_tensor()?.dtype)).collect::<Option<Vec<_>>>()?;
                let types = expr.types(&dtypes).ok()?;
                Some(self.fill(|position| self.evaluate(expr, &types, position)))
            }
            Op::Reshape => self.known(0).map(<[_]>::to_vec),
            Op::Broadcast => {
                self.known(0)?;
                Some(self.fill(|position| self.broadcast_element(0, position)))
            }
            Op::Transpose { perm } => {
                let (shape, known) = (self.input_shape(0)?, self.known(0)?);
                Some(self.fill(|position| {
                    let mut coords = vec![0; shape.len()];
                    perm.iter().zip(position).for_each(|(&axis, &p)| coords[axis as usize] = p);
                    known[flat(&shape, coords)].clone()
                }))
            }
            Op::Slice { starts, steps } => {
                let (shape, known) = (self.input_shape(0)?, self.known(0)?);
                let starts = starts.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>()?;
                Some(self.fill(|position| {
                    let at = |axis: usize| usize::try_from(starts[axis] + position[axis] as i64 * steps[axis]).ok();
                    let coords = (0..position.len()).map(at).collect::<Option<Vec<usize>>>()?;
                    known.get(flat(&shape, coords))?.clone()
                }))
            }
            Op::Pad { lo, .. } => {
                let (shape, known, fill) = (self.input_shape(0)?, self.known(0)?, self.known(1)?.first()?);
                let lo = lo.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>()?;
                Some(self.fill(|position| {
                    let at = |axis: usize| {
                        usize::try_from(position[axis] as i64 - lo[axis]).ok().filter(|&c| c < shape[axis])
                    };
                    match (0..position.len()).map(at).collect::<Option<Vec<usize>>>() {
                        Some(coords) => known[flat(&shape, coords)].clone(),
                        None => fill.clone(),
                    }
                }))
            }
            Op::Concat { axis } => self.concat(*axis as usize),
            Op::Gather { coords } => {
                let (shape, known) = (self.input_shape(0)?, self.known(0)?);
                Some(self.fill(|position| {
                    let at = self.coordinates(coords, 1, position)?;
                    // Indices are clamped into range, as every use of an index is.
                    let at = at.iter().zip(&shape).map(|(&c, &size)| c.clamp(0, size.max(1) as i64 - 1) as usize);
                    known.get(flat(&shape, at))?.clone()
                }))
            }
            Op::Scatter { coords, op: ScatterOp::Set } => self.scatter(coords),
            Op::Reduce { op, axes } => self.reduce(*op, axes),
            Op::If { then, otherwise, .. } => {
                let condition = self.known(0)?.first()?.as_ref()?.as_const()?;
                self.region_result(if condition != 0 { *then } else { *otherwise }, output)
            }
            Op::Composite { body, .. } | Op::Group { body } => self.region_result(*body, output),
            // Not part of shape arithmetic.
            Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_)
            | Op::Loop { .. } => None,
        }
    }

    /// A region's parameters know what the arguments do, so its results hold outside.
    fn region_result(&self, region: Region, n: usize) -> Option<Vec<Option<Element>>> {
        let result = *self.graph.regions[region].results.get(n)?;
        Some(self.graph.known[result].as_ref()?.elements().to_vec())
    }

    /// Constant coordinates of a gather or scatter; index inputs start at input `first`.
    fn coordinates(&self, coords: &[Coord], first: usize, position: &[usize]) -> Option<Vec<i64>> {
        let one = |coord: &Coord| match *coord {
            Coord::Axis(axis) => Some(position[axis as usize] as i64),
            Coord::Input(n) => self.broadcast_element(first + n as usize, position)?.as_const(),
        };
        coords.iter().map(one).collect()
    }

    fn concat(&self, axis: usize) -> Option<Vec<Option<Element>>> {
        let inputs = self.graph.nodes[self.node].inputs.len();
        let sizes = (0..inputs).map(|n| self.input_shape(n)).collect::<Option<Vec<_>>>()?;
        Some(self.fill(|position| {
            let mut coords = position.to_vec();
            for (n, shape) in sizes.iter().enumerate() {
                if coords[axis] < shape[axis] {
                    return self.known(n)?[flat(shape, coords)].clone();
                }
                coords[axis] -= shape[axis];
            }
            None
        }))
    }

    fn scatter(&self, coords: &[Coord]) -> Option<Vec<Option<Element>>> {
        let mut data = self.known(0)?.to_vec();
        let (shape, updates) = (self.input_shape(0)?, self.input_shape(1)?);
        let positions = Rule { graph: self.graph, node: self.node, dtype: self.dtype, shape: updates.clone() };
        let places = std::cell::RefCell::new(Vec::new());
        positions.fill(|position| {
            places.borrow_mut().push((self.coordinates(coords, 2, position), flat(&updates, position.iter().copied())));
            None
        });
        for (place, update) in places.into_inner() {
            let place = place?;
            if place.iter().zip(&shape).all(|(&c, &size)| (0..size as i64).contains(&c)) {
                let value = self.known(1).and_then(|k| k.get(update)?.clone());
                data[flat(&shape, place.iter().map(|&c| c as usize))] = value;
            }
        }
        Some(data)
    }

    fn reduce(&self, op: ReduceOp, axes: &[u32]) -> Option<Vec<Option<Element>>> {
        let (op, identity) = match op {
            ReduceOp::Sum => (BinaryOp::Add, Some(Element::int(0))),
            ReduceOp::Prod => (BinaryOp::Mul, Some(Element::int(1))),
            ReduceOp::Min => (BinaryOp::Min, None),
            ReduceOp::Max => (BinaryOp::Max, None),
            ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. } => return None,
        };
        // Sums of floats depend on their order, which schedules choose.
        if self.dtype.is_float() {
            return None;
        }
        let (shape, known) = (self.input_shape(0)?, self.known(0)?);
        let reduced = |axis: usize| axes.contains(&(axis as u32));
        Some(self.fill(|position| {
            let mut result = identity.clone();
            let mut left = position.iter();
            let fixed: Vec<Option<usize>> =
                (0..shape.len()).map(|axis| if reduced(axis) { None } else { left.next().copied() }).collect();
            for (at, element) in known.iter().enumerate() {
                let mut rest = at;
                let inside = (0..shape.len()).rev().all(|axis| {
                    let coord = rest % shape[axis];
                    rest /= shape[axis];
                    fixed[axis].is_none_or(|f| f == coord)
                });
                if inside {
                    let element = element.clone()?;
                    result = Some(match result {
                        Some(so_far) => self.binary(op, self.dtype, so_far, element)?,
                        None => element,
                    });
                }
            }
            result
        }))
    }

    fn evaluate(&self, expr: &ScalarExpr, types: &[DType], position: &[usize]) -> Option<Element> {
        let mut steps: Vec<Option<Element>> = Vec::with_capacity(expr.insts.len());
        for (inst, &ty) in expr.insts.iter().zip(types) {
            let get = |i: u32| steps[i as usize].clone();
            let value = match inst {
                ScalarInst::Arg(n) => self.broadcast_element(*n as usize, position),
                ScalarInst::Index(axis) => Some(Element::int(position[*axis as usize] as i64)),
                ScalarInst::Const(c) => scalar_element(*c),
                ScalarInst::Dim(d) => Some(Element::Int(d.clone())),
                ScalarInst::Unary(op, a) => get(*a).and_then(|a| self.unary(*op, ty, a)),
                ScalarInst::Binary(op, a, b) => get(*a).zip(get(*b)).and_then(|(a, b)| self.binary(*op, ty, a, b)),
                ScalarInst::Compare(op, a, b) => get(*a).zip(get(*b)).and_then(|(a, b)| self.compare(*op, &a, &b)),
                ScalarInst::Select(c, a, b) => match get(*c).and_then(|c| c.as_const()) {
                    Some(0) => get(*b),
                    Some(_) => get(*a),
                    None => get(*a).filter(|a| get(*b).as_ref() == Some(a)),
                },
                ScalarInst::Cast(to, a) => get(*a).and_then(|a| self.cast(*to, a)),
                ScalarInst::MulAdd(..) | ScalarInst::Bitcast(..) => None,
            };
            steps.push(value.filter(|v| fits(v, ty)));
        }
        steps.pop()?
    }
}
