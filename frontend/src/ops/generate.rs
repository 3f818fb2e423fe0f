//! Tensors from nothing, or from positions: constants, ranges, diagonals, triangles. Dropout, which makes only its mask,
//! is here too.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{TensorBytes, Value};

use super::Operator;
use super::math::compute_type;
use super::random;
use crate::import::{NodeContext, OpError, OpResult};
use crate::proto::TensorData;

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Constant", &[1, 9, 11, 12, 13, 19, 21, 23, 24, 25], (0, 0), constant),
    Operator::onnx("ConstantOfShape", &[9, 20, 21, 23, 24, 25], (1, 1), constant_of_shape),
    Operator::onnx("Range", &[11, 27], (3, 3), range),
    Operator::onnx("EyeLike", &[9, 22], (1, 1), eye_like),
    Operator::onnx("Trilu", &[14], (1, 2), trilu),
    Operator::onnx("Dropout", &[1, 6, 7, 10, 12, 13, 22], (1, 3), dropout),
];

/// One of the attributes that hold a value.
fn constant(cx: &mut NodeContext<'_>) -> OpResult {
    if let Some(data) = cx.tensor("value")? {
        return Ok(vec![add_constant(cx, &data)?]);
    }
    if let Some(data) = cx.sparse_tensor("sparse_value")? {
        return Ok(vec![add_constant(cx, &data)?]);
    }
    if let Some(value) = cx.float_opt("value_float") {
        return Ok(vec![cx.b.scalar_f32(value)]);
    }
    if let Some(value) = cx.int_opt("value_int") {
        return Ok(vec![cx.b.scalar_i64(value)]);
    }
    if let Some(values) = cx.floats("value_floats") {
        return Ok(vec![cx.b.constant(TensorBytes::from_f32(&[values.len() as i64], values), "")?]);
    }
    if let Some(values) = cx.ints("value_ints") {
        return Ok(vec![cx.b.i64s(values)]);
    }
    if let Some(value) = cx.attribute("value_string") {
        let text = value.s.clone().unwrap_or_default();
        let tensor = cx.b.graph.strings.numbers(&[], [&text[..]]);
        return Ok(vec![cx.b.constant(tensor, "")?]);
    }
    if let Some(values) = cx.attribute("value_strings") {
        let strings = values.strings.iter().map(|s| &s[..]);
        let tensor = cx.b.graph.strings.numbers(&[values.strings.len() as i64], strings);
        return Ok(vec![cx.b.constant(tensor, "")?]);
    }
    cx.invalid("has no value")
}

fn add_constant(cx: &mut NodeContext<'_>, data: &TensorData) -> Result<Value, OpError> {
    let tensor = data.to_constant(&mut cx.b.graph.strings);
    Ok(cx.b.constant(tensor, "")?)
}

/// The only element of a tensor.
fn only_element(cx: &mut NodeContext<'_>, data: &TensorData) -> Result<Scalar, OpError> {
    let tensor = data.to_constant(&mut cx.b.graph.strings);
    if matches!(tensor.dtype, DType::C64 | DType::C128) {
        return cx.unsupported(format!("a value of type {}", data.dtype()));
    }
    if tensor.len() != 1 {
        return cx.invalid(format!("a value of {} elements instead of one", tensor.len()));
    }
    let mut bits = [0; 8];
    bits[..tensor.bytes.len()].copy_from_slice(&tensor.bytes);
    let mask = u64::MAX >> (64 - tensor.dtype.bits());
    Ok(Scalar { dtype: tensor.dtype, bits: u64::from_le_bytes(bits) & mask })
}

fn constant_of_shape(cx: &mut NodeContext<'_>) -> OpResult {
    let scalar = match cx.tensor("value")? {
        Some(data) => only_element(cx, &data)?,
        None => Scalar::f32(0.0),
    };
    let dims = cx.sizes(0)?;
    if let Some(shape) = dims.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() {
        return Ok(vec![cx.b.splat(scalar, &shape)?]);
    }
    let value = cx.b.scalar(scalar);
    Ok(vec![cx.b.broadcast(value, &dims)?])
}

/// `start + i * delta`; the step is 1 unless it is given.
pub(super) fn range(cx: &mut NodeContext<'_>) -> OpResult {
    let (start, limit) = (cx.input(0)?, cx.input(1)?);
    let dtype = cx.b.dtype(start)?;
    let delta = match cx.optional(2) {
        Some(delta) => delta,
        None => cx.b.number(dtype, 1.0)?,
    };
    let inputs = [start, limit, delta];
    let count = if dtype.is_float() { float_count(cx, inputs)? } else { int_count(cx, inputs)? };
    let count = match count {
        Some(count) => count,
        None => data_count(cx, inputs)?,
    };
    let start = cx.b.reshape(inputs[0], &[])?;
    let delta = cx.b.reshape(inputs[2], &[])?;
    let wide = compute_type(dtype);
    let y = cx.b.map_to(&[count], &[start, delta], |e| {
        let (mut start, mut delta, i) = (e.arg(0), e.arg(1), e.index(0));
        if wide != dtype {
            (start, delta) = (e.cast(wide, start), e.cast(wide, delta));
        }
        let i = if wide == DType::I64 { i } else { e.cast(wide, i) };
        let offset = e.mul(i, delta);
        let y = e.add(start, offset);
        Ok(if wide == dtype { y } else { e.cast(dtype, y) })
    })?;
    Ok(vec![y])
}

