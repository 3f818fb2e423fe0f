//! Sequences and optionals, as lists whose length is known when the model is compiled. Positions may depend on data where
//! all items have one type and rank.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::CmpOp;
use onnxc_ir::tensor::{Builder, TensorType, Type, Value};

use super::Operator;
use crate::import::{Held, NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("ConcatFromSequence", &[11], (1, 1), concat_from_sequence),
    Operator::onnx("Optional", &[15], (0, 1), optional),
    Operator::onnx("OptionalGetElement", &[15, 18], (1, 1), optional_get_element),
    Operator::onnx("OptionalHasElement", &[15, 18], (0, 1), optional_has_element),
    Operator::onnx("SequenceAt", &[11], (2, 2), sequence_at),
    Operator::onnx("SequenceConstruct", &[11], (1, usize::MAX), sequence_construct),
    Operator::onnx("SequenceEmpty", &[11], (0, 0), sequence_empty),
    Operator::onnx("SequenceErase", &[11], (1, 2), sequence_erase),
    Operator::onnx("SequenceInsert", &[11], (2, 3), sequence_insert),
    Operator::onnx("SequenceLength", &[11], (1, 1), sequence_length),
    Operator::onnx("SequenceMap", &[17], (1, usize::MAX), sequence_map),
    Operator::onnx("SplitToSequence", &[11, 24], (1, 2), split_to_sequence),
];

/// Operators are written out for each item of a list; longer lists are refused.
const MAX_ITEMS: i64 = 4096;

/// A list of items. An empty one has `f32` items unless something else is known.
pub(super) fn list(cx: &mut NodeContext<'_>, items: Vec<Value>) -> Value {
    let element = items.first().map_or_else(|| TensorType::new(DType::F32, []).into(), |&v| cx.b.ty(v).clone());
    cx.hold(Held::Sequence(items), element)
}

fn items(cx: &NodeContext<'_>, n: usize) -> Result<Vec<Value>, OpError> {
    match cx.held(cx.input(n)?) {
        Some(Held::Sequence(items)) => Ok(items),
        Some(Held::Optional(_)) | None => cx.invalid(format!("input {n} is no sequence")),
    }
}

fn sequence_construct(cx: &mut NodeContext<'_>) -> OpResult {
    let items = cx.all_inputs();
    Ok(vec![list(cx, items)])
}

fn sequence_empty(cx: &mut NodeContext<'_>) -> OpResult {
    let dtype = cx.dtype("dtype")?.unwrap_or(DType::F32);
    Ok(vec![cx.hold(Held::Sequence(Vec::new()), TensorType::new(dtype, []).into())])
}

fn sequence_length(cx: &mut NodeContext<'_>) -> OpResult {
    let count = items(cx, 0)?.len() as i64;
    Ok(vec![cx.b.scalar_i64(count)])
}

/// Where in a list: known, or decided by data.
enum Place {
    Known(usize),
    Computed(Value),
}

/// The position that input `n` gives, negative ones counted from the end, in a list of that length. Without the input,
/// the end.
fn place(cx: &mut NodeContext<'_>, n: usize, length: usize, end: usize) -> Result<Place, OpError> {
    let Some(value) = cx.optional(n) else {
        return if end < length { Ok(Place::Known(end)) } else { cx.invalid("an empty sequence has no last item") };
    };
    let value = cx.b.reshape(value, &[])?;
    if let Some([position]) = cx.b.known_i64s(value).as_deref() {
        let from_start = if *position < 0 { position + length as i64 } else { *position };
        return match usize::try_from(from_start).ok().filter(|&p| p < length) {
            Some(place) => Ok(Place::Known(place)),
            None => cx.invalid(format!("position {position} in a sequence of {length}")),
        };
    }
    Ok(Place::Computed(cx.b.normalize_indices(value, &Dim::from(length as i64))?))
}

