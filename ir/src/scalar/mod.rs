//! Scalar arithmetic shared by both IRs: the operators with their exact meaning, constants, and the expressions that
//! an elementwise tensor operation computes for each element ([`ScalarExpr`]).
//!
//! No operation traps or is undefined: integer arithmetic wraps, division by zero gives 0, shifts by the width or more
//! give 0 (or the sign for arithmetic right shifts), conversions saturate.

mod expr;

pub use expr::{ExprError, ExprIndex, ScalarExpr, ScalarInst};

use crate::dtype::DType;

/// Operators of one operand. The result has the operand's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnaryOp {
    /// Negation; wraps for integers.
    Neg,
    /// Absolute value; wraps for the least integer.
    Abs,
    /// Bitwise complement of integers, logical complement of `Bool`.
    Not,
    /// Square root, correctly rounded; NaN below zero.
    Sqrt,
    /// e to the power x; compiled kernels give 0 for `f32` results below 2^-125.
    Exp,
    /// Natural logarithm; NaN below zero, -inf at zero.
    Log,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Tangent of radians.
    Tan,
    /// Inverse sine, in radians.
    Asin,
    /// Inverse cosine, in radians.
    Acos,
    /// Inverse tangent, in radians.
    Atan,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x); compiled kernels give at least 2^-126 for `f32`.
    Sigmoid,
    /// The error function.
    Erf,
    /// Rounds towards -inf.
    Floor,
    /// Rounds towards +inf.
    Ceil,
    /// Rounds towards zero.
    Trunc,
    /// Rounds to the nearest integer, halves to even.
    Round,
}

/// Operators of two operands of one type; the result has that type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BinaryOp {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// IEEE division; integers truncate, by zero give 0, and the least integer by -1 gives itself.
    Div,
    /// Remainder with the sign of the dividend (C's `%` and `fmod`); integers by zero give 0.
    Rem,
    /// Remainder with the sign of the divisor (Python's `%`); integers by zero give 0.
    Mod,
    /// The lesser; NaN if either is NaN. On `Bool`: and.
    Min,
    /// The greater; NaN if either is NaN. On `Bool`: or.
    Max,
    /// x to the power y; as C's `pow` for floats. Integers wrap, negative exponents give what truncating 1/x^-y gives.
    Pow,
    /// Bitwise and; logical on `Bool`.
    And,
    /// Bitwise or; logical on `Bool`.
    Or,
    /// Bitwise exclusive or; logical on `Bool`.
    Xor,
    /// Left shift.
    Shl,
    /// Right shift, arithmetic for signed types.
    Shr,
}

/// Comparisons; the result is `Bool`. With a NaN operand all but `Ne` are false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum CmpOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

macro_rules! names {
    ($ty:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        impl $ty {
            /// All operators.
            pub const ALL: &[$ty] = &[$($ty::$variant),*];

            /// The name in textual IR.
            pub fn name(self) -> &'static str {
                match self { $($ty::$variant => $name),* }
            }

            /// The operator of this name.
            pub fn from_name(name: &str) -> Option<$ty> {
                match name { $($name => Some($ty::$variant),)* _ => None }
            }
        }
    };
}

