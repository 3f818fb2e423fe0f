//! Elementwise operations: general expressions, the operators, and the usual activations.

use super::{BuildError, Builder, ExprBuilder};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, ExprIndex, ScalarExpr, ScalarInst, UnaryOp};
use crate::tensor::{Op, Value};

macro_rules! shorthands {
    ($($name:ident($($arg:ident),*) = $method:ident($op:expr), $doc:literal;)*) => {
        impl Builder<'_> {
            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// If types or shapes do not fit.
                pub fn $name(&mut self, $($arg: Value),*) -> Result<Value, BuildError> {
                    self.$method($op, $($arg),*)
                }
            )*
        }
    };
}

shorthands! {
    neg(x) = unary(UnaryOp::Neg), "`-x`.";
    abs(x) = unary(UnaryOp::Abs), "Absolute value.";
    not(x) = unary(UnaryOp::Not), "Complement.";
    sqrt(x) = unary(UnaryOp::Sqrt), "Square root.";
    exp(x) = unary(UnaryOp::Exp), "e to the power x.";
    log(x) = unary(UnaryOp::Log), "Natural logarithm.";
    tanh(x) = unary(UnaryOp::Tanh), "Hyperbolic tangent.";
    sigmoid(x) = unary(UnaryOp::Sigmoid), "`1 / (1 + exp(-x))`.";
    erf(x) = unary(UnaryOp::Erf), "Error function.";
    floor(x) = unary(UnaryOp::Floor), "Rounds towards -inf.";
    add(a, b) = binary(BinaryOp::Add), "`a + b`.";
    sub(a, b) = binary(BinaryOp::Sub), "`a - b`.";
    mul(a, b) = binary(BinaryOp::Mul), "`a * b`.";
    div(a, b) = binary(BinaryOp::Div), "`a / b`.";
    rem(a, b) = binary(BinaryOp::Rem), "Remainder with the sign of `a`.";
    modulo(a, b) = binary(BinaryOp::Mod), "Remainder with the sign of `b`.";
    min(a, b) = binary(BinaryOp::Min), "The lesser.";
    max(a, b) = binary(BinaryOp::Max), "The greater.";
    pow(a, b) = binary(BinaryOp::Pow), "`a` to the power `b`.";
    and(a, b) = binary(BinaryOp::And), "Logical or bitwise and.";
    or(a, b) = binary(BinaryOp::Or), "Logical or bitwise or.";
    xor(a, b) = binary(BinaryOp::Xor), "Logical or bitwise exclusive or.";
    equal(a, b) = compare(CmpOp::Eq), "`a == b`.";
    less(a, b) = compare(CmpOp::Lt), "`a < b`.";
    greater(a, b) = compare(CmpOp::Gt), "`a > b`.";
}

impl Builder<'_> {
    /// An expression of the elements of the inputs, which are broadcast together.
    ///
    /// # Errors
    /// If the expression is ill-typed for them or they do not broadcast.
    pub fn elementwise(&mut self, expr: ScalarExpr, inputs: &[Value]) -> Result<Value, BuildError> {
        let shape = self.broadcast_shape(inputs)?;
        if let [ScalarInst::Arg(n)] = expr.insts[..]
            && let Some(&x) = inputs.get(n as usize)
            && self.graph.same_shape(&self.shape(x)?, &shape)
        {
            return Ok(x);
        }
        self.state(Op::Elementwise(expr), inputs, shape)
    }

    /// An expression of coordinates and of the elements of inputs that broadcast to a given shape.
    ///
    /// # Errors
    /// If the expression is ill-typed or an input does not broadcast to the shape.
    pub fn generate(&mut self, expr: ScalarExpr, shape: &[Dim], inputs: &[Value]) -> Result<Value, BuildError> {
        self.state(Op::Elementwise(expr), inputs, shape.into())
    }

    /// [`Builder::elementwise`] with the expression written in place: argument `n` is `e.arg(n)`.
    ///
    /// # Errors
    /// Those of `f`, and those of [`Builder::elementwise`].
    pub fn map(
        &mut self,
        inputs: &[Value],
        f: impl FnOnce(&mut ExprBuilder) -> Result<ExprIndex, BuildError>,
    ) -> Result<Value, BuildError> {
        let mut e = ExprBuilder::default();
        let result = f(&mut e)?;
        self.elementwise(e.finish(result), inputs)
    }

    /// [`Builder::generate`] with the expression written in place.
    ///
    /// # Errors
    /// Those of `f`, and those of [`Builder::generate`].
    pub fn map_to(
        &mut self,
        shape: &[Dim],
        inputs: &[Value],
        f: impl FnOnce(&mut ExprBuilder) -> Result<ExprIndex, BuildError>,
    ) -> Result<Value, BuildError> {
        let mut e = ExprBuilder::default();
        let result = f(&mut e)?;
        self.generate(e.finish(result), shape, inputs)
    }

    /// `op(x)`.
    ///
    /// # Errors
    /// If the operator is not defined on the type.
    pub fn unary(&mut self, op: UnaryOp, x: Value) -> Result<Value, BuildError> {
        self.elementwise(ScalarExpr::unary(op), &[x])
    }

    /// `op(a, b)`.
    ///
    /// # Errors
    /// If the operator is not defined on the types, or the shapes do not broadcast.
    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Value, BuildError> {
        self.elementwise(ScalarExpr::binary(op), &[a, b])
    }

    /// `op(x, number)`, the number being rounded to the type of `x`.
    ///
    /// # Errors
    /// If the operator is not defined on the type.
    pub fn binary_number(&mut self, op: BinaryOp, x: Value, number: f64) -> Result<Value, BuildError> {
        let dtype = self.dtype(x)?;
        self.map(&[x], |e| {
            let (a, b) = (e.arg(0), e.number(dtype, number)?);
            Ok(e.binary(op, a, b))
        })
    }

    /// `a op b`.
    ///
    /// # Errors
    /// If the types differ or the shapes do not broadcast.
    pub fn compare(&mut self, op: CmpOp, a: Value, b: Value) -> Result<Value, BuildError> {
        self.elementwise(ScalarExpr::compare(op), &[a, b])
    }

    /// `condition ? a : b`.
    ///
    /// # Errors
    /// If the types do not fit or the shapes do not broadcast.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Result<Value, BuildError> {
        self.map(&[condition, a, b], |e| {
            let (c, a, b) = (e.arg(0), e.arg(1), e.arg(2));
            Ok(e.select(c, a, b))
        })
    }

    /// Conversion by value.
    ///
    /// # Errors
    /// If `x` is no tensor.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Result<Value, BuildError> {
        if self.dtype(x)? == dtype {
            return Ok(x);
        }
        self.map(&[x], |e| {
            let a = e.arg(0);
            Ok(e.cast(dtype, a))
        })
    }

    /// `max(x, 0)`.
    ///
    /// # Errors
    /// If `x` is not numeric.
    pub fn relu(&mut self, x: Value) -> Result<Value, BuildError> {
        self.binary_number(BinaryOp::Max, x, 0.0)
    }
}
