//! GreedySearch and Sampling: a decoder runs on the prompt, then in a loop on one token at a time, until every sequence has
//! met the end token or is full. What BeamSearch (`beams.rs`) has in common with them is here.
//!
//! The decoder's subgraph takes token numbers, their positions, a mask over all positions so far and the keys and values of
//! the past; it gives the scores of the next token and the keys and values with the new ones. It is imported once for the
//! prompt and once for single tokens, so that each has its own shapes. The length of the past is a size that changes in the
//! loop. A sequence that has met its end goes on with the padding token, from the end token on, and so does what is left
//! when all have: there ONNX Runtime leaves its buffer as it was.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Builder, TensorType, Type, Value};

use super::super::Operator;
use super::super::random::Generator;
use super::super::softmax::trailing_softmax;
use super::beams::beam_search;
use super::row;
use crate::import::{NodeContext, OpError, OpResult, Subgraph};
use crate::proto::{DimensionValue, TypeTensor, TypeValue, ValueInfoProto, dtype_from_onnx};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("BeamSearch", (5, 12), beam_search).limited(
        "Decoders with the inputs of GPT-2; no scores of tokens as an output; the numbers of beams and of results are known \
         when the model is compiled.",
    ),
    row("GreedySearch", (2, 7), |cx| search(cx, false)).limited("Decoders with the inputs of GPT-2."),
    row("Sampling", (2, 9), |cx| search(cx, true)).limited(
        "Decoders with the inputs of GPT-2; a constant seed; no penalty by presence; no filtered scores as an output.",
    ),
];

/// The least score, which no token that is ruled out can win with.
pub(super) const LOWEST: f64 = f32::MIN as f64;

/// What changes the scores of the next token, before one is chosen. The values are those of one region.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    end: i64,
    ngram: i64,
    temperature: f32,
    repetition_penalty: Option<Value>,
    vocabulary: Option<Value>,
    /// Which tokens may be the first one after the prompt, for each row of scores.
    pub first_vocabulary: Option<Value>,
    least_length: Option<Value>,
}

impl Rules {
    /// Those of a node whose penalty and vocabularies are the inputs from `first` on.
    pub(super) fn of(cx: &NodeContext<'_>, sampling: bool, first: usize) -> Rules {
        Rules {
            end: cx.int("eos_token_id", 0),
            ngram: cx.int("no_repeat_ngram_size", 0),
            temperature: if sampling { cx.float("temperature", 1.0) } else { 1.0 },
            repetition_penalty: cx.optional(first),
            vocabulary: cx.optional(first + 1),
            first_vocabulary: cx.optional(first + 2),
            least_length: cx.optional(2),
        }
    }

    /// The operands that a loop over single tokens needs.
    pub(super) fn operands(&mut self) -> impl Iterator<Item = &mut Value> {
        let operands = [&mut self.repetition_penalty, &mut self.vocabulary, &mut self.least_length];
        operands.into_iter().flatten()
    }

    /// The scores `[B, V]` after all rules; `length` of the sequences' places are filled, an `i64` scalar.
    pub(super) fn apply(
        &self,
        b: &mut Builder<'_>,
        mut scores: Value,
        sequences: Value,
        length: Value,
        first: bool,
    ) -> Result<Value, OpError> {
        if let Some(penalty) = self.repetition_penalty {
            scores = penalized(b, scores, sequences, length, penalty)?;
        }
        if self.ngram > 0 {
            scores = without_repetition(b, scores, sequences, length, self.ngram)?;
        }
        for mask in self.vocabulary.into_iter().chain(self.first_vocabulary.filter(|_| first)) {
            let none = b.number(b.dtype(mask)?, 0.0)?;
            scores = b.map(&[scores, mask, none], |e| {
                let (score, mask, none) = (e.arg(0), e.arg(1), e.arg(2));
                let (excluded, lowest) = (e.eq(mask, none), e.number(DType::F32, LOWEST)?);
                Ok(e.select(excluded, lowest, score))
            })?;
        }
        if let Some(least) = self.least_length {
            let least = b.reshape(least, &[])?;
            let least = b.cast(least, DType::I64)?;
            let shape = b.shape(scores)?;
            let end = Dim::from(self.end);
            scores = b.map_to(&shape, &[scores, length, least], |e| {
                let (score, length, least, token) = (e.arg(0), e.arg(1), e.arg(2), e.index(1));
                let (short, end) = (e.lt(length, least), e.dim(&end));
                let (ends, lowest) = (e.eq(token, end), e.number(DType::F32, LOWEST)?);
                let excluded = e.and(short, ends);
                Ok(e.select(excluded, lowest, score))
            })?;
        }
        if self.temperature != 1.0 {
            let temperature = b.scalar_f32(self.temperature);
            scores = b.div(scores, temperature)?;
        }
        Ok(scores)
    }
}

