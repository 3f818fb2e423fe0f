//! Turns a kernel into a list of steps with jumps. Each value has consecutive slots, one a lane; results of a loop share
//! the slots of what it carries. A pure step's result lies behind its operands, because slots are given out in the order
//! of definition.

use cranelift_entity::{EntityRef, SecondaryMap};

use super::super::{
    Address, Block, Digits, Inst, InstData, Kernel, LaneType, Stride, Tile, TileKind, TileOperand, Val,
};
use super::attend::{FlatAttend, ScorePlace};
use crate::dtype::DType;
use crate::loops::FmaMode;
use crate::scalar::{BinaryOp, CmpOp, UnaryOp};

/// A kernel that is ready to run.
pub struct FlatKernel<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) code: Vec<Code>,
    pub(super) slots: usize,
    pub(super) slot_of: SecondaryMap<Val, usize>,
    /// Slot, bits, lanes.
    pub(super) constants: Vec<(usize, u64, usize)>,
    /// Slot, lanes.
    pub(super) iotas: Vec<(usize, usize)>,
    /// Slot, number.
    pub(super) params: Vec<(usize, usize)>,
}

/// One step.
pub(super) enum Code {
    Jump(usize),
    JumpUnless {
        cond: usize,
        target: usize,
    },
    JumpUnlessLess {
        a: usize,
        b: usize,
        target: usize,
    },
    /// Adds to a loop's index; jumps to the end if that overflows.
    Advance {
        index: usize,
        step: i64,
        end: usize,
    },
    Move {
        from: usize,
        to: usize,
        lanes: usize,
    },
    Compute(Compute),
    Memory(Memory),
    /// Computes the sums of a tile, which wait until they are handed on.
    TileSums(Box<TileSums>),
    /// Puts the band that begins at the row in this slot into the buffer of sums.
    TileBand {
        row: usize,
        band: usize,
        columns: usize,
        pitch: usize,
        buffer: usize,
    },
    /// Computes the products of an attention's queries and keys; they become scores in place.
    Products(Box<FlatAttend>),
    /// Takes a product to the slots of a score's block.
    Product(ScorePlace),
    /// Puts what the block yields back.
    Score(ScorePlace),
    /// Computes the sums of an attention, which wait as those of a tile.
    Weighted(Box<FlatAttend>),
}

/// A tile of a matrix product, on slots.
pub(super) struct TileSums {
    pub inst: Inst,
    pub kind: TileKind,
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub operands: [TileSide; 2],
}

/// An operand of a tile.
#[derive(Clone)]
pub(super) struct TileSide {
    pub buffer: usize,
    pub offset: i64,
    pub constant_terms: Vec<(usize, i64)>,
    pub value_terms: Vec<(usize, usize)>,
    pub first: usize,
    pub bound: usize,
    pub rows: Vec<FlatDigit>,
    pub depth: Vec<FlatDigit>,
}

/// A digit: its size, and its stride or the slot that has it.
#[derive(Clone)]
pub(super) struct FlatDigit {
    pub size: i64,
    pub stride: Result<i64, usize>,
}

/// A pure operation on slots.
pub(super) struct Compute {
    pub op: Op,
    /// The type of the operands.
    pub dtype: DType,
    /// The number of lanes of the result, or of the operand where the result is a scalar.
    pub lanes: usize,
    /// First slots of the operands; unused ones are 0.
    pub args: [usize; 3],
    pub out: usize,
}

/// What a [`Compute`] does.
pub(super) enum Op {
    Unary(UnaryOp),
    Binary(BinaryOp),
    Compare(CmpOp),
    Select,
    MulAdd(FmaMode),
    /// The types of the four numbers in each lane of the factors.
    Dot4([DType; 2]),
    Cast(DType),
    /// The bits as they are, lane by lane.
    Copy,
    Splat,
    Reduce(BinaryOp),
    /// Slots, relative to the first operand's or the second's.
    Pick(Box<[usize]>),
}

