//! Removes control flow that is decided when the model is compiled: loops whose trip count is known are laid out
//! iteration by iteration, branches on a known condition become the branch that is taken.
//!
//! Before: `loop 64, true, h { ... }`. After: 64 copies of the body, the stacked results as one concatenation.

use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Value};

use super::rewrite::PassContext;

/// Most nodes that one loop may become.
const MAX_NODES: usize = 200_000;

/// Runs the pass on the body until no decided control flow is left in it.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    let mut next = 0;
    while let Some(&node) = graph.regions[body].nodes.get(next) {
        next += 1;
        let outputs = graph.nodes[node].outputs.clone();
        let results = match graph.nodes[node].op {
            Op::Loop { body: inner, carried, .. } => unroll(graph, body, node, inner, carried as usize),
            Op::If { then, otherwise, .. } => branch(graph, body, node, then, otherwise),
            _ => None,
        };
        for (&old, new) in outputs.iter().zip(results.into_iter().flatten()) {
            graph.replace(old, new);
        }
    }
    graph.commit();
}

/// The branch that is taken, if the condition is known.
fn branch(graph: &mut Graph, region: Region, node: Node, then: Region, otherwise: Region) -> Option<Vec<Value>> {
    let mut data = graph.nodes[node].clone();
    data.inputs.iter_mut().for_each(|v| *v = graph.resolve(*v));
    let mut b = Builder::new(graph, region, data.origins);
    let taken = if known_bool(&b, data.inputs[0])? { then } else { otherwise };
    Some(b.inline(taken, &data.inputs[1..]))
}

/// The iterations of a loop one after the other, if their number is known and the condition decides nothing else.
fn unroll(graph: &mut Graph, region: Region, node: Node, body: Region, carried: usize) -> Option<Vec<Value>> {
    let mut data = graph.nodes[node].clone();
    data.inputs.iter_mut().for_each(|v| *v = graph.resolve(*v));
    let body_nodes = graph.regions[body].nodes.len();
    let mut b = Builder::new(graph, region, data.origins);
    let trips = match b.known_i64s(data.inputs[0]) {
        Some(count) => usize::try_from(*count.first()?).unwrap_or(0),
        None => return None,
    };
    if trips.checked_mul(body_nodes.max(1)).is_none_or(|n| n > MAX_NODES) {
        return None;
    }
    let mut again = known_bool(&b, data.inputs[1])?;
    let mut state: Vec<Value> = data.inputs[2..2 + carried].to_vec();
    let captures = &data.inputs[2 + carried..];
    let mut stacks: Vec<Vec<Value>> = vec![Vec::new(); data.outputs.len() - carried];
    for i in 0..trips {
        if !again {
            break;
        }
        let iteration = b.scalar_i64(i as i64);
        let args: Vec<Value> = [iteration].into_iter().chain(state).chain(captures.iter().copied()).collect();
        let results = b.inline(body, &args);
        // A condition that data decides leaves the loop as it is; what was laid out so far is dead and goes away.
        again = known_bool(&b, results[0])?;
        state = results[1..1 + carried].to_vec();
        for (stack, &scanned) in stacks.iter_mut().zip(&results[1 + carried..]) {
            stack.push(b.unsqueeze(scanned, &[0]).ok()?);
        }
    }
    let stacked: Result<Option<Vec<Value>>, BuildError> = stacks
        .into_iter()
        .map(|stack| if stack.is_empty() { Ok(None) } else { b.concat(&stack, 0).map(Some) })
        .collect();
    Some(state.into_iter().chain(stacked.ok()??).collect())
}

fn known_bool(b: &Builder<'_>, value: Value) -> Option<bool> {
    Some(*b.known_i64s(value)?.first()? != 0)
}
