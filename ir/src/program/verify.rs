//! Verifies programs: kernels, the arguments of their launches, places, weights, symbols.
//!
//! That tensors which are alive at one time do not overlap in the arena cannot be seen here, since a program does not
//! know its tensors' lives any more; the interpreter's results show it.

use std::collections::HashSet;

use cranelift_entity::{EntityRef, SecondaryMap};

use super::{Launch, Place, Program, Step};
use crate::dim::{Dim, Symbol};
use crate::loops::{self, Access, BufferData};
use crate::tensor::{ConstantSource, Origins};

/// What is wrong with a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("program `{program}` is invalid{}", problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
pub struct VerifyError {
    /// The program's name.
    pub program: String,
    /// Each violation, with the step or kernel that it concerns.
    pub problems: Vec<String>,
}

/// Alignment of tensors in the arena and the weight section, in bytes.
const ALIGN: u64 = 64;

/// Checks a program.
pub fn verify(program: &Program) -> Result<(), VerifyError> {
    check(program, true)
}

/// Checks the steps of a program, their places and sizes, but not what its kernels are made of.
pub fn verify_steps(program: &Program) -> Result<(), VerifyError> {
    check(program, false)
}

fn check(program: &Program, with_kernels: bool) -> Result<(), VerifyError> {
    let bound = program.symbols.iter().take(program.named_symbols()).collect();
    let slots = vec![false; program.slots as usize];
    let stated = program.outputs.iter().map(|port| program.states_at_entry(port)).collect();
    let mut v = Verifier { program, problems: Vec::new(), bound, slots, stated, variant: 0 };
    v.ports();
    v.weights();
    if with_kernels {
        v.kernels();
    }
    v.steps(&program.steps, &mut 0);
    if let Some(output) = v.stated.iter().position(|stated| !stated) {
        v.fail(format!("output {output} is never stated"));
    }
    if v.problems.is_empty() {
        Ok(())
    } else {
        Err(VerifyError { program: program.name.clone(), problems: v.problems })
    }
}

struct Verifier<'p> {
    program: &'p Program,
    problems: Vec<String>,
    /// The symbols that have values so far.
    bound: HashSet<Symbol>,
    /// Which slots have memory.
    slots: Vec<bool>,
    /// Which outputs have a shape.
    stated: Vec<bool>,
    /// The variant whose steps are looked at.
    variant: u32,
}

