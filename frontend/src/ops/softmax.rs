//! Softmax and its logarithm.

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

/// Softmax over all axes from `axis` on, merged; or its logarithm.
pub(super) fn trailing_softmax(b: &mut Builder<'_>, x: Value, axis: usize, log: bool) -> Result<Value, OpError> {
    let (rank, dtype) = (b.rank(x)?, b.dtype(x)?);
    let kind = match log {
        false => CompositeKind::Softmax { axis: axis as u32 },
        true => CompositeKind::LogSoftmax { axis: axis as u32 },
    };
    let axes: Vec<i64> = (axis as i64..rank as i64).collect();
    let y = b.composite(kind, &[x], |b, x| body(b, x[0], &axes, dtype, log))?;
    Ok(y[0])
}

fn body(b: &mut Builder<'_>, x: Value, axes: &[i64], dtype: DType, log: bool) -> Result<Vec<Value>, BuildError> {
    let x = b.cast(x, sum_type(dtype))?;
    let max = b.reduce(ReduceOp::Max, x, axes, true)?;
    let below = b.sub(x, max)?;
    let powers = b.exp(below)?;
    let sum = b.reduce(ReduceOp::Sum, powers, axes, true)?;
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
