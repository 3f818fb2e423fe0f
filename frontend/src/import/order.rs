//! The order in which a graph's nodes are imported.
//!
//! ONNX wants each node behind those whose results it uses. Converters that add casts at the ends of a graph do not keep to
//! that, and ONNX Runtime takes what they write: so nodes are put in order first. Lists that are in order stay as they are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::diverge::used_names;
use crate::proto::NodeProto;

/// The nodes, each behind those that it needs, otherwise as they come. Nodes that need each other come last: the first of
/// them uses a name that has no value then, which is an error of the import.
pub(super) fn in_order<'m>(nodes: &[&'m NodeProto]) -> Vec<&'m NodeProto> {
    let mut makers: HashMap<&str, usize> = HashMap::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            makers.entry(name).or_insert(i);
        }
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        let mut needs = |name: &str| {
            if let Some(&maker) = makers.get(name) {
                users[maker].push(i);
                missing[i] += 1;
            }
        };
        match node.attribute.iter().any(|a| a.g.is_some()) {
            true => used_names(node).iter().for_each(|name| needs(name)),
            false => node.input.iter().for_each(|name| needs(name)),
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|&i| missing[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    let mut taken = vec![false; nodes.len()];
    while let Some(Reverse(i)) = ready.pop() {
        order.push(nodes[i]);
        taken[i] = true;
        for &user in &users[i] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    order.extend((0..nodes.len()).filter(|&i| !taken[i]).map(|i| nodes[i]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect();
        NodeProto { name: name.into(), input: names(inputs), output: names(outputs), ..NodeProto::default() }
    }

    fn order(nodes: &[NodeProto]) -> String {
        in_order(&nodes.iter().collect::<Vec<_>>()).iter().map(|n| n.name.as_str()).collect()
    }

    #[test]
    fn nodes_come_behind_what_they_need() {
        let sorted = [node("a", &["x"], &["y", ""]), node("b", &["x", ""], &["z"]), node("c", &["y", "y"], &["w"])];
        assert_eq!(order(&sorted), "abc");
        let late = [node("a", &["y"], &["z"]), node("b", &["x"], &["w"]), node("c", &["x"], &["y"])];
        assert_eq!(order(&late), "bca");
    }

    #[test]
    fn nodes_in_a_circle_come_last() {
        let circle = [node("a", &["y"], &["z"]), node("b", &["z"], &["y"]), node("c", &["x"], &["w"])];
        assert_eq!(order(&circle), "cab");
    }
}
