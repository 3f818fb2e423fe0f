//! Other targets: a part of the ONNX suite, products of 8-bit integers and a real model, compiled for each and run under an
//! emulator.
//!
//! It installs nothing: a target whose tools are missing is named with what it lacks. `cargo xtask setup` installs them all on
//! Debian.

use std::path::Path;

use crate::shell::{Error, Result, cargo, on_path, root, run};

/// Every so many-th passing case of the suite's operators is run: some 380 of them.
const SHARE: usize = 5;
/// The same for CI, which has a minute and a half for this.
const QUICK_SHARE: usize = 10;
/// Within the limit of an emulator that is 240 times slower than the machine.
const MODEL: &str = "mobilenet_v2";

/// A target and how its programs are made and run.
struct Cross {
    target: &'static str,
    runner: &'static str,
    compiler: &'static str,
    options: &'static [&'static str],
    /// Whether CI runs the model too.
    model_in_ci: bool,
}

const TARGETS: &[Cross] = &[
    // The baseline on a processor that has nothing beyond it: an instruction too many is a SIGILL.
    Cross {
        target: "aarch64",
        runner: "qemu-aarch64-static -cpu cortex-a72",
        compiler: "aarch64-linux-gnu-gcc",
        options: &[],
        model_in_ci: true,
    },
    Cross {
        target: "aarch64-dotprod",
        runner: "qemu-aarch64-static -cpu neoverse-n1",
        compiler: "aarch64-linux-gnu-gcc",
        options: &[],
        model_in_ci: false,
    },
    Cross {
        target: "aarch64-dotprod+i8mm+bf16",
        runner: "qemu-aarch64-static -cpu max",
        compiler: "aarch64-linux-gnu-gcc",
        options: &[],
        model_in_ci: false,
    },
    Cross {
        target: "riscv64",
        runner: "qemu-riscv64-static -cpu rv64",
        compiler: "riscv64-linux-gnu-gcc",
        options: &[],
        model_in_ci: true,
    },
    // The emulator takes minutes for the vectors of a model.
    Cross {
        target: "riscv64-v",
        runner: "qemu-riscv64-static -cpu rv64,v=true,vlen=256",
        compiler: "riscv64-linux-gnu-gcc",
        options: &[],
        model_in_ci: false,
    },
    Cross {
        target: "x86_64-pc-windows-gnu",
        runner: "wine",
        compiler: "x86_64-w64-mingw32-gcc",
        options: &["--multiversion"],
        model_in_ci: true,
    },
    Cross {
        target: "x86_64-pc-windows-msvc",
        runner: "wine",
        compiler: "x86_64-w64-mingw32-gcc",
        options: &[],
        model_in_ci: false,
    },
];

/// Runs what can be run here, on targets whose name contains `filter`; with `quick`, what CI has time for.
pub fn cross(filter: &str, quick: bool) -> Result<()> {
    let cases = choose_cases(if quick { QUICK_SHARE } else { SHARE })?;
    let mut failures = Vec::new();
    for cross in TARGETS.iter().filter(|cross| cross.target.contains(filter)) {
        let emulator = cross.runner.split_whitespace().next().unwrap_or_default();
        let missing: Vec<&str> = [emulator, cross.compiler].into_iter().filter(|program| !on_path(program)).collect();
        if !missing.is_empty() {
            println!("{}: left out, for {} is not there", cross.target, missing.join(" and "));
            continue;
        }
        let with_model = !quick || cross.model_in_ci;
        let too = if with_model { format!(" and {MODEL}") } else { String::new() };
        println!("{}: {cases} cases of the ONNX suite{too}", cross.target);
        let model = format!("build/zoo/{MODEL}");
        let mut runs = vec![vec!["build/cross"], vec!["build/models/integer_products"]];
        if cross.target.starts_with("aarch64") {
            // Weights of f16, which kernels for the architecture convert by an instruction.
            runs.push(vec!["build/halves/llama_2_decode", "--max-rel", "5e-3"]);
        }
        if with_model {
            runs.push(vec![&model, "--max-rel", "1e-4", "--timeout", "300"]);
        }
        for arguments in runs {
            let mut command = vec!["run", "--release", "--locked", "--quiet", "--bin", "onnxc", "--", "test"];
            command.extend(["--quiet", "--target", cross.target, "--runner", cross.runner]);
            command.extend(cross.options);
            command.extend(arguments);
            if run(cargo(), &command).is_err() {
                failures.push(cross.target);
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Error(format!("failed: {}", failures.join(", ")))) }
}

/// Links the chosen cases into `build/cross` and counts them.
fn choose_cases(share: usize) -> Result<usize> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| Error(format!("{path}: {e}"))
    };
    let suite = root().join("build/suite");
    if !suite.join("stamp.json").is_file() || !root().join("build/zoo").join(MODEL).is_dir() {
        return Err(Error("build/suite and build/zoo are made by `cargo xtask setup`".into()));
    }
    let folder = root().join("build/cross");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed(&folder))?;
    }
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let snapshot = root().join("tests/conformance/snapshot.txt");
    let snapshot = std::fs::read_to_string(&snapshot).map_err(failed(&snapshot))?;
    let passing = snapshot.lines().filter_map(|line| line.strip_suffix(" pass")?.strip_prefix("node/"));
    let chosen: Vec<&str> = passing.step_by(share).collect();
    for name in &chosen {
        let link = folder.join(name);
        std::os::unix::fs::symlink(suite.join("node").join(name), &link).map_err(failed(&link))?;
    }
    Ok(chosen.len())
}
