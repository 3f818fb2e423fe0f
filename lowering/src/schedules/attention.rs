//! Attention in one kernel: `softmax(Q Kᵀ, ...) V` for a block of rows, without the matrix of scores in memory.
//!
//! A task takes as many rows of one head as two vectors have lanes, and keeps their scores in scratch with *rows in
//! lanes*: scores[t] is a vector over rows. So keys are read where they are, one element into all lanes; maxima and sums
//! over the keys are plain vector operations; and in the second product the probabilities are the broadcast operand and
//! values the vectors, again where they are. Only the block of queries is copied.
//!
//! The division by the sum comes after the second product, once for each result.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, Buffer, LoopKind, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};
use onnxc_ir::tensor::op::Contract;
use onnxc_ir::tensor::{CompositeKind, Graph, Node, Op, Region, Value};

use super::contract::Roles;
use super::gemm::multiply_add;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Keys at most: their scores stay in the second-level cache.
const MOST_KEYS: i64 = 4096;
/// Elements of a query or a value at most.
const MOST_DEPTH: i64 = 256;
/// Fewer rows leave most lanes empty.
const LEAST_ROWS: i64 = 8;
/// Vectors of rows in a task.
const VECTORS: i64 = 2;
/// Keys, or rows, of a register tile: with two vectors each they leave registers for the operands.
const TILE: i64 = 8;

/// The operations of an attention.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Q Kᵀ.
    pub scores: Node,
    /// What is done to the scores before the softmax, in order: elementwise operations, and reshapes that add or drop
    /// dimensions of 1 in front.
    pub chain: Vec<Node>,
    /// The softmax.
    pub softmax: Node,
    /// Such a reshape after the softmax.
    pub reshape: Option<Node>,
    /// The product with V.
    pub values: Node,
}

/// The attention around a softmax that this schedule takes. `users` gives a value's only user.
pub fn around(graph: &Graph, softmax: Node, users: impl Fn(Value) -> Option<Node>) -> Option<Parts> {
    let data = &graph.nodes[softmax];
    let Op::Composite { kind: CompositeKind::Softmax { axis }, .. } = data.op else { return None };
    let ty = graph.tensor_ty(data.outputs[0]);
    if ty.dtype != DType::F32 || ty.rank() < 2 || axis as usize != ty.rank() - 1 {
        return None;
    }
    let mut chain = Vec::new();
    let mut value = data.inputs[0];
    let scores = loop {
        let node = graph.def_node(value)?;
        users(value)?;
        let def = &graph.nodes[node];
        match &def.op {
            Op::Contract(c) if product_of_two(graph, node, c) => break node,
            Op::Reshape if same_but_ones(graph, def.inputs[0], value) => {
                chain.insert(0, node);
                value = def.inputs[0];
            }
            Op::Elementwise(_) => {
                chain.insert(0, node);
                let same = |&&v: &&Value| graph.def_node(v).is_some() && same_but_ones(graph, v, value);
                let mut operands = def.inputs.iter().filter(same);
                // Of two operands of the full shape it is not clear which one the scores are.
                let (Some(&next), None) = (operands.next(), operands.next()) else { return None };
                value = next;
            }
            _ => return None,
        }
    };
    let mut probabilities = data.outputs[0];
    let mut values = users(probabilities)?;
    let mut reshape = None;
    if matches!(graph.nodes[values].op, Op::Reshape) && same_but_ones(graph, probabilities, graph.output(values)) {
        reshape = Some(values);
        probabilities = graph.output(values);
        values = users(probabilities)?;
    }
    let Op::Contract(second) = &graph.nodes[values].op else { return None };
    let reads = graph.nodes[values].inputs[0] == probabilities && graph.nodes[values].inputs[1] != probabilities;
    let parts = Parts { scores, chain, softmax, reshape, values };
    (reads && product_of_two(graph, values, second) && fits(graph, &parts)).then_some(parts)
}

/// The attention of a group, if it is one.
pub fn of_group(graph: &Graph, region: Region) -> Option<Parts> {
    let nodes = &graph.regions[region].nodes;
    let softmax = nodes.iter().copied().find(|&n| matches!(graph.nodes[n].op, Op::Composite { .. }))?;
    let user = |v: Value| nodes.iter().copied().find(|&n| graph.nodes[n].inputs.contains(&v));
    around(graph, softmax, user)
}

