//! The arguments of every command, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use onnxc::driver::{
    Budget, Checks, CompileOptions, DimBinding, Engine, FloatMode, OptLevel, Precision, Specialization, StatePattern,
    WeightPlacement, parse_bytes,
};
use onnxc_frontend::import::CustomOperator;

const EXAMPLES: &str = "\
Examples:
  onnxc model.onnx -o model.o                      object file and model.h for this machine
  onnxc model.onnx -o model.o --target aarch64     the same for 64-bit ARM
  onnxc model.onnx -o libmodel.so                  shared library
  onnxc model.onnx -o model.o --target x86_64 --multiversion
                                                   baseline, AVX2 and AVX-512 in one object
  onnxc model.onnx --emit loop-ir                  show the kernels before code generation
  onnxc model.onnx --emit contract                 memory, stack, code and operations, as JSON
  onnxc run model.onnx --inputs x.npy --output-dir out
  onnxc bench model.onnx --json                    latency, memory and code size
  onnxc test tests/                                ONNX backend-test directories
  onnxc check model.onnx                           everything that onnxc cannot compile, at once
  onnxc support --out DIR                          headers, support library, CMake package for C and C++

Exit status: 0 ok, 1 failed comparison, run or budget, 2 usage, 3 unsupported model, 4 invalid model, 5 input or output.";

/// onnxc compiles ONNX models ahead of time into native object files.
///
/// The object holds the weights and one C entry point. It needs no library but for strings, GPUs and weights in a file of their
/// own (`onnxc support` writes that library). The extension of OUT decides what is written: .o, .obj, .a, .lib or .so, with a
/// C header beside it, or .ptx for GPUs.
#[derive(Debug, Parser)]
#[command(
    name = "onnxc",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do instead of compiling to a file.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Compile to a file.
    #[command(flatten)]
    pub compile: CompileArgs,
    /// How errors and warnings are printed to stderr.
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    pub message_format: MessageFormat,
}

/// How diagnostics look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands beside plain compilation.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile a model in memory and run it on given inputs
    Run(RunArgs),
    /// Compile a model in memory and time it
    Bench(BenchArgs),
    /// Run ONNX backend-test directories (model.onnx, test_data_set_*/input_0.pb, output_0.pb)
    Test(TestArgs),
    /// Run cases named on stdin; `test` starts these
    #[command(hide = true)]
    TestWorker(TestArgs),
    /// List everything in a model that onnxc cannot compile
    Check(CheckArgs),
    /// Show a model's inputs, outputs, operators and sizes
    Inspect(InspectArgs),
    /// Measure how fast this machine multiplies and reads at best
    Peak(PeakArgs),
    /// Write headers, the support library's sources, and packages for CMake and pkg-config
    Support(SupportArgs),
    /// List the targets
    Targets,
    /// Explain the code of a diagnostic
    Explain(ExplainArgs),
}

/// Options that decide what the compiler makes of a model; every command that compiles has them.
#[derive(Debug, Args)]
pub struct CodegenArgs {
    /// CPU to compile for: `native`, a name of `onnxc targets`, or a triple, each with +FEATURE
    #[arg(long, value_name = "TARGET", default_value = "native")]
    pub target: String,
    /// Carry code for the more able processors of the target's architecture too, and let the processor decide at the first run;
    /// with --target x86_64: baseline, AVX2 and AVX-512 over the same weights
    #[arg(long)]
    pub multiversion: bool,
    /// Fix a named dimension, or bound it: batch=1, seq=1..512. The length of a sequence input is set under the input's name,
    /// and whether an optional input is there: 1 or 0
    #[arg(long = "dim", value_name = "NAME=N|A..B")]
    pub dims: Vec<DimBinding>,
    /// Carry code of its own for a size that runs mostly have, beside that for every size and over the same weights: seq=128, or
    /// batch=1,seq=128 where they have both. May be given several times; the first that fits a run's inputs counts
    #[arg(long = "specialize", value_name = "NAME=N,...")]
    pub specializations: Vec<Specialization>,
    /// Keep an input from run to run, in the caller's one buffer with the output that is its next value: past.*=present.*. A
    /// cache that grows needs its greatest length: --dim NAME=0..N. `run`, `bench` and `test` put the given input into the
    /// state and take the output from there
    #[arg(long = "state", value_name = "INPUT=OUTPUT")]
    pub states: Vec<StatePattern>,
    /// Call a C function of yours, an onnxc_operator_fn of onnxc.h, for an operator. Its outputs' shapes are those that the
    /// model states, or that of an input: DOMAIN:NAME=SYMBOL,like=0
    #[arg(long = "custom-op", value_name = "DOMAIN:NAME=SYMBOL")]
    pub custom_operators: Vec<CustomOperator>,
    /// What to optimize for: s is small code; 0 to 3 are speed, all the same
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = OptLevel::Speed(2))]
    pub opt_level: OptLevel,
    /// Floating-point rules: `default` may fuse multiply-add and reassociate reductions in a fixed tree
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub fp: FpArg,
    /// What matrix products and convolutions of f32 round their operands to, for the matrix instructions of GPU targets; sums
    /// stay f32. Models of f16 and bf16 need no option
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub precision: PrecisionArg,
    /// Print the IR to stderr after a pass: after:NAME, or after:all
    #[arg(long, value_name = "after:PASS")]
    pub dump_ir: Vec<String>,
    /// Print the time of each pass to stderr
    #[arg(long)]
    pub time_passes: bool,
}

