//! Symbolic dimensions: integer expressions over named symbols, kept in one canonical form.
//!
//! A [`Dim`] is a constant, or a polynomial with integer coefficients over *atoms*: symbols, `floordiv`, `mod`,
//! `min` and `max`. Every constructor returns the canonical form, so that structural equality (`==`, `Hash`, `Ord`)
//! recognises equal expressions wherever the rewrites of [`division`] and of polynomial arithmetic reach. Equal
//! forms are equal for all values of the symbols; different forms may still be equal.
//!
//! Rewrites *refine*: where the original expression is defined, the canonical form has the same value, and it may be
//! defined where the original divides by zero (`floordiv(b * n, n)` is `b`, also for `n = 0`).
//!
//! Invariant: no operation panics on any operand. Overflow of a coefficient, division by the constant zero, and
//! expressions beyond the size limits are a [`DimError`]; the limits also bound the recursion over nested atoms.

mod analysis;
mod division;
mod fold;
mod symbols;
#[cfg(test)]
mod tests;
mod text;

use smallvec::{SmallVec, smallvec};
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

pub use fold::DimFold;
pub use symbols::{DEFAULT_HIGH, Symbol, Symbols};
pub use text::{DimDisplay, ParseDimError};

/// Most atoms an expression may hold, nested ones included.
const MAX_SIZE: u32 = 1024;
/// Deepest nesting of atoms within atoms.
const MAX_DEPTH: u32 = 32;

/// Why an expression could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A coefficient or constant does not fit 64 bits.
    #[error("dimension arithmetic overflows 64 bits")]
    Overflow,
    /// The divisor is the constant zero.
    #[error("dimension divided by zero")]
    DivisionByZero,
    /// The expression is past the limits on size or nesting.
    #[error("dimension expression is too large")]
    TooComplex,
}

/// A dimension: a canonical integer expression over [`Symbol`]s. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

/// Invariant: `Poly` never holds a polynomial that is a constant.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    Poly(Arc<Poly>),
}

/// Terms in descending monomial order, no zero coefficient, no monomial twice; the constant term comes last.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Poly {
    terms: Vec<Term>,
    size: u32,
    depth: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    monomial: Monomial,
    coefficient: i64,
}

/// A product of atoms, sorted, powers as repetitions; empty for the constant term.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Monomial(SmallVec<[Atom; 2]>);

/// Graded lexicographic, larger monomials first: an order compatible with multiplication, as polynomial division
/// needs.
impl Ord for Monomial {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.len().cmp(&self.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Monomial {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What a polynomial is over. Only the constructors in [`division`] make the compound ones, in canonical form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Symbol(Symbol),
    FloorDiv(Dim, Dim),
    Modulo(Dim, Dim),
    Min(Arc<[Dim]>),
    Max(Arc<[Dim]>),
}

impl Atom {
    fn operands(&self) -> SmallVec<[&Dim; 2]> {
        match self {
            Atom::Symbol(_) => smallvec![],
            Atom::FloorDiv(a, b) | Atom::Modulo(a, b) => smallvec![a, b],
            Atom::Min(list) | Atom::Max(list) => list.iter().collect(),
        }
    }

    fn size(&self) -> u32 {
        self.operands().iter().fold(1, |size, dim| size.saturating_add(dim.size()))
    }

    fn depth(&self) -> u32 {
        1 + self.operands().iter().map(|dim| dim.depth()).max().unwrap_or(0)
    }
}

impl Monomial {
    /// The product of two monomials.
    fn times(&self, other: &Monomial) -> Monomial {
        let mut atoms: SmallVec<[Atom; 2]> = self.0.iter().chain(&other.0).cloned().collect();
        atoms.sort();
        Monomial(atoms)
    }

    /// `self / other` where it is a monomial.
    fn divided_by(&self, other: &Monomial) -> Option<Monomial> {
        let mut rest = self.0.clone();
        for atom in &other.0 {
            let at = rest.iter().position(|a| a == atom)?;
            rest.remove(at);
        }
        Some(Monomial(rest))
    }
}

impl Dim {
    /// The dimension 0.
    pub const ZERO: Dim = Dim::constant(0);
    /// The dimension 1.
    pub const ONE: Dim = Dim::constant(1);

    /// A constant.
    pub const fn constant(value: i64) -> Dim {
        Dim(Repr::Const(value))
    }

    /// The value of a symbol.
    pub fn symbol(symbol: Symbol) -> Dim {
        Dim::atom(Atom::Symbol(symbol)).expect("one symbol is within the limits")
    }

    /// The value, where the expression is a constant.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(value) => Some(value),
            Repr::Poly(_) => None,
        }
    }

    /// The symbol, where the expression is one symbol and nothing else.
    pub fn as_symbol(&self) -> Option<Symbol> {
        match self.as_single_atom() {
            Some(Atom::Symbol(symbol)) => Some(*symbol),
            _ => None,
        }
    }

