//! Builds kernels: blocks nest as closures do, index arithmetic on constants folds at once, and constants and parameters
//! live at the start of the body, where every block sees them. (Backends materialise constants where they are used.)

mod control;
mod index;

pub use self::control::LoopScope;
pub use self::index::Index;

use std::collections::HashMap;

use cranelift_entity::{PrimaryMap, SecondaryMap};
use smallvec::SmallVec;

use super::{
    Access, Address, Block, BlockData, Buffer, BufferData, FmaMode, INDEX, Inst, InstData, InstRecord, Kernel,
    LaneType, Locality, LoopKind, Val,
};
use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// Builds one kernel.
pub struct KernelBuilder {
    kernel: Kernel,
    /// The blocks being filled, innermost last.
    open: Vec<Block>,
    /// How many instructions of the body's start are constants and parameters.
    prefix: usize,
    constants: HashMap<(Scalar, u16), Val>,
    params: Vec<Val>,
    known: SecondaryMap<Val, Option<i64>>,
    /// Values that are another value plus a constant, so that addresses can keep the constant apart.
    sums: SecondaryMap<Val, Option<(Val, i64)>>,
    /// Values that are another value times a constant.
    products: SecondaryMap<Val, Option<(Val, i64)>>,
    /// Index arithmetic that is there already, by open block.
    index_cache: Vec<HashMap<(BinaryOp, Val, Val), Val>>,
    /// How many blocks are around the one that defines a value.
    depths: SecondaryMap<Val, u32>,
    /// Pure operations move out to this depth at most.
    floor: u32,
    body_params: [Val; 3],
    /// For legalisation: the 16-bit floats that the backend converts from and to `f32`.
    pub(super) converts: &'static [DType],
}

impl KernelBuilder {
    /// Starts a kernel.
    pub fn new(name: impl Into<String>) -> KernelBuilder {
        let mut vals = PrimaryMap::new();
        let body_params = [vals.push(INDEX), vals.push(INDEX), vals.push(INDEX)];
        let mut blocks = PrimaryMap::new();
        let body = blocks.push(BlockData { params: SmallVec::from_slice(&body_params), insts: Vec::new() });
        let kernel = Kernel {
            name: name.into(),
            buffers: PrimaryMap::new(),
            params: Vec::new(),
            vals,
            insts: PrimaryMap::new(),
            blocks,
            body,
        };
        KernelBuilder {
            kernel,
            open: vec![body],
            prefix: 0,
            constants: HashMap::new(),
            params: Vec::new(),
            known: SecondaryMap::new(),
            sums: SecondaryMap::new(),
            products: SecondaryMap::new(),
            depths: SecondaryMap::new(),
            floor: 0,
            index_cache: vec![HashMap::new()],
            body_params,
            converts: &[],
        }
    }

    /// Ends the kernel.
    pub fn finish(mut self) -> Kernel {
        assert_eq!(self.open.len(), 1, "a block is still open");
        self.emit(InstData::Yield(SmallVec::new()), &[]);
        self.kernel
    }

    /// Declares a buffer. Arguments come before scratch in the order of declaration.
    pub fn buffer(&mut self, name: impl Into<String>, dtype: DType, access: Access, len: Option<u64>) -> Buffer {
        self.kernel.buffers.push(BufferData { name: name.into(), dtype, access, len, in_place: None })
    }

    /// States that `written` may share memory with `read`; see [`BufferData::in_place`].
    pub fn allow_in_place(&mut self, written: Buffer, read: Buffer) {
        self.kernel.buffers[written].in_place = Some(read);
    }

    /// Declares an `i64` parameter.
    pub fn param(&mut self, name: impl Into<String>) -> Val {
        let number = self.kernel.params.len() as u32;
        self.kernel.params.push(name.into());
        let val = self.emit_prefix(InstData::Param(number), INDEX);
        self.params.push(val);
        val
    }

    /// The number of the worker that runs the task.
    pub fn worker(&self) -> Val {
        self.body_params[2]
    }

    /// The first task of this launch and the bound after the last.
    pub fn task_range(&self) -> [Val; 2] {
        [self.body_params[0], self.body_params[1]]
    }

    /// Runs `body` for each task of this launch.
    pub fn task_loop(&mut self, body: impl FnOnce(&mut KernelBuilder, Val)) {
        let [begin, end, _] = self.body_params;
        self.for_(LoopKind::Serial, begin.into(), end.into(), 1, &[], |b, task, _| {
            body(b, task);
            vec![]
        });
    }

    /// The type of a value.
    pub fn ty(&self, val: Val) -> LaneType {
        self.kernel.vals[val]
    }

