//! A model in this process: compiled and loaded, or interpreted at one of two stages.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onnxc_backend::cranelift::compile::WeightPlacement;
use onnxc_backend::loader::{HostSymbol, LoadedModel};
use onnxc_backend::object::emit::object_image;
use onnxc_backend::target::Target;
use onnxc_frontend::data::DataValue;
use onnxc_frontend::import::Structure;
use onnxc_frontend::proto::TensorData;
use onnxc_ir::program::interp::{run_program, weight_section};
use onnxc_ir::program::verify::verify_steps;
use onnxc_ir::program::{Launch, Program, Step};
use onnxc_ir::tensor::interp::{constant_bytes, interpret};
use onnxc_ir::tensor::{Graph, TensorBytes};
use onnxc_runtime::{Model, STRING_FUNCTIONS, Session, cuda_functions, cuda_message};

use super::checked::Checked;
use super::compile::{hash, import, lower, object_failure, warnings, with_compiled};
use super::libraries;
use super::options::{CompileOptions, Engine};
use super::ports::{Input, PortInfo, outputs_of, ports, prepare, symbol_values, tensors_of, values_of, view};
use crate::diagnostics::{Diagnostic, Failure, FailureKind};
use crate::values::{Value, to_tensor_bytes};

/// Sizes and times of a compilation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// From the model's file to loaded code.
    pub compile_seconds: f64,
    /// Bytes of machine code.
    pub code_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of the arena of the session.
    pub arena_bytes: u64,
}

/// A step of the compiled model, as profiles show it.
#[derive(Clone, Debug)]
pub struct StepInfo {
    /// The ONNX nodes that it computes, `OPERATOR PATH` each.
    pub nodes: Vec<String>,
    /// Its kernel; `copy` for a copy of memory.
    pub kernel: String,
    /// Floating-point operations of one run, a multiply-add counts two; none where they depend on dims.
    pub flops: Option<i64>,
    /// Bytes that one run reads and writes when each element counts once; none where they depend on dims.
    pub bytes: Option<i64>,
}

pub(super) fn step_info(program: &Program, step: &Step) -> StepInfo {
    let (kernel, flops) = match step {
        Step::Launch(l) => (program.kernels[l.kernel].name.as_str(), l.flops.as_const()),
        Step::Call(call) => (call.external.symbol.as_str(), None),
        Step::Copy { .. } => ("copy", Some(0)),
        Step::Bind { .. } | Step::Assign { .. } | Step::Require { .. } => ("sizes", Some(0)),
        Step::Allocate { .. } | Step::Release { .. } | Step::State { .. } => ("memory", Some(0)),
        Step::Append { .. } | Step::Move { .. } => ("memory", Some(0)),
        Step::Strings { function, .. } => (function.symbol(), Some(0)),
        Step::Dispatch { .. } | Step::Select { .. } => ("dispatch", Some(0)),
        Step::If { .. } => ("branch", Some(0)),
        Step::Loop { .. } => ("loop", Some(0)),
    };
    let node = |&o: &_| format!("{} {}", program.origins[o].operator, program.origins[o].path);
    let bytes = match step {
        Step::Launch(launch) => launch_bytes(program, launch),
        Step::Copy { bytes, .. } => bytes.as_const().map(|b| 2 * b),
        _ => Some(0),
    };
    StepInfo { nodes: step.origins().iter().map(node).collect(), kernel: kernel.to_owned(), flops, bytes }
}

/// What a launch reads and writes. A kernel has an operation at least for each element that it touches, so that a table of
/// which it gathers a few rows counts no more than those.
fn launch_bytes(program: &Program, launch: &Launch) -> Option<i64> {
    let most = launch.flops.as_const()?.max(1);
    let buffers = program.kernels[launch.kernel].arguments();
    let bytes = buffers.map(|(_, b)| {
        let elements = i64::try_from(b.len?).ok()?.min(most);
        b.dtype.packed_bytes(elements as u64).map(|b| b as i64)
    });
    bytes.sum()
}

