//! Running a kernel's machine code on copies of buffers.

use std::ffi::c_void;

use onnxc_ir::loops::Kernel;

#[cfg(target_arch = "x86_64")]
type Entry = unsafe extern "sysv64" fn(*const *const c_void, *const i64, i64, i64, *mut c_void, i32);
#[cfg(not(target_arch = "x86_64"))]
type Entry = unsafe extern "C" fn(*const *const c_void, *const i64, i64, i64, *mut c_void, i32);

/// The buffers after a run of the tasks `0..tasks`.
pub fn execute(code: &[u8], kernel: &Kernel, buffers: &[Vec<u8>], params: &[i64], tasks: i64) -> Vec<Vec<u8>> {
    let mut page = region::alloc(code.len(), region::Protection::READ_WRITE).unwrap();
    // SAFETY: the page has room for the code.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), page.as_mut_ptr::<u8>(), code.len()) };
    // SAFETY: the page is ours.
    unsafe { region::protect(page.as_ptr::<u8>(), code.len(), region::Protection::READ_EXECUTE).unwrap() };
    // SAFETY: the code is a kernel.
    let entry: Entry = unsafe { std::mem::transmute(page.as_ptr::<u8>()) };
    let word = |c: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| c.get(i).copied().unwrap_or(0)));
    let mut words: Vec<Vec<u64>> = buffers.iter().map(|b| b.chunks(8).map(word).collect()).collect();
    let pointers: Vec<*const c_void> = words.iter_mut().map(|b| b.as_mut_ptr() as *const c_void).collect();
    let mut scratch = vec![0u64; kernel.scratch_layout().1 as usize / 8 + 8];
    let aligned = scratch.as_mut_ptr().wrapping_byte_add(scratch.as_ptr().align_offset(64) * 8);
    // SAFETY: the interpreter, which the tests run too, reports a kernel that leaves its buffers.
    unsafe { entry(pointers.as_ptr(), params.as_ptr(), 0, tasks, aligned.cast(), 0) };
    words.iter().zip(buffers).map(|(w, b)| w.iter().flat_map(|w| w.to_le_bytes()).take(b.len()).collect()).collect()
}
