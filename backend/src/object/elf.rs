//! ELF objects.
//!
//! File order: header, contents, relocations, symbols, names, section headers, and the weights last, at a page
//! boundary. What is before the weights is built in memory; the weights are only placed.

use std::collections::HashMap;

use object::write::elf::{FileHeader, Rel, SectionHeader, SectionIndex, Sym, Writer};
use object::write::{StringId, WritableBuffer};
use object::{Endianness, elf};

use super::eh_frame::{self, FrameSection};
use super::{LARGE_WEIGHTS, ObjectError, ObjectSpec, Relocation, relocation, weights};
use crate::target::Arch;

/// Where the weights begin in the file: a multiple of every usual page size, so that a mapping of the file serves them.
const WEIGHTS_FILE_ALIGN: u64 = 4096;

/// Marks sections of the large code model, which may lie beyond 2 GiB from the code.
const SHF_X86_64_LARGE: u64 = 0x1000_0000;

/// An object file but for its weights.
pub(super) struct Layout {
    /// The file from its start, padded up to the weights.
    pub head: Vec<u8>,
    /// Whether `head` is followed by the weights.
    pub weights_follow: bool,
}

/// A section with contents in the head of the file.
struct Section<'a> {
    name: &'static str,
    /// The name of its relocations' section.
    rela_name: &'static str,
    flags: u64,
    align: u64,
    bytes: Vec<u8>,
    /// Offset in the section, with the relocation as its owner gave it.
    relocations: Vec<(u64, &'a Relocation)>,
}

impl Section<'_> {
    fn new(rela_name: &'static str, flags: u64) -> Self {
        let name = &rela_name[".rela".len()..];
        Self { name, rela_name, flags, align: 1, bytes: Vec::new(), relocations: Vec::new() }
    }
}

/// A symbol that the object defines: the index of its section, its offset there and its size.
#[derive(Clone, Copy)]
struct Definition {
    section: usize,
    offset: u64,
    size: u64,
    kind: u8,
    global: bool,
}

const TEXT: usize = 0;
const RODATA: usize = 1;
const RELRO: usize = 2;
const DATA: usize = 3;
const EH_FRAME: usize = 4;
const STACK_NOTE: usize = 5;
/// Stands for the weights' section, whose contents are elsewhere.
const WEIGHTS: usize = 6;

