//! Attention in one kernel: `softmax(Q Kᵀ, ...) V` for a block of rows, without the matrix of scores in memory.
//!
//! A task takes some vectors of rows of one head, and goes through the keys block by block: it computes the scores of the
//! block, their exponentials with regard to the greatest score so far, and adds the products with the values to its
//! sums. Where a block raises the greatest score, what was summed before is scaled down. Everything but keys and values
//! stays in the first-level cache, and no size depends on the number of keys.
//!
//! Scores are kept with *rows in lanes*: scores[key] is a vector over rows. So keys are read where they are, one element
//! into all lanes; maxima and sums over the keys are plain vector operations; and in the second product the probabilities
//! are the broadcast operand and values the vectors, again where they are. Only the block of queries is copied.
//!
//! The division by the sum comes after the second product, once for each result.

mod pattern;
mod tile;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, Buffer, LoopKind, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};
use onnxc_ir::tensor::{Node, Op};

pub use pattern::{LEAST_ROWS, Parts, around, of_group};

use super::contract::Roles;
use super::gemm::{ceil_div, multiply_add};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};
use pattern::roles;

/// Vectors of rows in a task: four where that leaves at most an eighth of the lanes empty, else two.
const VECTORS: [i64; 2] = [4, 2];
/// Vectors of sums in a register tile: they leave registers for the operands.
const TILE: i64 = 16;
/// Vectors of columns in a register tile of the second product.
const COLUMNS: i64 = 2;
/// Keys of a block.
const KEY_BLOCK: i64 = 64;

/// Schedules an attention.
pub fn schedule(mut k: GroupKernel<'_>, parts: &Parts) -> GroupLaunch {
    let graph = k.graph;
    if let Some(operands) = tile::operands(&k, parts) {
        return tile::schedule(k, parts, &operands);
    }
    let first = roles(graph, parts.scores).expect("a product");
    let second = roles(graph, parts.values).expect("a product");
    let constant = |d: &Dim| d.as_const().expect("sizes were checked");
    let depth = constant(first.size(first.contracted[0]));
    let key_count = first.columns.clone().expect("keys");
    let keys = k.dim(&key_count);
    let columns = constant(second.columns.as_ref().expect("columns"));
    let lanes = k.machine.kernel_lanes_f32 as u16;
    let vectors = vectors_of(first.rows.as_const(), i64::from(lanes));
    let block = vectors * i64::from(lanes);
    k.remark(format!("attention in one kernel: {block} rows in lanes, {KEY_BLOCK} keys at a time"));
    let outer: Vec<Dim> = first.outer.iter().map(|&l| first.size(l).clone()).collect();
    let row_blocks = first.rows.ceil_div(&Dim::from(block)).expect("the divisor is a constant");
    let grid: Vec<Dim> = outer.iter().cloned().chain([row_blocks]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let rows = k.dim(&first.rows);
    let scratch =
        |k: &mut GroupKernel<'_>, name: &str, len: i64| k.b.buffer(name, DType::F32, Access::Scratch, Some(len as u64));
    let body = Body {
        chain: parts.chain.clone(),
        queries: scratch(&mut k, "queries", depth * block),
        scores: scratch(&mut k, "scores", KEY_BLOCK * block),
        most: scratch(&mut k, "most", block),
        scales: scratch(&mut k, "scales", block),
        corrections: scratch(&mut k, "corrections", block),
        sums: scratch(&mut k, "sums", block * ceil_div(columns, i64::from(lanes)) * i64::from(lanes)),
        plain: parts.chain.iter().all(|&n| graph.nodes[n].inputs.len() == 1),
        first,
        second,
        depth,
        columns,
        lanes,
        vectors,
        block,
    };
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (&number, outer) = at.split_last().expect("the grid has the blocks of rows");
        let lo = k.b.imul(number, block);
        let end = k.b.iadd(lo, block);
        let hi = k.b.imin(end, rows);
        let task = Task { outer, lo, hi };
        body.copy_queries(k, &task);
        body.clear(k);
        // Whole blocks have a constant number of keys.
        let whole = k.b.idiv(keys, KEY_BLOCK);
        let whole = k.b.imul(whole, KEY_BLOCK);
        k.each(0, whole, KEY_BLOCK, |k, from| body.keys(k, &task, from.into(), Index::Const(KEY_BLOCK)));
        let rest = keys.as_const().map(|keys| Index::Const(keys % KEY_BLOCK));
        k.each(whole, keys, KEY_BLOCK, |k, from| {
            let rest = rest.unwrap_or_else(|| k.b.isub(keys, from));
            body.keys(k, &task, from.into(), rest);
        });
        body.finish(k, &task);
    });
    let flops = product(grid.iter().chain([&key_count, &Dim::from(2 * block * (depth + columns))]));
    k.finish(product(&grid), flops)
}

