//! Matrix products by tiles, on machines with matrix instructions: contractions and convolutions whose operands lie in
//! memory at constant distances along rows and depth.
//!
//! A task is a tile of the result. Rows and depths of several dimensions are numbers of mixed radix, whose digits merge
//! where memory allows: the rows of a convolution are its output positions, its depth the taps and channels. What
//! follows the product runs on bands of sums, a row of the tile for each warp.
//!
//! Products of 16-bit floats and of bytes are exact; those of `f32` are made so only where the caller allows to round
//! their operands ([`MachineModel::f32_products`]).

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::tile::MOST_DEPTH;
use onnxc_ir::loops::{Access, Address, Digit, Digits, LoopKind, Stride, Tile, TileKind, TileOperand};
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::op::{Label, Panel};
use onnxc_ir::tensor::{Graph, Op, Value};

use super::contract::Roles;
use super::conv::ConvOperands;
use super::gemm::{PANEL, ceil_div};
use crate::codegen::pull::{Position, Pulled};
use crate::codegen::space::product;
use crate::codegen::{Coord, GroupKernel, GroupLaunch};

/// Fewer rows or columns than this leave most of a tile empty.
pub const FEW: i64 = 5;

/// Rows, columns and rows of a band of a tile.
type Size = (u16, u16, u16);

/// For many rows and columns, many rows, some of both, and few rows.
const TILES: [Size; 4] = [(128, 128, 64), (128, 64, 64), (64, 64, 64), (16, 64, 16)];

/// For many rows and columns of operands that copies bring as they are, where such tiles pay.
const WIDE: Size = (128, 256, 16);

/// Tiles that keep a device busy: two for each of its multiprocessors.
pub const ENOUGH: i64 = 216;

/// What a size that is not known counts for.
const UNKNOWN: i64 = 512;

/// Rows of tiles whose tasks follow each other, so that their operands meet in the second-level cache.
const GROUP: i64 = 8;

/// A dimension of a matrix: how many values, and elements from one to the next.
pub(super) type Axis = (Dim, Dim);

/// An operand that lies in memory.
struct Matrix {
    value: Value,
    offset: Dim,
    /// Strides along the product's outer dimensions.
    outer: Vec<Dim>,
    rows: Vec<Axis>,
    depth: Vec<Axis>,
}

/// The result's coordinates for coordinates of the outer dimensions, of a row, and of a column.
type Place<'a> = Box<dyn Fn(&[Index], &[Index], Coord) -> Vec<Coord> + 'a>;

/// A product whose operands lie in memory.
pub(super) struct Product<'a> {
    kind: TileKind,
    outer: Vec<Dim>,
    /// Dimensions of a row's number.
    rows: Vec<Dim>,
    columns: Dim,
    depth: Vec<Dim>,
    /// Left and right.
    operands: [Matrix; 2],
    result: Value,
    place: Place<'a>,
}

/// A value that is a view of one in memory: that one, where it begins, and the strides of its dimensions.
pub(super) fn in_memory(graph: &Graph, value: Value) -> Option<(Value, Dim, Vec<Dim>)> {
    let shape = &graph.tensor_ty(value).shape;
    let Some(node) = graph.def_node(value) else {
        let mut strides = vec![Dim::from(1); shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = (&strides[i] * &shape[i]).ok()?;
        }
        return Some((value, Dim::ZERO, strides));
    };
    let data = &graph.nodes[node];
    let view = matches!(data.op, Op::Transpose { .. } | Op::Slice { .. } | Op::Broadcast);
    let (root, offset, strides) = if view { in_memory(graph, data.inputs[0])? } else { return None };
    match &data.op {
        Op::Transpose { perm } => Some((root, offset, perm.iter().map(|&p| strides[p as usize].clone()).collect())),
        Op::Slice { starts, steps } => {
            let mut offset = offset;
            let mut moved = Vec::new();
            for ((stride, start), &step) in strides.iter().zip(starts).zip(steps) {
                offset = (&offset + &(stride * start).ok()?).ok()?;
                moved.push((stride * &Dim::from(step)).ok()?);
            }
            Some((root, offset, moved))
        }
        Op::Broadcast => {
            let from = &graph.tensor_ty(data.inputs[0]).shape;
            let added = shape.len() - from.len();
            let of = |i: usize| match i.checked_sub(added) {
                Some(j) if from[j] == shape[i] => strides[j].clone(),
                _ => Dim::ZERO,
            };
            Some((root, offset, (0..shape.len()).map(of).collect()))
        }
        _ => None,
    }
}

