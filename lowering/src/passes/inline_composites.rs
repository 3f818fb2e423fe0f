//! Replaces composites that no schedule takes by what they mean.
//!
//! Before: `y = composite Function("Foo") { ... } (x)`. After: the nodes of the body in its place. Softmax and the
//! normalisations stay where their schedule takes them, anywhere but inside of another composite that stays. On machines
//! with matrix instructions a softmax of long rows of 16-bit floats is one of `f32` between conversions: one kernel, and one
//! rounding instead of one for each step.

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Builder, CompositeKind, Graph, Node, Op, Region, Value};

use super::recognize_norms::softmax_from;
use super::rewrite::PassContext;
use crate::schedules::normalize;

/// Runs the pass on the body and on the regions of control flow.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let mut regions = vec![graph.body()];
    while let Some(region) = regions.pop() {
        inline_region(graph, region, cx.machine.tiles);
        for &node in &graph.regions[region].nodes {
            let op = &graph.nodes[node].op;
            if matches!(op, Op::If { .. } | Op::Loop { .. }) {
                regions.extend(op.regions());
            }
        }
    }
    graph.commit();
}

fn inline_region(graph: &mut Graph, region: Region, tiles: bool) {
    // Inlined bodies may hold composites again; they land at the end of the region, so the walk reaches them.
    let mut next = 0;
    while let Some(&node) = graph.regions[region].nodes.get(next) {
        next += 1;
        let Op::Composite { body, .. } = graph.nodes[node].op else { continue };
        if !stays(graph, node) {
            let origins = graph.nodes[node].origins.clone();
            let inputs: Vec<_> = graph.nodes[node].inputs.iter().map(|&v| graph.resolve(v)).collect();
            let narrow = narrow_softmax(graph, node).filter(|_| tiles);
            let mut b = Builder::new(graph, region, origins);
            let results = match narrow {
                Some((axis, dtype)) => {
                    vec![widened_softmax(&mut b, inputs[0], axis, dtype).expect("types and axes were checked")]
                }
                None => b.inline(body, &inputs),
            };
            let outputs = graph.nodes[node].outputs.clone();
            for (&old, new) in outputs.iter().zip(results) {
                graph.replace(old, new);
            }
        }
    }
}

/// Rows up to this length round each step as ONNX's reference does, whose results they are likely compared with.
const SHORT_ROW: i64 = 32;

/// The axis and the type of a softmax of 16-bit floats with long rows.
fn narrow_softmax(graph: &Graph, node: Node) -> Option<(u32, DType)> {
    let data = &graph.nodes[node];
    let Op::Composite { kind: CompositeKind::Softmax { axis }, .. } = data.op else { return None };
    let ty = graph.tensor_ty(data.inputs[0]);
    let long = ty.shape.last().is_some_and(|n| n.as_const().is_none_or(|n| n > SHORT_ROW));
    (long && matches!(ty.dtype, DType::F16 | DType::BF16)).then_some((axis, ty.dtype))
}

fn widened_softmax(b: &mut Builder<'_>, x: Value, axis: u32, dtype: DType) -> Result<Value, BuildError> {
    let wide = b.cast(x, DType::F32)?;
    let y = softmax_from(b, wide, axis as usize)?;
    b.cast(y, dtype)
}

/// Whether a schedule takes the composite whole.
fn stays(graph: &Graph, node: Node) -> bool {
    let Op::Composite { kind, .. } = &graph.nodes[node].op else { return true };
    graph.ty(graph.nodes[node].inputs[0]).as_tensor().is_some_and(|ty| normalize::takes(kind, ty.dtype))
}
