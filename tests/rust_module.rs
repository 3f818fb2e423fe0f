//! From a build script to a program: what `onnxc::build` tells cargo and writes is compiled into a crate of its own, which
//! has `onnxc-runtime` without default features: no C compiler, no `std` in the library.

#![cfg(target_os = "linux")]

mod onnx;

use std::path::{Path, PathBuf};
use std::process::Command;

use onnxc_frontend::proto::{GraphProto, LOCATION_EXTERNAL, StringStringEntryProto, TensorProto};
use onnxc_ir::dtype::DType;
use prost::Message;

use onnx::{node, port};

/// Says to the test below that it is to be a build script for this model.
const SCRIPT: &str = "ONNXC_TEST_BUILD_SCRIPT";

/// `in.1 [rows, 2] · w [2, 3]` and its rectification; `w` lies in `w.bin`.
fn write_model(folder: &Path, rows: &str) {
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let weights = TensorProto {
        name: "w".into(),
        data_type: 1,
        dims: vec![2, 3],
        data_location: LOCATION_EXTERNAL,
        external_data: vec![entry("location", "w.bin")],
        ..TensorProto::default()
    };
    let graph = GraphProto {
        node: vec![node("MatMul", &["in.1", "w"], &["product"]), node("Relu", &["product"], &["type"])],
        input: vec![port("in.1", DType::F32, &[rows, "2"])],
        output: ["product", "type"].map(|name| port(name, DType::F32, &[rows, "3"])).into(),
        initializer: vec![weights],
        ..GraphProto::default()
    };
    let model = onnx::model(21, graph);
    let numbers: Vec<u8> = [1f32, -2., 3., -4., 5., -6.].iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(folder.join("w.bin"), numbers).unwrap();
    std::fs::write(folder.join("model.onnx"), model.encode_to_vec()).unwrap();
}

/// Not a test but the build script that the test starts: this program again, with cargo's variables.
#[test]
fn as_a_build_script() {
    let Some(model) = std::env::var_os(SCRIPT) else { return };
    let model = PathBuf::from(model);
    onnxc::build::Model::new(&model).name("fixed").dim("rows", 2).compile().unwrap();
    onnxc::build::Model::new(&model).name("free").dim("rows", 1..=100).compile().unwrap();
}

const MAIN: &str = r#"
#![no_std]
extern crate std;

onnxc_runtime::include_model!(fixed);
onnxc_runtime::include_model!(pub(crate) free);

use onnxc_runtime::{Block, View};

fn main() {
    let x = [[1.0f32, 2.0], [3.0, 4.0]];
    let y = [[-7.0f32, 8.0, -9.0], [-13.0, 14.0, -15.0]];
    let mut outputs = fixed::Outputs::ZERO;
    fixed::run_in(&mut { fixed::ARENA }, fixed::Inputs { in_1: &x }, &mut outputs).unwrap();
    assert_eq!((outputs.product, outputs.type_), (y, y.map(|row| row.map(|v| v.max(0.0)))));

    let rows = View::new([2, 2], x.as_flattened()).unwrap();
    let mut arena = [Block::NEW; 1024];
    let (mut product, mut rectified) = ([0.0; 6], [0.0; 6]);
    let room = free::Room { product: &mut product, type_: &mut rectified };
    let outputs = free::run_in(&mut arena, free::Inputs { in_1: rows }, room).unwrap();
    assert_eq!((outputs.product.shape(), outputs.product[[1, 2]]), ([2, 3], -15.0));
    let error = free::Model::new().run(free::Inputs { in_1: View::new([0, 2], &[]).unwrap() }).unwrap_err();
    std::println!("{} bytes; {error}", free::arena_bytes(free::Dims { rows: 2 }).unwrap() + fixed::ARENA_BYTES);
}
"#;

#[test]
fn a_crate_builds_offline_and_runs_its_models() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust_module");
    let (made, source) = (folder.join("made"), folder.join("src"));
    for path in [&made, &source] {
        std::fs::create_dir_all(path).unwrap();
    }
    write_model(&folder, "rows");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let script = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_build_script", "--nocapture"])
        .envs([("TARGET", &*triple), ("CARGO_PKG_NAME", "a-program"), ("CARGO_CFG_TARGET_FEATURE", "fxsr,sse")])
        .env("OUT_DIR", &made)
        .env(SCRIPT, folder.join("model.onnx"))
        .output()
        .unwrap();
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    let said = String::from_utf8(script.stdout).unwrap();
    let lines: Vec<&str> = said.lines().filter_map(|line| line.find("cargo::").map(|at| &line[at..])).collect();
    let here = |name: &str| format!("cargo::rerun-if-changed={}", folder.join(name).display());
    let search = format!("cargo::rustc-link-search=native={}", made.display());
    let one = |name: &str| {
        vec![here("model.onnx"), here("w.bin"), search.clone(), format!("cargo::rustc-link-lib=static={name}")]
    };
    assert_eq!(lines, [one("a_program_fixed"), one("a_program_free")].concat());

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = format!(
        "[package]\nname = \"a-program\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         onnxc-runtime = {{ path = {:?}, default-features = false, features = [\"alloc\"] }}\n",
        root.join("runtime-support")
    );
    // The models were compiled before, so that this crate does not have to compile the compiler.
    let script = format!(
        "fn main() {{\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    for name in [\"fixed.rs\", \"free.rs\"] {{\n        \
         std::fs::copy(std::path::Path::new({made:?}).join(name), std::path::Path::new(&out).join(name)).unwrap();\n    }}\n    \
         print!({:?});\n}}\n",
        lines.join("\n") + "\n"
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(folder.join("build.rs"), script).unwrap();
    std::fs::write(source.join("main.rs"), MAIN).unwrap();
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let run = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env("RUSTFLAGS", "-D warnings")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let printed = String::from_utf8(run.stdout).unwrap();
    assert!(printed.contains("input \"in.1\", axis 0: a dim is negative or outside the range"), "{printed}");
}
