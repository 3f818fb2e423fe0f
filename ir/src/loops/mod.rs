//! The Loop IR: one kernel as structured loops over scalars and vectors, in SSA form.
//!
//! A [`Kernel`] has buffers, `i64` parameters and a body. Control flow is structured: `For`, `While` and `If` own blocks,
//! and what they carry are block parameters, so accumulators live in registers by construction. Values are scalars or
//! vectors of any lane count; a backend splits vectors into its registers.
//!
//! Memory is reached only through [`Address`]es: a buffer and an affine function of `i64` values, in elements. Strides stay
//! visible, constants or values, so that backends can fold them into addressing modes.
//!
//! Invariant: an inner block sees the values of the blocks around it; a value never leaves its block but through
//! `Yield`. Invariant: a kernel touches a buffer only inside its extent, for every task in `0..tasks` and every value of
//! the data; a data-dependent index is clamped by the kernel itself. The interpreter checks it.
//! Invariant: tasks are independent: no task reads what another writes in the same launch, so their order and their
//! split over workers change no bit of the result.
//!
//! Every backend is a walk over a legalised kernel (see [`legalize`]): no operation it lacks, no library call.

pub mod attend;
pub mod build;
pub mod interp;
pub mod legalize;
pub mod parse;
pub mod print;
pub mod tile;
pub mod verify;

use cranelift_entity::{PrimaryMap, entity_impl};
use smallvec::SmallVec;

pub use attend::Attend;
pub use build::KernelBuilder;
pub use tile::{Digit, Digits, Tile, TileKind, TileOperand};

use crate::dtype::DType;
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

/// An SSA value: a scalar or a vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Val(u32);
entity_impl!(Val, "%");

/// An instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inst(u32);
entity_impl!(Inst, "i");

/// A list of instructions with parameters, ended by a `Yield`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block(u32);
entity_impl!(Block, "b");

/// A memory that the kernel can reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(u32);
entity_impl!(Buffer, "@");

/// The type of a value: `lanes` elements of a scalar type; 1 lane is a scalar. A vector of `Bool` is a mask; its
/// representation is the backend's. Index arithmetic is `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneType {
    /// The element type; no string or complex type.
    pub dtype: DType,
    /// How many, at least 1.
    pub lanes: u16,
}

impl LaneType {
    /// A scalar of this type.
    pub fn scalar(dtype: DType) -> LaneType {
        LaneType { dtype, lanes: 1 }
    }

    /// A vector of this type.
    pub fn vector(dtype: DType, lanes: u16) -> LaneType {
        LaneType { dtype, lanes }
    }
}

/// The type of addresses, trip counts and parameters.
pub const INDEX: LaneType = LaneType { dtype: DType::I64, lanes: 1 };

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read; several read-only buffers may overlap.
    Read,
    /// Written, and possibly read after it was written. Overlaps no other buffer except as `in_place` allows.
    Write,
    /// Memory of one worker, undefined at the start of each task. Its extent is a constant.
    Scratch,
}

/// A buffer's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferData {
    /// For dumps: the tensor's or scratch's role, such as `lhs`.
    pub name: String,
    /// Element type in memory. Sub-byte types are addressed by element.
    pub dtype: DType,
    /// How it is used.
    pub access: Access,
    /// The number of elements if it is known; always for scratch.
    pub len: Option<u64>,
    /// Whether each element of this written buffer is written only after the last read of the element of the same index
    /// in the read buffer given here, so that both may be one memory. The memory plan makes use of it.
    pub in_place: Option<Buffer>,
}

/// The factor of an address term, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stride {
    /// A constant.
    Const(i64),
    /// An `i64` value, such as a parameter.
    Value(Val),
}

/// `offset + sum(value * stride)`, in elements from the start of the buffer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Address {
    /// The constant part.
    pub offset: i64,
    /// `i64` scalars with their strides; a value may appear once.
    pub terms: SmallVec<[(Val, Stride); 4]>,
}

/// What a loop is for. The meaning is that of `Serial` always; the others are permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoopKind {
    /// Runs in order.
    Serial,
    /// The backend copies the body for each iteration; trip count and start are constants.
    Unrolled,
    /// Iterations are independent and mapped to a GPU's blocks along this axis (0 to 2).
    GpuBlock(u8),
    /// Iterations are independent and mapped to the threads of a block along this axis (0 to 2). Along axis 1 stand the
    /// block's warps.
    GpuThread(u8),
}

