//! Expansions of the trigonometric functions and their inverses.
//!
//! The argument of sin, cos and tan is reduced to `n pi/2 + r`, |r| <= pi/4, in `f64` for both formats. Up to 2^28, pi/2 is
//! subtracted in parts of 25 bits (Cody and Waite), whose products with `n` are exact. Beyond, in a branch that is
//! hardly ever taken, `f32` multiplies with the bits of 2/pi that matter (Payne and Hanek) and is as good everywhere; `f64`
//! subtracts parts with both halves of `n`, which is good up to 2^52, and its results for greater arguments are in
//! [-1, 1] but mean nothing.
//!
//! Polynomials are Chebyshev interpolants computed with 320 bits and rounded. Error bounds that the tests assert, in units
//! in the last place: `f32` sin and cos 1.5, tan 3.5, asin, acos and atan 2.5; `f64` sin and cos 2, tan 4, asin, acos and
//! atan 2.5, where the reference itself may be off by one.

use super::lanes::{F64, Format, Lanes};
use crate::dtype::DType;
use crate::loops::Val;
use crate::scalar::{BinaryOp, CmpOp, UnaryOp};

/// (sin(r) / r - 1) / r^2 as a function of r^2 on [0, 0.63].
const SIN_F32: [f64; 4] = [-1.6666667e-01, 8.333332e-03, -1.9840036e-04, 2.724341e-06];
const SIN_F64: [f64; 6] = [
    -0.16666666666666663,
    0.008333333333330684,
    -0.00019841269836362113,
    2.755731589908745e-06,
    -2.5051089888500053e-08,
    1.591513837397633e-10,
];

/// (cos(r) - 1 + r^2 / 2) / r^4 as a function of r^2 on [0, 0.63].
const COS_F32: [f64; 3] = [4.1666664e-02, -1.3888278e-03, 2.4542564e-05];
const COS_F64: [f64; 6] = [
    0.041666666666666664,
    -0.001388888888888723,
    2.480158729851767e-05,
    -2.755731714444461e-07,
    2.0876120020701785e-09,
    -1.1380761312687586e-11,
];

/// (asin(x) / x - 1) / x^2 as a function of x^2 on [0, 1/4].
const ASIN_F32: [f64; 5] = [1.6666673e-01, 7.498853e-02, 4.5001894e-02, 2.6550664e-02, 3.809396e-02];
const ASIN_F64: [f64; 13] = [
    0.16666666666666669,
    0.07499999999998425,
    0.04464285714637338,
    0.030381944137085216,
    0.022372173002005596,
    0.017352391265909227,
    0.013971235301124539,
    0.011478952690257387,
    0.010324318288744113,
    0.00545087818772055,
    0.017419357964884856,
    -0.014881409392818066,
    0.02877844261259304,
];

/// (atan(x) / x - 1) / x^2 as a function of x^2 on [0, tan(pi/8)^2].
const ATAN_F32: [f64; 5] = [-3.333333e-01, 1.999954e-01, -1.4263912e-01, 1.0743263e-01, -6.4503774e-02];
const ATAN_F64: [f64; 11] = [
    -0.3333333333333333,
    0.1999999999999549,
    -0.1428571428466014,
    0.11111111014741562,
    -0.09090904557214267,
    0.0769218270524632,
    -0.06664504610032648,
    0.05858089538610203,
    -0.050851391487066376,
    0.03922268882347632,
    -0.0191659065063043,
];

/// pi/2 in parts of 25 bits, the last with 53.
const HALF_PI_PARTS: [f64; 4] =
    [1.5707963109016418, 1.5893254712295857e-08, 6.123233932053594e-17, 6.36831716351095e-25];

/// The bits of 2/pi after the point, in words of 32.
const TWO_OVER_PI: [u32; 7] =
    [0xa2f9_836e, 0x4e44_1529, 0xfc27_57d1, 0xf534_ddc0, 0xdb62_9599, 0x3c43_9041, 0xfe51_63ab];

