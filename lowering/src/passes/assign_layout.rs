//! Gives convolutions channels-last operands, and moves the transposes that this takes towards the ends of the graph until
//! they cancel.
//!
//! Before: `y = conv(x, w); r = relu(y); z = conv(r, v)`, channels first.
//! After: `t = transpose [0, 2, 3, 1] (x); y = conv(t, w); r = relu(y); s = conv(r, v); z = transpose [0, 3, 1, 2] (s)`,
//! channels last. A 1x1 convolution with stride 1 becomes a product of matrices.
//!
//! One walk does it. A convolution gets a transpose before and one after it; an operation on a transposed operand is done on
//! the operand before its transpose, and its result is transposed. So transposes sink along the order of the graph, and
//! one that meets its inverse is gone. They stop at operations that care for the order of their axes.

use std::collections::HashSet;

use onnxc_ir::dim::Dim;
use onnxc_ir::scalar::{ScalarExpr, ScalarInst};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Contract, Conv, Coord, ReduceOp, Window};
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, TensorType, Value, Values};
use smallvec::SmallVec;

use super::rewrite::{PassContext, Rewritten, one, rewrite};

type Perm = SmallVec<[u32; 5]>;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    // Joins of transposed operands with others are moved once: moving them again would move them back.
    let mut moved: HashSet<Value> = HashSet::new();
    rewrite(graph, body, |graph, region, node| {
        if moved.contains(&graph.nodes[node].outputs[0]) { Ok(None) } else { rule(graph, region, node, &mut moved) }
    });
}

fn rule(graph: &mut Graph, region: Region, node: Node, moved: &mut HashSet<Value>) -> Rewritten {
    let data = &graph.nodes[node];
    match &data.op {
        Op::Conv(conv) if !conv.channels_last => channels_last(graph, region, node),
        Op::Conv(conv) if is_product(conv) => as_product(graph, region, node),
        Op::Transpose { perm } => compose(graph, region, node, perm.clone()),
        Op::Elementwise(_) => sink_elementwise(graph, region, node, moved),
        Op::Concat { .. } => sink_concat(graph, region, node, moved),
        Op::Window(_) | Op::Pad { .. } | Op::Slice { .. } | Op::Reduce { .. } | Op::Gather { .. } => {
            sink_one(graph, region, node)
        }
        Op::Reshape => sink_reshape(graph, region, node),
        Op::Constant(_)
        | Op::DimValue(_)
        | Op::BindSizes { .. }
        | Op::Strings(_)
        | Op::Cumulate { .. }
        | Op::Contract(_)
        | Op::Conv(_)
        | Op::Broadcast
        | Op::Scatter { .. }
        | Op::Sort { .. }
        | Op::External(_)
        | Op::If { .. }
        | Op::Loop { .. }
        | Op::Composite { .. }
        | Op::Group { .. } => Ok(None),
    }
}

fn builder(graph: &mut Graph, region: Region, node: Node) -> Builder<'_> {
    let origins = graph.nodes[node].origins.clone();
    Builder::new(graph, region, origins)
}

fn transpose(b: &mut Builder<'_>, x: Value, perm: &[u32]) -> Result<Value, BuildError> {
    let perm: Vec<usize> = perm.iter().map(|&p| p as usize).collect();
    b.transpose(x, &perm)
}

fn inverse(perm: &[u32]) -> Perm {
    let mut inverse: Perm = perm.iter().map(|_| 0).collect();
    perm.iter().enumerate().for_each(|(i, &p)| inverse[p as usize] = i as u32);
    inverse
}

/// `list[i]` describes axis `i` of a transposed value; the result describes the axes of the value itself.
fn untransposed<T: Clone>(list: &[T], perm: &[u32]) -> impl Iterator<Item = T> {
    inverse(perm).into_iter().map(|i| list[i as usize].clone()).collect::<Vec<T>>().into_iter()
}

/// The permutation and operand of the transpose that defines a value.
fn transposed(graph: &Graph, value: Value) -> Option<(Perm, Value)> {
    let data = &graph.nodes[graph.def_node(value)?];
    match &data.op {
        Op::Transpose { perm } => Some((perm.clone(), data.inputs[0])),
        _ => None,
    }
}

