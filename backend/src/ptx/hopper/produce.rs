//! The group that fills the ring.
//!
//! Where elements lie in memory as they are needed, `cp.async` copies them, two stages ahead of the one that the group
//! says is full; else they come through registers, a few chunks at a time, rounded on the way.

use onnxc_ir::loops::Tile;

use super::super::kernel::{Emit, ins};
use super::super::text::{Class, Reg};
use super::super::tile::{Filling, Side, Way};
use super::{Filler, GROUP, STEP};

/// Stages that are being copied when the next one is begun; a ring has more.
pub(super) const LATE: u32 = 2;

/// Chunks that a thread has in registers at once.
const TOGETHER: usize = 4;

impl Emit<'_> {
    /// Fills the stages of a tile.
    pub(super) fn fill(&mut self, tile: &Tile, filler: &Filler) {
        let Filler { groups, turn } = filler;
        let depth = self.depth(tile);
        let filling = Filling { step: STEP, threads: GROUP, tid: self.tid, wide: true };
        let left = self.side(tile, &tile.lhs, (tile.rows, 0), &filling);
        let right = self.side(tile, &tile.rhs, (tile.cols, u32::from(tile.rows) * STEP), &filling);
        let sides = [left, right];
        let copies = sides.iter().any(|side| matches!(side.way, Way::Async(_)));
        let step = STEP / u32::from(tile.kind.bytes());
        let (top, out) = (self.text.label("fill"), self.text.label("filled"));
        let (at, none, more) = (self.b32(), self.reg(Class::Pred), self.reg(Class::Pred));
        ins!(self, "mov.u32 {at}, 0");
        // The stage that is said to be full next.
        let late = self.b32();
        ins!(self, "mov.u32 {late}, {}", turn.full);
        ins!(self, "setp.ge.s32 {none}, {at}, {depth}");
        ins!(self, "@{none} bra {out}");
        self.text.place(&top);
        self.await_stage(turn, groups.second());
        for side in &sides {
            self.bring(side, turn.slot, at, depth);
        }
        if copies {
            let (early, wait) = (self.text.label("early"), self.reg(Class::Pred));
            ins!(self, "cp.async.commit_group");
            ins!(self, "cp.async.wait_group {LATE}");
            ins!(self, "setp.lt.u32 {wait}, {at}, {}", LATE * step);
            ins!(self, "@{wait} bra {early}");
            self.announce(late);
            self.follow(filler, late);
            self.text.place(&early);
        } else {
            self.announce(turn.full);
        }
        self.advance(groups, turn);
        ins!(self, "add.u32 {at}, {at}, {step}");
        ins!(self, "setp.lt.s32 {more}, {at}, {depth}");
        ins!(self, "@{more} bra {top}");
        if copies {
            let (again, behind) = (self.text.label("late"), self.reg(Class::Pred));
            ins!(self, "cp.async.wait_all");
            self.text.place(&again);
            self.announce(late);
            self.follow(filler, late);
            ins!(self, "setp.ne.u32 {behind}, {late}, {}", turn.full);
            ins!(self, "@{behind} bra {again}");
        }
        self.text.place(&out);
    }

    /// Brings an operand's chunks of the step at depth `at` to the stage at `slot`, or starts to.
    fn bring(&mut self, side: &Side<'_>, slot: Reg, at: Reg, depth: Reg) {
        let Way::Registers(together) = side.way else {
            let waiting = self.fetch(side, slot, at, depth);
            assert!(waiting.is_empty(), "copies need no registers");
            return;
        };
        for chunks in side.chunks.chunks(TOGETHER) {
            let mut loaded = Vec::new();
            for chunk in chunks {
                let (from, left) = (self.plus(at, chunk.depth), self.b32());
                ins!(self, "sub.s32 {left}, {depth}, {from}");
                loaded.push(self.collect(side, chunk, (from, left), together));
            }
            self.deliver(side, chunks, slot, &loaded);
        }
    }

    /// Says that this thread's part of a stage is there.
    fn announce(&mut self, full: Reg) {
        ins!(self, "fence.proxy.async.shared::cta");
        ins!(self, "mbarrier.arrive.shared::cta.b64 _, [{full}]");
    }

    /// The first barrier of the stage behind this one.
    fn follow(&mut self, filler: &Filler, full: Reg) {
        let start = filler.turn.start[1];
        let (end, wrapped) = (self.by("add.u32", start, filler.groups.second()), self.reg(Class::Pred));
        ins!(self, "add.u32 {full}, {full}, 8");
        ins!(self, "setp.eq.u32 {wrapped}, {full}, {end}");
        ins!(self, "@{wrapped} mov.u32 {full}, {start}");
    }
}
