//! Reduces large pictures row by row first.
//!
//! Before: `y = reduce sum [1, 2] (x)` of `x: f32[N, H, W, C]`. After: `r = reduce sum [2] (x); y = reduce sum [1] (r)`. The tasks of
//! the first are rows of the picture, as those of the kernels around it, so that each core finds its rows in its cache; and
//! the sums of many rows are under way at once.
//!
//! Sums are rounded differently: not for `--fp strict`.

use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region};

use super::rewrite::{PassContext, Rewritten, one, rewrite};

/// Rows at least: fewer are not shared out evenly.
const LEAST_ROWS: i64 = 8;

/// Elements at least, in those of a task.
const LEAST_TASKS: i64 = 4;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    if cx.strict {
        return;
    }
    let body = graph.body();
    let least = LEAST_TASKS * cx.machine.task_elements;
    rewrite(graph, body, |graph, region, node| split(graph, region, node, least));
}

fn split(graph: &mut Graph, region: Region, node: Node, least: i64) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Reduce { op, axes } = &data.op else { return Ok(None) };
    let ty = graph.tensor_ty(data.inputs[0]);
    let [rows, others @ ..] = &axes[..] else { return Ok(None) };
    let combines = matches!(op, ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min);
    let last_kept = axes.iter().all(|&axis| axis as usize + 1 != ty.rank());
    let many = ty.shape[*rows as usize].as_const().is_some_and(|n| n >= LEAST_ROWS);
    let large = ty.static_len().is_some_and(|n| n >= least);
    if others.is_empty() || !combines || !last_kept || !many || !large || !matches!(ty.dtype, DType::F32 | DType::F64) {
        return Ok(None);
    }
    let inner: Vec<i64> = others.iter().map(|&axis| i64::from(axis)).collect();
    let mut b = Builder::new(graph, region, data.origins);
    let partial = b.reduce(*op, data.inputs[0], &inner, false)?;
    one(b.reduce(*op, partial, &[i64::from(*rows)], false)?)
}
