//! What this machine can do at best: multiply-adds and reads from memory, as fast as a loop of nothing else does them.
//!
//! Profiles and benchmarks compare with it. The loops are assembly, so that they are the same however this program was
//! built.

use std::sync::Barrier;
use std::time::Instant;

/// The best rates of some threads together.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// `f32` operations a second in 10^9, a multiply-add counts two.
    pub gflops: f64,
    /// Bytes read from memory a second in 10^9.
    pub gbytes: f64,
}

/// Repetitions of a measurement, of which the best counts: others are disturbed.
const TRIES: usize = 7;
/// Multiply-adds of the loop in one measurement and thread, in vectors: some milliseconds.
const VECTORS: u64 = 12 << 20;
/// Bytes that each thread reads from end to end; more than the caches of one core, as far as a program may ask for.
const READ_BYTES: usize = 128 << 20;

/// Operations a second of `threads` threads in 10^9; none on processors whose instructions are not known here.
pub fn arithmetic(threads: usize) -> Option<f64> {
    let (lanes, run) = multiply_adds()?;
    let operations = (threads as u64 * VECTORS * u64::from(lanes) * 2) as f64;
    Some(operations / best_seconds(threads, |_| run(VECTORS)) / 1e9)
}

/// Bytes read a second by `threads` threads in 10^9.
pub fn reading(threads: usize) -> f64 {
    let memory: Vec<Vec<u64>> = (0..threads).map(|_| vec![1; READ_BYTES / 8]).collect();
    let seconds = best_seconds(threads, |thread| {
        std::hint::black_box(sum(&memory[thread]));
    });
    (threads * READ_BYTES) as f64 / seconds / 1e9
}

/// Both.
pub fn measure(threads: usize) -> Option<Peak> {
    Some(Peak { gflops: arithmetic(threads)?, gbytes: reading(threads) })
}

/// The least time in which as many threads all do their work once.
fn best_seconds(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let times: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let one = |thread: usize| {
            let (work, barrier) = (&work, &barrier);
            move || {
                let mut times = Vec::with_capacity(TRIES);
                for _ in 0..TRIES {
                    barrier.wait();
                    let start = Instant::now();
                    work(thread);
                    times.push(start.elapsed().as_secs_f64());
                }
                times
            }
        };
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(one(thread))).collect();
        let mut times = vec![one(0)()];
        times.extend(others.into_iter().map(|handle| handle.join().expect("measuring does not panic")));
        times
    });
    // A try takes as long as its slowest thread.
    let tries = (0..TRIES).map(|i| times.iter().map(|t| t[i]).fold(0.0, f64::max));
    tries.fold(f64::INFINITY, f64::min)
}

/// The lanes of the widest multiply-add of this processor, and a loop that does at least so many of them.
#[cfg(target_arch = "x86_64")]
fn multiply_adds() -> Option<(u32, fn(u64))> {
    macro_rules! rounds {
        ($register:literal, $count:expr) => {{
            let constants = [0.5f32, 0.25];
            // SAFETY: reads the constants and changes the registers named; the processor has the instructions, since
            // this is reached only after a test for them.
            unsafe {
                std::arch::asm!(
                    concat!("vbroadcastss ", $register, "14, dword ptr [{constants}]"),
                    concat!("vbroadcastss ", $register, "15, dword ptr [{constants} + 4]"),
                    "2:",
                    concat!("vfmadd213ps ", $register, "0, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "1, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "2, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "3, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "4, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "5, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "6, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "7, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "8, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "9, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "10, ", $register, "14, ", $register, "15"),
                    concat!("vfmadd213ps ", $register, "11, ", $register, "14, ", $register, "15"),
                    "sub {count}, 12",
                    "jg 2b",
                    "vzeroupper",
                    constants = in(reg) constants.as_ptr(),
                    count = inout(reg) $count => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm14") _, out("xmm15") _,
                    options(readonly, nostack),
                );
            }
        }};
    }
    if std::arch::is_x86_feature_detected!("avx512f") {
        Some((16, |count: u64| rounds!("zmm", count)))
    } else if std::arch::is_x86_feature_detected!("fma") {
        Some((8, |count: u64| rounds!("ymm", count)))
    } else {
        None
    }
}

