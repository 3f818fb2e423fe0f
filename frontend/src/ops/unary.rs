//! Functions of one number: rounding, roots, exponentials, trigonometry.
//!
//! Each is computed in at least `f32`. Where the textbook form loses digits (near 0, or by cancellation) another form of
//! the same function is used; the IR has only the elementary operations of [`onnxc_ir::scalar`].

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{ExprIndex, UnaryOp};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::Operator;
use super::math::map_wide;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Abs", &[1, 6, 13], (1, 1), abs),
    Operator::onnx("Neg", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Neg)),
    Operator::onnx("Sign", &[9, 13], (1, 1), sign),
    Operator::onnx("Ceil", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Ceil)),
    Operator::onnx("Floor", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Floor)),
    Operator::onnx("Round", &[11, 22], (1, 1), |cx| elementary(cx, UnaryOp::Round)),
    Operator::onnx("Sqrt", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Sqrt)),
    Operator::onnx("Exp", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Exp)),
    Operator::onnx("Log", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Log)),
    Operator::onnx("Erf", &[9, 13], (1, 1), |cx| elementary(cx, UnaryOp::Erf)),
    Operator::onnx("Sin", &[7, 22], (1, 1), |cx| elementary(cx, UnaryOp::Sin)),
    Operator::onnx("Cos", &[7, 22], (1, 1), |cx| elementary(cx, UnaryOp::Cos)),
    Operator::onnx("Tan", &[7, 22], (1, 1), |cx| elementary(cx, UnaryOp::Tan)),
    Operator::onnx("Asin", &[7, 22], (1, 1), |cx| elementary(cx, UnaryOp::Asin)),
    Operator::onnx("Acos", &[7, 22], (1, 1), |cx| elementary(cx, UnaryOp::Acos)),
    Operator::onnx("Atan", &[7, 22], (1, 1), |cx| elementary(cx, UnaryOp::Atan)),
    Operator::onnx("Tanh", &[1, 6, 13], (1, 1), |cx| elementary(cx, UnaryOp::Tanh)),
    Operator::onnx("Sinh", &[9, 22], (1, 1), |cx| function(cx, sinh)),
    Operator::onnx("Cosh", &[9, 22], (1, 1), |cx| function(cx, cosh)),
    Operator::onnx("Asinh", &[9, 22], (1, 1), |cx| function(cx, asinh)),
    Operator::onnx("Acosh", &[9, 22], (1, 1), |cx| function(cx, acosh)),
    Operator::onnx("Atanh", &[9, 22], (1, 1), |cx| function(cx, atanh)),
    Operator::onnx("Reciprocal", &[1, 6, 13], (1, 1), |cx| {
        function(cx, |e, t, x| {
            let one = e.number(t, 1.0)?;
            Ok(e.div(one, x))
        })
    }),
];

/// A step of an expression: the type it is computed in and its operand.
type Step = Result<ExprIndex, BuildError>;

/// An elementwise function of the only input.
pub(super) fn function(
    cx: &mut NodeContext<'_>,
    f: impl FnOnce(&mut ExprBuilder, DType, ExprIndex) -> Step,
) -> OpResult {
    let x = cx.input(0)?;
    Ok(vec![map_wide(cx, &[x], |e, t, args| f(e, t, args[0]))?])
}

fn elementary(cx: &mut NodeContext<'_>, op: UnaryOp) -> OpResult {
    let dtype = {
        let x = cx.input(0)?;
        cx.b.dtype(x)?
    };
    if !op.accepts(dtype) {
        return cx.invalid(format!("{} of {dtype}", op.name()));
    }
    function(cx, |e, _, x| Ok(e.unary(op, x)))
}

/// The identity where there is no sign.
fn abs(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    if cx.b.dtype(x)?.is_unsigned_int() { Ok(vec![x]) } else { elementary(cx, UnaryOp::Abs) }
}

/// Zeros and NaN are their own sign.
fn sign(cx: &mut NodeContext<'_>) -> OpResult {
    function(cx, |e, t, x| {
        let (zero, one) = (e.number(t, 0.0)?, e.number(t, 1.0)?);
        let positive = e.gt(x, zero);
        let mut rest = x;
        if !t.is_unsigned_int() {
            let (minus, negative) = (e.number(t, -1.0)?, e.lt(x, zero));
            rest = e.select(negative, minus, x);
        }
        Ok(e.select(positive, one, rest))
    })
}

/// `log(1 + x)` for x >= 0 with full precision near 0: the rounding error of `1 + x` is divided out (W. Kahan).
pub(super) fn log1p(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (zero, one) = (e.number(t, 0.0)?, e.number(t, 1.0)?);
    let sum = e.add(one, x);
    let (log, rounded) = (e.log(sum), e.sub(sum, one));
    let ratio = e.div(x, rounded);
    let corrected = e.mul(log, ratio);
    let tiny = e.eq(rounded, zero);
    let corrected = e.select(tiny, x, corrected);
    // Nothing was lost; also the way of infinity, whose ratio is NaN.
    let exact = e.eq(rounded, x);
    Ok(e.select(exact, log, corrected))
}

