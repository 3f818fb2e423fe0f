//! Activation functions.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{ExprIndex, Scalar};
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::Operator;
use super::math::map_wide;
use super::unary::{expm1_negative, function, log1p};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Relu", &[1, 6, 13, 14], (1, 1), relu),
    Operator::onnx("LeakyRelu", &[1, 6, 16], (1, 1), leaky_relu),
    Operator::onnx("PRelu", &[1, 6, 7, 9, 16], (2, 2), prelu),
    Operator::onnx("ThresholdedRelu", &[10, 22], (1, 1), thresholded_relu),
    Operator::onnx("Clip", &[1, 6, 11, 12, 13], (1, 3), clip),
    Operator::onnx("Elu", &[1, 6, 22], (1, 1), |cx| {
        let alpha = cx.float("alpha", 1.0);
        function(cx, |e, t, x| exponential_unit(e, t, x, 1.0, alpha.into(), 1.0))
    }),
    Operator::onnx("Selu", &[1, 6, 22], (1, 1), selu),
    Operator::onnx("Celu", &[12, 28], (1, 1), |cx| {
        let alpha = f64::from(cx.float("alpha", 1.0));
        function(cx, |e, t, x| exponential_unit(e, t, x, 1.0, alpha, alpha))
    }),
    Operator::onnx("Sigmoid", &[1, 6, 13], (1, 1), |cx| function(cx, |e, _, x| Ok(e.sigmoid(x)))),
    Operator::onnx("HardSigmoid", &[1, 6, 22], (1, 1), |cx| {
        let (alpha, beta) = (cx.float("alpha", 0.2), cx.float("beta", 0.5));
        function(cx, |e, t, x| hard_sigmoid(e, t, x, alpha.into(), beta.into()))
    }),
    Operator::onnx("HardSwish", &[14, 22], (1, 1), |cx| {
        function(cx, |e, t, x| {
            let gate = hard_sigmoid(e, t, x, 1.0 / 6.0, 0.5)?;
            Ok(e.mul(x, gate))
        })
    }),
    Operator::onnx("Softplus", &[1, 22], (1, 1), |cx| function(cx, softplus)),
    Operator::onnx("Softsign", &[1, 22], (1, 1), |cx| {
        function(cx, |e, t, x| {
            let (one, magnitude) = (e.number(t, 1.0)?, e.abs(x));
            let divisor = e.add(one, magnitude);
            Ok(e.div(x, divisor))
        })
    }),
    Operator::onnx("Gelu", &[20], (1, 1), gelu),
    Operator::onnx("Mish", &[18, 22], (1, 1), |cx| function(cx, mish)),
    Operator::onnx("Swish", &[24], (1, 1), |cx| {
        let alpha = cx.float("alpha", 1.0);
        function(cx, |e, t, x| swish(e, t, x, alpha.into()))
    }),
    Operator::onnx("SwiGLU", &[28], (2, 2), |cx| {
        let (a, b, alpha) = (cx.input(0)?, cx.input(1)?, cx.float("alpha", 1.0));
        Ok(vec![map_wide(cx, &[a, b], |e, t, args| {
            let gate = swish(e, t, args[0], alpha.into())?;
            Ok(e.mul(gate, args[1]))
        })?])
    }),
    Operator::onnx("Shrink", &[9], (1, 1), shrink),
];

type Step = Result<ExprIndex, BuildError>;

fn relu(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    Ok(vec![cx.b.relu(x)?])
}

/// `x < 0 ? slope * x : x`.
fn leaky_relu(cx: &mut NodeContext<'_>) -> OpResult {
    let alpha = f64::from(cx.float("alpha", 0.01));
    function(cx, |e, t, x| {
        let (zero, alpha) = (e.number(t, 0.0)?, e.number(t, alpha)?);
        let (negative, scaled) = (e.lt(x, zero), e.mul(x, alpha));
        Ok(e.select(negative, scaled, x))
    })
}

