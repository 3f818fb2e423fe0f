//! GroupQueryAttention: the attention of decoders with a buffer of past keys and values that the sequences of a batch fill
//! to different lengths.
//!
//! A prompt starts at position 0; later the new positions end where `seqlens_k` says that the sequence ends. New keys and
//! values are written into the buffer of the past there, which is the present.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Builder, Value};

use super::super::Operator;
use super::super::attention::{join_heads, rotated, scores_with_scale, soft_capped, split_heads, weighted_values};
use super::super::linear::sum_type;
use super::super::norm::rms_normalized;
use super::super::softmax::trailing_softmax;
use super::attention::{Heads, head_count, part, score_scale, written};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The row of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[row("GroupQueryAttention", (7, 16), group_query_attention)
    .limited("No quantized cache, no cache of the window alone.")];

/// What the optional fourth output shows.
const BEFORE_SOFTMAX: i64 = 1;
const AFTER_SOFTMAX: i64 = 2;

fn group_query_attention(cx: &mut NodeContext<'_>) -> OpResult {
    if cx.int("sliding_window_cache", 0) != 0 {
        return cx.unsupported("a cache that holds only the window (attribute `sliding_window_cache`)");
    }
    for name in ["k_quant_type", "v_quant_type"] {
        if cx.text(name)?.is_some_and(|kind| kind != "NONE") {
            return cx.unsupported(format!("quantized keys and values (attribute `{name}`)"));
        }
    }
    let new = projections(cx)?;
    let shape = cx.b.shape(new.q)?;
    let (batch, queries) = (shape[0].clone(), shape[2].clone());
    let total = cx.size_up_to(6, &Dim::from(DEFAULT_HIGH))?;
    let last = cx.input(5)?;
    let before = keys_before(cx, last, &batch, &queries, &total)?;
    let mut new = normalized(cx, new)?;
    if cx.flag("do_rotary", false) {
        let (tables, positions) = ((cx.input(7)?, cx.input(8)?), cx.optional(9));
        new = turned(cx, new, before, tables, positions, &total)?;
    }
    let present_k = present(cx, 3, new.k, before, &total)?;
    let present_v = present(cx, 4, new.v, before, &total)?;
    let b = &mut cx.b;
    let heads = Heads {
        q: new.q,
        k: b.slice_axis(present_k, 2, &Dim::ZERO, &total, 1)?,
        v: b.slice_axis(present_v, 2, &Dim::ZERO, &total, 1)?,
    };
    let (y, shown) = attended(cx, &heads, before, &total)?;
    Ok(vec![y, present_k, present_v, shown])
}

/// Queries, keys and values in heads; packed ones lie behind each other.
pub(super) fn projections(cx: &mut NodeContext<'_>) -> Result<Heads, OpError> {
    let (heads, shared) = (head_count(cx, "num_heads")?, head_count(cx, "kv_num_heads")?);
    if heads % shared != 0 {
        return cx.invalid(format!("{heads} heads of queries and {shared} of keys"));
    }
    let query = cx.input(0)?;
    let shape = cx.b.shape(query)?;
    if shape.len() != 3 {
        return cx.invalid("the queries have not 3 dimensions");
    }
    let (q, k, v) = match (cx.optional(1), cx.optional(2)) {
        (Some(k), Some(v)) => (query, k, v),
        (None, None) => {
            let size = shape[2].floor_div(&Dim::from(heads + 2 * shared))?;
            let (wide, narrow) = ((&size * &Dim::from(heads))?, (&size * &Dim::from(shared))?);
            let b = &mut cx.b;
            (
                part(b, query, &Dim::ZERO, &wide)?,
                part(b, query, &wide, &narrow)?,
                part(b, query, &(&wide + &narrow)?, &narrow)?,
            )
        }
        _ => return cx.invalid("has either keys or values"),
    };
    let b = &mut cx.b;
    Ok(Heads { q: split_heads(b, q, heads)?, k: split_heads(b, k, shared)?, v: split_heads(b, v, shared)? })
}

/// How many keys stand before the first new one in each sequence, `i64` of shape `[B, 1, 1, 1]`; `last` is the place of the
/// last key of each.
pub(super) fn keys_before(
    cx: &mut NodeContext<'_>,
    last: Value,
    batch: &Dim,
    queries: &Dim,
    total: &Dim,
) -> Result<Value, OpError> {
    let ends = cx.b.cast(last, DType::I64)?;
    let ends = cx.b.reshape(ends, &[batch.clone(), Dim::ONE, Dim::ONE, Dim::ONE])?;
    if queries == total {
        let zero = cx.b.scalar_i64(0);
        return Ok(cx.b.broadcast(zero, &[Dim::ONE, Dim::ONE, Dim::ONE, Dim::ONE])?);
    }
    Ok(cx.b.map(&[ends], |e| {
        let (last, queries, total) = (e.arg(0), e.dim(queries), e.dim(total));
        let (zero, one) = (e.dim(&Dim::ZERO), e.dim(&Dim::ONE));
        let end = e.add(last, one);
        let before = e.sub(end, queries);
        let before = e.max(before, zero);
        let prompt = e.eq(queries, total);
        Ok(e.select(prompt, zero, before))
    })?)
}

