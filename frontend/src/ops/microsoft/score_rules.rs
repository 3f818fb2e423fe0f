//! What GreedySearch, Sampling and BeamSearch do to the scores of the next token before they choose: penalties, masks over the
//! vocabulary, no repetition, a least length, a temperature.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Coord, ScatterOp};
use onnxc_ir::tensor::{Builder, Value};

use crate::import::{NodeContext, OpError};

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

    /// The operands that a loop over single tokens captures.
    pub(super) fn operands(&self) -> impl Iterator<Item = Value> {
        [self.repetition_penalty, self.vocabulary, self.least_length].into_iter().flatten()
    }

    /// The rules inside of that loop, which take their operands from what it captures.
    pub(super) fn inside(mut self, captures: &mut std::slice::Iter<'_, Value>) -> Rules {
        let operands = [&mut self.repetition_penalty, &mut self.vocabulary, &mut self.least_length];
        for operand in operands.into_iter().flatten() {
            *operand = *captures.next().expect("a capture for each operand");
        }
        self
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
pub(super) fn set_at(b: &mut Builder<'_>, scores: Value, tokens: Value, value: f64) -> Result<Value, BuildError> {
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
