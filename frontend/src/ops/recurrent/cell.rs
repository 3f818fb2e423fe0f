//! Recurrent cells: one direction's loop over time, and what a step makes of the states.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder, LoopSpec};
use onnxc_ir::tensor::op::{CompositeKind, Contract, Coord, RecurrentCell};
use onnxc_ir::tensor::{Builder, Value};

use super::super::cell_function::Activation;
use super::super::quantize::dynamically_quantized;
use crate::import::OpError;

/// The cell's attributes.
pub(super) struct Cell {
    pub(super) kind: RecurrentCell,
    /// The functions of one direction.
    pub(super) activations: Vec<Activation>,
    /// What the inputs of activations are clipped to.
    pub(super) clip: Option<f32>,
    /// GRU: whether the state is multiplied by the weights before the reset gate applies.
    pub(super) linear_before_reset: bool,
    /// LSTM: whether the forget gate is what the input gate leaves.
    pub(super) input_forget: bool,
    /// LSTM: whether the states that meet the weights are quantized in each step.
    pub(super) quantized: bool,
    /// The type in which it computes.
    pub(super) acc: DType,
    /// Number of hidden units.
    pub(super) hidden: Dim,
}

/// The values that a direction works on; all are inputs of the composite.
pub(super) struct Weights {
    /// The projected inputs with their biases, `[T, B, gates * H]`.
    pub(super) projected: Value,
    /// The recurrent weights, `[gates * H, H]`, those that meet the state itself.
    pub(super) recurrent: Value,
    /// The initial states, `[B, H]`: hidden, and for LSTM the cell's.
    pub(super) states: Vec<Value>,
    /// GRU with the reset before the product: the weights of the hidden gate, `[H, H]`.
    pub(super) after_reset: Option<Value>,
    /// GRU with the product before the reset: the recurrent bias of the hidden gate, `[H]`.
    pub(super) hidden_bias: Option<Value>,
    /// LSTM: the peephole weights of the input, output and forget gates, `[3 * H]`.
    pub(super) peepholes: Option<Value>,
    /// The length of each sequence, `i64[B]`.
    pub(super) lengths: Option<Value>,
}

impl Cell {
    pub(super) fn gates(&self) -> i64 {
        match self.kind {
            RecurrentCell::Rnn => 1,
            RecurrentCell::Gru => 3,
            RecurrentCell::Lstm => 4,
        }
    }

    pub(super) fn default_activations(&self) -> &'static [Activation] {
        match self.kind {
            RecurrentCell::Rnn => &[Activation::Tanh],
            RecurrentCell::Gru => &[Activation::Sigmoid, Activation::Tanh],
            RecurrentCell::Lstm => &[Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
        }
    }
}

/// The loop over time. Gives the states of all steps, `[T, B, H]`, and the last states.
pub(super) fn run_direction(
    b: &mut Builder<'_>,
    cell: &Cell,
    w: Weights,
    reverse: bool,
) -> Result<Vec<Value>, OpError> {
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
pub(super) fn in_steps(b: &mut Builder<'_>, x: Value) -> Result<Value, BuildError> {
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
