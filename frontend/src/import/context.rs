//! What an operator's import function works with: its inputs, its attributes and a builder.

use std::collections::HashSet;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Builder, Constant, ConstantSource, TensorBytes, Type, Value};

use super::lists::{Held, Structure};
use super::nodes::import_nodes;
use super::order::in_order;
use super::scope::{Binding, Scope};
use super::{ImportOptions, Place, Shared, bind_initializers};
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorData, TypeTensor, densify, dtype_from_onnx};

/// Why a node cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The compiler lacks something.
    #[error("{0}")]
    Unsupported(String),
    /// The model is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The branches of an `If` give values of different types. What comes after it has to go into the branches.
    #[error("branches of different types: {0}")]
    Differing(String),
}

impl From<BuildError> for OpError {
    fn from(error: BuildError) -> OpError {
        OpError::Invalid(error.to_string())
    }
}

impl From<onnxc_ir::dim::DimError> for OpError {
    fn from(error: onnxc_ir::dim::DimError) -> OpError {
        OpError::Invalid(error.to_string())
    }
}

/// The node's outputs in order; trailing optional outputs may be left out.
pub type OpResult = Result<Vec<Value>, OpError>;

/// One node while it is imported.
pub struct NodeContext<'a> {
    /// Builds the node's primitives; they carry its origin.
    pub b: Builder<'a>,
    /// The node.
    pub node: &'a NodeProto,
    /// The operator's version in force: the greatest since-version that is not above the model's opset.
    pub version: i64,
    pub(super) inputs: Vec<Option<Value>>,
    pub(super) shared: &'a Shared<'a>,
    pub(super) scope: &'a mut Scope,
    pub(super) path: &'a str,
    pub(super) place: &'a Place<'a>,
}

/// A graph attribute with what it uses of the graphs around it.
pub struct Subgraph<'a> {
    /// The graph.
    pub proto: &'a GraphProto,
    /// The tensors outside that it uses.
    pub captures: Vec<Value>,
    /// Names that are values outside, with these values.
    named: Vec<(String, Value)>,
    bindings: Vec<(String, Binding)>,
}

