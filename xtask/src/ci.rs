//! Checks and tests, in the order that fails soonest.
//!
//! Everything is built in the release profile: the suite and the models take most of the time, and one build serves all.

use std::time::Instant;

use crate::cross::cross;
use crate::examples::examples;
use crate::gpu::gpu;
use crate::setup::setup;
use crate::shell::{Result, cargo, run, run_with};

/// What programs may ask of `onnxc-runtime` instead of its default features: nothing is `no_std` without memory.
const RUNTIME_FEATURES: [&str; 3] = ["", "alloc", "rayon"];

/// Everything.
pub fn ci() -> Result<()> {
    let started = Instant::now();
    lint()?;
    setup()?;
    test()?;
    gpu(&["--stand-in"])?;
    examples()?;
    cross("", true)?;
    println!("ci: {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Formatting and clippy.
pub fn lint() -> Result<()> {
    run(cargo(), &["fmt", "--all", "--check"])?;
    // The example is a workspace of its own, whose lock file has to follow this one's.
    run(cargo(), &["fetch", "--locked", "--manifest-path", "examples/embed-rust/Cargo.toml"])?;
    run(cargo(), &["clippy", "--workspace", "--all-targets", "--release", "--locked", "--", "-D", "warnings"])?;
    // What build scripts use.
    let library = ["clippy", "-p", "onnxc", "--lib", "--no-default-features", "--release", "--locked"];
    run(cargo(), &[&library[..], &["--", "-D", "warnings"]].concat())?;
    for features in RUNTIME_FEATURES {
        let runtime = ["clippy", "-p", "onnxc-runtime", "--release", "--locked", "--no-default-features"];
        run(cargo(), &[&runtime[..], &["--features", features, "--", "-D", "warnings"]].concat())?;
    }
    Ok(())
}

/// Every test of the workspace: text, execution, ONNX suite against its snapshot, models against ONNX Runtime, cross.
pub fn test() -> Result<()> {
    run(cargo(), &["test", "--workspace", "--release", "--locked", "--no-fail-fast"])?;
    run(cargo(), &["test", "-p", "onnxc-runtime", "--all-features", "--test", "linked", "--release", "--locked"])
}

/// What `tests/targets.rs` measures of sizes.
pub fn sizes() -> Result<()> {
    let test = ["test", "--release", "--locked", "--quiet", "--test", "targets", "sizes", "--", "--nocapture"];
    run(cargo(), &test)
}

/// Writes `tests/conformance/snapshot.txt` from what the suite does now.
pub fn bless() -> Result<()> {
    setup()?;
    run_with(cargo(), &["test", "--release", "--test", "conformance"], &[("BLESS", "1".as_ref())])
}

/// Writes `docs/OPERATORS.md` from the operator table and what the compiler accepts.
pub fn operators() -> Result<()> {
    setup()?;
    run_with(cargo(), &["test", "--release", "--test", "operators"], &[("BLESS", "1".as_ref())])
}
