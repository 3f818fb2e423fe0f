//! Signal processing: Fourier transforms as products with constant matrices, windows, and the mel scale.

mod mel;

use std::f64::consts::PI;

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::CmpOp;
use onnxc_ir::tensor::op::{Contract, Conv, Coord, Label};
use onnxc_ir::tensor::{Builder, TensorBytes, Value};

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("DFT", &[17, 20], (1, 3), dft)
        .limited("The length of the signal and of the transform are known when the model is compiled."),
    Operator::onnx("STFT", &[17], (2, 4), stft),
    Operator::onnx("HannWindow", &[17], (1, 1), |cx| window(cx, &[0.5, -0.5])),
    Operator::onnx("HammingWindow", &[17], (1, 1), |cx| window(cx, &[25.0 / 46.0, 25.0 / 46.0 - 1.0])),
    Operator::onnx("BlackmanWindow", &[17], (1, 1), |cx| window(cx, &[0.42, -0.5, 0.08])),
    Operator::onnx("MelWeightMatrix", &[17], (5, 5), mel::mel_weight_matrix),
];

/// The most elements of a transform's matrix.
const MAX_MATRIX: usize = 1 << 24;

/// A linear map from `inputs` complex or real elements to `outputs`.
#[derive(Clone, Copy)]
struct Transform {
    inputs: usize,
    input_parts: usize,
    outputs: usize,
    output_parts: usize,
    length: usize,
    inverse: bool,
    /// Whether the inputs are one half of a spectrum, whose other half mirrors it.
    half: bool,
}

impl Transform {
    fn fits(&self) -> bool {
        let elements = self.inputs.checked_mul(self.outputs).and_then(|n| n.checked_mul(4));
        elements.is_some_and(|n| n <= MAX_MATRIX)
    }

    /// The factor from an input part (0 real, 1 imaginary) to an output part.
    fn weight(&self, input: (usize, usize), output: (usize, usize)) -> f64 {
        let (k, from) = input;
        let (o, to) = output;
        // The angle of a whole number of turns less is exact.
        let turn = (k * o % self.length) as f64 / self.length as f64;
        let angle = if self.inverse { 2.0 * PI * turn } else { -2.0 * PI * turn };
        let value = match (from, to) {
            (0, 0) | (1, 1) => angle.cos(),
            (0, 1) => angle.sin(),
            _ => -angle.sin(),
        };
        let middle = k == 0 || 2 * k == self.length;
        let mirrored = if self.half && !middle { 2.0 } else { 1.0 };
        let unused = self.half && middle && from == 1;
        let scale = if self.inverse { mirrored / self.length as f64 } else { 1.0 };
        if unused { 0.0 } else { value * scale }
    }
}

/// A constant of any float type.
fn float_constant(b: &mut Builder<'_>, dtype: DType, shape: &[i64], values: &[f64]) -> Result<Value, OpError> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = TensorBytes { dtype: DType::F64, shape: shape.into(), bytes: bytes.into() };
    if dtype == DType::F32 {
        let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        return Ok(b.constant(TensorBytes::from_f32(shape, &narrow), "")?);
    }
    let wide = b.constant(tensor, "")?;
    Ok(b.cast(wide, dtype)?)
}

/// The one element of an integer input, if the node has it.
fn optional_i64(cx: &NodeContext<'_>, n: usize) -> Result<Option<i64>, OpError> {
    cx.optional(n).map(|_| cx.known_i64(n)).transpose()
}

fn dft(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let rank = shape.len();
    let (inverse, onesided) = (cx.flag("inverse", false), cx.flag("onesided", false));
    let axis = match (cx.version, cx.optional(2)) {
        (..20, _) => cx.int("axis", 1),
        (_, Some(axis)) if cx.b.known_i64s(axis).is_none() => return dft_along(cx, x, axis),
        _ => optional_i64(cx, 2)?.unwrap_or(-2),
    };
    let axis = cx.b.axis(axis, rank)?;
    let sizes = (shape[axis].as_const(), shape.last().and_then(Dim::as_const));
    let (Some(size), Some(1 | 2)) = sizes else {
        return cx.unsupported("a signal whose length is not known");
    };
    let length = match optional_i64(cx, 1)? {
        Some(length) => length,
        None if inverse && onesided => 2 * (size - 1),
        None => size,
    };
    if axis + 1 == rank || length < 1 || size < 1 {
        return cx.invalid(format!("a transform of length {length} along axis {axis} of {rank}"));
    }
    Ok(vec![transformed(&mut cx.b, x, axis, length, (inverse, onesided))?])
}

