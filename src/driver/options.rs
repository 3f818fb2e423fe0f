//! What the caller of the compiler decides.

use std::path::PathBuf;
use std::str::FromStr;

use onnxc_frontend::import::{CustomOperator, DimSetting, ImportOptions};

use crate::diagnostics::{Diagnostic, Failure, FailureKind};
use onnxc_backend::cranelift::compile::WeightPlacement;
use onnxc_backend::target::Target;
use onnxc_ir::loops::TileKind;

/// Which implementation executes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The compiled object, loaded in memory.
    Native,
    /// The Tensor IR reference interpreter, on the imported graph.
    TensorInterpreter,
    /// The Loop IR interpreter, on the lowered program.
    LoopInterpreter,
}

/// Floating-point rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatMode {
    /// Multiply-add may be fused, reductions are reassociated in a fixed tree, convolutions may use Winograd's algorithm,
    /// subnormal `f32` numbers may count as zero, and what lies between dequantisation and quantisation is computed with the
    /// integers.
    #[default]
    Default,
    /// Multiply-add may be fused and reductions are reassociated in a fixed tree; nothing else rounds.
    Strict,
}

/// What the operands of `f32` matrix products and convolutions are rounded to, for the matrix instructions of GPUs. Sums
/// are `f32` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Nothing: products are computed exactly as the model says, without matrix instructions.
    #[default]
    F32,
    /// 11 bits of mantissa.
    Tf32,
    /// 8 bits of mantissa; weights of products are stored so.
    Bf16,
    /// 11 bits of mantissa and numbers up to 65504; weights of products are stored so.
    F16,
}

impl Precision {
    /// The kind of tiles that round so.
    pub(super) fn tiles(self) -> Option<TileKind> {
        match self {
            Precision::F32 => None,
            Precision::Tf32 => Some(TileKind::Tf32),
            Precision::Bf16 => Some(TileKind::Bf16),
            Precision::F16 => Some(TileKind::F16),
        }
    }
}

/// What matters most in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptLevel {
    /// Speed, 0 to 3.
    Speed(u8),
    /// Few bytes of code.
    Size,
}

impl FromStr for OptLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "s" => Ok(OptLevel::Size),
            "0" | "1" | "2" | "3" => Ok(OptLevel::Speed(text.as_bytes()[0] - b'0')),
            _ => Err("write 0 to 3, or s for small code".to_owned()),
        }
    }
}

impl std::fmt::Display for OptLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OptLevel::Speed(level) => write!(f, "{level}"),
            OptLevel::Size => f.write_str("s"),
        }
    }
}

/// What the user says about a named dimension: `batch=1` or `seq=1..512`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DimBinding {
    /// The dimension's name in the model.
    pub name: String,
    /// Its value or range, both ends included.
    pub setting: DimSetting,
}

impl std::fmt::Display for DimBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.setting {
            DimSetting::Fixed(n) => write!(f, "{}={n}", self.name),
            DimSetting::Range(low, high) => write!(f, "{}={low}..{high}", self.name),
        }
    }
}

impl FromStr for DimBinding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write NAME=N or NAME=A..B with 0 <= A <= B";
        let (name, value) = text.rsplit_once('=').ok_or(form)?;
        let number = |digits: &str| digits.parse::<i64>().ok().filter(|&n| n >= 0).ok_or(form);
        let setting = match value.split_once("..") {
            None => DimSetting::Fixed(number(value)?),
            Some((low, high)) => DimSetting::Range(number(low)?, number(high)?),
        };
        if name.is_empty() || matches!(setting, DimSetting::Range(low, high) if low > high) {
            return Err(form.to_string());
        }
        Ok(Self { name: name.to_string(), setting })
    }
}

/// Values of named dimensions that runs are expected to have: `seq=128` or `batch=1,seq=128`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specialization {
    /// Each dimension's name in the model with its value.
    pub sizes: Vec<(String, i64)>,
}

impl std::fmt::Display for Specialization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<String> = self.sizes.iter().map(|(name, size)| format!("{name}={size}")).collect();
        f.write_str(&sizes.join(","))
    }
}

