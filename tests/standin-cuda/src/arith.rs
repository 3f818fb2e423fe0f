//! Arithmetic by opcode: which function of lanes an instruction is.
//!
//! `None` means that the combination is not in the subset, which is an error at loading.

use crate::convert::{Rounding, single_with_error};
use crate::types::{Bf16, CompareFn, F16, Float, LaneFn, Lanes, Ty, compare, lanes, with_float, with_int};

/// What follows the name of an opcode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    pub rounding: Option<Rounding>,
    pub flush: bool,
    pub saturate: bool,
    pub relu: bool,
    /// `.NaN`: a NaN operand makes a NaN.
    pub nan: bool,
    pub hi: bool,
    pub wide: bool,
    pub clamp: bool,
}

/// Integers as the operations below need them.
trait Int: Copy {
    type Wide;
    fn divide(self, other: Self) -> Self;
    fn remainder(self, other: Self) -> Self;
    fn high(self, other: Self) -> Self;
    fn extend(self) -> i128;
}

macro_rules! int {
    ($($t:ty => $wide:ty, $minus_one:expr;)*) => { $(impl Int for $t {
        type Wide = $wide;
        fn divide(self, other: $t) -> $t { if other == 0 { $minus_one } else { self.wrapping_div(other) } }
        fn remainder(self, other: $t) -> $t { if other == 0 { self } else { self.wrapping_rem(other) } }
        fn high(self, other: $t) -> $t { ((i128::from(self) * i128::from(other)) >> <$t>::BITS) as $t }
        fn extend(self) -> i128 { i128::from(self) }
    })* };
}

int! {
    u8 => u16, u8::MAX; i8 => i16, -1;
    u16 => u32, u16::MAX; i16 => i32, -1;
    u32 => u64, u32::MAX; i32 => i64, -1;
    i64 => i64, -1;
}

impl Int for u64 {
    type Wide = u64;
    fn divide(self, other: u64) -> u64 {
        self.checked_div(other).unwrap_or(u64::MAX)
    }
    fn remainder(self, other: u64) -> u64 {
        self.checked_rem(other).unwrap_or(self)
    }
    fn high(self, other: u64) -> u64 {
        ((u128::from(self) * u128::from(other)) >> 64) as u64
    }
    fn extend(self) -> i128 {
        i128::from(self)
    }
}

/// The function of an operation with up to three operands.
pub fn operation(name: &str, ty: Ty, flags: Flags) -> Option<LaneFn> {
    if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
        return pairs(name, ty, flags);
    }
    if ty.float() { floating(name, ty, flags) } else { integer(name, ty, flags) }
}