/// Up to here the exact products of the ordinary reduction are exact.
const ORDINARY: f64 = 268_435_456.0;

fn is_f32(fmt: &Format) -> bool {
    fmt.dtype == DType::F32
}

fn half_pi(fmt: &Format) -> [f64; 2] {
    if is_f32(fmt) {
        [std::f64::consts::FRAC_PI_2 as f32 as f64, -4.371138828673793e-08]
    } else {
        [std::f64::consts::FRAC_PI_2, 6.123233995736766e-17]
    }
}

/// An argument that is reduced: `n pi/2 + r + low`.
struct Reduced {
    /// In the format of the argument.
    r: Val,
    /// A rounding error of `r`; for `f64`.
    low: Option<Val>,
    /// Modulo 4, an integer as wide as the format.
    n: Val,
}

/// Reduces an argument that is not negative.
fn reduce(l: &mut Lanes<'_>, x: Val) -> Reduced {
    let narrow = is_f32(l.fmt);
    let wide_x = l.b.cast(DType::F64, x);
    let mut w = l.with(&F64);
    let large = w.compare_num(CmpOp::Gt, wide_x, ORDINARY);
    let (r, low, n) = subtract_parts(&mut w, wide_x);
    let any = w.b.reduce_lanes(BinaryOp::Or, large);
    let lanes = w.lanes;
    let reduced = w.b.if_(
        any,
        |b| {
            b.stay(|b| {
                let mut w = Lanes { b, fmt: &F64, lanes };
                let (r2, low2, n2) = if narrow { multiply_bits(&mut w, wide_x) } else { subtract_long(&mut w, wide_x) };
                vec![w.select(large, r2, r), w.select(large, low2, low), w.select(large, n2, n)]
            })
        },
        |_| vec![r, low, n],
    );
    let [r, low, n] = reduced[..] else { unreachable!("three values are yielded") };
    if narrow {
        Reduced { r: l.b.cast(DType::F32, r), low: None, n: l.b.cast(DType::I32, n) }
    } else {
        Reduced { r, low: Some(low), n }
    }
}

/// `x - n p` for a part of pi/2 whose product with `n` is exact, with the error of the difference.
fn subtract_part(w: &mut Lanes<'_>, n: Val, part: f64, (r, low): (Val, Val)) -> (Val, Val) {
    let part = w.num(-part);
    let product = w.mul(n, part);
    let (r, error) = w.two_sum(r, product);
    (r, w.add(low, error))
}

fn subtract_parts(w: &mut Lanes<'_>, x: Val) -> (Val, Val, Val) {
    let inverse = w.num(std::f64::consts::FRAC_2_PI);
    let scaled = w.mul(x, inverse);
    let (number, n) = w.round(scaled);
    let zero = w.num(0.0);
    let mut pair = (x, zero);
    for part in HALF_PI_PARTS {
        pair = subtract_part(w, number, part, pair);
    }
    let (r, low) = w.two_sum(pair.0, pair.1);
    (r, low, n)
}

