//! Computes with `f32` where a model has floats of 16 bits, on processors.
//!
//! Before: `y = elementwise { exp } (contract (x: f16, w: f16))`, rounded to `f16` after each operation. After: `x` is cast to
//! `f32` once, everything up to a result of the model works on `f32`, and the result is cast back. So such models have
//! the schedules, fusions and layouts of `f32` ones, and numbers between operations are more precise than the model asks
//! for. Numbers stay in 16 bits in the model's inputs and outputs, in what only moves them, in what branches and loops
//! carry, and in weights of products, which are converted where they are multiplied.
//!
//! With `--fp strict`, and where the type is `bf16`, only the operands of products and convolutions are cast, which changes no
//! result: each operation rounds to its type. (Of 8 bits the last one is seen: the expected results of the ONNX suite have all
//! roundings of `bf16`.) Machines with matrix instructions for 16 bits keep everything as it is.

use std::collections::HashMap;

use onnxc_ir::dtype::DType;
use onnxc_ir::evaluate;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::{ExprIndex, Scalar, ScalarExpr, ScalarInst};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, TensorType, Type, Value};

use super::pack_weights::product_with;
use super::rewrite::{PassContext, Rewritten, one, rewrite};

/// Whether a type is a float of 16 bits.
pub(super) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Whether numbers of this type are rounded only where they are stored at last.
fn rounds_late(dtype: DType) -> bool {
    dtype == DType::F16
}

/// Whether weights of products stay in this type: the machine's kernels convert it at little cost.
pub(super) fn keeps_weights(machine: &MachineModel, dtype: DType) -> bool {
    dtype == DType::BF16 || dtype == DType::F16 && machine.converts_f16
}

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    if cx.machine.tiles {
        return;
    }
    let body = graph.body();
    let mut widening = Widening { machine: &cx.machine, strict: cx.strict, wide: HashMap::new() };
    rewrite(graph, body, |graph, region, node| widening.rule(graph, region, node));
}

struct Widening<'a> {
    machine: &'a MachineModel,
    strict: bool,
    /// Casts to `f32` that were made, by what they cast.
    wide: HashMap<Value, Value>,
}

/// What the values behind a narrowing cast are, if that is all that a value's node does.
fn before_narrowing(graph: &Graph, value: Value) -> Option<Value> {
    let data = &graph.nodes[graph.def_node(value)?];
    let Op::Elementwise(expr) = &data.op else { return None };
    let narrows = matches!(expr.insts[..], [ScalarInst::Arg(0), ScalarInst::Cast(to, 0)] if rounds_late(to));
    let [from] = data.inputs[..] else { return None };
    let same_shape = graph.tensor_ty(from).shape == graph.tensor_ty(value).shape;
    (narrows && same_shape && graph.tensor_ty(from).dtype == DType::F32).then_some(from)
}

/// The 16-bit floats that a value of `f32` is cast from, element by element.
pub(super) fn widened_from(graph: &Graph, value: Value) -> Option<Value> {
    let data = &graph.nodes[graph.def_node(value)?];
    let (Op::Elementwise(expr), &[from]) = (&data.op, &data.inputs[..]) else { return None };
    let casts = matches!(expr.insts[..], [ScalarInst::Arg(0), ScalarInst::Cast(DType::F32, 0)]);
    let (narrow, wide) = (graph.tensor_ty(from), graph.tensor_ty(value));
    (casts && is_half(narrow.dtype) && narrow.shape == wide.shape).then_some(from)
}

/// The 16-bit floats of the model's that a value consists of, if they are only moved and perhaps cast to `f32`.
fn half_weights(graph: &Graph, value: Value) -> Option<Value> {
    let value = widened_from(graph, value).unwrap_or(value);
    let mut root = value;
    while let Op::Transpose { .. } | Op::Reshape = graph.nodes[graph.def_node(root)?].op {
        root = graph.nodes[graph.def_node(root)?].inputs[0];
    }
    let constant = graph.as_constant(root).is_some();
    (constant && is_half(graph.tensor_ty(root).dtype)).then_some(value)
}

