//! Attention with projections, masks and past keys and values, as ONNX Runtime's optimizer fuses it.
//!
//! Everything becomes queries, keys and values in heads, `[batch, head, position, feature]`, and one number that is added
//! to each score. Past keys and values come before the new ones, or lie in a buffer into which the new ones are written;
//! of a buffer all positions are read, those after the new ones without weight.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::{Coord, ScatterOp};
use onnxc_ir::tensor::{Builder, Value};

use super::super::Operator;
use super::super::attention::{join_heads, rotated, scores_with_scale, split_heads, weighted_values};
use super::super::linear::{product, sum_type};
use super::super::softmax::trailing_softmax;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("Attention", (2, 7), self_attention),
    row("DecoderMaskedSelfAttention", (3, 9), self_attention),
    row("MultiHeadAttention", (1, 10), |cx| {
        let operands = Operands {
            bias: cx.optional(3),
            mask: cx.optional(4),
            score_bias: cx.optional(5),
            past: cx.optional(6).zip(cx.optional(7)),
            start: cx.optional(8),
            beams: cx.optional(9),
        };
        multi_head_attention(cx, &operands)
    }),
    row("DecoderMaskedMultiHeadAttention", (1, 11), |cx| {
        let operands = Operands {
            bias: cx.optional(10),
            mask: cx.optional(3),
            score_bias: cx.optional(4),
            past: cx.optional(5).zip(cx.optional(6)),
            start: cx.optional(7),
            beams: cx.optional(9),
        };
        multi_head_attention(cx, &operands)
    }),
];

/// What an attention takes beside queries, keys and values.
struct Operands {
    /// What is added to the projections, `[Dq + Dk + Dv]`.
    bias: Option<Value>,
    /// See [`mask_bias`].
    mask: Option<Value>,
    /// What is added to the scores.
    score_bias: Option<Value>,
    /// Keys and values of the past, `[B, N, P, H]`.
    past: Option<(Value, Value)>,
    /// Where in the buffer of the past the new keys and values go.
    start: Option<Value>,
    /// For each sequence and position of the past the beam whose keys and values count, `[batch, beams, P]`.
    beams: Option<Value>,
}

/// Queries, keys and values as `[B, N, S, H]`.
pub(super) struct Heads {
    /// Queries.
    pub q: Value,
    /// Keys; of fewer heads where several of the queries share one.
    pub k: Value,
    /// Values.
    pub v: Value,
}

/// The number of heads.
pub(super) fn head_count(cx: &NodeContext<'_>, name: &str) -> Result<i64, OpError> {
    match cx.int_opt(name) {
        Some(n) if n > 0 => Ok(n),
        _ => cx.invalid(format!("attribute `{name}` is missing")),
    }
}

/// The attribute `scale`, or the inverse root of the size of heads.
pub(super) fn score_scale(cx: &NodeContext<'_>, q: Value) -> Result<f64, OpError> {
    match (cx.float("scale", 0.0), cx.b.shape(q)?.last().and_then(Dim::as_const)) {
        (0.0, Some(n)) => Ok(1.0 / (n as f64).sqrt()),
        (0.0, None) => cx.unsupported("a size of heads that is not known"),
        (scale, _) => Ok(scale.into()),
    }
}

/// The weighted values with heads joined, `[B, S, N * H]`, and the scores with what was added to them, both in the type of
/// the queries; sums are made in the wider type.
pub(super) fn attend(cx: &mut NodeContext<'_>, heads: &Heads, bias: Option<Value>) -> Result<(Value, Value), OpError> {
    let scale = score_scale(cx, heads.q)?;
    let b = &mut cx.b;
    let dtype = b.dtype(heads.q)?;
    let acc = sum_type(dtype);
    let (q, k, v) = (b.cast(heads.q, acc)?, b.cast(heads.k, acc)?, b.cast(heads.v, acc)?);
    let mut scores = scores_with_scale(b, q, k, scale, acc)?;
    if let Some(bias) = bias {
        scores = b.add(scores, bias)?;
    }
    let weights = trailing_softmax(b, scores, 3, false)?;
    let y = weighted_values(b, weights, v)?;
    let y = join_heads(b, y)?;
    Ok((b.cast(y, dtype)?, b.cast(scores, dtype)?))
}

