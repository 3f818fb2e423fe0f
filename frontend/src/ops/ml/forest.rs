//! Decision trees as a model states them, checked, and the arrays that a traversal reads.
//!
//! Before: nodes that name their children by index, with nothing trusted. After [`Forest::checked`]: every child exists and
//! no path returns to where it was, and a NaN feature always goes to the false side. [`Layout`] puts the two children of a node side by side: the child on the false side is
//! `first`, the one on the true side `first + 1`, and a leaf is its own false child.

use std::collections::HashMap;

/// Comparisons of the feature with the threshold. What a NaN feature does is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    LessEqual,
    Less,
    GreaterEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Mode {
    /// Bits of the relations of feature to threshold for which the comparison holds.
    pub(super) fn relations(self) -> u8 {
        match self {
            Mode::LessEqual => LESS | EQUAL,
            Mode::Less => LESS,
            Mode::GreaterEqual => GREATER | EQUAL,
            Mode::Greater => GREATER,
            Mode::Equal => EQUAL,
            Mode::NotEqual => LESS | GREATER | UNORDERED,
        }
    }
}

/// The feature is less than the threshold.
pub(super) const LESS: u8 = 1;
/// Both are equal.
pub(super) const EQUAL: u8 = 2;
/// The feature is greater.
pub(super) const GREATER: u8 = 4;
/// The feature is NaN.
pub(super) const UNORDERED: u8 = 8;

/// One node.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A decision.
    Split {
        /// Column of the input.
        feature: i64,
        /// What it is compared with.
        threshold: f64,
        /// The relations for which the true side is taken.
        relations: u8,
        /// Where to go then.
        on_true: usize,
        /// Where to go otherwise.
        on_false: usize,
    },
    /// An end: targets with what they get.
    Leaf(Vec<(usize, f64)>),
}

impl Node {
    /// The same decision without a true side for NaN: where NaN goes to the true side, the sides change places.
    fn ordered(self) -> Node {
        match self {
            Node::Split { feature, threshold, relations, on_true, on_false } if relations & UNORDERED != 0 => {
                let relations = !relations & (LESS | EQUAL | GREATER);
                Node::Split { feature, threshold, relations, on_true: on_false, on_false: on_true }
            }
            other => other,
        }
    }
}

/// Trees over one set of features.
#[derive(Clone, Debug, Default)]
pub(super) struct Forest {
    /// All nodes.
    pub(super) nodes: Vec<Node>,
    /// The first node of each tree.
    pub(super) roots: Vec<usize>,
    /// Splits on the longest path from a root to a leaf.
    pub(super) depth: usize,
}

/// A traversal takes one step for each level, written out.
const MAX_DEPTH: usize = 512;

/// Trees that share subtrees are written out; this many nodes are allowed then.
const MAX_NODES: usize = 1 << 22;

impl Forest {
    /// Checks children and targets and measures the depth.
    pub(super) fn checked(
        nodes: Vec<Node>,
        roots: Vec<usize>,
        targets: usize,
        features: i64,
    ) -> Result<Forest, String> {
        if roots.is_empty() {
            return Err("the ensemble has no tree".into());
        }
        for (i, node) in nodes.iter().enumerate() {
            match node {
                Node::Split { feature, on_true, on_false, .. } => {
                    if *on_true.max(on_false) >= nodes.len() {
                        return Err(format!("node {i} has a child that does not exist"));
                    }
                    if !(0..features).contains(feature) {
                        return Err(format!("node {i} asks for feature {feature} of {features}"));
                    }
                }
                Node::Leaf(weights) => {
                    if let Some((target, _)) = weights.iter().find(|w| w.0 >= targets) {
                        return Err(format!("node {i} adds to target {target} of {targets}"));
                    }
                }
            }
        }
        let nodes = nodes.into_iter().map(Node::ordered).collect();
        let mut forest = Forest { nodes, roots, depth: 0 };
        forest.depth = forest.measure()?;
        Ok(forest)
    }

    /// The longest path. A path longer than the limit may be a circle.
    fn measure(&self) -> Result<usize, String> {
        // Heights are settled from the leaves up; a node on the stack a second time waits for its children.
        let mut heights: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let mut open = vec![false; self.nodes.len()];
        let mut deepest = 0;
        for &root in &self.roots {
            if root >= self.nodes.len() {
                return Err(format!("a tree begins at node {root}, which does not exist"));
            }
            let mut stack = vec![root];
            while let Some(&node) = stack.last() {
                if heights[node].is_some() {
                    stack.pop();
                    continue;
                }
                let Node::Split { on_true, on_false, .. } = &self.nodes[node] else {
                    heights[node] = Some(0);
                    stack.pop();
                    continue;
                };
                match (heights[*on_true], heights[*on_false]) {
                    (Some(a), Some(b)) => {
                        heights[node] = Some(a.max(b) + 1);
                        stack.pop();
                    }
                    _ if open[node] => return Err(format!("node {node} is below itself")),
                    (a, b) => {
                        open[node] = true;
                        stack.extend(a.is_none().then_some(*on_true));
                        stack.extend(b.is_none().then_some(*on_false));
                    }
                }
            }
            deepest = deepest.max(heights[root].unwrap_or(0));
        }
        if deepest > MAX_DEPTH {
            return Err(format!("a tree of depth {deepest}; at most {MAX_DEPTH} can be compiled"));
        }
        Ok(deepest)
    }

