//! Random numbers, from a counter: element `i` of a node's output is a function of `i` and of the node's key alone. So every
//! run, every number of threads and every target gives the same numbers.
//!
//! The generator is SplitMix64 read at any place: `mix(key + (i + 1) * 0x9e3779b97f4a7c15)` with the finalizer of
//! Steele, Lea and Flood. The upper 24 bits (53 for `f64`) are a uniform number in [0, 1); two of them, at `2i` and
//! `2i + 1`, are a normal one by Box and Muller. The key is `mix` of the attribute `seed`'s bits as `f64`; without a seed it
//! is the FNV-1a hash of the node's place (its name, or `#` and its index, after those of the nodes around it), so that
//! nodes without seeds differ from each other. There is no state: a second run, or a loop's next iteration, draws the same.

use std::collections::HashSet;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar, UnaryOp};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Shape, Value};

use super::Operator;
use super::softmax::softmax_over;
use crate::import::{NodeContext, OpError, OpResult};
use crate::proto::{GraphProto, ModelProto, NodeProto};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Bernoulli", &[15, 22], (1, 1), bernoulli),
    Operator::onnx("Multinomial", &[7, 22], (1, 1), multinomial),
    Operator::onnx("RandomNormal", &[1, 22], (0, 0), |cx| of_shape(cx, Distribution::Normal)),
    Operator::onnx("RandomNormalLike", &[1, 22], (1, 1), |cx| like(cx, Distribution::Normal)),
    Operator::onnx("RandomUniform", &[1, 22], (0, 0), |cx| of_shape(cx, Distribution::Uniform)),
    Operator::onnx("RandomUniformLike", &[1, 22], (1, 1), |cx| like(cx, Distribution::Uniform)),
];

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;

/// The finalizer of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(FIRST);
    let z = (z ^ (z >> 27)).wrapping_mul(SECOND);
    z ^ (z >> 31)
}

/// What decides a node's numbers.
fn key(cx: &NodeContext<'_>) -> u64 {
    let seed = cx.attribute("seed").map(|a| a.f.map_or(a.i.unwrap_or(0) as f64, f64::from));
    match seed {
        Some(seed) => mix(seed.to_bits()),
        None => {
            cx.place_name().bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
        }
    }
}

/// The generator for the elements of a shape.
pub(super) struct Generator {
    key: u64,
    shape: Shape,
    /// The type of the numbers: `f64`, or `f32` for everything else.
    dtype: DType,
}

impl Generator {
    /// The node's generator of numbers for a tensor of that shape.
    pub(super) fn new(cx: &NodeContext<'_>, shape: &[Dim], dtype: DType) -> Generator {
        let dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        Generator { key: key(cx), shape: shape.into(), dtype }
    }

    /// The generator of `f32` for a node whose seed is an operand; without one its place is the seed.
    pub(super) fn with_seed(cx: &NodeContext<'_>, shape: &[Dim], seed: Option<i64>) -> Generator {
        let key = seed.map_or_else(|| key(cx), |seed| mix((seed as f64).to_bits()));
        Generator { key, shape: shape.into(), dtype: DType::F32 }
    }

    /// The row-major position of the element, `i64`.
    fn position(&self, e: &mut ExprBuilder) -> ExprIndex {
        let mut at = e.dim(&Dim::ZERO);
        for (axis, dim) in self.shape.iter().enumerate() {
            let (size, index) = (e.dim(dim), e.index(axis as u32));
            at = if axis == 0 { index } else { e.mul(at, size) };
            if axis > 0 {
                at = e.add(at, index);
            }
        }
        at
    }

