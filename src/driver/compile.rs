//! From a model's path to an object, a library or the text of an intermediate form.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use onnxc_backend::cranelift::compile::{Compiled, WeightPlacement, compile_with};
use onnxc_backend::object::emit::{archive_file, object_file, text_file, weights_file};
use onnxc_backend::object::{ObjectError, symbol_names};
use onnxc_backend::target::Target;
use onnxc_backend::{header, link, output_file};
use onnxc_frontend::import::{Imported, import as import_model};
use onnxc_frontend::proto::{ModelFile, map_file};
use onnxc_ir::program::{Apart, Program, Remark};
use onnxc_ir::tensor::interp::constant_bytes;
use onnxc_lowering::pipeline;
use onnxc_lowering::specialize::SizeCase;
use sha2::{Digest, Sha256};

use super::contract::{check_budget, contract};
use super::interface::Interface;
use super::options::{CompileOptions, FloatMode, OptLevel, Specialization};
use super::{failures, gpu};
use crate::diagnostics::{Diagnostic, Failure, FailureKind};

/// An intermediate form as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The imported graph.
    TensorIr,
    /// The kernels.
    LoopIr,
    /// Kernels, host program and memory plan.
    Program,
    /// Cranelift's IR.
    Clif,
    /// Assembly.
    Asm,
    /// The C header.
    Header,
    /// What the model asks of its surroundings, as JSON.
    Contract,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A relocatable object.
    Object(&'a Path),
    /// An archive with one object.
    Archive(&'a Path),
    /// A shared library.
    SharedLibrary {
        /// Where.
        path: &'a Path,
        /// With which linker; a usual one by default.
        linker: Option<&'a Path>,
    },
    /// PTX of a GPU target, with the weights and a description beside it.
    Ptx(&'a Path),
}

impl Output<'_> {
    /// Where the code goes; header and external weights lie beside it.
    fn path(&self) -> &Path {
        match *self {
            Output::Object(path) | Output::Archive(path) | Output::SharedLibrary { path, .. } | Output::Ptx(path) => {
                path
            }
        }
    }
}

/// What was made.
#[derive(Debug)]
pub struct Report {
    /// What is odd but not wrong.
    pub warnings: Vec<Diagnostic>,
    /// The target's full name.
    pub target: String,
    /// Bytes of machine code.
    pub code_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// What the model shows to its callers.
    pub interface: Interface,
    /// The files beside the model's that hold its weights.
    pub external_files: Vec<PathBuf>,
    /// How long it took.
    pub seconds: f64,
    /// What was decided about which node and why.
    pub remarks: Vec<Remark>,
}

/// A symbol prefix from a file's stem.
pub fn prefix_of(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    // A library's name in C programs goes without `lib`.
    let stem = match path.extension().and_then(|e| e.to_str()) {
        Some("a" | "so") => stem.strip_prefix("lib").map(str::to_owned).unwrap_or(stem),
        _ => stem,
    };
    symbol_names::prefix_from(&stem)
}

/// Imports a model.
pub fn import(model: &Path, options: &CompileOptions) -> Result<Imported, Failure> {
    let file = ModelFile::open(model).map_err(|e| failures::load(&e, model))?;
    import_model(&file, &options.import_options()).map_err(|e| failures::import(e, model))
}

/// Warnings as diagnostics.
pub(super) fn warnings(imported: &Imported) -> Vec<Diagnostic> {
    imported.warnings.iter().map(|text| Diagnostic::warning("W001", text.clone())).collect()
}

/// The vector registers that schedules are told of where code is to be small: tiles of one or two rows, unrolled.
const REGISTERS_OF_SMALL_CODE: u32 = 8;

/// Lowers a model for its target, or for several as variants of one program; `apart` is a layout for tests.
pub(super) fn lower(
    imported: Imported,
    targets: &[Target],
    apart: Option<Apart>,
    options: &CompileOptions,
) -> Result<Program, Failure> {
    let (strict, small) = (options.fp == FloatMode::Strict, options.opt_level == OptLevel::Size);
    let machine = |target: &Target| {
        let mut machine = target.machine().clone();
        if small {
            machine.kernel_vector_registers = machine.kernel_vector_registers.min(REGISTERS_OF_SMALL_CODE);
        }
        machine.f32_products = options.precision.tiles();
        // Matrix instructions add in an order of their own.
        machine.tiles &= !strict || machine.f32_products.is_some();
        machine
    };
    let variants = targets[1..].iter().map(|target| (target.kind().to_owned(), machine(target))).collect();
    let machine = machine(&targets[0]);
    let mut states = Vec::new();
    for pattern in &options.states {
        let pairs = pattern.pairs(&imported.graph.input_names, &imported.graph.output_names);
        states.extend(pairs.map_err(Failure::usage)?);
    }
    let case = |s: &Specialization| SizeCase { sizes: s.sizes.clone() };
    let specialized = options.specializations.iter().map(case).collect();
    let lowering = pipeline::Options { machine, variants, specialized, strict, apart, small, states };
    let passes = || pipeline::PASSES.iter().map(|(pass, _)| *pass);
    if let Some(name) = options.dump_after.iter().find(|name| *name != "all" && !passes().any(|pass| pass == *name)) {
        let known = passes().collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format!(
            "there is no pass `{name}` to print the IR after; there are {known}, and all"
        )));
    }
    let mut last = Instant::now();
    pipeline::lower(imported.graph, &lowering, |pass, graph| {
        // Nobody may be reading any more: `2>&1 | head`.
        if options.time_passes {
            let _ = writeln!(std::io::stderr(), "{:8.1} ms  {pass}", last.elapsed().as_secs_f64() * 1e3);
        }
        if options.dump_after.iter().any(|name| name == pass || name == "all") {
            let _ = writeln!(std::io::stderr(), "// after {pass}\n{graph}");
        }
        last = Instant::now();
    })
    .map_err(|e| failures::lower(&e))
}

