//! Reading and writing by index: the Gather and Scatter families, sorting, one-hot, and selections whose condition is
//! known when the model is compiled.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Shape, Value};

use super::{Operator, data_sizes};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Gather", &[1, 11, 13], (2, 2), |cx| {
        let (data, indices, axis) = (cx.input(0)?, cx.input(1)?, cx.int("axis", 0));
        Ok(vec![cx.b.take(data, indices, axis)?])
    }),
    Operator::onnx("GatherElements", &[11, 13], (2, 2), |cx| {
        let (data, indices, axis) = (cx.input(0)?, cx.input(1)?, cx.int("axis", 0));
        Ok(vec![cx.b.take_along_axis(data, indices, axis)?])
    }),
    Operator::onnx("GatherND", &[11, 12, 13], (2, 2), |cx| {
        let (data, indices) = (cx.input(0)?, cx.input(1)?);
        let Ok(batch) = usize::try_from(cx.int("batch_dims", 0)) else { return cx.invalid("negative batch_dims") };
        Ok(vec![cx.b.gather_nd(data, indices, batch)?])
    }),
    Operator::onnx("Scatter", &[9, 11], (3, 3), scatter_elements),
    Operator::onnx("ScatterElements", &[11, 13, 16, 18], (3, 3), scatter_elements),
    Operator::onnx("ScatterND", &[11, 13, 16, 18], (3, 3), |cx| {
        let (data, indices, updates) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let op = reduction(cx)?;
        Ok(vec![cx.b.scatter_nd(op, data, indices, updates)?])
    }),
    Operator::onnx("TensorScatter", &[24], (2, 3), tensor_scatter),
    Operator::onnx("TopK", &[1, 10, 11, 24], (1, 2), top_k),
    Operator::onnx("OneHot", &[9, 11, 28], (3, 3), one_hot),
    Operator::onnx("Hardmax", &[1, 11, 13], (1, 1), hardmax),
    Operator::onnx("ReverseSequence", &[10, 28], (2, 2), reverse_sequence),
    Operator::onnx("Compress", &[9, 11, 28], (2, 2), compress),
    Operator::onnx("NonZero", &[9, 13], (1, 1), non_zero),
];

/// What a scatter does where several updates meet.
fn reduction(cx: &NodeContext<'_>) -> Result<ScatterOp, OpError> {
    Ok(match cx.text("reduction")? {
        None | Some("none") => ScatterOp::Set,
        Some("add") => ScatterOp::Add,
        Some("mul") => ScatterOp::Mul,
        Some("min") => ScatterOp::Min,
        Some("max") => ScatterOp::Max,
        Some(other) => return cx.invalid(format!("reduction `{other}`")),
    })
}

fn scatter_elements(cx: &mut NodeContext<'_>) -> OpResult {
    let (data, indices, updates, axis) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.int("axis", 0));
    let op = reduction(cx)?;
    Ok(vec![cx.b.scatter_elements(op, data, indices, updates, axis)?])
}

/// Writes new steps into a cache, per batch from another step on.
fn tensor_scatter(cx: &mut NodeContext<'_>) -> OpResult {
    let (cache, update) = (cx.input(0)?, cx.input(1)?);
    let (shape, steps) = (cx.b.shape(cache)?, cx.b.shape(update)?);
    let rank = shape.len();
    let axis = cx.b.axis(cx.int("axis", -2), rank)?;
    if axis == 0 || steps.len() != rank {
        return cx.invalid("the cache needs a batch axis, and the update its rank");
    }
    let circular = match cx.text("mode")? {
        None | Some("linear") => false,
        Some("circular") => true,
        Some(other) => return cx.invalid(format!("mode `{other}`")),
    };
    // Positions are per batch and step: a tensor of the update's rank with 1 elsewhere.
    let spread = |i: usize, size: &Dim| if i == 0 || i == axis { size.clone() } else { Dim::ONE };
    let positions: Shape = steps.iter().enumerate().map(|(i, size)| spread(i, size)).collect();
    let mut inputs = Vec::new();
    if let Some(starts) = cx.optional(2) {
        let column: Vec<i64> = (1..rank as i64).collect();
        inputs.push(cx.b.unsqueeze(starts, &column)?);
    }
    let index = cx.b.map_to(&positions, &inputs, |e| {
        let mut at = e.index(axis as u32);
        if !inputs.is_empty() {
            let start = e.arg(0);
            at = e.add(start, at);
        }
        if circular {
            let size = e.dim(&shape[axis]);
            at = e.modulo(at, size);
        }
        Ok(at)
    })?;
    let coords: Vec<Coord> =
        (0..rank).map(|i| if i == axis { Coord::Input(0) } else { Coord::Axis(i as u32) }).collect();
    Ok(vec![cx.b.scatter(ScatterOp::Set, cache, update, &[index], &coords)?])
}

