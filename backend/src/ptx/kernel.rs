//! One legalised kernel to PTX: the walk over its blocks.
//!
//! A task runs on one warp where the kernel has vectors, else on one thread ([`Mapping`]). In a warp, lane `l` of a vector
//! of `n` lanes is in thread `l / k`, `k = ceil(n / 32)`, as its value `l % k`: consecutive elements of a thread are
//! consecutive in memory. Scalars are uniform: every thread computes them, so control flow never diverges inside of a
//! warp. Lanes behind the last one hold anything; they touch no memory and enter no reduction.
//!
//! A kernel with a tile of a matrix product (see [`super::tile`]) or an attention has a block for each task: its warps share the tile's
//! loops over rows, and everything outside of those is the same in all of them.
//!
//! Warps (or threads, or blocks) run the tasks `begin + w, begin + w + W, ...`, where `W` is their number in the grid.

use std::collections::HashMap;

use cranelift_entity::{EntityRef, SecondaryMap};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Access, Block, Buffer, FmaMode, Inst, InstData, Kernel, LaneType, LoopKind, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, Scalar};

use super::attend::Plan;
use super::facts::Fact;
use super::hazards::Hazards;
use super::hopper::{Groups, MAP_BYTES, Role};
use super::text::{Class, Reg, Text};
use super::tile::Shape;

/// Threads of a warp.
pub(super) const WARP: u16 = 32;

/// Writes one instruction.
macro_rules! ins {
    ($self:expr, $($arg:tt)*) => { $self.text.line(format_args!($($arg)*)) };
}
pub(super) use ins;

/// What runs a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// A warp: its threads hold parts of the vectors.
    Warp,
    /// A thread: the kernel has no vectors.
    Thread,
    /// A block: its warps share what stands in loops over them.
    Block,
}

impl Mapping {
    /// The mapping of a legalised kernel.
    pub fn of(kernel: &Kernel) -> Mapping {
        if team_of(kernel).is_some() {
            return Mapping::Block;
        }
        if kernel.vals.values().any(|ty| ty.lanes > 1) { Mapping::Warp } else { Mapping::Thread }
    }
}

/// A block whose warps run a task together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Team {
    /// Its threads.
    pub(super) threads: u32,
    /// What it has in shared memory beside the sums, which lie in the same place.
    pub(super) bytes: u64,
}

/// The block that a kernel's tile or attention needs.
pub(super) fn team_of(kernel: &Kernel) -> Option<Team> {
    kernel.insts.values().find_map(|inst| match &inst.data {
        InstData::Tile(tile) => Some(Shape::of(tile).team()),
        InstData::Attend(attend) => Some(Plan::of(attend).team()),
        _ => None,
    })
}

/// A buffer, terms, and how many lanes a thread has.
type AddressKey = (Buffer, Vec<(Val, Stride)>, u16);

/// The state of the walk.
pub(super) struct Emit<'k> {
    pub(super) name: &'k str,
    pub(super) kernel: &'k Kernel,
    pub(super) mapping: Mapping,
    pub(super) text: Text,
    /// The registers of each value: one for each lane that a thread holds.
    values: SecondaryMap<Val, Option<Box<[Reg]>>>,
    /// What is known of `i64` scalars.
    pub(super) facts: SecondaryMap<Val, Fact>,
    /// The bits of constants, in all lanes.
    pub(super) constants: SecondaryMap<Val, Option<Scalar>>,
    /// Index vectors whose lanes are all different, by construction.
    distinct: SecondaryMap<Val, bool>,
    /// Vectors with one number in all lanes.
    uniform: SecondaryMap<Val, bool>,
    pub(super) buffers: SecondaryMap<Buffer, Option<Reg>>,
    params: Vec<Reg>,
    /// Addresses computed in the open blocks, by buffer and terms.
    pub(super) addresses: Vec<HashMap<AddressKey, Reg>>,
    /// The thread's number in its warp, as 32 bits.
    pub(super) thread: Reg,
    /// Its number in its block.
    pub(super) tid: Reg,
    /// The walk is in a loop over the warps of a block.
    shared_out: bool,
    /// Registers matter more than blocks on a multiprocessor: with several, some would be spilled.
    pub(super) alone: bool,
    /// Numbers of the lanes that the thread holds, by the lanes of a thread.
    lane_numbers: HashMap<u16, Vec<Reg>>,
    /// Whether a thread's lane of a vector of so many lanes is one of them.
    valid: HashMap<u16, Reg>,
    pub(super) hazards: Hazards,
    /// Scratch is memory of the block instead of the caller's.
    pub(super) shared_scratch: bool,
    /// The highest number of tasks that any launch has, if it is known.
    most_tasks: i64,
    /// What the walk's group of warps does, where groups have roles.
    pub(super) role: Option<Role>,
}

