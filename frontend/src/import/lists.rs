//! Sequences and optionals while a model is imported: lists of values whose length is known. The graph holds tensors only.
//!
//! A value that is no tensor is a *stand-in*: a value of the graph without a definition that anything reaches, so that
//! operators pass it on like a tensor. [`Lists`] says what each stands for. Where values cross into a region or out of the
//! model, a stand-in is taken apart into its tensors and put together again on the other side.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use onnxc_ir::tensor::{Graph, Region, Type, Value};

/// What a stand-in stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// A list.
    Sequence(Vec<Value>),
    /// A value, or nothing.
    Optional(Option<Value>),
}

/// How a value is made of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Structure {
    /// It is one.
    Tensor,
    /// A list of this length.
    Sequence(Vec<Structure>),
    /// A value, or nothing.
    Optional(Option<Box<Structure>>),
}

/// The stand-ins of a model.
#[derive(Default)]
pub(crate) struct Lists {
    held: RefCell<HashMap<Value, Held>>,
    /// Holds the stand-ins as parameters; no operation owns it.
    region: Cell<Option<Region>>,
}

impl Lists {
    /// A stand-in. `element` is the type of an element of the list, or of the optional value.
    pub(crate) fn hold(&self, graph: &mut Graph, held: Held, element: Type) -> Value {
        let region = self.region.get().unwrap_or_else(|| graph.add_region());
        self.region.set(Some(region));
        let element = Box::new(element);
        let ty = match held {
            Held::Sequence(_) => Type::Sequence(element),
            Held::Optional(_) => Type::Optional(element),
        };
        let value = graph.add_param(region, ty);
        self.held.borrow_mut().insert(value, held);
        value
    }

    /// What the value stands for; `None` for tensors.
    pub(crate) fn get(&self, value: Value) -> Option<Held> {
        self.held.borrow().get(&value).cloned()
    }

    /// How the value is made, with its tensors appended to `tensors`.
    pub(crate) fn take_apart(&self, value: Value, tensors: &mut Vec<Value>) -> Structure {
        match self.get(value) {
            None => {
                tensors.push(value);
                Structure::Tensor
            }
            Some(Held::Sequence(items)) => {
                Structure::Sequence(items.into_iter().map(|v| self.take_apart(v, tensors)).collect())
            }
            Some(Held::Optional(inner)) => Structure::Optional(inner.map(|v| Box::new(self.take_apart(v, tensors)))),
        }
    }

    /// A value like `model`, made of the next `tensors`.
    ///
    /// # Panics
    /// If there are too few.
    pub(crate) fn put_together(
        &self,
        graph: &mut Graph,
        model: Value,
        tensors: &mut dyn Iterator<Item = Value>,
    ) -> Value {
        let held = match self.get(model) {
            None => return tensors.next().expect("as many tensors as the model was taken apart into"),
            Some(Held::Sequence(items)) => {
                Held::Sequence(items.into_iter().map(|v| self.put_together(graph, v, tensors)).collect())
            }
            Some(Held::Optional(inner)) => Held::Optional(inner.map(|v| self.put_together(graph, v, tensors))),
        };
        let element = match graph.ty(model) {
            Type::Sequence(element) | Type::Optional(element) => (**element).clone(),
            other => other.clone(),
        };
        self.hold(graph, held, element)
    }
}

impl Structure {
    /// What the tensors of a port are called: the port's name, and for a list's elements `#` and their position.
    pub fn names(&self, name: &str, names: &mut Vec<String>) {
        match self {
            Structure::Tensor => names.push(name.to_owned()),
            Structure::Sequence(items) => {
                items.iter().enumerate().for_each(|(i, s)| s.names(&format!("{name}#{i}"), names));
            }
            Structure::Optional(inner) => inner.iter().for_each(|s| s.names(name, names)),
        }
    }
}
