//! `onnxc test-worker`: the child of `test`. Reads one JSON request a line, runs that case, answers with one JSON line.
//!
//! A panic within a case is that case's failure; whatever kills the process is noticed by the parent.

use std::any::Any;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use onnxc::diagnostics::{Failure, FailureKind};
use onnxc::driver::{Checks, DimBinding, Executable};
use onnxc::values::{
    Expectations, PortKind, Tolerance, Value, ValueKind, compare, could_be_samples_of_one, read_kind, shape_settings,
};
use serde_json::{Value as Json, json};

use super::args::TestArgs;
use super::output::note;
use super::test::{Outcome, Status};

const DEFAULT_RTOL: f64 = 1e-3;
const DEFAULT_ATOL: f64 = 1e-7;

/// Serves requests until stdin closes.
pub fn run(args: &TestArgs) -> Result<u8, Failure> {
    // The parent reports the panic's message; the default hook would only print it a second time.
    std::panic::set_hook(Box::new(|info| {
        if let Some(at) = info.location() {
            note!("panic at {at}");
        }
    }));
    let stdin = std::io::stdin();
    let mut stdout = std::io::stdout();
    for line in stdin.lock().lines() {
        let Ok(line) = line else { break };
        let Ok(request) = serde_json::from_str::<Json>(&line) else {
            return Err(Failure::usage("test-worker is started by `onnxc test` only"));
        };
        let dir = PathBuf::from(request["dir"].as_str().unwrap_or_default());
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| run_case(&dir, args)));
        let (status, reason, detail) = result.unwrap_or_else(|payload| {
            let message = panic_message(payload.as_ref());
            (Status::Fail, format!("panicked: {}", message.lines().next().unwrap_or_default()), message)
        });
        let outcome = Outcome { status, reason, detail, millis: started.elapsed().as_secs_f64() * 1e3 };
        let answer = json!({
            "status": outcome.status.as_str(),
            "reason": outcome.reason,
            "detail": outcome.detail,
            "ms": outcome.millis,
        });
        if writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).is_err() {
            break;
        }
    }
    Ok(0)
}

pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_string()))
        .unwrap_or_else(|| "without a message".to_string())
}

pub(super) type Verdict = (Status, String, String);

/// One test directory: compile, then each data set.
fn run_case(dir: &Path, args: &TestArgs) -> Verdict {
    match check_case(dir, args) {
        Ok(()) => (Status::Pass, String::new(), String::new()),
        Err(verdict) => verdict,
    }
}

fn check_case(dir: &Path, args: &TestArgs) -> Result<(), Verdict> {
    let failed = |failure: Failure| failure_verdict(&failure);
    let case = TestCase::read(dir, args)?;
    let mut options = args.process.options("model");
    options.dims.extend(case.dims.iter().cloned());
    options.variant.clone_from(&args.variant);
    options.checks = Checks { guard: args.guard, poison: args.poison };
    let mut executable = Executable::load(&dir.join("model.onnx"), args.engine.into(), 1, &options).map_err(failed)?;
    for data_set in &case.data_sets {
        let outputs = executable.run(&case.inputs(data_set)?).map_err(failed)?;
        case.compare(data_set, &outputs, executable.output_names())?;
    }
    Ok(())
}

/// What a test directory holds beside its model.
pub(super) struct TestCase {
    expected: Expectations,
    tolerance: Tolerance,
    /// The folders `test_data_set_*`; there is one at least.
    pub(super) data_sets: Vec<PathBuf>,
    /// What its inputs say about dimensions that the model leaves open.
    pub(super) dims: Vec<DimBinding>,
}

impl TestCase {
    pub(super) fn read(dir: &Path, args: &TestArgs) -> Result<TestCase, Verdict> {
        let failed = |failure: Failure| failure_verdict(&failure);
        let expected = Expectations::of(&dir.join("model.onnx")).map_err(failed)?;
        let data_sets = data_sets(dir);
        // The first data set says how long sequences are.
        let kinds: Vec<PortKind> = expected.inputs.iter().map(|i| i.1).collect();
        let mut dims = Vec::new();
        if let Some(first) = data_sets.first().filter(|_| kinds.iter().any(|k| k.kind != ValueKind::Tensor)) {
            let values = read_all(first, "input", &kinds).map_err(failed)?;
            let named = expected.inputs.iter().zip(&values);
            named.for_each(|((name, _), value)| shape_settings(name, value, false, &mut dims));
        }
        if data_sets.is_empty() {
            return Err((Status::Fail, "no test_data_set_*".to_string(), String::new()));
        }
        Ok(TestCase { expected, tolerance: tolerance(dir, args), data_sets, dims })
    }

