//! Pooling: reductions over windows that slide over the input.
//!
//! Lanes run along the last dimension if no window does. Padding is left out by the bounds of the loops over the window,
//! so it costs nothing and contributes nothing.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{LoopKind, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar};
use onnxc_ir::tensor::op::{ReduceOp, Window};
use onnxc_ir::tensor::{Node, Op, Value};

use super::reduce::{CoordBody, accumulator_type, arg_of, combiner, identity};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Schedules a group whose anchor is the `Window` node `anchor`.
pub fn schedule(mut k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Window(window) = &data.op else { panic!("the anchor is a window reduction") };
    let (input, result) = (data.inputs[0], data.outputs[0]);
    let ty = k.graph.tensor_ty(result).clone();
    let pool = Pool { window, input, result };
    let Some((last, outer)) = ty.shape.split_last() else {
        k.tasks(|k, _| pool.element(k, &[], 1, None));
        return k.finish(Dim::from(1), Dim::from(1));
    };
    let i = outer.len();
    let still = window.sizes[i] == 1 && window.strides[i] == 1 && window.pad_lo[i] == 0 && window.pad_hi[i] == 0;
    let lanes = if still { k.lanes() } else { 1 };
    // Tasks are the outer dimensions but the innermost of them, which is a loop.
    let (middle, grid) = match outer.split_last() {
        Some((middle, grid)) => (middle.clone(), grid.to_vec()),
        None => (Dim::from(1), Vec::new()),
    };
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let (rows, length) = (k.dim(&middle), k.dim(last));
    let has_rows = !outer.is_empty();
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        k.each(0, rows, 1, |k, row| {
            let mut outer: Vec<Coord> = at.iter().map(|&i| Coord::uniform(i)).collect();
            if has_rows {
                outer.push(Coord::uniform(row));
            }
            k.vectors(0, length, lanes, |k, c, lanes, count| {
                let coords: Vec<Coord> = outer.iter().copied().chain([c]).collect();
                pool.element(k, &coords, lanes, count);
            });
        });
    });
    let taps = window.sizes.iter().fold(Dim::from(1), |p, &s| (&p * &Dim::from(s)).unwrap_or_default());
    let flops = product(ty.shape.iter().chain([&taps]));
    k.finish(product(&grid), flops)
}

struct Pool<'a> {
    window: &'a Window,
    input: Value,
    result: Value,
}

impl Pool<'_> {
    /// Reduces the windows at `coords` and pushes the results.
    fn element(&self, k: &mut GroupKernel<'_>, coords: &[Coord], lanes: u16, count: Option<Val>) {
        let dtype = k.graph.tensor_ty(self.input).dtype;
        let op = self.window.op;
        // Bytes are compared as the 32 bits that they are extended to.
        let bytes = matches!(op, ReduceOp::Min | ReduceOp::Max) && matches!(dtype, DType::I8 | DType::U8);
        let acc = if bytes { DType::I32 } else { accumulator_type(dtype, op) };
        let first = match identity(op, if bytes { dtype } else { acc }) {
            byte if bytes => {
                Scalar::number(acc, byte.as_i64().expect("bytes are integers") as f64).expect("so is this")
            }
            first => first,
        };
        let first = k.b.constant(first, lanes);
        let shape = k.shape(self.input);
        let strides = k.strides(self.input);
        let val = match arg_of(op) {
            None => {
                let sums = self.taps(k, 0, &shape, coords, &mut vec![], &[first], &mut |k, at, carried| {
                    let element = k.pull(self.input, &position(at, lanes, count), &mut Pulled::default());
                    let element = k.b.cast(acc, element);
                    vec![k.b.binary(combiner(op), carried[0], element)]
                });
                k.b.cast(dtype, sums[0])
            }
            Some((compare, last)) => {
                let none = k.b.constant(Scalar::i64(-1), lanes);
                let carried = self.taps(k, 0, &shape, coords, &mut vec![], &[first, none], &mut |k, at, carried| {
                    let element = k.pull(self.input, &position(at, lanes, count), &mut Pulled::default());
                    let element = k.b.cast(acc, element);
                    let mut flat = Coord::uniform(0);
                    for (&c, &stride) in at.iter().zip(&strides) {
                        flat = k.coord_merge_strided(flat, c, stride, lanes);
                    }
                    let index = k.coord_lanes(flat, lanes);
                    let zero = k.b.constant(Scalar::i64(0), lanes);
                    let start = k.b.compare(CmpOp::Lt, carried[1], zero);
                    let mut better = k.b.compare(compare, element, carried[0]);
                    if last {
                        let equal = k.b.compare(CmpOp::Eq, element, carried[0]);
                        better = k.b.binary(BinaryOp::Or, better, equal);
                    }
                    let take = k.b.binary(BinaryOp::Or, start, better);
                    vec![k.b.select(take, element, carried[0]), k.b.select(take, index, carried[1])]
                });
                carried[1]
            }
        };
        k.push(self.result, &position(coords, lanes, count), val, &mut Pulled::default());
    }

    /// Loops over the taps of the window that lie inside of the input, from dimension `axis` on.
    #[allow(clippy::too_many_arguments)]
    fn taps(
        &self,
        k: &mut GroupKernel<'_>,
        axis: usize,
        shape: &[Index],
        coords: &[Coord],
        at: &mut Vec<Coord>,
        carried: &[Val],
        body: &mut CoordBody<'_>,
    ) -> Vec<Val> {
        let Some(&coord) = coords.get(axis) else { return body(k, at, carried) };
        let w = self.window;
        let (size, stride, dilation, pad) = (w.sizes[axis], w.strides[axis], w.dilations[axis], w.pad_lo[axis]);
        if size == 1 && stride == 1 && pad == 0 && w.pad_hi[axis] == 0 {
            at.push(coord);
            let result = self.taps(k, axis + 1, shape, coords, at, carried, body);
            at.pop();
            return result;
        }
        let Coord::Affine { index, step: 0, .. } = coord else { panic!("lanes do not run along a window") };
        let scaled = k.b.imul(index, stride);
        let start = k.b.isub(scaled, pad);
        let padded = pad != 0 || w.pad_hi[axis] != 0;
        let (lo, hi) = if padded {
            // The first tap with `start + tap * dilation >= 0`, and the bound with `< shape`.
            let minus = k.b.isub(0, start);
            let minus = k.b.imax(minus, 0);
            let up = k.b.iadd(minus, dilation - 1);
            let lo = k.b.idiv(up, dilation);
            let room = k.b.isub(shape[axis], start);
            let room = k.b.iadd(room, dilation - 1);
            let room = k.b.imax(room, 0);
            let hi = k.b.idiv(room, dilation);
            (lo, k.b.imin(hi, size))
        } else {
            (Index::Const(0), Index::Const(size))
        };
        k.for_(LoopKind::Serial, lo, hi, 1, carried, |k, tap, carried| {
            let offset = k.b.imul(tap, dilation);
            at.push(Coord::uniform(k.b.iadd(start, offset)));
            let result = self.taps(k, axis + 1, shape, coords, at, carried, body);
            at.pop();
            result
        })
    }
}

fn position(coords: &[Coord], lanes: u16, count: Option<Val>) -> Position {
    Position { coords: coords.to_vec(), lanes, count }
}
