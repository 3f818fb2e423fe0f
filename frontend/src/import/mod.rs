//! From a decoded model to a [`Graph`]: names become values, nodes become primitives through the operator table.
//!
//! Before: a [`ModelFile`], of which nothing is trusted. After: a graph that satisfies `tensor::verify`, or every problem
//! that was found, each with its node. A node that fails does not stop the import: what depends on it is left out, so
//! that one run names all that is missing.

mod context;
mod custom;
mod diverge;
mod lists;
mod scope;
mod sizes;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::constant::ConstantData;
use onnxc_ir::tensor::{Builder, ConstantSource, Graph, Origin, OriginData, Region, TensorType, Type, Value};

pub use context::{NodeContext, OpError, OpResult, Subgraph};
pub use custom::CustomOperator;
use custom::Stated;
use lists::Lists;
pub use lists::{Held, Structure};
use scope::{Binding, Scope};

use crate::ops;
use crate::proto::{
    AttributeProto, DimensionValue, FunctionProto, GraphProto, LoadError, ModelFile, NodeProto, OperatorSetIdProto,
    TensorData, TensorShapeProto, TypeProto, TypeValue, ValueInfoProto, densify, dtype_from_onnx,
};

/// Functions nest at most this deep; a model's functions must not call each other in a circle.
const MAX_FUNCTION_DEPTH: usize = 32;

/// What the user says about a named dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DimSetting {
    /// It is this number.
    Fixed(i64),
    /// It is between these, both included.
    Range(i64, i64),
}

impl From<i64> for DimSetting {
    fn from(extent: i64) -> Self {
        DimSetting::Fixed(extent)
    }
}

impl From<RangeInclusive<i64>> for DimSetting {
    fn from(range: RangeInclusive<i64>) -> Self {
        DimSetting::Range(*range.start(), *range.end())
    }
}

/// How to import a model.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The graph's name; becomes the prefix of symbols.
    pub name: String,
    /// Settings of named dimensions. The length of a sequence input is set under the input's name; that of an optional input
    /// is 1 or 0.
    pub dims: HashMap<String, DimSetting>,
    /// Operators that are the user's functions, whatever else has their names.
    pub custom: Vec<CustomOperator>,
}

/// A graph and what was noticed on the way.
#[derive(Debug)]
pub struct Imported {
    /// The model.
    pub graph: Graph,
    /// The model's inputs, of which each is made of as many of the graph's as it has tensors.
    pub inputs: Vec<(String, Structure)>,
    /// The same of the outputs.
    pub outputs: Vec<(String, Structure)>,
    /// What is odd but not wrong.
    pub warnings: Vec<String>,
    /// The files beside the model's that hold elements of its tensors.
    pub external_files: Vec<PathBuf>,
}

/// Why a node cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProblem {
    /// The node's name, or its place.
    pub node: String,
    /// Its operator with the domain.
    pub operator: String,
    /// The opset version that the model imports for its domain.
    pub opset: i64,
    /// Whether the model is at fault; otherwise it asks for what the compiler lacks.
    pub invalid: bool,
    /// What is wrong or missing.
    pub message: String,
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file or a tensor in it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model as a whole.
    #[error("{0}")]
    Model(String),
    /// The model as a whole asks for what the compiler lacks.
    #[error("{0}")]
    Unsupported(String),
    /// Nodes.
    #[error("{}", .0.iter().map(|p| format!("{} ({}): {}", p.node, p.operator, p.message)).collect::<Vec<_>>().join("\n"))]
    Nodes(Vec<NodeProblem>),
}

/// What all graphs of a model share while it is imported.
pub(crate) struct Shared<'m> {
    file: &'m ModelFile,
    options: &'m ImportOptions,
    /// The types that the model states for its values; empty where nobody asks.
    stated: Stated<'m>,
    functions: HashMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    problems: RefCell<Vec<NodeProblem>>,
    warnings: RefCell<Vec<String>>,
    pub(crate) lists: Lists,
}

/// The opset versions in force, by domain.
type Opsets = HashMap<String, i64>;

