//! Schedules: from a group of operations to the loops of a kernel. A family is one file; [`schedule`] picks it by the
//! group's anchor, the operation that decides the loops.

pub mod attention;
pub mod contract;
pub mod conv;
pub mod depthwise;
pub mod elements;
pub mod expand_depthwise;
pub mod gemm;
pub mod gemv;
pub mod map;
pub mod normalize;
pub mod order;
pub mod pad;
pub mod reduce;
pub mod tile;
pub mod window;
pub mod winograd;

use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::{Graph, Node, Op, Region};

use crate::codegen::{GroupKernel, GroupLaunch};

/// Whether the operation decides the loops of its group. All others are computed element by element.
pub fn is_anchor(op: &Op) -> bool {
    match op {
        Op::Reduce { .. }
        | Op::Cumulate { .. }
        | Op::Contract(_)
        | Op::Conv(_)
        | Op::Window(_)
        | Op::Scatter { .. }
        | Op::Sort { .. }
        | Op::Concat { .. }
        | Op::Composite { .. }
        | Op::Group { .. } => true,
        Op::If { .. }
        | Op::Loop { .. }
        | Op::External(_)
        | Op::Constant(_)
        | Op::DimValue(_)
        | Op::BindSizes { .. }
        | Op::Strings(_)
        | Op::Elementwise(_)
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Broadcast
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Gather { .. } => false,
    }
}

/// The anchor of a group's region, if it has one.
pub fn anchor(graph: &Graph, region: Region) -> Option<Node> {
    graph.regions[region].nodes.iter().copied().find(|&n| is_anchor(&graph.nodes[n].op))
}

/// Schedules the group in `region` as kernels that run one after the other.
///
/// # Panics
/// If the group's anchor is an operation that the pipeline removes or refuses before: control flow, nested groups.
pub fn schedule(graph: &Graph, region: Region, machine: &MachineModel, name: &str) -> Vec<GroupLaunch> {
    let kernel = || GroupKernel::new(graph, region, machine, name);
    if let Some(parts) = attention::of_group(graph, machine, region) {
        return vec![attention::schedule(kernel(), &parts)];
    }
    if let Some(parts) = expand_depthwise::of_group(graph, region) {
        return vec![expand_depthwise::schedule(kernel(), &parts)];
    }
    let Some(node) = anchor(graph, region) else { return vec![map::schedule(kernel())] };
    let mut launches = schedule_anchor(graph, region, machine, name, node);
    let [result] = graph.regions[region].results[..] else { return launches };
    let pad = graph.def_node(result).filter(|&n| matches!(graph.nodes[n].op, Op::Pad { .. }));
    launches.extend(pad.map(|node| pad::schedule_margins(kernel(), node)));
    launches
}

/// Schedules the loops around `node`.
fn schedule_anchor(graph: &Graph, region: Region, machine: &MachineModel, name: &str, node: Node) -> Vec<GroupLaunch> {
    let kernel = || GroupKernel::new(graph, region, machine, name);
    match &graph.nodes[node].op {
        Op::Reduce { .. } => vec![reduce::schedule(kernel(), node)],
        Op::Contract(_) => vec![contract::schedule(kernel(), node)],
        Op::Conv(_) => vec![conv::schedule(kernel(), node)],
        Op::Window(_) => vec![window::schedule(kernel(), node)],
        Op::Composite { .. } => {
            vec![normalize::short_rows(kernel, node).unwrap_or_else(|| normalize::schedule(kernel(), node))]
        }
        Op::Concat { .. } => map::schedule_concat(graph, region, machine, name, node),
        Op::Cumulate { .. } => vec![order::schedule_cumulate(kernel(), node)],
        Op::Sort { .. } => vec![order::schedule_sort(kernel(), node)],
        Op::Scatter { .. } => {
            vec![order::schedule_scatter_copy(kernel(), node), order::schedule_scatter(kernel(), node)]
        }
        other => panic!("no schedule for `{}`", other.name()),
    }
}
