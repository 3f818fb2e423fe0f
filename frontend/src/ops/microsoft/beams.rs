//! BeamSearch: several sequences of each prompt go on side by side, those whose tokens are the most likely together.
//!
//! A step takes twice as many continuations as there are beams, best first. Those that end their sequence go among the
//! best ended ones; of the others the first go on. A prompt is done when none that goes on can become better than the
//! worst of its ended ones, or as soon as there are enough of them. The decoder runs on the prompt once; what it gives is
//! repeated for the beams. ONNX Runtime, where several prompts run, takes part of another prompt's scores for the best one
//! that can still come, and so may stop earlier or later.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, CmpOp};
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};
use onnxc_ir::tensor::{Builder, Shape, Type, Value};

use super::super::softmax::trailing_softmax;
use super::decoding::{
    Prompt, Start, decoder_of, decoder_only, decoders, last_scores, later_positions, longer_mask, run_prompt,
    sequences_of,
};
use super::score_rules::{LOWEST, Rules};
use crate::import::{NodeContext, OpError, OpResult};

/// What stays the same in a search.
struct Search {
    /// The number of prompts.
    batch: Dim,
    /// The number of beams of each prompt.
    beams: i64,
    /// The greatest length of a sequence.
    most: Dim,
    end: i64,
    pad: i64,
    /// Whether a prompt is done as soon as it has as many ended sequences as beams.
    early: bool,
}

/// What changes from step to step. The beams of a prompt are rows behind each other.
#[derive(Clone, Copy)]
struct State {
    /// The newest tokens, `i32[B * beams, 1]`.
    tokens: Value,
    /// `i32[B * beams, most]`.
    sequences: Value,
    /// The sums of the logarithms of the tokens' probabilities, `f32[B, beams]`.
    scores: Value,
    /// The scores of ended sequences, best first, `f32[B, beams]`; [`LOWEST`] where there is none.
    ended_scores: Value,
    /// Ended sequences, `i32[B, beams, most]`.
    ended: Value,
    /// Which prompts are done, `[B]`.
    done: Value,
}

impl State {
    const PARTS: usize = 6;

    fn parts(&self) -> [Value; Self::PARTS] {
        [self.tokens, self.sequences, self.scores, self.ended_scores, self.ended, self.done]
    }

    fn of(parts: &[Value]) -> State {
        let &[tokens, sequences, scores, ended_scores, ended, done] = parts else { panic!("six parts") };
        State { tokens, sequences, scores, ended_scores, ended, done }
    }
}

/// A step's place: how many tokens each sequence has before it, an `i64` scalar, and the exponent of the lengths by which
/// scores are divided, an `f32` scalar.
#[derive(Clone, Copy)]
struct Place {
    length: Value,
    penalty: Value,
}

