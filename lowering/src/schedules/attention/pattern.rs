//! Which operations of a graph are an attention that the schedule takes.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::ScalarInst;
use onnxc_ir::tensor::op::Contract;
use onnxc_ir::tensor::{CompositeKind, Graph, Node, Op, Region, Value};

use super::super::contract::Roles;

/// Elements of a query or a value at most.
const MOST_DEPTH: i64 = 256;
/// Fewer rows leave most lanes empty.
pub const LEAST_ROWS: i64 = 8;
/// The operations of an attention.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Q Kᵀ.
    pub scores: Node,
    /// What is done to the scores before the softmax, in order: elementwise operations, and reshapes that add or drop
    /// dimensions of 1 in front, or split and merge those of heads and rows.
    pub chain: Vec<Node>,
    /// The softmax.
    pub softmax: Node,
    /// Such reshapes after the softmax, and conversions to narrower floats.
    pub after: Vec<Node>,
    /// The product with V.
    pub values: Node,
}

/// The attention around a softmax that the schedules take. `users` gives a value's only user. Machines with matrix
/// instructions have operands of 16 bits, and heads that share keys.
pub fn around(
    graph: &Graph,
    machine: &MachineModel,
    softmax: Node,
    users: impl Fn(Value) -> Option<Node>,
) -> Option<Parts> {
    let same = |a: Value, b: Value| same_but_ones(graph, a, b) || machine.tiles && same_columns(graph, a, b);
    let data = &graph.nodes[softmax];
    let Op::Composite { kind: CompositeKind::Softmax { axis }, .. } = data.op else { return None };
    let ty = graph.tensor_ty(data.outputs[0]);
    if ty.dtype != DType::F32 || ty.rank() < 2 || axis as usize != ty.rank() - 1 {
        return None;
    }
    let mut chain = Vec::new();
    let mut value = data.inputs[0];
    let scores = loop {
        let node = graph.def_node(value)?;
        users(value)?;
        let def = &graph.nodes[node];
        match &def.op {
            Op::Contract(c) if product_of_two(graph, machine, node, c) => break node,
            Op::Reshape if same(def.inputs[0], value) => {
                chain.insert(0, node);
                value = def.inputs[0];
            }
            Op::Elementwise(_) => {
                chain.insert(0, node);
                let same = |&&v: &&Value| graph.def_node(v).is_some() && same_but_ones(graph, v, value);
                let mut operands = def.inputs.iter().filter(same);
                // Of two operands of the full shape it is not clear which one the scores are.
                let (Some(&next), None) = (operands.next(), operands.next()) else { return None };
                value = next;
            }
            _ => return None,
        }
    };
    let mut probabilities = data.outputs[0];
    let mut values = users(probabilities)?;
    let mut after = Vec::new();
    loop {
        let reshapes = matches!(graph.nodes[values].op, Op::Reshape) && same(probabilities, graph.output(values));
        let applies = reshapes || machine.tiles && narrows(graph, values);
        if !applies {
            break;
        }
        after.push(values);
        probabilities = graph.output(values);
        values = users(probabilities)?;
    }
    let Op::Contract(second) = &graph.nodes[values].op else { return None };
    let reads = graph.nodes[values].inputs[0] == probabilities && graph.nodes[values].inputs[1] != probabilities;
    let parts = Parts { scores, chain, softmax, after, values };
    (reads && product_of_two(graph, machine, values, second) && fits(graph, &parts)).then_some(parts)
}

/// The attention of a group, if it is one.
pub fn of_group(graph: &Graph, machine: &MachineModel, region: Region) -> Option<Parts> {
    let nodes = &graph.regions[region].nodes;
    let softmax = nodes.iter().copied().find(|&n| matches!(graph.nodes[n].op, Op::Composite { .. }))?;
    let user = |v: Value| nodes.iter().copied().find(|&n| graph.nodes[n].inputs.contains(&v));
    around(graph, machine, softmax, user)
}