/// The number is an attribute before opset 10.
fn top_k(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let axis = cx.int("axis", -1);
    let k = if cx.version < 10 {
        Dim::from(cx.int("k", 0))
    } else {
        let shape = cx.b.shape(x)?;
        let most = shape[cx.b.axis(axis, shape.len())?].clone();
        cx.size_up_to(1, &most)?
    };
    let (values, indices) = cx.b.sort(x, axis, cx.flag("largest", true))?;
    let values = cx.b.slice_axis(values, axis, &Dim::ZERO, &k, 1)?;
    Ok(vec![values, cx.b.slice_axis(indices, axis, &Dim::ZERO, &k, 1)?])
}

/// An index outside of the range marks nothing.
fn one_hot(cx: &mut NodeContext<'_>) -> OpResult {
    let (indices, values) = (cx.input(0)?, cx.input(2)?);
    let depth = match known_count(cx, 1)? {
        Some(depth) => depth,
        None => {
            let depth = cx.input(1)?;
            let depth = cx.b.cast(depth, DType::I64)?;
            cx.bind_one(depth, &Dim::from(DEFAULT_HIGH))?
        }
    };
    let mut shape = cx.b.shape(indices)?;
    let axis = cx.b.axis(cx.int("axis", -1), shape.len() + 1)?;
    shape.insert(axis, depth.clone());
    let dtype = cx.b.dtype(indices)?;
    let indices = cx.b.unsqueeze(indices, &[axis as i64])?;
    let off = cx.b.slice_axis(values, 0, &Dim::ZERO, &Dim::ONE, 1)?;
    let on = cx.b.slice_axis(values, 0, &Dim::ONE, &Dim::ONE, 1)?;
    Ok(vec![cx.b.map_to(&shape, &[indices, off, on], |e| {
        let (mut i, off, on) = (e.arg(0), e.arg(1), e.arg(2));
        if dtype != DType::I64 {
            i = e.cast(DType::I64, i);
        }
        let (zero, depth, at) = (e.dim(&Dim::ZERO), e.dim(&depth), e.index(axis as u32));
        let (negative, wrapped) = (e.lt(i, zero), e.add(i, depth));
        let i = e.select(negative, wrapped, i);
        let here = e.eq(i, at);
        Ok(e.select(here, on, off))
    })?])
}

/// The one number in an input of any numeric type, where it is known.
fn known_count(cx: &NodeContext<'_>, n: usize) -> Result<Option<Dim>, OpError> {
    let value = cx.input(n)?;
    if let Some(dims) = cx.b.known_dims(value) {
        return Ok(dims.into_iter().next());
    }
    let floats = cx.b.graph.known[value].as_ref().and_then(|k| k.all_floats());
    Ok(floats.and_then(|f| f.first().map(|&f| Dim::from(f as i64))))
}

/// 1 at the first greatest element along an axis; before opset 13 along all axes from `axis` on, merged.
fn hardmax(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let (mut y, axis) = if cx.version < 13 {
        (cx.b.flatten(x, cx.int("axis", 1))?, 1)
    } else {
        (x, cx.b.axis(cx.int("axis", -1), shape.len())?)
    };
    let dtype = cx.b.dtype(x)?;
    let full = cx.b.shape(y)?;
    let greatest = cx.b.reduce(ReduceOp::ArgMax { last: false }, y, &[axis as i64], true)?;
    y = cx.b.map_to(&full, &[greatest], |e| {
        let (i, at) = (e.arg(0), e.index(axis as u32));
        let (zero, one) = (e.number(dtype, 0.0)?, e.number(dtype, 1.0)?);
        let here = e.eq(i, at);
        Ok(e.select(here, one, zero))
    })?;
    Ok(vec![cx.b.reshape(y, &shape)?])
}

