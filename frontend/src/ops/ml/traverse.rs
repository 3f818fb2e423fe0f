//! The traversal of a forest in primitives, all rows and trees in step.
//!
//! The index space is `[targets, trees, rows]`. Lanes run along rows, whose features are a matrix with rows last, so
//! that the first levels are comparisons of consecutive elements with thresholds that all lanes share. All comparisons of
//! these levels are made and their results choose: for a tree of few levels this is less work than following paths.
//! Below, each lane follows its own path: one gather of the node's record, one of the feature.
//!
//! With few rows the space is `[targets, rows, trees]`, lanes run along trees, and paths are followed from the second level on.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, TensorBytes, Value};

use super::forest::{EQUAL, Forest, GREATER, LESS, Layout, Node};
use crate::import::OpError;

/// How the trees' results combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregate {
    Average,
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn reduction(self) -> ReduceOp {
        match self {
            Aggregate::Average | Aggregate::Sum => ReduceOp::Sum,
            Aggregate::Min => ReduceOp::Min,
            Aggregate::Max => ReduceOp::Max,
        }
    }

    /// What a leaf gives to a target: all its weights for it, or what changes nothing.
    fn weight(self, node: &Node, target: usize) -> f64 {
        let Node::Leaf(weights) = node else { return self.neutral() };
        let own = weights.iter().filter(|w| w.0 == target).map(|w| w.1);
        match self {
            Aggregate::Average | Aggregate::Sum => own.sum(),
            Aggregate::Min => own.fold(self.neutral(), f64::min),
            Aggregate::Max => own.fold(self.neutral(), f64::max),
        }
    }

    fn neutral(self) -> f64 {
        match self {
            Aggregate::Average | Aggregate::Sum => 0.0,
            Aggregate::Min => f64::INFINITY,
            Aggregate::Max => f64::NEG_INFINITY,
        }
    }
}

/// Trees up to this depth are all comparisons.
const COMPLETE_DEPTH: usize = 6;

/// Of deeper trees, so many levels are.
const TOP_LEVELS: usize = 4;

/// From this many rows on, lanes run along rows.
const MANY_ROWS: i64 = 8;

/// The scores `[rows, targets]` of features `[rows, columns]`, which are `f32` or `f64`; the scores are alike.
///
/// # Errors
/// If the forest is too large when subtrees that it shares are written out.
pub(super) fn scores(
    b: &mut Builder<'_>,
    x: Value,
    forest: &Forest,
    targets: usize,
    aggregate: Aggregate,
) -> Result<Value, OpError> {
    let dtype = b.dtype(x)?;
    // A leaf of no weight is the tree that fills up a group.
    let mut filled = forest.clone();
    filled.nodes.push(Node::Leaf(Vec::new()));
    let filler = filled.nodes.len() - 1;
    let groups = filled.target_of_trees().and_then(|of_tree| grouped(&filled, &of_tree, targets, filler));
    let (values, trees_axis) = match &groups {
        Some(groups) => {
            let mut walk = Walk::new(b, x, &filled, groups)?;
            let weight = |place: usize, group: usize| aggregate.weight(&filled.nodes[place], group);
            (walk.values(b, &weight, dtype)?, walk.trees_axis)
        }
        None => {
            let all = vec![filled.roots.clone()];
            let mut walk = Walk::new(b, x, &filled, &all)?;
            let (ends, nodes) = walk.ends(b)?;
            // All targets read the ends: they lie in memory, in the type that vectors are loaded of.
            let ends = b.cast(ends, DType::I32)?;
            let weights = (0..targets).flat_map(|t| nodes.iter().map(move |&n| (t, n)));
            let weights: Vec<f64> = weights.map(|(t, n)| aggregate.weight(&filled.nodes[n], t)).collect();
            let table = numbers(b, &[targets as i64, nodes.len() as i64], &weights, dtype)?;
            let mut shape = walk.space.clone();
            shape[0] = Dim::from(targets as i64);
            (b.gather(table, &[ends], &[Coord::Axis(0), Coord::Input(0)], &shape)?, walk.trees_axis)
        }
    };
    let sums = b.reduce(aggregate.reduction(), values, &[trees_axis as i64], false)?;
    let sums = b.transpose(sums, &[1, 0])?;
    finish(b, sums, forest.roots.len(), aggregate)
}

