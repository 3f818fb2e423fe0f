//! Ensembles of decision trees.

use std::collections::HashMap;

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::{TensorBytes, Value};

use super::super::Operator;
use super::features::numbers;
use super::forest::{Forest, Mode, Node, UNORDERED};
use super::scores::{Complement, PostTransform, above, both, class_labels, greatest, named};
use super::traverse::{Aggregate, scores};
use super::{matrix, row};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    row("TreeEnsemble", &[5], (1, 1), tree_ensemble),
    row("TreeEnsembleClassifier", &[1, 3, 5], (1, 1), |cx| named(cx, classifier)),
    row("TreeEnsembleRegressor", &[1, 3, 5], (1, 1), regressor),
];

/// Numbers given as floats, or as a tensor of any float type under the name with `_as_tensor`.
fn floats(cx: &NodeContext<'_>, name: &str) -> Result<Vec<f64>, OpError> {
    match tensor_floats(cx, &format!("{name}_as_tensor"))? {
        Some(values) => Ok(values),
        None => Ok(cx.floats(name).unwrap_or(&[]).iter().map(|&f| f64::from(f)).collect()),
    }
}

/// The elements of an attribute that is a tensor of floats.
fn tensor_floats(cx: &NodeContext<'_>, name: &str) -> Result<Option<Vec<f64>>, OpError> {
    let Some(tensor) = cx.tensor(name)?.and_then(|t| t.to_tensor_bytes()) else { return Ok(None) };
    let TensorBytes { dtype, bytes, .. } = &tensor;
    let halves = |f: fn(u16) -> f64| bytes.chunks_exact(2).map(|c| f(u16::from_le_bytes([c[0], c[1]]))).collect();
    Ok(Some(match dtype {
        DType::F64 => bytes.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().expect("chunk of 8"))).collect(),
        DType::F32 => tensor.to_f32().unwrap_or_default().into_iter().map(f64::from).collect(),
        DType::F16 => halves(|bits| half::f16::from_bits(bits).to_f64()),
        other => return cx.invalid(format!("attribute `{name}` has elements of type {other}")),
    }))
}

/// A list of integers that has as many entries as another one.
fn ints<'a>(cx: &NodeContext<'a>, name: &str, count: usize) -> Result<&'a [i64], OpError> {
    let values = cx.ints(name).unwrap_or(&[]);
    if values.len() != count {
        return cx.invalid(format!("attribute `{name}` has {} entries instead of {count}", values.len()));
    }
    Ok(values)
}

/// The number of columns, which decides what features there are.
fn columns(cx: &NodeContext<'_>, x: Value) -> Result<i64, OpError> {
    match cx.b.shape(x)?[1].as_const() {
        Some(n) => Ok(n),
        None => cx.unsupported("features whose number is not known when the model is compiled"),
    }
}

