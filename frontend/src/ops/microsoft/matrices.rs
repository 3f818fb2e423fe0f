//! Inverses, distances, products of complex numbers, and Fourier transforms over the last axes.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::super::Operator;
use super::super::math::compute_type;
use super::super::signal::transformed;
use super::row;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("Inverse", (1, 1), inverse),
    row("CDist", (2, 2), distances),
    row("ComplexMul", (2, 2), |cx| complex_product(cx, false)),
    row("ComplexMulConj", (2, 2), |cx| complex_product(cx, true)),
    row("Rfft", (1, 1), |cx| fourier(cx, false))
        .limited("`onesided` 1, `normalized` 0; the sizes of the transformed axes are known."),
    row("Irfft", (1, 1), |cx| fourier(cx, true))
        .limited("`onesided` 1, `normalized` 0; the sizes of the transformed axes are known."),
];

/// The inverses of the matrices of the last two axes.
fn inverse(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let [batch @ .., rows, columns] = &shape[..] else { return cx.invalid("an input that is no matrix") };
    if cx.b.graph.assume_equal(rows, columns).is_err() {
        return cx.invalid(format!("the inverse of a matrix of shape {}", cx.b.graph.shape_text(&shape)));
    }
    if !dtype.is_float() {
        return cx.invalid(format!("the inverse of a matrix of {dtype}"));
    }
    let wide = compute_type(dtype);
    let (n, count) = (rows.clone(), Dim::product(batch)?);
    let flat = cx.b.reshape(x, &[count, n.clone(), n.clone()])?;
    let matrices = cx.b.cast(flat, wide)?;
    let unit = cx.b.map_to(&[Dim::ONE, n.clone(), n.clone()], &[], |e| {
        let (row, column, zero, one) = (e.index(1), e.index(2), e.number(wide, 0.0)?, e.number(wide, 1.0)?);
        let diagonal = e.eq(row, column);
        Ok(e.select(diagonal, one, zero))
    })?;
    let units = cx.b.broadcast(unit, &cx.b.shape(matrices)?)?;
    let both = cx.b.concat(&[matrices, units], 2)?;
    let spec = LoopSpec {
        trip_count: cx.b.dim_value(&n),
        condition: cx.b.scalar_bool(true),
        carried: vec![(both, cx.b.ty(both).clone())],
        captures: vec![],
        iterations: Some(n.clone()),
    };
    let results = cx.b.loop_(&spec, |b, step, carried, _| {
        let next = eliminate(b, carried[0], step, wide)?;
        Ok::<_, BuildError>((b.scalar_bool(true), vec![next], vec![]))
    })?;
    let y = cx.b.slice_axis(results[0], 2, &n, &n, 1)?;
    let y = cx.b.reshape(y, &shape)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// A step of the elimination: of the rows `[B, N, M]` from number `step` on, the one with the greatest element in that
/// column moves up to it, is divided by that element and taken off all others.
fn eliminate(b: &mut Builder<'_>, x: Value, step: Value, dtype: DType) -> Result<Value, BuildError> {
    let shape = b.shape(x)?;
    let [batch, rows, columns] = &shape[..] else { return Err(BuildError::Invalid("no matrices".into())) };
    let (each, column) = ([batch.clone(), rows.clone()], [batch.clone(), rows.clone(), Dim::ONE]);
    let candidates = b.gather(x, &[step], &[Coord::Axis(0), Coord::Axis(1), Coord::Input(0)], &each)?;
    let sizes = b.map(&[candidates, step], |e| {
        let (x, step, row, low) = (e.arg(0), e.arg(1), e.index(1), e.number(dtype, -1.0)?);
        let (size, passed) = (e.abs(x), e.lt(row, step));
        Ok(e.select(passed, low, size))
    })?;
    let pivot = b.reduce(ReduceOp::ArgMax { last: false }, sizes, &[1], true)?;
    let source = b.map_to(&each, &[pivot, step], |e| {
        let (pivot, step, row) = (e.arg(0), e.arg(1), e.index(1));
        let (is_step, is_pivot) = (e.eq(row, step), e.eq(row, pivot));
        let other = e.select(is_pivot, step, row);
        Ok(e.select(is_step, pivot, other))
    })?;
    let source = b.unsqueeze(source, &[2])?;
    let swapped = b.gather(x, &[source], &[Coord::Axis(0), Coord::Input(0), Coord::Axis(2)], &shape)?;
    let factors = b.gather(swapped, &[step], &[Coord::Axis(0), Coord::Axis(1), Coord::Input(0)], &column)?;
    let top = [batch.clone(), Dim::ONE, columns.clone()];
    let first = b.gather(swapped, &[step], &[Coord::Axis(0), Coord::Input(0), Coord::Axis(2)], &top)?;
    let corner = [batch.clone(), Dim::ONE, Dim::ONE];
    let divisor = b.gather(first, &[step], &[Coord::Axis(0), Coord::Axis(1), Coord::Input(0)], &corner)?;
    let first = b.div(first, divisor)?;
    b.map(&[swapped, factors, first, step], |e| {
        let (x, factor, first, step, row) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3), e.index(1));
        let (taken, here) = (e.mul(factor, first), e.eq(row, step));
        let rest = e.sub(x, taken);
        Ok(e.select(here, first, rest))
    })
}

