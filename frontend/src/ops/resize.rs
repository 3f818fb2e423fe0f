//! Resizing of images: one axis after the other.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Contract, Coord, Label};
use onnxc_ir::tensor::{Shape, TensorBytes, Value};

use super::Operator;
use super::linear::sum_type;
use super::resample::{AxisResize, Interpolation, Rounding, Taps, Transform};
use crate::import::{NodeContext, OpError, OpResult};

#[cfg(test)]
mod tests;
mod unknown;

use unknown::resize_unknown;

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Resize", &[10, 11, 13, 18, 19], (1, 4), resize),
    Operator::onnx("Upsample", &[1, 7, 9], (1, 2), upsample),
];

/// Up to this many neighbours are gathered; more are multiplied by a matrix of weights.
const MAX_GATHERED_TAPS: usize = 4;

/// What the attributes say about every axis.
struct Style {
    interpolation: Interpolation,
    transform: String,
    outside: f64,
    antialias: bool,
    exclude_outside: bool,
}

/// One axis with its sizes, which may depend on the run.
struct Axis {
    axis: usize,
    input: Dim,
    output: Dim,
    /// Output elements per input element; `None` if the sizes say it.
    scale: Option<f64>,
    transform: Transform,
    /// What data decides of it.
    data: AxisData,
}

/// `f64` scalars of an axis.
#[derive(Clone, Copy, Default)]
struct AxisData {
    /// Output elements per input element.
    scale: Option<Value>,
    /// Where a crop begins and ends.
    crop: Option<[Value; 2]>,
}

impl AxisData {
    fn is_some(&self) -> bool {
        self.scale.is_some() || self.crop.is_some()
    }
}

fn upsample(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let scales = match cx.version {
        // The first version knows only images.
        ..7 => [1.0, 1.0, cx.float("height_scale", 1.0), cx.float("width_scale", 1.0)].map(f64::from).to_vec(),
        7..9 => cx.floats("scales").unwrap_or_default().iter().map(|&s| f64::from(s)).collect(),
        _ => known_floats(cx, 1)?.unwrap_or_default(),
    };
    let style = Style {
        interpolation: interpolation(cx, "floor")?,
        transform: "asymmetric".into(),
        outside: 0.0,
        antialias: false,
        exclude_outside: false,
    };
    let axes: Vec<usize> = (0..cx.b.rank(x)?).collect();
    let data = cx.version >= 9 && scales.is_empty();
    let axes = if data {
        axes_scaled_by_data(cx, &style, x, &axes, 1)?
    } else {
        scaled_axes(cx, &style, x, &axes, &scales, None)?
    };
    Ok(vec![resize_axes(cx, &style, x, axes)?])
}

