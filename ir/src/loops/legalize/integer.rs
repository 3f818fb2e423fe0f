//! Remainders and powers, which are loops over integers: floating-point remainders on the mantissas, integer powers by
//! squaring. The loops run until the slowest lane is done.

use super::lanes::{Format, Lanes, integer};
use crate::dtype::DType;
use crate::loops::{KernelBuilder, Val};
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// An integer of 64 bits that fits `f64`. Of one that does not, the low bits become one that says whether any was set, so
/// that rounding to 16 bits and fewer gives what it gives for the integer itself.
pub(super) fn with_sticky_bit(b: &mut KernelBuilder, x: Val) -> Val {
    let ty = b.ty(x);
    let mut constant = |bits| b.constant(Scalar { dtype: ty.dtype, bits }, ty.lanes);
    let (low_mask, high_mask, zero, sticky) = (constant(0xfff), constant(!0xfff), constant(0), constant(0x800));
    let low = b.binary(BinaryOp::And, x, low_mask);
    let high = b.binary(BinaryOp::And, x, high_mask);
    let lost = b.compare(CmpOp::Ne, low, zero);
    let sticky = b.select(lost, sticky, zero);
    let rounded = b.binary(BinaryOp::Or, high, sticky);
    // 2^53 above the least number that fits; the unsigned ones have none below 0.
    let from = if ty.dtype.is_signed_int() { 1 << 53 } else { 0 };
    let least = b.constant(Scalar { dtype: ty.dtype, bits: from }, ty.lanes);
    let above = b.binary(BinaryOp::Add, x, least);
    let above = b.bitcast(DType::U64, above);
    let range = b.constant(Scalar { dtype: DType::U64, bits: from + (1 << 53) }, ty.lanes);
    let fits = b.compare(CmpOp::Lt, above, range);
    b.select(fits, x, rounded)
}

/// C's fmod, exact. `f32` is widened first.
pub(super) fn float_rem(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let ty = b.ty(x);
    if ty.dtype == DType::F32 {
        let (x, y) = (b.cast(DType::F64, x), b.cast(DType::F64, y));
        let r = float_rem(b, x, y);
        return b.cast(DType::F32, r);
    }
    let mut l = Lanes::like(b, x);
    let (ax, ay) = (l.abs(x), l.abs(y));
    let (mx, ex) = mantissa(&mut l, ax);
    let (my, ey) = mantissa(&mut l, ay);
    let (inf, zero) = (l.num(f64::INFINITY), l.num(0.0));
    // Only where both are finite and |x| >= |y| > 0 is there anything to divide.
    let finite = l.compare(CmpOp::Lt, ax, inf);
    let positive = l.compare(CmpOp::Gt, ay, zero);
    let defined = l.and(finite, positive);
    let reducible = l.compare(CmpOp::Ge, ax, ay);
    let reducible = l.and(reducible, defined);
    let (no_shift, eleven) = (l.int(0), l.int(11));
    let distance = l.sub(ex, ey);
    let distance = l.select(reducible, distance, no_shift);
    // Each round brings down 11 bits, as many as fit above a mantissa of 53.
    let lanes = l.lanes;
    let done = b.while_(&[mx, distance], |b, carried| {
        let step = b.binary(BinaryOp::Min, carried[1], eleven);
        let unsigned_step = b.bitcast(DType::U64, step);
        let shifted = b.binary(BinaryOp::Shl, carried[0], unsigned_step);
        let rest = b.binary(BinaryOp::Rem, shifted, my);
        let left = b.binary(BinaryOp::Sub, carried[1], step);
        let zero = b.constant(integer(DType::I64, 0), lanes);
        let again = b.compare(CmpOp::Gt, left, zero);
        let again = b.reduce_lanes(BinaryOp::Or, again);
        (again, vec![rest, left])
    });
    let mut l = Lanes::like(b, x);
    // The remainder is below 2^53; as a number it is exact, and so is its scaling to the exponent of y.
    let rest = l.b.bitcast(DType::I64, done[0]);
    let rest = l.b.cast(DType::F64, rest);
    let offset = l.int(1075);
    let exponent = l.sub(ey, offset);
    let rest = l.scale(rest, exponent);
    let magnitude = l.select(reducible, rest, ax);
    let signed = l.with_sign_of(magnitude, x);
    let nan = l.num(f64::NAN);
    let is_number = l.compare(CmpOp::Eq, y, y);
    let defined = l.and(defined, is_number);
    l.select(defined, signed, nan)
}

