//! The output types of an operation, from its attributes and the types of its inputs, and the check of what a node
//! states itself. The builder and the verifier both go through [`check`], so that no other rule exists.
//!
//! Before: nothing is assumed about attributes or inputs; anything may be wrong. After a successful [`check`] the node is
//! well-typed as the documentation of [`Op`] says, under the equalities that the graph assumes.

mod check;
mod windows;

pub use check::check;
use smallvec::{SmallVec, smallvec};

use super::op::{Contract, Coord, ReduceOp, ScatterOp};
use super::{Graph, Op, Region, Shape, TensorType, Type};
use crate::dim::{Dim, DimError};
use crate::dtype::DType;
use crate::scalar::ExprError;

/// Why an operation does not fit its inputs or stated types.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The number of inputs.
    #[error("expects {expected} inputs and has {found}")]
    Inputs {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The number of outputs.
    #[error("gives {expected} outputs and states {found}")]
    Outputs {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// An input that should be a tensor is another kind of value.
    #[error("input {0} is no tensor")]
    NotATensor(usize),
    /// A scalar expression is ill-typed.
    #[error(transparent)]
    Expr(#[from] ExprError),
    /// Arithmetic on dimensions failed.
    #[error(transparent)]
    Dim(#[from] DimError),
    /// Shapes, types or attributes do not fit; the text shows them.
    #[error("{0}")]
    Mismatch(String),
}

/// What is derived about one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputType {
    /// Everything.
    Exact(Type),
    /// The element type and some of the dimensions; the node states the others.
    Partial(DType, SmallVec<[Option<Dim>; 5]>),
    /// The element type; the node states the shape.
    Stated(DType),
}

/// What is derived about the outputs of a node.
pub type Inferred = SmallVec<[OutputType; 2]>;

fn mismatch<T>(message: String) -> Result<T, InferError> {
    Err(InferError::Mismatch(message))
}

/// The inputs with what is needed to talk about them.
struct Inputs<'a> {
    graph: &'a Graph,
    types: &'a [&'a Type],
}

impl<'a> Inputs<'a> {
    fn expect(&self, expected: usize) -> Result<(), InferError> {
        let found = self.types.len();
        if found == expected { Ok(()) } else { Err(InferError::Inputs { expected, found }) }
    }

    fn tensor(&self, n: usize) -> Result<&'a TensorType, InferError> {
        let ty = self.types.get(n).ok_or(InferError::Inputs { expected: n + 1, found: self.types.len() })?;
        ty.as_tensor().ok_or(InferError::NotATensor(n))
    }

    /// The only input.
    fn one(&self) -> Result<&'a TensorType, InferError> {
        self.expect(1)?;
        self.tensor(0)
    }

    fn scalar(&self, n: usize, dtype: DType) -> Result<(), InferError> {
        let t = self.tensor(n)?;
        if t.dtype == dtype && t.rank() == 0 {
            return Ok(());
        }
        mismatch(format!("input {n} should be {dtype}[] and is {}", self.graph.type_text(self.types[n])))
    }

    /// The inputs from `first` are indices that broadcast to `space`.
    fn indices(&self, first: usize, space: &[Dim]) -> Result<(), InferError> {
        for n in first..self.types.len() {
            let t = self.tensor(n)?;
            if !matches!(t.dtype, DType::I64 | DType::I32) {
                return mismatch(format!("index input {n} has element type {}", t.dtype));
            }
            if !self.graph.broadcasts_to(&t.shape, space) {
                let (from, to) = (self.graph.shape_text(&t.shape), self.graph.shape_text(space));
                return mismatch(format!("index input {n} of shape {from} does not broadcast to the positions {to}"));
            }
        }
        Ok(())
    }

    /// The inputs from `first` are what a region takes from its parameter `param` on.
    fn match_params(&self, first: usize, region: Region, param: usize) -> Result<(), InferError> {
        let params = self.graph.regions[region].params.get(param..).unwrap_or_default();
        let inputs = self.types.get(first..).unwrap_or_default();
        if params.len() != inputs.len() {
            return mismatch(format!("{region} takes {} values and gets {}", params.len(), inputs.len()));
        }
        for (i, (&p, input)) in params.iter().zip(inputs).enumerate() {
            self.same("parameter", param + i, self.graph.ty(p), input)?;
        }
        Ok(())
    }

    fn same(&self, what: &str, n: usize, a: &Type, b: &Type) -> Result<(), InferError> {
        if self.graph.same_type(a, b) {
            return Ok(());
        }
        mismatch(format!("{what} {n} is {} and should be {}", self.graph.type_text(b), self.graph.type_text(a)))
    }

    fn axis(&self, axis: u32, rank: usize) -> Result<usize, InferError> {
        let axis = axis as usize;
        if axis < rank { Ok(axis) } else { mismatch(format!("axis {axis} of rank {rank}")) }
    }
}

