//! Instruction selection: the walk over a legalised kernel that makes machine code.
//!
//! Each loop's body, and each side of a branch, is a scope. While an inner scope is open, the block before it is still
//! open as well, so that addresses and constants that do not change inside can be computed there. A block is closed by
//! its jump only when everything inside is done.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Block, Buffer, Inst, InstData, Kernel, LaneType, Stride, Val};
use onnxc_ir::scalar::Scalar;
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};

use super::Unsupported;
use super::halves;
use super::machine::{GENERAL, Isa, Label, MASK, MachineCode, MachineInst, Memory, Operand, Pattern, WIDE};
use super::vectors::is_wide;
use super::width::Pieces;

/// The registers of a value: one for a scalar, one for each piece of a vector or mask.
pub(super) type Registers = SmallVec<[VReg; 4]>;

/// A scope: where code goes, and what was computed there already.
pub(super) struct Scope {
    block: Label,
    /// Whether a loop inside of this one carries vectors, so that registers are scarce there.
    busy: bool,
    /// Whether the scope is a loop's body.
    is_loop: bool,
    constants: HashMap<(Scalar, u16), Registers>,
    pointers: HashMap<(Buffer, Vec<(Val, Stride)>), VReg>,
    products: HashMap<(Val, Stride, u32), VReg>,
    masks: HashMap<(Val, u16, usize), Vec<VReg>>,
    /// The even and the odd bytes of words, extended to 16 bits.
    pub(super) halves: HashMap<(Val, DType), [Registers; 2]>,
}

/// A kernel while it is selected.
pub(super) struct Select<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) isa: Isa,
    pub(super) code: MachineCode,
    pub(super) scopes: Vec<Scope>,
    registers: SecondaryMap<Val, Option<Registers>>,
    constants: SecondaryMap<Val, Option<Scalar>>,
    uses: SecondaryMap<Val, u32>,
    /// The vectors of 16-bit integers that lie side by side (see [`super::halves`]).
    pub(super) packed: SecondaryMap<Val, bool>,
    depths: SecondaryMap<Val, u32>,
    buffers: HashMap<Buffer, VReg>,
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
        scopes: vec![Scope::new(entry, busy(kernel, kernel.body), false)],
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

/// Whether a loop directly inside of the block, or below it, carries vectors.
fn busy(kernel: &Kernel, block: Block) -> bool {
    kernel.blocks[block].insts.iter().any(|&inst| {
        let data = &kernel.insts[inst].data;
        let carries = match data {
            InstData::For { init, .. } => init.iter().any(|&v| kernel.ty(v).lanes > 1),
            _ => false,
        };
        carries || data.blocks().iter().any(|&b| busy(kernel, b))
    })
}

