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

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::tile::MOST_DEPTH;
use onnxc_ir::loops::{Digits, Stride, Tile, TileKind, TileOperand};

use super::facts::{Fact, gcd};
use super::kernel::{Emit, Team, ins};
use super::text::{Class, Reg};

/// Bytes of a row that one step of the depth takes.
const STEP: u32 = 64;

/// Bytes of a chunk: what `ldmatrix` takes of a row, and the most that a thread copies at once.
const CHUNK: u32 = 16;

/// Bytes of a row that one matrix instruction takes.
const DEEP: u32 = 32;

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
            128.. => [64, 32],
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

/// What a row of a stage is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// A row of the operand.
    Rows,
    /// A depth of the operand.
    Depths,
}

/// How chunks come to shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By `cp.async` of so many bytes each.
    Async(u32),
    /// Through registers, so many neighbours at once.
    Registers(u32),
}

/// One operand.
struct Side<'t> {
    operand: &'t TileOperand,
    kind: TileKind,
    memory: DType,
    layout: Layout,
    way: Way,
    /// The elements of a chunk are neighbours in memory.
    contiguous: bool,
    /// Where its part of a stage begins.
    at: u32,
    /// Bytes of a row of a stage.
    pitch: u32,
    chunks: Vec<Chunk>,
}