fn exact(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Inferred {
    smallvec![OutputType::Exact(TensorType::new(dtype, shape).into())]
}

/// Derives the output types of an operation. Operations whose nodes state a shape give what is known without it.
///
/// # Errors
/// If the attributes or the input types do not fit the operation.
pub fn infer(graph: &Graph, op: &Op, inputs: &[&Type]) -> Result<Inferred, InferError> {
    let ins = Inputs { graph, types: inputs };
    Ok(match op {
        Op::Constant(c) => {
            ins.expect(0)?;
            let data = graph.constants.get(*c).ok_or_else(|| InferError::Mismatch(format!("{c} does not exist")))?;
            exact(data.ty.dtype, data.ty.shape.iter().cloned())
        }
        Op::DimValue(_) => {
            ins.expect(0)?;
            exact(DType::I64, [])
        }
        Op::BindSizes { symbols, low, high } => {
            let x = ins.one()?;
            if x.dtype != DType::I64 || x.rank() > 1 || x.static_len() != Some(symbols.len() as i64) {
                let text = graph.type_text(inputs[0]);
                return mismatch(format!("{} sizes from a tensor of type {text}", symbols.len()));
            }
            if [low.len(), high.len()] != [symbols.len(); 2] {
                return mismatch(format!("{} sizes in {} and {} bounds", symbols.len(), low.len(), high.len()));
            }
            exact(DType::I64, x.shape.iter().cloned())
        }
        Op::External(external) => {
            let there = external.present.iter().filter(|&&p| p).count();
            if there != inputs.len() {
                return mismatch(format!("{} inputs for {there} of `{}`", inputs.len(), external.symbol));
            }
            for n in 0..inputs.len() {
                ins.tensor(n)?;
            }
            external.results.iter().map(|&dtype| OutputType::Stated(dtype)).collect()
        }
        Op::Strings(function) => return mismatch(format!("the result of {} is stated", function.symbol())),
        Op::Elementwise(expr) => {
            let dtypes = (0..inputs.len()).map(|n| Ok(ins.tensor(n)?.dtype)).collect::<Result<Vec<_>, InferError>>()?;
            smallvec![OutputType::Stated(expr.result_type(&dtypes)?)]
        }
        Op::Reduce { op, axes } => {
            let x = ins.one()?;
            if axes.windows(2).any(|w| w[0] >= w[1]) {
                return mismatch(format!("axes {axes:?} are not ascending"));
            }
            for &axis in axes {
                ins.axis(axis, x.rank())?;
            }
            let dtype = reduced_dtype(*op, x.dtype, axes.len())?;
            let kept = x.shape.iter().enumerate().filter(|(i, _)| !axes.contains(&(*i as u32)));
            exact(dtype, kept.map(|(_, d)| d.clone()))
        }
        Op::Cumulate { op, axis, .. } => {
            let x = ins.one()?;
            ins.axis(*axis, x.rank())?;
            if !matches!(op, ReduceOp::Sum | ReduceOp::Prod) || !(x.dtype.is_float() || x.dtype.is_int()) {
                return mismatch(format!("running {op:?} of {}", x.dtype));
            }
            exact(x.dtype, x.shape.iter().cloned())
        }
        Op::Contract(c) => infer_contract(&ins, c)?,
        Op::Conv(c) => windows::infer_conv(&ins, c)?,
        Op::Window(w) => windows::infer_window(&ins, w)?,
        Op::Reshape | Op::Broadcast => smallvec![OutputType::Stated(ins.one()?.dtype)],
        Op::Transpose { perm } => {
            let x = ins.one()?;
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted.len() != x.rank() || sorted.iter().enumerate().any(|(i, &p)| i != p as usize) {
                return mismatch(format!("{perm:?} is no permutation of {} axes", x.rank()));
            }
            exact(x.dtype, perm.iter().map(|&p| x.shape[p as usize].clone()))
        }
        Op::Slice { starts, steps } => {
            let x = ins.one()?;
            if starts.len() != x.rank() || steps.len() != x.rank() || steps.contains(&0) {
                return mismatch(format!(
                    "slice with {} starts and steps {steps:?} of rank {}",
                    starts.len(),
                    x.rank()
                ));
            }
            smallvec![OutputType::Stated(x.dtype)]
        }
        Op::Pad { lo, hi } => {
            ins.expect(2)?;
            let x = ins.tensor(0)?;
            ins.scalar(1, x.dtype)?;
            if lo.len() != x.rank() || hi.len() != x.rank() {
                return mismatch(format!("padding of {} and {} dimensions for rank {}", lo.len(), hi.len(), x.rank()));
            }
            if let Some(d) = lo.iter().chain(hi).find(|d| d.bounds(&graph.symbols).1 < 0) {
                return mismatch(format!("negative padding {}", d.display(&graph.symbols)));
            }
            let mut shape = Shape::new();
            for (d, (l, h)) in x.shape.iter().zip(lo.iter().zip(hi)) {
                shape.push((&(d + l)? + h)?);
            }
            exact(x.dtype, shape)
        }
        Op::Concat { axis } => infer_concat(&ins, *axis)?,
        Op::Gather { coords } => {
            let data = ins.tensor(0)?;
            check_coords(coords, data.rank(), inputs.len() - 1)?;
            smallvec![OutputType::Stated(data.dtype)]
        }
        Op::Scatter { coords, op } => {
            let (data, updates) = (ins.tensor(0)?, ins.tensor(1)?);
            check_coords(coords, data.rank(), inputs.len() - 2)?;
            ins.indices(2, &updates.shape)?;
            check_axis_coords(coords, updates.rank())?;
            let numeric = data.dtype.is_float() || data.dtype.is_int();
            if data.dtype != updates.dtype || (matches!(op, ScatterOp::Add | ScatterOp::Mul) && !numeric) {
                return mismatch(format!("scatter {op:?} of {} into {}", updates.dtype, data.dtype));
            }
            exact(data.dtype, data.shape.iter().cloned())
        }
        Op::Sort { axis, .. } => {
            let x = ins.one()?;
            ins.axis(*axis, x.rank())?;
            if x.dtype == DType::String {
                return mismatch("the numbers of strings are in no order".into());
            }
            let indices = TensorType { dtype: DType::I64, shape: x.shape.clone() };
            smallvec![OutputType::Exact(x.clone().into()), OutputType::Exact(indices.into())]
        }
        Op::If { then, otherwise, .. } => {
            ins.scalar(0, DType::Bool)?;
            ins.match_params(1, *then, 0)?;
            ins.match_params(1, *otherwise, 0)?;
            infer_branches(&ins, *then, *otherwise)?
        }
        Op::Loop { body, carried, .. } => infer_loop(&ins, *body, *carried as usize)?,
        Op::Composite { body, .. } | Op::Group { body } => {
            ins.match_params(0, *body, 0)?;
            graph.regions[*body].results.iter().map(|&v| OutputType::Exact(graph.ty(v).clone())).collect()
        }
    })
}

fn reduced_dtype(op: ReduceOp, dtype: DType, axes: usize) -> Result<DType, InferError> {
    let numeric = dtype.is_float() || dtype.is_int();
    let fits = match op {
        ReduceOp::Sum | ReduceOp::Prod => numeric,
        ReduceOp::Min | ReduceOp::Max => numeric || dtype == DType::Bool,
        ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. } => numeric && axes == 1,
    };
    match op {
        _ if !fits => mismatch(format!("{op:?} of {dtype} over {axes} axes")),
        ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. } => Ok(DType::I64),
        ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Min | ReduceOp::Max => Ok(dtype),
    }
}

