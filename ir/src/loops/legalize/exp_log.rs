//! Expansions of the exponential and its relatives: exp, tanh, erf, log and pow.
//!
//! All polynomials are Chebyshev interpolants (within a factor of two of the minimax error), computed with 320 bits and
//! rounded. Error bounds that the tests assert, in units in the last place: `f32` exp 1, log 1, tanh 3, sigmoid 2.5, erf 3,
//! pow 1; `f64` exp 1.5, log 1.5, tanh 3, sigmoid 2, erf 2.5, pow 2, where the reference itself may be off by one.

use super::lanes::{F32, F64, Format, Lanes};
use crate::dtype::DType;
use crate::loops::Val;
use crate::scalar::{BinaryOp, CmpOp, UnaryOp};

/// (e^r - 1 - r) / r^2 on |r| <= 1.01 ln(2)/2.
const EXP_F32: [f64; 5] = [5.0e-01, 1.6666573e-01, 4.166655e-02, 8.363774e-03, 1.3926927e-03];
const EXP_F64: [f64; 11] = [
    0.5,
    0.1666666666666667,
    0.04166666666666667,
    0.008333333333325544,
    0.0013888888888883327,
    0.00019841269876864356,
    2.4801587327007187e-05,
    2.755725283351691e-06,
    2.75572718102198e-07,
    2.5106274733573296e-08,
    2.0915442297780116e-09,
];

/// (log((1 + s) / (1 - s)) / s - 2) / s^2 as a function of s^2 on [0, 0.0296].
const LOG_F32: [f64; 3] = [6.6666687e-01, 3.9988655e-01, 2.958568e-01];
const LOG_F64: [f64; 7] = [
    0.666666666666667,
    0.3999999999989607,
    0.28571428627528794,
    0.22222210881932927,
    0.1818290749767122,
    0.1533111258796017,
    0.1462395660821188,
];

/// What follows 2/3 in the same function: (... - 2/3) / s^2.
const LOG_TAIL: [f64; 8] = [
    0.4,
    0.28571428571429397,
    0.22222222221636845,
    0.18181818339697634,
    0.1538459450380989,
    0.13334829573906534,
    0.1170557189567721,
    0.1173010786189303,
];

/// log(1 - erf(x)) / x on [0, 4], with the weight that an error has in erf(x).
const ERF_F32: [f64; 8] = [
    -1.1283792e+00,
    -6.3661647e-01,
    -1.0281441e-01,
    1.9321715e-02,
    -2.0571559e-04,
    -1.2517469e-03,
    3.8100075e-04,
    -4.0707939e-05,
];
/// erf(x) / x - 1 as a function of x^2 on [0, 9/4].
const ERF_SMALL_F64: [f64; 16] = [
    0.1283791670955126,
    -0.3761263890318375,
    0.11283791670955019,
    -0.026866170645115366,
    0.005223977625317193,
    -0.000854832701749645,
    0.00012055332795344639,
    -1.4925646317851159e-05,
    1.6462051725055698e-06,
    -1.6365135759657916e-07,
    1.4801275015070155e-08,
    -1.2254068913482473e-09,
    9.257905685464181e-11,
    -6.175787624229416e-12,
    3.253716717253258e-13,
    -9.854446925686896e-15,
];

/// log(1 - erf(3.75 + w)) on |w| <= 2.25.
const ERF_LARGE_F64: [f64; 19] = [
    -15.989462741350012,
    -7.750404061587866,
    -0.970366327984575,
    -0.0044369126031764535,
    0.0007104509014180298,
    -0.00011534830182923677,
    1.8506030852411763e-05,
    -2.8830268788468475e-06,
    4.2884919704680776e-07,
    -5.953936626117676e-08,
    7.4051596072470646e-09,
    -7.444834654755025e-10,
    3.4621138939962285e-11,
    9.720580734584785e-12,
    -3.7715883934912e-12,
    8.237675574812936e-13,
    -1.9264155526603735e-13,
    4.6657947377344234e-14,
    -5.445983605321331e-15,
];

fn is_f32(fmt: &Format) -> bool {
    fmt.dtype == DType::F32
}