/// One operand of several that are packed along the last axis.
pub(super) fn part(b: &mut Builder<'_>, x: Value, start: &Dim, size: &Dim) -> Result<Value, OpError> {
    Ok(b.slice_axis(x, -1, start, size, 1)?)
}

/// One of the operands that lie side by side for each head, `[B, S, N, count, H]`, as rows `[B, S, N * H]`.
fn interleaved_part(b: &mut Builder<'_>, x: Value, n: i64) -> Result<Value, OpError> {
    let x = b.slice_axis(x, 3, &Dim::from(n), &Dim::ONE, 1)?;
    let shape = b.shape(x)?;
    Ok(b.reshape(x, &[shape[0].clone(), shape[1].clone(), (&shape[2] * &shape[4])?])?)
}

/// Rows with their part of the bias, in heads.
fn in_heads(b: &mut Builder<'_>, rows: Value, bias: Option<Value>, start: &Dim, heads: i64) -> Result<Value, OpError> {
    let Some(bias) = bias else { return split_heads(b, rows, heads) };
    let width = b.shape(rows)?[2].clone();
    let bias = part(b, bias, start, &width)?;
    let rows = b.add(rows, bias)?;
    split_heads(b, rows, heads)
}

fn multi_head_attention(cx: &mut NodeContext<'_>, operands: &Operands) -> OpResult {
    let heads = head_count(cx, "num_heads")?;
    let (query, key, value) = (cx.input(0)?, cx.optional(1), cx.optional(2));
    let ranks = (cx.b.rank(query)?, key.map(|k| cx.b.rank(k)).transpose()?);
    let rows = match (ranks, key, value) {
        ((3, Some(3)), Some(k), Some(v)) => Some([query, k, v]),
        ((3, Some(5)), Some(kv), None) => {
            Some([query, interleaved_part(&mut cx.b, kv, 0)?, interleaved_part(&mut cx.b, kv, 1)?])
        }
        ((5, None), None, None) => {
            let b = &mut cx.b;
            Some([interleaved_part(b, query, 0)?, interleaved_part(b, query, 1)?, interleaved_part(b, query, 2)?])
        }
        ((3, None), None, None) => {
            let width = cx.b.shape(query)?[2].floor_div(&Dim::from(3))?;
            let twice = (&width + &width)?;
            let b = &mut cx.b;
            Some([
                part(b, query, &Dim::ZERO, &width)?,
                part(b, query, &width, &width)?,
                part(b, query, &twice, &width)?,
            ])
        }
        ((3, Some(4)), Some(_), Some(_)) => None,
        _ => return cx.invalid("query, key and value have none of the packed forms"),
    };
    let b = &mut cx.b;
    let new = match (rows, key, value) {
        (Some([q, k, v]), _, _) => {
            let (width, key_width) = (b.shape(q)?[2].clone(), b.shape(k)?[2].clone());
            Heads {
                q: in_heads(b, q, operands.bias, &Dim::ZERO, heads)?,
                k: in_heads(b, k, operands.bias, &width, heads)?,
                v: in_heads(b, v, operands.bias, &(&width + &key_width)?, heads)?,
            }
        }
        (None, Some(k), Some(v)) => Heads { q: in_heads(b, query, operands.bias, &Dim::ZERO, heads)?, k, v },
        _ => return cx.invalid("has no keys and values"),
    };
    let (y, k, v, scores) = attention_of(cx, operands, new)?;
    Ok(vec![y, k, v, scores])
}