    /// The product of many dimensions; 1 for none.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Result<Dim, DimError> {
        dims.into_iter().try_fold(Dim::ONE, |product, dim| &product * dim)
    }

    fn atom(atom: Atom) -> Result<Dim, DimError> {
        Dim::from_terms(vec![Term { monomial: Monomial(smallvec![atom]), coefficient: 1 }])
    }

    /// The atom, where the expression is one atom with coefficient 1.
    fn as_single_atom(&self) -> Option<&Atom> {
        match &self.0 {
            Repr::Poly(poly) => match poly.terms.as_slice() {
                [Term { monomial: Monomial(atoms), coefficient: 1 }] if atoms.len() == 1 => atoms.first(),
                _ => None,
            },
            Repr::Const(_) => None,
        }
    }

    /// How many atoms the expression holds, nested ones included.
    pub fn size(&self) -> u32 {
        match &self.0 {
            Repr::Const(_) => 0,
            Repr::Poly(poly) => poly.size,
        }
    }

    fn depth(&self) -> u32 {
        match &self.0 {
            Repr::Const(_) => 0,
            Repr::Poly(poly) => poly.depth,
        }
    }

    /// The terms, a constant other than zero being one of them.
    fn terms(&self) -> SmallVec<[Term; 4]> {
        match &self.0 {
            Repr::Const(0) => smallvec![],
            Repr::Const(value) => smallvec![Term { monomial: Monomial::default(), coefficient: *value }],
            Repr::Poly(poly) => poly.terms.iter().cloned().collect(),
        }
    }

    /// The canonical sum of terms in any order.
    fn from_terms(mut terms: Vec<Term>) -> Result<Dim, DimError> {
        terms.sort_by(|a, b| a.monomial.cmp(&b.monomial));
        let mut sums: Vec<(Monomial, i128)> = Vec::with_capacity(terms.len());
        for term in terms {
            match sums.last_mut() {
                Some((monomial, sum)) if *monomial == term.monomial => *sum += i128::from(term.coefficient),
                _ => sums.push((term.monomial, i128::from(term.coefficient))),
            }
        }
        let mut canonical = Vec::with_capacity(sums.len());
        let (mut size, mut depth) = (0u32, 0u32);
        for (monomial, sum) in sums {
            let coefficient = i64::try_from(sum).map_err(|_| DimError::Overflow)?;
            if coefficient != 0 {
                for atom in &monomial.0 {
                    size = size.saturating_add(atom.size());
                    depth = depth.max(atom.depth());
                }
                canonical.push(Term { monomial, coefficient });
            }
        }
        match canonical.as_slice() {
            [] => return Ok(Dim::ZERO),
            [term] if term.monomial.0.is_empty() => return Ok(Dim::constant(term.coefficient)),
            _ => {}
        }
        if size > MAX_SIZE || depth > MAX_DEPTH {
            return Err(DimError::TooComplex);
        }
        Ok(Dim(Repr::Poly(Arc::new(Poly { terms: canonical, size, depth }))))
    }

    /// The constant term and the other terms.
    fn split_constant(&self) -> (i64, Vec<Term>) {
        let mut terms = self.terms().into_vec();
        match terms.last() {
            Some(term) if term.monomial.0.is_empty() => {
                let constant = term.coefficient;
                terms.pop();
                (constant, terms)
            }
            _ => (0, terms),
        }
    }
}

impl Default for Dim {
    fn default() -> Dim {
        Dim::from(0)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Dim {
        Dim::constant(value)
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Dim {
        Dim::symbol(symbol)
    }
}

impl PartialEq<i64> for Dim {
    fn eq(&self, other: &i64) -> bool {
        self.as_const() == Some(*other)
    }
}

impl Add for &Dim {
    type Output = Result<Dim, DimError>;

    fn add(self, other: &Dim) -> Self::Output {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return a.checked_add(b).map(Dim::constant).ok_or(DimError::Overflow);
        }
        Dim::from_terms(self.terms().into_iter().chain(other.terms()).collect())
    }
}

impl Neg for &Dim {
    type Output = Result<Dim, DimError>;

    fn neg(self) -> Self::Output {
        self * &Dim::constant(-1)
    }
}

impl Sub for &Dim {
    type Output = Result<Dim, DimError>;

    fn sub(self, other: &Dim) -> Self::Output {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return a.checked_sub(b).map(Dim::constant).ok_or(DimError::Overflow);
        }
        self + &(-other)?
    }
}

impl Mul for &Dim {
    type Output = Result<Dim, DimError>;

    fn mul(self, other: &Dim) -> Self::Output {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return a.checked_mul(b).map(Dim::constant).ok_or(DimError::Overflow);
        }
        let (left, right) = (self.terms(), other.terms());
        if left.len() * right.len() > MAX_SIZE as usize {
            return Err(DimError::TooComplex);
        }
        let mut terms = Vec::with_capacity(left.len() * right.len());
        for a in &left {
            for b in &right {
                let coefficient = a.coefficient.checked_mul(b.coefficient).ok_or(DimError::Overflow)?;
                let monomial = a.monomial.times(&b.monomial);
                terms.push(Term { monomial, coefficient });
            }
        }
        Dim::from_terms(terms)
    }
}
