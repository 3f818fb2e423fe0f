//! Memory that shows what code does beside its tensors: pages without access around each, contents that nobody may rely
//! on, and the death of code that touches such a page put into words.
//!
//! A program that is laid out [`Apart`] has a page between any two tensors of its arena and its weights; the functions
//! here take the access to those pages away. Inputs, outputs and memory that data sizes come from [`FencedMemory`].

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use onnxc_runtime::Allocator;
use region::{Allocation, Protection};

/// The bytes of a page of this machine.
pub fn page() -> u64 {
    region::page::size() as u64
}

/// Memory of its own pages with a page without access before and behind it.
pub struct Fenced {
    pages: Allocation,
    offset: usize,
    bytes: usize,
}

// SAFETY: the pages are this value's own, and any thread may use and unmap them.
unsafe impl Send for Fenced {}

impl Fenced {
    /// Memory that ends where its last page ends, or begins where its first page begins, full of bytes `fill`. Nothing
    /// when there is no memory.
    pub fn new(bytes: usize, at_end: bool, fill: u8) -> Option<Fenced> {
        let page = region::page::size();
        let body = bytes.next_multiple_of(page);
        let mut pages = region::alloc(body + 2 * page, Protection::READ_WRITE).ok()?;
        let first = pages.as_mut_ptr::<u8>();
        // SAFETY: the allocation is readable and writable and has a page more at either end.
        unsafe { first.add(page).write_bytes(fill, body) };
        let offset = page + if at_end { body - bytes } else { 0 };
        let fenced = Fenced { pages, offset, bytes };
        // SAFETY: the two pages belong to the allocation, and nothing refers to them.
        unsafe {
            region::protect(first, page, Protection::NONE).ok()?;
            region::protect(first.add(page + body), page, Protection::NONE).ok()?;
        }
        Some(fenced)
    }

    /// A copy of bytes.
    pub fn copy_of(bytes: &[u8], at_end: bool) -> Option<Fenced> {
        let mut fenced = Fenced::new(bytes.len(), at_end, 0)?;
        // SAFETY: the memory has that many bytes, which nothing else refers to.
        unsafe { fenced.as_mut_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(fenced)
    }

    /// The first byte.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: the offset lies in the allocation.
        unsafe { self.pages.as_mut_ptr::<u8>().add(self.offset) }
    }

    /// The bytes, while no code that may write to them runs.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in pages that can be read, and `self` owns them.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr::<u8>().add(self.offset), self.bytes) }
    }

    /// The addresses.
    pub fn addresses(&self) -> Range<usize> {
        let first = self.pages.as_ptr::<u8>() as usize + self.offset;
        first..first + self.bytes
    }
}

/// Takes the access to the pages of `memory` away that hold no byte of `covered`.
///
/// # Errors
/// When the system refuses it, or the memory does not begin with a page.
///
/// # Safety
/// The memory is mapped, and nothing needs what is in those pages.
pub unsafe fn fence(memory: Range<usize>, covered: &[Range<usize>]) -> Result<(), region::Error> {
    let page = region::page::size();
    if !memory.start.is_multiple_of(page) {
        return Err(region::Error::InvalidParameter("memory that begins within a page"));
    }
    let mut covered: Vec<Range<usize>> = covered.iter().filter(|range| !range.is_empty()).cloned().collect();
    covered.sort_by_key(|range| range.start);
    let mut free = memory.start;
    let end = memory.end / page * page;
    for range in covered.into_iter().chain(std::iter::once(end..end)) {
        let until = range.start / page * page;
        if until > free {
            // SAFETY: whole pages of the memory, which the caller gives up.
            unsafe { region::protect(free as *const u8, until - free, Protection::NONE)? };
        }
        free = free.max(range.end.next_multiple_of(page));
    }
    Ok(())
}

/// Gives out [`Fenced`] memory.
pub struct FencedMemory {
    /// Where in its pages memory lies.
    pub at_end: bool,
    /// What it is full of.
    pub fill: u8,
    /// The first memory that is asked for is the arena: the parts of it that may be touched.
    pub arena: Option<Vec<Range<usize>>>,
    /// What is in use, by address.
    pub live: HashMap<usize, Fenced>,
}

impl Allocator for FencedMemory {
    fn allocate(&mut self, bytes: usize, _align: usize) -> *mut u8 {
        // The alignment gives way to the end of the page: kernels need that of an element only. What is smaller than the
        // largest element may be an empty tensor of any type.
        let Some(mut memory) = Fenced::new(bytes.max(8), self.at_end, self.fill) else { return std::ptr::null_mut() };
        let first = memory.as_mut_ptr();
        let all = memory.addresses();
        let parts = match self.arena.take() {
            None => vec![(all.clone(), format!("memory of {bytes} bytes that the model asked for"))],
            Some(parts) => {
                let absolute = |r: &Range<usize>| all.start + r.start..all.start + r.end;
                let covered: Vec<_> = parts.iter().map(absolute).collect();
                // SAFETY: the arena is new, and what the program keeps in it is covered.
                if all.start.is_multiple_of(region::page::size()) && unsafe { fence(all.clone(), &covered) }.is_err() {
                    return std::ptr::null_mut();
                }
                let name = |range: &Range<usize>| format!("the arena's {} bytes at {}", range.len(), range.start);
                covered.into_iter().zip(parts.iter().map(name)).collect()
            }
        };
        parts.into_iter().for_each(|(range, name)| watch(range, name));
        self.live.insert(all.start, memory);
        first
    }

