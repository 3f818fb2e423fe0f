//! Attention and what comes with it.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::op::{Contract, Label, ReduceOp};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::Operator;
use super::linear::sum_type;
use super::softmax::trailing_softmax;
use crate::import::{NodeContext, OpError, OpResult};
use crate::proto::dtype_from_onnx;

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Attention", &[23, 24, 25], (3, 7), attention),
    Operator::onnx("RotaryEmbedding", &[23], (3, 4), rotary_embedding),
];

/// What the optional fourth output shows.
const AFTER_SOFTCAP: i64 = 1;
const AFTER_BIAS: i64 = 2;
const AFTER_SOFTMAX: i64 = 3;

fn attention(cx: &mut NodeContext<'_>) -> OpResult {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (dtype, rank) = (cx.b.dtype(q)?, cx.b.rank(q)?);
    if rank != 3 && rank != 4 || [k, v].iter().any(|&x| cx.b.rank(x) != Ok(rank)) {
        return cx.invalid("query, key and value have to have the same 3 or 4 dimensions");
    }
    let (q, k, v) = if rank == 3 {
        let heads = |name| match cx.int_opt(name) {
            Some(n) if n > 0 => Ok(n),
            _ => cx.invalid(format!("attribute `{name}` is missing for operands of 3 dimensions")),
        };
        let (queries, keys) = (heads("q_num_heads")?, heads("kv_num_heads")?);
        let b = &mut cx.b;
        (split_heads(b, q, queries)?, split_heads(b, k, keys)?, split_heads(b, v, keys)?)
    } else {
        (q, k, v)
    };
    let (past, k, v) = match (cx.optional(4), cx.optional(5)) {
        (Some(past_k), Some(past_v)) => {
            let length = cx.b.shape(past_k)?.get(2).cloned();
            (length, cx.b.concat(&[past_k, k], 2)?, cx.b.concat(&[past_v, v], 2)?)
        }
        (None, None) => (None, k, v),
        _ => return cx.invalid("has the past of either keys or values"),
    };
    let scores = scaled_scores(cx, q, k)?;
    let softcap = cx.float("softcap", 0.0);
    let capped = if softcap > 0.0 { soft_capped(&mut cx.b, scores, softcap)? } else { scores };
    let (bias, may_mask_all) = attention_bias(cx, &cx.b.shape(scores)?, dtype, past)?;
    let biased = match bias {
        Some(bias) => cx.b.add(capped, bias)?,
        None => capped,
    };
    let precision = cx.int_opt("softmax_precision").and_then(|n| dtype_from_onnx(i32::try_from(n).ok()?));
    let wide = cx.b.cast(biased, precision.unwrap_or(dtype))?;
    let weights = trailing_softmax(&mut cx.b, wide, 3, false)?;
    let mut weights = cx.b.cast(weights, dtype)?;
    let mode = cx.int("qk_matmul_output_mode", 0);
    let mut masking = bias.filter(|_| may_mask_all);
    // Results without masked rows are those of such weights, and leave attention in one piece.
    if mode == AFTER_SOFTMAX
        && let Some(bias) = masking.take()
    {
        weights = without_masked_rows(&mut cx.b, weights, bias)?;
    }
    let shown = match mode {
        0 => scores,
        AFTER_SOFTCAP => capped,
        AFTER_BIAS => biased,
        AFTER_SOFTMAX => weights,
        other => return cx.invalid(format!("attribute `qk_matmul_output_mode` is {other}")),
    };
    let y = weighted_values(&mut cx.b, weights, v)?;
    let y = match masking {
        Some(bias) => without_masked_rows(&mut cx.b, y, bias)?,
        None => y,
    };
    let y = if rank == 3 { join_heads(&mut cx.b, y)? } else { y };
    Ok(vec![y, k, v, shown])
}