/// A transform along an axis that data names: one for each axis that there is, of which a run takes one.
fn dft_along(cx: &mut NodeContext<'_>, x: Value, axis: Value) -> OpResult {
    let shape = cx.b.shape(x)?;
    let Some(axes) = shape.len().checked_sub(1).filter(|&n| n > 0) else {
        return cx.invalid(format!("a signal of {} dimensions", shape.len()));
    };
    let (inverse, onesided) = (cx.flag("inverse", false), cx.flag("onesided", false));
    let length = optional_i64(cx, 1)?;
    let mut lengths = Vec::new();
    for size in &shape[..axes] {
        let Some(size) = size.as_const().filter(|&n| n >= 1) else {
            return cx.unsupported("an axis that depends on data, of a signal whose sizes are not known");
        };
        let length = length.unwrap_or(if inverse && onesided { 2 * (size - 1) } else { size });
        // An axis that is too short for a transform is one that no run can take.
        lengths.push(length.max(1));
    }
    let axis = cx.b.cast(axis, DType::I64)?;
    let axis = cx.b.reshape(axis, &[])?;
    let rank = Dim::from(shape.len() as i64);
    let axis = cx.b.map(&[axis], |e| {
        let (axis, rank, zero) = (e.arg(0), e.dim(&rank), e.dim(&Dim::ZERO));
        let (from_end, negative) = (e.add(axis, rank), e.lt(axis, zero));
        Ok(e.select(negative, from_end, axis))
    })?;
    let last = Dim::from(axes as i64 - 1);
    let axis = cx.bind_one(axis, &last)?;
    Ok(vec![along(&mut cx.b, x, &axis, 0, &lengths, (inverse, onesided))?])
}

/// The transform along `axis`, which is at least `at`; each axis has its length.
fn along(
    b: &mut Builder<'_>,
    x: Value,
    axis: &Dim,
    at: usize,
    lengths: &[i64],
    flags: (bool, bool),
) -> Result<Value, OpError> {
    if at + 1 == lengths.len() {
        return transformed(b, x, at, lengths[at], flags);
    }
    let (axis_value, number) = (b.dim_value(axis), b.scalar_i64(at as i64));
    let here = b.compare(CmpOp::Eq, axis_value, number)?;
    let results = b.if_(
        here,
        &[x],
        |b, captured| Ok::<_, OpError>(vec![transformed(b, captured[0], at, lengths[at], flags)?]),
        |b, captured| Ok(vec![along(b, captured[0], axis, at + 1, lengths, flags)?]),
    )?;
    Ok(results[0])
}

