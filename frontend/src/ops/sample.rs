//! Sampling images at positions that a run computes: GridSample, and the parts that RoiAlign and DeformConv share.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::Coord;
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::Operator;
use super::linear::sum_type;
use crate::import::{NodeContext, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("GridSample", &[16, 20, 22], (2, 2), grid_sample),
    Operator::onnx("AffineGrid", &[20], (2, 2), affine_grid),
];

/// What lies outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// Zeros.
    Zeros,
    /// The elements at the border.
    Border,
    /// The image mirrored at its corners' centres, or at their outer edges.
    Reflection {
        /// Whether at the centres.
        corners: bool,
    },
}

/// One neighbour along one dimension: its index, `i64`, and its weight, both with the shape of the positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbour {
    pub index: Value,
    pub weight: Option<Value>,
}

/// `x` mirrored into `[low, high]`; all are floats of one type.
fn reflected(
    e: &mut ExprBuilder,
    dtype: DType,
    x: ExprIndex,
    size: &Dim,
    corners: bool,
) -> Result<ExprIndex, BuildError> {
    let edge = if corners { 0.0 } else { -0.5 };
    let (low, two, zero) = (e.number(dtype, edge)?, e.number(dtype, 2.0)?, e.number(dtype, 0.0)?);
    let range = e.dim(&if corners { (size - &Dim::ONE)? } else { size.clone() });
    let range = e.cast(dtype, range);
    let offset = e.sub(x, low);
    let distance = e.abs(offset);
    let quotient = e.div(distance, range);
    let turns = e.floor(quotient);
    let whole = e.mul(turns, range);
    let rest = e.sub(distance, whole);
    let parity = e.rem(turns, two);
    let (even, back) = (e.eq(parity, zero), e.sub(range, rest));
    let inside = e.select(even, rest, back);
    let mirrored = e.add(low, inside);
    // An image of one element has no range to mirror in.
    let single = e.eq(range, zero);
    Ok(e.select(single, zero, mirrored))
}

/// The neighbours `first..first + count` of the elements below the positions `x`, with the weights that `weigh` gives for
/// the distance from the element below, in the type of `x`.
fn neighbours(
    b: &mut Builder<'_>,
    x: Value,
    size: &Dim,
    outside: Outside,
    taps: std::ops::Range<i64>,
    weigh: impl Fn(&mut ExprBuilder, ExprIndex, i64) -> Result<ExprIndex, BuildError>,
) -> Result<Vec<Neighbour>, BuildError> {
    let dtype = b.dtype(x)?;
    let below = |e: &mut ExprBuilder, tap: i64| -> Result<ExprIndex, BuildError> {
        let (x, tap) = (e.arg(0), e.number(dtype, tap as f64)?);
        let low = e.floor(x);
        Ok(e.add(low, tap))
    };
    let mut result = Vec::new();
    for tap in taps {
        let index = b.map(&[x], |e| {
            let mut at = below(e, tap)?;
            if let Outside::Reflection { corners } = outside {
                at = reflected(e, dtype, at, size, corners)?;
            }
            Ok(e.cast(DType::I64, at))
        })?;
        let weight = b.map(&[x], |e| {
            let x = e.arg(0);
            let low = e.floor(x);
            let ratio = e.sub(x, low);
            let weight = weigh(e, ratio, tap)?;
            if outside != Outside::Zeros {
                return Ok(weight);
            }
            let at = below(e, tap)?;
            let (zero, size) = (e.number(dtype, 0.0)?, e.dim(size));
            let size = e.cast(dtype, size);
            let (from, to) = (e.ge(at, zero), e.lt(at, size));
            let inside = e.and(from, to);
            Ok(e.select(inside, weight, zero))
        })?;
        result.push(Neighbour { index, weight: Some(weight) });
    }
    Ok(result)
}

