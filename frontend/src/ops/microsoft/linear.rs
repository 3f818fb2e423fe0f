//! Matrix products with transpositions and a scale, and of sparse matrices.

use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::Value;

use super::super::Operator;
use super::super::linear::sum_type;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("FusedMatMul", (2, 2), fused_matmul),
    row("TransposeMatMul", (2, 2), fused_matmul),
    row("SparseToDenseMatMul", (2, 2), sparse_product)
        .limited("The sparse matrix is an initializer, which is made dense."),
];

/// `alpha * A' * B'` of matrices of any numbers; the sparse one is an initializer, dense in here.
fn sparse_product(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (dtype, alpha) = (cx.b.dtype(a)?, cx.float("alpha", 1.0));
    if cx.b.rank(a)? != 2 || cx.b.rank(b)? != 2 || cx.b.dtype(b)? != dtype {
        return cx.invalid("the operands are not two matrices of one type");
    }
    let transposed = (cx.flag("transA", false), cx.flag("transB", false));
    Ok(vec![cx.b.gemm(a, b, None, transposed, (alpha.into(), 0.0))?])
}

/// `alpha * A' * B'`; the scale applies to the sums before they are rounded to the operands' type.
fn fused_matmul(cx: &mut NodeContext<'_>) -> OpResult {
    let a = oriented(cx, 0, "transA", "transBatchA")?;
    let b = oriented(cx, 1, "transB", "transBatchB")?;
    let (dtype, alpha) = (cx.b.dtype(a)?, cx.float("alpha", 1.0));
    if !dtype.is_float() || cx.b.dtype(b)? != dtype {
        return cx.invalid(format!("product of {dtype} and {}", cx.b.dtype(b)?));
    }
    let mut y = cx.b.matmul(a, b, sum_type(dtype))?;
    if alpha != 1.0 {
        y = cx.b.binary_number(BinaryOp::Mul, y, alpha.into())?;
    }
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// An operand as MatMul takes it: `batch` moves the first axis behind the batch axes, then `plain` swaps the last two.
/// Vectors stay as they are.
fn oriented(cx: &mut NodeContext<'_>, n: usize, plain: &str, batch: &str) -> Result<Value, OpError> {
    let x = cx.input(n)?;
    let rank = cx.b.rank(x)?;
    let mut perm: Vec<usize> = (0..rank).collect();
    if cx.flag(batch, false) && rank > 2 {
        perm[..rank - 1].rotate_left(1);
    }
    if cx.flag(plain, false) && rank > 1 {
        perm.swap(rank - 2, rank - 1);
    }
    Ok(cx.b.transpose(x, &perm)?)
}

#[cfg(test)]
mod tests {
    use super::super::super::test_model::TestModel;

    /// A counts from 0 up, B from 1 down; the expected values are those of ONNX Runtime 1.31.
    #[track_caller]
    fn check(a: &[i64], b: &[i64], flags: &[&str], alpha: f32, shape: &[i64], expected: &[f32]) {
        let count = |dims: &[i64]| dims.iter().product::<i64>();
        let left: Vec<f32> = (0..count(a)).map(|i| i as f32).collect();
        let right: Vec<f32> = (0..count(b)).map(|i| 1.0 - i as f32).collect();
        let model = TestModel::new("FusedMatMul", 1).domain("com.microsoft").input(a, &left).input(b, &right);
        let model = flags.iter().fold(model.float("alpha", alpha), |m, flag| m.int(flag, 1));
        let (found_shape, found) = model.run();
        assert_eq!((found_shape.as_slice(), found.as_slice()), (shape, expected), "{flags:?}");
    }

    #[test]
    fn matrices_are_transposed_and_scaled() {
        check(&[2, 3], &[3, 2], &[], 0.5, &[2, 2], &[-3.5, -5.0, -8.0, -14.0]);
        check(&[3, 2], &[2, 3], &["transA", "transB"], 1.0, &[2, 2], &[-4.0, -22.0, -4.0, -31.0]);
        let each = [-2.0, -11.0, -2.0, -38.0, -128.0, -191.0, -182.0, -272.0];
        check(&[2, 2, 3], &[2, 2, 3], &["transB"], 1.0, &[2, 2, 2], &each);
    }

    #[test]
    fn batch_axes_move_to_the_front() {
        let a = [-7.0, -10.0, -25.0, -46.0, -88.0, -100.0, -214.0, -244.0];
        check(&[2, 2, 3], &[2, 3, 2], &["transBatchA"], 1.0, &[2, 2, 2], &a);
        let both = [-28.0, -40.0, -31.0, -46.0, -142.0, -160.0, -163.0, -184.0];
        check(&[3, 2, 2], &[2, 3, 2], &["transBatchA", "transA"], 1.0, &[2, 2, 2], &both);
        let b = [-17.0, -20.0, -44.0, -56.0, -113.0, -134.0, -158.0, -188.0];
        check(&[2, 2, 3], &[3, 2, 2], &["transBatchB"], 1.0, &[2, 2, 2], &b);
    }

    #[test]
    fn vectors_are_not_transposed() {
        check(&[3], &[3, 2], &["transA"], 1.0, &[2], &[-7.0, -10.0]);
        check(&[2, 3], &[3], &["transB"], 1.0, &[2], &[-2.0, -2.0]);
    }
}
