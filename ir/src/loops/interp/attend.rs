//! Attention for a tile of queries: products, then sums of the values by the weights of the scores, row by row.

use super::access::Place;
use super::flatten::{FlatAttend, ScorePlace};
use super::tile::{Outside, elements, rounded};
use crate::dtype::DType;

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
