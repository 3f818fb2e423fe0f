//! A tensor's elements as little-endian bytes, whichever field or file they come from.
//!
//! Before: a `TensorProto` as the file has it. After: dimensions that are not negative and whose product fits, and
//! exactly as many bytes or strings as they ask for. `raw_data` and external data are slices, never copies.

use bytes::Bytes;
use onnxc_ir::dtype::DType;
use onnxc_ir::strings::{self, StringTable};
use onnxc_ir::tensor::TensorBytes;

use super::dtypes::{dtype_from_onnx, dtype_to_onnx};
use super::error::{LoadError, LoadProblem};
use super::external::ExternalData;
use super::values::{LOCATION_EXTERNAL, TensorProto};

/// Highest rank of any tensor. Published models stay below 10.
const MAX_RANK: usize = 32;

/// A dense tensor with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorData {
    dtype: DType,
    dims: Vec<i64>,
    elements: Elements,
}

/// The elements of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Little-endian, sub-byte types packed low bits first; of any alignment.
    Dense(Bytes),
    /// Strings as bytes: ONNX asks for UTF-8 and files do not always comply.
    Strings(Vec<Bytes>),
}

/// The number of elements. No dimension is negative, and the product of those that are not zero fits `i64`, so that
/// strides fit too.
pub(crate) fn element_count(dims: &[i64]) -> Result<u64, LoadProblem> {
    if dims.len() > MAX_RANK {
        return Err(LoadProblem::Rank(dims.len(), MAX_RANK));
    }
    let impossible = || LoadProblem::Dimensions(dims.to_vec());
    let mut extent = 1i64;
    for &dim in dims {
        if dim < 0 {
            return Err(impossible());
        }
        extent = extent.checked_mul(dim.max(1)).ok_or_else(impossible)?;
    }
    Ok(if dims.contains(&0) { 0 } else { extent.unsigned_abs() })
}

impl TensorData {
    /// A tensor from dense bytes; their number must be what the dimensions ask for. `dtype` is not String.
    pub fn dense(dtype: DType, dims: Vec<i64>, bytes: Bytes) -> Result<TensorData, LoadError> {
        let needed = dense_length(dtype, &dims).map_err(LoadProblem::here)?;
        let found = bytes.len() as u64;
        if dtype == DType::String {
            return Err(LoadProblem::WrongField { dtype, field: "raw_data" }.here());
        }
        if needed != found {
            return Err(LoadProblem::Length { dtype, dims, needed, found, unit: "bytes" }.here());
        }
        Ok(TensorData { dtype, dims, elements: Elements::Dense(bytes) })
    }

    /// A tensor of strings; their number must be what the dimensions ask for.
    pub fn strings(dims: Vec<i64>, strings: Vec<Bytes>) -> Result<TensorData, LoadError> {
        let dtype = DType::String;
        let needed = element_count(&dims).map_err(LoadProblem::here)?;
        let found = strings.len() as u64;
        if needed != found {
            return Err(LoadProblem::Length { dtype, dims, needed, found, unit: "strings" }.here());
        }
        Ok(TensorData { dtype, dims, elements: Elements::Strings(strings) })
    }

    /// The tensor of a message. Errors name the tensor.
    pub fn from_proto(proto: &TensorProto, external: &ExternalData) -> Result<TensorData, LoadError> {
        read(proto, external).map_err(|error| {
            if proto.name.is_empty() { error } else { error.within(format!("tensor `{}`", proto.name)) }
        })
    }

    /// The message of a tensor, with `raw_data` or `string_data`.
    pub fn to_proto(&self, name: &str) -> TensorProto {
        let mut proto = TensorProto {
            dims: self.dims.clone(),
            data_type: dtype_to_onnx(self.dtype),
            name: name.to_owned(),
            ..TensorProto::default()
        };
        match &self.elements {
            Elements::Dense(bytes) => proto.raw_data = Some(bytes.clone()),
            Elements::Strings(strings) => proto.string_data = strings.clone(),
        }
        proto
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions, none negative.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// The elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The number of elements.
    pub fn len(&self) -> u64 {
        element_count(&self.dims).expect("the dimensions were checked when the tensor was made")
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.dims.contains(&0)
    }

    /// The bytes of the elements; None for strings.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.elements {
            Elements::Dense(bytes) => Some(bytes),
            Elements::Strings(_) => None,
        }
    }

    /// The tensor as the IR has it; None for strings. Copies no elements.
    pub fn to_tensor_bytes(&self) -> Option<TensorBytes> {
        let bytes = self.bytes()?.clone();
        Some(TensorBytes { dtype: self.dtype, shape: self.dims.as_slice().into(), bytes })
    }

    /// The tensor as a model takes it: strings in one buffer.
    pub fn to_port(&self) -> TensorBytes {
        match &self.elements {
            Elements::Dense(bytes) => {
                TensorBytes { dtype: self.dtype, shape: self.dims.as_slice().into(), bytes: bytes.clone() }
            }
            Elements::Strings(list) => {
                strings::packed(&self.dims, &list.iter().map(|s| &s[..]).collect::<Vec<&[u8]>>())
            }
        }
    }

    /// The tensor as constants of a graph are: strings as numbers in its table.
    pub fn to_constant(&self, table: &mut StringTable) -> TensorBytes {
        match &self.elements {
            Elements::Dense(_) => self.to_port(),
            Elements::Strings(list) => table.numbers(&self.dims, list.iter().map(|s| &s[..])),
        }
    }

    /// The same elements under other dimensions of the same element count.
    pub fn with_dims(self, dims: Vec<i64>) -> Result<TensorData, LoadError> {
        match self.elements {
            Elements::Dense(bytes) => TensorData::dense(self.dtype, dims, bytes),
            Elements::Strings(strings) => TensorData::strings(dims, strings),
        }
    }
}

