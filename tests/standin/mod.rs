//! What tests on the stand-in driver need: its library under the driver's name, and models that `cargo xtask setup` makes.

use std::path::{Path, PathBuf};

// The library is built because the tests depend on it.
use onnxc_standin_cuda as _;

/// What `cargo xtask setup` makes in `build/NAME`, or the folder that the variable names.
pub fn built(variable: &str, name: &str) -> PathBuf {
    let folder = std::env::var_os(variable)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build").join(name), PathBuf::from);
    assert!(folder.is_dir(), "{}: nothing there; run `cargo xtask setup`", folder.display());
    folder
}

/// A folder with the stand-in as `libcuda.so.1`.
pub fn driver() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("the test's own path");
    let library = program.with_file_name("libonnxc_standin_cuda.so");
    assert!(library.exists(), "{} is not there", library.display());
    std::os::unix::fs::symlink(&library, folder.path().join("libcuda.so.1")).expect("a link");
    folder
}