/// A model that can be run.
pub struct Executable {
    inputs: Vec<PortInfo>,
    outputs: Vec<PortInfo>,
    /// How the model's inputs and outputs are made of these ports.
    structures: [Vec<(String, Structure)>; 2],
    warnings: Vec<Diagnostic>,
    stats: Stats,
    steps: Vec<StepInfo>,
    form: Runnable,
}

enum Runnable {
    Native {
        model: Model,
        /// With the values of the symbols that it is planned for.
        session: Option<(Vec<i64>, Session)>,
        threads: usize,
    },
    /// Each run is a test.
    Checked(Checked),
    Graph(Box<Graph>),
    Program {
        program: Box<Program>,
        weights: Vec<u8>,
    },
}

pub(super) fn run_failure(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Run, Diagnostic::error("R001", message))
}

/// Answers for the processor which variant runs.
fn choose_variant(loaded: &LoadedModel, prefix: &str, name: &str, targets: &[Target]) -> Result<(), Failure> {
    let kinds: Vec<&str> = std::iter::once("baseline").chain(targets[1..].iter().map(Target::kind)).collect();
    let cell = loaded.symbol(&format!("{prefix}__variant"));
    let (Some(number), Some(cell)) = (kinds.iter().position(|kind| *kind == name), cell) else {
        return Err(Failure::usage(format!("--variant {name}: there are {} with --multiversion", kinds.join(", "))));
    };
    if !targets[number].runs_on_host() {
        return Err(Failure::usage(format!("this machine cannot run code for {}", targets[number].name())));
    }
    // SAFETY: the object keeps a word of this name in memory that can be written, aligned, and nothing runs yet.
    unsafe { cell.cast_mut().cast::<u32>().write(number as u32 + 1) };
    Ok(())
}

/// Compiles a program and loads it. Gives the address of its weights too, if it has some.
pub(super) fn load_native(
    path: &Path,
    targets: &[Target],
    program: &Program,
    options: &CompileOptions,
) -> Result<(Model, Option<*const u8>), Failure> {
    let hash = hash(path, targets, options)?;
    with_compiled(program, targets, hash, WeightPlacement::Embedded, |compiled| {
        let image = object_image(&compiled.spec).map_err(|e| object_failure(&e, path))?;
        let mut host = support_functions();
        host.extend(libraries::functions(&options.libraries, &options.custom_operators)?);
        let loaded = LoadedModel::load(image.into(), &host).map_err(|e| run_failure(e.to_string()))?;
        if options.perf_map {
            write_perf_map(&loaded)?;
        }
        let prefix = &compiled.spec.prefix;
        let descriptor = loaded.symbol(prefix).ok_or_else(|| run_failure("the object has no descriptor"))?;
        let weights = loaded.symbol(&format!("{prefix}_weights"));
        if let Some(name) = &options.variant {
            choose_variant(&loaded, prefix, name, targets)?;
        }
        // SAFETY: the object was made here for this machine and its loader keeps it mapped.
        let model = unsafe { Model::from_raw(descriptor.cast(), Arc::new(loaded)) };
        Ok((model.map_err(|e| run_failure(e.to_string()))?, weights))
    })
}

