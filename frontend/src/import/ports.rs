//! Inputs and outputs of a model: their declared types as the IR has them.

use std::collections::HashMap;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::{Graph, TensorType, Type, Value};

use super::lists::Held;
use super::nodes::check_size;
use super::{DimSetting, NodeProblem, OpError, Shared};
use crate::proto::{DimensionValue, TensorShapeProto, TypeProto, TypeValue, ValueInfoProto, dtype_from_onnx};

/// The value of an input: a parameter of the graph, or as many as there are tensors in it. `None`, with a problem, where
/// nobody says how many there are.
pub(super) fn input_value(
    graph: &mut Graph,
    shared: &Shared<'_>,
    name: &str,
    proto: &TypeProto,
    dims: &HashMap<String, DimSetting>,
) -> Result<Option<Value>, OpError> {
    let length = match dims.get(name) {
        Some(DimSetting::Fixed(n)) => Some(*n),
        Some(DimSetting::Range(..)) | None => None,
    };
    let refuse = |message: String| {
        let (node, operator) = (format!("input `{name}`"), "Input".to_owned());
        shared.problems.borrow_mut().push(NodeProblem { node, operator, opset: 0, invalid: false, message });
        Ok(None)
    };
    let held = match &proto.value {
        Some(TypeValue::SequenceType(t)) => {
            let mut element = t.elem_type.clone().ok_or_else(|| OpError::Invalid("is a sequence of no type".into()))?;
            forget_names(&mut element);
            let Some(length @ 0..=MAX_LENGTH) = length else {
                return refuse(format!("the length of the sequence has to be known: set it with --dim {name}=N"));
            };
            let mut items = Vec::new();
            for i in 0..length {
                let Some(item) = input_value(graph, shared, &format!("{name}#{i}"), &element, dims)? else {
                    return Ok(None);
                };
                items.push(item);
            }
            Held::Sequence(items)
        }
        Some(TypeValue::OptionalType(t)) => {
            let element = t.elem_type.as_deref().ok_or_else(|| OpError::Invalid("is an optional of no type".into()))?;
            // An optional sequence has its length under the name of an element.
            let tensor = matches!(element.value, Some(TypeValue::TensorType(_)));
            let inner = if tensor { name.to_owned() } else { format!("{name}#0") };
            match length {
                Some(0) => Held::Optional(None),
                Some(1) => match input_value(graph, shared, &inner, element, dims)? {
                    Some(value) => Held::Optional(Some(value)),
                    None => return Ok(None),
                },
                _ => {
                    let message = format!("an optional input is there or not: set --dim {name}=1 or {name}=0");
                    return refuse(message);
                }
            }
        }
        _ => match type_from_proto(graph, proto, name, dims)? {
            Type::Tensor(ty) => {
                check_size(graph, &ty)?;
                let body = graph.body();
                graph.input_names.push(name.to_owned());
                return Ok(Some(graph.add_param(body, ty)));
            }
            _ => return refuse("maps: neither ports nor values of a compiled model can be one".to_owned()),
        },
    };
    let first = match &held {
        Held::Sequence(items) => items.first().copied(),
        Held::Optional(inner) => *inner,
    };
    let element = first.map_or_else(|| TensorType::new(DType::F32, []).into(), |v| graph.ty(v).clone());
    Ok(Some(shared.lists.hold(graph, held, element)))
}

/// Takes the names of dimensions away: a name in the type of a sequence's elements is not one size for all of them.
fn forget_names(proto: &mut TypeProto) {
    match &mut proto.value {
        Some(TypeValue::TensorType(t)) => {
            let dims = t.shape.iter_mut().flat_map(|s| &mut s.dim);
            dims.filter(|d| matches!(d.value, Some(DimensionValue::DimParam(_)))).for_each(|d| d.value = None);
        }
        Some(TypeValue::SequenceType(t)) => t.elem_type.iter_mut().for_each(|e| forget_names(e)),
        Some(TypeValue::OptionalType(t)) => t.elem_type.iter_mut().for_each(|e| forget_names(e)),
        Some(TypeValue::MapType(_) | TypeValue::SparseTensorType(_) | TypeValue::OpaqueType(_)) | None => {}
    }
}

/// The longest sequence that an input may be.
const MAX_LENGTH: i64 = 4096;

