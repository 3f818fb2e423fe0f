//! Pooling of regions whose places a run computes.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, Value};

use super::Operator;
use super::sample::{Neighbour, Outside, linear_neighbours, weighted_gather};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("RoiAlign", &[10, 16, 22], (3, 3), roi_align),
    Operator::onnx("MaxRoiPool", &[1, 22], (2, 2), max_roi_pool),
];

/// How regions are sampled.
struct RoiAlign {
    /// Rows and columns of bins.
    bins: [i64; 2],
    /// Sizes of the images.
    image: [Dim; 2],
    maximum: bool,
}

/// What stands for each region; all are `[R, 1, 1, 1]`.
struct Regions {
    /// The image.
    batch: Value,
    /// The first position, down and to the right.
    start: [Value; 2],
    /// The size of a bin.
    bin: [Value; 2],
    /// Samples per bin, whole numbers.
    samples: [Value; 2],
}

fn roi_align(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, rois, batch) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    if shape.len() != 4 || cx.b.rank(rois)? != 2 {
        return cx.invalid("regions are of images with two spatial dimensions");
    }
    let maximum = match cx.text("mode")?.unwrap_or("avg") {
        "avg" => false,
        "max" => true,
        other => return cx.invalid(format!("attribute `mode` is `{other}`")),
    };
    let half_pixel = match cx.text("coordinate_transformation_mode")? {
        None => cx.version >= 16,
        Some("half_pixel") => true,
        Some("output_half_pixel") => false,
        Some(other) => return cx.invalid(format!("attribute `coordinate_transformation_mode` is `{other}`")),
    };
    let bins = [cx.int("output_height", 1), cx.int("output_width", 1)];
    let ratio = cx.int("sampling_ratio", 0);
    if bins.iter().any(|b| !(1..=4096).contains(b)) || !(0..=256).contains(&ratio) {
        return cx.invalid(format!("{bins:?} bins with {ratio} samples"));
    }
    let scale = f64::from(cx.float("spatial_scale", 1.0));
    let count = cx.b.shape(rois)?[0].clone();
    let each = [count.clone(), Dim::ONE, Dim::ONE, Dim::ONE];
    let column = |cx: &mut NodeContext<'_>, n: i64| -> Result<Value, OpError> {
        let x = cx.b.slice_axis(rois, 1, &Dim::from(n), &Dim::ONE, 1)?;
        let x = cx.b.reshape(x, &each)?;
        Ok(cx.b.map(&[x], |e| {
            let (x, scale) = (e.arg(0), e.number(dtype, scale)?);
            let offset = e.number(dtype, if half_pixel { 0.5 } else { 0.0 })?;
            let scaled = e.mul(x, scale);
            Ok(e.sub(scaled, offset))
        })?)
    };
    let corners = [column(cx, 1)?, column(cx, 0)?, column(cx, 3)?, column(cx, 2)?];
    let (mut bin, mut samples) = (Vec::new(), Vec::new());
    for d in 0..2 {
        let size = cx.b.map(&[corners[d], corners[2 + d]], |e| {
            let (start, end) = (e.arg(0), e.arg(1));
            let (size, bins) = (e.sub(end, start), e.number(dtype, bins[d] as f64)?);
            let one = e.number(dtype, 1.0)?;
            let size = if half_pixel { size } else { e.max(size, one) };
            Ok(e.div(size, bins))
        })?;
        bin.push(size);
        samples.push(if ratio > 0 {
            cx.b.number(dtype, ratio as f64)?
        } else {
            cx.b.map(&[size], |e| {
                let size = e.arg(0);
                Ok(e.ceil(size))
            })?
        });
    }
    let batch = cx.b.cast(batch, DType::I64)?;
    let batch = cx.b.reshape(batch, &each)?;
    let regions =
        Regions { batch, start: [corners[0], corners[1]], bin: [bin[0], bin[1]], samples: [samples[0], samples[1]] };
    let align = RoiAlign { bins, image: [shape[2].clone(), shape[3].clone()], maximum };
    let mut total = sample_all(cx, &align, x, &regions, ratio, &count)?;
    if !maximum {
        let one = cx.b.number(dtype, 1.0)?;
        let product = cx.b.mul(regions.samples[0], regions.samples[1])?;
        let count = cx.b.max(product, one)?;
        total = cx.b.div(total, count)?;
    }
    Ok(vec![total])
}

