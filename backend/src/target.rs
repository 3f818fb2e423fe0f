//! Targets: what a compilation is for, by name.
//!
//! A target is a platform (a triple), a set of instruction-set features and the [`MachineModel`] that schedules read.
//! Its facts come from a table of named records (`processors.rs`), never from the host: `native` only
//! *chooses* a record by what the running processor supports, so that a compilation can be repeated elsewhere under the
//! name it resolved to. Short names stand for Linux; a full triple takes the baseline record of its architecture, and
//! `+feature` adds to either.

mod features;
mod processors;

use std::fmt;
use std::str::FromStr;

use onnxc_ir::machine::MachineModel;
use target_lexicon::{Architecture, BinaryFormat, OperatingSystem, Triple};
use thiserror::Error;

pub use features::{Arch, Feature, FeatureSet};
pub use processors::Gpu;

use crate::neon;
use crate::vector::Isa;
use features::{FEATURES, host_features};
use processors::{GPU_MACHINE, GPUS, RECORDS, Record, best_record, host_record, machine_of, wide_isa};

const NO_32_BITS: &str = " (Cranelift generates no code for 32-bit processors: use a 64-bit system on the device)";
const NO_ARM32: &str = " (Cranelift generates no code for 32-bit ARM: the processors of most boards since the Raspberry \
                        Pi 3 run a 64-bit system, for which the target is aarch64; a Cortex-M cannot be served)";

/// Why a target name is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// A 32-bit or otherwise unserved architecture, or a name that is no target at all.
    #[error(
        "unknown target `{name}`{hint}; available: {}, or a triple of one of these architectures",
        available_names()
    )]
    Unknown {
        /// The name as given.
        name: String,
        /// A suggestion, or why the architecture cannot be served; may be empty.
        hint: String,
    },
    /// A feature that the architecture does not have.
    #[error("unknown feature `+{feature}` of target `{target}`; known: {}", .known.join(", "))]
    UnknownFeature {
        /// The target's name without features.
        target: String,
        /// The feature as given, without `+`.
        feature: String,
        /// The features that exist for the architecture.
        known: Vec<&'static str>,
    },
    /// `native` on a processor below the baseline.
    #[error("this machine's processor has no target record: {reason}")]
    UnsupportedHost {
        /// What it lacks.
        reason: &'static str,
    },
}

fn available_names() -> String {
    let records = RECORDS.iter().map(|record| record.name);
    let names: Vec<&str> = std::iter::once("native").chain(records).chain(GPUS.iter().map(|gpu| gpu.name)).collect();
    names.join(", ")
}

/// A line of `onnxc targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetInfo {
    /// The name `--target` takes.
    pub name: &'static str,
    /// Which machines it is for.
    pub about: &'static str,
    /// What of it is tested, and how.
    pub tested: &'static str,
    /// The target it stands for.
    pub target: Target,
}

/// A resolved compilation target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    name: String,
    triple: Triple,
    features: FeatureSet,
    machine: MachineModel,
    gpu: Option<&'static Gpu>,
}

