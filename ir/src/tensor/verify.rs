//! Checks the invariants of a graph after each pass. Every error names the node and the ONNX nodes it came from.
//!
//! After a successful [`verify`]: regions are closed, each is reached once, nodes come after what they use, types are what
//! [`infer`](super::infer) derives, every node has an origin, every constant as many bytes as its type, and constants that
//! are made from others do not go in circles.

use std::collections::HashSet;
use std::fmt;

use cranelift_entity::SecondaryMap;
use smallvec::SmallVec;

use super::constant::ConstantSource;
use super::infer::{self, InferError, OutputType};
use crate::dim::{Dim, Symbol};

use super::{Constant, Graph, Node, Op, Origin, Region, TensorType, Type, Value, ValueDef};

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The operation does not fit its inputs or stated types.
    #[error(transparent)]
    Type(#[from] InferError),
    /// A value is used in a region that does not define it, or before its definition.
    #[error("{0} is not defined before it is used")]
    Undefined(Value),
    /// A value's record and its definition do not point at each other.
    #[error("{0} says that something else defines it")]
    Definition(Value),
    /// A node is in two places.
    #[error("the node occurs twice")]
    Repeated,
    /// A region is used by two operations, or does not exist.
    #[error("{0} has two owners")]
    Shared(Region),
    /// A node has no origin, or one that does not exist.
    #[error("the node has no valid origins")]
    Origins,
    /// A constant is malformed.
    #[error("{constant} is malformed: {message}")]
    Constant {
        /// Which.
        constant: Constant,
        /// How.
        message: String,
    },
    /// A size that data decides is used before the data is there, or decided twice.
    #[error("the size {0} {1}")]
    Size(String, &'static str),
    /// The graph's names do not match its inputs and outputs.
    #[error("{0}")]
    Names(String),
}

/// A violation and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The region, unless the error is about the whole graph.
    pub region: Option<Region>,
    /// The node, unless the error is about a region.
    pub node: Option<(Node, &'static str)>,
    /// The ONNX nodes that it came from: operator and path.
    pub origins: Vec<String>,
    /// What is wrong.
    pub violation: Violation,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(region) = self.region {
            write!(f, "{region}: ")?;
        }
        if let Some((node, op)) = self.node {
            write!(f, "{node} ({op}")?;
            if !self.origins.is_empty() {
                write!(f, ", from {}", self.origins.join(", "))?;
            }
            write!(f, "): ")?;
        }
        write!(f, "{}", self.violation)
    }
}

impl std::error::Error for VerifyError {}

/// All that is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// Checks every invariant of the Tensor IR.
///
/// # Errors
/// Everything that is wrong, in the order of the graph.
pub fn verify(graph: &Graph) -> Result<(), VerifyErrors> {
    let mut verifier = Verifier {
        graph,
        errors: Vec::new(),
        defined_in: SecondaryMap::with_capacity(graph.values.len()),
        seen_nodes: SecondaryMap::with_capacity(graph.nodes.len()),
        seen_regions: SecondaryMap::with_capacity(graph.regions.len()),
    };
    verifier.constants();
    verifier.names();
    verifier.regions();
    verifier.data_sizes();
    if verifier.errors.is_empty() { Ok(()) } else { Err(VerifyErrors(verifier.errors)) }
}

struct Verifier<'g> {
    graph: &'g Graph,
    errors: Vec<VerifyError>,
    /// The region in which the values seen so far are visible.
    defined_in: SecondaryMap<Value, Option<Region>>,
    seen_nodes: SecondaryMap<Node, bool>,
    seen_regions: SecondaryMap<Region, bool>,
}