/// The two neighbours of linear interpolation.
pub(super) fn linear_neighbours(
    b: &mut Builder<'_>,
    x: Value,
    size: &Dim,
    outside: Outside,
) -> Result<Vec<Neighbour>, BuildError> {
    let dtype = b.dtype(x)?;
    neighbours(b, x, size, outside, 0..2, |e, ratio, tap| {
        let one = e.number(dtype, 1.0)?;
        Ok(if tap == 0 { e.sub(one, ratio) } else { ratio })
    })
}

/// The four neighbours of cubic interpolation with the parameter -0.75.
fn cubic_neighbours(b: &mut Builder<'_>, x: Value, size: &Dim, outside: Outside) -> Result<Vec<Neighbour>, BuildError> {
    const A: f64 = -0.75;
    let dtype = b.dtype(x)?;
    neighbours(b, x, size, outside, -1..3, |e, ratio, tap| {
        // The distance from the tap: at most 1 for the inner two, between 1 and 2 for the outer two.
        let tap_at = e.number(dtype, tap as f64)?;
        let signed = e.sub(ratio, tap_at);
        let d = e.abs(signed);
        let coefficients = match tap {
            0 | 1 => [A + 2.0, -(A + 3.0), 0.0, 1.0],
            _ => [A, -5.0 * A, 8.0 * A, -4.0 * A],
        };
        let mut sum = e.number(dtype, coefficients[0])?;
        for c in &coefficients[1..] {
            let (product, c) = (e.mul(sum, d), e.number(dtype, *c)?);
            sum = e.add(product, c);
        }
        Ok(sum)
    })
}

/// The sum over all combinations of one neighbour per spatial dimension. `leading` are the coordinates of the first
/// dimensions of `x` and their index inputs; the positions have the shape `space`.
pub(super) fn weighted_gather(
    b: &mut Builder<'_>,
    x: Value,
    leading: (&[Coord], &[Value]),
    dims: &[Vec<Neighbour>],
    space: &[Dim],
) -> Result<Value, BuildError> {
    let dtype = b.dtype(x)?;
    let (coords, indices) = leading;
    let first = indices.len() as u32;
    let coords: Vec<Coord> =
        coords.iter().copied().chain((0..dims.len() as u32).map(|d| Coord::Input(first + d))).collect();
    // All weights are arguments once; terms refer to them by number.
    let (mut inputs, mut numbers) = (Vec::new(), Vec::new());
    for dim in dims {
        let mut row = Vec::new();
        for neighbour in dim {
            row.push(neighbour.weight.map(|w| {
                inputs.push(w);
                inputs.len() as u32 - 1
            }));
        }
        numbers.push(row);
    }
    let mut terms: Vec<(u32, Vec<u32>)> = Vec::new();
    let combinations: usize = dims.iter().map(Vec::len).product();
    for n in 0..combinations {
        let (mut rest, mut at, mut factors) = (n, indices.to_vec(), Vec::new());
        for (dim, row) in dims.iter().zip(&numbers) {
            let choice = rest % dim.len();
            rest /= dim.len();
            at.push(dim[choice].index);
            factors.extend(row[choice]);
        }
        inputs.push(b.gather(x, &at, &coords, space)?);
        terms.push((inputs.len() as u32 - 1, factors));
    }
    b.map(&inputs, |e| {
        let mut sum = e.number(dtype, 0.0)?;
        for (n, (value, factors)) in terms.iter().enumerate() {
            let mut term = e.arg(*value);
            for &factor in factors {
                let factor = e.arg(factor);
                term = e.mul(term, factor);
            }
            sum = if n == 0 { term } else { e.add(sum, term) };
        }
        Ok(sum)
    })
}

