//! What an expression says about values: evaluation, bounds, substitution, the symbols it mentions.

use super::division::floor_quotient;
use super::{Atom, Dim, DimError, Repr, Symbol, Symbols, Term};
use std::collections::BTreeSet;

/// Inclusive, in a width where one product of two 64-bit bounds cannot overflow.
type Interval = (i128, i128);

fn clamp(value: i128) -> i128 {
    value.clamp(i64::MIN.into(), i64::MAX.into())
}

/// The interval around some values, clamped to 64 bits.
fn hull(values: &[i128]) -> Interval {
    let low = values.iter().copied().min().unwrap_or(i64::MIN.into());
    let high = values.iter().copied().max().unwrap_or(i64::MAX.into());
    (clamp(low), clamp(high))
}

fn product(a: Interval, b: Interval) -> Interval {
    hull(&[a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1])
}

fn quotient(a: Interval, b: Interval) -> Interval {
    // Over divisors of one sign the quotient is monotone in each operand, so its extremes are at the corners.
    let mut corners = Vec::with_capacity(8);
    for (low, high) in [(b.0, b.1.min(-1)), (b.0.max(1), b.1)] {
        if low <= high {
            for value in [a.0, a.1] {
                corners.extend([floor_quotient(value, low), floor_quotient(value, high)]);
            }
        }
    }
    hull(&corners)
}

fn remainder(a: Interval, b: Interval) -> Interval {
    if b.0 > 0 && a.0 >= 0 && a.1 < b.0 {
        return a;
    }
    let high = if a.0 >= 0 && b.0 >= 0 { a.1.min(b.1 - 1) } else { b.1 - 1 };
    ((b.0 + 1).min(0), high.max(0))
}

impl Dim {
    /// The value for given values of the symbols. None where it divides by zero or does not fit 64 bits.
    pub fn eval(&self, value_of: impl Fn(Symbol) -> i64) -> Option<i64> {
        self.eval_wide(&value_of).and_then(|value| i64::try_from(value).ok())
    }

    fn eval_wide(&self, value_of: &dyn Fn(Symbol) -> i64) -> Option<i128> {
        let poly = match &self.0 {
            Repr::Const(value) => return Some((*value).into()),
            Repr::Poly(poly) => poly,
        };
        let mut sum = 0i128;
        for Term { monomial, coefficient } in &poly.terms {
            let mut value = i128::from(*coefficient);
            for atom in &monomial.0 {
                value = value.checked_mul(atom.eval(value_of)?)?;
            }
            sum = sum.checked_add(value)?;
        }
        Some(sum)
    }

    /// Inclusive bounds of the value, from the bounds of the symbols, clamped to 64 bits. They hold for every value
    /// of the symbols that the table allows, and need not be tight.
    pub fn bounds(&self, symbols: &Symbols) -> (i64, i64) {
        let (low, high) = self.interval(symbols);
        // `hull` has clamped both, so that neither conversion saturates.
        (i64::try_from(low).unwrap_or(i64::MIN), i64::try_from(high).unwrap_or(i64::MAX))
    }

    /// Whether the value is at least 0 for all values of the symbols, as far as bounds tell: its own, or, where it holds
    /// minima and maxima, those of what they may be.
    pub fn is_never_negative(&self, symbols: &Symbols) -> bool {
        /// Each decision about a maximum doubles the work at least.
        const DECISIONS: u32 = 4;
        self.never_negative(symbols, DECISIONS)
    }

    fn never_negative(&self, symbols: &Symbols, decisions: u32) -> bool {
        if self.bounds(symbols).0 >= 0 {
            return true;
        }
        let Repr::Poly(poly) = &self.0 else { return false };
        let choice = poly.terms.iter().find_map(|term| match &term.monomial.0[..] {
            [Atom::Max(list)] => Some((term, list, term.coefficient > 0)),
            [Atom::Min(list)] => Some((term, list, term.coefficient < 0)),
            _ => None,
        });
        let Some((term, list, one_suffices)) = choice.filter(|_| decisions > 0) else { return false };
        let chosen = |operand: &Dim| {
            let others = poly.terms.iter().filter(|t| t.monomial != term.monomial).cloned().collect();
            let value = operand * &Dim::constant(term.coefficient);
            let sum = Dim::from_terms(others).and_then(|others| &others + &value?);
            sum.is_ok_and(|sum| sum.never_negative(symbols, decisions - 1))
        };
        // A maximum is at least each of its operands, and it is one of them.
        if one_suffices { list.iter().any(chosen) } else { list.iter().all(chosen) }
    }

