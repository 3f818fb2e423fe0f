//! Elementwise groups, views that become copies, pads and gathers: each element of the result is pulled on its own.
//!
//! Loops: tasks over blocks of rows, rows of the last dimension, vectors inside of a row.

use onnxc_ir::dim::Dim;
use onnxc_ir::loops::build::Index;

use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::{TASK_ELEMENTS, product};
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Schedules a group whose result is pulled element by element.
pub fn schedule(mut k: GroupKernel<'_>) -> GroupLaunch {
    let result = k.results()[0];
    let ty = k.graph.tensor_ty(result).clone();
    let lanes = k.lanes();
    let strides = k.strides(result);
    let buffer = k.output(result);
    let element = |k: &mut GroupKernel<'_>, outer: &[Coord], last: Option<Coord>, lanes, count| {
        let coords = outer.iter().copied().chain(last).collect();
        let at = Position { coords, lanes, count };
        let val = k.pull(result, &at, &mut Pulled::default());
        k.store(buffer, &strides, &at, val);
    };
    let total = product(&ty.shape);
    let Some((last, outer)) = ty.shape.split_last() else {
        k.tasks(|k, _| element(k, &[], None, 1, None));
        return k.finish(Dim::from(1), Dim::from(1));
    };
    let rows = product(outer);
    let length = k.dim(last);
    if rows == 1 {
        // One row: the tasks are its pieces.
        let zeros = vec![Coord::uniform(0); outer.len()];
        k.tasks(|k, task| {
            let (lo, hi) = k.part(task, TASK_ELEMENTS, length);
            k.vectors(lo, hi, lanes, |k, c, lanes, count| element(k, &zeros, Some(c), lanes, count));
        });
        let tasks = last.ceil_div(&Dim::from(TASK_ELEMENTS)).expect("the divisor is a constant");
        return k.finish(tasks, total);
    }
    // Blocks of rows: enough elements for a task where the row's length is known.
    let block = last.as_const().map_or(1, |n| (TASK_ELEMENTS / n.max(1)).max(1));
    let dims: Vec<Index> = outer.iter().map(|d| k.dim(d)).collect();
    let bound = k.dim(&rows);
    k.tasks(|k, task| {
        let (lo, hi) = k.part(task, block, bound);
        k.each(lo, hi, 1, |k, row| {
            let outer: Vec<Coord> = k.unflatten(row, &dims).into_iter().map(Coord::uniform).collect();
            k.vectors(0, length, lanes, |k, c, lanes, count| element(k, &outer, Some(c), lanes, count));
        });
    });
    let tasks = rows.ceil_div(&Dim::from(block)).expect("the divisor is a constant");
    k.finish(tasks, total)
}
