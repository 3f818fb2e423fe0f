//! Moving elements around by their position: joining, splitting, slicing, padding, blocks of space and depth.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::Coord;
use onnxc_ir::tensor::{Shape, Value};

use super::{Operator, data_sizes};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Concat", &[1, 4, 11, 13], (1, usize::MAX), concat),
    Operator::onnx("Split", &[1, 2, 11, 13, 18], (1, 2), split),
    Operator::onnx("Slice", &[1, 10, 11, 13], (1, 5), slice),
    Operator::onnx("Pad", &[1, 2, 11, 13, 18, 19, 21, 23, 24, 25], (1, 4), pad),
    Operator::onnx("CenterCropPad", &[18], (2, 2), center_crop_pad),
    Operator::onnx("DepthToSpace", &[1, 11, 13, 28], (1, 1), depth_to_space),
    Operator::onnx("SpaceToDepth", &[1, 13, 28], (1, 1), space_to_depth),
];

/// The axis is 1 by default in opset 1 and required from opset 4 on.
fn concat(cx: &mut NodeContext<'_>) -> OpResult {
    let inputs = cx.all_inputs();
    let axis = match cx.int_opt("axis") {
        Some(axis) => axis,
        None if cx.version < 4 => 1,
        None => return cx.invalid("attribute `axis` is missing"),
    };
    Ok(vec![cx.b.concat(&inputs, axis)?])
}

/// Sizes come as an attribute, an input, a number of parts, or follow from the number of outputs.
fn split(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let axis = cx.b.axis(cx.int("axis", 0), shape.len())?;
    let size = &shape[axis];
    let sizes: Vec<Dim> = match (cx.optional(1), cx.ints("split")) {
        (Some(_), _) => cx.sizes_up_to(1, size)?,
        (None, Some(sizes)) => sizes.iter().map(|&d| Dim::from(d)).collect(),
        (None, None) => {
            let parts = cx.int("num_outputs", cx.output_count() as i64);
            if parts < 1 || parts > cx.output_count().max(1) as i64 {
                return cx.invalid(format!("{parts} parts for {} outputs", cx.output_count()));
            }
            even_parts(cx, size, parts)?
        }
    };
    if sizes.len() != cx.output_count() {
        return cx.invalid(format!("{} sizes for {} outputs", sizes.len(), cx.output_count()));
    }
    let mut total = Dim::ZERO;
    let mut outputs = Vec::with_capacity(sizes.len());
    for part in &sizes {
        outputs.push(cx.b.slice_axis(x, axis as i64, &total, part, 1)?);
        total = (&total + part)?;
    }
    if cx.b.graph.assume_equal(&total, size).is_err() {
        return cx.invalid("the sizes do not add up to the dimension");
    }
    Ok(outputs)
}

/// Equal parts; from opset 18 on the last may be smaller.
fn even_parts(cx: &NodeContext<'_>, size: &Dim, parts: i64) -> Result<Vec<Dim>, OpError> {
    let count = Dim::from(parts);
    if let Some(part) = size.exact_div(&count) {
        return Ok(vec![part; parts as usize]);
    }
    if cx.version < 18 && size.as_const().is_some() {
        return cx.invalid(format!("a dimension does not split into {parts} equal parts"));
    }
    let part = size.ceil_div(&count)?;
    let mut sizes = vec![part.clone(); parts as usize];
    sizes[parts as usize - 1] = (size - &(&part * &Dim::from(parts - 1))?)?;
    Ok(sizes)
}

