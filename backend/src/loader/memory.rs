//! The memory of a loaded object: one region of three page-aligned segments with their own protections.

use std::{fmt, io};

use region::{Allocation, Protection};

/// A part of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Readable and executable.
    Code,
    /// Readable.
    ReadOnly,
    /// Readable and writable.
    Writable,
}

/// Writable until [`Region::protect`].
pub(super) struct Region {
    memory: Allocation,
    /// Offsets and lengths of the segments, multiples of the page size.
    segments: [(u64, u64); 3],
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:?})", self.memory.as_range())
    }
}

impl Region {
    /// Zeroed memory for segments of the given lengths.
    pub fn new(lengths: [u64; 3]) -> io::Result<Self> {
        let page = region::page::size() as u64;
        let mut end = 0;
        let segments = lengths.map(|length| {
            let segment = (end, length.next_multiple_of(page));
            end += segment.1;
            segment
        });
        let memory = region::alloc(end.max(page) as usize, Protection::READ_WRITE).map_err(io::Error::other)?;
        Ok(Self { memory, segments })
    }

    /// The address of a segment's first byte.
    pub fn address(&self, segment: Segment) -> usize {
        self.memory.as_ptr::<u8>() as usize + self.segments[segment as usize].0 as usize
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// A stretch of a segment, to be written before [`Region::protect`].
    pub fn bytes_mut(&mut self, segment: Segment, offset: u64, len: u64) -> &mut [u8] {
        let (start, length) = self.segments[segment as usize];
        assert!(offset.checked_add(len).is_some_and(|end| end <= length), "a write stays in its segment");
        // SAFETY: the range lies in the allocation by the assertion, which is readable and writable and owned by
        // `self`, whose exclusive borrow the slice keeps.
        unsafe {
            let start = self.memory.as_mut_ptr::<u8>().add((start + offset) as usize);
            std::slice::from_raw_parts_mut(start, len as usize)
        }
    }

    /// Gives every segment its final protection. [`Region::bytes_mut`] must not be called afterwards.
    pub fn protect(&mut self) -> io::Result<()> {
        let protections = [Protection::READ_EXECUTE, Protection::READ, Protection::READ_WRITE];
        let code = self.address(Segment::Code);
        synchronize_code(code, self.segments[Segment::Code as usize].1 as usize);
        for ((start, length), protection) in self.segments.into_iter().zip(protections) {
            if length > 0 {
                let address = self.memory.as_ptr::<u8>().wrapping_add(start as usize);
                // SAFETY: the pages belong to this allocation, and no reference into them is alive.
                unsafe { region::protect(address, length as usize, protection) }.map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

/// Makes instruction fetches see what was written. x86 does so by itself.
#[cfg(not(target_arch = "aarch64"))]
fn synchronize_code(_address: usize, _len: usize) {}

/// Makes instruction fetches see what was written.
#[cfg(target_arch = "aarch64")]
fn synchronize_code(address: usize, len: usize) {
    use std::arch::asm;
    let ctr: usize;
    // SAFETY: reading the cache type register has no effect; user code may do it.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack)) };
    let data_line = 4usize << ((ctr >> 16) & 15);
    let code_line = 4usize << (ctr & 15);
    for line in (address & !(data_line - 1)..address + len).step_by(data_line) {
        // SAFETY: cleaning a cache line of mapped memory changes no value.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack)) };
    for line in (address & !(code_line - 1)..address + len).step_by(code_line) {
        // SAFETY: invalidating an instruction cache line of mapped memory changes no value.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}
