//! Shapes: reading them and changing them without moving elements, and repeating along axes.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::{Shape, Value};

use super::{Operator, data_sizes};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Shape", &[1, 13, 15, 19, 21, 23, 24, 25], (1, 1), shape),
    Operator::onnx("Size", &[1, 13, 19, 21, 23, 24, 25], (1, 1), |cx| {
        let x = cx.input(0)?;
        let count = Dim::product(&cx.b.shape(x)?)?;
        Ok(vec![cx.b.dim_value(&count)])
    }),
    Operator::onnx("Reshape", &[1, 5, 13, 14, 19, 21, 23, 24, 25], (1, 2), reshape),
    Operator::onnx("Flatten", &[1, 9, 11, 13, 21, 23, 24, 25], (1, 1), |cx| {
        let (x, axis) = (cx.input(0)?, cx.int("axis", 1));
        Ok(vec![cx.b.flatten(x, axis)?])
    }),
    Operator::onnx("Squeeze", &[1, 11, 13, 21, 23, 24, 25], (1, 2), squeeze),
    Operator::onnx("Unsqueeze", &[1, 11, 13, 21, 23, 24, 25], (1, 2), |cx| {
        let x = cx.input(0)?;
        match axes(cx)? {
            Axes::Known(axes) => Ok(vec![cx.b.unsqueeze(x, &axes)?]),
            Axes::Data(axes, count) => Ok(vec![data_sizes::unsqueezed(cx, x, axes, count)?]),
            Axes::Absent => cx.invalid("has no axes"),
        }
    }),
    Operator::onnx("Transpose", &[1, 13, 21, 23, 24, 25], (1, 1), transpose),
    Operator::onnx("Expand", &[8, 13], (2, 2), |cx| {
        let (x, shape) = (cx.input(0)?, cx.input(1)?);
        if let Some(shape) = cx.b.known_dims(shape) {
            return Ok(vec![cx.b.expand(x, &shape)?]);
        }
        let (shape, count) = cx.vector(1)?;
        Ok(vec![data_sizes::expanded(cx, x, shape, count)?])
    }),
    Operator::onnx("Tile", &[1, 6, 13], (2, 3), tile),
];

/// The axes that an operator works on.
pub(super) enum Axes {
    /// The node has none.
    Absent,
    /// These.
    Known(Vec<i64>),
    /// Those in an `i64` vector of this length.
    Data(Value, usize),
}

/// The axes of the second input, or of the attribute in old versions.
pub(super) fn axes(cx: &mut NodeContext<'_>) -> Result<Axes, OpError> {
    match cx.optional(1) {
        Some(axes) => match cx.b.known_i64s(axes) {
            Some(known) => Ok(Axes::Known(known)),
            None => {
                let (axes, count) = cx.vector(1)?;
                Ok(Axes::Data(axes, count))
            }
        },
        None => Ok(cx.ints("axes").map_or(Axes::Absent, |axes| Axes::Known(axes.to_vec()))),
    }
}

/// From opset 15 on a part of the shape, as Python's slices have it.
fn shape(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let rank = shape.len() as i64;
    let position = |p: i64| (if p < 0 { p.saturating_add(rank) } else { p }).clamp(0, rank) as usize;
    let (start, end) = (position(cx.int("start", 0)), position(cx.int_opt("end").unwrap_or(rank)));
    let part = shape.get(start..end).unwrap_or_default();
    Ok(vec![cx.b.dim_values(part)?])
}

/// The target shape is an attribute before opset 5.
fn reshape(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let keeps_zeros = cx.flag("allowzero", false);
    let from = cx.b.shape(x)?;
    let known = cx.optional(1).filter(|_| cx.version >= 5).map(|shape| cx.b.known_dims(shape));
    let target: Vec<Dim> = match known {
        None => cx.ints("shape").unwrap_or_default().iter().map(|&d| Dim::from(d)).collect(),
        Some(Some(target)) => target,
        Some(None) => {
            let (target, count) = cx.vector(1)?;
            data_sizes::reshaped(cx, &from, target, count, keeps_zeros)?
        }
    };
    let mut to = Shape::new();
    let mut inferred = None;
    for (i, dim) in target.iter().enumerate() {
        if *dim == 0 && !keeps_zeros {
            let Some(same) = from.get(i) else {
                return cx.invalid(format!("dimension {i} is to be kept and the input has {} dimensions", from.len()));
            };
            to.push(same.clone());
        } else if *dim == -1 {
            if inferred.replace(i).is_some() {
                return cx.invalid("two dimensions are -1");
            }
            to.push(Dim::ONE);
        } else if dim.as_const().is_some_and(|d| d < 0) {
            return cx.invalid(format!("dimension {i} is negative"));
        } else {
            to.push(dim.clone());
        }
    }
    if let Some(i) = inferred {
        to[i] = missing_factor(cx, &from, &to)?;
    }
    Ok(vec![cx.b.reshape(x, &to)?])
}

