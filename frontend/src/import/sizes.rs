//! Sizes from operands: what the compiler knows of them, or else symbols that are bound to the data when the model runs.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::Value;

use super::{NodeContext, OpError};

/// The longest list of sizes that data decides.
const MAX_LIST: i64 = 1 << 10;

impl NodeContext<'_> {
    /// The elements of an integer input as sizes of at least 0.
    pub fn sizes(&mut self, n: usize) -> Result<Vec<Dim>, OpError> {
        self.sizes_up_to(n, &Dim::from(DEFAULT_HIGH))
    }

    /// The elements of an integer input as sizes in `0..=most`; those that are known are not checked.
    pub fn sizes_up_to(&mut self, n: usize, most: &Dim) -> Result<Vec<Dim>, OpError> {
        let value = self.input(n)?;
        match self.b.known_dims(value) {
            Some(known) => Ok(known),
            None => self.bind(value, &Dim::ZERO, most),
        }
    }

    /// The one element of an integer input as a size in `0..=most`.
    pub fn size_up_to(&mut self, n: usize, most: &Dim) -> Result<Dim, OpError> {
        match &self.sizes_up_to(n, most)?[..] {
            [size] => Ok(size.clone()),
            other => self.invalid(format!("input {n} has {} elements instead of one", other.len())),
        }
    }

    /// The elements of an integer tensor as sizes between two others. What data decides is bound to fresh symbols here, and
    /// a run in which it lies outside stops.
    pub fn bind(&mut self, value: Value, least: &Dim, most: &Dim) -> Result<Vec<Dim>, OpError> {
        let Some(count) = self.b.tensor(value)?.static_len() else {
            return self.unsupported("a list of sizes whose length is not known when the model is compiled");
        };
        self.check_list(count)?;
        let list = self.b.reshape(value, &[Dim::from(count)])?;
        let prefix = self.node.op_type.to_lowercase();
        Ok(self.b.bind_sizes(list, &prefix, &vec![(least.clone(), most.clone()); count as usize])?)
    }

    /// Refuses lists with more sizes than any tensor has: each becomes a symbol.
    pub fn check_list(&self, count: i64) -> Result<(), OpError> {
        if count > MAX_LIST {
            return self.unsupported(format!("a list of {count} sizes that data decides"));
        }
        Ok(())
    }

    /// The one element of an integer tensor as a size in `0..=most`.
    pub fn bind_one(&mut self, value: Value, most: &Dim) -> Result<Dim, OpError> {
        let mut sizes = self.bind(value, &Dim::ZERO, most)?;
        match sizes.pop().filter(|_| sizes.is_empty()) {
            Some(size) => Ok(size),
            None => self.invalid("a size that is no single number"),
        }
    }

    /// An integer input as an `i64` vector, with its length.
    pub fn vector(&mut self, n: usize) -> Result<(Value, usize), OpError> {
        let value = self.input(n)?;
        let Some(count) = self.b.tensor(value)?.static_len() else {
            return self.unsupported(format!("input {n} of a length that is not known when the model is compiled"));
        };
        self.check_list(count)?;
        let value = self.b.reshape(value, &[Dim::from(count)])?;
        Ok((self.b.cast(value, DType::I64)?, count as usize))
    }

    /// One element of a vector, of rank 0.
    pub fn element(&mut self, vector: Value, i: usize) -> Result<Value, OpError> {
        let part = self.b.slice_axis(vector, 0, &Dim::from(i as i64), &Dim::ONE, 1)?;
        Ok(self.b.reshape(part, &[])?)
    }
}
