//! GreedySearch and Sampling: a decoder (`decoding.rs`) runs on the prompt, then in a loop on one token at a time, until every
//! sequence has met the end token or is full.
//!
//! A sequence that has met its end goes on with the padding token, from the end token on, and so does what is left when all
//! have: there ONNX Runtime leaves its buffer as it was.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::LoopSpec;
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Builder, Type, Value};

use super::super::Operator;
use super::super::random::Generator;
use super::super::softmax::trailing_softmax;
use super::beams::beam_search;
use super::decoding::{
    Decoder, Prompt, Start, decoder_of, decoder_only, decoders, last_scores, later_positions, longer_mask, run_prompt,
    sequences_of,
};
use super::row;
use super::score_rules::{Rules, set_at};
use crate::import::{NodeContext, OpError, OpResult};

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
    decoder_only(cx)?;
    let start = Start::of(cx)?;
    let [first, sub] = decoders(cx)?;
    let decoder = decoder_of(cx, &sub, &start.batch)?;
    let chance = if sampling { Some(Chance::of(cx, &start.batch, &start.most)?) } else { None };
    let rules = Rules::of(cx, sampling, 3);
    let importer = cx.importer();

    let Prompt { outputs, mask, counts } = run_prompt(cx, &start, &first, &decoder, 6)?;
    let sequences = sequences_of(cx, &start, decoder.pad)?;
    let zero = cx.b.scalar_bool(false);
    let done = cx.b.broadcast(zero, std::slice::from_ref(&start.batch))?;
    let filled = cx.b.dim_value(&start.length);
    let b = &mut cx.b;
    let scores = last_scores(b, outputs[0])?;
    let scores = rules.apply(b, scores, sequences, filled, true)?;
    let step = Step { sequences, done, place: filled };
    let (tokens, sequences, done, going) = step.chosen(b, &decoder, chance, scores)?;

    // Single tokens. The past is as long as all that came before.
    let past_length = Dim::from(b.graph.symbols.fresh("past"));
    let mut carried: Vec<(Value, Type)> = [tokens, sequences, done].iter().map(|&v| (v, b.ty(v).clone())).collect();
    carried.extend(decoder.carried(&outputs[1..], &past_length));
    let operands = rules.operands().chain(chance.map(|c| c.numbers));
    let captures = [mask, counts].into_iter().chain(operands).chain(sub.captures.iter().copied()).collect();
    let spec =
        LoopSpec { trip_count: b.dim_value(&start.left()?), condition: going, carried, captures, iterations: None };
    let results = b.loop_(&spec, |b, i, carried, captures| {
        let (mask, counts) = (captures[0], captures[1]);
        let mut outer = captures[2..].iter();
        let rules = rules.inside(&mut outer);
        let chance = chance.map(|c| Chance { numbers: *outer.next().expect("a capture for the numbers"), ..c });
        let mask = longer_mask(b, mask, &[start.batch.clone(), (&past_length + &Dim::ONE)?], &start.length)?;
        let positions = later_positions(b, counts, i)?;
        let inputs: Vec<Value> =
            [carried[0], positions, mask].into_iter().chain(carried[3..].iter().copied()).collect();
        let outputs = importer.import(b, &sub, &inputs, outer.as_slice())?;
        let place = start.filled(b, i)?;
        let scores = last_scores(b, outputs[0])?;
        let scores = rules.apply(b, scores, carried[1], place, false)?;
        let step = Step { sequences: carried[1], done: carried[2], place };
        let (tokens, sequences, done, going) = step.chosen(b, &decoder, chance, scores)?;
        let next = [tokens, sequences, done].into_iter().chain(outputs[1..].iter().copied()).collect();
        Ok::<_, OpError>((going, next, Vec::new()))
    })?;
    Ok(vec![results[1]])
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

impl Step {
    /// The next tokens, `[B, 1]`; the sequences with them; which have met their end; whether one has not.
    fn chosen(
        &self,
        b: &mut Builder<'_>,
        decoder: &Decoder,
        chance: Option<Chance>,
        scores: Value,
    ) -> Result<(Value, Value, Value, Value), OpError> {
        let best = match chance {
            Some(chance) => chance.choose(b, scores, self.place)?,
            None => b.reduce(ReduceOp::ArgMax { last: false }, scores, &[1], false)?,
        };
        let (end, pad) = (Dim::from(decoder.end), decoder.pad);
        let done = b.map(&[best, self.done], |e| {
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
        let place = b.reshape(self.place, &[Dim::ONE, Dim::ONE])?;
        let coords = [Coord::Axis(0), Coord::Input(0)];
        let sequences = b.scatter(ScatterOp::Set, self.sequences, tokens, &[place], &coords)?;
        let all = b.reduce(ReduceOp::Min, done, &[0], false)?;
        Ok((tokens, sequences, done, b.not(all)?))
    }
}
