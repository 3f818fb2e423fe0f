//! Gives products their 16-bit floats where matrix instructions and kernels for a few rows take those.
//!
//! Before: `y = contract acc f32 (cast f32 (a), cast f32 (b))` of `a: f16`, `b: f16`, as importers write a product whose sums
//! are `f32`. After: `y = contract acc f32 (a, b)`, which is the same: each product of two such elements is exact in `f32`.
//! Only for machines with matrix instructions; others multiply `f32`, and pack weights as such.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::Label;
use onnxc_ir::tensor::{Graph, Node, Op, Region, Value};

use super::rewrite::{PassContext, Rewritten, rewrite};
use super::widen_halves::widened_from;
use crate::schedules::{gemv, tile};

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    if cx.machine.tiles {
        let body = graph.body();
        rewrite(graph, body, narrow);
    }
}

fn narrow(graph: &mut Graph, _: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let (Op::Contract(c), &[lhs, rhs]) = (&data.op, &data.inputs[..]) else { return Ok(None) };
    let (Some(a), Some(b)) = (widened_from(graph, lhs), widened_from(graph, rhs)) else { return Ok(None) };
    if c.acc != DType::F32 || c.panel.is_some() || graph.tensor_ty(a).dtype != graph.tensor_ty(b).dtype {
        return Ok(None);
    }
    // Rows or columns that leave tiles empty are better off with packed weights, unless those are read once.
    let free = |value: Value, labels: &[Label], other: &[Label]| {
        let sizes = labels.iter().zip(&graph.tensor_ty(value).shape);
        Dim::product(sizes.filter(|(label, _)| !other.contains(label)).map(|(_, size)| size)).ok()
    };
    let (mut rows, mut columns) = (free(a, &c.lhs, &c.rhs), free(b, &c.rhs, &c.lhs));
    if c.out.last().is_some_and(|last| c.lhs.contains(last)) {
        std::mem::swap(&mut rows, &mut columns);
    }
    let below = |size: &Option<Dim>, most| size.as_ref().and_then(Dim::as_const).is_some_and(|n| n < most);
    if !below(&rows, gemv::MOST_ROWS + 1) && below(&columns, tile::FEW) {
        return Ok(None);
    }
    graph.nodes[node].inputs = [a, b].into_iter().collect();
    Ok(None)
}