/// The reduction of `f64` up to 2^52: both halves of `n` have 26 bits at most.
fn subtract_long(w: &mut Lanes<'_>, x: Val) -> (Val, Val, Val) {
    let inverse = w.num(std::f64::consts::FRAC_2_PI);
    let scaled = w.mul(x, inverse);
    let number = w.b.unary(UnaryOp::Round, scaled);
    let (unit, inverse_unit) = (w.num(67_108_864.0), w.num(1.0 / 67_108_864.0));
    let high = w.mul(number, inverse_unit);
    let high = w.b.unary(UnaryOp::Floor, high);
    let high = w.mul(high, unit);
    let low_half = w.sub(number, high);
    let zero = w.num(0.0);
    let mut pair = (x, zero);
    for part in HALF_PI_PARTS {
        pair = subtract_part(w, high, part, pair);
        pair = subtract_part(w, low_half, part, pair);
    }
    // The quotient of a great argument is rounded so coarsely that it may be one off.
    let scaled = w.mul(pair.0, inverse);
    let (more, more_n) = w.round(scaled);
    for part in HALF_PI_PARTS {
        pair = subtract_part(w, more, part, pair);
    }
    let (r, low) = w.two_sum(pair.0, pair.1);
    // What is left of a greater argument is anything; it shall at least be small.
    let (least, greatest) = (w.num(-1.0), w.num(1.0));
    let r = w.b.binary(BinaryOp::Max, r, least);
    let r = w.b.binary(BinaryOp::Min, r, greatest);
    let low = w.b.binary(BinaryOp::Max, low, least);
    let low = w.b.binary(BinaryOp::Min, low, greatest);
    let n = w.b.cast(DType::I64, low_half);
    (r, low, w.add(n, more_n))
}

/// The reduction of an `f32` (held as `f64`) of 2^28 or more: `x = m 2^e` with an integer `m` of 24 bits. The bits of 2/pi
/// before position e - 2 contribute multiples of 4 to the quotient; the product of `m` with the next 96 is the quotient
/// modulo 4, of which 64 bits are kept.
fn multiply_bits(w: &mut Lanes<'_>, x: Val) -> (Val, Val, Val) {
    let bits = w.bits_of(x);
    let exponent = w.shr(bits, 52);
    // The biased exponent of f64, less 23 for the integer `m`, less 2: 3 to 102 for a finite argument.
    let first = w.int(1023 + 23 + 2);
    let position = w.sub(exponent, first);
    let fraction = w.int((1 << 52) - 1);
    let m = w.and(bits, fraction);
    let m = w.shr(m, 52 - 23);
    let leading = w.int(1 << 23);
    let m = w.or(m, leading);

    let word = w.shr(position, 5);
    let below = w.int(31);
    let shift = w.and(position, below);
    let down = w.int(32);
    let down = w.sub(down, shift);
    let is: Vec<Val> = (0..3)
        .map(|i| {
            let i = w.int(i);
            w.compare(CmpOp::Eq, word, i)
        })
        .collect();
    let words: Vec<Val> = (0..4)
        .map(|k| {
            let mut value = w.int(i64::from(TWO_OVER_PI[k + 3]));
            for i in (0..3).rev() {
                let candidate = w.int(i64::from(TWO_OVER_PI[k + i]));
                value = w.select(is[i], candidate, value);
            }
            value
        })
        .collect();
    let mask = w.int(0xffff_ffff);
    let window: Vec<Val> = (0..3)
        .map(|k| {
            let high = w.shl(words[k], 32);
            let both = w.or(high, words[k + 1]);
            // A signed shift: the mask takes the copies of the sign away, since `down` is 32 at most.
            let shifted = w.b.binary(BinaryOp::Shr, both, down);
            w.and(shifted, mask)
        })
        .collect();
    let top = w.mul(m, window[0]);
    let top = w.shl(top, 32);
    let middle = w.mul(m, window[1]);
    let bottom = w.mul(m, window[2]);
    let bottom = w.shr(bottom, 32);
    let quotient = w.add(top, middle);
    let quotient = w.add(quotient, bottom);
    let half = w.int(1 << 61);
    let rounded = w.add(quotient, half);
    let n = w.shr(rounded, 62);
    let whole = w.shl(n, 62);
    let rest = w.sub(quotient, whole);
    let rest = w.b.cast(DType::F64, rest);
    let unit = w.num(std::f64::consts::FRAC_PI_2 / (1i64 << 62) as f64);
    let r = w.mul(rest, unit);
    // inf - inf is NaN: so is the sine of an infinite argument.
    let nothing = w.sub(x, x);
    let r = w.add(r, nothing);
    let zero = w.num(0.0);
    (r, zero, n)
}

