//! The values of a model's inputs and outputs: what is expected, and how they are handed over.

use onnxc_frontend::data::DataValue;
use onnxc_frontend::import::{Imported, Structure};
use onnxc_frontend::proto::dtype_to_onnx;
use onnxc_ir::tensor::{TensorBytes, TensorType};
use onnxc_runtime::{DataType, Dim, Model, Session, TensorView};

use super::execute::run_failure;
use crate::diagnostics::{Diagnostic, Failure, FailureKind};
use crate::values::{Value, to_tensor_bytes};

/// An input or output.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// Its ONNX name.
    pub name: String,
    /// Its type.
    pub ty: PortType,
}

/// A port's type with the names of its dimensions.
#[derive(Clone, Debug)]
pub struct PortType {
    ty: TensorType,
    text: String,
}

impl std::ops::Deref for PortType {
    type Target = TensorType;

    fn deref(&self) -> &TensorType {
        &self.ty
    }
}

impl std::fmt::Display for PortType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The tensors that go in and come out, in the model's order.
pub(super) fn ports(imported: &Imported) -> Result<(Vec<PortInfo>, Vec<PortInfo>), Failure> {
    let graph = &imported.graph;
    let described = |values: &[onnxc_ir::tensor::Value], names: &[String]| -> Result<Vec<PortInfo>, Failure> {
        let described = values.iter().zip(names).map(|(&v, name)| match graph.ty(v).as_tensor() {
            Some(ty) => {
                let ty = PortType { ty: ty.clone(), text: graph.type_text(graph.ty(v)).to_string() };
                Ok(PortInfo { name: name.clone(), ty })
            }
            None => {
                let message = format!("`{name}` is no tensor; models take and give tensors only so far");
                Err(Failure::new(FailureKind::Unsupported, Diagnostic::error("U003", message)))
            }
        });
        described.collect()
    };
    let body = &graph.regions[graph.body()];
    Ok((described(&body.params, &graph.input_names)?, described(&body.results, &graph.output_names)?))
}

/// The tensors of a value for each input, which are made as `structures` says.
pub(super) fn tensors_of(inputs: &[Value], structures: &[(String, Structure)]) -> Result<Vec<Value>, Failure> {
    if inputs.len() != structures.len() {
        return Err(run_failure(format!("{} inputs for {}", inputs.len(), structures.len())));
    }
    let mut tensors = Vec::new();
    for (value, (name, structure)) in inputs.iter().zip(structures) {
        take_apart(value, structure, &mut tensors)
            .ok_or_else(|| run_failure(format!("input `{name}` is made of {structure:?} in the compiled model")))?;
    }
    Ok(tensors)
}

/// The values that a model's tensors make up.
///
/// # Panics
/// If there are too few.
pub(super) fn values_of(tensors: Vec<Value>, structures: &[(String, Structure)]) -> Vec<Value> {
    let mut tensors = tensors.into_iter();
    structures.iter().map(|(_, structure)| put_together(structure, &mut tensors)).collect()
}

/// Appends the tensors of a value; nothing where it is not made so.
fn take_apart(value: &Value, structure: &Structure, tensors: &mut Vec<Value>) -> Option<()> {
    match (value, structure) {
        (DataValue::Tensor(_), Structure::Tensor) => tensors.push(value.clone()),
        (DataValue::Sequence(items), Structure::Sequence(of)) if items.len() == of.len() => {
            for (item, structure) in items.iter().zip(of) {
                take_apart(item, structure, tensors)?;
            }
        }
        (DataValue::Optional(None), Structure::Optional(None)) => {}
        (DataValue::Optional(Some(inner)), Structure::Optional(Some(of))) => take_apart(inner, of, tensors)?,
        // Test data holds what an optional holds, without a wrapping, where it is there.
        (DataValue::Tensor(_) | DataValue::Sequence(_), Structure::Optional(Some(of))) => {
            take_apart(value, of, tensors)?
        }
        _ => return None,
    }
    Some(())
}

