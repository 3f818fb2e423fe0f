//! The dispatch of operations, and the two ways between vectors and their lanes.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{InstData, LaneType};

use super::{Shape, Translate, pieces, scalar_type, shape};

impl Translate<'_> {
    /// The lanes as scalars; those of a mask as 0 or 1.
    pub(super) fn lanes_of(&mut self, ty: LaneType, values: &[Value]) -> Vec<Value> {
        let Shape::Vectors(v) = shape(ty) else { return values.to_vec() };
        let mut lanes = Vec::with_capacity(ty.lanes.into());
        for &value in values {
            for lane in 0..v.lane_count() {
                let one = self.f.ins().extractlane(value, lane as u8);
                lanes.push(if ty.dtype == DType::Bool {
                    self.f.ins().icmp_imm_s(IntCC::NotEqual, one, 0)
                } else {
                    one
                });
            }
        }
        lanes
    }

    /// The inverse of [`Translate::lanes_of`].
    pub(super) fn join_lanes(&mut self, ty: LaneType, lanes: &[Value]) -> Vec<Value> {
        let Shape::Vectors(v) = shape(ty) else { return lanes.to_vec() };
        let lanes: Vec<Value> = match ty.dtype {
            DType::Bool => self.each_lane(lanes, |this, lane| {
                let wide = this.f.ins().uextend(types::I32, lane);
                this.f.ins().ineg(wide)
            }),
            _ => lanes.to_vec(),
        };
        let per = v.lane_count() as usize;
        lanes
            .chunks(per)
            .map(|chunk| {
                let mut vector = self.f.ins().splat(v, chunk[0]);
                for (i, &lane) in chunk.iter().enumerate().filter(|(_, lane)| **lane != chunk[0]) {
                    vector = self.f.ins().insertlane(vector, lane, i as u8);
                }
                vector
            })
            .collect()
    }

    /// A function of every lane; of neighbours that are one value it is computed once.
    pub(super) fn each_lane(&mut self, lanes: &[Value], mut of: impl FnMut(&mut Self, Value) -> Value) -> Vec<Value> {
        let mut last = None;
        let computed = lanes.iter().map(|&lane| match last {
            Some((before, result)) if before == lane => result,
            _ => last.insert((lane, of(self, lane))).1,
        });
        computed.collect()
    }

    pub(super) fn inst(&mut self, data: &InstData, ty: LaneType) -> Vec<Value> {
        match data {
            InstData::Param(n) => {
                vec![self.f.ins().load(types::I64, MemFlagsData::trusted(), self.params, *n as i32 * 8)]
            }
            InstData::Iota => {
                let lanes: Vec<Value> =
                    (0..ty.lanes).map(|i| self.f.ins().iconst(scalar_type(ty.dtype), i64::from(i))).collect();
                self.join_lanes(ty, &lanes)
            }
            InstData::Unary(op, a) => self.unary(*op, *a),
            InstData::Binary(op, a, b) => self.binary(*op, *a, *b),
            InstData::Compare(op, a, b) => self.compare(*op, *a, *b),
            InstData::Select(c, a, b) => self.select(*c, *a, *b),
            InstData::MulAdd { a, b, acc, mode } => {
                let fused = self.options.has_fma && *mode == onnxc_ir::loops::FmaMode::Fused;
                let (a, b, acc) = (self.get(*a), self.get(*b), self.get(*acc));
                a.into_iter()
                    .zip(b)
                    .zip(acc)
                    .map(|((a, b), acc)| {
                        if fused {
                            return self.f.ins().fma(a, b, acc);
                        }
                        let product = self.f.ins().fmul(a, b);
                        self.f.ins().fadd(product, acc)
                    })
                    .collect()
            }
            InstData::Dot4 { a, b, acc, types } => self.dot4([*a, *b, *acc], *types),
            InstData::Cast(a) => self.cast(*a, ty),
            InstData::Bitcast(a) => self.bitcast(*a, ty),
            InstData::Splat(a) => {
                let one = self.get1(*a);
                let one = match (ty.dtype, shape(ty)) {
                    (DType::Bool, Shape::Vectors(_)) => {
                        let wide = self.f.ins().uextend(types::I32, one);
                        self.f.ins().ineg(wide)
                    }
                    _ => one,
                };
                let value = match shape(ty) {
                    Shape::Lanes => one,
                    Shape::Vectors(v) => self.f.ins().splat(v, one),
                };
                vec![value; pieces(ty)]
            }
            InstData::ReduceLanes(op, a) => {
                let from = self.ty(*a);
                let values = self.get(*a);
                let mut lanes = self.lanes_of(from, &values);
                while lanes.len() > 1 {
                    let half = lanes.len() / 2;
                    lanes = (0..half).map(|i| self.scalar_binary(*op, from.dtype, lanes[i], lanes[i + half])).collect();
                }
                lanes
            }
            InstData::Extract(a, lane) => {
                let from = self.ty(*a);
                let values = self.get(*a);
                let lanes = self.lanes_of(from, &values);
                vec![lanes[usize::from(*lane)]]
            }
            InstData::Shuffle(a, b, picks) => {
                let from = self.ty(*a);
                let (a, b) = (self.get(*a), self.get(*b));
                let mut lanes = self.lanes_of(from, &a);
                lanes.extend(self.lanes_of(from, &b));
                let picked: Vec<Value> = picks.iter().map(|&p| lanes[usize::from(p)]).collect();
                self.join_lanes(ty, &picked)
            }
            InstData::Load { buffer, address, count } => self.load(ty, *buffer, address, *count),
            InstData::LoadSplat { buffer, address } => {
                let (pointer, offset) = self.place(*buffer, address);
                let one = self.load_lane(*buffer, ty.dtype, pointer, offset);
                match shape(ty) {
                    Shape::Vectors(v) if ty.dtype != DType::Bool => {
                        let splat = self.f.ins().splat(v, one);
                        vec![splat; pieces(ty)]
                    }
                    _ => self.join_lanes(ty, &vec![one; ty.lanes.into()]),
                }
            }
            InstData::Gather { buffer, address, indices, count } => self.gather(ty, *buffer, address, *indices, *count),
            InstData::Const(_)
            | InstData::Store { .. }
            | InstData::Scatter { .. }
            | InstData::Prefetch { .. }
            | InstData::Tile(_)
            | InstData::Attend(_)
            | InstData::For { .. }
            | InstData::While { .. }
            | InstData::If { .. }
            | InstData::Yield(_) => unreachable!("handled by the walk over blocks"),
        }
    }
}
