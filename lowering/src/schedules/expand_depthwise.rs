//! A 1x1 convolution that only a depthwise convolution reads, in one kernel: what mobile networks begin their blocks
//! with. The tensor between the two is several times the size of the others; here it never leaves the second-level cache.
//!
//! A task is a band of output rows for as many channels as a wide register tile has columns. It computes the band's rows of
//! the product, those of the neighbouring bands that its windows reach included, into scratch that has the padding's
//! margins, and then convolves them from there.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Access, Address, Buffer, LoopKind, Val};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::Panel;
use onnxc_ir::tensor::{Graph, Node, Op, Region, Value};

use super::contract::Roles;
use super::conv::ConvOperands;
use super::depthwise::each_tile;
use super::gemm::{LIGHT_EPILOGUE, Operands, PANEL, ceil_div, lanes_of_panel, multiply_add};
use super::pad::only_grows;
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Inputs of the product at most: its panels stay in the first-level cache.
const MOST_DEPTH: i64 = 256;

/// The operations of such a block.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The 1x1 convolution, which is a product of pixels and panels.
    pub product: Node,
    /// Elementwise operations and reshapes after it, in order.
    pub chain: Vec<Node>,
    /// The padding of the depthwise convolution.
    pub pad: Node,
    /// The depthwise convolution.
    pub conv: Node,
}

/// The block that ends in `conv`, if this schedule takes it. `only` gives a value's only user.
pub fn before(graph: &Graph, conv: Node, only: impl Fn(Value) -> Option<Node>) -> Option<Parts> {
    let data = &graph.nodes[conv];
    let Op::Conv(c) = &data.op else { return None };
    let two_dimensional = c.kernel.len() == 2 && c.channels_last && c.rhs_dilation.iter().all(|&d| d == 1);
    if c.groups == 1 || c.panel.is_none() || c.acc != DType::F32 || !two_dimensional {
        return None;
    }
    only(data.inputs[0])?;
    let pad = graph.def_node(data.inputs[0]).filter(|&node| only_grows(graph, node))?;
    let mut value = graph.nodes[pad].inputs[0];
    let mut chain = Vec::new();
    let product = loop {
        only(value)?;
        let node = graph.def_node(value)?;
        let def = &graph.nodes[node];
        match &def.op {
            Op::Contract(_) => break node,
            Op::Reshape => value = def.inputs[0],
            Op::Elementwise(_) => {
                let same = |&&v: &&Value| graph.tensor_ty(v).shape == graph.tensor_ty(value).shape;
                let mut operands = def.inputs.iter().filter(same);
                let (Some(&next), None) = (operands.next(), operands.next()) else { return None };
                value = next;
            }
            _ => return None,
        }
        chain.insert(0, node);
    };
    let parts = Parts { product, chain, pad, conv };
    Sizes::of(graph, &parts).map(|_| parts)
}

/// The block of a group, if it is one.
pub fn of_group(graph: &Graph, region: Region) -> Option<Parts> {
    let nodes = &graph.regions[region].nodes;
    let conv = nodes.iter().copied().find(|&n| matches!(graph.nodes[n].op, Op::Conv(_)))?;
    let user = |v: Value| nodes.iter().copied().find(|&n| graph.nodes[n].inputs.contains(&v));
    before(graph, conv, user)
}

/// The sizes of a block, all of them constant.
struct Sizes {
    batch: i64,
    /// Rows and columns of the tensor between the convolutions.
    inner: [i64; 2],
    /// Those of its margins.
    lo: [i64; 2],
    hi: [i64; 2],
    /// Those of the result.
    outer: [i64; 2],
    channels: i64,
    depth: i64,
}

impl Sizes {
    fn of(graph: &Graph, parts: &Parts) -> Option<Sizes> {
        let constants = |shape: &[Dim]| shape.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>();
        let shape = |v: Value| constants(&graph.tensor_ty(v).shape);
        let pad = &graph.nodes[parts.pad];
        let Op::Pad { lo, hi } = &pad.op else { return None };
        let (lo, hi) = (constants(lo)?, constants(hi)?);
        let [batch, height, width, channels] = shape(pad.inputs[0])?[..] else { return None };
        let [_, out_height, out_width, _] = shape(graph.output(parts.conv))?[..] else { return None };
        let spatial = lo[0] + hi[0] + lo[3] + hi[3] == 0;
        let product = &graph.nodes[parts.product];
        let Op::Contract(c) = &product.op else { return None };
        let [depth] = shape(product.inputs[0])?[1..] else { return None };
        let pixels = shape(product.outputs[0])? == [batch * height * width, channels];
        let f32s = product.inputs.iter().all(|&v| graph.tensor_ty(v).dtype == DType::F32);
        let plain = c.panel == Some(Panel::flat(PANEL)) && c.acc == DType::F32 && c.lhs[..] == [c.out[0], c.lhs[1]];
        let fits = (1..=MOST_DEPTH).contains(&depth) && channels % i64::from(PANEL) == 0;
        (spatial && pixels && f32s && plain && fits).then_some(Sizes {
            batch,
            inner: [height, width],
            lo: [lo[1], lo[2]],
            hi: [hi[1], hi[2]],
            outer: [out_height, out_width],
            channels,
            depth,
        })
    }

