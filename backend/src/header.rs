//! The C header that lies beside a compiled model.
//!
//! It carries the whole ABI under the ABI's own include guard, so that the object and this one file are all that a C
//! or C++ program needs, and several models' headers go into one source file.

use std::fmt::Write;

use crate::object::{ObjectError, symbol_names};

/// The declarations that all models share.
pub const ABI_HEADER: &str = include_str!("../../runtime-support/include/onnxc.h");

/// An input or output, as the header's comment shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderPort {
    /// Its name in the model; any text.
    pub name: String,
    /// Element type and shape, such as `f32[batch, 3, 224, 224]`; any text.
    pub what: String,
}

/// What the header says about a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderModel {
    /// The symbols' prefix.
    pub prefix: String,
    /// The target's name.
    pub target: String,
    /// In the order of the arrays that `PREFIX_run` takes.
    pub inputs: Vec<HeaderPort>,
    /// In the order of the arrays that `PREFIX_run` takes.
    pub outputs: Vec<HeaderPort>,
    /// Names of the symbolic dims, in the order that `PREFIX_plan` takes.
    pub symbols: Vec<String>,
    /// Further sentences, one a line, such as the arena's size.
    pub notes: Vec<String>,
}

/// The text of `PREFIX.h`: C11 and C++11, the same for equal models.
pub fn text(model: &HeaderModel) -> Result<String, ObjectError> {
    let prefix = &model.prefix;
    symbol_names::check_prefix(prefix)?;
    let mut out = format!("/* {prefix}.h: a model compiled by onnxc for {}.\n", comment(&model.target));
    for (title, ports) in [("Inputs", &model.inputs), ("Outputs", &model.outputs)] {
        let _ = write!(out, " *\n * {title}, in the order of {prefix}_run's arrays:\n");
        for (index, port) in ports.iter().enumerate() {
            let _ = writeln!(out, " *   {index}  {}: {}", comment(&port.name), comment(&port.what));
        }
        if ports.is_empty() {
            out.push_str(" *   none\n");
        }
    }
    if !model.symbols.is_empty() {
        let names: Vec<String> = model.symbols.iter().map(|name| comment(name)).collect();
        let _ = write!(out, " *\n * Dims, in the order of {prefix}_plan's array: {}.\n", names.join(", "));
    }
    for note in &model.notes {
        let _ = write!(out, " *\n * {}\n", comment(note));
    }
    out.push_str(" *\n * The comment that follows explains the interface; onnxc wrote this file. */\n\n");
    out.push_str(ABI_HEADER.trim_end());
    let guard = format!("ONNXC_MODEL_{prefix}_H");
    let _ = write!(
        out,
        "\n\n#if ONNXC_ABI_VERSION != {version}\n\
         #error \"{prefix} was compiled for version {version} of the ABI; another one was included before\"\n\
         #endif\n\n\
         #ifndef {guard}\n#define {guard}\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n\
         ONNXC_DECLARE_MODEL({prefix});\n\n\
         #ifdef __cplusplus\n}}\n#endif\n\n\
         #endif\n",
        version = abi_version(),
    );
    Ok(out)
}

/// The version in the text of the ABI's header.
fn abi_version() -> &'static str {
    let definition = ABI_HEADER.lines().find_map(|line| line.strip_prefix("#define ONNXC_ABI_VERSION "));
    definition.expect("the ABI's header defines its version").trim()
}

/// Any text as part of a C comment: it can neither end the comment nor begin another.
fn comment(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() || c == '\\' { '?' } else { c }).collect();
    // Twice, as `*/*` holds both.
    printable.replace("*/", "* /").replace("/*", "/ *").replace("??/", "? ?/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_in_the_comment() {
        for name in ["*/ int x; /*", "*/*/", "/*/", "a\nb", "end\\"] {
            let safe = comment(name);
            assert!(!safe.contains("*/") && !safe.contains("/*") && !safe.contains('\n'), "{safe:?}");
        }
    }
}
