//! The check of what a node states against what follows from its inputs.
//!
//! Some types follow wholly, of others only the element type or the rank; what a node may choose (the shape of a
//! broadcast, the size of a slice) is checked here against its operands.

use super::{InferError, Inputs, OutputType, check_axis_coords, infer, mismatch};
use crate::dim::Dim;
use crate::scalar::ScalarInst;
use crate::strings::StringFunction;
use crate::tensor::op::{Contract, Coord};
use crate::tensor::shape::element_count;
use crate::tensor::{Graph, Op, TensorType, Type};

/// Checks an operation against the types of its inputs and the output types that its node states.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(graph: &Graph, op: &Op, inputs: &[&Type], outputs: &[&Type]) -> Result<(), InferError> {
    if let Op::Strings(function) = op {
        return check_strings(graph, *function, inputs, outputs);
    }
    let inferred = infer(graph, op, inputs)?;
    if inferred.len() != outputs.len() {
        return Err(InferError::Outputs { expected: inferred.len(), found: outputs.len() });
    }
    for (i, (derived, stated)) in inferred.iter().zip(outputs).enumerate() {
        let fits = match (derived, stated) {
            (OutputType::Exact(a), b) => graph.same_type(a, b),
            (OutputType::Partial(dtype, dims), Type::Tensor(t)) => {
                let dim_fits = |(a, b): (&Option<Dim>, &Dim)| a.as_ref().is_none_or(|a| graph.same_dim(a, b));
                t.dtype == *dtype && t.rank() == dims.len() && dims.iter().zip(&t.shape).all(dim_fits)
            }
            (OutputType::Stated(dtype), Type::Tensor(t)) => t.dtype == *dtype,
            (OutputType::Partial(..) | OutputType::Stated(_), _) => false,
        };
        if !fits {
            let derived = match derived {
                OutputType::Exact(t) => graph.type_text(t),
                OutputType::Partial(dtype, dims) => {
                    let dims: Vec<String> = dims
                        .iter()
                        .map(|d| d.as_ref().map_or("?".into(), |d| d.display(&graph.symbols).to_string()))
                        .collect();
                    format!("{dtype}[{}]", dims.join(", "))
                }
                OutputType::Stated(dtype) => format!("a tensor of {dtype}"),
            };
            return mismatch(format!("output {i} is stated as {} and is {derived}", graph.type_text(stated)));
        }
        if let Type::Tensor(t) = stated
            && let Some(d) = t.shape.iter().find(|d| d.bounds(&graph.symbols).1 < 0)
        {
            return mismatch(format!("output {i} has the negative size {}", d.display(&graph.symbols)));
        }
    }
    check_stated(graph, op, inputs, outputs)
}

/// The results of a function on strings are what its node states, where they fit the function.
fn check_strings(
    graph: &Graph,
    function: StringFunction,
    inputs: &[&Type],
    outputs: &[&Type],
) -> Result<(), InferError> {
    let ins = Inputs { graph, types: inputs };
    let operands = (0..inputs.len()).map(|n| ins.tensor(n)).collect::<Result<Vec<_>, _>>()?;
    let results: Option<Vec<&TensorType>> = outputs.iter().map(|t| t.as_tensor()).collect();
    if results.is_some_and(|results| function.fits(&operands, &results)) {
        return Ok(());
    }
    let text = |types: &[&Type]| types.iter().map(|t| graph.type_text(t).to_string()).collect::<Vec<_>>().join(", ");
    mismatch(format!("{} is no function from ({}) to ({})", function.symbol(), text(inputs), text(outputs)))
}

