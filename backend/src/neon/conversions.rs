//! Conversions between types, and between the widths of lanes.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::machine::{GENERAL, Word};
use super::select::{Held, Registers, Select, class, count, lane_size};
use super::words::{self, Size};

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

impl Select<'_> {
    /// Lanes of one width as lanes of another: extended, or the low bits of each.
    pub(super) fn resized(
        &mut self,
        mut values: Registers,
        lanes: u16,
        [mut from, to]: [Size; 2],
        signed: bool,
    ) -> Registers {
        while from < to {
            let wide = (u32::from(lanes) * from.bits() * 2).div_ceil(128) as usize;
            let halves = values.iter().flat_map(|&v| [(v, false), (v, true)]).take(wide).collect::<Vec<_>>();
            values =
                halves.into_iter().map(|(v, upper)| self.vector(words::extended(signed, from, upper), &[v])).collect();
            from = from.wider();
        }
        while from > to {
            from = from.narrower();
            let word = words::lanes(words::UZP1, from);
            values = values.chunks(2).map(|pair| self.vector(word.clone(), &[pair[0], pair[pair.len() - 1]])).collect();
        }
        values
    }

    pub(super) fn bitcast(&mut self, a: Val, to: LaneType) -> Result<Held, Unsupported> {
        let from = self.ty(a);
        if let Some(held @ (Held::Lane(..) | Held::Upper(_))) = &self.held[a] {
            return Ok(held.clone());
        }
        let values = self.get(a)?;
        if from.dtype == DType::Bool || to.dtype == DType::Bool {
            return Err(Unsupported("the bits of a truth value"));
        }
        if from.lanes > 1 {
            return Ok(Held::Registers(values));
        }
        let size = lane_size(to.dtype);
        let value = match (class(from) == GENERAL, class(to) == GENERAL) {
            (true, true) => self.normalized(to.dtype, values[0]),
            (false, false) => values[0],
            (true, false) if size == Size::D => self.op(regalloc2::RegClass::Float, Word::new(words::FMOV_DX), &values),
            (true, false) => self.plain(words::FMOV_SW, &values),
            (false, true) if size == Size::D => self.op(GENERAL, Word::new(words::FMOV_XD), &values),
            (false, true) => {
                let word = self.op(GENERAL, Word::new(words::FMOV_WS), &values);
                self.normalized(to.dtype, word)
            }
        };
        Ok(Held::Registers(smallvec![value]))
    }

    pub(super) fn cast(&mut self, a: Val, to: LaneType) -> Result<Held, Unsupported> {
        let from = self.ty(a);
        if let (Some(Held::Lane(vector, lane)), true, DType::F32) =
            (self.held[a].clone(), is_half(from.dtype), to.dtype)
        {
            return Ok(Held::Lane(self.widened_group(a, vector, from.dtype, lane >= 4), lane % 4));
        }
        if let (Some(Held::Upper(vector)), true, DType::F32) = (self.held[a].clone(), is_half(from.dtype), to.dtype) {
            return Ok(Held::Registers(smallvec![self.plain(widening(from.dtype, true), &[vector])]));
        }
        let values = self.get(a)?;
        if from.lanes == 1 {
            return Ok(Held::Registers(smallvec![self.scalar_cast(from.dtype, to.dtype, values[0])?]));
        }
        Ok(Held::Registers(self.vector_cast(from, to, values)?))
    }

    /// Four lanes of a group of 16-bit floats, converted once.
    fn widened_group(&mut self, val: Val, vector: VReg, dtype: DType, upper: bool) -> VReg {
        let key = (vector, dtype, upper);
        if let Some(&found) = self.converted.get(&key) {
            return found;
        }
        let depth = self.depths[val] as usize;
        let word = Word::new(widening(dtype, upper));
        let wide = self.op_at(depth, regalloc2::RegClass::Float, word, &[vector]);
        self.converted.insert(key, wide);
        wide
    }

    fn vector_cast(&mut self, from: LaneType, to: LaneType, values: Registers) -> Result<Registers, Unsupported> {
        let lanes = from.lanes;
        let (small, large) = (lane_size(from.dtype), lane_size(to.dtype));
        let signed = from.dtype.is_signed_int();
        Ok(match (from.dtype, to.dtype) {
            (half, DType::F32) if is_half(half) => {
                self.halves(&values, count(to)?, [widening(half, false), widening(half, true)])
            }
            (DType::F32, half) if is_half(half) => values.chunks(2).map(|pair| self.narrowed(half, pair)).collect(),
            (DType::F32, DType::F64) => self.halves(&values, count(to)?, [words::FCVTL_S, words::FCVTL2_S]),
            (DType::F64, DType::F32) => {
                let pairs = values.chunks(2).map(|pair| {
                    let low = self.plain(words::FCVTN_S, &pair[..1]);
                    pair.get(1).map_or(low, |&high| self.tied(Word::new(words::FCVTN2_S), low, &[high]))
                });
                pairs.collect()
            }
            (DType::F32, DType::I32) => {
                values.iter().map(|&v| self.vector(words::floats(words::V_FCVTZS, small), &[v])).collect()
            }
            (DType::F32, DType::I64 | DType::U64) => {
                let wide = self.halves(&values, count(to)?, [words::FCVTL_S, words::FCVTL2_S]);
                let form = if to.dtype == DType::I64 { words::V_FCVTZS } else { words::V_FCVTZU };
                wide.iter().map(|&v| self.vector(words::floats(form, Size::D), &[v])).collect()
            }
            (DType::F64, DType::I64 | DType::U64) => {
                let form = if to.dtype == DType::I64 { words::V_FCVTZS } else { words::V_FCVTZU };
                values.iter().map(|&v| self.vector(words::floats(form, Size::D), &[v])).collect()
            }
            (f, t) if f.is_float() || f == DType::Bool || t == DType::Bool || is_half(t) => {
                self.lane_by_lane(from, to, &values)?
            }
            (_, DType::F32 | DType::F64) if small <= large => {
                let wide = self.resized(values, lanes, [small, large], signed);
                let form = if signed { words::V_SCVTF } else { words::V_UCVTF };
                wide.iter().map(|&v| self.vector(words::floats(form, large), &[v])).collect()
            }
            (_, DType::F32) => self.lane_by_lane(from, to, &values)?,
            _ => self.resized(values, lanes, [small, large], signed),
        })
    }

    fn lane_by_lane(&mut self, from: LaneType, to: LaneType, values: &[VReg]) -> Result<Registers, Unsupported> {
        if to.dtype == DType::Bool {
            return Err(Unsupported("a conversion to truth values"));
        }
        let mut lanes = self.lanes_of(from, values)?;
        for lane in &mut lanes {
            *lane = self.scalar_cast(from.dtype, to.dtype, *lane)?;
        }
        self.join_lanes(to, &lanes)
    }

    /// The lower and the upper half of each register in registers of their own, as many as are wanted.
    fn halves(&mut self, values: &[VReg], wanted: usize, forms: [words::Form; 2]) -> Registers {
        let halves = values.iter().flat_map(|&v| [(v, forms[0]), (v, forms[1])]).take(wanted).collect::<Vec<_>>();
        halves.into_iter().map(|(v, form)| self.plain(form, &[v])).collect()
    }

    /// Four or eight numbers as 16-bit floats in one register, rounded to the nearest, halves to even.
    fn narrowed(&mut self, half: DType, pair: &[VReg]) -> VReg {
        let (low, high) = match (half, self.features.bf16) {
            (DType::F16, _) => (words::FCVTN_H, words::FCVTN2_H),
            (_, true) => (words::BFCVTN, words::BFCVTN2),
            (_, false) => {
                let rounded: Vec<VReg> = pair.iter().map(|&v| self.rounded_to_upper_half(v)).collect();
                let word = words::lanes(words::UZP2, Size::H);
                return self.vector(word, &[rounded[0], rounded[rounded.len() - 1]]);
            }
        };
        let first = self.plain(low, &pair[..1]);
        pair.get(1).map_or(first, |&second| self.tied(Word::new(high), first, &[second]))
    }

    /// Numbers whose upper 16 bits are the nearest number that has no lower ones.
    fn rounded_to_upper_half(&mut self, x: VReg) -> VReg {
        let almost_half = self.pattern(Size::S, 0x7fff);
        let sum = self.vector(words::lanes(words::V_ADD, Size::S), &[x, almost_half]);
        // The last bit that stays decides where the rest is a half.
        let last = self.vector(words::shift_left(Size::S, 15), &[x]);
        let sum = self.tied(words::shift_right(words::USRA, Size::S, 31), sum, &[last]);
        let quiet = self.pattern(Size::S, 0x0040_0000);
        let nan = self.vector(words::bytes(words::V_ORR), &[x, quiet]);
        let is_number = self.vector(words::floats(words::V_FCMEQ, Size::S), &[x, x]);
        self.tied(words::bytes(words::V_BSL), is_number, &[sum, nan])
    }

    fn scalar_cast(&mut self, from: DType, to: DType, x: VReg) -> Result<VReg, Unsupported> {
        let (a, b) = (lane_size(from), lane_size(to));
        Ok(match (from, to) {
            (DType::F16, DType::F32) => self.plain(words::FCVT_SH, &[x]),
            (DType::F32, DType::F16) => self.plain(words::FCVT_HS, &[x]),
            (DType::BF16, DType::F32) => self.plain(words::SHLL_H, &[x]),
            (DType::F32, DType::BF16) => self.narrowed(to, &[x]),
            (DType::F32, DType::F64) => self.plain(words::FCVT_DS, &[x]),
            (DType::F64, DType::F32) => self.plain(words::FCVT_SD, &[x]),
            (f, t) if is_half(f) || is_half(t) => return Err(Unsupported("a conversion of 16-bit floats")),
            (DType::F32 | DType::F64, _) if !to.is_float() => {
                let form = if to.is_signed_int() { words::FCVTZS } else { words::FCVTZU };
                let mut word = words::scalar(form, a).or(u32::from(b == Size::D) << 31);
                word.shapes[1] = if b == Size::D { "x" } else { "w" };
                self.op(GENERAL, word, &[x])
            }
            (_, DType::F32 | DType::F64) if !from.is_float() => {
                let form = if from.is_signed_int() { words::SCVTF } else { words::UCVTF };
                let mut word = words::scalar(form, b).or(u32::from(a == Size::D) << 31);
                word.shapes[1] = if a == Size::D { "x" } else { "w" };
                self.vector(word, &[x])
            }
            (f, t) if f.is_float() || t.is_float() => return Err(Unsupported("a conversion of that kind")),
            // A truth value is 0 or 1 in any width.
            (DType::Bool, _) => x,
            (_, DType::Bool) => return Err(Unsupported("a conversion to truth values")),
            (_, DType::I64 | DType::U64) if from.is_signed_int() && a < Size::D => {
                self.op(GENERAL, words::bit_field(true, true, 0, 31), &[x])
            }
            // Above 32 bits there are zeros already.
            (_, DType::I64 | DType::U64) => x,
            (_, DType::I32 | DType::U32) if a == Size::D => {
                self.op(GENERAL, words::bit_field(false, true, 0, 31), &[x])
            }
            (_, DType::I32 | DType::U32) => x,
            _ => self.normalized(to, x),
        })
    }
}

fn widening(dtype: DType, upper: bool) -> words::Form {
    match (dtype, upper) {
        (DType::F16, false) => words::FCVTL_H,
        (DType::F16, true) => words::FCVTL2_H,
        (_, false) => words::SHLL_H,
        (_, true) => words::SHLL2_H,
    }
}
