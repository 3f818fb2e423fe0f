//! Quantised models that compute with their integers give what the real numbers give, but for halves: every form of weight,
//! zero point, padding, group and bias, in the interpreter before and after `compute_quantized`.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::interp::interpret;
use onnxc_ir::tensor::op::{Conv, ReduceOp, Window};
use onnxc_ir::tensor::{Builder, Graph, Op, OriginData, TensorBytes, TensorType, Value, verify};
use onnxc_lowering::passes::compute_quantized;
use onnxc_lowering::passes::rewrite::PassContext;

/// The scale of every activation.
const STEP: f32 = 0.125;

/// Whole numbers that look random, from `low` on.
fn integers(seed: u32, count: i64, low: i64, range: u32) -> Vec<i64> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        low + i64::from((state >> 8) % range)
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(dtype: DType, shape: &[i64], values: &[i64]) -> TensorBytes {
    let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
    TensorBytes { dtype, shape: shape.into(), bytes: bytes.into() }
}

fn quantize(b: &mut Builder<'_>, x: Value, zero: f64, to: DType) -> Result<Value, BuildError> {
    b.map(&[x], |e| {
        let (x, step, zero) = (e.arg(0), e.number(DType::F32, f64::from(STEP))?, e.number(DType::F32, zero)?);
        let quotient = e.div(x, step);
        let rounded = e.round(quotient);
        let y = e.add(rounded, zero);
        Ok(e.cast(to, y))
    })
}

fn dequantize(b: &mut Builder<'_>, q: Value, scale: Value, zero: Value) -> Result<Value, BuildError> {
    b.map(&[q, scale, zero], |e| {
        let (q, zero) = (e.arg(0), e.arg(2));
        let (q, zero) = (e.cast(DType::I32, q), e.cast(DType::I32, zero));
        let difference = e.sub(q, zero);
        let (real, scale) = (e.cast(DType::F32, difference), e.arg(1));
        Ok(e.mul(real, scale))
    })
}

/// An activation between integers and real numbers.
fn activation(b: &mut Builder<'_>, q: Value, zero: f64) -> Result<Value, BuildError> {
    let (scale, dtype) = (b.scalar_f32(STEP), b.dtype(q)?);
    let zero = b.number(dtype, zero)?;
    dequantize(b, q, scale, zero)
}

/// A constant of 8 bits with a scale, and perhaps a zero point, for each index of an axis.
fn weight(b: &mut Builder<'_>, dtype: DType, shape: &[i64], axis: usize, zero: i64) -> Result<Value, BuildError> {
    let low = if dtype == DType::I8 { -128 } else { 0 };
    let q = b.constant(bytes(dtype, shape, &integers(3, shape.iter().product(), low, 256)), "w")?;
    let along: Vec<i64> = (axis..shape.len()).map(|i| if i == axis { shape[i] } else { 1 }).collect();
    let scales: Vec<f32> = (0..shape[axis]).map(|i| 0.001 + i as f32 * 0.0007).collect();
    let zeros: Vec<i64> = (0..shape[axis]).map(|i| if zero == 0 { 0 } else { zero + i }).collect();
    let scales = b.constant(TensorBytes::from_f32(&along, &scales), "scale")?;
    let zeros = b.constant(bytes(dtype, &along, &zeros), "zero")?;
    dequantize(b, q, scales, zeros)
}

/// Interprets a model of 8-bit inputs before and after the pass: the results, in steps. Nothing but integers is left in
/// convolutions and products.
fn both(
    dtype: DType,
    inputs: &[&[i64]],
    build: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Value, BuildError>,
) -> (Vec<f32>, Vec<f32>) {
    let mut graph = Graph::new("t");
    let body = graph.body();
    let origin = graph.origins.push(OriginData { path: "node".into(), operator: "Op".into() });
    let params: Vec<Value> =
        inputs.iter().map(|shape| graph.add_param(body, TensorType::fixed(dtype, shape))).collect();
    graph.input_names = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    graph.output_names = vec!["y".into()];
    let mut b = Builder::new(&mut graph, body, vec![origin]);
    let result = build(&mut b, &params).expect("the graph is well-typed");
    let result = b.cast(result, DType::F32).expect("bytes are numbers");
    graph.regions[body].results.push(result);
    let low = if dtype == DType::I8 { -128 } else { 0 };
    let data: Vec<TensorBytes> = inputs
        .iter()
        .enumerate()
        .map(|(i, shape)| bytes(dtype, shape, &integers(50 + i as u32, shape.iter().product(), low, 256)))
        .collect();
    let run = |graph: &Graph| interpret(graph, &data).expect("the graph runs")[0].to_f32().expect("floats");
    let expected = run(&graph);
    compute_quantized::run(&mut graph, &mut PassContext::new(MachineModel::BASELINE));
    verify::verify(&graph).unwrap_or_else(|e| panic!("{e}"));
    for &node in &graph.regions[body].nodes {
        let data = &graph.nodes[node];
        let multiplies = matches!(data.op, Op::Conv(_) | Op::Contract(_));
        let real = |v: &Value| graph.tensor_ty(*v).dtype.is_float();
        assert!(!multiplies || !data.inputs.iter().any(real), "{graph}");
    }
    (expected, run(&graph))
}

