//! Operators that early exporters put into ai.onnx, which never released them; ONNX Runtime still runs them.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::TensorBytes;

use super::super::Operator;
use super::super::cell_function::Activation;
use super::super::conv::along_channels;
use super::super::rearrange::slice;
use super::super::unary::function;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    Operator::onnx("Affine", &[1], (1, 1), |cx| {
        let (alpha, beta) = (cx.float("alpha", 1.0), cx.float("beta", 0.0));
        function(cx, |e, t, x| Activation::Affine(alpha, beta).apply(e, t, x))
    }),
    Operator::onnx("ScaledTanh", &[1], (1, 1), |cx| {
        let (alpha, beta) = (cx.float("alpha", 1.0), cx.float("beta", 1.0));
        function(cx, |e, t, x| Activation::ScaledTanh(alpha, beta).apply(e, t, x))
    }),
    Operator::onnx("ParametricSoftplus", &[1], (1, 1), |cx| {
        let (alpha, beta) = (cx.float("alpha", 1.0), cx.float("beta", 1.0));
        function(cx, |e, t, x| {
            let (alpha, beta) = (e.number(t, alpha.into())?, e.number(t, beta.into())?);
            let scaled = e.mul(x, beta);
            let y = Activation::Softplus.apply(e, t, scaled)?;
            Ok(e.mul(y, alpha))
        })
    }),
    Operator::onnx("Scale", &[1], (1, 1), |cx| {
        let scale = cx.float("scale", 1.0);
        function(cx, |e, t, x| Activation::Affine(scale, 0.0).apply(e, t, x))
    }),
    Operator::onnx("ImageScaler", &[1], (1, 1), image_scaler),
    Operator::onnx("Crop", &[1], (1, 1), crop),
    Operator::onnx("DynamicSlice", &[1], (3, 4), |cx| {
        cx.version = 10;
        slice(cx)
    }),
];

/// `x * scale` and a bias per channel.
fn image_scaler(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale) = (cx.input(0)?, cx.float("scale", 1.0));
    let dtype = cx.b.dtype(x)?;
    let y = cx.b.map(&[x], |e| {
        let x = e.arg(0);
        Activation::Affine(scale, 0.0).apply(e, dtype, x)
    })?;
    let Some(bias) = cx.floats("bias") else { return Ok(vec![y]) };
    let bias = cx.b.constant(TensorBytes::from_f32(&[bias.len() as i64], bias), "")?;
    let bias = cx.b.cast(bias, dtype)?;
    let bias = along_channels(cx, bias, y)?;
    Ok(vec![cx.b.add(y, bias)?])
}

/// The image without its borders: left, top, right and bottom; or from left and top on as large as `scale` says.
fn crop(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let (Some(&[left, top, right, bottom]), 4) = (cx.ints("border"), shape.len()) else {
        return cx.invalid(format!(
            "attribute `border` is {:?} for an input of rank {}",
            cx.ints("border"),
            shape.len()
        ));
    };
    let ends = match cx.ints("scale") {
        Some(&[height, width]) => [Dim::from(top + height), Dim::from(left + width)],
        Some(other) => return cx.invalid(format!("attribute `scale` is {other:?}")),
        None => [(&shape[2] - &Dim::from(bottom))?, (&shape[3] - &Dim::from(right))?],
    };
    let y = cx.b.slice_range(x, 2, &Dim::from(top), &ends[0], 1)?;
    Ok(vec![cx.b.slice_range(y, 3, &Dim::from(left), &ends[1], 1)?])
}