/// Token numbers at filled places, -1 elsewhere: a scatter skips these.
fn filled(b: &mut Builder<'_>, sequences: Value, length: Value) -> Result<Value, BuildError> {
    let shape = b.shape(sequences)?;
    b.map_to(&shape, &[sequences, length], |e| {
        let (token, length, place) = (e.arg(0), e.arg(1), e.index(1));
        let (there, token, none) = (e.lt(place, length), e.cast(DType::I64, token), e.dim(&Dim::from(-1)));
        Ok(e.select(there, token, none))
    })
}

/// `scores[row, tokens[row, i]] = value`, for tokens that there are.
fn set_at(b: &mut Builder<'_>, scores: Value, tokens: Value, value: f64) -> Result<Value, BuildError> {
    let (shape, dtype) = (b.shape(tokens)?, b.dtype(scores)?);
    let value = b.number(dtype, value)?;
    let updates = b.broadcast(value, &shape)?;
    b.scatter(ScatterOp::Set, scores, updates, &[tokens], &[Coord::Axis(0), Coord::Input(0)])
}

/// Scores of tokens that occurred already: positive ones divided by the penalty, negative ones multiplied.
fn penalized(
    b: &mut Builder<'_>,
    scores: Value,
    sequences: Value,
    length: Value,
    penalty: Value,
) -> Result<Value, BuildError> {
    let tokens = filled(b, sequences, length)?;
    let (zero, shape) = (b.number(DType::F32, 0.0)?, b.shape(scores)?);
    let none = b.broadcast(zero, &shape)?;
    let seen = set_at(b, none, tokens, 1.0)?;
    let penalty = b.reshape(penalty, &[])?;
    let penalty = b.cast(penalty, DType::F32)?;
    b.map(&[scores, seen, penalty], |e| {
        let (score, seen, penalty, zero) = (e.arg(0), e.arg(1), e.arg(2), e.number(DType::F32, 0.0)?);
        let (negative, more, less) = (e.lt(score, zero), e.mul(score, penalty), e.div(score, penalty));
        let changed = e.select(negative, more, less);
        let seen = e.gt(seen, zero);
        Ok(e.select(seen, changed, score))
    })
}

/// Rules out the tokens that would complete a row of `count` tokens that occurred already.
fn without_repetition(
    b: &mut Builder<'_>,
    scores: Value,
    sequences: Value,
    length: Value,
    count: i64,
) -> Result<Value, BuildError> {
    let shape = b.shape(sequences)?;
    let tokens = filled(b, sequences, length)?;
    // What follows at each place, and the last tokens of each row; a place outside is clamped, and does not count.
    let at = |b: &mut Builder<'_>, offset: i64, last: bool| -> Result<Value, BuildError> {
        let space = [Dim::ONE, if last { Dim::ONE } else { shape[1].clone() }];
        let places = b.map_to(&space, &[length], |e| {
            let (length, place, offset) = (e.arg(0), e.index(1), e.dim(&Dim::from(offset)));
            let start = if last { length } else { place };
            Ok(e.add(start, offset))
        })?;
        let space = [shape[0].clone(), space[1].clone()];
        b.gather(tokens, &[places], &[Coord::Axis(0), Coord::Input(0)], &space)
    };
    let mut operands = vec![at(b, count - 1, false)?, length];
    for k in 0..count - 1 {
        operands.push(at(b, k, false)?);
        operands.push(at(b, k - (count - 1), true)?);
    }
    let blocked = b.map_to(&shape, &operands, |e| {
        let (token, length, place) = (e.arg(0), e.arg(1), e.index(1));
        let (behind, none) = (e.dim(&Dim::from(count - 1)), e.dim(&Dim::from(-1)));
        let end = e.add(place, behind);
        let mut same = e.lt(end, length);
        for k in 0..count as u32 - 1 {
            let (a, b) = (e.arg(2 + 2 * k), e.arg(3 + 2 * k));
            let equal = e.eq(a, b);
            same = e.and(same, equal);
        }
        Ok(e.select(same, token, none))
    })?;
    set_at(b, scores, blocked, LOWEST)
}

