//! Operations that compute: contractions, convolutions, reductions, windows.

use super::elements::{Elements, read, strides, walk};
use crate::dtype::DType;
use crate::evaluate;
use crate::scalar::Scalar;
use crate::tensor::TensorBytes;
use crate::tensor::op::{Contract, Conv, Panel, ReduceOp, Window};
use crate::tensor::winograd::Winograd;

/// The numbers that sums are computed in: `f64` for floats, wrapping `i64` for integers.
trait Number: Copy {
    const ZERO: Self;
    fn multiply_add(self, a: Self, b: Self) -> Self;
    fn of(tensor: &TensorBytes) -> Vec<Self>;
    fn bits(self, dtype: DType) -> u64;
}

impl Number for f64 {
    const ZERO: f64 = 0.0;

    fn multiply_add(self, a: f64, b: f64) -> f64 {
        self + a * b
    }

    fn of(tensor: &TensorBytes) -> Vec<f64> {
        match tensor.to_f32() {
            Some(values) => values.into_iter().map(f64::from).collect(),
            None => {
                let value = |i| match tensor.dtype.is_float() {
                    true => evaluate::float_value(tensor.dtype, read(tensor.dtype, &tensor.bytes, i)),
                    false => evaluate::int_value(tensor.dtype, read(tensor.dtype, &tensor.bytes, i)) as f64,
                };
                (0..tensor.len()).map(value).collect()
            }
        }
    }

    fn bits(self, dtype: DType) -> u64 {
        evaluate::float_bits(dtype, self)
    }
}

impl Number for i64 {
    const ZERO: i64 = 0;

    fn multiply_add(self, a: i64, b: i64) -> i64 {
        self.wrapping_add(a.wrapping_mul(b))
    }

    fn of(tensor: &TensorBytes) -> Vec<i64> {
        (0..tensor.len())
            .map(|i| evaluate::int_value(tensor.dtype, read(tensor.dtype, &tensor.bytes, i)) as i64)
            .collect()
    }

    fn bits(self, dtype: DType) -> u64 {
        let bits = dtype.bits();
        if bits == 64 { self as u64 } else { self as u64 & ((1 << bits) - 1) }
    }
}

pub fn contract(c: &Contract, lhs: &TensorBytes, rhs: &TensorBytes, dtype: DType, shape: &[i64]) -> TensorBytes {
    if c.acc.is_float() {
        contract_in::<f64>(c, lhs, rhs, dtype, shape)
    } else {
        contract_in::<i64>(c, lhs, rhs, dtype, shape)
    }
}

fn contract_in<N: Number>(
    c: &Contract,
    lhs: &TensorBytes,
    rhs: &TensorBytes,
    dtype: DType,
    shape: &[i64],
) -> TensorBytes {
    let unpacked;
    let rhs = match c.panel {
        None => rhs,
        Some(panel) => {
            let columns = c.out.iter().position(|l| *l == c.rhs[1]).map_or(1, |i| shape[i]);
            let depth = c.lhs.iter().position(|l| *l == c.rhs[0]).map_or(rhs.shape[1], |i| lhs.shape[i]);
            unpacked = unpack_matrix(rhs, panel, depth, columns);
            &unpacked
        }
    };
    let mut sizes = [0i64; 256];
    for (labels, dims) in [(&c.lhs, &lhs.shape), (&c.rhs, &rhs.shape)] {
        labels.iter().zip(dims).for_each(|(&l, &d)| sizes[l as usize] = d);
    }
    let steps = |labels: &[u8], dims: &[i64], along: &[u8]| -> Vec<i64> {
        let own = strides(dims);
        along.iter().map(|l| labels.iter().position(|x| x == l).map_or(0, |i| own[i])).collect()
    };
    let mut summed: Vec<u8> = Vec::new();
    for &l in c.lhs.iter().chain(&c.rhs) {
        if !c.out.contains(&l) && !summed.contains(&l) {
            summed.push(l);
        }
    }
    let inner: Vec<i64> = summed.iter().map(|&l| sizes[l as usize]).collect();
    // Offsets of all contracted positions, once.
    let (mut left, mut right) = (Vec::new(), Vec::new());
    walk(&inner, &[&steps(&c.lhs, &lhs.shape, &summed), &steps(&c.rhs, &rhs.shape, &summed)], |_, at| {
        left.push(at[0] as usize);
        right.push(at[1] as usize);
    });
    let (a, b) = (N::of(lhs), N::of(rhs));
    let mut out = Elements::zeros(dtype, shape);
    let mut to = 0;
    walk(shape, &[&steps(&c.lhs, &lhs.shape, &c.out), &steps(&c.rhs, &rhs.shape, &c.out)], |_, at| {
        let (x, y) = (at[0] as usize, at[1] as usize);
        let sum = left.iter().zip(&right).fold(N::ZERO, |sum, (i, j)| sum.multiply_add(a[x + i], b[y + j]));
        out.set(to, sum.bits(dtype));
        to += 1;
    });
    out.into_tensor()
}

