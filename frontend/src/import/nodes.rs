//! The nodes of a graph, one after the other: each through the operator table, the functions of the model or those of the user.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::{Builder, Graph, OriginData, Region, TensorType, Value};

use super::context::{NodeContext, OpError};
use super::functions::expand_function;
use super::scope::{Binding, Scope};
use super::{NodeProblem, Place, Shared, custom, diverge, opsets};
use crate::ops;
use crate::proto::NodeProto;

/// What import notices beside the graph: an attempt that comes to nothing leaves none of it.
pub(super) struct Noticed {
    assumptions: Vec<(Dim, Dim)>,
    problems: usize,
    warnings: usize,
}

impl Noticed {
    pub(super) fn so_far(graph: &Graph, shared: &Shared<'_>) -> Noticed {
        let (problems, warnings) = (shared.problems.borrow().len(), shared.warnings.borrow().len());
        Noticed { assumptions: graph.assumptions.clone(), problems, warnings }
    }

    /// Forgets what came since, and gives the problems.
    pub(super) fn restore(self, graph: &mut Graph, shared: &Shared<'_>) -> Vec<NodeProblem> {
        graph.assumptions = self.assumptions;
        shared.warnings.borrow_mut().truncate(self.warnings);
        shared.problems.borrow_mut().split_off(self.problems)
    }
}

/// Imports nodes in order; problems are collected, and what depends on a failed node is left out. `outputs` are the names
/// of the graph's outputs.
///
/// # Errors
/// When an output has different types in the branches of an `If`: what comes after this graph decides about it.
pub(super) fn import_nodes(
    graph: &mut Graph,
    shared: &Shared<'_>,
    scope: &mut Scope,
    region: Region,
    nodes: &[&NodeProto],
    outputs: &[&str],
    place: &Place<'_>,
) -> Result<(), OpError> {
    for (index, node) in nodes.iter().enumerate() {
        let name = if node.name.is_empty() { format!("#{index}") } else { node.name.clone() };
        let path = if place.path.is_empty() { name } else { format!("{}/{name}", place.path) };
        let before = (node.op_type == "If").then(|| Noticed::so_far(graph, shared));
        let first = graph.nodes.len();
        let imported = import_node(graph, shared, scope, region, node, &path, place);
        match imported.and_then(|values| check_sizes(graph, first).map(|()| values)) {
            Ok(Some(values)) => {
                for (name, &value) in node.output.iter().zip(&values).filter(|(name, _)| !name.is_empty()) {
                    scope.bind(name, Binding::Value(value));
                }
                for name in node.output.iter().skip(values.len()).filter(|name| !name.is_empty()) {
                    scope.bind(name, Binding::Unsupported("an optional output that is not computed"));
                }
            }
            Ok(None) => node.output.iter().for_each(|name| scope.bind(name, Binding::Poisoned)),
            Err(OpError::Differing(why)) if before.is_some() => {
                before.expect("it is some").restore(graph, shared);
                let rest = &nodes[index + 1..];
                return diverge::import(graph, shared, scope, region, (node, rest), outputs, place, &path, why);
            }
            Err(error) => {
                let domain = ops::canonical_domain(&node.domain);
                shared.problems.borrow_mut().push(NodeProblem {
                    node: path,
                    operator: ops::qualified_name(domain, &node.op_type),
                    opset: place.opsets.get(domain).copied().unwrap_or(0),
                    invalid: matches!(error, OpError::Invalid(_)),
                    message: error.to_string(),
                });
                node.output.iter().for_each(|name| scope.bind(name, Binding::Poisoned));
            }
        }
    }
    Ok(())
}

/// Elements of a tensor at most. What the compiler computes from sizes, such as the operations of a product, is at most that of
/// three such tensors, and stays within 64 bits.
const MAX_ELEMENTS: i64 = 1 << 40;

/// Whether the tensors that the nodes from `first` on give have few enough elements, where their least sizes say so.
fn check_sizes(graph: &Graph, first: usize) -> Result<(), OpError> {
    let values = graph.nodes.values().skip(first).flat_map(|node| &node.outputs);
    values.filter_map(|&v| graph.ty(v).as_tensor()).try_for_each(|ty| check_size(graph, ty))
}

