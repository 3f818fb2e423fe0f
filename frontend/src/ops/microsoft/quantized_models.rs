//! Parts of transformers and recurrent layers whose weights are quantized.

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::RecurrentCell;

use super::super::Operator;
use super::super::quantized_linear::integer_product;
use super::super::recurrent::layer_with_weights;
use super::attention::quantized_attention;
use super::integer_linear::scaled_sums;
use super::norm::{Tables, embedded};
use super::quantized::{dequantized, levels};
use super::row;
use crate::import::{NodeContext, OpError};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("QAttention", (5, 9), |cx| {
        let (x, weights, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let (scales, zeros) = ((cx.input(3)?, cx.input(4)?), (cx.optional(6), cx.optional(7)));
        if cx.b.rank(x)? != 3 || cx.b.rank(weights)? != 2 {
            return cx.invalid("the input has to have 3 dimensions and the weights 2");
        }
        let sums = integer_product(cx, (x, zeros.0), (weights, zeros.1))?;
        let rows = scaled_sums(cx, sums, scales, Some(bias))?;
        quantized_attention(cx, rows)
    }),
    row("QEmbedLayerNormalization", (18, 18), |cx| {
        let table = |cx: &mut NodeContext<'_>, n: usize| -> Result<Value, OpError> {
            let (x, levels) = (cx.input(n)?, levels(cx, n + 6, n + 11)?);
            dequantized(cx, x, levels)
        };
        let tables = Tables {
            words: table(cx, 2)?,
            places: table(cx, 3)?,
            segments: cx.optional(4).map(|_| table(cx, 4)).transpose()?,
            scale: table(cx, 5)?,
            bias: table(cx, 6)?,
        };
        let mut outputs = embedded(cx, &tables, None)?;
        outputs.truncate(2);
        Ok(outputs)
    }),
    row("DynamicQuantizeLSTM", (12, 12), |cx| {
        let weights = (transposed_weights(cx, 1, 8)?, transposed_weights(cx, 2, 10)?);
        layer_with_weights(cx, RecurrentCell::Lstm, weights, true)
    }),
];

/// The weights `[D, K, 4 * H]` at an input as `[D, 4 * H, K]` of numbers; scales are one for each direction, or for each of
/// its columns, and zero points follow them.
fn transposed_weights(cx: &mut NodeContext<'_>, n: usize, scale: usize) -> Result<Value, OpError> {
    let (weights, scale, zero) = (cx.input(n)?, cx.input(scale)?, cx.input(scale + 1)?);
    if cx.b.rank(weights)? != 3 {
        return cx.invalid("the weights have to have 3 dimensions");
    }
    let weights = cx.b.transpose(weights, &[0, 2, 1])?;
    let spread = |cx: &mut NodeContext<'_>, x: Value| -> Result<Value, OpError> {
        match cx.b.rank(x)? {
            1 => Ok(cx.b.unsqueeze(x, &[1, 2])?),
            2 => Ok(cx.b.unsqueeze(x, &[2])?),
            rank => cx.invalid(format!("scales of rank {rank}")),
        }
    };
    let (scale, zero) = (spread(cx, scale)?, spread(cx, zero)?);
    Ok(cx.b.map(&[weights, scale, zero], |e| {
        let (q, scale, zero) = (e.arg(0), e.arg(1), e.arg(2));
        let (q, zero) = (e.cast(DType::F32, q), e.cast(DType::F32, zero));
        let difference = e.sub(q, zero);
        Ok(e.mul(difference, scale))
    })?)
}