fn channels_last(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let rank = conv.kernel.len() as u32 + 2;
    let to_last: Perm = std::iter::once(0).chain(2..rank).chain([1]).collect();
    let ty = graph.tensor_ty(data.outputs[0]).clone();
    let mut b = builder(graph, region, node);
    let x = transpose(&mut b, data.inputs[0], &to_last)?;
    let shape: Shape = to_last.iter().map(|&p| ty.shape[p as usize].clone()).collect();
    let ty = TensorType { dtype: ty.dtype, shape };
    let node = b.node(Op::Conv(Conv { channels_last: true, ..conv }), &[x, data.inputs[1]], &[ty.into()])?;
    let y = b.graph.output(node);
    one(transpose(&mut b, y, &inverse(&to_last))?)
}

/// Whether the convolution only mixes channels.
fn is_product(conv: &Conv) -> bool {
    let all = |list: &[i64], n: i64| list.iter().all(|&x| x == n);
    let plain = all(&conv.kernel, 1) && all(&conv.strides, 1) && all(&conv.pad_lo, 0) && all(&conv.pad_hi, 0);
    plain && all(&conv.lhs_dilation, 1) && conv.groups == 1 && conv.panel.is_none()
}

fn as_product(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let shape = graph.tensor_ty(data.outputs[0]).shape.clone();
    let filter = graph.tensor_ty(data.inputs[1]).shape.clone();
    let mut b = builder(graph, region, node);
    let from = b.shape(data.inputs[0])?;
    let rows = Dim::product(&from[..from.len() - 1])?;
    let x = b.reshape(data.inputs[0], &[rows, from[from.len() - 1].clone()])?;
    let w = b.reshape(data.inputs[1], &filter[..2])?;
    let contract = Contract {
        lhs: SmallVec::from_slice(&[0, 1]),
        rhs: SmallVec::from_slice(&[2, 1]),
        out: SmallVec::from_slice(&[0, 2]),
        acc: conv.acc,
        panel: None,
    };
    let y = b.contract(contract, x, w)?;
    one(b.reshape(y, &shape)?)
}

/// Two transposes become one; one that only moves dimensions of 1 becomes a reshape.
fn compose(graph: &mut Graph, region: Region, node: Node, perm: Perm) -> Rewritten {
    let input = graph.nodes[node].inputs[0];
    if let Some((first, x)) = transposed(graph, input) {
        let both: Perm = perm.iter().map(|&p| first[p as usize]).collect();
        return one(transpose(&mut builder(graph, region, node), x, &both)?);
    }
    let output = graph.nodes[node].outputs[0];
    if moves_nothing(&graph.tensor_ty(input).shape, &perm) {
        let shape = graph.tensor_ty(output).shape.clone();
        return one(builder(graph, region, node).reshape(input, &shape)?);
    }
    Ok(None)
}

/// Whether the elements stay in their order.
fn moves_nothing(shape: &[Dim], perm: &[u32]) -> bool {
    let moved: Perm = perm.iter().copied().filter(|&p| shape[p as usize] != 1).collect();
    moved.windows(2).all(|w| w[0] < w[1])
}

/// An operand of an elementwise operation before a transpose of `perm`: what it would be if its transpose were the
/// operand now. `None` if that takes a transpose that moves elements.
fn before_transpose(b: &mut Builder<'_>, value: Value, perm: &[u32]) -> Result<Option<Value>, BuildError> {
    if let Some((p, x)) = transposed(b.graph, value)
        && p.as_slice() == perm
    {
        return Ok(Some(x));
    }
    let mut shape = b.shape(value)?;
    shape.insert_many(0, std::iter::repeat_n(Dim::ONE, perm.len().saturating_sub(shape.len())));
    let back = inverse(perm);
    let is_constant = b.graph.as_constant(value).is_some();
    if shape.len() != perm.len() || !(is_constant || moves_nothing(&shape, &back)) {
        return Ok(None);
    }
    let wide = b.reshape(value, &shape)?;
    Ok(Some(transpose(b, wide, &back)?))
}

