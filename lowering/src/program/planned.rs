//! Steps before the memory plan, and what becomes of them: tensors that the inputs' shapes size get a place in the arena,
//! the others a slot with steps that allocate and release it.

use onnxc_ir::dim::{Dim, DimError, Symbol};
use onnxc_ir::program::{self, Call, KernelRef, Launch, Place, Program, Step};
use onnxc_ir::strings::StringFunction;
use onnxc_ir::tensor::{External, Origins, TensorType};

use crate::plan_memory::{self, Tenant};

/// Where the bytes of a value are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Home {
    Place(Place),
    /// A room, by its number.
    Tenant(usize),
}

/// How a slot gets its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    /// Allocated before the first step that touches it, released after the last.
    Automatic,
    /// Allocated by steps, released after the last.
    Stated,
    /// Allocated by a step, and moved away.
    Moved,
}

/// A tensor that needs memory.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) bytes: Dim,
    pub(super) ty: TensorType,
    /// The first and the last step that touch it.
    pub(super) first: usize,
    pub(super) last: usize,
    /// The list of steps that it belongs to: it does not outlive one run of them.
    pub(super) list: u32,
    pub(super) allocation: Allocation,
}

/// A step with its place in time: one of several lists of steps begins before the first of these and ends after the last.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) begin: usize,
    pub(super) end: usize,
    pub(super) step: PlannedStep,
}

/// Steps that are run together.
#[derive(Debug)]
pub(super) struct List {
    pub(super) number: u32,
    pub(super) steps: Vec<Planned>,
}

/// A step whose places wait for the memory plan.
#[derive(Debug)]
pub(super) enum PlannedStep {
    Launch {
        kernel: KernelRef,
        buffers: Vec<Home>,
        params: Vec<Dim>,
        tasks: Dim,
        origins: Origins,
        flops: Dim,
    },
    /// Inputs, then outputs.
    Call {
        external: External,
        tensors: Vec<Home>,
        types: Vec<TensorType>,
        origins: Origins,
    },
    Copy {
        from: Home,
        to: Home,
        offset: Dim,
        bytes: Dim,
        origins: Origins,
    },
    Bind {
        symbol: Symbol,
        from: Home,
        element: u32,
        low: Dim,
        high: Dim,
        origins: Origins,
    },
    Assign {
        sizes: Vec<(Symbol, Dim)>,
    },
    Require {
        left: Dim,
        right: Dim,
        origins: Origins,
    },
    Allocate {
        room: Home,
        origins: Origins,
    },
    Release {
        room: Home,
    },
    Append {
        to: Home,
        from: Home,
        bytes: Dim,
        used: Dim,
        origins: Origins,
    },
    Move {
        from: Home,
        to: Home,
    },
    /// Inputs, then the output.
    Strings {
        function: StringFunction,
        tensors: Vec<Home>,
        types: Vec<TensorType>,
        origins: Origins,
    },
    If {
        condition: Home,
        then: List,
        otherwise: List,
        origins: Origins,
    },
    Loop {
        trips: Home,
        condition: Home,
        iteration: Symbol,
        counter: Home,
        body: List,
        origins: Origins,
    },
}

impl PlannedStep {
    /// The places that it touches itself.
    pub(super) fn homes(&self) -> impl Iterator<Item = &Home> {
        let (list, others): (&[Home], [Option<&Home>; 3]) = match self {
            PlannedStep::Launch { buffers: list, .. } | PlannedStep::Call { tensors: list, .. } => (list, [None; 3]),
            PlannedStep::Strings { tensors, .. } => (tensors, [None; 3]),
            PlannedStep::Copy { from, to, .. }
            | PlannedStep::Move { from, to }
            | PlannedStep::Append { from, to, .. } => (&[], [Some(from), Some(to), None]),
            PlannedStep::Bind { from, .. } => (&[], [Some(from), None, None]),
            PlannedStep::Allocate { room, .. } | PlannedStep::Release { room } => (&[], [Some(room), None, None]),
            PlannedStep::Assign { .. } | PlannedStep::Require { .. } => (&[], [None; 3]),
            PlannedStep::If { condition, .. } => (&[], [Some(condition), None, None]),
            PlannedStep::Loop { trips, condition, counter, .. } => (&[], [Some(trips), Some(condition), Some(counter)]),
        };
        list.iter().chain(others.into_iter().flatten())
    }

    fn origins(&self) -> Origins {
        match self {
            PlannedStep::Launch { origins, .. }
            | PlannedStep::Call { origins, .. }
            | PlannedStep::Copy { origins, .. }
            | PlannedStep::Bind { origins, .. }
            | PlannedStep::Require { origins, .. }
            | PlannedStep::Allocate { origins, .. }
            | PlannedStep::Append { origins, .. }
            | PlannedStep::Strings { origins, .. }
            | PlannedStep::If { origins, .. }
            | PlannedStep::Loop { origins, .. } => origins.clone(),
            PlannedStep::Assign { .. } | PlannedStep::Release { .. } | PlannedStep::Move { .. } => Origins::new(),
        }
    }
}