fn resize(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let rank = cx.b.rank(x)?;
    // The first version knows only scales and no attribute but the mode.
    let first = cx.version < 11;
    let text = |name, default: &'static str| Ok::<_, OpError>(cx.text(name)?.unwrap_or(default).to_owned());
    let transform = if first { "asymmetric".into() } else { text("coordinate_transformation_mode", "half_pixel")? };
    let rounding = if first { "floor".into() } else { text("nearest_mode", "round_prefer_floor")? };
    let style = Style {
        interpolation: interpolation(cx, &rounding)?,
        transform,
        outside: f64::from(cx.float("extrapolation_value", 0.0)),
        antialias: cx.flag("antialias", false),
        exclude_outside: cx.flag("exclude_outside", false),
    };
    let axes = match cx.ints("axes") {
        Some(axes) => axes.iter().map(|&a| cx.b.axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let empty =
        |cx: &NodeContext<'_>, n| cx.optional(n).is_none_or(|v| cx.b.shape(v).is_ok_and(|s| s.iter().any(|d| *d == 0)));
    let crops = style.transform == "tf_crop_and_resize" && !empty(cx, 1);
    let roi = if crops { known_floats(cx, 1)? } else { None };
    let crop_by_data = crops && roi.is_none();
    if roi.as_ref().is_some_and(|roi| roi.len() != 2 * axes.len()) {
        return cx.invalid(format!("input 1 has not {} elements", 2 * axes.len()));
    }
    let scales_at = if first { 1 } else { 2 };
    // Either may also be left out as an empty tensor.
    let mut axes = if !empty(cx, scales_at) {
        match known_floats(cx, scales_at)? {
            Some(scales) => scaled_axes(cx, &style, x, &axes, &scales, roi.as_deref())?,
            None => axes_scaled_by_data(cx, &style, x, &axes, scales_at)?,
        }
    } else if !first && !empty(cx, 3) {
        let sizes = cx.sizes(3)?;
        sized_axes(cx, &style, x, &axes, &sizes, roi.as_deref())?
    } else {
        return cx.invalid("has neither scales nor sizes");
    };
    if crop_by_data {
        let roi = data_floats(cx, 1, 2 * axes.len())?;
        let count = axes.len();
        axes.iter_mut().enumerate().for_each(|(i, axis)| axis.data.crop = Some([roi[i], roi[count + i]]));
    }
    Ok(vec![resize_axes(cx, &style, x, axes)?])
}

/// The elements of an input of numbers, where they are known.
fn known_floats(cx: &NodeContext<'_>, n: usize) -> Result<Option<Vec<f64>>, OpError> {
    let value = cx.input(n)?;
    if let Some(values) = cx.constant_f32s(n) {
        return Ok(Some(values.into_iter().map(f64::from).collect()));
    }
    Ok(cx.b.graph.known[value].as_ref().and_then(|k| k.all_floats()))
}

/// The elements of an input of numbers as `f64` scalars.
fn data_floats(cx: &mut NodeContext<'_>, n: usize, count: usize) -> Result<Vec<Value>, OpError> {
    let value = cx.input(n)?;
    if cx.b.tensor(value)?.static_len() != Some(count as i64) {
        return cx.invalid(format!("input {n} has not {count} elements"));
    }
    let value = cx.b.reshape(value, &[Dim::from(count as i64)])?;
    let value = cx.b.cast(value, DType::F64)?;
    (0..count).map(|i| cx.element(value, i)).collect()
}

/// Axes whose scales data decides; so are the sizes of the result.
fn axes_scaled_by_data(
    cx: &mut NodeContext<'_>,
    style: &Style,
    x: Value,
    axes: &[usize],
    n: usize,
) -> Result<Vec<Axis>, OpError> {
    let shape = cx.b.shape(x)?;
    let scales = data_floats(cx, n, axes.len())?;
    let mut result = Vec::with_capacity(axes.len());
    for (i, (&axis, scale)) in axes.iter().zip(scales).enumerate() {
        let input = shape[axis].clone();
        // Exporters meant the product of `f32` numbers, as where the scale is known.
        let size = cx.b.map(&[scale], |e| {
            let (scale, input) = (e.arg(0), e.dim(&input));
            let (scale, input) = (e.cast(DType::F32, scale), e.cast(DType::F32, input));
            let size = e.mul(input, scale);
            let size = e.floor(size);
            Ok(e.cast(DType::I64, size))
        })?;
        let output = cx.bind_one(size, &Dim::from(DEFAULT_HIGH))?;
        let transform = transform(cx, style, None, i, axes.len())?;
        let data = AxisData { scale: Some(scale), crop: None };
        result.push(Axis { axis, input, output, scale: None, transform, data });
    }
    Ok(result)
}

fn interpolation(cx: &NodeContext<'_>, rounding: &str) -> Result<Interpolation, OpError> {
    Ok(match cx.text("mode")?.unwrap_or("nearest") {
        "nearest" => Interpolation::Nearest(match rounding {
            "round_prefer_floor" => Rounding::PreferFloor,
            "round_prefer_ceil" => Rounding::PreferCeil,
            "floor" => Rounding::Floor,
            "ceil" => Rounding::Ceil,
            other => return cx.invalid(format!("attribute `nearest_mode` is `{other}`")),
        }),
        "linear" | "bilinear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic(f64::from(cx.float("cubic_coeff_a", -0.75))),
        other => return cx.invalid(format!("attribute `mode` is `{other}`")),
    })
}

/// The transform of the `i`-th of `count` axes.
fn transform(
    cx: &NodeContext<'_>,
    style: &Style,
    roi: Option<&[f64]>,
    i: usize,
    count: usize,
) -> Result<Transform, OpError> {
    Ok(match style.transform.as_str() {
        "half_pixel" => Transform::HalfPixel,
        "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
        "pytorch_half_pixel" => Transform::PytorchHalfPixel,
        "align_corners" => Transform::AlignCorners,
        "asymmetric" => Transform::Asymmetric,
        // An old name for pixel centres that are floored.
        "tf_half_pixel_for_nn" => Transform::HalfPixel,
        "tf_crop_and_resize" => {
            let (start, end) = roi.map_or((0.0, 1.0), |roi| (roi[i], roi[count + i]));
            Transform::Crop { start, end, outside: style.outside }
        }
        other => return cx.invalid(format!("attribute `coordinate_transformation_mode` is `{other}`")),
    })
}

fn scaled_axes(
    cx: &NodeContext<'_>,
    style: &Style,
    x: Value,
    axes: &[usize],
    scales: &[f64],
    roi: Option<&[f64]>,
) -> Result<Vec<Axis>, OpError> {
    let shape = cx.b.shape(x)?;
    if scales.len() != axes.len() || scales.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return cx.invalid(format!("scales {scales:?} for {} axes", axes.len()));
    }
    let mut result = Vec::new();
    for (i, (&axis, &scale)) in axes.iter().zip(scales).enumerate() {
        let (input, transform) = (shape[axis].clone(), transform(cx, style, roi, i, axes.len())?);
        let output = match input.as_const() {
            // Exporters meant the product of `f32` numbers: 10 * 0.7 is 7, also where the exact product is less.
            Some(n) => Dim::from((n as f32 * scale as f32).floor() as i64),
            None => scaled_dim(cx, &input, scale)?,
        };
        result.push(Axis { axis, input, output, scale: Some(scale), transform, data: AxisData::default() });
    }
    Ok(result)
}

/// `floor(size * scale)`: every `f32` is a fraction with a power of two.
fn scaled_dim(cx: &NodeContext<'_>, size: &Dim, scale: f64) -> Result<Dim, OpError> {
    let bits = (0..32).find(|&k| (scale * f64::from(1u32 << k)).fract() == 0.0);
    let Some(bits) = bits.filter(|_| scale < f64::from(1u32 << 20)) else {
        return cx.unsupported(format!("the scale {scale} for a size that is not known"));
    };
    let numerator = Dim::from((scale * f64::from(1u32 << bits)) as i64);
    Ok((size * &numerator)?.floor_div(&Dim::from(1i64 << bits))?)
}

/// One scale for all axes, where sizes that are not known keep the aspect ratio: an `f64` scalar.
fn common_scale(
    cx: &mut NodeContext<'_>,
    policy: &str,
    shape: &[Dim],
    axes: &[usize],
    sizes: &[Dim],
) -> Result<Value, OpError> {
    let least = match policy {
        "not_larger" => true,
        "not_smaller" => false,
        other => return cx.invalid(format!("attribute `keep_aspect_ratio_policy` is `{other}`")),
    };
    Ok(cx.b.map_to(&[], &[], |e| {
        let mut common = None;
        for (&axis, size) in axes.iter().zip(sizes) {
            let (size, input) = (e.dim(size), e.dim(&shape[axis]));
            let (size, input) = (e.cast(DType::F64, size), e.cast(DType::F64, input));
            let ratio = e.div(size, input);
            common = Some(match common {
                None => ratio,
                Some(so_far) if least => e.min(so_far, ratio),
                Some(so_far) => e.max(so_far, ratio),
            });
        }
        common.ok_or_else(|| BuildError::Invalid("a resize of no axes".into()))
    })?)
}

fn sized_axes(
    cx: &mut NodeContext<'_>,
    style: &Style,
    x: Value,
    axes: &[usize],
    sizes: &[Dim],
    roi: Option<&[f64]>,
) -> Result<Vec<Axis>, OpError> {
    let shape = cx.b.shape(x)?;
    if sizes.len() != axes.len() {
        return cx.invalid(format!("{} sizes for {} axes", sizes.len(), axes.len()));
    }
    let policy = cx.text("keep_aspect_ratio_policy")?.unwrap_or("stretch");
    let mut common = None;
    if policy != "stretch" {
        let ratio = |(&axis, size): (&usize, &Dim)| Some(size.as_const()? as f64 / shape[axis].as_const()? as f64);
        let Some(ratios) = axes.iter().zip(sizes).map(ratio).collect::<Option<Vec<f64>>>() else {
            let common = common_scale(cx, policy, &shape, axes, sizes)?;
            let mut result = Vec::with_capacity(axes.len());
            for (i, &axis) in axes.iter().enumerate() {
                let (input, transform) = (shape[axis].clone(), transform(cx, style, roi, i, axes.len())?);
                let size = cx.b.map(&[common], |e| {
                    let (scale, input, half) = (e.arg(0), e.dim(&input), e.number(DType::F64, 0.5)?);
                    let input = e.cast(DType::F64, input);
                    let size = e.mul(scale, input);
                    let size = e.add(size, half);
                    let size = e.floor(size);
                    Ok(e.cast(DType::I64, size))
                })?;
                let output = cx.bind_one(size, &Dim::from(DEFAULT_HIGH))?;
                let data = AxisData { scale: Some(common), crop: None };
                result.push(Axis { axis, input, output, scale: None, transform, data });
            }
            return Ok(result);
        };
        common = match policy {
            "not_larger" => ratios.into_iter().reduce(f64::min),
            "not_smaller" => ratios.into_iter().reduce(f64::max),
            other => return cx.invalid(format!("attribute `keep_aspect_ratio_policy` is `{other}`")),
        };
    }
    let mut result = Vec::new();
    for (i, (&axis, size)) in axes.iter().zip(sizes).enumerate() {
        let (input, transform) = (shape[axis].clone(), transform(cx, style, roi, i, axes.len())?);
        let output = match (common, input.as_const()) {
            (Some(scale), Some(n)) => Dim::from((scale * n as f64 + 0.5) as i64),
            _ => size.clone(),
        };
        result.push(Axis { axis, input, output, scale: common, transform, data: AxisData::default() });
    }
    Ok(result)
}

fn resize_axes(cx: &mut NodeContext<'_>, style: &Style, x: Value, axes: Vec<Axis>) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(x)?;
    let weighted = !matches!(style.interpolation, Interpolation::Nearest(_));
    let acc = if dtype.is_float() { sum_type(dtype) } else { DType::F32 };
    let mut y = if weighted { cx.b.cast(x, acc)? } else { x };
    for axis in axes {
        let whole = match axis.transform {
            Transform::Crop { start, end, .. } => start == 0.0 && end == 1.0,
            _ => true,
        };
        if !axis.data.is_some()
            && axis.input == axis.output
            && axis.scale.is_none_or(|s| (s - 1.0).abs() < 1e-9)
            && whole
        {
            continue;
        }
        let (Some(input), Some(output), false) = (axis.input.as_const(), axis.output.as_const(), axis.data.is_some())
        else {
            y = resize_unknown(cx, style, y, &axis)?;
            continue;
        };
        if input < 1 || !(0..=i64::from(i32::MAX)).contains(&output) {
            return cx.invalid(format!("resizes {input} elements to {output}"));
        }
        let scale = axis.scale.unwrap_or(output as f64 / input as f64);
        let taps = AxisResize {
            input,
            output,
            scale,
            transform: axis.transform,
            interpolation: style.interpolation,
            antialias: style.antialias,
            exclude_outside: style.exclude_outside,
        }
        .taps();
        y = match taps.repetition(input) {
            Some(factor) => repeat(cx, y, axis.axis, factor)?,
            None if taps.count <= MAX_GATHERED_TAPS => gather_taps(cx, y, axis.axis, output, &taps)?,
            None => contract_taps(cx, y, axis.axis, (input, output), &taps)?,
        };
    }
    Ok(cx.b.cast(y, dtype)?)
}

/// Each element of an axis `factor` times in a row.
fn repeat(cx: &mut NodeContext<'_>, x: Value, axis: usize, factor: i64) -> Result<Value, OpError> {
    let factor = Dim::from(factor);
    let mut shape = cx.b.shape(x)?;
    let split = cx.b.unsqueeze(x, &[axis as i64 + 1])?;
    let mut repeated = cx.b.shape(split)?;
    repeated[axis + 1] = factor.clone();
    let repeated = cx.b.broadcast(split, &repeated)?;
    shape[axis] = (&shape[axis] * &factor)?;
    Ok(cx.b.reshape(repeated, &shape)?)
}

/// The shape of a vector along an axis, that broadcasts to tensors of a rank.
fn along(axis: usize, rank: usize, size: Dim) -> Shape {
    std::iter::once(size).chain(std::iter::repeat_n(Dim::ONE, rank - axis - 1)).collect()
}

/// Elements of `x` at these indices along an axis.
fn gather_axis(cx: &mut NodeContext<'_>, x: Value, axis: usize, index: Value, size: &Dim) -> Result<Value, OpError> {
    let mut shape = cx.b.shape(x)?;
    let coords: Vec<Coord> =
        (0..shape.len()).map(|i| if i == axis { Coord::Input(0) } else { Coord::Axis(i as u32) }).collect();
    let index = cx.b.reshape(index, &along(axis, shape.len(), size.clone()))?;
    shape[axis] = size.clone();
    Ok(cx.b.gather(x, &[index], &coords, &shape)?)
}

/// A sum of gathered neighbours.
fn gather_taps(cx: &mut NodeContext<'_>, x: Value, axis: usize, output: i64, taps: &Taps) -> Result<Value, OpError> {
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    let spread = along(axis, rank, Dim::from(output));
    let vector = |cx: &mut NodeContext<'_>, values: &[f32]| -> Result<Value, OpError> {
        let v = cx.b.constant(TensorBytes::from_f32(&[output], values), "")?;
        let v = cx.b.cast(v, dtype)?;
        Ok(cx.b.reshape(v, &spread)?)
    };
    let mut inputs = Vec::new();
    let mut weighted = Vec::new();
    for n in 0..taps.count {
        let index: Vec<i64> = taps.indices.iter().skip(n).step_by(taps.count).copied().collect();
        let weights: Vec<f32> = taps.weights.iter().skip(n).step_by(taps.count).copied().collect();
        let index = cx.b.i64s(&index);
        inputs.push(gather_axis(cx, x, axis, index, &Dim::from(output))?);
        weighted.push(weights.iter().any(|&w| w != 1.0));
        if weighted[n] {
            inputs.push(vector(cx, &weights)?);
        }
    }
    if let Some(added) = &taps.added {
        inputs.push(vector(cx, added)?);
    }
    Ok(cx.b.map(&inputs, |e| {
        let mut at = 0;
        let mut next = |e: &mut ExprBuilder| {
            at += 1;
            e.arg(at - 1)
        };
        let mut sum: Option<ExprIndex> = None;
        let mut add = |e: &mut ExprBuilder, term| sum = Some(sum.map_or(term, |s| e.add(s, term)));
        for &weighted in &weighted {
            let mut term = next(e);
            if weighted {
                let weight = next(e);
                term = e.mul(term, weight);
            }
            add(e, term);
        }
        if taps.added.is_some() {
            let term = next(e);
            add(e, term);
        }
        sum.ok_or_else(|| BuildError::Invalid("a resize without neighbours".into()))
    })?)
}

