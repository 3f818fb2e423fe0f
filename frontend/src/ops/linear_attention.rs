//! Attention with a state instead of all past keys, its short convolution, and attention with subgraphs as modifiers.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::op::{Contract, Conv, Coord};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::Operator;
use super::attention::{scores_with_scale, weighted_values};
use super::control::slice_at;
use super::conv::add_bias;
use super::linear::sum_type;
use super::softmax::trailing_softmax;
use crate::import::{NodeContext, OpError, OpResult};
use crate::proto::dtype_from_onnx;

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("CausalConvWithState", &[27], (2, 4), causal_conv),
    Operator {
        domain: "com.microsoft",
        name: "CausalConvWithState",
        versions: &[1],
        inputs: (2, 4),
        limits: "One spatial dimension.",
        import: causal_conv,
    },
    Operator::onnx("LinearAttention", &[27], (3, 6), linear_attention),
    Operator {
        domain: "com.microsoft",
        name: "LinearAttention",
        versions: &[1],
        inputs: (3, 6),
        limits: "",
        import: linear_attention,
    },
    Operator {
        domain: "ai.onnx.preview",
        name: "FlexAttention",
        versions: &[1],
        inputs: (3, 3),
        limits: "",
        import: flex_attention,
    },
];

/// A depthwise convolution of the past state, or zeros, and the input; the last elements are the next state. In the
/// domain com.microsoft also with distances between the taps, with channels last, and with several states.
fn causal_conv(cx: &mut NodeContext<'_>) -> OpResult {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let (whole, filter, dtype) = (cx.b.shape(x)?, cx.b.shape(w)?, cx.b.dtype(x)?);
    if cx.int("ndim", 1) != 1 {
        return cx.unsupported("more than one spatial dimension (attribute `ndim`)");
    }
    let (last, window, dilation) = (cx.flag("channels_last", false), cx.int("state_window", 0), cx.int("dilation", 1));
    if whole.len() < 3 || !last && whole.len() != 3 || dilation < 1 || window < 0 {
        return cx.invalid("the input has not 3 dimensions, or an attribute is negative");
    }
    let x = if last { channels_first(&mut cx.b, x)? } else { x };
    let shape = cx.b.shape(x)?;
    let sizes = (shape[1].as_const(), filter.get(2).and_then(Dim::as_const));
    let (Some(channels), Some(kernel)) = sizes else {
        return cx.unsupported("channels and a kernel whose sizes are not known");
    };
    let before = Dim::from((kernel - 1) * dilation);
    let padded = match cx.optional(3) {
        Some(mut state) => {
            if window > 0 {
                let newest = cx.b.slice_axis(state, 0, &Dim::from(window - 1), &Dim::ONE, 1)?;
                state = cx.b.squeeze(newest, &[0])?;
            }
            let state = if last { channels_first(&mut cx.b, state)? } else { state };
            cx.b.concat(&[state, x], 2)?
        }
        None => {
            let zero = cx.b.number(dtype, 0.0)?;
            let (lo, hi) = ([Dim::ZERO, Dim::ZERO, before.clone()], [Dim::ZERO, Dim::ZERO, Dim::ZERO]);
            cx.b.pad(x, zero, &lo, &hi)?
        }
    };
    let conv = Conv {
        strides: [1].as_slice().into(),
        pad_lo: [0].as_slice().into(),
        pad_hi: [0].as_slice().into(),
        lhs_dilation: [1].as_slice().into(),
        rhs_dilation: [dilation].as_slice().into(),
        groups: channels,
        channels_last: false,
        acc: sum_type(dtype),
        panel: None,
        winograd: None,
        kernel: [kernel].as_slice().into(),
    };
    let y = cx.b.conv(conv, padded, w)?;
    let y = cx.b.cast(y, dtype)?;
    let bias = cx.optional(2);
    let mut y = add_bias(cx, y, bias)?;
    match cx.text("activation")?.unwrap_or("none") {
        "none" => {}
        "silu" | "swish" => {
            let acc = sum_type(dtype);
            let wide = cx.b.cast(y, acc)?;
            let active = cx.b.map(&[wide], |e| {
                let x = e.arg(0);
                let gate = e.sigmoid(x);
                Ok(e.mul(x, gate))
            })?;
            y = cx.b.cast(active, dtype)?;
        }
        other => return cx.invalid(format!("attribute `activation` is `{other}`")),
    }
    let mut state = if window > 0 {
        states(&mut cx.b, padded, window, &shape[2], &before)?
    } else {
        cx.b.slice_axis(padded, 2, &shape[2], &before, 1)?
    };
    if last {
        y = cx.b.transpose(y, &[0, 2, 1])?;
        y = cx.b.reshape(y, &whole)?;
        let inner = whole[2..].iter().cloned();
        let (perm, outer): (&[usize], Vec<Dim>) = if window > 0 {
            (&[0, 1, 3, 2], vec![Dim::from(window), shape[0].clone(), before])
        } else {
            (&[0, 2, 1], vec![shape[0].clone(), before])
        };
        state = cx.b.transpose(state, perm)?;
        state = cx.b.reshape(state, &outer.into_iter().chain(inner).collect::<Vec<_>>())?;
    }
    Ok(vec![y, state])
}