/// Queries and keys divided by the root of their mean square, if there are weights for that.
fn normalized(cx: &mut NodeContext<'_>, new: Heads) -> Result<Heads, OpError> {
    let (Some(q), Some(k)) = (cx.optional(14), cx.optional(15)) else { return Ok(new) };
    let epsilon = cx.float("qk_norm_epsilon", 1e-6);
    let b = &mut cx.b;
    Ok(Heads {
        q: rms_normalized(b, new.q, q, 3, DType::F32, epsilon)?,
        k: rms_normalized(b, new.k, k, 3, DType::F32, epsilon)?,
        v: new.v,
    })
}

/// Rotates queries and keys by the angles of their positions, which `tables` have the cosines and sines of. Given positions
/// count; of a prompt only the first one does.
pub(super) fn turned(
    cx: &mut NodeContext<'_>,
    new: Heads,
    before: Value,
    tables: (Value, Value),
    positions: Option<Value>,
    total: &Dim,
) -> Result<Heads, OpError> {
    let (cosines, sines) = tables;
    let queries = &cx.b.shape(new.q)?[2].clone();
    let (start, batch) = match positions {
        Some(positions) => {
            let shape = cx.b.shape(positions)?;
            if shape.len() != 2 {
                return cx.invalid("the positions have not 2 dimensions");
            }
            let positions = cx.b.cast(positions, DType::I64)?;
            let places = if queries == total {
                cx.b.slice(positions, &[Dim::ZERO, Dim::ZERO], &[Dim::ONE, Dim::ONE], &[1, 1])?
            } else {
                positions
            };
            let shape = cx.b.shape(places)?;
            let places = cx.b.reshape(places, &[shape[0].clone(), Dim::ONE, shape[1].clone(), Dim::ONE])?;
            (places, shape[0].clone())
        }
        None => (before, cx.b.shape(before)?[0].clone()),
    };
    let given = cx.b.shape(start)?[2] != 1 || *queries == 1;
    let places = cx.b.map_to(&[batch.clone(), Dim::ONE, queries.clone(), Dim::ONE], &[start], |e| {
        let (start, i) = (e.arg(0), e.index(2));
        Ok(if given { start } else { e.add(start, i) })
    })?;
    let places = cx.b.reshape(places, &[batch, Dim::ONE, queries.clone()])?;
    let angles = (cx.b.take(cosines, places, 0)?, cx.b.take(sines, places, 0)?);
    let count = (&cx.b.shape(cosines)?[1] * &Dim::from(2))?;
    let interleaved = cx.flag("rotary_interleaved", false);
    let b = &mut cx.b;
    let q = rotated(b, new.q, angles, &count, interleaved)?;
    Ok(Heads { q, k: rotated(b, new.k, angles, &count, interleaved)?, v: new.v })
}

/// The past with the new positions written into it, at least `total` long.
pub(super) fn present(
    cx: &mut NodeContext<'_>,
    past: usize,
    new: Value,
    before: Value,
    total: &Dim,
) -> Result<Value, OpError> {
    let (past, shape) = (cx.optional(past), cx.b.shape(new)?);
    let (buffer, length) = match past {
        Some(past) => match cx.b.shape(past)?.get(2) {
            Some(length) => (past, length.clone()),
            None => return cx.invalid("the past has not 4 dimensions"),
        },
        None if cx.b.graph.same_dim(&shape[2], total) => return Ok(new),
        None => {
            let zero = cx.b.number(cx.b.dtype(new)?, 0.0)?;
            let whole = [shape[0].clone(), shape[1].clone(), total.clone(), shape[3].clone()];
            (cx.b.broadcast(zero, &whole)?, total.clone())
        }
    };
    let wanted = cx.b.graph.greater_dim(&length, total)?;
    let zero = cx.b.number(cx.b.dtype(new)?, 0.0)?;
    let missing = (&wanted - &length)?;
    let hi = [Dim::ZERO, Dim::ZERO, missing, Dim::ZERO];
    let buffer = cx.b.pad(buffer, zero, &[Dim::ZERO, Dim::ZERO, Dim::ZERO, Dim::ZERO], &hi)?;
    let dtype = cx.b.dtype(buffer)?;
    let new = cx.b.cast(new, dtype)?;
    written(&mut cx.b, buffer, new, before)
}