    /// The relations of all splits, if they are the same.
    pub(super) fn common_relations(&self) -> Option<u8> {
        let mut splits = self.nodes.iter().filter_map(|n| match n {
            Node::Split { relations, .. } => Some(*relations),
            Node::Leaf(_) => None,
        });
        let first = splits.next().unwrap_or(LESS | EQUAL);
        splits.all(|r| r == first).then_some(first)
    }

    /// The target of each tree, where every leaf of a tree adds to the same one.
    pub(super) fn target_of_trees(&self) -> Option<Vec<usize>> {
        self.roots.iter().map(|&root| self.target_below(root)).collect()
    }

    fn target_below(&self, root: usize) -> Option<usize> {
        let mut target = None;
        let mut seen = std::collections::HashSet::new();
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            if !seen.insert(node) {
                continue;
            }
            match &self.nodes[node] {
                Node::Split { on_true, on_false, .. } => stack.extend([*on_true, *on_false]),
                Node::Leaf(weights) => {
                    for (t, _) in weights {
                        if *target.get_or_insert(*t) != *t {
                            return None;
                        }
                    }
                }
            }
        }
        Some(target.unwrap_or(0))
    }

    /// The node at a place of the complete tree below `root`: `path` says for each level, from its highest bit of `levels`
    /// down, if the true side is taken. A leaf stands for everything below it.
    pub(super) fn descend(&self, root: usize, levels: usize, path: usize) -> usize {
        let mut node = root;
        for level in (0..levels).rev() {
            match &self.nodes[node] {
                Node::Split { on_true, on_false, .. } => {
                    node = if path >> level & 1 == 1 { *on_true } else { *on_false };
                }
                Node::Leaf(_) => break,
            }
        }
        node
    }
}

/// The arrays of a traversal. Each node has a place; a leaf's `first` is its own place.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// The node of the forest at each place.
    pub(super) nodes: Vec<usize>,
    /// The place of the false child; the true child follows it.
    pub(super) first: Vec<usize>,
    /// Places of the nodes that were asked for.
    pub(super) starts: HashMap<usize, usize>,
}

impl Layout {
    /// Places for everything below the nodes `starts`, siblings together and trees level by level.
    pub(super) fn below(forest: &Forest, starts: impl IntoIterator<Item = usize>) -> Result<Layout, String> {
        let mut layout = Layout::default();
        for start in starts {
            if layout.starts.contains_key(&start) {
                continue;
            }
            let mut next = layout.nodes.len();
            layout.starts.insert(start, next);
            layout.nodes.push(start);
            while next < layout.nodes.len() {
                match &forest.nodes[layout.nodes[next]] {
                    Node::Leaf(_) => layout.first.push(next),
                    Node::Split { on_true, on_false, .. } => {
                        layout.first.push(layout.nodes.len());
                        layout.nodes.extend([*on_false, *on_true]);
                    }
                }
                if layout.nodes.len() > MAX_NODES {
                    return Err(format!("trees that share subtrees have more than {MAX_NODES} nodes when written out"));
                }
                next += 1;
            }
        }
        Ok(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(on_true: usize, on_false: usize) -> Node {
        Node::Split { feature: 0, threshold: 0.0, relations: LESS, on_true, on_false }
    }

    #[test]
    fn circles_and_missing_children_are_refused() {
        let leaf = || Node::Leaf(vec![(0, 1.0)]);
        let forest = |nodes| Forest::checked(nodes, vec![0], 1, 1);
        assert!(forest(vec![split(1, 2), leaf(), split(0, 1)]).is_err_and(|e| e.contains("below itself")));
        assert!(forest(vec![split(1, 3), leaf()]).is_err_and(|e| e.contains("does not exist")));
        assert!(forest(vec![Node::Leaf(vec![(1, 1.0)])]).is_err_and(|e| e.contains("target 1 of 1")));
        assert_eq!(forest(vec![split(1, 2), leaf(), split(1, 3), leaf()]).map(|f| f.depth), Ok(2));
    }

    #[test]
    fn children_lie_side_by_side_and_leaves_stay() {
        let nodes = vec![split(3, 1), split(2, 2), Node::Leaf(vec![]), Node::Leaf(vec![])];
        let forest = Forest::checked(nodes, vec![0], 1, 1).expect("a good forest");
        let layout = Layout::below(&forest, [0]).expect("it is small");
        assert_eq!(layout.nodes, [0, 1, 3, 2, 2]);
        assert_eq!(layout.first, [1, 3, 2, 3, 4]);
        assert_eq!([0, 1, 2, 3].map(|path| forest.descend(0, 2, path)), [2, 2, 3, 3]);
    }
}
