//! NonMaxSuppression: of boxes that overlap too much only the best one stays.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{ExprBuilder, LoopSpec};
use onnxc_ir::tensor::op::{Coord, ReduceOp};

use super::control::slice_at;
use super::{Operator, data_sizes};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[Operator::onnx("NonMaxSuppression", &[10, 11, 28], (2, 5), suppress)];

/// A scalar input, or a constant.
fn scalar(cx: &mut NodeContext<'_>, n: usize, dtype: DType, default: f64) -> Result<Value, OpError> {
    match cx.optional(n) {
        Some(value) => {
            let value = cx.b.reshape(value, &[])?;
            Ok(cx.b.cast(value, dtype)?)
        }
        None => Ok(cx.b.number(dtype, default)?),
    }
}

/// In each batch and class the boxes are looked at by falling score. One that is still alive is selected, and what it
/// overlaps dies. The states are 0 alive, 1 dead, 2 selected.
fn suppress(cx: &mut NodeContext<'_>) -> OpResult {
    let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
    let dtype = cx.b.dtype(boxes)?;
    let shape = cx.b.shape(scores)?;
    let [batches, classes, count] = &shape[..] else {
        return cx.invalid(format!("scores of {} dimensions instead of 3", shape.len()));
    };
    let full = [batches.clone(), classes.clone(), count.clone()];
    let most = scalar(cx, 2, DType::I64, 0.0)?;
    let overlap = scalar(cx, 3, dtype, 0.0)?;
    let (scores, order) = cx.b.sort(scores, 2, true)?;
    let scored = match cx.optional(4) {
        None => cx.b.map(&[scores], |e| Ok(e.dim(&Dim::ONE)))?,
        Some(_) => {
            let score_type = cx.b.dtype(scores)?;
            let least = scalar(cx, 4, score_type, 0.0)?;
            cx.b.map(&[scores, least], |e| {
                let (score, least) = (e.arg(0), e.arg(1));
                let enough = e.gt(score, least);
                Ok(e.cast(DType::I64, enough))
            })?
        }
    };
    // Scores fall, so the candidates are the first ones.
    let candidates = cx.b.reduce(ReduceOp::Sum, scored, &[2], false)?;
    let trip_count = cx.b.reduce(ReduceOp::Max, candidates, &[0, 1], false)?;
    let sides = sides(cx, boxes, order, &full, dtype)?;
    let state = cx.b.map(&[scored], |e| {
        let (scored, one) = (e.arg(0), e.dim(&Dim::ONE));
        Ok(e.sub(one, scored))
    })?;
    let taken = cx.b.map_to(&full[..2], &[], |e| Ok(e.dim(&Dim::ZERO)))?;
    let condition = cx.b.scalar_bool(true);
    let carried = [state, taken].map(|v| (v, cx.b.ty(v).clone())).to_vec();
    let captures: Vec<Value> = sides.iter().copied().chain([most, overlap]).collect();
    let spec = LoopSpec { trip_count, condition, carried, captures, iterations: None };
    let results = cx.b.loop_(&spec, |b, i, carried, captures| {
        let (state, taken) = (carried[0], carried[1]);
        let (sides, most, overlap) = (&captures[..4], captures[4], captures[5]);
        let here = slice_at(b, state, 2, i)?;
        let selected = b.map(&[here, taken, most], |e| {
            let (state, taken, most, zero) = (e.arg(0), e.arg(1), e.arg(2), e.dim(&Dim::ZERO));
            let (alive, room) = (e.eq(state, zero), e.lt(taken, most));
            let selected = e.and(alive, room);
            Ok(e.cast(DType::I64, selected))
        })?;
        let taken = b.add(taken, selected)?;
        let mut inputs = vec![state, i, overlap];
        inputs.push(b.unsqueeze(selected, &[2])?);
        for &side in sides {
            let own = slice_at(b, side, 2, i)?;
            inputs.push(b.unsqueeze(own, &[2])?);
            inputs.push(side);
        }
        let state = b.map_to(&full, &inputs, |e| {
            let (state, i, overlap, selected, at) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3), e.index(2));
            let (zero, one, two) = (e.dim(&Dim::ZERO), e.dim(&Dim::ONE), e.dim(&Dim::from(2)));
            let own = [4, 6, 8, 10].map(|n| e.arg(n));
            let other = [5, 7, 9, 11].map(|n| e.arg(n));
            let none = e.number(dtype, 0.0)?;
            let mut shared = None;
            for n in 0..2 {
                let (low, high) = (e.max(own[n], other[n]), e.min(own[n + 2], other[n + 2]));
                let extent = e.sub(high, low);
                let extent = e.max(extent, none);
                shared = Some(shared.map_or(extent, |s| e.mul(s, extent)));
            }
            let shared = shared.expect("a box has two dimensions");
            let (a, b) = (area(e, own), area(e, other));
            let both = e.add(a, b);
            let union = e.sub(both, shared);
            let ratio = e.div(shared, union);
            let (over, real) = (e.gt(ratio, overlap), e.gt(union, none));
            let over = e.and(over, real);
            let (alive, chosen, itself) = (e.eq(state, zero), e.gt(selected, zero), e.eq(at, i));
            let dies = e.and(over, alive);
            let dies = e.and(dies, chosen);
            let rest = e.select(dies, one, state);
            let this = e.select(chosen, two, state);
            Ok(e.select(itself, this, rest))
        })?;
        let goes_on = b.scalar_bool(true);
        Ok::<_, OpError>((goes_on, vec![state, taken], Vec::new()))
    })?;
    rows(cx, results[0], order, &full)
}