/// The sum, or the maximum, of all samples of each bin, `[R, C, bins...]`: unrolled where their number is small and
/// known, else in a loop up to the greatest number that a region has.
fn sample_all(
    cx: &mut NodeContext<'_>,
    align: &RoiAlign,
    x: Value,
    regions: &Regions,
    ratio: i64,
    count: &Dim,
) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(x)?;
    let channels = cx.b.shape(x)?[1].clone();
    let space = [count.clone(), channels, Dim::from(align.bins[0]), Dim::from(align.bins[1])];
    if (1..=4).contains(&ratio) {
        let mut total = None;
        for n in 0..ratio * ratio {
            let at = [cx.b.number(dtype, (n / ratio) as f64)?, cx.b.number(dtype, (n % ratio) as f64)?];
            let sample = one_sample(&mut cx.b, align, x, regions, at, &space)?;
            total = Some(match total {
                None => sample,
                Some(total) => combined(&mut cx.b, align, total, sample)?,
            });
        }
        return total.ok_or_else(|| OpError::Invalid("no samples".into()));
    }
    let mut most = Vec::new();
    for samples in regions.samples {
        let samples = cx.b.reshape(samples, &[cx.b.shape(samples)?.first().cloned().unwrap_or(Dim::ONE)])?;
        let most_samples = cx.b.reduce(ReduceOp::Max, samples, &[0], false)?;
        let most_samples = cx.b.cast(most_samples, DType::I64)?;
        most.push(cx.b.binary_number(BinaryOp::Max, most_samples, 0.0)?);
    }
    let trip_count = cx.b.mul(most[0], most[1])?;
    let start = if align.maximum { Scalar::least(dtype) } else { Scalar::zero(dtype) };
    let initial = cx.b.map_to(&space, &[], |e| Ok(e.constant(start)))?;
    let [start_y, start_x] = regions.start;
    let [bin_y, bin_x] = regions.bin;
    let [samples_y, samples_x] = regions.samples;
    let captures = vec![x, regions.batch, start_y, start_x, bin_y, bin_x, samples_y, samples_x, most[1]];
    let condition = cx.b.scalar_bool(true);
    let ty = cx.b.ty(initial).clone();
    let spec = LoopSpec { trip_count, condition, carried: vec![(initial, ty)], captures, iterations: None };
    let results = cx.b.loop_(&spec, |b, i, carried, c| {
        let regions = Regions { batch: c[1], start: [c[2], c[3]], bin: [c[4], c[5]], samples: [c[6], c[7]] };
        let (row, column) = (b.div(i, c[8])?, b.rem(i, c[8])?);
        let at = [b.cast(row, dtype)?, b.cast(column, dtype)?];
        let sample = one_sample(b, align, c[0], &regions, at, &space)?;
        let total = combined(b, align, carried[0], sample)?;
        Ok::<_, BuildError>((b.scalar_bool(true), vec![total], vec![]))
    })?;
    let total = results[0];
    if !align.maximum {
        return Ok(total);
    }
    // A region without samples has no maximum.
    Ok(cx.b.map(&[total], |e| {
        let (x, least, zero) = (e.arg(0), e.constant(Scalar::least(dtype)), e.number(dtype, 0.0)?);
        let none = e.eq(x, least);
        Ok(e.select(none, zero, x))
    })?)
}

fn combined(b: &mut Builder<'_>, align: &RoiAlign, total: Value, sample: Value) -> Result<Value, BuildError> {
    b.binary(if align.maximum { BinaryOp::Max } else { BinaryOp::Add }, total, sample)
}

