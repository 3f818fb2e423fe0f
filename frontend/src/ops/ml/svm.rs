//! Support vector machines.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{TensorBytes, Value};

use super::super::Operator;
use super::linear::columns;
use super::probability;
use super::scores::{Complement, PostTransform, above, both, class_labels, greatest, named};
use super::{matrix, row};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] =
    &[row("SVMClassifier", &[1], (1, 1), |cx| named(cx, classifier)), row("SVMRegressor", &[1], (1, 1), regressor)];

fn constant(cx: &mut NodeContext<'_>, shape: &[usize], values: &[f32]) -> Result<Value, OpError> {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    Ok(cx.b.constant(TensorBytes::from_f32(&shape, values), "")?)
}

/// Rows of as many numbers as `x` has columns, whose count is given.
fn rows_of<'a>(cx: &NodeContext<'a>, x: Value, name: &str, rows: usize) -> Result<(&'a [f32], usize), OpError> {
    let values = cx.floats(name).unwrap_or(&[]);
    let width = values.len().checked_div(rows).unwrap_or(0);
    if width == 0 || width * rows != values.len() || cx.b.shape(x)?[1].as_const().is_some_and(|n| n != width as i64) {
        return cx.invalid(format!("attribute `{name}` has {} numbers for {rows} rows", values.len()));
    }
    Ok((values, width))
}

/// The kernel of each row of `x` with each support vector: `[rows, vectors]`.
fn kernel(cx: &mut NodeContext<'_>, x: Value, vectors: usize) -> Result<Value, OpError> {
    let (values, width) = rows_of(cx, x, "support_vectors", vectors)?;
    let parameters = cx.floats("kernel_params").unwrap_or(&[]);
    let [gamma, offset, degree] = [0, 1, 2].map(|i| f64::from(parameters.get(i).copied().unwrap_or(0.0)));
    let support = constant(cx, &[vectors, width], values)?;
    let kind = cx.text("kernel_type")?.unwrap_or("LINEAR");
    if kind == "RBF" {
        // Differences before squares: the sum of three products would lose digits where both are close.
        let (a, b) = (cx.b.unsqueeze(x, &[1])?, cx.b.unsqueeze(support, &[0])?);
        let difference = cx.b.sub(a, b)?;
        let squares = cx.b.mul(difference, difference)?;
        let distance = cx.b.reduce(ReduceOp::Sum, squares, &[2], false)?;
        let scaled = cx.b.binary_number(BinaryOp::Mul, distance, -gamma)?;
        return Ok(cx.b.exp(scaled)?);
    }
    let product = cx.b.gemm(x, support, None, (false, true), (1.0, 1.0))?;
    if kind == "LINEAR" {
        return Ok(product);
    }
    Ok(cx.b.map(&[product], |e| {
        let (x, gamma, offset) = (e.arg(0), e.number(DType::F32, gamma)?, e.number(DType::F32, offset)?);
        let scaled = e.mul(gamma, x);
        let sum = e.add(scaled, offset);
        if kind == "POLY" {
            let degree = e.number(DType::F32, degree)?;
            return Ok(e.pow(sum, degree));
        }
        Ok(e.tanh(sum))
    })?)
}

fn regressor(cx: &mut NodeContext<'_>) -> OpResult {
    let x = matrix(cx)?;
    let x = cx.b.cast(x, DType::F32)?;
    let coefficients = cx.floats("coefficients").unwrap_or(&[]);
    let supports = usize::try_from(cx.int("n_supports", 0)).unwrap_or(0);
    let inputs = if supports > 0 { kernel(cx, x, supports)? } else { x };
    let count = coefficients.len();
    if cx.b.shape(inputs)?[1].as_const().is_some_and(|n| n != count as i64) {
        return cx.invalid(format!("{count} coefficients do not fit"));
    }
    let Some(&rho) = cx.floats("rho").unwrap_or(&[]).first() else { return cx.invalid("attribute `rho` is missing") };
    let coefficients = constant(cx, &[count, 1], coefficients)?;
    let rho = constant(cx, &[1], &[rho])?;
    let y = cx.b.gemm(inputs, coefficients, Some(rho), (false, false), (1.0, 1.0))?;
    if !cx.flag("one_class", false) {
        return Ok(vec![y]);
    }
    Ok(vec![cx.b.map(&[y], |e| {
        let (y, zero) = (e.arg(0), e.number(DType::F32, 0.0)?);
        let (inside, one, minus) = (e.gt(y, zero), e.number(DType::F32, 1.0)?, e.number(DType::F32, -1.0)?);
        Ok(e.select(inside, one, minus))
    })?])
}