/// Positions are attributes in opset 1, inputs from opset 10 on.
pub(super) fn slice(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let rank = cx.b.rank(x)?;
    let constants = |values: &[i64]| values.iter().map(|&v| Dim::from(v)).collect::<Vec<_>>();
    let known = |n: usize| cx.optional(n).is_none_or(|v| cx.b.known_dims(v).is_some());
    let constant = |n: usize| cx.optional(n).is_none_or(|v| cx.b.known_i64s(v).is_some());
    if cx.version >= 10 && !(known(1) && known(2) && constant(3) && constant(4)) {
        return slice_by_data(cx, x, rank);
    }
    let (starts, ends, axes, steps) = if cx.version < 10 {
        let (Some(starts), Some(ends)) = (cx.ints("starts"), cx.ints("ends")) else {
            return cx.invalid("attribute `starts` or `ends` is missing");
        };
        (constants(starts), constants(ends), cx.ints("axes").map(<[i64]>::to_vec), None)
    } else {
        let axes = cx.optional(3).map(|_| cx.known_i64s(3)).transpose()?;
        let steps = cx.optional(4).map(|_| cx.known_i64s(4)).transpose()?;
        (cx.known_dims(1)?, cx.known_dims(2)?, axes, steps)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return cx.invalid("starts, ends, axes and steps have different lengths");
    }
    let mut seen = vec![false; rank];
    let mut y = x;
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.b.axis(axis, rank)?;
        if std::mem::replace(&mut seen[axis], true) {
            return cx.invalid(format!("axis {axis} is named twice"));
        }
        y = cx.b.slice_range(y, axis as i64, &starts[i], &ends[i], steps[i])?;
    }
    Ok(vec![y])
}

/// A slice of which data decides something: each axis is sliced by its start, end and step.
fn slice_by_data(cx: &mut NodeContext<'_>, x: Value, rank: usize) -> OpResult {
    let (mut starts, count) = cx.vector(1)?;
    let (mut ends, end_count) = cx.vector(2)?;
    let mut steps = match cx.optional(4) {
        Some(_) => cx.vector(4)?,
        None => (cx.b.i64s(&vec![1; count]), count),
    };
    let axes = match cx.optional(3) {
        Some(axes) => cx.b.known_i64s(axes),
        None => Some((0..count as i64).collect()),
    };
    let axes = match axes {
        Some(axes) => axes,
        None => {
            // Each axis has a start, end and step then; where none is named they take all of it.
            let (named, named_count) = cx.vector(3)?;
            if [named_count, end_count, steps.1] != [count; 3] {
                return cx.invalid("starts, ends, axes and steps have different lengths");
            }
            starts = data_sizes::by_axis(cx, named, starts, count, rank, 0)?;
            ends = data_sizes::by_axis(cx, named, ends, count, rank, i64::MAX)?;
            steps = (data_sizes::by_axis(cx, named, steps.0, count, rank, 1)?, count);
            (0..rank as i64).collect()
        }
    };
    if [end_count, steps.1] != [count; 2] {
        return cx.invalid("starts, ends, axes and steps have different lengths");
    }
    let mut y = x;
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.b.axis(axis, rank)?;
        let part = [cx.element(starts, i)?, cx.element(ends, i)?, cx.element(steps.0, i)?];
        y = data_sizes::slice_axis(cx, y, axis, part)?;
    }
    Ok(vec![y])
}

/// How far each dimension is padded, before and after.
struct Padding {
    lo: Vec<Dim>,
    hi: Vec<Dim>,
    /// Whether data decides it, and it may be negative.
    data: bool,
}

fn padding(cx: &mut NodeContext<'_>, rank: usize) -> Result<Padding, OpError> {
    let known = |n: usize| cx.optional(n).is_none_or(|v| cx.b.known_dims(v).is_some());
    if cx.version >= 11 && !(known(1) && known(3)) {
        return padding_by_data(cx, rank);
    }
    let amounts: Vec<Dim> = if cx.version < 11 {
        let name = if cx.version < 2 { "paddings" } else { "pads" };
        cx.ints(name).unwrap_or_default().iter().map(|&d| Dim::from(d)).collect()
    } else {
        cx.known_dims(1)?
    };
    let axes: Vec<i64> = match cx.optional(3) {
        Some(_) => cx.known_i64s(3)?,
        None => (0..rank as i64).collect(),
    };
    if amounts.len() != 2 * axes.len() {
        return cx.invalid(format!("{} amounts of padding for {} axes", amounts.len(), axes.len()));
    }
    let mut padding = Padding { lo: vec![Dim::ZERO; rank], hi: vec![Dim::ZERO; rank], data: false };
    for (i, &axis) in axes.iter().enumerate() {
        let axis = cx.b.axis(axis, rank)?;
        padding.lo[axis] = amounts[i].clone();
        padding.hi[axis] = amounts[axes.len() + i].clone();
    }
    Ok(padding)
}