    /// Columns of the tensor in between with its margins.
    fn padded_width(&self) -> i64 {
        self.lo[1] + self.inner[1] + self.hi[1]
    }
}

/// Schedules a block.
pub fn schedule(mut k: GroupKernel<'_>, parts: &Parts) -> GroupLaunch {
    let graph = k.graph;
    let sizes = Sizes::of(graph, parts).expect("the pass has found the block");
    let (product, conv) = (&graph.nodes[parts.product], &graph.nodes[parts.conv]);
    let (Op::Contract(contract), Op::Conv(depthwise)) = (&product.op, &conv.op) else { panic!("the parts of a block") };
    let roles = Roles::new(graph, contract, product.inputs[0], product.inputs[1], product.outputs[0]);
    let operands = ConvOperands {
        conv: depthwise.clone(),
        input: conv.inputs[0],
        filter: conv.inputs[1],
        result: conv.outputs[0],
    };
    let lanes = lanes_of_panel(k.machine);
    let (stride, taps) = (depthwise.strides[0], depthwise.kernel[0]);
    let wide = vectors_of(k.machine) * i64::from(lanes);
    let band = band_rows(&sizes, stride, taps, wide, k.machine);
    let reach = (band - 1) * stride + taps;
    k.remark(format!(
        "expansion and depthwise in one kernel: {band} rows of {wide} channels stay in scratch between them"
    ));
    let expanded =
        k.b.buffer("expanded", DType::F32, Access::Scratch, Some((reach * sizes.padded_width() * wide) as u64));
    let body = Body {
        between: graph.nodes[parts.pad].inputs[0],
        fill: graph.nodes[parts.pad].inputs[1],
        staged: cost_of(graph, &parts.chain) > LIGHT_EPILOGUE,
        chain: parts.chain.clone(),
        roles,
        operands,
        band,
        reach,
        expanded,
        lanes,
        sizes,
    };
    let sizes = &body.sizes;
    let bands = ceil_div(sizes.outer[0], band);
    let strips = ceil_div(sizes.channels, wide);
    let dims = [sizes.batch, bands, strips].map(Index::Const);
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let column = k.b.imul(at[2], wide);
        let task = |width: i64| Task { batch: at[0], band: at[1], column, width };
        if sizes.channels % wide == 0 {
            return body.task(k, &task(wide));
        }
        // The last strip is one panel.
        let whole = sizes.channels / wide;
        k.each(at[2], whole, strips, |k, _| body.task(k, &task(wide)));
        let from = k.b.imax(at[2], whole);
        let end = k.b.iadd(at[2], 1);
        k.each(from, end, 1, |k, _| body.task(k, &task(i64::from(PANEL))));
    });
    let pixels = sizes.batch * sizes.channels;
    let flops =
        sizes.inner[0] * sizes.inner[1] * sizes.depth + sizes.outer[0] * sizes.outer[1] * taps * body.line_taps();
    k.finish(Dim::from(sizes.batch * bands * strips), Dim::from(2 * pixels * flops))
}

/// About how many instructions the operations take for one vector.
fn cost_of(graph: &Graph, chain: &[Node]) -> u32 {
    let cost = |&n: &Node| if let Op::Elementwise(expr) = &graph.nodes[n].op { expr.cost() } else { 0 };
    chain.iter().map(cost).sum()
}

/// Vectors of a register tile's row: at least a panel.
fn vectors_of(machine: &MachineModel) -> i64 {
    (i64::from(PANEL) / i64::from(lanes_of_panel(machine))).clamp(2, 4)
}

/// Output rows of a band: its part of the tensor in between takes a quarter of the second-level cache; and there are two
/// tasks for each core, unless bands would compute more than an eighth of their rows twice.
fn band_rows(sizes: &Sizes, stride: i64, taps: i64, wide: i64, machine: &MachineModel) -> i64 {
    let row = sizes.padded_width() * wide * 4;
    let reach = (machine.l2_bytes as i64 / 4 / row).max(taps);
    let fit = ((reach - taps) / stride + 1).min(sizes.outer[0]);
    let strips = sizes.batch * ceil_div(sizes.channels, wide);
    let wanted = ceil_div(2 * i64::from(machine.cores), strips);
    let shared = (taps - stride).max(0);
    let least = ceil_div(8 * shared, stride).max(1);
    let bands = ceil_div(sizes.outer[0], fit).max(wanted.min(sizes.outer[0] / least));
    ceil_div(sizes.outer[0], bands)
}