/// The kind of tile for operands of these types in memory and sums of type `acc`.
pub(super) fn kind(machine: &MachineModel, memory: [DType; 2], acc: DType) -> Option<TileKind> {
    let fits = |kind: TileKind| memory.iter().all(|&m| kind.accepts(m)) && kind.sums() == acc;
    let kind = match memory {
        _ if !machine.tiles => return None,
        [DType::F32, DType::F32 | DType::F16 | DType::BF16] | [DType::F16 | DType::BF16, DType::F32] => {
            machine.f32_products?
        }
        [DType::F16, _] => TileKind::F16,
        [DType::BF16, _] => TileKind::Bf16,
        _ => TileKind::I8,
    };
    fits(kind).then_some(kind)
}

/// Merges dimensions that follow each other in memory. None if one but the first has a size that is not known.
fn merged(axes: &[Axis]) -> Option<Vec<Axis>> {
    // The innermost first.
    let mut digits: Vec<Axis> = Vec::new();
    for (size, stride) in axes.iter().rev().filter(|(size, _)| *size != 1) {
        if let Some((inner, step)) = digits.last_mut() {
            if (&*inner * &*step).is_ok_and(|next| next == *stride) {
                *inner = (&*inner * size).ok()?;
                continue;
            }
            inner.as_const()?;
        }
        digits.push((size.clone(), stride.clone()));
    }
    if digits.is_empty() {
        digits.push((Dim::from(1), Dim::from(1)));
    }
    digits.reverse();
    Some(digits)
}

/// A contraction as a product of tiles, if that is possible and pays.
pub(super) fn contraction<'a>(k: &GroupKernel<'_>, roles: &'a Roles) -> Option<Product<'a>> {
    let graph = k.graph;
    if roles.panel.is_some_and(Panel::is_deep) {
        return None;
    }
    let (left, right) = (in_memory(graph, roles.left)?, in_memory(graph, roles.right)?);
    let columns = roles.columns.clone()?;
    let memory = [&left, &right].map(|m| graph.tensor_ty(m.0).dtype);
    let kind = kind(k.machine, memory, roles.acc)?;
    let stride = |strides: &[Dim], labels: &[Label], label: Label| {
        labels.iter().position(|&l| l == label).map_or(Dim::ZERO, |i| strides[i].clone())
    };
    let axes = |strides: &[Dim], labels: &[Label], list: &[Label]| -> Vec<Axis> {
        list.iter().map(|&l| (roles.size(l).clone(), stride(strides, labels, l))).collect()
    };
    let sizes = |list: &[Label]| -> Vec<Dim> { list.iter().map(|&l| roles.size(l).clone()).collect() };
    let panel = Dim::from(i64::from(PANEL));
    let (around, lines) = roles.outer.split_at(roles.around);
    let all_rows: Vec<Label> = lines.iter().copied().chain(roles.row_label).collect();
    // All the left operand's own dimensions are rows, or the last of them.
    [0, all_rows.len().saturating_sub(1)].into_iter().find_map(|from| {
        let (lines, rows) = all_rows.split_at(from);
        let outer: Vec<Label> = around.iter().chain(lines).copied().collect();
        let along = |strides: &[Dim], labels: &[Label]| outer.iter().map(|&l| stride(strides, labels, l)).collect();
        let second = if roles.panel.is_some() {
            let depth = roles.size(roles.contracted[0]).clone();
            Matrix {
                value: right.0,
                offset: right.1.clone(),
                outer: outer.iter().map(|_| Dim::ZERO).collect(),
                rows: vec![(Dim::ZERO, (&depth * &panel).ok()?), (panel.clone(), Dim::from(1))],
                depth: vec![(depth, panel.clone())],
            }
        } else {
            Matrix {
                value: right.0,
                offset: right.1.clone(),
                outer: along(&right.2, &roles.right_labels),
                rows: axes(&right.2, &roles.right_labels, &[roles.column_label?]),
                depth: merged(&axes(&right.2, &roles.right_labels, &roles.contracted))?,
            }
        };
        let first = Matrix {
            value: left.0,
            offset: left.1.clone(),
            outer: along(&left.2, &roles.left_labels),
            rows: merged(&axes(&left.2, &roles.left_labels, rows))?,
            depth: merged(&axes(&left.2, &roles.left_labels, &roles.contracted))?,
        };
        let (outer_sizes, rows) = (sizes(&outer), rows.to_vec());
        let row_sizes = sizes(&rows);
        let place = move |at: &[Index], row: &[Index], column: Coord| {
            let find = |list: &[Label], at: &[Index], label: Label| {
                list.iter().position(|&l| l == label).map(|i| Coord::uniform(at[i]))
            };
            let coordinate = |&l: &Label| find(&outer, at, l).or_else(|| find(&rows, row, l)).unwrap_or(column);
            roles.out_labels.iter().map(coordinate).collect()
        };
        let product = Product {
            kind,
            outer: outer_sizes,
            rows: row_sizes,
            columns: columns.clone(),
            depth: sizes(&roles.contracted),
            operands: [first, second],
            result: roles.result,
            place: Box::new(place),
        };
        product.pays().then_some(product)
    })
}

