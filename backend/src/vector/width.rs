//! How vectors of any lane count are cut into registers.

use iced_x86::Code;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::LaneType;

use super::Unsupported;
use super::machine::Isa;

/// The width of a register as an index into encodings: 128, 256 or 512 bits.
pub(super) type Width = usize;

/// The registers that hold a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    /// How many registers.
    pub(super) count: usize,
    /// Lanes in each.
    pub(super) lanes: u16,
    /// The registers' width. Masks have none of their own: 0.
    pub(super) width: Width,
    /// Bits of a lane: 32 or 64; 1 for masks. Narrower integers have 32, extended by their sign; where 16 bits lie side by
    /// side, registers are half as wide.
    pub(super) bits: u32,
}

impl Pieces {
    /// The pieces of a vector, mask or floating-point scalar.
    pub(super) fn of(ty: LaneType, isa: Isa) -> Result<Pieces, Unsupported> {
        let lanes = ty.lanes;
        let bits = match ty.dtype {
            DType::F16 | DType::F32 | DType::I32 | DType::U32 => 32,
            DType::I8 | DType::U8 | DType::I16 | DType::U16 if lanes > 1 => 32,
            DType::F64 | DType::I64 | DType::U64 => 64,
            DType::Bool if lanes > 1 => 1,
            _ => return Err(Unsupported("vectors of this element type")),
        };
        if lanes == 1 {
            return Ok(Pieces { count: 1, lanes: 1, width: 0, bits });
        }
        if u32::from(lanes) * bits < 128 && bits != 1 {
            // The instructions on 128 bits would read and write beyond them.
            return Err(Unsupported("vectors of less than 128 bits"));
        }
        if !lanes.is_power_of_two() {
            return Err(Unsupported("vectors whose lane count is no power of two"));
        }
        if bits == 64 && isa == Isa::Avx2 {
            return Err(Unsupported("vectors of 64-bit elements with AVX2"));
        }
        let most = if bits == 64 { isa.lanes() / 2 } else { isa.lanes() };
        let per = lanes.min(most);
        let width = match u32::from(per) * bits.max(32) {
            0..=128 => 0,
            256 => 1,
            _ => 2,
        };
        Ok(Pieces { count: usize::from(lanes / per), lanes: per, width: if bits == 1 { 0 } else { width }, bits })
    }

    /// The instruction that puts a general register's low bits into all lanes.
    pub(super) fn broadcast_general(self) -> Code {
        let narrow = [
            Code::EVEX_Vpbroadcastd_xmm_k1z_r32,
            Code::EVEX_Vpbroadcastd_ymm_k1z_r32,
            Code::EVEX_Vpbroadcastd_zmm_k1z_r32,
        ];
        let wide = [
            Code::EVEX_Vpbroadcastq_xmm_k1z_r64,
            Code::EVEX_Vpbroadcastq_ymm_k1z_r64,
            Code::EVEX_Vpbroadcastq_zmm_k1z_r64,
        ];
        if self.bits == 64 { wide[self.width] } else { narrow[self.width] }
    }

    /// The instruction that puts lane 0 of a register, or one element in memory, into all lanes.
    pub(super) fn broadcast(self) -> Code {
        let narrow = [
            Code::EVEX_Vbroadcastss_xmm_k1z_xmmm32,
            Code::EVEX_Vbroadcastss_ymm_k1z_xmmm32,
            Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32,
        ];
        let wide = [
            Code::EVEX_Vpbroadcastq_xmm_k1z_xmmm64,
            Code::EVEX_Vbroadcastsd_ymm_k1z_xmmm64,
            Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64,
        ];
        if self.bits == 64 { wide[self.width] } else { narrow[self.width] }
    }
}
