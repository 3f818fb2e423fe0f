//! The graph as petgraph sees it, and as Graphviz draws it.

use std::fmt::Write;

use cranelift_entity::EntityRef;
use petgraph::graph::{DiGraph, NodeIndex};

use super::{Graph, Node, Region, Value};

/// One region as a directed graph: an edge from each node to the nodes that use it, labelled with the value. For
/// dominators, cycle checks and drawings; nothing reads results back from it.
pub fn petgraph(graph: &Graph, region: Region) -> DiGraph<Node, Value> {
    let nodes = &graph.regions[region].nodes;
    let mut view = DiGraph::with_capacity(nodes.len(), nodes.len());
    let mut index: Vec<Option<NodeIndex>> = vec![None; graph.nodes.len()];
    for &node in nodes {
        index[node.index()] = Some(view.add_node(node));
    }
    for &node in nodes {
        for &input in &graph.nodes[node].inputs {
            let def = graph.def_node(input).and_then(|def| index[def.index()]);
            if let (Some(from), Some(to)) = (def, index[node.index()]) {
                view.add_edge(from, to, input);
            }
        }
    }
    view
}

/// The graph in Graphviz's language: one cluster per region, labels with operation, type and ONNX origin.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph model {\n  node [shape=box];\n");
    for region in graph.reachable_regions() {
        draw_region(graph, region, &mut out).expect("writing to a string succeeds");
    }
    out.push_str("}\n");
    out
}

fn draw_region(graph: &Graph, region: Region, out: &mut String) -> std::fmt::Result {
    writeln!(out, "  subgraph cluster_{region} {{\n    label=\"{region}\";")?;
    let data = &graph.regions[region];
    for &param in &data.params {
        writeln!(
            out,
            "    {param} [shape=ellipse, label=\"{param}: {}\"];",
            escape(&graph.type_text(graph.ty(param)))
        )?;
    }
    for &node in &data.nodes {
        let record = &graph.nodes[node];
        let types: Vec<String> = record.outputs.iter().map(|&v| graph.type_text(graph.ty(v))).collect();
        let origins: Vec<&str> = record.origins.iter().map(|&o| graph.origins[o].path.as_str()).collect();
        let label = format!("{}\n{}\n{}", record.op.name(), types.join(", "), origins.join(", "));
        writeln!(out, "    {node} [label=\"{}\"];", escape(&label))?;
    }
    writeln!(out, "  }}")?;
    for &node in &data.nodes {
        for &input in &graph.nodes[node].inputs {
            let from = graph.def_node(input).map_or_else(|| input.to_string(), |def| def.to_string());
            writeln!(out, "  {from} -> {node} [label=\"{input}\"];")?;
        }
        for inner in graph.nodes[node].op.regions() {
            if let Some(first) = graph.regions[inner].results.first() {
                let from = graph.def_node(*first).map_or_else(|| first.to_string(), |def| def.to_string());
                writeln!(out, "  {from} -> {node} [style=dashed];")?;
            }
        }
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::tensor::{Builder, OriginData, TensorType};

    #[test]
    fn draws_and_views_a_diamond() {
        let mut graph = Graph::new("t");
        let body = graph.body();
        let origin = graph.origins.push(OriginData { path: "say \"hi\"".into(), operator: "Add".into() });
        let x = graph.add_param(body, TensorType::fixed(DType::F32, &[2]));
        let mut b = Builder::new(&mut graph, body, [origin].as_slice());
        let (y, z) = (b.neg(x).expect("float"), b.abs(x).expect("float"));
        let sum = b.add(y, z).expect("same shapes");
        graph.regions[body].results.push(sum);
        let view = petgraph(&graph, body);
        assert_eq!((view.node_count(), view.edge_count()), (3, 2));
        assert!(!petgraph::algo::is_cyclic_directed(&view));
        let text = dot(&graph);
        assert!(text.contains(r#"n2 [label="elementwise\nf32[2]\nsay \"hi\""];"#), "{text}");
        assert!(text.contains("v0 -> n0") && text.contains("n1 -> n2"), "{text}");
    }
}
