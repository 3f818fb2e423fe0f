//! Models of one node for the tests of operators: written in place, imported, verified and interpreted.

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::interp::interpret;
use onnxc_ir::tensor::verify::verify;
use onnxc_ir::tensor::{Graph, TensorBytes};

use crate::import::{ImportOptions, import};
use crate::proto::{
    AttributeProto, Dimension, DimensionValue, ExternalData, GraphProto, ModelFile, ModelProto, NodeProto,
    OperatorSetIdProto, TensorData, TensorProto, TensorShapeProto, TypeProto, TypeTensor, TypeValue, ValueInfoProto,
    dtype_to_onnx,
};

/// A node with its inputs; methods add to it, `run` and `error` end it.
#[derive(Default)]
pub(super) struct TestModel {
    node: NodeProto,
    opset: i64,
    initializers: Vec<TensorProto>,
    graph_inputs: Vec<ValueInfoProto>,
    values: Vec<TensorBytes>,
}

/// A value of a graph with a type and dimensions, negative ones unknown: each is a symbol of its own.
pub(super) fn value_info(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |(i, &d): (usize, &i64)| Dimension {
        value: Some(if d < 0 { DimensionValue::DimParam(format!("{name}_{i}")) } else { DimensionValue::DimValue(d) }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().enumerate().map(dim).collect() };
    let tensor = TypeTensor { elem_type: dtype_to_onnx(dtype), shape: Some(shape) };
    let ty = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(Box::new(ty)), ..Default::default() }
}

/// A node of a subgraph.
pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect();
    NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..Default::default() }
}

impl TestModel {
    /// A node with one output.
    pub fn new(op: &str, opset: i64) -> TestModel {
        TestModel { node: node(op, &[], &["y0"]), opset, ..Default::default() }
    }

    /// Puts the operator into a domain of that opset.
    pub fn domain(mut self, domain: &str) -> TestModel {
        self.node.domain = domain.into();
        self
    }

    /// Asks for this many outputs.
    pub fn outputs(mut self, count: usize) -> TestModel {
        self.node.output = (0..count).map(|n| format!("y{n}")).collect();
        self
    }

    /// An input that the run gives.
    pub fn input(self, shape: &[i64], values: &[f32]) -> TestModel {
        self.declared(shape, TensorBytes::from_f32(shape, values))
    }

    /// An input with dimensions that the model does not know.
    pub fn dynamic(self, shape: &[i64], values: &[f32]) -> TestModel {
        self.declared(&vec![-1; shape.len()], TensorBytes::from_f32(shape, values))
    }

    /// An input that the run gives, of any type, declared with these dimensions; negative ones are unknown.
    pub fn declared(mut self, dims: &[i64], value: TensorBytes) -> TestModel {
        let name = format!("x{}", self.node.input.len());
        self.graph_inputs.push(value_info(&name, value.dtype, dims));
        self.values.push(value);
        self.node.input.push(name);
        self
    }

    /// An input that the model holds.
    pub fn constant(mut self, value: TensorBytes) -> TestModel {
        let name = format!("x{}", self.node.input.len());
        let tensor = TensorData::dense(value.dtype, value.shape.to_vec(), value.bytes).expect("a good tensor");
        self.initializers.push(tensor.to_proto(&name));
        self.node.input.push(name);
        self
    }

    /// A constant of numbers.
    pub fn floats(self, shape: &[i64], values: &[f32]) -> TestModel {
        self.constant(TensorBytes::from_f32(shape, values))
    }

    /// A constant vector of integers.
    pub fn integers(self, values: &[i64]) -> TestModel {
        self.constant(TensorBytes::from_i64(&[values.len() as i64], values))
    }

    /// An input that is left out.
    pub fn absent(mut self) -> TestModel {
        self.node.input.push(String::new());
        self
    }

    fn attribute(mut self, attribute: AttributeProto) -> TestModel {
        self.node.attribute.push(attribute);
        self
    }

    /// An attribute with one integer.
    pub fn int(self, name: &str, value: i64) -> TestModel {
        self.attribute(AttributeProto { name: name.into(), i: Some(value), ..Default::default() })
    }

