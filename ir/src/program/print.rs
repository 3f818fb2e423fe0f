//! The textual form of programs, for dumps. Kernels follow the steps in the form of [`crate::loops::print`].

use std::fmt;

use cranelift_entity::EntityRef;

use super::{Launch, Place, Program, Step};
use crate::dim::{DEFAULT_HIGH, Dim, Symbol};
use crate::tensor::shape::ShapeDisplay;
use crate::tensor::{ConstantSource, Origins, TensorType};

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {:?} {{", self.name)?;
        for symbol in self.symbols.iter() {
            let (low, high) = self.symbols.bounds(symbol);
            write!(f, "  symbol {} in {low}..", self.symbols.name(symbol))?;
            let high = if high < DEFAULT_HIGH { format!("={high}") } else { String::new() };
            let data = if symbol.index() < self.named_symbols() { "" } else { " of data" };
            writeln!(f, "{high}{data}")?;
        }
        for (kind, ports) in [("input", &self.inputs), ("output", &self.outputs)] {
            for (i, port) in ports.iter().enumerate() {
                writeln!(f, "  {kind} {i} {:?}: {}", port.name, self.tensor_type(&port.ty))?;
            }
        }
        for (a, b) in &self.assumptions {
            writeln!(f, "  assume {} == {}", self.dim(a), self.dim(b))?;
        }
        for size in &self.sizes {
            writeln!(f, "  assume {} >= 0", self.dim(size))?;
        }
        let arena = self.dim(&self.arena_bytes);
        writeln!(f, "  bytes: arena {arena}, scratch {}, weights {}", self.scratch_bytes, self.weight_bytes)?;
        for weight in &self.weights {
            let Some(constant) = self.constants.get(weight.constant) else {
                writeln!(f, "  weight +{}: {} does not exist", weight.offset, weight.constant)?;
                continue;
            };
            let ty = self.tensor_type(&constant.ty);
            write!(f, "  weight +{} {}: {ty} = {} {:?}", weight.offset, weight.bytes, weight.constant, constant.name)?;
            match &constant.source {
                ConstantSource::Bytes(_) => writeln!(f)?,
                ConstantSource::Splat(scalar) => writeln!(f, " all {}", crate::loops::print::scalar_text(*scalar))?,
                ConstantSource::Lazy { inputs, .. } => {
                    let inputs: Vec<String> = inputs.iter().map(|c| c.to_string()).collect();
                    writeln!(f, " made of {}", inputs.join(", "))?;
                }
            }
        }
        self.write_steps(f, &self.steps, 1)?;
        writeln!(f, "}}")?;
        for (number, kernel) in &self.kernels {
            write!(f, "// {number}\n{kernel}")?;
        }
        Ok(())
    }
}

impl Program {
    fn dim(&self, dim: &Dim) -> String {
        dim.display(&self.symbols).to_string()
    }

    fn case(&self, case: &[(Symbol, i64)]) -> String {
        let sizes: Vec<String> = case.iter().map(|&(s, size)| format!("{}={size}", self.symbols.name(s))).collect();
        sizes.join(",")
    }

    fn tensor_type(&self, ty: &TensorType) -> String {
        format!("{}{}", ty.dtype, ShapeDisplay { shape: &ty.shape, symbols: &self.symbols })
    }

    /// A place as text: `input 0`, `weights +64`, `arena +n*4`.
    pub(super) fn place(&self, place: &Place) -> String {
        match place {
            Place::Input(n) => format!("input {n}"),
            Place::Output(n) => format!("output {n}"),
            Place::Weights(offset) => format!("weights +{offset}"),
            Place::Arena(offset) => format!("arena +{}", self.dim(offset)),
            Place::Slot(n) => format!("slot {n}"),
        }
    }

