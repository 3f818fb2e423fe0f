//! Legalize: rewrites a kernel into the operations that every backend has.
//!
//! After it, in every kernel:
//! - Values and buffers have the types `f32`, `f64`, `bool` and integers. 16- and 8-bit floats are held in `u16` and `u8`:
//!   arithmetic on them is done in `f32`, each step rounded, and conversions are bit operations.
//! - Unary operators are neg, abs, not, sqrt, floor, ceil, trunc, round, and those that [`Caps`] adds.
//! - Binary operators are add, sub, mul, div, min, max on numbers; rem on integers; and, or, xor on integers and masks;
//!   shl, shr on integers, where an amount of the width or more can occur only in a result that is not used, so that a
//!   backend may give any value, but must not trap. Most shift amounts are constants.
//! - Integer div and rem keep their meaning of [`crate::scalar`], which the backend implements: by zero gives 0, and the
//!   least integer by -1 gives itself. min and max of floats give NaN if either is NaN.
//! - Multiply-adds are on floats. Comparisons and selects are on numbers, never on masks.
//! - Casts are between `f32` and `f64`; from a float to `i32`, `i64` and `u64` by truncation and saturation, NaN gives 0;
//!   from any integer to `f32` and `f64`; and between integers, which extends by the source's signedness or wraps.
//!   With [`Caps::converts`] also between `f32` and 16-bit floats, each next to a bitcast from or to `u16`.
//! - ReduceLanes is add, mul, min, max of numbers and and, or, xor of integers and masks.
//! - Dot products of four numbers are on vectors of at least four lanes, a power of two, and only with
//!   [`Caps::multiplies_bytes`]; without it nothing loads words of four elements either.
//! - With [`Caps::narrow_tails_apart`], loads and stores of vectors of integers below 32 bits have no count.
//! - There are no unrolled loops: their bodies are copied, and addresses have the index as a constant.
//!
//! Types of less than 8 bits stay as they are; no backend computes with them.

mod dot;
mod exp_log;
mod integer;
mod lanes;
mod narrow;
mod tails;
mod trigonometry;

#[cfg(test)]
mod tests;

use cranelift_entity::SecondaryMap;

use self::lanes::Lanes;
use super::{
    Address, Attend, Block, FmaMode, Inst, InstData, Kernel, KernelBuilder, LaneType, LoopKind, Stride, Tile, Val,
};
use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// What a backend has beyond the common operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Transcendental operators that need no expansion, with their type.
    pub native_unary: Vec<(UnaryOp, DType)>,
    /// The 16-bit floats with casts from and to `f32`. Their values are held in `u16`: bitcasts stand between the two.
    pub converts: &'static [DType],
    /// Dot products of four 8-bit integers, and loads of words that hold four of them.
    pub multiplies_bytes: bool,
    /// Loads and stores of the first lanes of vectors of less than 32 bits come apart.
    pub narrow_tails_apart: bool,
}

/// The kernel in terms of the operations listed in this module's description.
///
/// The kernel is one that the verifier accepts.
pub fn legalize(kernel: &Kernel, caps: &Caps) -> Kernel {
    let mut b = KernelBuilder::new(kernel.name.clone());
    b.converts = caps.converts;
    for (buffer, data) in &kernel.buffers {
        let new = b.buffer(data.name.clone(), narrow::storage(data.dtype), data.access, data.len);
        debug_assert_eq!(new, buffer);
    }
    for (buffer, data) in &kernel.buffers {
        if let Some(read) = data.in_place {
            b.allow_in_place(buffer, read);
        }
    }
    let params = kernel.params.iter().map(|name| b.param(name.clone())).collect();
    let mut rewriter = Rewriter { kernel, caps, params, map: SecondaryMap::new() };
    let [begin, end] = b.task_range();
    let given = [begin, end, b.worker()];
    for (&param, val) in kernel.blocks[kernel.body].params.iter().zip(given) {
        rewriter.map[param] = Some(val);
    }
    rewriter.block(&mut b, kernel.body);
    b.finish()
}

struct Rewriter<'k> {
    kernel: &'k Kernel,
    caps: &'k Caps,
    params: Vec<Val>,
    map: SecondaryMap<Val, Option<Val>>,
}