/// `[B, S, ...]` as `[B, C, S]`.
fn channels_first(b: &mut Builder<'_>, x: Value) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    let merged = b.reshape(x, &[shape[0].clone(), shape[1].clone(), Dim::product(&shape[2..])?])?;
    Ok(b.transpose(merged, &[0, 2, 1])?)
}

/// The states after the last positions, `[window, B, C, K]`: zeros where there are not so many positions.
fn states(b: &mut Builder<'_>, padded: Value, window: i64, length: &Dim, size: &Dim) -> Result<Value, OpError> {
    let (shape, dtype) = (b.shape(padded)?, b.dtype(padded)?);
    let first = (length - &Dim::from(window))?;
    let space = [Dim::from(window), shape[0].clone(), shape[1].clone(), size.clone()];
    let places = b.map_to(&[Dim::from(window), Dim::ONE, Dim::ONE, size.clone()], &[], |e| {
        let (slot, i, first) = (e.index(0), e.index(3), e.dim(&(&first + &Dim::ONE)?));
        let start = e.add(first, slot);
        Ok(e.add(start, i))
    })?;
    let picked = b.gather(padded, &[places], &[Coord::Axis(1), Coord::Axis(2), Coord::Input(0)], &space)?;
    Ok(b.map_to(&space, &[picked], |e| {
        let (x, slot, first, none) = (e.arg(0), e.index(0), e.dim(&first), e.dim(&Dim::ZERO));
        let position = e.add(first, slot);
        let there = e.ge(position, none);
        let zero = e.number(dtype, 0.0)?;
        Ok(e.select(there, x, zero))
    })?)
}

/// The sequences that a step takes its part of, all with the time as the first axis, and constants.
struct Recurrence {
    /// `[T, B, H, G, K]`.
    query: Value,
    /// `[T, B, H, K]`.
    key: Value,
    /// `[T, B, H, V]`.
    value: Value,
    /// `[T, B, H, K or 1]`, logarithms.
    decay: Option<Value>,
    /// `[T, B, H or 1, 1]`.
    beta: Option<Value>,
}

