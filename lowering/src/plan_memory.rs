//! Places tensors in the arena so that those that are alive together do not overlap.
//!
//! Each tensor lives from the step that writes it to the last step that reads it. [`fixed`] places those of known size.
//! Tensors whose size depends on symbols follow the others, placed by [`symbolic`] or in blocks that one takes after the
//! other where one of two sizes is the greater for all values of the symbols, whatever takes less for a sample. A layout for
//! tests gives each tensor pages of its own instead.

mod fixed;
mod symbolic;

use fixed::Sized;
use onnxc_ir::dim::{Dim, DimError, Symbols};
use onnxc_ir::program::Apart;

/// Alignment of every tensor in bytes: a cache line, and the widest vector register.
pub const ALIGNMENT: u64 = 64;

/// A tensor that needs room.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Size in bytes.
    pub bytes: Dim,
    /// The first step that needs it.
    pub first: usize,
    /// The last step that needs it.
    pub last: usize,
}

impl Tenant {
    fn sized(&self, bytes: u64) -> Sized {
        Sized { bytes, first: self.first, last: self.last }
    }
}

/// The offsets of the tenants in bytes, in their order, and the size of the arena.
///
/// # Errors
/// When sums of sizes that depend on symbols become too large an expression.
pub fn plan(tenants: &[Tenant], symbols: &Symbols) -> Result<(Vec<Dim>, Dim), DimError> {
    let mut offsets = vec![Dim::ZERO; tenants.len()];
    let (mut fixed, mut sized, mut varying) = (Vec::new(), Vec::new(), Vec::new());
    for (i, tenant) in tenants.iter().enumerate() {
        match tenant.bytes.as_const() {
            Some(bytes) => {
                fixed.push(i);
                sized.push(tenant.sized((bytes.max(1) as u64).next_multiple_of(ALIGNMENT)));
            }
            None => varying.push(i),
        }
    }
    let (places, size) = fixed::plan(&sized);
    for (i, place) in fixed.into_iter().zip(places) {
        offsets[i] = Dim::from(place as i64);
    }
    let base = Dim::from(size as i64);
    let (places, end) = plan_varying(tenants, varying, symbols)?;
    for (i, place) in places {
        offsets[i] = (&base + &place)?;
    }
    Ok((offsets, (&base + &end)?))
}

/// Offsets of tenants whose sizes depend on symbols, and where the last one ends.
fn plan_varying(
    tenants: &[Tenant],
    varying: Vec<usize>,
    symbols: &Symbols,
) -> Result<(Vec<(usize, Dim)>, Dim), DimError> {
    // Sums of products can be compared, roundings hardly: what is no multiple of a line takes another one, and places are
    // rounded in the end.
    let is_whole = |size: &Dim| whole_lines(size).is_ok_and(|whole| whole == *size);
    let padded = |bytes: &Dim| if is_whole(bytes) { Ok(bytes.clone()) } else { bytes + &Dim::from(ALIGNMENT as i64) };
    let sizes = varying.iter().map(|&i| padded(&tenants[i].bytes)).collect::<Result<Vec<Dim>, _>>()?;
    let bytes = |size: &Dim| symbolic::in_sample(size, symbols);
    let sampled = varying.iter().zip(&sizes).map(|(&i, size)| Some(tenants[i].sized(bytes(size)?)));
    let compared =
        sampled.collect::<Option<Vec<Sized>>>().and_then(|sampled| symbolic::plan(&sizes, &sampled, symbols));
    // What cannot be compared shares blocks with what is equal; so do models whose sizes follow each other that way.
    let (mut blocks, mut end) = (Vec::new(), Dim::ZERO);
    for block in share(tenants, varying.clone(), symbols) {
        blocks.extend(block.tenants.iter().map(|&i| (i, end.clone())));
        end = (&end + &whole_lines(&block.bytes)?)?;
    }
    let better = |size: &Dim| bytes(size).zip(bytes(&end)).is_some_and(|(size, end)| size <= end);
    Ok(match compared {
        Some((places, size)) if better(&size) => {
            // Sums and maxima of whole lines are such.
            let whole = sizes.iter().all(is_whole);
            let rounded = |place: &Dim| if whole { Ok(place.clone()) } else { whole_lines(place) };
            let places = places.iter().map(rounded).collect::<Result<Vec<Dim>, _>>()?;
            (varying.into_iter().zip(places).collect(), rounded(&size)?)
        }
        _ => (blocks, end),
    })
}