fn classifier(cx: &mut NodeContext<'_>) -> OpResult {
    let x = matrix(cx)?;
    let x = cx.b.cast(x, DType::F32)?;
    let (labels, post) = (class_labels(cx, "classlabels_ints")?, PostTransform::named(cx)?);
    let labels = &labels[..];
    let of_class = cx.ints("vectors_per_class").unwrap_or(&[]);
    let of_class: Vec<usize> = of_class.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
    let vectors = of_class.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)).unwrap_or(usize::MAX);
    if vectors == 0 {
        return linear_classifier(cx, x, labels, post);
    }
    let classes = labels.len();
    if of_class.len() != classes || classes < 2 {
        return cx.invalid(format!("vectors of {} classes for {classes} labels", of_class.len()));
    }
    let k = kernel(cx, x, vectors)?;
    let pairs = pair_scores(cx, k, &of_class, vectors)?;
    let probabilities = pair_probabilities(cx, pairs, classes)?;
    if let [first, second] = *labels {
        // A positive score is a vote for the first class.
        let label = above(&mut cx.b, pairs, 0.0, [second, first])?;
        if let Some(p) = probabilities {
            return Ok(vec![label, post.apply(&mut cx.b, p)?]);
        }
        let y = match post {
            PostTransform::None => both(&mut cx.b, pairs, Complement::Negative)?,
            PostTransform::Logistic => {
                let y = cx.b.sigmoid(pairs)?;
                both(&mut cx.b, y, Complement::One)?
            }
            PostTransform::Softmax | PostTransform::SoftmaxZero => both(&mut cx.b, pairs, Complement::One)?,
            PostTransform::Probit => return cx.unsupported("the PROBIT transform of a binary model"),
        };
        return Ok(vec![label, y]);
    }
    let votes = votes(cx, pairs, classes)?;
    let label = greatest(&mut cx.b, votes, labels)?;
    Ok(vec![label, post.apply(&mut cx.b, probabilities.unwrap_or(pairs))?])
}

/// The classes' probabilities, if the model has what they take.
fn pair_probabilities(cx: &mut NodeContext<'_>, pairs: Value, classes: usize) -> Result<Option<Value>, OpError> {
    let (a, b) = (cx.floats("prob_a").unwrap_or(&[]), cx.floats("prob_b").unwrap_or(&[]));
    if a.is_empty() && b.is_empty() {
        return Ok(None);
    }
    let count = classes * (classes - 1) / 2;
    if a.len() < count || b.len() < count {
        return cx.invalid(format!("{} and {} numbers of prob_a and prob_b for {count} pairs", a.len(), b.len()));
    }
    if classes > probability::MAX_CLASSES {
        return cx.unsupported(format!("probabilities of more than {} classes", probability::MAX_CLASSES));
    }
    let (a, b) = (constant(cx, &[count], &a[..count])?, constant(cx, &[count], &b[..count])?);
    let p = probability::of_pairs(cx, pairs, a, b)?;
    Ok(Some(probability::of_classes(cx, p, classes)?))
}

