//! Encoding: allocated machine code to bytes, with the frame around it.
//!
//! The frame: rbp, the callee-saved registers in use, then the spill slots below. Jumps over nothing are left out, and
//! jumps to a block that only jumps on go to its target at once.

use std::collections::{BTreeMap, HashSet};

use gimli::X86_64;
use gimli::write::CallFrameInstruction;
use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, EncodingKind, Instruction, InstructionBlock, MemoryOperand, Register,
};
use regalloc2::{Allocation, Block, Edit, InstOrEdit, Output, PReg, RegClass};

use super::WideCode;
use super::machine::{Isa, Label, MachineCode, MachineInst, Memory, Operand, Pattern};
use crate::machine::allocate::Allocatable;

/// The callee-saved registers that may be allocated, as hardware numbers.
const CALLEE_SAVED: [usize; 5] = [3, 12, 13, 14, 15];

const GENERAL_64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Bits of the control word: subnormal operands and subnormal results are zero.
const FLUSH: i32 = 0x8040;

/// Where a block begins in the address space of the encoder, which resolves branches by address. Instructions without
/// an address of their own have 0.
fn address_of(label: Label) -> u64 {
    0x1000 + u64::from(label.0)
}

/// Where the constant of this number lies in the same address space.
fn constant_address(number: usize) -> u64 {
    0x8000_0000 + number as u64
}

/// Bytes of a page of the stack.
const PAGE: i64 = 4096;

/// Encodes a function.
pub fn emit(
    code: &MachineCode,
    allocatable: &Allocatable<'_, MachineInst>,
    output: &Output,
    isa: Isa,
    flush: bool,
) -> WideCode {
    let mut emitter = Emitter {
        insts: Vec::new(),
        output,
        isa,
        saved: Vec::new(),
        flush,
        constants: constants(code),
        block: 0,
        blocks: code.layout.len(),
        frame: Vec::new(),
    };
    emitter.saved = CALLEE_SAVED.iter().copied().filter(|&r| emitter.uses(PReg::new(r, RegClass::Int))).collect();
    let mut blocks: Vec<Vec<Instruction>> = Vec::with_capacity(code.layout.len());
    for i in 0..code.layout.len() {
        emitter.block = i;
        let next = code.layout.get(i + 1).copied();
        if i == 0 {
            emitter.prologue();
        }
        for step in output.block_insts_and_edits(allocatable, Block::new(i)) {
            match step {
                InstOrEdit::Edit(Edit::Move { from, to }) => emitter.copy(*from, *to),
                InstOrEdit::Inst(inst) => emitter.inst(allocatable.inst(inst), output.inst_allocs(inst), next),
            }
        }
        blocks.push(std::mem::take(&mut emitter.insts));
    }
    encode(code, blocks, &emitter)
}

/// The constants that the code reads from memory, the wide ones first.
fn constants(code: &MachineCode) -> BTreeMap<Pattern, usize> {
    let mut patterns = BTreeMap::new();
    for inst in code.blocks.iter().flat_map(|block| &block.insts) {
        let MachineInst::Op { operands, .. } = inst else { continue };
        patterns.extend(operands.iter().filter_map(|operand| match operand {
            Operand::Constant(pattern) => Some((*pattern, 0)),
            _ => None,
        }));
    }
    patterns.values_mut().enumerate().for_each(|(i, number)| *number = i);
    patterns
}

