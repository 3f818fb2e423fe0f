//! `onnxc test`: walks trees of ONNX backend-test directories and runs each case in a child process.
//!
//! A child runs many cases, one at a time, as long as it stays healthy: a crash or a timeout costs one case and one
//! child, never the run. Cases go to the children in the order of their names and results are reported in that order,
//! so the output does not depend on timing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onnxc::diagnostics::Failure;
use serde_json::{Value, json};

use super::args::TestArgs;
use super::output::say;
use super::{progress, remote_test};

/// Cases that one child runs before a fresh one takes over, so that leaks of a run stay small.
const CASES_PER_CHILD: usize = 250;

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every output of every data set matches.
    Pass,
    /// It compiled, or should have, and something went wrong.
    Fail,
    /// The compiler says that it does not compile this model.
    Unsupported,
}

impl Status {
    /// The word in snapshots and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::Unsupported => "unsupported",
        }
    }

    fn parse(word: &str) -> Option<Status> {
        [Status::Pass, Status::Fail, Status::Unsupported].into_iter().find(|s| s.as_str() == word)
    }
}

/// The result of one case.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Why, in words that do not change from run to run or host to host; empty for a pass.
    pub reason: String,
    /// Further text for a person: values, messages.
    pub detail: String,
    /// Wall time.
    pub millis: f64,
}

impl Outcome {
    fn died(reason: String, detail: String, started: Instant) -> Self {
        Outcome { status: Status::Fail, reason, detail, millis: started.elapsed().as_secs_f64() * 1e3 }
    }
}

/// One test directory and the name it is reported under.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) dir: PathBuf,
}

/// Runs the command.
pub fn run(args: &TestArgs) -> Result<u8, Failure> {
    let cases = find_cases(args)?;
    if cases.is_empty() {
        return Err(Failure::usage("no test directory (a folder with model.onnx and test_data_set_0) found"));
    }
    let started = Instant::now();
    let outcomes = match &args.runner {
        Some(runner) => remote_test::run_all(&cases, runner, args)?,
        None => run_all(&cases, args)?,
    };
    report(&cases, &outcomes, args)?;
    let passed = outcomes.iter().filter(|o| o.status == Status::Pass).count();
    let failed = outcomes.len() - passed;
    if !args.quiet {
        say!("{:.1} s", started.elapsed().as_secs_f64())?;
    }
    say!("{passed} passed, {failed} failed")?;
    Ok(u8::from(failed > 0))
}

/// All cases beneath the given folders, sorted by name. A name is the path beneath the folder that was named, or the
/// folder's own name when it is itself a case.
fn find_cases(args: &TestArgs) -> Result<Vec<Case>, Failure> {
    let mut found = BTreeMap::new();
    for root in &args.dirs {
        let mut pending = vec![root.clone()];
        while let Some(dir) = pending.pop() {
            let entries = std::fs::read_dir(&dir).map_err(|e| Failure::io(&dir, &e))?;
            let mut folders = Vec::new();
            for entry in entries {
                let path = entry.map_err(|e| Failure::io(&dir, &e))?.path();
                if path.is_dir() {
                    folders.push(path);
                }
            }
            if dir.join("model.onnx").is_file() {
                let relative = dir.strip_prefix(root).unwrap_or(&dir);
                let name = if relative.as_os_str().is_empty() {
                    dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned())
                } else {
                    relative.to_string_lossy().replace('\\', "/")
                };
                if args.filter.as_ref().is_none_or(|text| name.contains(text)) {
                    found.insert(name.clone(), Case { name, dir });
                }
            } else {
                pending.extend(folders);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Runs every case on `jobs` children; outcomes are in the order of `cases`.
fn run_all(cases: &[Case], args: &TestArgs) -> Result<Vec<Outcome>, Failure> {
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let jobs = jobs.clamp(1, cases.len());
    let timeout = Duration::try_from_secs_f64(args.timeout).map_err(|e| Failure::usage(format!("--timeout: {e}")))?;
    let bar = progress::bar(cases.len() as u64, "testing");
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<Outcome>>> = cases.iter().map(|_| Mutex::new(None)).collect();
    let spawn_error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut worker: Option<Worker> = None;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    if worker.as_ref().is_some_and(|w| w.cases_run >= CASES_PER_CHILD) {
                        worker = None;
                    }
                    if worker.is_none() {
                        match Worker::spawn() {
                            Ok(fresh) => worker = Some(fresh),
                            Err(error) => {
                                *spawn_error.lock().expect("no thread panics with the lock") = Some(error);
                                break;
                            }
                        }
                    }
                    let child = worker.as_mut().expect("a child was just started");
                    let (outcome, healthy) = child.run_case(&case.dir, timeout);
                    if !healthy {
                        worker = None;
                    }
                    bar.set_message(case.name.clone());
                    bar.inc(1);
                    *outcomes[index].lock().expect("no thread panics with the lock") = Some(outcome);
                }
            });
        }
    });
    bar.finish_and_clear();
    if let Some(error) = spawn_error.into_inner().expect("no thread panics with the lock") {
        return Err(Failure::io(Path::new("onnxc test-worker"), &error));
    }
    Ok(outcomes
        .into_iter()
        .map(|slot| slot.into_inner().expect("no thread panics with the lock").expect("every case was taken"))
        .collect())
}

