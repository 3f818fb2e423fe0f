//! Matrix products and convolutions on matrix instructions, on the stand-in driver of `tests/standin-cuda`, a test tool that
//! interprets PTX: the models of `tests/models/products.py`, which `cargo xtask setup` writes to `build/products`, at each
//! precision, against the interpreter of the Loop IR bit by bit, and against ONNX Runtime's answers. `ONNXC_PRODUCTS` names
//! another place of the models.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod standin;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use standin::{built, driver};

const MODELS: [&str; 12] = [
    "boxes",
    "boxes_bytes",
    "weights",
    "f32",
    "f16",
    "bytes",
    "conv_f32",
    "few_rows_f32",
    "few_rows_f16",
    "deep_f32",
    "deep_f16",
    "conv_f16",
];

fn model(name: &str) -> PathBuf {
    let path = built("ONNXC_PRODUCTS", "products").join(name);
    assert!(path.is_dir(), "{}: not there; run `cargo xtask setup`", path.display());
    path
}

/// Targets, and the devices that they run on: matrix instructions of warps, and of groups of four.
const TARGETS: [(&str, &str); 2] = [("nvptx64-sm_80", "80"), ("nvptx64-sm_90a", "90")];

fn onnxc(arguments: &[&str], driver: &Path) -> Output {
    onnxc_on(arguments, driver, "80")
}

fn onnxc_on(arguments: &[&str], driver: &Path, capability: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .args(arguments)
        .env("LD_LIBRARY_PATH", driver)
        .env("ONNXC_STANDIN_CAPABILITY", capability)
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
    for (target, capability) in TARGETS {
        let mut arguments = vec!["test", "--target", target, "--precision", precision, "--engine", engine];
        arguments.extend(["--rtol", tolerance, "--atol", tolerance, "--jobs", "1"]);
        arguments.extend(models.iter().map(|path| text(path)));
        let run = onnxc_on(&arguments, driver.path(), capability);
        assert!(run.status.success(), "{target} --precision {precision} --engine {engine}:\n{}", said(&run));
    }
}

#[test]
fn every_precision_is_near_the_exact_answer() {
    passes(&MODELS[..11], "f32", "native", "1e-3");
    // Three layers that round to 16 bits, in whatever order sums are made.
    passes(&MODELS[11..], "f32", "native", "5e-3");
    passes(&MODELS, "tf32", "native", "5e-3");
    passes(&MODELS, "f16", "native", "5e-3");
    passes(&MODELS, "bf16", "native", "4e-2");
}

/// What a precision rounds is what the Loop IR says: without an epilogue that a device may fuse the bits are the same.
#[test]
fn the_device_and_the_loop_ir_agree_bit_by_bit() {
    let driver = driver();
    for (name, precision) in [
        ("f32", "tf32"),
        ("f32", "bf16"),
        ("f32", "f16"),
        ("f16", "f32"),
        ("bytes", "f32"),
        ("boxes", "f32"),
        ("boxes_bytes", "f32"),
    ] {
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
        let engines = [("loop-interp", TARGETS[0]), ("native", TARGETS[0]), ("native", TARGETS[1])];
        for (engine, (target, capability)) in engines {
            let out = folder.path().join(format!("{engine}-{capability}"));
            let model = path.join("model.onnx");
            let mut arguments = vec!["run", text(&model), "--inputs", &inputs, "--output-dir", text(&out)];
            arguments.extend(["--target", target, "--precision", precision, "--engine", engine]);
            let run = onnxc_on(&arguments, driver.path(), capability);
            assert!(run.status.success(), "{name} {target} {precision} {engine}: {}", said(&run));
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(&out).expect("outputs").map(|entry| entry.expect("a file").path()).collect();
            files.sort();
            outputs.push(files.iter().map(|file| std::fs::read(file).expect("an output")).collect::<Vec<_>>());
        }
        assert!(!outputs[0].is_empty());
        assert!(outputs[0] == outputs[1], "{name} --precision {precision} differs");
        assert!(outputs[0] == outputs[2], "{name} --precision {precision} differs on groups of warps");
    }
}

/// The models' products are on matrix instructions, but where `f32` is exact.
#[test]
fn products_become_tiles() {
    let driver = driver();
    let count_on = |name: &str, precision: &str, target: &str, instruction: &str| {
        let path = model(name).join("model.onnx");
        let arguments = ["--emit", "asm", "--target", target, "--precision", precision];
        let run = onnxc(&[&[text(&path)], &arguments[..]].concat(), driver.path());
        assert!(run.status.success(), "{}", said(&run));
        String::from_utf8_lossy(&run.stdout).split(".visible .entry").filter(|k| k.contains(instruction)).count()
    };
    let count = |name: &str, precision: &str| count_on(name, precision, "nvptx64-sm_80", "mma.sync");
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
    // Few rows stay with the warps, and so do bytes of both signs.
    let groups = |name: &str, precision: &str| count_on(name, precision, "nvptx64-sm_90a", "wgmma.mma_async");
    assert_eq!(groups("f32", "f32"), 0);
    assert_eq!(groups("f32", "tf32"), 8);
    assert_eq!(groups("f16", "f32"), 8);
    assert_eq!(groups("bytes", "f32"), 1);
    assert_eq!(groups("conv_f32", "bf16"), 3);
    assert_eq!(count_on("bytes", "f32", "nvptx64-sm_90a", "mma.sync"), 1);
    // What lies in memory as it is needed comes in boxes: both operands, or a filter's panels alone.
    let boxes = |name: &str, what: &str| count_on(name, "f32", "nvptx64-sm_90a", what);
    assert_eq!(boxes("boxes", "cp.async.bulk.tensor"), 5);
    assert_eq!(boxes("boxes", "setmaxnreg"), 4);
    assert_eq!(boxes("boxes", "m64n256k16"), 4);
    assert_eq!(boxes("boxes_bytes", "cp.async.bulk.tensor.2d"), 1);
    assert_eq!(boxes("conv_f16", "cp.async.bulk.tensor"), 3);
    assert_eq!(boxes("conv_f16", "cp.async.bulk.tensor.3d"), 2);
    assert_eq!(boxes("f32", "cp.async.bulk.tensor"), 0);
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