impl Executable {
    /// Compiles a model, as far as the engine needs, with `threads` workers (0: one for each processor).
    pub fn load(path: &Path, engine: Engine, threads: usize, options: &CompileOptions) -> Result<Executable, Failure> {
        let started = Instant::now();
        let imported = import(path, options)?;
        let warnings = warnings(&imported);
        let (inputs, outputs) = ports(&imported)?;
        let structures = [imported.inputs.clone(), imported.outputs.clone()];
        if options.checks.any() && engine != Engine::Native {
            return Err(Failure::usage("only compiled code can be tested with --guard and --poison"));
        }
        if !options.states.is_empty() && (options.checks.any() || engine == Engine::LoopInterpreter) {
            return Err(Failure::usage("only compiled code that is not tested with --guard and --poison keeps states"));
        }
        let mut stats = Stats::default();
        let mut steps = Vec::new();
        let form = match engine {
            Engine::TensorInterpreter => Runnable::Graph(Box::new(imported.graph)),
            Engine::LoopInterpreter => {
                let program = lower(imported, &options.targets()?, None, options)?;
                verify_steps(&program).map_err(|e| run_failure(e.to_string()))?;
                let weights = weight_section(&program, |constants, c| Ok::<_, Failure>(constant_bytes(constants, c)))?;
                Runnable::Program { program: Box::new(program), weights }
            }
            Engine::Native => {
                let targets = options.targets()?;
                if !targets[0].runs_on_host() {
                    let message = format!("this machine cannot run code for {}", targets[0].name());
                    return Err(Failure::usage(message));
                }
                if options.checks.any() {
                    if options.multiversion || !options.specializations.is_empty() {
                        let message = "--guard and --poison test one list of steps at a time: leave --multiversion and \
                                       --specialize out";
                        return Err(Failure::usage(message));
                    }
                    Runnable::Checked(Checked::load(path, &targets, options.checks, options)?)
                } else {
                    let program = lower(imported, &targets, None, options)?;
                    steps = program.all_steps().into_iter().map(|step| step_info(&program, step)).collect();
                    let (model, _) = load_native(path, &targets, &program, options)?;
                    (stats.code_bytes, stats.weight_bytes) = (model.code_bytes(), model.weight_bytes());
                    Runnable::Native { model, session: None, threads }
                }
            }
        };
        stats.compile_seconds = started.elapsed().as_secs_f64();
        Ok(Executable { inputs, outputs, structures, warnings, stats, steps, form })
    }

    /// The names of the model's outputs.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.structures[1].iter().map(|(name, _)| name.as_str())
    }

    /// The tensors of the inputs in the model's order: one for each, but as many as a sequence or an optional has.
    pub fn inputs(&self) -> &[PortInfo] {
        &self.inputs
    }

    /// The tensors of the outputs in the model's order.
    pub fn outputs(&self) -> &[PortInfo] {
        &self.outputs
    }

    /// What was odd about the model.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The compiled model; none where it is interpreted.
    pub fn model(&self) -> Option<&Model> {
        match &self.form {
            Runnable::Native { model, .. } => Some(model),
            _ => None,
        }
    }

    /// Sizes and times.
    pub fn stats(&self) -> Stats {
        let arena_bytes = match &self.form {
            Runnable::Native { session: Some((_, session)), .. } => session.arena_bytes() as u64,
            _ => 0,
        };
        Stats { arena_bytes, ..self.stats }
    }

    /// The steps of the compiled model; none when it is interpreted.
    pub fn steps(&self) -> &[StepInfo] {
        &self.steps
    }

    /// Runs the model once on a value for each of its inputs.
    pub fn run(&mut self, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        let tensors = tensors_of(inputs, &self.structures[0])?;
        Ok(values_of(self.run_tensors(&tensors)?, &self.structures[1]))
    }

    /// Runs the model once on its tensors.
    fn run_tensors(&mut self, inputs: &[Value]) -> Result<Vec<Value>, Failure> {
        if inputs.len() != self.inputs.len() {
            return Err(run_failure(format!("{} inputs for {}", inputs.len(), self.inputs.len())));
        }
        let tensors: Vec<TensorBytes> =
            inputs.iter().zip(&self.inputs).map(|(v, port)| to_tensor_bytes(v, port)).collect::<Result<_, _>>()?;
        let outputs = match &self.form {
            Runnable::Graph(graph) => interpret(graph, &tensors).map_err(|e| run_failure(e.to_string()))?,
            Runnable::Program { program, weights } => {
                run_program(program, weights, &tensors).map_err(|e| run_failure(e.to_string()))?
            }
            Runnable::Checked(checked) => checked.run(&prepare(inputs, &self.inputs)?)?,
            Runnable::Native { .. } => {
                let mut timed = self.timed(inputs)?;
                timed.run()?;
                outputs_of(timed.session)?
            }
        };
        Ok(outputs.into_iter().map(|t| DataValue::Tensor(TensorData::from(t))).collect())
    }

    /// Prepares runs on the same inputs, so that only the model is timed.
    pub fn timed(&mut self, inputs: &[Value]) -> Result<Timed<'_>, Failure> {
        let ports = &self.inputs;
        let Runnable::Native { model, session, threads } = &mut self.form else {
            return Err(Failure::usage("only the compiled model can be timed"));
        };
        let inputs = prepare(inputs, ports)?;
        let dims = symbol_values(model, &inputs);
        if session.is_none() {
            let new = Session::new(model, &dims, *threads).map_err(|e| run_failure(e.to_string()))?;
            *session = Some((dims.clone(), new));
        }
        let (planned, session) = session.as_mut().expect("the session was just made");
        if *planned != dims {
            session.set_dims(&dims).map_err(|e| run_failure(e.to_string()))?;
            *planned = dims;
        }
        for (number, input) in inputs.iter().enumerate().filter(|(n, _)| model.inputs()[*n].state) {
            let contents = view(input.dtype, &input.shape, input.bytes());
            let put = contents.and_then(|contents| session.put_state(number, &contents));
            put.map_err(|e| run_failure(format!("state `{}`: {e}", ports[number].name)))?;
        }
        Ok(Timed { session, inputs })
    }
}

