//! What is fetched from memory before it is needed: panels of weights, rows of the left operand, and what the operations
//! after the product read.

use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Address, Locality};
use onnxc_ir::scalar::{BinaryOp, Scalar};

use super::PANEL;
use super::strip::{Body, Depth};
use super::tiles::Tile;
use crate::codegen::pull::Position;
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel};

/// How many steps ahead a panel is fetched that is read at the speed of memory.
pub(super) const NEAR: i64 = 64;

/// Bytes of a line of the caches.
const LINE_BYTES: i64 = 64;

/// Rows of the next tile that are fetched while the steps of a line are computed: a power of two, those of a full tile.
const ROWS_OF_A_LINE: i64 = 8;

/// What is fetched from memory while a block of depth is computed.
pub(super) enum Fetch {
    Nothing,
    /// The panel itself, this many steps ahead.
    Near(i64),
    /// The task's next block, which begins so many steps after this one and has so many.
    Next {
        ahead: i64,
        steps: i64,
    },
}

impl Body<'_> {
    /// Fetches a part of the panels that is wanted later. Weights come from far away, and what waits for them would be the
    /// first tile of each block. Each tile of a block fetches its share of the next one, a little at each step: memory
    /// delivers over all tiles what it could not in the time of one.
    pub(super) fn fetch(&self, k: &mut GroupKernel<'_>, tile: &Tile, depth: &Depth, contracted: &[Index]) {
        let Some(stored) = self.operands.stored() else { return };
        let panel = i64::from(PANEL);
        let here = self.flat(k, contracted);
        let (row, within) = match depth.fetch {
            Fetch::Nothing => return,
            Fetch::Near(ahead) => (k.b.iadd(here, ahead), Index::Const(0)),
            // What is left over shares no work; of tiles spread evenly, all do.
            Fetch::Next { .. } if tile.rows != self.cut.tile_rows && self.known.is_some() => return,
            Fetch::Next { ahead, steps } => {
                let share = |k: &mut GroupKernel<'_>, all: i64| {
                    let padded = k.b.iadd(tile.of, all - 1);
                    k.b.idiv(padded, tile.of)
                };
                let (rows, elements) = (share(k, steps), share(k, panel));
                let first = k.b.imul(tile.number, rows);
                let row = k.b.iadd(depth.begin, first);
                let step = k.b.isub(here, depth.begin);
                (k.b.iadd(row, ahead), k.b.imul(step, elements))
            }
        };
        let buffer = k.input(stored);
        let depth: i64 =
            self.extents.iter().map(|d| d.as_const().expect("stored panels have a constant depth")).product();
        let elements = self.elements_of_a_step();
        for offset in (0..self.nr).step_by(PANEL as usize) {
            let column = k.b.iadd(tile.column, offset);
            let number = k.b.idiv(column, panel);
            let address = k.b.advance(Address::default(), number, depth * panel * elements);
            let address = k.b.advance(address, row, panel * elements);
            let address = k.b.advance(address, within, elements);
            k.b.prefetch(buffer, address, Locality::L2);
        }
    }

    /// Fetches a line of the next tile's rows: over the steps of a line all of them. Where the rows do not fit the
    /// second-level cache they come from far away, and the hardware does not see the next ones coming.
    pub(super) fn fetch_rows(&self, k: &mut GroupKernel<'_>, tile: &Tile, contracted: &[Index]) {
        let &[Index::Val(step)] = contracted else { return };
        let bytes = product([&self.gemm.rows, &self.gemm.row_bytes]).as_const();
        if bytes.is_none_or(|bytes| bytes <= k.machine.l2_bytes as i64) {
            return;
        }
        let line = LINE_BYTES / i64::from(self.gemm.acc.bits() / 8);
        let masked = |k: &mut GroupKernel<'_>, mask: i64| {
            let mask = k.b.constant(Scalar::i64(mask), 1);
            Index::Val(k.b.binary(BinaryOp::And, step, mask))
        };
        let begin = masked(k, -line);
        let begin = k.b.imul(begin, self.elements_of_a_step());
        let number = masked(k, ROWS_OF_A_LINE - 1);
        let row = k.b.iadd(tile.row, tile.rows);
        let row = k.b.iadd(row, number);
        if let Some((left, coords)) = self.operands.left_in_memory(k, &tile.around, row, begin) {
            k.fetch(left, &Position { coords, lanes: 1, count: None });
        }
    }

    /// Fetches what the operations after the product will read for a tile, while the tile is computed.
    pub(super) fn fetch_operands(&self, k: &mut GroupKernel<'_>, tile: &Tile) {
        if !self.reads_after {
            return;
        }
        let lanes = i64::from(self.lanes);
        for r in 0..tile.rows {
            let row = k.b.iadd(tile.row, r);
            for j in 0..self.vectors {
                let index = k.b.iadd(tile.column, j * lanes);
                let coords = self.operands.result(&tile.around, row, Coord::consecutive(index, lanes));
                k.fetch_operands(self.gemm.result, &Position { coords, lanes: self.lanes, count: None });
            }
        }
    }
}
