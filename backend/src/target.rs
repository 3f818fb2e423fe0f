//! Targets: what a compilation is for, by name.
//!
//! A target is a platform (a triple), a set of instruction-set features and the [`MachineModel`] that schedules read.
//! Its facts come from a table of named records, one per line of [`RECORDS`], never from the host: `native` only
//! *chooses* a record by what the running processor supports, so that a compilation can be repeated elsewhere under the
//! name it resolved to. Short names stand for Linux; a full triple takes the baseline record of its architecture, and
//! `+feature` adds to either.

use std::fmt;
use std::str::FromStr;

use onnxc_ir::machine::MachineModel;
use target_lexicon::{Aarch64Architecture, Architecture, BinaryFormat, OperatingSystem, Triple};
use thiserror::Error;

use crate::vector::Isa;

/// An instruction-set extension that code generation or scheduling can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Feature {
    /// x86-64-v2's additions as one: SSE3, SSSE3, SSE4.1, SSE4.2, POPCNT, CMPXCHG16B.
    V2,
    /// AVX.
    Avx,
    /// AVX2.
    Avx2,
    /// Three-operand fused multiply-add on x86.
    Fma,
    /// F16C half-precision conversions.
    F16c,
    /// BMI1, BMI2 and LZCNT.
    Bmi,
    /// AVX-512 F, BW, CD, DQ and VL.
    Avx512,
    /// AVX-512 VNNI: int8 dot products.
    Avx512Vnni,
    /// AVX-512 BF16 dot products.
    Avx512Bf16,
    /// AArch64 int8 dot products.
    Dotprod,
    /// AArch64 int8 matrix multiply.
    I8mm,
    /// AArch64 half-precision arithmetic.
    Fp16,
    /// AArch64 bf16 dot products.
    Bf16,
    /// AArch64 large-system extensions (atomics).
    Lse,
    /// RISC-V vectors of at least 128 bits.
    V,
}

/// A family of instruction sets that has a code generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    X86,
    /// 64-bit ARM.
    Arm,
    /// 64-bit RISC-V with the extensions that Linux asks for (G and C).
    Riscv,
}

impl Arch {
    fn of(architecture: Architecture) -> Option<Arch> {
        match architecture {
            Architecture::X86_64 => Some(Arch::X86),
            Architecture::Aarch64(Aarch64Architecture::Aarch64) => Some(Arch::Arm),
            Architecture::Riscv64(_) => Some(Arch::Riscv),
            _ => None,
        }
    }

    /// The first part of a Linux triple.
    fn linux_name(self) -> &'static str {
        match self {
            Arch::X86 => "x86_64",
            Arch::Arm => "aarch64",
            Arch::Riscv => "riscv64gc",
        }
    }
}

struct FeatureRow {
    feature: Feature,
    name: &'static str,
    /// Features that come with this one.
    implies: &'static [Feature],
    /// Cranelift's settings for it.
    cranelift: &'static [&'static str],
    arch: Arch,
}

const fn x86(
    feature: Feature,
    name: &'static str,
    implies: &'static [Feature],
    cranelift: &'static [&'static str],
) -> FeatureRow {
    FeatureRow { feature, name, implies, cranelift, arch: Arch::X86 }
}

const fn arm(feature: Feature, name: &'static str, cranelift: &'static [&'static str]) -> FeatureRow {
    FeatureRow { feature, name, implies: &[], cranelift, arch: Arch::Arm }
}

/// Features in the order of their discriminants.
const FEATURES: [FeatureRow; 15] = [
    x86(Feature::V2, "v2", &[], &["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt", "has_cmpxchg16b"]),
    x86(Feature::Avx, "avx", &[Feature::V2], &["has_avx"]),
    x86(Feature::Avx2, "avx2", &[Feature::Avx], &["has_avx2"]),
    x86(Feature::Fma, "fma", &[Feature::Avx], &["has_fma"]),
    x86(Feature::F16c, "f16c", &[Feature::Avx], &[]),
    x86(Feature::Bmi, "bmi", &[], &["has_bmi1", "has_bmi2", "has_lzcnt"]),
    x86(
        Feature::Avx512,
        "avx512",
        &[Feature::Avx2, Feature::Fma, Feature::F16c, Feature::Bmi],
        &["has_avx512f", "has_avx512dq", "has_avx512vl"],
    ),
    x86(Feature::Avx512Vnni, "avx512vnni", &[Feature::Avx512], &["has_avx512vnni"]),
    x86(Feature::Avx512Bf16, "avx512bf16", &[Feature::Avx512], &[]),
    arm(Feature::Dotprod, "dotprod", &["has_dotprod"]),
    arm(Feature::I8mm, "i8mm", &["has_i8mm"]),
    arm(Feature::Fp16, "fp16", &["has_fp16"]),
    arm(Feature::Bf16, "bf16", &[]),
    arm(Feature::Lse, "lse", &["has_lse"]),
    FeatureRow {
        feature: Feature::V,
        name: "v",
        implies: &[],
        cranelift: &["has_v", "has_zvl32b", "has_zvl64b", "has_zvl128b"],
        arch: Arch::Riscv,
    },
];

/// A set of features, closed under implication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FeatureSet(u32);

impl FeatureSet {
    /// The least closed set that holds `features`.
    pub fn of(features: &[Feature]) -> Self {
        let mut set = Self(0);
        for &feature in features {
            set.insert(feature);
        }
        set
    }

    /// Adds a feature and all that it implies.
    pub fn insert(&mut self, feature: Feature) {
        self.0 |= 1 << feature as u8;
        for &implied in FEATURES[feature as usize].implies {
            self.insert(implied);
        }
    }

    /// Whether the feature is in the set.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    /// Whether every feature of `other` is in the set.
    pub fn covers(self, other: FeatureSet) -> bool {
        other.0 & !self.0 == 0
    }

    /// The features in declaration order.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        FEATURES.iter().map(|row| row.feature).filter(move |&feature| self.has(feature))
    }
}

