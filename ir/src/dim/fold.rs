//! Folds an expression into something else: code that computes it, a printed form, an interval.

use super::{Atom, Dim, Repr, Symbol, Term};

/// What becomes of each part of an expression.
pub trait DimFold {
    /// The result of a part.
    type Value;

    /// A constant.
    fn constant(&mut self, value: i64) -> Self::Value;
    /// A symbol.
    fn symbol(&mut self, symbol: Symbol) -> Self::Value;
    /// `a + b`.
    fn add(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a * b`.
    fn mul(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a / b`, rounded down.
    fn floor_div(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a - b * (a / b)`, with the division rounded down.
    fn modulo(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// The lesser.
    fn min(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// The greater.
    fn max(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
}

impl Dim {
    /// Folds the expression from its parts.
    pub fn fold<F: DimFold>(&self, f: &mut F) -> F::Value {
        let poly = match &self.0 {
            Repr::Const(value) => return f.constant(*value),
            Repr::Poly(poly) => poly,
        };
        let mut sum = None;
        for Term { monomial, coefficient } in &poly.terms {
            let mut product = None;
            for atom in &monomial.0 {
                let value = atom.fold(f);
                product = Some(match product {
                    None => value,
                    Some(before) => f.mul(before, value),
                });
            }
            let term = match product {
                None => f.constant(*coefficient),
                Some(value) if *coefficient == 1 => value,
                Some(value) => {
                    let factor = f.constant(*coefficient);
                    f.mul(value, factor)
                }
            };
            sum = Some(match sum {
                None => term,
                Some(before) => f.add(before, term),
            });
        }
        sum.expect("a polynomial has a term")
    }
}

impl Atom {
    fn fold<F: DimFold>(&self, f: &mut F) -> F::Value {
        match self {
            Atom::Symbol(symbol) => f.symbol(*symbol),
            Atom::FloorDiv(a, b) | Atom::Modulo(a, b) => {
                let (x, y) = (a.fold(f), b.fold(f));
                if matches!(self, Atom::FloorDiv(..)) { f.floor_div(x, y) } else { f.modulo(x, y) }
            }
            Atom::Min(list) | Atom::Max(list) => {
                let mut values = list.iter();
                let mut held = values.next().expect("a list of operands is not empty").fold(f);
                for dim in values {
                    let value = dim.fold(f);
                    held = if matches!(self, Atom::Min(_)) { f.min(held, value) } else { f.max(held, value) };
                }
                held
            }
        }
    }
}
