//! A launch: blocks one after the other, the warps of a block in turns between barriers.

use std::collections::HashMap;

use crate::kernel::Kernel;
use crate::memory::{Memory, Piece};
use crate::races::{Clock, SEGMENTS, join};
use crate::warp::{Context, Stop, Trouble, Warp};

/// Shared memory that a block may have on a device of a compute capability, in bytes.
pub fn max_shared(capability: u32) -> u64 {
    if capability == 90 { 227 << 10 } else { 99 << 10 }
}

/// Shared memory that a kernel may declare, and that a block may have without being allowed more, in bytes.
pub const DEFAULT_SHARED: u64 = 48 * 1024;

/// How many blocks of how many threads, and bytes of shared memory besides what the kernel declares.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y and z.
    pub threads: [u32; 3],
    /// Bytes.
    pub dynamic_shared: u32,
}

/// Why a launch failed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel, line, block, thread, address and what happened, in one line.
    pub text: String,
    /// An access that is not a multiple of its size.
    pub misaligned: bool,
    /// Two threads touched the same bytes.
    pub race: bool,
    /// The launch does not fit the kernel or the device; nothing ran.
    pub invalid: bool,
}

/// Runs a kernel on parameters (their bytes, at the offsets that the kernel states). `segment` is the clock's counter, which
/// starts at 1 and belongs with the memory.
pub fn launch(
    kernel: &Kernel,
    memory: &mut Memory,
    params: &[u8],
    grid: Grid,
    check_races: bool,
    segment: &mut u32,
) -> Result<(), Report> {
    let threads: u64 = grid.threads.iter().map(|&t| u64::from(t)).product();
    let blocks: u64 = grid.blocks.iter().map(|&b| u64::from(b)).product();
    let shared = kernel.shared.next_multiple_of(16) + u64::from(grid.dynamic_shared);
    let most = u64::from(kernel.max_threads.min(1024));
    if threads == 0 || threads > most || blocks == 0 || blocks > u64::from(u32::MAX) || shared > kernel.most_shared {
        let text = format!(
            "{}: a launch of {blocks} blocks of {threads} threads with {shared} bytes of shared memory: at most {most} \
             threads and {} bytes are there",
            kernel.name, kernel.most_shared
        );
        return Err(Report { text, misaligned: false, race: false, invalid: true });
    }
    if *segment > SEGMENTS / 2 {
        memory.forget();
        *segment = 1;
    }
    let mut context = Context {
        kernel,
        memory,
        shared: Piece::new(shared as usize),
        arriving: vec![0; (shared as usize).div_ceil(4)],
        clock: Clock::new(*segment),
        barriers: Vec::new(),
        barriers_made: 0,
        registers: HashMap::new(),
        products: HashMap::new(),
        progress: 0,
        params,
        grid,
        block: [0; 3],
        hints: vec![0; kernel.insts.len()],
        check_races,
        executed: 0,
    };
    let mut warps = Vec::new();
    for block in 0..blocks as u32 {
        let along = grid.blocks;
        context.block = [block % along[0], block / along[0] % along[1], block / along[0] / along[1]];
        if block > 0 && shared > 0 {
            context.shared.bytes.fill(0xFF);
            context.shared.forget();
            context.arriving.fill(0);
        }
        context.barriers.clear();
        context.barriers_made = 0;
        context.registers.clear();
        context.products.clear();
        context.clock.enter(threads.div_ceil(32) as usize);
        for number in 0..threads.div_ceil(32) as u32 {
            let moment = context.clock.begin(block, number);
            if number as usize == warps.len() {
                warps.push(Warp::new(kernel, moment));
            }
            warps[number as usize].start(number, moment, &context);
        }
        run_block(&mut warps, &mut context).map_err(|(warp, trouble)| report(&context, warp, &trouble))?;
    }
    *segment = context.clock.end();
    Ok(())
}

fn run_block(warps: &mut [Warp], context: &mut Context) -> Result<(), (usize, Trouble)> {
    // What each warp waits for.
    let mut waits: Vec<Option<(u64, Option<u64>, u32)>> = vec![None; warps.len()];
    loop {
        let (mut ran, mut asks, before) = (false, None, context.progress);
        for (i, warp) in warps.iter_mut().enumerate() {
            if waits[i].is_none() && !warp.done() {
                match warp.run(context).map_err(|t| (i, t))? {
                    Stop::Barrier { id, threads, line } => {
                        ran = true;
                        waits[i] = Some((id, threads, line));
                    }
                    Stop::Done => ran = true,
                    Stop::Asks { line } => asks = Some((i, line)),
                }
            }
        }
        let mut released = false;
        for id in 0..16 {
            let here: Vec<usize> = (0..warps.len()).filter(|&i| waits[i].is_some_and(|w| w.0 == id)).collect();
            let Some(&first) = here.first() else { continue };
            let alive = warps.iter().filter(|w| !w.done()).count();
            let wanted = match waits[first].and_then(|w| w.1) {
                Some(threads) => (threads as usize).div_ceil(32),
                None => alive,
            };
            if here.len() == wanted {
                let mut met = context.clock.view(&warps[first].moment, true);
                here.iter().for_each(|&i| join(&mut met, &context.clock.view(&warps[i].moment, true)));
                for i in here {
                    waits[i] = None;
                    warps[i].moment = context.clock.learn(warps[i].moment, &met);
                }
                released = true;
            }
        }
        if !ran && !released && before == context.progress {
            let stuck = |line, what: &str| {
                let what = what.to_string();
                Trouble { line, lane: 0, address: None, misaligned: false, race: false, what }
            };
            if let Some((i, line)) = asks {
                return Err((i, stuck(line, "waits for a phase of an mbarrier that nothing completes")));
            }
            let Some(i) = (0..warps.len()).find(|&i| waits[i].is_some()) else {
                if let Some(line) = context.undelivered() {
                    return Err((0, stuck(line, "this box is under way when the block ends")));
                }
                return registers(warps.len(), context).map_err(|what| (0, stuck(0, &what)));
            };
            let line = waits[i].map_or(0, |w| w.2);
            return Err((i, stuck(line, "waits at a barrier that other warps of the block never reach")));
        }
    }
}

/// Checks what `setmaxnreg` gave: the same to the four warps of a group, and no more than there are.
fn registers(warps: usize, context: &Context) -> Result<(), String> {
    if context.registers.is_empty() {
        return Ok(());
    }
    let of = |warp: usize| context.registers.get(&(warp as u32)).copied();
    let all: u32 = (0..warps).map(|warp| 32 * of(warp).unwrap_or(0)).sum();
    if (0..warps).any(|warp| of(warp).is_none() || of(warp) != of(warp & !3)) {
        return Err("setmaxnreg is not the same for all warps of a group".to_string());
    }
    if all > 64 << 10 {
        return Err(format!("setmaxnreg gives {all} registers, and 65536 are there"));
    }
    Ok(())
}

fn report(context: &Context, warp: usize, trouble: &Trouble) -> Report {
    let [x, y, z] = context.block;
    let thread = 32 * warp as u32 + trouble.lane;
    let address = trouble.address.map(|a| format!(" at address {a:#x}")).unwrap_or_default();
    Report {
        text: format!(
            "{}, line {}, block ({x}, {y}, {z}), thread {thread}: {}{address}",
            context.kernel.name, trouble.line, trouble.what
        ),
        misaligned: trouble.misaligned,
        race: trouble.race,
        invalid: false,
    }
}
