//! Convolutions.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::Conv;
use onnxc_ir::tensor::{Shape, Value};

use super::Operator;
use super::linear::sum_type;
use super::sliding::{AutoPad, Sliding, auto_pad, positive, stated_pads};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Conv", &[1, 11, 22], (2, 3), conv)
        .limited("The filter's spatial sizes are known when the model is compiled."),
    Operator::onnx("ConvTranspose", &[1, 11, 22], (2, 3), conv_transpose)
        .limited("The filter's spatial sizes are known when the model is compiled."),
];

fn conv(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let dtype = cx.b.dtype(x)?;
    let y = convolve(cx, x, w, sum_type(dtype))?;
    let y = cx.b.cast(y, dtype)?;
    let bias = cx.optional(2);
    Ok(vec![add_bias(cx, y, bias)?])
}

/// The convolution that the node's attributes describe, without a bias; `acc` is the type of products, sums and result.
pub(super) fn convolve(cx: &mut NodeContext<'_>, x: Value, w: Value, acc: DType) -> Result<Value, OpError> {
    convolve_filled(cx, x, w, acc, 0)
}

/// The same with the input padded by an integer other than 0.
pub(super) fn convolve_filled(
    cx: &mut NodeContext<'_>,
    x: Value,
    w: Value,
    acc: DType,
    fill: i64,
) -> Result<Value, OpError> {
    let (shape, kernel) = (cx.b.shape(x)?, kernel_sizes(cx, x, w)?);
    let mut windows = Sliding::read(cx, &shape[2..], kernel)?;
    let (mut x, mut pad_lo, mut pad_hi) = windows.settle_pads(cx, x, fill as f64)?;
    if fill != 0 && pad_lo.iter().chain(&pad_hi).any(|&pad| pad != 0) {
        let dims = |pads: &[i64]| -> Vec<Dim> { [0, 0].iter().chain(pads).map(|&pad| Dim::from(pad)).collect() };
        let dtype = cx.b.dtype(x)?;
        let number = cx.b.number(dtype, fill as f64)?;
        x = cx.b.pad(x, number, &dims(&pad_lo), &dims(&pad_hi))?;
        pad_lo.fill(0);
        pad_hi.fill(0);
    }
    let conv = Conv {
        strides: windows.strides.into(),
        pad_lo: pad_lo.into(),
        pad_hi: pad_hi.into(),
        lhs_dilation: windows.kernel.iter().map(|_| 1).collect(),
        rhs_dilation: windows.dilations.into(),
        groups: cx.int("group", 1),
        channels_last: false,
        acc,
        panel: None,
        winograd: None,
        kernel: windows.kernel.into(),
    };
    Ok(cx.b.conv(conv, x, w)?)
}

/// The filter's spatial sizes, which the attribute `kernel_shape` repeats.
fn kernel_sizes(cx: &NodeContext<'_>, x: Value, w: Value) -> Result<Vec<i64>, OpError> {
    let (x, w) = (cx.b.shape(x)?, cx.b.shape(w)?);
    if x.len() < 2 || x.len() != w.len() {
        let (x, w) = (cx.b.graph.shape_text(&x), cx.b.graph.shape_text(&w));
        return cx.invalid(format!("convolution of {x} with a filter of shape {w}"));
    }
    let Some(kernel) = w[2..].iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() else {
        return cx.unsupported("the filter's spatial sizes have to be known when the model is compiled");
    };
    match cx.ints("kernel_shape") {
        Some(stated) if stated != kernel => {
            cx.invalid(format!("attribute `kernel_shape` is {stated:?}, the filter has {kernel:?}"))
        }
        _ => Ok(kernel),
    }
}

/// Adds one number per channel (axis 1).
pub(super) fn add_bias(cx: &mut NodeContext<'_>, y: Value, bias: Option<Value>) -> Result<Value, OpError> {
    let Some(bias) = bias else { return Ok(y) };
    let bias = along_channels(cx, bias, y)?;
    Ok(cx.b.add(y, bias)?)
}

/// A vector with one element per channel, shaped to broadcast along axis 1 of `like`.
pub(super) fn along_channels(cx: &mut NodeContext<'_>, vector: Value, like: Value) -> Result<Value, OpError> {
    let (shape, rank) = (cx.b.shape(vector)?, cx.b.rank(like)?);
    if shape.len() != 1 || rank < 2 {
        let text = cx.b.graph.shape_text(&shape);
        return cx.invalid(format!("{text} instead of one element per channel of a tensor of rank {rank}"));
    }
    let spread: Shape = shape.into_iter().chain(std::iter::repeat_n(Dim::ONE, rank - 2)).collect();
    Ok(cx.b.reshape(vector, &spread)?)
}

