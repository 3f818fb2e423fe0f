//! Probabilities of classes from those of pairs of classes, by the iteration of Wu, Lin and Weng ("Probability estimates for
//! multi-class classification by pairwise coupling", 2004), as support vector machines are trained to be used.
//!
//! `r[i][j]` is the probability of class `i` where it is `i` or `j`. Wanted is the `p` of sum 1 that minimises `p' Q p` with
//! `Q[i][i] = sum of r[j][i]^2` and `Q[i][j] = -r[j][i] r[i][j]`. From equal probabilities on, each round improves one `p`
//! after the other. A row is done when all `(Q p)[i]` are within `0.005 / classes` of `p' Q p`, at the latest after 100
//! rounds; what it has then stays while other rows go on.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::linear::columns;
use crate::import::{NodeContext, OpError};

/// More classes make expressions too long.
pub(super) const MAX_CLASSES: usize = 12;

const ROUNDS: usize = 100;

/// Scalar steps of one kernel, about.
const STEPS: usize = 2000;

/// Pairs that were squeezed into probabilities stay this far from 0 and 1.
const LEAST: f64 = 1e-7;

/// The probabilities of pairs: `1 / (1 + exp(a * score + b))`, with one `a` and `b` for each column.
pub(super) fn of_pairs(cx: &mut NodeContext<'_>, scores: Value, a: Value, b: Value) -> Result<Value, OpError> {
    Ok(cx.b.map(&[scores, a, b], |e| {
        let (score, a, b) = (e.arg(0), e.arg(1), e.arg(2));
        let scaled = e.mul(score, a);
        let sum = e.add(scaled, b);
        let minus = e.neg(sum);
        let p = e.sigmoid(minus);
        let (least, most) = (e.number(DType::F32, LEAST)?, e.number(DType::F32, 1.0 - LEAST)?);
        let above = e.max(p, least);
        Ok(e.min(above, most))
    })?)
}

/// Probabilities `[rows, classes]` from those of the pairs `i < j` in order, `[rows, pairs]`.
pub(super) fn of_classes(cx: &mut NodeContext<'_>, pairs: Value, classes: usize) -> Result<Value, OpError> {
    let rows = cx.b.shape(pairs)?[0].clone();
    // The last column says whether the row is done.
    let shape = [rows, Dim::from(classes as i64 + 1)];
    let mut state = cx.b.map_to(&shape, &[], |e| {
        let (column, last) = (e.index(1), e.dim(&Dim::from(classes as i64)));
        let (is_last, zero) = (e.eq(column, last), e.number(DType::F32, 0.0)?);
        let equal = e.number(DType::F32, 1.0 / classes as f64)?;
        Ok(e.select(is_last, zero, equal))
    })?;
    let count = classes * (classes - 1) / 2;
    let pairs: Vec<Value> = (0..count).map(|n| columns(cx, pairs, n, 1)).collect::<Result<_, _>>()?;
    let per_kernel = (STEPS / (8 * classes * classes)).clamp(1, ROUNDS);
    let mut rounds = 0;
    while rounds < ROUNDS {
        let these = per_kernel.min(ROUNDS - rounds);
        let mut inputs = pairs.clone();
        for n in 0..=classes {
            inputs.push(columns(cx, state, n, 1)?);
        }
        state = cx.b.map_to(&shape, &inputs, |e| improved(e, classes, these))?;
        rounds += these;
    }
    columns(cx, state, 0, classes)
}