/// Whether a multiply-add may or must round once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FmaMode {
    /// The backend chooses: one rounding if the target has the instruction, else two.
    Fused,
    /// Product and sum are rounded separately.
    Separate,
}

/// How many bytes a cache hint concerns and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Locality {
    /// Into the nearest cache.
    L1,
    /// Into the second-level cache.
    L2,
}

/// An operation. Operands of one operation have the same number of lanes unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum InstData {
    /// A constant, splat to the result's lanes.
    Const(Scalar),
    /// The kernel's `i64` parameter of this number.
    Param(u32),
    /// `[0, 1, 2, ...]` as `i64` or `i32` lanes.
    Iota,
    /// `op(a)`, lane by lane.
    Unary(UnaryOp, Val),
    /// `op(a, b)`, lane by lane.
    Binary(BinaryOp, Val, Val),
    /// `a op b` to a mask.
    Compare(CmpOp, Val, Val),
    /// Lane by lane `mask ? a : b`.
    Select(Val, Val, Val),
    /// `a * b + acc`.
    MulAdd {
        /// Factor.
        a: Val,
        /// Factor.
        b: Val,
        /// Accumulator.
        acc: Val,
        /// Rounding.
        mode: FmaMode,
    },
    /// `acc + a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3` in `i32` lanes, which wrap. A lane of `a` and one of `b` hold four
    /// numbers of 8 bits each, the first in the low byte; no product or sum of them is rounded or saturated.
    Dot4 {
        /// Four factors in each lane, `i32`.
        a: Val,
        /// Four factors in each lane, `i32`.
        b: Val,
        /// Accumulator, `i32`.
        acc: Val,
        /// The types of the numbers in `a` and in `b`: `i8` or `u8`.
        types: [DType; 2],
    },
    /// Conversion by value to the result's type, as [`crate::scalar::ScalarInst::Cast`].
    Cast(Val),
    /// Same bits as another type of the same lane width.
    Bitcast(Val),
    /// A scalar in all lanes.
    Splat(Val),
    /// All lanes combined to a scalar, in a fixed tree: lanes `i` and `i + n/2` pair up, and so on.
    ReduceLanes(BinaryOp, Val),
    /// One lane as a scalar.
    Extract(Val, u16),
    /// Lanes picked from the concatenation of two vectors of equal type.
    Shuffle(Val, Val, Box<[u16]>),
    /// Consecutive elements. With `count` (an `i64` scalar), lanes from `count` on are 0 and their memory is not touched.
    /// `i32` lanes of a buffer of 8-bit integers are words: each holds four consecutive elements, the first in its low
    /// byte, and there is no count.
    Load {
        /// From where.
        buffer: Buffer,
        /// Of lane 0.
        address: Address,
        /// The tail predicate.
        count: Option<Val>,
    },
    /// One element in all lanes, or one word as in `Load`.
    LoadSplat {
        /// From where.
        buffer: Buffer,
        /// Which element.
        address: Address,
    },
    /// Elements `address + indices[lane]`; `indices` are `i64` lanes. Lanes from `count` on are 0 and untouched.
    Gather {
        /// From where.
        buffer: Buffer,
        /// Base.
        address: Address,
        /// Per lane.
        indices: Val,
        /// The tail predicate.
        count: Option<Val>,
    },
    /// Writes consecutive elements; lanes from `count` on are not written.
    Store {
        /// To where.
        buffer: Buffer,
        /// Of lane 0.
        address: Address,
        /// What.
        value: Val,
        /// The tail predicate.
        count: Option<Val>,
    },
    /// Writes elements `address + indices[lane]`, in the order of the lanes; lanes from `count` on are not written.
    Scatter {
        /// To where.
        buffer: Buffer,
        /// Base.
        address: Address,
        /// Per lane, `i64`.
        indices: Val,
        /// What.
        value: Val,
        /// The tail predicate.
        count: Option<Val>,
    },
    /// A hint that the cache line at the address is read soon. May point outside of the buffer.
    Prefetch {
        /// From where.
        buffer: Buffer,
        /// Which element.
        address: Address,
        /// Into which cache.
        locality: Locality,
    },
    /// Runs `body` for `i = lo, lo + step, ... < hi`. The body takes `(i, carried...)` and yields `carried...`; the results
    /// are the last ones, or `init` if there is no iteration. `step` is a positive constant.
    For {
        /// What the loop is for.
        kind: LoopKind,
        /// First, `i64`.
        lo: Val,
        /// Bound, `i64`.
        hi: Val,
        /// Increment.
        step: i64,
        /// Start of what is carried.
        init: SmallVec<[Val; 8]>,
        /// The body.
        body: Block,
    },
    /// Runs `body` while it says so. The body takes `carried...` and yields `(again, carried...)`; it runs at least once.
    While {
        /// Start of what is carried.
        init: SmallVec<[Val; 4]>,
        /// The body.
        body: Block,
    },
    /// One of two blocks, which yield the results.
    If {
        /// A `Bool` scalar.
        cond: Val,
        /// Run if it holds.
        then: Block,
        /// Run otherwise.
        otherwise: Block,
    },
    /// A tile of a matrix product, band by band; see [`tile`].
    Tile(Box<Tile>),
    /// Attention for a tile of queries; see [`attend`].
    Attend(Box<Attend>),
    /// Ends a block with its results.
    Yield(SmallVec<[Val; 8]>),
}

