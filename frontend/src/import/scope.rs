//! Names in force while a graph is imported. Subgraphs see the names around them; because regions are closed, what
//! they use of them becomes a capture, except for constants, which every region can have for itself.

use std::collections::HashMap;

use onnxc_ir::tensor::{Builder, Constant, Op, Value};

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Binding {
    /// A value of this region.
    Value(Value),
    /// A constant that no node of this region holds yet.
    Constant(Constant),
    /// Something the compiler does not support; the text says what.
    Unsupported(&'static str),
    /// The result of a node that could not be imported.
    Poisoned,
}

/// The names of one graph.
#[derive(Default)]
pub(crate) struct Scope {
    names: HashMap<String, Binding>,
}

impl Scope {
    /// A scope without names.
    pub(crate) fn root() -> Scope {
        Scope::default()
    }

    /// Gives a name a meaning, instead of what it had.
    pub(crate) fn bind(&mut self, name: &str, binding: Binding) {
        self.names.insert(name.to_owned(), binding);
    }

    /// Whether the name has a meaning.
    pub(crate) fn binds(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// What the name stands for.
    pub(crate) fn lookup(&self, name: &str) -> Option<Binding> {
        self.names.get(name).copied()
    }

    /// The value of the name in the builder's region. A constant gets its node on the first use.
    pub(crate) fn value(&mut self, b: &mut Builder<'_>, name: &str) -> Option<Value> {
        match self.lookup(name)? {
            Binding::Value(value) => Some(value),
            Binding::Constant(constant) => {
                let value = b.constant_node(constant);
                self.bind(name, Binding::Value(value));
                Some(value)
            }
            Binding::Unsupported(_) | Binding::Poisoned => None,
        }
    }

    /// The binding as an inner graph gets it: a constant stays one.
    pub(crate) fn for_capture(&self, b: &Builder<'_>, name: &str) -> Option<Binding> {
        match self.lookup(name)? {
            Binding::Value(value) => match b.graph.def_node(value).map(|n| &b.graph.nodes[n].op) {
                Some(Op::Constant(c)) => Some(Binding::Constant(*c)),
                _ => Some(Binding::Value(value)),
            },
            other => Some(other),
        }
    }
}
