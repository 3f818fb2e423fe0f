//! Reductions and running sums.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::ReduceOp;

use super::math::compute_type;
use super::shape::{Axes, axes};
use super::{Operator, data_sizes};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("ReduceSum", &[1, 11, 13], (1, 2), |cx| reduce(cx, Reduction::Sum)),
    Operator::onnx("ReduceMean", &[1, 11, 13, 18], (1, 2), |cx| reduce(cx, Reduction::Mean)),
    Operator::onnx("ReduceProd", &[1, 11, 13, 18], (1, 2), |cx| reduce(cx, Reduction::Prod)),
    Operator::onnx("ReduceMin", &[1, 11, 12, 13, 18, 20], (1, 2), |cx| reduce(cx, Reduction::Min)),
    Operator::onnx("ReduceMax", &[1, 11, 12, 13, 18, 20], (1, 2), |cx| reduce(cx, Reduction::Max)),
    Operator::onnx("ReduceL1", &[1, 11, 13, 18], (1, 2), |cx| reduce(cx, Reduction::L1)),
    Operator::onnx("ReduceL2", &[1, 11, 13, 18], (1, 2), |cx| reduce(cx, Reduction::L2)),
    Operator::onnx("ReduceLogSum", &[1, 11, 13, 18, 28], (1, 2), |cx| reduce(cx, Reduction::LogSum)),
    Operator::onnx("ReduceLogSumExp", &[1, 11, 13, 18, 28], (1, 2), |cx| reduce(cx, Reduction::LogSumExp)),
    Operator::onnx("ReduceSumSquare", &[1, 11, 13, 18], (1, 2), |cx| reduce(cx, Reduction::SumSquare)),
    Operator::onnx("ArgMax", &[1, 11, 12, 13], (1, 1), |cx| extremum(cx, |last| ReduceOp::ArgMax { last })),
    Operator::onnx("ArgMin", &[1, 11, 12, 13], (1, 1), |cx| extremum(cx, |last| ReduceOp::ArgMin { last })),
    Operator::onnx("CumSum", &[11, 14], (2, 2), |cx| cumulate(cx, ReduceOp::Sum)),
    Operator::onnx("CumProd", &[26], (2, 2), |cx| cumulate(cx, ReduceOp::Prod)),
];

/// What is computed of the reduced elements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Sum,
    Mean,
    Prod,
    Min,
    Max,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

/// All axes by default, or none if `noop_with_empty_axes` is set. Narrow floats are computed in `f32`, integers of the
/// logarithms and roots too.
fn reduce(cx: &mut NodeContext<'_>, reduction: Reduction) -> OpResult {
    let x = cx.input(0)?;
    let rank = cx.b.rank(x)?;
    let keepdims = cx.flag("keepdims", true);
    let mut axes = match axes(cx)? {
        Axes::Absent => Vec::new(),
        Axes::Known(axes) => axes,
        Axes::Data(axes, count) => {
            let split = data_sizes::split(cx, x, axes, count, keepdims)?;
            let y = reduce_axes(cx, split.matrix, reduction, &[1], false)?;
            return Ok(vec![cx.b.reshape(y, &split.rows)?]);
        }
    };
    if axes.is_empty() {
        if cx.flag("noop_with_empty_axes", false) {
            return Ok(vec![over_nothing(cx, x, reduction)?]);
        }
        axes = (0..rank as i64).collect();
    }
    Ok(vec![reduce_axes(cx, x, reduction, &axes, keepdims)?])
}

fn reduce_axes(
    cx: &mut NodeContext<'_>,
    x: Value,
    reduction: Reduction,
    axes: &[i64],
    keepdims: bool,
) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(x)?;
    if matches!(reduction, Reduction::Min | Reduction::Max) {
        let op = if reduction == Reduction::Min { ReduceOp::Min } else { ReduceOp::Max };
        return Ok(cx.b.reduce(op, x, axes, keepdims)?);
    }
    let wide = wide_type(reduction, dtype);
    let x = cx.b.cast(x, wide)?;
    let y = match reduction {
        Reduction::Sum | Reduction::Min | Reduction::Max => cx.b.reduce(ReduceOp::Sum, x, axes, keepdims)?,
        Reduction::Mean => cx.b.mean(x, axes, keepdims)?,
        Reduction::Prod => cx.b.reduce(ReduceOp::Prod, x, axes, keepdims)?,
        Reduction::L1 => {
            let x = if wide.is_unsigned_int() { x } else { cx.b.abs(x)? };
            cx.b.reduce(ReduceOp::Sum, x, axes, keepdims)?
        }
        Reduction::SumSquare | Reduction::L2 => {
            let square = cx.b.mul(x, x)?;
            let sum = cx.b.reduce(ReduceOp::Sum, square, axes, keepdims)?;
            if reduction == Reduction::L2 { cx.b.sqrt(sum)? } else { sum }
        }
        Reduction::LogSum => {
            let sum = cx.b.reduce(ReduceOp::Sum, x, axes, keepdims)?;
            cx.b.log(sum)?
        }
        Reduction::LogSumExp => log_sum_exp(cx, x, wide, axes, keepdims)?,
    };
    Ok(cx.b.cast(y, dtype)?)
}