impl<'a> NodeContext<'a> {
    /// What the user says about the import.
    pub(super) fn options(&self) -> &'a ImportOptions {
        self.shared.options
    }

    /// The type that the model states for one of its values. Inside of functions names are others.
    pub(super) fn stated_type(&self, name: &str) -> Option<&'a TypeTensor> {
        self.shared.stated.get(name).copied().filter(|_| self.place.depth == 0)
    }

    /// What the value stands for, if it is no tensor.
    pub fn held(&self, value: Value) -> Option<Held> {
        self.shared.lists.get(value)
    }

    /// A value that stands for a sequence or an optional, whose elements are of type `element`.
    pub fn hold(&mut self, held: Held, element: Type) -> Value {
        self.shared.lists.hold(self.b.graph, held, element)
    }

    /// An error about something that the compiler lacks.
    pub fn unsupported<T>(&self, what: impl Into<String>) -> Result<T, OpError> {
        Err(OpError::Unsupported(what.into()))
    }

    /// An error about the model.
    pub fn invalid<T>(&self, what: impl Into<String>) -> Result<T, OpError> {
        Err(OpError::Invalid(what.into()))
    }

    /// A warning for the user.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.shared.warnings.borrow_mut().push(format!("{}: {}", self.path, message.as_ref()));
    }

    /// The node's name or index, after those of the nodes around it.
    pub fn place_name(&self) -> &'a str {
        self.path
    }

    /// The number of inputs that the node lists, absent ones included.
    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// The number of outputs that the node lists.
    pub fn output_count(&self) -> usize {
        self.node.output.len()
    }

    /// Whether the node asks for its output of this number.
    pub fn wants_output(&self, n: usize) -> bool {
        self.node.output.get(n).is_some_and(|name| !name.is_empty())
    }

    /// A required input.
    pub fn input(&self, n: usize) -> Result<Value, OpError> {
        self.optional(n).ok_or_else(|| OpError::Invalid(format!("input {n} is missing")))
    }

    /// An optional input.
    pub fn optional(&self, n: usize) -> Option<Value> {
        self.inputs.get(n).copied().flatten()
    }

    /// All inputs that are there.
    pub fn all_inputs(&self) -> Vec<Value> {
        self.inputs.iter().copied().flatten().collect()
    }

    /// The elements of an integer input as far as they are known when the model is compiled: constants, or expressions
    /// over the model's dimensions.
    pub fn known_dims(&self, n: usize) -> Result<Vec<Dim>, OpError> {
        let value = self.input(n)?;
        self.b.known_dims(value).ok_or_else(|| {
            OpError::Unsupported(format!(
                "input {n} has to be known when the model is compiled; here it depends on data"
            ))
        })
    }

    /// The elements of an integer input that has to be a constant.
    pub fn known_i64s(&self, n: usize) -> Result<Vec<i64>, OpError> {
        self.known_dims(n)?.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>().ok_or_else(|| {
            OpError::Unsupported(format!("input {n} has to be a constant; here it depends on the model's dimensions"))
        })
    }

    /// The one element of an integer input that has to be a constant.
    pub fn known_i64(&self, n: usize) -> Result<i64, OpError> {
        match self.known_i64s(n)?[..] {
            [x] => Ok(x),
            ref other => Err(OpError::Invalid(format!("input {n} has {} elements instead of one", other.len()))),
        }
    }

    /// The constant behind an input, if an initializer or `Constant` node is it.
    pub fn constant(&self, n: usize) -> Option<Constant> {
        self.b.graph.as_constant(self.optional(n)?)
    }

    /// The elements of a constant input, unless it is a recipe.
    pub fn constant_tensor(&self, n: usize) -> Option<TensorBytes> {
        let data = &self.b.graph.constants[self.constant(n)?];
        match &data.source {
            ConstantSource::Bytes(bytes) => {
                Some(TensorBytes { dtype: data.ty.dtype, shape: data.ty.static_shape()?, bytes: bytes.clone() })
            }
            ConstantSource::Splat(_) | ConstantSource::Lazy { .. } => None,
        }
    }

    /// The elements of a constant `f32` input.
    pub fn constant_f32s(&self, n: usize) -> Option<Vec<f32>> {
        self.constant_tensor(n)?.to_f32()
    }

    /// The attribute, if the node has it.
    pub fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    /// An integer attribute.
    pub fn int_opt(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|a| a.i.unwrap_or(0))
    }

    /// An integer attribute with a default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.int_opt(name).unwrap_or(default)
    }

    /// An integer attribute read as a flag.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, i64::from(default)) != 0
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|a| &a.ints[..])
    }

    /// A number.
    pub fn float_opt(&self, name: &str) -> Option<f32> {
        self.attribute(name).map(|a| a.f.unwrap_or(0.0))
    }

    /// A number with a default.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.float_opt(name).unwrap_or(default)
    }

    /// A list of numbers.
    pub fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.attribute(name).map(|a| &a.floats[..])
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, OpError> {
        match self.attribute(name).and_then(|a| a.s.as_ref()) {
            None => Ok(None),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => self.invalid(format!("attribute `{name}` is not UTF-8")),
            },
        }
    }

    /// A list of texts.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, OpError> {
        let Some(attribute) = self.attribute(name) else { return Ok(None) };
        let texts = attribute.strings.iter().map(|s| std::str::from_utf8(s)).collect::<Result<Vec<_>, _>>();
        match texts {
            Ok(texts) => Ok(Some(texts)),
            Err(_) => self.invalid(format!("attribute `{name}` is not UTF-8")),
        }
    }

    /// An element type.
    pub fn dtype(&self, name: &str) -> Result<Option<DType>, OpError> {
        match self.int_opt(name) {
            None | Some(0) => Ok(None),
            Some(n) => match i32::try_from(n).ok().and_then(dtype_from_onnx) {
                Some(dtype) => Ok(Some(dtype)),
                None => self.invalid(format!("attribute `{name}` is no element type: {n}")),
            },
        }
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> Result<Option<TensorData>, OpError> {
        let Some(proto) = self.attribute(name).and_then(|a| a.t.as_deref()) else { return Ok(None) };
        match TensorData::from_proto(proto, &self.shared.file.external) {
            Ok(data) => Ok(Some(data)),
            Err(error) => self.invalid(format!("attribute `{name}`: {error}")),
        }
    }

    /// A sparse tensor, made dense.
    pub fn sparse_tensor(&self, name: &str) -> Result<Option<TensorData>, OpError> {
        let Some(proto) = self.attribute(name).and_then(|a| a.sparse_tensor.as_ref()) else { return Ok(None) };
        match densify(proto, &self.shared.file.external) {
            Ok(data) => Ok(Some(data)),
            Err(error) => self.invalid(format!("attribute `{name}`: {error}")),
        }
    }

    /// A graph, with what it uses of the graphs around it.
    pub fn subgraph(&mut self, name: &str) -> Result<Subgraph<'a>, OpError> {
        let Some(proto) = self.attribute(name).and_then(|a| a.g.as_deref()) else {
            return self.invalid(format!("attribute `{name}` is missing"));
        };
        let (mut captures, mut named) = (Vec::new(), Vec::new());
        let mut bindings = Vec::new();
        for name in free_names(proto) {
            match self.scope.for_capture(&self.b, &name) {
                Some(Binding::Value(value)) => {
                    self.shared.lists.take_apart(value, &mut captures);
                    named.push((name, value));
                }
                Some(other) => bindings.push((name, other)),
                None => return self.invalid(format!("a subgraph uses `{name}`, which is not defined here")),
            }
        }
        Ok(Subgraph { proto, captures, named, bindings })
    }

    /// What is needed to import a subgraph while the context's own builder is lent out.
    pub fn importer(&self) -> SubgraphImporter<'a> {
        SubgraphImporter { shared: self.shared, place: self.place, path: self.path }
    }
}