/// The mantissa as `u64` and the biased exponent (1 for subnormals) of a number that is not negative.
fn mantissa(l: &mut Lanes<'_>, a: Val) -> (Val, Val) {
    let bits = l.bits_of(a);
    let exponent = l.shr(bits, 52);
    let fraction = l.int((1 << 52) - 1);
    let fraction = l.and(bits, fraction);
    let (zero, one, leading) = (l.int(0), l.int(1), l.int(1 << 52));
    let subnormal = l.compare(CmpOp::Eq, exponent, zero);
    let with_leading = l.or(fraction, leading);
    let m = l.select(subnormal, fraction, with_leading);
    let e = l.b.binary(BinaryOp::Max, exponent, one);
    (l.b.bitcast(DType::U64, m), e)
}

/// Python's `%` on floats: the remainder, with the sign of the divisor.
pub(super) fn float_mod(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let r = float_rem(b, x, y);
    let mut l = Lanes::like(b, x);
    let zero = l.num(0.0);
    let sum = l.add(r, y);
    let (r_negative, y_negative) = (l.compare(CmpOp::Lt, r, zero), l.compare(CmpOp::Lt, y, zero));
    let differ = l.xor(r_negative, y_negative);
    let moved = l.select(differ, sum, r);
    let is_zero = l.compare(CmpOp::Eq, r, zero);
    let signed_zero = l.with_sign_of(zero, y);
    l.select(is_zero, signed_zero, moved)
}

/// Python's `%` on integers.
pub(super) fn integer_mod(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let ty = b.ty(x);
    let r = b.binary(BinaryOp::Rem, x, y);
    if ty.dtype.is_unsigned_int() {
        return r;
    }
    let zero = b.constant(integer(ty.dtype, 0), ty.lanes);
    let sum = b.binary(BinaryOp::Add, r, y);
    let signs = b.binary(BinaryOp::Xor, r, y);
    let differ = b.compare(CmpOp::Lt, signs, zero);
    let rest = b.compare(CmpOp::Ne, r, zero);
    let move_it = b.binary(BinaryOp::And, differ, rest);
    b.select(move_it, sum, r)
}

/// Integer power, wrapping; see [`BinaryOp::Pow`] for negative exponents.
pub(super) fn integer_pow(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    let ty = b.ty(x);
    let one = b.constant(integer(ty.dtype, 1), ty.lanes);
    let zero = b.constant(integer(ty.dtype, 0), ty.lanes);
    let signed = ty.dtype.is_signed_int();
    let exponent = if signed { b.binary(BinaryOp::Max, y, zero) } else { y };
    let done = b.while_(&[one, x, exponent], |b, carried| {
        let [result, base, rest] = carried[..] else { unreachable!("three values are carried") };
        let bit = b.binary(BinaryOp::And, rest, one);
        let odd = b.compare(CmpOp::Ne, bit, zero);
        let product = b.binary(BinaryOp::Mul, result, base);
        let result = b.select(odd, product, result);
        let base = b.binary(BinaryOp::Mul, base, base);
        let rest = b.binary(BinaryOp::Shr, rest, one);
        let again = b.compare(CmpOp::Ne, rest, zero);
        let again = b.reduce_lanes(BinaryOp::Or, again);
        (again, vec![result, base, rest])
    });
    if !signed {
        return done[0];
    }
    // 1 / x^-y truncates to 0 but for x = 1 and x = -1.
    let minus_one = b.constant(integer(ty.dtype, -1), ty.lanes);
    let bit = b.binary(BinaryOp::And, y, one);
    let odd = b.compare(CmpOp::Ne, bit, zero);
    let alternating = b.select(odd, minus_one, one);
    let is_one = b.compare(CmpOp::Eq, x, one);
    let is_minus_one = b.compare(CmpOp::Eq, x, minus_one);
    let reciprocal = b.select(is_one, one, zero);
    let reciprocal = b.select(is_minus_one, alternating, reciprocal);
    let negative = b.compare(CmpOp::Lt, y, zero);
    b.select(negative, reciprocal, done[0])
}