impl Rewriter<'_> {
    fn get(&self, val: Val) -> Val {
        self.map[val].expect("operands are defined before their use")
    }

    fn list(&self, vals: &[Val]) -> Vec<Val> {
        vals.iter().map(|&v| self.get(v)).collect()
    }

    /// Copies the instructions of a block and gives what it yields.
    fn block(&mut self, b: &mut KernelBuilder, block: Block) -> Vec<Val> {
        let kernel = self.kernel;
        for &inst in &kernel.blocks[block].insts {
            if let InstData::Yield(vals) = &kernel.insts[inst].data {
                return self.list(vals);
            }
            let results = self.inst(b, inst);
            debug_assert_eq!(results.len(), kernel.insts[inst].results.len());
            for (&old, new) in kernel.insts[inst].results.iter().zip(results) {
                self.map[old] = Some(new);
            }
        }
        panic!("{block} does not end in a yield");
    }

    fn bind(&mut self, block: Block, vals: &[Val]) {
        let kernel = self.kernel;
        for (&param, &val) in kernel.blocks[block].params.iter().zip(vals) {
            self.map[param] = Some(val);
        }
    }

    /// Whether the first lanes of such vectors are loaded and stored one by one.
    fn comes_apart(&self, dtype: DType, lanes: u16) -> bool {
        self.caps.narrow_tails_apart && lanes > 1 && dtype.is_int() && dtype.bits() < 32
    }

    fn address(&self, b: &mut KernelBuilder, address: &Address) -> Address {
        let mut out = Address::at(address.offset);
        for &(val, stride) in &address.terms {
            let val = self.get(val);
            out = match stride {
                Stride::Const(c) => b.advance(out, val, c),
                Stride::Value(s) => b.advance(out, val, self.get(s)),
            };
        }
        out
    }

    fn inst(&mut self, b: &mut KernelBuilder, inst: Inst) -> Vec<Val> {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let ty = record.results.first().map(|&v| kernel.ty(v));
        let result_ty = || ty.expect("the instruction has a result");
        let one = match &record.data {
            InstData::Const(c) => {
                let ty = result_ty();
                b.constant(Scalar { dtype: narrow::storage(c.dtype), bits: c.bits }, ty.lanes)
            }
            InstData::Param(n) => self.params[*n as usize],
            InstData::Iota => b.iota(result_ty().dtype, result_ty().lanes),
            InstData::Unary(op, a) => self.unary(b, *op, kernel.ty(*a), self.get(*a)),
            InstData::Binary(op, x, y) => binary(b, *op, kernel.ty(*x).dtype, self.get(*x), self.get(*y)),
            InstData::Compare(op, x, y) => {
                let dtype = kernel.ty(*x).dtype;
                let (x, y) = (self.get(*x), self.get(*y));
                if dtype == DType::Bool {
                    integer::compare_masks(b, *op, x, y)
                } else if narrow::is_narrow(dtype) {
                    let (x, y) = (narrow::widen(b, dtype, x), narrow::widen(b, dtype, y));
                    b.compare(*op, x, y)
                } else {
                    b.compare(*op, x, y)
                }
            }
            InstData::Select(mask, x, y) => {
                let dtype = kernel.ty(*x).dtype;
                let (mask, x, y) = (self.get(*mask), self.get(*x), self.get(*y));
                if dtype == DType::Bool {
                    let not_mask = b.unary(UnaryOp::Not, mask);
                    let (x, y) = (b.binary(BinaryOp::And, mask, x), b.binary(BinaryOp::And, not_mask, y));
                    b.binary(BinaryOp::Or, x, y)
                } else {
                    b.select(mask, x, y)
                }
            }
            InstData::MulAdd { a, b: factor, acc, mode } => {
                let dtype = kernel.ty(*acc).dtype;
                mul_add(b, dtype, [self.get(*a), self.get(*factor), self.get(*acc)], *mode)
            }
            InstData::Dot4 { a, b: factor, acc, types } => {
                let [x, y, acc] = [a, factor, acc].map(|v| self.get(*v));
                let lanes = result_ty().lanes;
                if self.caps.multiplies_bytes && lanes >= 4 && lanes.is_power_of_two() {
                    b.dot4(x, y, acc, *types)
                } else {
                    dot::expand(b, [x, y, acc], *types)
                }
            }
            InstData::Cast(a) => cast(b, kernel.ty(*a).dtype, result_ty().dtype, self.get(*a)),
            InstData::Bitcast(a) => b.bitcast(narrow::storage(result_ty().dtype), self.get(*a)),
            InstData::Splat(a) => b.splat(self.get(*a), result_ty().lanes),
            InstData::ReduceLanes(op, a) => reduce_lanes(b, *op, kernel.ty(*a), self.get(*a)),
            InstData::Extract(a, lane) => b.extract(self.get(*a), *lane),
            InstData::Shuffle(x, y, lanes) => b.shuffle(self.get(*x), self.get(*y), lanes),
            InstData::Load { buffer, address, count } => {
                let address = self.address(b, address);
                let (dtype, lanes) = (kernel.buffers[*buffer].dtype, result_ty().lanes);
                match narrow::storage(result_ty().dtype) == narrow::storage(dtype) {
                    true => match count.map(|c| self.get(c)) {
                        Some(count) if self.comes_apart(narrow::storage(dtype), lanes) => {
                            tails::load(b, *buffer, &address, narrow::storage(dtype), lanes, count)
                        }
                        count => b.load(*buffer, address, lanes, count),
                    },
                    false if self.caps.multiplies_bytes => b.load_words(*buffer, address, lanes),
                    false => dot::words(b, *buffer, &address, lanes),
                }
            }
            InstData::LoadSplat { buffer, address } if result_ty().dtype != kernel.buffers[*buffer].dtype => {
                let (address, lanes) = (self.address(b, address), result_ty().lanes);
                if self.caps.multiplies_bytes {
                    b.load_word_splat(*buffer, address, lanes)
                } else {
                    let word = dot::words(b, *buffer, &address, 1);
                    b.splat(word, lanes)
                }
            }
            InstData::LoadSplat { buffer, address } => {
                let address = self.address(b, address);
                b.load_splat(*buffer, address, result_ty().lanes)
            }
            InstData::Gather { buffer, address, indices, count } => {
                let address = self.address(b, address);
                b.gather(*buffer, address, self.get(*indices), count.map(|c| self.get(c)))
            }
            InstData::Store { buffer, address, value, count } => {
                let address = self.address(b, address);
                let (value, ty) = (self.get(*value), kernel.ty(*value));
                match count.map(|c| self.get(c)) {
                    Some(count) if self.comes_apart(narrow::storage(ty.dtype), ty.lanes) => {
                        tails::store(b, *buffer, &address, value, count);
                    }
                    count => b.store(*buffer, address, value, count),
                }
                return vec![];
            }
            InstData::Scatter { buffer, address, indices, value, count } => {
                let address = self.address(b, address);
                b.scatter(*buffer, address, self.get(*indices), self.get(*value), count.map(|c| self.get(c)));
                return vec![];
            }
            InstData::Prefetch { buffer, address, locality } => {
                let address = self.address(b, address);
                b.prefetch(*buffer, address, *locality);
                return vec![];
            }
            InstData::For { kind, lo, hi, step, init, body } => {
                let (lo, hi, init) = (self.get(*lo), self.get(*hi), self.list(init));
                return self.for_loop(b, *kind, (lo, hi, *step), &init, *body);
            }
            InstData::While { init, body } => {
                let init = self.list(init);
                return b.while_(&init, |b, carried| {
                    self.bind(*body, carried);
                    let mut yielded = self.block(b, *body);
                    (yielded.remove(0), yielded)
                });
            }
            InstData::If { cond, then, otherwise } => {
                let then_block = b.open_block(&[]);
                let yielded = self.block(b, *then);
                b.close_block(&yielded);
                let else_block = b.open_block(&[]);
                let yielded = self.block(b, *otherwise);
                b.close_block(&yielded);
                return b.choose(self.get(*cond), then_block, else_block);
            }
            InstData::Tile(tile) => {
                let addresses = tile.operands().map(|operand| self.address(b, &operand.address));
                let mut new = Tile::clone(tile);
                new.map_operands(&mut |v| self.get(v));
                [new.lhs.address, new.rhs.address] = addresses;
                let (body, row) = b.begin_tile();
                new.body = body;
                self.bind(tile.body, &[row]);
                self.block(b, tile.body);
                b.end_tile(new);
                return vec![];
            }
            InstData::Attend(attend) => {
                let addresses = attend.operands().map(|operand| self.address(b, &operand.address));
                let mut new = Attend::clone(attend);
                new.map_operands(&mut |v| self.get(v));
                [new.queries.address, new.keys.address, new.values.address] = addresses;
                let (score, given) = b.begin_score();
                self.bind(attend.score, &given);
                let yielded = self.block(b, attend.score);
                b.close_block(&yielded);
                let body = b.open_block(&[]);
                self.block(b, attend.body);
                (new.score, new.body) = (score, body);
                b.end_attend(new);
                return vec![];
            }
            InstData::Yield(_) => unreachable!("the block's walk ends at its yield"),
        };
        vec![one]
    }

    fn for_loop(
        &mut self,
        b: &mut KernelBuilder,
        kind: LoopKind,
        (lo, hi, step): (Val, Val, i64),
        init: &[Val],
        body: Block,
    ) -> Vec<Val> {
        if let (LoopKind::Unrolled, Some(lo), Some(hi)) = (kind, b.index(lo).as_const(), b.index(hi).as_const()) {
            let mut carried = init.to_vec();
            let mut i = lo;
            while i < hi {
                let index = b.i64(i);
                carried.insert(0, index);
                self.bind(body, &carried);
                carried = self.block(b, body);
                i += step;
            }
            return carried;
        }
        let scope = b.begin_for(kind, lo.into(), hi.into(), step, init);
        let params: Vec<Val> = std::iter::once(scope.index).chain(scope.carried.iter().copied()).collect();
        self.bind(body, &params);
        let yielded = self.block(b, body);
        b.end_for(scope, &yielded)
    }

    fn unary(&self, b: &mut KernelBuilder, op: UnaryOp, ty: LaneType, a: Val) -> Val {
        let dtype = ty.dtype;
        if narrow::is_narrow(dtype) {
            let wide = narrow::widen(b, dtype, a);
            let result = self.unary(b, op, LaneType { dtype: DType::F32, ..ty }, wide);
            return narrow::narrow_f32(b, dtype, result);
        }
        if !dtype.is_float() || self.caps.native_unary.contains(&(op, dtype)) {
            return b.unary(op, a);
        }
        let mut l = Lanes::like(b, a);
        match op {
            UnaryOp::Neg
            | UnaryOp::Abs
            | UnaryOp::Not
            | UnaryOp::Sqrt
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Trunc
            | UnaryOp::Round => b.unary(op, a),
            UnaryOp::Exp => exp_log::exp(&mut l, a),
            UnaryOp::Log => exp_log::log(&mut l, a),
            UnaryOp::Tanh => exp_log::tanh(&mut l, a),
            UnaryOp::Sigmoid => exp_log::sigmoid(&mut l, a),
            UnaryOp::Erf => exp_log::erf(&mut l, a),
            UnaryOp::Sin => trigonometry::sin(&mut l, a),
            UnaryOp::Cos => trigonometry::cos(&mut l, a),
            UnaryOp::Tan => trigonometry::tan(&mut l, a),
            UnaryOp::Asin => trigonometry::asin(&mut l, a),
            UnaryOp::Acos => trigonometry::acos(&mut l, a),
            UnaryOp::Atan => trigonometry::atan(&mut l, a),
        }
    }
}

