//! A graph for some values of its sizes.
//!
//! Before: a graph for every size, and the values that some of its named dimensions have. After: the graph with those values
//! in place of the symbols, and of those that the model says are equal to them. What is lowered from it computes the same
//! in a run whose inputs have these sizes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use onnxc_ir::dim::{Dim, Symbol};
use onnxc_ir::tensor::Graph;

use crate::passes::rewrite::PackedPorts;

/// Values of named dimensions that runs are expected to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeCase {
    /// Each dimension's name and value; no name twice.
    pub sizes: Vec<(String, i64)>,
}

impl fmt::Display for SizeCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, size)) in self.sizes.iter().enumerate() {
            write!(f, "{}{name}={size}", if n > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// The types of ports in `packed`, and those of others in `outside`.
pub fn merged_ports(packed: &PackedPorts, outside: &PackedPorts) -> PackedPorts {
    let mut all = outside.clone();
    all.inputs.extend(packed.inputs.clone());
    all.outputs.extend(packed.outputs.clone());
    all
}

/// The types of the ports as the caller sees them: `packed`, or those of the graph.
pub fn ports(graph: &Graph, packed: &PackedPorts) -> PackedPorts {
    let body = &graph.regions[graph.body()];
    let mut all = packed.clone();
    for (types, values) in [(&mut all.inputs, &body.params), (&mut all.outputs, &body.results)] {
        for (i, &value) in values.iter().enumerate() {
            if let Some(ty) = graph.ty(value).as_tensor() {
                types.entry(i).or_insert_with(|| ty.clone());
            }
        }
    }
    all
}

/// Puts the sizes of a case into a graph whose ports are `ports`. Gives the values of all symbols that went away, by name.
///
/// # Errors
/// In words, where the model has no such sizes.
pub fn specialize(graph: &mut Graph, ports: &PackedPorts, case: &SizeCase) -> Result<Vec<(String, i64)>, String> {
    let shapes = ports.inputs.values().flat_map(|ty| &ty.shape);
    let named: BTreeSet<Symbol> = shapes.flat_map(Dim::symbols).collect();
    let mut values = HashMap::new();
    for (name, size) in &case.sizes {
        let Some(symbol) = graph.symbols.lookup(name).filter(|s| named.contains(s)) else {
            let names: Vec<&str> = named.iter().map(|&s| graph.symbols.name(s)).collect();
            let all = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(format!("no input has a dimension `{name}` that varies; those that vary: {all}"));
        };
        let (low, high) = graph.symbols.bounds(symbol);
        if *size < low || *size > high {
            return Err(format!("`{name}` is in {low}..{high}"));
        }
        values.insert(symbol, *size);
    }
    // What the model says is equal to a size has its value too. Entry tests these equalities, unless data decides a side.
    loop {
        let before = values.len();
        for (left, right) in &graph.assumptions {
            let [left, right] = [left, right].map(|dim| put(dim, &values));
            for (one, other) in [(&left, &right), (&right, &left)] {
                if let (Some(symbol), Some(size)) = (one.as_symbol(), other.as_const())
                    && named.contains(&symbol)
                {
                    values.insert(symbol, size);
                }
            }
            if left.as_const().is_some_and(|l| right.as_const().is_some_and(|r| l != r)) {
                return Err("the model says of two sizes that they are equal, which then differ".to_owned());
            }
        }
        if values.len() == before {
            break;
        }
    }
    graph.map_dims(&|dim| put(dim, &values));
    let negative = |dim: &Dim| dim.as_const().is_some_and(|size| size < 0);
    let types = graph.values.values().filter_map(|value| value.ty.as_tensor());
    if types.flat_map(|ty| &ty.shape).any(negative) {
        return Err("a tensor would have a size below 0".to_owned());
    }
    Ok(values.into_iter().map(|(symbol, size)| (graph.symbols.name(symbol).to_owned(), size)).collect())
}

/// A dimension with values for some symbols. One that outgrows the limits keeps its symbols, which a run knows too.
pub fn put(dim: &Dim, values: &HashMap<Symbol, i64>) -> Dim {
    dim.substitute(|s| values.get(&s).copied().map(Dim::from)).unwrap_or_else(|_| dim.clone())
}
