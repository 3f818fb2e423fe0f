//! Arithmetic on indices, most of which is done while a kernel is built.

use super::super::{Address, INDEX, InstData, Stride, Val};
use super::KernelBuilder;
use crate::scalar::{BinaryOp, CmpOp};

/// An index that may be known: the operand of index arithmetic and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// A constant.
    Const(i64),
    /// An `i64` scalar.
    Val(Val),
}

impl From<i64> for Index {
    fn from(i: i64) -> Index {
        Index::Const(i)
    }
}

impl From<Val> for Index {
    fn from(v: Val) -> Index {
        Index::Val(v)
    }
}

impl Index {
    /// The constant, if it is one.
    pub fn as_const(self) -> Option<i64> {
        match self {
            Index::Const(c) => Some(c),
            Index::Val(_) => None,
        }
    }
}

impl KernelBuilder {
    /// The index as a value.
    pub fn val(&mut self, index: Index) -> Val {
        match index {
            Index::Const(c) => self.i64(c),
            Index::Val(v) => v,
        }
    }

    /// The value as an index; a constant where it is one.
    pub fn index(&self, val: Val) -> Index {
        self.known[val].map_or(Index::Val(val), Index::Const)
    }

    /// `op(a, b)` on indices, folded if both are constants or one is neutral. Division is of indices that are not negative.
    pub fn index_op(&mut self, op: BinaryOp, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        use BinaryOp::*;
        let (a, b) = (a.into(), b.into());
        let fold = |i: Index| match i {
            Index::Val(v) => self.index(v),
            c => c,
        };
        let (a, b) = (fold(a), fold(b));
        match (op, a, b) {
            (_, Index::Const(x), Index::Const(y)) => {
                let folded = match op {
                    Add => x.checked_add(y),
                    Sub => x.checked_sub(y),
                    Mul => x.checked_mul(y),
                    Div if y != 0 => x.checked_div(y),
                    Rem if y != 0 => x.checked_rem(y),
                    Min => Some(x.min(y)),
                    Max => Some(x.max(y)),
                    _ => None,
                };
                if let Some(c) = folded {
                    return Index::Const(c);
                }
            }
            (Add, x, Index::Const(0)) | (Add, Index::Const(0), x) | (Sub, x, Index::Const(0)) => return x,
            (Mul, x, Index::Const(1)) | (Mul, Index::Const(1), x) | (Div, x, Index::Const(1)) => return x,
            (Mul, _, Index::Const(0)) | (Mul, Index::Const(0), _) | (Rem, _, Index::Const(1)) => {
                return Index::Const(0);
            }
            _ => {}
        }
        // `(x * c * d + e) / d` is `x * c + e / d`, since indices are not negative.
        if let (Div | Rem, Index::Val(x), Index::Const(d)) = (op, a, b)
            && let Some((quotient, e)) = self.as_multiple(x, d)
        {
            return if op == Div { self.index_op(Add, quotient, e / d) } else { Index::Const(e % d) };
        }
        // `(x + c) * d` is `x * d + c * d`: the constant stays in sight of addresses.
        if let (Mul, Index::Val(x), Index::Const(d)) | (Mul, Index::Const(d), Index::Val(x)) = (op, a, b)
            && let Some((base, c)) = self.sums[x]
            && let Some(c) = c.checked_mul(d)
        {
            let scaled = self.index_op(Mul, base, d);
            return self.index_op(Add, scaled, c);
        }
        let sum = match (op, a, b) {
            (Add, Index::Val(x), Index::Const(c)) | (Add, Index::Const(c), Index::Val(x)) => Some((x, c)),
            (Sub, Index::Val(x), Index::Const(c)) => c.checked_neg().map(|c| (x, c)),
            _ => None,
        };
        let sum = sum.and_then(|(x, c)| match self.sums[x] {
            None => Some((x, c)),
            Some((base, d)) => c.checked_add(d).map(|c| (base, c)),
        });
        if let Some((base, 0)) = sum {
            return Index::Val(base);
        }
        let (op, a, b) = match sum {
            Some((base, c)) => (Add, base, self.i64(c)),
            None => (op, self.val(a), self.val(b)),
        };
        if let Some(&val) = self.index_cache.iter().rev().find_map(|block| block.get(&(op, a, b))) {
            return Index::Val(val);
        }
        let val = self.emit_pure(InstData::Binary(op, a, b), INDEX);
        self.sums[val] = sum;
        self.products[val] = match (op, self.known[a], self.known[b]) {
            (Mul, None, Some(c)) => Some((a, c)),
            (Mul, Some(c), None) => Some((b, c)),
            _ => None,
        };
        self.index_cache[self.depths[val] as usize].insert((op, a, b), val);
        Index::Val(val)
    }

    /// `value` as `x * c * d + e`, if it is such a sum with `e` not negative: gives `(x * c, e)`.
    fn as_multiple(&mut self, value: Val, d: i64) -> Option<(Index, i64)> {
        let (base, e) = self.sums[value].unwrap_or((value, 0));
        let (x, c) = self.products[base]?;
        if d <= 0 || c % d != 0 || e < 0 {
            return None;
        }
        Some((self.index_op(BinaryOp::Mul, x, c / d), e))
    }

    /// `a + b`.
    pub fn iadd(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Add, a, b)
    }

    /// `a - b`.
    pub fn isub(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Sub, a, b)
    }

    /// `a * b`.
    pub fn imul(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Mul, a, b)
    }

    /// `a / b` truncated; for operands that are not negative, rounded down.
    pub fn idiv(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Div, a, b)
    }

    /// Remainder of [`KernelBuilder::idiv`].
    pub fn irem(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Rem, a, b)
    }

    /// The lesser.
    pub fn imin(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Min, a, b)
    }

    /// The greater.
    pub fn imax(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Max, a, b)
    }

    /// `address + index * stride`, folded into the offset where both are constants.
    pub fn advance(&mut self, address: Address, index: impl Into<Index>, stride: impl Into<Index>) -> Address {
        let fold = |i: Index| match i {
            Index::Val(v) => self.index(v),
            c => c,
        };
        match (fold(index.into()), fold(stride.into())) {
            (Index::Const(i), Index::Const(s)) => address.offset_by(i * s),
            (Index::Val(v), Index::Const(s)) | (Index::Const(s), Index::Val(v)) => match self.sums[v] {
                Some((base, c)) => address.plus(base, Stride::Const(s)).offset_by(c * s),
                None => address.plus(v, Stride::Const(s)),
            },
            (Index::Val(v), Index::Val(s)) => {
                if address.terms.iter().any(|(t, _)| *t == v) {
                    let product = self.imul(v, s);
                    let product = self.val(product);
                    address.plus(product, Stride::Const(1))
                } else {
                    address.plus(v, Stride::Value(s))
                }
            }
        }
    }

    /// `a op b` on indices, a `Bool` scalar.
    pub fn index_compare(&mut self, op: CmpOp, a: impl Into<Index>, b: impl Into<Index>) -> Val {
        let (a, b) = (self.val(a.into()), self.val(b.into()));
        self.compare(op, a, b)
    }
}
