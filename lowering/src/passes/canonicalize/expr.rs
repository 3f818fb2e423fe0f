//! Scalar expressions in their simplest form: arithmetic on constants is done, operations that change nothing are gone,
//! powers with a small constant exponent are products and roots.
//!
//! What is dropped is exact: `x + 0.0` stays for floats, because it turns -0 into +0; `x + -0.0` goes.

use onnxc_ir::dtype::DType;
use onnxc_ir::evaluate;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar, ScalarExpr, ScalarInst, UnaryOp};

/// Builds an expression step by step, each step simplified given those before it.
#[derive(Debug, Default)]
pub struct Simplifier {
    expr: ScalarExpr,
    types: Vec<DType>,
}

impl Simplifier {
    /// Appends a step, or finds one that computes the same. `args` are the types of the arguments.
    pub fn push(&mut self, inst: ScalarInst, args: &[DType]) -> ExprIndex {
        match self.simplify(&inst, args) {
            Some(index) => index,
            None => self.append(inst, args),
        }
    }

    fn append(&mut self, inst: ScalarInst, args: &[DType]) -> ExprIndex {
        let ty = match &inst {
            ScalarInst::Arg(n) => args[*n as usize],
            ScalarInst::Index(_) | ScalarInst::Dim(_) => DType::I64,
            ScalarInst::Const(c) => c.dtype,
            ScalarInst::Unary(_, a) | ScalarInst::Binary(_, a, _) | ScalarInst::Select(_, a, _) => self.ty(*a),
            ScalarInst::MulAdd(..) => DType::F32,
            ScalarInst::Compare(..) => DType::Bool,
            ScalarInst::Cast(to, _) | ScalarInst::Bitcast(to, _) => *to,
        };
        let index = self.expr.push(inst);
        if index as usize == self.types.len() {
            self.types.push(ty);
        }
        index
    }

    /// The constant that a step is.
    pub fn constant(&self, index: ExprIndex) -> Option<Scalar> {
        match self.expr.insts.get(index as usize)? {
            ScalarInst::Const(c) => Some(*c),
            _ => None,
        }
    }

    /// The expression that computes a step.
    pub fn finish(&self, result: ExprIndex) -> ScalarExpr {
        self.expr.finish(result)
    }

    fn ty(&self, index: ExprIndex) -> DType {
        self.types[index as usize]
    }

    fn inst(&self, index: ExprIndex) -> &ScalarInst {
        &self.expr.insts[index as usize]
    }

    fn put(&mut self, scalar: Scalar) -> ExprIndex {
        self.append(ScalarInst::Const(scalar), &[])
    }

    /// What computes the same as a step with less work.
    fn simplify(&mut self, inst: &ScalarInst, args: &[DType]) -> Option<ExprIndex> {
        if let Some(scalar) = self.evaluate(inst) {
            return Some(self.put(scalar));
        }
        match *inst {
            ScalarInst::Unary(UnaryOp::Neg, a) => match *self.inst(a) {
                ScalarInst::Unary(UnaryOp::Neg, x) => Some(x),
                _ => None,
            },
            ScalarInst::Unary(UnaryOp::Not, a) => match *self.inst(a) {
                ScalarInst::Unary(UnaryOp::Not, x) => Some(x),
                _ => None,
            },
            ScalarInst::Unary(op, a) if matches!(self.inst(a), ScalarInst::Unary(inner, _) if *inner == op) => {
                let idempotent =
                    matches!(op, UnaryOp::Abs | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc | UnaryOp::Round);
                idempotent.then_some(a)
            }
            ScalarInst::Binary(op, a, b) => self.simplify_binary(op, a, b, args),
            ScalarInst::Select(c, a, b) => match self.constant(c) {
                Some(c) => Some(if c.bits != 0 { a } else { b }),
                None => (a == b).then_some(a),
            },
            ScalarInst::Cast(to, a) => self.simplify_cast(to, a, args),
            ScalarInst::Bitcast(to, a) => (self.ty(a) == to).then_some(a),
            ScalarInst::Dim(ref d) => d.as_const().map(|n| self.put(Scalar::i64(n))),
            ScalarInst::Unary(..)
            | ScalarInst::MulAdd(..)
            | ScalarInst::Compare(..)
            | ScalarInst::Arg(_)
            | ScalarInst::Index(_)
            | ScalarInst::Const(_) => None,
        }
    }

