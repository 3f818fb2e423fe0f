//! Loop IR to machine code.
//!
//! - [`target`]: what is compiled for, by name.
//! - [`object`]: compiled functions, descriptors and weights to object files, archives and images.
//! - [`loader`]: an object into this process.
//! - [`link`]: shared libraries, by a linker of the system.
//! - [`header`]: the C header beside an object.

pub mod cranelift;
pub mod header;
pub mod link;
pub mod loader;
mod machine;
pub mod neon;
pub mod object;
pub mod output_file;
pub mod ptx;
pub mod target;
pub mod vector;