/// Tells `perf` the names of the loaded functions, in the file where it looks for those of a process's own code.
fn write_perf_map(loaded: &LoadedModel) -> Result<(), Failure> {
    let code = loaded.code_range();
    let mut functions: Vec<(usize, &str)> =
        loaded.symbols().map(|(name, at)| (at as usize, name)).filter(|(at, _)| code.contains(at)).collect();
    functions.sort_unstable();
    let ends = functions.iter().skip(1).map(|&(at, _)| at).chain([code.end]);
    let lines: String =
        functions.iter().zip(ends).map(|((at, name), end)| format!("{at:x} {:x} {name}\n", end - at)).collect();
    let path = Path::new("/tmp").join(format!("perf-{}.map", std::process::id()));
    std::fs::write(&path, lines).map_err(|e| Failure::io(&path, &e))
}

/// The support library's functions that compiled models may call.
fn support_functions<'n>() -> Vec<HostSymbol<'n>> {
    let strings = STRING_FUNCTIONS.iter().map(|&(name, function)| HostSymbol { name, address: function as *const u8 });
    let gpu = cuda_functions().into_iter().map(|(name, address)| HostSymbol { name, address: address.cast() });
    strings.chain(gpu).collect()
}

/// A model with inputs, ready to run again and again.
pub struct Timed<'e> {
    session: &'e mut Session,
    inputs: Vec<Input>,
}

impl Timed<'_> {
    /// Runs the model.
    pub fn run(&mut self) -> Result<(), Failure> {
        let model = self.session.model().clone();
        for (number, port) in model.inputs().iter().enumerate() {
            // Each run appends behind what the first one found.
            if let Some(axis) = port.grows {
                let extent = self.inputs[number].shape[axis];
                self.session.truncate_state(number, extent).map_err(|e| run_failure(e.to_string()))?;
            }
        }
        let views = self
            .inputs
            .iter()
            .zip(model.inputs())
            .filter(|(_, port)| !port.state)
            .map(|(input, _)| view(input.dtype, &input.shape, input.bytes()).map_err(|e| run_failure(e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        self.session.run(&views).map_err(|e| {
            let said = cuda_message();
            run_failure(if said.is_empty() { e.to_string() } else { format!("{e}: {said}") })
        })
    }

    /// Runs the model `runs` times and gives the least time that each of its `steps` steps took.
    pub fn profile(&mut self, runs: usize, steps: usize) -> Result<Vec<Duration>, Failure> {
        let times = Arc::new(Mutex::new((Instant::now(), vec![Duration::MAX; steps])));
        let shared = Arc::clone(&times);
        self.session.set_trace(Some(Box::new(move |step, begin| {
            let now = Instant::now();
            let mut times = shared.lock().expect("nobody panics with the lock");
            if begin {
                times.0 = now;
            } else {
                let took = now - times.0;
                times.1[step] = times.1[step].min(took);
            }
        })));
        let outcome = (0..runs).try_for_each(|_| self.run());
        self.session.set_trace(None);
        outcome?;
        let times = times.lock().expect("nobody panics with the lock");
        Ok(times.1.iter().map(|&t| if t == Duration::MAX { Duration::ZERO } else { t }).collect())
    }
}