/// The cache and core figures of a named processor class.
struct Record {
    name: &'static str,
    about: &'static str,
    tested: &'static str,
    arch: Arch,
    features: &'static [Feature],
    l1d_kib: u64,
    l2_kib: u64,
    l3_kib: u64,
    cores: u32,
}

/// The named processors. Within an architecture, later rows need more features.
const RECORDS: [Record; 7] = [
    Record {
        name: "x86_64",
        about: "x86-64-v2: any processor since about 2010",
        tested: "ONNX suite",
        arch: Arch::X86,
        features: &[Feature::V2],
        l1d_kib: 32,
        l2_kib: 256,
        l3_kib: 4096,
        cores: 4,
    },
    Record {
        name: "x86_64-avx2",
        about: "AVX2 and FMA: Haswell, Zen and later",
        tested: "ONNX suite",
        arch: Arch::X86,
        features: &[Feature::Avx2, Feature::Fma, Feature::F16c, Feature::Bmi],
        l1d_kib: 32,
        l2_kib: 512,
        l3_kib: 8192,
        cores: 8,
    },
    Record {
        name: "x86_64-avx512",
        about: "AVX-512 with VNNI: Ice Lake, Zen 4 and later",
        tested: "ONNX suite and models",
        arch: Arch::X86,
        features: &[Feature::Avx512Vnni],
        l1d_kib: 48,
        l2_kib: 1280,
        l3_kib: 16384,
        cores: 8,
    },
    Record {
        name: "aarch64",
        about: "ARMv8.0 with NEON: any 64-bit ARM",
        tested: "ONNX suite and models under qemu",
        arch: Arch::Arm,
        features: &[],
        l1d_kib: 32,
        l2_kib: 256,
        l3_kib: 1024,
        cores: 4,
    },
    Record {
        name: "aarch64-dotprod",
        about: "ARMv8.2 with int8 dot products: Cortex-A55/A76, Neoverse N1, Apple M1 and later",
        tested: "ONNX suite under qemu",
        arch: Arch::Arm,
        features: &[Feature::Dotprod, Feature::Fp16, Feature::Lse],
        l1d_kib: 64,
        l2_kib: 512,
        l3_kib: 4096,
        cores: 4,
    },
    Record {
        name: "riscv64",
        about: "RV64GC: any 64-bit RISC-V that runs Linux",
        tested: "ONNX suite under qemu",
        arch: Arch::Riscv,
        features: &[],
        l1d_kib: 32,
        l2_kib: 256,
        l3_kib: 1024,
        cores: 4,
    },
    Record {
        name: "riscv64-v",
        about: "RV64GC with vectors (V 1.0), of which kernels use 128 bits: SpacemiT K1, SiFive X280 and later",
        tested: "ONNX suite under qemu",
        arch: Arch::Riscv,
        features: &[Feature::V],
        l1d_kib: 32,
        l2_kib: 256,
        l3_kib: 1024,
        cores: 4,
    },
];

/// A GPU: kernels are PTX, and the host program is for Linux on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The name `--target` takes.
    name: &'static str,
    /// What PTX calls it: `.target`.
    pub sm: &'static str,
    about: &'static str,
}

const GPUS: [Gpu; 2] = [
    Gpu { name: "nvptx64-sm_80", sm: "sm_80", about: "NVIDIA GPUs from Ampere on (A100, RTX 30, H100, RTX 50)" },
    Gpu { name: "nvptx64-sm_90a", sm: "sm_90a", about: "NVIDIA Hopper only (H100, H200)" },
];