pub(super) fn beam_search(cx: &mut NodeContext<'_>) -> OpResult {
    decoder_only(cx)?;
    if cx.wants_output(2) {
        return cx.unsupported("the scores of tokens as an output");
    }
    if cx.optional(10).is_some() || cx.optional(11).is_some() {
        return cx.unsupported("inputs `decoder_input_ids` and `logits_processor`");
    }
    let start = Start::of(cx)?;
    let (beams, returned) = (cx.known_i64(3)?, cx.known_i64(4)?);
    if !(1..=1 << 10).contains(&beams) || !(1..=beams).contains(&returned) {
        return cx.invalid(format!("{beams} beams and {returned} sequences of them"));
    }
    let rows = (&start.batch * &Dim::from(beams))?;
    let [first, sub] = decoders(cx)?;
    let (single, decoder) = (decoder_of(cx, &sub, &start.batch)?, decoder_of(cx, &sub, &rows)?);
    let early = cx.flag("early_stopping", false);
    let (batch, most) = (start.batch.clone(), start.most.clone());
    let search = Search { batch, beams, most, end: decoder.end, pad: decoder.pad, early };
    let mut rules = Rules::of(cx, false, 6);
    let penalty = match cx.optional(5) {
        Some(penalty) => {
            let penalty = cx.b.reshape(penalty, &[])?;
            cx.b.cast(penalty, DType::F32)?
        }
        None => cx.b.scalar_f32(1.0),
    };
    let importer = cx.importer();

    // The prompt.
    let Prompt { outputs, mask, counts } = run_prompt(cx, &start, &first, &single, 9)?;
    let sequences = sequences_of(cx, &start, decoder.pad)?;
    let filled = cx.b.dim_value(&start.length);
    let b = &mut cx.b;
    let (mask, counts) = (search.repeated(b, mask, 0)?, search.repeated(b, counts, 0)?);
    if let Some(words) = rules.first_vocabulary {
        rules.first_vocabulary = Some(search.repeated(b, words, 0)?);
    }
    let scores = last_scores(b, outputs[0])?;
    let scores = search.repeated(b, scores, 0)?;
    let sequences = search.repeated(b, sequences, 0)?;
    let scores = trailing_softmax(b, scores, 1, true)?;
    let scores = rules.apply(b, scores, sequences, filled, true)?;
    let pasts = outputs[1..].iter().map(|&v| search.repeated(b, v, 1)).collect::<Result<Vec<Value>, OpError>>()?;
    let state = search.start(b, sequences)?;
    let (state, from, going) = search.step(b, scores, state, Place { length: filled, penalty })?;
    let pasts = search.follow(b, &pasts, from)?;

    // Single tokens.
    let past_length = Dim::from(b.graph.symbols.fresh("past"));
    let mut carried: Vec<(Value, Type)> = state.parts().iter().map(|&v| (v, b.ty(v).clone())).collect();
    carried.extend(decoder.carried(&pasts, &past_length));
    let captures =
        [mask, counts, penalty].into_iter().chain(rules.operands()).chain(sub.captures.iter().copied()).collect();
    let spec =
        LoopSpec { trip_count: b.dim_value(&start.left()?), condition: going, carried, captures, iterations: None };
    let results = b.loop_(&spec, |b, i, carried, captures| {
        let (mask, counts, penalty) = (captures[0], captures[1], captures[2]);
        let mut outer = captures[3..].iter();
        let rules = rules.inside(&mut outer);
        let (state, pasts) = (State::of(&carried[..State::PARTS]), &carried[State::PARTS..]);
        let mask = longer_mask(b, mask, &[rows.clone(), (&past_length + &Dim::ONE)?], &start.length)?;
        let positions = later_positions(b, counts, i)?;
        let inputs: Vec<Value> = [state.tokens, positions, mask].into_iter().chain(pasts.iter().copied()).collect();
        let outputs = importer.import(b, &sub, &inputs, outer.as_slice())?;
        let filled = start.filled(b, i)?;
        let scores = last_scores(b, outputs[0])?;
        let scores = trailing_softmax(b, scores, 1, true)?;
        let scores = rules.apply(b, scores, state.sequences, filled, false)?;
        let (state, from, going) = search.step(b, scores, state, Place { length: filled, penalty })?;
        let pasts = search.follow(b, &outputs[1..], from)?;
        Ok::<_, OpError>((going, state.parts().into_iter().chain(pasts).collect(), Vec::new()))
    })?;

    let state = State::of(&results[..State::PARTS]);
    let (scores, sequences) = search.finish(b, state, penalty)?;
    let count = Dim::from(returned);
    Ok(vec![b.slice_axis(sequences, 1, &Dim::ZERO, &count, 1)?, b.slice_axis(scores, 1, &Dim::ZERO, &count, 1)?])
}

impl Search {
    fn pair(&self) -> [Dim; 2] {
        [self.batch.clone(), Dim::from(self.beams)]
    }

    /// Every element of the axis of prompts once for each beam.
    fn repeated(&self, b: &mut Builder<'_>, x: Value, axis: usize) -> Result<Value, OpError> {
        let shape = b.shape(x)?;
        let spread = b.unsqueeze(x, &[axis as i64 + 1])?;
        let mut wide = shape.clone();
        wide.insert(axis + 1, Dim::from(self.beams));
        let spread = b.broadcast(spread, &wide)?;
        let mut joined = shape;
        joined[axis] = (&self.batch * &Dim::from(self.beams))?;
        Ok(b.reshape(spread, &joined)?)
    }

    /// The state before the first step: only one of the equal beams has a chance.
    fn start(&self, b: &mut Builder<'_>, sequences: Value) -> Result<State, OpError> {
        let pair = self.pair();
        let scores = b.map_to(&pair, &[], |e| {
            let (beam, zero) = (e.index(1), e.dim(&Dim::ZERO));
            let (first, none, least) = (e.eq(beam, zero), e.number(DType::F32, 0.0)?, e.number(DType::F32, -1e9)?);
            Ok(e.select(first, none, least))
        })?;
        let (lowest, pad, no) =
            (b.number(DType::F32, LOWEST)?, b.number(DType::I32, self.pad as f64)?, b.scalar_bool(false));
        let space = [pair[0].clone(), pair[1].clone(), self.most.clone()];
        let row = [(&pair[0] * &pair[1])?, Dim::ONE];
        Ok(State {
            tokens: b.broadcast(pad, &row)?,
            sequences,
            scores,
            ended_scores: b.broadcast(lowest, &pair)?,
            ended: b.broadcast(pad, &space)?,
            done: b.broadcast(no, &pair[..1])?,
        })
    }

