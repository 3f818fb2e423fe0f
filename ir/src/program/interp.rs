//! The reference interpreter of programs: binds the symbols from the inputs' shapes, tests the assumptions, lays out an
//! arena that is poisoned with all ones, and runs the steps one after the other.

use std::collections::HashMap;

use bytes::Bytes;
use cranelift_entity::{EntityRef, PrimaryMap};

use super::{KernelRef, Launch, Place, Port, Program, Step};
use crate::dim::{Dim, Symbol};
use crate::dtype::DType;
use crate::loops::interp::{Binding, FlatKernel, InterpError, Options};
use crate::strings::{StringFunction, StringTable};
use crate::tensor::{Constant, ConstantData, TensorBytes, TensorType};

/// Why a program cannot run, or stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The inputs do not fit the model.
    #[error("input {number} `{name}`: {message}")]
    Input {
        /// Its place in the model's order.
        number: usize,
        /// Its name.
        name: String,
        /// What does not fit.
        message: String,
    },
    /// Another number of inputs.
    #[error("{given} inputs for {expected}")]
    InputCount {
        /// How many there are.
        given: usize,
        /// How many the model has.
        expected: usize,
    },
    /// Dimensions that the model takes as equal are not.
    #[error("the model needs {left} = {right}, which are {left_value} and {right_value}")]
    Assumption {
        /// One side.
        left: String,
        /// The other.
        right: String,
        /// Its value.
        left_value: i64,
        /// Its value.
        right_value: i64,
    },
    /// A size that the inputs' shapes do not determine, or that is negative or too great.
    #[error("the size {dim} has no value")]
    Size {
        /// The expression.
        dim: String,
    },
    /// The weights have another size than the program's weight section.
    #[error("{given} bytes of weights for {expected}")]
    Weights {
        /// How many there are.
        given: usize,
        /// How many the program has.
        expected: u64,
    },
    /// A size that data decides is out of its range, or two that have to be equal are not.
    #[error("step {step}: {message}")]
    Data {
        /// Which step.
        step: usize,
        /// What does not fit.
        message: String,
    },
    /// A function outside of the model would be called.
    #[error("step {step}: `{symbol}` is a function outside of the model, which interpreters do not call")]
    External {
        /// Which step.
        step: usize,
        /// The function.
        symbol: String,
    },
    /// A kernel stopped.
    #[error("step {step}: {error}")]
    Kernel {
        /// Which step.
        step: usize,
        /// Why.
        error: InterpError,
    },
    /// A step's place ends behind its memory.
    #[error("step {step}: {place} ends behind its memory")]
    Place {
        /// Which step.
        step: usize,
        /// Where.
        place: String,
    },
}

/// Runs a program that the verifier accepts. `weights` is the weight section; the inputs are in the model's order, and so
/// are the outputs.
pub fn run_program(program: &Program, weights: &[u8], inputs: &[TensorBytes]) -> Result<Vec<TensorBytes>, RunError> {
    if weights.len() as u64 != program.weight_bytes {
        return Err(RunError::Weights { given: weights.len(), expected: program.weight_bytes });
    }
    let mut run = Run { program, symbols: bind(program, inputs)?, strings: program.strings.clone() };
    for (left, right) in &program.assumptions {
        let (left_value, right_value) = (run.signed(left)?, run.signed(right)?);
        if left_value != right_value {
            let text = |d: &Dim| d.display(&program.symbols).to_string();
            return Err(RunError::Assumption { left: text(left), right: text(right), left_value, right_value });
        }
    }
    for size in &program.sizes {
        run.size(size)?;
    }
    let mut memory = Memory {
        inputs: inputs.iter().map(|t| t.bytes.to_vec()).collect(),
        outputs: Vec::new(),
        weights: weights.to_vec(),
        arena: vec![0xff; run.size(&program.arena_bytes)?],
        slots: vec![Vec::new(); program.slots as usize],
    };
    let mut shapes = Vec::new();
    for port in &program.outputs {
        let (shape, bytes) = if program.states_at_entry(port) { run.port(port)? } else { (Vec::new(), 0) };
        shapes.push(shape);
        memory.outputs.push(vec![0xff; bytes]);
    }
    let mut kernels = HashMap::new();
    run.steps(&program.steps, &mut 0, &mut memory, &mut shapes, &mut kernels)?;
    let outputs = program.outputs.iter().zip(shapes).zip(memory.outputs);
    Ok(outputs
        .map(|((port, shape), bytes)| TensorBytes {
            dtype: port.ty.dtype,
            shape: shape.into(),
            bytes: Bytes::from(bytes),
        })
        .collect())
}

