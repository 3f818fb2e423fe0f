//! Runs models compiled by onnxc: the safe Rust face of the C ABI in `include/onnxc.h`.
//!
//! [`abi`] mirrors the header. A [`Model`] is a checked descriptor, linked into the program or placed in memory by a
//! loader; a [`Session`] runs it with an arena and outputs of its own, on one thread or on a [`Pool`]. Arenas, pool and
//! sessions are the C support library of `csrc/`, so that C and Rust programs run the same code.

pub mod abi;
mod error;
mod model;
mod pool;
mod session;
mod status;
mod tensor;

pub use error::{Error, OptionalBytes};
pub use model::{Dim, Kind, Memory, Model, Port, Symbol};
pub use pool::Pool;
pub use session::{Session, Trace};
pub use status::Status;
pub use tensor::{DataType, Element, TensorView};

/// The text of `onnxc.h`, which a generated header needs beside it.
pub const HEADER: &str = include_str!("../include/onnxc.h");

/// The support library as (path, text): what a C program compiles to use pools and sessions.
pub const SUPPORT_SOURCES: [(&str, &str); 6] = [
    ("include/onnxc.h", HEADER),
    ("include/onnxc_support.h", include_str!("../include/onnxc_support.h")),
    ("csrc/memory.c", include_str!("../csrc/memory.c")),
    ("csrc/pool.c", include_str!("../csrc/pool.c")),
    ("csrc/session.c", include_str!("../csrc/session.c")),
    ("csrc/status.c", include_str!("../csrc/status.c")),
];
