//! A group that multiplies, and hands its sums on.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Tile, TileKind, TileOperand};

use super::super::facts::Fact;
use super::super::kernel::{Emit, ins};
use super::super::text::{Class, Reg};
use super::super::tile::{DEEP, Layout, layout};
use super::maps::Form;
use super::{GROUP, Multiplier, ROWS, STEP};

/// Swizzles, in a descriptor.
const SWIZZLED_128: u64 = 1 << 62;
const SWIZZLED_32: u64 = 3 << 62;

/// Rows of a pattern.
const PATTERN: u32 = 8;

/// An operand as `wgmma` is told of it.
struct Described {
    /// The descriptor of what the group reads at the stage's first depth.
    first: Reg,
    /// What is added to it for the next depth.
    next: u64,
    /// It is major in M or N.
    turned: bool,
}

impl Emit<'_> {
    /// The descriptor of an operand at the address `place`.
    fn described(&mut self, tile: &Tile, operand: &TileOperand, form: Option<Form>, place: Reg) -> Described {
        let turned = layout(tile.kind, operand, true).0 == Layout::Depths;
        let bytes = u32::from(tile.kind.bytes());
        let (swizzle, width) = if form == Some(Form::Panels) { (SWIZZLED_32, 32) } else { (SWIZZLED_128, 128) };
        // From the rows of an operand that a stage's row has to the next ones; not used where it has a row's depths.
        let leading = if turned { STEP / bytes * width } else { 16 };
        let constant = swizzle | u64::from((PATTERN * width) >> 4) << 32 | u64::from(leading >> 4) << 16;
        let units = self.by("shr.u32", place, 4);
        let (wide, first) = (self.reg(Class::B64), self.reg(Class::B64));
        ins!(self, "cvt.u64.u32 {wide}, {units}");
        ins!(self, "or.b64 {first}, {wide}, {constant:#x}");
        let next = if turned { DEEP / bytes * width } else { DEEP };
        Described { first, next: u64::from(next >> 4), turned }
    }

    /// Multiplies the stages of a tile and hands the sums to its body.
    pub(super) fn multiply_stages(&mut self, tile: &Tile, multiplier: &Multiplier) {
        let Multiplier { groups, turn, number, .. } = multiplier;
        let depth = self.depth(tile);
        let step = STEP / u32::from(tile.kind.bytes());
        let sums: Vec<Reg> = (0..tile.cols / 2).map(|_| self.b32()).collect();
        for &sum in &sums {
            ins!(self, "mov.b32 {sum}, 0");
        }
        let (at, before) = (self.b32(), self.b32());
        let [none, more, add, leads, release] = [(); 5].map(|()| self.reg(Class::Pred));
        let thread = self.thread;
        ins!(self, "setp.eq.u32 {leads}, {thread}, 0");
        ins!(self, "mov.u32 {at}, 0");
        ins!(self, "mov.u32 {before}, {}", turn.full);
        let (top, out) = (self.text.label("multiply"), self.text.label("multiplied"));
        ins!(self, "setp.ge.s32 {none}, {at}, {depth}");
        ins!(self, "@{none} bra {out}");
        self.text.place(&top);
        self.await_stage(turn, 0);
        // 64 rows are as many bytes in either layout.
        let left = self.scale_add(*number, ROWS * STEP, turn.slot);
        let left = self.described(tile, &tile.lhs, groups.forms[0], left);
        let right = self.by("add.u32", turn.slot, u32::from(tile.rows) * STEP);
        let right = self.described(tile, &tile.rhs, groups.forms[1], right);
        ins!(self, "setp.eq.u32 {add}, {thread}, {thread}");
        ins!(self, "wgmma.fence.sync.aligned");
        for deep in 0..STEP / DEEP {
            self.warpgroup_multiply(tile, [&left, &right], deep, &sums, add);
        }
        ins!(self, "wgmma.commit_group.sync.aligned");
        // The products of the stage before are done.
        ins!(self, "wgmma.wait_group.sync.aligned 1");
        ins!(self, "setp.ne.and.u32 {release}, {at}, 0, {leads}");
        ins!(self, "@{release} mbarrier.arrive.shared::cta.b64 _, [{before}+{}]", groups.second());
        ins!(self, "mov.u32 {before}, {}", turn.full);
        self.advance(groups, turn);
        ins!(self, "add.u32 {at}, {at}, {step}");
        ins!(self, "setp.lt.s32 {more}, {at}, {depth}");
        ins!(self, "@{more} bra {top}");
        ins!(self, "wgmma.wait_group.sync.aligned 0");
        ins!(self, "@{leads} mbarrier.arrive.shared::cta.b64 _, [{before}+{}]", groups.second());
        self.text.place(&out);
        self.group_bands(tile, multiplier, &sums);
    }

    /// One `wgmma`: 32 bytes of depth.
    fn warpgroup_multiply(&mut self, tile: &Tile, sides: [&Described; 2], deep: u32, sums: &[Reg], add: Reg) {
        let [a, b] = sides.map(|side| {
            if deep == 0 {
                return side.first;
            }
            let d = self.reg(Class::B64);
            ins!(self, "add.s64 {d}, {}, {}", side.first, u64::from(deep) * side.next);
            d
        });
        let columns = tile.cols;
        let of = |operand: &TileOperand| match self.kernel.buffers[operand.buffer].dtype {
            DType::U8 => "u8",
            _ => "s8",
        };
        let turned = sides.map(|side| u32::from(side.turned));
        let transposes = format!(", 1, 1, {}, {}", turned[0], turned[1]);
        let (shape, immediates) = match tile.kind {
            TileKind::F16 => (format!("m64n{columns}k16.f32.f16.f16"), transposes),
            TileKind::Bf16 => (format!("m64n{columns}k16.f32.bf16.bf16"), transposes),
            TileKind::Tf32 => (format!("m64n{columns}k8.f32.tf32.tf32"), ", 1, 1".to_owned()),
            TileKind::I8 => (format!("m64n{columns}k32.s32.{}.{}", of(&tile.lhs), of(&tile.rhs)), String::new()),
        };
        let list: Vec<String> = sums.iter().map(Reg::to_string).collect();
        ins!(self, "wgmma.mma_async.sync.aligned.{shape} {{{}}}, {a}, {b}, {add}{immediates}", list.join(", "));
    }

    /// Hands the group's sums on, band by band.
    fn group_bands(&mut self, tile: &Tile, multiplier: &Multiplier, sums: &[Reg]) {
        let (kernel, band, pitch) = (self.kernel, u32::from(tile.band), u32::from(tile.pitch));
        let Multiplier { number, warp, sums: place, .. } = *multiplier;
        let lane = self.thread;
        // A barrier for each group.
        let barrier = self.by("add.u32", number, 1);
        let (pair, within) = (self.by("and.b32", lane, 3), self.by("shr.u32", lane, 2));
        let column = self.by("shl.b32", pair, 1);
        let first = self.by("mul.lo.u32", number, ROWS);
        for start in (0..ROWS).step_by(band as usize) {
            // Warps that have rows of the band store them, 16 each or a part of these.
            let own = self.by("shl.b32", warp, 4);
            let own = self.by("sub.s32", own, start);
            for half in [0, 8] {
                let line = self.plus(own, within);
                let line = self.by("add.s32", line, half);
                let (inside, skip) = (self.reg(Class::Pred), self.text.label("waits"));
                if band < ROWS {
                    ins!(self, "setp.lt.u32 {inside}, {line}, {band}");
                    ins!(self, "@!{inside} bra {skip}");
                }
                let element = self.scale_add(line, pitch, column);
                let at = self.scale_add(element, 4, place);
                for (n, four) in sums.chunks(4).enumerate() {
                    let two = if half == 0 { &four[..2] } else { &four[2..] };
                    ins!(self, "st.shared.v2.b32 [{at}+{}], {{{}, {}}}", n * 32, two[0], two[1]);
                }
                if band < ROWS {
                    self.text.place(&skip);
                }
            }
            ins!(self, "bar.sync {barrier}, {GROUP}");
            let (row32, row) = (self.by("add.u32", first, start), self.reg(Class::B64));
            ins!(self, "cvt.u64.u32 {row}, {row32}");
            let param = kernel.blocks[tile.body].params[0];
            self.define(param, vec![row]);
            let last = i64::from(tile.rows - tile.band);
            self.facts[param] = Fact { low: 0, high: last, divisor: band.into() };
            self.block(tile.body);
            ins!(self, "bar.sync {barrier}, {GROUP}");
        }
    }
}
