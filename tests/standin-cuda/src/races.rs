//! Who touched which byte when, and whether a barrier lies between.
//!
//! Time of a warp is cut into segments: a barrier of the warp, of the block, of some warps, or an arrival at an `mbarrier`
//! begins a new one. A warp has a view: for each warp of its block the last segment that came before its present one.
//! Barriers join views. A cell of the shadow memory names the last writer and the last readers by segment and lane, in four
//! bytes each. Two accesses are in order when they are of one thread, of one warp in different segments, or of one block
//! and the later one's view has the earlier one's segment; else they race if one of them writes, unless both are atomic.
//! Launches follow one another: what an earlier one left is in order.
//!
//! What the matrix units read and the copies of tensors write is behind the back of ordinary accesses (another proxy): such
//! a read is in order with a store only where the storing warp made it known (`fence.proxy.async`) in between.

use std::collections::HashMap;

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
    /// [`SET`] where this stands for the readers of several warps.
    warp: u32,
}

const SET: u32 = u32::MAX;

/// The last segments of some warps.
type Readers = Vec<(u32, u32)>;

/// The segments of one launch.
pub struct Clock {
    base: u32,
    segments: Vec<Segment>,
    /// Of the present block: for each warp the last segments that came before, of each warp and each source of copies.
    views: Vec<Vec<u32>>,
    /// Segments that a warp began when it made its stores known to the other proxy.
    fences: Vec<Vec<u32>>,
    sets: HashMap<u32, Readers>,
    /// The set of a stamp's segment and one more reader.
    joined: HashMap<(u32, u32), u32>,
    last: ((u32, u32), u32),
}

/// The present moment of a warp.
#[derive(Clone, Copy)]
pub struct Moment {
    segment: u32,
    /// The warp's segment before that.
    before: u32,
    block: u32,
    warp: u32,
}

/// What came before a moment: the last segments of each warp and each source of copies.
pub type View = Vec<u32>;

/// Copies that come from nowhere: barriers that they complete on.
pub const SOURCES: usize = 32;

/// How memory is touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    Read,
    Write,
    /// An atomic operation, or a load or store that is ordered by itself.
    Atomic,
    /// A read by the other proxy.
    Behind,
}

/// The other side of a race.
#[derive(Clone, Copy, Debug)]
pub struct Conflict {
    pub block: u32,
    /// In its block.
    pub thread: u32,
    pub wrote: bool,
    /// It is in order, but no fence made it known to the other proxy.
    pub unfenced: bool,
}

impl Clock {
    /// A launch's clock, whose segments begin at `base`, which is at least 1.
    pub fn new(base: u32) -> Clock {
        Clock {
            base,
            segments: Vec::new(),
            views: Vec::new(),
            fences: Vec::new(),
            sets: HashMap::new(),
            joined: HashMap::new(),
            last: ((0, 0), 0),
        }
    }

    /// The first free segment.
    pub fn end(&self) -> u32 {
        self.base + self.segments.len() as u32
    }

    /// Begins a block of so many warps.
    pub fn enter(&mut self, warps: usize) {
        self.views.clear();
        self.views.resize(warps, vec![0; warps + SOURCES]);
        self.fences.clear();
        self.fences.resize(warps, Vec::new());
        self.sets.clear();
        self.joined.clear();
        self.last = ((0, 0), 0);
    }

    fn push(&mut self, block: u32, warp: u32) -> u32 {
        self.segments.push(Segment { block, warp });
        self.end() - 1
    }

    /// Begins the first segment of a warp.
    pub fn begin(&mut self, block: u32, warp: u32) -> Moment {
        let segment = self.push(block, warp);
        Moment { segment, before: 0, block, warp }
    }

    /// The segment of a warp after a barrier.
    pub fn after(&mut self, moment: Moment) -> Moment {
        Moment { before: moment.segment, ..self.begin(moment.block, moment.warp) }
    }

    /// The segment in which copies that complete on a barrier of this number write.
    pub fn deliver(&mut self, block: u32, source: usize, view: &mut View) -> u32 {
        let warp = self.views.len() + source;
        let segment = self.push(block, warp as u32);
        view[warp] = segment;
        segment
    }

    /// Notes that a copy wrote.
    pub fn wrote(&self, cell: &mut Cell, segment: u32) {
        *cell = Cell { write: segment << 6, read: 0 };
    }

    /// What came before a warp's next segment, or before its present one.
    pub fn view(&self, moment: &Moment, with_present: bool) -> View {
        let mut view = self.views[moment.warp as usize].clone();
        view[moment.warp as usize] = if with_present { moment.segment } else { moment.before };
        view
    }

    /// What a view has comes before the warp's segments from now on.
    pub fn learn(&mut self, moment: Moment, view: &View) -> Moment {
        join(&mut self.views[moment.warp as usize], view);
        self.after(moment)
    }

