//! Makes numbers of strings.
//!
//! Before: `y = concat 0 (x, c): string[4]` over an input `x: string[3]` of the model. After: the input is the pairs of offset
//! and length that the caller gives, `i64[3, 2]`; `strings onnxc_strings_enter` makes of it `i64[3]`, the numbers
//! of the strings in the run's table, and everything after works on those. Results that are strings leave through
//! `onnxc_strings_leave`. The types that the caller sees stay in [`PackedPorts`](super::rewrite::PackedPorts).
//!
//! Afterwards no value is of type `string`.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{Scalar, ScalarExpr, ScalarInst};
use onnxc_ir::strings::StringFunction;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Builder, ConstantSource, Graph, Op, OriginData, TensorType, Type, Value};

use super::rewrite::PassContext;

/// Runs the pass on all regions.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let has_strings = |ty: &Type| matches!(ty, Type::Tensor(t) if t.dtype == DType::String);
    if !graph.values.values().any(|value| has_strings(&value.ty)) {
        return;
    }
    if refuse_arithmetic(graph, cx) {
        return;
    }
    let body = graph.body();
    let ports = |graph: &Graph, values: &[Value]| -> Vec<(usize, TensorType)> {
        let types = values.iter().enumerate().filter_map(|(i, &v)| Some((i, graph.ty(v).as_tensor()?.clone())));
        types.filter(|(_, ty)| ty.dtype == DType::String).collect()
    };
    let (inputs, outputs) = (ports(graph, &graph.regions[body].params), ports(graph, &graph.regions[body].results));
    for value in graph.values.values_mut() {
        if let Type::Tensor(ty) = &mut value.ty {
            ty.dtype = numbered(ty.dtype);
        }
    }
    for data in graph.constants.values_mut() {
        data.ty.dtype = numbered(data.ty.dtype);
        match &mut data.source {
            ConstantSource::Splat(scalar) => scalar.dtype = numbered(scalar.dtype),
            ConstantSource::Lazy { op: Op::Elementwise(expr), .. } => number_expr(expr),
            ConstantSource::Bytes(_) | ConstantSource::Lazy { .. } => {}
        }
    }
    for data in graph.nodes.values_mut() {
        if let Op::Elementwise(expr) = &mut data.op {
            number_expr(expr);
        }
    }
    let result = enter(graph, inputs, cx).and_then(|()| leave(graph, outputs, cx));
    if let Err(error) = result {
        cx.unsupported.push(format!("strings: {error}"));
    }
    graph.commit();
}

/// Notes the operations that compute with their operands' numbers, which strings only have by accident.
fn refuse_arithmetic(graph: &Graph, cx: &mut PassContext) -> bool {
    for data in graph.nodes.values() {
        let computes = matches!(
            data.op,
            Op::Conv(_)
                | Op::Contract(_)
                | Op::Reduce { .. }
                | Op::Window(_)
                | Op::Cumulate { .. }
                | Op::Composite { .. }
        );
        let of_strings = |v: &Value| graph.ty(*v).as_tensor().is_some_and(|ty| ty.dtype == DType::String);
        if computes && data.inputs.iter().any(of_strings) {
            let origin = data.origins.first().map(|&o| &graph.origins[o]);
            let origin = origin.map_or_else(String::new, |o| format!("{} ({}): ", o.path, o.operator));
            cx.unsupported.push(format!("{origin}elements of type {}", DType::String));
        }
    }
    !cx.unsupported.is_empty()
}

fn numbered(dtype: DType) -> DType {
    if dtype == DType::String { DType::I64 } else { dtype }
}

fn number_expr(expr: &mut ScalarExpr) {
    for inst in &mut expr.insts {
        match inst {
            ScalarInst::Const(Scalar { dtype, .. }) | ScalarInst::Cast(dtype, _) | ScalarInst::Bitcast(dtype, _) => {
                *dtype = numbered(*dtype)
            }
            ScalarInst::Arg(_)
            | ScalarInst::Index(_)
            | ScalarInst::Dim(_)
            | ScalarInst::Unary(..)
            | ScalarInst::Binary(..)
            | ScalarInst::Compare(..)
            | ScalarInst::MulAdd(..)
            | ScalarInst::Select(..) => {}
        }
    }
}

/// The type of the memory in which a caller has strings.
fn memory_type(ty: &TensorType) -> TensorType {
    TensorType::new(DType::I64, ty.shape.iter().cloned().chain([Dim::from(2)]))
}

fn enter(graph: &mut Graph, inputs: Vec<(usize, TensorType)>, cx: &mut PassContext) -> Result<(), BuildError> {
    let body = graph.body();
    for (i, ty) in inputs {
        let path = format!("input `{}`", graph.input_names.get(i).map_or("", String::as_str));
        let origin = graph.origins.push(OriginData { path, operator: "Strings".into() });
        let memory = graph.add_param(body, memory_type(&ty));
        let old = graph.regions[body].params.swap_remove(i);
        graph.values[memory].def = graph.values[old].def;
        let numbers = TensorType { dtype: DType::I64, ..ty.clone() };
        let op = Op::Strings(StringFunction::Enter);
        let node = Builder::new(graph, body, &[origin][..]).node(op, &[memory], &[numbers.into()])?;
        let value = graph.output(node);
        graph.replace(old, value);
        cx.packed.inputs.insert(i, ty);
    }
    Ok(())
}

fn leave(graph: &mut Graph, outputs: Vec<(usize, TensorType)>, cx: &mut PassContext) -> Result<(), BuildError> {
    let body = graph.body();
    for (i, ty) in outputs {
        let path = format!("output `{}`", graph.output_names.get(i).map_or("", String::as_str));
        let origin = graph.origins.push(OriginData { path, operator: "Strings".into() });
        let value = graph.resolve(graph.regions[body].results[i]);
        let op = Op::Strings(StringFunction::Leave);
        let node = Builder::new(graph, body, &[origin][..]).node(op, &[value], &[memory_type(&ty).into()])?;
        graph.regions[body].results[i] = graph.output(node);
        cx.packed.outputs.insert(i, ty);
    }
    Ok(())
}
