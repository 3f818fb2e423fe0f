//! Branches and loops as steps. The regions' parameters are other names of what the node is given; results are copied to
//! rooms that outlive the branch or the iteration.

use onnxc_ir::dim::{Dim, Symbol};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::{Node, Region, TensorType, Value};

use super::planned::{Allocation, Home, List, Planned, PlannedStep};
use super::{Lowering, bytes_of};
use crate::LowerError;

impl Lowering<'_> {
    /// Runs `lower` with a new list of steps open, and gives the list.
    fn in_list(&mut self, lower: impl FnOnce(&mut Self) -> Result<(), LowerError>) -> Result<List, LowerError> {
        let outer = std::mem::take(&mut self.steps);
        let number = self.lists;
        self.lists += 1;
        self.open.push(number);
        let result = lower(self);
        self.open.pop();
        let steps = std::mem::replace(&mut self.steps, outer);
        result.map(|()| List { number, steps })
    }

    /// Appends a step with lists that began at `begin`. What lies outside of the lists and is touched by them lives as long
    /// as they: another branch or iteration may need it, and memory is released where it was allocated.
    fn push_lists(&mut self, begin: usize, step: PlannedStep) {
        let end = self.tick();
        let homes: Vec<Home> = step.homes().cloned().collect();
        homes.iter().for_each(|home| self.touch(home, end));
        for room in self.rooms.iter_mut().filter(|room| room.last >= begin && self.open.contains(&room.list)) {
            room.last = end;
        }
        self.steps.push(Planned { begin, end, step });
    }

    fn room_of(&mut self, ty: &TensorType, allocation: Allocation) -> Result<Home, LowerError> {
        let home = self.room(ty)?;
        self.rooms.last_mut().expect("the room was just made").allocation = allocation;
        Ok(home)
    }

    fn copy(&mut self, node: Node, from: Home, to: Home, ty: &TensorType) -> Result<(), LowerError> {
        if from != to {
            let (bytes, origins) = (bytes_of(ty)?, self.graph.nodes[node].origins.clone());
            self.push(PlannedStep::Copy { from, to, offset: Dim::ZERO, bytes, origins });
        }
        Ok(())
    }

    fn bind_params(&mut self, params: &[Value], homes: impl IntoIterator<Item = Home>) {
        params.iter().zip(homes).for_each(|(&param, home)| self.homes[param] = Some(home));
    }

    /// A branch: each list ends with the results where both have them.
    pub(super) fn lower_if(&mut self, node: Node, branches: [Region; 2], sizes: &[Symbol]) -> Result<(), LowerError> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        let condition = self.home(data.inputs[0]);
        let begin = self.tick();
        let mut rooms = Vec::new();
        for &output in &data.outputs {
            let ty = graph.tensor_ty(output);
            let decided = ty.shape.iter().flat_map(Dim::symbols).any(|s| sizes.contains(&s));
            let room = self.room_of(ty, if decided { Allocation::Stated } else { Allocation::Automatic })?;
            self.touch(&room, begin);
            rooms.push((room, decided));
        }
        let mut lists = Vec::with_capacity(2);
        for region in branches {
            lists.push(self.in_list(|cx| {
                let inner = &graph.regions[region];
                let captures: Vec<Home> = data.inputs[1..].iter().map(|&v| cx.home(v)).collect();
                cx.bind_params(&inner.params, captures);
                cx.lower_nodes(region)?;
                let mut assigned = Vec::new();
                for (&output, &result) in data.outputs.iter().zip(&inner.results) {
                    let (stated, found) = (&graph.tensor_ty(output).shape, &graph.tensor_ty(result).shape);
                    for (size, value) in stated.iter().zip(found) {
                        assigned.extend(size.as_symbol().filter(|s| sizes.contains(s)).map(|s| (s, value.clone())));
                    }
                }
                if !assigned.is_empty() {
                    cx.push(PlannedStep::Assign { sizes: assigned });
                }
                for ((room, decided), &result) in rooms.iter().zip(&inner.results) {
                    if *decided {
                        cx.push(PlannedStep::Allocate { room: room.clone(), origins: data.origins.clone() });
                    }
                    let from = cx.home(result);
                    cx.copy(node, from, room.clone(), graph.tensor_ty(result))?;
                }
                Ok(())
            })?);
        }
        let (otherwise, then) = (lists.pop().expect("two branches"), lists.pop().expect("two branches"));
        let origins = data.origins.clone();
        self.push_lists(begin, PlannedStep::If { condition, then, otherwise, origins });
        data.outputs.iter().zip(rooms).for_each(|(&output, (room, _))| self.homes[output] = Some(room));
        self.bound.extend(sizes.iter().copied());
        self.require_equal(&data.origins);
        Ok(())
    }

    /// A loop: what is carried has a room of its own, to which each iteration copies its results; what is stacked goes to
    /// its part of the result, or is appended where nobody knows how much will come.
    pub(super) fn lower_loop(
        &mut self,
        node: Node,
        body: Region,
        carried: usize,
        varying: &[Symbol],
        sizes: &[Symbol],
    ) -> Result<(), LowerError> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        let inner = &graph.regions[body];
        let origins = &data.origins;
        let iteration = self.iterations[&node];
        let mentions =
            |ty: &TensorType, symbols: &[Symbol]| ty.shape.iter().flat_map(Dim::symbols).any(|s| symbols.contains(&s));
        // The state before the first iteration.
        let truth = TensorType::fixed(DType::Bool, &[]);
        let condition = self.room(&truth)?;
        let first = self.home(data.inputs[1]);
        self.copy(node, first, condition.clone(), &truth)?;
        let states: Vec<(Value, &TensorType)> =
            (0..carried).map(|k| (data.inputs[2 + k], graph.tensor_ty(inner.params[1 + k]))).collect();
        let mut assigned = Vec::new();
        for (before, ty) in &states {
            let pairs = ty.shape.iter().zip(&graph.tensor_ty(*before).shape);
            for (size, value) in pairs {
                assigned.extend(size.as_symbol().filter(|s| varying.contains(s)).map(|s| (s, value.clone())));
            }
        }
        if !assigned.is_empty() {
            self.push(PlannedStep::Assign { sizes: assigned });
        }
        let mut rooms = Vec::new();
        for (before, ty) in &states {
            let changes = mentions(ty, varying);
            let room = self.room_of(ty, if changes { Allocation::Stated } else { Allocation::Automatic })?;
            if changes {
                self.push(PlannedStep::Allocate { room: room.clone(), origins: origins.clone() });
            }
            let from = self.home(*before);
            self.copy(node, from, room.clone(), graph.tensor_ty(*before))?;
            rooms.push((room, changes));
        }
        let trips = self.home(data.inputs[0]);
        let begin = self.tick();
        let counter = self.room(&TensorType::fixed(DType::I64, &[]))?;
        self.touch(&counter, begin);
        let mut stacks = Vec::new();
        for &output in &data.outputs[carried..] {
            let ty = graph.tensor_ty(output);
            if mentions(&TensorType { dtype: ty.dtype, shape: ty.shape[1..].into() }, sizes) {
                let origin = &graph.origins[origins[0]];
                let text =
                    format!("{} ({}): a loop that stacks tensors of different sizes", origin.path, origin.operator);
                return Err(LowerError::Unsupported { nodes: vec![text] });
            }
            let grows = mentions(ty, sizes);
            let room = self.room_of(ty, if grows { Allocation::Stated } else { Allocation::Automatic })?;
            self.touch(&room, begin);
            stacks.push((room, grows));
        }
        let list = self.in_list(|cx| {
            let captures: Vec<Home> = data.inputs[2 + carried..].iter().map(|&v| cx.home(v)).collect();
            let states = rooms.iter().map(|(room, _)| room.clone());
            cx.bind_params(&inner.params, std::iter::once(counter.clone()).chain(states).chain(captures));
            cx.bound.extend(varying.iter().copied());
            cx.require_equal(origins);
            cx.lower_nodes(body)?;
            for ((room, grows), &result) in stacks.iter().zip(&inner.results[1 + carried..]) {
                let (from, to, origins) = (cx.home(result), room.clone(), origins.clone());
                let bytes = bytes_of(graph.tensor_ty(result))?;
                let offset = (&bytes * &Dim::from(iteration)).map_err(|_| LowerError::TooLarge)?;
                cx.push(if *grows {
                    PlannedStep::Append { to, from, bytes, used: offset, origins }
                } else {
                    PlannedStep::Copy { from, to, offset, bytes, origins }
                });
            }
            cx.carry(node, &rooms, &inner.results[1..=carried], &inner.params[1..=carried], varying)?;
            let next = cx.home(inner.results[0]);
            cx.copy(node, next, condition.clone(), &truth)
        })?;
        let origins = origins.clone();
        let step = PlannedStep::Loop { trips, condition, iteration, counter, body: list, origins };
        self.push_lists(begin, step);
        let mut assigned = Vec::new();
        for (i, &output) in data.outputs.iter().enumerate() {
            for (axis, size) in graph.tensor_ty(output).shape.iter().enumerate() {
                let Some(symbol) = size.as_symbol().filter(|s| sizes.contains(s)) else { continue };
                let value = match states.get(i) {
                    Some((_, ty)) => ty.shape[axis].clone(),
                    None => Dim::from(iteration),
                };
                assigned.push((symbol, value));
            }
        }
        if !assigned.is_empty() {
            self.push(PlannedStep::Assign { sizes: assigned });
        }
        let homes = rooms.into_iter().chain(stacks).map(|(room, _)| room);
        data.outputs.iter().zip(homes).for_each(|(&output, room)| self.homes[output] = Some(room));
        self.bound.extend(sizes.iter().copied());
        self.require_equal(&data.origins);
        Ok(())
    }

    /// Makes an iteration's results the state of the next one.
    fn carry(
        &mut self,
        node: Node,
        rooms: &[(Home, bool)],
        results: &[Value],
        params: &[Value],
        varying: &[Symbol],
    ) -> Result<(), LowerError> {
        let graph = self.graph;
        let origins = &graph.nodes[node].origins;
        let mut sources: Vec<Home> = results.iter().map(|&v| self.home(v)).collect();
        let mut moves = Vec::new();
        let mut assigned = Vec::new();
        for (k, (room, changes)) in rooms.iter().enumerate() {
            let ty = graph.tensor_ty(results[k]);
            for (size, value) in graph.tensor_ty(params[k]).shape.iter().zip(&ty.shape) {
                assigned.extend(size.as_symbol().filter(|s| varying.contains(s)).map(|s| (s, value.clone())));
            }
            let state = rooms.iter().any(|(other, _)| *other == sources[k]);
            if sources[k] == *room && !*changes {
                continue;
            }
            // A state that becomes another one is kept from being overwritten first.
            if *changes || state {
                let kept = self.room_of(ty, if *changes { Allocation::Moved } else { Allocation::Automatic })?;
                if *changes {
                    self.push(PlannedStep::Allocate { room: kept.clone(), origins: origins.clone() });
                }
                self.copy(node, sources[k].clone(), kept.clone(), ty)?;
                sources[k] = kept;
            }
            moves.push(k);
        }
        for k in moves {
            let (room, changes) = &rooms[k];
            if *changes {
                self.push(PlannedStep::Release { room: room.clone() });
                self.push(PlannedStep::Move { from: sources[k].clone(), to: room.clone() });
            } else {
                self.copy(node, sources[k].clone(), room.clone(), graph.tensor_ty(results[k]))?;
            }
        }
        if !assigned.is_empty() {
            self.push(PlannedStep::Assign { sizes: assigned });
        }
        Ok(())
    }
}
