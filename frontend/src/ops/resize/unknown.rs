//! Resizing of an axis whose sizes, scale or crop only a run knows: positions and weights are computed there.
//!
//! The mathematics is that of [`super::super::resample`], over tensors instead of numbers.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Contract, Label, ReduceOp};

use super::super::resample::{AxisResize, Interpolation, Rounding, Transform};
use super::{Axis, Style, along, gather_axis, repeat};
use crate::import::{NodeContext, OpError};

/// Resizes an axis whose sizes only a run knows: positions and weights are computed there.
pub(super) fn resize_unknown(cx: &mut NodeContext<'_>, style: &Style, x: Value, axis: &Axis) -> Result<Value, OpError> {
    let factor = axis.scale.filter(|s| s.fract() == 0.0 && *s < 1e6).map(|s| s as i64);
    if let (Some(factor), Interpolation::Nearest(_)) = (factor, style.interpolation)
        && matches!(axis.transform, Transform::HalfPixel | Transform::Asymmetric)
    {
        // Whole scales repeat the same pattern, whatever the size.
        let probe = AxisResize {
            input: 3,
            output: 3 * factor,
            scale: factor as f64,
            transform: axis.transform,
            interpolation: style.interpolation,
            antialias: false,
            exclude_outside: false,
        };
        if probe.taps().repetition(3) == Some(factor) {
            return repeat(cx, x, axis.axis, factor);
        }
    }
    let size = [axis.output.clone()];
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    let scale = axis_scale(cx, axis)?;
    let mut inputs = vec![scale];
    inputs.extend(axis.data.crop.iter().flatten());
    let position = cx.b.map_to(&size, &inputs, |e| {
        let o = e.index(0);
        position(e, axis, o)
    })?;
    let gathered = match style.interpolation {
        Interpolation::Nearest(_) => true,
        Interpolation::Linear => !style.antialias && !style.exclude_outside,
        Interpolation::Cubic(_) => false,
    };
    if !gathered {
        let y = weigh_all(cx, style, x, axis, position, scale)?;
        return outside_of_crop(cx, y, axis, position);
    }
    let index = |cx: &mut NodeContext<'_>, rounding: Rounding| -> Result<Value, OpError> {
        Ok(cx.b.map(&[position], |e| {
            let x = e.arg(0);
            let half = e.number(DType::F64, 0.5)?;
            let nearest = match rounding {
                Rounding::Floor => e.floor(x),
                Rounding::Ceil => e.ceil(x),
                Rounding::PreferFloor => {
                    let below = e.sub(x, half);
                    e.ceil(below)
                }
                Rounding::PreferCeil => {
                    let above = e.add(x, half);
                    e.floor(above)
                }
            };
            Ok(e.cast(DType::I64, nearest))
        })?)
    };
    match style.interpolation {
        Interpolation::Nearest(rounding) => {
            let index = index(cx, rounding)?;
            let y = gather_axis(cx, x, axis.axis, index, &axis.output)?;
            outside_of_crop(cx, y, axis, position)
        }
        Interpolation::Linear => {
            // Indices beyond the border are clamped when they are used.
            let low = index(cx, Rounding::Floor)?;
            let high = cx.b.map(&[low], |e| {
                let (low, one) = (e.arg(0), e.dim(&Dim::ONE));
                Ok(e.add(low, one))
            })?;
            let weight = cx.b.map(&[position], |e| {
                let x = e.arg(0);
                let low = e.floor(x);
                let ratio = e.sub(x, low);
                Ok(e.cast(dtype, ratio))
            })?;
            let weight = cx.b.reshape(weight, &along(axis.axis, rank, axis.output.clone()))?;
            let low = gather_axis(cx, x, axis.axis, low, &axis.output)?;
            let high = gather_axis(cx, x, axis.axis, high, &axis.output)?;
            let y = cx.b.map(&[low, high, weight], |e| {
                let (low, high, weight) = (e.arg(0), e.arg(1), e.arg(2));
                let (one, difference) = (e.number(dtype, 1.0)?, e.mul(high, weight));
                let rest = e.sub(one, weight);
                let kept = e.mul(low, rest);
                Ok(e.add(kept, difference))
            })?;
            outside_of_crop(cx, y, axis, position)
        }
        Interpolation::Cubic(_) => unreachable!("cubics are weighed"),
    }
}