fn binary(b: &mut KernelBuilder, op: BinaryOp, dtype: DType, x: Val, y: Val) -> Val {
    if narrow::is_narrow(dtype) {
        let (x, y) = (narrow::widen(b, dtype, x), narrow::widen(b, dtype, y));
        let result = binary(b, op, DType::F32, x, y);
        return narrow::narrow_f32(b, dtype, result);
    }
    match op {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div => b.binary(op, x, y),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => b.binary(op, x, y),
        BinaryOp::Min if dtype == DType::Bool => b.binary(BinaryOp::And, x, y),
        BinaryOp::Max if dtype == DType::Bool => b.binary(BinaryOp::Or, x, y),
        BinaryOp::Min | BinaryOp::Max => b.binary(op, x, y),
        BinaryOp::Rem if dtype.is_float() => integer::float_rem(b, x, y),
        BinaryOp::Rem => b.binary(op, x, y),
        BinaryOp::Mod if dtype.is_float() => integer::float_mod(b, x, y),
        BinaryOp::Mod => integer::integer_mod(b, x, y),
        BinaryOp::Pow if dtype.is_float() => exp_log::pow(&mut Lanes::like(b, x), x, y),
        BinaryOp::Pow => integer::integer_pow(b, x, y),
        BinaryOp::Shl | BinaryOp::Shr => {
            let width = u64::from(dtype.bits());
            if b.constant_of(y).is_some_and(|c| c.bits < width) {
                b.binary(op, x, y)
            } else {
                integer::guarded_shift(b, op, x, y)
            }
        }
    }
}

