//! Contractions: matrix products with any number of batch, free and contracted dimensions.
//!
//! The last dimension of the result becomes the columns if it belongs to one operand only, which then is the right one.
//! Weights come as panels (see the pass `pack_weights`); other right operands are copied into panels by each task, unless
//! there are too few rows to pay for it: then lanes run along the contracted dimension where both operands are
//! contiguous in it, and along the columns elsewhere.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Val;
use onnxc_ir::loops::build::Index;
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::op::{self, Contract, Label, Panel};
use onnxc_ir::tensor::{Graph, Node, Op, Value};

use super::gemm::{self, Gemm, Operands, Panels, multiply_add, nest};
use super::gemv::{self, Along, Gemv};
use super::tile;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::words;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Fewer rows than this do not pay for copying a panel.
const FEW_ROWS: i64 = 5;

/// As many rows as a tile of any machine has at most.
const MANY_ROWS: i64 = 8;

/// A panel in scratch has at most this many bytes.
const MAX_PANEL_BYTES: i64 = 1 << 20;

/// The same where its elements are computed, which is not worth doing again for each few rows.
const MAX_COMPUTED_PANEL_BYTES: i64 = 1 << 22;

/// The greatest number of weights in a word of 32 bits.
const MAX_PLACES: i64 = 16;

/// The columns of a panel of weights that are unpacked where they are used; see the pass `pack_bits`.
pub const UNPACKED_COLUMNS: i64 = 32;

/// Schedules a group whose anchor is the `Contract` node `anchor`.
pub fn schedule(k: GroupKernel<'_>, anchor: Node) -> GroupLaunch {
    let data = &k.graph.nodes[anchor];
    let Op::Contract(contract) = &data.op else { panic!("the anchor is a contraction") };
    let roles = Roles::new(k.graph, contract, data.inputs[0], data.inputs[1], data.outputs[0]);
    if let Some(product) = Gemv::of(&k, &roles, Along::Depth) {
        return gemv::by_depth(k, &product);
    }
    if let Some(product) = tile::contraction(&k, &roles) {
        return tile::schedule(k, &product);
    }
    if let Some(product) = Gemv::of(&k, &roles, Along::Columns) {
        return gemv::by_columns(k, &product);
    }
    let lanes = if contract.acc.bits() == 32 { k.panel_lanes() } else { 1 };
    let Some(columns) = roles.columns.clone() else { return dot(k, &roles, lanes) };
    let few_rows = roles.rows.as_const().is_some_and(|m| m < FEW_ROWS);
    let depth = product(roles.contracted.iter().map(|l| roles.size(*l)));
    let computed = is_computed(k.graph, roles.right);
    let most = if computed { MAX_COMPUTED_PANEL_BYTES } else { MAX_PANEL_BYTES };
    let fits = depth.as_const().is_some_and(|d| d * i64::from(gemm::PANEL) * 8 <= most);
    let left_type = k.graph.tensor_ty(roles.left).dtype;
    let words = roles.is_deep().then(|| [left_type, k.graph.tensor_ty(roles.right).dtype]);
    let element = Dim::from(if words.is_some() { 1 } else { i64::from(roles.acc.bits() / 8) });
    let sizes = |labels: &[Label]| labels.iter().map(|l| roles.size(*l).clone()).collect();
    let gemm = Gemm {
        outer: sizes(&roles.outer[..roles.around]),
        lines: sizes(&roles.outer[roles.around..]),
        rows: roles.rows.clone(),
        columns,
        contracted: match roles.depth_of_words() {
            Some(depth) => vec![Dim::from(words::count(depth))],
            None => sizes(&roles.contracted),
        },
        words,
        row_bytes: product([&depth, &element]),
        acc: roles.acc,
        result: roles.result,
    };
    if roles.panel.is_some() {
        return gemm::schedule(k, &gemm, &roles, &Panels::Stored, lanes);
    }
    if few_rows && computed {
        return computed_columns(k, &gemm, &roles, lanes);
    }
    if few_rows && lanes > 1 && roles.contiguous_depth(&k) {
        return dot(k, &roles, lanes);
    }
    if few_rows || !fits {
        return columns_direct(k, &gemm, &roles, lanes);
    }
    gemm::schedule(k, &gemm, &roles, &Panels::Copied, lanes)
}

