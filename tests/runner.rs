//! `onnxc test --runner`: cases linked into programs of their own, here for this machine, and a runner that runs nothing.
//!
//! `cargo xtask setup` makes the suite in `build/suite`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Numbers, sizes that data decides, strings in and out, and a table of strings.
const CASES: [&str; 6] = [
    "test_add",
    "test_nonzero_example",
    "test_string_concat",
    "test_string_split_basic",
    "test_regex_full_match_basic",
    "test_ai_onnx_ml_label_encoder_string_int",
];

fn case(name: &str) -> PathBuf {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/suite/node").join(name);
    assert!(case.is_dir(), "{}: no case there; run `cargo xtask setup`", case.display());
    case
}

/// What `onnxc test` says, and whether all passed.
fn test(more: &[&str]) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxc"));
    let output = command.arg("test").args(CASES.map(case)).args(["--cc", "cc"]).args(more).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

#[test]
fn numbers_and_strings_travel_to_a_program_and_back() {
    let (text, passed) = test(&["--runner", "", "--batch", "4"]);
    assert!(passed && text.ends_with("6 passed, 0 failed\n"), "{text}");
}

#[test]
fn what_a_runner_does_not_run_is_no_success() {
    let (text, passed) = test(&["--runner", "false"]);
    assert!(!passed && text.ends_with("0 passed, 6 failed\n"), "{text}");
}
