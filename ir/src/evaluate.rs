//! Evaluates the scalar operators of [`crate::scalar`] one at a time: the meaning that interpreters have and that
//! backends are tested against.
//!
//! A value is the bits of its in-memory representation, zero-extended to 64. Transcendental functions are computed in
//! `f64` by the pure Rust `libm`, never by the host's library, so that folded constants do not depend on the host.

use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, UnaryOp};

/// The number that a float of any type is; exact.
pub fn float_value(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(bits),
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => Small::of(dtype).decode(bits),
    }
}

/// The bits of the nearest float of any type, halves to even; too great numbers give inf, or the greatest finite number
/// for types of 8 bits and less.
pub fn float_bits(dtype: DType, value: f64) -> u64 {
    match dtype {
        DType::F64 => value.to_bits(),
        DType::F32 => u64::from((value as f32).to_bits()),
        _ => Small::of(dtype).encode(value),
    }
}

/// The integer of this type, sign- or zero-extended. `Bool` is 0 or 1.
pub fn int_value(dtype: DType, bits: u64) -> i128 {
    match dtype {
        DType::Bool => i128::from(bits != 0),
        _ if dtype.is_signed_int() => i128::from(sign_extend(dtype, bits)),
        _ => i128::from(bits),
    }
}

fn sign_extend(dtype: DType, bits: u64) -> i64 {
    let unused = 64 - dtype.bits();
    ((bits << unused) as i64) >> unused
}

fn mask(dtype: DType) -> u64 {
    u64::MAX >> (64 - dtype.bits().min(64))
}

/// `op(a)`; both of type `dtype`, which the operator accepts.
pub fn unary(op: UnaryOp, dtype: DType, a: u64) -> u64 {
    match dtype {
        DType::F64 => unary_f64(op, f64::from_bits(a)).to_bits(),
        DType::F32 => u64::from(unary_f32(op, f32::from_bits(a as u32)).to_bits()),
        DType::Bool => u64::from(a == 0),
        _ if dtype.is_float() => {
            let wide = float_value(dtype, a) as f32;
            float_bits(dtype, f64::from(unary_f32(op, wide)))
        }
        _ => {
            let result = match op {
                UnaryOp::Neg => a.wrapping_neg(),
                UnaryOp::Abs if dtype.is_unsigned_int() => a,
                UnaryOp::Abs => sign_extend(dtype, a).wrapping_abs() as u64,
                UnaryOp::Not => !a,
                _ => unreachable!("{} of {dtype}", op.name()),
            };
            result & mask(dtype)
        }
    }
}

/// A unary operator on `f32`.
pub fn unary_f32(op: UnaryOp, x: f32) -> f32 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Trunc => x.trunc(),
        UnaryOp::Round => x.round_ties_even(),
        _ => unary_f64(op, f64::from(x)) as f32,
    }
}

/// A unary operator on `f64`.
pub fn unary_f64(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Not => unreachable!("not of a float"),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Exp => libm::exp(x),
        UnaryOp::Log => libm::log(x),
        UnaryOp::Sin => libm::sin(x),
        UnaryOp::Cos => libm::cos(x),
        UnaryOp::Tan => libm::tan(x),
        UnaryOp::Asin => libm::asin(x),
        UnaryOp::Acos => libm::acos(x),
        UnaryOp::Atan => libm::atan(x),
        UnaryOp::Tanh => libm::tanh(x),
        UnaryOp::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
        UnaryOp::Erf => libm::erf(x),
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Trunc => x.trunc(),
        UnaryOp::Round => x.round_ties_even(),
    }
}

macro_rules! float_binary {
    ($op:expr, $x:expr, $y:expr, $pow:expr) => {{
        let (x, y) = ($x, $y);
        match $op {
            BinaryOp::Add => x + y,
            BinaryOp::Sub => x - y,
            BinaryOp::Mul => x * y,
            BinaryOp::Div => x / y,
            BinaryOp::Rem => x % y,
            BinaryOp::Mod => {
                let r = x % y;
                if r == 0.0 {
                    r.abs().copysign(y)
                } else if (r < 0.0) != (y < 0.0) {
                    r + y
                } else {
                    r
                }
            }
            BinaryOp::Min | BinaryOp::Max if x.is_nan() || y.is_nan() => x + y,
            // The negative zero is the lesser one.
            BinaryOp::Min if x < y || (x == y && x.is_sign_negative()) => x,
            BinaryOp::Min => y,
            BinaryOp::Max if x > y || (x == y && x.is_sign_positive()) => x,
            BinaryOp::Max => y,
            BinaryOp::Pow => $pow(x, y),
            op => unreachable!("{} of floats", op.name()),
        }
    }};
}

/// A binary operator on `f32`.
pub fn binary_f32(op: BinaryOp, x: f32, y: f32) -> f32 {
    float_binary!(op, x, y, |x: f32, y: f32| libm::pow(f64::from(x), f64::from(y)) as f32)
}

