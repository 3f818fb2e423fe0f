//! Softmax and normalisations over trailing axes: a row is read twice or three times while it is in the nearest cache.
//!
//! Rows shorter than a vector go side by side, a lane each.
//!
//! Softmax: the maximum; then the exponentials, kept in the worker's scratch, and their sum; then the quotients.
//! Layer normalisation: the mean; then the variance around it; then the normalised row. All sums are in `f32`.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{InstData, Val};
use onnxc_ir::scalar::{BinaryOp, Scalar, UnaryOp};
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{CompositeKind, Node, Op, Value};

use super::elements::for_each_element;
use super::gemm::multiply_add;
use super::reduce::identity;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Whether this schedule takes the composite: floating-point rows of 32 bits or more.
pub fn takes(kind: &CompositeKind, dtype: DType) -> bool {
    matches!(
        kind,
        CompositeKind::Softmax { .. }
            | CompositeKind::LogSoftmax { .. }
            | CompositeKind::LayerNorm { .. }
            | CompositeKind::RmsNorm { .. }
    ) && matches!(dtype, DType::F32 | DType::F64)
}

/// Schedules a group whose anchor is a softmax or normalisation.
pub fn schedule(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Composite { kind, .. } = &data.op else { panic!("the anchor is a composite") };
    let axis = match *kind {
        CompositeKind::Softmax { axis } | CompositeKind::LogSoftmax { axis } => axis,
        CompositeKind::LayerNorm { axis, .. } | CompositeKind::RmsNorm { axis, .. } => axis,
        CompositeKind::Recurrent { .. } | CompositeKind::Function(_) => panic!("the anchor is a normalisation"),
    } as usize;
    let (input, result) = (data.inputs[0], data.outputs[0]);
    let ty = k.graph.tensor_ty(input).clone();
    let (outer, inner) = ty.shape.split_at(axis);
    let rows = product(outer);
    let length = product(inner);
    let block = length.as_const().map_or(1, |n| (k.machine.task_elements / n.max(1)).max(1));
    let lanes = if ty.dtype == DType::F32 { k.lanes() } else { 1 };
    let row = Row {
        input,
        result,
        operands: data.inputs[1..].to_vec(),
        dtype: ty.dtype,
        extents: inner.iter().map(|d| k.dim(d)).collect(),
        length: k.dim(&length),
        lanes,
    };
    let dims: Vec<Index> = outer.iter().map(|d| k.dim(d)).collect();
    let bound = k.dim(&rows);
    k.tasks(|k, task| {
        let (lo, hi) = k.part(task, block, bound);
        k.each(lo, hi, 1, |k, flat| {
            let at: Vec<Coord> = k.unflatten(flat, &dims).into_iter().map(Coord::uniform).collect();
            match *kind {
                CompositeKind::Softmax { .. } => row.softmax(k, &at, false),
                CompositeKind::LogSoftmax { .. } => row.softmax(k, &at, true),
                CompositeKind::LayerNorm { epsilon, .. } => row.norm(k, &at, f32::from_bits(epsilon), true),
                CompositeKind::RmsNorm { epsilon, .. } => row.norm(k, &at, f32::from_bits(epsilon), false),
                CompositeKind::Recurrent { .. } | CompositeKind::Function(_) => unreachable!("refused above"),
            }
        });
    });
    let tasks = rows.ceil_div(&Dim::from(block)).expect("the divisor is a constant");
    let flops = product([&rows, &length, &Dim::from(5)]);
    k.finish(tasks, flops)
}

/// Schedules a softmax over rows shorter than a vector, such as the classes of a pixel: each lane has a row of its own. The
/// lanes run along the dimension in which results follow each other in memory, if there is one.
pub fn short_rows<'g>(kernel: impl Fn() -> GroupKernel<'g>, anchor: Node) -> Option<GroupLaunch> {
    let k = kernel();
    let Op::Composite { kind: CompositeKind::Softmax { axis }, .. } = k.graph.nodes[anchor].op else { return None };
    let shape = &k.graph.tensor_ty(k.graph.nodes[anchor].inputs[0]).shape;
    let long = |i: &usize| shape[*i].as_const().is_none_or(|n| n > 1);
    (0..axis as usize).rev().filter(long).find_map(|along| side_by_side(kernel(), anchor, along))
}

