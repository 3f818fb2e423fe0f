//! Products and convolutions of integers, with what scales and shifts their sums.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::ReduceOp;

use super::super::Operator;
use super::super::quantize::dynamically_quantized;
use super::super::quantized_linear::{integer_product, quantized_convolution};
use super::layout::{channels_first, channels_last};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("QLinearConv", (8, 9), |cx| {
        let (x, last) = (cx.input(0)?, cx.flag("channels_last", false));
        let x = if last { channels_first(cx, x)? } else { x };
        let y = quantized_convolution(cx, x)?;
        Ok(vec![if last { channels_last(cx, y)? } else { y }])
    }),
    row("QGemm", (6, 9), gemm),
    row("DynamicQuantizeMatMul", (3, 5), |cx| {
        let (a, b, b_scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let (b_zero, bias) = (cx.optional(3), cx.optional(4));
        let (a, a_scale, a_zero) = dynamically_quantized(&mut cx.b, a)?;
        let sums = integer_product(cx, (a, Some(a_zero)), (b, b_zero))?;
        Ok(vec![scaled_sums(cx, sums, (a_scale, b_scale), bias)?])
    }),
    row("MatMulIntegerToFloat", (4, 7), |cx| {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let (scales, bias) = ((cx.input(2)?, cx.input(3)?), cx.optional(6));
        let (a_zero, b_zero) = (cx.optional(4), cx.optional(5));
        let sums = integer_product(cx, (a, a_zero), (b, b_zero))?;
        Ok(vec![scaled_sums(cx, sums, scales, bias)?])
    }),
    row("MatMulInteger16", (2, 2), |cx| {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        Ok(vec![cx.b.matmul(a, b, DType::I32)?])
    }),
    row("MulInteger", (3, 4), |cx| {
        // Zero points follow their tensors; that of the first may be left out.
        let (a, b) = (difference(cx, 0, 1)?, difference(cx, 2, 3)?);
        Ok(vec![cx.b.mul(a, b)?])
    }),
    row("ReduceSumInteger", (1, 1), |cx| {
        let Some(axes) = cx.ints("axes") else { return cx.invalid("attribute `axes` is missing") };
        let (x, keep) = (cx.input(0)?, cx.flag("keepdims", true));
        let wide = if cx.b.dtype(x)?.is_signed_int() { DType::I32 } else { DType::U32 };
        let x = cx.b.cast(x, wide)?;
        Ok(vec![cx.b.reduce(ReduceOp::Sum, x, axes, keep)?])
    }),
];

/// An operand less its zero point, `i32`.
fn difference(cx: &mut NodeContext<'_>, x: usize, zero: usize) -> Result<Value, OpError> {
    let x = cx.input(x)?;
    let x = cx.b.cast(x, DType::I32)?;
    let Some(zero) = cx.optional(zero) else { return Ok(x) };
    let zero = cx.b.cast(zero, DType::I32)?;
    let zero = cx.b.reshape(zero, &[])?;
    Ok(cx.b.sub(x, zero)?)
}

/// Sums times the product of two scales, and a bias.
pub(super) fn scaled_sums(
    cx: &mut NodeContext<'_>,
    sums: Value,
    (a, b): (Value, Value),
    bias: Option<Value>,
) -> Result<Value, OpError> {
    let scale = cx.b.mul(a, b)?;
    let inputs: Vec<Value> = [sums, scale].into_iter().chain(bias).collect();
    Ok(cx.b.map(&inputs, |e| {
        let (sum, scale) = (e.arg(0), e.arg(1));
        let sum = e.cast(DType::F32, sum);
        let y = e.mul(sum, scale);
        if inputs.len() < 3 {
            return Ok(y);
        }
        let bias = e.arg(2);
        Ok(e.add(y, bias))
    })?)
}

/// `alpha * a' * b' + c`, quantized if there is a scale for the result, else as floats.
fn gemm(cx: &mut NodeContext<'_>) -> OpResult {
    let oriented = |cx: &mut NodeContext<'_>, n: usize, flag: &str| -> Result<Value, OpError> {
        let x = cx.input(n)?;
        if cx.b.rank(x)? != 2 {
            return cx.invalid(format!("input {n} is no matrix"));
        }
        Ok(if cx.flag(flag, false) { cx.b.transpose(x, &[1, 0])? } else { x })
    };
    let (a, b) = (oriented(cx, 0, "transA")?, oriented(cx, 3, "transB")?);
    let (a_zero, b_zero) = (cx.input(2)?, cx.input(5)?);
    let dtype = cx.b.dtype(a)?;
    let mut sums = integer_product(cx, (a, Some(a_zero)), (b, Some(b_zero)))?;
    if let Some(c) = cx.optional(6) {
        sums = cx.b.add(sums, c)?;
    }
    let (a_scale, b_scale) = (cx.input(1)?, cx.input(4)?);
    let mut scale = cx.b.mul(a_scale, b_scale)?;
    let alpha = f64::from(cx.float("alpha", 1.0));
    if alpha != 1.0 {
        scale = cx.b.binary_number(BinaryOp::Mul, scale, alpha)?;
    }
    let Some(to) = cx.optional(7) else {
        let sums = cx.b.cast(sums, DType::F32)?;
        return Ok(vec![cx.b.mul(sums, scale)?]);
    };
    let scale = cx.b.div(scale, to)?;
    let inputs: Vec<Value> = [sums, scale].into_iter().chain(cx.optional(8)).collect();
    Ok(vec![cx.b.map(&inputs, |e| {
        let (sum, scale) = (e.arg(0), e.arg(1));
        let sum = e.cast(DType::F32, sum);
        let scaled = e.mul(sum, scale);
        let mut whole = e.round(scaled);
        if inputs.len() == 3 {
            let zero = e.arg(2);
            let zero = e.cast(DType::F32, zero);
            whole = e.add(whole, zero);
        }
        Ok(e.cast(dtype, whole))
    })?])
}
