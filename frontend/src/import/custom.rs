//! Operators that a user binds to C functions of their own: `DOMAIN:NAME=SYMBOL`.
//!
//! The shapes of the results are those that the model states (its `value_info` or its outputs), in numbers or in the names
//! of dimensions of its inputs; where it states none, they are an input's if the binding says so.

use std::collections::HashMap;
use std::str::FromStr;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::{Attribute, External, Op, TensorType, Type, Value};

use super::{DimSetting, ImportOptions, NodeContext, OpError, OpResult};
use crate::ops;
use crate::proto::{AttributeProto, DimensionValue, GraphProto, TypeTensor, TypeValue, dtype_from_onnx};

/// An operator and the C function that computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomOperator {
    /// The operator's domain; empty or `ai.onnx` for that of ONNX.
    pub domain: String,
    /// The operator's name.
    pub name: String,
    /// The function, an `onnxc_operator_fn` of `onnxc.h`.
    pub symbol: String,
    /// The input whose type a result has of which the model does not state the shape.
    pub like: Option<usize>,
}

/// Names that no user's function can have.
const RESERVED: [&str; 3] = ["memcpy", "memmove", "memset"];

impl FromStr for CustomOperator {
    type Err = String;

    /// `DOMAIN:NAME=SYMBOL`, with `,like=INPUT` behind it or not.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write DOMAIN:NAME=SYMBOL or DOMAIN:NAME=SYMBOL,like=INPUT";
        let (operator, function) = text.split_once('=').ok_or(form)?;
        let (domain, name) = operator.rsplit_once(':').ok_or(form)?;
        let (symbol, like) = match function.split_once(",like=") {
            Some((symbol, input)) => (symbol, Some(input.parse().map_err(|_| form)?)),
            None => (function, None),
        };
        let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        let identifier = symbol.starts_with(letter) && symbol.chars().all(|c| letter(c) || c.is_ascii_digit());
        if name.is_empty() || !identifier {
            return Err(form.to_owned());
        }
        if RESERVED.contains(&symbol) || symbol.starts_with("onnxc_") {
            return Err(format!("`{symbol}` is not the name of a user's function"));
        }
        let domain = ops::canonical_domain(domain).to_owned();
        Ok(CustomOperator { domain, name: name.to_owned(), symbol: symbol.to_owned(), like })
    }
}

/// The types that the model states for the values of its graph, by name.
pub(super) type Stated<'m> = HashMap<&'m str, &'m TypeTensor>;

/// What a graph and the graphs in it state.
pub(super) fn stated_types<'m>(graph: &'m GraphProto, stated: &mut Stated<'m>) {
    for info in graph.value_info.iter().chain(&graph.output) {
        if let Some(TypeValue::TensorType(ty)) = info.r#type.as_deref().and_then(|t| t.value.as_ref()) {
            stated.entry(&info.name).or_insert(ty);
        }
    }
    let attributes = graph.node.iter().flat_map(|n| &n.attribute);
    attributes.filter_map(|a| a.g.as_deref()).for_each(|inner| stated_types(inner, stated));
}

/// The binding of an operator.
pub(super) fn binding<'o>(options: &'o ImportOptions, domain: &str, name: &str) -> Option<&'o CustomOperator> {
    options.custom.iter().find(|c| c.domain == domain && c.name == name)
}

/// A call of the function.
pub(super) fn import(cx: &mut NodeContext<'_>, custom: &CustomOperator) -> OpResult {
    let mut inputs = Vec::new();
    for n in 0..cx.input_count() {
        let Some(value) = cx.optional(n) else { continue };
        if cx.held(value).is_some() {
            return cx.unsupported(format!("input {n} is no tensor: a function takes tensors"));
        }
        check_dtype(cx, cx.b.dtype(value)?)?;
        inputs.push(value);
    }
    let attributes = cx.node.attribute.iter().map(|a| attribute(cx, a)).collect::<Result<Vec<_>, _>>()?;
    // Outputs that are left out at the end are none.
    let named = cx.node.output.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    if named == 0 {
        return cx.invalid("has no outputs");
    }
    let mut types: Vec<Type> = Vec::new();
    for n in 0..named {
        let ty = result_type(cx, custom, n)?;
        check_dtype(cx, ty.dtype)?;
        types.push(ty.into());
    }
    let external = External {
        symbol: custom.symbol.clone(),
        operator: ops::qualified_name(&custom.domain, &custom.name),
        present: (0..cx.input_count()).map(|n| cx.optional(n).is_some()).collect(),
        results: types.iter().filter_map(Type::as_tensor).map(|ty| ty.dtype).collect(),
        attributes,
    };
    let node = cx.b.node(Op::External(external), &inputs, &types)?;
    Ok(cx.b.graph.nodes[node].outputs.to_vec())
}

/// Elements that C has no type for, or whose memory a tensor view does not describe, stay inside of the model.
fn check_dtype(cx: &NodeContext<'_>, dtype: DType) -> Result<(), OpError> {
    if dtype.bits() < 8 || matches!(dtype, DType::String | DType::C64 | DType::C128) {
        return cx.unsupported(format!("a function cannot be given elements of type {dtype}"));
    }
    Ok(())
}

