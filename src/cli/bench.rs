//! `onnxc bench`: latency, memory and code size of a model on this machine.

use std::time::{Duration, Instant};

use onnxc::diagnostics::Failure;
use onnxc::driver::{self, Engine, Executable};
use onnxc::peak;
use onnxc::values::synthetic;
use serde_json::json;

use super::args::{BenchArgs, MessageFormat};
use super::output::say;
use super::{print_diagnostic, progress, values};

/// The least number of timed runs, however long they take.
const MIN_RUNS: usize = 5;
const WARM_UP_RUNS: usize = 3;

/// Runs the command.
pub fn run(args: &BenchArgs, format: MessageFormat) -> Result<u8, Failure> {
    let budget = Duration::try_from_secs_f64(args.seconds).map_err(|e| Failure::usage(format!("--seconds: {e}")))?;
    let mut options = args.process.options(&driver::prefix_of(&args.model));
    options.variant.clone_from(&args.variant);
    options.perf_map = args.perf;
    let mut executable = Executable::load(&args.model, Engine::Native, args.threads, &options)?;
    for warning in executable.warnings() {
        print_diagnostic(warning, format);
    }
    let inputs = if args.inputs.inputs.is_empty() && args.inputs.named.is_empty() {
        executable.inputs().iter().map(synthetic).collect::<Result<Vec<_>, Failure>>()?
    } else {
        values::inputs(&args.inputs, executable.inputs())?
    };
    if args.profile {
        return profile(&mut executable, &inputs, budget, args.threads);
    }
    let milliseconds = measure(&mut executable, &inputs, budget)?;
    let stats = executable.stats();
    let median = quantile(&milliseconds, 0.5);
    let p99 = quantile(&milliseconds, 0.99);
    if args.json {
        let report = json!({
            "median_ms": median,
            "min_ms": milliseconds[0],
            "p99_ms": p99,
            "runs": milliseconds.len(),
            "compile_ms": stats.compile_seconds * 1e3,
            "code_bytes": stats.code_bytes,
            "weight_bytes": stats.weight_bytes,
            "arena_bytes": stats.arena_bytes,
        });
        say!("{report}")?;
    } else {
        say!("median {median:.3} ms, min {:.3} ms, p99 {p99:.3} ms, {} runs", milliseconds[0], milliseconds.len())?;
        say!(
            "compiled in {:.0} ms: {} bytes of code, {} of weights, {} of arena",
            stats.compile_seconds * 1e3,
            stats.code_bytes,
            stats.weight_bytes,
            stats.arena_bytes
        )?;
    }
    Ok(0)
}

/// Run times in milliseconds, ascending.
fn measure(
    executable: &mut Executable,
    inputs: &[onnxc::values::Value],
    budget: Duration,
) -> Result<Vec<f64>, Failure> {
    let mut timed = executable.timed(inputs)?;
    for _ in 0..WARM_UP_RUNS {
        timed.run()?;
    }
    let bar = progress::bar(budget.as_millis() as u64, "measuring");
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < MIN_RUNS || begin.elapsed() < budget {
        let start = Instant::now();
        timed.run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        bar.set_position(begin.elapsed().as_millis() as u64);
    }
    bar.finish_and_clear();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Prints the steps in the order of a run, each with its least time over the runs. The roof is the time that the step needs
/// at this machine's peaks of arithmetic and of reading from memory, whichever is longer; what stays in the caches is
/// faster than memory and may pass it.
fn profile(
    executable: &mut Executable,
    inputs: &[onnxc::values::Value],
    budget: Duration,
    threads: usize,
) -> Result<u8, Failure> {
    let steps = executable.steps().to_vec();
    let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
    let peak = peak::measure(threads);
    let mut timed = executable.timed(inputs)?;
    let start = Instant::now();
    timed.run()?;
    let runs = (budget.as_secs_f64() / start.elapsed().as_secs_f64().max(1e-6)) as usize;
    let times = timed.profile(runs.clamp(MIN_RUNS, 10_000), steps.len())?;
    let total: f64 = times.iter().map(Duration::as_secs_f64).sum();
    say!("{:>9} {:>6} {:>7} {:>6} {:>6}  kernel: nodes", "us", "%", "GFLOP/s", "GB/s", "% roof")?;
    let mut roofs = 0.0;
    for (step, time) in steps.iter().zip(&times) {
        let seconds = time.as_secs_f64();
        let rate = |count: Option<i64>| count.filter(|_| seconds > 0.0).map_or(0.0, |n| n as f64 / seconds / 1e9);
        let (gflops, gbytes) = (rate(step.flops), rate(step.bytes));
        let share = 100.0 * seconds / total;
        let roof = peak.map(|peak| (gflops / peak.gflops).max(gbytes / peak.gbytes));
        roofs += roof.unwrap_or(0.0).min(1.0) * seconds;
        let roof = roof.map_or_else(|| "-".to_owned(), |roof| format!("{:.0}", 100.0 * roof));
        let nodes = step.nodes.join(", ");
        say!("{:9.1} {share:6.2} {gflops:7.1} {gbytes:6.1} {roof:>6}  {}: {nodes}", seconds * 1e6, step.kernel)?;
    }
    say!("{:9.1} {:6.2}  sum of the least times", total * 1e6, 100.0)?;
    if let Some(peak) = peak {
        say!(
            "{:9.1} {:6.2}  at the peaks of {threads} thread(s): {:.1} GFLOP/s, {:.1} GB/s",
            roofs * 1e6,
            100.0 * roofs / total,
            peak.gflops,
            peak.gbytes
        )?;
    }
    Ok(0)
}

/// The nearest-rank quantile of ascending times.
fn quantile(ascending: &[f64], q: f64) -> f64 {
    let rank = (q * ascending.len() as f64).ceil() as usize;
    ascending[rank.clamp(1, ascending.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_nearest_rank() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&times, 0.5), 100.0);
        assert_eq!(quantile(&times, 0.99), 198.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }
}
