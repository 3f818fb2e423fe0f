//! Tiles of matrix products on `wgmma`, for Hopper: groups of four warps that have roles of their own.
//!
//! The first group of a block fills a ring of stages in shared memory, the others multiply: each 64 rows of the tile, which
//! its warps hand on to the tile's body while the first group already fills stages of the block's next task. All groups walk
//! the same tasks, in the order of [`super::kernel`]; nothing but the ring joins them.
//!
//! A stage has two barriers (`mbarrier`). Who fills it waits until it is empty, writes, and arrives at the first; who
//! multiplies waits for that one, and each of its warps arrives at the second when its products are done. Both wait by the
//! parity of a stage's turns, so that none can overtake the other by more than the ring has stages.
//!
//! The depth goes by in steps of 128 bytes of each row. A stage has the left operand's rows and then the right one's: rows
//! of 128 bytes whose chunks of 16 are exchanged by the low three bits of the row's number, which is what `wgmma` calls a
//! swizzle of 128 bytes. A row is an operand's row (major in K), or 64 neighbours among the rows at one depth (major in M
//! or N), for 16-bit elements whose rows are neighbours in memory. `wgmma` reads behind the back of ordinary stores: who
//! writes by those makes them known by `fence.proxy.async`.
//!
//! Operands that are plain matrices of the wanted type are brought by the copy engine (TMA, `cp.async.bulk.tensor`): one
//! thread asks for boxes of a tensor map, whose bytes the stage's first barrier counts. Constant matrices in panels of 16
//! columns come panel by panel, with rows of 32 bytes.

mod consume;
mod maps;
mod produce;

use onnxc_ir::loops::{InstData, Kernel, Tile, TileKind};

use maps::{Boxed, Form, Values};
pub use maps::{Known, TensorMap};

use super::kernel::{Emit, Tasks, ins};
use super::text::{Class, Reg};

/// Bytes of a tensor map.
pub(super) const MAP_BYTES: usize = 128;

/// Threads of a group.
const GROUP: u32 = 128;

/// Rows that a group multiplies.
const ROWS: u32 = 64;

/// Bytes of a row that one step of the depth takes.
const STEP: u32 = 128;

/// Shared memory of a block: 227 KiB.
const SHARED: u32 = 227 << 10;

/// Registers of a thread that fills stages, and of one that multiplies, where two groups do: less than 64 Ki in all.
const FEW: u32 = 40;
const MANY: u32 = 232;

/// Stages that a ring has at most.
const STAGES: u32 = 5;

/// Barriers take this much at most, and are aligned.
const BARRIERS: u32 = 2 * 8 * STAGES;

/// How a tile is spread over groups, and where its memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// Groups that multiply.
    multiply: u32,
    /// Bytes of a stage.
    stage: u32,
    stages: u32,
    /// Bytes of the sums that one group hands on at a time.
    sums: u32,
    /// How the copy engine brings the operands, if it does.
    forms: [Option<Form>; 2],
}

impl Groups {
    /// Of a kernel with a tile that `wgmma` has shapes for, and the maps that it takes.
    pub(super) fn of(kernel: &Kernel) -> Option<(Groups, Vec<TensorMap>)> {
        let tile = tile_of(kernel)?;
        let (rows, columns, band) = (u32::from(tile.rows), u32::from(tile.cols), u32::from(tile.band));
        let whole = rows.is_multiple_of(ROWS) && columns.is_multiple_of(64) && columns <= 256;
        if !whole || rows > 2 * ROWS || !ROWS.is_multiple_of(band) || !alike(kernel, tile) {
            return None;
        }
        let (multiply, stage) = (rows / ROWS, (rows + columns) * STEP);
        let sums = band * u32::from(tile.pitch) * 4;
        let stages = ((SHARED - BARRIERS).checked_sub(multiply * sums)? / stage).min(STAGES);
        let boxes = boxes(kernel, tile);
        let forms = boxes.each_ref().map(|boxed| boxed.as_ref().map(|boxed| boxed.form));
        let maps = boxes.into_iter().flatten().map(|boxed| boxed.map).collect();
        (stages > produce::LATE).then_some((Groups { multiply, stage, stages, sums, forms }, maps))
    }

