//! Relocation kinds in the terms of each object format.

use cranelift_codegen::binemit::Reloc;
use object::write::RelocationFlags;
use object::{RelocationEncoding, RelocationKind, elf, macho, pe};
use target_lexicon::BinaryFormat;

use crate::target::Arch;

/// Bytes that the relocated field has.
pub(super) fn width(kind: Reloc) -> u64 {
    match kind {
        Reloc::Abs8 | Reloc::RiscvCallPlt => 8,
        _ => 4,
    }
}

/// The relocation type in an ELF file of the architecture.
pub(super) fn elf_type(arch: Arch, kind: Reloc) -> Option<u32> {
    Some(match (arch, kind) {
        (Arch::X86, Reloc::Abs8) => elf::R_X86_64_64,
        (Arch::X86, Reloc::X86PCRel4) => elf::R_X86_64_PC32,
        (Arch::X86, Reloc::X86CallPCRel4 | Reloc::X86CallPLTRel4) => elf::R_X86_64_PLT32,
        (Arch::X86, Reloc::X86GOTPCRel4) => elf::R_X86_64_GOTPCREL,
        (Arch::Arm, Reloc::Abs8) => elf::R_AARCH64_ABS64,
        (Arch::Arm, Reloc::Arm64Call) => elf::R_AARCH64_CALL26,
        (Arch::Arm, Reloc::Aarch64AdrPrelPgHi21) => elf::R_AARCH64_ADR_PREL_PG_HI21,
        (Arch::Arm, Reloc::Aarch64AddAbsLo12Nc) => elf::R_AARCH64_ADD_ABS_LO12_NC,
        (Arch::Arm, Reloc::Aarch64AdrGotPage21) => elf::R_AARCH64_ADR_GOT_PAGE,
        (Arch::Arm, Reloc::Aarch64Ld64GotLo12Nc) => elf::R_AARCH64_LD64_GOT_LO12_NC,
        (Arch::Riscv, Reloc::Abs8) => elf::R_RISCV_64,
        (Arch::Riscv, Reloc::RiscvCallPlt) => elf::R_RISCV_CALL_PLT,
        (Arch::Riscv, Reloc::RiscvGotHi20) => elf::R_RISCV_GOT_HI20,
        (Arch::Riscv, Reloc::RiscvPCRelHi20) => elf::R_RISCV_PCREL_HI20,
        (Arch::Riscv, Reloc::RiscvPCRelLo12I) => elf::R_RISCV_PCREL_LO12_I,
        _ => return None,
    })
}

/// Whether the relocation's symbol is the place of the instruction that holds the upper half of a displacement.
pub(super) fn is_lower_half(kind: Reloc) -> bool {
    kind == Reloc::RiscvPCRelLo12I
}

/// Whether the relocation asks for a GOT entry, whose symbol cannot be replaced by a section and an offset.
pub(super) fn is_got(kind: Reloc) -> bool {
    matches!(kind, Reloc::X86GOTPCRel4 | Reloc::Aarch64AdrGotPage21 | Reloc::Aarch64Ld64GotLo12Nc | Reloc::RiscvGotHi20)
}

/// The relocation in a COFF or Mach-O file.
pub(super) fn generic_flags(format: BinaryFormat, kind: Reloc) -> Option<RelocationFlags> {
    let generic = |kind, encoding, size| Some(RelocationFlags::Generic { kind, encoding, size });
    let macho = |r_type, r_pcrel| Some(RelocationFlags::MachO { r_type, r_pcrel, r_length: 2 });
    let coff = |typ| Some(RelocationFlags::Coff { typ });
    match (kind, format) {
        (Reloc::Abs8, _) => generic(RelocationKind::Absolute, RelocationEncoding::Generic, 64),
        (Reloc::X86PCRel4, _) => generic(RelocationKind::Relative, RelocationEncoding::Generic, 32),
        (Reloc::X86CallPCRel4 | Reloc::X86CallPLTRel4, _) => {
            generic(RelocationKind::Relative, RelocationEncoding::X86Branch, 32)
        }
        (Reloc::X86GOTPCRel4, BinaryFormat::Macho) => {
            generic(RelocationKind::GotRelative, RelocationEncoding::X86RipRelativeMovq, 32)
        }
        (Reloc::Arm64Call, BinaryFormat::Macho) => macho(macho::ARM64_RELOC_BRANCH26, true),
        (Reloc::Aarch64AdrPrelPgHi21, BinaryFormat::Macho) => macho(macho::ARM64_RELOC_PAGE21, true),
        (Reloc::Aarch64AddAbsLo12Nc, BinaryFormat::Macho) => macho(macho::ARM64_RELOC_PAGEOFF12, false),
        (Reloc::Aarch64AdrGotPage21, BinaryFormat::Macho) => macho(macho::ARM64_RELOC_GOT_LOAD_PAGE21, true),
        (Reloc::Aarch64Ld64GotLo12Nc, BinaryFormat::Macho) => macho(macho::ARM64_RELOC_GOT_LOAD_PAGEOFF12, false),
        (Reloc::Arm64Call, BinaryFormat::Coff) => coff(pe::IMAGE_REL_ARM64_BRANCH26),
        (Reloc::Aarch64AdrPrelPgHi21, BinaryFormat::Coff) => coff(pe::IMAGE_REL_ARM64_PAGEBASE_REL21),
        (Reloc::Aarch64AddAbsLo12Nc, BinaryFormat::Coff) => coff(pe::IMAGE_REL_ARM64_PAGEOFFSET_12A),
        _ => None,
    }
}
