//! Pooling: maxima, means and norms over sliding windows and over whole images.

use onnxc_ir::dim::Dim;
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp, Window};
use onnxc_ir::tensor::{Shape, Value};

use super::Operator;
use super::linear::sum_type;
use super::sliding::{Sliding, explicit_pads, positive};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("MaxPool", &[1, 8, 10, 11, 12, 22], (1, 1), max_pool),
    Operator::onnx("AveragePool", &[1, 7, 10, 11, 19, 22], (1, 1), average_pool),
    Operator::onnx("LpPool", &[1, 2, 11, 18, 22], (1, 1), lp_pool),
    Operator::onnx("GlobalMaxPool", &[1, 22], (1, 1), |cx| {
        let (x, axes) = spatial_axes(cx)?;
        Ok(vec![cx.b.reduce(ReduceOp::Max, x, &axes, true)?])
    }),
    Operator::onnx("GlobalAveragePool", &[1, 22], (1, 1), |cx| {
        let (x, axes) = spatial_axes(cx)?;
        Ok(vec![cx.b.mean(x, &axes, true)?])
    }),
    Operator::onnx("GlobalLpPool", &[1, 2, 22], (1, 1), |cx| {
        let (x, axes) = spatial_axes(cx)?;
        let p = exponent(cx);
        let powers = power(cx, x, p)?;
        let sum = cx.b.reduce(ReduceOp::Sum, powers, &axes, true)?;
        Ok(vec![root(cx, sum, p)?])
    }),
    Operator::onnx("MaxUnpool", &[9, 11, 22], (2, 3), max_unpool),
];

/// The input and the axes after batch and channels.
fn spatial_axes(cx: &NodeContext<'_>) -> Result<(Value, Vec<i64>), OpError> {
    let x = cx.input(0)?;
    Ok((x, spatial_axes_of(cx, x)?))
}

/// The axes of an image after batch and channels.
fn spatial_axes_of(cx: &NodeContext<'_>, x: Value) -> Result<Vec<i64>, OpError> {
    let rank = cx.b.rank(x)?;
    if rank < 3 {
        return cx.invalid(format!("pools a tensor of rank {rank}"));
    }
    Ok((2..rank as i64).collect())
}

/// Windows over the spatial dimensions of the input, with what `ceil_mode` adds after the end.
struct Pool {
    windows: Sliding,
    /// Padding that only makes a window at the end complete; it counts in no mean.
    extra: Vec<i64>,
    /// The number of windows per spatial dimension.
    sizes: Vec<Dim>,
}

impl Pool {
    fn read(cx: &NodeContext<'_>, x: Value) -> Result<Pool, OpError> {
        let axes = spatial_axes_of(cx, x)?;
        let shape = cx.b.shape(x)?;
        let Some(kernel) = cx.ints("kernel_shape") else { return cx.invalid("attribute `kernel_shape` is missing") };
        let windows = Sliding::read(cx, &shape[2..], kernel.to_vec())?;
        let ceil = cx.flag("ceil_mode", false);
        let (mut extra, mut sizes) = (Vec::new(), Vec::new());
        for i in 0..axes.len() {
            let stride = Dim::from(windows.strides[i]);
            let more = if ceil { windows.strides[i] - 1 } else { 0 };
            let begun = (&shape[2 + i] + &windows.pad_lo[i])?;
            let room = (&begun + &(&windows.pad_hi[i] + &Dim::from(more - windows.extent(i)))?)?;
            let mut size = (&room.floor_div(&stride)? + &Dim::ONE)?;
            let behind = (&windows.pad_hi[i] + &Dim::from(more - windows.extent(i)))?;
            if ceil && behind.bounds(&cx.b.graph.symbols).1 >= 0 {
                // No window begins in the padding after the end.
                size = cx.b.graph.lesser_dim(&size, &begun.ceil_div(&stride)?)?;
            }
            // With known sizes only the padding that the last window needs is left.
            let needed = (&(&(&(&size - &Dim::ONE)? * &stride)? + &Dim::from(windows.extent(i)))? - &begun)?;
            let needed = (&needed - &windows.pad_hi[i])?.as_const().map(|n| n.clamp(0, more));
            extra.push(needed.unwrap_or(more));
            sizes.push(size);
        }
        Ok(Pool { windows, extra, sizes })
    }

    /// Reduces the windows of `x`, whose spatial dimensions are the last.
    fn apply(&self, cx: &mut NodeContext<'_>, op: ReduceOp, x: Value) -> Result<Value, OpError> {
        let mut windows = self.windows.clone();
        let fill = if op == ReduceOp::Sum { 0.0 } else { f64::NEG_INFINITY };
        let (x, lo, mut hi) = windows.settle_pads(cx, x, fill)?;
        hi.iter_mut().zip(&self.extra).for_each(|(h, e)| *h += e);
        self.reduce(cx, op, x, &lo, &hi)
    }

