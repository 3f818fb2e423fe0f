//! A whole model after lowering: kernels, the steps that launch them, where each tensor lies, and the constants that make
//! up the weight section. Backends turn it into code without another decision about the model.
//!
//! Invariant: the steps run in order and each sees what the ones before it wrote. Sizes are [`Dim`] expressions over the
//! symbols, whose values the entry function takes from the inputs' shapes. The last symbols of a program may be bound by
//! steps instead: sizes that data decides. What mentions one comes after the step that binds it; a tensor of such a size
//! lies in a slot, memory that the run allocates and releases.
//! Where a program has variants for several kinds of processor, each is a list of steps in one [`Step::Dispatch`], with
//! kernels of its own. They share ports, symbols, constants and the weight section; arena, scratch and slots are those of
//! the greatest. Steps for the sizes that are met most often lie in a [`Step::Select`] the same way.
//! Invariant: no two tensors that are alive at one time overlap; unless they are laid out [`Apart`], arena offsets and
//! weight offsets are multiples of 64 bytes.

pub mod interp;
mod print;
#[cfg(test)]
mod tests;
pub mod verify;

use cranelift_entity::{EntityRef, PrimaryMap, SecondaryMap, entity_impl};
use smallvec::{SmallVec, smallvec};

use crate::dim::{Dim, DimError, Symbol, Symbols};
use crate::loops::Kernel;
use crate::strings::{StringFunction, StringTable};
use crate::tensor::{Constant, ConstantData, External, Origin, OriginData, Origins, TensorType};

/// A kernel of the program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelRef(u32);
entity_impl!(KernelRef, "k");

/// The slots that functions on strings manage themselves: the table, its hashes and the text.
pub const STRING_SLOTS: u32 = 3;

/// A model input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its ONNX name.
    pub name: String,
    /// Its type; dims may be symbolic.
    pub ty: TensorType,
}

/// Where a tensor's elements begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The caller's input of this number.
    Input(u32),
    /// The caller's output of this number.
    Output(u32),
    /// In the weight section, at this byte offset.
    Weights(u64),
    /// In the arena, at this byte offset.
    Arena(Dim),
    /// In the slot of this number.
    Slot(u32),
}

/// A layout for tests, where each tensor has pages of its own with a page between it and the next one: whatever touches
/// a byte beside a tensor touches a page that holds none, which a test can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The bytes of a page.
    pub page: u64,
    /// Whether tensors end where a page ends; otherwise they begin where one begins.
    pub at_end: bool,
}

impl Apart {
    /// Where a tensor of `bytes` lies when the pages before `end` are taken, and where the next free page begins.
    ///
    /// # Errors
    /// When the sizes overflow.
    pub fn place(&self, end: &Dim, bytes: &Dim) -> Result<(Dim, Dim), DimError> {
        let page = Dim::from(self.page as i64);
        let pages = (&bytes.ceil_div(&page)? * &page)?;
        let first = (end + &page)?;
        let next = (&first + &pages)?;
        Ok((if self.at_end { (&next - bytes)? } else { first }, next))
    }
}

