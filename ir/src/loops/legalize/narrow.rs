//! Floating-point formats of 16 and 8 bits, held in unsigned integers of their width and computed with in `f32`.
//!
//! Widening is exact. Narrowing rounds once, to nearest even: `f64` goes through `f32` rounded to odd, which has
//! enough bits that the second rounding decides as if it were the only one.

use super::lanes::{F32, Lanes};
use crate::dtype::DType;
use crate::loops::{KernelBuilder, Val};
use crate::scalar::{BinaryOp, CmpOp};

/// What a format makes of numbers that are too great.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// The greatest exponent holds inf and NaNs.
    Ieee,
    /// Only all ones is NaN; too great numbers, and inf, become the greatest finite one.
    OneNan,
    /// Only the negative zero's pattern is NaN; too great numbers, and inf, become the greatest finite one.
    NegativeZeroNan,
}

/// A format of sign, exponent and fraction.
#[derive(Clone, Copy)]
struct Narrow {
    storage: DType,
    width: u32,
    fraction_bits: u32,
    bias: i32,
    special: Special,
    /// The greatest finite magnitude's bits.
    greatest: u32,
    /// A quiet NaN's magnitude bits (for [`Special::NegativeZeroNan`] the whole pattern).
    nan: u32,
}

fn narrow(dtype: DType) -> Narrow {
    let f = |storage, width, fraction_bits, bias, special, greatest, nan| Narrow {
        storage,
        width,
        fraction_bits,
        bias,
        special,
        greatest,
        nan,
    };
    match dtype {
        DType::F16 => f(DType::U16, 16, 10, 15, Special::Ieee, 0x7bff, 0x7e00),
        DType::BF16 => f(DType::U16, 16, 7, 127, Special::Ieee, 0x7f7f, 0x7fc0),
        DType::F8E4M3FN => f(DType::U8, 8, 3, 7, Special::OneNan, 0x7e, 0x7f),
        DType::F8E4M3FNUZ => f(DType::U8, 8, 3, 8, Special::NegativeZeroNan, 0x7f, 0x80),
        DType::F8E5M2 => f(DType::U8, 8, 2, 15, Special::Ieee, 0x7b, 0x7e),
        DType::F8E5M2FNUZ => f(DType::U8, 8, 2, 16, Special::NegativeZeroNan, 0x7f, 0x80),
        _ => unreachable!("{dtype} is no narrow format"),
    }
}

/// Whether values of this type are held in integers and computed with in `f32`.
pub(super) fn is_narrow(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0)
}

/// The type that holds a type's values in a legalised kernel.
pub(super) fn storage(dtype: DType) -> DType {
    match dtype {
        DType::F8E8M0 => DType::U8,
        _ if is_narrow(dtype) => narrow(dtype).storage,
        _ => dtype,
    }
}

fn lanes<'a>(b: &'a mut KernelBuilder, like: Val) -> Lanes<'a> {
    let lanes = b.ty(like).lanes;
    Lanes { b, fmt: &F32, lanes }
}

/// Stored bits to `f32`.
pub(super) fn widen(b: &mut KernelBuilder, from: DType, bits: Val) -> Val {
    if b.converts.contains(&from) {
        let half = b.bitcast(from, bits);
        return b.cast(DType::F32, half);
    }
    let mut l = lanes(b, bits);
    let bits = l.b.cast(DType::U32, bits);
    if from == DType::F8E8M0 {
        return widen_exponent(&mut l, bits);
    }
    let f = narrow(from);
    let bits = l.b.bitcast(DType::I32, bits);
    if from == DType::BF16 {
        let bits = l.shl(bits, 16);
        return l.number_of(bits);
    }
    let sign_bit = l.int(1 << (f.width - 1));
    let sign = l.and(bits, sign_bit);
    let sign = l.shl(sign, 32 - f.width);
    let mask = l.int((1 << (f.width - 1)) - 1);
    let magnitude = l.and(bits, mask);
    let shifted = l.shl(magnitude, 23 - f.fraction_bits);
    let number = l.number_of(shifted);
    // Rebiases, and makes subnormals normal.
    let scale = l.num(f64::from(127 - f.bias).exp2());
    let number = l.mul(number, scale);
    let nan_bits = l.int(i64::from(f.nan));
    let number = match f.special {
        Special::Ieee => {
            let exponent = l.int(0x7f80_0000);
            let least = l.int(i64::from(f.greatest + 1));
            let special = l.compare(CmpOp::Ge, magnitude, least);
            let unbounded = l.or(shifted, exponent);
            let unbounded = l.number_of(unbounded);
            l.select(special, unbounded, number)
        }
        Special::OneNan => {
            let is_nan = l.compare(CmpOp::Eq, magnitude, nan_bits);
            let nan = l.num(f64::NAN);
            l.select(is_nan, nan, number)
        }
        Special::NegativeZeroNan => {
            let is_nan = l.compare(CmpOp::Eq, bits, nan_bits);
            let nan = l.num(f64::NAN);
            l.select(is_nan, nan, number)
        }
    };
    let number = l.bits_of(number);
    let number = l.or(number, sign);
    l.number_of(number)
}

