//! Replaces composites that no schedule takes by what they mean.
//!
//! Before: `y = composite Function("Foo") { ... } (x)`. After: the nodes of the body in its place. Softmax and the
//! normalisations stay where their schedule takes them, anywhere but inside of another composite that stays.

use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region};

use super::rewrite::PassContext;
use crate::schedules::normalize;

/// Runs the pass on the body and on the regions of control flow.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let mut regions = vec![graph.body()];
    while let Some(region) = regions.pop() {
        inline_region(graph, region);
        for &node in &graph.regions[region].nodes {
            let op = &graph.nodes[node].op;
            if matches!(op, Op::If { .. } | Op::Loop { .. }) {
                regions.extend(op.regions());
            }
        }
    }
    graph.commit();
}

fn inline_region(graph: &mut Graph, region: Region) {
    // Inlined bodies may hold composites again; they land at the end of the region, so the walk reaches them.
    let mut next = 0;
    while let Some(&node) = graph.regions[region].nodes.get(next) {
        next += 1;
        let Op::Composite { body, .. } = graph.nodes[node].op else { continue };
        if !stays(graph, node) {
            let origins = graph.nodes[node].origins.clone();
            let inputs: Vec<_> = graph.nodes[node].inputs.iter().map(|&v| graph.resolve(v)).collect();
            let results = Builder::new(graph, region, origins).inline(body, &inputs);
            let outputs = graph.nodes[node].outputs.clone();
            for (&old, new) in outputs.iter().zip(results) {
                graph.replace(old, new);
            }
        }
    }
}

/// Whether a schedule takes the composite whole.
fn stays(graph: &Graph, node: Node) -> bool {
    let Op::Composite { kind, .. } = &graph.nodes[node].op else { return true };
    graph.ty(graph.nodes[node].inputs[0]).as_tensor().is_some_and(|ty| normalize::takes(kind, ty.dtype))
}
