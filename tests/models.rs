//! Small models of kinds that the ONNX suite lacks, against ONNX Runtime's answers, on every engine.
//!
//! `cargo xtask setup` writes them to `build/models` (`tests/models/generate.py`); `ONNXC_MODELS` names another place.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ONNXC: &str = env!("CARGO_BIN_EXE_onnxc");

fn models() -> PathBuf {
    let models = std::env::var_os("ONNXC_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/models"), PathBuf::from);
    assert!(models.join("stamp").is_file(), "{}: no models there; run `cargo xtask setup`", models.display());
    models
}

fn onnxc(arguments: &[&str]) -> Output {
    Command::new(ONNXC).args(arguments).output().expect("onnxc runs")
}

fn pass(arguments: &[&str]) {
    let models = models();
    let models = models.to_str().expect("a path in UTF-8");
    let output = onnxc(&[&["test", models, "--jobs", "1"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn compiled() {
    pass(&[]);
}

#[test]
fn interpreted() {
    pass(&["--engine", "interp"]);
    pass(&["--engine", "loop-interp"]);
}

#[cfg(unix)]
#[test]
fn guarded() {
    pass(&["--guard", "--poison"]);
}

/// Of two branches with different ranks one fits what follows: the other condition is a status.
#[test]
fn a_condition_that_leads_nowhere_is_a_status() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = models().join("if_one_rank_fits/model.onnx");
    let (c, x) = (folder.path().join("c.npy"), folder.path().join("x.npy"));
    write_npy(&c, "|b1", "()", &[0]);
    write_npy(&x, "<f4", "(3, 4)", &[0; 48]);
    let [model, c, x] = [&model, &c, &x].map(|path| path.to_str().expect("a path in UTF-8"));
    let output = onnxc(&["run", model, "--inputs", &format!("{c},{x}")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("only `then_branch` fits what comes after it"), "{stderr}");
    assert!(stderr.contains("(expected 1, got 0)"), "{stderr}");
}

/// A file of NumPy's first version.
fn write_npy(path: &Path, dtype: &str, shape: &str, bytes: &[u8]) {
    let text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(118u16.to_le_bytes());
    file.extend(format!("{text:<117}\n").bytes());
    file.extend(bytes);
    std::fs::write(path, file).expect("a file can be written");
}
