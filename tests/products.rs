//! Matrix products and convolutions on matrix instructions, on the stand-in driver of `tests/standin-cuda`, a test tool that
//! interprets PTX: the models of `tests/models/products.py`, which `cargo xtask setup` writes to `build/products`, at each
//! precision, against the interpreter of the Loop IR bit by bit, and against ONNX Runtime's answers. `ONNXC_PRODUCTS` names
//! another place of the models.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

// The library is built because this test depends on it.
use onnxc_standin_cuda as _;

const MODELS: [&str; 10] =
    ["weights", "f32", "f16", "bytes", "conv_f32", "few_rows_f32", "few_rows_f16", "deep_f32", "deep_f16", "conv_f16"];

fn model(name: &str) -> PathBuf {
    let models = std::env::var_os("ONNXC_PRODUCTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/products"), PathBuf::from);
    assert!(models.join(name).is_dir(), "{}: no {name} there; run `cargo xtask setup`", models.display());
    models.join(name)
}

/// A folder with the stand-in as `libcuda.so.1`.
fn driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("the test's own path");
    let library = program.with_file_name("libonnxc_standin_cuda.so");
    assert!(library.exists(), "{} is not there", library.display());
    std::os::unix::fs::symlink(&library, folder.path().join("libcuda.so.1")).expect("a link");
    folder
}

fn onnxc(arguments: &[&str], driver: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .args(arguments)
        .env("LD_LIBRARY_PATH", driver)
        .env("ONNXC_STANDIN_CAPABILITY", "80")
        .output()
        .expect("onnxc runs")
}

fn said(run: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Runs the models' cases on an engine, within these tolerances of ONNX Runtime.
fn passes(names: &[&str], precision: &str, engine: &str, tolerance: &str) {
    let driver = driver();
    let models: Vec<PathBuf> = names.iter().map(|name| model(name)).collect();
    let mut arguments = vec!["test", "--target", "nvptx64-sm_80", "--precision", precision, "--engine", engine];
    arguments.extend(["--rtol", tolerance, "--atol", tolerance, "--jobs", "1"]);
    arguments.extend(models.iter().map(|path| text(path)));
    let run = onnxc(&arguments, driver.path());
    assert!(run.status.success(), "--precision {precision} --engine {engine}:\n{}", said(&run));
}

#[test]
fn every_precision_is_near_the_exact_answer() {
    passes(&MODELS[..9], "f32", "native", "1e-3");
    // Three layers that round to 16 bits, in whatever order sums are made.
    passes(&MODELS[9..], "f32", "native", "5e-3");
    passes(&MODELS, "tf32", "native", "5e-3");
    passes(&MODELS, "f16", "native", "5e-3");
    passes(&MODELS, "bf16", "native", "4e-2");
}

/// What a precision rounds is what the Loop IR says: without an epilogue that a device may fuse the bits are the same.
#[test]
fn the_device_and_the_loop_ir_agree_bit_by_bit() {
    let driver = driver();
    for (name, precision) in [("f32", "tf32"), ("f32", "bf16"), ("f32", "f16"), ("f16", "f32"), ("bytes", "f32")] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = model(name);
        let data = path.join("test_data_set_0");
        let count = std::fs::read_dir(&data).expect("the data is there").filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("input_"))
        });
        let inputs: Vec<String> =
            (0..count.count()).map(|i| text(&data.join(format!("input_{i}.pb"))).to_owned()).collect();
        let inputs = inputs.join(",");
        let mut outputs = Vec::new();
        for engine in ["native", "loop-interp"] {
            let out = folder.path().join(engine);
            let model = path.join("model.onnx");
            let mut arguments = vec!["run", text(&model), "--inputs", &inputs, "--output-dir", text(&out)];
            arguments.extend(["--target", "nvptx64-sm_80", "--precision", precision, "--engine", engine]);
            let run = onnxc(&arguments, driver.path());
            assert!(run.status.success(), "{name} {precision} {engine}: {}", said(&run));
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(&out).expect("outputs").map(|entry| entry.expect("a file").path()).collect();
            files.sort();
            outputs.push(files.iter().map(|file| std::fs::read(file).expect("an output")).collect::<Vec<_>>());
        }
        assert!(!outputs[0].is_empty());
        assert!(outputs[0] == outputs[1], "{name} --precision {precision} differs");
    }
}

/// The models' products are on matrix instructions, but where `f32` is exact.
#[test]
fn products_become_tiles() {
    let driver = driver();
    let count = |name: &str, precision: &str| {
        let path = model(name).join("model.onnx");
        let arguments = ["--emit", "asm", "--target", "nvptx64-sm_80", "--precision", precision];
        let run = onnxc(&[&[text(&path)], &arguments[..]].concat(), driver.path());
        assert!(run.status.success(), "{}", said(&run));
        String::from_utf8_lossy(&run.stdout).split(".visible .entry").filter(|k| k.contains("mma.sync")).count()
    };
    assert_eq!(count("f32", "f32"), 0);
    assert_eq!(count("f32", "tf32"), 10);
    assert_eq!(count("f16", "f32"), 10);
    assert_eq!(count("bytes", "f32"), 2);
    assert_eq!(count("conv_f32", "bf16"), 3);
    assert_eq!(count("conv_f16", "f32"), 3);
    // Cut, of Gemm, and of a depth that only a run knows.
    assert_eq!(count("deep_f16", "f32"), 3);
    assert_eq!(count("deep_f32", "bf16"), 3);
    assert_eq!(count("deep_f32", "f32"), 0);
    assert_eq!(count("few_rows_f16", "f32"), 0);
}

#[test]
fn processors_refuse_to_round() {
    let path = model("f32").join("model.onnx");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("m.o");
    let run = onnxc(&[text(&path), "-o", text(&out), "--target", "x86_64", "--precision", "bf16"], folder.path());
    assert_eq!(run.status.code(), Some(2), "{}", said(&run));
    assert!(said(&run).contains("--precision bf16: x86_64 is no GPU"), "{}", said(&run));
}