/// `[B, S, H * D]` as `[B, H, S, D]`.
pub(super) fn split_heads(b: &mut Builder<'_>, x: Value, heads: i64) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    let heads = Dim::from(heads);
    let split = [shape[0].clone(), shape[1].clone(), heads.clone(), shape[2].floor_div(&heads)?];
    let x = b.reshape(x, &split)?;
    Ok(b.transpose(x, &[0, 2, 1, 3])?)
}

/// `[B, H, S, D]` as `[B, S, H * D]`.
pub(super) fn join_heads(b: &mut Builder<'_>, x: Value) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    let x = b.transpose(x, &[0, 2, 1, 3])?;
    Ok(b.reshape(x, &[shape[0].clone(), shape[2].clone(), (&shape[1] * &shape[3])?])?)
}

/// `[B, H, ...]` as `[B, K, H / K, ...]`: the query heads that share each of K key heads.
fn grouped(b: &mut Builder<'_>, x: Value, keys: &Dim) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    let per_key = shape[1].floor_div(keys)?;
    let split: Shape =
        [shape[0].clone(), keys.clone(), per_key].into_iter().chain(shape[2..].iter().cloned()).collect();
    Ok(b.reshape(x, &split)?)
}

/// The inverse of [`grouped`] on a tensor of rank 5.
fn ungrouped(b: &mut Builder<'_>, x: Value) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    Ok(b.reshape(x, &[shape[0].clone(), (&shape[1] * &shape[2])?, shape[3].clone(), shape[4].clone()])?)
}

const BATCH: Label = 0;
const KEY_HEAD: Label = 1;
const GROUP: Label = 2;
const QUERY: Label = 3;
const KEY: Label = 4;
const FEATURE: Label = 5;

/// The contraction of query-like `[B, H, S, x]` with key-like `[B, K, y, z]`, per key head.
fn per_head(b: &mut Builder<'_>, lhs: Value, rhs: Value, labels: [Label; 4]) -> Result<Value, OpError> {
    let (heads, keys) = (b.shape(lhs)?[1].clone(), b.shape(rhs)?[1].clone());
    let dtype = b.dtype(lhs)?;
    let [l, r0, r1, out] = labels;
    let shared = b.graph.same_dim(&heads, &keys);
    let with_group = |last: Label| {
        if shared { vec![BATCH, KEY_HEAD, QUERY, last] } else { vec![BATCH, KEY_HEAD, GROUP, QUERY, last] }
    };
    let contract = Contract {
        lhs: with_group(l).into(),
        rhs: [BATCH, KEY_HEAD, r0, r1].as_slice().into(),
        out: with_group(out).into(),
        acc: sum_type(dtype),
        panel: None,
    };
    let lhs = if shared { lhs } else { grouped(b, lhs, &keys)? };
    let y = b.contract(contract, lhs, rhs)?;
    let y = b.cast(y, dtype)?;
    if shared { Ok(y) } else { ungrouped(b, y) }
}

/// `scale * Q * K^T` as `[B, H, S, T]`.
fn scaled_scores(cx: &mut NodeContext<'_>, q: Value, k: Value) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(q)?;
    let scale = match cx.float_opt("scale") {
        Some(scale) => f64::from(scale),
        None => match cx.b.shape(q)?[3].as_const() {
            Some(n) => 1.0 / (n as f64).sqrt(),
            None => return cx.unsupported("a size of heads that is not known"),
        },
    };
    scores_with_scale(&mut cx.b, q, k, scale, dtype)
}

/// See [`scaled_scores`]. Narrow types scale the operands, so that the products stay in their range.
pub(super) fn scores_with_scale(
    b: &mut Builder<'_>,
    q: Value,
    k: Value,
    scale: f64,
    dtype: DType,
) -> Result<Value, OpError> {
    let labels = [FEATURE, KEY, FEATURE, KEY];
    if sum_type(dtype) == dtype {
        let scores = per_head(b, q, k, labels)?;
        return Ok(b.binary_number(BinaryOp::Mul, scores, scale)?);
    }
    let q = b.binary_number(BinaryOp::Mul, q, scale.sqrt())?;
    let k = b.binary_number(BinaryOp::Mul, k, scale.sqrt())?;
    per_head(b, q, k, labels)
}

