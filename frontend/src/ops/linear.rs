//! Matrix products.

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("MatMul", &[1, 9, 13], (2, 2), matmul),
    Operator::onnx("Gemm", &[1, 6, 7, 9, 11, 13], (2, 3), gemm),
];

/// The type in which products of elements of a type are summed.
pub(super) fn sum_type(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

fn matmul(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    Ok(vec![product(cx, a, b)?])
}

/// The matrix product as numpy defines it, in the type of the operands.
pub(super) fn product(cx: &mut NodeContext<'_>, a: Value, b: Value) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(a)?;
    if cx.b.dtype(b)? != dtype {
        return cx.invalid(format!("product of {dtype} and {}", cx.b.dtype(b)?));
    }
    let result = cx.b.matmul(a, b, sum_type(dtype))?;
    Ok(cx.b.cast(result, dtype)?)
}

fn gemm(cx: &mut NodeContext<'_>) -> OpResult {
    Ok(vec![general_product(cx)?])
}

/// `alpha * A * B + beta * C`. Before opset 7 broadcasting of C had to be asked for; what it did is what broadcasting does.
pub(super) fn general_product(cx: &mut NodeContext<'_>) -> Result<Value, OpError> {
    let (mut a, mut b, mut c) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let transposed = (cx.flag("transA", false), cx.flag("transB", false));
    let scale = (f64::from(cx.float("alpha", 1.0)), f64::from(cx.float("beta", 1.0)));
    let dtype = cx.b.dtype(a)?;
    let acc = sum_type(dtype);
    if dtype != acc {
        a = cx.b.cast(a, acc)?;
        b = cx.b.cast(b, acc)?;
        c = c.map(|c| cx.b.cast(c, acc)).transpose()?;
    }
    let y = cx.b.gemm(a, b, c, transposed, scale)?;
    Ok(cx.b.cast(y, dtype)?)
}
