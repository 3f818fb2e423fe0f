//! Loads a relocatable ELF object into this process: no linker, no C compiler, no temporary file.
//!
//! An object comes as an [`ObjectImage`]: a mapped file or memory. Sections are placed into one region with the layout
//! `code and stubs | read-only data and GOT | writable data`, relocated, and then protected so that nothing is both
//! writable and executable. A large read-only section without relocations, which is what weights are, is used where it
//! lies in the image instead of being copied.
//!
//! The file is not trusted: every offset, size, index and alignment is checked, unknown relocations and section types
//! are errors, and the loader writes nowhere but into its own region. Running what was loaded is another matter: code
//! does what it does.

mod memory;
mod module;
mod relocate;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;
use thiserror::Error;

use memory::{Region, Segment};
use module::{Module, Place, Section, SymbolPlace};
pub use relocate::Machine;
use relocate::{Field, Target};

/// The least size of a section that is worth using in place.
const IN_PLACE_BYTES: u64 = 4096;

/// The largest region of copied sections: PC-relative addresses reach all of it.
const REGION_LIMIT: u64 = 1 << 30;

/// Why an object could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read or memory could not be had.
    #[error("cannot load the object: {0}")]
    Io(#[from] io::Error),
    /// The bytes are no ELF object of this machine.
    #[error("not a loadable object: {0}")]
    Malformed(String),
    /// The object is sound but uses what the loader does not know.
    #[error("the object uses {0}, which the loader does not support")]
    Unsupported(String),
    /// Nothing defines these.
    #[error("the object needs symbols that nothing defines: {}", .0.join(", "))]
    Undefined(Vec<String>),
}

fn malformed<T>(message: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError::Malformed(message.into()))
}

/// The bytes of an object file, mapped read-only.
#[derive(Debug)]
pub struct ObjectImage(Mmap);

impl ObjectImage {
    /// Maps a file. It must not be changed while the image or a model loaded from it is in use.
    pub fn open(path: &Path) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only. The contract above excludes changes underneath; should it be
        // broken, the loader still stays within bounds, as it reads each number once, and only data may tear.
        unsafe { Mmap::map(&File::open(path)?) }.map(Self)
    }

    /// Copies bytes.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut map = memmap2::MmapMut::map_anon(bytes.len().max(1))?;
        map[..bytes.len()].copy_from_slice(bytes);
        map.make_read_only().map(Self)
    }
}

impl From<Mmap> for ObjectImage {
    fn from(map: Mmap) -> Self {
        Self(map)
    }
}

/// A function or datum of this process that an object may refer to.
#[derive(Clone, Copy, Debug)]
pub struct HostSymbol<'a> {
    /// As the object spells it.
    pub name: &'a str,
    /// Where it is.
    pub address: *const u8,
}

/// An object in memory, ready to run. Dropping it unmaps its code and data.
#[derive(Debug)]
pub struct LoadedModel {
    symbols: HashMap<String, usize>,
    region: Region,
    code: std::ops::Range<usize>,
    in_place_bytes: u64,
    /// What sections used in place point into.
    _image: ObjectImage,
}

// SAFETY: after loading, nothing here changes; the memory is owned by the value and outlives every borrow of it.
unsafe impl Send for LoadedModel {}
// SAFETY: as above; `&LoadedModel` only reads.
unsafe impl Sync for LoadedModel {}