/// Gives the program its steps with their places, the number of slots and the arena.
pub(super) fn place(program: &mut Program, rooms: &[Room], steps: Vec<Planned>) -> Result<(), DimError> {
    let mut places: Vec<Option<Place>> = vec![None; rooms.len()];
    let (mut fixed, mut tenants, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    for (i, room) in rooms.iter().enumerate() {
        if program.is_named(&room.bytes) && room.allocation == Allocation::Automatic {
            fixed.push(i);
            tenants.push(Tenant { bytes: room.bytes.clone(), first: room.first, last: room.last });
        } else {
            places[i] = Some(Place::Slot(slots.len() as u32));
            slots.push(i);
        }
    }
    let (offsets, arena) = match program.apart {
        None => plan_memory::plan(&tenants, &program.symbols)?,
        Some(apart) => plan_memory::plan_apart(&tenants, apart, program.scratch_bytes)?,
    };
    let room = |(offset, Tenant { bytes, first, last }): (&Dim, Tenant)| program::Room {
        offset: offset.clone(),
        bytes,
        life: (first, last),
        variant: 0,
    };
    program.rooms = offsets.iter().zip(tenants).map(room).collect();
    program.arena_bytes = arena;
    fixed.into_iter().zip(offsets).for_each(|(i, offset)| places[i] = Some(Place::Arena(offset)));
    let stated = program.outputs.iter().map(|port| program.states_at_entry(port)).collect();
    program.slots = slots.len() as u32;
    program.steps = Placing { rooms, places, slots, stated }.list(List { number: 0, steps });
    Ok(())
}

struct Placing<'r> {
    rooms: &'r [Room],
    places: Vec<Option<Place>>,
    /// The rooms that are slots.
    slots: Vec<usize>,
    /// Which outputs have a shape and memory.
    stated: Vec<bool>,
}

impl Placing<'_> {
    fn at(&self, home: Home) -> Place {
        match home {
            Home::Place(place) => place,
            Home::Tenant(room) => self.places[room].clone().expect("every room has a place"),
        }
    }

    fn slot(&self, home: Home) -> u32 {
        match self.at(home) {
            Place::Slot(slot) => slot,
            other => unreachable!("{other:?} is no slot"),
        }
    }

    fn list(&mut self, list: List) -> Vec<Step> {
        let rooms = self.rooms;
        let mut steps = Vec::with_capacity(list.steps.len());
        for Planned { begin, end, step } in list.steps {
            for home in step.homes() {
                if let Home::Place(Place::Output(output)) = *home
                    && !std::mem::replace(&mut self.stated[output as usize], true)
                {
                    steps.push(Step::State { output, origins: step.origins() });
                }
            }
            let here = |room: &Room| room.list == list.number;
            for (slot, room) in self.slots.iter().map(|&i| &rooms[i]).enumerate().filter(|(_, room)| here(room)) {
                if room.allocation == Allocation::Automatic && (begin..=end).contains(&room.first) {
                    steps.push(Step::Allocate { slot: slot as u32, ty: room.ty.clone(), origins: step.origins() });
                }
            }
            steps.push(self.step(step));
            for (slot, room) in self.slots.iter().map(|&i| &rooms[i]).enumerate().filter(|(_, room)| here(room)) {
                if room.allocation != Allocation::Moved && (begin..=end).contains(&room.last) {
                    steps.push(Step::Release { slot: slot as u32 });
                }
            }
        }
        steps
    }

    fn step(&mut self, step: PlannedStep) -> Step {
        match step {
            PlannedStep::Launch { kernel, buffers, params, tasks, origins, flops } => {
                let buffers = buffers.into_iter().map(|home| self.at(home)).collect();
                Step::Launch(Launch { kernel, buffers, params, tasks, origins, flops })
            }
            PlannedStep::Call { external, tensors, types, origins } => {
                let mut inputs: Vec<_> = tensors.into_iter().map(|home| self.at(home)).zip(types).collect();
                let outputs = inputs.split_off(inputs.len() - external.results.len());
                Step::Call(Call { external, inputs, outputs, origins })
            }
            PlannedStep::Copy { from, to, offset, bytes, origins } => {
                Step::Copy { from: self.at(from), to: self.at(to), offset, bytes, origins }
            }
            PlannedStep::Bind { symbol, from, element, low, high, origins } => {
                Step::Bind { symbol, from: self.at(from), element, low, high, origins }
            }
            PlannedStep::Assign { sizes } => Step::Assign { sizes },
            PlannedStep::Require { left, right, origins } => Step::Require { left, right, origins },
            PlannedStep::Allocate { room, origins } => {
                let Home::Tenant(number) = room else { unreachable!("only rooms are allocated") };
                Step::Allocate { slot: self.slot(room), ty: self.rooms[number].ty.clone(), origins }
            }
            PlannedStep::Release { room } => Step::Release { slot: self.slot(room) },
            PlannedStep::Append { to, from, bytes, used, origins } => {
                Step::Append { slot: self.slot(to), from: self.at(from), bytes, used, origins }
            }
            PlannedStep::Move { from, to } => Step::Move { from: self.slot(from), to: self.slot(to) },
            PlannedStep::Strings { function, tensors, types, origins } => {
                let mut inputs: Vec<_> = tensors.into_iter().map(|home| self.at(home)).zip(types).collect();
                let output = inputs.pop().expect("a function has a result");
                Step::Strings { function, inputs, output, origins }
            }
            PlannedStep::If { condition, then, otherwise, origins } => {
                let (then, otherwise) = (self.list(then), self.list(otherwise));
                Step::If { condition: self.at(condition), then, otherwise, origins }
            }
            PlannedStep::Loop { trips, condition, iteration, counter, body, origins } => {
                let body = self.list(body);
                let (trips, condition, counter) = (self.at(trips), self.at(condition), self.at(counter));
                Step::Loop { trips, condition, iteration, counter, body, origins }
            }
        }
    }
}