    /// One step with the logarithms of the probabilities `f32[B * beams, V]`: the new state, the beam that each new one goes
    /// on from (`i64[B, beams]`), and whether a prompt is not done.
    fn step(
        &self,
        b: &mut Builder<'_>,
        scores: Value,
        state: State,
        place: Place,
    ) -> Result<(State, Value, Value), OpError> {
        let [batch, beams] = self.pair();
        let words = b.shape(scores)?[1].clone();
        let scores = b.reshape(scores, &[batch.clone(), beams.clone(), words.clone()])?;
        let before = b.unsqueeze(state.scores, &[2])?;
        let sums = b.add(scores, before)?;
        let sums = b.reshape(sums, &[batch.clone(), (&beams * &words)?])?;
        let (sorted, order) = b.sort(sums, 1, true)?;
        let wide = Dim::from(2 * self.beams);
        let sums = b.slice_axis(sorted, 1, &Dim::ZERO, &wide, 1)?;
        let order = b.slice_axis(order, 1, &Dim::ZERO, &wide, 1)?;
        let part = |b: &mut Builder<'_>, op: BinaryOp| {
            b.map(&[order], |e| {
                let (place, words) = (e.arg(0), e.dim(&words));
                Ok(e.binary(op, place, words))
            })
        };
        let (beam, token) = (part(b, BinaryOp::Div)?, part(b, BinaryOp::Rem)?);
        let done = b.unsqueeze(state.done, &[1])?;

        // Those that end.
        let divisor = divisor(b, place)?;
        let best = |b: &mut Builder<'_>, x: Value| b.slice_axis(x, 1, &Dim::ZERO, &beams, 1);
        let (ending_sums, ending_tokens, ending_beams) = (best(b, sums)?, best(b, token)?, best(b, beam)?);
        let ending = b.map(&[ending_sums, ending_tokens, done, divisor], |e| {
            let (sum, token, done, divisor) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
            let (end, lowest) = (e.dim(&Dim::from(self.end)), e.number(DType::F32, LOWEST)?);
            let (ends, going, score) = (e.eq(token, end), e.not(done), e.div(sum, divisor));
            let counts = e.and(ends, going);
            Ok(e.select(counts, score, lowest))
        })?;
        let sequences = self.beams_of(b, state.sequences)?;
        let endings = self.chosen(b, sequences, ending_beams)?;
        let (ended_scores, ended) = self.merged(b, state, ending, endings)?;

