//! Merges elementwise operations into one expression where one feeds only the other.
//!
//! Before: `t = add(x, b); y = max(t, 0)`. After: `y = elementwise { max(arg0 + arg1, 0) } (x, b)`.
//! Only operations of one shape merge, so that nothing is computed more often than before. Linear in the graph's size.

use cranelift_entity::SecondaryMap;
use onnxc_ir::scalar::{ScalarExpr, ScalarInst};
use onnxc_ir::tensor::{Graph, Node, Op, Region, Value, Values};

use super::rewrite::PassContext;

/// An expression stops growing at this many steps: beyond it, registers run out before anything is saved.
const MAX_STEPS: usize = 96;

/// Runs the pass on every region.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    for region in graph.reachable_regions() {
        fuse_region(graph, region);
    }
    graph.commit();
}

fn fuse_region(graph: &mut Graph, region: Region) {
    let mut users: SecondaryMap<Value, u32> = SecondaryMap::new();
    for &node in &graph.regions[region].nodes {
        let mut inputs = graph.nodes[node].inputs.clone();
        inputs.sort_unstable();
        inputs.dedup();
        inputs.iter().for_each(|&v| users[v] += 1);
    }
    for &result in &graph.regions[region].results {
        users[result] += 1;
    }
    // Producers come first, so each is already merged with what feeds it.
    for node in graph.regions[region].nodes.clone() {
        while let Some((n, producer)) = candidate(graph, node, &users) {
            merge(graph, node, n, producer);
        }
    }
}

/// An input of `node` whose producer can be merged into it.
fn candidate(graph: &Graph, node: Node, users: &SecondaryMap<Value, u32>) -> Option<(usize, Node)> {
    let data = &graph.nodes[node];
    let Op::Elementwise(expr) = &data.op else { return None };
    let shape = &graph.tensor_ty(data.outputs[0]).shape;
    data.inputs.iter().enumerate().find_map(|(n, &input)| {
        let producer = graph.def_node(input)?;
        let Op::Elementwise(inner) = &graph.nodes[producer].op else { return None };
        let fits = expr.insts.len() + inner.insts.len() <= MAX_STEPS;
        let same = graph.tensor_ty(input).shape == *shape;
        (users[input] == 1 && fits && same).then_some((n, producer))
    })
}

fn merge(graph: &mut Graph, node: Node, n: usize, producer: Node) {
    let (outer, inner) = (graph.nodes[node].clone(), graph.nodes[producer].clone());
    let (Op::Elementwise(outer_expr), Op::Elementwise(inner_expr)) = (&outer.op, &inner.op) else {
        unreachable!("candidates are elementwise")
    };
    let mut inputs = Values::new();
    let mut place = |v: Value| match inputs.iter().position(|&x| x == v) {
        Some(i) => i as u32,
        None => {
            inputs.push(v);
            inputs.len() as u32 - 1
        }
    };
    let merged = outer.inputs[n];
    // The same value may come in at several arguments: all of them become the inner expression.
    let outer_args: Vec<u32> = outer.inputs.iter().map(|&v| if v == merged { u32::MAX } else { place(v) }).collect();
    let inner_args: Vec<u32> = inner.inputs.iter().map(|&v| place(v)).collect();
    let alias = |expr: &ScalarExpr| {
        let mut expr = expr.clone();
        for inst in &mut expr.insts {
            if let ScalarInst::Arg(i) = inst
                && outer.inputs[*i as usize] == merged
            {
                *i = n as u32;
            }
        }
        expr
    };
    let expr = alias(outer_expr).compose(n as u32, inner_expr, &outer_args, &inner_args);
    let origins = graph.merged_origins([node, producer]);
    let data = &mut graph.nodes[node];
    data.op = Op::Elementwise(expr);
    data.inputs = inputs;
    data.origins = origins;
}
