//! Models in Rust programs: for build scripts.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), onnxc::build::Error> {
//!     onnxc::build::Model::new("digits.onnx").dim("batch", 1).compile()?;
//!     Ok(())
//! }
//! ```
//!
//! compiles the model for the crate's target and links it in. `onnxc_runtime::include_model!(digits);` is then a module
//! with typed `Inputs`, `Outputs` and `Model`.

mod identifiers;
mod module;
mod target;

use std::path::{Path, PathBuf};

use onnxc_backend::object::symbol_names::prefix_from;
use onnxc_frontend::import::DimSetting;

use crate::diagnostics::{Diagnostic, Failure, FailureKind};
use crate::driver::{
    Budget, CompileOptions, DimBinding, FloatMode, Interface, OptLevel, Output, Precision, Report, Specialization,
    compile_to_file, write_text,
};

/// A model to be compiled by a build script.
#[derive(Clone, Debug)]
pub struct Model {
    path: PathBuf,
    name: Option<String>,
    dims: Vec<DimBinding>,
    specializations: Vec<Specialization>,
    target: Option<String>,
    multiversion: bool,
    fp: FloatMode,
    precision: Precision,
    budget: Budget,
    opt_level: OptLevel,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The archive with the model's one object.
    pub archive: PathBuf,
    /// The C header.
    pub header: PathBuf,
    /// The Rust module.
    pub module: PathBuf,
    /// The target's name, as `--target` takes it.
    pub target: String,
    /// What the model shows to its callers.
    pub interface: Interface,
    /// Bytes of machine code.
    pub code_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
}

/// Why there is no compiled model: what the command line prints. `{:?}` is the same text, because that is what cargo shows
/// of a build script that returns it.
pub struct Error {
    model: PathBuf,
    failure: Failure,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} does not compile\n{}", self.model.display(), self.failure)
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Everything that is wrong.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.failure.diagnostics
    }
}

/// What cargo tells a build script.
#[derive(Clone, Debug)]
struct Cargo {
    target: String,
    features: String,
    out: PathBuf,
    package: String,
}

impl Cargo {
    fn from_environment() -> Result<Self, Failure> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| {
                Failure::usage(format!("{name} is not set: onnxc::build works in build scripts, which cargo runs"))
            })
        };
        Ok(Self {
            target: variable("TARGET")?,
            // Cargo leaves it out where there are none.
            features: std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default(),
            out: variable("OUT_DIR")?.into(),
            package: variable("CARGO_PKG_NAME")?,
        })
    }
}

