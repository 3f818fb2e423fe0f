//! PTX types, lanes, and how a value of each type lies in 64 bits.
//!
//! A register is 32 lanes of 64 bits. An operation reads the low bits that its type has and may leave anything above.

use std::cell::Cell;

/// One register of a warp.
pub type Lanes = [Cell<u64>; 32];

/// `d = f(a, b, c)` in the lanes of a mask.
pub type LaneFn = fn(&Lanes, &Lanes, &Lanes, &Lanes, u32);

/// The lanes in which a comparison of `a` and `b` holds; lanes outside of the mask say anything.
pub type CompareFn = fn(&Lanes, &Lanes) -> u32;

/// A register of zeros.
pub fn zero() -> Lanes {
    std::array::from_fn(|_| Cell::new(0))
}

/// A type of PTX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ty {
    U8,
    S8,
    B8,
    U16,
    S16,
    B16,
    U32,
    S32,
    B32,
    U64,
    S64,
    B64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Pred,
}

impl Ty {
    /// The type of this name, without its dot.
    pub fn of(name: &str) -> Option<Ty> {
        Some(match name {
            "u8" => Ty::U8,
            "s8" => Ty::S8,
            "b8" => Ty::B8,
            "u16" => Ty::U16,
            "s16" => Ty::S16,
            "b16" => Ty::B16,
            "u32" => Ty::U32,
            "s32" => Ty::S32,
            "b32" => Ty::B32,
            "u64" => Ty::U64,
            "s64" => Ty::S64,
            "b64" => Ty::B64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "tf32" => Ty::Tf32,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        match self {
            Ty::U8 | Ty::S8 | Ty::B8 | Ty::Pred => 1,
            Ty::U16 | Ty::S16 | Ty::B16 | Ty::F16 | Ty::Bf16 => 2,
            Ty::U32 | Ty::S32 | Ty::B32 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 => 4,
            Ty::U64 | Ty::S64 | Ty::B64 | Ty::F64 => 8,
        }
    }

    /// Whether it is a signed integer.
    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Whether it is a floating-point type.
    pub fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 | Ty::F64)
    }
}

/// A floating-point type with its bits in a lane.
pub trait Float: Copy {
    /// From a lane.
    fn of(lane: u64) -> Self;
    /// To a lane.
    fn lane(self) -> u64;
    /// The value.
    fn wide(self) -> f64;
    /// The nearest value, ties to even.
    fn near(value: f64) -> Self;
    /// `a + b`, `a * b` and `a * b + c`, rounded once.
    fn add(self, other: Self) -> Self {
        Self::near(self.wide() + other.wide())
    }
    fn mul(self, other: Self) -> Self {
        Self::near(self.wide() * other.wide())
    }
    fn fma(self, b: Self, c: Self) -> Self {
        // A product of two 11-bit mantissas and its sum are exact in f64 but for summands 2^30 apart.
        Self::near(self.wide() * b.wide() + c.wide())
    }
}