/// Projects the input to queries, keys and values; past and present are one tensor, keys before values.
fn self_attention(cx: &mut NodeContext<'_>) -> OpResult {
    let heads = head_count(cx, "num_heads")?;
    let (x, weights, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    if cx.b.rank(x)? != 3 || cx.b.rank(weights)? != 2 {
        return cx.invalid("the input has to have 3 dimensions and the weights 2");
    }
    let widths: Vec<Dim> = match cx.ints("qkv_hidden_sizes") {
        Some(sizes) if sizes.len() == 3 => sizes.iter().map(|&n| Dim::from(n)).collect(),
        Some(_) => return cx.invalid("attribute `qkv_hidden_sizes` has not three elements"),
        None => vec![cx.b.shape(weights)?[1].floor_div(&Dim::from(3))?; 3],
    };
    let mut rows = product(cx, x, weights)?;
    if let Some(bias) = bias {
        rows = cx.b.add(rows, bias)?;
    }
    let operands = Operands {
        bias: None,
        mask: cx.optional(3),
        score_bias: cx.optional(5),
        past: halves(cx, 4)?,
        start: cx.optional(6),
        beams: cx.optional(8),
    };
    attention_of_projections(cx, rows, &widths, heads, &operands)
}

/// Keys and values of the past at an input, where they are one tensor.
fn halves(cx: &mut NodeContext<'_>, n: usize) -> Result<Option<(Value, Value)>, OpError> {
    Ok(match cx.optional(n) {
        Some(past) if cx.b.rank(past)? == 5 => {
            let half = |cx: &mut NodeContext<'_>, n: i64| -> Result<Value, OpError> {
                let x = cx.b.slice_axis(past, 0, &Dim::from(n), &Dim::ONE, 1)?;
                Ok(cx.b.squeeze(x, &[0])?)
            };
            Some((half(cx, 0)?, half(cx, 1)?))
        }
        Some(_) => return cx.invalid("the past has not 5 dimensions"),
        None => None,
    })
}

/// [`self_attention`] of rows that quantized inputs and weights gave: the mask is input 5, the past input 8.
pub(super) fn quantized_attention(cx: &mut NodeContext<'_>, rows: Value) -> OpResult {
    let heads = head_count(cx, "num_heads")?;
    let widths = vec![cx.b.shape(rows)?[2].floor_div(&Dim::from(3))?; 3];
    let (mask, past) = (cx.optional(5), halves(cx, 8)?);
    let operands = Operands { bias: None, mask, score_bias: None, past, start: None, beams: None };
    attention_of_projections(cx, rows, &widths, heads, &operands)
}

/// Attention of queries, keys and values of these widths that lie side by side in rows `[B, S, widths]`.
fn attention_of_projections(
    cx: &mut NodeContext<'_>,
    rows: Value,
    widths: &[Dim],
    heads: i64,
    operands: &Operands,
) -> OpResult {
    let b = &mut cx.b;
    let (start_v, end) = ((&widths[0] + &widths[1])?, Dim::from(heads));
    let (q, k, v) = (
        part(b, rows, &Dim::ZERO, &widths[0])?,
        part(b, rows, &widths[0], &widths[1])?,
        part(b, rows, &start_v, &widths[2])?,
    );
    if [&widths[0], &widths[2]].iter().any(|w| w.modulo(&end).is_ok_and(|r| r.as_const().is_some_and(|r| r != 0))) {
        return cx.invalid(format!("the projections do not split into {heads} heads"));
    }
    let mut new = Heads { q: split_heads(b, q, heads)?, k: split_heads(b, k, heads)?, v: split_heads(b, v, heads)? };
    if cx.flag("do_rotary", false) {
        let before = keys_before(cx, operands)?;
        new.q = turned_by_position(cx, new.q, &before)?;
        new.k = turned_by_position(cx, new.k, &before)?;
    }
    let (y, k, v, _) = attention_of(cx, operands, new)?;
    if !cx.wants_output(1) {
        return Ok(vec![y]);
    }
    let (k, v) = (cx.b.unsqueeze(k, &[0])?, cx.b.unsqueeze(v, &[0])?);
    Ok(vec![y, cx.b.concat(&[k, v], 0)?])
}

/// How many keys stand before the first new one.
enum Before {
    /// A size.
    Known(Dim),
    /// An `i64` of shape `[1, 1, 1, 1]`.
    Data(Value),
}

