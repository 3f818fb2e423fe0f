//! Mixtures of experts: a router chooses for each token the few experts that compute it.
//!
//! The products read the chosen experts' matrices where they lie: token by token, so that a single token costs no more than
//! its experts.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Contract, Label, ReduceOp};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::super::Operator;
use super::super::activations::{gelu_curve, swish};
use super::super::softmax::trailing_softmax;
use super::block_weights::expert_weights;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("MoE", (5, 8), |cx| {
        let layer = |cx: &NodeContext<'_>, weights: usize, bias: usize| {
            cx.optional(weights).map(|weights| Layer { weights, bias: cx.optional(bias) })
        };
        let layers = [layer(cx, 2, 3), layer(cx, 4, 5), layer(cx, 6, 7)];
        mixture(cx, layers, None, cx.flag("normalize_routing_weights", false))
    })
    .limited("No sparse mixer."),
    row("QMoE", (8, 21), quantized_mixture).limited("Weights of integers, as they are stored; no sparse mixer."),
];

/// One product of all experts: matrices `[E, out, in]` and a bias `[E, out]`.
struct Layer {
    weights: Value,
    bias: Option<Value>,
}

fn quantized_mixture(cx: &mut NodeContext<'_>) -> OpResult {
    if let Some(kind) = cx.text("quant_type")?.filter(|&kind| kind != "int") {
        return cx.unsupported(format!("weights of type `{kind}` (attribute `quant_type`)"));
    }
    let mut layers = [None, None, None];
    for (n, layer) in layers.iter_mut().enumerate() {
        let first = [2, 5, 8][n];
        if cx.optional(first).is_none() {
            continue;
        }
        let bits = cx.int_opt(["fc1_expert_weight_bits", "fc2_expert_weight_bits", "fc3_expert_weight_bits"][n]);
        let bits = bits.unwrap_or_else(|| cx.int("expert_weight_bits", 4));
        let weights = expert_weights(cx, [first, first + 1, 11 + n], bits)?;
        *layer = Some(Layer { weights, bias: cx.optional(first + 2) });
    }
    let weights = cx.optional(14);
    mixture(cx, layers, weights, true)
}

/// The chosen experts of each token, `[T, k]`, and their weights, `f32[T, k]`. `normalize` makes the softmax one over the
/// chosen experts alone, or the sum of given weights 1 where the model wants that.
fn choice(cx: &mut NodeContext<'_>, given: Option<Value>, normalize: bool) -> Result<(Value, Value), OpError> {
    let scores = cx.input(1)?;
    let count = Dim::from(cx.int("k", 1));
    let norm_given = cx.flag("normalize_routing_weights", false);
    let b = &mut cx.b;
    let scores = b.cast(scores, DType::F32)?;
    let (sorted, experts) = b.sort(scores, 1, true)?;
    let experts = b.slice_axis(experts, 1, &Dim::ZERO, &count, 1)?;
    if let Some(given) = given {
        let given = b.cast(given, DType::F32)?;
        let weights = b.take_along_axis(given, experts, 1)?;
        if !norm_given {
            return Ok((experts, weights));
        }
        let sum = b.reduce(ReduceOp::Sum, weights, &[1], true)?;
        return Ok((experts, b.div(weights, sum)?));
    }
    let weights = if normalize {
        let best = b.slice_axis(sorted, 1, &Dim::ZERO, &count, 1)?;
        trailing_softmax(b, best, 1, false)?
    } else {
        let all = trailing_softmax(b, scores, 1, false)?;
        b.take_along_axis(all, experts, 1)?
    };
    Ok((experts, weights))
}

fn mixture(
    cx: &mut NodeContext<'_>,
    [first, second, third]: [Option<Layer>; 3],
    weights: Option<Value>,
    normalize: bool,
) -> OpResult {
    if cx.flag("use_sparse_mixer", false) {
        return cx.unsupported("a sparse mixer (attribute `use_sparse_mixer`)");
    }
    let (Some(first), Some(second)) = (first, second) else { return cx.invalid("an expert's weights are missing") };
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let [outer @ .., width] = &shape[..] else { return cx.invalid("the tokens have no dimensions") };
    let tokens = outer.iter().try_fold(Dim::ONE, |n, d| &n * d)?;
    let flat = cx.b.reshape(x, &[tokens, width.clone()])?;
    let flat = cx.b.cast(flat, DType::F32)?;
    let (experts, weights) = choice(cx, weights, normalize)?;
    let gate = Gate::of(cx, third.is_some())?;
    let b = &mut cx.b;
    // Labels of tokens, choices, and the elements of what goes into a product and comes out of it.
    const T: Label = 0;
    const J: Label = 1;
    const IN: Label = 2;
    const OUT: Label = 3;
    let inner = |b: &mut Builder<'_>, layer: &Layer| -> Result<Value, OpError> {
        let matrices = chosen(b, layer.weights, experts)?;
        let y = b.contract(labels(&[T, IN], &[T, J, OUT, IN], &[T, J, OUT]), flat, matrices)?;
        with_bias(b, y, layer.bias, experts)
    };
    let hidden = inner(b, &first)?;
    let hidden = match &third {
        None => gate.apply(b, hidden)?,
        Some(third) => {
            let (gated, other) = (gate.activation(b, hidden)?, inner(b, third)?);
            b.mul(gated, other)?
        }
    };
    let weights = b.unsqueeze(weights, &[2])?;
    let hidden = b.mul(hidden, weights)?;
    let matrices = chosen(b, second.weights, experts)?;
    let mut y = b.contract(labels(&[T, J, IN], &[T, J, OUT, IN], &[T, OUT]), hidden, matrices)?;
    if let Some(bias) = second.bias {
        let bias = b.cast(bias, DType::F32)?;
        let bias = b.take(bias, experts, 0)?;
        let bias = b.mul(bias, weights)?;
        let bias = b.reduce(ReduceOp::Sum, bias, &[1], false)?;
        y = b.add(y, bias)?;
    }
    let y = b.reshape(y, &shape)?;
    Ok(vec![b.cast(y, dtype)?])
}