/// What each label of a contraction is for.
pub struct Roles {
    pub(super) left: Value,
    pub(super) right: Value,
    pub(super) result: Value,
    pub(super) left_labels: Vec<Label>,
    pub(super) right_labels: Vec<Label>,
    pub(super) out_labels: Vec<Label>,
    pub(super) sizes: Vec<(Label, Dim)>,
    /// Labels of the result but for rows and columns; those of the left operand alone come last.
    pub(super) outer: Vec<Label>,
    /// How many of them the right operand has.
    pub(super) around: usize,
    pub(super) row_label: Option<Label>,
    pub(super) rows: Dim,
    pub(super) column_label: Option<Label>,
    pub(super) columns: Option<Dim>,
    pub(super) contracted: Vec<Label>,
    pub(super) acc: DType,
    pub(super) panel: Option<Panel>,
}

impl Roles {
    /// The roles in a product of `lhs` and `rhs`.
    pub(super) fn new(graph: &Graph, c: &Contract, lhs: Value, rhs: Value, result: Value) -> Roles {
        let (mut left, mut right) = ((lhs, c.lhs.to_vec()), (rhs, c.rhs.to_vec()));
        let last = c.out.last().copied();
        let only_in = |l: &[Label], other: &[Label]| last.is_some_and(|x| l.contains(&x) && !other.contains(&x));
        if c.panel.is_none() && only_in(&left.1, &right.1) {
            std::mem::swap(&mut left, &mut right);
        }
        let mut sizes: Vec<(Label, Dim)> =
            c.out.iter().copied().zip(graph.tensor_ty(result).shape.iter().cloned()).collect();
        let panel_operand = c.panel.map(|_| right.0);
        for (value, labels) in [&left, &right] {
            if panel_operand != Some(*value) {
                sizes.extend(labels.iter().copied().zip(graph.tensor_ty(*value).shape.iter().cloned()));
            }
        }
        let column_label = last.filter(|x| right.1.contains(x) && !left.1.contains(x));
        let inner: Vec<Label> = c.out.iter().copied().filter(|l| Some(*l) != column_label).collect();
        let is_row = |l: &Label| inner.contains(l) && left.1.contains(l) && !right.1.contains(l);
        let count = |l: Label| sizes.iter().find(|(x, _)| *x == l).and_then(|(_, d)| d.as_const());
        let mut row_label = inner.iter().rev().copied().find(is_row);
        if let (Some(last), [.., next, depth]) = (row_label, &left.1[..])
            && !c.out.contains(depth)
            && is_row(next)
        {
            // Rows next to each other in memory are better than few others, and likelier to be many where only a run knows.
            let better = match (count(last), count(*next)) {
                (Some(last), Some(next)) => last < MANY_ROWS && next > last,
                (None, None) => true,
                _ => false,
            };
            row_label = if better { Some(*next) } else { row_label };
        }
        let others = inner.iter().copied().filter(|l| Some(*l) != row_label);
        let (mut outer, lines): (Vec<Label>, Vec<Label>) =
            others.partition(|l| right.1.contains(l) || !left.1.contains(l));
        let around = outer.len();
        outer.extend(lines);
        let size =
            |l: Label| sizes.iter().find(|(x, _)| *x == l).map(|(_, d)| d.clone()).expect("each label has a size");
        let mut contracted: Vec<Label> = Vec::new();
        for &l in left.1.iter().chain(&right.1) {
            if !c.out.contains(&l) && !contracted.contains(&l) {
                contracted.push(l);
            }
        }
        Roles {
            rows: row_label.map_or(Dim::from(1), size),
            columns: column_label.map(size),
            outer,
            around,
            left: left.0,
            right: right.0,
            result,
            left_labels: left.1,
            right_labels: right.1,
            out_labels: c.out.to_vec(),
            row_label,
            column_label,
            contracted,
            acc: c.acc,
            panel: c.panel,
            sizes,
        }
    }