fn keys_before(cx: &mut NodeContext<'_>, operands: &Operands) -> Result<Before, OpError> {
    Ok(match (operands.past, operands.start) {
        (Some(_), Some(start)) => {
            let start = cx.b.cast(start, DType::I64)?;
            Before::Data(cx.b.reshape(start, &[Dim::ONE, Dim::ONE, Dim::ONE, Dim::ONE])?)
        }
        (Some((past, _)), None) => match cx.b.shape(past)?.get(2) {
            Some(length) => Before::Known(length.clone()),
            None => return cx.invalid("the past has not 4 dimensions"),
        },
        (None, _) => Before::Known(Dim::ZERO),
    })
}

/// The result, the keys and values that the next step has as its past, and the scores.
fn attention_of(
    cx: &mut NodeContext<'_>,
    operands: &Operands,
    new: Heads,
) -> Result<(Value, Value, Value, Value), OpError> {
    let before = keys_before(cx, operands)?;
    let (present_k, present_v) = match operands.past {
        Some((k, v)) => (with_past(&mut cx.b, k, new.k, &before)?, with_past(&mut cx.b, v, new.v, &before)?),
        None => (new.k, new.v),
    };
    let (mut k, mut v) = (present_k, present_v);
    if let (Some(beams), Before::Data(start)) = (operands.beams, &before) {
        k = of_beams(cx, k, beams, *start)?;
        v = of_beams(cx, v, beams, *start)?;
    }
    let (queries, keys) = (cx.b.shape(new.q)?, cx.b.shape(k)?);
    if queries.len() != 4 || keys.len() != 4 {
        return cx.invalid("keys have not 4 dimensions in heads");
    }
    let sizes = [queries[0].clone(), queries[2].clone(), keys[2].clone()];
    let acc = sum_type(cx.b.dtype(new.q)?);
    let mask = match operands.mask {
        Some(mask) => mask_bias(cx, mask, &sizes, acc)?,
        None => None,
    };
    let mut bias = position_bias(cx, mask, &sizes, &before, acc)?;
    if let Some(more) = operands.score_bias {
        let more = cx.b.cast(more, acc)?;
        let more = extended(cx, more, &sizes[2], &before)?;
        bias = Some(match bias {
            Some(bias) => cx.b.add(bias, more)?,
            None => more,
        });
    }
    let (y, scores) = attend(cx, &Heads { q: new.q, k, v }, bias)?;
    Ok((y, present_k, present_v, scores))
}

/// The past with the new positions behind it, or written into it.
fn with_past(b: &mut Builder<'_>, past: Value, new: Value, before: &Before) -> Result<Value, OpError> {
    match before {
        Before::Known(_) => Ok(b.concat(&[past, new], 2)?),
        Before::Data(start) => written(b, past, new, *start),
    }
}

/// `past` with `new` at the positions from `start`, `i64` of shape `[B or 1, 1, 1, 1]`, on; those outside are dropped.
pub(super) fn written(b: &mut Builder<'_>, past: Value, new: Value, start: Value) -> Result<Value, OpError> {
    let (length, batch) = (b.shape(new)?[2].clone(), b.shape(start)?[0].clone());
    let places = b.map_to(&[batch, Dim::ONE, length, Dim::ONE], &[start], |e| {
        let (start, i) = (e.arg(0), e.index(2));
        Ok(e.add(start, i))
    })?;
    let coords = [Coord::Axis(0), Coord::Axis(1), Coord::Input(0), Coord::Axis(3)];
    Ok(b.scatter(ScatterOp::Set, past, new, &[places], &coords)?)
}

/// Keys or values of which those before `start` come from the beams that a table names.
fn of_beams(cx: &mut NodeContext<'_>, x: Value, beams: Value, start: Value) -> Result<Value, OpError> {
    let (shape, table) = (cx.b.shape(x)?, cx.b.shape(beams)?);
    if table.len() != 3 {
        return cx.invalid("the table of beams has not 3 dimensions");
    }
    let space = [shape[0].clone(), Dim::ONE, shape[2].clone(), Dim::ONE];
    let listed = cx.b.reshape(beams, &[(&table[0] * &table[1])?, Dim::ONE, table[2].clone(), Dim::ONE])?;
    let listed = cx.b.cast(listed, DType::I64)?;
    let rows = cx.b.map_to(&space, &[listed, start], |e| {
        let (beam, start, row, position) = (e.arg(0), e.arg(1), e.index(0), e.index(2));
        let count = e.dim(&table[1]);
        let (own, past) = (e.rem(row, count), e.lt(position, start));
        let first = e.sub(row, own);
        let other = e.add(first, beam);
        Ok(e.select(past, other, row))
    })?;
    let coords = [Coord::Input(0), Coord::Axis(1), Coord::Axis(2), Coord::Axis(3)];
    Ok(cx.b.gather(x, &[rows], &coords, &shape)?)
}