/// What the host program does, one after the other.
#[derive(Clone, Debug)]
pub enum Step {
    /// Runs a kernel over tasks `0..tasks`, split over the workers.
    Launch(Launch),
    /// Calls a function outside of the model; another result than 0 ends the run.
    Call(Call),
    /// Copies memory; the two places do not overlap.
    Copy {
        /// From where.
        from: Place,
        /// To where.
        to: Place,
        /// How many bytes further: where the step is repeated, each time another part.
        offset: Dim,
        /// How many bytes.
        bytes: Dim,
        /// The ONNX nodes that it stands for.
        origins: Origins,
    },
    /// Reads a size from memory.
    Bind {
        /// The symbol that becomes its value.
        symbol: Symbol,
        /// An `i64` tensor.
        from: Place,
        /// Which of its elements.
        element: u32,
        /// The least value that is no failure.
        low: Dim,
        /// The greatest.
        high: Dim,
        /// The ONNX nodes that need it.
        origins: Origins,
    },
    /// Gives symbols the values of expressions, all computed before the first is given.
    Assign {
        /// Symbols that steps bind, with their values.
        sizes: Vec<(Symbol, Dim)>,
    },
    /// Runs one of two lists of steps.
    If {
        /// A `bool`.
        condition: Place,
        /// Run if it holds.
        then: Vec<Step>,
        /// Run otherwise.
        otherwise: Vec<Step>,
        /// The ONNX nodes that it stands for.
        origins: Origins,
    },
    /// Repeats a list of steps while the condition holds, at most `trips` times.
    Loop {
        /// An `i64`.
        trips: Place,
        /// A `bool` that the steps may change.
        condition: Place,
        /// The symbol that holds the number of the iteration, and after the loop how many there were.
        iteration: Symbol,
        /// Where an `i64` tensor with the number of the iteration is written.
        counter: Place,
        /// The steps. The slots that they find are those that they leave.
        body: Vec<Step>,
        /// The ONNX nodes that it stands for.
        origins: Origins,
    },
    /// Runs the list of the last of the program's variants that the processor can run. It is the only step of the program's own
    /// list.
    Dispatch {
        /// One list for each variant, each a whole run.
        lists: Vec<Vec<Step>>,
    },
    /// Runs the list for the sizes that this run has. It is the only step of its list, which is a variant's or the program's
    /// own.
    Select {
        /// For each list but the first, the values that symbols bound at entry have to have, all of them. The first of these
        /// lists whose sizes are the run's is taken, and where none is, the first list of all, which serves every size.
        cases: Vec<Vec<(Symbol, i64)>>,
        /// The lists, each a whole run.
        lists: Vec<Vec<Step>>,
    },
    /// Puts elements behind those that a slot has, with more memory where it is full. The slot is empty before the first.
    Append {
        /// Which slot.
        slot: u32,
        /// From where.
        from: Place,
        /// How many bytes, the same each time.
        bytes: Dim,
        /// How many bytes the slot holds.
        used: Dim,
        /// The ONNX nodes that write it.
        origins: Origins,
    },
    /// Gives one slot's memory to another one, which is empty.
    Move {
        /// From which slot.
        from: u32,
        /// To which slot.
        to: u32,
    },
    /// Fails unless two sizes, which data decides, are equal.
    Require {
        /// One.
        left: Dim,
        /// The other.
        right: Dim,
        /// The ONNX nodes that need it.
        origins: Origins,
    },
    /// Gives a slot memory for a tensor. The slot is empty before.
    Allocate {
        /// Which slot.
        slot: u32,
        /// What it will hold.
        ty: TensorType,
        /// The ONNX nodes that write it.
        origins: Origins,
    },
    /// Gives a slot's memory back.
    Release {
        /// Which slot.
        slot: u32,
    },
    /// Calls a function on strings of the support library; ends the run where its status is not 0.
    Strings {
        /// Which.
        function: StringFunction,
        /// What it reads.
        inputs: Vec<(Place, TensorType)>,
        /// What it writes. An input or output of the model whose elements are strings is the caller's own value.
        output: (Place, TensorType),
        /// The ONNX nodes that it computes.
        origins: Origins,
    },
    /// The shape of an output, which data decides, is known from here on: it is stated, and room is made.
    State {
        /// Which output.
        output: u32,
        /// The ONNX nodes that write it.
        origins: Origins,
    },
}

impl Step {
    /// The ONNX nodes that it stands for.
    pub fn origins(&self) -> &[Origin] {
        match self {
            Step::Launch(launch) => &launch.origins,
            Step::Call(call) => &call.origins,
            Step::Copy { origins, .. }
            | Step::Bind { origins, .. }
            | Step::Require { origins, .. }
            | Step::Allocate { origins, .. }
            | Step::Append { origins, .. }
            | Step::If { origins, .. }
            | Step::Loop { origins, .. }
            | Step::Strings { origins, .. }
            | Step::State { origins, .. } => origins,
            Step::Release { .. }
            | Step::Assign { .. }
            | Step::Move { .. }
            | Step::Dispatch { .. }
            | Step::Select { .. } => &[],
        }
    }