/// The sample with these numbers in all bins of all regions; nothing where a region has fewer.
fn one_sample(
    b: &mut Builder<'_>,
    align: &RoiAlign,
    x: Value,
    regions: &Regions,
    at: [Value; 2],
    space: &[Dim],
) -> Result<Value, BuildError> {
    let dtype = b.dtype(x)?;
    let (mut dims, mut valid) = (Vec::new(), Vec::new());
    for d in 0..2 {
        let inputs = [regions.start[d], regions.bin[d], regions.samples[d], at[d]];
        let mut places = [space[0].clone(), Dim::ONE, Dim::ONE, Dim::ONE];
        places[2 + d] = space[2 + d].clone();
        let size = &align.image[d];
        let place = b.map_to(&places, &inputs, |e| {
            let (start, bin, samples, at) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
            let n = e.index(2 + d as u32);
            let (n, half) = (e.cast(dtype, n), e.number(dtype, 0.5)?);
            let (offset, centre) = (e.mul(n, bin), e.add(at, half));
            let scaled = e.mul(centre, bin);
            let (first, within) = (e.add(start, offset), e.div(scaled, samples));
            Ok(e.add(first, within))
        })?;
        // Beyond one element outside of the image there is nothing; nearer, the border holds.
        let ok = b.map(&[place, inputs[2], at[d]], |e| {
            let (place, samples, at) = (e.arg(0), e.arg(1), e.arg(2));
            let (low, high) = (e.number(dtype, -1.0)?, e.dim(size));
            let high = e.cast(dtype, high);
            let (from, to, exists) = (e.ge(place, low), e.le(place, high), e.lt(at, samples));
            let inside = e.and(from, to);
            Ok(e.and(inside, exists))
        })?;
        valid.push(ok);
        let clamped = b.map(&[place], |e| {
            let (place, zero, last) = (e.arg(0), e.number(dtype, 0.0)?, e.dim(&(size - &Dim::ONE)?));
            let (above, last) = (e.max(place, zero), e.cast(dtype, last));
            Ok(e.min(above, last))
        })?;
        dims.push(linear_neighbours(b, clamped, size, Outside::Border)?);
    }
    let leading = ([Coord::Input(0), Coord::Axis(1)], [regions.batch]);
    let value = if align.maximum {
        greatest_term(b, x, (&leading.0, &leading.1), &dims, space)?
    } else {
        weighted_gather(b, x, (&leading.0, &leading.1), &dims, space)?
    };
    b.map(&[value, valid[0], valid[1]], |e| {
        let (value, y, x, zero) = (e.arg(0), e.arg(1), e.arg(2), e.number(dtype, 0.0)?);
        let ok = e.and(y, x);
        Ok(e.select(ok, value, zero))
    })
}

/// The greatest of the four weighted neighbours, which is what the operator's maximum is over.
fn greatest_term(
    b: &mut Builder<'_>,
    x: Value,
    leading: (&[Coord], &[Value]),
    dims: &[Vec<Neighbour>],
    space: &[Dim],
) -> Result<Value, BuildError> {
    let mut greatest = None;
    for &row in &dims[0] {
        for &column in &dims[1] {
            let term = weighted_gather(b, x, leading, &[vec![row], vec![column]], space)?;
            greatest = Some(match greatest {
                None => term,
                Some(greatest) => b.max(greatest, term)?,
            });
        }
    }
    greatest.ok_or_else(|| BuildError::Invalid("a sample without neighbours".into()))
}

/// Maxima over bins with whole borders: over rows first, then over columns, of what a bin does not mask out.
fn max_roi_pool(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, rois) = (cx.input(0)?, cx.input(1)?);
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let Some(&[rows, columns]) = cx.ints("pooled_shape") else {
        return cx.invalid("attribute `pooled_shape` has not two entries");
    };
    if shape.len() != 4 || rows < 1 || columns < 1 || cx.b.rank(rois)? != 2 {
        return cx.invalid("regions are of images with two spatial dimensions");
    }
    let scale = f64::from(cx.float("spatial_scale", 1.0));
    let count = cx.b.shape(rois)?[0].clone();
    let column = |cx: &mut NodeContext<'_>, n: i64| -> Result<Value, OpError> {
        let x = cx.b.slice_axis(rois, 1, &Dim::from(n), &Dim::ONE, 1)?;
        Ok(cx.b.reshape(x, &[count.clone(), Dim::ONE, Dim::ONE, Dim::ONE])?)
    };
    let batch = column(cx, 0)?;
    let batch = cx.b.cast(batch, DType::I64)?;
    let whole = [count.clone(), shape[1].clone(), shape[2].clone(), shape[3].clone()];
    let coords = [Coord::Input(0), Coord::Axis(1), Coord::Axis(2), Coord::Axis(3)];
    let mut y = cx.b.gather(x, &[batch], &coords, &whole)?;
    // Rows reduce axis 2 of [R, C, H, W], columns axis 3 of [R, C, rows, W].
    for (d, bins) in [rows, columns].into_iter().enumerate() {
        let (start, end) = (column(cx, 2 - d as i64)?, column(cx, 4 - d as i64)?);
        let size = shape[2 + d].clone();
        // [R, 1, bins, size], next to the axis that is reduced.
        let mask = cx.b.map_to(&[count.clone(), Dim::ONE, Dim::from(bins), size], &[start, end], |e| {
            let (scale, half, one) = (e.number(dtype, scale)?, e.number(dtype, 0.5)?, e.number(dtype, 1.0)?);
            let mut rounded = |n: u32| {
                let x = e.arg(n);
                let scaled = e.mul(x, scale);
                let above = e.add(scaled, half);
                e.floor(above)
            };
            let (start, end) = (rounded(0), rounded(1));
            let (bins, n, at) = (e.number(dtype, bins as f64)?, e.index(2), e.index(3));
            let (n, at) = (e.cast(dtype, n), e.cast(dtype, at));
            let difference = e.sub(end, start);
            let length = e.add(difference, one);
            let length = e.max(length, one);
            let bin = e.div(length, bins);
            let (low, next) = (e.mul(n, bin), e.add(n, one));
            let high = e.mul(next, bin);
            let (low, high) = (e.floor(low), e.ceil(high));
            let (low, high) = (e.add(low, start), e.add(high, start));
            let (from, to) = (e.ge(at, low), e.lt(at, high));
            Ok(e.and(from, to))
        })?;
        let (axis, mask_axis) = (2 + d as i64, if d == 0 { 4 } else { 2 });
        let wide = cx.b.unsqueeze(y, &[axis])?;
        let mask = cx.b.unsqueeze(mask, &[mask_axis])?;
        let masked = cx.b.map(&[wide, mask], |e| {
            let (x, mask, least) = (e.arg(0), e.arg(1), e.constant(Scalar::least(dtype)));
            Ok(e.select(mask, x, least))
        })?;
        y = cx.b.reduce(ReduceOp::Max, masked, &[axis + 1], false)?;
    }
    Ok(vec![cx.b.map(&[y], |e| {
        let (x, least, zero) = (e.arg(0), e.constant(Scalar::least(dtype)), e.number(dtype, 0.0)?);
        let empty = e.eq(x, least);
        Ok(e.select(empty, zero, x))
    })?])
}

