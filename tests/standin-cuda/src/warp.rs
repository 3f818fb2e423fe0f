//! A warp: 32 threads in lockstep, with a stack of paths that diverged.
//!
//! Paths meet at the branch's immediate post-dominator. Instructions of several threads (`.sync`) want all their members
//! there: where a device would wait or misbehave, this reports.

use std::collections::VecDeque;

use crate::arith::insert;
use crate::kernel::{
    Atomic, Given, Guard, Inst, Kernel, LOCAL_WINDOW, Op, Place, Reg, SHARED_WINDOW, Shuffle, Space, Vote,
};
use crate::launch::Grid;
use crate::matrix;
use crate::memory::{Fault, Memory, Piece};
use crate::races::{Clock, Moment, Touch};
use crate::types::{Float, Lanes, Ty, with_float, with_int, zero};

/// What a block and its launch own.
pub struct Context<'a> {
    pub kernel: &'a Kernel,
    pub memory: &'a mut Memory,
    pub shared: Piece,
    pub clock: Clock,
    pub params: &'a [u8],
    pub grid: Grid,
    pub block: [u32; 3],
    /// Allocation that each instruction last touched.
    pub hints: Vec<u32>,
    pub check_races: bool,
    pub executed: u64,
}

/// An error of a thread.
#[derive(Debug)]
pub struct Trouble {
    pub line: u32,
    pub lane: u32,
    pub address: Option<u64>,
    pub misaligned: bool,
    pub race: bool,
    pub what: String,
}

/// Why a warp stopped.
pub enum Stop {
    Done,
    /// At a block barrier, with how many threads.
    Barrier {
        id: u64,
        threads: Option<u64>,
        line: u32,
    },
}

#[derive(Clone, Copy)]
struct Path {
    at: u32,
    join: u32,
    mask: u32,
}

struct Copy {
    lane: u32,
    to: u64,
    data: [u8; 16],
    bytes: usize,
    line: u32,
}

/// A warp's state.
pub struct Warp {
    regs: Vec<Lanes>,
    preds: Vec<u32>,
    paths: Vec<Path>,
    alive: u32,
    pub moment: Moment,
    number: u32,
    local: Vec<u8>,
    open: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
}

impl Warp {
    /// A warp with registers for a kernel.
    pub fn new(kernel: &Kernel, moment: Moment) -> Warp {
        Warp {
            regs: (0..kernel.registers).map(|_| zero()).collect(),
            preds: vec![0; kernel.predicates],
            paths: Vec::new(),
            alive: 0,
            moment,
            number: 0,
            local: vec![0xFF; kernel.local as usize * 32],
            open: Vec::new(),
            groups: VecDeque::new(),
        }
    }

    /// Sets up the warp of this number in the context's block.
    pub fn start(&mut self, number: u32, moment: Moment, context: &Context) {
        let threads = context.grid.threads;
        let total = threads[0] * threads[1] * threads[2];
        let count = (total - 32 * number).min(32);
        let mask = if count == 32 { u32::MAX } else { (1 << count) - 1 };
        self.number = number;
        self.moment = moment;
        self.alive = mask;
        self.paths = vec![Path { at: 0, join: u32::MAX, mask }];
        self.preds[0] = u32::MAX;
        self.open.clear();
        self.groups.clear();
        for (reg, given) in &context.kernel.given {
            for (lane, cell) in self.regs[*reg as usize].iter().enumerate() {
                let thread = 32 * number + lane as u32;
                cell.set(match *given {
                    Given::Constant(value) => value,
                    Given::Param { offset, bytes, signed } => parameter(context.params, offset, bytes, signed),
                    Given::Thread(0) => u64::from(thread % threads[0]),
                    Given::Thread(1) => u64::from(thread / threads[0] % threads[1]),
                    Given::Thread(_) => u64::from(thread / threads[0] / threads[1]),
                    Given::Threads(axis) => u64::from(threads[axis]),
                    Given::Block(axis) => u64::from(context.block[axis]),
                    Given::Blocks(axis) => u64::from(context.grid.blocks[axis]),
                    Given::Lane => lane as u64,
                    Given::WarpInBlock => u64::from(number),
                    Given::Clock => context.executed,
                    Given::DynamicShared => context.kernel.shared.next_multiple_of(16),
                    Given::LaneMaskBelow => (1 << lane) - 1,
                });
            }
        }
    }

