//! The driver: a model through every stage of the compiler, to a file or into this process.

#[cfg(feature = "run")]
mod checked;
mod compile;
mod contract;
#[cfg(feature = "run")]
mod execute;
mod failures;
mod gpu;
#[cfg(feature = "run")]
mod guard;
mod interface;
#[cfg(feature = "run")]
mod libraries;
mod options;
#[cfg(feature = "run")]
mod ports;
#[cfg(feature = "run")]
mod remote;

pub use compile::{Form, Output, Report, check, compile_to_file, emit, emit_graph, import, prefix_of, write_text};
#[cfg(feature = "run")]
pub use execute::{Executable, Stats, Timed};
pub use interface::{Extent, Interface, InterfacePort, InterfaceSymbol, MemoryClass};
pub use onnxc_backend::cranelift::compile::WeightPlacement;
pub use options::{
    Budget, Checks, CompileOptions, DimBinding, Engine, FloatMode, OptLevel, Precision, Specialization, StatePattern,
    parse_bytes,
};
#[cfg(feature = "run")]
pub use ports::PortInfo;
#[cfg(feature = "run")]
pub use remote::{Answer, Ending, RemoteModel, RemoteProgram};