    pub(super) fn inputs(&self, data_set: &Path) -> Result<Vec<Value>, Verdict> {
        let kinds: Vec<PortKind> = self.expected.inputs.iter().map(|i| i.1).collect();
        read_all(data_set, "input", &kinds).map_err(|failure| failure_verdict(&failure))
    }

    /// Compares the outputs, which have these names, with the references of a data set.
    pub(super) fn compare<'n>(
        &self,
        data_set: &Path,
        outputs: &[Value],
        mut names: impl Iterator<Item = &'n str>,
    ) -> Result<(), Verdict> {
        let references =
            read_all(data_set, "output", &self.expected.outputs).map_err(|failure| failure_verdict(&failure))?;
        if references.is_empty() || references.len() > outputs.len() {
            let reason = format!("{} outputs, {} reference files", outputs.len(), references.len());
            return Err((Status::Fail, reason, String::new()));
        }
        for (i, (found, reference)) in outputs.iter().zip(&references).enumerate() {
            if let Err(mismatch) = compare(found, reference, &self.tolerance) {
                // What was drawn by chance agrees with the reference in its distribution.
                if self.expected.random.get(i) == Some(&true) && could_be_samples_of_one(found, reference) {
                    continue;
                }
                let name = names.nth(i).unwrap_or_default();
                let reason = format!("output {i} {}", mismatch.kind());
                return Err((Status::Fail, reason, format!("{name}: {mismatch}")));
            }
        }
        Ok(())
    }
}

/// What a failure of the compiler means for a case.
pub(super) fn failure_verdict(failure: &Failure) -> Verdict {
    let status = if failure.kind == FailureKind::Unsupported { Status::Unsupported } else { Status::Fail };
    let mut reasons: Vec<&str> = failure.diagnostics.iter().map(|d| d.message.as_str()).collect();
    reasons.dedup();
    let reason = reasons.join("; ").replace(['\n', '\r'], " ");
    (status, reason, failure.to_string())
}

/// The command line's tolerance, else the case's `data.json`, else the suite's.
fn tolerance(dir: &Path, args: &TestArgs) -> Tolerance {
    if let Some(bound) = args.max_rel {
        return Tolerance::MaxRelative(bound);
    }
    if let Some(bound) = args.rms_rel {
        return Tolerance::RootMeanSquare(bound);
    }
    let own: Json = std::fs::read_to_string(dir.join("data.json"))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Json::Null);
    let rtol = args.rtol.or_else(|| own["rtol"].as_f64()).unwrap_or(DEFAULT_RTOL);
    let atol = args.atol.or_else(|| own["atol"].as_f64()).unwrap_or(DEFAULT_ATOL);
    Tolerance::Elementwise { rtol, atol }
}

/// The folders `test_data_set_*`, in the order of their numbers.
fn data_sets(dir: &Path) -> Vec<PathBuf> {
    (0..).map(|i| dir.join(format!("test_data_set_{i}"))).take_while(|path| path.is_dir()).collect()
}

/// The files `STEM_0`, `STEM_1`, ... of a data set, values of these kinds: `.pb`, or `.npy` where that is missing.
fn read_all(data_set: &Path, stem: &str, kinds: &[PortKind]) -> Result<Vec<Value>, Failure> {
    let mut values = Vec::new();
    for i in 0.. {
        let mut path = data_set.join(format!("{stem}_{i}.pb"));
        if !path.is_file() {
            path = data_set.join(format!("{stem}_{i}.npy"));
        }
        if !path.is_file() {
            break;
        }
        values.push(read_kind(&path, kinds.get(i).copied().unwrap_or_default())?);
    }
    Ok(values)
}
