//! Recurrent layers.
//!
//! The inputs of all time steps are projected by one contraction per direction. What remains, a loop over time whose body
//! is the cell, is a composite, so that a schedule can keep the state and the recurrent weights close.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder, LoopSpec};
use onnxc_ir::tensor::op::{CompositeKind, Contract, Coord, RecurrentCell};
use onnxc_ir::tensor::{Builder, Shape, Value};

use super::Operator;
use super::cell_function::Activation;
use super::linear::sum_type;
use super::quantize::dynamically_quantized;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("RNN", &[1, 7, 14, 22], (3, 6), |cx| layer(cx, RecurrentCell::Rnn)),
    Operator::onnx("GRU", &[1, 3, 7, 14, 22], (3, 6), |cx| layer(cx, RecurrentCell::Gru)),
    Operator::onnx("LSTM", &[1, 7, 14, 22], (3, 8), |cx| layer(cx, RecurrentCell::Lstm)),
];

/// The cell's attributes.
struct Cell {
    kind: RecurrentCell,
    /// The functions of one direction.
    activations: Vec<Activation>,
    /// What the inputs of activations are clipped to.
    clip: Option<f32>,
    /// GRU: whether the state is multiplied by the weights before the reset gate applies.
    linear_before_reset: bool,
    /// LSTM: whether the forget gate is what the input gate leaves.
    input_forget: bool,
    /// LSTM: whether the states that meet the weights are quantized in each step.
    quantized: bool,
    /// The type in which it computes.
    acc: DType,
    /// Number of hidden units.
    hidden: Dim,
}

/// The values that a direction works on; all are inputs of the composite.
struct Weights {
    /// The projected inputs with their biases, `[T, B, gates * H]`.
    projected: Value,
    /// The recurrent weights, `[gates * H, H]`, those that meet the state itself.
    recurrent: Value,
    /// The initial states, `[B, H]`: hidden, and for LSTM the cell's.
    states: Vec<Value>,
    /// GRU with the reset before the product: the weights of the hidden gate, `[H, H]`.
    after_reset: Option<Value>,
    /// GRU with the product before the reset: the recurrent bias of the hidden gate, `[H]`.
    hidden_bias: Option<Value>,
    /// LSTM: the peephole weights of the input, output and forget gates, `[3 * H]`.
    peepholes: Option<Value>,
    /// The length of each sequence, `i64[B]`.
    lengths: Option<Value>,
}

impl Cell {
    fn gates(&self) -> i64 {
        match self.kind {
            RecurrentCell::Rnn => 1,
            RecurrentCell::Gru => 3,
            RecurrentCell::Lstm => 4,
        }
    }

    fn default_activations(&self) -> &'static [Activation] {
        match self.kind {
            RecurrentCell::Rnn => &[Activation::Tanh],
            RecurrentCell::Gru => &[Activation::Sigmoid, Activation::Tanh],
            RecurrentCell::Lstm => &[Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
        }
    }
}

fn layer(cx: &mut NodeContext<'_>, kind: RecurrentCell) -> OpResult {
    let acc = sum_type(cx.b.dtype(cx.input(0)?)?);
    let (Some(w), Some(r)) = (widened(cx, 1, acc)?, widened(cx, 2, acc)?) else {
        return cx.invalid("has no weights");
    };
    layer_with_weights(cx, kind, (w, r), false)
}

