//! Comparisons, logic, bits, and choosing by a condition.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

use super::Operator;
use super::math::{binary, compute_type, operands};
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("And", &[1, 7], (2, 2), |cx| binary(cx, BinaryOp::And)),
    Operator::onnx("Or", &[1, 7], (2, 2), |cx| binary(cx, BinaryOp::Or)),
    Operator::onnx("Xor", &[1, 7], (2, 2), |cx| binary(cx, BinaryOp::Xor)),
    Operator::onnx("Not", &[1], (1, 1), not),
    Operator::onnx("BitwiseAnd", &[18], (2, 2), |cx| binary(cx, BinaryOp::And)),
    Operator::onnx("BitwiseOr", &[18], (2, 2), |cx| binary(cx, BinaryOp::Or)),
    Operator::onnx("BitwiseXor", &[18], (2, 2), |cx| binary(cx, BinaryOp::Xor)),
    Operator::onnx("BitwiseNot", &[18], (1, 1), not),
    Operator::onnx("BitShift", &[11, 28], (2, 2), bit_shift),
    Operator::onnx("Equal", &[1, 7, 11, 13, 19], (2, 2), |cx| compare(cx, CmpOp::Eq)),
    Operator::onnx("Greater", &[1, 7, 9, 13], (2, 2), |cx| compare(cx, CmpOp::Gt)),
    Operator::onnx("GreaterOrEqual", &[12, 16], (2, 2), |cx| compare(cx, CmpOp::Ge)),
    Operator::onnx("Less", &[1, 7, 9, 13], (2, 2), |cx| compare(cx, CmpOp::Lt)),
    Operator::onnx("LessOrEqual", &[12, 16], (2, 2), |cx| compare(cx, CmpOp::Le)),
    Operator::onnx("Where", &[9, 16], (3, 3), |cx| {
        let (condition, a, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        Ok(vec![cx.b.select(condition, a, b)?])
    }),
    Operator::onnx("IsNaN", &[9, 13, 20], (1, 1), is_nan),
    Operator::onnx("IsInf", &[10, 20], (1, 1), is_inf),
];

fn not(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    Ok(vec![cx.b.unary(UnaryOp::Not, x)?])
}

fn compare(cx: &mut NodeContext<'_>, op: CmpOp) -> OpResult {
    let (a, b) = operands(cx)?;
    if cx.b.dtype(a)? == DType::String && op != CmpOp::Eq {
        return cx.invalid("strings are compared for equality only");
    }
    Ok(vec![cx.b.compare(op, a, b)?])
}

fn bit_shift(cx: &mut NodeContext<'_>) -> OpResult {
    let op = match cx.text("direction")? {
        Some("LEFT") => BinaryOp::Shl,
        Some("RIGHT") => BinaryOp::Shr,
        other => return cx.invalid(format!("direction {other:?} is neither LEFT nor RIGHT")),
    };
    binary(cx, op)
}

/// NaN alone differs from itself.
fn is_nan(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let dtype = cx.b.dtype(x)?;
    Ok(vec![cx.b.map(&[x], |e| {
        let x = e.arg(0);
        let x = if compute_type(dtype) == dtype { x } else { e.cast(compute_type(dtype), x) };
        Ok(e.ne(x, x))
    })?])
}

fn is_inf(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let dtype = cx.b.dtype(x)?;
    if !dtype.is_float() {
        return cx.invalid(format!("looks for infinities in {dtype}"));
    }
    let wide = compute_type(dtype);
    let (negative, positive) = (cx.flag("detect_negative", true), cx.flag("detect_positive", true));
    Ok(vec![cx.b.map(&[x], |e| {
        let x = e.arg(0);
        let x = if wide == dtype { x } else { e.cast(wide, x) };
        let (high, low) = (e.constant(Scalar::greatest(wide)), e.constant(Scalar::least(wide)));
        let (high, low) = (e.eq(x, high), e.eq(x, low));
        Ok(match (positive, negative) {
            (true, true) => e.or(high, low),
            (true, false) => high,
            (false, true) => low,
            (false, false) => {
                let never = e.constant(Scalar::bool(false));
                let is = e.or(high, low);
                e.and(is, never)
            }
        })
    })?])
}
