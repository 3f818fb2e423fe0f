//! Constants: bytes that somebody else owns (a slice of the mapped model file, or a small buffer), or a recipe over other
//! constants that is evaluated while the object is written. Weights are never copied into the IR.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Constant, Op, TensorType};
use crate::dtype::DType;

/// Dense row-major elements of a known type, little-endian, sub-byte types packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorBytes {
    /// The element type.
    pub dtype: DType,
    /// The dimensions.
    pub shape: SmallVec<[i64; 5]>,
    /// The elements; cheap to clone, possibly a slice of a mapped file and of any alignment.
    pub bytes: Bytes,
}

/// A constant's record.
#[derive(Clone, Debug)]
pub struct ConstantData {
    /// The type; all dimensions are constants.
    pub ty: TensorType,
    /// The elements.
    pub source: ConstantSource,
    /// The initializer's name, or of the first one it is made from; for dumps and profiles.
    pub name: String,
}

/// How to get a constant's elements.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // A model has hundreds of constants, not millions.
pub enum ConstantSource {
    /// These bytes.
    Bytes(Bytes),
    /// One element repeated.
    Splat(crate::scalar::Scalar),
    /// The only result of a pure operation without regions, applied to other constants. Evaluated when it is written.
    Lazy {
        /// The operation.
        op: Op,
        /// Its inputs.
        inputs: SmallVec<[Constant; 4]>,
    },
}

impl TensorBytes {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A tensor of `i64`.
    pub fn from_i64(shape: &[i64], values: &[i64]) -> TensorBytes {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorBytes { dtype: DType::I64, shape: shape.into(), bytes: bytes.into() }
    }

    /// A tensor of `f32`.
    pub fn from_f32(shape: &[i64], values: &[f32]) -> TensorBytes {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        TensorBytes { dtype: DType::F32, shape: shape.into(), bytes: bytes.into() }
    }

    /// The elements of an `f32` tensor.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        (self.dtype == DType::F32)
            .then(|| self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The elements of an integer or `bool` tensor of at least 8 bits, as `i64`; `None` for other types.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let b = &self.bytes[..];
        Some(match self.dtype {
            DType::I64 | DType::U64 => {
                b.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().expect("chunk of 8"))).collect()
            }
            DType::I32 => {
                b.chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().expect("chunk of 4")).into()).collect()
            }
            DType::U32 => {
                b.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("chunk of 4")).into()).collect()
            }
            DType::I16 => b.chunks_exact(2).map(|c| i16::from_le_bytes([c[0], c[1]]).into()).collect(),
            DType::U16 => b.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]).into()).collect(),
            DType::I8 => b.iter().map(|&c| (c as i8).into()).collect(),
            DType::U8 => b.iter().map(|&c| c.into()).collect(),
            DType::Bool => b.iter().map(|&c| (c != 0).into()).collect(),
            _ => return None,
        })
    }
}