/// How schedules see a GPU: a core is a warp. A vector has a lane for each of its threads, or four where a kernel only
/// passes over memory. Sums never wait in scratch between blocks of depth, so the first-level cache counts as large, and
/// tasks are small, so that there are many: what a task may count on of the second-level cache is little.
const GPU_MACHINE: MachineModel = MachineModel {
    pointer_bytes: 8,
    vector_bits: 1024,
    vector_registers: 64,
    kernel_lanes_f32: 32,
    stream_lanes_f32: 128,
    streams_any_type: true,
    kernel_vector_registers: 32,
    l1d_bytes: 4 << 20,
    l2_bytes: 64 << 10,
    l3_bytes: 40 << 20,
    cores: 1024,
    task_elements: 512,
    has_predicates: true,
    has_fma: true,
    multiplies_by_lanes: false,
    has_dot4_i8: false,
    has_dot2_bf16: false,
};

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
            return Ok(Self { name: gpu.name.to_owned(), machine: GPU_MACHINE, gpu: Some(gpu), ..host });
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

/// The last record of the architecture whose features are all there.
fn best_record(arch: Arch, features: FeatureSet) -> &'static Record {
    RECORDS
        .iter()
        .rev()
        .find(|record| record.arch == arch && features.covers(FeatureSet::of(record.features)))
        .expect("every target has its architecture's baseline features")
}

fn wide_isa(features: FeatureSet) -> Option<Isa> {
    let fast = features.has(Feature::Avx2) && features.has(Feature::Fma) && features.has(Feature::Bmi);
    if features.has(Feature::Avx512) { Some(Isa::Avx512) } else { fast.then_some(Isa::Avx2) }
}

