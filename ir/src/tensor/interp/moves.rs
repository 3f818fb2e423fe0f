//! Operations that move elements: views, joins, indexing, sorting.

use std::cmp::Ordering;

use super::elements::{Elements, broadcast_strides, read, strides, walk};
use crate::dtype::DType;
use crate::evaluate;
use crate::scalar::BinaryOp;
use crate::tensor::TensorBytes;
use crate::tensor::op::{Coord, ScatterOp};

/// Copies elements from an offset with strides into dense order.
fn strided(x: &TensorBytes, offset: i64, steps: &[i64], shape: &[i64]) -> TensorBytes {
    let mut out = Elements::zeros(x.dtype, shape);
    let Some(size) = x.dtype.bytes().map(|b| b as usize) else {
        let mut to = 0;
        walk(shape, &[steps], |_, at| {
            out.set(to, read(x.dtype, &x.bytes, (offset + at[0]) as usize));
            to += 1;
        });
        return out.into_tensor();
    };
    // Runs along the last axis: whole where it is contiguous, element by element elsewhere.
    let Some((&length, outer)) = shape.split_last() else {
        let start = offset as usize * size;
        out.bytes_mut().copy_from_slice(&x.bytes[start..start + size]);
        return out.into_tensor();
    };
    let (&step, outer_steps) = steps.split_last().expect("as many strides as dimensions");
    if length == 0 {
        return out.into_tensor();
    }
    let run = length as usize * size;
    let mut rows = out.bytes_mut().chunks_exact_mut(run);
    walk(outer, &[outer_steps], |_, at| {
        let row = rows.next().expect("a row for each position");
        let start = offset + at[0];
        if step == 1 {
            let start = start as usize * size;
            row.copy_from_slice(&x.bytes[start..start + run]);
            return;
        }
        match size {
            4 => copy_run::<4>(row, &x.bytes, start, step),
            8 => copy_run::<8>(row, &x.bytes, start, step),
            2 => copy_run::<2>(row, &x.bytes, start, step),
            1 => copy_run::<1>(row, &x.bytes, start, step),
            _ => copy_run::<16>(row, &x.bytes, start, step),
        }
    });
    out.into_tensor()
}

fn copy_run<const SIZE: usize>(row: &mut [u8], from: &[u8], start: i64, step: i64) {
    let mut at = start;
    for to in row.chunks_exact_mut(SIZE) {
        let byte = at as usize * SIZE;
        to.copy_from_slice(&from[byte..byte + SIZE]);
        at += step;
    }
}

pub fn transpose(perm: &[u32], x: &TensorBytes) -> TensorBytes {
    let own = strides(&x.shape);
    let shape: Vec<i64> = perm.iter().map(|&p| x.shape[p as usize]).collect();
    let steps: Vec<i64> = perm.iter().map(|&p| own[p as usize]).collect();
    strided(x, 0, &steps, &shape)
}

pub fn broadcast(x: &TensorBytes, shape: &[i64]) -> TensorBytes {
    strided(x, 0, &broadcast_strides(&x.shape, shape), shape)
}

pub fn slice(x: &TensorBytes, starts: &[i64], steps: &[i64], shape: &[i64]) -> TensorBytes {
    let own = strides(&x.shape);
    let offset = if shape.contains(&0) { 0 } else { starts.iter().zip(&own).map(|(s, o)| s * o).sum() };
    let steps: Vec<i64> = steps.iter().zip(&own).map(|(s, o)| s * o).collect();
    strided(x, offset, &steps, shape)
}

pub fn pad(x: &TensorBytes, fill: &TensorBytes, lo: &[i64], shape: &[i64]) -> TensorBytes {
    let mut out = Elements::zeros(x.dtype, shape);
    out.fill(read(fill.dtype, &fill.bytes, 0));
    place(&mut out, x, lo, shape);
    out.into_tensor()
}

/// Writes `x` into a tensor of `shape` from the position `at` on.
fn place(out: &mut Elements, x: &TensorBytes, at: &[i64], shape: &[i64]) {
    let to = strides(shape);
    let start: i64 = at.iter().zip(&to).map(|(p, s)| p * s).sum();
    let mut from = 0;
    match (x.dtype.bytes(), x.shape.split_last()) {
        (Some(size), Some((&length, outer))) => {
            let run = length as usize * size as usize;
            walk(outer, &[&to[..outer.len()]], |_, offsets| {
                let begin = (start + offsets[0]) as usize * size as usize;
                out.bytes_mut()[begin..begin + run].copy_from_slice(&x.bytes[from..from + run]);
                from += run;
            });
        }
        _ => walk(&x.shape, &[&to], |_, offsets| {
            out.set((start + offsets[0]) as usize, read(x.dtype, &x.bytes, from));
            from += 1;
        }),
    }
}