    /// The element type of a buffer.
    pub fn buffer_dtype(&self, buffer: Buffer) -> DType {
        self.kernel.buffers[buffer].dtype
    }

    fn emit_prefix(&mut self, data: InstData, ty: LaneType) -> Val {
        let val = self.kernel.vals.push(ty);
        let inst = self.kernel.insts.push(InstRecord { data, results: SmallVec::from_slice(&[val]) });
        let body = self.kernel.body;
        self.kernel.blocks[body].insts.insert(self.prefix, inst);
        self.prefix += 1;
        val
    }

    fn emit(&mut self, data: InstData, types: &[LaneType]) -> SmallVec<[Val; 2]> {
        self.emit_at(self.open.len() - 1, data, types)
    }

    /// Appends to the open block with `depth` blocks around it. For an outer block that is the place just before the
    /// statement whose body is being built.
    fn emit_at(&mut self, depth: usize, data: InstData, types: &[LaneType]) -> SmallVec<[Val; 2]> {
        let results: SmallVec<[Val; 2]> = types.iter().map(|&t| self.kernel.vals.push(t)).collect();
        results.iter().for_each(|&v| self.depths[v] = depth as u32);
        let inst: Inst = self.kernel.insts.push(InstRecord { data, results: results.clone() });
        self.kernel.blocks[self.open[depth]].insts.push(inst);
        results
    }

    fn emit1(&mut self, data: InstData, ty: LaneType) -> Val {
        self.emit(data, &[ty])[0]
    }

    /// Appends a pure operation to the outermost block that has its operands: what does not change in a loop is
    /// computed before it.
    fn emit_pure(&mut self, data: InstData, ty: LaneType) -> Val {
        let mut depth = self.floor;
        data.for_each_operand(|v| depth = depth.max(self.depths[v]));
        self.emit_at(depth as usize, data, &[ty])[0]
    }

    /// Runs `build`, whose pure operations stay in the open block or the blocks in it: for what a seldom taken side of an
    /// `If` computes.
    pub fn stay<R>(&mut self, build: impl FnOnce(&mut KernelBuilder) -> R) -> R {
        let outer = std::mem::replace(&mut self.floor, self.open.len() as u32 - 1);
        let result = build(self);
        self.floor = outer;
        result
    }

    /// A constant in `lanes` lanes.
    pub fn constant(&mut self, scalar: Scalar, lanes: u16) -> Val {
        if let Some(&v) = self.constants.get(&(scalar, lanes)) {
            return v;
        }
        let v = self.emit_prefix(InstData::Const(scalar), LaneType::vector(scalar.dtype, lanes));
        self.constants.insert((scalar, lanes), v);
        if scalar.dtype == DType::I64 && lanes == 1 {
            self.known[v] = Some(scalar.bits as i64);
        }
        v
    }

    /// An `i64` scalar constant.
    pub fn i64(&mut self, value: i64) -> Val {
        self.constant(Scalar::i64(value), 1)
    }

    /// The constant that a value is, whatever its lanes.
    pub fn constant_of(&self, val: Val) -> Option<Scalar> {
        self.constants.iter().find(|(_, v)| **v == val).map(|((scalar, _), _)| *scalar)
    }

    /// `op(a)`.
    pub fn unary(&mut self, op: UnaryOp, a: Val) -> Val {
        self.emit_pure(InstData::Unary(op, a), self.ty(a))
    }

    /// `op(a, b)`.
    pub fn binary(&mut self, op: BinaryOp, a: Val, b: Val) -> Val {
        debug_assert_eq!(self.ty(a), self.ty(b));
        self.emit_pure(InstData::Binary(op, a, b), self.ty(a))
    }

    /// `a op b`, a mask.
    pub fn compare(&mut self, op: CmpOp, a: Val, b: Val) -> Val {
        let lanes = self.ty(a).lanes;
        self.emit_pure(InstData::Compare(op, a, b), LaneType::vector(DType::Bool, lanes))
    }

    /// `mask ? a : b`.
    pub fn select(&mut self, mask: Val, a: Val, b: Val) -> Val {
        self.emit_pure(InstData::Select(mask, a, b), self.ty(a))
    }

    /// `a * b + acc`.
    pub fn mul_add(&mut self, a: Val, b: Val, acc: Val, mode: FmaMode) -> Val {
        self.emit1(InstData::MulAdd { a, b, acc, mode }, self.ty(acc))
    }

    /// `acc` plus the products of the four numbers in each lane of `a` and `b`, whose types are given.
    pub fn dot4(&mut self, a: Val, b: Val, acc: Val, types: [DType; 2]) -> Val {
        self.emit1(InstData::Dot4 { a, b, acc, types }, self.ty(acc))
    }