/// Options of the commands that run a model in this process.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Load a shared library that has functions which --custom-op names
    #[arg(long = "library", value_name = "PATH")]
    pub libraries: Vec<PathBuf>,
    #[command(flatten)]
    pub codegen: CodegenArgs,
}

impl ProcessArgs {
    /// What the driver takes; `name` is the symbol prefix.
    pub fn options(&self, name: &str) -> CompileOptions {
        CompileOptions { libraries: self.libraries.clone(), ..self.codegen.options(name) }
    }
}

/// `--precision` as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// Exact products, without matrix instructions.
    F32,
    /// 11 bits of mantissa.
    Tf32,
    /// 8 bits of mantissa.
    Bf16,
    /// 11 bits of mantissa, numbers up to 65504.
    F16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Tf32 => Precision::Tf32,
            PrecisionArg::Bf16 => Precision::Bf16,
            PrecisionArg::F16 => Precision::F16,
        }
    }
}

/// `--fp` as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FpArg {
    /// Fused and reassociated in a fixed order.
    Default,
    /// One rounding per ONNX operation, in ONNX's order.
    Strict,
}

impl CodegenArgs {
    /// What the driver takes; `name` is the symbol prefix.
    pub fn options(&self, name: &str) -> CompileOptions {
        CompileOptions {
            target: self.target.clone(),
            multiversion: self.multiversion,
            variant: None,
            name: name.to_string(),
            dims: self.dims.clone(),
            specializations: self.specializations.clone(),
            custom_operators: self.custom_operators.clone(),
            libraries: Vec::new(),
            opt_level: self.opt_level,
            fp: match self.fp {
                FpArg::Default => FloatMode::Default,
                FpArg::Strict => FloatMode::Strict,
            },
            precision: self.precision.into(),
            budget: Budget::default(),
            dump_after: self
                .dump_ir
                .iter()
                .map(|spec| spec.strip_prefix("after:").unwrap_or(spec).to_string())
                .collect(),
            time_passes: self.time_passes,
            perf_map: false,
            states: self.states.clone(),
            weights: WeightPlacement::Embedded,
            checks: Checks::default(),
        }
    }
}

/// Plain compilation.
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx", required = true)]
    pub model: Option<PathBuf>,
    /// Where to write; .o, .obj, .a, .lib, .so decide the form, and a header lies beside it; .ptx for GPU targets, with
    /// the weights and a description beside it
    #[arg(short, long, value_name = "OUT", required_unless_present = "emit")]
    pub output: Option<PathBuf>,
    /// Prefix of every symbol, and name of the model in C; default from OUT's stem
    #[arg(long, value_name = "PREFIX")]
    pub name: Option<String>,
    /// Write an intermediate form to OUT or stdout instead of an object
    #[arg(long, value_name = "FORM")]
    pub emit: Option<Emit>,
    /// Where the weights are: in OUT, or in a file of their own beside it, whose name ends in .weights. The program maps it
    /// and hands it to every run
    #[arg(long, value_name = "PLACE", default_value = "embed")]
    pub weights: WeightsArg,
    /// Linker for .so
    #[arg(long, value_name = "PROGRAM")]
    pub linker: Option<PathBuf>,
    /// Print what was decided for each kernel and why; with =TEXT, only what contains it
    #[arg(long, value_name = "TEXT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub remarks: Option<String>,
    /// Fail if the arena of one worker has more bytes: 4096, 64K, 1M
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_arena: Option<u64>,
    /// Fail if there are more bytes of machine code
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_code: Option<u64>,
    /// Write what OUT was made from, in the form of make's rules
    #[arg(long, value_name = "FILE", requires = "output")]
    pub depfile: Option<PathBuf>,
    /// Say what was made, with sizes and times
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub codegen: CodegenArgs,
}

/// `--weights` as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// In the object
    Embed,
    /// In a file beside it
    External,
}

impl From<WeightsArg> for WeightPlacement {
    fn from(arg: WeightsArg) -> Self {
        match arg {
            WeightsArg::Embed => WeightPlacement::Embedded,
            WeightsArg::External => WeightPlacement::External,
        }
    }
}

/// Intermediate forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The imported graph, before any pass
    TensorIr,
    /// The kernels
    LoopIr,
    /// The kernels, the host program and the memory plan
    Program,
    /// Cranelift's IR of every function
    Clif,
    /// Assembly of every function
    Asm,
    /// The C header
    Header,
    /// What the model asks of its surroundings, as JSON: arena, stack, code, weights, operations, undefined symbols
    Contract,
}

/// Which implementation executes the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// The compiled object
    Native,
    /// The Tensor IR reference interpreter, on the imported graph
    Interp,
    /// The Loop IR interpreter, on the lowered program
    LoopInterp,
}