/// The decoder's subgraph as this file runs it.
pub(super) struct Decoder {
    /// The types of keys and values of the past, whose fourth dimension is the length.
    pub pasts: Vec<TensorType>,
    /// The number of a token that ends a sequence.
    pub end: i64,
    /// The number of the padding token.
    pub pad: i64,
}

/// Checks the inputs and outputs of the subgraph, which works on `batch` rows.
pub(super) fn decoder_of(cx: &NodeContext<'_>, sub: &Subgraph<'_>, batch: &Dim) -> Result<Decoder, OpError> {
    let names: Vec<&str> = sub.proto.input.iter().map(|i| i.name.as_str()).collect();
    let layers = names.iter().skip(3).take_while(|name| name.starts_with("past_")).count();
    if names.len() < 4 || !names.starts_with(&["input_ids", "position_ids", "attention_mask", "past_0"]) {
        return cx.unsupported("a decoder whose inputs are not those of GPT-2");
    }
    if names.len() != 3 + layers || names.contains(&"past_sequence_length") {
        return cx.unsupported(format!("a decoder with an input `{}`", names[names.len() - 1]));
    }
    if sub.proto.output.len() != 1 + layers {
        return cx.invalid("the decoder does not give scores and one present for each past");
    }
    let mut pasts = Vec::with_capacity(layers);
    for (past, present) in sub.proto.input[3..].iter().zip(&sub.proto.output[1..]) {
        let size = |axis: usize| declared_size(past, axis).or_else(|| declared_size(present, axis));
        let (Some(heads), Some(width)) = (size(2), size(4)) else {
            return cx.unsupported(format!("a past `{}` whose heads are not declared", past.name));
        };
        let Some(dtype) = declared_type(past) else { return cx.invalid(format!("`{}` is no tensor", past.name)) };
        let shape = [Dim::from(2), batch.clone(), Dim::from(heads), Dim::ZERO, Dim::from(width)];
        pasts.push(TensorType { dtype, shape: shape.into_iter().collect() });
    }
    let (Some(end), Some(pad)) = (cx.int_opt("eos_token_id"), cx.int_opt("pad_token_id")) else {
        return cx.invalid("attributes `eos_token_id` and `pad_token_id` have to be there");
    };
    Ok(Decoder { pasts, end, pad })
}

fn tensor_type(info: &ValueInfoProto) -> Option<&TypeTensor> {
    match info.r#type.as_deref()?.value.as_ref()? {
        TypeValue::TensorType(ty) => Some(ty),
        _ => None,
    }
}

fn declared_type(info: &ValueInfoProto) -> Option<DType> {
    dtype_from_onnx(tensor_type(info)?.elem_type)
}

fn declared_size(info: &ValueInfoProto, axis: usize) -> Option<i64> {
    match tensor_type(info)?.shape.as_ref()?.dim.get(axis)?.value {
        Some(DimensionValue::DimValue(size)) => Some(size),
        _ => None,
    }
}

/// How Sampling chooses the next token: by chance, among those that hold the greater part of the probability.
#[derive(Clone, Copy)]
struct Chance {
    /// That part.
    share: f32,
    /// So many of the best tokens are kept in any case.
    kept: i64,
    /// The score of those that are not kept.
    fill: f32,
    /// Whether a token is left out when those before it hold more than the share, instead of those from it on holding no
    /// more than the rest.
    custom: bool,
    /// Uniform numbers for each place and sequence, `[most, B]`.
    numbers: Value,
}

impl Chance {
    fn of(cx: &mut NodeContext<'_>, batch: &Dim, most: &Dim) -> Result<Chance, OpError> {
        if cx.wants_output(1) {
            return cx.unsupported("the filtered scores as an output");
        }
        if cx.optional(7).is_some() && cx.float("presence_penalty", 0.0) != 0.0 {
            return cx.unsupported("a penalty for tokens that are present (attribute `presence_penalty`)");
        }
        let seed = match cx.optional(8) {
            None => None,
            Some(_) => match cx.constant_tensor(8).and_then(|seed| seed.to_i64()).as_deref() {
                Some([seed]) => Some(*seed),
                _ => return cx.unsupported("a seed that is not known when the model is compiled"),
            },
        };
        let generator = Generator::with_seed(cx, &[most.clone(), batch.clone()], seed);
        Ok(Chance {
            share: cx.float("top_p", 0.0),
            kept: cx.int("min_tokens_to_keep", 0).max(1),
            fill: cx.float("filter_value", -1e20),
            custom: cx.flag("custom", false),
            numbers: cx.b.map_to(&[most.clone(), batch.clone()], &[], |e| generator.uniform(e, 0, 1))?,
        })
    }

