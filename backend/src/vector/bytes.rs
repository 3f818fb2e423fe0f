//! Vectors of 8- and 16-bit integers, which are 32-bit lanes in registers, extended by their sign; and dot products of four
//! bytes.
//!
//! VNNI multiplies unsigned by signed bytes. What it has not, and processors without it, multiply in two halves: the even
//! and the odd bytes of words as 16 bits, whose products `vpmaddwd` adds in pairs to 32 bits. All of it is exact.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::codes;
use super::machine::{Isa, Memory, Operand, WIDE};
use super::memory::piece_of;
use super::select::{Registers, Select};
use super::vectors::constant;
use super::width::Pieces;

impl Select<'_> {
    pub(super) fn load_narrow(
        &mut self,
        dtype: DType,
        pieces: Pieces,
        memory: Memory,
        count: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        let codes = match dtype {
            DType::I8 => codes::LOAD_SIGNED_BYTES,
            DType::U8 => codes::LOAD_UNSIGNED_BYTES,
            DType::I16 => codes::LOAD_SIGNED_SHORTS,
            _ => codes::LOAD_UNSIGNED_SHORTS,
        };
        let masks = self.narrow_masks(pieces, count)?;
        let mut registers = Registers::new();
        for piece in 0..pieces.count {
            let to = self.def(WIDE);
            let at = piece_of(memory, pieces, piece, dtype.bits() / 8)?;
            let operands = smallvec![Operand::Def(to), Operand::Memory(at)];
            match &masks {
                None => self.op(codes[pieces.width], operands),
                Some(masks) => self.op_masked(codes[pieces.width], operands, masks[piece], true),
            }
            registers.push(to);
        }
        Ok(registers)
    }

    pub(super) fn store_narrow(
        &mut self,
        dtype: DType,
        registers: &[VReg],
        pieces: Pieces,
        memory: Memory,
        count: Option<Val>,
    ) -> Result<(), Unsupported> {
        let code = if dtype.bits() == 8 { codes::STORE_BYTES } else { codes::STORE_SHORTS }[pieces.width];
        let masks = self.narrow_masks(pieces, count)?;
        for (piece, &register) in registers.iter().enumerate() {
            let at = piece_of(memory, pieces, piece, dtype.bits() / 8)?;
            let operands = smallvec![Operand::Memory(at), Operand::Use(register)];
            match &masks {
                None => self.op(code, operands),
                Some(masks) => self.op_masked(code, operands, masks[piece], false),
            }
        }
        Ok(())
    }

    pub(super) fn narrow_masks(
        &mut self,
        pieces: Pieces,
        count: Option<Val>,
    ) -> Result<Option<Vec<VReg>>, Unsupported> {
        let Some(count) = count else { return Ok(None) };
        assert!(self.isa != Isa::Avx2, "legalisation takes such tails apart");
        self.tail_masks(count, pieces).map(Some)
    }

    /// The low bits of 32-bit lanes, extended by the sign of the type.
    pub(super) fn narrow_lanes(&mut self, to: LaneType, a: Val) -> Result<Registers, Unsupported> {
        let pieces = self.pieces(to)?;
        let (width, bits) = (pieces.width, to.dtype.bits());
        if !to.dtype.is_signed_int() {
            let low = constant(pieces, (1 << bits) - 1);
            return self.each(a, |this, r| this.op3_with(codes::AND_D[width], r, low));
        }
        let by = constant(pieces, i64::from(32 - bits));
        self.each(a, |this, r| {
            let high = this.op3_with(codes::SHL_D[width], r, by);
            this.op3_with(codes::SAR_D[width], high, by)
        })
    }

    /// `acc` plus the products of the four bytes in each lane of `a` and `b`.
    pub(super) fn dot4(&mut self, [a, b, acc]: [Val; 3], types: [DType; 2]) -> Result<Registers, Unsupported> {
        let pieces = self.pieces(self.kernel.ty(acc))?;
        let width = pieces.width;
        if self.isa == Isa::Avx512Vnni && types[0] != types[1] {
            let (unsigned, signed) = if types[0] == DType::U8 { (a, b) } else { (b, a) };
            let (unsigned, signed, acc) = (self.get(unsigned)?, self.get(signed)?, self.get(acc)?);
            let mut results = Registers::new();
            for ((x, y), sum) in unsigned.into_iter().zip(signed).zip(acc) {
                let to = self.def(WIDE);
                let operands = smallvec![Operand::Tied(sum, to), Operand::Use(x), Operand::Use(y)];
                self.op(codes::DOT_UNSIGNED_SIGNED[width], operands);
                results.push(to);
            }
            return Ok(results);
        }
        let (a, b, acc) = (self.halves(a, types[0])?, self.halves(b, types[1])?, self.get(acc)?);
        let mut results = Registers::new();
        for (piece, &sum) in acc.iter().enumerate() {
            let [even, odd] = [0, 1].map(|half| self.op3(codes::MADD_WD[width], a[half][piece], b[half][piece]));
            let both = self.op3(codes::ADD_D[width], even, odd);
            results.push(self.op3(codes::ADD_D[width], sum, both));
        }
        Ok(results)
    }

    /// The even and the odd bytes of words in 16 bits each. Each factor is taken apart once.
    fn halves(&mut self, words: Val, dtype: DType) -> Result<[Registers; 2], Unsupported> {
        let key = (words, dtype);
        if let Some(found) = self.scopes.iter().rev().find_map(|scope| scope.halves.get(&key)) {
            return Ok(found.clone());
        }
        let pieces = self.pieces(self.kernel.ty(words))?;
        let width = pieces.width;
        let mut halves = [Registers::new(), Registers::new()];
        for register in self.get(words)? {
            let [even, odd] = if dtype == DType::I8 {
                let high = self.shift(codes::SHL_W[width], register);
                [self.shift(codes::SAR_W[width], high), self.shift(codes::SAR_W[width], register)]
            } else {
                let even = self.op3_with(codes::AND_D[width], register, constant(pieces, 0x00ff_00ff));
                [even, self.shift(codes::SHR_W[width], register)]
            };
            halves[0].push(even);
            halves[1].push(odd);
        }
        self.scopes.last_mut().expect("a scope is open").halves.insert(key, halves.clone());
        Ok(halves)
    }

    /// A shift of 16-bit lanes by a byte.
    fn shift(&mut self, code: iced_x86::Code, a: VReg) -> VReg {
        let to = self.def(WIDE);
        self.op(code, smallvec![Operand::Def(to), Operand::Use(a), Operand::Immediate(8)]);
        to
    }
}