/// Resolves labels and lays the blocks out.
fn encode(code: &MachineCode, blocks: Vec<Vec<Instruction>>, emitter: &Emitter<'_>) -> WideCode {
    // A block of one jump is skipped over: who goes there goes on to its target.
    let forward = |mut target: u64| {
        for _ in 0..code.layout.len() {
            let Some(i) = code.layout.iter().position(|&l| address_of(l) == target) else { break };
            match blocks[i][..] {
                [only] if only.code() == Code::Jmp_rel32_64 => target = only.near_branch64(),
                [] => match code.layout.get(i + 1) {
                    Some(&next) => target = address_of(next),
                    None => break,
                },
                _ => break,
            }
        }
        target
    };
    let mut blocks: Vec<(usize, Vec<Instruction>)> = blocks.iter().cloned().enumerate().collect();
    for inst in blocks.iter_mut().flat_map(|(_, block)| block) {
        if inst.op0_kind() == iced_x86::OpKind::NearBranch64 {
            inst.set_near_branch64(forward(inst.near_branch64()));
        }
    }
    remove_unreached(code, &mut blocks);
    let mut all: Vec<Instruction> = Vec::new();
    let mut begins = vec![0; code.layout.len()];
    let reached = targets(&blocks);
    for (i, mut block) in blocks {
        begins[i] = all.len();
        let address = address_of(code.layout[i]);
        if block.is_empty() && reached.contains(&address) {
            // Something has to carry the label.
            block.push(Instruction::with(Code::Nopd));
        }
        if let Some(first) = block.first_mut() {
            first.set_ip(address);
        }
        all.extend(block);
    }
    // The base lies far from the labels' addresses, so that no label is taken for a distance.
    let base = 0x10_0000;
    let assemble = |all: &[Instruction]| {
        let block = InstructionBlock::new(all, base);
        BlockEncoder::encode(64, block, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)
            .unwrap_or_else(|e| panic!("selection made an instruction that cannot be encoded: {e}"))
    };
    let end = all.len();
    for (pattern, &number) in &emitter.constants {
        let mut data = match *pattern {
            Pattern::Wide(bits) => Instruction::with_declare_qword_1(bits),
            Pattern::Narrow(bits) => Instruction::with_declare_dword_1(bits),
        };
        data.set_ip(constant_address(number));
        all.push(data);
    }
    let result = assemble(&all);
    let frame = emitter.frame.iter().map(|(block, index, change)| {
        let offset = result.new_instruction_offsets[begins[*block] + index];
        (offset, change.clone())
    });
    let frame = frame.collect();
    // The frame, the saved frame pointer and the return address.
    let stack_bytes = emitter.frame_bytes() as u32 + 16;
    let Some(&start) = result.new_instruction_offsets.get(end) else {
        return WideCode { stack_bytes, instruction_bytes: result.code_buffer.len(), bytes: result.code_buffer, frame };
    };
    // The code before them has the same length again, because it ends in a return.
    let gap = start.next_multiple_of(8) - start;
    all.splice(end..end, (0..gap).map(|_| Instruction::with(Code::Int3)));
    WideCode { bytes: assemble(&all).code_buffer, instruction_bytes: start as usize, stack_bytes, frame }
}

/// The addresses that branches go to.
fn targets(blocks: &[(usize, Vec<Instruction>)]) -> HashSet<u64> {
    let all = blocks.iter().flat_map(|(_, block)| block);
    all.filter(|inst| inst.op0_kind() == iced_x86::OpKind::NearBranch64).map(Instruction::near_branch64).collect()
}

/// Leaves out blocks of one jump that nobody comes to, since who did goes on to their target, and jumps to what follows.
fn remove_unreached(code: &MachineCode, blocks: &mut Vec<(usize, Vec<Instruction>)>) {
    let is_jump = |inst: &Instruction| inst.code() == Code::Jmp_rel32_64;
    loop {
        let (before, reached) = (blocks.iter().map(|(_, block)| block.len() + 1).sum::<usize>(), targets(blocks));
        let mut falls = true;
        blocks.retain(|(i, block)| {
            let alone = block.len() == 1 && is_jump(&block[0]);
            if alone && !falls && !reached.contains(&address_of(code.layout[*i])) {
                return false;
            }
            falls = match block.last() {
                Some(last) => !is_jump(last) && last.code() != Code::Retnq,
                None => falls,
            };
            true
        });
        for n in 1..blocks.len() {
            let next = address_of(code.layout[blocks[n].0]);
            let block = &mut blocks[n - 1].1;
            if block.last().is_some_and(|last| is_jump(last) && last.near_branch64() == next) {
                block.pop();
            }
        }
        if blocks.iter().map(|(_, block)| block.len() + 1).sum::<usize>() == before {
            return;
        }
    }
}

struct Emitter<'o> {
    insts: Vec<Instruction>,
    output: &'o Output,
    isa: Isa,
    saved: Vec<usize>,
    /// Subnormal numbers count as zero.
    flush: bool,
    /// The number of each constant in memory.
    constants: BTreeMap<Pattern, usize>,
    /// The place in the layout of the block that is emitted.
    block: usize,
    /// How many there are.
    blocks: usize,
    /// What unwinding has to know: the block, how many of its instructions are done, and what holds from then on.
    frame: Vec<(usize, usize, CallFrameInstruction)>,
}