/// Averages, and gives 0 where no tree has a weight.
fn finish(b: &mut Builder<'_>, sums: Value, trees: usize, aggregate: Aggregate) -> Result<Value, OpError> {
    let dtype = b.dtype(sums)?;
    match aggregate {
        Aggregate::Sum => Ok(sums),
        Aggregate::Average => Ok(b.binary_number(BinaryOp::Div, sums, trees as f64)?),
        Aggregate::Min | Aggregate::Max => Ok(b.map(&[sums], |e| {
            let (x, neutral, zero) = (e.arg(0), e.number(dtype, aggregate.neutral())?, e.number(dtype, 0.0)?);
            let none = e.eq(x, neutral);
            Ok(e.select(none, zero, x))
        })?),
    }
}

/// The trees of each target, all groups of one length; `None` if more than half of the trees were fillers then.
fn grouped(forest: &Forest, of_tree: &[usize], targets: usize, filler: usize) -> Option<Vec<Vec<usize>>> {
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); targets];
    for (&root, &target) in forest.roots.iter().zip(of_tree) {
        groups[target].push(root);
    }
    let longest = groups.iter().map(Vec::len).max()?;
    groups.iter_mut().for_each(|g| g.resize(longest, filler));
    (longest * targets <= 2 * forest.roots.len()).then_some(groups)
}

/// A constant of floats.
fn numbers(b: &mut Builder<'_>, shape: &[i64], values: &[f64], dtype: DType) -> Result<Value, OpError> {
    let bytes: Vec<u8> = match dtype {
        DType::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
    };
    Ok(b.constant(TensorBytes { dtype, shape: shape.into(), bytes: bytes.into() }, "")?)
}

/// A constant of indices.
fn indices(b: &mut Builder<'_>, shape: &[i64], values: &[usize]) -> Result<Value, OpError> {
    let bytes: Vec<u8> = values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect();
    Ok(b.constant(TensorBytes { dtype: DType::I32, shape: shape.into(), bytes: bytes.into() }, "")?)
}

/// Where the true side is taken: `x` stands to `threshold` in one of the relations. A NaN stands in none.
fn taken(e: &mut ExprBuilder, relations: u8, x: ExprIndex, threshold: ExprIndex) -> ExprIndex {
    const LESS_EQUAL: u8 = LESS | EQUAL;
    const GREATER_EQUAL: u8 = GREATER | EQUAL;
    match relations {
        LESS_EQUAL => e.le(x, threshold),
        LESS => e.lt(x, threshold),
        GREATER_EQUAL => e.ge(x, threshold),
        GREATER => e.gt(x, threshold),
        EQUAL => e.eq(x, threshold),
        _ => {
            let mut any = e.constant(Scalar::bool(false));
            for relation in [LESS, EQUAL, GREATER].into_iter().filter(|r| relations & r != 0) {
                let holds = taken(e, relation, x, threshold);
                any = e.or(any, holds);
            }
            any
        }
    }
}

/// The same with relations that differ from node to node, as an `i32`.
fn taken_by(
    e: &mut ExprBuilder,
    relations: ExprIndex,
    x: ExprIndex,
    threshold: ExprIndex,
) -> Result<ExprIndex, BuildError> {
    let mut found = e.number(DType::I32, 0.0)?;
    for (relation, bit) in [(LESS, 1.0), (EQUAL, 2.0), (GREATER, 4.0)] {
        let (holds, bit) = (taken(e, relation, x, threshold), e.number(DType::I32, bit)?);
        found = e.select(holds, bit, found);
    }
    let (common, zero) = (e.and(relations, found), e.number(DType::I32, 0.0)?);
    Ok(e.ne(common, zero))
}