/// What the compiler cannot do for a model, all at once; nothing if it compiles.
pub fn check(model: &Path, options: &CompileOptions) -> Result<Vec<Diagnostic>, Failure> {
    let imported = import(model, options)?;
    let warnings = warnings(&imported);
    lower(imported, &options.targets()?, None, options)?;
    Ok(warnings)
}

/// Identifies a model and what was asked of the compiler.
pub(super) fn hash(model: &Path, targets: &[Target], options: &CompileOptions) -> Result<[u8; 32], Failure> {
    let bytes = map_file(model).map_err(|e| failures::load(&e, model))?;
    let mut hash = Sha256::new();
    hash.update(&bytes);
    targets.iter().for_each(|target| hash.update(target.name()));
    for dim in &options.dims {
        hash.update(format!("{}={:?}", dim.name, dim.setting));
    }
    for sizes in &options.specializations {
        hash.update(format!("specialize {sizes}"));
    }
    for state in &options.states {
        hash.update(format!("{state:?}"));
    }
    for custom in &options.custom_operators {
        hash.update(format!("{custom:?}"));
    }
    hash.update([options.opt_level.to_string().as_bytes()[0] - b'0', options.fp as u8]);
    if options.weights == WeightPlacement::External {
        hash.update("external weights");
    }
    Ok(hash.finalize().into())
}