/// A layer with the weights of the inputs, `[D, gates * H, I]`, and of the states, `[D, gates * H, H]`. `quantized` inputs
/// and, in each step, states have at most 256 values: those that `DynamicQuantizeLinear` gives.
pub(super) fn layer_with_weights(
    cx: &mut NodeContext<'_>,
    kind: RecurrentCell,
    (w, r): (Value, Value),
    quantized: bool,
) -> OpResult {
    let dtype = cx.b.dtype(cx.input(0)?)?;
    let acc = sum_type(dtype);
    let batch_first = cx.flag("layout", false);
    let mut x = widened(cx, 0, acc)?.ok_or_else(|| OpError::Invalid("input 0 is missing".into()))?;
    if [x, w, r].iter().any(|&v| cx.b.rank(v) != Ok(3)) {
        return cx.invalid("the input and the weights have to have three dimensions");
    }
    if batch_first {
        x = cx.b.transpose(x, &[1, 0, 2])?;
    }
    if quantized {
        x = in_steps(&mut cx.b, x)?;
    }
    let hidden = cx.b.shape(r)?[2].clone();
    let mut cell = Cell {
        kind,
        activations: Vec::new(),
        clip: cx.float_opt("clip"),
        linear_before_reset: cx.flag("linear_before_reset", false),
        input_forget: cx.flag("input_forget", false),
        quantized,
        acc,
        hidden,
    };
    if cx.int_opt("hidden_size").is_some_and(|h| cell.hidden.as_const().is_some_and(|n| n != h)) {
        return cx.invalid("attribute `hidden_size` is not what the weights have");
    }
    let reversed: &[bool] = match cx.text("direction")? {
        None | Some("forward") => &[false],
        Some("reverse") => &[true],
        Some("bidirectional") => &[false, true],
        Some(other) => return cx.invalid(format!("attribute `direction` is `{other}`")),
    };
    let activations = read_activations(cx, &cell, reversed.len())?;
    let lengths = sequence_lengths(cx, x)?;
    let (mut outputs, mut finals) = (Vec::new(), Vec::new());
    for (d, &reverse) in reversed.iter().enumerate() {
        cell.activations = activations[d * activations.len() / reversed.len()..].to_vec();
        let weights = direction_weights(cx, &cell, d as i64, (x, w, r), lengths, batch_first)?;
        let mut results = run_direction(&mut cx.b, &cell, weights, reverse)?.into_iter();
        outputs.extend(results.next());
        finals.push(results.collect::<Vec<Value>>());
    }
    let joined = |cx: &mut NodeContext<'_>, parts: &[Value], axis: i64| -> Result<Value, OpError> {
        let parts = parts.iter().map(|&p| cx.b.unsqueeze(p, &[axis])).collect::<Result<Vec<_>, _>>()?;
        let all = cx.b.concat(&parts, axis)?;
        Ok(cx.b.cast(all, dtype)?)
    };
    let y = joined(cx, &outputs, 1)?;
    let mut results = vec![if batch_first { cx.b.transpose(y, &[2, 0, 1, 3])? } else { y }];
    for n in 0..finals[0].len() {
        let parts: Vec<Value> = finals.iter().map(|f| f[n]).collect();
        let state = joined(cx, &parts, 0)?;
        results.push(if batch_first { cx.b.transpose(state, &[1, 0, 2])? } else { state });
    }
    Ok(results)
}

/// An optional input in the type of the computation.
fn widened(cx: &mut NodeContext<'_>, n: usize, acc: DType) -> Result<Option<Value>, OpError> {
    Ok(cx.optional(n).map(|v| cx.b.cast(v, acc)).transpose()?)
}

/// The functions of all directions. Numbers for them are consumed in order by those that take numbers.
fn read_activations(cx: &NodeContext<'_>, cell: &Cell, directions: usize) -> Result<Vec<Activation>, OpError> {
    let defaults = cell.default_activations();
    let Some(names) = cx.texts("activations")?.filter(|names| !names.is_empty()) else {
        return Ok(defaults.repeat(directions));
    };
    if names.len() != defaults.len() * directions {
        return cx.invalid(format!("attribute `activations` has {} entries", names.len()));
    }
    let mut alphas = cx.floats("activation_alpha").unwrap_or_default().iter().copied();
    let mut betas = cx.floats("activation_beta").unwrap_or_default().iter().copied();
    names
        .iter()
        .map(|name| match Activation::read(name, &mut alphas, &mut betas) {
            Some(activation) => Ok(activation),
            None => cx.invalid(format!("attribute `activations` has the unknown entry `{name}`")),
        })
        .collect()
}

/// The lengths of the sequences, unless all are known to be whole.
fn sequence_lengths(cx: &mut NodeContext<'_>, x: Value) -> Result<Option<Value>, OpError> {
    let Some(lengths) = cx.optional(4) else { return Ok(None) };
    let whole = cx.b.shape(x)?[0].clone();
    if cx.b.known_dims(lengths).is_some_and(|l| l.iter().all(|l| *l == whole)) {
        return Ok(None);
    }
    Ok(Some(cx.b.cast(lengths, DType::I64)?))
}