    /// Whether all its threads have ended.
    pub fn done(&self) -> bool {
        self.alive == 0
    }

    fn holds(&self, guard: Guard) -> u32 {
        self.preds[guard.pred as usize] ^ if guard.negated { u32::MAX } else { 0 }
    }

    fn reg(&self, reg: Reg) -> &Lanes {
        &self.regs[reg as usize]
    }

    fn set_pred(&mut self, pred: u32, value: u32, mask: u32) {
        let p = &mut self.preds[pred as usize];
        *p = *p & !mask | value & mask;
    }

    /// Runs until the warp ends or waits for the block.
    pub fn run(&mut self, context: &mut Context) -> Result<Stop, Trouble> {
        let kernel = context.kernel;
        loop {
            let Some(path) = self.paths.last_mut() else { return Ok(Stop::Done) };
            if path.at == path.join || path.mask == 0 {
                self.paths.pop();
                continue;
            }
            let at = path.at as usize;
            let inst = &kernel.insts[at];
            path.at += 1;
            let all = path.mask;
            let mask = all & self.holds(inst.guard);
            context.executed += 1;
            match &inst.op {
                Op::Branch { target, join } => self.branch(*target, *join, mask, all),
                Op::Exit => {
                    self.alive &= !mask;
                    self.paths.iter_mut().for_each(|p| p.mask &= !mask);
                    self.paths.retain(|p| p.mask != 0);
                    if self.alive == 0 {
                        self.paths.clear();
                        return Ok(Stop::Done);
                    }
                }
                _ if mask == 0 => {}
                Op::Lanes { f, d, a, b, c } => f(self.reg(*d), self.reg(*a), self.reg(*b), self.reg(*c), mask),
                Op::BlockBarrier { id, threads } => {
                    let first = mask.trailing_zeros() as usize;
                    if mask != self.alive {
                        return Err(trouble(inst, first as u32, "a block barrier by a part of a warp".to_string()));
                    }
                    let value = |reg: &Reg| self.reg(*reg)[first].get();
                    let threads = threads.as_ref().map(|t| value(t) & 0xFFFF_FFFF);
                    return Ok(Stop::Barrier { id: value(id) & 15, threads, line: inst.line });
                }
                _ => self.step(inst, at, mask, context)?,
            }
        }
    }

    fn branch(&mut self, target: u32, join: u32, mask: u32, all: u32) {
        let path = self.paths.last_mut().expect("the one that runs");
        if mask == all {
            path.at = target;
            return;
        }
        if mask == 0 {
            return;
        }
        let through = path.at;
        // This path goes on behind the meeting point, unless it only waited for it too.
        path.at = join;
        if path.join == join {
            self.paths.pop();
        }
        for (at, mask) in [(through, all & !mask), (target, mask)] {
            if at != join {
                self.paths.push(Path { at, join, mask });
            }
        }
    }

    fn members(&self, inst: &Inst, members: Reg, mask: u32) -> Result<(), Trouble> {
        for lane in lanes_of(mask) {
            let named = self.reg(members)[lane].get() as u32 & self.alive;
            if named != mask {
                let what = format!("members {named:#x} are named, but lanes {mask:#x} are here");
                return Err(trouble(inst, lane as u32, what));
            }
        }
        Ok(())
    }

