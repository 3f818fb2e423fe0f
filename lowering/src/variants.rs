//! One program of several, which are one model lowered for different machines or different sizes.
//!
//! Before: programs from clones of one graph, so their ports are the same, and the symbols that those name. After: one program
//! whose only step decides among their steps, with the kernels of all, the weights of all, each constant once, and memory
//! enough for any. Programs for other machines have the same symbols and constants, because they part only when they are
//! cut into kernels; programs for some sizes have their own, which are found again by name and by what they are made of.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use cranelift_entity::EntityRef;
use onnxc_ir::dim::{Dim, Symbol};
use onnxc_ir::program::{KernelRef, Place, Program, Room, STRING_SLOTS, Step, Weight};
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::{Constant, ConstantSource, Op, TensorType};
use smallvec::SmallVec;

use crate::LowerError;
use crate::plan_memory::ALIGNMENT;
use crate::specialize::{SizeCase, put};

/// What the programs are for.
pub enum Programs<'a> {
    /// Machines of these names; the least able first.
    Machines(&'a [String]),
    /// All sizes, and then each of these cases, with the values that it gives the symbols.
    Sizes(&'a [(SizeCase, Vec<(String, i64)>)]),
}

/// Merges the programs of one model.
///
/// # Errors
/// In words, where a program for some sizes relies on what its runs do not test.
pub fn merge(programs: Vec<Program>, what: &Programs<'_>) -> Result<Program, LowerError> {
    let slots = programs.iter().map(|p| p.string_slots.unwrap_or(p.slots)).max().expect("there is a program");
    let strings = programs.iter().any(|p| p.string_slots.is_some());
    let mut programs = programs.into_iter();
    let first = programs.next().expect("there is a program");
    let mut all = Program { steps: Vec::new(), kernels: Default::default(), ..first.clone() };
    if let Programs::Machines(names) = what {
        all.variants = names.to_vec();
    }
    all.string_slots = strings.then_some(slots);
    all.slots = slots + if strings { STRING_SLOTS } else { 0 };
    let mut known = Known::new(&all);
    let mut lists = Vec::new();
    for (number, program) in std::iter::once(first).chain(programs).enumerate() {
        let name = match what {
            Programs::Machines(names) => names[number].clone(),
            Programs::Sizes(cases) => number.checked_sub(1).map(|n| cases[n].0.to_string()).unwrap_or_default(),
        };
        let refuse = |why: String| LowerError::Sizes { case: name.clone(), why };
        let mut moves = Moves::default();
        match what {
            Programs::Sizes(cases) if number > 0 => {
                let sizes = cases[number - 1].1.iter();
                let values = sizes.filter_map(|(name, size)| Some((all.symbols.lookup(name)?, *size))).collect();
                tested(&all, &program, &values).map_err(refuse)?;
                moves.symbols = adopt_symbols(&mut all, &program);
                if let Some(missing) =
                    all.outputs.iter().flat_map(|port| &port.ty.shape).flat_map(Dim::symbols).find(|s| {
                        s.index() >= all.named_symbols() && program.symbols.lookup(all.symbols.name(*s)).is_none()
                    })
                {
                    let name = all.symbols.name(missing);
                    return Err(refuse(format!("`{name}`, which data decides for other sizes, would be known")));
                }
                moves.constants = known.adopt(&mut all, &program);
                let own = moves.dim(&program.arena_bytes);
                let arena = put(&all.arena_bytes, &values);
                // Mostly sizes that are known need no more memory than the same sizes where they are not.
                let enough = (&arena - &own).is_ok_and(|rest| rest.bounds(&all.symbols).0 >= 0);
                if !enough {
                    all.arena_bytes = all.arena_bytes.maximum(&own).map_err(|_| LowerError::TooLarge)?;
                }
            }
            _ => {
                assert_eq!(program.constants.len(), all.constants.len(), "the programs have the same constants");
                assert_eq!(program.symbols.len(), all.symbols.len(), "the programs have the same symbols");
                all.arena_bytes = all.arena_bytes.maximum(&program.arena_bytes).map_err(|_| LowerError::TooLarge)?;
            }
        }
        for weight in &program.weights {
            let constant = moves.constant(weight.constant);
            let offset = *known.offsets.entry(known.classes_of[constant.index()]).or_insert_with(|| {
                let offset = all.weight_bytes;
                all.weights.push(Weight { offset, constant, bytes: weight.bytes });
                all.weight_bytes = (offset + weight.bytes.max(1)).next_multiple_of(ALIGNMENT);
                offset
            });
            moves.weights.insert(weight.offset, offset);
        }
        for (kernel, mut data) in program.kernels {
            if number > 0 {
                data.name = format!("{}.{name}", data.name);
            }
            let variant = program.variant_of[kernel];
            let new = all.kernels.push(data);
            all.variant_of[new] = if matches!(what, Programs::Machines(_)) { number as u32 } else { variant };
            moves.kernels.insert(kernel, new);
        }
        let mut list = program.steps;
        list.iter_mut().for_each(|step| moves.step(step));
        lists.push(list);
        if number > 0 {
            if matches!(what, Programs::Machines(_)) {
                for size in program.sizes.into_iter().filter(|size| !all.sizes.contains(size)).collect::<Vec<_>>() {
                    all.sizes.push(size);
                }
                all.rooms.extend(program.rooms.into_iter().map(|room| Room { variant: number as u32, ..room }));
            }
            all.scratch_bytes = all.scratch_bytes.max(program.scratch_bytes);
            all.remarks.extend(program.remarks.into_iter().map(|mut remark| {
                remark.text = format!("{name}: {}", remark.text);
                remark
            }));
        }
    }
    all.steps = vec![match what {
        Programs::Machines(_) => Step::Dispatch { lists },
        Programs::Sizes(cases) => {
            let symbol = |name: &str| all.symbols.lookup(name).expect("the dimensions of inputs have symbols");
            let case = |case: &SizeCase| case.sizes.iter().map(|(name, size)| (symbol(name), *size)).collect();
            Step::Select { cases: cases.iter().map(|(c, _)| case(c)).collect(), lists }
        }
    }];
    Ok(all)
}

/// Makes sure that entry tests what a program for some sizes relies on.
fn tested(all: &Program, program: &Program, values: &HashMap<Symbol, i64>) -> Result<(), String> {
    let named = |s: Symbol| all.symbols.lookup(program.symbols.name(s)) == Some(s);
    let count = program.named_symbols();
    if count != all.named_symbols() || !program.symbols.iter().take(count).all(named) {
        return Err("its inputs have other dimensions".to_owned());
    }
    let pairs: Vec<(Dim, Dim)> = all.assumptions.iter().map(|(a, b)| (put(a, values), put(b, values))).collect();
    for (left, right) in &program.assumptions {
        let same = |(a, b): &(Dim, Dim)| (a == left && b == right) || (a == right && b == left);
        if left != right && !pairs.iter().any(same) {
            let [left, right] = [left, right].map(|d| d.display(&program.symbols).to_string());
            return Err(format!("{left} would have to be {right}, which nothing tests"));
        }
    }
    let sizes: Vec<Dim> = all.sizes.iter().map(|size| put(size, values)).collect();
    match program.sizes.iter().find(|size| !sizes.contains(size)) {
        Some(size) => Err(format!("{} would have to be a size, which nothing tests", size.display(&program.symbols))),
        None => Ok(()),
    }
}

/// Finds the program's symbols in the merged one by their names, and adds those that steps bind and that it lacks.
fn adopt_symbols(all: &mut Program, program: &Program) -> HashMap<Symbol, Symbol> {
    let mut moves = HashMap::new();
    for symbol in program.symbols.iter().skip(program.named_symbols()) {
        let name = program.symbols.name(symbol);
        let (low, high) = program.symbols.bounds(symbol);
        let new = match all.symbols.lookup(name) {
            Some(old) => {
                let before = all.symbols.bounds(old);
                all.symbols.widen(old, before.0.min(low), before.1.max(high));
                old
            }
            None => {
                let new = all.symbols.intern(name);
                all.symbols.widen(new, low, high);
                all.data_symbols += 1;
                new
            }
        };
        if new != symbol {
            moves.insert(symbol, new);
        }
    }
    moves
}

/// Where the parts of a program are in the merged one; symbols and constants that are not named are where they were.
#[derive(Default)]
struct Moves {
    kernels: HashMap<KernelRef, KernelRef>,
    weights: HashMap<u64, u64>,
    symbols: HashMap<Symbol, Symbol>,
    constants: HashMap<Constant, Constant>,
}

impl Moves {
    fn constant(&self, constant: Constant) -> Constant {
        self.constants.get(&constant).copied().unwrap_or(constant)
    }

    fn symbol(&self, symbol: Symbol) -> Symbol {
        self.symbols.get(&symbol).copied().unwrap_or(symbol)
    }

    fn dim(&self, dim: &Dim) -> Dim {
        if self.symbols.is_empty() {
            return dim.clone();
        }
        let rename = |s: Symbol| self.symbols.get(&s).copied().map(Dim::symbol);
        dim.substitute(rename).expect("symbols for symbols keep the size")
    }

    fn ty(&self, ty: &mut TensorType) {
        ty.shape.iter_mut().for_each(|d| *d = self.dim(d));
    }

    fn place(&self, place: &mut Place) {
        match place {
            Place::Weights(offset) => *offset = self.weights[offset],
            Place::Arena(at) => *at = self.dim(at),
            Place::Input(_) | Place::Output(_) | Place::Slot(_) => {}
        }
    }

    /// Gives a step the places, kernels and symbols of the merged program.
    fn step(&self, step: &mut Step) {
        let dims = |dims: &mut [&mut Dim]| dims.iter_mut().for_each(|d| **d = self.dim(d));
        match step {
            Step::Launch(launch) => {
                launch.kernel = self.kernels[&launch.kernel];
                launch.buffers.iter_mut().for_each(|p| self.place(p));
                launch.params.iter_mut().for_each(|d| *d = self.dim(d));
                dims(&mut [&mut launch.tasks, &mut launch.flops]);
            }
            Step::Call(call) => {
                for (place, ty) in call.inputs.iter_mut().chain(&mut call.outputs) {
                    self.place(place);
                    self.ty(ty);
                }
            }
            Step::Copy { from, to, offset, bytes, .. } => {
                [from, to].into_iter().for_each(|p| self.place(p));
                dims(&mut [offset, bytes]);
            }
            Step::Bind { symbol, from, low, high, .. } => {
                *symbol = self.symbol(*symbol);
                self.place(from);
                dims(&mut [low, high]);
            }
            Step::Append { from, bytes, used, .. } => {
                self.place(from);
                dims(&mut [bytes, used]);
            }
            Step::If { condition, then, otherwise, .. } => {
                self.place(condition);
                then.iter_mut().chain(otherwise).for_each(|step| self.step(step));
            }
            Step::Loop { trips, condition, iteration, counter, body, .. } => {
                [trips, condition, counter].into_iter().for_each(|p| self.place(p));
                *iteration = self.symbol(*iteration);
                body.iter_mut().for_each(|step| self.step(step));
            }
            Step::Dispatch { lists } => lists.iter_mut().flatten().for_each(|step| self.step(step)),
            Step::Select { cases, lists } => {
                cases.iter_mut().flatten().for_each(|(symbol, _)| *symbol = self.symbol(*symbol));
                lists.iter_mut().flatten().for_each(|step| self.step(step));
            }
            Step::Strings { inputs, output, .. } => {
                for (place, ty) in inputs.iter_mut().chain([output]) {
                    self.place(place);
                    self.ty(ty);
                }
            }
            Step::Assign { sizes } => {
                for (symbol, value) in sizes {
                    *symbol = self.symbol(*symbol);
                    *value = self.dim(value);
                }
            }
            Step::Require { left, right, .. } => dims(&mut [left, right]),
            Step::Allocate { ty, .. } => self.ty(ty),
            Step::Move { .. } | Step::Release { .. } | Step::State { .. } => {}
        }
    }
}

/// The constants of the merged program by what they are made of.
struct Known {
    classes: HashMap<Contents, Constant>,
    /// For each constant the one that stands for all that are equal to it.
    classes_of: Vec<Constant>,
    /// Where those that stand for others are stored.
    offsets: HashMap<Constant, u64>,
}

/// What a constant is made of; operands are those that stand for others.
#[derive(PartialEq, Eq, Hash)]
struct Contents {
    ty: TensorType,
    source: Source,
}

#[derive(PartialEq, Eq, Hash)]
enum Source {
    Elements(Elements),
    Splat(Scalar),
    Made(Box<Op>, SmallVec<[Constant; 4]>),
}

/// Bytes that are compared whole where they are not the same memory, and hashed by their beginning.
#[derive(Eq)]
struct Elements(Bytes);

impl PartialEq for Elements {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        a.len() == b.len() && (a.as_ptr() == b.as_ptr() || a == b)
    }
}