fn sink_elementwise(graph: &mut Graph, region: Region, node: Node, moved: &mut HashSet<Value>) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Elementwise(expr) = data.op else { return Ok(None) };
    let ty = graph.tensor_ty(data.outputs[0]).clone();
    // The transpose of an operand that has all elements of the result.
    let full = |&v: &Value| graph.tensor_ty(v).shape == ty.shape;
    let perms: Vec<Option<Perm>> =
        data.inputs.iter().filter(|v| full(v)).map(|&v| transposed(graph, v).map(|(p, _)| p)).collect();
    let Some(perm) = perms.iter().flatten().next().cloned() else { return Ok(None) };
    // Operands that are not transposed would be, which pays unless they are the greater number.
    let agree = perms.iter().filter(|p| p.as_ref() == Some(&perm)).count();
    if perms.len() - agree > agree {
        return Ok(None);
    }
    let mut b = builder(graph, region, node);
    let mut inputs = Values::new();
    for &value in &data.inputs {
        inputs.push(match before_transpose(&mut b, value, &perm)? {
            Some(x) => x,
            None if b.shape(value)? == ty.shape => transpose(&mut b, value, &inverse(&perm))?,
            None => return Ok(None),
        });
    }
    let mut insts = expr.insts;
    for inst in &mut insts {
        if let ScalarInst::Index(axis) = inst {
            *axis = perm[*axis as usize];
        }
    }
    let shape: Shape = untransposed(&ty.shape, &perm).collect();
    let y = b.generate(ScalarExpr { insts }, &shape, &inputs)?;
    moved.insert(y);
    one(transpose(&mut b, y, &perm)?)
}

fn sink_concat(graph: &mut Graph, region: Region, node: Node, moved: &mut HashSet<Value>) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Concat { axis } = data.op else { return Ok(None) };
    let perms: Vec<Option<Perm>> = data.inputs.iter().map(|&v| transposed(graph, v).map(|(p, _)| p)).collect();
    let Some(perm) = perms.iter().flatten().next().cloned() else { return Ok(None) };
    let agree = perms.iter().filter(|p| p.as_ref() == Some(&perm)).count();
    if perms.len() - agree > agree {
        return Ok(None);
    }
    let mut b = builder(graph, region, node);
    let mut inputs = Values::new();
    for &value in &data.inputs {
        inputs.push(match before_transpose(&mut b, value, &perm)? {
            Some(x) => x,
            None => transpose(&mut b, value, &inverse(&perm))?,
        });
    }
    let y = b.concat(&inputs, i64::from(perm[axis as usize]))?;
    moved.insert(y);
    one(transpose(&mut b, y, &perm)?)
}

/// Operations with one tensor that describe each axis by itself.
fn sink_one(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Some((perm, x)) = transposed(graph, data.inputs[0]) else { return Ok(None) };
    let ty = graph.tensor_ty(data.outputs[0]).clone();
    let mut b = builder(graph, region, node);
    match data.op {
        Op::Window(w) => {
            if matches!(w.op, ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. }) {
                // The positions that it gives are those of the order that it sees.
                return Ok(None);
            }
            let window = Window {
                op: w.op,
                sizes: untransposed(&w.sizes, &perm).collect(),
                strides: untransposed(&w.strides, &perm).collect(),
                dilations: untransposed(&w.dilations, &perm).collect(),
                pad_lo: untransposed(&w.pad_lo, &perm).collect(),
                pad_hi: untransposed(&w.pad_hi, &perm).collect(),
            };
            let y = b.window(window, x)?;
            one(transpose(&mut b, y, &perm)?)
        }
        Op::Pad { lo, hi } => {
            let (lo, hi): (Shape, Shape) = (untransposed(&lo, &perm).collect(), untransposed(&hi, &perm).collect());
            let y = b.pad(x, data.inputs[1], &lo, &hi)?;
            one(transpose(&mut b, y, &perm)?)
        }
        Op::Slice { starts, steps } => {
            let starts: Shape = untransposed(&starts, &perm).collect();
            let steps: Vec<i64> = untransposed(&steps, &perm).collect();
            let sizes: Shape = untransposed(&ty.shape, &perm).collect();
            let y = b.slice(x, &starts, &sizes, &steps)?;
            one(transpose(&mut b, y, &perm)?)
        }
        Op::Reduce { op, axes } => {
            let inner: Vec<i64> = axes.iter().map(|&a| i64::from(perm[a as usize])).collect();
            // What is left stands in the order of the operand; `rest` puts it into that of the transposed one.
            let kept: Vec<u32> =
                (0..perm.len() as u32).filter(|a| !axes.contains(a)).map(|a| perm[a as usize]).collect();
            let mut sorted = kept.clone();
            sorted.sort_unstable();
            let place = |p: &u32| sorted.iter().position(|s| s == p).expect("sorted has the same axes") as u32;
            let rest: Perm = kept.iter().map(place).collect();
            let y = b.reduce(op, x, &inner, false)?;
            one(transpose(&mut b, y, &rest)?)
        }
        Op::Gather { coords } => {
            if ty.rank() != perm.len() {
                return Ok(None);
            }
            let mut inputs = Values::new();
            for &index in &data.inputs[1..] {
                match before_transpose(&mut b, index, &perm)? {
                    Some(v) => inputs.push(v),
                    None => return Ok(None),
                }
            }
            let coords: Vec<Coord> = untransposed(&coords, &perm)
                .map(|c| match c {
                    Coord::Axis(a) => Coord::Axis(perm[a as usize]),
                    Coord::Input(n) => Coord::Input(n),
                })
                .collect();
            let shape: Shape = untransposed(&ty.shape, &perm).collect();
            let y = b.gather(x, &inputs, &coords, &shape)?;
            one(transpose(&mut b, y, &perm)?)
        }
        _ => Ok(None),
    }
}