pub(super) fn grid_sample(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, grid) = (cx.input(0)?, cx.input(1)?);
    let (shape, grid_shape, dtype) = (cx.b.shape(x)?, cx.b.shape(grid)?, cx.b.dtype(x)?);
    let rank = shape.len().saturating_sub(2);
    if rank == 0 || grid_shape.len() != shape.len() || grid_shape[rank + 1] != rank as i64 {
        let (x, g) = (cx.b.graph.shape_text(&shape), cx.b.graph.shape_text(&grid_shape));
        return cx.invalid(format!("samples an image of shape {x} at a grid of shape {g}"));
    }
    if cx.b.graph.assume_equal(&shape[0], &grid_shape[0]).is_err() {
        return cx.invalid("the image and the grid have batches of different sizes");
    }
    let corners = cx.flag("align_corners", false);
    let outside = match cx.text("padding_mode")?.unwrap_or("zeros") {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection { corners },
        other => return cx.invalid(format!("attribute `padding_mode` is `{other}`")),
    };
    let mode = cx.text("mode")?.unwrap_or("linear").to_owned();
    let acc = if dtype.is_float() { sum_type(dtype) } else { DType::F32 };
    let grid = cx.b.cast(grid, acc)?;
    let mut dims = Vec::new();
    for d in 0..rank {
        let size = &shape[2 + d];
        // The last coordinate is that of the last dimension.
        let part = cx.b.slice_axis(grid, -1, &Dim::from((rank - 1 - d) as i64), &Dim::ONE, 1)?;
        let spread: Shape =
            [grid_shape[0].clone(), Dim::ONE].into_iter().chain(grid_shape[1..=rank].iter().cloned()).collect();
        let part = cx.b.reshape(part, &spread)?;
        let position = grid_position(&mut cx.b, part, size, outside, corners, mode == "nearest")?;
        dims.push(match mode.as_str() {
            "nearest" => {
                let mut nearest = linear_neighbours(&mut cx.b, position, size, outside)?;
                // The position is an integer, whose second neighbour has no weight.
                nearest.truncate(1);
                nearest
            }
            "linear" | "bilinear" => linear_neighbours(&mut cx.b, position, size, outside)?,
            "cubic" | "bicubic" => cubic_neighbours(&mut cx.b, position, size, outside)?,
            other => return cx.invalid(format!("attribute `mode` is `{other}`")),
        });
    }
    let space: Shape = shape[..2].iter().chain(&grid_shape[1..=rank]).cloned().collect();
    let wide = cx.b.cast(x, acc)?;
    let leading = ([Coord::Axis(0), Coord::Axis(1)], []);
    let y = weighted_gather(&mut cx.b, wide, (&leading.0, &leading.1), &dims, &space)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// The position in the image of a coordinate in -1..1, brought inside where that does not change what is sampled.
fn grid_position(
    b: &mut Builder<'_>,
    x: Value,
    size: &Dim,
    outside: Outside,
    corners: bool,
    nearest: bool,
) -> Result<Value, BuildError> {
    let dtype = b.dtype(x)?;
    b.map(&[x], |e| {
        let (n, one, half) = (e.arg(0), e.number(dtype, 1.0)?, e.number(dtype, 0.5)?);
        let length = e.dim(size);
        let length = e.cast(dtype, length);
        let last = e.sub(length, one);
        let shifted = e.add(n, one);
        let mut x = if corners {
            let relative = e.mul(shifted, half);
            e.mul(relative, last)
        } else {
            let scaled = e.mul(shifted, length);
            let centred = e.sub(scaled, one);
            e.mul(centred, half)
        };
        if nearest {
            x = e.round(x);
        }
        Ok(match outside {
            Outside::Zeros => x,
            Outside::Border => {
                let zero = e.number(dtype, 0.0)?;
                let above = e.max(x, zero);
                e.min(above, last)
            }
            Outside::Reflection { corners } => {
                let mirrored = reflected(e, dtype, x, size, corners)?;
                // What lies within stays exactly as it is.
                let edge = e.number(dtype, if corners { 0.0 } else { -0.5 })?;
                let high = e.sub(last, edge);
                let (from, to) = (e.ge(x, edge), e.le(x, high));
                let inside = e.and(from, to);
                e.select(inside, x, mirrored)
            }
        })
    })
}