/// Output elements per input element, an `f64` scalar.
fn axis_scale(cx: &mut NodeContext<'_>, axis: &Axis) -> Result<Value, OpError> {
    if let Some(scale) = axis.data.scale {
        return Ok(scale);
    }
    if let Some(scale) = axis.scale {
        return Ok(cx.b.number(DType::F64, scale)?);
    }
    Ok(cx.b.map_to(&[], &[], |e| {
        let (input, output) = (e.dim(&axis.input), e.dim(&axis.output));
        let (input, output) = (e.cast(DType::F64, input), e.cast(DType::F64, output));
        Ok(e.div(output, input))
    })?)
}

/// Puts the value for the outside where a crop leaves the input.
fn outside_of_crop(cx: &mut NodeContext<'_>, y: Value, axis: &Axis, position: Value) -> Result<Value, OpError> {
    let Transform::Crop { outside, .. } = axis.transform else { return Ok(y) };
    let (rank, dtype) = (cx.b.rank(y)?, cx.b.dtype(y)?);
    let position = cx.b.reshape(position, &along(axis.axis, rank, axis.output.clone()))?;
    let last = (&axis.input - &Dim::ONE)?;
    Ok(cx.b.map(&[y, position], |e| {
        let (y, position, last) = (e.arg(0), e.arg(1), e.dim(&last));
        let (zero, last) = (e.number(DType::F64, 0.0)?, e.cast(DType::F64, last));
        let (before, after) = (e.lt(position, zero), e.gt(position, last));
        let (leaves, outside) = (e.or(before, after), e.number(dtype, outside)?);
        Ok(e.select(leaves, outside, y))
    })?)
}

/// A product with the matrix of all weights, which a run computes. The input is continued at both ends by its border, as
/// far as the kernel reaches.
fn weigh_all(
    cx: &mut NodeContext<'_>,
    style: &Style,
    x: Value,
    axis: &Axis,
    position: Value,
    scale: Value,
) -> Result<Value, OpError> {
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    let radius = if matches!(style.interpolation, Interpolation::Cubic(_)) { 2.0 } else { 1.0 };
    // The kernel is stretched only where elements are left out.
    let stretch = cx.b.map(&[scale], |e| {
        let (scale, one) = (e.arg(0), e.number(DType::F64, 1.0)?);
        Ok(if style.antialias { e.min(scale, one) } else { one })
    })?;
    let reach = cx.b.map(&[stretch], |e| {
        let (stretch, radius) = (e.arg(0), e.number(DType::F64, radius)?);
        let reach = e.div(radius, stretch);
        let reach = e.ceil(reach);
        Ok(e.cast(DType::I64, reach))
    })?;
    let reach = cx.bind_one(reach, &Dim::from(DEFAULT_HIGH))?;
    let padded = (&(&axis.input + &reach)? + &reach)?;
    let numbers = cx.b.map_to(std::slice::from_ref(&padded), &[], |e| {
        let (at, reach) = (e.index(0), e.dim(&reach));
        Ok(e.sub(at, reach))
    })?;
    let x = gather_axis(cx, x, axis.axis, numbers, &padded)?;
    let position = cx.b.unsqueeze(position, &[1])?;
    let weights = cx.b.map_to(&[axis.output.clone(), padded], &[position, stretch, numbers], |e| {
        let (position, stretch, number) = (e.arg(0), e.arg(1), e.arg(2));
        let at = e.cast(DType::F64, number);
        let distance = e.sub(at, position);
        let distance = e.mul(distance, stretch);
        let distance = e.abs(distance);
        let weight = kernel(e, style.interpolation, distance)?;
        if !style.exclude_outside {
            return Ok(weight);
        }
        let (zero, size, none) = (e.dim(&Dim::ZERO), e.dim(&axis.input), e.number(DType::F64, 0.0)?);
        let (after, before) = (e.ge(number, zero), e.lt(number, size));
        let inside = e.and(after, before);
        Ok(e.select(inside, weight, none))
    })?;
    let weights = if style.antialias || style.exclude_outside {
        let sum = cx.b.reduce(ReduceOp::Sum, weights, &[1], true)?;
        cx.b.map(&[weights, sum], |e| {
            let (weight, sum, none) = (e.arg(0), e.arg(1), e.number(DType::F64, 0.0)?);
            let (part, some) = (e.div(weight, sum), e.ne(sum, none));
            Ok(e.select(some, part, weight))
        })?
    } else {
        weights
    };
    let weights = cx.b.cast(weights, dtype)?;
    let label = |n: usize| Label::try_from(n).map_err(|_| OpError::Invalid(format!("a tensor of rank {rank}")));
    let labels = (0..rank).map(label).collect::<Result<Vec<Label>, _>>()?;
    let new = label(rank)?;
    let mut out = labels.clone();
    out[axis.axis] = new;
    let contract = Contract {
        lhs: labels.as_slice().into(),
        rhs: [new, labels[axis.axis]].as_slice().into(),
        out: out.as_slice().into(),
        acc: dtype,
        panel: None,
    };
    Ok(cx.b.contract(contract, x, weights)?)
}