    pub(super) fn size(&self, label: Label) -> &Dim {
        &self.sizes.iter().find(|(x, _)| *x == label).expect("each label has a size").1
    }

    /// The coordinates of an operand or the result.
    pub(super) fn coords(
        &self,
        labels: &[Label],
        outer: &[Index],
        row: Index,
        column: Coord,
        contracted: &[Coord],
    ) -> Vec<Coord> {
        labels
            .iter()
            .map(|l| {
                if Some(*l) == self.column_label {
                    column
                } else if Some(*l) == self.row_label {
                    Coord::uniform(row)
                } else if let Some(i) = self.outer.iter().position(|x| x == l) {
                    Coord::uniform(outer[i])
                } else {
                    contracted[self.contracted.iter().position(|x| x == l).expect("every label has a role")]
                }
            })
            .collect()
    }

    /// Elements of an operand.
    pub(super) fn operand(
        &self,
        k: &mut GroupKernel<'_>,
        value: Value,
        coords: Vec<Coord>,
        lanes: u16,
        count: Option<Val>,
    ) -> Val {
        let val = k.pull(value, &Position { coords, lanes, count }, &mut Pulled::default());
        k.b.cast(self.acc, val)
    }

    fn is_deep(&self) -> bool {
        words::is_deep(self.panel)
    }

    /// The contracted elements, if the right operand holds words of them.
    fn depth_of_words(&self) -> Option<i64> {
        let depth = || self.size(self.contracted[0]).as_const().expect("words have a constant depth");
        self.is_deep().then(depth)
    }

    /// A word of the left operand, in all lanes.
    fn left_word(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, start: Index, lanes: u16) -> Val {
        let at = |start: Index| self.coords(&self.left_labels, outer, row, Coord::uniform(0), &[Coord::uniform(start)]);
        let is_input = k.graph.def_node(self.left).is_none();
        if is_input && self.left_labels.last() == self.contracted.last() {
            let coords: Vec<Index> = at(start).iter().map(|c| c.first_index()).collect();
            return k.word_splat(self.left, &coords, lanes);
        }
        k.gathered_word(self.left, lanes, |k, number| at(k.b.iadd(start, number)))
    }

    /// Whether both operands are contiguous along the innermost contracted dimension.
    fn contiguous_depth(&self, k: &GroupKernel<'_>) -> bool {
        let Some(&depth) = self.contracted.last() else { return false };
        is_contiguous(k, self.left, &self.left_labels, depth) && self.right_is_contiguous(k, depth)
    }

    /// Whether the right operand is contiguous along this dimension.
    pub(super) fn right_is_contiguous(&self, k: &GroupKernel<'_>, label: Label) -> bool {
        is_contiguous(k, self.right, &self.right_labels, label)
    }
}

/// Whether consecutive elements along the dimension of this label are consecutive in memory.
fn is_contiguous(k: &GroupKernel<'_>, value: Value, labels: &[Label], label: Label) -> bool {
    let axis = labels.iter().position(|&l| l == label);
    axis.is_some() && axis == contiguous_axis(k, value)
}