impl LoadedModel {
    /// Loads an object of this machine's architecture.
    ///
    /// `memcpy`, `memmove` and `memset` are this process's own; `host` gives whatever else the object refers to.
    pub fn load(image: ObjectImage, host: &[HostSymbol<'_>]) -> Result<Self, LoadError> {
        let machine = Machine::host().ok_or_else(|| LoadError::Unsupported("this machine's architecture".into()))?;
        let module = Module::parse(&image.0, machine)?;
        let host_addresses = resolve(&module, host)?;
        let plan = Plan::new(&module, &image.0)?;
        let mut region = Region::new(plan.segment_bytes)?;

        let addresses = plan.addresses(&module, &region, image.0.as_ptr() as usize);
        let symbol_address = |index: usize| match &module.symbols[index].place {
            SymbolPlace::Defined { section, offset } => addresses[*section].map(|base| base + *offset as usize),
            SymbolPlace::Undefined => host_addresses.get(module.symbols[index].name.as_str()).copied(),
        };
        for (section, place) in module.sections.iter().zip(&plan.places) {
            if let (Some(Placement::Region { segment, offset }), Place::File(range)) = (place, &section.place) {
                region.bytes_mut(*segment, *offset, section.size).copy_from_slice(&image.0[range.clone()]);
            }
        }
        let undefined = || LoadError::Malformed("a relocation against a symbol that is not loaded".into());
        for (&symbol, &slot) in &plan.got {
            let address = symbol_address(symbol).ok_or_else(undefined)?;
            region.bytes_mut(Segment::ReadOnly, plan.got_at + slot * 8, 8).copy_from_slice(&address.to_le_bytes());
        }
        let got_address = |symbol: usize| {
            plan.got.get(&symbol).map(|slot| region_address(&region, Segment::ReadOnly, plan.got_at + slot * 8))
        };
        let mut stub_addresses = HashMap::new();
        let mut stubs = Vec::new();
        for (&symbol, &slot) in &plan.stubs {
            let offset = plan.stubs_at + slot * relocate::STUB_BYTES;
            let at = region_address(&region, Segment::Code, offset);
            let got = got_address(symbol).ok_or_else(undefined)?;
            stubs.push((offset, relocate::stub(machine, at, got)?));
            stub_addresses.insert(symbol, at);
        }
        let mut fixes = Vec::new();
        for reloc in &module.relocations {
            let Some(Placement::Region { segment, offset }) = plan.places[reloc.section] else { continue };
            let field =
                Field { address: region_address(&region, segment, offset + reloc.offset), addend: reloc.addend };
            let symbol = stub_addresses.get(&reloc.symbol).copied().filter(|_| machine.is_call(reloc.kind));
            let target = Target {
                symbol: symbol.or_else(|| symbol_address(reloc.symbol)).ok_or_else(undefined)?,
                got: got_address(reloc.symbol),
            };
            fixes.push((segment, offset + reloc.offset, reloc.kind, field, target));
        }
        for (offset, code) in stubs {
            region.bytes_mut(Segment::Code, offset, relocate::STUB_BYTES).copy_from_slice(&code);
        }
        for (segment, offset, kind, field, target) in fixes {
            // The width was checked against the section when the module was parsed.
            let bytes = region.bytes_mut(segment, offset, machine.width(kind)?);
            machine.apply(kind, bytes, field, target)?;
        }
        region.protect()?;

        let named = module.symbols.iter().enumerate().filter(|(_, symbol)| !symbol.name.is_empty());
        let mut symbols = HashMap::new();
        for (index, symbol) in named {
            if let (SymbolPlace::Defined { .. }, Some(address)) = (&symbol.place, symbol_address(index)) {
                if symbol.global {
                    symbols.insert(symbol.name.clone(), address);
                } else {
                    symbols.entry(symbol.name.clone()).or_insert(address);
                }
            }
        }
        let code_start = region_address(&region, Segment::Code, 0);
        let code = code_start..code_start + plan.segment_bytes[Segment::Code as usize] as usize;
        Ok(Self { symbols, region, code, in_place_bytes: plan.in_place_bytes, _image: image })
    }

    /// The address of a symbol that the object defines, local or global.
    pub fn symbol(&self, name: &str) -> Option<*const u8> {
        self.symbols.get(name).map(|&address| address as *const u8)
    }

    /// Names and addresses of the object's symbols, in no particular order.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, *const u8)> {
        self.symbols.iter().map(|(name, &address)| (name.as_str(), address as *const u8))
    }

    /// Addresses of the loaded code, with the stubs that call out of it.
    pub fn code_range(&self) -> std::ops::Range<usize> {
        self.code.clone()
    }

    /// Bytes that are used where they lie in the image.
    pub fn in_place_bytes(&self) -> u64 {
        self.in_place_bytes
    }

    /// Bytes of memory that loading took besides the image.
    pub fn region_bytes(&self) -> u64 {
        self.region.len()
    }
}

fn region_address(region: &Region, segment: Segment, offset: u64) -> usize {
    region.address(segment) + offset as usize
}

