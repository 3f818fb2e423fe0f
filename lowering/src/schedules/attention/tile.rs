//! Attention by matrix instructions, on machines that have them: a task is a tile of queries, which a block of threads
//! takes through all keys (see [`onnxc_ir::loops::attend`]). Operands lie in memory at constant distances.
//!
//! Products of 16-bit floats are taken as they are, and the softmax's weights are rounded to the operands' type; those of
//! `f32` only where the caller allows to round operands ([`onnxc_ir::machine::MachineModel::f32_products`]).

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, Attend, LoopKind, TileKind, TileOperand, Val};
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::Label;

use super::pattern::{Parts, roles};
use super::{position, score_of, value_heads};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};
use crate::schedules::contract::Roles;
use crate::schedules::tile::{self, digits_of, distance};

/// Queries of a tile: sixteen for each warp.
const ROWS: i64 = 64;

/// Elements of a query or a value at most: fragments of them stay in registers.
const LONGEST: i64 = 128;

/// Elements that lie behind a row of sums: its length is that of whole fragments, and rows begin in different banks.
const BEHIND: i64 = 8;

/// An operand that lies in memory.
struct Matrix {
    value: Value,
    offset: Dim,
    /// Strides along the first product's outer dimensions.
    outer: Vec<Dim>,
    rows: (Dim, Dim),
    depth: (Dim, Dim),
}

/// An attention whose operands lie in memory.
pub(super) struct Operands {
    kind: TileKind,
    first: Roles,
    second: Roles,
    /// Queries, keys, values.
    matrices: [Matrix; 3],
    depth: i64,
    width: i64,
}

/// What tiles need to know of an attention; none if they cannot compute it.
pub(super) fn operands(k: &GroupKernel<'_>, parts: &Parts) -> Option<Operands> {
    let graph = k.graph;
    let (first, second) = (roles(graph, parts.scores)?, roles(graph, parts.values)?);
    let sources = [first.left, first.right, second.right];
    let found = [0, 1, 2].map(|n| tile::in_memory(graph, sources[n]));
    let [Some(queries), Some(keys), Some(values)] = found else { return None };
    let dtype = |v: Value| graph.tensor_ty(v).dtype;
    let kind = tile::kind(k.machine, [dtype(queries.0), dtype(keys.0)], DType::F32)?;
    if tile::kind(k.machine, [dtype(values.0); 2], DType::F32) != Some(kind) {
        return None;
    }
    let stride = |strides: &[Dim], labels: &[Label], label: Label| {
        labels.iter().position(|&l| l == label).map_or(Dim::ZERO, |i| strides[i].clone())
    };
    // The dimensions of the second product around its rows, in the order of the first one's.
    let heads: Vec<usize> = value_heads(&first, &second).collect();
    let value_outer: Vec<Dim> = (0..first.outer.len())
        .map(|i| {
            let label = second.outer[position_of(&heads, i)];
            stride(&values.2, &second.right_labels, label)
        })
        .collect();
    let matrix = |(value, offset, strides): (Value, Dim, Vec<Dim>), labels: &[Label], row: Label| {
        let along = |l: Label| (first.size(l).clone(), stride(&strides, labels, l));
        let outer = first.outer.iter().map(|&l| stride(&strides, labels, l)).collect();
        Matrix { value, offset, outer, rows: along(row), depth: along(first.contracted[0]) }
    };
    let queries = matrix(queries, &first.left_labels, first.row_label?);
    let keys = matrix(keys, &first.right_labels, first.column_label?);
    let along = |l: Label| (second.size(l).clone(), stride(&values.2, &second.right_labels, l));
    let (rows, depth) = (along(second.contracted[0]), along(second.column_label?));
    let values = Matrix { value: values.0, offset: values.1, outer: value_outer, rows, depth };
    let sizes = [&keys, &values].map(|m| m.depth.0.as_const().filter(|&n| n <= LONGEST));
    let [Some(depth), Some(width)] = sizes else { return None };
    Some(Operands { kind, first, second, matrices: [queries, keys, values], depth, width })
}

/// Where an index is.
fn position_of(list: &[usize], index: usize) -> usize {
    list.iter().position(|&i| i == index).expect("both products have the same dimensions around their rows")
}

