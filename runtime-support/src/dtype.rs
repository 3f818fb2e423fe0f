//! Element types: ONNX's number, DLPack's description, and the Rust type where there is one.

use core::fmt;

use crate::abi::DLDataType;

/// Declares `DataType` with ONNX's number, DLPack's code, bits and lanes, and ONNX's name in lower case.
macro_rules! data_types {
    ($($variant:ident = $onnx:literal, $code:literal, $bits:literal, $lanes:literal, $name:literal;)+) => {
        /// An ONNX element type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum DataType {
            $($variant,)+
        }

        impl DataType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The type of a number of ONNX's `TensorProto.DataType`.
            pub const fn from_onnx(number: i32) -> Option<Self> {
                match number {
                    $($onnx => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The number in ONNX's `TensorProto.DataType`.
            pub const fn onnx(self) -> i32 {
                match self {
                    $(Self::$variant => $onnx,)+
                }
            }

            /// DLPack's description.
            pub const fn dlpack(self) -> DLDataType {
                match self {
                    $(Self::$variant => DLDataType { code: $code, bits: $bits, lanes: $lanes },)+
                }
            }

            /// ONNX's name, in lower case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

data_types! {
    F32 = 1, 2, 32, 1, "float";
    U8 = 2, 1, 8, 1, "uint8";
    I8 = 3, 0, 8, 1, "int8";
    U16 = 4, 1, 16, 1, "uint16";
    I16 = 5, 0, 16, 1, "int16";
    I32 = 6, 0, 32, 1, "int32";
    I64 = 7, 0, 64, 1, "int64";
    String = 8, 3, 64, 2, "string";
    Bool = 9, 6, 8, 1, "bool";
    F16 = 10, 2, 16, 1, "float16";
    F64 = 11, 2, 64, 1, "double";
    U32 = 12, 1, 32, 1, "uint32";
    U64 = 13, 1, 64, 1, "uint64";
    Complex64 = 14, 5, 64, 1, "complex64";
    Complex128 = 15, 5, 128, 1, "complex128";
    Bf16 = 16, 4, 16, 1, "bfloat16";
    F8E4M3Fn = 17, 10, 8, 1, "float8e4m3fn";
    F8E4M3Fnuz = 18, 11, 8, 1, "float8e4m3fnuz";
    F8E5M2 = 19, 12, 8, 1, "float8e5m2";
    F8E5M2Fnuz = 20, 13, 8, 1, "float8e5m2fnuz";
    U4 = 21, 1, 4, 1, "uint4";
    I4 = 22, 0, 4, 1, "int4";
    F4E2M1 = 23, 17, 4, 1, "float4e2m1";
    F8E8M0 = 24, 14, 8, 1, "float8e8m0";
    U2 = 25, 1, 2, 1, "uint2";
    I2 = 26, 0, 2, 1, "int2";
}

impl DataType {
    /// The type of a DLPack description, `None` for one that ONNX does not have.
    pub fn from_dlpack(dtype: DLDataType) -> Option<Self> {
        Self::ALL.iter().copied().find(|candidate| candidate.dlpack() == dtype)
    }

    /// The bytes of a dense tensor of this type: sub-byte elements are packed. `None` for a negative dim or overflow.
    pub fn tensor_bytes(self, shape: &[i64]) -> Option<usize> {
        let mut elements = 1usize;
        for &dim in shape {
            elements = elements.checked_mul(usize::try_from(dim).ok()?)?;
        }
        let dtype = self.dlpack();
        Some(elements.checked_mul(usize::from(dtype.bits) * usize::from(dtype.lanes))?.div_ceil(8))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

mod sealed {
    /// Keeps `Element` to the types of this file.
    pub trait Sealed {}
}

/// A Rust type that is laid out as an ONNX element type.
pub trait Element: Copy + sealed::Sealed + 'static {
    /// The ONNX type.
    const DTYPE: DataType;

    /// Whether the bytes of dense elements are values of the type; only `bool` has others.
    fn are_valid(_bytes: &[u8]) -> bool {
        true
    }
}

macro_rules! elements {
    ($($type:ty = $variant:ident),+) => {
        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const DTYPE: DataType = DataType::$variant;
            }
        )+
    };
}

elements!(f32 = F32, f64 = F64, u8 = U8, u16 = U16, u32 = U32, u64 = U64, i8 = I8, i16 = I16, i32 = I32, i64 = I64);

impl sealed::Sealed for bool {}
impl Element for bool {
    const DTYPE: DataType = DataType::Bool;

    fn are_valid(bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| byte <= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_apart_by_both_numbers() {
        for &dtype in DataType::ALL {
            assert_eq!(DataType::from_onnx(dtype.onnx()), Some(dtype));
            assert_eq!(DataType::from_dlpack(dtype.dlpack()), Some(dtype));
        }
        assert_eq!(DataType::from_onnx(0), None);
    }

    #[test]
    fn sizes_round_up_and_overflow_is_none() {
        assert_eq!(DataType::I4.tensor_bytes(&[3]), Some(2));
        assert_eq!(DataType::String.tensor_bytes(&[3]), Some(48));
        assert_eq!(DataType::F32.tensor_bytes(&[]), Some(4));
        assert_eq!(DataType::F32.tensor_bytes(&[i64::MAX, 4]), None);
        assert_eq!(DataType::F32.tensor_bytes(&[-1]), None);
    }
}