    /// The lists of steps in it.
    pub fn lists(&self) -> SmallVec<[&[Step]; 2]> {
        match self {
            Step::If { then, otherwise, .. } => smallvec![&then[..], &otherwise[..]],
            Step::Loop { body, .. } => smallvec![&body[..]],
            Step::Dispatch { lists } | Step::Select { lists, .. } => lists.iter().map(|list| &list[..]).collect(),
            Step::Launch(_)
            | Step::Call(_)
            | Step::Copy { .. }
            | Step::Bind { .. }
            | Step::Assign { .. }
            | Step::Append { .. }
            | Step::Move { .. }
            | Step::Require { .. }
            | Step::Allocate { .. }
            | Step::Release { .. }
            | Step::Strings { .. }
            | Step::State { .. } => SmallVec::new(),
        }
    }

    /// How many steps it is, with those in it.
    pub fn count(&self) -> usize {
        1 + self.lists().iter().flat_map(|list| list.iter()).map(Step::count).sum::<usize>()
    }
}

/// The launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which kernel.
    pub kernel: KernelRef,
    /// One place for each argument buffer.
    pub buffers: Vec<Place>,
    /// One value for each parameter.
    pub params: Vec<Dim>,
    /// The number of tasks; it depends on shapes and target only.
    pub tasks: Dim,
    /// The ONNX nodes that it computes.
    pub origins: Origins,
    /// Floating-point operations, for profiles; a multiply-add counts two.
    pub flops: Dim,
}

/// The call of a function outside of the model.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function, and what it is told that no run changes.
    pub external: External,
    /// Where the inputs that are there lie, with their types.
    pub inputs: Vec<(Place, TensorType)>,
    /// Where the outputs lie; they overlap neither each other nor the inputs.
    pub outputs: Vec<(Place, TensorType)>,
    /// The ONNX node.
    pub origins: Origins,
}

/// A tensor of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its byte offset.
    pub offset: Dim,
    /// Its bytes.
    pub bytes: Dim,
    /// The first and the last moment at which it is needed; moments count up in the order of the steps.
    pub life: (usize, usize),
    /// The variant whose steps need it.
    pub variant: u32,
}

/// A constant in the weight section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The constant.
    pub constant: Constant,
    /// Its byte offset.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What the compiler decided about a node and why, for whoever wants to know why the code is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The pass or stage that decided.
    pub pass: &'static str,
    /// The ONNX node: its path.
    pub origin: String,
    /// What was decided and why.
    pub text: String,
}

/// An input and an output that lie in one buffer of the caller's, from run to run.
#[derive(Clone, Debug)]
pub struct State {
    /// The number of the input.
    pub input: u32,
    /// The number of the output: the input of the next run.
    pub output: u32,
    /// The dimension along which a run appends to it. The buffer is laid out for the greatest extent of that dimension.
    pub axis: Option<u32>,
    /// The bytes of the buffer.
    pub bytes: Dim,
}

