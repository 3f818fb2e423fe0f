//! Arithmetic, element by element.

use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::Value;

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Add", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Add)),
    Operator::onnx("Sub", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Sub)),
    Operator::onnx("Mul", &[1, 6, 7, 13, 14], (2, 2), |cx| binary(cx, BinaryOp::Mul)),
    Operator::onnx("Relu", &[1, 6, 13, 14], (1, 1), |cx| Ok(vec![{
        let x = cx.input(0)?;
        cx.b.relu(x)?
    }])),
];

/// `Add` and its siblings. Before opset 7, `broadcast` has to be set for unequal shapes, and `axis` says where the second
/// operand's first dimension stands in the first operand.
fn binary(cx: &mut NodeContext<'_>, op: BinaryOp) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let b = if cx.version < 7 { align_to_axis(cx, a, b)? } else { b };
    Ok(vec![cx.b.binary(op, a, b)?])
}

/// The second operand with trailing dimensions of 1, as the old `axis` attribute asks.
pub(super) fn align_to_axis(
    cx: &mut NodeContext<'_>,
    a: Value,
    b: Value,
) -> Result<Value, OpError> {
    let Some(axis) = cx.int_opt("axis").filter(|_| cx.flag("broadcast", false)) else { return Ok(b) };
    let (rank_a, rank_b) = (cx.b.rank(a)?, cx.b.rank(b)?);
    let axis = cx.b.axis(axis, rank_a)?;
    if axis + rank_b > rank_a {
        return cx.invalid(format!("axis {axis} leaves no room for {rank_b} dimensions in {rank_a}"));
    }
    let trailing: Vec<i64> = (rank_b as i64..(rank_a - axis) as i64).collect();
    Ok(cx.b.unsqueeze(b, &trailing)?)
}
