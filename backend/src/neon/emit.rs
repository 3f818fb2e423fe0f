//! Encoding: allocated machine code to bytes, with the frame around it.
//!
//! The frame, where one is needed: x29 and x30, below them the callee-saved registers in use, then the spill slots. Jumps over nothing are left out,
//! and jumps to a block that only jumps on go to its target at once. x16 and x17 are never allocated: they hold distances that
//! an instruction does not reach.

use std::collections::{BTreeSet, HashSet};

use gimli::AArch64;
use gimli::write::CallFrameInstruction;
use regalloc2::{Allocation, Block, Edit, InstOrEdit, Output, PReg, RegClass};

use super::constants::{self, Made};
use super::listing::Line;
use super::machine::{Condition, Label, MachineCode, MachineInst, Operand, Word};
use super::registers::{CALLEE_SAVED, CALLEE_SAVED_VECTORS};
use super::words::{self, Moved, Size};
use super::{NeonCode, Unsupported};
use crate::machine::allocate::Allocatable;

/// Bytes of a page of the stack.
const PAGE: i64 = 4096;
const STACK_POINTER: u32 = 31;
/// Holds distances that an instruction does not reach.
const DISTANCE: u32 = 16;

/// Where a word leads or reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    None,
    /// A block, always.
    Jump(Label),
    /// A block, under a condition.
    Branch(Label),
    /// A constant behind the code.
    Constant(u128),
}

/// A word of code whose distance is not known yet.
#[derive(Clone, Debug)]
struct Item {
    line: Line,
    target: Target,
}

struct Emitter<'o> {
    items: Vec<Item>,
    output: &'o Output,
    saved: Vec<PReg>,
    /// What unwinding has to know: the block, how many of its words are done, and what holds from then on.
    frame: Vec<(usize, usize, CallFrameInstruction)>,
    block: usize,
}

/// Encodes a function.
pub fn emit(
    code: &MachineCode,
    allocatable: &Allocatable<'_, MachineInst>,
    output: &Output,
) -> Result<NeonCode, Unsupported> {
    let mut emitter = Emitter { items: Vec::new(), output, saved: Vec::new(), frame: Vec::new(), block: 0 };
    let general = CALLEE_SAVED.iter().map(|&r| PReg::new(r, RegClass::Int));
    let vectors = CALLEE_SAVED_VECTORS.iter().map(|&r| PReg::new(r, RegClass::Float));
    emitter.saved = general.chain(vectors).filter(|&r| emitter.uses(r)).collect();
    if emitter.frame_bytes() >= 1 << 24 {
        return Err(Unsupported("a frame of more than 16 MB"));
    }
    let mut blocks: Vec<Vec<Item>> = Vec::with_capacity(code.layout.len());
    for i in 0..code.layout.len() {
        emitter.block = i;
        if i == 0 {
            emitter.prologue();
        }
        for step in output.block_insts_and_edits(allocatable, Block::new(i)) {
            match step {
                InstOrEdit::Edit(Edit::Move { from, to }) => emitter.copy(*from, *to),
                InstOrEdit::Inst(inst) => emitter.inst(allocatable.inst(inst), output.inst_allocs(inst)),
            }
        }
        blocks.push(std::mem::take(&mut emitter.items));
    }
    lay_out(code, blocks, &emitter)
}

/// Where a jump to this block ends after the blocks that only jump on.
fn forwarded(code: &MachineCode, blocks: &[Vec<Item>], mut target: Label) -> Label {
    for _ in 0..code.layout.len() {
        let Some(i) = code.layout.iter().position(|&l| l == target) else { break };
        match &blocks[i][..] {
            [only] => match only.target {
                Target::Jump(next) => target = next,
                _ => break,
            },
            [] => match code.layout.get(i + 1) {
                Some(&next) => target = next,
                None => break,
            },
            _ => break,
        }
    }
    target
}

