//! The command line: its arguments, and the dispatch to one file per command.
//!
//! Commands return the exit status or a [`Failure`](onnxc::diagnostics::Failure); only `main` prints failures.

mod args;
mod bench;
mod check;
mod compile;
mod explain;
mod inspect;
mod output;
mod peak;
mod progress;
mod remote_test;
mod run;
mod support;
mod targets;
mod test;
mod values;
mod worker;

use clap::Parser;
use onnxc::diagnostics::Diagnostic;

use args::{Cli, Command, MessageFormat};
use output::note;

/// Parses the arguments, runs the command, prints what went wrong; returns the exit status.
pub fn main() -> u8 {
    let cli = Cli::parse();
    let format = cli.message_format;
    let result = match cli.command {
        Some(Command::Run(args)) => run::run(&args, format),
        Some(Command::Bench(args)) => bench::run(&args, format),
        Some(Command::Test(args)) => test::run(&args),
        Some(Command::TestWorker(args)) => worker::run(&args),
        Some(Command::Check(args)) => check::run(&args, format),
        Some(Command::Inspect(args)) => inspect::run(&args, format),
        Some(Command::Peak(args)) => peak::run(&args),
        Some(Command::Support(args)) => support::run(&args),
        Some(Command::Targets) => targets::run(),
        Some(Command::Explain(args)) => explain::run(&args),
        None => compile::run(&cli.compile, format),
    };
    match result {
        Ok(status) => status,
        Err(failure) => {
            for diagnostic in &failure.diagnostics {
                print_diagnostic(diagnostic, format);
            }
            failure.kind.exit_code()
        }
    }
}

/// Writes one diagnostic to stderr: text, or one JSON object on a line.
fn print_diagnostic(diagnostic: &Diagnostic, format: MessageFormat) {
    match format {
        MessageFormat::Text => note!("{diagnostic}"),
        MessageFormat::Json => note!("{}", diagnostic.to_json()),
    }
}