/// A band of rows and a strip of channels.
struct Task {
    batch: Index,
    band: Index,
    column: Index,
    width: i64,
}

/// What the steps of a task share.
struct Body {
    roles: Roles,
    operands: ConvOperands,
    /// The tensor in between, without its margins, and the element of those.
    between: Value,
    fill: Value,
    chain: Vec<Node>,
    staged: bool,
    band: i64,
    /// Rows that the windows of a band reach.
    reach: i64,
    /// [reach, padded width, columns]: rows from the first window's on.
    expanded: Buffer,
    lanes: u16,
    sizes: Sizes,
}

impl Body {
    fn line_taps(&self) -> i64 {
        self.operands.conv.kernel[1]
    }

    fn stride(&self) -> i64 {
        self.operands.conv.strides[0]
    }

    fn task(&self, k: &mut GroupKernel<'_>, task: &Task) {
        let [height, _] = self.sizes.inner;
        // Rows of the padded tensor from `top` on; `from..to` are those inside, counted from `top`.
        let top = k.b.imul(task.band, self.band * self.stride());
        let first = k.b.isub(Index::Const(self.sizes.lo[0]), top);
        let from = k.b.imax(first, 0);
        let end = k.b.iadd(first, height);
        let to = k.b.imin(end, self.reach);
        self.margins(k, task.width, from, to);
        k.each(from, to, 1, |k, row| {
            let line = k.b.isub(row, first);
            self.expand(k, task, row.into(), line);
        });
        self.convolve(k, task);
    }

    /// An element of a pixel in scratch.
    fn address(&self, k: &mut GroupKernel<'_>, row: Index, column: Index, width: i64, offset: i64) -> Address {
        let address = k.b.advance(Address::at(offset), row, self.sizes.padded_width() * width);
        k.b.advance(address, column, width)
    }

    fn each_vector(&self, width: i64) -> impl Iterator<Item = i64> + use<> {
        (0..width).step_by(usize::from(self.lanes))
    }

