//! `onnxc explain`: the paragraph behind a diagnostic's code.

use onnxc::diagnostics::{EXPLANATIONS, Failure, explain};

use super::args::ExplainArgs;
use super::output::say;

/// Prints one explanation, or the list of codes.
pub fn run(args: &ExplainArgs) -> Result<u8, Failure> {
    let Some(code) = &args.code else {
        for (code, title, _) in EXPLANATIONS {
            say!("{code}  {title}")?;
        }
        return Ok(0);
    };
    let Some((code, title, text)) = explain(code) else {
        return Err(Failure::usage(format!("there is no code {code:?}; `onnxc explain` lists them all")));
    };
    say!("{code}: {title}\n\n{text}")?;
    Ok(0)
}