/// The axis of a value along which consecutive elements are consecutive in memory.
fn contiguous_axis(k: &GroupKernel<'_>, value: Value) -> Option<usize> {
    let Some(node) = k.graph.def_node(value) else { return k.graph.tensor_ty(value).rank().checked_sub(1) };
    let data = &k.graph.nodes[node];
    match &data.op {
        Op::Transpose { perm } => {
            let inner = contiguous_axis(k, data.inputs[0])?;
            perm.iter().position(|&p| p as usize == inner)
        }
        Op::Slice { steps, .. } => contiguous_axis(k, data.inputs[0]).filter(|&a| steps[a] == 1),
        Op::Broadcast => {
            let (from, to) = (k.graph.tensor_ty(data.inputs[0]), k.graph.tensor_ty(value));
            let axis = contiguous_axis(k, data.inputs[0])?;
            let out = axis + to.rank() - from.rank();
            (from.shape[axis] == to.shape[out]).then_some(out)
        }
        Op::Gather { coords } => {
            let axis = contiguous_axis(k, data.inputs[0])?;
            match coords[axis] {
                op::Coord::Axis(out) => Some(out as usize),
                op::Coord::Input(_) => None,
            }
        }
        _ => None,
    }
}

/// Whether elements of a value are computed where they are used, instead of read.
fn is_computed(graph: &Graph, value: Value) -> bool {
    graph.def_node(value).is_some_and(|node| matches!(graph.nodes[node].op, Op::Elementwise(_)))
}

impl Operands for Roles {
    fn left(&self, k: &mut GroupKernel<'_>, outer: &[Index], row: Index, contracted: &[Index], lanes: u16) -> Val {
        if let Some(depth) = self.depth_of_words() {
            let start = k.word_start(contracted[0], depth);
            return self.left_word(k, outer, row, start, lanes);
        }
        let contracted: Vec<Coord> = contracted.iter().map(|&c| Coord::uniform(c)).collect();
        let coords = self.coords(&self.left_labels, outer, row, Coord::uniform(0), &contracted);
        self.operand(k, self.left, coords, lanes, None)
    }

    fn right(
        &self,
        k: &mut GroupKernel<'_>,
        outer: &[Index],
        column: Coord,
        contracted: &[Index],
        lanes: u16,
        count: Option<Val>,
    ) -> Val {
        if self.is_deep() {
            let (panel, within) = panel_place(k, column, lanes);
            return k.words(self.right, &[panel, contracted[0], within, Index::Const(0)], lanes);
        }
        let depth: Vec<Coord> = contracted.iter().map(|&c| Coord::uniform(c)).collect();
        let coords = match self.panel {
            None => self.coords(&self.right_labels, outer, Index::Const(0), column, &depth),
            Some(nr) => {
                let (panel, within) = k.coord_split(column, Index::Const(i64::from(nr.columns)), lanes);
                vec![panel, depth[0], within]
            }
        };
        self.operand(k, self.right, coords, lanes, count)
    }

    fn left_in_memory(
        &self,
        k: &GroupKernel<'_>,
        outer: &[Index],
        row: Index,
        depth: Index,
    ) -> Option<(Value, Vec<Coord>)> {
        let innermost = self.left_labels.last() == self.contracted.last();
        let stored = k.graph.def_node(self.left).is_none() && self.contracted.len() == 1 && innermost;
        let coords = || self.coords(&self.left_labels, outer, row, Coord::uniform(0), &[Coord::uniform(depth)]);
        stored.then(|| (self.left, coords()))
    }

    fn stored(&self) -> Option<Value> {
        self.panel.map(|_| self.right)
    }

    fn result(&self, outer: &[Index], row: Index, column: Coord) -> Vec<Coord> {
        self.coords(&self.out_labels, outer, row, column, &[])
    }
}

/// The panel of consecutive columns, and the place of the first one there.
pub(super) fn panel_place(k: &mut GroupKernel<'_>, column: Coord, lanes: u16) -> (Index, Index) {
    let (panel, within) = k.coord_split(column, Index::Const(i64::from(gemm::PANEL)), lanes);
    (panel.first_index(), within.first_index())
}