    /// Fills the rows outside of `from..to` and the margins of the others.
    fn margins(&self, k: &mut GroupKernel<'_>, width: i64, from: Index, to: Index) {
        let at = Position { coords: vec![], lanes: self.lanes, count: None };
        let fill = k.pull(self.fill, &at, &mut Pulled::default());
        let pixels = |k: &mut GroupKernel<'_>, row: Index, from: i64, to: i64| {
            k.each(from, to, 1, |k, column| {
                for offset in self.each_vector(width) {
                    let address = self.address(k, row, column.into(), width, offset);
                    k.b.store(self.expanded, address, fill, None);
                }
            });
        };
        let padded = self.sizes.padded_width();
        k.each(0, from, 1, |k, row| pixels(k, row.into(), 0, padded));
        k.each(from, to, 1, |k, row| {
            pixels(k, row.into(), 0, self.sizes.lo[1]);
            pixels(k, row.into(), padded - self.sizes.hi[1], padded);
        });
        k.each(to, self.reach, 1, |k, row| pixels(k, row.into(), 0, padded));
    }

    /// A row of the tensor in between: `row` in scratch, `line` of the picture.
    fn expand(&self, k: &mut GroupKernel<'_>, task: &Task, row: Index, line: Index) {
        let [height, width] = self.sizes.inner;
        let lanes = i64::from(self.lanes);
        let vectors = task.width / lanes;
        let registers = i64::from(k.machine.kernel_vector_registers);
        let most = ((registers - vectors - 2) / vectors).clamp(1, 8);
        let pixel = k.b.imul(task.batch, height);
        let pixel = k.b.iadd(pixel, line);
        let pixel = k.b.imul(pixel, width);
        each_tile(k, Index::Const(width), ceil_div(width, ceil_div(width, most)), |k, column, rows| {
            let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
            let init = vec![zero; (rows * vectors) as usize];
            let sums = k.for_(LoopKind::Serial, 0, self.sizes.depth, 1, &init, |k, depth, sums| {
                let depth = [Index::Val(depth)];
                let right: Vec<Val> = (0..vectors)
                    .map(|j| {
                        let index = k.b.iadd(task.column, j * lanes);
                        let multiple = if j == 0 { i64::from(PANEL) } else { lanes };
                        self.roles.right(k, &[], Coord::consecutive(index, multiple), &depth, self.lanes, None)
                    })
                    .collect();
                let mut next = Vec::with_capacity(sums.len());
                for r in 0..rows {
                    let at = k.b.iadd(pixel, column);
                    let at = k.b.iadd(at, r);
                    let left = self.roles.left(k, &[], at, &depth, self.lanes);
                    for (j, &right) in right.iter().enumerate() {
                        next.push(multiply_add(k, left, right, sums[(r * vectors) as usize + j]));
                    }
                }
                next
            });
            for (i, &sum) in sums.iter().enumerate() {
                let (r, j) = (i as i64 / vectors, i as i64 % vectors);
                let at = k.b.iadd(column, r);
                let val = if self.staged { sum } else { self.finish(k, task, line, at, j * lanes, sum) };
                let padded = k.b.iadd(at, self.sizes.lo[1]);
                let address = self.address(k, row, padded, task.width, j * lanes);
                k.b.store(self.expanded, address, val, None);
            }
        });
        if !self.staged {
            return;
        }
        k.each(0, width, 1, |k, column| {
            for offset in self.each_vector(task.width) {
                let padded = k.b.iadd(column, self.sizes.lo[1]);
                let address = self.address(k, row, padded, task.width, offset);
                let sum = k.b.load(self.expanded, address.clone(), self.lanes, None);
                let val = self.finish(k, task, line, column.into(), offset, sum);
                k.b.store(self.expanded, address, val, None);
            }
        });
    }

    /// Takes elements of the product through the operations that follow it.
    fn finish(&self, k: &mut GroupKernel<'_>, task: &Task, line: Index, column: Index, offset: i64, sum: Val) -> Val {
        let channel = k.b.iadd(task.column, offset);
        let channel = Coord::consecutive(channel, i64::from(self.lanes));
        let coords = [task.batch, line, column].map(Coord::uniform).into_iter().chain([channel]).collect();
        let at = Position { coords, lanes: self.lanes, count: None };
        let mut memo = Pulled::default();
        let mut given = k.broadcast(self.between, &at);
        for &node in self.chain.iter().rev() {
            let data = &k.graph.nodes[node];
            let output = data.outputs[0];
            given = match data.op {
                Op::Reshape => given.at(k.reshape_coords(output, data.inputs[0], &given.coords, self.lanes)),
                _ => k.broadcast(output, &given),
            };
        }
        memo.insert(self.roles.result, &given.coords, sum);
        k.pull(self.between, &at, &mut memo)
    }

    /// Convolves the band in scratch.
    fn convolve(&self, k: &mut GroupKernel<'_>, task: &Task) {
        let line = self.operands.line();
        let [height, width] = self.sizes.outer;
        let most = line.outputs(Some(width), k.machine);
        let outer_taps = [Index::Const(self.operands.conv.kernel[0])];
        let first = k.b.imul(task.band, self.band);
        let end = k.b.iadd(first, self.band);
        let end = k.b.imin(end, height);
        k.each(first, end, 1, |k, row| {
            let within = k.b.isub(row, first);
            let top = k.b.imul(within, self.stride());
            each_tile(k, Index::Const(width), most, |k, column, outputs| {
                for offset in self.each_vector(task.width) {
                    let channel = k.b.iadd(task.column, offset);
                    let channel = Coord::consecutive(channel, i64::from(self.lanes));
                    let zero = k.b.constant(Scalar::zero(DType::F32), self.lanes);
                    let left = k.b.imul(column, line.stride);
                    let mut element = |k: &mut GroupKernel<'_>, around: &[Index], column: i64| {
                        let row = k.b.iadd(top, around[0]);
                        let column = k.b.iadd(left, column);
                        let address = self.address(k, row, column, task.width, offset);
                        k.b.load(self.expanded, address, self.lanes, None)
                    };
                    let mut weight = |k: &mut GroupKernel<'_>, around: &[Index], tap: i64| {
                        let coords = vec![Coord::uniform(around[0]), Coord::uniform(tap), channel];
                        self.operands.operand(k, self.operands.filter, coords, self.lanes, None)
                    };
                    let sums = line.sums(k, &outer_taps, outputs, zero, &mut element, &mut weight);
                    for (i, &sum) in sums.iter().enumerate() {
                        let at = k.b.iadd(column, i as i64);
                        let coords = self.operands.position(&[task.batch, row.into()], at, channel);
                        let position = Position { coords, lanes: self.lanes, count: None };
                        k.push(self.operands.result, &position, sum, &mut Pulled::default());
                    }
                }
            });
        });
    }
}
