//! Rewrites selected code for AVX2: 16 vector registers of 256 bits, no mask registers, no constants broadcast by the
//! instruction that uses them.
//!
//! Before: code whose vectors have at most 256 bits. After: no EVEX encoding is left, and a mask is a vector of 32-bit lanes
//! that are all ones where the mask is set. Most encodings have a twin under the same name; the others are spelled out.

use std::collections::HashMap;
use std::sync::LazyLock;

use iced_x86::{Code, EncodingKind, Mnemonic, OpCodeOperandKind as Kind};
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};

use super::Unsupported;
use super::machine::{MASK, MachineCode, MachineInst, Operand, Pattern, WIDE};

/// The bits of eight lanes in a byte each.
const LANE_BITS: u64 = 0x8040_2010_0804_0201;

type Operands = SmallVec<[Operand; 4]>;

/// Rewrites a function.
pub fn rewrite(code: &mut MachineCode) -> Result<(), Unsupported> {
    for i in 0..code.blocks.len() {
        let insts = std::mem::take(&mut code.blocks[i].insts);
        let mut rewriter = Rewriter { registers: code.registers, insts: Vec::with_capacity(insts.len()) };
        insts.into_iter().try_for_each(|inst| rewriter.inst(inst))?;
        code.registers = rewriter.registers;
        code.blocks[i].insts = rewriter.insts;
        code.blocks[i].params.iter_mut().for_each(|p| *p = vector(*p));
    }
    Ok(())
}

/// The register that takes a mask register's place.
fn vector(v: VReg) -> VReg {
    if v.class() == MASK { VReg::new(v.vreg(), WIDE) } else { v }
}

struct Rewriter {
    registers: usize,
    insts: Vec<MachineInst>,
}

impl Rewriter {
    fn def(&mut self) -> VReg {
        self.registers += 1;
        VReg::new(self.registers - 1, WIDE)
    }

    fn push(&mut self, code: Code, operands: Operands) {
        self.insts.push(MachineInst::Op { code, operands, mask: None, zeroing: false });
    }

    /// A new register with the result of an instruction.
    fn make(&mut self, code: Code, sources: &[Operand]) -> VReg {
        let to = self.def();
        self.push(code, std::iter::once(Operand::Def(to)).chain(sources.iter().copied()).collect());
        to
    }

    fn inst(&mut self, inst: MachineInst) -> Result<(), Unsupported> {
        let inst = match inst {
            MachineInst::Op { code, operands, mask, zeroing } => {
                let operands = operands.into_iter().map(|operand| match operand {
                    Operand::Def(v) => Operand::Def(vector(v)),
                    Operand::Use(v) => Operand::Use(vector(v)),
                    Operand::Tied(from, to) => Operand::Tied(vector(from), vector(to)),
                    other @ (Operand::Memory(_) | Operand::Immediate(_) | Operand::Constant(_)) => other,
                });
                return self.op(code, operands.collect(), mask.map(vector), zeroing);
            }
            MachineInst::Gather { .. } => return Err(Unsupported("gathers with AVX2")),
            MachineInst::Scatter { .. } => return Err(Unsupported("scattered stores with AVX2")),
            MachineInst::Jump(to, arguments) => MachineInst::Jump(to, arguments.into_iter().map(vector).collect()),
            other @ (MachineInst::Arguments(_)
            | MachineInst::Divide { .. }
            | MachineInst::Branch { .. }
            | MachineInst::Return) => other,
        };
        self.insts.push(inst);
        Ok(())
    }

