//! An ELF relocatable object as checked tables.
//!
//! After [`Module::parse`], every index is in range, every file range lies in the image, every relocated field lies in
//! its section, and alignments are powers of two of at most a page.

use std::collections::HashMap;
use std::ops::Range;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, Rela, SectionHeader, SectionTable, Sym};
use object::{LittleEndian, SectionIndex};

use super::memory::Segment;
use super::relocate::Machine;
use super::{LoadError, malformed};

const MAX_SECTIONS: usize = 4096;
const MAX_SYMBOLS: usize = 1 << 20;
const MAX_RELOCATIONS: usize = 1 << 24;
const MAX_ALIGN: u64 = 4096;

/// Where a section's contents come from.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A range of the image.
    File(Range<usize>),
    /// Nowhere: it is zero.
    Zero,
}

#[derive(Clone, Debug)]
pub(super) struct Section {
    /// Whether the section occupies memory; the other fields say nothing when it does not.
    pub loaded: bool,
    pub segment: Segment,
    pub place: Place,
    pub size: u64,
    pub align: u64,
}

#[derive(Clone, Debug)]
pub(super) enum SymbolPlace {
    Defined { section: usize, offset: u64 },
    Undefined,
}

#[derive(Clone, Debug)]
pub(super) struct Symbol {
    pub name: String,
    pub global: bool,
    pub place: SymbolPlace,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Relocation {
    pub section: usize,
    pub offset: u64,
    pub kind: u32,
    pub symbol: usize,
    pub addend: i64,
}

/// The parts of an object that loading needs. Relocations of sections that are not loaded are left out.
#[derive(Clone, Debug)]
pub(super) struct Module {
    pub machine: Machine,
    pub sections: Vec<Section>,
    pub symbols: Vec<Symbol>,
    pub relocations: Vec<Relocation>,
}

type Header = FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

impl From<object::read::Error> for LoadError {
    fn from(error: object::read::Error) -> Self {
        LoadError::Malformed(error.to_string())
    }
}

impl Module {
    /// Reads and checks an object of the given machine.
    pub fn parse(image: &[u8], machine: Machine) -> Result<Self, LoadError> {
        let header = Header::parse(image)?;
        if !header.is_little_endian() || header.e_type(LE) != elf::ET_REL {
            return malformed("it is no little-endian relocatable ELF file");
        }
        if header.e_machine(LE) != machine.elf_machine() {
            return malformed("it was compiled for another architecture");
        }
        let table = header.sections(LE, image)?;
        if table.len() > MAX_SECTIONS {
            return malformed("it has too many sections");
        }
        let sections =
            table.iter().map(|section| parse_section(&table, section, image)).collect::<Result<Vec<_>, _>>()?;
        let (symbols, symbol_map) = parse_symbols(&table, &sections, image)?;
        let relocations = parse_relocations(&table, &sections, &symbols, &symbol_map, image, machine)?;
        Ok(Self { machine, sections, symbols, relocations })
    }
}

fn parse_section(
    table: &SectionTable<'_, Header>,
    header: &elf::SectionHeader64<LittleEndian>,
    image: &[u8],
) -> Result<Section, LoadError> {
    let flags = header.sh_flags(LE);
    let has = |flag: u32| flags & u64::from(flag) != 0;
    let size = header.sh_size(LE);
    let not_loaded = Section { loaded: false, segment: Segment::ReadOnly, place: Place::Zero, size, align: 1 };
    let name = table.section_name(LE, header)?;
    // Unwind tables serve a debugger or an exception that passes through, neither of which looks for them here.
    if !has(elf::SHF_ALLOC) || name == b".eh_frame" {
        return Ok(not_loaded);
    }
    let unsupported =
        |what: &str| Err(LoadError::Unsupported(format!("{what} (section `{}`)", String::from_utf8_lossy(name))));
    let segment = match (has(elf::SHF_WRITE), has(elf::SHF_EXECINSTR)) {
        (true, true) => return unsupported("memory that is writable and executable"),
        (false, true) => Segment::Code,
        // Only relocating writes to it; the linkers know it by its name, too.
        (true, false) if name == b".data.rel.ro" => Segment::ReadOnly,
        (true, false) => Segment::Writable,
        (false, false) => Segment::ReadOnly,
    };
    if has(elf::SHF_TLS) || has(elf::SHF_COMPRESSED) {
        return unsupported("thread-local or compressed data");
    }
    let align = header.sh_addralign(LE).max(1);
    if !align.is_power_of_two() || align > MAX_ALIGN {
        return malformed("a section has an impossible alignment");
    }
    let place = match header.sh_type(LE) {
        elf::SHT_PROGBITS => {
            let (start, size) = (header.sh_offset(LE), size);
            let range = start.checked_add(size).filter(|end| *end <= image.len() as u64);
            let Some(end) = range else { return malformed("a section lies outside the file") };
            Place::File(start as usize..end as usize)
        }
        elf::SHT_NOBITS => Place::Zero,
        // Notes are for tools.
        elf::SHT_NOTE => return Ok(not_loaded),
        other => return unsupported(&format!("a section of type {other:#x}")),
    };
    Ok(Section { loaded: true, segment, place, size, align })
}

/// The symbols that can be referred to, and where each index of the file's table went.
type SymbolMap = HashMap<usize, usize>;

fn parse_symbols(
    table: &SectionTable<'_, Header>,
    sections: &[Section],
    image: &[u8],
) -> Result<(Vec<Symbol>, SymbolMap), LoadError> {
    let symbols = table.symbols(LE, image, elf::SHT_SYMTAB)?;
    if symbols.len() > MAX_SYMBOLS {
        return malformed("it has too many symbols");
    }
    let mut parsed = Vec::new();
    let mut map = HashMap::new();
    for (index, symbol) in symbols.enumerate() {
        let section = symbols.symbol_section(LE, symbol, index)?;
        let place = match (section, symbol.st_shndx(LE)) {
            (Some(SectionIndex(section)), _) => {
                let Some(owner) = sections.get(section) else { return malformed("a symbol's section does not exist") };
                if !owner.loaded {
                    continue;
                }
                let offset = symbol.st_value(LE);
                if offset > owner.size {
                    return malformed("a symbol lies outside its section");
                }
                SymbolPlace::Defined { section, offset }
            }
            (None, elf::SHN_UNDEF) if index.0 != 0 => SymbolPlace::Undefined,
            // The null symbol, absolute and common ones: an object of ours refers to none of them.
            (None, _) => continue,
        };
        let name = String::from_utf8_lossy(symbols.symbol_name(LE, symbol)?).into_owned();
        let global = symbol.st_bind() != elf::STB_LOCAL;
        map.insert(index.0, parsed.len());
        parsed.push(Symbol { name, global, place });
    }
    Ok((parsed, map))
}

fn parse_relocations(
    table: &SectionTable<'_, Header>,
    sections: &[Section],
    symbols: &[Symbol],
    symbol_map: &SymbolMap,
    image: &[u8],
    machine: Machine,
) -> Result<Vec<Relocation>, LoadError> {
    let mut relocations = Vec::new();
    for header in table.iter() {
        let target = header.sh_info(LE) as usize;
        let Some(owner) = sections.get(target) else { continue };
        if !matches!(header.sh_type(LE), elf::SHT_RELA | elf::SHT_REL) || !owner.loaded {
            continue;
        }
        let Some((entries, _)) = header.rela(LE, image)? else {
            return Err(LoadError::Unsupported("relocations without addends".into()));
        };
        if relocations.len() + entries.len() > MAX_RELOCATIONS {
            return malformed("it has too many relocations");
        }
        for entry in entries {
            let kind = entry.r_type(LE, false);
            let end = entry.r_offset(LE).checked_add(machine.width(kind)?);
            if end.is_none_or(|end| end > owner.size) || !matches!(owner.place, Place::File(_)) {
                return malformed("a relocation lies outside its section");
            }
            let Some(&symbol) = symbol_map.get(&(entry.r_sym(LE, false) as usize)) else {
                return malformed("a relocation refers to a symbol that has no address");
            };
            debug_assert!(symbol < symbols.len());
            let (offset, addend) = (entry.r_offset(LE), entry.r_addend(LE));
            relocations.push(Relocation { section: target, offset, kind, symbol, addend });
        }
    }
    Ok(relocations)
}
