//! Softmax and its logarithm.
//!
//! Types of 16 bits and fewer round each step of Softmax, as ONNX's reference does: the exponentials, their sum and the
//! quotients. Sums are made in `f32` and rounded once, except where the reference adds in the type itself and the row is
//! so short that this does no harm.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{CompositeKind, ReduceOp};
use onnxc_ir::tensor::{Builder, Value};

use super::Operator;
use super::linear::sum_type;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Softmax", &[1, 11, 13], (1, 1), |cx| normalized_exponential(cx, false)),
    Operator::onnx("LogSoftmax", &[1, 11, 13], (1, 1), |cx| normalized_exponential(cx, true)),
];

/// Before opset 13 all axes from `axis` on are normalised as one.
fn normalized_exponential(cx: &mut NodeContext<'_>, log: bool) -> OpResult {
    let x = cx.input(0)?;
    let rank = cx.b.rank(x)?;
    if cx.version >= 13 {
        let axis = cx.b.axis(cx.int("axis", -1), rank)?;
        return Ok(vec![softmax_over(&mut cx.b, x, axis, log)?]);
    }
    let axis = cx.int("axis", 1);
    // An axis behind the last one names no elements: each is normalised alone.
    let axis = if axis == rank as i64 { rank } else { cx.b.axis(axis, rank)? };
    Ok(vec![trailing_softmax(&mut cx.b, x, axis, log)?])
}

/// Softmax over one axis, or its logarithm.
pub(super) fn softmax_over(b: &mut Builder<'_>, x: Value, axis: usize, log: bool) -> Result<Value, OpError> {
    let rank = b.rank(x)?;
    if axis + 1 == rank {
        return trailing_softmax(b, x, axis, log);
    }
    // Swapping is its own inverse.
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 1);
    let x = b.transpose(x, &perm)?;
    let y = trailing_softmax(b, x, rank - 1, log)?;
    Ok(b.transpose(y, &perm)?)
}

/// Softmax over all axes from `axis` on, merged; or its logarithm. Where there are none, each element is alone.
pub(super) fn trailing_softmax(b: &mut Builder<'_>, x: Value, axis: usize, log: bool) -> Result<Value, OpError> {
    let (rank, dtype) = (b.rank(x)?, b.dtype(x)?);
    if axis == rank {
        let alone = b.unsqueeze(x, &[rank as i64])?;
        let y = trailing_softmax(b, alone, axis, log)?;
        return Ok(b.squeeze(y, &[rank as i64])?);
    }
    let kind = match log {
        false => CompositeKind::Softmax { axis: axis as u32 },
        true => CompositeKind::LogSoftmax { axis: axis as u32 },
    };
    let axes: Vec<i64> = (axis as i64..rank as i64).collect();
    let y = b.composite(kind, &[x], |b, x| body(b, x[0], &axes, dtype, log))?;
    Ok(y[0])
}

/// The longest row of `bf16` that is summed in `bf16`: the sum loses at most half a bit for each element.
const SHORT_ROW: i64 = 16;

/// The sum over the axes, which stay as 1.
fn row_sum(b: &mut Builder<'_>, x: Value, axes: &[i64]) -> Result<Value, BuildError> {
    let (shape, dtype) = (b.shape(x)?, b.dtype(x)?);
    let last = shape.len() as i64 - 1;
    let length = shape.last().and_then(Dim::as_const).filter(|n| (1..=SHORT_ROW).contains(n));
    let (Some(length), DType::BF16, true) = (length, dtype, *axes == [last]) else {
        return b.reduce(ReduceOp::Sum, x, axes, true);
    };
    let columns = (0..length)
        .map(|i| b.slice_axis(x, last, &Dim::from(i), &Dim::ONE, 1))
        .collect::<Result<Vec<Value>, BuildError>>()?;
    b.map(&columns, |e| {
        let first = e.arg(0);
        Ok((1..length as u32).fold(first, |sum, i| {
            let x = e.arg(i);
            e.add(sum, x)
        }))
    })
}

fn body(b: &mut Builder<'_>, x: Value, axes: &[i64], dtype: DType, log: bool) -> Result<Vec<Value>, BuildError> {
    let x = if log { b.cast(x, sum_type(dtype))? } else { x };
    let max = b.reduce(ReduceOp::Max, x, axes, true)?;
    let below = b.sub(x, max)?;
    let powers = b.exp(below)?;
    let sum = row_sum(b, powers, axes)?;
    let y = if log {
        let sum = b.log(sum)?;
        b.sub(below, sum)?
    } else {
        b.div(powers, sum)?
    };
    Ok(vec![b.cast(y, dtype)?])
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, noise};

    #[test]
    fn old_versions_merge_trailing_axes() {
        let sum = |opset, axis| {
            let (_, y) = TestModel::new("Softmax", opset).int("axis", axis).input(&[2, 3, 4], &noise(24)).run();
            y.iter().sum::<f32>().round() as i64
        };
        assert_eq!([sum(11, 0), sum(11, 1), sum(11, 2)], [1, 2, 6]);
        assert_eq!([sum(13, 0), sum(13, 1), sum(13, 2), sum(13, -1)], [12, 8, 6, 6]);
    }
}
