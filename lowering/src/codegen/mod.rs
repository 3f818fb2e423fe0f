//! From a group of tensor operations to one kernel: the state of a kernel under construction, and the two ways to
//! compute the elements of a group.
//!
//! [Pulling](pull) computes a value at given coordinates from the group's inputs: elementwise operations, views, pads
//! and gathers become arithmetic on coordinates and loads. [Pushing](push) takes the element of an anchor (a
//! contraction, a reduction) through the operations after it to the place where the result is stored. Schedules decide
//! the loops, and call these two for what happens inside.

pub mod coord;
pub mod expr;
pub mod pull;
pub mod push;
pub mod space;
pub mod words;

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;
use onnxc_ir::dim::Dim;
use onnxc_ir::loops::build::{Index, KernelBuilder};
use onnxc_ir::loops::{Access, Buffer, Kernel};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::{Graph, Node, Region, Value};

pub use coord::Coord;

/// A kernel under construction for the group in `region`.
pub struct GroupKernel<'g> {
    /// The graph.
    pub graph: &'g Graph,
    /// The group's region.
    pub region: Region,
    /// The machine to schedule for.
    pub machine: &'g MachineModel,
    /// The builder of the kernel.
    pub b: KernelBuilder,
    buffers: HashMap<Value, Buffer>,
    arguments: Vec<Argument>,
    dims: HashMap<Dim, Index>,
    params: Vec<Dim>,
    /// The only user of each value inside of the region, for pushing.
    users: SecondaryMap<Value, Option<Node>>,
    remarks: Vec<String>,
}

/// What a buffer argument of a kernel stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// A parameter of the group's region.
    Input(Value),
    /// A result of the group's region.
    Output(Value),
}

/// A kernel with what its launch passes to it.
pub struct GroupLaunch {
    /// The kernel.
    pub kernel: Kernel,
    /// One per argument buffer.
    pub arguments: Vec<Argument>,
    /// One per parameter.
    pub params: Vec<Dim>,
    /// The number of tasks.
    pub tasks: Dim,
    /// Floating-point operations, a multiply-add as two.
    pub flops: Dim,
    /// What the schedule decided and why.
    pub remarks: Vec<String>,
}

impl<'g> GroupKernel<'g> {
    /// Starts a kernel of this name for a group.
    pub fn new(graph: &'g Graph, region: Region, machine: &'g MachineModel, name: &str) -> GroupKernel<'g> {
        let mut users = SecondaryMap::new();
        for &node in &graph.regions[region].nodes {
            for &v in &graph.nodes[node].inputs {
                users[v] = Some(node);
            }
        }
        GroupKernel {
            graph,
            region,
            machine,
            b: KernelBuilder::new(name),
            buffers: HashMap::new(),
            arguments: Vec::new(),
            dims: HashMap::new(),
            params: Vec::new(),
            users,
            remarks: Vec::new(),
        }
    }

    /// Leaves a remark about what the schedule decides.
    pub fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Ends the kernel.
    pub fn finish(self, tasks: Dim, flops: Dim) -> GroupLaunch {
        let GroupKernel { b, arguments, params, remarks, .. } = self;
        GroupLaunch { kernel: b.finish(), arguments, params, tasks, flops, remarks }
    }

    /// The value of a dimension: a constant, or a parameter of the kernel.
    pub fn dim(&mut self, dim: &Dim) -> Index {
        if let Some(c) = dim.as_const() {
            return Index::Const(c);
        }
        if let Some(&index) = self.dims.get(dim) {
            return index;
        }
        let index = Index::Val(self.b.param(format!("dim{}", self.params.len())));
        self.params.push(dim.clone());
        self.dims.insert(dim.clone(), index);
        index
    }

    /// The dimensions of a tensor as indices.
    pub fn shape(&mut self, value: Value) -> Vec<Index> {
        let dims = self.graph.tensor_ty(value).shape.clone();
        dims.iter().map(|d| self.dim(d)).collect()
    }

    /// The row-major strides of a tensor, in elements.
    pub fn strides(&mut self, value: Value) -> Vec<Index> {
        let dims = self.graph.tensor_ty(value).shape.clone();
        let mut strides = vec![Index::Const(1); dims.len()];
        let mut product = Dim::from(1);
        for (i, dim) in dims.iter().enumerate().rev() {
            strides[i] = self.dim(&product);
            // Overflow was excluded when the graph was checked; a saturated stride is never used to address.
            product = (&product * dim).unwrap_or_else(|_| Dim::from(0));
        }
        strides
    }

    /// The buffer of a group input.
    pub fn input(&mut self, value: Value) -> Buffer {
        if let Some(&buffer) = self.buffers.get(&value) {
            return buffer;
        }
        let buffer = self.declare(value, Access::Read);
        self.arguments.push(Argument::Input(value));
        buffer
    }

    /// The buffer of a group result.
    pub fn output(&mut self, value: Value) -> Buffer {
        if let Some(&buffer) = self.buffers.get(&value) {
            return buffer;
        }
        let buffer = self.declare(value, Access::Write);
        self.arguments.push(Argument::Output(value));
        buffer
    }

    fn declare(&mut self, value: Value, access: Access) -> Buffer {
        let ty = self.graph.tensor_ty(value);
        let len = ty.static_len().map(|n| n as u64);
        let name = match access {
            Access::Read => format!("in{}", self.arguments.len()),
            _ => format!("out{}", self.arguments.len()),
        };
        let buffer = self.b.buffer(name, ty.dtype, access, len);
        self.buffers.insert(value, buffer);
        buffer
    }

    /// The node of the region that uses `value`, if there is one.
    pub fn user(&self, value: Value) -> Option<Node> {
        self.users[value]
    }

    /// The results of the group.
    pub fn results(&self) -> &'g [Value] {
        &self.graph.regions[self.region].results
    }
}
