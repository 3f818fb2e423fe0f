//! Indexed access: gather and scatter in their usual forms, and sorting.
//!
//! Indices of models may be negative, counting from the end. Each form makes them non-negative first, unless they are
//! known to be.

use smallvec::SmallVec;

use super::{BuildError, Builder, invalid};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::tensor::constant::ConstantSource;
use crate::tensor::known::Element;
use crate::tensor::op::{Coord, ScatterOp};
use crate::tensor::{Op, Shape, TensorBytes, Value};

/// Constant indices up to this many bytes are looked through for negative ones.
const MAX_SCANNED_BYTES: usize = 1 << 20;

impl Builder<'_> {
    /// `out[p] = data[c0(p), c1(p), ...]` for the positions of `shape`; see [`Op::Gather`].
    ///
    /// # Errors
    /// If coordinates do not match the data or an index does not broadcast to the positions.
    pub fn gather(
        &mut self,
        data: Value,
        indices: &[Value],
        coords: &[Coord],
        shape: &[Dim],
    ) -> Result<Value, BuildError> {
        let inputs: SmallVec<[Value; 4]> = std::iter::once(data).chain(indices.iter().copied()).collect();
        self.state(Op::Gather { coords: coords.into() }, &inputs, shape.into())
    }

    /// Indices along an axis of `size` elements with negative ones counted from the end.
    ///
    /// # Errors
    /// If they are no integers.
    pub fn normalize_indices(&mut self, indices: Value, size: &Dim) -> Result<Value, BuildError> {
        let dtype = self.dtype(indices)?;
        if !dtype.is_int() {
            return invalid(format!("indices of type {dtype}"));
        }
        if self.never_negative(indices) {
            return if matches!(dtype, DType::I64 | DType::I32) { Ok(indices) } else { self.cast(indices, DType::I64) };
        }
        self.map(&[indices], |e| {
            let mut i = e.arg(0);
            if dtype != DType::I64 {
                i = e.cast(DType::I64, i);
            }
            let (zero, size) = (e.dim(&Dim::ZERO), e.dim(size));
            let (negative, wrapped) = (e.lt(i, zero), e.add(i, size));
            Ok(e.select(negative, wrapped, i))
        })
    }

    fn never_negative(&self, indices: Value) -> bool {
        if self.dtype(indices).is_ok_and(DType::is_unsigned_int) {
            return true;
        }
        if let Some(known) = &self.graph.known[indices] {
            let nonnegative = |e: &Option<Element>| {
                let dim = e.as_ref().and_then(Element::as_dim);
                dim.is_some_and(|d| d.bounds(&self.graph.symbols).0 >= 0)
            };
            return known.elements().iter().all(nonnegative);
        }
        let Some(constant) = self.graph.as_constant(indices) else { return false };
        let data = &self.graph.constants[constant];
        match &data.source {
            ConstantSource::Bytes(bytes) if bytes.len() <= MAX_SCANNED_BYTES => {
                let (dtype, bytes) = (data.ty.dtype, bytes.clone());
                let tensor = TensorBytes { dtype, shape: data.ty.static_shape().unwrap_or_default(), bytes };
                tensor.to_i64().is_some_and(|v| v.iter().all(|&i| i >= 0))
            }
            ConstantSource::Bytes(_) | ConstantSource::Splat(_) | ConstantSource::Lazy { .. } => false,
        }
    }

    /// ONNX's Gather: whole slices of `data` along an axis, one per index. The axis becomes the axes of `indices`.
    ///
    /// # Errors
    /// If the axis is missing or the indices are no integers.
    pub fn take(&mut self, data: Value, indices: Value, axis: i64) -> Result<Value, BuildError> {
        let (from, index_shape) = (self.shape(data)?, self.shape(indices)?);
        let axis = self.axis(axis, from.len())?;
        let shape: Shape = from[..axis].iter().chain(&index_shape).chain(&from[axis + 1..]).cloned().collect();
        // One known index is a slice, which costs nothing.
        if let Some([index]) = self.known_dims(indices).as_deref()
            && let Some(start) = self.known_index(index, &from[axis])?
        {
            let slice = self.slice_axis(data, axis as i64, &start, &Dim::ONE, 1)?;
            return self.reshape(slice, &shape);
        }
        let indices = self.normalize_indices(indices, &from[axis])?;
        let trailing = from.len() - axis - 1;
        let spread: Shape = index_shape.iter().cloned().chain(std::iter::repeat_n(Dim::ONE, trailing)).collect();
        let indices = self.reshape(indices, &spread)?;
        let coords: Vec<Coord> = (0..from.len())
            .map(|i| match i {
                _ if i < axis => Coord::Axis(i as u32),
                _ if i == axis => Coord::Input(0),
                _ => Coord::Axis((i - 1 + index_shape.len()) as u32),
            })
            .collect();
        self.gather(data, &[indices], &coords, &shape)
    }

    /// A known index as a position from the start, where it is certain to lie in the tensor.
    fn known_index(&self, index: &Dim, size: &Dim) -> Result<Option<Dim>, BuildError> {
        let position = match index.bounds(&self.graph.symbols) {
            (0.., _) => index.clone(),
            (_, ..=-1) => (index + size)?,
            _ => return Ok(None),
        };
        let inside =
            position.bounds(&self.graph.symbols).0 >= 0 && self.graph.compare_dims(&(&position + &Dim::ONE)?, size).0;
        Ok(inside.then_some(position))
    }

    /// ONNX's GatherElements: `out[.., p, ..] = data[.., indices[.., p, ..], ..]` along an axis.
    ///
    /// # Errors
    /// If the axis is missing, the ranks differ or the indices are no integers.
    pub fn take_along_axis(&mut self, data: Value, indices: Value, axis: i64) -> Result<Value, BuildError> {
        let (from, shape) = (self.shape(data)?, self.shape(indices)?);
        let coords = self.element_coords(&from, &shape, axis)?;
        let axis = self.axis(axis, from.len())?;
        let indices = self.normalize_indices(indices, &from[axis])?;
        self.gather(data, &[indices], &coords, &shape)
    }

    fn element_coords(&self, data: &[Dim], indices: &[Dim], axis: i64) -> Result<Vec<Coord>, BuildError> {
        let axis = self.axis(axis, data.len())?;
        if data.len() != indices.len() {
            let (a, b) = (self.graph.shape_text(data), self.graph.shape_text(indices));
            return invalid(format!("indices of shape {b} for data of shape {a}"));
        }
        Ok((0..data.len()).map(|i| if i == axis { Coord::Input(0) } else { Coord::Axis(i as u32) }).collect())
    }

    /// ONNX's GatherND: the last axis of `indices` holds the leading coordinates of slices of `data`, after `batch_dims`
    /// axes that both share.
    ///
    /// # Errors
    /// If the last axis is not constant, there are more coordinates than axes, or batch sizes differ.
    pub fn gather_nd(&mut self, data: Value, indices: Value, batch_dims: usize) -> Result<Value, BuildError> {
        let (from, index_shape) = (self.shape(data)?, self.shape(indices)?);
        if batch_dims > from.len().min(index_shape.len().saturating_sub(1)) {
            let (a, b) = (self.graph.shape_text(&from), self.graph.shape_text(&index_shape));
            return invalid(format!("{batch_dims} batch dimensions of {a} and {b}"));
        }
        for i in 0..batch_dims {
            self.unify(&from[i], &index_shape[i], |g| {
                format!("batches of {} and {}", g.shape_text(&from), g.shape_text(&index_shape))
            })?;
        }
        let (parts, coords, shape) = self.tuple_indices(&from, indices, batch_dims)?;
        self.gather(data, &parts, &coords, &shape)
    }

    /// Takes index tuples apart: the index inputs, spread over the positions, the coordinates, and the positions' shape.
    fn tuple_indices(
        &mut self,
        data: &[Dim],
        indices: Value,
        batch_dims: usize,
    ) -> Result<(Vec<Value>, Vec<Coord>, Shape), BuildError> {
        let index_shape = self.shape(indices)?;
        let length = index_shape.last().and_then(Dim::as_const).and_then(|n| usize::try_from(n).ok());
        let Some(length) = length.filter(|n| batch_dims + n <= data.len()) else {
            let (a, b) = (self.graph.shape_text(data), self.graph.shape_text(&index_shape));
            return invalid(format!("index tuples {b} into data of shape {a}"));
        };
        let tuples = index_shape.len() - 1;
        let rest = &data[batch_dims + length..];
        let shape: Shape = index_shape[..tuples].iter().chain(rest).cloned().collect();
        let spread: Shape = index_shape[..tuples].iter().cloned().chain(rest.iter().map(|_| Dim::ONE)).collect();
        let mut parts = Vec::new();
        for i in 0..length {
            let part = self.slice_axis(indices, -1, &Dim::from(i as i64), &Dim::ONE, 1)?;
            let part = self.reshape(part, &spread)?;
            parts.push(self.normalize_indices(part, &data[batch_dims + i])?);
        }
        let coords = (0..data.len())
            .map(|i| match i {
                _ if i < batch_dims => Coord::Axis(i as u32),
                _ if i < batch_dims + length => Coord::Input((i - batch_dims) as u32),
                _ => Coord::Axis((i - batch_dims - length + tuples) as u32),
            })
            .collect();
        Ok((parts, coords, shape))
    }

    /// A copy of `data` changed by `updates` at each position's coordinates; see [`Op::Scatter`].
    ///
    /// # Errors
    /// If coordinates do not match the data or an index does not broadcast to the updates.
    pub fn scatter(
        &mut self,
        op: ScatterOp,
        data: Value,
        updates: Value,
        indices: &[Value],
        coords: &[Coord],
    ) -> Result<Value, BuildError> {
        let inputs: SmallVec<[Value; 4]> = [data, updates].into_iter().chain(indices.iter().copied()).collect();
        self.derive(Op::Scatter { coords: coords.into(), op }, &inputs)
    }

    /// ONNX's ScatterElements: `out[.., indices[.., p, ..], ..]` is changed by `updates[.., p, ..]`.
    ///
    /// # Errors
    /// If the axis is missing, ranks differ or the shapes of indices and updates differ.
    pub fn scatter_elements(
        &mut self,
        op: ScatterOp,
        data: Value,
        indices: Value,
        updates: Value,
        axis: i64,
    ) -> Result<Value, BuildError> {
        let (from, shape) = (self.shape(data)?, self.shape(indices)?);
        let coords = self.element_coords(&from, &shape, axis)?;
        self.unify_shapes(&shape, updates)?;
        let axis = self.axis(axis, from.len())?;
        let indices = self.normalize_indices(indices, &from[axis])?;
        self.scatter(op, data, updates, &[indices], &coords)
    }

    /// ONNX's ScatterND: the last axis of `indices` holds the leading coordinates of the slices that `updates` change.
    ///
    /// # Errors
    /// If the last axis of `indices` is not constant or the shapes do not fit.
    pub fn scatter_nd(
        &mut self,
        op: ScatterOp,
        data: Value,
        indices: Value,
        updates: Value,
    ) -> Result<Value, BuildError> {
        let from = self.shape(data)?;
        let (parts, coords, shape) = self.tuple_indices(&from, indices, 0)?;
        self.unify_shapes(&shape, updates)?;
        self.scatter(op, data, updates, &parts, &coords)
    }

    fn unify_shapes(&mut self, expected: &[Dim], updates: Value) -> Result<(), BuildError> {
        let shape = self.shape(updates)?;
        let text = |b: &crate::tensor::Graph| {
            format!("updates of shape {} for positions {}", b.shape_text(&shape), b.shape_text(expected))
        };
        if shape.len() != expected.len() {
            return invalid(text(self.graph));
        }
        expected.iter().zip(&shape).try_for_each(|(a, b)| self.unify(a, b, text))
    }

    /// Sorts along an axis: the values and the indices (`i64`) that they came from. Stable.
    ///
    /// # Errors
    /// If the axis is missing.
    pub fn sort(&mut self, x: Value, axis: i64, descending: bool) -> Result<(Value, Value), BuildError> {
        let axis = self.axis(axis, self.rank(x)?)? as u32;
        let node = self.derived(Op::Sort { axis, descending }, &[x])?;
        let outputs = &self.graph.nodes[node].outputs;
        Ok((outputs[0], outputs[1]))
    }
}
