//! Operators on token numbers and on bits: hashes, n-grams, words of characters, tests for what is not finite.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar};
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Conv, Coord, ReduceOp, ScatterOp};

use super::super::Operator;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("MurmurHash3", (1, 1), murmur_hash).limited("Elements of 32 and 64 bits."),
    row("NGramRepeatBlock", (2, 2), block_repeated),
    row("BifurcationDetector", (3, 4), bifurcation),
    row("WordConvEmbedding", (4, 4), word_convolution),
    row("IsAllFinite", (1, usize::MAX), all_finite),
];

/// `x` with its bits moved around to the left.
fn rotated(e: &mut ExprBuilder, x: ExprIndex, by: u32) -> Result<ExprIndex, BuildError> {
    let (left, right) = (e.number(DType::U32, by.into())?, e.number(DType::U32, (32 - by).into())?);
    let (high, low) = (e.binary(BinaryOp::Shl, x, left), e.binary(BinaryOp::Shr, x, right));
    Ok(e.or(high, low))
}

/// `x ^ (x >> by)`.
fn folded(e: &mut ExprBuilder, x: ExprIndex, by: u32) -> Result<ExprIndex, BuildError> {
    let by = e.number(DType::U32, by.into())?;
    let shifted = e.binary(BinaryOp::Shr, x, by);
    Ok(e.xor(x, shifted))
}

fn times(e: &mut ExprBuilder, x: ExprIndex, factor: u32) -> Result<ExprIndex, BuildError> {
    let factor = e.number(DType::U32, factor.into())?;
    Ok(e.mul(x, factor))
}

/// The 32-bit hash of the four or eight bytes of each element.
fn murmur_hash(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let dtype = cx.b.dtype(x)?;
    if !matches!(dtype.bits(), 32 | 64) || !(dtype.is_int() || dtype.is_float()) {
        return cx.unsupported(format!("hashes of {dtype}"));
    }
    let (seed, positive) = (cx.int("seed", 0) as u32, cx.flag("positive", true));
    let y = cx.b.map(&[x], |e| {
        let x = e.arg(0);
        let words = if dtype.bits() == 32 {
            vec![if dtype == DType::U32 { x } else { e.bitcast(DType::U32, x) }]
        } else {
            let x = if dtype == DType::U64 { x } else { e.bitcast(DType::U64, x) };
            let (mask, half) = (e.number(DType::U64, u32::MAX.into())?, e.number(DType::U64, 32.0)?);
            let (low, high) = (e.and(x, mask), e.binary(BinaryOp::Shr, x, half));
            vec![e.cast(DType::U32, low), e.cast(DType::U32, high)]
        };
        let length = 4 * words.len() as u32;
        let mut hash = e.number(DType::U32, seed.into())?;
        for word in words {
            let mixed = times(e, word, 0xcc9e_2d51)?;
            let mixed = rotated(e, mixed, 15)?;
            let mixed = times(e, mixed, 0x1b87_3593)?;
            hash = e.xor(hash, mixed);
            hash = rotated(e, hash, 13)?;
            hash = times(e, hash, 5)?;
            let more = e.number(DType::U32, 0xe654_6b64_u32.into())?;
            hash = e.add(hash, more);
        }
        let length = e.number(DType::U32, length.into())?;
        hash = e.xor(hash, length);
        hash = folded(e, hash, 16)?;
        hash = times(e, hash, 0x85eb_ca6b)?;
        hash = folded(e, hash, 13)?;
        hash = times(e, hash, 0xc2b2_ae35)?;
        hash = folded(e, hash, 16)?;
        Ok(if positive { hash } else { e.bitcast(DType::I32, hash) })
    })?;
    Ok(vec![y])
}

/// The elements of the rows of `x`, `[B, L]`, from a position on: `[B, count]`.
fn from_position(cx: &mut NodeContext<'_>, x: Value, start: &Dim, count: &Dim) -> Result<Value, OpError> {
    let index = cx.b.map_to(std::slice::from_ref(count), &[], |e| {
        let (at, start) = (e.index(0), e.dim(start));
        Ok(e.add(at, start))
    })?;
    let space = [cx.b.shape(x)?[0].clone(), count.clone()];
    Ok(cx.b.gather(x, &[index], &[Coord::Axis(0), Coord::Input(0)], &space)?)
}