/// Sine and cosine of a reduced argument.
fn kernels(l: &mut Lanes<'_>, reduced: &Reduced) -> (Val, Val) {
    let r = reduced.r;
    let z = l.mul(r, r);
    let (s, c) = if is_f32(l.fmt) {
        (l.poly(z, &SIN_F32), l.poly(z, &COS_F32))
    } else {
        (l.poly(z, &SIN_F64), l.poly(z, &COS_F64))
    };
    let (half, one) = (l.num(0.5), l.num(1.0));
    let half_z = l.mul(z, half);
    let z2 = l.mul(z, z);
    let near_one = l.sub(one, half_z);
    // What the subtraction lost.
    let lost = l.sub(one, near_one);
    let lost = l.sub(lost, half_z);
    let cubed = l.mul(r, z);
    match reduced.low {
        None => {
            let sin = l.fma(cubed, s, r);
            let tail = l.fma(z2, c, lost);
            (sin, l.add(near_one, tail))
        }
        Some(low) => {
            // sin(r + low) = sin r + low cos r, cos(r + low) = cos r - low sin r, to first order.
            let tail = l.mul(low, near_one);
            let tail = l.fma(cubed, s, tail);
            let sin = l.add(r, tail);
            let cross = l.mul(low, r);
            let tail = l.fma(z2, c, lost);
            let tail = l.sub(tail, cross);
            (sin, l.add(near_one, tail))
        }
    }
}

/// The sign bit, if bit 1 of the integer is set.
fn sign_of_bit_one(l: &mut Lanes<'_>, n: Val) -> Val {
    let width = l.fmt.int.bits();
    let mask = l.int(l.fmt.sign_mask());
    let sign = l.shl(n, width - 2);
    l.and(sign, mask)
}

fn is_odd(l: &mut Lanes<'_>, n: Val) -> Val {
    let (one, zero) = (l.int(1), l.int(0));
    let bit = l.and(n, one);
    l.compare(CmpOp::Ne, bit, zero)
}

/// sin x; NaN at inf.
pub(super) fn sin(l: &mut Lanes<'_>, x: Val) -> Val {
    let a = l.abs(x);
    let reduced = reduce(l, a);
    let (s, c) = kernels(l, &reduced);
    let odd = is_odd(l, reduced.n);
    let value = l.select(odd, c, s);
    let sign = sign_of_bit_one(l, reduced.n);
    let value = l.xor_sign(value, sign);
    let mask = l.int(l.fmt.sign_mask());
    let bits = l.bits_of(x);
    let sign = l.and(bits, mask);
    l.xor_sign(value, sign)
}

/// cos x; NaN at inf.
pub(super) fn cos(l: &mut Lanes<'_>, x: Val) -> Val {
    let a = l.abs(x);
    let reduced = reduce(l, a);
    let (s, c) = kernels(l, &reduced);
    let odd = is_odd(l, reduced.n);
    let value = l.select(odd, s, c);
    let one = l.int(1);
    let next = l.add(reduced.n, one);
    let sign = sign_of_bit_one(l, next);
    l.xor_sign(value, sign)
}

/// tan x; NaN at inf.
pub(super) fn tan(l: &mut Lanes<'_>, x: Val) -> Val {
    let a = l.abs(x);
    let reduced = reduce(l, a);
    let (s, c) = kernels(l, &reduced);
    let odd = is_odd(l, reduced.n);
    let minus_c = l.neg(c);
    let numerator = l.select(odd, minus_c, s);
    let denominator = l.select(odd, s, c);
    let value = l.div(numerator, denominator);
    let mask = l.int(l.fmt.sign_mask());
    let bits = l.bits_of(x);
    let sign = l.and(bits, mask);
    l.xor_sign(value, sign)
}

