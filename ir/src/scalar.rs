//! Scalar arithmetic shared by both IRs: the operators with their exact meaning, constants, and the expressions that
//! an elementwise tensor operation computes for each element.
//!
//! No operation traps or is undefined: integer arithmetic wraps, division by zero gives 0, shifts by the width or more
//! give 0 (or the sign for arithmetic right shifts), conversions saturate.

use crate::dim::Dim;
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

/// The index of an instruction in its expression.
pub type ExprIndex = u32;

/// One step of a scalar expression. Operands are indices of earlier steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ScalarInst {
    /// The element of input `n` at the current position (inputs are broadcast to the output's shape).
    Arg(u32),
    /// The current output coordinate along an axis, `i64`.
    Index(u32),
    /// A constant.
    Const(Scalar),
    /// The value of a dimension expression, `i64`.
    Dim(Dim),
    /// `op(a)`.
    Unary(UnaryOp, ExprIndex),
    /// `op(a, b)`, both of one type.
    Binary(BinaryOp, ExprIndex, ExprIndex),
    /// `a op b`, giving `Bool`.
    Compare(CmpOp, ExprIndex, ExprIndex),
    /// `a * b + c` of `f32`, rounded once where the machine has an instruction for it and after each operation elsewhere.
    MulAdd(ExprIndex, ExprIndex, ExprIndex),
    /// `c ? a : b`; `c` is `Bool`. Both sides are evaluated.
    Select(ExprIndex, ExprIndex, ExprIndex),
    /// Conversion by value. Float to integer truncates towards zero and saturates (NaN gives 0); integer to narrower
    /// integer wraps; to float rounds to nearest even; to `Bool` tests for != 0; 8-bit floats saturate to the greatest finite.
    Cast(DType, ExprIndex),
    /// Reinterpretation of the bits as a type of the same width.
    Bitcast(DType, ExprIndex),
}

/// A pure function from scalars to one scalar, in evaluation order; the last step is the result. 16-bit floats and
/// smaller compute each step in `f32` and round to their type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ScalarExpr {
    /// The steps; never empty in a valid expression.
    pub insts: Vec<ScalarInst>,
}

/// Why an expression is ill-typed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scalar expression step {step}: {message}")]
pub struct ExprError {
    /// Which step.
    pub step: usize,
    /// What is wrong.
    pub message: String,
}

impl ScalarExpr {
    /// An empty expression, to which steps are pushed.
    pub fn new() -> ScalarExpr {
        ScalarExpr::default()
    }

    /// About how many instructions the expression takes for one vector; expansions of transcendental functions count as
    /// what they expand to.
    pub fn cost(&self) -> u32 {
        let inst = |inst: &ScalarInst| match inst {
            ScalarInst::Arg(_) | ScalarInst::Const(_) => 0,
            ScalarInst::Unary(UnaryOp::Exp | UnaryOp::Log | UnaryOp::Tanh | UnaryOp::Sigmoid | UnaryOp::Erf, _) => 20,
            ScalarInst::Unary(
                UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Tan | UnaryOp::Asin | UnaryOp::Acos | UnaryOp::Atan,
                _,
            ) => 30,
            ScalarInst::Binary(BinaryOp::Pow, ..) => 60,
            _ => 1,
        };
        self.insts.iter().map(inst).sum()
    }

    /// Appends a step and returns its index. An identical earlier step is reused.
    pub fn push(&mut self, inst: ScalarInst) -> ExprIndex {
        if let Some(i) = self.insts.iter().position(|x| *x == inst) {
            // The result is the last step: a reused step that must become the result is moved there by `finish`.
            return i as ExprIndex;
        }
        self.insts.push(inst);
        (self.insts.len() - 1) as ExprIndex
    }

    /// Makes `result` the last step, dropping steps that it does not need.
    pub fn finish(&self, result: ExprIndex) -> ScalarExpr {
        let mut needed = vec![false; self.insts.len()];
        needed[result as usize] = true;
        for i in (0..=result as usize).rev() {
            if needed[i] {
                self.insts[i].operands().for_each(|o| needed[o as usize] = true);
            }
        }
        let mut map = vec![0; self.insts.len()];
        let mut out = ScalarExpr::new();
        for i in 0..=result as usize {
            if needed[i] {
                map[i] = out.insts.len() as ExprIndex;
                out.insts.push(self.insts[i].map_operands(|o| map[o as usize]));
            }
        }
        out
    }

