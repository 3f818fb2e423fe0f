//! What the user is told when something is wrong: one shape for every message, as text for people and as JSON for tools.
//!
//! Each crate has its own error enum; `driver` turns them into a [`Failure`] here. Every code has a paragraph in
//! [`EXPLANATIONS`], which `onnxc explain CODE` prints.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

/// How bad it is. Only errors make a command fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The command cannot do what it was asked to.
    Error,
    /// The command goes on, perhaps not in the way that was meant.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// What kind of failure ends a command; decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A comparison differs, the compiled model returned an error, or it is over its budget: 1.
    Run,
    /// The command line makes no sense: 2.
    Usage,
    /// The model is valid, but uses what onnxc does not compile: 3.
    Unsupported,
    /// The model breaks ONNX's rules: 4.
    InvalidModel,
    /// A file cannot be read or written: 5.
    Io,
}

impl FailureKind {
    /// The process exit status.
    pub fn exit_code(self) -> u8 {
        match self {
            FailureKind::Run => 1,
            FailureKind::Usage => 2,
            FailureKind::Unsupported => 3,
            FailureKind::InvalidModel => 4,
            FailureKind::Io => 5,
        }
    }
}

/// Where in the user's material a diagnostic points.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Location {
    /// No particular place.
    #[default]
    None,
    /// A file as a whole.
    File(String),
    /// A node of the model: a path such as `encoder/layer.0/MatMul_12`, with its operator when that is known.
    Node {
        /// Node name, with the names of the enclosing nodes before it.
        path: String,
        /// `domain::Operator-version`.
        operator: Option<String>,
    },
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A code of [`EXPLANATIONS`].
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// One sentence without a full stop.
    pub message: String,
    /// What the message is about.
    pub location: Location,
    /// Further facts, one a line.
    pub notes: Vec<String>,
    /// What the user could do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a location.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            location: Location::None,
            notes: Vec::new(),
            help: None,
        }
    }

    /// A warning without a location.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Points the diagnostic at a file.
    pub fn in_file(mut self, path: &Path) -> Self {
        self.location = Location::File(path.display().to_string());
        self
    }

    /// Points the diagnostic at a node.
    pub fn at_node(mut self, path: impl Into<String>, operator: Option<String>) -> Self {
        self.location = Location::Node { path: path.into(), operator };
        self
    }

    /// Adds a fact.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a suggestion.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// One JSON object, as `--message-format json` prints it on a line.
    pub fn to_json(&self) -> Value {
        let location = match &self.location {
            Location::None => Value::Null,
            Location::File(file) => json!({ "file": file }),
            Location::Node { path, operator } => json!({ "node": path, "operator": operator }),
        };
        json!({
            "code": self.code,
            "severity": self.severity.as_str(),
            "message": self.message,
            "location": location,
            "notes": self.notes,
            "help": self.help,
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity.as_str(), self.code, self.message)?;
        match &self.location {
            Location::None => {}
            Location::File(file) => write!(f, "\n  --> {file}")?,
            Location::Node { path, operator: None } => write!(f, "\n  --> node {path:?}")?,
            Location::Node { path, operator: Some(operator) } => write!(f, "\n  --> node {path:?} ({operator})")?,
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Why a command could not do its work: at least one diagnostic, and the kind that decides the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit status.
    pub kind: FailureKind,
    /// Everything that is wrong, in the model's order.
    pub diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// A failure with one diagnostic.
    pub fn new(kind: FailureKind, diagnostic: Diagnostic) -> Self {
        Self { kind, diagnostics: vec![diagnostic] }
    }

    /// A wrong command line, found after clap accepted its form.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Usage, Diagnostic::error("C001", message))
    }

    /// A file that cannot be read or written.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::new(FailureKind::Io, Diagnostic::error("I001", error.to_string()).in_file(path))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// `(code, title, explanation)` of every diagnostic, sorted by code.
pub const EXPLANATIONS: &[(&str, &str, &str)] = &[
    (
        "B001",
        "the compiled model is over its budget",
        "`--max-arena` and `--max-code` say how much a model may take; nothing is written where it takes more. `--emit \
         contract` shows all figures. Smaller inputs make a smaller arena, -Os makes smaller code.",
    ),
    (
        "C001",
        "the command line asks for something that cannot be done",
        "The options are well-formed one by one, but not together or not for this model: an input that the model does \
         not have, a dimension name that no input uses, a target that does not exist.\n`onnxc inspect MODEL` lists the \
         model's inputs, outputs and dimension names; `onnxc targets` lists the targets.",
    ),
    (
        "I001",
        "a file cannot be read or written",
        "The operating system refused. Output files appear whole or not at all, so nothing half-written is left behind.",
    ),
    (
        "I002",
        "an input or reference file is not what its name says",
        "`.npy` files must be NumPy format 1 to 3, little-endian and C-ordered or Fortran-ordered; `.pb` files must hold a \
         TensorProto, SequenceProto or OptionalProto, as ONNX's backend tests do.",
    ),
    (
        "L001",
        "the object could not be linked or loaded",
        "A shared library needs a linker: `--linker PROGRAM`, or cc, ld.lld or rust-lld on the PATH. `.o` and `.a` need \
         none, and `run`, `bench` and `test` link in memory.",
    ),
    (
        "M001",
        "the file is not an ONNX model",
        "The bytes do not parse as a ModelProto. Text-format models, ORT-format models and Git LFS pointers are common \
         reasons.",
    ),
    (
        "M002",
        "the model breaks ONNX's rules",
        "A node reads a value that nothing defines, a value is defined twice, an attribute that the operator requires is \
         missing, a shape or type rule of the operator does not hold, or a tensor's data does not have the length that \
         its dims say.\n`python -m onnx.checker` gives a second opinion.",
    ),
    (
        "M003",
        "external data is missing or not allowed",
        "A tensor's data lies in another file, which must be beneath the model's folder, a regular file without symbolic \
         links on the way, and as long as the tensor's offset and length say.",
    ),
    (
        "M004",
        "a declared shape contradicts the inferred one",
        "The shape written in the model for a value differs from the one its operators give. onnxc goes by the operators.",
    ),
    (
        "R001",
        "the compiled model returned an error",
        "The compiled model checks the inputs it is given (number, dtype, rank, dimensions) and what it reads from them \
         (indices, data-dependent sizes). Its status says which check failed.",
    ),
    (
        "R002",
        "an output differs from the reference",
        "An element is outside `atol + rtol * |reference|`, or the dtype or shape is another one.",
    ),
    (
        "U001",
        "onnxc does not compile this operator",
        "The model is valid, but one of its operators has no row in onnxc's operator table, or none for this opset \
         version. All such operators of a model are listed at once.",
    ),
    (
        "U002",
        "onnxc does not compile this form of the operator",
        "The operator is known, but not with this attribute, this dtype, or an input that would have to be a constant.",
    ),
    (
        "U003",
        "onnxc does not generate code for this",
        "The model was imported, but a later stage has no code for one of its parts on this target.",
    ),
    (
        "U004",
        "onnxc does not take inputs of this type",
        "The model is valid, but an input has no declared rank, or is of a kind that compiled models do not take.",
    ),
];

/// The title and text of a code, in any case.
pub fn explain(code: &str) -> Option<(&'static str, &'static str, &'static str)> {
    EXPLANATIONS.iter().copied().find(|(c, _, _)| c.eq_ignore_ascii_case(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(EXPLANATIONS.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn text_and_json_carry_the_same_facts() {
        let d = Diagnostic::error("U001", "operator Foo is not supported")
            .at_node("enc/Foo_3", Some("ai.onnx::Foo-17".into()))
            .note("2 nodes use it")
            .help("export with opset 16");
        assert_eq!(
            d.to_string(),
            "error[U001]: operator Foo is not supported\n  --> node \"enc/Foo_3\" (ai.onnx::Foo-17)\n  \
             note: 2 nodes use it\n  help: export with opset 16"
        );
        let j = d.to_json();
        assert_eq!(j["location"]["node"], "enc/Foo_3");
        assert_eq!(j["notes"][0], "2 nodes use it");
    }

    #[test]
    fn explain_ignores_case() {
        assert!(explain("u001").is_some());
        assert!(explain("X999").is_none());
    }
}
