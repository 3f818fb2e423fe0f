//! From groups to a program: kernels, launches, places and the weight section.
//!
//! Before: a body of `Group`, `Constant`, `BindSizes`, `Strings` and `Reshape` nodes, as the pass `fuse` leaves it. After: a
//! [`Program`]. Tensors whose sizes follow from the inputs' shapes lie in the arena; those whose sizes data decides get a
//! slot, which is allocated before the first step that needs it and released after the last.

use std::collections::{HashMap, HashSet};

use cranelift_entity::{EntityRef, SecondaryMap};
use onnxc_ir::dim::{Dim, Symbol};
use onnxc_ir::loops::Kernel;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::{Apart, KernelRef, Place, Port, Program, Remark, STRING_SLOTS, State, Step, Weight};
use onnxc_ir::strings::StringFunction;
use onnxc_ir::tensor::{Constant, External, Graph, Node, Op, Origins, Region, TensorType, Value};

use crate::LowerError;
use crate::codegen::{Argument, GroupLaunch};
use crate::passes::rewrite::{KeptState, PackedPorts};
use crate::plan_memory::ALIGNMENT;
use crate::schedules;

mod control;
mod in_place;
mod planned;
mod symbols;

use in_place::{last_readers, state_in_place};
use planned::{Allocation, Home, Planned, PlannedStep, Room};
use symbols::{Numbering, doubtful_sizes, number_symbols};

/// Lowers a cut graph. `packed` has the types of the ports that are raw memory in it.
pub fn lower(
    mut graph: Graph,
    machine: &MachineModel,
    packed: &PackedPorts,
    states: &[KeptState],
    apart: Option<Apart>,
) -> Result<Program, LowerError> {
    let (mut packed, mut states) = (packed.clone(), states.to_vec());
    let numbering = number_symbols(&mut graph, &mut packed, &mut states);
    let mut lowering = Lowering::new(&graph, machine, &packed, numbering)?;
    lowering.program.apart = apart;
    for KeptState { input, output, axis, room } in &states {
        let bytes = bytes_of(room)?;
        let (input, output) = (*input as u32, *output as u32);
        lowering.program.states.push(State { input, output, axis: *axis, bytes });
    }
    lowering.assign_ports();
    lowering.lower_nodes(graph.body())?;
    lowering.copy_results();
    let mut program = lowering.finish()?;
    program.strings = graph.strings;
    program.constants = graph.constants;
    program.origins = graph.origins;
    Ok(program)
}

struct Lowering<'g> {
    graph: &'g Graph,
    machine: &'g MachineModel,
    program: Program,
    homes: SecondaryMap<Value, Option<Home>>,
    rooms: Vec<Room>,
    /// The lists of steps that are open, the innermost last, and how many there have been.
    open: Vec<u32>,
    lists: u32,
    /// The next step's place in time.
    clock: usize,
    /// The symbol that counts the iterations of a loop.
    iterations: HashMap<Node, Symbol>,
    /// Assumptions about sizes that data decides, until those are bound.
    waiting: Vec<(Dim, Dim)>,
    /// The sizes that steps have bound so far.
    bound: HashSet<Symbol>,
    /// Steps whose places wait for the memory plan.
    steps: Vec<Planned>,
    kernels: HashMap<String, KernelRef>,
    weights: HashMap<Constant, u64>,
    /// The last node that reads a value, under any name that reshapes give it; `None` for results.
    last_readers: SecondaryMap<Value, Option<Node>>,
}