/// Whether the depth is known and has a word at least.
fn is_least_word(depth: &Dim) -> bool {
    depth.as_const().is_some_and(|depth| depth >= 4)
}

fn infer_contract(ins: &Inputs<'_>, c: &Contract) -> Result<Inferred, InferError> {
    ins.expect(2)?;
    let (lhs, rhs) = (ins.tensor(0)?, ins.tensor(1)?);
    let describe = |labels: &[u8]| labels.iter().map(|&l| format!("l{l}")).collect::<Vec<_>>().join(" ");
    for labels in [&c.lhs, &c.rhs, &c.out] {
        if (1..labels.len()).any(|i| labels[..i].contains(&labels[i])) {
            return mismatch(format!("a label appears twice in [{}]", describe(labels)));
        }
    }
    let rhs_rank = if c.panel.is_some() { 2 } else { rhs.rank() };
    if c.lhs.len() != lhs.rank() || c.rhs.len() != rhs_rank {
        let (l, r) = (ins.graph.shape_text(&lhs.shape), ins.graph.shape_text(&rhs.shape));
        return mismatch(format!("labels [{}] of {l} and [{}] of {r}", describe(&c.lhs), describe(&c.rhs)));
    }
    // Size per label; `None` for the columns of a packed operand, which the node states.
    let mut sizes: Vec<(u8, Option<Dim>)> = c.lhs.iter().copied().zip(lhs.shape.iter().cloned().map(Some)).collect();
    let rhs_sizes: SmallVec<[Option<Dim>; 5]> = match c.panel {
        None => rhs.shape.iter().cloned().map(Some).collect(),
        Some(panel) => {
            let tail: &[i64] = if panel.is_deep() { &[panel.columns.into(), 4] } else { &[panel.columns.into()] };
            let fits = rhs.rank() == 2 + tail.len() && rhs.shape[2..].iter().zip(tail).all(|(d, n)| d == n);
            if !fits || panel.columns == 0 {
                return mismatch(format!("panels of {panel} columns of shape {}", ins.graph.shape_text(&rhs.shape)));
            }
            if c.lhs.contains(&c.rhs[1]) || !c.out.contains(&c.rhs[1]) {
                return mismatch("the columns of a packed operand are no free label".into());
            }
            if panel.is_deep() {
                let depth = c.lhs.iter().position(|l| *l == c.rhs[0]).map(|i| &lhs.shape[i]);
                let words = depth.filter(|d| is_least_word(d)).map(|d| d.ceil_div(&Dim::from(4))).transpose()?;
                if words.as_ref() != Some(&rhs.shape[1]) {
                    let (l, r) = (ins.graph.shape_text(&lhs.shape), ins.graph.shape_text(&rhs.shape));
                    return mismatch(format!("contracts {l} with words of {r}"));
                }
                smallvec![None, None]
            } else {
                smallvec![Some(rhs.shape[1].clone()), None]
            }
        }
    };
    for (&label, size) in c.rhs.iter().zip(rhs_sizes) {
        match (sizes.iter().find(|(l, _)| *l == label), &size) {
            (Some((_, Some(a))), Some(b)) if !ins.graph.same_dim(a, b) => {
                let (l, r) = (ins.graph.shape_text(&lhs.shape), ins.graph.shape_text(&rhs.shape));
                return mismatch(format!("contracts {l} with {r} over different sizes"));
            }
            (Some(_), _) => {}
            (None, _) => sizes.push((label, size)),
        }
    }
    let mut shape = SmallVec::new();
    for label in &c.out {
        match sizes.iter().find(|(l, _)| l == label) {
            Some((_, size)) => shape.push(size.clone()),
            None => return mismatch(format!("output label l{label} is in no operand")),
        }
    }
    Ok(smallvec![complete(c.acc, shape)])
}

