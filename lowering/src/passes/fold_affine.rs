//! Folds scales after convolutions and products with constant weights into the weights, and adds what is added after.
//!
//! Before: `y = conv(x, w); z = y + b; r = z * s + t` with constants per output channel.
//! After: `y = conv(x, w * s); r = y + (b * s + t)`. This is batch normalisation at inference.
//!
//! The new weights and shifts are operations on constants; `fold_constants` makes recipes of them. Runs before
//! elementwise operations are merged, so that each of the chain is seen on its own.

use cranelift_entity::SecondaryMap;
use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar, ScalarExpr, ScalarInst, UnaryOp};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, Value, Values};

use super::canonicalize::expr::Simplifier;
use super::rewrite::{PassContext, Rewritten, one, only_users, rewrite};

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    let users = only_users(graph, body);
    rewrite(graph, body, |graph, region, node| fold_chain(graph, region, node, &users));
}

/// The last value of a chain and the operations of it, first to last.
struct Chain {
    links: Vec<(Node, Affine)>,
}

/// `argument * scale + shift`, the two as expressions over the other arguments; `None` for 1 and 0.
#[derive(Clone, Debug, Default, PartialEq)]
struct Affine {
    scale: Option<ScalarExpr>,
    shift: Option<ScalarExpr>,
}

fn fold_chain(graph: &mut Graph, region: Region, node: Node, users: &SecondaryMap<Value, Option<Node>>) -> Rewritten {
    let Some(weight) = Weight::of(graph, node) else { return Ok(None) };
    let start = graph.nodes[node].outputs[0];
    let chain = chain(graph, start, &weight, users);
    // One addition is what is left in the end.
    let scaled = chain.links.iter().any(|(_, a)| a.scale.is_some());
    if !scaled && chain.links.len() < 2 {
        return Ok(None);
    }
    let last = chain.links.last().map_or(start, |(n, _)| graph.nodes[*n].outputs[0]);
    let origins = graph.merged_origins(chain.links.iter().map(|(n, _)| *n).chain([node]));
    let data = graph.nodes[node].clone();
    let mut b = Builder::new(graph, region, origins);
    let (mut scale, mut shift): (Option<Value>, Option<Value>) = (None, None);
    for (link, affine) in &chain.links {
        let inputs = b.graph.nodes[*link].inputs.clone();
        let own_scale = affine.scale.as_ref().map(|e| per_channel(&mut b, e, &inputs, &weight)).transpose()?;
        let own_shift = affine.shift.as_ref().map(|e| per_channel(&mut b, e, &inputs, &weight)).transpose()?;
        if let Some(s) = own_scale {
            scale = Some(combine(&mut b, BinaryOp::Mul, scale, s)?);
            shift = shift.map(|t| b.mul(t, s)).transpose()?;
        }
        if let Some(t) = own_shift {
            shift = Some(combine(&mut b, BinaryOp::Add, shift, t)?);
        }
    }
    let mut inputs = data.inputs.clone();
    if let Some(scale) = scale {
        let mut shape: Shape = b.shape(data.inputs[weight.input])?.iter().map(|_| Dim::ONE).collect();
        shape[weight.axis] = weight.channels.clone();
        let scale = b.reshape(scale, &shape)?;
        inputs[weight.input] = b.mul(data.inputs[weight.input], scale)?;
    }
    let types = [b.ty(data.outputs[0]).clone()];
    let product = b.node(data.op, &inputs, &types)?;
    let mut result = b.graph.output(product);
    if let Some(shift) = shift {
        let rank = b.rank(result)?;
        let shape: Shape =
            (0..rank - weight.output_axis).map(|i| if i == 0 { weight.channels.clone() } else { Dim::ONE }).collect();
        let shift = b.reshape(shift, &shape)?;
        result = b.add(result, shift)?;
    }
    graph.replace(last, result);
    one(result)
}

fn combine(b: &mut Builder<'_>, op: BinaryOp, before: Option<Value>, value: Value) -> Result<Value, BuildError> {
    match before {
        None => Ok(value),
        Some(before) => b.binary(op, before, value),
    }
}