    /// Conversion by value.
    pub fn cast(&mut self, to: DType, a: Val) -> Val {
        let ty = self.ty(a);
        if ty.dtype == to { a } else { self.emit_pure(InstData::Cast(a), LaneType::vector(to, ty.lanes)) }
    }

    /// Reinterpretation.
    pub fn bitcast(&mut self, to: DType, a: Val) -> Val {
        let ty = self.ty(a);
        if ty.dtype == to { a } else { self.emit_pure(InstData::Bitcast(a), LaneType::vector(to, ty.lanes)) }
    }

    /// A scalar in `lanes` lanes.
    pub fn splat(&mut self, a: Val, lanes: u16) -> Val {
        if lanes == 1 { a } else { self.emit_pure(InstData::Splat(a), LaneType::vector(self.ty(a).dtype, lanes)) }
    }

    /// `[0, 1, 2, ...]`.
    pub fn iota(&mut self, dtype: DType, lanes: u16) -> Val {
        self.emit_pure(InstData::Iota, LaneType::vector(dtype, lanes))
    }

    /// All lanes combined.
    pub fn reduce_lanes(&mut self, op: BinaryOp, a: Val) -> Val {
        let ty = self.ty(a);
        if ty.lanes == 1 { a } else { self.emit1(InstData::ReduceLanes(op, a), LaneType::scalar(ty.dtype)) }
    }

    /// One lane.
    pub fn extract(&mut self, a: Val, lane: u16) -> Val {
        let ty = self.ty(a);
        if ty.lanes == 1 { a } else { self.emit1(InstData::Extract(a, lane), LaneType::scalar(ty.dtype)) }
    }

    /// Lanes picked from the concatenation of two vectors.
    pub fn shuffle(&mut self, a: Val, b: Val, lanes: &[u16]) -> Val {
        let ty = LaneType::vector(self.ty(a).dtype, lanes.len() as u16);
        self.emit1(InstData::Shuffle(a, b, lanes.into()), ty)
    }

    /// Consecutive elements, the first `count` of them.
    pub fn load(&mut self, buffer: Buffer, address: Address, lanes: u16, count: Option<Val>) -> Val {
        let ty = LaneType::vector(self.buffer_dtype(buffer), lanes);
        self.emit1(InstData::Load { buffer, address, count }, ty)
    }

    /// One element in all lanes.
    pub fn load_splat(&mut self, buffer: Buffer, address: Address, lanes: u16) -> Val {
        let ty = LaneType::vector(self.buffer_dtype(buffer), lanes);
        if lanes == 1 {
            return self.emit1(InstData::Load { buffer, address, count: None }, ty);
        }
        self.emit1(InstData::LoadSplat { buffer, address }, ty)
    }

    /// Words of four consecutive elements of a buffer of 8-bit integers, as `i32`.
    pub fn load_words(&mut self, buffer: Buffer, address: Address, lanes: u16) -> Val {
        self.emit1(InstData::Load { buffer, address, count: None }, LaneType::vector(DType::I32, lanes))
    }

    /// One word of four consecutive elements of a buffer of 8-bit integers in all lanes.
    pub fn load_word_splat(&mut self, buffer: Buffer, address: Address, lanes: u16) -> Val {
        if lanes == 1 {
            return self.load_words(buffer, address, lanes);
        }
        self.emit1(InstData::LoadSplat { buffer, address }, LaneType::vector(DType::I32, lanes))
    }

    /// Elements at `address + indices[lane]`.
    pub fn gather(&mut self, buffer: Buffer, address: Address, indices: Val, count: Option<Val>) -> Val {
        let ty = LaneType::vector(self.buffer_dtype(buffer), self.ty(indices).lanes);
        self.emit1(InstData::Gather { buffer, address, indices, count }, ty)
    }

    /// Writes consecutive elements, the first `count` of them.
    pub fn store(&mut self, buffer: Buffer, address: Address, value: Val, count: Option<Val>) {
        self.emit(InstData::Store { buffer, address, value, count }, &[]);
    }

    /// Writes elements at `address + indices[lane]`.
    pub fn scatter(&mut self, buffer: Buffer, address: Address, indices: Val, value: Val, count: Option<Val>) {
        self.emit(InstData::Scatter { buffer, address, indices, value, count }, &[]);
    }

    /// Hints a coming read.
    pub fn prefetch(&mut self, buffer: Buffer, address: Address, locality: Locality) {
        self.emit(InstData::Prefetch { buffer, address, locality }, &[]);
    }
}