fn integer(name: &str, ty: Ty, flags: Flags) -> Option<LaneFn> {
    match name {
        "mov" => Some(lanes!(a, b, c => a)),
        "add" if flags.saturate => {
            (ty == Ty::S32).then(|| lanes!(a, b, c => (a as i32).saturating_add(b as i32) as u64))
        }
        "sub" if flags.saturate => {
            (ty == Ty::S32).then(|| lanes!(a, b, c => (a as i32).saturating_sub(b as i32) as u64))
        }
        "add" => Some(lanes!(a, b, c => a.wrapping_add(b))),
        "sub" => Some(lanes!(a, b, c => a.wrapping_sub(b))),
        "mul" if flags.wide => {
            with_int!(ty, T => lanes!(a, b, c => (a as T as <T as Int>::Wide).wrapping_mul(b as T as <T as Int>::Wide) as u64))
        }
        "mad" if flags.wide => with_int!(ty, T => lanes!(a, b, c => {
            (a as T as <T as Int>::Wide).wrapping_mul(b as T as <T as Int>::Wide).wrapping_add(c as <T as Int>::Wide) as u64
        })),
        "mul" if flags.hi => with_int!(ty, T => lanes!(a, b, c => (a as T).high(b as T) as u64)),
        "mad" if flags.hi => {
            with_int!(ty, T => lanes!(a, b, c => (a as T).high(b as T).wrapping_add(c as T) as u64))
        }
        "mul" => Some(lanes!(a, b, c => a.wrapping_mul(b))),
        "mad" => Some(lanes!(a, b, c => a.wrapping_mul(b).wrapping_add(c))),
        "sad" => with_int!(ty, T => lanes!(a, b, c => ((a as T).abs_diff(b as T) as u64).wrapping_add(c))),
        "div" => with_int!(ty, T => lanes!(a, b, c => (a as T).divide(b as T) as u64)),
        "rem" => with_int!(ty, T => lanes!(a, b, c => (a as T).remainder(b as T) as u64)),
        "min" => with_int!(ty, T => lanes!(a, b, c => (a as T).min(b as T) as u64)),
        "max" => with_int!(ty, T => lanes!(a, b, c => (a as T).max(b as T) as u64)),
        "neg" => Some(lanes!(a, b, c => a.wrapping_neg())),
        "abs" => with_int!(ty, T => lanes!(a, b, c => (a as T).extend().unsigned_abs() as u64)),
        "and" => Some(lanes!(a, b, c => a & b)),
        "or" => Some(lanes!(a, b, c => a | b)),
        "xor" => Some(lanes!(a, b, c => a ^ b)),
        "not" => Some(lanes!(a, b, c => !a)),
        "cnot" => with_int!(ty, T => lanes!(a, b, c => u64::from(a as T == 0))),
        "shl" => with_int!(ty, T => lanes!(a, b, c => (a as T).checked_shl(b as u32).unwrap_or(0) as u64)),
        "shr" => {
            with_int!(ty, T => lanes!(a, b, c => ((a as T) >> (b as u32).min(T::BITS - 1) >> u32::from(b as u32 >= T::BITS)) as u64))
        }
        "popc" => with_int!(ty, T => lanes!(a, b, c => u64::from((a as T).count_ones()))),
        "clz" => with_int!(ty, T => lanes!(a, b, c => u64::from((a as T).leading_zeros()))),
        "brev" => with_int!(ty, T => lanes!(a, b, c => (a as T).reverse_bits() as u64)),
        "bfind" => bit_find(ty),
        "bfe" => Some(match ty {
            Ty::U32 => lanes!(a, b, c => extract(u64::from(a as u32), 32, b, c, false)),
            Ty::U64 => lanes!(a, b, c => extract(a, 64, b, c, false)),
            Ty::S32 => lanes!(a, b, c => extract(a as i32 as u64, 32, b, c, true)),
            Ty::S64 => lanes!(a, b, c => extract(a, 64, b, c, true)),
            _ => return None,
        }),
        "dp4a" if ty == Ty::S32 => Some(lanes!(a, b, c => {
            (0..4).fold(c as i32, |sum, i| sum.wrapping_add(i32::from((a >> (8 * i)) as i8) * i32::from((b >> (8 * i)) as i8))) as u64
        })),
        "dp4a" if ty == Ty::U32 => Some(lanes!(a, b, c => {
            (0..4).fold(c as u32, |sum, i| sum.wrapping_add(u32::from((a >> (8 * i)) as u8) * u32::from((b >> (8 * i)) as u8))) as u64
        })),
        "shf_l" if flags.clamp => {
            Some(lanes!(a, b, c => (((b as u32 as u64) << 32 | a as u32 as u64) << (c as u32).min(32)) >> 32))
        }
        "shf_l" => Some(lanes!(a, b, c => (((b as u32 as u64) << 32 | a as u32 as u64) << (c & 31)) >> 32)),
        "shf_r" if flags.clamp => {
            Some(lanes!(a, b, c => ((b as u32 as u64) << 32 | a as u32 as u64) >> (c as u32).min(32)))
        }
        "shf_r" => Some(lanes!(a, b, c => ((b as u32 as u64) << 32 | a as u32 as u64) >> (c & 31))),
        "prmt" => Some(lanes!(a, b, c => permute(a as u32, b as u32, c as u32))),
        _ => None,
    }
}

fn bit_find(ty: Ty) -> Option<LaneFn> {
    Some(match ty {
        Ty::U32 => lanes!(a, b, c => u64::from((31u32).wrapping_sub((a as u32).leading_zeros()))),
        Ty::U64 => lanes!(a, b, c => u64::from((63u32).wrapping_sub(a.leading_zeros()))),
        Ty::S32 => lanes!(a, b, c => {
            let x = a as i32;
            u64::from((31u32).wrapping_sub(if x < 0 { !x } else { x }.leading_zeros()))
        }),
        Ty::S64 => lanes!(a, b, c => {
            let x = a as i64;
            u64::from((63u32).wrapping_sub(if x < 0 { !x } else { x }.leading_zeros()))
        }),
        _ => return None,
    })
}