/// The weighted sums of values, `[B, H, S, V]`.
pub(super) fn weighted_values(b: &mut Builder<'_>, weights: Value, v: Value) -> Result<Value, OpError> {
    per_head(b, weights, v, [KEY, KEY, FEATURE, FEATURE])
}

/// `cap * tanh(x / cap)`.
pub(super) fn soft_capped(b: &mut Builder<'_>, x: Value, cap: f32) -> Result<Value, OpError> {
    let dtype = b.dtype(x)?;
    Ok(b.map(&[x], |e| {
        let (x, cap) = (e.arg(0), e.number(dtype, f64::from(cap))?);
        let quotient = e.div(x, cap);
        let tanh = e.tanh(quotient);
        Ok(e.mul(tanh, cap))
    })?)
}

/// Zeros where a row's bias excludes every key.
fn without_masked_rows(b: &mut Builder<'_>, rows: Value, bias: Value) -> Result<Value, OpError> {
    let dtype = b.dtype(bias)?;
    let greatest = b.reduce(ReduceOp::Max, bias, &[-1], true)?;
    Ok(b.map(&[greatest, rows], |e| {
        let (greatest, x) = (e.arg(0), e.arg(1));
        let (least, zero) = (e.constant(Scalar::least(dtype)), e.number(dtype, 0.0)?);
        let masked = e.eq(greatest, least);
        Ok(e.select(masked, zero, x))
    })?)
}

/// What is added to the scores of shape `[B, H, S, T]`: 0 or a number where a key may be seen, -inf elsewhere. Also
/// whether a query may see no key at all.
fn attention_bias(
    cx: &mut NodeContext<'_>,
    shape: &[Dim],
    dtype: DType,
    past: Option<Dim>,
) -> Result<(Option<Value>, bool), OpError> {
    let keys = &shape[3];
    let mask = match cx.optional(3) {
        Some(mask) => Some(mask_bias(cx, mask, keys, dtype)?),
        None => None,
    };
    let (causal, left, right) =
        (cx.flag("is_causal", false), cx.int("left_window_size", -1), cx.int("right_window_size", -1));
    let lengths = cx.optional(6);
    if !causal && left < 0 && right < 0 && lengths.is_none() {
        return Ok((mask, mask.is_some()));
    }
    let batch = if lengths.is_some() { shape[0].clone() } else { Dim::ONE };
    let space = [batch.clone(), Dim::ONE, shape[2].clone(), keys.clone()];
    let inputs: Vec<Value> = match lengths {
        Some(lengths) => {
            let lengths = cx.b.cast(lengths, DType::I64)?;
            vec![cx.b.reshape(lengths, &[batch, Dim::ONE, Dim::ONE, Dim::ONE])?]
        }
        None => Vec::new(),
    };
    let position = cx.b.map_to(&space, &inputs, |e| {
        let (query, key) = (e.index(2), e.index(3));
        // A query stands behind the keys of the past, or at the end of the keys that count.
        let before = match (&past, inputs.is_empty()) {
            (Some(past), _) => e.dim(past),
            (None, true) => e.dim(&Dim::ZERO),
            (None, false) => {
                let (length, queries) = (e.arg(0), e.dim(&shape[2]));
                e.sub(length, queries)
            }
        };
        let place = e.add(query, before);
        let mut allowed = e.constant(Scalar::bool(true));
        if causal {
            let visible = e.le(key, place);
            allowed = e.and(allowed, visible);
        }
        if left >= 0 {
            let (distance, left) = (e.sub(place, key), e.number(DType::I64, left as f64)?);
            let near = e.le(distance, left);
            allowed = e.and(allowed, near);
        }
        if right >= 0 {
            let (distance, right) = (e.sub(key, place), e.number(DType::I64, right as f64)?);
            let near = e.le(distance, right);
            allowed = e.and(allowed, near);
        }
        if !inputs.is_empty() {
            let length = e.arg(0);
            let valid = e.lt(key, length);
            allowed = e.and(allowed, valid);
        }
        let (zero, least) = (e.number(dtype, 0.0)?, e.constant(Scalar::least(dtype)));
        Ok(e.select(allowed, zero, least))
    })?;
    // Of causality alone each query sees at least the first key.
    let may_mask_all = mask.is_some() || lengths.is_some() || left >= 0 || right >= 0;
    let bias = match mask {
        Some(mask) => cx.b.add(mask, position)?,
        None => position,
    };
    Ok((Some(bias), may_mask_all))
}

