//! Scalar expressions of elementwise operations as Loop IR.

use onnxc_ir::loops::{FmaMode, Val};
use onnxc_ir::scalar::{ScalarExpr, ScalarInst};

use super::{Coord, GroupKernel};

impl GroupKernel<'_> {
    /// Computes `expr` in `lanes` lanes. `arg` gives the value of an argument; only those that are used are asked for.
    pub fn emit_expr(
        &mut self,
        expr: &ScalarExpr,
        coords: &[Coord],
        lanes: u16,
        mut arg: impl FnMut(&mut Self, u32) -> Val,
    ) -> Val {
        let mut vals: Vec<Val> = Vec::with_capacity(expr.insts.len());
        for inst in &expr.insts {
            let at = |i: &u32| vals[*i as usize];
            let val = match inst {
                ScalarInst::Arg(n) => arg(self, *n),
                ScalarInst::Index(axis) => self.coord_lanes(coords[*axis as usize], lanes),
                ScalarInst::Const(c) => self.b.constant(*c, lanes),
                ScalarInst::Dim(d) => {
                    let d = self.dim(d);
                    let d = self.b.val(d);
                    self.b.splat(d, lanes)
                }
                ScalarInst::Unary(op, a) => self.b.unary(*op, at(a)),
                ScalarInst::Binary(op, a, b) => self.b.binary(*op, at(a), at(b)),
                ScalarInst::Compare(op, a, b) => self.b.compare(*op, at(a), at(b)),
                ScalarInst::MulAdd(a, b, c) => self.b.mul_add(at(a), at(b), at(c), FmaMode::Fused),
                ScalarInst::Select(c, a, b) => self.b.select(at(c), at(a), at(b)),
                ScalarInst::Cast(to, a) => self.b.cast(*to, at(a)),
                ScalarInst::Bitcast(to, a) => self.b.bitcast(*to, at(a)),
            };
            vals.push(val);
        }
        *vals.last().expect("expressions are not empty")
    }
}