/// `exp(x) - 1` for x <= 0 without cancellation: `2 tanh(x/2) / (1 - tanh(x/2))`.
pub(super) fn expm1_negative(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (half, one) = (e.number(t, 0.5)?, e.number(t, 1.0)?);
    let x = e.mul(x, half);
    let th = e.tanh(x);
    let (numerator, denominator) = (e.add(th, th), e.sub(one, th));
    Ok(e.div(numerator, denominator))
}

/// `y` with the sign of `x`, for y >= 0.
fn with_sign(e: &mut ExprBuilder, t: DType, x: ExprIndex, y: ExprIndex) -> Step {
    let zero = e.number(t, 0.0)?;
    let (negative, minus) = (e.lt(x, zero), e.neg(y));
    Ok(e.select(negative, minus, y))
}

/// From tanh(x/2) near 0, else from exp(|x|/2), whose square reaches as far as the result does.
fn sinh(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (half, one) = (e.number(t, 0.5)?, e.number(t, 1.0)?);
    let magnitude = e.abs(x);
    let halved = e.mul(magnitude, half);
    let th = e.tanh(halved);
    let (twice, square) = (e.add(th, th), e.mul(th, th));
    let below = e.sub(one, square);
    let near = e.div(twice, below);
    let (grown, shrunk) = halves_of_powers(e, t, halved)?;
    let far = e.sub(grown, shrunk);
    let small = e.lt(magnitude, one);
    let y = e.select(small, near, far);
    with_sign(e, t, x, y)
}

fn cosh(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let half = e.number(t, 0.5)?;
    let magnitude = e.abs(x);
    let halved = e.mul(magnitude, half);
    let (grown, shrunk) = halves_of_powers(e, t, halved)?;
    Ok(e.add(grown, shrunk))
}

/// `exp(2 h) / 2` and `exp(-2 h) / 2`.
fn halves_of_powers(e: &mut ExprBuilder, t: DType, h: ExprIndex) -> Result<(ExprIndex, ExprIndex), BuildError> {
    let half = e.number(t, 0.5)?;
    let power = e.exp(h);
    let scaled = e.mul(power, half);
    let grown = e.mul(power, scaled);
    let once = e.div(half, power);
    Ok((grown, e.div(once, power)))
}

/// Above this the square root in asinh and acosh adds nothing to x.
const ASYMPTOTIC: f64 = 1e9;

/// `log(2 x)`, beyond the range where squares matter.
fn log_twice(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let ln2 = e.number(t, std::f64::consts::LN_2)?;
    let log = e.log(x);
    Ok(e.add(log, ln2))
}

/// `log1p(|x| + x^2 / (1 + sqrt(1 + x^2)))`.
fn asinh(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (one, limit) = (e.number(t, 1.0)?, e.number(t, ASYMPTOTIC)?);
    let magnitude = e.abs(x);
    let bounded = e.min(magnitude, limit);
    let square = e.mul(bounded, bounded);
    let sum = e.add(one, square);
    let root = e.sqrt(sum);
    let divisor = e.add(one, root);
    let extra = e.div(square, divisor);
    let argument = e.add(bounded, extra);
    let near = log1p(e, t, argument)?;
    let far = log_twice(e, t, magnitude)?;
    let large = e.gt(magnitude, limit);
    let y = e.select(large, far, near);
    with_sign(e, t, x, y)
}

/// With d = x - 1: `log1p(d + sqrt(d (d + 2)))`; NaN below 1 comes from the root.
fn acosh(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (one, two, limit) = (e.number(t, 1.0)?, e.number(t, 2.0)?, e.number(t, ASYMPTOTIC)?);
    let bounded = e.min(x, limit);
    let d = e.sub(bounded, one);
    let more = e.add(d, two);
    let square = e.mul(d, more);
    let root = e.sqrt(square);
    let argument = e.add(d, root);
    let near = log1p(e, t, argument)?;
    let far = log_twice(e, t, x)?;
    let large = e.gt(x, limit);
    Ok(e.select(large, far, near))
}

/// `log1p(2 a / (1 - a)) / 2` of the magnitude a.
fn atanh(e: &mut ExprBuilder, t: DType, x: ExprIndex) -> Step {
    let (half, one) = (e.number(t, 0.5)?, e.number(t, 1.0)?);
    let a = e.abs(x);
    let (twice, rest) = (e.add(a, a), e.sub(one, a));
    let ratio = e.div(twice, rest);
    let log = log1p(e, t, ratio)?;
    let y = e.mul(log, half);
    with_sign(e, t, x, y)
}
