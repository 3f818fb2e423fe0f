//! Where the threads of a warp meet: one thread reads or overwrites what another one wrote in the same task.
//!
//! A warp's threads are ordered only by barriers. Between two of them, accesses to one memory are safe if none writes, or
//! if each thread keeps to elements of its own: accesses of the same lanes at the same address do. The set of accesses
//! since the last barrier is kept along the walk; around a loop's back edge it is enough to ask whether any two accesses
//! of the body could meet.

use onnxc_ir::loops::{Access, Address, Block, Buffer, InstData, Kernel};

use super::kernel::Mapping;

/// One access: lanes 0 stand for those that may touch any element.
#[derive(Clone, Debug, PartialEq)]
struct Touch {
    memory: Buffer,
    address: Address,
    lanes: u16,
    writes: bool,
}

/// What was accessed since the last barrier.
#[derive(Clone, Debug)]
pub(super) struct Hazards {
    touches: Vec<Touch>,
    /// The kernel's task runs on a warp and writes what it reads, or writes in more than one place.
    relevant: Vec<Buffer>,
    /// The buffer whose memory a buffer shares.
    shared: Vec<(Buffer, Buffer)>,
}

/// The accesses in a block, those of blocks in it too: the buffer, and whether it is written.
fn collect(kernel: &Kernel, block: Block, all: &mut Vec<(Buffer, bool)>) {
    for &inst in &kernel.blocks[block].insts {
        let data = &kernel.insts[inst].data;
        match data {
            InstData::Load { buffer, .. } | InstData::LoadSplat { buffer, .. } | InstData::Gather { buffer, .. } => {
                all.push((*buffer, false));
            }
            InstData::Store { buffer, .. } | InstData::Scatter { buffer, .. } => all.push((*buffer, true)),
            _ => data.blocks().into_iter().for_each(|inner| collect(kernel, inner, all)),
        }
    }
}

impl Hazards {
    /// Nothing accessed yet.
    pub(super) fn of(kernel: &Kernel, mapping: Mapping) -> Hazards {
        let shared: Vec<(Buffer, Buffer)> =
            kernel.buffers.iter().filter_map(|(b, data)| Some((b, data.in_place?))).collect();
        let mut all = Vec::new();
        collect(kernel, kernel.body, &mut all);
        let home = |b: Buffer| shared.iter().find(|(written, _)| *written == b).map_or(b, |&(_, read)| read);
        let mut relevant = Vec::new();
        for (buffer, data) in &kernel.buffers {
            if mapping == Mapping::Thread || data.access == Access::Read {
                continue;
            }
            let own = all.iter().filter(|t| home(t.0) == home(buffer)).count();
            // One place that writes, and none that reads, leaves each element to the thread that has its lane.
            if own > 1 {
                relevant.push(home(buffer));
            }
        }
        Hazards { touches: Vec::new(), relevant, shared }
    }

    fn home(&self, buffer: Buffer) -> Buffer {
        self.shared.iter().find(|(written, _)| *written == buffer).map_or(buffer, |&(_, read)| read)
    }

    /// Whether the kernel has any memory that its threads share.
    pub(super) fn any(&self) -> bool {
        !self.relevant.is_empty()
    }

    /// Whether anything was accessed since the last barrier.
    pub(super) fn pending(&self) -> bool {
        !self.touches.is_empty()
    }

    /// A barrier was emitted.
    pub(super) fn clear(&mut self) {
        self.touches.clear();
    }

    /// Adds what another path accessed.
    pub(super) fn join(&mut self, other: Hazards) {
        for touch in other.touches {
            if !self.touches.contains(&touch) {
                self.touches.push(touch);
            }
        }
    }

    /// Notes an access; gives whether a barrier is needed before it. `lanes` is 0 where any thread may touch any element.
    pub(super) fn access(&mut self, buffer: Buffer, address: &Address, lanes: u16, writes: bool) -> bool {
        let memory = self.home(buffer);
        if !self.relevant.contains(&memory) {
            return false;
        }
        let new = Touch { memory, address: address.clone(), lanes, writes };
        let meets = self.touches.iter().any(|old| meet(old, &new));
        if meets {
            self.touches.clear();
        }
        if !self.touches.contains(&new) {
            self.touches.push(new);
        }
        meets
    }

    /// Whether two accesses of a loop's body, in different iterations, could meet.
    pub(super) fn body_needs_barrier(&self, kernel: &Kernel, body: Block) -> bool {
        self.of_body(kernel, body).iter().any(|&(_, writes)| writes)
    }

    /// Whether a loop's body touches memory that the threads share.
    pub(super) fn body_touches(&self, kernel: &Kernel, body: Block) -> bool {
        !self.of_body(kernel, body).is_empty()
    }

    fn of_body(&self, kernel: &Kernel, body: Block) -> Vec<(Buffer, bool)> {
        let mut all = Vec::new();
        collect(kernel, body, &mut all);
        all.retain(|&(buffer, _)| self.relevant.contains(&self.home(buffer)));
        all
    }
}

/// Whether one access may touch, in another thread, what the other one wrote.
fn meet(a: &Touch, b: &Touch) -> bool {
    let same = a.lanes == b.lanes && a.lanes != 0 && a.address == b.address;
    a.memory == b.memory && (a.writes || b.writes) && !same
}