/// The number of elements of `from` over that of `rest`.
fn missing_factor(cx: &NodeContext<'_>, from: &[Dim], rest: &[Dim]) -> Result<Dim, OpError> {
    let (total, known) = (Dim::product(from)?, Dim::product(rest)?);
    if known == 0 {
        return Ok(Dim::ZERO);
    }
    if let Some(quotient) = total.exact_div(&known) {
        return Ok(quotient);
    }
    let (total, known) = (cx.b.graph.rewrite_dim(&total), cx.b.graph.rewrite_dim(&known));
    match total.exact_div(&known) {
        Some(quotient) => Ok(quotient),
        None if total.as_const().is_some() && known.as_const().is_some() => {
            let (a, b) = (cx.b.graph.shape_text(from), cx.b.graph.shape_text(rest));
            cx.invalid(format!("the elements of {a} are no multiple of those of {b}"))
        }
        None => Ok(total.floor_div(&known)?),
    }
}

/// Without axes, all dimensions that are 1.
fn squeeze(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let axes = match axes(cx)? {
        Axes::Known(axes) => axes,
        Axes::Data(axes, count) => return Ok(vec![data_sizes::squeezed(cx, x, axes, count)?]),
        Axes::Absent => {
            let shape = cx.b.shape(x)?;
            (0..shape.len()).filter(|&i| shape[i] == 1).map(|i| i as i64).collect()
        }
    };
    let x = if cx.b.region == cx.b.graph.body() { x } else { first_of(cx, x, &axes)? };
    Ok(vec![cx.b.squeeze(x, &axes)?])
}

/// In a branch or a loop a size that is squeezed away need not be 1 in runs that do not come there: the first element
/// along it, with a test that it is the only one.
fn first_of(cx: &mut NodeContext<'_>, mut x: Value, axes: &[i64]) -> Result<Value, OpError> {
    for &axis in axes {
        let shape = cx.b.shape(x)?;
        let size = shape[cx.b.axis(axis, shape.len())?].clone();
        if size.as_const().is_none() && !cx.b.graph.same_dim(&size, &Dim::ONE) {
            let size = cx.b.dim_value(&size);
            cx.b.require(size, 1)?;
            x = cx.b.slice_axis(x, axis, &Dim::ZERO, &Dim::ONE, 1)?;
        }
    }
    Ok(x)
}

/// Reverses the axes by default.
fn transpose(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let rank = cx.b.rank(x)?;
    let perm: Vec<usize> = match cx.ints("perm") {
        None => (0..rank).rev().collect(),
        Some(perm) => perm.iter().map(|&p| cx.b.axis(p, rank)).collect::<Result<_, _>>()?,
    };
    Ok(vec![cx.b.transpose(x, &perm)?])
}

/// In opset 1 one axis is repeated, from opset 6 on each.
fn tile(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let rank = cx.b.rank(x)?;
    let repeats = if cx.version < 6 {
        let (tiles, axis) = (cx.sizes(1)?, cx.known_i64(2)?);
        let [tiles] = &tiles[..] else { return cx.invalid("`tiles` is no scalar") };
        let mut repeats = vec![Dim::ONE; rank];
        repeats[cx.b.axis(axis, rank)?] = tiles.clone();
        repeats
    } else {
        cx.sizes(1)?
    };
    if repeats.len() != rank {
        return cx.invalid(format!("{} repeats for {rank} dimensions", repeats.len()));
    }
    Ok(vec![repeat(cx, x, &repeats)?])
}

/// Repeats whole axes: each repeated axis gets a leading axis of 1, which is broadcast and merged.
pub(super) fn repeat(cx: &mut NodeContext<'_>, x: Value, repeats: &[Dim]) -> Result<Value, OpError> {
    let from = cx.b.shape(x)?;
    let (mut split, mut spread, mut merged) = (Shape::new(), Shape::new(), Shape::new());
    for (size, times) in from.iter().zip(repeats) {
        if *times != 1 {
            split.push(Dim::ONE);
            spread.push(times.clone());
        }
        split.push(size.clone());
        spread.push(size.clone());
        merged.push((size * times)?);
    }
    let x = cx.b.reshape(x, &split)?;
    let x = cx.b.broadcast(x, &spread)?;
    Ok(cx.b.reshape(x, &merged)?)
}
