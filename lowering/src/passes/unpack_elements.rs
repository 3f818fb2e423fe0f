//! Gives elements of less than a byte a byte each.
//!
//! Before: `y = elementwise { a0; cast f32 %0 } (x: i4[3])`, where `x` is two bytes in memory. After: the model's input is
//! those bytes, `u8[2]`, from which elementwise shifts make `i8[3]`; what follows works on that. Outputs are packed the
//! same way. Constants are unpacked by a recipe, when the object is written. The types that the caller sees stay in
//! [`PackedPorts`].
//!
//! Integers are held in 8 bits of the same sign, always in range, and `f4e2m1` in `f8e4m3fn`, which has all of its
//! numbers. So moves, comparisons and conversions from these types are those of the wider ones; a result of arithmetic or
//! of a conversion to them is brought back into range. Afterwards no value has a type below 8 bits.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::evaluate;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar, ScalarExpr, ScalarInst};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::constant::ConstantData;
use onnxc_ir::tensor::op::{ReduceOp, ScatterOp, Window};
use onnxc_ir::tensor::{Builder, ConstantSource, Graph, Node, Op, OriginData, Region, TensorType, Type, Value};
use smallvec::smallvec;

use super::rewrite::{PackedPorts, PassContext};

/// Runs the pass on all regions.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let regions = graph.reachable_regions();
    let nodes: Vec<(Region, Node)> =
        regions.iter().flat_map(|&r| graph.regions[r].nodes.iter().map(move |&n| (r, n))).collect();
    for &(_, node) in &nodes {
        if let Some(dtype) = arithmetic(graph, node) {
            let origin = &graph.origins[graph.nodes[node].origins[0]];
            cx.unsupported.push(format!("{} ({}): arithmetic in {dtype}", origin.path, origin.operator));
        }
    }
    if !cx.unsupported.is_empty() {
        return;
    }
    for &(_, node) in &nodes {
        let data = &graph.nodes[node];
        let Op::Elementwise(expr) = &data.op else { continue };
        let inputs: Vec<DType> = data.inputs.iter().map(|&v| graph.tensor_ty(v).dtype).collect();
        if let Some(expr) = unpacked_expr(expr, &inputs) {
            graph.nodes[node].op = Op::Elementwise(expr);
        }
    }
    if let Err(error) = unpack_graph(graph, &nodes, &mut cx.packed) {
        cx.unsupported.push(format!("packed elements: {error}"));
    }
}

/// The type of less than 8 bits in which a node computes more than one expression for each element.
fn arithmetic(graph: &Graph, node: Node) -> Option<DType> {
    let data = &graph.nodes[node];
    let computes = match &data.op {
        Op::Reduce { op, .. } | Op::Window(Window { op, .. }) => {
            matches!(op, ReduceOp::Sum | ReduceOp::Prod)
        }
        Op::Scatter { op, .. } => matches!(op, ScatterOp::Add | ScatterOp::Mul),
        Op::Cumulate { .. } | Op::Contract(_) | Op::Conv(_) | Op::Composite { .. } | Op::Group { .. } => true,
        Op::Constant(_)
        | Op::DimValue(_)
        | Op::BindSizes { .. }
        | Op::Strings(_)
        | Op::Elementwise(_)
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Broadcast
        | Op::Slice { .. }
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Gather { .. }
        | Op::Sort { .. }
        | Op::External(_)
        | Op::If { .. }
        | Op::Loop { .. } => false,
    };
    let types = data.outputs.iter().filter_map(|&v| graph.ty(v).as_tensor());
    types.map(|t| t.dtype).find(|t| computes && is_packed(*t))
}

