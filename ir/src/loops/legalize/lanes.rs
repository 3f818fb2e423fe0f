//! A short notation for expansions: arithmetic on values of one floating-point format and one lane count, together with
//! the integer type of the same width.
//!
//! Nothing here depends on whether a multiply-add rounds once or twice: products that must be exact have operands with
//! enough trailing zeros.

use crate::dtype::DType;
use crate::loops::{FmaMode, KernelBuilder, Val};
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// What the expansions need to know of a binary floating-point format.
pub(super) struct Format {
    /// The type.
    pub dtype: DType,
    /// The signed integer type of the same width.
    pub int: DType,
    /// Bits of the fraction that are stored.
    pub fraction_bits: u32,
    /// The exponent's bias.
    pub bias: i64,
    /// 1.5 * 2^fraction_bits: adding it rounds a number of less than 2^(fraction_bits - 1) to an integer, which then
    /// stands in the low bits.
    pub magic: f64,
    /// ln 2 in two parts; the product of the first with an exponent is exact.
    pub ln2: [f64; 2],
}

pub(super) static F32: Format = Format {
    dtype: DType::F32,
    int: DType::I32,
    fraction_bits: 23,
    bias: 127,
    magic: 12582912.0,
    ln2: [0.693145751953125, 1.4286068203094173e-06],
};

pub(super) static F64: Format = Format {
    dtype: DType::F64,
    int: DType::I64,
    fraction_bits: 52,
    bias: 1023,
    magic: 6755399441055744.0,
    ln2: [0.6931471805598903, 5.497923018708371e-14],
};

impl Format {
    /// `f32` or `f64`.
    pub fn of(dtype: DType) -> &'static Format {
        match dtype {
            DType::F32 => &F32,
            DType::F64 => &F64,
            _ => unreachable!("{dtype} computes in another type"),
        }
    }

    /// The representation of a number in this format.
    pub fn bits(&self, value: f64) -> u64 {
        if self.dtype == DType::F32 { u64::from((value as f32).to_bits()) } else { value.to_bits() }
    }

    /// Only the sign bit.
    pub fn sign_mask(&self) -> i64 {
        if self.dtype == DType::F32 { i64::from(i32::MIN) } else { i64::MIN }
    }

    /// The least normal number.
    pub fn min_normal(&self) -> f64 {
        if self.dtype == DType::F32 { f64::from(f32::MIN_POSITIVE) } else { f64::MIN_POSITIVE }
    }
}

/// Emits operations on `lanes` lanes of a format.
pub(super) struct Lanes<'a> {
    /// Where to.
    pub b: &'a mut KernelBuilder,
    /// The format.
    pub fmt: &'static Format,
    /// How many lanes.
    pub lanes: u16,
}

