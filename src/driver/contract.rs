//! What a compiled model asks of the system that it becomes a part of, and whether that stays within a budget.

use std::fmt::Write;

use onnxc_backend::cranelift::compile::Compiled;
use onnxc_backend::object::ObjectSpec;
use onnxc_backend::target::Target;
use onnxc_ir::dim::Dim;
use onnxc_ir::program::{Program, Step};
use serde_json::{Value, json};

use super::interface::{Extent, Interface, InterfacePort, MemoryClass};
use super::options::{Budget, CompileOptions, FloatMode};
use crate::diagnostics::{Diagnostic, Failure, FailureKind};

/// The contract as JSON, the same for equal models, options and compilers.
pub(super) fn contract(
    program: &Program,
    compiled: &Compiled<'_>,
    targets: &[Target],
    hash: [u8; 32],
    weights_hash: Option<[u8; 32]>,
    options: &CompileOptions,
) -> Value {
    let (spec, interface) = (&compiled.spec, Interface::of(program));
    let variant = |(target, bytes): (&Target, &u64)| json!({ "target": target.name(), "kind": target.kind(), "kernel_code_bytes": bytes });
    let hex = |hash: [u8; 32]| {
        hash.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let port = |port: &InterfacePort| {
        let dims: Vec<Value> = port.dims.iter().map(extent).collect();
        json!({ "name": port.name, "dtype": port.dtype.name(), "dims": dims })
    };
    let symbol = |s: &super::InterfaceSymbol| json!({ "name": s.name, "min": s.min, "max": s.max });
    let dims: Vec<String> = options.dims.iter().map(|dim| dim.to_string()).collect();
    let specialized: Vec<String> = options.specializations.iter().map(|sizes| sizes.to_string()).collect();
    json!({
        "compiler": format!("onnxc {}", env!("CARGO_PKG_VERSION")),
        "flags": {
            "dims": dims,
            "specialize": specialized,
            "fp": match options.fp { FloatMode::Default => "default", FloatMode::Strict => "strict" },
            "opt_level": options.opt_level.to_string(),
        },
        "target": targets[0].name(),
        "variants": targets.iter().zip(&compiled.variant_code).map(variant).collect::<Vec<_>>(),
        "prefix": interface.prefix,
        "hash": hex(hash),
        "inputs": interface.inputs.iter().map(port).collect::<Vec<_>>(),
        "outputs": interface.outputs.iter().map(port).collect::<Vec<_>>(),
        "symbols": interface.symbols.iter().map(symbol).collect::<Vec<_>>(),
        "memory": match interface.memory {
            MemoryClass::Static => "static",
            MemoryClass::Dims => "dims",
            MemoryClass::Data => "data",
        },
        "arena_bytes": interface.arena_bytes(),
        "arena_bytes_most": interface.arena_bytes_most,
        "arena": {
            "tensors": extent(&interface.arena),
            "per_worker": interface.worker_bytes,
            "sample": arena_sample(program),
        },
        "stack_bytes": spec.stack_bound(),
        "code_bytes": spec.code_bytes(),
        "data_bytes": spec.data.iter().map(|object| object.bytes.len() as u64).sum::<u64>(),
        "weight_bytes": program.weight_bytes,
        "weights": if weights_hash.is_some() { "external" } else { "embed" },
        "weights_hash": weights_hash.map(hex),
        "flops": flops(program, &program.steps),
        "undefined_symbols": spec.undefined_symbols(),
    })
}

fn extent(extent: &Extent) -> Value {
    match extent {
        Extent::Fixed(n) => json!(n),
        Extent::Varies(text) => json!(text),
    }
}

/// The arena without scratch for one value of each dim, beside the bytes that are in use at one moment at most: what the memory
/// plan loses is the difference.
fn arena_sample(program: &Program) -> Value {
    let (named, all) = (program.named_symbols(), &program.symbols);
    let value = |symbol| all.sample(symbol);
    let dims: serde_json::Map<String, Value> =
        all.iter().take(named).map(|symbol| (all.name(symbol).to_owned(), json!(value(symbol)))).collect();
    match (program.arena_bytes.eval(value), program.live_bytes(value)) {
        (Some(tensors), Some(live)) => json!({ "dims": dims, "tensors": tensors, "live": live }),
        _ => Value::Null,
    }
}

/// Floating-point operations of one run: a number, an expression over the dims, or null where data decides how often a
/// kernel runs, or a function of the user's does part of the work.
fn flops(program: &Program, steps: &[Step]) -> Value {
    let mut all = Dim::constant(0);
    for step in steps {
        match step {
            Step::Launch(launch) => match &all + &launch.flops {
                Ok(sum) => all = sum,
                Err(_) => return Value::Null,
            },
            // The variants compute the same, but for a few operations that their schedules add: the first one counts.
            Step::Dispatch { lists } | Step::Select { lists, .. } => {
                return lists.first().map_or(Value::Null, |list| flops(program, list));
            }
            Step::If { .. } | Step::Loop { .. } | Step::Call(_) | Step::Strings { .. } => return Value::Null,
            Step::Copy { .. }
            | Step::Bind { .. }
            | Step::Assign { .. }
            | Step::Append { .. }
            | Step::Move { .. }
            | Step::Require { .. }
            | Step::Allocate { .. }
            | Step::Release { .. }
            | Step::State { .. } => {}
        }
    }
    match (all.as_const(), program.is_named(&all)) {
        (Some(number), _) => json!(number),
        (None, true) => json!(all.display(&program.symbols).to_string()),
        (None, false) => Value::Null,
    }
}

/// Refuses what is over the budget, with the parts that are largest.
pub(super) fn check_budget(budget: &Budget, interface: &Interface, spec: &ObjectSpec<'_>) -> Result<(), Failure> {
    let over = |diagnostic| Err(Failure::new(FailureKind::Run, diagnostic));
    if let Some(most) = budget.arena {
        let shrink = "give dimensions a value or a lower bound with --dim, or raise --max-arena";
        if interface.memory == MemoryClass::Data {
            let message = "data decides how much memory the model takes, so that no budget of the arena can hold";
            return over(Diagnostic::error("B001", message));
        }
        let diagnostic = match interface.arena_bytes_most {
            Some(bytes) if bytes <= most => None,
            Some(bytes) => {
                Some(Diagnostic::error("B001", format!("the arena has {bytes} bytes, the budget is {most}")))
            }
            None => {
                let Extent::Varies(text) = &interface.arena else { unreachable!("a fixed arena has a greatest size") };
                Some(Diagnostic::error(
                    "B001",
                    format!("the arena has {text} bytes without a bound, the budget is {most}"),
                ))
            }
        };
        if let Some(diagnostic) = diagnostic {
            let scratch = format!("{} of them are a worker's scratch", interface.worker_bytes);
            return over(diagnostic.note(scratch).help(shrink));
        }
    }
    if let Some(most) = budget.code {
        let bytes = spec.code_bytes();
        if bytes > most {
            let mut functions: Vec<(usize, &str)> = spec.functions.iter().map(|f| (f.code.len(), &*f.name)).collect();
            functions.sort_by_key(|&(bytes, name)| (std::cmp::Reverse(bytes), name));
            let message = format!("the code has {bytes} bytes, the budget is {most}");
            let diagnostic = functions
                .iter()
                .take(3)
                .fold(Diagnostic::error("B001", message), |d, (bytes, name)| d.note(format!("{bytes} in {name}")));
            return over(diagnostic.help("compile with -Os, or raise --max-code"));
        }
    }
    Ok(())
}
