//! Control flow: branches and loops over subgraphs.

mod scan;

use onnxc_ir::dim::{Dim, Symbol};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::op::Coord;
use onnxc_ir::tensor::{Builder, Shape, Type, Value};

use super::Operator;
use crate::import::{NodeContext, OpError, OpResult, Subgraph};
use crate::proto::{DimensionValue, TypeValue, ValueInfoProto};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("If", &[1, 11, 13, 16, 19, 21, 23, 24, 25], (1, 1), branch),
    Operator::onnx("Loop", &[1, 11, 13, 16, 19, 21, 23, 24, 25], (2, usize::MAX), repeat),
    Operator::onnx("Scan", &[8, 9, 11, 16, 19, 21, 23, 24, 25], (1, usize::MAX), scan::scan),
];

/// Types of carried values are widened at most this often, which is once per dimension of a tensor and more.
const MAX_ATTEMPTS: usize = 12;

/// A tensor of one element as a scalar.
fn scalar(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    Ok(cx.b.reshape(x, &[])?)
}

/// Of a condition that is known, only the branch it chooses is imported.
fn branch(cx: &mut NodeContext<'_>) -> OpResult {
    let condition = cx.input(0)?;
    let condition = scalar(cx, condition)?;
    if cx.b.dtype(condition)? != DType::Bool {
        return cx.invalid(format!("a condition of type {}", cx.b.dtype(condition)?));
    }
    let importer = cx.importer();
    if let Some([known]) = cx.b.known_i64s(condition).as_deref() {
        let chosen = cx.subgraph(if *known != 0 { "then_branch" } else { "else_branch" })?;
        return importer.import(&mut cx.b, &chosen, &[], &chosen.captures);
    }
    let (then, otherwise) = (cx.subgraph("then_branch")?, cx.subgraph("else_branch")?);
    let mut captures: Vec<Value> = Vec::new();
    let mut places = |sub: &Subgraph<'_>| -> Vec<usize> {
        let mut place = |value: Value| {
            captures.iter().position(|&c| c == value).unwrap_or_else(|| {
                captures.push(value);
                captures.len() - 1
            })
        };
        sub.captures.iter().map(|&c| place(c)).collect()
    };
    let (then_places, otherwise_places) = (places(&then), places(&otherwise));
    // Sequences and optionals leave the branches as their tensors.
    let (mut models, mut structures) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut import = |b: &mut Builder<'_>, side: usize, sub: &Subgraph<'_>, places: &[usize], inner: &[Value]| {
        let captures: Vec<Value> = places.iter().map(|&p| inner[p]).collect();
        let mut inside = || {
            models = importer.import(b, sub, &[], &captures)?;
            let (tensors, structure) = importer.take_apart(&models);
            structures[side] = structure;
            if side == 1 && structures[0] != structures[1] {
                let message = "branches that give sequences of different lengths, or optionals of which one is empty";
                return Err(OpError::Unsupported(message.into()));
            }
            Ok(tensors)
        };
        inside().map_err(Branched)
    };
    let import = std::cell::RefCell::new(&mut import);
    let tensors = cx.b.if_(
        condition,
        &captures,
        |b, inner| import.borrow_mut()(b, 0, &then, &then_places, inner),
        |b, inner| import.borrow_mut()(b, 1, &otherwise, &otherwise_places, inner),
    );
    let tensors = tensors.map_err(|Branched(error)| error)?;
    Ok(importer.put_together(&mut cx.b, &models, &tensors))
}

/// Why a branch was not built. What is wrong with the branches together, and with neither alone, is that their types
/// differ, which ONNX allows.
struct Branched(OpError);

impl From<BuildError> for Branched {
    fn from(error: BuildError) -> Branched {
        Branched(OpError::Differing(error.to_string()))
    }
}

/// Why the body of a loop was left.
enum Leave {
    /// Something is wrong.
    Error(OpError),
    /// It has to be imported again, with what was found out meanwhile.
    Again,
}

impl From<BuildError> for Leave {
    fn from(error: BuildError) -> Leave {
        Leave::Error(error.into())
    }
}

impl From<OpError> for Leave {
    fn from(error: OpError) -> Leave {
        Leave::Error(error)
    }
}