/// A worker's tasks.
#[derive(Clone, Copy)]
pub(super) struct Tasks {
    begin: Reg,
    end: Reg,
    worker: Reg,
    workers: Reg,
}

/// Memory of a block for scratch, at most: six blocks share what a multiprocessor has.
const SHARED_SCRATCH: u64 = 24 << 10;

/// The scratch of all workers of a block in bytes, where it fits into the block's own memory.
pub(super) fn block_scratch(kernel: &Kernel, threads: u32) -> Option<u64> {
    let own = kernel.scratch_layout().1;
    let workers = match Mapping::of(kernel) {
        Mapping::Thread => threads,
        Mapping::Warp => threads / u32::from(WARP),
        // The sums lie where the operands were.
        Mapping::Block => return team_of(kernel).map(|team| team.bytes.max(own)),
    };
    let bytes = own * u64::from(workers);
    (1..=SHARED_SCRATCH).contains(&bytes).then_some(bytes)
}

/// Lanes that one thread holds of a vector.
pub(super) fn per_thread(lanes: u16) -> u16 {
    lanes.div_ceil(WARP)
}

/// The register class of an element type.
pub(super) fn class_of(dtype: DType) -> Class {
    match dtype.bits() {
        _ if dtype == DType::Bool => Class::Pred,
        64 => Class::B64,
        _ => Class::B32,
    }
}

/// Emits one `.entry`. The kernel is legalised; no launch of it has more than `most_tasks` tasks. With `groups` these share
/// its tile.
pub(super) fn emit(kernel: &Kernel, name: &str, most_tasks: i64, threads: u32, groups: Option<Groups>) -> String {
    let mapping = Mapping::of(kernel);
    let mut text = Text::default();
    let (thread, tid) = (text.reg(Class::B32), text.reg(Class::B32));
    let mut emit = Emit {
        name,
        kernel,
        mapping,
        text,
        values: SecondaryMap::new(),
        facts: SecondaryMap::new(),
        constants: SecondaryMap::new(),
        distinct: SecondaryMap::new(),
        uniform: SecondaryMap::new(),
        buffers: SecondaryMap::new(),
        params: Vec::new(),
        addresses: vec![HashMap::new()],
        thread,
        tid,
        shared_out: false,
        alone: false,
        lane_numbers: HashMap::new(),
        valid: HashMap::new(),
        hazards: Hazards::of(kernel, mapping),
        shared_scratch: groups.is_some() || block_scratch(kernel, threads).is_some(),
        most_tasks,
        role: None,
    };
    emit.entry(groups);
    let mut parameters: Vec<String> = Vec::new();
    for (buffer, _) in kernel.arguments() {
        parameters.push(format!("\t.param .u64 {name}_b{}", buffer.index()));
    }
    for n in 0..kernel.params.len() {
        parameters.push(format!("\t.param .s64 {name}_p{n}"));
    }
    for (ty, what) in [(".s64", "begin"), (".s64", "end"), (".u64", "scratch")] {
        parameters.push(format!("\t.param {ty} {name}_{what}"));
    }
    for number in groups.iter().flat_map(Groups::maps) {
        parameters.push(format!("\t.param .align 64 .b8 {name}_map{number}[{MAP_BYTES}]"));
    }
    let (mut outside, mut shared) = (String::new(), String::new());
    if groups.is_some() {
        // More than a kernel may declare: the launch says how much.
        outside = format!(".extern .shared .align 1024 .b8 {name}_shared[];\n");
    } else if let Some(bytes) = block_scratch(kernel, threads) {
        shared = format!("\t.shared .align 64 .b8 {name}_shared[{bytes}];\n");
    }
    let alone = emit.alone;
    let body = emit.text.finish(&shared);
    let alone = if alone { ".minnctapersm 1\n" } else { "" };
    format!("{outside}.visible .entry {name}(\n{}\n)\n.maxntid {threads}, 1, 1\n{alone}{body}", parameters.join(",\n"))
}

