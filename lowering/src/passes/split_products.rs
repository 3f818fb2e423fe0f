//! Cuts the depth of products that have too few tiles, or tasks of a few rows, for a device: the parts run beside each
//! other, and their sums are added in one order.
//!
//! Before: `y = contract [m, k] [k, n] -> [m, n] (x, w)` with the constant `w: f16[K, N]`.
//! After: `p = contract [m, s, k] [s, k, n] -> [s, m, n] (reshape (x), reshape (w)); y = reduce sum [0] (p)`.
//!
//! What follows the product is computed where the sums are added. How many parts there are depends on sizes and on what
//! the machine can do, and never on the device that happens to run the model. Sums are rounded differently: not for
//! `--fp strict`.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::TileKind;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Contract, Label, ReduceOp};
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Value};
use smallvec::SmallVec;

use super::pack_weights::rounded;
use super::rewrite::{PassContext, Rewritten, one, rewrite};
use crate::schedules::gemm::ceil_div;
use crate::schedules::{attention, gemv, tile};

/// Rows and columns of the tiles of such products.
const TILE: i64 = 64;

/// Tiles beyond which a device has work enough.
const ENOUGH: i64 = tile::ENOUGH / 2;

/// Depths of a part at least: a kernel more costs as much as the steps of about as many.
const LEAST_DEPTH: i64 = 512;

/// A part's depth is a multiple of this, so that rows of its operands begin where they can be copied at once.
const STEP: i64 = 64;

/// Columns of a task with a few rows, and steps of its depth at least.
const LANES: i64 = 32;
const LEAST_STEPS: i64 = 64;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    if cx.strict || !cx.machine.tiles {
        return;
    }
    let (body, machine) = (graph.body(), cx.machine.clone());
    rewrite(graph, body, |graph, region, node| split(graph, region, node, &machine));
}

/// What a product is made of.
struct Sizes {
    rows: i64,
    columns: i64,
    outer: i64,
    depth: i64,
    /// Bytes of an element where it is multiplied.
    bytes: i64,
}

/// Parts that the depth is worth cutting into: more tiles at work, but no more traffic for sums than for operands.
fn parts(s: &Sizes) -> i64 {
    let tiles = ceil_div(s.rows, TILE) * ceil_div(s.columns, TILE) * s.outer;
    let traffic = (s.rows + s.columns).saturating_mul(s.depth).saturating_mul(s.bytes) / (8 * s.rows * s.columns);
    let most = (2 * ENOUGH / tiles.max(1)).min(s.depth / LEAST_DEPTH).min(traffic);
    if tiles > ENOUGH {
        return 1;
    }
    (2..=most).rev().find(|n| s.depth % (n * STEP) == 0).unwrap_or(1)
}

/// The same for a few rows times what a run makes, such as the values of past words: more tasks at work.
fn parts_of_few_rows(s: &Sizes) -> i64 {
    let tasks = ceil_div(s.columns, LANES) * s.outer;
    let most = (gemv::ENOUGH / tasks.max(1)).min(s.depth / LEAST_STEPS);
    if 2 * tasks > gemv::ENOUGH || s.depth < LEAST_DEPTH {
        return 1;
    }
    (2..=most).rev().find(|n| s.depth % n == 0).unwrap_or(1)
}

/// Whether the value can be seen in parts where it lies.
fn can_be_cut(graph: &Graph, value: Value) -> bool {
    graph.def_node(value).is_none_or(|node| match graph.nodes[node].op {
        Op::Transpose { .. } => can_be_cut(graph, graph.nodes[node].inputs[0]),
        Op::Slice { .. } | Op::Broadcast | Op::Gather { .. } | Op::Pad { .. } => false,
        _ => true,
    })
}