impl FromStr for Specialization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write NAME=N, or NAME=N,OTHER=M where runs have these sizes together";
        let mut sizes: Vec<(String, i64)> = Vec::new();
        for part in text.split(',') {
            let (name, value) = part.rsplit_once('=').ok_or(form)?;
            let size = value.parse::<i64>().ok().filter(|&n| n >= 0).ok_or(form)?;
            if name.is_empty() || sizes.iter().any(|(other, _)| other == name) {
                return Err(form.to_string());
            }
            sizes.push((name.to_string(), size));
        }
        Ok(Self { sizes })
    }
}

/// What a compiled model may take; no object is written where it takes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// Bytes of the arena of one worker.
    pub arena: Option<u64>,
    /// Bytes of machine code.
    pub code: Option<u64>,
}

/// A number of bytes as people write it: `4096`, `64K`, `1M`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (
            digits,
            if text.ends_with('K') {
                10
            } else if text.ends_with('M') {
                20
            } else {
                30
            },
        ),
        None => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    number.ok_or_else(|| "write a number of bytes, such as 4096, 64K or 1M".to_owned())
}

/// Names of inputs and of the outputs that are their next values: `past_k*=present_k*`. What the `*` of the one stands for,
/// that of the other does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePattern {
    input: String,
    output: String,
}

impl StatePattern {
    /// The pairs among these names, by their places.
    ///
    /// # Errors
    /// A message when no input has such a name, or one has no output.
    pub(super) fn pairs(&self, inputs: &[String], outputs: &[String]) -> Result<Vec<(usize, usize)>, String> {
        let mut pairs = Vec::new();
        for (i, input) in inputs.iter().enumerate() {
            let output = match self.input.split_once('*') {
                None if *input == self.input => self.output.clone(),
                Some((before, after)) => {
                    let middle = input.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
                    let Some(middle) = middle else { continue };
                    self.output.replacen('*', middle, 1)
                }
                None => continue,
            };
            match outputs.iter().position(|name| *name == output) {
                Some(o) => pairs.push((i, o)),
                None => return Err(format!("the state `{input}` has no next value: no output is called `{output}`")),
            }
        }
        if pairs.is_empty() { Err(format!("no input is called `{}`", self.input)) } else { Ok(pairs) }
    }
}

impl FromStr for StatePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write INPUT=OUTPUT, with one * in both or in neither";
        let (input, output) = text.split_once('=').ok_or(form)?;
        let stars = [input, output].map(|name| name.matches('*').count());
        if input.is_empty() || output.is_empty() || stars[0] != stars[1] || stars[0] > 1 {
            return Err(form.to_owned());
        }
        Ok(Self { input: input.to_owned(), output: output.to_owned() })
    }
}

/// Everything that decides what is compiled.
#[derive(Debug, Clone)]
pub struct CompileOptions {
    /// As `--target` takes it.
    pub target: String,
    /// Whether the object carries code for the more able processors of the target's architecture too.
    pub multiversion: bool,
    /// Which of the variants an [`Executable`](super::Executable) runs, by its name, instead of what the processor decides.
    pub variant: Option<String>,
    /// Prefix of every symbol: a C identifier.
    pub name: String,
    /// Settings of named dimensions.
    pub dims: Vec<DimBinding>,
    /// Sizes that the object carries code of their own for, beside that for every size.
    pub specializations: Vec<Specialization>,
    /// Operators that are functions of the user.
    pub custom_operators: Vec<CustomOperator>,
    /// Shared libraries with these functions, for models that run in this process.
    pub libraries: Vec<PathBuf>,
    /// What matters most in the code.
    pub opt_level: OptLevel,
    /// Floating-point rules.
    pub fp: FloatMode,
    /// What `f32` products may round their operands to; for GPU targets only.
    pub precision: Precision,
    /// What the model may take.
    pub budget: Budget,
    /// Passes after which the IR goes to stderr; `all` names every one.
    pub dump_after: Vec<String>,
    /// Whether the time of each stage goes to stderr.
    pub time_passes: bool,
    /// Whether `perf` is told the names of functions that are loaded into this process.
    pub perf_map: bool,
    /// Inputs that are kept from run to run, each with the output that is its next value.
    pub states: Vec<StatePattern>,
    /// Where a compiled file has its weights; a model that is loaded in memory has them embedded.
    pub weights: WeightPlacement,
    /// How an [`Executable`](super::Executable) tests the code that it runs.
    pub checks: Checks,
}

