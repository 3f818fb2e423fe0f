//! `cvt`: conversions between all types, with PTX's roundings, clamping and NaN rules.

use crate::types::{Float, Ty, half_to_f32};

/// Direction of a rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rounding {
    /// To nearest, ties to even: `.rn`, `.rni`.
    Near,
    /// Toward zero: `.rz`, `.rzi`.
    Zero,
    /// Down: `.rm`, `.rmi`.
    Down,
    /// Up: `.rp`, `.rpi`.
    Up,
    /// To nearest, ties away from zero: `.rna`.
    Away,
}

/// A binary format: stored mantissa bits and exponent bits.
#[derive(Clone, Copy)]
pub struct Format {
    mantissa: i32,
    exponent: i32,
}

/// binary16.
pub const HALF: Format = Format { mantissa: 10, exponent: 5 };
/// bfloat16.
pub const BRAIN: Format = Format { mantissa: 7, exponent: 8 };
/// TF32, whose 19 bits are the top of an f32.
pub const TENSOR: Format = Format { mantissa: 10, exponent: 8 };
/// binary32.
pub const SINGLE: Format = Format { mantissa: 23, exponent: 8 };

fn round(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Near => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
        Rounding::Away => value.round(),
    }
}

fn power(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// The bits of a value in a format of up to 32 bits, rounded once. NaN is the format's canonical one.
pub fn encode(value: f64, format: Format, rounding: Rounding) -> u32 {
    let bias = (1 << (format.exponent - 1)) - 1;
    let sign = u32::from(value.is_sign_negative()) << (format.mantissa + format.exponent);
    let infinity = ((1u32 << format.exponent) - 1) << format.mantissa;
    if value.is_nan() {
        return (1u32 << (format.mantissa + format.exponent)) - 1;
    }
    if value.is_infinite() {
        return sign | infinity;
    }
    let exponent = ((value.to_bits() >> 52 & 0x7FF) as i32 - 1023).max(1 - bias);
    // Scaling by powers of two is exact, so this rounds once. A carry moves into the exponent by itself.
    let steps = round(value * power(format.mantissa - exponent), rounding).abs() as u64;
    let first = 1u64 << format.mantissa;
    let bits = if steps < first { steps } else { (((exponent + bias - 1) as u64) << format.mantissa) + steps };
    if bits < u64::from(infinity) {
        return sign | bits as u32;
    }
    let stays = match rounding {
        Rounding::Near | Rounding::Away => false,
        Rounding::Zero => true,
        Rounding::Down => sign == 0,
        Rounding::Up => sign != 0,
    };
    sign | (infinity - u32::from(stays))
}

/// `value + error` rounded to f32 in a direction, where `error` is what f64 could not hold.
pub fn single_with_error(value: f64, error: f64, rounding: Rounding) -> f32 {
    // A nudge by the last bit of f64 keeps the sign of the error, which is all that a directed rounding looks at.
    let nudged = match error.partial_cmp(&0.0) {
        Some(std::cmp::Ordering::Greater) => value.next_up(),
        Some(std::cmp::Ordering::Less) => value.next_down(),
        _ => value,
    };
    f32::from_bits(encode(nudged, SINGLE, rounding))
}

/// One conversion.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    pub to: Ty,
    pub from: Ty,
    /// To the target's precision, or to an integral value.
    pub rounding: Rounding,
    /// `.rni` and its like: the result is integral.
    pub integral: bool,
    pub saturate: bool,
    pub flush: bool,
    pub relu: bool,
}

enum Number {
    Int(i128),
    Real(f64),
}

