//! Normalizations.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{CompositeKind, ReduceOp, Window};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::Operator;
use super::conv::along_channels;
use super::linear::sum_type;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("BatchNormalization", &[1, 6, 7, 9, 14, 15], (5, 5), batch_norm),
    Operator::onnx("InstanceNormalization", &[1, 6, 22], (3, 3), instance_norm),
    Operator::onnx("LayerNormalization", &[17], (2, 3), layer_norm),
    Operator::onnx("RMSNormalization", &[23], (2, 2), rms_norm),
    Operator::onnx("SimplifiedLayerNormalization", &[1], (2, 2), rms_norm),
    Operator::onnx("GroupNormalization", &[18, 21], (3, 3), group_norm),
    Operator::onnx("LRN", &[1, 13], (1, 1), local_response_norm),
    Operator::onnx("MeanVarianceNormalization", &[9, 13], (1, 1), mean_variance_norm),
    Operator::onnx("LpNormalization", &[1, 22], (1, 1), lp_norm),
];

/// `1 / sqrt(variance + epsilon)`.
fn inverse_deviation(b: &mut Builder<'_>, variance: Value, epsilon: f32) -> Result<Value, BuildError> {
    let dtype = b.dtype(variance)?;
    b.map(&[variance], |e| {
        let (x, epsilon, one) = (e.arg(0), e.number(dtype, f64::from(epsilon))?, e.number(dtype, 1.0)?);
        let sum = e.add(x, epsilon);
        let root = e.sqrt(sum);
        Ok(e.div(one, root))
    })
}

/// The mean, the deviation from it, and the mean of the deviation's square; reduced axes stay as 1.
fn moments(b: &mut Builder<'_>, x: Value, axes: &[i64]) -> Result<(Value, Value, Value), BuildError> {
    let mean = b.mean(x, axes, true)?;
    let deviation = b.sub(x, mean)?;
    let square = b.mul(deviation, deviation)?;
    let variance = b.mean(square, axes, true)?;
    Ok((mean, deviation, variance))
}

/// `x * a + b` with `a = scale / sqrt(variance + epsilon)` and `b = bias - mean * a`, both of which are constants for the
/// constant statistics of inference.
fn batch_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let training = match cx.version {
        // What the first versions call a test is what later ones take for granted unless outputs for training are named.
        ..7 => cx.node.output.len() > 1 && !cx.flag("is_test", false),
        7..14 => (1..cx.output_count()).any(|n| cx.wants_output(n)),
        _ => cx.flag("training_mode", false),
    };
    let epsilon = cx.float("epsilon", 1e-5);
    let rank = cx.b.rank(x)?;
    let dtype = cx.b.dtype(x)?;
    let per_element = cx.version < 9 && !cx.flag("spatial", true);
    if rank < 2 && !(rank == 1 && cx.version >= 7) {
        return cx.invalid(format!("normalizes a tensor of rank {rank}"));
    }
    let parameter_type = cx.b.dtype(cx.input(3)?)?;
    let acc = if dtype == DType::F64 || parameter_type == DType::F64 { DType::F64 } else { DType::F32 };
    let mut parameters = Vec::with_capacity(4);
    for n in 1..5 {
        let parameter = cx.input(n)?;
        parameters.push(cx.b.cast(parameter, acc)?);
    }
    let wide = cx.b.cast(x, acc)?;
    let mut running = Vec::new();
    if training {
        if per_element {
            return cx.unsupported("training with statistics per element");
        }
        let axes: Vec<i64> = (0..rank as i64).filter(|&a| a != 1).collect();
        let (mean, _, variance) = moments(&mut cx.b, wide, &axes)?;
        let channels = [cx.b.shape(x)?[1].clone()];
        let momentum = cx.float("momentum", 0.9);
        for (n, current) in [mean, variance].into_iter().enumerate() {
            let current = cx.b.reshape(current, &channels)?;
            let before = std::mem::replace(&mut parameters[2 + n], current);
            let mixed = cx.b.map(&[before, current], |e| {
                let (before, current) = (e.arg(0), e.arg(1));
                let (keep, take) = (e.number(acc, f64::from(momentum))?, e.number(acc, f64::from(1.0 - momentum))?);
                let (kept, taken) = (e.mul(before, keep), e.mul(current, take));
                Ok(e.add(kept, taken))
            })?;
            running.push(cx.b.cast(mixed, parameter_type)?);
        }
    }
    let [scale, bias, mean, variance] = parameters[..] else { return cx.invalid("has not four parameters") };
    let inverse = inverse_deviation(&mut cx.b, variance, epsilon)?;
    let factor = cx.b.mul(scale, inverse)?;
    let shift = cx.b.mul(mean, factor)?;
    let shift = cx.b.sub(bias, shift)?;
    let (factor, shift) = if per_element || rank == 1 {
        (factor, shift)
    } else {
        (along_channels(cx, factor, x)?, along_channels(cx, shift, x)?)
    };
    let y = cx.b.map(&[wide, factor, shift], |e| {
        let (x, a, b) = (e.arg(0), e.arg(1), e.arg(2));
        let product = e.mul(x, a);
        Ok(e.add(product, b))
    })?;
    let mut outputs = vec![cx.b.cast(y, dtype)?];
    outputs.extend(running);
    Ok(outputs)
}

