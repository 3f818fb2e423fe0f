//! Reductions, contractions, convolutions and windows.

use smallvec::SmallVec;

use super::{BuildError, Builder, invalid};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::tensor::op::{Contract, Conv, Label, ReduceOp, Window};
use crate::tensor::shape::element_count;
use crate::tensor::{Op, Shape, Value};

impl Builder<'_> {
    /// Reduces axes; with `keepdims` they stay as dimensions of 1. Axes may be in any order; negative ones count from the
    /// end.
    ///
    /// # Errors
    /// If an axis is missing or named twice, or the type does not fit.
    pub fn reduce(&mut self, op: ReduceOp, x: Value, axes: &[i64], keepdims: bool) -> Result<Value, BuildError> {
        let shape = self.shape(x)?;
        let mut sorted: SmallVec<[u32; 4]> = SmallVec::new();
        for &axis in axes {
            sorted.push(self.axis(axis, shape.len())? as u32);
        }
        sorted.sort_unstable();
        if sorted.windows(2).any(|w| w[0] == w[1]) {
            return invalid(format!("axes {axes:?} name one axis twice"));
        }
        if sorted.is_empty() && !matches!(op, ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. }) {
            return Ok(x);
        }
        let kept: Shape =
            (0..shape.len()).map(|i| if sorted.contains(&(i as u32)) { Dim::ONE } else { shape[i].clone() }).collect();
        let reduced = self.derive(Op::Reduce { op, axes: sorted }, &[x])?;
        if keepdims { self.reshape(reduced, &kept) } else { Ok(reduced) }
    }

    /// The mean over axes.
    ///
    /// # Errors
    /// Those of [`Builder::reduce`].
    pub fn mean(&mut self, x: Value, axes: &[i64], keepdims: bool) -> Result<Value, BuildError> {
        let (shape, dtype) = (self.shape(x)?, self.dtype(x)?);
        let mut sizes = Vec::new();
        for &axis in axes {
            sizes.push(shape[self.axis(axis, shape.len())?].clone());
        }
        let count = element_count(&sizes)?;
        let sum = self.reduce(ReduceOp::Sum, x, axes, keepdims)?;
        if count == 1 {
            return Ok(sum);
        }
        self.map(&[sum], |e| {
            let sum = e.arg(0);
            let count = match count.as_const() {
                Some(n) => e.number(dtype, n as f64)?,
                None => {
                    let n = e.dim(&count);
                    e.cast(dtype, n)
                }
            };
            Ok(e.div(sum, count))
        })
    }

    /// Running sum or product along an axis.
    ///
    /// # Errors
    /// If the axis is missing or the type does not fit.
    pub fn cumulate(
        &mut self,
        op: ReduceOp,
        x: Value,
        axis: i64,
        exclusive: bool,
        reverse: bool,
    ) -> Result<Value, BuildError> {
        let axis = self.axis(axis, self.rank(x)?)? as u32;
        self.derive(Op::Cumulate { op, axis, exclusive, reverse }, &[x])
    }

    /// A contraction. Sizes of a label that occurs in both operands are assumed to be equal where only a run can tell.
    ///
    /// # Errors
    /// If labels do not match the operands' ranks or sizes differ.
    pub fn contract(&mut self, c: Contract, lhs: Value, rhs: Value) -> Result<Value, BuildError> {
        if c.panel.is_some() {
            return invalid("packed operands are made by passes, with a stated shape");
        }
        let (a, b) = (self.shape(lhs)?, self.shape(rhs)?);
        for (label, size) in c.lhs.iter().zip(&a) {
            if let Some(at) = c.rhs.iter().position(|l| l == label)
                && let Some(other) = b.get(at)
            {
                self.unify(size, other, |g| format!("product of {} and {}", g.shape_text(&a), g.shape_text(&b)))?;
            }
        }
        self.derive(Op::Contract(c), &[lhs, rhs])
    }

    /// The matrix product as numpy defines it: leading dimensions broadcast, vectors are a row on the left and a column on
    /// the right. No operand is broadcast in memory. `acc` is the type of products, sums and result.
    ///
    /// # Errors
    /// If an operand is a scalar or the sizes do not fit.
    pub fn matmul(&mut self, mut lhs: Value, mut rhs: Value, acc: DType) -> Result<Value, BuildError> {
        const K: Label = 0;
        const M: Label = 1;
        const N: Label = 2;
        const BATCH: usize = 3;
        let (a, b) = (self.shape(lhs)?, self.shape(rhs)?);
        if a.is_empty() || b.is_empty() || a.len().max(b.len()) > usize::from(Label::MAX) - BATCH {
            let (a, b) = (self.graph.shape_text(&a), self.graph.shape_text(&b));
            return invalid(format!("matrix product of {a} and {b}"));
        }
        let (a_batch, b_batch) = (a.len().saturating_sub(2), b.len().saturating_sub(2));
        let rank = a_batch.max(b_batch);
        let (mut l, mut r, mut out) = (SmallVec::new(), SmallVec::new(), SmallVec::new());
        let (mut l_drop, mut r_drop): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
        for i in 0..rank {
            let label = (BATCH + i) as Label;
            let (ai, bi) = ((i + a_batch).checked_sub(rank), (i + b_batch).checked_sub(rank));
            out.push(label);
            match (ai, bi) {
                (Some(ai), Some(bi)) if a[ai] == 1 && b[bi] != 1 => {
                    l_drop.push(ai as i64);
                    r.push(label);
                }
                (Some(ai), Some(bi)) if b[bi] == 1 && a[ai] != 1 => {
                    r_drop.push(bi as i64);
                    l.push(label);
                }
                (Some(_), Some(_)) => {
                    l.push(label);
                    r.push(label);
                }
                (Some(_), None) => l.push(label),
                (None, _) => r.push(label),
            }
        }
        if a.len() > 1 {
            l.push(M);
            out.push(M);
        }
        l.push(K);
        r.push(K);
        if b.len() > 1 {
            r.push(N);
            out.push(N);
        }
        lhs = self.squeeze(lhs, &l_drop)?;
        rhs = self.squeeze(rhs, &r_drop)?;
        let result = self.contract(Contract { lhs: l, rhs: r, out, acc, panel: None }, lhs, rhs);
        // The labelled sizes are of the squeezed operands: the message shows what the user wrote.
        result.map_err(|e| match e {
            BuildError::Dim(e) => BuildError::Dim(e),
            BuildError::Op { .. } | BuildError::Invalid(_) => {
                let (a, b) = (self.graph.shape_text(&a), self.graph.shape_text(&b));
                BuildError::Invalid(format!("matrix product of {a} and {b}: {e}"))
            }
        })
    }

    /// `alpha * A * B + beta * C` with matrices that are transposed on request; `C` broadcasts.
    ///
    /// # Errors
    /// If A or B is no matrix or the sizes do not fit.
    pub fn gemm(
        &mut self,
        a: Value,
        b: Value,
        c: Option<Value>,
        transposed: (bool, bool),
        scale: (f64, f64),
    ) -> Result<Value, BuildError> {
        const K: Label = 0;
        const M: Label = 1;
        const N: Label = 2;
        let dtype = self.dtype(a)?;
        let lhs = if transposed.0 { [K, M] } else { [M, K] };
        let rhs = if transposed.1 { [N, K] } else { [K, N] };
        let contract = Contract {
            lhs: SmallVec::from_slice(&lhs),
            rhs: SmallVec::from_slice(&rhs),
            out: SmallVec::from_slice(&[M, N]),
            acc: dtype,
            panel: None,
        };
        let product = self.contract(contract, a, b)?;
        let (alpha, beta) = scale;
        let inputs: SmallVec<[Value; 2]> = std::iter::once(product).chain(c.filter(|_| beta != 0.0)).collect();
        if inputs.len() == 1 && alpha == 1.0 {
            return Ok(product);
        }
        if inputs.len() == 2 {
            let (full, sum) = (self.shape(product)?, self.broadcast_shape(&inputs)?);
            if !self.graph.same_shape(&full, &sum) {
                let (full, c) = (self.graph.shape_text(&full), self.graph.shape_text(&self.shape(inputs[1])?));
                return invalid(format!("addend {c} does not broadcast to {full}"));
            }
        }
        self.map(&inputs, |e| {
            let mut sum = e.arg(0);
            if alpha != 1.0 {
                let alpha = e.number(dtype, alpha)?;
                sum = e.mul(sum, alpha);
            }
            if inputs.len() == 2 {
                let mut c = e.arg(1);
                if beta != 1.0 {
                    let beta = e.number(dtype, beta)?;
                    c = e.mul(c, beta);
                }
                sum = e.add(sum, c);
            }
            Ok(sum)
        })
    }

    /// A convolution of `x` with an unpacked filter.
    ///
    /// # Errors
    /// If attributes and shapes do not fit, or the window does not fit the input.
    pub fn conv(&mut self, conv: Conv, x: Value, filter: Value) -> Result<Value, BuildError> {
        let (a, b) = (self.shape(x)?, self.shape(filter)?);
        let channel = if conv.channels_last { a.len().checked_sub(1) } else { Some(1) };
        if let (Some(size), Some(per_group)) = (channel.and_then(|i| a.get(i)), b.get(1)) {
            let needed = (per_group * &Dim::from(conv.groups))?;
            let groups = conv.groups;
            self.unify(size, &needed, |g| {
                let (a, b) = (g.shape_text(&a), g.shape_text(&b));
                format!("channels of a convolution of {a} with {b} in {groups} groups")
            })?;
        }
        self.derive(Op::Conv(conv), &[x, filter])
    }

    /// A reduction over sliding windows.
    ///
    /// # Errors
    /// If attributes and shape do not fit, or the window does not fit the input.
    pub fn window(&mut self, window: Window, x: Value) -> Result<Value, BuildError> {
        self.derive(Op::Window(window), &[x])
    }
}
