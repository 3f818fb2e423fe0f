//! Fragments of a stage, `mma.sync`, and the sums' way to the tile's body.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Tile, TileKind, TileOperand};

use super::super::facts::Fact;
use super::super::kernel::{Emit, ins};
use super::super::text::{Class, Reg};
use super::{CHUNK, DEEP, Layout, STEP, Shape, Side};

impl Emit<'_> {
    /// For each operand, the offsets in a stage at which a thread reads its fragments of the first matrix instruction's
    /// depth, one for each 16 rows; the second's are [`Self::fragments`]' matter.
    pub(super) fn readers(&mut self, sides: &[Side<'_>; 2], shape: &Shape) -> [Vec<Vec<Reg>>; 2] {
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
    pub(super) fn fragments(
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

    pub(in super::super) fn rounded(&mut self, r: Reg) -> Reg {
        let d = self.b32();
        ins!(self, "cvt.rna.tf32.f32 {d}, {r}");
        d
    }

    /// Multiplies the fragments of one half of a step.
    pub(super) fn multiply(&mut self, tile: &Tile, [left, right]: &[Vec<[Reg; 4]>; 2], sums: &[Reg], across: u32) {
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
    pub(super) fn bands(&mut self, tile: &Tile, shape: &Shape, sums: &[Reg], shared: Reg) {
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
