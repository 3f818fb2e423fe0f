//! Cuts the graph into groups, each of which becomes one kernel or a few.
//!
//! Before: the operations of the model. After: the body holds only `Group`, `Constant`, `Reshape`, `BindSizes`, `Strings`, `If`
//! and `Loop` nodes; a `Reshape` there is a second name of the same memory and costs nothing.
//!
//! A group has at most one *anchor*, the operation that decides its loops (see [`schedules::is_anchor`]). Forward from the
//! anchor it takes in elementwise operations, transposes and reshapes while each value has one user: they are computed
//! on the anchor's elements before those are stored. A pad may end the group. Backward it takes in what its operations pull element by element.
//! Views that several groups use are copied into each of them.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use onnxc_ir::dim::Dim;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::op::{Contract, Conv};
use onnxc_ir::tensor::{CompositeKind, Graph, Node, Op, Region, Value};
use smallvec::SmallVec;

use super::rewrite::PassContext;
use crate::codegen::words::is_deep;
use crate::schedules::{self, attention, expand_depthwise};

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let groups = Cut::new(graph).cut(&cx.machine);
    for group in groups {
        build(graph, &group);
    }
    graph.commit();
}

/// The index of a group that is being formed.
type GroupIndex = usize;

/// The state of the pass.
struct Cut<'g> {
    graph: &'g Graph,
    body: Region,
    users: SecondaryMap<Value, SmallVec<[Node; 2]>>,
    is_result: SecondaryMap<Value, bool>,
    groups_of: SecondaryMap<Node, SmallVec<[GroupIndex; 1]>>,
    groups: Vec<Forming>,
}

/// A group: its nodes in order and its results.
struct Forming {
    nodes: Vec<Node>,
    results: Vec<Value>,
}

