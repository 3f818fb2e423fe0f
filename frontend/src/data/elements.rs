//! Single elements of a tensor as numbers, for every element type. Slow and obvious: it serves comparing and printing.

use half::{bf16, f16};
use onnxc_ir::dtype::DType;
use std::fmt;

use crate::proto::{Elements, TensorData};

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// Any integer type, and Bool as 0 or 1.
    Int(i128),
    /// Any floating-point type; exact.
    Real(f64),
    /// Real and imaginary part.
    Complex(f64, f64),
    /// A string's bytes.
    Text(bytes::Bytes),
}

impl Element {
    /// The value of an integer element that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Element::Int(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Int(value) => write!(f, "{value}"),
            Element::Real(value) => write!(f, "{value:?}"),
            Element::Complex(re, im) => write!(f, "{re:?}{im:+?}i"),
            Element::Text(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

/// How a small float encodes what is not finite.
enum Special {
    /// The largest exponent holds infinities and NaN.
    Ieee,
    /// Only the all-ones pattern of either sign is NaN.
    AllOnes,
    /// Only negative zero is NaN.
    NegativeZero,
    /// Every pattern is finite.
    None,
}

/// Decodes a float of a sign bit, `exponent_bits` and `mantissa_bits`.
fn small_float(bits: u8, exponent_bits: u32, mantissa_bits: u32, bias: i32, special: Special) -> f64 {
    let magnitude = u32::from(bits) & ((1 << (exponent_bits + mantissa_bits)) - 1);
    let negative = u32::from(bits) >> (exponent_bits + mantissa_bits) & 1 == 1;
    let (exponent, mantissa) = (magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1));
    let top_exponent = (1 << exponent_bits) - 1;
    let value = match special {
        Special::Ieee if exponent == top_exponent && mantissa == 0 => f64::INFINITY,
        Special::Ieee if exponent == top_exponent => f64::NAN,
        Special::AllOnes if exponent == top_exponent && mantissa == (1 << mantissa_bits) - 1 => f64::NAN,
        Special::NegativeZero if negative && magnitude == 0 => f64::NAN,
        _ => {
            let fraction = f64::from(mantissa) / f64::from(1u32 << mantissa_bits);
            let (one, power) = if exponent == 0 { (0.0, 1 - bias) } else { (1.0, exponent as i32 - bias) };
            (one + fraction) * 2f64.powi(power)
        }
    };
    if negative { -value } else { value }
}

impl TensorData {
    /// The element at a linear, row-major position.
    ///
    /// # Panics
    /// Where the position is not below the number of elements.
    pub fn element(&self, index: u64) -> Element {
        let index = index as usize;
        match self.elements() {
            Elements::Strings(strings) => Element::Text(strings[index].clone()),
            Elements::Dense(bytes) => dense_element(self.dtype(), bytes, index),
        }
    }
}

fn dense_element(dtype: DType, bytes: &[u8], index: usize) -> Element {
    fn at<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
        bytes.as_chunks().0[index]
    }
    let small = |width: usize| {
        let per_byte = 8 / width;
        (bytes[index / per_byte] >> (index % per_byte * width)) & ((1u16 << width) - 1) as u8
    };
    // Moves the sign bit of a small integer to the top and back.
    let signed = |width: usize| i128::from((small(width) << (8 - width)) as i8 >> (8 - width));
    match dtype {
        DType::F64 => Element::Real(f64::from_le_bytes(at(bytes, index))),
        DType::F32 => Element::Real(f32::from_le_bytes(at(bytes, index)).into()),
        DType::F16 => Element::Real(f16::from_le_bytes(at(bytes, index)).into()),
        DType::BF16 => Element::Real(bf16::from_le_bytes(at(bytes, index)).into()),
        DType::F8E4M3FN => Element::Real(small_float(bytes[index], 4, 3, 7, Special::AllOnes)),
        DType::F8E4M3FNUZ => Element::Real(small_float(bytes[index], 4, 3, 8, Special::NegativeZero)),
        DType::F8E5M2 => Element::Real(small_float(bytes[index], 5, 2, 15, Special::Ieee)),
        DType::F8E5M2FNUZ => Element::Real(small_float(bytes[index], 5, 2, 16, Special::NegativeZero)),
        DType::F8E8M0 if bytes[index] == 0xff => Element::Real(f64::NAN),
        DType::F8E8M0 => Element::Real(2f64.powi(i32::from(bytes[index]) - 127)),
        DType::F4E2M1 => Element::Real(small_float(small(4), 2, 1, 1, Special::None)),
        DType::I64 => Element::Int(i64::from_le_bytes(at(bytes, index)).into()),
        DType::I32 => Element::Int(i32::from_le_bytes(at(bytes, index)).into()),
        DType::I16 => Element::Int(i16::from_le_bytes(at(bytes, index)).into()),
        DType::I8 => Element::Int((bytes[index] as i8).into()),
        DType::I4 => Element::Int(signed(4)),
        DType::I2 => Element::Int(signed(2)),
        DType::U64 => Element::Int(u64::from_le_bytes(at(bytes, index)).into()),
        DType::U32 => Element::Int(u32::from_le_bytes(at(bytes, index)).into()),
        DType::U16 => Element::Int(u16::from_le_bytes(at(bytes, index)).into()),
        DType::U8 => Element::Int(bytes[index].into()),
        DType::U4 => Element::Int(small(4).into()),
        DType::U2 => Element::Int(small(2).into()),
        DType::Bool => Element::Int((bytes[index] != 0).into()),
        DType::C64 => {
            let [re, im] = [2 * index, 2 * index + 1].map(|part| f32::from_le_bytes(at(bytes, part)));
            Element::Complex(re.into(), im.into())
        }
        DType::C128 => {
            let [re, im] = [2 * index, 2 * index + 1].map(|part| f64::from_le_bytes(at(bytes, part)));
            Element::Complex(re, im)
        }
        DType::String => unreachable!("strings are not dense"),
    }
}