/// A child process that runs the cases named on its stdin.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    stderr_tail: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
    cases_run: usize,
}

impl Worker {
    /// Starts this program as `test-worker`, with the arguments of this run.
    fn spawn() -> std::io::Result<Worker> {
        let mut arguments = std::env::args_os().skip(1).collect::<Vec<_>>();
        let command = arguments.iter().position(|a| a == "test").expect("clap took `test` from the arguments");
        arguments[command] = "test-worker".into();
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr_tail = Arc::new(Mutex::new(Vec::new()));
        let tail = Arc::clone(&stderr_tail);
        let stderr_reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                let mut tail = tail.lock().expect("no thread panics with the lock");
                tail.extend_from_slice(&buffer[..n]);
                let excess = tail.len().saturating_sub(4096);
                tail.drain(..excess);
            }
        });
        let stderr_reader = Some(stderr_reader);
        Ok(Worker { child, stdin, lines, stderr_tail, stderr_reader, cases_run: 0 })
    }

    /// Runs one case; `false` says that this child must not be used again.
    fn run_case(&mut self, dir: &Path, timeout: Duration) -> (Outcome, bool) {
        let started = Instant::now();
        self.cases_run += 1;
        let request = json!({ "dir": dir.to_string_lossy() });
        let sent = writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush());
        let answer = match sent {
            Ok(()) => self.lines.recv_timeout(timeout),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        match answer {
            Ok(line) => match parse_outcome(&line) {
                Some(outcome) => (outcome, true),
                None => (Outcome::died("the child's answer is garbled".into(), line, started), false),
            },
            Err(RecvTimeoutError::Timeout) => {
                let detail = format!("no answer in {} s", timeout.as_secs_f64());
                (Outcome::died("timed out".into(), detail, started), false)
            }
            Err(RecvTimeoutError::Disconnected) => {
                let reason = self.child.wait().map_or_else(|e| e.to_string(), describe_exit);
                // The child's last words are there when its stderr is closed.
                let _ = self.stderr_reader.take().map(JoinHandle::join);
                let tail = self.stderr_tail.lock().expect("no thread panics with the lock");
                let tail = String::from_utf8_lossy(&tail).trim().to_string();
                let guard = tail.lines().rev().find_map(|line| line.strip_prefix("guard: "));
                (Outcome::died(guard.map_or(reason, str::to_owned), tail.clone(), started), false)
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The child may be in an endless loop; a healthy one has nothing left to say.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stable words for a child's death.
pub(super) fn describe_exit(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        if let Some(signal) = status.signal() {
            return format!("crashed: signal {signal}");
        }
    }
    format!("crashed: {status}")
}

fn parse_outcome(line: &str) -> Option<Outcome> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(Outcome {
        status: Status::parse(value["status"].as_str()?)?,
        reason: value["reason"].as_str()?.to_string(),
        detail: value["detail"].as_str()?.to_string(),
        millis: value["ms"].as_f64()?,
    })
}

/// Failures on stdout; the JSON and snapshot files where they are asked for.
fn report(cases: &[Case], outcomes: &[Outcome], args: &TestArgs) -> Result<(), Failure> {
    if !args.quiet {
        for (case, outcome) in cases.iter().zip(outcomes) {
            if outcome.status != Status::Pass {
                say!("{} {}: {}", outcome.status.as_str(), case.name, outcome.reason)?;
                for line in outcome.detail.lines() {
                    say!("    {line}")?;
                }
            }
        }
    }
    if let Some(path) = &args.snapshot {
        let mut text = String::new();
        for (case, outcome) in cases.iter().zip(outcomes) {
            let line = format!("{} {} {}", case.name, outcome.status.as_str(), outcome.reason);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        std::fs::write(path, text).map_err(|e| Failure::io(path, &e))?;
    }
    if let Some(path) = &args.json {
        let rows: Vec<Value> = cases
            .iter()
            .zip(outcomes)
            .map(|(case, o)| {
                json!({
                    "name": case.name,
                    "dir": case.dir.to_string_lossy(),
                    "status": o.status.as_str(),
                    "reason": o.reason,
                    "detail": o.detail,
                    "ms": o.millis,
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&Value::Array(rows)).expect("strings and numbers serialize");
        std::fs::write(path, text + "\n").map_err(|e| Failure::io(path, &e))?;
    }
    Ok(())
}
