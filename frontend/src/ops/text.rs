//! Operators on strings: they compare, join, cut and search text. What only moves strings or tests them for equality is an
//! ordinary operator: in the IR a string is a number.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::strings::{StringFunction, simple_case};
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Op, Shape, TensorBytes, TensorType, Value};

use super::{Operator, data_sizes, regex};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("StringConcat", &[20], (2, 2), concat),
    Operator::onnx("StringSplit", &[20], (1, 1), split),
    Operator::onnx("StringNormalizer", &[10], (1, 1), normalize),
    Operator::onnx("RegexFullMatch", &[20], (1, 1), full_match),
    Operator::onnx("TfIdfVectorizer", &[9], (1, 1), tf_idf),
];

/// The result of a function on strings.
pub(super) fn call(
    cx: &mut NodeContext<'_>,
    function: StringFunction,
    inputs: &[Value],
    dtype: DType,
    shape: &[Dim],
) -> Result<Value, OpError> {
    let node = cx.b.node(Op::Strings(function), inputs, &[TensorType::new(dtype, shape.iter().cloned()).into()])?;
    Ok(cx.b.graph.output(node))
}

/// A constant of strings.
pub(super) fn constant<'s>(
    cx: &mut NodeContext<'_>,
    shape: &[i64],
    strings: impl IntoIterator<Item = &'s [u8]>,
) -> Result<Value, OpError> {
    let tensor = cx.b.graph.strings.numbers(shape, strings);
    Ok(cx.b.constant(tensor, "")?)
}

/// A constant of 32-bit integers.
fn words(cx: &mut NodeContext<'_>, dtype: DType, shape: &[i64], words: &[u32]) -> Result<Value, OpError> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    Ok(cx.b.constant(TensorBytes { dtype, shape: shape.into(), bytes: bytes.into() }, "")?)
}

/// Fails unless the input is text.
fn text_input(cx: &NodeContext<'_>, n: usize) -> Result<Value, OpError> {
    let x = cx.input(n)?;
    match cx.b.dtype(x)? {
        DType::String => Ok(x),
        other => cx.invalid(format!("input {n} is of type {other} instead of string")),
    }
}

fn concat(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, b) = (text_input(cx, 0)?, text_input(cx, 1)?);
    let shape = cx.b.broadcast_shape(&[a, b])?;
    let (a, b) = (cx.b.broadcast(a, &shape)?, cx.b.broadcast(b, &shape)?);
    Ok(vec![call(cx, StringFunction::Concat, &[a, b], DType::String, &shape)?])
}

fn split(cx: &mut NodeContext<'_>) -> OpResult {
    let x = text_input(cx, 0)?;
    let shape = cx.b.shape(x)?;
    let length = Dim::product(&shape)?;
    let x = cx.b.reshape(x, std::slice::from_ref(&length))?;
    let delimiter = cx.attribute("delimiter").and_then(|a| a.s.clone()).unwrap_or_default();
    let delimiter = constant(cx, &[], [&delimiter[..]])?;
    let limit = cx.b.scalar_i64(cx.int_opt("maxsplit").unwrap_or(-1));
    let operands = [x, delimiter, limit];
    let counts = call(cx, StringFunction::Count, &operands, DType::I64, std::slice::from_ref(&length))?;
    let most = cx.b.reduce(ReduceOp::Max, counts, &[0], false)?;
    let most = cx.b.map(&[most], |e| {
        // Of no strings the greatest is the least number.
        let (most, none) = (e.arg(0), e.dim(&Dim::ZERO));
        Ok(e.max(most, none))
    })?;
    let most = cx.bind_one(most, &Dim::from(DEFAULT_HIGH))?;
    let parts = call(cx, StringFunction::Split, &operands, DType::String, &[length, most.clone()])?;
    let whole: Vec<Dim> = shape.iter().cloned().chain([most]).collect();
    Ok(vec![cx.b.reshape(parts, &whole)?, cx.b.reshape(counts, &shape)?])
}

fn change_case(cx: &mut NodeContext<'_>, x: Value, upper: bool) -> Result<Value, OpError> {
    let pairs = simple_case(upper);
    let table = words(cx, DType::U32, &[pairs.len() as i64 / 2, 2], &pairs)?;
    let shape = cx.b.shape(x)?;
    call(cx, StringFunction::Replace, &[x, table], DType::String, &shape)
}

