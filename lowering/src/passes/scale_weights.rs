//! Scales the weights of a product instead of its many rows.
//!
//! Before: `z = x * s; y = contract [m, k] [k, n] -> [m, n] (z, w)` with one scale for each `k` and packed constant
//! weights `w: f32[N/16, K, 16]`. After: `v = w * s; y = contract (x, v)`. What gates the channels of a picture
//! (squeeze and excitation) is such a scale: a run computes it, and the weights of the product after it are few beside the
//! pixels, which are then neither read nor written once more.
//!
//! Products are rounded differently: not for `--fp strict`.

use onnxc_ir::dim::Dim;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Value};

use super::recognize_norms::binary;
use super::rewrite::{PassContext, Rewritten, one, only_users, rewrite};

const NAME: &str = "scale_weights";

/// The weights have at most this share of the elements of the rows.
const SHARE: i64 = 4;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    if cx.strict {
        return;
    }
    let body = graph.body();
    let users = only_users(graph, body);
    rewrite(graph, body, |graph, region, node| scale(graph, region, node, |v| users[v].is_some(), cx));
}

fn scale(
    graph: &mut Graph,
    region: Region,
    node: Node,
    used_once: impl Fn(Value) -> bool,
    cx: &mut PassContext,
) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Contract(contract) = &data.op else { return Ok(None) };
    let [lhs, weights] = data.inputs[..] else { return Ok(None) };
    // The rows, and what they are contracted over.
    let [_, depth] = contract.lhs[..] else { return Ok(None) };
    let packed = contract.panel.is_some() && contract.rhs.first() == Some(&depth) && !contract.out.contains(&depth);
    if !packed || graph.as_constant(weights).is_none() || !used_once(lhs) {
        return Ok(None);
    }
    // Reshapes keep the contracted dimension the last one.
    let mut scaled = lhs;
    let (product, [x, scale]) = loop {
        let Some(before) = graph.def_node(scaled) else { return Ok(None) };
        match graph.nodes[before].op {
            Op::Reshape if used_once(graph.nodes[before].inputs[0]) => scaled = graph.nodes[before].inputs[0],
            _ => match binary(graph, before, BinaryOp::Mul) {
                Some((a, b)) if is_scale(graph, b, before) => break (before, [a, b]),
                Some((a, b)) if is_scale(graph, a, before) => break (before, [b, a]),
                _ => return Ok(None),
            },
        }
    };
    let rows = &graph.tensor_ty(lhs).shape;
    let same = graph.tensor_ty(x).shape == graph.tensor_ty(scaled).shape
        && graph.tensor_ty(scaled).shape.last() == rows.last();
    let sizes = [lhs, weights].map(|v| graph.tensor_ty(v).static_len());
    let [Some(elements), Some(weight)] = sizes else { return Ok(None) };
    if !same || weight as i64 * SHARE > elements as i64 {
        return Ok(None);
    }
    cx.remark(NAME, graph, product, "the weights of the product after it are scaled instead");
    let rows = rows.to_vec();
    let ty = graph.ty(data.outputs[0]).clone();
    let origins = graph.merged_origins([product, node]);
    let mut b = Builder::new(graph, region, origins);
    let x = b.reshape(x, &rows)?;
    let scale = b.reshape(scale, &[Dim::ONE, rows[1].clone(), Dim::ONE])?;
    let weights = b.mul(weights, scale)?;
    let node = b.node(data.op, &[x, weights], &[ty])?;
    one(b.graph.output(node))
}

/// Whether an operand of `product` has one element for each coordinate of the last dimension, for all others the same.
fn is_scale(graph: &Graph, operand: Value, product: Node) -> bool {
    let (shape, all) = (&graph.tensor_ty(operand).shape, &graph.tensor_ty(graph.output(product)).shape);
    let Some((last, outer)) = shape.split_last() else { return false };
    Some(last) == all.last() && outer.iter().all(|d| *d == 1) && shape != all
}