impl Verifier<'_> {
    fn error(&mut self, region: Option<Region>, node: Option<Node>, violation: Violation) {
        let data = node.map(|n| &self.graph.nodes[n]);
        let origin = |&o: &Origin| self.graph.origins.get(o).map(|d| format!("{} `{}`", d.operator, d.path));
        let origins = data.map(|d| d.origins.iter().filter_map(origin).collect()).unwrap_or_default();
        let node = node.zip(data.map(|d| d.op.name()));
        self.errors.push(VerifyError { region, node, origins, violation });
    }

    fn names(&mut self) {
        let graph = self.graph;
        let Some(body) = graph.body.and_then(|b| graph.regions.get(b)) else {
            return self.error(None, None, Violation::Names("the graph has no body".into()));
        };
        let pairs =
            [("inputs", &graph.input_names, body.params.len()), ("outputs", &graph.output_names, body.results.len())];
        for (what, names, count) in pairs {
            if names.len() != count {
                let message = format!("{} names for {count} {what}", names.len());
                self.error(graph.body, None, Violation::Names(message));
            }
        }
    }

    /// Regions from the body inwards, with a list instead of recursion: nesting may be deep.
    fn regions(&mut self) {
        let Some(body) = self.graph.body.filter(|&b| self.graph.regions.is_valid(b)) else { return };
        let mut waiting = vec![body];
        self.seen_regions[body] = true;
        while let Some(region) = waiting.pop() {
            self.region(region, &mut waiting);
        }
    }

    fn region(&mut self, region: Region, waiting: &mut Vec<Region>) {
        let graph = self.graph;
        let data = &graph.regions[region];
        for (i, &param) in data.params.iter().enumerate() {
            self.define(region, None, param, ValueDef::Param(region, i as u32));
        }
        for &node in &data.nodes {
            if std::mem::replace(&mut self.seen_nodes[node], true) {
                self.error(Some(region), Some(node), Violation::Repeated);
                continue;
            }
            self.node(region, node, waiting);
        }
        for &result in &data.results {
            self.used(region, None, result);
        }
    }

    fn define(&mut self, region: Region, node: Option<Node>, value: Value, def: ValueDef) {
        match self.graph.values.get(value) {
            Some(data) if data.def == def => self.defined_in[value] = Some(region),
            Some(_) | None => self.error(Some(region), node, Violation::Definition(value)),
        }
    }

    fn used(&mut self, region: Region, node: Option<Node>, value: Value) -> bool {
        let defined = self.defined_in.get(value).copied().flatten() == Some(region);
        if !defined {
            self.error(Some(region), node, Violation::Undefined(value));
        }
        defined
    }

    fn node(&mut self, region: Region, node: Node, waiting: &mut Vec<Region>) {
        let graph = self.graph;
        let data = &graph.nodes[node];
        if data.origins.is_empty() || data.origins.iter().any(|&o| !graph.origins.is_valid(o)) {
            self.error(Some(region), Some(node), Violation::Origins);
        }
        let mut sound = true;
        for &input in &data.inputs {
            sound &= self.used(region, Some(node), input);
        }
        for inner in data.op.regions() {
            if !graph.regions.is_valid(inner) || std::mem::replace(&mut self.seen_regions[inner], true) {
                self.error(Some(region), Some(node), Violation::Shared(inner));
                sound = false;
            } else {
                // Types are read across the boundary before the region itself is visited.
                let inside = &graph.regions[inner];
                sound &= inside.params.iter().chain(&inside.results).all(|&v| graph.values.is_valid(v));
                waiting.push(inner);
            }
        }
        for (i, &output) in data.outputs.iter().enumerate() {
            self.define(region, Some(node), output, ValueDef::Output(node, i as u32));
            sound &= graph.values.is_valid(output);
        }
        if !sound {
            return;
        }
        let inputs: SmallVec<[&Type; 4]> = data.inputs.iter().map(|&v| graph.ty(v)).collect();
        let outputs: SmallVec<[&Type; 2]> = data.outputs.iter().map(|&v| graph.ty(v)).collect();
        if let Err(error) = infer::check(graph, &data.op, &inputs, &outputs) {
            self.error(Some(region), Some(node), error.into());
        }
    }

    /// Sizes that data decides: each is bound once, and mentioned only after that.
    fn data_sizes(&mut self) {
        let graph = self.graph;
        let Some(body) = graph.body.filter(|&b| graph.regions.is_valid(b)) else { return };
        if !self.errors.is_empty() {
            return;
        }
        let mut data = HashSet::new();
        for region in graph.reachable_regions() {
            for &node in &graph.regions[region].nodes {
                for symbol in graph.nodes[node].op.own_sizes() {
                    if !data.insert(symbol) {
                        let name = graph.symbols.name(symbol).to_owned();
                        self.error(Some(region), Some(node), Violation::Size(name, "is bound twice"));
                    }
                }
            }
        }
        if !data.is_empty() {
            self.sizes_in_order(body, &data, &mut HashSet::new());
        }
    }

    /// Checks a region and gives what it bound.
    fn sizes_in_order(&mut self, region: Region, data: &HashSet<Symbol>, bound: &mut HashSet<Symbol>) -> Vec<Symbol> {
        let graph = self.graph;
        let mut here = Vec::new();
        for &node in &graph.regions[region].nodes {
            let record = &graph.nodes[node];
            if let Op::Loop { varying, .. } = &record.op {
                bound.extend(varying.iter().copied());
            }
            for inner in record.op.regions() {
                let inside = self.sizes_in_order(inner, data, bound);
                // A branch or an iteration may not happen; other regions are only brackets.
                if matches!(record.op, Op::If { .. } | Op::Loop { .. }) {
                    inside.iter().for_each(|s| {
                        bound.remove(s);
                    });
                } else {
                    here.extend(inside);
                }
            }
            if let Op::Loop { varying, .. } = &record.op {
                varying.iter().for_each(|s| {
                    bound.remove(s);
                });
            }
            // What a branch or loop binds is what its results are made of.
            if matches!(record.op, Op::If { .. } | Op::Loop { .. }) {
                here.extend(record.op.bound_sizes().iter().copied().filter(|&s| bound.insert(s)));
            }
            let shapes = record.outputs.iter().filter_map(|&v| graph.ty(v).as_tensor()).flat_map(|t| &t.shape);
            let mut mentioned = record.op.dims().into_iter().chain(shapes).flat_map(Dim::symbols);
            if let Some(early) = mentioned.find(|s| data.contains(s) && !bound.contains(s)) {
                let name = graph.symbols.name(early).to_owned();
                self.error(Some(region), Some(node), Violation::Size(name, "is used before it is bound"));
            }
            if let Op::BindSizes { symbols, .. } = &record.op {
                here.extend(symbols.iter().copied().filter(|&s| bound.insert(s)));
            }
        }
        here
    }

    fn constants(&mut self) {
        let graph = self.graph;
        for (constant, data) in &graph.constants {
            if let Err(message) = check_constant(graph, constant, &data.ty, &data.source) {
                self.errors.push(VerifyError {
                    region: None,
                    node: None,
                    origins: Vec::new(),
                    violation: Violation::Constant { constant, message },
                });
            }
        }
    }
}