/// A value made of the next tensors.
///
/// # Panics
/// If there are too few.
fn put_together(structure: &Structure, tensors: &mut dyn Iterator<Item = Value>) -> Value {
    match structure {
        Structure::Tensor => tensors.next().expect("the model gives all its tensors"),
        Structure::Sequence(of) => DataValue::Sequence(of.iter().map(|s| put_together(s, tensors)).collect()),
        Structure::Optional(of) => {
            DataValue::Optional(of.as_ref().map(|structure| Box::new(put_together(structure, tensors))))
        }
    }
}

/// What each symbol is for these inputs; 1 where no input says.
pub(super) fn symbol_values(model: &Model, inputs: &[Input]) -> Vec<i64> {
    let mut dims = vec![1; model.symbols().len()];
    for (port, input) in model.inputs().iter().zip(inputs) {
        for (axis, &extent) in input.shape.iter().enumerate() {
            if let Some(Dim::Symbol(symbol)) = port.dims.as_ref().and_then(|dims| dims.get(axis)) {
                dims[*symbol] = extent;
            }
        }
    }
    dims
}

/// A tensor whose elements are aligned.
pub(super) struct Input {
    pub(super) dtype: DataType,
    pub(super) shape: Vec<i64>,
    words: Vec<u64>,
    length: usize,
}

impl Input {
    /// The elements.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the words are at least `length` bytes of plain numbers.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast::<u8>(), self.length) }
    }
}

/// Values as the inputs of a compiled model.
pub(super) fn prepare(values: &[Value], ports: &[PortInfo]) -> Result<Vec<Input>, Failure> {
    let mut inputs = Vec::with_capacity(values.len());
    for (value, port) in values.iter().zip(ports) {
        let tensor = to_tensor_bytes(value, port)?;
        let number = dtype_to_onnx(tensor.dtype);
        let dtype = DataType::from_onnx(number)
            .ok_or_else(|| run_failure(format!("input `{}` cannot be {}", port.name, tensor.dtype)))?;
        let mut words = vec![0u64; tensor.bytes.len().div_ceil(8)];
        for (word, chunk) in words.iter_mut().zip(tensor.bytes.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(bytes);
        }
        inputs.push(Input { dtype, shape: tensor.shape.to_vec(), words, length: tensor.bytes.len() });
    }
    Ok(inputs)
}

/// The tensor in bytes; those of strings are the pairs and then the text.
pub(super) fn view<'a>(
    dtype: DataType,
    shape: &[i64],
    bytes: &'a [u8],
) -> Result<TensorView<'a>, onnxc_runtime::Error> {
    match dtype.tensor_bytes(shape).filter(|_| dtype == DataType::String) {
        Some(pairs) if pairs <= bytes.len() => TensorView::from_string_bytes(shape, &bytes[..pairs], &bytes[pairs..]),
        _ => TensorView::from_bytes(dtype, shape, bytes),
    }
}

/// The outputs of a session's last run.
pub(super) fn outputs_of(session: &Session) -> Result<Vec<TensorBytes>, Failure> {
    (0..session.model().outputs().len())
        .map(|i| {
            if let Some(input) = session.model().inputs().iter().position(|port| port.next == Some(i)) {
                let (dtype, shape, bytes) = session.state(input).map_err(|e| run_failure(e.to_string()))?;
                let dtype = onnxc_frontend::proto::dtype_from_onnx(dtype.onnx());
                let dtype = dtype.ok_or_else(|| run_failure(format!("output {i} has an unknown type")))?;
                return Ok(TensorBytes { dtype, shape: shape[..].into(), bytes: bytes.into() });
            }
            let view = session.output(i).map_err(|e| run_failure(e.to_string()))?;
            let dtype = onnxc_frontend::proto::dtype_from_onnx(view.dtype().onnx())
                .ok_or_else(|| run_failure(format!("output {i} has an unknown type")))?;
            Ok(TensorBytes { dtype, shape: view.shape().into(), bytes: [view.bytes(), view.text()].concat().into() })
        })
        .collect()
}
