//! Convolutions, after `pad_convs` has made padding explicit: every window lies inside of its input.
//!
//! With channels last and filters in panels, a convolution is a matrix product whose rows are positions along the last
//! spatial dimension and whose contracted dimensions are the kernel and the channels. Depthwise ones run lanes along the
//! channels. Everything else goes one element at a time.

use onnxc_ir::dim::Dim;
use onnxc_ir::loops::Val;
use onnxc_ir::loops::build::Index;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::Conv;
use onnxc_ir::tensor::{Node, Op, Value};

use super::contract::panel_place;
use super::depthwise::{self, Line};
use super::gemm::{self, Gemm, Operands, Panels, multiply_add, nest};
use super::tile;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::words;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Schedules a group whose anchor is the `Conv` node `anchor`.
pub fn schedule(k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Conv(conv) = &data.op else { panic!("the anchor is a convolution") };
    if conv.winograd.is_some() {
        return super::winograd::schedule(k, anchor);
    }
    let padded = conv.pad_lo.iter().chain(&conv.pad_hi).any(|&p| p != 0) || conv.lhs_dilation.iter().any(|&d| d != 1);
    assert!(!padded, "`pad_convs` leaves no padding and no dilation of the input");
    let operands =
        ConvOperands { conv: conv.clone(), input: data.inputs[0], filter: data.inputs[1], result: data.outputs[0] };
    let lanes = if conv.acc.bits() == 32 { k.panel_lanes() } else { 1 };
    match (conv.panel, conv.groups) {
        (Some(_), 1) => product_schedule(k, &operands, lanes),
        (Some(_), _) => depthwise::schedule(k, &operands, lanes),
        (None, _) => direct(k, &operands),
    }
}

/// A convolution's operands.
pub(super) struct ConvOperands {
    pub(super) conv: Conv,
    pub(super) input: Value,
    pub(super) filter: Value,
    pub(super) result: Value,
}

impl ConvOperands {
    /// The input's coordinates for an output position and a kernel position.
    pub(super) fn input_coords(
        &self,
        k: &mut GroupKernel<'_>,
        batch: Index,
        at: &[Index],
        kernel: &[Index],
        channel: Coord,
    ) -> Vec<Coord> {
        let mut spatial = Vec::with_capacity(at.len());
        for (i, (&o, &tap)) in at.iter().zip(kernel).enumerate() {
            let start = k.b.imul(o, self.conv.strides[i]);
            let offset = k.b.imul(tap, self.conv.rhs_dilation[i]);
            spatial.push(Coord::uniform(k.b.iadd(start, offset)));
        }
        arrange(self.conv.channels_last, Coord::uniform(batch), spatial, channel)
    }

    pub(super) fn operand(
        &self,
        k: &mut GroupKernel<'_>,
        value: Value,
        coords: Vec<Coord>,
        lanes: u16,
        count: Option<Val>,
    ) -> Val {
        let val = k.pull(value, &Position { coords, lanes, count }, &mut Pulled::default());
        k.b.cast(self.conv.acc, val)
    }

    /// The result's dimensions: batch, spatial, channels.
    pub(super) fn result_dims(&self, k: &GroupKernel<'_>) -> (Dim, Vec<Dim>, Dim) {
        let mut dims = k.graph.tensor_ty(self.result).shape.to_vec();
        let batch = dims.remove(0);
        let channels = if self.conv.channels_last { dims.pop().expect("a channel dimension") } else { dims.remove(0) };
        (batch, dims, channels)
    }

    pub(super) fn kernel_dims(&self) -> Vec<Dim> {
        self.conv.kernel.iter().map(|&n| Dim::from(n)).collect()
    }

    /// The filter along the last spatial dimension.
    pub(super) fn line(&self) -> Line {
        let last = |of: &[i64]| *of.last().expect("a convolution has a spatial dimension");
        Line {
            taps: last(&self.conv.kernel),
            stride: last(&self.conv.strides),
            dilation: last(&self.conv.rhs_dilation),
        }
    }

    /// The result's coordinates: batch and spatial ones around a row, the row, the channel.
    pub(super) fn position(&self, outer: &[Index], row: Index, channel: Coord) -> Vec<Coord> {
        let (&batch, around) = outer.split_first().expect("the batch is outer");
        let spatial = around.iter().copied().chain([row]).map(Coord::uniform).collect();
        arrange(self.conv.channels_last, Coord::uniform(batch), spatial, channel)
    }
}