/// The features in both orders, and the trees that are walked.
struct Walk<'f> {
    forest: &'f Forest,
    groups: &'f [Vec<usize>],
    /// `[rows, columns]`.
    x: Value,
    /// `[columns, rows]`.
    rows_last: Value,
    dtype: DType,
    /// `[groups, trees, rows]`, or with few rows `[groups, rows, trees]`.
    space: Vec<Dim>,
    /// Which axis of the space runs over trees, 1 or 2.
    trees_axis: usize,
    /// Levels that are all comparisons.
    levels: usize,
    /// The relations of all nodes, if they are the same.
    relations: Option<u8>,
}

impl<'f> Walk<'f> {
    fn new(b: &mut Builder<'_>, x: Value, forest: &'f Forest, groups: &'f [Vec<usize>]) -> Result<Walk<'f>, OpError> {
        let shape = b.shape(x)?;
        let rows_last = b.transpose(x, &[1, 0])?;
        let mut space = vec![Dim::from(groups.len() as i64), Dim::from(groups[0].len() as i64), shape[0].clone()];
        let few = shape[0].as_const().is_some_and(|rows| rows < MANY_ROWS);
        let trees_axis = if few { 2 } else { 1 };
        let levels = match forest.depth {
            depth if few => depth.min(1),
            depth if depth <= COMPLETE_DEPTH => depth,
            _ => TOP_LEVELS,
        };
        if few {
            space.swap(1, 2);
        }
        let relations = forest.common_relations();
        Ok(Walk { forest, groups, x, rows_last, dtype: b.dtype(x)?, space, trees_axis, levels, relations })
    }

    /// One number for each tree, as a tensor of the space.
    fn per_tree<T>(&self, number: impl Fn(usize, usize) -> T) -> Vec<T> {
        let trees = self.groups.iter().enumerate().flat_map(|(g, trees)| trees.iter().map(move |&root| (root, g)));
        trees.map(|(root, g)| number(root, g)).collect()
    }

    fn per_tree_shape(&self) -> [i64; 3] {
        let mut shape = [self.groups.len() as i64, 1, 1];
        shape[self.trees_axis] = self.groups[0].len() as i64;
        shape
    }

    /// The features of these columns, each lane's own row.
    fn features(&self, b: &mut Builder<'_>, columns: Value, shared: bool) -> Result<Value, OpError> {
        let rows = Coord::Axis(3 - self.trees_axis as u32);
        // Where all lanes ask for one column, their rows lie side by side.
        if shared && self.trees_axis == 1 {
            return Ok(b.gather(self.rows_last, &[columns], &[Coord::Input(0), rows], &self.space)?);
        }
        Ok(b.gather(self.x, &[columns], &[rows, Coord::Input(0)], &self.space)?)
    }

    /// What the leaves of each group give, for each tree and row.
    fn values(
        &mut self,
        b: &mut Builder<'_>,
        weight: &dyn Fn(usize, usize) -> f64,
        dtype: DType,
    ) -> Result<Value, OpError> {
        if self.levels == self.forest.depth {
            let mut ends = Vec::new();
            for path in 0..1usize << self.levels {
                let of_tree = self.per_tree(|root, g| weight(self.forest.descend(root, self.levels, path), g));
                ends.push(numbers(b, &self.per_tree_shape(), &of_tree, dtype)?);
            }
            return self.choose(b, &ends);
        }
        let (ends, nodes) = self.ends(b)?;
        let groups = self.groups.len();
        let weights = (0..groups).flat_map(|g| nodes.iter().map(move |&n| weight(n, g)));
        let weights: Vec<f64> = weights.collect();
        let table = numbers(b, &[groups as i64, nodes.len() as i64], &weights, dtype)?;
        Ok(b.gather(table, &[ends], &[Coord::Axis(0), Coord::Input(0)], &self.space)?)
    }

    /// Where each tree and row ends, as an index into a list of nodes, which comes with it.
    fn ends(&mut self, b: &mut Builder<'_>) -> Result<(Value, Vec<usize>), OpError> {
        let paths = 1usize << self.levels;
        let reached: Vec<Vec<usize>> =
            (0..paths).map(|path| self.per_tree(|root, _| self.forest.descend(root, self.levels, path))).collect();
        let layout = Layout::below(self.forest, reached.iter().flatten().copied()).map_err(OpError::Unsupported)?;
        let mut starts = Vec::with_capacity(paths);
        for of_tree in &reached {
            let places: Vec<usize> = of_tree.iter().map(|n| layout.starts[n]).collect();
            starts.push(indices(b, &self.per_tree_shape(), &places)?);
        }
        let mut at = self.choose(b, &starts)?;
        if self.levels < self.forest.depth {
            let records = Records::new(b, self, &layout)?;
            for _ in self.levels..self.forest.depth {
                at = records.step(b, self, at)?;
            }
        }
        Ok((at, layout.nodes))
    }

    /// Makes all comparisons of the first levels, which choose one of the constants at their ends.
    fn choose(&self, b: &mut Builder<'_>, ends: &[Value]) -> Result<Value, OpError> {
        let shape = self.per_tree_shape();
        let mut inputs = Vec::new();
        for level in 0..self.levels {
            for path in 0..1usize << level {
                let split = |root: usize| match &self.forest.nodes[self.forest.descend(root, level, path)] {
                    Node::Split { feature, threshold, relations, .. } => (*feature as usize, *threshold, *relations),
                    Node::Leaf(_) => (0, 0.0, 0),
                };
                let features = indices(b, &shape, &self.per_tree(|root, _| split(root).0))?;
                inputs.push(self.features(b, features, true)?);
                inputs.push(numbers(b, &shape, &self.per_tree(|root, _| split(root).1), self.dtype)?);
                if self.relations.is_none() {
                    inputs.push(indices(b, &shape, &self.per_tree(|root, _| usize::from(split(root).2)))?);
                }
            }
        }
        let width = if self.relations.is_none() { 3 } else { 2 };
        let first_end = inputs.len() as u32;
        inputs.extend(ends);
        if self.levels == 0 {
            return Ok(b.broadcast(ends[0], &self.space)?);
        }
        Ok(b.map_to(&self.space, &inputs, |e| {
            let mut chosen: Vec<ExprIndex> = (0..ends.len() as u32).map(|n| e.arg(first_end + n)).collect();
            for level in (0..self.levels).rev() {
                let mut upper = Vec::with_capacity(1 << level);
                for path in 0..1u32 << level {
                    let at = ((1 << level) - 1 + path) * width;
                    let (x, threshold) = (e.arg(at), e.arg(at + 1));
                    let taken = match self.relations {
                        Some(relations) => taken(e, relations, x, threshold),
                        None => {
                            let relations = e.arg(at + 2);
                            taken_by(e, relations, x, threshold)?
                        }
                    };
                    let (on_false, on_true) = (chosen[2 * path as usize], chosen[2 * path as usize + 1]);
                    upper.push(e.select(taken, on_true, on_false));
                }
                chosen = upper;
            }
            Ok(chosen[0])
        })?)
    }
}

/// What a step reads of the node where it is.
enum Records {
    /// One `i64` for each node: the threshold's `f32` bits above, then `first`, then the feature in `bits` bits.
    Packed { records: Value, bits: u32 },
    /// One constant for each: feature, threshold, `first`, relations.
    Apart([Value; 4]),
}

impl Records {
    fn new(b: &mut Builder<'_>, walk: &Walk<'_>, layout: &Layout) -> Result<Records, OpError> {
        // A leaf compares with NaN, in no relation: it stays on its false side, which is itself.
        let split = |&node: &usize| match &walk.forest.nodes[node] {
            Node::Split { feature, threshold, relations, .. } => {
                (*feature as usize, *threshold, usize::from(*relations))
            }
            Node::Leaf(_) => (0, f64::NAN, 0),
        };
        let splits: Vec<(usize, f64, usize)> = layout.nodes.iter().map(split).collect();
        let count = splits.len();
        let columns = splits.iter().map(|s| s.0).max().unwrap_or(0) + 1;
        let bits = columns.next_power_of_two().ilog2();
        let fits = (count as u64) << bits <= 1 << 32;
        if fits && walk.relations.is_some() && walk.dtype == DType::F32 {
            let record = |((feature, threshold, _), &first): (&(usize, f64, usize), &usize)| {
                (i64::from((*threshold as f32).to_bits() as i32) << 32) | (first << bits | feature) as i64
            };
            let records: Vec<i64> = splits.iter().zip(&layout.first).map(record).collect();
            let records = b.constant(TensorBytes::from_i64(&[count as i64], &records), "")?;
            return Ok(Records::Packed { records, bits });
        }
        let shape = [count as i64];
        let column = |f: &dyn Fn(&(usize, f64, usize)) -> usize| splits.iter().map(f).collect::<Vec<usize>>();
        let thresholds: Vec<f64> = splits.iter().map(|s| s.1).collect();
        Ok(Records::Apart([
            indices(b, &shape, &column(&|s| s.0))?,
            numbers(b, &shape, &thresholds, walk.dtype)?,
            indices(b, &shape, &layout.first)?,
            indices(b, &shape, &column(&|s| s.2))?,
        ]))
    }

