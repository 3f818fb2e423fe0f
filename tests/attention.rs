//! Attention on matrix instructions, on the stand-in driver of `tests/standin-cuda`, a test tool that interprets PTX: the
//! models of `tests/models/attention.py`, which `cargo xtask setup` writes to `build/attention`, at each precision, against
//! ONNX Runtime's answers, and so does the Loop IR's interpreter. `ONNXC_ATTENTION` names another place of the models.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod standin;

use std::path::PathBuf;
use std::process::{Command, Output};

use standin::{built, driver};

fn model(name: &str) -> PathBuf {
    let path = built("ONNXC_ATTENTION", "attention").join(name);
    assert!(path.is_dir(), "{}: not there; run `cargo xtask setup`", path.display());
    path
}

fn onnxc(arguments: &[&str]) -> Output {
    let driver = driver();
    Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .args(arguments)
        .args(["--target", "nvptx64-sm_80"])
        .env("LD_LIBRARY_PATH", driver.path())
        .env("ONNXC_STANDIN_CAPABILITY", "80")
        .output()
        .expect("onnxc runs")
}

/// A race or an access out of bounds ends a run with the driver's report.
#[test]
fn every_precision_is_near_the_exact_answer() {
    let cases = [
        ("f32", "f32", "1e-3"),
        ("f32", "tf32", "5e-3"),
        ("f32", "f16", "5e-3"),
        ("f32", "bf16", "4e-2"),
        ("f16", "f32", "1e-2"),
    ];
    for (name, precision, tolerance) in cases {
        for engine in ["native", "loop-interp"] {
            let path = model(name);
            let mut arguments = vec!["test", path.to_str().expect("a path in UTF-8"), "--precision", precision];
            arguments.extend(["--engine", engine, "--rtol", tolerance, "--atol", tolerance]);
            let run = onnxc(&arguments);
            let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
            assert!(run.status.success() && said.contains("1 passed"), "{name} {precision} {engine}:\n{said}");
        }
    }
}

/// Operands that lie as they are needed come by copies of 16 bytes that no register sees, also where only a run knows how
/// many rows there are: all but those of the heads that fill no instruction.
#[test]
fn keys_and_values_are_copied_sixteen_bytes_at_a_time() {
    let path = model("f16").join("model.onnx");
    let run = onnxc(&[path.to_str().expect("a path in UTF-8"), "--emit", "asm"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let kernels: Vec<&str> = text.split(".visible .entry").filter(|kernel| kernel.contains("mma.sync")).collect();
    assert_eq!(kernels.len(), 4);
    let copied = |k: &&&str| k.contains("cp.async.cg.shared.global") && !k.contains("cp.async.ca");
    assert_eq!(kernels.iter().filter(copied).count(), 3);
}

/// Each is one kernel on matrix instructions, but where `f32` is exact.
#[test]
fn attention_becomes_tiles_of_queries() {
    let count = |name: &str, precision: &str| {
        let path = model(name).join("model.onnx");
        let run = onnxc(&[path.to_str().expect("a path in UTF-8"), "--emit", "loop-ir", "--precision", precision]);
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let of = |what: &str| text.lines().filter(|line| line.trim_start().starts_with(what)).count();
        (of("attend."), of("tile."))
    };
    assert_eq!(count("f32", "f32"), (0, 0));
    assert_eq!(count("f32", "bf16"), (4, 0));
    assert_eq!(count("f16", "f32"), (4, 0));
}
