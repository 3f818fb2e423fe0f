//! Values in files and their comparison, as the commands need them.

use std::fmt;
use std::path::Path;

pub use onnxc_frontend::data::ValueKind;
use onnxc_frontend::data::{self, Comparison, DataValue};
use onnxc_frontend::import::DimSetting;
use onnxc_frontend::proto::{ModelFile, TensorData, TypeValue, ValueInfoProto, dtype_from_onnx};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::TensorBytes;

use crate::diagnostics::{Diagnostic, Failure, FailureKind};
use crate::driver::{DimBinding, PortInfo};

/// A tensor, sequence, optional or map.
pub type Value = DataValue;

/// How far a value may be from its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Each element: `|y - ref| <= atol + rtol * |ref|`.
    Elementwise {
        /// Relative to the element.
        rtol: f64,
        /// Absolute.
        atol: f64,
    },
    /// The whole tensor: `max|y - ref| <= bound * max|ref|`.
    MaxRelative(f64),
    /// The whole tensor: `sqrt(mean (y - ref)^2) <= bound * sqrt(mean ref^2)`.
    RootMeanSquare(f64),
}

/// How a value differs from its reference.
#[derive(Clone, Debug)]
pub struct Mismatch {
    kind: &'static str,
    text: String,
}

impl Mismatch {
    /// The kind of difference, in words that do not depend on the values.
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a port takes or gives.
#[derive(Clone, Copy, Debug)]
pub struct PortKind {
    /// Which message holds its values.
    pub kind: ValueKind,
    /// The type of a tensor's elements: NumPy's files do not tell small types apart.
    pub dtype: Option<DType>,
}

impl Default for PortKind {
    fn default() -> Self {
        PortKind { kind: ValueKind::Tensor, dtype: None }
    }
}

/// Reads a tensor from a `.npy` or `.pb` file. `dtype` is what the model asks for.
pub fn read_value(path: &Path, dtype: Option<DType>) -> Result<Value, Failure> {
    read_kind(path, PortKind { dtype, ..PortKind::default() })
}

/// Reads a value of a port from a `.npy` or `.pb` file.
pub fn read_kind(path: &Path, port: PortKind) -> Result<Value, Failure> {
    DataValue::read(path, port.kind, port.dtype).map_err(|error| {
        let kind = if error.code().starts_with('I') { FailureKind::Io } else { FailureKind::InvalidModel };
        Failure::new(kind, Diagnostic::error(error.code(), error.to_string()).in_file(path))
    })
}

/// Writes a tensor as `.npy`, whole or not at all.
pub fn write_npy(path: &Path, value: &Value) -> Result<(), Failure> {
    let Some(tensor) = value.as_tensor() else {
        return Err(Failure::usage(format!("{}: only tensors have a .npy form; ask for pb", path.display())));
    };
    let mut bytes = Vec::new();
    data::write_npy(tensor, &mut bytes).map_err(|e| Failure::io(path, &e))?;
    write_whole(path, &bytes)
}

/// Writes a value as the protobuf message of its kind, whole or not at all.
pub fn write_pb(path: &Path, name: &str, value: &Value) -> Result<(), Failure> {
    write_whole(path, &value.to_message(name))
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    onnxc_backend::output_file::write(path, bytes).map_err(|e| Failure::io(path, &e))
}

/// One line about a value: type, shape and range.
pub fn describe(value: &Value) -> String {
    let Some(tensor) = value.as_tensor() else { return format!("{:?}", value.kind()) };
    let mut text = format!("{}{:?}", tensor.dtype(), tensor.dims());
    let shown = tensor.len().min(6);
    if shown > 0 {
        let elements: Vec<String> = (0..shown).map(|i| tensor.element(i).to_string()).collect();
        text += &format!(" = {}{}", elements.join(", "), if tensor.len() > shown { ", ..." } else { "" });
    }
    text
}

/// Compares a value with its reference.
pub fn compare(found: &Value, reference: &Value, tolerance: &Tolerance) -> Result<(), Mismatch> {
    let elementwise = match *tolerance {
        Tolerance::Elementwise { rtol, atol } => data::Tolerance { rtol, atol },
        // Finite elements are judged together below; this finds NaN and infinities out of place.
        Tolerance::MaxRelative(_) | Tolerance::RootMeanSquare(_) => data::Tolerance { rtol: 0.0, atol: f64::MAX },
    };
    let comparison = data::compare(found, reference, elementwise)
        .map_err(|mismatch| Mismatch { kind: "has another type or shape", text: mismatch.to_string() })?;
    let beyond = |c: &Comparison| match *tolerance {
        Tolerance::MaxRelative(bound) => c.max_error > bound * c.max_reference,
        Tolerance::RootMeanSquare(bound) => c.squared_errors.sqrt() > bound * c.squared_references.sqrt(),
        Tolerance::Elementwise { .. } => false,
    };
    if !comparison.agrees() {
        return Err(Mismatch { kind: "differs", text: comparison.to_string() });
    }
    if beyond(&comparison) {
        let Comparison { max_error, max_reference, squared_errors, squared_references, .. } = comparison;
        let rms = (squared_errors / squared_references).sqrt();
        let text = format!(
            "max error {max_error:e} for a greatest reference of {max_reference:e}, root mean square {rms:e} of the \
             reference's"
        );
        return Err(Mismatch { kind: "differs", text });
    }
    Ok(())
}

/// What a test has to know of a model before it is compiled.
#[derive(Debug, Default)]
pub struct Expectations {
    /// The inputs with their names.
    pub inputs: Vec<(String, PortKind)>,
    /// The outputs.
    pub outputs: Vec<PortKind>,
    /// For each output, whether random numbers reach it.
    pub random: Vec<bool>,
}

impl Expectations {
    /// Those of the model in a file.
    pub fn of(model: &Path) -> Result<Expectations, Failure> {
        let file = ModelFile::open(model).map_err(|e| Failure::usage(format!("{}: {e}", model.display())))?;
        let Some(graph) = file.model.graph.as_deref() else { return Ok(Expectations::default()) };
        let port = |info: &ValueInfoProto| match info.r#type.as_deref().and_then(|t| t.value.as_ref()) {
            Some(TypeValue::SequenceType(_)) => PortKind { kind: ValueKind::Sequence, dtype: None },
            Some(TypeValue::OptionalType(_)) => PortKind { kind: ValueKind::Optional, dtype: None },
            Some(TypeValue::MapType(_)) => PortKind { kind: ValueKind::Map, dtype: None },
            Some(TypeValue::TensorType(t)) => PortKind { kind: ValueKind::Tensor, dtype: dtype_from_onnx(t.elem_type) },
            _ => PortKind::default(),
        };
        let given = |info: &&ValueInfoProto| !graph.initializer.iter().any(|t| t.name == info.name);
        Ok(Expectations {
            inputs: graph.input.iter().filter(given).map(|i| (i.name.clone(), port(i))).collect(),
            outputs: graph.output.iter().map(port).collect(),
            random: onnxc_frontend::ops::random_outputs(&file.model),
        })
    }
}