/// The transform of a signal of known size along an axis that is not the last; the last holds the one or two parts of its
/// numbers. Half a spectrum transforms back to a real signal.
pub(super) fn transformed(
    b: &mut Builder<'_>,
    x: Value,
    axis: usize,
    length: i64,
    (inverse, onesided): (bool, bool),
) -> Result<Value, OpError> {
    let (shape, dtype) = (b.shape(x)?, b.dtype(x)?);
    let rank = shape.len();
    let sizes = (shape[axis].as_const(), shape[rank - 1].as_const());
    let (Some(size), Some(parts @ (1 | 2))) = sizes else {
        return Err(OpError::Unsupported("a signal whose length is not known".into()));
    };
    let half = inverse && onesided;
    let used = size.min(if half { length / 2 + 1 } else { length });
    let transform = Transform {
        inputs: used as usize,
        input_parts: parts as usize,
        outputs: if onesided && !inverse { length / 2 + 1 } else { length } as usize,
        output_parts: if half { 1 } else { 2 },
        length: length as usize,
        inverse,
        half,
    };
    if !transform.fits() {
        return Err(OpError::Unsupported(format!("a Fourier transform of length {length}")));
    }
    let x = b.slice_axis(x, axis as i64, &Dim::ZERO, &Dim::from(used), 1)?;
    let x = b.cast(x, DType::F64)?;
    let mut weights = Vec::new();
    for k in 0..transform.inputs {
        for from in 0..transform.input_parts {
            for o in 0..transform.outputs {
                weights.extend((0..transform.output_parts).map(|to| transform.weight((k, from), (o, to))));
            }
        }
    }
    let extents = [transform.inputs, transform.input_parts, transform.outputs, transform.output_parts];
    let matrix = float_constant(b, DType::F64, &extents.map(|n| n as i64), &weights)?;
    let label = |n: usize| Label::try_from(n).map_err(|_| OpError::Invalid(format!("a signal of rank {rank}")));
    let labels = (0..rank).map(label).collect::<Result<Vec<Label>, _>>()?;
    let (new_axis, new_part) = (label(rank)?, label(rank + 1)?);
    let mut out = labels.clone();
    out[axis] = new_axis;
    out[rank - 1] = new_part;
    let contract = Contract {
        lhs: labels.as_slice().into(),
        rhs: [labels[axis], labels[rank - 1], new_axis, new_part].as_slice().into(),
        out: out.as_slice().into(),
        acc: DType::F64,
        panel: None,
    };
    let y = b.contract(contract, x, matrix)?;
    Ok(b.cast(y, dtype)?)
}

/// Transforms of overlapping frames are a convolution with the windowed matrix, whose step is that of the frames.
fn stft(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, step) = (cx.input(0)?, cx.input(1)?);
    let step = cx.b.known_i64s(step).and_then(|s| s.first().copied());
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let window = cx.optional(2);
    let window_size = match window {
        Some(window) => cx.b.shape(window)?.first().and_then(Dim::as_const),
        None => None,
    };
    let given = match cx.optional(3) {
        Some(length) => cx.b.known_i64s(length).and_then(|l| l.first().copied()),
        None => window_size.or(shape.get(1).and_then(Dim::as_const)),
    };
    let parts = match shape.len() {
        2 => Some(1),
        3 => shape[2].as_const(),
        _ => None,
    };
    let Some(parts @ (1 | 2)) = parts else {
        let text = cx.b.graph.shape_text(&shape);
        return cx.invalid(format!("a signal of shape {text}"));
    };
    let Some(length) = given else { return frames_of_any_length(cx, x, parts) };
    if step.is_some_and(|step| step < 1) || length < 1 {
        return cx.invalid(format!("frames of length {length} with step {}", step.unwrap_or(1)));
    }
    if window.is_some() && window_size != Some(length) {
        return cx.unsupported("a window whose length is not that of the frames");
    }
    let onesided = cx.flag("onesided", true);
    let transform = Transform {
        inputs: length as usize,
        input_parts: parts as usize,
        outputs: if onesided { length / 2 + 1 } else { length } as usize,
        output_parts: 2,
        length: length as usize,
        inverse: false,
        half: false,
    };
    if !transform.fits() {
        return cx.unsupported(format!("a Fourier transform of length {length}"));
    }
    let mut weights = Vec::new();
    for o in 0..transform.outputs {
        for to in 0..2 {
            for from in 0..transform.input_parts {
                weights.extend((0..transform.inputs).map(|k| transform.weight((k, from), (o, to))));
            }
        }
    }
    let bins = transform.outputs as i64;
    let mut filter = float_constant(&mut cx.b, dtype, &[2 * bins, parts, length], &weights)?;
    if let Some(window) = window {
        filter = cx.b.mul(filter, window)?;
    }
    let channels = [shape[0].clone(), shape[1].clone(), Dim::from(parts)];
    let x = cx.b.reshape(x, &channels)?;
    let Some(step) = step else { return frames_of_any_step(cx, x, filter, &Dim::from(length)) };
    let x = cx.b.transpose(x, &[0, 2, 1])?;
    let conv = Conv {
        strides: [step].as_slice().into(),
        pad_lo: [0].as_slice().into(),
        pad_hi: [0].as_slice().into(),
        lhs_dilation: [1].as_slice().into(),
        rhs_dilation: [1].as_slice().into(),
        groups: 1,
        channels_last: false,
        acc: super::linear::sum_type(dtype),
        panel: None,
        winograd: None,
        kernel: [length].as_slice().into(),
    };
    let y = cx.b.conv(conv, x, filter)?;
    let y = cx.b.cast(y, dtype)?;
    let frames = cx.b.shape(y)?[2].clone();
    let y = cx.b.reshape(y, &[shape[0].clone(), Dim::from(bins), Dim::from(2), frames])?;
    Ok(vec![cx.b.transpose(y, &[0, 3, 1, 2])?])
}