impl Widening<'_> {
    fn rule(&mut self, graph: &mut Graph, region: Region, node: Node) -> Rewritten {
        let data = &graph.nodes[node];
        let dtype = |v: Value| graph.ty(v).as_tensor().map(|ty| ty.dtype);
        let late = |v: &Value| dtype(*v).is_some_and(rounds_late);
        let narrowed = |v: &Value| before_narrowing(graph, *v).is_some();
        let operands = data.inputs.iter().any(|&v| dtype(v).is_some_and(is_half) || half_weights(graph, v).is_some());
        let halves = data.inputs.iter().any(late);
        match &data.op {
            Op::Contract(c) if operands && c.acc == DType::F32 => self.operands(graph, region, node),
            Op::Conv(c) if operands && c.acc == DType::F32 => self.operands(graph, region, node),
            _ if self.strict => Ok(None),
            Op::Elementwise(expr) if halves || data.outputs.iter().any(late) => {
                self.elementwise(graph, region, node, &expr.clone())
            }
            Op::Reduce { .. } | Op::Cumulate { .. } | Op::Window(_) if halves => self.whole(graph, region, node),
            // What only moves numbers does so in the type that they have before.
            Op::Reshape | Op::Transpose { .. } | Op::Broadcast | Op::Slice { .. } | Op::Pad { .. }
                if halves && narrowed(&data.inputs[0]) =>
            {
                self.whole(graph, region, node)
            }
            Op::Concat { .. } if halves && data.inputs.iter().all(narrowed) => self.whole(graph, region, node),
            Op::Constant(_)
            | Op::DimValue(_)
            | Op::BindSizes { .. }
            | Op::Elementwise(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::Strings(_)
            | Op::External(_)
            | Op::If { .. }
            | Op::Loop { .. }
            | Op::Composite { .. }
            | Op::Group { .. } => Ok(None),
        }
    }

    /// A value as `f32`: what it was before it was rounded, unless each operation has to round.
    fn wide(&mut self, b: &mut Builder<'_>, value: Value) -> Result<Value, BuildError> {
        if !is_half(b.dtype(value)?) {
            return Ok(value);
        }
        if let Some(before) = before_narrowing(b.graph, value).filter(|_| !self.strict) {
            return Ok(before);
        }
        if let Some(&wide) = self.wide.get(&value) {
            return Ok(wide);
        }
        let wide = b.cast(value, DType::F32)?;
        self.wide.insert(value, wide);
        Ok(wide)
    }

    /// A product or convolution of `f32`; weights that are packed as they are stay.
    fn operands(&mut self, graph: &mut Graph, region: Region, node: Node) -> Rewritten {
        let keeps = |value: Value| {
            half_weights(graph, value).filter(|&half| keeps_weights(self.machine, graph.tensor_ty(half).dtype))
        };
        let product = product_with(graph, node, |value| keeps(value).is_some());
        let weights = product.and_then(|product| Some((product.rhs, keeps(product.rhs)?)));
        let data = graph.nodes[node].clone();
        let ty = graph.ty(data.outputs[0]).clone();
        let mut b = Builder::new(graph, region, data.origins);
        let mut inputs = data.inputs.clone();
        for input in &mut inputs {
            *input = match weights {
                Some((weights, half)) if weights == *input => half,
                _ => self.wide(&mut b, *input)?,
            };
        }
        if inputs == data.inputs {
            return Ok(None);
        }
        let node = b.node(data.op, &inputs, &[ty])?;
        one(b.graph.output(node))
    }

    /// The node on `f32`, with its results cast back.
    fn whole(&mut self, graph: &mut Graph, region: Region, node: Node) -> Rewritten {
        let data = graph.nodes[node].clone();
        let TensorType { dtype, shape } = graph.tensor_ty(data.outputs[0]).clone();
        let mut b = Builder::new(graph, region, data.origins);
        let inputs = data.inputs.iter().map(|&v| self.wide(&mut b, v)).collect::<Result<Vec<Value>, _>>()?;
        let indices = match &data.op {
            Op::Reduce { op, .. } => matches!(op, ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. }),
            Op::Window(window) => matches!(window.op, ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. }),
            _ => false,
        };
        let computed = if indices { dtype } else { DType::F32 };
        let node = b.node(data.op, &inputs, &[Type::Tensor(TensorType { dtype: computed, shape })])?;
        let value = b.graph.output(node);
        one(b.cast(value, dtype)?)
    }

    fn elementwise(&mut self, graph: &mut Graph, region: Region, node: Node, expr: &ScalarExpr) -> Rewritten {
        let data = graph.nodes[node].clone();
        let types: Vec<DType> = data.inputs.iter().map(|&v| graph.tensor_ty(v).dtype).collect();
        let narrowed = data.inputs.iter().any(|&v| before_narrowing(graph, v).is_some());
        let ty = graph.tensor_ty(data.outputs[0]).clone();
        let Some(wide) = widened(expr, &types, narrowed) else { return Ok(None) };
        let mut b = Builder::new(graph, region, data.origins);
        let mut late = |v: Value, b: &mut Builder<'_>| if rounds_late(b.dtype(v)?) { self.wide(b, v) } else { Ok(v) };
        let inputs = data.inputs.iter().map(|&v| late(v, &mut b)).collect::<Result<Vec<Value>, BuildError>>()?;
        let computed = if rounds_late(ty.dtype) { DType::F32 } else { ty.dtype };
        // What was a cast back is nothing now.
        if let ([ScalarInst::Arg(0)], [input]) = (&wide.insts[..], &inputs[..])
            && *b.graph.tensor_ty(*input) == (TensorType { dtype: computed, shape: ty.shape.clone() })
        {
            return one(b.cast(*input, ty.dtype)?);
        }
        let node = b.node(
            Op::Elementwise(wide),
            &inputs,
            &[Type::Tensor(TensorType { dtype: computed, shape: ty.shape.clone() })],
        )?;
        let value = b.graph.output(node);
        one(b.cast(value, ty.dtype)?)
    }
}