names!(UnaryOp {
    Neg = "neg", Abs = "abs", Not = "not", Sqrt = "sqrt", Exp = "exp", Log = "log", Sin = "sin", Cos = "cos",
    Tan = "tan", Asin = "asin", Acos = "acos", Atan = "atan", Tanh = "tanh", Sigmoid = "sigmoid",
    Erf = "erf", Floor = "floor",
    Ceil = "ceil", Trunc = "trunc", Round = "round",
});
names!(BinaryOp {
    Add = "add", Sub = "sub", Mul = "mul", Div = "div", Rem = "rem", Mod = "mod", Min = "min", Max = "max",
    Pow = "pow", And = "and", Or = "or", Xor = "xor", Shl = "shl", Shr = "shr",
});
names!(CmpOp { Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge" });

/// A constant scalar: its type and the bits of its in-memory representation, zero-extended. Bit equality is identity,
/// so NaNs compare equal to themselves and -0.0 differs from 0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scalar {
    /// The type; no complex or string type.
    pub dtype: DType,
    /// The representation, zero-extended to 64 bits.
    pub bits: u64,
}

impl Scalar {
    /// An `f32` constant.
    pub fn f32(value: f32) -> Scalar {
        Scalar { dtype: DType::F32, bits: u64::from(value.to_bits()) }
    }

    /// An `i64` constant.
    pub fn i64(value: i64) -> Scalar {
        Scalar { dtype: DType::I64, bits: value as u64 }
    }

    /// A `bool` constant.
    pub fn bool(value: bool) -> Scalar {
        Scalar { dtype: DType::Bool, bits: u64::from(value) }
    }

    /// Zero, or false.
    pub fn zero(dtype: DType) -> Scalar {
        Scalar { dtype, bits: 0 }
    }

    /// One, or true.
    ///
    /// # Panics
    /// For strings and complex types.
    pub fn one(dtype: DType) -> Scalar {
        use DType::*;
        let bits = match dtype {
            F64 => 1f64.to_bits(),
            F32 => u64::from(1f32.to_bits()),
            F16 => 0x3c00,
            BF16 => 0x3f80,
            F8E4M3FN => 0x38,
            F8E4M3FNUZ => 0x40,
            F8E5M2 => 0x3c,
            F8E5M2FNUZ => 0x40,
            F8E8M0 => 0x7f,
            F4E2M1 => 0x2,
            I64 | I32 | I16 | I8 | I4 | I2 | U64 | U32 | U16 | U8 | U4 | U2 | Bool => 1,
            String | C64 | C128 => panic!("{dtype} has no scalar constants"),
        };
        Scalar { dtype, bits }
    }

    /// The greatest value of the type: infinity where it has one.
    ///
    /// # Panics
    /// For strings and complex types.
    pub fn greatest(dtype: DType) -> Scalar {
        use DType::*;
        let bits = match dtype {
            F64 => f64::INFINITY.to_bits(),
            F32 => u64::from(f32::INFINITY.to_bits()),
            F16 => 0x7c00,
            BF16 => 0x7f80,
            F8E4M3FN => 0x7e,
            F8E4M3FNUZ | F8E5M2FNUZ => 0x7f,
            F8E5M2 => 0x7c,
            F8E8M0 => 0xfe,
            F4E2M1 => 0x7,
            I64 | I32 | I16 | I8 | I4 | I2 => (1u64 << (dtype.bits() - 1)) - 1,
            U64 | U32 | U16 | U8 | U4 | U2 => u64::MAX >> (64 - dtype.bits()),
            Bool => 1,
            String | C64 | C128 => panic!("{dtype} has no scalar constants"),
        };
        Scalar { dtype, bits }
    }

    /// The least value of the type: negative infinity where it has one.
    ///
    /// # Panics
    /// For strings and complex types.
    pub fn least(dtype: DType) -> Scalar {
        use DType::*;
        let bits = match dtype {
            F8E8M0 | Bool => 0,
            U64 | U32 | U16 | U8 | U4 | U2 => 0,
            I64 | I32 | I16 | I8 | I4 | I2 => 1u64 << (dtype.bits() - 1),
            // The sign bit makes the greatest float the least.
            _ => Scalar::greatest(dtype).bits | 1u64 << (dtype.bits() - 1),
        };
        Scalar { dtype, bits }
    }

    /// A number as a constant of any type, rounded and saturated to it. `None` for text, complex numbers and floats of
    /// 8 bits and fewer.
    pub fn number(dtype: DType, value: f64) -> Option<Scalar> {
        let bits = match dtype {
            DType::F64 => value.to_bits(),
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F16 => u64::from(half::f16::from_f64(value).to_bits()),
            DType::BF16 => u64::from(half::bf16::from_f64(value).to_bits()),
            DType::Bool => u64::from(value != 0.0),
            DType::U64 => value as u64,
            _ if dtype.is_unsigned_int() => (value as u64).min((1 << dtype.bits()) - 1),
            _ if dtype.is_signed_int() => {
                let shift = 64 - dtype.bits();
                (value as i64).clamp(i64::MIN >> shift, i64::MAX >> shift) as u64 & (u64::MAX >> shift)
            }
            _ => return None,
        };
        Some(Scalar { dtype, bits })
    }

    /// The value of an integer or `bool` constant; `None` for other types and beyond the range.
    pub fn as_i64(self) -> Option<i64> {
        let shift = 64 - self.dtype.bits();
        match self.dtype {
            DType::Bool => Some((self.bits != 0).into()),
            t if t.is_signed_int() => Some(((self.bits << shift) as i64) >> shift),
            t if t.is_unsigned_int() => i64::try_from(self.bits).ok(),
            _ => None,
        }
    }
}

impl UnaryOp {
    /// Whether the operator is defined on this type.
    pub fn accepts(self, t: DType) -> bool {
        match self {
            UnaryOp::Neg | UnaryOp::Abs => t.is_float() || t.is_int(),
            UnaryOp::Not => t.is_int() || t == DType::Bool,
            _ => t.is_float(),
        }
    }
}

impl BinaryOp {
    /// Whether the operator is defined on this type.
    pub fn accepts(self, t: DType) -> bool {
        match self {
            BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Mul
            | BinaryOp::Div
            | BinaryOp::Rem
            | BinaryOp::Mod
            | BinaryOp::Pow => t.is_float() || t.is_int(),
            BinaryOp::Min | BinaryOp::Max => t.is_float() || t.is_int() || t == DType::Bool,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => t.is_int() || t == DType::Bool,
            BinaryOp::Shl | BinaryOp::Shr => t.is_int(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_saturate_and_read_back() {
        assert_eq!(Scalar::number(DType::I8, -200.0).and_then(Scalar::as_i64), Some(-128));
        assert_eq!(Scalar::number(DType::U4, 99.0).and_then(Scalar::as_i64), Some(15));
        assert_eq!(Scalar::number(DType::I32, -7.0), Some(Scalar { dtype: DType::I32, bits: 0xffff_fff9 }));
        assert_eq!(Scalar::number(DType::F16, 1.0).map(|s| s.bits), Some(0x3c00));
        assert_eq!(Scalar::number(DType::String, 1.0), None);
    }
}
