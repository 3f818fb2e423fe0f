//! The directions of the crates' dependencies, as ARCHITECTURE.md states them.

use std::collections::BTreeMap;
use std::process::Command;

/// Each crate with the crates of this workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("onnxc-ir", &[]),
    ("onnxc-runtime", &[]),
    ("onnxc-frontend", &["onnxc-ir"]),
    ("onnxc-lowering", &["onnxc-ir"]),
    ("onnxc-backend", &["onnxc-ir"]),
    ("onnxc", &["onnxc-ir", "onnxc-frontend", "onnxc-lowering", "onnxc-backend", "onnxc-runtime"]),
    ("onnxc-python", &["onnxc", "onnxc-runtime"]),
    // Test tools.
    ("onnxc-standin-cuda", &[]),
    ("xtask", &[]),
];

#[test]
fn crates_depend_only_in_the_stated_directions() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let dependencies = package["dependencies"].as_array().expect("a package has dependencies");
        // Dependencies of tests may go anywhere.
        let normal = dependencies.iter().filter(|d| d["kind"].is_null() && d["path"].is_string());
        found.insert(name, normal.filter_map(|d| d["name"].as_str()).collect());
    }
    for (name, uses) in &found {
        let (_, allowed) = ALLOWED.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is not listed"));
        for used in uses {
            assert!(allowed.contains(used), "{name} must not depend on {used}");
        }
    }
    assert_eq!(found.len(), ALLOWED.len(), "every listed crate exists");
}
