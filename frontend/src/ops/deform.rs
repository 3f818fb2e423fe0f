//! Convolution at displaced positions, and the inverse of taking an image apart into columns.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::{Contract, Coord, ScatterOp};
use onnxc_ir::tensor::{Shape, Value};

use super::Operator;
use super::conv::add_bias;
use super::linear::sum_type;
use super::sample::{Outside, linear_neighbours, weighted_gather};
use super::sliding::{Sliding, explicit_pads, positive};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("DeformConv", &[19, 22], (3, 5), deform_conv)
        .limited("Two spatial dimensions; the filter's sizes are known when the model is compiled."),
    Operator::onnx("Col2Im", &[18], (3, 3), col2im),
];

/// `[N, C, ...]` as `[N, parts, C / parts, ...]`.
fn split_channels(cx: &mut NodeContext<'_>, x: Value, parts: i64) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let parts = Dim::from(parts);
    let per_part = shape[1].floor_div(&parts)?;
    let split: Shape = [shape[0].clone(), parts, per_part].into_iter().chain(shape[2..].iter().cloned()).collect();
    Ok(cx.b.reshape(x, &split)?)
}

/// Columns are sampled at displaced positions, then multiplied by the filter.
fn deform_conv(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, w, offsets) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shape, filter, dtype) = (cx.b.shape(x)?, cx.b.shape(w)?, cx.b.dtype(x)?);
    if shape.len() != 4 || filter.len() != 4 || cx.b.rank(offsets)? != 4 {
        return cx.unsupported("other than two spatial dimensions");
    }
    let Some(kernel) = filter[2..].iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() else {
        return cx.unsupported("the filter's spatial sizes have to be known when the model is compiled");
    };
    let windows = Sliding::read(cx, &shape[2..], kernel)?;
    let (groups, parts) = (cx.int("group", 1), cx.int("offset_group", 1));
    if groups < 1 || parts < 1 {
        return cx.invalid(format!("{groups} groups and {parts} groups of offsets"));
    }
    let kernel = Dim::from(windows.kernel.iter().product::<i64>());
    let out = cx.b.shape(offsets)?[2..].to_vec();
    // [N, parts, kernel, 2, H, W]: displacements down, then to the right.
    let spread = [shape[0].clone(), Dim::from(parts), kernel.clone(), Dim::from(2), out[0].clone(), out[1].clone()];
    let offsets = cx.b.reshape(offsets, &spread)?;
    let places = [shape[0].clone(), Dim::from(parts), Dim::ONE, kernel.clone(), out[0].clone(), out[1].clone()];
    let mut dims = Vec::new();
    for d in 0..2 {
        let offset = cx.b.slice_axis(offsets, 3, &Dim::from(d as i64), &Dim::ONE, 1)?;
        let offset = cx.b.reshape(offset, &places)?;
        let columns = Dim::from(windows.kernel[1]);
        let (stride, dilation) = (Dim::from(windows.strides[d]), Dim::from(windows.dilations[d]));
        let position = cx.b.map(&[offset], |e| {
            let (o, k, columns) = (e.index(4 + d as u32), e.index(3), e.dim(&columns));
            let k = if d == 0 { e.div(k, columns) } else { e.rem(k, columns) };
            let (stride, dilation, pad) = (e.dim(&stride), e.dim(&dilation), e.dim(&windows.pad_lo[d]));
            let (base, step) = (e.mul(o, stride), e.mul(k, dilation));
            let sum = e.add(base, step);
            let place = e.sub(sum, pad);
            let (place, offset) = (e.cast(dtype, place), e.arg(0));
            Ok(e.add(place, offset))
        })?;
        dims.push(linear_neighbours(&mut cx.b, position, &shape[2 + d], Outside::Zeros)?);
    }
    let image = split_channels(cx, x, parts)?;
    let mut space = places.clone();
    space[2] = shape[1].floor_div(&Dim::from(parts))?;
    let leading = [Coord::Axis(0), Coord::Axis(1), Coord::Axis(2)];
    let mut columns = weighted_gather(&mut cx.b, image, (&leading, &[]), &dims, &space)?;
    if let Some(mask) = cx.optional(4) {
        let mask = cx.b.reshape(mask, &places)?;
        columns = cx.b.mul(columns, mask)?;
    }
    let by_channel = [shape[0].clone(), shape[1].clone(), kernel.clone(), out[0].clone(), out[1].clone()];
    let columns = cx.b.reshape(columns, &by_channel)?;
    let columns = split_channels(cx, columns, groups)?;
    let per_group = filter[0].floor_div(&Dim::from(groups))?;
    let w = cx.b.reshape(w, &[Dim::from(groups), per_group, filter[1].clone(), kernel])?;
    // Labels: 0 batch, 1 group, 2 channel, 3 kernel, 4 and 5 positions, 6 output channel.
    let contract = Contract {
        lhs: [0, 1, 2, 3, 4, 5].as_slice().into(),
        rhs: [1, 6, 2, 3].as_slice().into(),
        out: [0, 1, 6, 4, 5].as_slice().into(),
        acc: sum_type(dtype),
        panel: None,
    };
    let y = cx.b.contract(contract, columns, w)?;
    let y = cx.b.cast(y, dtype)?;
    let y = cx.b.reshape(y, &[shape[0].clone(), filter[0].clone(), out[0].clone(), out[1].clone()])?;
    let bias = cx.optional(3);
    Ok(vec![add_bias(cx, y, bias)?])
}