/// Padding that data decides: at most as much is cut off as there is.
fn padding_by_data(cx: &mut NodeContext<'_>, rank: usize) -> Result<Padding, OpError> {
    let (amounts, count) = cx.vector(1)?;
    let half = count / 2;
    let axes = match cx.optional(3) {
        Some(_) => cx.vector(3)?,
        None => (cx.b.i64s(&(0..rank as i64).collect::<Vec<_>>()), rank),
    };
    if count != 2 * axes.1 {
        return cx.invalid(format!("{count} amounts of padding for {} axes", axes.1));
    }
    let mut ends = [Vec::new(), Vec::new()];
    for (i, end) in ends.iter_mut().enumerate() {
        let (from, length) = (Dim::from((i * half) as i64), Dim::from(half as i64));
        let part = cx.b.slice_axis(amounts, 0, &from, &length, 1)?;
        let by_axis = data_sizes::by_axis(cx, axes.0, part, half, rank, 0)?;
        let most = Dim::from(DEFAULT_HIGH);
        *end = cx.bind(by_axis, &(-&most)?, &most)?;
    }
    let [lo, hi] = ends;
    Ok(Padding { lo, hi, data: true })
}

pub(super) fn pad(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    let padding = padding(cx, rank)?;
    let mode = cx.text("mode")?.unwrap_or("constant");
    if mode != "constant" {
        return Ok(vec![pad_from_inside(cx, x, mode, &padding)?]);
    }
    let fill = match cx.optional(2) {
        Some(fill) => cx.b.reshape(fill, &[])?,
        None => match cx.float_opt("value").filter(|&v| cx.version < 11 && v != 0.0) {
            Some(value) => cx.b.number(dtype, value.into())?,
            None => zero(cx, dtype)?,
        },
    };
    if padding.data {
        return Ok(vec![data_sizes::padded(cx, x, fill, &padding.lo, &padding.hi)?]);
    }
    Ok(vec![cx.b.pad(x, fill, &padding.lo, &padding.hi)?])
}

fn zero(cx: &mut NodeContext<'_>, dtype: DType) -> Result<Value, OpError> {
    if matches!(dtype, DType::C64 | DType::C128) {
        return cx.unsupported(format!("padding of {dtype}"));
    }
    Ok(cx.b.scalar(Scalar::zero(dtype)))
}

/// Padding with elements of the tensor: each padded axis is read at computed positions.
fn pad_from_inside(cx: &mut NodeContext<'_>, x: Value, mode: &str, padding: &Padding) -> Result<Value, OpError> {
    let from = cx.b.shape(x)?;
    let (mut to, mut coords, mut indices) = (Shape::new(), Vec::new(), Vec::new());
    for (axis, size) in from.iter().enumerate() {
        let (lo, hi) = (&padding.lo[axis], &padding.hi[axis]);
        let padded = (&(size + lo)? + hi)?;
        if *lo == 0 && *hi == 0 {
            coords.push(Coord::Axis(axis as u32));
        } else {
            coords.push(Coord::Input(indices.len() as u32));
            let index = position_inside(cx, mode, size, lo, &padded)?;
            let trailing: Vec<i64> = (1..(from.len() - axis) as i64).collect();
            indices.push(cx.b.unsqueeze(index, &trailing)?);
        }
        to.push(padded);
    }
    Ok(cx.b.gather(x, &indices, &coords, &to)?)
}

/// For each position of a padded axis, the position in the tensor whose element stands there.
fn position_inside(cx: &mut NodeContext<'_>, mode: &str, size: &Dim, lo: &Dim, padded: &Dim) -> Result<Value, OpError> {
    if !matches!(mode, "edge" | "reflect" | "wrap") {
        return cx.invalid(format!("mode `{mode}`"));
    }
    let last = (size - &Dim::ONE)?;
    let period = (&last + &last)?;
    Ok(cx.b.map_to(std::slice::from_ref(padded), &[], |e| {
        let (at, lo) = (e.index(0), e.dim(lo));
        let at = e.sub(at, lo);
        Ok(match mode {
            "edge" => {
                let (zero, last) = (e.dim(&Dim::ZERO), e.dim(&last));
                let at = e.max(at, zero);
                e.min(at, last)
            }
            "wrap" => {
                let size = e.dim(size);
                e.modulo(at, size)
            }
            // One period runs to the last element and back, without repeating either end.
            _ => {
                let (last, period) = (e.dim(&last), e.dim(&period));
                let at = e.modulo(at, period);
                let (back, beyond) = (e.sub(period, at), e.gt(at, last));
                e.select(beyond, back, at)
            }
        })
    })?)
}

