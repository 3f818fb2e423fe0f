//! SparseAttention: the attention of GroupQueryAttention, in which a query sees only the keys of some blocks.
//!
//! Which blocks a block of queries sees is a matrix in compressed rows: the row of each entry follows from the row starts,
//! and a scatter sets the entries in a table of all pairs of blocks, from which each score takes its own.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::{Coord, ReduceOp, ScatterOp};

use super::super::Operator;
use super::super::attention::{join_heads, scores_with_scale, weighted_values};
use super::super::linear::sum_type;
use super::super::softmax::trailing_softmax;
use super::attention::{head_count, score_scale};
use super::group_query::{keys_before, present, projections, turned};
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The row of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[row("SparseAttention", (9, 11), sparse_attention)];

fn sparse_attention(cx: &mut NodeContext<'_>) -> OpResult {
    let mut new = projections(cx)?;
    let shape = cx.b.shape(new.q)?;
    let (batch, queries) = (shape[0].clone(), shape[2].clone());
    let total = cx.size_up_to(7, &Dim::from(DEFAULT_HIGH))?;
    let lengths = cx.input(8)?;
    let last = cx.b.binary_number(BinaryOp::Sub, lengths, 1.0)?;
    let before = keys_before(cx, last, &batch, &queries, &total)?;
    if cx.flag("do_rotary", false) {
        let tables = (cx.input(9)?, cx.input(10)?);
        new = turned(cx, new, before, tables, None, &total)?;
    }
    let present_k = present(cx, 3, new.k, before, &total)?;
    let present_v = present(cx, 4, new.v, before, &total)?;
    let k = cx.b.slice_axis(present_k, 2, &Dim::ZERO, &total, 1)?;
    let v = cx.b.slice_axis(present_v, 2, &Dim::ZERO, &total, 1)?;

    let scale = score_scale(cx, new.q)?;
    let dtype = cx.b.dtype(new.q)?;
    let acc = sum_type(dtype);
    let (q, k, v) = (cx.b.cast(new.q, acc)?, cx.b.cast(k, acc)?, cx.b.cast(v, acc)?);
    let scores = scores_with_scale(&mut cx.b, q, k, scale, acc)?;
    let hidden = hidden_keys(cx, before, &[batch, queries, total], acc)?;
    let scores = cx.b.add(scores, hidden)?;
    let weights = trailing_softmax(&mut cx.b, scores, 3, false)?;
    let y = weighted_values(&mut cx.b, weights, v)?;
    let y = join_heads(&mut cx.b, y)?;
    Ok(vec![cx.b.cast(y, dtype)?, present_k, present_v])
}

/// The least number for keys that a query must not see, `[B, N, S, T]` for `sizes` B, S and T: those after it, and those in
/// blocks that its block does not see.
fn hidden_keys(cx: &mut NodeContext<'_>, before: Value, sizes: &[Dim; 3], acc: DType) -> Result<Value, OpError> {
    let (heads, block) = (head_count(cx, "num_heads")?, head_count(cx, "sparse_block_size")?);
    let [batch, queries, total] = sizes;
    let (table, layouts) = visible_blocks(cx)?;
    let b = &mut cx.b;
    let layout = b.map_to(&[Dim::ONE, Dim::from(heads), Dim::ONE, Dim::ONE], &[], |e| {
        let (head, layouts) = (e.index(1), e.dim(&layouts));
        Ok(e.rem(head, layouts))
    })?;
    let query_block = b.map_to(&[batch.clone(), Dim::ONE, queries.clone(), Dim::ONE], &[before], |e| {
        let (before, query, block) = (e.arg(0), e.index(2), e.dim(&Dim::from(block)));
        let place = e.add(before, query);
        Ok(e.div(place, block))
    })?;
    let key_block = b.map_to(&[Dim::ONE, Dim::ONE, Dim::ONE, total.clone()], &[], |e| {
        let (key, block) = (e.index(3), e.dim(&Dim::from(block)));
        Ok(e.div(key, block))
    })?;
    let space = [batch.clone(), Dim::from(heads), queries.clone(), total.clone()];
    let coords = [Coord::Input(0), Coord::Input(1), Coord::Input(2)];
    let seen = b.gather(table, &[layout, query_block, key_block], &coords, &space)?;
    Ok(b.map_to(&space, &[seen, before], |e| {
        let (seen, before, query, key) = (e.arg(0), e.arg(1), e.index(2), e.index(3));
        let place = e.add(before, query);
        let (zero, least, none) = (e.number(acc, 0.0)?, e.constant(Scalar::least(acc)), e.number(DType::I32, 0.0)?);
        let (known, there) = (e.le(key, place), e.gt(seen, none));
        let seen = e.and(known, there);
        Ok(e.select(seen, zero, least))
    })?)
}

/// A table `i32[layouts, blocks, blocks]` of which blocks of keys each block of queries sees, and the number of layouts.
fn visible_blocks(cx: &mut NodeContext<'_>) -> Result<(Value, Dim), OpError> {
    let (starts, columns) = (cx.input(5)?, cx.input(6)?);
    let (rows, entries) = (cx.b.shape(starts)?, cx.b.shape(columns)?);
    let ([layouts, bounds], [_, entries]) = (&rows[..], &entries[..]) else {
        return cx.invalid("the indices of blocks are not two matrices");
    };
    let blocks = (bounds - &Dim::ONE)?;
    let b = &mut cx.b;
    // An entry lies in the row before the first one that starts behind it; what lies behind all rows is in none.
    let ends = b.slice_axis(starts, 1, &Dim::ONE, &blocks, 1)?;
    let ends = b.unsqueeze(ends, &[1])?;
    let behind = b.map_to(&[layouts.clone(), entries.clone(), blocks.clone()], &[ends], |e| {
        let (end, entry) = (e.arg(0), e.index(1));
        let end = e.cast(DType::I64, end);
        let behind = e.le(end, entry);
        Ok(e.cast(DType::I64, behind))
    })?;
    let row = b.reduce(ReduceOp::Sum, behind, &[2], false)?;
    let (zero, one) = (b.number(DType::I32, 0.0)?, b.number(DType::I32, 1.0)?);
    let none = b.broadcast(zero, &[layouts.clone(), blocks.clone(), blocks])?;
    let ones = b.broadcast(one, &[layouts.clone(), entries.clone()])?;
    let coords = [Coord::Axis(0), Coord::Input(0), Coord::Input(1)];
    Ok((b.scatter(ScatterOp::Set, none, ones, &[row, columns], &coords)?, layouts.clone()))
}
