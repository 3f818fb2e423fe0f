//! What slides over spatial dimensions: convolutions and pooling windows.

use smallvec::{SmallVec, smallvec};

use super::{InferError, Inferred, Inputs, complete, exact, is_least_word, mismatch, reduced_dtype};
use crate::dim::{Dim, DimError};
use crate::tensor::Shape;
use crate::tensor::op::{Conv, Panel, Window};
use crate::tensor::winograd::Winograd;

/// `floor((input + pad_lo + pad_hi - ((size - 1) * dilation + 1)) / stride) + 1`, of the dilated input.
///
/// # Errors
/// If the window has no size or step, or cannot lie in the input at all.
fn window_size(
    input: &Dim,
    size: i64,
    stride: i64,
    dilation: i64,
    pads: (i64, i64),
    symbols: &crate::dim::Symbols,
) -> Result<Dim, InferError> {
    if size < 1 || stride < 1 || dilation < 1 {
        return mismatch(format!("window of size {size}, stride {stride}, dilation {dilation}"));
    }
    let extent = (size - 1).checked_mul(dilation).and_then(|n| n.checked_add(1)).ok_or(DimError::Overflow)?;
    let slack = pads.0.checked_add(pads.1).and_then(|p| p.checked_sub(extent)).ok_or(DimError::Overflow)?;
    let room = (input + &Dim::from(slack))?;
    let out = (&room.floor_div(&Dim::from(stride))? + &Dim::ONE)?;
    if out.bounds(symbols).1 < 0 {
        let input = input.display(symbols);
        return mismatch(format!("a window of extent {extent} does not fit size {input} padded by {pads:?}"));
    }
    Ok(out)
}

pub(super) fn infer_conv(ins: &Inputs<'_>, c: &Conv) -> Result<Inferred, InferError> {
    ins.expect(2)?;
    let (x, w) = (ins.tensor(0)?, ins.tensor(1)?);
    let n = c.kernel.len();
    if [c.strides.len(), c.pad_lo.len(), c.pad_hi.len(), c.lhs_dilation.len(), c.rhs_dilation.len()] != [n; 5] {
        return mismatch(format!("attributes of a convolution over {n} dimensions have other lengths"));
    }
    let shapes = || format!("input {}, filter {}", ins.graph.shape_text(&x.shape), ins.graph.shape_text(&w.shape));
    let types_fit = x.dtype == w.dtype || c.acc.is_int() && x.dtype.is_int() && w.dtype.is_int();
    if x.rank() != n + 2 || !types_fit || c.groups < 1 {
        return mismatch(format!("convolution over {n} dimensions in {} groups: {}", c.groups, shapes()));
    }
    let (channel_axis, first_spatial) = if c.channels_last { (n + 1, 1) } else { (1, 2) };
    let channels = &x.shape[channel_axis];
    if let Some(tile) = c.winograd
        && (Winograd::of(tile).is_none() || !c.winograd_applies())
    {
        return mismatch(format!("a convolution of this form has no Winograd algorithm with tiles of {tile}"));
    }
    // The words of a run of taps and channels, if it has one.
    let run = || (channels * &Dim::from(*c.kernel.last()?)).ok().filter(is_least_word);
    let words = || run()?.ceil_div(&Dim::from(4)).ok();
    // [M, C / groups, kernel...], or with panels [panels, kernel..., C, nr], or depthwise [kernel..., M].
    let (out_channels, in_channels, kernel) = match c.panel {
        Some(panel) if panel.is_deep() => {
            let tail = [Dim::from(i64::from(panel.columns)), Dim::from(4)];
            let fits = n > 0 && w.rank() == n + 3 && c.groups == 1 && c.channels_last && w.shape[n + 1..] == tail;
            if !fits || words().as_ref() != Some(&w.shape[n]) {
                return mismatch(format!("words of a filter in panels of {panel}: {}", shapes()));
            }
            (None, None, &w.shape[1..n])
        }
        Some(Panel { columns: nr, .. })
            if c.winograd.is_some_and(|m| w.rank() == 4 && w.shape[1] == i64::from((m + 2) * (m + 2))) =>
        {
            if w.shape[3] != i64::from(nr) {
                return mismatch(format!("transformed filter in panels of {nr}: {}", shapes()));
            }
            (None, Some(&w.shape[2]), &[] as &[Dim])
        }
        None if w.rank() == n + 2 => (Some(w.shape[0].clone()), Some(&w.shape[1]), &w.shape[2..]),
        Some(Panel { columns: nr, .. })
            if w.rank() == n + 3 && c.groups == 1 && nr > 0 && w.shape[n + 2] == i64::from(nr) =>
        {
            (None, Some(&w.shape[n + 1]), &w.shape[1..=n])
        }
        Some(_) if w.rank() == n + 1 && *channels == c.groups && w.shape[n] == c.groups => {
            (Some(w.shape[n].clone()), None, &w.shape[..n])
        }
        _ => return mismatch(format!("convolution with panels {:?} in {} groups: {}", c.panel, c.groups, shapes())),
    };
    if kernel.iter().zip(&c.kernel).any(|(d, &k)| *d != k) {
        return mismatch(format!("kernel {:?} does not match: {}", c.kernel, shapes()));
    }
    if let Some(per_group) = in_channels
        && !ins.graph.same_dim(&(per_group * &Dim::from(c.groups))?, channels)
    {
        return mismatch(format!("channels do not match in {} groups: {}", c.groups, shapes()));
    }
    if let Some(m) = out_channels.as_ref().filter(|m| m.exact_div(&Dim::from(c.groups)).is_none()) {
        return mismatch(format!("{} output channels in {} groups", m.display(&ins.graph.symbols), c.groups));
    }
    let mut out: SmallVec<[Option<Dim>; 5]> = x.shape.iter().cloned().map(Some).collect();
    out[channel_axis] = out_channels;
    for i in 0..n {
        let size = &x.shape[first_spatial + i];
        let dilation = c.lhs_dilation[i];
        if dilation < 1 {
            return mismatch(format!("input dilation {dilation}"));
        }
        let dilated = (&(&(size - &Dim::ONE)? * &Dim::from(dilation))? + &Dim::ONE)?;
        let pads = (c.pad_lo[i], c.pad_hi[i]);
        let (k, s, d) = (c.kernel[i], c.strides[i], c.rhs_dilation[i]);
        out[first_spatial + i] = Some(window_size(&dilated, k, s, d, pads, &ins.graph.symbols)?);
    }
    Ok(smallvec![complete(c.acc, out)])
}

pub(super) fn infer_window(ins: &Inputs<'_>, w: &Window) -> Result<Inferred, InferError> {
    let x = ins.one()?;
    let n = x.rank();
    if [w.sizes.len(), w.strides.len(), w.dilations.len(), w.pad_lo.len(), w.pad_hi.len()] != [n; 5] {
        return mismatch(format!("window attributes for rank {n} have other lengths"));
    }
    let dtype = reduced_dtype(w.op, x.dtype, 1)?;
    let mut shape = Shape::new();
    for i in 0..n {
        let pads = (w.pad_lo[i], w.pad_hi[i]);
        let symbols = &ins.graph.symbols;
        shape.push(window_size(&x.shape[i], w.sizes[i], w.strides[i], w.dilations[i], pads, symbols)?);
    }
    Ok(exact(dtype, shape))
}
