//! Resizing of images: one axis after the other.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Contract, Coord, Label, ReduceOp};
use onnxc_ir::tensor::{Shape, TensorBytes, Value};

use super::Operator;
use super::linear::sum_type;
use super::resample::{AxisResize, Interpolation, Rounding, Taps, Transform};
use crate::import::{NodeContext, OpError, OpResult};

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

/// Resizes an axis whose sizes only a run knows: positions and weights are computed there.
fn resize_unknown(cx: &mut NodeContext<'_>, style: &Style, x: Value, axis: &Axis) -> Result<Value, OpError> {
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
    let plain = !style.antialias && !style.exclude_outside;
    if !matches!(style.interpolation, Interpolation::Nearest(_))
        && !(plain && style.interpolation == Interpolation::Linear)
    {
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

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, noise};

    fn resize(mode: &str, transform: &str) -> TestModel {
        TestModel::new("Resize", 13).text("mode", mode).text("coordinate_transformation_mode", transform)
    }

    #[test]
    fn unknown_sizes_resize_alike() {
        let x = noise(30);
        let transforms = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"];
        for (mode, antialias, exclude) in [
            ("nearest", 0, 0),
            ("linear", 0, 0),
            ("linear", 1, 0),
            ("linear", 0, 1),
            ("cubic", 0, 0),
            ("cubic", 1, 0),
            ("cubic", 0, 1),
        ] {
            for transform in transforms {
                for scales in [[1.0, 2.0], [1.0, 1.5], [0.4, 3.0], [1.0, 0.7]] {
                    // Whole output sizes, because corners of fractional ones are aligned to other places.
                    let whole = scales.iter().zip([5.0, 6.0f32]).all(|(s, n)| (s * n).fract() == 0.0);
                    if transform == "align_corners" && !whole {
                        continue;
                    }
                    let resize = || {
                        let style = |m: TestModel| m.int("antialias", antialias).int("exclude_outside", exclude);
                        style(TestModel::new("Resize", 18).text("mode", mode))
                            .text("coordinate_transformation_mode", transform)
                    };
                    let finish = |model: TestModel| model.absent().floats(&[2], &scales).run();
                    let known = finish(resize().input(&[5, 6], &x));
                    let by_data = resize().input(&[5, 6], &x).absent().input(&[2], &scales).run();
                    assert_close(&by_data, &known);
                    let unknown = finish(resize().dynamic(&[5, 6], &x));
                    if known.0 == unknown.0 {
                        assert_close(&unknown, &known);
                    } else {
                        // 0.7 * 6 rounds differently in `f32`.
                        assert_eq!(scales[1], 0.7);
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_keep_the_aspect_ratio() {
        let sized = |policy| {
            let model = TestModel::new("Resize", 19).text("keep_aspect_ratio_policy", policy).ints("axes", &[0, 1]);
            model.input(&[2, 4], &noise(8)).absent().absent().integers(&[7, 8]).run().0
        };
        assert_eq!([sized("stretch"), sized("not_larger"), sized("not_smaller")], [[7, 8], [4, 8], [7, 14]]);
    }

    #[test]
    fn doubling_an_unknown_size_is_known_to_double() {
        let model = resize("nearest", "asymmetric").text("nearest_mode", "floor");
        let (shape, y) = model.dynamic(&[1, 3], &[1.0, 2.0, 3.0]).absent().floats(&[2], &[2.0, 2.0]).run();
        assert_eq!(shape, [2, 6]);
        assert_eq!(y, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0].repeat(2));
    }

    #[test]
    fn wrong_operands_are_named() {
        let model = || resize("linear", "half_pixel").input(&[4], &noise(4));
        assert!(model().error().contains("neither scales nor sizes"));
        assert!(model().absent().floats(&[2], &[1.0, 2.0]).error().contains("for 1 axes"));
    }
}
