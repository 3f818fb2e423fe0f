//! Models in floats of 16 bits against ONNX Runtime's answers, for each kind of code that this machine runs.
//!
//! `cargo xtask setup` writes them to `build/halves` (`tests/models/halves.py`); `ONNXC_HALVES` names another place. Numbers
//! between operations have more than 16 bits on both sides, in places that differ: so results agree to about 10 bits.
#![cfg(target_arch = "x86_64")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ONNXC: &str = env!("CARGO_BIN_EXE_onnxc");

fn halves() -> PathBuf {
    let halves = std::env::var_os("ONNXC_HALVES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/halves"), PathBuf::from);
    assert!(halves.is_dir(), "{}: no models there; run `cargo xtask setup`", halves.display());
    halves
}

fn onnxc(arguments: &[&str]) -> Output {
    Command::new(ONNXC).args(arguments).output().expect("onnxc runs")
}

fn agree(arguments: &[&str]) {
    let halves = halves();
    let folder = halves.to_str().expect("a path in UTF-8");
    let output = onnxc(&[&["test", folder, "--jobs", "1"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("4 passed, 0 failed"), "{said}");
}

#[test]
fn models_of_f16_agree_with_onnx_runtime() {
    agree(&["--max-rel", "5e-3"]);
    agree(&["--max-rel", "5e-3", "--target", "x86_64"]);
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma") {
        agree(&["--max-rel", "5e-3", "--target", "x86_64-avx2"]);
    }
}

/// Each operation rounds to 16 bits then.
#[test]
fn models_of_f16_agree_where_every_operation_rounds() {
    agree(&["--max-rel", "1e-2", "--fp", "strict"]);
}

/// Weights of products stay in 16 bits: the object is not larger than the model by much.
#[test]
fn weights_of_products_stay_in_16_bits() {
    let model = halves().join("llama_2_decode/model.onnx");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let object = folder.path().join("llama.o");
    let [from, to] = [&model, &object].map(|path| path.to_str().expect("a path in UTF-8"));
    let output = onnxc(&[from, "-o", to, "--target", "x86_64-avx512"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [before, after] = [&model, &object].map(|path| std::fs::metadata(path).expect("it is there").len());
    assert!(after < before + before / 4, "{after} bytes of {before}");
}