/// The constant weight of a convolution or product.
struct Weight {
    input: usize,
    /// The axis of the weight that runs along the output channels.
    axis: usize,
    /// The axis of the output that does.
    output_axis: usize,
    channels: Dim,
}

impl Weight {
    fn of(graph: &Graph, node: Node) -> Option<Weight> {
        let data = &graph.nodes[node];
        if graph.ty(data.outputs[0]).as_tensor()?.dtype != DType::F32 {
            return None;
        }
        match &data.op {
            Op::Conv(conv) if conv.panel.is_none() => {
                graph.as_constant(data.inputs[1])?;
                let channels = graph.tensor_ty(data.inputs[1]).shape[0].clone();
                let output_axis = if conv.channels_last { conv.kernel.len() + 1 } else { 1 };
                Some(Weight { input: 1, axis: 0, output_axis, channels })
            }
            Op::Contract(contract) if contract.panel.is_none() => {
                let input = data.inputs.iter().position(|&v| graph.as_constant(v).is_some())?;
                let (labels, other) = match input {
                    0 => (&contract.lhs, &contract.rhs),
                    _ => (&contract.rhs, &contract.lhs),
                };
                let mut free =
                    contract.out.iter().enumerate().filter(|(_, l)| labels.contains(l) && !other.contains(l));
                let (output_axis, label) = free.next()?;
                if free.next().is_some() {
                    return None;
                }
                let axis = labels.iter().position(|l| l == label)?;
                let channels = graph.tensor_ty(data.inputs[input]).shape[axis].clone();
                Some(Weight { input, axis, output_axis, channels })
            }
            _ => None,
        }
    }

    /// Whether a constant operand of the chain has one element per output channel, or one for all.
    fn is_per_channel(&self, graph: &Graph, value: Value, rank: usize) -> bool {
        let shape = &graph.tensor_ty(value).shape;
        graph.as_constant(value).is_some()
            && shape.len() <= rank
            && shape.iter().enumerate().all(|(i, d)| *d == 1 || i + rank - shape.len() == self.output_axis)
    }
}

/// The affine operations that follow a value one after the other, each the only user of the one before.
fn chain(graph: &Graph, start: Value, weight: &Weight, users: &SecondaryMap<Value, Option<Node>>) -> Chain {
    let mut chain = Chain { links: Vec::new() };
    let ty = graph.tensor_ty(start);
    let mut value = start;
    while let Some(Some(user)) = users.get(value) {
        let data = &graph.nodes[*user];
        let Op::Elementwise(expr) = &data.op else { break };
        let argument = data.inputs.iter().position(|&v| graph.resolve(v) == value);
        let Some(argument) = argument.filter(|_| graph.ty(data.outputs[0]).as_tensor() == Some(ty)) else { break };
        let others = data.inputs.iter().enumerate().filter(|(i, _)| *i != argument);
        let constants = others.into_iter().all(|(_, &v)| weight.is_per_channel(graph, graph.resolve(v), ty.rank()));
        let Some(affine) = constants.then(|| affine_in(expr, argument as u32)).flatten() else { break };
        chain.links.push((*user, affine));
        value = data.outputs[0];
    }
    chain
}

