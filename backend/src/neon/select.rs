//! Instruction selection: the walk over a legalised kernel that makes machine code.
//!
//! Each loop's body, and each side of a branch, is a scope. While an inner scope is open, the block before it is still
//! open as well, so that addresses and constants that do not change inside can be computed there. A block is closed by
//! its jump only when everything inside is done.
//!
//! A vector lies packed in as many registers of 128 bits as its lanes fill; what is beyond its last lane is anything. A mask
//! lies in lanes of 32 bits of all ones or zeros. Scalars are the lowest lane of a vector register, or a general register, where
//! integers of fewer than 64 bits are extended to 32 bits by their sign and above that by zeros; a `Bool` is 0 or 1.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Block, Buffer, INDEX, Inst, InstData, Kernel, LaneType, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, Scalar};
use regalloc2::{RegClass, VReg};
use smallvec::{SmallVec, smallvec};

use super::machine::{GENERAL, MachineCode, MachineInst, Operand, VECTOR, Word};
use super::words::{self, Form, Moved, Size};
use super::{Features, Unsupported};
use crate::machine::scopes::{Place, scope_of_constants};

/// The registers of a value: one for a scalar, one for each part of a vector or mask.
pub(super) type Registers = SmallVec<[VReg; 4]>;

/// How a value is held.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// In registers.
    Registers(Registers),
    /// In all lanes what is in one lane of a register.
    Lane(VReg, u8),
    /// In the upper half of a register.
    Upper(VReg),
}

/// A part of an address: a buffer, a constant in bytes and some of its terms.
type Partial = (Buffer, i64, Vec<(Val, Stride)>);

/// A scope: where code goes, and what was computed there already.
pub(super) struct Scope {
    pub(super) place: Place,
    constants: HashMap<(Scalar, u16), Registers>,
    pub(super) pointers: HashMap<Partial, VReg>,
    pub(super) products: HashMap<(Val, Stride, i64), VReg>,
    /// A register plus a constant.
    pub(super) far: HashMap<(VReg, i64), VReg>,
}

/// A kernel while it is selected.
pub(super) struct Select<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) features: Features,
    pub(super) code: MachineCode,
    pub(super) scopes: Vec<Scope>,
    pub(super) held: SecondaryMap<Val, Option<Held>>,
    pub(super) constants: SecondaryMap<Val, Option<Scalar>>,
    pub(super) depths: SecondaryMap<Val, u32>,
    pub(super) buffers: HashMap<Buffer, VReg>,
    /// Elements in all lanes that are lanes of one load, with the group's number and the lane.
    pub(super) grouped: HashMap<Inst, (u32, u8)>,
    /// Halves of registers that are one load, with its number and whether it is the upper one.
    pub(super) paired: HashMap<Inst, (u32, bool)>,
    /// Sums and differences of indices.
    pub(super) sums: HashMap<Val, (BinaryOp, Val, Val)>,
    /// The four lower and the four upper lanes of a group of 16-bit floats, converted.
    pub(super) converted: HashMap<(VReg, DType, bool), VReg>,
    params: VReg,
}

/// Selects instructions for a kernel.
pub(super) fn select(kernel: &Kernel, features: Features) -> Result<MachineCode, Unsupported> {
    let mut code = MachineCode::default();
    let entry = code.block();
    code.layout.push(entry);
    let [buffers, params, begin, end, scratch, worker] = [(); 6].map(|()| code.register(GENERAL));
    code.blocks[0].insts.push(MachineInst::Arguments([buffers, params, begin, end, scratch, worker]));
    let mut this = Select {
        kernel,
        features,
        code,
        scopes: vec![Scope::new(Place::new(kernel, kernel.body, entry, false))],
        held: SecondaryMap::new(),
        constants: SecondaryMap::new(),
        depths: SecondaryMap::new(),
        buffers: HashMap::new(),
        grouped: HashMap::new(),
        paired: HashMap::new(),
        sums: sums(kernel),
        converted: HashMap::new(),
        params,
    };
    for (i, (buffer, _)) in kernel.arguments().enumerate() {
        let offset = i as i64 * 8;
        if !POINTER.reaches(offset) {
            return Err(Unsupported("a kernel with that many buffers"));
        }
        let pointer = this.op(GENERAL, POINTER.at(false, offset), &[buffers]);
        this.buffers.insert(buffer, pointer);
    }
    for (buffer, offset) in kernel.scratch_layout().0 {
        let pointer = this.plus(scratch, offset as i64);
        this.buffers.insert(buffer, pointer);
    }
    // The worker's number is 32 bits wide.
    let wide = this.op(GENERAL, words::bit_field(true, true, 0, 31), &[worker]);
    for (&param, register) in kernel.blocks[kernel.body].params.iter().zip([begin, end, wide]) {
        this.held[param] = Some(Held::Registers(smallvec![register]));
    }
    this.block(kernel.body)?;
    this.push(MachineInst::Return);
    Ok(this.code)
}