/// The score of each pair of classes `i < j`, as one product: the vectors of `i` count with row `j - 1` of the
/// coefficients, those of `j` with row `i`.
fn pair_scores(cx: &mut NodeContext<'_>, k: Value, of_class: &[usize], vectors: usize) -> Result<Value, OpError> {
    let classes = of_class.len();
    let coefficients = cx.floats("coefficients").unwrap_or(&[]);
    let rho = cx.floats("rho").unwrap_or(&[]);
    let pairs = classes * (classes - 1) / 2;
    if coefficients.len() != (classes - 1) * vectors || rho.len() < pairs {
        return cx.invalid(format!(
            "{} coefficients and {} of rho for {vectors} vectors",
            coefficients.len(),
            rho.len()
        ));
    }
    let starts: Vec<usize> = of_class.iter().scan(0, |sum, &n| Some(std::mem::replace(sum, *sum + n))).collect();
    let mut weights = vec![0.0; vectors * pairs];
    let mut pair = 0;
    for i in 0..classes {
        for j in i + 1..classes {
            for (class, row) in [(i, j - 1), (j, i)] {
                for v in starts[class]..starts[class] + of_class[class] {
                    weights[v * pairs + pair] = coefficients[row * vectors + v];
                }
            }
            pair += 1;
        }
    }
    let weights = constant(cx, &[vectors, pairs], &weights)?;
    let rho = constant(cx, &[pairs], &rho[..pairs])?;
    Ok(cx.b.gemm(k, weights, Some(rho), (false, false), (1.0, 1.0))?)
}

/// How many pairs each class wins: `[rows, classes]`.
fn votes(cx: &mut NodeContext<'_>, pairs: Value, classes: usize) -> Result<Value, OpError> {
    let rows = cx.b.shape(pairs)?[0].clone();
    let wins = cx.b.map(&[pairs], |e| {
        let (x, zero) = (e.arg(0), e.number(DType::F32, 0.0)?);
        let (won, one) = (e.gt(x, zero), e.number(DType::F32, 1.0)?);
        Ok(e.select(won, one, zero))
    })?;
    // As a product: a pair gives 1 to one class, or 1 less to it and 1 more to the other.
    let count = classes * (classes - 1) / 2;
    let (mut gains, mut start) = (vec![0.0; count * classes], vec![0.0; classes]);
    let mut pair = 0;
    for i in 0..classes {
        for j in i + 1..classes {
            gains[pair * classes + i] = 1.0;
            gains[pair * classes + j] = -1.0;
            start[j] += 1.0;
            pair += 1;
        }
    }
    let gains = constant(cx, &[count, classes], &gains)?;
    let start = constant(cx, &[classes], &start)?;
    let wins = cx.b.reshape(wins, &[rows, Dim::from(count as i64)])?;
    Ok(cx.b.gemm(wins, gains, Some(start), (false, false), (1.0, 1.0))?)
}

/// Without support vectors each class has a linear score. Of two classes, ONNX Runtime gives the second one if any score
/// is positive (or from 0.5 on where no coefficient is negative), else the greater one.
fn linear_classifier(cx: &mut NodeContext<'_>, x: Value, labels: &[i64], post: PostTransform) -> OpResult {
    let classes = labels.len();
    let (coefficients, width) = rows_of(cx, x, "coefficients", classes)?;
    let positive = coefficients.iter().all(|&c| c >= 0.0);
    let Some(&rho) = cx.floats("rho").unwrap_or(&[]).first() else { return cx.invalid("attribute `rho` is missing") };
    let coefficients = constant(cx, &[classes, width], coefficients)?;
    let rho = constant(cx, &[1], &[rho])?;
    let y = cx.b.gemm(x, coefficients, Some(rho), (false, true), (1.0, 1.0))?;
    let mut label = greatest(&mut cx.b, y, labels)?;
    if let [_, second] = *labels {
        let (a, b) = (columns(cx, y, 0, 1)?, columns(cx, y, 1, 1)?);
        let rows = cx.b.shape(y)?[0].clone();
        let best = cx.b.binary(BinaryOp::Max, a, b)?;
        let best = cx.b.reshape(best, &[rows])?;
        label = cx.b.map(&[best, label], |e| {
            let (best, label, second) = (e.arg(0), e.arg(1), e.dim(&Dim::from(second)));
            let threshold = e.number(DType::F32, if positive { 0.5 } else { 0.0 })?;
            let sure = if positive { e.ge(best, threshold) } else { e.gt(best, threshold) };
            Ok(e.select(sure, second, label))
        })?;
    }
    Ok(vec![label, post.apply(&mut cx.b, y)?])
}
