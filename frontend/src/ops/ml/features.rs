//! The preparation of features: scaling, replacing, picking and joining columns.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Builder, TensorBytes, Value};

use super::super::Operator;
use super::{float_type, row};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    row("ArrayFeatureExtractor", &[1], (2, 2), array_feature_extractor),
    row("Binarizer", &[1], (1, 1), binarizer),
    row("FeatureVectorizer", &[1], (1, usize::MAX), feature_vectorizer),
    row("Imputer", &[1], (1, 1), imputer),
    row("Normalizer", &[1], (1, 1), normalizer),
    row("Scaler", &[1], (1, 1), scaler),
];

/// One number for all columns or one for each, as a tensor that broadcasts along the last dimension of `x`.
fn per_column(cx: &mut NodeContext<'_>, x: Value, name: &str, values: &[f64], dtype: DType) -> Result<Value, OpError> {
    let columns = cx.b.shape(x)?.last().and_then(Dim::as_const);
    if values.len() != 1 && columns.is_some_and(|n| n != values.len() as i64) {
        return cx.invalid(format!(
            "attribute `{name}` has {} numbers for {} columns",
            values.len(),
            columns.unwrap_or(0)
        ));
    }
    let value = numbers(&mut cx.b, values)?;
    Ok(cx.b.cast(value, dtype)?)
}

/// A vector of `f64`.
pub(super) fn numbers(b: &mut Builder<'_>, values: &[f64]) -> Result<Value, OpError> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let shape = [values.len() as i64].as_slice().into();
    Ok(b.constant(TensorBytes { dtype: DType::F64, shape, bytes: bytes.into() }, "")?)
}

fn widened(values: Option<&[f32]>) -> Option<Vec<f64>> {
    values.filter(|v| !v.is_empty()).map(|v| v.iter().map(|&f| f64::from(f)).collect())
}

/// `(x - offset) * scale`, as `f32`.
fn scaler(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let wide = float_type(cx.b.dtype(x)?);
    let mut y = cx.b.cast(x, wide)?;
    if let Some(offset) = widened(cx.floats("offset")) {
        let offset = per_column(cx, x, "offset", &offset, wide)?;
        y = cx.b.sub(y, offset)?;
    }
    if let Some(scale) = widened(cx.floats("scale")) {
        let scale = per_column(cx, x, "scale", &scale, wide)?;
        y = cx.b.mul(y, scale)?;
    }
    Ok(vec![cx.b.cast(y, DType::F32)?])
}

/// 1 above the threshold, 0 elsewhere.
fn binarizer(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (dtype, threshold) = (cx.b.dtype(x)?, f64::from(cx.float("threshold", 0.0)));
    let wide = float_type(dtype);
    Ok(vec![cx.b.map(&[x], |e| {
        let (x, threshold) = (e.arg(0), e.number(wide, threshold)?);
        let x = if wide == dtype { x } else { e.cast(wide, x) };
        let (above, one, zero) = (e.gt(x, threshold), e.number(dtype, 1.0)?, e.number(dtype, 0.0)?);
        Ok(e.select(above, one, zero))
    })?])
}

/// Replaces one value, by one number or by one for each column.
fn imputer(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let dtype = cx.b.dtype(x)?;
    let (name, imputed, replaced) = if dtype.is_float() {
        (
            "imputed_value_floats",
            widened(cx.floats("imputed_value_floats")),
            f64::from(cx.float("replaced_value_float", 0.0)),
        )
    } else {
        let imputed = cx.ints("imputed_value_int64s").filter(|v| !v.is_empty());
        let imputed = imputed.map(|v| v.iter().map(|&i| i as f64).collect());
        ("imputed_value_int64s", imputed, cx.int("replaced_value_int64", 0) as f64)
    };
    let Some(imputed) = imputed else { return cx.invalid(format!("attribute `{name}` is missing")) };
    let imputed = per_column(cx, x, name, &imputed, dtype)?;
    Ok(vec![cx.b.map(&[x, imputed], |e| {
        let (x, imputed) = (e.arg(0), e.arg(1));
        let hit = if replaced.is_nan() {
            e.ne(x, x)
        } else {
            let replaced = e.number(dtype, replaced)?;
            e.eq(x, replaced)
        };
        Ok(e.select(hit, imputed, x))
    })?])
}

/// Each row divided by its norm; rows of norm 0 stay as they are.
fn normalizer(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (dtype, rank) = (cx.b.dtype(x)?, cx.b.rank(x)?);
    if rank == 0 {
        return cx.invalid("a scalar has no rows");
    }
    let axes = [if rank > 1 { 1 } else { 0 }];
    let x = cx.b.cast(x, float_type(dtype))?;
    let norm = match cx.text("norm")?.unwrap_or("MAX") {
        "MAX" => cx.b.reduce(ReduceOp::Max, x, &axes, true)?,
        "L1" => {
            let sizes = cx.b.abs(x)?;
            cx.b.reduce(ReduceOp::Sum, sizes, &axes, true)?
        }
        "L2" => {
            let squares = cx.b.mul(x, x)?;
            let sum = cx.b.reduce(ReduceOp::Sum, squares, &axes, true)?;
            cx.b.sqrt(sum)?
        }
        other => return cx.invalid(format!("attribute `norm` is {other}")),
    };
    let wide = cx.b.dtype(x)?;
    let y = cx.b.map(&[x, norm], |e| {
        let (x, norm, zero) = (e.arg(0), e.arg(1), e.number(wide, 0.0)?);
        let (empty, y) = (e.eq(norm, zero), e.div(x, norm));
        Ok(e.select(empty, x, y))
    })?;
    Ok(vec![cx.b.cast(y, DType::F32)?])
}

