//! What attention knows of positions: rotary embeddings and biases by distance.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::{Coord, ReduceOp};

use super::super::Operator;
use super::super::attention::{rotated, split_heads};
use super::super::linear::{product, sum_type};
use super::attention::head_count;
use super::packed::with_padding;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("RotaryEmbedding", (4, 4), rotary_embedding),
    row("MRotaryEmbedding", (4, 4), sectioned_rotary_embedding),
    row("RelativePositionBias", (3, 3), relative_position_bias),
    row("GatedRelativePositionBias", (6, 7), gated_relative_position_bias),
];

/// Rotates pairs of features by the angles of their positions; ONNX Runtime leaves the attribute `scale` unused.
fn rotary_embedding(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, positions, cosines, sines) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (whole, half) = (cx.b.shape(x)?, cx.b.shape(cosines)?.last().cloned().unwrap_or(Dim::ZERO));
    let count = (&half + &half)?;
    // The axis of heads is before or behind that of positions.
    let (x, head_axis, length) = match whole.len() {
        4 => (x, 1, whole[2].clone()),
        3 => {
            let size = match (cx.int("rotary_embedding_dim", 0), cx.int("num_heads", 0)) {
                (0, _) => count.clone(),
                (_, heads) if heads > 0 => whole[2].floor_div(&Dim::from(heads))?,
                _ => return cx.invalid("attribute `num_heads` is missing for a partial rotation"),
            };
            let split = [whole[0].clone(), whole[1].clone(), whole[2].floor_div(&size)?, size];
            (cx.b.reshape(x, &split)?, 2, whole[1].clone())
        }
        rank => return cx.invalid(format!("an input of rank {rank}")),
    };
    let places = match cx.b.rank(positions)? {
        2 => positions,
        _ => {
            let offset = cx.b.cast(positions, DType::I64)?;
            let offset = cx.b.reshape(offset, &[Dim::ONE, Dim::ONE])?;
            cx.b.map_to(&[Dim::ONE, length], &[offset], |e| {
                let (offset, i) = (e.arg(0), e.index(1));
                Ok(e.add(offset, i))
            })?
        }
    };
    let mut angles = |table: Value| -> Result<Value, OpError> {
        let rows = cx.b.take(table, places, 0)?;
        Ok(cx.b.unsqueeze(rows, &[head_axis])?)
    };
    let angles = (angles(cosines)?, angles(sines)?);
    let interleaved = cx.flag("interleaved", false);
    let y = rotated(&mut cx.b, x, angles, &count, interleaved)?;
    Ok(vec![cx.b.reshape(y, &whole)?])
}

/// A rotary embedding with three positions for each token, `[3, B, S]`, each of which gives the angles of some pairs of
/// features: of a section, or of every third pair.
fn sectioned_rotary_embedding(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, positions, cosines, sines) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (whole, streams) = (cx.b.shape(x)?, cx.b.shape(positions)?);
    let Some(pairs) = cx.b.shape(cosines)?.last().and_then(Dim::as_const) else {
        return cx.unsupported("tables of angles whose width is not known");
    };
    let sections = cx.ints("mrope_section").unwrap_or_default();
    if sections.len() != 3
        || sections.iter().any(|&n| n < 0)
        || sections.iter().sum::<i64>() != pairs
        || streams.len() != 3
    {
        return cx.invalid("the three sections or positions do not fit the tables of angles");
    }
    let interleaved_sections = match cx.int("mrope_layout", 0) {
        0 => false,
        1 => true,
        other => return cx.invalid(format!("attribute `mrope_layout` is {other}")),
    };
    let stream_of = |pair: i64| -> i64 {
        if interleaved_sections {
            let stream = pair % 3;
            return if pair < 3 * sections[stream as usize] { stream } else { 0 };
        }
        i64::from(pair >= sections[0]) + i64::from(pair >= sections[0] + sections[1])
    };
    let streams_of_pairs: Vec<i64> = (0..pairs).map(stream_of).collect();
    let chosen = cx.b.i64s(&streams_of_pairs);
    let places = cx.b.take(positions, chosen, 0)?;
    let places = cx.b.transpose(places, &[1, 2, 0])?;
    let (x, head_axis) = match whole.len() {
        4 => (x, 1),
        3 => {
            let heads = Dim::from(head_count(cx, "num_heads")?);
            let split = [whole[0].clone(), whole[1].clone(), heads.clone(), whole[2].floor_div(&heads)?];
            (cx.b.reshape(x, &split)?, 2)
        }
        rank => return cx.invalid(format!("an input of rank {rank}")),
    };
    let space = [streams[1].clone(), streams[2].clone(), Dim::from(pairs)];
    let mut angles = |table: Value| -> Result<Value, OpError> {
        let picked = cx.b.gather(table, &[places], &[Coord::Input(0), Coord::Axis(2)], &space)?;
        Ok(cx.b.unsqueeze(picked, &[head_axis])?)
    };
    let angles = (angles(cosines)?, angles(sines)?);
    let interleaved = cx.flag("interleaved", false);
    let y = rotated(&mut cx.b, x, angles, &Dim::from(2 * pairs), interleaved)?;
    Ok(vec![cx.b.reshape(y, &whole)?])
}

