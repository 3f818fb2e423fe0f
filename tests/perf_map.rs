//! `perf` finds the names of loaded kernels in a map file of this process.
#![cfg(target_os = "linux")]

use onnxc::driver::{CompileOptions, Engine, Executable};
use onnxc_frontend::proto::{
    Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    TypeTensor, TypeValue, ValueInfoProto,
};
use prost::Message;

fn port(name: &str) -> ValueInfoProto {
    let dim = Dimension { value: Some(DimensionValue::DimValue(64)), ..Dimension::default() };
    let tensor = TypeTensor { elem_type: 1, shape: Some(TensorShapeProto { dim: vec![dim] }) };
    let ty = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(Box::new(ty)), ..ValueInfoProto::default() }
}

#[test]
fn the_map_names_the_kernels() {
    let node = NodeProto {
        name: "activation".into(),
        op_type: "Relu".into(),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..NodeProto::default()
    };
    let graph =
        GraphProto { node: vec![node], input: vec![port("x")], output: vec![port("y")], ..GraphProto::default() };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(Box::new(graph)),
        ..ModelProto::default()
    };
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