/// A mask as a bias, for all keys: those it does not reach are excluded.
fn mask_bias(cx: &mut NodeContext<'_>, mask: Value, keys: &Dim, dtype: DType) -> Result<Value, OpError> {
    let mut bias = match cx.b.dtype(mask)? {
        DType::Bool => cx.b.map(&[mask], |e| {
            let (allowed, zero, least) = (e.arg(0), e.number(dtype, 0.0)?, e.constant(Scalar::least(dtype)));
            Ok(e.select(allowed, zero, least))
        })?,
        _ => cx.b.cast(mask, dtype)?,
    };
    let shape = cx.b.shape(bias)?;
    if let Some(length) = shape.last().filter(|n| **n != 1 || *keys == 1) {
        let missing = (keys - length)?;
        if missing.bounds(&cx.b.graph.symbols).0 > 0 {
            let fill = cx.b.scalar(Scalar::least(dtype));
            let lo = vec![Dim::ZERO; shape.len()];
            let mut hi = lo.clone();
            hi[shape.len() - 1] = missing;
            bias = cx.b.pad(bias, fill, &lo, &hi)?;
        }
    }
    Ok(bias)
}

/// Rotates pairs of features by angles given as cosines and sines.
fn rotary_embedding(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, mut cosines, mut sines) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if let Some(positions) = cx.optional(3) {
        cosines = cx.b.take(cosines, positions, 0)?;
        sines = cx.b.take(sines, positions, 0)?;
    }
    let whole = cx.b.shape(x)?;
    // Angles are per batch and position: the axis of heads is before or behind that of positions.
    let (x, head_axis) = match whole.len() {
        4 => (x, 1),
        3 => {
            let Some(heads) = cx.int_opt("num_heads").filter(|&n| n > 0) else {
                return cx.invalid("attribute `num_heads` is missing for an input of 3 dimensions");
            };
            let heads = Dim::from(heads);
            let split = [whole[0].clone(), whole[1].clone(), heads.clone(), whole[2].floor_div(&heads)?];
            (cx.b.reshape(x, &split)?, 2)
        }
        rank => return cx.invalid(format!("an input of rank {rank}")),
    };
    let cosines = cx.b.unsqueeze(cosines, &[head_axis])?;
    let sines = cx.b.unsqueeze(sines, &[head_axis])?;
    let count = match cx.int("rotary_embedding_dim", 0) {
        0 => cx.b.shape(x)?[3].clone(),
        n if n > 0 => Dim::from(n),
        n => return cx.invalid(format!("attribute `rotary_embedding_dim` is {n}")),
    };
    let interleaved = cx.flag("interleaved", false);
    let y = rotated(&mut cx.b, x, (cosines, sines), &count, interleaved)?;
    Ok(vec![cx.b.reshape(y, &whole)?])
}

