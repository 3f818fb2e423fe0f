//! Constructors of the compound atoms: quotients rounded down, remainders, minima and maxima.
//!
//! Division rounds towards minus infinity and a remainder has the sign of the divisor, so that
//! `a == b * floordiv(a, b) + mod(a, b)` for every `b` other than zero. Each constructor rewrites its operands until
//! no rule applies and only then makes an atom: rebuilding an atom from its operands gives the same atom.

use super::{Atom, Dim, DimError, MAX_SIZE, Monomial, Repr, Term};
use std::cmp::Ordering;
use std::sync::Arc;

/// `a / b` rounded towards minus infinity, for `b` other than zero. The one overflow is `MIN / -1`.
pub(super) fn floor_quotient(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn narrow(value: i128) -> Result<i64, DimError> {
    i64::try_from(value).map_err(|_| DimError::Overflow)
}

fn constant_term(value: i64) -> Term {
    Term { monomial: Monomial::default(), coefficient: value }
}

/// `a` taken apart against a divisor: `a == quotient * divisor + rest`, identically in the symbols.
struct Split {
    quotient: Dim,
    rest: Dim,
}

/// Takes out of `a` what `b` divides identically. For a one-term `b` that works term by term (and coefficient by
/// coefficient where `b` is a constant); for a sum only where the whole of `a` is a multiple.
fn split(a: &Dim, b: &Dim) -> Result<Split, DimError> {
    let divisor = b.terms();
    let [by] = divisor.as_slice() else {
        return Ok(match a.exact_div(b) {
            Some(quotient) => Split { quotient, rest: Dim::ZERO },
            None => Split { quotient: Dim::ZERO, rest: a.clone() },
        });
    };
    let (mut quotient, mut rest) = (Vec::new(), Vec::new());
    for term in a.terms() {
        let Some(monomial) = term.monomial.divided_by(&by.monomial) else {
            rest.push(term);
            continue;
        };
        let (coefficient, divisor) = (i128::from(term.coefficient), i128::from(by.coefficient));
        // The constant is left in 0..b, so that `n - 1` and `n + 3` over 4 meet; other terms keep their sign.
        let whole =
            if term.monomial.0.is_empty() { floor_quotient(coefficient, divisor) } else { coefficient / divisor };
        quotient.push(Term { monomial, coefficient: narrow(whole)? });
        rest.push(Term { monomial: term.monomial, coefficient: narrow(coefficient - whole * divisor)? });
    }
    Ok(Split { quotient: Dim::from_terms(quotient)?, rest: Dim::from_terms(rest)? })
}

impl Dim {
    /// `self / divisor` rounded towards minus infinity.
    pub fn floor_div(&self, divisor: &Dim) -> Result<Dim, DimError> {
        if let Some(by) = divisor.as_const() {
            if by == 0 {
                return Err(DimError::DivisionByZero);
            }
            if let Some(value) = self.as_const() {
                return narrow(floor_quotient(value.into(), by.into())).map(Dim::constant);
            }
            if by < 0 {
                return (-self)?.floor_div(&(-divisor)?);
            }
        }
        let Split { quotient, rest } = split(self, divisor)?;
        if rest == Dim::ZERO {
            return Ok(quotient);
        }
        let inner = match divisor.as_const() {
            Some(by) => rest.floor_div_constant(by)?,
            None => {
                let (rest, divisor, factor) = rest.cancel_common_factor(divisor)?;
                if factor == Dim::ONE { Dim::atom(Atom::FloorDiv(rest, divisor))? } else { rest.floor_div(&divisor)? }
            }
        };
        &quotient + &inner
    }

    /// `floor_div` by a positive constant, of an expression whose coefficients are already below it.
    fn floor_div_constant(&self, by: i64) -> Result<Dim, DimError> {
        let (constant, terms) = self.split_constant();
        // floor((g x + c) / (g d)) == floor((x + floor(c / g)) / d)
        let common = terms.iter().fold(by.unsigned_abs(), |g, term| gcd(g, term.coefficient.unsigned_abs()));
        if common > 1 {
            let common = narrow(common.into())?;
            let mut reduced: Vec<Term> =
                terms.into_iter().map(|term| Term { coefficient: term.coefficient / common, ..term }).collect();
            reduced.push(constant_term(constant.div_euclid(common)));
            return Dim::from_terms(reduced)?.floor_div(&Dim::constant(by / common));
        }
        // floor((floor(x / d) + c) / b) == floor((x + c d) / (b d)) for a positive b
        if let [Term { monomial: Monomial(atoms), coefficient: 1 }] = terms.as_slice()
            && let [Atom::FloorDiv(inner, inner_by)] = atoms.as_slice()
            && let Some(inner_by) = inner_by.as_const()
            && let (Some(shift), Some(product)) = (constant.checked_mul(inner_by), by.checked_mul(inner_by))
        {
            return (inner + &Dim::constant(shift))?.floor_div(&Dim::constant(product));
        }
        Dim::atom(Atom::FloorDiv(self.clone(), Dim::constant(by)))
    }

    /// Divides both by the greatest monomial with a positive coefficient that divides every term of both, which is
    /// the third result. Quotients do not change by it and remainders scale with it.
    fn cancel_common_factor(&self, divisor: &Dim) -> Result<(Dim, Dim, Dim), DimError> {
        let all: Vec<Term> = self.terms().into_iter().chain(divisor.terms()).collect();
        let common = all.iter().fold(0, |g, term| gcd(g, term.coefficient.unsigned_abs()));
        // `MIN` alone has a magnitude that is no coefficient.
        let common = i64::try_from(common).unwrap_or(1);
        let mut factor = all.first().map(|term| term.monomial.clone()).unwrap_or_default();
        for term in &all {
            let mut left = term.monomial.0.clone();
            factor.0.retain(|atom| match left.iter().position(|other| other == atom) {
                Some(at) => {
                    left.remove(at);
                    true
                }
                None => false,
            });
        }
        let reduce = |dim: &Dim| {
            let terms = dim.terms().into_iter().filter_map(|term| {
                let monomial = term.monomial.divided_by(&factor)?;
                Some(Term { monomial, coefficient: term.coefficient / common })
            });
            Dim::from_terms(terms.collect())
        };
        let (rest, by) = (reduce(self)?, reduce(divisor)?);
        Ok((rest, by, Dim::from_terms(vec![Term { monomial: factor, coefficient: common }])?))
    }

    /// `self / divisor` rounded towards plus infinity.
    pub fn ceil_div(&self, divisor: &Dim) -> Result<Dim, DimError> {
        match divisor.as_const() {
            Some(by) if by > 0 => (self + &Dim::constant(by - 1))?.floor_div(divisor),
            _ => -&(-self)?.floor_div(divisor)?,
        }
    }

    /// The remainder of [`Dim::floor_div`]: zero, or of the divisor's sign.
    pub fn modulo(&self, divisor: &Dim) -> Result<Dim, DimError> {
        if let Some(by) = divisor.as_const() {
            if by == 0 {
                return Err(DimError::DivisionByZero);
            }
            if by < 0 {
                return -&(-self)?.modulo(&(-divisor)?)?;
            }
        }
        let rest = split(self, divisor)?.rest;
        let Some(by) = divisor.as_const() else {
            if rest == Dim::ZERO {
                return Ok(rest);
            }
            let (rest, divisor, factor) = rest.cancel_common_factor(divisor)?;
            if factor == Dim::ONE {
                return Dim::atom(Atom::Modulo(rest, divisor));
            }
            return &factor * &rest.modulo(&divisor)?;
        };
        if rest.as_const().is_some() {
            return Ok(rest);
        }
        let (constant, terms) = rest.split_constant();
        // mod(g x + g c + e, g d) == g mod(x + c, d) + e, for 0 <= e < g
        let common = terms.iter().fold(by.unsigned_abs(), |g, term| gcd(g, term.coefficient.unsigned_abs()));
        if common > 1 {
            let common = narrow(common.into())?;
            let mut reduced: Vec<Term> =
                terms.into_iter().map(|term| Term { coefficient: term.coefficient / common, ..term }).collect();
            reduced.push(constant_term(constant.div_euclid(common)));
            let inner = Dim::from_terms(reduced)?.modulo(&Dim::constant(by / common))?;
            return &(&Dim::constant(common) * &inner)? + &Dim::constant(constant.rem_euclid(common));
        }
        if let Some(Atom::Modulo(inner, inner_by)) = rest.as_single_atom()
            && let Some(inner_by) = inner_by.as_const()
        {
            if by % inner_by == 0 {
                return Ok(rest);
            }
            if inner_by % by == 0 {
                return inner.modulo(divisor);
            }
        }
        Dim::atom(Atom::Modulo(rest, Dim::constant(by)))
    }

    /// Both without the greatest number that divides them identically: `24 n` and `48` become `n` and `2`.
    pub fn without_common_number(&self, other: &Dim) -> (Dim, Dim) {
        let terms = self.terms().into_iter().chain(other.terms());
        let common = terms.fold(0, |g, term| gcd(g, term.coefficient.unsigned_abs()));
        let common = Dim::constant(i64::try_from(common).unwrap_or(1).max(1));
        let divided = |dim: &Dim| dim.exact_div(&common);
        divided(self).zip(divided(other)).unwrap_or_else(|| (self.clone(), other.clone()))
    }

    /// The quotient, where `divisor` divides identically in all symbols: `(n + 1) * c` by `n + 1`.
    pub fn exact_div(&self, divisor: &Dim) -> Option<Dim> {
        let divisor_terms = divisor.terms();
        let leading = divisor_terms.first()?;
        let (mut rest, mut quotient) = (self.clone(), Vec::new());
        // Each step removes the leading term, so only a hostile pair of operands takes many.
        for _ in 0..MAX_SIZE {
            let terms = rest.terms();
            let Some(term) = terms.first() else {
                return Dim::from_terms(quotient).ok();
            };
            let monomial = term.monomial.divided_by(&leading.monomial)?;
            if term.coefficient.checked_rem(leading.coefficient)? != 0 {
                return None;
            }
            let step = Term { monomial, coefficient: term.coefficient.checked_div(leading.coefficient)? };
            let product = (&Dim::from_terms(vec![step.clone()]).ok()? * divisor).ok()?;
            rest = (&rest - &product).ok()?;
            quotient.push(step);
        }
        None
    }

    /// The smaller of two.
    pub fn minimum(&self, other: &Dim) -> Result<Dim, DimError> {
        self.select(other, Ordering::Less)
    }

    /// The larger of two.
    pub fn maximum(&self, other: &Dim) -> Result<Dim, DimError> {
        self.select(other, Ordering::Greater)
    }

    /// A sum that is at least as great as either, where nothing that both are made of is negative: of each product the greater
    /// multiple.
    pub fn covering(&self, other: &Dim) -> Result<Dim, DimError> {
        let mut terms = self.terms().into_vec();
        for term in other.terms() {
            match terms.iter_mut().find(|mine| mine.monomial == term.monomial) {
                Some(mine) => mine.coefficient = mine.coefficient.max(term.coefficient),
                None => terms.push(term),
            }
        }
        Dim::from_terms(terms)
    }

    fn select(&self, other: &Dim, keep: Ordering) -> Result<Dim, DimError> {
        let mut kept: Vec<Dim> = Vec::new();
        for candidate in self.alternatives(keep).iter().chain(other.alternatives(keep)) {
            // A candidate that a kept one always beats or equals goes, and the reverse.
            let against = |other: &Dim| (candidate - other).ok().and_then(|d| d.as_const()).map(|d| d.cmp(&0));
            if kept.iter().any(|other| against(other).is_some_and(|order| order != keep)) {
                continue;
            }
            kept.retain(|other| against(other) != Some(keep));
            kept.push(candidate.clone());
        }
        kept.sort();
        match kept.as_slice() {
            [one] => Ok(one.clone()),
            _ if keep == Ordering::Less => Dim::atom(Atom::Min(Arc::from(kept))),
            _ => Dim::atom(Atom::Max(Arc::from(kept))),
        }
    }

    /// The operands of a nested atom of the same kind, or the expression itself.
    fn alternatives(&self, keep: Ordering) -> &[Dim] {
        match (&self.0, self.as_single_atom(), keep) {
            (Repr::Poly(_), Some(Atom::Min(list)), Ordering::Less) => list,
            (Repr::Poly(_), Some(Atom::Max(list)), Ordering::Greater) => list,
            _ => std::slice::from_ref(self),
        }
    }
}