/// The same with the lanes along a dimension; nothing if that scatters the results.
fn side_by_side(mut k: GroupKernel<'_>, anchor: Node, along: usize) -> Option<GroupLaunch> {
    let data = &k.graph.nodes[anchor];
    let Op::Composite { kind: CompositeKind::Softmax { axis }, .. } = data.op else { return None };
    let (input, result) = (data.inputs[0], data.outputs[0]);
    let ty = k.graph.tensor_ty(input).clone();
    let (outer, inner) = ty.shape.split_at(axis as usize);
    let lanes = k.lanes();
    let [length] = inner else { return None };
    let length = length.as_const().filter(|n| (1..=i64::from(lanes)).contains(n))?;
    if lanes == 1 || ty.dtype != DType::F32 {
        return None;
    }
    let mut dims = outer.to_vec();
    let lane_dim = dims.remove(along);
    dims.push(lane_dim);
    let tasks = for_each_element(&mut k, &dims, lanes, None, |k, rows| {
        let at = |i: i64| {
            let mut coords = rows.coords.clone();
            let lane = coords.pop().expect("the lanes' dimension");
            coords.insert(along, lane);
            coords.push(Coord::uniform(i));
            Position { coords, lanes: rows.lanes, count: rows.count }
        };
        let row: Vec<Val> = (0..length).map(|i| k.pull(input, &at(i), &mut Pulled::default())).collect();
        let most = k.combine(BinaryOp::Max, &row);
        let exps: Vec<Val> = (row.iter())
            .map(|&x| {
                let shifted = k.b.binary(BinaryOp::Sub, x, most);
                k.b.unary(UnaryOp::Exp, shifted)
            })
            .collect();
        let sum = k.combine(BinaryOp::Add, &exps);
        let one = k.b.constant(Scalar::f32(1.0), rows.lanes);
        let scale = k.b.binary(BinaryOp::Div, one, sum);
        for (i, &exp) in exps.iter().enumerate() {
            let val = k.b.binary(BinaryOp::Mul, exp, scale);
            k.push(result, &at(i as i64), val, &mut Pulled::default());
        }
    });
    let flops = product(ty.shape.iter().chain([&Dim::from(5)]));
    let launch = k.finish(tasks, flops);
    let scatters = launch.kernel.insts.values().any(|inst| matches!(inst.data, InstData::Scatter { .. }));
    (!scatters).then_some(launch)
}

/// What happens at a position of a row: it gets the coordinates, the lanes and the count of valid lanes.
type RowBody<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Coord], u16, Option<Val>) + 'a;

/// What an accumulator becomes at a position of a row.
type RowElement<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Coord], u16, Option<Val>, Val) -> Val + 'a;

/// One kind of row.
struct Row {
    input: Value,
    result: Value,
    operands: Vec<Value>,
    dtype: DType,
    extents: Vec<Index>,
    length: Index,
    lanes: u16,
}

impl Row {
    fn position(&self, outer: &[Coord], inner: &[Coord], lanes: u16, count: Option<Val>) -> Position {
        Position { coords: outer.iter().chain(inner).copied().collect(), lanes, count }
    }

    /// Visits the row in vectors and what is left over in scalars, without carried values.
    fn visit(&self, k: &mut GroupKernel<'_>, body: &mut RowBody<'_>) {
        let (&last, around) = self.extents.split_last().expect("something is normalised");
        super::gemm::nest(k, around, &mut vec![], &[], &mut |k, around, _| {
            let around: Vec<Coord> = around.iter().map(|&i| Coord::uniform(i)).collect();
            k.vectors(0, last, self.lanes, |k, c, lanes, count| {
                let inner: Vec<Coord> = around.iter().copied().chain([c]).collect();
                body(k, &inner, lanes, count);
            });
            vec![]
        });
    }

    /// Reduces over the row; `element` gives what an accumulator becomes at a position.
    fn reduce(&self, k: &mut GroupKernel<'_>, op: ReduceOp, element: &mut RowElement<'_>) -> Val {
        let (&last, around) = self.extents.split_last().expect("something is normalised");
        let wide = k.b.constant(identity(op, self.dtype), self.lanes);
        let narrow = k.b.constant(identity(op, self.dtype), 1);
        let sums = super::gemm::nest(k, around, &mut vec![], &[wide, narrow], &mut |k, around, sums| {
            let around: Vec<Coord> = around.iter().map(|&i| Coord::uniform(i)).collect();
            let (wide, narrow) =
                k.vectors_carrying(last, self.lanes, &sums[..1], &sums[1..], |k, c, lanes, count, sums| {
                    let inner: Vec<Coord> = around.iter().copied().chain([c]).collect();
                    vec![element(k, &inner, lanes, count, sums[0])]
                });
            vec![wide[0], narrow[0]]
        });
        let combine = super::reduce::combiner(op);
        let across = k.b.reduce_lanes(combine, sums[0]);
        k.b.binary(combine, across, sums[1])
    }

    fn element(
        &self,
        k: &mut GroupKernel<'_>,
        outer: &[Coord],
        inner: &[Coord],
        lanes: u16,
        count: Option<Val>,
    ) -> Val {
        k.pull(self.input, &self.position(outer, inner, lanes, count), &mut Pulled::default())
    }

