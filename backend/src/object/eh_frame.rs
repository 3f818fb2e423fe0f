//! `.eh_frame` of the functions that carry unwind information.

use gimli::constants::{DW_EH_PE_pcrel, DW_EH_PE_sdata4};
use gimli::write::{
    Address, CallFrameInstruction, CommonInformationEntry, EhFrame, EndianVec, FrameDescriptionEntry, FrameTable,
    RelocateWriter, Relocation, RelocationTarget,
};
use gimli::{AArch64, Encoding, Format, LittleEndian, RiscV, X86_64};

use super::{CompiledFunction, Unwind, UnwindInfo};
use crate::target::Arch;

/// Bytes, and for each 4-byte PC-relative field its offset and the index of the function that it points to.
pub(super) struct FrameSection {
    pub bytes: Vec<u8>,
    pub references: Vec<(u64, usize)>,
}

/// The section, or `None` when no function has System V unwind information.
pub(super) fn build(arch: Arch, functions: &[CompiledFunction]) -> Option<FrameSection> {
    let mut table = FrameTable::default();
    let entry = table.add_cie(common_entry(arch));
    for (index, function) in functions.iter().enumerate() {
        let address = Address::Symbol { symbol: index, addend: 0 };
        match &function.unwind {
            Some(Unwind::Cranelift(UnwindInfo::SystemV(unwind))) => table.add_fde(entry, unwind.to_fde(address)),
            Some(Unwind::Frame(changes)) => {
                let mut description = FrameDescriptionEntry::new(address, function.code.len() as u32);
                changes.iter().for_each(|(offset, change)| description.add_instruction(*offset, change.clone()));
                table.add_fde(entry, description);
            }
            Some(Unwind::Cranelift(_)) | None => {}
        }
    }
    if table.fde_count() == 0 {
        return None;
    }
    let mut out = EhFrame(Recorder { bytes: EndianVec::new(LittleEndian), references: Vec::new() });
    table.write_eh_frame(&mut out).expect("frame entries of compiled functions are encodable");
    Some(FrameSection { bytes: out.0.bytes.into_vec(), references: out.0.references })
}

/// The state at a function's entry, as the platform's calling convention has it.
fn common_entry(arch: Arch) -> CommonInformationEntry {
    let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 1 };
    let mut entry = match arch {
        Arch::Arm => {
            let mut entry = CommonInformationEntry::new(encoding, 4, -8, AArch64::X30);
            entry.add_instruction(CallFrameInstruction::Cfa(AArch64::SP, 0));
            entry
        }
        Arch::Riscv => {
            let mut entry = CommonInformationEntry::new(encoding, 2, -8, RiscV::RA);
            entry.add_instruction(CallFrameInstruction::Cfa(RiscV::SP, 0));
            entry
        }
        Arch::X86 => {
            let mut entry = CommonInformationEntry::new(encoding, 1, -8, X86_64::RA);
            entry.add_instruction(CallFrameInstruction::Cfa(X86_64::RSP, 8));
            entry.add_instruction(CallFrameInstruction::Offset(X86_64::RA, -8));
            entry
        }
    };
    entry.fde_address_encoding = gimli::DwEhPe(DW_EH_PE_pcrel.0 | DW_EH_PE_sdata4.0);
    entry
}

struct Recorder {
    bytes: EndianVec<LittleEndian>,
    references: Vec<(u64, usize)>,
}

impl RelocateWriter for Recorder {
    type Writer = EndianVec<LittleEndian>;

    fn writer(&self) -> &Self::Writer {
        &self.bytes
    }

    fn writer_mut(&mut self) -> &mut Self::Writer {
        &mut self.bytes
    }

    fn relocate(&mut self, relocation: Relocation) {
        match relocation.target {
            RelocationTarget::Symbol(function) => {
                debug_assert_eq!((relocation.size, relocation.addend), (4, 0));
                self.references.push((relocation.offset as u64, function));
            }
            RelocationTarget::Section(section) => unreachable!("unwind entries refer to no section {section:?}"),
        }
    }
}