fn check_constant(graph: &Graph, constant: Constant, ty: &TensorType, source: &ConstantSource) -> Result<(), String> {
    let shape = ty.static_shape().ok_or("its shape is not constant")?;
    if shape.iter().any(|&d| d < 0) {
        return Err(format!("shape {shape:?}"));
    }
    match source {
        ConstantSource::Bytes(bytes) => {
            let elements = ty.static_len().and_then(|n| u64::try_from(n).ok()).ok_or("its size overflows")?;
            match ty.dtype.packed_bytes(elements) {
                Some(needed) if needed == bytes.len() as u64 => Ok(()),
                needed => Err(format!("{} bytes for {}{shape:?}, which takes {needed:?}", bytes.len(), ty.dtype)),
            }
        }
        ConstantSource::Splat(scalar) if scalar.dtype == ty.dtype => Ok(()),
        ConstantSource::Splat(scalar) => Err(format!("an element of {} in {}", scalar.dtype, ty.dtype)),
        ConstantSource::Lazy { op, inputs } => {
            let made_in_runs = matches!(op, Op::Constant(_) | Op::DimValue(_) | Op::BindSizes { .. } | Op::Strings(_));
            if !op.regions().is_empty() || made_in_runs {
                return Err(format!("made by {}", op.name()));
            }
            // A recipe uses constants that were there before it, so recipes cannot go in circles.
            if let Some(input) = inputs.iter().find(|&&c| c >= constant) {
                return Err(format!("made from {input}, which is not older"));
            }
            let types: Vec<Type> = inputs.iter().map(|&c| graph.constants[c].ty.clone().into()).collect();
            let types: SmallVec<[&Type; 4]> = types.iter().collect();
            let own = Type::from(ty.clone());
            let inferred = infer::infer(graph, op, &types).map_err(|e| e.to_string())?;
            if matches!(inferred.as_slice(), [OutputType::Exact(t)] if *t != own) {
                return Err(format!("stated as {}", graph.type_text(&own)));
            }
            infer::check(graph, op, &types, &[&own]).map_err(|e| e.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::dtype::DType;
    use crate::scalar::{Scalar, ScalarExpr, UnaryOp};
    use crate::tensor::{Builder, ConstantData, OriginData, TensorBytes};

    /// `y = -x; z = y + x`.
    fn sample() -> (Graph, Value, Value, Value) {
        let mut graph = Graph::new("t");
        let body = graph.body();
        let origin = graph.origins.push(OriginData { path: "layer/add".into(), operator: "Add".into() });
        let x = graph.add_param(body, TensorType::fixed(DType::F32, &[2, 3]));
        let mut b = Builder::new(&mut graph, body, [origin].as_slice());
        let y = b.neg(x).expect("float");
        let z = b.add(y, x).expect("same shapes");
        graph.regions[body].results.push(z);
        graph.input_names.push("x".into());
        graph.output_names.push("z".into());
        assert_eq!(verify(&graph), Ok(()));
        (graph, x, y, z)
    }

    fn violations(graph: &Graph) -> Vec<String> {
        verify(graph).expect_err("the graph is broken").0.iter().map(VerifyError::to_string).collect()
    }

    #[test]
    fn order_and_types() {
        let (mut graph, _, y, _) = sample();
        let body = graph.body();
        graph.regions[body].nodes.reverse();
        assert_eq!(
            violations(&graph),
            ["region0: n1 (elementwise, from Add `layer/add`): v1 is not defined before it is used"]
        );
        graph.regions[body].nodes.reverse();
        graph.values[y].ty = TensorType::fixed(DType::F32, &[2, 4]).into();
        let texts = violations(&graph);
        assert_eq!(texts.len(), 2, "the node that states it and the one that uses it: {texts:?}");
        assert!(texts[0].contains("input 0 of shape [2, 3] does not broadcast to [2, 4]"), "{texts:?}");
    }

    #[test]
    fn regions_are_closed_and_owned_once() {
        let (mut graph, x, _, _) = sample();
        let body = graph.body();
        let inner = graph.add_region();
        let origin = graph.origins.keys().next().expect("one origin");
        let ty = graph.ty(x).clone();
        let neg = Op::Elementwise(ScalarExpr::unary(UnaryOp::Neg));
        let node = graph.add_node(inner, neg, [x], [ty.clone()], &[origin]);
        let result = graph.output(node);
        graph.regions[inner].results.push(result);
        let group = graph.add_node(body, Op::Group { body: inner }, [], [ty.clone()], &[origin]);
        let texts = violations(&graph);
        assert!(texts.len() == 1 && texts[0].starts_with("region1: n2") && texts[0].contains("v0 is not"), "{texts:?}");
        graph.nodes[node].inputs[0] = graph.add_param(inner, ty.clone());
        graph.nodes[group].inputs.push(x);
        assert_eq!(verify(&graph), Ok(()));
        graph.add_node(body, Op::Group { body: inner }, [x], [ty], &[origin]);
        assert!(violations(&graph)[0].contains("region1 has two owners"));
    }

    #[test]
    fn constants_have_their_bytes() {
        let (mut graph, ..) = sample();
        let bytes = TensorBytes::from_i64(&[3], &[1, 2, 3]).bytes;
        let ty = TensorType::fixed(DType::I64, &[4]);
        graph.constants.push(ConstantData { ty, source: ConstantSource::Bytes(bytes), name: "w".into() });
        assert!(violations(&graph)[0].contains("c0 is malformed: 24 bytes for i64[4]"));
        graph.constants.clear();
        let matrix = TensorType::fixed(DType::F32, &[2, 3]);
        let splat = ConstantSource::Splat(Scalar::f32(1.0));
        let a = graph.constants.push(ConstantData { ty: matrix.clone(), source: splat, name: "w".into() });
        let transpose = Op::Transpose { perm: [1, 0].as_slice().into() };
        let source = ConstantSource::Lazy { op: transpose, inputs: [a].as_slice().into() };
        let lazy = graph.constants.push(ConstantData { ty: matrix, source, name: "w".into() });
        assert!(violations(&graph)[0].contains("stated as f32[2, 3]"));
        graph.constants[lazy].ty = TensorType::fixed(DType::F32, &[3, 2]);
        assert_eq!(verify(&graph), Ok(()));
    }

    #[test]
    fn origins_and_names_are_there() {
        let (mut graph, _, y, _) = sample();
        let node = graph.def_node(y).expect("y is an output");
        graph.nodes[node].origins.clear();
        graph.input_names.push("extra".into());
        let texts = violations(&graph);
        assert!(texts[0].contains("2 names for 1 inputs") && texts[1].contains("no valid origins"), "{texts:?}");
        assert!(matches!(verify(&graph), Err(VerifyErrors(e)) if e.len() == 2));
        let fresh: Dim = graph.symbols.fresh("n").into();
        assert!(fresh.as_const().is_none());
    }
}