/// A mask or bias over the keys there are as one over a buffer: what is behind does not matter.
fn extended(cx: &mut NodeContext<'_>, x: Value, keys: &Dim, before: &Before) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let Some(length) = shape.last() else { return cx.invalid("a mask or bias without dimensions") };
    if matches!(before, Before::Known(_)) || cx.b.graph.same_dim(length, keys) {
        return Ok(x);
    }
    let missing = (keys - length)?;
    if missing.bounds(&cx.b.graph.symbols).0 < 0 {
        return cx.unsupported("a mask whose length is not known beside a buffer of the past");
    }
    let zero = cx.b.number(cx.b.dtype(x)?, 0.0)?;
    let lo = vec![Dim::ZERO; shape.len()];
    let mut hi = lo.clone();
    hi[shape.len() - 1] = missing;
    Ok(cx.b.pad(x, zero, &lo, &hi)?)
}

/// What a mask adds to the scores: 0, or `mask_filter_value` where a key must not be seen. `sizes` are those of the batch,
/// the queries and the keys. A mask is the ends of the sequences, `[B]`; then their starts, `[2 B]`; the ends and running
/// sums, `[3 B + 2]`; or flags for each key, `[B, T]`, query and key, `[B, S, T]`, or all positions, `[B, 1, M, M]`. None
/// for a mask that says nothing.
fn mask_bias(cx: &mut NodeContext<'_>, mask: Value, sizes: &[Dim; 3], acc: DType) -> Result<Option<Value>, OpError> {
    let [batch, queries, keys] = sizes;
    let shape = cx.b.shape(mask)?;
    let fill = f64::from(cx.float("mask_filter_value", -10000.0));
    let flags = match &shape[..] {
        [count] => {
            let twice = (batch + batch)?;
            let thrice = (&(&twice + batch)? + &Dim::from(2))?;
            let starts = *count == twice;
            if !starts && *count != thrice && !cx.b.graph.same_dim(count, batch) {
                return cx.invalid("a mask of one dimension that holds no ends for the sequences");
            }
            let mask = cx.b.cast(mask, DType::I64)?;
            let column = [batch.clone(), Dim::ONE, Dim::ONE, Dim::ONE];
            let mut limits = Vec::new();
            for n in 0..1 + i64::from(starts) {
                let from = if n == 0 { Dim::ZERO } else { batch.clone() };
                let limit = cx.b.slice_axis(mask, 0, &from, batch, 1)?;
                limits.push(cx.b.reshape(limit, &column)?);
            }
            let space = [batch.clone(), Dim::ONE, Dim::ONE, keys.clone()];
            let bias = cx.b.map_to(&space, &limits, |e| {
                let (end, key) = (e.arg(0), e.index(3));
                let mut seen = e.lt(key, end);
                if starts {
                    let start = e.arg(1);
                    let begun = e.ge(key, start);
                    seen = e.and(seen, begun);
                }
                let (zero, fill) = (e.number(acc, 0.0)?, e.number(acc, fill)?);
                Ok(e.select(seen, zero, fill))
            })?;
            return Ok(Some(bias));
        }
        [_, one] if *one == 1 && *keys != 1 => return Ok(None),
        [_, _] => cx.b.unsqueeze(mask, &[1, 2])?,
        [_, _, _] => cx.b.unsqueeze(mask, &[1])?,
        [_, _, all, _] => {
            let past = (keys - queries)?;
            if (all - keys)?.bounds(&cx.b.graph.symbols).0 < 0 {
                return cx.invalid("a mask of fewer positions than there are keys");
            }
            let rows = cx.b.slice_axis(mask, 2, &past, queries, 1)?;
            cx.b.slice_axis(rows, 3, &Dim::ZERO, keys, 1)?
        }
        _ => return cx.invalid("a mask of rank 0 or more than 4"),
    };
    let integers = cx.b.dtype(flags)?;
    let bias = cx.b.map(&[flags], |e| {
        let (flag, none) = (e.arg(0), e.number(integers, 0.0)?);
        let seen = e.gt(flag, none);
        let (zero, fill) = (e.number(acc, 0.0)?, e.number(acc, fill)?);
        Ok(e.select(seen, zero, fill))
    })?;
    Ok(Some(bias))
}