/// Cuts a direction's part out of the weights and projects the inputs.
fn direction_weights(
    cx: &mut NodeContext<'_>,
    cell: &Cell,
    direction: i64,
    (x, w, r): (Value, Value, Value),
    lengths: Option<Value>,
    batch_first: bool,
) -> Result<Weights, OpError> {
    let h = &cell.hidden;
    let units = (h * &Dim::from(cell.gates()))?;
    let batch = cx.b.shape(x)?[1].clone();
    let (w, r) = (part(cx, w, direction)?, part(cx, r, direction)?);
    let contract = Contract {
        lhs: [3, 4, 0].as_slice().into(),
        rhs: [2, 0].as_slice().into(),
        out: [3, 4, 2].as_slice().into(),
        acc: cell.acc,
        panel: None,
    };
    let mut projected = cx.b.contract(contract, x, w)?;
    let split_reset = cell.kind == RecurrentCell::Gru && cell.linear_before_reset;
    let mut hidden_bias = None;
    if let Some(bias) = widened(cx, 3, cell.acc)? {
        let bias = part(cx, bias, direction)?;
        let input_bias = cx.b.slice_axis(bias, 0, &Dim::ZERO, &units, 1)?;
        let recurrent_bias = cx.b.slice_axis(bias, 0, &units, &units, 1)?;
        let sum = if split_reset {
            // The hidden gate's recurrent bias is subject to the reset gate.
            let gates = (h * &Dim::from(2))?;
            hidden_bias = Some(cx.b.slice_axis(recurrent_bias, 0, &gates, h, 1)?);
            let joint = [input_bias, recurrent_bias].map(|v| cx.b.slice_axis(v, 0, &Dim::ZERO, &gates, 1));
            let [input_part, recurrent_part] = joint;
            let first = cx.b.add(input_part?, recurrent_part?)?;
            let last = cx.b.slice_axis(input_bias, 0, &gates, h, 1)?;
            cx.b.concat(&[first, last], 0)?
        } else {
            cx.b.add(input_bias, recurrent_bias)?
        };
        projected = cx.b.add(projected, sum)?;
    }
    let (recurrent, after_reset) = if cell.kind == RecurrentCell::Gru && !cell.linear_before_reset {
        let gates = (h * &Dim::from(2))?;
        let first = cx.b.slice_axis(r, 0, &Dim::ZERO, &gates, 1)?;
        (first, Some(cx.b.slice_axis(r, 0, &gates, h, 1)?))
    } else {
        (r, None)
    };
    let mut states = Vec::new();
    for n in 0..if cell.kind == RecurrentCell::Lstm { 2 } else { 1 } {
        states.push(match widened(cx, 5 + n, cell.acc)? {
            Some(state) => {
                let state = if batch_first { cx.b.transpose(state, &[1, 0, 2])? } else { state };
                let state = part(cx, state, direction)?;
                // The state may know the size of the batch where the input does not, or the other way round.
                cx.b.reshape(state, &[batch.clone(), h.clone()])?
            }
            None => {
                let zero = cx.b.number(cell.acc, 0.0)?;
                cx.b.broadcast(zero, &[batch.clone(), h.clone()])?
            }
        });
    }
    let peepholes = match widened(cx, 7, cell.acc)?.filter(|_| cell.kind == RecurrentCell::Lstm) {
        Some(p) => Some(part(cx, p, direction)?),
        None => None,
    };
    Ok(Weights { projected, recurrent, states, after_reset, hidden_bias, peepholes, lengths })
}

/// One direction's part of a tensor, without the axis of directions.
fn part(cx: &mut NodeContext<'_>, x: Value, direction: i64) -> Result<Value, OpError> {
    let rest: Shape = cx.b.shape(x)?[1..].into();
    let x = cx.b.slice_axis(x, 0, &Dim::from(direction), &Dim::ONE, 1)?;
    Ok(cx.b.reshape(x, &rest)?)
}

