//! Losses over classes.

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::{Coord, ReduceOp};

use super::Operator;
use super::softmax::softmax_over;
use crate::import::{NodeContext, OpError};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("NegativeLogLikelihoodLoss", &[12, 13, 22], (2, 3), |cx| {
        let x = cx.input(0)?;
        Ok(vec![likelihood_loss(cx, x)?])
    }),
    Operator::onnx("SoftmaxCrossEntropyLoss", &[12, 13], (2, 3), |cx| {
        let x = cx.input(0)?;
        if cx.b.rank(x)? < 2 {
            return cx.invalid("the scores have no axis of classes");
        }
        let x = softmax_over(&mut cx.b, x, 1, true)?;
        Ok(vec![likelihood_loss(cx, x)?, x])
    }),
];

/// The negative log probability of the right class, weighted by class, summed or averaged. `x` is `[N, C, ...]`.
fn likelihood_loss(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let target = cx.input(1)?;
    let (shape, positions, dtype) = (cx.b.shape(x)?, cx.b.shape(target)?, cx.b.dtype(x)?);
    if shape.len() < 2 || positions.len() + 1 != shape.len() {
        let (x, t) = (cx.b.graph.shape_text(&shape), cx.b.graph.shape_text(&positions));
        return cx.invalid(format!("scores of shape {x} for classes of shape {t}"));
    }
    let target = cx.b.cast(target, DType::I64)?;
    let coords: Vec<Coord> = (0..shape.len() as u32)
        .map(|i| match i {
            0 => Coord::Axis(0),
            1 => Coord::Input(0),
            _ => Coord::Axis(i - 1),
        })
        .collect();
    let chosen = cx.b.gather(x, &[target], &coords, &positions)?;
    // Weights are one, or the class's, and nothing where the class is to be ignored.
    let mut weights = match cx.optional(2) {
        Some(weights) => Some(cx.b.gather(weights, &[target], &[Coord::Input(0)], &positions)?),
        None => None,
    };
    if let Some(ignored) = cx.int_opt("ignore_index") {
        let inputs: Vec<Value> = std::iter::once(target).chain(weights).collect();
        weights = Some(cx.b.map(&inputs, |e| {
            let (target, ignored) = (e.arg(0), e.number(DType::I64, ignored as f64)?);
            let (zero, one) = (e.number(dtype, 0.0)?, e.number(dtype, 1.0)?);
            let weight = if inputs.len() == 2 { e.arg(1) } else { one };
            let skip = e.eq(target, ignored);
            Ok(e.select(skip, zero, weight))
        })?);
    }
    let loss = match weights {
        None => cx.b.neg(chosen)?,
        Some(weights) => cx.b.map(&[chosen, weights], |e| {
            let (x, w, zero) = (e.arg(0), e.arg(1), e.number(dtype, 0.0)?);
            // An ignored element counts nothing, even if its probability is 0.
            let (negative, skip) = (e.neg(x), e.eq(w, zero));
            let product = e.mul(negative, w);
            Ok(e.select(skip, zero, product))
        })?,
    };
    let axes: Vec<i64> = (0..positions.len() as i64).collect();
    match cx.text("reduction")?.unwrap_or("mean") {
        "none" => Ok(loss),
        "sum" => Ok(cx.b.reduce(ReduceOp::Sum, loss, &axes, false)?),
        "mean" => match weights {
            None => Ok(cx.b.mean(loss, &axes, false)?),
            Some(weights) => {
                let loss = cx.b.reduce(ReduceOp::Sum, loss, &axes, false)?;
                let total = cx.b.reduce(ReduceOp::Sum, weights, &axes, false)?;
                Ok(cx.b.div(loss, total)?)
            }
        },
        other => cx.invalid(format!("attribute `reduction` is `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::TestModel;

    #[test]
    fn ignored_classes_count_nothing() {
        let loss = |ignored: i64, reduction: &str| {
            TestModel::new("NegativeLogLikelihoodLoss", 13)
                .int("ignore_index", ignored)
                .text("reduction", reduction)
                .input(&[3, 2], &[-1.0, f32::NEG_INFINITY, -2.0, -3.0, -4.0, -5.0])
                .declared(&[3], TensorBytes::from_i64(&[3], &[0, 1, -7]))
                .floats(&[2], &[1.0, 3.0])
                .run()
                .1
        };
        assert_eq!(loss(-7, "none"), [1.0, 9.0, 0.0]);
        assert_eq!(loss(-7, "sum"), [10.0]);
        assert_eq!(loss(-7, "mean"), [2.5]);
    }
}