impl Scope {
    fn new(block: Label, busy: bool, is_loop: bool) -> Scope {
        Scope {
            block,
            busy,
            is_loop,
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

    fn top(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a scope is open")
    }

    fn depth(&self) -> usize {
        self.scopes.len() - 1
    }

    pub(super) fn push(&mut self, inst: MachineInst) {
        self.push_at(self.depth(), inst);
    }

    fn push_at(&mut self, depth: usize, inst: MachineInst) {
        let block = self.scopes[depth].block;
        self.code.blocks[block.0 as usize].insts.push(inst);
    }

    pub(super) fn def(&mut self, class: regalloc2::RegClass) -> VReg {
        self.code.register(class)
    }

    pub(super) fn op(&mut self, code: Code, operands: SmallVec<[Operand; 4]>) {
        self.push(MachineInst::Op { code, operands, mask: None, zeroing: false });
    }

    fn op_at(&mut self, depth: usize, code: Code, operands: SmallVec<[Operand; 4]>) {
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

    fn lea_at(&mut self, depth: usize, memory: Memory) -> VReg {
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

    fn immediate_at(&mut self, depth: usize, value: i64) -> VReg {
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
        // Before the innermost loops that have no loops in them; where loops follow inside, only on the spot.
        let mut depth = self.depth();
        while depth > 0 && self.scopes[depth].is_loop && !self.scopes[depth].busy && !self.scopes[depth - 1].busy {
            depth -= 1;
        }
        if depth == self.depth() && depth > 0 && self.scopes[depth].is_loop && !self.scopes[depth].busy {
            depth -= 1;
        }
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
    fn block(&mut self, block: Block) -> Result<Vec<Registers>, Unsupported> {
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

    fn open(&mut self, block: Block, is_loop: bool) -> Label {
        let label = self.code.block();
        let busy = busy(self.kernel, block);
        self.scopes.push(Scope::new(label, busy, is_loop));
        label
    }

    fn jump(&mut self, from: Label, to: Label, arguments: SmallVec<[VReg; 8]>) {
        self.code.blocks[from.0 as usize].insts.push(MachineInst::Jump(to, arguments));
    }

    /// A block that only jumps on, with values for the parameters.
    fn edge(&mut self, to: Label, arguments: SmallVec<[VReg; 8]>) -> Label {
        let edge = self.code.block();
        self.jump(edge, to, arguments);
        edge
    }

    fn for_loop(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::For { lo, hi, step, init, body, .. } = &kernel.insts[inst].data else { unreachable!("a loop") };
        let runs = match (self.immediate_of(*lo), self.immediate_of(*hi)) {
            (Some(lo), Some(hi)) => lo < hi,
            _ => false,
        };
        let before = self.depth();
        let first = self.get1(*lo)?;
        // The bound is an immediate or lives through the loop.
        let bound = match self.immediate_of(*hi) {
            Some(_) => None,
            None => Some(self.get1(*hi)?),
        };
        let start: SmallVec<[VReg; 8]> =
            init.iter().map(|&v| self.get(v)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();

        let top = self.open(*body, true);
        let params = &kernel.blocks[*body].params;
        let index = self.def(GENERAL);
        self.set(params[0], smallvec![index]);
        let mut carried: SmallVec<[VReg; 8]> = smallvec![index];
        for &param in &params[1..] {
            let registers = self.fresh(kernel.ty(param))?;
            carried.extend(registers.iter().copied());
            self.set(param, registers);
        }
        self.code.blocks[top.0 as usize].params = carried.to_vec();
        let entry_at = self.code.layout.len();
        self.code.layout.push(top);
        let next = self.block(*body)?;
        let next: SmallVec<[VReg; 8]> = next.into_iter().flatten().collect();
        let advanced = self.def(GENERAL);
        let increment = i32::try_from(*step).map_err(|_| Unsupported("a step of more than 31 bits"))?;
        self.op(
            Code::Lea_r64_m,
            smallvec![
                Operand::Def(advanced),
                Operand::Memory(Memory { base: index, index: None, displacement: increment })
            ],
        );
        let compare = |this: &mut Self, register: VReg| match (bound, this.immediate_of(*hi)) {
            (Some(bound), _) => this.op(Code::Cmp_r64_rm64, smallvec![Operand::Use(register), Operand::Use(bound)]),
            (None, Some(hi)) => {
                this.op(Code::Cmp_rm64_imm32, smallvec![Operand::Use(register), Operand::Immediate(hi)]);
            }
            (None, None) => unreachable!("the bound is in a register or an immediate"),
        };
        compare(self, advanced);
        let after = self.code.block();
        let again = self.edge(top, std::iter::once(advanced).chain(next.iter().copied()).collect());
        let done = self.edge(after, next);
        self.push(MachineInst::Branch { code: Code::Jl_rel32_64, then: again, otherwise: done });
        self.code.layout.extend([again, done]);
        self.scopes.pop();
        debug_assert_eq!(self.depth(), before);

        let enter: SmallVec<[VReg; 8]> = std::iter::once(first).chain(start.iter().copied()).collect();
        if runs {
            let from = self.top().block;
            self.jump(from, top, enter);
        } else {
            compare(self, first);
            let into = self.edge(top, enter);
            let over = self.edge(after, start);
            self.push(MachineInst::Branch { code: Code::Jge_rel32_64, then: over, otherwise: into });
            self.code.layout.insert(entry_at, into);
            self.code.layout.push(over);
        }
        self.resume(after, &kernel.insts[inst].results)
    }

    /// Goes on in a block whose parameters are an instruction's results.
    fn resume(&mut self, after: Label, results: &[Val]) -> Result<(), Unsupported> {
        self.top().block = after;
        self.code.layout.push(after);
        for &result in results {
            let registers = self.fresh(self.kernel.ty(result))?;
            self.code.blocks[after.0 as usize].params.extend(registers.iter().copied());
            self.set(result, registers);
        }
        Ok(())
    }

    fn while_loop(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::While { init, body } = &kernel.insts[inst].data else { unreachable!("a loop") };
        let start: SmallVec<[VReg; 8]> =
            init.iter().map(|&v| self.get(v)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let top = self.open(*body, true);
        let mut carried: SmallVec<[VReg; 8]> = SmallVec::new();
        for &param in &kernel.blocks[*body].params {
            let registers = self.fresh(kernel.ty(param))?;
            carried.extend(registers.iter().copied());
            self.set(param, registers);
        }
        self.code.blocks[top.0 as usize].params = carried.to_vec();
        self.code.layout.push(top);
        let yielded = self.block(*body)?;
        let (again, next) = yielded.split_first().expect("a loop's body says whether it goes on");
        let next: SmallVec<[VReg; 8]> = next.iter().flatten().copied().collect();
        self.op(Code::Test_rm32_r32, smallvec![Operand::Use(again[0]), Operand::Use(again[0])]);
        let after = self.code.block();
        let back = self.edge(top, next.clone());
        let done = self.edge(after, next);
        self.push(MachineInst::Branch { code: Code::Jne_rel32_64, then: back, otherwise: done });
        self.code.layout.extend([back, done]);
        self.scopes.pop();
        let from = self.top().block;
        self.jump(from, top, start);
        self.resume(after, &kernel.insts[inst].results)
    }

    fn branch(&mut self, inst: Inst) -> Result<(), Unsupported> {
        let kernel = self.kernel;
        let InstData::If { cond, then, otherwise } = &kernel.insts[inst].data else { unreachable!("a branch") };
        let condition = self.get1(*cond)?;
        let after = self.code.block();
        let mut sides = [Label(0); 2];
        for (side, &block) in sides.iter_mut().zip([then, otherwise]) {
            *side = self.open(block, false);
            self.code.layout.push(*side);
            let results: SmallVec<[VReg; 8]> = self.block(block)?.into_iter().flatten().collect();
            let from = self.top().block;
            self.jump(from, after, results);
            self.scopes.pop();
        }
        self.op(Code::Test_rm32_r32, smallvec![Operand::Use(condition), Operand::Use(condition)]);
        self.push(MachineInst::Branch { code: Code::Je_rel32_64, then: sides[1], otherwise: sides[0] });
        self.resume(after, &kernel.insts[inst].results)
    }

    /// The memory operand of an address. What does not change in the inner loops is computed before them; the term that
    /// changes last becomes the index where its stride allows.
    pub(super) fn memory(&mut self, buffer: Buffer, address: &Address) -> Result<Memory, Unsupported> {
        let size = i64::from(
            self.kernel.buffers[buffer].dtype.bytes().ok_or(Unsupported("elements of less than a byte in memory"))?,
        );
        let mut terms = address.terms.to_vec();
        let depth_of = |this: &Self, (val, stride): (Val, Stride)| {
            let stride = match stride {
                Stride::Const(_) => 0,
                Stride::Value(s) => this.depths[s],
            };
            this.depths[val].max(stride)
        };
        terms.sort_by_key(|&t| (depth_of(self, t), t.0));
        let mut pointer = self.buffers[&buffer];
        let mut prefix: Vec<(Val, Stride)> = Vec::new();
        let mut index = None;
        for (i, &term) in terms.iter().enumerate() {
            let depth = depth_of(self, term) as usize;
            let (register, scale) = self.scaled(depth, term, size)?;
            if i + 1 == terms.len() && depth == self.depth() {
                index = Some((register, scale));
                break;
            }
            prefix.push(term);
            let key = (buffer, prefix.clone());
            pointer = match self.scopes[depth].pointers.get(&key) {
                Some(&found) => found,
                None => {
                    let made =
                        self.lea_at(depth, Memory { base: pointer, index: Some((register, scale)), displacement: 0 });
                    self.scopes[depth].pointers.insert(key, made);
                    made
                }
            };
        }
        let bytes = address.offset.checked_mul(size).ok_or(Unsupported("an offset of more than 64 bits"))?;
        match i32::try_from(bytes) {
            Ok(displacement) => Ok(Memory { base: pointer, index, displacement }),
            Err(_) => {
                let far = self.immediate(bytes);
                let base = self.lea(Memory { base: pointer, index: Some((far, 1)), displacement: 0 });
                Ok(Memory { base, index, displacement: 0 })
            }
        }
    }

    /// `value * stride * size` as a register and a scale.
    fn scaled(&mut self, depth: usize, (val, stride): (Val, Stride), size: i64) -> Result<(VReg, u32), Unsupported> {
        let register = match (&self.registers[val], self.constants[val]) {
            (Some(registers), _) => registers[0],
            (None, Some(c)) => self.immediate_at(depth, c.bits as i64),
            (None, None) => panic!("addresses use values that are defined"),
        };
        let bytes = match stride {
            Stride::Const(c) => c.checked_mul(size).ok_or(Unsupported("a stride of more than 64 bits"))?,
            Stride::Value(_) => size,
        };
        if let (Stride::Const(_), 1 | 2 | 4 | 8) = (stride, bytes) {
            return Ok((register, bytes as u32));
        }
        let key = (val, stride, size as u32);
        if let Some(&found) = self.scopes[depth].products.get(&key) {
            return Ok((found, if matches!(stride, Stride::Value(_)) { size as u32 } else { 1 }));
        }
        let product = self.def(GENERAL);
        let scale = match stride {
            Stride::Const(_) => {
                match i32::try_from(bytes) {
                    Ok(bytes) if bytes > 0 && bytes.count_ones() == 1 => {
                        let shift = i64::from(bytes.trailing_zeros());
                        self.op_at(
                            depth,
                            Code::Shl_rm64_imm8,
                            smallvec![Operand::Tied(register, product), Operand::Immediate(shift)],
                        );
                    }
                    Ok(bytes) => self.op_at(
                        depth,
                        Code::Imul_r64_rm64_imm32,
                        smallvec![Operand::Def(product), Operand::Use(register), Operand::Immediate(bytes.into())],
                    ),
                    Err(_) => {
                        let factor = self.immediate_at(depth, bytes);
                        self.op_at(
                            depth,
                            Code::Imul_r64_rm64,
                            smallvec![Operand::Tied(register, product), Operand::Use(factor)],
                        );
                    }
                }
                1
            }
            Stride::Value(s) => {
                let factor = match (&self.registers[s], self.constants[s]) {
                    (Some(registers), _) => registers[0],
                    (None, Some(c)) => self.immediate_at(depth, c.bits as i64),
                    (None, None) => panic!("addresses use values that are defined"),
                };
                self.op_at(
                    depth,
                    Code::Imul_r64_rm64,
                    smallvec![Operand::Tied(register, product), Operand::Use(factor)],
                );
                size as u32
            }
        };
        self.scopes[depth].products.insert(key, product);
        Ok((product, scale))
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
