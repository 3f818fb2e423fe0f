//! Pulling: the value of a tensor at coordinates, computed from the group's inputs.

use std::collections::HashMap;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Buffer, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp};
use onnxc_ir::tensor::op::Coord as CoordSource;
use onnxc_ir::tensor::{Op, Value};

use super::coord::Access;
use super::{Coord, GroupKernel};

/// A position: one coordinate per dimension for a vector of elements, and how many of the lanes count.
#[derive(Clone, Debug)]
pub struct Position {
    /// One per dimension.
    pub coords: Vec<Coord>,
    /// Lanes of the vector; 1 for scalars.
    pub lanes: u16,
    /// If there is one, lanes from this count on are past the end: their memory is not touched.
    pub count: Option<Val>,
}

impl Position {
    /// The same lanes at other coordinates.
    pub fn at(&self, coords: Vec<Coord>) -> Position {
        Position { coords, lanes: self.lanes, count: self.count }
    }
}

/// What was pulled already at this place of the kernel, so that shared operands are computed once. Values may only be
/// reused in the block where they were made or inside of it, so a schedule makes a new one for each block.
#[derive(Default)]
pub struct Pulled(HashMap<(Value, Vec<Coord>), Val>);

impl Pulled {
    /// Gives `value` at these coordinates a value that is there already, such as an anchor's accumulator.
    pub fn insert(&mut self, value: Value, coords: &[Coord], val: Val) {
        self.0.insert((value, coords.to_vec()), val);
    }
}

