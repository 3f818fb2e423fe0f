//! Linked models that own their memory.

use alloc::alloc::{alloc, alloc_zeroed, dealloc, handle_alloc_error};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ffi::c_void;
use core::ptr::NonNull;

use super::{Block, Memory, Parallel, RunError, Zeroable, blocks, room, run_with};
use crate::abi::{ALIGN, MAX_WORKERS, onnxc_model, onnxc_value};
use crate::status::Status;

/// The arena and the outputs of a model of fixed sizes.
pub struct Fixed<O> {
    arena: Vec<Block>,
    outputs: Box<O>,
}

impl<O: Zeroable> Fixed<O> {
    /// Memory for one worker. Like a `Vec`, it aborts where there is none.
    pub fn new(arena_bytes: usize) -> Self {
        let layout = Layout::new::<O>();
        let outputs = match layout.size() {
            // SAFETY: a type without bytes needs no memory, and its only value is zero.
            0 => unsafe { Box::from_raw(NonNull::<O>::dangling().as_ptr()) },
            _ => {
                // SAFETY: the layout has bytes; zeros are a value of the type (`Zeroable`).
                unsafe {
                    let place = alloc_zeroed(layout);
                    if place.is_null() {
                        handle_alloc_error(layout);
                    }
                    Box::from_raw(place.cast())
                }
            }
        };
        Self { arena: alloc::vec![Block::NEW; blocks(arena_bytes)], outputs }
    }

    /// The arena, with as much as `worker_bytes` more for each further worker, and the outputs.
    pub fn parts(&mut self, arena_bytes: usize, worker_bytes: usize, workers: usize) -> (Memory, &mut O) {
        let workers = workers.clamp(1, MAX_WORKERS);
        let needed = blocks(arena_bytes + worker_bytes * (workers - 1));
        if needed > self.arena.len() {
            self.arena.resize(needed, Block::NEW);
        }
        (Memory::of(&mut self.arena), &mut self.outputs)
    }

    /// The outputs of the last run.
    pub fn outputs(&self) -> &O {
        &self.outputs
    }
}

/// The arena and the outputs of a model whose sizes follow from inputs or from data: they grow where a run asks for more.
#[derive(Default)]
pub struct Growing {
    arena: Vec<Block>,
    outputs: Vec<Memory64>,
}

impl Growing {
    /// No memory yet.
    pub const fn new() -> Self {
        Self { arena: Vec::new(), outputs: Vec::new() }
    }

    /// Runs the model on inputs and gives the outputs, which stay until the next run.
    ///
    /// # Safety
    /// The model is an object of onnxc's, linked in, and behind each input is as much memory as its dims say.
    pub unsafe fn run(
        &mut self,
        model: &'static onnxc_model,
        inputs: &mut [onnxc_value],
        parallel: Option<&dyn Parallel>,
    ) -> Result<Vec<onnxc_value>, RunError> {
        let from_heap = model.memory == crate::abi::MEMORY_DATA;
        let count = model.output_count as usize;
        if from_heap {
            self.outputs.clear();
        }
        self.outputs.resize_with(if from_heap { 0 } else { count }, Memory64::default);
        loop {
            let mut values: Vec<onnxc_value> = (0..count)
                .map(|port| match self.outputs.get(port) {
                    Some(memory) => room(model, port, memory.first(), memory.bytes()),
                    None => room(model, port, core::ptr::null_mut(), 0),
                })
                .collect();
            let heap = from_heap.then_some((take as _, give as _));
            // SAFETY: the caller's promise; the outputs' memory is this model's own.
            let outcome = unsafe { run_with(model, inputs, &mut values, Memory::of(&mut self.arena), parallel, heap) };
            match outcome {
                Ok(()) => {
                    if from_heap {
                        self.outputs = values.iter().map(Memory64::taken).collect();
                    }
                    return Ok(values);
                }
                Err(error) => match error.status() {
                    Status::ArenaSize if error.fault().expected > size_of_val(&self.arena[..]) as i64 => {
                        self.arena.resize(blocks(error.fault().expected as usize), Block::NEW);
                    }
                    Status::More if self.grow(&values) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Gives each output the memory that its dims ask for; whether any had too little.
    fn grow(&mut self, values: &[onnxc_value]) -> bool {
        let mut grown = false;
        for (memory, value) in self.outputs.iter_mut().zip(values) {
            let elements: i64 = value.dims[..value.tensor.ndim as usize].iter().product();
            let bytes = (elements as usize * usize::from(value.tensor.dtype.bits)).div_ceil(8);
            if bytes > memory.bytes() {
                *memory = Memory64::new(bytes);
                grown = true;
            }
        }
        grown
    }
}

/// Memory aligned to 64 bytes, of at least one byte where there is any.
#[derive(Default)]
struct Memory64(Option<(NonNull<u8>, usize)>);

// SAFETY: the memory has one owner.
unsafe impl Send for Memory64 {}
// SAFETY: nothing writes through a shared reference.
unsafe impl Sync for Memory64 {}

impl Memory64 {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.max(1);
        let first = NonNull::new(take(core::ptr::null_mut(), bytes, ALIGN).cast());
        Self(Some((first.unwrap_or_else(|| handle_alloc_error(Layout::new::<Block>())), bytes)))
    }

    /// What a run allocated for an output.
    fn taken(value: &onnxc_value) -> Self {
        Self(NonNull::new(value.tensor.data.cast()).map(|first| (first, value.capacity_bytes as usize)))
    }

    fn first(&self) -> *mut u8 {
        self.0.map_or(core::ptr::null_mut(), |(first, _)| first.as_ptr())
    }

    fn bytes(&self) -> usize {
        self.0.map_or(0, |(_, bytes)| bytes)
    }
}

impl Drop for Memory64 {
    fn drop(&mut self) {
        give(core::ptr::null_mut(), self.first().cast(), self.bytes());
    }
}

/// An [`abi::onnxc_alloc_fn`](crate::abi::onnxc_alloc_fn).
extern "C" fn take(_user: *mut c_void, bytes: usize, align: usize) -> *mut c_void {
    // Memory goes back with nothing but its size, so that all of it has one alignment.
    match Layout::from_size_align(bytes, ALIGN) {
        // SAFETY: the layout has bytes.
        Ok(layout) if bytes > 0 && align <= ALIGN => unsafe { alloc(layout).cast() },
        _ => core::ptr::null_mut(),
    }
}

/// An [`abi::onnxc_release_fn`](crate::abi::onnxc_release_fn).
extern "C" fn give(_user: *mut c_void, pointer: *mut c_void, bytes: usize) {
    if !pointer.is_null() {
        let layout = Layout::from_size_align(bytes, ALIGN).expect("memory of this size was allocated");
        // SAFETY: it came from `take` with this layout.
        unsafe { dealloc(pointer.cast(), layout) }
    }
}