fn linear_attention(cx: &mut NodeContext<'_>) -> OpResult {
    let (heads, keys) = (cx.int("q_num_heads", 0), cx.int("kv_num_heads", 0));
    let shared = heads < keys;
    if keys < 1 || heads < 1 || if shared { keys % heads != 0 } else { heads % keys != 0 } {
        return cx.invalid(format!("{heads} heads of queries and {keys} of keys"));
    }
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let dtype = cx.b.dtype(q)?;
    let acc = sum_type(dtype);
    let window = cx.int("state_window", 0);
    let (h, group) = (Dim::from(keys), Dim::from((heads / keys).max(1)));
    // [B, T, parts * D] as [T, B, ...].
    let timed = |cx: &mut NodeContext<'_>, x: Value, inner: &[Dim]| -> Result<Value, OpError> {
        let shape = cx.b.shape(x)?;
        if shape.len() != 3 {
            return cx.invalid("the operands have three dimensions");
        }
        let parts = Dim::product(inner)?;
        let split: Shape = [shape[0].clone(), shape[1].clone()]
            .into_iter()
            .chain(inner.iter().cloned())
            .chain([shape[2].floor_div(&parts)?])
            .collect();
        let x = cx.b.cast(x, acc)?;
        let x = cx.b.reshape(x, &split)?;
        let perm: Vec<usize> = [1, 0].into_iter().chain(2..split.len()).collect();
        Ok(cx.b.transpose(x, &perm)?)
    };
    let single = |cx: &NodeContext<'_>, x: Value| cx.b.shape(x).is_ok_and(|s| s.last().is_some_and(|d| *d == 1));
    let mut steps = Recurrence {
        query: if shared {
            let single = timed(cx, q, &[Dim::from(heads)])?;
            repeated(&mut cx.b, single, keys / heads)?
        } else {
            timed(cx, q, &[h.clone(), group])?
        },
        key: timed(cx, k, std::slice::from_ref(&h))?,
        value: timed(cx, v, std::slice::from_ref(&h))?,
        decay: None,
        beta: None,
    };
    let rule = cx.text("update_rule")?.unwrap_or("gated_delta");
    let (gated, delta) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return cx.invalid(format!("attribute `update_rule` is `{other}`")),
    };
    if gated {
        let decay = cx.input(4)?;
        steps.decay = Some(timed(cx, decay, std::slice::from_ref(&h))?);
    }
    if delta {
        let beta = cx.input(5)?;
        let inner = if single(cx, beta) { Dim::ONE } else { h.clone() };
        steps.beta = Some(timed(cx, beta, &[inner])?);
    }
    let (key, value) = (cx.b.shape(steps.key)?, cx.b.shape(steps.value)?);
    let (past, state_type) = match cx.optional(3) {
        Some(mut past) => {
            if window > 0 {
                let newest = cx.b.slice_axis(past, 0, &Dim::from(window - 1), &Dim::ONE, 1)?;
                past = cx.b.squeeze(newest, &[0])?;
            }
            (cx.b.cast(past, acc)?, cx.b.dtype(past)?)
        }
        None => {
            let zero = cx.b.number(acc, 0.0)?;
            let shape = [key[1].clone(), h, key[3].clone(), value[3].clone()];
            (cx.b.broadcast(zero, &shape)?, dtype)
        }
    };
    let scale = match cx.float("scale", 0.0) {
        0.0 => match key[3].as_const() {
            Some(n) => 1.0 / (n as f64).sqrt(),
            None => return cx.unsupported("a size of heads that is not known"),
        },
        scale => f64::from(scale),
    };
    let (outputs, state) = recurrence(&mut cx.b, &steps, past, acc, window)?;
    let y = cx.b.binary_number(BinaryOp::Mul, outputs, scale)?;
    let shape = cx.b.shape(y)?;
    let y = cx.b.transpose(y, &[1, 0, 2, 3, 4])?;
    let y = cx.b.reshape(y, &[shape[1].clone(), shape[0].clone(), Dim::product(&shape[2..])?])?;
    Ok(vec![cx.b.cast(y, dtype)?, cx.b.cast(state, state_type)?])
}

/// Queries `[T, B, H, K]` for several heads of keys each, as `[T, B, H * times, 1, K]`.
fn repeated(b: &mut Builder<'_>, x: Value, times: i64) -> Result<Value, OpError> {
    let shape = b.shape(x)?;
    let times = Dim::from(times);
    let x = b.unsqueeze(x, &[3])?;
    let [t, n, h, k] = [0, 1, 2, 3].map(|i| shape[i].clone());
    let x = b.broadcast(x, &[t.clone(), n.clone(), h.clone(), times.clone(), k.clone()])?;
    Ok(b.reshape(x, &[t, n, (&h * &times)?, Dim::ONE, k])?)
}