/// Leaves out jumps to what follows, and blocks of one jump that nobody comes to.
fn tidy(code: &MachineCode, blocks: &mut Vec<(usize, Vec<Item>)>) {
    loop {
        let words = |blocks: &[(usize, Vec<Item>)]| blocks.iter().map(|(_, block)| block.len() + 1).sum::<usize>();
        let before = words(blocks);
        let reached: HashSet<Label> = blocks
            .iter()
            .flat_map(|(_, block)| block)
            .filter_map(|item| match item.target {
                Target::Jump(to) | Target::Branch(to) => Some(to),
                Target::None | Target::Constant(_) => None,
            })
            .collect();
        let mut falls = true;
        blocks.retain(|(i, block)| {
            let alone = matches!(block[..], [Item { target: Target::Jump(_), .. }]);
            if alone && !falls && !reached.contains(&code.layout[*i]) {
                return false;
            }
            falls = !matches!(block.last(), Some(Item { target: Target::Jump(_), .. }));
            true
        });
        for n in 1..blocks.len() {
            let next = code.layout[blocks[n].0];
            let block = &mut blocks[n - 1].1;
            if block.last().is_some_and(|last| last.target == Target::Jump(next)) {
                block.pop();
            }
        }
        if words(blocks) == before {
            return;
        }
    }
}

/// Resolves distances.
fn lay_out(code: &MachineCode, blocks: Vec<Vec<Item>>, emitter: &Emitter<'_>) -> Result<NeonCode, Unsupported> {
    let mut kept: Vec<(usize, Vec<Item>)> = blocks.iter().cloned().enumerate().collect();
    for item in kept.iter_mut().flat_map(|(_, block)| block) {
        if let Target::Jump(to) | Target::Branch(to) = &mut item.target {
            *to = forwarded(code, &blocks, *to);
        }
    }
    tidy(code, &mut kept);
    let mut begins = vec![0usize; code.blocks.len()];
    let mut places = vec![0usize; code.layout.len()];
    let mut lines: Vec<Item> = Vec::new();
    for (i, block) in kept {
        begins[code.layout[i].0 as usize] = lines.len();
        places[i] = lines.len();
        lines.extend(block);
    }
    let patterns: BTreeSet<u128> = lines
        .iter()
        .filter_map(|item| match item.target {
            Target::Constant(bits) => Some(bits),
            _ => None,
        })
        .collect();
    let pool = (lines.len() * 4).next_multiple_of(16);
    if pool + patterns.len() * 16 >= 1 << 20 {
        return Err(Unsupported("a kernel of more than 1 MB of code"));
    }
    let patterns: Vec<u128> = patterns.into_iter().collect();
    for (n, item) in lines.iter_mut().enumerate() {
        let to = match item.target {
            Target::None => continue,
            Target::Jump(to) | Target::Branch(to) => begins[to.0 as usize] as i64,
            Target::Constant(bits) => {
                (pool / 4 + 4 * patterns.binary_search(&bits).expect("every constant was collected")) as i64
            }
        };
        let distance = to - n as i64;
        item.line.word.immediates[0] = distance * 4;
        item.line.word.bits |= match item.target {
            Target::Jump(_) => distance as u32 & 0x03ff_ffff,
            _ => (distance as u32 & 0x7_ffff) << 5,
        };
    }
    let mut bytes: Vec<u8> = lines.iter().flat_map(|item| item.line.encoded().to_le_bytes()).collect();
    let instruction_bytes = bytes.len();
    if !patterns.is_empty() {
        bytes.resize(pool, 0);
        bytes.extend(patterns.iter().flat_map(|bits| bits.to_le_bytes()));
    }
    let frame = emitter.frame.iter().map(|(block, done, change)| (4 * (places[*block] + done) as u32, change.clone()));
    Ok(NeonCode {
        bytes,
        instruction_bytes,
        // The frame, and the frame pointer and return address above it.
        stack_bytes: if emitter.frame_bytes() == 0 { 0 } else { emitter.frame_bytes() as u32 + 16 },
        frame: frame.collect(),
        lines: lines.into_iter().map(|item| item.line).collect(),
    })
}

