//! Writing scalar expressions step by step.

use super::BuildError;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, ExprIndex, Scalar, ScalarExpr, ScalarInst, UnaryOp};

/// Builds a [`ScalarExpr`]; each method adds a step and gives its index.
#[derive(Debug, Default)]
pub struct ExprBuilder {
    expr: ScalarExpr,
}

macro_rules! shorthands {
    ($($kind:ident { $($name:ident = $op:ident),* $(,)? })*) => {
        impl ExprBuilder { $($( shorthands!(@ $kind $name $op); )*)* }
    };
    (@ unary $name:ident $op:ident) => {
        #[doc = concat!("[`UnaryOp::", stringify!($op), "`].")]
        pub fn $name(&mut self, a: ExprIndex) -> ExprIndex {
            self.unary(UnaryOp::$op, a)
        }
    };
    (@ binary $name:ident $op:ident) => {
        #[doc = concat!("[`BinaryOp::", stringify!($op), "`].")]
        pub fn $name(&mut self, a: ExprIndex, b: ExprIndex) -> ExprIndex {
            self.binary(BinaryOp::$op, a, b)
        }
    };
    (@ compare $name:ident $op:ident) => {
        #[doc = concat!("[`CmpOp::", stringify!($op), "`].")]
        pub fn $name(&mut self, a: ExprIndex, b: ExprIndex) -> ExprIndex {
            self.compare(CmpOp::$op, a, b)
        }
    };
}

shorthands! {
    unary {
        neg = Neg, abs = Abs, not = Not, sqrt = Sqrt, exp = Exp, log = Log, sin = Sin, cos = Cos, tan = Tan, tanh = Tanh, sigmoid = Sigmoid,
        erf = Erf, floor = Floor, ceil = Ceil, trunc = Trunc, round = Round,
    }
    binary {
        add = Add, sub = Sub, mul = Mul, div = Div, rem = Rem, modulo = Mod, min = Min, max = Max, pow = Pow, and = And,
        or = Or, xor = Xor,
    }
    compare { eq = Eq, ne = Ne, lt = Lt, le = Le, gt = Gt, ge = Ge }
}

impl ExprBuilder {
    /// A step of any kind.
    pub fn step(&mut self, inst: ScalarInst) -> ExprIndex {
        self.expr.push(inst)
    }

    /// The element of input `n`.
    pub fn arg(&mut self, n: u32) -> ExprIndex {
        self.expr.push(ScalarInst::Arg(n))
    }

    /// The output coordinate along an axis, `i64`.
    pub fn index(&mut self, axis: u32) -> ExprIndex {
        self.expr.push(ScalarInst::Index(axis))
    }

    /// The value of a dimension expression, `i64`.
    pub fn dim(&mut self, dim: &Dim) -> ExprIndex {
        match dim.as_const() {
            Some(value) => self.constant(Scalar::i64(value)),
            None => self.expr.push(ScalarInst::Dim(dim.clone())),
        }
    }

    /// A constant.
    pub fn constant(&mut self, value: Scalar) -> ExprIndex {
        self.expr.push(ScalarInst::Const(value))
    }

    /// A number in a type, rounded to it.
    ///
    /// # Errors
    /// If the type has no such constants: text, complex numbers, floats of 8 bits and fewer.
    pub fn number(&mut self, dtype: DType, value: f64) -> Result<ExprIndex, BuildError> {
        Ok(self.constant(number(dtype, value)?))
    }

    /// `op(a)`.
    pub fn unary(&mut self, op: UnaryOp, a: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::Unary(op, a))
    }

    /// `op(a, b)`.
    pub fn binary(&mut self, op: BinaryOp, a: ExprIndex, b: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::Binary(op, a, b))
    }

    /// `a op b`.
    pub fn compare(&mut self, op: CmpOp, a: ExprIndex, b: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::Compare(op, a, b))
    }

    /// `a * b + c` of `f32`; see [`ScalarInst::MulAdd`].
    pub fn mul_add(&mut self, a: ExprIndex, b: ExprIndex, c: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::MulAdd(a, b, c))
    }

    /// `c ? a : b`.
    pub fn select(&mut self, c: ExprIndex, a: ExprIndex, b: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::Select(c, a, b))
    }

    /// Conversion by value.
    pub fn cast(&mut self, dtype: DType, a: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::Cast(dtype, a))
    }

    /// The same bits as a type of the same width.
    pub fn bitcast(&mut self, dtype: DType, a: ExprIndex) -> ExprIndex {
        self.expr.push(ScalarInst::Bitcast(dtype, a))
    }

    /// The expression that computes `result`.
    pub fn finish(self, result: ExprIndex) -> ScalarExpr {
        self.expr.finish(result)
    }
}

/// A number as a constant of a type.
pub(super) fn number(dtype: DType, value: f64) -> Result<Scalar, BuildError> {
    Scalar::number(dtype, value).ok_or_else(|| BuildError::Invalid(format!("no constants of type {dtype}")))
}