impl From<EngineArg> for Engine {
    fn from(arg: EngineArg) -> Self {
        match arg {
            EngineArg::Native => Engine::Native,
            EngineArg::Interp => Engine::TensorInterpreter,
            EngineArg::LoopInterp => Engine::LoopInterpreter,
        }
    }
}

/// Where inputs come from.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// Input files in graph order: .npy, or .pb with a TensorProto, SequenceProto or OptionalProto
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', num_args = 0..)]
    pub inputs: Vec<PathBuf>,
    /// One input by name
    #[arg(long = "input", value_name = "NAME=FILE", conflicts_with = "inputs")]
    pub named: Vec<String>,
}

/// `onnxc run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Write output_0.npy, output_1.npy, ... in graph order; without it, a summary goes to stdout
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Form of the output files
    #[arg(long, value_name = "FORMAT", default_value = "npy")]
    pub output_format: OutputFormat,
    /// Worker threads; 0 means one per CPU
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// What executes the model
    #[arg(long, value_name = "ENGINE", default_value = "native")]
    pub engine: EngineArg,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Form of output files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// NumPy
    Npy,
    /// ONNX protobuf
    Pb,
}

/// `onnxc bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Worker threads; 0 means one per CPU
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Run this variant of --multiversion, whatever the processor: baseline, avx2 or avx512
    #[arg(long, value_name = "VARIANT", requires = "multiversion")]
    pub variant: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Seconds to measure for, after warming up
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub seconds: f64,
    /// Print the least time of each kernel, its rates, their share of what this machine can do, and its ONNX nodes
    #[arg(long, conflicts_with = "json")]
    pub profile: bool,
    /// Name the kernels for `perf record`, in the map file that it reads
    #[arg(long)]
    pub perf: bool,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// `onnxc test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Test directories, or folders that contain some
    #[arg(value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// Relative tolerance; default: the case's data.json, else 1e-3
    #[arg(long, value_name = "X")]
    pub rtol: Option<f64>,
    /// Absolute tolerance; default: the case's data.json, else 1e-7
    #[arg(long, value_name = "X")]
    pub atol: Option<f64>,
    /// Tolerance relative to the largest reference element of each output, instead of rtol and atol
    #[arg(long, value_name = "X", conflicts_with_all = ["rtol", "atol"])]
    pub max_rel: Option<f64>,
    /// Tolerance of each output's root-mean-square error, relative to the reference's root mean square
    #[arg(long, value_name = "X", conflicts_with_all = ["rtol", "atol", "max_rel"])]
    pub rms_rel: Option<f64>,
    /// Only cases whose path contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Write every case's result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write every case's status and reason, one a line, sorted
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Child processes; default: one per CPU
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Seconds that one case may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub timeout: f64,
    /// What executes the models
    #[arg(long, value_name = "ENGINE", default_value = "native")]
    pub engine: EngineArg,
    /// Run the models of another target: a command that executes its programs, such as "qemu-aarch64-static -cpu max"
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true, conflicts_with = "states")]
    pub runner: Option<String>,
    /// C compiler and linker of the target, with arguments; default: the usual name of the target's GCC, with -static
    #[arg(long, value_name = "COMMAND", requires = "runner")]
    pub cc: Option<String>,
    /// Models that are linked into one program for the runner
    #[arg(long, value_name = "N", default_value_t = 64, requires = "runner", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Run every case twice, each tensor in pages of its own: once each ends before a page without access, once each
    /// begins behind one. Code that reaches beside a tensor fails the case
    #[arg(long)]
    pub guard: bool,
    /// Run every case twice, on memory that is full of ones and of 0xA5 bytes before; the results must be the same
    #[arg(long)]
    pub poison: bool,
    /// Run this variant of --multiversion, whatever the processor: baseline, avx2 or avx512
    #[arg(long, value_name = "VARIANT", requires = "multiversion", conflicts_with = "runner")]
    pub variant: Option<String>,
    /// Print failures only in the closing line
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// `onnxc check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    #[command(flatten)]
    pub codegen: CodegenArgs,
}

/// `onnxc inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL.onnx")]
    pub model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `onnxc peak`.
#[derive(Debug, Args)]
pub struct PeakArgs {
    /// Threads that work at the same time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Leave out reading from memory, which takes longest
    #[arg(long)]
    pub arithmetic_only: bool,
}

/// `onnxc support`.
#[derive(Debug, Args)]
#[command(after_help = SUPPORT_HELP)]
pub struct SupportArgs {
    /// Where to: a folder of its own, or a prefix such as /usr/local
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

const SUPPORT_HELP: &str = "\
DIR/include holds onnxc.h, onnxc_support.h and the C++17 wrapper onnxc.hpp, DIR/share/onnxc the sources.

  cmake -DCMAKE_PREFIX_PATH=DIR ...                find_package(onnxc); onnxc_add_model(digits digits.onnx)
  PKG_CONFIG_PATH=DIR/lib/pkgconfig cc main.c model.o $(pkg-config --cflags --libs onnxc) \\
      $(pkg-config --variable=sources onnxc)";

/// `onnxc explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The code in the brackets of a diagnostic, such as U001; without it, all codes are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}