/// Lays out the object.
pub(super) fn layout(spec: &ObjectSpec<'_>) -> Result<Layout, ObjectError> {
    let arch = spec.target.arch();
    let (sections, symbols, frames) = contents(spec, arch);
    let undefined: Vec<&str> = spec.undefined_symbols().into_iter().collect();
    let file_name = format!("{}.onnx", spec.prefix);
    let mut head = Head(Vec::new());
    let mut writer = Writer::new(Endianness::Little, true, &mut head);

    // Names and indices. Empty sections are left out, so their indices are not consecutive.
    writer.reserve_null_section_index();
    let mut section_names: [Option<StringId>; 7] = [None; 7];
    let mut rela_names: [Option<StringId>; 7] = [None; 7];
    let mut indices = [SectionIndex(0); 7];
    let present =
        |index: usize| index == STACK_NOTE || sections.get(index).is_some_and(|section| !section.bytes.is_empty());
    for (index, section) in sections.iter().enumerate().filter(|(index, _)| present(*index)) {
        section_names[index] = Some(writer.add_section_name(section.name.as_bytes()));
        indices[index] = writer.reserve_section_index();
        if !section.relocations.is_empty() || index == EH_FRAME {
            rela_names[index] = Some(writer.add_section_name(section.rela_name.as_bytes()));
            writer.reserve_section_index();
        }
    }
    let large = arch == Arch::X86 && spec.weights.as_ref().is_some_and(|weights| weights.len > LARGE_WEIGHTS);
    if spec.weights.is_some() {
        let name: &[u8] = if large { b".lrodata" } else { b".rodata.weights" };
        section_names[WEIGHTS] = Some(writer.add_section_name(name));
        indices[WEIGHTS] = writer.reserve_section_index();
    }
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();

    // Symbols: sections, then locals, then globals, then what is undefined, as ELF wants local ones first. The file's
    // symbol is there because linkers otherwise put the object's path into what they make.
    writer.reserve_null_symbol_index();
    writer.reserve_symbol_index(None);
    let mut table = vec![Sym {
        name: Some(writer.add_string(file_name.as_bytes())),
        section: None,
        st_info: (elf::STB_LOCAL << 4) | elf::STT_FILE,
        st_other: 0,
        st_shndx: elf::SHN_ABS,
        st_value: 0,
        st_size: 0,
    }];
    let mut section_symbols = [0; 7];
    for index in [TEXT, RODATA, RELRO, DATA].into_iter().filter(|&index| present(index)) {
        section_symbols[index] = writer.reserve_symbol_index(Some(indices[index])).0;
        table.push(Sym {
            name: None,
            section: Some(indices[index]),
            st_info: (elf::STB_LOCAL << 4) | elf::STT_SECTION,
            st_other: 0,
            st_shndx: 0,
            st_value: 0,
            st_size: 0,
        });
    }
    let mut symbol_indices = HashMap::new();
    let mut first_global = 0;
    // RISC-V names the instruction with the upper half of a displacement where the lower half is relocated.
    let definitions: HashMap<&str, Definition> = symbols.iter().copied().collect();
    let mut label_indices = HashMap::new();
    let lower_halves = sections[TEXT].relocations.iter().filter(|(_, reloc)| relocation::is_lower_half(reloc.kind));
    for (_, reloc) in lower_halves {
        let st_value = definitions[reloc.symbol.as_str()].offset + reloc.addend as u64;
        label_indices.insert(st_value, writer.reserve_symbol_index(Some(indices[TEXT])).0);
        table.push(Sym {
            name: Some(writer.add_string(b".L")),
            section: Some(indices[TEXT]),
            st_info: (elf::STB_LOCAL << 4) | elf::STT_NOTYPE,
            st_other: 0,
            st_shndx: 0,
            st_value,
            st_size: 0,
        });
    }
    for global in [false, true] {
        if global {
            first_global = writer.symbol_count();
        }
        for (name, definition) in symbols.iter().filter(|(_, definition)| definition.global == global) {
            let binding = if global { elf::STB_GLOBAL } else { elf::STB_LOCAL };
            let section = Some(indices[definition.section]);
            symbol_indices.insert(*name, writer.reserve_symbol_index(section).0);
            table.push(Sym {
                name: Some(writer.add_string(name.as_bytes())),
                section,
                st_info: (binding << 4) | definition.kind,
                st_other: elf::STV_DEFAULT,
                st_shndx: 0,
                st_value: definition.offset,
                st_size: definition.size,
            });
        }
    }
    for name in &undefined {
        symbol_indices.insert(name, writer.reserve_symbol_index(None).0);
        table.push(Sym {
            name: Some(writer.add_string(name.as_bytes())),
            section: None,
            st_info: (elf::STB_GLOBAL << 4) | elf::STT_NOTYPE,
            st_other: elf::STV_DEFAULT,
            st_shndx: elf::SHN_UNDEF,
            st_value: 0,
            st_size: 0,
        });
    }

    // Relocations. A global symbol of this object is reached as its section plus an offset: the dynamic linker then
    // can neither replace it nor does the static one refuse a PC-relative reference to it in a shared library.
    let mut relas: Vec<(usize, Vec<Rel>)> = Vec::new();
    for (index, section) in sections.iter().enumerate().filter(|(index, _)| rela_names[*index].is_some()) {
        let mut rels = Vec::new();
        for (offset, reloc) in &section.relocations {
            let r_type = relocation::elf_type(arch, reloc.kind).ok_or_else(|| ObjectError::Unsupported {
                format: "ELF",
                what: format!("relocations of kind {:?} for {}", reloc.kind, spec.target),
            })?;
            let (r_sym, r_addend) = match definitions.get(reloc.symbol.as_str()) {
                Some(definition) if relocation::is_lower_half(reloc.kind) => {
                    (label_indices[&(definition.offset + reloc.addend as u64)], 0)
                }
                Some(definition) if definition.global && !relocation::is_got(reloc.kind) => {
                    (section_symbols[definition.section], reloc.addend + definition.offset as i64)
                }
                _ => (symbol_indices[reloc.symbol.as_str()], reloc.addend),
            };
            rels.push(Rel { r_offset: *offset, r_sym, r_type, r_addend });
        }
        if index == EH_FRAME {
            let r_type = match arch {
                Arch::X86 => elf::R_X86_64_PC32,
                Arch::Arm => elf::R_AARCH64_PREL32,
                Arch::Riscv => elf::R_RISCV_32_PCREL,
            };
            rels.extend(frames.iter().map(|&(r_offset, start)| Rel {
                r_offset,
                r_sym: section_symbols[TEXT],
                r_type,
                r_addend: start as i64,
            }));
        }
        rels.sort_by_key(|rel| rel.r_offset);
        relas.push((index, rels));
    }

    // Offsets.
    writer.reserve_file_header();
    let mut offsets = [0; 7];
    for (index, section) in sections.iter().enumerate().filter(|(index, _)| present(*index)) {
        offsets[index] = writer.reserve(section.bytes.len(), section.align as usize);
    }
    let rela_offsets: Vec<usize> = relas.iter().map(|(_, rels)| writer.reserve_relocations(rels.len(), true)).collect();
    writer.reserve_symtab();
    writer.reserve_strtab();
    writer.reserve_shstrtab();
    writer.reserve_section_headers();
    let weights_at = (writer.reserved_len() as u64).next_multiple_of(WEIGHTS_FILE_ALIGN);

    // Bytes.
    let invalid = |error: object::write::Error| ObjectError::Invalid(error.to_string());
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_REL,
        e_machine: match arch {
            Arch::X86 => elf::EM_X86_64,
            Arch::Arm => elf::EM_AARCH64,
            Arch::Riscv => elf::EM_RISCV,
        },
        e_entry: 0,
        e_flags: if arch == Arch::Riscv { elf::EF_RISCV_FLOAT_ABI_DOUBLE } else { 0 },
    };
    writer.write_file_header(&header).map_err(invalid)?;
    for (index, section) in sections.iter().enumerate().filter(|(index, _)| present(*index)) {
        writer.write_align(section.align as usize);
        debug_assert_eq!(writer.len(), offsets[index]);
        writer.write(&section.bytes);
    }
    for (_, rels) in &relas {
        writer.write_align_relocation();
        for rel in rels {
            writer.write_relocation(true, rel);
        }
    }
    writer.write_null_symbol();
    for symbol in &table {
        writer.write_symbol(symbol);
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    let symtab = writer.symtab_index();
    for (index, section) in sections.iter().enumerate().filter(|(index, _)| present(*index)) {
        writer.write_section_header(&SectionHeader {
            name: section_names[index],
            sh_type: elf::SHT_PROGBITS,
            sh_flags: section.flags,
            sh_addr: 0,
            sh_offset: offsets[index] as u64,
            sh_size: section.bytes.len() as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: section.align,
            sh_entsize: 0,
        });
        if let Some(position) = relas.iter().position(|(owner, _)| *owner == index) {
            let count = relas[position].1.len();
            writer.write_relocation_section_header(
                rela_names[index].expect("a relocated section has a name for its relocations"),
                indices[index],
                symtab,
                rela_offsets[position],
                count,
                true,
            );
        }
    }
    if let Some(weights) = &spec.weights {
        let large_flag = if large { SHF_X86_64_LARGE } else { 0 };
        writer.write_section_header(&SectionHeader {
            name: section_names[WEIGHTS],
            sh_type: elf::SHT_PROGBITS,
            sh_flags: u64::from(elf::SHF_ALLOC) | large_flag,
            sh_addr: 0,
            sh_offset: weights_at,
            sh_size: weights.len,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: weights::ALIGN,
            sh_entsize: 0,
        });
    }
    writer.write_symtab_section_header(first_global);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    let mut head = head.0;
    let weights_follow = spec.weights.is_some();
    if weights_follow {
        head.resize(weights_at as usize, 0);
    }
    Ok(Layout { head, weights_follow })
}

