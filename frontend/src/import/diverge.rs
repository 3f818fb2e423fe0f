//! An `If` whose branches give values of different ranks or element types, which no value of the graph can have.
//!
//! Before: such a node and those after it. After: the nodes that use its outputs, up to where both branches have come to
//! the same types again, lie in copies at the end of the branches, and the others follow as they were. `If c {Squeeze x}
//! else {x}` with a `Reshape` after it becomes `If c {Squeeze x; Reshape} else {x; Reshape}`. Where only one of the copies
//! is right, because an operator after the `If` takes one rank only, the model runs with the condition that leads there;
//! any other run ends with a status.

use std::collections::HashSet;

use onnxc_ir::tensor::{Builder, Graph, OriginData, Region};

use super::context::free_names;
use super::nodes::{Noticed, import_node, import_nodes};
use super::scope::{Binding, Scope};
use super::{NodeProblem, OpError, Place, Shared};
use crate::proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto};

/// Copies of at most this many nodes are made for one `If`; nested ones multiply.
const MAX_COPIED: usize = 4096;

/// The attributes of the branches, by the condition that leads there.
const SIDES: [&str; 2] = ["else_branch", "then_branch"];

/// What an attempt came to.
enum Attempt {
    /// The branches have the same types; the outputs are bound.
    Done,
    /// They differ still.
    Differs(String),
    /// A branch cannot be imported.
    Failed(Vec<NodeProblem>),
}

/// Imports an `If` whose branches differ, and the nodes after it. `why` says how they differ.
///
/// # Errors
/// When they differ up to the outputs of the graph.
#[allow(clippy::too_many_arguments)]
pub(super) fn import(
    graph: &mut Graph,
    shared: &Shared<'_>,
    scope: &mut Scope,
    region: Region,
    (branch, rest): (&NodeProto, &[&NodeProto]),
    outputs: &[&str],
    place: &Place<'_>,
    path: &str,
    mut why: String,
) -> Result<(), OpError> {
    let dependent = dependents(branch, rest);
    let mut imported = 0;
    let mut length = 0;
    while length < dependent.len() {
        // Up to four nodes one by one, then in strides: each attempt costs what it copies.
        length = (length + 1 + length / 4).min(dependent.len());
        if length > MAX_COPIED {
            why = format!("{why}; they have not come together after {MAX_COPIED} nodes");
            break;
        }
        let last = dependent[length - 1];
        let before: Vec<&NodeProto> = (imported..last).filter(|i| !dependent.contains(i)).map(|i| rest[i]).collect();
        let mut kept: Vec<&str> = outputs.to_vec();
        let uses: Vec<String> = rest.iter().flat_map(|node| used_names(node)).collect();
        kept.extend(uses.iter().map(String::as_str));
        import_nodes(graph, shared, scope, region, &before, &kept, place)?;
        imported = last + 1;
        let tail: Vec<&NodeProto> = dependent[..length].iter().map(|&i| rest[i]).collect();
        let after: Vec<&NodeProto> =
            (0..rest.len()).filter(|i| *i > last || dependent[length..].contains(i)).map(|i| rest[i]).collect();
        let mut at = At { graph, shared, scope, region, place, path };
        match at.attempt(&extended(branch, &tail, &after, outputs, SIDES)?)? {
            Attempt::Done => return import_nodes(graph, shared, scope, region, &after, outputs, place),
            Attempt::Differs(text) => why = text,
            Attempt::Failed(problems) => {
                // Each side with itself tells which one is at fault.
                let all: Vec<&NodeProto> = dependent.iter().map(|&i| rest[i]).collect();
                let others = (imported..rest.len()).filter(|i| !dependent.contains(i)).map(|i| rest[i]);
                let others: Vec<&NodeProto> = others.collect();
                import_nodes(at.graph, shared, at.scope, region, &others, &kept, place)?;
                let mut right = Vec::new();
                for (side, name) in SIDES.into_iter().enumerate() {
                    let node = extended(branch, &all, &[], outputs, [name; 2])?;
                    if matches!(at.attempt(&node)?, Attempt::Done) {
                        right.push((side, node));
                    }
                }
                return match right.pop() {
                    Some((side, node)) if right.is_empty() => at.require(branch, side, &node, &problems),
                    _ => {
                        shared.problems.borrow_mut().extend(problems);
                        Ok(())
                    }
                };
            }
        }
    }
    Err(OpError::Differing(why))
}

/// Where the node is imported.
struct At<'a, 's> {
    graph: &'a mut Graph,
    shared: &'a Shared<'s>,
    scope: &'a mut Scope,
    region: Region,
    place: &'a Place<'a>,
    path: &'a str,
}

impl At<'_, '_> {
    /// Imports an `If` and binds its outputs; what a failure left behind is forgotten.
    fn attempt(&mut self, node: &NodeProto) -> Result<Attempt, OpError> {
        let before = Noticed::so_far(self.graph, self.shared);
        let made = import_node(self.graph, self.shared, self.scope, self.region, node, self.path, self.place);
        match made {
            Ok(Some(values)) => {
                for (name, value) in node.output.iter().zip(values) {
                    self.scope.bind(name, Binding::Value(value));
                }
                Ok(Attempt::Done)
            }
            Ok(None) => Ok(Attempt::Failed(before.restore(self.graph, self.shared))),
            Err(OpError::Differing(why)) => {
                before.restore(self.graph, self.shared);
                Ok(Attempt::Differs(why))
            }
            Err(error) => {
                let mut found = before.restore(self.graph, self.shared);
                if found.is_empty() {
                    found.push(NodeProblem {
                        node: self.path.to_owned(),
                        operator: node.op_type.clone(),
                        opset: self.place.opsets.get("").copied().unwrap_or(0),
                        invalid: matches!(error, OpError::Invalid(_)),
                        message: error.to_string(),
                    });
                }
                Ok(Attempt::Failed(found))
            }
        }
    }

