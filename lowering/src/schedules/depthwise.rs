//! Depthwise convolutions: one filter per channel, with lanes along the channels.
//!
//! A register tile is a few neighbouring outputs. Each column of inputs that they share is loaded once for all of them,
//! and each tap of the filter once for the tile.

use onnxc_ir::dim::Dim;
use onnxc_ir::loops::Val;
use onnxc_ir::loops::build::Index;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::Scalar;

use super::conv::ConvOperands;
use super::gemm::{ceil_div, multiply_add, nest};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Outputs of a register tile at most.
const MOST_OUTPUTS: i64 = 8;

/// A filter's extent along the dimension of the tiles, and how far apart outputs and taps are in the input.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Taps.
    pub taps: i64,
    /// Inputs from one output to the next.
    pub stride: i64,
    /// Inputs from one tap to the next.
    pub dilation: i64,
}

impl Line {
    /// The column of the input that output `output` of a tile multiplies by tap `tap`.
    fn column(self, output: i64, tap: i64) -> i64 {
        output * self.stride + tap * self.dilation
    }

    /// Outputs of a tile: what the registers hold beside the taps and a few inputs, spread evenly over a row.
    pub fn outputs(self, row: Option<i64>, machine: &MachineModel) -> i64 {
        let room = i64::from(machine.kernel_vector_registers) - self.taps - 3;
        let most = room.clamp(1, MOST_OUTPUTS);
        match row {
            Some(row) if row > 0 => ceil_div(row, ceil_div(row, most)),
            _ => most,
        }
    }

    /// The sums of `outputs` neighbouring outputs. `element` gives the input at coordinates of the outer taps and a column
    /// from the tile's first on; `weight` the filter at the outer taps and a tap.
    pub fn sums(
        self,
        k: &mut GroupKernel<'_>,
        outer: &[Index],
        outputs: i64,
        zero: Val,
        element: &mut dyn FnMut(&mut GroupKernel<'_>, &[Index], i64) -> Val,
        weight: &mut dyn FnMut(&mut GroupKernel<'_>, &[Index], i64) -> Val,
    ) -> Vec<Val> {
        let init = vec![zero; outputs as usize];
        nest(k, outer, &mut vec![], &init, &mut |k, around, sums| {
            let weights: Vec<Val> = (0..self.taps).map(|tap| weight(k, around, tap)).collect();
            let mut sums = sums.to_vec();
            for column in 0..=self.column(outputs - 1, self.taps - 1) {
                let uses: Vec<(i64, i64)> = (0..outputs)
                    .flat_map(|output| (0..self.taps).map(move |tap| (output, tap)))
                    .filter(|&(output, tap)| self.column(output, tap) == column)
                    .collect();
                if uses.is_empty() {
                    continue;
                }
                let input = element(k, around, column);
                for (output, tap) in uses {
                    let sum = &mut sums[output as usize];
                    *sum = multiply_add(k, input, weights[tap as usize], *sum);
                }
            }
            sums
        })
    }
}

/// Schedules a depthwise convolution, a row of outputs for each task.
pub(super) fn schedule(mut k: GroupKernel<'_>, operands: &ConvOperands, lanes: u16) -> GroupLaunch {
    let (batch, mut spatial, channels) = operands.result_dims(&k);
    let rows = spatial.pop().expect("a convolution has a spatial dimension");
    let grid: Vec<Dim> = std::iter::once(batch).chain(spatial).collect();
    let kernel = operands.kernel_dims();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let (row_bound, channel_bound) = (k.dim(&rows), k.dim(&channels));
    let extents: Vec<Index> = kernel.iter().map(|d| k.dim(d)).collect();
    let (_, outer_taps) = extents.split_last().expect("a convolution has a spatial dimension");
    let line = operands.line();
    let most = line.outputs(rows.as_const(), k.machine);
    k.remark(format!("depthwise: {lanes} lanes along the channels, {most} outputs at a time"));
    let tile = |k: &mut GroupKernel<'_>, outer: &[Index], row: Index, outputs: i64| {
        k.vectors(0, channel_bound, lanes, |k, channel, lanes, valid| {
            let zero = k.b.constant(Scalar::zero(operands.conv.acc), lanes);
            let at: Vec<Index> = outer[1..].iter().copied().chain([row]).collect();
            let mut element = |k: &mut GroupKernel<'_>, around: &[Index], column: i64| {
                let taps: Vec<Index> = around.iter().copied().chain([Index::Const(0)]).collect();
                let mut coords = operands.input_coords(k, outer[0], &at, &taps, channel);
                let last = coords.len() - 2;
                coords[last] = k.coord_scale(coords[last], 1, Index::Const(column), lanes);
                operands.operand(k, operands.input, coords, lanes, valid)
            };
            let mut weight = |k: &mut GroupKernel<'_>, around: &[Index], tap: i64| {
                let taps = around.iter().copied().chain([Index::Const(tap)]).map(Coord::uniform);
                operands.operand(k, operands.filter, taps.chain([channel]).collect(), lanes, valid)
            };
            let sums = line.sums(k, outer_taps, outputs, zero, &mut element, &mut weight);
            for (r, &sum) in sums.iter().enumerate() {
                let at_row = k.b.iadd(row, r as i64);
                let coords = operands.position(outer, at_row, channel);
                k.push(operands.result, &Position { coords, lanes, count: valid }, sum, &mut Pulled::default());
            }
        });
    };
    k.tasks(|k, task| {
        let outer = k.unflatten(task, &dims);
        each_tile(k, row_bound, most, |k, row, outputs| tile(k, &outer, row, outputs));
    });
    let taps = product(&kernel);
    let flops = product(grid.iter().chain([&rows, &channels, &taps, &Dim::from(2)]));
    k.finish(product(&grid), flops)
}

/// Runs `body` for the tiles of a row of `bound` outputs: whole ones of `most`, then one of the rest, or of 1 at a time where
/// the bound is not constant.
pub fn each_tile(
    k: &mut GroupKernel<'_>,
    bound: Index,
    most: i64,
    mut body: impl FnMut(&mut GroupKernel<'_>, Index, i64),
) {
    let full = k.b.idiv(bound, most);
    let middle = k.b.imul(full, most);
    k.each(0, middle, most, |k, row| body(k, row.into(), most));
    let rest = bound.as_const().map_or(1, |bound| (bound % most).max(1));
    k.each(middle, bound, rest, |k, row| body(k, row.into(), rest));
}