/// One result at a time, lanes along the innermost contracted dimension.
fn dot(mut k: GroupKernel<'_>, roles: &Roles, lanes: u16) -> GroupLaunch {
    let ty = k.graph.tensor_ty(roles.result).clone();
    let depth = product(roles.contracted.iter().map(|l| roles.size(*l)));
    let lanes = if roles.contiguous_depth(&k) { lanes } else { 1 };
    k.remark(format!("one result at a time, {lanes} lanes along the contracted dimension"));
    let dims: Vec<Index> = ty.shape.iter().map(|d| k.dim(d)).collect();
    let total = product(&ty.shape);
    let block = depth.as_const().map_or(1, |n| (k.machine.task_elements / n.max(1)).max(1));
    let bound = k.dim(&total);
    let extents: Vec<Index> = roles.contracted.iter().map(|l| k.dim(roles.size(*l))).collect();
    k.tasks(|k, task| {
        let (lo, hi) = k.part(task, block, bound);
        k.each(lo, hi, 1, |k, flat| {
            let at = k.unflatten(flat, &dims);
            let index =
                |label: Label| roles.out_labels.iter().position(|l| *l == label).map_or(Index::Const(0), |i| at[i]);
            let outer: Vec<Index> = roles.outer.iter().map(|l| index(*l)).collect();
            let row = roles.row_label.map_or(Index::Const(0), index);
            let column = Coord::uniform(roles.column_label.map_or(Index::Const(0), index));
            let wide = k.b.constant(Scalar::zero(roles.acc), lanes);
            let narrow = k.b.constant(Scalar::zero(roles.acc), 1);
            let element = |k: &mut GroupKernel<'_>, contracted: &[Coord], lanes: u16, count: Option<Val>, sum: Val| {
                let left = roles.coords(&roles.left_labels, &outer, row, column, contracted);
                let right = roles.coords(&roles.right_labels, &outer, row, column, contracted);
                let left = roles.operand(k, roles.left, left, lanes, count);
                let right = roles.operand(k, roles.right, right, lanes, count);
                multiply_add(k, left, right, sum)
            };
            let sum = match extents.split_last() {
                None => element(k, &[], 1, None, narrow),
                Some((&length, around)) => {
                    let sums = nest(k, around, &mut vec![], &[wide, narrow], &mut |k, around, sums| {
                        let (wide, narrow) =
                            k.vectors_carrying(length, lanes, &sums[..1], &sums[1..], |k, c, lanes, count, carried| {
                                let contracted: Vec<Coord> =
                                    around.iter().map(|&i| Coord::uniform(i)).chain([c]).collect();
                                vec![element(k, &contracted, lanes, count, carried[0])]
                            });
                        vec![wide[0], narrow[0]]
                    });
                    let across = k.b.reduce_lanes(BinaryOp::Add, sums[0]);
                    k.b.binary(BinaryOp::Add, across, sums[1])
                }
            };
            let coords = at.iter().map(|&i| Coord::uniform(i)).collect();
            k.push(roles.result, &Position { coords, lanes: 1, count: None }, sum, &mut Pulled::default());
        });
    });
    let tasks = total.ceil_div(&Dim::from(block)).expect("the divisor is a constant");
    let flops = product([&total, &depth, &Dim::from(2)]);
    k.finish(tasks, flops)
}

