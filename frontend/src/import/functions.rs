//! Functions that a model defines: their nodes take the place of the node that calls them.

use onnxc_ir::tensor::{Builder, Graph, Region, Value};

use super::context::OpError;
use super::nodes::import_nodes;
use super::order::in_order;
use super::scope::{Binding, Scope};
use super::{Place, Shared, output_origin};
use crate::proto::{AttributeProto, FunctionProto, NodeProto};

/// Functions nest at most this deep; a model's functions must not call each other in a circle.
const MAX_FUNCTION_DEPTH: usize = 32;
/// The nodes of all functions wherever they are called: a few that call the next one twice would be any number.
const MAX_FUNCTION_NODES: usize = 1 << 18;

/// Imports the body of a model-local function in place of the node that calls it.
pub(super) fn expand_function(
    graph: &mut Graph,
    shared: &Shared<'_>,
    region: Region,
    node: &NodeProto,
    function: &FunctionProto,
    inputs: &[Option<Value>],
    place: &Place<'_>,
) -> Result<Vec<Value>, OpError> {
    if place.depth > MAX_FUNCTION_DEPTH {
        return Err(OpError::Invalid("functions call each other without end".into()));
    }
    let expanded = shared.expanded.get() + function.node.len();
    if expanded > MAX_FUNCTION_NODES {
        return Err(OpError::Unsupported(format!("functions of more than {MAX_FUNCTION_NODES} nodes in all")));
    }
    shared.expanded.set(expanded);
    let mut scope = Scope::root();
    for (i, name) in function.input.iter().enumerate() {
        if let Some(Some(value)) = inputs.get(i) {
            scope.bind(name, Binding::Value(*value));
        }
    }
    let absent: Vec<&str> = function
        .input
        .iter()
        .enumerate()
        .filter(|(i, _)| !matches!(inputs.get(*i), Some(Some(_))))
        .map(|(_, n)| n.as_str())
        .collect();
    let mut nodes = function.node.clone();
    for inner in &mut nodes {
        bind_attributes(inner, &node.attribute, &function.attribute_proto);
        // An input that the caller left out is left out inside as well.
        inner.input.iter_mut().filter(|n| absent.contains(&n.as_str())).for_each(String::clear);
    }
    let problems = shared.problems.borrow().len();
    let inner = in_order(&nodes.iter().collect::<Vec<_>>());
    let names: Vec<&str> = function.output.iter().map(String::as_str).collect();
    import_nodes(graph, shared, &mut scope, region, &inner, &names, place)?;
    let mut outputs = Vec::with_capacity(function.output.len());
    for name in &function.output {
        let origin = output_origin(graph, name);
        let mut b = Builder::new(graph, region, &[origin][..]);
        match scope.value(&mut b, name) {
            Some(value) => outputs.push(value),
            None if shared.problems.borrow().len() > problems => {
                return Err(OpError::Unsupported("its function body cannot be imported (see above)".into()));
            }
            None => return Err(OpError::Invalid(format!("the function never computes its output `{name}`"))),
        }
    }
    Ok(outputs)
}

/// Replaces references to a function's attributes by what the caller gives or the function's defaults.
fn bind_attributes(node: &mut NodeProto, given: &[AttributeProto], defaults: &[AttributeProto]) {
    let mut bound = Vec::with_capacity(node.attribute.len());
    for attribute in node.attribute.drain(..) {
        if attribute.ref_attr_name.is_empty() {
            let mut attribute = attribute;
            let inner = attribute.g.iter_mut().flat_map(|g| g.node.iter_mut());
            inner.for_each(|n| bind_attributes(n, given, defaults));
            bound.push(attribute);
            continue;
        }
        let source = given.iter().chain(defaults).find(|a| a.name == attribute.ref_attr_name);
        // Without a value the attribute is absent, and the operator's own default holds.
        bound.extend(source.map(|s| AttributeProto { name: attribute.name.clone(), ..s.clone() }));
    }
    node.attribute = bound;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::import::{ImportError, ImportOptions, import};
    use crate::proto::{
        GraphProto, ModelFile, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto, TypeTensor, TypeValue,
        ValueInfoProto,
    };

    /// Functions that each call the next one twice, 24 deep: as many nodes as a model of a gigabyte.
    #[test]
    fn functions_that_multiply_are_refused() {
        let node = |op_type: &str, input: &str, output: &str| NodeProto {
            op_type: op_type.into(),
            domain: if op_type == "Relu" { "" } else { "my" }.into(),
            input: vec![input.into()],
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let opsets = || {
            let opset = |(domain, version): (&str, i64)| OperatorSetIdProto { domain: domain.into(), version };
            [("", 17), ("my", 1)].map(opset).to_vec()
        };
        let function = |level: usize| {
            let next = if level == 0 { "Relu".to_owned() } else { format!("f{}", level - 1) };
            FunctionProto {
                name: format!("f{level}"),
                domain: "my".into(),
                input: vec!["a".into()],
                output: vec!["c".into()],
                node: vec![node(&next, "a", "b"), node(&next, "b", "c")],
                opset_import: opsets(),
                ..FunctionProto::default()
            }
        };
        let number = TypeTensor { elem_type: 1, shape: Some(TensorShapeProto::default()) };
        let number = TypeProto { value: Some(TypeValue::TensorType(number)), ..TypeProto::default() };
        let graph = GraphProto {
            node: vec![node("f24", "x", "y")],
            input: vec![ValueInfoProto {
                name: "x".into(),
                r#type: Some(Box::new(number)),
                ..ValueInfoProto::default()
            }],
            output: vec![ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: 8,
            opset_import: opsets(),
            functions: (0..=24).map(function).collect(),
            graph: Some(Box::new(graph)),
            ..ModelProto::default()
        };
        let file = ModelFile::from_bytes(Bytes::from(model.encode_to_vec())).unwrap();
        let error = import(&file, &ImportOptions::default()).unwrap_err();
        let ImportError::Nodes(problems) = error else { panic!("{error}") };
        assert!(problems.iter().any(|p| p.message.contains("nodes in all")), "{}", problems[0].message);
    }
}