/// An instruction's record.
#[derive(Clone, Debug, PartialEq)]
pub struct InstRecord {
    /// What it does.
    pub data: InstData,
    /// Its results.
    pub results: SmallVec<[Val; 2]>,
}

/// A block's record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockData {
    /// The parameters.
    pub params: SmallVec<[Val; 8]>,
    /// The instructions, the last a `Yield`.
    pub insts: Vec<Inst>,
}

/// One kernel.
///
/// The body takes `(begin, end, worker)` as `i64` and runs the tasks `begin..end`: it holds the task loop, made by
/// [`build::KernelBuilder::task_loop`]. It yields nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Name, unique in its program: schedule and ONNX node, for symbols and profiles.
    pub name: String,
    /// Buffers in the order of the ABI, then scratch.
    pub buffers: PrimaryMap<Buffer, BufferData>,
    /// Names of the `i64` parameters.
    pub params: Vec<String>,
    /// Types of the values.
    pub vals: PrimaryMap<Val, LaneType>,
    /// Instructions.
    pub insts: PrimaryMap<Inst, InstRecord>,
    /// Blocks.
    pub blocks: PrimaryMap<Block, BlockData>,
    /// The body.
    pub body: Block,
}

impl Kernel {
    /// Buffers that the caller passes, in order; scratch buffers follow them.
    pub fn arguments(&self) -> impl Iterator<Item = (Buffer, &BufferData)> {
        self.buffers.iter().filter(|(_, b)| b.access != Access::Scratch)
    }

    /// Offset of each scratch buffer in the worker's scratch memory, each 64-byte aligned, and the total in bytes.
    pub fn scratch_layout(&self) -> (Vec<(Buffer, u64)>, u64) {
        let mut offsets = Vec::new();
        let mut end = 0u64;
        for (buffer, data) in self.buffers.iter().filter(|(_, b)| b.access == Access::Scratch) {
            offsets.push((buffer, end));
            let len = data.len.expect("scratch has a constant extent");
            let bytes = data.dtype.packed_bytes(len).expect("scratch is small");
            end += bytes.next_multiple_of(64);
        }
        (offsets, end)
    }

    /// The type of a value.
    pub fn ty(&self, val: Val) -> LaneType {
        self.vals[val]
    }
}

impl Address {
    /// A constant address.
    pub fn at(offset: i64) -> Address {
        Address { offset, terms: SmallVec::new() }
    }

    /// Adds `value * stride`. Zero strides vanish; a second term of the same value with constant strides merges.
    pub fn plus(mut self, value: Val, stride: Stride) -> Address {
        if stride == Stride::Const(0) {
            return self;
        }
        for (v, s) in &mut self.terms {
            if let (true, Stride::Const(a), Stride::Const(b)) = (*v == value, *s, stride) {
                *s = Stride::Const(a + b);
                self.terms.retain(|(_, s)| *s != Stride::Const(0));
                return self;
            }
        }
        self.terms.push((value, stride));
        self
    }