/// Panels [ceil(N/nr), K, nr], or of words, as a matrix [K, N].
fn unpack_matrix(panels: &TensorBytes, panel: Panel, depth: i64, columns: i64) -> TensorBytes {
    let (steps, nr, deep) = (panels.shape[1], i64::from(panel.columns), i64::from(panel.deep));
    let mut out = Elements::zeros(panels.dtype, &[depth, columns]);
    for k in 0..depth {
        for n in 0..columns {
            let (step, within) = panel.place(k, depth);
            let from = ((n / nr * steps + step) * nr + n % nr) * deep + within;
            out.set((k * columns + n) as usize, read(panels.dtype, &panels.bytes, from as usize));
        }
    }
    out.into_tensor()
}

pub fn conv(c: &Conv, x: &TensorBytes, filter: &TensorBytes, dtype: DType, shape: &[i64]) -> TensorBytes {
    if let (Some(tile), Some(_)) = (c.winograd, c.panel) {
        // Transforming back keeps one definition of a convolution; the algorithm itself is the schedule's.
        let filter = winograd_filter(Winograd::of(tile).expect("inference knows the tile"), filter);
        return conv_in::<f64>(c, x, &filter, dtype, shape);
    }
    if c.acc.is_float() {
        conv_in::<f64>(c, x, filter, dtype, shape)
    } else {
        conv_in::<i64>(c, x, filter, dtype, shape)
    }
}

/// The filter [panels, 3, 3, C, nr] of a transformed one [panels, t * t, C, nr].
fn winograd_filter(w: &Winograd, transformed: &TensorBytes) -> TensorBytes {
    let [panels, positions, channels, nr] = transformed.shape[..] else {
        panic!("transformed filters have four dimensions")
    };
    let u = <f64 as Number>::of(transformed);
    let (t, inner) = (w.patch(), (channels * nr) as usize);
    let mut out = Elements::zeros(DType::F64, &[panels, 3, 3, channels, nr]);
    for panel in 0..panels as usize {
        for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
            for e in 0..inner {
                let mut sum = 0.0;
                for (i, j) in (0..t).flat_map(|i| (0..t).map(move |j| (i, j))) {
                    let factor = w.filter_inverse[a * t + i] * w.filter_inverse[b * t + j];
                    sum += factor * u[(panel * positions as usize + i * t + j) * inner + e];
                }
                out.set(((panel * 3 + a) * 3 + b) * inner + e, sum.to_bits());
            }
        }
    }
    out.into_tensor()
}