/// The loop over time. Gives the states of all steps, `[T, B, H]`, and the last states.
fn run_direction(b: &mut Builder<'_>, cell: &Cell, w: Weights, reverse: bool) -> Result<Vec<Value>, OpError> {
    let optional = [w.after_reset, w.hidden_bias, w.peepholes, w.lengths];
    let present = optional.map(|v| v.is_some());
    let states = w.states.len();
    let inputs: Vec<Value> =
        [w.projected, w.recurrent].into_iter().chain(w.states).chain(optional.into_iter().flatten()).collect();
    let kind = CompositeKind::Recurrent { cell: cell.kind };
    Ok(b.composite(kind, &inputs, |b, inputs| {
        let mut rest = inputs.iter().copied();
        let mut next = || rest.next().expect("as many parameters as inputs");
        let (projected, recurrent) = (next(), next());
        let states = (0..states).map(|_| next()).collect();
        let [after_reset, hidden_bias, peepholes, lengths] = present.map(|p| p.then(&mut next));
        let w = Weights { projected, recurrent, states, after_reset, hidden_bias, peepholes, lengths };
        time_loop(b, cell, w, reverse)
    })?)
}

fn time_loop(b: &mut Builder<'_>, cell: &Cell, mut w: Weights, reverse: bool) -> Result<Vec<Value>, BuildError> {
    let shape = b.shape(w.projected)?;
    let (steps, batch) = (shape[0].clone(), shape[1].clone());
    if let Some(lengths) = w.lengths {
        w.lengths = Some(b.reshape(lengths, &[batch.clone(), Dim::ONE])?);
    }
    let (trip_count, condition) = (b.dim_value(&steps), b.scalar_bool(true));
    let optional = [w.after_reset, w.hidden_bias, w.peepholes, w.lengths];
    let captures: Vec<Value> = [w.projected, w.recurrent].into_iter().chain(optional.into_iter().flatten()).collect();
    let carried = w.states.iter().map(|&s| (s, b.ty(s).clone())).collect();
    let spec = LoopSpec { trip_count, condition, carried, captures, iterations: Some(steps.clone()) };
    let mut results = b.loop_(&spec, |b, i, states, captures| {
        let mut rest = captures.iter().copied();
        let mut next = || rest.next().expect("as many values as captures");
        let (projected, recurrent) = (next(), next());
        let [after_reset, hidden_bias, peepholes, lengths] = optional.map(|v| v.map(|_| next()));
        let states = states.to_vec();
        let inner = Weights { projected, recurrent, states, after_reset, hidden_bias, peepholes, lengths };
        let at = if reverse { time_from_end(b, i, &steps, lengths)? } else { i };
        let coords = [Coord::Input(0), Coord::Axis(0), Coord::Axis(1)];
        let x = b.gather(projected, &[at], &coords, &shape[1..])?;
        let mut new = step(b, cell, &inner, x)?;
        let mut output = new[0];
        if let Some(lengths) = lengths {
            // A sequence that has ended keeps its state and gives zeros.
            let active = b.greater(lengths, i)?;
            let zero = b.number(cell.acc, 0.0)?;
            output = b.select(active, output, zero)?;
            for (new, &old) in new.iter_mut().zip(&inner.states) {
                *new = b.select(active, *new, old)?;
            }
        }
        Ok::<_, BuildError>((b.scalar_bool(true), new, vec![output]))
    })?;
    // Results are the last states, then the outputs in the order of computation.
    let stacked = results.pop().expect("a loop with a scanned value");
    let y = match (reverse, w.lengths) {
        (false, _) => stacked,
        (true, None) => {
            let shape = b.shape(stacked)?;
            let starts = [(&steps - &Dim::ONE)?, Dim::ZERO, Dim::ZERO];
            b.slice(stacked, &starts, &shape, &[-1, 1, 1])?
        }
        (true, Some(lengths)) => {
            let index = b.map_to(&[steps.clone(), batch, Dim::ONE], &[lengths], |e| {
                let (i, length) = (e.index(0), e.arg(0));
                Ok(mirrored(e, i, length))
            })?;
            let shape = b.shape(stacked)?;
            b.gather(stacked, &[index], &[Coord::Input(0), Coord::Axis(1), Coord::Axis(2)], &shape)?
        }
    };
    results.insert(0, y);
    Ok(results)
}

