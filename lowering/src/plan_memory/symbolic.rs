//! Offsets for tensors whose sizes depend on symbols, such that no two meet whatever the symbols are.
//!
//! As in [`fixed`](super::fixed) each takes the lowest offset that is free for its whole life, where lowest is meant for one
//! sample of the symbols and free for all of their values: of two tensors that are alive together, one must be known to end
//! where the other begins or before. Offsets are sums of sizes; over whatever cannot be compared one is laid that covers all.

use onnxc_ir::dim::{Dim, Symbols};

use super::fixed::{self, Sized};

/// Offsets that are tried, and ends that an arena's size is the greatest of.
const CANDIDATES: usize = 8;
const ENDS: usize = 4;

/// The bytes that a size is in the sample of the symbols.
pub(super) fn in_sample(size: &Dim, symbols: &Symbols) -> Option<u64> {
    size.eval(|symbol| symbols.sample(symbol)).and_then(|bytes| u64::try_from(bytes).ok())
}

/// Whether `a` is at least `b` for all values of the symbols.
pub(super) fn covers(a: &Dim, b: &Dim, symbols: &Symbols) -> bool {
    a == b || (a - b).is_ok_and(|more| more.bounds(symbols).0 >= 0)
}

/// A placed tensor, with its offsets in the sample.
struct Placed {
    tensor: usize,
    begin: Dim,
    end: Dim,
    sampled: (u64, u64),
}

/// Offsets in the order of the tensors, and the arena's size. `sizes` are those of `sampled` for the sample. None where the sizes
/// cannot be compared enough: one of the things that they are made of may be negative.
pub(super) fn plan(sizes: &[Dim], sampled: &[Sized], symbols: &Symbols) -> Option<(Vec<Dim>, Dim)> {
    let mut best: Option<(u64, Vec<Dim>, Dim)> = None;
    for order in fixed::orders(sampled) {
        let (offsets, size) = place(sizes, sampled, &order, symbols)?;
        let taken = in_sample(&size, symbols)?;
        if best.as_ref().is_none_or(|(other, ..)| taken < *other) {
            best = Some((taken, offsets, size));
        }
    }
    best.map(|(_, offsets, size)| (offsets, size))
}

fn place(sizes: &[Dim], sampled: &[Sized], order: &[usize], symbols: &Symbols) -> Option<(Vec<Dim>, Dim)> {
    let bottom = Dim::ZERO;
    let mut placed: Vec<Placed> = Vec::with_capacity(order.len());
    for &i in order {
        let others: Vec<&Placed> = placed.iter().filter(|p| sampled[i].meets(&sampled[p.tensor])).collect();
        let mut candidates: Vec<(u64, &Dim)> = others.iter().map(|p| (p.sampled.1, &p.end)).collect();
        candidates.push((0, &bottom));
        candidates.sort();
        candidates.dedup();
        let fits = |&&(start, begin): &&(u64, &Dim)| {
            let stop = start + sampled[i].bytes;
            let clear = |p: &&Placed| stop <= p.sampled.0 || p.sampled.1 <= start;
            let known = |p: &&Placed| {
                let below = || (begin + &sizes[i]).is_ok_and(|end| covers(&p.begin, &end, symbols));
                covers(begin, &p.end, symbols) || below()
            };
            others.iter().all(clear) && others.iter().all(known)
        };
        let begin = match candidates.iter().take(CANDIDATES.max(others.len() / 2)).find(fits) {
            Some((_, begin)) => (*begin).clone(),
            None => {
                let above = others.iter().try_fold(Dim::ZERO, |all, p| all.covering(&p.end)).ok()?;
                others.iter().all(|p| covers(&above, &p.end, symbols)).then_some(above)?
            }
        };
        let end = (&begin + &sizes[i]).ok()?;
        let sampled = (in_sample(&begin, symbols)?, in_sample(&end, symbols)?);
        placed.push(Placed { tensor: i, begin, end, sampled });
    }
    let mut ends: Vec<Dim> = Vec::new();
    for p in &placed {
        if !ends.iter().any(|end| covers(end, &p.end, symbols)) {
            ends.retain(|end| !covers(&p.end, end, symbols));
            ends.push(p.end.clone());
        }
    }
    let size = if ends.len() <= ENDS {
        let (first, rest) = ends.split_first()?;
        rest.iter().try_fold(first.clone(), |size, end| size.maximum(end)).ok()?
    } else {
        let all = ends.iter().try_fold(Dim::ZERO, |size, end| size.covering(end)).ok()?;
        ends.iter().all(|end| covers(&all, end, symbols)).then_some(all)?
    };
    let mut offsets = vec![Dim::ZERO; sizes.len()];
    placed.into_iter().for_each(|p| offsets[p.tensor] = p.begin);
    Some((offsets, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tensors of multiples of `n`, of `m` and of `n m`: none meet for any sizes, and little is lost.
    #[test]
    fn random_lives_of_symbolic_sizes_lose_little() {
        let mut symbols = Symbols::new();
        let [n, m] = ["n", "m"].map(|name| Dim::from(symbols.intern(name)));
        let kinds = [n.clone(), m.clone(), (&n * &m).unwrap()];
        let mut state = 11u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut ratios = Vec::new();
        for _ in 0..40 {
            let kinds = &kinds[below(3) as usize..];
            let mut sizes = Vec::new();
            let mut lives = Vec::new();
            for first in 0..10 + below(50) as usize {
                let kind = &kinds[below(kinds.len() as u64) as usize];
                sizes.push((kind * &Dim::from(64 * (1 + below(8) as i64))).unwrap());
                lives.push((first, first + 1 + below(4) as usize));
            }
            let at =
                |dim: &Dim, values: [i64; 2]| dim.eval(|s| values[usize::from(symbols.name(s) == "m")]).unwrap() as u64;
            let sized = |values| {
                let sized = sizes.iter().zip(&lives);
                sized.map(|(size, &(first, last))| Sized { bytes: at(size, values), first, last }).collect::<Vec<_>>()
            };
            let (offsets, arena) = plan(&sizes, &sized([128, 128]), &symbols).unwrap();
            for values in [[128, 128], [1, 300], [300, 1], [0, 7], [7, 0]] {
                let (tensors, arena) = (sized(values), at(&arena, values));
                let places: Vec<u64> = offsets.iter().map(|offset| at(offset, values)).collect();
                for (i, a) in tensors.iter().enumerate() {
                    assert!(places[i] + a.bytes <= arena);
                    for (j, b) in tensors.iter().enumerate().take(i).filter(|(_, b)| b.bytes > 0 && a.bytes > 0) {
                        let apart = places[i] + a.bytes <= places[j] || places[j] + b.bytes <= places[i];
                        assert!(apart || !a.meets(b), "{i} and {j} overlap for {values:?}");
                    }
                }
            }
            let tensors = sized([128, 128]);
            let least = tensors.iter().map(|a| {
                let alive = tensors.iter().filter(|b| (b.first..=b.last).contains(&a.first));
                alive.map(|b| b.bytes).sum::<u64>()
            });
            ratios.push(at(&arena, [128, 128]) as f64 / least.max().unwrap() as f64);
        }
        assert!(ratios.iter().sum::<f64>() / ratios.len() as f64 <= 1.05, "{ratios:?}");
    }
}