/// The same function with `f32` for types that round late; `None` where there is nothing to gain, or where their bits matter.
fn widened(expr: &ScalarExpr, inputs: &[DType], narrowed: bool) -> Option<ScalarExpr> {
    let types = expr.types(inputs).expect("the expression was checked when the graph was built");
    let late = |i: ExprIndex| rounds_late(types[i as usize]);
    let mut computes = narrowed;
    let mut e = ExprBuilder::default();
    let mut map: Vec<ExprIndex> = Vec::with_capacity(expr.insts.len());
    let casts_only = matches!(expr.insts[..], [ScalarInst::Arg(0), ScalarInst::Cast(..)]);
    for (inst, &ty) in expr.insts.iter().zip(&types) {
        let at = |i: ExprIndex| map[i as usize];
        let step = match inst {
            ScalarInst::Const(c) if rounds_late(c.dtype) => {
                e.constant(Scalar { dtype: DType::F32, bits: evaluate::cast(c.dtype, DType::F32, c.bits) })
            }
            ScalarInst::Bitcast(_, a) if rounds_late(ty) || late(*a) => return None,
            ScalarInst::Cast(to, a) if rounds_late(*to) || late(*a) => {
                let from = if late(*a) { DType::F32 } else { types[*a as usize] };
                let to = if rounds_late(*to) { DType::F32 } else { *to };
                if from == to { at(*a) } else { e.cast(to, at(*a)) }
            }
            ScalarInst::Unary(..) | ScalarInst::Binary(..) if rounds_late(ty) => {
                computes = true;
                e.step(inst.map_operands(at))
            }
            ScalarInst::Arg(_)
            | ScalarInst::Index(_)
            | ScalarInst::Dim(_)
            | ScalarInst::Const(_)
            | ScalarInst::Unary(..)
            | ScalarInst::Binary(..)
            | ScalarInst::Compare(..)
            | ScalarInst::MulAdd(..)
            | ScalarInst::Select(..)
            | ScalarInst::Cast(..)
            | ScalarInst::Bitcast(..) => e.step(inst.map_operands(at)),
        };
        map.push(step);
    }
    // A cast alone, of what was not rounded before, is as good as any that this pass makes.
    let gains =
        if casts_only { narrowed } else { computes || types.iter().any(|&t| rounds_late(t)) && has_casts(expr) };
    gains.then(|| e.finish(*map.last().expect("expressions are not empty")))
}

fn has_casts(expr: &ScalarExpr) -> bool {
    expr.insts.iter().any(|inst| matches!(inst, ScalarInst::Cast(..)))
}
