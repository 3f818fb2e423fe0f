//! Arithmetic of two and more operands, element by element.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex};
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Add", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Add)),
    Operator::onnx("Sub", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Sub)),
    Operator::onnx("Mul", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Mul)),
    Operator::onnx("Div", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Div)),
    Operator::onnx("Mod", &[10, 13, 28], (2, 2), modulo),
    Operator::onnx("Pow", &[1, 7, 12, 13, 15], (2, 2), pow),
    Operator::onnx("Min", &[1, 6, 8, 12, 13], (1, usize::MAX), |cx| variadic(cx, BinaryOp::Min, false)),
    Operator::onnx("Max", &[1, 6, 8, 12, 13], (1, usize::MAX), |cx| variadic(cx, BinaryOp::Max, false)),
    Operator::onnx("Sum", &[1, 6, 8, 13], (1, usize::MAX), |cx| variadic(cx, BinaryOp::Add, false)),
    Operator::onnx("Mean", &[1, 6, 8, 13], (1, usize::MAX), |cx| variadic(cx, BinaryOp::Add, true)),
];

/// The type in which a function of floats is computed: at least `f32`.
pub(super) fn compute_type(dtype: DType) -> DType {
    if dtype.is_float() && dtype != DType::F64 { DType::F32 } else { dtype }
}

/// One expression over the elements of the inputs, computed in at least `f32` and rounded once to the type of the first.
pub(super) fn map_wide(
    cx: &mut NodeContext<'_>,
    inputs: &[Value],
    f: impl FnOnce(&mut ExprBuilder, DType, &[ExprIndex]) -> Result<ExprIndex, BuildError>,
) -> Result<Value, OpError> {
    let dtypes = inputs.iter().map(|&v| cx.b.dtype(v)).collect::<Result<Vec<_>, _>>()?;
    let (result, wide) = (dtypes[0], compute_type(dtypes[0]));
    let value = cx.b.map(inputs, |e| {
        let mut args = Vec::with_capacity(dtypes.len());
        for (n, &dtype) in dtypes.iter().enumerate() {
            let arg = e.arg(n as u32);
            args.push(if compute_type(dtype) == dtype { arg } else { e.cast(compute_type(dtype), arg) });
        }
        let y = f(e, wide, &args)?;
        Ok(if wide == result { y } else { e.cast(result, y) })
    })?;
    Ok(value)
}

/// The two operands. Before opset 7, `broadcast` has to be set for unequal shapes, and `axis` says where the second
/// operand's first dimension stands in the first operand.
pub(super) fn operands(cx: &mut NodeContext<'_>) -> Result<(Value, Value), OpError> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let b = if cx.version < 7 { align_to_axis(cx, a, b)? } else { b };
    Ok((a, b))
}

/// `Add` and its siblings.
pub(super) fn binary(cx: &mut NodeContext<'_>, op: BinaryOp) -> OpResult {
    let (a, b) = operands(cx)?;
    Ok(vec![cx.b.binary(op, a, b)?])
}

/// The second operand with trailing dimensions of 1, as the old `axis` attribute asks.
fn align_to_axis(cx: &mut NodeContext<'_>, a: Value, b: Value) -> Result<Value, OpError> {
    let Some(axis) = cx.int_opt("axis").filter(|_| cx.flag("broadcast", false)) else { return Ok(b) };
    let (rank_a, rank_b) = (cx.b.rank(a)?, cx.b.rank(b)?);
    let axis = cx.b.axis(axis, rank_a)?;
    if axis + rank_b > rank_a {
        return cx.invalid(format!("axis {axis} leaves no room for {rank_b} dimensions in {rank_a}"));
    }
    let trailing: Vec<i64> = (rank_b as i64..(rank_a - axis) as i64).collect();
    Ok(cx.b.unsqueeze(b, &trailing)?)
}

fn modulo(cx: &mut NodeContext<'_>) -> OpResult {
    let op = if cx.flag("fmod", false) { BinaryOp::Rem } else { BinaryOp::Mod };
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    Ok(vec![map_wide(cx, &[a, b], |e, _, args| Ok(e.binary(op, args[0], args[1])))?])
}

/// The constant number that every element of a small value is.
fn known_number(cx: &NodeContext<'_>, value: Value) -> Option<f64> {
    let known = cx.b.graph.known[value].as_ref()?;
    let all = known
        .all_floats()
        .or_else(|| known.all()?.iter().map(|d| d.as_const().map(|i| i as f64)).collect::<Option<Vec<f64>>>())?;
    match all[..] {
        [number] => Some(number),
        _ => None,
    }
}

/// The exponent may have another type; the result has the base's. Small constant exponents become products.
fn pow(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, b) = operands(cx)?;
    let (base, exponent) = (cx.b.dtype(a)?, cx.b.dtype(b)?);
    let keeps_shape = {
        let (from, to) = (cx.b.shape(a)?, cx.b.broadcast_shape(&[a, b])?);
        cx.b.graph.same_shape(&from, &to)
    };
    if let Some(number) = known_number(cx, b).filter(|_| keeps_shape && base.is_float()) {
        let special = [1.0, 2.0, 3.0, 0.5, -1.0, -0.5].contains(&number);
        if special {
            return Ok(vec![map_wide(cx, &[a], |e, t, args| {
                let x = args[0];
                let root = |e: &mut ExprBuilder| if number.fract() == 0.0 { x } else { e.sqrt(x) };
                let mut y = root(e);
                for _ in 1..number.abs().ceil() as i64 {
                    y = e.mul(y, x);
                }
                if number < 0.0 {
                    let one = e.number(t, 1.0)?;
                    y = e.div(one, y);
                }
                Ok(y)
            })?]);
        }
    }
    if base.is_int() && exponent.is_float() {
        // Powers of integers are taken in the widest type: the result is truncated.
        let y = cx.b.map(&[a, b], |e| {
            let (a, b) = (e.arg(0), e.arg(1));
            let (a, b) = (e.cast(DType::F64, a), e.cast(DType::F64, b));
            let y = e.pow(a, b);
            Ok(e.cast(base, y))
        })?;
        return Ok(vec![y]);
    }
    let wide = compute_type(base);
    Ok(vec![map_wide(cx, &[a, b], |e, _, args| {
        let exponent = if compute_type(exponent) == wide { args[1] } else { e.cast(wide, args[1]) };
        Ok(e.pow(args[0], exponent))
    })?])
}

/// `Sum`, `Min` and so on of any number of inputs; `mean` divides by their number.
fn variadic(cx: &mut NodeContext<'_>, op: BinaryOp, mean: bool) -> OpResult {
    let inputs = cx.all_inputs();
    if inputs.is_empty() {
        return cx.invalid("has no inputs");
    }
    Ok(vec![map_wide(cx, &inputs, |e, t, args| {
        let mut y = args[0];
        for &arg in &args[1..] {
            y = e.binary(op, y, arg);
        }
        if mean {
            let count = e.number(t, args.len() as f64)?;
            y = e.div(y, count);
        }
        Ok(y)
    })?])
}
