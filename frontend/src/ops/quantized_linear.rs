//! Matrix products and convolutions of 8-bit integers with zero points.
//!
//! The product of matrices keeps its narrow operands: with `A' = A - a` and `B' = B - b`,
//! `A'B' = AB - a * sums of columns of B - b * sums of rows of A + K * a * b`, where what depends on constants alone is
//! one. A convolution pads with the zero point, and the same holds for what remains: `X'W = XW - x * sums of the filters of W`.
//! Where the filter has a zero point or the input's is not known, they are subtracted first.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Shape, Value};

use super::Operator;
use super::conv::{along_channels, convolve, convolve_filled};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("MatMulInteger", &[10], (2, 4), |cx| {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let (a_zero, b_zero) = (cx.optional(2), cx.optional(3));
        Ok(vec![integer_product(cx, (a, a_zero), (b, b_zero))?])
    }),
    Operator::onnx("ConvInteger", &[10], (2, 4), |cx| {
        let (x, w) = (cx.input(0)?, cx.input(1)?);
        let (x_zero, w_zero) = (cx.optional(2), cx.optional(3));
        Ok(vec![integer_convolution(cx, (x, x_zero), (w, w_zero))?])
    }),
    Operator::onnx("QLinearMatMul", &[10, 21], (8, 8), quantized_product),
    Operator::onnx("QLinearConv", &[10], (8, 9), |cx| {
        let x = cx.input(0)?;
        Ok(vec![quantized_convolution(cx, x)?])
    }),
];

/// A zero point as `i32`, unless it is absent or known to be 0.
fn zero_point(cx: &mut NodeContext<'_>, zero: Option<Value>) -> Result<Option<Value>, OpError> {
    match zero {
        Some(zero) if cx.b.known_i64s(zero).is_none_or(|z| z.iter().any(|&z| z != 0)) => {
            Ok(Some(cx.b.cast(zero, DType::I32)?))
        }
        _ => Ok(None),
    }
}

/// The one zero point of a tensor, if it is known; 0 if it is absent.
fn known_zero(cx: &NodeContext<'_>, zero: Option<Value>) -> Option<i64> {
    let Some(zero) = zero else { return Some(0) };
    match cx.b.known_i64s(zero)?[..] {
        [zero] => Some(zero),
        _ => None,
    }
}

/// A parameter of the rows of a matrix: one for all, `[M]`, or already shaped to broadcast.
fn per_row(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    Ok(if shape.len() == 1 { cx.b.reshape(x, &[shape[0].clone(), Dim::ONE])? } else { x })
}

/// `i32` sums along an axis, which stays as 1.
fn sums(cx: &mut NodeContext<'_>, x: Value, axis: i64) -> Result<Value, OpError> {
    let x = cx.b.cast(x, DType::I32)?;
    Ok(cx.b.reduce(ReduceOp::Sum, x, &[axis], true)?)
}

/// The product of two operands less their zero points, `i32`.
pub(super) fn integer_product(
    cx: &mut NodeContext<'_>,
    (a, a_zero): (Value, Option<Value>),
    (b, b_zero): (Value, Option<Value>),
) -> Result<Value, OpError> {
    let (a_zero, b_zero) = (zero_point(cx, a_zero)?, zero_point(cx, b_zero)?);
    let (a_rank, b_rank) = (cx.b.rank(a)?, cx.b.rank(b)?);
    let matrix_a = if a_rank == 1 { cx.b.unsqueeze(a, &[0])? } else { a };
    let matrix_b = if b_rank == 1 { cx.b.unsqueeze(b, &[1])? } else { b };
    let mut y = cx.b.matmul(matrix_a, matrix_b, DType::I32)?;
    let a_zero = a_zero.map(|z| per_row(cx, z)).transpose()?;
    if let Some(zero) = a_zero {
        let columns = sums(cx, matrix_b, -2)?;
        let excess = cx.b.mul(zero, columns)?;
        y = cx.b.sub(y, excess)?;
    }
    if let Some(zero) = b_zero {
        let rows = sums(cx, matrix_a, -1)?;
        let excess = cx.b.mul(rows, zero)?;
        y = cx.b.sub(y, excess)?;
    }
    if let (Some(a_zero), Some(b_zero)) = (a_zero, b_zero) {
        let length = cx.b.shape(a)?[a_rank - 1].clone();
        let both = cx.b.map(&[a_zero, b_zero], |e| {
            let (a, b, length) = (e.arg(0), e.arg(1), e.dim(&length));
            let (length, product) = (e.cast(DType::I32, length), e.mul(a, b));
            Ok(e.mul(product, length))
        })?;
        y = cx.b.add(y, both)?;
    }
    let mut shape: Shape = cx.b.shape(y)?;
    if b_rank == 1 {
        shape.pop();
    }
    if a_rank == 1 {
        shape.remove(shape.len() + usize::from(b_rank == 1) - 2);
    }
    Ok(cx.b.reshape(y, &shape)?)
}