/// A size rounded up to whole lines of [`ALIGNMENT`] bytes.
fn whole_lines(bytes: &Dim) -> Result<Dim, DimError> {
    let line = Dim::from(ALIGNMENT as i64);
    bytes.ceil_div(&line).and_then(|lines| &lines * &line)
}

/// Memory that several tenants have, one after the other.
struct Block {
    /// The size of the greatest.
    bytes: Dim,
    /// The last step that needs it so far.
    last: usize,
    tenants: Vec<usize>,
}

/// Gives tenants blocks in the order in which they come. One takes the smallest block that is free and large enough, else
/// makes the largest one that is free large enough.
fn share(tenants: &[Tenant], mut order: Vec<usize>, symbols: &Symbols) -> Vec<Block> {
    order.sort_by_key(|&i| (tenants[i].first, i));
    let at_least = |a: &Dim, b: &Dim| symbolic::covers(a, b, symbols);
    let mut blocks: Vec<Block> = Vec::new();
    for i in order {
        let Tenant { bytes, first, last } = &tenants[i];
        let free = || (0..blocks.len()).filter(|&n| blocks[n].last < *first);
        let fitting = free().filter(|&n| at_least(&blocks[n].bytes, bytes));
        let smallest = fitting.reduce(|a, b| if at_least(&blocks[a].bytes, &blocks[b].bytes) { b } else { a });
        let growing = || {
            let smaller = free().filter(|&n| at_least(bytes, &blocks[n].bytes));
            smaller.reduce(|a, b| if at_least(&blocks[a].bytes, &blocks[b].bytes) { a } else { b })
        };
        match smallest.or_else(growing) {
            Some(n) => {
                let block = &mut blocks[n];
                if !at_least(&block.bytes, bytes) {
                    block.bytes = bytes.clone();
                }
                block.last = *last;
                block.tenants.push(i);
            }
            None => blocks.push(Block { bytes: bytes.clone(), last: *last, tenants: vec![i] }),
        }
    }
    blocks
}

