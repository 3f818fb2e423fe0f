//! Elementwise groups, views that become copies, pads and gathers: each element of the result is pulled on its own.
//!
//! Loops: tasks over blocks of rows, rows of the last dimension, vectors inside of a row. A concatenation is one such
//! kernel for each of its operands.

use onnxc_ir::dim::Dim;
use onnxc_ir::loops::Val;
use onnxc_ir::loops::build::Index;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::{Graph, Node, Op, Region};

use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::{TASK_ELEMENTS, product};
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Schedules a group whose result is pulled element by element.
pub fn schedule(mut k: GroupKernel<'_>) -> GroupLaunch {
    let result = k.results()[0];
    let dims = k.graph.tensor_ty(result).shape.to_vec();
    let lanes = k.lanes();
    let strides = k.strides(result);
    let buffer = k.output(result);
    let tasks = for_each_element(&mut k, &dims, lanes, |k, at| {
        let val = k.pull(result, at, &mut Pulled::default());
        k.store(buffer, &strides, at, val);
    });
    k.finish(tasks, product(&dims))
}

/// Schedules a group whose anchor is the `Concat` node `anchor`: one kernel for each operand that has elements.
pub fn schedule_concat(
    graph: &Graph,
    region: Region,
    machine: &MachineModel,
    name: &str,
    anchor: Node,
) -> Vec<GroupLaunch> {
    let data = &graph.nodes[anchor];
    let Op::Concat { axis } = data.op else { panic!("the anchor is a concatenation") };
    let axis = axis as usize;
    let mut offset = Dim::from(0);
    let mut launches = Vec::new();
    for &input in &data.inputs {
        let dims = graph.tensor_ty(input).shape.to_vec();
        let start = offset.clone();
        offset = (&offset + &dims[axis]).expect("the result's size was checked when the graph was built");
        if graph.tensor_ty(input).static_len() == Some(0) {
            continue;
        }
        let mut k = GroupKernel::new(graph, region, machine, name);
        let lanes = k.lanes();
        let strides = k.strides(data.outputs[0]);
        let buffer = k.output(data.outputs[0]);
        let start = k.dim(&start);
        let tasks = for_each_element(&mut k, &dims, lanes, |k, at| {
            let val = k.pull(input, at, &mut Pulled::default());
            let mut coords = at.coords.clone();
            coords[axis] = k.coord_scale(coords[axis], 1, start, at.lanes);
            k.store(buffer, &strides, &at.at(coords), val);
        });
        launches.push(k.finish(tasks, product(&dims)));
    }
    launches
}

/// Loops over an index space with vectors along its last dimension. Gives the number of tasks.
pub fn for_each_element(
    k: &mut GroupKernel<'_>,
    shape: &[Dim],
    lanes: u16,
    mut body: impl FnMut(&mut GroupKernel<'_>, &Position),
) -> Dim {
    let mut element =
        |k: &mut GroupKernel<'_>, outer: &[Coord], last: Option<Coord>, lanes: u16, count: Option<Val>| {
            let coords = outer.iter().copied().chain(last).collect();
            body(k, &Position { coords, lanes, count });
        };
    let Some((last, outer)) = shape.split_last() else {
        k.tasks(|k, _| element(k, &[], None, 1, None));
        return Dim::from(1);
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
        return last.ceil_div(&Dim::from(TASK_ELEMENTS)).expect("the divisor is a constant");
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
    rows.ceil_div(&Dim::from(block)).expect("the divisor is a constant")
}
