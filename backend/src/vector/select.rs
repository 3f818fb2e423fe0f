//! Instruction selection: the walk over a legalised kernel that makes machine code.
//!
//! Each loop's body, and each side of a branch, is a scope. While an inner scope is open, the block before it is still
//! open as well, so that addresses and constants that do not change inside can be computed there. A block is closed by
//! its jump only when everything inside is done.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Block, Buffer, InstData, Kernel, LaneType, Stride, Val};
use onnxc_ir::scalar::Scalar;
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};

use super::Unsupported;
use super::halves;
use super::machine::{GENERAL, Isa, MASK, MachineCode, MachineInst, Memory, Operand, Pattern, WIDE};
use super::vectors::is_wide;
use super::width::Pieces;
use crate::machine::scopes::{Place, scope_of_constants};

/// The registers of a value: one for a scalar, one for each piece of a vector or mask.
pub(super) type Registers = SmallVec<[VReg; 4]>;

/// A scope: where code goes, and what was computed there already.
pub(super) struct Scope {
    pub(super) place: Place,
    pub(super) constants: HashMap<(Scalar, u16), Registers>,
    pub(super) pointers: HashMap<(Buffer, Vec<(Val, Stride)>), VReg>,
    pub(super) products: HashMap<(Val, Stride, u32), VReg>,
    pub(super) masks: HashMap<(Val, u16, usize), Vec<VReg>>,
    /// The even and the odd bytes of words, extended to 16 bits.
    pub(super) halves: HashMap<(Val, DType), [Registers; 2]>,
}

/// A kernel while it is selected.
pub(super) struct Select<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) isa: Isa,
    pub(super) code: MachineCode,
    pub(super) scopes: Vec<Scope>,
    pub(super) registers: SecondaryMap<Val, Option<Registers>>,
    pub(super) constants: SecondaryMap<Val, Option<Scalar>>,
    uses: SecondaryMap<Val, u32>,
    /// The vectors of 16-bit integers that lie side by side (see [`super::halves`]).
    pub(super) packed: SecondaryMap<Val, bool>,
    pub(super) depths: SecondaryMap<Val, u32>,
    pub(super) buffers: HashMap<Buffer, VReg>,
    params: VReg,
}

/// Selects instructions for a kernel.
pub(super) fn select(kernel: &Kernel, isa: Isa) -> Result<MachineCode, Unsupported> {
    let mut code = MachineCode::default();
    let entry = code.block();
    code.layout.push(entry);
    let [buffers, params, begin, end, scratch, worker] = [(); 6].map(|()| code.register(GENERAL));
    code.blocks[0].insts.push(MachineInst::Arguments([buffers, params, begin, end, scratch, worker]));
    let mut this = Select {
        kernel,
        isa,
        code,
        scopes: vec![Scope::new(Place::new(kernel, kernel.body, entry, false))],
        registers: SecondaryMap::new(),
        constants: SecondaryMap::new(),
        uses: uses(kernel),
        packed: halves::packed(kernel),
        depths: SecondaryMap::new(),
        buffers: HashMap::new(),
        params,
    };
    for (i, (buffer, _)) in kernel.arguments().enumerate() {
        let displacement = i32::try_from(i * 8).map_err(|_| Unsupported("a kernel with that many buffers"))?;
        let pointer = this.load_general(Code::Mov_r64_rm64, Memory { base: buffers, index: None, displacement });
        this.buffers.insert(buffer, pointer);
    }
    for (buffer, offset) in kernel.scratch_layout().0 {
        let offset = i32::try_from(offset).map_err(|_| Unsupported("more than 2 GB of scratch"))?;
        let pointer = this.lea(Memory { base: scratch, index: None, displacement: offset });
        this.buffers.insert(buffer, pointer);
    }
    // The worker's number is 32 bits wide.
    let wide = this.def(GENERAL);
    this.op(Code::Movsxd_r64_rm32, smallvec![Operand::Def(wide), Operand::Use(worker)]);
    for (&param, register) in kernel.blocks[kernel.body].params.iter().zip([begin, end, wide]) {
        this.registers[param] = Some(smallvec![register]);
    }
    this.block(kernel.body)?;
    this.push(MachineInst::Return);
    Ok(this.code)
}

/// How many operands each value is.
fn uses(kernel: &Kernel) -> SecondaryMap<Val, u32> {
    let mut uses = SecondaryMap::new();
    kernel.insts.values().for_each(|inst| inst.data.for_each_operand(|v| uses[v] += 1));
    uses
}

impl Scope {
    pub(super) fn new(place: Place) -> Scope {
        Scope {
            place,
            constants: HashMap::new(),
            pointers: HashMap::new(),
            products: HashMap::new(),
            masks: HashMap::new(),
            halves: HashMap::new(),
        }
    }
}