/// The number of elements where data decides it.
fn data_count(cx: &mut NodeContext<'_>, inputs: [Value; 3]) -> Result<Dim, OpError> {
    let dtype = cx.b.dtype(inputs[0])?;
    // Whole numbers are counted as such: beyond 2^53 a float is not exact.
    let wide = if dtype.is_float() { DType::F64 } else { DType::I64 };
    let mut scalars = Vec::with_capacity(3);
    for value in inputs {
        let scalar = cx.b.reshape(value, &[])?;
        scalars.push(cx.b.cast(scalar, wide)?);
    }
    let count = cx.b.map(&scalars, |e| {
        let (start, limit, delta) = (e.arg(0), e.arg(1), e.arg(2));
        let zero = e.number(wide, 0.0)?;
        let span = e.sub(limit, start);
        let count = if wide == DType::F64 {
            let steps = e.div(span, delta);
            let steps = e.ceil(steps);
            e.max(steps, zero)
        } else {
            let one = e.number(wide, 1.0)?;
            let (backwards, turned_span, turned) = (e.lt(delta, zero), e.sub(zero, span), e.sub(zero, delta));
            let (span, delta) = (e.select(backwards, turned_span, span), e.select(backwards, turned, delta));
            let (delta, last) = (e.max(delta, one), e.sub(span, one));
            let steps = e.div(last, delta);
            let (count, empty) = (e.add(steps, one), e.le(span, zero));
            e.select(empty, zero, count)
        };
        Ok(if wide == DType::I64 { count } else { e.cast(DType::I64, count) })
    })?;
    cx.bind_one(count, &Dim::from(DEFAULT_HIGH))
}

fn float_count(cx: &NodeContext<'_>, inputs: [Value; 3]) -> Result<Option<Dim>, OpError> {
    let one = |v: Value| cx.b.graph.known[v].as_ref().and_then(|k| k.all_floats()).and_then(|f| f.first().copied());
    let (Some(start), Some(limit), Some(delta)) = (one(inputs[0]), one(inputs[1]), one(inputs[2])) else {
        return Ok(None);
    };
    let count = ((limit - start) / delta).ceil().max(0.0);
    // NaN and infinity come from a step of zero.
    if count.is_nan() || count >= 1e15 {
        return cx.invalid("a range without end");
    }
    Ok(Some(Dim::from(count as i64)))
}

fn int_count(cx: &NodeContext<'_>, inputs: [Value; 3]) -> Result<Option<Dim>, OpError> {
    let one = |v: Value| cx.b.known_dims(v).and_then(|d| d.into_iter().next());
    let (Some(start), Some(limit), Some(delta)) = (one(inputs[0]), one(inputs[1]), one(inputs[2])) else {
        return Ok(None);
    };
    let count = match delta.as_const() {
        Some(0) => return cx.invalid("a range without end"),
        Some(1..) => (&limit - &start)?.ceil_div(&delta)?,
        Some(_) => (&start - &limit)?.ceil_div(&(-&delta)?)?,
        None => return Ok(None),
    };
    Ok(Some(cx.b.graph.greater_dim(&count, &Dim::ZERO)?))
}

/// Ones on the diagonal that lies `k` above the main one.
fn eye_like(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    if shape.len() != 2 {
        return cx.invalid(format!("an input of {} dimensions instead of 2", shape.len()));
    }
    let dtype = match cx.dtype("dtype")? {
        Some(dtype) => dtype,
        None => cx.b.dtype(x)?,
    };
    let k = Dim::from(cx.int("k", 0));
    Ok(vec![cx.b.map_to(&shape, &[], |e| {
        let (row, column, k) = (e.index(0), e.index(1), e.dim(&k));
        let shifted = e.add(row, k);
        let (zero, one) = (e.number(dtype, 0.0)?, e.number(dtype, 1.0)?);
        let diagonal = e.eq(shifted, column);
        Ok(e.select(diagonal, one, zero))
    })?])
}

/// Keeps what is on and above (or below) a diagonal of the last two axes.
pub(super) fn trilu(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let rank = shape.len();
    if rank < 2 {
        return cx.invalid(format!("an input of {rank} dimensions instead of at least 2"));
    }
    let upper = cx.flag("upper", true);
    let mut inputs = vec![x];
    let known = match cx.optional(1) {
        None => Some(vec![Dim::ZERO]),
        Some(k) => cx.b.known_dims(k),
    };
    if let (None, Some(k)) = (&known, cx.optional(1)) {
        inputs.push(cx.b.reshape(k, &[])?);
    }
    Ok(vec![cx.b.map_to(&shape, &inputs, |e| {
        let (x, row, column) = (e.arg(0), e.index(rank as u32 - 2), e.index(rank as u32 - 1));
        let k = match known.as_deref() {
            Some([k]) => e.dim(k),
            Some(_) => return Err(BuildError::Invalid("`k` is no scalar".into())),
            None => e.arg(1),
        };
        let distance = e.sub(column, row);
        let inside = if upper { e.ge(distance, k) } else { e.le(distance, k) };
        let zero = e.constant(Scalar::zero(dtype));
        Ok(e.select(inside, x, zero))
    })?])
}

/// Does nothing when a model is used: the mask keeps everything. From opset 12 on an input may ask for training.
fn dropout(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let training = cx.optional(2).filter(|_| cx.version >= 12);
    let known = training.map(|t| cx.b.known_i64s(t).and_then(|t| t.first().map(|&t| t != 0)));
    if let Some(Some(true) | None) = known {
        let (ratio, training) = (cx.optional(1), training.filter(|_| known == Some(None)));
        return Ok(random::dropout(cx, x, ratio, training)?.to_vec());
    }
    let mut outputs = vec![x];
    if cx.wants_output(1) {
        let shape = cx.b.shape(x)?;
        let dtype = if cx.version < 10 { cx.b.dtype(x)? } else { DType::Bool };
        let one = cx.b.scalar(Scalar::one(dtype));
        outputs.push(cx.b.broadcast(one, &shape)?);
    }
    Ok(outputs)
}