    fn step(&mut self, inst: &Inst, at: usize, mask: u32, context: &mut Context) -> Result<(), Trouble> {
        match &inst.op {
            Op::Lanes { .. } | Op::Branch { .. } | Op::Exit | Op::BlockBarrier { .. } | Op::Nothing => {}
            Op::Convert { conversion, d, a } => {
                for lane in lanes_of(mask) {
                    self.reg(*d)[lane].set(conversion.apply(self.reg(*a)[lane].get()));
                }
            }
            Op::ConvertPair { conversion, d, high, low } => {
                for lane in lanes_of(mask) {
                    let half = |r: &Reg| conversion.apply(self.reg(*r)[lane].get()) & 0xFFFF;
                    self.reg(*d)[lane].set(half(high) << 16 | half(low));
                }
            }
            Op::Insert { d, field, into, start, length, bits } => {
                for lane in lanes_of(mask) {
                    let v = |r: &Reg| self.reg(*r)[lane].get();
                    self.reg(*d)[lane].set(insert(v(field), v(into), v(start), v(length), *bits));
                }
            }
            Op::Lop3 { d, a, b, c, table } => {
                for lane in lanes_of(mask) {
                    let v = |r: &Reg| self.reg(*r)[lane].get();
                    let (a, b, c) = (v(a), v(b), v(c));
                    let term = |i: u8| {
                        (if i & 4 != 0 { a } else { !a })
                            & (if i & 2 != 0 { b } else { !b })
                            & (if i & 1 != 0 { c } else { !c })
                    };
                    let value = (0..8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| out | term(i));
                    self.reg(*d)[lane].set(value);
                }
            }
            Op::Pack { d, parts, bits } => {
                let low = u64::MAX >> (64 - bits);
                for lane in lanes_of(mask) {
                    let value = parts.iter().rev().fold(0, |out, p| out << bits | self.reg(*p)[lane].get() & low);
                    self.reg(*d)[lane].set(value);
                }
            }
            Op::Unpack { parts, a, bits } => {
                let low = u64::MAX >> (64 - bits);
                for lane in lanes_of(mask) {
                    let value = self.reg(*a)[lane].get();
                    for (i, part) in parts.iter().enumerate() {
                        self.reg(*part)[lane].set(value >> (*bits as usize * i) & low);
                    }
                }
            }
            Op::Compare { f, p, q, a, b, logic, other } => {
                let holds = f(self.reg(*a), self.reg(*b));
                let other = self.holds(*other);
                self.set_pred(*p, logic.apply(holds, other), mask);
                if let Some(q) = q {
                    self.set_pred(*q, logic.apply(!holds, other), mask);
                }
            }
            Op::Logic { logic, p, a, b } => self.set_pred(*p, logic.apply(self.holds(*a), self.holds(*b)), mask),
            Op::Select { d, a, b, p } => {
                let picks = self.holds(*p);
                for lane in lanes_of(mask) {
                    let from = if picks >> lane & 1 == 1 { *a } else { *b };
                    self.reg(*d)[lane].set(self.reg(from)[lane].get());
                }
            }
            Op::Load { into, place, ty, ordered } => {
                self.load(inst, at, mask, context, (into, place, *ty, *ordered))?
            }
            Op::Store { from, place, ty, ordered } => {
                self.store(inst, at, mask, context, (from, place, *ty, *ordered))?
            }
            Op::Atomic { d, place, a, b, ty, op } => {
                for lane in lanes_of(mask) {
                    let size = ty.bytes() as usize;
                    let (x, y) = (self.reg(*a)[lane].get(), self.reg(*b)[lane].get());
                    let bytes = self.reach(inst, at, lane, place, size, Touch::Atomic, context)?;
                    let mut raw = [0; 8];
                    raw[..size].copy_from_slice(bytes);
                    let old = u64::from_le_bytes(raw);
                    bytes.copy_from_slice(&combine(*op, *ty, old, x, y).to_le_bytes()[..size]);
                    if let Some(d) = d {
                        self.reg(*d)[lane].set(old);
                    }
                }
            }
            Op::Copy { to, from, bytes, valid } => {
                for lane in lanes_of(mask) {
                    let valid = valid.map_or(*bytes, |v| self.reg(v)[lane].get() as u32).min(*bytes);
                    let mut data = [0; 16];
                    let address = self.address(from, lane);
                    if !address.is_multiple_of(u64::from(*bytes)) {
                        return Err(misaligned(inst, lane, address, *bytes as usize));
                    }
                    for i in 0..valid {
                        // Byte by byte, as only the valid ones are read.
                        let one = Place { offset: from.offset + i64::from(i), ..*from };
                        data[i as usize] = self.reach(inst, at, lane, &one, 1, Touch::Read, context)?[0];
                    }
                    let to = self.address(to, lane);
                    if !to.is_multiple_of(u64::from(*bytes)) {
                        return Err(misaligned(inst, lane, to, *bytes as usize));
                    }
                    self.open.push(Copy { lane: lane as u32, to, data, bytes: *bytes as usize, line: inst.line });
                }
            }
            Op::CopyCommit => {
                if mask != self.alive {
                    return Err(trouble(inst, mask.trailing_zeros(), "copies committed by a part of a warp".into()));
                }
                self.groups.push_back(std::mem::take(&mut self.open));
            }
            Op::CopyWait(pending) => {
                if pending.is_none() {
                    self.groups.push_back(std::mem::take(&mut self.open));
                }
                while self.groups.len() > pending.unwrap_or(0) as usize {
                    for copy in self.groups.pop_front().expect("there are some") {
                        self.finish(copy, context)?;
                    }
                }
            }
            Op::Shuffle { d, p, a, b, c, members, how } => {
                self.members(inst, *members, mask)?;
                let values: [u64; 32] = std::array::from_fn(|i| self.reg(*a)[i].get());
                let mut inside = 0;
                for lane in lanes_of(mask) {
                    let (b, c) = (self.reg(*b)[lane].get() as i32 & 31, self.reg(*c)[lane].get() as i32);
                    let (clamp, segment, here) = (c & 31, c >> 8 & 31, lane as i32);
                    let most = here & segment | clamp & !segment;
                    let (from, ok) = match how {
                        Shuffle::Up => (here - b, here - b >= most),
                        Shuffle::Down => (here + b, here + b <= most),
                        Shuffle::Butterfly => (here ^ b, here ^ b <= most),
                        Shuffle::Index => (here & segment | b & !segment, (here & segment | b & !segment) <= most),
                    };
                    let from = if ok { from as usize } else { lane };
                    if mask >> from & 1 == 0 {
                        return Err(trouble(
                            inst,
                            lane as u32,
                            format!("shuffles from lane {from}, which takes no part"),
                        ));
                    }
                    inside |= u32::from(ok) << lane;
                    self.reg(*d)[lane].set(values[from] & 0xFFFF_FFFF);
                }
                if let Some(p) = p {
                    self.set_pred(*p, inside, mask);
                }
            }
            Op::Vote { p, a, members, how } => {
                self.members(inst, *members, mask)?;
                let yes = self.holds(*a) & mask;
                let result = match how {
                    Vote::All => yes == mask,
                    Vote::Any => yes != 0,
                    Vote::Uniform => yes == mask || yes == 0,
                };
                self.set_pred(*p, if result { u32::MAX } else { 0 }, mask);
            }
            Op::Ballot { d, a, members } => {
                self.members(inst, *members, mask)?;
                let yes = self.holds(*a) & mask;
                lanes_of(mask).for_each(|lane| self.reg(*d)[lane].set(u64::from(yes)));
            }
            Op::Match { d, a, members, ty } => {
                self.members(inst, *members, mask)?;
                let low = u64::MAX >> (64 - 8 * ty.bytes());
                let values: [u64; 32] = std::array::from_fn(|i| self.reg(*a)[i].get() & low);
                for lane in lanes_of(mask) {
                    let same = lanes_of(mask).filter(|&i| values[i] == values[lane]).fold(0u64, |m, i| m | 1 << i);
                    self.reg(*d)[lane].set(same);
                }
            }
            Op::Reduce { d, a, members, f, identity } => {
                self.members(inst, *members, mask)?;
                let sum = zero();
                sum[0].set(*identity);
                for lane in lanes_of(mask) {
                    let one = zero();
                    one[0].set(self.reg(*a)[lane].get());
                    f(&sum, &sum, &one, &one, 1);
                }
                lanes_of(mask).for_each(|lane| self.reg(*d)[lane].set(sum[0].get()));
            }
            Op::ActiveMask { d } => lanes_of(mask).for_each(|lane| self.reg(*d)[lane].set(u64::from(mask))),
            Op::WarpBarrier { members } => {
                self.members(inst, *members, mask)?;
                // Lanes that wait for others elsewhere are not ordered with these; only a whole warp moves its clock.
                if mask == self.alive {
                    self.moment = context.clock.after(self.moment, false);
                }
            }
            Op::LoadMatrix { into, place, transposed } => {
                if mask != u32::MAX {
                    return Err(trouble(inst, mask.trailing_zeros(), "ldmatrix by a part of a warp".into()));
                }
                let mut rows = [[0; 16]; 32];
                for (lane, row) in rows.iter_mut().enumerate().take(8 * into.len()) {
                    row.copy_from_slice(self.reach(inst, at, lane, place, 16, Touch::Read, context)?);
                }
                let into: Vec<&Lanes> = into.iter().map(|r| self.reg(*r)).collect();
                matrix::spread(&rows, *transposed, &into);
            }
            Op::Multiply { d, a, b, c, types, half } => {
                if mask != u32::MAX {
                    return Err(trouble(inst, mask.trailing_zeros(), "mma by a part of a warp".into()));
                }
                let list = |regs: &[Reg]| -> Vec<&Lanes> { regs.iter().map(|r| self.reg(*r)).collect() };
                let c: Vec<Lanes> = c.iter().map(|r| self.reg(*r).clone()).collect();
                matrix::multiply(&list(d), &list(a), &list(b), &c.iter().collect::<Vec<_>>(), *types, *half);
            }
            Op::Trap => return Err(trouble(inst, mask.trailing_zeros(), "trap".into())),
        }
        Ok(())
    }