fn conv_in<N: Number>(c: &Conv, x: &TensorBytes, filter: &TensorBytes, dtype: DType, shape: &[i64]) -> TensorBytes {
    let rank = c.strides.len();
    let (channel_axis, first) = if c.channels_last { (rank + 1, 1) } else { (1, 2) };
    let (in_channels, out_channels) = (x.shape[channel_axis], shape[channel_axis]);
    let (per_group, out_per_group) = (in_channels / c.groups, out_channels / c.groups);
    let (in_steps, out_steps) = (strides(&x.shape), strides(shape));
    let taps: i64 = c.kernel.iter().product();
    let weight = |m: i64, ci: i64, tap: i64| -> usize {
        let at = match c.panel {
            None => (m * per_group + ci) * taps + tap,
            Some(panel) if panel.is_deep() => {
                let last = c.kernel[rank - 1];
                let (word, within) = panel.place(tap % last * in_channels + ci, last * in_channels);
                let (nr, words) = (i64::from(panel.columns), filter.shape[rank]);
                (((m / nr * (taps / last) + tap / last) * words + word) * nr + m % nr) * 4 + within
            }
            Some(panel) if c.groups == 1 => {
                let nr = i64::from(panel.columns);
                ((m / nr * taps + tap) * in_channels + ci) * nr + m % nr
            }
            Some(_) => tap * out_channels + m,
        };
        at as usize
    };
    let (a, w) = (N::of(x), N::of(filter));
    let mut out = Elements::zeros(dtype, shape);
    let kernel: Vec<Vec<i64>> = {
        let mut all = Vec::new();
        walk(&c.kernel, &[], |tap, _| all.push(tap.to_vec()));
        all
    };
    let spatial: Vec<i64> = shape[first..first + rank].to_vec();
    for batch in 0..shape[0] {
        walk(&spatial, &[], |position, _| {
            // The taps that fall on an element of the input, with its offset.
            let mut hits: Vec<(i64, i64)> = Vec::with_capacity(kernel.len());
            for (t, tap) in kernel.iter().enumerate() {
                let mut offset = batch * in_steps[0];
                let inside = (0..rank).all(|d| {
                    let at = position[d] * c.strides[d] + tap[d] * c.rhs_dilation[d] - c.pad_lo[d];
                    let (index, rest) = (at.div_euclid(c.lhs_dilation[d]), at.rem_euclid(c.lhs_dilation[d]));
                    offset += index * in_steps[first + d];
                    rest == 0 && index >= 0 && index < x.shape[first + d]
                });
                if inside {
                    hits.push((t as i64, offset));
                }
            }
            let base: i64 = batch * out_steps[0] + (0..rank).map(|d| position[d] * out_steps[first + d]).sum::<i64>();
            for m in 0..out_channels {
                let group = m / out_per_group;
                let mut sum = N::ZERO;
                for &(tap, offset) in &hits {
                    for ci in 0..per_group {
                        let from = offset + (group * per_group + ci) * in_steps[channel_axis];
                        sum = sum.multiply_add(a[from as usize], w[weight(m, ci, tap)]);
                    }
                }
                out.set((base + m * out_steps[channel_axis]) as usize, sum.bits(dtype));
            }
        });
    }
    out.into_tensor()
}

/// A reduction in progress.
struct Accumulator {
    op: ReduceOp,
    dtype: DType,
    float: f64,
    int: i128,
    held: u64,
    index: i64,
    empty: bool,
}

impl Accumulator {
    fn new(op: ReduceOp, dtype: DType) -> Accumulator {
        let (float, int) = if op == ReduceOp::Prod { (1.0, 1) } else { (0.0, 0) };
        let held = match op {
            ReduceOp::Min | ReduceOp::ArgMin { .. } => Scalar::greatest(dtype).bits,
            ReduceOp::Max | ReduceOp::ArgMax { .. } => Scalar::least(dtype).bits,
            ReduceOp::Sum | ReduceOp::Prod => 0,
        };
        Accumulator { op, dtype, float, int, held, index: 0, empty: true }
    }

    fn add(&mut self, bits: u64, index: i64) {
        match self.op {
            ReduceOp::Sum | ReduceOp::Prod => {
                let sum = self.op == ReduceOp::Sum;
                if self.dtype.is_float() {
                    let x = evaluate::float_value(self.dtype, bits);
                    self.float = if sum { self.float + x } else { self.float * x };
                } else {
                    let x = evaluate::int_value(self.dtype, bits);
                    self.int = if sum { self.int.wrapping_add(x) } else { self.int.wrapping_mul(x) };
                }
            }
            ReduceOp::Min | ReduceOp::Max => {
                use crate::scalar::BinaryOp::{Max, Min};
                let op = if self.op == ReduceOp::Min { Min } else { Max };
                self.held = if self.empty { bits } else { evaluate::binary(op, self.dtype, self.held, bits) };
            }
            ReduceOp::ArgMin { last } | ReduceOp::ArgMax { last } => {
                use std::cmp::Ordering;
                // A NaN counts as an extreme in both directions, as in NumPy.
                let nan = |b| self.dtype.is_float() && evaluate::float_value(self.dtype, b).is_nan();
                let ordering = match (nan(bits), nan(self.held) && !self.empty) {
                    (true, true) => Ordering::Equal,
                    (true, false) => Ordering::Greater,
                    (false, true) => Ordering::Less,
                    (false, false) => {
                        let ordering = super::moves::compare(self.dtype, bits, self.held);
                        if matches!(self.op, ReduceOp::ArgMin { .. }) { ordering.reverse() } else { ordering }
                    }
                };
                if self.empty || ordering == Ordering::Greater || last && ordering == Ordering::Equal {
                    (self.held, self.index) = (bits, index);
                }
            }
        }
        self.empty = false;
    }