    /// The next token of each row of scores, `i64`.
    fn choose(&self, b: &mut Builder<'_>, scores: Value, place: Value) -> Result<Value, OpError> {
        let (shape, share) = (b.shape(scores)?, f64::from(self.share));
        let (sorted, tokens) = b.sort(scores, 1, self.custom)?;
        let weights = trailing_softmax(b, sorted, 1, false)?;
        let sums = b.cumulate(ReduceOp::Sum, weights, 1, false, false)?;
        let first_kept = (&shape[1] - &Dim::from(self.kept))?;
        let dropped = b.map_to(&shape, &[sums, weights, tokens], |e| {
            let (sum, weight, token, rank) = (e.arg(0), e.arg(1), e.arg(2), e.index(1));
            let (none, zero) = (e.dim(&Dim::from(-1)), e.dim(&Dim::ZERO));
            let drop = if self.custom {
                let (before, limit) = (e.sub(sum, weight), e.number(DType::F32, share)?);
                let (over, behind) = (e.gt(before, limit), e.gt(rank, zero));
                e.and(over, behind)
            } else {
                let (limit, first) = (e.number(DType::F32, 1.0 - share)?, e.dim(&first_kept));
                let (under, worse) = (e.le(sum, limit), e.lt(rank, first));
                e.and(under, worse)
            };
            Ok(e.select(drop, token, none))
        })?;
        let scores = set_at(b, scores, dropped, self.fill.into())?;
        let weights = trailing_softmax(b, scores, 1, false)?;
        let sums = b.cumulate(ReduceOp::Sum, weights, 1, false, false)?;
        let numbers = b.take(self.numbers, place, 0)?;
        let numbers = b.unsqueeze(numbers, &[1])?;
        let passed = b.map(&[numbers, sums], |e| {
            let (number, sum) = (e.arg(0), e.arg(1));
            let passed = e.ge(number, sum);
            Ok(e.cast(DType::I64, passed))
        })?;
        let token = b.reduce(ReduceOp::Sum, passed, &[1], false)?;
        // The last sum may be a little below 1.
        let last = (&shape[1] - &Dim::ONE)?;
        Ok(b.map(&[token], |e| {
            let (token, last) = (e.arg(0), e.dim(&last));
            Ok(e.min(token, last))
        })?)
    }
}