fn extract(value: u64, bits: u32, start: u64, length: u64, signed: bool) -> u64 {
    let (start, length) = (start as u32 & 0xFF, length as u32 & 0xFF);
    if length == 0 {
        return 0;
    }
    let sign = signed && value >> (start + length - 1).min(bits - 1) & 1 == 1;
    let field = if start >= bits { 0 } else { value >> start };
    let taken = length.min(bits.saturating_sub(start));
    let mask = if taken >= 64 { u64::MAX } else { (1 << taken) - 1 };
    (field & mask) | if sign { !mask } else { 0 }
}

/// `bfi`: four operands, so on one lane.
pub fn insert(field: u64, into: u64, start: u64, length: u64, bits: u32) -> u64 {
    let (start, length) = (start as u32 & 0xFF, length as u32 & 0xFF);
    if start >= bits || length == 0 {
        return into;
    }
    let length = length.min(bits - start);
    let mask = (if length >= 64 { u64::MAX } else { (1 << length) - 1 }) << start;
    (into & !mask) | (field << start & mask)
}

fn permute(a: u32, b: u32, control: u32) -> u64 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |out, i| {
        let pick = control >> (4 * i) & 0xF;
        let byte = bytes >> (8 * (pick & 7)) & 0xFF;
        let byte = if pick & 8 == 0 { byte } else { 0xFF * (byte >> 7) };
        out | byte << (8 * i)
    })
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { x * 0.0 } else { x }
}

fn saturated<T: Float>(x: T) -> T {
    let value = x.wide();
    T::near(if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) })
}

fn positive<T: Float>(x: T) -> T {
    if x.wide() < 0.0 { T::near(0.0) } else { x }
}

/// The lesser of two numbers, or the greater. Of two zeros the negative one is the lesser.
fn choose<T: Float>(a: T, b: T, nan: bool, greater: bool) -> T {
    let (x, y) = (a.wide(), b.wide());
    match (x.is_nan(), y.is_nan()) {
        (true, true) => T::near(f64::NAN),
        (true, false) | (false, true) if nan => T::near(f64::NAN),
        (true, false) => b,
        (false, true) => a,
        _ if x == y => {
            if x.is_sign_negative() != greater {
                a
            } else {
                b
            }
        }
        _ if (x > y) == greater => a,
        _ => b,
    }
}

fn least<T: Float>(a: T, b: T, nan: bool) -> T {
    choose(a, b, nan, false)
}

fn greatest<T: Float>(a: T, b: T, nan: bool) -> T {
    choose(a, b, nan, true)
}

