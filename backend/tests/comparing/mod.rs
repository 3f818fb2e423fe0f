//! When two results are the same.

use onnxc_ir::dtype::DType;

/// Whether two elements are the same; all NaNs are.
pub fn same(dtype: DType, x: &[u8], y: &[u8]) -> bool {
    let nan = |b: &[u8]| match dtype {
        DType::F32 => f32::from_le_bytes(b.try_into().unwrap()).is_nan(),
        DType::F64 => f64::from_le_bytes(b.try_into().unwrap()).is_nan(),
        DType::F16 => u16::from_le_bytes(b.try_into().unwrap()) & 0x7fff > 0x7c00,
        DType::BF16 => u16::from_le_bytes(b.try_into().unwrap()) & 0x7fff > 0x7f80,
        _ => false,
    };
    x == y || nan(x) && nan(y)
}