/// The items along a new first axis, for positions that data decides; nothing where they are not of one shape.
fn stacked(cx: &mut NodeContext<'_>, items: &[Value]) -> Result<Option<Value>, OpError> {
    let Some(&first) = items.first() else { return cx.invalid("an empty sequence has no item") };
    let shape = |v: Value| match cx.b.ty(v) {
        Type::Tensor(ty) => Some((ty.dtype, ty.rank(), ty.shape.clone())),
        Type::Sequence(_) | Type::Optional(_) | Type::Map(..) => None,
    };
    let Some(of_first) = shape(first) else {
        return cx.unsupported("a position that depends on data, in such a sequence");
    };
    let mut alike = true;
    for other in items.iter().map(|&v| shape(v)) {
        let Some(of_other) = other.filter(|o| o.0 == of_first.0 && o.1 == of_first.1) else {
            return cx.unsupported(
                "a position that depends on data, in a sequence whose items are not of one rank and type",
            );
        };
        alike &= cx.b.graph.same_shape(&of_first.2, &of_other.2);
    }
    if !alike {
        return Ok(None);
    }
    let parts = items.iter().map(|&v| cx.b.unsqueeze(v, &[0])).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(cx.b.concat(&parts, 0)?))
}

/// The first value for which `place` compares so with its number, else the last one. Their sizes may differ.
fn chosen(b: &mut Builder<'_>, place: Value, choices: &[(CmpOp, i64, Value)], last: Value) -> Result<Value, OpError> {
    let Some((&(op, number, value), rest)) = choices.split_first() else { return Ok(last) };
    let number = b.scalar_i64(number);
    let here = b.compare(op, place, number)?;
    let other = chosen(b, place, rest, last)?;
    let pick = |n: usize| move |_: &mut Builder<'_>, values: &[Value]| Ok::<_, OpError>(vec![values[n]]);
    Ok(b.if_(here, &[value, other], pick(0), pick(1))?[0])
}

fn sequence_at(cx: &mut NodeContext<'_>) -> OpResult {
    let items = items(cx, 0)?;
    match place(cx, 1, items.len(), items.len())? {
        Place::Known(place) => Ok(vec![items[place]]),
        Place::Computed(place) => {
            if let Some(all) = stacked(cx, &items)? {
                return Ok(vec![cx.b.take(all, place, 0)?]);
            }
            let place = cx.b.cast(place, DType::I64)?;
            let (&last, before) = items.split_last().expect("the sequence is not empty");
            let choices: Vec<_> = before.iter().enumerate().map(|(i, &v)| (CmpOp::Eq, i as i64, v)).collect();
            Ok(vec![chosen(&mut cx.b, place, &choices, last)?])
        }
    }
}

/// A list of the items of a stack at positions that are a function of the place that data decides.
fn rearranged(
    cx: &mut NodeContext<'_>,
    all: Value,
    length: usize,
    place: Value,
    at: impl Fn(i64) -> [i64; 3],
) -> Result<Vec<Value>, OpError> {
    let place = cx.b.cast(place, DType::I64)?;
    let mut items = Vec::with_capacity(length);
    for i in 0..length as i64 {
        let choice = at(i);
        let index = cx.b.map(&[place], |e| {
            let (place, i) = (e.arg(0), e.dim(&Dim::from(i)));
            let [before, same, after] = choice.map(|n| e.dim(&Dim::from(n)));
            let (is_before, is_same) = (e.lt(i, place), e.eq(i, place));
            let rest = e.select(is_same, same, after);
            Ok(e.select(is_before, before, rest))
        })?;
        items.push(cx.b.take(all, index, 0)?);
    }
    Ok(items)
}

fn sequence_insert(cx: &mut NodeContext<'_>) -> OpResult {
    let mut items = items(cx, 0)?;
    let tensor = cx.input(1)?;
    let length = items.len();
    // Behind the last item is a place too; negative positions count from there as in a list of the old length.
    let place = match cx.optional(2) {
        None => Place::Known(length),
        Some(position) => {
            let position = cx.b.reshape(position, &[])?;
            match cx.b.known_i64s(position).as_deref() {
                Some(&[p]) if p == length as i64 => Place::Known(length),
                _ => place(cx, 2, length, length)?,
            }
        }
    };
    match place {
        Place::Known(place) => items.insert(place, tensor),
        Place::Computed(place) => {
            items.push(tensor);
            items = match stacked(cx, &items)? {
                Some(all) => rearranged(cx, all, length + 1, place, |i| [i, length as i64, i - 1])?,
                None => {
                    let place = cx.b.cast(place, DType::I64)?;
                    let mut inserted = Vec::with_capacity(length + 1);
                    for i in 0..=length {
                        let at = i as i64;
                        let mut choices = Vec::new();
                        choices.extend((i < length).then(|| (CmpOp::Gt, at, items[i])));
                        choices.extend((i > 0).then_some((CmpOp::Eq, at, tensor)));
                        let last = if i > 0 { items[i - 1] } else { tensor };
                        inserted.push(chosen(&mut cx.b, place, &choices, last)?);
                    }
                    inserted
                }
            };
        }
    }
    Ok(vec![list(cx, items)])
}

