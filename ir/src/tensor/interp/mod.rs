//! The reference interpreter of the Tensor IR: what every operation means, computed in the most obvious way. Later stages
//! are tested against it, and small constants are folded by it.
//!
//! Sums and products of floats are computed in `f64` and rounded once, so the interpreter is more exact than what it is
//! compared with. Results do not depend on the machine: no host library is used for functions.

mod compute;
mod elements;
mod moves;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use cranelift_entity::PrimaryMap;

use super::constant::{ConstantData, ConstantSource, TensorBytes};
use super::{Constant, Graph, Op, Region, TensorType, Type, Value};
use crate::dim::{Dim, Symbol};
use crate::dtype::DType;
use crate::strings::{StringFunction, StringTable};

pub use elements::Elements;

/// Why a graph cannot be interpreted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpError {
    /// The inputs do not fit the graph.
    #[error("{0}")]
    Inputs(String),
    /// Sizes do not come out.
    #[error("{op}: {message}")]
    Sizes {
        /// The operation.
        op: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Sizes that data decides are out of their range or do not fit each other.
    #[error("{0}")]
    Data(String),
    /// A type that the interpreter has no values for: complex numbers, sequences.
    #[error("{0} are not interpreted")]
    Types(String),
    /// A function outside of the model.
    #[error("`{0}` is a function outside of the model, which interpreters do not call")]
    External(String),
}

/// Runs the graph on inputs in order and gives its outputs in order.
pub fn interpret(graph: &Graph, inputs: &[TensorBytes]) -> Result<Vec<TensorBytes>, InterpError> {
    let params = &graph.regions[graph.body()].params;
    if params.len() != inputs.len() {
        return Err(InterpError::Inputs(format!("{} inputs for {} parameters", inputs.len(), params.len())));
    }
    let mut symbols = HashMap::new();
    for (i, (&param, input)) in params.iter().zip(inputs).enumerate() {
        let ty = tensor_type(graph, param)?;
        if ty.dtype != input.dtype || ty.rank() != input.shape.len() {
            let wanted = graph.type_text(graph.ty(param));
            return Err(InterpError::Inputs(format!(
                "input {i} is {}{:?} instead of {wanted}",
                input.dtype, input.shape
            )));
        }
        for (dim, &extent) in ty.shape.iter().zip(&input.shape) {
            if let Some(symbol) = dim.as_symbol() {
                let (low, high) = graph.symbols.bounds(symbol);
                if extent < low || extent > high {
                    let name = graph.symbols.name(symbol);
                    return Err(InterpError::Inputs(format!("{name} of input {i} is {extent}, not in {low}..={high}")));
                }
                symbols.entry(symbol).or_insert(extent);
            }
        }
    }
    let mut run = Run { graph, symbols, strings: graph.strings.clone() };
    for (i, (&param, input)) in params.iter().zip(inputs).enumerate() {
        for (dim, &extent) in tensor_type(graph, param)?.shape.iter().zip(&input.shape) {
            let held = run.dim(dim)?;
            if held != extent {
                return Err(InterpError::Inputs(format!("a dimension of input {i} is {extent} instead of {held}")));
            }
        }
    }
    for (left, right) in graph.assumptions.iter().filter(|pair| run.has_values(pair)) {
        let (a, b) = (run.dim(left)?, run.dim(right)?);
        if a != b {
            let (left, right) = (left.display(&graph.symbols), right.display(&graph.symbols));
            return Err(InterpError::Inputs(format!("the model needs {left} = {right}, which are {a} and {b}")));
        }
    }
    let mut arguments = inputs.to_vec();
    for (i, input) in arguments.iter_mut().enumerate().filter(|(_, input)| input.dtype == DType::String) {
        let outside = || InterpError::Inputs(format!("a string of input {i} lies outside of its buffer"));
        *input = run.strings.enter(input).ok_or_else(outside)?;
    }
    let mut results = run.region(graph.body(), arguments)?;
    for result in results.iter_mut().filter(|r| r.dtype == DType::String) {
        *result = run.strings.leave(result).expect("the table has all strings of the run");
    }
    Ok(results)
}

/// The elements of a constant; recipes are evaluated.
///
/// # Panics
/// If a recipe does not fit its inputs: the verifier has checked that.
pub fn constant_bytes(constants: &PrimaryMap<Constant, ConstantData>, constant: Constant) -> TensorBytes {
    SharedConstants::of(constants, constant).take(constants, constant)
}