/// T5's bias: a number for each head and bucket of distances. Half of the buckets are for single distances, the others
/// for distances that grow by a factor up to `max_distance`. With both directions one half is for each.
fn relative_position_bias(cx: &mut NodeContext<'_>) -> OpResult {
    let table = cx.input(0)?;
    let shape = cx.b.shape(table)?;
    let Some(buckets) = shape.first().and_then(Dim::as_const).filter(|_| shape.len() == 2) else {
        return cx.unsupported("a table whose number of buckets is not known");
    };
    let most = Dim::from(DEFAULT_HIGH);
    let (queries, keys) = (cx.size_up_to(1, &most)?, cx.size_up_to(2, &most)?);
    let both = cx.flag("is_bidirectional", false);
    let count = if both { buckets / 2 } else { buckets };
    let (exact, furthest) = (count / 2, cx.int("max_distance", 0));
    if exact < 1 || furthest <= exact {
        return cx.invalid(format!("{buckets} buckets for distances up to {furthest}"));
    }
    let places = cx.b.map_to(&[queries, keys], &[], |e| {
        let (query, key, zero) = (e.index(0), e.index(1), e.dim(&Dim::ZERO));
        let (ahead, behind) = (e.sub(key, query), e.sub(query, key));
        let distance = if both { e.max(ahead, behind) } else { e.max(behind, zero) };
        let (wide, first) = (e.cast(DType::F32, distance), e.number(DType::F32, exact as f64)?);
        let ratio = e.div(wide, first);
        let growth = e.log(ratio);
        let step = e.number(DType::F32, (count - exact) as f64 / (furthest as f64 / exact as f64).ln())?;
        let steps = e.mul(growth, step);
        // The distances below are no candidates; their logarithm must not be converted.
        let none = e.number(DType::F32, 0.0)?;
        let steps = e.max(steps, none);
        let steps = e.cast(DType::I64, steps);
        let (single, last) = (e.dim(&Dim::from(exact)), e.dim(&Dim::from(count - 1)));
        let far = e.add(single, steps);
        let far = e.min(far, last);
        let near = e.lt(distance, single);
        let mut bucket = e.select(near, distance, far);
        if both {
            let (later, half) = (e.gt(ahead, zero), e.dim(&Dim::from(count)));
            let other = e.add(bucket, half);
            bucket = e.select(later, other, bucket);
        }
        Ok(bucket)
    })?;
    let rows = cx.b.take(table, places, 0)?;
    let y = cx.b.transpose(rows, &[2, 0, 1])?;
    Ok(vec![cx.b.unsqueeze(y, &[0])?])
}

/// A bias by distance whose weight two gates decide, which are computed from the queries.
fn gated_relative_position_bias(cx: &mut NodeContext<'_>) -> OpResult {
    let heads = head_count(cx, "num_heads")?;
    let (query, bias, distances) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (weight, shift, scale) = (cx.input(3)?, cx.input(4)?, cx.input(5)?);
    let query = match cx.optional(6) {
        Some(places) => with_padding(cx, query, places)?,
        None => query,
    };
    if cx.b.rank(query)? != 3 {
        return cx.invalid("the queries have not 3 dimensions");
    }
    let (dtype, acc) = (cx.b.dtype(query)?, sum_type(cx.b.dtype(query)?));
    let query = cx.b.add(query, bias)?;
    let query = split_heads(&mut cx.b, query, heads)?;
    let gates = product(cx, query, weight)?;
    let gates = cx.b.add(gates, shift)?;
    let shape = cx.b.shape(gates)?;
    let half = shape[3].floor_div(&Dim::from(2))?;
    let gates = cx.b.cast(gates, acc)?;
    let grouped = [shape[0].clone(), shape[1].clone(), shape[2].clone(), Dim::from(2), half];
    let gates = cx.b.reshape(gates, &grouped)?;
    let sums = cx.b.reduce(ReduceOp::Sum, gates, &[4], false)?;
    let sums = cx.b.sigmoid(sums)?;
    let update = cx.b.slice_axis(sums, 3, &Dim::ZERO, &Dim::ONE, 1)?;
    let reset = cx.b.slice_axis(sums, 3, &Dim::ONE, &Dim::ONE, 1)?;
    let scale = cx.b.cast(scale, acc)?;
    let weight = cx.b.map(&[update, reset, scale], |e| {
        let (update, reset, scale) = (e.arg(0), e.arg(1), e.arg(2));
        let (one, two) = (e.number(acc, 1.0)?, e.number(acc, 2.0)?);
        let scaled = e.mul(reset, scale);
        let less = e.sub(scaled, one);
        let product = e.mul(update, less);
        Ok(e.add(product, two))
    })?;
    let distances = cx.b.cast(distances, acc)?;
    let y = cx.b.binary(BinaryOp::Mul, weight, distances)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}
