//! The parts of small ONNX models, as the tests write them.

use onnxc_frontend::proto::{
    Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    TypeTensor, TypeValue, ValueInfoProto, dtype_to_onnx,
};
use onnxc_ir::dtype::DType;

/// A tensor with its dimensions; those that are no numbers are names.
pub fn port(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    let value = |d: &&str| d.parse().map_or(DimensionValue::DimParam((*d).into()), DimensionValue::DimValue);
    let dim = dims.iter().map(|d| Dimension { value: Some(value(d)), ..Dimension::default() }).collect();
    let tensor = TypeTensor { elem_type: dtype_to_onnx(dtype), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(Box::new(ty)), ..ValueInfoProto::default() }
}

pub fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect();
    NodeProto { op_type: op_type.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

/// A graph of operators of ai.onnx in this version.
pub fn model(opset: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(Box::new(graph)),
        ..ModelProto::default()
    }
}