/// Before opset 7 a slope is one number or one per channel, from opset 7 on it broadcasts.
fn prelu(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, mut slope) = (cx.input(0)?, cx.input(1)?);
    let (rank, slope_shape) = (cx.b.rank(x)?, cx.b.shape(slope)?);
    if cx.version < 7 && slope_shape.len() == 1 && slope_shape[0] != 1 && rank > 1 {
        let trailing: Vec<i64> = (1..rank as i64 - 1).collect();
        slope = cx.b.unsqueeze(slope, &trailing)?;
    }
    Ok(vec![map_wide(cx, &[x, slope], |e, t, args| {
        let zero = e.number(t, 0.0)?;
        let (negative, scaled) = (e.lt(args[0], zero), e.mul(args[0], args[1]));
        Ok(e.select(negative, scaled, args[0]))
    })?])
}

fn thresholded_relu(cx: &mut NodeContext<'_>) -> OpResult {
    let alpha = f64::from(cx.float("alpha", 1.0));
    function(cx, |e, t, x| {
        let (zero, alpha) = (e.number(t, 0.0)?, e.number(t, alpha)?);
        let above = e.gt(x, alpha);
        Ok(e.select(above, x, zero))
    })
}

/// Bounds are attributes before opset 11 and scalar inputs from then on.
fn clip(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let dtype = cx.b.dtype(x)?;
    if !dtype.is_float() && !dtype.is_int() {
        return cx.invalid(format!("bounds for {dtype}"));
    }
    if cx.version < 11 {
        let (low, high) = (cx.float_opt("min"), cx.float_opt("max"));
        return function(cx, |e, t, mut x| {
            if let Some(low) = low {
                let low = e.number(t, low.into())?;
                x = e.max(x, low);
            }
            if let Some(high) = high {
                let high = e.number(t, high.into())?;
                x = e.min(x, high);
            }
            Ok(x)
        });
    }
    let (low, high) = (bound(cx, 1)?, bound(cx, 2)?);
    let mut inputs = vec![x];
    for bound in [&low, &high] {
        if let Bound::Input(value) = bound {
            inputs.push(*value);
        }
    }
    let y = cx.b.map(&inputs, |e| {
        let mut next = 1;
        let mut operand = |e: &mut ExprBuilder, bound: &Bound| match bound {
            Bound::None => None,
            Bound::Constant(scalar) => Some(e.constant(*scalar)),
            Bound::Input(_) => {
                next += 1;
                Some(e.arg(next - 1))
            }
        };
        let mut y = e.arg(0);
        if let Some(low) = operand(e, &low) {
            y = e.max(y, low);
        }
        if let Some(high) = operand(e, &high) {
            y = e.min(y, high);
        }
        Ok(y)
    })?;
    Ok(vec![y])
}

/// One end of the range of `Clip`.
enum Bound {
    None,
    /// Known when the model is compiled.
    Constant(Scalar),
    /// A scalar.
    Input(Value),
}

fn bound(cx: &mut NodeContext<'_>, n: usize) -> Result<Bound, OpError> {
    let Some(value) = cx.optional(n) else { return Ok(Bound::None) };
    let dtype = cx.b.dtype(value)?;
    let known = cx.b.graph.known[value].as_ref();
    let number = match dtype {
        // `f64` and wider integers do not all pass through a number without loss.
        DType::F32 | DType::F64 => known.and_then(|k| k.all_floats()).and_then(|v| v.first().copied()),
        DType::I32 | DType::I16 | DType::I8 | DType::U8 => {
            known.and_then(|k| k.all()?.first()?.as_const()).map(|i| i as f64)
        }
        _ => None,
    };
    if let Some(scalar) = number.and_then(|n| Scalar::number(dtype, n)) {
        return Ok(Bound::Constant(scalar));
    }
    // A tensor of one element is taken for a scalar.
    Ok(Bound::Input(cx.b.reshape(value, &[])?))
}

/// `x > 0 ? gamma * x : gamma * alpha * (exp(x / width) - 1)`.
fn exponential_unit(e: &mut ExprBuilder, t: DType, x: ExprIndex, gamma: f64, alpha: f64, width: f64) -> Step {
    let zero = e.number(t, 0.0)?;
    let below = e.min(x, zero);
    let scaled = if width == 1.0 {
        below
    } else {
        let width = e.number(t, width)?;
        e.div(below, width)
    };
    let curve = expm1_negative(e, t, scaled)?;
    let factor = e.number(t, gamma * alpha)?;
    let curve = e.mul(curve, factor);
    let line = if gamma == 1.0 {
        x
    } else {
        let gamma = e.number(t, gamma)?;
        e.mul(x, gamma)
    };
    let positive = e.gt(x, zero);
    Ok(e.select(positive, line, curve))
}