/// Whether two values have the same shape but for dimensions of 1 in front.
fn same_but_ones(graph: &Graph, a: Value, b: Value) -> bool {
    let (a, b) = (&graph.tensor_ty(a).shape[..], &graph.tensor_ty(b).shape[..]);
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let (front, rest) = long.split_at(long.len() - short.len());
    rest == short && front.iter().all(|d| *d == 1)
}

fn product_of_two(graph: &Graph, node: Node, c: &Contract) -> bool {
    let f32s = graph.nodes[node].inputs.iter().all(|&v| graph.tensor_ty(v).dtype == DType::F32);
    c.panel.is_none()
        && c.acc == DType::F32
        && f32s
        && graph.tensor_ty(graph.nodes[node].outputs[0]).dtype == DType::F32
}

fn roles(graph: &Graph, node: Node) -> Option<Roles> {
    let data = &graph.nodes[node];
    let Op::Contract(c) = &data.op else { return None };
    Some(Roles::new(graph, c, data.inputs[0], data.inputs[1], data.outputs[0]))
}

/// Whether sizes and dimensions are those that the loops expect.
fn fits(graph: &Graph, parts: &Parts) -> bool {
    let (Some(first), Some(second)) = (roles(graph, parts.scores), roles(graph, parts.values)) else { return false };
    let rank = first.out_labels.len();
    if second.left_labels.len() != rank || rank < 2 {
        return false;
    }
    let last = graph.nodes[parts.reshape.unwrap_or(parts.softmax)].outputs[0];
    let probabilities = &second.left_labels;
    // Scores are [..., row, key] and the second product runs over the keys alone.
    let first_fits = first.row_label == Some(first.out_labels[rank - 2])
        && first.column_label == Some(first.out_labels[rank - 1])
        && first.contracted.len() == 1;
    let second_fits = second.left == last
        && second.contracted[..] == probabilities[rank - 1..]
        && second.row_label == Some(probabilities[rank - 2])
        && second.column_label.is_some()
        && second.outer.iter().all(|l| probabilities.contains(l))
        && second.outer.len() == first.outer.len();
    let small = |d: &Dim, most: i64| d.as_const().is_some_and(|d| (1..=most).contains(&d));
    first_fits
        && second_fits
        && first.rows.as_const().is_none_or(|rows| rows >= LEAST_ROWS)
        && small(first.size(first.contracted[0]), MOST_DEPTH)
        && small(first.columns.as_ref().expect("a column label"), MOST_KEYS)
        && small(second.columns.as_ref().expect("a column label"), MOST_DEPTH)
}

