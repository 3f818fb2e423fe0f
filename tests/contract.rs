//! Contracts, budgets and small code, from the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/embed-rust/digits.onnx")
}

fn onnxc(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxc")).arg(digits()).args(arguments).output().unwrap()
}

fn contract(arguments: &[&str]) -> Value {
    let output = onnxc(&[&["--emit", "contract", "--name", "net"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_contract_says_what_the_model_asks_for() {
    let fixed = contract(&["--target", "x86_64", "--dim", "batch=1"]);
    assert_eq!(fixed["inputs"], json!([{ "name": "image", "dtype": "f32", "dims": [1, 1, 8, 8] }]));
    assert_eq!(fixed["memory"], "static");
    assert_eq!(fixed["flags"], json!({ "dims": ["batch=1"], "specialize": [], "fp": "default", "opt_level": "2" }));
    assert_eq!(fixed["hash"].as_str().unwrap().len(), 64);
    let number = |key: &str| fixed[key].as_u64().unwrap_or_else(|| panic!("{key}: {}", fixed[key]));
    // Two convolutions, one product, and less than as much again for the rest.
    let products = 2 * (64 * 9 * 12 + 16 * 108 * 24 + 96 * 10);
    assert!((products..2 * products).contains(&number("flops")), "{}", fixed["flops"]);
    assert_eq!(number("arena_bytes"), number("arena_bytes_most"));
    let scratch = fixed["arena"]["per_worker"].as_u64().unwrap();
    assert_eq!(number("arena_bytes"), fixed["arena"]["tensors"].as_u64().unwrap() + scratch);
    assert!((256..64 << 10).contains(&number("stack_bytes")), "{}", fixed["stack_bytes"]);
    assert!((4096..32 << 10).contains(&number("code_bytes")), "{}", fixed["code_bytes"]);
    let undefined = fixed["undefined_symbols"].as_array().unwrap();
    assert!(undefined.iter().all(|name| ["memcpy", "memmove", "memset"].contains(&name.as_str().unwrap())));

    let many = contract(&["--target", "x86_64", "--dim", "batch=1..64"]);
    assert_eq!(many["symbols"], json!([{ "name": "batch", "min": 1, "max": 64 }]));
    assert_eq!((many["memory"].as_str(), many["arena_bytes"].as_u64()), (Some("dims"), None));
    assert!(many["flops"].as_str().unwrap().contains("batch"), "{}", many["flops"]);
    assert!(many["arena_bytes_most"].as_u64().unwrap() >= 63 * fixed["arena"]["tensors"].as_u64().unwrap(), "{many}");
}

#[test]
fn what_is_over_the_budget_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("net.o");
    let compile = |arguments: &[&str]| {
        let fixed = ["-o", object.to_str().unwrap(), "--target", "x86_64"];
        let output = onnxc(&[&fixed, arguments].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, text) = compile(&["--dim", "batch=1", "--max-arena", "1K"]);
    assert!(status == Some(1) && text.starts_with("error[B001]: the arena has "), "{text}");
    let (status, text) = compile(&["--dim", "batch=1", "--max-code", "4K"]);
    assert!(status == Some(1) && text.starts_with("error[B001]: the code has ") && text.contains(" in net_"), "{text}");
    let (status, text) = compile(&["--max-arena", "1M"]);
    assert!(status == Some(1) && text.contains("--dim"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let (status, text) = compile(&["--dim", "batch=1", "--max-arena", "64K", "--max-code", "32K"]);
    assert!(status == Some(0) && object.exists(), "{text}");
}

#[test]
fn small_code_is_smaller() {
    for target in ["x86_64", "x86_64-avx512", "aarch64"] {
        let bytes = |level: &str| contract(&["--target", target, level])["code_bytes"].as_u64().unwrap();
        let (fast, small) = (bytes("-O2"), bytes("-Os"));
        assert!(small < fast, "{small} of {fast} bytes for {target}");
    }
}