/// The trees of the classifier and the regressor; `role` is the prefix of the attributes with the leaves' weights.
fn labelled_forest(cx: &NodeContext<'_>, role: &str, targets: usize, columns: i64) -> Result<Forest, OpError> {
    let trees = cx.ints("nodes_treeids").unwrap_or(&[]);
    let count = trees.len();
    let ids = ints(cx, "nodes_nodeids", count)?;
    let features = ints(cx, "nodes_featureids", count)?;
    let (on_true, on_false) = (ints(cx, "nodes_truenodeids", count)?, ints(cx, "nodes_falsenodeids", count)?);
    let modes = cx.texts("nodes_modes")?.unwrap_or_default();
    let thresholds = floats(cx, "nodes_values")?;
    let missing = cx.ints("nodes_missing_value_tracks_true").filter(|m| !m.is_empty());
    if modes.len() != count || thresholds.len() != count || missing.is_some_and(|m| m.len() != count) {
        return cx.invalid(format!("{} modes and {} values for {count} nodes", modes.len(), thresholds.len()));
    }
    let index: HashMap<(i64, i64), usize> = trees.iter().zip(ids).map(|(&t, &n)| (t, n)).zip(0..).collect();
    let find = |tree: i64, id: i64| match index.get(&(tree, id)) {
        Some(&i) => Ok(i),
        None => cx.invalid(format!("tree {tree} has no node {id}")),
    };
    let mut nodes = Vec::with_capacity(count);
    let mut is_child = vec![false; count];
    for i in 0..count {
        let mode = match modes[i] {
            "LEAF" => {
                nodes.push(Node::Leaf(Vec::new()));
                continue;
            }
            "BRANCH_LEQ" => Mode::LessEqual,
            "BRANCH_LT" => Mode::Less,
            "BRANCH_GTE" => Mode::GreaterEqual,
            "BRANCH_GT" => Mode::Greater,
            "BRANCH_EQ" => Mode::Equal,
            "BRANCH_NEQ" => Mode::NotEqual,
            other => return cx.invalid(format!("attribute `nodes_modes` has {other}")),
        };
        let missing = missing.is_some_and(|m| m[i] != 0);
        let relations = mode.relations() | if missing { UNORDERED } else { 0 };
        let (on_true, on_false) = (find(trees[i], on_true[i])?, find(trees[i], on_false[i])?);
        is_child[on_true] = true;
        is_child[on_false] = true;
        nodes.push(Node::Split { feature: features[i], threshold: thresholds[i], relations, on_true, on_false });
    }
    let weights = floats(cx, &format!("{role}_weights"))?;
    let of_tree = ints(cx, &format!("{role}_treeids"), weights.len())?;
    let of_node = ints(cx, &format!("{role}_nodeids"), weights.len())?;
    let target = ints(cx, &format!("{role}_ids"), weights.len())?;
    for i in 0..weights.len() {
        // Weights of nodes that are no leaves are never reached.
        if let Node::Leaf(list) = &mut nodes[find(of_tree[i], of_node[i])?] {
            list.push((usize::try_from(target[i]).unwrap_or(usize::MAX), weights[i]));
        }
    }
    // A tree begins at the node that is no other's child, wherever it stands.
    let mut roots: Vec<(i64, usize)> = Vec::new();
    let mut tree_at: HashMap<i64, usize> = HashMap::new();
    for i in 0..count {
        let place = *tree_at.entry(trees[i]).or_insert_with(|| {
            roots.push((trees[i], usize::MAX));
            roots.len() - 1
        });
        if !is_child[i] && roots[place].1 == usize::MAX {
            roots[place].1 = i;
        }
    }
    let roots = roots.into_iter().map(|r| r.1).collect();
    Forest::checked(nodes, roots, targets, columns).map_err(OpError::Invalid)
}

fn count_of(cx: &NodeContext<'_>, name: &str) -> Result<usize, OpError> {
    match cx.int(name, 1) {
        n @ 1..=0x10_0000 => Ok(n as usize),
        other => cx.invalid(format!("attribute `{name}` is {other}")),
    }
}

/// Adds one number for each target.
fn add_base(cx: &mut NodeContext<'_>, y: Value, base: &[f64]) -> Result<Value, OpError> {
    let dtype = cx.b.dtype(y)?;
    let base = numbers(&mut cx.b, base)?;
    let base = cx.b.cast(base, dtype)?;
    Ok(cx.b.add(y, base)?)
}

/// Of one target only PROBIT transforms the score, as ONNX Runtime has it.
fn transform(cx: &mut NodeContext<'_>, post: PostTransform, y: Value, targets: usize) -> Result<Value, OpError> {
    if targets == 1 && post != PostTransform::Probit { Ok(y) } else { post.apply(&mut cx.b, y) }
}

fn regressor(cx: &mut NodeContext<'_>) -> OpResult {
    let x = matrix(cx)?;
    let (targets, post) = (count_of(cx, "n_targets")?, PostTransform::named(cx)?);
    let aggregate = match cx.text("aggregate_function")?.unwrap_or("SUM") {
        "AVERAGE" => Aggregate::Average,
        "SUM" => Aggregate::Sum,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return cx.invalid(format!("attribute `aggregate_function` is {other}")),
    };
    let forest = labelled_forest(cx, "target", targets, columns(cx, x)?)?;
    let mut y = scores(&mut cx.b, x, &forest, targets, aggregate)?;
    let base = floats(cx, "base_values")?;
    if !base.is_empty() {
        if base.len() != targets {
            return cx.invalid(format!("{} base values for {targets} targets", base.len()));
        }
        y = add_base(cx, y, &base)?;
    }
    let y = transform(cx, post, y, targets)?;
    Ok(vec![cx.b.cast(y, DType::F32)?])
}