    /// Imports the one branch that the nodes after it can take, and a test of the condition.
    fn require(
        &mut self,
        branch: &NodeProto,
        side: usize,
        node: &NodeProto,
        problems: &[NodeProblem],
    ) -> Result<(), OpError> {
        let origin = OriginData { path: self.path.to_owned(), operator: "If".into() };
        let origin = self.graph.origins.push(origin);
        let mut b = Builder::new(self.graph, self.region, &[origin][..]);
        let condition = branch.input.first().and_then(|name| self.scope.value(&mut b, name));
        let condition = condition.ok_or_else(|| OpError::Invalid("input 0 is missing".into()))?;
        b.require(condition, side as i64)?;
        let other = problems.first().map_or(String::new(), |p| format!(" ({}: {})", p.node, p.message));
        let text =
            format!("{}: only `{}` fits what comes after it, so a run tests the condition", self.path, SIDES[side]);
        self.shared.warnings.borrow_mut().push(text + &other);
        // Of a condition that is known only the branch is left.
        let (name, chosen) = (format!("{}/condition", self.path), b.scalar_bool(true));
        self.scope.bind(&name, Binding::Value(chosen));
        match self.attempt(&NodeProto { input: vec![name], ..node.clone() })? {
            Attempt::Done => Ok(()),
            Attempt::Differs(why) => Err(OpError::Differing(why)),
            Attempt::Failed(problems) => {
                self.shared.problems.borrow_mut().extend(problems);
                Ok(())
            }
        }
    }
}

/// The places of the nodes that use an output of the branch, or of another such node.
fn dependents(branch: &NodeProto, rest: &[&NodeProto]) -> Vec<usize> {
    let mut tainted: HashSet<&str> = branch.output.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
    let mut found = Vec::new();
    for (i, node) in rest.iter().enumerate() {
        if used_names(node).iter().any(|name| tainted.contains(name.as_str())) {
            tainted.extend(node.output.iter().map(String::as_str).filter(|n| !n.is_empty()));
            found.push(i);
        }
    }
    found
}

/// The names that a node uses, its subgraphs included.
pub(super) fn used_names(node: &NodeProto) -> Vec<String> {
    let inner = node.attribute.iter().filter_map(|a| a.g.as_deref()).flat_map(free_names);
    node.input.iter().filter(|name| !name.is_empty()).cloned().chain(inner).collect()
}

/// The `If` with `tail` at the end of its branches, which are those that `sides` names for a false and a true condition. Its
/// outputs are the names that `after` and the graph's outputs use.
fn extended(
    branch: &NodeProto,
    tail: &[&NodeProto],
    after: &[&NodeProto],
    outputs: &[&str],
    sides: [&str; 2],
) -> Result<NodeProto, OpError> {
    let wanted: HashSet<String> =
        after.iter().flat_map(|node| used_names(node)).chain(outputs.iter().map(|&name| name.to_owned())).collect();
    let computed = [branch].into_iter().chain(tail.iter().copied()).flat_map(|node| &node.output);
    let live: Vec<String> = computed.filter(|name| wanted.contains(*name)).cloned().collect();
    let from_outside: HashSet<String> = tail.iter().flat_map(|node| used_names(node)).collect();
    let mut attributes = Vec::new();
    for (name, side) in SIDES.into_iter().zip(sides) {
        let source = branch.attribute.iter().find(|a| a.name == side).and_then(|a| a.g.as_deref());
        let source = source.ok_or_else(|| OpError::Invalid(format!("attribute `{side}` is missing")))?;
        let mut graph: GraphProto = source.clone();
        let inside = graph.node.iter().flat_map(|node| &node.output).chain(graph.initializer.iter().map(|t| &t.name));
        let mut inside: Vec<&String> = inside.collect();
        inside.retain(|name| from_outside.contains(*name) && !branch.output.contains(name));
        if let Some(name) = inside.first() {
            let message = format!("`{name}` is a name in a branch and another one after it, where branches differ");
            return Err(OpError::Unsupported(message));
        }
        for (given, taken) in graph.output.iter().zip(&branch.output).filter(|(g, t)| g.name != **t && !t.is_empty()) {
            graph.node.push(NodeProto {
                op_type: "Identity".into(),
                input: vec![given.name.clone()],
                output: vec![taken.clone()],
                ..NodeProto::default()
            });
        }
        graph.node.extend(tail.iter().map(|&node| node.clone()));
        graph.output = live.iter().map(|name| ValueInfoProto { name: name.clone(), ..Default::default() }).collect();
        attributes.push(AttributeProto { name: name.to_owned(), g: Some(graph.into()), ..AttributeProto::default() });
    }
    Ok(NodeProto { attribute: attributes, output: live, ..branch.clone() })
}