/// Tests of compiled code while it runs; results are what they are without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// Runs twice, with every tensor in pages of its own: once each ends where a page without access begins, once each
    /// begins where one ends. Code that reaches beside a tensor is killed, with a line on stderr that says where.
    pub guard: bool,
    /// Runs twice, on memory that is full of ones and of 0xA5 bytes before. The results must be the same.
    pub poison: bool,
}

impl Checks {
    /// Whether anything is tested.
    pub fn any(self) -> bool {
        self.guard || self.poison
    }
}

impl CompileOptions {
    /// The defaults of the command line, for this machine.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            target: "native".to_string(),
            multiversion: false,
            variant: None,
            name: name.into(),
            dims: Vec::new(),
            specializations: Vec::new(),
            custom_operators: Vec::new(),
            libraries: Vec::new(),
            opt_level: OptLevel::Speed(2),
            fp: FloatMode::Default,
            precision: Precision::F32,
            budget: Budget::default(),
            dump_after: Vec::new(),
            time_passes: false,
            perf_map: false,
            states: Vec::new(),
            weights: WeightPlacement::Embedded,
            checks: Checks::default(),
        }
    }

    /// The target by its name.
    fn target(&self) -> Result<Target, Failure> {
        Target::parse(&self.target)
            .map_err(|error| Failure::new(FailureKind::Usage, Diagnostic::error("C001", error.to_string())))
    }

    /// The target, and those of the other variants that the object carries.
    pub(super) fn targets(&self) -> Result<Vec<Target>, Failure> {
        let target = self.target()?;
        let mut targets = vec![target];
        if self.multiversion {
            targets.extend(targets[0].variants());
            if targets.len() == 1 {
                let message = format!("--multiversion: no named processor can more than {}", targets[0].name());
                return Err(Failure::usage(format!("{message}; the least for x86-64 is `--target x86_64`")));
            }
        }
        if let (Some(kind), None) = (self.precision.tiles(), targets[0].gpu()) {
            let (kind, target) = (kind.name(), targets[0].name());
            let message = format!("--precision {kind}: {target} is no GPU, and only GPUs have matrix instructions");
            return Err(Failure::usage(format!("{message} that onnxc uses; f32 is what all targets compute")));
        }
        Ok(targets)
    }

    /// What the frontend needs of it.
    pub(super) fn import_options(&self) -> ImportOptions {
        ImportOptions {
            name: self.name.clone(),
            dims: self.dims.iter().map(|dim| (dim.name.clone(), dim.setting)).collect(),
            custom: self.custom_operators.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        assert_eq!(["0", "64K", "3M", "1G"].map(parse_bytes), [Ok(0), Ok(64 << 10), Ok(3 << 20), Ok(1 << 30)]);
        assert!(["", "K", "1k", "-1", "99999999999G"].into_iter().all(|wrong| parse_bytes(wrong).is_err()));
    }

    #[test]
    fn states_are_pairs_of_names() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (inputs, outputs) = (names("ids past.0.k past.1.k h"), names("y present.1.k present.0.k h2"));
        let pairs = |text: &str| text.parse::<StatePattern>().unwrap().pairs(&inputs, &outputs);
        assert_eq!(pairs("past.*=present.*"), Ok(vec![(1, 2), (2, 1)]));
        assert_eq!(pairs("h=h2"), Ok(vec![(3, 3)]));
        assert!(pairs("past.*.k=next.*").unwrap_err().contains("`next.0`"));
        assert!(pairs("cache=y").unwrap_err().contains("no input is called `cache`"));
        for wrong in ["h", "=h", "h=", "a*=b", "a**=b*"] {
            assert!(wrong.parse::<StatePattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn dims_are_fixed_or_ranges() {
        let parsed: DimBinding = "seq=1..512".parse().unwrap();
        assert_eq!((parsed.name.as_str(), parsed.setting), ("seq", DimSetting::Range(1, 512)));
        let parsed: DimBinding = "a=b=4".parse().unwrap();
        assert_eq!((parsed.name.as_str(), parsed.setting), ("a=b", DimSetting::Fixed(4)));
        for wrong in ["seq", "seq=", "=1", "seq=-1", "seq=5..4", "seq=a..b"] {
            assert!(wrong.parse::<DimBinding>().is_err(), "{wrong}");
        }
    }
}
