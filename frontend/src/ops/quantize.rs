//! Linear quantization: `q = saturate(round(x / scale) + zero point)` and back, with one scale, one per element of an axis,
//! or one per block of an axis.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::Operator;
use super::cast::saturating_off;
use super::math::compute_type;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("QuantizeLinear", &[10, 13, 19, 21, 23, 24, 25, 28], (2, 3), quantize),
    Operator::onnx("DequantizeLinear", &[10, 13, 19, 21, 23, 24, 25, 28], (2, 3), dequantize),
    Operator::onnx("DynamicQuantizeLinear", &[11], (1, 1), dynamic_quantize),
];

/// A scale or zero point so that it broadcasts to `x`.
fn spread(cx: &mut NodeContext<'_>, x: Value, parameter: Value) -> Result<Value, OpError> {
    let (shape, sizes) = (cx.b.shape(x)?, cx.b.shape(parameter)?);
    if sizes.iter().all(|d| *d == 1) {
        return Ok(cx.b.reshape(parameter, &[])?);
    }
    let axis = cx.b.axis(cx.int("axis", 1), shape.len())?;
    if sizes.len() == 1 && !shape.is_empty() && cx.int("block_size", 0) == 0 {
        let trailing: Vec<i64> = (1..(shape.len() - axis) as i64).collect();
        return Ok(cx.b.unsqueeze(parameter, &trailing)?);
    }
    let block = cx.int("block_size", 0);
    if sizes.len() != shape.len() || block < 1 {
        let (a, b) = (cx.b.graph.shape_text(&sizes), cx.b.graph.shape_text(&shape));
        return cx.invalid(format!("scales of shape {a} for {b} with block size {block}"));
    }
    repeated_blocks(cx, parameter, axis, block, &shape)
}

/// A tensor with an element for each block of an axis, whose last may be cut, repeated to the shape of all elements.
pub(super) fn repeated_blocks(
    cx: &mut NodeContext<'_>,
    parameter: Value,
    axis: usize,
    block: i64,
    shape: &[Dim],
) -> Result<Value, OpError> {
    let index = cx.b.map_to(std::slice::from_ref(&shape[axis]), &[], |e| {
        let (at, block) = (e.index(0), e.dim(&block.into()));
        Ok(e.div(at, block))
    })?;
    let trailing: Vec<i64> = (1..(shape.len() - axis) as i64).collect();
    let index = cx.b.unsqueeze(index, &trailing)?;
    let coords: Vec<Coord> =
        (0..shape.len()).map(|i| if i == axis { Coord::Input(0) } else { Coord::Axis(i as u32) }).collect();
    Ok(cx.b.gather(parameter, &[index], &coords, shape)?)
}

/// Operands whose shapes broadcast together: the tensor, the scale and the zero point if there is one. What is computed of
/// them is to be reshaped to the second result.
fn aligned(cx: &mut NodeContext<'_>) -> Result<(Vec<Value>, Shape), OpError> {
    let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let shape = cx.b.shape(x)?;
    let parameters = std::iter::once(scale).chain(zero);
    let block = cx.int("block_size", 0);
    let sizes = cx.b.shape(scale)?;
    if block > 0 && sizes.len() == shape.len() && !shape.is_empty() {
        let axis = cx.b.axis(cx.int("axis", 1), shape.len())?;
        // Whole blocks are an axis of their own, along which the parameters are repeated.
        if shape[axis].as_const().is_some_and(|n| n % block == 0 && sizes[axis] == n / block) {
            let mut split = shape.clone();
            split[axis] = sizes[axis].clone();
            split.insert(axis + 1, Dim::from(block));
            let mut inputs = vec![cx.b.reshape(x, &split)?];
            for parameter in parameters {
                inputs.push(cx.b.unsqueeze(parameter, &[axis as i64 + 1])?);
            }
            return Ok((inputs, shape));
        }
    }
    let mut inputs = vec![x];
    for parameter in parameters {
        inputs.push(spread(cx, x, parameter)?);
    }
    Ok((inputs, shape))
}

/// The quotient is rounded to the type of the scale, or to `precision`, before it is rounded to an integer.
pub(super) fn quantize(cx: &mut NodeContext<'_>) -> OpResult {
    let (scale, zero) = (cx.input(1)?, cx.optional(2));
    let to = match (zero, cx.dtype("output_dtype")?) {
        (Some(zero), _) => cx.b.dtype(zero)?,
        (None, Some(dtype)) => dtype,
        (None, None) => DType::U8,
    };
    let division = match cx.dtype("precision")? {
        Some(dtype) => dtype,
        None => cx.b.dtype(scale)?,
    };
    // Powers of two as scales say nothing about precision.
    let division = if division.is_float() && division.bits() >= 16 { division } else { DType::F32 };
    let saturate = cx.flag("saturate", true);
    let (inputs, shape) = aligned(cx)?;
    let wide = compute_type(division);
    let y = cx.b.map(&inputs, |e| {
        let (x, scale) = (e.arg(0), e.arg(1));
        let (x, scale) = (e.cast(division, x), e.cast(division, scale));
        let quotient = e.div(x, scale);
        let mut y = if wide == division { quotient } else { e.cast(wide, quotient) };
        if !to.is_float() {
            y = e.round(y);
        }
        if inputs.len() == 3 {
            let zero = e.arg(2);
            let zero = e.cast(wide, zero);
            y = e.add(y, zero);
        }
        // Conversion to integers saturates.
        Ok(if to.is_float() { y } else { e.cast(to, y) })
    })?;
    let y = match to.is_float() {
        true if !saturate => saturating_off(cx, y, to)?,
        _ => cx.b.cast(y, to)?,
    };
    Ok(vec![cx.b.reshape(y, &shape)?])
}