fn attribute(cx: &NodeContext<'_>, proto: &AttributeProto) -> Result<(String, Attribute), OpError> {
    let texts = |texts: &mut dyn Iterator<Item = &[u8]>| -> Option<Vec<String>> {
        texts.map(|t| std::str::from_utf8(t).ok().filter(|t| !t.contains('\0')).map(str::to_owned)).collect()
    };
    const TENSORS_AND_GRAPHS: [i32; 8] = [4, 5, 9, 10, 11, 12, 13, 14];
    let value = match proto {
        AttributeProto { r#type, .. } if TENSORS_AND_GRAPHS.contains(r#type) => None,
        AttributeProto { t: Some(_), .. } | AttributeProto { g: Some(_), .. } => None,
        AttributeProto { i: Some(i), r#type: 0 | 2, .. } => Some(Attribute::Ints(vec![*i])),
        AttributeProto { f: Some(f), r#type: 0 | 1, .. } => Some(Attribute::Floats(vec![f.to_bits()])),
        AttributeProto { s: Some(s), r#type: 0 | 3, .. } => texts(&mut std::iter::once(&s[..])).map(Attribute::Texts),
        AttributeProto { floats, r#type, .. } if *r#type == 6 || !floats.is_empty() => {
            Some(Attribute::Floats(floats.iter().map(|f| f.to_bits()).collect()))
        }
        AttributeProto { strings, r#type, .. } if *r#type == 8 || !strings.is_empty() => {
            texts(&mut strings.iter().map(|s| &s[..])).map(Attribute::Texts)
        }
        // A number whose value is 0 is left out of the file.
        AttributeProto { r#type: 1, .. } => Some(Attribute::Floats(vec![0])),
        AttributeProto { r#type: 2, .. } => Some(Attribute::Ints(vec![0])),
        AttributeProto { r#type: 3, .. } => Some(Attribute::Texts(vec![String::new()])),
        AttributeProto { ints, .. } => Some(Attribute::Ints(ints.clone())),
    };
    match value {
        Some(value) => Ok((proto.name.clone(), value)),
        None => cx.unsupported(format!(
            "attribute `{}`: a function takes numbers and UTF-8 texts; tensors are inputs",
            proto.name
        )),
    }
}

/// The type of a result: what the model states, or the type of the input that the binding names.
fn result_type(cx: &mut NodeContext<'_>, custom: &CustomOperator, n: usize) -> Result<TensorType, OpError> {
    let name = &cx.node.output[n];
    let stated = cx.stated_type(name);
    let shape = stated.and_then(|ty| stated_shape(cx, ty));
    if let (Some(ty), Some(shape)) = (stated, &shape) {
        return match dtype_from_onnx(ty.elem_type) {
            Some(dtype) => Ok(TensorType::new(dtype, shape.iter().cloned())),
            None => cx.invalid(format!("output `{name}` has the unknown element type {}", ty.elem_type)),
        };
    }
    let like: Option<Value> = custom.like.and_then(|input| cx.optional(input));
    match (like, custom.like) {
        (Some(input), _) => Ok(cx.b.tensor(input)?.clone()),
        (None, Some(input)) => cx.invalid(format!("output `{name}` is like input {input}, which is missing")),
        (None, None) => cx.unsupported(format!(
            "the shape of output `{name}` is not known: state it in the model's value_info, in numbers or in dimensions \
             of the inputs, or bind the operator with `{}:{}={},like=INPUT`",
            custom.domain, custom.name, custom.symbol
        )),
    }
}

/// A shape in numbers and dimensions of the model's inputs.
fn stated_shape(cx: &NodeContext<'_>, ty: &TypeTensor) -> Option<Vec<Dim>> {
    let graph = &cx.b.graph;
    let params = &graph.regions[graph.body()].params;
    let of_inputs = |dim: &Dim| params.iter().filter_map(|&v| graph.ty(v).as_tensor()).any(|t| t.shape.contains(dim));
    let dim = |value: &Option<DimensionValue>| match value {
        Some(DimensionValue::DimValue(n)) if *n >= 0 => Some(Dim::from(*n)),
        Some(DimensionValue::DimParam(name)) => match cx.options().dims.get(name) {
            Some(DimSetting::Fixed(n)) => Some(Dim::from(*n)),
            _ => graph.symbols.lookup(name).map(Dim::symbol).filter(of_inputs),
        },
        _ => None,
    };
    ty.shape.as_ref()?.dim.iter().map(|d| dim(&d.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_read() {
        let custom = |text: &str| text.parse::<CustomOperator>();
        let bound = custom("my.ops:Blur=blur_2d").unwrap();
        assert_eq!((bound.domain.as_str(), bound.name.as_str(), bound.symbol.as_str()), ("my.ops", "Blur", "blur_2d"));
        assert_eq!(bound.like, None);
        assert_eq!(custom("ai.onnx:Relu=my_relu,like=1").map(|c| (c.domain, c.like)), Ok((String::new(), Some(1))));
        for wrong in ["Blur=blur", "my.ops:Blur", "d:=f", "d:N=", "d:N=1f", "d:N=f-g", "d:N=f,like=x"] {
            assert!(custom(wrong).unwrap_err().contains("write DOMAIN:NAME=SYMBOL"), "{wrong}");
        }
        assert!(custom("d:N=memcpy").unwrap_err().contains("not the name"));
        assert!(custom("d:N=onnxc_run").unwrap_err().contains("not the name"));
    }
}