/// Imports a model.
pub fn import(file: &ModelFile, options: &ImportOptions) -> Result<Imported, ImportError> {
    let model = &file.model;
    let proto = model.graph.as_deref().ok_or_else(|| ImportError::Model("the model has no graph".into()))?;
    let functions = model
        .functions
        .iter()
        .map(|f| ((ops::canonical_domain(&f.domain), f.name.as_str(), f.overload.as_str()), f))
        .collect();
    let mut stated = Stated::new();
    if !options.custom.is_empty() {
        custom::stated_types(proto, &mut stated);
    }
    let (problems, warnings, lists) = (RefCell::default(), RefCell::default(), Lists::default());
    let shared = Shared { file, options, stated, functions, problems, warnings, lists };
    let mut graph = Graph::new(&options.name);
    // By name: the order of symbols is the order of the model's descriptor.
    for (name, setting) in options.dims.iter().collect::<std::collections::BTreeMap<_, _>>() {
        if let DimSetting::Range(low, high) = *setting {
            let symbol = graph.symbols.intern(name);
            graph.symbols.restrict(symbol, low, high);
        }
    }
    let opsets = opsets(&model.opset_import);
    let body = graph.body();
    let mut scope = Scope::root();
    bind_initializers(&mut graph, &shared, &mut scope, proto)?;
    let mut inputs = Vec::new();
    for input in &proto.input {
        if scope.binds(&input.name) {
            continue;
        }
        let proto = input.r#type.as_deref().ok_or_else(|| OpError::Invalid("has no type".into()));
        let made = proto.and_then(|proto| input_value(&mut graph, &shared, &input.name, proto, &options.dims));
        let made = made.map_err(|error| {
            let message = format!("input `{}`: {error}", input.name);
            match error {
                OpError::Invalid(_) => ImportError::Model(message),
                OpError::Unsupported(_) | OpError::Differing(_) => ImportError::Unsupported(message),
            }
        })?;
        inputs.extend(made.map(|value| (input.name.clone(), shared.lists.take_apart(value, &mut Vec::new()))));
        scope.bind(&input.name, made.map_or(Binding::Poisoned, Binding::Value));
    }
    let place = Place { path: String::new(), opsets: &opsets, depth: 0 };
    let nodes: Vec<&NodeProto> = proto.node.iter().collect();
    let names: Vec<&str> = proto.output.iter().map(|output| output.name.as_str()).collect();
    if let Err(error) = import_nodes(&mut graph, &shared, &mut scope, body, &nodes, &names, &place) {
        return Err(ImportError::Unsupported(format!("an output of the model has no one type: {error}")));
    }
    let problems = shared.problems.take();
    if !problems.is_empty() {
        return Err(ImportError::Nodes(problems));
    }
    let mut outputs = Vec::new();
    for output in &proto.output {
        let origin = output_origin(&mut graph, &output.name);
        let mut b = Builder::new(&mut graph, body, &[origin][..]);
        let value = scope
            .value(&mut b, &output.name)
            .ok_or_else(|| ImportError::Model(format!("no node computes the output `{}`", output.name)))?;
        compare_declared(&graph, &shared, output, value);
        let mut tensors = Vec::new();
        let structure = shared.lists.take_apart(value, &mut tensors);
        graph.regions[body].results.extend(tensors);
        structure.names(&output.name, &mut graph.output_names);
        outputs.push((output.name.clone(), structure));
    }
    graph.commit();
    let external_files = file.external.files();
    Ok(Imported { graph, inputs, outputs, warnings: shared.warnings.take(), external_files })
}

/// The value of an input: a parameter of the graph, or as many as there are tensors in it. `None`, with a problem, where
/// nobody says how many there are.
fn input_value(
    graph: &mut Graph,
    shared: &Shared<'_>,
    name: &str,
    proto: &TypeProto,
    dims: &HashMap<String, DimSetting>,
) -> Result<Option<Value>, OpError> {
    let length = match dims.get(name) {
        Some(DimSetting::Fixed(n)) => Some(*n),
        Some(DimSetting::Range(..)) | None => None,
    };
    let refuse = |message: String| {
        let (node, operator) = (format!("input `{name}`"), "Input".to_owned());
        shared.problems.borrow_mut().push(NodeProblem { node, operator, opset: 0, invalid: false, message });
        Ok(None)
    };
    let held = match &proto.value {
        Some(TypeValue::SequenceType(t)) => {
            let mut element = t.elem_type.clone().ok_or_else(|| OpError::Invalid("is a sequence of no type".into()))?;
            forget_names(&mut element);
            let Some(length @ 0..=MAX_LENGTH) = length else {
                return refuse(format!("the length of the sequence has to be known: set it with --dim {name}=N"));
            };
            let mut items = Vec::new();
            for i in 0..length {
                let Some(item) = input_value(graph, shared, &format!("{name}#{i}"), &element, dims)? else {
                    return Ok(None);
                };
                items.push(item);
            }
            Held::Sequence(items)
        }
        Some(TypeValue::OptionalType(t)) => {
            let element = t.elem_type.as_deref().ok_or_else(|| OpError::Invalid("is an optional of no type".into()))?;
            // An optional sequence has its length under the name of an element.
            let tensor = matches!(element.value, Some(TypeValue::TensorType(_)));
            let inner = if tensor { name.to_owned() } else { format!("{name}#0") };
            match length {
                Some(0) => Held::Optional(None),
                Some(1) => match input_value(graph, shared, &inner, element, dims)? {
                    Some(value) => Held::Optional(Some(value)),
                    None => return Ok(None),
                },
                _ => {
                    let message = format!("an optional input is there or not: set --dim {name}=1 or {name}=0");
                    return refuse(message);
                }
            }
        }
        _ => match type_from_proto(graph, proto, name, dims)? {
            ty @ Type::Tensor(_) => {
                let body = graph.body();
                graph.input_names.push(name.to_owned());
                return Ok(Some(graph.add_param(body, ty)));
            }
            _ => return refuse("maps: neither ports nor values of a compiled model can be one".to_owned()),
        },
    };
    let first = match &held {
        Held::Sequence(items) => items.first().copied(),
        Held::Optional(inner) => *inner,
    };
    let element = first.map_or_else(|| TensorType::new(DType::F32, []).into(), |v| graph.ty(v).clone());
    Ok(Some(shared.lists.hold(graph, held, element)))
}