impl Float for f32 {
    fn of(lane: u64) -> f32 {
        f32::from_bits(lane as u32)
    }
    fn lane(self) -> u64 {
        u64::from(self.to_bits())
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn near(value: f64) -> f32 {
        value as f32
    }
    fn add(self, other: f32) -> f32 {
        self + other
    }
    fn mul(self, other: f32) -> f32 {
        self * other
    }
    fn fma(self, b: f32, c: f32) -> f32 {
        self.mul_add(b, c)
    }
}

impl Float for f64 {
    fn of(lane: u64) -> f64 {
        f64::from_bits(lane)
    }
    fn lane(self) -> u64 {
        self.to_bits()
    }
    fn wide(self) -> f64 {
        self
    }
    fn near(value: f64) -> f64 {
        value
    }
    fn fma(self, b: f64, c: f64) -> f64 {
        self.mul_add(b, c)
    }
}

/// IEEE binary16 by its bits.
#[derive(Clone, Copy)]
pub struct F16(pub u16);

/// bfloat16 by its bits.
#[derive(Clone, Copy)]
pub struct Bf16(pub u16);

impl Float for F16 {
    fn of(lane: u64) -> F16 {
        F16(lane as u16)
    }
    fn lane(self) -> u64 {
        u64::from(self.0)
    }
    fn wide(self) -> f64 {
        f64::from(half_to_f32(self.0))
    }
    fn near(value: f64) -> F16 {
        F16(crate::convert::encode(value, crate::convert::HALF, crate::convert::Rounding::Near) as u16)
    }
}

impl Float for Bf16 {
    fn of(lane: u64) -> Bf16 {
        Bf16(lane as u16)
    }
    fn lane(self) -> u64 {
        u64::from(self.0)
    }
    fn wide(self) -> f64 {
        f64::from(f32::from_bits(u32::from(self.0) << 16))
    }
    fn near(value: f64) -> Bf16 {
        Bf16(crate::convert::encode(value, crate::convert::BRAIN, crate::convert::Rounding::Near) as u16)
    }
}

/// A binary16 as f32, exactly.
pub fn half_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7FFF);
    if magnitude >= 0x7C00 {
        // Infinity, or NaN with its payload.
        return f32::from_bits(sign | 0x7F80_0000 | (magnitude & 0x3FF) << 13);
    }
    // The exponents differ by 112: one multiplication does it, for subnormal numbers too.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((254 - 15) << 23);
    f32::from_bits(scaled.to_bits() | sign)
}

/// A function over lanes from an expression of one lane: `lanes!(a, b, c => expression)`.
macro_rules! lanes {
    ($a:ident, $b:ident, $c:ident => $e:expr) => {{
        #[allow(unused_variables)]
        fn run(d: &Lanes, x: &Lanes, y: &Lanes, z: &Lanes, mask: u32) {
            let one = |i: usize| {
                let ($a, $b, $c) = (x[i].get(), y[i].get(), z[i].get());
                d[i].set($e);
            };
            if mask == u32::MAX {
                (0..32).for_each(one);
            } else {
                (0..32).filter(|i| mask >> i & 1 == 1).for_each(one);
            }
        }
        run as LaneFn
    }};
}

/// A comparison from a predicate of one lane.
macro_rules! compare {
    ($a:ident, $b:ident => $e:expr) => {{
        fn run(x: &Lanes, y: &Lanes) -> u32 {
            (0..32).fold(0, |mask, i| {
                let ($a, $b) = (x[i].get(), y[i].get());
                mask | (u32::from($e) << i)
            })
        }
        run as CompareFn
    }};
}

/// `T` as the integer type of a PTX type in an expression, whose casts one of the types does not need.
macro_rules! with_int {
    ($ty:expr, $t:ident => $e:expr) => {
        match $ty {
            Ty::U8 | Ty::B8 => {
                type $t = u8;
                Some($e)
            }
            Ty::S8 => {
                type $t = i8;
                Some($e)
            }
            Ty::U16 | Ty::B16 => {
                type $t = u16;
                Some($e)
            }
            Ty::S16 => {
                type $t = i16;
                Some($e)
            }
            Ty::U32 | Ty::B32 => {
                type $t = u32;
                Some($e)
            }
            Ty::S32 => {
                type $t = i32;
                Some($e)
            }
            Ty::U64 | Ty::B64 => {
                type $t = u64;
                Some($e)
            }
            Ty::S64 => {
                type $t = i64;
                Some($e)
            }
            _ => None,
        }
    };
}

/// `T` as the floating-point type of a PTX type in an expression.
macro_rules! with_float {
    ($ty:expr, $t:ident => $e:expr) => {
        match $ty {
            Ty::F16 => {
                type $t = F16;
                Some($e)
            }
            Ty::Bf16 => {
                type $t = Bf16;
                Some($e)
            }
            Ty::F32 => {
                type $t = f32;
                Some($e)
            }
            Ty::F64 => {
                type $t = f64;
                Some($e)
            }
            _ => None,
        }
    };
}

pub(crate) use {compare, lanes, with_float, with_int};
