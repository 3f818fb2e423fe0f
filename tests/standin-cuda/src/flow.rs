//! Where the paths of a branch meet again: the immediate post-dominator of its block.

use crate::kernel::{Inst, Op};

/// Sets `join` of every branch. Targets are set. A path that ends counts as going behind the last instruction.
pub fn set_joins(insts: &mut [Inst]) {
    let end = insts.len();
    let mut leader = vec![false; end + 1];
    leader[0] = true;
    leader[end] = true;
    for (i, inst) in insts.iter().enumerate() {
        match inst.op {
            Op::Branch { target, .. } => {
                leader[target as usize] = true;
                leader[i + 1] = true;
            }
            Op::Exit | Op::Trap => leader[i + 1] = true,
            _ => {}
        }
    }
    let starts: Vec<usize> = (0..=end).filter(|&i| leader[i]).collect();
    let block_of = |i: usize| starts.partition_point(|&s| s <= i) - 1;
    let exit = starts.len() - 1;
    let mut successors: Vec<Vec<usize>> = (0..exit).map(|b| next(insts, starts[b + 1] - 1, end, &block_of)).collect();
    successors.push(Vec::new());
    // Post-order of the reversed graph from the exit; blocks that never end do not appear and join nowhere.
    let mut predecessors = vec![Vec::new(); exit + 1];
    for (b, list) in successors.iter().enumerate() {
        list.iter().for_each(|&s| predecessors[s].push(b));
    }
    let mut number = vec![usize::MAX; exit + 1];
    let mut order = Vec::new();
    let mut seen = vec![false; exit + 1];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((b, at)) = stack.pop() {
        if let Some(&p) = predecessors[b].get(at) {
            stack.push((b, at + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            number[b] = order.len();
            order.push(b);
        }
    }
    let mut idom = vec![usize::MAX; exit + 1];
    idom[exit] = exit;
    loop {
        let mut changed = false;
        for &b in order.iter().rev().filter(|&&b| b != exit) {
            let mut known = successors[b].iter().copied().filter(|&s| idom[s] != usize::MAX);
            let Some(first) = known.next() else { continue };
            let new = known.fold(first, |mut x, mut y| {
                while x != y {
                    while number[x] < number[y] {
                        x = idom[x];
                    }
                    while number[y] < number[x] {
                        y = idom[y];
                    }
                }
                x
            });
            changed |= idom[b] != new;
            idom[b] = new;
        }
        if !changed {
            break;
        }
    }
    for (i, inst) in insts.iter_mut().enumerate() {
        let block = block_of(i);
        if let Op::Branch { join, .. } = &mut inst.op {
            *join = if idom[block] == usize::MAX { end } else { starts[idom[block]] } as u32;
        }
    }
}

fn next(insts: &[Inst], last: usize, end: usize, block_of: &dyn Fn(usize) -> usize) -> Vec<usize> {
    let inst = &insts[last];
    let always = inst.guard.pred == 0 && !inst.guard.negated;
    let through = block_of(last + 1);
    match inst.op {
        Op::Branch { target, .. } if always => vec![block_of(target as usize)],
        Op::Branch { target, .. } => vec![block_of(target as usize), through],
        Op::Exit | Op::Trap if always => vec![block_of(end)],
        Op::Exit | Op::Trap => vec![block_of(end), through],
        _ => vec![through],
    }
}
