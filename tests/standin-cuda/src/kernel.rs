//! A module ready to run: kernels with their instructions decoded.

use crate::barriers::Deed;
use crate::convert::Conversion;
use crate::decode;
use crate::groups::Product;
use crate::memory::Memory;
use crate::tensor::BoxCopy;
use crate::text::{self, Refusal};
use crate::types::{CompareFn, LaneFn, Ty};

/// A register's number. Constants, parameters and special registers are registers too.
pub type Reg = u32;
/// A predicate's number; the first always holds.
pub type Pred = u32;

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Global,
    Shared,
    Local,
    Generic,
}

/// Generic addresses of the block's shared memory begin here.
pub const SHARED_WINDOW: u64 = 1 << 56;
/// Generic addresses of the thread's local memory begin here.
pub const LOCAL_WINDOW: u64 = 1 << 57;

/// An address: register plus offset.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub space: Space,
    pub base: Reg,
    pub offset: i64,
}

/// Logic on predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Logic {
    And,
    Or,
    Xor,
    /// The first operand.
    Same,
}

impl Logic {
    /// On masks of lanes.
    pub fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
            Logic::Same => a,
        }
    }
}

/// A predicate operand, possibly negated.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub pred: Pred,
    pub negated: bool,
}

/// How a shuffle moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    All,
    Any,
    Uniform,
}

/// What an atomic operation does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
}

/// Types of a matrix product's operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Multiplicand {
    Half,
    Brain,
    Tensor,
    /// Signed bytes, or unsigned ones.
    Byte {
        signed: bool,
    },
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Op {
    /// `d = f(a, b, c)`.
    Lanes {
        f: LaneFn,
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
    },
    Convert {
        conversion: Conversion,
        d: Reg,
        a: Reg,
    },
    /// `cvt` of two numbers to one register, the first in the upper half.
    ConvertPair {
        conversion: Conversion,
        d: Reg,
        high: Reg,
        low: Reg,
    },
    Insert {
        d: Reg,
        field: Reg,
        into: Reg,
        start: Reg,
        length: Reg,
        bits: u32,
    },
    Lop3 {
        d: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        table: u8,
    },
    /// Registers of `bits` each side by side.
    Pack {
        d: Reg,
        parts: Vec<Reg>,
        bits: u32,
    },
    Unpack {
        parts: Vec<Reg>,
        a: Reg,
        bits: u32,
    },
    /// `p = logic(a cmp b, r)` and `q = logic(!(a cmp b), r)`.
    Compare {
        f: CompareFn,
        p: Pred,
        q: Option<Pred>,
        a: Reg,
        b: Reg,
        logic: Logic,
        other: Guard,
    },
    /// `p = a logic b`.
    Logic {
        logic: Logic,
        p: Pred,
        a: Guard,
        b: Guard,
    },
    Select {
        d: Reg,
        a: Reg,
        b: Reg,
        p: Guard,
    },
    Load {
        into: Vec<Reg>,
        place: Place,
        ty: Ty,
        ordered: bool,
    },
    Store {
        from: Vec<Reg>,
        place: Place,
        ty: Ty,
        ordered: bool,
    },
    Atomic {
        d: Option<Reg>,
        place: Place,
        a: Reg,
        b: Reg,
        ty: Ty,
        op: Atomic,
    },
    /// `cp.async`: `bytes` to shared memory, of which `valid` are read and the rest is 0.
    Copy {
        to: Place,
        from: Place,
        bytes: u32,
        valid: Option<Reg>,
    },
    CopyCommit,
    /// Until at most so many groups are under way; `None` also ends what is in no group.
    CopyWait(Option<u32>),
    Shuffle {
        d: Reg,
        p: Option<Pred>,
        a: Reg,
        b: Reg,
        c: Reg,
        members: Reg,
        how: Shuffle,
    },
    Vote {
        p: Pred,
        a: Guard,
        members: Reg,
        how: Vote,
    },
    Ballot {
        d: Reg,
        a: Guard,
        members: Reg,
    },
    /// `match.any`.
    Match {
        d: Reg,
        a: Reg,
        members: Reg,
        ty: Ty,
    },
    Reduce {
        d: Reg,
        a: Reg,
        members: Reg,
        f: LaneFn,
        identity: u64,
    },
    ActiveMask {
        d: Reg,
    },
    WarpBarrier {
        members: Reg,
    },
    BlockBarrier {
        id: Reg,
        threads: Option<Reg>,
    },
    LoadMatrix {
        into: Vec<Reg>,
        place: Place,
        transposed: bool,
    },
    Multiply {
        d: Vec<Reg>,
        a: Vec<Reg>,
        b: Vec<Reg>,
        c: Vec<Reg>,
        types: (Multiplicand, Multiplicand),
        half: bool,
    },
    /// `mbarrier`.
    Barrier {
        place: Place,
        deed: Deed,
    },
    /// Makes stores known to the other proxy.
    ProxyFence,
    /// Makes barriers known to the copy engine.
    BarrierFence,
    /// `cp.async.bulk.tensor`.
    CopyBox(Box<BoxCopy>),
    /// `setmaxnreg`.
    SetRegisters(u32),
    /// `wgmma.fence`, `mma_async`, `commit_group` and `wait_group`.
    ProductFence,
    Product(Box<Product>),
    ProductCommit,
    ProductWait(u32),
    /// Reconverges at `join`, which is behind the last instruction if the paths meet nowhere.
    Branch {
        target: u32,
        join: u32,
    },
    Exit,
    Trap,
    /// Hints and other fences, which order nothing that is not in order here.
    Nothing,
}

/// An instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    pub line: u32,
    pub guard: Guard,
    pub op: Op,
    /// Accumulators of `wgmma` that it reads or writes, if it is none itself.
    pub sums: Vec<Reg>,
}

/// A register whose value the launch sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Given {
    Constant(u64),
    /// Bytes of the parameters, from an offset on.
    Param {
        offset: u32,
        bytes: u32,
        signed: bool,
    },
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    WarpInBlock,
    Clock,
    DynamicShared,
    LaneMaskBelow,
}

/// A kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The name in the module.
    pub name: String,
    /// Offset and bytes of each parameter.
    pub params: Vec<(u32, u32)>,
    pub(crate) insts: Vec<Inst>,
    pub(crate) registers: usize,
    pub(crate) predicates: usize,
    pub(crate) given: Vec<(Reg, Given)>,
    /// Bytes of shared memory that the kernel declares.
    pub shared: u64,
    pub(crate) local: u64,
    /// Threads that a block may have.
    pub max_threads: u32,
    /// Bytes of shared memory that a block may have on the device that the text is for.
    pub most_shared: u64,
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Its kernels.
    pub kernels: Vec<Kernel>,
    /// Module variables: name, address, bytes.
    pub variables: Vec<(String, u64, u64)>,
}

impl Module {
    /// Loads a text for a device of a compute capability (80 is 8.0). Variables are allocated in `memory`. An error is
    /// what a driver would write to its log.
    pub fn load(text: &str, capability: u32, memory: &mut Memory) -> Result<Module, String> {
        let told = |r: Refusal| format!("line {}: {}", r.line, r.what);
        let source = text::read(text).map_err(told)?;
        decode::module(&source, capability, memory).map_err(told)
    }

    /// The kernel of a name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}