fn instance_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    if rank < 3 {
        return cx.invalid(format!("normalizes a tensor of rank {rank}"));
    }
    let acc = sum_type(dtype);
    let axes: Vec<i64> = (2..rank as i64).collect();
    let wide = cx.b.cast(x, acc)?;
    let (_, deviation, variance) = moments(&mut cx.b, wide, &axes)?;
    let epsilon = cx.float("epsilon", 1e-5);
    let inverse = inverse_deviation(&mut cx.b, variance, epsilon)?;
    let (scale, bias) = (cx.b.cast(scale, acc)?, cx.b.cast(bias, acc)?);
    let (scale, bias) = (along_channels(cx, scale, x)?, along_channels(cx, bias, x)?);
    let factor = cx.b.mul(inverse, scale)?;
    let y = scaled(&mut cx.b, deviation, factor, Some(bias))?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// `x * scale + bias`.
fn scaled(b: &mut Builder<'_>, x: Value, scale: Value, bias: Option<Value>) -> Result<Value, BuildError> {
    let inputs: Vec<Value> = [x, scale].into_iter().chain(bias).collect();
    b.map(&inputs, |e| {
        let (x, scale) = (e.arg(0), e.arg(1));
        let product = e.mul(x, scale);
        Ok(if inputs.len() == 3 {
            let bias = e.arg(2);
            e.add(product, bias)
        } else {
            product
        })
    })
}

/// The axes from the attribute `axis` on, and the shape that they have.
fn trailing_axes(cx: &NodeContext<'_>, x: Value) -> Result<(usize, Vec<i64>, Shape), OpError> {
    let shape = cx.b.shape(x)?;
    let axis = cx.b.axis(cx.int("axis", -1), shape.len())?;
    Ok((axis, (axis as i64..shape.len() as i64).collect(), shape[axis..].into()))
}

/// The type of the statistics: `stash_type`, and at least as wide as the data.
fn stash_type(cx: &NodeContext<'_>, dtype: DType) -> DType {
    const DOUBLE: i64 = 11;
    if dtype == DType::F64 || cx.int("stash_type", 1) == DOUBLE { DType::F64 } else { DType::F32 }
}

fn layer_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let (axis, axes, _) = trailing_axes(cx, x)?;
    let stash = stash_type(cx, cx.b.dtype(x)?);
    let epsilon = cx.float("epsilon", 1e-5);
    let y = layer_normalized(&mut cx.b, x, scale, bias, axis, stash, epsilon)?;
    if !cx.wants_output(1) && !cx.wants_output(2) {
        return Ok(vec![y]);
    }
    // The statistics that training asks for are computed beside the composite, which gives only the normalised values.
    let (_, mean, inverse) = normalized(&mut cx.b, x, &axes, stash, epsilon)?;
    Ok(vec![y, mean, inverse])
}

