//! A program's kernels as one PTX module.

use cranelift_entity::EntityRef;
use onnxc_ir::dim::{Dim, Symbols};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Kernel;
use onnxc_ir::loops::legalize::{Caps, legalize};
use onnxc_ir::program::{KernelRef, Program, Step};
use rayon::prelude::*;

use super::hopper::{Groups, TensorMap};
use super::kernel::{Mapping, WARP, block_scratch, emit, team_of};

/// Threads of a block whose warps or threads work on their own.
const THREADS: u32 = 128;

/// Workers at a time that have scratch memory of their own, at most; kernels without scratch have no such bound.
const SCRATCH_WORKERS: u64 = 132 * 16;

/// Scratch memory of all workers of a kernel, at most, where one of them does not need more.
const SCRATCH_BYTES: u64 = 256 << 20;

/// What a host program has to know of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// The name of its entry.
    pub name: String,
    /// What runs a task.
    pub mapping: Mapping,
    /// Threads of a block along x.
    pub threads: u32,
    /// Scratch of one worker in bytes; that of worker `w` is `w` times as far behind the address that the kernel gets.
    pub scratch_bytes: u64,
    /// Workers that a grid may have at most; none if any number will do.
    pub max_workers: Option<u64>,
    /// Bytes of shared memory that a launch gives each block, beside what the kernel declares.
    pub shared_bytes: u32,
    /// Blocks that one multiprocessor holds, where more would wait for nothing; none if that does not matter.
    pub blocks_per_multiprocessor: Option<u32>,
    /// Maps that the kernel takes behind its other parameters.
    pub maps: Vec<TensorMap>,
}

impl KernelInfo {
    /// Tasks that a block runs at the same time.
    pub fn workers_per_block(&self) -> u32 {
        match self.mapping {
            Mapping::Warp => self.threads / u32::from(WARP),
            Mapping::Thread => self.threads,
            Mapping::Block => 1,
        }
    }
}

/// A program's kernels.
#[derive(Clone, Debug)]
pub struct Module {
    /// The text.
    pub text: String,
    /// One record for each kernel of the program, in its order.
    pub kernels: Vec<KernelInfo>,
}

/// Makes the PTX of a program's kernels for a device of compute capability `sm`, such as `sm_80`.
pub fn module(program: &Program, sm: &str) -> Module {
    let most = most_tasks(program);
    let kernels: Vec<(KernelRef, &Kernel)> = program.kernels.iter().collect();
    let made: Vec<(String, KernelInfo)> = kernels
        .par_iter()
        .map(|(number, kernel)| {
            let legal = legalize(kernel, &Caps { converts: &[DType::F16, DType::BF16], ..Caps::default() });
            let (groups, maps) = match Groups::of(&legal) {
                Some((groups, maps)) if sm == "sm_90a" => (Some(groups), maps),
                _ => (None, Vec::new()),
            };
            let threads = match groups {
                Some(groups) => groups.threads(),
                None => team_of(&legal).map_or(THREADS, |team| team.threads),
            };
            assert!(threads <= 1024, "{}: a block of {threads} threads", kernel.name);
            let name = entry_name(program, *number, kernel);
            let text = emit(&legal, &name, most[number.index()], threads, groups);
            // What lies in the block's memory is no concern of the caller.
            let outside = block_scratch(&legal, threads).is_none();
            let scratch_bytes = if outside { legal.scratch_layout().1 } else { 0 };
            let workers = (SCRATCH_BYTES / scratch_bytes.max(1)).clamp(1, SCRATCH_WORKERS);
            let max_workers = (scratch_bytes > 0).then_some(workers);
            let mapping = Mapping::of(&legal);
            let (shared_bytes, blocks_per_multiprocessor) = match groups {
                Some(groups) => (groups.bytes(), Some(groups.resident())),
                None => (0, None),
            };
            let info = KernelInfo {
                name,
                mapping,
                threads,
                scratch_bytes,
                max_workers,
                shared_bytes,
                blocks_per_multiprocessor,
                maps,
            };
            (text, info)
        })
        .collect();
    // `.NaN` minima are of 7.0, `mma` and `cp.async` of 7.0 too; drivers of CUDA 11.8 and later take 7.8.
    let version = if sm == "sm_90a" { "8.0" } else { "7.8" };
    let mut text = format!(".version {version}\n.target {sm}\n.address_size 64\n");
    let mut infos = Vec::new();
    for ((_, kernel), (body, info)) in kernels.iter().zip(made) {
        text.push_str(&format!("\n// {}\n{body}", kernel.name.replace(['\n', '\r'], " ")));
        infos.push(info);
    }
    Module { text, kernels: infos }
}

/// The symbol of a kernel: a name that PTX accepts.
fn entry_name(program: &Program, number: KernelRef, kernel: &Kernel) -> String {
    let plain = kernel.name.chars().take(80).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    format!("{}_k{}_{}", program.name, number.index(), plain.collect::<String>())
}

/// The highest number of tasks of each kernel's launches.
fn most_tasks(program: &Program) -> Vec<i64> {
    let mut most = vec![0; program.kernels.len()];
    for step in program.all_steps() {
        if let Step::Launch(launch) = step {
            let tasks = greatest(&launch.tasks, &program.symbols);
            let most = &mut most[launch.kernel.index()];
            *most = tasks.max(*most);
        }
    }
    most
}

fn greatest(dim: &Dim, symbols: &Symbols) -> i64 {
    dim.as_const().unwrap_or_else(|| dim.bounds(symbols).1)
}