fn area(e: &mut ExprBuilder, sides: [ExprIndex; 4]) -> ExprIndex {
    let (height, width) = (e.sub(sides[2], sides[0]), e.sub(sides[3], sides[1]));
    e.mul(height, width)
}

/// The least and greatest coordinates of the boxes in the order of their scores: four tensors like the scores.
fn sides(
    cx: &mut NodeContext<'_>,
    boxes: Value,
    order: Value,
    full: &[Dim; 3],
    dtype: DType,
) -> Result<Vec<Value>, OpError> {
    let centred = cx.flag("center_point_box", false);
    let mut corners = Vec::with_capacity(4);
    for n in 0..4 {
        let corner = cx.b.slice_axis(boxes, 2, &Dim::from(n), &Dim::ONE, 1)?;
        let corner = cx.b.squeeze(corner, &[2])?;
        corners.push(cx.b.gather(corner, &[order], &[Coord::Axis(0), Coord::Input(0)], full)?);
    }
    // Pairs of the first and second dimension: corners in any order, or a centre and an extent.
    let mut sides = Vec::with_capacity(4);
    for end in [false, true] {
        for n in 0..2 {
            let pair = [corners[n], corners[n + 2]];
            sides.push(cx.b.map(&pair, |e| {
                let (a, b) = (e.arg(0), e.arg(1));
                if !centred {
                    return Ok(if end { e.max(a, b) } else { e.min(a, b) });
                }
                let half = e.number(dtype, 0.5)?;
                let half = e.mul(b, half);
                Ok(if end { e.add(a, half) } else { e.sub(a, half) })
            })?);
        }
    }
    Ok(sides)
}

/// Batch, class and box of what is selected.
fn rows(cx: &mut NodeContext<'_>, state: Value, order: Value, full: &[Dim; 3]) -> OpResult {
    let length = Dim::product(full)?;
    let selected = cx.b.map(&[state], |e| {
        let (state, two) = (e.arg(0), e.dim(&Dim::from(2)));
        Ok(e.eq(state, two))
    })?;
    let selected = cx.b.reshape(selected, std::slice::from_ref(&length))?;
    let order = cx.b.reshape(order, &[length])?;
    let found = data_sizes::positions(cx, selected)?;
    let of_boxes = cx.b.take(order, found, 0)?;
    let [_, classes, count] = full;
    let per_batch = (classes * count)?;
    let batch = cx.b.map(&[found], |e| {
        let (at, per_batch) = (e.arg(0), e.dim(&per_batch));
        Ok(e.div(at, per_batch))
    })?;
    let class = cx.b.map(&[found], |e| {
        let (at, count, classes) = (e.arg(0), e.dim(count), e.dim(classes));
        let at = e.div(at, count);
        Ok(e.modulo(at, classes))
    })?;
    let columns = [batch, class, of_boxes].map(|v| cx.b.unsqueeze(v, &[1]));
    let columns = columns.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(vec![cx.b.concat(&columns, 1)?])
}
