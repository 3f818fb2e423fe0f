//! Runs one model with one library on one machine and prints what it took as a line of JSON.
//!
//!     peers onnxc|tract|rten MODEL [--threads N] [--seconds S] INPUT.npy...
//!
//! `onnxc` takes a shared library that onnxc made; its descriptor has the file's name without `lib` and `.so`. A process
//! measures once and ends, so that no library's threads are around while another one is measured.

mod compiled;
mod npy;
mod rten_peer;
mod tract_peer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use npy::Array;

/// What any of the libraries may fail with.
pub type Error = Box<dyn std::error::Error>;

/// A model that a library has loaded, with its inputs.
pub trait Peer {
    /// Runs it once.
    fn run(&mut self) -> Result<(), Error>;
}

const WARM_UP_RUNS: usize = 2;
const MIN_RUNS: usize = 5;

struct Arguments {
    library: String,
    model: PathBuf,
    threads: usize,
    seconds: f64,
    inputs: Vec<PathBuf>,
}

fn arguments() -> Result<Arguments, Error> {
    let mut plain = Vec::new();
    let (mut threads, mut seconds) = (1, 1.0);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--threads" => threads = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            _ => plain.push(word),
        }
    }
    let mut plain = plain.into_iter();
    let library = plain.next().ok_or("usage: peers onnxc|tract|rten MODEL [--threads N] [--seconds S] INPUT.npy...")?;
    let model = plain.next().ok_or("a model is needed")?.into();
    Ok(Arguments { library, model, threads, seconds, inputs: plain.map(PathBuf::from).collect() })
}

/// A figure of this process in KB, such as `VmHWM`, the most memory that it ever had.
fn memory_kb(name: &str) -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or_else(|| format!("no {name} in the status"))?;
    Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
}

fn measure() -> Result<serde_json::Value, Error> {
    let arguments = arguments()?;
    let inputs = arguments.inputs.iter().map(|path| Array::read(path)).collect::<Result<Vec<_>, _>>()?;
    let before_kb = memory_kb("VmRSS")?;
    let begin = Instant::now();
    let mut peer: Box<dyn Peer> = match arguments.library.as_str() {
        "onnxc" => Box::new(compiled::load(&arguments.model, inputs, arguments.threads)?),
        "tract" => Box::new(tract_peer::load(&arguments.model, inputs, arguments.threads)?),
        "rten" => Box::new(rten_peer::load(&arguments.model, inputs, arguments.threads)?),
        other => return Err(format!("there is no library `{other}` here").into()),
    };
    peer.run()?;
    let first = begin.elapsed();
    for _ in 0..WARM_UP_RUNS {
        peer.run()?;
    }
    let budget = Duration::try_from_secs_f64(arguments.seconds)?;
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < MIN_RUNS || begin.elapsed() < budget {
        let start = Instant::now();
        peer.run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(serde_json::json!({
        "median_ms": times[times.len() / 2],
        "min_ms": times[0],
        "runs": times.len(),
        "first_ms": first.as_secs_f64() * 1e3,
        "memory_kb": memory_kb("VmHWM")?.saturating_sub(before_kb),
    }))
}

fn main() -> std::process::ExitCode {
    match measure() {
        Ok(report) => {
            println!("{report}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peers: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
