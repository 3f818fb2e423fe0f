//! The ONNX backend suite against its checked-in snapshot, so that every change of a case's status shows as a diff.
//!
//! `cargo xtask setup` writes the suite to `build/suite`; `ONNXC_SUITE` names another place. `BLESS=1`
//! (`cargo xtask bless`) writes the snapshot anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn suite() -> PathBuf {
    let suite = std::env::var_os("ONNXC_SUITE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/suite"), PathBuf::from);
    assert!(suite.join("stamp.json").is_file(), "{}: no suite there; run `cargo xtask setup`", suite.display());
    suite
}

/// Case name to the rest of its line.
fn parse(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

#[test]
fn suite_matches_snapshot() {
    run_suite(&[]);
}

/// Kernels without AVX, whose memory operands have to be aligned.
#[cfg(target_arch = "x86_64")]
#[test]
fn baseline_suite_matches_snapshot() {
    run_suite(&["--target", "x86_64"]);
}

/// Kernels of the wide backend without mask registers.
#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_suite_matches_snapshot() {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2") {
        run_suite(&["--target", "x86_64-avx2"]);
    }
}

/// Compiled code touches nothing but its tensors, and relies on no contents that it did not write.
#[cfg(unix)]
#[test]
fn fenced_and_poisoned_suite_matches_snapshot() {
    run_suite(&["--guard", "--poison"]);
}

fn run_suite(checks: &[&str]) {
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/snapshot.txt");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let found_path = folder.path().join("snapshot.txt");
    let run = Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .arg("test")
        .arg(suite())
        .arg("--quiet")
        .args(checks)
        .arg("--snapshot")
        .arg(&found_path)
        .output()
        .expect("onnxc runs");
    assert!(
        matches!(run.status.code(), Some(0 | 1)),
        "onnxc test: {}\n{}",
        run.status,
        String::from_utf8_lossy(&run.stderr)
    );
    let found = std::fs::read_to_string(&found_path).expect("onnxc wrote the snapshot");
    if std::env::var_os("BLESS").is_some() && checks.is_empty() {
        std::fs::write(&snapshot, &found).expect("the snapshot can be written");
        return;
    }
    let expected = std::fs::read_to_string(&snapshot).expect("the snapshot is checked in");
    let (expected, found) = (parse(&expected), parse(&found));
    let mut differences = Vec::new();
    for (case, was) in &expected {
        match found.get(case) {
            Some(is) if is == was => {}
            Some(is) => differences.push(format!("{case}\n    was {was}\n    is  {is}")),
            None => differences.push(format!("{case}\n    is no longer there")),
        }
    }
    differences
        .extend(found.keys().filter(|case| !expected.contains_key(*case)).map(|case| format!("{case}\n    is new")));
    assert!(
        differences.is_empty(),
        "{} cases differ from tests/conformance/snapshot.txt (cargo xtask bless writes it anew):\n{}",
        differences.len(),
        differences.join("\n")
    );
}