fn sequence_erase(cx: &mut NodeContext<'_>) -> OpResult {
    let mut items = items(cx, 0)?;
    let length = items.len();
    match place(cx, 1, length, length.wrapping_sub(1))? {
        Place::Known(place) => {
            items.remove(place);
        }
        Place::Computed(place) => {
            items = match stacked(cx, &items)? {
                Some(all) => rearranged(cx, all, length - 1, place, |i| [i, i + 1, i + 1])?,
                None => {
                    let place = cx.b.cast(place, DType::I64)?;
                    let kept = |(i, pair): (usize, &[Value])| {
                        chosen(&mut cx.b, place, &[(CmpOp::Gt, i as i64, pair[0])], pair[1])
                    };
                    items.windows(2).enumerate().map(kept).collect::<Result<_, _>>()?
                }
            };
        }
    }
    let element = match cx.b.ty(cx.input(0)?) {
        Type::Sequence(element) => (**element).clone(),
        other => other.clone(),
    };
    Ok(vec![cx.hold(Held::Sequence(items), element)])
}

fn concat_from_sequence(cx: &mut NodeContext<'_>) -> OpResult {
    let mut items = items(cx, 0)?;
    let Some(axis) = cx.int_opt("axis") else { return cx.invalid("attribute `axis` is missing") };
    let Some(&first) = items.first() else { return cx.unsupported("the concatenation of an empty sequence") };
    if cx.flag("new_axis", false) {
        let rank = cx.b.rank(first)? as i64;
        let axis = cx.b.axis(axis, rank as usize + 1)? as i64;
        for item in &mut items {
            *item = cx.b.unsqueeze(*item, &[axis])?;
        }
        return Ok(vec![cx.b.concat(&items, axis)?]);
    }
    Ok(vec![cx.b.concat(&items, axis)?])
}

/// Without sizes, slices of 1, whose axis goes unless `keepdims`; with one size, parts of it and a rest; else these sizes.
fn split_to_sequence(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let axis = cx.b.axis(cx.int("axis", 0), shape.len())?;
    let mut squeezed = false;
    let known_size = |cx: &NodeContext<'_>| match shape[axis].as_const() {
        Some(size) => Ok(size),
        None => cx.unsupported("the length of the sequence depends on a dimension: fix that with --dim"),
    };
    let parts = |size: i64, part: i64| -> Vec<Dim> {
        let full = std::iter::repeat_n(part, (size / part) as usize);
        full.chain((size % part != 0).then_some(size % part)).map(Dim::from).collect()
    };
    let sizes: Vec<Dim> = match cx.optional(1) {
        None => {
            squeezed = !cx.flag("keepdims", true);
            let size = known_size(cx)?;
            if size > MAX_ITEMS {
                return cx.unsupported(format!("a sequence of {size} items"));
            }
            parts(size, 1)
        }
        Some(split) if cx.b.rank(split)? == 0 && cx.b.known_i64s(split).is_none() => {
            return cx.unsupported("parts of a size that depends on data, so that the length of the sequence does");
        }
        Some(split) if cx.b.rank(split)? == 0 => match cx.known_i64(1)? {
            part @ 1.. => {
                let size = known_size(cx)?;
                if size / part > MAX_ITEMS {
                    return cx.unsupported(format!("a sequence of {} items", size / part));
                }
                parts(size, part)
            }
            part => return cx.invalid(format!("parts of size {part}")),
        },
        Some(split) => match cx.b.known_dims(split) {
            Some(sizes) => sizes,
            None => {
                let sizes = cx.bind(split, &Dim::ZERO, &shape[axis])?;
                let total = sizes.iter().try_fold(Dim::ZERO, |sum, size| &sum + size)?;
                if cx.b.graph.assume_equal(&total, &shape[axis]).is_err() {
                    return cx.invalid("the parts are not the whole");
                }
                sizes
            }
        },
    };
    let mut start = Dim::ZERO;
    let mut items = Vec::with_capacity(sizes.len());
    for size in &sizes {
        let item = cx.b.slice_axis(x, axis as i64, &start, size, 1)?;
        items.push(if squeezed { cx.b.squeeze(item, &[axis as i64])? } else { item });
        start = (&start + size)?;
    }
    Ok(vec![list(cx, items)])
}