fn mul_add(b: &mut KernelBuilder, dtype: DType, [x, y, acc]: [Val; 3], mode: FmaMode) -> Val {
    if narrow::is_narrow(dtype) {
        let [x, y, acc] = [x, y, acc].map(|v| narrow::widen(b, dtype, v));
        let result = b.mul_add(x, y, acc, mode);
        return narrow::narrow_f32(b, dtype, result);
    }
    if dtype.is_float() {
        return b.mul_add(x, y, acc, mode);
    }
    let product = b.binary(BinaryOp::Mul, x, y);
    b.binary(BinaryOp::Add, product, acc)
}

fn cast(b: &mut KernelBuilder, from: DType, to: DType, a: Val) -> Val {
    if from == to {
        return a;
    }
    if narrow::is_narrow(from) {
        let wide = narrow::widen(b, from, a);
        return cast(b, DType::F32, to, wide);
    }
    if from == DType::Bool {
        if narrow::is_narrow(to) {
            let number = integer::mask_to(b, DType::F32, a);
            return narrow::narrow_f32(b, to, number);
        }
        return integer::mask_to(b, to, a);
    }
    if to == DType::Bool {
        let lanes = b.ty(a).lanes;
        let zero = b.constant(Scalar { dtype: from, bits: 0 }, lanes);
        return b.compare(CmpOp::Ne, a, zero);
    }
    if narrow::is_narrow(to) {
        let near = match from {
            DType::F32 => a,
            DType::F64 => narrow::round_to_odd(b, a),
            _ => {
                let a = if from.bits() == 64 { integer::with_sticky_bit(b, a) } else { a };
                let wide = cast(b, from, DType::F64, a);
                narrow::round_to_odd(b, wide)
            }
        };
        return narrow::narrow_f32(b, to, near);
    }
    match (from.is_float(), to) {
        (true, DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::U32) => integer::float_to_narrow_int(b, to, a),
        _ => b.cast(to, a),
    }
}

/// Combines lanes `i` and `i + n/2` where a step is more than one operation.
fn reduce_lanes(b: &mut KernelBuilder, op: BinaryOp, ty: LaneType, a: Val) -> Val {
    if !narrow::is_narrow(ty.dtype) {
        return match op {
            BinaryOp::Min if ty.dtype == DType::Bool => b.reduce_lanes(BinaryOp::And, a),
            BinaryOp::Max if ty.dtype == DType::Bool => b.reduce_lanes(BinaryOp::Or, a),
            _ => b.reduce_lanes(op, a),
        };
    }
    let mut vector = a;
    let mut lanes = ty.lanes;
    while lanes > 1 {
        let half = lanes / 2;
        let low: Vec<u16> = (0..half).collect();
        let high: Vec<u16> = (half..lanes).collect();
        let (x, y) = if half == 1 {
            (b.extract(vector, 0), b.extract(vector, 1))
        } else {
            (b.shuffle(vector, vector, &low), b.shuffle(vector, vector, &high))
        };
        vector = binary(b, op, ty.dtype, x, y);
        lanes = half;
    }
    vector
}