/// Scores of minus infinity for each token that followed an earlier occurrence of the last tokens.
fn block_repeated(cx: &mut NodeContext<'_>) -> OpResult {
    let (ids, scores) = (cx.input(0)?, cx.input(1)?);
    let (shape, vocabulary, dtype) = (cx.b.shape(ids)?, cx.b.shape(scores)?, cx.b.dtype(scores)?);
    let size = cx.int("ngram_size", 0);
    if shape.len() != 2 || vocabulary.len() != 2 || !(1..=1024).contains(&size) {
        return cx.invalid(format!("n-grams of {size} tokens of rank {}", shape.len()));
    }
    let before = (&(&shape[1] - &Dim::from(size))? + &Dim::ONE)?;
    let count = cx.b.graph.greater_dim(&before, &Dim::ZERO)?;
    let mut inputs = vec![from_position(cx, ids, &Dim::from(size - 1), &count)?];
    for n in 0..size - 1 {
        inputs.push(from_position(cx, ids, &Dim::from(n), &count)?);
        let last = (&before + &Dim::from(n))?;
        inputs.push(from_position(cx, ids, &last, &Dim::ONE)?);
    }
    // What does not repeat is sent outside of the scores, where nothing is written.
    let targets = cx.b.map(&inputs, |e| {
        let (mut target, outside) = (e.arg(0), e.dim(&vocabulary[1]));
        for n in (1..inputs.len() as u32).step_by(2) {
            let (earlier, last) = (e.arg(n), e.arg(n + 1));
            let same = e.eq(earlier, last);
            target = e.select(same, target, outside);
        }
        Ok(target)
    })?;
    let least = cx.b.map(&[targets], |e| e.number(dtype, f64::NEG_INFINITY))?;
    let coords = [Coord::Axis(0), Coord::Input(0)];
    Ok(vec![cx.b.scatter(ScatterOp::Set, scores, least, &[targets], &coords)?])
}

/// The current tokens with those predicted ones that agree with the source, and the one after them; and where in the
/// source the only occurrence of their last tokens ends, or -1.
fn bifurcation(cx: &mut NodeContext<'_>) -> OpResult {
    let (source, current, previous) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let length = cx.b.shape(source)?[0].clone();
    let mut tokens = current;
    if let Some(predicted) = cx.optional(3) {
        let most = cx.b.shape(predicted)?[0].clone();
        let start = cx.b.reshape(previous, &[])?;
        let at = cx.b.map_to(std::slice::from_ref(&most), &[start], |e| {
            let (start, at) = (e.arg(0), e.index(0));
            Ok(e.add(start, at))
        })?;
        let expected = cx.b.gather(source, &[at], &[Coord::Input(0)], std::slice::from_ref(&most))?;
        let agrees = cx.b.map(&[predicted, expected, at], |e| {
            let (predicted, expected, at, length) = (e.arg(0), e.arg(1), e.arg(2), e.dim(&length));
            let (same, there) = (e.eq(predicted, expected), e.lt(at, length));
            let both = e.and(same, there);
            Ok(e.cast(DType::I64, both))
        })?;
        let so_far = cx.b.cumulate(ReduceOp::Prod, agrees, 0, false, false)?;
        let agreeing = cx.b.reduce(ReduceOp::Sum, so_far, &[0], false)?;
        let taken = cx.b.binary_number(BinaryOp::Add, agreeing, 1.0)?;
        let taken = cx.bind_one(taken, &most)?;
        let part = cx.b.slice_axis(predicted, 0, &Dim::ZERO, &taken, 1)?;
        tokens = cx.b.concat(&[current, part], 0)?;
    }
    let (least, most) = (cx.int("min_ngram_size", 1), cx.int("max_ngram_size", 3));
    if least < 1 || most < least || most > 64 {
        return cx.invalid(format!("n-grams of {least} to {most} tokens"));
    }
    let count = cx.b.shape(tokens)?[0].clone();
    let (mut found, mut done) = (cx.b.scalar_i64(-1), cx.b.scalar_bool(false));
    for size in least..=most {
        let (first, times) = occurrences(cx, source, tokens, size)?;
        let inputs = [found, done, first, times];
        let too_long = |e: &mut ExprBuilder| {
            let (size, count) = (e.dim(&Dim::from(size)), e.dim(&count));
            e.gt(size, count)
        };
        let ended = cx.b.map(&inputs, |e| {
            let (done, first, times, zero) = (e.arg(1), e.arg(2), e.arg(3), e.dim(&Dim::ZERO));
            let (size, length) = (e.dim(&Dim::from(size)), e.dim(&length));
            let end = e.add(first, size);
            let (none, at_end, long) = (e.eq(times, zero), e.ge(end, length), too_long(e));
            let stop = e.or(none, at_end);
            let stop = e.or(stop, long);
            Ok(e.or(done, stop))
        })?;
        found = cx.b.map(&inputs, |e| {
            let (found, done, first, times) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
            let (size, length, zero, one) =
                (e.dim(&Dim::from(size)), e.dim(&length), e.dim(&Dim::ZERO), e.dim(&Dim::ONE));
            let nowhere = e.constant(Scalar::i64(-1));
            let end = e.add(first, size);
            let (several, before_end) = (e.gt(times, one), e.lt(end, length));
            let ambiguous = e.and(several, before_end);
            let new = e.select(ambiguous, nowhere, end);
            let (none, long) = (e.eq(times, zero), too_long(e));
            let keep = e.or(done, none);
            let keep = e.or(keep, long);
            Ok(e.select(keep, found, new))
        })?;
        done = ended;
    }
    let shape = cx.b.shape(previous)?;
    Ok(vec![tokens, cx.b.reshape(found, &shape)?])
}