/// A binary operator on `f64`.
pub fn binary_f64(op: BinaryOp, x: f64, y: f64) -> f64 {
    float_binary!(op, x, y, libm::pow)
}

/// `op(a, b)`; all of type `dtype`, which the operator accepts.
pub fn binary(op: BinaryOp, dtype: DType, a: u64, b: u64) -> u64 {
    match dtype {
        DType::F64 => binary_f64(op, f64::from_bits(a), f64::from_bits(b)).to_bits(),
        DType::F32 => u64::from(binary_f32(op, f32::from_bits(a as u32), f32::from_bits(b as u32)).to_bits()),
        DType::Bool => {
            let (a, b) = (a != 0, b != 0);
            u64::from(match op {
                BinaryOp::And | BinaryOp::Min => a && b,
                BinaryOp::Or | BinaryOp::Max => a || b,
                BinaryOp::Xor => a != b,
                _ => unreachable!("{} of bool", op.name()),
            })
        }
        _ if dtype.is_float() => {
            let (x, y) = (float_value(dtype, a) as f32, float_value(dtype, b) as f32);
            float_bits(dtype, f64::from(binary_f32(op, x, y)))
        }
        _ => binary_int(op, dtype, a, b),
    }
}

fn binary_int(op: BinaryOp, dtype: DType, a: u64, b: u64) -> u64 {
    let signed = dtype.is_signed_int();
    let (x, y) = (int_value(dtype, a), int_value(dtype, b));
    let width = u64::from(dtype.bits());
    let result = match op {
        BinaryOp::Add => a.wrapping_add(b),
        BinaryOp::Sub => a.wrapping_sub(b),
        BinaryOp::Mul => a.wrapping_mul(b),
        BinaryOp::Div | BinaryOp::Rem | BinaryOp::Mod if y == 0 => 0,
        BinaryOp::Div => (x / y) as u64,
        BinaryOp::Rem => (x % y) as u64,
        BinaryOp::Mod => {
            let r = x % y;
            (if r != 0 && (r < 0) != (y < 0) { r + y } else { r }) as u64
        }
        BinaryOp::Min => x.min(y) as u64,
        BinaryOp::Max => x.max(y) as u64,
        BinaryOp::Pow => int_pow(x, y, a),
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        BinaryOp::Shl => {
            if b < width {
                a << b
            } else {
                0
            }
        }
        BinaryOp::Shr if signed => (sign_extend(dtype, a) >> b.min(width - 1)) as u64,
        BinaryOp::Shr => {
            if b < width {
                a >> b
            } else {
                0
            }
        }
    };
    result & mask(dtype)
}

fn int_pow(x: i128, y: i128, bits: u64) -> u64 {
    if y < 0 {
        return match x {
            1 => 1,
            -1 if y % 2 == 0 => 1,
            -1 => u64::MAX,
            _ => 0,
        };
    }
    let (mut result, mut base, mut rest) = (1u64, bits, y);
    while rest > 0 {
        if rest & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        rest >>= 1;
    }
    result
}

/// `a op b` for two values of type `dtype`.
pub fn compare(op: CmpOp, dtype: DType, a: u64, b: u64) -> bool {
    if dtype.is_float() {
        compare_ordered(op, float_value(dtype, a), float_value(dtype, b))
    } else {
        compare_ordered(op, int_value(dtype, a), int_value(dtype, b))
    }
}

/// `a op b`; with a NaN only `Ne` holds.
pub fn compare_ordered<T: PartialOrd>(op: CmpOp, a: T, b: T) -> bool {
    match op {
        CmpOp::Eq => a == b,
        CmpOp::Ne => a != b,
        CmpOp::Lt => a < b,
        CmpOp::Le => a <= b,
        CmpOp::Gt => a > b,
        CmpOp::Ge => a >= b,
    }
}

/// Conversion by value; see [`crate::scalar::ScalarInst::Cast`].
pub fn cast(from: DType, to: DType, a: u64) -> u64 {
    if from == to {
        return a;
    }
    if from.is_float() {
        let x = float_value(from, a);
        return match to {
            DType::Bool => u64::from(x != 0.0),
            _ if to.is_float() => float_bits(to, x),
            DType::U64 => x as u64,
            _ => {
                // Saturates in i64 first and in the narrower type then; a NaN is 0.
                let (least, greatest) = int_range(to);
                i128::from(x as i64).clamp(least, greatest) as u64 & mask(to)
            }
        };
    }
    let x = int_value(from, a);
    match to {
        DType::Bool => u64::from(x != 0),
        DType::F64 => (x as f64).to_bits(),
        DType::F32 => u64::from((x as f32).to_bits()),
        _ if to.is_float() => float_bits(to, with_sticky_bit(x) as f64),
        _ => x as u64 & mask(to),
    }
}

