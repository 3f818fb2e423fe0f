//! Offsets for tensors whose sizes are known.
//!
//! Each takes the lowest offset that is free for its whole life; the order in which they come decides how much is lost.
//! Finding the best order is a hard problem, so several are tried, and the best is improved: what ends at the top comes earlier
//! the next time. Most models need no more than the first order, since that reaches what is alive at once.

use std::cmp::Reverse;

/// A tensor: its bytes, and the first and the last step that need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sized {
    pub(super) bytes: u64,
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Sized {
    pub(super) fn meets(&self, other: &Sized) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Rounds that improving may take, and the pairs of tensors that they may look at: a few tenths of a second.
const ROUNDS: usize = 2000;
const PAIRS: usize = 200_000_000;
/// After so many rounds two tensors change places, as the rounds may go in circles.
const STIR: usize = 4;

/// Offsets in the order of the tensors, and where the last one ends.
pub(super) fn plan(tensors: &[Sized]) -> (Vec<u64>, u64) {
    let least = live(tensors).into_iter().max().unwrap_or(0);
    let mut starts: Vec<(Vec<u64>, u64, Vec<usize>)> = Vec::new();
    for order in orders(tensors) {
        let (offsets, size) = place(tensors, &order);
        if size == least {
            return (offsets, size);
        }
        starts.push((offsets, size, order));
    }
    let Some(best) = starts.iter().min_by_key(|(_, size, _)| *size) else { return (Vec::new(), 0) };
    let mut best = (best.0.clone(), best.1);
    let rounds = (PAIRS / (tensors.len() * tensors.len())).min(ROUNDS) / starts.len();
    for (mut offsets, mut size, mut order) in starts {
        for round in 0..rounds {
            // Stable: among those that end at the top and among the others the order stays.
            order.sort_by_key(|&i| offsets[i] + tensors[i].bytes != size);
            if round % STIR == STIR - 1 {
                let (a, b) = (round * 7 % order.len(), round * 13 % order.len());
                order.swap(a, b);
            }
            (offsets, size) = place(tensors, &order);
            if size < best.1 {
                best = (offsets.clone(), size);
            }
            if size == least {
                return best;
            }
        }
    }
    best
}

/// The bytes that are alive at each step where a tensor's life begins, in the order of the tensors.
fn live(tensors: &[Sized]) -> Vec<u64> {
    let mut changes: Vec<(usize, bool, usize)> = Vec::with_capacity(tensors.len() * 2);
    for (i, tensor) in tensors.iter().enumerate() {
        changes.push((tensor.first, false, i));
        changes.push((tensor.last, true, i));
    }
    // What begins at a step meets what ends there.
    changes.sort_unstable();
    let (mut alive, mut all) = (0, vec![0; tensors.len()]);
    let mut begun: Vec<usize> = Vec::new();
    for (n, &(step, ends, i)) in changes.iter().enumerate() {
        if ends {
            alive -= tensors[i].bytes;
        } else {
            alive += tensors[i].bytes;
            begun.push(i);
            if changes.get(n + 1).is_none_or(|&(next, ends, _)| ends || next != step) {
                begun.drain(..).for_each(|i| all[i] = alive);
            }
        }
    }
    all
}

/// Orders that do well on different models, the usual best one first.
pub(super) fn orders(tensors: &[Sized]) -> impl Iterator<Item = Vec<usize>> {
    let live = live(tensors);
    (0..6).map(move |kind| {
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| {
            let Sized { bytes, first, last } = tensors[i];
            let key = match kind {
                0 => bytes,
                // Where most is alive, little may be lost.
                1 => live[i],
                2 => bytes.saturating_mul((last - first + 1) as u64),
                3 => (last - first) as u64,
                // What is collected to the end lies below what comes and goes meanwhile.
                4 => last as u64,
                _ => u64::MAX - first as u64,
            };
            (Reverse(key), Reverse(bytes), first, i)
        });
        order
    })
}

/// Places the tensors in this order.
fn place(tensors: &[Sized], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0; tensors.len()];
    // Placed so far, by offset: (offset, tensor).
    let mut placed: Vec<(u64, usize)> = Vec::with_capacity(tensors.len());
    let mut size = 0;
    for &i in order {
        let mut offset = 0;
        for &(start, other) in placed.iter().filter(|&&(_, other)| tensors[i].meets(&tensors[other])) {
            if offset + tensors[i].bytes <= start {
                break;
            }
            offset = offset.max(start + tensors[other].bytes);
        }
        let at = placed.partition_point(|&(start, _)| start < offset);
        placed.insert(at, (offset, i));
        offsets[i] = offset;
        size = size.max(offset + tensors[i].bytes);
    }
    (offsets, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, the same each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }
    }

    fn check(tensors: &[Sized]) -> f64 {
        let (offsets, size) = plan(tensors);
        for (i, a) in tensors.iter().enumerate() {
            assert!(offsets[i] + a.bytes <= size);
            for (j, b) in tensors.iter().enumerate().take(i) {
                let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                assert!(apart || !a.meets(b), "{i} and {j} overlap");
            }
        }
        let least = (0..100).map(|step| {
            let alive = tensors.iter().filter(|t| (t.first..=t.last).contains(&step));
            alive.map(|t| t.bytes).sum::<u64>()
        });
        size as f64 / least.max().unwrap() as f64
    }

    /// Networks: most tensors are read by the next step or the one after, some are kept for longer.
    #[test]
    fn random_lives_lose_little() {
        let mut random = Random(7);
        let mut all = Vec::new();
        for _ in 0..200 {
            let steps = 10 + random.below(80) as usize;
            let tensors: Vec<Sized> = (0..steps)
                .map(|first| {
                    let long = random.below(4) == 0;
                    let life = 1 + random.below(if long { 12 } else { 2 }) as usize;
                    Sized { bytes: 64 * (1 + random.below(400)), first, last: first + life }
                })
                .collect();
            all.push(check(&tensors));
        }
        all.sort_by(f64::total_cmp);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!(mean <= 1.005 && all[all.len() - 1] <= 1.1);
    }

    /// By size alone this takes a third more than is alive at once.
    #[test]
    fn a_block_with_two_branches_needs_what_is_alive() {
        let sized = |bytes, first, last| Sized { bytes, first, last };
        let tensors = [sized(3, 0, 1), sized(4, 1, 2), sized(3, 2, 3), sized(1, 0, 4), sized(2, 3, 5), sized(5, 4, 6)];
        assert_eq!(check(&tensors), 1.0);
    }
}