    /// A uniform number in [0, 1): number `lane` of `lanes` of the element.
    pub(super) fn uniform(&self, e: &mut ExprBuilder, lane: u64, lanes: u64) -> Result<ExprIndex, BuildError> {
        let word = |e: &mut ExprBuilder, bits: u64| e.constant(Scalar { dtype: DType::U64, bits });
        let at = self.position(e);
        let at = e.cast(DType::U64, at);
        let (step, first) =
            (word(e, STEP.wrapping_mul(lanes)), word(e, self.key.wrapping_add(STEP.wrapping_mul(lane + 1))));
        let ahead = e.mul(at, step);
        let mut z = e.add(ahead, first);
        for (shift, factor) in [(30, Some(FIRST)), (27, Some(SECOND)), (31, None)] {
            let shift = word(e, shift);
            let high = e.binary(BinaryOp::Shr, z, shift);
            z = e.xor(z, high);
            if let Some(factor) = factor {
                let factor = word(e, factor);
                z = e.mul(z, factor);
            }
        }
        let digits = if self.dtype == DType::F64 { 53 } else { 24 };
        let shift = word(e, 64 - digits);
        let top = e.binary(BinaryOp::Shr, z, shift);
        let whole = e.cast(if self.dtype == DType::F64 { DType::I64 } else { DType::I32 }, top);
        let (number, unit) = (e.cast(self.dtype, whole), e.number(self.dtype, (-(digits as f64)).exp2())?);
        Ok(e.mul(number, unit))
    }

    /// A number of the standard normal distribution.
    fn normal(&self, e: &mut ExprBuilder) -> Result<ExprIndex, BuildError> {
        let (a, b) = (self.uniform(e, 0, 2)?, self.uniform(e, 1, 2)?);
        let (one, minus_two) = (e.number(self.dtype, 1.0)?, e.number(self.dtype, -2.0)?);
        let (turn, rest) = (e.number(self.dtype, std::f64::consts::TAU)?, e.sub(one, a));
        let log = e.log(rest);
        let scaled = e.mul(minus_two, log);
        let (radius, angle) = (e.sqrt(scaled), e.mul(turn, b));
        let cosine = e.unary(UnaryOp::Cos, angle);
        Ok(e.mul(radius, cosine))
    }
}

#[derive(Clone, Copy)]
enum Distribution {
    Uniform,
    Normal,
}

/// A tensor of that shape: `low + (high - low) * u`, or `mean + scale * n`.
fn draw(cx: &mut NodeContext<'_>, shape: &[Dim], dtype: DType, distribution: Distribution) -> OpResult {
    if !dtype.is_float() {
        return cx.invalid(format!("random numbers of type {dtype}"));
    }
    let (start, scale) = match distribution {
        Distribution::Uniform => {
            let low = f64::from(cx.float("low", 0.0));
            (low, f64::from(cx.float("high", 1.0)) - low)
        }
        Distribution::Normal => (f64::from(cx.float("mean", 0.0)), f64::from(cx.float("scale", 1.0))),
    };
    let generator = Generator::new(cx, shape, dtype);
    let wide = generator.dtype;
    Ok(vec![cx.b.map_to(shape, &[], |e| {
        let number = match distribution {
            Distribution::Uniform => generator.uniform(e, 0, 1)?,
            Distribution::Normal => generator.normal(e)?,
        };
        let (start, scale) = (e.number(wide, start)?, e.number(wide, scale)?);
        let scaled = e.mul(scale, number);
        let y = e.add(start, scaled);
        Ok(if wide == dtype { y } else { e.cast(dtype, y) })
    })?])
}

fn of_shape(cx: &mut NodeContext<'_>, distribution: Distribution) -> OpResult {
    let Some(shape) = cx.ints("shape") else { return cx.invalid("attribute `shape` is missing") };
    if shape.iter().any(|&d| d < 0) {
        return cx.invalid(format!("attribute `shape` is {shape:?}"));
    }
    let shape: Vec<Dim> = shape.iter().map(|&d| Dim::from(d)).collect();
    let dtype = cx.dtype("dtype")?.unwrap_or(DType::F32);
    draw(cx, &shape, dtype, distribution)
}

fn like(cx: &mut NodeContext<'_>, distribution: Distribution) -> OpResult {
    let x = cx.input(0)?;
    let (shape, dtype) = (cx.b.shape(x)?, cx.dtype("dtype")?);
    let dtype = match dtype {
        Some(dtype) => dtype,
        None => cx.b.dtype(x)?,
    };
    draw(cx, &shape, dtype, distribution)
}

/// 1 with the probability that the element of the input is.
fn bernoulli(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let (shape, from) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let to = cx.dtype("dtype")?.unwrap_or(from);
    let generator = Generator::new(cx, &shape, from);
    let hit = cx.b.map_to(&shape, &[x], |e| {
        let (p, u) = (e.arg(0), generator.uniform(e, 0, 1)?);
        let p = if generator.dtype == from { p } else { e.cast(generator.dtype, p) };
        Ok(e.lt(u, p))
    })?;
    Ok(vec![cx.b.cast(hit, to)?])
}