/// Compiles a program and hands it on; constants are evaluated while they are written.
pub(super) fn with_compiled<T>(
    program: &Program,
    targets: &[Target],
    hash: [u8; 32],
    placement: WeightPlacement,
    write: impl FnOnce(&mut Compiled<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let evaluate = |constant| io::Result::Ok(constant_bytes(&program.constants, constant).bytes);
    let mut compiled = compile_with(program, targets, hash, &evaluate, placement)
        .map_err(|e| Failure::new(FailureKind::Unsupported, Diagnostic::error("U003", e.to_string())))?;
    write(&mut compiled)
}

pub(super) fn object_failure(error: &ObjectError, path: &Path) -> Failure {
    Failure::new(FailureKind::Io, Diagnostic::error("I001", error.to_string()).in_file(path))
}

/// Compiles a model to a file, with a header beside it unless the file is a device.
pub fn compile_to_file(model: &Path, output: &Output<'_>, options: &CompileOptions) -> Result<Report, Failure> {
    let started = Instant::now();
    let targets = options.targets()?;
    let imported = import(model, options)?;
    let warnings = warnings(&imported);
    let external_files = imported.external_files.clone();
    let program = lower(imported, &targets, None, options)?;
    let hash = hash(model, &targets, options)?;
    let mut remarks = program.remarks.clone();
    let interface = Interface::of(&program);
    if let Output::Ptx(path) = *output {
        if targets[0].gpu().is_none() {
            return Err(Failure::usage(format!(
                "{}: PTX is for GPUs, and {} is none",
                path.display(),
                targets[0].name()
            )));
        }
        let written = gpu::write(&program, &targets[0], path)?;
        return Ok(Report {
            warnings,
            target: targets[0].name().to_owned(),
            code_bytes: written.code_bytes,
            weight_bytes: written.weight_bytes,
            interface,
            external_files,
            seconds: started.elapsed().as_secs_f64(),
            remarks,
        });
    }
    let emitted = with_compiled(&program, &targets, hash, options.weights, |compiled| {
        remarks.extend(compiled.remarks.iter().cloned());
        check_budget(&options.budget, &interface, &compiled.spec)?;
        let weights_path = output.path().with_file_name(format!("{}.weights", prefix_of(output.path())));
        let mut weights = None;
        if let Some(external) = &compiled.external {
            if output_file::is_stream(output.path()) {
                return Err(Failure::usage("--weights external: nothing lies beside a device or a pipe"));
            }
            let mut digest = Sha256::new();
            let file = weights_file(external, &weights_path, &mut digest);
            weights = Some(file.map_err(|e| object_failure(&e, &weights_path))?);
            compiled.set_weights_hash(digest.finalize().into());
        }
        let (path, emitted) = match *output {
            Output::Object(path) => (path, object_file(&compiled.spec, path).map_err(|e| e.to_string())),
            Output::Archive(path) => (path, archive_file(&compiled.spec, path).map_err(|e| e.to_string())),
            Output::SharedLibrary { path, linker } => {
                let support = if targets[0].gpu().is_some() { gpu::support() } else { Vec::new() };
                (path, link::shared_library(&compiled.spec, path, linker, &support).map_err(|e| e.to_string()))
            }
            Output::Ptx(_) => unreachable!("written above"),
        };
        let emitted = emitted.map_err(|e| Failure::new(FailureKind::Io, Diagnostic::error("I001", e).in_file(path)))?;
        if !output_file::is_stream(path) {
            let header_path = path.with_file_name(format!("{}.h", prefix_of(path)));
            let text = header::text(&compiled.header).map_err(|e| object_failure(&e, &header_path))?;
            text_file(&text, &header_path).map_err(|e| object_failure(&e, &header_path))?;
        }
        if let Some(weights) = weights {
            weights.persist().map_err(|e| object_failure(&e, &weights_path))?;
        }
        Ok(emitted)
    })?;
    Ok(Report {
        warnings,
        target: targets.iter().map(Target::name).collect::<Vec<_>>().join(", "),
        code_bytes: emitted.code_bytes,
        weight_bytes: program.weight_bytes,
        interface,
        external_files,
        seconds: started.elapsed().as_secs_f64(),
        remarks,
    })
}

/// An intermediate form as text.
pub fn emit(model: &Path, form: Form, options: &CompileOptions) -> Result<String, Failure> {
    let imported = import(model, options)?;
    if form == Form::TensorIr {
        return Ok(imported.graph.to_string());
    }
    let targets = options.targets()?;
    let program = lower(imported, &targets, None, options)?;
    let mut text = String::new();
    match form {
        Form::TensorIr => unreachable!("answered above"),
        Form::LoopIr => {
            for kernel in program.kernels.values() {
                let _ = writeln!(text, "{kernel}");
            }
        }
        Form::Program => text = program.to_string(),
        Form::Clif => text = onnxc_backend::cranelift::compile::clif(&program, &targets),
        Form::Asm => {
            text = onnxc_backend::cranelift::compile::assembly(&program, &targets)
                .map_err(|e| Failure::new(FailureKind::Unsupported, Diagnostic::error("U003", e.to_string())))?;
        }
        Form::Header => {
            let hash = hash(model, &targets, options)?;
            text = with_compiled(&program, &targets, hash, options.weights, |compiled| {
                header::text(&compiled.header).map_err(|e| object_failure(&e, model))
            })?;
        }
        Form::Contract => {
            let hash = hash(model, &targets, options)?;
            let value = with_compiled(&program, &targets, hash, options.weights, |compiled| {
                check_budget(&options.budget, &Interface::of(&program), &compiled.spec)?;
                let mut weights_hash = None;
                if let Some(external) = &compiled.external {
                    let mut digest = Sha256::new();
                    external.stream(&mut digest).map_err(|e| Failure::io(model, &e))?;
                    weights_hash = Some(digest.finalize().into());
                }
                Ok(contract(&program, compiled, &targets, hash, weights_hash, options))
            })?;
            text = format!("{value:#}\n");
        }
    }
    Ok(text)
}

/// Writes the imported graph as text, with its large constants in a file beside it, whose name ends in `.constants`.
pub fn emit_graph(model: &Path, path: &Path, options: &CompileOptions) -> Result<(), Failure> {
    let imported = import(model, options)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".constants");
    let beside = Path::new(&beside);
    let write = || -> io::Result<()> {
        let mut file = output_file::beside(beside)?;
        onnxc_ir::tensor::side_file::write(&imported.graph, &mut file)?;
        output_file::put(file, beside)
    };
    write().map_err(|e| Failure::io(beside, &e))?;
    write_text(path, &imported.graph.to_string())
}

/// Writes a text, whole or not at all.
pub fn write_text(path: &Path, text: &str) -> Result<(), Failure> {
    text_file(text, path).map_err(|e| object_failure(&e, path))
}
