//! Damaged models: whatever is in a file, the compiler ends with an error or a result, soon and in little memory.
//!
//! The models of the ONNX suite are changed at random: bytes, or fields of the protobuf messages, which get further. A child
//! process takes one after the other, so that what kills it (no memory, no stack) names the model. The seed is fixed;
//! `ONNXC_MUTANTS=N` runs N models from another one, `ONNXC_MUTANTS=SEED:N` the single model that a failure names.

mod mutants {
    pub mod wire;
}

use std::io::{BufRead, BufReader, Write};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use mutants::wire::{self, Random};
use onnxc::driver::{self, CompileOptions};

const CASES: usize = 3000;
/// Larger models are left out: they take time and have nothing that small ones lack.
const MOST_BYTES: u64 = 32 << 10;
/// How long a model may take: a hundred times what the slowest takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Kilobytes of addresses that the child may have, where the system can hold it to that.
const ADDRESSES: &str = "4000000";
/// Tells the test below that it is the child: the seed and the first case.
const CHILD: &str = "ONNXC_MUTANTS_CHILD";

fn suite() -> PathBuf {
    let suite = std::env::var_os("ONNXC_SUITE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/suite"), PathBuf::from);
    assert!(suite.join("stamp.json").is_file(), "{}: no suite there; run `cargo xtask setup`", suite.display());
    suite
}

/// The suite's small models, in the order of their paths.
fn models() -> Vec<PathBuf> {
    let (mut models, mut folders) = (Vec::new(), vec![suite()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the suite can be read") {
            let entry = entry.expect("the suite can be read");
            if entry.file_type().expect("the suite can be read").is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "model.onnx"
                && entry.metadata().is_ok_and(|data| (1..=MOST_BYTES).contains(&data.len()))
            {
                models.push(entry.path());
            }
        }
    }
    models.sort();
    models
}

/// The damaged model of this number, and which one it was.
fn mutant(models: &[PathBuf], seed: u64, number: usize) -> (Vec<u8>, &Path) {
    let mut random = Random(seed ^ (number as u64) << 20);
    let path = &models[random.below(models.len())];
    let mut bytes = std::fs::read(path).expect("the suite can be read");
    let changes = 1 + random.below(3);
    let parsed = wire::parse(&bytes);
    match parsed {
        Some(mut model) if random.below(8) > 0 => {
            let donor = std::fs::read(&models[random.below(models.len())]).expect("the suite can be read");
            let mut donor = wire::parse(&donor).unwrap_or_default();
            for _ in 0..changes {
                wire::mutate(&mut model, &mut donor, &mut random);
            }
            bytes = wire::encode(&model);
        }
        _ => {
            for _ in 0..changes {
                let at = random.below(bytes.len());
                match random.below(3) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, random.below(256) as u8),
                    _ if at < bytes.len() => bytes[at] = random.below(256) as u8,
                    _ => {}
                }
            }
        }
    }
    (bytes, path)
}

/// Compiles damaged models up to the kernels: a line with its number before each, and one for each that panics.
fn child(seed: u64, first: usize) {
    let models = models();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.onnx");
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        // The parent reads lines.
        println!("panic {at}: {}", info.payload_as_str().unwrap_or("a panic").replace('\n', " "));
    }));
    let mut stdout = std::io::stdout();
    for number in first.. {
        let (bytes, _) = mutant(&models, seed, number);
        std::fs::write(&path, bytes).expect("the folder is ours");
        if writeln!(stdout, "case {number}").and_then(|()| stdout.flush()).is_err() {
            return;
        }
        let _ = catch_unwind(|| driver::check(&path, &CompileOptions::new("mutant")));
    }
}

/// The child and its lines. Dropping it ends the child.
struct Running(Child, Receiver<String>);

impl Running {
    fn start(seed: u64, first: usize) -> Running {
        let test = std::env::current_exe().expect("a test has a program");
        let mut command = if cfg!(target_os = "linux") {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("ulimit -v {ADDRESSES}; exec \"$0\" \"$@\"")]).arg(test);
            command
        } else {
            Command::new(test)
        };
        command.args(["--exact", "damaged_models_end_with_an_error_or_a_result", "--nocapture", "--test-threads=1"]);
        command.env(CHILD, format!("{seed}:{first}")).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the test starts itself");
        let stdout = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Running(process, lines)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be in an endless loop.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn damaged_models_end_with_an_error_or_a_result() {
    let numbers = |text: String| {
        let (seed, number) = text.split_once(':')?;
        Some((seed.parse().expect("a seed"), number.parse().expect("a number")))
    };
    if let Ok(text) = std::env::var(CHILD) {
        let (seed, first) = numbers(text).expect("the parent says where to begin");
        return child(seed, first);
    }
    let (seed, cases) = match std::env::var("ONNXC_MUTANTS") {
        Err(_) => (1, 0..CASES),
        Ok(text) => match numbers(text.clone()) {
            Some((seed, number)) => (seed, number..number + 1),
            None => {
                let seed = u64::from(std::process::id());
                (seed, 0..text.parse().expect("a number of models"))
            }
        },
    };
    let mut failures = Vec::new();
    let mut next = cases.start;
    while next < cases.end {
        let running = Running::start(seed, next);
        let mut current = None;
        let end = loop {
            match running.1.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(number) = line.strip_prefix("case ").and_then(|n| n.parse::<usize>().ok()) {
                        current = Some(number);
                        if number >= cases.end {
                            break None;
                        }
                    } else if let (Some(text), Some(number)) = (line.strip_prefix("panic "), current) {
                        failures.push((number, format!("panicked: {text}")));
                    }
                }
                Err(RecvTimeoutError::Timeout) => break Some("takes too long"),
                Err(RecvTimeoutError::Disconnected) => break Some("died"),
            }
        };
        let Some(how) = end else { break };
        let number = current.expect("the child begins its first case");
        failures.push((number, how.to_owned()));
        next = number + 1;
    }
    let (models, folder) = (models(), Path::new(env!("CARGO_TARGET_TMPDIR")));
    let report = |(number, how): &(usize, String)| {
        let (bytes, model) = mutant(&models, seed, *number);
        let kept = folder.join(format!("mutant-{seed}-{number}.onnx"));
        std::fs::write(&kept, bytes).expect("cargo makes the folder");
        format!("{}: {how}\n  ONNXC_MUTANTS={seed}:{number}, of {}", kept.display(), model.display())
    };
    let lines: Vec<String> = failures.iter().map(report).collect();
    assert!(lines.is_empty(), "{} of {} models\n{}", lines.len(), cases.len(), lines.join("\n"));
}
