//! Reshapes, slices and paddings whose operands data decides: the sizes are computed as integer tensors in the model, bound
//! to symbols, and the elements are then moved as if the sizes had been known.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::ExprBuilder;
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Shape, Value};

use crate::import::{NodeContext, OpError};

/// The greatest size.
fn any() -> Dim {
    Dim::from(DEFAULT_HIGH)
}

/// An `i64` constant in an expression.
fn int(e: &mut ExprBuilder, value: i64) -> ExprIndex {
    e.dim(&Dim::from(value))
}

/// The shape that a reshape of `from` has, for a target of which some elements are known: 0 keeps a dimension unless
/// `keeps_zeros`, -1 stands for what is left.
pub(super) fn reshaped(
    cx: &mut NodeContext<'_>,
    from: &[Dim],
    target: Value,
    count: usize,
    keeps_zeros: bool,
) -> Result<Vec<Dim>, OpError> {
    let known = |cx: &NodeContext<'_>, i: usize| -> Option<Dim> {
        cx.b.graph.known[target].as_ref()?.elements()[i].as_ref()?.as_dim().cloned()
    };
    cx.check_list(count as i64)?;
    let mut dims: Vec<Option<Dim>> = (0..count).map(|i| known(cx, i)).collect();
    for (i, dim) in dims.iter_mut().enumerate() {
        if *dim == Some(Dim::ZERO) && !keeps_zeros {
            *dim = from.get(i).cloned();
        }
    }
    let unknown: Vec<usize> = (0..count).filter(|&i| dims[i].is_none()).collect();
    let positions: Vec<i64> = unknown.iter().map(|&i| i as i64).collect();
    let positions = cx.b.i64s(&positions);
    let asked = cx.b.take(target, positions, 0)?;
    let same: Vec<Dim> = unknown.iter().map(|&i| from.get(i).cloned().unwrap_or(Dim::ZERO)).collect();
    let same = cx.b.dim_values(&same)?;
    let asked = cx.b.map(&[asked, same], |e| {
        let (asked, same, zero) = (e.arg(0), e.arg(1), int(e, 0));
        let kept = e.eq(asked, zero);
        Ok(if keeps_zeros { asked } else { e.select(kept, same, asked) })
    })?;
    let has_rest = dims.iter().flatten().any(|d| *d == -1);
    let sizes = if has_rest {
        cx.bind(asked, &Dim::ZERO, &any())?
    } else {
        let factors = cx.b.map(&[asked], |e| {
            let (size, rest, one) = (e.arg(0), int(e, -1), int(e, 1));
            let left = e.eq(size, rest);
            Ok(e.select(left, one, size))
        })?;
        let product = cx.b.reduce(ReduceOp::Prod, factors, &[0], false)?;
        let (total, fixed) = (Dim::product(from)?, Dim::product(dims.iter().flatten())?);
        let sizes = cx.b.map(&[asked, product], |e| {
            let (size, product, rest, one) = (e.arg(0), e.arg(1), int(e, -1), int(e, 1));
            let (total, fixed) = (e.dim(&total), e.dim(&fixed));
            let others = e.mul(product, fixed);
            let others = e.max(others, one);
            let missing = e.div(total, others);
            let left = e.eq(size, rest);
            Ok(e.select(left, missing, size))
        })?;
        cx.bind(sizes, &Dim::ZERO, &any())?
    };
    unknown.into_iter().zip(sizes).for_each(|(i, size)| dims[i] = Some(size));
    Ok(dims.into_iter().map(|d| d.expect("every dimension is known or bound")).collect())
}

