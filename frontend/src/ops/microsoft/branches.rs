//! Streams side by side, as models with hyper-connections have them: sums with gates, and normalizations of each branch.
//!
//! Streams are `[.., C, H]`, or `[.., C * H]` where the attribute `num_branches` says what C is. All is computed in `f32`.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Shape, Value};

use super::super::Operator;
use super::super::norm::rms_normalized;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("BranchwiseRMSNorm", (1, 2), branchwise_norm),
    row("HyperConnectionPreMix", (2, 2), reduced_streams),
    row("HyperConnectionPostMix", (3, 4), mixed_streams),
    row("EngramGate", (5, 6), engram_gate),
];

/// The streams of input 0, `f32[.., C, H]`.
fn streams(cx: &mut NodeContext<'_>) -> Result<Value, OpError> {
    let x = cx.input(0)?;
    let x = cx.b.cast(x, DType::F32)?;
    let mut shape = cx.b.shape(x)?;
    match cx.int("num_branches", 0) {
        0 if shape.len() < 2 => cx.invalid("the streams have not 2 dimensions"),
        0 => Ok(x),
        branches if branches > 0 && !shape.is_empty() => {
            let width = shape.pop().expect("there is a dimension");
            let branches = Dim::from(branches);
            shape.extend([branches.clone(), width.floor_div(&branches)?]);
            Ok(cx.b.reshape(x, &shape)?)
        }
        branches => cx.invalid(format!("attribute `num_branches` is {branches}")),
    }
}

/// Gates as `f32` that broadcast to streams of this shape: `[.., C]`, `[.., C, 1]`, `[.., C, H]` or `[.., C * H]`.
fn gates(cx: &mut NodeContext<'_>, n: usize, shape: &Shape) -> Result<Value, OpError> {
    let gates = cx.input(n)?;
    let gates = cx.b.cast(gates, DType::F32)?;
    let given = cx.b.shape(gates)?;
    let [.., branches, _] = &shape[..] else { return cx.invalid("the streams have not 2 dimensions") };
    if given.len() == shape.len() {
        return Ok(gates);
    }
    if given.len() + 1 == shape.len() && given.last() == Some(branches) {
        return Ok(cx.b.unsqueeze(gates, &[-1])?);
    }
    Ok(cx.b.reshape(gates, shape)?)
}

/// What was computed, in the shape and the type of input 0.
fn like_input(cx: &mut NodeContext<'_>, y: Value) -> Result<Value, OpError> {
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let y = cx.b.reshape(y, &shape)?;
    Ok(cx.b.cast(y, dtype)?)
}

/// Each branch divided by the root of its mean square.
fn branchwise_norm(cx: &mut NodeContext<'_>) -> OpResult {
    let x = streams(cx)?;
    let shape = cx.b.shape(x)?;
    let inner = &shape[shape.len() - 2..];
    let scale = match cx.optional(1) {
        None => cx.b.scalar_f32(1.0),
        Some(scale) => {
            let scale = cx.b.cast(scale, DType::F32)?;
            let given = cx.b.shape(scale)?;
            let whole = given.len() == 1 && given[0] != inner[1];
            if whole { cx.b.reshape(scale, inner)? } else { scale }
        }
    };
    let epsilon = cx.float("epsilon", 1e-5);
    let y = rms_normalized(&mut cx.b, x, scale, shape.len() - 1, DType::F32, epsilon)?;
    Ok(vec![like_input(cx, y)?])
}

/// The sum of the streams, each times its gate.
fn reduced_streams(cx: &mut NodeContext<'_>) -> OpResult {
    let x = streams(cx)?;
    let shape = cx.b.shape(x)?;
    let gates = gates(cx, 1, &shape)?;
    let (given, scale) = (cx.input(0)?, cx.float("reduction_scale", 1.0));
    let dtype = cx.b.dtype(given)?;
    let b = &mut cx.b;
    let gated = b.mul(x, gates)?;
    let sum = b.reduce(ReduceOp::Sum, gated, &[-2], false)?;
    let scale = b.scalar_f32(scale);
    let y = b.mul(sum, scale)?;
    Ok(vec![b.cast(y, dtype)?])
}

/// Each stream as a mixture of all of them, and what a block gave times the stream's gate.
fn mixed_streams(cx: &mut NodeContext<'_>) -> OpResult {
    let mut x = streams(cx)?;
    let shape = cx.b.shape(x)?;
    let block = cx.input(1)?;
    let block = cx.b.cast(block, DType::F32)?;
    let block = cx.b.unsqueeze(block, &[-2])?;
    let gates = gates(cx, 2, &shape)?;
    if let Some(mix) = cx.optional(3) {
        let mix = cx.b.cast(mix, DType::F32)?;
        let rank = cx.b.rank(mix)?;
        if rank < 2 {
            return cx.invalid("the mixture is no matrix");
        }
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        let mix = cx.b.transpose(mix, &perm)?;
        x = cx.b.matmul(mix, x, DType::F32)?;
    }
    let gated = cx.b.mul(gates, block)?;
    let y = cx.b.add(x, gated)?;
    Ok(vec![like_input(cx, y)?])
}

/// A value times a gate that says how well normalized keys and queries agree; and that normalized.
fn engram_gate(cx: &mut NodeContext<'_>) -> OpResult {
    let (key, query, value) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (key_scale, query_scale, last_scale) = (cx.input(3)?, cx.input(4)?, cx.optional(5));
    let (epsilon, dtype, shape) = (cx.float("epsilon", 1e-5), cx.b.dtype(key)?, cx.b.shape(key)?);
    if shape.len() != 4 || cx.b.rank(value)? != 3 {
        return cx.invalid("the keys have not 4 dimensions, or the value not 3");
    }
    let b = &mut cx.b;
    let mut normalized = |x: Value, scale: Value| -> Result<Value, OpError> {
        let (x, scale) = (b.cast(x, DType::F32)?, b.cast(scale, DType::F32)?);
        Ok(rms_normalized(b, x, scale, 3, DType::F32, epsilon)?)
    };
    let (key, query) = (normalized(key, key_scale)?, normalized(query, query_scale)?);
    let product = b.mul(key, query)?;
    let dot = b.reduce(ReduceOp::Sum, product, &[3], true)?;
    let gate = b.map(&[dot], |e| {
        let (dot, width, zero) = (e.arg(0), e.dim(&shape[3]), e.number(DType::F32, 0.0)?);
        let width = e.cast(DType::F32, width);
        let root = e.sqrt(width);
        let dot = e.div(dot, root);
        let (magnitude, least) = (e.abs(dot), e.number(DType::F32, 1e-6)?);
        let magnitude = e.max(magnitude, least);
        let root = e.sqrt(magnitude);
        let (negative, positive, minus) = (e.lt(dot, zero), e.gt(dot, zero), e.neg(root));
        let other = e.select(negative, minus, zero);
        let signed = e.select(positive, root, other);
        Ok(e.sigmoid(signed))
    })?;
    let value = b.cast(value, DType::F32)?;
    let value = b.unsqueeze(value, &[2])?;
    let gated = b.mul(gate, value)?;
    let y = b.cast(gated, dtype)?;
    let second = match last_scale {
        None => y,
        Some(scale) => {
            let scale = b.cast(scale, DType::F32)?;
            let z = rms_normalized(b, gated, scale, 3, DType::F32, epsilon)?;
            b.cast(z, dtype)?
        }
    };
    if last_scale.is_none() && cx.wants_output(1) {
        return cx.invalid("the scale of the second output is missing");
    }
    Ok(vec![y, second])
}