    /// From each lane's node to the next one on its path.
    fn step(&self, b: &mut Builder<'_>, walk: &Walk<'_>, at: Value) -> Result<Value, OpError> {
        let node = [Coord::Input(0)];
        match self {
            Records::Packed { records, bits } => {
                let bits = *bits;
                let relations = walk.relations.expect("packed records share their relations");
                let record = b.gather(*records, &[at], &node, &walk.space)?;
                let feature = b.map(&[record], |e| {
                    let (record, mask) = (e.arg(0), e.constant(Scalar::i64((1 << bits) - 1)));
                    Ok(e.and(record, mask))
                })?;
                let x = walk.features(b, feature, false)?;
                Ok(b.map(&[x, record], |e| {
                    let (x, record) = (e.arg(0), e.arg(1));
                    let (half, mask) = (e.constant(Scalar::i64(32)), e.constant(Scalar::i64((1 << 32) - 1)));
                    let high = e.binary(BinaryOp::Shr, record, half);
                    let high = e.cast(DType::I32, high);
                    let threshold = e.bitcast(DType::F32, high);
                    let (low, bits) = (e.and(record, mask), e.constant(Scalar::i64(i64::from(bits))));
                    let first = e.binary(BinaryOp::Shr, low, bits);
                    let taken = taken(e, relations, x, threshold);
                    let one = e.constant(Scalar::i64(1));
                    let second = e.add(first, one);
                    Ok(e.select(taken, second, first))
                })?)
            }
            Records::Apart([features, thresholds, firsts, relations]) => {
                let feature = b.gather(*features, &[at], &node, &walk.space)?;
                let x = walk.features(b, feature, false)?;
                let threshold = b.gather(*thresholds, &[at], &node, &walk.space)?;
                let first = b.gather(*firsts, &[at], &node, &walk.space)?;
                let relations = b.gather(*relations, &[at], &node, &walk.space)?;
                Ok(b.map(&[x, threshold, first, relations], |e| {
                    let (x, threshold, first, relations) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
                    let taken = match walk.relations {
                        Some(common) => taken(e, common, x, threshold),
                        None => taken_by(e, relations, x, threshold)?,
                    };
                    let one = e.number(DType::I32, 1.0)?;
                    let second = e.add(first, one);
                    Ok(e.select(taken, second, first))
                })?)
            }
        }
    }
}