/// The weight section, for [`run_program`]. `evaluate` gives a constant's elements.
pub fn weight_section<E>(
    program: &Program,
    mut evaluate: impl FnMut(&PrimaryMap<Constant, ConstantData>, Constant) -> Result<TensorBytes, E>,
) -> Result<Vec<u8>, E> {
    let mut section = vec![0; program.weight_bytes as usize];
    for weight in &program.weights {
        let tensor = evaluate(&program.constants, weight.constant)?;
        let start = weight.offset as usize;
        section[start..start + weight.bytes as usize].copy_from_slice(&tensor.bytes);
    }
    Ok(section)
}

/// The symbols' values: a dimension that is a symbol gives its value, the others must then fit.
fn bind(program: &Program, inputs: &[TensorBytes]) -> Result<Vec<Option<i64>>, RunError> {
    if inputs.len() != program.inputs.len() {
        return Err(RunError::InputCount { given: inputs.len(), expected: program.inputs.len() });
    }
    let mut values: Vec<Option<i64>> = vec![None; program.symbols.len()];
    let ports = || program.inputs.iter().zip(inputs).enumerate();
    let fail =
        |number: usize, port: &Port, message: String| Err(RunError::Input { number, name: port.name.clone(), message });
    for (number, (port, tensor)) in ports() {
        if tensor.dtype != port.ty.dtype {
            return fail(number, port, format!("{} instead of {}", tensor.dtype, port.ty.dtype));
        }
        if tensor.shape.len() != port.ty.rank() {
            return fail(number, port, format!("{} dimensions instead of {}", tensor.shape.len(), port.ty.rank()));
        }
        let elements = tensor.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
        let bytes = elements.and_then(|n| tensor.dtype.packed_bytes(n));
        // What strings point into is checked where they are read.
        if tensor.dtype != DType::String && bytes != Some(tensor.bytes.len() as u64) {
            return fail(
                number,
                port,
                format!("{} bytes do not make the shape {:?}", tensor.bytes.len(), tensor.shape),
            );
        }
        for (dim, &size) in port.ty.shape.iter().zip(&tensor.shape) {
            let Some(symbol) = dim.as_symbol() else { continue };
            let (low, high) = program.symbols.bounds(symbol);
            if size < low || size > high {
                let name = program.symbols.name(symbol);
                return fail(number, port, format!("{name} is {size}, not in {low}..={high}"));
            }
            values[symbol.index()].get_or_insert(size);
        }
    }
    let run = Run { program, symbols: values, strings: StringTable::default() };
    for (number, (port, tensor)) in ports() {
        for (dim, &size) in port.ty.shape.iter().zip(&tensor.shape) {
            let expected = run.signed(dim)?;
            if expected != size {
                let text = dim.display(&program.symbols);
                return fail(number, port, format!("a dimension is {size}, not {text} = {expected}"));
            }
        }
    }
    Ok(run.symbols)
}

struct Run<'p> {
    program: &'p Program,
    symbols: Vec<Option<i64>>,
    strings: StringTable,
}

/// The memory regions, in the order of [`Binding::region`]: inputs, outputs, weights, arena, slots.
struct Memory {
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    weights: Vec<u8>,
    arena: Vec<u8>,
    slots: Vec<Vec<u8>>,
}

impl Memory {
    fn regions(&mut self) -> Vec<&mut [u8]> {
        let ports = self.inputs.iter_mut().chain(&mut self.outputs);
        ports.chain([&mut self.weights, &mut self.arena]).chain(&mut self.slots).map(|v| &mut v[..]).collect()
    }
}

