//! Elementwise operators, reductions and pools of quantized tensors: each element stands for `(q - zero point) * scale`,
//! is computed with in `f32`, and quantized again.
//!
//! Sums and products scale the differences of integers once, by the quotient of the scales, and round after the result's
//! zero point is added; functions go through the real number, which is divided by the result's scale and rounded before
//! the zero point is added. ONNX Runtime rounds in these places too, so that halves agree.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::ReduceOp;

use super::super::Operator;
use super::super::pool::mean_of_windows;
use super::super::quantize::{dequantize, quantize};
use super::super::softmax::{softmax_over, trailing_softmax};
use super::layout::{channels_first, channels_last};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("QuantizeLinear", (2, 3), quantize),
    row("DequantizeLinear", (2, 3), dequantize),
    row("QLinearAdd", (7, 8), |cx| binary(cx, false)),
    row("QLinearMul", (7, 8), |cx| binary(cx, true)),
    row("QLinearLeakyRelu", (4, 5), |cx| {
        let alpha = f64::from(cx.float("alpha", 0.01));
        function(cx, |e, x| {
            let (zero, alpha) = (e.number(DType::F32, 0.0)?, e.number(DType::F32, alpha)?);
            let (keep, scaled) = (e.ge(x, zero), e.mul(x, alpha));
            Ok(e.select(keep, x, scaled))
        })
    }),
    row("QLinearSigmoid", (4, 5), |cx| function(cx, |e, x| Ok(e.sigmoid(x)))),
    row("QLinearSoftmax", (5, 5), softmax),
    row("QLinearConcat", (5, usize::MAX), concat),
    row("QLinearWhere", (9, 9), choose),
    row("QLinearReduceMean", (4, 5), |cx| {
        let (x, from, to) = operand_and_result(cx)?;
        let Some(axes) = cx.ints("axes") else { return cx.invalid("attribute `axes` is missing") };
        let keep = cx.flag("keepdims", true);
        let real = dequantized(cx, x, from)?;
        let mean = cx.b.mean(real, axes, keep)?;
        let dtype = cx.b.dtype(x)?;
        Ok(vec![quantized(cx, mean, to, dtype)?])
    }),
    row("QLinearGlobalAveragePool", (5, 5), global_mean),
    row("QLinearAveragePool", (4, 5), |cx| {
        let (x, from, to) = operand_and_result(cx)?;
        let (last, dtype) = (cx.flag("channels_last", false), cx.b.dtype(x)?);
        let mut real = dequantized(cx, x, from)?;
        if last {
            real = channels_first(cx, real)?;
        }
        let mut mean = mean_of_windows(cx, real)?;
        if last {
            mean = channels_last(cx, mean)?;
        }
        Ok(vec![quantized(cx, mean, to, dtype)?])
    }),
];

/// What the integers of a tensor stand for; both are scalars.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    /// The size of a step, a float.
    pub scale: Value,
    /// The integer that stands for 0; absent where it is 0.
    pub zero: Option<Value>,
}

/// The scale and the zero point at these inputs.
pub(super) fn levels(cx: &mut NodeContext<'_>, scale: usize, zero: usize) -> Result<Levels, OpError> {
    let scalar = |cx: &mut NodeContext<'_>, value: Value| cx.b.reshape(value, &[]);
    let scale = cx.input(scale)?;
    let scale = scalar(cx, scale)?;
    let zero = cx.optional(zero).map(|zero| scalar(cx, zero)).transpose()?;
    Ok(Levels { scale, zero })
}

/// The first operand of an operator with the inputs X, its levels, and those of the result.
fn operand_and_result(cx: &mut NodeContext<'_>) -> Result<(Value, Levels, Levels), OpError> {
    Ok((cx.input(0)?, levels(cx, 1, 2)?, levels(cx, 3, 4)?))
}

/// Steps of an expression over quantized operands.
struct Steps {
    /// Operands, then scales and zero points.
    inputs: Vec<Value>,
}

impl Steps {
    fn argument(&mut self, e: &mut ExprBuilder, value: Value) -> ExprIndex {
        self.inputs.push(value);
        e.arg(self.inputs.len() as u32 - 1)
    }

