//! Text of each operation in all its forms.

use super::*;
use crate::strings::StringFunction;
use crate::tensor::build::{BuildError, LoopSpec};
use crate::tensor::op::{CompositeKind, Contract, Conv, Coord, Panel, RecurrentCell, ReduceOp, ScatterOp, Window};
use crate::tensor::{Attribute, External, Op};
use crate::tensor::{Builder, verify};

fn window(op: ReduceOp) -> Window {
    Window {
        op,
        sizes: [1, 1, 2, 3].as_slice().into(),
        strides: [1, 1, 2, 1].as_slice().into(),
        dilations: [1, 1, 1, 2].as_slice().into(),
        pad_lo: [0, 0, 1, 0].as_slice().into(),
        pad_hi: [0, 0, 0, 1].as_slice().into(),
    }
}

fn conv(groups: i64, lhs_dilation: i64, panel: Option<Panel>) -> Conv {
    Conv {
        strides: [2, 1].as_slice().into(),
        pad_lo: [1, -1].as_slice().into(),
        pad_hi: [0, 2].as_slice().into(),
        lhs_dilation: [1, lhs_dilation].as_slice().into(),
        rhs_dilation: [2, 1].as_slice().into(),
        groups,
        channels_last: panel.is_some(),
        acc: DType::F32,
        panel,
        kernel: [2, 3].as_slice().into(),
        winograd: None,
    }
}

/// In the form that Winograd's algorithm takes.
fn winograd(tile: u32) -> Conv {
    Conv {
        strides: [1, 1].as_slice().into(),
        pad_lo: [0, 0].as_slice().into(),
        pad_hi: [0, -1].as_slice().into(),
        lhs_dilation: [1, 1].as_slice().into(),
        rhs_dilation: [1, 1].as_slice().into(),
        kernel: [3, 3].as_slice().into(),
        winograd: Some(tile),
        ..conv(1, 1, Some(Panel::flat(16)))
    }
}