/// 2^(bits - 127), NaN for 255.
fn widen_exponent(l: &mut Lanes<'_>, bits: Val) -> Val {
    let bits = l.b.bitcast(DType::I32, bits);
    let power = l.shl(bits, 23);
    let (zero, half_least, ones, nan) = (l.int(0), l.int(0x0040_0000), l.int(255), l.int(0x7fc0_0000));
    let is_zero = l.compare(CmpOp::Eq, bits, zero);
    let power = l.select(is_zero, half_least, power);
    let is_nan = l.compare(CmpOp::Eq, bits, ones);
    let power = l.select(is_nan, nan, power);
    l.number_of(power)
}

/// An `f64` as `f32`, rounded towards zero with the last bit set if anything was lost.
pub(super) fn round_to_odd(b: &mut KernelBuilder, x: Val) -> Val {
    let mut l = lanes(b, x);
    let near = l.b.cast(DType::F32, x);
    let back = l.b.cast(DType::F64, near);
    let (back_size, size) = (l.abs(back), l.abs(x));
    let over = l.compare(CmpOp::Gt, back_size, size);
    let exact = l.compare(CmpOp::Eq, back, x);
    let bits = l.bits_of(near);
    let one = l.int(1);
    let less = l.sub(bits, one);
    let truncated = l.select(over, less, bits);
    let odd = l.or(truncated, one);
    let bits = l.select(exact, bits, odd);
    l.number_of(bits)
}

/// `f32` to stored bits.
pub(super) fn narrow_f32(b: &mut KernelBuilder, to: DType, x: Val) -> Val {
    if b.converts.contains(&to) {
        let half = b.cast(to, x);
        return b.bitcast(DType::U16, half);
    }
    let mut l = lanes(b, x);
    let bits = l.bits_of(x);
    let infinite_exponent = l.int(0x7f80_0000);
    let magnitude_mask = l.int(0x7fff_ffff);
    let magnitude = l.and(bits, magnitude_mask);
    let is_nan = l.compare(CmpOp::Gt, magnitude, infinite_exponent);
    if to == DType::F8E8M0 {
        let result = narrow_exponent(&mut l, magnitude, is_nan);
        return l.b.cast(DType::U8, result);
    }
    let f = narrow(to);
    let dropped = 23 - f.fraction_bits;
    let rebias = 127 - f.bias;
    // Normal results: add half of the last kept bit, less one if that is even, and drop the rest.
    let last = l.shr(magnitude, dropped);
    let one = l.int(1);
    let last = l.and(last, one);
    let offset = l.int((1 << (dropped - 1)) - 1 - (i64::from(rebias) << 23));
    let normal = l.add(magnitude, offset);
    let normal = l.add(normal, last);
    let mut result = l.shr(normal, dropped);
    if rebias > 0 {
        // Subnormal results: adding a power of two whose last bit is the least subnormal rounds there.
        let anchor = f64::from(24 - f.fraction_bits as i32 - f.bias).exp2();
        let least_normal = l.int((i64::from(rebias) + 1) << 23);
        let small = l.compare(CmpOp::Lt, magnitude, least_normal);
        let anchor_value = l.num(anchor);
        let size = l.number_of(magnitude);
        let sum = l.add(size, anchor_value);
        let sum = l.bits_of(sum);
        let anchor_bits = l.bits_of(anchor_value);
        let subnormal = l.sub(sum, anchor_bits);
        result = l.select(small, subnormal, result);
    }
    // Too great: inf where there is one for 16 bits, else the greatest finite number.
    let over_bits = if f.special == Special::Ieee && f.width == 16 { f.greatest + 1 } else { f.greatest };
    let over = l.int(i64::from(over_bits));
    let rounded_over = l.int(i64::from(f.greatest));
    let too_great = l.compare(CmpOp::Gt, result, rounded_over);
    let result = l.select(too_great, over, result);
    let infinite = l.compare(CmpOp::Ge, magnitude, infinite_exponent);
    let result = l.select(infinite, over, result);
    let sign = l.shr(bits, 32 - f.width);
    let sign_bit = l.int(1 << (f.width - 1));
    let sign = l.and(sign, sign_bit);
    let nan = l.int(i64::from(f.nan));
    let result = match f.special {
        Special::NegativeZeroNan => {
            let zero = l.int(0);
            let is_zero = l.compare(CmpOp::Eq, result, zero);
            let signed = l.or(result, sign);
            let signed = l.select(is_zero, zero, signed);
            l.select(is_nan, nan, signed)
        }
        Special::Ieee | Special::OneNan => {
            let result = l.select(is_nan, nan, result);
            l.or(result, sign)
        }
    };
    l.b.cast(f.storage, result)
}

/// The exponent of the nearest power of two, halves up; too great and too small numbers saturate, NaN is 255.
fn narrow_exponent(l: &mut Lanes<'_>, magnitude: Val, is_nan: Val) -> Val {
    // Half of a step up; the step from 2^-127, which is a subnormal number, is half as long in its bits.
    let (half, subnormal_half, least_normal) = (l.int(0x0040_0000), l.int(0x0020_0000), l.int(0x0080_0000));
    let subnormal = l.compare(CmpOp::Lt, magnitude, least_normal);
    let half = l.select(subnormal, subnormal_half, half);
    let rounded = l.add(magnitude, half);
    let exponent = l.shr(rounded, 23);
    let (greatest, nan) = (l.int(254), l.int(255));
    let exponent = l.b.binary(BinaryOp::Min, exponent, greatest);
    l.select(is_nan, nan, exponent)
}
