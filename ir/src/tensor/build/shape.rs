//! Views and rearrangements: reshape, transpose, broadcast, slice, pad, concat.

use smallvec::SmallVec;

use super::{BuildError, Builder, invalid};
use crate::dim::{Dim, DimError};
use crate::tensor::shape::element_count;
use crate::tensor::{Graph, Op, Shape, Value};

impl Builder<'_> {
    /// The same elements in another shape. Where only a run can tell whether the element counts agree, they are assumed to.
    ///
    /// # Errors
    /// If the element counts differ.
    pub fn reshape(&mut self, x: Value, shape: &[Dim]) -> Result<Value, BuildError> {
        let from = self.shape(x)?;
        if self.graph.same_shape(&from, shape) {
            return Ok(x);
        }
        let (a, b) = (element_count(&from)?, element_count(shape)?);
        self.unify(&a, &b, |g| format!("reshape of {} to {}", g.shape_text(&from), g.shape_text(shape)))?;
        self.state(Op::Reshape, &[x], shape.into())
    }

    /// Removes axes of size 1; negative axes count from the end.
    ///
    /// # Errors
    /// If an axis is missing or its size is not 1.
    pub fn squeeze(&mut self, x: Value, axes: &[i64]) -> Result<Value, BuildError> {
        let shape = self.shape(x)?;
        let mut drop = vec![false; shape.len()];
        for &axis in axes {
            let axis = self.axis(axis, shape.len())?;
            self.unify(&shape[axis], &Dim::ONE, |g| format!("squeeze of axis {axis} of {}", g.shape_text(&shape)))?;
            drop[axis] = true;
        }
        let kept: Shape = shape.iter().zip(&drop).filter(|(_, d)| !**d).map(|(s, _)| s.clone()).collect();
        self.reshape(x, &kept)
    }

    /// Inserts axes of size 1 at these positions of the result; negative ones count from its end.
    ///
    /// # Errors
    /// If a position is out of range or named twice.
    pub fn unsqueeze(&mut self, x: Value, axes: &[i64]) -> Result<Value, BuildError> {
        let shape = self.shape(x)?;
        let rank = shape.len() + axes.len();
        let mut new = vec![false; rank];
        for &axis in axes {
            let at = self.axis(axis, rank)?;
            if std::mem::replace(&mut new[at], true) {
                return invalid(format!("axes {axes:?} name one axis twice"));
            }
        }
        let mut old = shape.into_iter();
        let out: Shape = new.iter().map(|&n| if n { Dim::ONE } else { old.next().unwrap_or(Dim::ONE) }).collect();
        self.reshape(x, &out)
    }

    /// A matrix: the axes before `axis`, merged, by the others, merged. `axis` is in `-rank..=rank`.
    ///
    /// # Errors
    /// If the axis is out of range.
    pub fn flatten(&mut self, x: Value, axis: i64) -> Result<Value, BuildError> {
        let shape = self.shape(x)?;
        let rank = shape.len();
        let at = if axis == rank as i64 { rank } else { self.axis(axis, rank)? };
        let (rows, columns) = (element_count(&shape[..at])?, element_count(&shape[at..])?);
        self.reshape(x, &[rows, columns])
    }

    /// Output axis `i` is input axis `perm[i]`.
    ///
    /// # Errors
    /// If it is no permutation of the axes.
    pub fn transpose(&mut self, x: Value, perm: &[usize]) -> Result<Value, BuildError> {
        if perm.len() == self.rank(x)? && perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        let perm: SmallVec<[u32; 5]> = perm.iter().map(|&p| u32::try_from(p).unwrap_or(u32::MAX)).collect();
        self.derive(Op::Transpose { perm }, &[x])
    }

    /// Repeats along axes of 1 and new leading axes to exactly this shape.
    ///
    /// # Errors
    /// If `x` does not broadcast to it.
    pub fn broadcast(&mut self, x: Value, shape: &[Dim]) -> Result<Value, BuildError> {
        let from = self.shape(x)?;
        if from.len() > shape.len() {
            let (a, b) = (self.graph.shape_text(&from), self.graph.shape_text(shape));
            return invalid(format!("shape {a} does not broadcast to {b}"));
        }
        for (f, t) in from.iter().zip(&shape[shape.len() - from.len()..]) {
            if *f != 1 {
                self.unify(f, t, |g| {
                    format!("shape {} does not broadcast to {}", g.shape_text(&from), g.shape_text(shape))
                })?;
            }
        }
        if self.graph.same_shape(&from, shape) {
            return Ok(x);
        }
        self.state(Op::Broadcast, &[x], shape.into())
    }

    /// Repeats to the shape that the shape of `x` and `shape` broadcast to together.
    ///
    /// # Errors
    /// If they do not broadcast.
    pub fn expand(&mut self, x: Value, shape: &[Dim]) -> Result<Value, BuildError> {
        let from = self.shape(x)?;
        let result = self.graph.broadcast_shapes([from.as_slice(), shape]);
        let full = result.map_err(|e| {
            self.shape_error(e, |g| {
                format!("shapes {} and {} do not broadcast", g.shape_text(&from), g.shape_text(shape))
            })
        })?;
        self.broadcast(x, &full)
    }

    /// `out[i] = x[start + i * step]` in each dimension, `sizes` elements of it. All indices must be in range.
    ///
    /// # Errors
    /// If ranks do not fit, a step is 0 or an index leaves the tensor.
    pub fn slice(&mut self, x: Value, starts: &[Dim], sizes: &[Dim], steps: &[i64]) -> Result<Value, BuildError> {
        let whole = starts.iter().all(|d| *d == 0) && steps.iter().all(|&s| s == 1);
        if whole && self.graph.same_shape(&self.shape(x)?, sizes) {
            return Ok(x);
        }
        self.state(Op::Slice { starts: starts.into(), steps: steps.into() }, &[x], sizes.into())
    }

    /// [`Builder::slice`] along one axis.
    ///
    /// # Errors
    /// Those of [`Builder::slice`].
    pub fn slice_axis(&mut self, x: Value, axis: i64, start: &Dim, size: &Dim, step: i64) -> Result<Value, BuildError> {
        let mut sizes = self.shape(x)?;
        let axis = self.axis(axis, sizes.len())?;
        let mut starts: Shape = sizes.iter().map(|_| Dim::ZERO).collect();
        let mut steps: SmallVec<[i64; 5]> = sizes.iter().map(|_| 1).collect();
        starts[axis] = start.clone();
        sizes[axis] = size.clone();
        steps[axis] = step;
        self.slice(x, &starts, &sizes, &steps)
    }

    /// `x[start:end:step]` along an axis as Python has it: negative positions count from the end, and both are clamped.
    ///
    /// # Errors
    /// If the step is 0.
    pub fn slice_range(&mut self, x: Value, axis: i64, start: &Dim, end: &Dim, step: i64) -> Result<Value, BuildError> {
        let shape = self.shape(x)?;
        let size = &shape[self.axis(axis, shape.len())?];
        let (start, count) = python_range(self.graph, size, start, end, step)?;
        self.slice_axis(x, axis, &start, &count, step)
    }

    /// Surrounds by the scalar `fill`; negative amounts crop.
    ///
    /// # Errors
    /// If ranks or types do not fit.
    pub fn pad(&mut self, x: Value, fill: Value, lo: &[Dim], hi: &[Dim]) -> Result<Value, BuildError> {
        let shape = self.shape(x)?;
        if lo.len() != shape.len() || hi.len() != shape.len() {
            return invalid(format!("padding of {} and {} dimensions for rank {}", lo.len(), hi.len(), shape.len()));
        }
        let symbols = &self.graph.symbols;
        let split = |amount: &Dim| -> Result<(Dim, Dim), BuildError> {
            match amount.bounds(symbols) {
                (0.., _) => Ok((amount.clone(), Dim::ZERO)),
                (_, ..=0) => Ok((Dim::ZERO, (-amount)?)),
                _ => Ok((amount.maximum(&Dim::ZERO)?, (-amount)?.maximum(&Dim::ZERO)?)),
            }
        };
        let (mut starts, mut sizes) = (Shape::new(), Shape::new());
        let (mut low, mut high) = (Shape::new(), Shape::new());
        for ((size, l), h) in shape.iter().zip(lo).zip(hi) {
            let ((l, crop_l), (h, crop_h)) = (split(l)?, split(h)?);
            sizes.push((&(size - &crop_l)? - &crop_h)?);
            starts.push(crop_l);
            low.push(l);
            high.push(h);
        }
        if let Some(size) = sizes.iter().find(|s| s.bounds(symbols).1 < 0) {
            return invalid(format!("padding crops a dimension to {}", size.display(symbols)));
        }
        let steps = vec![1; shape.len()];
        let x = self.slice(x, &starts, &sizes, &steps)?;
        if low.iter().chain(&high).all(|d| *d == 0) {
            return Ok(x);
        }
        self.derive(Op::Pad { lo: low, hi: high }, &[x, fill])
    }

    /// Joins along an axis.
    ///
    /// # Errors
    /// If there is no value, or types or the other sizes differ.
    pub fn concat(&mut self, values: &[Value], axis: i64) -> Result<Value, BuildError> {
        let Some((&first, rest)) = values.split_first() else { return invalid("concatenation of nothing") };
        let shape = self.shape(first)?;
        let axis = self.axis(axis, shape.len())?;
        for &value in rest {
            let other = self.shape(value)?;
            for (i, (a, b)) in shape.iter().zip(&other).enumerate() {
                if i != axis {
                    self.unify(a, b, |g| {
                        format!(
                            "concatenation of {} and {} along axis {axis}",
                            g.shape_text(&shape),
                            g.shape_text(&other)
                        )
                    })?;
                }
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        self.derive(Op::Concat { axis: axis as u32 }, values)
    }
}

/// The first index and the number of elements of `[start:end:step]` over `size` elements.
fn python_range(graph: &Graph, size: &Dim, start: &Dim, end: &Dim, step: i64) -> Result<(Dim, Dim), BuildError> {
    let from_start = |position: &Dim| -> Result<Dim, BuildError> {
        match position.bounds(&graph.symbols) {
            (0.., _) => Ok(position.clone()),
            (_, ..=-1) => Ok((position + size)?),
            // Only a run can tell: -1 times the size is subtracted below zero, 0 times elsewhere.
            _ => {
                let below = position.minimum(&Dim::ZERO)?.maximum(&Dim::constant(-1))?;
                Ok((position - &(size * &below)?)?)
            }
        }
    };
    let (low, high) = match step {
        0 => return invalid("slice with step 0"),
        1.. => (Dim::ZERO, size.clone()),
        _ => (Dim::constant(-1), (size - &Dim::ONE)?),
    };
    let clamp = |position: &Dim| -> Result<Dim, BuildError> {
        let position = graph.lesser_dim(&from_start(position)?, &high)?;
        Ok(graph.greater_dim(&position, &low)?)
    };
    let (start, end) = (clamp(start)?, clamp(end)?);
    let magnitude = Dim::from(step.checked_abs().ok_or(DimError::Overflow)?);
    let distance = if step > 0 { (&end - &start)? } else { (&start - &end)? };
    let count = graph.greater_dim(&distance.ceil_div(&magnitude)?, &Dim::ZERO)?;
    Ok((start, count))
}

impl Graph {
    /// The lesser of two dimensions, decided by the bounds of the symbols where they can.
    ///
    /// # Errors
    /// If the expression outgrows the limits.
    pub fn lesser_dim(&self, a: &Dim, b: &Dim) -> Result<Dim, DimError> {
        match self.compare_dims(a, b) {
            (true, _) => Ok(a.clone()),
            (_, true) => Ok(b.clone()),
            _ => a.minimum(b),
        }
    }

    /// The greater of two dimensions, decided by the bounds of the symbols where they can.
    ///
    /// # Errors
    /// If the expression outgrows the limits.
    pub fn greater_dim(&self, a: &Dim, b: &Dim) -> Result<Dim, DimError> {
        match self.compare_dims(a, b) {
            (true, _) => Ok(b.clone()),
            (_, true) => Ok(a.clone()),
            _ => a.maximum(b),
        }
    }

    /// Whether `a <= b` and whether `a >= b` hold for all values of the symbols.
    pub(crate) fn compare_dims(&self, a: &Dim, b: &Dim) -> (bool, bool) {
        let (x, y) = (a.bounds(&self.symbols), b.bounds(&self.symbols));
        if x.1 <= y.0 || x.0 >= y.1 {
            return (x.1 <= y.0, x.0 >= y.1);
        }
        match a - b {
            Ok(difference) => {
                let (low, high) = difference.bounds(&self.symbols);
                (high <= 0, low >= 0)
            }
            Err(_) => (false, false),
        }
    }
}