/// Layer normalization over all axes from `axis` on, with statistics in the type `stash`.
pub(super) fn layer_normalized(
    b: &mut Builder<'_>,
    x: Value,
    scale: Value,
    bias: Option<Value>,
    axis: usize,
    stash: DType,
    epsilon: f32,
) -> Result<Value, BuildError> {
    let (shape, dtype) = (b.shape(x)?, b.dtype(x)?);
    let (axes, inner): (Vec<i64>, _) = ((axis as i64..shape.len() as i64).collect(), &shape[axis..]);
    if [Some(scale), bias].into_iter().flatten().any(|v| b.rank(v).is_ok_and(|r| r > inner.len())) {
        let y = normalized(b, x, &axes, stash, epsilon)?.0;
        let y = b.cast(y, dtype)?;
        return scaled(b, y, scale, bias);
    }
    let mut inputs = vec![x, b.broadcast(scale, inner)?];
    if let Some(bias) = bias {
        inputs.push(b.broadcast(bias, inner)?);
    }
    let kind = CompositeKind::LayerNorm { axis: axis as u32, epsilon: epsilon.to_bits() };
    let outputs = b.composite(kind, &inputs, |b, inputs| {
        let y = normalized(b, inputs[0], &axes, stash, epsilon)?.0;
        let y = b.cast(y, dtype)?;
        Ok::<_, BuildError>(vec![scaled(b, y, inputs[1], inputs.get(2).copied())?])
    })?;
    Ok(outputs[0])
}

/// The normalised values, the mean and the inverse deviation, in the type `stash`.
fn normalized(
    b: &mut Builder<'_>,
    x: Value,
    axes: &[i64],
    stash: DType,
    epsilon: f32,
) -> Result<(Value, Value, Value), BuildError> {
    let x = b.cast(x, stash)?;
    let (mean, deviation, variance) = moments(b, x, axes)?;
    let inverse = inverse_deviation(b, variance, epsilon)?;
    Ok((b.mul(deviation, inverse)?, mean, inverse))
}

/// Also SimplifiedLayerNormalization, its name before it was part of ai.onnx; that has the inverse deviation as a second
/// output.
fn rms_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    let (axis, axes, _) = trailing_axes(cx, x)?;
    let (stash, epsilon) = (stash_type(cx, cx.b.dtype(x)?), cx.float("epsilon", 1e-5));
    let y = rms_normalized(&mut cx.b, x, scale, axis, stash, epsilon)?;
    if !cx.wants_output(1) {
        return Ok(vec![y]);
    }
    let wide = cx.b.cast(x, stash)?;
    Ok(vec![y, inverse_root_mean_square(&mut cx.b, wide, &axes, epsilon)?])
}

fn inverse_root_mean_square(b: &mut Builder<'_>, x: Value, axes: &[i64], epsilon: f32) -> Result<Value, BuildError> {
    let square = b.mul(x, x)?;
    let mean = b.mean(square, axes, true)?;
    inverse_deviation(b, mean, epsilon)
}

/// Division by the root of the mean square over all axes from `axis` on, in the type `stash`, and the scale.
pub(super) fn rms_normalized(
    b: &mut Builder<'_>,
    x: Value,
    scale: Value,
    axis: usize,
    stash: DType,
    epsilon: f32,
) -> Result<Value, BuildError> {
    let (shape, out) = (b.shape(x)?, b.dtype(scale)?);
    let axes: Vec<i64> = (axis as i64..shape.len() as i64).collect();
    let body = |b: &mut Builder<'_>, x: Value, scale: Value| -> Result<Value, BuildError> {
        let x = b.cast(x, stash)?;
        let inverse = inverse_root_mean_square(b, x, &axes, epsilon)?;
        let y = b.mul(x, inverse)?;
        let y = b.cast(y, out)?;
        b.mul(y, scale)
    };
    if b.rank(scale)? > axes.len() {
        return body(b, x, scale);
    }
    let scale = b.broadcast(scale, &shape[axis..])?;
    let kind = CompositeKind::RmsNorm { axis: axis as u32, epsilon: epsilon.to_bits() };
    let outputs =
        b.composite(kind, &[x, scale], |b, inputs| Ok::<_, BuildError>(vec![body(b, inputs[0], inputs[1])?]))?;
    Ok(outputs[0])
}

