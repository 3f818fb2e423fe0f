//! Steps of optimizers.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

const fn row(name: &'static str, import: fn(&mut NodeContext<'_>) -> OpResult) -> Operator {
    Operator { domain: "ai.onnx.preview.training", name, versions: &[1], inputs: (3, usize::MAX), limits: "", import }
}

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[row("Adagrad", adagrad), row("Adam", adam), row("Momentum", momentum)];

/// The learning rate, the step's number, and the rest as lists of `parts` equal lengths.
fn operands(cx: &NodeContext<'_>, parts: usize) -> Result<(Value, Value, Vec<Vec<Value>>), OpError> {
    let rest = (2..cx.input_count()).map(|n| cx.input(n)).collect::<Result<Vec<_>, _>>()?;
    if rest.len() % parts != 0 {
        return cx.invalid(format!("{} inputs are no {parts} lists of one length", rest.len()));
    }
    let lists = rest.chunks(rest.len() / parts).map(<[Value]>::to_vec).collect();
    Ok((cx.input(0)?, cx.input(1)?, lists))
}

/// The gradient with the regularization's: `norm * x + g`, of the arguments 0 and 1.
fn regularized(e: &mut ExprBuilder, dtype: DType, norm: f32) -> Result<ExprIndex, BuildError> {
    let (x, g, norm) = (e.arg(0), e.arg(1), e.number(dtype, f64::from(norm))?);
    let pull = e.mul(norm, x);
    Ok(e.add(pull, g))
}

/// `keep * a + take * b`.
fn mixed(
    e: &mut ExprBuilder,
    dtype: DType,
    (keep, a): (f64, ExprIndex),
    (take, b): (f64, ExprIndex),
) -> Result<ExprIndex, BuildError> {
    let (keep, take) = (e.number(dtype, keep)?, e.number(dtype, take)?);
    let (kept, taken) = (e.mul(keep, a), e.mul(take, b));
    Ok(e.add(kept, taken))
}

fn adagrad(cx: &mut NodeContext<'_>) -> OpResult {
    let (rate, step, lists) = operands(cx, 3)?;
    let (decay, epsilon, norm) =
        (cx.float("decay_factor", 0.0), cx.float("epsilon", 0.0), cx.float("norm_coefficient", 0.0));
    let (mut parameters, mut squares) = (Vec::new(), Vec::new());
    for ((&x, &g), &h) in lists[0].iter().zip(&lists[1]).zip(&lists[2]) {
        let dtype = cx.b.dtype(x)?;
        let square = cx.b.map(&[x, g, h], |e| {
            let (g, h) = (regularized(e, dtype, norm)?, e.arg(2));
            let square = e.mul(g, g);
            Ok(e.add(h, square))
        })?;
        parameters.push(cx.b.map(&[x, g, square, rate, step], |e| {
            let (g, x, h, rate, step) = (regularized(e, dtype, norm)?, e.arg(0), e.arg(2), e.arg(3), e.arg(4));
            let (one, decay) = (e.number(dtype, 1.0)?, e.number(dtype, f64::from(decay))?);
            let (step, epsilon) = (e.cast(dtype, step), e.number(dtype, f64::from(epsilon))?);
            let slowed = e.mul(step, decay);
            let divisor = e.add(one, slowed);
            let (rate, root) = (e.div(rate, divisor), e.sqrt(h));
            let (root, scaled) = (e.add(root, epsilon), e.mul(rate, g));
            let change = e.div(scaled, root);
            Ok(e.sub(x, change))
        })?);
        squares.push(square);
    }
    parameters.extend(squares);
    Ok(parameters)
}

