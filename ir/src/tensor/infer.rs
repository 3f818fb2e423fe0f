//! The output types of an operation, from its attributes and the types of its inputs, and the check of what a node
//! states itself. The builder and the verifier both go through [`check`], so that no other rule exists.
//!
//! Before: nothing is assumed about attributes or inputs; anything may be wrong. After a successful [`check`] the node is
//! well-typed as the documentation of [`Op`] says, under the equalities that the graph assumes.

use smallvec::{SmallVec, smallvec};

use super::op::{Contract, Conv, Coord, ReduceOp, ScatterOp, Window};
use super::shape::element_count;
use super::winograd::Winograd;
use super::{Graph, Op, Region, Shape, TensorType, Type};
use crate::dim::{Dim, DimError};
use crate::dtype::DType;
use crate::scalar::{ExprError, ScalarInst};
use crate::strings::StringFunction;

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
        Op::Conv(c) => infer_conv(&ins, c)?,
        Op::Window(w) => infer_window(&ins, w)?,
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
        Some(nr) => {
            if rhs.rank() != 3 || nr == 0 || rhs.shape[2] != i64::from(nr) {
                return mismatch(format!("panels of {nr} columns of shape {}", ins.graph.shape_text(&rhs.shape)));
            }
            if c.lhs.contains(&c.rhs[1]) || !c.out.contains(&c.rhs[1]) {
                return mismatch("the columns of a packed operand are no free label".into());
            }
            smallvec![Some(rhs.shape[1].clone()), None]
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

/// `floor((input + pad_lo + pad_hi - ((size - 1) * dilation + 1)) / stride) + 1`, of the dilated input.
///
/// # Errors
/// If the window has no size or step, or cannot lie in the input at all.
pub fn window_size(
    input: &Dim,
    size: i64,
    stride: i64,
    dilation: i64,
    pads: (i64, i64),
    symbols: &crate::dim::Symbols,
) -> Result<Dim, InferError> {
    if size < 1 || stride < 1 || dilation < 1 {
        return mismatch(format!("window of size {size}, stride {stride}, dilation {dilation}"));
    }
    let extent = (size - 1).checked_mul(dilation).and_then(|n| n.checked_add(1)).ok_or(DimError::Overflow)?;
    let slack = pads.0.checked_add(pads.1).and_then(|p| p.checked_sub(extent)).ok_or(DimError::Overflow)?;
    let room = (input + &Dim::from(slack))?;
    let out = (&room.floor_div(&Dim::from(stride))? + &Dim::ONE)?;
    if out.bounds(symbols).1 < 0 {
        let input = input.display(symbols);
        return mismatch(format!("a window of extent {extent} does not fit size {input} padded by {pads:?}"));
    }
    Ok(out)
}

fn infer_conv(ins: &Inputs<'_>, c: &Conv) -> Result<Inferred, InferError> {
    ins.expect(2)?;
    let (x, w) = (ins.tensor(0)?, ins.tensor(1)?);
    let n = c.kernel.len();
    if [c.strides.len(), c.pad_lo.len(), c.pad_hi.len(), c.lhs_dilation.len(), c.rhs_dilation.len()] != [n; 5] {
        return mismatch(format!("attributes of a convolution over {n} dimensions have other lengths"));
    }
    let shapes = || format!("input {}, filter {}", ins.graph.shape_text(&x.shape), ins.graph.shape_text(&w.shape));
    if x.rank() != n + 2 || x.dtype != w.dtype || c.groups < 1 {
        return mismatch(format!("convolution over {n} dimensions in {} groups: {}", c.groups, shapes()));
    }
    let (channel_axis, first_spatial) = if c.channels_last { (n + 1, 1) } else { (1, 2) };
    let channels = &x.shape[channel_axis];
    if let Some(tile) = c.winograd
        && (Winograd::of(tile).is_none() || !c.winograd_applies())
    {
        return mismatch(format!("a convolution of this form has no Winograd algorithm with tiles of {tile}"));
    }
    // [M, C / groups, kernel...], or with panels [panels, kernel..., C, nr], or depthwise [kernel..., M].
    let (out_channels, in_channels, kernel) = match c.panel {
        Some(nr) if c.winograd.is_some_and(|m| w.rank() == 4 && w.shape[1] == i64::from((m + 2) * (m + 2))) => {
            if w.shape[3] != i64::from(nr) {
                return mismatch(format!("transformed filter in panels of {nr}: {}", shapes()));
            }
            (None, Some(&w.shape[2]), &[] as &[Dim])
        }
        None if w.rank() == n + 2 => (Some(w.shape[0].clone()), Some(&w.shape[1]), &w.shape[2..]),
        Some(nr) if w.rank() == n + 3 && c.groups == 1 && nr > 0 && w.shape[n + 2] == i64::from(nr) => {
            (None, Some(&w.shape[n + 1]), &w.shape[1..=n])
        }
        Some(_) if w.rank() == n + 1 && *channels == c.groups && w.shape[n] == c.groups => {
            (Some(w.shape[n].clone()), None, &w.shape[..n])
        }
        _ => return mismatch(format!("convolution with panels {:?} in {} groups: {}", c.panel, c.groups, shapes())),
    };
    if kernel.iter().zip(&c.kernel).any(|(d, &k)| *d != k) {
        return mismatch(format!("kernel {:?} does not match: {}", c.kernel, shapes()));
    }
    if let Some(per_group) = in_channels
        && !ins.graph.same_dim(&(per_group * &Dim::from(c.groups))?, channels)
    {
        return mismatch(format!("channels do not match in {} groups: {}", c.groups, shapes()));
    }
    if let Some(m) = out_channels.as_ref().and_then(Dim::as_const)
        && m % c.groups != 0
    {
        return mismatch(format!("{m} output channels in {} groups", c.groups));
    }
    let mut out: SmallVec<[Option<Dim>; 5]> = x.shape.iter().cloned().map(Some).collect();
    out[channel_axis] = out_channels;
    for i in 0..n {
        let size = &x.shape[first_spatial + i];
        let dilation = c.lhs_dilation[i];
        if dilation < 1 {
            return mismatch(format!("input dilation {dilation}"));
        }
        let dilated = (&(&(size - &Dim::ONE)? * &Dim::from(dilation))? + &Dim::ONE)?;
        let pads = (c.pad_lo[i], c.pad_hi[i]);
        let (k, s, d) = (c.kernel[i], c.strides[i], c.rhs_dilation[i]);
        out[first_spatial + i] = Some(window_size(&dilated, k, s, d, pads, &ins.graph.symbols)?);
    }
    Ok(smallvec![complete(c.acc, out)])
}

fn infer_window(ins: &Inputs<'_>, w: &Window) -> Result<Inferred, InferError> {
    let x = ins.one()?;
    let n = x.rank();
    if [w.sizes.len(), w.strides.len(), w.dilations.len(), w.pad_lo.len(), w.pad_hi.len()] != [n; 5] {
        return mismatch(format!("window attributes for rank {n} have other lengths"));
    }
    let dtype = reduced_dtype(w.op, x.dtype, 1)?;
    let mut shape = Shape::new();
    for i in 0..n {
        let pads = (w.pad_lo[i], w.pad_hi[i]);
        let symbols = &ins.graph.symbols;
        shape.push(window_size(&x.shape[i], w.sizes[i], w.strides[i], w.dilations[i], pads, symbols)?);
    }
    Ok(exact(dtype, shape))
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
        Op::Contract(Contract { panel: Some(nr), rhs, out, .. }) => {
            let columns = out.iter().position(|l| Some(l) == rhs.get(1)).map(|i| stated().map(|t| t.shape[i].clone()));
            check_panels(graph, columns.transpose()?, &ins.tensor(1)?.shape[0], *nr)
        }
        Op::Conv(c) => match c.panel {
            Some(nr) if c.groups == 1 => {
                let axis = if c.channels_last { c.kernel.len() + 1 } else { 1 };
                check_panels(graph, Some(stated()?.shape[axis].clone()), &ins.tensor(1)?.shape[0], nr)
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
    use super::*;
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