/// Scale and bias are per group before opset 21, per channel since.
fn group_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let groups = cx.int("num_groups", 0);
    if cx.version >= 21 {
        let y = group_normalized(cx, x, (scale, bias), groups)?;
        return Ok(vec![cx.b.cast(y, dtype)?]);
    }
    let (grouped, axes) = in_groups(cx, x, groups)?;
    let (acc, epsilon) = (stash_type(cx, dtype), cx.float("epsilon", 1e-5));
    let (y, _, _) = normalized(&mut cx.b, grouped, &axes, acc, epsilon)?;
    let (scale, bias) = (cx.b.cast(scale, acc)?, cx.b.cast(bias, acc)?);
    let (scale, bias) = (along_channels(cx, scale, y)?, along_channels(cx, bias, y)?);
    let y = scaled(&mut cx.b, y, scale, Some(bias))?;
    let y = cx.b.reshape(y, &shape)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// `[N, C, ...]` as `[N, groups, C / groups, ...]`, and the axes of a group.
fn in_groups(cx: &mut NodeContext<'_>, x: Value, groups: i64) -> Result<(Value, Vec<i64>), OpError> {
    let shape = cx.b.shape(x)?;
    if shape.len() < 2 || groups < 1 || shape[1].as_const().is_some_and(|c| c % groups != 0) {
        let text = cx.b.graph.shape_text(&shape);
        return cx.invalid(format!("normalizes a tensor of shape {text} in {groups} groups"));
    }
    let groups = Dim::from(groups);
    let per_group = shape[1].floor_div(&groups)?;
    let split: Shape =
        [shape[0].clone(), groups.clone(), per_group].into_iter().chain(shape[2..].iter().cloned()).collect();
    let axes: Vec<i64> = (2..split.len() as i64).collect();
    Ok((cx.b.reshape(x, &split)?, axes))
}

/// `[N, C, ...]` normalised over groups of channels, with a scale and a bias per channel; in the type of the statistics.
pub(super) fn group_normalized(
    cx: &mut NodeContext<'_>,
    x: Value,
    (scale, bias): (Value, Value),
    groups: i64,
) -> Result<Value, OpError> {
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let (grouped, axes) = in_groups(cx, x, groups)?;
    let (acc, epsilon) = (stash_type(cx, dtype), cx.float("epsilon", 1e-5));
    let (y, _, _) = normalized(&mut cx.b, grouped, &axes, acc, epsilon)?;
    let y = cx.b.reshape(y, &shape)?;
    let (scale, bias) = (cx.b.cast(scale, acc)?, cx.b.cast(bias, acc)?);
    let (scale, bias) = (along_channels(cx, scale, y)?, along_channels(cx, bias, y)?);
    Ok(scaled(&mut cx.b, y, scale, Some(bias))?)
}

fn local_response_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    let size = cx.int("size", 0);
    if rank < 2 || !(1..=i64::from(i32::MAX)).contains(&size) {
        return cx.invalid(format!("normalizes a tensor of rank {rank} over {size} channels"));
    }
    let (alpha, beta, bias) = (cx.float("alpha", 1e-4), cx.float("beta", 0.75), cx.float("bias", 1.0));
    let squares = cx.b.mul(x, x)?;
    let along_axis = |value: i64, other: i64| (0..rank).map(|i| if i == 1 { value } else { other }).collect();
    let window = Window {
        op: ReduceOp::Sum,
        sizes: along_axis(size, 1),
        strides: along_axis(1, 1),
        dilations: along_axis(1, 1),
        pad_lo: along_axis((size - 1) / 2, 0),
        pad_hi: along_axis(size / 2, 0),
    };
    let sums = cx.b.window(window, squares)?;
    Ok(vec![cx.b.map(&[x, sums], |e| {
        let (x, sum) = (e.arg(0), e.arg(1));
        let (factor, bias) = (e.number(dtype, f64::from(alpha) / size as f64)?, e.number(dtype, f64::from(bias))?);
        let beta = e.number(dtype, f64::from(beta))?;
        let scaled = e.mul(sum, factor);
        let base = e.add(scaled, bias);
        let divisor = e.pow(base, beta);
        Ok(e.div(x, divisor))
    })?])
}

