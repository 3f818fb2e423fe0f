//! Builds kernels: blocks nest as closures do, index arithmetic on constants folds at once, and constants and parameters
//! live at the start of the body, where every block sees them. (Backends materialise constants where they are used.)

use std::collections::HashMap;

use cranelift_entity::{PrimaryMap, SecondaryMap};
use smallvec::SmallVec;

use super::{
    Access, Address, Attend, Block, BlockData, Buffer, BufferData, FmaMode, INDEX, Inst, InstData, InstRecord, Kernel,
    LaneType, Locality, LoopKind, Stride, Tile, Val,
};
use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// An index that may be known: the operand of index arithmetic and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// A constant.
    Const(i64),
    /// An `i64` scalar.
    Val(Val),
}

impl From<i64> for Index {
    fn from(i: i64) -> Index {
        Index::Const(i)
    }
}

impl From<Val> for Index {
    fn from(v: Val) -> Index {
        Index::Val(v)
    }
}

impl Index {
    /// The constant, if it is one.
    pub fn as_const(self) -> Option<i64> {
        match self {
            Index::Const(c) => Some(c),
            Index::Val(_) => None,
        }
    }
}

/// A loop whose body is being built.
pub struct LoopScope {
    data: InstData,
    /// The induction variable.
    pub index: Val,
    /// What is carried, at the start of an iteration.
    pub carried: Vec<Val>,
}

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

    /// The index as a value.
    pub fn val(&mut self, index: Index) -> Val {
        match index {
            Index::Const(c) => self.i64(c),
            Index::Val(v) => v,
        }
    }

    /// The constant that a value is, whatever its lanes.
    pub fn constant_of(&self, val: Val) -> Option<Scalar> {
        self.constants.iter().find(|(_, v)| **v == val).map(|((scalar, _), _)| *scalar)
    }

    /// The value as an index; a constant where it is one.
    pub fn index(&self, val: Val) -> Index {
        self.known[val].map_or(Index::Val(val), Index::Const)
    }

    /// `op(a, b)` on indices, folded if both are constants or one is neutral. Division is of indices that are not negative.
    pub fn index_op(&mut self, op: BinaryOp, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        use BinaryOp::*;
        let (a, b) = (a.into(), b.into());
        let fold = |i: Index| match i {
            Index::Val(v) => self.index(v),
            c => c,
        };
        let (a, b) = (fold(a), fold(b));
        match (op, a, b) {
            (_, Index::Const(x), Index::Const(y)) => {
                let folded = match op {
                    Add => x.checked_add(y),
                    Sub => x.checked_sub(y),
                    Mul => x.checked_mul(y),
                    Div if y != 0 => x.checked_div(y),
                    Rem if y != 0 => x.checked_rem(y),
                    Min => Some(x.min(y)),
                    Max => Some(x.max(y)),
                    _ => None,
                };
                if let Some(c) = folded {
                    return Index::Const(c);
                }
            }
            (Add, x, Index::Const(0)) | (Add, Index::Const(0), x) | (Sub, x, Index::Const(0)) => return x,
            (Mul, x, Index::Const(1)) | (Mul, Index::Const(1), x) | (Div, x, Index::Const(1)) => return x,
            (Mul, _, Index::Const(0)) | (Mul, Index::Const(0), _) | (Rem, _, Index::Const(1)) => {
                return Index::Const(0);
            }
            _ => {}
        }
        // `(x * c * d + e) / d` is `x * c + e / d`, since indices are not negative.
        if let (Div | Rem, Index::Val(x), Index::Const(d)) = (op, a, b)
            && let Some((quotient, e)) = self.as_multiple(x, d)
        {
            return if op == Div { self.index_op(Add, quotient, e / d) } else { Index::Const(e % d) };
        }
        // `(x + c) * d` is `x * d + c * d`: the constant stays in sight of addresses.
        if let (Mul, Index::Val(x), Index::Const(d)) | (Mul, Index::Const(d), Index::Val(x)) = (op, a, b)
            && let Some((base, c)) = self.sums[x]
            && let Some(c) = c.checked_mul(d)
        {
            let scaled = self.index_op(Mul, base, d);
            return self.index_op(Add, scaled, c);
        }
        let sum = match (op, a, b) {
            (Add, Index::Val(x), Index::Const(c)) | (Add, Index::Const(c), Index::Val(x)) => Some((x, c)),
            (Sub, Index::Val(x), Index::Const(c)) => c.checked_neg().map(|c| (x, c)),
            _ => None,
        };
        let sum = sum.and_then(|(x, c)| match self.sums[x] {
            None => Some((x, c)),
            Some((base, d)) => c.checked_add(d).map(|c| (base, c)),
        });
        if let Some((base, 0)) = sum {
            return Index::Val(base);
        }
        let (op, a, b) = match sum {
            Some((base, c)) => (Add, base, self.i64(c)),
            None => (op, self.val(a), self.val(b)),
        };
        if let Some(&val) = self.index_cache.iter().rev().find_map(|block| block.get(&(op, a, b))) {
            return Index::Val(val);
        }
        let val = self.emit_pure(InstData::Binary(op, a, b), INDEX);
        self.sums[val] = sum;
        self.products[val] = match (op, self.known[a], self.known[b]) {
            (Mul, None, Some(c)) => Some((a, c)),
            (Mul, Some(c), None) => Some((b, c)),
            _ => None,
        };
        self.index_cache[self.depths[val] as usize].insert((op, a, b), val);
        Index::Val(val)
    }

    /// `value` as `x * c * d + e`, if it is such a sum with `e` not negative: gives `(x * c, e)`.
    fn as_multiple(&mut self, value: Val, d: i64) -> Option<(Index, i64)> {
        let (base, e) = self.sums[value].unwrap_or((value, 0));
        let (x, c) = self.products[base]?;
        if d <= 0 || c % d != 0 || e < 0 {
            return None;
        }
        Some((self.index_op(BinaryOp::Mul, x, c / d), e))
    }

    /// `a + b`.
    pub fn iadd(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Add, a, b)
    }

    /// `a - b`.
    pub fn isub(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Sub, a, b)
    }

    /// `a * b`.
    pub fn imul(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Mul, a, b)
    }

    /// `a / b` truncated; for operands that are not negative, rounded down.
    pub fn idiv(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Div, a, b)
    }

    /// Remainder of [`KernelBuilder::idiv`].
    pub fn irem(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Rem, a, b)
    }

    /// The lesser.
    pub fn imin(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Min, a, b)
    }

    /// The greater.
    pub fn imax(&mut self, a: impl Into<Index>, b: impl Into<Index>) -> Index {
        self.index_op(BinaryOp::Max, a, b)
    }

    /// `address + index * stride`, folded into the offset where both are constants.
    pub fn advance(&mut self, address: Address, index: impl Into<Index>, stride: impl Into<Index>) -> Address {
        let fold = |i: Index| match i {
            Index::Val(v) => self.index(v),
            c => c,
        };
        match (fold(index.into()), fold(stride.into())) {
            (Index::Const(i), Index::Const(s)) => address.offset_by(i * s),
            (Index::Val(v), Index::Const(s)) | (Index::Const(s), Index::Val(v)) => match self.sums[v] {
                Some((base, c)) => address.plus(base, Stride::Const(s)).offset_by(c * s),
                None => address.plus(v, Stride::Const(s)),
            },
            (Index::Val(v), Index::Val(s)) => {
                if address.terms.iter().any(|(t, _)| *t == v) {
                    let product = self.imul(v, s);
                    let product = self.val(product);
                    address.plus(product, Stride::Const(1))
                } else {
                    address.plus(v, Stride::Value(s))
                }
            }
        }
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

    fn block(
        &mut self,
        types: &[LaneType],
        fill: impl FnOnce(&mut KernelBuilder, &[Val]) -> Vec<Val>,
    ) -> (Block, Vec<LaneType>) {
        let block = self.open_block(types);
        let params = self.kernel.blocks[block].params.clone();
        let yielded = fill(self, &params);
        let types = yielded.iter().map(|&v| self.ty(v)).collect();
        self.close_block(&yielded);
        (block, types)
    }

    /// A loop; `body` gets the induction variable and what is carried, and gives what is carried on. A loop without
    /// iterations is left out if that is known, and one with exactly one iteration is laid out flat.
    pub fn for_(
        &mut self,
        kind: LoopKind,
        lo: Index,
        hi: Index,
        step: i64,
        init: &[Val],
        body: impl FnOnce(&mut KernelBuilder, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        assert!(step > 0, "the step of a loop is positive");
        if let (Some(lo), Some(hi)) = (lo.as_const(), hi.as_const()) {
            if hi <= lo {
                return init.to_vec();
            }
            // The only iteration of a loop over threads is one thread's.
            if hi - lo <= step && !matches!(kind, LoopKind::GpuThread(_)) {
                let i = self.i64(lo);
                return body(self, i, init);
            }
        }
        let scope = self.begin_for(kind, lo, hi, step, init);
        let yielded = body(self, scope.index, &scope.carried);
        self.end_for(scope, &yielded)
    }

    /// Opens a loop's body; [`KernelBuilder::end_for`] closes it. For builders that wrap this one and cannot lend it to
    /// the closure of [`KernelBuilder::for_`].
    pub fn begin_for(&mut self, kind: LoopKind, lo: Index, hi: Index, step: i64, init: &[Val]) -> LoopScope {
        assert!(step > 0, "the step of a loop is positive");
        let (lo, hi) = (self.val(lo), self.val(hi));
        let types: Vec<LaneType> = std::iter::once(INDEX).chain(init.iter().map(|&v| self.ty(v))).collect();
        let body = self.open_block(&types);
        let params = self.kernel.blocks[body].params.clone();
        let data = InstData::For { kind, lo, hi, step, init: init.into(), body };
        LoopScope { data, index: params[0], carried: params[1..].to_vec() }
    }

    /// Closes a loop's body with what it carries on and gives the loop's results.
    pub fn end_for(&mut self, scope: LoopScope, yielded: &[Val]) -> Vec<Val> {
        let types: Vec<LaneType> = scope.carried.iter().map(|&v| self.ty(v)).collect();
        let given: Vec<LaneType> = yielded.iter().map(|&v| self.ty(v)).collect();
        assert_eq!(given, types, "a loop carries values of fixed types");
        self.close_block(yielded);
        self.emit(scope.data, &types).to_vec()
    }

    /// Opens a block with parameters of these types; what is built next goes into it.
    pub fn open_block(&mut self, types: &[LaneType]) -> Block {
        let params: SmallVec<[Val; 8]> = types.iter().map(|&t| self.kernel.vals.push(t)).collect();
        params.iter().for_each(|&v| self.depths[v] = self.open.len() as u32);
        let block = self.kernel.blocks.push(BlockData { params, insts: Vec::new() });
        self.open.push(block);
        self.index_cache.push(HashMap::new());
        block
    }

    /// Ends the block opened last.
    pub fn close_block(&mut self, yielded: &[Val]) {
        self.emit(InstData::Yield(yielded.into()), &[]);
        self.open.pop();
        self.index_cache.pop();
    }

    /// Chooses between two closed blocks that yield values of the same types.
    pub fn choose(&mut self, cond: Val, then: Block, otherwise: Block) -> Vec<Val> {
        let yields = |k: &Kernel, b: Block| -> Vec<LaneType> {
            let last = *k.blocks[b].insts.last().expect("the block is closed");
            let InstData::Yield(vals) = &k.insts[last].data else { panic!("the block is closed") };
            vals.iter().map(|&v| k.vals[v]).collect()
        };
        let types = yields(&self.kernel, then);
        assert_eq!(types, yields(&self.kernel, otherwise), "both sides of an if give values of the same types");
        self.emit(InstData::If { cond, then, otherwise }, &types).to_vec()
    }

    /// Opens the body of a tile; gives it and the band's first row. [`KernelBuilder::end_tile`] closes it.
    pub fn begin_tile(&mut self) -> (Block, Val) {
        let body = self.open_block(&[INDEX]);
        (body, self.kernel.blocks[body].params[0])
    }

    /// Closes the body of a tile, which names it.
    pub fn end_tile(&mut self, tile: Tile) {
        self.close_block(&[]);
        self.emit(InstData::Tile(Box::new(tile)), &[]);
    }

    /// Opens the block from a row, a column and a product to a score. [`KernelBuilder::close_block`] closes it; the body of
    /// the attention is a block without parameters, which [`KernelBuilder::end_attend`] closes.
    pub fn begin_score(&mut self) -> (Block, [Val; 3]) {
        let block = self.open_block(&[INDEX, INDEX, LaneType::scalar(DType::F32)]);
        let params = &self.kernel.blocks[block].params;
        (block, [params[0], params[1], params[2]])
    }

    /// Closes the body of an attention, which names it.
    pub fn end_attend(&mut self, attend: Attend) {
        self.close_block(&[]);
        self.emit(InstData::Attend(Box::new(attend)), &[]);
    }

    /// A loop that carries nothing.
    pub fn each(
        &mut self,
        lo: impl Into<Index>,
        hi: impl Into<Index>,
        step: i64,
        body: impl FnOnce(&mut KernelBuilder, Val),
    ) {
        self.for_(LoopKind::Serial, lo.into(), hi.into(), step, &[], |b, i, _| {
            body(b, i);
            vec![]
        });
    }

    /// A loop that runs while its body says so; the body gives `(again, carried)`.
    pub fn while_(
        &mut self,
        init: &[Val],
        body: impl FnOnce(&mut KernelBuilder, &[Val]) -> (Val, Vec<Val>),
    ) -> Vec<Val> {
        let types: Vec<LaneType> = init.iter().map(|&v| self.ty(v)).collect();
        let (block, yielded) = self.block(&types, |b, params| {
            let (again, carried) = body(b, params);
            std::iter::once(again).chain(carried).collect()
        });
        assert_eq!(yielded[1..], types[..], "a loop carries values of fixed types");
        self.emit(InstData::While { init: init.into(), body: block }, &types).to_vec()
    }

    /// One of two blocks.
    pub fn if_(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut KernelBuilder) -> Vec<Val>,
        otherwise: impl FnOnce(&mut KernelBuilder) -> Vec<Val>,
    ) -> Vec<Val> {
        let (then, _) = self.block(&[], |b, _| then(b));
        let (otherwise, _) = self.block(&[], |b, _| otherwise(b));
        self.choose(cond, then, otherwise)
    }

    /// Runs `then` if the condition holds.
    pub fn when(&mut self, cond: Val, then: impl FnOnce(&mut KernelBuilder)) {
        self.if_(
            cond,
            |b| {
                then(b);
                vec![]
            },
            |_| vec![],
        );
    }

    /// `a op b` on indices, a `Bool` scalar.
    pub fn index_compare(&mut self, op: CmpOp, a: impl Into<Index>, b: impl Into<Index>) -> Val {
        let (a, b) = (self.val(a.into()), self.val(b.into()));
        self.compare(op, a, b)
    }
}