/// Changes the types, and puts shifts where packed memory is read and written.
fn unpack_graph(graph: &mut Graph, nodes: &[(Region, Node)], packed: &mut PackedPorts) -> Result<(), BuildError> {
    let body = graph.body();
    let ports = |graph: &Graph, values: &[Value]| -> Vec<(usize, TensorType)> {
        let types = values.iter().enumerate().filter_map(|(i, &v)| Some((i, graph.ty(v).as_tensor()?.clone())));
        types.filter(|(_, ty)| is_packed(ty.dtype)).collect()
    };
    let (inputs, outputs) = (ports(graph, &graph.regions[body].params), ports(graph, &graph.regions[body].results));
    for value in graph.values.keys() {
        graph.values[value].ty = unpacked(graph.ty(value));
    }
    for &(region, node) in nodes {
        let Op::Constant(constant) = graph.nodes[node].op else { continue };
        let data = &graph.constants[constant];
        if !is_packed(data.ty.dtype) {
            continue;
        }
        let ty = TensorType { dtype: held(data.ty.dtype), shape: data.ty.shape.clone() };
        let source = match data.source {
            ConstantSource::Splat(scalar) => ConstantSource::Splat(unpacked_scalar(scalar)),
            ConstantSource::Bytes(_) | ConstantSource::Lazy { .. } => {
                let expr = ScalarExpr { insts: vec![ScalarInst::Arg(0), ScalarInst::Cast(ty.dtype, 0)] };
                ConstantSource::Lazy { op: Op::Elementwise(expr), inputs: smallvec![constant] }
            }
        };
        let (name, origins) = (data.name.clone(), graph.nodes[node].origins.clone());
        let wide = graph.constants.push(ConstantData { ty, source, name });
        let value = Builder::new(graph, region, origins).constant_node(wide);
        graph.replace(graph.nodes[node].outputs[0], value);
    }
    for (i, ty) in inputs {
        let path = format!("input `{}`", graph.input_names.get(i).map_or("", String::as_str));
        let origin = graph.origins.push(OriginData { path, operator: "Unpack".into() });
        let memory = graph.add_param(body, TensorType::new(DType::U8, [packed_len(&ty)?]));
        let old = graph.regions[body].params.swap_remove(i);
        graph.values[memory].def = graph.values[old].def;
        let value = unpack(&mut Builder::new(graph, body, &[origin][..]), memory, &ty)?;
        graph.replace(old, value);
        packed.inputs.insert(i, ty);
    }
    for (i, ty) in outputs {
        let path = format!("output `{}`", graph.output_names.get(i).map_or("", String::as_str));
        let origin = graph.origins.push(OriginData { path, operator: "Pack".into() });
        let value = graph.regions[body].results[i];
        let memory = pack(&mut Builder::new(graph, body, &[origin][..]), value, &ty)?;
        graph.regions[body].results[i] = memory;
        packed.outputs.insert(i, ty);
    }
    graph.commit();
    Ok(())
}

fn is_packed(dtype: DType) -> bool {
    held(dtype) != dtype
}

/// The type that holds an element of a type in whole bytes.
fn held(dtype: DType) -> DType {
    use DType::*;
    match dtype {
        I4 | I2 => I8,
        U4 | U2 => U8,
        F4E2M1 => F8E4M3FN,
        F64 | F32 | F16 | BF16 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | I64 | I32 | I16 | I8 | U64
        | U32 | U16 | U8 | Bool | String | C64 | C128 => dtype,
    }
}

fn unpacked(ty: &Type) -> Type {
    match ty {
        Type::Tensor(t) => Type::Tensor(TensorType { dtype: held(t.dtype), shape: t.shape.clone() }),
        Type::Sequence(of) => Type::Sequence(Box::new(unpacked(of))),
        Type::Optional(of) => Type::Optional(Box::new(unpacked(of))),
        Type::Map(key, of) => Type::Map(*key, Box::new(unpacked(of))),
    }
}

fn unpacked_scalar(scalar: Scalar) -> Scalar {
    let dtype = held(scalar.dtype);
    Scalar { dtype, bits: evaluate::cast(scalar.dtype, dtype, scalar.bits) }
}

/// The bytes that a tensor takes in memory.
fn packed_len(ty: &TensorType) -> Result<Dim, BuildError> {
    let bits = (&Dim::product(&ty.shape)? * &Dim::from(i64::from(ty.dtype.bits())))?;
    Ok(bits.ceil_div(&Dim::from(8))?)
}

/// The elements of a tensor of type `ty` from its memory, `u8` of rank 1.
fn unpack(b: &mut Builder<'_>, memory: Value, ty: &TensorType) -> Result<Value, BuildError> {
    let bits = ty.dtype.bits();
    let per_byte = Dim::from(i64::from(8 / bits));
    let bytes = packed_len(ty)?;
    let column = b.reshape(memory, &[bytes.clone(), Dim::ONE])?;
    let elements = b.map_to(&[bytes.clone(), per_byte.clone()], &[column], |e| {
        let (byte, position) = (e.arg(0), e.index(1));
        let position = e.cast(DType::U8, position);
        let width = e.number(DType::U8, f64::from(bits))?;
        let shift = e.mul(position, width);
        let shifted = e.binary(BinaryOp::Shr, byte, shift);
        let mask = e.number(DType::U8, f64::from((1 << bits) - 1))?;
        let code = e.and(shifted, mask);
        value_of(e, ty.dtype, code)
    })?;
    let (room, count) = ((&bytes * &per_byte)?, Dim::product(&ty.shape)?);
    let mut elements = b.reshape(elements, std::slice::from_ref(&room))?;
    if room != count {
        elements = b.slice_axis(elements, 0, &Dim::ZERO, &count, 1)?;
    }
    b.reshape(elements, &ty.shape)
}