/// Whether two values have the same shape but for dimensions of 1 in front.
fn same_but_ones(graph: &Graph, a: Value, b: Value) -> bool {
    let (a, b) = (&graph.tensor_ty(a).shape[..], &graph.tensor_ty(b).shape[..]);
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let (front, rest) = long.split_at(long.len() - short.len());
    rest == short && front.iter().all(|d| *d == 1)
}

/// Whether two values have as many rows, in whatever dimensions, of the same length.
fn same_columns(graph: &Graph, a: Value, b: Value) -> bool {
    let (a, b) = (&graph.tensor_ty(a).shape[..], &graph.tensor_ty(b).shape[..]);
    let (Some((last, a)), Some((other, b))) = (a.split_last(), b.split_last()) else { return false };
    let count = |dims: &[Dim]| Dim::product(dims).ok();
    last == other && count(a).is_some_and(|n| Some(n) == count(b))
}

/// Whether a node converts `f32` to floats of 16 bits.
fn narrows(graph: &Graph, node: Node) -> bool {
    let data = &graph.nodes[node];
    let Op::Elementwise(expr) = &data.op else { return false };
    matches!(expr.insts[..], [ScalarInst::Arg(_), ScalarInst::Cast(..)])
        && matches!(graph.tensor_ty(data.outputs[0]).dtype, DType::F16 | DType::BF16)
}

fn product_of_two(graph: &Graph, machine: &MachineModel, node: Node, c: &Contract) -> bool {
    let f32s = graph.nodes[node].inputs.iter().all(|&v| match graph.tensor_ty(v).dtype {
        DType::F32 => true,
        DType::F16 | DType::BF16 => machine.tiles,
        _ => false,
    });
    c.panel.is_none()
        && c.acc == DType::F32
        && f32s
        && graph.tensor_ty(graph.nodes[node].outputs[0]).dtype == DType::F32
}

pub(super) fn roles(graph: &Graph, node: Node) -> Option<Roles> {
    let data = &graph.nodes[node];
    let Op::Contract(c) = &data.op else { return None };
    Some(Roles::new(graph, c, data.inputs[0], data.inputs[1], data.outputs[0]))
}

/// Whether sizes and dimensions are those that the loops expect.
fn fits(graph: &Graph, parts: &Parts) -> bool {
    let (Some(first), Some(second)) = (roles(graph, parts.scores), roles(graph, parts.values)) else { return false };
    let rank = first.out_labels.len();
    if second.left_labels.len() != rank || rank < 2 {
        return false;
    }
    let last = graph.output(*parts.after.last().unwrap_or(&parts.softmax));
    let heads = |v: Value| {
        let shape = &graph.tensor_ty(v).shape;
        shape[..shape.len() - 2].to_vec()
    };
    let probabilities = &second.left_labels;
    // Scores are [..., row, key] and the second product runs over the keys alone.
    let first_fits = first.row_label == Some(first.out_labels[rank - 2])
        && first.column_label == Some(first.out_labels[rank - 1])
        && first.contracted.len() == 1;
    let second_fits = second.left == last
        && second.contracted[..] == probabilities[rank - 1..]
        && second.row_label == Some(probabilities[rank - 2])
        && second.column_label.is_some()
        && second.outer.iter().all(|l| probabilities.contains(l))
        && second.outer.len() == first.outer.len()
        && heads(first.result) == heads(last);
    let small = |d: &Dim, most: i64| d.as_const().is_some_and(|d| (1..=most).contains(&d));
    first_fits
        && second_fits
        && first.rows.as_const().is_none_or(|rows| rows >= LEAST_ROWS)
        && small(first.size(first.contracted[0]), MOST_DEPTH)
        && first.columns.as_ref().is_some_and(|keys| *keys != 0)
        && small(second.columns.as_ref().expect("a column label"), MOST_DEPTH)
}