    /// An attribute with integers.
    pub fn ints(self, name: &str, values: &[i64]) -> TestModel {
        self.attribute(AttributeProto { name: name.into(), ints: values.to_vec(), ..Default::default() })
    }

    /// An attribute with a number.
    pub fn float(self, name: &str, value: f32) -> TestModel {
        self.attribute(AttributeProto { name: name.into(), f: Some(value), ..Default::default() })
    }

    /// An attribute with numbers.
    pub fn floats_attribute(self, name: &str, values: &[f32]) -> TestModel {
        self.attribute(AttributeProto { name: name.into(), floats: values.to_vec(), ..Default::default() })
    }

    /// An attribute with texts.
    pub fn texts(self, name: &str, values: &[&str]) -> TestModel {
        let strings = values.iter().map(|v| v.as_bytes().to_vec().into()).collect();
        self.attribute(AttributeProto { name: name.into(), strings, ..Default::default() })
    }

    /// An attribute with a text.
    pub fn text(self, name: &str, value: &str) -> TestModel {
        let s = Some(value.as_bytes().to_vec().into());
        self.attribute(AttributeProto { name: name.into(), s, ..Default::default() })
    }

    /// An attribute with a graph.
    pub fn graph(self, name: &str, inputs: Vec<ValueInfoProto>, nodes: Vec<NodeProto>, outputs: &[&str]) -> TestModel {
        self.attribute(graph_attribute(name, inputs, nodes, outputs))
    }