    fn result(&self) -> u64 {
        match self.op {
            ReduceOp::Sum | ReduceOp::Prod if self.dtype.is_float() => evaluate::float_bits(self.dtype, self.float),
            ReduceOp::Sum | ReduceOp::Prod => {
                let bits = self.dtype.bits();
                if bits == 64 { self.int as u64 } else { self.int as u64 & ((1 << bits) - 1) }
            }
            ReduceOp::Min | ReduceOp::Max => self.held,
            ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. } => self.index as u64,
        }
    }
}

pub fn reduce(op: ReduceOp, axes: &[u32], x: &TensorBytes, dtype: DType, shape: &[i64]) -> TensorBytes {
    let own = strides(&x.shape);
    let is_reduced = |i: usize| axes.contains(&(i as u32));
    let kept: Vec<i64> = (0..own.len()).filter(|&i| !is_reduced(i)).map(|i| own[i]).collect();
    let reduced: Vec<usize> = (0..own.len()).filter(|&i| is_reduced(i)).collect();
    let inner: Vec<i64> = reduced.iter().map(|&i| x.shape[i]).collect();
    let inner_steps: Vec<i64> = reduced.iter().map(|&i| own[i]).collect();
    let mut out = Elements::zeros(dtype, shape);
    let mut to = 0;
    walk(shape, &[&kept], |_, at| {
        let mut sum = Accumulator::new(op, x.dtype);
        walk(&inner, &[&inner_steps], |position, offset| {
            sum.add(read(x.dtype, &x.bytes, (at[0] + offset[0]) as usize), position[0]);
        });
        out.set(to, sum.result());
        to += 1;
    });
    out.into_tensor()
}

pub fn cumulate(op: ReduceOp, axis: usize, exclusive: bool, reverse: bool, x: &TensorBytes) -> TensorBytes {
    let own = strides(&x.shape);
    let length = x.shape[axis];
    let mut lines = x.shape.to_vec();
    lines[axis] = i64::from(length > 0);
    let mut out = Elements::zeros(x.dtype, &x.shape);
    walk(&lines, &[&own], |_, at| {
        let mut sum = Accumulator::new(op, x.dtype);
        for i in 0..length {
            let i = if reverse { length - 1 - i } else { i };
            let place = (at[0] + i * own[axis]) as usize;
            let before = sum.result();
            sum.add(read(x.dtype, &x.bytes, place), i);
            out.set(place, if exclusive { before } else { sum.result() });
        }
    });
    out.into_tensor()
}

pub fn window(w: &Window, x: &TensorBytes, dtype: DType, shape: &[i64]) -> TensorBytes {
    let own = strides(&x.shape);
    let mut out = Elements::zeros(dtype, shape);
    let mut to = 0;
    walk(shape, &[], |position, _| {
        let mut sum = Accumulator::new(w.op, x.dtype);
        walk(&w.sizes, &[], |tap, _| {
            let mut offset = 0;
            for d in 0..shape.len() {
                let at = position[d] * w.strides[d] + tap[d] * w.dilations[d] - w.pad_lo[d];
                if at < 0 || at >= x.shape[d] {
                    return;
                }
                offset += at * own[d];
            }
            sum.add(read(x.dtype, &x.bytes, offset as usize), offset);
        });
        out.set(to, sum.result());
        to += 1;
    });
    out.into_tensor()
}