/// The time that step `i` works on from the end: a scalar, or `[B, 1]` where lengths differ.
fn time_from_end(b: &mut Builder<'_>, i: Value, steps: &Dim, lengths: Option<Value>) -> Result<Value, BuildError> {
    match lengths {
        None => b.map(&[i], |e| {
            let (i, last) = (e.arg(0), e.dim(&(steps - &Dim::ONE)?));
            Ok(e.sub(last, i))
        }),
        Some(lengths) => b.map(&[i, lengths], |e| {
            let (i, length) = (e.arg(0), e.arg(1));
            Ok(mirrored(e, i, length))
        }),
    }
}

/// `length - 1 - i` within a sequence, `i` behind it.
fn mirrored(e: &mut ExprBuilder, i: ExprIndex, length: ExprIndex) -> ExprIndex {
    let one = e.dim(&Dim::ONE);
    let (inside, last) = (e.lt(i, length), e.sub(length, one));
    let from_end = e.sub(last, i);
    e.select(inside, from_end, i)
}

/// One step of the cell: the new states from the projected input `[B, gates * H]`.
fn step(b: &mut Builder<'_>, cell: &Cell, w: &Weights, x: Value) -> Result<Vec<Value>, BuildError> {
    match cell.kind {
        RecurrentCell::Rnn => {
            let r = times_transposed(b, w.states[0], w.recurrent, cell.acc)?;
            Ok(vec![b.map(&[x, r], |e| {
                let (x, r) = (e.arg(0), e.arg(1));
                let sum = e.add(x, r);
                activate(e, cell, 0, sum)
            })?])
        }
        RecurrentCell::Gru => gru_step(b, cell, w, x),
        RecurrentCell::Lstm => lstm_step(b, cell, w, x),
    }
}

/// Gates are in the order update, reset, hidden.
fn gru_step(b: &mut Builder<'_>, cell: &Cell, w: &Weights, x: Value) -> Result<Vec<Value>, BuildError> {
    let h = w.states[0];
    let r = times_transposed(b, h, w.recurrent, cell.acc)?;
    let mut gates = Vec::new();
    for n in 0..2 {
        let parts = [gate(b, cell, x, n)?, gate(b, cell, r, n)?];
        gates.push(b.map(&parts, |e| {
            let (x, r) = (e.arg(0), e.arg(1));
            let sum = e.add(x, r);
            activate(e, cell, 0, sum)
        })?);
    }
    let hidden = gate(b, cell, x, 2)?;
    let candidate = match w.after_reset {
        Some(weights) => {
            let reset = b.mul(gates[1], h)?;
            let r = times_transposed(b, reset, weights, cell.acc)?;
            b.add(hidden, r)?
        }
        None => {
            let mut r = gate(b, cell, r, 2)?;
            if let Some(bias) = w.hidden_bias {
                r = b.add(r, bias)?;
            }
            b.map(&[hidden, gates[1], r], |e| {
                let (hidden, reset, r) = (e.arg(0), e.arg(1), e.arg(2));
                let product = e.mul(reset, r);
                Ok(e.add(hidden, product))
            })?
        }
    };
    Ok(vec![b.map(&[candidate, gates[0], h], |e| {
        let (candidate, update, h) = (e.arg(0), e.arg(1), e.arg(2));
        let new = activate(e, cell, 1, candidate)?;
        let one = e.number(cell.acc, 1.0)?;
        let rest = e.sub(one, update);
        let (taken, kept) = (e.mul(rest, new), e.mul(update, h));
        Ok(e.add(taken, kept))
    })?])
}