/// Repeats a tensor to a shape of which a run knows the sizes. A size that is 1 gives way to the target's; others stay.
pub(super) fn expanded(cx: &mut NodeContext<'_>, x: Value, target: Value, count: usize) -> Result<Value, OpError> {
    let from = cx.b.shape(x)?;
    let rank = from.len().max(count);
    let mut shape = Shape::new();
    let (mut coords, mut indices, mut repeats) = (Vec::new(), Vec::new(), false);
    for i in 0..rank {
        let own = (i + from.len()).checked_sub(rank).map(|axis| from[axis].clone());
        let asked = (i + count).checked_sub(rank);
        let size = match (&own, asked) {
            (Some(size), None) => size.clone(),
            (Some(size), Some(_)) if size.as_const().is_some_and(|n| n != 1) => size.clone(),
            (own, Some(at)) => {
                let asked = cx.element(target, at)?;
                let own = own.clone().unwrap_or(Dim::ONE);
                let size = cx.b.map(&[asked], |e| {
                    let (asked, own, one) = (e.arg(0), e.dim(&own), int(e, 1));
                    let gives_way = e.eq(own, one);
                    Ok(e.select(gives_way, asked, own))
                })?;
                cx.bind_one(size, &any())?
            }
            (None, None) => unreachable!("an axis belongs to the tensor or to the target"),
        };
        if let Some(own) = own {
            if own == size {
                coords.push(Coord::Axis(i as u32));
            } else {
                // Index 0 where the tensor has one element: indices past the end count as the last.
                repeats |= own != 1;
                coords.push(Coord::Input(indices.len() as u32));
                let trailing: Vec<Dim> = std::iter::once(size.clone()).chain(vec![Dim::ONE; rank - i - 1]).collect();
                indices.push(cx.b.map_to(&trailing, &[], |e| Ok(e.index(0)))?);
            }
        }
        shape.push(size);
    }
    if !repeats {
        return Ok(cx.b.broadcast(x, &shape)?);
    }
    Ok(cx.b.gather(x, &indices, &coords, &shape)?)
}

/// The part of an axis that a slice takes: `start`, `end` and `step` are `i64` scalars.
pub(super) fn slice_axis(
    cx: &mut NodeContext<'_>,
    x: Value,
    axis: usize,
    [start, end, step]: [Value; 3],
) -> Result<Value, OpError> {
    let size = cx.b.shape(x)?[axis].clone();
    let known_step = cx.b.known_i64s(step).and_then(|s| s.first().copied());
    if known_step == Some(0) {
        return cx.invalid("a step of 0");
    }
    /// Steps past any size act alike.
    const FAR: i64 = 1 << 40;
    let bounds = |cx: &mut NodeContext<'_>, wants_count: bool| {
        cx.b.map(&[start, end, step], |e| {
            let (start, end, step) = (e.arg(0), e.arg(1), e.arg(2));
            let (zero, one, size) = (int(e, 0), int(e, 1), e.dim(&size));
            let (last, before) = (e.sub(size, one), int(e, -1));
            let backwards = e.lt(step, zero);
            let from_end = |e: &mut ExprBuilder, at: ExprIndex| {
                let (negative, shifted) = (e.lt(at, zero), e.add(at, size));
                e.select(negative, shifted, at)
            };
            let (start, end) = (from_end(e, start), from_end(e, end));
            let top = e.select(backwards, last, size);
            let (low_start, low_end) = (zero, e.select(backwards, before, zero));
            let start = e.min(start, top);
            let start = e.max(start, low_start);
            let end = e.min(end, top);
            let end = e.max(end, low_end);
            if !wants_count {
                return Ok(start);
            }
            let (forward, back) = (e.sub(end, start), e.sub(start, end));
            let span = e.select(backwards, back, forward);
            let far = int(e, FAR);
            let near = int(e, -FAR);
            let step = e.min(step, far);
            let step = e.max(step, near);
            let turned = e.sub(zero, step);
            let magnitude = e.max(step, turned);
            let magnitude = e.max(magnitude, one);
            let steps = e.sub(span, one);
            let steps = e.div(steps, magnitude);
            let count = e.add(steps, one);
            let empty = e.le(span, zero);
            let count = e.select(empty, zero, count);
            // A backward slice of nothing starts at 0, where nothing is.
            Ok(e.min(count, size))
        })
    };
    let first = bounds(cx, false)?;
    let count = bounds(cx, true)?;
    let count = cx.bind_one(count, &size)?;
    if let Some(step) = known_step {
        let first = cx.bind_one(first, &size)?;
        return Ok(cx.b.slice_axis(x, axis as i64, &first, &count, step)?);
    }
    let index = cx.b.map_to(std::slice::from_ref(&count), &[first, step], |e| {
        let (first, step, i) = (e.arg(0), e.arg(1), e.index(0));
        let offset = e.mul(i, step);
        Ok(e.add(first, offset))
    })?;
    Ok(cx.b.take(x, index, axis as i64)?)
}

