//! A model for a GPU as three files: PTX, its weights, and a JSON description of what a host program does with them.
//!
//! The description lists the kernels (entry, mapping, threads, scratch) and the steps of a run in order: launches and
//! copies, with the place of each buffer, and all sizes as numbers or as expressions over the symbols.

use std::io;
use std::path::Path;

use onnxc_backend::cranelift::compile::weights;
use onnxc_backend::object::emit::{text_file, weights_file};
use onnxc_backend::ptx::{self, KernelInfo, Known, Mapping, TensorMap};
use onnxc_backend::target::Target;
use onnxc_ir::dim::Dim;
use onnxc_ir::program::{Place, Port, Program, Step};
use serde_json::{Value, json};

use super::compile::object_failure;
use crate::diagnostics::{Diagnostic, Failure, FailureKind};

/// The version of the description.
const FORMAT: u32 = 1;

/// The files of the support library that a shared library of a model for GPUs has compiled into it, with their names.
pub(super) fn support() -> Vec<(&'static str, &'static str)> {
    let files =
        onnxc_runtime::SUPPORT_SOURCES.iter().filter_map(|(path, text)| Some((path.rsplit('/').next()?, *text)));
    files.filter(|(name, _)| name.starts_with("cuda") || name.ends_with(".h")).collect()
}

/// What was written.
pub(super) struct Written {
    pub(super) code_bytes: u64,
    pub(super) weight_bytes: u64,
}

/// Writes `path`, and beside it the weights (`.weights`) and the description (`.json`).
pub(super) fn write(program: &Program, target: &Target, path: &Path) -> Result<Written, Failure> {
    let gpu = target.gpu().expect("the caller has a GPU target");
    let module = ptx::module(program, gpu.sm);
    let (weights_path, json_path) = (path.with_extension("weights"), path.with_extension("json"));
    let mut value = description(program, &module.kernels)?;
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    value["target"] = json!(target.name());
    value["module"] = json!(name(path));
    value["weights"] = json!({ "file": name(&weights_path), "bytes": program.weight_bytes });
    let evaluate =
        |constant| io::Result::Ok(onnxc_ir::tensor::interp::constant_bytes(&program.constants, constant).bytes);
    let weights = weights_file(&weights(program, &evaluate), &weights_path, &mut io::sink());
    let weights = weights.map_err(|e| object_failure(&e, &weights_path))?;
    text_file(&format!("{value:#}\n"), &json_path).map_err(|e| object_failure(&e, &json_path))?;
    text_file(&module.text, path).map_err(|e| object_failure(&e, path))?;
    weights.persist().map_err(|e| object_failure(&e, &weights_path))?;
    Ok(Written { code_bytes: module.text.len() as u64, weight_bytes: program.weight_bytes })
}

/// A program as JSON.
fn description(program: &Program, kernels: &[KernelInfo]) -> Result<Value, Failure> {
    let dim = |dim: &Dim| size(dim, program);
    let port = |port: &Port| {
        let dims: Vec<Value> = port.ty.shape.iter().map(dim).collect();
        json!({ "name": port.name, "dtype": port.ty.dtype.name(), "dims": dims })
    };
    let named = program.symbols.iter().take(program.named_symbols());
    let symbols: Vec<Value> = named
        .map(|s| {
            let (min, max) = program.symbols.bounds(s);
            json!({ "name": program.symbols.name(s), "min": min, "max": max })
        })
        .collect();
    let records = program.kernels.values().zip(kernels).map(|(kernel, info)| {
        json!({
            "name": info.name,
            "worker": match info.mapping {
                Mapping::Warp => "warp",
                Mapping::Thread => "thread",
                Mapping::Block => "block",
            },
            "threads": info.threads,
            "workers_per_block": info.workers_per_block(),
            "max_workers": info.max_workers,
            "scratch_bytes": info.scratch_bytes,
            "shared_bytes": info.shared_bytes,
            "blocks_per_multiprocessor": info.blocks_per_multiprocessor,
            "tensor_maps": info.maps.iter().map(tensor_map).collect::<Vec<_>>(),
            "buffers": kernel.arguments().count(),
            "params": kernel.params,
        })
    });
    let steps: Result<Vec<Value>, Failure> = program.steps.iter().map(|s| step(s, program, kernels)).collect();
    Ok(json!({
        "format": FORMAT,
        "compiler": format!("onnxc {}", env!("CARGO_PKG_VERSION")),
        "alignment": 16,
        "symbols": symbols,
        "inputs": program.inputs.iter().map(port).collect::<Vec<_>>(),
        "outputs": program.outputs.iter().map(port).collect::<Vec<_>>(),
        "arena_bytes": dim(&program.arena_bytes),
        "kernels": records.collect::<Vec<_>>(),
        "steps": steps?,
    }))
}

