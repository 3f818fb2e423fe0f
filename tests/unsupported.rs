//! A model that cannot be compiled: every unsupported operator is named at once, the exit status says so, and no file is
//! left behind.

mod onnx;

use std::path::Path;
use std::process::Command;

use onnxc_frontend::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use onnxc_ir::dtype::DType;
use prost::Message;

fn node(name: &str, op_type: &str, input: &str, output: &str) -> NodeProto {
    NodeProto { name: name.into(), ..onnx::node(op_type, &[input], &[output]) }
}

fn port(name: &str) -> ValueInfoProto {
    onnx::port(name, DType::F32, &[])
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
    onnx::model(17, graph)
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
