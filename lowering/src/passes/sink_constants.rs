//! Gives branches and loops the constants that they capture.
//!
//! Before: `w = constant ...; loop n, true, h, w { |i, h, u| ... contract (h, u) ... }`. After: `loop n, true, h { |i, h| u =
//! constant ...; ... }`. The importer does so with initializers; what was folded since is a constant now too, and the
//! passes to come see only what lies in the region that they work on.

use onnxc_ir::tensor::{Builder, Constant, Graph, Node, Op};

use super::rewrite::PassContext;

/// Runs the pass on the branches and loops of the body.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    for node in graph.regions[body].nodes.clone() {
        // Inputs before the captures, and parameters before them.
        let (inputs, params) = match graph.nodes[node].op {
            Op::If { .. } => (1, 0),
            Op::Loop { carried, .. } => (2 + carried as usize, 1 + carried as usize),
            _ => continue,
        };
        for n in (inputs..graph.nodes[node].inputs.len()).rev() {
            let value = graph.nodes[node].inputs[n];
            if let Some(constant) = graph.as_constant(value) {
                sink(graph, node, n - inputs + params, constant);
                graph.nodes[node].inputs.remove(n);
            }
        }
    }
    graph.commit();
}

/// Replaces a parameter of the node's regions by a constant of their own.
fn sink(graph: &mut Graph, node: Node, param: usize, constant: Constant) {
    let origins = graph.nodes[node].origins.clone();
    for region in graph.nodes[node].op.regions() {
        let old = graph.regions[region].params[param];
        let new = Builder::new(graph, region, origins.clone()).constant_node(constant);
        graph.replace(old, new);
        graph.remove_param(region, param);
    }
}