    /// `q - zero point` as `f32`; differences of integers of up to 16 bits are exact there.
    fn difference(&mut self, e: &mut ExprBuilder, x: Value, levels: Levels) -> ExprIndex {
        let x = self.argument(e, x);
        let x = e.cast(DType::F32, x);
        let Some(zero) = levels.zero else { return x };
        let zero = self.argument(e, zero);
        let zero = e.cast(DType::F32, zero);
        e.sub(x, zero)
    }

    fn scale(&mut self, e: &mut ExprBuilder, levels: Levels) -> ExprIndex {
        let scale = self.argument(e, levels.scale);
        e.cast(DType::F32, scale)
    }

    /// `(q - zero point) * scale`.
    fn real(&mut self, e: &mut ExprBuilder, x: Value, levels: Levels) -> ExprIndex {
        let (difference, scale) = (self.difference(e, x, levels), self.scale(e, levels));
        e.mul(difference, scale)
    }

    /// The integer nearest to `x / scale`, more by the zero point, saturated.
    fn levels_of(&mut self, e: &mut ExprBuilder, x: ExprIndex, levels: Levels, dtype: DType) -> ExprIndex {
        let scale = self.scale(e, levels);
        let quotient = e.div(x, scale);
        let whole = e.round(quotient);
        let shifted = self.shifted(e, whole, levels);
        e.cast(dtype, shifted)
    }

    /// More by the zero point.
    fn shifted(&mut self, e: &mut ExprBuilder, x: ExprIndex, levels: Levels) -> ExprIndex {
        let Some(zero) = levels.zero else { return x };
        let zero = self.argument(e, zero);
        let zero = e.cast(DType::F32, zero);
        e.add(x, zero)
    }
}

/// An expression over quantized operands.
fn map(
    cx: &mut NodeContext<'_>,
    f: impl FnOnce(&mut Steps, &mut ExprBuilder) -> Result<ExprIndex, BuildError>,
) -> Result<Value, OpError> {
    let (mut steps, mut e) = (Steps { inputs: Vec::new() }, ExprBuilder::default());
    let result = f(&mut steps, &mut e)?;
    Ok(cx.b.elementwise(e.finish(result), &steps.inputs)?)
}

/// The numbers that a tensor stands for, `f32`.
pub(super) fn dequantized(cx: &mut NodeContext<'_>, x: Value, levels: Levels) -> Result<Value, OpError> {
    map(cx, |s, e| Ok(s.real(e, x, levels)))
}

/// Numbers as integers of a type.
fn quantized(cx: &mut NodeContext<'_>, x: Value, levels: Levels, dtype: DType) -> Result<Value, OpError> {
    map(cx, |s, e| {
        let x = s.argument(e, x);
        Ok(s.levels_of(e, x, levels, dtype))
    })
}

/// A function of the number that each element stands for.
fn function(
    cx: &mut NodeContext<'_>,
    f: impl FnOnce(&mut ExprBuilder, ExprIndex) -> Result<ExprIndex, BuildError>,
) -> OpResult {
    let (x, from, to) = operand_and_result(cx)?;
    let dtype = cx.b.dtype(x)?;
    Ok(vec![map(cx, |s, e| {
        let real = s.real(e, x, from);
        let y = f(e, real)?;
        Ok(s.levels_of(e, y, to, dtype))
    })?])
}

/// The sum or the product of two tensors that broadcast.
fn binary(cx: &mut NodeContext<'_>, product: bool) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let (of_a, of_b, to) = (levels(cx, 1, 2)?, levels(cx, 4, 5)?, levels(cx, 6, 7)?);
    let dtype = cx.b.dtype(a)?;
    Ok(vec![map(cx, |s, e| {
        let (x, y) = (s.difference(e, a, of_a), s.difference(e, b, of_b));
        let (x_scale, y_scale, scale) = (s.scale(e, of_a), s.scale(e, of_b), s.scale(e, to));
        let sum = if product {
            let scales = e.mul(x_scale, y_scale);
            let (ratio, value) = (e.div(scales, scale), e.mul(x, y));
            e.mul(value, ratio)
        } else {
            let (x_ratio, y_ratio) = (e.div(x_scale, scale), e.div(y_scale, scale));
            let (x, y) = (e.mul(x, x_ratio), e.mul(y, y_ratio));
            e.add(x, y)
        };
        let shifted = s.shifted(e, sum, to);
        let whole = e.round(shifted);
        Ok(e.cast(dtype, whole))
    })?])
}