/// Where the last `size` tokens occur first in the source, and how often.
fn occurrences(cx: &mut NodeContext<'_>, source: Value, tokens: Value, size: i64) -> Result<(Value, Value), OpError> {
    let (length, count) = (cx.b.shape(source)?[0].clone(), cx.b.shape(tokens)?[0].clone());
    let mut inputs = Vec::new();
    for n in 0..size {
        let at = cx.b.map_to(std::slice::from_ref(&length), &[], |e| {
            let (at, n) = (e.index(0), e.dim(&Dim::from(n)));
            Ok(e.add(at, n))
        })?;
        inputs.push(cx.b.gather(source, &[at], &[Coord::Input(0)], std::slice::from_ref(&length))?);
        let last = (&count - &Dim::from(size - n))?;
        let last = cx.b.dim_value(&last);
        inputs.push(cx.b.gather(tokens, &[last], &[Coord::Input(0)], &[])?);
    }
    let matches = |e: &mut ExprBuilder| {
        let (at, size, length) = (e.index(0), e.dim(&Dim::from(size)), e.dim(&length));
        let end = e.add(at, size);
        let mut all = e.le(end, length);
        for n in (0..inputs.len() as u32).step_by(2) {
            let (a, b) = (e.arg(n), e.arg(n + 1));
            let same = e.eq(a, b);
            all = e.and(all, same);
        }
        all
    };
    let places = cx.b.map(&inputs, |e| {
        let (here, at, nowhere) = (matches(e), e.index(0), e.constant(Scalar::i64(i64::from(i32::MAX))));
        Ok(e.select(here, at, nowhere))
    })?;
    let marks = cx.b.map(&inputs, |e| {
        let here = matches(e);
        Ok(e.cast(DType::I64, here))
    })?;
    Ok((cx.b.reduce(ReduceOp::Min, places, &[0], false)?, cx.b.reduce(ReduceOp::Sum, marks, &[0], false)?))
}