fn floating(name: &str, ty: Ty, flags: Flags) -> Option<LaneFn> {
    if let Some(rounding) = flags.rounding.filter(|r| *r != Rounding::Near) {
        return (ty == Ty::F32 && !flags.flush && !flags.saturate).then(|| directed(name, rounding)).flatten();
    }
    if flags.flush && ty == Ty::F32 {
        return flushing(name, flags);
    }
    match (name, flags.saturate, flags.relu) {
        ("add", true, _) => return with_float!(ty, T => lanes!(a, b, c => saturated(T::of(a).add(T::of(b))).lane())),
        ("mul", true, _) => return with_float!(ty, T => lanes!(a, b, c => saturated(T::of(a).mul(T::of(b))).lane())),
        ("fma", true, _) => {
            return with_float!(ty, T => lanes!(a, b, c => saturated(T::of(a).fma(T::of(b), T::of(c))).lane()));
        }
        ("fma", _, true) => {
            return with_float!(ty, T => lanes!(a, b, c => positive(T::of(a).fma(T::of(b), T::of(c))).lane()));
        }
        (_, true, _) | (_, _, true) => return None,
        _ => {}
    }
    match name {
        "mov" => Some(lanes!(a, b, c => a)),
        "add" => with_float!(ty, T => lanes!(a, b, c => T::of(a).add(T::of(b)).lane())),
        "sub" if ty == Ty::F32 => Some(lanes!(a, b, c => (f32::of(a) - f32::of(b)).lane())),
        "sub" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide() - T::of(b).wide()).lane())),
        "mul" => with_float!(ty, T => lanes!(a, b, c => T::of(a).mul(T::of(b)).lane())),
        "fma" | "mad" => with_float!(ty, T => lanes!(a, b, c => T::of(a).fma(T::of(b), T::of(c)).lane())),
        "neg" => with_float!(ty, T => lanes!(a, b, c => a ^ 1 << (8 * size_of::<T>() - 1))),
        "abs" => with_float!(ty, T => lanes!(a, b, c => a & !(1 << (8 * size_of::<T>() - 1)))),
        "min" if flags.nan => with_float!(ty, T => lanes!(a, b, c => least(T::of(a), T::of(b), true).lane())),
        "max" if flags.nan => with_float!(ty, T => lanes!(a, b, c => greatest(T::of(a), T::of(b), true).lane())),
        "min" => with_float!(ty, T => lanes!(a, b, c => least(T::of(a), T::of(b), false).lane())),
        "max" => with_float!(ty, T => lanes!(a, b, c => greatest(T::of(a), T::of(b), false).lane())),
        "div" => match ty {
            Ty::F32 => Some(lanes!(a, b, c => (f32::of(a) / f32::of(b)).lane())),
            Ty::F64 => Some(lanes!(a, b, c => (f64::of(a) / f64::of(b)).lane())),
            _ => None,
        },
        "copysign" => match ty {
            Ty::F32 => Some(lanes!(a, b, c => f32::of(b).copysign(f32::of(a)).lane())),
            Ty::F64 => Some(lanes!(a, b, c => f64::of(b).copysign(f64::of(a)).lane())),
            _ => None,
        },
        "sqrt" if ty == Ty::F32 => Some(lanes!(a, b, c => f32::of(a).sqrt().lane())),
        "rcp" if ty == Ty::F32 => Some(lanes!(a, b, c => (1.0 / f32::of(a)).lane())),
        "sqrt" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide().sqrt()).lane())),
        "rcp" => with_float!(ty, T => lanes!(a, b, c => T::near(1.0 / T::of(a).wide()).lane())),
        "rsqrt" => with_float!(ty, T => lanes!(a, b, c => T::near(1.0 / T::of(a).wide().sqrt()).lane())),
        "sin" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide().sin()).lane())),
        "cos" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide().cos()).lane())),
        "lg2" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide().log2()).lane())),
        "ex2" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide().exp2()).lane())),
        "tanh" => with_float!(ty, T => lanes!(a, b, c => T::near(T::of(a).wide().tanh()).lane())),
        _ => None,
    }
}

/// `.ftz`: subnormal operands and results are zeros of their sign.
fn flushing(name: &str, flags: Flags) -> Option<LaneFn> {
    macro_rules! flush {
        ($a:ident, $b:ident, $c:ident => $e:expr) => {
            lanes!(a, b, c => {
                #[allow(unused_variables)]
                let ($a, $b, $c) = (flushed(f32::of(a)), flushed(f32::of(b)), flushed(f32::of(c)));
                let result: f32 = $e;
                flushed(result).lane()
            })
        };
    }
    Some(match name {
        "add" if flags.saturate => flush!(a, b, c => saturated(a + b)),
        "mul" if flags.saturate => flush!(a, b, c => saturated(a * b)),
        "fma" if flags.saturate => flush!(a, b, c => saturated(a.mul_add(b, c))),
        _ if flags.saturate => return None,
        "add" => flush!(a, b, c => a + b),
        "sub" => flush!(a, b, c => a - b),
        "mul" => flush!(a, b, c => a * b),
        "fma" => flush!(a, b, c => a.mul_add(b, c)),
        "neg" => flush!(a, b, c => -a),
        "abs" => flush!(a, b, c => a.abs()),
        "min" => flush!(a, b, c => least(a, b, false)),
        "max" => flush!(a, b, c => greatest(a, b, false)),
        "div" => flush!(a, b, c => a / b),
        "sqrt" => flush!(a, b, c => a.sqrt()),
        "rcp" => flush!(a, b, c => 1.0 / a),
        "rsqrt" => flush!(a, b, c => (1.0 / f64::from(a).sqrt()) as f32),
        "sin" => flush!(a, b, c => f64::from(a).sin() as f32),
        "cos" => flush!(a, b, c => f64::from(a).cos() as f32),
        "lg2" => flush!(a, b, c => f64::from(a).log2() as f32),
        "ex2" => flush!(a, b, c => f64::from(a).exp2() as f32),
        _ => return None,
    })
}