unsafe extern "C" {
    fn memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void;
    fn memmove(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void;
    fn memset(to: *mut c_void, value: c_int, bytes: usize) -> *mut c_void;
}

/// Addresses of the undefined symbols that relocations use; all missing ones are reported together.
fn resolve<'m>(module: &'m Module, host: &[HostSymbol<'_>]) -> Result<HashMap<&'m str, usize>, LoadError> {
    let own = [
        HostSymbol { name: "memcpy", address: memcpy as *const u8 },
        HostSymbol { name: "memmove", address: memmove as *const u8 },
        HostSymbol { name: "memset", address: memset as *const u8 },
    ];
    let table: HashMap<&str, usize> =
        own.iter().chain(host).map(|symbol| (symbol.name, symbol.address as usize)).collect();
    let mut addresses = HashMap::new();
    let mut missing = BTreeSet::new();
    for reloc in &module.relocations {
        let symbol = &module.symbols[reloc.symbol];
        if let SymbolPlace::Undefined = symbol.place {
            match table.get(symbol.name.as_str()) {
                Some(&address) => drop(addresses.insert(symbol.name.as_str(), address)),
                None => drop(missing.insert(symbol.name.clone())),
            }
        }
    }
    if missing.is_empty() { Ok(addresses) } else { Err(LoadError::Undefined(missing.into_iter().collect())) }
}

/// Where a section goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placement {
    /// Copied.
    Region { segment: Segment, offset: u64 },
    /// Used at this offset of the image.
    InPlace { offset: usize },
}

/// The layout of the region. GOT slots and stubs are counted per symbol.
struct Plan {
    places: Vec<Option<Placement>>,
    segment_bytes: [u64; 3],
    got: HashMap<usize, u64>,
    got_at: u64,
    stubs: HashMap<usize, u64>,
    stubs_at: u64,
    in_place_bytes: u64,
}

impl Plan {
    fn new(module: &Module, image: &[u8]) -> Result<Self, LoadError> {
        let machine = module.machine;
        let mut needs_near = vec![false; module.sections.len()];
        let mut got = HashMap::new();
        let mut stubs = HashMap::new();
        for reloc in &module.relocations {
            needs_near[reloc.section] = true;
            let symbol = &module.symbols[reloc.symbol];
            let outside = matches!(symbol.place, SymbolPlace::Undefined);
            if machine.is_got(reloc.kind) || (machine.is_call(reloc.kind) && outside) {
                let slot = got.len() as u64;
                got.entry(reloc.symbol).or_insert(slot);
            } else if let (SymbolPlace::Defined { section, .. }, false) = (&symbol.place, machine.is_far(reloc.kind)) {
                needs_near[*section] = true;
            }
            if machine.is_call(reloc.kind) && outside {
                let slot = stubs.len() as u64;
                stubs.entry(reloc.symbol).or_insert(slot);
            }
        }

        let mut ends = [0; 3];
        let mut in_place_bytes = 0;
        let mut places = Vec::with_capacity(module.sections.len());
        for (section, near) in module.sections.iter().zip(&needs_near) {
            places.push(match Self::in_place(section, *near, image) {
                _ if !section.loaded => None,
                Some(offset) => {
                    in_place_bytes += section.size;
                    Some(Placement::InPlace { offset })
                }
                None => Some(Placement::Region {
                    segment: section.segment,
                    offset: reserve(&mut ends[section.segment as usize], section.size, section.align)?,
                }),
            });
        }
        let got_at = reserve(&mut ends[Segment::ReadOnly as usize], got.len() as u64 * 8, 8)?;
        let stubs_bytes = stubs.len() as u64 * relocate::STUB_BYTES;
        let stubs_at = reserve(&mut ends[Segment::Code as usize], stubs_bytes, relocate::STUB_BYTES)?;
        Ok(Self { places, segment_bytes: ends, got, got_at, stubs, stubs_at, in_place_bytes })
    }

    /// The offset in the image at which the section can be used, if it can.
    fn in_place(section: &Section, needs_near: bool, image: &[u8]) -> Option<usize> {
        let Place::File(range) = &section.place else { return None };
        let aligned = (image.as_ptr() as u64 + range.start as u64).is_multiple_of(section.align);
        let worth = section.segment == Segment::ReadOnly && section.size >= IN_PLACE_BYTES;
        (worth && aligned && !needs_near).then_some(range.start)
    }

    /// The address of each loaded section.
    fn addresses(&self, module: &Module, region: &Region, image: usize) -> Vec<Option<usize>> {
        debug_assert_eq!(self.places.len(), module.sections.len());
        let address = |place: &Option<Placement>| match place {
            None => None,
            Some(Placement::InPlace { offset }) => Some(image + offset),
            Some(Placement::Region { segment, offset }) => Some(region_address(region, *segment, *offset)),
        };
        self.places.iter().map(address).collect()
    }
}

/// Takes `bytes` from the end of a segment and returns where they begin.
fn reserve(end: &mut u64, bytes: u64, align: u64) -> Result<u64, LoadError> {
    let start = end.checked_next_multiple_of(align);
    let next = start.and_then(|start| start.checked_add(bytes)).filter(|next| *next <= REGION_LIMIT);
    let (Some(start), Some(next)) = (start, next) else {
        return malformed("its sections do not fit into a gigabyte");
    };
    *end = next;
    Ok(start)
}