/// The convolution of two operands less their zero points, `i32`.
fn integer_convolution(
    cx: &mut NodeContext<'_>,
    (x, x_zero): (Value, Option<Value>),
    (w, w_zero): (Value, Option<Value>),
) -> Result<Value, OpError> {
    let (known, w_zero) = (known_zero(cx, x_zero), zero_point(cx, w_zero)?);
    if let (Some(zero), None) = (known, w_zero) {
        let y = convolve_filled(cx, x, w, DType::I32, zero)?;
        if zero == 0 {
            return Ok(y);
        }
        let wide = cx.b.cast(w, DType::I32)?;
        let axes: Vec<i64> = (1..cx.b.rank(w)? as i64).collect();
        let sums = cx.b.reduce(ReduceOp::Sum, wide, &axes, false)?;
        let factor = cx.b.number(DType::I32, zero as f64)?;
        let excess = cx.b.mul(sums, factor)?;
        let excess = along_channels(cx, excess, y)?;
        return Ok(cx.b.sub(y, excess)?);
    }
    let mut x = cx.b.cast(x, DType::I32)?;
    let mut w = cx.b.cast(w, DType::I32)?;
    if let Some(zero) = zero_point(cx, x_zero)? {
        let zero = cx.b.reshape(zero, &[])?;
        x = cx.b.sub(x, zero)?;
    }
    if let Some(zero) = w_zero {
        let zero = per_filter(cx, zero, w)?;
        w = cx.b.sub(w, zero)?;
    }
    convolve(cx, x, w, DType::I32)
}

/// A parameter of a filter's output channels: one for all, or `[M]`.
fn per_filter(cx: &mut NodeContext<'_>, x: Value, filter: Value) -> Result<Value, OpError> {
    let (shape, rank) = (cx.b.shape(x)?, cx.b.rank(filter)?);
    if shape.iter().all(|d| *d == 1) {
        return Ok(cx.b.reshape(x, &[])?);
    }
    let spread: Shape = shape.into_iter().chain(std::iter::repeat_n(Dim::ONE, rank - 1)).collect();
    Ok(cx.b.reshape(x, &spread)?)
}

/// `round(x * scale_a * scale_b / scale_y) + zero`, saturated to the type of the zero point.
fn requantized(cx: &mut NodeContext<'_>, x: Value, scales: [Value; 3], zero: Value) -> Result<Value, OpError> {
    let out = cx.b.dtype(zero)?;
    let mut inputs = vec![cx.b.cast(x, DType::F32)?];
    let [a, b, y] = scales;
    let (a, b, y) = (cx.b.cast(a, DType::F32)?, cx.b.cast(b, DType::F32)?, cx.b.cast(y, DType::F32)?);
    let scale = cx.b.mul(a, b)?;
    inputs.push(cx.b.binary(BinaryOp::Div, scale, y)?);
    inputs.push(cx.b.cast(zero, DType::F32)?);
    Ok(cx.b.map(&inputs, |e| {
        let (x, scale, zero) = (e.arg(0), e.arg(1), e.arg(2));
        let scaled = e.mul(x, scale);
        let whole = if out.is_int() { e.round(scaled) } else { scaled };
        let sum = e.add(whole, zero);
        Ok(e.cast(out, sum))
    })?)
}