fn conv_transpose(cx: &mut NodeContext<'_>) -> OpResult {
    let (pads, bias) = (cx.ints("pads"), cx.optional(2));
    Ok(vec![transposed_convolution(cx, pads, bias)?])
}

/// A convolution of the input, spread by the stride, with the mirrored filter. `pads` crop the output: befores, then
/// afters.
pub(super) fn transposed_convolution(
    cx: &mut NodeContext<'_>,
    pads: Option<&[i64]>,
    bias: Option<Value>,
) -> Result<Value, OpError> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let (shape, kernel) = (cx.b.shape(x)?, kernel_sizes(cx, x, w)?);
    let rank = kernel.len();
    let (strides, dilations) = (positive(cx, "strides", rank)?, positive(cx, "dilations", rank)?);
    let extents: Vec<i64> = (0..rank).map(|i| (kernel[i] - 1) * dilations[i] + 1).collect();
    if kernel.iter().any(|&k| k < 1 || k > i64::from(i32::MAX)) {
        return cx.invalid(format!("kernel of size {kernel:?}"));
    }
    let output_padding = match cx.ints("output_padding") {
        None => vec![0; rank],
        Some(p) if p.len() == rank && p.iter().all(|p| (0..=i64::from(i32::MAX)).contains(p)) => p.to_vec(),
        Some(p) => return cx.invalid(format!("attribute `output_padding` is {p:?} for {rank} spatial dimensions")),
    };
    let (mut lo, mut hi) = transposed_pads(cx, pads, &shape[2..], &strides, &extents, &output_padding)?;
    for i in 0..rank {
        lo[i] = extents[i] - 1 - lo[i];
        hi[i] = extents[i] - 1 - hi[i] + output_padding[i];
    }
    let groups = cx.int("group", 1);
    let filter = mirrored_filter(cx, w, groups)?;
    let dtype = cx.b.dtype(x)?;
    let conv = Conv {
        strides: kernel.iter().map(|_| 1).collect(),
        pad_lo: lo.into(),
        pad_hi: hi.into(),
        lhs_dilation: strides.into(),
        rhs_dilation: dilations.into(),
        groups,
        channels_last: false,
        acc: sum_type(dtype),
        panel: None,
        winograd: None,
        kernel: kernel.into(),
    };
    let y = cx.b.conv(conv, x, filter)?;
    let y = cx.b.cast(y, dtype)?;
    add_bias(cx, y, bias)
}

/// What the output of a transposed convolution is cropped by, before and after.
fn transposed_pads(
    cx: &NodeContext<'_>,
    pads: Option<&[i64]>,
    spatial: &[Dim],
    strides: &[i64],
    extents: &[i64],
    output_padding: &[i64],
) -> Result<(Vec<i64>, Vec<i64>), OpError> {
    let rank = spatial.len();
    let auto = auto_pad(cx)?;
    let wanted: Vec<Dim> = match (cx.ints("output_shape"), auto) {
        // Some exporters give the whole output shape.
        (Some(sizes), _) if sizes.len() == rank || sizes.len() == rank + 2 => {
            sizes[sizes.len() - rank..].iter().map(|&n| Dim::from(n)).collect()
        }
        (Some(sizes), _) => {
            return cx.invalid(format!("attribute `output_shape` is {sizes:?} for {rank} spatial dimensions"));
        }
        (None, AutoPad::Explicit) => return stated_pads(cx, pads, rank),
        (None, AutoPad::Valid) => return Ok((vec![0; rank], vec![0; rank])),
        (None, AutoPad::SameUpper | AutoPad::SameLower) => {
            spatial.iter().zip(strides).map(|(n, &s)| n * &Dim::from(s)).collect::<Result<_, _>>()?
        }
    };
    let (mut lo, mut hi) = (Vec::new(), Vec::new());
    for i in 0..rank {
        let steps = (&(&spatial[i] - &Dim::ONE)? * &Dim::from(strides[i]))?;
        let full = (&steps + &Dim::from(extents[i] + output_padding[i]))?;
        let Some(total) = (&full - &wanted[i])?.as_const() else {
            return cx.unsupported("the attribute `output_shape` with an input size that is not known");
        };
        let before = match auto {
            // More elements than there are: they are zeros at the end.
            _ if total < 0 => 0,
            AutoPad::SameUpper => total / 2,
            AutoPad::Explicit | AutoPad::Valid | AutoPad::SameLower => total - total / 2,
        };
        lo.push(before);
        hi.push(total - before);
    }
    Ok((lo, hi))
}

