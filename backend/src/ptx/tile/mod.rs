//! Tiles of matrix products on matrix instructions: all warps of a block together.
//!
//! The depth goes by in steps of 64 bytes of each row. A ring of stages in shared memory holds the steps: `cp.async` fills
//! the ones ahead where rows of elements lie in memory as they are needed, else registers carry elements there, converted
//! on the way, loaded before a step is computed and stored behind it. `ldmatrix` reads fragments of [`Shape`]'s warps.
//!
//! A stage has the left operand's rows and then the right one's, in chunks of 16 bytes. In `Layout::Rows` a row of a
//! stage is an operand's row with its depths, 64 bytes; in `Layout::Depths` it is one depth of all rows, for operands whose
//! rows are neighbours in memory. Chunks are exchanged within a row of a stage (`swizzled`), so that the eight rows that
//! are read at once lie in different banks.
//!
//! Sums go through the same memory to the tile's body, in bands; a fragment's pairs of columns are stored as they are.

mod fill;
mod mma;

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::tile::MOST_DEPTH;
use onnxc_ir::loops::{Digits, Stride, Tile, TileKind, TileOperand};

use super::kernel::{Emit, Team, ins};
use super::text::{Class, Reg};

/// Bytes of a row that one step of the depth takes.
const STEP: u32 = 64;

/// Bytes of a chunk: what `ldmatrix` takes of a row, and the most that a thread copies at once.
pub(super) const CHUNK: u32 = 16;

/// Bytes of a row that one matrix instruction takes.
pub(super) const DEEP: u32 = 32;

/// Shared memory that a kernel may declare.
const SHARED: u32 = 48 << 10;

/// How a tile is spread over the warps of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Rows and columns of one warp.
    part: [u32; 2],
    /// Warps along the columns.
    across: u32,
    /// Threads of the block.
    threads: u32,
    /// Bytes of a stage.
    stage: u32,
    /// Stages of the ring.
    stages: u32,
}

impl Shape {
    /// Of a tile whose sizes are powers of two, at least 16.
    pub(super) fn of(tile: &Tile) -> Shape {
        let (rows, columns) = (u32::from(tile.rows), u32::from(tile.cols));
        let part = match rows {
            128.. => [u32::from(tile.band).min(64), 32],
            64.. => [32, 32],
            _ => [16, 16],
        };
        let (down, across) = (rows / part[0], columns / part[1]);
        assert!(down * part[0] == rows && across * part[1] == columns, "warps cover the tile");
        assert!(u32::from(tile.band).is_multiple_of(part[0]), "a band has whole parts");
        let stage = (rows + columns) * STEP;
        let (threads, stages) = (down * across * 32, (SHARED / stage).min(4));
        Shape { part, across, threads, stage, stages }
    }

    /// The block's threads, and the ring in its memory.
    pub(super) fn team(&self) -> Team {
        Team { threads: self.threads, bytes: u64::from(self.stage * self.stages) }
    }
}

/// Who fills the stages of a ring, and how they are laid out.
pub(super) struct Filling {
    /// Bytes of an operand's row in a stage.
    pub(super) step: u32,
    /// Threads that copy.
    pub(super) threads: u32,
    /// The thread's number among them.
    pub(super) tid: Reg,
    /// `wgmma` reads the stages: rows of 128 bytes, chunks exchanged by the low bits of a row's number, and elements
    /// rounded as they come.
    pub(super) wide: bool,
}

/// What a row of a stage is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A row of the operand.
    Rows,
    /// A depth of the operand.
    Depths,
}

/// How chunks come to shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By `cp.async` of so many bytes each.
    Async(u32),
    /// Through registers, so many neighbours at once.
    Registers(u32),
}

/// One operand.
pub(super) struct Side<'t> {
    operand: &'t TileOperand,
    kind: TileKind,
    memory: DType,
    pub(super) layout: Layout,
    pub(super) way: Way,
    /// The elements of a chunk are neighbours in memory.
    contiguous: bool,
    /// Where its part of a stage begins.
    at: u32,
    /// Bytes of an operand's row in a stage.
    step: u32,
    wide: bool,
    /// Bytes of a row of a stage.
    pitch: u32,
    pub(super) chunks: Vec<Chunk>,
}