impl<'a> Run<'a> {
    fn signed(&self, dim: &Dim) -> Result<i64, RunError> {
        let known = dim.symbols().all(|s| self.symbols.get(s.index()).is_some_and(Option::is_some));
        let value_of = |s: Symbol| self.symbols[s.index()].unwrap_or(0);
        let value = if known { dim.eval(value_of) } else { None };
        value.ok_or_else(|| RunError::Size { dim: dim.display(&self.program.symbols).to_string() })
    }

    fn size(&self, dim: &Dim) -> Result<usize, RunError> {
        let value = self.signed(dim)?;
        // An arena of more than this is a mistake of the plan, and would end the process.
        let sensible = usize::try_from(value).ok().filter(|&v| v < 1 << 40);
        sensible.ok_or_else(|| RunError::Size { dim: dim.display(&self.program.symbols).to_string() })
    }

    /// An output's shape and bytes.
    fn port(&self, port: &Port) -> Result<(Vec<i64>, usize), RunError> {
        self.tensor(&port.ty, &|| format!("of output `{}`", port.name))
    }

    /// A tensor's shape and bytes.
    fn tensor(&self, ty: &TensorType, what: &dyn Fn() -> String) -> Result<(Vec<i64>, usize), RunError> {
        let shape: Vec<i64> = ty.shape.iter().map(|d| self.signed(d)).collect::<Result<_, _>>()?;
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
        let bytes = elements.and_then(|n| ty.dtype.packed_bytes(n)).filter(|&b| b < 1 << 40);
        match bytes {
            Some(bytes) => Ok((shape, bytes as usize)),
            None => Err(RunError::Size { dim: what() }),
        }
    }

    /// Runs a list of steps; `next` is the number of its first one, then of the first after it.
    fn steps(
        &mut self,
        steps: &[Step],
        next: &mut usize,
        memory: &mut Memory,
        shapes: &mut [Vec<i64>],
        flat: &mut HashMap<KernelRef, FlatKernel<'a>>,
    ) -> Result<(), RunError> {
        for step in steps {
            let number = *next;
            *next += 1;
            self.step(step, number, next, memory, shapes, flat)?;
        }
        Ok(())
    }

    /// Bytes at a place.
    fn read<const N: usize>(
        &self,
        number: usize,
        place: &Place,
        at: usize,
        memory: &mut Memory,
    ) -> Result<[u8; N], RunError> {
        let from = self.binding(number, place, at + N, memory)?;
        let start = from.offset + at;
        Ok(memory.regions()[from.region][start..start + N].try_into().expect("as many bytes as asked for"))
    }