/// `e^r - 1` for `x + low = n ln 2 + r`, with |r| <= ln(2)/2 or a little more; `number` is `n`.
fn exp_rest(l: &mut Lanes<'_>, x: Val, number: Val, low: Option<Val>) -> Val {
    let [high_part, low_part] = l.fmt.ln2;
    let (high_part, low_part) = (l.num(-high_part), l.num(-low_part));
    let r = l.fma(number, high_part, x);
    let r = l.fma(number, low_part, r);
    let r = match low {
        Some(low) => l.add(r, low),
        None => r,
    };
    let q = if is_f32(l.fmt) { l.poly(r, &EXP_F32) } else { l.poly(r, &EXP_F64) };
    let r2 = l.mul(r, r);
    l.fma(q, r2, r)
}

/// What makes the shift of [`exp_parts`] reach the sign: the bit above the exponent's.
fn negated(fmt: &Format) -> i64 {
    2 * (fmt.bias + 1)
}

/// `x = n ln 2 + r`: gives `e^r - 1` and `2^(n + shift)`, where `n + shift` is the exponent of a normal number, or one less than
/// the least of those, for which the power is 0. A shift by [`negated`] gives the power with a minus.
fn exp_parts(l: &mut Lanes<'_>, x: Val, shift: i64) -> (Val, Val) {
    // Adding the magic number rounds; what it leaves in the low bits is the power's exponent field.
    let (log2e, magic) = (l.num(std::f64::consts::LOG2_E), l.num(l.fmt.magic + (l.fmt.bias + shift) as f64));
    let rounded = l.fma(x, log2e, magic);
    let number = l.sub(rounded, magic);
    let p = exp_rest(l, x, number, None);
    let bits = l.bits_of(rounded);
    let bits = l.shl(bits, l.fmt.fraction_bits);
    (p, l.number_of(bits))
}

/// e^x: results above the greatest number are inf. `f64` results below the least subnormal are 0, and `f32` results below
/// about 2^-125: making a subnormal number costs a processor a hundred cycles, and softmax and sigmoid make many of them.
pub(super) fn exp(l: &mut Lanes<'_>, x: Val) -> Val {
    if !is_f32(l.fmt) {
        return exp_sum(l, x, None);
    }
    let (least, greatest) = (l.num(-126.2 * std::f64::consts::LN_2), l.num(89.0));
    let x = l.b.binary(BinaryOp::Max, x, least);
    let x = l.b.binary(BinaryOp::Min, x, greatest);
    // The greatest n has no power of its own: half of it, and twice the rest. Half of the least is 0.
    let (p, half) = exp_parts(l, x, -1);
    let two = l.num(2.0);
    let twice = l.fma(p, two, two);
    l.mul(twice, half)
}

/// e^(x + low), where `low` is a rounding error of `x`.
fn exp_sum(l: &mut Lanes<'_>, x: Val, low: Option<Val>) -> Val {
    // Beyond these the result is 0 or inf, and within them both halves of the exponent are normal. Min and Max keep a NaN.
    let (least, greatest) = if is_f32(l.fmt) { (-104.0, 89.0) } else { (-746.0, 710.0) };
    let (least, greatest) = (l.num(least), l.num(greatest));
    let x = l.b.binary(BinaryOp::Max, x, least);
    let x = l.b.binary(BinaryOp::Min, x, greatest);
    let log2e = l.num(std::f64::consts::LOG2_E);
    let scaled = l.mul(x, log2e);
    let (number, n) = l.round(scaled);
    let p = exp_rest(l, x, number, low);
    let one = l.num(1.0);
    let p = l.add(p, one);
    l.scale(p, n)
}

/// tanh x = sign(x) E / (E + 2) with E = e^(2|x|) - 1.
pub(super) fn tanh(l: &mut Lanes<'_>, x: Val) -> Val {
    let magnitude = l.abs(x);
    // From here on the result rounds to 1.
    let limit = l.num(if is_f32(l.fmt) { 9.1 } else { 20.0 });
    let a = l.b.binary(BinaryOp::Min, magnitude, limit);
    let doubled = l.add(a, a);
    let (p, power) = exp_parts(l, doubled, 0);
    let (one, two) = (l.num(1.0), l.num(2.0));
    let offset = l.sub(power, one);
    let e = l.fma(p, power, offset);
    let t = if is_f32(l.fmt) {
        let minus_two = l.num(-2.0);
        let negative = l.sub(minus_two, e);
        quotient(l, Some(e), negative)
    } else {
        let denominator = l.add(e, two);
        l.div(e, denominator)
    };
    l.with_sign_of(t, x)
}