/// Frames of a length that data decides: the matrix of the transform is computed too.
fn frames_of_any_length(cx: &mut NodeContext<'_>, x: Value, parts: i64) -> OpResult {
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let window = cx.optional(2);
    let length = match (cx.optional(3), window) {
        (Some(_), _) => cx.size_up_to(3, &shape[1])?,
        (None, Some(window)) => cx.b.shape(window)?.first().cloned().unwrap_or(Dim::ONE),
        (None, None) => shape[1].clone(),
    };
    let bins = match cx.flag("onesided", true) {
        true => (&length.floor_div(&Dim::from(2))? + &Dim::ONE)?,
        false => length.clone(),
    };
    let matrix = cx.b.map_to(&[bins.clone(), Dim::from(2), Dim::from(parts), length.clone()], &[], |e| {
        let (bin, to, from, k) = (e.index(0), e.index(1), e.index(2), e.index(3));
        let (whole, one) = (e.dim(&length), e.dim(&Dim::ONE));
        // The angle of a whole number of turns less is exact.
        let steps = e.mul(bin, k);
        let whole = e.max(whole, one);
        let steps = e.modulo(steps, whole);
        let (steps, whole) = (e.cast(DType::F64, steps), e.cast(DType::F64, whole));
        let turn = e.div(steps, whole);
        let full = e.number(DType::F64, -2.0 * PI)?;
        let angle = e.mul(turn, full);
        let (cosine, sine) = (e.cos(angle), e.sin(angle));
        let opposite = e.neg(sine);
        let (straight, up) = (e.eq(to, from), e.gt(to, from));
        let crossed = e.select(up, sine, opposite);
        let weight = e.select(straight, cosine, crossed);
        Ok(e.cast(dtype, weight))
    })?;
    let rows = (&bins * &Dim::from(2))?;
    let mut filter = cx.b.reshape(matrix, &[rows, Dim::from(parts), length.clone()])?;
    if let Some(window) = window {
        filter = cx.b.mul(filter, window)?;
    }
    let x = cx.b.reshape(x, &[shape[0].clone(), shape[1].clone(), Dim::from(parts)])?;
    frames_of_any_step(cx, x, filter, &length)
}

/// Frames as data steps them: each is gathered. `x` is `[batch, samples, parts]`, the filter `[2 * bins, parts, length]`.
fn frames_of_any_step(cx: &mut NodeContext<'_>, x: Value, filter: Value, length: &Dim) -> OpResult {
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let filters = cx.b.shape(filter)?;
    let step = cx.input(1)?;
    let step = cx.b.cast(step, DType::I64)?;
    let step = cx.b.reshape(step, &[])?;
    let samples = shape[1].clone();
    let frames = cx.b.map(&[step], |e| {
        let (step, samples, length) = (e.arg(0), e.dim(&samples), e.dim(length));
        let (zero, one) = (e.dim(&Dim::ZERO), e.dim(&Dim::ONE));
        let (room, divisor) = (e.sub(samples, length), e.max(step, one));
        let (steps, fits) = (e.div(room, divisor), e.ge(room, zero));
        let frames = e.add(steps, one);
        let frames = e.select(fits, frames, zero);
        // No number of frames has a step below 1.
        let (wrong, none) = (e.lt(step, one), e.sub(zero, one));
        Ok(e.select(wrong, none, frames))
    })?;
    let frames = cx.bind_one(frames, &Dim::from(DEFAULT_HIGH))?;
    let places = cx.b.map_to(&[frames.clone(), length.clone()], &[step], |e| {
        let (frame, k, step) = (e.index(0), e.index(1), e.arg(0));
        let start = e.mul(frame, step);
        Ok(e.add(start, k))
    })?;
    let places = cx.b.unsqueeze(places, &[2])?;
    let parts = shape[2].clone();
    let all = [shape[0].clone(), frames.clone(), length.clone(), parts];
    let gathered = cx.b.gather(x, &[places], &[Coord::Axis(0), Coord::Input(0), Coord::Axis(3)], &all)?;
    let contract = Contract {
        lhs: [0, 1, 2, 3].as_slice().into(),
        rhs: [4, 3, 2].as_slice().into(),
        out: [0, 1, 4].as_slice().into(),
        acc: super::linear::sum_type(dtype),
        panel: None,
    };
    let y = cx.b.contract(contract, gathered, filter)?;
    let y = cx.b.cast(y, dtype)?;
    let bins = filters[0].floor_div(&Dim::from(2))?;
    Ok(vec![cx.b.reshape(y, &[shape[0].clone(), frames, bins, Dim::from(2)])?])
}