/// What a thread knows of one of its chunks for a whole task.
struct Chunk {
    /// Whether the thread has such a chunk; none if all have.
    mine: Option<Reg>,
    /// Its place in the stage.
    place: Reg,
    /// The first element's depth within a step.
    depth: Reg,
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
        let (right, left, mask) = swizzle(side.pitch, side.layout, side.kind);
        let shifted = self.by("shr.u32", row, right);
        let shifted = self.by("shl.b32", shifted, left);
        let masked = self.by("and.b32", shifted, mask);
        let exchanged = self.b32();
        ins!(self, "xor.b32 {exchanged}, {masked}, {chunk}");
        let within = self.by("shl.b32", exchanged, CHUNK.trailing_zeros());
        self.scale_add(row, side.pitch, within)
    }

    /// A tile: its sums, then its body for each band.
    pub(super) fn tile(&mut self, tile: &Tile) {
        let shape = Shape::of(tile);
        let shared = self.b32();
        let name = self.name;
        ins!(self, "mov.u32 {shared}, {name}_shared");
        let depth = self.get1(tile.depth);
        let depth32 = self.b32();
        if self.facts[tile.depth].high > MOST_DEPTH {
            let deep = self.reg(Class::Pred);
            ins!(self, "setp.gt.s64 {deep}, {depth}, {MOST_DEPTH}");
            ins!(self, "@{deep} trap");
        }
        ins!(self, "cvt.u32.u64 {depth32}, {depth}");
        let left = self.side(tile, &tile.lhs, tile.rows, 0, &shape);
        let right = self.side(tile, &tile.rhs, tile.cols, u32::from(tile.rows) * STEP, &shape);
        let sides = [left, right];
        let step = STEP / u32::from(tile.kind.bytes());

        // The steps ahead.
        for stage in 0..shape.stages - 1 {
            let slot = self.by("add.u32", shared, stage * shape.stage);
            let at = self.b32();
            ins!(self, "mov.u32 {at}, {}", stage * step);
            for side in &sides {
                let loaded = self.fetch(side, slot, at, depth32);
                self.deliver(side, slot, &loaded);
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
            self.deliver(side, write, loaded);
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

    /// Everything about an operand that does not change with the depth.
    fn side<'t>(&mut self, tile: &Tile, operand: &'t TileOperand, rows: u16, at: u32, shape: &Shape) -> Side<'t> {
        let memory = self.kernel.buffers[operand.buffer].dtype;
        let (kind, rows) = (tile.kind, u32::from(rows));
        let one = |digits: &Digits| digits.last().is_some_and(|d| d.stride == Stride::Const(1));
        let (along_depth, along_rows) = (one(&operand.depth), one(&operand.rows));
        // `ldmatrix` turns elements of 16 bits, and words are read one by one; bytes are turned on their way.
        let turned = !along_depth && along_rows;
        let layout = if turned && kind != TileKind::I8 { Layout::Depths } else { Layout::Rows };
        let digits = if layout == Layout::Rows { &operand.depth } else { &operand.rows };
        let mut side = Side {
            operand,
            kind,
            memory,
            layout,
            way: Way::Registers(1),
            contiguous: false,
            at,
            pitch: STEP,
            chunks: vec![],
        };
        if layout == Layout::Depths {
            side.pitch = rows * u32::from(kind.bytes());
        }
        let size = u64::from(side.bytes());
        let elements = side.elements();
        let inner = digits.last().expect("there is a digit");
        side.contiguous = inner.stride == Stride::Const(1) && (inner.size % i64::from(elements) == 0);
        let place = self.location(operand.buffer, &operand.address, 0);
        if side.contiguous {
            // All other strides move a chunk; it begins at a multiple of its elements along its own.
            let others = operand.rows.iter().chain(&operand.depth).filter(|&digit| !std::ptr::eq(digit, inner));
            let alignment = others.fold(place.alignment, |all, digit| {
                let stride = match digit.stride {
                    Stride::Const(c) => c.unsigned_abs(),
                    Stride::Value(v) => self.facts[v].divisor,
                };
                gcd(all, stride.saturating_mul(size))
            });
            let as_it_is = size == u64::from(kind.bytes());
            side.way = match alignment {
                4.. if as_it_is => Way::Async(alignment.min(16) as u32),
                _ => Way::Registers((alignment / size).clamp(1, 4) as u32),
            };
        }
        // Words to round, and what is on its way through registers, take many of them.
        self.alone |= kind == TileKind::Tf32 || matches!(side.way, Way::Registers(_));
        let mut base = place.base;
        if place.offset != 0 {
            let moved = self.reg(Class::B64);
            ins!(self, "add.s64 {moved}, {base}, {}", place.offset);
            base = moved;
        }
        let [first, bound] = [operand.first, operand.bound].map(|v| self.get1(v));
        let narrow = self.facts[operand.bound].high <= i32::MAX.into();
        let total = rows * STEP / CHUNK;
        for n in 0..total.div_ceil(shape.threads) {
            let tid = self.tid;
            let number = self.by("add.u32", tid, n * shape.threads);
            let mine = (total < shape.threads).then(|| {
                let p = self.reg(Class::Pred);
                ins!(self, "setp.lt.u32 {p}, {number}, {total}");
                p
            });
            let per_row = side.pitch / CHUNK;
            // Threads side by side read neighbours.
            let (row, chunk) = if turned && layout == Layout::Rows {
                (self.by("and.b32", number, rows - 1), self.by("shr.u32", number, rows.trailing_zeros()))
            } else {
                (self.by("shr.u32", number, per_row.trailing_zeros()), self.by("and.b32", number, per_row - 1))
            };
            let within = self.swizzled(&side, row, chunk);
            let place = self.by("add.u32", within, at);
            let start = self.by("mul.lo.u32", chunk, elements);
            let (row, depth, most) = match layout {
                Layout::Rows => (row, start, 1),
                Layout::Depths => (start, row, elements),
            };
            let (left, valid) = (self.reg(Class::B64), self.b32());
            let mut own = self.reg(Class::B64);
            ins!(self, "cvt.u64.u32 {own}, {row}");
            ins!(self, "add.s64 {own}, {own}, {first}");
            ins!(self, "sub.s64 {left}, {bound}, {own}");
            ins!(self, "max.s64 {left}, {left}, 0");
            ins!(self, "min.s64 {left}, {left}, {most}");
            ins!(self, "cvt.u32.u64 {valid}, {left}");
            if narrow {
                let low = self.b32();
                ins!(self, "cvt.u32.u64 {low}, {own}");
                own = low;
            }
            if let Some(mine) = mine {
                ins!(self, "selp.b32 {valid}, {valid}, 0, {mine}");
            }
            let apart = if layout == Layout::Rows || side.contiguous { 1 } else { elements };
            let add = if narrow { "add.u32" } else { "add.s64" };
            let rows = (0..apart)
                .map(|j| {
                    let row = if j == 0 { own } else { self.by(add, own, j) };
                    let offset = self.offset(&operand.rows, row, side.bytes());
                    let address = self.reg(Class::B64);
                    ins!(self, "add.s64 {address}, {base}, {offset}");
                    address
                })
                .collect();
            side.chunks.push(Chunk { mine, place, depth, rows, valid });
        }
        side
    }

    /// What a number of either width adds to an address, in bytes.
    pub(super) fn offset(&mut self, digits: &Digits, number: Reg, size: u32) -> Reg {
        let mut rest = number;
        let mut sum: Option<Reg> = None;
        let bits = if number.class == Class::B32 { 32 } else { 64 };
        for (i, digit) in digits.iter().enumerate().rev() {
            let value = if i == 0 {
                rest
            } else {
                let divisor = u32::try_from(digit.size).expect("inner digits are small");
                let value = self.by(&format!("rem.u{bits}"), rest, divisor);
                rest = self.by(&format!("div.u{bits}"), rest, divisor);
                value
            };
            let term = self.reg(Class::B64);
            let factor = match digit.stride {
                Stride::Const(c) => Ok(c * i64::from(size)),
                Stride::Value(v) => Err(self.get1(v)),
            };
            match (factor, bits) {
                (Ok(factor), 32) if i32::try_from(factor).is_ok() => {
                    ins!(self, "mul.wide.s32 {term}, {value}, {factor}");
                }
                (factor, bits) => {
                    match bits {
                        32 => ins!(self, "cvt.u64.u32 {term}, {value}"),
                        _ => self.mov(term, value),
                    }
                    match factor {
                        Ok(factor) => ins!(self, "mul.lo.s64 {term}, {term}, {factor}"),
                        Err(stride) => {
                            ins!(self, "mul.lo.s64 {term}, {term}, {stride}");
                            ins!(self, "mul.lo.s64 {term}, {term}, {size}");
                        }
                    }
                }
            }
            sum = Some(match sum {
                None => term,
                Some(before) => {
                    let d = self.reg(Class::B64);
                    ins!(self, "add.s64 {d}, {before}, {term}");
                    d
                }
            });
        }
        sum.expect("there is a digit")
    }

    /// Starts to bring the chunks of the step at depth `at` to the stage at `slot`. Gives what waits in registers.
    fn fetch(&mut self, side: &Side<'_>, slot: Reg, at: Reg, depth: Reg) -> Vec<Vec<Reg>> {
        let mut waiting = Vec::new();
        for chunk in &side.chunks {
            let from = self.plus(at, chunk.depth);
            let left = self.b32();
            ins!(self, "sub.s32 {left}, {depth}, {from}");
            match side.way {
                Way::Async(bytes) => self.copy(side, chunk, (slot, from, left), bytes),
                Way::Registers(together) => waiting.push(self.collect(side, chunk, (from, left), together)),
            }
        }
        waiting
    }

    /// How many elements of a chunk there are: along the depth, of which `left` are left, or along the rows.
    fn present(&mut self, side: &Side<'_>, chunk: &Chunk, left: Reg) -> Reg {
        let (p, count) = (self.reg(Class::Pred), self.b32());
        match side.layout {
            Layout::Rows => {
                ins!(self, "setp.ne.u32 {p}, {}, 0", chunk.valid);
                ins!(self, "max.s32 {count}, {left}, 0");
                ins!(self, "min.s32 {count}, {count}, {}", side.elements());
                ins!(self, "selp.b32 {count}, {count}, 0, {p}");
            }
            Layout::Depths => {
                ins!(self, "setp.gt.s32 {p}, {left}, 0");
                ins!(self, "selp.b32 {count}, {}, 0, {p}", chunk.valid);
            }
        }
        count
    }

    fn copy(&mut self, side: &Side<'_>, chunk: &Chunk, (slot, from, left): (Reg, Reg, Reg), bytes: u32) {
        let count = self.present(side, chunk, left);
        let offset = self.offset(&side.operand.depth, from, side.bytes());
        let (source, target) = (self.reg(Class::B64), self.plus(slot, chunk.place));
        ins!(self, "add.s64 {source}, {}, {offset}", chunk.rows[0]);
        let guard = chunk.mine.map(|p| format!("@{p} ")).unwrap_or_default();
        let size = side.bytes();
        let all = self.by("mul.lo.u32", count, size);
        let cache = if bytes == CHUNK { "cg" } else { "ca" };
        for piece in (0..CHUNK).step_by(bytes as usize) {
            let valid = if bytes == CHUNK {
                all
            } else {
                let valid = self.b32();
                ins!(self, "sub.s32 {valid}, {all}, {piece}");
                ins!(self, "max.s32 {valid}, {valid}, 0");
                ins!(self, "min.s32 {valid}, {valid}, {bytes}");
                valid
            };
            ins!(
                self,
                "{guard}cp.async.{cache}.shared.global [{target}+{piece}], [{source}+{piece}], {bytes}, {valid}"
            );
        }
    }

    /// Loads the elements of a chunk one by one, or `together` at once; zeros where there are none.
    fn collect(&mut self, side: &Side<'_>, chunk: &Chunk, (from, left): (Reg, Reg), together: u32) -> Vec<Reg> {
        let count = self.present(side, chunk, left);
        let regs: Vec<Reg> = (0..side.elements()).map(|_| self.b32()).collect();
        let kind = match side.memory {
            DType::I8 => "s8",
            DType::U8 => "u8",
            _ if side.bytes() == 2 => "u16",
            _ => "b32",
        };
        let size = side.bytes();
        for &r in &regs {
            ins!(self, "mov.b32 {r}, 0");
        }
        let mut address = self.reg(Class::B64);
        for (n, group) in regs.chunks(together as usize).enumerate() {
            let first = n as u32 * together;
            let mut shift = first * size;
            if !side.contiguous {
                // Elements that are not neighbours have addresses of their own.
                shift = 0;
                address = self.reg(Class::B64);
                let (row, depth) = match side.layout {
                    Layout::Rows => (chunk.rows[0], if n == 0 { from } else { self.by("add.u32", from, first) }),
                    Layout::Depths => (chunk.rows[n], from),
                };
                let offset = self.offset(&side.operand.depth, depth, size);
                ins!(self, "add.s64 {address}, {row}, {offset}");
            } else if n == 0 {
                let offset = self.offset(&side.operand.depth, from, size);
                ins!(self, "add.s64 {address}, {}, {offset}", chunk.rows[0]);
            }
            let whole = self.reg(Class::Pred);
            ins!(self, "setp.gt.s32 {whole}, {count}, {}", first + together - 1);
            if together == 1 {
                ins!(self, "@{whole} ld.global.nc.{kind} {}, [{address}+{shift}]", group[0]);
                continue;
            }
            let list: Vec<String> = group.iter().map(Reg::to_string).collect();
            ins!(self, "@{whole} ld.global.nc.v{together}.{kind} {{{}}}, [{address}+{shift}]", list.join(", "));
            for (i, r) in group.iter().enumerate().take(group.len() - 1) {
                let (some, part) = (self.reg(Class::Pred), self.reg(Class::Pred));
                ins!(self, "setp.gt.s32 {some}, {count}, {}", first + i as u32);
                ins!(self, "not.pred {part}, {whole}");
                ins!(self, "and.pred {part}, {part}, {some}");
                ins!(self, "@{part} ld.global.nc.{kind} {r}, [{address}+{}]", shift + i as u32 * size);
            }
        }
        regs
    }

    /// Stores what waits in registers to the stage at `slot`, rounded and packed.
    fn deliver(&mut self, side: &Side<'_>, slot: Reg, waiting: &[Vec<Reg>]) {
        for (chunk, elements) in side.chunks.iter().zip(waiting) {
            let per_word = 4 / usize::from(side.kind.bytes());
            let words: Vec<String> =
                elements.chunks(per_word).map(|list| self.packed(side, list).to_string()).collect();
            let target = self.plus(slot, chunk.place);
            let guard = chunk.mine.map(|p| format!("@{p} ")).unwrap_or_default();
            ins!(self, "{guard}st.shared.v4.b32 [{target}], {{{}}}", words.join(", "));
        }
    }

    /// A word of rounded elements.
    fn packed(&mut self, side: &Side<'_>, list: &[Reg]) -> Reg {
        if let ([low, high], DType::F32) = (list, side.memory) {
            let d = self.b32();
            let kind = side.kind.name();
            ins!(self, "cvt.rn.{kind}x2.f32 {d}, {high}, {low}");
            return d;
        }
        let bits = 8 * u32::from(side.kind.bytes());
        let mut word = list[0];
        for (i, &element) in list.iter().enumerate().skip(1) {
            let d = self.b32();
            ins!(self, "bfi.b32 {d}, {element}, {word}, {}, {bits}", i as u32 * bits);
            word = d;
        }
        word
    }

    /// For each operand, the offsets in a stage at which a thread reads its fragments of the first matrix instruction's
    /// depth, one for each 16 rows; the second's are [`Self::fragments`]' matter.
    fn readers(&mut self, sides: &[Side<'_>; 2], shape: &Shape) -> [Vec<Vec<Reg>>; 2] {
        let (tid, lane) = (self.tid, self.thread);
        let warp = self.by("shr.u32", tid, 5);
        let place =
            [self.by("shr.u32", warp, shape.across.trailing_zeros()), self.by("and.b32", warp, shape.across - 1)];
        let [left, right] = sides;
        [
            self.reader(left, (place[0], shape.part[0]), lane, true),
            self.reader(right, (place[1], shape.part[1]), lane, false),
        ]
    }

    /// The offsets for one operand: for each half of a step, for each 16 rows.
    fn reader(&mut self, side: &Side<'_>, (warp, part): (Reg, u32), lane: Reg, left: bool) -> Vec<Vec<Reg>> {
        let first = self.by("mul.lo.u32", warp, part);
        let (eight, sixteen) = (self.by("shr.u32", lane, 3), self.by("shr.u32", lane, 4));
        let (low, bit) = (self.by("and.b32", lane, 7), self.by("and.b32", eight, 1));
        // Matrices in the order of the registers: the left operand's rows come first, the right one's depths.
        let (by_row, by_depth) = if left { (bit, sixteen) } else { (sixteen, bit) };
        let mut halves = Vec::new();
        for half in 0..STEP / DEEP {
            let mut list = Vec::new();
            for group in 0..part / 16 {
                let start = self.by("add.u32", first, group * 16);
                let offset = match (side.layout, side.kind) {
                    (Layout::Rows, _) => {
                        let row = self.scale_add(by_row, 8, low);
                        let row = self.plus(start, row);
                        let chunk = self.by("add.u32", by_depth, half * DEEP / CHUNK);
                        self.swizzled(side, row, chunk)
                    }
                    (Layout::Depths, TileKind::Tf32) => {
                        // The chunk of the first element of four that a thread reads by itself.
                        let depth = self.by("and.b32", lane, 3);
                        let depth = self.by("add.u32", depth, half * 8);
                        let row = self.by("shr.u32", lane, 2);
                        let row = self.plus(start, row);
                        let chunk = self.by("shr.u32", row, 2);
                        let offset = self.swizzled(side, depth, chunk);
                        let within = self.by("and.b32", row, 3);
                        self.scale_add(within, 4, offset)
                    }
                    (Layout::Depths, _) => {
                        let depth = self.scale_add(by_depth, 8, low);
                        let depth = self.by("add.u32", depth, half * 16);
                        let chunk = self.by("shr.u32", start, 3);
                        let chunk = self.plus(chunk, by_row);
                        self.swizzled(side, depth, chunk)
                    }
                };
                list.push(self.by("add.u32", offset, side.at));
            }
            halves.push(list);
        }
        halves
    }

    /// The fragments of both operands for one half of a step: for each 16 rows four registers.
    fn fragments(
        &mut self,
        sides: &[Side<'_>; 2],
        readers: &[Vec<Vec<Reg>>; 2],
        stage: Reg,
        half: u32,
    ) -> [Vec<[Reg; 4]>; 2] {
        [0, 1].map(|n| {
            let (side, offsets) = (&sides[n], &readers[n][half as usize]);
            offsets
                .iter()
                .map(|&offset| {
                    let at = self.plus(stage, offset);
                    let regs = [self.b32(), self.b32(), self.b32(), self.b32()];
                    let [a, b, c, d] = regs;
                    match (side.layout, side.kind) {
                        (Layout::Rows, _) => {
                            ins!(self, "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{a}, {b}, {c}, {d}}}, [{at}]");
                        }
                        (Layout::Depths, TileKind::Tf32) => {
                            // Four depths on, and eight rows on: two chunks, of which the exchange turns one bit at a time.
                            let across = self.by("xor.b32", offset, 2 * CHUNK);
                            let next = self.plus(stage, across);
                            let deeper = 4 * side.pitch;
                            let list = if n == 0 {
                                [(a, at), (b, next), (c, at), (d, next)]
                            } else {
                                [(a, at), (c, next), (b, at), (d, next)]
                            };
                            for (i, (r, address)) in list.into_iter().enumerate() {
                                ins!(self, "ld.shared.b32 {r}, [{address}+{}]", if i < 2 { 0 } else { deeper });
                            }
                        }
                        (Layout::Depths, _) => {
                            ins!(self, "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{{a}, {b}, {c}, {d}}}, [{at}]");
                        }
                    }
                    if side.kind == TileKind::Tf32 { regs.map(|r| self.rounded(r)) } else { regs }
                })
                .collect()
        })
    }

    pub(super) fn rounded(&mut self, r: Reg) -> Reg {
        let d = self.b32();
        ins!(self, "cvt.rna.tf32.f32 {d}, {r}");
        d
    }

    /// Multiplies the fragments of one half of a step.
    fn multiply(&mut self, tile: &Tile, [left, right]: &[Vec<[Reg; 4]>; 2], sums: &[Reg], across: u32) {
        let of = |operand: &TileOperand| match self.kernel.buffers[operand.buffer].dtype {
            DType::U8 => "u8",
            _ => "s8",
        };
        let shape = match tile.kind {
            TileKind::F16 => "m16n8k16.row.col.f32.f16.f16.f32".to_owned(),
            TileKind::Bf16 => "m16n8k16.row.col.f32.bf16.bf16.f32".to_owned(),
            TileKind::Tf32 => "m16n8k8.row.col.f32.tf32.tf32.f32".to_owned(),
            TileKind::I8 => format!("m16n8k32.row.col.s32.{}.{}.s32", of(&tile.lhs), of(&tile.rhs)),
        };
        for (i, [a0, a1, a2, a3]) in left.iter().enumerate() {
            for (j, pair) in right.iter().flat_map(|r| r.chunks(2)).enumerate() {
                let first = (i * across as usize + j) * 4;
                let [s0, s1, s2, s3] = sums[first..first + 4] else { unreachable!("four sums") };
                let (b0, b1) = (pair[0], pair[1]);
                ins!(
                    self,
                    "mma.sync.aligned.{shape} {{{s0}, {s1}, {s2}, {s3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{s0}, {s1}, {s2}, {s3}}}"
                );
            }
        }
    }

    /// Hands the sums on, band by band.
    fn bands(&mut self, tile: &Tile, shape: &Shape, sums: &[Reg], shared: Reg) {
        let kernel = self.kernel;
        let (tid, lane) = (self.tid, self.thread);
        let warp = self.by("shr.u32", tid, 5);
        let (down, across) =
            (self.by("shr.u32", warp, shape.across.trailing_zeros()), self.by("and.b32", warp, shape.across - 1));
        let first = self.by("mul.lo.u32", down, shape.part[0]);
        let column = self.by("mul.lo.u32", across, shape.part[1]);
        let pair = self.by("and.b32", lane, 3);
        let column = self.scale_add(pair, 2, column);
        let within = self.by("shr.u32", lane, 2);
        let band = u32::from(tile.band);
        let row = self.reg(Class::B64);
        ins!(self, "mov.b64 {row}, 0");
        let (top, skip) = (self.text.label("band"), self.text.label("waits"));
        self.text.place(&top);
        let (number, own, outside) = (self.b32(), self.b32(), self.reg(Class::Pred));
        ins!(self, "cvt.u32.u64 {number}, {row}");
        ins!(self, "sub.s32 {own}, {first}, {number}");
        ins!(self, "setp.ge.u32 {outside}, {own}, {band}");
        ins!(self, "@{outside} bra {skip}");
        let line = self.plus(own, within);
        let element = self.scale_add(line, tile.pitch.into(), column);
        let at = self.scale_add(element, 4, shared);
        let columns = shape.part[1] / 8;
        for (n, four) in sums.chunks(4).enumerate() {
            let (i, j) = (n as u32 / columns, n as u32 % columns);
            let place = |rows: u32| (rows * u32::from(tile.pitch) + j * 8) * 4;
            ins!(self, "st.shared.v2.b32 [{at}+{}], {{{}, {}}}", place(i * 16), four[0], four[1]);
            ins!(self, "st.shared.v2.b32 [{at}+{}], {{{}, {}}}", place(i * 16 + 8), four[2], four[3]);
        }
        self.text.place(&skip);
        ins!(self, "bar.sync 0");
        let param = kernel.blocks[tile.body].params[0];
        self.define(param, vec![row]);
        let last = i64::from(tile.rows - tile.band);
        self.facts[param] = Fact { low: 0, high: last, divisor: band.into() };
        self.block(tile.body);
        ins!(self, "bar.sync 0");
        if last > 0 {
            let more = self.reg(Class::Pred);
            ins!(self, "add.s64 {row}, {row}, {band}");
            ins!(self, "setp.lt.s64 {more}, {row}, {}", tile.rows);
            ins!(self, "@{more} bra {top}");
        }
    }
}
