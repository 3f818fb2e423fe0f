//! com.microsoft's operators, and those that early exporters used, against ONNX Runtime: every operator of the domain has at
//! least five cases, all of which pass.
//!
//! `cargo xtask setup` writes the cases to `build/microsoft`; `ONNXC_MICROSOFT` names another place.

use std::path::{Path, PathBuf};
use std::process::Command;

fn cases() -> PathBuf {
    let cases = std::env::var_os("ONNXC_MICROSOFT")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/microsoft"), PathBuf::from);
    assert!(cases.join("stamp.json").is_file(), "{}: no cases there; run `cargo xtask setup`", cases.display());
    cases
}

#[test]
fn every_operator_has_five_cases() {
    let count = |operator: &str| std::fs::read_dir(cases().join(operator)).map_or(0, Iterator::count);
    let few: Vec<String> = onnxc_frontend::ops::all()
        .into_iter()
        .filter(|row| row.domain == "com.microsoft")
        .map(|row| (row.name, count(row.name)))
        .filter(|&(_, count)| count < 5)
        .map(|(name, count)| format!("{name}: {count}"))
        .collect();
    assert!(few.is_empty(), "operators with fewer than five cases: {}", few.join(", "));
}

/// 200 x 512 weights of 4 bits, a scale for each 32 of them, up to whole panels of 32 columns.
#[test]
fn weights_of_4_bits_stay_packed() {
    let run = Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .arg(cases().join("MatMulNBits/large/model.onnx"))
        .args(["--emit", "contract"])
        .output()
        .expect("onnxc runs");
    let contract: serde_json::Value = serde_json::from_slice(&run.stdout).expect("the contract is JSON");
    let weights = contract["weight_bytes"].as_u64().expect("the contract counts the weights");
    let packed = 224 * 512 / 2 + 224 * 16 * 4;
    assert!((packed..packed + 256).contains(&weights), "{weights} bytes instead of about {packed}");
}

#[test]
fn all_cases_pass() {
    for engine in [&["interp"][..], &["loop-interp"], &["native", "--guard", "--poison"]] {
        let run = Command::new(env!("CARGO_BIN_EXE_onnxc"))
            .arg("test")
            .arg(cases())
            .args(["--quiet", "--engine"])
            .args(engine)
            .output()
            .expect("onnxc runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "--engine {}\n{stdout}{stderr}", engine.join(" "));
    }
}