/// Crops or pads by equal amounts at both ends; an odd element goes to the end.
fn center_crop_pad(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let targets = cx.sizes(1)?;
    let axes: Vec<i64> = match cx.ints("axes") {
        Some(axes) => axes.to_vec(),
        None => (0..shape.len() as i64).collect(),
    };
    if axes.len() != targets.len() {
        return cx.invalid(format!("{} sizes for {} axes", targets.len(), axes.len()));
    }
    let two = Dim::from(2);
    let mut padding = Padding { lo: vec![Dim::ZERO; shape.len()], hi: vec![Dim::ZERO; shape.len()], data: false };
    let mut y = x;
    for (&axis, target) in axes.iter().zip(&targets) {
        let axis = cx.b.axis(axis, shape.len())?;
        let size = &shape[axis];
        let graph = &*cx.b.graph;
        let excess = graph.greater_dim(&(size - target)?, &Dim::ZERO)?;
        let missing = graph.greater_dim(&(target - size)?, &Dim::ZERO)?;
        let kept = graph.lesser_dim(size, target)?;
        padding.lo[axis] = missing.floor_div(&two)?;
        padding.hi[axis] = (&missing - &padding.lo[axis])?;
        y = cx.b.slice_axis(y, axis as i64, &excess.floor_div(&two)?, &kept, 1)?;
    }
    let fill = zero(cx, dtype)?;
    Ok(vec![cx.b.pad(y, fill, &padding.lo, &padding.hi)?])
}

/// The four dimensions of an image and the block's size.
fn blocks(cx: &NodeContext<'_>, x: Value) -> Result<([Dim; 4], i64), OpError> {
    let block = cx.int("blocksize", 0);
    if !(1..=1 << 15).contains(&block) {
        return cx.invalid(format!("block size {block}"));
    }
    match &cx.b.shape(x)?[..] {
        [n, c, h, w] => Ok(([n.clone(), c.clone(), h.clone(), w.clone()], block)),
        other => cx.invalid(format!("an input of {} dimensions instead of 4", other.len())),
    }
}

/// Whether depth is the outer part of the channels (`CRD`) or the inner one (`DCR`).
fn depth_first(cx: &NodeContext<'_>) -> Result<bool, OpError> {
    match cx.text("mode")? {
        None | Some("DCR") => Ok(false),
        Some("CRD") => Ok(true),
        Some(other) => cx.invalid(format!("mode `{other}`")),
    }
}

/// A quotient that a model promises to be exact.
fn quotient(cx: &NodeContext<'_>, size: &Dim, divisor: i64) -> Result<Dim, OpError> {
    let divisor = Dim::from(divisor);
    match size.exact_div(&divisor) {
        Some(quotient) => Ok(quotient),
        None if size.as_const().is_some() => cx.invalid("the block size does not divide a dimension"),
        None => Ok(size.floor_div(&divisor)?),
    }
}

fn depth_to_space(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let ([n, c, h, w], block) = blocks(cx, x)?;
    let (depth, b) = (quotient(cx, &c, block * block)?, Dim::from(block));
    let (split, perm) = if depth_first(cx)? {
        ([n.clone(), depth.clone(), b.clone(), b.clone(), h.clone(), w.clone()], [0, 1, 4, 2, 5, 3])
    } else {
        ([n.clone(), b.clone(), b.clone(), depth.clone(), h.clone(), w.clone()], [0, 3, 4, 1, 5, 2])
    };
    let x = cx.b.reshape(x, &split)?;
    let x = cx.b.transpose(x, &perm)?;
    Ok(vec![cx.b.reshape(x, &[n, depth, (&h * &b)?, (&w * &b)?])?])
}

fn space_to_depth(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let ([n, c, h, w], block) = blocks(cx, x)?;
    let (rows, columns, b) = (quotient(cx, &h, block)?, quotient(cx, &w, block)?, Dim::from(block));
    let x = cx.b.reshape(x, &[n.clone(), c.clone(), rows.clone(), b.clone(), columns.clone(), b.clone()])?;
    let perm = if depth_first(cx)? { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    let x = cx.b.transpose(x, &perm)?;
    Ok(vec![cx.b.reshape(x, &[n, (&c * &Dim::from(block * block))?, rows, columns])?])
}