/// Vectors of rows in a task.
fn vectors_of(rows: Option<i64>, lanes: i64) -> i64 {
    let [many, few] = VECTORS;
    let wasted = |rows: i64| ceil_div(rows, many * lanes) * many * lanes - rows;
    if rows.is_some_and(|rows| wasted(rows) * 8 <= rows) { many } else { few }
}

/// Rows `lo..hi` of one head.
struct Task<'a> {
    outer: &'a [Index],
    lo: Index,
    hi: Index,
}

/// What the steps of a task share.
struct Body {
    first: Roles,
    second: Roles,
    /// What makes scores of the first product.
    chain: Vec<Node>,
    /// Queries [depth, rows].
    queries: Buffer,
    /// Scores of a block of keys, then exponentials [keys, rows].
    scores: Buffer,
    /// The greatest score of each row so far.
    most: Buffer,
    /// The sum of each row's exponentials.
    scales: Buffer,
    /// What a block multiplies the sums of the blocks before it by.
    corrections: Buffer,
    /// The second product [rows, columns], before it is divided.
    sums: Buffer,
    /// The chain reads nothing but the scores.
    plain: bool,
    depth: i64,
    columns: i64,
    lanes: u16,
    /// Vectors of rows.
    vectors: i64,
    /// Rows.
    block: i64,
}

impl Body {
    fn step(&self) -> i64 {
        i64::from(self.lanes)
    }

    /// Rows of the block in each of its vectors.
    fn count(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, vector: i64) -> Val {
        let first = k.b.iadd(task.lo, vector * self.step());
        let left = k.b.isub(task.hi, first);
        let left = k.b.imax(left, 0);
        k.b.val(left)
    }

    /// Puts rows in lanes; rows past the last are zeros.
    fn copy_queries(&self, k: &mut GroupKernel<'_>, task: &Task<'_>) {
        k.each(0, self.depth, 1, |k, d| {
            for j in 0..self.vectors {
                let row = k.b.iadd(task.lo, j * self.step());
                let count = self.count(k, task, j);
                let label = |roles: &Roles, l| {
                    if Some(l) == roles.row_label {
                        Coord::consecutive(row, self.step())
                    } else if l == roles.contracted[0] {
                        Coord::uniform(Index::Val(d))
                    } else {
                        Coord::uniform(task.outer[position(&roles.outer, l)])
                    }
                };
                let coords = self.first.left_labels.iter().map(|&l| label(&self.first, l)).collect();
                let at = Position { coords, lanes: self.lanes, count: Some(count) };
                let val = k.pull(self.first.left, &at, &mut Pulled::default());
                let val = k.b.cast(DType::F32, val);
                let address = k.b.advance(Address::at(j * self.step()), Index::Val(d), self.block);
                k.b.store(self.queries, address, val, None);
            }
        });
    }

    /// A block of keys: `count` of them from `from` on.
    fn keys(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, from: Index, count: Index) {
        let before = self.rows_of(k, self.most);
        self.multiply_keys(k, task, from, count);
        self.exponentials(k, &before, count);
        self.multiply_values(k, task, from, count);
    }

    /// The vectors of a buffer that has an element for each row.
    fn rows_of(&self, k: &mut GroupKernel<'_>, buffer: Buffer) -> Vec<Val> {
        (0..self.vectors).map(|j| k.b.load(buffer, Address::at(j * self.step()), self.lanes, None)).collect()
    }