/// Coordinates in the layout of the convolution.
fn arrange(channels_last: bool, batch: Coord, spatial: Vec<Coord>, channel: Coord) -> Vec<Coord> {
    let mut coords = vec![batch];
    if channels_last {
        coords.extend(spatial);
        coords.push(channel);
    } else {
        coords.push(channel);
        coords.extend(spatial);
    }
    coords
}

impl ConvOperands {
    fn is_deep(&self) -> bool {
        words::is_deep(self.conv.panel)
    }

    /// Whether the last dimension of the kernel and the channels are one dimension of words: neighbouring taps read
    /// neighbouring inputs. Elsewhere the channels are whole words.
    fn is_joined(&self) -> bool {
        *self.conv.rhs_dilation.last().expect("a convolution has a spatial dimension") == 1
    }

    /// Elements of the depth that words are cut from.
    fn word_depth(&self, k: &GroupKernel<'_>) -> i64 {
        let channels = k.graph.tensor_ty(self.input).shape.last().and_then(Dim::as_const);
        let taps = self.conv.kernel.last().copied().unwrap_or(1);
        channels.expect("words have a constant depth") * if self.is_joined() { taps } else { 1 }
    }

    /// A word of the input, in all lanes.
    fn left_word(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, contracted: &[Index], lanes: u16) -> Val {
        let (&word, kernel) = contracted.split_last().expect("channels are contracted");
        let (&batch, around) = outer.split_first().expect("the batch is outer");
        let at: Vec<Index> = around.iter().copied().chain([row]).collect();
        let depth = self.word_depth(k);
        let start = k.word_start(word, depth);
        let joined = self.is_joined();
        let first_tap: Vec<Index> = kernel.iter().copied().chain(joined.then_some(Index::Const(0))).collect();
        if k.graph.def_node(self.input).is_none() {
            let coords = self.input_coords(k, batch, &at, &first_tap, Coord::uniform(start));
            let coords: Vec<Index> = coords.iter().map(|c| c.first_index()).collect();
            return k.word_splat(self.input, &coords, lanes);
        }
        let channels = depth / if joined { self.conv.kernel.last().copied().unwrap_or(1) } else { 1 };
        k.gathered_word(self.input, lanes, |k, number| {
            let element = k.b.iadd(start, number);
            let mut taps = first_tap.clone();
            if let (true, Some(tap)) = (joined, taps.last_mut()) {
                *tap = k.b.idiv(element, channels);
            }
            let channel = k.b.irem(element, channels);
            self.input_coords(k, batch, &at, &taps, Coord::uniform(channel))
        })
    }

    /// Words of the filter for consecutive columns.
    fn right_words(&self, k: &mut GroupKernel<'_>, column: Coord, contracted: &[Index], lanes: u16) -> Val {
        let (panel, within) = panel_place(k, column, lanes);
        let (&word, kernel) = contracted.split_last().expect("channels are contracted");
        let mut coords = vec![panel];
        if self.is_joined() {
            coords.extend(contracted);
        } else {
            let (&tap, outer) = kernel.split_last().expect("a convolution has a spatial dimension");
            let before = k.b.imul(tap, words::count(self.word_depth(k)));
            coords.extend(outer);
            coords.push(k.b.iadd(before, word));
        }
        coords.extend([within, Index::Const(0)]);
        k.words(self.filter, &coords, lanes)
    }
}

impl Operands for ConvOperands {
    fn left(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, contracted: &[Index], lanes: u16) -> Val {
        if self.is_deep() {
            return self.left_word(k, outer, row, contracted, lanes);
        }
        let (&channel, kernel) = contracted.split_last().expect("channels are contracted");
        let (&batch, around) = outer.split_first().expect("the batch is outer");
        let at: Vec<Index> = around.iter().copied().chain([row]).collect();
        let coords = self.input_coords(k, batch, &at, kernel, Coord::uniform(channel));
        self.operand(k, self.input, coords, lanes, None)
    }

    fn right(
        &self,
        k: &mut GroupKernel<'_>,
        _: &[Index],
        column: Coord,
        contracted: &[Index],
        lanes: u16,
        count: Option<Val>,
    ) -> Val {
        if self.is_deep() {
            return self.right_words(k, column, contracted, lanes);
        }
        let (panel, within) = k.coord_split(column, Index::Const(i64::from(gemm::PANEL)), lanes);
        let depth = contracted.iter().map(|&c| Coord::uniform(c));
        let coords = std::iter::once(panel).chain(depth).chain([within]).collect();
        self.operand(k, self.filter, coords, lanes, count)
    }