    fn release(&mut self, pointer: *mut u8, _bytes: usize) {
        let memory = self.live.remove(&(pointer as usize)).expect("memory that was given out");
        let mut watched = WATCHED.lock().expect("nobody panics with the lock");
        let all = memory.addresses();
        watched.buffers.retain(|(range, _)| range.start < all.start || range.start > all.end);
    }
}

/// What the process dies of is put into words with these.
struct Watched {
    buffers: Vec<(Range<usize>, String)>,
    steps: Vec<String>,
}

static WATCHED: Mutex<Watched> = Mutex::new(Watched { buffers: Vec::new(), steps: Vec::new() });
/// The step that runs, one more than its number; 0 between runs.
static STEP: AtomicUsize = AtomicUsize::new(0);

/// Forgets all memory, and takes the names of the steps of the model that will run.
pub fn watch_steps(steps: Vec<String>) {
    #[cfg(unix)]
    signal::install();
    STEP.store(0, Ordering::Relaxed);
    *WATCHED.lock().expect("nobody panics with the lock") = Watched { buffers: Vec::new(), steps };
}

/// Remembers what lies at some addresses.
pub fn watch(range: Range<usize>, name: String) {
    WATCHED.lock().expect("nobody panics with the lock").buffers.push((range, name));
}

/// Notes which step runs.
pub fn trace(step: usize, begin: bool) {
    STEP.store(if begin { step + 1 } else { 0 }, Ordering::Relaxed);
}

#[cfg(unix)]
mod signal {
    //! The line about code that touched a page without access: on stderr, before the process dies of it.

    use std::fmt::{self, Write};
    use std::sync::Once;
    use std::sync::atomic::Ordering;

    use super::{STEP, WATCHED};

    /// Text without an allocation; what does not fit is cut off.
    struct Line {
        bytes: [u8; 1024],
        length: usize,
    }

    impl Write for Line {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let fitting = text.len().min(self.bytes.len() - self.length);
            self.bytes[self.length..self.length + fitting].copy_from_slice(&text.as_bytes()[..fitting]);
            self.length += fitting;
            Ok(())
        }
    }

    pub(super) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: a zeroed sigaction is one without mask and flags; the handler has the form that SA_SIGINFO asks for.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
                libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
                libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
            }
        });
    }

    /// Says what happened. On return the instruction faults again, and without a handler that is the end.
    extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: the system hands a valid siginfo.
        let address = unsafe { (*info).si_addr() } as usize;
        let mut line = Line { bytes: [0; 1024], length: 0 };
        // Compiled code runs without the lock, on this thread.
        let Ok(watched) = WATCHED.try_lock() else { return };
        let step = STEP.load(Ordering::Relaxed);
        let name = step.checked_sub(1).and_then(|step| watched.steps.get(step));
        let name = name.map_or("code between the steps", String::as_str);
        let distance = |start: usize, end: usize| start.saturating_sub(address).max((address + 1).saturating_sub(end));
        let nearest = watched.buffers.iter().min_by_key(|(range, _)| distance(range.start, range.end));
        let _ = match nearest {
            Some((range, what)) if address < range.start => {
                writeln!(line, "guard: {name} touches {} bytes before {what}", range.start - address)
            }
            Some((range, what)) if address >= range.end => {
                writeln!(line, "guard: {name} touches byte {} behind {what}", address - range.end)
            }
            _ => writeln!(line, "guard: {name} touches what it must not"),
        };
        // SAFETY: the bytes are initialised.
        unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lies_at_either_end_of_its_pages() {
        for (at_end, offset) in [(true, page() as usize - 5), (false, 0)] {
            let memory = Fenced::new(5, at_end, 0xA5).unwrap();
            assert_eq!(memory.bytes(), [0xA5; 5]);
            assert_eq!(memory.addresses().start % page() as usize, offset);
        }
    }

    /// The handler's words, from a child that runs this test again.
    #[cfg(unix)]
    #[test]
    fn death_at_a_fence_is_put_into_words() {
        if std::env::var_os("ONNXC_GUARD_CHILD").is_some() {
            let memory = Fenced::new(6, true, 1).unwrap();
            watch_steps(vec!["kernel gemm_a".into(), "kernel map_b".into()]);
            watch(memory.addresses(), "input 2".into());
            trace(1, true);
            // SAFETY: it is not; the fence is there to end this process.
            let byte = unsafe { std::ptr::read_volatile((memory.addresses().end + 3) as *const u8) };
            unreachable!("a page without access gave {byte}");
        }
        let name = "driver::guard::tests::death_at_a_fence_is_put_into_words";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("ONNXC_GUARD_CHILD", "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&child.stderr);
        assert!(stderr.contains("guard: kernel map_b touches byte 3 behind input 2\n"), "{stderr}");
        assert!(!child.status.success());
    }

    #[test]
    fn pages_that_hold_nothing_lose_their_access() {
        let page = page() as usize;
        let memory = region::alloc(8 * page, Protection::READ_WRITE).unwrap();
        let start = memory.as_ptr::<u8>() as usize;
        let covered = [start + 5 * page..start + 6 * page + 1, start + page - 1..start + page, start..start];
        // SAFETY: the allocation is this test's own, and nothing is in it.
        unsafe { fence(start..start + 8 * page, &covered) }.unwrap();
        let access: Vec<bool> =
            (0..8).map(|i| region::query((start + i * page) as *const u8).unwrap().is_readable()).collect();
        assert_eq!(access, [true, false, false, false, false, true, true, false]);
    }
}