fn quantized_product(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(3)?);
    let zeros = (cx.optional(2), cx.optional(5));
    let (a_scale, b_scale, y_scale, y_zero) = (cx.input(1)?, cx.input(4)?, cx.input(6)?, cx.input(7)?);
    let product = if cx.b.dtype(a)?.is_int() {
        integer_product(cx, (a, zeros.0), (b, zeros.1))?
    } else {
        return cx.unsupported("quantized products of floating-point types");
    };
    let (a_scale, y_scale, y_zero) = (per_row(cx, a_scale)?, per_row(cx, y_scale)?, per_row(cx, y_zero)?);
    Ok(vec![requantized(cx, product, [a_scale, b_scale, y_scale], y_zero)?])
}

/// `QLinearConv` of an image with channels first.
pub(super) fn quantized_convolution(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let w = cx.input(3)?;
    let zeros = (cx.optional(2), cx.optional(5));
    let mut y = integer_convolution(cx, (x, zeros.0), (w, zeros.1))?;
    if let Some(bias) = cx.optional(8) {
        let bias = along_channels(cx, bias, y)?;
        y = cx.b.add(y, bias)?;
    }
    let mut scales = [cx.input(1)?, cx.input(4)?, cx.input(6)?];
    for scale in &mut scales {
        let single = cx.b.shape(*scale)?.iter().all(|d| *d == 1);
        *scale = if single { cx.b.reshape(*scale, &[])? } else { along_channels(cx, *scale, y)? };
    }
    let zero = cx.input(7)?;
    let zero = cx.b.reshape(zero, &[])?;
    requantized(cx, y, scales, zero)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::TestModel;

    fn bytes(dtype: DType, shape: &[i64], values: &[i64]) -> TensorBytes {
        TensorBytes { dtype, shape: shape.into(), bytes: values.iter().map(|&v| v as u8).collect::<Vec<_>>().into() }
    }

    fn i32s(tensor: &TensorBytes) -> Vec<i64> {
        tensor.to_i64().expect("integers")
    }

    #[test]
    fn zero_points_of_rows_and_columns() {
        let (a, b) = ([11, 7, 3, 10, 6, 2], [1, 4, 2, 5, 3, 6]);
        let (a_zero, b_zero) = ([12, 9], [1, 3]);
        let run = |a_shape: &[i64], a: &[i64], a_zero: &[i64]| {
            let model = TestModel::new("MatMulInteger", 10)
                .declared(a_shape, bytes(DType::U8, a_shape, a))
                .declared(&[3, 2], bytes(DType::I8, &[3, 2], &b))
                .declared(&[a_zero.len() as i64], bytes(DType::U8, &[a_zero.len() as i64], a_zero))
                .declared(&[2], bytes(DType::I8, &[2], &b_zero));
            let y = &model.run_all()[0];
            (y.shape.to_vec(), i32s(y))
        };
        let expected = |row: usize| {
            let column = |n: usize| (0..3).map(|k| (a[row * 3 + k] - a_zero[row]) * (b[k * 2 + n] - b_zero[n])).sum();
            [column(0), column(1)]
        };
        assert_eq!(run(&[2, 3], &a, &a_zero), (vec![2, 2], [expected(0), expected(1)].concat()));
        assert_eq!(run(&[3], &a[..3], &a_zero[..1]), (vec![2], expected(0).to_vec()));
    }

    #[test]
    fn a_convolution_pads_with_the_zero_point() {
        let y = &TestModel::new("ConvInteger", 10)
            .ints("pads", &[1, 1])
            .declared(&[1, 1, 3], bytes(DType::U8, &[1, 1, 3], &[5, 6, 7]))
            .constant(bytes(DType::I8, &[1, 1, 3], &[1, 1, 1]))
            .constant(bytes(DType::U8, &[], &[5]))
            .run_all()[0];
        assert_eq!(i32s(y), [1, 3, 3]);
    }
}