fn evaluate_constant(
    constants: &PrimaryMap<Constant, ConstantData>,
    constant: Constant,
    shared: &mut SharedConstants,
) -> TensorBytes {
    let data = &constants[constant];
    let shape = data.ty.static_shape().expect("constants have constant shapes");
    let dtype = data.ty.dtype;
    match &data.source {
        ConstantSource::Bytes(bytes) => TensorBytes { dtype, shape, bytes: bytes.clone() },
        ConstantSource::Splat(scalar) => {
            let mut elements = Elements::zeros(dtype, &shape);
            elements.fill(scalar.bits);
            elements.into_tensor()
        }
        ConstantSource::Lazy { op, inputs } => {
            let inputs: Vec<TensorBytes> = inputs.iter().map(|&c| shared.take(constants, c)).collect();
            let mut results = evaluate(op, &inputs, std::slice::from_ref(&data.ty), &|_| 0)
                .unwrap_or_else(|e| panic!("the recipe of {constant}: {e}"));
            results.remove(0)
        }
    }
}

/// Constants that several recipes of one evaluation use: each is evaluated once and kept until its last use.
struct SharedConstants {
    /// How often each recipe is still asked for.
    uses: HashMap<Constant, usize>,
    held: HashMap<Constant, TensorBytes>,
}

impl SharedConstants {
    /// What a constant is made from, directly or not.
    fn of(constants: &PrimaryMap<Constant, ConstantData>, constant: Constant) -> SharedConstants {
        let mut uses = HashMap::from([(constant, 1)]);
        let mut waiting = vec![constant];
        while let Some(next) = waiting.pop() {
            let ConstantSource::Lazy { inputs, .. } = &constants[next].source else { continue };
            for &input in inputs {
                let count = uses.entry(input).or_insert(0);
                *count += 1;
                if *count == 1 {
                    waiting.push(input);
                }
            }
        }
        SharedConstants { uses, held: HashMap::new() }
    }

    fn take(&mut self, constants: &PrimaryMap<Constant, ConstantData>, constant: Constant) -> TensorBytes {
        let tensor = match self.held.remove(&constant) {
            Some(tensor) => tensor,
            None => evaluate_constant(constants, constant, self),
        };
        let left = self.uses.get_mut(&constant).expect("uses were counted");
        *left -= 1;
        if *left > 0 {
            self.held.insert(constant, tensor.clone());
        }
        tensor
    }
}

/// The results of an operation without regions. `types` are those of its outputs; `symbols` gives the dimensions' values.
pub fn evaluate(
    op: &Op,
    inputs: &[TensorBytes],
    types: &[TensorType],
    symbols: &dyn Fn(Symbol) -> i64,
) -> Result<Vec<TensorBytes>, InterpError> {
    let dims = |list: &[Dim]| list.iter().map(|d| size(op, d, symbols)).collect::<Result<Vec<i64>, _>>();
    let shape = dims(&types[0].shape)?;
    let mut dtypes = types.iter().map(|t| t.dtype).chain(inputs.iter().map(|t| t.dtype));
    if let Some(dtype) = dtypes.find(|t| matches!(t, DType::C64 | DType::C128)) {
        return Err(InterpError::Types(format!("tensors of {dtype}")));
    }
    let dtype = types[0].dtype;
    Ok(match op {
        Op::Constant(_) => unreachable!("the caller holds the constants"),
        Op::DimValue(dim) => vec![TensorBytes::from_i64(&[], &[size(op, dim, symbols)?])],
        Op::BindSizes { .. } => vec![inputs[0].clone()],
        Op::Elementwise(expr) => vec![elements::elementwise(expr, inputs, dtype, &shape, symbols)],
        Op::Reduce { op, axes } => vec![compute::reduce(*op, axes, &inputs[0], dtype, &shape)],
        Op::Cumulate { op, axis, exclusive, reverse } => {
            vec![compute::cumulate(*op, *axis as usize, *exclusive, *reverse, &inputs[0])]
        }
        Op::Contract(contract) => vec![compute::contract(contract, &inputs[0], &inputs[1], dtype, &shape)],
        Op::Conv(conv) => vec![compute::conv(conv, &inputs[0], &inputs[1], dtype, &shape)],
        Op::Window(window) => vec![compute::window(window, &inputs[0], dtype, &shape)],
        Op::Reshape => vec![TensorBytes { shape: shape.into(), ..inputs[0].clone() }],
        Op::Transpose { perm } => vec![moves::transpose(perm, &inputs[0])],
        Op::Broadcast => vec![moves::broadcast(&inputs[0], &shape)],
        Op::Slice { starts, steps } => vec![moves::slice(&inputs[0], &dims(starts)?, steps, &shape)],
        Op::Pad { lo, .. } => vec![moves::pad(&inputs[0], &inputs[1], &dims(lo)?, &shape)],
        Op::Concat { axis } => vec![moves::concat(inputs, *axis as usize, &shape)],
        Op::Gather { coords } => vec![moves::gather(coords, inputs, &shape)],
        Op::Scatter { coords, op } => vec![moves::scatter(coords, *op, inputs)],
        Op::Sort { axis, descending } => {
            let (values, indices) = moves::sort(&inputs[0], *axis as usize, *descending);
            vec![values, indices]
        }
        Op::External(external) => return Err(InterpError::External(external.symbol.clone())),
        Op::Strings(_) | Op::If { .. } | Op::Loop { .. } | Op::Composite { .. } | Op::Group { .. } => {
            unreachable!("strings and operations with regions are run by the graph's interpreter")
        }
    })
}