/// A tensor map of a kernel: sizes in elements and strides in bytes as numbers, or as so many times a parameter.
fn tensor_map(map: &TensorMap) -> Value {
    let known = |known: &Known| match known.param {
        None => json!(known.factor),
        Some(param) => json!({ "param": param, "times": known.factor }),
    };
    json!({
        "buffer": map.buffer,
        "offset": map.offset,
        "element_bytes": map.element_bytes,
        "sizes": map.sizes.iter().map(known).collect::<Vec<_>>(),
        "strides": map.strides.iter().map(known).collect::<Vec<_>>(),
        "box": map.lengths,
        "swizzle": map.swizzle,
    })
}

/// A number, or an expression over the symbols.
fn size(dim: &Dim, program: &Program) -> Value {
    dim.as_const().map_or_else(|| json!(dim.display(&program.symbols).to_string()), |n| json!(n))
}

fn place(place: &Place, program: &Program) -> Value {
    match place {
        Place::Input(n) => json!({ "input": n, "offset": 0 }),
        Place::Output(n) => json!({ "output": n, "offset": 0 }),
        Place::Weights(offset) => json!({ "weights": true, "offset": offset }),
        Place::Arena(offset) => json!({ "arena": true, "offset": size(offset, program) }),
        Place::Slot(_) => unreachable!("steps that fill slots are refused"),
    }
}

fn step(step: &Step, program: &Program, kernels: &[KernelInfo]) -> Result<Value, Failure> {
    match step {
        Step::Launch(launch) => Ok(json!({
            "launch": kernels[launch.kernel.as_u32() as usize].name,
            "tasks": size(&launch.tasks, program),
            "buffers": launch.buffers.iter().map(|p| place(p, program)).collect::<Vec<_>>(),
            "params": launch.params.iter().map(|p| size(p, program)).collect::<Vec<_>>(),
            "node": launch.origins.first().map(|&o| program.origins[o].path.as_str()),
        })),
        Step::Copy { from, to, offset, bytes, .. } if offset.as_const() == Some(0) => Ok(json!({
            "copy": { "from": place(from, program), "to": place(to, program), "bytes": size(bytes, program) },
        })),
        Step::Copy { .. }
        | Step::Call(_)
        | Step::Bind { .. }
        | Step::Assign { .. }
        | Step::If { .. }
        | Step::Loop { .. }
        | Step::Append { .. }
        | Step::Move { .. }
        | Step::Require { .. }
        | Step::Allocate { .. }
        | Step::Release { .. }
        | Step::Strings { .. }
        | Step::State { .. }
        | Step::Dispatch { .. }
        | Step::Select { .. } => {
            let node = step.origins().first().map(|&o| program.origins[o].path.as_str()).unwrap_or("the model");
            let text = format!(
                "{node}: data or sizes decide what a run does, which a .json beside PTX does not describe (use --emit asm for the \
                 kernels alone)"
            );
            Err(Failure::new(FailureKind::Unsupported, Diagnostic::error("U003", text)))
        }
    }
}