/// Schedules an attention by tiles.
pub(super) fn schedule(mut k: GroupKernel<'_>, parts: &Parts, o: &Operands) -> GroupLaunch {
    let (first, second) = (&o.first, &o.second);
    k.remark(format!("attention by {} matrix instructions: {ROWS} queries to a tile", o.kind.name()));
    let outer: Vec<Dim> = first.outer.iter().map(|&l| first.size(l).clone()).collect();
    let down = first.rows.ceil_div(&Dim::from(ROWS)).expect("the divisor is a constant");
    let grid: Vec<Dim> = outer.iter().cloned().chain([down]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let key_count = first.columns.clone().expect("keys");
    let (rows, keys) = (k.dim(&first.rows), k.dim(&key_count));
    let matrices = o.matrices.each_ref().map(|m| {
        let offset = distance(&mut k, &m.offset);
        let outer: Vec<Index> = m.outer.iter().map(|d| distance(&mut k, d)).collect();
        let (rows, depth) =
            (digits_of(&mut k, std::slice::from_ref(&m.rows)), digits_of(&mut k, std::slice::from_ref(&m.depth)));
        (k.input(m.value), offset, outer, rows, depth)
    });
    let pitch = (o.width as u64).next_multiple_of(16) as i64 + BEHIND;
    let lanes = k.lanes().min(o.width as u16).next_power_of_two().max(k.lanes().min(32));
    let sums = k.b.buffer("sums", DType::F32, Access::Scratch, Some((ROWS * pitch) as u64));
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (&number, outer) = at.split_last().expect("the grid ends with the tiles");
        let first_row = k.b.imul(number, ROWS);
        let [queries, keys, values] = [(first_row, rows), (0.into(), keys), (0.into(), keys)];
        let mut operand = |n: usize, (from, bound): (Index, Index)| {
            let (buffer, offset, strides, rows, depth) = &matrices[n];
            let mut address = k.b.advance(Address::default(), *offset, 1);
            for (&index, &stride) in outer.iter().zip(strides) {
                address = k.b.advance(address, index, stride);
            }
            let (first, bound) = (k.b.val(from), k.b.val(bound));
            TileOperand { buffer: *buffer, address, first, bound, rows: rows.clone(), depth: depth.clone() }
        };
        let (queries, keys, mut values) = (operand(0, queries), operand(1, keys), operand(2, values));
        (values.first, values.bound) = (keys.first, keys.bound);
        let (score, [row, column, sum]) = k.b.begin_score();
        let yielded = score_at(k, first, parts, outer, (row, column), sum);
        k.b.close_block(&[yielded]);
        let body = k.b.open_block(&[]);
        let left = k.b.isub(rows, first_row);
        let height = k.b.imin(left, ROWS);
        let turns = k.b.begin_for(LoopKind::GpuThread(1), Index::Const(0), height, 1, &[]);
        let line = turns.index;
        let row = k.b.iadd(first_row, line);
        let heads: Vec<Index> = value_heads(first, second).map(|i| outer[i]).collect();
        k.vectors(0, o.width, lanes, |k, within, lanes, count| {
            let Coord::Affine { index: from, .. } = within else { unreachable!("vectors lie side by side") };
            let address = k.b.advance(Address::default(), line, pitch);
            let address = k.b.advance(address, from, 1);
            let sum = k.b.load(sums, address, lanes, count);
            let coords = second.coords(&second.out_labels, &heads, row, within, &[]);
            k.push(second.result, &Position { coords, lanes, count }, sum, &mut Pulled::default());
        });
        k.b.end_for(turns, &[]);
        let [rows, depth, width, pitch] = [ROWS, o.depth, o.width, pitch].map(|n| n as u16);
        let kind = o.kind;
        k.b.end_attend(Attend { kind, rows, depth, width, queries, keys, values, sums, pitch, score, body });
    });
    let flops = product(outer.iter().chain([&first.rows, &key_count, &Dim::from(2 * (o.depth + o.width))]));
    k.finish(product(&grid), flops)
}

/// The score of a row and a column.
fn score_at(
    k: &mut GroupKernel<'_>,
    first: &Roles,
    parts: &Parts,
    outer: &[Index],
    (row, column): (Val, Val),
    product: Val,
) -> Val {
    let coords = (first.out_labels.iter())
        .map(|&l| {
            Coord::uniform(if Some(l) == first.row_label {
                Index::Val(row)
            } else if Some(l) == first.column_label {
                Index::Val(column)
            } else {
                outer[position(&first.outer, l)]
            })
        })
        .collect();
    score_of(k, first, &parts.chain, Position { coords, lanes: 1, count: None }, product)
}