/// The lanes of the widest multiply-add of this processor, and a loop that does at least so many of them.
#[cfg(target_arch = "aarch64")]
fn multiply_adds() -> Option<(u32, fn(u64))> {
    fn run(count: u64) {
        // SAFETY: changes the registers named; every AArch64 processor that Linux runs on has the instructions.
        unsafe {
            std::arch::asm!(
                "fmov v14.4s, #0.5",
                "2:",
                "fmla v0.4s, v14.4s, v14.4s",
                "fmla v1.4s, v14.4s, v14.4s",
                "fmla v2.4s, v14.4s, v14.4s",
                "fmla v3.4s, v14.4s, v14.4s",
                "fmla v4.4s, v14.4s, v14.4s",
                "fmla v5.4s, v14.4s, v14.4s",
                "fmla v6.4s, v14.4s, v14.4s",
                "fmla v7.4s, v14.4s, v14.4s",
                "fmla v8.4s, v14.4s, v14.4s",
                "fmla v9.4s, v14.4s, v14.4s",
                "fmla v10.4s, v14.4s, v14.4s",
                "fmla v11.4s, v14.4s, v14.4s",
                "fmla v12.4s, v14.4s, v14.4s",
                "fmla v13.4s, v14.4s, v14.4s",
                "fmla v15.4s, v14.4s, v14.4s",
                "fmla v16.4s, v14.4s, v14.4s",
                "subs {count}, {count}, #16",
                "b.gt 2b",
                count = inout(reg) count => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
                out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
                out("v15") _, out("v16") _,
                options(nomem, nostack),
            );
        }
    }
    Some((4, run))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn multiply_adds() -> Option<(u32, fn(u64))> {
    None
}

/// The sum of the words, in vectors where the processor has them.
fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && words.len() >= 32 {
        let result: u64;
        // SAFETY: reads whole blocks of 256 bytes of the slice; the processor has the instructions.
        unsafe {
            std::arch::asm!(
                "vpxor ymm0, ymm0, ymm0",
                "vpxor ymm1, ymm1, ymm1",
                "vpxor ymm2, ymm2, ymm2",
                "vpxor ymm3, ymm3, ymm3",
                "2:",
                "vpaddq ymm0, ymm0, ymmword ptr [{at}]",
                "vpaddq ymm1, ymm1, ymmword ptr [{at} + 32]",
                "vpaddq ymm2, ymm2, ymmword ptr [{at} + 64]",
                "vpaddq ymm3, ymm3, ymmword ptr [{at} + 96]",
                "vpaddq ymm0, ymm0, ymmword ptr [{at} + 128]",
                "vpaddq ymm1, ymm1, ymmword ptr [{at} + 160]",
                "vpaddq ymm2, ymm2, ymmword ptr [{at} + 192]",
                "vpaddq ymm3, ymm3, ymmword ptr [{at} + 224]",
                "add {at}, 256",
                "sub {blocks}, 1",
                "jnz 2b",
                "vpaddq ymm0, ymm0, ymm1",
                "vpaddq ymm2, ymm2, ymm3",
                "vpaddq ymm0, ymm0, ymm2",
                "vextracti128 xmm1, ymm0, 1",
                "vpaddq xmm0, xmm0, xmm1",
                "vpsrldq xmm1, xmm0, 8",
                "vpaddq xmm0, xmm0, xmm1",
                "vmovq {result}, xmm0",
                "vzeroupper",
                at = inout(reg) words.as_ptr() => _,
                blocks = inout(reg) words.len() / 32 => _,
                result = out(reg) result,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                options(readonly, nostack),
            );
        }
        return words[words.len() / 32 * 32..].iter().fold(result, |sum, word| sum.wrapping_add(*word));
    }
    words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_word() {
        for count in [0, 1, 31, 32, 33, 100] {
            let words: Vec<u64> = (1..=count).collect();
            assert_eq!(sum(&words), count * (count + 1) / 2, "{count} words");
        }
    }

    #[test]
    fn arithmetic_is_faster_than_a_billion_operations() {
        if let Some(gflops) = arithmetic(1) {
            assert!((1.0..10_000.0).contains(&gflops), "{gflops} GFLOP/s");
        }
    }
}