/// Takes the names of dimensions away: a name in the type of a sequence's elements is not one size for all of them.
fn forget_names(proto: &mut TypeProto) {
    match &mut proto.value {
        Some(TypeValue::TensorType(t)) => {
            let dims = t.shape.iter_mut().flat_map(|s| &mut s.dim);
            dims.filter(|d| matches!(d.value, Some(DimensionValue::DimParam(_)))).for_each(|d| d.value = None);
        }
        Some(TypeValue::SequenceType(t)) => t.elem_type.iter_mut().for_each(|e| forget_names(e)),
        Some(TypeValue::OptionalType(t)) => t.elem_type.iter_mut().for_each(|e| forget_names(e)),
        Some(TypeValue::MapType(_) | TypeValue::SparseTensorType(_) | TypeValue::OpaqueType(_)) | None => {}
    }
}

/// The longest sequence that an input may be.
const MAX_LENGTH: i64 = 4096;

/// The origin of a constant that is an output itself.
fn output_origin(graph: &mut Graph, name: &str) -> Origin {
    graph.origins.push(OriginData { path: format!("output `{name}`"), operator: "Constant".into() })
}

/// Where nodes are imported: the names around them, the opsets and how deep functions nest.
#[derive(Clone)]
pub(crate) struct Place<'p> {
    path: String,
    opsets: &'p Opsets,
    depth: usize,
}

fn opsets(imports: &[OperatorSetIdProto]) -> Opsets {
    imports.iter().map(|i| (ops::canonical_domain(&i.domain).to_owned(), i.version)).collect()
}

/// Makes the graph's initializers known to the scope. Elements stay where they are in the file.
fn bind_initializers(
    graph: &mut Graph,
    shared: &Shared<'_>,
    scope: &mut Scope,
    proto: &GraphProto,
) -> Result<(), ImportError> {
    let external = &shared.file.external;
    let dense = proto.initializer.iter().map(|t| (t.name.as_str(), TensorData::from_proto(t, external)));
    let sparse = proto.sparse_initializer.iter().map(|t| {
        let name = t.values.as_ref().map_or("", |v| v.name.as_str());
        (name, densify(t, external))
    });
    for (name, data) in dense.chain(sparse) {
        let data = data.map_err(|e| e.within(format!("initializer `{name}`")))?;
        let tensor = data.to_constant(&mut graph.strings);
        let ty = TensorType::fixed(tensor.dtype, &tensor.shape);
        let source = ConstantSource::Bytes(tensor.bytes);
        let constant = graph.constants.push(ConstantData { ty, source, name: name.to_owned() });
        scope.bind(name, Binding::Constant(constant));
    }
    Ok(())
}

/// What import notices beside the graph: an attempt that comes to nothing leaves none of it.
struct Noticed {
    assumptions: Vec<(Dim, Dim)>,
    problems: usize,
    warnings: usize,
}

impl Noticed {
    fn so_far(graph: &Graph, shared: &Shared<'_>) -> Noticed {
        let (problems, warnings) = (shared.problems.borrow().len(), shared.warnings.borrow().len());
        Noticed { assumptions: graph.assumptions.clone(), problems, warnings }
    }

