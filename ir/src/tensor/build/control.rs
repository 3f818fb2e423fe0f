//! Operations with regions: branches, loops and composites, and the inlining of a region.
//!
//! Regions are closed: what they use of the region around them goes through captures. Constants are not captured, they
//! are repeated inside, so that passes see them where they are used.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{BuildError, Builder};
use crate::dim::{Dim, Symbol};
use crate::dtype::DType;
use crate::tensor::infer::OutputType;
use crate::tensor::known;
use crate::tensor::op::CompositeKind;
use crate::tensor::{Op, Region, TensorType, Type, Value};

/// What a loop starts with.
#[derive(Clone, Debug)]
pub struct LoopSpec {
    /// The most iterations, `i64` of rank 0.
    pub trip_count: Value,
    /// Whether it runs at all, `bool` of rank 0.
    pub condition: Value,
    /// The values carried from one iteration to the next, with the type that the body takes. A size that changes between
    /// iterations is a fresh symbol in that type.
    pub carried: Vec<(Value, Type)>,
    /// What the body uses of the region around it.
    pub captures: Vec<Value>,
    /// How many iterations there will be, where that is known.
    pub iterations: Option<Dim>,
}

impl Builder<'_> {
    /// A branch: `then` and `otherwise` get the captures and give the results.
    ///
    /// # Errors
    /// Those of the two functions, or that the results' types differ.
    pub fn if_<E: From<BuildError>>(
        &mut self,
        condition: Value,
        captures: &[Value],
        then: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Vec<Value>, E>,
        otherwise: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Vec<Value>, E>,
    ) -> Result<Vec<Value>, E> {
        let then = self.branch(captures, then)?;
        let otherwise = self.branch(captures, otherwise)?;
        let op = Op::If { then, otherwise, sizes: SmallVec::new() };
        let inputs: Vec<Value> = std::iter::once(condition).chain(self.captured(captures)).collect();
        let derived = self.infer(&op, &inputs)?;
        let mut sizes = SmallVec::new();
        let inside = [then, otherwise].map(|region| self.sizes_inside(region)).concat();
        let types: Vec<Type> = derived
            .into_iter()
            .map(|t| {
                let t = self.hide(t, &inside);
                self.complete(t, "if", &mut sizes)
            })
            .collect();
        let op = Op::If { then, otherwise, sizes };
        let node = self.node(op, &inputs, &types)?;
        Ok(self.graph.nodes[node].outputs.to_vec())
    }

    fn branch<E>(
        &mut self,
        captures: &[Value],
        f: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Vec<Value>, E>,
    ) -> Result<Region, E> {
        let region = self.graph.add_region();
        let inner = self.capture(region, captures);
        let results = f(&mut self.within(region), &inner)?;
        self.graph.regions[region].results = results;
        Ok(region)
    }

    /// The captures that become parameters.
    fn captured(&self, captures: &[Value]) -> Vec<Value> {
        captures.iter().copied().filter(|&v| self.graph.as_constant(v).is_none()).collect()
    }

    /// The captures as a region sees them: parameters, or constants of its own.
    fn capture(&mut self, region: Region, captures: &[Value]) -> Vec<Value> {
        let capture_one = |&value: &Value| match self.graph.as_constant(value) {
            Some(constant) => {
                let ty = self.graph.ty(value).clone();
                let node = self.within(region).append(Op::Constant(constant), &[], [ty]);
                self.graph.output(node)
            }
            None => self.param_like(region, value),
        };
        captures.iter().map(capture_one).collect()
    }

    /// A parameter that takes exactly the given value, with what is known about it.
    fn param_like(&mut self, region: Region, value: Value) -> Value {
        let param = self.graph.add_param(region, self.graph.ty(value).clone());
        self.graph.known[param] = self.graph.known[value].clone();
        param
    }

    /// The symbols that a region and those nested in it bind.
    fn sizes_inside(&self, region: Region) -> Vec<Symbol> {
        let mut bound = Vec::new();
        let mut waiting = vec![region];
        while let Some(region) = waiting.pop() {
            for &node in &self.graph.regions[region].nodes {
                let op = &self.graph.nodes[node].op;
                waiting.extend(op.regions());
                bound.extend(op.own_sizes());
            }
        }
        bound
    }

    /// A size as it is seen from outside of a region that binds these symbols; `None` where that cannot be said.
    fn seen_outside(&self, size: &Dim, inside: &[Symbol]) -> Option<Dim> {
        let hidden = |d: &Dim| d.symbols().any(|s| inside.contains(&s));
        if !hidden(size) {
            return Some(size.clone());
        }
        Some(self.graph.rewrite_dim(size)).filter(|d| !hidden(d))
    }

    /// A type without the sizes that only a region knows.
    fn hide(&self, ty: OutputType, inside: &[Symbol]) -> OutputType {
        match ty {
            OutputType::Exact(Type::Tensor(t)) => {
                let dims: SmallVec<[Option<Dim>; 5]> = t.shape.iter().map(|d| self.seen_outside(d, inside)).collect();
                match dims.iter().cloned().collect() {
                    Some(shape) => OutputType::Exact(TensorType { dtype: t.dtype, shape }.into()),
                    None => OutputType::Partial(t.dtype, dims),
                }
            }
            OutputType::Partial(dtype, dims) => {
                let dims = dims.into_iter().map(|d| d.and_then(|d| self.seen_outside(&d, inside))).collect();
                OutputType::Partial(dtype, dims)
            }
            other => other,
        }
    }

    /// A type with fresh symbols, which `sizes` collects, for the sizes that are not derived.
    fn complete(&mut self, ty: OutputType, prefix: &str, sizes: &mut SmallVec<[Symbol; 2]>) -> Type {
        match ty {
            OutputType::Exact(t) => t,
            OutputType::Partial(dtype, dims) => {
                let symbols = &mut self.graph.symbols;
                let mut fresh = || {
                    let symbol = symbols.fresh(prefix);
                    sizes.push(symbol);
                    Dim::from(symbol)
                };
                let shape = dims.into_iter().map(|d| d.unwrap_or_else(&mut fresh)).collect();
                TensorType { dtype, shape }.into()
            }
            OutputType::Stated(dtype) => TensorType::fixed(dtype, &[]).into(),
        }
    }

    /// A loop. The body gets the iteration (`i64` of rank 0), the carried values and the captures; it gives the condition
    /// to go on (`bool` of rank 0), the carried values and the values to stack. The results are the last carried values and
    /// the stacks.
    ///
    /// # Errors
    /// Those of `body`, or that a carried value's type does not fit.
    pub fn loop_<E: From<BuildError>>(
        &mut self,
        spec: &LoopSpec,
        body: impl FnOnce(&mut Builder<'_>, Value, &[Value], &[Value]) -> Result<(Value, Vec<Value>, Vec<Value>), E>,
    ) -> Result<Vec<Value>, E> {
        let region = self.graph.add_region();
        let iteration = self.graph.add_param(region, TensorType::fixed(DType::I64, &[]));
        let carried: Vec<Value> = spec.carried.iter().map(|(_, ty)| self.graph.add_param(region, ty.clone())).collect();
        let captures = self.capture(region, &spec.captures);
        let (condition, next, scanned) = body(&mut self.within(region), iteration, &carried, &captures)?;
        let results = std::iter::once(condition).chain(next).chain(scanned.iter().copied()).collect();
        self.graph.regions[region].results = results;

        let mut inputs = vec![spec.trip_count, spec.condition];
        inputs.extend(spec.carried.iter().map(|(v, _)| *v));
        inputs.extend(self.captured(&spec.captures));
        let varying = self.varying(&spec.carried);
        let mut sizes = SmallVec::new();
        let op = Op::Loop { body: region, carried: carried.len() as u32, varying, sizes: SmallVec::new() };
        let derived = self.infer(&op, &inputs)?;
        let mut types = Vec::with_capacity(derived.len());
        for (i, derived) in derived.into_iter().enumerate() {
            let stated = match (derived, spec.carried.get(i)) {
                (OutputType::Partial(dtype, mut dims), Some(_)) => {
                    self.keep_constant_sizes(&mut dims, region, i, &inputs);
                    OutputType::Partial(dtype, dims)
                }
                (OutputType::Partial(dtype, mut dims), None) => {
                    dims[0] = spec.iterations.clone();
                    // A size of the body that is no symbol of the body alone is the same in every iteration.
                    let inside = self.sizes_inside(region);
                    let result = self.graph.regions[region].results[1 + i];
                    if let Type::Tensor(t) = self.graph.ty(result).clone() {
                        for (dim, size) in dims[1..].iter_mut().zip(&t.shape) {
                            if !self.varies(size, &spec.carried) {
                                *dim = self.seen_outside(size, &inside);
                            }
                        }
                    }
                    OutputType::Partial(dtype, dims)
                }
                (other, _) => other,
            };
            types.push(self.complete(stated, "loop", &mut sizes));
        }
        let Op::Loop { body, carried, varying, .. } = op else { unreachable!("it was made a loop") };
        let op = Op::Loop { body, carried, varying, sizes };
        let node = self.node(op, &inputs, &types)?;
        Ok(self.graph.nodes[node].outputs.to_vec())
    }

    /// A carried size that the body takes and gives unchanged is what it was before the loop.
    fn keep_constant_sizes(&self, dims: &mut [Option<Dim>], body: Region, carried: usize, inputs: &[Value]) {
        let body = &self.graph.regions[body];
        let types =
            [inputs[2 + carried], body.params[1 + carried], body.results[1 + carried]].map(|v| self.graph.ty(v));
        if let [Type::Tensor(before), Type::Tensor(param), Type::Tensor(after)] = types {
            for (i, dim) in dims.iter_mut().enumerate() {
                if before.shape[i] == param.shape[i] && self.graph.same_dim(&param.shape[i], &after.shape[i]) {
                    *dim = Some(before.shape[i].clone());
                }
            }
        }
    }

    /// The symbols of the carried types that stand for sizes which may change.
    fn varying(&self, carried: &[(Value, Type)]) -> SmallVec<[Symbol; 2]> {
        let mut symbols: SmallVec<[Symbol; 2]> = SmallVec::new();
        for (value, ty) in carried {
            let (Type::Tensor(before), Type::Tensor(param)) = (self.graph.ty(*value), ty) else { continue };
            for (b, p) in before.shape.iter().zip(&param.shape) {
                symbols.extend(p.as_symbol().filter(|s| b != p && !symbols.contains(s)));
            }
        }
        symbols
    }

    /// Whether a size depends on a symbol that only the carried types of a loop mention.
    fn varies(&self, size: &Dim, carried: &[(Value, Type)]) -> bool {
        let mut fresh = carried.iter().filter_map(|(value, ty)| match (self.graph.ty(*value), ty) {
            (Type::Tensor(before), Type::Tensor(param)) => Some((before, param)),
            _ => None,
        });
        fresh.any(|(before, param)| {
            let pairs = before.shape.iter().zip(&param.shape).filter(|(b, p)| b != p);
            pairs.into_iter().any(|(_, p)| p.symbols().any(|s| size.symbols().any(|t| s == t)))
        })
    }

    /// A composite: `body` builds its meaning from parameters with the types of the inputs.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn composite<E: From<BuildError>>(
        &mut self,
        kind: CompositeKind,
        inputs: &[Value],
        body: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Vec<Value>, E>,
    ) -> Result<Vec<Value>, E> {
        let region = self.graph.add_region();
        let params: Vec<Value> = inputs.iter().map(|&v| self.param_like(region, v)).collect();
        let results = body(&mut self.within(region), &params)?;
        self.graph.regions[region].results = results;
        let node = self.derived(Op::Composite { kind, body: region }, inputs)?;
        Ok(self.graph.nodes[node].outputs.to_vec())
    }

    /// Repeats the nodes of a region here, with `args` for its parameters, and gives what its results become. Nested
    /// regions are copied; the nodes' origins are kept and joined with the builder's.
    ///
    /// # Panics
    /// If there are not as many arguments as parameters.
    pub fn inline(&mut self, region: Region, args: &[Value]) -> Vec<Value> {
        let fresh = self.fresh_sizes(region);
        self.inline_with(region, args, &fresh)
    }

    /// New symbols for the sizes that a region and those nested in it bind, with the assumptions about them.
    fn fresh_sizes(&mut self, region: Region) -> HashMap<Symbol, Symbol> {
        let mut fresh = HashMap::new();
        for symbol in self.sizes_inside(region) {
            let name = self.graph.symbols.name(symbol).trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
            let name = name.to_owned();
            let (low, high) = self.graph.symbols.bounds(symbol);
            let new = self.graph.symbols.fresh(&name);
            self.graph.symbols.widen(new, low, high);
            fresh.insert(symbol, new);
        }
        if !fresh.is_empty() {
            for (left, right) in self.graph.assumptions.clone() {
                let renamed = (rename(&left, &fresh), rename(&right, &fresh));
                if renamed != (left, right) {
                    self.graph.assumptions.push(renamed);
                }
            }
        }
        fresh
    }

    fn inline_with(&mut self, region: Region, args: &[Value], fresh: &HashMap<Symbol, Symbol>) -> Vec<Value> {
        let data = self.graph.regions[region].clone();
        assert_eq!(data.params.len(), args.len(), "one argument per parameter of {region}");
        let mut map: HashMap<Value, Value> = data.params.iter().copied().zip(args.iter().copied()).collect();
        for node in data.nodes {
            let node = self.graph.nodes[node].clone();
            let mut op = self.with_copied_regions(&node.op, fresh);
            let inputs = node.inputs.iter().map(|v| map[v]);
            let mut types: Vec<Type> = node.outputs.iter().map(|&v| self.graph.ty(v).clone()).collect();
            if !fresh.is_empty() {
                op.map_dims(|d| rename(d, fresh));
                op.rename_sizes(|s| fresh.get(&s).copied().unwrap_or(s));
                types.iter_mut().for_each(|ty| ty.map_dims(&|d| rename(d, fresh)));
            }
            let mut origins = node.origins.clone();
            origins.extend(self.origins.iter().copied());
            let copy = self.graph.add_node(self.region, op, inputs, types, &origins);
            // Arguments may be known where parameters were not.
            known::derive(self.graph, copy);
            for (i, &old) in node.outputs.iter().enumerate() {
                let new = self.graph.nodes[copy].outputs[i];
                if self.graph.known[new].is_none() {
                    let known = self.graph.known[old].as_ref().map(|known| known.map_dims(|d| rename(d, fresh)));
                    self.graph.known[new] = known;
                }
                map.insert(old, new);
            }
        }
        data.results.iter().map(|v| map[v]).collect()
    }

    fn with_copied_regions(&mut self, op: &Op, fresh: &HashMap<Symbol, Symbol>) -> Op {
        let mut op = op.clone();
        match &mut op {
            Op::If { then, otherwise, .. } => {
                *then = self.copy_with(*then, fresh);
                *otherwise = self.copy_with(*otherwise, fresh);
            }
            Op::Loop { body, .. } | Op::Composite { body, .. } | Op::Group { body } => {
                *body = self.copy_with(*body, fresh);
            }
            Op::Constant(_)
            | Op::DimValue(_)
            | Op::BindSizes { .. }
            | Op::Elementwise(_)
            | Op::Reduce { .. }
            | Op::Cumulate { .. }
            | Op::Contract(_)
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Reshape
            | Op::Transpose { .. }
            | Op::Broadcast
            | Op::Slice { .. }
            | Op::Pad { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_)
            | Op::Strings(_) => {}
        }
        op
    }

    /// A copy of a region with everything nested in it.
    pub fn copy_region(&mut self, region: Region) -> Region {
        let fresh = self.fresh_sizes(region);
        self.copy_with(region, &fresh)
    }

    fn copy_with(&mut self, region: Region, fresh: &HashMap<Symbol, Symbol>) -> Region {
        let copy = self.graph.add_region();
        let params = self.graph.regions[region].params.clone();
        let params: Vec<Value> = params
            .into_iter()
            .map(|p| {
                let param = self.param_like(copy, p);
                if !fresh.is_empty() {
                    self.graph.values[param].ty.map_dims(&|d| rename(d, fresh));
                    let known = self.graph.known[param].as_ref().map(|known| known.map_dims(|d| rename(d, fresh)));
                    self.graph.known[param] = known;
                }
                param
            })
            .collect();
        let results = self.within(copy).inline_with(region, &params, fresh);
        self.graph.regions[copy].results = results;
        copy
    }
}

/// An expression with other symbols.
fn rename(dim: &Dim, fresh: &HashMap<Symbol, Symbol>) -> Dim {
    if fresh.is_empty() || !dim.symbols().any(|s| fresh.contains_key(&s)) {
        return dim.clone();
    }
    dim.substitute(|s| fresh.get(&s).copied().map(Dim::symbol)).expect("symbols for symbols keep the size")
}
