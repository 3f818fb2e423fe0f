//! An idle pool sleeps. Alone in its process, because it measures the processor time of the whole process.

#![cfg(target_os = "linux")]
#![allow(unused_crate_dependencies)]

use std::time::Duration;

use onnxc_runtime::Pool;

/// The process's user and system time so far, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15, counted from the third, which follows the name's closing parenthesis.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn idle_threads_use_no_processor_time() {
    let pool = Pool::new(4).unwrap();
    pool.parallel_for(64, |_, _| ());
    std::thread::sleep(Duration::from_millis(50));
    let start = ticks();
    std::thread::sleep(Duration::from_millis(500));
    let used = ticks() - start;
    assert!(used <= 3, "{used} ticks of processor time in half a second of idleness");
}