/// 1 / (1 + e^-x).
pub(super) fn sigmoid(l: &mut Lanes<'_>, x: Val) -> Val {
    let one = l.num(1.0);
    if !is_f32(l.fmt) {
        let negative = l.neg(x);
        let power = exp(l, negative);
        let sum = l.add(power, one);
        return l.div(one, sum);
    }
    // Within these the power and its reciprocal are normal numbers.
    let (least, greatest) = (l.num(-87.0), l.num(87.0));
    let x = l.b.binary(BinaryOp::Max, x, least);
    let x = l.b.binary(BinaryOp::Min, x, greatest);
    let x = l.neg(x);
    let (p, power) = exp_parts(l, x, 0);
    let p = l.add(p, one);
    let power = l.mul(p, power);
    let minus_one = l.num(-1.0);
    let negative = l.sub(minus_one, power);
    quotient(l, None, negative)
}

/// `numerator / -negative`, or the reciprocal, for `f32` divisors in 2^-125..2^126: a division of full vectors takes as
/// long as sixteen multiplications. The first guess comes from the exponent; its error of 1/8 is cubed, squared, and
/// squared again on the quotient.
fn quotient(l: &mut Lanes<'_>, numerator: Option<Val>, negative: Val) -> Val {
    let one = l.num(1.0);
    let guess = l.int(0x7ef3_11c7 + i64::from(i32::MIN));
    let bits = l.bits_of(negative);
    let guess = l.sub(guess, bits);
    let guess = l.number_of(guess);
    let error = l.fma(negative, guess, one);
    let series = l.fma(error, error, error);
    let reciprocal = l.fma(guess, series, guess);
    let error = l.fma(negative, reciprocal, one);
    let reciprocal = l.fma(reciprocal, error, reciprocal);
    let quotient = numerator.map_or(reciprocal, |n| l.mul(n, reciprocal));
    let rest = l.fma(negative, quotient, numerator.unwrap_or(one));
    l.fma(rest, reciprocal, quotient)
}

/// erf x = sign(x) (1 - e^R(|x|)) with a polynomial R.
fn erf_f32(l: &mut Lanes<'_>, x: Val) -> Val {
    let (limit, one) = (l.num(4.0), l.num(1.0));
    let a = l.abs(x);
    // At the limit the result rounds to 1.
    let a = l.b.binary(BinaryOp::Min, a, limit);
    let r = l.poly(a, &ERF_F32);
    let r = l.mul(r, a);
    let shift = negated(l.fmt);
    let (p, minus_power) = exp_parts(l, r, shift);
    // Nothing is lost where e^R is nearly 1: the difference of the two is exact.
    let rest = l.add(one, minus_power);
    let result = l.fma(p, minus_power, rest);
    l.with_sign_of(result, x)
}

/// erf x. `f64`: a polynomial up to 3/2, and 1 - e^R(x) with a polynomial R beyond.
pub(super) fn erf(l: &mut Lanes<'_>, x: Val) -> Val {
    if is_f32(l.fmt) {
        return erf_f32(l, x);
    }
    let a = l.abs(x);
    let a2 = l.mul(a, a);
    let small = l.poly(a2, &ERF_SMALL_F64);
    let small = l.fma(small, a, a);
    // At the limit the result rounds to 1.
    let (center, limit, one) = (l.num(3.75), l.num(6.0), l.num(1.0));
    let w = l.b.binary(BinaryOp::Min, a, limit);
    let w = l.sub(w, center);
    let r = l.poly(w, &ERF_LARGE_F64);
    let (p, power) = exp_parts(l, r, 0);
    let p = l.add(p, one);
    let complement = l.mul(p, power);
    let large = l.sub(one, complement);
    let is_small = l.compare_num(CmpOp::Lt, a, 1.5);
    let result = l.select(is_small, small, large);
    l.with_sign_of(result, x)
}