fn adam(cx: &mut NodeContext<'_>) -> OpResult {
    let (rate, step, lists) = operands(cx, 4)?;
    let (alpha, beta) = (f64::from(cx.float("alpha", 0.9)), f64::from(cx.float("beta", 0.999)));
    let (epsilon, norm) = (cx.float("epsilon", 0.0), cx.float("norm_coefficient", 0.0));
    let post = f64::from(cx.float("norm_coefficient_post", 0.0));
    let (mut parameters, mut means, mut squares) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (&x, &g)) in lists[0].iter().zip(&lists[1]).enumerate() {
        let dtype = cx.b.dtype(x)?;
        let mean = cx.b.map(&[x, g, lists[2][n]], |e| {
            let (g, v) = (regularized(e, dtype, norm)?, e.arg(2));
            mixed(e, dtype, (alpha, v), (1.0 - alpha, g))
        })?;
        let square = cx.b.map(&[x, g, lists[3][n]], |e| {
            let (g, h) = (regularized(e, dtype, norm)?, e.arg(2));
            let square = e.mul(g, g);
            mixed(e, dtype, (beta, h), (1.0 - beta, square))
        })?;
        parameters.push(cx.b.map(&[x, mean, square, rate, step], |e| {
            let (x, mean, square, rate, step) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3), e.arg(4));
            let (zero, one) = (e.number(dtype, 0.0)?, e.number(dtype, 1.0)?);
            let (epsilon, step) = (e.number(dtype, f64::from(epsilon))?, e.cast(dtype, step));
            let remaining = |e: &mut ExprBuilder, base: f64| -> Result<ExprIndex, BuildError> {
                let base = e.number(dtype, base)?;
                let power = e.pow(base, step);
                Ok(e.sub(one, power))
            };
            let (means, squares) = (remaining(e, alpha)?, remaining(e, beta)?);
            let root = e.sqrt(squares);
            let ratio = e.div(root, means);
            let begun = e.gt(step, zero);
            let correction = e.select(begun, ratio, one);
            let (rate, root) = (e.mul(rate, correction), e.sqrt(square));
            let (scaled, divisor) = (e.mul(rate, mean), e.add(root, epsilon));
            let change = e.div(scaled, divisor);
            let (new, rest) = (e.sub(x, change), e.number(dtype, 1.0 - post)?);
            Ok(e.mul(new, rest))
        })?);
        means.push(mean);
        squares.push(square);
    }
    parameters.extend(means);
    parameters.extend(squares);
    Ok(parameters)
}

fn momentum(cx: &mut NodeContext<'_>) -> OpResult {
    let (rate, step, lists) = operands(cx, 3)?;
    let (alpha, beta, norm) = (cx.float("alpha", 0.0), cx.float("beta", 0.0), cx.float("norm_coefficient", 0.0));
    let nesterov = match cx.text("mode")? {
        Some("nesterov") => true,
        Some("standard") => false,
        other => return cx.invalid(format!("attribute `mode` is {other:?}")),
    };
    let (mut parameters, mut momenta) = (Vec::new(), Vec::new());
    for ((&x, &g), &v) in lists[0].iter().zip(&lists[1]).zip(&lists[2]) {
        let dtype = cx.b.dtype(x)?;
        let velocity = cx.b.map(&[x, g, v, step], |e| {
            let (g, v, step, zero) = (regularized(e, dtype, norm)?, e.arg(2), e.arg(3), e.number(DType::I64, 0.0)?);
            let (beta, one) = (e.number(dtype, f64::from(beta))?, e.number(dtype, 1.0)?);
            let (alpha, begun) = (e.number(dtype, f64::from(alpha))?, e.gt(step, zero));
            let factor = e.select(begun, beta, one);
            let (kept, taken) = (e.mul(alpha, v), e.mul(factor, g));
            Ok(e.add(kept, taken))
        })?;
        parameters.push(cx.b.map(&[x, g, velocity, rate], |e| {
            let (x, mut direction, rate) = (e.arg(0), e.arg(2), e.arg(3));
            if nesterov {
                let (g, alpha) = (regularized(e, dtype, norm)?, e.number(dtype, f64::from(alpha))?);
                let ahead = e.mul(alpha, direction);
                direction = e.add(g, ahead);
            }
            let change = e.mul(rate, direction);
            Ok(e.sub(x, change))
        })?);
        momenta.push(velocity);
    }
    parameters.extend(momenta);
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::all;
    use crate::ops::test_model::TestModel;

    #[test]
    fn rows_are_of_their_domain() {
        let rows = all().into_iter().filter(|r| r.domain == "ai.onnx.preview.training");
        assert_eq!(rows.map(|r| r.name).collect::<Vec<_>>(), ["Adagrad", "Adam", "Momentum"]);
    }

    #[test]
    fn lists_of_unequal_lengths_are_refused() {
        let model = TestModel::new("Momentum", 1).domain("ai.onnx.preview.training").input(&[], &[0.1]);
        let model = model.declared(&[], TensorBytes::from_i64(&[], &[0])).input(&[1], &[1.0]).input(&[1], &[1.0]);
        assert!(model.error().contains("no 3 lists"));
    }

    #[test]
    fn a_step_of_nesterov_momentum() {
        let model = TestModel::new("Momentum", 1)
            .domain("ai.onnx.preview.training")
            .outputs(2)
            .float("alpha", 0.5)
            .float("beta", 9.0)
            .text("mode", "nesterov")
            .input(&[], &[0.25])
            .declared(&[], TensorBytes::from_i64(&[], &[0]));
        // In the first step beta is 1: v = 0.5 * 2 + 4, x = 1 - 0.25 * (4 + 0.5 * 5).
        let results = model.input(&[1], &[1.0]).input(&[1], &[4.0]).input(&[1], &[2.0]).run_all();
        assert_eq!(results[0].to_f32(), Some(vec![-0.625]));
        assert_eq!(results[1].to_f32(), Some(vec![5.0]));
    }
}