/// A shift whose amount may be too great: the result is then 0, or the sign for signed right shifts.
pub(super) fn guarded_shift(b: &mut KernelBuilder, op: BinaryOp, x: Val, by: Val) -> Val {
    let ty = b.ty(x);
    let unsigned = unsigned_of(ty.dtype);
    let amount = b.bitcast(unsigned, by);
    let last = b.constant(integer(unsigned, i64::from(ty.dtype.bits()) - 1), ty.lanes);
    let bounded = b.binary(BinaryOp::Min, amount, last);
    let bounded = b.bitcast(ty.dtype, bounded);
    let shifted = b.binary(op, x, bounded);
    if op == BinaryOp::Shr && ty.dtype.is_signed_int() {
        return shifted;
    }
    let fits = b.compare(CmpOp::Le, amount, last);
    let zero = b.constant(integer(ty.dtype, 0), ty.lanes);
    b.select(fits, shifted, zero)
}

fn unsigned_of(dtype: DType) -> DType {
    match dtype {
        DType::I64 => DType::U64,
        DType::I32 => DType::U32,
        DType::I16 => DType::U16,
        DType::I8 => DType::U8,
        other => other,
    }
}

/// A float as an integer of 8 or 16 bits, or as `u32`, by saturation in a wider type that backends convert to.
pub(super) fn float_to_narrow_int(b: &mut KernelBuilder, to: DType, x: Val) -> Val {
    let lanes = b.ty(x).lanes;
    let wide = if to == DType::U32 { DType::I64 } else { DType::I32 };
    let (least, greatest) = match to {
        DType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
        DType::U8 => (0, i64::from(u8::MAX)),
        DType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DType::U16 => (0, i64::from(u16::MAX)),
        _ => (0, i64::from(u32::MAX)),
    };
    let value = b.cast(wide, x);
    let (least, greatest) = (b.constant(integer(wide, least), lanes), b.constant(integer(wide, greatest), lanes));
    let value = b.binary(BinaryOp::Max, value, least);
    let value = b.binary(BinaryOp::Min, value, greatest);
    b.cast(to, value)
}

/// A mask as 0 or 1.
pub(super) fn mask_to(b: &mut KernelBuilder, to: DType, mask: Val) -> Val {
    let lanes = b.ty(mask).lanes;
    let (one, zero) = if to.is_float() {
        let fmt = Format::of(to);
        (Scalar { dtype: to, bits: fmt.bits(1.0) }, Scalar { dtype: to, bits: 0 })
    } else {
        (integer(to, 1), integer(to, 0))
    };
    let (one, zero) = (b.constant(one, lanes), b.constant(zero, lanes));
    b.select(mask, one, zero)
}

/// Comparison of masks in terms of logic.
pub(super) fn compare_masks(b: &mut KernelBuilder, op: CmpOp, x: Val, y: Val) -> Val {
    let not = |b: &mut KernelBuilder, v| b.unary(UnaryOp::Not, v);
    match op {
        CmpOp::Ne => b.binary(BinaryOp::Xor, x, y),
        CmpOp::Eq => {
            let differ = b.binary(BinaryOp::Xor, x, y);
            not(b, differ)
        }
        CmpOp::Lt | CmpOp::Le => {
            let op = if op == CmpOp::Lt { BinaryOp::And } else { BinaryOp::Or };
            let not_x = not(b, x);
            b.binary(op, not_x, y)
        }
        CmpOp::Gt | CmpOp::Ge => {
            let op = if op == CmpOp::Gt { BinaryOp::And } else { BinaryOp::Or };
            let not_y = not(b, y);
            b.binary(op, x, not_y)
        }
    }
}