impl GroupKernel<'_> {
    /// The elements of `value` at a position.
    ///
    /// # Panics
    /// If the value is computed by an operation that is no elementwise operation, view, pad, gather or concatenation:
    /// the pass `fuse` puts no other into a group but as its anchor.
    pub fn pull(&mut self, value: Value, at: &Position, memo: &mut Pulled) -> Val {
        let key = (value, at.coords.clone());
        if let Some(&val) = memo.0.get(&key) {
            return val;
        }
        let val = match self.graph.def_node(value) {
            None => {
                let strides = self.strides(value);
                let buffer = self.input(value);
                self.load(buffer, &strides, at)
            }
            Some(node) => {
                let graph = self.graph;
                let data = &graph.nodes[node];
                self.pull_op(&data.op, &data.inputs, value, at, memo)
            }
        };
        memo.0.insert(key, val);
        val
    }

    fn pull_op(&mut self, op: &Op, inputs: &[Value], output: Value, at: &Position, memo: &mut Pulled) -> Val {
        match op {
            Op::Elementwise(expr) => {
                let positions: Vec<Position> = inputs.iter().map(|&v| self.broadcast(v, at)).collect();
                self.emit_expr(expr, &at.coords, at.lanes, |k, n| {
                    k.pull(inputs[n as usize], &positions[n as usize], memo)
                })
            }
            Op::DimValue(d) => {
                let d = self.dim(d);
                let d = self.b.val(d);
                self.b.splat(d, at.lanes)
            }
            Op::Broadcast => {
                let position = self.broadcast(inputs[0], at);
                self.pull(inputs[0], &position, memo)
            }
            Op::Transpose { perm } => {
                let mut coords = vec![Coord::uniform(0); perm.len()];
                for (i, &p) in perm.iter().enumerate() {
                    coords[p as usize] = at.coords[i];
                }
                self.pull(inputs[0], &at.at(coords), memo)
            }
            Op::Slice { starts, steps } => {
                let mut coords = Vec::with_capacity(steps.len());
                for ((&c, start), &step) in at.coords.iter().zip(starts).zip(steps) {
                    let start = self.dim(start);
                    coords.push(self.coord_scale(c, step, start, at.lanes));
                }
                self.pull(inputs[0], &at.at(coords), memo)
            }
            Op::Reshape => {
                let coords = self.reshape_coords(output, inputs[0], &at.coords, at.lanes);
                self.pull(inputs[0], &at.at(coords), memo)
            }
            Op::Pad { lo, .. } => {
                let mut coords = Vec::with_capacity(lo.len());
                let mut inside: Option<Val> = None;
                let shape = self.shape(inputs[0]);
                let outer = self.shape(output);
                for (i, &c) in at.coords.iter().enumerate() {
                    if shape[i] == outer[i] {
                        coords.push(c);
                        continue;
                    }
                    let lo = self.dim(&lo[i]);
                    let minus = self.b.isub(0, lo);
                    let shifted = self.coord_scale(c, 1, minus, at.lanes);
                    let clamped = self.coord_clamp(shifted, shape[i], at.lanes);
                    let (a, b) = (self.coord_lanes(shifted, at.lanes), self.coord_lanes(clamped, at.lanes));
                    let same = self.b.compare(CmpOp::Eq, a, b);
                    inside = Some(match inside {
                        None => same,
                        Some(all) => self.b.binary(BinaryOp::And, all, same),
                    });
                    coords.push(clamped);
                }
                // An empty input has no element to load: its position is clamped to -1 then, so nothing is loaded.
                let fill = self.pull(inputs[1], &at.at(vec![]), memo);
                if self.graph.tensor_ty(inputs[0]).static_len() == Some(0) {
                    return fill;
                }
                let value = self.pull(inputs[0], &at.at(coords), memo);
                match inside {
                    None => value,
                    Some(mask) => self.b.select(mask, value, fill),
                }
            }
            Op::Gather { coords: sources } => {
                let shape = self.shape(inputs[0]);
                let mut coords = Vec::with_capacity(sources.len());
                for (i, source) in sources.iter().enumerate() {
                    coords.push(match *source {
                        CoordSource::Axis(axis) => at.coords[axis as usize],
                        CoordSource::Input(n) => {
                            let input = inputs[n as usize + 1];
                            let position = self.broadcast(input, at);
                            let uniform = position.coords.iter().all(|c| matches!(c, Coord::Affine { step: 0, .. }));
                            let coord = if uniform && at.lanes > 1 {
                                let one = Position { coords: position.coords, lanes: 1, count: None };
                                let v = self.pull(input, &one, &mut Pulled::default());
                                Coord::uniform(self.b.cast(DType::I64, v))
                            } else {
                                let v = self.pull(input, &position, memo);
                                let v = self.b.cast(DType::I64, v);
                                if at.lanes == 1 { Coord::uniform(v) } else { Coord::Lanes(v) }
                            };
                            self.coord_clamp(coord, shape[i], at.lanes)
                        }
                    });
                }
                self.pull(inputs[0], &at.at(coords), memo)
            }
            other => panic!("`{}` cannot be computed element by element", other.name()),
        }
    }

    /// The position in `value` that is broadcast to `at`.
    pub fn broadcast(&mut self, value: Value, at: &Position) -> Position {
        let shape = &self.graph.tensor_ty(value).shape;
        let skip = at.coords.len() - shape.len();
        let coords =
            shape.iter().enumerate().map(|(i, d)| if *d == 1 { Coord::uniform(0) } else { at.coords[skip + i] });
        at.at(coords.collect())
    }

    /// Coordinates in `from`, whose row-major position is that of `coords` in `to`.
    pub fn reshape_coords(&mut self, to: Value, from: Value, coords: &[Coord], lanes: u16) -> Vec<Coord> {
        let graph = self.graph;
        let (to, from) = (&graph.tensor_ty(to).shape, &graph.tensor_ty(from).shape);
        let mut result = vec![Coord::uniform(0); from.len()];
        // Walk both shapes from the end, matching runs of dimensions with equal products.
        let (mut i, mut j) = (to.len(), from.len());
        while i > 0 || j > 0 {
            if i > 0 && to[i - 1] == 1 {
                i -= 1;
                continue;
            }
            if j > 0 && from[j - 1] == 1 {
                j -= 1;
                continue;
            }
            if i > 0 && j > 0 && to[i - 1] == from[j - 1] {
                (i, j) = (i - 1, j - 1);
                result[j] = coords[i];
                continue;
            }
            // The shortest runs before `i` and `j` with equal products.
            let (end_i, end_j) = (i, j);
            let (mut p, mut q) = (Dim::from(1), Dim::from(1));
            loop {
                if i > 0 && (j == 0 || as_size(&p) <= as_size(&q)) {
                    i -= 1;
                    p = (&p * &to[i]).unwrap_or_default();
                } else if j > 0 {
                    j -= 1;
                    q = (&q * &from[j]).unwrap_or_default();
                } else {
                    break;
                }
                if p == q && i < end_i && j < end_j {
                    break;
                }
            }
            let mut flat = Coord::uniform(0);
            for n in i..end_i {
                let size = self.dim(&to[n]);
                flat = if n == i { coords[n] } else { self.coord_merge(flat, coords[n], size, lanes) };
            }
            for n in (j..end_j).rev() {
                if n == j {
                    result[n] = flat;
                } else {
                    let size = self.dim(&from[n]);
                    let (q, r) = self.coord_split(flat, size, lanes);
                    result[n] = r;
                    flat = q;
                }
            }
        }
        result
    }

    /// Loads the elements at a position of a tensor with these strides.
    pub fn load(&mut self, buffer: Buffer, strides: &[Index], at: &Position) -> Val {
        let (address, access) = self.locate(&at.coords, strides, at.lanes);
        match access {
            Access::Same => self.b.load_splat(buffer, address, at.lanes),
            Access::Consecutive => self.b.load(buffer, address, at.lanes, at.count),
            Access::Scattered(indices) => self.b.gather(buffer, address, indices, at.count),
        }
    }

    /// Stores elements at a position of a tensor with these strides.
    pub fn store(&mut self, buffer: Buffer, strides: &[Index], at: &Position, val: Val) {
        let (address, access) = self.locate(&at.coords, strides, at.lanes);
        match access {
            Access::Same => {
                let val = self.b.extract(val, 0);
                self.b.store(buffer, address, val, None);
            }
            Access::Consecutive => self.b.store(buffer, address, val, at.count),
            Access::Scattered(indices) => self.b.scatter(buffer, address, indices, val, at.count),
        }
    }
}

/// Orders products while runs are matched; symbolic ones count as large.
fn as_size(dim: &Dim) -> i64 {
    dim.as_const().unwrap_or(i64::MAX)
}
