//! The reference interpreter of kernels: the meaning of the Loop IR, and the test of a schedule.
//!
//! Every access is checked against its buffer's extent. Scratch is poisoned with all ones, a NaN of every float type,
//! before each task, and each task runs on its own, so that a kernel that counts on what another task left is found by
//! its results. A kernel is first flattened (see [`flatten`]): values live in consecutive 64-bit slots, one a lane.

mod access;
mod attend;
mod flatten;
mod lanes;
mod tile;

#[cfg(test)]
mod tests;

pub use flatten::FlatKernel;

use cranelift_entity::EntityRef;

use self::flatten::Code;
use super::{Access, Buffer, Inst, Kernel};

/// Why a kernel cannot run, or stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpError {
    /// An access outside of a buffer.
    #[error("kernel `{kernel}`: `{inst}` touches element {index} of {buffer} `{name}`, which has {len}")]
    OutOfBounds {
        /// The kernel's name.
        kernel: String,
        /// The instruction.
        inst: String,
        /// The buffer.
        buffer: Buffer,
        /// The buffer's name.
        name: String,
        /// The element.
        index: i128,
        /// The number of elements that the buffer has.
        len: u64,
    },
    /// The caller gives another number of buffers or parameters than the kernel has, or a buffer is too small.
    #[error("kernel `{kernel}`: {message}")]
    Arguments {
        /// The kernel's name.
        kernel: String,
        /// What does not fit.
        message: String,
    },
    /// A loop did not end within [`Options::max_steps`].
    #[error("kernel `{kernel}`: stopped after {steps} steps")]
    TooLong {
        /// The kernel's name.
        kernel: String,
        /// The limit.
        steps: u64,
    },
}

/// What the IR leaves to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether multiply-adds that may round once do so.
    pub fuse: bool,
    /// How many instructions a call may execute.
    pub max_steps: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { fuse: false, max_steps: u64::MAX }
    }
}

/// Where an argument buffer lies: a range of bytes of one of the memory regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Which region.
    pub region: usize,
    /// Its first byte.
    pub offset: usize,
    /// How many bytes it has.
    pub bytes: usize,
}

/// Runs the tasks `begin..end` of a kernel. `buffers` are the argument buffers' bytes in the order of the ABI.
pub fn run_kernel(
    kernel: &Kernel,
    buffers: &mut [&mut [u8]],
    params: &[i64],
    begin: i64,
    end: i64,
    worker: i64,
) -> Result<(), InterpError> {
    let bindings: Vec<Binding> =
        buffers.iter().enumerate().map(|(region, b)| Binding { region, offset: 0, bytes: b.len() }).collect();
    FlatKernel::new(kernel).run(buffers, &bindings, params, [begin, end, worker], &Options::default())
}

impl FlatKernel<'_> {
    /// Runs the tasks `begin..end` of `[begin, end, worker]`. The argument buffers lie in `regions` as `bindings` say, and
    /// may overlap there.
    pub fn run(
        &self,
        regions: &mut [&mut [u8]],
        bindings: &[Binding],
        params: &[i64],
        [begin, end, worker]: [i64; 3],
        options: &Options,
    ) -> Result<(), InterpError> {
        let kernel = self.kernel;
        let fail = |message: String| Err(InterpError::Arguments { kernel: kernel.name.clone(), message });
        let expected = kernel.arguments().count();
        if bindings.len() != expected || params.len() != kernel.params.len() {
            let (b, p) = (bindings.len(), params.len());
            return fail(format!("{b} buffers for {expected} and {p} parameters for {}", kernel.params.len()));
        }
        let mut places = Vec::with_capacity(kernel.buffers.len());
        let (scratch_offsets, scratch_bytes) = kernel.scratch_layout();
        let scratch_region = regions.len();
        let mut given = bindings.iter();
        for (buffer, data) in &kernel.buffers {
            let binding = if data.access == Access::Scratch {
                let (_, offset) =
                    scratch_offsets.iter().find(|(b, _)| *b == buffer).expect("each scratch has its place");
                let len = data.len.expect("scratch has a constant extent");
                let bytes = data.dtype.packed_bytes(len).expect("scratch is small") as usize;
                Binding { region: scratch_region, offset: *offset as usize, bytes }
            } else {
                *given.next().expect("the number is checked")
            };
            let bits = u64::from(data.dtype.bits());
            let held = binding.bytes as u64 * 8 / bits.max(1);
            if data.len.is_some_and(|len| len > held) {
                return fail(format!("{buffer} `{}` has {held} of {} elements", data.name, data.len.unwrap_or(0)));
            }
            places.push(access::Place { binding, len: data.len.unwrap_or(held), dtype: data.dtype });
        }
        let mut scratch = vec![0u8; scratch_bytes as usize];
        let mut memory: Vec<&mut [u8]> = regions.iter_mut().map(|r| &mut **r).collect();
        memory.push(&mut scratch);
        let mut machine = Machine {
            flat: self,
            memory,
            places,
            regs: vec![0; self.slots],
            fuse: options.fuse,
            steps_left: options.max_steps,
            max_steps: options.max_steps,
            sums: Vec::new(),
            scores: Vec::new(),
        };
        for &(slot, bits, lanes) in &self.constants {
            machine.regs[slot..slot + lanes].fill(bits);
        }
        for &(slot, lanes) in &self.iotas {
            (0..lanes).for_each(|i| machine.regs[slot + i] = i as u64);
        }
        for &(slot, number) in &self.params {
            machine.regs[slot] = params[number] as u64;
        }
        for task in begin..end {
            machine.memory[scratch_region].fill(0xff);
            let given = [task, task + 1, worker];
            for (&param, value) in kernel.blocks[kernel.body].params.iter().zip(given) {
                machine.regs[self.slot_of[param]] = value as u64;
            }
            machine.run()?;
        }
        Ok(())
    }
}