impl Verifier<'_> {
    fn fail(&mut self, message: impl Into<String>) {
        self.problems.push(message.into());
    }

    fn dim(&mut self, what: &str, dim: &Dim) {
        if dim.symbols().any(|s| s.index() >= self.program.symbols.len()) {
            self.fail(format!("{what}: a size has a symbol that does not exist"));
        } else if let Some(early) = dim.symbols().find(|s| !self.bound.contains(s)) {
            self.fail(format!("{what}: {} has no value yet", self.program.symbols.name(early)));
        } else if dim.as_const().is_some_and(|d| d < 0) {
            self.fail(format!("{what}: a size is negative"));
        }
    }

    fn steps(&mut self, steps: &[Step], number: &mut usize) {
        for step in steps {
            let at = *number;
            *number += 1;
            self.step(step, at, number);
        }
    }

    /// Checks a step; `next` is the number of the first step in it.
    fn step(&mut self, step: &Step, number: usize, next: &mut usize) {
        let program = self.program;
        match step {
            Step::Launch(launch) => self.launch(number, launch),
            Step::Copy { from, to, offset, bytes, origins } => {
                let what = format!("step {number}: copy");
                self.dim(&what, bytes);
                self.dim(&what, offset);
                let size = bytes.as_const().and_then(|b| u64::try_from(b).ok());
                self.place(&what, from, size, false);
                self.place(&what, to, size, true);
                self.origins(&what, origins);
            }
            Step::Call(call) => {
                let what = format!("step {number}: call of `{}`", call.external.symbol);
                let there = call.external.present.iter().filter(|&&p| p).count();
                let dtypes: Vec<_> = call.outputs.iter().map(|(_, ty)| ty.dtype).collect();
                if call.inputs.len() != there || dtypes != call.external.results[..] {
                    self.fail(format!("{what}: the tensors are not those of the function"));
                }
                let tensors = call.inputs.iter().map(|t| (t, false)).chain(call.outputs.iter().map(|t| (t, true)));
                for ((place, ty), written) in tensors {
                    ty.shape.iter().for_each(|d| self.dim(&what, d));
                    let bytes = ty.static_len().and_then(|n| ty.dtype.packed_bytes(n as u64));
                    self.place(&what, place, bytes, written);
                }
                self.origins(&what, &call.origins);
            }
            Step::Bind { symbol, from, element, low, high, origins } => {
                let what = format!("step {number}: bind");
                self.bounds(&what, [low, high]);
                self.place(&what, from, Some((u64::from(*element) + 1) * 8), false);
                self.origins(&what, origins);
                self.binds(&what, *symbol);
            }
            Step::Assign { sizes } => {
                let what = format!("step {number}: assign");
                sizes.iter().for_each(|(_, dim)| self.bounds(&what, [dim, dim]));
                sizes.iter().for_each(|(symbol, _)| self.binds(&what, *symbol));
            }
            Step::Require { left, right, origins } => {
                let what = format!("step {number}: require");
                self.bounds(&what, [left, right]);
                self.origins(&what, origins);
            }
            Step::If { condition, then, otherwise, origins } => {
                let what = format!("step {number}: if");
                self.place(&what, condition, Some(1), false);
                self.origins(&what, origins);
                let (bound, slots) = (self.bound.clone(), self.slots.clone());
                self.steps(then, next);
                let first = (std::mem::replace(&mut self.bound, bound), std::mem::replace(&mut self.slots, slots));
                self.steps(otherwise, next);
                self.bound.retain(|s| first.0.contains(s));
                if self.slots != first.1 {
                    self.fail(format!("{what}: the branches leave different slots with memory"));
                }
            }
            Step::Loop { trips, condition, iteration, counter, body, origins } => {
                let what = format!("step {number}: loop");
                self.place(&what, trips, Some(8), false);
                self.place(&what, condition, Some(1), false);
                self.place(&what, counter, Some(8), true);
                self.origins(&what, origins);
                self.binds(&what, *iteration);
                let (bound, slots) = (self.bound.clone(), self.slots.clone());
                self.steps(body, next);
                self.bound = bound;
                if self.slots.iter().zip(&slots).any(|(after, before)| *before && !*after) {
                    self.fail(format!("{what}: an iteration takes memory that the next one needs"));
                }
                let appended = |slot: usize| self.appends(body, slot as u32);
                if (0..slots.len()).any(|i| self.slots[i] && !slots[i] && !appended(i)) {
                    self.fail(format!("{what}: an iteration leaves memory behind"));
                }
            }
            Step::Dispatch { lists } => {
                if lists.len() != program.variants.len() || !matches!(program.steps[..], [Step::Dispatch { .. }]) {
                    self.fail(format!("step {number}: {} variants are not all there is", lists.len()));
                }
                let before = (self.bound.clone(), self.slots.clone(), self.stated.clone());
                for (variant, list) in lists.iter().enumerate() {
                    (self.bound, self.slots, self.stated) = before.clone();
                    self.variant = variant as u32;
                    self.steps(list, next);
                    if !self.stated.iter().all(|&stated| stated) {
                        self.fail(format!("step {number}: variant {variant} leaves outputs without a shape"));
                    }
                }
            }
            Step::Select { cases, lists } => {
                let alone = |steps: &[Step]| matches!(steps, [Step::Select { .. }]);
                let placed = alone(&program.steps)
                    || matches!(&program.steps[..], [Step::Dispatch { lists }] if lists.iter().all(|list| alone(list)));
                if lists.len() != cases.len() + 1 || !placed {
                    self.fail(format!(
                        "step {number}: {} lists for {} cases are not all there is",
                        lists.len(),
                        cases.len()
                    ));
                }
                if cases.iter().any(|case| case.is_empty()) {
                    self.fail(format!("step {number}: a case says nothing"));
                }
                for &(symbol, _) in cases.iter().flatten() {
                    self.dim(&format!("step {number}"), &Dim::symbol(symbol));
                }
                let before = (self.bound.clone(), self.slots.clone(), self.stated.clone());
                for (n, list) in lists.iter().enumerate() {
                    (self.bound, self.slots, self.stated) = before.clone();
                    self.steps(list, next);
                    if !self.stated.iter().all(|&stated| stated) {
                        self.fail(format!("step {number}: list {n} leaves outputs without a shape"));
                    }
                }
            }
            Step::Append { slot, from, bytes, used, origins } => {
                let what = format!("step {number}: append");
                self.dim(&what, bytes);
                self.dim(&what, used);
                let size = bytes.as_const().and_then(|b| u64::try_from(b).ok());
                self.place(&what, from, size, false);
                self.origins(&what, origins);
                match self.slots.get_mut(*slot as usize) {
                    Some(full) => *full = true,
                    None => self.fail(format!("{what}: slot {slot} does not exist")),
                }
            }
            Step::Move { from, to } => {
                let what = format!("step {number}: move");
                self.set_slot(&what, *from, false);
                self.set_slot(&what, *to, true);
            }
            Step::Allocate { slot, ty, origins } => {
                let what = format!("step {number}: allocate");
                ty.shape.iter().for_each(|d| self.dim(&what, d));
                self.origins(&what, origins);
                self.set_slot(&what, *slot, true);
            }
            Step::Release { slot } => self.set_slot(&format!("step {number}: release"), *slot, false),
            Step::Strings { function, inputs, output, origins } => {
                let what = format!("step {number}: {}", function.symbol());
                self.origins(&what, origins);
                for ((place, ty), written) in inputs.iter().map(|o| (o, false)).chain([(output, true)]) {
                    ty.shape.iter().for_each(|d| self.dim(&what, d));
                    let elements = ty.static_len().and_then(|n| u64::try_from(n).ok());
                    let bytes = elements.and_then(|n| ty.dtype.packed_bytes(n));
                    self.place(&what, place, bytes, written);
                }
                if program.string_slots.is_none() {
                    self.fail(format!("{what}: the program has no slots for strings"));
                }
            }
            Step::State { output, origins } => {
                let what = format!("step {number}: state");
                self.origins(&what, origins);
                match program.outputs.get(*output as usize) {
                    Some(port) => port.ty.shape.iter().for_each(|d| self.dim(&what, d)),
                    None => self.fail(format!("{what}: output {output} does not exist")),
                }
                match self.stated.get_mut(*output as usize) {
                    Some(stated) if !*stated => *stated = true,
                    _ => self.fail(format!("{what}: output {output} is stated already")),
                }
            }
        }
    }

    /// Whether the steps append to a slot, which then has memory from the first iteration on.
    fn appends(&self, steps: &[Step], slot: u32) -> bool {
        steps.iter().any(|step| match step {
            Step::Append { slot: to, .. } => *to == slot,
            other => other.lists().into_iter().any(|list| self.appends(list, slot)),
        })
    }

    /// A symbol gets a value.
    fn binds(&mut self, what: &str, symbol: Symbol) {
        if symbol.index() < self.program.named_symbols() || symbol.index() >= self.program.symbols.len() {
            self.fail(format!("{what}: {symbol} is none that steps bind"));
        }
        self.bound.insert(symbol);
    }

    /// Expressions that may be negative.
    fn bounds(&mut self, what: &str, dims: [&Dim; 2]) {
        for dim in dims.into_iter().filter(|d| d.as_const().is_none()) {
            self.dim(what, dim);
        }
    }

    fn set_slot(&mut self, what: &str, slot: u32, full: bool) {
        match self.slots.get_mut(slot as usize) {
            Some(state) if *state != full => *state = full,
            _ => self.fail(format!("{what}: slot {slot} does not exist or is so already")),
        }
    }

    fn origins(&mut self, what: &str, origins: &Origins) {
        if origins.iter().any(|&o| !self.program.origins.is_valid(o)) {
            self.fail(format!("{what}: an origin does not exist"));
        }
    }

    fn ports(&mut self) {
        let program = self.program;
        for (kind, ports) in [("input", &program.inputs), ("output", &program.outputs)] {
            for (i, port) in ports.iter().enumerate() {
                let dims = port.ty.shape.iter().filter(|d| kind == "input" || program.is_named(d));
                dims.for_each(|d| self.dim(&format!("{kind} {i} `{}`", port.name), d));
            }
        }
        self.dim("the arena", &program.arena_bytes);
        program.sizes.iter().for_each(|d| self.dim("a size that is tested", d));
        for (a, b) in &program.assumptions {
            if [a, b].into_iter().any(|d| d.symbols().any(|s| s.index() >= program.symbols.len())) {
                self.fail("an assumption has a symbol that does not exist");
            }
        }
    }

    fn weights(&mut self) {
        let program = self.program;
        let mut end = 0;
        for weight in &program.weights {
            let what = format!("weight +{}", weight.offset);
            if program.apart.is_none() && weight.offset % ALIGN != 0 {
                self.fail(format!("{what} is not a multiple of {ALIGN} bytes"));
            }
            if weight.offset < end {
                self.fail(format!("{what} begins before the end of the one before it"));
            }
            end = match weight.offset.checked_add(weight.bytes) {
                Some(end) if end <= program.weight_bytes => end,
                _ => {
                    self.fail(format!("{what} ends behind the weight section"));
                    program.weight_bytes
                }
            };
            let Some(constant) = program.constants.get(weight.constant) else {
                self.fail(format!("{what}: {} does not exist", weight.constant));
                continue;
            };
            let len = constant.ty.static_len().and_then(|n| u64::try_from(n).ok());
            let bytes = len.and_then(|n| constant.ty.dtype.packed_bytes(n));
            if bytes != Some(weight.bytes) {
                self.fail(format!(
                    "{what} has {} bytes, its constant `{}` another number",
                    weight.bytes, constant.name
                ));
            }
        }
        for (constant, data) in &program.constants {
            let ConstantSource::Lazy { inputs, .. } = &data.source else { continue };
            if inputs.iter().any(|&i| !program.constants.is_valid(i)) {
                self.fail(format!("{constant} `{}` is made of a constant that does not exist", data.name));
            }
        }
    }

    fn kernels(&mut self) {
        let program = self.program;
        let mut names: Vec<&str> = program.kernels.values().map(|k| &k.name[..]).collect();
        names.sort_unstable();
        for pair in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.fail(format!("two kernels are named `{}`", pair[0]));
        }
        let mut scratch = 0;
        for kernel in program.kernels.values() {
            match loops::verify::verify(kernel) {
                Ok(()) => scratch = scratch.max(kernel.scratch_layout().1),
                Err(error) => self.fail(error.to_string()),
            }
        }
        if program.scratch_bytes < scratch || !program.scratch_bytes.is_multiple_of(ALIGN) {
            self.fail(format!("{} bytes of scratch for kernels that use {scratch}", program.scratch_bytes));
        }
    }

    fn launch(&mut self, number: usize, launch: &Launch) {
        let program = self.program;
        let Some(kernel) = program.kernels.get(launch.kernel) else {
            self.fail(format!("step {number}: {} does not exist", launch.kernel));
            return;
        };
        let what = format!("step {number}: launch of `{}`", kernel.name);
        if program.variant_of[launch.kernel] != self.variant {
            self.fail(format!("{what}: the kernel is for another variant"));
        }
        let arguments: Vec<_> = kernel.arguments().collect();
        if launch.buffers.len() != arguments.len() || launch.params.len() != kernel.params.len() {
            let (b, p) = (launch.buffers.len(), launch.params.len());
            let (eb, ep) = (arguments.len(), kernel.params.len());
            self.fail(format!("{what}: {b} buffers for {eb}, {p} parameters for {ep}"));
            return;
        }
        self.dim(&what, &launch.tasks);
        self.dim(&what, &launch.flops);
        for param in &launch.params {
            if param.symbols().any(|s| !self.bound.contains(&s)) {
                self.fail(format!("{what}: a parameter has a symbol that does not exist or has no value yet"));
            }
        }
        self.origins(&what, &launch.origins);
        let mut place_of: SecondaryMap<loops::Buffer, Option<&Place>> = SecondaryMap::new();
        for (&(buffer, data), place) in arguments.iter().zip(&launch.buffers) {
            let what = format!("{what}: {buffer} `{}`", data.name);
            self.place(&what, place, bytes_of(data), data.access == Access::Write);
            place_of[buffer] = Some(place);
        }
        for &(buffer, data) in arguments.iter().filter(|(_, d)| d.access == Access::Write) {
            for &(other, other_data) in &arguments {
                let allowed = data.in_place == Some(other) || other_data.in_place == Some(buffer);
                if buffer != other && place_of[buffer] == place_of[other] && !allowed {
                    self.fail(format!(
                        "{what}: {buffer} `{}` and {other} `{}` share a place",
                        data.name, other_data.name
                    ));
                }
            }
        }
    }

    /// Checks a place of which `bytes` are used, if that is known.
    fn place(&mut self, what: &str, place: &Place, bytes: Option<u64>, written: bool) {
        let program = self.program;
        let text = program.place(place);
        match place {
            Place::Input(n) => {
                if *n as usize >= program.inputs.len() {
                    self.fail(format!("{what}: {text} does not exist"));
                }
            }
            Place::Output(n) => {
                if *n as usize >= program.outputs.len() {
                    self.fail(format!("{what}: {text} does not exist"));
                } else if !self.stated[*n as usize] {
                    self.fail(format!("{what}: {text} has no memory yet"));
                }
            }
            Place::Slot(n) => {
                if !self.slots.get(*n as usize).is_some_and(|full| *full) {
                    self.fail(format!("{what}: {text} has no memory"));
                }
            }
            Place::Weights(offset) => {
                let next = program.weights.partition_point(|w| w.offset <= *offset);
                let inside = program.weights[..next].last().is_some_and(|w| {
                    let within = offset - w.offset;
                    within < w.bytes.max(1) && bytes.is_none_or(|b| b <= w.bytes - within)
                });
                if !inside {
                    self.fail(format!("{what}: {text} does not lie in one weight"));
                }
            }
            Place::Arena(offset) => {
                self.dim(what, offset);
                if let Some(offset) = offset.as_const().and_then(|o| u64::try_from(o).ok()) {
                    if program.apart.is_none() && offset % ALIGN != 0 {
                        self.fail(format!("{what}: {text} is not a multiple of {ALIGN} bytes"));
                    }
                    let end = offset.checked_add(bytes.unwrap_or(0));
                    let limit = program.arena_bytes.as_const().and_then(|b| u64::try_from(b).ok());
                    if end.is_none() || limit.is_some_and(|limit| end > Some(limit)) {
                        self.fail(format!("{what}: {text} does not end in the arena"));
                    }
                }
            }
        }
        if written && matches!(place, Place::Input(_) | Place::Weights(_)) {
            self.fail(format!("{what}: {text} is written"));
        }
    }
}

fn bytes_of(data: &BufferData) -> Option<u64> {
    data.dtype.packed_bytes(data.len?)
}
