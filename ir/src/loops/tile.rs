//! Tiles of matrix products: what a GPU computes with matrix instructions, all warps of a block together.
//!
//! A [`Tile`] stands in the task loop, under no other loop and no branch that differs between tasks' threads. It computes
//! `sums[i][j] = sum over d of lhs[i][d] * rhs[j][d]` for `rows` by `cols` elements and hands them on band by band: for
//! `row = 0, band, 2 * band, ... < rows` the sums of rows `row..row + band` lie in the scratch buffer `sums`, element
//! `(i, j)` at `(i - row) * pitch + j`, and the body runs with `row` as its parameter. The kernel's only scratch is `sums`;
//! what it holds outside of the body is undefined.
//!
//! Loops of the body over [`super::LoopKind::GpuThread`]`(1)` spread over the warps of the block. Stores stand in such loops.
//!
//! Elements of an operand are rounded to the tile's [`TileKind`] first. Products are exact; sums are `f32` (`i32` for
//! integers, which wrap), rounded in an order that the target chooses. The interpreter adds in the order of the depth,
//! product by product. Rows behind an operand's bound count as zeros and are not touched.
//!
//! This is an operation of the Loop IR, and not one of its expansions, because only the backend knows how the elements
//! of a fragment lie in registers, and because copies to shared memory that run beside the arithmetic have no meaning
//! that an interpreter of single tasks could check.

use smallvec::SmallVec;

use super::{Address, Block, Buffer, Stride, Val};
use crate::dtype::DType;

/// The depth that a tile can count, with room for the steps that it is ahead.
pub const MOST_DEPTH: i64 = (1 << 31) - (1 << 12);

/// What the operands of a tile are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileKind {
    /// 16-bit floats: 11 bits of mantissa, exponents from -14 to 15.
    F16,
    /// 8 bits of mantissa and the exponents of `f32`.
    Bf16,
    /// 11 bits of mantissa and the exponents of `f32`; ties away from zero.
    Tf32,
    /// Integers of 8 bits, of either sign for each operand.
    I8,
}

/// One digit of a row's or a depth's number, as in a number of mixed radix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digit {
    /// How many values the digit has; 0 for the first digit, which has no bound.
    pub size: i64,
    /// Elements from one value to the next.
    pub stride: Stride,
}

/// The digits of a number, the most significant first. There is at least one.
pub type Digits = SmallVec<[Digit; 2]>;

/// An operand of a tile: a matrix whose element `(row, depth)` lies at `address` plus the digits of `first + row` and of
/// the depth times their strides.
#[derive(Clone, Debug, PartialEq)]
pub struct TileOperand {
    /// Where it is; a buffer that is only read.
    pub buffer: Buffer,
    /// Of row 0 and depth 0.
    pub address: Address,
    /// The tile's first row: an `i64`, a multiple of the tile's rows (or columns), not negative.
    pub first: Val,
    /// How many rows there are.
    pub bound: Val,
    /// The digits of a row's number.
    pub rows: Digits,
    /// The digits of a depth's number.
    pub depth: Digits,
}

/// A tile of a matrix product; see [the module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// What the operands are rounded to.
    pub kind: TileKind,
    /// Rows of the tile.
    pub rows: u16,
    /// Columns of the tile, which are rows of the right operand.
    pub cols: u16,
    /// Rows that are handed on at a time; divides `rows`.
    pub band: u16,
    /// How many products an element sums. A device ends a run in which they are more than [`MOST_DEPTH`].
    pub depth: Val,
    /// The left operand.
    pub lhs: TileOperand,
    /// The right operand; its rows are the tile's columns.
    pub rhs: TileOperand,
    /// Scratch for a band.
    pub sums: Buffer,
    /// Elements from one row of the sums to the next.
    pub pitch: u16,
    /// What becomes of a band.
    pub body: Block,
}

impl TileKind {
    /// All of them.
    pub const ALL: [TileKind; 4] = [TileKind::F16, TileKind::Bf16, TileKind::Tf32, TileKind::I8];

    /// Its name in texts.
    pub fn name(self) -> &'static str {
        match self {
            TileKind::F16 => "f16",
            TileKind::Bf16 => "bf16",
            TileKind::Tf32 => "tf32",
            TileKind::I8 => "i8",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<TileKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The type of the sums.
    pub fn sums(self) -> DType {
        if self == TileKind::I8 { DType::I32 } else { DType::F32 }
    }

    /// Bytes of a rounded element.
    pub fn bytes(self) -> u16 {
        match self {
            TileKind::F16 | TileKind::Bf16 => 2,
            TileKind::Tf32 => 4,
            TileKind::I8 => 1,
        }
    }

    /// Whether operands may have this type in memory. Floats of 16 bits are `u16` in legalised kernels.
    pub fn accepts(self, memory: DType) -> bool {
        match self {
            TileKind::F16 => matches!(memory, DType::F16 | DType::U16 | DType::F32),
            TileKind::Bf16 => matches!(memory, DType::BF16 | DType::U16 | DType::F32),
            TileKind::Tf32 => memory == DType::F32,
            TileKind::I8 => matches!(memory, DType::I8 | DType::U8),
        }
    }
}

impl Tile {
    /// Both operands, the left one first.
    pub fn operands(&self) -> [&TileOperand; 2] {
        [&self.lhs, &self.rhs]
    }

    /// Replaces each value operand, in the order of the text.
    pub(super) fn map_operands(&mut self, f: &mut dyn FnMut(Val) -> Val) {
        self.depth = f(self.depth);
        self.lhs.map_operands(f);
        self.rhs.map_operands(f);
    }
}

impl TileOperand {
    /// Replaces each value operand, in the order of the text.
    pub(super) fn map_operands(&mut self, f: &mut dyn FnMut(Val) -> Val) {
        self.address.map_operands(f);
        self.first = f(self.first);
        self.bound = f(self.bound);
        for digit in self.rows.iter_mut().chain(&mut self.depth) {
            if let Stride::Value(stride) = &mut digit.stride {
                *stride = f(*stride);
            }
        }
    }
}
