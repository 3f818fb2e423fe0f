//! rten, with weights packed when the model is loaded and a pool of as many threads as asked for.

use std::path::Path;
use std::sync::Arc;

use rten::{Model, ModelOptions, RunOptions, ThreadPool, Value};

use crate::npy::{Array, Elements};
use crate::{Error, Peer};

/// A model with its inputs.
pub struct Rten {
    model: Model,
    inputs: Vec<Value>,
    options: RunOptions,
}

/// Loads the model.
pub fn load(path: &Path, inputs: Vec<Array>, threads: usize) -> Result<Rten, Error> {
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
    let value = |array: Array| -> Result<Value, Error> {
        Ok(match array.elements {
            Elements::F32(elements) => Value::from_shape(&array.shape, elements)?,
            // The library has no 64-bit integers: it takes those of a model for 32-bit ones.
            Elements::I64(elements) => {
                Value::from_shape(&array.shape, elements.into_iter().map(|e| e as i32).collect::<Vec<_>>())?
            }
        })
    };
    let inputs = inputs.into_iter().map(value).collect::<Result<_, _>>()?;
    let pool = ThreadPool::with_num_threads(threads);
    Ok(Rten { model, inputs, options: RunOptions::default().with_thread_pool(Some(Arc::new(pool))) })
}

impl Peer for Rten {
    fn run(&mut self) -> Result<(), Error> {
        let ids = self.model.input_ids();
        let inputs = ids.iter().zip(&self.inputs).map(|(&id, value)| (id, value.into())).collect();
        self.model.run(inputs, self.model.output_ids(), Some(self.options.clone()))?;
        Ok(())
    }
}