/// Classes `[batch, samples]` drawn by the logarithms of their weights `[batch, classes]`: the number of classes whose
/// running sum of probabilities is not above a uniform number.
fn multinomial(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let shape = cx.b.shape(x)?;
    let [batch, classes] = &shape[..] else {
        return cx.invalid(format!("an input of {} dimensions instead of 2", shape.len()));
    };
    let samples = match cx.int("sample_size", 1) {
        n @ 0.. => Dim::from(n),
        other => return cx.invalid(format!("attribute `sample_size` is {other}")),
    };
    let to = cx.dtype("dtype")?.unwrap_or(DType::I32);
    let dtype = cx.b.dtype(x)?;
    let generator = Generator::new(cx, &[batch.clone(), samples.clone()], dtype);
    let x = cx.b.cast(x, generator.dtype)?;
    let weights = softmax_over(&mut cx.b, x, 1, false)?;
    let sums = cx.b.cumulate(ReduceOp::Sum, weights, 1, false, false)?;
    let sums = cx.b.unsqueeze(sums, &[1])?;
    let numbers = cx.b.map_to(&[batch.clone(), samples], &[], |e| generator.uniform(e, 0, 1))?;
    let numbers = cx.b.unsqueeze(numbers, &[2])?;
    let last = (classes - &Dim::ONE)?;
    let passed = cx.b.map(&[numbers, sums], |e| {
        let (u, sum) = (e.arg(0), e.arg(1));
        let passed = e.ge(u, sum);
        Ok(e.cast(DType::I64, passed))
    })?;
    let class = cx.b.reduce(ReduceOp::Sum, passed, &[2], false)?;
    // The last sum may be a little below 1.
    let class = cx.b.map(&[class], |e| {
        let (class, last) = (e.arg(0), e.dim(&last));
        Ok(e.min(class, last))
    })?;
    Ok(vec![cx.b.cast(class, to)?])
}

/// Dropout while it trains: `x / (1 - ratio)` where a uniform number is not below `ratio`, else 0; and the mask of what was
/// kept. Where the scalar `training` is given and false, `x` itself.
pub(super) fn dropout(
    cx: &mut NodeContext<'_>,
    x: Value,
    ratio: Option<Value>,
    training: Option<Value>,
) -> Result<[Value; 2], OpError> {
    let (shape, dtype) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let generator = Generator::new(cx, &shape, dtype);
    let wide = generator.dtype;
    let ratio = match ratio {
        Some(ratio) => {
            let ratio = cx.b.reshape(ratio, &[])?;
            cx.b.cast(ratio, wide)?
        }
        None => cx.b.number(wide, 0.5)?,
    };
    let training = match training {
        Some(training) => cx.b.reshape(training, &[])?,
        None => cx.b.scalar_bool(true),
    };
    let mask = cx.b.map_to(&shape, &[ratio, training], |e| {
        let (ratio, training) = (e.arg(0), e.arg(1));
        let u = generator.uniform(e, 0, 1)?;
        let (kept, idle) = (e.ge(u, ratio), e.unary(UnaryOp::Not, training));
        Ok(e.or(kept, idle))
    })?;
    let y = cx.b.map(&[x, mask, ratio, training], |e| {
        let (x, mask, ratio, training) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
        let (one, zero) = (e.number(wide, 1.0)?, e.number(wide, 0.0)?);
        let wide_x = if wide == dtype { x } else { e.cast(wide, x) };
        let rest = e.sub(one, ratio);
        let scaled = e.div(wide_x, rest);
        let kept = e.select(mask, scaled, zero);
        let y = e.select(training, kept, wide_x);
        Ok(if wide == dtype { y } else { e.cast(dtype, y) })
    })?;
    Ok([y, mask])
}

/// For each output of the model, whether random numbers reach it.
pub fn random_outputs(model: &ModelProto) -> Vec<bool> {
    let Some(graph) = model.graph.as_deref() else { return Vec::new() };
    // Functions that draw, and those that call them.
    let mut drawing: HashSet<&str> = HashSet::new();
    for _ in 0..=model.functions.len() {
        for function in &model.functions {
            if function.node.iter().any(|n| draws(n, &drawing)) {
                drawing.insert(&function.name);
            }
        }
    }
    let mut random: HashSet<&str> = HashSet::new();
    for node in &graph.node {
        let captures = node.attribute.iter().filter_map(|a| a.g.as_deref()).any(|g| reads(g, &random));
        if draws(node, &drawing) || captures || node.input.iter().any(|n| random.contains(n.as_str())) {
            random.extend(node.output.iter().map(String::as_str));
        }
    }
    graph.output.iter().map(|o| random.contains(o.name.as_str())).collect()
}

