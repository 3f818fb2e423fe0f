//! Other targets: a part of the ONNX suite and a real model, compiled for each and run under an emulator.
//!
//! It installs nothing: a target whose tools are missing is named with what it lacks. `cargo xtask setup` installs them all on
//! Debian.

use std::path::Path;

use crate::shell::{Error, Result, cargo, on_path, root, run};

/// Every so many-th passing case of the suite's operators is run: some 380 of them.
const SHARE: usize = 5;
/// Within the limit of an emulator that is 240 times slower than the machine.
const MODEL: &str = "mobilenet_v2";

/// A target and how its programs are made and run.
struct Cross {
    target: &'static str,
    runner: &'static str,
    compiler: &'static str,
    options: &'static [&'static str],
}

const TARGETS: &[Cross] = &[
    // The baseline on a processor that has nothing beyond it: an instruction too many is a SIGILL.
    Cross {
        target: "aarch64",
        runner: "qemu-aarch64-static -cpu cortex-a72",
        compiler: "aarch64-linux-gnu-gcc",
        options: &[],
    },
    Cross {
        target: "aarch64-dotprod",
        runner: "qemu-aarch64-static -cpu neoverse-n1",
        compiler: "aarch64-linux-gnu-gcc",
        options: &[],
    },
    Cross {
        target: "riscv64",
        runner: "qemu-riscv64-static -cpu rv64",
        compiler: "riscv64-linux-gnu-gcc",
        options: &[],
    },
    Cross {
        target: "riscv64-v",
        runner: "qemu-riscv64-static -cpu rv64,v=true,vlen=256",
        compiler: "riscv64-linux-gnu-gcc",
        options: &[],
    },
    Cross {
        target: "x86_64-pc-windows-gnu",
        runner: "wine",
        compiler: "x86_64-w64-mingw32-gcc",
        options: &["--multiversion"],
    },
    Cross { target: "x86_64-pc-windows-msvc", runner: "wine", compiler: "x86_64-w64-mingw32-gcc", options: &[] },
];

/// Runs what can be run here, on targets whose name contains `filter`.
pub fn cross(filter: &str) -> Result<()> {
    let cases = choose_cases()?;
    let mut failures = Vec::new();
    for cross in TARGETS.iter().filter(|cross| cross.target.contains(filter)) {
        let emulator = cross.runner.split_whitespace().next().unwrap_or_default();
        let missing: Vec<&str> = [emulator, cross.compiler].into_iter().filter(|program| !on_path(program)).collect();
        if !missing.is_empty() {
            println!("{}: left out, for {} is not there", cross.target, missing.join(" and "));
            continue;
        }
        println!("{}: {cases} cases of the ONNX suite and {MODEL}", cross.target);
        let model = format!("build/zoo/{MODEL}");
        for arguments in [&["build/cross"][..], &[model.as_str(), "--max-rel", "1e-4", "--timeout", "300"]] {
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
fn choose_cases() -> Result<usize> {
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
    let chosen: Vec<&str> = passing.step_by(SHARE).collect();
    for name in &chosen {
        let link = folder.join(name);
        std::os::unix::fs::symlink(suite.join("node").join(name), &link).map_err(failed(&link))?;
    }
    Ok(chosen.len())
}
