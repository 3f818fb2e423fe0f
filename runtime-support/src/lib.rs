//! Runs models compiled by onnxc: the safe Rust face of the C ABI in `include/onnxc.h`.
//!
//! Two ways lead to a run:
//!
//! - [`include_model!`] brings in what a build script made with `onnxc::build`: a module with typed inputs and outputs, for
//!   a model that is linked into the program. It needs no C compiler and, with `default-features = false`, no `std`; the
//!   feature `alloc` lets such models own their memory, `rayon` runs their tasks on rayon's threads. [`linked`] is what
//!   those modules stand on.
//! - With the feature `sessions`, which is on by default, a `Model` is a checked descriptor, linked into the program or
//!   placed in memory by a loader; a `Session` runs it with an arena and outputs of its own, on one thread or on a `Pool`.
//!   Arenas, pool and sessions are the C support library of `csrc/`, so that C and Rust programs run the same code.
//!
//! [`abi`] mirrors the header.

#![cfg_attr(not(feature = "sessions"), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod abi;
#[cfg(feature = "sessions")]
mod cuda;
mod dtype;
#[cfg(feature = "sessions")]
mod error;
pub mod linked;
#[cfg(feature = "sessions")]
mod model;
#[cfg(feature = "sessions")]
mod pool;
#[cfg(feature = "sessions")]
mod session;
mod status;
#[cfg(feature = "sessions")]
mod strings;
#[cfg(feature = "sessions")]
mod tensor;
#[cfg(feature = "sessions")]
mod weights;

#[cfg(feature = "sessions")]
pub use cuda::{cuda_functions, cuda_message};
pub use dtype::{DataType, Element};
#[cfg(feature = "sessions")]
pub use error::{Error, OptionalBytes};
pub use linked::{Array, Block, Parallel, RunError, View};
#[cfg(feature = "sessions")]
pub use model::{Dim, Kind, Memory, Model, Port, Symbol};
#[cfg(feature = "sessions")]
pub use pool::Pool;
#[cfg(feature = "sessions")]
pub use session::{Allocator, Session, Trace};
pub use status::Status;
#[cfg(feature = "sessions")]
pub use strings::STRING_FUNCTIONS;
#[cfg(feature = "sessions")]
pub use tensor::TensorView;
#[cfg(feature = "sessions")]
pub use weights::Weights;

/// The text of `onnxc.h`, which a generated header needs beside it.
pub const HEADER: &str = include_str!("../include/onnxc.h");

/// What else C and C++ programs build with, as (path, text): the C++ wrapper, and what finds all of it for CMake and
/// pkg-config. `@VERSION@` stands for the version.
pub const PACKAGE_FILES: [(&str, &str); 4] = [
    ("include/onnxc.hpp", include_str!("../include/onnxc.hpp")),
    ("cmake/onnxc-config.cmake", include_str!("../cmake/onnxc-config.cmake")),
    ("cmake/onnxc-config-version.cmake", include_str!("../cmake/onnxc-config-version.cmake")),
    ("onnxc.pc", include_str!("../onnxc.pc")),
];

/// The support library as (path, text): what a C program compiles to use pools and sessions.
pub const SUPPORT_SOURCES: [(&str, &str); 13] = [
    ("include/onnxc.h", HEADER),
    ("include/onnxc_support.h", include_str!("../include/onnxc_support.h")),
    ("csrc/cuda.c", include_str!("../csrc/cuda.c")),
    ("csrc/cuda_device.c", include_str!("../csrc/cuda_device.c")),
    ("csrc/cuda_internal.h", include_str!("../csrc/cuda_internal.h")),
    ("csrc/memory.c", include_str!("../csrc/memory.c")),
    ("csrc/pool.c", include_str!("../csrc/pool.c")),
    ("csrc/session.c", include_str!("../csrc/session.c")),
    ("csrc/status.c", include_str!("../csrc/status.c")),
    ("csrc/strings.c", include_str!("../csrc/strings.c")),
    ("csrc/strings_numbers.c", include_str!("../csrc/strings_numbers.c")),
    ("csrc/strings_text.c", include_str!("../csrc/strings_text.c")),
    ("csrc/weights.c", include_str!("../csrc/weights.c")),
];