    fn op(&mut self, code: Code, operands: Operands, mask: Option<VReg>, zeroing: bool) -> Result<(), Unsupported> {
        if let Some(mask) = mask {
            return self.masked(code, operands, mask, zeroing);
        }
        let info = code.op_code();
        let is_wide = |n: usize| matches!(info.op_kind(n as u32), Kind::ymm_reg | Kind::ymm_vvvv | Kind::ymm_or_mem);
        match (info.mnemonic(), &operands[..]) {
            (Mnemonic::Kmovw, &[Operand::Def(to), Operand::Use(from)]) => {
                if info.op_kind(0) == Kind::r32_reg {
                    self.push(Code::VEX_Vmovmskps_r32_ymm, operands);
                } else {
                    self.spread_bits(to, from);
                }
            }
            (Mnemonic::Kandw, _) => self.push(Code::VEX_Vpand_ymm_ymm_ymmm256, operands),
            (Mnemonic::Korw, _) => self.push(Code::VEX_Vpor_ymm_ymm_ymmm256, operands),
            (Mnemonic::Kxorw, _) => self.push(Code::VEX_Vpxor_ymm_ymm_ymmm256, operands),
            (Mnemonic::Knotw, &[Operand::Def(to), Operand::Use(from)]) => self.flip(to, from),
            (Mnemonic::Vcmpps, _) => {
                let twin = [Code::VEX_Vcmpps_xmm_xmm_xmmm128_imm8, Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8];
                self.plain(twin[usize::from(is_wide(1))], operands);
            }
            // Doubles are scalars only: lane 0 is all ones or none in both halves.
            (Mnemonic::Vcmppd, _) if !is_wide(1) => self.plain(Code::VEX_Vcmppd_xmm_xmm_xmmm128_imm8, operands),
            (Mnemonic::Vpcmpd, _) => self.compare_integers(operands, false)?,
            (Mnemonic::Vpcmpud, _) => self.compare_integers(operands, true)?,
            (Mnemonic::Vbroadcastss, &[Operand::Def(_), from]) => {
                let twin = match from {
                    Operand::Use(_) => [Code::VEX_Vbroadcastss_xmm_xmm, Code::VEX_Vbroadcastss_ymm_xmm],
                    _ => [Code::VEX_Vbroadcastss_xmm_m32, Code::VEX_Vbroadcastss_ymm_m32],
                };
                self.push(twin[usize::from(is_wide(0))], operands);
            }
            (Mnemonic::Vpbroadcastd | Mnemonic::Vpbroadcastq, &[Operand::Def(to), Operand::Use(from)])
                if matches!(info.op_kind(1), Kind::r32_reg | Kind::r32_rm | Kind::r64_reg | Kind::r64_rm) =>
            {
                let (mov, twin) = if info.mnemonic() == Mnemonic::Vpbroadcastd {
                    let twin = [Code::VEX_Vpbroadcastd_xmm_xmmm32, Code::VEX_Vpbroadcastd_ymm_xmmm32];
                    (Code::VEX_Vmovd_xmm_rm32, twin)
                } else {
                    let twin = [Code::VEX_Vpbroadcastq_xmm_xmmm64, Code::VEX_Vpbroadcastq_ymm_xmmm64];
                    (Code::VEX_Vmovq_xmm_rm64, twin)
                };
                let low = self.make(mov, &[Operand::Use(from)]);
                self.push(twin[usize::from(is_wide(0))], smallvec![Operand::Def(to), Operand::Use(low)]);
            }
            (Mnemonic::Valignd, &[Operand::Def(to), Operand::Use(from), _, Operand::Immediate(lane)]) => {
                self.move_lane(to, from, lane);
            }
            (Mnemonic::Vpsllw | Mnemonic::Vpsrlw | Mnemonic::Vpsraw, _) => {
                let twin = match (info.mnemonic(), is_wide(0)) {
                    (Mnemonic::Vpsllw, false) => Code::VEX_Vpsllw_xmm_xmm_imm8,
                    (Mnemonic::Vpsllw, true) => Code::VEX_Vpsllw_ymm_ymm_imm8,
                    (Mnemonic::Vpsrlw, false) => Code::VEX_Vpsrlw_xmm_xmm_imm8,
                    (Mnemonic::Vpsrlw, true) => Code::VEX_Vpsrlw_ymm_ymm_imm8,
                    (_, false) => Code::VEX_Vpsraw_xmm_xmm_imm8,
                    (_, true) => Code::VEX_Vpsraw_ymm_ymm_imm8,
                };
                self.push(twin, operands);
            }
            (Mnemonic::Vpmovdb | Mnemonic::Vpmovdw, &[memory @ Operand::Memory(_), Operand::Use(from)]) => {
                self.store_low(memory, from, is_wide(1), info.mnemonic() == Mnemonic::Vpmovdb);
            }
            (Mnemonic::Vpmovdw, &[to @ Operand::Def(_), Operand::Use(from)]) => {
                let (low, upper) = self.low_halves(from, is_wide(1), false);
                let operands = smallvec![to, Operand::Use(low), Operand::Use(upper)];
                self.push(Code::VEX_Vpackusdw_xmm_xmm_xmmm128, operands);
            }
            _ if info.encoding() != EncodingKind::EVEX => self.push(code, operands),
            _ => {
                let twin = twin_of(code).ok_or(Unsupported("an instruction that AVX2 lacks"))?;
                self.plain(twin, operands);
            }
        }
        Ok(())
    }