/// Gates are in the order input, output, forget, cell; peepholes in the order input, output, forget.
fn lstm_step(b: &mut Builder<'_>, cell: &Cell, w: &Weights, x: Value) -> Result<Vec<Value>, BuildError> {
    let (h, c) = (w.states[0], w.states[1]);
    let h = if cell.quantized { in_steps(b, h)? } else { h };
    let r = times_transposed(b, h, w.recurrent, cell.acc)?;
    let sums = b.add(x, r)?;
    let peephole = |b: &mut Builder<'_>, n: i64| -> Result<Option<Value>, BuildError> {
        let Some(p) = w.peepholes else { return Ok(None) };
        let start = (&cell.hidden * &Dim::from(n))?;
        Ok(Some(b.slice_axis(p, 0, &start, &cell.hidden, 1)?))
    };
    let gated = |b: &mut Builder<'_>, n: i64, state: Value| -> Result<Value, BuildError> {
        let mut inputs = vec![gate(b, cell, sums, n)?];
        if let Some(p) = peephole(b, n)? {
            inputs.extend([p, state]);
        }
        b.map(&inputs, |e| {
            let mut sum = e.arg(0);
            if inputs.len() == 3 {
                let (p, c) = (e.arg(1), e.arg(2));
                let product = e.mul(p, c);
                sum = e.add(sum, product);
            }
            activate(e, cell, 0, sum)
        })
    };
    let input = gated(b, 0, c)?;
    let forget = if cell.input_forget {
        b.map(&[input], |e| {
            let (input, one) = (e.arg(0), e.number(cell.acc, 1.0)?);
            Ok(e.sub(one, input))
        })?
    } else {
        gated(b, 2, c)?
    };
    let candidate = gate(b, cell, sums, 3)?;
    let new_c = b.map(&[forget, c, input, candidate], |e| {
        let (forget, c, input, candidate) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
        let candidate = activate(e, cell, 1, candidate)?;
        let (kept, taken) = (e.mul(forget, c), e.mul(input, candidate));
        Ok(e.add(kept, taken))
    })?;
    let output = gated(b, 1, new_c)?;
    let new_h = b.map(&[output, new_c], |e| {
        let (output, c) = (e.arg(0), e.arg(1));
        let c = cell.activations[2].apply(e, cell.acc, c)?;
        Ok(e.mul(output, c))
    })?;
    Ok(vec![new_h, new_c])
}

/// Columns `n * H` to `(n + 1) * H`.
fn gate(b: &mut Builder<'_>, cell: &Cell, x: Value, n: i64) -> Result<Value, BuildError> {
    let start = (&cell.hidden * &Dim::from(n))?;
    b.slice_axis(x, -1, &start, &cell.hidden, 1)
}

/// The numbers that the elements stand for once they are quantized to their range.
fn in_steps(b: &mut Builder<'_>, x: Value) -> Result<Value, BuildError> {
    let (q, scale, zero) = dynamically_quantized(b, x)?;
    b.map(&[q, scale, zero], |e| {
        let (q, scale, zero) = (e.arg(0), e.arg(1), e.arg(2));
        let (q, zero) = (e.cast(DType::F32, q), e.cast(DType::F32, zero));
        let difference = e.sub(q, zero);
        Ok(e.mul(difference, scale))
    })
}

/// `[B, K]` times the transpose of `[N, K]`.
fn times_transposed(b: &mut Builder<'_>, x: Value, w: Value, acc: DType) -> Result<Value, BuildError> {
    let contract = Contract {
        lhs: [1, 0].as_slice().into(),
        rhs: [2, 0].as_slice().into(),
        out: [1, 2].as_slice().into(),
        acc,
        panel: None,
    };
    b.contract(contract, x, w)
}