    /// Forgets what came since, and gives the problems.
    fn restore(self, graph: &mut Graph, shared: &Shared<'_>) -> Vec<NodeProblem> {
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
pub(crate) fn import_nodes(
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
        match import_node(graph, shared, scope, region, node, &path, place) {
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

/// Imports one node; `None` if one of its inputs comes from a node that failed.
fn import_node(
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
            None => return Err(OpError::Invalid(format!("input `{name}` is computed by no earlier node"))),
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

/// Imports the body of a model-local function in place of the node that calls it.
fn expand_function(
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
    let inner: Vec<&NodeProto> = nodes.iter().collect();
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

/// A type as the IR has it. Names of dimensions become symbols; `name` names dimensions that have no name. A tensor without
/// declared rank has as many dimensions as `dims` sets.
pub(crate) fn type_from_proto(
    graph: &mut Graph,
    proto: &TypeProto,
    name: &str,
    dims: &HashMap<String, DimSetting>,
) -> Result<Type, OpError> {
    let invalid = |message: &str| OpError::Invalid(message.into());
    let unsupported = |message: &str| OpError::Unsupported(message.into());
    match &proto.value {
        Some(TypeValue::TensorType(t)) => {
            let dtype = dtype_from_onnx(t.elem_type)
                .ok_or_else(|| invalid(&format!("has the unknown element type {}", t.elem_type)))?;
            let unranked = || {
                let set = (0..).take_while(|i| dims.contains_key(&format!("{name}_dim{i}"))).count();
                let shape = TensorShapeProto { dim: vec![Default::default(); set] };
                (set > 0).then_some(std::borrow::Cow::Owned(shape))
            };
            let rank = "has no declared rank; onnxc needs the number of dimensions of each input";
            let shape = t.shape.as_ref().map(std::borrow::Cow::Borrowed).or_else(unranked);
            let shape = shape.ok_or_else(|| unsupported(rank))?;
            let mut ty = TensorType::new(dtype, []);
            for (i, dim) in shape.dim.iter().enumerate() {
                let symbol = match &dim.value {
                    Some(DimensionValue::DimValue(n)) if *n >= 0 => {
                        ty.shape.push(Dim::from(*n));
                        continue;
                    }
                    Some(DimensionValue::DimParam(param)) if !param.is_empty() => match dims.get(param) {
                        Some(DimSetting::Fixed(n)) => {
                            ty.shape.push(Dim::from(*n));
                            continue;
                        }
                        _ => graph.symbols.intern(param),
                    },
                    _ => {
                        let symbol = format!("{name}_dim{i}");
                        if let Some(DimSetting::Fixed(n)) = dims.get(&symbol) {
                            ty.shape.push(Dim::from(*n));
                            continue;
                        }
                        graph.symbols.intern(&symbol)
                    }
                };
                ty.shape.push(Dim::from(symbol));
            }
            Ok(ty.into())
        }
        Some(TypeValue::SequenceType(t)) => {
            let element = t.elem_type.as_deref().ok_or_else(|| invalid("is a sequence of no type"))?;
            Ok(Type::Sequence(Box::new(type_from_proto(graph, element, name, dims)?)))
        }
        Some(TypeValue::OptionalType(t)) => {
            let element = t.elem_type.as_deref().ok_or_else(|| invalid("is an optional of no type"))?;
            Ok(Type::Optional(Box::new(type_from_proto(graph, element, name, dims)?)))
        }
        Some(TypeValue::MapType(t)) => {
            let key = dtype_from_onnx(t.key_type)
                .ok_or_else(|| invalid(&format!("has the unknown key type {}", t.key_type)))?;
            let value = t.value_type.as_deref().ok_or_else(|| invalid("is a map to no type"))?;
            Ok(Type::Map(key, Box::new(type_from_proto(graph, value, name, dims)?)))
        }
        Some(TypeValue::SparseTensorType(_)) => Err(unsupported("is a sparse tensor")),
        Some(TypeValue::OpaqueType(t)) => Err(unsupported(&format!("has the opaque type {}.{}", t.domain, t.name))),
        None => Err(invalid("has no type")),
    }
}

/// Declared output types are hints: what was inferred holds, and a contradiction is worth a warning.
fn compare_declared(graph: &Graph, shared: &Shared<'_>, info: &ValueInfoProto, value: Value) {
    let Some(TypeValue::TensorType(t)) = info.r#type.as_deref().and_then(|t| t.value.as_ref()) else { return };
    let Some(ty) = graph.ty(value).as_tensor() else { return };
    let warn = |message: String| shared.warnings.borrow_mut().push(format!("output `{}`: {message}", info.name));
    if let Some(declared) = dtype_from_onnx(t.elem_type).filter(|d| *d != ty.dtype) {
        warn(format!("declared as {declared}, computed as {}", ty.dtype));
    }
    let Some(shape) = &t.shape else { return };
    if shape.dim.len() != ty.rank() {
        warn(format!("declared with {} dimensions, computed with {}", shape.dim.len(), ty.rank()));
        return;
    }
    for (i, (dim, computed)) in shape.dim.iter().zip(&ty.shape).enumerate() {
        if let (Some(DimensionValue::DimValue(n)), Some(c)) = (&dim.value, computed.as_const())
            && *n != c
        {
            warn(format!("dimension {i} is declared as {n}, computed as {c}"));
        }
    }
}
