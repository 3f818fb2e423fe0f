//! The instructions: which operation an opcode is, and its operands by number.

use super::memory::{ordered, space};
use super::{ALWAYS, Decoder};
use crate::arith::{Flags, class, comparison, operation};
use crate::convert::{Conversion, Rounding};
use crate::kernel::{Guard, LOCAL_WINDOW, Logic, Op, SHARED_WINDOW, Shuffle, Vote};
use crate::text::{Operand, Read, Statement, refuse};
use crate::types::{LaneFn, Lanes, Ty, lanes, with_int};

impl Decoder<'_> {
    /// Decodes a statement.
    pub(super) fn statement(&mut self, s: &Statement) -> Read<Op> {
        let unknown = || refuse(s.line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let least = match s.opcode[0].as_str() {
            "ret" | "exit" | "trap" | "membar" | "fence" | "cp" | "griddepcontrol" | "wgmma" | "mbarrier"
            | "setmaxnreg" => 0,
            "bar" | "barrier" | "bra" | "activemask" | "prefetch" | "prefetchu" | "nanosleep" | "discard"
            | "applypriority" => 1,
            "shfl" => 5,
            "bfi" | "lop3" => 4,
            "selp" => 4,
            "mad" | "fma" | "setp" | "vote" | "redux" | "match" | "atom" | "mma" | "sad" | "prmt" | "shf" | "bfe"
            | "dp4a" => 3,
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr"
            | "copysign" => 3,
            _ => 2,
        };
        if s.operands.len() < least {
            return refuse(s.line, format!("'{}' lacks operands", s.opcode.join(".")));
        }
        let types: Vec<Ty> = s.opcode[1..].iter().filter_map(|p| Ty::of(p)).collect();
        let has = |part: &str| s.opcode[1..].iter().any(|p| p == part);
        let o = &s.operands;
        let line = s.line;
        let ty = types.first().copied();
        Ok(match s.opcode[0].as_str() {
            "ret" | "exit" => Op::Exit,
            "trap" => Op::Trap,
            "fence" if has("proxy") && has("async") => Op::ProxyFence,
            "fence" if has("mbarrier_init") => Op::BarrierFence,
            "setmaxnreg" => return self.registers(s),
            "cp" if has("bulk") => return self.copy_box(s),
            "mbarrier" => return self.barrier(s),
            "wgmma" => return self.group(s),
            "membar" | "fence" | "prefetch" | "prefetchu" | "nanosleep" | "discard" | "applypriority"
            | "griddepcontrol" => Op::Nothing,
            "bra" => {
                let Operand::Name(label) = &o[0] else { return unknown() };
                self.jumps.push((self.insts.len(), label.clone(), line));
                Op::Nothing
            }
            "bar" | "barrier" if has("warp") => Op::WarpBarrier { members: self.reg(&o[0], Ty::U32, line)? },
            "bar" | "barrier" if has("sync") => Op::BlockBarrier {
                id: self.reg(&o[0], Ty::U32, line)?,
                threads: o.get(1).map(|t| self.reg(t, Ty::U32, line)).transpose()?,
            },
            "activemask" => Op::ActiveMask { d: self.into(&o[0], line)? },
            "ld" | "ldu" => return self.load(s),
            "st" => {
                let Some(ty) = ty else { return unknown() };
                let space = space(s);
                Op::Store {
                    from: self.list(&o[1], ty, line)?,
                    place: self.place(&o[0], space, line)?,
                    ty,
                    ordered: ordered(s),
                }
            }
            "atom" | "red" => return self.atomic(s),
            "mov" => return self.mov(s, ty),
            "cvt" => return self.convert(s, &types),
            "cvta" => {
                let d = self.into(&o[0], line)?;
                let a = self.reg(&o[1], Ty::U64, line)?;
                let window = if has("shared") {
                    SHARED_WINDOW
                } else if has("local") {
                    LOCAL_WINDOW
                } else {
                    0
                };
                // Addresses of parameters are generic from the start.
                let b = self.constant(if has("to") { window.wrapping_neg() } else { window });
                Op::Lanes { f: lanes!(a, b, c => a.wrapping_add(b)), d, a, b, c: a }
            }
            "setp" => return self.setp(s, ty),
            "testp" => {
                let (Some(ty), Operand::Name(p)) = (ty, &o[0]) else { return unknown() };
                let Some(f) = class(&s.opcode[1], ty) else { return unknown() };
                let a = self.reg(&o[1], ty, line)?;
                Op::Compare { f, p: self.pred(p, line)?, q: None, a, b: a, logic: Logic::Same, other: ALWAYS }
            }
            "selp" => {
                let Some(ty) = ty else { return unknown() };
                Op::Select {
                    d: self.into(&o[0], line)?,
                    a: self.reg(&o[1], ty, line)?,
                    b: self.reg(&o[2], ty, line)?,
                    p: self.guard(&o[3], line)?,
                }
            }
            "and" | "or" | "xor" | "not" if ty == Some(Ty::Pred) => {
                let Operand::Name(p) = &o[0] else { return unknown() };
                let p = self.pred(p, line)?;
                let a = self.guard(&o[1], line)?;
                match s.opcode[0].as_str() {
                    "not" => Op::Logic { logic: Logic::Same, p, a: Guard { negated: !a.negated, ..a }, b: a },
                    name => Op::Logic { logic: logic(name).expect("one of three"), p, a, b: self.guard(&o[2], line)? },
                }
            }
            "shfl" => {
                let how = match s.opcode.get(2).map(String::as_str) {
                    Some("up") => Shuffle::Up,
                    Some("down") => Shuffle::Down,
                    Some("bfly") => Shuffle::Butterfly,
                    Some("idx") => Shuffle::Index,
                    _ => return unknown(),
                };
                let (d, p) = match &o[0] {
                    Operand::Pair(d, p) => (self.into(&Operand::Name(d.clone()), line)?, Some(self.pred(p, line)?)),
                    one => (self.into(one, line)?, None),
                };
                let [a, b, c, members] = [1, 2, 3, 4].map(|i| self.reg(&o[i], Ty::U32, line));
                Op::Shuffle { d, p, a: a?, b: b?, c: c?, members: members?, how }
            }
            "vote" => {
                let a = self.guard(&o[1], line)?;
                let members = self.reg(&o[2], Ty::U32, line)?;
                if has("ballot") {
                    return Ok(Op::Ballot { d: self.into(&o[0], line)?, a, members });
                }
                let how = if has("all") {
                    Vote::All
                } else if has("any") {
                    Vote::Any
                } else if has("uni") {
                    Vote::Uniform
                } else {
                    return unknown();
                };
                let Operand::Name(p) = &o[0] else { return unknown() };
                Op::Vote { p: self.pred(p, line)?, a, members, how }
            }
            "match" if has("any") => {
                let Some(ty) = ty else { return unknown() };
                Op::Match {
                    d: self.into(&o[0], line)?,
                    a: self.reg(&o[1], ty, line)?,
                    members: self.reg(&o[2], Ty::U32, line)?,
                    ty,
                }
            }
            "redux" => {
                let Some(ty @ (Ty::U32 | Ty::S32 | Ty::B32)) = ty else { return unknown() };
                let Some(name) = s.opcode.get(2) else { return unknown() };
                let Some(f) = operation(name, ty, Flags::default()) else { return unknown() };
                let identity = match (name.as_str(), ty) {
                    ("add" | "or" | "xor", _) | ("max", Ty::U32) => 0,
                    ("and", _) | ("min", Ty::U32) => u64::from(u32::MAX),
                    ("min", _) => i32::MAX as u64,
                    ("max", _) => i32::MIN as u64,
                    _ => return unknown(),
                };
                Op::Reduce {
                    d: self.into(&o[0], line)?,
                    a: self.reg(&o[1], ty, line)?,
                    members: self.reg(&o[2], Ty::U32, line)?,
                    f,
                    identity,
                }
            }
            "cp" => return self.copy(s),
            "ldmatrix" => {
                let into = self.list_into(&o[0], line)?;
                let count = if has("x4") {
                    4
                } else if has("x2") {
                    2
                } else {
                    1
                };
                if into.len() != count || !has("sync") || !has("aligned") || !has("m8n8") || !has("b16") {
                    return unknown();
                }
                let space = space(s);
                Op::LoadMatrix { into, place: self.place(&o[1], space, line)?, transposed: has("trans") }
            }
            "mma" => return self.mma(s, &types),
            "lop3" => {
                let (Operand::Int(table), Some(_)) = (o.get(4).unwrap_or(&o[0]), ty) else { return unknown() };
                let table = *table as u8;
                let d = self.into(&o[0], line)?;
                let [a, b, c] = [1, 2, 3].map(|i| self.reg(&o[i], Ty::B32, line));
                Op::Lop3 { d, a: a?, b: b?, c: c?, table }
            }
            "bfi" => {
                let (Some(ty), Some(length)) = (ty, o.get(4)) else { return unknown() };
                let d = self.into(&o[0], line)?;
                let [field, into, start] = [1, 2, 3].map(|i| self.reg(&o[i], ty, line));
                Op::Insert {
                    d,
                    field: field?,
                    into: into?,
                    start: start?,
                    length: self.reg(length, Ty::U32, line)?,
                    bits: 8 * ty.bytes(),
                }
            }
            name => {
                let Some(ty) = types.last().copied() else { return unknown() };
                let name = match name {
                    "shf" if has("l") => "shf_l",
                    "shf" if has("r") => "shf_r",
                    other => other,
                };
                let Some(f) = operation(name, ty, flags(s)) else { return unknown() };
                let d = self.into(&o[0], line)?;
                // The shift amount is an u32 whatever the type, and an addend may be wider: constants do not care.
                let mut operands = [0; 3];
                for i in 0..3 {
                    operands[i] = match o.get(i + 1) {
                        Some(operand) => self.reg(operand, ty, line)?,
                        None => operands[0],
                    };
                }
                let [a, b, c] = operands;
                Op::Lanes { f, d, a, b, c }
            }
        })
    }
    fn mov(&mut self, s: &Statement, ty: Option<Ty>) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let Some(ty) = ty else { return refuse(line, "a mov has a type") };
        let bits = 8 * ty.bytes();
        Ok(match (&o[0], &o[1]) {
            (Operand::Name(p), a) if ty == Ty::Pred => {
                let a = self.guard(a, line)?;
                Op::Logic { logic: Logic::Same, p: self.pred(p, line)?, a, b: a }
            }
            (d, Operand::Vector(parts)) => {
                let bits = bits / parts.len() as u32;
                let parts = parts.iter().map(|p| self.reg(p, ty, line)).collect::<Read<_>>()?;
                Op::Pack { d: self.into(d, line)?, parts, bits }
            }
            (Operand::Vector(parts), a) => {
                let bits = bits / parts.len() as u32;
                let parts = parts.iter().map(|p| self.into(p, line)).collect::<Read<_>>()?;
                Op::Unpack { parts, a: self.reg(a, ty, line)?, bits }
            }
            (d, a) => {
                let d = self.into(d, line)?;
                let a = self.reg(a, ty, line)?;
                Op::Lanes { f: lanes!(a, b, c => a), d, a, b: a, c: a }
            }
        })
    }

    fn convert(&mut self, s: &Statement, types: &[Ty]) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let &[to, from] = types else { return refuse(line, "a cvt has two types") };
        let flags = flags(s);
        let integral = s.opcode.iter().any(|p| matches!(p.as_str(), "rni" | "rzi" | "rmi" | "rpi"));
        if from.float() && !to.float() && !integral {
            return refuse(line, "a cvt to an integer needs .rni, .rzi, .rmi or .rpi");
        }
        let narrows = from.float() && to.float() && to.bytes() < from.bytes() || to.float() && !from.float();
        if narrows && flags.rounding.is_none() {
            return refuse(line, "a cvt that narrows needs a rounding");
        }
        let d = self.into(&o[0], line)?;
        let conversion = Conversion {
            to,
            from,
            rounding: flags.rounding.unwrap_or(Rounding::Near),
            integral,
            saturate: flags.saturate,
            flush: flags.flush,
            relu: flags.relu,
        };
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            let Some(low) = o.get(2) else { return refuse(line, "a pair has two numbers") };
            let high = self.reg(&o[1], from, line)?;
            return Ok(Op::ConvertPair { conversion, d, high, low: self.reg(low, from, line)? });
        }
        let a = self.reg(&o[1], from, line)?;
        if !to.float() && !from.float() && !flags.saturate {
            let narrow = if from.bytes() < to.bytes() { from } else { to };
            let f: Option<LaneFn> = with_int!(narrow, T => lanes!(a, b, c => a as T as u64));
            if let Some(f) = f {
                return Ok(Op::Lanes { f, d, a, b: a, c: a });
            }
        }
        Ok(Op::Convert { conversion, d, a })
    }

    fn setp(&mut self, s: &Statement, ty: Option<Ty>) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let found = ty.and_then(|ty| comparison(&s.opcode[1], ty, flags(s).flush).map(|f| (f, ty)));
        let Some((f, ty)) = found else {
            return refuse(line, format!("'{}' is not in the subset", s.opcode.join(".")));
        };
        let (p, q) = match &o[0] {
            Operand::Pair(p, q) => (self.pred(p, line)?, Some(self.pred(q, line)?)),
            Operand::Name(p) => (self.pred(p, line)?, None),
            other => return refuse(line, format!("{other:?} is no predicate")),
        };
        let (logic, other) = match o.get(3) {
            None => (Logic::Same, ALWAYS),
            Some(other) => match s.opcode.get(2).and_then(|name| logic(name)) {
                Some(l) => (l, self.guard(other, line)?),
                None => return refuse(line, "a third predicate needs .and, .or or .xor"),
            },
        };
        let a = self.reg(&o[1], ty, line)?;
        Ok(Op::Compare { f, p, q, a, b: self.reg(&o[2], ty, line)?, logic, other })
    }
}

fn logic(name: &str) -> Option<Logic> {
    Some(match name {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        _ => return None,
    })
}
fn flags(s: &Statement) -> Flags {
    let mut flags = Flags::default();
    for part in &s.opcode[1..] {
        match part.as_str() {
            "rn" | "rni" => flags.rounding = Some(Rounding::Near),
            "rz" | "rzi" => flags.rounding = Some(Rounding::Zero),
            "rm" | "rmi" => flags.rounding = Some(Rounding::Down),
            "rp" | "rpi" => flags.rounding = Some(Rounding::Up),
            "rna" => flags.rounding = Some(Rounding::Away),
            "ftz" => flags.flush = true,
            "sat" | "satfinite" => flags.saturate = true,
            "relu" => flags.relu = true,
            "NaN" => flags.nan = true,
            "hi" => flags.hi = true,
            "wide" => flags.wide = true,
            "clamp" => flags.clamp = true,
            _ => {}
        }
    }
    flags
}
