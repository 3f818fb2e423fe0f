//! Batches without padding: the tokens of all sequences behind each other, and a table of the places that they have with
//! padding, those of tokens before those of padding.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Builder, Value};

use super::super::Operator;
use super::super::attention::split_heads;
use super::super::linear::{product, sum_type};
use super::attention::{Heads, attend, head_count, part};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("PackedAttention", (5, 6), packed_attention),
    row("PackedMultiHeadAttention", (6, 7), packed_multi_head_attention),
    row("RemovePadding", (2, 2), remove_padding),
    row("RestorePadding", (2, 2), |cx| {
        let (tokens, places) = (cx.input(0)?, cx.input(1)?);
        Ok(vec![with_padding(cx, tokens, places)?])
    }),
];

/// The places of the tokens alone, from the table `[B, S]`.
fn token_places(cx: &mut NodeContext<'_>, places: Value, count: &Dim) -> Result<Value, OpError> {
    if cx.b.rank(places)? != 2 {
        return cx.invalid("the table of places has not 2 dimensions");
    }
    let flat = cx.b.flatten(places, 0)?;
    let flat = cx.b.squeeze(flat, &[0])?;
    let flat = cx.b.cast(flat, DType::I64)?;
    Ok(cx.b.slice_axis(flat, 0, &Dim::ZERO, count, 1)?)
}

/// Tokens `[T, D]` at their places of `[B, S, D]`, zeros elsewhere.
pub(super) fn with_padding(cx: &mut NodeContext<'_>, tokens: Value, places: Value) -> Result<Value, OpError> {
    let (shape, table) = (cx.b.shape(tokens)?, cx.b.shape(places)?);
    if shape.len() != 2 || table.len() != 2 {
        return cx.invalid("the tokens or their places have not 2 dimensions");
    }
    let rows = token_places(cx, places, &shape[0])?;
    let rows = cx.b.unsqueeze(rows, &[1])?;
    let zero = cx.b.number(cx.b.dtype(tokens)?, 0.0)?;
    let empty = cx.b.broadcast(zero, &[(&table[0] * &table[1])?, shape[1].clone()])?;
    let coords = [Coord::Input(0), Coord::Axis(1)];
    let padded = cx.b.scatter(ScatterOp::Set, empty, tokens, &[rows], &coords)?;
    Ok(cx.b.reshape(padded, &[table[0].clone(), table[1].clone(), shape[1].clone()])?)
}

/// The inverse of [`with_padding`] for `count` tokens.
fn without_padding(cx: &mut NodeContext<'_>, x: Value, places: Value, count: &Dim) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let rows = cx.b.reshape(x, &[(&shape[0] * &shape[1])?, shape[2].clone()])?;
    let places = token_places(cx, places, count)?;
    Ok(cx.b.take(rows, places, 0)?)
}

/// Attention of queries, keys and values `[T, D]` within their sequences, whose ends in the sum over all are given.
fn within_sequences(
    cx: &mut NodeContext<'_>,
    rows: [Value; 3],
    places: Value,
    ends: Value,
    score_bias: Option<Value>,
) -> OpResult {
    let heads = head_count(cx, "num_heads")?;
    let count = cx.b.shape(rows[0])?[0].clone();
    let [q, k, v] = rows;
    let mut in_heads = |x: Value| -> Result<Value, OpError> {
        let padded = with_padding(cx, x, places)?;
        split_heads(&mut cx.b, padded, heads)
    };
    let operands = Heads { q: in_heads(q)?, k: in_heads(k)?, v: in_heads(v)? };
    let shape = cx.b.shape(operands.q)?;
    let (batch, length) = (shape[0].clone(), shape[2].clone());
    let acc = sum_type(cx.b.dtype(operands.q)?);
    let ends = cx.b.cast(ends, DType::I64)?;
    let first = cx.b.slice_axis(ends, 0, &Dim::ZERO, &batch, 1)?;
    let last = cx.b.slice_axis(ends, 0, &Dim::ONE, &batch, 1)?;
    let lengths = cx.b.sub(last, first)?;
    let lengths = cx.b.reshape(lengths, &[batch.clone(), Dim::ONE, Dim::ONE, Dim::ONE])?;
    let mut bias = cx.b.map_to(&[batch, Dim::ONE, Dim::ONE, length], &[lengths], |e| {
        let (length, key, one) = (e.arg(0), e.index(3), e.dim(&Dim::ONE));
        // An empty sequence has no result; it sees its padding, so that there is a number.
        let length = e.max(length, one);
        let seen = e.lt(key, length);
        let (zero, least) = (e.number(acc, 0.0)?, e.constant(Scalar::least(acc)));
        Ok(e.select(seen, zero, least))
    })?;
    if let Some(more) = score_bias {
        let more = cx.b.cast(more, acc)?;
        bias = cx.b.add(bias, more)?;
    }
    let (y, _) = attend(cx, &operands, Some(bias))?;
    Ok(vec![without_padding(cx, y, places, &count)?])
}