/// Adds the elements of columns where they were taken from; those from the padding are dropped.
fn col2im(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (image, block) = (cx.sizes(1)?, cx.sizes(2)?);
    let (shape, dtype, rank) = (cx.b.shape(x)?, cx.b.dtype(x)?, image.len());
    let too_small = |k: &Dim| k.bounds(&cx.b.graph.symbols).1 < 1;
    if block.len() != rank || shape.len() != 3 || block.iter().any(too_small) {
        let block = cx.b.graph.shape_text(&block);
        return cx.invalid(format!("blocks of size {block} in an image of {rank} dimensions"));
    }
    let (strides, dilations) = (positive(cx, "strides", rank)?, positive(cx, "dilations", rank)?);
    let (lo, hi) = explicit_pads(cx, rank)?;
    let blocks = Dim::product(&block)?;
    let mut split: Shape = [shape[0].clone(), shape[1].floor_div(&blocks)?].into_iter().collect();
    split.extend(block.iter().cloned());
    for d in 0..rank {
        let extent = (&(&block[d] - &Dim::ONE)? * &Dim::from(dilations[d]))?;
        let room = (&(&image[d] + &Dim::from(lo[d] + hi[d] - 1))? - &extent)?;
        split.push((&room.floor_div(&Dim::from(strides[d]))? + &Dim::ONE)?);
    }
    let updates = cx.b.reshape(x, &split)?;
    let mut indices = Vec::new();
    for d in 0..rank {
        let along = |i: usize| if i == 2 + d || i == 2 + rank + d { split[i].clone() } else { Dim::ONE };
        let space: Shape = (0..split.len()).map(along).collect();
        indices.push(cx.b.map_to(&space, &[], |e| {
            let (k, l) = (e.index(2 + d as u32), e.index((2 + rank + d) as u32));
            let (dilation, stride) = (e.dim(&Dim::from(dilations[d])), e.dim(&Dim::from(strides[d])));
            let (within, start, pad) = (e.mul(k, dilation), e.mul(l, stride), e.number(DType::I64, lo[d] as f64)?);
            let sum = e.add(start, within);
            Ok(e.sub(sum, pad))
        })?);
    }
    let full: Shape = split[..2].iter().chain(&image).cloned().collect();
    let zeros = cx.b.map_to(&full, &[], |e| Ok(e.constant(Scalar::zero(dtype))))?;
    let coords: Vec<Coord> =
        [Coord::Axis(0), Coord::Axis(1)].into_iter().chain((0..rank as u32).map(Coord::Input)).collect();
    Ok(vec![cx.b.scatter(ScatterOp::Add, zeros, updates, &indices, &coords)?])
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, noise};

    #[test]
    fn without_displacement_it_is_a_convolution() {
        let (x, w) = (noise(2 * 4 * 5 * 6), noise(6 * 2 * 3 * 2));
        let attributes = |m: TestModel| {
            m.int("group", 2).ints("pads", &[1, 0, 1, 0]).ints("strides", &[2, 1]).ints("kernel_shape", &[3, 2])
        };
        let plain = attributes(TestModel::new("Conv", 11).input(&[2, 4, 5, 6], &x)).floats(&[6, 2, 3, 2], &w).run();
        let (rows, columns) = (plain.0[2], plain.0[3]);
        let zeros = vec![0.0; (2 * 2 * 12 * rows * columns) as usize];
        let model = attributes(TestModel::new("DeformConv", 19).input(&[2, 4, 5, 6], &x)).int("offset_group", 2);
        let found = model.floats(&[6, 2, 3, 2], &w).input(&[2, 24, rows, columns], &zeros).run();
        assert_close(&found, &plain);
    }

    #[test]
    fn columns_of_an_image_with_padding() {
        let model = TestModel::new("Col2Im", 18).ints("pads", &[1, 1]).input(&[1, 3, 3], &[1.0; 9]);
        // Each inner element is in three blocks, those at the border in two.
        assert_eq!(model.integers(&[3]).integers(&[3]).run(), (vec![1, 1, 3], vec![2.0, 3.0, 2.0]));
    }
}
