//! Recurrent layers.
//!
//! The inputs of all time steps are projected by one contraction per direction. What remains, a loop over time whose body
//! is the cell, is a composite, so that a schedule can keep the state and the recurrent weights close.

mod cell;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::{Contract, RecurrentCell};

use super::Operator;
use super::cell_function::Activation;
use super::linear::sum_type;
use crate::import::{NodeContext, OpError, OpResult};
use cell::{Cell, Weights, in_steps, run_direction};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("RNN", &[1, 7, 14, 22], (3, 6), |cx| layer(cx, RecurrentCell::Rnn)),
    Operator::onnx("GRU", &[1, 3, 7, 14, 22], (3, 6), |cx| layer(cx, RecurrentCell::Gru)),
    Operator::onnx("LSTM", &[1, 7, 14, 22], (3, 8), |cx| layer(cx, RecurrentCell::Lstm)),
];

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
    let shape = cx.b.shape(x)?;
    let Some((_, rest)) = shape.split_first() else { return cx.invalid("an operand has no axis of directions") };
    let x = cx.b.slice_axis(x, 0, &Dim::from(direction), &Dim::ONE, 1)?;
    Ok(cx.b.reshape(x, rest)?)
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