/// A convolution with channels last and a filter in panels as a product of tiles, if that is possible and pays.
pub(super) fn convolution<'a>(k: &GroupKernel<'_>, operands: &'a ConvOperands) -> Option<Product<'a>> {
    let graph = k.graph;
    let conv = &operands.conv;
    if conv.panel.is_some_and(Panel::is_deep) {
        return None;
    }
    let (input, offset, strides) = in_memory(graph, operands.input)?;
    let memory = [input, operands.filter].map(|v| graph.tensor_ty(v).dtype);
    let kind = kind(k.machine, memory, conv.acc)?;
    let (batch, spatial, columns) = operands.result_dims(k);
    let channels = graph.tensor_ty(operands.input).shape.last()?.clone();
    let times = |stride: &Dim, n: i64| (stride * &Dim::from(n)).expect("strides were checked when the graph was built");
    let positions: Vec<Axis> = std::iter::once((batch, strides[0].clone()))
        .chain(spatial.into_iter().zip(&strides[1..]).zip(&conv.strides).map(|((n, s), &by)| (n, times(s, by))))
        .collect();
    let taps = operands.kernel_dims().into_iter().zip(&strides[1..]).zip(&conv.rhs_dilation);
    let depth: Vec<Axis> =
        taps.map(|((n, s), &by)| (n, times(s, by))).chain([(channels, strides[strides.len() - 1].clone())]).collect();
    let sizes = |axes: &[Axis]| -> Vec<Dim> { axes.iter().map(|(size, _)| size.clone()).collect() };
    let deep = product(&sizes(&depth));
    let panel = i64::from(PANEL);
    // All positions are rows, or those along the last dimension.
    [0, positions.len() - 1].into_iter().find_map(|from| {
        let (around, rows) = positions.split_at(from);
        let image = Matrix {
            value: input,
            offset: offset.clone(),
            outer: around.iter().map(|(_, stride)| stride.clone()).collect(),
            rows: merged(rows)?,
            depth: merged(&depth)?,
        };
        let filter = Matrix {
            value: operands.filter,
            offset: Dim::ZERO,
            outer: around.iter().map(|_| Dim::ZERO).collect(),
            rows: vec![(Dim::ZERO, times(&deep, panel)), (Dim::from(panel), Dim::from(1))],
            depth: vec![(deep.clone(), Dim::from(panel))],
        };
        let place = move |at: &[Index], row: &[Index], column: Coord| {
            let all: Vec<Index> = at.iter().chain(row).copied().collect();
            let (row, around) = all.split_last().expect("a convolution has positions");
            operands.position(around, *row, column)
        };
        let product = Product {
            kind,
            outer: sizes(around),
            rows: sizes(rows),
            columns: columns.clone(),
            depth: sizes(&depth),
            operands: [image, filter],
            result: operands.result,
            place: Box::new(place),
        };
        product.pays().then_some(product)
    })
}