/// The loop over time: what is read, `[T, B, H, G, V]`, and the last state, `[B, H, K, V]`, or the last states for a window
/// of them, `[window, B, H, K, V]`, where zeros stand for steps that there are not.
fn recurrence(
    b: &mut Builder<'_>,
    steps: &Recurrence,
    past: Value,
    acc: DType,
    window: i64,
) -> Result<(Value, Value), BuildError> {
    let length = b.shape(steps.key)?[0].clone();
    let (trip_count, condition) = (b.dim_value(&length), b.scalar_bool(true));
    let captures: Vec<Value> =
        [steps.query, steps.key, steps.value].into_iter().chain(steps.decay).chain(steps.beta).collect();
    let carried = vec![(past, b.ty(past).clone())];
    let (gated, delta) = (steps.decay.is_some(), steps.beta.is_some());
    let spec = LoopSpec { trip_count, condition, carried, captures, iterations: Some(length.clone()) };
    // Labels: 0 batch, 1 head, 2 group, 3 key feature, 4 value feature.
    let contract = |lhs: &[u8], rhs: &[u8], out: &[u8]| Contract {
        lhs: lhs.into(),
        rhs: rhs.into(),
        out: out.into(),
        acc,
        panel: None,
    };
    let results = b.loop_(&spec, |b, i, state, captures| {
        let mut parts = captures.iter().map(|&c| slice_at(b, c, 0, i)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let mut next = || parts.next().expect("a slice of each capture");
        let (query, key, mut value) = (next(), next(), next());
        let mut state = state[0];
        if gated {
            let decay = b.unsqueeze(next(), &[-1])?;
            state = b.map(&[state, decay], |e| {
                let (state, decay) = (e.arg(0), e.arg(1));
                let factor = e.exp(decay);
                Ok(e.mul(state, factor))
            })?;
        }
        if delta {
            let read = b.contract(contract(&[0, 1, 3], &[0, 1, 3, 4], &[0, 1, 4]), key, state)?;
            value = b.map(&[value, read, next()], |e| {
                let (value, read, beta) = (e.arg(0), e.arg(1), e.arg(2));
                let difference = e.sub(value, read);
                Ok(e.mul(beta, difference))
            })?;
        }
        let (column, row) = (b.unsqueeze(key, &[-1])?, b.unsqueeze(value, &[-2])?);
        let state = b.map(&[state, column, row], |e| {
            let (state, key, value) = (e.arg(0), e.arg(1), e.arg(2));
            let product = e.mul(key, value);
            Ok(e.add(state, product))
        })?;
        let output = b.contract(contract(&[0, 1, 2, 3], &[0, 1, 3, 4], &[0, 1, 2, 4]), query, state)?;
        let shown = if window > 0 { vec![output, state] } else { vec![output] };
        Ok::<_, BuildError>((b.scalar_bool(true), vec![state], shown))
    })?;
    if window == 0 {
        return Ok((results[1], results[0]));
    }
    let (states, window) = (results[2], Dim::from(window));
    let zero = b.number(acc, 0.0)?;
    let mut lo = vec![Dim::ZERO; 5];
    lo[0] = window.clone();
    let padded = b.pad(states, zero, &lo, &[const { Dim::ZERO }; 5])?;
    Ok((results[1], b.slice_axis(padded, 0, &length, &window, 1)?))
}

/// Attention whose scores and probabilities go through subgraphs.
fn flex_attention(cx: &mut NodeContext<'_>) -> OpResult {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if [q, k, v].iter().any(|&x| cx.b.rank(x) != Ok(4)) {
        return cx.invalid("query, key and value have to have 4 dimensions");
    }
    let dtype = cx.b.dtype(q)?;
    let scale = match (cx.float_opt("scale"), cx.b.shape(q)?[3].as_const()) {
        (Some(scale), _) => f64::from(scale),
        (None, Some(n)) => 1.0 / (n as f64).sqrt(),
        (None, None) => return cx.unsupported("a size of heads that is not known"),
    };
    let precision = match cx.int_opt("softmax_precision") {
        Some(n) => i32::try_from(n).ok().and_then(dtype_from_onnx),
        None => Some(sum_type(dtype)),
    };
    let Some(precision) = precision else { return cx.invalid("attribute `softmax_precision` is no element type") };
    let scores = scores_with_scale(&mut cx.b, q, k, scale, dtype)?;
    let scores = cx.b.cast(scores, precision)?;
    let scores = modified(cx, "score_mod", scores)?;
    let weights = trailing_softmax(&mut cx.b, scores, 3, false)?;
    let weights = modified(cx, "prob_mod", weights)?;
    let v = cx.b.cast(v, precision)?;
    let y = weighted_values(&mut cx.b, weights, v)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// What a subgraph makes of a tensor; the tensor, if there is none.
fn modified(cx: &mut NodeContext<'_>, name: &str, x: Value) -> Result<Value, OpError> {
    if cx.attribute(name).is_none() {
        return Ok(x);
    }
    let sub = cx.subgraph(name)?;
    let importer = cx.importer();
    match importer.import(&mut cx.b, &sub, &[x], &sub.captures)?[..] {
        [y] => Ok(y),
        _ => cx.invalid(format!("the subgraph `{name}` has not one output")),
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, floats, noise};

    #[test]
    fn the_state_continues_a_sequence() {
        // Two halves, the second with the state of the first, are the whole.
        let (q, k, v) = (noise(4 * 4), noise(4 * 2), noise(4 * 6));
        let run = |from: usize, to: usize, state: Option<&[f32]>| {
            let steps = (to - from) as i64;
            let model = TestModel::new("LinearAttention", 27)
                .outputs(2)
                .int("q_num_heads", 4)
                .int("kv_num_heads", 2)
                .text("update_rule", "linear")
                .input(&[1, steps, 4], &q[from * 4..to * 4])
                .input(&[1, steps, 2], &k[from * 2..to * 2])
                .input(&[1, steps, 6], &v[from * 6..to * 6]);
            let model = if let Some(state) = state { model.input(&[1, 2, 1, 3], state) } else { model };
            let results = model.run_all();
            (floats(&results[0]), floats(&results[1]))
        };
        let (whole, state) = run(0, 4, None);
        let (first, middle) = run(0, 2, None);
        let (second, last) = run(2, 4, Some(&middle.1));
        assert_close(&last, &state);
        assert_close(&(vec![1, 4, 12], [first.1, second.1].concat()), &whole);
    }

    #[test]
    fn the_convolution_continues_a_sequence() {
        let (x, w) = (noise(2 * 5), noise(2 * 3));
        let run = |model: TestModel| {
            let results = model.outputs(2).run_all();
            (floats(&results[0]), floats(&results[1]))
        };
        let model = || TestModel::new("CausalConvWithState", 27).text("activation", "silu");
        let (whole, state) = run(model().input(&[1, 2, 5], &x).floats(&[2, 1, 3], &w));
        let columns = |from: usize, to: usize| [&x[from..to], &x[5 + from..5 + to]].concat();
        let (_, middle) = run(model().input(&[1, 2, 3], &columns(0, 3)).floats(&[2, 1, 3], &w));
        let (second, last) =
            run(model().input(&[1, 2, 2], &columns(3, 5)).floats(&[2, 1, 3], &w).absent().input(&[1, 2, 2], &middle.1));
        assert_close(&last, &state);
        let tail: Vec<f32> = [&whole.1[3..5], &whole.1[8..10]].concat();
        assert_close(&second, &(vec![1, 2, 2], tail));
    }
}