    /// The value of a step on constants.
    fn evaluate(&self, inst: &ScalarInst) -> Option<Scalar> {
        Some(match *inst {
            ScalarInst::Unary(op, a) => {
                let a = self.constant(a)?;
                Scalar { dtype: a.dtype, bits: evaluate::unary(op, a.dtype, a.bits) }
            }
            ScalarInst::Binary(op, a, b) => {
                let (a, b) = (self.constant(a)?, self.constant(b)?);
                Scalar { dtype: a.dtype, bits: evaluate::binary(op, a.dtype, a.bits, b.bits) }
            }
            ScalarInst::Compare(op, a, b) => {
                let (a, b) = (self.constant(a)?, self.constant(b)?);
                Scalar::bool(evaluate::compare(op, a.dtype, a.bits, b.bits))
            }
            ScalarInst::Cast(to, a) => {
                let a = self.constant(a)?;
                Scalar { dtype: to, bits: evaluate::cast(a.dtype, to, a.bits) }
            }
            ScalarInst::Bitcast(to, a) => Scalar { dtype: to, bits: self.constant(a)?.bits },
            ScalarInst::MulAdd(..)
            | ScalarInst::Select(..)
            | ScalarInst::Arg(_)
            | ScalarInst::Index(_)
            | ScalarInst::Const(_)
            | ScalarInst::Dim(_) => return None,
        })
    }

    fn simplify_binary(&mut self, op: BinaryOp, a: ExprIndex, b: ExprIndex, args: &[DType]) -> Option<ExprIndex> {
        let dtype = self.ty(a);
        let is = |x: Option<Scalar>, number: Scalar| x.is_some_and(|x| x.bits == number.bits);
        let (left, right) = (self.constant(a), self.constant(b));
        let (zero, unit) = (Scalar::zero(dtype), Scalar::one(dtype));
        let whole = dtype.is_int();
        // What may be added to every number without a change: the negative zero of floats.
        let nothing = if whole { zero } else { Scalar { dtype, bits: 1 << (dtype.bits() - 1) } };
        match op {
            BinaryOp::Mul if is(right, unit) => Some(a),
            BinaryOp::Mul if is(left, unit) => Some(b),
            BinaryOp::Mul if whole && (is(left, zero) || is(right, zero)) => Some(self.put(zero)),
            BinaryOp::Add if is(right, nothing) => Some(a),
            BinaryOp::Add if is(left, nothing) => Some(b),
            BinaryOp::Sub if is(right, zero) => Some(a),
            BinaryOp::Div if is(right, unit) => Some(a),
            BinaryOp::Div => {
                // Division by a power of two is exact as a product.
                let by = right.filter(|_| matches!(dtype, DType::F32 | DType::F64))?;
                let reciprocal = power_of_two_reciprocal(by)?;
                let reciprocal = self.put(reciprocal);
                Some(self.push(ScalarInst::Binary(BinaryOp::Mul, a, reciprocal), args))
            }
            BinaryOp::Pow => self.simplify_power(a, right?, args),
            BinaryOp::Min | BinaryOp::Max | BinaryOp::And | BinaryOp::Or if a == b => Some(a),
            BinaryOp::Max if dtype.is_float() && is(right, Scalar::least(dtype)) => Some(a),
            BinaryOp::Min if dtype.is_float() && is(right, Scalar::greatest(dtype)) => Some(a),
            _ => None,
        }
    }

    /// Powers with the exponents that models have.
    fn simplify_power(&mut self, x: ExprIndex, exponent: Scalar, args: &[DType]) -> Option<ExprIndex> {
        let dtype = exponent.dtype;
        let power = if dtype.is_float() {
            evaluate::float_value(dtype, exponent.bits)
        } else {
            exponent.as_i64().filter(|n| n.abs() < 4)? as f64
        };
        let multiply = |s: &mut Simplifier, a, b| s.push(ScalarInst::Binary(BinaryOp::Mul, a, b), args);
        let root = |s: &mut Simplifier| s.push(ScalarInst::Unary(UnaryOp::Sqrt, x), args);
        let invert = |s: &mut Simplifier, a| {
            let unit = s.put(Scalar::one(dtype));
            s.push(ScalarInst::Binary(BinaryOp::Div, unit, a), args)
        };
        if power == 0.0 {
            return Some(self.put(Scalar::one(dtype)));
        } else if power == 1.0 {
            return Some(x);
        } else if power == 2.0 {
            return Some(multiply(self, x, x));
        } else if power == 3.0 {
            let square = multiply(self, x, x);
            return Some(multiply(self, square, x));
        } else if !dtype.is_float() {
            return None;
        } else if power == 0.5 {
            return Some(root(self));
        } else if power == -0.5 {
            let root = root(self);
            return Some(invert(self, root));
        } else if power == -1.0 {
            return Some(invert(self, x));
        }
        None
    }