/// For a magnitude `a` whether it is over 1/2, the `s` with asin a = asin s or pi/2 - 2 asin s, and asin s - s.
fn asin_reduced(l: &mut Lanes<'_>, a: Val) -> (Val, Val, Val) {
    let (half, one) = (l.num(0.5), l.num(1.0));
    let large = l.compare(CmpOp::Gt, a, half);
    let complement = l.sub(one, a);
    let complement = l.mul(complement, half);
    let square = l.mul(a, a);
    let z = l.select(large, complement, square);
    let root = l.b.unary(UnaryOp::Sqrt, z);
    let s = l.select(large, root, a);
    let p = if is_f32(l.fmt) { l.poly(z, &ASIN_F32) } else { l.poly(z, &ASIN_F64) };
    let p = l.mul(p, z);
    (large, s, l.mul(p, s))
}

/// asin x; NaN beyond 1.
pub(super) fn asin(l: &mut Lanes<'_>, x: Val) -> Val {
    let a = l.abs(x);
    let (large, s, p) = asin_reduced(l, a);
    let sum = l.add(s, p);
    let [high, low] = half_pi(l.fmt);
    let (high, low) = (l.num(high), l.num(low));
    let twice = l.add(sum, sum);
    let twice = l.sub(twice, low);
    let other = l.sub(high, twice);
    let value = l.select(large, other, sum);
    l.with_sign_of(value, x)
}

/// acos x; NaN beyond 1.
pub(super) fn acos(l: &mut Lanes<'_>, x: Val) -> Val {
    let a = l.abs(x);
    let (large, s, p) = asin_reduced(l, a);
    let [high, low] = half_pi(l.fmt);
    let (high, low, zero) = (l.num(high), l.num(low), l.num(0.0));
    let negative = l.compare(CmpOp::Lt, x, zero);
    // Up to 1/2: pi/2 - asin x.
    let minus_p = l.neg(p);
    let p_signed = l.select(negative, minus_p, p);
    let t = l.sub(low, p_signed);
    let t = l.sub(x, t);
    let middle = l.sub(high, t);
    // Beyond: 2 asin s, or pi less that.
    let sum = l.add(s, p);
    let twice = l.add(sum, sum);
    let rest = l.sub(low, p);
    let rest = l.sub(s, rest);
    let rest = l.sub(high, rest);
    let far = l.add(rest, rest);
    let outer = l.select(negative, far, twice);
    l.select(large, outer, middle)
}

/// atan x = base + atan t, where t is -1/x, (x - 1) / (x + 1) or x.
pub(super) fn atan(l: &mut Lanes<'_>, x: Val) -> Val {
    let a = l.abs(x);
    let tan_pi_8 = std::f64::consts::SQRT_2 - 1.0;
    let large = l.compare_num(CmpOp::Gt, a, 1.0 / tan_pi_8);
    let medium = l.compare_num(CmpOp::Gt, a, tan_pi_8);
    let (zero, one, minus_one) = (l.num(0.0), l.num(1.0), l.num(-1.0));
    let (a_less, a_more) = (l.sub(a, one), l.add(a, one));
    let numerator = l.select(medium, a_less, a);
    let numerator = l.select(large, minus_one, numerator);
    let denominator = l.select(medium, a_more, one);
    let denominator = l.select(large, a, denominator);
    let t = l.div(numerator, denominator);
    let [high, low] = half_pi(l.fmt);
    let base = |l: &mut Lanes<'_>, value: f64| {
        let (full, half) = (l.num(value), l.num(value / 2.0));
        let base = l.select(medium, half, zero);
        l.select(large, full, base)
    };
    let (high, low) = (base(l, high), base(l, low));
    let z = l.mul(t, t);
    let p = if is_f32(l.fmt) { l.poly(z, &ATAN_F32) } else { l.poly(z, &ATAN_F64) };
    let cubed = l.mul(t, z);
    let tail = l.fma(p, cubed, low);
    let tail = l.add(t, tail);
    let value = l.add(high, tail);
    l.with_sign_of(value, x)
}