/// The state of a run.
struct Machine<'a, 'k> {
    flat: &'a FlatKernel<'k>,
    memory: Vec<&'a mut [u8]>,
    places: Vec<access::Place>,
    regs: Vec<u64>,
    fuse: bool,
    steps_left: u64,
    max_steps: u64,
    /// Those of the last tile.
    sums: Vec<u32>,
    /// Those of the last attention, row by row.
    scores: Vec<f32>,
}

impl Machine<'_, '_> {
    fn run(&mut self) -> Result<(), InterpError> {
        let flat = self.flat;
        let mut at = 0;
        while let Some(step) = flat.code.get(at) {
            at += 1;
            match step {
                Code::Jump(target) => {
                    // Each loop has a jump, so that counting them bounds the run.
                    if self.steps_left < (at - target.min(&at)) as u64 {
                        let kernel = flat.kernel.name.clone();
                        return Err(InterpError::TooLong { kernel, steps: self.max_steps });
                    }
                    self.steps_left -= (at - target.min(&at)) as u64;
                    at = *target;
                }
                Code::JumpUnless { cond, target } => {
                    if self.regs[*cond] == 0 {
                        at = *target;
                    }
                }
                Code::JumpUnlessLess { a, b, target } => {
                    if self.regs[*a] as i64 >= self.regs[*b] as i64 {
                        at = *target;
                    }
                }
                Code::Advance { index, step, end } => match (self.regs[*index] as i64).checked_add(*step) {
                    Some(next) => self.regs[*index] = next as u64,
                    None => at = *end,
                },
                Code::Move { from, to, lanes } => self.regs.copy_within(*from..from + lanes, *to),
                Code::Compute(op) => lanes::compute(&mut self.regs, op, self.fuse),
                Code::Memory(op) => {
                    if let Err((index, len)) = access::execute(&mut self.memory, &self.places, &mut self.regs, op) {
                        return Err(self.out_of_bounds(op.inst, op.buffer, index, len));
                    }
                }
                Code::TileSums(tile) => match tile::sums(&self.memory, &self.places, &self.regs, tile) {
                    Ok(sums) => self.sums = sums,
                    Err((buffer, index, len)) => return Err(self.out_of_bounds(tile.inst, buffer, index, len)),
                },
                Code::Products(attend) => match attend::products(&self.memory, &self.places, &mut self.regs, attend) {
                    Ok(scores) => self.scores = scores,
                    Err((buffer, index, len)) => return Err(self.out_of_bounds(attend.inst, buffer, index, len)),
                },
                Code::Product(place) => {
                    self.regs[place.score] = self.scores[attend::number(&self.regs, place)].to_bits().into();
                }
                Code::Score(place) => {
                    let number = attend::number(&self.regs, place);
                    self.scores[number] = f32::from_bits(self.regs[place.score] as u32);
                }
                Code::Weighted(attend) => {
                    match attend::sums(&self.memory, &self.places, &self.regs, attend, &self.scores) {
                        Ok(sums) => self.sums = sums,
                        Err((buffer, index, len)) => return Err(self.out_of_bounds(attend.inst, buffer, index, len)),
                    }
                }
                Code::TileBand { row, band, columns, pitch, buffer } => {
                    let first = self.regs[*row] as usize * columns;
                    let sums = &self.sums[first..first + band * columns];
                    tile::put(&mut self.memory, &self.places[*buffer], sums, (*columns, *pitch));
                }
            }
        }
        Ok(())
    }

    fn out_of_bounds(&self, inst: Inst, buffer: usize, index: i128, len: u64) -> InterpError {
        let kernel = self.flat.kernel;
        let buffer = Buffer::new(buffer);
        InterpError::OutOfBounds {
            kernel: kernel.name.clone(),
            inst: super::print::inst_text(kernel, inst),
            buffer,
            name: kernel.buffers[buffer].name.clone(),
            index,
            len,
        }
    }
}
