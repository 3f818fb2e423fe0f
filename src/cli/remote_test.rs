//! `onnxc test --runner`: cases in batches on another machine, an emulated one as a rule.
//!
//! Each batch is compiled here, linked with the target's C compiler into one program and given to the runner; what comes
//! back is compared here, as that of cases that run here is. A crash costs the run that caused it: the program is started
//! again behind it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onnxc::diagnostics::Failure;
use onnxc::driver::{Answer, Ending, RemoteModel, RemoteProgram};
use onnxc_backend::target::Target;

use super::args::TestArgs;
use super::progress;
use super::test::{Case, Outcome, Status, describe_exit};
use super::worker::{TestCase, Verdict, failure_verdict, panic_message};

/// The name of a batch's program: Windows wants the extension.
const PROGRAM: &str = "program.exe";

const PASS: Verdict = (Status::Pass, String::new(), String::new());

/// What became of a batch, once a thread is done with it.
type BatchResult = Mutex<Option<Result<Vec<Outcome>, Failure>>>;

/// Runs every case; outcomes are in the order of `cases`.
pub fn run_all(cases: &[Case], runner: &str, args: &TestArgs) -> Result<Vec<Outcome>, Failure> {
    let target = Target::parse(&args.process.codegen.target).map_err(|e| Failure::usage(e.to_string()))?;
    let compiler = match &args.cc {
        Some(compiler) => compiler.clone(),
        None => target
            .c_compiler()
            .ok_or_else(|| Failure::usage(format!("there is no usual C compiler for {target}: name one with --cc")))?,
    };
    let limit = Duration::try_from_secs_f64(args.timeout).map_err(|e| Failure::usage(format!("--timeout: {e}")))?;
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let bar = progress::bar(cases.len() as u64, "testing");
    let batches: Vec<&[Case]> = cases.chunks(args.batch as usize).collect();
    let next = AtomicUsize::new(0);
    let results: Vec<BatchResult> = batches.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, batches.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(batch) = batches.get(index) else { break };
                    let result = run_batch(batch, &compiler, runner, limit, args);
                    bar.inc(batch.len() as u64);
                    *results[index].lock().expect("no thread panics with the lock") = Some(result);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcomes = Vec::new();
    for result in results {
        let result = result.into_inner().expect("no thread panics with the lock");
        outcomes.extend(result.expect("every batch was taken")?);
    }
    Ok(outcomes)
}

/// A case on its way.
struct Prepared {
    case: TestCase,
    model: RemoteModel,
}

fn run_batch(
    cases: &[Case],
    compiler: &str,
    runner: &str,
    limit: Duration,
    args: &TestArgs,
) -> Result<Vec<Outcome>, Failure> {
    let folder = tempfile::tempdir().map_err(|e| Failure::io(Path::new("a temporary folder"), &e))?;
    let program = RemoteProgram::new(folder.path(), compiler, runner)?;
    let mut verdicts: Vec<Option<Verdict>> = Vec::new();
    let mut millis = Vec::new();
    let mut prepared: Vec<(usize, Prepared)> = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let started = Instant::now();
        let object = folder.path().join(format!("case{index}.o"));
        let result = catch_unwind(AssertUnwindSafe(|| prepare(case, index, &object, args)));
        verdicts.push(match result {
            Ok(Ok(ready)) => {
                prepared.push((index, ready));
                None
            }
            Ok(Err(verdict)) => Some(verdict),
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                let reason = format!("panicked: {}", message.lines().next().unwrap_or_default());
                Some((Status::Fail, reason, message))
            }
        });
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    run_prepared(&program, &prepared, limit, &mut verdicts)?;
    let outcomes = verdicts.into_iter().zip(millis).map(|(verdict, millis)| {
        let (status, reason, detail) = verdict.expect("every case has a verdict by now");
        Outcome { status, reason, detail, millis }
    });
    Ok(outcomes.collect())
}

fn prepare(case: &Case, index: usize, object: &Path, args: &TestArgs) -> Result<Prepared, Verdict> {
    let test = TestCase::read(&case.dir, args)?;
    let mut options = args.process.codegen.options(&format!("case{index}"));
    options.dims.extend(test.dims.iter().cloned());
    let model = RemoteModel::compile(&case.dir.join("model.onnx"), object, &options)
        .map_err(|failure| failure_verdict(&failure))?;
    Ok(Prepared { case: test, model })
}

/// Links and runs these cases. Where the linker refuses, each half is tried alone, down to the case that is to blame.
fn run_prepared(
    program: &RemoteProgram,
    prepared: &[(usize, Prepared)],
    limit: Duration,
    verdicts: &mut [Option<Verdict>],
) -> Result<(), Failure> {
    if prepared.is_empty() {
        return Ok(());
    }
    let models: Vec<&RemoteModel> = prepared.iter().map(|(_, p)| &p.model).collect();
    if let Err(message) = program.link(PROGRAM, &models)? {
        if let [(index, _)] = prepared {
            verdicts[*index] = Some((Status::Fail, "does not link".to_owned(), message));
            return Ok(());
        }
        let (low, high) = prepared.split_at(prepared.len() / 2);
        run_prepared(program, low, limit, verdicts)?;
        return run_prepared(program, high, limit, verdicts);
    }
    let mut inputs = Vec::new();
    // The case and the data set of each run.
    let mut runs = Vec::new();
    for (number, (index, ready)) in prepared.iter().enumerate() {
        for data_set in &ready.case.data_sets {
            let encoded = ready.case.inputs(data_set).and_then(|values| {
                ready
                    .model
                    .encode(runs.len() as u32, number as u32, &values, &mut inputs)
                    .map_err(|failure| failure_verdict(&failure))
            });
            match encoded {
                Ok(()) => runs.push((*index, ready, data_set)),
                Err(verdict) => verdicts[*index] = Some(verdict),
            }
        }
    }
    let mut first = 0;
    while first < runs.len() {
        let (answers, ending) = program.run(PROGRAM, &inputs, first as u32, limit)?;
        for answer in &answers {
            let Some((index, ready, data_set)) = runs.get(answer.run as usize) else { continue };
            let verdict = judge(ready, data_set, answer);
            if verdicts[*index].is_none() && verdict.0 != Status::Pass {
                verdicts[*index] = Some(verdict);
            }
        }
        first = answers.last().map_or(first, |answer| answer.run as usize + 1);
        let died = match ending {
            Ending::Exit(_) if first == runs.len() => break,
            Ending::Exit(status) => describe_exit(status),
            Ending::TimedOut => "timed out".to_owned(),
        };
        let Some((index, ..)) = runs.get(first) else { break };
        verdicts[*index].get_or_insert((Status::Fail, died, String::new()));
        first += 1;
    }
    for (index, _) in prepared {
        verdicts[*index].get_or_insert(PASS);
    }
    Ok(())
}

fn judge(ready: &Prepared, data_set: &Path, answer: &Answer) -> Verdict {
    let outputs = match ready.model.decode(answer) {
        Ok(outputs) => outputs,
        Err(failure) => return failure_verdict(&failure),
    };
    ready.case.compare(data_set, &outputs, ready.model.output_names()).err().unwrap_or(PASS)
}
