//! After rewriting: replaced values are gone from the graph, what nobody needs too, and every node stands behind what it
//! needs.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use smallvec::SmallVec;

use super::{Graph, Node, Region};
use crate::dim::Symbol;

impl Graph {
    /// Applies the replacements, removes nodes that no result needs and sorts each region so that definitions come
    /// before uses, otherwise keeping the order. Linear in the size of the graph.
    ///
    /// # Panics
    /// If a replacement made a node depend on itself.
    pub fn commit(&mut self) {
        let regions: Vec<Region> = self.reachable_regions();
        for region in regions {
            let data = &self.regions[region];
            let nodes = data.nodes.clone();
            let mut results = data.results.clone();
            results.iter_mut().for_each(|v| *v = self.resolve(*v));
            for &node in &nodes {
                let mut inputs = std::mem::take(&mut self.nodes[node].inputs);
                inputs.iter_mut().for_each(|v| *v = self.resolve(*v));
                self.nodes[node].inputs = inputs;
            }
            self.regions[region].results = results;
            self.regions[region].nodes = self.sorted_live_nodes(region, &nodes);
        }
        self.replaced.clear();
    }

    /// Depth-first post-order from the results, visiting candidates in their present order, so that an already sorted
    /// region keeps its order exactly.
    fn sorted_live_nodes(&self, region: Region, nodes: &[Node]) -> Vec<Node> {
        let binders = self.size_binders(nodes);
        let mut live: SecondaryMap<Node, bool> = SecondaryMap::with_capacity(self.nodes.len());
        let mut stack: Vec<Node> = self.regions[region].results.iter().filter_map(|&v| self.def_node(v)).collect();
        stack.extend(nodes.iter().copied().filter(|&n| self.nodes[n].op.has_effect()));
        while let Some(node) = stack.pop() {
            if !std::mem::replace(&mut live[node], true) {
                stack.extend(self.nodes[node].inputs.iter().filter_map(|&v| self.def_node(v)));
                stack.extend(self.binders_of(node, &binders));
            }
        }
        let mut order = Vec::with_capacity(nodes.len());
        let mut entered: SecondaryMap<Node, bool> = SecondaryMap::with_capacity(self.nodes.len());
        let mut done: SecondaryMap<Node, bool> = SecondaryMap::with_capacity(self.nodes.len());
        for &root in nodes.iter().filter(|&&n| live[n]) {
            if std::mem::replace(&mut entered[root], true) {
                continue;
            }
            // An explicit stack, because chains are long: (node, next input to visit). After the inputs come the nodes
            // that bind the sizes which the node mentions.
            let mut stack = vec![(root, 0usize)];
            while let Some((node, next)) = stack.pop() {
                let inputs = &self.nodes[node].inputs;
                let def = match inputs.get(next) {
                    Some(&input) => self.def_node(input),
                    None => match self.binders_of(node, &binders).get(next - inputs.len()) {
                        Some(&binder) => Some(binder),
                        None => {
                            done[node] = true;
                            order.push(node);
                            continue;
                        }
                    },
                };
                stack.push((node, next + 1));
                if let Some(def) = def
                    && !done[def]
                {
                    assert!(!std::mem::replace(&mut entered[def], true), "{def} depends on itself");
                    stack.push((def, 0));
                }
            }
        }
        order
    }

    /// The nodes of a region that bind sizes, by symbol.
    fn size_binders(&self, nodes: &[Node]) -> HashMap<Symbol, Node> {
        let mut binders = HashMap::new();
        for &node in nodes {
            binders.extend(self.nodes[node].op.bound_sizes().iter().map(|&s| (s, node)));
        }
        binders
    }

    /// The nodes that bind what a node mentions, also in its regions, but itself.
    fn binders_of(&self, node: Node, binders: &HashMap<Symbol, Node>) -> SmallVec<[Node; 2]> {
        let mut found = SmallVec::new();
        if !binders.is_empty() {
            self.each_dim(node, &mut |dim| {
                for binder in dim.symbols().filter_map(|s| binders.get(&s).copied()) {
                    if binder != node && !found.contains(&binder) {
                        found.push(binder);
                    }
                }
            });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, OriginData, TensorType};
    use super::*;
    use crate::dtype::DType;

    #[test]
    fn commit_replaces_sorts_and_drops() {
        let mut graph = Graph::new("t");
        let body = graph.body();
        let origin = graph.origins.push(OriginData { path: "a".into(), operator: "A".into() });
        let x = graph.add_param(body, TensorType::fixed(DType::F32, &[2]));
        let mut b = Builder::new(&mut graph, body, [origin].as_slice());
        let old = b.neg(x).expect("float");
        let user = b.abs(old).expect("float");
        let last = b.exp(user).expect("float");
        let first = b.sqrt(x).expect("float");
        let new = b.floor(first).expect("float");
        graph.regions[body].results.push(last);
        graph.replace(old, new);
        graph.commit();
        let defs: Vec<Node> = [first, new, user, last].iter().filter_map(|&v| graph.def_node(v)).collect();
        assert_eq!(graph.regions[body].nodes, defs);
        assert_eq!(graph.nodes[defs[2]].inputs[..], [new]);
        assert_eq!(graph.use_counts()[new], 1);
        // Nothing is left to do: a second commit changes nothing.
        graph.commit();
        assert_eq!(graph.regions[body].nodes, defs);
    }

    #[test]
    #[should_panic(expected = "depends on itself")]
    fn commit_refuses_cycles() {
        let mut graph = Graph::new("t");
        let body = graph.body();
        let origin = graph.origins.push(OriginData { path: "a".into(), operator: "A".into() });
        let x = graph.add_param(body, TensorType::fixed(DType::F32, &[2]));
        let mut b = Builder::new(&mut graph, body, [origin].as_slice());
        let y = b.neg(x).expect("float");
        let z = b.abs(y).expect("float");
        graph.regions[body].results.push(z);
        graph.replace(y, z);
        graph.commit();
    }
}
