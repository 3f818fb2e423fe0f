//! How the elements of a tile's operands come to the stages of its ring in shared memory.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Digit, Digits, Stride, Tile, TileKind, TileOperand};

use super::super::facts::gcd;
use super::super::kernel::{Emit, ins};
use super::super::memory::Location;
use super::super::text::{Class, Reg};
use super::{CHUNK, Chunk, Filling, Layout, Side, Way, layout};

impl Emit<'_> {
    /// Everything about an operand that does not change with the depth.
    pub(in super::super) fn side<'t>(
        &mut self,
        tile: &Tile,
        operand: &'t TileOperand,
        (rows, at): (u16, u32),
        filling: &Filling,
    ) -> Side<'t> {
        let memory = self.kernel.buffers[operand.buffer].dtype;
        let (kind, rows) = (tile.kind, u32::from(rows));
        let (layout, turned) = layout(kind, operand, filling.wide);
        let digits = if layout == Layout::Rows { &operand.depth } else { &operand.rows };
        let mut side = Side {
            operand,
            kind,
            memory,
            layout,
            way: Way::Registers(1),
            contiguous: false,
            at,
            step: filling.step,
            wide: filling.wide,
            pitch: filling.step,
            chunks: vec![],
        };
        let per_row = match layout {
            Layout::Rows => filling.step / CHUNK,
            Layout::Depths => rows * u32::from(kind.bytes()) / CHUNK,
        };
        if !filling.wide {
            side.pitch = per_row * CHUNK;
        }
        let size = u64::from(side.bytes());
        let elements = side.elements();
        let inner = digits.last().expect("there is a digit");
        side.contiguous = inner.stride == Stride::Const(1) && (inner.size % i64::from(elements) == 0);
        let place = self.location(operand.buffer, &operand.address, 0);
        if side.contiguous {
            // All other strides move a chunk; it begins at a multiple of its elements along its own.
            let alignment = self.alignment_but_along(operand, inner, place.alignment);
            let as_it_is = size == u64::from(kind.bytes());
            // `wgmma` would cut off what `mma` gets rounded.
            let rounds = filling.wide && kind == TileKind::Tf32;
            side.way = match alignment {
                4.. if as_it_is && !rounds => Way::Async(alignment.min(16) as u32),
                _ => Way::Registers((alignment / size).clamp(1, 4) as u32),
            };
        }
        // Words to round, and what is on its way through registers, take many of them.
        self.alone |= filling.wide || kind == TileKind::Tf32 || matches!(side.way, Way::Registers(_));
        let base = self.start(&place);
        let [first, bound] = [operand.first, operand.bound].map(|v| self.get1(v));
        let narrow = self.facts[operand.bound].high <= i32::MAX.into();
        let total = rows * filling.step / CHUNK;
        for n in 0..total.div_ceil(filling.threads) {
            let number = self.by("add.u32", filling.tid, n * filling.threads);
            let mine = (total < filling.threads).then(|| {
                let p = self.reg(Class::Pred);
                ins!(self, "setp.lt.u32 {p}, {number}, {total}");
                p
            });
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

    /// The bytes that divide an address and what every digit of an operand but one adds to it.
    pub(in super::super) fn alignment_but_along(&self, operand: &TileOperand, inner: &Digit, start: u64) -> u64 {
        let size = self.element_bytes(operand.buffer);
        let others = operand.rows.iter().chain(&operand.depth).filter(|&digit| !std::ptr::eq(digit, inner));
        others.fold(start, |all, digit| {
            let stride = match digit.stride {
                Stride::Const(c) => c.unsigned_abs(),
                Stride::Value(v) => self.facts[v].divisor,
            };
            gcd(all, stride.saturating_mul(size))
        })
    }

    /// The address where an operand begins.
    pub(in super::super) fn start(&mut self, place: &Location) -> Reg {
        if place.offset == 0 {
            return place.base;
        }
        let moved = self.reg(Class::B64);
        ins!(self, "add.s64 {moved}, {}, {}", place.base, place.offset);
        moved
    }

    /// What a number of either width adds to an address, in bytes.
    pub(in super::super) fn offset(&mut self, digits: &Digits, number: Reg, size: u32) -> Reg {
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
    pub(in super::super) fn fetch(&mut self, side: &Side<'_>, slot: Reg, at: Reg, depth: Reg) -> Vec<Vec<Reg>> {
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

    pub(in super::super) fn copy(
        &mut self,
        side: &Side<'_>,
        chunk: &Chunk,
        (slot, from, left): (Reg, Reg, Reg),
        bytes: u32,
    ) {
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
    pub(in super::super) fn collect(
        &mut self,
        side: &Side<'_>,
        chunk: &Chunk,
        (from, left): (Reg, Reg),
        together: u32,
    ) -> Vec<Reg> {
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
    pub(in super::super) fn deliver(&mut self, side: &Side<'_>, chunks: &[Chunk], slot: Reg, waiting: &[Vec<Reg>]) {
        for (chunk, elements) in chunks.iter().zip(waiting) {
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
        if side.wide && side.kind == TileKind::Tf32 {
            return self.rounded(list[0]);
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
}
