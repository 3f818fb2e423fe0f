//! A legalised kernel as a Cranelift function.
//!
//! Vectors are cut into 128-bit pieces. What Cranelift has no 128-bit vectors for (8- and 16-bit types, odd lane
//! counts) and operations that it lacks on vectors go lane by lane. Masks are pieces of four 32-bit lanes of all ones or
//! zeros, whatever they were compared from. Constants are made where they are used, so that they hold no registers across
//! loops; addresses that a loop does not change are computed before it.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    self, AbiParam, Function, InstBuilder, MemFlagsData, Signature, Type, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_entity::SecondaryMap;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Access, Address, Block, Buffer, Inst, InstData, Kernel, LaneType, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// What the target adds to the common instructions.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions {
    /// Fused multiply-add is one instruction.
    pub has_fma: bool,
}

/// Translates a kernel.
pub fn translate(
    kernel: &Kernel,
    options: KernelOptions,
    config: TargetFrontendConfig,
    context: &mut FunctionBuilderContext,
) -> Function {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params =
        [types::I64, types::I64, types::I64, types::I64, types::I64, types::I32].map(AbiParam::new).to_vec();
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut f = FunctionBuilder::new(&mut function, context);
    let entry = f.create_block();
    f.append_block_params_for_function_params(entry);
    f.switch_to_block(entry);
    f.seal_block(entry);
    let arguments = f.block_params(entry).to_vec();
    let mut this = Translate {
        kernel,
        options,
        f,
        values: SecondaryMap::new(),
        constants: SecondaryMap::new(),
        depths: SecondaryMap::new(),
        made: HashMap::new(),
        buffers: HashMap::new(),
        pointers: vec![HashMap::new()],
        params: arguments[1],
    };
    for (i, (buffer, _)) in kernel.arguments().enumerate() {
        let pointer = this.f.ins().load(types::I64, MemFlagsData::trusted(), arguments[0], i as i32 * 8);
        this.buffers.insert(buffer, pointer);
    }
    for (buffer, offset) in kernel.scratch_layout().0 {
        let pointer = this.f.ins().iadd_imm_s(arguments[4], offset as i64);
        this.buffers.insert(buffer, pointer);
    }
    let worker = this.f.ins().sextend(types::I64, arguments[5]);
    for (&param, value) in kernel.blocks[kernel.body].params.iter().zip([arguments[2], arguments[3], worker]) {
        this.values[param] = Some(vec![value]);
    }
    this.block(kernel.body);
    this.f.ins().return_(&[]);
    this.f.seal_all_blocks();
    this.f.finalize(config);
    function
}

/// A part of an address: a buffer and some of its terms.
type Partial = (Buffer, Vec<(Val, Stride)>);

/// How a value of the kernel is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One scalar for each lane.
    Lanes,
    /// Vectors of this type.
    Vectors(Type),
}

struct Translate<'k> {
    kernel: &'k Kernel,
    options: KernelOptions,
    f: FunctionBuilder<'k>,
    values: SecondaryMap<Val, Option<Vec<Value>>>,
    constants: SecondaryMap<Val, Option<Scalar>>,
    /// How many loops and branches are around a value's definition.
    depths: SecondaryMap<Val, usize>,
    /// Constants of the present block.
    made: HashMap<(Scalar, u16), Vec<Value>>,
    buffers: HashMap<Buffer, Value>,
    /// Partial addresses, by open scope.
    pointers: Vec<HashMap<Partial, Value>>,
    params: Value,
}

/// The type of a scalar.
fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => types::F32,
        DType::F64 => types::F64,
        DType::I64 | DType::U64 => types::I64,
        DType::I32 | DType::U32 => types::I32,
        DType::I16 | DType::U16 => types::I16,
        DType::I8 | DType::U8 | DType::Bool => types::I8,
        other => panic!("legalisation leaves no {other}"),
    }
}

fn shape(ty: LaneType) -> Shape {
    if ty.lanes < 2 || !ty.lanes.is_power_of_two() {
        return Shape::Lanes;
    }
    match ty.dtype {
        DType::F32 if ty.lanes >= 4 => Shape::Vectors(types::F32X4),
        DType::I32 | DType::U32 | DType::Bool if ty.lanes >= 4 => Shape::Vectors(types::I32X4),
        DType::F64 => Shape::Vectors(types::F64X2),
        DType::I64 | DType::U64 => Shape::Vectors(types::I64X2),
        _ => Shape::Lanes,
    }
}