    fn step(
        &mut self,
        step: &Step,
        number: usize,
        next: &mut usize,
        memory: &mut Memory,
        shapes: &mut [Vec<i64>],
        flat: &mut HashMap<KernelRef, FlatKernel<'a>>,
    ) -> Result<(), RunError> {
        let program = self.program;
        match step {
            Step::Launch(launch) => {
                let kernel =
                    flat.entry(launch.kernel).or_insert_with(|| FlatKernel::new(&program.kernels[launch.kernel]));
                self.launch(number, launch, kernel, memory)?;
            }
            Step::Call(call) => {
                return Err(RunError::External { step: number, symbol: call.external.symbol.clone() });
            }
            Step::Copy { from, to, offset, bytes, .. } => {
                let (bytes, offset) = (self.size(bytes)?, self.size(offset)?);
                let from = self.binding(number, from, bytes, memory)?;
                let to = self.binding(number, to, offset + bytes, memory)?;
                let mut regions = memory.regions();
                let copy = regions[from.region][from.offset..from.offset + bytes].to_vec();
                let start = to.offset + offset;
                regions[to.region][start..start + bytes].copy_from_slice(&copy);
            }
            Step::Bind { symbol, from, element, low, high, .. } => {
                let size = i64::from_le_bytes(self.read(number, from, *element as usize * 8, memory)?);
                let (low, high) = (self.signed(low)?, self.signed(high)?);
                if size < low || size > high {
                    let message = format!("{} is {size}, not in {low}..={high}", program.symbols.name(*symbol));
                    return Err(RunError::Data { step: number, message });
                }
                self.symbols[symbol.index()] = Some(size);
            }
            Step::Assign { sizes } => {
                let values: Vec<i64> = sizes.iter().map(|(_, d)| self.signed(d)).collect::<Result<_, _>>()?;
                sizes.iter().zip(values).for_each(|((s, _), value)| self.symbols[s.index()] = Some(value));
            }
            Step::Require { left, right, .. } => {
                let (a, b) = (self.signed(left)?, self.signed(right)?);
                if a != b {
                    let [left, right] = [left, right].map(|d| d.display(&program.symbols).to_string());
                    let message = format!("{left} is {a} and {right} is {b}, which have to be equal");
                    return Err(RunError::Data { step: number, message });
                }
            }
            Step::If { condition, then, otherwise, .. } => {
                let [truth] = self.read(number, condition, 0, memory)?;
                let first = *next;
                let second = first + then.iter().map(Step::count).sum::<usize>();
                let (list, mut at) = if truth != 0 { (then, first) } else { (otherwise, second) };
                self.steps(list, &mut at, memory, shapes, flat)?;
                *next = second + otherwise.iter().map(Step::count).sum::<usize>();
            }
            Step::Loop { trips, condition, iteration, counter, body, .. } => {
                let trips = i64::from_le_bytes(self.read(number, trips, 0, memory)?);
                let mut done = 0;
                loop {
                    self.symbols[iteration.index()] = Some(done);
                    let [truth] = self.read(number, condition, 0, memory)?;
                    if done >= trips || truth == 0 {
                        break;
                    }
                    let to = self.binding(number, counter, 8, memory)?;
                    memory.regions()[to.region][to.offset..to.offset + 8].copy_from_slice(&done.to_le_bytes());
                    self.steps(body, &mut { *next }, memory, shapes, flat)?;
                    done += 1;
                }
                *next += body.iter().map(Step::count).sum::<usize>();
            }
            // A processor that runs Loop IR as it stands can do what the first variant asks for.
            Step::Dispatch { lists } => {
                let mut at = *next;
                let first = lists.first().map_or(&[][..], |list| list);
                self.steps(first, &mut at, memory, shapes, flat)?;
                *next += lists.iter().flatten().map(Step::count).sum::<usize>();
            }
            Step::Select { cases, lists } => {
                let holds = |case: &Vec<(Symbol, i64)>| case.iter().all(|&(s, n)| self.symbols[s.index()] == Some(n));
                let chosen = cases.iter().position(holds).map_or(0, |case| case + 1);
                for (n, list) in lists.iter().enumerate() {
                    let mut at = *next;
                    *next += list.iter().map(Step::count).sum::<usize>();
                    if n == chosen {
                        self.steps(list, &mut at, memory, shapes, flat)?;
                    }
                }
            }
            Step::Append { slot, from, bytes, used, .. } => {
                let (bytes, used) = (self.size(bytes)?, self.size(used)?);
                let from = self.binding(number, from, bytes, memory)?;
                let part = memory.regions()[from.region][from.offset..from.offset + bytes].to_vec();
                let held = &mut memory.slots[*slot as usize];
                held.truncate(used);
                held.extend(part);
            }
            Step::Move { from, to } => {
                memory.slots[*to as usize] = std::mem::take(&mut memory.slots[*from as usize]);
            }
            Step::Allocate { slot, ty, .. } => {
                memory.slots[*slot as usize] = vec![0xff; self.tensor(ty, &|| format!("of slot {slot}"))?.1];
            }
            Step::Release { slot } => memory.slots[*slot as usize] = Vec::new(),
            Step::Strings { function, inputs, output, .. } => {
                self.strings(number, *function, inputs, output, memory)?;
            }
            Step::State { output, .. } => {
                let (shape, bytes) = self.port(&program.outputs[*output as usize])?;
                shapes[*output as usize] = shape;
                memory.outputs[*output as usize] = vec![0xff; bytes];
            }
        }
        Ok(())
    }