impl<'g> Lowering<'g> {
    fn new(
        graph: &'g Graph,
        machine: &'g MachineModel,
        packed: &PackedPorts,
        numbering: Numbering,
    ) -> Result<Lowering<'g>, LowerError> {
        let Numbering { data_symbols, iterations } = numbering;
        let body = &graph.regions[graph.body()];
        type Packed = HashMap<usize, TensorType>;
        let port = |names: &[String], packed: &Packed, i: usize, v: Value| -> Result<Port, LowerError> {
            let name = names.get(i).cloned().unwrap_or_default();
            match packed.get(&i).or(graph.ty(v).as_tensor()) {
                Some(ty) => Ok(Port { name, ty: ty.clone() }),
                None => Err(LowerError::NotTensor { name }),
            }
        };
        let ports = |names: &[String], packed: &Packed, values: &[Value]| {
            values.iter().enumerate().map(|(i, &v)| port(names, packed, i, v)).collect::<Result<Vec<_>, _>>()
        };
        let mut program = Program {
            name: graph.name.clone(),
            symbols: graph.symbols.clone(),
            data_symbols,
            inputs: ports(&graph.input_names, &packed.inputs, &body.params)?,
            outputs: ports(&graph.output_names, &packed.outputs, &body.results)?,
            ..Program::default()
        };
        let (named, waiting) =
            graph.assumptions.iter().cloned().partition(|(a, b)| program.is_named(a) && program.is_named(b));
        program.assumptions = named;
        program.sizes = doubtful_sizes(graph);
        program.sizes.retain(|d| d.symbols().all(|s| s.index() < graph.symbols.len() - data_symbols as usize));
        Ok(Lowering {
            graph,
            machine,
            program,
            homes: SecondaryMap::new(),
            rooms: Vec::new(),
            open: vec![0],
            lists: 1,
            clock: 0,
            iterations,
            waiting,
            bound: HashSet::new(),
            steps: Vec::new(),
            kernels: HashMap::new(),
            weights: HashMap::new(),
            last_readers: last_readers(graph),
        })
    }

    /// Inputs are where the caller has them; a result that is computed goes straight to the caller's output.
    fn assign_ports(&mut self) {
        let body = &self.graph.regions[self.graph.body()];
        for (i, &v) in body.params.iter().enumerate() {
            self.homes[v] = Some(Home::Place(Place::Input(i as u32)));
        }
        for (i, &v) in body.results.iter().enumerate() {
            // Through reshapes to the node that computes the elements.
            let mut source = v;
            while let Some(node) =
                self.graph.def_node(source).filter(|&n| matches!(self.graph.nodes[n].op, Op::Reshape))
            {
                source = self.graph.nodes[node].inputs[0];
            }
            // What computes the elements may come before data has decided the shape that they get.
            if source != v && !self.program.states_at_entry(&self.program.outputs[i]) {
                continue;
            }
            // The state before is read until the run ends.
            if self.program.states.iter().any(|state| state.output as usize == i && state.axis.is_none()) {
                continue;
            }
            let computed = self
                .graph
                .def_node(source)
                .is_some_and(|n| matches!(self.graph.nodes[n].op, Op::Group { .. } | Op::External(_) | Op::Strings(_)));
            if computed && self.homes[source].is_none() {
                self.homes[source] = Some(Home::Place(Place::Output(i as u32)));
            }
        }
    }

    fn lower_nodes(&mut self, region: Region) -> Result<(), LowerError> {
        let graph = self.graph;
        graph.regions[region].nodes.iter().try_for_each(|&node| self.lower_node(node))
    }

    fn lower_node(&mut self, node: Node) -> Result<(), LowerError> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        match &data.op {
            Op::Constant(c) => {
                let offset = self.weight(*c)?;
                self.homes[data.outputs[0]] = Some(Home::Place(Place::Weights(offset)));
            }
            Op::Reshape => {
                let home = self.home(data.inputs[0]);
                if self.homes[data.outputs[0]].is_none() {
                    self.homes[data.outputs[0]] = Some(home);
                }
            }
            Op::BindSizes { symbols, low, high } => {
                let from = self.home(data.inputs[0]);
                for (i, (&symbol, (low, high))) in symbols.iter().zip(low.iter().zip(high)).enumerate() {
                    self.bound.insert(symbol);
                    let (from, origins) = (from.clone(), data.origins.clone());
                    let (low, high) = (low.clone(), high.clone());
                    self.push(PlannedStep::Bind { symbol, from, element: i as u32, low, high, origins });
                }
                self.homes[data.outputs[0]] = Some(from);
                self.require_equal(&data.origins);
            }
            Op::Strings(function) => self.lower_strings(node, *function)?,
            Op::If { then, otherwise, sizes } => self.lower_if(node, [*then, *otherwise], sizes)?,
            Op::Loop { body, carried, varying, sizes } => {
                self.lower_loop(node, *body, *carried as usize, varying, sizes)?;
            }
            Op::External(external) => self.lower_call(node, external)?,
            Op::Group { body } => self.lower_group(node, *body)?,
            other => panic!("`{}` is left in the body after fusion", other.name()),
        }
        Ok(())
    }

    /// A function of the user reads its operands where they are and writes to where they are wanted.
    fn lower_call(&mut self, node: Node, external: &External) -> Result<(), LowerError> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        for &v in &data.outputs {
            if self.homes[v].is_none() {
                self.homes[v] = Some(self.room(graph.tensor_ty(v))?);
            }
        }
        let values = || data.inputs.iter().chain(&data.outputs);
        let tensors = values().map(|&v| self.home(v)).collect();
        let types = values().map(|&v| graph.tensor_ty(v).clone()).collect();
        self.push(PlannedStep::Call { external: external.clone(), tensors, types, origins: data.origins.clone() });
        Ok(())
    }

    /// Tests the assumptions whose sizes are all bound now.
    fn require_equal(&mut self, origins: &Origins) {
        let named = self.program.named_symbols();
        for (left, right) in std::mem::take(&mut self.waiting) {
            let has_value = |s: Symbol| s.index() < named || self.bound.contains(&s);
            if left.symbols().all(has_value) && right.symbols().all(has_value) {
                self.push(PlannedStep::Require { left, right, origins: origins.clone() });
            } else {
                self.waiting.push((left, right));
            }
        }
    }

    fn lower_group(&mut self, node: Node, region: Region) -> Result<(), LowerError> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        let in_place = self.overwritten_operand(node, region);
        if let Some(operand) = in_place {
            self.homes[data.outputs[0]] = self.homes[data.inputs[operand]].clone();
        }
        for &v in &data.outputs {
            if self.homes[v].is_none() {
                self.homes[v] = Some(self.room(graph.tensor_ty(v))?);
            }
        }
        let empty = |v: &Value| graph.tensor_ty(*v).static_len() == Some(0);
        if data.outputs.iter().all(empty) {
            return Ok(());
        }
        let name = self.kernel_name(node, region);
        let params = &graph.regions[region].params;
        let results = &graph.regions[region].results;
        let mut launches = schedules::schedule(graph, region, self.machine, &name);
        if let [_, _, _] = launches[..]
            && self.appends_to_state(node)
        {
            // What was there before and what lies behind stay where they are.
            launches = vec![launches.swap_remove(1)];
        }
        for launch in launches {
            let GroupLaunch { mut kernel, arguments, params: sizes, tasks, flops, remarks } = launch;
            self.remark(node, &kernel, &tasks, &remarks);
            if let Some(operand) = in_place {
                state_in_place(&mut kernel, &arguments, params[operand], results[0]);
            }
            let buffers = arguments
                .iter()
                .map(|argument| match *argument {
                    Argument::Input(v) => {
                        let i = params.iter().position(|&p| p == v).expect("an input of the region");
                        self.home(data.inputs[i])
                    }
                    Argument::Output(v) => {
                        let i = results.iter().position(|&r| r == v).expect("a result of the region");
                        self.home(data.outputs[i])
                    }
                })
                .collect::<Vec<Home>>();
            self.program.scratch_bytes = self.program.scratch_bytes.max(kernel.scratch_layout().1);
            let kernel = self.kernel(kernel);
            let origins = data.origins.clone();
            self.push(PlannedStep::Launch { kernel, buffers, params: sizes, tasks, origins, flops });
        }
        Ok(())
    }

    /// States what the schedule of a group decided.
    fn remark(&mut self, node: Node, kernel: &Kernel, tasks: &Dim, decided: &[String]) {
        let origin = self.graph.origins[self.graph.nodes[node].origins[0]].path.clone();
        let family = kernel.name.strip_suffix(&origin).unwrap_or(&kernel.name).trim_end_matches('_');
        let tasks = tasks.display(&self.graph.symbols).to_string();
        let mut text = format!("{family}: {tasks} task{}", if tasks == "1" { "" } else { "s" });
        let scratch = kernel.scratch_layout().1;
        if scratch > 0 {
            text.push_str(&format!(", {} KB of scratch", scratch.div_ceil(1024)));
        }
        for decision in decided {
            text.push_str("; ");
            text.push_str(decision);
        }
        self.program.remarks.push(Remark { pass: "schedule", origin, text });
    }

    fn lower_strings(&mut self, node: Node, function: StringFunction) -> Result<(), LowerError> {
        let graph = self.graph;
        let data = &graph.nodes[node];
        let output = data.outputs[0];
        if self.homes[output].is_none() {
            self.homes[output] = Some(self.room(graph.tensor_ty(output))?);
        }
        let values = || data.inputs.iter().chain(&data.outputs);
        let tensors = values().map(|&v| self.home(v)).collect();
        let types = values().map(|&v| graph.tensor_ty(v).clone()).collect();
        self.push(PlannedStep::Strings { function, tensors, types, origins: data.origins.clone() });
        Ok(())
    }

    /// A kernel of the program; an equal one is shared.
    fn kernel(&mut self, kernel: Kernel) -> KernelRef {
        let key = format!("{:?}", Kernel { name: String::new(), ..kernel.clone() });
        if let Some(&shared) = self.kernels.get(&key) {
            return shared;
        }
        let kernel = self.program.kernels.push(kernel);
        self.kernels.insert(key, kernel);
        kernel
    }

    /// The schedule's family and the ONNX node: `conv_layer1.0.conv1`.
    fn kernel_name(&self, node: Node, region: Region) -> String {
        let family = schedules::anchor(self.graph, region).map_or("map", |n| self.graph.nodes[n].op.name());
        let origin = &self.graph.origins[self.graph.nodes[node].origins[0]];
        format!("{family}_{}", origin.path)
    }

    fn home(&self, value: Value) -> Home {
        self.homes[value].clone().expect("values are defined before they are used")
    }

    /// Keeps a tensor alive up to a step.
    fn touch(&mut self, home: &Home, step: usize) {
        if let Home::Tenant(t) = *home {
            self.rooms[t].first = self.rooms[t].first.min(step);
            self.rooms[t].last = self.rooms[t].last.max(step);
        }
    }

    /// Room for a tensor of the list that is open, from the next step on.
    fn room(&mut self, ty: &TensorType) -> Result<Home, LowerError> {
        let list = *self.open.last().expect("a list is open");
        let (first, last) = (self.clock, self.clock);
        let allocation = Allocation::Automatic;
        self.rooms.push(Room { bytes: bytes_of(ty)?, ty: ty.clone(), first, last, list, allocation });
        Ok(Home::Tenant(self.rooms.len() - 1))
    }

    fn tick(&mut self) -> usize {
        self.clock += 1;
        self.clock - 1
    }

    /// Appends a step; what it touches lives until then.
    fn push(&mut self, step: PlannedStep) {
        let clock = self.tick();
        let homes: Vec<Home> = step.homes().cloned().collect();
        homes.iter().for_each(|home| self.touch(home, clock));
        self.steps.push(Planned { begin: clock, end: clock, step });
    }

    /// The offset of a constant in the weight section.
    fn weight(&mut self, constant: Constant) -> Result<u64, LowerError> {
        if let Some(&offset) = self.weights.get(&constant) {
            return Ok(offset);
        }
        let bytes =
            bytes_of(&self.graph.constants[constant].ty)?.as_const().expect("constants have constant shapes") as u64;
        let end = self.program.weight_bytes;
        let (offset, next) = match self.program.apart {
            None => (end, (end + bytes.max(1)).next_multiple_of(ALIGNMENT)),
            Some(apart) => {
                let size = Dim::from(bytes as i64);
                let (offset, next) = apart.place(&Dim::from(end as i64), &size).map_err(|_| LowerError::TooLarge)?;
                let number = |dim: Dim| dim.as_const().expect("constants have constant sizes") as u64;
                (number(offset), number(next))
            }
        };
        self.program.weights.push(Weight { constant, offset, bytes });
        self.program.weight_bytes = next;
        self.weights.insert(constant, offset);
        Ok(offset)
    }

    /// Outputs whose elements are not computed into them: inputs, constants, and values that are several outputs.
    fn copy_results(&mut self) {
        let graph = self.graph;
        for (i, &v) in graph.regions[graph.body()].results.iter().enumerate() {
            let from = self.home(v);
            let to = Place::Output(i as u32);
            if matches!(&from, Home::Place(place) if *place == to) {
                continue;
            }
            let bytes = bytes_of(graph.tensor_ty(v)).expect("the size was checked with the port");
            let origins = graph.def_node(v).map(|n| graph.nodes[n].origins.clone()).unwrap_or_default();
            self.push(PlannedStep::Copy { from, to: Home::Place(to), offset: Dim::ZERO, bytes, origins });
        }
    }

    fn finish(self) -> Result<Program, LowerError> {
        let mut program = self.program;
        program.scratch_bytes = program.scratch_bytes.next_multiple_of(ALIGNMENT);
        if let Some(apart) = program.apart {
            // The last constant has a page behind it too.
            program.weight_bytes += apart.page;
        }
        planned::place(&mut program, &self.rooms, self.steps)?;
        if program.all_steps().iter().any(|step| matches!(step, Step::Strings { .. })) {
            program.string_slots = Some(program.slots);
            program.slots += STRING_SLOTS;
        }
        Ok(program)
    }
}

/// The size of a tensor in bytes.
fn bytes_of(ty: &TensorType) -> Result<Dim, LowerError> {
    let elements = Dim::product(&ty.shape).map_err(|_| LowerError::TooLarge)?;
    let bits = i64::from(ty.dtype.bits());
    let bits = (&elements * &Dim::from(bits)).map_err(|_| LowerError::TooLarge)?;
    bits.ceil_div(&Dim::from(8)).map_err(|_| LowerError::TooLarge)
}
