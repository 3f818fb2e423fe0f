//! The named processors and GPUs, and how schedules see them. The figures are those of a class of processors, never the host's.

use onnxc_ir::machine::{Dots, MachineModel};
use target_lexicon::Triple;

use super::TargetError;
use super::features::{Arch, Feature, FeatureSet, host_features};
use crate::vector::Isa;

/// The cache and core figures of a named processor class.
pub(super) struct Record {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) tested: &'static str,
    pub(super) arch: Arch,
    pub(super) features: &'static [Feature],
    l1d_kib: u64,
    l2_kib: u64,
    l3_kib: u64,
    cores: u32,
}

/// The named processors. Within an architecture, later rows need more features.
pub(super) const RECORDS: [Record; 7] = [
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
    pub(super) name: &'static str,
    /// What PTX calls it: `.target`.
    pub sm: &'static str,
    pub(super) about: &'static str,
}

pub(super) const GPUS: [Gpu; 2] = [
    Gpu { name: "nvptx64-sm_80", sm: "sm_80", about: "NVIDIA GPUs from Ampere on (A100, RTX 30, H100, RTX 50)" },
    Gpu { name: "nvptx64-sm_90a", sm: "sm_90a", about: "NVIDIA Hopper only (H100, H200)" },
];

/// How schedules see a GPU: a core is a warp. A vector has a lane for each of its threads, or four where a kernel only
/// passes over memory. Sums never wait in scratch between blocks of depth, so the first-level cache counts as large, and
/// tasks are small, so that there are many: what a task may count on of the second-level cache is little.
pub(super) const GPU_MACHINE: MachineModel = MachineModel {
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
    dots: Dots::NONE,
    moves_narrow: false,
    converts_f16: true,
    has_dot2_bf16: false,
    tiles: true,
    wide_tiles: false,
    f32_products: None,
};

/// The last record of the architecture whose features are all there.
pub(super) fn best_record(arch: Arch, features: FeatureSet) -> &'static Record {
    RECORDS
        .iter()
        .rev()
        .find(|record| record.arch == arch && features.covers(FeatureSet::of(record.features)))
        .expect("every target has its architecture's baseline features")
}

pub(super) fn wide_isa(features: FeatureSet) -> Option<Isa> {
    let fast =
        [Feature::Avx2, Feature::Fma, Feature::F16c, Feature::Bmi].into_iter().all(|feature| features.has(feature));
    if features.has(Feature::Avx512Vnni) {
        Some(Isa::Avx512Vnni)
    } else if features.has(Feature::Avx512) {
        Some(Isa::Avx512)
    } else {
        fast.then_some(Isa::Avx2)
    }
}

/// Dot products as the code generators make them: one instruction, or products of halves (see `vector/bytes.rs` and
/// `cranelift/kernel/dot.rs`).
fn dots_of(arch: Arch, features: FeatureSet, lanes: u32) -> Dots {
    let none = Dots::NONE;
    match arch {
        _ if lanes < 4 => none,
        Arch::X86 if features.has(Feature::Avx512Vnni) => Dots { mixed: true, ..none },
        Arch::X86 => Dots { signed: true, mixed: true, unsigned: true, factor_registers: 2, temporaries: 2 },
        Arch::Arm if features.has(Feature::Dotprod) => {
            Dots { signed: true, mixed: features.has(Feature::I8mm), unsigned: true, ..none }
        }
        Arch::Arm => Dots { signed: true, unsigned: true, temporaries: 3, ..none },
        Arch::Riscv => Dots { signed: true, mixed: true, unsigned: true, temporaries: 4, ..none },
    }
}

pub(super) fn machine_of(record: &Record, features: FeatureSet) -> MachineModel {
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
        kernel_vector_registers: if record.arch != Arch::X86 || wide.is_some_and(|isa| isa != Isa::Avx2) {
            32
        } else {
            16
        },
        l1d_bytes: record.l1d_kib << 10,
        l2_bytes: record.l2_kib << 10,
        l3_bytes: record.l3_kib << 10,
        cores: record.cores,
        task_elements: MachineModel::BASELINE.task_elements,
        has_predicates: wide.is_some(),
        has_fma: record.arch != Arch::X86 || features.has(Feature::Fma),
        multiplies_by_lanes: record.arch == Arch::Arm,
        dots: dots_of(record.arch, features, lanes),
        moves_narrow: lanes >= 4 && wide != Some(Isa::Avx2),
        converts_f16: wide.is_some() || record.arch == Arch::Arm,
        has_dot2_bf16: features.has(Feature::Bf16) || features.has(Feature::Avx512Bf16),
        tiles: false,
        wide_tiles: false,
        f32_products: None,
    }
}

/// The last record of this machine's architecture whose features its processor has.
pub(super) fn host_record() -> Result<&'static Record, TargetError> {
    let reason = "it is neither x86-64, 64-bit ARM nor 64-bit RISC-V";
    let arch = Arch::of(Triple::host().architecture).ok_or(TargetError::UnsupportedHost { reason })?;
    let features = host_features();
    RECORDS
        .iter()
        .rev()
        .find(|record| record.arch == arch && features.covers(FeatureSet::of(record.features)))
        .ok_or(TargetError::UnsupportedHost { reason: "it lacks SSE4.2 and POPCNT (x86-64-v2)" })
}