/// How many registers hold a value.
fn pieces(ty: LaneType) -> usize {
    match shape(ty) {
        Shape::Lanes => ty.lanes.into(),
        Shape::Vectors(v) => usize::from(ty.lanes) / v.lane_count() as usize,
    }
}

/// The type of each register.
fn piece_type(ty: LaneType) -> Type {
    match shape(ty) {
        Shape::Lanes => scalar_type(ty.dtype),
        Shape::Vectors(v) => v,
    }
}

impl Translate<'_> {
    fn ty(&self, val: Val) -> LaneType {
        self.kernel.ty(val)
    }

    fn get(&mut self, val: Val) -> Vec<Value> {
        if let Some(values) = &self.values[val] {
            return values.clone();
        }
        let scalar = self.constants[val].expect("operands are defined before their use");
        let ty = self.ty(val);
        if let Some(values) = self.made.get(&(scalar, ty.lanes)) {
            return values.clone();
        }
        let one = self.constant(scalar, ty.dtype);
        let value = match shape(ty) {
            Shape::Lanes => one,
            Shape::Vectors(v) => self.f.ins().splat(v, one),
        };
        let values = vec![value; pieces(ty)];
        self.made.insert((scalar, ty.lanes), values.clone());
        values
    }

    fn get1(&mut self, val: Val) -> Value {
        self.get(val)[0]
    }

    /// A scalar constant; in a mask's lane, true is all ones.
    fn constant(&mut self, scalar: Scalar, dtype: DType) -> Value {
        let bits = scalar.bits;
        match dtype {
            DType::F32 => self.f.ins().f32const(f32::from_bits(bits as u32)),
            DType::F64 => self.f.ins().f64const(f64::from_bits(bits)),
            dtype => {
                let width = dtype.bits();
                // Cranelift wants immediates zero-extended from their width.
                let bits = if width == 64 { bits } else { bits & ((1 << width) - 1) };
                self.f.ins().iconst(scalar_type(dtype), bits as i64)
            }
        }
    }

    fn set(&mut self, val: Val, values: Vec<Value>) {
        self.depths[val] = self.pointers.len() - 1;
        self.values[val] = Some(values);
    }

    fn switch_to(&mut self, block: ir::Block) {
        self.f.switch_to_block(block);
        self.made.clear();
    }

    fn block(&mut self, block: Block) -> Vec<Vec<Value>> {
        let kernel = self.kernel;
        for &inst in &kernel.blocks[block].insts {
            let record = &kernel.insts[inst];
            match &record.data {
                InstData::Yield(vals) => return vals.iter().map(|&v| self.get(v)).collect(),
                InstData::Const(scalar) => self.constants[record.results[0]] = Some(*scalar),
                InstData::For { .. } => self.for_loop(inst),
                InstData::While { .. } => self.while_loop(inst),
                InstData::If { .. } => self.branch(inst),
                InstData::Store { buffer, address, value, count } => self.store(*buffer, address, *value, *count),
                InstData::Scatter { buffer, address, indices, value, count } => {
                    self.scatter(*buffer, address, *indices, *value, *count);
                }
                // Cranelift has no prefetch.
                InstData::Prefetch { .. } => {}
                data => {
                    let values = self.inst(data, self.ty(record.results[0]));
                    self.set(record.results[0], values);
                }
            }
        }
        panic!("{block} does not end in a yield");
    }

    /// Appends parameters for values of these kernel values' types.
    fn append_params(&mut self, block: ir::Block, vals: &[Val]) {
        for &val in vals {
            let ty = self.ty(val);
            let values = (0..pieces(ty)).map(|_| self.f.append_block_param(block, piece_type(ty))).collect();
            self.set(val, values);
        }
    }

    fn arguments(values: impl IntoIterator<Item = Vec<Value>>) -> Vec<ir::BlockArg> {
        values.into_iter().flatten().map(ir::BlockArg::from).collect()
    }

    fn for_loop(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let InstData::For { lo, hi, step, init, body, .. } = &record.data else { unreachable!("a loop") };
        self.prepare_addresses(*body);
        let (first, start) = (self.get1(*lo), init.iter().map(|&v| self.get(v)).collect::<Vec<_>>());
        let bound = self.get1(*hi);
        let (top, after) = (self.f.create_block(), self.f.create_block());
        let enters = self.f.ins().icmp(IntCC::SignedLessThan, first, bound);
        let over = Self::arguments(start.iter().cloned());
        let into = Self::arguments(std::iter::once(vec![first]).chain(start));
        self.f.ins().brif(enters, top, &into, after, &over);
        self.pointers.push(HashMap::new());
        self.append_params(top, &kernel.blocks[*body].params);
        self.switch_to(top);
        let index = self.get1(kernel.blocks[*body].params[0]);
        let next = self.block(*body);
        let index = self.f.ins().iadd_imm_s(index, *step);
        // A bound that is a constant is made again here; one that is a value lives through the loop.
        let bound = self.get1(*hi);
        let again = self.f.ins().icmp(IntCC::SignedLessThan, index, bound);
        let done = Self::arguments(next.iter().cloned());
        let back = Self::arguments(std::iter::once(vec![index]).chain(next));
        self.f.ins().brif(again, top, &back, after, &done);
        self.pointers.pop();
        self.append_params(after, &record.results);
        self.switch_to(after);
    }

    fn while_loop(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let InstData::While { init, body } = &record.data else { unreachable!("a loop") };
        self.prepare_addresses(*body);
        let start = init.iter().map(|&v| self.get(v)).collect::<Vec<_>>();
        let (top, after) = (self.f.create_block(), self.f.create_block());
        self.f.ins().jump(top, &Self::arguments(start));
        self.pointers.push(HashMap::new());
        self.append_params(top, &kernel.blocks[*body].params);
        self.switch_to(top);
        let mut yielded = self.block(*body);
        let again = yielded.remove(0)[0];
        let next = Self::arguments(yielded);
        self.f.ins().brif(again, top, &next, after, &next);
        self.pointers.pop();
        self.append_params(after, &record.results);
        self.switch_to(after);
    }

    fn branch(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let InstData::If { cond, then, otherwise } = &record.data else { unreachable!("a branch") };
        let condition = self.get1(*cond);
        let sides = [self.f.create_block(), self.f.create_block()];
        let after = self.f.create_block();
        self.f.ins().brif(condition, sides[0], &[], sides[1], &[]);
        for (side, block) in sides.into_iter().zip([then, otherwise]) {
            self.switch_to(side);
            self.pointers.push(HashMap::new());
            let results = self.block(*block);
            self.f.ins().jump(after, &Self::arguments(results));
            self.pointers.pop();
        }
        self.append_params(after, &record.results);
        self.switch_to(after);
    }

    /// Computes the parts of the addresses in a loop's body that the loop does not change.
    fn prepare_addresses(&mut self, block: Block) {
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

    fn depth_of(&self, (val, stride): (Val, Stride)) -> usize {
        let stride = match stride {
            Stride::Const(_) => 0,
            Stride::Value(s) => self.depths[s],
        };
        self.depths[val].max(stride)
    }

    /// The buffer's start plus these terms.
    fn pointer(&mut self, buffer: Buffer, terms: &[(Val, Stride)]) -> Value {
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

    fn scale(&mut self, value: Value, factor: i64) -> Value {
        match factor {
            1 => value,
            f if f > 0 && f.count_ones() == 1 => self.f.ins().ishl_imm_u(value, i64::from(f.trailing_zeros())),
            f => self.f.ins().imul_imm_s(value, f),
        }
    }

    fn element_bytes(&self, buffer: Buffer) -> i64 {
        i64::from(self.kernel.buffers[buffer].dtype.bytes().expect("elements have whole bytes"))
    }

    /// The pointer and constant offset of an address.
    fn place(&mut self, buffer: Buffer, address: &Address) -> (Value, i32) {
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

    fn flags(&self, buffer: Buffer) -> MemFlagsData {
        let flags = MemFlagsData::new().with_notrap();
        // Callers' tensors have element alignment only; vectors may be unaligned.
        if self.kernel.buffers[buffer].access == Access::Read { flags.with_readonly() } else { flags }
    }

    fn load_lane(&mut self, buffer: Buffer, dtype: DType, pointer: Value, offset: i32) -> Value {
        let flags = self.flags(buffer);
        let value = self.f.ins().load(scalar_type(dtype), flags, pointer, offset);
        if dtype == DType::Bool { self.f.ins().icmp_imm_s(IntCC::NotEqual, value, 0) } else { value }
    }

    /// `lane < count`.
    fn below(&mut self, lane: u16, count: Val) -> Value {
        let count = self.get1(count);
        self.f.ins().icmp_imm_s(IntCC::SignedGreaterThan, count, i64::from(lane))
    }

    fn zero(&mut self, dtype: DType) -> Value {
        self.constant(Scalar::zero(dtype), dtype)
    }

    /// A value that is `load` if the condition holds and zero elsewhere.
    fn load_if(&mut self, condition: Value, dtype: DType, load: impl FnOnce(&mut Self) -> Value) -> Value {
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

    fn do_if(&mut self, condition: Value, run: impl FnOnce(&mut Self)) {
        let (some, after) = (self.f.create_block(), self.f.create_block());
        self.f.ins().brif(condition, some, &[], after, &[]);
        self.switch_to(some);
        run(self);
        self.f.ins().jump(after, &[]);
        self.switch_to(after);
    }

    fn load(&mut self, ty: LaneType, buffer: Buffer, address: &Address, count: Option<Val>) -> Vec<Value> {
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
    fn load_lanes(
        &mut self,
        lanes: std::ops::Range<u16>,
        buffer: Buffer,
        dtype: DType,
        pointer: Value,
        offset: i32,
        count: Option<Val>,
    ) -> Vec<Value> {
        let size = self.element_bytes(buffer) as i32;
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
    fn whole_or_lanes(
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

    fn gather(
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

    fn store(&mut self, buffer: Buffer, address: &Address, value: Val, count: Option<Val>) {
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
    fn store_lanes(
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

    fn scatter(&mut self, buffer: Buffer, address: &Address, indices: Val, value: Val, count: Option<Val>) {
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

    /// The lanes as scalars; those of a mask as 0 or 1.
    fn lanes_of(&mut self, ty: LaneType, values: &[Value]) -> Vec<Value> {
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
    fn join_lanes(&mut self, ty: LaneType, lanes: &[Value]) -> Vec<Value> {
        let Shape::Vectors(v) = shape(ty) else { return lanes.to_vec() };
        let lanes: Vec<Value> = match ty.dtype {
            DType::Bool => lanes
                .iter()
                .map(|&l| {
                    let wide = self.f.ins().uextend(types::I32, l);
                    self.f.ins().ineg(wide)
                })
                .collect(),
            _ => lanes.to_vec(),
        };
        let per = v.lane_count() as usize;
        lanes
            .chunks(per)
            .map(|chunk| {
                let mut vector = self.f.ins().splat(v, chunk[0]);
                for (i, &lane) in chunk.iter().enumerate().skip(1) {
                    vector = self.f.ins().insertlane(vector, lane, i as u8);
                }
                vector
            })
            .collect()
    }

    fn inst(&mut self, data: &InstData, ty: LaneType) -> Vec<Value> {
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
            | InstData::For { .. }
            | InstData::While { .. }
            | InstData::If { .. }
            | InstData::Yield(_) => unreachable!("handled by the walk over blocks"),
        }
    }

    fn unary(&mut self, op: UnaryOp, a: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let values = self.get(a);
        values
            .into_iter()
            .map(|x| match op {
                UnaryOp::Neg if ty.dtype.is_float() => self.f.ins().fneg(x),
                UnaryOp::Neg => self.f.ins().ineg(x),
                UnaryOp::Abs if ty.dtype.is_float() => self.f.ins().fabs(x),
                UnaryOp::Abs if ty.dtype.is_signed_int() => self.f.ins().iabs(x),
                UnaryOp::Abs => x,
                UnaryOp::Not if ty.dtype == DType::Bool && shape(ty) == Shape::Lanes => self.f.ins().bxor_imm_u(x, 1),
                UnaryOp::Not => self.f.ins().bnot(x),
                UnaryOp::Sqrt => self.f.ins().sqrt(x),
                UnaryOp::Floor => self.f.ins().floor(x),
                UnaryOp::Ceil => self.f.ins().ceil(x),
                UnaryOp::Trunc => self.f.ins().trunc(x),
                UnaryOp::Round => self.f.ins().nearest(x),
                other => panic!("legalisation removes {}", other.name()),
            })
            .collect()
    }

    fn binary(&mut self, op: BinaryOp, a: Val, b: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let (x, y) = (self.get(a), self.get(b));
        let by_lanes = match shape(ty) {
            Shape::Lanes => true,
            // Shift amounts differ from lane to lane, which 128-bit vectors do not have; division neither.
            Shape::Vectors(v) => match op {
                BinaryOp::Shl | BinaryOp::Shr => self.constants[b].is_none(),
                BinaryOp::Div | BinaryOp::Rem => !ty.dtype.is_float(),
                BinaryOp::Min | BinaryOp::Max => v == types::I64X2,
                _ => false,
            },
        };
        if by_lanes {
            let (x, y) = (self.lanes_of(ty, &x), self.lanes_of(ty, &y));
            let lanes: Vec<Value> = x.into_iter().zip(y).map(|(x, y)| self.scalar_binary(op, ty.dtype, x, y)).collect();
            return self.join_lanes(ty, &lanes);
        }
        if let (BinaryOp::Shl | BinaryOp::Shr, Some(amount)) = (op, self.constants[b]) {
            let amount = amount.bits as i64 & i64::from(ty.dtype.bits() - 1);
            return x
                .into_iter()
                .map(|x| match op {
                    BinaryOp::Shl => self.f.ins().ishl_imm_u(x, amount),
                    _ if ty.dtype.is_signed_int() => self.f.ins().sshr_imm_u(x, amount),
                    _ => self.f.ins().ushr_imm_u(x, amount),
                })
                .collect();
        }
        x.into_iter().zip(y).map(|(x, y)| self.plain_binary(op, ty.dtype, x, y)).collect()
    }

    /// An operation that scalars and vectors have alike.
    fn plain_binary(&mut self, op: BinaryOp, dtype: DType, x: Value, y: Value) -> Value {
        let (float, signed) = (dtype.is_float(), dtype.is_signed_int());
        let ins = self.f.ins();
        match op {
            BinaryOp::Add if float => ins.fadd(x, y),
            BinaryOp::Sub if float => ins.fsub(x, y),
            BinaryOp::Mul if float => ins.fmul(x, y),
            BinaryOp::Div if float => ins.fdiv(x, y),
            BinaryOp::Min if float => ins.fmin(x, y),
            BinaryOp::Max if float => ins.fmax(x, y),
            BinaryOp::Add => ins.iadd(x, y),
            BinaryOp::Sub => ins.isub(x, y),
            BinaryOp::Mul => ins.imul(x, y),
            BinaryOp::And => ins.band(x, y),
            BinaryOp::Or => ins.bor(x, y),
            BinaryOp::Xor => ins.bxor(x, y),
            BinaryOp::Min if signed => ins.smin(x, y),
            BinaryOp::Max if signed => ins.smax(x, y),
            BinaryOp::Min => ins.umin(x, y),
            BinaryOp::Max => ins.umax(x, y),
            other => panic!("legalisation leaves no {} here", other.name()),
        }
    }

    fn scalar_binary(&mut self, op: BinaryOp, dtype: DType, x: Value, y: Value) -> Value {
        let signed = dtype.is_signed_int();
        match op {
            BinaryOp::Div | BinaryOp::Rem if !dtype.is_float() => self.divide(op, dtype, x, y),
            BinaryOp::Shl => self.f.ins().ishl(x, y),
            BinaryOp::Shr if signed => self.f.ins().sshr(x, y),
            BinaryOp::Shr => self.f.ins().ushr(x, y),
            op => self.plain_binary(op, dtype, x, y),
        }
    }

    /// Division without traps: by 0 gives 0, the least by -1 gives itself (and remainder 0).
    fn divide(&mut self, op: BinaryOp, dtype: DType, x: Value, y: Value) -> Value {
        let ty = scalar_type(dtype);
        let zero = self.f.ins().iconst(ty, 0);
        let one = self.f.ins().iconst(ty, 1);
        let by_zero = self.f.ins().icmp(IntCC::Equal, y, zero);
        let safe = self.f.ins().select(by_zero, one, y);
        let result = if dtype.is_signed_int() {
            // -1 becomes 1 as well: the quotient is the negation, which wraps, and the remainder 0.
            let negated = self.f.ins().ineg(x);
            let plus_one = self.f.ins().iadd(y, one);
            let by_minus_one = self.f.ins().icmp(IntCC::Equal, plus_one, zero);
            let safe = self.f.ins().select(by_minus_one, one, safe);
            let divided = match op {
                BinaryOp::Div => self.f.ins().sdiv(x, safe),
                _ => self.f.ins().srem(x, safe),
            };
            let special = if op == BinaryOp::Div { negated } else { zero };
            self.f.ins().select(by_minus_one, special, divided)
        } else if op == BinaryOp::Div {
            self.f.ins().udiv(x, safe)
        } else {
            self.f.ins().urem(x, safe)
        };
        self.f.ins().select(by_zero, zero, result)
    }

    fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let (x, y) = (self.get(a), self.get(b));
        let compared: Vec<Value> = x
            .into_iter()
            .zip(y)
            .map(|(x, y)| {
                if ty.dtype.is_float() {
                    let condition = match op {
                        CmpOp::Eq => FloatCC::Equal,
                        CmpOp::Ne => FloatCC::NotEqual,
                        CmpOp::Lt => FloatCC::LessThan,
                        CmpOp::Le => FloatCC::LessThanOrEqual,
                        CmpOp::Gt => FloatCC::GreaterThan,
                        CmpOp::Ge => FloatCC::GreaterThanOrEqual,
                    };
                    return self.f.ins().fcmp(condition, x, y);
                }
                let condition = match (op, ty.dtype.is_signed_int()) {
                    (CmpOp::Eq, _) => IntCC::Equal,
                    (CmpOp::Ne, _) => IntCC::NotEqual,
                    (CmpOp::Lt, true) => IntCC::SignedLessThan,
                    (CmpOp::Le, true) => IntCC::SignedLessThanOrEqual,
                    (CmpOp::Gt, true) => IntCC::SignedGreaterThan,
                    (CmpOp::Ge, true) => IntCC::SignedGreaterThanOrEqual,
                    (CmpOp::Lt, false) => IntCC::UnsignedLessThan,
                    (CmpOp::Le, false) => IntCC::UnsignedLessThanOrEqual,
                    (CmpOp::Gt, false) => IntCC::UnsignedGreaterThan,
                    (CmpOp::Ge, false) => IntCC::UnsignedGreaterThanOrEqual,
                };
                self.f.ins().icmp(condition, x, y)
            })
            .collect();
        let mask = LaneType::vector(DType::Bool, ty.lanes);
        match (shape(ty), shape(mask)) {
            (Shape::Lanes, Shape::Lanes) => compared,
            (Shape::Vectors(v), Shape::Vectors(_)) if v.lane_bits() == 32 => compared,
            // Masks of 64-bit lanes, or lanes without vectors: through scalars.
            (Shape::Vectors(v), _) => {
                let mut lanes = Vec::new();
                for value in compared {
                    for lane in 0..v.lane_count() {
                        let one = self.f.ins().extractlane(value, lane as u8);
                        lanes.push(self.f.ins().icmp_imm_s(IntCC::NotEqual, one, 0));
                    }
                }
                self.join_lanes(mask, &lanes)
            }
            (Shape::Lanes, Shape::Vectors(_)) => self.join_lanes(mask, &compared),
        }
    }

    fn select(&mut self, condition: Val, a: Val, b: Val) -> Vec<Value> {
        let ty = self.ty(a);
        let mask_ty = self.ty(condition);
        let (masks, x, y) = (self.get(condition), self.get(a), self.get(b));
        match (shape(ty), shape(mask_ty)) {
            (Shape::Vectors(v), Shape::Vectors(_)) if v.lane_bits() == 32 => masks
                .into_iter()
                .zip(x)
                .zip(y)
                .map(|((mask, x), y)| {
                    let mask = self.reinterpret(v, mask);
                    self.f.ins().bitselect(mask, x, y)
                })
                .collect(),
            _ => {
                let masks = self.lanes_of(mask_ty, &masks);
                let (x, y) = (self.lanes_of(ty, &x), self.lanes_of(ty, &y));
                let lanes: Vec<Value> =
                    masks.into_iter().zip(x).zip(y).map(|((m, x), y)| self.f.ins().select(m, x, y)).collect();
                self.join_lanes(ty, &lanes)
            }
        }
    }

    fn reinterpret(&mut self, to: Type, value: Value) -> Value {
        let from = self.f.func.dfg.value_type(value);
        if from == to {
            return value;
        }
        // Vectors of different lanes keep the order of their bytes.
        let flags = if to.is_vector() && to.lane_bits() != from.lane_bits() {
            MemFlagsData::new().with_endianness(ir::Endianness::Little)
        } else {
            MemFlagsData::new()
        };
        self.f.ins().bitcast(to, flags, value)
    }

    fn bitcast(&mut self, a: Val, to: LaneType) -> Vec<Value> {
        let from = self.ty(a);
        let values = self.get(a);
        if shape(from) == Shape::Lanes && shape(to) == Shape::Lanes
            || pieces(from) == pieces(to) && shape(from) != Shape::Lanes
        {
            return values.into_iter().map(|v| self.reinterpret(piece_type(to), v)).collect();
        }
        let lanes: Vec<Value> =
            self.lanes_of(from, &values).into_iter().map(|v| self.reinterpret(scalar_type(to.dtype), v)).collect();
        self.join_lanes(to, &lanes)
    }

    fn cast(&mut self, a: Val, to: LaneType) -> Vec<Value> {
        let from = self.ty(a);
        let values = self.get(a);
        if let (Shape::Vectors(_), Shape::Vectors(v)) = (shape(from), shape(to)) {
            match (from.dtype, to.dtype) {
                (DType::I32, DType::F32) => {
                    return values.into_iter().map(|x| self.f.ins().fcvt_from_sint(v, x)).collect();
                }
                (DType::F32, DType::I32) => {
                    return values.into_iter().map(|x| self.f.ins().fcvt_to_sint_sat(v, x)).collect();
                }
                (DType::I32, DType::U32)
                | (DType::U32, DType::I32)
                | (DType::I64, DType::U64)
                | (DType::U64, DType::I64) => {
                    return values;
                }
                (DType::Bool, DType::I32 | DType::U32) => {
                    return values.into_iter().map(|x| self.f.ins().ineg(x)).collect();
                }
                (DType::Bool, DType::F32) => {
                    let one = self.f.ins().f32const(1.0);
                    let ones = self.f.ins().splat(types::F32X4, one);
                    let ones = self.reinterpret(types::I32X4, ones);
                    return values
                        .into_iter()
                        .map(|x| {
                            let bits = self.f.ins().band(x, ones);
                            self.reinterpret(types::F32X4, bits)
                        })
                        .collect();
                }
                _ => {}
            }
        }
        let lanes: Vec<Value> =
            self.lanes_of(from, &values).into_iter().map(|v| self.scalar_cast(from.dtype, to.dtype, v)).collect();
        self.join_lanes(to, &lanes)
    }

    fn scalar_cast(&mut self, from: DType, to: DType, x: Value) -> Value {
        let (a, b) = (scalar_type(from), scalar_type(to));
        match (from.is_float(), to.is_float()) {
            (true, true) if a == b => x,
            (true, true) if b == types::F64 => self.f.ins().fpromote(b, x),
            (true, true) => self.f.ins().fdemote(b, x),
            (true, false) if to.is_signed_int() => self.f.ins().fcvt_to_sint_sat(b, x),
            (true, false) => self.f.ins().fcvt_to_uint_sat(b, x),
            (false, true) => {
                let signed = from.is_signed_int();
                let wide = if a.bits() < 32 { self.extend(types::I32, x, signed) } else { x };
                if signed { self.f.ins().fcvt_from_sint(b, wide) } else { self.f.ins().fcvt_from_uint(b, wide) }
            }
            (false, false) if a.bits() == b.bits() => x,
            (false, false) if a.bits() < b.bits() => self.extend(b, x, from.is_signed_int()),
            (false, false) => self.f.ins().ireduce(b, x),
        }
    }

    fn extend(&mut self, to: Type, x: Value, signed: bool) -> Value {
        if signed { self.f.ins().sextend(to, x) } else { self.f.ins().uextend(to, x) }
    }
}