    fn softmax(&self, k: &mut GroupKernel<'_>, outer: &[Coord], logarithm: bool) {
        let most = self.reduce(k, ReduceOp::Max, &mut |k, inner, lanes, count, held| {
            let x = self.element(k, outer, inner, lanes, count);
            k.b.binary(BinaryOp::Max, held, x)
        });
        let shifted_exp = |k: &mut GroupKernel<'_>, inner: &[Coord], lanes: u16, count: Option<Val>| {
            let x = self.element(k, outer, inner, lanes, count);
            let most = k.b.splat(most, lanes);
            let shifted = k.b.binary(BinaryOp::Sub, x, most);
            (shifted, k.b.unary(UnaryOp::Exp, shifted))
        };
        // The exponentials wait in the result where nothing follows that changes its type or place.
        let kept =
            (!logarithm && k.results() == [self.result]).then(|| (k.output(self.result), k.strides(self.result)));
        let sum = self.reduce(k, ReduceOp::Sum, &mut |k, inner, lanes, count, held| {
            let (_, exp) = shifted_exp(k, inner, lanes, count);
            if let Some((buffer, strides)) = &kept {
                let at = self.position(outer, inner, lanes, count);
                k.store(*buffer, strides, &at, exp);
            }
            k.b.binary(BinaryOp::Add, held, exp)
        });
        let one = k.b.constant(Scalar::one(self.dtype), 1);
        let scale = if logarithm { k.b.unary(UnaryOp::Log, sum) } else { k.b.binary(BinaryOp::Div, one, sum) };
        self.visit(k, &mut |k, inner, lanes, count| {
            let at = self.position(outer, inner, lanes, count);
            let scale = k.b.splat(scale, lanes);
            match &kept {
                Some((buffer, strides)) => {
                    let exp = k.load(*buffer, strides, &at);
                    let val = k.b.binary(BinaryOp::Mul, exp, scale);
                    k.store(*buffer, strides, &at, val);
                }
                None => {
                    let (shifted, exp) = shifted_exp(k, inner, lanes, count);
                    let val = if logarithm {
                        k.b.binary(BinaryOp::Sub, shifted, scale)
                    } else {
                        k.b.binary(BinaryOp::Mul, exp, scale)
                    };
                    k.push(self.result, &at, val, &mut Pulled::default());
                }
            }
        });
    }

    fn norm(&self, k: &mut GroupKernel<'_>, outer: &[Coord], epsilon: f32, centred: bool) {
        let length = k.b.val(self.length);
        let length = k.b.cast(self.dtype, length);
        let mean = centred.then(|| {
            let sum = self.reduce(k, ReduceOp::Sum, &mut |k, inner, lanes, count, held| {
                let x = self.element(k, outer, inner, lanes, count);
                k.b.binary(BinaryOp::Add, held, x)
            });
            k.b.binary(BinaryOp::Div, sum, length)
        });
        let deviation = |k: &mut GroupKernel<'_>, inner: &[Coord], lanes: u16, count: Option<Val>| {
            let x = self.element(k, outer, inner, lanes, count);
            match mean {
                None => x,
                Some(mean) => {
                    let mean = k.b.splat(mean, lanes);
                    k.b.binary(BinaryOp::Sub, x, mean)
                }
            }
        };
        let squares = self.reduce(k, ReduceOp::Sum, &mut |k, inner, lanes, count, held| {
            let d = deviation(k, inner, lanes, count);
            multiply_add(k, d, d, held)
        });
        let variance = k.b.binary(BinaryOp::Div, squares, length);
        let epsilon = Scalar::number(self.dtype, f64::from(epsilon)).expect("rows are f32 or f64");
        let epsilon = k.b.constant(epsilon, 1);
        let variance = k.b.binary(BinaryOp::Add, variance, epsilon);
        let root = k.b.unary(UnaryOp::Sqrt, variance);
        let one = k.b.constant(Scalar::one(self.dtype), 1);
        let scale = k.b.binary(BinaryOp::Div, one, root);
        self.visit(k, &mut |k, inner, lanes, count| {
            let d = deviation(k, inner, lanes, count);
            let scale = k.b.splat(scale, lanes);
            let mut val = k.b.binary(BinaryOp::Mul, d, scale);
            // The operands have the shape of the row.
            let at = self.position(&[], inner, lanes, count);
            for (i, &operand) in self.operands.iter().enumerate() {
                let x = k.pull(operand, &at, &mut Pulled::default());
                val = if i == 0 { k.b.binary(BinaryOp::Mul, val, x) } else { k.b.binary(BinaryOp::Add, val, x) };
            }
            let at = self.position(outer, inner, lanes, count);
            k.push(self.result, &at, val, &mut Pulled::default());
        });
    }
}