    fn reduce(
        &self,
        cx: &mut NodeContext<'_>,
        op: ReduceOp,
        x: Value,
        lo: &[i64],
        hi: &[i64],
    ) -> Result<Value, OpError> {
        let full = |value: i64, spatial: &[i64]| [value, value].iter().chain(spatial).copied().collect();
        let window = Window {
            op,
            sizes: full(1, &self.windows.kernel),
            strides: full(1, &self.windows.strides),
            dilations: full(1, &self.windows.dilations),
            pad_lo: full(0, lo),
            pad_hi: full(0, hi),
        };
        let mut y = cx.b.window(window, x)?;
        for (i, size) in self.sizes.iter().enumerate() {
            let have = &cx.b.shape(y)?[2 + i];
            if !cx.b.graph.same_dim(have, size) {
                y = cx.b.slice_axis(y, 2 + i as i64, &Dim::ZERO, size, 1)?;
            }
        }
        Ok(y)
    }

    /// How many elements each window of a mean has: a number, or a tensor that broadcasts to the output.
    fn counts(&self, cx: &mut NodeContext<'_>, spatial: &[Dim], include_pad: bool) -> Result<Option<Value>, OpError> {
        let unpadded = |pads: &[Dim]| include_pad || pads.iter().all(|p| *p == 0);
        if unpadded(&self.windows.pad_lo) && unpadded(&self.windows.pad_hi) && self.extra.iter().all(|&e| e == 0) {
            return Ok(None);
        }
        // The sums over ones: constant folding computes them wherever the sizes are known.
        let mut shape: Shape = [Dim::ONE, Dim::ONE].into_iter().collect();
        for (i, size) in spatial.iter().enumerate() {
            let padding = (&self.windows.pad_lo[i] + &self.windows.pad_hi[i])?;
            shape.push(if include_pad { (size + &padding)? } else { size.clone() });
        }
        let ones = match shape.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() {
            Some(shape) => cx.b.splat(Scalar::f32(1.0), &shape)?,
            None => cx.b.map_to(&shape, &[], |e| Ok(e.constant(Scalar::f32(1.0))))?,
        };
        if include_pad {
            let none = vec![0; spatial.len()];
            return Ok(Some(self.reduce(cx, ReduceOp::Sum, ones, &none, &self.extra)?));
        }
        Ok(Some(self.apply(cx, ReduceOp::Sum, ones)?))
    }
}

fn max_pool(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let pool = Pool::read(cx, x)?;
    let y = pool.apply(cx, ReduceOp::Max, x)?;
    if !cx.wants_output(1) {
        return Ok(vec![y]);
    }
    if pool.windows.pad_lo.iter().chain(&pool.windows.pad_hi).any(|p| p.as_const().is_none()) {
        return cx.unsupported("indices of maxima with a padding that depends on the run");
    }
    let indices = pool.apply(cx, ReduceOp::ArgMax { last: false }, x)?;
    let indices = if cx.flag("storage_order", false) { column_major(cx, indices, x)? } else { indices };
    Ok(vec![y, indices])
}

/// Row-major indices into `x` as indices whose spatial part counts the first spatial dimension fastest.
fn column_major(cx: &mut NodeContext<'_>, indices: Value, x: Value) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let spatial = shape[2..].to_vec();
    let image = Dim::product(&spatial)?;
    Ok(cx.b.map(&[indices], |e| {
        let index = e.arg(0);
        let size = e.dim(&image);
        let mut rest = e.rem(index, size);
        let mut result = e.sub(index, rest);
        // From the last dimension, which is the fastest in `rest`; its step is the product of those before it.
        for (i, dim) in spatial.iter().enumerate().rev() {
            let (size, step) = (e.dim(dim), e.dim(&Dim::product(&spatial[..i])?));
            let coordinate = e.rem(rest, size);
            rest = e.div(rest, size);
            let part = e.mul(coordinate, step);
            result = e.add(result, part);
        }
        Ok(result)
    })?)
}

fn average_pool(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    Ok(vec![mean_of_windows(cx, x)?])
}

/// The greatest element of each window that the node's attributes describe, over an image with channels first.
pub(super) fn max_of_windows(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let pool = Pool::read(cx, x)?;
    pool.apply(cx, ReduceOp::Max, x)
}

/// The mean of each window that the node's attributes describe, over an image with channels first.
pub(super) fn mean_of_windows(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let pool = Pool::read(cx, x)?;
    let dtype = cx.b.dtype(x)?;
    let wide = cx.b.cast(x, sum_type(dtype))?;
    let sum = pool.apply(cx, ReduceOp::Sum, wide)?;
    let spatial = cx.b.shape(x)?[2..].to_vec();
    let include_pad = cx.flag("count_include_pad", false);
    let mean = match pool.counts(cx, &spatial, include_pad)? {
        None => {
            let count = pool.windows.kernel.iter().map(|&k| k as f64).product();
            cx.b.binary_number(BinaryOp::Div, sum, count)?
        }
        Some(counts) => {
            let counts = cx.b.cast(counts, sum_type(dtype))?;
            cx.b.div(sum, counts)?
        }
    };
    Ok(cx.b.cast(mean, dtype)?)
}

