//! Variants of Gelu, with the bias that precedes them fused.

use super::super::Operator;
use super::super::activations::{gelu_curve, swish};
use super::super::math::map_wide;
use super::super::unary::function;
use super::row;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("Gelu", (1, 1), |cx| biased_gelu(cx, false)),
    row("BiasGelu", (2, 2), |cx| biased_gelu(cx, false)),
    row("FastGelu", (1, 2), |cx| biased_gelu(cx, true)),
    row("QuickGelu", (1, 1), |cx| {
        let alpha = cx.float("alpha", 1.702);
        function(cx, |e, t, x| swish(e, t, x, alpha.into()))
    }),
];

/// Gelu of the sum of the input and the bias, where there is one: a row as long as the last axis.
fn biased_gelu(cx: &mut NodeContext<'_>, approximate: bool) -> OpResult {
    let x = cx.input(0)?;
    let inputs = match cx.optional(1) {
        Some(bias) => {
            if cx.b.rank(bias)? != 1 || cx.b.rank(x)? == 0 {
                return cx.invalid("the bias is not a row that fits the input");
            }
            vec![x, bias]
        }
        None => vec![x],
    };
    Ok(vec![map_wide(cx, &inputs, |e, t, args| {
        let sum = match args {
            [x, bias] => e.add(*x, *bias),
            _ => args[0],
        };
        gelu_curve(e, t, sum, approximate)
    })?])
}

#[cfg(test)]
mod tests {
    use super::super::super::test_model::TestModel;

    const X: [f32; 4] = [-1.0, 0.5, 2.0, -3.0];
    const BIAS: [f32; 2] = [0.5, -1.0];

    fn model(op: &str) -> TestModel {
        TestModel::new(op, 1).domain("com.microsoft").input(&[2, 2], &X)
    }

    /// The expected values are those of ONNX Runtime 1.31.
    #[track_caller]
    fn check(model: TestModel, expected: [f32; 4]) {
        let (shape, found) = model.run();
        assert_eq!(shape, [2, 2]);
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 2e-6, "{found:?} instead of {expected:?}");
        }
    }

    #[test]
    fn gelu_is_exact_unless_fast() {
        check(model("Gelu"), [-0.158_655_26, 0.345_731_23, 1.954_499_7, -0.004_049_69]);
        check(model("FastGelu"), [-0.158_807_96, 0.345_714, 1.954_597_7, -0.003_637_52]);
    }

    #[test]
    fn bias_is_added_first() {
        let exact = [-0.154_268_77, -0.154_268_77, 2.484_476, -0.000_126_72];
        check(model("BiasGelu").input(&[2], &BIAS), exact);
        let fast = [-0.154_286, -0.154_286, 2.484_915_7, -0.000_070_1];
        check(model("FastGelu").input(&[2], &BIAS), fast);
        assert!(model("BiasGelu").input(&[1, 2], &BIAS).error().contains("row"));
    }

    #[test]
    fn quick_gelu_scales_the_gate() {
        check(model("QuickGelu"), [-0.154_204_22, 0.350_388_4, 1.935_658_7, -0.018_071_29]);
        check(model("QuickGelu").float("alpha", 1.0), [-0.268_941_43, 0.311_229_65, 1.761_594_2, -0.142_277_6]);
        check(model("QuickGelu").float("alpha", -2.0), [-0.880_797_1, 0.134_470_72, 0.035_972_48, -2.992_582]);
    }
}