/// The grid that an affine map makes of the regular one.
fn affine_grid(cx: &mut NodeContext<'_>) -> OpResult {
    let theta = cx.input(0)?;
    let sizes = cx.sizes(1)?;
    let (shape, dtype) = (cx.b.shape(theta)?, cx.b.dtype(theta)?);
    let rank = sizes.len().saturating_sub(2);
    if rank == 0 || shape.len() != 3 || shape[1] != rank as i64 || shape[2] != rank as i64 + 1 {
        let text = cx.b.graph.shape_text(&shape);
        return cx.invalid(format!("maps of shape {text} for {} sizes", sizes.len()));
    }
    let corners = cx.flag("align_corners", false);
    let mut columns = Vec::new();
    let spread: Shape = std::iter::once(shape[0].clone())
        .chain(std::iter::repeat_n(Dim::ONE, rank))
        .chain([shape[1].clone()])
        .collect();
    for n in 0..=rank {
        let column = cx.b.slice_axis(theta, 2, &Dim::from(n as i64), &Dim::ONE, 1)?;
        columns.push(cx.b.reshape(column, &spread)?);
    }
    let space: Shape =
        std::iter::once(shape[0].clone()).chain(sizes[2..].iter().cloned()).chain([shape[1].clone()]).collect();
    Ok(vec![cx.b.map_to(&space, &columns, |e| {
        let mut sum = e.arg(rank as u32);
        for n in 0..rank {
            // The first column belongs to the last dimension.
            let (axis, size) = (rank - 1 - n, &sizes[2 + rank - 1 - n]);
            let position = regular_position(e, dtype, axis as u32 + 1, size, corners)?;
            let factor = e.arg(n as u32);
            let product = e.mul(factor, position);
            sum = e.add(sum, product);
        }
        Ok(sum)
    })?])
}

/// The coordinate in -1..1 of an element along an axis of the output.
fn regular_position(
    e: &mut ExprBuilder,
    dtype: DType,
    axis: u32,
    size: &Dim,
    corners: bool,
) -> Result<ExprIndex, BuildError> {
    let (one, two) = (e.dim(&Dim::ONE), e.dim(&Dim::from(2)));
    let (i, size) = (e.index(axis), e.dim(size));
    let doubled = e.mul(i, two);
    let (numerator, divisor) = if corners {
        let last = e.sub(size, one);
        (doubled, e.max(last, one))
    } else {
        (e.add(doubled, one), size)
    };
    let (numerator, divisor) = (e.cast(dtype, numerator), e.cast(dtype, divisor));
    let (relative, one) = (e.div(numerator, divisor), e.number(dtype, 1.0)?);
    Ok(e.sub(relative, one))
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, noise};

    #[test]
    fn unknown_sizes_sample_alike() {
        let (x, grid) = (noise(24), noise(24).iter().map(|g| g * 1.7).collect::<Vec<_>>());
        for mode in ["nearest", "linear", "cubic"] {
            for padding in ["zeros", "border", "reflection"] {
                let model = || TestModel::new("GridSample", 20).text("mode", mode).text("padding_mode", padding);
                let known = model().input(&[1, 2, 3, 4], &x).input(&[1, 3, 4, 2], &grid).run();
                let unknown = model().dynamic(&[1, 2, 3, 4], &x);
                let unknown =
                    unknown.declared(&[-1, -1, -1, 2], onnxc_ir::tensor::TensorBytes::from_f32(&[1, 3, 4, 2], &grid));
                assert_close(&unknown.run(), &known);
            }
        }
    }

    #[test]
    fn the_identity_map_samples_the_image() {
        let (x, theta) = (noise(20), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        for corners in [0, 1] {
            let grid = TestModel::new("AffineGrid", 20).int("align_corners", corners).input(&[1, 2, 3], &theta);
            let (shape, grid) = grid.integers(&[1, 1, 4, 5]).run();
            assert_eq!(shape, [1, 4, 5, 2]);
            let sample = TestModel::new("GridSample", 20).int("align_corners", corners);
            let found = sample.input(&[1, 1, 4, 5], &x).input(&shape, &grid).run();
            assert_close(&found, &(vec![1, 1, 4, 5], x.clone()));
        }
    }
}