fn reverse_sequence(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, lengths) = (cx.input(0)?, cx.input(1)?);
    let shape = cx.b.shape(x)?;
    let rank = shape.len();
    let batch = cx.b.axis(cx.int("batch_axis", 1), rank)?;
    let time = cx.b.axis(cx.int("time_axis", 0), rank)?;
    if batch == time {
        return cx.invalid("the batch axis is the time axis");
    }
    let column: Vec<i64> = (0..rank as i64).filter(|&i| i != batch as i64).collect();
    let lengths = cx.b.unsqueeze(lengths, &column)?;
    let spread = |i: usize| if i == batch || i == time { shape[i].clone() } else { Dim::ONE };
    let positions: Shape = (0..rank).map(spread).collect();
    let index = cx.b.map_to(&positions, &[lengths], |e| {
        let (length, at, one) = (e.arg(0), e.index(time as u32), e.dim(&Dim::ONE));
        let last = e.sub(length, one);
        let (mirrored, inside) = (e.sub(last, at), e.lt(at, length));
        Ok(e.select(inside, mirrored, at))
    })?;
    let coords: Vec<Coord> =
        (0..rank).map(|i| if i == time { Coord::Input(0) } else { Coord::Axis(i as u32) }).collect();
    Ok(vec![cx.b.gather(x, &[index], &coords, &shape)?])
}

/// Elements of an input that are not zero, where the compiler knows them.
fn known_truths(cx: &NodeContext<'_>, value: Value) -> Option<Vec<bool>> {
    if let Some(known) = cx.b.known_i64s(value) {
        return Some(known.iter().map(|&i| i != 0).collect());
    }
    let known = cx.b.graph.known[value].as_ref().and_then(|k| k.all_floats())?;
    Some(known.iter().map(|&f| f != 0.0).collect())
}

/// Without an axis the elements are taken from the flattened tensor.
fn compress(cx: &mut NodeContext<'_>) -> OpResult {
    let (mut x, condition) = (cx.input(0)?, cx.input(1)?);
    if cx.b.rank(condition)? != 1 {
        return cx.invalid("the condition has not one dimension");
    }
    let axis = match cx.int_opt("axis") {
        Some(axis) => axis,
        None => {
            let count = Dim::product(&cx.b.shape(x)?)?;
            x = cx.b.reshape(x, &[count])?;
            0
        }
    };
    let indices = match known_truths(cx, condition) {
        Some(truths) => {
            let indices: Vec<i64> = (0..truths.len()).filter(|&i| truths[i]).map(|i| i as i64).collect();
            cx.b.i64s(&indices)
        }
        None => data_sizes::positions(cx, condition)?,
    };
    Ok(vec![cx.b.take(x, indices, axis)?])
}

fn non_zero(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (Some(shape), Some(truths)) = (cx.b.tensor(x)?.static_shape(), known_truths(cx, x)) else {
        return non_zero_by_data(cx, x);
    };
    let found: Vec<i64> = (0..truths.len()).filter(|&i| truths[i]).map(|i| i as i64).collect();
    // Row-major positions as coordinates, one row per dimension.
    let mut coordinates = Vec::with_capacity(found.len() * shape.len());
    for axis in 0..shape.len() {
        let stride: i64 = shape[axis + 1..].iter().product();
        coordinates.extend(found.iter().map(|&at| at / stride % shape[axis]));
    }
    let y = cx.b.i64s(&coordinates);
    Ok(vec![cx.b.reshape(y, &[Dim::from(shape.len() as i64), Dim::from(found.len() as i64)])?])
}

fn non_zero_by_data(cx: &mut NodeContext<'_>, x: Value) -> OpResult {
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let truths = if dtype == DType::Bool {
        x
    } else {
        cx.b.map(&[x], |e| {
            let (x, zero) = (e.arg(0), e.number(dtype, 0.0)?);
            Ok(e.ne(x, zero))
        })?
    };
    let truths = cx.b.reshape(truths, &[Dim::product(&shape)?])?;
    let found = data_sizes::positions(cx, truths)?;
    let count = cx.b.shape(found)?[0].clone();
    let mut rows = Vec::with_capacity(shape.len());
    for (axis, size) in shape.iter().enumerate() {
        let stride = Dim::product(&shape[axis + 1..])?;
        let row = cx.b.map(&[found], |e| {
            let (at, stride, size) = (e.arg(0), e.dim(&stride), e.dim(size));
            let at = e.div(at, stride);
            Ok(e.modulo(at, size))
        })?;
        rows.push(cx.b.unsqueeze(row, &[0])?);
    }
    if rows.is_empty() {
        let none = cx.b.i64s(&[]);
        let none = cx.b.reshape(none, &[Dim::ZERO, Dim::ONE])?;
        return Ok(vec![cx.b.broadcast(none, &[Dim::ZERO, count])?]);
    }
    Ok(vec![cx.b.concat(&rows, 0)?])
}