/// The defaults of opset 1 have fewer digits.
fn selu(cx: &mut NodeContext<'_>) -> OpResult {
    let (alpha, gamma) = if cx.version < 6 { (1.6732, 1.0507) } else { (1.673_263_2, 1.050_701) };
    let (alpha, gamma) = (cx.float("alpha", alpha), cx.float("gamma", gamma));
    function(cx, |e, t, x| exponential_unit(e, t, x, gamma.into(), alpha.into(), 1.0))
}

fn hard_sigmoid(e: &mut ExprBuilder, t: DType, x: ExprIndex, alpha: f64, beta: f64) -> Step {
    let (zero, one) = (e.number(t, 0.0)?, e.number(t, 1.0)?);
    let (alpha, beta) = (e.number(t, alpha)?, e.number(t, beta)?);
    let scaled = e.mul(x, alpha);
    let shifted = e.add(scaled, beta);
    let low = e.max(shifted, zero);
    Ok(e.min(low, one))
}

/// `max(x, 0) + log1p(exp(-|x|))`: never overflows, and keeps the small values of large negative x.
pub(super) fn softplus(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let zero = e.number(t, 0.0)?;
    let magnitude = e.abs(x);
    let negative = e.neg(magnitude);
    let power = e.exp(negative);
    let curve = log1p(e, t, power)?;
    let line = e.max(x, zero);
    Ok(e.add(line, curve))
}

/// `x * tanh(softplus(x))`; with p = exp(x) this is `x * q / (q + 2)`, q = p (p + 2). From 20 on the factor is 1.
fn mish(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (two, limit) = (e.number(t, 2.0)?, e.number(t, 20.0)?);
    let bounded = e.min(x, limit);
    let p = e.exp(bounded);
    let more = e.add(p, two);
    let q = e.mul(p, more);
    let divisor = e.add(q, two);
    let factor = e.div(q, divisor);
    Ok(e.mul(x, factor))
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn swish(e: &mut ExprBuilder, t: DType, x: ExprIndex, alpha: f64) -> Step {
    let argument = if alpha == 1.0 {
        x
    } else {
        let alpha = e.number(t, alpha)?;
        e.mul(x, alpha)
    };
    let gate = e.sigmoid(argument);
    Ok(e.mul(x, gate))
}

fn gelu(cx: &mut NodeContext<'_>) -> OpResult {
    let approximate = match cx.text("approximate")? {
        None | Some("none") => false,
        Some("tanh") => true,
        Some(other) => return cx.invalid(format!("approximation `{other}`")),
    };
    function(cx, |e, t, x| gelu_curve(e, t, x, approximate))
}

/// `x / 2 * (1 + erf(x / sqrt 2))`, or the approximation by tanh.
pub(super) fn gelu_curve(e: &mut ExprBuilder, t: DType, x: ExprIndex, approximate: bool) -> Step {
    let (half, one) = (e.number(t, 0.5)?, e.number(t, 1.0)?);
    let curve = if approximate {
        let (cubic, scale) = (e.number(t, 0.044715)?, e.number(t, (2.0 / std::f64::consts::PI).sqrt())?);
        let square = e.mul(x, x);
        let cube = e.mul(square, x);
        let cube = e.mul(cube, cubic);
        let sum = e.add(x, cube);
        let argument = e.mul(sum, scale);
        e.tanh(argument)
    } else {
        let scale = e.number(t, std::f64::consts::FRAC_1_SQRT_2)?;
        let argument = e.mul(x, scale);
        e.erf(argument)
    };
    let sum = e.add(one, curve);
    let halved = e.mul(x, half);
    Ok(e.mul(halved, sum))
}

fn shrink(cx: &mut NodeContext<'_>) -> OpResult {
    let (bias, lambd) = (f64::from(cx.float("bias", 0.0)), f64::from(cx.float("lambd", 0.5)));
    function(cx, |e, t, x| {
        let zero = e.number(t, 0.0)?;
        let (bias, high, low) = (e.number(t, bias)?, e.number(t, lambd)?, e.number(t, -lambd)?);
        let (below, above) = (e.lt(x, low), e.gt(x, high));
        let (up, down) = (e.add(x, bias), e.sub(x, bias));
        let inner = e.select(above, down, zero);
        Ok(e.select(below, up, inner))
    })
}
