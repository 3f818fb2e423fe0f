//! Loads and stores: addresses with what is invariant computed before loops, whole vectors where they fit, single
//! lanes where they are counted or have no vectors.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Access, Address, Block, Buffer, InstData, LaneType, Stride, Val};
use onnxc_ir::scalar::Scalar;

use super::{Shape, Translate, pieces, scalar_type, shape};

impl Translate<'_> {
    /// Computes the parts of the addresses in a loop's body that the loop does not change.
    pub(super) fn prepare_addresses(&mut self, block: Block) {
        let kernel = self.kernel;
        for &inst in &kernel.blocks[block].insts {
            let data = &kernel.insts[inst].data;
            let (buffer, address) = match data {
                InstData::Load { buffer, address, .. }
                | InstData::LoadSplat { buffer, address }
                | InstData::Gather { buffer, address, .. }
                | InstData::Store { buffer, address, .. }
                | InstData::Scatter { buffer, address, .. } => (*buffer, address),
                _ => {
                    data.blocks().into_iter().for_each(|b| self.prepare_addresses(b));
                    continue;
                }
            };
            let known = |v: Val| self.values[v].is_some() || self.constants[v].is_some();
            let mut terms: Vec<(Val, Stride)> = address
                .terms
                .iter()
                .copied()
                .filter(|(v, s)| known(*v) && !matches!(s, Stride::Value(s) if !known(*s)))
                .collect();
            terms.sort_by_key(|&t| (self.depth_of(t), t.0));
            self.pointer(buffer, &terms);
        }
    }

    pub(super) fn depth_of(&self, (val, stride): (Val, Stride)) -> usize {
        let stride = match stride {
            Stride::Const(_) => 0,
            Stride::Value(s) => self.depths[s],
        };
        self.depths[val].max(stride)
    }

    /// The buffer's start plus these terms.
    pub(super) fn pointer(&mut self, buffer: Buffer, terms: &[(Val, Stride)]) -> Value {
        let Some((&(val, stride), before)) = terms.split_last() else { return self.buffers[&buffer] };
        let key = (buffer, terms.to_vec());
        if let Some(&found) = self.pointers.iter().rev().find_map(|s| s.get(&key)) {
            return found;
        }
        let base = self.pointer(buffer, before);
        let index = self.get1(val);
        let size = self.element_bytes(buffer);
        let offset = match stride {
            Stride::Const(c) => self.scale(index, c * size),
            Stride::Value(s) => {
                let stride = self.get1(s);
                let elements = self.f.ins().imul(index, stride);
                self.scale(elements, size)
            }
        };
        let pointer = self.f.ins().iadd(base, offset);
        self.pointers.last_mut().expect("a scope is open").insert(key, pointer);
        pointer
    }

    pub(super) fn scale(&mut self, value: Value, factor: i64) -> Value {
        match factor {
            1 => value,
            f if f > 0 && f.count_ones() == 1 => self.f.ins().ishl_imm_u(value, i64::from(f.trailing_zeros())),
            f => self.f.ins().imul_imm_s(value, f),
        }
    }

    pub(super) fn element_bytes(&self, buffer: Buffer) -> i64 {
        i64::from(self.kernel.buffers[buffer].dtype.bytes().expect("elements have whole bytes"))
    }

    /// The pointer and constant offset of an address.
    pub(super) fn place(&mut self, buffer: Buffer, address: &Address) -> (Value, i32) {
        let mut terms = address.terms.to_vec();
        terms.sort_by_key(|&t| (self.depth_of(t), t.0));
        let pointer = self.pointer(buffer, &terms);
        let bytes = address.offset * self.element_bytes(buffer);
        match i32::try_from(bytes) {
            // Leaves room for the pieces of a vector.
            Ok(offset) if offset < i32::MAX - (1 << 20) => (pointer, offset),
            _ => (self.f.ins().iadd_imm_s(pointer, bytes), 0),
        }
    }

    pub(super) fn flags(&self, buffer: Buffer) -> MemFlagsData {
        let flags = MemFlagsData::new().with_notrap();
        // Callers' tensors have element alignment only; vectors may be unaligned.
        let overwritten = self.kernel.buffers.values().any(|b| b.in_place == Some(buffer));
        if self.kernel.buffers[buffer].access == Access::Read && !overwritten { flags.with_readonly() } else { flags }
    }

    pub(super) fn load_lane(&mut self, buffer: Buffer, dtype: DType, pointer: Value, offset: i32) -> Value {
        let flags = self.flags(buffer);
        let value = self.f.ins().load(scalar_type(dtype), flags, pointer, offset);
        if dtype == DType::Bool { self.f.ins().icmp_imm_s(IntCC::NotEqual, value, 0) } else { value }
    }

    /// `lane < count`.
    pub(super) fn below(&mut self, lane: u16, count: Val) -> Value {
        let count = self.get1(count);
        self.f.ins().icmp_imm_s(IntCC::SignedGreaterThan, count, i64::from(lane))
    }

    pub(super) fn zero(&mut self, dtype: DType) -> Value {
        self.constant(Scalar::zero(dtype), dtype)
    }

    /// A value that is `load` if the condition holds and zero elsewhere.
    pub(super) fn load_if(&mut self, condition: Value, dtype: DType, load: impl FnOnce(&mut Self) -> Value) -> Value {
        let (some, after) = (self.f.create_block(), self.f.create_block());
        let result = self.f.append_block_param(after, scalar_type(dtype));
        let zero = self.zero(dtype);
        self.f.ins().brif(condition, some, &[], after, &[zero.into()]);
        self.switch_to(some);
        let loaded = load(self);
        self.f.ins().jump(after, &[loaded.into()]);
        self.switch_to(after);
        result
    }

    pub(super) fn do_if(&mut self, condition: Value, run: impl FnOnce(&mut Self)) {
        let (some, after) = (self.f.create_block(), self.f.create_block());
        self.f.ins().brif(condition, some, &[], after, &[]);
        self.switch_to(some);
        run(self);
        self.f.ins().jump(after, &[]);
        self.switch_to(after);
    }

    pub(super) fn load(&mut self, ty: LaneType, buffer: Buffer, address: &Address, count: Option<Val>) -> Vec<Value> {
        let (pointer, offset) = self.place(buffer, address);
        match (shape(ty), count) {
            (Shape::Vectors(v), None) if ty.dtype != DType::Bool => {
                let flags = self.flags(buffer);
                let bytes = v.bytes() as i32;
                (0..pieces(ty)).map(|i| self.f.ins().load(v, flags, pointer, offset + i as i32 * bytes)).collect()
            }
            (Shape::Vectors(v), Some(count)) if ty.dtype != DType::Bool => {
                let flags = self.flags(buffer);
                (0..pieces(ty) as u16)
                    .map(|i| {
                        let per = v.lane_count() as u16;
                        let at = offset + i32::from(i) * v.bytes() as i32;
                        self.whole_or_lanes(
                            (i + 1) * per,
                            count,
                            Some(v),
                            |this| Some(this.f.ins().load(v, flags, pointer, at)),
                            |this| {
                                let first = i * per;
                                let lanes =
                                    this.load_lanes(first..first + per, buffer, ty.dtype, pointer, offset, Some(count));
                                Some(this.join_lanes(LaneType::vector(ty.dtype, per), &lanes)[0])
                            },
                        )
                        .expect("a load has a result")
                    })
                    .collect()
            }
            _ => {
                let lanes = self.load_lanes(0..ty.lanes, buffer, ty.dtype, pointer, offset, count);
                self.join_lanes(ty, &lanes)
            }
        }
    }

    /// Some of the lanes of consecutive elements.
    pub(super) fn load_lanes(
        &mut self,
        lanes: std::ops::Range<u16>,
        buffer: Buffer,
        dtype: DType,
        pointer: Value,
        offset: i32,
        count: Option<Val>,
    ) -> Vec<Value> {
        // A word of four elements is wider than those.
        let size = scalar_type(dtype).bytes() as i32;
        lanes
            .map(|lane| {
                let at = offset + i32::from(lane) * size;
                match count {
                    None => self.load_lane(buffer, dtype, pointer, at),
                    Some(count) => {
                        let valid = self.below(lane, count);
                        self.load_if(valid, dtype, |this| this.load_lane(buffer, dtype, pointer, at))
                    }
                }
            })
            .collect()
    }

    /// Moves a piece as a vector where all its lanes, up to `end`, are below the count, else lane by lane.
    pub(super) fn whole_or_lanes(
        &mut self,
        end: u16,
        count: Val,
        result: Option<Type>,
        whole: impl FnOnce(&mut Self) -> Option<Value>,
        lanes: impl FnOnce(&mut Self) -> Option<Value>,
    ) -> Option<Value> {
        let all = self.below(end - 1, count);
        let (full, partial, after) = (self.f.create_block(), self.f.create_block(), self.f.create_block());
        let result = result.map(|ty| self.f.append_block_param(after, ty));
        self.f.ins().brif(all, full, &[], partial, &[]);
        self.switch_to(full);
        let value = whole(self);
        self.f.ins().jump(after, &Self::arguments([value.into_iter().collect()]));
        self.switch_to(partial);
        let value = lanes(self);
        self.f.ins().jump(after, &Self::arguments([value.into_iter().collect()]));
        self.switch_to(after);
        result
    }

    pub(super) fn gather(
        &mut self,
        ty: LaneType,
        buffer: Buffer,
        address: &Address,
        indices: Val,
        count: Option<Val>,
    ) -> Vec<Value> {
        let (pointer, offset) = self.place(buffer, address);
        let size = self.element_bytes(buffer);
        let index_ty = self.ty(indices);
        let indices = self.get(indices);
        let indices = self.lanes_of(index_ty, &indices);
        let lanes = (0..ty.lanes)
            .map(|lane| {
                let index = indices[usize::from(lane)];
                let load = |this: &mut Self| {
                    let scaled = this.scale(index, size);
                    let at = this.f.ins().iadd(pointer, scaled);
                    this.load_lane(buffer, ty.dtype, at, offset)
                };
                match count {
                    None => load(self),
                    Some(count) => {
                        let valid = self.below(lane, count);
                        self.load_if(valid, ty.dtype, load)
                    }
                }
            })
            .collect::<Vec<_>>();
        self.join_lanes(ty, &lanes)
    }

    pub(super) fn store(&mut self, buffer: Buffer, address: &Address, value: Val, count: Option<Val>) {
        if count.is_none() && self.store_extended(buffer, address, value) {
            return;
        }
        let ty = self.ty(value);
        let values = self.get(value);
        let (pointer, offset) = self.place(buffer, address);
        let flags = self.flags(buffer);
        if let (Shape::Vectors(v), None, true) = (shape(ty), count, ty.dtype != DType::Bool) {
            let bytes = v.bytes() as i32;
            for (i, value) in values.into_iter().enumerate() {
                self.f.ins().store(flags, value, pointer, offset + i as i32 * bytes);
            }
            return;
        }
        if let (Shape::Vectors(v), Some(count), true) = (shape(ty), count, ty.dtype != DType::Bool) {
            let per = v.lane_count() as u16;
            for (i, value) in values.into_iter().enumerate() {
                let first = i as u16 * per;
                let at = offset + i as i32 * v.bytes() as i32;
                self.whole_or_lanes(
                    first + per,
                    count,
                    None,
                    |this| {
                        this.f.ins().store(flags, value, pointer, at);
                        None
                    },
                    |this| {
                        let lanes = this.lanes_of(LaneType::vector(ty.dtype, per), &[value]);
                        this.store_lanes(first, &lanes, buffer, pointer, offset, Some(count));
                        None
                    },
                );
            }
            return;
        }
        let lanes = self.lanes_of(ty, &values);
        self.store_lanes(0, &lanes, buffer, pointer, offset, count);
    }

    /// Writes scalars as the lanes from `first` on.
    pub(super) fn store_lanes(
        &mut self,
        first: u16,
        lanes: &[Value],
        buffer: Buffer,
        pointer: Value,
        offset: i32,
        count: Option<Val>,
    ) {
        let flags = self.flags(buffer);
        let size = self.element_bytes(buffer) as i32;
        for (lane, &value) in (first..).zip(lanes) {
            let at = offset + i32::from(lane) * size;
            match count {
                None => {
                    self.f.ins().store(flags, value, pointer, at);
                }
                Some(count) => {
                    let valid = self.below(lane, count);
                    self.do_if(valid, |this| {
                        this.f.ins().store(flags, value, pointer, at);
                    });
                }
            }
        }
    }

    pub(super) fn scatter(&mut self, buffer: Buffer, address: &Address, indices: Val, value: Val, count: Option<Val>) {
        let (ty, index_ty) = (self.ty(value), self.ty(indices));
        let (values, indices) = (self.get(value), self.get(indices));
        let (values, indices) = (self.lanes_of(ty, &values), self.lanes_of(index_ty, &indices));
        let (pointer, offset) = self.place(buffer, address);
        let flags = self.flags(buffer);
        let size = self.element_bytes(buffer);
        for (lane, (value, index)) in values.into_iter().zip(indices).enumerate() {
            let write = |this: &mut Self| {
                let scaled = this.scale(index, size);
                let at = this.f.ins().iadd(pointer, scaled);
                this.f.ins().store(flags, value, at, offset);
            };
            match count {
                None => write(self),
                Some(count) => {
                    let valid = self.below(lane as u16, count);
                    self.do_if(valid, write);
                }
            }
        }
    }
}