    /// Replaces each value of its terms.
    pub(crate) fn map_operands(&mut self, f: &mut dyn FnMut(Val) -> Val) {
        for (v, s) in &mut self.terms {
            *v = f(*v);
            if let Stride::Value(s) = s {
                *s = f(*s);
            }
        }
    }

    /// Adds a constant.
    pub fn offset_by(mut self, elements: i64) -> Address {
        self.offset += elements;
        self
    }
}

impl InstData {
    /// The blocks that the instruction owns.
    pub fn blocks(&self) -> SmallVec<[Block; 2]> {
        match self {
            InstData::For { body, .. } | InstData::While { body, .. } => SmallVec::from_slice(&[*body]),
            InstData::If { then, otherwise, .. } => SmallVec::from_slice(&[*then, *otherwise]),
            InstData::Tile(tile) => SmallVec::from_slice(&[tile.body]),
            InstData::Attend(attend) => SmallVec::from_slice(&[attend.score, attend.body]),
            _ => SmallVec::new(),
        }
    }

    /// Whether it writes memory, hints, or owns blocks that may.
    pub fn has_effect(&self) -> bool {
        matches!(
            self,
            InstData::Store { .. }
                | InstData::Scatter { .. }
                | InstData::Prefetch { .. }
                | InstData::For { .. }
                | InstData::While { .. }
                | InstData::If { .. }
                | InstData::Tile(_)
                | InstData::Attend(_)
                | InstData::Yield(_)
        )
    }

    /// Calls `f` on each value operand, address terms included.
    pub fn for_each_operand(&self, mut f: impl FnMut(Val)) {
        let mut copy = self.clone();
        copy.map_operands(|v| {
            f(v);
            v
        });
    }

    /// Replaces each value operand, address terms included.
    pub fn map_operands(&mut self, mut f: impl FnMut(Val) -> Val) {
        let address = |a: &mut Address, f: &mut dyn FnMut(Val) -> Val| a.map_operands(f);
        match self {
            InstData::Const(_) | InstData::Param(_) | InstData::Iota => {}
            InstData::Unary(_, a)
            | InstData::Cast(a)
            | InstData::Bitcast(a)
            | InstData::Splat(a)
            | InstData::ReduceLanes(_, a)
            | InstData::Extract(a, _) => *a = f(*a),
            InstData::Binary(_, a, b) | InstData::Compare(_, a, b) | InstData::Shuffle(a, b, _) => {
                *a = f(*a);
                *b = f(*b);
            }
            InstData::Select(c, a, b) => {
                *c = f(*c);
                *a = f(*a);
                *b = f(*b);
            }
            InstData::MulAdd { a, b, acc, .. } => {
                *a = f(*a);
                *b = f(*b);
                *acc = f(*acc);
            }
            InstData::Dot4 { a, b, acc, .. } => {
                *a = f(*a);
                *b = f(*b);
                *acc = f(*acc);
            }
            InstData::Load { address: at, count, .. } => {
                address(at, &mut f);
                count.iter_mut().for_each(|c| *c = f(*c));
            }
            InstData::LoadSplat { address: at, .. } | InstData::Prefetch { address: at, .. } => address(at, &mut f),
            InstData::Gather { address: at, indices, count, .. } => {
                address(at, &mut f);
                *indices = f(*indices);
                count.iter_mut().for_each(|c| *c = f(*c));
            }
            InstData::Store { address: at, value, count, .. } => {
                address(at, &mut f);
                *value = f(*value);
                count.iter_mut().for_each(|c| *c = f(*c));
            }
            InstData::Scatter { address: at, indices, value, count, .. } => {
                address(at, &mut f);
                *indices = f(*indices);
                *value = f(*value);
                count.iter_mut().for_each(|c| *c = f(*c));
            }
            InstData::For { lo, hi, init, .. } => {
                *lo = f(*lo);
                *hi = f(*hi);
                init.iter_mut().for_each(|v| *v = f(*v));
            }
            InstData::While { init, .. } => init.iter_mut().for_each(|v| *v = f(*v)),
            InstData::If { cond, .. } => *cond = f(*cond),
            InstData::Tile(tile) => tile.map_operands(&mut f),
            InstData::Attend(attend) => attend.map_operands(&mut f),
            InstData::Yield(vals) => vals.iter_mut().for_each(|v| *v = f(*v)),
        }
    }
}
