//! Loops over all elements of an index space, cut into tasks.
//!
//! Vectors run along the last dimension, because there the result is contiguous. Where an operand is contiguous along
//! another dimension (a transposition), that one becomes the innermost loop around the vectors: the lines that a gather
//! touches then serve the next ones too, instead of one element each.

use onnxc_ir::dim::Dim;
use onnxc_ir::loops::InstData;
use onnxc_ir::loops::build::Index;
use onnxc_ir::tensor::Value;

use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel};

/// Loops over an index space with vectors along its last dimension; `inner` is the dimension, not the last one, whose loop
/// is the innermost. Gives the number of tasks.
pub fn for_each_element(
    k: &mut GroupKernel<'_>,
    shape: &[Dim],
    lanes: u16,
    inner: Option<usize>,
    body: impl FnMut(&mut GroupKernel<'_>, &Position),
) -> Dim {
    for_each(k, shape, lanes, inner, k.machine.task_elements, body)
}

/// The same for rows of `length` elements: `body` has a row to itself.
pub fn for_each_row(
    k: &mut GroupKernel<'_>,
    shape: &[Dim],
    length: &Dim,
    body: impl FnMut(&mut GroupKernel<'_>, &Position),
) -> Dim {
    let rows = length.as_const().map_or(1, |n| (k.machine.task_elements / n.max(1)).max(1));
    for_each(k, &[shape, &[Dim::ONE]].concat(), 1, None, rows, body)
}

fn for_each(
    k: &mut GroupKernel<'_>,
    shape: &[Dim],
    lanes: u16,
    inner: Option<usize>,
    most: i64,
    mut body: impl FnMut(&mut GroupKernel<'_>, &Position),
) -> Dim {
    let Some((last, outer)) = shape.split_last() else {
        k.tasks(|k, _| body(k, &Position { coords: vec![], lanes: 1, count: None }));
        return Dim::from(1);
    };
    let length = k.dim(last);
    if product(outer) == 1 {
        // One row: the tasks are its pieces.
        let zeros = vec![Coord::uniform(0); outer.len()];
        k.tasks(|k, task| {
            let (lo, hi) = k.part(task, most, length);
            k.vectors(lo, hi, lanes, |k, c, lanes, count| {
                let coords = zeros.iter().copied().chain([c]).collect();
                body(k, &Position { coords, lanes, count });
            });
        });
        return last.ceil_div(&Dim::from(most)).expect("the divisor is a constant");
    }
    // Dimensions whose loops nest inside of a task: no division finds their coordinates. The others are flattened.
    let around: Vec<usize> = (0..outer.len()).filter(|&i| Some(i) != inner).collect();
    let nested_size = |from: usize| {
        let nested = around[from..].iter().chain(&inner).map(|&i| &shape[i]);
        product(nested.chain([last])).as_const()
    };
    let split = (0..around.len()).find(|&from| nested_size(from).is_some_and(|n| n <= most));
    let split = split.unwrap_or(around.len());
    let (flattened, nested) = around.split_at(split);
    let items = product(flattened.iter().map(|&i| &shape[i]));
    let block = nested_size(split).map_or(1, |n| (most / n.max(1)).max(1));
    let flat_dims: Vec<Index> = flattened.iter().map(|&i| k.dim(&shape[i])).collect();
    let nested: Vec<(usize, Index)> = nested.iter().map(|&i| (i, k.dim(&shape[i]))).collect();
    let inner = inner.map(|i| (i, k.dim(&shape[i])));
    let bound = k.dim(&items);
    k.tasks(|k, task| {
        let (lo, hi) = k.part(task, block, bound);
        k.each(lo, hi, 1, |k, item| {
            let mut coords = vec![Coord::uniform(0); outer.len()];
            for (&i, index) in flattened.iter().zip(k.unflatten(item, &flat_dims)) {
                coords[i] = Coord::uniform(index);
            }
            loops(k, &nested, &mut coords, &mut |k, coords| {
                k.vectors(0, length, lanes, |k, c, lanes, count| {
                    let at = |coords: &[Coord]| Position { coords: [coords, &[c]].concat(), lanes, count };
                    match inner {
                        None => body(k, &at(coords)),
                        Some((i, extent)) => k.each(0, extent, 1, |k, index| {
                            let mut coords = coords.to_vec();
                            coords[i] = Coord::uniform(index);
                            body(k, &at(&coords));
                        }),
                    }
                });
            });
        });
    });
    items.ceil_div(&Dim::from(block)).expect("the divisor is a constant")
}

/// What runs inside of nested loops.
type Inside<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Coord]) + 'a;

/// Nested loops over `dims`, pairs of a dimension and its extent, which set their coordinate.
fn loops(k: &mut GroupKernel<'_>, dims: &[(usize, Index)], coords: &mut Vec<Coord>, inside: &mut Inside<'_>) {
    let Some((&(i, extent), rest)) = dims.split_first() else { return inside(k, coords) };
    k.each(0, extent, 1, |k, index| {
        coords[i] = Coord::uniform(index);
        loops(k, rest, coords, inside);
    });
}

/// The dimension along which the operands of `value` are contiguous, if they are not along the last.
///
/// Found by trial: a kernel that pulls one vector along each dimension shows how many of its loads are gathers.
pub fn contiguous_dimension(k: &GroupKernel<'_>, value: Value, shape: &[Dim], lanes: u16) -> Option<usize> {
    let (last, outer) = shape.split_last()?;
    if lanes == 1 || *last == 1 {
        return None;
    }
    let gathers = |axis: usize| {
        let mut trial = GroupKernel::new(k.graph, k.region, k.machine, "trial");
        trial.tasks(|k, task| {
            let mut coords = vec![Coord::uniform(Index::Val(task)); shape.len()];
            let index = k.b.imul(task, i64::from(lanes));
            coords[axis] = Coord::consecutive(index, i64::from(lanes));
            k.pull(value, &Position { coords, lanes, count: None }, &mut Pulled::default());
        });
        let kernel = trial.finish(Dim::from(1), Dim::from(0)).kernel;
        kernel.insts.values().filter(|inst| matches!(inst.data, InstData::Gather { .. })).count()
    };
    let along_last = gathers(outer.len());
    if along_last == 0 {
        return None;
    }
    let long = |i: &usize| shape[*i].as_const().is_none_or(|n| n > 1);
    (0..outer.len()).filter(long).map(|i| (gathers(i), i)).min().filter(|(n, _)| *n < along_last).map(|(_, i)| i)
}
