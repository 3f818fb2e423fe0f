//! The inputs of `run` and `bench`: files in graph order or by name.

use std::path::PathBuf;

use onnxc::diagnostics::Failure;
use onnxc::driver::PortInfo;
use onnxc::values::{Value, read_value};

use super::args::InputArgs;

/// Reads one value for each input of the model.
pub fn inputs(args: &InputArgs, ports: &[PortInfo]) -> Result<Vec<Value>, Failure> {
    let files = if args.named.is_empty() { in_order(args, ports)? } else { by_name(args, ports)? };
    files.iter().zip(ports).map(|(path, port)| read_value(path, Some(port.ty.dtype))).collect()
}

fn in_order(args: &InputArgs, ports: &[PortInfo]) -> Result<Vec<PathBuf>, Failure> {
    let files: Vec<PathBuf> = args.inputs.iter().filter(|path| !path.as_os_str().is_empty()).cloned().collect();
    if files.len() != ports.len() {
        return Err(Failure::usage(format!("{} input files for {} inputs: {}", files.len(), ports.len(), list(ports))));
    }
    Ok(files)
}

fn by_name(args: &InputArgs, ports: &[PortInfo]) -> Result<Vec<PathBuf>, Failure> {
    let mut found: Vec<Option<PathBuf>> = vec![None; ports.len()];
    for spec in &args.named {
        // The name may hold an equals sign: the longest name of an input wins.
        let port = ports
            .iter()
            .enumerate()
            .filter(|(_, port)| spec.strip_prefix(port.name.as_str()).is_some_and(|rest| rest.starts_with('=')))
            .max_by_key(|(_, port)| port.name.len());
        let Some((index, port)) = port else {
            return Err(Failure::usage(format!("--input {spec}: no such input; there are {}", list(ports))));
        };
        found[index] = Some(PathBuf::from(&spec[port.name.len() + 1..]));
    }
    let missing: Vec<&str> =
        ports.iter().zip(&found).filter(|(_, file)| file.is_none()).map(|(port, _)| port.name.as_str()).collect();
    if !missing.is_empty() {
        return Err(Failure::usage(format!("no file for the inputs {}", missing.join(", "))));
    }
    Ok(found.into_iter().flatten().collect())
}

fn list(ports: &[PortInfo]) -> String {
    ports.iter().map(|port| format!("{} {}", port.name, port.ty)).collect::<Vec<_>>().join(", ")
}
