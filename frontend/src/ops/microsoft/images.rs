//! Operators on images: crops that are resized, normalization over groups of channels, windows as an axis.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::Coord;
use onnxc_ir::tensor::{Shape, Value};

use super::super::Operator;
use super::super::activations::swish;
use super::super::math::map_wide;
use super::super::norm::group_normalized;
use super::super::sample::{Neighbour, Outside, linear_neighbours, weighted_gather};
use super::layout::{channels_first, channels_last};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("CropAndResize", (4, 4), crop_and_resize),
    row("GroupNorm", (3, 3), |cx| {
        let x = cx.input(0)?;
        Ok(vec![group_norm(cx, x)?])
    }),
    row("SkipGroupNorm", (4, 5), |cx| {
        let (x, mut skip) = (cx.input(0)?, cx.input(3)?);
        let (rank, sizes) = (cx.b.rank(x)?, cx.b.shape(skip)?);
        if sizes.len() == 2 && rank > 2 {
            // One number per image and channel.
            let inner = [sizes[1].clone()];
            let ones = std::iter::repeat_n(Dim::ONE, rank - 2);
            let last = cx.flag("channels_last", true);
            let spread: Shape = match last {
                true => sizes[..1].iter().cloned().chain(ones).chain(inner).collect(),
                false => sizes[..1].iter().cloned().chain(inner).chain(ones).collect(),
            };
            skip = cx.b.reshape(skip, &spread)?;
        }
        let mut sum = cx.b.add(x, skip)?;
        if let Some(bias) = cx.optional(4) {
            let bias = match cx.flag("channels_last", true) {
                true => bias,
                false => super::super::conv::along_channels(cx, bias, sum)?,
            };
            sum = cx.b.add(sum, bias)?;
        }
        Ok(vec![group_norm(cx, sum)?, sum])
    }),
    row("UnfoldTensor", (1, 1), unfold),
];

/// The tensor normalised over groups of channels, and the activation that is asked for.
fn group_norm(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let (gamma, beta, last) = (cx.input(1)?, cx.input(2)?, cx.flag("channels_last", true));
    let (groups, dtype) = (cx.int("groups", 0), cx.b.dtype(x)?);
    let x = if last { channels_first(cx, x)? } else { x };
    let mut y = group_normalized(cx, x, (gamma, beta), groups)?;
    match cx.int("activation", 0) {
        0 => {}
        1 => y = map_wide(cx, &[y], |e, t, x| swish(e, t, x[0], 1.0))?,
        other => return cx.invalid(format!("attribute `activation` is {other}")),
    }
    let y = cx.b.cast(y, dtype)?;
    if last { channels_last(cx, y) } else { Ok(y) }
}