/// What a thread knows of one of its chunks for a whole task.
pub(super) struct Chunk {
    /// Whether the thread has such a chunk; none if all have.
    mine: Option<Reg>,
    /// Its place in the stage.
    place: Reg,
    /// The first element's depth within a step.
    pub(super) depth: Reg,
    /// Byte addresses of its rows at depth 0: of the first alone where elements are neighbours or of one row.
    rows: Vec<Reg>,
    /// How many of its rows there are; at most one in `Layout::Rows`.
    valid: Reg,
}

impl Side<'_> {
    /// Elements of a chunk.
    fn elements(&self) -> u32 {
        CHUNK / u32::from(self.kind.bytes())
    }

    fn bytes(&self) -> u32 {
        self.memory.bytes().expect("elements have whole bytes")
    }
}

/// The layout of an operand in a stage that `wgmma` reads, or `mma`; and whether neighbours in memory are rows.
pub(super) fn layout(kind: TileKind, operand: &TileOperand, wide: bool) -> (Layout, bool) {
    let one = |digits: &Digits| digits.last().is_some_and(|d| d.stride == Stride::Const(1));
    // `ldmatrix` turns elements of 16 bits, as `wgmma` does, and words are read one by one; others are turned on their way.
    let turned = !one(&operand.depth) && one(&operand.rows);
    let turns = kind != TileKind::I8 && !(wide && kind == TileKind::Tf32);
    (if turned && turns { Layout::Depths } else { Layout::Rows }, turned)
}

/// The exchange of chunks in row `row` of a stage, as the shift and mask of what is xored to the chunk's number.
fn swizzle(pitch: u32, layout: Layout, kind: TileKind) -> (u32, u32, u32) {
    let chunks = pitch / CHUNK;
    // Four depths of words are read at once, two chunks of each.
    if layout == Layout::Depths && kind == TileKind::Tf32 {
        return (0, 1, 7.min(chunks - 1));
    }
    let group = (128 / pitch).max(1);
    (group.trailing_zeros(), 0, 7.min(chunks - 1))
}