/// Rotates the first `count` features of `x`, of rank 4; cosines and sines broadcast to half of these. A pair is two
/// neighbours, or else two features that half of the count lies between.
pub(super) fn rotated(
    b: &mut Builder<'_>,
    x: Value,
    (cosines, sines): (Value, Value),
    count: &Dim,
    interleaved: bool,
) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    let half = count.floor_div(&Dim::from(2))?;
    let (first, second) = if interleaved {
        (b.slice_axis(x, 3, &Dim::ZERO, &half, 2)?, b.slice_axis(x, 3, &Dim::ONE, &half, 2)?)
    } else {
        (b.slice_axis(x, 3, &Dim::ZERO, &half, 1)?, b.slice_axis(x, 3, &half, &half, 1)?)
    };
    let mut turned = |op: BinaryOp, left: Value, right: Value| {
        b.map(&[first, second, left, right], |e| {
            let (x, y, a, b) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
            let (left, right) = (e.mul(x, a), e.mul(y, b));
            Ok(e.binary(op, left, right))
        })
    };
    let real = turned(BinaryOp::Sub, cosines, sines)?;
    let imaginary = turned(BinaryOp::Add, sines, cosines)?;
    let rotated = if interleaved {
        let pair = [b.unsqueeze(real, &[4])?, b.unsqueeze(imaginary, &[4])?];
        let pairs = b.concat(&pair, 4)?;
        let mut joined = shape.clone();
        joined[3] = count.clone();
        b.reshape(pairs, &joined)?
    } else {
        b.concat(&[real, imaginary], 3)?
    };
    if *count == shape[3] {
        return Ok(rotated);
    }
    let rest = (&shape[3] - count)?;
    let rest = b.slice_axis(x, 3, count, &rest, 1)?;
    Ok(b.concat(&[rotated, rest], 3)?)
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, noise};

    #[test]
    fn unknown_lengths_attend_alike() {
        let (q, kv) = (noise(2 * 4 * 3 * 8), noise(2 * 2 * 5 * 8));
        let model = || TestModel::new("Attention", 24).int("is_causal", 1).float("softcap", 2.0);
        let known = model().input(&[2, 4, 3, 8], &q).input(&[2, 2, 5, 8], &kv).input(&[2, 2, 5, 8], &kv).run();
        // The size of heads decides the scale and has to be known.
        let declare = |m: TestModel, shape: [i64; 4], x: &[f32]| {
            m.declared(&[-1, shape[1], -1, shape[3]], onnxc_ir::tensor::TensorBytes::from_f32(&shape, x))
        };
        let unknown = declare(declare(declare(model(), [2, 4, 3, 8], &q), [2, 2, 5, 8], &kv), [2, 2, 5, 8], &kv).run();
        assert_close(&unknown, &known);
    }

    #[test]
    fn a_query_that_sees_no_key_gives_zeros() {
        let mask = onnxc_ir::tensor::TensorBytes {
            dtype: onnxc_ir::dtype::DType::Bool,
            shape: [2, 2].as_slice().into(),
            bytes: vec![0, 0, 0, 1].into(),
        };
        let x = [1.0, 2.0, 3.0, 4.0];
        let model = TestModel::new("Attention", 23).input(&[1, 1, 2, 2], &x).input(&[1, 1, 2, 2], &x);
        let (_, y) = model.input(&[1, 1, 2, 2], &x).declared(&[2, 2], mask).run();
        assert_eq!(y, [0.0, 0.0, 3.0, 4.0]);
    }

    #[test]
    fn rotation_by_a_quarter_turn() {
        let model = || TestModel::new("RotaryEmbedding", 23).input(&[1, 1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let turned = |model: TestModel| model.floats(&[1, 1, 2], &[0.0; 2]).floats(&[1, 1, 2], &[1.0; 2]).run().1;
        assert_eq!(turned(model()), [-3.0, -4.0, 1.0, 2.0]);
        assert_eq!(turned(model().int("interleaved", 1)), [-2.0, 1.0, -4.0, 3.0]);
    }
}