    fn strings(
        &mut self,
        step: usize,
        function: StringFunction,
        inputs: &[(Place, TensorType)],
        (place, ty): &(Place, TensorType),
        memory: &mut Memory,
    ) -> Result<(), RunError> {
        let fail = |message: String| RunError::Data { step, message: format!("{}: {message}", function.symbol()) };
        let (shape, bytes) = self.tensor(ty, &|| format!("of the result of {}", function.symbol()))?;
        let result = match (function, place, &inputs[0].0) {
            (StringFunction::Leave, Place::Output(n), _) => {
                let numbers = self.operand(step, &inputs[0], memory)?;
                let left = self.strings.leave(&numbers).ok_or_else(|| fail("a number of no string".into()))?;
                memory.outputs[*n as usize] = left.bytes.to_vec();
                return Ok(());
            }
            (StringFunction::Enter, _, Place::Input(n)) => {
                let bytes = Bytes::copy_from_slice(&memory.inputs[*n as usize]);
                let given = TensorBytes { dtype: DType::String, shape: shape.into(), bytes };
                self.strings.enter(&given).ok_or_else(|| fail("a string lies outside of its buffer".into()))?
            }
            _ => {
                let given = inputs.iter().map(|o| self.operand(step, o, memory)).collect::<Result<Vec<_>, _>>()?;
                function.run(&mut self.strings, &given, ty.dtype, &shape).map_err(fail)?
            }
        };
        let to = self.binding(step, place, bytes, memory)?;
        memory.regions()[to.region][to.offset..to.offset + bytes].copy_from_slice(&result.bytes);
        Ok(())
    }

    /// What a function on strings reads.
    fn operand(
        &self,
        step: usize,
        (place, ty): &(Place, TensorType),
        memory: &mut Memory,
    ) -> Result<TensorBytes, RunError> {
        let (shape, bytes) = self.tensor(ty, &|| "of an operand".to_owned())?;
        let from = self.binding(step, place, bytes, memory)?;
        let bytes = Bytes::copy_from_slice(&memory.regions()[from.region][from.offset..from.offset + bytes]);
        Ok(TensorBytes { dtype: ty.dtype, shape: shape.into(), bytes })
    }

    /// A place of at least `bytes`.
    fn binding(&self, step: usize, place: &Place, bytes: usize, memory: &Memory) -> Result<Binding, RunError> {
        let (inputs, outputs) = (memory.inputs.len(), memory.outputs.len());
        let (region, offset, len) = match place {
            Place::Input(n) => (*n as usize, 0, memory.inputs[*n as usize].len()),
            Place::Output(n) => (inputs + *n as usize, 0, memory.outputs[*n as usize].len()),
            Place::Weights(offset) => (inputs + outputs, *offset as usize, memory.weights.len()),
            Place::Arena(offset) => (inputs + outputs + 1, self.size(offset)?, memory.arena.len()),
            Place::Slot(n) => (inputs + outputs + 2 + *n as usize, 0, memory.slots[*n as usize].len()),
        };
        match len.checked_sub(offset).filter(|&left| left >= bytes) {
            Some(left) => Ok(Binding { region, offset, bytes: left }),
            None => Err(RunError::Place { step, place: self.program.place(place) }),
        }
    }

    fn launch(&self, step: usize, launch: &Launch, flat: &FlatKernel<'_>, memory: &mut Memory) -> Result<(), RunError> {
        let kernel = &self.program.kernels[launch.kernel];
        let mut bindings = Vec::with_capacity(launch.buffers.len());
        for ((_, data), place) in kernel.arguments().zip(&launch.buffers) {
            let bytes = data.len.and_then(|len| data.dtype.packed_bytes(len));
            let mut binding = self.binding(step, place, bytes.unwrap_or(0) as usize, memory)?;
            if let Some(bytes) = bytes {
                binding.bytes = bytes as usize;
            }
            bindings.push(binding);
        }
        let params: Vec<i64> = launch.params.iter().map(|p| self.signed(p)).collect::<Result<_, _>>()?;
        let tasks = self.size(&launch.tasks)? as i64;
        let result = flat.run(&mut memory.regions(), &bindings, &params, [0, tasks, 0], &Options::default());
        result.map_err(|error| RunError::Kernel { step, error })
    }
}