/// A product with the matrix of all weights.
fn contract_taps(
    cx: &mut NodeContext<'_>,
    x: Value,
    axis: usize,
    (input, output): (i64, i64),
    taps: &Taps,
) -> Result<Value, OpError> {
    let (rank, dtype) = (cx.b.rank(x)?, cx.b.dtype(x)?);
    let mut matrix = vec![0.0f32; (input * output) as usize];
    for (n, (&i, &w)) in taps.indices.iter().zip(&taps.weights).enumerate() {
        matrix[n / taps.count * input as usize + i as usize] += w;
    }
    let weights = cx.b.constant(TensorBytes::from_f32(&[output, input], &matrix), "")?;
    let weights = cx.b.cast(weights, dtype)?;
    let label = |n: usize| Label::try_from(n).map_err(|_| OpError::Invalid(format!("a tensor of rank {rank}")));
    let labels = (0..rank).map(label).collect::<Result<Vec<Label>, _>>()?;
    let new = label(rank)?;
    let mut out = labels.clone();
    out[axis] = new;
    let contract = Contract {
        lhs: labels.as_slice().into(),
        rhs: [new, labels[axis]].as_slice().into(),
        out: out.as_slice().into(),
        acc: dtype,
        panel: None,
    };
    let y = cx.b.contract(contract, x, weights)?;
    let Some(added) = &taps.added else { return Ok(y) };
    let added = cx.b.constant(TensorBytes::from_f32(&[output], added), "")?;
    let added = cx.b.cast(added, dtype)?;
    let added = cx.b.reshape(added, &along(axis, rank, Dim::from(output)))?;
    Ok(cx.b.add(y, added)?)
}