    fn address(&self, place: &Place, lane: usize) -> u64 {
        self.reg(place.base)[lane].get().wrapping_add_signed(place.offset)
    }

    /// The memory that a lane reads or writes, checked.
    #[allow(clippy::too_many_arguments)]
    fn reach<'m>(
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
            let conflict = piece.touch(start, size, &context.clock, &self.moment, lane as u32, touch);
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

    fn load(
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

    fn store(
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

    /// The bytes of an asynchronous copy arrive.
    fn finish(&mut self, copy: Copy, context: &mut Context) -> Result<(), Trouble> {
        let start = (copy.to & 0xFFFF_FFFF) as usize;
        let all = context.shared.bytes.len();
        let here = |what: String, race| Trouble {
            line: copy.line,
            lane: copy.lane,
            address: Some(copy.to),
            misaligned: false,
            race,
            what,
        };
        if start + copy.bytes > all {
            return Err(here(
                format!("cp.async out of bounds in Shared memory, of which the block has {all} bytes"),
                false,
            ));
        }
        if context.check_races {
            let piece = &mut context.shared;
            let conflict = piece.touch(start, copy.bytes, &context.clock, &self.moment, copy.lane, Touch::Write);
            if let Some(conflict) = conflict {
                let Fault::Race(other) = Fault::from(conflict) else { unreachable!("a conflict is a race") };
                return Err(here(format!("race in Shared memory: cp.async writes, {other}"), true));
            }
        }
        context.shared.bytes[start..start + copy.bytes].copy_from_slice(&copy.data[..copy.bytes]);
        Ok(())
    }
}

fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |i| mask >> i & 1 == 1)
}