/// Labels and scores. A model of two classes whose leaves all weigh one class is binary: that score decides, above 0.5 if
/// no weight is negative, else above 0. With weights for both classes the greater score decides.
fn classifier(cx: &mut NodeContext<'_>) -> OpResult {
    let x = matrix(cx)?;
    let (labels, post) = (class_labels(cx, "classlabels_int64s")?, PostTransform::named(cx)?);
    let labels = &labels[..];
    let classes = labels.len();
    let mut forest = labelled_forest(cx, "class", classes, columns(cx, x)?)?;
    let weights = || forest.nodes.iter().flat_map(|n| if let Node::Leaf(w) = n { &w[..] } else { &[] });
    let weighed = weights().next().map(|w| w.0).filter(|&first| weights().all(|w| w.0 == first));
    let positive = weights().all(|w| w.1 >= 0.0);
    let base = floats(cx, "base_values")?;
    if let ([no, yes], Some(weighed)) = (labels, weighed) {
        for node in &mut forest.nodes {
            if let Node::Leaf(weights) = node {
                weights.iter_mut().for_each(|w| w.0 = 0);
            }
        }
        let mut score = scores(&mut cx.b, x, &forest, 1, Aggregate::Sum)?;
        match base[..] {
            [] => {}
            [base] => score = add_base(cx, score, &[base])?,
            _ => return cx.unsupported("two base values where all leaves weigh one class"),
        }
        let label = above(&mut cx.b, score, if positive { 0.5 } else { 0.0 }, [*no, *yes])?;
        let score = match (weighed, positive, post) {
            (_, _, PostTransform::Probit) => {
                return cx.unsupported("the PROBIT transform where all leaves weigh one class");
            }
            (1, _, _) => {
                let zero = cx.b.binary_number(BinaryOp::Mul, score, 0.0)?;
                let two = cx.b.concat(&[zero, score], 1)?;
                post.apply(&mut cx.b, two)?
            }
            (_, _, PostTransform::Logistic) => {
                let two = both(&mut cx.b, score, Complement::Negative)?;
                cx.b.sigmoid(two)?
            }
            (_, true, _) => both(&mut cx.b, score, Complement::One)?,
            (_, false, _) => both(&mut cx.b, score, Complement::Negative)?,
        };
        return Ok(vec![label, cx.b.cast(score, DType::F32)?]);
    }
    let mut y = scores(&mut cx.b, x, &forest, classes, Aggregate::Sum)?;
    if !base.is_empty() {
        if base.len() != classes {
            return cx.invalid(format!("{} base values for {classes} classes", base.len()));
        }
        y = add_base(cx, y, &base)?;
    }
    let label = greatest(&mut cx.b, y, labels)?;
    let y = post.apply(&mut cx.b, y)?;
    Ok(vec![label, cx.b.cast(y, DType::F32)?])
}

/// The sets of a TreeEnsemble's membership nodes, in their order; NaN ends each.
fn membership_sets(cx: &NodeContext<'_>) -> Result<Vec<Vec<f64>>, OpError> {
    let values = tensor_floats(cx, "membership_values")?.unwrap_or_default();
    let mut sets: Vec<Vec<f64>> = values.split(|v| v.is_nan()).map(<[f64]>::to_vec).collect();
    // What follows the last NaN is a set only if it has members.
    if sets.last().is_some_and(Vec::is_empty) {
        sets.pop();
    }
    Ok(sets)
}