impl Emit<'_> {
    pub(super) fn b32(&mut self) -> Reg {
        self.reg(Class::B32)
    }

    /// `op d, a, n`.
    pub(super) fn by(&mut self, op: &str, a: Reg, n: u32) -> Reg {
        let d = self.reg(a.class);
        ins!(self, "{op} {d}, {a}, {n}");
        d
    }

    pub(super) fn plus(&mut self, a: Reg, b: Reg) -> Reg {
        let d = self.b32();
        ins!(self, "add.u32 {d}, {a}, {b}");
        d
    }

    /// `value * factor + other` of 32 bits.
    pub(super) fn scale_add(&mut self, value: Reg, factor: u32, other: Reg) -> Reg {
        let d = self.b32();
        ins!(self, "mad.lo.u32 {d}, {value}, {factor}, {other}");
        d
    }

    /// The offset of a chunk in an operand's part of a stage.
    fn swizzled(&mut self, side: &Side<'_>, row: Reg, chunk: Reg) -> Reg {
        if side.wide {
            return self.exchanged(side, row, chunk);
        }
        let (right, left, mask) = swizzle(side.pitch, side.layout, side.kind);
        let shifted = self.by("shr.u32", row, right);
        let shifted = self.by("shl.b32", shifted, left);
        let masked = self.by("and.b32", shifted, mask);
        let exchanged = self.b32();
        ins!(self, "xor.b32 {exchanged}, {masked}, {chunk}");
        let within = self.by("shl.b32", exchanged, CHUNK.trailing_zeros());
        self.scale_add(row, side.pitch, within)
    }

    /// The same where `wgmma` reads: patterns of eight rows of 128 bytes, which begin at multiples of 1024 bytes. Depths
    /// of more than 128 bytes go on in a piece of their own.
    fn exchanged(&mut self, side: &Side<'_>, row: Reg, chunk: Reg) -> Reg {
        let (line, low) = (self.by("mul.lo.u32", row, side.pitch), self.by("and.b32", row, 7));
        let exchanged = self.b32();
        ins!(self, "xor.b32 {exchanged}, {low}, {chunk}");
        let within = self.by("and.b32", exchanged, 7);
        let start = match side.layout {
            Layout::Rows => line,
            Layout::Depths => {
                let piece = self.by("shr.u32", chunk, 3);
                self.scale_add(piece, side.step / u32::from(side.kind.bytes()) * side.pitch, line)
            }
        };
        self.scale_add(within, CHUNK, start)
    }

    /// How many products an element sums, as 32 bits.
    pub(super) fn depth(&mut self, tile: &Tile) -> Reg {
        let depth = self.get1(tile.depth);
        let depth32 = self.b32();
        if self.facts[tile.depth].high > MOST_DEPTH {
            let deep = self.reg(Class::Pred);
            ins!(self, "setp.gt.s64 {deep}, {depth}, {MOST_DEPTH}");
            ins!(self, "@{deep} trap");
        }
        ins!(self, "cvt.u32.u64 {depth32}, {depth}");
        depth32
    }

    /// A tile: its sums, then its body for each band.
    pub(super) fn tile(&mut self, tile: &Tile) {
        if let Some(role) = self.role {
            return self.group_tile(tile, role);
        }
        let shape = Shape::of(tile);
        let shared = self.b32();
        let name = self.name;
        ins!(self, "mov.u32 {shared}, {name}_shared");
        let depth32 = self.depth(tile);
        let filling = Filling { step: STEP, threads: shape.threads, tid: self.tid, wide: false };
        let left = self.side(tile, &tile.lhs, (tile.rows, 0), &filling);
        let right = self.side(tile, &tile.rhs, (tile.cols, u32::from(tile.rows) * STEP), &filling);
        let sides = [left, right];
        // Rows of both operands side by side in memory take a register more than two blocks leave each.
        self.alone |= sides.iter().all(|side| side.layout == Layout::Depths);
        let step = STEP / u32::from(tile.kind.bytes());

        // The steps ahead.
        for stage in 0..shape.stages - 1 {
            let slot = self.by("add.u32", shared, stage * shape.stage);
            let at = self.b32();
            ins!(self, "mov.u32 {at}, {}", stage * step);
            for side in &sides {
                let loaded = self.fetch(side, slot, at, depth32);
                self.deliver(side, &side.chunks, slot, &loaded);
            }
            ins!(self, "cp.async.commit_group");
        }
        let [down, across] = [shape.part[0] / 16, shape.part[1] / 8];
        let sums: Vec<Reg> = (0..down * across * 4).map(|_| self.b32()).collect();
        for &sum in &sums {
            ins!(self, "mov.b32 {sum}, 0");
        }
        let readers = self.readers(&sides, &shape);
        let (read, write, at, ahead) = (self.b32(), self.b32(), self.b32(), self.b32());
        ins!(self, "mov.u32 {read}, {shared}");
        ins!(self, "add.u32 {write}, {shared}, {}", (shape.stages - 1) * shape.stage);
        ins!(self, "mov.u32 {at}, 0");
        ins!(self, "mov.u32 {ahead}, {}", (shape.stages - 1) * step);
        let end = self.by("add.u32", shared, shape.stages * shape.stage);
        let (top, out) = (self.text.label("step"), self.text.label("summed"));
        let (none, more) = (self.reg(Class::Pred), self.reg(Class::Pred));
        ins!(self, "setp.ge.s32 {none}, {at}, {depth32}");
        ins!(self, "@{none} bra {out}");
        self.text.place(&top);
        ins!(self, "cp.async.wait_group {}", shape.stages - 2);
        ins!(self, "bar.sync 0");
        let loaded: Vec<Vec<Vec<Reg>>> = sides.iter().map(|side| self.fetch(side, write, ahead, depth32)).collect();
        ins!(self, "cp.async.commit_group");
        for deep in 0..STEP / DEEP {
            let fragments = self.fragments(&sides, &readers, read, deep);
            self.multiply(tile, &fragments, &sums, across);
        }
        for (side, loaded) in sides.iter().zip(&loaded) {
            self.deliver(side, &side.chunks, write, loaded);
        }
        for slot in [read, write] {
            let wrapped = self.reg(Class::Pred);
            ins!(self, "add.u32 {slot}, {slot}, {}", shape.stage);
            ins!(self, "setp.eq.u32 {wrapped}, {slot}, {end}");
            ins!(self, "@{wrapped} mov.u32 {slot}, {shared}");
        }
        ins!(self, "add.u32 {at}, {at}, {step}");
        ins!(self, "add.u32 {ahead}, {ahead}, {step}");
        ins!(self, "setp.lt.s32 {more}, {at}, {depth32}");
        ins!(self, "@{more} bra {top}");
        self.text.place(&out);
        // Zeros behind the depth are still on their way.
        ins!(self, "cp.async.wait_all");
        ins!(self, "bar.sync 0");
        self.bands(tile, &shape, &sums, shared);
    }
}
