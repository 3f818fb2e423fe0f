//! Instructions on memory and on matrices.

use super::{Decoder, Symbol};
use crate::kernel::{Atomic, Given, Multiplicand, Op, Space};
use crate::matrix;
use crate::text::{Operand, Read, Statement, refuse};
use crate::types::{LaneFn, Lanes, Ty, lanes};

impl Decoder<'_> {
    pub(super) fn load(&mut self, s: &Statement) -> Read<Op> {
        let o = &s.operands;
        let Some(ty) = s.opcode.last().and_then(|t| Ty::of(t)) else { return refuse(s.line, "a load has a type") };
        let into = self.list_into(&o[0], s.line)?;
        if s.opcode.iter().any(|p| p == "param") {
            let Operand::Address(Some(name), offset) = &o[1] else { return refuse(s.line, "a parameter has a name") };
            let Some(Symbol::Param(at)) = self.symbol(name) else {
                return refuse(s.line, format!("'{name}' is no parameter"));
            };
            let [d] = into[..] else { return refuse(s.line, "vectors of parameters are not in the subset") };
            let offset = at.wrapping_add_signed(*offset as i32);
            let a = self.give(Given::Param { offset, bytes: ty.bytes(), signed: ty.signed() });
            return Ok(Op::Lanes { f: lanes!(a, b, c => a), d, a, b: a, c: a });
        }
        let space = space(s);
        Ok(Op::Load { into, place: self.place(&o[1], space, s.line)?, ty, ordered: ordered(s) })
    }

    pub(super) fn atomic(&mut self, s: &Statement) -> Read<Op> {
        let unknown = || refuse(s.line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let find = |names: &[&str]| s.opcode[1..].iter().find(|p| names.contains(&p.as_str())).cloned();
        let Some(ty) = s.opcode.last().and_then(|t| Ty::of(t)) else { return unknown() };
        let op = match find(&["add", "min", "max", "and", "or", "xor", "exch", "cas"]).as_deref() {
            Some("add") => Atomic::Add,
            Some("min") => Atomic::Min,
            Some("max") => Atomic::Max,
            Some("and") => Atomic::And,
            Some("or") => Atomic::Or,
            Some("xor") => Atomic::Xor,
            Some("exch") => Atomic::Exchange,
            Some("cas") => Atomic::CompareExchange,
            _ => return unknown(),
        };
        let returns = s.opcode[0] == "atom";
        let (d, rest) = if returns {
            (Some(self.into(&s.operands[0], s.line)?), &s.operands[1..])
        } else {
            (None, &s.operands[..])
        };
        if rest.len() != if op == Atomic::CompareExchange { 3 } else { 2 } || matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            return unknown();
        }
        let place = self.place(&rest[0], space(s), s.line)?;
        let a = self.reg(&rest[1], ty, s.line)?;
        let b = rest.get(2).map_or(Ok(a), |b| self.reg(b, ty, s.line))?;
        Ok(Op::Atomic { d, place, a, b, ty, op })
    }

    pub(super) fn copy(&mut self, s: &Statement) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let parts: Vec<&str> = s.opcode[1..].iter().map(String::as_str).collect();
        Ok(match parts[..] {
            ["async", "commit_group"] => Op::CopyCommit,
            ["async", "wait_all"] => Op::CopyWait(None),
            ["async", "wait_group"] => match o.first() {
                Some(Operand::Int(n)) => Op::CopyWait(Some(*n as u32)),
                _ => return refuse(line, "cp.async.wait_group takes a number"),
            },
            ["async", cache, "shared" | "shared::cta", "global"]
            | ["async", cache, "shared" | "shared::cta", "global", "L2::64B" | "L2::128B" | "L2::256B"] => {
                let (Some(Operand::Int(bytes)), 3 | 4) = (o.get(2), o.len()) else {
                    return refuse(line, "cp.async takes two addresses and a size");
                };
                let bytes = *bytes as u32;
                if !matches!((cache, bytes), ("ca", 4 | 8 | 16) | ("cg", 16)) {
                    return refuse(line, format!("cp.async.{cache} cannot copy {bytes} bytes"));
                }
                let to = self.place(&o[0], Space::Shared, line)?;
                let from = self.place(&o[1], Space::Global, line)?;
                let valid = o.get(3).map(|v| self.reg(v, Ty::U32, line)).transpose()?;
                Op::Copy { to, from, bytes, valid }
            }
            _ => return refuse(line, format!("'{}' is not in the subset", s.opcode.join("."))),
        })
    }

    pub(super) fn mma(&mut self, s: &Statement, types: &[Ty]) -> Read<Op> {
        let unknown = || refuse(s.line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let kind = |ty| match ty {
            Ty::F16 => Some(Multiplicand::Half),
            Ty::Bf16 => Some(Multiplicand::Brain),
            Ty::Tf32 => Some(Multiplicand::Tensor),
            Ty::S8 => Some(Multiplicand::Byte { signed: true }),
            Ty::U8 => Some(Multiplicand::Byte { signed: false }),
            _ => None,
        };
        // A is by rows and B by columns in all shapes; sums of bytes wrap.
        let shape = match s.opcode[1..].iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sync", "aligned", shape, "row", "col", _, _, _, _] => shape,
            _ => return unknown(),
        };
        let k = shape.strip_prefix("m16n8k").and_then(|k| k.parse().ok());
        let (&[to, a, b, from], Some(k), 4) = (types, k, s.operands.len()) else { return unknown() };
        let (Some(left), Some(right)) = (kind(a), kind(b)) else { return unknown() };
        let bytes = |m| matches!(m, Multiplicand::Byte { .. });
        let Some((na, nb)) = matrix::registers(left, k) else { return unknown() };
        let half = to == Ty::F16 && left == Multiplicand::Half;
        let sums = if bytes(left) {
            Ty::S32
        } else if half {
            Ty::F16
        } else {
            Ty::F32
        };
        if to != sums || from != sums || !(left == right || bytes(left) && bytes(right)) {
            return unknown();
        }
        let d = self.list_into(&s.operands[0], s.line)?;
        let [a, b, c] = [1, 2, 3].map(|i| self.list(&s.operands[i], Ty::B32, s.line));
        let (a, b, c) = (a?, b?, c?);
        let nc = if half { 2 } else { 4 };
        if (d.len(), a.len(), b.len(), c.len()) != (nc, na, nb, nc) {
            return refuse(s.line, "an operand of mma has another number of registers");
        }
        Ok(Op::Multiply { d, a, b, c, types: (left, right), half })
    }
}

/// Where an instruction says that its address is.
pub(super) fn space(s: &Statement) -> Space {
    let mut parts = s.opcode[1..].iter().map(String::as_str);
    parts
        .find_map(|p| match p {
            "global" | "const" => Some(Space::Global),
            "shared" | "shared::cta" => Some(Space::Shared),
            "local" => Some(Space::Local),
            _ => None,
        })
        .unwrap_or(Space::Generic)
}

/// Whether the access takes part in the memory order by itself.
pub(super) fn ordered(s: &Statement) -> bool {
    s.opcode.iter().any(|p| matches!(p.as_str(), "relaxed" | "acquire" | "release" | "volatile"))
}