/// The result with heads joined, and the scores or weights that the fourth output asks for.
fn attended(cx: &mut NodeContext<'_>, heads: &Heads, before: Value, total: &Dim) -> Result<(Value, Value), OpError> {
    let scale = score_scale(cx, heads.q)?;
    let dtype = cx.b.dtype(heads.q)?;
    let acc = sum_type(dtype);
    let (q, k, v) = (cx.b.cast(heads.q, acc)?, cx.b.cast(heads.k, acc)?, cx.b.cast(heads.v, acc)?);
    let mut scores = scores_with_scale(&mut cx.b, q, k, scale, acc)?;
    let softcap = cx.float("softcap", 0.0);
    if softcap > 0.0 {
        scores = soft_capped(&mut cx.b, scores, softcap)?;
    }
    if let Some(bias) = cx.optional(10) {
        let bias = cx.b.cast(bias, acc)?;
        scores = cx.b.add(scores, bias)?;
    }
    let queries = cx.b.shape(q)?[2].clone();
    let hidden = hidden_keys(cx, before, &queries, total, acc)?;
    let masked = cx.b.add(scores, hidden)?;
    let sink = match cx.optional(11) {
        Some(sink) => {
            let sink = cx.b.cast(sink, acc)?;
            let count = cx.b.shape(sink)?.first().cloned().unwrap_or(Dim::ONE);
            Some(cx.b.reshape(sink, &[Dim::ONE, count, Dim::ONE, Dim::ONE])?)
        }
        None if cx.int("smooth_softmax", 0) == 1 => Some(cx.b.number(acc, 0.0)?),
        None => None,
    };
    let weights = match sink {
        Some(sink) => softmax_with_sink(&mut cx.b, masked, sink)?,
        None => trailing_softmax(&mut cx.b, masked, 3, false)?,
    };
    let y = weighted_values(&mut cx.b, weights, v)?;
    let y = join_heads(&mut cx.b, y)?;
    let shown = match cx.int("qk_output", 0) {
        0 => scores,
        // Zeros stand where a query sees no key.
        BEFORE_SOFTMAX => cx.b.map(&[scores, hidden], |e| {
            let (score, hidden, zero) = (e.arg(0), e.arg(1), e.number(acc, 0.0)?);
            let seen = e.eq(hidden, zero);
            Ok(e.select(seen, score, zero))
        })?,
        AFTER_SOFTMAX => weights,
        other => return cx.invalid(format!("attribute `qk_output` is {other}")),
    };
    Ok((cx.b.cast(y, dtype)?, cx.b.cast(shown, dtype)?))
}

/// `-inf` for keys that a query must not see, `[B, 1, S, T]`: those after it, those that left the window, those that the
/// sequence does not have yet.
fn hidden_keys(
    cx: &mut NodeContext<'_>,
    before: Value,
    queries: &Dim,
    total: &Dim,
    acc: DType,
) -> Result<Value, OpError> {
    let (causal, window) = (cx.flag("causal", true), cx.int("local_window_size", -1));
    let batch = cx.b.shape(before)?[0].clone();
    let space = [batch, Dim::ONE, queries.clone(), total.clone()];
    Ok(cx.b.map_to(&space, &[before], |e| {
        let (before, query, key) = (e.arg(0), e.index(2), e.index(3));
        let place = e.add(before, query);
        let last = if causal {
            place
        } else {
            let count = e.dim(&(queries - &Dim::ONE)?);
            e.add(before, count)
        };
        let mut seen = e.le(key, last);
        if window > 0 {
            let (distance, window) = (e.sub(place, key), e.dim(&Dim::from(window)));
            let near = e.lt(distance, window);
            seen = e.and(seen, near);
        }
        let (zero, least) = (e.number(acc, 0.0)?, e.constant(Scalar::least(acc)));
        Ok(e.select(seen, zero, least))
    })?)
}

/// Softmax with one more score in each row, whose weight is left out.
fn softmax_with_sink(b: &mut Builder<'_>, scores: Value, sink: Value) -> Result<Value, BuildError> {
    let greatest = b.reduce(ReduceOp::Max, scores, &[3], true)?;
    let greatest = b.max(greatest, sink)?;
    let shifted = b.sub(scores, greatest)?;
    let exponentials = b.exp(shifted)?;
    let sum = b.reduce(ReduceOp::Sum, exponentials, &[3], true)?;
    b.map(&[exponentials, sum, sink, greatest], |e| {
        let (x, sum, sink, greatest) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
        let shifted = e.sub(sink, greatest);
        let more = e.exp(shifted);
        let whole = e.add(sum, more);
        Ok(e.div(x, whole))
    })
}
