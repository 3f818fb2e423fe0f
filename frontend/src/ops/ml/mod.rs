//! The domain ai.onnx.ml: trees, linear models, support vectors and the preparation of features. Everything desugars into
//! primitives; maps are refused with that reason.

mod features;
mod forest;
mod labels;
mod linear;
mod probability;
mod scores;
mod svm;
mod traverse;
mod trees;

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult};

const DOMAIN: &str = "ai.onnx.ml";

/// All families' rows.
pub(super) const FAMILIES: [&[Operator]; 5] =
    [features::OPERATORS, labels::OPERATORS, linear::OPERATORS, svm::OPERATORS, trees::OPERATORS];

/// A row of this domain.
const fn row(
    name: &'static str,
    versions: &'static [i64],
    inputs: (usize, usize),
    import: fn(&mut NodeContext<'_>) -> OpResult,
) -> Operator {
    Operator { domain: DOMAIN, name, versions, inputs, limits: "", import }
}

/// The type in which these operators compute: `f64` for `f64`, `f32` for everything else.
fn float_type(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The first input as floats in `[rows, features]`; a vector is one row.
fn matrix(cx: &mut NodeContext<'_>) -> Result<Value, OpError> {
    let x = cx.input(0)?;
    let (dtype, rank) = (cx.b.dtype(x)?, cx.b.rank(x)?);
    if !dtype.is_float() && !dtype.is_int() {
        return cx.unsupported(format!("features of type {dtype}"));
    }
    let x = match rank {
        1 => cx.b.unsqueeze(x, &[0])?,
        2 => x,
        _ => return cx.invalid(format!("features of {rank} dimensions instead of 1 or 2")),
    };
    Ok(cx.b.cast(x, float_type(dtype))?)
}
