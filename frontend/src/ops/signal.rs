//! Signal processing: Fourier transforms as products with constant matrices, windows, and the mel scale.

use std::f64::consts::PI;

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::{Contract, Conv, Label};
use onnxc_ir::tensor::{TensorBytes, Value};

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("DFT", &[17, 20], (1, 3), dft)
        .limited("The length of the signal is known when the model is compiled."),
    Operator::onnx("STFT", &[17], (2, 4), stft).limited("The length of a frame is known when the model is compiled."),
    Operator::onnx("HannWindow", &[17], (1, 1), |cx| window(cx, &[0.5, -0.5])),
    Operator::onnx("HammingWindow", &[17], (1, 1), |cx| window(cx, &[25.0 / 46.0, 25.0 / 46.0 - 1.0])),
    Operator::onnx("BlackmanWindow", &[17], (1, 1), |cx| window(cx, &[0.42, -0.5, 0.08])),
    Operator::onnx("MelWeightMatrix", &[17], (5, 5), mel_weight_matrix),
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
fn float_constant(cx: &mut NodeContext<'_>, dtype: DType, shape: &[i64], values: &[f64]) -> Result<Value, OpError> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = TensorBytes { dtype: DType::F64, shape: shape.into(), bytes: bytes.into() };
    if dtype == DType::F32 {
        let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        return Ok(cx.b.constant(TensorBytes::from_f32(shape, &narrow), "")?);
    }
    let wide = cx.b.constant(tensor, "")?;
    Ok(cx.b.cast(wide, dtype)?)
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
    let axis = match cx.version {
        ..20 => cx.int("axis", 1),
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
    Ok(vec![transformed(cx, x, axis, length, (inverse, onesided))?])
}

/// The transform of a signal of known size along an axis that is not the last; the last holds the one or two parts of its
/// numbers. Half a spectrum transforms back to a real signal.
pub(super) fn transformed(
    cx: &mut NodeContext<'_>,
    x: Value,
    axis: usize,
    length: i64,
    (inverse, onesided): (bool, bool),
) -> Result<Value, OpError> {
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let rank = shape.len();
    let sizes = (shape[axis].as_const(), shape[rank - 1].as_const());
    let (Some(size), Some(parts @ (1 | 2))) = sizes else {
        return cx.unsupported("a signal whose length is not known");
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
        return cx.unsupported(format!("a Fourier transform of length {length}"));
    }
    let x = cx.b.slice_axis(x, axis as i64, &Dim::ZERO, &Dim::from(used), 1)?;
    let x = cx.b.cast(x, DType::F64)?;
    let mut weights = Vec::new();
    for k in 0..transform.inputs {
        for from in 0..transform.input_parts {
            for o in 0..transform.outputs {
                weights.extend((0..transform.output_parts).map(|to| transform.weight((k, from), (o, to))));
            }
        }
    }
    let extents = [transform.inputs, transform.input_parts, transform.outputs, transform.output_parts];
    let matrix = float_constant(cx, DType::F64, &extents.map(|n| n as i64), &weights)?;
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
    let y = cx.b.contract(contract, x, matrix)?;
    Ok(cx.b.cast(y, dtype)?)
}

/// Transforms of overlapping frames are a convolution with the windowed matrix, whose step is that of the frames.
fn stft(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, step) = (cx.input(0)?, cx.known_i64(1)?);
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let window = cx.optional(2);
    let window_size = match window {
        Some(window) => cx.b.shape(window)?.first().and_then(Dim::as_const),
        None => None,
    };
    let Some(length) = optional_i64(cx, 3)?.or(window_size).or(shape.get(1).and_then(Dim::as_const)) else {
        return cx.unsupported("frames whose length is not known");
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
    if step < 1 || length < 1 {
        return cx.invalid(format!("frames of length {length} with step {step}"));
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
    let mut filter = float_constant(cx, dtype, &[2 * bins, parts, length], &weights)?;
    if let Some(window) = window {
        filter = cx.b.mul(filter, window)?;
    }
    let channels = [shape[0].clone(), shape[1].clone(), Dim::from(parts)];
    let x = cx.b.reshape(x, &channels)?;
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

/// Triangles on the mel scale, `[dft_length / 2 + 1, num_mel_bins]`.
fn mel_weight_matrix(cx: &mut NodeContext<'_>) -> OpResult {
    let (bins, length, rate) = (cx.known_i64(0)?, cx.known_i64(1)?, cx.known_i64(2)?);
    let edge = |n: usize| match cx.b.graph.known[cx.input(n)?].as_ref().and_then(|k| k.all_floats()).as_deref() {
        Some(&[x]) => Ok(x),
        _ => cx.unsupported(format!("input {n} has to be a constant")),
    };
    let (low, high) = (edge(3)?, edge(4)?);
    let dtype = cx.dtype("output_datatype")?.unwrap_or(DType::F32);
    let spectrum = length / 2 + 1;
    if bins < 1 || length < 1 || rate < 1 || bins.saturating_mul(spectrum) > MAX_MATRIX as i64 {
        return cx.invalid(format!("{bins} mel bins of a transform of length {length} at {rate} Hz"));
    }
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins + 2) as f64;
    let point = |i: i64| {
        let hertz = 700.0 * (10f64.powf((i as f64 * step + mel(low)) / 2595.0) - 1.0);
        ((length + 1) as f64 * hertz / rate as f64).floor() as i64
    };
    let mut matrix = vec![0.0; (bins * spectrum) as usize];
    let mut set = |row: i64, column: i64, value: f64| {
        if (0..spectrum).contains(&row) {
            matrix[(row * bins + column) as usize] = value;
        }
    };
    for i in 0..bins {
        let (left, centre, right) = (point(i), point(i + 1), point(i + 2));
        if left == centre {
            set(centre, i, 1.0);
        }
        for j in left..=centre.min(spectrum) {
            if left != centre {
                set(j, i, (j - left) as f64 / (centre - left) as f64);
            }
        }
        for j in centre..right.min(spectrum) {
            set(j, i, (right - j) as f64 / (right - centre) as f64);
        }
    }
    Ok(vec![float_constant(cx, dtype, &[spectrum, bins], &matrix)?])
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
