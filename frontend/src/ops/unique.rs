//! Unique, of inputs that are known when the model is compiled.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::{TensorBytes, Value};

use super::Operator;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[Operator::onnx("Unique", &[11, 28], (1, 1), unique)];

/// Keys in the order of the elements; equal elements have equal keys.
fn keys(cx: &NodeContext<'_>, x: Value) -> Option<Vec<i128>> {
    if let Some(values) = cx.b.known_i64s(x) {
        return Some(values.into_iter().map(i128::from).collect());
    }
    if let Some(values) = cx.b.graph.known[x].as_ref().and_then(|k| k.all_floats()) {
        return Some(values.into_iter().map(float_key).collect());
    }
    let TensorBytes { dtype, shape, bytes } = cx.constant_tensor(0)?;
    let tensor = TensorBytes { dtype, shape: shape.clone(), bytes };
    if let Some(values) = tensor.to_f32() {
        return Some(values.into_iter().map(|v| float_key(v.into())).collect());
    }
    // As many unsigned 64-bit numbers as pass for signed ones.
    tensor.to_i64().map(|values| values.into_iter().map(i128::from).collect())
}

/// Floats order as their bits do once those of negative ones are reversed. Both zeros are one.
fn float_key(value: f64) -> i128 {
    let value = if value == 0.0 { 0.0 } else { value };
    let bits = i128::from(value.to_bits());
    if value.is_sign_negative() { -(bits & i128::from(i64::MAX)) } else { bits }
}

fn unique(cx: &mut NodeContext<'_>) -> OpResult {
    let mut x = cx.input(0)?;
    let shape = cx.b.tensor(x)?.static_shape();
    let (Some(keys), Some(mut shape)) = (keys(cx, x), shape) else {
        return cx.unsupported(
            "an input that depends on data: the size of the result is not known when the model is compiled",
        );
    };
    let axis = match cx.int_opt("axis") {
        Some(axis) => cx.b.axis(axis, shape.len())?,
        None => {
            shape = [keys.len() as i64].as_slice().into();
            x = cx.b.reshape(x, &[Dim::from(keys.len() as i64)])?;
            0
        }
    };
    let slices = slices(&keys, &shape, axis);
    let found = distinct(&slices, cx.flag("sorted", true));
    let first = cx.b.i64s(&found.first);
    Ok(vec![
        cx.b.take(x, first, axis as i64)?,
        cx.b.i64s(&found.first),
        cx.b.i64s(&found.inverse),
        cx.b.i64s(&found.counts),
    ])
}

/// The elements of each slice along an axis, in row-major order.
fn slices(keys: &[i128], shape: &[i64], axis: usize) -> Vec<Vec<i128>> {
    let inner: usize = shape[axis + 1..].iter().product::<i64>() as usize;
    let size = shape[axis] as usize;
    let mut slices = vec![Vec::new(); size];
    for (at, &key) in keys.iter().enumerate() {
        slices[at / inner % size].push(key);
    }
    slices
}

/// The result of a search for distinct slices.
struct Distinct {
    first: Vec<i64>,
    inverse: Vec<i64>,
    counts: Vec<i64>,
}

fn distinct(slices: &[Vec<i128>], sorted: bool) -> Distinct {
    let mut first: Vec<usize> = Vec::new();
    let mut by_slice = std::collections::HashMap::new();
    for (i, slice) in slices.iter().enumerate() {
        by_slice.entry(slice).or_insert_with(|| {
            first.push(i);
            i
        });
    }
    if sorted {
        first.sort_by(|&a, &b| slices[a].cmp(&slices[b]));
    }
    let places: std::collections::HashMap<&Vec<i128>, usize> =
        first.iter().enumerate().map(|(place, &i)| (&slices[i], place)).collect();
    let inverse: Vec<usize> = slices.iter().map(|s| places[s]).collect();
    let mut counts = vec![0; first.len()];
    inverse.iter().for_each(|&place| counts[place] += 1);
    let signed = |values: Vec<usize>| values.into_iter().map(|v| v as i64).collect();
    Distinct { first: signed(first), inverse: signed(inverse), counts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_distinct_slices_in_order() {
        // [[1, 0, 0], [1, 0, 0], [2, 3, 4]] along its rows, then its elements.
        let keys = [1, 0, 0, 1, 0, 0, 2, 3, 4];
        let rows = distinct(&slices(&keys, &[3, 3], 0), true);
        assert_eq!((rows.first, rows.inverse, rows.counts), (vec![0, 2], vec![0, 0, 1], vec![2, 1]));
        let elements = distinct(&slices(&[2, 1, 1, 3, 4, 3], &[6], 0), false);
        assert_eq!(elements.first, [0, 1, 3, 4]);
        assert_eq!(elements.inverse, [0, 1, 1, 2, 3, 2]);
        assert_eq!(elements.counts, [1, 2, 2, 1]);
    }

    #[test]
    fn float_keys_keep_the_order() {
        let values = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 1.0, f64::INFINITY];
        assert!(values.windows(2).all(|w| float_key(w[0]) < float_key(w[1])));
        assert_eq!(float_key(-0.0), float_key(0.0));
    }
}