impl Emitter<'_> {
    fn uses(&self, register: PReg) -> bool {
        let allocated = self.output.allocs.iter().any(|a| a.as_reg() == Some(register));
        let moved = |a: &Allocation| a.as_reg() == Some(register);
        allocated || self.output.edits.iter().any(|(_, Edit::Move { from, to })| moved(from) || moved(to))
    }

    fn push(&mut self, inst: Result<Instruction, iced_x86::IcedError>) {
        self.insts.push(inst.unwrap_or_else(|e| panic!("selection made an instruction that cannot be encoded: {e}")));
    }

    /// Bytes below rbp: the callee-saved registers, the control word of the floating-point unit, then the spill slots.
    fn frame_bytes(&self) -> i64 {
        let words = self.saved.len() + usize::from(self.flush) + self.output.num_spillslots;
        (words * 8).next_multiple_of(16) as i64
    }

    /// The caller's control word; the kernel's is 4 bytes further.
    fn control_word(&self, offset: i64) -> MemoryOperand {
        MemoryOperand::with_base_displ(Register::RBP, -8 * (self.saved.len() as i64 + 1) + offset)
    }

    fn saved_slot(n: usize) -> MemoryOperand {
        MemoryOperand::with_base_displ(Register::RBP, -8 * (n as i64 + 1))
    }

    fn slot(&self, index: usize) -> MemoryOperand {
        MemoryOperand::with_base_displ(Register::RBP, -self.frame_bytes() + index as i64 * 8)
    }

    /// States how a caller's frame is found after what is emitted so far.
    fn unwind(&mut self, change: CallFrameInstruction) {
        self.frame.push((self.block, self.insts.len(), change));
    }

    fn prologue(&mut self) {
        self.push(Instruction::with1(Code::Push_r64, Register::RBP));
        self.unwind(CallFrameInstruction::Cfa(X86_64::RSP, 16));
        self.unwind(CallFrameInstruction::Offset(X86_64::RBP, -16));
        self.push(Instruction::with2(Code::Mov_r64_rm64, Register::RBP, Register::RSP));
        self.unwind(CallFrameInstruction::Cfa(X86_64::RBP, 16));
        let bytes = self.frame_bytes();
        // Stacks grow page by page on Windows, and end in a page without access everywhere: a frame must touch each.
        for below in (PAGE..=bytes).step_by(PAGE as usize) {
            let touched = MemoryOperand::with_base_displ(Register::RSP, -below);
            self.push(Instruction::with2(Code::Test_rm32_r32, touched, Register::EAX));
        }
        if bytes > 0 {
            self.push(Instruction::with2(Code::Sub_rm64_imm32, Register::RSP, bytes as i32));
        }
        for (n, r) in self.saved.clone().into_iter().enumerate() {
            self.push(Instruction::with2(Code::Mov_rm64_r64, Self::saved_slot(n), GENERAL_64[r]));
            // The numbers of these registers are the hardware's, and so are the debuggers'.
            self.unwind(CallFrameInstruction::Offset(gimli::Register(r as u16), -16 - 8 * (n as i32 + 1)));
        }
        if self.flush {
            // No argument is in eax.
            self.push(Instruction::with1(Code::VEX_Vstmxcsr_m32, self.control_word(0)));
            self.push(Instruction::with2(Code::Mov_r32_rm32, Register::EAX, self.control_word(0)));
            self.push(Instruction::with2(Code::Or_EAX_imm32, Register::EAX, FLUSH));
            self.push(Instruction::with2(Code::Mov_rm32_r32, self.control_word(4), Register::EAX));
            self.push(Instruction::with1(Code::VEX_Vldmxcsr_m32, self.control_word(4)));
        }
    }

    fn epilogue(&mut self) {
        if self.flush {
            self.push(Instruction::with1(Code::VEX_Vldmxcsr_m32, self.control_word(0)));
        }
        for (n, r) in self.saved.clone().into_iter().enumerate() {
            self.push(Instruction::with2(Code::Mov_r64_rm64, GENERAL_64[r], Self::saved_slot(n)));
        }
        self.insts.push(Instruction::with(Code::VEX_Vzeroupper));
        self.push(Instruction::with2(Code::Mov_r64_rm64, Register::RSP, Register::RBP));
        self.push(Instruction::with1(Code::Pop_r64, Register::RBP));
        // Nothing but constants lies behind the return, so that nothing has to be taken back.
        debug_assert_eq!(self.block + 1, self.blocks, "the return is last");
        self.unwind(CallFrameInstruction::Cfa(X86_64::RSP, 8));
        self.insts.push(Instruction::with(Code::Retnq));
    }

    /// A move between registers or to or from a spill slot.
    fn copy(&mut self, from: Allocation, to: Allocation) {
        if from == to {
            return;
        }
        let class = from.as_reg().or(to.as_reg()).expect("the allocator makes no moves between slots").class();
        let whole = |register: PReg| match (class, self.isa) {
            (RegClass::Float, Isa::Avx2) => Register::YMM0 + register.hw_enc() as u32,
            _ => widest(register),
        };
        let (load, store) = match class {
            RegClass::Int => (Code::Mov_r64_rm64, Code::Mov_rm64_r64),
            RegClass::Float if self.isa == Isa::Avx2 => (Code::VEX_Vmovups_ymm_ymmm256, Code::VEX_Vmovups_ymmm256_ymm),
            RegClass::Float => (Code::EVEX_Vmovups_zmm_k1z_zmmm512, Code::EVEX_Vmovups_zmmm512_k1z_zmm),
            RegClass::Vector => (Code::VEX_Kmovq_kr_km64, Code::VEX_Kmovq_m64_kr),
        };
        match (from.as_reg(), to.as_reg(), from.as_stack(), to.as_stack()) {
            (Some(a), Some(b), ..) => self.push(Instruction::with2(load, whole(b), whole(a))),
            (None, Some(b), Some(slot), _) => {
                let slot = self.slot(slot.index());
                self.push(Instruction::with2(load, whole(b), slot));
            }
            (Some(a), None, _, Some(slot)) => {
                let slot = self.slot(slot.index());
                self.push(Instruction::with2(store, slot, whole(a)));
            }
            other => panic!("a move between {other:?}"),
        }
    }

    fn inst(&mut self, inst: &MachineInst, allocs: &[Allocation], next: Option<Label>) {
        let register = |i: usize| allocs[i].as_reg().expect("selection asks for registers only");
        match inst {
            MachineInst::Op { code, operands, mask, zeroing } => {
                let mut encoded = Instruction::default();
                encoded.set_code(*code);
                let kinds = code.op_code();
                let mut at = 0;
                for (n, operand) in operands.iter().enumerate() {
                    let n = n as u32;
                    match operand {
                        Operand::Def(_) | Operand::Use(_) => {
                            encoded.set_op_register(n, sized(register(at), kinds.op_kind(n)));
                            at += 1;
                        }
                        Operand::Tied(..) => {
                            encoded.set_op_register(n, sized(register(at + 1), kinds.op_kind(n)));
                            at += 2;
                        }
                        Operand::Memory(m) => {
                            let index = m.index.map(|_| register(at + 1));
                            set_memory(&mut encoded, n, m, widest(register(at)), index.map(widest));
                            at += 1 + usize::from(index.is_some());
                        }
                        Operand::Immediate(value) => set_immediate(&mut encoded, n, *value, kinds.op_kind(n)),
                        Operand::Constant(pattern) => {
                            encoded.set_op_kind(n, iced_x86::OpKind::Memory);
                            encoded.set_memory_base(Register::RIP);
                            encoded.set_memory_displ_size(8);
                            encoded.set_memory_displacement64(constant_address(self.constants[pattern]));
                            encoded.set_is_broadcast(kinds.encoding() == EncodingKind::EVEX);
                        }
                    }
                }
                if mask.is_some() {
                    encoded.set_op_mask(widest(register(at)));
                    encoded.set_zeroing_masking(*zeroing);
                }
                self.insts.push(encoded);
            }
            MachineInst::Arguments(_) => {}
            MachineInst::Divide { signed, .. } => {
                let divisor = widest(register(1));
                if *signed {
                    self.insts.push(Instruction::with(Code::Cqo));
                    self.push(Instruction::with1(Code::Idiv_rm64, divisor));
                } else {
                    self.push(Instruction::with2(Code::Xor_r32_rm32, Register::EDX, Register::EDX));
                    self.push(Instruction::with1(Code::Div_rm64, divisor));
                }
            }
            MachineInst::Gather { code, memory, .. } => {
                let mut encoded = Instruction::default();
                encoded.set_code(*code);
                let kinds = code.op_code();
                encoded.set_op_register(0, sized(register(1), kinds.op_kind(0)));
                let index = sized(register(3), kinds.op_kind(1));
                set_memory(&mut encoded, 1, memory, widest(register(2)), Some(index));
                encoded.set_op_mask(widest(register(5)));
                self.insts.push(encoded);
            }
            MachineInst::Scatter { code, memory, .. } => {
                let mut encoded = Instruction::default();
                encoded.set_code(*code);
                let kinds = code.op_code();
                let index = sized(register(2), kinds.op_kind(0));
                set_memory(&mut encoded, 0, memory, widest(register(1)), Some(index));
                encoded.set_op_register(1, sized(register(0), kinds.op_kind(1)));
                encoded.set_op_mask(widest(register(4)));
                self.insts.push(encoded);
            }
            MachineInst::Jump(to, _) => {
                if Some(*to) != next {
                    self.push(Instruction::with_branch(Code::Jmp_rel32_64, address_of(*to)));
                }
            }
            MachineInst::Branch { code, then, otherwise } => {
                self.push(Instruction::with_branch(*code, address_of(*then)));
                if Some(*otherwise) != next {
                    self.push(Instruction::with_branch(Code::Jmp_rel32_64, address_of(*otherwise)));
                }
            }
            MachineInst::Return => self.epilogue(),
        }
    }
}

