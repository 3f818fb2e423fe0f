//! Layer normalization with what precedes it fused: residual sums, biases, embeddings.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::ReduceOp;

use super::super::Operator;
use super::super::norm::{layer_normalized, rms_normalized};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("SkipLayerNormalization", (3, 5), |cx| {
        let sum = residual_sum(cx, 4)?;
        let (scale, bias, last) = (cx.input(2)?, cx.optional(3), cx.b.rank(sum)? - 1);
        let epsilon = cx.float("epsilon", EPSILON);
        let y = layer_normalized(&mut cx.b, sum, scale, bias, last, DType::F32, epsilon)?;
        with_sum(cx, y, sum)
    })
    .limited("No statistics for training."),
    row("SkipSimplifiedLayerNormalization", (3, 4), |cx| {
        let sum = residual_sum(cx, 3)?;
        let (scale, last, epsilon) = (cx.input(2)?, cx.b.rank(sum)? - 1, cx.float("epsilon", EPSILON));
        let y = rms_normalized(&mut cx.b, sum, scale, last, DType::F32, epsilon)?;
        with_sum(cx, y, sum)
    })
    .limited("No statistics for training."),
    row("EmbedLayerNormalization", (7, 9), embed_layer_norm),
];

const EPSILON: f32 = 1e-12;

/// The sum of the input, the residual (which may lack the batch) and the bias, where there is one.
fn residual_sum(cx: &mut NodeContext<'_>, bias: usize) -> Result<Value, OpError> {
    let (x, skip) = (cx.input(0)?, cx.input(1)?);
    let (rank, width) = (cx.b.rank(x)?, cx.b.shape(x)?.last().cloned());
    if rank < 2 || cx.b.rank(skip)? > rank || cx.b.shape(skip)?.last() != width.as_ref() {
        return cx.invalid("the residual does not fit the input");
    }
    let sum = cx.b.add(x, skip)?;
    match cx.optional(bias) {
        Some(bias) => Ok(cx.b.add(sum, bias)?),
        None => Ok(sum),
    }
}

/// The outputs, of which the second and third are statistics for training.
fn with_sum(cx: &mut NodeContext<'_>, y: Value, sum: Value) -> OpResult {
    if cx.wants_output(1) || cx.wants_output(2) {
        return cx.unsupported("the statistics for training as outputs");
    }
    Ok(vec![y, y, y, sum])
}

/// The normalized sum of the embeddings of words, of their positions and of segments; the number of tokens that the mask
/// keeps in each row; and the sum itself.
fn embed_layer_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let tables = Tables {
        words: cx.input(2)?,
        places: cx.input(3)?,
        segments: cx.optional(4),
        scale: cx.input(5)?,
        bias: cx.input(6)?,
    };
    let positions = cx.optional(8);
    embedded(cx, &tables, positions)
}

/// What tokens are made of.
pub(super) struct Tables {
    /// A row for each word.
    pub words: Value,
    /// A row for each position.
    pub places: Value,
    /// A row for each kind of segment.
    pub segments: Option<Value>,
    /// Of the normalization.
    pub scale: Value,
    /// Of the normalization.
    pub bias: Value,
}

/// The tokens at input 0, of the segments at input 1, as sums of rows of the tables; the mask is input 7.
pub(super) fn embedded(cx: &mut NodeContext<'_>, tables: &Tables, positions: Option<Value>) -> OpResult {
    let ids = cx.input(0)?;
    let shape = cx.b.shape(ids)?;
    if shape.len() != 2 {
        return cx.invalid("the token numbers have to have 2 dimensions");
    }
    let mut sum = cx.b.take(tables.words, ids, 0)?;
    let places = match positions {
        Some(positions) => cx.b.take(tables.places, positions, 0)?,
        None => cx.b.slice_axis(tables.places, 0, &Dim::ZERO, &shape[1], 1)?,
    };
    sum = cx.b.add(sum, places)?;
    if let (Some(segments), Some(table)) = (cx.optional(1), tables.segments) {
        let segments = cx.b.take(table, segments, 0)?;
        sum = cx.b.add(sum, segments)?;
    }
    let epsilon = cx.float("epsilon", EPSILON);
    let y = layer_normalized(&mut cx.b, sum, tables.scale, Some(tables.bias), 2, DType::F32, epsilon)?;
    let counts = match cx.optional(7) {
        Some(mask) => {
            let kept = cx.b.map(&[mask], |e| {
                let (m, zero, one) = (e.arg(0), e.number(DType::I32, 0.0)?, e.number(DType::I32, 1.0)?);
                let kept = e.eq(m, one);
                Ok(e.select(kept, one, zero))
            })?;
            cx.b.reduce(ReduceOp::Sum, kept, &[1], false)?
        }
        None => {
            let zero = cx.b.number(DType::I32, 0.0)?;
            cx.b.broadcast(zero, &shape[..1])?
        }
    };
    Ok(vec![y, counts, sum])
}