type Symbols<'a> = Vec<(&'a str, Definition)>;

/// The sections, what is defined where, and the references of the unwind entries as (offset, function's offset).
fn contents<'a>(spec: &'a ObjectSpec<'_>, arch: Arch) -> (Vec<Section<'a>>, Symbols<'a>, Vec<(u64, u64)>) {
    let (alloc, exec, write) = (u64::from(elf::SHF_ALLOC), u64::from(elf::SHF_EXECINSTR), u64::from(elf::SHF_WRITE));
    let mut sections = vec![
        Section::new(".rela.text", alloc | exec),
        Section::new(".rela.rodata", alloc),
        Section::new(".rela.data.rel.ro", alloc | write),
        Section::new(".rela.data", alloc | write),
        Section::new(".rela.eh_frame", alloc),
        Section::new(".rela.note.GNU-stack", 0),
    ];
    let mut symbols = Vec::new();
    let mut starts = Vec::new();
    for function in &spec.functions {
        // Between functions lies what stops a processor that runs past an end.
        let filler = if arch == Arch::X86 { 0xcc } else { 0 };
        let place = Place { section: TEXT, align: function.align.max(16), filler, kind: elf::STT_FUNC };
        let definition = append(&mut sections, place, &function.code, &function.relocations, function.global);
        starts.push(definition.offset);
        symbols.push((function.name.as_str(), definition));
    }
    for object in &spec.data {
        let section = match (object.writable, object.relocations.is_empty()) {
            (true, _) => DATA,
            (false, true) => RODATA,
            (false, false) => RELRO,
        };
        let place = Place { section, align: object.align, filler: 0, kind: elf::STT_OBJECT };
        let definition = append(&mut sections, place, &object.bytes, &object.relocations, object.global);
        symbols.push((object.name.as_str(), definition));
    }
    if let Some(weights) = &spec.weights {
        let kind = elf::STT_OBJECT;
        let definition = Definition { section: WEIGHTS, offset: 0, size: weights.len, kind, global: false };
        symbols.push((weights.symbol.as_str(), definition));
    }
    let mut frames = Vec::new();
    if let Some(FrameSection { bytes, references }) = eh_frame::build(arch, &spec.functions) {
        sections[EH_FRAME].bytes = bytes;
        sections[EH_FRAME].align = 8;
        frames = references.into_iter().map(|(offset, function)| (offset, starts[function])).collect();
    }
    (sections, symbols, frames)
}

struct Place {
    section: usize,
    align: u32,
    filler: u8,
    kind: u8,
}

fn append<'a>(
    sections: &mut [Section<'a>],
    place: Place,
    bytes: &[u8],
    relocations: &'a [Relocation],
    global: bool,
) -> Definition {
    let section = &mut sections[place.section];
    section.align = section.align.max(u64::from(place.align));
    section.bytes.resize(section.bytes.len().next_multiple_of(place.align as usize), place.filler);
    let offset = section.bytes.len() as u64;
    section.bytes.extend_from_slice(bytes);
    section.relocations.extend(relocations.iter().map(|reloc| (offset + reloc.offset, reloc)));
    Definition { section: place.section, offset, size: bytes.len() as u64, kind: place.kind, global }
}

/// The head of the file. It grows as it is written: what the writer reserves includes no weights.
struct Head(Vec<u8>);

impl WritableBuffer for Head {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn reserve(&mut self, size: usize) -> Result<(), ()> {
        self.0.reserve(size);
        Ok(())
    }

    fn resize(&mut self, new_len: usize) {
        self.0.resize(new_len, 0);
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}
