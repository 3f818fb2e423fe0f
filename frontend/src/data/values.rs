//! A value of a model's input or output, from and to files.

use bytes::Bytes;
use onnxc_ir::dtype::DType;
use prost::Message;
use std::path::Path;

use super::npy::read_npy;
use crate::proto::{
    ElementKind, ExternalData, LoadError, LoadProblem, MapProto, OptionalProto, SequenceProto, TensorData, TensorProto,
    decode, densify, dtype_to_onnx, map_file,
};

/// What a model takes or gives: a tensor, or tensors in containers.
#[derive(Clone, Debug, PartialEq)]
pub enum DataValue {
    /// A dense tensor.
    Tensor(TensorData),
    /// A list.
    Sequence(Vec<DataValue>),
    /// A value or nothing.
    Optional(Option<Box<DataValue>>),
    /// Keys and values in the same order.
    Map {
        /// Rank 1; an integer type or String.
        keys: TensorData,
        /// As many as there are keys.
        values: Vec<DataValue>,
    },
}

/// Which message a `.pb` file holds. The file does not say: who reads it must know, from the model's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A `TensorProto`.
    Tensor,
    /// A `SequenceProto`.
    Sequence,
    /// An `OptionalProto`.
    Optional,
    /// A `MapProto`.
    Map,
}

impl DataValue {
    /// Reads a file: `.npy`, or else a protobuf message of the kind. The elements stay in the mapped file where they can.
    /// `dtype` is what the model asks for; it decides what the void elements of `.npy` files of small floats mean.
    pub fn read(path: &Path, kind: ValueKind, dtype: Option<DType>) -> Result<DataValue, LoadError> {
        let bytes = map_file(path)?;
        let value = if path.extension().is_some_and(|extension| extension == "npy") {
            read_npy(bytes, dtype).map(DataValue::Tensor)
        } else {
            DataValue::from_message(bytes, kind)
        };
        value.map_err(|error| error.within(path.display().to_string()))
    }

    /// Decodes a message of the kind.
    pub fn from_message(bytes: Bytes, kind: ValueKind) -> Result<DataValue, LoadError> {
        match kind {
            ValueKind::Tensor => Ok(DataValue::Tensor(from_tensor(&decode::<TensorProto>(bytes)?)?)),
            ValueKind::Sequence => from_sequence(&decode::<SequenceProto>(bytes)?).map(DataValue::Sequence),
            ValueKind::Optional => from_optional(&decode::<OptionalProto>(bytes)?),
            ValueKind::Map => from_map(&decode::<MapProto>(bytes)?),
        }
    }

    /// Encodes the message that ONNX's test data would hold.
    pub fn to_message(&self, name: &str) -> Vec<u8> {
        match self {
            DataValue::Tensor(tensor) => tensor.to_proto(name).encode_to_vec(),
            DataValue::Sequence(values) => to_sequence(values, name).encode_to_vec(),
            DataValue::Optional(value) => to_optional(value.as_deref(), name).encode_to_vec(),
            DataValue::Map { keys, values } => to_map(keys, values, name).encode_to_vec(),
        }
    }

    /// Which message holds the value.
    pub fn kind(&self) -> ValueKind {
        match self {
            DataValue::Tensor(_) => ValueKind::Tensor,
            DataValue::Sequence(_) => ValueKind::Sequence,
            DataValue::Optional(_) => ValueKind::Optional,
            DataValue::Map { .. } => ValueKind::Map,
        }
    }

