//! `perf` finds the names of loaded kernels in a map file of this process.
#![cfg(target_os = "linux")]

mod onnx;

use onnxc::driver::{CompileOptions, Engine, Executable};
use onnxc_frontend::proto::{GraphProto, NodeProto};
use onnxc_ir::dtype::DType;
use prost::Message;

use onnx::{node, port};

#[test]
fn the_map_names_the_kernels() {
    let graph = GraphProto {
        node: vec![NodeProto { name: "activation".into(), ..node("Relu", &["x"], &["y"]) }],
        input: vec![port("x", DType::F32, &["64"])],
        output: vec![port("y", DType::F32, &["64"])],
        ..GraphProto::default()
    };
    let model = onnx::model(17, graph);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relu.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();

    let mut options = CompileOptions::new("relu");
    options.perf_map = true;
    let executable = Executable::load(&path, Engine::Native, 1, &options).unwrap();
    let map_path = format!("/tmp/perf-{}.map", std::process::id());
    let map = std::fs::read_to_string(&map_path).unwrap();
    std::fs::remove_file(&map_path).unwrap();
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split(' ').collect()).collect();
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    assert!(rows.windows(2).all(|w| hex(w[0][0]) + hex(w[0][1]) <= hex(w[1][0])), "{map}");
    let kernel = rows.iter().find(|row| row[2].ends_with("map_activation")).unwrap_or_else(|| panic!("{map}"));
    assert!(hex(kernel[1]) > 16, "{map}");

    let [step] = executable.steps() else { panic!("one kernel") };
    assert_eq!((step.flops, step.bytes), (Some(64), Some(2 * 64 * 4)));
}