/// Lanes along a few columns side by side, for all rows at once: each element of the right operand is computed once.
fn computed_columns(mut k: GroupKernel<'_>, gemm: &Gemm, roles: &Roles, lanes: u16) -> GroupLaunch {
    let rows = gemm.rows.as_const().expect("there are few rows");
    let columns = gemm.columns.as_const().unwrap_or(1);
    let lanes = if columns % i64::from(lanes) == 0 { lanes } else { 1 };
    // The sums of all rows stay in registers.
    let most = (i64::from(k.machine.kernel_vector_registers) / 2 / rows).clamp(1, 4);
    let vectors = (1..=most).rev().find(|n| columns % (n * i64::from(lanes)) == 0).unwrap_or(1);
    k.remark(format!("{rows} x {vectors} vectors of {lanes} sums, the right operand computed where it is used"));
    let grid: Vec<Dim> = gemm.outer.iter().chain(&gemm.lines).cloned().collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let extents: Vec<Index> = gemm.contracted.iter().map(|d| k.dim(d)).collect();
    let bound = k.dim(&gemm.columns);
    let width = i64::from(lanes);
    k.tasks(|k, task| {
        let outer = k.unflatten(task, &dims);
        k.each(0, bound, vectors * width, |k, first| {
            let at: Vec<Coord> = (0..vectors)
                .map(|v| {
                    let index = k.b.iadd(first, v * width);
                    if lanes == 1 { Coord::uniform(index) } else { Coord::consecutive(index, width) }
                })
                .collect();
            let zero = k.b.constant(Scalar::zero(gemm.acc), lanes);
            let init = vec![zero; (rows * vectors) as usize];
            let mut step = |k: &mut GroupKernel<'_>, contracted: &[Index], sums: &[Val]| {
                let right: Vec<Val> = at.iter().map(|&c| roles.right(k, &outer, c, contracted, lanes, None)).collect();
                let mut next = Vec::with_capacity(sums.len());
                for row in 0..rows {
                    let left = roles.left(k, &outer, Index::Const(row), contracted, lanes);
                    for &right in &right {
                        let sum = sums[next.len()];
                        next.push(multiply_add(k, left, right, sum));
                    }
                }
                next
            };
            // What a word of weights holds is taken apart without a loop.
            let sums = match extents.split_last() {
                Some((&Index::Const(places @ 1..=MAX_PLACES), around)) => {
                    nest(k, around, &mut vec![], &init, &mut |k, around, sums| {
                        (0..places).fold(sums.to_vec(), |sums, place| {
                            let contracted: Vec<Index> = around.iter().copied().chain([Index::Const(place)]).collect();
                            step(k, &contracted, &sums)
                        })
                    })
                }
                _ => nest(k, &extents, &mut vec![], &init, &mut step),
            };
            for (i, &sum) in sums.iter().enumerate() {
                let (row, column) = (i as i64 / vectors, at[i % vectors as usize]);
                let coords = roles.result(&outer, Index::Const(row), column);
                k.push(roles.result, &Position { coords, lanes, count: None }, sum, &mut Pulled::default());
            }
        });
    });
    let depth = product(&gemm.contracted);
    let flops = product(grid.iter().chain([&gemm.rows, &gemm.columns, &depth, &Dim::from(2)]));
    k.finish(product(&grid), flops)
}

/// Lanes along the columns, the right operand read where it is.
fn columns_direct(mut k: GroupKernel<'_>, gemm: &Gemm, roles: &Roles, lanes: u16) -> GroupLaunch {
    k.remark(format!("{lanes} lanes along the columns, the right operand read where it is"));
    let grid: Vec<Dim> = gemm.outer.iter().chain(&gemm.lines).cloned().chain([gemm.rows.clone()]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let columns = k.dim(&gemm.columns);
    let extents: Vec<Index> = gemm.contracted.iter().map(|d| k.dim(d)).collect();
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (row, outer) = at.split_last().expect("the grid has the rows");
        k.vectors(0, columns, lanes, |k, column, lanes, count| {
            let zero = k.b.constant(Scalar::zero(gemm.acc), lanes);
            let sum = nest(k, &extents, &mut vec![], &[zero], &mut |k, contracted, sum| {
                let left = roles.left(k, outer, *row, contracted, lanes);
                let right = roles.right(k, outer, column, contracted, lanes, count);
                vec![multiply_add(k, left, right, sum[0])]
            });
            let coords = roles.result(outer, *row, column);
            k.push(roles.result, &Position { coords, lanes, count }, sum[0], &mut Pulled::default());
        });
    });
    let depth = product(&gemm.contracted);
    let flops = product(grid.iter().chain([&gemm.columns, &depth, &Dim::from(2)]));
    k.finish(product(&grid), flops)
}