impl Product<'_> {
    fn row_count(&self) -> Dim {
        product(&self.rows)
    }

    /// Whether tiles can count its depths and are not mostly empty. Where only a run knows the depth, one that cannot be
    /// counted ends it.
    fn pays(&self) -> bool {
        let (rows, depth) = (self.row_count(), product(&self.depth));
        let few = |dim: &Dim| dim.as_const().is_some_and(|n| n < FEW);
        !few(&rows) && !few(&self.columns) && depth.as_const().is_none_or(|n| n <= MOST_DEPTH)
    }

    /// Whether copies of boxes can bring an operand: a matrix of the tile's own type, whose lines begin at multiples of 16
    /// bytes.
    fn comes_as_it_is(&self, k: &GroupKernel<'_>, m: &Matrix) -> bool {
        let bytes = self.kind.bytes();
        let ([row], [depth]) = (&m.rows[..], &m.depth[..]) else { return false };
        let aligned = |dim: &Dim| dim.exact_div(&Dim::from(i64::from(16 / bytes))).is_some();
        let lines = (row.1 == 1 && bytes == 2 && aligned(&depth.1)) || (depth.1 == 1 && aligned(&row.1));
        let same = k.graph.tensor_ty(m.value).dtype.bytes() == Some(bytes.into()) && self.kind != TileKind::Tf32;
        same && lines && aligned(&m.offset) && m.outer.iter().all(aligned)
    }

    /// The largest tile that is not half empty and leaves tiles enough.
    fn tile(&self, k: &GroupKernel<'_>) -> Size {
        let known = |dim: &Dim| dim.as_const().unwrap_or(UNKNOWN);
        let (rows, columns) = (known(&self.row_count()), known(&self.columns));
        let outer: i64 = self.outer.iter().map(known).fold(1, i64::saturating_mul);
        let [large, tall, middle, low] = TILES;
        let fits = |(r, c, _): Size| {
            let count = |n: i64, size: u16| ceil_div(n, size.into());
            let tiles = count(rows, r).saturating_mul(count(columns, c)).saturating_mul(outer);
            2 * rows > i64::from(r) && 2 * columns > i64::from(c) && tiles >= ENOUGH
        };
        if rows <= low.0.into() {
            return low;
        }
        // As many columns stay empty as in tiles half as wide.
        let even = ceil_div(columns, large.1.into()) % 2 == 0;
        let [left, right] = self.operands.each_ref().map(|m| k.graph.tensor_ty(m.value).dtype);
        let pays = k.machine.wide_tiles && left == right && even && fits(WIDE);
        if pays && self.operands.iter().all(|m| self.comes_as_it_is(k, m)) {
            return WIDE;
        }
        [large, tall].into_iter().find(|&size| fits(size)).unwrap_or(middle)
    }
}