/// The whole register.
fn widest(register: PReg) -> Register {
    let n = register.hw_enc();
    match register.class() {
        RegClass::Int => GENERAL_64[n],
        RegClass::Float => Register::ZMM0 + n as u32,
        RegClass::Vector => Register::K0 + n as u32,
    }
}

/// The part of the register that an operand of the encoding names.
fn sized(register: PReg, kind: iced_x86::OpCodeOperandKind) -> Register {
    use iced_x86::OpCodeOperandKind as Kind;
    let n = register.hw_enc() as u32;
    match register.class() {
        RegClass::Int => {
            match kind {
                Kind::r8_or_mem | Kind::r8_reg => {
                    // spl, bpl, sil, dil and not ah, ch, dh, bh.
                    const LOW: [Register; 8] = [
                        Register::AL,
                        Register::CL,
                        Register::DL,
                        Register::BL,
                        Register::SPL,
                        Register::BPL,
                        Register::SIL,
                        Register::DIL,
                    ];
                    if n < 8 { LOW[n as usize] } else { Register::R8L + (n - 8) }
                }
                Kind::r16_or_mem | Kind::r16_reg => Register::AX + n,
                Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_vvvv => Register::EAX + n,
                _ => GENERAL_64[n as usize],
            }
        }
        RegClass::Float => match kind {
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 | Kind::mem_vsib64y => {
                Register::YMM0 + n
            }
            Kind::zmm_or_mem | Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv | Kind::mem_vsib64z => Register::ZMM0 + n,
            _ => Register::XMM0 + n,
        },
        RegClass::Vector => Register::K0 + n,
    }
}