/// `a + b` in f64 and what that lost.
fn sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

fn directed(name: &str, rounding: Rounding) -> Option<LaneFn> {
    macro_rules! each {
        ($a:ident, $b:ident, $c:ident => $e:expr) => {
            match rounding {
                Rounding::Zero => each!(Zero, $a, $b, $c => $e),
                Rounding::Down => each!(Down, $a, $b, $c => $e),
                Rounding::Up => each!(Up, $a, $b, $c => $e),
                Rounding::Near | Rounding::Away => return None,
            }
        };
        ($r:ident, $a:ident, $b:ident, $c:ident => $e:expr) => {
            lanes!(a, b, c => {
                #[allow(unused_variables)]
                let ($a, $b, $c) = (f32::of(a).wide(), f32::of(b).wide(), f32::of(c).wide());
                let (value, error): (f64, f64) = $e;
                single_with_error(value, error, Rounding::$r).lane()
            })
        };
    }
    Some(match name {
        "add" => each!(a, b, c => sum(a, b)),
        "sub" => each!(a, b, c => sum(a, -b)),
        // Products of f32 are exact in f64; of a quotient or root, the remainder tells the side.
        "mul" => each!(a, b, c => (a * b, 0.0)),
        "fma" => each!(a, b, c => sum(a * b, c)),
        "div" => each!(a, b, c => { let q = a / b; (q, (-q).mul_add(b, a) * b.signum()) }),
        "rcp" => each!(a, b, c => { let q = 1.0 / a; (q, (-q).mul_add(a, 1.0) * a.signum()) }),
        "sqrt" => each!(a, b, c => { let q = a.sqrt(); (q, (-q).mul_add(q, a)) }),
        _ => return None,
    })
}

/// Two halves side by side.
fn pairs(name: &str, ty: Ty, flags: Flags) -> Option<LaneFn> {
    macro_rules! both {
        ($a:ident, $b:ident, $c:ident => $e:expr) => {
            match ty {
                Ty::F16x2 => both!(F16, $a, $b, $c => $e),
                _ => both!(Bf16, $a, $b, $c => $e),
            }
        };
        ($t:ident, $a:ident, $b:ident, $c:ident => $e:expr) => {
            lanes!(a, b, c => {
                let half = |$a: $t, $b: $t, $c: $t| -> $t { $e };
                let low = half($t::of(a), $t::of(b), $t::of(c)).lane();
                let high = half($t::of(a >> 16), $t::of(b >> 16), $t::of(c >> 16)).lane();
                high << 16 | low
            })
        };
    }
    if flags.saturate || flags.flush || flags.rounding.is_some_and(|r| r != Rounding::Near) {
        return None;
    }
    Some(match name {
        "mov" => lanes!(a, b, c => a),
        "add" => both!(a, b, _c => a.add(b)),
        "sub" => both!(a, b, _c => Float::near(a.wide() - b.wide())),
        "mul" => both!(a, b, _c => a.mul(b)),
        "fma" if flags.relu => both!(a, b, c => positive(a.fma(b, c))),
        "fma" => both!(a, b, c => a.fma(b, c)),
        "min" if flags.nan => both!(a, b, _c => least(a, b, true)),
        "max" if flags.nan => both!(a, b, _c => greatest(a, b, true)),
        "min" => both!(a, b, _c => least(a, b, false)),
        "max" => both!(a, b, _c => greatest(a, b, false)),
        "ex2" => both!(a, _b, _c => Float::near(a.wide().exp2())),
        "tanh" => both!(a, _b, _c => Float::near(a.wide().tanh())),
        "neg" => lanes!(a, b, c => a ^ 0x8000_8000),
        "abs" => lanes!(a, b, c => a & 0x7FFF_7FFF),
        _ => return None,
    })
}