impl<'a> Lanes<'a> {
    /// Operations on values of the type of `like`, which is `f32` or `f64`.
    pub fn like(b: &'a mut KernelBuilder, like: Val) -> Lanes<'a> {
        let ty = b.ty(like);
        Lanes { b, fmt: Format::of(ty.dtype), lanes: ty.lanes }
    }

    /// The same lanes of another format.
    pub fn with(&mut self, fmt: &'static Format) -> Lanes<'_> {
        Lanes { b: self.b, fmt, lanes: self.lanes }
    }

    /// A number, rounded to the format.
    pub fn num(&mut self, value: f64) -> Val {
        let scalar = Scalar { dtype: self.fmt.dtype, bits: self.fmt.bits(value) };
        self.b.constant(scalar, self.lanes)
    }

    /// An integer of the format's width.
    pub fn int(&mut self, value: i64) -> Val {
        self.int_of(self.fmt.int, value)
    }

    /// An integer of any type, wrapped to it.
    pub fn int_of(&mut self, dtype: DType, value: i64) -> Val {
        self.b.constant(integer(dtype, value), self.lanes)
    }

    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::Add, a, b)
    }

    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::Mul, a, b)
    }

    pub fn div(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::Div, a, b)
    }

    /// `a * b + c`.
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        self.b.mul_add(a, b, c, FmaMode::Fused)
    }

    pub fn neg(&mut self, a: Val) -> Val {
        self.b.unary(UnaryOp::Neg, a)
    }

    pub fn abs(&mut self, a: Val) -> Val {
        self.b.unary(UnaryOp::Abs, a)
    }

    pub fn and(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::And, a, b)
    }

    pub fn or(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::Or, a, b)
    }

    pub fn xor(&mut self, a: Val, b: Val) -> Val {
        self.b.binary(BinaryOp::Xor, a, b)
    }

    /// Left shift of integers by a constant.
    pub fn shl(&mut self, a: Val, by: u32) -> Val {
        let by = self.int_of(self.b.ty(a).dtype, i64::from(by));
        self.b.binary(BinaryOp::Shl, a, by)
    }

    /// Right shift of integers by a constant.
    pub fn shr(&mut self, a: Val, by: u32) -> Val {
        let by = self.int_of(self.b.ty(a).dtype, i64::from(by));
        self.b.binary(BinaryOp::Shr, a, by)
    }

    pub fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Val {
        self.b.compare(op, a, b)
    }

    /// `a op number`.
    pub fn compare_num(&mut self, op: CmpOp, a: Val, number: f64) -> Val {
        let number = self.num(number);
        self.b.compare(op, a, number)
    }

    pub fn select(&mut self, mask: Val, a: Val, b: Val) -> Val {
        self.b.select(mask, a, b)
    }

    /// The representation as an integer.
    pub fn bits_of(&mut self, a: Val) -> Val {
        self.b.bitcast(self.fmt.int, a)
    }

    /// The number of this representation.
    pub fn number_of(&mut self, a: Val) -> Val {
        self.b.bitcast(self.fmt.dtype, a)
    }

    /// `magnitude`, whose sign bit is clear, with the sign of `sign`.
    pub fn with_sign_of(&mut self, magnitude: Val, sign: Val) -> Val {
        let mask = self.int(self.fmt.sign_mask());
        let sign = self.bits_of(sign);
        let sign = self.and(sign, mask);
        self.xor_sign(magnitude, sign)
    }

    /// `a` with its sign bit flipped where that of the integer `sign` is set; its other bits are 0.
    pub fn xor_sign(&mut self, a: Val, sign: Val) -> Val {
        let bits = self.bits_of(a);
        let bits = self.xor(bits, sign);
        self.number_of(bits)
    }

    /// The polynomial with these coefficients, the constant one first.
    pub fn poly(&mut self, x: Val, coefficients: &[f64]) -> Val {
        let (&last, rest) = coefficients.split_last().expect("a polynomial has coefficients");
        let mut acc = self.num(last);
        for &c in rest.iter().rev() {
            let c = self.num(c);
            acc = self.fma(acc, x, c);
        }
        acc
    }

    /// The nearest integer to `a`, `|a| < 2^(fraction_bits - 1)`, as a number and as an integer.
    pub fn round(&mut self, a: Val) -> (Val, Val) {
        let magic = self.num(self.fmt.magic);
        let shifted = self.add(a, magic);
        let number = self.sub(shifted, magic);
        let bits = self.bits_of(shifted);
        let magic = self.int(self.fmt.bits(self.fmt.magic) as i64);
        (number, self.sub(bits, magic))
    }

    /// A small integer as a number.
    pub fn int_to_num(&mut self, i: Val) -> Val {
        let magic = self.int(self.fmt.bits(self.fmt.magic) as i64);
        let bits = self.add(i, magic);
        let number = self.number_of(bits);
        let magic = self.num(self.fmt.magic);
        self.sub(number, magic)
    }

    /// 2^n for an integer n that is a normal number's exponent.
    pub fn exp2_int(&mut self, n: Val) -> Val {
        let bias = self.int(self.fmt.bias);
        let n = self.add(n, bias);
        let n = self.shl(n, self.fmt.fraction_bits);
        self.number_of(n)
    }

    /// `a * 2^n` rounded once, for results in the whole range of the format.
    pub fn scale(&mut self, a: Val, n: Val) -> Val {
        let half = self.shr(n, 1);
        let rest = self.sub(n, half);
        let (half, rest) = (self.exp2_int(half), self.exp2_int(rest));
        let a = self.mul(a, half);
        self.mul(a, rest)
    }

    /// `a + b` as a rounded sum and its error (Knuth).
    pub fn two_sum(&mut self, a: Val, b: Val) -> (Val, Val) {
        let sum = self.add(a, b);
        let b2 = self.sub(sum, a);
        let a2 = self.sub(sum, b2);
        let (da, db) = (self.sub(a, a2), self.sub(b, b2));
        (sum, self.add(da, db))
    }

    /// `a * b` as a rounded product and its error (Dekker; no fused operation is needed). For `f64` of moderate size.
    pub fn two_product(&mut self, a: Val, b: Val) -> (Val, Val) {
        let product = self.mul(a, b);
        let ((ah, al), (bh, bl)) = (self.halves(a), self.halves(b));
        let (hh, hl, lh, ll) = (self.mul(ah, bh), self.mul(ah, bl), self.mul(al, bh), self.mul(al, bl));
        let error = self.sub(hh, product);
        let error = self.add(error, hl);
        let error = self.add(error, lh);
        (product, self.add(error, ll))
    }

    fn halves(&mut self, a: Val) -> (Val, Val) {
        let splitter = self.num(134217729.0);
        let scaled = self.mul(a, splitter);
        let rest = self.sub(scaled, a);
        let high = self.sub(scaled, rest);
        (high, self.sub(a, high))
    }
}

/// An integer constant of any type, wrapped to it.
pub(super) fn integer(dtype: DType, value: i64) -> Scalar {
    let bits = dtype.bits();
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    Scalar { dtype, bits: value as u64 & mask }
}
