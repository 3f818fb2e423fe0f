//! A launch: blocks one after the other, the warps of a block in turns between barriers.

use crate::kernel::Kernel;
use crate::memory::{Memory, Piece};
use crate::races::{Clock, SEGMENTS};
use crate::warp::{Context, Stop, Trouble, Warp};

/// Shared memory that a block may have, in bytes.
pub const MAX_SHARED: u64 = 99 * 1024;

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
    if threads == 0 || threads > most || blocks == 0 || blocks > u64::from(u32::MAX) || shared > MAX_SHARED {
        let text = format!(
            "{}: a launch of {blocks} blocks of {threads} threads with {shared} bytes of shared memory: at most {most} \
             threads and {MAX_SHARED} bytes are there",
            kernel.name
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
        for number in 0..threads.div_ceil(32) as u32 {
            let moment = context.clock.begin(block, number, 0);
            if number as usize == warps.len() {
                warps.push(Warp::new(kernel, moment));
            }
            warps[number as usize].start(number, moment, &context);
        }
        run_block(&mut warps, &mut context, threads as u32)
            .map_err(|(warp, trouble)| report(&context, warp, &trouble))?;
    }
    *segment = context.clock.end();
    Ok(())
}

fn run_block(warps: &mut [Warp], context: &mut Context, threads: u32) -> Result<(), (usize, Trouble)> {
    // What each warp waits for.
    let mut waits: Vec<Option<(u64, Option<u64>, u32)>> = vec![None; warps.len()];
    loop {
        let mut ran = false;
        for (i, warp) in warps.iter_mut().enumerate() {
            if waits[i].is_none() && !warp.done() {
                ran = true;
                if let Stop::Barrier { id, threads, line } = warp.run(context).map_err(|t| (i, t))? {
                    waits[i] = Some((id, threads, line));
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
                // A barrier of some warps orders those only; their count of barriers stays comparable all the same.
                let all = wanted == alive || threads <= 32;
                for i in here {
                    waits[i] = None;
                    warps[i].moment = context.clock.after(warps[i].moment, all);
                }
                released = true;
            }
        }
        if !ran && !released {
            let Some(stuck) = (0..warps.len()).find(|&i| waits[i].is_some()) else { return Ok(()) };
            let line = waits[stuck].map_or(0, |w| w.2);
            let what = "waits at a barrier that other warps of the block never reach".to_string();
            return Err((stuck, Trouble { line, lane: 0, address: None, misaligned: false, race: false, what }));
        }
    }
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
