//! Who runs the tasks of a model, where that is not the calling thread alone.

use core::ffi::{c_int, c_void};

use crate::abi::onnxc_task_fn;

/// Something that runs tasks on several threads: a pool of threads that the program has anyway.
///
/// # Safety
/// Two calls of `run` that overlap in time have different workers, each below [`Parallel::workers`], and
/// [`Parallel::parallel_for`] returns when all calls have.
pub unsafe trait Parallel: Sync {
    /// How many tasks may run at once, the calling thread's included; 1 to 256.
    fn workers(&self) -> usize;

    /// Calls `run(task, worker)` once for each task below `tasks`, in any order.
    fn parallel_for(&self, tasks: usize, run: &(dyn Fn(usize, usize) + Sync));
}

#[cfg(feature = "sessions")]
// SAFETY: the support library's pool promises just that.
unsafe impl Parallel for crate::Pool {
    fn workers(&self) -> usize {
        crate::Pool::workers(self)
    }

    fn parallel_for(&self, tasks: usize, run: &(dyn Fn(usize, usize) + Sync)) {
        crate::Pool::parallel_for(self, tasks, run);
    }
}

#[cfg(feature = "rayon")]
// SAFETY: each worker is one closure, which runs one task after the other; the scope ends when all closures have.
unsafe impl Parallel for rayon::ThreadPool {
    fn workers(&self) -> usize {
        // The calling thread may be none of the pool's.
        (self.current_num_threads() + 1).min(crate::abi::MAX_WORKERS)
    }

    fn parallel_for(&self, tasks: usize, run: &(dyn Fn(usize, usize) + Sync)) {
        use core::sync::atomic::{AtomicUsize, Ordering};
        let next = AtomicUsize::new(0);
        let work = |worker: usize| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                run(task, worker);
            }
        };
        self.in_place_scope(|scope| {
            for worker in 1..Parallel::workers(self).min(tasks) {
                let work = &work;
                scope.spawn(move |_| work(worker));
            }
            work(0);
        });
    }
}

/// What a task needs, handed from thread to thread.
struct Task {
    function: onnxc_task_fn,
    argument: *mut c_void,
}

// SAFETY: a model's tasks may run on any thread, several at once, by the contract of `onnxc.h`.
unsafe impl Sync for Task {}

impl Task {
    /// Runs it.
    ///
    /// # Safety
    /// The number is below that of the tasks, and nobody else is the worker meanwhile.
    unsafe fn run(&self, task: usize, worker: usize) {
        // SAFETY: the caller's promise.
        unsafe { (self.function)(self.argument, task as i64, worker as c_int) }
    }
}

/// An [`abi::onnxc_parallel_for_fn`](crate::abi::onnxc_parallel_for_fn) whose user points to a `&dyn Parallel`. A panic in
/// it aborts the process.
pub(super) unsafe extern "C" fn run_tasks(
    user: *mut c_void,
    function: onnxc_task_fn,
    argument: *mut c_void,
    tasks: i64,
) {
    // SAFETY: `run` puts it there, and it lives until the model returns.
    let parallel = unsafe { *user.cast::<&dyn Parallel>() };
    let task = Task { function, argument };
    // SAFETY: `Parallel` promises what a task needs.
    parallel.parallel_for(tasks as usize, &|number, worker| unsafe { task.run(number, worker) });
}