        // Those that go on.
        let goes_on = b.map(&[token], |e| {
            let (token, end) = (e.arg(0), e.dim(&Dim::from(self.end)));
            let goes_on = e.compare(CmpOp::Ne, token, end);
            Ok(e.cast(DType::I64, goes_on))
        })?;
        let rank = b.cumulate(ReduceOp::Sum, goes_on, 1, true, false)?;
        let rank = b.map(&[rank, goes_on], |e| {
            let (rank, goes_on, zero, none) = (e.arg(0), e.arg(1), e.dim(&Dim::ZERO), e.dim(&Dim::from(-1)));
            let goes_on = e.gt(goes_on, zero);
            Ok(e.select(goes_on, rank, none))
        })?;
        let placed = |b: &mut Builder<'_>, values: Value| -> Result<Value, BuildError> {
            let zero = b.number(b.dtype(values)?, 0.0)?;
            let zeros = b.broadcast(zero, &self.pair())?;
            b.scatter(ScatterOp::Set, zeros, values, &[rank], &[Coord::Axis(0), Coord::Input(0)])
        };
        let (new_scores, new_tokens, from) = (placed(b, sums)?, placed(b, token)?, placed(b, beam)?);
        let scores = b.map(&[new_scores, done], |e| {
            let (score, done, zero) = (e.arg(0), e.arg(1), e.number(DType::F32, 0.0)?);
            Ok(e.select(done, zero, score))
        })?;
        let tokens = b.map(&[new_tokens, done], |e| {
            let (token, done, pad) = (e.arg(0), e.arg(1), e.number(DType::I32, self.pad as f64)?);
            let token = e.cast(DType::I32, token);
            Ok(e.select(done, pad, token))
        })?;
        let tokens = b.reshape(tokens, &[(&batch * &beams)?, Dim::ONE])?;
        let sequences = self.chosen(b, sequences, from)?;
        let sequences = b.reshape(sequences, &[(&batch * &beams)?, self.most.clone()])?;
        let at = b.reshape(place.length, &[Dim::ONE, Dim::ONE])?;
        let sequences = b.scatter(ScatterOp::Set, sequences, tokens, &[at], &[Coord::Axis(0), Coord::Input(0)])?;

        // Those that are done.
        let worst = b.reduce(ReduceOp::Min, ended_scores, &[1], false)?;
        let greatest = b.slice_axis(sums, 1, &Dim::ZERO, &Dim::ONE, 1)?;
        let greatest = b.squeeze(greatest, &[1])?;
        let done = b.map(&[state.done, worst, greatest, divisor], |e| {
            let (done, worst, greatest, divisor) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
            let lowest = e.number(DType::F32, LOWEST)?;
            let mut finished = e.gt(worst, lowest);
            if !self.early {
                let attainable = e.div(greatest, divisor);
                let better = e.ge(worst, attainable);
                finished = e.and(finished, better);
            }
            Ok(e.or(done, finished))
        })?;
        let all = b.reduce(ReduceOp::Min, done, &[0], false)?;
        Ok((State { tokens, sequences, scores, ended_scores, ended, done }, from, b.not(all)?))
    }

    /// `[B * beams, most]` as `[B, beams, most]`.
    fn beams_of(&self, b: &mut Builder<'_>, sequences: Value) -> Result<Value, BuildError> {
        let [batch, beams] = self.pair();
        b.reshape(sequences, &[batch, beams, self.most.clone()])
    }

    /// The sequences `[B, n, most]` of the beams that `from`, `[B, n]`, names.
    fn chosen(&self, b: &mut Builder<'_>, sequences: Value, from: Value) -> Result<Value, BuildError> {
        let shape = b.shape(from)?;
        let from = b.unsqueeze(from, &[2])?;
        let space = [shape[0].clone(), shape[1].clone(), self.most.clone()];
        b.gather(sequences, &[from], &[Coord::Axis(0), Coord::Input(0), Coord::Axis(2)], &space)
    }

    /// The best of the ended sequences and of others, `f32[B, beams]` and `i32[B, beams, most]`; of equal ones those that
    /// ended first.
    fn merged(
        &self,
        b: &mut Builder<'_>,
        state: State,
        scores: Value,
        sequences: Value,
    ) -> Result<(Value, Value), OpError> {
        let beams = Dim::from(self.beams);
        let scores = b.concat(&[state.ended_scores, scores], 1)?;
        let sequences = b.concat(&[state.ended, sequences], 1)?;
        let (scores, order) = b.sort(scores, 1, true)?;
        let order = b.slice_axis(order, 1, &Dim::ZERO, &beams, 1)?;
        Ok((b.slice_axis(scores, 1, &Dim::ZERO, &beams, 1)?, self.chosen(b, sequences, order)?))
    }

    /// Keys and values `[2, B * beams, heads, length, width]` of the beams that the new ones go on from.
    fn follow(&self, b: &mut Builder<'_>, presents: &[Value], from: Value) -> Result<Vec<Value>, OpError> {
        let [batch, beams] = self.pair();
        let from = b.reshape(from, &[Dim::ONE, batch.clone(), beams.clone(), Dim::ONE, Dim::ONE, Dim::ONE])?;
        let mut pasts = Vec::with_capacity(presents.len());
        for &present in presents {
            let shape = b.shape(present)?;
            let [two, rows, heads, length, width] = &shape[..] else {
                return Err(OpError::Invalid("a present of the decoder has not 5 dimensions".into()));
            };
            let split: Shape = [two, &batch, &beams, heads, length, width].into_iter().cloned().collect();
            let apart = b.reshape(present, &split)?;
            let axis = Coord::Axis;
            let coords = [axis(0), axis(1), Coord::Input(0), axis(3), axis(4), axis(5)];
            let chosen = b.gather(apart, &[from], &coords, &split)?;
            let joined = [two, rows, heads, length, width].map(Dim::clone);
            pasts.push(b.reshape(chosen, &joined)?);
        }
        Ok(pasts)
    }

    /// The best sequences of each prompt with their scores, after the last step: what still goes on counts as ended.
    fn finish(&self, b: &mut Builder<'_>, state: State, penalty: Value) -> Result<(Value, Value), OpError> {
        let length = b.dim_value(&self.most);
        let divisor = divisor(b, Place { length, penalty })?;
        let done = b.unsqueeze(state.done, &[1])?;
        let open = b.map(&[state.scores, done, divisor], |e| {
            let (sum, done, divisor) = (e.arg(0), e.arg(1), e.arg(2));
            let (lowest, score) = (e.number(DType::F32, LOWEST)?, e.div(sum, divisor));
            Ok(e.select(done, lowest, score))
        })?;
        let sequences = self.beams_of(b, state.sequences)?;
        self.merged(b, state, open, sequences)
    }
}

/// What the scores of sequences of this length are divided by, an `f32` scalar.
fn divisor(b: &mut Builder<'_>, place: Place) -> Result<Value, BuildError> {
    b.map(&[place.length, place.penalty], |e| {
        let (length, penalty) = (e.arg(0), e.arg(1));
        let length = e.cast(DType::F32, length);
        Ok(e.binary(BinaryOp::Pow, length, penalty))
    })
}