/// A tensor as a model gives it.
impl From<TensorBytes> for TensorData {
    fn from(tensor: TensorBytes) -> TensorData {
        if tensor.dtype == DType::String {
            let list = strings::unpacked(&tensor).expect("a model's strings lie in their buffer");
            let list = list.into_iter().map(Bytes::copy_from_slice).collect();
            return TensorData::strings(tensor.shape.to_vec(), list).expect("as many strings as the shape asks for");
        }
        TensorData::dense(tensor.dtype, tensor.shape.to_vec(), tensor.bytes)
            .expect("a tensor of the IR has as many bytes as its shape asks for")
    }
}

fn dense_length(dtype: DType, dims: &[i64]) -> Result<u64, LoadProblem> {
    dtype.packed_bytes(element_count(dims)?).ok_or_else(|| LoadProblem::Dimensions(dims.to_vec()))
}

fn read(proto: &TensorProto, external: &ExternalData) -> Result<TensorData, LoadError> {
    let dtype =
        dtype_from_onnx(proto.data_type).ok_or_else(|| LoadProblem::UnknownDType(proto.data_type).at("data_type"))?;
    if proto.segment.is_some() {
        return Err(LoadProblem::Unsupported("tensor segments").at("segment"));
    }
    let home = typed_field(dtype);
    let typed = [
        ("float_data", proto.float_data.len()),
        ("double_data", proto.double_data.len()),
        ("int32_data", proto.int32_data.len()),
        ("int64_data", proto.int64_data.len()),
        ("uint64_data", proto.uint64_data.len()),
        ("string_data", proto.string_data.len()),
    ];
    let is_external = proto.data_location == LOCATION_EXTERNAL;
    let raw = proto.raw_data.as_ref().filter(|raw| !raw.is_empty());
    for (field, length) in typed {
        if length > 0 && (field != home || is_external || raw.is_some()) {
            return Err(LoadProblem::WrongField { dtype, field }.at(field));
        }
    }
    if is_external {
        let place = "external_data";
        if dtype == DType::String || raw.is_some() {
            return Err(LoadProblem::WrongField { dtype, field: place }.at(place));
        }
        let needed = dense_length(dtype, &proto.dims).map_err(|problem| problem.at("dims"))?;
        let bytes = external.slice(&proto.external_data, needed).map_err(|problem| problem.at(place))?;
        return TensorData::dense(dtype, proto.dims.clone(), bytes);
    }
    if dtype == DType::String && raw.is_none() {
        return TensorData::strings(proto.dims.clone(), proto.string_data.clone());
    }
    let bytes = match raw {
        Some(raw) => raw.clone(),
        None => typed_bytes(proto, dtype, home)?,
    };
    TensorData::dense(dtype, proto.dims.clone(), bytes)
}

/// The field in which elements of a type lie when they are not raw.
fn typed_field(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::C64 => "float_data",
        DType::F64 | DType::C128 => "double_data",
        DType::I64 => "int64_data",
        DType::U64 | DType::U32 => "uint64_data",
        DType::String => "string_data",
        DType::F16
        | DType::BF16
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::F4E2M1
        | DType::I32
        | DType::I16
        | DType::I8
        | DType::I4
        | DType::I2
        | DType::U16
        | DType::U8
        | DType::U4
        | DType::U2
        | DType::Bool => "int32_data",
    }
}

/// The bytes of a typed field. Complex numbers lie as pairs, sub-byte types as whole bytes.
fn typed_bytes(proto: &TensorProto, dtype: DType, home: &'static str) -> Result<Bytes, LoadError> {
    fn collect<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| bytes(*value)).collect()
    }
    let range = |value: i64| LoadProblem::Range { dtype, value }.at(home);
    Ok(Bytes::from(match home {
        "float_data" => collect(&proto.float_data, f32::to_le_bytes),
        "double_data" => collect(&proto.double_data, f64::to_le_bytes),
        "int64_data" => collect(&proto.int64_data, i64::to_le_bytes),
        "uint64_data" if dtype == DType::U64 => collect(&proto.uint64_data, u64::to_le_bytes),
        "uint64_data" => {
            let mut bytes = Vec::with_capacity(proto.uint64_data.len() * 4);
            for &value in &proto.uint64_data {
                let narrow = u32::try_from(value).map_err(|_| range(value as i64))?;
                bytes.extend(narrow.to_le_bytes());
            }
            bytes
        }
        _ if dtype == DType::Bool => proto.int32_data.iter().map(|value| u8::from(*value != 0)).collect(),
        _ if dtype == DType::I32 => collect(&proto.int32_data, i32::to_le_bytes),
        _ => {
            let width = dtype.bits().div_ceil(8) as usize;
            // Writers disagree on whether bit patterns are sign-extended, so both readings of the width are taken.
            let (low, high) = if width == 2 { (i16::MIN.into(), u16::MAX.into()) } else { (i8::MIN.into(), 255) };
            let mut bytes = Vec::with_capacity(proto.int32_data.len() * width);
            for &value in &proto.int32_data {
                if !(low..=high).contains(&value) {
                    return Err(range(value.into()));
                }
                bytes.extend_from_slice(&value.to_le_bytes()[..width]);
            }
            bytes
        }
    }))
}