/// The memory, `u8` of rank 1, of a tensor of type `ty` whose elements are held in bytes.
fn pack(b: &mut Builder<'_>, x: Value, ty: &TensorType) -> Result<Value, BuildError> {
    let bits = ty.dtype.bits();
    let per_byte = 8 / bits;
    let bytes = packed_len(ty)?;
    let count = Dim::product(&ty.shape)?;
    let mut codes = b.map(&[x], |e| {
        let x = e.arg(0);
        code_of(e, ty.dtype, x)
    })?;
    codes = b.reshape(codes, std::slice::from_ref(&count))?;
    let room = (&bytes * &Dim::from(i64::from(per_byte)))?;
    if room != count {
        let fill = b.scalar(Scalar::zero(DType::U8));
        codes = b.pad(codes, fill, &[Dim::ZERO], &[(&room - &count)?])?;
    }
    let rows = b.reshape(codes, &[bytes.clone(), Dim::from(i64::from(per_byte))])?;
    let positions = (0..per_byte).map(|i| b.slice_axis(rows, 1, &i64::from(i).into(), &Dim::ONE, 1));
    let columns = positions.collect::<Result<Vec<Value>, _>>()?;
    let memory = b.map(&columns, |e| {
        let mut byte = e.arg(0);
        for i in 1..per_byte {
            let (code, shift) = (e.arg(i), e.number(DType::U8, f64::from(i * bits))?);
            let shifted = e.binary(BinaryOp::Shl, code, shift);
            byte = e.or(byte, shifted);
        }
        Ok(byte)
    })?;
    b.reshape(memory, &[bytes])
}

/// The number that holds the element with these bits, a `u8` without others.
fn value_of(e: &mut ExprBuilder, dtype: DType, code: ExprIndex) -> Result<ExprIndex, BuildError> {
    if dtype.is_signed_int() {
        let code = e.bitcast(DType::I8, code);
        return in_range(e, dtype, code);
    }
    if dtype.is_unsigned_int() {
        return Ok(code);
    }
    let mut number = |v: i32| e.number(DType::U8, f64::from(v));
    let (none, one, two, four) = (number(0)?, number(1)?, number(2)?, number(4)?);
    let (magnitude_mask, sign_mask, half) = (number(7)?, number(8)?, number(0x30)?);
    let magnitude = e.and(code, magnitude_mask);
    let sign = e.and(code, sign_mask);
    let sign = e.binary(BinaryOp::Shl, sign, four);
    // Exponents differ by 6, and a half is the only subnormal number.
    let shifted = e.binary(BinaryOp::Shl, magnitude, two);
    let normal = e.add(shifted, half);
    let (is_zero, is_half) = (e.eq(magnitude, none), e.eq(magnitude, one));
    let finite = e.select(is_half, half, normal);
    let finite = e.select(is_zero, none, finite);
    let bits = e.or(finite, sign);
    Ok(e.bitcast(DType::F8E4M3FN, bits))
}

/// The bits of an element that is held as a number in range; a `u8` without others.
fn code_of(e: &mut ExprBuilder, dtype: DType, x: ExprIndex) -> Result<ExprIndex, BuildError> {
    if dtype.is_signed_int() {
        let (byte, mask) = (e.bitcast(DType::U8, x), e.number(DType::U8, f64::from((1 << dtype.bits()) - 1))?);
        return Ok(e.and(byte, mask));
    }
    if dtype.is_unsigned_int() {
        return Ok(x);
    }
    let byte = e.bitcast(DType::U8, x);
    let mut number = |v: i32| e.number(DType::U8, f64::from(v));
    let (none, one, two, four) = (number(0)?, number(1)?, number(2)?, number(4)?);
    let (magnitude_mask, sign_mask, half) = (number(0x7f)?, number(0x80)?, number(0x30)?);
    let magnitude = e.and(byte, magnitude_mask);
    let sign = e.and(byte, sign_mask);
    let sign = e.binary(BinaryOp::Shr, sign, four);
    let above = e.sub(magnitude, half);
    let normal = e.binary(BinaryOp::Shr, above, two);
    let (is_zero, is_half) = (e.eq(magnitude, none), e.eq(magnitude, half));
    let code = e.select(is_half, one, normal);
    let code = e.select(is_zero, none, code);
    Ok(e.or(code, sign))
}

/// An integer in 8 bits, wrapped to a narrower type.
fn in_range(e: &mut ExprBuilder, dtype: DType, x: ExprIndex) -> Result<ExprIndex, BuildError> {
    let bits = dtype.bits();
    if dtype.is_unsigned_int() {
        let mask = e.number(DType::U8, f64::from((1 << bits) - 1))?;
        return Ok(e.and(x, mask));
    }
    let shift = e.number(DType::I8, f64::from(8 - bits))?;
    let left = e.binary(BinaryOp::Shl, x, shift);
    Ok(e.binary(BinaryOp::Shr, left, shift))
}