impl Emitter<'_> {
    fn uses(&self, register: PReg) -> bool {
        let allocated = self.output.allocs.iter().any(|a| a.as_reg() == Some(register));
        let moved = |a: &Allocation| a.as_reg() == Some(register);
        allocated || self.output.edits.iter().any(|(_, Edit::Move { from, to })| moved(from) || moved(to))
    }

    fn word(&mut self, word: Word, registers: &[u32]) {
        self.items.push(Item { line: Line::new(word, registers), target: Target::None });
    }

    /// Bytes below x29.
    fn frame_bytes(&self) -> i64 {
        ((self.saved.len() + self.output.num_spillslots) * 8).next_multiple_of(16) as i64
    }

    /// States how a caller's frame is found after what is emitted so far.
    fn unwind(&mut self, change: CallFrameInstruction) {
        self.frame.push((self.block, self.items.len(), change));
    }

    /// Moves the stack pointer down, or sets a register to what lies so far above it.
    fn stack_offset(&mut self, to: u32, form: words::Form, bytes: i64) {
        let mut from = STACK_POINTER;
        for (part, high) in [(bytes & 0xfff, 0), (bytes >> 12, 1)] {
            if part == 0 && !(bytes == 0 && high == 0) {
                continue;
            }
            let bits = form.0 | 1 << 31 | (part as u32) << 10 | high << 22;
            let text = match (form.0 == words::SUB_IMMEDIATE.0, from == STACK_POINTER) {
                (true, _) => "sub sp, sp, #{i}",
                (false, true) => "add x%0, sp, #{i}",
                (false, false) => "add x%0, x%0, #{i}",
            };
            let word = Word::new(words::Form(bits | from << 5, text)).immediate(part << (12 * high));
            let word = if to == STACK_POINTER { word.or(STACK_POINTER) } else { word.fields(&[(0, 0)]) };
            let registers: &[u32] = if to == STACK_POINTER { &[] } else { &[to] };
            self.word(word, registers);
            from = to;
        }
    }

    /// Moves a register from or to the frame.
    fn frame_move(&mut self, register: PReg, whole: bool, store: bool, offset: i64) {
        let moved = match (register.class(), whole) {
            (RegClass::Int, _) => Moved::General(Size::D, false),
            (_, true) => Moved::Vector,
            (_, false) => Moved::Lane(Size::D),
        };
        let number = register.hw_enc() as u32;
        if moved.reaches(offset) {
            let mut word = moved.at(store, offset).or(STACK_POINTER << 5).fields(&[(0, 0)]);
            word.text = "@ ~%0, [sp, #{i}]";
            self.word(word, &[number]);
        } else {
            self.stack_offset(DISTANCE, words::ADD_IMMEDIATE, offset);
            self.word(moved.at(store, 0), &[number, DISTANCE]);
        }
    }

    fn saved_at(&self, n: usize) -> i64 {
        self.frame_bytes() - 8 * (n as i64 + 1)
    }

    fn prologue(&mut self) {
        // What calls nothing and saves nothing has no frame.
        if self.frame_bytes() == 0 {
            return;
        }
        self.word(Word::new(words::Form(0xa9bf_7bfd, "stp x29, x30, [sp, #-16]!")), &[]);
        self.unwind(CallFrameInstruction::Cfa(AArch64::SP, 16));
        self.unwind(CallFrameInstruction::Offset(AArch64::X29, -16));
        self.unwind(CallFrameInstruction::Offset(AArch64::X30, -8));
        self.word(Word::new(words::Form(0x9100_03fd, "mov x29, sp")), &[]);
        self.unwind(CallFrameInstruction::Cfa(AArch64::X29, 16));
        let bytes = self.frame_bytes();
        // Stacks grow page by page on some systems, and end in a page without access everywhere: a frame must touch each.
        let mut rest = bytes;
        while rest >= PAGE {
            self.stack_offset(STACK_POINTER, words::SUB_IMMEDIATE, PAGE);
            self.word(Word::new(words::Form(0xf900_03ff, "str xzr, [sp]")), &[]);
            rest -= PAGE;
        }
        if rest > 0 {
            self.stack_offset(STACK_POINTER, words::SUB_IMMEDIATE, rest);
        }
        for (n, register) in self.saved.clone().into_iter().enumerate() {
            let at = self.saved_at(n);
            self.frame_move(register, false, true, at);
            let number = match register.class() {
                RegClass::Int => AArch64::X0.0,
                RegClass::Float | RegClass::Vector => AArch64::V0.0,
            };
            let number = gimli::Register(number + register.hw_enc() as u16);
            self.unwind(CallFrameInstruction::Offset(number, (at - bytes - 16) as i32));
        }
    }

    fn epilogue(&mut self) {
        let done = Word::new(words::Form(0xd65f_03c0, "ret"));
        if self.frame_bytes() == 0 {
            self.word(done, &[]);
            return;
        }
        for (n, register) in self.saved.clone().into_iter().enumerate() {
            let at = self.saved_at(n);
            self.frame_move(register, false, false, at);
        }
        self.word(Word::new(words::Form(0x9100_03bf, "mov sp, x29")), &[]);
        self.word(Word::new(words::Form(0xa8c1_7bfd, "ldp x29, x30, [sp], #16")), &[]);
        // Nothing but constants lies behind the return, so that nothing has to be taken back.
        self.unwind(CallFrameInstruction::Cfa(AArch64::SP, 0));
        self.unwind(CallFrameInstruction::Restore(AArch64::X29));
        self.unwind(CallFrameInstruction::Restore(AArch64::X30));
        self.word(done, &[]);
    }

    /// A move between registers or to or from a spill slot.
    fn copy(&mut self, from: Allocation, to: Allocation) {
        if from == to {
            return;
        }
        match (from.as_reg(), to.as_reg(), from.as_stack(), to.as_stack()) {
            (Some(a), Some(b), ..) => {
                let form = match a.class() {
                    RegClass::Int => words::Form(0xaa00_03e0, "mov x%0, x%1"),
                    RegClass::Float | RegClass::Vector => words::Form(0x4ea0_1c00, "mov v%0.16b, v%1.16b"),
                };
                let (a, b) = (a.hw_enc() as u32, b.hw_enc() as u32);
                let word = Word::new(form);
                // The vector form is an `orr` of a register with itself.
                let word = if form.0 == 0x4ea0_1c00 { word.or(a << 16) } else { word };
                self.word(word, &[b, a]);
            }
            (None, Some(b), Some(slot), _) => self.frame_move(b, true, false, 8 * slot.index() as i64),
            (Some(a), None, _, Some(slot)) => self.frame_move(a, true, true, 8 * slot.index() as i64),
            other => panic!("a move between {other:?}"),
        }
    }

    fn inst(&mut self, inst: &MachineInst, allocs: &[Allocation]) {
        let register = |i: usize| allocs[i].as_reg().expect("selection asks for registers only").hw_enc() as u32;
        match inst {
            MachineInst::Op { words, operands, .. } => {
                let mut at = 0;
                let mut registers = Vec::with_capacity(operands.len());
                for operand in operands {
                    // Of a tied pair the allocator has two.
                    at += usize::from(matches!(operand, Operand::Tied(..)));
                    registers.push(register(at));
                    at += 1;
                }
                for word in words {
                    self.word(word.clone(), &registers);
                }
            }
            MachineInst::Constant(_, bits) => match constants::word_of(*bits) {
                Made::Word(word) => self.word(word, &[register(0)]),
                Made::Memory => {
                    let word = Word::new(words::Form(0x9c00_0000, "ldr q%0, .+{i}"));
                    let line = Line::new(word, &[register(0)]);
                    self.items.push(Item { line, target: Target::Constant(*bits) });
                }
            },
            MachineInst::Arguments(_) => {}
            MachineInst::Jump(to, _) => self.jump(*to),
            MachineInst::Branch { compare, operands, condition, then, otherwise } => {
                let registers: Vec<u32> = (0..operands.len()).map(register).collect();
                self.word(compare.clone(), &registers);
                let word = branch(*condition);
                self.items.push(Item { line: Line::new(word, &[]), target: Target::Branch(*then) });
                self.jump(*otherwise);
            }
            MachineInst::Return => self.epilogue(),
        }
    }

    fn jump(&mut self, to: Label) {
        let line = Line::new(Word::new(words::SKIP_ALWAYS), &[]);
        self.items.push(Item { line, target: Target::Jump(to) });
    }
}

fn branch(condition: Condition) -> Word {
    Word::new(words::SKIP).or(condition as u32).shape(condition.name())
}
