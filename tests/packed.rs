//! Packed elements from file to file: an int4 input of unknown size and int4 weights, as `.npy` and as protobuf, compiled
//! and interpreted.

mod onnx;

use std::path::Path;
use std::process::Command;

use onnxc_frontend::data::{DataValue, ValueKind};
use onnxc_frontend::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorData, TensorProto, dtype_to_onnx,
};
use onnxc_ir::dtype::DType;
use prost::Message;

use onnx::{node, port};

/// `turned = x^T` and `product = (x * 0.5) * w`.
fn model() -> ModelProto {
    let perm = AttributeProto { name: "perm".into(), r#type: 7, ints: vec![1, 0], ..AttributeProto::default() };
    let to = AttributeProto { name: "to".into(), r#type: 2, i: Some(1), ..AttributeProto::default() };
    // 1, -8, 7, -1, 0, 2: two to a byte, low bits first, one byte to a number of the field.
    let weights = TensorProto {
        name: "w".into(),
        data_type: dtype_to_onnx(DType::I4),
        dims: vec![3, 2],
        int32_data: vec![0x81, 0xf7, 0x20],
        ..TensorProto::default()
    };
    let scale = TensorData::dense(DType::F32, vec![], 0.5f32.to_le_bytes().to_vec().into()).expect("one number");
    let graph = GraphProto {
        node: vec![
            NodeProto { attribute: vec![perm], ..node("Transpose", &["x"], &["turned"]) },
            node("DequantizeLinear", &["x", "scale"], &["left"]),
            NodeProto { attribute: vec![to], ..node("Cast", &["w"], &["right"]) },
            node("MatMul", &["left", "right"], &["product"]),
        ],
        input: vec![port("x", DType::I4, &["N", "3"])],
        output: vec![port("turned", DType::I4, &["3", "N"]), port("product", DType::F32, &["N", "2"])],
        initializer: vec![weights, scale.to_proto("scale")],
        ..GraphProto::default()
    };
    onnx::model(21, graph)
}

fn read(path: &Path, dtype: DType) -> TensorData {
    let value = DataValue::read(path, ValueKind::Tensor, Some(dtype)).expect("an output");
    value.as_tensor().expect("a tensor").clone()
}

#[test]
fn packed_elements_go_from_file_to_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("model.onnx"), model().encode_to_vec()).expect("the model can be written");
    // Fifteen elements: the last byte is padded.
    let x: [i8; 15] = [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -1];
    let pack = |elements: &[i8]| -> Vec<u8> {
        elements.chunks(2).map(|c| c[0] as u8 & 15 | c.get(1).map_or(0, |&e| (e as u8) << 4)).collect()
    };
    let tensor = TensorData::dense(DType::I4, vec![5, 3], pack(&x).into()).expect("fifteen elements");
    std::fs::write(at("x.pb"), tensor.to_proto("x").encode_to_vec()).expect("the input can be written");
    let mut npy = Vec::new();
    onnxc_frontend::data::write_npy(&tensor, &mut npy).expect("the input can be written");
    std::fs::write(at("x.npy"), npy).expect("the input can be written");
    let turned: Vec<i8> = (0..15).map(|i| x[i % 5 * 3 + i / 5]).collect();
    let w = [[1.0f32, -8.0], [7.0, -1.0], [0.0, 2.0]];
    let product: Vec<u8> = (0..10)
        .flat_map(|i| {
            let sum: f32 = (0..3).map(|k| f32::from(x[i / 2 * 3 + k]) * 0.5 * w[k][i % 2]).sum();
            sum.to_le_bytes()
        })
        .collect();
    for (engine, input, format) in [
        ("native", "x.npy", "npy"),
        ("native", "x.pb", "pb"),
        ("interp", "x.npy", "pb"),
        ("loop-interp", "x.pb", "npy"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_onnxc"))
            .args(["run", "model.onnx", "--output-dir", "out", "--engine", engine, "--inputs", input])
            .args(["--output-format", format])
            .current_dir(folder.path())
            .output()
            .expect("onnxc runs");
        assert!(run.status.success(), "{engine}: {}", String::from_utf8_lossy(&run.stderr));
        let found = read(&at(&format!("out/output_0.{format}")), DType::I4);
        assert_eq!(found, TensorData::dense(DType::I4, vec![3, 5], pack(&turned).into()).expect("fifteen"), "{engine}");
        let found = read(&at(&format!("out/output_1.{format}")), DType::F32);
        let expected = TensorData::dense(DType::F32, vec![5, 2], product.clone().into()).expect("ten");
        assert_eq!(found, expected, "{engine}");
    }
}
