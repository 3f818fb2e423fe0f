//! A model that cannot be compiled: every unsupported operator is named at once, the exit status says so, and no file is
//! left behind.

use std::path::Path;
use std::process::Command;

use onnxc_frontend::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, TypeTensor,
    TypeValue, ValueInfoProto,
};
use prost::Message;

fn node(name: &str, op_type: &str, input: &str, output: &str) -> NodeProto {
    NodeProto {
        name: name.into(),
        op_type: op_type.into(),
        input: vec![input.into()],
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn port(name: &str) -> ValueInfoProto {
    let tensor = TypeTensor { elem_type: 1, shape: Some(TensorShapeProto::default()) };
    let ty = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(Box::new(ty)), ..ValueInfoProto::default() }
}

/// `first` and `second` depend on each other; `third` is in a branch that depends on both.
fn model() -> ModelProto {
    let branch = GraphProto {
        node: vec![node("third", "NoSuchOperatorC", "x", "c")],
        output: vec![port("c")],
        ..GraphProto::default()
    };
    let mut choice = node("choice", "If", "b", "y");
    for name in ["then_branch", "else_branch"] {
        let graph = Some(Box::new(branch.clone()));
        choice.attribute.push(AttributeProto { name: name.into(), r#type: 5, g: graph, ..AttributeProto::default() });
    }
    let graph = GraphProto {
        node: vec![
            node("first", "NoSuchOperatorA", "x", "a"),
            node("fine", "Relu", "a", "r"),
            node("second", "NoSuchOperatorB", "r", "b"),
            choice,
        ],
        input: vec![port("x")],
        output: vec![port("y")],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        graph: Some(Box::new(graph)),
        ..ModelProto::default()
    }
}

#[test]
fn every_unsupported_operator_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model().encode_to_vec()).expect("the model can be written");
    let files = |folder: &Path| std::fs::read_dir(folder).expect("the folder is there").count();
    for arguments in [vec!["-o", "model.o"], vec!["-o", "libmodel.so"]] {
        let run = Command::new(env!("CARGO_BIN_EXE_onnxc"))
            .arg(&path)
            .args(&arguments)
            .current_dir(folder.path())
            .output()
            .expect("onnxc runs");
        let text = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(3), "{text}");
        for (name, operator) in
            [("first", "NoSuchOperatorA"), ("second", "NoSuchOperatorB"), ("choice/third", "NoSuchOperatorC")]
        {
            assert!(text.contains(name) && text.contains(operator), "{operator} is not named:\n{text}");
        }
        assert_eq!(files(folder.path()), 1, "only the model itself is there");
    }
}