/// What indices are sums and differences of.
fn sums(kernel: &Kernel) -> HashMap<Val, (BinaryOp, Val, Val)> {
    let sums = kernel.insts.values().filter_map(|inst| match inst.data {
        InstData::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b) if kernel.ty(a) == INDEX => {
            Some((inst.results[0], (op, a, b)))
        }
        _ => None,
    });
    sums.collect()
}

/// A pointer, or a parameter, in memory.
const POINTER: Moved = Moved::General(Size::D, false);

/// The lanes of a type in registers; a mask's have 32 bits.
pub(super) fn lane_size(dtype: DType) -> Size {
    match dtype {
        DType::Bool => Size::S,
        other => Size::of_bits(other.bits()),
    }
}

/// How many registers hold a value.
pub(super) fn count(ty: LaneType) -> Result<usize, Unsupported> {
    use DType::*;
    if !matches!(ty.dtype, F64 | F32 | F16 | BF16 | I64 | I32 | I16 | I8 | U64 | U32 | U16 | U8 | Bool) {
        return Err(Unsupported("a type of less than 8 bits"));
    }
    if !ty.lanes.is_power_of_two() {
        return Err(Unsupported("a vector whose lanes are no power of two"));
    }
    Ok((usize::from(ty.lanes) * lane_size(ty.dtype).bits() as usize).div_ceil(128))
}

/// The class of a value's registers.
pub(super) fn class(ty: LaneType) -> RegClass {
    if ty.lanes == 1 && !ty.dtype.is_float() { GENERAL } else { VECTOR }
}

impl Scope {
    pub(super) fn new(place: Place) -> Scope {
        Scope {
            place,
            constants: HashMap::new(),
            pointers: HashMap::new(),
            products: HashMap::new(),
            far: HashMap::new(),
        }
    }
}