    /// The warp's stores so far are known to the other proxy.
    pub fn fence(&mut self, moment: Moment) -> Moment {
        let moment = self.after(moment);
        self.fences[moment.warp as usize].push(moment.segment);
        moment
    }

    /// Whether what a warp did at a moment was made known to the other proxy, as far as another warp can know now.
    pub fn known(&self, then: &Moment, now: &Moment) -> bool {
        self.announced(then.segment, then.warp, now)
    }

    fn announced(&self, segment: u32, warp: u32, now: &Moment) -> bool {
        let Some(fences) = self.fences.get(warp as usize) else { return true };
        let next = fences.partition_point(|&fence| fence <= segment);
        fences.get(next).is_some_and(|&fence| warp == now.warp || fence <= self.views[now.warp as usize][warp as usize])
    }

    fn at(&self, stamp: u32) -> Option<Segment> {
        (stamp >> 6).checked_sub(self.base).map(|i| self.segments[i as usize])
    }

    fn seen(&self, warp: u32, segment: u32, now: &Moment) -> bool {
        warp == now.warp && segment != now.segment || self.views[now.warp as usize][warp as usize] >= segment
    }

    fn ordered(&self, stamp: u32, now: &Moment) -> bool {
        let Some(then) = self.at(stamp) else { return true };
        then.block == now.block && self.seen(then.warp, stamp >> 6, now)
    }

    fn conflict(&self, stamp: u32, lane: u32, wrote: bool) -> Conflict {
        let then = self.at(stamp).expect("what is older than the launch is in order");
        let warp = if then.warp == SET { self.sets[&(stamp >> 6)][0].0 } else { then.warp };
        Conflict { block: then.block, thread: warp * 32 + lane, wrote, unfenced: false }
    }

    /// Notes an access by a lane at a moment, and says with what it races.
    pub fn touch(&mut self, cell: &mut Cell, now: &Moment, lane: u32, touch: Touch) -> Option<Conflict> {
        let mine = now.segment << 6 | lane;
        let w = cell.write;
        if w >> 6 >= self.base && w & !FLAG != mine {
            let both_atomic = touch == Touch::Atomic && w & FLAG != 0;
            if !both_atomic && !self.ordered(w, now) {
                return Some(self.conflict(w, w & 31, true));
            }
        }
        if touch == Touch::Behind
            && let Some(then) = self.at(w)
            && !self.announced(w >> 6, then.warp, now)
        {
            return Some(Conflict { unfenced: true, ..self.conflict(w, w & 31, true) });
        }
        let r = cell.read;
        match touch {
            Touch::Read | Touch::Behind => cell.read = self.join(r, mine, now),
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

    /// Whether all of several readers came before.
    fn all_ordered(&self, stamp: u32, now: &Moment) -> bool {
        match self.at(stamp) {
            None => true,
            Some(then) if then.block != now.block => false,
            Some(Segment { warp: SET, .. }) => {
                self.sets[&(stamp >> 6)].iter().all(|&(warp, segment)| self.seen(warp, segment, now))
            }
            Some(_) => self.ordered(stamp, now),
        }
    }

    /// The stamp of earlier readers and this one.
    fn join(&mut self, r: u32, mine: u32, now: &Moment) -> u32 {
        if r >> 6 < self.base || r == mine {
            return mine;
        }
        if r == (now.segment << 6 | FLAG | OF_WARP) || r & (FLAG | 31) == FLAG | OF_GRID {
            return r;
        }
        let key = (r >> 6, now.segment);
        if r & (FLAG | 31) == FLAG | OF_BLOCK && self.last.0 == key {
            return self.last.1;
        }
        let then = self.at(r).expect("checked above");
        let before = if r & FLAG == 0 { self.ordered(r, now) } else { self.all_ordered(r, now) };
        if before {
            return mine;
        }
        if then.block != now.block {
            return now.segment << 6 | FLAG | OF_GRID;
        }
        if then.warp == now.warp {
            return now.segment << 6 | FLAG | OF_WARP;
        }
        let set = match self.joined.get(&key) {
            Some(&set) => set,
            None => {
                let mut readers = if then.warp == SET { self.sets[&key.0].clone() } else { vec![(then.warp, key.0)] };
                readers.retain(|&(warp, _)| warp != now.warp);
                readers.push((now.warp, now.segment));
                readers.sort_unstable();
                let set = self.push(now.block, SET);
                self.sets.insert(set, readers);
                self.joined.insert(key, set);
                // Who reads again adds nothing.
                self.joined.insert((set, now.segment), set);
                set
            }
        };
        let stamp = set << 6 | FLAG | OF_BLOCK;
        self.last = (key, stamp);
        stamp
    }
}

/// Puts together what came before.
pub fn join(view: &mut View, other: &View) {
    view.iter_mut().zip(other).for_each(|(a, &b)| *a = (*a).max(b));
}
