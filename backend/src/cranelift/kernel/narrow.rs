//! Vectors of 8- and 16-bit integers as 32-bit lanes, extended by their sign: what is loaded, converted and stored moves as
//! vectors. Any other operation takes them apart into scalars (`Translate::get`).

use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Buffer, InstData, LaneType, Val};
use onnxc_ir::scalar::BinaryOp;

use super::{Translate, scalar_type};

/// Lanes of a vector.
const LANES: usize = 4;

/// Whether vectors of this type may be held so.
fn is_extendable(ty: LaneType) -> bool {
    let narrow = matches!(ty.dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16);
    narrow && usize::from(ty.lanes) >= LANES && ty.lanes.is_power_of_two()
}

impl Translate<'_> {
    /// The result of an operation as extended lanes, if it can be made so.
    pub(super) fn extended_inst(&mut self, data: &InstData, ty: LaneType) -> Option<Vec<Value>> {
        if !is_extendable(ty) {
            return None;
        }
        let pieces = usize::from(ty.lanes) / LANES;
        match data {
            InstData::Load { buffer, address, count: None } => Some(self.load_extended(ty, *buffer, address)),
            InstData::LoadSplat { buffer, address } => {
                let (pointer, offset) = self.place(*buffer, address);
                let one = self.load_lane(*buffer, ty.dtype, pointer, offset);
                Some(vec![self.splat_extended(ty.dtype, one); pieces])
            }
            InstData::Splat(a) => {
                let one = self.get1(*a);
                Some(vec![self.splat_extended(ty.dtype, one); pieces])
            }
            InstData::Cast(a) => {
                let from = self.ty(*a).dtype;
                let values = match from {
                    DType::I32 | DType::U32 => self.get(*a),
                    _ => self.extended_of(*a)?,
                };
                Some(values.into_iter().map(|v| self.normalized(ty.dtype, v)).collect())
            }
            InstData::Bitcast(a) => {
                let values = self.extended_of(*a)?;
                Some(values.into_iter().map(|v| self.normalized(ty.dtype, v)).collect())
            }
            // Of extended lanes these give such.
            InstData::Binary(op @ (BinaryOp::And | BinaryOp::Or | BinaryOp::Xor), a, b) => {
                let (a, b) = (self.extended_of(*a)?, self.extended_of(*b)?);
                Some(a.into_iter().zip(b).map(|(x, y)| self.plain_binary(*op, DType::I32, x, y)).collect())
            }
            _ => None,
        }
    }

    /// A value as extended lanes, if it is held so or a constant.
    fn extended_of(&mut self, val: Val) -> Option<Vec<Value>> {
        if let Some(values) = self.extended.get(&val) {
            return Some(values.clone());
        }
        let (ty, scalar) = (self.ty(val), self.constants[val]?);
        if !is_extendable(ty) {
            return None;
        }
        let one = self.constant(scalar, ty.dtype);
        Some(vec![self.splat_extended(ty.dtype, one); usize::from(ty.lanes) / LANES])
    }

    /// Extended lanes as vectors of a type of 32 bits.
    pub(super) fn cast_extended(&mut self, a: Val, to: DType) -> Option<Vec<Value>> {
        let values = self.extended.get(&a)?.clone();
        match to {
            DType::I32 | DType::U32 => Some(values),
            DType::F32 => Some(values.into_iter().map(|v| self.f.ins().fcvt_from_sint(types::F32X4, v)).collect()),
            _ => None,
        }
    }

    /// The lanes as scalars of their own type.
    pub(super) fn extended_lanes(&mut self, dtype: DType, values: &[Value]) -> Vec<Value> {
        let mut lanes = Vec::with_capacity(values.len() * LANES);
        for &value in values {
            for lane in 0..LANES {
                let wide = self.f.ins().extractlane(value, lane as u8);
                lanes.push(self.f.ins().ireduce(scalar_type(dtype), wide));
            }
        }
        lanes
    }

    fn splat_extended(&mut self, dtype: DType, one: Value) -> Value {
        let wide = self.extend(types::I32, one, dtype.is_signed_int());
        self.f.ins().splat(types::I32X4, wide)
    }

    /// 32-bit lanes whose low bits are extended.
    fn normalized(&mut self, dtype: DType, value: Value) -> Value {
        let bits = i64::from(dtype.bits());
        if dtype.is_signed_int() {
            let high = self.f.ins().ishl_imm_u(value, 32 - bits);
            return self.f.ins().sshr_imm_u(high, 32 - bits);
        }
        let one = self.f.ins().iconst(types::I32, (1 << bits) - 1);
        let mask = self.f.ins().splat(types::I32X4, one);
        self.f.ins().band(value, mask)
    }

    fn load_extended(&mut self, ty: LaneType, buffer: Buffer, address: &Address) -> Vec<Value> {
        let (pointer, offset) = self.place(buffer, address);
        let flags = self.flags(buffer);
        let bytes = LANES as i32 * ty.dtype.bits() as i32 / 8;
        let pieces = i32::from(ty.lanes) / LANES as i32;
        (0..pieces)
            .map(|piece| {
                let at = offset + piece * bytes;
                match ty.dtype {
                    DType::U16 => self.f.ins().uload16x4(flags, pointer, at),
                    DType::I16 => self.f.ins().sload16x4(flags, pointer, at),
                    dtype => {
                        let word = self.f.ins().load(types::I32, flags, pointer, at);
                        let word = self.f.ins().scalar_to_vector(types::I32X4, word);
                        let four = self.reinterpret(types::I8X16, word);
                        let signed = dtype == DType::I8;
                        let wide = self.widen(four, signed, false);
                        self.widen(wide, signed, false)
                    }
                }
            })
            .collect()
    }

    /// Stores a value that is held in extended lanes; false if it is not.
    pub(super) fn store_extended(&mut self, buffer: Buffer, address: &Address, value: Val) -> bool {
        let Some(values) = self.extended.get(&value).cloned() else { return false };
        let dtype = self.ty(value).dtype;
        let (pointer, offset) = self.place(buffer, address);
        let flags = self.flags(buffer);
        // Narrowing saturates, which changes nothing: the lanes are in the range of the type.
        let words: Vec<Value> = values
            .chunks(2)
            .map(|pair| {
                let [x, y] = [pair[0], pair[pair.len() - 1]];
                if dtype == DType::U16 { self.f.ins().unarrow(x, y) } else { self.f.ins().snarrow(x, y) }
            })
            .collect();
        let packed: Vec<Value> = match dtype.bits() {
            16 => words,
            _ => words
                .chunks(2)
                .map(|pair| {
                    let [x, y] = [pair[0], pair[pair.len() - 1]];
                    if dtype == DType::U8 { self.f.ins().unarrow(x, y) } else { self.f.ins().snarrow(x, y) }
                })
                .collect(),
        };
        let total = values.len() * LANES * dtype.bits() as usize / 8;
        for (i, &vector) in packed.iter().enumerate() {
            let at = offset + i as i32 * 16;
            let stored = match total {
                16.. => vector,
                8 => self.low_part(types::I64X2, vector),
                _ => self.low_part(types::I32X4, vector),
            };
            self.f.ins().store(flags, stored, pointer, at);
        }
        true
    }

    /// The first lane of a vector, seen as one of this type.
    fn low_part(&mut self, ty: Type, vector: Value) -> Value {
        let view = self.reinterpret(ty, vector);
        self.f.ins().extractlane(view, 0)
    }
}