/// Leaves come after the nodes here; a membership test is a chain of comparisons that share their true side.
fn tree_ensemble(cx: &mut NodeContext<'_>) -> OpResult {
    let dtype = cx.b.dtype(cx.input(0)?)?;
    let x = matrix(cx)?;
    let (targets, post) = (count_of(cx, "n_targets")?, PostTransform::numbered(cx)?);
    let aggregate = match cx.int("aggregate_function", 1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return cx.invalid(format!("attribute `aggregate_function` is {other}")),
    };
    let features = cx.ints("nodes_featureids").unwrap_or(&[]);
    let count = features.len();
    let (true_leaf, false_leaf) = (ints(cx, "nodes_trueleafs", count)?, ints(cx, "nodes_falseleafs", count)?);
    let (on_true, on_false) = (ints(cx, "nodes_truenodeids", count)?, ints(cx, "nodes_falsenodeids", count)?);
    let modes =
        cx.tensor("nodes_modes")?.and_then(|t| t.to_tensor_bytes()).and_then(|t| t.to_i64()).unwrap_or_default();
    let thresholds = tensor_floats(cx, "nodes_splits")?.unwrap_or_default();
    let missing = cx.ints("nodes_missing_value_tracks_true").filter(|m| !m.is_empty());
    if modes.len() != count || thresholds.len() != count || missing.is_some_and(|m| m.len() != count) {
        return cx.invalid(format!("{} modes and {} splits for {count} nodes", modes.len(), thresholds.len()));
    }
    let weights = tensor_floats(cx, "leaf_weights")?.unwrap_or_default();
    let leaf_targets = ints(cx, "leaf_targetids", weights.len())?;
    let child = |leaf: i64, id: i64| {
        let bound = if leaf != 0 { weights.len() } else { count };
        match usize::try_from(id).ok().filter(|&i| i < bound) {
            Some(i) => Ok(if leaf != 0 { count + i } else { i }),
            None => cx.invalid(format!("a child {id} of {bound}")),
        }
    };
    let mut sets = membership_sets(cx)?.into_iter();
    let mut nodes = Vec::with_capacity(count + weights.len());
    let mut chained = Vec::new();
    for i in 0..count {
        let (on_true, on_false) = (child(true_leaf[i], on_true[i])?, child(false_leaf[i], on_false[i])?);
        let missing = if missing.is_some_and(|m| m[i] != 0) { UNORDERED } else { 0 };
        let split = |threshold, relations, on_false| Node::Split {
            feature: features[i],
            threshold,
            relations,
            on_true,
            on_false,
        };
        let mode = match modes[i] {
            0 => Mode::LessEqual,
            1 => Mode::Less,
            2 => Mode::GreaterEqual,
            3 => Mode::Greater,
            4 => Mode::Equal,
            5 => Mode::NotEqual,
            6 => {
                let Some(members) = sets.next() else { return cx.invalid("a set of `membership_values` is missing") };
                let Some((&first, rest)) = members.split_first() else {
                    // Nothing is a member of an empty set.
                    nodes.push(split(0.0, missing, on_false));
                    continue;
                };
                let mut next = on_false;
                for &member in rest {
                    chained.push(split(member, Mode::Equal.relations() | missing, next));
                    next = count + weights.len() + chained.len() - 1;
                }
                nodes.push(split(first, Mode::Equal.relations() | missing, next));
                continue;
            }
            other => return cx.invalid(format!("attribute `nodes_modes` has {other}")),
        };
        nodes.push(split(thresholds[i], mode.relations() | missing, on_false));
    }
    for (&weight, &target) in weights.iter().zip(leaf_targets) {
        nodes.push(Node::Leaf(vec![(usize::try_from(target).unwrap_or(usize::MAX), weight)]));
    }
    nodes.append(&mut chained);
    let roots = cx.ints("tree_roots").unwrap_or(&[]).iter().map(|&r| child(0, r)).collect::<Result<_, _>>()?;
    let forest = Forest::checked(nodes, roots, targets, columns(cx, x)?).map_err(OpError::Invalid)?;
    let y = scores(&mut cx.b, x, &forest, targets, aggregate)?;
    let y = transform(cx, post, y, targets)?;
    Ok(vec![cx.b.cast(y, dtype)?])
}

#[cfg(test)]
mod tests {
    use crate::ops::test_model::{TestModel, assert_close, noise};

    const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

    /// Complete trees: node `i` has the children `2i + 1` and `2i + 2`.
    struct Trees {
        depth: u32,
        count: usize,
        modes: Vec<&'static str>,
        missing: Vec<i64>,
        /// Thresholds of splits, weights of leaves.
        values: Vec<f32>,
        features: Vec<i64>,
    }

