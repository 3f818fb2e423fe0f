//! Loops over index spaces: full vectors and what is left over, and task grids cut from the outer dimensions.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{LoopKind, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, ScalarInst};
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{NodeData, Op, Type, Value};

use super::{Coord, GroupKernel};
use crate::schedules::gemm::lanes_of_panel;

impl GroupKernel<'_> {
    /// A loop; see `KernelBuilder::for_`.
    pub fn for_(
        &mut self,
        kind: LoopKind,
        lo: impl Into<Index>,
        hi: impl Into<Index>,
        step: i64,
        init: &[Val],
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let (lo, hi) = (lo.into(), hi.into());
        if let (Some(first), Some(bound)) = (lo.as_const(), hi.as_const()) {
            if bound <= first {
                return init.to_vec();
            }
            if bound - first <= step {
                let i = self.b.i64(first);
                return body(self, i, init);
            }
        }
        let scope = self.b.begin_for(kind, lo, hi, step, init);
        let yielded = body(self, scope.index, &scope.carried.clone());
        self.b.end_for(scope, &yielded)
    }

    /// A serial loop that carries nothing.
    pub fn each(&mut self, lo: impl Into<Index>, hi: impl Into<Index>, step: i64, body: impl FnOnce(&mut Self, Val)) {
        self.for_(LoopKind::Serial, lo, hi, step, &[], |k, i, _| {
            body(k, i);
            vec![]
        });
    }

    /// Runs `body` if the condition holds.
    pub fn when(&mut self, cond: Val, body: impl FnOnce(&mut Self)) {
        let then = self.b.open_block(&[]);
        body(self);
        self.b.close_block(&[]);
        let otherwise = self.b.open_block(&[]);
        self.b.close_block(&[]);
        self.b.choose(cond, then, otherwise);
    }

    /// Runs `body` for each task of the launch.
    pub fn tasks(&mut self, body: impl FnOnce(&mut Self, Val)) {
        let [begin, end] = self.b.task_range();
        self.each(begin, end, 1, body);
    }

    /// Covers `lo..hi` by vectors of `lanes` elements and then what is left: by one predicated vector where the machine has
    /// predicates, one by one elsewhere. `body` is built once for each; it gets the coordinate, the lanes and the count
    /// of valid lanes, which every access has to honour. `lo` is a multiple of `lanes`.
    pub fn vectors(
        &mut self,
        lo: impl Into<Index>,
        hi: impl Into<Index>,
        lanes: u16,
        mut body: impl FnMut(&mut Self, Coord, u16, Option<Val>),
    ) {
        let (lo, hi) = (lo.into(), hi.into());
        let step = i64::from(lanes);
        if lanes == 1 {
            self.each(lo, hi, 1, |k, i| body(k, Coord::uniform(i), 1, None));
            return;
        }
        let length = self.b.isub(hi, lo);
        let full = self.b.idiv(length, step);
        let full = self.b.imul(full, step);
        let middle = self.b.iadd(lo, full);
        self.each(lo, middle, step, |k, i| body(k, Coord::consecutive(i, step), lanes, None));
        if self.machine.has_predicates {
            self.each(middle, hi, step, |k, i| {
                let count = k.b.isub(hi, i);
                let count = k.b.val(count);
                body(k, Coord::consecutive(i, step), lanes, Some(count));
            });
            return;
        }
        self.each(middle, hi, 1, |k, i| body(k, Coord::uniform(i), 1, None));
    }

    /// Like [`GroupKernel::vectors`], with values carried from one piece to the next: `body` combines vectors into the
    /// accumulators `init` (of `lanes` lanes), and scalars into the accumulators `scalar_init`. Gives both. Where the machine
    /// has predicates, what is left over is one more vector of which `body` gets the count of valid lanes; the others
    /// keep their accumulators, whatever it makes of them.
    pub fn vectors_carrying(
        &mut self,
        hi: impl Into<Index>,
        lanes: u16,
        init: &[Val],
        scalar_init: &[Val],
        mut body: impl FnMut(&mut Self, Coord, u16, Option<Val>, &[Val]) -> Vec<Val>,
    ) -> (Vec<Val>, Vec<Val>) {
        let hi = hi.into();
        let step = i64::from(lanes);
        let full = self.b.idiv(hi, step);
        let middle = self.b.imul(full, step);
        let wide = if lanes == 1 {
            init.to_vec()
        } else {
            self.for_(LoopKind::Serial, 0, middle, step, init, |k, i, c| {
                body(k, Coord::consecutive(i, step), lanes, None, c)
            })
        };
        if lanes > 1 && self.machine.has_predicates {
            let wide = self.for_(LoopKind::Serial, middle, hi, step, &wide, |k, i, carried| {
                let count = k.b.isub(hi, i);
                let count = k.b.val(count);
                let next = body(k, Coord::consecutive(i, step), lanes, Some(count), carried);
                let number = k.b.iota(DType::I32, lanes);
                let bound = k.b.cast(DType::I32, count);
                let bound = k.b.splat(bound, lanes);
                let valid = k.b.compare(CmpOp::Lt, number, bound);
                next.iter().zip(carried).map(|(&new, &old)| k.b.select(valid, new, old)).collect()
            });
            return (wide, scalar_init.to_vec());
        }
        let start = if lanes == 1 { Index::Const(0) } else { middle };
        let narrow =
            self.for_(LoopKind::Serial, start, hi, 1, scalar_init, |k, i, c| body(k, Coord::uniform(i), 1, None, c));
        (wide, narrow)
    }

    /// Splits a flat index into coordinates of these dimensions, the last fastest.
    pub fn unflatten(&mut self, flat: impl Into<Index>, dims: &[Index]) -> Vec<Index> {
        let mut flat = flat.into();
        let mut coords = vec![Index::Const(0); dims.len()];
        for (i, &dim) in dims.iter().enumerate().rev() {
            if i == 0 {
                coords[i] = flat;
            } else {
                coords[i] = self.b.irem(flat, dim);
                flat = self.b.idiv(flat, dim);
            }
        }
        coords
    }

    /// Lanes for the elements of this group: the machine's for 32-bit types, 1 as soon as another type is in memory. Bytes are
    /// 32-bit lanes wherever something is computed with them (see [`GroupKernel::bytes_are_lanes`]). Tables of `i64` and
    /// indices are no obstacle: what is loaded from them goes on as coordinates do. Machines with vectors of any type have as
    /// many bytes of the widest type in memory.
    pub fn lanes(&self) -> u16 {
        let region = &self.graph.regions[self.region];
        let bytes = self.machine.moves_narrow || self.bytes_are_lanes();
        let narrow = |ty: &Type| match ty.as_tensor().map(|t| t.dtype) {
            Some(DType::F32 | DType::I32 | DType::U32) => true,
            Some(DType::I8 | DType::U8) => bytes,
            Some(DType::F16 | DType::BF16) => self.machine.moves_narrow,
            _ => false,
        };
        let params = region.params.iter().filter(|&&v| !self.is_index(v));
        let mut in_memory = params.chain(&region.results);
        if self.machine.streams_any_type {
            let bits = |v: &Value| {
                let dtype = self.graph.ty(*v).as_tensor().map_or(DType::String, |t| t.dtype);
                let fits = dtype == DType::Bool || dtype.is_float() || dtype.is_int();
                fits.then(|| dtype.bits()).filter(|&bits| bits >= 8)
            };
            let widest = in_memory.try_fold(16, |widest, v| Some(bits(v)?.max(widest)));
            return widest.map_or(1, |widest| (self.machine.stream_lanes_f32 * 32 / widest) as u16);
        }
        let inside = region.nodes.iter().flat_map(|&n| &self.graph.nodes[n].outputs);
        let computed =
            |ty: &Type| narrow(ty) || matches!(ty.as_tensor().map(|t| t.dtype), Some(DType::Bool | DType::I64));
        let all_narrow =
            in_memory.all(|&v| narrow(self.graph.ty(v))) && inside.into_iter().all(|&v| computed(self.graph.ty(v)));
        if all_narrow { self.machine.stream_lanes_f32 as u16 } else { 1 }
    }

    /// Whether bytes in memory are extended and narrowed on the way: they are multiplied as integers, compared in windows, or
    /// converted from and to wider types. No code generator computes with them as such.
    fn bytes_are_lanes(&self) -> bool {
        let is_byte = |dtype: DType| matches!(dtype, DType::I8 | DType::U8);
        let dtype = |v: &Value| self.graph.ty(*v).as_tensor().map(|t| t.dtype);
        let nodes = || self.graph.regions[self.region].nodes.iter().map(|&n| &self.graph.nodes[n]);
        let multiplies = |n: &NodeData| {
            matches!(n.op, Op::Contract(_) | Op::Conv(_)) && self.graph.tensor_ty(n.outputs[0]).dtype == DType::I32
        };
        if nodes().any(multiplies) {
            return true;
        }
        let mut converts = false;
        for node in nodes().filter(|n| n.inputs.iter().chain(&n.outputs).any(|v| dtype(v).is_some_and(is_byte))) {
            match &node.op {
                Op::Elementwise(expr) => {
                    let types: Option<Vec<DType>> = node.inputs.iter().map(dtype).collect();
                    let Some(Ok(types)) = types.map(|types| expr.types(&types)) else { return false };
                    let kept = |(inst, &ty): (&ScalarInst, &DType)| {
                        !is_byte(ty) || matches!(inst, ScalarInst::Arg(_) | ScalarInst::Cast(..))
                    };
                    if !expr.insts.iter().zip(&types).all(kept) {
                        return false;
                    }
                    converts = true;
                }
                Op::Window(window) if matches!(window.op, ReduceOp::Min | ReduceOp::Max) => converts = true,
                Op::Transpose { .. } | Op::Slice { .. } | Op::Pad { .. } | Op::Broadcast | Op::Reshape => {}
                _ => return false,
            }
        }
        converts
    }

    /// Lanes for a product over panels: as [`GroupKernel::lanes`], but no more than a panel has columns.
    pub fn panel_lanes(&self) -> u16 {
        self.lanes().min(lanes_of_panel(self.machine))
    }

    /// Whether nothing is made of a tensor of `i64` but indices, or it is the table that gathers read those from.
    fn is_index(&self, v: Value) -> bool {
        let region = &self.graph.regions[self.region];
        let goes_on = |n: &NodeData| match n.op {
            Op::Gather { .. } => true,
            Op::Reshape | Op::Elementwise(_) => self.is_index(n.outputs[0]),
            _ => false,
        };
        let users = region.nodes.iter().map(|&n| &self.graph.nodes[n]).filter(|n| n.inputs.contains(&v));
        self.graph.tensor_ty(v).dtype == DType::I64 && !region.results.contains(&v) && users.into_iter().all(goes_on)
    }

    /// `lo + part * size .. min(that + size, bound)`: the range of a part.
    pub fn part(&mut self, part: Val, size: impl Into<Index>, bound: impl Into<Index>) -> (Index, Index) {
        let size = size.into();
        let lo = self.b.imul(part, size);
        let end = self.b.iadd(lo, size);
        let bound = bound.into();
        (lo, self.b.imin(end, bound))
    }

    /// The tree of a lane reduction over several accumulators: pairs until one is left.
    pub fn combine(&mut self, op: BinaryOp, accumulators: &[Val]) -> Val {
        let mut level = accumulators.to_vec();
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|pair| if let [a, b] = *pair { self.b.binary(op, a, b) } else { pair[0] })
                .collect();
        }
        level[0]
    }
}

/// The product of dimensions; checked when the graph was built.
pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
    Dim::product(dims).expect("sizes were checked when the graph was built")
}
