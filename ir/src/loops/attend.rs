//! Attention for a tile of queries: what a GPU computes with matrix instructions, all warps of a block together, without
//! the scores in memory.
//!
//! An [`Attend`] stands where a [`super::Tile`] may stand. For `rows` queries `i` and all columns `j` from the first to the
//! bound of its keys it computes
//!
//! - `score[i][j]`: the block `score` of the query's row, the column, and `sum over d of queries[i][d] * keys[j][d]`;
//! - `weight[i][j] = exp(score[i][j] - most[i])`, where `most[i]` is the greatest of the row's scores that are numbers and
//!   at least the least number of `f32`, which stands for a row whose scores are all minus infinity;
//! - `sums[i][c] = (sum over j of weight[i][j] * values[j][c]) * (1 / sum over j of weight[i][j])`.
//!
//! The sums lie in the scratch buffer `sums` then, element `(i, c)` at `i * pitch + c`, and the body runs, once. The
//! kernel's only scratch is `sums`; what it holds outside of the body, and in rows behind the queries' bound, is
//! undefined.
//!
//! Elements of operands, and weights where they meet the values, are rounded to the [`TileKind`], which is one of floats.
//! Products are exact; all else is `f32`, rounded in an order that the target chooses.
//!
//! The block `score` takes the row (the queries' first one and `i`), the column, and the product, and yields the score:
//! scales, masks and biases. It has scalars only and no effect, and runs any number of times for rows and columns below
//! their bounds. The body is as that of a tile: its stores stand in loops over [`super::LoopKind::GpuThread`]`(1)`.

use super::{Block, Buffer, TileKind, TileOperand, Val};

/// Attention for a tile of queries; see [the module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Attend {
    /// What the operands are rounded to.
    pub kind: TileKind,
    /// Queries of the tile.
    pub rows: u16,
    /// Elements of a query and of a key.
    pub depth: u16,
    /// Elements of a value.
    pub width: u16,
    /// Queries, whose rows begin at the tile's first.
    pub queries: TileOperand,
    /// Keys; its rows are the columns of the scores.
    pub keys: TileOperand,
    /// Values; its rows are those of the keys, its depths the columns of the sums.
    pub values: TileOperand,
    /// Scratch for the sums.
    pub sums: Buffer,
    /// Elements from one row of the sums to the next.
    pub pitch: u16,
    /// From a row, a column and a product to a score.
    pub score: Block,
    /// What becomes of the sums.
    pub body: Block,
}

impl Attend {
    /// Queries, keys, values.
    pub fn operands(&self) -> [&TileOperand; 3] {
        [&self.queries, &self.keys, &self.values]
    }

    /// Replaces each value operand, in the order of the text.
    pub(super) fn map_operands(&mut self, f: &mut dyn FnMut(Val) -> Val) {
        for operand in [&mut self.queries, &mut self.keys, &mut self.values] {
            operand.map_operands(f);
        }
    }
}