impl Select<'_> {
    pub(super) fn ty(&self, val: Val) -> LaneType {
        self.kernel.ty(val)
    }

    pub(super) fn top(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a scope is open")
    }

    pub(super) fn depth(&self) -> usize {
        self.scopes.len() - 1
    }

    pub(super) fn push(&mut self, inst: MachineInst) {
        self.push_at(self.depth(), inst);
    }

    pub(super) fn push_at(&mut self, depth: usize, inst: MachineInst) {
        let block = self.scopes[depth].place.block;
        self.code.blocks[block.0 as usize].insts.push(inst);
    }

    /// An instruction of one result, which is operand 0; the operands that it reads follow.
    pub(super) fn op(&mut self, class: RegClass, word: Word, uses: &[VReg]) -> VReg {
        self.op_at(self.depth(), class, word, uses)
    }

    pub(super) fn op_at(&mut self, depth: usize, class: RegClass, word: Word, uses: &[VReg]) -> VReg {
        let to = self.code.register(class);
        let operands = std::iter::once(Operand::Def(to)).chain(uses.iter().map(|&v| Operand::Use(v))).collect();
        self.push_at(depth, MachineInst::one(word, operands));
        to
    }

    /// An instruction whose result begins as another value.
    pub(super) fn tied(&mut self, word: Word, from: VReg, uses: &[VReg]) -> VReg {
        let to = self.code.register(VECTOR);
        let operands = std::iter::once(Operand::Tied(from, to)).chain(uses.iter().map(|&v| Operand::Use(v))).collect();
        self.push(MachineInst::one(word, operands));
        to
    }

    /// Several words as one instruction, with a result that is operand 0.
    pub(super) fn several(&mut self, class: RegClass, words: &[Word], uses: &[VReg]) -> VReg {
        let to = self.code.register(class);
        let operands = std::iter::once(Operand::Def(to)).chain(uses.iter().map(|&v| Operand::Use(v))).collect();
        self.push(MachineInst::Op { words: SmallVec::from(words), operands, effect: false });
        to
    }

    /// An instruction on vectors.
    pub(super) fn vector(&mut self, word: Word, uses: &[VReg]) -> VReg {
        self.op(VECTOR, word, uses)
    }

    /// `register + value`.
    pub(super) fn plus(&mut self, register: VReg, value: i64) -> VReg {
        self.plus_at(self.depth(), register, value)
    }

    pub(super) fn plus_at(&mut self, depth: usize, register: VReg, value: i64) -> VReg {
        let form = if value < 0 { words::SUB_IMMEDIATE } else { words::ADD_IMMEDIATE };
        let size = value.unsigned_abs();
        if size == 0 {
            return register;
        }
        if size < 1 << 24 {
            let mut sum = register;
            for (part, high) in [(size & 0xfff, 0), (size >> 12, 1)] {
                if part != 0 {
                    let word = words::general(form, true).or((part as u32) << 10 | high << 22);
                    sum = self.op_at(depth, GENERAL, word.immediate((part << (12 * high)) as i64), &[sum]);
                }
            }
            return sum;
        }
        let value = self.immediate_at(depth, value);
        self.op_at(depth, GENERAL, words::general(words::ADD, true), &[register, value])
    }

    /// A 64-bit constant in a general register.
    pub(super) fn immediate(&mut self, value: i64) -> VReg {
        self.immediate_at(self.depth(), value)
    }

    pub(super) fn immediate_at(&mut self, depth: usize, value: i64) -> VReg {
        let parts: [u16; 4] = std::array::from_fn(|i| (value as u64 >> (16 * i)) as u16);
        let negative = parts.iter().filter(|&&p| p == 0xffff).count() > parts.iter().filter(|&&p| p == 0).count();
        let filler = if negative { 0xffff } else { 0 };
        let mut rest = (0..4u32).filter(|&i| parts[i as usize] != filler);
        let first = rest.next().unwrap_or(0);
        let part = parts[first as usize];
        let word = match negative {
            true => words::move_part(words::MOVN, !part, first),
            false => words::move_part(words::MOVZ, part, first),
        };
        let mut words: SmallVec<[Word; 1]> = smallvec![word];
        words.extend(rest.map(|i| words::move_part(words::MOVK, parts[i as usize], i)));
        let to = self.code.register(GENERAL);
        self.push_at(depth, MachineInst::Op { words, operands: smallvec![Operand::Def(to)], effect: false });
        to
    }

    /// The constant of an integer scalar.
    pub(super) fn integer_of(&self, val: Val) -> Option<i64> {
        let scalar = self.constants[val].filter(|_| self.kernel.ty(val).lanes == 1)?;
        scalar.as_i64()
    }

    /// The registers of a value. A constant is made in the outermost place where registers are not scarce.
    pub(super) fn get(&mut self, val: Val) -> Result<Registers, Unsupported> {
        match self.held[val].clone() {
            Some(Held::Registers(registers)) => return Ok(registers),
            Some(Held::Lane(vector, lane)) => {
                let ty = self.ty(val);
                let depth = self.depths[val] as usize;
                let word = words::repeated(lane_size(ty.dtype), lane);
                let register = self.op_at(depth, VECTOR, word, &[vector]);
                let registers: Registers = smallvec![register; count(ty)?];
                self.held[val] = Some(Held::Registers(registers.clone()));
                return Ok(registers);
            }
            Some(Held::Upper(vector)) => {
                let depth = self.depths[val] as usize;
                let register = self.op_at(depth, VECTOR, words::window(8), &[vector, vector]);
                let registers: Registers = smallvec![register];
                self.held[val] = Some(Held::Registers(registers.clone()));
                return Ok(registers);
            }
            None => {}
        }
        let scalar = self.constants[val].expect("operands are defined before their use");
        let ty = self.kernel.ty(val);
        let key = (scalar, ty.lanes);
        if let Some(found) = self.scopes.iter().rev().find_map(|s| s.constants.get(&key)) {
            return Ok(found.clone());
        }
        let depth = scope_of_constants(self.depth(), |depth| self.scopes[depth].place);
        let registers = self.materialize(depth, scalar, ty)?;
        self.scopes[depth].constants.insert(key, registers.clone());
        Ok(registers)
    }

    pub(super) fn get1(&mut self, val: Val) -> Result<VReg, Unsupported> {
        Ok(self.get(val)?[0])
    }

    fn materialize(&mut self, depth: usize, scalar: Scalar, ty: LaneType) -> Result<Registers, Unsupported> {
        let count = count(ty)?;
        if class(ty) == GENERAL {
            let bits = match ty.dtype {
                DType::I64 | DType::U64 => scalar.bits as i64,
                DType::I8 | DType::I16 | DType::I32 => {
                    let shift = 64 - ty.dtype.bits();
                    i64::from((((scalar.bits << shift) as i64) >> shift) as u32)
                }
                _ => scalar.bits as i64,
            };
            return Ok(smallvec![self.immediate_at(depth, bits)]);
        }
        let lane = match (ty.dtype, scalar.bits) {
            (DType::Bool, 0) => 0,
            (DType::Bool, _) => u64::from(u32::MAX),
            (_, bits) => bits,
        };
        // All parts of a splat are equal.
        Ok(smallvec![self.pattern_at(depth, lane_size(ty.dtype), lane); count])
    }

    /// A vector with these bits in each lane.
    fn pattern_at(&mut self, depth: usize, size: Size, lane: u64) -> VReg {
        let lanes = 128 / size.bits();
        let bits = (0..lanes).fold(0, |all, i| all | u128::from(lane) << (i * size.bits()));
        let to = self.code.register(VECTOR);
        self.push_at(depth, MachineInst::Constant(to, bits));
        to
    }

    pub(super) fn pattern(&mut self, size: Size, lane: u64) -> VReg {
        self.pattern_at(self.depth(), size, lane)
    }

    pub(super) fn set(&mut self, val: Val, registers: Registers) {
        self.hold(val, Held::Registers(registers));
    }

    pub(super) fn hold(&mut self, val: Val, held: Held) {
        self.depths[val] = self.depth() as u32;
        self.held[val] = Some(held);
    }

    /// Fresh registers for a value of this type.
    pub(super) fn fresh(&mut self, ty: LaneType) -> Result<Registers, Unsupported> {
        let count = count(ty)?;
        Ok((0..count).map(|_| self.code.register(class(ty))).collect())
    }

    /// Selects a block's instructions and gives the registers of what it yields.
    pub(super) fn block(&mut self, block: Block) -> Result<Vec<Registers>, Unsupported> {
        let kernel = self.kernel;
        let groups = self.group_splats(block);
        let pairs = self.pair_loads(block);
        let (mut loaded, mut paired) = (HashMap::new(), HashMap::new());
        for &inst in &kernel.blocks[block].insts {
            let record = &kernel.insts[inst];
            match &record.data {
                InstData::LoadSplat { .. } if self.grouped.contains_key(&inst) => {
                    let (group, lane) = self.grouped[&inst];
                    let vector = match loaded.get(&group) {
                        Some(&vector) => vector,
                        None => {
                            let vector = self.load_group(&groups[group as usize])?;
                            loaded.insert(group, vector);
                            vector
                        }
                    };
                    self.hold(record.results[0], Held::Lane(vector, lane));
                }
                InstData::Load { .. } if self.paired.contains_key(&inst) => {
                    let (pair, upper) = self.paired[&inst];
                    let vector = match paired.get(&pair) {
                        Some(&vector) => vector,
                        None => {
                            let vector = self.load_group(&pairs[pair as usize])?;
                            paired.insert(pair, vector);
                            vector
                        }
                    };
                    let held = if upper { Held::Upper(vector) } else { Held::Registers(smallvec![vector]) };
                    self.hold(record.results[0], held);
                }
                InstData::Yield(vals) => return vals.iter().map(|&v| self.get(v)).collect(),
                InstData::For { .. } => self.for_loop(inst)?,
                InstData::While { .. } => self.while_loop(inst)?,
                InstData::If { .. } => self.branch(inst)?,
                InstData::Const(scalar) => self.constants[record.results[0]] = Some(*scalar),
                InstData::Param(n) => {
                    let offset = i64::from(*n) * 8;
                    if !POINTER.reaches(offset) {
                        return Err(Unsupported("a kernel with that many parameters"));
                    }
                    let register = self.op(GENERAL, POINTER.at(false, offset), &[self.params]);
                    self.set(record.results[0], smallvec![register]);
                }
                InstData::Store { buffer, address, value, count } => self.store(*buffer, address, *value, *count)?,
                InstData::Scatter { buffer, address, indices, value, count } => {
                    self.scatter(*buffer, address, *indices, *value, *count)?;
                }
                // Processors of this kind find the way of most kernels by themselves.
                InstData::Prefetch { .. } => {}
                InstData::Tile(_) | InstData::Attend(_) => return Err(Unsupported("a tile of matrix products")),
                data => {
                    let result = record.results[0];
                    count(self.ty(result))?;
                    let held = self.inst(data, self.ty(result))?;
                    self.hold(result, held);
                }
            }
        }
        panic!("{block} does not end in a yield");
    }

    /// The comparison of a general register with a constant or another register.
    pub(super) fn comparison(
        &mut self,
        wide: bool,
        a: VReg,
        b: VReg,
        value: Option<i64>,
    ) -> (Word, SmallVec<[VReg; 2]>) {
        match value {
            Some(value @ 0..4096) => {
                let word = words::general(words::CMP_IMMEDIATE, wide).or((value as u32) << 10).immediate(value);
                (word.fields(&[(0, 5)]), smallvec![a])
            }
            _ => (words::general(words::CMP, wide).fields(&[(0, 5), (1, 16)]), smallvec![a, b]),
        }
    }

    /// An instruction of general registers, 64 bits wide or 32.
    pub(super) fn general(&mut self, form: Form, wide: bool, uses: &[VReg]) -> VReg {
        self.op(GENERAL, words::general(form, wide), uses)
    }
}
