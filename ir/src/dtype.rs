//! Element types. Every ONNX element type exists here from the start, whether or not a backend can compute with it.

use std::fmt;
use std::str::FromStr;

/// The type of one tensor element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are the documentation: they follow the ONNX specification's element types.
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3FN,
    F8E4M3FNUZ,
    F8E5M2,
    F8E5M2FNUZ,
    F8E8M0,
    F4E2M1,
    I64,
    I32,
    I16,
    I8,
    I4,
    I2,
    U64,
    U32,
    U16,
    U8,
    U4,
    U2,
    /// One byte in memory, 0 or 1. Reading any other non-zero byte gives an unspecified truth value, never undefined behaviour.
    Bool,
    /// Text: the number, 64 bits, of a string in the run's table (see [`crate::strings`]). Where a caller gives or gets strings
    /// they are pairs of offset and length.
    String,
    C64,
    C128,
}

impl DType {
    /// All types, in the order of their declaration.
    pub const ALL: [DType; 26] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F8E8M0,
        DType::F4E2M1,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::I4,
        DType::I2,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
        DType::U4,
        DType::U2,
        DType::Bool,
        DType::String,
        DType::C64,
        DType::C128,
    ];

    /// The size of one element in memory in bits. Sub-byte types are packed, low bits first.
    pub fn bits(self) -> u32 {
        use DType::*;
        match self {
            C128 => 128,
            F64 | I64 | U64 | C64 | String => 64,
            F32 | I32 | U32 => 32,
            F16 | BF16 | I16 | U16 => 16,
            F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | I8 | U8 | Bool => 8,
            F4E2M1 | I4 | U4 => 4,
            I2 | U2 => 2,
        }
    }

    /// The size of one element in bytes; `None` for sub-byte types.
    pub fn bytes(self) -> Option<u32> {
        (self.bits() >= 8).then(|| self.bits() / 8)
    }

    /// The bytes that `elements` packed elements take, rounded up to whole bytes; `None` on overflow.
    pub fn packed_bytes(self, elements: u64) -> Option<u64> {
        Some(elements.checked_mul(u64::from(self.bits()))?.div_ceil(8))
    }

    /// The size in bits of one element in a caller's memory: that of a string is its offset and its length.
    pub fn port_bits(self) -> u32 {
        if self == DType::String { 128 } else { self.bits() }
    }

    /// Whether this is a real floating-point type of any width.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F64 | F32 | F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1)
    }

    /// Whether this is a signed integer type.
    pub fn is_signed_int(self) -> bool {
        use DType::*;
        matches!(self, I64 | I32 | I16 | I8 | I4 | I2)
    }

    /// Whether this is an unsigned integer type. `Bool` is none.
    pub fn is_unsigned_int(self) -> bool {
        use DType::*;
        matches!(self, U64 | U32 | U16 | U8 | U4 | U2)
    }

    /// Whether this is an integer type. `Bool` is none.
    pub fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// The name in textual IR, such as `f32` or `f8e4m3fn`.
    pub fn name(self) -> &'static str {
        use DType::*;
        match self {
            F64 => "f64",
            F32 => "f32",
            F16 => "f16",
            BF16 => "bf16",
            F8E4M3FN => "f8e4m3fn",
            F8E4M3FNUZ => "f8e4m3fnuz",
            F8E5M2 => "f8e5m2",
            F8E5M2FNUZ => "f8e5m2fnuz",
            F8E8M0 => "f8e8m0",
            F4E2M1 => "f4e2m1",
            I64 => "i64",
            I32 => "i32",
            I16 => "i16",
            I8 => "i8",
            I4 => "i4",
            I2 => "i2",
            U64 => "u64",
            U32 => "u32",
            U16 => "u16",
            U8 => "u8",
            U4 => "u4",
            U2 => "u2",
            Bool => "bool",
            String => "string",
            C64 => "c64",
            C128 => "c128",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is no type's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no element type")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(text: &str) -> Result<DType, UnknownDType> {
        DType::ALL.into_iter().find(|d| d.name() == text).ok_or_else(|| UnknownDType(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for d in DType::ALL {
            assert_eq!(d.name().parse::<DType>(), Ok(d));
        }
        assert!("float".parse::<DType>().is_err());
    }

    #[test]
    fn sub_byte_elements_are_packed() {
        assert_eq!(DType::I4.packed_bytes(3), Some(2));
        assert_eq!(DType::U2.packed_bytes(5), Some(2));
        assert_eq!(DType::F32.packed_bytes(u64::MAX), None);
    }
}
