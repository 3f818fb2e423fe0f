//! Relocation kinds in the terms of each object format.

use cranelift_codegen::binemit::Reloc;
use object::write::RelocationFlags;
use object::{RelocationEncoding, RelocationKind, elf, macho, pe};
use target_lexicon::BinaryFormat;

/// Bytes that the relocated field has.
pub(super) fn width(kind: Reloc) -> u64 {
    match kind {
        Reloc::Abs8 => 8,
        _ => 4,
    }
}

/// The relocation type in an ELF file of the architecture.
pub(super) fn elf_type(aarch64: bool, kind: Reloc) -> Option<u32> {
    Some(match (aarch64, kind) {
        (false, Reloc::Abs8) => elf::R_X86_64_64,
        (false, Reloc::X86PCRel4) => elf::R_X86_64_PC32,
        (false, Reloc::X86CallPCRel4 | Reloc::X86CallPLTRel4) => elf::R_X86_64_PLT32,
        (false, Reloc::X86GOTPCRel4) => elf::R_X86_64_GOTPCREL,
        (true, Reloc::Abs8) => elf::R_AARCH64_ABS64,
        (true, Reloc::Arm64Call) => elf::R_AARCH64_CALL26,
        (true, Reloc::Aarch64AdrPrelPgHi21) => elf::R_AARCH64_ADR_PREL_PG_HI21,
        (true, Reloc::Aarch64AddAbsLo12Nc) => elf::R_AARCH64_ADD_ABS_LO12_NC,
        (true, Reloc::Aarch64AdrGotPage21) => elf::R_AARCH64_ADR_GOT_PAGE,
        (true, Reloc::Aarch64Ld64GotLo12Nc) => elf::R_AARCH64_LD64_GOT_LO12_NC,
        _ => return None,
    })
}

/// Whether the relocation asks for a GOT entry, whose symbol cannot be replaced by a section and an offset.
pub(super) fn is_got(kind: Reloc) -> bool {
    matches!(kind, Reloc::X86GOTPCRel4 | Reloc::Aarch64AdrGotPage21 | Reloc::Aarch64Ld64GotLo12Nc)
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
