//! What is known of `i64` scalars while a kernel is emitted: bounds and a number that divides them. Bounds let divisions
//! run on 32 bits; divisors prove that an address is aligned for 16-byte accesses.

use onnxc_ir::scalar::BinaryOp;

/// Bounds, both included, and a divisor (0 for the number 0 itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    /// The least value.
    pub(super) low: i64,
    /// The greatest.
    pub(super) high: i64,
    /// Divides every value.
    pub(super) divisor: u64,
}

impl Default for Fact {
    fn default() -> Self {
        Fact { low: i64::MIN, high: i64::MAX, divisor: 1 }
    }
}

impl Fact {
    /// A number.
    pub(super) fn constant(value: i64) -> Fact {
        Fact { low: value, high: value, divisor: value.unsigned_abs() }
    }

    /// Any number from `low` to `high`.
    pub(super) fn range(low: i64, high: i64) -> Fact {
        Fact { low, high, divisor: 1 }
    }

    /// The number, if there is only one.
    pub(super) fn as_constant(self) -> Option<i64> {
        (self.low == self.high).then_some(self.low)
    }

    /// Whether the values are unsigned numbers of 32 bits.
    pub(super) fn is_u32(self) -> bool {
        self.low >= 0 && self.high <= i64::from(u32::MAX)
    }

    /// An induction variable's: from one of `lo` in steps to below one of `hi`.
    pub(super) fn induction(lo: Fact, hi: Fact, step: i64) -> Fact {
        Fact { low: lo.low, high: hi.high.saturating_sub(1).max(lo.low), divisor: gcd(lo.divisor, step.unsigned_abs()) }
    }

    /// The result of an operation whose operands have these facts. Wrapping makes everything unknown.
    pub(super) fn binary(op: BinaryOp, a: Fact, b: Fact) -> Fact {
        let bounds = |f: fn(i64, i64) -> Option<i64>| -> Option<(i64, i64)> {
            let all = [f(a.low, b.low)?, f(a.low, b.high)?, f(a.high, b.low)?, f(a.high, b.high)?];
            Some((*all.iter().min()?, *all.iter().max()?))
        };
        let of = |bounds: Option<(i64, i64)>, divisor: u64| match bounds {
            Some((low, high)) => Fact { low, high, divisor },
            // A power of two divides what is left of a number that wrapped.
            None => Fact {
                divisor: if divisor == 0 { 1 } else { 1 << divisor.trailing_zeros().min(62) },
                ..Fact::default()
            },
        };
        match op {
            BinaryOp::Add => of(bounds(i64::checked_add), gcd(a.divisor, b.divisor)),
            BinaryOp::Sub => {
                let bounds = a.low.checked_sub(b.high).zip(a.high.checked_sub(b.low));
                of(bounds, gcd(a.divisor, b.divisor))
            }
            BinaryOp::Mul => {
                let divisor = a.divisor.checked_mul(b.divisor).unwrap_or(a.divisor.max(b.divisor));
                of(bounds(i64::checked_mul), divisor)
            }
            BinaryOp::Min | BinaryOp::Max => {
                let pick: fn(i64, i64) -> i64 = if op == BinaryOp::Min { i64::min } else { i64::max };
                let divisor = gcd(a.divisor, b.divisor);
                Fact { low: pick(a.low, b.low), high: pick(a.high, b.high), divisor }
            }
            BinaryOp::Div => match b.as_constant() {
                Some(d) if d > 0 => {
                    let exact = a.divisor.is_multiple_of(d as u64);
                    let divisor = if exact { a.divisor / d as u64 } else { 1 };
                    Fact { low: a.low / d, high: a.high / d, divisor }
                }
                _ if a.low >= 0 && b.low >= 0 => Fact::range(0, a.high),
                _ => Fact::default(),
            },
            BinaryOp::Rem => match b.as_constant() {
                Some(d) if d > 0 && a.low >= 0 => {
                    Fact { low: 0, high: a.high.min(d - 1), divisor: gcd(a.divisor, d as u64) }
                }
                _ if a.low >= 0 && b.low >= 0 => Fact::range(0, a.high.min(b.high)),
                _ => Fact::default(),
            },
            _ => Fact::default(),
        }
    }
}

/// The greatest common divisor; that with 0 is the other number.
pub(super) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_divisors_follow_arithmetic() {
        let task = Fact::range(0, 99);
        let row = Fact::binary(BinaryOp::Mul, task, Fact::constant(48));
        assert_eq!(row, Fact { low: 0, high: 99 * 48, divisor: 48 });
        let half = Fact::binary(BinaryOp::Div, row, Fact::constant(16));
        assert_eq!(half, Fact { low: 0, high: 297, divisor: 3 });
        let rest = Fact::binary(BinaryOp::Rem, row, Fact::constant(64));
        assert_eq!(rest, Fact { low: 0, high: 63, divisor: 16 });
        let wrapped = Fact::binary(BinaryOp::Mul, Fact::range(0, i64::MAX), Fact::constant(48));
        assert_eq!(wrapped, Fact { divisor: 16, ..Fact::default() });
        assert_eq!(Fact::induction(Fact::constant(0), Fact::constant(100), 8), Fact { low: 0, high: 99, divisor: 8 });
    }
}
