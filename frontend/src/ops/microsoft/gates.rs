//! Sums, activations and gates of transformers and diffusion models, fused.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::{Shape, Value};

use super::super::Operator;
use super::super::activations::{gelu_curve, softplus, swish};
use super::super::math::map_wide;
use super::super::norm::rms_normalized;
use super::super::softmax::trailing_softmax;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("BiasAdd", (3, 3), |cx| {
        let (x, bias, skip) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        Ok(vec![map_wide(cx, &[x, bias, skip], |e, _, args| {
            let sum = e.add(args[0], args[1]);
            Ok(e.add(sum, args[2]))
        })?])
    }),
    row("BiasSplitGelu", (2, 2), bias_split_gelu),
    row("BiasSoftmax", (2, 2), |cx| {
        let (x, bias) = (cx.input(0)?, cx.input(1)?);
        let sum = cx.b.add(x, bias)?;
        let axis = cx.b.axis(cx.int("axis", 1), cx.b.rank(sum)?)?;
        Ok(vec![trailing_softmax(&mut cx.b, sum, axis, false)?])
    }),
    row("BiasDropout", (2, 5), bias_dropout).limited("Inference."),
    row("GatedAdd", (3, 3), |cx| {
        let (x, y, gate) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        Ok(vec![map_wide(cx, &[x, y, gate], |e, _, args| {
            let scaled = e.mul(args[1], args[2]);
            Ok(e.add(args[0], scaled))
        })?])
    }),
    row("ScaledSiLU", (1, 2), |cx| {
        let alpha = cx.float("alpha", 1.0);
        let inputs: Vec<Value> = [cx.input(0)?].into_iter().chain(cx.optional(1)).collect();
        Ok(vec![map_wide(cx, &inputs, |e, t, args| {
            let scale = match args.get(1) {
                Some(&scale) => scale,
                None => e.number(t, alpha.into())?,
            };
            let scaled = e.mul(args[0], scale);
            swish(e, t, scaled, 1.0)
        })?])
    }),
    row("GatedRMSNorm", (3, 3), gated_rms_norm),
    row("LinearAttentionGate", (3, 4), linear_attention_gate),
];

/// The left half of the sum with the bias times Gelu of the right half.
fn bias_split_gelu(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, bias) = (cx.input(0)?, cx.input(1)?);
    let Some(width) = cx.b.shape(x)?.last().cloned() else { return cx.invalid("the input has no dimensions") };
    let half = width.floor_div(&Dim::from(2))?;
    let mut parts = Vec::with_capacity(4);
    for start in [&Dim::ZERO, &half] {
        parts.push(cx.b.slice_axis(x, -1, start, &half, 1)?);
        parts.push(cx.b.slice_axis(bias, -1, start, &half, 1)?);
    }
    Ok(vec![map_wide(cx, &parts, |e, t, args| {
        let (left, right) = (e.add(args[0], args[1]), e.add(args[2], args[3]));
        let gate = gelu_curve(e, t, right, false)?;
        Ok(e.mul(left, gate))
    })?])
}

/// At inference nothing is dropped: the sum with the bias and the residual, and a mask of ones.
fn bias_dropout(cx: &mut NodeContext<'_>) -> OpResult {
    if let Some(training) = cx.optional(4)
        && cx.constant_tensor(4).is_none_or(|flag| flag.to_i64().is_none_or(|v| v != [0]))
    {
        let text = cx.b.graph.type_text(cx.b.ty(training));
        return cx.unsupported(format!("training (an input `training_mode` of type {text} that is not false)"));
    }
    let (x, bias) = (cx.input(0)?, cx.input(1)?);
    let mut y = cx.b.add(x, bias)?;
    if let Some(residual) = cx.optional(2) {
        y = cx.b.add(y, residual)?;
    }
    let (ones, shape) = (cx.b.scalar_bool(true), cx.b.shape(y)?);
    Ok(vec![y, cx.b.broadcast(ones, &shape)?])
}

/// Groups of as many elements as the scale has are normalized, then scaled, then gated.
fn gated_rms_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, scale, gate) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shape, width) = (cx.b.shape(x)?, cx.b.shape(scale)?);
    let ([outer @ .., last], [width]) = (&shape[..], &width[..]) else {
        return cx.invalid("the scale is not a row that fits the input");
    };
    let silu = match cx.text("activation")?.unwrap_or("silu") {
        "silu" | "swish" => true,
        "sigmoid" => false,
        other => return cx.invalid(format!("attribute `activation` is `{other}`")),
    };
    let groups: Shape = outer.iter().cloned().chain([last.floor_div(width)?, width.clone()]).collect();
    let grouped = cx.b.reshape(x, &groups)?;
    let epsilon = cx.float("epsilon", 1e-5);
    let y = rms_normalized(&mut cx.b, grouped, scale, shape.len(), DType::F32, epsilon)?;
    let y = cx.b.reshape(y, &shape)?;
    Ok(vec![map_wide(cx, &[y, gate], |e, t, args| {
        let gate = if silu { swish(e, t, args[1], 1.0)? } else { e.sigmoid(args[1]) };
        Ok(e.mul(args[0], gate))
    })?])
}

/// `decay_scale * softplus(a + dt_bias)` and `sigmoid(b)`.
fn linear_attention_gate(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, bias, scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let decay = map_wide(cx, &[a, bias, scale], |e, t, args| {
        let sum = e.add(args[0], args[1]);
        let rate = softplus(e, t, sum)?;
        Ok(e.mul(args[2], rate))
    })?;
    let beta = match cx.optional(3) {
        Some(b) => map_wide(cx, &[b], |e, _, args| Ok(e.sigmoid(args[0])))?,
        None if cx.wants_output(1) => return Err(OpError::Invalid("input 3 is missing".into())),
        None => decay,
    };
    Ok(vec![decay, beta])
}