    fn simplify_cast(&mut self, to: DType, a: ExprIndex, args: &[DType]) -> Option<ExprIndex> {
        if self.ty(a) == to {
            return Some(a);
        }
        match *self.inst(a) {
            ScalarInst::Cast(between, x) if represents(between, self.ty(x)) => {
                Some(self.push(ScalarInst::Cast(to, x), args))
            }
            _ => None,
        }
    }
}

/// The reciprocal of a power of two, if both are normal.
fn power_of_two_reciprocal(by: Scalar) -> Option<Scalar> {
    let value = evaluate::float_value(by.dtype, by.bits);
    let fraction = value.to_bits() & ((1 << 52) - 1);
    let exponent = value.abs().log2();
    let normal = exponent.abs() < if by.dtype == DType::F32 { 126.0 } else { 1022.0 };
    (fraction == 0 && normal).then(|| Scalar::number(by.dtype, 1.0 / value)).flatten()
}

/// Whether every value of type `from` is one of type `to`.
fn represents(to: DType, from: DType) -> bool {
    if to == from || from == DType::Bool {
        return to != DType::Bool || from == DType::Bool;
    }
    if to == DType::Bool {
        return false;
    }
    match (from.is_float(), to.is_float()) {
        (true, true) => {
            let exact = |d: DType| matches!(d, DType::F32 | DType::F64);
            exact(to) && to.bits() > from.bits()
        }
        (false, true) => {
            let digits = match to {
                DType::F64 => 53,
                DType::F32 => 24,
                _ => return false,
            };
            from.is_int() && from.bits() <= digits
        }
        (false, false) => {
            let wider = to.bits() > from.bits();
            from.is_int() && to.is_int() && wider && (to.is_signed_int() || from.is_unsigned_int())
        }
        (true, false) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The simplest form of `op(arg0, constant)`.
    fn with_constant(op: BinaryOp, constant: Scalar) -> ScalarExpr {
        let args = [constant.dtype];
        let mut s = Simplifier::default();
        let x = s.push(ScalarInst::Arg(0), &args);
        let c = s.push(ScalarInst::Const(constant), &args);
        let result = s.push(ScalarInst::Binary(op, x, c), &args);
        s.finish(result)
    }

    #[test]
    fn drops_only_what_changes_nothing() {
        let identity = ScalarExpr::identity();
        assert_eq!(with_constant(BinaryOp::Mul, Scalar::f32(1.0)), identity);
        assert_eq!(with_constant(BinaryOp::Sub, Scalar::f32(0.0)), identity);
        assert_eq!(with_constant(BinaryOp::Add, Scalar::f32(-0.0)), identity);
        assert_eq!(with_constant(BinaryOp::Add, Scalar::f32(0.0)).insts.len(), 3);
        assert_eq!(with_constant(BinaryOp::Add, Scalar::i64(0)), identity);
        assert_eq!(with_constant(BinaryOp::Mul, Scalar::f32(0.0)).insts.len(), 3);
    }

    #[test]
    fn powers_become_products_and_roots() {
        let square = ScalarExpr { insts: vec![ScalarInst::Arg(0), ScalarInst::Binary(BinaryOp::Mul, 0, 0)] };
        assert_eq!(with_constant(BinaryOp::Pow, Scalar::f32(2.0)), square);
        assert_eq!(with_constant(BinaryOp::Pow, Scalar::i64(2)), square);
        assert_eq!(with_constant(BinaryOp::Pow, Scalar::f32(0.5)), ScalarExpr::unary(UnaryOp::Sqrt));
        let power = with_constant(BinaryOp::Pow, Scalar::f32(2.5));
        assert_eq!(power.insts[2], ScalarInst::Binary(BinaryOp::Pow, 0, 1));
    }

    #[test]
    fn casts_through_a_wider_type_are_one_cast() {
        let chain = |from, between, to| {
            let mut s = Simplifier::default();
            let x = s.push(ScalarInst::Arg(0), &[from]);
            let wide = s.push(ScalarInst::Cast(between, x), &[from]);
            let result = s.push(ScalarInst::Cast(to, wide), &[from]);
            s.finish(result).insts.len()
        };
        assert_eq!(chain(DType::F32, DType::F64, DType::F32), 1);
        assert_eq!(chain(DType::I32, DType::I64, DType::F32), 2);
        assert_eq!(chain(DType::F32, DType::I32, DType::F32), 3);
        assert_eq!(chain(DType::I64, DType::F32, DType::I64), 3);
        assert_eq!(chain(DType::I32, DType::Bool, DType::I64), 3);
    }
}