    /// The expression `op(arg0)`.
    pub fn unary(op: UnaryOp) -> ScalarExpr {
        ScalarExpr { insts: vec![ScalarInst::Arg(0), ScalarInst::Unary(op, 0)] }
    }

    /// The expression `op(arg0, arg1)`.
    pub fn binary(op: BinaryOp) -> ScalarExpr {
        ScalarExpr { insts: vec![ScalarInst::Arg(0), ScalarInst::Arg(1), ScalarInst::Binary(op, 0, 1)] }
    }

    /// The expression `arg0 op arg1`.
    pub fn compare(op: CmpOp) -> ScalarExpr {
        ScalarExpr { insts: vec![ScalarInst::Arg(0), ScalarInst::Arg(1), ScalarInst::Compare(op, 0, 1)] }
    }

    /// The expression `arg0`.
    pub fn identity() -> ScalarExpr {
        ScalarExpr { insts: vec![ScalarInst::Arg(0)] }
    }

    /// The type of each step, given the inputs' types.
    pub fn types(&self, args: &[DType]) -> Result<Vec<DType>, ExprError> {
        let mut types: Vec<DType> = Vec::with_capacity(self.insts.len());
        for (step, inst) in self.insts.iter().enumerate() {
            let fail = |message: String| Err(ExprError { step, message });
            let get = |i: ExprIndex| {
                types
                    .get(i as usize)
                    .copied()
                    .ok_or(ExprError { step, message: format!("uses step {i} before it exists") })
            };
            let ty = match inst {
                ScalarInst::Arg(n) => match args.get(*n as usize) {
                    Some(t) => *t,
                    None => return fail(format!("argument {n} of {}", args.len())),
                },
                ScalarInst::Index(_) | ScalarInst::Dim(_) => DType::I64,
                ScalarInst::Const(c) => c.dtype,
                ScalarInst::Unary(op, a) => {
                    let t = get(*a)?;
                    if !op.accepts(t) {
                        return fail(format!("{} of {t}", op.name()));
                    }
                    t
                }
                ScalarInst::Binary(op, a, b) => {
                    let (t, u) = (get(*a)?, get(*b)?);
                    if t != u || !op.accepts(t) {
                        return fail(format!("{} of {t} and {u}", op.name()));
                    }
                    t
                }
                ScalarInst::Compare(op, a, b) => {
                    let (t, u) = (get(*a)?, get(*b)?);
                    if t != u {
                        return fail(format!("{} of {t} and {u}", op.name()));
                    }
                    DType::Bool
                }
                ScalarInst::MulAdd(a, b, c) => {
                    let operands = [get(*a)?, get(*b)?, get(*c)?];
                    if operands != [DType::F32; 3] {
                        let [a, b, c] = operands;
                        return fail(format!("muladd of {a}, {b}, {c}"));
                    }
                    DType::F32
                }
                ScalarInst::Select(c, a, b) => {
                    let (s, t, u) = (get(*c)?, get(*a)?, get(*b)?);
                    if s != DType::Bool || t != u {
                        return fail(format!("select of {s}, {t}, {u}"));
                    }
                    t
                }
                ScalarInst::Cast(to, a) => {
                    let t = get(*a)?;
                    if (t == DType::String) != (*to == DType::String) {
                        return fail(format!("cast of {t} to {to}"));
                    }
                    *to
                }
                ScalarInst::Bitcast(to, a) => {
                    let t = get(*a)?;
                    if t.bits() != to.bits() {
                        return fail(format!("bitcast of {t} to {to}"));
                    }
                    *to
                }
            };
            types.push(ty);
        }
        if types.is_empty() {
            return Err(ExprError { step: 0, message: "the expression is empty".into() });
        }
        Ok(types)
    }

    /// The result's type.
    pub fn result_type(&self, args: &[DType]) -> Result<DType, ExprError> {
        Ok(*self.types(args)?.last().expect("types checks that the expression is not empty"))
    }