/// The weight at a distance, which is not negative.
fn kernel(e: &mut ExprBuilder, style: Interpolation, x: ExprIndex) -> Result<ExprIndex, BuildError> {
    let number = |e: &mut ExprBuilder, value: f64| e.number(DType::F64, value);
    let (zero, one, two) = (number(e, 0.0)?, number(e, 1.0)?, number(e, 2.0)?);
    let Interpolation::Cubic(a) = style else {
        let weight = e.sub(one, x);
        return Ok(e.max(weight, zero));
    };
    // Horner's scheme of both parts.
    let part = |e: &mut ExprBuilder, coefficients: [f64; 4]| {
        let mut sum = number(e, coefficients[0])?;
        for c in &coefficients[1..] {
            let c = number(e, *c)?;
            sum = e.mul(sum, x);
            sum = e.add(sum, c);
        }
        Ok::<_, BuildError>(sum)
    };
    let near = part(e, [a + 2.0, -(a + 3.0), 0.0, 1.0])?;
    let far = part(e, [a, -5.0 * a, 8.0 * a, -4.0 * a])?;
    let (is_near, is_far) = (e.le(x, one), e.lt(x, two));
    let far = e.select(is_far, far, zero);
    Ok(e.select(is_near, near, far))
}

/// The position in the input, `f64`, of the output element `o`, `i64`. The first argument is the scale, then come the ends
/// of a crop that data decides.
fn position(e: &mut ExprBuilder, axis: &Axis, o: ExprIndex) -> Result<ExprIndex, BuildError> {
    let f64_of = |e: &mut ExprBuilder, dim: &Dim| {
        let dim = e.dim(dim);
        e.cast(DType::F64, dim)
    };
    let o = e.cast(DType::F64, o);
    let (input, scale) = (f64_of(e, &axis.input), e.arg(0));
    // As many elements as the scale says, of which the last may be a part.
    let output =
        if axis.scale.is_some() || axis.data.scale.is_some() { e.mul(scale, input) } else { f64_of(e, &axis.output) };
    let (zero, half, one) = (e.number(DType::F64, 0.0)?, e.number(DType::F64, 0.5)?, e.number(DType::F64, 1.0)?);
    Ok(match axis.transform {
        Transform::Asymmetric => e.div(o, scale),
        Transform::AlignCorners => {
            let (last, steps) = (e.sub(input, one), e.sub(output, one));
            let (product, single) = (e.mul(o, last), e.le(steps, zero));
            let position = e.div(product, steps);
            e.select(single, zero, position)
        }
        Transform::Crop { start, end, .. } => {
            let (start, end) = match axis.data.crop {
                Some(_) => (e.arg(1), e.arg(2)),
                None => (e.number(DType::F64, start)?, e.number(DType::F64, end)?),
            };
            let last = e.sub(input, one);
            let extent = e.sub(end, start);
            let extent = e.mul(extent, last);
            let (offset, steps) = (e.mul(start, last), e.sub(output, one));
            let (middle, product) = (e.mul(extent, half), e.mul(o, extent));
            let (inner, single) = (e.div(product, steps), e.eq(output, one));
            let inner = e.select(single, middle, inner);
            e.add(inner, offset)
        }
        Transform::HalfPixel | Transform::PytorchHalfPixel | Transform::HalfPixelSymmetric => {
            let centre = e.add(o, half);
            let scaled = e.div(centre, scale);
            let position = e.sub(scaled, half);
            let single = e.le(output, one);
            match axis.transform {
                Transform::PytorchHalfPixel => e.select(single, zero, position),
                Transform::HalfPixelSymmetric => {
                    let whole = f64_of(e, &axis.output);
                    let (filled, centre) = (e.div(whole, output), e.mul(input, half));
                    let rest = e.sub(one, filled);
                    let offset = e.mul(centre, rest);
                    e.add(offset, position)
                }
                _ => position,
            }
        }
    })
}