    /// The low 8 or 16 bits of the lower and the upper four lanes; of four, twice the same.
    fn low_halves(&mut self, from: VReg, wide: bool, bytes: bool) -> (VReg, VReg) {
        let mask = self.constant(Pattern::Narrow(if bytes { 0xff } else { 0xffff }), wide);
        let and = if wide { Code::VEX_Vpand_ymm_ymm_ymmm256 } else { Code::VEX_Vpand_xmm_xmm_xmmm128 };
        let low = self.make(and, &[Operand::Use(from), Operand::Use(mask)]);
        let upper = match wide {
            true => self.make(Code::VEX_Vextractf128_xmmm128_ymm_imm8, &[Operand::Use(low), Operand::Immediate(1)]),
            false => low,
        };
        (low, upper)
    }

    /// Stores the low 8 or 16 bits of four or eight lanes: packed without saturation, for the upper bits are gone before.
    fn store_low(&mut self, memory: Operand, from: VReg, wide: bool, bytes: bool) {
        let (low, upper) = self.low_halves(from, wide, bytes);
        let mut packed = self.make(Code::VEX_Vpackusdw_xmm_xmm_xmmm128, &[Operand::Use(low), Operand::Use(upper)]);
        if bytes {
            let twice = [Operand::Use(packed), Operand::Use(packed)];
            packed = self.make(Code::VEX_Vpackuswb_xmm_xmm_xmmm128, &twice);
        }
        let store = match (wide, bytes) {
            (true, false) => Code::VEX_Vmovdqu_xmmm128_xmm,
            (false, true) => Code::VEX_Vmovd_rm32_xmm,
            _ => Code::VEX_Vmovq_xmmm64_xmm,
        };
        self.push(store, smallvec![memory, Operand::Use(packed)]);
    }

    /// An instruction whose constants go to registers before it.
    fn plain(&mut self, code: Code, mut operands: Operands) {
        let info = code.op_code();
        for (n, operand) in operands.iter_mut().enumerate() {
            if let Operand::Constant(pattern) = *operand {
                let wide = info.op_kind(n as u32) == Kind::ymm_or_mem;
                *operand = Operand::Use(self.constant(pattern, wide));
            }
        }
        self.push(code, operands);
    }

    /// A constant in all lanes of 128 or 256 bits.
    fn constant(&mut self, pattern: Pattern, wide: bool) -> VReg {
        let code = match (pattern, wide) {
            (Pattern::Narrow(_), false) => Code::VEX_Vbroadcastss_xmm_m32,
            (Pattern::Narrow(_), true) => Code::VEX_Vbroadcastss_ymm_m32,
            (Pattern::Wide(_), false) => Code::VEX_Vmovddup_xmm_xmmm64,
            (Pattern::Wide(_), true) => Code::VEX_Vbroadcastsd_ymm_m64,
        };
        self.make(code, &[Operand::Constant(pattern)])
    }

