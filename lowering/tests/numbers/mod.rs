//! Numbers for the inputs of test models.

use onnxc_ir::tensor::TensorBytes;

/// Numbers that repeat late and have both signs.
pub fn samples(shape: &[i64], seed: u32) -> TensorBytes {
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product::<i64>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    TensorBytes::from_f32(shape, &values)
}