fn labels(lhs: &[Label], rhs: &[Label], out: &[Label]) -> Contract {
    let list = |labels: &[Label]| labels.iter().copied().collect();
    Contract { lhs: list(lhs), rhs: list(rhs), out: list(out), acc: DType::F32, panel: None }
}

/// The chosen experts' part of something, `f32`.
fn chosen(b: &mut Builder<'_>, all: Value, experts: Value) -> Result<Value, BuildError> {
    let all = b.cast(all, DType::F32)?;
    b.take(all, experts, 0)
}

fn with_bias(b: &mut Builder<'_>, y: Value, bias: Option<Value>, experts: Value) -> Result<Value, OpError> {
    let Some(bias) = bias else { return Ok(y) };
    let bias = chosen(b, bias, experts)?;
    Ok(b.add(y, bias)?)
}

/// What stands between the two products.
#[derive(Clone, Copy)]
enum Gate {
    Identity,
    Relu,
    Gelu,
    Silu,
    /// A gate and a line from one product.
    Swiglu {
        alpha: f64,
        beta: f64,
        limit: f64,
        /// Whether they take turns, instead of one being behind the other.
        interleaved: bool,
    },
}

impl Gate {
    fn of(cx: &NodeContext<'_>, apart: bool) -> Result<Gate, OpError> {
        let fusion = cx.int("swiglu_fusion", 0);
        match cx.text("activation_type")?.unwrap_or("relu") {
            "identity" => Ok(Gate::Identity),
            "relu" => Ok(Gate::Relu),
            "gelu" => Ok(Gate::Gelu),
            "silu" => Ok(Gate::Silu),
            "swiglu" if apart && fusion == 0 => cx.unsupported("SwiGLU of two products (attribute `swiglu_fusion` 0)"),
            "swiglu" if !apart && matches!(fusion, 1 | 2) => Ok(Gate::Swiglu {
                alpha: cx.float("activation_alpha", 1.0).into(),
                beta: cx.float("activation_beta", 0.0).into(),
                limit: cx.float("swiglu_limit", f32::INFINITY).into(),
                interleaved: fusion == 1,
            }),
            "swiglu" => cx.invalid(format!("attribute `swiglu_fusion` is {fusion}")),
            other => cx.invalid(format!("attribute `activation_type` is `{other}`")),
        }
    }

    /// An activation of single elements.
    fn activation(self, b: &mut Builder<'_>, x: Value) -> Result<Value, BuildError> {
        let t = DType::F32;
        match self {
            Gate::Identity | Gate::Swiglu { .. } => Ok(x),
            Gate::Relu => b.relu(x),
            Gate::Gelu => b.map(&[x], |e| {
                let x = e.arg(0);
                gelu_curve(e, t, x, true)
            }),
            Gate::Silu => b.map(&[x], |e| {
                let x = e.arg(0);
                swish(e, t, x, 1.0)
            }),
        }
    }

    fn apply(self, b: &mut Builder<'_>, x: Value) -> Result<Value, OpError> {
        let Gate::Swiglu { alpha, beta, limit, interleaved } = self else { return Ok(self.activation(b, x)?) };
        let shape = b.shape(x)?;
        let half = shape[2].floor_div(&Dim::from(2))?;
        let mut part = |n: i64| -> Result<Value, OpError> {
            if !interleaved {
                return Ok(b.slice_axis(x, 2, &(&half * &Dim::from(n))?, &half, 1)?);
            }
            let pairs: Shape = [shape[0].clone(), shape[1].clone(), half.clone(), Dim::from(2)].into_iter().collect();
            let pairs = b.reshape(x, &pairs)?;
            let one = b.slice_axis(pairs, 3, &Dim::from(n), &Dim::ONE, 1)?;
            Ok(b.squeeze(one, &[3])?)
        };
        let (gate, line) = (part(0)?, part(1)?);
        let t = DType::F32;
        Ok(b.map(&[gate, line], |e| {
            let (mut gate, mut line) = (e.arg(0), e.arg(1));
            if limit.is_finite() {
                let (most, least) = (e.number(t, limit)?, e.number(t, -limit)?);
                gate = e.min(gate, most);
                line = e.min(line, most);
                line = e.max(line, least);
            }
            let beta = e.number(t, beta)?;
            let (gate, line) = (swish(e, t, gate, alpha)?, e.add(line, beta));
            Ok(e.mul(gate, line))
        })?)
    }
}
