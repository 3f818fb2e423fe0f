//! The attributes that convolutions and pools share: kernel, strides, dilations and paddings, `auto_pad` resolved.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::Value;

use crate::import::{NodeContext, OpError};

/// Windows over the spatial dimensions; one entry per spatial dimension.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    /// Size of the window.
    pub kernel: Vec<i64>,
    /// Step of the window.
    pub strides: Vec<i64>,
    /// Distance between elements of the window.
    pub dilations: Vec<i64>,
    /// Padding before; an expression where `auto_pad` meets an unknown size.
    pub pad_lo: Vec<Dim>,
    /// Padding after.
    pub pad_hi: Vec<Dim>,
}

/// What `auto_pad` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AutoPad {
    /// The attribute `pads` holds.
    Explicit,
    /// None.
    Valid,
    /// The output is the input divided by the stride; an odd element is padded after.
    SameUpper,
    /// The output is the input divided by the stride; an odd element is padded before.
    SameLower,
}

/// A list attribute with one positive number per spatial dimension.
pub(super) fn positive(cx: &NodeContext<'_>, name: &str, rank: usize) -> Result<Vec<i64>, OpError> {
    let Some(values) = cx.ints(name) else { return Ok(vec![1; rank]) };
    if values.len() != rank || values.iter().any(|&v| v < 1 || v > i64::from(i32::MAX)) {
        return cx.invalid(format!("attribute `{name}` is {values:?} for {rank} spatial dimensions"));
    }
    Ok(values.to_vec())
}

/// The attribute `auto_pad`.
pub(super) fn auto_pad(cx: &NodeContext<'_>) -> Result<AutoPad, OpError> {
    match cx.text("auto_pad")? {
        None | Some("" | "NOTSET") => Ok(AutoPad::Explicit),
        Some("VALID") => Ok(AutoPad::Valid),
        Some("SAME_UPPER") => Ok(AutoPad::SameUpper),
        Some("SAME_LOWER") => Ok(AutoPad::SameLower),
        Some(other) => cx.invalid(format!("attribute `auto_pad` is `{other}`")),
    }
}

/// The attribute `pads`: befores, then afters.
pub(super) fn explicit_pads(cx: &NodeContext<'_>, rank: usize) -> Result<(Vec<i64>, Vec<i64>), OpError> {
    stated_pads(cx, cx.ints("pads"), rank)
}

/// Paddings as numbers: befores, then afters; none are zeros.
pub(super) fn stated_pads(
    cx: &NodeContext<'_>,
    pads: Option<&[i64]>,
    rank: usize,
) -> Result<(Vec<i64>, Vec<i64>), OpError> {
    let Some(pads) = pads else { return Ok((vec![0; rank], vec![0; rank])) };
    if pads.len() != 2 * rank || pads.iter().any(|&p| p.unsigned_abs() > u64::from(u32::MAX)) {
        return cx.invalid(format!("attribute `pads` is {pads:?} for {rank} spatial dimensions"));
    }
    Ok((pads[..rank].to_vec(), pads[rank..].to_vec()))
}

impl Sliding {
    /// Reads strides, dilations and paddings for windows of the size `kernel` over an input of these spatial sizes.
    pub fn read(cx: &NodeContext<'_>, spatial: &[Dim], kernel: Vec<i64>) -> Result<Sliding, OpError> {
        let rank = spatial.len();
        if kernel.len() != rank || kernel.iter().any(|&k| k < 1 || k > i64::from(i32::MAX)) {
            return cx.invalid(format!("kernel of size {kernel:?} for {rank} spatial dimensions"));
        }
        let strides = positive(cx, "strides", rank)?;
        let dilations = positive(cx, "dilations", rank)?;
        let (pad_lo, pad_hi) = match auto_pad(cx)? {
            AutoPad::Explicit => {
                let (lo, hi) = explicit_pads(cx, rank)?;
                (lo.into_iter().map(Dim::from).collect(), hi.into_iter().map(Dim::from).collect())
            }
            AutoPad::Valid => (vec![Dim::ZERO; rank], vec![Dim::ZERO; rank]),
            same => {
                let (mut lo, mut hi) = (Vec::new(), Vec::new());
                for i in 0..rank {
                    let stride = Dim::from(strides[i]);
                    let extent = Dim::from((kernel[i] - 1) * dilations[i] + 1);
                    let steps = (&spatial[i].ceil_div(&stride)? - &Dim::ONE)?;
                    let needed = (&(&(&steps * &stride)? + &extent)? - &spatial[i])?;
                    let total = cx.b.graph.greater_dim(&needed, &Dim::ZERO)?;
                    let half = total.floor_div(&Dim::from(2))?;
                    let rest = (&total - &half)?;
                    let (before, after) = if same == AutoPad::SameUpper { (half, rest) } else { (rest, half) };
                    lo.push(before);
                    hi.push(after);
                }
                (lo, hi)
            }
        };
        Ok(Sliding { kernel, strides, dilations, pad_lo, pad_hi })
    }

