//! The support library's thread pool.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use crate::abi;
use crate::error::Error;
use crate::status::Status;

/// Threads that sleep between jobs. Sessions may share one: while one of them uses it, others run on their own thread.
#[derive(Debug)]
pub struct Pool {
    raw: NonNull<abi::onnxc_pool>,
}

// SAFETY: the library allows any thread to call parallel_for, at the same time too.
unsafe impl Send for Pool {}
// SAFETY: as for Send.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `workers`, the calling thread included; 0 asks for one per processor that the process may use.
    pub fn new(workers: usize) -> Result<Self, Error> {
        let workers = c_int::try_from(workers).map_err(|_| Error::status(Status::Workers.code()))?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a place for the answer.
        let status = unsafe { abi::onnxc_pool_create(workers, &mut raw) };
        match NonNull::new(raw) {
            Some(raw) if status == 0 => Ok(Self { raw }),
            _ => Err(Error::status(status)),
        }
    }

    /// How many workers there are, the calling thread included.
    pub fn workers(&self) -> usize {
        // SAFETY: the pool lives.
        unsafe { abi::onnxc_pool_workers(self.raw.as_ptr()) as usize }
    }

    /// Runs `run(task, worker)` for each task below `tasks` and returns when all are done. Calls that overlap in time
    /// have different workers. A panic in `run` aborts the process.
    pub fn parallel_for<F: Fn(usize, usize) + Sync>(&self, tasks: usize, run: F) {
        unsafe extern "C" fn call<F: Fn(usize, usize) + Sync>(arg: *mut c_void, task: i64, worker: c_int) {
            // SAFETY: arg is the closure below, which outlives the job and may be called by many threads.
            let run = unsafe { &*arg.cast::<F>() };
            run(task as usize, worker as usize);
        }
        let tasks = i64::try_from(tasks).expect("a number of tasks fits i64");
        // SAFETY: `call` takes `run` for what it is; the call returns after the last task.
        unsafe {
            abi::onnxc_pool_parallel_for(
                self.raw.as_ptr().cast(),
                call::<F>,
                (&raw const run).cast_mut().cast::<c_void>(),
                tasks,
            );
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut abi::onnxc_pool {
        self.raw.as_ptr()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the last user of the pool is gone.
        unsafe { abi::onnxc_pool_destroy(self.raw.as_ptr()) }
    }
}
