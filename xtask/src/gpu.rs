//! Checks and times on an NVIDIA GPU: `bench/gpu.py`, with what it needs built here or packed for another machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::setup::python;
use crate::shell::{Error, Result, cargo, root, run, run_with};

/// What a machine with a device but no checkout needs: the script, its models' recipes, and what it checks with.
const PACKED: &[&str] = &[
    "bench/gpu.py",
    "bench/gpu_device.py",
    "bench/gpu_models.py",
    "bench/gpu_onnx.py",
    "bench/gpu_times.py",
    "bench/gpu_torch.py",
    "bench/zoo",
    "python/onnxc/abi.py",
    "tests/gpu/snapshot.txt",
    "docs/GPUS.md",
    "examples/embed-rust/digits.onnx",
];
/// The suite's cases of which a pack has the ones that `gpu.py` takes when it is not told otherwise.
const SHARE: usize = 4;
/// The suite's folders that have them.
const PARTS: [&str; 4] = ["node", "pytorch-converted", "pytorch-operator", "simple"];

/// `--stand-in`: in small on the stand-in driver. `--pack DIR [MODEL...]`: a folder for another machine, with these models of
/// `build/zoo`. Else on the device of this machine, with the script's own options.
pub fn gpu(arguments: &[&str]) -> Result<()> {
    run(cargo(), &["build", "--release", "--locked", "--bin", "onnxc"])?;
    match arguments {
        ["--stand-in"] => stand_in(),
        ["--pack", folder, models @ ..] => pack(Path::new(folder), models),
        options => {
            let python = python_with_torch().map_or_else(python, Ok)?;
            script(&python, options)
        }
    }
}

fn script(python: &OsString, options: &[&str]) -> Result<()> {
    let words: Vec<&str> = ["bench/gpu.py"].iter().chain(options).copied().collect();
    run(python, &words)
}

/// The system's interpreter, where it has what the times are compared with.
fn python_with_torch() -> Option<OsString> {
    let mut probe = Command::new("python3");
    let status = probe.args(["-c", "import torch, numpy, onnx, onnxruntime"]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success()).then(|| "python3".into())
}

/// Proves that the script works, and that it sees what is wrong; prints no speed.
fn stand_in() -> Result<()> {
    let python = python()?;
    let folder = stand_in_driver()?;
    // A device of 9.0 is given code for both targets.
    run_with(&python, &["bench/gpu.py", "--stand-in", &folder], &[("ONNXC_STANDIN_CAPABILITY", "90".as_ref())])?;
    println!("the same with a driver that fails, which the script has to say:");
    let words = ["bench/gpu.py", "--stand-in", &folder, "--out", "build/gpu-failing"];
    match run_with(&python, &words, &[("ONNXC_STANDIN_FAIL", "1".as_ref())]) {
        Ok(()) => Err(Error("bench/gpu.py finds nothing wrong where the driver fails".into())),
        Err(_) => Ok(()),
    }
}

/// Builds the stand-in driver; a folder that has it as `libcuda.so.1`.
pub fn stand_in_driver() -> Result<String> {
    run(cargo(), &["build", "--release", "--locked", "-p", "onnxc-standin-cuda"])?;
    let folder = root().join("build/standin");
    let (library, link) = (target().join("release/libonnxc_standin_cuda.so"), folder.join("libcuda.so.1"));
    let failed = |e: std::io::Error| Error(format!("{}: {e}", link.display()));
    fs::create_dir_all(&folder).map_err(failed)?;
    fs::copy(&library, &link).map_err(failed)?;
    Ok(folder.to_string_lossy().into_owned())
}

/// A folder to carry to a machine with a device, where `python3 bench/gpu.py` runs in it: an x86-64 Linux whose C library is no
/// older than this one's, with numpy and a C compiler. docs/GPUS.md says what more packages add.
fn pack(folder: &Path, models: &[&str]) -> Result<()> {
    let folder = std::path::absolute(folder).map_err(|e| Error(format!("{}: {e}", folder.display())))?;
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| Error(format!("{path}: {e}"))
    };
    let put = |from: &Path, name: &str| copy_tree(from, &folder.join(name)).map_err(failed(from));
    for path in PACKED {
        put(&root().join(path), path)?;
    }
    put(&target().join("release/onnxc"), "onnxc")?;
    run("strip", &[folder.join("onnxc")])?;
    let names = root().join("tests/gpu/snapshot.txt");
    let snapshot = fs::read_to_string(&names).map_err(failed(&names))?;
    for case in snapshot.lines().step_by(SHARE) {
        let mut places = PARTS.iter().map(|part| format!("build/suite/{part}/{case}"));
        let place = places.find(|place| root().join(place).is_dir());
        let place =
            place.ok_or_else(|| Error(format!("{case} is not in build/suite, which `cargo xtask setup` makes")))?;
        put(&root().join(&place), &place)?;
    }
    for model in models {
        let place = format!("build/zoo/{model}");
        if !root().join(&place).is_dir() {
            return Err(Error(format!("{place} is not there: `cargo xtask zoo {model}` makes it")));
        }
        put(&root().join(&place), &place)?;
    }
    println!("{}: `python3 bench/gpu.py` there, on a machine with a device", folder.display());
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
        return fs::copy(from, to).map(|_| ());
    }
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_tree(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}
