//! The decoder of GreedySearch, Sampling and BeamSearch: what it is given for the prompt and for single tokens.
//!
//! Its subgraph takes token numbers, their positions, a mask over all positions so far and the keys and values of
//! the past; it gives the scores of the next token and the keys and values with the new ones. It is imported once for the
//! prompt and once for single tokens, so that each has its own shapes. The length of the past is a size that changes in the
//! loop.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, TensorType, Type, Value};

use crate::import::{NodeContext, OpError, Subgraph};
use crate::proto::{DimensionValue, TypeTensor, TypeValue, ValueInfoProto, dtype_from_onnx};

/// What a search starts from.
pub(super) struct Start {
    /// The prompts, `i32[batch, length]`.
    pub tokens: Value,
    pub batch: Dim,
    pub length: Dim,
    /// The greatest length of a sequence.
    pub most: Dim,
}

impl Start {
    pub(super) fn of(cx: &mut NodeContext<'_>) -> Result<Start, OpError> {
        let tokens = cx.input(0)?;
        let shape = cx.b.shape(tokens)?;
        if shape.len() != 2 {
            return cx.invalid("the prompt has not 2 dimensions");
        }
        let most = cx.size_up_to(1, &Dim::from(DEFAULT_HIGH))?;
        Ok(Start { tokens, batch: shape[0].clone(), length: shape[1].clone(), most })
    }

    /// How many single tokens come at most after the one behind the prompt.
    pub(super) fn left(&self) -> Result<Dim, OpError> {
        Ok((&(&self.most - &self.length)? - &Dim::ONE)?)
    }

    /// How many tokens a sequence has before the one that step `i` of these adds, an `i64` scalar.
    pub(super) fn filled(&self, b: &mut Builder<'_>, i: Value) -> Result<Value, BuildError> {
        b.map(&[i], |e| {
            let (i, start) = (e.arg(0), e.dim(&(&self.length + &Dim::ONE)?));
            Ok(e.add(i, start))
        })
    }
}

/// Refuses models with an encoder.
pub(super) fn decoder_only(cx: &NodeContext<'_>) -> Result<(), OpError> {
    if cx.int("model_type", 0) != 0 {
        return cx.unsupported("a model with an encoder (attribute `model_type`)");
    }
    Ok(())
}

/// The decoder's subgraphs for the prompt and for single tokens.
pub(super) fn decoders<'a>(cx: &mut NodeContext<'a>) -> Result<[Subgraph<'a>; 2], OpError> {
    let single = cx.subgraph("decoder")?;
    let first = if cx.attribute("init_decoder").is_some() { "init_decoder" } else { "decoder" };
    Ok([cx.subgraph(first)?, single])
}

/// The decoder's subgraph as a search runs it.
pub(super) struct Decoder {
    /// The types of keys and values of the past, whose fourth dimension is the length.
    pasts: Vec<TensorType>,
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

impl Decoder {
    /// Keys and values as a loop over single tokens carries them, when there are `length` of each.
    pub(super) fn carried(&self, pasts: &[Value], length: &Dim) -> impl Iterator<Item = (Value, Type)> {
        self.pasts.iter().zip(pasts).map(|(past, &value)| {
            let mut ty = past.clone();
            ty.shape[3] = length.clone();
            (value, ty.into())
        })
    }
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
    start: &Start,
    first: &Subgraph<'_>,
    decoder: &Decoder,
    mask: usize,
) -> Result<Prompt, OpError> {
    let importer = cx.importer();
    let prompt = start.tokens;
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

/// The prompts, with padding up to the greatest length.
pub(super) fn sequences_of(cx: &mut NodeContext<'_>, start: &Start, pad: i64) -> Result<Value, OpError> {
    let places = cx.b.map_to(&[Dim::ONE, start.most.clone()], &[], |e| Ok(e.index(1)))?;
    let space = [start.batch.clone(), start.most.clone()];
    let known = cx.b.gather(start.tokens, &[places], &[Coord::Axis(0), Coord::Input(0)], &space)?;
    Ok(cx.b.map_to(&space, &[known], |e| {
        let (token, place, length) = (e.arg(0), e.index(1), e.dim(&start.length));
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
