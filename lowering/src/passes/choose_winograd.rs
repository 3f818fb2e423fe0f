//! Chooses Winograd's algorithm for 3x3 convolutions where it pays.
//!
//! Before: `y = conv(x, w), pad 1 1, 1 1`. After: the same with `winograd m`. Only convolutions of constant filters and
//! known sizes are considered; `pad_convs` and `pack_weights` then give input and filter their forms.
//!
//! The cost model counts cycles of one core: multiply-adds at two vectors a cycle, weights at what memory delivers, and
//! the transforms by their instructions. Winograd saves up to four of five multiplications and pays with weights that
//! grow with the tile; so large pictures with few channels gain most, and small ones with many channels nothing.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::op::Conv;
use onnxc_ir::tensor::winograd::Winograd;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region};

use super::rewrite::{PassContext, Rewritten, one, rewrite};
use crate::schedules::winograd::{filter_is_small, tiles_per_task};

const NAME: &str = "choose_winograd";

/// Bytes of weights that memory delivers in a cycle.
const MEMORY_BYTES: f64 = 6.0;

/// What reading weights from the second-level cache costs beside reading them from memory.
const CACHED: f64 = 0.25;

/// The algorithm has to promise this share of the direct one's time at most: it rounds more and needs scratch.
const GAIN: f64 = 0.85;

/// Fewer channels leave too little to multiply between the transforms.
const LEAST_CHANNELS: i64 = 16;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    // Matrix instructions are faster than what Winograd's algorithm saves.
    if cx.strict || cx.small || cx.machine.f32_products.is_some() {
        return;
    }
    let body = graph.body();
    rewrite(graph, body, |graph, region, node| choose(graph, region, node, cx));
}

fn choose(graph: &mut Graph, region: Region, node: Node, cx: &mut PassContext) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let filter = graph.tensor_ty(data.inputs[1]).clone();
    let known = graph.as_constant(data.inputs[1]).is_some();
    let plain = conv.winograd.is_none() && conv.panel.is_none() && conv.acc == DType::F32;
    if !plain || !known || filter.dtype != DType::F32 || !conv.winograd_applies() {
        return Ok(None);
    }
    let ty = graph.ty(data.outputs[0]).clone();
    let sizes: Option<Vec<i64>> = graph.tensor_ty(data.outputs[0]).shape.iter().map(Dim::as_const).collect();
    let Some([batch, height, width, columns]) = sizes.as_deref().and_then(|s| <[i64; 4]>::try_from(s).ok()) else {
        return Ok(None);
    };
    let Some(channels) = filter.shape[1].as_const() else { return Ok(None) };
    if channels < LEAST_CHANNELS || columns < LEAST_CHANNELS || batch * height * width == 0 {
        return Ok(None);
    }
    let work = Work { positions: [batch, height, width], channels, columns };
    let direct = work.direct(&cx.machine);
    let costs = [2, 4].map(|tile| (work.winograd(tile, &cx.machine) / direct, tile));
    let [(small, _), (large, _)] = costs;
    let (share, tile) = if small <= large { costs[0] } else { costs[1] };
    let wins = share < GAIN;
    let verdict = if wins { format!("F({tile}x{tile},3x3)") } else { "direct".to_owned() };
    let text =
        format!("{verdict}: F(2x2,3x3) is expected to take {small:.2} of the direct time, F(4x4,3x3) {large:.2}");
    cx.remark(NAME, graph, node, text);
    if !wins {
        return Ok(None);
    }
    let mut b = Builder::new(graph, region, data.origins);
    let node = b.node(Op::Conv(Conv { winograd: Some(tile), ..conv }), &data.inputs, &[ty])?;
    one(b.graph.output(node))
}

/// What a convolution has to do.
struct Work {
    positions: [i64; 3],
    channels: i64,
    columns: i64,
}

impl Work {
    fn cycles(machine: &MachineModel, multiply_adds: f64, weight_bytes: f64) -> f64 {
        multiply_adds / f64::from(2 * machine.kernel_lanes_f32) + weight_bytes / MEMORY_BYTES
    }

    fn direct(&self, machine: &MachineModel) -> f64 {
        let weights = (9 * self.channels * self.columns) as f64;
        Work::cycles(machine, weights * self.positions.iter().product::<i64>() as f64, 4.0 * weights)
    }

    fn winograd(&self, tile: u32, machine: &MachineModel) -> f64 {
        let patch = Winograd::of(tile).expect("a known tile").patch() as i64;
        let [batch, height, width] = self.positions;
        let side = |size: i64| (size + i64::from(tile) - 1) / i64::from(tile);
        let tiles = batch * side(height) * side(width);
        let per_task = tiles_per_task(tiles, patch, self.channels, self.columns, machine);
        let tasks = (tiles + per_task - 1) / per_task;
        let weights = (patch * patch * self.channels * self.columns) as f64;
        let again = if filter_is_small(patch, self.channels, self.columns, machine) { CACHED } else { 1.0 };
        let passes = 1.0 + (tasks - 1) as f64 * again;
        let products = Work::cycles(machine, weights * tiles as f64, 4.0 * weights * passes);
        // Each element of a patch is loaded, transformed twice and stored.
        let vectors = (self.channels + self.columns) as f64 / f64::from(machine.kernel_lanes_f32);
        products + tiles as f64 * vectors * (patch * patch * 3) as f64
    }
}
