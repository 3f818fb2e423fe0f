//! The ways between vectors and their lanes: splats, single lanes, reductions, shuffles.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{LaneType, Val};
use onnxc_ir::scalar::BinaryOp;
use regalloc2::VReg;
use smallvec::smallvec;

use super::Unsupported;
use super::machine::{GENERAL, MachineInst, VECTOR};
use super::select::{Registers, Select, class, count, lane_size};
use super::words::{self, Size};

impl Select<'_> {
    pub(super) fn iota(&mut self, ty: LaneType) -> Result<Registers, Unsupported> {
        if ty.lanes == 1 {
            return Ok(smallvec![self.immediate(0)]);
        }
        let size = lane_size(ty.dtype);
        let per = usize::from(ty.lanes).min(128 / size.bits() as usize) as u128;
        let registers = (0..count(ty)? as u128).map(|part| {
            let bits = (0..per).fold(0, |all, i| all | (part * per + i) << (i as u32 * size.bits()));
            let to = self.code.register(VECTOR);
            self.push(MachineInst::Constant(to, bits));
            to
        });
        Ok(registers.collect())
    }

    /// One lane as a scalar.
    pub(super) fn lane(&mut self, ty: LaneType, vector: VReg, lane: u8) -> VReg {
        let size = lane_size(ty.dtype);
        if ty.dtype.is_float() {
            return if lane == 0 { vector } else { self.vector(words::lane_scalar(size, lane), &[vector]) };
        }
        let value = self.op(GENERAL, words::lane_general(size, ty.dtype.is_signed_int(), lane), &[vector]);
        if ty.dtype == DType::Bool { self.op(GENERAL, words::bit_field(false, false, 31, 31), &[value]) } else { value }
    }

    /// The lanes as scalars.
    pub(super) fn lanes_of(&mut self, ty: LaneType, values: &[VReg]) -> Result<Vec<VReg>, Unsupported> {
        if ty.lanes == 1 {
            return Ok(values.to_vec());
        }
        let per = usize::from(ty.lanes) / values.len();
        Ok((0..usize::from(ty.lanes)).map(|i| self.lane(ty, values[i / per], (i % per) as u8)).collect())
    }

    /// The inverse of [`Select::lanes_of`], not for masks.
    pub(super) fn join_lanes(&mut self, ty: LaneType, lanes: &[VReg]) -> Result<Registers, Unsupported> {
        if ty.lanes == 1 {
            return Ok(lanes.iter().copied().collect());
        }
        let size = lane_size(ty.dtype);
        let per = lanes.len() / count(ty)?;
        let registers = lanes.chunks(per).map(|chunk| {
            let mut vector = self.splat_register(ty, chunk[0]);
            for (i, &lane) in chunk.iter().enumerate().skip(1) {
                let word = match class(LaneType::scalar(ty.dtype)) {
                    GENERAL => words::insert_general(size, i as u8),
                    _ => words::insert_lane(size, i as u8, 0),
                };
                vector = self.tied(word, vector, &[lane]);
            }
            vector
        });
        Ok(registers.collect())
    }

    fn splat_register(&mut self, ty: LaneType, one: VReg) -> VReg {
        let size = lane_size(ty.dtype);
        match ty.dtype {
            DType::Bool => {
                let mask = self.general(words::NEG, false, &[one]);
                self.vector(words::repeated_general(size), &[mask])
            }
            dtype if dtype.is_float() => self.vector(words::repeated(size, 0), &[one]),
            _ => self.vector(words::repeated_general(size), &[one]),
        }
    }

    /// A scalar in all lanes.
    pub(super) fn splat(&mut self, ty: LaneType, one: VReg) -> Result<Registers, Unsupported> {
        if ty.lanes == 1 {
            return Ok(smallvec![one]);
        }
        let register = self.splat_register(ty, one);
        Ok(smallvec![register; count(ty)?])
    }

    /// Combines lanes `i` and `i + n / 2`, and so on.
    pub(super) fn reduce(&mut self, op: BinaryOp, a: Val) -> Result<VReg, Unsupported> {
        let ty = self.ty(a);
        let mut values = self.get(a)?;
        let size = lane_size(ty.dtype);
        if op == BinaryOp::Mul && size == Size::D && !ty.dtype.is_float() {
            let mut lanes = self.lanes_of(ty, &values)?;
            while lanes.len() > 1 {
                let half = lanes.len() / 2;
                lanes = (0..half).map(|i| self.scalar_binary(op, ty.dtype, lanes[i], lanes[i + half])).collect();
            }
            return Ok(lanes[0]);
        }
        let mut lanes = u32::from(ty.lanes);
        while lanes > 1 {
            lanes /= 2;
            let half = LaneType::vector(ty.dtype, 4);
            if values.len() > 1 {
                let (lower, upper) = values.split_at(values.len() / 2);
                let pairs: Vec<(VReg, VReg)> = lower.iter().copied().zip(upper.iter().copied()).collect();
                values = pairs.into_iter().map(|(x, y)| self.binary_part(op, half, x, y)).collect();
            } else {
                let upper = self.vector(words::window(lanes * size.bits() / 8), &[values[0], values[0]]);
                values[0] = self.binary_part(op, half, values[0], upper);
            }
        }
        Ok(if ty.lanes == 1 { values[0] } else { self.lane(ty, values[0], 0) })
    }

    pub(super) fn shuffle(
        &mut self,
        from: LaneType,
        values: &[VReg],
        to: LaneType,
        picks: &[u16],
    ) -> Result<Registers, Unsupported> {
        let size = lane_size(to.dtype);
        let per_from = usize::from(from.lanes) * 2 / values.len();
        if from.lanes == 1 || to.lanes == 1 {
            return Err(Unsupported("a shuffle of scalars"));
        }
        let per = picks.len() / count(to)?;
        let result = picks.chunks(per).map(|chunk| {
            let place = |pick: u16| (usize::from(pick) / per_from, usize::from(pick) % per_from);
            let (register, first) = place(chunk[0]);
            let consecutive = chunk.iter().enumerate().all(|(i, &p)| place(p) == (register, first + i));
            if consecutive && first == 0 {
                return values[register];
            }
            if consecutive {
                let bytes = first as u32 * size.bits() / 8;
                return self.vector(words::window(bytes), &[values[register], values[register]]);
            }
            let mut vector = self.vector(words::repeated(size, first as u8), &[values[register]]);
            for (i, &pick) in chunk.iter().enumerate().filter(|(_, p)| **p != chunk[0]) {
                let (register, lane) = place(pick);
                vector = self.tied(words::insert_lane(size, i as u8, lane as u8), vector, &[values[register]]);
            }
            vector
        });
        Ok(result.collect())
    }
}