/// For each of `rank` axes, what `values` says for it; `default` where `axes` does not name it. Both are `i64` vectors.
pub(super) fn by_axis(
    cx: &mut NodeContext<'_>,
    axes: Value,
    values: Value,
    count: usize,
    rank: usize,
    default: i64,
) -> Result<Value, OpError> {
    let rows = Dim::from(rank as i64);
    let mut all = cx.b.map_to(std::slice::from_ref(&rows), &[], |e| Ok(int(e, default)))?;
    for i in 0..count {
        let (axis, value) = (cx.element(axes, i)?, cx.element(values, i)?);
        all = cx.b.map(&[all, axis, value], |e| {
            let (all, axis, value, at) = (e.arg(0), e.arg(1), e.arg(2), e.index(0));
            let here = is_axis(e, axis, at, rank);
            Ok(e.select(here, value, all))
        })?;
    }
    Ok(all)
}

/// Whether `axis`, counted from the end where it is negative, is `at` of `rank`.
fn is_axis(e: &mut ExprBuilder, axis: ExprIndex, at: ExprIndex, rank: usize) -> ExprIndex {
    let rank = int(e, rank as i64);
    let from_end = e.sub(at, rank);
    let (a, b) = (e.eq(axis, at), e.eq(axis, from_end));
    e.or(a, b)
}

/// 1 for each of `rank` axes that `axes`, an `i64` vector, names; 0 for the others.
pub(super) fn axis_mask(cx: &mut NodeContext<'_>, axes: Value, count: usize, rank: usize) -> Result<Value, OpError> {
    let ones = cx.b.i64s(&vec![1; count]);
    by_axis(cx, axes, ones, count, rank, 0)
}

/// The elements of an `i64` vector at which `mask` is 0, of which there are `kept`.
pub(super) fn unmasked(
    cx: &mut NodeContext<'_>,
    mask: Value,
    values: Value,
    rank: usize,
    kept: usize,
) -> Result<Value, OpError> {
    let keep = cx.b.map(&[mask], |e| {
        let (mask, one) = (e.arg(0), int(e, 1));
        Ok(e.sub(one, mask))
    })?;
    let places = cx.b.cumulate(ReduceOp::Sum, keep, 0, true, false)?;
    let shape = [kept, rank].map(|n| Dim::from(n as i64));
    let spread = cx.b.map_to(&shape, &[keep, places, values], |e| {
        let (keep, place, value, zero, at) = (e.arg(0), e.arg(1), e.arg(2), int(e, 0), e.index(0));
        let (here, kept) = (e.eq(place, at), e.gt(keep, zero));
        let taken = e.and(here, kept);
        Ok(e.select(taken, value, zero))
    })?;
    Ok(cx.b.reduce(ReduceOp::Sum, spread, &[1], false)?)
}

/// Removes axes that data names.
pub(super) fn squeezed(cx: &mut NodeContext<'_>, x: Value, axes: Value, count: usize) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let Some(kept) = shape.len().checked_sub(count) else {
        return cx.invalid(format!("{count} axes of a tensor of rank {}", shape.len()));
    };
    let mask = axis_mask(cx, axes, count, shape.len())?;
    let sizes = cx.b.dim_values(&shape)?;
    let sizes = unmasked(cx, mask, sizes, shape.len(), kept)?;
    let sizes = cx.bind(sizes, &Dim::ZERO, &any())?;
    Ok(cx.b.reshape(x, &sizes)?)
}