    impl Trees {
        fn new(depth: u32, count: usize, modes: &[&'static str], missing: bool) -> Trees {
            let nodes = (2usize << depth) - 1;
            let total = nodes * count;
            Trees {
                depth,
                count,
                modes: (0..total).map(|i| modes[i * 7 % modes.len()]).collect(),
                missing: (0..total).map(|i| i64::from(missing && i % 3 == 0)).collect(),
                // Few different thresholds, so that features equal them.
                values: noise(total).iter().map(|v| (v * 4.0).round() / 4.0).collect(),
                features: (0..total as i64).map(|i| i * 5 % 3).collect(),
            }
        }

        fn nodes(&self) -> usize {
            (2usize << self.depth) - 1
        }

        fn first_leaf(&self) -> usize {
            (1usize << self.depth) - 1
        }

        /// The sum of the trees for a row, one comparison after the other.
        fn sum(&self, row: &[f32]) -> f32 {
            let tree = |tree: usize| {
                let mut node = 0;
                while node < self.first_leaf() {
                    let i = tree * self.nodes() + node;
                    let (x, t) = (row[self.features[i] as usize], self.values[i]);
                    let holds = match self.modes[i] {
                        "BRANCH_LEQ" => x <= t,
                        "BRANCH_LT" => x < t,
                        "BRANCH_GTE" => x >= t,
                        "BRANCH_GT" => x > t,
                        "BRANCH_EQ" => x == t,
                        _ => x != t,
                    };
                    let holds = holds || (x.is_nan() && self.missing[i] != 0);
                    node = 2 * node + if holds { 1 } else { 2 };
                }
                self.values[tree * self.nodes() + node]
            };
            (0..self.count).map(tree).sum()
        }

        fn model(&self) -> TestModel {
            let (nodes, leaf) = (self.nodes(), self.first_leaf());
            let all = || (0..self.count * nodes).map(move |i| ((i / nodes) as i64, (i % nodes) as i64));
            let is_leaf = |node: i64| node >= leaf as i64;
            let child =
                |offset: i64| -> Vec<i64> { all().map(|(_, n)| if is_leaf(n) { 0 } else { 2 * n + offset }).collect() };
            let modes: Vec<&str> =
                all().zip(&self.modes).map(|((_, n), m)| if is_leaf(n) { "LEAF" } else { *m }).collect();
            let ends: Vec<(i64, i64)> = all().filter(|(_, n)| is_leaf(*n)).collect();
            let of = |f: fn(&(i64, i64)) -> i64, list: &[(i64, i64)]| list.iter().map(f).collect::<Vec<i64>>();
            let ids: Vec<(i64, i64)> = all().collect();
            let weights: Vec<f32> = ends.iter().map(|e| self.values[e.0 as usize * nodes + e.1 as usize]).collect();
            TestModel::new("TreeEnsembleRegressor", 3)
                .domain("ai.onnx.ml")
                .ints("nodes_treeids", &of(|n| n.0, &ids))
                .ints("nodes_nodeids", &of(|n| n.1, &ids))
                .ints("nodes_featureids", &self.features)
                .ints("nodes_missing_value_tracks_true", &self.missing)
                .ints("nodes_truenodeids", &child(1))
                .ints("nodes_falsenodeids", &child(2))
                .texts("nodes_modes", &modes)
                .floats_attribute("nodes_values", &self.values)
                .ints("target_treeids", &of(|n| n.0, &ends))
                .ints("target_nodeids", &of(|n| n.1, &ends))
                .ints("target_ids", &vec![0; ends.len()])
                .floats_attribute("target_weights", &weights)
        }
    }

    #[test]
    fn trees_of_any_depth_and_mode_follow_their_paths() {
        let mut x: Vec<f32> = noise(11 * 3).iter().map(|v| (v * 4.0).round() / 4.0).collect();
        [4, 9, 20].into_iter().for_each(|i| x[i] = f32::NAN);
        for depth in [1, 3, 8] {
            for (modes, missing) in
                [(&MODES[..1], false), (&MODES[3..4], true), (&MODES[5..], false), (&MODES[..], true)]
            {
                let trees = Trees::new(depth, 3, modes, missing);
                let expected: Vec<f32> = x.chunks(3).map(|row| trees.sum(row)).collect();
                // Many rows with lanes along rows, then few with lanes along trees.
                assert_close(&trees.model().input(&[11, 3], &x).run(), &(vec![11, 1], expected.clone()));
                assert_close(&trees.model().input(&[4, 3], &x[..12]).run(), &(vec![4, 1], expected[..4].to_vec()));
            }
        }
    }

    #[test]
    fn features_that_do_not_exist_are_refused() {
        let mut trees = Trees::new(1, 1, &MODES[..1], false);
        trees.features[0] = 3;
        assert!(trees.model().input(&[2, 3], &[0.0; 6]).error().contains("feature 3 of 3"));
    }

    #[test]
    fn of_one_weighed_class_the_other_is_what_is_left() {
        let model = || {
            TestModel::new("TreeEnsembleClassifier", 1)
                .domain("ai.onnx.ml")
                .outputs(2)
                .ints("nodes_treeids", &[0; 3])
                .ints("nodes_nodeids", &[0, 1, 2])
                .ints("nodes_featureids", &[0; 3])
                .texts("nodes_modes", &["BRANCH_LT", "LEAF", "LEAF"])
                .floats_attribute("nodes_values", &[0.0; 3])
                .ints("nodes_truenodeids", &[1, 0, 0])
                .ints("nodes_falsenodeids", &[2, 0, 0])
                .ints("class_treeids", &[0; 2])
                .ints("class_nodeids", &[1, 2])
                .ints("class_ids", &[0; 2])
                .ints("classlabels_int64s", &[5, 9])
        };
        let run = |weights: &[f32]| {
            let results = model().floats_attribute("class_weights", weights).input(&[2, 1], &[-1.0, 1.0]).run_all();
            (results[0].to_i64().expect("labels"), results[1].to_f32().expect("scores"))
        };
        assert_eq!(run(&[0.25, 0.75]), (vec![5, 9], vec![0.75, 0.25, 0.25, 0.75]));
        assert_eq!(run(&[-0.5, 0.25]), (vec![5, 9], vec![0.5, -0.5, -0.25, 0.25]));
    }
}