impl Select<'_> {
    /// How a value of this type lies in registers.
    pub(super) fn pieces(&self, ty: LaneType) -> Result<Pieces, Unsupported> {
        Pieces::of(ty, self.isa)
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

    fn push_at(&mut self, depth: usize, inst: MachineInst) {
        let block = self.scopes[depth].place.block;
        self.code.blocks[block.0 as usize].insts.push(inst);
    }

    pub(super) fn def(&mut self, class: regalloc2::RegClass) -> VReg {
        self.code.register(class)
    }

    pub(super) fn op(&mut self, code: Code, operands: SmallVec<[Operand; 4]>) {
        self.push(MachineInst::Op { code, operands, mask: None, zeroing: false });
    }

    pub(super) fn op_at(&mut self, depth: usize, code: Code, operands: SmallVec<[Operand; 4]>) {
        self.push_at(depth, MachineInst::Op { code, operands, mask: None, zeroing: false });
    }

    pub(super) fn op_masked(&mut self, code: Code, operands: SmallVec<[Operand; 4]>, mask: VReg, zeroing: bool) {
        self.push(MachineInst::Op { code, operands, mask: Some(mask), zeroing });
    }

    pub(super) fn load_general(&mut self, code: Code, memory: Memory) -> VReg {
        let to = self.def(GENERAL);
        self.op(code, smallvec![Operand::Def(to), Operand::Memory(memory)]);
        to
    }

    /// The mask of the lanes below `count` in each piece. It is made where the count is known, once.
    pub(super) fn tail_masks(&mut self, count: Val, pieces: Pieces) -> Result<Vec<VReg>, Unsupported> {
        let key = (count, pieces.lanes, pieces.count);
        if let Some(found) = self.scopes.iter().rev().find_map(|s| s.masks.get(&key)) {
            return Ok(found.clone());
        }
        let known = self.constant_of(count).and_then(|c| c.as_i64());
        let depth = if known.is_some() { self.depth() } else { self.depths[count] as usize };
        let mut masks = Vec::with_capacity(pieces.count);
        for piece in 0..pieces.count {
            let before = piece as i64 * i64::from(pieces.lanes);
            let bits = match known {
                Some(count) => {
                    let valid = count.saturating_sub(before).clamp(0, pieces.lanes.into());
                    self.immediate_at(depth, (1 << valid) - 1)
                }
                None => {
                    let count = self.get1(count)?;
                    let rest = self.lea_at(depth, Memory { base: count, index: None, displacement: -(before as i32) });
                    self.low_bits_at(depth, rest, pieces.lanes)
                }
            };
            let mask = self.def(MASK);
            self.op_at(depth, Code::VEX_Kmovw_kr_r32, smallvec![Operand::Def(mask), Operand::Use(bits)]);
            masks.push(mask);
        }
        self.scopes[depth].masks.insert(key, masks.clone());
        Ok(masks)
    }

    /// As many low bits as the register says, at least none and at most `lanes`.
    fn low_bits_at(&mut self, depth: usize, count: VReg, lanes: u16) -> VReg {
        // Clamped because bzhi reads only the low byte of the count.
        let zero = self.immediate_at(depth, 0);
        self.op_at(depth, Code::Test_rm64_r64, smallvec![Operand::Use(count), Operand::Use(count)]);
        let positive = self.def(GENERAL);
        self.op_at(depth, Code::Cmovl_r64_rm64, smallvec![Operand::Tied(count, positive), Operand::Use(zero)]);
        let most = self.immediate_at(depth, lanes.into());
        self.op_at(depth, Code::Cmp_r64_rm64, smallvec![Operand::Use(positive), Operand::Use(most)]);
        let clamped = self.def(GENERAL);
        self.op_at(depth, Code::Cmovg_r64_rm64, smallvec![Operand::Tied(positive, clamped), Operand::Use(most)]);
        let ones = self.immediate_at(depth, -1);
        let bits = self.def(GENERAL);
        let operands = smallvec![Operand::Def(bits), Operand::Use(ones), Operand::Use(clamped)];
        self.op_at(depth, Code::VEX_Bzhi_r64_rm64_r64, operands);
        bits
    }

    pub(super) fn lea(&mut self, memory: Memory) -> VReg {
        self.lea_at(self.depth(), memory)
    }

    pub(super) fn lea_at(&mut self, depth: usize, memory: Memory) -> VReg {
        if memory.index.is_none() && memory.displacement == 0 {
            return memory.base;
        }
        let to = self.def(GENERAL);
        self.op_at(depth, Code::Lea_r64_m, smallvec![Operand::Def(to), Operand::Memory(memory)]);
        to
    }

    /// A 64-bit constant in a general register.
    pub(super) fn immediate(&mut self, value: i64) -> VReg {
        self.immediate_at(self.depth(), value)
    }

    pub(super) fn immediate_at(&mut self, depth: usize, value: i64) -> VReg {
        let to = self.def(GENERAL);
        let (code, value) = match i32::try_from(value) {
            // The shorter form extends the sign.
            Ok(_) => (Code::Mov_rm64_imm32, value),
            Err(_) => (Code::Mov_r64_imm64, value),
        };
        self.op_at(depth, code, smallvec![Operand::Def(to), Operand::Immediate(value)]);
        to
    }

    pub(super) fn constant_of(&self, val: Val) -> Option<Scalar> {
        self.constants[val]
    }

    /// The bits of a constant vector's lane.
    pub(super) fn pattern_of(&self, val: Val) -> Option<Pattern> {
        let scalar = self.constants[val]?;
        match scalar.dtype.bits() {
            32 => Some(Pattern::Narrow(scalar.bits as u32)),
            64 => Some(Pattern::Wide(scalar.bits)),
            _ => None,
        }
    }

    /// Whether nothing else uses a value: the instruction that does may write its result over it.
    pub(super) fn is_used_once(&self, val: Val) -> bool {
        self.uses[val] == 1
    }

    /// The constant as a sign-extended 32-bit immediate, for integers.
    pub(super) fn immediate_of(&self, val: Val) -> Option<i64> {
        let scalar = self.constants[val].filter(|_| self.kernel.ty(val).lanes == 1)?;
        scalar.as_i64().filter(|i| i32::try_from(*i).is_ok())
    }

    /// The registers of a value. A constant is made in the outermost place where registers are not scarce.
    pub(super) fn get(&mut self, val: Val) -> Result<Registers, Unsupported> {
        if let Some(registers) = &self.registers[val] {
            return Ok(registers.clone());
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
        if ty.lanes == 1 && !matches!(ty.dtype, DType::F32 | DType::F64) {
            let value = scalar.as_i64().unwrap_or(scalar.bits as i64);
            return Ok(smallvec![self.immediate_at(depth, value)]);
        }
        let pieces = self.pieces(ty)?;
        if ty.dtype == DType::Bool {
            return Err(Unsupported("a constant mask"));
        }
        let register = self.def(WIDE);
        let bits = self.immediate_at(depth, sign_extended(scalar));
        self.op_at(depth, pieces.broadcast_general(), smallvec![Operand::Def(register), Operand::Use(bits)]);
        // All pieces of a splat are equal.
        Ok(smallvec![register; pieces.count])
    }

    pub(super) fn set(&mut self, val: Val, registers: Registers) {
        self.depths[val] = self.depth() as u32;
        self.registers[val] = Some(registers);
    }

    /// Fresh registers for a value of this type.
    pub(super) fn fresh(&mut self, ty: LaneType) -> Result<Registers, Unsupported> {
        if ty.lanes == 1 && !is_wide(ty) {
            return Ok(smallvec![self.def(GENERAL)]);
        }
        let pieces = self.pieces(ty)?;
        let class = if ty.dtype == DType::Bool { MASK } else { WIDE };
        Ok((0..pieces.count).map(|_| self.code.register(class)).collect())
    }

    /// Selects a block's instructions and gives the registers of what it yields.
    pub(super) fn block(&mut self, block: Block) -> Result<Vec<Registers>, Unsupported> {
        let kernel = self.kernel;
        for &inst in &kernel.blocks[block].insts {
            match &kernel.insts[inst].data {
                InstData::Yield(vals) => return vals.iter().map(|&v| self.get(v)).collect(),
                InstData::For { .. } => self.for_loop(inst)?,
                InstData::While { .. } => self.while_loop(inst)?,
                InstData::If { .. } => self.branch(inst)?,
                InstData::Const(scalar) => self.constants[kernel.insts[inst].results[0]] = Some(*scalar),
                InstData::Param(n) => {
                    let displacement = *n as i32 * 8;
                    let memory = Memory { base: self.params, index: None, displacement };
                    let register = self.load_general(Code::Mov_r64_rm64, memory);
                    self.set(kernel.insts[inst].results[0], smallvec![register]);
                }
                data => self.inst(data, &kernel.insts[inst].results)?,
            }
        }
        panic!("{block} does not end in a yield");
    }
}

/// The bits of a scalar, sign-extended from its width, so that they fit the shortest move; those of 8 and 16 bits by their sign.
fn sign_extended(scalar: Scalar) -> i64 {
    match scalar.dtype.bits() {
        _ if matches!(scalar.dtype, DType::U8 | DType::U16) => scalar.bits as i64,
        64 => scalar.bits as i64,
        bits => ((scalar.bits << (64 - bits)) as i64) >> (64 - bits),
    }
}