/// Schedules an attention.
pub fn schedule(mut k: GroupKernel<'_>, parts: &Parts) -> GroupLaunch {
    let graph = k.graph;
    let first = roles(graph, parts.scores).expect("a product");
    let second = roles(graph, parts.values).expect("a product");
    let constant = |d: &Dim| d.as_const().expect("sizes were checked");
    let depth = constant(first.size(first.contracted[0]));
    let keys = constant(first.columns.as_ref().expect("keys"));
    let columns = constant(second.columns.as_ref().expect("columns"));
    let lanes = k.machine.kernel_lanes_f32 as u16;
    let block = VECTORS * i64::from(lanes);
    k.remark(format!("attention in one kernel: {block} rows in lanes, {keys} keys, scores in scratch"));
    let outer: Vec<Dim> = first.outer.iter().map(|&l| first.size(l).clone()).collect();
    let row_blocks = first.rows.ceil_div(&Dim::from(block)).expect("the divisor is a constant");
    let grid: Vec<Dim> = outer.iter().cloned().chain([row_blocks]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let rows = k.dim(&first.rows);
    let scratch =
        |k: &mut GroupKernel<'_>, name: &str, len: i64| k.b.buffer(name, DType::F32, Access::Scratch, Some(len as u64));
    let body = Body {
        probabilities: graph.nodes[parts.softmax].inputs[0],
        queries: scratch(&mut k, "queries", depth * block),
        scores: scratch(&mut k, "scores", keys * block),
        scales: scratch(&mut k, "scales", block),
        plain: parts.chain.iter().all(|&n| graph.nodes[n].inputs.len() == 1),
        rank: graph.tensor_ty(graph.nodes[parts.softmax].inputs[0]).rank(),
        first,
        second,
        depth,
        keys,
        columns,
        lanes,
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
        body.multiply_keys(k, &task);
        body.normalise(k);
        body.multiply_values(k, &task);
    });
    let flops = product(grid.iter().chain([&Dim::from(2 * block * keys * (depth + columns))]));
    k.finish(product(&grid), flops)
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
    /// The softmax's operand: the scores after the chain.
    probabilities: Value,
    /// Queries [depth, rows].
    queries: Buffer,
    /// Scores, then exponentials [keys, rows].
    scores: Buffer,
    /// The quotient for each row.
    scales: Buffer,
    /// The chain reads nothing but the scores.
    plain: bool,
    /// The softmax's rank: that of the scores but for dimensions of 1 in front.
    rank: usize,
    depth: i64,
    keys: i64,
    columns: i64,
    lanes: u16,
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
            for j in 0..VECTORS {
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
                let address = k.b.advance(Address::at(j * self.step()), Index::Val(d), self.block);
                k.b.store(self.queries, address, val, None);
            }
        });
    }

    /// The scores of all keys, after the chain.
    fn multiply_keys(&self, k: &mut GroupKernel<'_>, task: &Task<'_>) {
        let tile = |k: &mut GroupKernel<'_>, key: Index, keys: i64| {
            let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
            let init = vec![zero; (keys * VECTORS) as usize];
            let sums = k.for_(LoopKind::Serial, 0, self.depth, 1, &init, |k, d, sums| {
                let d = Index::Val(d);
                let right: Vec<Val> = (0..VECTORS)
                    .map(|j| {
                        let address = k.b.advance(Address::at(j * self.step()), d, self.block);
                        k.b.load(self.queries, address, self.lanes, None)
                    })
                    .collect();
                let mut next = Vec::with_capacity(sums.len());
                for i in 0..keys {
                    let at = k.b.iadd(key, i);
                    let contracted = [Coord::uniform(d)];
                    let outer = task.outer;
                    let coords = self.first.coords(
                        &self.first.right_labels,
                        outer,
                        Index::Const(0),
                        Coord::uniform(at),
                        &contracted,
                    );
                    let left = self.first.operand(k, self.first.right, coords, self.lanes, None);
                    for (j, &right) in right.iter().enumerate() {
                        next.push(multiply_add(k, left, right, sums[i as usize * VECTORS as usize + j]));
                    }
                }
                next
            });
            for (n, &sum) in sums.iter().enumerate() {
                let (i, j) = (n as i64 / VECTORS, n as i64 % VECTORS);
                let (at, row) = (k.b.iadd(key, i), k.b.iadd(task.lo, j * self.step()));
                let count = (!self.plain).then(|| self.count(k, task, j));
                let coords: Vec<Coord> = (self.first.out_labels.iter())
                    .map(|&l| {
                        if Some(l) == self.first.row_label {
                            Coord::consecutive(row, self.step())
                        } else if Some(l) == self.first.column_label {
                            Coord::uniform(at)
                        } else {
                            Coord::uniform(task.outer[position(&self.first.outer, l)])
                        }
                    })
                    .collect();
                let at_score = Position { coords, lanes: self.lanes, count };
                let mut memo = Pulled::default();
                let given = k.broadcast(self.first.result, &at_score);
                memo.insert(self.first.result, &given.coords, sum);
                let mut coords = at_score.coords.clone();
                coords.drain(..coords.len().saturating_sub(self.rank));
                let ones = self.rank - coords.len();
                let coords = std::iter::repeat_n(Coord::uniform(0), ones).chain(coords).collect();
                let val = k.pull(self.probabilities, &at_score.at(coords), &mut memo);
                let address = k.b.advance(Address::at(j * self.step()), at, self.block);
                k.b.store(self.scores, address, val, None);
            }
        };
        let whole = self.keys / TILE * TILE;
        k.each(0, whole, TILE, |k, key| tile(k, key.into(), TILE));
        if whole < self.keys {
            tile(k, Index::Const(whole), self.keys - whole);
        }
    }

    fn score(&self, k: &mut GroupKernel<'_>, key: Val, vector: i64) -> Address {
        k.b.advance(Address::at(vector * self.step()), Index::Val(key), self.block)
    }

    /// Exponentials in place of the scores, and the quotients.
    fn normalise(&self, k: &mut GroupKernel<'_>) {
        let least = k.b.constant(Scalar::f32(f32::NEG_INFINITY), self.lanes);
        let most = k.for_(LoopKind::Serial, 0, self.keys, 1, &[least; VECTORS as usize], |k, key, most| {
            let mut next = Vec::with_capacity(most.len());
            for (j, &most) in most.iter().enumerate() {
                let address = self.score(k, key, j as i64);
                let x = k.b.load(self.scores, address, self.lanes, None);
                next.push(k.b.binary(BinaryOp::Max, most, x));
            }
            next
        });
        let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
        let sums = k.for_(LoopKind::Serial, 0, self.keys, 1, &[zero; VECTORS as usize], |k, key, sums| {
            let mut next = Vec::with_capacity(sums.len());
            for (j, &sum) in sums.iter().enumerate() {
                let address = self.score(k, key, j as i64);
                let x = k.b.load(self.scores, address.clone(), self.lanes, None);
                let shifted = k.b.binary(BinaryOp::Sub, x, most[j]);
                let exp = k.b.unary(UnaryOp::Exp, shifted);
                k.b.store(self.scores, address, exp, None);
                next.push(k.b.binary(BinaryOp::Add, sum, exp));
            }
            next
        });
        let one = k.b.constant(Scalar::f32(1.0), self.lanes);
        for (j, &sum) in sums.iter().enumerate() {
            let scale = k.b.binary(BinaryOp::Div, one, sum);
            k.b.store(self.scales, Address::at(j as i64 * self.step()), scale, None);
        }
    }

    /// The product with the values, divided by the sums and taken through the rest of the group.
    fn multiply_values(&self, k: &mut GroupKernel<'_>, task: &Task<'_>) {
        // Heads have the numbers that the first product gave them.
        let probabilities = &self.second.left_labels;
        let outer: Vec<Index> = (self.second.outer.iter())
            .map(|&l| {
                let axis = position(probabilities, l);
                task.outer[position(&self.first.outer, self.first.out_labels[axis])]
            })
            .collect();
        let rows = k.b.isub(task.hi, task.lo);
        let strip = |k: &mut GroupKernel<'_>, column: Index, vectors: i64, count: Option<Val>| {
            k.each(0, rows, TILE, |k, row| {
                let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
                let init = vec![zero; (TILE * vectors) as usize];
                let sums = k.for_(LoopKind::Serial, 0, self.keys, 1, &init, |k, key, sums| {
                    let contracted = [Coord::uniform(Index::Val(key))];
                    let right: Vec<Val> = (0..vectors)
                        .map(|j| {
                            let at = k.b.iadd(column, j * self.step());
                            let at = Coord::consecutive(at, self.step());
                            let labels = &self.second.right_labels;
                            let coords = self.second.coords(labels, &outer, Index::Const(0), at, &contracted);
                            self.second.operand(k, self.second.right, coords, self.lanes, count)
                        })
                        .collect();
                    let mut next = Vec::with_capacity(sums.len());
                    for i in 0..TILE {
                        let address = k.b.advance(Address::at(i), Index::Val(key), self.block);
                        let address = k.b.advance(address, Index::Val(row), 1);
                        let left = k.b.load_splat(self.scores, address, self.lanes);
                        for (j, &right) in right.iter().enumerate() {
                            next.push(multiply_add(k, left, right, sums[(i * vectors) as usize + j]));
                        }
                    }
                    next
                });
                for i in 0..TILE {
                    let within = k.b.iadd(row, i);
                    let at = k.b.iadd(task.lo, within);
                    let valid = k.b.index_compare(CmpOp::Lt, at, task.hi);
                    k.when(valid, |k| {
                        let address = k.b.advance(Address::default(), within, 1);
                        let scale = k.b.load_splat(self.scales, address, self.lanes);
                        for j in 0..vectors {
                            let index = k.b.iadd(column, j * self.step());
                            let val = k.b.binary(BinaryOp::Mul, sums[(i * vectors + j) as usize], scale);
                            let column = Coord::consecutive(index, self.step());
                            let coords = self.second.coords(&self.second.out_labels, &outer, at, column, &[]);
                            let at = Position { coords, lanes: self.lanes, count };
                            k.push(self.second.result, &at, val, &mut Pulled::default());
                        }
                    });
                }
            });
        };
        let pair = VECTORS * self.step();
        let whole = self.columns / pair * pair;
        k.each(0, whole, pair, |k, column| strip(k, column.into(), VECTORS, None));
        k.vectors(whole, self.columns, self.lanes, |k, c, _, count| {
            let Coord::Affine { index, .. } = c else { unreachable!("loops give affine coordinates") };
            strip(k, index, 1, count);
        });
    }
}

/// Where a label is.
fn position(labels: &[u8], label: u8) -> usize {
    labels.iter().position(|&l| l == label).expect("every label has a role")
}
