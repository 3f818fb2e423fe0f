//! Families of instruction sets and their extensions: a row each, what one brings with it, and what the running processor has.

use target_lexicon::{Aarch64Architecture, Architecture};

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
    pub(super) fn of(architecture: Architecture) -> Option<Arch> {
        match architecture {
            Architecture::X86_64 => Some(Arch::X86),
            Architecture::Aarch64(Aarch64Architecture::Aarch64) => Some(Arch::Arm),
            Architecture::Riscv64(_) => Some(Arch::Riscv),
            _ => None,
        }
    }

    /// The first part of a Linux triple.
    pub(super) fn linux_name(self) -> &'static str {
        match self {
            Arch::X86 => "x86_64",
            Arch::Arm => "aarch64",
            Arch::Riscv => "riscv64gc",
        }
    }
}

pub(super) struct FeatureRow {
    pub(super) feature: Feature,
    pub(super) name: &'static str,
    /// Features that come with this one.
    implies: &'static [Feature],
    /// Cranelift's settings for it.
    pub(super) cranelift: &'static [&'static str],
    pub(super) arch: Arch,
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
pub(super) const FEATURES: [FeatureRow; 15] = [
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

/// The features of the running processor, as far as targets know them.
pub(super) fn host_features() -> FeatureSet {
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

#[cfg(test)]
mod tests {
    use super::FEATURES;

    #[test]
    fn feature_rows_stand_at_their_discriminants() {
        for (index, row) in FEATURES.iter().enumerate() {
            assert_eq!(row.feature as usize, index);
        }
    }
}