/// A loop over a subgraph.
struct LoopImport<'a, 's> {
    sub: &'s Subgraph<'a>,
    trip_count: Value,
    condition: Value,
    /// The first values of what is carried.
    initial: Vec<Value>,
    /// Values that only the inputs of the body are made from.
    sources: Vec<Value>,
    /// The number of iterations, if the body never ends the loop.
    iterations: Option<Dim>,
    /// Whether the body's first output says if the loop goes on.
    conditional: bool,
}

impl LoopImport<'_, '_> {
    /// Builds the loop. `inputs` makes the body's inputs of the iteration, the carried values and the sources.
    fn build(
        mut self,
        cx: &mut NodeContext<'_>,
        inputs: impl Fn(&mut Builder<'_>, Value, &[Value], &[Value]) -> Result<Vec<Value>, OpError>,
    ) -> OpResult {
        let importer = cx.importer();
        let count = self.initial.len();
        let mut types: Vec<Type> = self.initial.iter().map(|&v| cx.b.ty(v).clone()).collect();
        let mut fresh = Vec::new();
        let assumptions = cx.b.graph.assumptions.clone();
        for _ in 0..MAX_ATTEMPTS {
            let spec = LoopSpec {
                trip_count: self.trip_count,
                condition: self.condition,
                carried: self.initial.iter().copied().zip(types.iter().cloned()).collect(),
                captures: self.sources.iter().copied().chain(self.sub.captures.iter().copied()).collect(),
                iterations: self.iterations.clone(),
            };
            let (sources, sub) = (self.sources.len(), self.sub);
            let (conditional, iterations) = (self.conditional, &mut self.iterations);
            let result = cx.b.loop_(&spec, |b, i, carried, captures| {
                let inputs = inputs(b, i, carried, &captures[..sources])?;
                let mut outputs = importer.import(b, sub, &inputs, &captures[sources..])?;
                if outputs.len() < count + usize::from(conditional) {
                    return Err(Leave::Error(OpError::Invalid("the body has too few outputs".into())));
                }
                let condition = if conditional {
                    let condition = outputs.remove(0);
                    b.reshape(condition, &[])?
                } else {
                    b.scalar_bool(true)
                };
                let scanned = outputs.split_off(count);
                let declared = &self.sub.proto.output[usize::from(conditional)..];
                let widened = widen(b, &mut types, &outputs, declared, &mut fresh)?;
                let ends = b.known_i64s(condition).as_deref() != Some(&[1]);
                if widened || (ends && iterations.take().is_some()) {
                    return Err(Leave::Again);
                }
                Ok((condition, outputs, scanned))
            });
            match result {
                Ok(values) => return Ok(values),
                Err(Leave::Error(error)) => return Err(error),
                // What the body assumed about sizes that are not fixed after all is void.
                Err(Leave::Again) => cx.b.graph.assumptions.clone_from(&assumptions),
            }
        }
        cx.unsupported("the shapes of carried values do not settle")
    }
}

/// Makes the sizes that differ between what the body takes and gives unknown, each a symbol of its own, which `fresh`
/// collects; whether there were any.
///
/// A size that data decides and that the body declares to be what it takes is a promise, which a run tests.
fn widen(
    b: &mut Builder<'_>,
    types: &mut [Type],
    results: &[Value],
    declared: &[ValueInfoProto],
    fresh: &mut Vec<Symbol>,
) -> Result<bool, OpError> {
    let mut changed = false;
    for (n, (ty, &result)) in types.iter_mut().zip(results).enumerate() {
        let (Type::Tensor(taken), Type::Tensor(given)) = (&mut *ty, b.ty(result).clone()) else {
            return Err(OpError::Unsupported(CARRIED_LIST.into()));
        };
        if taken.dtype != given.dtype {
            let message = format!("a loop carries {} and its body gives {}", taken.dtype, given.dtype);
            return Err(OpError::Invalid(message));
        }
        if taken.rank() != given.rank() {
            let message = "a loop that carries a tensor whose number of dimensions changes".into();
            return Err(OpError::Unsupported(message));
        }
        for (axis, (t, g)) in taken.shape.iter_mut().zip(&given.shape).enumerate() {
            let promised = declared.get(n).and_then(|info| declared_size(info, axis));
            if promised.is_some_and(|size| *t == size) && g.as_const().is_none() {
                b.graph.assume_equal(g, t).map_err(|e| OpError::Invalid(e.to_string()))?;
            }
            // A size that is a symbol of its own takes anything.
            if !t.as_symbol().is_some_and(|s| fresh.contains(&s)) && !b.graph.same_dim(t, g) {
                let symbol = b.graph.symbols.fresh("carried");
                fresh.push(symbol);
                *t = Dim::from(symbol);
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// The size of an axis that a value is declared with, where it is a number.
fn declared_size(info: &ValueInfoProto, axis: usize) -> Option<i64> {
    let Some(TypeValue::TensorType(ty)) = info.r#type.as_deref().and_then(|t| t.value.as_ref()) else { return None };
    match ty.shape.as_ref()?.dim.get(axis)?.value {
        Some(DimensionValue::DimValue(size)) => Some(size),
        _ => None,
    }
}

fn repeat(cx: &mut NodeContext<'_>) -> OpResult {
    let sub = cx.subgraph("body")?;
    let initial: Vec<Value> = (2..cx.input_count()).map(|n| cx.input(n)).collect::<Result<_, _>>()?;
    let (trip_count, known_count) = match cx.optional(0) {
        Some(m) => {
            let m = scalar(cx, m)?;
            let known = cx.b.known_dims(m).and_then(|m| m.into_iter().next());
            (cx.b.cast(m, DType::I64)?, known)
        }
        None => (cx.b.scalar_i64(i64::MAX), None),
    };
    let condition = match cx.optional(1) {
        Some(condition) => scalar(cx, condition)?,
        None => cx.b.scalar_bool(true),
    };
    if initial.iter().any(|&v| cx.held(v).is_some()) {
        return written_out(cx, &sub, initial, known_count.and_then(|c| c.as_const()), condition);
    }
    let always = cx.b.known_i64s(condition).as_deref() == Some(&[1]);
    let iterations = match known_count.filter(|_| always) {
        Some(count) => Some(cx.b.graph.greater_dim(&count, &Dim::ZERO)?),
        None => None,
    };
    let import =
        LoopImport { sub: &sub, trip_count, condition, initial, sources: Vec::new(), iterations, conditional: true };
    import.build(cx, |b, i, carried, _| {
        // The body runs only while its condition holds.
        let condition = b.scalar_bool(true);
        Ok([i, condition].into_iter().chain(carried.iter().copied()).collect())
    })
}

const CARRIED_LIST: &str =
    "a loop that carries a sequence or an optional and whose number of iterations depends on data";

/// Loops that carry sequences are written out; no more iterations than this.
const MAX_ITERATIONS: i64 = 1024;

/// A loop of a known number of iterations, each imported on its own, so that sequences may grow.
fn written_out(
    cx: &mut NodeContext<'_>,
    sub: &Subgraph<'_>,
    mut carried: Vec<Value>,
    count: Option<i64>,
    condition: Value,
) -> OpResult {
    let going = |cx: &NodeContext<'_>, condition: Value| match cx.b.known_i64s(condition).as_deref() {
        Some([going]) => Ok(*going != 0),
        _ => cx.unsupported(CARRIED_LIST),
    };
    let Some(count) = count else { return cx.unsupported(CARRIED_LIST) };
    let (importer, scans) = (cx.importer(), cx.output_count().saturating_sub(carried.len()));
    let mut stacked: Vec<Vec<Value>> = vec![Vec::new(); scans];
    let mut runs = going(cx, condition)?;
    for i in 0..count {
        if !runs {
            break;
        }
        if i == MAX_ITERATIONS {
            return cx
                .unsupported(format!("a loop that carries a sequence through more than {MAX_ITERATIONS} iterations"));
        }
        let mut inputs = vec![cx.b.scalar_i64(i), cx.b.scalar_bool(true)];
        inputs.extend(&carried);
        let mut outputs = importer.import(&mut cx.b, sub, &inputs, &sub.captures)?;
        if outputs.len() < 1 + carried.len() + scans {
            return cx.invalid("the body has too few outputs");
        }
        runs = going(cx, outputs.remove(0))?;
        let scanned = outputs.split_off(carried.len());
        carried = outputs;
        for (parts, value) in stacked.iter_mut().zip(scanned) {
            parts.push(cx.b.unsqueeze(value, &[0])?);
        }
    }
    for parts in stacked {
        if parts.is_empty() {
            return cx.unsupported("scan outputs of a loop without iterations");
        }
        carried.push(cx.b.concat(&parts, 0)?);
    }
    Ok(carried)
}

/// The slice at a position along an axis, without the axis.
pub(super) fn slice_at(b: &mut Builder<'_>, x: Value, axis: usize, at: Value) -> Result<Value, BuildError> {
    let mut shape: Shape = b.shape(x)?;
    let coords: Vec<Coord> = (0..shape.len())
        .map(|i| match i.cmp(&axis) {
            std::cmp::Ordering::Less => Coord::Axis(i as u32),
            std::cmp::Ordering::Equal => Coord::Input(0),
            std::cmp::Ordering::Greater => Coord::Axis(i as u32 - 1),
        })
        .collect();
    shape.remove(axis);
    b.gather(x, &[at], &coords, &shape)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::{TestModel, floats, node, value_info};
    use crate::proto::ValueInfoProto;

    fn truth(value: bool) -> TensorBytes {
        TensorBytes { dtype: DType::Bool, shape: [].as_slice().into(), bytes: vec![u8::from(value)].into() }
    }

    fn body_inputs(carried: &[i64]) -> Vec<ValueInfoProto> {
        vec![
            value_info("i", DType::I64, &[]),
            value_info("going", DType::Bool, &[]),
            value_info("c", DType::F32, carried),
        ]
    }

    #[test]
    fn only_the_chosen_branch_is_imported() {
        let branches = |model: TestModel| {
            let unknown = vec![node("NoSuchOperator", &[], &["z"])];
            let constant = vec![{
                let mut constant = node("Constant", &[], &["z"]);
                constant.attribute.push(crate::proto::AttributeProto {
                    name: "value_float".into(),
                    f: Some(5.0),
                    ..Default::default()
                });
                constant
            }];
            model.graph("then_branch", vec![], constant, &["z"]).graph("else_branch", vec![], unknown, &["z"])
        };
        assert_eq!(branches(TestModel::new("If", 16).constant(truth(true))).run().1, [5.0]);
        let error = branches(TestModel::new("If", 16).declared(&[], truth(true))).error();
        assert!(error.contains("NoSuchOperator"), "{error}");
    }

    #[test]
    fn a_carried_size_may_grow() {
        // c = concat(c, c); the results are c and its size in each iteration.
        let nodes = vec![
            node("Concat", &["c", "c"], &["longer"]),
            node("Shape", &["longer"], &["size"]),
            node("Identity", &["going"], &["more"]),
        ];
        let nodes = nodes
            .into_iter()
            .map(|mut n| {
                if n.op_type == "Concat" {
                    let axis = crate::proto::AttributeProto { name: "axis".into(), i: Some(0), ..Default::default() };
                    n.attribute.push(axis);
                }
                n
            })
            .collect();
        let results = TestModel::new("Loop", 16)
            .outputs(2)
            .declared(&[], TensorBytes::from_i64(&[], &[3]))
            .absent()
            .input(&[1], &[7.0])
            .graph("body", body_inputs(&[-1]), nodes, &["more", "longer", "size"])
            .run_all();
        assert_eq!(floats(&results[0]), (vec![8], vec![7.0; 8]));
        assert_eq!(results[1].to_i64(), Some(vec![2, 4, 8]));
    }

    #[test]
    fn a_loop_ends_when_its_condition_does() {
        // c = c + c while it is below 100.
        let nodes = vec![
            node("Add", &["c", "c"], &["twice"]),
            node("Less", &["twice", "x3"], &["more"]),
            node("Identity", &["twice"], &["seen"]),
        ];
        let results = TestModel::new("Loop", 16)
            .outputs(2)
            .absent()
            .constant(truth(true))
            .input(&[], &[3.0])
            .floats(&[], &[100.0])
            .graph("body", body_inputs(&[]), nodes, &["more", "twice", "x3", "seen"]);
        // The limit is carried as well, under the name by which the body also sees it from outside.
        let results = results.outputs(3).run_all();
        assert_eq!(floats(&results[0]).1, [192.0]);
        assert_eq!(floats(&results[2]), (vec![6], vec![6.0, 12.0, 24.0, 48.0, 96.0, 192.0]));
    }
}
