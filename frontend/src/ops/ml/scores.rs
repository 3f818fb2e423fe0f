//! From scores to what classifiers and regressors give: post transforms, labels, and the second class of a binary model.

use std::borrow::Cow;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, Value};

use super::super::softmax::softmax_over;
use crate::import::{NodeContext, OpError, OpResult};

/// What is done to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PostTransform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

impl PostTransform {
    /// The transform that the attribute `post_transform` names.
    pub(super) fn named(cx: &NodeContext<'_>) -> Result<PostTransform, OpError> {
        Ok(match cx.text("post_transform")?.unwrap_or("NONE") {
            "NONE" => PostTransform::None,
            "SOFTMAX" => PostTransform::Softmax,
            "LOGISTIC" => PostTransform::Logistic,
            "SOFTMAX_ZERO" => PostTransform::SoftmaxZero,
            "PROBIT" => PostTransform::Probit,
            other => return cx.invalid(format!("attribute `post_transform` is {other}")),
        })
    }

    /// The transform of this number in a TreeEnsemble.
    pub(super) fn numbered(cx: &NodeContext<'_>) -> Result<PostTransform, OpError> {
        Ok(match cx.int("post_transform", 0) {
            0 => PostTransform::None,
            1 => PostTransform::Softmax,
            2 => PostTransform::Logistic,
            3 => PostTransform::SoftmaxZero,
            4 => PostTransform::Probit,
            other => return cx.invalid(format!("attribute `post_transform` is {other}")),
        })
    }

    /// Applies it to scores `[rows, classes]`.
    pub(super) fn apply(self, b: &mut Builder<'_>, scores: Value) -> Result<Value, OpError> {
        let dtype = b.dtype(scores)?;
        match self {
            PostTransform::None => Ok(scores),
            PostTransform::Softmax => softmax_over(b, scores, 1, false),
            PostTransform::Logistic => Ok(b.sigmoid(scores)?),
            PostTransform::SoftmaxZero => softmax_zero(b, scores),
            PostTransform::Probit => Ok(b.map(&[scores], |e| {
                let x = e.arg(0);
                probit(e, dtype, x)
            })?),
        }
    }
}

/// Softmax that leaves scores of about zero out: they stay near zero.
fn softmax_zero(b: &mut Builder<'_>, scores: Value) -> Result<Value, OpError> {
    let dtype = b.dtype(scores)?;
    let max = b.reduce(ReduceOp::Max, scores, &[1], true)?;
    // The number by which each score counts, once for the sum and once with scores of zero themselves.
    let mut weights = |counted: bool| {
        b.map(&[scores, max], |e| {
            let (x, max) = (e.arg(0), e.arg(1));
            let (size, least) = (e.abs(x), e.number(dtype, 1e-7)?);
            let counts = e.gt(size, least);
            let below = e.sub(x, max);
            let power = e.exp(below);
            let rest = if counted {
                e.number(dtype, 0.0)?
            } else {
                let minus = e.neg(max);
                let scale = e.exp(minus);
                e.mul(x, scale)
            };
            Ok(e.select(counts, power, rest))
        })
    };
    let (counted, all) = (weights(true)?, weights(false)?);
    let sum = b.reduce(ReduceOp::Sum, counted, &[1], true)?;
    Ok(b.div(all, sum)?)
}