    fn interval(&self, symbols: &Symbols) -> Interval {
        let poly = match &self.0 {
            Repr::Const(value) => return ((*value).into(), (*value).into()),
            Repr::Poly(poly) => poly,
        };
        let mut sum: Interval = (0, 0);
        for Term { monomial, coefficient } in &poly.terms {
            let start = i128::from(*coefficient);
            let bounds = monomial.0.iter().fold((start, start), |acc, atom| product(acc, atom.interval(symbols)));
            sum = (sum.0 + bounds.0, sum.1 + bounds.1);
        }
        (clamp(sum.0), clamp(sum.1))
    }

    /// The expression with symbols replaced; a symbol for which `replace` has nothing stays.
    pub fn substitute(&self, replace: impl Fn(Symbol) -> Option<Dim>) -> Result<Dim, DimError> {
        self.substitute_with(&replace)
    }

    fn substitute_with(&self, replace: &dyn Fn(Symbol) -> Option<Dim>) -> Result<Dim, DimError> {
        let poly = match &self.0 {
            Repr::Const(_) => return Ok(self.clone()),
            Repr::Poly(poly) => poly,
        };
        let mut sum = Dim::ZERO;
        for Term { monomial, coefficient } in &poly.terms {
            let mut value = Dim::constant(*coefficient);
            for atom in &monomial.0 {
                value = (&value * &atom.substitute(replace)?)?;
            }
            sum = (&sum + &value)?;
        }
        Ok(sum)
    }

    /// The symbols that the expression mentions, each once, in order of their handles.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol> {
        let mut found = BTreeSet::new();
        self.collect_symbols(&mut found);
        found.into_iter()
    }

    fn collect_symbols(&self, found: &mut BTreeSet<Symbol>) {
        let Repr::Poly(poly) = &self.0 else { return };
        for atom in poly.terms.iter().flat_map(|term| &term.monomial.0) {
            if let Atom::Symbol(symbol) = atom {
                found.insert(*symbol);
            }
            for operand in atom.operands() {
                operand.collect_symbols(found);
            }
        }
    }
}

impl Atom {
    fn eval(&self, value_of: &dyn Fn(Symbol) -> i64) -> Option<i128> {
        match self {
            Atom::Symbol(symbol) => Some(value_of(*symbol).into()),
            Atom::FloorDiv(a, b) | Atom::Modulo(a, b) => {
                let (a, b) = (a.eval_wide(value_of)?, b.eval_wide(value_of)?);
                if b == 0 || (a == i128::MIN && b == -1) {
                    return None;
                }
                let quotient = floor_quotient(a, b);
                Some(if matches!(self, Atom::FloorDiv(..)) { quotient } else { a - quotient * b })
            }
            Atom::Min(list) | Atom::Max(list) => {
                let values: Option<Vec<i128>> = list.iter().map(|dim| dim.eval_wide(value_of)).collect();
                if matches!(self, Atom::Min(_)) { values?.into_iter().min() } else { values?.into_iter().max() }
            }
        }
    }

    fn interval(&self, symbols: &Symbols) -> Interval {
        match self {
            Atom::Symbol(symbol) => {
                let (low, high) = symbols.bounds(*symbol);
                (low.into(), high.into())
            }
            Atom::FloorDiv(a, b) => quotient(a.interval(symbols), b.interval(symbols)),
            Atom::Modulo(a, b) => remainder(a.interval(symbols), b.interval(symbols)),
            Atom::Min(list) | Atom::Max(list) => {
                let bounds: Vec<Interval> = list.iter().map(|dim| dim.interval(symbols)).collect();
                let (lows, highs) = (bounds.iter().map(|b| b.0), bounds.iter().map(|b| b.1));
                let ends = if matches!(self, Atom::Min(_)) {
                    lows.min().zip(highs.min())
                } else {
                    lows.max().zip(highs.max())
                };
                ends.unwrap_or(hull(&[]))
            }
        }
    }

    fn substitute(&self, replace: &dyn Fn(Symbol) -> Option<Dim>) -> Result<Dim, DimError> {
        match self {
            Atom::Symbol(symbol) => Ok(replace(*symbol).unwrap_or_else(|| Dim::symbol(*symbol))),
            Atom::FloorDiv(a, b) => a.substitute_with(replace)?.floor_div(&b.substitute_with(replace)?),
            Atom::Modulo(a, b) => a.substitute_with(replace)?.modulo(&b.substitute_with(replace)?),
            Atom::Min(list) | Atom::Max(list) => {
                let mut operands = list.iter().map(|dim| dim.substitute_with(replace));
                let first = operands.next().expect("a minimum has operands")?;
                operands.try_fold(first, |best, dim| match self {
                    Atom::Min(_) => best.minimum(&dim?),
                    _ => best.maximum(&dim?),
                })
            }
        }
    }
}