/// Schedules a product by tiles.
pub(super) fn schedule(mut k: GroupKernel<'_>, p: &Product<'_>) -> GroupLaunch {
    let (tile_rows, tile_columns, band) = p.tile(&k);
    k.remark(format!("tiles of {tile_rows} x {tile_columns} by {} matrix instructions", p.kind.name()));
    let (rows, depth) = (p.row_count(), product(&p.depth));
    let parts = |dim: &Dim, size: u16| dim.ceil_div(&Dim::from(i64::from(size))).expect("the divisor is a constant");
    let (down, across) = (parts(&rows, tile_rows), parts(&p.columns, tile_columns));
    let grid: Vec<Dim> = p.outer.iter().cloned().chain([product([&down, &across])]).collect();
    let dims: Vec<Index> = grid.iter().map(|d| k.dim(d)).collect();
    let row_dims: Vec<Index> = p.rows.iter().map(|d| k.dim(d)).collect();
    let [row_bound, column_bound, depth_bound, down, across] =
        [&rows, &p.columns, &depth, &down, &across].map(|d| k.dim(d));
    let matrices = p.operands.each_ref().map(|m| {
        let offset = distance(&mut k, &m.offset);
        let outer: Vec<Index> = m.outer.iter().map(|d| distance(&mut k, d)).collect();
        let (rows, depth) = (digits_of(&mut k, &m.rows), digits_of(&mut k, &m.depth));
        (k.input(m.value), offset, outer, rows, depth)
    });
    let pitch = tile_columns + 8;
    let lanes = k.lanes().min(tile_columns);
    let sums = k.b.buffer("sums", p.kind.sums(), Access::Scratch, Some(u64::from(band) * u64::from(pitch)));
    k.tasks(|k, task| {
        let at = k.unflatten(task, &dims);
        let (number, outer) = at.split_last().expect("the grid ends with the tiles");
        let (row_tile, column_tile) = grouped(k, *number, down, across);
        let first_row = k.b.imul(row_tile, i64::from(tile_rows));
        let first_column = k.b.imul(column_tile, i64::from(tile_columns));
        let operand = |k: &mut GroupKernel<'_>, n: usize, (first, bound): (Index, Index)| {
            let (buffer, offset, strides, rows, depth) = &matrices[n];
            let mut address = k.b.advance(Address::default(), *offset, 1);
            for (&index, &stride) in outer.iter().zip(strides) {
                address = k.b.advance(address, index, stride);
            }
            let (first, bound) = (k.b.val(first), k.b.val(bound));
            TileOperand { buffer: *buffer, address, first, bound, rows: rows.clone(), depth: depth.clone() }
        };
        let (lhs, rhs) = (operand(k, 0, (first_row, row_bound)), operand(k, 1, (first_column, column_bound)));
        let depth = k.b.val(depth_bound);
        let (body, row) = k.b.begin_tile();
        let first = k.b.iadd(first_row, row);
        let left = k.b.isub(row_bound, first);
        let height = k.b.imin(left, i64::from(band));
        let width = match column_bound.as_const() {
            Some(n) if n % i64::from(tile_columns) == 0 => Index::Const(tile_columns.into()),
            _ => {
                let left = k.b.isub(column_bound, first_column);
                k.b.imin(left, i64::from(tile_columns))
            }
        };
        let turns = k.b.begin_for(LoopKind::GpuThread(1), Index::Const(0), height, 1, &[]);
        let line = turns.index;
        let row = k.b.iadd(first, line);
        let row = k.unflatten(row, &row_dims);
        k.vectors(0, width, lanes, |k, within, lanes, count| {
            let Coord::Affine { index: from, .. } = within else { unreachable!("vectors lie side by side") };
            let address = k.b.advance(Address::default(), line, i64::from(pitch));
            let address = k.b.advance(address, from, 1);
            let sum = k.b.load(sums, address, lanes, count);
            let column = k.b.iadd(first_column, from);
            let column = if lanes == 1 { Coord::uniform(column) } else { Coord::consecutive(column, lanes.into()) };
            let coords = (p.place)(outer, &row, column);
            k.push(p.result, &Position { coords, lanes, count }, sum, &mut Pulled::default());
        });
        k.b.end_for(turns, &[]);
        let (rows, cols) = (tile_rows, tile_columns);
        k.b.end_tile(Tile { kind: p.kind, rows, cols, band, depth, lhs, rhs, sums, pitch, body });
    });
    let flops = product(p.outer.iter().chain([&rows, &p.columns, &depth, &Dim::from(2)]));
    k.finish(product(&grid), flops)
}

/// A number of elements. What is known of its divisors stays visible: copies of 16 bytes ask for them.
pub(super) fn distance(k: &mut GroupKernel<'_>, dim: &Dim) -> Index {
    let factors = if dim.as_const().is_some() { &[][..] } else { &[16, 8, 4, 2] };
    for &factor in factors {
        if let Some(rest) = dim.exact_div(&Dim::from(factor)) {
            let rest = k.dim(&rest);
            return k.b.imul(rest, factor);
        }
    }
    k.dim(dim)
}

/// Digits with their strides as values.
pub(super) fn digits_of(k: &mut GroupKernel<'_>, axes: &[Axis]) -> Digits {
    let mut digits = Digits::new();
    for (i, (size, stride)) in axes.iter().enumerate() {
        let size = if i == 0 { 0 } else { size.as_const().expect("inner digits have known sizes") };
        let stride = match distance(k, stride) {
            Index::Const(c) => Stride::Const(c),
            Index::Val(v) => Stride::Value(v),
        };
        digits.push(Digit { size, stride });
    }
    digits
}

/// The row and column of a tile's number: some rows of tiles together, column by column.
fn grouped(k: &mut GroupKernel<'_>, number: Index, down: Index, across: Index) -> (Index, Index) {
    if across.as_const() == Some(1) {
        return (number, Index::Const(0));
    }
    let size = k.b.imul(across, GROUP);
    let group = k.b.idiv(number, size);
    let first = k.b.imul(group, GROUP);
    let left = k.b.isub(down, first);
    let height = k.b.imin(left, GROUP);
    let within = k.b.irem(number, size);
    let row = k.b.irem(within, height);
    (k.b.iadd(first, row), k.b.idiv(within, height))
}