    /// The distance from the first to behind the last element of the window along a dimension.
    pub fn extent(&self, i: usize) -> i64 {
        (self.kernel[i] - 1) * self.dilations[i] + 1
    }

    /// The paddings as numbers. Where they are expressions, `x`, whose spatial dimensions are the last, is padded with
    /// `fill` (f32 or the number nearest to it) here and now, and nothing is left to pad.
    pub fn settle_pads(
        &mut self,
        cx: &mut NodeContext<'_>,
        x: Value,
        fill: f64,
    ) -> Result<(Value, Vec<i64>, Vec<i64>), OpError> {
        let constants = |dims: &[Dim]| dims.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>();
        if let (Some(lo), Some(hi)) = (constants(&self.pad_lo), constants(&self.pad_hi)) {
            return Ok((x, lo, hi));
        }
        let dtype = cx.b.dtype(x)?;
        let outer = cx.b.rank(x)? - self.kernel.len();
        let fill = cx.b.number(dtype, fill)?;
        let zeros = std::iter::repeat_n(Dim::ZERO, outer);
        let lo: Vec<Dim> = zeros.clone().chain(self.pad_lo.iter().cloned()).collect();
        let hi: Vec<Dim> = zeros.chain(self.pad_hi.iter().cloned()).collect();
        let padded = cx.b.pad(x, fill, &lo, &hi)?;
        let none = vec![0; self.kernel.len()];
        self.pad_lo = vec![Dim::ZERO; none.len()];
        self.pad_hi = self.pad_lo.clone();
        Ok((padded, none.clone(), none))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, noise};

    fn same(auto_pad: &str, stride: i64) -> TestModel {
        TestModel::new("MaxPool", 12).text("auto_pad", auto_pad).ints("kernel_shape", &[3]).ints("strides", &[stride])
    }

    #[test]
    fn automatic_padding_of_unknown_sizes() {
        for auto_pad in ["SAME_UPPER", "SAME_LOWER"] {
            for (stride, size) in [(1, 7), (2, 7), (2, 8), (3, 7), (3, 9)] {
                let x = noise(size as usize);
                let known = same(auto_pad, stride).input(&[1, 1, size], &x).run();
                let unknown = same(auto_pad, stride).dynamic(&[1, 1, size], &x).run();
                assert_eq!(known, unknown, "{auto_pad} with stride {stride} of {size}");
                assert_eq!(known.0, [1, 1, (size + stride - 1) / stride]);
            }
        }
    }

    #[test]
    fn wrong_attributes_are_named() {
        let pool = || TestModel::new("MaxPool", 12).input(&[1, 1, 4], &[0.0; 4]);
        assert!(pool().error().contains("`kernel_shape` is missing"));
        assert!(pool().ints("kernel_shape", &[2, 2]).error().contains("kernel of size [2, 2]"));
        assert!(pool().ints("kernel_shape", &[2]).ints("strides", &[0]).error().contains("`strides` is [0]"));
        assert!(pool().ints("kernel_shape", &[2]).ints("pads", &[1]).error().contains("`pads` is [1]"));
        assert!(pool().ints("kernel_shape", &[2]).text("auto_pad", "SAME").error().contains("`auto_pad` is `SAME`"));
        assert!(pool().ints("kernel_shape", &[9]).error().contains("does not fit"));
    }
}