/// The distance of each row of the first matrix from each of the second: `|a|^2 + |b|^2 - 2ab`, or its root.
fn distances(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if cx.b.rank(a)? != 2 || cx.b.rank(b)? != 2 {
        return cx.invalid("distances between rows of what are no matrices");
    }
    let root = match cx.text("metric")?.unwrap_or("sqeuclidean") {
        "sqeuclidean" => false,
        "euclidean" => true,
        other => return cx.invalid(format!("attribute `metric` is `{other}`")),
    };
    let dtype = cx.b.dtype(a)?;
    let mut norms = Vec::new();
    for (x, other_axis) in [(a, 1), (b, 0)] {
        let squares = cx.b.mul(x, x)?;
        let sum = cx.b.reduce(ReduceOp::Sum, squares, &[1], false)?;
        norms.push(cx.b.unsqueeze(sum, &[other_axis])?);
    }
    let turned = cx.b.transpose(b, &[1, 0])?;
    let products = cx.b.matmul(a, turned, dtype)?;
    Ok(vec![cx.b.map(&[products, norms[0], norms[1]], |e| {
        let (product, a, b) = (e.arg(0), e.arg(1), e.arg(2));
        let (two, zero) = (e.number(dtype, 2.0)?, e.number(dtype, 0.0)?);
        let (sum, twice) = (e.add(a, b), e.mul(product, two));
        let difference = e.sub(sum, twice);
        // Rounding takes equal rows below 0.
        let square = e.max(difference, zero);
        Ok(if root { e.sqrt(square) } else { square })
    })?])
}

/// Products of numbers whose real and imaginary parts are the last axis; the second may be conjugated.
fn complex_product(cx: &mut NodeContext<'_>, conjugate: bool) -> OpResult {
    let mut parts = Vec::new();
    for n in 0..2 {
        let x = cx.input(n)?;
        if cx.b.shape(x)?.last().is_none_or(|d| *d != 2) {
            return cx.invalid("the last axis holds no pairs");
        }
        parts.push(cx.b.slice_axis(x, -1, &Dim::ZERO, &Dim::ONE, 1)?);
        parts.push(cx.b.slice_axis(x, -1, &Dim::ONE, &Dim::ONE, 1)?);
    }
    let mut result = Vec::new();
    for imaginary in [false, true] {
        result.push(cx.b.map(&parts, |e| {
            let (a, b, c, d) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
            let d = if conjugate { e.neg(d) } else { d };
            let (x, y) = if imaginary { (e.mul(a, d), e.mul(b, c)) } else { (e.mul(a, c), e.mul(b, d)) };
            Ok(if imaginary { e.add(x, y) } else { e.sub(x, y) })
        })?);
    }
    Ok(vec![cx.b.concat(&result, -1)?])
}

/// The transform of real signals over the last `signal_ndim` axes to one half of the spectrum, or back from it.
fn fourier(cx: &mut NodeContext<'_>, back: bool) -> OpResult {
    let mut x = cx.input(0)?;
    if cx.flag("normalized", false) || !cx.flag("onesided", true) {
        return cx.unsupported("transforms that are normalized or of both sides");
    }
    if !back {
        x = cx.b.unsqueeze(x, &[-1])?;
    }
    let (rank, count) = (cx.b.rank(x)?, cx.int("signal_ndim", 1));
    if !(1..=3).contains(&count) || rank <= count as usize {
        return cx.invalid(format!("a transform over {count} axes of an input of rank {rank}"));
    }
    let axes: Vec<usize> = (rank - 1 - count as usize..rank - 1).collect();
    let length = |cx: &NodeContext<'_>, x: Value, axis: usize| cx.b.shape(x).map(|s| s[axis].as_const());
    // The axis whose spectrum is halved is the last: transformed first, or last on the way back.
    let order: Vec<usize> = if back { axes.clone() } else { axes.iter().rev().copied().collect() };
    for axis in order {
        let halved = axis == rank - 2;
        let Some(size) = length(cx, x, axis)? else {
            return cx.unsupported("a signal whose length is not known");
        };
        let whole = if back && halved { 2 * (size - 1) } else { size };
        x = transformed(&mut cx.b, x, axis, whole, (back, halved))?;
    }
    if back {
        let shape: Shape = cx.b.shape(x)?[..rank - 1].into();
        x = cx.b.reshape(x, &shape)?;
    }
    Ok(vec![x])
}