fn search(cx: &mut NodeContext<'_>, sampling: bool) -> OpResult {
    if cx.int("model_type", 0) != 0 {
        return cx.unsupported("a model with an encoder (attribute `model_type`)");
    }
    let prompt = cx.input(0)?;
    let shape = cx.b.shape(prompt)?;
    if shape.len() != 2 {
        return cx.invalid("the prompt has not 2 dimensions");
    }
    let (batch, length) = (shape[0].clone(), shape[1].clone());
    let most = cx.size_up_to(1, &Dim::from(DEFAULT_HIGH))?;
    let sub = cx.subgraph("decoder")?;
    let first =
        if cx.attribute("init_decoder").is_some() { cx.subgraph("init_decoder")? } else { cx.subgraph("decoder")? };
    let decoder = decoder_of(cx, &sub, &batch)?;
    let mut chance = if sampling { Some(Chance::of(cx, &batch, &most)?) } else { None };
    let mut rules = Rules::of(cx, sampling, 3);
    let importer = cx.importer();

    let Prompt { outputs, mask, counts } = run_prompt(cx, &first, &decoder, 6)?;
    let sequences = sequences_of(cx, prompt, &most, decoder.pad)?;
    let zero = cx.b.scalar_bool(false);
    let done = cx.b.broadcast(zero, std::slice::from_ref(&batch))?;
    let filled = cx.b.dim_value(&length);
    let b = &mut cx.b;
    let scores = last_scores(b, outputs[0])?;
    let scores = rules.apply(b, scores, sequences, filled, true)?;
    let step = Step { sequences, done, place: filled };
    let (tokens, sequences, done, going) = decoder.chosen(b, chance, scores, &step)?;

    // Single tokens. The past is as long as all that came before.
    let past_length = Dim::from(b.graph.symbols.fresh("past"));
    let mut carried: Vec<(Value, Type)> = [tokens, sequences, done].iter().map(|&v| (v, b.ty(v).clone())).collect();
    for (past, &present) in decoder.pasts.iter().zip(&outputs[1..]) {
        let mut ty = past.clone();
        ty.shape[3] = past_length.clone();
        carried.push((present, ty.into()));
    }
    let left = (&(&most - &length)? - &Dim::ONE)?;
    let operands: Vec<Value> = rules.operands().map(|v| *v).chain(chance.map(|c| c.numbers)).collect();
    let captures: Vec<Value> = [mask, counts].into_iter().chain(operands).chain(sub.captures.iter().copied()).collect();
    let spec = LoopSpec { trip_count: b.dim_value(&left), condition: going, carried, captures, iterations: None };
    let results = b.loop_(&spec, |b, i, carried, captures| {
        let (mask, counts) = (captures[0], captures[1]);
        let mut outer = captures[2..].iter();
        for operand in rules.operands() {
            *operand = *outer.next().expect("a capture for each operand");
        }
        if let Some(chance) = &mut chance {
            chance.numbers = *outer.next().expect("a capture for the numbers");
        }
        let mask = longer_mask(b, mask, &[batch.clone(), (&past_length + &Dim::ONE)?], &length)?;
        let positions = later_positions(b, counts, i)?;
        let inputs: Vec<Value> =
            [carried[0], positions, mask].into_iter().chain(carried[3..].iter().copied()).collect();
        let outputs = importer.import(b, &sub, &inputs, outer.as_slice())?;
        let place = b.map(&[i], |e| {
            let (i, start) = (e.arg(0), e.dim(&(&length + &Dim::ONE)?));
            Ok(e.add(i, start))
        })?;
        let scores = last_scores(b, outputs[0])?;
        let scores = rules.apply(b, scores, carried[1], place, false)?;
        let step = Step { sequences: carried[1], done: carried[2], place };
        let (tokens, sequences, done, going) = decoder.chosen(b, chance, scores, &step)?;
        let next = [tokens, sequences, done].into_iter().chain(outputs[1..].iter().copied()).collect();
        Ok::<_, OpError>((going, next, Vec::new()))
    })?;
    Ok(vec![results[1]])
}

/// What the decoder makes of the prompt.
pub(super) struct Prompt {
    /// Its outputs.
    pub outputs: Vec<Value>,
    /// The prompt's mask, `i32`.
    pub mask: Value,
    /// The number of tokens of each row that are no padding, `i32` of shape `[B, 1]`.
    pub counts: Value,
}

/// Runs the decoder on the prompt, whose mask is the input `mask` or follows from the padding.
pub(super) fn run_prompt(
    cx: &mut NodeContext<'_>,
    first: &Subgraph<'_>,
    decoder: &Decoder,
    mask: usize,
) -> Result<Prompt, OpError> {
    let importer = cx.importer();
    let prompt = cx.input(0)?;
    // A given mask does not decide the positions: padding does.
    let words = words_of(cx, prompt, decoder.pad)?;
    let sums = cx.b.cumulate(ReduceOp::Sum, words, 1, false, false)?;
    let positions = cx.b.map(&[words, sums], |e| {
        let (word, sum) = (e.arg(0), e.arg(1));
        let (zero, one) = (e.number(DType::I32, 0.0)?, e.number(DType::I32, 1.0)?);
        let (none, before) = (e.eq(word, zero), e.sub(sum, one));
        Ok(e.select(none, zero, before))
    })?;
    let counts = cx.b.reduce(ReduceOp::Sum, words, &[1], true)?;
    let mask = match cx.optional(mask) {
        Some(mask) => cx.b.cast(mask, DType::I32)?,
        None => words,
    };
    let mut inputs = vec![prompt, positions, mask];
    for past in &decoder.pasts {
        let zero = cx.b.number(past.dtype, 0.0)?;
        inputs.push(cx.b.broadcast(zero, &past.shape)?);
    }
    let outputs = importer.import(&mut cx.b, first, &inputs, &first.captures)?;
    Ok(Prompt { outputs, mask, counts })
}

/// The positions `[B, 1]` of the tokens that come `i` steps after the first one behind the prompt.
pub(super) fn later_positions(b: &mut Builder<'_>, counts: Value, i: Value) -> Result<Value, BuildError> {
    b.map(&[counts, i], |e| {
        let (count, i) = (e.arg(0), e.arg(1));
        let i = e.cast(DType::I32, i);
        Ok(e.add(count, i))
    })
}