#[cfg(test)]
mod tests {
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::{TestModel, assert_close, noise};

    fn align(ratio: i64, mode: &str, rois: &[f32]) -> (Vec<i64>, Vec<f32>) {
        let count = rois.len() as i64 / 4;
        TestModel::new("RoiAlign", 16)
            .int("output_height", 2)
            .int("output_width", 2)
            .int("sampling_ratio", ratio)
            .text("mode", mode)
            .input(&[1, 1, 6, 6], &noise(36))
            .input(&[count, 4], rois)
            .declared(&[count], TensorBytes::from_i64(&[count], &vec![0; count as usize]))
            .run()
    }

    #[test]
    fn counts_of_samples_that_a_run_decides() {
        // Bins of 2 by 2 elements need 2 by 2 samples, bins of 1 by 1 one.
        let (large, small) = ([0.5, 0.5, 4.5, 4.5], [1.5, 1.5, 3.5, 3.5]);
        for mode in ["avg", "max"] {
            let adaptive = align(0, mode, &[large, small].concat());
            let expected = [align(2, mode, &large).1, align(1, mode, &small).1].concat();
            assert_close(&adaptive, &(vec![2, 1, 2, 2], expected));
        }
    }

    #[test]
    fn the_looped_average_is_the_unrolled_one_on_a_plane() {
        // On a plane every symmetric set of samples has the same average.
        let plane: Vec<f32> = (0..36).map(|i| (i / 6) as f32 + 10.0 * (i % 6) as f32).collect();
        let run = |ratio| {
            let model = TestModel::new("RoiAlign", 16).int("sampling_ratio", ratio).input(&[1, 1, 6, 6], &plane);
            let model = model.input(&[1, 4], &[1.0, 1.0, 4.0, 3.0]);
            model.declared(&[1], TensorBytes::from_i64(&[1], &[0])).run()
        };
        assert_close(&run(7), &run(2));
    }

    #[test]
    fn maxima_of_regions() {
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let pool = |roi: [f32; 5]| {
            let model = TestModel::new("MaxRoiPool", 1).ints("pooled_shape", &[2, 2]).input(&[1, 1, 4, 4], &x);
            model.input(&[1, 5], &roi).run().1
        };
        assert_eq!(pool([0.0, 0.0, 0.0, 3.0, 3.0]), [5.0, 7.0, 13.0, 15.0]);
        assert_eq!(pool([0.0, 1.0, 1.0, 2.0, 3.0]), [9.0, 10.0, 13.0, 14.0]);
        assert_eq!(pool([0.0, 8.0, 8.0, 9.0, 9.0]), [0.0; 4]);
    }
}