/// A lowered model.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The model's name; prefix of its symbols.
    pub name: String,
    /// The named dimensions, then those that steps bind.
    pub symbols: Symbols,
    /// How many of the symbols steps bind: the last ones.
    pub data_symbols: u32,
    /// How many slots there are.
    pub slots: u32,
    /// The strings that constants hold the numbers of.
    pub strings: StringTable,
    /// Where functions on strings are called: the first of [`STRING_SLOTS`] slots in which they keep the strings of the run.
    pub string_slots: Option<u32>,
    /// Inputs in the model's order.
    pub inputs: Vec<Port>,
    /// Outputs in the model's order.
    pub outputs: Vec<Port>,
    /// What is kept from run to run.
    pub states: Vec<State>,
    /// Pairs of dimensions that the model says are equal; tested at entry.
    pub assumptions: Vec<(Dim, Dim)>,
    /// Sizes of tensors that the symbols' ranges allow to be negative, where nothing could be computed; tested at entry.
    pub sizes: Vec<Dim>,
    /// Kernels of `f32` alone may take subnormal numbers for zero, where that is faster.
    pub flushes_subnormals: bool,
    /// Kernels; several launches may share one.
    pub kernels: PrimaryMap<KernelRef, Kernel>,
    /// What the kinds of processor are called that the program has a list of steps for, each more able than the ones before
    /// it. None where there is one kind only, and no [`Step::Dispatch`].
    pub variants: Vec<String>,
    /// The number of the variant that a kernel belongs to.
    pub variant_of: SecondaryMap<KernelRef, u32>,
    /// What to do.
    pub steps: Vec<Step>,
    /// The constants, referred to by `weights` and by each other.
    pub constants: PrimaryMap<Constant, ConstantData>,
    /// The weight section, ascending offsets without overlap.
    pub weights: Vec<Weight>,
    /// The size of the weight section in bytes.
    pub weight_bytes: u64,
    /// The size of the tensors' part of the arena in bytes; the workers' scratch follows it.
    pub arena_bytes: Dim,
    /// The arena's tensors.
    pub rooms: Vec<Room>,
    /// How arena and weight section are laid out, when it is not the dense way.
    pub apart: Option<Apart>,
    /// Scratch of one worker in bytes, a multiple of 64: the greatest of the kernels'.
    pub scratch_bytes: u64,
    /// The ONNX nodes.
    pub origins: PrimaryMap<Origin, OriginData>,
    /// What was decided on the way here, in that order.
    pub remarks: Vec<Remark>,
}

impl Program {
    /// How many symbols the inputs' shapes bind: the first ones.
    pub fn named_symbols(&self) -> usize {
        self.symbols.len() - self.data_symbols as usize
    }

    /// Whether a run needs the caller's `alloc`: data decides the size of a tensor.
    pub fn allocates(&self) -> bool {
        self.slots > 0 || !self.outputs.iter().all(|port| self.states_at_entry(port))
    }

    /// Whether a step may fail: only those about sizes that data decides do, and calls.
    pub fn steps_fail(&self) -> bool {
        self.data_symbols > 0 || self.allocates() || has_call(&self.steps)
    }

    /// The most bytes of the arena's tensors that are needed at one moment, for these values of the symbols: no plan gets along
    /// with less. None when a size overflows.
    pub fn live_bytes(&self, value: impl Fn(Symbol) -> i64) -> Option<u64> {
        let mut changes = Vec::with_capacity(self.rooms.len() * 2);
        for room in &self.rooms {
            let bytes = room.bytes.eval(&value)?;
            changes.push((room.variant, room.life.0, bytes));
            changes.push((room.variant, room.life.1 + 1, -bytes));
        }
        // Of one moment, what ends comes first.
        changes.sort_unstable();
        let mut live = 0;
        let most = changes.into_iter().map(|(_, _, bytes)| {
            live += bytes;
            live as u64
        });
        Some(most.max().unwrap_or(0))
    }

    /// All steps, each before those in it: the number of a step is its place here.
    pub fn all_steps(&self) -> Vec<&Step> {
        fn add<'p>(list: &'p [Step], all: &mut Vec<&'p Step>) {
            for step in list {
                all.push(step);
                step.lists().into_iter().for_each(|inner| add(inner, all));
            }
        }
        let mut all = Vec::new();
        add(&self.steps, &mut all);
        all
    }

    /// Whether the inputs' shapes decide a size.
    pub fn is_named(&self, dim: &Dim) -> bool {
        dim.symbols().all(|s| s.index() < self.named_symbols())
    }

    /// Whether the inputs' shapes decide the shape of an output.
    pub fn states_at_entry(&self, output: &Port) -> bool {
        output.ty.shape.iter().all(|d| self.is_named(d))
    }
}

fn has_call(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Call(_)) || step.lists().into_iter().any(has_call))
}
