//! From a decoded model to a [`Graph`]: names become values, nodes become primitives through the operator table.
//!
//! Before: a [`ModelFile`], of which nothing is trusted. After: a graph that satisfies `tensor::verify`, or every problem
//! that was found, each with its node. A node that fails does not stop the import: what depends on it is left out, so
//! that one run names all that is missing.

mod context;
mod custom;
mod diverge;
mod functions;
mod lists;
mod nodes;
mod order;
mod ports;
mod scope;
mod sizes;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use onnxc_ir::tensor::constant::ConstantData;
use onnxc_ir::tensor::{Builder, ConstantSource, Graph, Origin, OriginData, TensorType};

pub use context::{NodeContext, OpError, OpResult, Subgraph};
pub use custom::CustomOperator;
use custom::Stated;
use lists::Lists;
pub use lists::{Held, Structure};
use nodes::import_nodes;
use ports::{compare_declared, input_value};
use scope::{Binding, Scope};

use crate::ops;
use crate::proto::{FunctionProto, GraphProto, LoadError, ModelFile, OperatorSetIdProto, TensorData, densify};

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
    /// The nodes that functions have become so far.
    expanded: Cell<usize>,
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
    let shared = Shared { file, options, stated, functions, problems, warnings, lists, expanded: Cell::new(0) };
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
    let nodes = order::in_order(&proto.node.iter().collect::<Vec<_>>());
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
