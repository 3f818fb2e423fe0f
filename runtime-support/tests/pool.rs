//! The pool runs each task once, keeps workers apart, and takes nested and concurrent callers.

#![allow(unused_crate_dependencies)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onnxc_runtime::{Error, Pool, Status};

#[test]
fn each_task_runs_once_and_no_worker_runs_two_at_a_time() {
    for workers in [1, 2, 3, 8] {
        let pool = Pool::new(workers).unwrap();
        assert_eq!(pool.workers(), workers);
        for tasks in [0usize, 1, 2, 7, 64, 1000] {
            let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            let busy: Vec<AtomicUsize> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
            pool.parallel_for(tasks, |task, worker| {
                assert_eq!(busy[worker].fetch_add(1, Ordering::SeqCst), 0);
                runs[task].fetch_add(1, Ordering::SeqCst);
                busy[worker].fetch_sub(1, Ordering::SeqCst);
            });
            assert!(runs.iter().all(|count| count.load(Ordering::SeqCst) == 1));
        }
    }
}

#[test]
fn the_threads_take_part() {
    let pool = Pool::new(2).unwrap();
    let arrived = AtomicUsize::new(0);
    // Each task waits for the other: on one thread this would never end, so it gives up and says so.
    pool.parallel_for(2, |_, _| {
        arrived.fetch_add(1, Ordering::SeqCst);
        let start = Instant::now();
        while arrived.load(Ordering::SeqCst) < 2 {
            assert!(start.elapsed() < Duration::from_secs(20), "the second task runs beside the first");
            std::thread::yield_now();
        }
    });
}

#[test]
fn writes_of_tasks_are_seen_after_the_call() {
    let pool = Pool::new(4).unwrap();
    let cells: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
    for round in 1..=2000 {
        // Relaxed, not an addition: what orders one round's store before the next round's load is the pool.
        pool.parallel_for(64, |task, _| {
            cells[task].store(cells[task].load(Ordering::Relaxed) + task, Ordering::Relaxed);
        });
        assert!(cells.iter().enumerate().all(|(task, sum)| sum.load(Ordering::Relaxed) == round * task));
    }
}

#[test]
fn nested_and_concurrent_callers_are_served() {
    let pool = Pool::new(3).unwrap();
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    pool.parallel_for(5, |_, _| {
                        pool.parallel_for(3, |_, worker| {
                            assert_eq!(worker, 0);
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 4 * 200 * 5 * 3);
}

#[test]
fn sizes_are_checked_and_pools_end() {
    assert_eq!(
        Pool::new(257).unwrap_err(),
        Error::Call { status: Status::Workers, place: String::new(), detail: String::new() }
    );
    assert!(Pool::new(0).unwrap().workers() >= 1);
    for _ in 0..50 {
        let pool = Pool::new(4).unwrap();
        pool.parallel_for(4, |_, _| ());
    }
}