impl Emit<'_> {
    pub(super) fn reg(&mut self, class: Class) -> Reg {
        self.text.reg(class)
    }

    pub(super) fn ty(&self, val: Val) -> LaneType {
        self.kernel.ty(val)
    }

    /// The registers of a value.
    pub(super) fn get(&self, val: Val) -> Box<[Reg]> {
        self.values[val].clone().expect("operands are defined before their use")
    }

    /// The register of a scalar.
    pub(super) fn get1(&self, val: Val) -> Reg {
        self.get(val)[0]
    }

    /// How many registers hold a value of this many lanes.
    pub(super) fn width(lanes: u16) -> usize {
        usize::from(per_thread(lanes))
    }

    pub(super) fn parameter(&mut self, what: &str) -> Reg {
        let (d, name) = (self.reg(Class::B64), self.name);
        ins!(self, "ld.param.b64 {d}, [{name}_{what}]");
        d
    }

    /// Parameters, the worker's number, the loop over its tasks.
    fn entry(&mut self, groups: Option<Groups>) {
        let kernel = self.kernel;
        for (buffer, _) in kernel.arguments() {
            let base = self.parameter(&format!("b{}", buffer.index()));
            self.buffers[buffer] = Some(base);
        }
        self.params = (0..kernel.params.len()).map(|n| self.parameter(&format!("p{n}"))).collect();
        let (begin, end) = (self.parameter("begin"), self.parameter("end"));
        let tid = self.tid;
        ins!(self, "mov.u32 {tid}, %tid.x");
        let [ctaid, ntid, nctaid] = ["ctaid", "ntid", "nctaid"].map(|special| {
            let r = self.reg(Class::B32);
            ins!(self, "mov.u32 {r}, %{special}.x");
            r
        });
        let (worker, workers) = (self.reg(Class::B32), self.reg(Class::B32));
        let thread = self.thread;
        match self.mapping {
            Mapping::Thread => {
                ins!(self, "mov.u32 {thread}, 0");
                ins!(self, "mad.lo.u32 {worker}, {ctaid}, {ntid}, {tid}");
                ins!(self, "mul.lo.u32 {workers}, {nctaid}, {ntid}");
            }
            Mapping::Warp => {
                let (warps, warp) = (self.reg(Class::B32), self.reg(Class::B32));
                ins!(self, "and.b32 {thread}, {tid}, 31");
                ins!(self, "shr.u32 {warp}, {tid}, 5");
                self.agree(warp);
                ins!(self, "shr.u32 {warps}, {ntid}, 5");
                ins!(self, "mad.lo.u32 {worker}, {ctaid}, {warps}, {warp}");
                ins!(self, "mul.lo.u32 {workers}, {nctaid}, {warps}");
            }
            Mapping::Block => {
                ins!(self, "and.b32 {thread}, {tid}, 31");
                ins!(self, "mov.u32 {worker}, {ctaid}");
                ins!(self, "mov.u32 {workers}, {nctaid}");
            }
        }
        let (layout, scratch_bytes) = kernel.scratch_layout();
        if scratch_bytes > 0 {
            let (scratch, number) = if self.shared_scratch {
                let (own, base, name) = (self.reg(Class::B32), self.reg(Class::B64), self.name);
                match self.mapping {
                    Mapping::Thread => ins!(self, "mov.u32 {own}, {tid}"),
                    Mapping::Warp => ins!(self, "shr.u32 {own}, {tid}, 5"),
                    Mapping::Block => ins!(self, "mov.u32 {own}, 0"),
                }
                ins!(self, "mov.u64 {base}, {name}_shared");
                (base, own)
            } else {
                (self.parameter("scratch"), worker)
            };
            let own = self.reg(Class::B64);
            ins!(self, "mad.wide.u32 {own}, {number}, {scratch_bytes}, {scratch}");
            for (buffer, offset) in layout {
                let base = self.reg(Class::B64);
                ins!(self, "add.s64 {base}, {own}, {offset}");
                self.buffers[buffer] = Some(base);
            }
        }
        let (worker64, workers64) = (self.reg(Class::B64), self.reg(Class::B64));
        ins!(self, "cvt.u64.u32 {worker64}, {worker}");
        ins!(self, "cvt.u64.u32 {workers64}, {workers}");
        self.lanes_of_types();
        let tasks = Tasks { begin, end, worker: worker64, workers: workers64 };
        match groups {
            Some(groups) => self.roles(groups, tasks),
            None => self.tasks(tasks),
        }
    }

    /// The loop over the worker's tasks.
    pub(super) fn tasks(&mut self, Tasks { begin, end, worker, workers }: Tasks) {
        let kernel = self.kernel;
        let (task, next) = (self.reg(Class::B64), self.reg(Class::B64));
        ins!(self, "add.s64 {task}, {begin}, {worker}");
        let done = self.reg(Class::Pred);
        let (top, out) = (self.text.label("task"), self.text.label("done"));
        ins!(self, "setp.ge.s64 {done}, {task}, {end}");
        ins!(self, "@{done} bra {out}");
        self.text.place(&top);
        ins!(self, "add.s64 {next}, {task}, 1");
        let params = &kernel.blocks[kernel.body].params;
        for (&param, reg) in params.iter().zip([task, next, worker]) {
            self.values[param] = Some(Box::new([reg]));
        }
        self.facts[params[0]] = Fact::range(0, self.most_tasks.saturating_sub(1).max(0));
        self.facts[params[1]] = Fact::range(0, self.most_tasks);
        self.block(kernel.body);
        // The next task of this warp uses the same scratch.
        if self.hazards.any() {
            self.barrier();
        }
        ins!(self, "add.s64 {task}, {task}, {workers}");
        let more = self.reg(Class::Pred);
        ins!(self, "setp.lt.s64 {more}, {task}, {end}");
        ins!(self, "@{more} bra {top}");
        self.text.place(&out);
    }

    /// Shows the assembler that a register is the same in all threads of a warp. It makes calls of the shuffles behind
    /// branches that it takes for divergent.
    pub(super) fn agree(&mut self, r: Reg) {
        ins!(self, "shfl.sync.idx.b32 {r}, {r}, 0, 31, 0xffffffff");
    }

    /// The lane numbers and validity of each vector length that occurs, where every block sees them.
    fn lanes_of_types(&mut self) {
        let mut lengths: Vec<u16> = self.kernel.vals.values().map(|ty| ty.lanes).filter(|&n| n > 1).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let thread = self.thread;
        for lanes in lengths {
            let each = per_thread(lanes);
            let known = self.lane_numbers.contains_key(&each);
            if !known {
                let first = self.reg(Class::B32);
                ins!(self, "mul.lo.u32 {first}, {thread}, {each}");
                let mut numbers = vec![first];
                for slot in 1..each {
                    let r = self.reg(Class::B32);
                    ins!(self, "add.u32 {r}, {first}, {slot}");
                    numbers.push(r);
                }
                self.lane_numbers.insert(each, numbers);
            }
            if !lanes.is_multiple_of(WARP) {
                assert!(lanes < WARP, "vectors have less than 32 lanes or a multiple of 32");
                let p = self.reg(Class::Pred);
                ins!(self, "setp.lt.u32 {p}, {thread}, {lanes}");
                self.valid.insert(lanes, p);
            }
        }
    }

    /// The number of the lane that is a thread's value `slot` of a vector.
    pub(super) fn lane_number(&self, lanes: u16, slot: usize) -> Reg {
        self.lane_numbers[&per_thread(lanes)][slot]
    }

    /// A predicate that holds in the threads that hold lanes of such a vector; none if all do.
    pub(super) fn valid(&self, lanes: u16) -> Option<Reg> {
        self.valid.get(&lanes).copied()
    }

    /// Makes what threads of the warp wrote visible to its other threads.
    pub(super) fn barrier(&mut self) {
        ins!(self, "bar.warp.sync 0xffffffff");
    }

    /// Emits a block's instructions and gives what it yields.
    pub(super) fn block(&mut self, block: Block) -> Vec<Val> {
        let kernel = self.kernel;
        self.addresses.push(HashMap::new());
        let mut yielded = Vec::new();
        for &inst in &kernel.blocks[block].insts {
            if let InstData::Yield(vals) = &kernel.insts[inst].data {
                yielded = vals.to_vec();
                break;
            }
            self.inst(inst);
        }
        self.addresses.pop();
        yielded
    }

    pub(super) fn define(&mut self, val: Val, regs: Vec<Reg>) {
        self.values[val] = Some(regs.into_boxed_slice());
    }

    fn inst(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let Some(&result) = record.results.first() else {
            return self.effect(inst);
        };
        let ty = kernel.ty(result);
        let regs = match &record.data {
            InstData::For { .. } | InstData::While { .. } | InstData::If { .. } => return self.effect(inst),
            InstData::Const(c) => {
                self.constants[result] = Some(*c);
                self.uniform[result] = true;
                if let Some(value) = c.as_i64() {
                    self.facts[result] = Fact::constant(value);
                }
                let r = self.constant(*c);
                vec![r; Self::width(ty.lanes)]
            }
            InstData::Param(n) => vec![self.params[*n as usize]],
            InstData::Iota => {
                self.distinct[result] = true;
                self.iota(ty)
            }
            InstData::Unary(op, a) => self.unary(*op, *a),
            InstData::Binary(op, a, b) => {
                if ty.lanes == 1 && ty.dtype == DType::I64 {
                    self.facts[result] = Fact::binary(*op, self.facts[*a], self.facts[*b]);
                }
                self.distinct[result] = self.keeps_distinct(*op, *a, *b);
                self.binary(*op, *a, *b)
            }
            InstData::Compare(op, a, b) => self.compare(*op, *a, *b),
            InstData::Select(c, a, b) => self.select(*c, *a, *b),
            InstData::MulAdd { a, b, acc, mode } => self.mul_add(*a, *b, *acc, *mode == FmaMode::Fused),
            InstData::Dot4 { .. } => panic!("legalisation expands dot products for PTX"),
            InstData::Cast(a) => {
                self.distinct[result] = self.distinct[*a] && !ty.dtype.is_float() && ty.dtype.bits() >= 32;
                self.cast(*a, ty.dtype)
            }
            InstData::Bitcast(a) => self.bitcast(*a, ty.dtype),
            InstData::Splat(a) => {
                self.uniform[result] = true;
                if let Some(c) = self.constants[*a] {
                    self.constants[result] = Some(c);
                }
                vec![self.get1(*a); Self::width(ty.lanes)]
            }
            InstData::ReduceLanes(op, a) => vec![self.reduce(*op, *a)],
            InstData::Extract(a, lane) => vec![self.extract(*a, *lane)],
            InstData::Shuffle(a, b, lanes) => self.shuffle(*a, *b, lanes),
            InstData::Load { buffer, address, count } => self.load(*buffer, address, ty, *count),
            InstData::LoadSplat { buffer, address } => self.load_splat(*buffer, address, ty),
            InstData::Gather { buffer, address, indices, count } => self.gather(*buffer, address, *indices, ty, *count),
            InstData::Store { .. }
            | InstData::Scatter { .. }
            | InstData::Prefetch { .. }
            | InstData::Tile(_)
            | InstData::Attend(_)
            | InstData::Yield(_) => unreachable!("has no result"),
        };
        self.define(result, regs);
    }

    /// Whether `a op b` has different lanes because `a` or `b` has.
    fn keeps_distinct(&self, op: BinaryOp, a: Val, b: Val) -> bool {
        use BinaryOp::{Add, Mul, Sub};
        let uniform = |v: Val| self.uniform[v];
        let small = |v: Val| self.constants[v].and_then(Scalar::as_i64).is_some_and(|c| c != 0 && c.abs() < 1 << 40);
        match op {
            Add | Sub => self.distinct[a] && uniform(b) || self.distinct[b] && uniform(a),
            // Lane numbers times a number this small do not wrap.
            Mul => self.distinct[a] && small(b) || self.distinct[b] && small(a),
            _ => false,
        }
    }

    pub(super) fn has_distinct_lanes(&self, v: Val) -> bool {
        self.distinct[v]
    }

    fn effect(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let results = &record.results;
        if matches!(record.data, InstData::Store { .. } | InstData::Scatter { .. }) {
            assert!(self.mapping != Mapping::Block || self.shared_out, "one warp of a block stores");
        }
        match &record.data {
            InstData::Tile(tile) => self.tile(tile),
            InstData::Attend(attend) => self.attend(attend),
            InstData::Store { buffer, address, value, count } => self.store(*buffer, address, *value, *count),
            InstData::Scatter { buffer, address, indices, value, count } => {
                self.scatter(*buffer, address, *indices, *value, *count);
            }
            // A prefetch of memory that is not there is a fault on some devices; warps hide latency.
            InstData::Prefetch { .. } => {}
            InstData::For { kind: LoopKind::GpuThread(1), lo, hi, step, init, body }
                if self.mapping == Mapping::Block =>
            {
                assert!(init.is_empty(), "nothing goes from one warp to the next");
                self.warp_loop((*lo, *hi, *step), *body);
            }
            InstData::For { lo, hi, step, init, body, .. } => {
                let finals = self.for_loop((*lo, *hi, *step), init, *body);
                for (&result, regs) in results.iter().zip(finals) {
                    self.define(result, regs);
                }
            }
            InstData::While { init, body } => {
                let finals = self.while_loop(init, *body);
                for (&result, regs) in results.iter().zip(finals) {
                    self.define(result, regs);
                }
            }
            InstData::If { cond, then, otherwise } => {
                let finals = self.choose(*cond, *then, *otherwise, results);
                for (&result, regs) in results.iter().zip(finals) {
                    self.define(result, regs);
                }
            }
            other => unreachable!("{other:?} has a result"),
        }
    }

    /// Fresh registers for a value of this type.
    fn fresh(&mut self, ty: LaneType) -> Vec<Reg> {
        (0..Self::width(ty.lanes)).map(|_| self.reg(class_of(ty.dtype))).collect()
    }

    pub(super) fn mov(&mut self, to: Reg, from: Reg) {
        if to != from {
            ins!(self, "mov.{} {to}, {from}", to.class.suffix());
        }
    }

    /// Assigns all at once: what is read is read before it is written.
    fn assign(&mut self, to: &[Vec<Reg>], from: &[Box<[Reg]>]) {
        let pairs: Vec<(Reg, Reg)> =
            to.iter().zip(from).flat_map(|(to, from)| to.iter().copied().zip(from.iter().copied())).collect();
        let mut late = Vec::new();
        for (i, &(to, from)) in pairs.iter().enumerate() {
            // A target that a later pair reads waits in a register of its own.
            if to != from && pairs[i + 1..].iter().any(|&(_, later)| later == to) {
                let temporary = self.reg(to.class);
                self.mov(temporary, from);
                late.push((to, temporary));
            } else {
                self.mov(to, from);
            }
        }
        for (to, from) in late {
            self.mov(to, from);
        }
    }

    fn carried(&mut self, init: &[Val]) -> Vec<Vec<Reg>> {
        let from: Vec<Box<[Reg]>> = init.iter().map(|&v| self.get(v)).collect();
        let to: Vec<Vec<Reg>> = init.iter().map(|&v| self.fresh(self.ty(v))).collect();
        for (to, from) in to.iter().zip(&from) {
            for (&to, &from) in to.iter().zip(from) {
                self.mov(to, from);
            }
        }
        to
    }

    fn for_loop(&mut self, (lo, hi, step): (Val, Val, i64), init: &[Val], body: Block) -> Vec<Vec<Reg>> {
        let kernel = self.kernel;
        let params = &kernel.blocks[body].params;
        let [begin, end, _] = kernel.blocks[kernel.body].params[..] else {
            unreachable!("the body has three parameters")
        };
        if (lo, hi, step) == (begin, end, 1) {
            // The task loop: this worker's turn is one task.
            self.values[params[0]] = self.values[lo].clone();
            self.facts[params[0]] = self.facts[lo];
            for (&param, &v) in params[1..].iter().zip(init) {
                self.values[param] = self.values[v].clone();
            }
            let yielded = self.block(body);
            return yielded.iter().map(|&v| self.get(v).into_vec()).collect();
        }
        let carried = self.carried(init);
        let index = self.reg(Class::B64);
        let (lo_reg, hi_reg) = (self.get1(lo), self.get1(hi));
        let (lo_fact, hi_fact) = (self.facts[lo], self.facts[hi]);
        self.facts[params[0]] = Fact::induction(lo_fact, hi_fact, step);
        self.mov(index, lo_reg);
        let (top, out) = (self.text.label("loop"), self.text.label("end"));
        self.enter(body);
        if lo_fact.high >= hi_fact.low {
            let done = self.reg(Class::Pred);
            ins!(self, "setp.ge.s64 {done}, {lo_reg}, {hi_reg}");
            ins!(self, "@{done} bra {out}");
        }
        self.define(params[0], vec![index]);
        for (&param, regs) in params[1..].iter().zip(&carried) {
            self.define(param, regs.clone());
        }
        self.text.place(&top);
        let yielded = self.block(body);
        self.leave(body);
        let from: Vec<Box<[Reg]>> = yielded.iter().map(|&v| self.get(v)).collect();
        self.assign(&carried, &from);
        ins!(self, "add.s64 {index}, {index}, {step}");
        let more = self.reg(Class::Pred);
        ins!(self, "setp.lt.s64 {more}, {index}, {hi_reg}");
        ins!(self, "@{more} bra {top}");
        self.text.place(&out);
        carried
    }

    /// A loop whose iterations the warps of the block take turns in.
    fn warp_loop(&mut self, (lo, hi, step): (Val, Val, i64), body: Block) {
        let param = self.kernel.blocks[body].params[0];
        self.facts[param] = Fact::induction(self.facts[lo], self.facts[hi], step);
        let (tid, lo, hi) = (self.tid, self.get1(lo), self.get1(hi));
        let [warp, warps, own, stride] = [Class::B32, Class::B32, Class::B64, Class::B64].map(|class| self.reg(class));
        let index = self.reg(Class::B64);
        if let Some(Role::Multiply(multiplier)) = self.role {
            ins!(self, "mov.u32 {warp}, {}", multiplier.warp);
            ins!(self, "mov.u32 {warps}, 4");
        } else {
            ins!(self, "shr.u32 {warp}, {tid}, 5");
            self.agree(warp);
            ins!(self, "mov.u32 {warps}, %ntid.x");
            ins!(self, "shr.u32 {warps}, {warps}, 5");
        }
        ins!(self, "mul.wide.u32 {own}, {warp}, {step}");
        ins!(self, "add.s64 {index}, {lo}, {own}");
        ins!(self, "mul.wide.u32 {stride}, {warps}, {step}");
        let (done, more) = (self.reg(Class::Pred), self.reg(Class::Pred));
        let (top, out) = (self.text.label("turn"), self.text.label("turned"));
        ins!(self, "setp.ge.s64 {done}, {index}, {hi}");
        ins!(self, "@{done} bra {out}");
        self.define(param, vec![index]);
        self.text.place(&top);
        let outer = std::mem::replace(&mut self.shared_out, true);
        self.block(body);
        self.shared_out = outer;
        ins!(self, "add.s64 {index}, {index}, {stride}");
        ins!(self, "setp.lt.s64 {more}, {index}, {hi}");
        ins!(self, "@{more} bra {top}");
        self.text.place(&out);
    }

    fn while_loop(&mut self, init: &[Val], body: Block) -> Vec<Vec<Reg>> {
        let kernel = self.kernel;
        let carried = self.carried(init);
        for (&param, regs) in kernel.blocks[body].params.iter().zip(&carried) {
            self.define(param, regs.clone());
        }
        let top = self.text.label("while");
        self.enter(body);
        self.text.place(&top);
        let yielded = self.block(body);
        self.leave(body);
        let from: Vec<Box<[Reg]>> = yielded[1..].iter().map(|&v| self.get(v)).collect();
        let again = self.get1(yielded[0]);
        // The condition may be carried itself.
        let more = self.reg(Class::Pred);
        self.mov(more, again);
        self.assign(&carried, &from);
        ins!(self, "@{more} bra {top}");
        carried
    }

    fn choose(&mut self, cond: Val, then: Block, otherwise: Block, results: &[Val]) -> Vec<Vec<Reg>> {
        let finals: Vec<Vec<Reg>> = results.iter().map(|&v| self.fresh(self.ty(v))).collect();
        let (other, out) = (self.text.label("else"), self.text.label("endif"));
        let cond = self.get1(cond);
        ins!(self, "@!{cond} bra {other}");
        let before = self.hazards.clone();
        for (block, label) in [(then, Some(&other)), (otherwise, None)] {
            let entered = before.clone();
            let left = std::mem::replace(&mut self.hazards, entered);
            let yielded = self.block(block);
            let from: Vec<Box<[Reg]>> = yielded.iter().map(|&v| self.get(v)).collect();
            for (to, from) in finals.iter().zip(&from) {
                for (&to, &from) in to.iter().zip(from) {
                    self.mov(to, from);
                }
            }
            match label {
                Some(label) => {
                    ins!(self, "bra {out}");
                    self.text.place(label);
                }
                None => self.hazards.join(left),
            }
        }
        self.text.place(&out);
        finals
    }

    /// Before a loop, also where it has no iteration: nothing that came before is pending in its body.
    fn enter(&mut self, body: Block) {
        if self.hazards.pending() && self.hazards.body_touches(self.kernel, body) {
            self.barrier();
            self.hazards.clear();
        }
    }

    /// Behind each iteration of a body, where the next one may see what other threads wrote in this one.
    fn leave(&mut self, body: Block) {
        if self.hazards.body_needs_barrier(self.kernel, body) && self.hazards.pending() {
            self.barrier();
            self.hazards.clear();
        }
    }

    /// Whether a buffer is only read, and overwritten by none, while the kernel runs.
    pub(super) fn is_constant(&self, buffer: Buffer) -> bool {
        let overwritten = self.kernel.buffers.values().any(|b| b.in_place == Some(buffer));
        self.kernel.buffers[buffer].access == Access::Read && !overwritten
    }
}