fn fixed(shape: &[i64]) -> Shape {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

/// Products, convolutions, windows.
fn anchors(b: &mut Builder<'_>, image: Value, table: Value) -> Result<Vec<Value>, BuildError> {
    let filter = b.splat(Scalar::f32(0.5), &[8, 2, 2, 3])?;
    let mut results = vec![b.conv(conv(2, 2, None), image, filter)?];
    let last = b.transpose(image, &[0, 2, 3, 1])?;
    let panels = b.splat(Scalar::f32(0.5), &[1, 2, 3, 4, 16])?;
    let node = b.node(
        Op::Conv(conv(1, 1, Some(Panel::flat(16)))),
        &[last, panels],
        &[TensorType::fixed(DType::F32, &[1, 3, 5, 7]).into()],
    )?;
    results.push(b.graph.output(node));
    let transformed = b.splat(Scalar::f32(0.5), &[1, 16, 4, 16])?;
    let sizes: Vec<i64> = b.shape(last)?.iter().map(|d| d.as_const().expect("the image is of fixed size")).collect();
    let ty = TensorType::fixed(DType::F32, &[1, sizes[1] - 2, sizes[2] - 3, 7]);
    let node = b.node(Op::Conv(winograd(2)), &[last, transformed], &[ty.into()])?;
    results.push(b.graph.output(node));
    let columns = b.splat(Scalar::f32(0.5), &[1, 3, 16])?;
    let contract = Contract {
        lhs: [0, 1].as_slice().into(),
        rhs: [1, 2].as_slice().into(),
        out: [0, 2].as_slice().into(),
        acc: DType::F32,
        panel: Some(Panel::flat(16)),
    };
    let node = b.node(Op::Contract(contract), &[table, columns], &[TensorType::fixed(DType::F32, &[5, 7]).into()])?;
    results.push(b.graph.output(node));
    let narrow = b.cast(table, DType::I8)?;
    let words = b.splat(Scalar { dtype: DType::U8, bits: 3 }, &[1, 2, 16, 4])?;
    let contract = Contract {
        lhs: [1, 0].as_slice().into(),
        rhs: [1, 2].as_slice().into(),
        out: [0, 2].as_slice().into(),
        acc: DType::I32,
        panel: Some(Panel::words(16)),
    };
    let ty = TensorType::fixed(DType::I32, &[3, 7]);
    let node = b.node(Op::Contract(contract), &[narrow, words], &[ty.into()])?;
    results.push(b.graph.output(node));
    for op in [ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod, ReduceOp::ArgMax { last: true }] {
        results.push(b.window(window(op), image)?);
    }
    for op in [ReduceOp::ArgMin { last: false }, ReduceOp::ArgMin { last: true }, ReduceOp::ArgMax { last: false }] {
        results.push(b.reduce(op, table, &[1], false)?);
    }
    results.push(b.cumulate(ReduceOp::Sum, table, 1, true, false)?);
    results.push(b.cumulate(ReduceOp::Prod, table, 0, false, true)?);
    Ok(results)
}

/// Slices, gathers, scatters, sorts, conversions.
fn moves(b: &mut Builder<'_>, table: Value, at: Value, narrow: Value) -> Result<Vec<Value>, BuildError> {
    let mut results = vec![
        b.slice(table, &fixed(&[4, 1]), &fixed(&[2, 2]), &[-2, 1])?,
        b.broadcast(at, &fixed(&[3, 2]))?,
        b.gather(table, &[at], &[Coord::Input(0), Coord::Axis(0)], &fixed(&[3, 2]))?,
        b.cast(narrow, DType::F8E5M2)?,
        b.concat(&[narrow, narrow], 0)?,
    ];
    let updates = b.splat(Scalar::f32(1.0), &[3, 2])?;
    for op in [ScatterOp::Set, ScatterOp::Add, ScatterOp::Mul, ScatterOp::Min, ScatterOp::Max] {
        results.push(b.scatter(op, table, updates, &[at], &[Coord::Input(0), Coord::Axis(0)])?);
    }
    let (ascending, order) = b.sort(table, 1, false)?;
    results.extend([ascending, order]);
    let external = External {
        symbol: "my_operator".into(),
        operator: "my \"domain\".Operator".into(),
        present: [true, false, true].as_slice().into(),
        results: [DType::F32, DType::Bool].as_slice().into(),
        attributes: vec![
            ("axes".into(), Attribute::Ints(vec![-1, 2])),
            ("alpha".into(), Attribute::Floats(vec![0.5f32.to_bits()])),
            ("none".into(), Attribute::Texts(vec![])),
            ("mode".into(), Attribute::Texts(vec!["up, ]".into(), "é".into()])),
        ],
    };
    let types = [TensorType::fixed(DType::F32, &[2]).into(), TensorType::fixed(DType::Bool, &[]).into()];
    let node = b.node(Op::External(external), &[table, at], &types)?;
    results.extend(b.graph.nodes[node].outputs.clone());
    Ok(results)
}

/// Operations with regions.
fn regions(b: &mut Builder<'_>, table: Value, at: Value) -> Result<Vec<Value>, BuildError> {
    let node = b.node(Op::DimValue(Dim::from(7)), &[], &[TensorType::fixed(DType::I64, &[]).into()])?;
    let seven = b.graph.output(node);
    let (zero, first) = (b.scalar_i64(0), b.reduce(ReduceOp::Max, at, &[0], false)?);
    let positive = b.greater(first, zero)?;
    let negated = |b: &mut Builder<'_>, v: &[Value]| Ok::<_, BuildError>(vec![b.neg(v[0])?]);
    let mut results = b.if_(positive, &[table], negated, |_, v| Ok(vec![v[0]]))?;
    let spec = LoopSpec {
        trip_count: seven,
        condition: positive,
        carried: vec![(table, b.ty(table).clone())],
        captures: vec![at],
        iterations: Some(Dim::from(7)),
    };
    results.extend(b.loop_(&spec, |b, _, carried, captures| {
        let (next, go) = (b.abs(carried[0])?, b.scalar_bool(true));
        Ok::<_, BuildError>((go, vec![next], vec![captures[0]]))
    })?);
    let epsilon = 1e-5f32.to_bits();
    for kind in [
        CompositeKind::Softmax { axis: 1 },
        CompositeKind::LogSoftmax { axis: 0 },
        CompositeKind::LayerNorm { axis: 1, epsilon },
        CompositeKind::RmsNorm { axis: 1, epsilon },
        CompositeKind::Recurrent { cell: RecurrentCell::Rnn },
        CompositeKind::Recurrent { cell: RecurrentCell::Gru },
        CompositeKind::Recurrent { cell: RecurrentCell::Lstm },
    ] {
        results.extend(b.composite(kind, &[table], negated)?);
    }
    let group = b.graph.add_region();
    let ty = b.ty(table).clone();
    let param = b.graph.add_param(group, ty.clone());
    let inner = b.within(group).exp(param)?;
    b.graph.regions[group].results.push(inner);
    let node = b.node(Op::Group { body: group }, &[table], &[ty])?;
    results.push(b.graph.output(node));
    Ok(results)
}

/// Functions on strings, which need not be UTF-8.
fn strings(b: &mut Builder<'_>) -> Result<Vec<Value>, BuildError> {
    let names = b.graph.strings.numbers(&[3], [&b"a \"quoted\" one\n"[..], b"\xff", b""]);
    let names = b.constant(names, "names")?;
    let rank = TensorType::fixed(DType::I64, &[3]);
    let node = b.node(Op::Strings(StringFunction::Order), &[names], &[rank.into()])?;
    Ok(vec![b.graph.output(node)])
}

#[test]
fn every_operation_comes_back() {
    let mut graph = Graph::new("every operation");
    let origin = graph.origins.push(OriginData { path: "n".into(), operator: "N".into() });
    let body = graph.body();
    let image = graph.add_param(body, TensorType::fixed(DType::F32, &[1, 4, 6, 6]));
    let table = graph.add_param(body, TensorType::fixed(DType::F32, &[5, 3]));
    let at = graph.add_param(body, TensorType::fixed(DType::I64, &[2]));
    let narrow = graph.add_param(body, TensorType::fixed(DType::I4, &[3]));
    graph.input_names = ["image", "table", "at", "narrow"].map(String::from).into();
    let mut b = Builder::new(&mut graph, body, &[origin][..]);
    let mut results = anchors(&mut b, image, table).unwrap();
    results.extend(moves(&mut b, table, at, narrow).unwrap());
    results.extend(regions(&mut b, table, at).unwrap());
    results.extend(strings(&mut b).unwrap());
    graph.output_names = (0..results.len()).map(|i| format!("y{i}")).collect();
    graph.regions[body].results = results;
    verify::verify(&graph).unwrap();
    let text = graph.to_string();
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parsed.to_string(), text);
    verify::verify(&parsed).unwrap();
    // Regions and constants may be numbered otherwise; everything else of an operation is the same.
    let ops = |g: &Graph| -> Vec<Op> {
        let nodes = g.reachable_regions().into_iter().flat_map(|r| g.regions[r].nodes.clone());
        nodes
            .map(|n| g.nodes[n].op.clone())
            .filter(|op| op.regions().is_empty() && !matches!(op, Op::Constant(_)))
            .collect()
    };
    assert_eq!(ops(&parsed), ops(&graph));
}
