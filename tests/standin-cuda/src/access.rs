//! What a warp does to memory: loads, stores, atomic operations, asynchronous copies.
//!
//! Every access is checked: that its allocation has it, alignment, races, and that no asynchronous copy to the same bytes is
//! under way. Such a copy overwrites its bytes with 0xFF when it is given and delivers when it is waited for, so that a
//! kernel that does not wait is reported, and computes NaN where races are not looked at.

use crate::kernel::{Atomic, Inst, LOCAL_WINDOW, Place, Reg, SHARED_WINDOW, Space};
use crate::memory::Fault;
use crate::races::Touch;
use crate::types::{Bf16, F16, Float, Ty, with_float, with_int};
use crate::warp::{Context, Trouble, Warp, lanes_of, misaligned, trouble};

/// An asynchronous copy under way.
pub struct Copy {
    lane: u32,
    /// Offset in shared memory.
    to: usize,
    from: u64,
    data: [u8; 16],
    /// How many bytes are read; the others are 0.
    valid: usize,
    bytes: usize,
    line: u32,
}

impl Warp {
    pub fn address(&self, place: &Place, lane: usize) -> u64 {
        self.reg(place.base)[lane].get().wrapping_add_signed(place.offset)
    }

    /// The memory that a lane reads or writes, checked.
    #[allow(clippy::too_many_arguments)]
    pub fn reach<'m>(
        &'m mut self,
        inst: &Inst,
        at: usize,
        lane: usize,
        place: &Place,
        size: usize,
        touch: Touch,
        context: &'m mut Context,
    ) -> Result<&'m mut [u8], Trouble> {
        let mut address = self.address(place, lane);
        if address & (size as u64 - 1) != 0 {
            return Err(misaligned(inst, lane, address, size));
        }
        let mut space = place.space;
        if space == Space::Generic {
            (space, address) = match address {
                a if a >= LOCAL_WINDOW => (Space::Local, a - LOCAL_WINDOW),
                a if a >= SHARED_WINDOW => (Space::Shared, a - SHARED_WINDOW),
                a => (Space::Global, a),
            };
        }
        let outside = |near: String| Trouble {
            address: Some(address),
            ..trouble(inst, lane as u32, format!("{size} bytes out of bounds in {space:?} memory, {near}"))
        };
        let (piece, start) = match space {
            Space::Local => {
                let each = self.local.len() / 32;
                // 32-bit addresses of shared and local memory may carry anything above.
                let start = (address & 0xFFFF_FFFF) as usize;
                if start + size > each {
                    return Err(outside(format!("which has {each} bytes")));
                }
                return Ok(&mut self.local[each * lane + start..each * lane + start + size]);
            }
            Space::Shared => {
                let (start, all) = ((address & 0xFFFF_FFFF) as usize, context.shared.bytes.len());
                if start + size > all {
                    return Err(outside(format!("of which the block has {all} bytes")));
                }
                let words = &context.arriving[start / 4..(start + size).div_ceil(4)];
                if let (true, Some(line)) = (context.check_races, words.iter().find(|line| **line != 0)) {
                    let what =
                        format!("the cp.async of line {line} to these bytes is under way: nothing waited for it");
                    return Err(Trouble { address: Some(address), race: true, ..trouble(inst, lane as u32, what) });
                }
                (&mut context.shared, start)
            }
            Space::Global | Space::Generic => {
                context.memory.find(address, size as u64, &mut context.hints[at]).map_err(|fault| match fault {
                    Fault::Outside(near) => outside(near),
                    Fault::Misaligned | Fault::Race(_) => outside(String::new()),
                })?
            }
        };
        if context.check_races {
            let conflict = piece.touch(start, size, &mut context.clock, &self.moment, lane as u32, touch);
            if let Some(conflict) = conflict {
                let Fault::Race(other) = Fault::from(conflict) else { unreachable!("a conflict is a race") };
                let verb = if touch == Touch::Read { "reads" } else { "writes" };
                return Err(Trouble {
                    address: Some(address),
                    race: true,
                    ..trouble(inst, lane as u32, format!("race in {space:?} memory: this thread {verb}, {other}"))
                });
            }
        }
        Ok(&mut piece.bytes[start..start + size])
    }

    /// Loads, lane by lane.
    pub fn load(
        &mut self,
        inst: &Inst,
        at: usize,
        mask: u32,
        context: &mut Context,
        (into, place, ty, ordered): (&[Reg], &Place, Ty, bool),
    ) -> Result<(), Trouble> {
        let each = ty.bytes() as usize;
        let touch = if ordered { Touch::Atomic } else { Touch::Read };
        for lane in lanes_of(mask) {
            let mut raw = [0u8; 32];
            let size = each * into.len();
            raw[..size].copy_from_slice(self.reach(inst, at, lane, place, size, touch, context)?);
            for (i, d) in into.iter().enumerate() {
                let bytes = &raw[each * i..each * (i + 1)];
                let value = match bytes {
                    [a] if ty == Ty::S8 => *a as i8 as u64,
                    [a] => u64::from(*a),
                    [a, b] if ty == Ty::S16 => i16::from_le_bytes([*a, *b]) as u64,
                    [a, b] => u64::from(u16::from_le_bytes([*a, *b])),
                    [a, b, c, d] if ty == Ty::S32 => i32::from_le_bytes([*a, *b, *c, *d]) as u64,
                    [a, b, c, d] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])),
                    _ => u64::from_le_bytes(bytes.try_into().expect("types have 1, 2, 4 or 8 bytes")),
                };
                self.reg(*d)[lane].set(value);
            }
        }
        Ok(())
    }

    /// Stores, lane by lane.
    pub fn store(
        &mut self,
        inst: &Inst,
        at: usize,
        mask: u32,
        context: &mut Context,
        (from, place, ty, ordered): (&[Reg], &Place, Ty, bool),
    ) -> Result<(), Trouble> {
        let each = ty.bytes() as usize;
        let touch = if ordered { Touch::Atomic } else { Touch::Write };
        for lane in lanes_of(mask) {
            let mut raw = [0u8; 32];
            for (i, a) in from.iter().enumerate() {
                raw[each * i..each * (i + 1)].copy_from_slice(&self.reg(*a)[lane].get().to_le_bytes()[..each]);
            }
            let size = each * from.len();
            self.reach(inst, at, lane, place, size, touch, context)?.copy_from_slice(&raw[..size]);
        }
        Ok(())
    }

    /// An atomic operation, lane by lane.
    pub fn atomic(
        &mut self,
        inst: &Inst,
        at: usize,
        mask: u32,
        context: &mut Context,
        (d, place, [a, b], ty, op): (Option<Reg>, &Place, [Reg; 2], Ty, Atomic),
    ) -> Result<(), Trouble> {
        for lane in lanes_of(mask) {
            let size = ty.bytes() as usize;
            let (x, y) = (self.reg(a)[lane].get(), self.reg(b)[lane].get());
            let bytes = self.reach(inst, at, lane, place, size, Touch::Atomic, context)?;
            let mut raw = [0; 8];
            raw[..size].copy_from_slice(bytes);
            let old = u64::from_le_bytes(raw);
            bytes.copy_from_slice(&combine(op, ty, old, x, y).to_le_bytes()[..size]);
            if let Some(d) = d {
                self.reg(d)[lane].set(old);
            }
        }
        Ok(())
    }

    /// Asynchronous copies are given: their source is read, what they will overwrite is lost.
    pub fn begin_copies(
        &mut self,
        inst: &Inst,
        at: usize,
        mask: u32,
        context: &mut Context,
        (to, from, bytes, valid): (&Place, &Place, usize, Option<Reg>),
    ) -> Result<(), Trouble> {
        for lane in lanes_of(mask) {
            let valid = valid.map_or(bytes as u64, |v| self.reg(v)[lane].get() & 0xFFFF_FFFF);
            if valid > bytes as u64 {
                let what = format!("cp.async of {bytes} bytes is to read {valid}");
                return Err(trouble(inst, lane as u32, what));
            }
            let (valid, address) = (valid as usize, self.address(from, lane));
            if !address.is_multiple_of(bytes as u64) {
                return Err(misaligned(inst, lane, address, bytes));
            }
            // Only the valid bytes are read: byte by byte, unless all are.
            let each = if valid == bytes { bytes } else { 1 };
            let mut data = [0; 16];
            for i in (0..valid).step_by(each) {
                let part = Place { offset: from.offset + i as i64, ..*from };
                let read = self.reach(inst, at, lane, &part, each, Touch::Read, context)?;
                data[i..i + each].copy_from_slice(read);
            }
            self.reach(inst, at, lane, to, bytes, Touch::Write, context)?.fill(0xFF);
            let to = (self.address(to, lane) & 0xFFFF_FFFF) as usize;
            context.arriving[to / 4..(to + bytes) / 4].fill(inst.line);
            self.open.push(Copy { lane: lane as u32, to, from: address, data, valid, bytes, line: inst.line });
        }
        Ok(())
    }

    /// The copies since the last group become one.
    pub fn commit_copies(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// Delivers what the oldest groups copy, until `pending` are left; `None` also delivers what is in no group.
    pub fn wait_for_copies(&mut self, pending: Option<u32>, context: &mut Context) -> Result<(), Trouble> {
        if pending.is_none() {
            self.commit_copies();
        }
        while self.groups.len() > pending.unwrap_or(0) as usize {
            for copy in self.groups.pop_front().expect("there are some") {
                self.deliver(&copy, context)?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, copy: &Copy, context: &mut Context) -> Result<(), Trouble> {
        let here = |address: u64, what: String| Trouble {
            line: copy.line,
            lane: copy.lane,
            address: Some(address),
            misaligned: false,
            race: true,
            what,
        };
        let range = copy.to..copy.to + copy.bytes;
        context.arriving[copy.to / 4..range.end / 4].fill(0);
        if context.check_races {
            let source =
                context.memory.range(copy.from, copy.valid as u64).map(|source| source == &copy.data[..copy.valid]);
            if copy.valid != 0 && !source.unwrap_or(false) {
                return Err(here(copy.from, "what this cp.async reads changed before it was waited for".to_string()));
            }
            let touch = Touch::Write;
            let conflict =
                context.shared.touch(copy.to, copy.bytes, &mut context.clock, &self.moment, copy.lane, touch);
            if let Some(conflict) = conflict {
                let Fault::Race(other) = Fault::from(conflict) else { unreachable!("a conflict is a race") };
                return Err(here(copy.to as u64, format!("race in Shared memory: this cp.async writes, {other}")));
            }
        }
        context.shared.bytes[range].copy_from_slice(&copy.data[..copy.bytes]);
        Ok(())
    }
}

/// What an atomic operation leaves in memory.
fn combine(op: Atomic, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let equal = |x: u64, y: u64| x << (64 - 8 * ty.bytes()) == y << (64 - 8 * ty.bytes());
    match op {
        Atomic::And => old & a,
        Atomic::Or => old | a,
        Atomic::Xor => old ^ a,
        Atomic::Exchange => a,
        Atomic::CompareExchange => {
            if equal(old, a) {
                b
            } else {
                old
            }
        }
        Atomic::Add if ty.float() => with_float!(ty, T => T::of(old).add(T::of(a)).lane()).unwrap_or(old),
        Atomic::Add => old.wrapping_add(a),
        Atomic::Min => with_int!(ty, T => (old as T).min(a as T) as u64).unwrap_or(old),
        Atomic::Max => with_int!(ty, T => (old as T).max(a as T) as u64).unwrap_or(old),
    }
}