fn packed_attention(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, weights, bias, places, ends) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?);
    if cx.b.rank(x)? != 2 || cx.b.rank(weights)? != 2 {
        return cx.invalid("the input or the weights have not 2 dimensions");
    }
    let widths: Vec<Dim> = match cx.ints("qkv_hidden_sizes") {
        Some(sizes) if sizes.len() == 3 => sizes.iter().map(|&n| Dim::from(n)).collect(),
        Some(_) => return cx.invalid("attribute `qkv_hidden_sizes` has not three elements"),
        None => vec![cx.b.shape(weights)?[1].floor_div(&Dim::from(3))?; 3],
    };
    let rows = product(cx, x, weights)?;
    let rows = cx.b.add(rows, bias)?;
    let rows = side_by_side(&mut cx.b, rows, &widths)?;
    let score_bias = cx.optional(5);
    within_sequences(cx, rows, places, ends, score_bias)
}

/// The three operands that lie behind each other along the last axis.
fn side_by_side(b: &mut Builder<'_>, x: Value, widths: &[Dim]) -> Result<[Value; 3], OpError> {
    let (second, third) = (widths[0].clone(), (&widths[0] + &widths[1])?);
    Ok([part(b, x, &Dim::ZERO, &widths[0])?, part(b, x, &second, &widths[1])?, part(b, x, &third, &widths[2])?])
}

fn packed_multi_head_attention(cx: &mut NodeContext<'_>) -> OpResult {
    let (query, places, ends) = (cx.input(0)?, cx.input(4)?, cx.input(5)?);
    let mut rows = match (cx.optional(1), cx.optional(2)) {
        (Some(k), Some(v)) => [query, k, v],
        (None, None) if cx.b.rank(query)? == 4 => {
            let shape = cx.b.shape(query)?;
            let row = [shape[0].clone(), (&shape[1] * &shape[3])?];
            let mut nth = |n: i64| -> Result<Value, OpError> {
                let x = cx.b.slice_axis(query, 2, &Dim::from(n), &Dim::ONE, 1)?;
                Ok(cx.b.reshape(x, &row)?)
            };
            [nth(0)?, nth(1)?, nth(2)?]
        }
        _ => return cx.invalid("query, key and value are neither separate nor packed"),
    };
    if let Some(bias) = cx.optional(3) {
        let widths = rows.iter().map(|&x| Ok(cx.b.shape(x)?[1].clone())).collect::<Result<Vec<Dim>, OpError>>()?;
        let parts = side_by_side(&mut cx.b, bias, &widths)?;
        for (x, bias) in rows.iter_mut().zip(parts) {
            *x = cx.b.add(*x, bias)?;
        }
    }
    let score_bias = cx.optional(6);
    within_sequences(cx, rows, places, ends, score_bias)
}

/// The tokens alone; the table of places; the ends of the sequences in the sum over all; the greatest length.
fn remove_padding(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, counts) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.b.shape(x)?;
    if shape.len() != 3 {
        return cx.invalid("the input has not 3 dimensions");
    }
    let column = cx.b.cast(counts, DType::I64)?;
    let column = cx.b.reshape(column, &[shape[0].clone(), Dim::ONE])?;
    let padding = cx.b.map_to(&shape[..2], &[column], |e| {
        let (count, i) = (e.arg(0), e.index(1));
        let token = e.lt(i, count);
        let (zero, one) = (e.number(DType::I32, 0.0)?, e.number(DType::I32, 1.0)?);
        Ok(e.select(token, zero, one))
    })?;
    let all = (&shape[0] * &shape[1])?;
    let flat = cx.b.reshape(padding, std::slice::from_ref(&all))?;
    // A stable order keeps tokens, and padding behind them, in the order of their places.
    let (_, order) = cx.b.sort(flat, 0, false)?;
    let kept = cx.b.map(&[flat], |e| {
        let (padding, one) = (e.arg(0), e.number(DType::I32, 1.0)?);
        let kept = e.sub(one, padding);
        Ok(e.cast(DType::I64, kept))
    })?;
    let total = cx.b.reduce(ReduceOp::Sum, kept, &[0], false)?;
    let total = cx.bind_one(total, &Dim::from(DEFAULT_HIGH))?;
    let places = cx.b.cast(order, DType::I32)?;
    let places = cx.b.reshape(places, &shape[..2])?;
    let tokens = without_padding(cx, x, places, &total)?;
    let sums = cx.b.cumulate(ReduceOp::Sum, counts, 0, false, false)?;
    let zero = cx.b.number(cx.b.dtype(counts)?, 0.0)?;
    let ends = cx.b.pad(sums, zero, &[Dim::ONE], &[Dim::ZERO])?;
    let longest = cx.b.reduce(ReduceOp::Max, counts, &[0], true)?;
    Ok(vec![tokens, places, ends, longest])
}
