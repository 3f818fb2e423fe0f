//! Device memory: allocations at addresses of their own, each with a shadow.
//!
//! Addresses are no addresses of this process, so a host program that follows one crashes, as it would with a device.
//! They are never given twice and gaps lie between allocations, so an access after the end, or after `free`, is found.

use crate::races::{Cell, Clock, Conflict, Moment, Touch};

/// First address.
const BASE: u64 = 0x2_0000_0000_0000;
const GAP: u64 = 4096;
/// Bytes of a page of shadow.
const PAGE: usize = 1024;

/// What is wrong with an access.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Outside of all allocations, with what is near.
    Outside(String),
    /// Not a multiple of its size.
    Misaligned,
    /// With whom.
    Race(String),
}

impl From<Conflict> for Fault {
    fn from(c: Conflict) -> Fault {
        if c.unfenced {
            return Fault::Race(format!(
                "thread {} of block {} wrote it with no fence.proxy.async since",
                c.thread, c.block
            ));
        }
        let what = if c.wrote { "wrote" } else { "read" };
        Fault::Race(format!("thread {} of block {} {what} it with no barrier since", c.thread, c.block))
    }
}

enum Page {
    Empty,
    /// A cell for four bytes, as long as no access is narrower.
    Words(Box<[Cell; PAGE / 4]>),
    Bytes(Box<[Cell; PAGE]>),
}

/// A piece of memory with its shadow.
pub struct Piece {
    pub bytes: Vec<u8>,
    shadow: Vec<Page>,
}

impl Piece {
    /// A piece whose bytes are all 0xFF.
    pub fn new(bytes: usize) -> Piece {
        let shadow = (0..bytes.div_ceil(PAGE)).map(|_| Page::Empty).collect();
        Piece { bytes: vec![0xFF; bytes], shadow }
    }

    /// Forgets who touched it.
    pub fn forget(&mut self) {
        self.shadow.iter_mut().for_each(|page| *page = Page::Empty);
    }

    /// Notes an access to `size` bytes at `at`, which lie inside; `at` is a multiple of `size`, a power of two up to 16.
    pub fn touch(
        &mut self,
        at: usize,
        size: usize,
        clock: &mut Clock,
        now: &Moment,
        lane: u32,
        touch: Touch,
    ) -> Option<Conflict> {
        let page = &mut self.shadow[at / PAGE];
        let at = at % PAGE;
        match page {
            Page::Empty if size >= 4 => *page = Page::Words(Box::new([Cell::default(); PAGE / 4])),
            Page::Empty => *page = Page::Bytes(Box::new([Cell::default(); PAGE])),
            Page::Words(words) if size < 4 => {
                let mut bytes = Box::new([Cell::default(); PAGE]);
                for (i, cell) in bytes.iter_mut().enumerate() {
                    *cell = words[i / 4];
                }
                *page = Page::Bytes(bytes);
            }
            Page::Words(_) | Page::Bytes(_) => {}
        }
        let cells = match page {
            Page::Words(words) => &mut words[at / 4..(at + size) / 4],
            Page::Bytes(bytes) => &mut bytes[at..at + size],
            Page::Empty => unreachable!("made above"),
        };
        cells.iter_mut().find_map(|cell| clock.touch(cell, now, lane, touch))
    }

    /// Notes that a copy of the other proxy wrote 16 bytes at `at`, in a segment of its own.
    pub fn arrived(&mut self, at: usize, clock: &Clock, segment: u32) {
        match &mut self.shadow[at / PAGE] {
            Page::Empty => {}
            Page::Words(words) => {
                words[at % PAGE / 4..at % PAGE / 4 + 4].iter_mut().for_each(|cell| clock.wrote(cell, segment));
            }
            Page::Bytes(bytes) => {
                bytes[at % PAGE..at % PAGE + 16].iter_mut().for_each(|cell| clock.wrote(cell, segment));
            }
        }
    }
}

struct Allocation {
    base: u64,
    piece: Piece,
}

/// The memory of a device.
#[derive(Default)]
pub struct Memory {
    allocations: Vec<Allocation>,
    end: u64,
}

impl Memory {
    /// Allocates `bytes`, aligned to 512 bytes.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let base = self.end.max(BASE);
        self.end = (base + bytes + GAP).next_multiple_of(512);
        self.allocations.push(Allocation { base, piece: Piece::new(bytes as usize) });
        base
    }

    /// Frees an allocation by its address; false if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        let found = self.allocations.iter().position(|a| a.base == address);
        found.map(|i| self.allocations.remove(i)).is_some()
    }

    /// Bytes that are allocated.
    pub fn in_use(&self) -> u64 {
        self.allocations.iter().map(|a| a.piece.bytes.len() as u64).sum()
    }

    /// The allocation and offset of `size` bytes; `hint` is tried first and set.
    pub fn find(&mut self, address: u64, size: u64, hint: &mut u32) -> Result<(&mut Piece, usize), Fault> {
        let holds = |a: &Allocation| address >= a.base && address - a.base + size <= a.piece.bytes.len() as u64;
        if !self.allocations.get(*hint as usize).is_some_and(holds) {
            let after = self.allocations.partition_point(|a| a.base <= address);
            match after.checked_sub(1) {
                Some(i) if holds(&self.allocations[i]) => *hint = i as u32,
                near => return Err(Fault::Outside(self.near(address, near))),
            }
        }
        let a = &mut self.allocations[*hint as usize];
        Ok((&mut a.piece, (address - a.base) as usize))
    }

    fn near(&self, address: u64, before: Option<usize>) -> String {
        match before {
            Some(i) => {
                let a = &self.allocations[i];
                format!("{} bytes into an allocation of {}", address - a.base, a.piece.bytes.len())
            }
            None => "in no allocation".to_string(),
        }
    }

    /// The bytes of a range, for copies by the host.
    pub fn range(&mut self, address: u64, bytes: u64) -> Result<&mut [u8], Fault> {
        let (piece, at) = self.find(address, bytes, &mut 0)?;
        Ok(&mut piece.bytes[at..at + bytes as usize])
    }

    /// Forgets all accesses, when the clock's numbers are used up.
    pub fn forget(&mut self) {
        self.allocations.iter_mut().for_each(|a| a.piece.forget());
    }
}