    /// Whether one thread fills the ring: all operands come in boxes.
    fn boxed(&self) -> bool {
        self.forms.iter().all(Option::is_some)
    }

    /// Numbers of the operands that have maps.
    pub(super) fn maps(&self) -> impl Iterator<Item = usize> {
        let forms = self.forms;
        (0..forms.len()).filter(move |&n| forms[n].is_some())
    }

    /// Threads of the block.
    pub(super) fn threads(&self) -> u32 {
        (1 + self.multiply) * GROUP
    }

    /// Where the barriers are: behind the ring and the sums.
    fn barriers(&self) -> u32 {
        self.stage * self.stages + self.multiply * self.sums
    }

    /// Bytes of shared memory that a block has.
    pub(super) fn bytes(&self) -> u32 {
        self.barriers() + BARRIERS
    }

    /// Blocks that a multiprocessor holds: as its shared memory and its registers allow.
    pub(super) fn resident(&self) -> u32 {
        // A kilobyte of each block's shared memory is the system's.
        let by_memory = (SHARED + 1024) / (self.bytes() + 1024);
        by_memory.min(if self.multiply == 1 { 2 } else { 1 })
    }

    /// From a stage's first barrier to its second.
    fn second(&self) -> u32 {
        8 * self.stages
    }
}

/// The tile of a kernel.
fn tile_of(kernel: &Kernel) -> Option<&Tile> {
    kernel.insts.values().find_map(|inst| match &inst.data {
        InstData::Tile(tile) => Some(&**tile),
        _ => None,
    })
}

/// The boxes of a tile's operands.
fn boxes(kernel: &Kernel, tile: &Tile) -> [Option<Boxed>; 2] {
    let values = Values::of(kernel);
    [values.boxes(tile, &tile.lhs, tile.rows), values.boxes(tile, &tile.rhs, tile.cols)]
}

/// Whether `wgmma` has a product of the operands' types.
fn alike(kernel: &Kernel, tile: &Tile) -> bool {
    let [left, right] = tile.operands().map(|operand| kernel.buffers[operand.buffer].dtype);
    // Bytes of both signs in one product are of PTX 8.4.
    tile.kind != TileKind::I8 || left == right
}

/// Where a group is in the ring.
#[derive(Clone, Copy)]
struct Turn {
    /// The stage.
    slot: Reg,
    /// Its first barrier.
    full: Reg,
    /// The parity that the group waits for.
    parity: Reg,
    /// The first stage and its first barrier.
    start: [Reg; 2],
}

/// What a group of warps does.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// Fills stages.
    Fill(Filler),
    /// Multiplies.
    Multiply(Multiplier),
}

/// The state of the group that fills stages.
#[derive(Clone, Copy)]
pub(super) struct Filler {
    groups: Groups,
    turn: Turn,
}

/// The state of a group that multiplies.
#[derive(Clone, Copy)]
pub(super) struct Multiplier {
    groups: Groups,
    turn: Turn,
    /// Its number among those that multiply.
    number: Reg,
    /// The thread's warp in its group.
    pub(super) warp: Reg,
    /// Where the group's sums are.
    sums: Reg,
}