/// An access to memory.
pub(super) struct Memory {
    pub kind: MemoryKind,
    pub inst: Inst,
    pub buffer: usize,
    pub offset: i64,
    /// Slot and factor.
    pub constant_terms: Vec<(usize, i64)>,
    /// Slot and slot.
    pub value_terms: Vec<(usize, usize)>,
    /// Slot of the indices of a gather or scatter.
    pub indices: Option<usize>,
    /// Slot of the tail predicate.
    pub count: Option<usize>,
    /// Slot of the value.
    pub value: usize,
    pub lanes: usize,
    /// Whether each lane is a word of four elements.
    pub words: bool,
}

/// What a [`Memory`] does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryKind {
    Load,
    LoadSplat,
    Store,
}

/// Terms of an address: slots of their values, with constant strides.
type ConstantTerms = Vec<(usize, i64)>;
/// The same with strides that are values too, by their slots.
type ValueTerms = Vec<(usize, usize)>;

impl<'k> FlatKernel<'k> {
    /// Flattens a kernel that the verifier accepts.
    pub fn new(kernel: &'k Kernel) -> FlatKernel<'k> {
        let mut flat = FlatKernel {
            kernel,
            code: Vec::new(),
            slots: 0,
            slot_of: SecondaryMap::new(),
            constants: Vec::new(),
            iotas: Vec::new(),
            params: Vec::new(),
        };
        flat.define_all(&kernel.blocks[kernel.body].params);
        flat.block(kernel.body);
        flat
    }

    pub(super) fn fresh(&mut self, lanes: usize) -> usize {
        let slot = self.slots;
        self.slots += lanes;
        slot
    }

    fn lanes(&self, val: Val) -> usize {
        usize::from(self.kernel.ty(val).lanes)
    }

    pub(super) fn define(&mut self, val: Val) -> usize {
        let lanes = self.lanes(val);
        self.slot_of[val] = self.fresh(lanes);
        self.slot_of[val]
    }

    fn define_all(&mut self, vals: &[Val]) {
        vals.iter().for_each(|&v| {
            self.define(v);
        });
    }

    /// Copies values to the slots of others, as if all at once.
    fn moves(&mut self, from: &[Val], to: &[Val]) {
        let mut pairs: Vec<(usize, usize, usize)> =
            from.iter().zip(to).map(|(&f, &t)| (self.slot_of[f], self.slot_of[t], self.lanes(t))).collect();
        pairs.retain(|(f, t, _)| f != t);
        let clobbers = pairs.iter().any(|(f, _, _)| pairs.iter().any(|(_, t, _)| t == f));
        if clobbers {
            for pair in &mut pairs {
                let temporary = self.fresh(pair.2);
                self.code.push(Code::Move { from: pair.0, to: temporary, lanes: pair.2 });
                pair.0 = temporary;
            }
        }
        self.code.extend(pairs.into_iter().map(|(from, to, lanes)| Code::Move { from, to, lanes }));
    }

    fn share(&mut self, results: &[Val], params: &[Val]) {
        for (&result, &param) in results.iter().zip(params) {
            self.slot_of[result] = self.slot_of[param];
        }
    }

    /// Emits a block without its yield, whose values it returns.
    pub(super) fn block(&mut self, block: Block) -> &'k [Val] {
        let kernel = self.kernel;
        for &inst in &kernel.blocks[block].insts {
            if let InstData::Yield(vals) = &kernel.insts[inst].data {
                return vals;
            }
            self.inst(inst);
        }
        panic!("{block} does not end in a yield");
    }