    /// The graph, and the values for its inputs.
    fn import(self) -> Result<(Graph, Vec<TensorBytes>), String> {
        let opset_import = vec![OperatorSetIdProto { domain: self.node.domain.clone(), version: self.opset }];
        let output = self.node.output.iter().map(|n| value_info(n, DType::F32, &[]));
        let output = output.map(|o| ValueInfoProto { r#type: None, ..o }).collect();
        let graph = GraphProto {
            node: vec![self.node],
            initializer: self.initializers,
            input: self.graph_inputs,
            output,
            ..Default::default()
        };
        let model = ModelProto { opset_import, graph: Some(Box::new(graph)), ..Default::default() };
        let file = ModelFile { model, external: ExternalData::none() };
        let imported = import(&file, &ImportOptions::default()).map_err(|e| e.to_string())?;
        Ok((imported.graph, self.values))
    }

    /// The shapes and elements of the outputs.
    pub fn run_all(self) -> Vec<TensorBytes> {
        let (graph, values) = self.import().unwrap_or_else(|e| panic!("{e}"));
        verify(&graph).unwrap_or_else(|e| panic!("{e:?}"));
        interpret(&graph, &values).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The shape and elements of the first output.
    pub fn run(self) -> (Vec<i64>, Vec<f32>) {
        floats(&self.run_all()[0])
    }

    /// Why the node cannot be imported.
    pub fn error(self) -> String {
        self.import().map(|_| ()).expect_err("the node is wrong")
    }
}

/// The shape and elements of a tensor.
type Floats = (Vec<i64>, Vec<f32>);

/// A model of several nodes. Values have names; `run` says which are its outputs.
#[derive(Default)]
pub(super) struct GraphModel {
    graph: GraphProto,
    opset: i64,
    values: Vec<TensorBytes>,
}

impl GraphModel {
    /// A model without nodes.
    pub fn new(opset: i64) -> GraphModel {
        GraphModel { opset, ..Default::default() }
    }

    fn value(mut self, name: &str, value: TensorBytes) -> GraphModel {
        self.graph.input.push(value_info(name, value.dtype, &value.shape));
        self.values.push(value);
        self
    }

    /// An input.
    pub fn input(self, name: &str, shape: &[i64], values: &[f32]) -> GraphModel {
        self.value(name, TensorBytes::from_f32(shape, values))
    }

    /// An input of integers.
    pub fn integer_input(self, name: &str, values: &[i64]) -> GraphModel {
        self.value(name, TensorBytes::from_i64(&[values.len() as i64], values))
    }

    /// An input that is true or false.
    pub fn truth(self, name: &str, value: bool) -> GraphModel {
        let bytes = vec![u8::from(value)].into();
        self.value(name, TensorBytes { dtype: DType::Bool, shape: [].as_slice().into(), bytes })
    }

    /// Integers that the model holds.
    pub fn constant(mut self, name: &str, shape: &[i64], values: &[i64]) -> GraphModel {
        let value = TensorBytes::from_i64(shape, values);
        let tensor = TensorData::dense(value.dtype, value.shape.to_vec(), value.bytes).expect("a good tensor");
        self.graph.initializer.push(tensor.to_proto(name));
        self
    }

    /// A node with attributes.
    pub fn node(mut self, node: NodeProto, attributes: Vec<AttributeProto>) -> GraphModel {
        self.graph.node.push(NodeProto { attribute: attributes, ..node });
        self
    }

    /// A node with one graph.
    pub fn subgraph(
        self,
        of: NodeProto,
        name: &str,
        inputs: Vec<ValueInfoProto>,
        nodes: Vec<NodeProto>,
        outputs: &[&str],
    ) -> GraphModel {
        let attribute = graph_attribute(name, inputs, nodes, outputs);
        self.node(of, vec![attribute])
    }

    /// A branch: the nodes of each side with the name of its result.
    pub fn branch(
        self,
        condition: &str,
        output: &str,
        then: (Vec<NodeProto>, &str),
        otherwise: (Vec<NodeProto>, &str),
    ) -> GraphModel {
        let then = graph_attribute("then_branch", vec![], then.0, &[then.1]);
        let otherwise = graph_attribute("else_branch", vec![], otherwise.0, &[otherwise.1]);
        self.node(node("If", &[condition], &[output]), vec![then, otherwise])
    }

    fn import(mut self, outputs: &[&str]) -> Result<(Graph, Vec<TensorBytes>), String> {
        let untyped = |n: &&str| ValueInfoProto { name: (*n).to_owned(), ..Default::default() };
        self.graph.output = outputs.iter().map(untyped).collect();
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: self.opset }];
        let model = ModelProto { opset_import, graph: Some(Box::new(self.graph)), ..Default::default() };
        let file = ModelFile { model, external: ExternalData::none() };
        let imported = import(&file, &ImportOptions::default()).map_err(|e| e.to_string())?;
        Ok((imported.graph, self.values))
    }

    /// The names, and the shapes and elements, of the graph's outputs.
    pub fn run_named(self, outputs: &[&str]) -> (Vec<String>, Vec<Floats>) {
        let (graph, values) = self.import(outputs).unwrap_or_else(|e| panic!("{e}"));
        verify(&graph).unwrap_or_else(|e| panic!("{e:?}"));
        let results = interpret(&graph, &values).unwrap_or_else(|e| panic!("{e}"));
        (graph.output_names.clone(), results.iter().map(floats).collect())
    }

    /// The shapes and elements of the outputs.
    pub fn run(self, outputs: &[&str]) -> Vec<Floats> {
        self.run_named(outputs).1
    }

    /// Why the model cannot be imported.
    pub fn error(self, outputs: &[&str]) -> String {
        self.import(outputs).map(|_| ()).expect_err("the model is wrong")
    }
}

fn graph_attribute(name: &str, inputs: Vec<ValueInfoProto>, nodes: Vec<NodeProto>, outputs: &[&str]) -> AttributeProto {
    let output = outputs.iter().map(|n| value_info(n, DType::F32, &[])).collect();
    let graph = GraphProto { input: inputs, node: nodes, output, ..Default::default() };
    AttributeProto { name: name.into(), g: Some(Box::new(graph)), ..Default::default() }
}

/// Shape and elements of an `f32` tensor.
pub(super) fn floats(tensor: &TensorBytes) -> (Vec<i64>, Vec<f32>) {
    (tensor.shape.to_vec(), tensor.to_f32().expect("an f32 tensor"))
}

/// Numbers that repeat in no simple pattern, between -1 and 1.
pub(super) fn noise(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// Asserts that two results have one shape and are equal but for rounding.
#[track_caller]
pub(super) fn assert_close(found: &(Vec<i64>, Vec<f32>), expected: &(Vec<i64>, Vec<f32>)) {
    assert_eq!(found.0, expected.0);
    for (i, (a, b)) in found.1.iter().zip(&expected.1).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "element {i} is {a} and should be {b}");
    }
}