    fn stored(&self) -> Option<Value> {
        Some(self.filter)
    }

    fn result(&self, outer: &[Index], row: Index, column: Coord) -> Vec<Coord> {
        self.position(outer, row, column)
    }
}

/// As a matrix product.
fn product_schedule(k: GroupKernel<'_>, operands: &ConvOperands, lanes: u16) -> GroupLaunch {
    if let Some(product) = tile::convolution(&k, operands) {
        return tile::schedule(k, &product);
    }
    let (batch, mut spatial, columns) = operands.result_dims(&k);
    let rows = spatial.pop().expect("a convolution has a spatial dimension");
    let deep = operands.is_deep();
    // As a filter [panels, kernel..., C, nr] has them: the input's may be a symbol that is known to be as many.
    let (shaped, from_end) = if deep { (operands.input, 0) } else { (operands.filter, 1) };
    let shape = &k.graph.tensor_ty(shaped).shape;
    let channels = shape[shape.len() - 1 - from_end].clone();
    // Neighbouring positions share their inputs, but for those that a stride skips.
    let stride: i64 = operands.conv.strides.iter().product();
    let element = if deep { 1 } else { i64::from(operands.conv.acc.bits() / 8) };
    let row_bytes = product([&channels, &Dim::from(element * stride)]);
    let type_of = |v: Value| k.graph.tensor_ty(v).dtype;
    let words = deep.then(|| [type_of(operands.input), type_of(operands.filter)]);
    let mut contracted = operands.kernel_dims();
    if deep {
        if operands.is_joined() {
            contracted.pop();
        }
        contracted.push(Dim::from(words::count(operands.word_depth(&k))));
    } else {
        contracted.push(channels);
    }
    let gemm = Gemm {
        outer: vec![],
        lines: std::iter::once(batch).chain(spatial).collect(),
        rows,
        columns,
        row_bytes,
        contracted,
        words,
        acc: operands.conv.acc,
        result: operands.result,
    };
    gemm::schedule(k, &gemm, operands, &Panels::Stored, lanes)
}

/// One element at a time, for any groups, layout and type.
fn direct(mut k: GroupKernel<'_>, operands: &ConvOperands) -> GroupLaunch {
    k.remark("one element at a time: the filter is not packed");
    let (batch, spatial, channels) = operands.result_dims(&k);
    let per_group = k.graph.tensor_ty(operands.filter).shape[1].clone();
    let grid: Vec<Dim> =
        [batch, channels.clone()].into_iter().chain(spatial[..spatial.len() - 1].iter().cloned()).collect();
    let rows = spatial[spatial.len() - 1].clone();
    let contracted: Vec<Dim> = std::iter::once(per_group.clone()).chain(operands.kernel_dims()).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let extents: Vec<Index> = contracted.iter().map(|d| k.dim(d)).collect();
    let (row_bound, inputs_per_group) = (k.dim(&rows), k.dim(&per_group));
    let outputs_per_group = channels.exact_div(&Dim::from(operands.conv.groups)).expect("groups divide the channels");
    let outputs_per_group = k.dim(&outputs_per_group);
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let group = k.b.idiv(at[1], outputs_per_group);
        let first_channel = k.b.imul(group, inputs_per_group);
        k.each(0, row_bound, 1, |k, row| {
            let position: Vec<Index> = at[2..].iter().copied().chain([row.into()]).collect();
            let zero = k.b.constant(Scalar::zero(operands.conv.acc), 1);
            let sum = nest(k, &extents, &mut vec![], &[zero], &mut |k, contracted, sum| {
                let channel = k.b.iadd(first_channel, contracted[0]);
                let coords = operands.input_coords(k, at[0], &position, &contracted[1..], Coord::uniform(channel));
                let element = operands.operand(k, operands.input, coords, 1, None);
                let coords = std::iter::once(at[1]).chain(contracted.iter().copied()).map(Coord::uniform).collect();
                let weight = operands.operand(k, operands.filter, coords, 1, None);
                vec![multiply_add(k, element, weight, sum[0])]
            });
            let spatial = position.iter().map(|&i| Coord::uniform(i)).collect();
            let coords = arrange(operands.conv.channels_last, Coord::uniform(at[0]), spatial, Coord::uniform(at[1]));
            k.push(operands.result, &Position { coords, lanes: 1, count: None }, sum[0], &mut Pulled::default());
        });
    });
    let depth = product(&contracted);
    let flops = product(grid.iter().chain([&rows, &depth, &Dim::from(2)]));
    k.finish(product(&grid), flops)
}