    fn inst(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        match &record.data {
            InstData::Const(c) => {
                let slot = self.define(record.results[0]);
                self.constants.push((slot, c.bits, self.lanes(record.results[0])));
            }
            InstData::Param(n) => {
                let slot = self.define(record.results[0]);
                self.params.push((slot, *n as usize));
            }
            InstData::Iota => {
                let slot = self.define(record.results[0]);
                self.iotas.push((slot, self.lanes(record.results[0])));
            }
            InstData::For { lo, hi, step, init, body, .. } => {
                let params = &kernel.blocks[*body].params;
                self.define_all(params);
                self.moves(init, &params[1..]);
                self.moves(&[*lo], &params[..1]);
                let (index, hi) = (self.slot_of[params[0]], self.slot_of[*hi]);
                let head = self.code.len();
                self.code.push(Code::JumpUnlessLess { a: index, b: hi, target: 0 });
                let yielded = self.block(*body);
                self.moves(yielded, &params[1..]);
                let end = self.code.len() + 2;
                self.code.push(Code::Advance { index, step: *step, end });
                self.code.push(Code::Jump(head));
                self.code[head] = Code::JumpUnlessLess { a: index, b: hi, target: end };
                self.share(&record.results, &params[1..]);
            }
            InstData::While { init, body } => {
                let params = &kernel.blocks[*body].params;
                self.define_all(params);
                self.moves(init, params);
                let head = self.code.len();
                let yielded = self.block(*body);
                let again = self.fresh(1);
                self.code.push(Code::Move { from: self.slot_of[yielded[0]], to: again, lanes: 1 });
                self.moves(&yielded[1..], params);
                let target = self.code.len() + 2;
                self.code.push(Code::JumpUnless { cond: again, target });
                self.code.push(Code::Jump(head));
                self.share(&record.results, params);
            }
            InstData::If { cond, then, otherwise } => {
                self.define_all(&record.results);
                let cond = self.slot_of[*cond];
                let branch = self.code.len();
                self.code.push(Code::JumpUnless { cond, target: 0 });
                let yielded = self.block(*then);
                self.moves(yielded, &record.results);
                let skip = self.code.len();
                self.code.push(Code::Jump(0));
                self.code[branch] = Code::JumpUnless { cond, target: skip + 1 };
                let yielded = self.block(*otherwise);
                self.moves(yielded, &record.results);
                self.code[skip] = Code::Jump(self.code.len());
            }
            InstData::Yield(_) => unreachable!("the block's walk ends at its yield"),
            InstData::Prefetch { .. } => {}
            InstData::Tile(tile) => self.tile(inst, tile),
            InstData::Attend(attend) => self.attend(inst, attend),
            data => {
                if !self.memory(inst, data) {
                    self.compute(record.results[0], data);
                }
            }
        }
    }

    /// The sums, and then a loop over the bands.
    fn tile(&mut self, inst: Inst, tile: &Tile) {
        let operands = tile.operands().map(|operand| self.tile_side(operand));
        let (rows, columns) = (usize::from(tile.rows), usize::from(tile.cols));
        let sums = TileSums { inst, kind: tile.kind, rows, columns, depth: self.slot_of[tile.depth], operands };
        self.code.push(Code::TileSums(Box::new(sums)));
        let row = self.define(self.kernel.blocks[tile.body].params[0]);
        let end = self.fresh(1);
        self.constants.push((end, tile.rows.into(), 1));
        let zero = self.fresh(1);
        self.constants.push((zero, 0, 1));
        self.code.push(Code::Move { from: zero, to: row, lanes: 1 });
        let head = self.code.len();
        self.code.push(Code::JumpUnlessLess { a: row, b: end, target: 0 });
        let (band, pitch) = (usize::from(tile.band), usize::from(tile.pitch));
        self.code.push(Code::TileBand { row, band, columns, pitch, buffer: tile.sums.index() });
        self.block(tile.body);
        let out = self.code.len() + 2;
        self.code.push(Code::Advance { index: row, step: tile.band.into(), end: out });
        self.code.push(Code::Jump(head));
        self.code[head] = Code::JumpUnlessLess { a: row, b: end, target: out };
    }

    pub(super) fn tile_side(&self, operand: &TileOperand) -> TileSide {
        let (constant_terms, value_terms) = self.terms(&operand.address);
        let digits = |digits: &Digits| {
            let flat = |stride: Stride| match stride {
                Stride::Const(c) => Ok(c),
                Stride::Value(v) => Err(self.slot_of[v]),
            };
            digits.iter().map(|d| FlatDigit { size: d.size, stride: flat(d.stride) }).collect()
        };
        TileSide {
            buffer: operand.buffer.index(),
            offset: operand.address.offset,
            constant_terms,
            value_terms,
            first: self.slot_of[operand.first],
            bound: self.slot_of[operand.bound],
            rows: digits(&operand.rows),
            depth: digits(&operand.depth),
        }
    }

