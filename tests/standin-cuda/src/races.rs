//! Who touched which byte when, and whether a barrier lies between.
//!
//! Time of a warp is cut into segments: a barrier of the warp or of the block begins a new one. A cell of the shadow
//! memory names the last writer and the last readers by segment and lane, in four bytes each. Two accesses are in order
//! when they are of one thread, of one warp in different segments, or of one block with a block barrier between; else they
//! race if one of them writes, unless both are atomic. Launches follow one another: what an earlier one left is in order.

/// The shadow of one word or byte of memory.
#[derive(Clone, Copy, Default)]
pub struct Cell {
    write: u32,
    read: u32,
}

// A stamp is `segment << 6 | flag << 5 | lane`. On a write the flag says atomic; on a read it says that several threads
// read, and the lane which: those of a warp, of a block or of the grid.
const FLAG: u32 = 32;
const OF_WARP: u32 = 1;
const OF_BLOCK: u32 = 2;
const OF_GRID: u32 = 3;
/// Segments until the stamps are full.
pub const SEGMENTS: u32 = 1 << 26;

#[derive(Clone, Copy)]
struct Segment {
    block: u32,
    warp: u32,
    /// Block barriers passed.
    barriers: u32,
}

/// The segments of one launch.
pub struct Clock {
    base: u32,
    segments: Vec<Segment>,
}

/// The present moment of a warp.
#[derive(Clone, Copy)]
pub struct Moment {
    segment: u32,
    block: u32,
    warp: u32,
    barriers: u32,
}

/// How memory is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    Read,
    Write,
    /// An atomic operation, or a load or store that is ordered by itself.
    Atomic,
}

/// The other side of a race.
#[derive(Clone, Copy, Debug)]
pub struct Conflict {
    pub block: u32,
    /// In its block.
    pub thread: u32,
    pub wrote: bool,
}

impl Clock {
    /// A launch's clock, whose segments begin at `base`, which is at least 1.
    pub fn new(base: u32) -> Clock {
        Clock { base, segments: Vec::new() }
    }

    /// The first free segment.
    pub fn end(&self) -> u32 {
        self.base + self.segments.len() as u32
    }

    /// Begins a segment of a warp.
    pub fn begin(&mut self, block: u32, warp: u32, barriers: u32) -> Moment {
        let segment = self.end();
        self.segments.push(Segment { block, warp, barriers });
        Moment { segment, block, warp, barriers }
    }

    /// The segment of a warp after a barrier.
    pub fn after(&mut self, moment: Moment, of_block: bool) -> Moment {
        self.begin(moment.block, moment.warp, moment.barriers + u32::from(of_block))
    }

    fn at(&self, stamp: u32) -> Option<Segment> {
        (stamp >> 6).checked_sub(self.base).map(|i| self.segments[i as usize])
    }

    fn ordered(&self, stamp: u32, now: &Moment) -> bool {
        let Some(then) = self.at(stamp) else { return true };
        if then.block != now.block {
            return false;
        }
        (then.warp == now.warp && stamp >> 6 != now.segment) || then.barriers < now.barriers
    }

    fn conflict(&self, stamp: u32, lane: u32, wrote: bool) -> Conflict {
        let then = self.at(stamp).expect("what is older than the launch is in order");
        Conflict { block: then.block, thread: then.warp * 32 + lane, wrote }
    }

    /// Notes an access by a lane at a moment, and says with what it races.
    pub fn touch(&self, cell: &mut Cell, now: &Moment, lane: u32, touch: Touch) -> Option<Conflict> {
        let mine = now.segment << 6 | lane;
        let w = cell.write;
        if w >> 6 >= self.base && w & !FLAG != mine {
            let both_atomic = touch == Touch::Atomic && w & FLAG != 0;
            if !both_atomic && !self.ordered(w, now) {
                return Some(self.conflict(w, w & 31, true));
            }
        }
        let r = cell.read;
        match touch {
            Touch::Read => cell.read = self.join(r, mine, now),
            Touch::Write | Touch::Atomic => {
                if r >> 6 >= self.base && r != mine {
                    let all_before = r & FLAG == 0 && self.ordered(r, now)
                        || r & FLAG != 0 && r & 31 != OF_GRID && self.all_ordered(r, now);
                    if !all_before {
                        return Some(self.conflict(r, if r & FLAG == 0 { r & 31 } else { 0 }, false));
                    }
                }
                cell.write = mine | if touch == Touch::Atomic { FLAG } else { 0 };
                cell.read = 0;
            }
        }
        None
    }

    /// Whether all of several readers came before. Of a block's readers only a block barrier orders all.
    fn all_ordered(&self, stamp: u32, now: &Moment) -> bool {
        if stamp & 31 == OF_WARP {
            return self.ordered(stamp, now);
        }
        self.at(stamp).is_none_or(|then| then.block == now.block && then.barriers < now.barriers)
    }

    /// The stamp of earlier readers and this one.
    fn join(&self, r: u32, mine: u32, now: &Moment) -> u32 {
        if r >> 6 < self.base || r == mine {
            return mine;
        }
        if r == (now.segment << 6 | FLAG | OF_WARP) || r & (FLAG | 31) == FLAG | OF_GRID {
            return r;
        }
        let then = self.at(r).expect("checked above");
        let before = if r & FLAG == 0 { self.ordered(r, now) } else { self.all_ordered(r, now) };
        if before {
            return mine;
        }
        let level = if then.block != now.block {
            OF_GRID
        } else if then.warp != now.warp || r & FLAG != 0 && r & 31 == OF_BLOCK {
            OF_BLOCK
        } else {
            OF_WARP
        };
        now.segment << 6 | FLAG | level
    }
}