fn lp_pool(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let pool = Pool::read(cx, x)?;
    let p = exponent(cx);
    let powers = power(cx, x, p)?;
    let sum = pool.apply(cx, ReduceOp::Sum, powers)?;
    Ok(vec![root(cx, sum, p)?])
}

/// The attribute `p`: a number in the first version, an integer since.
fn exponent(cx: &NodeContext<'_>) -> f64 {
    let number = if cx.version < 2 { cx.float_opt("p").map(f64::from) } else { cx.int_opt("p").map(|p| p as f64) };
    number.unwrap_or(2.0)
}

/// `|x| ^ p`.
fn power(cx: &mut NodeContext<'_>, x: Value, p: f64) -> Result<Value, OpError> {
    if p == 2.0 {
        return Ok(cx.b.mul(x, x)?);
    }
    let x = cx.b.abs(x)?;
    if p == 1.0 { Ok(x) } else { Ok(cx.b.binary_number(BinaryOp::Pow, x, p)?) }
}

/// `x ^ (1 / p)`.
fn root(cx: &mut NodeContext<'_>, x: Value, p: f64) -> Result<Value, OpError> {
    if p == 1.0 {
        Ok(x)
    } else if p == 2.0 {
        Ok(cx.b.sqrt(x)?)
    } else {
        Ok(cx.b.binary_number(BinaryOp::Pow, x, 1.0 / p)?)
    }
}

/// Puts each element where its maximum came from. Indices count in the shape that the pool is inferred to have had; a
/// greater `output_shape` only adds zeros.
fn max_unpool(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, axes) = spatial_axes(cx)?;
    let indices = cx.input(1)?;
    let shape = cx.b.shape(x)?;
    let rank = axes.len();
    let Some(kernel) = cx.ints("kernel_shape").filter(|k| k.len() == rank) else {
        return cx.invalid(format!("attribute `kernel_shape` lacks an entry for each of {rank} spatial dimensions"));
    };
    let (strides, (lo, hi)) = (positive(cx, "strides", rank)?, explicit_pads(cx, rank)?);
    let mut pooled: Shape = shape[..2].iter().cloned().collect();
    for i in 0..rank {
        let steps = (&(&shape[2 + i] - &Dim::ONE)? * &Dim::from(strides[i]))?;
        pooled.push((&steps + &Dim::from(kernel[i].saturating_sub(lo[i] + hi[i])))?);
    }
    let count = Dim::product(&pooled)?;
    let dtype = cx.b.dtype(x)?;
    let zero = Scalar::zero(dtype);
    let zeros = cx.b.map_to(&[count], &[], |e| Ok(e.constant(zero)))?;
    let elements = [Dim::product(&shape)?];
    let updates = cx.b.reshape(x, &elements)?;
    let indices = cx.b.reshape(indices, &elements)?;
    let flat = cx.b.scatter(ScatterOp::Set, zeros, updates, &[indices], &[Coord::Input(0)])?;
    let y = cx.b.reshape(flat, &pooled)?;
    if cx.optional(2).is_none() {
        return Ok(vec![y]);
    }
    let wanted = cx.sizes(2)?;
    if wanted.len() != pooled.len() {
        return cx.invalid(format!("input 2 has {} elements for rank {}", wanted.len(), pooled.len()));
    }
    let after = wanted.iter().zip(&pooled).map(|(w, p)| w - p).collect::<Result<Vec<_>, _>>()?;
    let before = vec![Dim::ZERO; after.len()];
    let fill = cx.b.scalar(zero);
    Ok(vec![cx.b.pad(y, fill, &before, &after)?])
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, noise};

    #[test]
    fn ceil_mode_of_unknown_sizes() {
        for (size, pads, include) in [(7, [0, 0], 0), (8, [1, 1], 0), (8, [1, 1], 1), (5, [1, 0], 1), (6, [0, 1], 0)] {
            let pool = || {
                TestModel::new("AveragePool", 19)
                    .ints("kernel_shape", &[2])
                    .ints("strides", &[3])
                    .ints("pads", &pads)
                    .int("ceil_mode", 1)
                    .int("count_include_pad", include)
            };
            let x = noise(size as usize);
            let known = pool().input(&[1, 1, size], &x).run();
            assert_eq!(known, pool().dynamic(&[1, 1, size], &x).run(), "{size} {pads:?} {include}");
            assert!(known.1.iter().all(|y| y.is_finite()), "{known:?}");
        }
    }

    #[test]
    fn padding_counts_only_when_asked() {
        let pool = |include| {
            let (_, y) = TestModel::new("AveragePool", 11)
                .ints("kernel_shape", &[3])
                .ints("pads", &[1, 1])
                .int("count_include_pad", include)
                .input(&[1, 1, 3], &[3.0, 6.0, 9.0])
                .run();
            y
        };
        assert_eq!(pool(0), [4.5, 6.0, 7.5]);
        assert_eq!(pool(1), [3.0, 6.0, 5.0]);
    }
}
