//! Plain compilation: a model to a file whose extension decides its form, or an intermediate form as text.

use std::path::{Path, PathBuf};

use onnxc::diagnostics::Failure;
use onnxc::driver::{self, Budget, Form, Output};
use onnxc_ir::program::Remark;
use serde_json::json;

use super::args::{CompileArgs, Emit, MessageFormat};
use super::output::{self, note};
use super::print_diagnostic;

/// Runs the command.
pub fn run(args: &CompileArgs, format: MessageFormat) -> Result<u8, Failure> {
    let model = args.model.as_deref().expect("clap asks for the model unless there is a subcommand");
    let name = match (&args.name, &args.output) {
        (Some(name), _) => name.clone(),
        (None, Some(output)) => driver::prefix_of(output),
        (None, None) => driver::prefix_of(model),
    };
    let mut options = args.codegen.options(&name);
    options.budget = Budget { arena: args.max_arena, code: args.max_code };
    options.weights = args.weights.into();
    if let (Some(Emit::TensorIr), Some(path)) = (args.emit, &args.output) {
        return driver::emit_graph(model, path, &options).map(|()| 0);
    }
    if let Some(emit) = args.emit {
        let text = driver::emit(model, form(emit), &options)?;
        return match &args.output {
            Some(path) => driver::write_text(path, &text).map(|()| 0),
            None => output::print(format_args!("{text}")).map(|()| 0),
        };
    }
    let output = args.output.as_deref().expect("clap asks for -o unless there is --emit");
    let report = driver::compile_to_file(model, &output_form(output, args)?, &options)?;
    if let Some(depfile) = &args.depfile {
        let sources = std::iter::once(model).chain(report.external_files.iter().map(PathBuf::as_path));
        driver::write_text(depfile, &dependencies(output, sources))?;
    }
    for warning in &report.warnings {
        print_diagnostic(warning, format);
    }
    if let Some(text) = &args.remarks {
        report.remarks.iter().for_each(|remark| print_remark(remark, text, format));
    }
    if args.verbose {
        note!(
            "{}: {} for {}: {} bytes of code, {} of weights, {} of arena, {:.2} s",
            output.display(),
            name,
            report.target,
            report.code_bytes,
            report.weight_bytes,
            report.interface.arena_bytes().map_or_else(|| "dynamic".to_string(), |bytes| bytes.to_string()),
            report.seconds
        );
    }
    Ok(0)
}

/// Prints a remark to stderr if it contains the text.
fn print_remark(remark: &Remark, text: &str, format: MessageFormat) {
    let line = format!("remark: {}: {} [{}]", remark.origin, remark.text, remark.pass);
    if !line.contains(text) {
        return;
    }
    match format {
        MessageFormat::Text => note!("{line}"),
        MessageFormat::Json => {
            let Remark { pass, origin, text } = remark;
            note!("{}", json!({ "severity": "remark", "pass": pass, "node": origin, "message": text }));
        }
    }
}

/// A rule of make: what OUT depends on.
fn dependencies<'p>(output: &Path, sources: impl Iterator<Item = &'p Path>) -> String {
    let escaped = |path: &Path| path.display().to_string().replace('$', "$$").replace('#', "\\#").replace(' ', "\\ ");
    let mut rule = format!("{}:", escaped(output));
    for source in sources {
        rule.push(' ');
        rule.push_str(&escaped(source));
    }
    rule + "\n"
}

fn form(emit: Emit) -> Form {
    match emit {
        Emit::TensorIr => Form::TensorIr,
        Emit::LoopIr => Form::LoopIr,
        Emit::Program => Form::Program,
        Emit::Clif => Form::Clif,
        Emit::Asm => Form::Asm,
        Emit::Header => Form::Header,
        Emit::Contract => Form::Contract,
    }
}

/// What to write, by the extension of OUT.
fn output_form<'a>(output: &'a Path, args: &'a CompileArgs) -> Result<Output<'a>, Failure> {
    let extension = output.extension().and_then(|e| e.to_str()).unwrap_or("");
    match extension {
        "o" | "obj" => Ok(Output::Object(output)),
        "a" | "lib" => Ok(Output::Archive(output)),
        "ptx" => Ok(Output::Ptx(output)),
        "so" => Ok(Output::SharedLibrary { path: output, linker: args.linker.as_deref() }),
        _ => Err(Failure::usage(format!(
            "{}: OUT must end in .o, .obj, .a, .lib, .so or .ptx, which decides what is written",
            output.display()
        ))),
    }
}