fn mean_variance_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let dtype = cx.b.dtype(x)?;
    let acc = sum_type(dtype);
    let axes = cx.ints("axes").unwrap_or(&[0, 2, 3]);
    let wide = cx.b.cast(x, acc)?;
    let (_, deviation, variance) = moments(&mut cx.b, wide, axes)?;
    let y = cx.b.map(&[deviation, variance], |e| {
        let (x, variance, epsilon) = (e.arg(0), e.arg(1), e.number(acc, 1e-9)?);
        let root = e.sqrt(variance);
        let divisor = e.add(root, epsilon);
        Ok(e.div(x, divisor))
    })?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// Divides by the norm; where it is 0, the result is 0.
fn lp_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (axis, dtype) = (cx.int("axis", -1), cx.b.dtype(x)?);
    let norm = match cx.int("p", 2) {
        1 => {
            let size = cx.b.abs(x)?;
            cx.b.reduce(ReduceOp::Sum, size, &[axis], true)?
        }
        2 => {
            let square = cx.b.mul(x, x)?;
            let sum = cx.b.reduce(ReduceOp::Sum, square, &[axis], true)?;
            cx.b.sqrt(sum)?
        }
        p => return cx.invalid(format!("attribute `p` is {p}")),
    };
    Ok(vec![cx.b.map(&[x, norm], |e| {
        let (x, norm, zero) = (e.arg(0), e.arg(1), e.number(dtype, 0.0)?);
        let (none, quotient) = (e.eq(norm, zero), e.binary(BinaryOp::Div, x, norm));
        Ok(e.select(none, zero, quotient))
    })?])
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, floats, noise};

    #[test]
    fn statistics_of_training_layer_norm() {
        let results = TestModel::new("LayerNormalization", 17)
            .outputs(3)
            .input(&[1, 2], &[1.0, 3.0])
            .floats(&[2], &[2.0, 2.0])
            .float("epsilon", 0.0)
            .run_all();
        let results: Vec<_> = results.iter().map(floats).collect();
        assert_close(&results[0], &(vec![1, 2], vec![-2.0, 2.0]));
        assert_close(&results[1], &(vec![1, 1], vec![2.0]));
        assert_close(&results[2], &(vec![1, 1], vec![1.0]));
    }

    #[test]
    fn unknown_sizes_normalise_alike() {
        let x = noise(24);
        let run = |model: TestModel| model.floats(&[4], &noise(4)).floats(&[4], &noise(4)).run();
        for op in ["InstanceNormalization", "LayerNormalization"] {
            let shape = if op == "LayerNormalization" { [2, 3, 4] } else { [2, 4, 3] };
            let model = || TestModel::new(op, 17);
            assert_close(&run(model().dynamic(&shape, &x)), &run(model().input(&shape, &x)));
        }
    }

    #[test]
    fn batch_norm_per_element_of_old_models() {
        let model = TestModel::new("BatchNormalization", 7).int("spatial", 0).float("epsilon", 0.0);
        let parameters = [[1.0, 2.0], [0.0, 1.0], [1.0, 1.0], [4.0, 1.0]];
        let model = parameters.iter().fold(model.input(&[1, 1, 2], &[3.0, 3.0]), |m, p| m.floats(&[1, 2], p));
        assert_close(&model.run(), &(vec![1, 1, 2], vec![1.0, 5.0]));
    }
}
