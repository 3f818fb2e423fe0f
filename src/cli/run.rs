//! `onnxc run`: compiles a model in memory and runs it once.

use onnxc::diagnostics::Failure;
use onnxc::driver::{self, Executable};
use onnxc::values::{describe, write_npy, write_pb};

use super::args::{MessageFormat, OutputFormat, RunArgs};
use super::output::say;
use super::{print_diagnostic, values};

/// Runs the command.
pub fn run(args: &RunArgs, format: MessageFormat) -> Result<u8, Failure> {
    let options = args.process.options(&driver::prefix_of(&args.model));
    let mut executable = Executable::load(&args.model, args.engine.into(), args.threads, &options)?;
    for warning in executable.warnings() {
        print_diagnostic(warning, format);
    }
    let inputs = values::inputs(&args.inputs, executable.inputs())?;
    let outputs = executable.run(&inputs)?;
    let Some(dir) = &args.output_dir else {
        for (port, value) in executable.outputs().iter().zip(&outputs) {
            say!("{}: {}", port.name, describe(value))?;
        }
        return Ok(0);
    };
    std::fs::create_dir_all(dir).map_err(|e| Failure::io(dir, &e))?;
    for (i, (port, value)) in executable.outputs().iter().zip(&outputs).enumerate() {
        match args.output_format {
            OutputFormat::Npy => write_npy(&dir.join(format!("output_{i}.npy")), value)?,
            OutputFormat::Pb => write_pb(&dir.join(format!("output_{i}.pb")), &port.name, value)?,
        }
    }
    Ok(0)
}