    /// Lanes that are all ones where the low bits of a general register are set.
    fn spread_bits(&mut self, to: VReg, bits: VReg) {
        let low = self.make(Code::VEX_Vmovd_xmm_rm32, &[Operand::Use(bits)]);
        let all = self.make(Code::VEX_Vpbroadcastd_ymm_xmmm32, &[Operand::Use(low)]);
        let lanes = self.make(Code::VEX_Vpmovzxbd_ymm_xmmm64, &[Operand::Constant(Pattern::Wide(LANE_BITS))]);
        let own = self.make(Code::VEX_Vpand_ymm_ymm_ymmm256, &[Operand::Use(all), Operand::Use(lanes)]);
        let operands = smallvec![Operand::Def(to), Operand::Use(own), Operand::Use(lanes)];
        self.push(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, operands);
    }

    fn flip(&mut self, to: VReg, from: VReg) {
        let ones = self.make(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, &[Operand::Use(from), Operand::Use(from)]);
        let operands = smallvec![Operand::Def(to), Operand::Use(from), Operand::Use(ones)];
        self.push(Code::VEX_Vpxor_ymm_ymm_ymmm256, operands);
    }

    /// There are only "equal" and "greater" of signed numbers.
    fn compare_integers(&mut self, operands: Operands, unsigned: bool) -> Result<(), Unsupported> {
        let &[Operand::Def(to), Operand::Use(x), y, Operand::Immediate(predicate)] = &operands[..] else {
            return Err(Unsupported("this comparison with AVX2"));
        };
        let y = match y {
            Operand::Use(y) => y,
            Operand::Constant(pattern) => self.constant(pattern, true),
            _ => return Err(Unsupported("this comparison with AVX2")),
        };
        let (mut x, mut y) = (x, y);
        if unsigned && !matches!(predicate, 0 | 4) {
            let sign = self.constant(Pattern::Narrow(1 << 31), true);
            x = self.make(Code::VEX_Vpxor_ymm_ymm_ymmm256, &[Operand::Use(x), Operand::Use(sign)]);
            y = self.make(Code::VEX_Vpxor_ymm_ymm_ymmm256, &[Operand::Use(y), Operand::Use(sign)]);
        }
        // As the predicates of AVX-512 count: eq, lt, le, -, ne, ge, gt.
        let (code, swap, negate) = match predicate {
            0 => (Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, false, false),
            1 => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, true, false),
            2 => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, false, true),
            4 => (Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, false, true),
            5 => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, true, true),
            6 => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, false, false),
            _ => return Err(Unsupported("this comparison with AVX2")),
        };
        let (first, second) = if swap { (y, x) } else { (x, y) };
        if negate {
            let opposite = self.make(code, &[Operand::Use(first), Operand::Use(second)]);
            self.flip(to, opposite);
        } else {
            self.push(code, smallvec![Operand::Def(to), Operand::Use(first), Operand::Use(second)]);
        }
        Ok(())
    }

    /// Rotates lanes downwards as far as the lowest four matter: no use of the others is selected.
    fn move_lane(&mut self, to: VReg, from: VReg, lane: i64) {
        let half = lane % 4;
        let upper = lane >= 4;
        if upper && half == 0 {
            let operands = smallvec![Operand::Def(to), Operand::Use(from), Operand::Immediate(1)];
            return self.push(Code::VEX_Vextractf128_xmmm128_ymm_imm8, operands);
        }
        let from = match upper {
            true => self.make(Code::VEX_Vextractf128_xmmm128_ymm_imm8, &[Operand::Use(from), Operand::Immediate(1)]),
            false => from,
        };
        let order = (0..4).fold(0, |order, i| order | ((half + i) % 4) << (2 * i));
        let operands = smallvec![Operand::Def(to), Operand::Use(from), Operand::Immediate(order)];
        self.push(Code::VEX_Vpshufd_xmm_xmmm128_imm8, operands);
    }

    fn masked(&mut self, code: Code, operands: Operands, mask: VReg, zeroing: bool) -> Result<(), Unsupported> {
        let info = code.op_code();
        let wide = (0..operands.len() as u32)
            .any(|n| matches!(info.op_kind(n), Kind::ymm_reg | Kind::ymm_vvvv | Kind::ymm_or_mem));
        let at = usize::from(wide);
        match (info.mnemonic(), &operands[..]) {
            (Mnemonic::Vblendmps, &[Operand::Def(to), Operand::Use(otherwise), then]) => {
                let twin = [Code::VEX_Vblendvps_xmm_xmm_xmmm128_xmm, Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm][at];
                self.plain(twin, smallvec![Operand::Def(to), Operand::Use(otherwise), then, Operand::Use(mask)]);
            }
            (Mnemonic::Vblendmpd, &[Operand::Def(to), Operand::Use(otherwise), then]) if !wide => {
                let mask = self.make(Code::VEX_Vpmovsxdq_xmm_xmmm64, &[Operand::Use(mask)]);
                let operands = smallvec![Operand::Def(to), Operand::Use(otherwise), then, Operand::Use(mask)];
                self.plain(Code::VEX_Vblendvpd_xmm_xmm_xmmm128_xmm, operands);
            }
            (Mnemonic::Vmovups, &[Operand::Def(to), memory @ Operand::Memory(_)]) if zeroing => {
                let twin = [Code::VEX_Vmaskmovps_xmm_xmm_m128, Code::VEX_Vmaskmovps_ymm_ymm_m256][at];
                self.push(twin, smallvec![Operand::Def(to), Operand::Use(mask), memory]);
            }
            (Mnemonic::Vmovups, &[Operand::Def(to), Operand::Use(from)]) if zeroing => {
                let operands = smallvec![Operand::Def(to), Operand::Use(from), Operand::Use(mask)];
                self.push(Code::VEX_Vpand_ymm_ymm_ymmm256, operands);
            }
            (Mnemonic::Vmovups, &[memory @ Operand::Memory(_), Operand::Use(from)]) => {
                let twin = [Code::VEX_Vmaskmovps_m128_xmm_xmm, Code::VEX_Vmaskmovps_m256_ymm_ymm][at];
                self.push(twin, smallvec![memory, Operand::Use(mask), Operand::Use(from)]);
            }
            _ => return Err(Unsupported("this predicated instruction with AVX2")),
        }
        Ok(())
    }
}

fn signature(code: Code, mnemonic: Mnemonic) -> (Mnemonic, Vec<Kind>) {
    let info = code.op_code();
    (mnemonic, (0..info.op_count()).map(|n| info.op_kind(n)).collect())
}

/// The VEX encoding with the same operands.
fn twin_of(code: Code) -> Option<Code> {
    static TWINS: LazyLock<HashMap<(Mnemonic, Vec<Kind>), Code>> = LazyLock::new(|| {
        let vex = Code::values().filter(|code| code.op_code().encoding() == EncodingKind::VEX);
        vex.map(|code| (signature(code, code.op_code().mnemonic()), code)).collect()
    });
    let mnemonic = match code.op_code().mnemonic() {
        Mnemonic::Vpandd | Mnemonic::Vpandq => Mnemonic::Vpand,
        Mnemonic::Vpord | Mnemonic::Vporq => Mnemonic::Vpor,
        Mnemonic::Vpxord | Mnemonic::Vpxorq => Mnemonic::Vpxor,
        Mnemonic::Vrndscaleps => Mnemonic::Vroundps,
        Mnemonic::Vrndscalepd => Mnemonic::Vroundpd,
        other => other,
    };
    TWINS.get(&signature(code, mnemonic)).copied()
}