/// The inputs side by side as `f32`, each cut or filled with zeros to the width that is declared for it.
fn feature_vectorizer(cx: &mut NodeContext<'_>) -> OpResult {
    let inputs = cx.all_inputs();
    let widths = cx.ints("inputdimensions").unwrap_or(&[]);
    if widths.len() != inputs.len() || widths.iter().any(|&w| w < 0) {
        return cx.invalid(format!("attribute `inputdimensions` is {widths:?} for {} inputs", inputs.len()));
    }
    let mut parts = Vec::with_capacity(inputs.len());
    for (&input, &width) in inputs.iter().zip(widths) {
        let x = match cx.b.rank(input)? {
            1 => cx.b.unsqueeze(input, &[0])?,
            2 => input,
            rank => return cx.invalid(format!("an input of {rank} dimensions instead of 1 or 2")),
        };
        let mut x = cx.b.cast(x, DType::F32)?;
        let Some(found) = cx.b.shape(x)?[1].as_const() else {
            return cx.unsupported("an input whose width is not known when the model is compiled");
        };
        if found > width {
            x = cx.b.slice_axis(x, 1, &Dim::ZERO, &Dim::from(width), 1)?;
        } else if found < width {
            let fill = cx.b.scalar_f32(0.0);
            x = cx.b.pad(x, fill, &[Dim::ZERO, Dim::ZERO], &[Dim::ZERO, Dim::from(width - found)])?;
        }
        parts.push(x);
    }
    Ok(vec![cx.b.concat(&parts, 1)?])
}

/// Columns picked by index; a vector is one row.
fn array_feature_extractor(cx: &mut NodeContext<'_>) -> OpResult {
    let (mut x, indices) = (cx.input(0)?, cx.input(1)?);
    if cx.b.rank(x)? == 0 {
        return cx.invalid("a scalar has no columns");
    }
    if cx.b.rank(x)? == 1 {
        x = cx.b.unsqueeze(x, &[0])?;
    }
    let shape = cx.b.shape(indices)?;
    let mut count = Dim::ONE;
    for dim in &shape {
        count = (&count * dim)?;
    }
    let indices = cx.b.reshape(indices, &[count])?;
    let axis = cx.b.rank(x)? as i64 - 1;
    Ok(vec![cx.b.take(x, indices, axis)?])
}

#[cfg(test)]
mod tests {
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::{TestModel, assert_close};

    fn model(op: &str) -> TestModel {
        TestModel::new(op, 3).domain("ai.onnx.ml")
    }

    #[test]
    fn a_norm_of_zero_divides_nothing() {
        let y = model("Normalizer").text("norm", "L2").input(&[2, 2], &[3.0, -4.0, 0.0, 0.0]).run();
        assert_close(&y, &(vec![2, 2], vec![0.6, -0.8, 0.0, 0.0]));
        let y = model("Normalizer").text("norm", "MAX").input(&[1, 2], &[3.0, -4.0]).run();
        assert_close(&y, &(vec![1, 2], vec![1.0, -4.0 / 3.0]));
    }

    #[test]
    fn one_scale_serves_all_columns() {
        let y = model("Scaler").floats_attribute("offset", &[1.0, 2.0]).floats_attribute("scale", &[2.0]);
        let y = y.input(&[2, 2], &[1.0, 2.0, 3.0, 5.0]).run();
        assert_eq!(y, (vec![2, 2], vec![0.0, 0.0, 4.0, 6.0]));
        let wrong = model("Scaler").floats_attribute("offset", &[1.0, 2.0, 3.0]).input(&[1, 2], &[0.0; 2]);
        assert!(wrong.error().contains("3 numbers for 2 columns"));
    }

    #[test]
    fn nan_is_replaced_where_it_is_the_replaced_value() {
        let y = model("Imputer").floats_attribute("imputed_value_floats", &[7.0, 8.0]);
        let y = y.float("replaced_value_float", f32::NAN).input(&[2, 2], &[f32::NAN, 0.0, 1.0, f32::NAN]).run();
        assert_eq!(y, (vec![2, 2], vec![7.0, 0.0, 1.0, 8.0]));
    }

    #[test]
    fn vectorized_features_are_cut_and_filled() {
        let y = model("FeatureVectorizer").ints("inputdimensions", &[1, 3]);
        let y =
            y.input(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).declared(&[2, 2], TensorBytes::from_i64(&[2, 2], &[5, 6, 7, 8]));
        assert_eq!(y.run(), (vec![2, 4], vec![1.0, 5.0, 6.0, 0.0, 3.0, 7.0, 8.0, 0.0]));
    }

    #[test]
    fn a_vector_is_one_row_of_features() {
        let y = model("ArrayFeatureExtractor").input(&[3], &[1.0, 2.0, 3.0]).integers(&[2, 0]).run();
        assert_eq!(y, (vec![1, 2], vec![3.0, 1.0]));
    }
}
