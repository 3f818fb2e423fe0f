//! Floats of 16 bits: conversions from and to `f32`, and vectors of 16 bits that only pass through.
//!
//! A vector of 16-bit integers has 32-bit lanes in registers (see [`super::bytes`]), but the instructions that convert floats
//! of 16 bits take and give them side by side, as memory does. So a vector that comes from memory or a conversion and goes
//! nowhere else is *packed*: sixteen lanes in 256 bits, for each register of `f32` one of half its width. Values of type `f16`
//! always are.

use cranelift_entity::SecondaryMap;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{InstData, Kernel, LaneType, Val};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::codes;
use super::machine::{Memory, Operand, WIDE};
use super::memory::piece_of;
use super::select::{Registers, Select};
use super::width::Pieces;

/// Bytes of an element.
const BYTES: u32 = 2;

/// The vectors of 16-bit integers that are packed.
pub(super) fn packed(kernel: &Kernel) -> SecondaryMap<Val, bool> {
    let is_half = |v: Val| kernel.ty(v).dtype == DType::F16;
    let mut packed = SecondaryMap::new();
    for inst in kernel.insts.values() {
        let Some(&result) = inst.results.first() else { continue };
        let ty = kernel.ty(result);
        let comes = match &inst.data {
            InstData::Load { .. } | InstData::LoadSplat { .. } => true,
            InstData::Bitcast(a) => is_half(*a),
            _ => false,
        };
        packed[result] = comes && ty.lanes > 1 && matches!(ty.dtype, DType::I16 | DType::U16);
    }
    for inst in kernel.insts.values() {
        match &inst.data {
            InstData::Store { .. } => {}
            InstData::Bitcast(_) if is_half(inst.results[0]) => {}
            data => data.for_each_operand(|v| packed[v] = false),
        }
    }
    packed
}

impl Select<'_> {
    pub(super) fn load_packed(
        &mut self,
        pieces: Pieces,
        memory: Memory,
        count: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        let masks = self.narrow_masks(pieces, count)?;
        let mut registers = Registers::new();
        for piece in 0..pieces.count {
            let to = self.def(WIDE);
            let operands = smallvec![Operand::Def(to), Operand::Memory(piece_of(memory, pieces, piece, BYTES)?)];
            match &masks {
                None => self.op(codes::LOAD_HALVES[pieces.width], operands),
                Some(masks) => self.op_masked(codes::LOAD_SOME_HALVES[pieces.width], operands, masks[piece], true),
            }
            registers.push(to);
        }
        Ok(registers)
    }

    pub(super) fn load_packed_splat(&mut self, pieces: Pieces, memory: Memory) -> Registers {
        let to = self.def(WIDE);
        self.op(codes::SPLAT_HALF[pieces.width], smallvec![Operand::Def(to), Operand::Memory(memory)]);
        smallvec![to; pieces.count]
    }

    pub(super) fn store_packed(
        &mut self,
        registers: &[VReg],
        pieces: Pieces,
        memory: Memory,
        count: Option<Val>,
    ) -> Result<(), Unsupported> {
        let masks = self.narrow_masks(pieces, count)?;
        for (piece, &register) in registers.iter().enumerate() {
            let at = piece_of(memory, pieces, piece, BYTES)?;
            let operands = smallvec![Operand::Memory(at), Operand::Use(register)];
            match &masks {
                None => self.op(codes::STORE_HALVES[pieces.width], operands),
                Some(masks) => self.op_masked(codes::STORE_SOME_HALVES[pieces.width], operands, masks[piece], false),
            }
        }
        Ok(())
    }

    /// 16-bit integers as floats of that width, or the other way round.
    pub(super) fn bitcast_halves(&mut self, to: LaneType, a: Val, result: Val) -> Result<Registers, Unsupported> {
        let pieces = self.pieces(to)?;
        let integers = if to.dtype == DType::F16 { a } else { result };
        if self.packed[integers] {
            return self.get(a);
        }
        // Side by side, or as lanes of 32 bits.
        let codes = if to.dtype == DType::F16 { codes::STORE_SHORTS } else { codes::LOAD_UNSIGNED_SHORTS };
        let registers = self.each(a, |this, r| this.op2(codes[pieces.width], r))?;
        if to.dtype == DType::I16 {
            return Err(Unsupported("bits of floats as signed integers"));
        }
        Ok(registers)
    }

    /// Exact.
    pub(super) fn widen_halves(&mut self, to: LaneType, a: Val) -> Result<Registers, Unsupported> {
        let width = self.pieces(to)?.width;
        self.each(a, |this, r| this.op2(codes::HALF_TO_F32[width], r))
    }

    /// To nearest even, whatever the mode of the processor.
    pub(super) fn round_halves(&mut self, from: LaneType, a: Val) -> Result<Registers, Unsupported> {
        let width = self.pieces(from)?.width;
        self.each(a, |this, r| {
            let to = this.def(WIDE);
            let operands = smallvec![Operand::Def(to), Operand::Use(r), Operand::Immediate(0)];
            this.op(codes::F32_TO_HALF[width], operands);
            to
        })
    }
}