fn size(op: &Op, dim: &Dim, symbols: &dyn Fn(Symbol) -> i64) -> Result<i64, InterpError> {
    match dim.eval(symbols) {
        Some(n) => Ok(n),
        None => Err(InterpError::Sizes { op: op.name(), message: "a size does not fit 64 bits".into() }),
    }
}

fn tensor_type(graph: &Graph, value: Value) -> Result<&TensorType, InterpError> {
    match graph.ty(value) {
        Type::Tensor(ty) => Ok(ty),
        Type::Sequence(_) => Err(InterpError::Types("sequences".into())),
        Type::Optional(_) => Err(InterpError::Types("optional values".into())),
        Type::Map(..) => Err(InterpError::Types("maps".into())),
    }
}

/// One run of a graph.
struct Run<'g> {
    graph: &'g Graph,
    symbols: HashMap<Symbol, i64>,
    strings: StringTable,
}

impl Run<'_> {
    /// The value of a size.
    fn dim(&self, dim: &Dim) -> Result<i64, InterpError> {
        if let Some(symbol) = dim.symbols().find(|s| !self.symbols.contains_key(s)) {
            let name = self.graph.symbols.name(symbol);
            return Err(InterpError::Inputs(format!("no input says what `{name}` is")));
        }
        let text = || dim.display(&self.graph.symbols).to_string();
        dim.eval(|s| self.symbols[&s]).ok_or_else(|| InterpError::Inputs(format!("the size {} has no value", text())))
    }

    /// Whether both sides of an assumption have values so far.
    fn has_values(&self, (left, right): &(Dim, Dim)) -> bool {
        left.symbols().chain(right.symbols()).all(|s| self.symbols.contains_key(&s))
    }

    /// Gives symbols the values of a tensor's elements, where they lie in their ranges and what is assumed of them holds.
    fn bind(&mut self, symbols: &[Symbol], low: &[Dim], high: &[Dim], sizes: &TensorBytes) -> Result<(), InterpError> {
        let graph = self.graph;
        let name = |s: Symbol| graph.symbols.name(s);
        for ((&symbol, size), (low, high)) in
            symbols.iter().zip(sizes.to_i64().unwrap_or_default()).zip(low.iter().zip(high))
        {
            let (low, high) = (self.dim(low)?, self.dim(high)?);
            if size < low || size > high {
                return Err(InterpError::Data(format!("{} is {size}, not in {low}..={high}", name(symbol))));
            }
            self.symbols.insert(symbol, size);
        }
        for pair in graph.assumptions.iter().filter(|pair| self.has_values(pair)) {
            let about = |d: &Dim| d.symbols().any(|s| symbols.contains(&s));
            if about(&pair.0) || about(&pair.1) {
                let (a, b) = (self.dim(&pair.0)?, self.dim(&pair.1)?);
                if a != b {
                    let [left, right] = [&pair.0, &pair.1].map(|d| d.display(&graph.symbols).to_string());
                    return Err(InterpError::Data(format!("{left} is {a} and {right} is {b}, which have to be equal")));
                }
            }
        }
        Ok(())
    }

    /// Runs a region; values are dropped after their last use.
    fn region(&mut self, region: Region, inputs: Vec<TensorBytes>) -> Result<Vec<TensorBytes>, InterpError> {
        let graph = self.graph;
        let data = &graph.regions[region];
        let mut uses: HashMap<Value, usize> = HashMap::new();
        for &v in data.nodes.iter().flat_map(|&n| &graph.nodes[n].inputs).chain(&data.results) {
            *uses.entry(v).or_default() += 1;
        }
        // The sizes that a loop carries differ from one iteration to the next.
        data.params.iter().zip(&inputs).for_each(|(&param, input)| self.bind_sizes(param, input));
        let mut values: HashMap<Value, TensorBytes> = data.params.iter().copied().zip(inputs).collect();
        for &node in &data.nodes {
            let record = &graph.nodes[node];
            let mut operands = Vec::with_capacity(record.inputs.len());
            for v in &record.inputs {
                let left = uses.get_mut(v).expect("uses were counted");
                *left -= 1;
                let held = if *left == 0 { values.remove(v) } else { values.get(v).cloned() };
                operands.push(held.expect("values are computed before they are used"));
            }
            let results = self.node(&record.op, operands, &record.outputs)?;
            if matches!(record.op, Op::If { .. } | Op::Loop { .. }) {
                record.outputs.iter().zip(&results).for_each(|(&v, result)| self.bind_sizes(v, result));
            }
            for (&v, result) in record.outputs.iter().zip(results) {
                // What nobody uses is not kept.
                if uses.contains_key(&v) {
                    values.insert(v, result);
                }
            }
        }
        Ok(data.results.iter().map(|v| values[v].clone()).collect())
    }

    /// Sizes that only a run can tell are symbols of the type: here they get their values.
    fn bind_sizes(&mut self, value: Value, tensor: &TensorBytes) {
        let Some(ty) = self.graph.ty(value).as_tensor() else { return };
        for (dim, &extent) in ty.shape.iter().zip(&tensor.shape) {
            if let Some(symbol) = dim.as_symbol() {
                self.symbols.insert(symbol, extent);
            }
        }
    }

    fn node(&mut self, op: &Op, inputs: Vec<TensorBytes>, outputs: &[Value]) -> Result<Vec<TensorBytes>, InterpError> {
        match op {
            Op::Constant(c) => Ok(vec![constant_bytes(&self.graph.constants, *c)]),
            Op::Composite { body, .. } | Op::Group { body } => self.region(*body, inputs),
            Op::If { then, otherwise, .. } => {
                let taken = if truth(&inputs[0]) { *then } else { *otherwise };
                self.region(taken, inputs[1..].to_vec())
            }
            Op::BindSizes { symbols, low, high } => {
                self.bind(symbols, low, high, &inputs[0])?;
                Ok(inputs)
            }
            Op::Loop { body, carried, .. } => self.run_loop(*body, *carried as usize, &inputs, outputs),
            Op::Strings(function) => self.strings(*function, &inputs, outputs),
            op => {
                let types: Vec<TensorType> =
                    outputs.iter().map(|&v| tensor_type(self.graph, v).cloned()).collect::<Result<_, _>>()?;
                let symbols = &self.symbols;
                evaluate(op, &inputs, &types, &|s| symbols.get(&s).copied().unwrap_or(0))
            }
        }
    }

    fn strings(
        &mut self,
        function: StringFunction,
        inputs: &[TensorBytes],
        outputs: &[Value],
    ) -> Result<Vec<TensorBytes>, InterpError> {
        let ty = tensor_type(self.graph, outputs[0])?;
        let shape = ty.shape.iter().map(|d| self.dim(d)).collect::<Result<Vec<i64>, _>>()?;
        let result = function.run(&mut self.strings, inputs, ty.dtype, &shape);
        Ok(vec![result.map_err(|message| InterpError::Data(format!("{}: {message}", function.symbol())))?])
    }

    fn run_loop(
        &mut self,
        body: Region,
        carried: usize,
        inputs: &[TensorBytes],
        outputs: &[Value],
    ) -> Result<Vec<TensorBytes>, InterpError> {
        let trips = inputs[0].to_i64().and_then(|v| v.first().copied()).unwrap_or(0);
        let mut again = truth(&inputs[1]);
        let mut state = inputs[2..2 + carried].to_vec();
        let captures = &inputs[2 + carried..];
        let mut stacks: Vec<Vec<TensorBytes>> = vec![Vec::new(); outputs.len() - carried];
        let mut i = 0;
        while again && i < trips {
            let iteration = TensorBytes::from_i64(&[], &[i]);
            let arguments = std::iter::once(iteration).chain(state).chain(captures.iter().cloned()).collect();
            let mut results = self.region(body, arguments)?.into_iter();
            again = truth(&results.next().expect("a loop's body gives a condition"));
            state = results.by_ref().take(carried).collect();
            for (stack, mut scanned) in stacks.iter_mut().zip(results) {
                scanned.shape.insert(0, 1);
                stack.push(scanned);
            }
            i += 1;
        }
        for (stack, &output) in stacks.into_iter().zip(&outputs[carried..]) {
            let ty = tensor_type(self.graph, output)?;
            state.push(match stack.first() {
                Some(first) => {
                    let mut shape = first.shape.to_vec();
                    shape[0] = stack.len() as i64;
                    moves::concat(&stack, 0, &shape)
                }
                None => {
                    let symbols = &self.symbols;
                    let rest =
                        ty.shape[1..].iter().map(|d| d.eval(|s| symbols.get(&s).copied().unwrap_or(0)).unwrap_or(0));
                    let shape: Vec<i64> = std::iter::once(0).chain(rest).collect();
                    Elements::zeros(ty.dtype, &shape).into_tensor()
                }
            });
        }
        Ok(state)
    }
}

fn truth(tensor: &TensorBytes) -> bool {
    tensor.bytes.first().is_some_and(|&b| b != 0)
}
