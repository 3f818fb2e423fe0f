//! The walk that rewriting passes share, what they may leave behind, and questions about constants that several ask.

use std::collections::{HashMap, HashSet, VecDeque};

use cranelift_entity::SecondaryMap;
use onnxc_ir::dim::Symbol;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::Remark;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Constant, ConstantSource, Graph, Node, Region, TensorType, Value, Values};

/// What a pass may read beside the graph, and what it leaves for the user.
#[derive(Clone, Debug)]
pub struct PassContext {
    /// The machine that the graph is lowered for.
    pub machine: MachineModel,
    /// See [`crate::pipeline::Options`].
    pub strict: bool,
    /// See [`crate::pipeline::Options`].
    pub small: bool,
    /// What passes did or did not do, and why.
    pub remarks: Vec<Remark>,
    /// The sizes that have values where the pass that looks for such ones has come to.
    pub sizes: HashSet<Symbol>,
    /// Operations that cannot be compiled, one text each; lowering stops after the pass that finds any.
    pub unsupported: Vec<String>,
    /// Pairs of an input and the output that is its next value, which are to be kept in one buffer.
    pub wanted_states: Vec<(usize, usize)>,
    /// Those that are.
    pub states: Vec<KeptState>,
    /// The ports whose types in the graph are no longer those that the caller sees.
    pub packed: PackedPorts,
}

/// An input and an output that are one buffer of the caller's.
#[derive(Clone, Debug)]
pub struct KeptState {
    /// The number of the input.
    pub input: usize,
    /// The number of the output.
    pub output: usize,
    /// The dimension along which runs append to it; `None` where its size does not change.
    pub axis: Option<u32>,
    /// What the buffer has room for.
    pub room: TensorType,
}

/// Types of ports, by their numbers, that are their memory in the graph: `u8` of rank 1 where elements are less than a byte, pairs
/// of `i64` where they are strings.
#[derive(Clone, Debug, Default)]
pub struct PackedPorts {
    /// Inputs.
    pub inputs: HashMap<usize, TensorType>,
    /// Outputs.
    pub outputs: HashMap<usize, TensorType>,
}

impl PassContext {
    /// Nothing remarked yet.
    pub fn new(machine: MachineModel) -> PassContext {
        let (sizes, packed) = (HashSet::new(), PackedPorts::default());
        PassContext {
            machine,
            strict: false,
            small: false,
            remarks: Vec::new(),
            sizes,
            unsupported: Vec::new(),
            wanted_states: Vec::new(),
            states: Vec::new(),
            packed,
        }
    }

    /// Leaves a remark about a node.
    pub fn remark(&mut self, pass: &'static str, graph: &Graph, node: Node, text: impl Into<String>) {
        let origin = graph.origins[graph.nodes[node].origins[0]].path.clone();
        self.remarks.push(Remark { pass, origin, text: text.into() });
    }
}

/// What a rule gives: the values that take the place of the node's outputs, or `None` where the node stays.
pub type Rewritten = Result<Option<Values>, BuildError>;

/// Shows every node of a region to `rule`, operands first, with its inputs as they are after everything before it was
/// rewritten. A rule appends nodes to the region and gives what replaces the outputs; nodes that it appends are shown
/// to it next. It may also change the node itself and keep it. A rule that fails to build leaves the node as it was.
///
/// Linear in the number of nodes shown, so a rule must not bring back what it has replaced.
pub fn rewrite(graph: &mut Graph, region: Region, mut rule: impl FnMut(&mut Graph, Region, Node) -> Rewritten) {
    let mut waiting: VecDeque<Node> = std::mem::take(&mut graph.regions[region].nodes).into();
    while let Some(node) = waiting.pop_front() {
        let mut inputs = std::mem::take(&mut graph.nodes[node].inputs);
        inputs.iter_mut().for_each(|v| *v = graph.resolve(*v));
        graph.nodes[node].inputs = inputs;
        let before = graph.regions[region].nodes.len();
        let result = rule(graph, region, node);
        let appended = graph.regions[region].nodes.split_off(before);
        match result {
            Ok(Some(values)) => {
                appended.into_iter().rev().for_each(|n| waiting.push_front(n));
                let outputs = graph.nodes[node].outputs.clone();
                assert_eq!(outputs.len(), values.len(), "one value per output of {node}");
                outputs.into_iter().zip(values).for_each(|(old, new)| graph.replace(old, new));
            }
            Ok(None) | Err(_) => graph.regions[region].nodes.push(node),
        }
    }
    graph.commit();
}

/// One value as what a rule gives.
pub fn one(value: Value) -> Rewritten {
    Ok(Some(Values::from_slice(&[value])))
}

/// The user of each value of a region that has only one.
pub fn only_users(graph: &Graph, region: Region) -> SecondaryMap<Value, Option<Node>> {
    let counts = graph.use_counts();
    let mut users = SecondaryMap::new();
    for &node in &graph.regions[region].nodes {
        let inputs = graph.nodes[node].inputs.iter();
        inputs.filter(|&&v| counts[v] == 1).for_each(|&v| users[v] = Some(node));
    }
    users
}

/// The element that a constant consists of, if all are equal and that is easy to see.
pub fn uniform_element(graph: &Graph, constant: Constant) -> Option<Scalar> {
    /// Longer constants are not looked through.
    const MAX_BYTES: usize = 1 << 14;
    let data = &graph.constants[constant];
    let dtype = data.ty.dtype;
    match &data.source {
        ConstantSource::Splat(scalar) => Some(*scalar),
        ConstantSource::Bytes(bytes) => {
            let plain = dtype.is_float() || dtype.is_int() || dtype == onnxc_ir::dtype::DType::Bool;
            let size = (dtype.bits() / 8) as usize;
            if !plain || !dtype.bits().is_multiple_of(8) || bytes.is_empty() || bytes.len() > MAX_BYTES {
                return None;
            }
            let (first, rest) = bytes.split_at(size);
            if rest.chunks_exact(size).any(|e| e != first) {
                return None;
            }
            let mut bits = [0; 8];
            bits[..size].copy_from_slice(first);
            Some(Scalar { dtype, bits: u64::from_le_bytes(bits) })
        }
        ConstantSource::Lazy { .. } => None,
    }
}

/// [`uniform_element`] of the constant behind a value.
pub fn uniform_value(graph: &Graph, value: Value) -> Option<Scalar> {
    uniform_element(graph, graph.as_constant(value)?)
}
