//! Elementwise groups, views that become copies, pads and gathers: each element of the result is pulled on its own.
//!
//! A concatenation is one such kernel for each of its operands. The loops are those of `elements`, but for padding.

use onnxc_ir::dim::Dim;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::{Graph, Node, Op, Region};

use super::elements::{contiguous_dimension, for_each_element};
use crate::codegen::pull::Pulled;
use crate::codegen::space::product;
use crate::codegen::{GroupKernel, GroupLaunch};

/// Schedules a group whose result is pulled element by element.
pub fn schedule(mut k: GroupKernel<'_>) -> GroupLaunch {
    let result = k.results()[0];
    let pad = k.graph.def_node(result).filter(|&node| super::pad::only_grows(k.graph, node));
    if let Some(node) = pad {
        return super::pad::schedule(k, node);
    }
    let dims = k.graph.tensor_ty(result).shape.to_vec();
    let lanes = k.lanes();
    let strides = k.strides(result);
    let buffer = k.output(result);
    let inner = contiguous_dimension(&k, result, &dims, lanes);
    let tasks = for_each_element(&mut k, &dims, lanes, inner, |k, at| {
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
        let inner = contiguous_dimension(&k, input, &dims, lanes);
        let tasks = for_each_element(&mut k, &dims, lanes, inner, |k, at| {
            let val = k.pull(input, at, &mut Pulled::default());
            let mut coords = at.coords.clone();
            coords[axis] = k.coord_scale(coords[axis], 1, start, at.lanes);
            k.store(buffer, &strides, &at.at(coords), val);
        });
        launches.push(k.finish(tasks, product(&dims)));
    }
    launches
}
