//! Linear models.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::{TensorBytes, Value};

use super::super::Operator;
use super::scores::{Complement, PostTransform, above, both, class_labels, greatest, named};
use super::{matrix, row};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    row("LinearClassifier", &[1], (1, 1), |cx| named(cx, classifier)),
    row("LinearRegressor", &[1], (1, 1), regressor),
];

/// `x * coefficients^T + intercepts` with coefficients `[targets, columns]`, as `f32`.
fn scores(cx: &mut NodeContext<'_>, targets: usize) -> Result<Value, OpError> {
    let x = matrix(cx)?;
    let x = cx.b.cast(x, DType::F32)?;
    let (coefficients, intercepts) = (cx.floats("coefficients").unwrap_or(&[]), cx.floats("intercepts").unwrap_or(&[]));
    let count = coefficients.len() / targets;
    if count * targets != coefficients.len() || cx.b.shape(x)?[1].as_const().is_some_and(|n| n != count as i64) {
        return cx.invalid(format!("{} coefficients for {targets} targets", coefficients.len()));
    }
    let coefficients = TensorBytes::from_f32(&[targets as i64, count as i64], coefficients);
    let coefficients = cx.b.constant(coefficients, "coefficients")?;
    let intercepts = match intercepts.len() {
        0 => None,
        n if n == targets => Some(cx.b.constant(TensorBytes::from_f32(&[n as i64], intercepts), "intercepts")?),
        n => return cx.invalid(format!("{n} intercepts for {targets} targets")),
    };
    Ok(cx.b.gemm(x, coefficients, intercepts, (false, true), (1.0, 1.0))?)
}

/// Of one target only PROBIT transforms the score, as ONNX Runtime has it.
fn regressor(cx: &mut NodeContext<'_>) -> OpResult {
    let targets = match cx.int("targets", 1) {
        n @ 1..=0x10_0000 => n as usize,
        other => return cx.invalid(format!("attribute `targets` is {other}")),
    };
    let (y, post) = (scores(cx, targets)?, PostTransform::named(cx)?);
    if targets == 1 && post != PostTransform::Probit {
        return Ok(vec![y]);
    }
    Ok(vec![post.apply(&mut cx.b, y)?])
}

/// The number of scores is that of the intercepts, or of the labels without any; one score for two labels is a binary
/// model, whose first class is what the second one leaves.
fn classifier(cx: &mut NodeContext<'_>) -> OpResult {
    let post = PostTransform::named(cx)?;
    let labels = class_labels(cx, "classlabels_ints")?;
    let labels = &labels[..];
    let intercepts = cx.floats("intercepts").unwrap_or(&[]).len();
    let targets = if intercepts == 0 { labels.len() } else { intercepts };
    let y = scores(cx, targets)?;
    if targets > 1 {
        if labels.len() != targets {
            return cx.invalid(format!("{} labels for {targets} scores", labels.len()));
        }
        let label = greatest(&mut cx.b, y, labels)?;
        return Ok(vec![label, post.apply(&mut cx.b, y)?]);
    }
    let two = if let [no, yes] = labels { [*no, *yes] } else { [0, 1] };
    let label = above(&mut cx.b, y, 0.0, two)?;
    let y = match (labels.len(), post) {
        (2, PostTransform::None | PostTransform::Softmax | PostTransform::SoftmaxZero) => {
            both(&mut cx.b, y, Complement::One)?
        }
        (2, PostTransform::Logistic) => {
            let y = cx.b.sigmoid(y)?;
            both(&mut cx.b, y, Complement::One)?
        }
        (2, PostTransform::Probit) => return cx.unsupported("the PROBIT transform of a binary model"),
        (_, PostTransform::None) => y,
        _ => post.apply(&mut cx.b, y)?,
    };
    Ok(vec![label, y])
}

/// Columns of a matrix, as many as `size`, from `start` on.
pub(super) fn columns(cx: &mut NodeContext<'_>, x: Value, start: usize, size: usize) -> Result<Value, OpError> {
    Ok(cx.b.slice_axis(x, 1, &Dim::from(start as i64), &Dim::from(size as i64), 1)?)
}
