//! The symbols of a program: those of the inputs' shapes come first, then those that steps bind.

use std::collections::{BTreeSet, HashMap};

use onnxc_ir::dim::{Dim, Symbol, Symbols};
use onnxc_ir::tensor::{Graph, Node, Op, Region};

use crate::passes::rewrite::{KeptState, PackedPorts};

/// The sizes of the graph's tensors that the symbols' ranges allow to be negative, each once.
pub(super) fn doubtful_sizes(graph: &Graph) -> Vec<Dim> {
    let mut sizes = Vec::new();
    for region in graph.reachable_regions() {
        let region = &graph.regions[region];
        let values = region.nodes.iter().flat_map(|&n| &graph.nodes[n].outputs).chain(&region.params);
        for dim in values.filter_map(|&v| graph.ty(v).as_tensor()).flat_map(|ty| &ty.shape) {
            if dim.as_const().is_none() && dim.bounds(&graph.symbols).0 < 0 && !sizes.contains(dim) {
                sizes.push(dim.clone());
            }
        }
    }
    sizes
}

/// The symbols that steps bind.
pub(super) struct Numbering {
    /// How many they are.
    pub(super) data_symbols: u32,
    /// Which of them count the iterations of loops.
    pub(super) iterations: HashMap<Node, Symbol>,
}

/// The body and the regions of branches and loops in it.
pub(super) fn control_regions(graph: &Graph) -> Vec<Region> {
    let mut all = vec![graph.body()];
    let mut next = 0;
    while let Some(&region) = all.get(next) {
        next += 1;
        let ops = graph.regions[region].nodes.iter().map(|&n| &graph.nodes[n].op);
        all.extend(ops.filter(|op| matches!(op, Op::If { .. } | Op::Loop { .. })).flat_map(Op::regions));
    }
    all
}

/// Numbers the symbols that the program needs: first those of the inputs' shapes, then those that data decides. Others,
/// such as those of a loop that was unrolled, go away.
pub(super) fn number_symbols(graph: &mut Graph, packed: &mut PackedPorts, states: &mut [KeptState]) -> Numbering {
    let mut iterations = HashMap::new();
    for region in control_regions(graph) {
        for node in graph.regions[region].nodes.clone() {
            if matches!(graph.nodes[node].op, Op::Loop { .. }) {
                iterations.insert(node, graph.symbols.fresh("iteration"));
            }
        }
    }
    let body = &graph.regions[graph.body()];
    let shapes = body.params.iter().filter_map(|&v| graph.ty(v).as_tensor()).flat_map(|ty| &ty.shape);
    let outside = packed.inputs.values().flat_map(|ty| &ty.shape);
    let named: BTreeSet<Symbol> = shapes.chain(outside).flat_map(Dim::symbols).collect();
    let mut order: Vec<Symbol> = named.into_iter().collect();
    let count = order.len();
    for region in control_regions(graph) {
        for &node in &graph.regions[region].nodes {
            order.extend(graph.nodes[node].op.own_sizes());
            order.extend(iterations.get(&node).copied());
        }
    }
    let data_symbols = (order.len() - count) as u32;
    if order.iter().copied().eq(graph.symbols.iter()) {
        return Numbering { data_symbols, iterations };
    }
    let mut symbols = Symbols::new();
    let mut renamed = HashMap::new();
    for &symbol in &order {
        let (low, high) = graph.symbols.bounds(symbol);
        let new = symbols.intern(graph.symbols.name(symbol));
        symbols.widen(new, low, high);
        renamed.insert(symbol, new);
    }
    // An assumption about what went away says nothing about the rest.
    graph.assumptions.retain(|(a, b)| a.symbols().chain(b.symbols()).all(|s| renamed.contains_key(&s)));
    let rename_dim = |dim: &Dim| {
        let rename = |s: Symbol| renamed.get(&s).copied().map(Dim::symbol);
        dim.substitute(rename).expect("symbols for symbols keep the size")
    };
    graph.map_dims(&rename_dim);
    let rooms = states.iter_mut().map(|state| &mut state.room);
    for ty in packed.inputs.values_mut().chain(packed.outputs.values_mut()).chain(rooms) {
        ty.shape.iter_mut().for_each(|d| *d = rename_dim(d));
    }
    let rename = |s: Symbol| renamed.get(&s).copied().unwrap_or(s);
    graph.nodes.values_mut().for_each(|data| data.op.rename_sizes(rename));
    iterations.values_mut().for_each(|s| *s = rename(*s));
    graph.symbols = symbols;
    Numbering { data_symbols, iterations }
}