fn machine_of(record: &Record, features: FeatureSet) -> MachineModel {
    let (vector_bits, vector_registers) = match record.arch {
        Arch::Arm => (128, 32),
        Arch::Riscv => (if features.has(Feature::V) { 128 } else { 32 }, 32),
        Arch::X86 if features.has(Feature::Avx512) => (512, 32),
        Arch::X86 if features.has(Feature::Avx2) => (256, 16),
        Arch::X86 => (128, 16),
    };
    // Kernels for AVX-512 and AVX2 come from the wide backend; Cranelift makes the others, with 128-bit vectors.
    let wide = wide_isa(features);
    let lanes = wide.map_or(vector_bits.min(128) / 32, |isa| isa.lanes().into());
    MachineModel {
        pointer_bytes: 8,
        vector_bits,
        vector_registers,
        kernel_lanes_f32: lanes,
        stream_lanes_f32: lanes,
        streams_any_type: false,
        kernel_vector_registers: if record.arch != Arch::X86 || wide == Some(Isa::Avx512) { 32 } else { 16 },
        l1d_bytes: record.l1d_kib << 10,
        l2_bytes: record.l2_kib << 10,
        l3_bytes: record.l3_kib << 10,
        cores: record.cores,
        task_elements: MachineModel::BASELINE.task_elements,
        has_predicates: wide.is_some(),
        has_fma: record.arch != Arch::X86 || features.has(Feature::Fma),
        multiplies_by_lanes: record.arch == Arch::Arm,
        has_dot4_i8: features.has(Feature::Dotprod) || features.has(Feature::Avx512Vnni),
        has_dot2_bf16: features.has(Feature::Bf16) || features.has(Feature::Avx512Bf16),
    }
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

/// The features of the running processor, as far as targets know them.
fn host_features() -> FeatureSet {
    let mut set = FeatureSet::default();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let rows = [
            (Feature::V2, has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b")),
            (Feature::Avx, has!("avx")),
            (Feature::Avx2, has!("avx2")),
            (Feature::Fma, has!("fma")),
            (Feature::F16c, has!("f16c")),
            (Feature::Bmi, has!("bmi1") && has!("bmi2") && has!("lzcnt")),
            (
                Feature::Avx512,
                has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl"),
            ),
            (Feature::Avx512Vnni, has!("avx512vnni")),
            (Feature::Avx512Bf16, has!("avx512bf16")),
        ];
        // A bit is set by itself, not with what it implies: the implied ones are tested too.
        set.0 = rows.iter().filter(|(_, found)| *found).fold(0, |bits, (feature, _)| bits | 1 << *feature as u8);
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        let rows = [
            (Feature::Dotprod, has!("dotprod")),
            (Feature::I8mm, has!("i8mm")),
            (Feature::Fp16, has!("fp16")),
            (Feature::Bf16, has!("bf16")),
            (Feature::Lse, has!("lse")),
        ];
        set.0 = rows.iter().filter(|(_, found)| *found).fold(0, |bits, (feature, _)| bits | 1 << *feature as u8);
    }
    set
}

fn host_record() -> Result<&'static Record, TargetError> {
    let reason = "it is neither x86-64, 64-bit ARM nor 64-bit RISC-V";
    let arch = Arch::of(Triple::host().architecture).ok_or(TargetError::UnsupportedHost { reason })?;
    let features = host_features();
    RECORDS
        .iter()
        .rev()
        .find(|record| record.arch == arch && features.covers(FeatureSet::of(record.features)))
        .ok_or(TargetError::UnsupportedHost { reason: "it lacks SSE4.2 and POPCNT (x86-64-v2)" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_parse_to_the_same_target() {
        let names = [
            "native",
            "x86_64",
            "x86_64-avx2",
            "x86_64-avx512+avx512bf16",
            "aarch64",
            "aarch64-dotprod+i8mm",
            "x86_64+avx2",
            "x86_64-pc-windows-gnu+avx2+fma",
            "aarch64-apple-darwin",
            "aarch64-unknown-none",
            "x86_64-unknown-none",
            "x86_64-unknown-linux-musl",
            "riscv64",
            "riscv64-v",
            "riscv64-unknown-linux-gnu+v",
            "riscv64gc-unknown-none-elf",
            "nvptx64-sm_80",
            "nvptx64-sm_90a",
        ];
        for name in names {
            let target = Target::parse(name).unwrap();
            assert_eq!(Target::parse(target.name()).unwrap(), target, "{name} -> {target}");
        }
        assert_eq!(Target::parse("x86_64+avx2+fma+f16c+bmi").unwrap().name(), "x86_64-avx2");
        assert_eq!(Target::parse("x86_64-unknown-linux-gnu").unwrap().name(), "x86_64");
    }

    #[test]
    fn features_bring_what_they_imply_and_the_fitting_record() {
        let target = Target::parse("x86_64+avx512vnni").unwrap();
        assert_eq!(target, Target::parse("x86_64-avx512").unwrap());
        assert_eq!((target.machine().vector_bits, target.machine().vector_registers), (512, 32));
        assert!(target.cranelift_settings().any(|setting| setting == "has_fma"));
        let baseline = Target::parse("x86_64").unwrap();
        assert!(!baseline.machine().has_fma);
        assert!(baseline.cranelift_settings().all(|setting| !setting.contains("avx")));
        assert_eq!(*baseline.machine(), MachineModel::BASELINE);
    }

    #[test]
    fn variants_are_the_more_able_processors_and_what_tells_them() {
        let names =
            |name| Target::parse(name).unwrap().variants().iter().map(|t| t.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names("x86_64"), ["x86_64-avx2", "x86_64-avx512"]);
        assert_eq!(names("x86_64-avx2"), ["x86_64-avx512"]);
        assert!(names("x86_64-avx512").is_empty() && names("aarch64").is_empty());
        let base = Target::parse("x86_64-pc-windows-gnu").unwrap();
        let variants = base.variants();
        assert!(variants.iter().all(|t| t.triple() == base.triple() && Target::parse(t.name()).unwrap() == *t));
        assert_eq!(variants.iter().map(Target::kind).collect::<Vec<_>>(), ["avx2", "avx512"]);
        assert_eq!(variants[0].processor_bits(&base), [0x3800_1000, 0x128, 0, 0x20, 0x6]);
        assert_eq!(variants[1].processor_bits(&base), [0x3800_1000, 0xd003_0128, 0x800, 0x20, 0xe6]);
        assert_eq!(variants[1].processor_bits(&variants[0]), [0, 0xd003_0000, 0x800, 0, 0xe6]);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let message = |name| Target::parse(name).unwrap_err().to_string();
        assert!(message("nvptx64-sm_70").contains("GPU targets: nvptx64-sm_80, nvptx64-sm_90a"));
        assert!(message("nvptx64-sm_80+tensor").contains("unknown feature"));
        assert!(message("armv7-unknown-linux-gnueabihf").contains("the target is aarch64"));
        assert!(message("i686-pc-windows-gnu").contains("32-bit"));
        assert!(message("x86-64-avx2").contains("did you mean `x86_64-avx2`?"));
        assert!(message("arm64").contains("did you mean `aarch64`?"));
        assert!(message("x86_64+dotprod").contains("known: v2, avx, avx2"));
        assert!(message("").contains("unknown target"));
    }

    #[test]
    fn the_native_record_runs_here() {
        assert!(Target::native().unwrap().runs_on_host());
    }

    #[test]
    fn feature_rows_stand_at_their_discriminants() {
        for (index, row) in FEATURES.iter().enumerate() {
            assert_eq!(row.feature as usize, index);
        }
    }
}
