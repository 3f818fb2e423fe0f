//! Pushing: an element of the anchor goes through the operations after it to the group's result.
//!
//! After its anchor a group is a chain of segments: elementwise operations at one position, then a reshape, transpose or
//! pad that moves the position on. Inside of a segment the result is pulled, with the anchor's element as a given.

use onnxc_ir::loops::{Locality, Val};
use onnxc_ir::tensor::{Node, Op, Value};

use super::GroupKernel;
use super::coord::Access;
use super::pull::{Position, Pulled};

/// Whether an operation only moves the position on.
fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape | Op::Transpose { .. } | Op::Pad { .. })
}

impl GroupKernel<'_> {
    /// The operations of the group that `anchor` reaches, in order.
    fn after(&self, anchor: Value) -> Vec<Node> {
        let mut reached = vec![anchor];
        let mut nodes = Vec::new();
        for &node in &self.graph.regions[self.region].nodes {
            let data = &self.graph.nodes[node];
            if data.inputs.iter().any(|v| reached.contains(v)) {
                reached.extend(data.outputs.iter().copied());
                nodes.push(node);
            }
        }
        nodes
    }

    /// The reshapes, transposes and pads through which `anchor` reaches the group's result, in order.
    pub fn spine(&self, anchor: Value) -> Vec<Value> {
        let is_view = |&node: &Node| is_view(&self.graph.nodes[node].op);
        self.after(anchor).into_iter().filter(is_view).map(|node| self.graph.output(node)).collect()
    }

    /// About how many instructions the operations after `anchor` take for one vector.
    pub fn operations_after(&self, anchor: Value) -> u32 {
        let cost = |node| if let Op::Elementwise(expr) = &self.graph.nodes[node].op { expr.cost() } else { 0 };
        self.after(anchor).into_iter().map(cost).sum()
    }

    /// Takes `val`, the elements of `anchor` at a position, through the rest of the group and stores them. Operands of
    /// the operations on the way come from `memo` or are loaded.
    pub fn push(&mut self, anchor: Value, at: &Position, val: Val, memo: &mut Pulled) {
        // Dimensions of 1 are pulled at 0, so that is where the given element has to be found.
        let mut position = self.broadcast(anchor, at);
        let (mut value, mut val) = (anchor, val);
        for view in self.spine(anchor) {
            let graph = self.graph;
            let node = graph.def_node(view).expect("a view is a node's output");
            let data = &graph.nodes[node];
            memo.insert(value, &position.coords, val);
            val = self.pull(data.inputs[0], &position, memo);
            position = self.moved(view, &position);
            value = view;
        }
        let result = self.results()[0];
        memo.insert(value, &position.coords, val);
        let val = self.pull(result, &position, memo);
        let strides = self.strides(result);
        let buffer = self.output(result);
        self.store(buffer, &strides, &position, val);
    }
    /// A position of a view's operand as one of the view, which is a reshape, a transpose or a pad.
    fn moved(&mut self, view: Value, position: &Position) -> Position {
        let graph = self.graph;
        let data = &graph.nodes[graph.def_node(view).expect("a view is a node's output")];
        let coords = match &data.op {
            Op::Transpose { perm } => perm.iter().map(|&p| position.coords[p as usize]).collect(),
            Op::Pad { lo, .. } => {
                let mut coords = Vec::with_capacity(lo.len());
                for (&c, lo) in position.coords.iter().zip(lo) {
                    let lo = self.dim(lo);
                    coords.push(self.coord_scale(c, 1, lo, position.lanes));
                }
                coords
            }
            _ => self.reshape_coords(data.inputs[0], view, &position.coords, position.lanes),
        };
        self.broadcast(view, &position.at(coords))
    }

    /// The inputs that an operation of the group reads element by element as it makes its result. Those that are broadcast
    /// are few, and in a cache already.
    fn whole_operands(&self, node: Node) -> impl Iterator<Item = Value> {
        let data = &self.graph.nodes[node];
        let elementwise = matches!(data.op, Op::Elementwise(_));
        let shape = &self.graph.tensor_ty(data.outputs[0]).shape;
        let whole = move |&v: &Value| self.graph.def_node(v).is_none() && self.graph.tensor_ty(v).shape == *shape;
        data.inputs.iter().copied().filter(move |v| elementwise && whole(v))
    }

    /// Whether [`fetch_operands`](Self::fetch_operands) has anything to fetch.
    pub fn has_operands_after(&self, anchor: Value) -> bool {
        self.after(anchor).into_iter().any(|node| self.whole_operands(node).next().is_some())
    }

    /// Fetches what a later [`push`](Self::push) of the same position loads, but for operands that are broadcast.
    pub fn fetch_operands(&mut self, anchor: Value, at: &Position) {
        let graph = self.graph;
        let mut position = self.broadcast(anchor, at);
        for node in self.after(anchor) {
            if is_view(&graph.nodes[node].op) {
                position = self.moved(graph.output(node), &position);
            }
            for operand in self.whole_operands(node).collect::<Vec<_>>() {
                self.fetch(operand, &position);
            }
        }
    }

    /// Fetches the first element of a position of an input, if its lanes lie side by side.
    pub fn fetch(&mut self, input: Value, at: &Position) {
        let strides = self.strides(input);
        let buffer = self.input(input);
        if let (address, Access::Consecutive | Access::Same) = self.locate(&at.coords, &strides, at.lanes) {
            self.b.prefetch(buffer, address, Locality::L1);
        }
    }
}
