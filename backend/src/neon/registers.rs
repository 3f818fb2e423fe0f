//! The registers of AArch64 that may be allocated: x18 belongs to some platforms, x29 to x31 to the frame, and x16 and x17 to
//! emission. Of v8 to v15 a function keeps the lower halves.

use regalloc2::{MachineEnv, PReg, PRegSet, RegClass};

use super::machine::{GENERAL, VECTOR};

/// General registers that a function keeps.
pub const CALLEE_SAVED: [usize; 10] = [19, 20, 21, 22, 23, 24, 25, 26, 27, 28];
/// Vector registers whose lower halves a function keeps.
pub const CALLEE_SAVED_VECTORS: [usize; 8] = [8, 9, 10, 11, 12, 13, 14, 15];

/// What the allocator may use.
pub fn environment() -> MachineEnv {
    let set = |class: RegClass, registers: &mut dyn Iterator<Item = usize>| -> PRegSet {
        registers.map(|r| PReg::new(r, class)).collect()
    };
    MachineEnv {
        preferred_regs_by_class: [set(GENERAL, &mut (0..16)), set(VECTOR, &mut (0..8).chain(16..32)), PRegSet::empty()],
        non_preferred_regs_by_class: [
            set(GENERAL, &mut CALLEE_SAVED.into_iter()),
            set(VECTOR, &mut CALLEE_SAVED_VECTORS.into_iter()),
            PRegSet::empty(),
        ],
        scratch_by_class: [None; 3],
        fixed_stack_slots: Vec::new(),
    }
}
