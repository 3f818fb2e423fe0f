//! Loads and stores, with the count of valid lanes as a mask.

use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Buffer, LaneType, Locality, Val};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::codes;
use super::machine::{GENERAL, MASK, MachineInst, Memory, Operand, WIDE};
use super::select::{Registers, Select};
use super::width::Pieces;

impl Select<'_> {
    pub(super) fn load(
        &mut self,
        result: Val,
        buffer: Buffer,
        address: &Address,
        count: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        let ty = self.kernel.ty(result);
        let memory = self.memory(buffer, address)?;
        if ty.lanes == 1 {
            if count.is_some() {
                return Err(Unsupported("a predicated load of one element"));
            }
            return Ok(smallvec![self.load_scalar(ty.dtype, memory)?]);
        }
        let pieces = self.pieces(ty)?;
        if pieces.bits == 1 {
            return Err(Unsupported("vectors of booleans in memory"));
        }
        if self.packed[result] {
            return self.load_packed(pieces, memory, count);
        }
        if ty.dtype.bits() < 32 {
            return self.load_narrow(ty.dtype, pieces, memory, count);
        }
        let code = if pieces.bits == 64 { codes::LOAD_PD } else { codes::LOAD_PS }[pieces.width];
        let masks = count.map(|c| self.tail_masks(c, pieces)).transpose()?;
        let mut registers = Registers::new();
        for piece in 0..pieces.count {
            let to = self.def(WIDE);
            let operands =
                smallvec![Operand::Def(to), Operand::Memory(piece_of(memory, pieces, piece, pieces.bits / 8)?)];
            match &masks {
                None => self.op(code, operands),
                Some(masks) => self.op_masked(code, operands, masks[piece], true),
            }
            registers.push(to);
        }
        Ok(registers)
    }

    fn load_scalar(&mut self, dtype: DType, memory: Memory) -> Result<VReg, Unsupported> {
        let (code, class) = match dtype {
            DType::F32 => (Code::EVEX_Vmovss_xmm_k1z_m32, WIDE),
            DType::F64 => (Code::EVEX_Vmovsd_xmm_k1z_m64, WIDE),
            DType::I64 | DType::U64 => (Code::Mov_r64_rm64, GENERAL),
            DType::I32 => (Code::Movsxd_r64_rm32, GENERAL),
            DType::U32 => (Code::Mov_r32_rm32, GENERAL),
            DType::I16 => (Code::Movsx_r64_rm16, GENERAL),
            DType::U16 => (Code::Movzx_r32_rm16, GENERAL),
            DType::I8 => (Code::Movsx_r64_rm8, GENERAL),
            DType::U8 | DType::Bool => (Code::Movzx_r32_rm8, GENERAL),
            _ => return Err(Unsupported("loads of this type")),
        };
        let to = self.def(class);
        self.op(code, smallvec![Operand::Def(to), Operand::Memory(memory)]);
        if dtype != DType::Bool {
            return Ok(to);
        }
        // Any byte but 0 is true.
        self.op(Code::Test_rm32_r32, smallvec![Operand::Use(to), Operand::Use(to)]);
        let (byte, truth) = (self.def(GENERAL), self.def(GENERAL));
        self.op(Code::Setne_rm8, smallvec![Operand::Def(byte)]);
        self.op(Code::Movzx_r32_rm8, smallvec![Operand::Def(truth), Operand::Use(byte)]);
        Ok(truth)
    }

    pub(super) fn load_splat(
        &mut self,
        result: Val,
        buffer: Buffer,
        address: &Address,
    ) -> Result<Registers, Unsupported> {
        let ty = self.kernel.ty(result);
        let pieces = self.pieces(ty)?;
        if pieces.bits == 1 {
            return Err(Unsupported("vectors of booleans in memory"));
        }
        let memory = self.memory(buffer, address)?;
        if self.packed[result] {
            return Ok(self.load_packed_splat(pieces, memory));
        }
        let to = self.def(WIDE);
        if ty.dtype.bits() < 32 {
            let number = self.load_scalar(ty.dtype, memory)?;
            self.op(pieces.broadcast_general(), smallvec![Operand::Def(to), Operand::Use(number)]);
            return Ok(smallvec![to; pieces.count]);
        }
        self.op(pieces.broadcast(), smallvec![Operand::Def(to), Operand::Memory(memory)]);
        Ok(smallvec![to; pieces.count])
    }

    pub(super) fn store(
        &mut self,
        buffer: Buffer,
        address: &Address,
        value: Val,
        count: Option<Val>,
    ) -> Result<(), Unsupported> {
        let ty = self.kernel.ty(value);
        let registers = self.get(value)?;
        let memory = self.memory(buffer, address)?;
        if ty.lanes == 1 {
            if count.is_some() {
                return Err(Unsupported("a predicated store of one element"));
            }
            let code = match ty.dtype {
                DType::F32 => Code::EVEX_Vmovss_m32_k1_xmm,
                DType::F64 => Code::EVEX_Vmovsd_m64_k1_xmm,
                DType::I64 | DType::U64 => Code::Mov_rm64_r64,
                DType::I32 | DType::U32 => Code::Mov_rm32_r32,
                DType::I16 | DType::U16 => Code::Mov_rm16_r16,
                DType::I8 | DType::U8 | DType::Bool => Code::Mov_rm8_r8,
                _ => return Err(Unsupported("stores of this type")),
            };
            self.op(code, smallvec![Operand::Memory(memory), Operand::Use(registers[0])]);
            return Ok(());
        }
        let pieces = self.pieces(ty)?;
        if pieces.bits == 1 {
            return Err(Unsupported("vectors of booleans in memory"));
        }
        if self.packed[value] {
            return self.store_packed(&registers, pieces, memory, count);
        }
        if ty.dtype.bits() < 32 {
            return self.store_narrow(ty.dtype, &registers, pieces, memory, count);
        }
        let code = if pieces.bits == 64 { codes::STORE_PD } else { codes::STORE_PS }[pieces.width];
        let masks = count.map(|c| self.tail_masks(c, pieces)).transpose()?;
        for piece in 0..pieces.count {
            let at = piece_of(memory, pieces, piece, pieces.bits / 8)?;
            let operands = smallvec![Operand::Memory(at), Operand::Use(registers[piece])];
            match &masks {
                None => self.op(code, operands),
                Some(masks) => self.op_masked(code, operands, masks[piece], false),
            }
        }
        Ok(())
    }

    pub(super) fn gather(
        &mut self,
        ty: LaneType,
        buffer: Buffer,
        address: &Address,
        indices: Val,
        count: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        if ty.lanes == 1 {
            return Err(Unsupported("a gather of one element"));
        }
        let pieces = self.pieces(ty)?;
        let index_pieces = self.pieces(self.kernel.ty(indices))?;
        if ty.dtype.bits() < 32 {
            return Err(Unsupported("gathers of less than 32 bits"));
        }
        let scale = pieces.bits / 8;
        let memory = self.memory(buffer, address)?;
        let base = self.lea(memory);
        let indices = self.get(indices)?;
        // One gather for each register of indices: at most eight lanes.
        let masks = self.masks_of_indices(pieces, index_pieces, count)?;
        let code = if pieces.bits == 64 {
            [Code::EVEX_Vgatherqpd_xmm_k1_vm64x, Code::EVEX_Vgatherqpd_ymm_k1_vm64y, Code::EVEX_Vgatherqpd_zmm_k1_vm64z]
        } else {
            [Code::EVEX_Vgatherqps_xmm_k1_vm64x, Code::EVEX_Vgatherqps_xmm_k1_vm64y, Code::EVEX_Vgatherqps_ymm_k1_vm64z]
        }[index_pieces.width];
        let mut parts = Registers::new();
        for (i, &index) in indices.iter().enumerate() {
            let zero = self.immediate(0);
            let from = self.def(WIDE);
            self.op(Code::EVEX_Vpbroadcastd_zmm_k1z_r32, smallvec![Operand::Def(from), Operand::Use(zero)]);
            let (to, spent) = (self.def(WIDE), self.def(MASK));
            let memory = Memory { base, index: Some((index, scale)), displacement: 0 };
            self.push(MachineInst::Gather { code, from, to, memory, mask: masks[i], spent });
            parts.push(to);
        }
        if pieces.bits == 64 || parts.len() == 1 {
            return Ok(parts);
        }
        // Two halves of eight lanes make one register of sixteen.
        let mut whole = Registers::new();
        for pair in parts.chunks(2) {
            let [low, high] = pair else { return Err(Unsupported("a gather of an odd number of halves")) };
            let to = self.def(WIDE);
            self.op(
                Code::EVEX_Vinsertf32x8_zmm_k1z_zmm_ymmm256_imm8,
                smallvec![Operand::Def(to), Operand::Use(*low), Operand::Use(*high), Operand::Immediate(1)],
            );
            whole.push(to);
        }
        Ok(whole)
    }

    /// The lanes that take part, for each register of indices.
    fn masks_of_indices(
        &mut self,
        pieces: Pieces,
        indices: Pieces,
        count: Option<Val>,
    ) -> Result<Vec<VReg>, Unsupported> {
        let parts = Pieces { count: indices.count, lanes: indices.lanes, ..pieces };
        if let Some(count) = count {
            return self.tail_masks(count, parts);
        }
        let all = self.immediate((1 << parts.lanes) - 1);
        let mut masks = Vec::with_capacity(parts.count);
        for _ in 0..parts.count {
            let mask = self.def(MASK);
            self.op(Code::VEX_Kmovw_kr_r32, smallvec![Operand::Def(mask), Operand::Use(all)]);
            masks.push(mask);
        }
        Ok(masks)
    }

    pub(super) fn scatter(
        &mut self,
        buffer: Buffer,
        address: &Address,
        indices: Val,
        value: Val,
        count: Option<Val>,
    ) -> Result<(), Unsupported> {
        let ty = self.kernel.ty(value);
        if ty.lanes == 1 {
            return Err(Unsupported("a scattered store of one element"));
        }
        let (pieces, index_pieces) = (self.pieces(ty)?, self.pieces(self.kernel.ty(indices))?);
        if ty.dtype.bits() < 32 {
            return Err(Unsupported("scattered stores of less than 32 bits"));
        }
        let memory = self.memory(buffer, address)?;
        let base = self.lea(memory);
        // One store for each register of indices: at most eight lanes.
        let masks = self.masks_of_indices(pieces, index_pieces, count)?;
        let code = codes::scatter(pieces.bits)[index_pieces.width];
        let (indices, values) = (self.get(indices)?, self.get(value)?);
        let halves = index_pieces.count / pieces.count;
        for (i, (&index, &mask)) in indices.iter().zip(&masks).enumerate() {
            let mut value = values[i / halves];
            if i % halves == 1 {
                let upper = self.def(WIDE);
                let half = smallvec![Operand::Def(upper), Operand::Use(value), Operand::Immediate(1)];
                self.op(Code::EVEX_Vextractf32x8_ymmm256_k1z_zmm_imm8, half);
                value = upper;
            }
            let spent = self.def(MASK);
            let memory = Memory { base, index: Some((index, pieces.bits / 8)), displacement: 0 };
            self.push(MachineInst::Scatter { code, value, memory, mask, spent });
        }
        Ok(())
    }

    pub(super) fn prefetch(
        &mut self,
        buffer: Buffer,
        address: &Address,
        locality: Locality,
    ) -> Result<(), Unsupported> {
        let memory = self.memory(buffer, address)?;
        let code = match locality {
            Locality::L1 => Code::Prefetcht0_m8,
            Locality::L2 => Code::Prefetcht1_m8,
        };
        self.op(code, smallvec![Operand::Memory(memory)]);
        Ok(())
    }
}

/// The memory of one piece of a vector whose elements there have `size` bytes.
pub(super) fn piece_of(memory: Memory, pieces: Pieces, piece: usize, size: u32) -> Result<Memory, Unsupported> {
    let bytes = piece as i32 * i32::from(pieces.lanes as i16) * size as i32;
    let displacement = memory.displacement.checked_add(bytes).ok_or(Unsupported("an offset of more than 31 bits"))?;
    Ok(Memory { displacement, ..memory })
}