fn wide_type(reduction: Reduction, dtype: DType) -> DType {
    let real = matches!(reduction, Reduction::L2 | Reduction::LogSum | Reduction::LogSumExp);
    if real && !dtype.is_float() { DType::F64 } else { compute_type(dtype) }
}

/// What a reduction of single elements is.
fn over_nothing(cx: &mut NodeContext<'_>, x: Value, reduction: Reduction) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(x)?;
    let wide = wide_type(reduction, dtype);
    let x = match reduction {
        Reduction::Sum | Reduction::Mean | Reduction::Prod | Reduction::Min | Reduction::Max => return Ok(x),
        Reduction::LogSumExp => return Ok(x),
        Reduction::L1 | Reduction::L2 if dtype.is_unsigned_int() => return Ok(x),
        Reduction::L1 | Reduction::L2 => return Ok(cx.b.abs(x)?),
        Reduction::LogSum | Reduction::SumSquare => cx.b.cast(x, wide)?,
    };
    let y = if reduction == Reduction::LogSum { cx.b.log(x)? } else { cx.b.mul(x, x)? };
    Ok(cx.b.cast(y, dtype)?)
}

/// Relative to the greatest element, so that nothing overflows.
fn log_sum_exp(
    cx: &mut NodeContext<'_>,
    x: Value,
    dtype: DType,
    axes: &[i64],
    keepdims: bool,
) -> Result<Value, OpError> {
    let greatest = cx.b.reduce(ReduceOp::Max, x, axes, true)?;
    // An infinite greatest element would make NaN of its own difference.
    let base = cx.b.map(&[greatest], |e| {
        let (m, zero) = (e.arg(0), e.number(dtype, 0.0)?);
        let (magnitude, infinity) = (e.abs(m), e.constant(Scalar::greatest(dtype)));
        let finite = e.lt(magnitude, infinity);
        Ok(e.select(finite, m, zero))
    })?;
    let below = cx.b.sub(x, base)?;
    let powers = cx.b.exp(below)?;
    let sum = cx.b.reduce(ReduceOp::Sum, powers, axes, true)?;
    let log = cx.b.log(sum)?;
    let y = cx.b.add(log, base)?;
    Ok(if keepdims { y } else { cx.b.squeeze(y, axes)? })
}

fn extremum(cx: &mut NodeContext<'_>, op: fn(bool) -> ReduceOp) -> OpResult {
    let x = cx.input(0)?;
    let op = op(cx.flag("select_last_index", false));
    let y = cx.b.reduce(op, x, &[cx.int("axis", 0)], cx.flag("keepdims", true))?;
    Ok(vec![y])
}

/// The most axes among which one is chosen at run time.
const MAX_CHOICES: usize = 4;

/// An axis that is data chooses among the running sums along every axis.
fn cumulate(cx: &mut NodeContext<'_>, op: ReduceOp) -> OpResult {
    let (x, axis) = (cx.input(0)?, cx.input(1)?);
    let (exclusive, reverse) = (cx.flag("exclusive", false), cx.flag("reverse", false));
    if let Ok(axis) = cx.known_i64(1) {
        return Ok(vec![cx.b.cumulate(op, x, axis, exclusive, reverse)?]);
    }
    let rank = cx.b.rank(x)?;
    if rank > MAX_CHOICES {
        return cx.unsupported("an axis that depends on data");
    }
    let axis = cx.b.reshape(axis, &[])?;
    let axis = cx.b.cast(axis, DType::I64)?;
    let mut y = cx.b.cumulate(op, x, 0, exclusive, reverse)?;
    for i in 1..rank as i64 {
        let other = cx.b.cumulate(op, x, i, exclusive, reverse)?;
        y = cx.b.map(&[axis, other, y], |e| {
            let (axis, other, y) = (e.arg(0), e.arg(1), e.arg(2));
            let (from_start, from_end) = (e.dim(&Dim::from(i)), e.dim(&Dim::from(i - rank as i64)));
            let (a, b) = (e.eq(axis, from_start), e.eq(axis, from_end));
            let chosen = e.or(a, b);
            Ok(e.select(chosen, other, y))
        })?;
    }
    Ok(vec![y])
}