/// Whether a node draws random numbers.
fn draws(node: &NodeProto, functions: &HashSet<&str>) -> bool {
    let row = OPERATORS.iter().any(|o| o.name == node.op_type && node.domain.is_empty());
    let trains = node.op_type == "Dropout" && node.input.get(2).is_some_and(|n| !n.is_empty());
    let inner = node.attribute.iter().filter_map(|a| a.g.as_deref()).flat_map(|g| &g.node);
    row || trains || functions.contains(node.op_type.as_str()) || { inner }.any(|n| draws(n, functions))
}

/// Whether a subgraph uses one of the names.
fn reads(graph: &GraphProto, names: &HashSet<&str>) -> bool {
    graph.node.iter().any(|n| {
        n.input.iter().any(|i| names.contains(i.as_str()))
            || n.attribute.iter().filter_map(|a| a.g.as_deref()).any(|g| reads(g, names))
    }) || graph.output.iter().any(|o| names.contains(o.name.as_str()))
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::tensor::TensorBytes;

    use super::{STEP, mix};
    use crate::ops::test_model::TestModel;

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n)
    }

    #[test]
    fn uniform_numbers_are_those_of_the_generator() {
        let model = || TestModel::new("RandomUniform", 22).ints("shape", &[3, 1000]);
        let (_, y) = model().float("seed", 2.5).float("low", -1.0).float("high", 3.0).run();
        let key = mix(2.5f64.to_bits());
        for i in [0u64, 1, 1234, 2999] {
            let word = mix(key.wrapping_add((i + 1).wrapping_mul(STEP)));
            let u = (word >> 40) as f32 * (-24f32).exp2();
            assert_eq!(y[i as usize], -1.0 + 4.0 * u);
        }
        let (mean, variance) = moments(&y);
        assert!((mean - 1.0).abs() < 0.1 && (variance - 16.0 / 12.0).abs() < 0.1, "{mean} {variance}");
        assert_ne!(y, model().float("seed", 2.0).run().1);
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let y = TestModel::new("RandomNormal", 1).ints("shape", &[5000]).float("mean", 2.0).float("scale", 3.0);
        let (mean, variance) = moments(&y.run().1);
        assert!((mean - 2.0).abs() < 0.2 && (variance - 9.0).abs() < 0.6, "{mean} {variance}");
    }

    #[test]
    fn classes_are_drawn_by_their_weights() {
        let weights = [0.1f32, 0.6, 0.3];
        let y = TestModel::new("Multinomial", 22).int("sample_size", 4000).float("seed", 1.0);
        let y = y.dynamic(&[1, 3], &weights.map(f32::ln)).run_all();
        let drawn = y[0].to_i64().expect("integers");
        for (class, &weight) in weights.iter().enumerate() {
            let share = drawn.iter().filter(|&&c| c == class as i64).count() as f32 / 4000.0;
            assert!((share - weight).abs() < 0.04, "class {class}: {share}");
        }
    }

    #[test]
    fn dropout_keeps_what_it_does_not_scale() {
        let truth = |value| TensorBytes { dtype: DType::Bool, shape: [].as_slice().into(), bytes: vec![value].into() };
        let model = |training| {
            let model = TestModel::new("Dropout", 22).outputs(2).int("seed", 3);
            model.input(&[1000], &[2.0; 1000]).input(&[], &[0.75]).declared(&[], truth(training)).run_all()
        };
        let (trained, used) = (model(1), model(0));
        let y = trained[0].to_f32().expect("floats");
        let kept = trained[1].to_i64().expect("a mask");
        assert!(y.iter().zip(&kept).all(|(&y, &k)| y == 8.0 * k as f32));
        assert!((200..300).contains(&kept.iter().sum::<i64>()));
        assert_eq!(used[0].to_f32(), Some(vec![2.0; 1000]));
        assert_eq!(used[1].to_i64(), Some(vec![1; 1000]));
    }
}
