//! Weights in a file beside the object, and in sections beyond the reach of 32 bits, in C programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use object::{Object, ObjectSection};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn onnxc(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_onnxc")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn compile_digits(object: &Path, more: &[&str]) -> Output {
    let digits = root().join("examples/embed-rust/digits.onnx");
    onnxc(&[&[digits.to_str().unwrap(), "-o", object.to_str().unwrap(), "--dim", "batch=1"], more].concat())
}

/// The program of `tests/weights`, with both objects and the support library beside it.
fn program(folder: &Path) -> PathBuf {
    compile_digits(&folder.join("embedded.o"), &[]);
    compile_digits(&folder.join("external.o"), &["--weights", "external"]);
    onnxc(&["support", "--out", folder.join("support").to_str().unwrap()]);
    let program = folder.join("program");
    let sources = ["memory.c", "pool.c", "session.c", "status.c", "weights.c"];
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(folder.join("support/include"))
        .arg("-I")
        .arg(folder);
    cc.arg(root().join("tests/weights/program.c")).args([folder.join("embedded.o"), folder.join("external.o")]);
    cc.args(sources.map(|name| folder.join("support/share/onnxc").join(name))).args(["-pthread", "-o"]).arg(&program);
    succeeds(&mut cc);
    program
}

#[test]
fn only_the_file_of_this_model_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let program = program(folder.path());
    let file = folder.path().join("external.weights");
    let bytes = std::fs::read(&file).unwrap();
    let object = std::fs::read(folder.path().join("external.o")).unwrap();
    let parsed = object::File::parse(&*object).unwrap();
    let header = std::fs::read_to_string(folder.path().join("external.h")).unwrap();
    assert!(header.contains(&format!("{} bytes in a file of their own", bytes.len())));
    assert!(parsed.sections().all(|section| section.size() < bytes.len() as u64), "the object holds the weights too");

    let run = |file: &Path| succeeds(Command::new(&program).arg(file));
    assert_eq!(run(&file), "open 0: ok\nrun 0 0 same 1\nwrong -22 -22 -22 -22 -22\n");

    let other = folder.path().join("other");
    let refusal = "open -22: the external weights are missing, misaligned or not the model's\n";
    for at in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut spoiled = bytes.clone();
        spoiled[at] ^= 1;
        std::fs::write(&other, spoiled).unwrap();
        assert_eq!(run(&other), refusal, "byte {at}");
    }
    for spoiled in [&bytes[..bytes.len() - 1], &[], &[&*bytes, &[0][..]].concat()] {
        std::fs::write(&other, spoiled).unwrap();
        assert_eq!(run(&other), refusal, "{} bytes", spoiled.len());
    }
    for path in [folder.path().join("nothing"), folder.path().to_owned()] {
        assert_eq!(run(&path), "open -40: the file of the external weights cannot be opened or mapped\n");
    }
}

/// The same network twice: its weights above 256 MB in the program, beside another model, and in a file.
#[test]
fn weights_beyond_256_megabytes_link_with_other_models() {
    let zoo = std::env::var_os("ONNXC_ZOO").map_or_else(|| root().join("build/zoo"), PathBuf::from);
    let model = zoo.join("vgg11/model.onnx");
    assert!(model.is_file(), "{}: no model there; run `cargo xtask setup`", model.display());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let compile = |object: &str, more: &[&str]| {
        onnxc(&[&[model.to_str().unwrap(), "-o", path(object).to_str().unwrap()], more].concat())
    };
    compile("embedded.o", &[]);
    compile("external.o", &["--weights", "external"]);
    compile_digits(&path("digit.o"), &[]);
    onnxc(&["support", "--out", path("support").to_str().unwrap()]);
    let sources = ["memory.c", "pool.c", "session.c", "status.c", "weights.c"];
    for position in [&["-no-pie"][..], &["-pie", "-fPIE"]] {
        let program = path("program");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-I"]).arg(path("support/include"));
        cc.arg("-I").arg(folder.path()).arg(root().join("tests/weights/large.c"));
        cc.args(["embedded.o", "external.o", "digit.o"].map(path));
        cc.args(sources.map(|name| path("support/share/onnxc").join(name)));
        succeeds(cc.args(position).args(["-pthread", "-o"]).arg(&program));
        assert_eq!(succeeds(Command::new(&program).arg(path("external.weights"))), "0 0 0 same 1\n", "{position:?}");
    }
    let bytes = std::fs::metadata(path("external.weights")).unwrap().len();
    assert!(bytes > 256 << 20, "{bytes} bytes of weights");
}

#[test]
fn the_contract_has_the_hash_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let contract = |weights: &str| -> Value {
        let digits = root().join("examples/embed-rust/digits.onnx");
        let fixed = [digits.to_str().unwrap(), "--emit", "contract", "--name", "external", "--dim", "batch=1"];
        serde_json::from_slice(&onnxc(&[&fixed[..], &["--weights", weights]].concat()).stdout).unwrap()
    };
    compile_digits(&folder.path().join("external.o"), &["--weights", "external"]);
    let file = folder.path().join("external.weights");
    let hash = succeeds(Command::new("sha256sum").arg(&file));
    let (external, embedded) = (contract("external"), contract("embed"));
    assert_eq!((external["weights"].as_str(), embedded["weights"].as_str()), (Some("external"), Some("embed")));
    assert_eq!(external["weights_hash"].as_str(), hash.split(' ').next());
    assert_eq!(embedded["weights_hash"], Value::Null);
    assert_eq!(external["weight_bytes"].as_u64(), Some(std::fs::metadata(&file).unwrap().len()));
    assert_ne!(external["hash"], embedded["hash"]);
}

#[test]
fn an_object_over_the_budget_leaves_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("net.o");
    let digits = root().join("examples/embed-rust/digits.onnx");
    let output = Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .args([&digits, Path::new("-o"), &object])
        .args(["--dim", "batch=1", "--weights", "external", "--max-code", "1K"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