/// `expr` as an affine function of one of its arguments; all steps are `f32`.
fn affine_in(expr: &ScalarExpr, argument: u32) -> Option<Affine> {
    /// A step that uses the argument, or one that does not.
    #[derive(Clone, Copy)]
    enum Step {
        Free(ExprIndex),
        Affine { scale: Option<ExprIndex>, shift: Option<ExprIndex> },
    }
    let mut out = ScalarExpr::new();
    let mut steps: Vec<Step> = Vec::with_capacity(expr.insts.len());
    for inst in &expr.insts {
        let at = |i: ExprIndex| steps[i as usize];
        let step = match *inst {
            ScalarInst::Arg(n) if n == argument => Step::Affine { scale: None, shift: None },
            ScalarInst::Arg(_) | ScalarInst::Const(_) => Step::Free(out.push(inst.clone())),
            ScalarInst::Unary(op, a) => match at(a) {
                Step::Free(a) => Step::Free(out.push(ScalarInst::Unary(op, a))),
                Step::Affine { .. } => return None,
            },
            ScalarInst::Binary(op, a, b) => {
                let mut put = |op, a, b| out.push(ScalarInst::Binary(op, a, b));
                match (op, at(a), at(b)) {
                    (_, Step::Free(a), Step::Free(b)) => Step::Free(put(op, a, b)),
                    (BinaryOp::Add, Step::Affine { scale, shift }, Step::Free(c))
                    | (BinaryOp::Add, Step::Free(c), Step::Affine { scale, shift }) => {
                        Step::Affine { scale, shift: Some(shift.map_or(c, |t| put(BinaryOp::Add, t, c))) }
                    }
                    (BinaryOp::Sub, Step::Affine { scale, shift }, Step::Free(c)) => {
                        let shift = match shift {
                            Some(t) => put(BinaryOp::Sub, t, c),
                            None => out.push(ScalarInst::Unary(UnaryOp::Neg, c)),
                        };
                        Step::Affine { scale, shift: Some(shift) }
                    }
                    (BinaryOp::Mul, Step::Affine { scale, shift }, Step::Free(c))
                    | (BinaryOp::Mul, Step::Free(c), Step::Affine { scale, shift }) => Step::Affine {
                        scale: Some(scale.map_or(c, |s| put(BinaryOp::Mul, s, c))),
                        shift: shift.map(|t| put(BinaryOp::Mul, t, c)),
                    },
                    (BinaryOp::Div, Step::Affine { scale, shift }, Step::Free(c)) => {
                        let scale = match scale {
                            Some(s) => put(BinaryOp::Div, s, c),
                            None => {
                                let one = out.push(ScalarInst::Const(Scalar::f32(1.0)));
                                out.push(ScalarInst::Binary(BinaryOp::Div, one, c))
                            }
                        };
                        let shift = shift.map(|t| out.push(ScalarInst::Binary(BinaryOp::Div, t, c)));
                        Step::Affine { scale: Some(scale), shift }
                    }
                    _ => return None,
                }
            }
            ScalarInst::Index(_)
            | ScalarInst::Dim(_)
            | ScalarInst::Compare(..)
            | ScalarInst::MulAdd(..)
            | ScalarInst::Select(..)
            | ScalarInst::Cast(..)
            | ScalarInst::Bitcast(..) => return None,
        };
        steps.push(step);
    }
    match steps.last()? {
        Step::Affine { scale, shift } => {
            Some(Affine { scale: scale.map(|s| out.finish(s)), shift: shift.map(|t| out.finish(t)) })
        }
        Step::Free(_) => None,
    }
}

/// An expression over the constant operands of a link, as a vector with one element per channel or one for all.
fn per_channel(b: &mut Builder<'_>, expr: &ScalarExpr, inputs: &[Value], weight: &Weight) -> Result<Value, BuildError> {
    let mut used = Values::new();
    let mut types = Vec::new();
    let mut simplifier = Simplifier::default();
    let mut map = Vec::with_capacity(expr.insts.len());
    for inst in &expr.insts {
        let inst = match inst {
            ScalarInst::Arg(n) => {
                let value = b.graph.resolve(inputs[*n as usize]);
                let wide = b.graph.tensor_ty(value).static_len() != Some(1);
                let shape: &[Dim] = if wide { std::slice::from_ref(&weight.channels) } else { &[Dim::ONE] };
                used.push(b.reshape(value, shape)?);
                types.push(b.dtype(value)?);
                ScalarInst::Arg(used.len() as u32 - 1)
            }
            other => other.map_operands(|o| map[o as usize]),
        };
        map.push(simplifier.push(inst, &types));
    }
    let expr = simplifier.finish(*map.last().expect("expressions are not empty"));
    b.generate(expr, std::slice::from_ref(&weight.channels), &used)
}