/// The inverse of the normal distribution function, by a closed approximation of the inverse error function that is
/// right to three digits: sqrt(2) times `s * sqrt(sqrt(v^2 - l/a) - v)` with `l = ln(1 - y^2)`, `y = 2x - 1`, `s` the sign
/// of `y`, `a = 0.147` and `v = 2/(pi a) + l/2`.
fn probit(e: &mut ExprBuilder, dtype: DType, x: ExprIndex) -> Result<ExprIndex, BuildError> {
    const A: f64 = 0.147;
    let (one, zero, two) = (e.number(dtype, 1.0)?, e.number(dtype, 0.0)?, e.number(dtype, 2.0)?);
    let twice = e.mul(two, x);
    let y = e.sub(twice, one);
    let (below, above) = (e.sub(one, y), e.add(one, y));
    let product = e.mul(below, above);
    let l = e.log(product);
    let (half, shift) = (e.number(dtype, 0.5)?, e.number(dtype, 2.0 / (std::f64::consts::PI * A))?);
    let (half_l, inverse) = (e.mul(half, l), e.number(dtype, 1.0 / A)?);
    let v = e.add(shift, half_l);
    let (square, scaled) = (e.mul(v, v), e.mul(inverse, l));
    let inner = e.sub(square, scaled);
    let root = e.sqrt(inner);
    let rest = e.sub(root, v);
    let size = e.sqrt(rest);
    let (minus, negative) = (e.neg(size), e.lt(y, zero));
    let signed = e.select(negative, minus, size);
    let sqrt2 = e.number(dtype, std::f64::consts::SQRT_2)?;
    Ok(e.mul(sqrt2, signed))
}

/// The labels of the classes: their places where they are strings, which [`named`] puts in.
pub(super) fn class_labels<'a>(cx: &NodeContext<'a>, name: &str) -> Result<Cow<'a, [i64]>, OpError> {
    let names = cx.attribute("classlabels_strings").map_or(0, |a| a.strings.len());
    if names > 0 {
        return Ok((0..names as i64).collect());
    }
    match cx.ints(name) {
        Some(labels) if !labels.is_empty() => Ok(labels.into()),
        _ => cx.invalid(format!("attribute `{name}` is missing")),
    }
}

/// The results of a classifier, whose first one holds labels, with the names of the classes where they have names.
pub(super) fn named(cx: &mut NodeContext<'_>, classifier: fn(&mut NodeContext<'_>) -> OpResult) -> OpResult {
    let mut results = classifier(cx)?;
    let names = cx.attribute("classlabels_strings").map(|a| a.strings.clone()).unwrap_or_default();
    if !names.is_empty() {
        let strings = cx.b.graph.strings.numbers(&[names.len() as i64], names.iter().map(|s| &s[..]));
        let strings = cx.b.constant(strings, "")?;
        results[0] = cx.b.take(strings, results[0], 0)?;
    }
    Ok(results)
}

/// The label of the greatest score of each row; of equals the first.
pub(super) fn greatest(b: &mut Builder<'_>, scores: Value, labels: &[i64]) -> Result<Value, OpError> {
    let at = b.reduce(ReduceOp::ArgMax { last: false }, scores, &[1], false)?;
    // Labels that count from 0 are positions.
    if labels.iter().enumerate().all(|(i, &l)| l == i as i64) {
        return Ok(at);
    }
    let (shape, labels) = (b.shape(at)?, b.i64s(labels));
    Ok(b.gather(labels, &[at], &[Coord::Input(0)], &shape)?)
}

/// One of two labels: the second where the score `[rows, 1]` is above the threshold.
pub(super) fn above(b: &mut Builder<'_>, score: Value, threshold: f64, labels: [i64; 2]) -> Result<Value, OpError> {
    let dtype = b.dtype(score)?;
    let rows = b.shape(score)?[0].clone();
    let label = b.map(&[score], |e| {
        let (x, threshold) = (e.arg(0), e.number(dtype, threshold)?);
        let (no, yes) = (e.dim(&Dim::from(labels[0])), e.dim(&Dim::from(labels[1])));
        let above = e.gt(x, threshold);
        Ok(e.select(above, yes, no))
    })?;
    Ok(b.reshape(label, &[rows])?)
}

/// How the first class of a binary model follows from the second one's score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complement {
    /// `1 - s`: the score is a probability.
    One,
    /// `-s`.
    Negative,
}

/// Scores of both classes `[rows, 2]` from the second one's `[rows, 1]`.
pub(super) fn both(b: &mut Builder<'_>, score: Value, complement: Complement) -> Result<Value, OpError> {
    let other = match complement {
        Complement::One => {
            let one = b.number(b.dtype(score)?, 1.0)?;
            b.sub(one, score)?
        }
        Complement::Negative => b.binary_number(BinaryOp::Mul, score, -1.0)?,
    };
    Ok(b.concat(&[other, score], 1)?)
}