    /// Stores such vectors.
    fn keep_rows(&self, k: &mut GroupKernel<'_>, buffer: Buffer, vals: &[Val]) {
        for (j, &val) in vals.iter().enumerate() {
            k.b.store(buffer, Address::at(j as i64 * self.step()), val, None);
        }
    }

    /// The scores of a block of keys, after the chain, and the greatest ones.
    fn multiply_keys(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, from: Index, count: Index) {
        let tile = |k: &mut GroupKernel<'_>, within: Index, keys: i64| {
            let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
            let init = vec![zero; (keys * self.vectors) as usize];
            let first = k.b.iadd(from, within);
            let sums = k.for_(LoopKind::Serial, 0, self.depth, 1, &init, |k, d, sums| {
                let d = Index::Val(d);
                let right: Vec<Val> = (0..self.vectors)
                    .map(|j| {
                        let address = k.b.advance(Address::at(j * self.step()), d, self.block);
                        k.b.load(self.queries, address, self.lanes, None)
                    })
                    .collect();
                let mut next = Vec::with_capacity(sums.len());
                for i in 0..keys {
                    let at = k.b.iadd(first, i);
                    let labels = &self.first.right_labels;
                    let contracted = [Coord::uniform(d)];
                    let coords =
                        self.first.coords(labels, task.outer, Index::Const(0), Coord::uniform(at), &contracted);
                    let left = self.first.operand(k, self.first.right, coords, self.lanes, None);
                    for (j, &right) in right.iter().enumerate() {
                        next.push(multiply_add(k, left, right, sums[(i * self.vectors) as usize + j]));
                    }
                }
                next
            });
            let mut most = self.rows_of(k, self.most);
            for (n, &sum) in sums.iter().enumerate() {
                let (i, j) = (n as i64 / self.vectors, n as i64 % self.vectors);
                let at = k.b.iadd(first, i);
                let score = self.after_chain(k, task, at, j, sum);
                let place = k.b.iadd(within, i);
                let address = self.score(k, place, j);
                k.b.store(self.scores, address, score, None);
                // A score that is not a number makes its exponential none, whatever the greatest score is.
                let most = &mut most[j as usize];
                let raises = k.b.compare(CmpOp::Gt, score, *most);
                *most = k.b.select(raises, score, *most);
            }
            self.keep_rows(k, self.most, &most);
        };
        let most = TILE / self.vectors;
        let full = k.b.idiv(count, most);
        let middle = k.b.imul(full, most);
        k.each(0, middle, most, |k, key| tile(k, key.into(), most));
        let rest = count.as_const().map_or(1, |count| (count % most).max(1));
        k.each(middle, count, rest, |k, key| tile(k, key.into(), rest));
    }

    /// A vector of scores after the operations before the softmax.
    fn after_chain(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, key: Index, vector: i64, sum: Val) -> Val {
        let row = k.b.iadd(task.lo, vector * self.step());
        let count = (!self.plain).then(|| self.count(k, task, vector));
        let coords: Vec<Coord> = (self.first.out_labels.iter())
            .map(|&l| {
                if Some(l) == self.first.row_label {
                    Coord::consecutive(row, self.step())
                } else if Some(l) == self.first.column_label {
                    Coord::uniform(key)
                } else {
                    Coord::uniform(task.outer[position(&self.first.outer, l)])
                }
            })
            .collect();
        score_of(k, &self.first, &self.chain, Position { coords, lanes: self.lanes, count }, sum)
    }

    fn score(&self, k: &mut GroupKernel<'_>, key: Index, vector: i64) -> Address {
        k.b.advance(Address::at(vector * self.step()), key, self.block)
    }

    /// Sets the sums to zero, and the greatest scores to the least number: scores of minus infinity have no part then.
    fn clear(&self, k: &mut GroupKernel<'_>) {
        let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
        let least = k.b.constant(Scalar::f32(f32::MIN), self.lanes);
        self.keep_rows(k, self.scales, &vec![zero; self.vectors as usize]);
        self.keep_rows(k, self.most, &vec![least; self.vectors as usize]);
        k.each(0, self.block * self.width(), self.step(), |k, at| {
            let address = k.b.advance(Address::default(), Index::Val(at), 1);
            k.b.store(self.sums, address, zero, None);
        });
    }

    /// Columns of a row of `sums`.
    fn width(&self) -> i64 {
        ceil_div(self.columns, self.step()) * self.step()
    }

    /// Exponentials in place of the scores of a block. `before` has the greatest scores before it.
    fn exponentials(&self, k: &mut GroupKernel<'_>, before: &[Val], count: Index) {
        let most = self.rows_of(k, self.most);
        let mut sums = self.rows_of(k, self.scales);
        let mut corrections = Vec::with_capacity(sums.len());
        for (j, sum) in sums.iter_mut().enumerate() {
            let raised = k.b.binary(BinaryOp::Sub, before[j], most[j]);
            let correction = k.b.unary(UnaryOp::Exp, raised);
            *sum = k.b.binary(BinaryOp::Mul, *sum, correction);
            corrections.push(correction);
        }
        self.keep_rows(k, self.corrections, &corrections);
        let sums = k.for_(LoopKind::Serial, 0, count, 1, &sums, |k, key, sums| {
            let mut next = Vec::with_capacity(sums.len());
            for (j, &sum) in sums.iter().enumerate() {
                let address = self.score(k, key.into(), j as i64);
                let x = k.b.load(self.scores, address.clone(), self.lanes, None);
                let shifted = k.b.binary(BinaryOp::Sub, x, most[j]);
                let exp = k.b.unary(UnaryOp::Exp, shifted);
                k.b.store(self.scores, address, exp, None);
                next.push(k.b.binary(BinaryOp::Add, sum, exp));
            }
            next
        });
        self.keep_rows(k, self.scales, &sums);
    }

    /// Adds the product of a block's exponentials and values to the corrected sums.
    fn multiply_values(&self, k: &mut GroupKernel<'_>, task: &Task<'_>, from: Index, count: Index) {
        let outer = self.value_heads(task);
        let rows = k.b.isub(task.hi, task.lo);
        let strip = |k: &mut GroupKernel<'_>, column: Index, vectors: i64, valid: Option<Val>| {
            let tile = TILE / COLUMNS;
            k.each(0, rows, tile, |k, row| {
                let place = |k: &mut GroupKernel<'_>, i: i64, j: i64| {
                    let address = Address::at(i * self.width() + j * self.step());
                    let address = k.b.advance(address, Index::Val(row), self.width());
                    k.b.advance(address, column, 1)
                };
                let mut init = Vec::with_capacity((tile * vectors) as usize);
                for i in 0..tile {
                    let address = k.b.advance(Address::at(i), Index::Val(row), 1);
                    let correction = k.b.load_splat(self.corrections, address, self.lanes);
                    for j in 0..vectors {
                        let address = place(k, i, j);
                        let sum = k.b.load(self.sums, address, self.lanes, None);
                        init.push(k.b.binary(BinaryOp::Mul, sum, correction));
                    }
                }
                let sums = k.for_(LoopKind::Serial, 0, count, 1, &init, |k, within, sums| {
                    let key = k.b.iadd(from, within);
                    let contracted = [Coord::uniform(key)];
                    let right: Vec<Val> = (0..vectors)
                        .map(|j| {
                            let at = k.b.iadd(column, j * self.step());
                            let at = Coord::consecutive(at, self.step());
                            let labels = &self.second.right_labels;
                            let coords = self.second.coords(labels, &outer, Index::Const(0), at, &contracted);
                            self.second.operand(k, self.second.right, coords, self.lanes, valid)
                        })
                        .collect();
                    let mut next = Vec::with_capacity(sums.len());
                    for i in 0..tile {
                        let address = k.b.advance(Address::at(i), Index::Val(within), self.block);
                        let address = k.b.advance(address, Index::Val(row), 1);
                        let left = k.b.load_splat(self.scores, address, self.lanes);
                        for (j, &right) in right.iter().enumerate() {
                            next.push(multiply_add(k, left, right, sums[(i * vectors) as usize + j]));
                        }
                    }
                    next
                });
                for (n, &sum) in sums.iter().enumerate() {
                    let address = place(k, n as i64 / vectors, n as i64 % vectors);
                    k.b.store(self.sums, address, sum, None);
                }
            });
        };
        let pair = COLUMNS * self.step();
        let whole = self.columns / pair * pair;
        k.each(0, whole, pair, |k, column| strip(k, column.into(), COLUMNS, None));
        k.vectors(whole, self.columns, self.lanes, |k, c, _, count| {
            let Coord::Affine { index, .. } = c else { unreachable!("loops give affine coordinates") };
            strip(k, index, 1, count);
        });
    }

    /// The coordinates of the second product around its rows.
    fn value_heads(&self, task: &Task<'_>) -> Vec<Index> {
        value_heads(&self.first, &self.second).map(|i| task.outer[i]).collect()
    }

    /// Divides the sums of each row by that of its exponentials and takes them through the rest of the group.
    fn finish(&self, k: &mut GroupKernel<'_>, task: &Task<'_>) {
        let outer = self.value_heads(task);
        let one = k.b.constant(Scalar::f32(1.0), self.lanes);
        let sums = self.rows_of(k, self.scales);
        let scales: Vec<Val> = sums.into_iter().map(|sum| k.b.binary(BinaryOp::Div, one, sum)).collect();
        self.keep_rows(k, self.scales, &scales);
        k.each(task.lo, task.hi, 1, |k, row| {
            let within = k.b.isub(row, task.lo);
            let address = k.b.advance(Address::default(), within, 1);
            let scale = k.b.load_splat(self.scales, address, self.lanes);
            k.vectors(0, self.columns, self.lanes, |k, column, lanes, count| {
                let Coord::Affine { index, .. } = column else { unreachable!("loops give affine coordinates") };
                let address = k.b.advance(Address::default(), within, self.width());
                let address = k.b.advance(address, index, 1);
                let sum = k.b.load(self.sums, address, lanes, count);
                let val = k.b.binary(BinaryOp::Mul, sum, scale);
                let coords = self.second.coords(&self.second.out_labels, &outer, row.into(), column, &[]);
                k.push(self.second.result, &Position { coords, lanes, count }, val, &mut Pulled::default());
            });
        });
    }
}