/// All within one step, and nearly all equal.
fn assert_close(what: &str, (expected, found): (Vec<f32>, Vec<f32>)) {
    let differ = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
    let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1.0 && differ * 50 <= expected.len(), "{what}: {differ} of {} differ", expected.len());
    let varied = expected.iter().filter(|&&v| v != expected[0]).count();
    assert!(varied * 4 >= expected.len(), "{what}: the results say nothing");
}

fn conv(groups: i64, stride: i64, pad_lo: [i64; 2], pad_hi: [i64; 2]) -> Conv {
    Conv {
        strides: [stride, stride].as_slice().into(),
        pad_lo: pad_lo.as_slice().into(),
        pad_hi: pad_hi.as_slice().into(),
        lhs_dilation: [1, 1].as_slice().into(),
        rhs_dilation: [1, 1].as_slice().into(),
        groups,
        channels_last: false,
        acc: DType::F32,
        panel: None,
        winograd: None,
        kernel: [3, 3].as_slice().into(),
    }
}

#[test]
fn convolutions() {
    for dtype in [DType::U8, DType::I8] {
        for (groups, channels) in [(1, 4), (4, 1), (2, 2)] {
            for (form, w_zero) in [(DType::I8, 0), (DType::U8, 128), (DType::I8, 5)] {
                for (x_zero, pads) in [(0.0, ([1, 1], [1, 1])), (37.0, ([1, 0], [0, 2])), (99.0, ([-1, 2], [0, 0]))] {
                    let what = format!("{dtype}, {groups} groups, {form} weights less {w_zero}, zero point {x_zero}");
                    let results = both(dtype, &[&[2, 4, 6, 7]], |b, x| {
                        let real = activation(b, x[0], x_zero)?;
                        let w = weight(b, form, &[8, channels, 3, 3], 0, w_zero)?;
                        let y = b.conv(conv(groups, 1, pads.0, pads.1), real, w)?;
                        let bias: Vec<f32> = (0..8).map(|i| i as f32 * 0.3 - 1.0).collect();
                        let bias = b.constant(TensorBytes::from_f32(&[8, 1, 1], &bias), "b")?;
                        let y = b.add(y, bias)?;
                        let y = b.relu(y)?;
                        quantize(b, y, 11.0, dtype)
                    });
                    assert_close(&what, results);
                }
            }
        }
    }
}

#[test]
fn products_on_either_side() {
    for x_zero in [0.0, 50.0] {
        let right = both(DType::U8, &[&[5, 3, 16]], |b, x| {
            let real = activation(b, x[0], x_zero)?;
            let w = weight(b, DType::I8, &[16, 12], 1, 0)?;
            let y = b.matmul(real, w, DType::F32)?;
            quantize(b, y, 120.0, DType::U8)
        });
        assert_close("a product with a constant on the right", right);
        let left = both(DType::U8, &[&[2, 16, 9]], |b, x| {
            let real = activation(b, x[0], x_zero)?;
            let w = weight(b, DType::I8, &[12, 16], 0, 0)?;
            let y = b.matmul(w, real, DType::F32)?;
            quantize(b, y, 120.0, DType::U8)
        });
        assert_close("a product with a constant on the left", left);
    }
}

#[test]
fn sums_means_pools_and_views() {
    let window = Window {
        op: ReduceOp::Max,
        sizes: [1, 1, 2, 2].as_slice().into(),
        strides: [1, 1, 2, 2].as_slice().into(),
        dilations: [1; 4].as_slice().into(),
        pad_lo: [0; 4].as_slice().into(),
        pad_hi: [0, 0, 1, 1].as_slice().into(),
    };
    for dtype in [DType::U8, DType::I8] {
        let shape: &[i64] = &[2, 5, 5, 5];
        let sum = both(dtype, &[shape, shape], |b, x| {
            let (a, c) = (activation(b, x[0], 7.0)?, activation(b, x[1], 21.0)?);
            let sum = b.add(a, c)?;
            let sum = b.relu(sum)?;
            quantize(b, sum, if dtype == DType::U8 { 2.0 } else { -3.0 }, dtype)
        });
        assert_close("a sum", sum);
        let mean = both(dtype, &[shape], |b, x| {
            let real = activation(b, x[0], 7.0)?;
            let mean = b.mean(real, &[2, 3], true)?;
            quantize(b, mean, 9.0, dtype)
        });
        assert_close("a mean", mean);
        let (expected, found) = both(dtype, &[shape], |b, x| {
            let real = activation(b, x[0], 7.0)?;
            let pooled = b.window(window.clone(), real)?;
            let moved = b.transpose(pooled, &[0, 2, 3, 1])?;
            let flat = b.reshape(moved, &[Dim::from(2), Dim::from(45)])?;
            quantize(b, flat, 7.0, dtype)
        });
        assert_eq!(expected, found);
    }
}
