//! What moves between the threads of a warp: reductions, extracted lanes, shuffles.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Val;
use onnxc_ir::scalar::BinaryOp;

use super::kernel::{Emit, WARP, class_of, ins, per_thread};
use super::text::{Class, Reg};

impl Emit<'_> {
    /// `shfl.sync` of a register of any class; `mode` is `bfly` or `idx`, `lane` its operand.
    fn exchange(&mut self, mode: &str, from: Reg, lane: &str) -> Reg {
        match from.class {
            Class::B16 | Class::B32 => {
                let d = self.reg(Class::B32);
                ins!(self, "shfl.sync.{mode}.b32 {d}, {from}, {lane}, 31, 0xffffffff");
                d
            }
            Class::B64 => {
                let (low, high, d) = (self.reg(Class::B32), self.reg(Class::B32), self.reg(Class::B64));
                ins!(self, "mov.b64 {{{low}, {high}}}, {from}");
                let low = self.exchange(mode, low, lane);
                let high = self.exchange(mode, high, lane);
                ins!(self, "mov.b64 {d}, {{{low}, {high}}}");
                d
            }
            Class::Pred => {
                let (bit, d) = (self.reg(Class::B32), self.reg(Class::Pred));
                ins!(self, "selp.b32 {bit}, 1, 0, {from}");
                let bit = self.exchange(mode, bit, lane);
                ins!(self, "setp.ne.b32 {d}, {bit}, 0");
                d
            }
        }
    }

    /// All lanes combined, in every thread: lanes `i` and `i + n/2` pair up, so threads meet before a thread's own lanes.
    pub(super) fn reduce(&mut self, op: BinaryOp, a: Val) -> Reg {
        let ty = self.ty(a);
        assert!(ty.lanes.is_power_of_two(), "a tree of pairs has a power of two of leaves");
        let mut slots = self.get(a).into_vec();
        // Integers, extremes and masks give the same in every order: a thread's own lanes first.
        let ordered = ty.dtype.is_float() && matches!(op, BinaryOp::Add | BinaryOp::Mul);
        if !ordered {
            slots = vec![self.fold(op, ty.dtype, slots)];
        }
        let mut distance = ty.lanes.min(WARP) / 2;
        while distance > 0 {
            for slot in &mut slots {
                let other = self.exchange("bfly", *slot, &distance.to_string());
                *slot = self.binary_one(op, ty.dtype, *slot, other);
            }
            distance /= 2;
        }
        let result = self.fold(op, ty.dtype, slots);
        // Threads without lanes have taken part among themselves.
        if ty.lanes < WARP { self.exchange("idx", result, "0") } else { result }
    }

    fn fold(&mut self, op: BinaryOp, dtype: DType, mut slots: Vec<Reg>) -> Reg {
        while slots.len() > 1 {
            let high = slots.split_off(slots.len() / 2);
            slots = slots.iter().zip(&high).map(|(&a, &b)| self.binary_one(op, dtype, a, b)).collect();
        }
        slots[0]
    }

    /// One lane, in every thread.
    pub(super) fn extract(&mut self, a: Val, lane: u16) -> Reg {
        let each = per_thread(self.ty(a).lanes);
        let slot = self.get(a)[usize::from(lane % each)];
        self.exchange("idx", slot, &(lane / each).to_string())
    }

    /// Lanes picked from two vectors. For each register that holds some of the lanes of a result's register, the threads
    /// exchange it, each from the thread that its lane is in.
    pub(super) fn shuffle(&mut self, a: Val, b: Val, lanes: &[u16]) -> Vec<Reg> {
        let ty = self.ty(a);
        let (from, to) = (per_thread(ty.lanes), per_thread(lanes.len() as u16));
        let (first, second) = (self.get(a), self.get(b));
        let source = |lane: u16| {
            let (list, lane) = if lane < ty.lanes { (&first, lane) } else { (&second, lane - ty.lanes) };
            (list[usize::from(lane % from)], lane / from)
        };
        (0..to)
            .map(|slot| {
                let picks: Vec<(Reg, u16)> =
                    (0..WARP).filter_map(|t| lanes.get(usize::from(t * to + slot)).map(|&lane| source(lane))).collect();
                let mut registers: Vec<Reg> = picks.iter().map(|&(r, _)| r).collect();
                registers.sort_unstable_by_key(Reg::to_string);
                registers.dedup();
                let threads: Vec<u16> = picks.iter().map(|&(_, t)| t).collect();
                // Each thread's own lanes stay where they are.
                if let [own] = registers[..]
                    && threads.iter().enumerate().all(|(t, &from)| t == usize::from(from))
                {
                    return own;
                }
                let index = self.table(&threads);
                let mut result: Option<Reg> = None;
                for register in registers {
                    let got = self.exchange("idx", register, &index.to_string());
                    let Some(others) = result else {
                        result = Some(got);
                        continue;
                    };
                    let members = picks.iter().enumerate().filter(|(_, pick)| pick.0 == register);
                    let mask = members.fold(0u32, |mask, (t, _)| mask | 1 << t);
                    result = Some(self.merge(mask, got, others));
                }
                result.expect("a result has lanes")
            })
            .collect()
    }

    /// `a` in the threads of the mask, `b` in the others.
    fn merge(&mut self, mask: u32, a: Reg, b: Reg) -> Reg {
        let (bit, p, thread) = (self.reg(Class::B32), self.reg(Class::Pred), self.thread);
        ins!(self, "bfe.u32 {bit}, 0x{mask:08X}, {thread}, 1");
        ins!(self, "setp.ne.b32 {p}, {bit}, 0");
        if a.class != Class::Pred {
            return self.select_one(p, a, b);
        }
        let (bits, d) = ((self.reg(Class::B32), self.reg(Class::B32), self.reg(Class::B32)), self.reg(Class::Pred));
        ins!(self, "selp.b32 {}, 1, 0, {a}", bits.0);
        ins!(self, "selp.b32 {}, 1, 0, {b}", bits.1);
        ins!(self, "selp.b32 {}, {}, {}, {p}", bits.2, bits.0, bits.1);
        ins!(self, "setp.ne.b32 {d}, {}, 0", bits.2);
        d
    }

    /// For each thread its number of the list, all below 32: bit by bit from masks, without memory.
    fn table(&mut self, numbers: &[u16]) -> Reg {
        let (result, thread) = (self.reg(Class::B32), self.thread);
        ins!(self, "mov.b32 {result}, 0");
        for bit in 0..5 {
            let mask = numbers.iter().enumerate().fold(0u32, |m, (t, &n)| m | u32::from(n >> bit & 1) << t);
            if mask == 0 {
                continue;
            }
            let one = self.reg(Class::B32);
            ins!(self, "bfe.u32 {one}, 0x{mask:08X}, {thread}, 1");
            ins!(self, "bfi.b32 {result}, {one}, {result}, {bit}, 1");
        }
        result
    }

    /// The number of a lane that a thread holds, for scalars too.
    pub(super) fn lane_number_of(&mut self, lanes: u16, slot: usize) -> Reg {
        if lanes > 1 {
            return self.lane_number(lanes, slot);
        }
        let r = self.reg(class_of(DType::I32));
        ins!(self, "mov.b32 {r}, 0");
        r
    }
}