impl Hash for Elements {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.len().hash(state);
        self.0[..self.0.len().min(256)].hash(state);
    }
}

impl Known {
    fn new(all: &Program) -> Known {
        let mut known = Known { classes: HashMap::new(), classes_of: Vec::new(), offsets: HashMap::new() };
        for (constant, data) in &all.constants {
            let contents = contents(&data.ty, &data.source, |c| known.classes_of[c.index()]);
            let class = *known.classes.entry(contents).or_insert(constant);
            known.classes_of.push(class);
        }
        for weight in &all.weights {
            known.offsets.entry(known.classes_of[weight.constant.index()]).or_insert(weight.offset);
        }
        known
    }

    /// Finds the program's constants in the merged one, and adds those that it lacks.
    fn adopt(&mut self, all: &mut Program, program: &Program) -> HashMap<Constant, Constant> {
        let mut moves = HashMap::new();
        for (constant, data) in &program.constants {
            let contents = contents(&data.ty, &data.source, |c| moves[&c]);
            let class = *self.classes.entry(contents).or_insert_with(|| {
                let mut data = data.clone();
                if let ConstantSource::Lazy { inputs, .. } = &mut data.source {
                    inputs.iter_mut().for_each(|c| *c = moves[c]);
                }
                let new = all.constants.push(data);
                self.classes_of.push(new);
                new
            });
            moves.insert(constant, class);
        }
        moves
    }
}

fn contents(ty: &TensorType, source: &ConstantSource, class: impl Fn(Constant) -> Constant) -> Contents {
    let source = match source {
        ConstantSource::Bytes(bytes) => Source::Elements(Elements(bytes.clone())),
        ConstantSource::Splat(scalar) => Source::Splat(*scalar),
        ConstantSource::Lazy { op, inputs } => {
            Source::Made(Box::new(op.clone()), inputs.iter().map(|&c| class(c)).collect())
        }
    };
    Contents { ty: ty.clone(), source }
}
