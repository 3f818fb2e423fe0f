//! The way of a graph through lowering, from top to bottom.

use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::Program;
use onnxc_ir::tensor::Graph;

use crate::{LowerError, passes, program};

/// What the caller decides about lowering.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine to schedule for.
    pub machine: MachineModel,
}

/// A pass: its name and what it does.
pub type Pass = (&'static str, fn(&mut Graph));

/// The passes over the Tensor IR, in order.
pub const PASSES: &[Pass] = &[
    // Composites without a schedule become their definition.
    ("inline_composites", passes::inline_composites::run),
    // Loops of known length and decided branches become straight lines.
    ("unroll_loops", passes::unroll_loops::run),
    // Pairs of elementwise operations become one expression, so that a chain after an anchor has one user each.
    ("fuse_elementwise", passes::fuse_elementwise::run),
    // Cuts what is left into groups; from here on every node is a kernel, a constant or a second name.
    ("fuse", passes::fuse::run),
];

/// Lowers a graph. `observe` is called after each pass with its name.
pub fn lower(mut graph: Graph, options: &Options, mut observe: impl FnMut(&str, &Graph)) -> Result<Program, LowerError> {
    for (name, pass) in PASSES {
        pass(&mut graph);
        if cfg!(debug_assertions) {
            if let Err(errors) = onnxc_ir::tensor::verify::verify(&graph) {
                panic!("after `{name}`: {errors}");
            }
        }
        observe(name, &graph);
    }
    program::lower(graph, &options.machine)
}