pub fn concat(inputs: &[TensorBytes], axis: usize, shape: &[i64]) -> TensorBytes {
    let mut out = Elements::zeros(inputs[0].dtype, shape);
    let mut at = vec![0; shape.len()];
    for input in inputs {
        place(&mut out, input, &at, shape);
        at[axis] += input.shape[axis];
    }
    out.into_tensor()
}

/// The index that an input states at a position.
fn index_at(inputs: &[TensorBytes], steps: &[Vec<i64>], n: usize, position: &[i64]) -> i64 {
    let offset: i64 = steps[n].iter().zip(position).map(|(s, p)| s * p).sum();
    let tensor = &inputs[n];
    i64::try_from(evaluate::int_value(tensor.dtype, read(tensor.dtype, &tensor.bytes, offset as usize)))
        .unwrap_or(i64::MAX)
}

pub fn gather(coords: &[Coord], inputs: &[TensorBytes], shape: &[i64]) -> TensorBytes {
    let (data, indices) = inputs.split_first().expect("a gather has data");
    let steps: Vec<Vec<i64>> = indices.iter().map(|t| broadcast_strides(&t.shape, shape)).collect();
    let own = strides(&data.shape);
    let mut out = Elements::zeros(data.dtype, shape);
    let mut to = 0;
    walk(shape, &[], |position, _| {
        let mut offset = 0;
        for (d, coord) in coords.iter().enumerate() {
            let index = match *coord {
                Coord::Axis(axis) => position[axis as usize],
                Coord::Input(n) => index_at(indices, &steps, n as usize, position).clamp(0, (data.shape[d] - 1).max(0)),
            };
            offset += index * own[d];
        }
        out.set(to, read(data.dtype, &data.bytes, offset as usize));
        to += 1;
    });
    out.into_tensor()
}

pub fn scatter(coords: &[Coord], op: ScatterOp, inputs: &[TensorBytes]) -> TensorBytes {
    let (data, updates, indices) = (&inputs[0], &inputs[1], &inputs[2..]);
    let steps: Vec<Vec<i64>> = indices.iter().map(|t| broadcast_strides(&t.shape, &updates.shape)).collect();
    let own = strides(&data.shape);
    let mut out = Elements::copy_of(data);
    let mut from = 0;
    walk(&updates.shape, &[], |position, _| {
        let update = read(updates.dtype, &updates.bytes, from);
        from += 1;
        let mut offset = 0;
        for (d, coord) in coords.iter().enumerate() {
            let index = match *coord {
                Coord::Axis(axis) => position[axis as usize],
                Coord::Input(n) => index_at(indices, &steps, n as usize, position),
            };
            if index < 0 || index >= data.shape[d] {
                return;
            }
            offset += index * own[d];
        }
        let offset = offset as usize;
        let combine = match op {
            ScatterOp::Set => None,
            ScatterOp::Add => Some(BinaryOp::Add),
            ScatterOp::Mul => Some(BinaryOp::Mul),
            ScatterOp::Min => Some(BinaryOp::Min),
            ScatterOp::Max => Some(BinaryOp::Max),
        };
        let value = match combine {
            None => update,
            Some(op) => evaluate::binary(op, data.dtype, out.get(offset), update),
        };
        out.set(offset, value);
    });
    out.into_tensor()
}

pub fn sort(x: &TensorBytes, axis: usize, descending: bool) -> (TensorBytes, TensorBytes) {
    let mut values = Elements::zeros(x.dtype, &x.shape);
    let mut indices = Elements::zeros(DType::I64, &x.shape);
    let own = strides(&x.shape);
    let mut lines = x.shape.to_vec();
    lines[axis] = i64::from(x.shape[axis] > 0);
    walk(&lines, &[&own], |_, at| {
        let place = |i: usize| (at[0] + i as i64 * own[axis]) as usize;
        let line: Vec<u64> = (0..x.shape[axis] as usize).map(|i| read(x.dtype, &x.bytes, place(i))).collect();
        let mut order: Vec<usize> = (0..line.len()).collect();
        order.sort_by(|&a, &b| {
            let ordering = compare(x.dtype, line[a], line[b]);
            if descending { ordering.reverse() } else { ordering }
        });
        for (i, &from) in order.iter().enumerate() {
            values.set(place(i), line[from]);
            indices.set(place(i), from as u64);
        }
    });
    (values.into_tensor(), indices.into_tensor())
}

/// The order of a sort: NaN is greater than every number.
pub fn compare(dtype: DType, a: u64, b: u64) -> Ordering {
    if !dtype.is_float() {
        return evaluate::int_value(dtype, a).cmp(&evaluate::int_value(dtype, b));
    }
    let (a, b) = (evaluate::float_value(dtype, a), evaluate::float_value(dtype, b));
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
