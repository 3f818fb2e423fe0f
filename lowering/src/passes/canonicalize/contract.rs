//! Contractions with as few labels as possible.
//!
//! Before: `t = transpose [0, 2, 1] (y); contract [b, m, k] [b, k, n] -> [b, m, n] (x, t)` with `b` of size 1.
//! After: `contract [m, k] [n, k] -> [m, n] (reshape x, reshape y)`, reshaped to three dimensions.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::op::{Contract, Label};
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, Value};
use smallvec::SmallVec;

use super::super::rewrite::{Rewritten, one};

type Labels = SmallVec<[Label; 5]>;

/// Takes transposes of the operands and of the result into the labels, then drops and merges labels. `user` is the only
/// user of the result, if there is only one.
pub fn simplify(graph: &mut Graph, region: Region, node: Node, user: Option<Node>) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Contract(contract) = &data.op else { return Ok(None) };
    if contract.panel.is_some() {
        return Ok(None);
    }
    let mut contract = contract.clone();
    let mut inputs = data.inputs.clone();
    for (input, labels) in inputs.iter_mut().zip([&mut contract.lhs, &mut contract.rhs]) {
        while let Some((perm, inner)) = transposed(graph, *input) {
            let mut before = labels.clone();
            for (i, &p) in perm.iter().enumerate() {
                before[p as usize] = labels[i];
            }
            *labels = before;
            *input = inner;
        }
    }
    let output = data.outputs[0];
    let mut shape = graph.tensor_ty(output).shape.clone();
    let origins = data.origins.clone();
    // A reshape in between would keep chosen matrices from being read where they are.
    let once = |labels: &Labels| contract.out.iter().all(|l| labels.contains(l));
    let keeps = inputs.iter().zip([&contract.lhs, &contract.rhs]).any(|(&v, l)| is_choice(graph, v) && once(l));
    let order = wanted_order(graph, user).filter(|_| !keeps);
    if let Some(perm) = &order {
        contract.out = perm.iter().map(|&p| contract.out[p as usize]).collect();
        shape = perm.iter().map(|&p| shape[p as usize].clone()).collect();
    }
    let sizes = sizes(graph, &contract, &inputs);
    let mut simple = contract.clone();
    if !keeps {
        drop_units(&mut simple, &sizes);
    }
    let merged = if keeps { sizes } else { merge(&mut simple, sizes)? };
    if simple == contract && order.is_none() {
        graph.nodes[node].inputs = inputs;
        graph.nodes[node].op = Op::Contract(contract);
        return Ok(None);
    }
    let size = |l: &Label| merged.iter().find(|(x, _)| x == l).map_or(Dim::ONE, |(_, d)| d.clone());
    let left: Shape = simple.lhs.iter().map(size).collect();
    let right: Shape = simple.rhs.iter().map(size).collect();
    let mut b = Builder::new(graph, region, origins);
    let lhs = b.reshape(inputs[0], &left)?;
    let rhs = b.reshape(inputs[1], &right)?;
    let product = b.contract(simple, lhs, rhs)?;
    let mut result = b.reshape(product, &shape)?;
    if let Some(perm) = order {
        // The user's transpose and this one cancel.
        let mut inverse = vec![0; perm.len()];
        perm.iter().enumerate().for_each(|(i, &p)| inverse[p as usize] = i);
        result = b.transpose(result, &inverse)?;
    }
    one(result)
}

/// The permutation of the result that its only user asks for, if it leaves the last label last: the columns are what
/// lanes run along.
fn wanted_order(graph: &Graph, user: Option<Node>) -> Option<SmallVec<[u32; 5]>> {
    match &graph.nodes[user?].op {
        Op::Transpose { perm } if perm.last().is_some_and(|&p| p as usize + 1 == perm.len()) => Some(perm.clone()),
        _ => None,
    }
}

/// Whether the value is gathered from a constant, such as the weights of a few of many experts.
fn is_choice(graph: &Graph, value: Value) -> bool {
    let Some(node) = graph.def_node(value) else { return false };
    let data = &graph.nodes[node];
    matches!(data.op, Op::Gather { .. }) && graph.as_constant(data.inputs[0]).is_some()
}

fn transposed(graph: &Graph, value: Value) -> Option<(SmallVec<[u32; 5]>, Value)> {
    let data = &graph.nodes[graph.def_node(value)?];
    match &data.op {
        Op::Transpose { perm } => Some((perm.clone(), data.inputs[0])),
        _ => None,
    }
}

fn sizes(graph: &Graph, contract: &Contract, inputs: &[Value]) -> Vec<(Label, Dim)> {
    let mut sizes: Vec<(Label, Dim)> = Vec::new();
    for (&input, labels) in inputs.iter().zip([&contract.lhs, &contract.rhs]) {
        for (&label, dim) in labels.iter().zip(&graph.tensor_ty(input).shape) {
            if !sizes.iter().any(|(l, _)| *l == label) {
                sizes.push((label, dim.clone()));
            }
        }
    }
    sizes
}

/// Drops labels of size 1. One contracted label stays, so that the operation remains a product of matrices.
fn drop_units(contract: &mut Contract, sizes: &[(Label, Dim)]) {
    let contracted = |c: &Contract| c.lhs.iter().filter(|l| c.rhs.contains(l) && !c.out.contains(l)).count();
    for (label, size) in sizes {
        let is_contracted =
            !contract.out.contains(label) && contract.lhs.contains(label) && contract.rhs.contains(label);
        if *size == 1 && !(is_contracted && contracted(contract) == 1) {
            for labels in [&mut contract.lhs, &mut contract.rhs, &mut contract.out] {
                labels.retain(|l| l != label);
            }
        }
    }
}

/// Merges pairs of labels that stand side by side in the same order wherever one of them stands.
fn merge(contract: &mut Contract, mut sizes: Vec<(Label, Dim)>) -> Result<Vec<(Label, Dim)>, onnxc_ir::dim::DimError> {
    while let Some((a, b)) = mergeable(contract) {
        for labels in [&mut contract.lhs, &mut contract.rhs, &mut contract.out] {
            labels.retain(|l| *l != b);
        }
        let at =
            |sizes: &[(Label, Dim)], l: Label| sizes.iter().position(|(x, _)| *x == l).expect("each label has a size");
        let (i, j) = (at(&sizes, a), at(&sizes, b));
        sizes[i].1 = (&sizes[i].1 * &sizes[j].1)?;
    }
    Ok(sizes)
}

fn mergeable(contract: &Contract) -> Option<(Label, Label)> {
    let lists: [&Labels; 3] = [&contract.lhs, &contract.rhs, &contract.out];
    let pairs = lists.iter().flat_map(|l| l.windows(2).map(|w| (w[0], w[1])));
    pairs.into_iter().find(|&(a, b)| {
        lists.iter().all(|labels| match labels.iter().position(|&l| l == a) {
            Some(i) => labels.get(i + 1) == Some(&b),
            None => !labels.contains(&b),
        })
    })
}
