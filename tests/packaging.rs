//! What `onnxc support` writes, and what `--depfile` says; `cargo xtask examples` builds programs with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn onnxc(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_onnxc")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn files_beneath(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => files_beneath(&entry.path(), &format!("{name}/"), found),
            false => assert!(found.insert(name)),
        }
    }
}

#[test]
fn support_writes_an_installed_package() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("a prefix");
    onnxc(&["support", "--out", prefix.to_str().unwrap()]);
    let mut found = BTreeSet::new();
    files_beneath(&prefix, "", &mut found);
    let csrc = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime-support/csrc");
    let mut sources = BTreeSet::new();
    files_beneath(&csrc, "", &mut sources);
    let written: BTreeSet<String> =
        found.iter().filter_map(|name| name.strip_prefix("share/onnxc/")).map(Into::into).collect();
    assert_eq!(written, sources);
    sources.retain(|name| name.ends_with(".c"));
    for name in ["include/onnxc.h", "include/onnxc_support.h", "include/onnxc.hpp"] {
        assert!(found.contains(name), "{name}");
    }
    let text = |name: &str| std::fs::read_to_string(prefix.join(name)).unwrap();
    let listed = |text: &str, before: &str, after: char| -> BTreeSet<String> {
        let (_, list) = text.split_once(before).unwrap();
        list.split(after).next().unwrap().split(' ').map(|name| name.replace("${sourcedir}/", "")).collect()
    };
    assert_eq!(listed(&text("lib/cmake/onnxc/onnxc-config.cmake"), "set(_onnxc_sources ", ')'), sources);
    let pkg_config = text("lib/pkgconfig/onnxc.pc");
    assert_eq!(listed(&pkg_config, "\nsources=", '\n'), sources);
    assert_eq!(pkg_config.matches("${sourcedir}/").count(), sources.len());
    for name in found.iter().filter(|name| name.starts_with("lib/")) {
        assert!(!text(name).contains('@'), "{name}");
    }
    assert!(pkg_config.contains(&format!("Version: {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_cpp_wrapper_is_clean_cpp_17() {
    let folder = tempfile::tempdir().unwrap();
    onnxc(&["support", "--out", folder.path().to_str().unwrap()]);
    let file = folder.path().join("use.cpp");
    std::fs::write(&file, "#include \"onnxc.hpp\"\ntemplate class onnxc::Span<float>;\nint main() {}\n").unwrap();
    let output = Command::new("c++")
        .args(["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only", "-I"])
        .args([folder.path().join("include"), file])
        .output()
        .expect("a C++ compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_depfile_is_a_rule_of_make() {
    let folder = tempfile::tempdir().unwrap();
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/embed-rust/digits.onnx");
    let model = folder.path().join("a model.onnx");
    std::fs::copy(digits, &model).unwrap();
    let (object, rule): (PathBuf, PathBuf) = (folder.path().join("m.o"), folder.path().join("m.d"));
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    onnxc(&[&text(&model), "-o", &text(&object), "--depfile", &text(&rule), "--target", "x86_64"]);
    let expected = format!("{}: {}\n", object.display(), text(&model).replace(' ', "\\ "));
    assert_eq!(std::fs::read_to_string(rule).unwrap(), expected);
}
