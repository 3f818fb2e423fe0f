//! A shared library made by onnxc, through the runtime crate that its users have.

use std::path::Path;
use std::sync::Arc;

use libloading::{Library, Symbol};
use onnxc_runtime::{Model, Session, TensorView};

use crate::npy::{Array, Elements};
use crate::{Error, Peer};

/// A session on a model.
pub struct Compiled {
    session: Session,
    inputs: Vec<(Vec<i64>, Elements)>,
}

/// Loads the library at `path` and plans for these inputs.
pub fn load(path: &Path, inputs: Vec<Array>, threads: usize) -> Result<Compiled, Error> {
    let stem = path.file_stem().and_then(|s| s.to_str()).ok_or("the model's name is no text")?;
    let name = stem.strip_prefix("lib").unwrap_or(stem);
    // SAFETY: a library made by onnxc has no constructors.
    let library = unsafe { Library::new(path) }?;
    // SAFETY: the descriptor has the model's name and is data; only its address is taken.
    let descriptor = unsafe {
        let symbol: Symbol<*const ()> = library.get(name)?;
        *symbol as *const ()
    };
    // SAFETY: onnxc wrote the descriptor, and the model keeps the library loaded.
    let model = unsafe { Model::from_raw(descriptor.cast(), Arc::new(library)) }?;
    let inputs: Vec<_> =
        inputs.into_iter().map(|a| (a.shape.iter().map(|&n| n as i64).collect::<Vec<_>>(), a.elements)).collect();
    let mut dims = vec![1; model.symbols().len()];
    for (port, (shape, _)) in model.inputs().iter().zip(&inputs) {
        for (dim, &extent) in port.dims.iter().flatten().zip(shape) {
            if let onnxc_runtime::Dim::Symbol(symbol) = dim {
                dims[*symbol] = extent;
            }
        }
    }
    Ok(Compiled { session: Session::new(&model, &dims, threads)?, inputs })
}

impl Peer for Compiled {
    fn run(&mut self) -> Result<(), Error> {
        let views: Vec<TensorView<'_>> = self
            .inputs
            .iter()
            .map(|(shape, elements)| match elements {
                Elements::F32(elements) => TensorView::new(shape, elements),
                Elements::I64(elements) => TensorView::new(shape, elements),
            })
            .collect::<Result<_, _>>()?;
        Ok(self.session.run(&views)?)
    }
}