/// What only the stated shape allows to check.
fn check_stated(graph: &Graph, op: &Op, inputs: &[&Type], outputs: &[&Type]) -> Result<(), InferError> {
    let ins = Inputs { graph, types: inputs };
    let stated = || outputs[0].as_tensor().ok_or(InferError::Outputs { expected: 1, found: 0 });
    match op {
        Op::Elementwise(expr) => {
            let out = stated()?;
            for n in 0..inputs.len() {
                broadcasts(&ins, n, out)?;
            }
            for inst in &expr.insts {
                if let ScalarInst::Index(axis) = inst {
                    ins.axis(*axis, out.rank())?;
                }
            }
            Ok(())
        }
        Op::Broadcast => broadcasts(&ins, 0, stated()?),
        Op::Reshape => {
            let (x, out) = (ins.one()?, stated()?);
            if graph.same_dim(&element_count(&x.shape)?, &element_count(&out.shape)?) {
                return Ok(());
            }
            let (a, b) = (graph.shape_text(&x.shape), graph.shape_text(&out.shape));
            mismatch(format!("reshapes {a} to {b}, which has another number of elements"))
        }
        Op::Slice { starts, steps } => {
            let (x, out) = (ins.one()?, stated()?);
            if x.rank() != out.rank() {
                return mismatch(format!("a slice of rank {} is stated with rank {}", x.rank(), out.rank()));
            }
            for i in 0..x.rank() {
                check_slice(graph, &x.shape[i], &starts[i], &out.shape[i], steps[i])?;
            }
            Ok(())
        }
        Op::Gather { coords } => {
            let (data, out) = (ins.tensor(0)?, stated()?);
            ins.indices(1, &out.shape)?;
            check_axis_coords(coords, out.rank())?;
            for (coord, size) in coords.iter().zip(&data.shape) {
                if let Coord::Axis(a) = coord
                    && let (Some(have), Some(want)) = (size.as_const(), out.shape[*a as usize].as_const())
                    && want > have
                {
                    return mismatch(format!("axis {a} of the positions has size {want} and the data {have}"));
                }
            }
            Ok(())
        }
        Op::Contract(Contract { panel: Some(panel), rhs, out, .. }) => {
            let columns = out.iter().position(|l| Some(l) == rhs.get(1)).map(|i| stated().map(|t| t.shape[i].clone()));
            check_panels(graph, columns.transpose()?, &ins.tensor(1)?.shape[0], panel.columns)
        }
        Op::Conv(c) => match c.panel {
            Some(panel) if c.groups == 1 => {
                let axis = if c.channels_last { c.kernel.len() + 1 } else { 1 };
                check_panels(graph, Some(stated()?.shape[axis].clone()), &ins.tensor(1)?.shape[0], panel.columns)
            }
            Some(_) | None => Ok(()),
        },
        Op::Constant(_)
        | Op::DimValue(_)
        | Op::BindSizes { .. }
        | Op::Reduce { .. }
        | Op::Cumulate { .. }
        | Op::Contract(_)
        | Op::Window(_)
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Concat { .. }
        | Op::Scatter { .. }
        | Op::Sort { .. }
        | Op::External(_)
        | Op::Strings(_)
        | Op::If { .. }
        | Op::Loop { .. }
        | Op::Composite { .. }
        | Op::Group { .. } => Ok(()),
    }
}

fn check_panels(graph: &Graph, columns: Option<Dim>, panels: &Dim, nr: u32) -> Result<(), InferError> {
    if let Some(columns) = &columns
        && !graph.same_dim(&columns.ceil_div(&Dim::from(i64::from(nr)))?, panels)
    {
        let (c, p) = (columns.display(&graph.symbols), panels.display(&graph.symbols));
        return mismatch(format!("{c} columns in {p} panels of {nr}"));
    }
    Ok(())
}

fn broadcasts(ins: &Inputs<'_>, n: usize, out: &TensorType) -> Result<(), InferError> {
    let x = ins.tensor(n)?;
    if ins.graph.broadcasts_to(&x.shape, &out.shape) {
        return Ok(());
    }
    let (from, to) = (ins.graph.shape_text(&x.shape), ins.graph.shape_text(&out.shape));
    mismatch(format!("input {n} of shape {from} does not broadcast to {to}"))
}