fn parameter(params: &[u8], offset: u32, bytes: u32, signed: bool) -> u64 {
    let (offset, bytes) = (offset as usize, bytes as usize);
    let mut raw = [0; 8];
    if let Some(part) = params.get(offset..offset + bytes) {
        raw[..bytes].copy_from_slice(part);
    }
    let shift = 64 - 8 * bytes as u32;
    let value = u64::from_le_bytes(raw);
    if signed { ((value << shift) as i64 >> shift) as u64 } else { value }
}

fn trouble(inst: &Inst, lane: u32, what: String) -> Trouble {
    Trouble { line: inst.line, lane, address: None, misaligned: false, race: false, what }
}

fn misaligned(inst: &Inst, lane: usize, address: u64, size: usize) -> Trouble {
    Trouble {
        address: Some(address),
        misaligned: true,
        ..trouble(inst, lane as u32, format!("an access of {size} bytes is misaligned"))
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
        Atomic::Add if ty.float() => {
            use crate::types::{Bf16, F16};
            with_float!(ty, T => T::of(old).add(T::of(a)).lane()).unwrap_or(old)
        }
        Atomic::Add => old.wrapping_add(a),
        Atomic::Min => with_int!(ty, T => (old as T).min(a as T) as u64).unwrap_or(old),
        Atomic::Max => with_int!(ty, T => (old as T).max(a as T) as u64).unwrap_or(old),
    }
}
