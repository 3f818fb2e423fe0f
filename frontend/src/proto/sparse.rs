//! Sparse tensors, made dense.

use bytes::Bytes;
use onnxc_ir::dtype::DType;

use super::error::{LoadError, LoadProblem};
use super::external::ExternalData;
use super::tensor::{TensorData, element_count};
use super::values::SparseTensorProto;

/// Most bytes that a sparse tensor may become: a few bytes in a file can ask for any number.
const MAX_DENSE_BYTES: u64 = 1 << 30;

/// The dense tensor of a sparse one: zero where no index points. Element types of whole bytes only.
pub fn densify(proto: &SparseTensorProto, external: &ExternalData) -> Result<TensorData, LoadError> {
    let wrong = |message: String| LoadProblem::Sparse(message).here();
    let (Some(values), Some(indices)) = (&proto.values, &proto.indices) else {
        return Err(wrong("needs both values and indices".to_owned()));
    };
    let values = TensorData::from_proto(values, external)?;
    let indices = TensorData::from_proto(indices, external)?;
    let count = element_count(&proto.dims).map_err(|problem| problem.at("dims"))?;
    let (Some(width), Some(source)) = (values.dtype().bytes().map(u64::from), values.bytes()) else {
        return Err(LoadProblem::Unsupported("sparse tensors of strings or sub-byte elements").here());
    };
    let total = count.checked_mul(width).filter(|total| *total <= MAX_DENSE_BYTES);
    let total = total.ok_or_else(|| wrong(format!("{:?} is too large to be made dense", proto.dims)))?;
    let rank = proto.dims.len();
    let per_value = match indices.dims() {
        [n] if n.unsigned_abs() == values.len() => 1,
        [n, r] if n.unsigned_abs() == values.len() && r.unsigned_abs() == rank as u64 => rank,
        other => {
            return Err(wrong(format!("indices of shape {other:?} do not fit {} values of rank {rank}", values.len())));
        }
    };
    let is_linear = indices.dims().len() == 1;
    let Some(index_bytes) = indices.bytes().filter(|_| indices.dtype() == DType::I64) else {
        return Err(wrong(format!("indices are {}, not i64", indices.dtype())));
    };
    let index_values: Vec<i64> = index_bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    let mut dense = vec![0u8; total as usize];
    let width = width as usize;
    for (position, element) in source.chunks_exact(width).enumerate() {
        let index = &index_values[position * per_value..(position + 1) * per_value];
        let linear = if is_linear {
            u64::try_from(index[0]).ok().filter(|linear| *linear < count)
        } else {
            index.iter().zip(&proto.dims).try_fold(0u64, |linear, (&index, &dim)| {
                (0..dim).contains(&index).then(|| linear * dim.unsigned_abs() + index.unsigned_abs())
            })
        };
        let linear = linear.ok_or_else(|| wrong(format!("index {index:?} is outside {:?}", proto.dims)))? as usize;
        dense[linear * width..(linear + 1) * width].copy_from_slice(element);
    }
    TensorData::dense(values.dtype(), proto.dims.clone(), Bytes::from(dense))
}