/// Adds axes of size 1 at places that data names.
pub(super) fn unsqueezed(cx: &mut NodeContext<'_>, x: Value, axes: Value, count: usize) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let rank = shape.len() + count;
    let mask = axis_mask(cx, axes, count, rank)?;
    let places = cx.b.map(&[mask], |e| {
        let (mask, one) = (e.arg(0), int(e, 1));
        Ok(e.sub(one, mask))
    })?;
    let places = cx.b.cumulate(ReduceOp::Sum, places, 0, true, false)?;
    let padded: Vec<Dim> = shape.iter().cloned().chain([Dim::ONE]).collect();
    let sizes = cx.b.dim_values(&padded)?;
    let sizes = cx.b.take(sizes, places, 0)?;
    let sizes = cx.b.map(&[mask, sizes], |e| {
        let (mask, size, zero, one) = (e.arg(0), e.arg(1), int(e, 0), int(e, 1));
        let new = e.gt(mask, zero);
        Ok(e.select(new, one, size))
    })?;
    let sizes = cx.bind(sizes, &Dim::ZERO, &any())?;
    Ok(cx.b.reshape(x, &sizes)?)
}

/// Pads by amounts that data decides, negative ones included: `[before..., after...]` for all axes. Positions outside are
/// those that `inside` maps into the tensor, or `fill`.
pub(super) fn padded(
    cx: &mut NodeContext<'_>,
    x: Value,
    fill: Value,
    lo: &[Dim],
    hi: &[Dim],
) -> Result<Value, OpError> {
    let from = cx.b.shape(x)?;
    let rank = from.len();
    let mut shape = Shape::new();
    for (size, (lo, hi)) in from.iter().zip(lo.iter().zip(hi)) {
        shape.push((&(size + lo)? + hi)?);
    }
    let mut indices = Vec::new();
    for (axis, lo) in lo.iter().enumerate() {
        let along: Vec<Dim> = std::iter::once(shape[axis].clone()).chain(vec![Dim::ONE; rank - axis - 1]).collect();
        indices.push(cx.b.map_to(&along, &[], |e| {
            let (at, lo) = (e.index(0), e.dim(lo));
            Ok(e.sub(at, lo))
        })?);
    }
    let coords: Vec<Coord> = (0..rank as u32).map(Coord::Input).collect();
    let taken = cx.b.gather(x, &indices, &coords, &shape)?;
    Ok(cx.b.map_to(&shape, &[taken, fill], |e| {
        let mut result = e.arg(0);
        let fill = e.arg(1);
        for (axis, (size, lo)) in from.iter().zip(lo).enumerate() {
            let (at, lo, zero, size) = (e.index(axis as u32), e.dim(lo), int(e, 0), e.dim(size));
            let at = e.sub(at, lo);
            let (after, before) = (e.ge(at, zero), e.lt(at, size));
            let inside = e.and(after, before);
            result = e.select(inside, result, fill);
        }
        Ok(result)
    })?)
}

/// A tensor as a matrix: the rows are what is left of the axes, the columns the axes that data names.
pub(super) struct Split {
    /// `[rows, columns]`.
    pub(super) matrix: Value,
    /// The shape of the rows: without the named axes, or with 1 in their place.
    pub(super) rows: Vec<Dim>,
}

