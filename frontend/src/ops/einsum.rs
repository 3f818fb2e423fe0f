//! Einstein summation, as a chain of contractions of two operands each, and the determinant.

use std::collections::HashMap;

use onnxc_ir::dim::Dim;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::{Contract, Coord, Label, ReduceOp};

use super::Operator;
use super::linear::sum_type;
use super::math::compute_type;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Einsum", &[12, 28], (1, usize::MAX), einsum),
    Operator::onnx("Det", &[11, 22], (1, 1), determinant).limited("The size of the matrices is known and small."),
];

/// A value with a label for each axis.
struct Operand {
    value: Value,
    labels: Vec<Label>,
}

/// The letters `a-zA-Z` are labels from 0 on; the axes of an ellipsis, counted from its end, are labels from here on.
const ELLIPSIS: Label = 52;
/// The most axes that an ellipsis stands for.
const MAX_ELLIPSIS: usize = 64;

/// The labels of one term. `axes` is how many its ellipsis stands for.
fn term_labels(term: &str, axes: usize) -> Option<Vec<Label>> {
    let mut labels = Vec::new();
    let mut rest = term;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            labels.extend((0..axes).rev().map(|i| ELLIPSIS + i as Label));
            rest = after;
            continue;
        }
        labels.push(letter(c)?);
        rest = &rest[1..];
    }
    Some(labels)
}

fn letter(c: char) -> Option<Label> {
    match c {
        'a'..='z' => Some(c as u8 - b'a'),
        'A'..='Z' => Some(c as u8 - b'A' + 26),
        _ => None,
    }
}

/// The output of an equation without `->`: the ellipsis, then the letters that occur once, in ASCII order.
fn implicit_output(terms: &[&str], ellipsis: usize) -> Vec<Label> {
    let mut counts: HashMap<char, usize> = HashMap::new();
    terms
        .iter()
        .flat_map(|t| t.chars())
        .filter(char::is_ascii_alphabetic)
        .for_each(|c| *counts.entry(c).or_default() += 1);
    let mut letters: Vec<char> = counts.iter().filter(|(_, n)| **n == 1).map(|(c, _)| *c).collect();
    letters.sort_unstable();
    let mut labels: Vec<Label> = (0..ellipsis).rev().map(|i| ELLIPSIS + i as Label).collect();
    labels.extend(letters.into_iter().filter_map(letter));
    labels
}

