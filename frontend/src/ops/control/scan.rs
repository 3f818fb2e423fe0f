//! Scan: a loop over the slices of its inputs.

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::{Shape, Value};

use super::{LoopImport, slice_at};
use crate::import::{NodeContext, OpError, OpResult, Subgraph};

/// One value per scan input or output of a list attribute.
fn per_scan(cx: &NodeContext<'_>, name: &str, count: usize) -> Result<Vec<i64>, OpError> {
    match cx.ints(name) {
        None => Ok(vec![0; count]),
        Some(values) if values.len() == count => Ok(values.to_vec()),
        Some(values) => cx.invalid(format!("attribute `{name}` is {values:?} for {count} values")),
    }
}

pub(super) fn scan(cx: &mut NodeContext<'_>) -> OpResult {
    if cx.version < 9 {
        return batched_scan(cx);
    }
    let sub = cx.subgraph("body")?;
    let inputs = cx.all_inputs();
    let scanned = usize::try_from(cx.int("num_scan_inputs", 0)).unwrap_or(0);
    if scanned < 1 || scanned > inputs.len() {
        return cx.invalid("attribute `num_scan_inputs` is not a number of inputs");
    }
    let states = inputs.len() - scanned;
    let axes = per_scan(cx, "scan_input_axes", scanned)?;
    let directions = per_scan(cx, "scan_input_directions", scanned)?;
    let (initial, sources) = (inputs[..states].to_vec(), inputs[states..].to_vec());
    let mut results = scan_loop(cx, &sub, initial, sources, &axes, &directions)?;
    let given = results.len() - states;
    let axes = per_scan(cx, "scan_output_axes", given)?;
    let directions = per_scan(cx, "scan_output_directions", given)?;
    for (n, result) in results[states..].iter_mut().enumerate() {
        *result = oriented(cx, *result, axes[n], directions[n] != 0)?;
    }
    Ok(results)
}

/// The loop of a scan; what it stacks is along the first axis.
fn scan_loop(
    cx: &mut NodeContext<'_>,
    sub: &Subgraph<'_>,
    initial: Vec<Value>,
    sources: Vec<Value>,
    axes: &[i64],
    directions: &[i64],
) -> OpResult {
    let mut slices = Vec::new();
    for ((&source, &axis), &direction) in sources.iter().zip(axes).zip(directions) {
        let shape = cx.b.shape(source)?;
        slices.push((cx.b.axis(axis, shape.len())?, direction != 0));
    }
    let steps = cx.b.shape(sources[0])?[slices[0].0].clone();
    let (trip_count, condition) = (cx.b.dim_value(&steps), cx.b.scalar_bool(true));
    let iterations = Some(steps.clone());
    let import = LoopImport { sub, trip_count, condition, initial, sources, iterations, conditional: false };
    import.build(cx, |b, i, carried, sources| {
        let mut inputs = carried.to_vec();
        for (&source, &(axis, backwards)) in sources.iter().zip(&slices) {
            let at = if backwards {
                b.map(&[i], |e| {
                    let (i, last) = (e.arg(0), e.dim(&(&steps - &Dim::ONE)?));
                    Ok(e.sub(last, i))
                })?
            } else {
                i
            };
            inputs.push(slice_at(b, source, axis, at)?);
        }
        Ok(inputs)
    })
}

/// Moves the first axis to `axis` and turns it around if asked to.
fn oriented(cx: &mut NodeContext<'_>, x: Value, axis: i64, backwards: bool) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let axis = cx.b.axis(axis, shape.len())?;
    let mut x = x;
    if backwards {
        let mut starts: Shape = shape.iter().map(|_| Dim::ZERO).collect();
        let mut steps = vec![1; shape.len()];
        starts[0] = (&shape[0] - &Dim::ONE)?;
        steps[0] = -1;
        x = cx.b.slice(x, &starts, &shape, &steps)?;
    }
    let mut perm: Vec<usize> = (1..shape.len()).collect();
    perm.insert(axis, 0);
    Ok(cx.b.transpose(x, &perm)?)
}

/// The first version of Scan: all inputs have a leading batch axis, over whose elements it runs one by one.
fn batched_scan(cx: &mut NodeContext<'_>) -> OpResult {
    if cx.optional(0).is_some() {
        return cx.unsupported("a scan over sequences of different lengths");
    }
    let sub = cx.subgraph("body")?;
    let inputs: Vec<Value> = (1..cx.input_count()).map(|n| cx.input(n)).collect::<Result<_, _>>()?;
    let scanned = usize::try_from(cx.int("num_scan_inputs", 0)).unwrap_or(0);
    if scanned < 1 || scanned > inputs.len() {
        return cx.invalid("attribute `num_scan_inputs` is not a number of inputs");
    }
    let states = inputs.len() - scanned;
    let directions = per_scan(cx, "directions", scanned)?;
    let Some(batch) = cx.b.shape(inputs[0])?.first().and_then(Dim::as_const).filter(|n| (1..=64).contains(n)) else {
        return cx.unsupported("a scan over a batch that is not known or large");
    };
    let mut parts: Vec<Vec<Value>> = Vec::new();
    for n in 0..batch {
        let mut one = Vec::new();
        for &input in &inputs {
            let shape = cx.b.shape(input)?;
            let Some((_, rest)) = shape.split_first() else { return cx.invalid("an input has no batch") };
            let slice = cx.b.slice_axis(input, 0, &Dim::from(n), &Dim::ONE, 1)?;
            one.push(cx.b.reshape(slice, rest)?);
        }
        let sources = one.split_off(states);
        let results = scan_loop(cx, &sub, one, sources, &vec![0; scanned], &directions)?;
        parts.resize(results.len(), Vec::new());
        for (part, result) in parts.iter_mut().zip(results) {
            part.push(cx.b.unsqueeze(result, &[0])?);
        }
    }
    parts.iter().map(|values| Ok(cx.b.concat(values, 0)?)).collect()
}