/// `[C, M / groups, kernel...]` as the filter `[M, C / groups, kernel...]` of an ordinary convolution, mirrored.
fn mirrored_filter(cx: &mut NodeContext<'_>, w: Value, groups: i64) -> Result<Value, OpError> {
    let shape = cx.b.shape(w)?;
    let spatial = &shape[2..];
    let (channels, per_group) = (&shape[0], &shape[1]);
    if groups < 1 || channels.as_const().is_some_and(|c| c % groups != 0) {
        let text = cx.b.graph.shape_text(&shape);
        return cx.invalid(format!("a filter of shape {text} in {groups} groups"));
    }
    let groups = Dim::from(groups);
    let inner = channels.floor_div(&groups)?;
    let split: Shape =
        [groups.clone(), inner.clone(), per_group.clone()].into_iter().chain(spatial.iter().cloned()).collect();
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
    let joined: Shape = [(per_group * &groups)?, inner].into_iter().chain(spatial.iter().cloned()).collect();
    let w = cx.b.reshape(w, &split)?;
    let w = cx.b.transpose(w, &perm)?;
    let w = cx.b.reshape(w, &joined)?;
    let mut starts: Shape = joined.iter().map(|_| Dim::ZERO).collect();
    let mut steps: Vec<i64> = joined.iter().map(|_| 1).collect();
    for (i, size) in joined.iter().enumerate().skip(2).filter(|(_, n)| **n != 1) {
        starts[i] = (size - &Dim::ONE)?;
        steps[i] = -1;
    }
    Ok(cx.b.slice(w, &starts, &joined, &steps)?)
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, noise};

    #[test]
    fn transposed_with_groups_and_cropping() {
        // Two groups of one channel; each element spreads its filter over steps of 2.
        let conv = || TestModel::new("ConvTranspose", 11).int("group", 2).ints("strides", &[2]);
        let (x, w) = ([1.0, 2.0, 10.0, 20.0], [1.0, 3.0, 5.0, 1.0, 2.0, 3.0]);
        let (shape, y) = conv().input(&[1, 2, 2], &x).floats(&[2, 1, 3], &w).run();
        assert_eq!(shape, [1, 2, 5]);
        assert_eq!(y, [1.0, 3.0, 7.0, 6.0, 10.0, 10.0, 20.0, 50.0, 40.0, 60.0]);
        let cropped = conv().ints("pads", &[1, 2]).ints("output_padding", &[1]);
        let (shape, y) = cropped.input(&[1, 2, 2], &x).floats(&[2, 1, 3], &w).run();
        assert_eq!((shape, y), (vec![1, 2, 3], vec![3.0, 7.0, 6.0, 20.0, 50.0, 40.0]));
    }

    #[test]
    fn transposed_to_a_shape() {
        for auto_pad in ["NOTSET", "SAME_UPPER", "SAME_LOWER"] {
            let conv = TestModel::new("ConvTranspose", 11).ints("strides", &[2, 3]).text("auto_pad", auto_pad);
            let conv = conv.input(&[1, 1, 3, 3], &noise(9)).floats(&[1, 1, 2, 4], &noise(8));
            assert_eq!(conv.ints("output_shape", &[5, 8]).run().0, [1, 1, 5, 8]);
        }
    }

    #[test]
    fn sizes_follow_unknown_ones() {
        let conv = || TestModel::new("Conv", 11).ints("pads", &[1, 1]).floats(&[4, 2, 3], &noise(24));
        let x = noise(20);
        let mut model = TestModel::new("Conv", 11).ints("pads", &[1, 1]).dynamic(&[1, 2, 10], &x);
        model = model.floats(&[4, 2, 3], &noise(24));
        assert_eq!(model.run().0, [1, 4, 10]);
        assert!(conv().floats(&[2, 3, 3], &noise(18)).error().contains("channels"));
    }
}
