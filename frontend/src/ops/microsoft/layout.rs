//! Images whose channels are the last dimension, and filters stored alike.

use onnxc_ir::tensor::Value;

use crate::import::{NodeContext, OpError};

/// `[N, spatial..., C]` as `[N, C, spatial...]`.
pub(super) fn channels_first(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let rank = cx.b.rank(x)?;
    if rank < 3 {
        return cx.invalid(format!("an image of rank {rank}"));
    }
    let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    Ok(cx.b.transpose(x, &perm)?)
}

/// `[N, C, spatial...]` as `[N, spatial..., C]`.
pub(super) fn channels_last(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let perm: Vec<usize> = std::iter::once(0).chain(2..cx.b.rank(x)?).chain([1]).collect();
    Ok(cx.b.transpose(x, &perm)?)
}