/// The cell's `n`-th function of a clipped argument.
fn activate(e: &mut ExprBuilder, cell: &Cell, n: usize, mut x: ExprIndex) -> Result<ExprIndex, BuildError> {
    if let Some(clip) = cell.clip {
        let (high, low) = (e.number(cell.acc, f64::from(clip))?, e.number(cell.acc, f64::from(-clip))?);
        x = e.min(x, high);
        x = e.max(x, low);
    }
    cell.activations[n].apply(e, cell.acc, x)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::{TestModel, assert_close, floats, noise};

    const HIDDEN: i64 = 2;
    const INPUT: i64 = 3;

    fn layer(op: &str, gates: i64, direction: &str, x: (&[i64], &[f32]), lengths: Option<&[i32]>) -> TestModel {
        let d = if direction == "bidirectional" { 2 } else { 1 };
        let (w, r) = (noise((d * gates * HIDDEN * INPUT) as usize), noise((d * gates * HIDDEN * HIDDEN) as usize));
        let bias = noise((d * 2 * gates * HIDDEN) as usize);
        let model = TestModel::new(op, 14)
            .outputs(2)
            .text("direction", direction)
            .int("hidden_size", HIDDEN)
            .input(x.0, x.1)
            .floats(&[d, gates * HIDDEN, INPUT], &w)
            .floats(&[d, gates * HIDDEN, HIDDEN], &r)
            .floats(&[d, 2 * gates * HIDDEN], &bias);
        match lengths {
            None => model,
            Some(lengths) => {
                let bytes: Vec<u8> = lengths.iter().flat_map(|l| l.to_le_bytes()).collect();
                let shape = [lengths.len() as i64];
                let value = TensorBytes { dtype: DType::I32, shape: shape.as_slice().into(), bytes: bytes.into() };
                model.declared(&shape, value)
            }
        }
    }

    #[test]
    fn short_sequences_end_where_they_end() {
        // Of a batch of two, the second sequence ends after 2 of 4 steps: alone it gives the same.
        let x = noise(24);
        let second: Vec<f32> = x.chunks(6).take(2).flat_map(|step| step[3..].to_vec()).collect();
        for (op, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
            for direction in ["forward", "reverse", "bidirectional"] {
                let both = layer(op, gates, direction, (&[4, 2, INPUT], &x), Some(&[4, 2])).run_all();
                let alone = layer(op, gates, direction, (&[2, 1, INPUT], &second), None).run_all();
                let ((shape, y), (_, y_alone)) = (floats(&both[0]), floats(&alone[0]));
                let d = shape[1] as usize;
                for step in 0..4 {
                    for n in 0..d {
                        let at = ((step * d + n) * 2 + 1) * 2;
                        let expected = if step < 2 { &y_alone[(step * d + n) * 2..][..2] } else { &[0.0; 2] };
                        let found = (vec![2], y[at..at + 2].to_vec());
                        assert_close(&found, &(vec![2], expected.to_vec()));
                    }
                }
                let (last, last_alone) = (floats(&both[1]).1, floats(&alone[1]).1);
                for n in 0..d {
                    let found = (vec![2], last[n * 4 + 2..n * 4 + 4].to_vec());
                    assert_close(&found, &(vec![2], last_alone[n * 2..n * 2 + 2].to_vec()));
                }
            }
        }
    }

    #[test]
    fn reverse_is_forward_of_the_mirrored_input() {
        let x = noise(12);
        let mirrored: Vec<f32> = x.chunks(3).rev().flatten().copied().collect();
        for (op, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
            let (_, forward) = layer(op, gates, "forward", (&[4, 1, INPUT], &mirrored), None).run();
            let (shape, reverse) = layer(op, gates, "reverse", (&[4, 1, INPUT], &x), None).run();
            let expected = forward.chunks(2).rev().flatten().copied().collect();
            assert_close(&(shape.clone(), reverse), &(shape, expected));
        }
    }

    #[test]
    fn the_reset_gate_before_or_after_the_product() {
        let gru = |before| {
            let model = layer("GRU", 3, "forward", (&[3, 1, INPUT], &noise(9)), None);
            model.int("linear_before_reset", before).run().1
        };
        assert_ne!(gru(0), gru(1));
    }

    #[test]
    fn wrong_attributes_are_named() {
        let x = noise(9);
        let rnn = || layer("RNN", 1, "forward", (&[3, 1, INPUT], &x), None);
        let wrong = layer("RNN", 1, "backward", (&[3, 1, INPUT], &x), None).error();
        assert!(wrong.contains("`direction` is `backward`"), "{wrong}");
        assert!(layer("RNN", 1, "forward", (&[3, 3], &x), None).error().contains("three dimensions"));
        assert_eq!(rnn().run().0, [3, 1, 1, 2]);
    }
}
