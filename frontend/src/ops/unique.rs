//! Unique: of inputs that are known when the model is compiled, and of others by sorting or by comparing all slices.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::strings::StringFunction;
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{TensorBytes, Value};

use super::{Operator, data_sizes, text};
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
    let sorted = cx.flag("sorted", true);
    distinct_of(cx, sorted)
}

/// What `Unique` gives, sorted or in the order of the first occurrences.
pub(super) fn distinct_of(cx: &mut NodeContext<'_>, sorted: bool) -> OpResult {
    let mut x = cx.input(0)?;
    let shape = cx.b.tensor(x)?.static_shape();
    let (Some(keys), Some(mut shape)) = (keys(cx, x), shape) else {
        if cx.b.dtype(x)? == DType::String {
            return unique_strings(cx, x, sorted);
        }
        return match cx.int_opt("axis") {
            None => unique_elements(cx, x, sorted),
            Some(axis) => unique_slices(cx, x, axis, sorted),
        };
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
    let found = distinct(&slices, sorted);
    let first = cx.b.i64s(&found.first);
    Ok(vec![
        cx.b.take(x, first, axis as i64)?,
        cx.b.i64s(&found.first),
        cx.b.i64s(&found.inverse),
        cx.b.i64s(&found.counts),
    ])
}

/// Of strings: of their places in the order of all of them.
fn unique_strings(cx: &mut NodeContext<'_>, x: Value, sorted: bool) -> OpResult {
    let shape = cx.b.shape(x)?;
    let length = Dim::product(&shape)?;
    let list = cx.b.reshape(x, std::slice::from_ref(&length))?;
    let ranks = text::call(cx, StringFunction::Order, &[list], DType::I64, std::slice::from_ref(&length))?;
    let (list, axis, mut found) = match cx.int_opt("axis") {
        None => (list, 0, unique_elements(cx, ranks, sorted)?),
        Some(axis) => {
            let ranks = cx.b.reshape(ranks, &shape)?;
            (x, axis, unique_slices(cx, ranks, axis, sorted)?)
        }
    };
    found[0] = cx.b.take(list, found[1], axis)?;
    Ok(found)
}

/// Of a tensor's elements: equal ones are neighbours once they are sorted.
fn unique_elements(cx: &mut NodeContext<'_>, x: Value, sorted: bool) -> OpResult {
    let length = Dim::product(&cx.b.shape(x)?)?;
    let x = cx.b.reshape(x, std::slice::from_ref(&length))?;
    let (values, order) = cx.b.sort(x, 0, false)?;
    let before = cx.b.map_to(std::slice::from_ref(&length), &[], |e| {
        let (at, one) = (e.index(0), e.dim(&Dim::ONE));
        Ok(e.sub(at, one))
    })?;
    let before = cx.b.gather(values, &[before], &[Coord::Input(0)], std::slice::from_ref(&length))?;
    let begins = cx.b.map(&[values, before], |e| {
        let (value, before, at, zero) = (e.arg(0), e.arg(1), e.index(0), e.dim(&Dim::ZERO));
        let (differs, first) = (e.ne(value, before), e.eq(at, zero));
        Ok(e.or(differs, first))
    })?;
    let starts = data_sizes::positions(cx, begins)?;
    let count = cx.b.shape(starts)?[0].clone();
    let marks = cx.b.cast(begins, DType::I64)?;
    let groups = cx.b.cumulate(ReduceOp::Sum, marks, 0, true, false)?;
    let groups = cx.b.map(&[groups, marks], |e| {
        let (before, mark, one) = (e.arg(0), e.arg(1), e.dim(&Dim::ONE));
        let with = e.add(before, mark);
        Ok(e.sub(with, one))
    })?;
    let zeros = cx.b.map_to(std::slice::from_ref(&length), &[], |e| Ok(e.dim(&Dim::ZERO)))?;
    let inverse = cx.b.scatter(ScatterOp::Set, zeros, groups, &[order], &[Coord::Input(0)])?;
    let first = cx.b.take(order, starts, 0)?;
    let next = cx.b.map_to(std::slice::from_ref(&count), &[], |e| {
        let (at, one) = (e.index(0), e.dim(&Dim::ONE));
        Ok(e.add(at, one))
    })?;
    let next = cx.b.gather(starts, &[next], &[Coord::Input(0)], std::slice::from_ref(&count))?;
    let last = (&count - &Dim::ONE)?;
    let counts = cx.b.map(&[starts, next], |e| {
        let (start, next, at) = (e.arg(0), e.arg(1), e.index(0));
        let (last, length) = (e.dim(&last), e.dim(&length));
        let ends = e.eq(at, last);
        let next = e.select(ends, length, next);
        Ok(e.sub(next, start))
    })?;
    if sorted {
        return Ok(vec![cx.b.take(values, starts, 0)?, first, inverse, counts]);
    }
    // In the order in which they come: by the place of the first of each.
    let (first, by_first) = cx.b.sort(first, 0, false)?;
    let zeros = cx.b.map_to(std::slice::from_ref(&count), &[], |e| Ok(e.dim(&Dim::ZERO)))?;
    let numbers = cx.b.map_to(std::slice::from_ref(&count), &[], |e| Ok(e.index(0)))?;
    let places = cx.b.scatter(ScatterOp::Set, zeros, numbers, &[by_first], &[Coord::Input(0)])?;
    let inverse = cx.b.take(places, inverse, 0)?;
    let counts = cx.b.take(counts, by_first, 0)?;
    Ok(vec![cx.b.take(x, first, 0)?, first, inverse, counts])
}

/// Of the slices along an axis: each is compared with each, at the first place where they differ.
fn unique_slices(cx: &mut NodeContext<'_>, x: Value, axis: i64, sorted: bool) -> OpResult {
    let shape = cx.b.shape(x)?;
    let axis = cx.b.axis(axis, shape.len())?;
    let mut perm: Vec<usize> = (0..shape.len()).filter(|&i| i != axis).collect();
    perm.insert(0, axis);
    let length = shape[axis].clone();
    let rows = cx.b.transpose(x, &perm)?;
    let width = Dim::product(perm[1..].iter().map(|&i| &shape[i]))?;
    let rows = cx.b.reshape(rows, &[length.clone(), width])?;
    let (left, right) = (cx.b.unsqueeze(rows, &[1])?, cx.b.unsqueeze(rows, &[0])?);
    let differs = cx.b.map(&[left, right], |e| {
        let (a, b) = (e.arg(0), e.arg(1));
        let differs = e.ne(a, b);
        Ok(e.cast(DType::I64, differs))
    })?;
    let differ = cx.b.reduce(ReduceOp::Max, differs, &[2], false)?;
    let place = cx.b.reduce(ReduceOp::ArgMax { last: false }, differs, &[2], false)?;
    let square = [length.clone(), length.clone()];
    let [left, right] = [0, 1].map(|n| cx.b.gather(rows, &[place], &[Coord::Axis(n), Coord::Input(0)], &square));
    let (left, right) = (left?, right?);
    // Along the columns of these matrices: slice j, compared with every slice i.
    let earlier = cx.b.map(&[differ], |e| {
        let (differ, zero, i, j) = (e.arg(0), e.dim(&Dim::ZERO), e.index(0), e.index(1));
        let (equal, before) = (e.eq(differ, zero), e.lt(i, j));
        let earlier = e.and(equal, before);
        Ok(e.cast(DType::I64, earlier))
    })?;
    let repeated = cx.b.reduce(ReduceOp::Max, earlier, &[0], false)?;
    let fresh = cx.b.map(&[repeated], |e| {
        let (repeated, one) = (e.arg(0), e.dim(&Dim::ONE));
        Ok(e.sub(one, repeated))
    })?;
    let column = cx.b.unsqueeze(fresh, &[1])?;
    let before = if sorted {
        cx.b.map(&[left, right, column], |e| {
            let (a, b, fresh, zero) = (e.arg(0), e.arg(1), e.arg(2), e.dim(&Dim::ZERO));
            let less = e.lt(a, b);
            Ok(e.select(less, fresh, zero))
        })?
    } else {
        let equal = cx.b.map(&[differ], |e| {
            let (differ, one) = (e.arg(0), e.dim(&Dim::ONE));
            Ok(e.sub(one, differ))
        })?;
        let first = cx.b.reduce(ReduceOp::ArgMax { last: false }, equal, &[0], true)?;
        cx.b.map_to(&square, &[first, column], |e| {
            let (first, fresh, i, zero) = (e.arg(0), e.arg(1), e.index(0), e.dim(&Dim::ZERO));
            let less = e.lt(i, first);
            Ok(e.select(less, fresh, zero))
        })?
    };
    let inverse = cx.b.reduce(ReduceOp::Sum, before, &[0], false)?;
    let places = cx.b.map(&[fresh, inverse], |e| {
        let (fresh, place, zero, outside) = (e.arg(0), e.arg(1), e.dim(&Dim::ZERO), e.dim(&length));
        let kept = e.gt(fresh, zero);
        Ok(e.select(kept, place, outside))
    })?;
    let all = std::slice::from_ref(&length);
    let zeros = cx.b.map_to(all, &[], |e| Ok(e.dim(&Dim::ZERO)))?;
    let numbers = cx.b.map_to(all, &[], |e| Ok(e.index(0)))?;
    let ones = cx.b.map_to(all, &[], |e| Ok(e.dim(&Dim::ONE)))?;
    let first = cx.b.scatter(ScatterOp::Set, zeros, numbers, &[places], &[Coord::Input(0)])?;
    let counts = cx.b.scatter(ScatterOp::Add, zeros, ones, &[inverse], &[Coord::Input(0)])?;
    let count = cx.b.reduce(ReduceOp::Sum, fresh, &[0], false)?;
    let count = cx.bind_one(count, &length)?;
    let first = cx.b.slice_axis(first, 0, &Dim::ZERO, &count, 1)?;
    let counts = cx.b.slice_axis(counts, 0, &Dim::ZERO, &count, 1)?;
    Ok(vec![cx.b.take(x, first, axis as i64)?, first, inverse, counts])
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