/// A reshape that splits and merges dimensions which a transpose keeps together is done before the transpose.
fn sink_reshape(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let Some((perm, x)) = transposed(graph, input) else { return Ok(None) };
    let from = graph.tensor_ty(input).shape.clone();
    let to = graph.tensor_ty(output).shape.clone();
    let Some(mut runs) = matching_runs(&from, &to) else { return Ok(None) };
    for run in &runs {
        let together = perm[run.from.clone()].windows(2).all(|w| w[1] == w[0] + 1);
        if !together {
            return Ok(None);
        }
    }
    // The runs in the order of the operand, with the new dimensions of each.
    let order: Vec<usize> = {
        let mut order: Vec<usize> = (0..runs.len()).collect();
        order.sort_by_key(|&i| perm[runs[i].from.start]);
        order
    };
    let mut shape = Shape::new();
    let mut starts = vec![0; runs.len()];
    for &i in &order {
        starts[i] = shape.len();
        shape.extend(to[runs[i].to.clone()].iter().cloned());
    }
    let rest: Perm =
        runs.drain(..).zip(starts).flat_map(|(r, start)| (0..r.to.len()).map(move |k| (start + k) as u32)).collect();
    let mut b = builder(graph, region, node);
    let y = b.reshape(x, &shape)?;
    one(transpose(&mut b, y, &rest)?)
}

/// Dimensions before and after a reshape that hold the same elements.
struct Run {
    from: std::ops::Range<usize>,
    to: std::ops::Range<usize>,
}

/// Cuts two shapes of one tensor into the shortest runs with equal products, each with dimensions on the left. `None` if
/// the products cannot be compared.
fn matching_runs(from: &[Dim], to: &[Dim]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from.len() {
        let (start_i, start_j) = (i, j);
        let (mut p, mut q) = (from[i].clone(), Dim::ONE);
        i += 1;
        while p != q {
            // The lesser side takes one more; sizes that are not constants only meet their equals.
            let left_grows = match (p.as_const(), q.as_const()) {
                (Some(p), Some(q)) => p < q,
                (None, Some(_)) => false,
                (Some(_), None) => true,
                (None, None) => j >= to.len(),
            };
            if left_grows && i < from.len() {
                p = (&p * &from[i]).ok()?;
                i += 1;
            } else if j < to.len() {
                q = (&q * &to[j]).ok()?;
                j += 1;
            } else {
                return None;
            }
        }
        runs.push(Run { from: start_i..i, to: start_j..j });
    }
    // Dimensions of 1 at the end belong to the last run.
    if to[j..].iter().any(|d| *d != 1) {
        return None;
    }
    runs.last_mut()?.to.end = to.len();
    Some(runs)
}
