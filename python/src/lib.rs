//! The part of the Python package that is Rust: a model is compiled and loaded here; `onnxc/__init__.py` runs it through
//! its C interface, on NumPy's memory.

use std::path::PathBuf;

use onnxc::driver::{CompileOptions, Engine, Executable, prefix_of};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// A compiled model in this process. Its code is there as long as this object is.
#[pyclass(frozen)]
struct Loaded {
    // Never run here: a session's memory would be one thread's.
    executable: std::sync::Mutex<Executable>,
}

#[pymethods]
impl Loaded {
    /// The address of the model's descriptor, an `onnxc_model` of `onnxc.h`.
    #[getter]
    fn descriptor(&self) -> usize {
        let executable = self.executable.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let model = executable.model().expect("the model was compiled");
        std::ptr::from_ref(model.raw()).addr()
    }
}

/// Compiles a model for this process.
#[pyfunction]
fn compile(
    py: Python<'_>,
    path: PathBuf,
    target: String,
    dims: Vec<String>,
    fp: &str,
    opt_level: &str,
) -> PyResult<Loaded> {
    let wrong = |message: String| PyValueError::new_err(message);
    let mut options = CompileOptions::new(prefix_of(&path));
    options.target = target;
    options.dims = dims.iter().map(|dim| dim.parse()).collect::<Result<_, _>>().map_err(wrong)?;
    options.fp = match fp {
        "default" => onnxc::driver::FloatMode::Default,
        "strict" => onnxc::driver::FloatMode::Strict,
        _ => return Err(wrong(format!("fp is `default` or `strict`, not `{fp}`"))),
    };
    options.opt_level = opt_level.parse().map_err(wrong)?;
    let executable = py.detach(|| Executable::load(&path, Engine::Native, 1, &options));
    let executable = executable.map_err(|failure| match failure.kind {
        onnxc::diagnostics::FailureKind::Io => PyOSError::new_err(failure.to_string()),
        _ => PyValueError::new_err(failure.to_string()),
    })?;
    Ok(Loaded { executable: std::sync::Mutex::new(executable) })
}

/// What the GPU driver said about the last failure of a run of this thread.
#[pyfunction]
fn cuda_message() -> String {
    onnxc_runtime::cuda_message()
}

/// The module.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Loaded>()?;
    module.add_function(wrap_pyfunction!(compile, module)?)?;
    module.add_function(wrap_pyfunction!(cuda_message, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
