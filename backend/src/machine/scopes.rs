//! Where a selection puts what does not change: a scope for each loop's body and each side of a branch, of which the outer
//! ones stay open while an inner one is filled.

use onnxc_ir::loops::{Block, InstData, Kernel};

use super::Label;

/// Where the code of a scope goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The block that is filled.
    pub block: Label,
    /// Whether a loop inside of this one carries vectors, so that registers are scarce there.
    busy: bool,
    /// Whether the scope is a loop's body.
    is_loop: bool,
}

impl Place {
    /// Of a block of the kernel whose code begins in `label`.
    pub fn new(kernel: &Kernel, block: Block, label: Label, is_loop: bool) -> Place {
        Place { block: label, busy: busy(kernel, block), is_loop }
    }
}

/// Whether a loop directly inside of the block, or below it, carries vectors.
fn busy(kernel: &Kernel, block: Block) -> bool {
    kernel.blocks[block].insts.iter().any(|&inst| {
        let data = &kernel.insts[inst].data;
        let carries = match data {
            InstData::For { init, .. } => init.iter().any(|&v| kernel.ty(v).lanes > 1),
            _ => false,
        };
        carries || data.blocks().iter().any(|&b| busy(kernel, b))
    })
}

/// The number of the scope in which a constant is made that the innermost one wants: before the innermost loops that have no
/// loops in them; where loops follow inside, only on the spot.
pub fn scope_of_constants(innermost: usize, place: impl Fn(usize) -> Place) -> usize {
    let quiet_loop = |depth: usize| place(depth).is_loop && !place(depth).busy;
    let mut depth = innermost;
    while depth > 0 && quiet_loop(depth) && !place(depth - 1).busy {
        depth -= 1;
    }
    if depth == innermost && depth > 0 && quiet_loop(depth) {
        depth -= 1;
    }
    depth
}