/// An index out of range is an error where the bounds of the symbols prove it.
fn check_slice(graph: &Graph, size: &Dim, start: &Dim, count: &Dim, step: i64) -> Result<(), InferError> {
    if count.bounds(&graph.symbols).0 < 1 {
        return Ok(());
    }
    let last = (start + &(&(count - &Dim::ONE)? * &Dim::from(step))?)?;
    for index in [start, &last] {
        let beyond = (&graph.rewrite_dim(index) - &graph.rewrite_dim(size))?;
        if index.bounds(&graph.symbols).1 < 0 || beyond.bounds(&graph.symbols).0 >= 0 {
            let s = &graph.symbols;
            let (start, count, size) = (start.display(s), count.display(s), size.display(s));
            return mismatch(format!("slice of {count} from {start} in steps of {step} leaves the size {size}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::dtype::DType;
    use crate::scalar::ScalarExpr;
    use crate::tensor::CompositeKind;

    fn t(dtype: DType, shape: &[i64]) -> Type {
        TensorType::fixed(dtype, shape).into()
    }

    fn error(graph: &Graph, op: &Op, inputs: &[&Type], outputs: &[&Type]) -> String {
        check(graph, op, inputs, outputs).expect_err("ill-typed").to_string()
    }

    #[test]
    fn stated_shapes_are_checked() {
        let graph = Graph::new("t");
        let x = t(DType::F32, &[2, 3]);
        let identity = Op::Elementwise(ScalarExpr::identity());
        assert_eq!(check(&graph, &identity, &[&x], &[&t(DType::F32, &[4, 2, 3])]), Ok(()));
        assert!(error(&graph, &identity, &[&x], &[&t(DType::F32, &[3, 3])]).contains("does not broadcast to [3, 3]"));
        assert!(error(&graph, &identity, &[&x], &[&t(DType::I64, &[2, 3])]).contains("is a tensor of f32"));
        assert!(error(&graph, &Op::Reshape, &[&x], &[&t(DType::F32, &[5])]).contains("another number of elements"));
        let index = Op::Elementwise(ScalarExpr { insts: vec![ScalarInst::Index(2)] });
        assert_eq!(error(&graph, &index, &[], &[&t(DType::I64, &[2, 3])]), "axis 2 of rank 2");
        let negative = Op::Elementwise(ScalarExpr { insts: vec![ScalarInst::Index(0)] });
        assert!(error(&graph, &negative, &[], &[&t(DType::I64, &[-1])]).contains("negative size -1"));
    }

    #[test]
    fn slices_stay_inside() {
        let graph = Graph::new("t");
        let x = t(DType::F32, &[10]);
        let slice = |start: i64, step| Op::Slice { starts: smallvec![start.into()], steps: smallvec![step] };
        assert_eq!(check(&graph, &slice(9, -3), &[&x], &[&t(DType::F32, &[4])]), Ok(()));
        assert_eq!(check(&graph, &slice(99, 1), &[&x], &[&t(DType::F32, &[0])]), Ok(()));
        for (start, step, count) in [(9, -3, 5), (-1, 1, 1), (3, 2, 5)] {
            let text = error(&graph, &slice(start, step), &[&x], &[&t(DType::F32, &[count])]);
            assert!(text.contains("leaves the size 10"), "{text}");
        }
        assert!(error(&graph, &slice(0, 0), &[&x], &[&x]).contains("steps"));
    }

    #[test]
    fn regions_meet_their_users() {
        let mut graph = Graph::new("t");
        let x = t(DType::F32, &[2]);
        let body = graph.add_region();
        let p = graph.add_param(body, x.clone());
        graph.regions[body].results.push(p);
        let op = Op::Composite { kind: CompositeKind::Function("f".into()), body };
        assert_eq!(infer(&graph, &op, &[&x]), Ok(smallvec![OutputType::Exact(x.clone())]));
        assert_eq!(check(&graph, &op, &[&x], &[]), Err(InferError::Outputs { expected: 1, found: 0 }));
        let y = t(DType::F32, &[3]);
        assert_eq!(error(&graph, &op, &[&y], &[&x]), "parameter 0 is f32[3] and should be f32[2]");
        assert_eq!(error(&graph, &op, &[], &[&x]), "region1 takes 1 values and gets 0");
        let sequence = Type::Sequence(Box::new(x.clone()));
        let neg = Op::Transpose { perm: smallvec![0] };
        assert_eq!(check(&graph, &neg, &[&sequence], &[&x]), Err(InferError::NotATensor(0)));
        assert_eq!(check(&graph, &neg, &[&x, &x], &[&x]), Err(InferError::Inputs { expected: 1, found: 2 }));
    }

    #[test]
    fn gathers_match_their_positions() {
        let graph = Graph::new("t");
        let (data, index) = (t(DType::F32, &[5, 6]), t(DType::I64, &[4, 1]));
        let op = |coords: [Coord; 2]| Op::Gather { coords: coords.as_slice().into() };
        let good = op([Coord::Input(0), Coord::Axis(1)]);
        assert_eq!(check(&graph, &good, &[&data, &index], &[&t(DType::F32, &[4, 6])]), Ok(()));
        let wide = error(&graph, &good, &[&data, &index], &[&t(DType::F32, &[4, 7])]);
        assert_eq!(wide, "axis 1 of the positions has size 7 and the data 6");
        let far = op([Coord::Input(1), Coord::Axis(1)]);
        assert!(infer(&graph, &far, &[&data, &index]).is_err());
        let float = t(DType::F32, &[4, 1]);
        assert!(error(&graph, &good, &[&data, &float], &[&t(DType::F32, &[4, 6])]).contains("element type f32"));
    }
}