/// An exact type where all dimensions are known.
fn complete(dtype: DType, shape: SmallVec<[Option<Dim>; 5]>) -> OutputType {
    match shape.iter().cloned().collect::<Option<Shape>>() {
        Some(shape) => OutputType::Exact(TensorType { dtype, shape }.into()),
        None => OutputType::Partial(dtype, shape),
    }
}

fn infer_concat(ins: &Inputs<'_>, axis: u32) -> Result<Inferred, InferError> {
    let first = ins.tensor(0)?;
    let axis = ins.axis(axis, first.rank())?;
    let mut shape = first.shape.clone();
    for n in 1..ins.types.len() {
        let t = ins.tensor(n)?;
        let fits = t.dtype == first.dtype
            && t.rank() == first.rank()
            && (0..t.rank()).all(|i| i == axis || ins.graph.same_dim(&t.shape[i], &first.shape[i]));
        if !fits {
            let (a, b) = (ins.graph.type_text(ins.types[0]), ins.graph.type_text(ins.types[n]));
            return mismatch(format!("joins {a} and {b} along axis {axis}"));
        }
        shape[axis] = (&shape[axis] + &t.shape[axis])?;
    }
    Ok(exact(first.dtype, shape))
}

fn check_coords(coords: &[Coord], rank: usize, inputs: usize) -> Result<(), InferError> {
    if coords.len() != rank {
        return mismatch(format!("{} coordinates for rank {rank}", coords.len()));
    }
    match coords.iter().find(|c| matches!(c, Coord::Input(n) if *n as usize >= inputs)) {
        Some(c) => mismatch(format!("coordinate {c:?} of {inputs} index inputs")),
        None => Ok(()),
    }
}

