//! The group that fills the ring.
//!
//! The copy engine brings boxes of plain matrices, of which the first thread asks for one or a few in each step.
//! Where elements lie in memory as they are needed, `cp.async` copies them, two stages ahead of the one that the group
//! says is full; else they come through registers, a few chunks at a time, rounded on the way.

use onnxc_ir::loops::{Tile, TileOperand};

use super::super::kernel::{Emit, ins};
use super::super::text::{Class, Reg};
use super::super::tile::{Filling, Side, Way};
use super::maps::{Boxed, Form};
use super::{Filler, GROUP, ROWS, STEP, Turn, boxes};

/// Stages that are being copied when the next one is begun; a ring has more.
pub(super) const LATE: u32 = 2;

/// Chunks that a thread has in registers at once.
const TOGETHER: usize = 4;

/// An operand's boxes in a task.
struct Load {
    /// The map's address.
    map: Reg,
    form: Form,
    /// Where each box goes in a stage, and its first row or panel.
    pieces: Vec<(u32, Reg)>,
    outer: Vec<Reg>,
    /// Bytes of all.
    bytes: u32,
}

impl Emit<'_> {
    /// Fills the stages of a tile.
    pub(super) fn fill(&mut self, tile: &Tile, filler: &Filler) {
        let Filler { groups, turn } = filler;
        let depth = self.depth(tile);
        let mut sides = Vec::new();
        let mut loads = Vec::new();
        let halves = [(&tile.lhs, tile.rows, 0), (&tile.rhs, tile.cols, u32::from(tile.rows) * STEP)];
        for (n, (boxed, (operand, rows, at))) in boxes(self.kernel, tile).into_iter().zip(halves).enumerate() {
            match boxed {
                Some(boxed) => loads.push(self.loader(n, &boxed, operand, (rows, at))),
                None => {
                    let filling = Filling { step: STEP, threads: GROUP, tid: self.tid, wide: true };
                    sides.push(self.side(tile, operand, (rows, at), &filling));
                }
            }
        }
        let copies = sides.iter().any(|side| matches!(side.way, Way::Async(_)));
        let (thread, tid) = (self.thread, self.tid);
        let [leads, asks] = [thread, tid].map(|number| {
            let p = self.reg(Class::Pred);
            ins!(self, "setp.eq.u32 {p}, {number}, 0");
            p
        });
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
        let bytes: u32 = loads.iter().map(|load| load.bytes).sum();
        if groups.boxed() {
            ins!(self, "@{asks} mbarrier.arrive.expect_tx.shared::cta.b64 _, [{}], {bytes}", turn.full);
        } else if !loads.is_empty() {
            ins!(self, "@{asks} mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [{}], {bytes}", turn.full);
        }
        for load in &loads {
            self.ask(load, turn, at, asks);
        }
        for side in &sides {
            self.bring(side, turn.slot, at, depth);
        }
        if copies {
            let (early, wait) = (self.text.label("early"), self.reg(Class::Pred));
            ins!(self, "cp.async.commit_group");
            ins!(self, "cp.async.wait_group {LATE}");
            ins!(self, "setp.lt.u32 {wait}, {at}, {}", LATE * step);
            ins!(self, "@{wait} bra {early}");
            self.announce(late, leads);
            self.follow(filler, late);
            self.text.place(&early);
        } else if !groups.boxed() {
            self.announce(turn.full, leads);
        }
        self.advance(groups, turn);
        ins!(self, "add.u32 {at}, {at}, {step}");
        ins!(self, "setp.lt.s32 {more}, {at}, {depth}");
        ins!(self, "@{more} bra {top}");
        if copies {
            let (again, behind) = (self.text.label("late"), self.reg(Class::Pred));
            ins!(self, "cp.async.wait_all");
            self.text.place(&again);
            self.announce(late, leads);
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

    /// Says that this warp's part of a stage is there.
    fn announce(&mut self, full: Reg, leads: Reg) {
        ins!(self, "fence.proxy.async.shared::cta");
        self.barrier();
        ins!(self, "@{leads} mbarrier.arrive.shared::cta.b64 _, [{full}]");
    }

    /// What a task's boxes of an operand have in common.
    fn loader(&mut self, number: usize, boxed: &Boxed, operand: &TileOperand, (rows, at): (u16, u32)) -> Load {
        let (name, rows) = (self.name, u32::from(rows));
        let (place, map) = (self.reg(Class::B64), self.reg(Class::B64));
        ins!(self, "mov.b64 {place}, {name}_map{number}");
        ins!(self, "cvta.param.u64 {map}, {place}");
        let narrow = |this: &mut Self, val| {
            let (wide, d) = (this.get1(val), this.b32());
            ins!(this, "cvt.u32.u64 {d}, {wide}");
            d
        };
        let first = narrow(self, operand.first);
        let outer: Vec<Reg> = boxed.outer.iter().map(|&val| narrow(self, val)).collect();
        let pieces = match boxed.form {
            Form::Rows => vec![(at, first)],
            Form::Panels => vec![(at, self.by("shr.u32", first, 4))],
            Form::Depths => (0..rows / ROWS)
                .map(|n| (at + n * ROWS * STEP, if n == 0 { first } else { self.by("add.u32", first, n * ROWS) }))
                .collect(),
        };
        Load { map, form: boxed.form, pieces, outer, bytes: rows * STEP }
    }

    /// Asks for an operand's boxes of the step at depth `at`.
    fn ask(&mut self, load: &Load, turn: &Turn, at: Reg, asks: Reg) {
        for &(place, row) in &load.pieces {
            let target = self.by("add.u32", turn.slot, place);
            let mut coordinates: Vec<String> = match load.form {
                Form::Rows => vec![at.to_string(), row.to_string()],
                Form::Depths => vec![row.to_string(), at.to_string()],
                Form::Panels => vec!["0".to_owned(), at.to_string(), row.to_string()],
            };
            coordinates.extend(load.outer.iter().map(Reg::to_string));
            let (rank, list, map, full) = (coordinates.len(), coordinates.join(", "), load.map, turn.full);
            ins!(
                self,
                "@{asks} cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [{target}], [{map}, {{{list}}}], [{full}]"
            );
        }
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