/// The function of a comparison.
pub fn comparison(op: &str, ty: Ty, flush: bool) -> Option<CompareFn> {
    if ty == Ty::F32 && flush {
        // Subnormal operands compare as zeros.
        return Some(match op {
            "eq" => compare!(a, b => flushed(f32::of(a)) == flushed(f32::of(b))),
            "ne" => {
                compare!(a, b => flushed(f32::of(a)) < flushed(f32::of(b)) || flushed(f32::of(a)) > flushed(f32::of(b)))
            }
            "lt" => compare!(a, b => flushed(f32::of(a)) < flushed(f32::of(b))),
            "le" => compare!(a, b => flushed(f32::of(a)) <= flushed(f32::of(b))),
            "gt" => compare!(a, b => flushed(f32::of(a)) > flushed(f32::of(b))),
            "ge" => compare!(a, b => flushed(f32::of(a)) >= flushed(f32::of(b))),
            _ => return None,
        });
    }
    if ty.float() {
        return match op {
            "eq" => with_float!(ty, T => compare!(a, b => T::of(a).wide() == T::of(b).wide())),
            "ne" => {
                with_float!(ty, T => compare!(a, b => matches!(T::of(a).wide().partial_cmp(&T::of(b).wide()), Some(o) if o.is_ne())))
            }
            "lt" => with_float!(ty, T => compare!(a, b => T::of(a).wide() < T::of(b).wide())),
            "le" => with_float!(ty, T => compare!(a, b => T::of(a).wide() <= T::of(b).wide())),
            "gt" => with_float!(ty, T => compare!(a, b => T::of(a).wide() > T::of(b).wide())),
            "ge" => with_float!(ty, T => compare!(a, b => T::of(a).wide() >= T::of(b).wide())),
            "equ" => {
                with_float!(ty, T => compare!(a, b => T::of(a).wide().partial_cmp(&T::of(b).wide()).is_none_or(|o| o.is_eq())))
            }
            "neu" => with_float!(ty, T => compare!(a, b => T::of(a).wide() != T::of(b).wide())),
            "ltu" => {
                with_float!(ty, T => compare!(a, b => T::of(a).wide().partial_cmp(&T::of(b).wide()).is_none_or(|o| o.is_lt())))
            }
            "leu" => {
                with_float!(ty, T => compare!(a, b => T::of(a).wide().partial_cmp(&T::of(b).wide()).is_none_or(|o| o.is_le())))
            }
            "gtu" => {
                with_float!(ty, T => compare!(a, b => T::of(a).wide().partial_cmp(&T::of(b).wide()).is_none_or(|o| o.is_gt())))
            }
            "geu" => {
                with_float!(ty, T => compare!(a, b => T::of(a).wide().partial_cmp(&T::of(b).wide()).is_none_or(|o| o.is_ge())))
            }
            "num" => with_float!(ty, T => compare!(a, b => !T::of(a).wide().is_nan() && !T::of(b).wide().is_nan())),
            "nan" => with_float!(ty, T => compare!(a, b => T::of(a).wide().is_nan() || T::of(b).wide().is_nan())),
            _ => None,
        };
    }
    let unsigned = match ty {
        Ty::S16 | Ty::B16 => Ty::U16,
        Ty::S32 | Ty::B32 => Ty::U32,
        Ty::S64 | Ty::B64 => Ty::U64,
        other => other,
    };
    match op {
        "eq" => with_int!(ty, T => compare!(a, b => a as T == b as T)),
        "ne" => with_int!(ty, T => compare!(a, b => a as T != b as T)),
        "lt" => with_int!(ty, T => compare!(a, b => (a as T) < b as T)),
        "le" => with_int!(ty, T => compare!(a, b => a as T <= b as T)),
        "gt" => with_int!(ty, T => compare!(a, b => a as T > b as T)),
        "ge" => with_int!(ty, T => compare!(a, b => a as T >= b as T)),
        "lo" => comparison("lt", unsigned, false),
        "ls" => comparison("le", unsigned, false),
        "hi" => comparison("gt", unsigned, false),
        "hs" => comparison("ge", unsigned, false),
        _ => None,
    }
}

/// `testp`: the lanes whose number is of a class.
pub fn class(name: &str, ty: Ty) -> Option<CompareFn> {
    macro_rules! test {
        ($x:ident => $e:expr) => {
            match ty {
                Ty::F32 => compare!(a, _b => { let $x = f32::of(a); $e }),
                Ty::F64 => compare!(a, _b => { let $x = f64::of(a); $e }),
                _ => return None,
            }
        };
    }
    Some(match name {
        "finite" => test!(x => x.is_finite()),
        "infinite" => test!(x => x.is_infinite()),
        "number" => test!(x => !x.is_nan()),
        "notanumber" => test!(x => x.is_nan()),
        "normal" => test!(x => x.is_normal()),
        "subnormal" => test!(x => x.is_subnormal()),
        _ => return None,
    })
}
