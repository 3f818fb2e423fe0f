//! A warp: 32 threads in lockstep, with a stack of paths that diverged.
//!
//! Paths meet at the branch's immediate post-dominator. Instructions of several threads (`.sync`) want all their members
//! there: where a device would wait or misbehave, this reports.

use std::collections::{HashMap, VecDeque};

use crate::access::Copy;
use crate::arith::insert;
use crate::barriers::Barrier;
use crate::groups::Products;
use crate::kernel::{Given, Guard, Inst, Kernel, Op, Reg, Shuffle, Vote};
use crate::launch::Grid;
use crate::matrix;
use crate::memory::{Memory, Piece};
use crate::races::{Clock, Moment, Touch};
use crate::types::{Lanes, zero};

/// What a block and its launch own.
pub struct Context<'a> {
    pub kernel: &'a Kernel,
    pub memory: &'a mut Memory,
    pub shared: Piece,
    /// For each word of shared memory the line of the `cp.async` that is under way to it, or 0.
    pub arriving: Vec<u32>,
    pub clock: Clock,
    pub barriers: Vec<Barrier>,
    pub barriers_made: usize,
    /// For each group of warps and number of its product what the first warp gave: line and descriptors.
    pub products: HashMap<(u32, u32), (u32, [u64; 2])>,
    /// Counts what may let others go on.
    pub progress: u64,
    /// Registers of a thread that `setmaxnreg` gave each warp.
    pub registers: HashMap<u32, u32>,
    pub params: &'a [u8],
    pub grid: Grid,
    pub block: [u32; 3],
    /// Allocation that each instruction last touched.
    pub hints: Vec<u32>,
    pub check_races: bool,
    pub executed: u64,
}

impl Context<'_> {
    /// The present block's number in its grid.
    pub fn block_number(&self) -> u32 {
        let ([x, y, z], along) = (self.block, self.grid.blocks);
        (z * along[1] + y) * along[0] + x
    }
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
    /// At an `mbarrier` whose phase is not over: it will ask again.
    Asks {
        line: u32,
    },
}

#[derive(Clone, Copy)]
struct Path {
    at: u32,
    join: u32,
    mask: u32,
}

/// A warp's state.
pub struct Warp {
    regs: Vec<Lanes>,
    preds: Vec<u32>,
    paths: Vec<Path>,
    alive: u32,
    pub moment: Moment,
    number: u32,
    pub local: Vec<u8>,
    pub open: Vec<Copy>,
    pub groups: VecDeque<Vec<Copy>>,
    pub products: Products,
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
            products: Products::default(),
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
        self.products.clear();
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

    /// Its number in its block.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its threads that have not ended.
    pub fn alive(&self) -> u32 {
        self.alive
    }

    pub fn holds(&self, guard: Guard) -> u32 {
        self.preds[guard.pred as usize] ^ if guard.negated { u32::MAX } else { 0 }
    }

    /// A register.
    pub fn reg(&self, reg: Reg) -> &Lanes {
        &self.regs[reg as usize]
    }

    pub fn set_pred(&mut self, pred: u32, value: u32, mask: u32) {
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
            if !inst.sums.is_empty() && mask != 0 {
                self.touch_sums(inst)?;
            }
            match &inst.op {
                Op::Branch { target, join } => self.branch(*target, *join, mask, all),
                Op::Exit => {
                    if mask == self.alive && self.products.any() {
                        return Err(trouble(inst, 0, "ends with wgmma under way".to_string()));
                    }
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
                Op::Barrier { place, deed } => {
                    if self.at_barrier(inst, at, mask, context, (place, *deed))? {
                        return Ok(Stop::Asks { line: inst.line });
                    }
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
            Op::Lanes { .. }
            | Op::Branch { .. }
            | Op::Exit
            | Op::BlockBarrier { .. }
            | Op::Barrier { .. }
            | Op::Nothing => {}
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
                self.atomic(inst, at, mask, context, (*d, place, [*a, *b], *ty, *op))?
            }
            Op::Copy { to, from, bytes, valid } => {
                self.begin_copies(inst, at, mask, context, (to, from, *bytes as usize, *valid))?
            }
            Op::CopyCommit | Op::CopyWait(_) if mask != self.alive => {
                let what = "cp.async groups are made and waited for by whole warps here".to_string();
                return Err(trouble(inst, mask.trailing_zeros(), what));
            }
            Op::CopyCommit => self.commit_copies(),
            Op::CopyWait(pending) => self.wait_for_copies(*pending, context)?,
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
                    self.moment = context.clock.after(self.moment);
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
            Op::BarrierFence => context.know_barriers(),
            Op::CopyBox(copy) => self.begin_boxes(inst, at, mask, context, copy)?,
            Op::SetRegisters(count) => {
                if mask != u32::MAX {
                    return Err(trouble(inst, mask.trailing_zeros(), "setmaxnreg by a part of a warp".into()));
                }
                let key = self.number();
                context.registers.insert(key, *count);
            }
            Op::ProxyFence => {
                if mask != self.alive {
                    let what = "fence.proxy.async is of whole warps here".to_string();
                    return Err(trouble(inst, mask.trailing_zeros(), what));
                }
                self.moment = context.clock.fence(self.moment);
            }
            Op::ProductFence | Op::Product(_) | Op::ProductCommit | Op::ProductWait(_)
                if mask != u32::MAX || !context.grid.threads[0].is_multiple_of(128) =>
            {
                return Err(trouble(inst, mask.trailing_zeros(), "wgmma by a part of a group of four warps".into()));
            }
            Op::ProductFence => self.fence_products(),
            Op::Product(product) => self.give_product(inst, product, context)?,
            Op::ProductCommit => self.commit_products(),
            Op::ProductWait(pending) => self.wait_for_products(inst, *pending, context)?,
            Op::Trap => return Err(trouble(inst, mask.trailing_zeros(), "trap".into())),
        }
        Ok(())
    }
}

pub fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
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

pub fn trouble(inst: &Inst, lane: u32, what: String) -> Trouble {
    Trouble { line: inst.line, lane, address: None, misaligned: false, race: false, what }
}

pub fn misaligned(inst: &Inst, lane: usize, address: u64, size: usize) -> Trouble {
    Trouble {
        address: Some(address),
        misaligned: true,
        ..trouble(inst, lane as u32, format!("an access of {size} bytes is misaligned"))
    }
}
