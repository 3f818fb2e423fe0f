//! tract, with its optimisations and one thread pool for its matrix products.

use std::path::Path;
use std::sync::Arc;

use tract_onnx::prelude::*;

use crate::npy::{Array, Elements};
use crate::{Error, Peer};

/// A plan with its inputs.
pub struct Tract {
    plan: Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
}

/// Loads and optimises the model for inputs of these shapes.
pub fn load(path: &Path, inputs: Vec<Array>, threads: usize) -> Result<Tract, Error> {
    if threads > 1 {
        let executor = tract_linalg::multithread::Executor::multithread(threads);
        tract_linalg::multithread::set_default_executor(executor);
    }
    let mut model = tract_onnx::onnx().model_for_path(path)?;
    let mut values = TVec::new();
    for (i, array) in inputs.into_iter().enumerate() {
        let tensor = match array.elements {
            Elements::F32(elements) => Tensor::from_shape(&array.shape, &elements)?,
            Elements::I64(elements) => Tensor::from_shape(&array.shape, &elements)?,
        };
        model.set_input_fact(i, InferenceFact::dt_shape(tensor.datum_type(), tensor.shape()))?;
        values.push(tensor.into_tvalue());
    }
    let plan = model.into_optimized()?.into_runnable()?;
    Ok(Tract { plan, inputs: values })
}

impl Peer for Tract {
    fn run(&mut self) -> Result<(), Error> {
        self.plan.run(self.inputs.clone())?;
        Ok(())
    }
}
