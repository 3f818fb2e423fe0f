//! From each crate's errors to diagnostics with a code and an exit status.

use std::path::Path;

use onnxc_frontend::import::{ImportError, NodeProblem};
use onnxc_frontend::proto::{LoadError, LoadProblem};
use onnxc_lowering::LowerError;

use crate::diagnostics::{Diagnostic, Failure, FailureKind};

/// A file that could not be read as what it should be.
pub(crate) fn load(error: &LoadError, path: &Path) -> Failure {
    let kind = match error.code().as_bytes()[0] {
        b'I' => FailureKind::Io,
        b'U' => FailureKind::Unsupported,
        _ => FailureKind::InvalidModel,
    };
    // The diagnostic's location already names the file.
    let file = path.display().to_string();
    let message = match error.path.split_first() {
        Some((first, rest)) if *first == file => {
            rest.iter().map(|place| format!("{place}: ")).collect::<String>() + &error.problem.to_string()
        }
        _ => error.to_string(),
    };
    let mut diagnostic = Diagnostic::error(error.code(), message).in_file(path);
    if matches!(error.problem, LoadProblem::Malformed { .. }) && path.extension().is_none_or(|e| e != "onnx") {
        diagnostic = diagnostic.help("ONNX models usually end in .onnx");
    }
    Failure::new(kind, diagnostic)
}

/// A model that could not be imported.
pub(crate) fn import(error: ImportError, path: &Path) -> Failure {
    match error {
        ImportError::Load(error) => load(&error, path),
        ImportError::Model(message) => {
            Failure::new(FailureKind::InvalidModel, Diagnostic::error("M002", message).in_file(path))
        }
        ImportError::Unsupported(message) => {
            Failure::new(FailureKind::Unsupported, Diagnostic::error("U004", message).in_file(path))
        }
        ImportError::Nodes(problems) => nodes(problems),
    }
}

/// One diagnostic for each node, the wrong ones first: a model that is both is invalid.
fn nodes(mut problems: Vec<NodeProblem>) -> Failure {
    problems.sort_by_key(|problem| !problem.invalid);
    let kind = if problems.iter().any(|problem| problem.invalid) {
        FailureKind::InvalidModel
    } else {
        FailureKind::Unsupported
    };
    let diagnostics = problems
        .into_iter()
        .map(|problem| {
            let code = match (problem.invalid, problem.message.starts_with("the operator")) {
                (true, _) => "M002",
                (false, true) => "U001",
                (false, false) => "U002",
            };
            let operator = format!("opset {}", problem.opset);
            Diagnostic::error(code, format!("{}: {}", problem.operator, problem.message))
                .at_node(problem.node, Some(operator))
        })
        .collect();
    Failure { kind, diagnostics }
}

/// A graph that could not be lowered.
pub(crate) fn lower(error: &LowerError) -> Failure {
    match error {
        LowerError::Unsupported { nodes } => Failure {
            kind: FailureKind::Unsupported,
            diagnostics: nodes.iter().map(|node| Diagnostic::error("U003", node.clone())).collect(),
        },
        LowerError::Sizes { .. } => Failure::usage(format!("--specialize {error}")),
        LowerError::NotTensor { .. } | LowerError::TooLarge | LowerError::Arena(_) => {
            Failure::new(FailureKind::Unsupported, Diagnostic::error("U003", error.to_string()))
        }
    }
}