fn einsum(cx: &mut NodeContext<'_>) -> OpResult {
    let Some(equation) = cx.text("equation")? else { return cx.invalid("attribute `equation` is missing") };
    let equation: String = equation.chars().filter(|c| *c != ' ').collect();
    let bad = || OpError::Invalid(format!("equation `{equation}` does not fit the inputs"));
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    let inputs = cx.all_inputs();
    if terms.len() != inputs.len() {
        return Err(bad());
    }
    let dtype = cx.b.dtype(inputs[0])?;
    let mut operands = Vec::with_capacity(inputs.len());
    let mut ellipsis = 0;
    for (term, &input) in terms.iter().zip(&inputs) {
        let value = cx.b.cast(input, sum_type(dtype))?;
        let letters = term.chars().filter(char::is_ascii_alphabetic).count();
        let axes = cx.b.rank(value)?.checked_sub(letters).filter(|&n| n <= MAX_ELLIPSIS).ok_or_else(bad)?;
        ellipsis = ellipsis.max(axes);
        let labels = term_labels(term, axes).filter(|l| l.len() == letters + axes).ok_or_else(bad)?;
        operands.push(diagonal(cx, Operand { value, labels })?);
    }
    let out = match right {
        Some(term) => term_labels(term, ellipsis).ok_or_else(bad)?,
        None => implicit_output(&terms, ellipsis),
    };
    let known = |l: &Label| operands.iter().any(|o| o.labels.contains(l));
    if !out.iter().all(known) || (1..out.len()).any(|i| out[..i].contains(&out[i])) {
        return Err(bad());
    }
    drop_broadcast_axes(cx, &mut operands)?;
    let y = contract_all(cx, operands, &out)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// An operand whose labels all differ: of axes with one label the diagonal is taken.
fn diagonal(cx: &mut NodeContext<'_>, operand: Operand) -> Result<Operand, OpError> {
    let mut labels: Vec<Label> = Vec::new();
    let shape = cx.b.shape(operand.value)?;
    let (mut sizes, mut coords) = (Vec::new(), Vec::new());
    for (label, size) in operand.labels.iter().zip(&shape) {
        let at = labels.iter().position(|l| l == label).unwrap_or_else(|| {
            labels.push(*label);
            sizes.push(size.clone());
            labels.len() - 1
        });
        coords.push(Coord::Axis(at as u32));
        if !cx.b.graph.same_dim(&sizes[at], size) {
            return cx.invalid("axes of one label have different sizes");
        }
    }
    if labels.len() == operand.labels.len() {
        return Ok(operand);
    }
    Ok(Operand { value: cx.b.gather(operand.value, &[], &coords, &sizes)?, labels })
}

/// Removes axes of 1 where another operand has more elements for the label.
fn drop_broadcast_axes(cx: &mut NodeContext<'_>, operands: &mut [Operand]) -> Result<(), OpError> {
    let mut long: Vec<Label> = Vec::new();
    for operand in &*operands {
        let shape = cx.b.shape(operand.value)?;
        long.extend(operand.labels.iter().zip(&shape).filter(|(_, d)| **d != 1).map(|(l, _)| *l));
    }
    for operand in operands {
        let shape = cx.b.shape(operand.value)?;
        let unit: Vec<usize> =
            (0..shape.len()).filter(|&i| shape[i] == 1 && long.contains(&operand.labels[i])).collect();
        let axes: Vec<i64> = unit.iter().map(|&i| i as i64).collect();
        operand.value = cx.b.squeeze(operand.value, &axes)?;
        let mut axis = 0;
        operand.labels.retain(|_| {
            axis += 1;
            !unit.contains(&(axis - 1))
        });
    }
    Ok(())
}

/// From left to right; a label is summed over as soon as nothing later needs it.
fn contract_all(cx: &mut NodeContext<'_>, operands: Vec<Operand>, out: &[Label]) -> Result<Value, OpError> {
    let mut rest = operands.into_iter();
    let Some(mut sum) = rest.next() else { return cx.invalid("has no inputs") };
    while let Some(next) = rest.next() {
        let later = rest.as_slice();
        let needed = |l: &Label| out.contains(l) || later.iter().any(|o| o.labels.contains(l));
        let left = sum_over(cx, sum, |l| needed(l) || next.labels.contains(l))?;
        let right = sum_over(cx, next, |l| needed(l) || left.labels.contains(l))?;
        sum = contract(cx, left, right, needed)?;
    }
    let sum = sum_over(cx, sum, |l| out.contains(l))?;
    let at = |label: &Label| sum.labels.iter().position(|l| l == label);
    let perm: Vec<usize> = out.iter().filter_map(at).collect();
    Ok(cx.b.transpose(sum.value, &perm)?)
}

/// Sums over the labels that are not kept.
fn sum_over(cx: &mut NodeContext<'_>, operand: Operand, keep: impl Fn(&Label) -> bool) -> Result<Operand, OpError> {
    let axes: Vec<i64> = (0..operand.labels.len()).filter(|&i| !keep(&operand.labels[i])).map(|i| i as i64).collect();
    let value = cx.b.reduce(ReduceOp::Sum, operand.value, &axes, false)?;
    Ok(Operand { value, labels: operand.labels.into_iter().filter(|l| keep(l)).collect() })
}

/// The contraction of two operands over the labels that both have and nothing later needs: batch labels first, then
/// the left operand's own, then the right one's.
fn contract(
    cx: &mut NodeContext<'_>,
    left: Operand,
    right: Operand,
    needed: impl Fn(&Label) -> bool,
) -> Result<Operand, OpError> {
    let both = |l: &&Label| left.labels.contains(l) && right.labels.contains(l);
    let batch = left.labels.iter().filter(both).filter(|l| needed(l));
    let own_left = left.labels.iter().filter(|l| !both(l));
    let own_right = right.labels.iter().filter(|l| !both(l));
    let out: Vec<Label> = batch.chain(own_left).chain(own_right).copied().collect();
    let contracted = left.labels.iter().filter(both).any(|l| !needed(l));
    let value = if contracted {
        let contract = Contract {
            lhs: left.labels.iter().copied().collect(),
            rhs: right.labels.iter().copied().collect(),
            out: out.iter().copied().collect(),
            acc: cx.b.dtype(left.value)?,
            panel: None,
        };
        cx.b.contract(contract, left.value, right.value)?
    } else {
        let (a, b) = (aligned(cx, &left, &out)?, aligned(cx, &right, &out)?);
        cx.b.mul(a, b)?
    };
    Ok(Operand { value, labels: out })
}

/// The operand with its axes in the order of `out`, with 1 for labels that it lacks.
fn aligned(cx: &mut NodeContext<'_>, operand: &Operand, out: &[Label]) -> Result<Value, OpError> {
    let at = |label: &Label| operand.labels.iter().position(|l| l == label);
    let perm: Vec<usize> = out.iter().filter_map(at).collect();
    let value = cx.b.transpose(operand.value, &perm)?;
    let missing: Vec<i64> = (0..out.len()).filter(|&i| at(&out[i]).is_none()).map(|i| i as i64).collect();
    Ok(cx.b.unsqueeze(value, &missing)?)
}

/// The greatest matrix whose determinant is written out.
const MAX_DETERMINANT: i64 = 8;

/// Expansion by minors: row by row, one minor for each set of columns.
fn determinant(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let [batch @ .., rows, columns] = &shape[..] else { return cx.invalid("an input that is no matrix") };
    let n = match (rows.as_const(), columns.as_const()) {
        (Some(n), Some(m)) if n == m && n <= MAX_DETERMINANT => n as usize,
        (Some(n), Some(m)) if n != m => return cx.invalid(format!("the determinant of a {n} by {m} matrix")),
        _ => return cx.unsupported(format!("determinants of matrices that may exceed {MAX_DETERMINANT} rows")),
    };
    let wide = compute_type(dtype);
    let x = cx.b.cast(x, wide)?;
    let mut elements = Vec::with_capacity(n * n);
    for at in 0..n * n {
        let row = cx.b.slice_axis(x, -2, &Dim::from((at / n) as i64), &Dim::ONE, 1)?;
        let element = cx.b.slice_axis(row, -1, &Dim::from((at % n) as i64), &Dim::ONE, 1)?;
        elements.push(cx.b.reshape(element, batch)?);
    }
    let y = cx.b.map_to(batch, &elements, |e| {
        // minors[s] is the determinant of the first |s| rows and the columns of the set s.
        let mut minors = vec![e.number(wide, 1.0)?];
        for set in 1usize..1 << n {
            let row = set.count_ones() as usize - 1;
            let mut sum = None;
            for column in (0..n).filter(|c| set >> c & 1 == 1) {
                let element = e.arg((row * n + column) as u32);
                let product = e.mul(element, minors[set & !(1 << column)]);
                let before = (set & ((1 << column) - 1)).count_ones() as usize;
                sum = Some(match (sum, (row + before) % 2) {
                    (None, 0) => product,
                    (None, _) => e.neg(product),
                    (Some(sum), 0) => e.add(sum, product),
                    (Some(sum), _) => e.sub(sum, product),
                });
            }
            minors.extend(sum);
        }
        Ok(minors[minors.len() - 1])
    })?;
    Ok(vec![cx.b.cast(y, dtype)?])
}
