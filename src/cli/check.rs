//! `onnxc check`: everything in a model that cannot be compiled, at once.

use onnxc::diagnostics::Failure;
use onnxc::driver;

use super::args::{CheckArgs, MessageFormat};
use super::output::say;
use super::print_diagnostic;

/// Runs the command.
pub fn run(args: &CheckArgs, format: MessageFormat) -> Result<u8, Failure> {
    let options = args.codegen.options(&driver::prefix_of(&args.model));
    for warning in driver::check(&args.model, &options)? {
        print_diagnostic(&warning, format);
    }
    say!("{}: can be compiled", args.model.display())?;
    Ok(0)
}