/// The state's element after some rounds; all of them are computed for each element.
fn improved(e: &mut ExprBuilder, classes: usize, rounds: usize) -> Result<ExprIndex, BuildError> {
    let (zero, one) = (e.number(DType::F32, 0.0)?, e.number(DType::F32, 1.0)?);
    let two = e.number(DType::F32, 2.0)?;
    let mut r = vec![vec![zero; classes]; classes];
    let ordered = (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j)));
    let mut argument = 0;
    for (i, j) in ordered {
        r[i][j] = e.arg(argument);
        r[j][i] = e.sub(one, r[i][j]);
        argument += 1;
    }
    let mut q = vec![vec![zero; classes]; classes];
    for i in 0..classes {
        for j in (0..classes).filter(|&j| j != i) {
            let square = e.mul(r[j][i], r[j][i]);
            q[i][i] = e.add(q[i][i], square);
            let product = e.mul(r[j][i], r[i][j]);
            q[i][j] = e.neg(product);
        }
    }
    let mut p: Vec<ExprIndex> = (0..classes as u32).map(|i| e.arg(argument + i)).collect();
    let flag = e.arg(argument + classes as u32);
    let mut done = e.gt(flag, zero);
    for _ in 0..rounds {
        let mut qp = Vec::with_capacity(classes);
        for row in &q {
            let mut sum = zero;
            for (&q, &p) in row.iter().zip(&p) {
                let product = e.mul(q, p);
                sum = e.add(sum, product);
            }
            qp.push(sum);
        }
        let mut pqp = zero;
        for (&p, &qp) in p.iter().zip(&qp) {
            let product = e.mul(p, qp);
            pqp = e.add(pqp, product);
        }
        let mut error = zero;
        for &qp in &qp {
            let difference = e.sub(qp, pqp);
            let size = e.abs(difference);
            error = e.max(error, size);
        }
        let bound = e.number(DType::F32, 0.005 / classes as f64)?;
        let close = e.lt(error, bound);
        done = e.or(done, close);
        let mut next = p.clone();
        for t in 0..classes {
            let down = e.sub(pqp, qp[t]);
            let step = e.div(down, q[t][t]);
            next[t] = e.add(next[t], step);
            let scale = e.add(one, step);
            let (curve, slope) = (e.mul(step, q[t][t]), e.mul(two, qp[t]));
            let change = e.add(curve, slope);
            let change = e.mul(step, change);
            let sum = e.add(pqp, change);
            let once = e.div(sum, scale);
            pqp = e.div(once, scale);
            for j in 0..classes {
                let more = e.mul(step, q[t][j]);
                let sum = e.add(qp[j], more);
                qp[j] = e.div(sum, scale);
                next[j] = e.div(next[j], scale);
            }
        }
        for (p, next) in p.iter_mut().zip(next) {
            *p = e.select(done, *p, next);
        }
    }
    let mut value = e.select(done, one, zero);
    for (i, &p) in p.iter().enumerate() {
        let (column, own) = (e.index(1), e.dim(&Dim::from(i as i64)));
        let is_own = e.eq(column, own);
        value = e.select(is_own, p, value);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, noise};

    #[test]
    fn probabilities_sum_to_one_and_follow_clear_pairs() {
        // Three classes with a support vector each on an axis; the kernel is the product with it.
        let model = TestModel::new("SVMClassifier", 1).domain("ai.onnx.ml").outputs(2);
        let model = model.ints("classlabels_ints", &[0, 1, 2]).ints("vectors_per_class", &[1, 1, 1]);
        let model = model.floats_attribute("support_vectors", &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let model = model.floats_attribute("coefficients", &[1.0, -1.0, -1.0, 1.0, 1.0, -1.0]);
        let model = model.floats_attribute("rho", &[0.0; 3]).text("kernel_type", "LINEAR");
        let model = model.floats_attribute("prob_a", &[-3.0; 3]).floats_attribute("prob_b", &[0.0; 3]);
        let mut x = noise(30);
        x[..3].copy_from_slice(&[4.0, 0.0, 0.0]);
        let results = model.input(&[10, 3], &x).run_all();
        let (labels, p) = (results[0].to_i64().expect("labels"), results[1].to_f32().expect("floats"));
        for (row, p) in p.chunks(3).enumerate() {
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5 && p.iter().all(|&p| p > 0.0), "row {row}: {p:?}");
        }
        assert_eq!(labels[0], 0);
        assert!(p[0] > 0.99, "{:?}", &p[..3]);
    }
}