impl Emit<'_> {
    /// Barriers, then the tasks of each role.
    pub(super) fn roles(&mut self, groups: Groups, tasks: Tasks) {
        let (tid, name) = (self.tid, self.name);
        let base = self.b32();
        ins!(self, "mov.u32 {base}, {name}_shared");
        let barriers = self.by("add.u32", base, groups.barriers());
        let first = self.reg(Class::Pred);
        ins!(self, "setp.eq.u32 {first}, {tid}, 0");
        for stage in 0..groups.stages {
            let (full, empty) = (8 * stage, 8 * stage + groups.second());
            let fillers = if groups.boxed() { 1 } else { GROUP / 32 };
            ins!(self, "@{first} mbarrier.init.shared::cta.b64 [{barriers}+{full}], {fillers}");
            ins!(self, "@{first} mbarrier.init.shared::cta.b64 [{barriers}+{empty}], {}", 4 * groups.multiply);
        }
        ins!(self, "@{first} fence.mbarrier_init.release.cluster");
        ins!(self, "bar.sync 0");
        let (multiplies, done) = (self.text.label("multiplies"), self.text.label("over"));
        let group = self.by("shr.u32", tid, GROUP.trailing_zeros());
        let others = self.reg(Class::Pred);
        ins!(self, "setp.ne.u32 {others}, {group}, 0");
        ins!(self, "@{others} bra {multiplies}");
        let hazards = self.hazards.clone();
        // One thread needs few registers, and leaves them to the sums.
        let uneven = groups.boxed() && groups.multiply == 2;
        if uneven {
            ins!(self, "setmaxnreg.dec.sync.aligned.u32 {FEW}");
        }
        if groups.boxed() {
            let idle = self.reg(Class::Pred);
            ins!(self, "setp.ge.u32 {idle}, {tid}, 32");
            ins!(self, "@{idle} bra {done}");
        }
        // A barrier that was just made counts as behind a turn of odd parity: all stages are empty.
        let turn = self.turn([base, barriers], 1);
        self.role = Some(Role::Fill(Filler { groups, turn }));
        self.tasks(tasks);
        ins!(self, "bra {done}");
        self.text.place(&multiplies);
        self.hazards = hazards;
        if uneven {
            ins!(self, "setmaxnreg.inc.sync.aligned.u32 {MANY}");
        }
        let turn = self.turn([base, barriers], 0);
        let number = self.by("sub.u32", group, 1);
        let warp = self.by("shr.u32", tid, 5);
        let warp = self.by("and.b32", warp, GROUP / 32 - 1);
        let ring = self.by("add.u32", base, groups.stage * groups.stages);
        let sums = self.scale_add(number, groups.sums, ring);
        let wide = self.reg(Class::B64);
        ins!(self, "cvt.u64.u32 {wide}, {sums}");
        for (buffer, _) in self.kernel.scratch_layout().0 {
            self.buffers[buffer] = Some(wide);
        }
        self.role = Some(Role::Multiply(Multiplier { groups, turn, number, warp, sums }));
        self.tasks(tasks);
        self.text.place(&done);
    }

    fn turn(&mut self, start: [Reg; 2], first: u32) -> Turn {
        let (slot, full, parity) = (self.b32(), self.b32(), self.b32());
        ins!(self, "mov.u32 {slot}, {}", start[0]);
        ins!(self, "mov.u32 {full}, {}", start[1]);
        ins!(self, "mov.u32 {parity}, {first}");
        Turn { slot, full, parity, start }
    }

    /// Goes on to the next stage.
    fn advance(&mut self, groups: &Groups, turn: &Turn) {
        let Turn { slot, full, parity, start } = turn;
        ins!(self, "add.u32 {slot}, {slot}, {}", groups.stage);
        ins!(self, "add.u32 {full}, {full}, 8");
        let (end, wrapped) = (self.by("add.u32", start[1], groups.second()), self.reg(Class::Pred));
        ins!(self, "setp.eq.u32 {wrapped}, {full}, {end}");
        ins!(self, "@{wrapped} mov.u32 {slot}, {}", start[0]);
        ins!(self, "@{wrapped} mov.u32 {full}, {}", start[1]);
        ins!(self, "@{wrapped} xor.b32 {parity}, {parity}, 1");
    }

    /// Waits for a barrier of the stage.
    fn await_stage(&mut self, turn: &Turn, offset: u32) {
        let (top, come) = (self.text.label("wait"), self.reg(Class::Pred));
        self.text.place(&top);
        ins!(self, "mbarrier.try_wait.parity.shared::cta.b64 {come}, [{}+{offset}], {}", turn.full, turn.parity);
        ins!(self, "@!{come} bra {top}");
    }

    /// A tile on the groups of this kernel.
    pub(super) fn group_tile(&mut self, tile: &Tile, role: Role) {
        match role {
            Role::Fill(filler) => self.fill(tile, &filler),
            Role::Multiply(multiplier) => self.multiply_stages(tile, &multiplier),
        }
    }
}