/// `x = 2^e (1 + f)` with 1 + f in [sqrt(1/2), sqrt(2)), for positive finite `x`: gives `e` as a number and `f`.
fn log_reduced(l: &mut Lanes<'_>, x: Val) -> (Val, Val) {
    let subnormal = l.compare_num(CmpOp::Lt, x, l.fmt.min_normal());
    let shift = f64::from(l.fmt.fraction_bits + 2);
    let power = l.num(shift.exp2());
    let scaled = l.mul(x, power);
    let x = l.select(subnormal, scaled, x);
    let bits = l.bits_of(x);
    let root = l.int(l.fmt.bits(std::f64::consts::FRAC_1_SQRT_2) as i64);
    let e = l.sub(bits, root);
    let e = l.shr(e, l.fmt.fraction_bits);
    let exponent = l.shl(e, l.fmt.fraction_bits);
    let m = l.sub(bits, exponent);
    let m = l.number_of(m);
    let one = l.num(1.0);
    let f = l.sub(m, one);
    let (shift, zero) = (l.num(shift), l.num(0.0));
    let correction = l.select(subnormal, shift, zero);
    let e = l.int_to_num(e);
    (l.sub(e, correction), f)
}

/// The logarithm of numbers that are not positive and finite, and `result` for the others.
fn log_special(l: &mut Lanes<'_>, x: Val, result: Val) -> Val {
    let (inf, minus_inf, nan) = (l.num(f64::INFINITY), l.num(f64::NEG_INFINITY), l.num(f64::NAN));
    let finite = l.compare(CmpOp::Lt, x, inf);
    let result = l.select(finite, result, x);
    let zero = l.compare_num(CmpOp::Eq, x, 0.0);
    let other = l.select(zero, minus_inf, nan);
    let positive = l.compare_num(CmpOp::Gt, x, 0.0);
    l.select(positive, result, other)
}

/// log x = e ln 2 + log(1 + f), and with s = f / (2 + f) and h = f^2 / 2: log(1 + f) = f - (h - s (h + R(s^2))).
pub(super) fn log(l: &mut Lanes<'_>, x: Val) -> Val {
    let (e, f) = log_reduced(l, x);
    let (two, half) = (l.num(2.0), l.num(0.5));
    let denominator = l.add(f, two);
    let s = l.div(f, denominator);
    let z = l.mul(s, s);
    let w = if is_f32(l.fmt) { l.poly(z, &LOG_F32) } else { l.poly(z, &LOG_F64) };
    let r = l.mul(w, z);
    let h = l.mul(f, f);
    let h = l.mul(h, half);
    let sum = l.add(h, r);
    let [ln2_high, ln2_low] = l.fmt.ln2;
    let (ln2_high, ln2_low) = (l.num(ln2_high), l.num(ln2_low));
    let low = l.mul(e, ln2_low);
    let t = l.fma(s, sum, low);
    let t = l.sub(h, t);
    let t = l.sub(t, f);
    let high = l.mul(e, ln2_high);
    let result = l.sub(high, t);
    log_special(l, x, result)
}

/// log of a positive finite number as a sum of two, with about 62 bits. Only for `f64`.
fn log_double(l: &mut Lanes<'_>, x: Val) -> (Val, Val) {
    let (e, f) = log_reduced(l, x);
    let two = l.num(2.0);
    // s = f / (2 + f): the quotient, and what is missing by its remainder.
    let (d, d_low) = l.two_sum(two, f);
    let s = l.div(f, d);
    let (p, p_low) = l.two_product(s, d);
    let rest = l.sub(f, p);
    let rest = l.sub(rest, p_low);
    let missing = l.mul(s, d_low);
    let rest = l.sub(rest, missing);
    let s_low = l.div(rest, d);
    // 2 s + s z W(z), z = s^2; the first coefficient's product is carried with its error.
    let (z, z_low) = l.two_product(s, s);
    let twice = l.add(s, s);
    let cross = l.mul(twice, s_low);
    let z_low = l.add(z_low, cross);
    let w = l.poly(z, &LOG_TAIL);
    let w = l.mul(w, z);
    let first = l.num(2.0 / 3.0);
    // 2/3 minus its rounding to f64.
    let first_low = l.num(3.700743415417188e-17);
    let (w, w_low) = l.two_sum(first, w);
    let w_low = l.add(w_low, first_low);
    let (zw, zw_low) = l.two_product(z, w);
    let part = l.mul(z, w_low);
    let zw_low = l.add(zw_low, part);
    let part = l.mul(z_low, w);
    let zw_low = l.add(zw_low, part);
    let (szw, szw_low) = l.two_product(s, zw);
    let part = l.mul(s, zw_low);
    let szw_low = l.add(szw_low, part);
    let part = l.mul(s_low, zw);
    let szw_low = l.add(szw_low, part);
    let s_low2 = l.add(s_low, s_low);
    let [ln2_high, ln2_low] = l.fmt.ln2;
    let (ln2_high, ln2_low) = (l.num(ln2_high), l.num(ln2_low));
    let high = l.mul(e, ln2_high);
    let low = l.mul(e, ln2_low);
    let (sum, error) = l.two_sum(high, twice);
    let (sum, error2) = l.two_sum(sum, szw);
    let low = l.add(low, szw_low);
    let low = l.add(low, s_low2);
    let low = l.add(low, error);
    let low = l.add(low, error2);
    l.two_sum(sum, low)
}