/// What the compiler has to know of an input that is no tensor: the length of a sequence under its name, 1 or 0 for an
/// optional, and the dimensions of their tensors.
pub fn shape_settings(name: &str, value: &Value, inside: bool, settings: &mut Vec<DimBinding>) {
    let mut set = |name: String, n: i64| settings.push(DimBinding { name, setting: DimSetting::Fixed(n) });
    match value {
        DataValue::Tensor(tensor) if inside => {
            tensor.dims().iter().enumerate().for_each(|(i, &n)| set(format!("{name}_dim{i}"), n));
        }
        DataValue::Tensor(_) | DataValue::Map { .. } => {}
        DataValue::Sequence(items) => {
            set(name.to_owned(), items.len() as i64);
            let items = items.iter().enumerate();
            items.for_each(|(i, item)| shape_settings(&format!("{name}#{i}"), item, true, settings));
        }
        DataValue::Optional(inner) => {
            set(name.to_owned(), i64::from(inner.is_some()));
            match inner.as_deref() {
                Some(tensor @ DataValue::Tensor(_)) => shape_settings(name, tensor, true, settings),
                Some(other) => shape_settings(&format!("{name}#0"), other, true, settings),
                None => {}
            }
        }
    }
}

/// Whether two values agree in type and shape and, by a test of significance, in their distribution.
pub fn could_be_samples_of_one(found: &Value, reference: &Value) -> bool {
    data::compare_distributions(found, reference).is_ok()
}

/// Elements for an input that nobody gave: small repeating numbers, so that no kernel meets infinities or denormals.
pub fn synthetic(port: &PortInfo) -> Result<Value, Failure> {
    let shape: Option<Vec<i64>> = port.ty.shape.iter().map(onnxc_ir::dim::Dim::as_const).collect();
    let Some(shape) = shape else {
        let message =
            format!("input `{}` has dimensions without a size: give --inputs, or fix them with --dim", port.name);
        return Err(Failure::usage(message));
    };
    let count: i64 = shape.iter().product();
    let dtype = port.ty.dtype;
    if dtype == DType::String {
        return Err(Failure::usage(format!("input `{}` is {dtype}: give --inputs", port.name)));
    }
    let mut bytes = Vec::new();
    if dtype.bytes().is_none() {
        // Several to a byte: zeros and ones in turn.
        let filled = dtype.packed_bytes(count as u64).unwrap_or(0);
        bytes.resize(filled as usize, if dtype.bits() == 4 { 0x10 } else { 0b01_00_01_00 });
        return dense(port, shape, bytes);
    }
    for i in 0..count {
        let small = (i % 17) as f32 / 16.0 - 0.5;
        match dtype {
            DType::F32 => bytes.extend(small.to_le_bytes()),
            DType::F64 => bytes.extend(f64::from(small).to_le_bytes()),
            // Token numbers, masks and indices: 0 and 1 are valid almost everywhere.
            _ => bytes.extend(&((i % 2) as u64).to_le_bytes()[..dtype.bits() as usize / 8]),
        }
    }
    dense(port, shape, bytes)
}

fn dense(port: &PortInfo, shape: Vec<i64>, bytes: Vec<u8>) -> Result<Value, Failure> {
    TensorData::dense(port.ty.dtype, shape, bytes.into())
        .map(DataValue::Tensor)
        .map_err(|e| Failure::usage(format!("input `{}`: {e}", port.name)))
}

/// The tensor as the interpreters take it.
pub(crate) fn to_tensor_bytes(value: &Value, port: &PortInfo) -> Result<TensorBytes, Failure> {
    value.as_tensor().map(TensorData::to_port).ok_or_else(|| {
        let message = format!("input `{}` takes a tensor", port.name);
        Failure::new(FailureKind::Run, Diagnostic::error("R001", message))
    })
}