impl Conversion {
    /// Converts one lane.
    pub fn apply(&self, lane: u64) -> u64 {
        match self.read(lane) {
            Number::Int(n) if !self.to.float() => {
                let n = if self.saturate { n.clamp(range(self.to).0, range(self.to).1) } else { n };
                n as u64
            }
            Number::Int(n) => {
                // More than 60 bits would round twice on the way through f64: a sticky bit stands for the lowest.
                let narrow = self.to != Ty::F64 && n.unsigned_abs() >= 1 << 53;
                let n = if narrow { (n >> 12 | i128::from(n & 0xFFF != 0)) << 12 } else { n };
                if self.to == Ty::F64 && self.rounding == Rounding::Near {
                    return (n as f64).to_bits();
                }
                self.write(n as f64)
            }
            Number::Real(x) if !self.to.float() => {
                let (low, high) = range(self.to);
                if x.is_nan() {
                    let wide = self.from == Ty::F64 || matches!(self.to, Ty::S64 | Ty::U64);
                    return if wide { 1 << (8 * self.to.bytes() - 1) } else { 0 };
                }
                (round(x, self.rounding) as i128).clamp(low, high) as u64
            }
            Number::Real(x) => {
                let x = if self.integral { round(x, self.rounding) } else { x };
                let x = if self.saturate { if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) } } else { x };
                let x = if self.relu && x < 0.0 { 0.0 } else { x };
                if self.to == self.from && x.is_nan() && self.to != Ty::F32 { lane } else { self.write(x) }
            }
        }
    }

    fn read(&self, lane: u64) -> Number {
        Number::Int(match self.from {
            Ty::U8 | Ty::B8 => i128::from(lane as u8),
            Ty::S8 => i128::from(lane as i8),
            Ty::U16 | Ty::B16 => i128::from(lane as u16),
            Ty::S16 => i128::from(lane as i16),
            Ty::U32 | Ty::B32 => i128::from(lane as u32),
            Ty::S32 => i128::from(lane as i32),
            Ty::U64 | Ty::B64 => i128::from(lane),
            Ty::S64 => i128::from(lane as i64),
            Ty::F16 => return Number::Real(f64::from(half_to_f32(lane as u16))),
            Ty::Bf16 => return Number::Real(f64::from(f32::from_bits((lane as u32) << 16))),
            Ty::F32 | Ty::Tf32 => {
                let x = f32::of(lane);
                let x = if self.flush && x.is_subnormal() { x * 0.0 } else { x };
                return Number::Real(f64::from(x));
            }
            Ty::F64 => return Number::Real(f64::of(lane)),
            Ty::F16x2 | Ty::Bf16x2 | Ty::Pred => 0,
        })
    }

    fn write(&self, x: f64) -> u64 {
        u64::from(match self.to {
            Ty::F16 | Ty::F16x2 => encode(x, HALF, self.rounding),
            Ty::Bf16 | Ty::Bf16x2 => encode(x, BRAIN, self.rounding),
            Ty::Tf32 => encode(x, TENSOR, self.rounding) << 13,
            Ty::F64 => return x.to_bits(),
            _ => {
                let bits = encode(x, SINGLE, self.rounding);
                let subnormal = bits & 0x7F80_0000 == 0;
                if self.flush && subnormal { bits & 0x8000_0000 } else { bits }
            }
        })
    }
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = 8 * ty.bytes();
    if ty.signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_way_through_f64() {
        for bits in 0..=0xFFFFu16 {
            let value = half_to_f32(bits);
            if !value.is_nan() {
                assert_eq!(encode(f64::from(value), HALF, Rounding::Near), u32::from(bits));
            }
        }
    }

    #[test]
    fn single_agrees_with_the_processor() {
        let mut seed = 1u64;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let value = f64::from_bits(seed ^ seed >> 29);
            if !value.is_nan() && value.abs() > 1e-300 {
                assert_eq!(encode(value, SINGLE, Rounding::Near), (value as f32).to_bits(), "{value:e}");
            }
        }
    }

    #[test]
    fn directed_roundings_overflow_to_the_greatest_number() {
        assert_eq!(encode(1e9, HALF, Rounding::Zero), 0x7BFF);
        assert_eq!(encode(1e9, HALF, Rounding::Near), 0x7C00);
        assert_eq!(encode(-1e9, HALF, Rounding::Up), 0xFBFF);
        assert_eq!(encode(65519.9, HALF, Rounding::Near), 0x7BFF);
        assert_eq!(encode(65520.0, HALF, Rounding::Near), 0x7C00);
        assert_eq!(encode(1e-10, HALF, Rounding::Up), 1);
    }
}