/// A sum of cosines: the `n`-th coefficient belongs to `cos(2 pi n i / N)`.
fn window(cx: &mut NodeContext<'_>, coefficients: &[f64]) -> OpResult {
    let size = cx.size_up_to(0, &Dim::from(DEFAULT_HIGH))?;
    let dtype = cx.dtype("output_datatype")?.unwrap_or(DType::F32);
    let period = if cx.flag("periodic", true) { size.clone() } else { (&size - &Dim::ONE)? };
    Ok(vec![cx.b.map_to(&[size], &[], |e| {
        let (i, period) = (e.index(0), e.dim(&period));
        let (i, period) = (e.cast(DType::F64, i), e.cast(DType::F64, period));
        let mut sum = e.number(DType::F64, coefficients[0])?;
        for (n, &c) in coefficients.iter().enumerate().skip(1) {
            let (turn, c) = (e.number(DType::F64, 2.0 * PI * n as f64)?, e.number(DType::F64, c)?);
            let angle = e.mul(i, turn);
            let angle = e.div(angle, period);
            let cosine = e.cos(angle);
            let term = e.mul(cosine, c);
            sum = e.add(sum, term);
        }
        Ok(e.cast(dtype, sum))
    })?])
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, noise};

    #[test]
    fn transforms_and_back() {
        for length in [4i64, 7] {
            let x = noise(2 * length as usize);
            let shape = [1, length, 2];
            let there = TestModel::new("DFT", 17).input(&shape, &x).run();
            let back = TestModel::new("DFT", 17).int("inverse", 1).input(&shape, &there.1).run();
            assert_close(&back, &(shape.to_vec(), x));
        }
    }

    #[test]
    fn half_a_spectrum_is_a_real_signal() {
        for length in [6i64, 7] {
            let x = noise(length as usize);
            let half = TestModel::new("DFT", 20).int("onesided", 1).input(&[1, length, 1], &x).run();
            assert_eq!(half.0, [1, length / 2 + 1, 2]);
            let back = TestModel::new("DFT", 20).int("onesided", 1).int("inverse", 1).input(&half.0, &half.1);
            let length_input = onnxc_ir::tensor::TensorBytes::from_i64(&[], &[length]);
            assert_close(&back.constant(length_input).run(), &(vec![1, length, 1], x));
        }
    }

    #[test]
    fn frames_of_an_unknown_signal() {
        let x = noise(20);
        let frames = |model: TestModel| {
            let model = model.integers(&[3]).floats(&[8], &noise(8));
            model.run()
        };
        let known = frames(TestModel::new("STFT", 17).input(&[1, 20, 1], &x));
        assert_eq!(known.0, [1, 5, 5, 2]);
        let unknown =
            TestModel::new("STFT", 17).declared(&[-1, -1, 1], onnxc_ir::tensor::TensorBytes::from_f32(&[1, 20, 1], &x));
        assert_close(&frames(unknown), &known);
        // The first bin of the first frame is the windowed sum.
        let sum: f32 = x.iter().zip(noise(8)).map(|(x, w)| x * w).sum();
        assert!((known.1[0] - sum).abs() < 1e-5);
    }
}