/// A type as the IR has it. Names of dimensions become symbols; `name` names dimensions that have no name. A tensor without
/// declared rank has as many dimensions as `dims` sets.
fn type_from_proto(
    graph: &mut Graph,
    proto: &TypeProto,
    name: &str,
    dims: &HashMap<String, DimSetting>,
) -> Result<Type, OpError> {
    let invalid = |message: &str| OpError::Invalid(message.into());
    let unsupported = |message: &str| OpError::Unsupported(message.into());
    match &proto.value {
        Some(TypeValue::TensorType(t)) => {
            let dtype = dtype_from_onnx(t.elem_type)
                .ok_or_else(|| invalid(&format!("has the unknown element type {}", t.elem_type)))?;
            let unranked = || {
                let set = (0..).take_while(|i| dims.contains_key(&format!("{name}_dim{i}"))).count();
                let shape = TensorShapeProto { dim: vec![Default::default(); set] };
                (set > 0).then_some(std::borrow::Cow::Owned(shape))
            };
            let rank = "has no declared rank; onnxc needs the number of dimensions of each input";
            let shape = t.shape.as_ref().map(std::borrow::Cow::Borrowed).or_else(unranked);
            let shape = shape.ok_or_else(|| unsupported(rank))?;
            let mut ty = TensorType::new(dtype, []);
            for (i, dim) in shape.dim.iter().enumerate() {
                let symbol = match &dim.value {
                    Some(DimensionValue::DimValue(n)) if *n >= 0 => {
                        ty.shape.push(Dim::from(*n));
                        continue;
                    }
                    Some(DimensionValue::DimParam(param)) if !param.is_empty() => match dims.get(param) {
                        Some(DimSetting::Fixed(n)) => {
                            ty.shape.push(Dim::from(*n));
                            continue;
                        }
                        _ => graph.symbols.intern(param),
                    },
                    _ => {
                        let symbol = format!("{name}_dim{i}");
                        if let Some(DimSetting::Fixed(n)) = dims.get(&symbol) {
                            ty.shape.push(Dim::from(*n));
                            continue;
                        }
                        graph.symbols.intern(&symbol)
                    }
                };
                ty.shape.push(Dim::from(symbol));
            }
            Ok(ty.into())
        }
        Some(TypeValue::SequenceType(t)) => {
            let element = t.elem_type.as_deref().ok_or_else(|| invalid("is a sequence of no type"))?;
            Ok(Type::Sequence(Box::new(type_from_proto(graph, element, name, dims)?)))
        }
        Some(TypeValue::OptionalType(t)) => {
            let element = t.elem_type.as_deref().ok_or_else(|| invalid("is an optional of no type"))?;
            Ok(Type::Optional(Box::new(type_from_proto(graph, element, name, dims)?)))
        }
        Some(TypeValue::MapType(t)) => {
            let key = dtype_from_onnx(t.key_type)
                .ok_or_else(|| invalid(&format!("has the unknown key type {}", t.key_type)))?;
            let value = t.value_type.as_deref().ok_or_else(|| invalid("is a map to no type"))?;
            Ok(Type::Map(key, Box::new(type_from_proto(graph, value, name, dims)?)))
        }
        Some(TypeValue::SparseTensorType(_)) => Err(unsupported("is a sparse tensor")),
        Some(TypeValue::OpaqueType(t)) => Err(unsupported(&format!("has the opaque type {}.{}", t.domain, t.name))),
        None => Err(invalid("has no type")),
    }
}

/// Declared output types are hints: what was inferred holds, and a contradiction is worth a warning.
pub(super) fn compare_declared(graph: &Graph, shared: &Shared<'_>, info: &ValueInfoProto, value: Value) {
    let Some(TypeValue::TensorType(t)) = info.r#type.as_deref().and_then(|t| t.value.as_ref()) else { return };
    let Some(ty) = graph.ty(value).as_tensor() else { return };
    let warn = |message: String| shared.warnings.borrow_mut().push(format!("output `{}`: {message}", info.name));
    if let Some(declared) = dtype_from_onnx(t.elem_type).filter(|d| *d != ty.dtype) {
        warn(format!("declared as {declared}, computed as {}", ty.dtype));
    }
    let Some(shape) = &t.shape else { return };
    if shape.dim.len() != ty.rank() {
        warn(format!("declared with {} dimensions, computed with {}", shape.dim.len(), ty.rank()));
        return;
    }
    for (i, (dim, computed)) in shape.dim.iter().zip(&ty.shape).enumerate() {
        if let (Some(DimensionValue::DimValue(n)), Some(c)) = (&dim.value, computed.as_const())
            && *n != c
        {
            warn(format!("dimension {i} is declared as {n}, computed as {c}"));
        }
    }
}