/// An integer of 64 bits that fits `f64`. Of one that does not, the low bits become one that says whether any was set, so
/// that rounding to 16 bits and fewer gives what it gives for the integer itself.
fn with_sticky_bit(x: i128) -> i128 {
    if x.unsigned_abs() < 1 << 53 { x } else { x & !0xfff | if x & 0xfff == 0 { 0 } else { 0x800 } }
}

/// The least and the greatest value of an integer type.
pub fn int_range(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits();
    if dtype.is_signed_int() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// A float format of 16 bits or less.
struct Small {
    width: u32,
    fraction_bits: u32,
    bias: i32,
    /// Magnitude bits of the greatest finite number.
    greatest: u64,
    /// What a number beyond it becomes.
    over: u64,
    /// Magnitude bits of inf, if there is one.
    inf: Option<u64>,
    /// A quiet NaN's bits.
    nan: u64,
    /// Whether a zero and a NaN have no sign: the negative zero's bits are NaN.
    unsigned_zero: bool,
}

impl Small {
    fn of(dtype: DType) -> Small {
        let small = |width, fraction_bits, bias, greatest, over, nan| Small {
            width,
            fraction_bits,
            bias,
            greatest,
            over,
            inf: (over > greatest).then_some(over),
            nan,
            unsigned_zero: false,
        };
        match dtype {
            DType::F16 => small(16, 10, 15, 0x7bff, 0x7c00, 0x7e00),
            DType::BF16 => small(16, 7, 127, 0x7f7f, 0x7f80, 0x7fc0),
            DType::F8E4M3FN => small(8, 3, 7, 0x7e, 0x7e, 0x7f),
            DType::F8E4M3FNUZ => Small { unsigned_zero: true, ..small(8, 3, 8, 0x7f, 0x7f, 0x80) },
            // There is inf, though conversions saturate before it.
            DType::F8E5M2 => Small { inf: Some(0x7c), ..small(8, 2, 15, 0x7b, 0x7b, 0x7e) },
            DType::F8E5M2FNUZ => Small { unsigned_zero: true, ..small(8, 2, 16, 0x7f, 0x7f, 0x80) },
            // No sign and no zero: the fields of the others do not fit, see `decode` and `encode`.
            DType::F8E8M0 => small(8, 0, 127, 0xfe, 0xfe, 0xff),
            // No NaN: it becomes the greatest number, whose sign does not come from that of a NaN.
            DType::F4E2M1 => small(4, 1, 1, 0x7, 0x7, 0x7),
            _ => unreachable!("{dtype} is no small float"),
        }
    }

    fn is_exponent_only(&self) -> bool {
        self.width == 8 && self.fraction_bits == 0
    }

    fn decode(&self, bits: u64) -> f64 {
        if self.is_exponent_only() {
            return if bits == self.nan { f64::NAN } else { exp2(bits as i32 - self.bias) };
        }
        let sign_bit = 1 << (self.width - 1);
        let magnitude = bits & (sign_bit - 1);
        let value = if self.unsigned_zero && bits == self.nan {
            f64::NAN
        } else if magnitude > self.greatest {
            if self.inf == Some(magnitude) { f64::INFINITY } else { f64::NAN }
        } else {
            let exponent = (magnitude >> self.fraction_bits) as i32;
            let fraction = magnitude & ((1 << self.fraction_bits) - 1);
            let (fraction, exponent) =
                if exponent == 0 { (fraction, 1) } else { (fraction | 1 << self.fraction_bits, exponent) };
            fraction as f64 * exp2(exponent - self.bias - self.fraction_bits as i32)
        };
        if bits & sign_bit != 0 { -value } else { value }
    }

    fn encode(&self, value: f64) -> u64 {
        let magnitude = value.abs();
        if self.is_exponent_only() {
            return if value.is_nan() {
                self.nan
            } else {
                // Half of a step up, so that the exponent is the nearest power of two's.
                let bits = (magnitude.to_bits() >> 51) + 1;
                (((bits >> 1) as i64 - 1023 + i64::from(self.bias)).clamp(0, self.greatest as i64)) as u64
            };
        }
        let sign = if value.is_sign_negative() { 1 << (self.width - 1) } else { 0 };
        if value.is_nan() {
            return if self.unsigned_zero || self.nan == self.greatest { self.nan } else { self.nan | sign };
        }
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - self.bias);
        if exponent > self.bias + 1 {
            return self.over | sign;
        }
        let steps = (magnitude / exp2(exponent - self.fraction_bits as i32)).round_ties_even() as u64;
        // The leading bit of a normal number's mantissa adds 1 to the exponent's field.
        let bits = (((exponent + self.bias - 1) as u64) << self.fraction_bits) + steps;
        let bits = if bits > self.greatest { self.over } else { bits };
        if self.unsigned_zero && bits == 0 { 0 } else { bits | sign }
    }
}

/// 2^n for the exponent of a normal number.
fn exp2(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}