/// Stop words go away, then letters change their case. Where nothing is left an empty string is.
fn normalize(cx: &mut NodeContext<'_>) -> OpResult {
    let x = text_input(cx, 0)?;
    let shape = cx.b.shape(x)?;
    let Some(length) = shape.last().filter(|_| shape.len() <= 2).cloned() else {
        return cx.invalid(format!("an input of {} dimensions instead of 1 or 2", shape.len()));
    };
    let mut words = cx.b.reshape(x, std::slice::from_ref(&length))?;
    let stopwords = cx.attribute("stopwords").map(|a| a.strings.clone()).unwrap_or_default();
    if !stopwords.is_empty() {
        let count = stopwords.len() as i64;
        let mut stop = constant(cx, &[count], stopwords.iter().map(|s| &s[..]))?;
        let mut compared = words;
        if !cx.flag("is_case_sensitive", false) {
            stop = change_case(cx, stop, false)?;
            compared = change_case(cx, words, false)?;
        }
        let compared = cx.b.unsqueeze(compared, &[1])?;
        let stops = cx.b.map(&[compared, stop], |e| {
            let (word, stop) = (e.arg(0), e.arg(1));
            let same = e.eq(word, stop);
            Ok(e.cast(DType::I64, same))
        })?;
        let stops = cx.b.reduce(ReduceOp::Max, stops, &[1], false)?;
        let kept = cx.b.map(&[stops], |e| {
            let (stops, zero) = (e.arg(0), e.dim(&Dim::ZERO));
            Ok(e.eq(stops, zero))
        })?;
        let positions = data_sizes::positions(cx, kept)?;
        let count = cx.b.shape(positions)?[0].clone();
        words = cx.b.take(words, positions, 0)?;
        let empty = constant(cx, &[1], [&b""[..]])?;
        words = cx.b.concat(&[words, empty], 0)?;
        let some = cx.b.graph.greater_dim(&count, &Dim::ONE)?;
        words = cx.b.slice_axis(words, 0, &Dim::ZERO, &some, 1)?;
    }
    words = match cx.text("case_change_action")?.map(str::to_ascii_uppercase).as_deref() {
        None | Some("NONE") => words,
        Some("LOWER") => change_case(cx, words, false)?,
        Some("UPPER") => change_case(cx, words, true)?,
        Some(other) => return cx.invalid(format!("case_change_action `{other}`")),
    };
    let mut result = shape.clone();
    let last = result.len() - 1;
    result[last] = cx.b.shape(words)?[0].clone();
    Ok(vec![cx.b.reshape(words, &result)?])
}

fn full_match(cx: &mut NodeContext<'_>) -> OpResult {
    let x = text_input(cx, 0)?;
    let Some(pattern) = cx.text("pattern")? else { return cx.invalid("attribute `pattern` is missing") };
    let automaton = match regex::automaton(pattern) {
        Ok(automaton) => automaton,
        Err(regex::PatternError::Syntax(message)) => return cx.invalid(format!("pattern {pattern:?}: {message}")),
        Err(regex::PatternError::Size(message)) => return cx.unsupported(format!("pattern {pattern:?}: {message}")),
    };
    let automaton = words(cx, DType::I32, &[automaton.len() as i64], &automaton)?;
    let shape = cx.b.shape(x)?;
    Ok(vec![call(cx, StringFunction::Accept, &[x, automaton], DType::Bool, &shape)?])
}

/// The n-grams of one length in the pool.
struct Grams {
    length: usize,
    /// The first of them among all n-grams.
    first: usize,
    count: usize,
    /// Where they begin in the pool.
    start: usize,
}