/// The same with pages of its own for each tenant. The size leaves as much of the last page as `scratch` bytes need.
pub fn plan_apart(tenants: &[Tenant], apart: Apart, scratch: u64) -> Result<(Vec<Dim>, Dim), DimError> {
    let mut end = Dim::ZERO;
    let mut offsets = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        let (offset, next) = apart.place(&end, &tenant.bytes)?;
        offsets.push(offset);
        end = next;
    }
    let slack = if apart.at_end { scratch.next_multiple_of(apart.page) - scratch } else { 0 };
    Ok((offsets, (&end + &Dim::from((apart.page + slack) as i64))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(bytes: i64, first: usize, last: usize) -> Tenant {
        Tenant { bytes: Dim::from(bytes), first, last }
    }

    #[test]
    fn a_chain_needs_its_two_largest_neighbours() {
        let chain = [tenant(100, 0, 1), tenant(200, 1, 2), tenant(300, 2, 3), tenant(50, 3, 4)];
        let (offsets, size) = plan(&chain, &Symbols::new()).unwrap();
        assert_eq!(size, Dim::from(320 + 256));
        for (i, a) in chain.iter().enumerate() {
            for (j, b) in chain.iter().enumerate().skip(i + 1) {
                let (x, y) = (offsets[i].as_const().unwrap(), offsets[j].as_const().unwrap());
                let apart = x + a.bytes.as_const().unwrap() <= y || y + b.bytes.as_const().unwrap() <= x;
                assert!(apart || a.last < b.first || b.last < a.first, "{i} and {j} overlap");
            }
        }
    }

    #[test]
    fn sizes_of_symbols_share_memory_where_one_is_the_greater() {
        let mut symbols = Symbols::new();
        let [n, m] = ["n", "m"].map(|name| Dim::from(symbols.intern(name)));
        let bytes = |factor: i64, d: &Dim| (d * &Dim::from(factor)).unwrap();
        let tenant = |bytes, first, last| Tenant { bytes, first, last };
        let tenants = [
            tenant(bytes(64, &n), 0, 1),
            tenant(bytes(128, &n), 1, 2),
            // 192 n are never less than 64 n.
            tenant(bytes(192, &n), 2, 3),
            tenant(bytes(128, &n), 3, 4),
            // Nothing is known about n and m, but nothing else is alive.
            tenant(bytes(64, &m), 5, 6),
        ];
        let (offsets, size) = plan(&tenants, &symbols).unwrap();
        assert_eq!(offsets[0], offsets[2]);
        assert_eq!(offsets[1], offsets[3]);
        assert_eq!(size, bytes(320, &n).maximum(&bytes(64, &m)).unwrap());
    }

    #[test]
    fn sizes_that_are_no_lines_lie_on_lines_without_meeting() {
        let mut symbols = Symbols::new();
        let [n, m] = ["n", "m"].map(|name| Dim::from(symbols.intern(name)));
        let product = |a: &Dim, b: &Dim| (a * b).unwrap();
        let kinds = [product(&n, &m), product(&n, &n), product(&m, &Dim::from(16)), n.clone()];
        let mut state = 5u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..20 {
            let random = |first: usize, below: &mut dyn FnMut(u64) -> u64| Tenant {
                bytes: product(&kinds[below(4) as usize], &Dim::from(4 * (1 + below(40) as i64))),
                first,
                last: first + 1 + below(3) as usize,
            };
            let tenants: Vec<Tenant> = (0..5 + below(20) as usize).map(|first| random(first, &mut below)).collect();
            let (offsets, size) = plan(&tenants, &symbols).unwrap();
            for values in [[1, 1], [5, 3], [0, 9], [100, 1], [1, 100]] {
                let at = |dim: &Dim| dim.eval(|s| values[usize::from(symbols.name(s) == "m")]).unwrap();
                for (i, a) in tenants.iter().enumerate() {
                    let (begin, end) = (at(&offsets[i]), at(&offsets[i]) + at(&a.bytes));
                    assert!(begin % ALIGNMENT as i64 == 0 && end <= at(&size), "{i} for {values:?}");
                    for (b, offset) in tenants.iter().zip(&offsets).take(i) {
                        let apart = end <= at(offset) || at(offset) + at(&b.bytes) <= begin;
                        let empty = at(&a.bytes) == 0 || at(&b.bytes) == 0;
                        assert!(apart || empty || a.last < b.first || b.last < a.first, "{i} for {values:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tensors_that_lie_apart_have_a_page_between_them() {
        let tenants = [tenant(100, 0, 1), tenant(8192, 0, 1), tenant(0, 0, 1), tenant(4097, 0, 1)];
        let offsets = |at_end| {
            let (offsets, size) = plan_apart(&tenants, Apart { page: 4096, at_end }, 64).unwrap();
            (offsets.iter().map(|o| o.as_const().unwrap()).collect::<Vec<_>>(), size.as_const().unwrap())
        };
        assert_eq!(offsets(false), (vec![4096, 12288, 24576, 28672], 40960));
        assert_eq!(offsets(true), (vec![8192 - 100, 12288, 24576, 36864 - 4097], 40960 + 4096 - 64));
    }
}