/// The body, written out for each item of the first sequence; other sequences give their items, tensors themselves.
fn sequence_map(cx: &mut NodeContext<'_>) -> OpResult {
    let count = items(cx, 0)?.len();
    let sub = cx.subgraph("body")?;
    let importer = cx.importer();
    let operands = cx.all_inputs();
    let mut results: Vec<Vec<Value>> = vec![Vec::new(); cx.output_count()];
    for i in 0..count {
        let mut inputs = Vec::with_capacity(operands.len());
        for (n, &operand) in operands.iter().enumerate() {
            inputs.push(match cx.held(operand) {
                Some(Held::Sequence(items)) => match items.get(i) {
                    Some(&item) => item,
                    None => return cx.invalid(format!("sequence {n} has {} items instead of {count}", items.len())),
                },
                Some(Held::Optional(_)) | None => operand,
            });
        }
        let outputs = importer.import(&mut cx.b, &sub, &inputs, &sub.captures)?;
        if outputs.len() < results.len() {
            return cx.invalid("the body has too few outputs");
        }
        results.iter_mut().zip(outputs).for_each(|(list, output)| list.push(output));
    }
    Ok(results.into_iter().map(|items| list(cx, items)).collect())
}

fn optional(cx: &mut NodeContext<'_>) -> OpResult {
    let value = cx.optional(0);
    let element = value.map_or_else(|| TensorType::new(DType::F32, []).into(), |v| cx.b.ty(v).clone());
    Ok(vec![cx.hold(Held::Optional(value), element)])
}

/// What is no optional is its own element.
fn optional_get_element(cx: &mut NodeContext<'_>) -> OpResult {
    let value = cx.input(0)?;
    match cx.held(value) {
        Some(Held::Optional(Some(inner))) => Ok(vec![inner]),
        Some(Held::Optional(None)) => cx.invalid("an empty optional has no element"),
        Some(Held::Sequence(_)) | None => Ok(vec![value]),
    }
}

