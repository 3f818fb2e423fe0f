//! Results in the memory of something else: of an operand that is read for the last time, or of the state that grows.

use cranelift_entity::SecondaryMap;
use onnxc_ir::loops::Kernel;
use onnxc_ir::program::Place;
use onnxc_ir::tensor::{Graph, Node, Op, Region, Value};

use super::Lowering;
use super::planned::Home;
use super::symbols::control_regions;
use crate::codegen::Argument;

impl Lowering<'_> {
    /// The operand whose memory the result of an elementwise group may take: it has the result's type, lies in the arena, is
    /// read here for the last time and under one name only.
    pub(super) fn overwritten_operand(&self, node: Node, region: Region) -> Option<usize> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        let &[output] = &data.outputs[..] else { return None };
        let elementwise = |&n: &Node| matches!(graph.nodes[n].op, Op::Elementwise(_));
        if self.homes[output].is_some() || !graph.regions[region].nodes.iter().all(elementwise) {
            return None;
        }
        let roots: Vec<Value> = data.inputs.iter().map(|&v| root(graph, v)).collect();
        data.inputs.iter().enumerate().position(|(i, &v)| {
            matches!(self.homes[v], Some(Home::Tenant(_)))
                && graph.def_node(roots[i]).is_some()
                && graph.ty(v) == graph.ty(output)
                && self.last_readers[roots[i]] == Some(node)
                && roots.iter().filter(|&&r| r == roots[i]).count() == 1
        })
    }

    /// Whether a group puts together a state that grows, of what it was, what is new and the room behind (see the pass
    /// `keep_states`).
    pub(super) fn appends_to_state(&self, node: Node) -> bool {
        let result = self.graph.nodes[node].outputs[0];
        let home = self.homes[result].as_ref();
        self.program
            .states
            .iter()
            .any(|state| state.axis.is_some() && home == Some(&Home::Place(Place::Output(state.output))))
    }
}

/// The value whose elements a value has: what reshapes rename is one memory.
fn root(graph: &Graph, mut value: Value) -> Value {
    let renames = |&n: &Node| matches!(graph.nodes[n].op, Op::Reshape | Op::BindSizes { .. });
    while let Some(node) = graph.def_node(value).filter(renames) {
        value = graph.nodes[node].inputs[0];
    }
    value
}

/// For each value the last node that reads it, under any name; `None` where it is a result.
pub(super) fn last_readers(graph: &Graph) -> SecondaryMap<Value, Option<Node>> {
    let mut last = SecondaryMap::new();
    for region in control_regions(graph) {
        let region = &graph.regions[region];
        for &node in &region.nodes {
            if !matches!(graph.nodes[node].op, Op::Reshape) {
                graph.nodes[node].inputs.iter().for_each(|&v| last[root(graph, v)] = Some(node));
            }
        }
        region.results.iter().for_each(|&v| last[root(graph, v)] = None);
    }
    last
}

/// Notes in the kernel that its result overwrites an operand.
pub(super) fn state_in_place(kernel: &mut Kernel, arguments: &[Argument], operand: Value, result: Value) {
    let buffers: Vec<_> = kernel.arguments().map(|(buffer, _)| buffer).collect();
    let find = |argument| arguments.iter().position(|a| *a == argument).map(|i| buffers[i]);
    if let (Some(read), Some(written)) = (find(Argument::Input(operand)), find(Argument::Output(result))) {
        kernel.buffers[written].in_place = Some(read);
    }
}