/// Softmax of the numbers. Up to opset 12, which an attribute names, all axes from `axis` on are one.
fn softmax(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, from, to) = operand_and_result(cx)?;
    let (dtype, rank) = (cx.b.dtype(x)?, cx.b.rank(x)?);
    let merged = cx.int("opset", 13) < 13;
    let axis = cx.b.axis(cx.int("axis", -1), rank)?;
    let real = dequantized(cx, x, from)?;
    let y = if merged {
        trailing_softmax(&mut cx.b, real, axis, false)?
    } else {
        softmax_over(&mut cx.b, real, axis, false)?
    };
    // The kernels of ONNX Runtime count the levels in 1, and round down to a whole number of them.
    Ok(vec![map(cx, |s, e| {
        let (y, one) = (s.argument(e, y), e.number(DType::F32, 1.0)?);
        let scale = s.scale(e, to);
        let count = e.div(one, scale);
        let count = e.floor(count);
        let scaled = e.mul(y, count);
        let whole = e.round(scaled);
        let shifted = s.shifted(e, whole, to);
        Ok(e.cast(dtype, shifted))
    })?])
}

/// The inputs are the result's levels, then tensors with theirs.
fn concat(cx: &mut NodeContext<'_>) -> OpResult {
    let (count, to) = (cx.input_count(), levels(cx, 0, 1)?);
    if !(count - 2).is_multiple_of(3) {
        return cx.invalid(format!("has {count} inputs instead of two and three for each tensor"));
    }
    let mut parts = Vec::new();
    for n in (2..count).step_by(3) {
        let (x, from) = (cx.input(n)?, levels(cx, n + 1, n + 2)?);
        let dtype = cx.b.dtype(x)?;
        parts.push(map(cx, |s, e| {
            let real = s.real(e, x, from);
            Ok(s.levels_of(e, real, to, dtype))
        })?);
    }
    let axis = cx.int("axis", 0);
    Ok(vec![cx.b.concat(&parts, axis)?])
}

/// `condition ? x : y`.
fn choose(cx: &mut NodeContext<'_>) -> OpResult {
    let (condition, x, y) = (cx.input(0)?, cx.input(1)?, cx.input(4)?);
    let (of_x, of_y, to) = (levels(cx, 2, 3)?, levels(cx, 5, 6)?, levels(cx, 7, 8)?);
    let dtype = cx.b.dtype(x)?;
    Ok(vec![map(cx, |s, e| {
        let (x, y) = (s.real(e, x, of_x), s.real(e, y, of_y));
        let condition = s.argument(e, condition);
        let chosen = e.select(condition, x, y);
        Ok(s.levels_of(e, chosen, to, dtype))
    })?])
}

/// The mean over the spatial axes: sums of integers, scaled once.
fn global_mean(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, from, to) = operand_and_result(cx)?;
    let (dtype, shape) = (cx.b.dtype(x)?, cx.b.shape(x)?);
    let rank = shape.len() as i64;
    if rank < 3 {
        return cx.invalid(format!("pools a tensor of rank {rank}"));
    }
    let axes: Vec<i64> = if cx.flag("channels_last", false) { (1..rank - 1).collect() } else { (2..rank).collect() };
    let sizes: Vec<_> = axes.iter().map(|&a| shape[a as usize].clone()).collect();
    let count = onnxc_ir::dim::Dim::product(&sizes)?;
    let wide = cx.b.cast(x, DType::I32)?;
    let sum = cx.b.reduce(ReduceOp::Sum, wide, &axes, true)?;
    Ok(vec![map(cx, |s, e| {
        let (sum, count) = (s.argument(e, sum), e.dim(&count));
        let whole_count = e.cast(DType::I32, count);
        let difference = match from.zero {
            Some(zero) => {
                let zero = s.argument(e, zero);
                let zero = e.cast(DType::I32, zero);
                let zeros = e.mul(zero, whole_count);
                e.sub(sum, zeros)
            }
            None => sum,
        };
        let (difference, count) = (e.cast(DType::F32, difference), e.cast(DType::F32, count));
        let (scale, of_result) = (s.scale(e, from), s.scale(e, to));
        let divisor = e.mul(of_result, count);
        let ratio = e.div(scale, divisor);
        let scaled = e.mul(difference, ratio);
        let whole = e.round(scaled);
        let shifted = s.shifted(e, whole, to);
        Ok(e.cast(dtype, shifted))
    })?])
}