/// A mask's bias, and `-inf` for what comes after a query or is not in the buffer yet.
fn position_bias(
    cx: &mut NodeContext<'_>,
    mask: Option<Value>,
    sizes: &[Dim; 3],
    before: &Before,
    acc: DType,
) -> Result<Option<Value>, OpError> {
    let [_, queries, keys] = sizes;
    let mask = mask.map(|mask| extended(cx, mask, keys, before)).transpose()?;
    let causal = cx.flag("unidirectional", false) && *queries != 1;
    let start = match before {
        Before::Known(_) if !causal => return Ok(mask),
        Before::Known(_) => None,
        Before::Data(start) => Some(*start),
    };
    let space = [Dim::ONE, Dim::ONE, if causal { queries.clone() } else { Dim::ONE }, keys.clone()];
    let inputs: Vec<Value> = start.into_iter().collect();
    let bias = cx.b.map_to(&space, &inputs, |e| {
        let past = match before {
            Before::Known(length) => e.dim(length),
            Before::Data(_) => e.arg(0),
        };
        // Without causality all new keys are seen.
        let last = if causal { e.index(2) } else { e.dim(&(queries - &Dim::ONE)?) };
        let (key, last) = (e.index(3), e.add(past, last));
        let seen = e.le(key, last);
        let (zero, least) = (e.number(acc, 0.0)?, e.constant(Scalar::least(acc)));
        Ok(e.select(seen, zero, least))
    })?;
    Ok(Some(match mask {
        Some(mask) => cx.b.add(mask, bias)?,
        None => bias,
    }))
}

/// Rotates queries or keys by their positions, with the angles of the original rotary embedding.
fn turned_by_position(cx: &mut NodeContext<'_>, x: Value, before: &Before) -> Result<Value, OpError> {
    const BASE: f64 = 10000.0;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let acc = sum_type(dtype);
    let count = match (cx.int("rotary_embedding_dim", 0), shape[3].as_const()) {
        (0, Some(n)) => n,
        (n, _) if n > 0 && n % 2 == 0 => n,
        _ => return cx.unsupported("a rotary embedding of a size that is not known"),
    };
    let space = [Dim::ONE, Dim::ONE, shape[2].clone(), Dim::from(count / 2)];
    let inputs: Vec<Value> = match before {
        Before::Known(_) => Vec::new(),
        Before::Data(start) => vec![*start],
    };
    let mut table = |sine: bool| {
        cx.b.map_to(&space, &inputs, |e| {
            let past = match before {
                Before::Known(length) => e.dim(length),
                Before::Data(_) => e.arg(0),
            };
            let (i, pair) = (e.index(2), e.index(3));
            let place = e.add(past, i);
            let (place, pair) = (e.cast(acc, place), e.cast(acc, pair));
            let step = e.number(acc, -2.0 * BASE.ln() / count as f64)?;
            let exponent = e.mul(pair, step);
            let frequency = e.exp(exponent);
            let angle = e.mul(place, frequency);
            Ok(if sine { e.sin(angle) } else { e.cos(angle) })
        })
    };
    let angles = (table(false)?, table(true)?);
    let wide = cx.b.cast(x, acc)?;
    let y = rotated(&mut cx.b, wide, angles, &Dim::from(count), false)?;
    Ok(cx.b.cast(y, dtype)?)
}