/// Boxes of images, in fractions of their size, sampled at evenly spread positions from edge to edge.
fn crop_and_resize(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, rois, batch) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let crop = cx.sizes(3)?;
    if shape.len() != 4 || cx.b.rank(rois)? != 2 || crop.len() != 2 {
        return cx.invalid("boxes are of images with two spatial dimensions");
    }
    let nearest = match cx.text("mode")?.unwrap_or("bilinear") {
        "bilinear" => false,
        "nearest" => true,
        other => return cx.invalid(format!("attribute `mode` is `{other}`")),
    };
    let count = cx.b.shape(rois)?[0].clone();
    let each = [count.clone(), Dim::ONE, Dim::ONE, Dim::ONE];
    let (mut dims, mut insides) = (Vec::new(), Vec::new());
    for d in 0..2 {
        let mut corners = Vec::new();
        for n in [d, d + 2] {
            let corner = cx.b.slice_axis(rois, 1, &Dim::from(n as i64), &Dim::ONE, 1)?;
            corners.push(cx.b.reshape(corner, &each)?);
        }
        let mut places = each.clone();
        places[2 + d] = crop[d].clone();
        let (size, wanted) = (shape[2 + d].clone(), crop[d].clone());
        let position = cx.b.map_to(&places, &corners, |e| {
            let (start, end, at) = (e.arg(0), e.arg(1), e.index(2 + d as u32));
            let (one, half, single) = (e.number(dtype, 1.0)?, e.number(dtype, 0.5)?, e.dim(&Dim::ONE));
            let (size, wanted) = (e.dim(&size), e.dim(&wanted));
            let (room, last) = (e.sub(size, single), e.sub(wanted, single));
            let (many, is_last) = (e.gt(wanted, single), e.eq(at, last));
            let (room, steps, at) = (e.cast(dtype, room), e.cast(dtype, last), e.cast(dtype, at));
            let divisor = e.max(steps, one);
            let span = e.sub(end, start);
            let scaled = e.mul(span, room);
            let step = e.div(scaled, divisor);
            let (first, offset, edge) = (e.mul(start, room), e.mul(at, step), e.mul(end, room));
            let between = e.add(first, offset);
            let spread = e.select(is_last, edge, between);
            let sum = e.add(start, end);
            let middle = e.mul(sum, half);
            let middle = e.mul(middle, room);
            Ok(e.select(many, spread, middle))
        })?;
        insides.push(cx.b.map(&[position], |e| {
            let (x, zero, size, one) = (e.arg(0), e.number(dtype, 0.0)?, e.dim(&shape[2 + d]), e.dim(&Dim::ONE));
            let last = e.sub(size, one);
            let last = e.cast(dtype, last);
            let (from, to) = (e.ge(x, zero), e.le(x, last));
            Ok(e.and(from, to))
        })?);
        dims.push(if nearest {
            let index = cx.b.map(&[position], |e| {
                let (x, half) = (e.arg(0), e.number(dtype, 0.5)?);
                let above = e.add(x, half);
                let whole = e.floor(above);
                Ok(e.cast(DType::I64, whole))
            })?;
            vec![Neighbour { index, weight: None }]
        } else {
            linear_neighbours(&mut cx.b, position, &shape[2 + d], Outside::Border)?
        });
    }
    let batch = cx.b.cast(batch, DType::I64)?;
    let batch = cx.b.reshape(batch, &each)?;
    let space = [count, shape[1].clone(), crop[0].clone(), crop[1].clone()];
    let leading = ([Coord::Input(0), Coord::Axis(1)], [batch]);
    let sampled = weighted_gather(&mut cx.b, x, (&leading.0, &leading.1), &dims, &space)?;
    let outside = f64::from(cx.float("extrapolation_value", 0.0));
    Ok(vec![cx.b.map(&[sampled, insides[0], insides[1]], |e| {
        let (y, row, column, outside) = (e.arg(0), e.arg(1), e.arg(2), e.number(dtype, outside)?);
        let inside = e.and(row, column);
        Ok(e.select(inside, y, outside))
    })?])
}

/// The windows of an axis: their number takes its place, their elements are a new last axis.
fn unfold(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let mut shape = cx.b.shape(x)?;
    let axis = cx.b.axis(cx.int("dim", -1), shape.len())?;
    let (size, step) = (cx.int("size", 0), cx.int("step", 1));
    if size < 1 || step < 1 {
        return cx.invalid(format!("windows of {size} elements with step {step}"));
    }
    let rest = (&shape[axis] - &Dim::from(size))?;
    let windows = (&rest.floor_div(&Dim::from(step))? + &Dim::ONE)?;
    let rank = shape.len();
    let mut places: Shape = std::iter::repeat_n(Dim::ONE, rank + 1).collect();
    (places[axis], places[rank]) = (windows.clone(), Dim::from(size));
    let index = cx.b.map_to(&places, &[], |e| {
        let (window, within, step) = (e.index(axis as u32), e.index(rank as u32), e.dim(&Dim::from(step)));
        let first = e.mul(window, step);
        Ok(e.add(first, within))
    })?;
    let coords: Vec<Coord> =
        (0..rank).map(|i| if i == axis { Coord::Input(0) } else { Coord::Axis(i as u32) }).collect();
    shape[axis] = windows;
    shape.push(Dim::from(size));
    Ok(vec![cx.b.gather(x, &[index], &coords, &shape)?])
}