/// The difference of integers is exact; the product is rounded once to the result's type.
pub(super) fn dequantize(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let from = cx.b.dtype(x)?;
    let to = match cx.dtype("output_dtype")? {
        Some(dtype) => dtype,
        None => cx.b.dtype(scale)?,
    };
    let wide = if to == DType::F64 { DType::F64 } else { DType::F32 };
    // Differences of 32-bit integers need more than 32 bits.
    let difference = match from {
        _ if from.is_float() => wide,
        DType::I32 | DType::U32 => DType::I64,
        _ => DType::I32,
    };
    let (inputs, shape) = aligned(cx)?;
    let y = cx.b.map(&inputs, |e| {
        let convert = |e: &mut ExprBuilder, from: DType, to: DType, x: ExprIndex| {
            if from == to { x } else { e.cast(to, x) }
        };
        let x = e.arg(0);
        let x = if inputs.len() == 3 {
            let zero = e.arg(2);
            let (x, zero) = (convert(e, from, difference, x), convert(e, from, difference, zero));
            let x = e.sub(x, zero);
            convert(e, difference, wide, x)
        } else {
            convert(e, from, wide, x)
        };
        let scale = e.arg(1);
        let scale = e.cast(wide, scale);
        let y = e.mul(x, scale);
        Ok(convert(e, wide, to, y))
    })?;
    Ok(vec![cx.b.reshape(y, &shape)?])
}

fn dynamic_quantize(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (y, scale, zero) = dynamically_quantized(&mut cx.b, x)?;
    Ok(vec![y, scale, zero])
}

/// To `u8` over the range of the values, which is made to contain 0: the integers, their scale and their zero point.
pub(super) fn dynamically_quantized(b: &mut Builder<'_>, x: Value) -> Result<(Value, Value, Value), BuildError> {
    let axes: Vec<i64> = (0..b.rank(x)? as i64).collect();
    let low = b.reduce(ReduceOp::Min, x, &axes, false)?;
    let high = b.reduce(ReduceOp::Max, x, &axes, false)?;
    let low = b.binary_number(BinaryOp::Min, low, 0.0)?;
    let high = b.binary_number(BinaryOp::Max, high, 0.0)?;
    let f = DType::F32;
    // Zeros alone have the scale 1, as 0 divides nothing.
    let scale = b.map(&[low, high], |e| {
        let (low, high, levels) = (e.arg(0), e.arg(1), e.number(f, 255.0)?);
        let (none, one) = (e.number(f, 0.0)?, e.number(f, 1.0)?);
        let range = e.sub(high, low);
        let (empty, scale) = (e.eq(range, none), e.div(range, levels));
        Ok(e.select(empty, one, scale))
    })?;
    let zero = b.map(&[low, scale], |e| {
        let (low, scale) = (e.arg(0), e.arg(1));
        let (none, top) = (e.number(f, 0.0)?, e.number(f, 255.0)?);
        let quotient = e.div(low, scale);
        let point = e.neg(quotient);
        let above = e.max(point, none);
        let point = e.min(above, top);
        let point = e.round(point);
        Ok(e.cast(DType::U8, point))
    })?;
    let y = b.map(&[x, scale, zero], |e| {
        let (x, scale, zero) = (e.arg(0), e.arg(1), e.arg(2));
        let quotient = e.div(x, scale);
        let rounded = e.round(quotient);
        let zero = e.cast(f, zero);
        let y = e.add(rounded, zero);
        Ok(e.cast(DType::U8, y))
    })?;
    Ok((y, scale, zero))
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::TestModel;

    #[test]
    fn blocks_that_do_not_divide_the_axis() {
        // Five rows in blocks of two, of three, or each alone, along the first axis; the last block is cut.
        for (block, scales) in [(2usize, 3usize), (3, 2), (1, 5), (5, 1)] {
            let x: Vec<i8> = (0..10).collect();
            let bytes: Vec<u8> = x.iter().map(|&v| v as u8).collect();
            let scale: Vec<f32> = (0..scales * 2).map(|i| i as f32 + 1.0).collect();
            let model = TestModel::new("DequantizeLinear", 21).int("axis", 0).int("block_size", block as i64);
            let (shape, y) = model
                .declared(
                    &[5, 2],
                    TensorBytes { dtype: DType::I8, shape: [5, 2].as_slice().into(), bytes: bytes.into() },
                )
                .input(&[scales as i64, 2], &scale)
                .run();
            let expected: Vec<f32> = (0..10).map(|i| f32::from(x[i]) * scale[i / 2 / block * 2 + i % 2]).collect();
            assert_eq!((shape, y), (vec![5, 2], expected), "blocks of {block}");
        }
    }
}