/// x^y = e^(y log|x|) with the sign of an odd power; the product is computed with more than the format's precision.
pub(super) fn pow(l: &mut Lanes<'_>, x: Val, y: Val) -> Val {
    if is_f32(l.fmt) {
        let (x, y) = (l.b.cast(DType::F64, x), l.b.cast(DType::F64, y));
        let mut wide = l.with(&F64);
        let magnitude = wide.abs(x);
        let log = log(&mut wide, magnitude);
        let product = wide.mul(y, log);
        let product = pow_of_one(&mut wide, magnitude, y, product);
        let power = exp(&mut wide, product);
        let result = pow_special(&mut wide, x, y, power);
        return l.b.cast(F32.dtype, result);
    }
    let magnitude = l.abs(x);
    let (high, low) = log_double(l, magnitude);
    let high = log_special(l, magnitude, high);
    // Larger exponents give the same 0, 1 or inf, and would overflow in the exact product.
    let (least, greatest) = (l.num(-1e25), l.num(1e25));
    let exponent = l.b.binary(BinaryOp::Max, y, least);
    let exponent = l.b.binary(BinaryOp::Min, exponent, greatest);
    let (product, error) = l.two_product(exponent, high);
    let error = l.fma(exponent, low, error);
    let size = l.abs(product);
    let exact = l.compare_num(CmpOp::Lt, size, 1e4);
    let zero = l.num(0.0);
    let error = l.select(exact, error, zero);
    let product = pow_of_one(l, magnitude, y, product);
    let power = exp_sum(l, product, Some(error));
    pow_special(l, x, y, power)
}

/// 1 to any power is 1, to an infinite one too: the product with the logarithm is 0 unless `y` is NaN.
fn pow_of_one(l: &mut Lanes<'_>, magnitude: Val, y: Val, product: Val) -> Val {
    let zero = l.num(0.0);
    let one = l.compare_num(CmpOp::Eq, magnitude, 1.0);
    let number = l.compare(CmpOp::Eq, y, y);
    let one = l.and(one, number);
    l.select(one, zero, product)
}

fn pow_special(l: &mut Lanes<'_>, x: Val, y: Val, power: Val) -> Val {
    let (zero, one, half, nan) = (l.num(0.0), l.num(1.0), l.num(0.5), l.num(f64::NAN));
    let whole = l.b.unary(UnaryOp::Floor, y);
    let is_whole = l.compare(CmpOp::Eq, whole, y);
    let halved = l.mul(y, half);
    let whole_half = l.b.unary(UnaryOp::Floor, halved);
    let not_even = l.compare(CmpOp::Ne, whole_half, halved);
    let odd = l.and(is_whole, not_even);
    let sign_mask = l.int(l.fmt.sign_mask());
    let none = l.int(0);
    let sign = l.bits_of(x);
    let sign = l.and(sign, sign_mask);
    let sign = l.select(odd, sign, none);
    let signed = l.xor_sign(power, sign);
    // A negative finite number to a fraction has no real value.
    let minus_inf = l.num(f64::NEG_INFINITY);
    let negative = l.compare(CmpOp::Lt, x, zero);
    let finite = l.compare(CmpOp::Gt, x, minus_inf);
    let negative = l.and(negative, finite);
    let undefined = l.select(is_whole, signed, nan);
    let result = l.select(negative, undefined, signed);
    let is_one = l.compare(CmpOp::Eq, x, one);
    let to_zero = l.compare(CmpOp::Eq, y, zero);
    let is_one = l.or(is_one, to_zero);
    l.select(is_one, one, result)
}