/// A number of type `wide` rounded to `f4e2m1` (halves to even, too great ones and NaN to the greatest).
fn to_float4(e: &mut ExprBuilder, wide: DType, x: ExprIndex) -> Result<ExprIndex, BuildError> {
    let mut number = |v: f64| e.number(wide, v);
    let (half, one, two, four, most, least) =
        (number(0.5)?, number(1.0)?, number(2.0)?, number(4.0)?, number(6.0)?, number(-6.0)?);
    let is_nan = e.ne(x, x);
    let x = e.select(is_nan, most, x);
    let below = e.min(x, most);
    let x = e.max(below, least);
    // From one power of two to the next there are two numbers; below 1 they are as far apart as above it.
    let size = e.abs(x);
    let (small, middle) = (e.lt(size, two), e.lt(size, four));
    let scale = e.select(middle, one, half);
    let scale = e.select(small, two, scale);
    let step = e.select(middle, one, two);
    let step = e.select(small, half, step);
    let steps = e.mul(x, scale);
    let steps = e.round(steps);
    let rounded = e.mul(steps, step);
    Ok(e.cast(DType::F8E4M3FN, rounded))
}

/// The same function of elements that are held in bytes; `None` where no step has a type below 8 bits.
fn unpacked_expr(expr: &ScalarExpr, inputs: &[DType]) -> Option<ScalarExpr> {
    let types = expr.types(inputs).expect("the expression was checked when the graph was built");
    if !types.iter().any(|&t| is_packed(t)) {
        return None;
    }
    let mut e = ExprBuilder::default();
    let mut map: Vec<ExprIndex> = Vec::with_capacity(expr.insts.len());
    for (inst, &ty) in expr.insts.iter().zip(&types) {
        let step = unpacked_step(&mut e, inst, ty, |i| (map[i as usize], types[i as usize]));
        map.push(step.expect("these types have constants"));
    }
    Some(e.finish(*map.last().expect("expressions are not empty")))
}

/// One step of an expression whose result is of type `ty`; `of` gives an operand as it is held, and its type.
fn unpacked_step(
    e: &mut ExprBuilder,
    inst: &ScalarInst,
    ty: DType,
    of: impl Fn(ExprIndex) -> (ExprIndex, DType),
) -> Result<ExprIndex, BuildError> {
    let same = |e: &mut ExprBuilder| e.step(inst.map_operands(|o| of(o).0));
    Ok(match inst {
        ScalarInst::Arg(_)
        | ScalarInst::Index(_)
        | ScalarInst::Dim(_)
        | ScalarInst::MulAdd(..)
        | ScalarInst::Compare(..)
        | ScalarInst::Select(..) => same(e),
        ScalarInst::Const(scalar) => e.constant(unpacked_scalar(*scalar)),
        ScalarInst::Unary(..) | ScalarInst::Binary(..) if !is_packed(ty) => same(e),
        ScalarInst::Unary(..) | ScalarInst::Binary(..) if ty.is_int() => {
            let wide = same(e);
            in_range(e, ty, wide)?
        }
        ScalarInst::Unary(op, a) => {
            let a = e.cast(DType::F32, of(*a).0);
            let wide = e.unary(*op, a);
            to_float4(e, DType::F32, wide)?
        }
        ScalarInst::Binary(op, a, b) => {
            let (a, b) = (e.cast(DType::F32, of(*a).0), e.cast(DType::F32, of(*b).0));
            let wide = e.binary(*op, a, b);
            to_float4(e, DType::F32, wide)?
        }
        ScalarInst::Cast(to, a) => {
            let (a, from) = of(*a);
            match held(*to) {
                _ if from == *to => a,
                byte if byte == *to => e.cast(*to, a),
                byte if to.is_int() => {
                    let wide = e.cast(byte, a);
                    if from.is_float() {
                        let (least, greatest) = evaluate::int_range(*to);
                        let (least, greatest) = (e.number(byte, least as f64)?, e.number(byte, greatest as f64)?);
                        let above = e.max(wide, least);
                        e.min(above, greatest)
                    } else {
                        in_range(e, *to, wide)?
                    }
                }
                _ => {
                    let wide = if from == DType::F64 { DType::F64 } else { DType::F32 };
                    let a = if from == wide { a } else { e.cast(wide, a) };
                    to_float4(e, wide, a)?
                }
            }
        }
        ScalarInst::Bitcast(to, a) => {
            let (a, from) = of(*a);
            if is_packed(from) && from != *to {
                let code = code_of(e, from, a)?;
                value_of(e, *to, code)?
            } else if from == *to {
                a
            } else {
                e.bitcast(*to, a)
            }
        }
    })
}