/// Splits a tensor by axes that data names.
pub(super) fn split(
    cx: &mut NodeContext<'_>,
    x: Value,
    axes: Value,
    count: usize,
    keepdims: bool,
) -> Result<Split, OpError> {
    let shape = cx.b.shape(x)?;
    let rank = shape.len();
    let Some(kept) = rank.checked_sub(count) else {
        return cx.invalid(format!("{count} axes of a tensor of rank {rank}"));
    };
    let mask = axis_mask(cx, axes, count, rank)?;
    let sizes = cx.b.dim_values(&shape)?;
    let of_rows = cx.b.map(&[mask, sizes], |e| {
        let (mask, size, zero, one) = (e.arg(0), e.arg(1), int(e, 0), int(e, 1));
        let named = e.gt(mask, zero);
        Ok(e.select(named, one, size))
    })?;
    let of_columns = cx.b.map(&[mask, sizes], |e| {
        let (mask, size, zero, one) = (e.arg(0), e.arg(1), int(e, 0), int(e, 1));
        let named = e.gt(mask, zero);
        Ok(e.select(named, size, one))
    })?;
    let row_shape = if keepdims { of_rows } else { unmasked(cx, mask, sizes, rank, kept)? };
    let rows = cx.bind(row_shape, &Dim::ZERO, &any())?;
    let mut strides = vec![Dim::ONE; rank];
    for axis in (1..rank).rev() {
        strides[axis - 1] = (&strides[axis] * &shape[axis])?;
    }
    let strides = cx.b.dim_values(&strides)?;
    // The places in the tensor of the first element of each row, and of each column within a row.
    let mut offsets = Vec::new();
    for part in [of_rows, of_columns] {
        let total = cx.b.reduce(ReduceOp::Prod, part, &[0], false)?;
        let total = cx.bind_one(total, &any())?;
        let inner = cx.b.cumulate(ReduceOp::Prod, part, 0, true, true)?;
        let steps = cx.b.map_to(&[total, Dim::from(rank as i64)], &[inner, part, strides], |e| {
            let (inner, size, stride, one, at) = (e.arg(0), e.arg(1), e.arg(2), int(e, 1), e.index(0));
            let (inner, size) = (e.max(inner, one), e.max(size, one));
            let at = e.div(at, inner);
            let at = e.modulo(at, size);
            Ok(e.mul(at, stride))
        })?;
        offsets.push(cx.b.reduce(ReduceOp::Sum, steps, &[1], false)?);
    }
    let columns = offsets.pop().expect("two parts");
    let row_offsets = cx.b.unsqueeze(offsets[0], &[1])?;
    let places = cx.b.add(row_offsets, columns)?;
    let flat = cx.b.reshape(x, &[Dim::product(&shape)?])?;
    let to = cx.b.shape(places)?;
    let matrix = cx.b.gather(flat, &[places], &[Coord::Input(0)], &to)?;
    Ok(Split { matrix, rows })
}

/// The positions at which a vector of `bool` holds, ascending: an `i64` vector whose length data decides.
pub(super) fn positions(cx: &mut NodeContext<'_>, truths: Value) -> Result<Value, OpError> {
    let length = cx.b.shape(truths)?[0].clone();
    let marks = cx.b.cast(truths, DType::I64)?;
    let count = cx.b.reduce(ReduceOp::Sum, marks, &[0], false)?;
    let places = cx.b.cumulate(ReduceOp::Sum, marks, 0, true, false)?;
    // What is not marked goes to a place outside, where nothing is written.
    let places = cx.b.map(&[marks, places], |e| {
        let (mark, place, zero, outside) = (e.arg(0), e.arg(1), int(e, 0), e.dim(&length));
        let marked = e.gt(mark, zero);
        Ok(e.select(marked, place, outside))
    })?;
    let all = std::slice::from_ref(&length);
    let zeros = cx.b.map_to(all, &[], |e| Ok(int(e, 0)))?;
    let numbers = cx.b.map_to(all, &[], |e| Ok(e.index(0)))?;
    let packed = cx.b.scatter(ScatterOp::Set, zeros, numbers, &[places], &[Coord::Input(0)])?;
    let count = cx.bind_one(count, &length)?;
    Ok(cx.b.slice_axis(packed, 0, &Dim::ZERO, &count, 1)?)
}