impl Target {
    /// The GPU that kernels are for, if they are for one; triple and features are then those of the host program.
    pub fn gpu(&self) -> Option<&'static Gpu> {
        self.gpu
    }

    /// The instruction set of the wide backend, if there is one for the target.
    pub fn wide_isa(&self) -> Option<Isa> {
        wide_isa(self.features)
    }

    /// What kernels for AArch64 may use beside what Cranelift has; nothing for other architectures.
    pub fn neon(&self) -> Option<neon::Features> {
        let has = |feature| self.features.has(feature);
        let features =
            neon::Features { dotprod: has(Feature::Dotprod), i8mm: has(Feature::I8mm), bf16: has(Feature::Bf16) };
        self.is_aarch64().then_some(features)
    }

    /// What the kind of processor is called among others of its architecture: `avx2`, or `baseline` for the least.
    pub fn kind(&self) -> &'static str {
        best_record(self.arch(), self.features).name.split_once('-').map_or("baseline", |(_, kind)| kind)
    }

    /// The targets that one object can serve beside this one: the named processors of its architecture that can more, each
    /// more than the ones before it. None but on x86-64, where a program can ask what the processor can.
    pub fn variants(&self) -> Vec<Target> {
        let able = RECORDS
            .iter()
            .filter(|record| record.arch == self.arch() && self.arch() == Arch::X86 && self.gpu.is_none());
        let all = able.map(|record| {
            let mut features = self.features;
            record.features.iter().for_each(|&feature| features.insert(feature));
            let machine = machine_of(best_record(record.arch, features), features);
            let target = Self { name: String::new(), triple: self.triple.clone(), features, machine, gpu: None };
            let base = if is_plain_linux(&self.triple) { record.name.to_owned() } else { self.triple.to_string() };
            target.named(&base, best_record(record.arch, features))
        });
        all.filter(|target| target.features != self.features).collect()
    }

    /// What a processor must say about itself to run code for the target where it runs code for `base`: bits of
    /// `ECX` of leaf 1 of `cpuid`, of `EBX` and `ECX` of leaf 7, of `ECX` of leaf 0x80000001, and of `XCR0`, which is what the
    /// system saves.
    pub fn processor_bits(&self, base: &Target) -> [u32; 5] {
        let mut words = [0; 5];
        for feature in self.features.iter().filter(|&feature| !base.features.has(feature)) {
            let bits: [u32; 5] = match feature {
                Feature::V2 => [1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23, 0, 0, 0, 0],
                // With OSXSAVE, without which XCR0 cannot be read.
                Feature::Avx => [1 << 27 | 1 << 28, 0, 0, 0, 0x6],
                Feature::Avx2 => [0, 1 << 5, 0, 0, 0],
                Feature::Fma => [1 << 12, 0, 0, 0, 0],
                Feature::F16c => [1 << 29, 0, 0, 0, 0],
                Feature::Bmi => [0, 1 << 3 | 1 << 8, 0, 1 << 5, 0],
                // F, DQ, CD, BW and VL.
                Feature::Avx512 => [0, 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31, 0, 0, 0xe6],
                Feature::Avx512Vnni => [0, 0, 1 << 11, 0, 0],
                Feature::Avx512Bf16
                | Feature::Dotprod
                | Feature::I8mm
                | Feature::Fp16
                | Feature::Bf16
                | Feature::Lse
                | Feature::V => unreachable!("no named x86-64 processor has it"),
            };
            words.iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
        }
        words
    }

    /// Resolves a target name: `native`, a record's name or a full triple, each with any number of `+feature`.
    ///
    /// ```
    /// use onnxc_backend::target::Target;
    /// assert_eq!(Target::parse("x86_64")?.machine().kernel_lanes_f32, 4);
    /// assert!(Target::parse("x86_64-pc-windows-gnu+avx2+fma")?.machine().has_fma);
    /// assert!(Target::parse("armv7-unknown-linux-gnueabihf").is_err());
    /// # Ok::<(), onnxc_backend::target::TargetError>(())
    /// ```
    pub fn parse(name: &str) -> Result<Self, TargetError> {
        let mut parts = name.split('+');
        let base = parts.next().unwrap_or_default();
        let mut target = Self::parse_base(base)?;
        if target.gpu.is_some() {
            return match parts.next() {
                None => Ok(target),
                Some(feature) => Err(TargetError::UnknownFeature {
                    target: base.to_owned(),
                    feature: feature.to_owned(),
                    known: Vec::new(),
                }),
            };
        }
        let arch = target.arch();
        for feature in parts {
            let row = FEATURES.iter().find(|row| row.arch == arch && row.name == feature).ok_or_else(|| {
                TargetError::UnknownFeature {
                    target: base.to_owned(),
                    feature: feature.to_owned(),
                    known: FEATURES.iter().filter(|row| row.arch == arch).map(|row| row.name).collect(),
                }
            })?;
            target.features.insert(row.feature);
        }
        let record = best_record(arch, target.features);
        target.machine = machine_of(record, target.features);
        Ok(target.named(base, record))
    }

    /// The target that `native` stands for on this machine: the host's platform and the best record it supports.
    pub fn native() -> Result<Self, TargetError> {
        let record = host_record()?;
        let target = Self::of_record(Triple::host(), record);
        Ok(target.named("native", record))
    }

    /// Every named target, for `onnxc targets`.
    pub fn all() -> Vec<TargetInfo> {
        let records = RECORDS.iter().map(|record| (record.name, record.about, record.tested));
        let gpus = GPUS.iter().map(|gpu| (gpu.name, gpu.about, "assembled with ptxas, run on an interpreter of PTX"));
        let info = |(name, about, tested)| {
            let target = Self::parse(name).expect("every name in the tables is a target");
            TargetInfo { name, about, tested, target }
        };
        records.chain(gpus).map(info).collect()
    }

    /// The canonical name: [`Target::parse`] of it gives this target again, on any machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Architecture, operating system and object format.
    pub fn triple(&self) -> &Triple {
        &self.triple
    }

    /// The instruction-set features, closed under implication.
    pub fn features(&self) -> FeatureSet {
        self.features
    }

    /// The facts that schedules read.
    pub fn machine(&self) -> &MachineModel {
        &self.machine
    }

    /// The format of the target's object files.
    pub fn binary_format(&self) -> BinaryFormat {
        self.triple.binary_format
    }

    /// The family of its instruction set.
    pub fn arch(&self) -> Arch {
        Arch::of(self.triple.architecture).expect("a target has a code generator")
    }

    /// Whether the architecture is 64-bit ARM.
    pub fn is_aarch64(&self) -> bool {
        self.arch() == Arch::Arm
    }

    /// Names of the boolean settings of Cranelift's instruction set that the features switch on.
    pub fn cranelift_settings(&self) -> impl Iterator<Item = &'static str> {
        self.features.iter().flat_map(|feature| FEATURES[feature as usize].cranelift.iter().copied())
    }

    /// The usual command that compiles C and links programs that need no shared libraries for the target, where there is
    /// one: GCC under its name on Debian.
    pub fn c_compiler(&self) -> Option<String> {
        match (self.triple.operating_system, self.arch()) {
            // The driver is a shared library.
            (OperatingSystem::Linux, Arch::X86) if self.gpu.is_some() => Some("x86_64-linux-gnu-gcc".to_owned()),
            (OperatingSystem::Linux, Arch::X86) => Some("x86_64-linux-gnu-gcc -static".to_owned()),
            (OperatingSystem::Linux, Arch::Arm) => Some("aarch64-linux-gnu-gcc -static".to_owned()),
            (OperatingSystem::Linux, Arch::Riscv) => Some("riscv64-linux-gnu-gcc -static".to_owned()),
            (OperatingSystem::Windows, Arch::X86) => Some("x86_64-w64-mingw32-gcc -static".to_owned()),
            _ => None,
        }
    }

    /// Whether the machine that runs this process can run the target's code in process; of a GPU target the host program,
    /// which says itself where there is no device.
    pub fn runs_on_host(&self) -> bool {
        let host = Triple::host();
        let same_architecture = host.architecture == self.triple.architecture;
        // The loader in this process reads ELF.
        let loadable = self.binary_format() == BinaryFormat::Elf;
        same_architecture && loadable && host_features().covers(self.features)
    }

    /// A record's target on a platform, without a name.
    fn of_record(triple: Triple, record: &Record) -> Self {
        let features = FeatureSet::of(record.features);
        Self { name: String::new(), triple, features, machine: machine_of(record, features), gpu: None }
    }

    fn parse_base(base: &str) -> Result<Self, TargetError> {
        if base == "native" {
            return Self::native();
        }
        if let Some(record) = RECORDS.iter().find(|record| record.name == base) {
            let triple = format!("{}-unknown-linux-gnu", record.arch.linux_name());
            let triple = Triple::from_str(&triple).expect("a valid triple");
            return Ok(Self::of_record(triple, record));
        }
        if let Some(gpu) = GPUS.iter().find(|gpu| gpu.name == base) {
            let host = Self::parse("x86_64").expect("the host of GPUs is a target");
            let machine = MachineModel { wide_tiles: gpu.sm == "sm_90a", ..GPU_MACHINE };
            return Ok(Self { name: gpu.name.to_owned(), machine, gpu: Some(gpu), ..host });
        }
        let unknown = |hint: &str| TargetError::Unknown { name: base.to_owned(), hint: hint.to_owned() };
        let mut triple = match Triple::from_str(base) {
            Ok(_) | Err(_) if base.starts_with("nvptx") => return Err(unknown(&suggestion(base))),
            Ok(triple) if base.contains('-') => triple,
            Ok(_) | Err(_) => return Err(unknown(&suggestion(base))),
        };
        let arch = match (Arch::of(triple.architecture), triple.architecture) {
            (Some(arch), _) => arch,
            (None, Architecture::Arm(_)) => return Err(unknown(NO_ARM32)),
            (None, Architecture::X86_32(_) | Architecture::Riscv32(_)) => return Err(unknown(NO_32_BITS)),
            (None, _) => return Err(unknown("")),
        };
        if arch == Arch::Riscv {
            // What is generated is the same for every spelling of the extensions that Linux asks for.
            triple.architecture = Triple::from_str("riscv64gc-unknown-linux-gnu").expect("a valid triple").architecture;
        }
        if triple.operating_system == OperatingSystem::None_ && triple.binary_format == BinaryFormat::Unknown {
            triple.binary_format = BinaryFormat::Elf;
        }
        let other_format = arch == Arch::Riscv && triple.binary_format != BinaryFormat::Elf;
        if other_format || !matches!(triple.binary_format, BinaryFormat::Elf | BinaryFormat::Coff | BinaryFormat::Macho)
        {
            return Err(unknown(" (its object format is not ELF, COFF or Mach-O)"));
        }
        let record = RECORDS.iter().find(|record| record.arch == arch).expect("a record per architecture");
        Ok(Self::of_record(triple, record))
    }

    /// Gives the target its canonical name: the shortest base and the features that the base does not bring.
    fn named(mut self, base: &str, record: &Record) -> Self {
        let plain = is_plain_linux(&self.triple);
        let (base, brought) = if plain {
            (record.name.to_owned(), FeatureSet::of(record.features))
        } else {
            let first = RECORDS.iter().find(|row| row.arch == self.arch()).expect("a record per architecture");
            let base = if base == "native" { self.triple.to_string() } else { base.to_owned() };
            (base, FeatureSet::of(first.features))
        };
        self.name = base;
        let mut named = brought;
        for feature in self.features.iter().collect::<Vec<_>>().into_iter().rev() {
            if !named.has(feature) {
                named.insert(feature);
                self.name.push('+');
                self.name.push_str(FEATURES[feature as usize].name);
            }
        }
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(name: &str) -> Result<Self, TargetError> {
        Self::parse(name)
    }
}

/// Whether short names stand for this platform.
fn is_plain_linux(triple: &Triple) -> bool {
    triple.operating_system == OperatingSystem::Linux && triple.environment == target_lexicon::Environment::Gnu
}

/// A known name that shares a beginning with what was typed.
fn suggestion(base: &str) -> String {
    let spelled = base.replace('_', "-").to_lowercase();
    if base.starts_with("nvptx") {
        return format!(" (GPU targets: {})", GPUS.map(|gpu| gpu.name).join(", "));
    }
    let close = RECORDS.iter().rev().find(|record| {
        let name = record.name.replace('_', "-");
        name == spelled || (spelled.len() >= 3 && name.starts_with(&spelled)) || spelled.starts_with(&name)
    });
    match (close, base) {
        (Some(record), _) => format!(" (did you mean `{}`?)", record.name),
        (None, "amd64" | "x64") => " (did you mean `x86_64`?)".to_owned(),
        (None, "arm64") => " (did you mean `aarch64`?)".to_owned(),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests;