impl Model {
    /// A model in a file; a relative path begins at the package's folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: None,
            dims: Vec::new(),
            specializations: Vec::new(),
            target: None,
            multiversion: false,
            fp: FloatMode::Default,
            precision: Precision::F32,
            budget: Budget::default(),
            opt_level: OptLevel::Speed(2),
        }
    }

    /// What `include_model!` calls it: a Rust identifier. The file's stem by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Fixes a named dimension, `dim("batch", 1)`, or bounds it, `dim("seq", 1..=512)`.
    pub fn dim(mut self, name: impl Into<String>, setting: impl Into<DimSetting>) -> Self {
        self.dims.push(DimBinding { name: name.into(), setting: setting.into() });
        self
    }

    /// Compiles for another target than the crate's, as `--target` takes it, such as a processor with more features.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Carries code of its own for sizes of named dimensions that runs mostly have together, beside the code for every size
    /// and over the same weights. Called several times, the first whose sizes a run's inputs have counts.
    pub fn specialize(mut self, sizes: &[(&str, u64)]) -> Self {
        let sizes = sizes.iter().map(|&(name, size)| (name.to_owned(), i64::try_from(size).unwrap_or(i64::MAX)));
        self.specializations.push(Specialization { sizes: sizes.collect() });
        self
    }

    /// Carries code for the more able processors of the target's architecture too, of which the processor decides at the first
    /// run: on x86-64 baseline, AVX2 and AVX-512 over the same weights.
    pub fn multiversion(mut self) -> Self {
        self.multiversion = true;
        self
    }

    /// Which floating-point rules hold.
    pub fn float_mode(mut self, mode: FloatMode) -> Self {
        self.fp = mode;
        self
    }

    /// What `f32` products round their operands to, for GPU targets; others refuse all but [`Precision::F32`].
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Prefers little code to fast code.
    pub fn small(mut self) -> Self {
        self.opt_level = OptLevel::Size;
        self
    }

    /// Fails the build if the arena of one worker has more bytes.
    pub fn max_arena(mut self, bytes: u64) -> Self {
        self.budget.arena = Some(bytes);
        self
    }

    /// Fails the build if there are more bytes of machine code.
    pub fn max_code(mut self, bytes: u64) -> Self {
        self.budget.code = Some(bytes);
        self
    }

    /// Compiles the model, links it into the crate and has cargo run the build script again when its files change.
    ///
    /// In `OUT_DIR` lie then an archive, a C header, and the Rust module. Symbols begin with the package's name, so that
    /// crates do not get in each other's way.
    pub fn compile(self) -> Result<Compiled, Error> {
        let error = |failure| Error { model: self.path.clone(), failure };
        // Before anything can fail: a model that is put right has to be seen.
        println!("cargo::rerun-if-changed={}", self.path.display());
        let cargo = Cargo::from_environment().map_err(error)?;
        let (compiled, lines) = self.compile_for(&cargo).map_err(error)?;
        for line in lines {
            println!("{line}");
        }
        Ok(compiled)
    }

    /// What was made, and what cargo is to be told.
    fn compile_for(&self, cargo: &Cargo) -> Result<(Compiled, Vec<String>), Failure> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => identifiers::identifiers([&*self.path.file_stem().unwrap_or_default().to_string_lossy()], "model")
                .remove(0),
        };
        let options = CompileOptions {
            target: self.target.clone().unwrap_or_else(|| target::target_of(&cargo.target, &cargo.features)),
            multiversion: self.multiversion,
            dims: self.dims.clone(),
            specializations: self.specializations.clone(),
            fp: self.fp,
            precision: self.precision,
            budget: self.budget,
            opt_level: self.opt_level,
            ..CompileOptions::new(prefix_from(&format!("{}_{name}", cargo.package)))
        };
        let library = options.name.clone();
        let archive = match cargo.target.contains("-msvc") {
            true => cargo.out.join(format!("{library}.lib")),
            false => cargo.out.join(format!("lib{library}.a")),
        };
        let report = compile_to_file(&self.path, &Output::Archive(&archive), &options)?;
        let module = cargo.out.join(format!("{name}.rs"));
        write_text(&module, &self.module(&report)?)?;
        let lines = self.lines(&report, cargo, &library);
        let header = archive.with_file_name(format!("{library}.h"));
        let Report { target, interface, code_bytes, weight_bytes, .. } = report;
        Ok((Compiled { archive, header, module, target, interface, code_bytes, weight_bytes }, lines))
    }

    fn module(&self, report: &Report) -> Result<String, Failure> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().replace(char::is_control, "?");
        let about = format!("{file}, compiled by onnxc {} for {}", env!("CARGO_PKG_VERSION"), report.target);
        module::module(&report.interface, &about).map_err(|message| {
            Failure::new(FailureKind::Unsupported, Diagnostic::error("U004", message).in_file(&self.path))
        })
    }

    fn lines(&self, report: &Report, cargo: &Cargo, library: &str) -> Vec<String> {
        let changed = |path: &Path| format!("cargo::rerun-if-changed={}", path.display());
        let mut lines: Vec<String> = report.external_files.iter().map(|path| changed(path)).collect();
        lines.push(format!("cargo::rustc-link-search=native={}", cargo.out.display()));
        lines.push(format!("cargo::rustc-link-lib=static={library}"));
        let warning = |d: &Diagnostic| format!("cargo::warning={}", d.to_string().replace('\n', " "));
        lines.extend(report.warnings.iter().map(warning));
        lines
    }
}

#[cfg(test)]
mod tests;