    /// The terms of an address.
    fn terms(&self, address: &Address) -> (ConstantTerms, ValueTerms) {
        let mut constant_terms = Vec::new();
        let mut value_terms = Vec::new();
        for &(val, stride) in &address.terms {
            match stride {
                Stride::Const(c) => constant_terms.push((self.slot_of[val], c)),
                Stride::Value(s) => value_terms.push((self.slot_of[val], self.slot_of[s])),
            }
        }
        (constant_terms, value_terms)
    }

    fn compute(&mut self, result: Val, data: &InstData) {
        let kernel = self.kernel;
        let mut args = [0; 3];
        let mut count = 0;
        let mut first = None;
        data.for_each_operand(|v| {
            args[count] = self.slot_of[v];
            count += 1;
            first = first.or(Some(v));
        });
        let operand: LaneType = kernel.ty(first.expect("a pure operation has an operand"));
        let mut lanes = self.lanes(result);
        let mut dtype = operand.dtype;
        let op = match data {
            InstData::Unary(op, _) => Op::Unary(*op),
            InstData::Binary(op, ..) => Op::Binary(*op),
            InstData::Compare(op, ..) => Op::Compare(*op),
            InstData::Select(..) => Op::Select,
            InstData::MulAdd { mode, .. } => Op::MulAdd(*mode),
            InstData::Dot4 { types, .. } => Op::Dot4(*types),
            InstData::Cast(_) => Op::Cast(kernel.ty(result).dtype),
            InstData::Bitcast(_) => Op::Copy,
            InstData::Splat(_) => Op::Splat,
            InstData::ReduceLanes(op, _) => {
                lanes = usize::from(operand.lanes);
                Op::Reduce(*op)
            }
            InstData::Extract(_, lane) => Op::Pick([usize::from(*lane)].into()),
            InstData::Shuffle(a, b, picks) => {
                let n = self.lanes(*a);
                let (a, b) = (self.slot_of[*a], self.slot_of[*b]);
                // Relative to the slots' start, so that one operand suffices.
                args = [0; 3];
                let slot = |&lane: &u16| {
                    let lane = usize::from(lane);
                    if lane < n { a + lane } else { b + lane - n }
                };
                Op::Pick(picks.iter().map(slot).collect())
            }
            _ => unreachable!("not a pure operation"),
        };
        if let InstData::Select(_, a, _) = data {
            dtype = kernel.ty(*a).dtype;
        }
        let out = self.define(result);
        self.code.push(Code::Compute(Compute { op, dtype, lanes, args, out }));
    }

    /// Emits an access to memory; false if it is none.
    fn memory(&mut self, inst: Inst, data: &InstData) -> bool {
        let kernel = self.kernel;
        let result = kernel.insts[inst].results.first().copied();
        let (kind, buffer, address, indices, count, value) = match data {
            InstData::Load { buffer, address, count } => (MemoryKind::Load, buffer, address, None, *count, None),
            InstData::LoadSplat { buffer, address } => (MemoryKind::LoadSplat, buffer, address, None, None, None),
            InstData::Gather { buffer, address, indices, count } => {
                (MemoryKind::Load, buffer, address, Some(*indices), *count, None)
            }
            InstData::Store { buffer, address, value, count } => {
                (MemoryKind::Store, buffer, address, None, *count, Some(*value))
            }
            InstData::Scatter { buffer, address, indices, value, count } => {
                (MemoryKind::Store, buffer, address, Some(*indices), *count, Some(*value))
            }
            _ => return false,
        };
        let (constant_terms, value_terms) = self.terms(address);
        let typed = value.or(result).expect("an access has a value");
        let memory = Memory {
            kind,
            inst,
            buffer: buffer.index(),
            offset: address.offset,
            constant_terms,
            value_terms,
            indices: indices.map(|v| self.slot_of[v]),
            count: count.map(|v| self.slot_of[v]),
            lanes: self.lanes(typed),
            words: kernel.ty(typed).dtype.bits() == 4 * kernel.buffers[*buffer].dtype.bits(),
            value: match value {
                Some(value) => self.slot_of[value],
                None => self.define(typed),
            },
        };
        self.code.push(Code::Memory(memory));
        true
    }
}