fn set_memory(inst: &mut Instruction, operand: u32, memory: &Memory, base: Register, index: Option<Register>) {
    inst.set_op_kind(operand, iced_x86::OpKind::Memory);
    inst.set_memory_base(base);
    if let (Some(index), Some((_, scale))) = (index, memory.index) {
        inst.set_memory_index(index);
        inst.set_memory_index_scale(scale);
    }
    if memory.displacement != 0 {
        inst.set_memory_displ_size(8);
        inst.set_memory_displacement64(i64::from(memory.displacement) as u64);
    }
}

fn set_immediate(inst: &mut Instruction, operand: u32, value: i64, kind: iced_x86::OpCodeOperandKind) {
    use iced_x86::{OpCodeOperandKind as Kind, OpKind};
    match kind {
        Kind::imm8 => {
            inst.set_op_kind(operand, OpKind::Immediate8);
            inst.set_immediate8(value as u8);
        }
        Kind::imm8sex32 => {
            inst.set_op_kind(operand, OpKind::Immediate8to32);
            inst.set_immediate8to32(value as i32);
        }
        Kind::imm8sex64 => {
            inst.set_op_kind(operand, OpKind::Immediate8to64);
            inst.set_immediate8to64(value);
        }
        Kind::imm32 => {
            inst.set_op_kind(operand, OpKind::Immediate32);
            inst.set_immediate32(value as u32);
        }
        Kind::imm32sex64 => {
            inst.set_op_kind(operand, OpKind::Immediate32to64);
            inst.set_immediate32to64(value);
        }
        Kind::imm64 => {
            inst.set_op_kind(operand, OpKind::Immediate64);
            inst.set_immediate64(value as u64);
        }
        other => panic!("selection made an immediate of kind {other:?}"),
    }
}