/// The same of one tensor.
pub(super) fn check_size(graph: &Graph, ty: &TensorType) -> Result<(), OpError> {
    let least = |symbol| graph.symbols.bounds(symbol).0.max(1);
    let fits = |dim: &Dim| dim.eval(least).is_some_and(|count| count <= MAX_ELEMENTS);
    if fits(&Dim::product(&ty.shape)?) && ty.shape.iter().all(fits) {
        return Ok(());
    }
    Err(OpError::Unsupported(format!("a tensor of the shape {}", graph.shape_text(&ty.shape))))
}

/// Imports one node; `None` if one of its inputs comes from a node that failed.
pub(super) fn import_node(
    graph: &mut Graph,
    shared: &Shared<'_>,
    scope: &mut Scope,
    region: Region,
    node: &NodeProto,
    path: &str,
    place: &Place<'_>,
) -> Result<Option<Vec<Value>>, OpError> {
    let domain = ops::canonical_domain(&node.domain);
    let operator = ops::qualified_name(domain, &node.op_type);
    let origin = graph.origins.push(OriginData { path: path.to_owned(), operator });
    let custom = custom::binding(shared.options, domain, &node.op_type);
    let function = shared.functions.get(&(domain, node.op_type.as_str(), node.overload.as_str()));
    // Before the inputs: an operator that does not exist is named even where a node before it failed already.
    let resolved = match (custom, function) {
        (Some(_), _) | (_, Some(_)) => None,
        (None, None) => Some(ops::resolve(domain, &node.op_type, place.opsets.get(domain).copied())?),
    };
    let mut b = Builder::new(graph, region, &[origin][..]);
    let mut inputs = Vec::with_capacity(node.input.len());
    for name in &node.input {
        if name.is_empty() {
            inputs.push(None);
            continue;
        }
        match scope.lookup(name) {
            Some(Binding::Poisoned) => {
                name_unsupported(shared, node, path, place);
                return Ok(None);
            }
            Some(Binding::Unsupported(what)) => {
                return Err(OpError::Unsupported(format!("input `{name}` needs {what}")));
            }
            Some(_) => inputs.push(scope.value(&mut b, name)),
            None => {
                return Err(OpError::Invalid(format!(
                    "input `{name}` is computed by no node, or only by one that waits for this one"
                )));
            }
        }
    }
    if let Some(custom) = custom {
        let mut cx = NodeContext { b, node, version: 0, inputs, shared, scope, path, place };
        return custom::import(&mut cx, custom).map(Some);
    }
    let Some((operator, version)) = resolved else {
        let function = function.expect("what is no operator is a function");
        let inner = Place { path: path.to_owned(), opsets: &opsets(&function.opset_import), depth: place.depth + 1 };
        return expand_function(graph, shared, region, node, function, &inputs, &inner).map(Some);
    };
    operator.check_arity(node)?;
    let mut cx = NodeContext { b, node, version, inputs, shared, scope, path, place };
    (operator.import)(&mut cx).map(Some)
}

/// Names the operators in a node's subgraphs that do not exist, where the node itself is not imported.
fn name_unsupported(shared: &Shared<'_>, node: &NodeProto, path: &str, place: &Place<'_>) {
    for (index, inner) in node.attribute.iter().filter_map(|a| a.g.as_deref()).flat_map(|g| g.node.iter().enumerate()) {
        let name = if inner.name.is_empty() { format!("#{index}") } else { inner.name.clone() };
        let path = format!("{path}/{name}");
        let domain = ops::canonical_domain(&inner.domain);
        let opset = place.opsets.get(domain).copied();
        let known = custom::binding(shared.options, domain, &inner.op_type).is_some()
            || shared.functions.contains_key(&(domain, inner.op_type.as_str(), inner.overload.as_str()));
        if let (false, Err(error)) = (known, ops::resolve(domain, &inner.op_type, opset)) {
            shared.problems.borrow_mut().push(NodeProblem {
                node: path.clone(),
                operator: ops::qualified_name(domain, &inner.op_type),
                opset: opset.unwrap_or(0),
                invalid: matches!(error, OpError::Invalid(_)),
                message: error.to_string(),
            });
        }
        name_unsupported(shared, inner, &path, place);
    }
}