/// A vector for each word, `[S, W]` of character numbers that end with zeros: the greatest response of each filter,
/// `[M, 1, K, E]`, to the characters' vectors `[C, E]`. Words without characters give zeros.
fn word_convolution(cx: &mut NodeContext<'_>) -> OpResult {
    let (words, filters, bias, vectors) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (sizes, kernel) = (cx.b.shape(words)?, cx.b.tensor(filters)?.static_shape());
    let Some([_, 1, width, embedding]) = kernel.as_deref().filter(|_| sizes.len() == 2) else {
        return cx.invalid("words of rank 2 and filters [M, 1, K, E] of known size are needed");
    };
    let (width, embedding) = (*width, *embedding);
    let dtype = cx.b.dtype(filters)?;
    let images = cx.b.take(vectors, words, 0)?;
    let images = cx.b.unsqueeze(images, &[1])?;
    let (one, none): ([i64; 2], [i64; 2]) = ([1, 1], [0, 0]);
    let conv = Conv {
        strides: one.as_slice().into(),
        pad_lo: none.as_slice().into(),
        pad_hi: none.as_slice().into(),
        lhs_dilation: one.as_slice().into(),
        rhs_dilation: one.as_slice().into(),
        groups: 1,
        channels_last: false,
        acc: dtype,
        panel: None,
        kernel: [width, embedding].as_slice().into(),
        winograd: None,
    };
    let y = cx.b.conv(conv, images, filters)?;
    let y = cx.b.squeeze(y, &[3])?;
    let marks = cx.b.map(&[words], |e| {
        let (x, zero) = (e.arg(0), e.number(DType::I32, 0.0)?);
        let there = e.gt(x, zero);
        Ok(e.cast(DType::I32, there))
    })?;
    let begun = cx.b.slice_axis(marks, 1, &Dim::ZERO, &Dim::ONE, 1)?;
    let lengths = cx.b.reduce(ReduceOp::Sum, marks, &[1], true)?;
    let lengths = cx.b.mul(lengths, begun)?;
    let lengths = cx.b.unsqueeze(lengths, &[2])?;
    let bias = cx.b.unsqueeze(bias, &[1])?;
    let responses = cx.b.map(&[y, bias, lengths], |e| {
        let (y, bias, length, at) = (e.arg(0), e.arg(1), e.arg(2), e.index(2));
        let (width, least) = (e.dim(&Dim::from(width)), e.constant(Scalar::least(dtype)));
        let sum = e.add(y, bias);
        let response = e.tanh(sum);
        let length = e.cast(DType::I64, length);
        let length = e.max(length, width);
        let end = e.add(at, width);
        let inside = e.le(end, length);
        Ok(e.select(inside, response, least))
    })?;
    let greatest = cx.b.reduce(ReduceOp::Max, responses, &[2], false)?;
    let lengths = cx.b.squeeze(lengths, &[2])?;
    Ok(vec![cx.b.map(&[greatest, lengths], |e| {
        let (y, length, none) = (e.arg(0), e.arg(1), e.number(DType::I32, 0.0)?);
        let (empty, zero) = (e.eq(length, none), e.number(dtype, 0.0)?);
        Ok(e.select(empty, zero, y))
    })?])
}

/// Whether no element of any input is infinite or NaN, or not the one of them that is asked for.
fn all_finite(cx: &mut NodeContext<'_>) -> OpResult {
    let (infinite_only, nan_only) = (cx.flag("isinf_only", false), cx.flag("isnan_only", false));
    if infinite_only && nan_only {
        return cx.invalid("`isinf_only` and `isnan_only` exclude each other");
    }
    let mut all = cx.b.scalar_bool(true);
    for x in cx.all_inputs() {
        let dtype = cx.b.dtype(x)?;
        let good = cx.b.map(&[x], |e| {
            let (x, limit) = (e.arg(0), e.number(dtype, f64::INFINITY)?);
            let size = e.abs(x);
            let (number, finite) = (e.eq(x, x), e.ne(size, limit));
            Ok(match (infinite_only, nan_only) {
                (true, _) => finite,
                (_, true) => number,
                _ => e.and(number, finite),
            })
        })?;
        let axes: Vec<i64> = (0..cx.b.rank(x)? as i64).collect();
        let good = cx.b.reduce(ReduceOp::Min, good, &axes, false)?;
        all = cx.b.binary(BinaryOp::And, all, good)?;
    }
    Ok(vec![all])
}