    fn write_steps(&self, f: &mut fmt::Formatter<'_>, steps: &[Step], depth: usize) -> fmt::Result {
        let indent = "  ".repeat(depth);
        for step in steps {
            match step {
                Step::Launch(launch) => self.write_launch(f, launch, &indent)?,
                Step::Call(call) => {
                    let list = |tensors: &[(Place, TensorType)]| {
                        let tensors =
                            tensors.iter().map(|(p, ty)| format!("{}: {}", self.place(p), self.tensor_type(ty)));
                        tensors.collect::<Vec<_>>().join(", ")
                    };
                    let (inputs, outputs) = (list(&call.inputs), list(&call.outputs));
                    let (symbol, origins) = (&call.external.symbol, self.origins(&call.origins));
                    writeln!(f, "{indent}call {symbol} ({inputs}) to ({outputs}){origins}")?;
                }
                Step::Copy { from, to, offset, bytes, origins } => {
                    let (from, to) = (self.place(from), self.place(to));
                    let offset = if *offset == 0 { String::new() } else { format!(" +{}", self.dim(offset)) };
                    let (bytes, origins) = (self.dim(bytes), self.origins(origins));
                    writeln!(f, "{indent}copy {from} to {to}{offset} {bytes} bytes{origins}")?;
                }
                Step::Bind { symbol, from, element, low, high, origins } => {
                    let (name, from) = (self.symbols.name(*symbol), self.place(from));
                    let (low, high, origins) = (self.dim(low), self.dim(high), self.origins(origins));
                    writeln!(f, "{indent}bind {name} to element {element} of {from} in {low}..={high}{origins}")?;
                }
                Step::Assign { sizes } => {
                    let sizes: Vec<String> =
                        sizes.iter().map(|(s, d)| format!("{} = {}", self.symbols.name(*s), self.dim(d))).collect();
                    writeln!(f, "{indent}assign {}", sizes.join(", "))?;
                }
                Step::Require { left, right, origins } => {
                    writeln!(f, "{indent}require {} == {}{}", self.dim(left), self.dim(right), self.origins(origins))?;
                }
                Step::If { condition, then, otherwise, origins } => {
                    writeln!(f, "{indent}if {} {{{}", self.place(condition), self.origins(origins))?;
                    self.write_steps(f, then, depth + 1)?;
                    writeln!(f, "{indent}}} else {{")?;
                    self.write_steps(f, otherwise, depth + 1)?;
                    writeln!(f, "{indent}}}")?;
                }
                Step::Loop { trips, condition, iteration, counter, body, origins } => {
                    let (trips, condition) = (self.place(trips), self.place(condition));
                    let (name, counter) = (self.symbols.name(*iteration), self.place(counter));
                    let origins = self.origins(origins);
                    writeln!(f, "{indent}loop {name} in {counter} below {trips} while {condition} {{{origins}")?;
                    self.write_steps(f, body, depth + 1)?;
                    writeln!(f, "{indent}}}")?;
                }
                Step::Dispatch { lists } => {
                    for (name, list) in self.variants.iter().zip(lists) {
                        writeln!(f, "{indent}variant {name} {{")?;
                        self.write_steps(f, list, depth + 1)?;
                        writeln!(f, "{indent}}}")?;
                    }
                }
                Step::Select { cases, lists } => {
                    for (n, list) in lists.iter().enumerate() {
                        match n.checked_sub(1) {
                            None => writeln!(f, "{indent}for all sizes {{")?,
                            Some(case) => writeln!(f, "{indent}for {} {{", self.case(&cases[case]))?,
                        }
                        self.write_steps(f, list, depth + 1)?;
                        writeln!(f, "{indent}}}")?;
                    }
                }
                Step::Append { slot, from, bytes, used, origins } => {
                    let (from, bytes, used) = (self.place(from), self.dim(bytes), self.dim(used));
                    let origins = self.origins(origins);
                    writeln!(f, "{indent}append {from} to slot {slot} {bytes} bytes after {used}{origins}")?;
                }
                Step::Move { from, to } => writeln!(f, "{indent}move slot {from} to slot {to}")?,
                Step::Allocate { slot, ty, origins } => {
                    writeln!(f, "{indent}allocate slot {slot}: {}{}", self.tensor_type(ty), self.origins(origins))?;
                }
                Step::Release { slot } => writeln!(f, "{indent}release slot {slot}")?,
                Step::Strings { function, inputs, output, origins } => {
                    let text =
                        |(place, ty): &(Place, TensorType)| format!("{}: {}", self.place(place), self.tensor_type(ty));
                    let (symbol, from) = (function.symbol(), inputs.iter().map(text).collect::<Vec<_>>().join(", "));
                    writeln!(f, "{indent}strings {symbol} ({from}) to {}{}", text(output), self.origins(origins))?;
                }
                Step::State { output, origins } => {
                    writeln!(f, "{indent}state output {output}{}", self.origins(origins))?;
                }
            }
        }
        Ok(())
    }

    fn origins(&self, origins: &Origins) -> String {
        let paths: Vec<&str> =
            origins.iter().map(|&o| self.origins.get(o).map_or("unknown node", |data| &data.path)).collect();
        if paths.is_empty() { String::new() } else { format!(" // {}", paths.join(", ")) }
    }

    fn write_launch(&self, f: &mut fmt::Formatter<'_>, launch: &Launch, indent: &str) -> fmt::Result {
        write!(f, "{indent}launch {}", launch.kernel)?;
        let kernel = self.kernels.get(launch.kernel);
        if let Some(kernel) = kernel {
            write!(f, " {:?}", kernel.name)?;
        }
        let buffers: Vec<String> = launch.buffers.iter().map(|p| self.place(p)).collect();
        write!(f, " ({})", buffers.join(", "))?;
        if !launch.params.is_empty() {
            let params: Vec<String> = launch.params.iter().map(|p| self.dim(p)).collect();
            write!(f, " params ({})", params.join(", "))?;
        }
        writeln!(
            f,
            " tasks {} flops {}{}",
            self.dim(&launch.tasks),
            self.dim(&launch.flops),
            self.origins(&launch.origins)
        )
    }
}
