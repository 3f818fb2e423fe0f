//! What a user's functions are told about their nodes, as data: `onnxc_operator` with its attributes, see `onnxc.h`.

use onnxc_ir::program::{Program, Step};
use onnxc_ir::tensor::{Attribute, External};

use super::compile::Strings;
use crate::object::DataObject;

/// The symbol of the description that the step of this number hands over.
pub fn operator_symbol(prefix: &str, step: usize) -> String {
    format!("{prefix}__op{step}")
}

/// The functions that the program calls, each once.
pub fn external_symbols(program: &Program) -> Vec<String> {
    let mut symbols: Vec<String> =
        program.all_steps().into_iter().filter_map(external).map(|e| e.symbol.clone()).collect();
    symbols.sort_unstable();
    symbols.dedup();
    symbols
}

fn external(step: &Step) -> Option<&External> {
    if let Step::Call(call) = step { Some(&call.external) } else { None }
}

/// The descriptions of all calls.
pub fn operators(program: &Program, strings: &mut Strings<'_>) -> Vec<DataObject> {
    let mut objects = Vec::new();
    for (number, step) in program.all_steps().into_iter().enumerate() {
        let Some(external) = external(step) else { continue };
        let symbol = operator_symbol(&program.name, number);
        let mut attributes = DataObject::new(format!("{symbol}_attributes"));
        for (i, (name, value)) in external.attributes.iter().enumerate() {
            let mut values = DataObject::new(format!("{symbol}_values{i}"));
            let (kind, count) = match value {
                Attribute::Ints(list) => {
                    for &x in list {
                        values.put_u64(x as u64);
                    }
                    (1, list.len())
                }
                Attribute::Floats(list) => {
                    for &bits in list {
                        values.put_u32(bits);
                    }
                    (2, list.len())
                }
                Attribute::Texts(list) => {
                    for text in list {
                        values.put_pointer(strings.add(text), 0);
                    }
                    (3, list.len())
                }
            };
            // A list without elements is no NULL pointer.
            if count == 0 {
                values.put_u64(0);
            }
            attributes.put_pointer(strings.add(name), 0).put_u32(kind).put_u32(0).put_u64(count as u64);
            attributes.put_pointer(values.name.clone(), 0);
            objects.push(values);
        }
        let node = step.origins().first().map_or("", |&o| program.origins[o].path.as_str());
        let (name, node) = (strings.add(&external.operator), strings.add(node));
        let mut operator = DataObject::new(symbol);
        operator.put_pointer(name, 0).put_pointer(node, 0);
        if attributes.bytes.is_empty() {
            operator.put_u64(0);
        } else {
            operator.put_pointer(attributes.name.clone(), 0);
            objects.push(attributes);
        }
        operator.put_u32(external.attributes.len() as u32).put_u32(0);
        objects.push(operator);
    }
    objects
}