fn check_axis_coords(coords: &[Coord], rank: usize) -> Result<(), InferError> {
    match coords.iter().find(|c| matches!(c, Coord::Axis(n) if *n as usize >= rank)) {
        Some(c) => mismatch(format!("coordinate {c:?} of positions of rank {rank}")),
        None => Ok(()),
    }
}

fn infer_branches(ins: &Inputs<'_>, then: Region, otherwise: Region) -> Result<Inferred, InferError> {
    let graph = ins.graph;
    let (a, b) = (&graph.regions[then].results, &graph.regions[otherwise].results);
    if a.len() != b.len() {
        return mismatch(format!("the branches give {} and {} values", a.len(), b.len()));
    }
    a.iter()
        .zip(b)
        .map(|(&a, &b)| match (graph.ty(a), graph.ty(b)) {
            (Type::Tensor(s), Type::Tensor(t)) if s.dtype == t.dtype && s.rank() == t.rank() => {
                let dims = s.shape.iter().zip(&t.shape).map(|(x, y)| graph.same_dim(x, y).then(|| x.clone()));
                Ok(complete(s.dtype, dims.collect()))
            }
            (s, t) if graph.same_type(s, t) => Ok(OutputType::Exact(s.clone())),
            (s, t) => mismatch(format!("the branches give {} and {}", graph.type_text(s), graph.type_text(t))),
        })
        .collect()
}

/// A carried size that the body's parameter gives as a symbol may change from one iteration to the next; constants may
/// not.
fn infer_loop(ins: &Inputs<'_>, body: Region, carried: usize) -> Result<Inferred, InferError> {
    let graph = ins.graph;
    ins.scalar(0, DType::I64)?;
    ins.scalar(1, DType::Bool)?;
    let (params, results) = (&graph.regions[body].params, &graph.regions[body].results);
    if ins.types.len() < 2 + carried || params.len() < 1 + carried || results.len() < 1 + carried {
        let (n, p, r) = (ins.types.len(), params.len(), results.len());
        return mismatch(format!("a loop carries {carried} values with {n} inputs, {p} parameters, {r} results"));
    }
    let scalar = |dtype| Type::from(TensorType::fixed(dtype, &[]));
    ins.same("parameter", 0, graph.ty(params[0]), &scalar(DType::I64))?;
    ins.same("result", 0, &scalar(DType::Bool), graph.ty(results[0]))?;
    ins.match_params(2 + carried, body, 1 + carried)?;
    let mut out = Inferred::new();
    for i in 0..carried {
        let (param, result) = (graph.ty(params[1 + i]), graph.ty(results[1 + i]));
        for (what, ty) in [("carried input", ins.types[2 + i]), ("carried result", result)] {
            if !carries(graph, param, ty) {
                let (a, b) = (graph.type_text(ty), graph.type_text(param));
                return mismatch(format!("{what} {i} is {a} and the body takes {b}"));
            }
        }
        out.push(match param {
            Type::Tensor(t) => complete(t.dtype, t.shape.iter().map(|d| d.as_const().map(Dim::from)).collect()),
            other => OutputType::Exact(other.clone()),
        });
    }
    for &result in &results[1 + carried..] {
        let Some(t) = graph.ty(result).as_tensor() else {
            return mismatch("a scanned result is no tensor".into());
        };
        // Sizes that differ from one iteration to the next do not stack: inner symbols must be those of the graph.
        let dims = std::iter::once(None).chain(t.shape.iter().map(|d| d.as_const().map(Dim::from)));
        out.push(OutputType::Partial(t.dtype, dims.collect()));
    }
    Ok(out)
}

/// Whether a loop whose body takes `param` can be given `ty`.
fn carries(graph: &Graph, param: &Type, ty: &Type) -> bool {
    match (param, ty) {
        (Type::Tensor(p), Type::Tensor(t)) => {
            let fits = |(p, t): (&Dim, &Dim)| p.as_const().is_none() || graph.same_dim(p, t);
            p.dtype == t.dtype && p.rank() == t.rank() && p.shape.iter().zip(&t.shape).all(fits)
        }
        (p, t) => graph.same_type(p, t),
    }
}
