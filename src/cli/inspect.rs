//! `onnxc inspect`: what a model takes and gives, and what it is made of.

use std::collections::BTreeMap;

use onnxc::diagnostics::{Diagnostic, Failure};
use onnxc::driver::{self, CompileOptions};
use onnxc_ir::tensor::{Graph, Value};
use serde_json::json;

use super::args::{InspectArgs, MessageFormat};
use super::output::say;
use super::print_diagnostic;

/// Runs the command.
pub fn run(args: &InspectArgs, format: MessageFormat) -> Result<u8, Failure> {
    let options = CompileOptions::new(driver::prefix_of(&args.model));
    let imported = driver::import(&args.model, &options)?;
    for warning in &imported.warnings {
        print_diagnostic(&Diagnostic::warning("W001", warning.clone()), format);
    }
    let graph = &imported.graph;
    let body = &graph.regions[graph.body()];
    let ports = |values: &[Value], names: &[String]| -> Vec<(String, String)> {
        values.iter().zip(names).map(|(&v, name)| (name.clone(), graph.type_text(graph.ty(v)).to_string())).collect()
    };
    let (inputs, outputs) = (ports(&body.params, &graph.input_names), ports(&body.results, &graph.output_names));
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    for origin in graph.origins.values() {
        *operators.entry(&origin.operator).or_default() += 1;
    }
    let weights = weight_bytes(graph);
    if args.json {
        let list = |ports: &[(String, String)]| -> Vec<_> {
            ports.iter().map(|(name, ty)| json!({ "name": name, "type": ty })).collect()
        };
        let (inputs, outputs) = (list(&inputs), list(&outputs));
        say!("{}", json!({ "inputs": inputs, "outputs": outputs, "operators": operators, "weight_bytes": weights }))?;
        return Ok(0);
    }
    for (title, ports) in [("inputs", &inputs), ("outputs", &outputs)] {
        say!("{title}:")?;
        for (name, ty) in ports {
            say!("  {name}: {ty}")?;
        }
    }
    say!("operators:")?;
    for (name, count) in &operators {
        say!("  {count:6} {name}")?;
    }
    say!("weights: {weights} bytes")?;
    Ok(0)
}

fn weight_bytes(graph: &Graph) -> u64 {
    let bytes = |ty: &onnxc_ir::tensor::TensorType| ty.static_len().and_then(|n| ty.dtype.packed_bytes(n as u64));
    graph.constants.values().filter_map(|c| bytes(&c.ty)).sum()
}