/// Counts n-grams: each of the pool is compared at each position.
fn tf_idf(cx: &mut NodeContext<'_>) -> OpResult {
    let mut x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let (Some(indexes), Some(starts)) = (cx.ints("ngram_indexes"), cx.ints("ngram_counts")) else {
        return cx.invalid("attribute `ngram_indexes` or `ngram_counts` is missing");
    };
    let is_text = cx.b.dtype(x)? == DType::String;
    let pool = if is_text {
        let strings = cx.attribute("pool_strings").map(|a| a.strings.clone()).unwrap_or_default();
        cx.b.graph.strings.numbers(&[strings.len() as i64], strings.iter().map(|s| &s[..]))
    } else {
        x = cx.b.cast(x, DType::I64)?;
        let pool = cx.ints("pool_int64s").unwrap_or_default();
        TensorBytes::from_i64(&[pool.len() as i64], pool)
    };
    if shape.is_empty() || shape.len() > 2 {
        return cx.invalid(format!("an input of {} dimensions instead of 1 or 2", shape.len()));
    }
    let (shortest, longest) = (cx.int("min_gram_length", 1), cx.int("max_gram_length", 1));
    let skips = cx.int("max_skip_count", 0);
    if !(0..1 << 16).contains(&skips) || shortest < 1 || longest < shortest || longest > starts.len() as i64 {
        return cx.invalid("max_skip_count, min_gram_length, max_gram_length and ngram_counts do not fit");
    }
    let mut all = Vec::new();
    let mut first = 0;
    for (i, &start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(pool.len() as i64);
        let length = i as i64 + 1;
        if start < 0 || end < start || end > pool.len() as i64 || (end - start) % length != 0 {
            return cx.invalid("ngram_counts does not cut the pool into n-grams");
        }
        let count = ((end - start) / length) as usize;
        all.push(Grams { length: i + 1, first, count, start: start as usize });
        first += count;
    }
    let width = indexes.iter().max().map_or(0, |&most| most + 1);
    if indexes.len() != first || indexes.iter().any(|&i| i < 0) || width > 1 << 30 {
        return cx.invalid(format!("{} ngram_indexes for {first} n-grams", indexes.len()));
    }
    let columns = shape[shape.len() - 1].clone();
    let rows = if shape.len() == 2 { shape[0].clone() } else { Dim::ONE };
    let x = cx.b.reshape(x, &[rows.clone(), columns.clone()])?;
    let out: Shape = [rows.clone(), Dim::from(width)].into_iter().collect();
    let mut sums = cx.b.map_to(&out, &[], |e| e.number(DType::F32, 0.0))?;
    let used = all.iter().filter(|g| (shortest..=longest).contains(&(g.length as i64)) && g.count > 0);
    for grams in used {
        // One item has no distance to the next.
        let steps = if grams.length == 1 { 1 } else { skips + 1 };
        for step in 1..=steps {
            let counts = count(cx, x, &columns, &pool, grams, step)?;
            let places = cx.b.i64s(&indexes[grams.first..grams.first + grams.count]);
            sums = cx.b.scatter(ScatterOp::Add, sums, counts, &[places], &[Coord::Axis(0), Coord::Input(0)])?;
        }
    }
    let mut weights = vec![1.0f32; width as usize];
    if let Some(given) = cx.floats("weights") {
        if given.len() != indexes.len() {
            return cx.invalid(format!("{} weights for {} n-grams", given.len(), indexes.len()));
        }
        indexes.iter().zip(given).for_each(|(&place, &weight)| weights[place as usize] = weight);
    }
    let weights = cx.b.constant(TensorBytes::from_f32(&[width], &weights), "")?;
    let mode = cx.text("mode")?.unwrap_or_default();
    if !["TF", "IDF", "TFIDF"].contains(&mode) {
        return cx.invalid(format!("mode `{mode}`"));
    }
    let y = cx.b.map(&[sums, weights], |e| {
        let (sum, weight, zero) = (e.arg(0), e.arg(1), e.number(DType::F32, 0.0)?);
        Ok(match mode {
            "TF" => sum,
            "IDF" => {
                let found = e.gt(sum, zero);
                e.select(found, weight, zero)
            }
            _ => e.mul(sum, weight),
        })
    })?;
    let result = if shape.len() == 2 { out } else { Shape::from_iter([Dim::from(width)]) };
    Ok(vec![cx.b.reshape(y, &result)?])
}

/// How often each of some n-grams is in each row of `x`, its items `step` apart: `f32` of a row for each row.
fn count(
    cx: &mut NodeContext<'_>,
    x: Value,
    columns: &Dim,
    pool: &TensorBytes,
    grams: &Grams,
    step: i64,
) -> Result<Value, OpError> {
    let mut operands = Vec::new();
    let shape = cx.b.shape(x)?;
    for item in 0..grams.length {
        let distance = Dim::from(item as i64 * step);
        let at = cx.b.map_to(std::slice::from_ref(columns), &[], |e| {
            let (position, distance) = (e.index(0), e.dim(&distance));
            Ok(e.add(position, distance))
        })?;
        let items = cx.b.gather(x, &[at], &[Coord::Axis(0), Coord::Input(0)], &shape)?;
        operands.push(cx.b.unsqueeze(items, &[2])?);
    }
    for item in 0..grams.length {
        let element = |gram: usize| {
            let at = (grams.start + gram * grams.length + item) * 8;
            &pool.bytes[at..at + 8]
        };
        let bytes: Vec<u8> = (0..grams.count).flat_map(element).copied().collect();
        let shape = [grams.count as i64].as_slice().into();
        operands.push(cx.b.constant(TensorBytes { dtype: pool.dtype, shape, bytes: bytes.into() }, "")?);
    }
    let reach = Dim::from((grams.length as i64 - 1) * step);
    let length = grams.length as u32;
    let found = cx.b.map(&operands, |e| {
        let (position, reach, end) = (e.index(1), e.dim(&reach), e.dim(columns));
        let last = e.add(position, reach);
        let mut found = e.lt(last, end);
        for item in 0..length {
            let (have, want) = (e.arg(item), e.arg(length + item));
            let same = e.eq(have, want);
            found = e.and(found, same);
        }
        Ok(e.cast(DType::F32, found))
    })?;
    Ok(cx.b.reduce(ReduceOp::Sum, found, &[1], false)?)
}
