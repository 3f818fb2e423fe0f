//! Instructions of Hopper: barriers in memory, fences between proxies, products of groups of warps.

use super::Decoder;
use crate::barriers::Deed;
use crate::groups::Product;
use crate::kernel::{Multiplicand, Op, Space};
use crate::tensor::BoxCopy;
use crate::text::{Operand, Read, Statement, refuse};
use crate::types::Ty;

impl Decoder<'_> {
    pub(super) fn barrier(&mut self, s: &Statement) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let parts: Vec<&str> = s.opcode[1..].iter().map(String::as_str).collect();
        let nowhere = |operand: &Operand| matches!(operand, Operand::Name(name) if name == "_");
        let (place, deed) = match (&parts[..], &o[..]) {
            (["init", "shared::cta", "b64"], [place, count]) => (place, Deed::Make(self.reg(count, Ty::U32, line)?)),
            (["arrive", "shared::cta", "b64"], [state, place]) if nowhere(state) => (place, Deed::Arrive(None)),
            (["arrive", "expect_tx", "shared::cta", "b64"], [state, place, bytes]) if nowhere(state) => {
                (place, Deed::Arrive(Some(self.reg(bytes, Ty::U32, line)?)))
            }
            (["expect_tx", "relaxed", "cta", "shared::cta", "b64"], [place, bytes]) => {
                (place, Deed::Expect(self.reg(bytes, Ty::U32, line)?))
            }
            (["try_wait", "parity", "shared::cta", "b64"], [Operand::Name(p), place, parity]) => {
                (place, Deed::Ask { holds: self.pred(p, line)?, parity: self.reg(parity, Ty::U32, line)? })
            }
            _ => return refuse(line, format!("'{}' is not in the subset", s.opcode.join("."))),
        };
        Ok(Op::Barrier { place: self.place(place, Space::Shared, line)?, deed })
    }

    pub(super) fn copy_box(&mut self, s: &Statement) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let unknown = || refuse(line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let parts: Vec<&str> = s.opcode[1..].iter().map(String::as_str).collect();
        let ["async", "bulk", "tensor", rank, "shared::cluster", "global", "mbarrier::complete_tx::bytes"] = parts[..]
        else {
            return unknown();
        };
        let [to, Operand::Box(map, coordinates), barrier] = &o[..] else { return unknown() };
        if rank != format!("{}d", coordinates.len()) {
            return refuse(line, "a tensor has as many coordinates as dimensions");
        }
        let map = self.reg(&Operand::Name(map.clone()), Ty::U64, line)?;
        let coordinates = coordinates.iter().map(|c| self.reg(c, Ty::S32, line)).collect::<Read<_>>()?;
        let to = self.place(to, Space::Shared, line)?;
        let barrier = self.place(barrier, Space::Shared, line)?;
        Ok(Op::CopyBox(Box::new(BoxCopy { to, map, coordinates, barrier })))
    }

    pub(super) fn registers(&mut self, s: &Statement) -> Read<Op> {
        let parts: Vec<&str> = s.opcode[1..].iter().map(String::as_str).collect();
        match (&parts[..], &s.operands[..]) {
            (["inc" | "dec", "sync", "aligned", "u32"], [Operand::Int(n @ 24..=256)]) if n % 8 == 0 => {
                Ok(Op::SetRegisters(*n as u32))
            }
            _ => refuse(s.line, "setmaxnreg takes a multiple of 8 from 24 to 256"),
        }
    }

    pub(super) fn group(&mut self, s: &Statement) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let unknown = || refuse(line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let parts: Vec<&str> = s.opcode[1..].iter().map(String::as_str).collect();
        let (shape, sum, types) = match parts[..] {
            ["fence", "sync", "aligned"] => return Ok(Op::ProductFence),
            ["commit_group", "sync", "aligned"] => return Ok(Op::ProductCommit),
            ["wait_group", "sync", "aligned"] => match o.first() {
                Some(Operand::Int(n @ 0..=7)) => return Ok(Op::ProductWait(*n as u32)),
                _ => return refuse(line, "wgmma.wait_group takes a number from 0 to 7"),
            },
            ["mma_async", "sync", "aligned", shape, sum, a, b] => (shape, sum, [a, b]),
            _ => return unknown(),
        };
        let kinds = types.map(|ty| match ty {
            "f16" => Some(Multiplicand::Half),
            "bf16" => Some(Multiplicand::Brain),
            "tf32" => Some(Multiplicand::Tensor),
            "s8" => Some(Multiplicand::Byte { signed: true }),
            "u8" => Some(Multiplicand::Byte { signed: false }),
            _ => None,
        });
        let [Some(left), Some(right)] = kinds else { return unknown() };
        let byte = matches!(left, Multiplicand::Byte { .. });
        // Depth, and the immediate operands behind `scale-d`: signs of both, then whether both are turned.
        let (depth, immediates) = match left {
            Multiplicand::Half | Multiplicand::Brain => (16, 4),
            Multiplicand::Tensor => (8, 2),
            Multiplicand::Byte { .. } => (32, 0),
        };
        let columns = shape.strip_prefix("m64n").and_then(|rest| rest.strip_suffix(&format!("k{depth}")));
        let Some(columns) = columns.and_then(|n| n.parse::<u32>().ok()) else { return unknown() };
        let allowed = columns.is_multiple_of(if byte && columns > 24 { 16 } else { 8 }) && (8..=256).contains(&columns);
        if !allowed || left != right || sum != if byte { "s32" } else { "f32" } || o.len() != 4 + immediates {
            return unknown();
        }
        let numbers: Vec<i64> =
            o[4..].iter().filter_map(|o| if let Operand::Int(n) = o { Some(*n) } else { None }).collect();
        let turned = match numbers[..] {
            [] | [1, 1] if numbers.len() == immediates => [false; 2],
            [1, 1, a @ 0..=1, b @ 0..=1] => [a == 1, b == 1],
            _ => return unknown(),
        };
        let sums = self.list_into(&o[0], line)?;
        if sums.len() != columns as usize / 2 {
            return refuse(line, "wgmma has half as many accumulators as columns");
        }
        let descriptors = [self.reg(&o[1], Ty::B64, line)?, self.reg(&o[2], Ty::B64, line)?];
        let add = self.guard(&o[3], line)?;
        Ok(Op::Product(Box::new(Product { sums, descriptors, kinds: [left, right], turned, add })))
    }
}