/// Imports subgraphs into regions.
#[derive(Clone, Copy)]
pub struct SubgraphImporter<'a> {
    shared: &'a Shared<'a>,
    place: &'a Place<'a>,
    path: &'a str,
}

impl SubgraphImporter<'_> {
    /// The tensors that values are made of, and how.
    pub fn take_apart(&self, values: &[Value]) -> (Vec<Value>, Vec<Structure>) {
        let mut tensors = Vec::new();
        let structures = values.iter().map(|&v| self.shared.lists.take_apart(v, &mut tensors)).collect();
        (tensors, structures)
    }

    /// Values like `models`, made of these tensors.
    pub fn put_together(&self, b: &mut Builder<'_>, models: &[Value], tensors: &[Value]) -> Vec<Value> {
        let mut tensors = tensors.iter().copied();
        models.iter().map(|&m| self.shared.lists.put_together(b.graph, m, &mut tensors)).collect()
    }

    /// Imports a graph's nodes into the builder's region. `inputs` are the values of its inputs, `captures` those of the
    /// subgraph's captures, both inside of the region. Gives the graph's outputs.
    pub fn import(&self, b: &mut Builder<'_>, sub: &Subgraph<'_>, inputs: &[Value], captures: &[Value]) -> OpResult {
        let mut scope = Scope::root();
        for (name, binding) in &sub.bindings {
            scope.bind(name, *binding);
        }
        let mut tensors = captures.iter().copied();
        for (name, model) in &sub.named {
            let value = self.shared.lists.put_together(b.graph, *model, &mut tensors);
            scope.bind(name, Binding::Value(value));
        }
        if let Err(error) = bind_initializers(b.graph, self.shared, &mut scope, sub.proto) {
            return Err(OpError::Invalid(error.to_string()));
        }
        for (input, &value) in sub.proto.input.iter().zip(inputs) {
            scope.bind(&input.name, Binding::Value(value));
        }
        let place = Place { path: self.path.to_owned(), ..self.place.clone() };
        let problems = self.shared.problems.borrow().len();
        let region = b.region;
        let names: Vec<&str> = sub.proto.output.iter().map(|output| output.name.as_str()).collect();
        let nodes = in_order(&sub.proto.node.iter().collect::<Vec<_>>());
        import_nodes(b.graph, self.shared, &mut scope, region, &nodes, &names, &place)?;
        let mut outputs = Vec::with_capacity(sub.proto.output.len());
        for output in &sub.proto.output {
            match scope.value(b, &output.name) {
                Some(value) => outputs.push(value),
                // What was poisoned may come from a capture, whose own problem was noted before.
                None if self.shared.problems.borrow().len() > problems
                    || matches!(scope.lookup(&output.name), Some(Binding::Poisoned)) =>
                {
                    return Err(OpError::Unsupported("its subgraph cannot be imported (see above)".into()));
                }
                None => return Err(OpError::Invalid(format!("no node of the subgraph computes `{}`", output.name))),
            }
        }
        Ok(outputs)
    }
}

/// The names that a graph uses and does not define, in the order of their first use.
pub(super) fn free_names(graph: &GraphProto) -> Vec<String> {
    let mut defined: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    defined.extend(graph.initializer.iter().map(|t| t.name.as_str()));
    defined.extend(graph.sparse_initializer.iter().filter_map(|t| t.values.as_ref()).map(|v| v.name.as_str()));
    let mut free: Vec<String> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    for node in &graph.node {
        let inner = node.attribute.iter().filter_map(|a| a.g.as_deref()).flat_map(free_names);
        let used = node.input.iter().cloned().chain(inner);
        for name in used {
            if !name.is_empty() && !defined.contains(name.as_str()) && seen.insert(name.clone()) {
                free.push(name);
            }
        }
        defined.extend(node.output.iter().map(String::as_str));
    }
    for output in &graph.output {
        if !defined.contains(output.name.as_str()) && seen.insert(output.name.clone()) {
            free.push(output.name.clone());
        }
    }
    free
}
