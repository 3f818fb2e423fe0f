//! Operators that do what one of ai.onnx does, in the version named here.

use super::super::Operator;
use super::super::generate::{range, trilu};
use super::super::rearrange::pad;
use super::super::sample::grid_sample;
use super::super::unique::distinct_of;
use super::row;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("Range", (2, 3), |cx| as_onnx(cx, 11, range)),
    row("Trilu", (1, 2), |cx| as_onnx(cx, 14, trilu)),
    row("Pad", (2, 3), |cx| as_onnx(cx, 11, pad)),
    row("GridSample", (2, 2), |cx| as_onnx(cx, 16, grid_sample)),
    row("GatherND", (2, 2), |cx| {
        let (data, indices) = (cx.input(0)?, cx.input(1)?);
        Ok(vec![cx.b.gather_nd(data, indices, 0)?])
    }),
    // The elements come in the order of their first occurrence; the index of the first occurrence is no output.
    row("Unique", (1, 1), |cx| {
        let found = distinct_of(cx, false)?;
        Ok(vec![found[0], found[2], found[3]])
    }),
    row("ExpandDims", (2, 2), |cx| {
        let (x, axis) = (cx.input(0)?, cx.known_i64(1)?);
        Ok(vec![cx.b.unsqueeze(x, &[axis])?])
    })
    .limited("The axis is known when the model is compiled."),
    row("SampleOp", (1, 1), |cx| Ok(vec![cx.input(0)?])),
    row("TorchEmbedding", (2, 4), |cx| {
        let (weights, indices) = (cx.input(0)?, cx.input(1)?);
        Ok(vec![cx.b.take(weights, indices, 0)?])
    }),
];

/// The import function of an operator of ai.onnx in a version.
fn as_onnx(cx: &mut NodeContext<'_>, version: i64, import: fn(&mut NodeContext<'_>) -> OpResult) -> OpResult {
    cx.version = version;
    import(cx)
}
