//! ONNX's numbers of element types.

use onnxc_ir::dtype::DType;

/// ONNX's number, our type; one row for each type of ours.
const NUMBERS: [(i32, DType); 26] = [
    (1, DType::F32),
    (2, DType::U8),
    (3, DType::I8),
    (4, DType::U16),
    (5, DType::I16),
    (6, DType::I32),
    (7, DType::I64),
    (8, DType::String),
    (9, DType::Bool),
    (10, DType::F16),
    (11, DType::F64),
    (12, DType::U32),
    (13, DType::U64),
    (14, DType::C64),
    (15, DType::C128),
    (16, DType::BF16),
    (17, DType::F8E4M3FN),
    (18, DType::F8E4M3FNUZ),
    (19, DType::F8E5M2),
    (20, DType::F8E5M2FNUZ),
    (21, DType::U4),
    (22, DType::I4),
    (23, DType::F4E2M1),
    (24, DType::F8E8M0),
    (25, DType::U2),
    (26, DType::I2),
];

/// The type behind a `TensorProto.DataType`; None for 0, the six-bit floats (27, 28), and numbers yet to be given.
pub fn dtype_from_onnx(number: i32) -> Option<DType> {
    NUMBERS.iter().find(|(n, _)| *n == number).map(|(_, dtype)| *dtype)
}

/// The `TensorProto.DataType` of a type.
pub fn dtype_to_onnx(dtype: DType) -> i32 {
    let row = NUMBERS.iter().find(|(_, d)| *d == dtype);
    row.expect("the table has a row for every type").0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_number() {
        for dtype in DType::ALL {
            assert_eq!(dtype_from_onnx(dtype_to_onnx(dtype)), Some(dtype));
        }
        assert_eq!(dtype_from_onnx(0), None);
        assert_eq!(dtype_from_onnx(27), None);
    }
}
