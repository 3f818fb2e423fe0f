//! The tiles that the rows of a task are cut into.

use onnxc_ir::loops::build::Index;
use onnxc_ir::scalar::CmpOp;

use super::strip::{Body, Task};
use crate::codegen::GroupKernel;

/// A tile's place: coordinates around its rows, its first row, its first column, where its sums lie in scratch, and which
/// it is of how many that share the work of fetching.
pub(super) struct Tile {
    pub(super) around: Vec<Index>,
    pub(super) row: Index,
    pub(super) rows: i64,
    pub(super) column: Index,
    pub(super) sums: Index,
    pub(super) number: Index,
    pub(super) of: Index,
}

/// Rows of a number that a run decides, spread evenly over tiles: `larger` of `size + 1` rows and `smaller` of `size`.
struct Spread {
    size: Index,
    larger: Index,
    smaller: Index,
    tiles: Index,
}

impl Spread {
    /// Rows `lo..hi` over tiles of at most `most`.
    fn new(k: &mut GroupKernel<'_>, lo: Index, hi: Index, most: i64) -> Spread {
        let rows = k.b.isub(hi, lo);
        let padded = k.b.iadd(rows, most - 1);
        let tiles = k.b.idiv(padded, most);
        let tiles = k.b.imax(tiles, 1);
        let size = k.b.idiv(rows, tiles);
        let whole = k.b.imul(size, tiles);
        let larger = k.b.isub(rows, whole);
        Spread { size, larger, smaller: k.b.isub(tiles, larger), tiles }
    }

    /// How many tiles have so many rows.
    fn tiles_of(&self, k: &mut GroupKernel<'_>, rows: i64) -> Index {
        let none = k.b.val(Index::Const(0));
        let (larger, smaller) = (k.b.val(self.larger), k.b.val(self.smaller));
        let is_larger = k.b.index_compare(CmpOp::Eq, self.size, rows - 1);
        let is_smaller = k.b.index_compare(CmpOp::Eq, self.size, rows);
        let others = k.b.select(is_smaller, smaller, none);
        let tiles = k.b.select(is_larger, larger, others);
        k.b.index(tiles)
    }
}

impl Body<'_> {
    /// Runs `body` for each tile of the task's rows in a panel.
    pub(super) fn tiles(
        &self,
        k: &mut GroupKernel<'_>,
        task: &Task<'_>,
        column: Index,
        body: &mut dyn FnMut(&mut GroupKernel<'_>, &Tile),
    ) {
        let (lo, hi) = task.rows;
        let mr = self.cut.tile_rows;
        // Whole tiles and what is left. Where the number of rows is not known, there is a tile of each size, and the rows
        // are spread evenly over as few as there can be: so many of one size, and the others of one row less.
        let spread = self.known.is_none().then(|| Spread::new(k, lo, hi, mr));
        let sizes: Vec<i64> = self.known.map_or_else(|| (1..=mr).rev().collect(), |rows| vec![mr, rows % mr]);
        k.each(task.lines.0, task.lines.1, 1, |k, line| {
            let within = k.b.isub(line, task.lines.0);
            let base = k.b.imul(within, self.cut.rows);
            let coords = k.unflatten(line, task.line_dims);
            let around: Vec<Index> = task.outer.iter().copied().chain(coords).collect();
            let (mut from, mut before) = (lo, Index::Const(0));
            for rows in sizes.iter().copied().filter(|&rows| rows > 0) {
                let count = match &spread {
                    Some(spread) => spread.tiles_of(k, rows),
                    None => {
                        let left = k.b.isub(hi, from);
                        k.b.idiv(left, rows)
                    }
                };
                let full = k.b.imul(count, rows);
                let to = k.b.iadd(from, full);
                k.each(from, to, rows, |k, row| {
                    let position = k.b.isub(row, lo);
                    let position = k.b.iadd(base, position);
                    let sums = k.b.imul(position, self.nr);
                    let (number, of) = match &spread {
                        Some(spread) => {
                            let within = k.b.isub(row, from);
                            let within = k.b.idiv(within, rows);
                            (k.b.iadd(before, within), spread.tiles)
                        }
                        None => {
                            let of = (self.cut.lines * self.cut.rows / mr).max(1);
                            (k.b.idiv(sums, self.nr * mr), Index::Const(of))
                        }
                    };
                    body(k, &Tile { around: around.clone(), row: row.into(), rows, column, sums, number, of });
                });
                from = to;
                before = k.b.iadd(before, count);
            }
        });
    }
}
