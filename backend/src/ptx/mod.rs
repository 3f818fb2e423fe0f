//! NVIDIA GPUs: kernels as PTX, with a description of what a host program has to do.
//!
//! One `.entry` for each kernel, from the same legalised Loop IR as on every target. Its parameters are the addresses of
//! the buffers that are no scratch, in the kernel's order, the kernel's parameters, `begin` and `end` of the tasks, and
//! the address of the scratch memory of all workers (unused where it fits into the memory of the blocks). All addresses
//! are multiples of 16. The grid has any number of blocks along x, of as many threads as the kernel wants; a worker is a
//! warp, a thread or a block ([`Mapping`]), and each runs the tasks `begin + its number, + the number of workers, ...`.
//!
//! Files: `text` (registers and lines), `facts` (bounds and divisors of indices), `hazards` (where the threads of a warp
//! meet), `kernel` (the walk), `memory`, `arithmetic`, `lanes` (operations), `tile`
//! (matrix products on matrix instructions), `hopper` (the same by groups of warps), `attend` (attention on matrix
//! instructions), `module` (a program's text and description).

mod arithmetic;
mod attend;
mod facts;
mod hazards;
mod hopper;
mod kernel;
mod lanes;
mod memory;
mod module;
#[cfg(test)]
mod tests;
mod text;
mod tile;

pub use hopper::{Known, TensorMap};
pub use kernel::Mapping;
pub use module::{KernelInfo, Module, module};
