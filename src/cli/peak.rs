//! `onnxc peak`: what this machine can do at best, for comparison.

use onnxc::diagnostics::Failure;
use onnxc::peak;
use serde_json::json;

use super::args::PeakArgs;
use super::output::say;

/// Runs the command.
pub fn run(args: &PeakArgs) -> Result<u8, Failure> {
    let threads = args.threads.max(1);
    let gflops = peak::arithmetic(threads)
        .ok_or_else(|| Failure::usage("the instructions of this processor are not known to `onnxc peak`"))?;
    let gbytes = (!args.arithmetic_only).then(|| peak::reading(threads));
    if args.json {
        say!("{}", json!({ "threads": threads, "gflops": gflops, "gbytes": gbytes }))?;
    } else {
        say!("{gflops:.1} GFLOP/s (f32, multiply-add counts two)")?;
        if let Some(gbytes) = gbytes {
            say!("{gbytes:.1} GB/s (reading)")?;
        }
    }
    Ok(0)
}