/// 1 for tokens of the prompt and 0 for padding, `i32`.
fn words_of(cx: &mut NodeContext<'_>, prompt: Value, pad: i64) -> Result<Value, OpError> {
    Ok(cx.b.map(&[prompt], |e| {
        let (token, pad) = (e.arg(0), e.number(DType::I32, pad as f64)?);
        let padding = e.eq(token, pad);
        let (zero, one) = (e.number(DType::I32, 0.0)?, e.number(DType::I32, 1.0)?);
        Ok(e.select(padding, zero, one))
    })?)
}

/// The prompt's mask with ones behind it.
pub(super) fn longer_mask(
    b: &mut Builder<'_>,
    mask: Value,
    space: &[Dim; 2],
    length: &Dim,
) -> Result<Value, BuildError> {
    let places = b.map_to(&[Dim::ONE, space[1].clone()], &[], |e| Ok(e.index(1)))?;
    let known = b.gather(mask, &[places], &[Coord::Axis(0), Coord::Input(0)], space)?;
    b.map_to(space, &[known], |e| {
        let (known, place, length, one) = (e.arg(0), e.index(1), e.dim(length), e.number(DType::I32, 1.0)?);
        let before = e.lt(place, length);
        Ok(e.select(before, known, one))
    })
}

/// The prompt, with padding up to the greatest length.
pub(super) fn sequences_of(cx: &mut NodeContext<'_>, prompt: Value, most: &Dim, pad: i64) -> Result<Value, OpError> {
    let shape = cx.b.shape(prompt)?;
    let places = cx.b.map_to(&[Dim::ONE, most.clone()], &[], |e| Ok(e.index(1)))?;
    let space = [shape[0].clone(), most.clone()];
    let known = cx.b.gather(prompt, &[places], &[Coord::Axis(0), Coord::Input(0)], &space)?;
    Ok(cx.b.map_to(&space, &[known], |e| {
        let (token, place, length) = (e.arg(0), e.index(1), e.dim(&shape[1]));
        let (before, pad) = (e.lt(place, length), e.number(DType::I32, pad as f64)?);
        Ok(e.select(before, token, pad))
    })?)
}

/// The scores `[B, V]` of what follows the last position, in `f32`.
pub(super) fn last_scores(b: &mut Builder<'_>, scores: Value) -> Result<Value, OpError> {
    let shape = b.shape(scores)?;
    if shape.len() != 3 {
        return Err(OpError::Invalid("the decoder's scores have not 3 dimensions".into()));
    }
    let last = b.slice_axis(scores, 1, &(&shape[1] - &Dim::ONE)?, &Dim::ONE, 1)?;
    let last = b.reshape(last, &[shape[0].clone(), shape[2].clone()])?;
    Ok(b.cast(last, DType::F32)?)
}

/// Where a search stands.
struct Step {
    /// `[B, most]`, `i32`.
    sequences: Value,
    /// Which sequences have met their end, `[B]`.
    done: Value,
    /// Where the next token goes, an `i64` scalar.
    place: Value,
}

impl Decoder {
    /// The next tokens, `[B, 1]`; the sequences with them; which have met their end; whether one has not.
    fn chosen(
        &self,
        b: &mut Builder<'_>,
        chance: Option<Chance>,
        scores: Value,
        step: &Step,
    ) -> Result<(Value, Value, Value, Value), OpError> {
        let best = match chance {
            Some(chance) => chance.choose(b, scores, step.place)?,
            None => b.reduce(ReduceOp::ArgMax { last: false }, scores, &[1], false)?,
        };
        let (end, pad) = (Dim::from(self.end), self.pad);
        let done = b.map(&[best, step.done], |e| {
            let (token, done, end) = (e.arg(0), e.arg(1), e.dim(&end));
            let ends = e.eq(token, end);
            Ok(e.or(done, ends))
        })?;
        let tokens = b.map(&[best, done], |e| {
            let (token, done, pad) = (e.arg(0), e.arg(1), e.number(DType::I32, pad as f64)?);
            let token = e.cast(DType::I32, token);
            Ok(e.select(done, pad, token))
        })?;
        let tokens = b.unsqueeze(tokens, &[1])?;
        let place = b.reshape(step.place, &[Dim::ONE, Dim::ONE])?;
        let coords = [Coord::Axis(0), Coord::Input(0)];
        let sequences = b.scatter(ScatterOp::Set, step.sequences, tokens, &[place], &coords)?;
        let all = b.reduce(ReduceOp::Min, done, &[0], false)?;
        Ok((tokens, sequences, done, b.not(all)?))
    }
}
