//! Attention for a tile of queries: products, then sums of the values by the weights of the scores, row by row.

use cranelift_entity::EntityRef;

use super::access::Place;
use super::flatten::{Code, FlatKernel, TileSide};
use super::tile::{Outside, elements, rounded};
use crate::dtype::DType;
use crate::loops::{Attend, Inst, TileKind};

/// Where one score is: slots of its row, its column, and itself, and those of the first row and of the keys' range.
#[derive(Clone, Copy)]
pub(super) struct ScorePlace {
    pub row: usize,
    pub column: usize,
    pub score: usize,
    pub first: usize,
    pub keys: (usize, usize),
}

/// An attention, on slots.
#[derive(Clone)]
pub(super) struct FlatAttend {
    pub inst: Inst,
    pub kind: TileKind,
    pub rows: usize,
    pub depth: usize,
    pub width: usize,
    /// Queries, keys, values.
    pub operands: [TileSide; 3],
    /// Where the number of the first row that does not exist goes.
    pub end: usize,
}

impl FlatKernel<'_> {
    /// The products, loops over rows and columns that make scores of them, the sums, and the body.
    pub(super) fn attend(&mut self, inst: Inst, attend: &Attend) {
        let kernel = self.kernel;
        let &[row, column, product] = &kernel.blocks[attend.score].params[..] else {
            unreachable!("a score has three parameters")
        };
        let [row, column, product] = [row, column, product].map(|v| self.define(v));
        let (end, zero) = (self.fresh(1), self.fresh(1));
        self.constants.push((zero, 0, 1));
        let [rows, depth, width] = [attend.rows, attend.depth, attend.width].map(usize::from);
        let operands = attend.operands().map(|operand| self.tile_side(operand));
        let (first, keys) = (operands[0].first, (operands[1].first, operands[1].bound));
        let flat = FlatAttend { inst, kind: attend.kind, rows, depth, width, operands, end };
        self.code.push(Code::Products(Box::new(flat.clone())));
        self.code.push(Code::Move { from: first, to: row, lanes: 1 });
        let outer = self.code.len();
        self.code.push(Code::JumpUnlessLess { a: row, b: end, target: 0 });
        self.code.push(Code::Move { from: keys.0, to: column, lanes: 1 });
        let inner = self.code.len();
        self.code.push(Code::JumpUnlessLess { a: column, b: keys.1, target: 0 });
        self.code.push(Code::Product(ScorePlace { row, column, score: product, first, keys }));
        let yielded = self.block(attend.score);
        let score = self.slot_of[yielded[0]];
        self.code.push(Code::Score(ScorePlace { row, column, score, first, keys }));
        for (index, head, b) in [(column, inner, keys.1), (row, outer, end)] {
            let out = self.code.len() + 2;
            self.code.push(Code::Advance { index, step: 1, end: out });
            self.code.push(Code::Jump(head));
            self.code[head] = Code::JumpUnlessLess { a: index, b, target: out };
        }
        self.code.push(Code::Weighted(Box::new(flat)));
        let (buffer, pitch) = (attend.sums.index(), usize::from(attend.pitch));
        self.code.push(Code::TileBand { row: zero, band: rows, columns: width, pitch, buffer });
        self.block(attend.body);
    }
}

/// Rows of the tile that exist, and how many columns there are.
fn sizes(regs: &[u64], attend: &FlatAttend) -> (usize, usize) {
    let at = |slot: usize| regs[slot] as i64;
    let [queries, keys, _] = &attend.operands;
    let rows = (at(queries.bound) - at(queries.first)).clamp(0, attend.rows as i64);
    (rows as usize, (at(keys.bound) - at(keys.first)).max(0) as usize)
}

/// The products of queries and keys, row by row. Sets the end of the loop over rows.
pub(super) fn products(
    memory: &[&mut [u8]],
    places: &[Place],
    regs: &mut [u64],
    attend: &FlatAttend,
) -> Result<Vec<f32>, Outside> {
    let (rows, columns) = sizes(regs, attend);
    let depth = attend.depth;
    let [queries, keys, _] = &attend.operands;
    regs[attend.end] = regs[queries.first] + rows as u64;
    let queries = elements(memory, places, regs, queries, (attend.kind, rows, depth as i64))?;
    let keys = elements(memory, places, regs, keys, (attend.kind, columns, depth as i64))?;
    let mut all = Vec::with_capacity(rows * columns);
    for query in queries.chunks_exact(depth) {
        for key in keys.chunks_exact(depth) {
            let pairs = query.iter().zip(key);
            all.push(pairs.fold(0f32, |sum, (&a, &b)| sum + f32::from_bits(a) * f32::from_bits(b)));
        }
    }
    Ok(all)
}

/// Which score a place is.
pub(super) fn number(regs: &[u64], place: &ScorePlace) -> usize {
    let at = |slot: usize| regs[slot] as i64;
    let columns = at(place.keys.1) - at(place.keys.0);
    ((at(place.row) - at(place.first)) * columns + at(place.column) - at(place.keys.0)) as usize
}

/// The sums, row by row; those of rows that do not exist are no numbers.
pub(super) fn sums(
    memory: &[&mut [u8]],
    places: &[Place],
    regs: &[u64],
    attend: &FlatAttend,
    scores: &[f32],
) -> Result<Vec<u32>, Outside> {
    let (rows, columns) = sizes(regs, attend);
    let values = elements(memory, places, regs, &attend.operands[2], (attend.kind, columns, attend.width as i64))?;
    let mut all = Vec::with_capacity(attend.rows * attend.width);
    for row in 0..rows {
        let scores = &scores[row * columns..][..columns];
        let most = scores.iter().fold(f32::MIN, |most, &score| if score > most { score } else { most });
        let mut total = 0f32;
        let mut sums = vec![0f32; attend.width];
        for (&score, values) in scores.iter().zip(values.chunks_exact(attend.width)) {
            let weight = (score - most).exp();
            total += weight;
            let weight = f32::from_bits(rounded(attend.kind, DType::F32, weight.to_bits().into()));
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum += weight * f32::from_bits(value);
            }
        }
        all.extend(sums.into_iter().map(|sum| (sum * (1.0 / total)).to_bits()));
    }
    all.resize(attend.rows * attend.width, u32::MAX);
    Ok(all)
}
