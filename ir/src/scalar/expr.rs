//! Expressions of scalars: steps in evaluation order.

use super::{BinaryOp, CmpOp, Scalar, UnaryOp};
use crate::dim::Dim;
use crate::dtype::DType;

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
}
