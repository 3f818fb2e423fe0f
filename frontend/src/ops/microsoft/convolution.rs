//! Convolutions, products and pools with what optimizers fuse to them: a bias, a tensor that is added, an activation, another
//! order of dimensions.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::super::Operator;
use super::super::cell_function::Activation;
use super::super::conv::{add_bias, convolve, transposed_convolution};
use super::super::linear::{general_product, sum_type};
use super::super::math::map_wide;
use super::super::pool::max_of_windows;
use super::layout::{channels_first, channels_last};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("FusedConv", (2, 4), |cx| convolution(cx, Layout::ChannelsFirst)),
    row("NhwcConv", (2, 3), |cx| convolution(cx, Layout::AllLast)),
    row("NhwcFusedConv", (2, 4), |cx| convolution(cx, Layout::ImagesLast)),
    row("NhwcMaxPool", (1, 1), |cx| {
        let x = cx.input(0)?;
        let x = channels_first(cx, x)?;
        let y = max_of_windows(cx, x)?;
        Ok(vec![channels_last(cx, y)?])
    }),
    row("MaxpoolWithMask", (2, 2), masked_max_pool).limited("Masks that hide the end of each row."),
    row("FusedGemm", (2, 3), |cx| {
        let y = general_product(cx)?;
        let Some(name) = cx.text("activation")?.filter(|name| !name.is_empty()) else { return Ok(vec![y]) };
        let (mut alphas, mut betas) =
            (cx.float_opt("activation_alpha").into_iter(), cx.float_opt("activation_beta").into_iter());
        let Some(activation) = Activation::read(name, &mut alphas, &mut betas) else {
            return cx.invalid(format!("attribute `activation` is `{name}`"));
        };
        Ok(vec![map_wide(cx, &[y], |e, t, x| activation.apply(e, t, x[0]))?])
    }),
    row("ConvTransposeWithDynamicPads", (2, 4), |cx| {
        let pads = match cx.optional(2) {
            Some(_) => Some(cx.known_i64s(2)?),
            None => None,
        };
        let bias = cx.optional(3);
        Ok(vec![transposed_convolution(cx, pads.as_deref(), bias)?])
    })
    .limited("The paddings are known when the model is compiled."),
];

/// Where channels are.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// As in ai.onnx.
    ChannelsFirst,
    /// Images have them last, filters are `[M, C / groups, kernel...]`.
    ImagesLast,
    /// Filters have them last too.
    AllLast,
}

/// `activation(x * w + bias + z)`.
fn convolution(cx: &mut NodeContext<'_>, layout: Layout) -> OpResult {
    let (mut x, mut w, bias, mut z) = (cx.input(0)?, cx.input(1)?, cx.optional(2), cx.optional(3));
    if layout != Layout::ChannelsFirst {
        x = channels_first(cx, x)?;
        z = z.map(|z| channels_first(cx, z)).transpose()?;
    }
    if layout == Layout::AllLast {
        w = channels_first(cx, w)?;
    }
    let dtype = cx.b.dtype(x)?;
    let y = convolve(cx, x, w, sum_type(dtype))?;
    let y = cx.b.cast(y, dtype)?;
    let mut y = add_bias(cx, y, bias)?;
    if let Some(z) = z {
        y = cx.b.add(y, z)?;
    }
    if let Some(activation) = fused_activation(cx)? {
        y = map_wide(cx, &[y], |e, t, x| activation.apply(e, t, x[0]))?;
    }
    Ok(vec![if layout == Layout::ChannelsFirst { y } else { channels_last(cx, y)? }])
}

/// Elements whose mask is 0 are as good as absent, but for the first of each image. A mask of one image serves all.
fn masked_max_pool(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, mask) = (cx.input(0)?, cx.input(1)?);
    let (dtype, mask_dtype, rank) = (cx.b.dtype(x)?, cx.b.dtype(mask)?, cx.b.rank(x)?);
    let visible = cx.b.map(&[x, mask], |e| {
        let (x, mask) = (e.arg(0), e.arg(1));
        let (none, least) = (e.number(mask_dtype, 0.0)?, e.number(dtype, f64::from(f32::MIN))?);
        let (nowhere, mut seen) = (e.dim(&Dim::ZERO), e.ne(mask, none));
        let mut first = None;
        for axis in 2..rank as u32 {
            let at = e.index(axis);
            let here = e.eq(at, nowhere);
            first = Some(first.map_or(here, |before| e.and(before, here)));
        }
        if let Some(first) = first {
            seen = e.or(seen, first);
        }
        Ok(e.select(seen, x, least))
    })?;
    Ok(vec![max_of_windows(cx, visible)?])
}

/// What follows a fused operation.
enum Fused {
    Function(Activation),
    /// Between two numbers.
    Clip(f32, f32),
}

impl Fused {
    fn apply(&self, e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Result<ExprIndex, BuildError> {
        match self {
            Fused::Function(activation) => activation.apply(e, t, x),
            Fused::Clip(low, high) => {
                let (low, high) = (e.number(t, f64::from(*low))?, e.number(t, f64::from(*high))?);
                let above = e.max(x, low);
                Ok(e.min(above, high))
            }
        }
    }
}

/// The attributes `activation` and `activation_params`.
fn fused_activation(cx: &NodeContext<'_>) -> Result<Option<Fused>, OpError> {
    let Some(name) = cx.text("activation")?.filter(|name| !name.is_empty()) else { return Ok(None) };
    let params = cx.floats("activation_params").unwrap_or_default();
    let numbers = match name {
        "LeakyRelu" => 1,
        "Clip" | "HardSigmoid" => 2,
        _ => 0,
    };
    if params.len() != numbers {
        return cx.invalid(format!("{} numbers in `activation_params` for `{name}`", params.len()));
    }
    if name == "Clip" {
        return Ok(Some(Fused::Clip(params[0], params[1])));
    }
    let (mut alphas, mut betas) = (params.iter().copied(), params.iter().skip(1).copied());
    match Activation::read(name, &mut alphas, &mut betas) {
        Some(activation) => Ok(Some(Fused::Function(activation))),
        None => cx.invalid(format!("attribute `activation` is `{name}`")),
    }
}