impl<'g> Cut<'g> {
    fn new(graph: &'g Graph) -> Cut<'g> {
        let body = graph.body();
        let mut users: SecondaryMap<Value, SmallVec<[Node; 2]>> = SecondaryMap::new();
        for &node in &graph.regions[body].nodes {
            for &v in &graph.nodes[node].inputs {
                if users[v].last() != Some(&node) {
                    users[v].push(node);
                }
            }
        }
        let mut is_result = SecondaryMap::new();
        graph.regions[body].results.iter().for_each(|&v| is_result[v] = true);
        Cut { graph, body, users, is_result, groups_of: SecondaryMap::new(), groups: Vec::new() }
    }

    fn cut(mut self, machine: &MachineModel) -> Vec<Forming> {
        let nodes = self.graph.regions[self.body].nodes.clone();
        // Masks are read in vectors of rows, the last of which are not full.
        for &node in nodes.iter().filter(|_| machine.has_predicates) {
            self.take_attention(machine, node);
        }
        for &node in &nodes {
            self.take_expanded(node);
        }
        for &node in &nodes {
            if self.groups_of[node].is_empty() && schedules::is_anchor(&self.graph.nodes[node].op) {
                self.grow_forward(node);
            }
        }
        for &node in nodes.iter().rev() {
            if self.groups_of[node].is_empty() {
                self.place(node);
            }
        }
        // In the order of the region, so that each group's nodes are sorted.
        for &node in &nodes {
            for &g in &self.groups_of[node] {
                self.groups[g].nodes.push(node);
            }
        }
        self.groups
    }

    /// The only user of a value that is no result.
    fn only_user(&self, value: Value) -> Option<Node> {
        match (&self.users[value][..], self.is_result[value]) {
            ([user], false) => Some(*user),
            _ => None,
        }
    }

    /// Makes a group of a depthwise convolution and the 1x1 convolution before it.
    fn take_expanded(&mut self, conv: Node) {
        let Some(parts) = expand_depthwise::before(self.graph, conv, |v| self.only_user(v)) else { return };
        let group = self.groups.len();
        self.grow_forward(conv);
        for node in parts.chain.into_iter().chain([parts.product, parts.pad]) {
            self.groups_of[node].push(group);
        }
    }

    /// Makes a group of the attention around a softmax.
    fn take_attention(&mut self, machine: &MachineModel, softmax: Node) {
        let Some(parts) = attention::around(self.graph, machine, softmax, |v| self.only_user(v)) else { return };
        let group = self.groups.len();
        self.grow_forward(parts.values);
        for node in parts.chain.into_iter().chain([parts.scores, parts.softmax]).chain(parts.after) {
            self.groups_of[node].push(group);
        }
    }

    /// Makes a group of an anchor and the operations that can be computed on its elements.
    fn grow_forward(&mut self, anchor: Node) {
        let group = self.groups.len();
        let data = &self.graph.nodes[anchor];
        self.groups.push(Forming { nodes: Vec::new(), results: data.outputs.to_vec() });
        self.groups_of[anchor].push(group);
        if !takes_epilogue(&data.op) {
            return;
        }
        let mut last = data.outputs[0];
        let mut value = last;
        let mut waiting: SmallVec<[Node; 2]> = SmallVec::new();
        while let ([user], false) = (&self.users[value][..], self.is_result[value]) {
            // The other operand's anchor may have taken the user already.
            if !self.groups_of[*user].is_empty() {
                break;
            }
            let next = &self.graph.nodes[*user];
            let output = next.outputs[0];
            let same_shape = || self.graph.tensor_ty(output).shape == self.graph.tensor_ty(value).shape;
            match &next.op {
                Op::Elementwise(_) if same_shape() => {}
                Op::Transpose { .. } => {}
                // The elements go between the margins; nothing is computed there.
                Op::Pad { .. } if schedules::pad::only_grows(self.graph, *user) && next.inputs[0] == value => {
                    waiting.push(*user);
                    waiting.drain(..).for_each(|node| self.groups_of[node].push(group));
                    last = output;
                    break;
                }
                Op::Reshape => {
                    // Worth taking in only if something after it is.
                    waiting.push(*user);
                    value = output;
                    continue;
                }
                _ => break,
            }
            for node in waiting.drain(..).chain([*user]) {
                self.groups_of[node].push(group);
            }
            value = output;
            last = output;
        }
        self.groups[group].results = vec![last];
    }

    /// Puts a node that is in no group into its users' groups, or into one of its own.
    fn place(&mut self, node: Node) {
        let data = &self.graph.nodes[node];
        if stays_alone(&data.op) {
            return;
        }
        let output = data.outputs[0];
        if !self.is_result[output] {
            let groups = self.users_groups(output);
            let joins = |g: &GroupIndex| {
                let pulled = |&u: &Node| !self.groups_of[u].contains(g) || self.pulls(u, node);
                let free = is_strided(&data.op) || self.users[output].iter().all(|&u| self.feeds_product(u, node));
                self.users[output].iter().all(pulled) && (free || !self.feeds_strided(output, *g))
            };
            let copies = is_view(&data.op) || groups.len() == 1;
            if let (true, false, true) = (copies, groups.is_empty(), groups.iter().all(joins)) {
                self.groups_of[node] = groups;
                return;
            }
        }
        self.groups_of[node].push(self.groups.len());
        self.groups.push(Forming { nodes: Vec::new(), results: vec![output] });
    }

    /// The groups of all users of a value; none if a user is in no group.
    fn users_groups(&self, value: Value) -> SmallVec<[GroupIndex; 1]> {
        let mut groups: SmallVec<[GroupIndex; 1]> = SmallVec::new();
        for &user in &self.users[value] {
            if self.groups_of[user].is_empty() {
                return SmallVec::new();
            }
            groups.extend(self.groups_of[user].iter().copied());
        }
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Whether `user` can compute its operand from `node` element by element, at no more work than before.
    fn pulls(&self, user: Node, node: Node) -> bool {
        let (op, by) = (&self.graph.nodes[node].op, &self.graph.nodes[user].op);
        let elements = |n: Node| &self.graph.tensor_ty(self.graph.nodes[n].outputs[0]).shape;
        let strided = is_strided(op);
        let cheap = is_view(op) || matches!(op, Op::DimValue(_));
        match by {
            Op::Elementwise(_) => cheap || elements(node) == elements(user),
            // A transposed tensor that is read again and again is worth a copy whose elements lie in the order of the reads.
            Op::Gather { .. } if matches!(op, Op::Transpose { .. }) && self.rereads(user, node) => false,
            Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Gather { .. } => {
                cheap || matches!(op, Op::Elementwise(_)) && !self.repeats(user, node)
            }
            Op::Broadcast => cheap,
            // After an anchor, operands come at the anchor's coordinates; a reshape there is not one that is pulled.
            Op::Reshape => false,
            Op::Reduce { .. } | Op::Concat { .. } => cheap || matches!(op, Op::Elementwise(_)),
            Op::Composite { kind, .. } => match kind {
                CompositeKind::Softmax { .. }
                | CompositeKind::LogSoftmax { .. }
                | CompositeKind::LayerNorm { .. }
                | CompositeKind::RmsNorm { .. } => {
                    (cheap || matches!(op, Op::Elementwise(_)))
                        && self.graph.nodes[user].inputs[0] == self.graph.nodes[node].outputs[0]
                }
                CompositeKind::Recurrent { .. } | CompositeKind::Function(_) => false,
            },
            // Words are read where their elements follow each other.
            Op::Contract(Contract { panel, .. }) | Op::Conv(Conv { panel, .. }) if is_deep(*panel) => false,
            Op::Contract(_) => strided || self.feeds_product(user, node),
            Op::Conv(_) | Op::Window(_) => strided,
            Op::Cumulate { .. } | Op::Scatter { .. } | Op::Sort { .. } => strided,
            Op::Constant(_)
            | Op::DimValue(_)
            | Op::BindSizes { .. }
            | Op::External(_)
            | Op::Strings(_)
            | Op::If { .. }
            | Op::Loop { .. }
            | Op::Group { .. } => false,
        }
    }

    /// Whether `user` is a product that `node` is better computed in: weights that are unpacked, which are smaller than what
    /// becomes of them, and chosen rows of constants of which the product reads each element once.
    fn feeds_product(&self, user: Node, node: Node) -> bool {
        let (by, data) = (&self.graph.nodes[user], &self.graph.nodes[node]);
        let Op::Contract(contract) = &by.op else { return false };
        let length = |v: Value| self.graph.tensor_ty(v).static_len();
        let of_constants = || data.inputs.iter().all(|&v| self.graph.as_constant(v).is_some());
        match &data.op {
            Op::Elementwise(_) => {
                let largest = data.inputs.iter().map(|&v| length(v)).max().flatten();
                let grows = |(from, to): (i64, i64)| from > 1 && to >= 8 * from;
                of_constants() && largest.zip(length(data.outputs[0])).is_some_and(grows)
            }
            Op::Gather { .. } => {
                let labels = if by.inputs[0] == data.outputs[0] { &contract.lhs } else { &contract.rhs };
                contract.panel.is_none()
                    && self.graph.as_constant(data.inputs[0]).is_some()
                    && contract.out.iter().all(|label| labels.contains(label))
            }
            _ => false,
        }
    }

    /// Whether `value` reaches, through views of the group, an anchor that reads elements over and over.
    fn feeds_strided(&self, value: Value, group: GroupIndex) -> bool {
        self.users[value].iter().filter(|&&u| self.groups_of[u].contains(&group)).any(|&u| {
            let data = &self.graph.nodes[u];
            match &data.op {
                Op::Contract(_) | Op::Conv(_) | Op::Window(_) => true,
                Op::Cumulate { .. } | Op::Scatter { .. } | Op::Sort { .. } => true,
                op => is_view(op) && self.feeds_strided(data.outputs[0], group),
            }
        })
    }

    /// Whether the gather `user` certainly has several times as many elements as `node`, which it reads.
    fn rereads(&self, user: Node, node: Node) -> bool {
        let shape = |n: Node| &self.graph.tensor_ty(self.graph.nodes[n].outputs[0]).shape;
        let constant = |n: Node| shape(n).iter().filter_map(Dim::as_const).fold(1i64, |p, d| p.saturating_mul(d));
        let is_symbol = |d: &&Dim| d.as_const().is_none();
        self.graph.nodes[user].inputs[0] == self.graph.nodes[node].outputs[0]
            && shape(node).iter().filter(is_symbol).all(|d| shape(user).contains(d))
            && constant(user) > constant(node)
    }

    /// Whether `user` may read an element of `node` more than once.
    fn repeats(&self, user: Node, node: Node) -> bool {
        match &self.graph.nodes[user].op {
            // An index of the positions that are gathered at is read once; the elements gathered may be read often.
            Op::Gather { .. } => {
                let shape = |n: Node| &self.graph.tensor_ty(self.graph.nodes[n].outputs[0]).shape;
                self.graph.nodes[user].inputs[0] == self.graph.nodes[node].outputs[0] || shape(node) != shape(user)
            }
            Op::Pad { .. } => self.graph.nodes[user].inputs[0] != self.graph.nodes[node].outputs[0],
            _ => false,
        }
    }
}

/// What the host program does, or what is done by being named.
fn stays_alone(op: &Op) -> bool {
    matches!(op, Op::Constant(_) | Op::Reshape | Op::BindSizes { .. } | Op::External(_) | Op::Strings(_))
        || matches!(op, Op::If { .. } | Op::Loop { .. })
}

/// Operations that only move elements: copying one into several groups costs nothing but index arithmetic.
fn is_view(op: &Op) -> bool {
    matches!(op, Op::Transpose { .. } | Op::Broadcast | Op::Slice { .. } | Op::Pad { .. } | Op::Gather { .. })
}

/// Views whose elements lie at constant distances, so that a loop over them needs no arithmetic of its own.
fn is_strided(op: &Op) -> bool {
    matches!(op, Op::Transpose { .. } | Op::Broadcast | Op::Slice { .. })
}

/// Anchors whose schedule can go on with the elements that it computes.
fn takes_epilogue(op: &Op) -> bool {
    match op {
        Op::Reduce { .. } | Op::Contract(_) | Op::Conv(_) | Op::Window(_) => true,
        Op::Composite { kind, .. } => matches!(
            kind,
            CompositeKind::Softmax { .. }
                | CompositeKind::LogSoftmax { .. }
                | CompositeKind::LayerNorm { .. }
                | CompositeKind::RmsNorm { .. }
        ),
        _ => false,
    }
}

/// Replaces the nodes of a group by one `Group` node.
fn build(graph: &mut Graph, group: &Forming) {
    let region = graph.add_region();
    let mut inside: HashMap<Value, Value> = HashMap::new();
    let mut inputs = Vec::new();
    for &node in &group.nodes {
        let data = graph.nodes[node].clone();
        let mut mapped = Vec::with_capacity(data.inputs.len());
        for &v in &data.inputs {
            let outer = v;
            mapped.push(*inside.entry(outer).or_insert_with(|| {
                inputs.push(outer);
                let ty = graph.values[outer].ty.clone();
                graph.add_param(region, ty)
            }));
        }
        let types: Vec<_> = data.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
        let copy = graph.add_node(region, data.op.clone(), mapped, types, &data.origins);
        let outputs = graph.nodes[copy].outputs.clone();
        inside.extend(data.outputs.iter().copied().zip(outputs));
    }
    graph.regions[region].results = group.results.iter().map(|v| inside[v]).collect();
    let types: Vec<_> = group.results.iter().map(|&v| graph.ty(v).clone()).collect();
    let origins = graph.merged_origins(group.nodes.iter().copied());
    let body = graph.body();
    let node = graph.add_node(body, Op::Group { body: region }, inputs, types, &origins);
    for (i, &v) in group.results.iter().enumerate() {
        let new = graph.nodes[node].outputs[i];
        graph.replace(v, new);
    }
}