    /// `self` with its argument `n` replaced by what `inner` computes; `inner_args[i]` says which argument of the result
    /// `inner`'s argument `i` becomes, `outer_args[i]` the same for `self`'s (entry `n` is not used).
    pub fn compose(&self, n: u32, inner: &ScalarExpr, outer_args: &[u32], inner_args: &[u32]) -> ScalarExpr {
        let mut out = ScalarExpr::new();
        let mut inner_map = Vec::with_capacity(inner.insts.len());
        for inst in &inner.insts {
            let inst = match inst {
                ScalarInst::Arg(i) => ScalarInst::Arg(inner_args[*i as usize]),
                other => other.map_operands(|o| inner_map[o as usize]),
            };
            inner_map.push(out.push(inst));
        }
        let inner_result = *inner_map.last().expect("expressions are not empty");
        let mut map = Vec::with_capacity(self.insts.len());
        for inst in &self.insts {
            let index = match inst {
                ScalarInst::Arg(i) if *i == n => inner_result,
                ScalarInst::Arg(i) => out.push(ScalarInst::Arg(outer_args[*i as usize])),
                other => out.push(other.map_operands(|o| map[o as usize])),
            };
            map.push(index);
        }
        out.finish(*map.last().expect("expressions are not empty"))
    }
}

impl ScalarInst {
    /// The steps that this one uses.
    pub fn operands(&self) -> impl Iterator<Item = ExprIndex> {
        let list: [Option<ExprIndex>; 3] = match *self {
            ScalarInst::Arg(_) | ScalarInst::Index(_) | ScalarInst::Const(_) | ScalarInst::Dim(_) => [None; 3],
            ScalarInst::Unary(_, a) | ScalarInst::Cast(_, a) | ScalarInst::Bitcast(_, a) => [Some(a), None, None],
            ScalarInst::Binary(_, a, b) | ScalarInst::Compare(_, a, b) => [Some(a), Some(b), None],
            ScalarInst::MulAdd(a, b, c) | ScalarInst::Select(a, b, c) => [Some(a), Some(b), Some(c)],
        };
        list.into_iter().flatten()
    }

    /// The same step with each operand index replaced.
    pub fn map_operands(&self, f: impl Fn(ExprIndex) -> ExprIndex) -> ScalarInst {
        match self {
            ScalarInst::Arg(_) | ScalarInst::Index(_) | ScalarInst::Const(_) | ScalarInst::Dim(_) => self.clone(),
            ScalarInst::Unary(op, a) => ScalarInst::Unary(*op, f(*a)),
            ScalarInst::Binary(op, a, b) => ScalarInst::Binary(*op, f(*a), f(*b)),
            ScalarInst::Compare(op, a, b) => ScalarInst::Compare(*op, f(*a), f(*b)),
            ScalarInst::MulAdd(a, b, c) => ScalarInst::MulAdd(f(*a), f(*b), f(*c)),
            ScalarInst::Select(c, a, b) => ScalarInst::Select(f(*c), f(*a), f(*b)),
            ScalarInst::Cast(t, a) => ScalarInst::Cast(*t, f(*a)),
            ScalarInst::Bitcast(t, a) => ScalarInst::Bitcast(*t, f(*a)),
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
    fn composes_and_drops_dead_steps() {
        // relu(arg0) = max(arg0, 0); composed with arg0 + arg1.
        let mut relu = ScalarExpr::new();
        let a = relu.push(ScalarInst::Arg(0));
        let z = relu.push(ScalarInst::Const(Scalar::f32(0.0)));
        let m = relu.push(ScalarInst::Binary(BinaryOp::Max, a, z));
        let relu = relu.finish(m);
        let sum = ScalarExpr::binary(BinaryOp::Add);
        let both = relu.compose(0, &sum, &[9], &[0, 1]);
        assert_eq!(both.result_type(&[DType::F32, DType::F32]), Ok(DType::F32));
        assert_eq!(both.insts.len(), 5);
        assert!(both.result_type(&[DType::F32, DType::I64]).is_err());
    }

    #[test]
    fn numbers_saturate_and_read_back() {
        assert_eq!(Scalar::number(DType::I8, -200.0).and_then(Scalar::as_i64), Some(-128));
        assert_eq!(Scalar::number(DType::U4, 99.0).and_then(Scalar::as_i64), Some(15));
        assert_eq!(Scalar::number(DType::I32, -7.0), Some(Scalar { dtype: DType::I32, bits: 0xffff_fff9 }));
        assert_eq!(Scalar::number(DType::F16, 1.0).map(|s| s.bits), Some(0x3c00));
        assert_eq!(Scalar::number(DType::String, 1.0), None);
    }
}