    /// The tensor, where the value is one.
    pub fn as_tensor(&self) -> Option<&TensorData> {
        match self {
            DataValue::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}

fn from_tensor(proto: &TensorProto) -> Result<TensorData, LoadError> {
    TensorData::from_proto(proto, &ExternalData::none())
}

/// Reads each message of a list; errors tell the position.
fn each<'m, M: 'm>(
    list: &'m [M],
    read: impl Fn(&'m M) -> Result<DataValue, LoadError>,
) -> Result<Vec<DataValue>, LoadError> {
    let read_at = |(index, message)| read(message).map_err(|error| error.within(format!("element {index}")));
    list.iter().enumerate().map(read_at).collect()
}

fn from_sequence(proto: &SequenceProto) -> Result<Vec<DataValue>, LoadError> {
    match ElementKind::try_from(proto.elem_type).unwrap_or(ElementKind::Undefined) {
        ElementKind::Tensor => each(&proto.tensor_values, |tensor| from_tensor(tensor).map(DataValue::Tensor)),
        ElementKind::SparseTensor => {
            each(&proto.sparse_tensor_values, |sparse| densify(sparse, &ExternalData::none()).map(DataValue::Tensor))
        }
        ElementKind::Sequence => {
            each(&proto.sequence_values, |sequence| from_sequence(sequence).map(DataValue::Sequence))
        }
        ElementKind::Map => each(&proto.map_values, from_map),
        ElementKind::Optional => each(&proto.optional_values, from_optional),
        ElementKind::Undefined => Ok(Vec::new()),
    }
}

fn from_optional(proto: &OptionalProto) -> Result<DataValue, LoadError> {
    let missing = |expected: &'static str| {
        let reason = format!("elem_type {} without its value", proto.elem_type);
        LoadProblem::Malformed { expected, reason }.here()
    };
    let value = match ElementKind::try_from(proto.elem_type).unwrap_or(ElementKind::Undefined) {
        ElementKind::Undefined => return Ok(DataValue::Optional(None)),
        ElementKind::Tensor => proto.tensor_value.as_ref().map(|tensor| from_tensor(tensor).map(DataValue::Tensor)),
        ElementKind::SparseTensor => {
            let sparse = proto.sparse_tensor_value.as_ref();
            sparse.map(|sparse| densify(sparse, &ExternalData::none()).map(DataValue::Tensor))
        }
        ElementKind::Sequence => {
            proto.sequence_value.as_ref().map(|sequence| from_sequence(sequence).map(DataValue::Sequence))
        }
        ElementKind::Map => proto.map_value.as_ref().map(from_map),
        ElementKind::Optional => proto.optional_value.as_deref().map(from_optional),
    };
    let value = value.ok_or_else(|| missing("OptionalProto"))??;
    Ok(DataValue::Optional(Some(Box::new(value))))
}

fn from_map(proto: &MapProto) -> Result<DataValue, LoadError> {
    let keys = if proto.string_keys.is_empty() {
        // Keys of every integer type lie in one field of 64 bits.
        let bytes: Vec<u8> = proto.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        TensorData::dense(DType::I64, vec![proto.keys.len() as i64], Bytes::from(bytes))?
    } else {
        TensorData::strings(vec![proto.string_keys.len() as i64], proto.string_keys.clone())?
    };
    let values = proto.values.as_ref().map(from_sequence).transpose()?.unwrap_or_default();
    if values.len() as u64 != keys.len() {
        let reason = format!("{} keys for {} values", keys.len(), values.len());
        return Err(LoadProblem::Malformed { expected: "MapProto", reason }.here());
    }
    Ok(DataValue::Map { keys, values })
}

fn to_sequence(values: &[DataValue], name: &str) -> SequenceProto {
    let mut proto = SequenceProto { name: name.to_owned(), ..SequenceProto::default() };
    for value in values {
        let kind = match value {
            DataValue::Tensor(tensor) => {
                proto.tensor_values.push(tensor.to_proto(""));
                ElementKind::Tensor
            }
            DataValue::Sequence(values) => {
                proto.sequence_values.push(to_sequence(values, ""));
                ElementKind::Sequence
            }
            DataValue::Optional(value) => {
                proto.optional_values.push(to_optional(value.as_deref(), ""));
                ElementKind::Optional
            }
            DataValue::Map { keys, values } => {
                proto.map_values.push(to_map(keys, values, ""));
                ElementKind::Map
            }
        };
        proto.elem_type = kind as i32;
    }
    proto
}

fn to_optional(value: Option<&DataValue>, name: &str) -> OptionalProto {
    let mut proto = OptionalProto { name: name.to_owned(), ..OptionalProto::default() };
    let kind = match value {
        None => ElementKind::Undefined,
        Some(DataValue::Tensor(tensor)) => {
            proto.tensor_value = Some(tensor.to_proto(""));
            ElementKind::Tensor
        }
        Some(DataValue::Sequence(values)) => {
            proto.sequence_value = Some(to_sequence(values, ""));
            ElementKind::Sequence
        }
        Some(DataValue::Optional(value)) => {
            proto.optional_value = Some(Box::new(to_optional(value.as_deref(), "")));
            ElementKind::Optional
        }
        Some(DataValue::Map { keys, values }) => {
            proto.map_value = Some(to_map(keys, values, ""));
            ElementKind::Map
        }
    };
    proto.elem_type = kind as i32;
    proto
}

fn to_map(keys: &TensorData, values: &[DataValue], name: &str) -> MapProto {
    let mut proto = MapProto {
        name: name.to_owned(),
        key_type: dtype_to_onnx(keys.dtype()),
        values: Some(to_sequence(values, "")),
        ..MapProto::default()
    };
    match keys.elements() {
        crate::proto::Elements::Strings(strings) => proto.string_keys = strings.clone(),
        crate::proto::Elements::Dense(_) => {
            proto.keys = (0..keys.len()).filter_map(|index| keys.element(index).as_i64()).collect();
        }
    }
    proto
}