/// For each dimension of the second product around its rows, which one of the first's it is: heads have the numbers that
/// the first gave them.
fn value_heads(first: &Roles, second: &Roles) -> impl Iterator<Item = usize> {
    let of = |l: &u8| position(&first.outer, first.out_labels[position(&second.left_labels, *l)]);
    second.outer.iter().map(of)
}

/// The score that the chain makes of `product`, which is an element (or a vector) of the first product at `at`.
fn score_of(k: &mut GroupKernel<'_>, first: &Roles, chain: &[Node], mut at: Position, product: Val) -> Val {
    let graph = k.graph;
    let mut memo = Pulled::default();
    let mut value = first.result;
    let given = k.broadcast(value, &at);
    memo.insert(value, &given.coords, product);
    for &node in chain {
        let output = graph.output(node);
        let coords = if matches!(graph.nodes[node].op, Op::Reshape) {
            let val = k.pull(value, &at, &mut memo);
            let coords = k.reshape_coords(value, output, &at.coords, at.lanes);
            let given = k.broadcast(output, &at.at(coords.clone()));
            memo.insert(output, &given.coords, val);
            coords
        } else {
            let ones = graph.tensor_ty(output).rank() - at.coords.len();
            std::iter::repeat_n(Coord::uniform(0), ones).chain(at.coords.iter().copied()).collect()
        };
        at = at.at(coords);
        value = output;
    }
    k.pull(value, &at, &mut memo)
}

/// Where a label is.
fn position(labels: &[u8], label: u8) -> usize {
    labels.iter().position(|&l| l == label).expect("every label has a role")
}