fn split(graph: &mut Graph, region: Region, node: Node, machine: &MachineModel) -> Rewritten {
    let data = graph.nodes[node].clone();
    let (Op::Contract(c), &[lhs, rhs]) = (&data.op, &data.inputs[..]) else { return Ok(None) };
    let weights = [lhs, rhs].into_iter().filter(|&v| graph.as_constant(v).is_some()).count();
    let types = [lhs, rhs].map(|v| graph.tensor_ty(v).dtype);
    let tiles = match types {
        [DType::F16, DType::F16] | [DType::BF16, DType::BF16] => 2,
        [DType::F32, DType::F32] => machine.f32_products.map_or(0, |kind| i64::from(kind.bytes())),
        _ => 0,
    };
    if c.acc != DType::F32 || c.panel.is_some() || ![lhs, rhs].into_iter().all(|v| can_be_cut(graph, v)) {
        return Ok(None);
    }
    let size = |label: Label| {
        let at = |v: Value, labels: &[Label]| {
            labels.iter().position(|&l| l == label).map(|i| graph.tensor_ty(v).shape[i].clone())
        };
        at(lhs, &c.lhs).or_else(|| at(rhs, &c.rhs))
    };
    let of = |wanted: &dyn Fn(Label) -> bool| {
        let labels = c.lhs.iter().chain(c.rhs.iter().filter(|l| !c.lhs.contains(l))).copied();
        Dim::product(labels.filter(|&l| wanted(l)).filter_map(size).collect::<Vec<Dim>>().iter()).ok()?.as_const()
    };
    let (in_left, in_right, kept) = (|l| c.lhs.contains(&l), |l| c.rhs.contains(&l), |l| c.out.contains(&l));
    let contracted: Vec<Label> = c.lhs.iter().copied().filter(|&l| in_right(l) && !kept(l)).collect();
    let &[depth] = &contracted[..] else { return Ok(None) };
    let sizes = (|| {
        Some(Sizes {
            rows: of(&|l| kept(l) && !in_right(l))?,
            columns: of(&|l| kept(l) && !in_left(l))?,
            outer: of(&|l| kept(l) && in_left(l) && in_right(l))?,
            depth: size(depth)?.as_const()?,
            bytes: tiles,
        })
    })();
    let Some(sizes) = sizes else { return Ok(None) };
    let few = |n: i64| n < tile::FEW || gemv::takes(machine, &Dim::from(n), c.acc);
    let parts = if weights == 1 && tiles > 0 && !few(sizes.rows) && !few(sizes.columns) {
        parts(&sizes)
    } else if weights == 0 && sizes.rows < attention::LEAST_ROWS && !few(sizes.columns) {
        parts_of_few_rows(&sizes)
    } else {
        1
    };
    if parts == 1 {
        return Ok(None);
    }
    let part = (0..=Label::MAX).find(|&l| !in_left(l) && !in_right(l) && !kept(l)).expect("few labels are in use");
    let mut b = Builder::new(graph, region, data.origins);
    let mut labels: [SmallVec<[Label; 5]>; 2] = [c.lhs.iter().copied().collect(), c.rhs.iter().copied().collect()];
    let mut operands = [lhs, rhs];
    for (operand, labels) in operands.iter_mut().zip(&mut labels) {
        let axis = labels.iter().position(|&l| l == depth).expect("both operands have the depth");
        let constant = b.graph.as_constant(*operand).is_some();
        if constant && machine.f32_products != Some(TileKind::Tf32) {
            *operand = rounded(&mut b, *operand, machine)?;
        }
        *operand = in_parts(&mut b, *operand, axis, parts)?;
        labels.insert(axis, part);
    }
    let [left, right] = labels;
    let out = std::iter::once(part).chain(c.out.iter().copied()).collect();
    let contract = Contract { lhs: left, rhs: right, out, ..c.clone() };
    let sums = b.contract(contract, operands[0], operands[1])?;
    one(b.reduce(ReduceOp::Sum, sums, &[0], false)?)
}

/// The value with an axis cut into parts: views stay views, of what is cut.
fn in_parts(b: &mut Builder<'_>, value: Value, axis: usize, parts: i64) -> Result<Value, BuildError> {
    let transposed = b.graph.def_node(value).and_then(|node| match &b.graph.nodes[node].op {
        Op::Transpose { perm } => Some((b.graph.nodes[node].inputs[0], perm.clone())),
        _ => None,
    });
    if let Some((from, perm)) = transposed {
        let from_axis = perm[axis] as usize;
        let cut = in_parts(b, from, from_axis, parts)?;
        let moved = |p: usize| if p > from_axis { p + 1 } else { p };
        let perm: Vec<usize> = perm
            .iter()
            .enumerate()
            .flat_map(|(i, &p)| {
                let own = moved(p as usize);
                if i == axis { vec![own, own + 1] } else { vec![own] }
            })
            .collect();
        return b.transpose(cut, &perm);
    }
    let mut shape = b.shape(value)?;
    let rest = shape[axis].as_const().expect("the depth is known") / parts;
    shape[axis] = Dim::from(rest);
    shape.insert(axis, Dim::from(parts));
    b.reshape(value, &shape)
}