fn optional_has_element(cx: &mut NodeContext<'_>) -> OpResult {
    let has = cx.optional(0).is_some_and(|v| cx.held(v) != Some(Held::Optional(None)));
    Ok(vec![cx.b.scalar_bool(has)])
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;

    use crate::ops::test_model::{GraphModel, node, value_info};
    use crate::proto::AttributeProto;

    fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto { name: name.into(), i: Some(value), ..Default::default() }
    }

    #[test]
    fn positions_may_be_known_or_computed() {
        let model = |p: &[i64]| {
            let model = GraphModel::new(17).input("a", &[2], &[1.0, 2.0]).input("b", &[2], &[3.0, 4.0]);
            let model = model.input("c", &[2], &[5.0, 6.0]).integer_input("p", p);
            model
                .node(node("SequenceConstruct", &["a", "b"], &["s"]), vec![])
                .node(node("SequenceInsert", &["s", "c", "p"], &["t"]), vec![])
                .node(node("SequenceErase", &["t", "p"], &["u"]), vec![])
                .node(node("ConcatFromSequence", &["t"], &["y"]), vec![int("axis", 0)])
                .node(node("ConcatFromSequence", &["u"], &["z"]), vec![int("axis", 0), int("new_axis", 1)])
        };
        for (p, expected) in [(0, [5.0, 6.0, 1.0, 2.0, 3.0, 4.0]), (1, [1.0, 2.0, 5.0, 6.0, 3.0, 4.0])] {
            let results = model(&[p]).run(&["y", "z"]);
            assert_eq!(results[0].1, expected);
            assert_eq!(results[1], (vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]));
        }
    }

    #[test]
    fn a_map_is_written_out_and_splits_have_a_rest() {
        let double = vec![node("Add", &["i", "i"], &["o"])];
        let results = GraphModel::new(17)
            .input("x", &[5], &[1.0, 2.0, 3.0, 4.0, 5.0])
            .constant("two", &[], &[2])
            .node(node("SplitToSequence", &["x", "two"], &["s"]), vec![])
            .subgraph(
                node("SequenceMap", &["s"], &["t"]),
                "body",
                vec![value_info("i", DType::F32, &[-1])],
                double,
                &["o"],
            )
            .node(node("SequenceLength", &["t"], &["n"]), vec![])
            .node(node("Cast", &["n"], &["count"]), vec![int("to", 1)])
            .node(node("ConcatFromSequence", &["t"], &["y"]), vec![int("axis", 0)])
            .run(&["count", "y"]);
        assert_eq!(results[0].1, [3.0]);
        assert_eq!(results[1].1, [2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn lists_leave_the_model_as_tensors_and_cross_branches() {
        let then = vec![node("SequenceConstruct", &["a", "b"], &["r"])];
        let otherwise = vec![node("SequenceConstruct", &["b", "b"], &["r"])];
        let model = GraphModel::new(17).input("a", &[1], &[1.0]).input("b", &[1], &[2.0]);
        let model = model.truth("c", false).branch("c", "s", (then, "r"), (otherwise, "r"));
        let (names, results) = model.run_named(&["s"]);
        assert_eq!(names, ["s#0", "s#1"]);
        assert_eq!(results, [(vec![1], vec![2.0]), (vec![1], vec![2.0])]);
    }

    #[test]
    fn loops_see_lists_around_them_and_carry_lists_of_their_own() {
        let inputs = || vec![value_info("i", DType::I64, &[]), value_info("going", DType::Bool, &[])];
        let model = || {
            let model = GraphModel::new(17).input("a", &[2], &[1.0, 2.0]).input("b", &[2], &[3.0, 4.0]);
            let model = model.constant("two", &[], &[2]).truth("c", true);
            model.node(node("SequenceConstruct", &["a", "b"], &["s"]), vec![])
        };
        // Two rounds, each with the item that the iteration picks.
        let body = vec![
            node("SequenceAt", &["s", "i"], &["item"]),
            node("Add", &["sum", "item"], &["more"]),
            node("Identity", &["going"], &["on"]),
        ];
        let carried: Vec<_> = inputs().into_iter().chain([value_info("sum", DType::F32, &[2])]).collect();
        let summed = model().subgraph(node("Loop", &["two", "c", "a"], &["y"]), "body", carried, body, &["on", "more"]);
        assert_eq!(summed.run(&["y"]), [(vec![2], vec![5.0, 8.0])]);
        // Two rounds that each append the double of the first item.
        let body = vec![
            node("Add", &["a", "a"], &["twice"]),
            node("SequenceInsert", &["list", "twice"], &["longer"]),
            node("Identity", &["going"], &["on"]),
        ];
        let carried: Vec<_> = inputs().into_iter().chain([value_info("list", DType::F32, &[])]).collect();
        let of = node("Loop", &["two", "", "s"], &["t"]);
        let grown = model().subgraph(of, "body", carried, body, &["on", "longer"]);
        let (names, results) = grown.run_named(&["t"]);
        assert_eq!(names, ["t#0", "t#1", "t#2", "t#3"]);
        assert_eq!(results[3], (vec![2], vec![2.0, 4.0]));
    }

    #[test]
    fn an_empty_optional_has_no_element() {
        let model = GraphModel::new(18).node(node("Optional", &[], &["o"]), vec![]);
        let has = model.node(node("OptionalHasElement", &["o"], &["h"]), vec![]);
        let has = has.node(node("Cast", &["h"], &["y"]), vec![int("to", 1)]);
        assert_eq!(has.run(&["y"])[0].1, [0.0]);
        let get = GraphModel::new(18).node(node("Optional", &[], &["o"]), vec![]);
        let error = get.node(node("OptionalGetElement", &["o"], &["y"]), vec![]).error(&["y"]);
        assert!(error.contains("empty optional"), "{error}");
    }
}
