//! COFF and Mach-O objects, through the `object` crate's format-independent writer.
//!
//! The whole file is built in memory, weights included. These formats carry no unwind information yet, and COFF has no
//! GOT: code for it takes the weights' address from a word in a descriptor.

use std::collections::HashMap;

use object::write::{Object, Relocation, SectionId, StandardSection, Symbol, SymbolId, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope};

use super::{ObjectError, ObjectSpec, Relocation as SpecRelocation, relocation, weights};

/// The object file.
pub(super) fn write(spec: &ObjectSpec<'_>) -> Result<Vec<u8>, ObjectError> {
    let (format, format_name) = match spec.target.binary_format() {
        target_lexicon::BinaryFormat::Coff => (BinaryFormat::Coff, "COFF"),
        _ => (BinaryFormat::MachO, "Mach-O"),
    };
    let architecture = if spec.target.is_aarch64() { Architecture::Aarch64 } else { Architecture::X86_64 };
    let mut object = Object::new(format, architecture, Endianness::Little);
    let mut symbols: HashMap<&str, SymbolId> = HashMap::new();
    let mut pending: Vec<(SectionId, u64, &SpecRelocation)> = Vec::new();

    for function in &spec.functions {
        let section = object.section_id(StandardSection::Text);
        let symbol = object.add_symbol(symbol(&function.name, SymbolKind::Text, function.global));
        let offset = object.add_symbol_data(symbol, section, &function.code, u64::from(function.align.max(16)));
        symbols.insert(&function.name, symbol);
        pending.extend(function.relocations.iter().map(|reloc| (section, offset, reloc)));
    }
    for data in &spec.data {
        let standard = match (data.writable, data.relocations.is_empty()) {
            (true, _) => StandardSection::Data,
            (false, true) => StandardSection::ReadOnlyData,
            (false, false) => StandardSection::ReadOnlyDataWithRel,
        };
        let section = object.section_id(standard);
        let symbol = object.add_symbol(symbol(&data.name, SymbolKind::Data, data.global));
        let offset = object.add_symbol_data(symbol, section, &data.bytes, u64::from(data.align));
        symbols.insert(&data.name, symbol);
        pending.extend(data.relocations.iter().map(|reloc| (section, offset, reloc)));
    }
    if let Some(weights) = &spec.weights {
        let mut bytes = vec![0; weights.len as usize];
        weights.fill(&mut bytes).map_err(ObjectError::Weights)?;
        let section = object.section_id(StandardSection::ReadOnlyData);
        let symbol = object.add_symbol(symbol(&weights.symbol, SymbolKind::Data, false));
        object.add_symbol_data(symbol, section, &bytes, weights::ALIGN);
        symbols.insert(&weights.symbol, symbol);
    }
    for name in spec.undefined_symbols() {
        let undefined = Symbol { section: SymbolSection::Undefined, ..symbol(name, SymbolKind::Unknown, true) };
        symbols.insert(name, object.add_symbol(undefined));
    }
    for (section, start, reloc) in pending {
        let unsupported = || ObjectError::Unsupported {
            format: format_name,
            what: format!("relocations of kind {:?} for {}", reloc.kind, spec.target),
        };
        let flags = relocation::generic_flags(spec.target.binary_format(), reloc.kind).ok_or_else(unsupported)?;
        let symbol = symbols[reloc.symbol.as_str()];
        let relocation = Relocation { offset: start + reloc.offset, symbol, addend: reloc.addend, flags };
        object.add_relocation(section, relocation).map_err(|_| unsupported())?;
    }
    object.write().map_err(|error| ObjectError::Invalid(error.to_string()))
}

fn symbol(name: &str, kind: SymbolKind, global: bool) -> Symbol {
    Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: 0,
        kind,
        scope: if global { SymbolScope::Dynamic } else { SymbolScope::Compilation },
        weak: false,
        section: SymbolSection::Undefined,
        flags: SymbolFlags::None,
    }
}
