//! Offsets for tensors whose sizes depend on symbols, such that no two meet whatever the symbols are.
//!
//! As in [`fixed`](super::fixed) each takes the lowest offset that is free for its whole life, where lowest is meant for one
//! sample of the symbols and free for all of their values: of two tensors that are alive together, one must be known to end
//! where the other begins or before. Offsets are sums of sizes, and maxima of such over tensors that cannot be compared.

use std::cmp::Reverse;

use onnxc_ir::dim::{Dim, Symbols};

use super::fixed::{self, Sized};

/// Offsets that are tried, and ends that a maximum is taken of.
const CANDIDATES: usize = 8;
const ENDS: usize = 4;
/// Atoms of an offset that is a maximum: runs compute it.
const LARGEST: u32 = 40;

/// The bytes that a size is in the sample of the symbols.
pub(super) fn in_sample(size: &Dim, symbols: &Symbols) -> Option<u64> {
    size.eval(|symbol| symbols.sample(symbol)).and_then(|bytes| u64::try_from(bytes).ok())
}

/// Whether `a` is at least `b` for all values of the symbols.
pub(super) fn covers(a: &Dim, b: &Dim, symbols: &Symbols) -> bool {
    a == b || (a - b).is_ok_and(|more| more.is_never_negative(symbols))
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
    let both = |order: Vec<usize>| [(order.clone(), Above::Covers), (order, Above::Greatest)];
    let by_growth = std::iter::once_with(|| by_growth(sizes, sampled, symbols));
    for (order, above) in fixed::orders(sampled).chain(by_growth).flat_map(both) {
        let Some((offsets, size)) = place(sizes, sampled, &order, above, symbols) else { continue };
        let taken = in_sample(&size, symbols)?;
        if best.as_ref().is_none_or(|(other, ..)| taken < *other) {
            best = Some((taken, offsets, size));
        }
    }
    best.map(|(_, offsets, size)| (offsets, size))
}

/// Tensors that live long below the others, and those below that grow least with the symbols: of these it is known over
/// which of the others they fit.
fn by_growth(sizes: &[Dim], sampled: &[Sized], symbols: &Symbols) -> Vec<usize> {
    /// A long life, as a part of all steps.
    const LONG: usize = 8;
    let steps = sampled.iter().map(|tensor| tensor.last).max().unwrap_or(0);
    let twice = |size: &Dim| size.eval(|symbol| 2 * symbols.sample(symbol)).and_then(|n| u64::try_from(n).ok());
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_cached_key(|&i| {
        let Sized { bytes, first, last } = sampled[i];
        let growth = twice(&sizes[i]).map_or(u64::MAX, |twice| (twice + bytes / 2) / bytes.max(1));
        (last - first <= steps / LONG, growth, Reverse(last - first), Reverse(bytes), first)
    });
    order
}

/// Where a tensor goes that fits in no place known to be free.
#[derive(Clone, Copy)]
enum Above {
    /// Over a sum that covers the others: more than they take, but later tensors compare with it easily.
    Covers,
    /// Over the greatest of the others.
    Greatest,
}

fn place(
    sizes: &[Dim],
    sampled: &[Sized],
    order: &[usize],
    above: Above,
    symbols: &Symbols,
) -> Option<(Vec<Dim>, Dim)> {
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
                let ends = ends(others.iter().map(|p| &p.end), symbols);
                match above {
                    Above::Covers => covering(&ends, symbols)?,
                    Above::Greatest => greatest(&ends, symbols)?,
                }
            }
        };
        let end = (&begin + &sizes[i]).ok()?;
        let sampled = (in_sample(&begin, symbols)?, in_sample(&end, symbols)?);
        placed.push(Placed { tensor: i, begin, end, sampled });
    }
    let size = greatest(&ends(placed.iter().map(|p| &p.end), symbols), symbols)?;
    let mut offsets = vec![Dim::ZERO; sizes.len()];
    placed.into_iter().for_each(|p| offsets[p.tensor] = p.begin);
    Some((offsets, size))
}

/// Those of some ends that none of the others is known to cover.
fn ends<'a>(all: impl Iterator<Item = &'a Dim>, symbols: &Symbols) -> Vec<&'a Dim> {
    let mut ends: Vec<&Dim> = Vec::new();
    for end in all {
        if !ends.iter().any(|other| covers(other, end, symbols)) {
            ends.retain(|other| !covers(end, other, symbols));
            ends.push(end);
        }
    }
    ends
}

/// The greatest of some ends, or what covers them all if that would be too large an expression.
fn greatest(ends: &[&Dim], symbols: &Symbols) -> Option<Dim> {
    if ends.len() <= ENDS {
        let greatest = ends.iter().try_fold(None, |greatest: Option<Dim>, &end| match greatest {
            Some(greatest) => greatest.maximum(end).map(Some),
            None => Ok(Some(end.clone())),
        });
        if let Some(greatest) = greatest.ok().flatten().filter(|dim| dim.size() <= LARGEST) {
            return Some(greatest);
        }
    }
    covering(ends, symbols)
}

/// A sum that is known to be at least each of some ends.
fn covering(ends: &[&Dim], symbols: &Symbols) -> Option<Dim> {
    let all = ends.iter().try_fold(Dim::ZERO, |size, end| size.covering(end)).ok()?;
    ends.iter().all(|end| covers(&all, end, symbols)).then_some(all)
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
