//! The text of the Rust module that `onnxc_runtime::include_model!` brings in.
//!
//! A model of fixed sizes gives arrays, whose shapes the Rust compiler checks; other sizes give views, which the model
//! checks. The module says types and names; `onnxc_runtime::linked` does the work.

use std::fmt::Write;

use onnxc_ir::dtype::DType;

use super::identifiers::identifiers;
use crate::driver::{Interface, InterfacePort, MemoryClass};

/// The most symbols of a model that a module can serve: `onnxc_runtime::linked::MAX_SYMBOLS`.
const MAX_SYMBOLS: usize = onnxc_runtime::linked::MAX_SYMBOLS;

/// The module's text; `about` says what it was made of, in one line. The error says which port has no Rust type.
pub(super) fn module(interface: &Interface, about: &str) -> Result<String, String> {
    if interface.symbols.len() > MAX_SYMBOLS {
        return Err(format!("{} named dims; a Rust module has at most {MAX_SYMBOLS}", interface.symbols.len()));
    }
    let inputs = fields(&interface.inputs, "input")?;
    let outputs = fields(&interface.outputs, "output")?;
    let mut out = format!("// {about}; `onnxc_runtime::include_model!` brings it in.\n\n");
    put_inputs(&mut out, &inputs, interface);
    match interface.memory {
        MemoryClass::Static => put_static(&mut out, &inputs, &outputs, interface),
        MemoryClass::Dims | MemoryClass::Data => put_varying(&mut out, &inputs, &outputs, interface),
    }
    put_descriptor(&mut out, &interface.prefix);
    Ok(out)
}

/// A port as a field.
struct Field<'i> {
    name: String,
    port: &'i InterfacePort,
    element: &'static str,
    /// The array's type, where the shape is fixed.
    array: Option<String>,
}

impl Field<'_> {
    /// The type of a reference to it.
    fn borrowed(&self, lifetime: &str) -> String {
        match &self.array {
            Some(array) => format!("&{lifetime} {array}"),
            None => format!("::onnxc_runtime::View<{lifetime}, {}, {}>", self.element, self.port.dims.len()),
        }
    }

    /// What it is, as a comment: one line whatever the name.
    fn comment(&self) -> String {
        let printable = |c: char| if c.is_control() || c == '`' { '?' } else { c };
        let bits = match self.port.dtype {
            DType::F16 | DType::BF16 | DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ => {
                ", as bits"
            }
            _ => "",
        };
        let name: String = self.port.name.chars().map(printable).collect();
        let what: String = self.port.to_string().chars().map(printable).collect();
        format!("    /// `{name}`: `{what}`{bits}.\n")
    }
}

fn fields<'i>(ports: &'i [InterfacePort], kind: &str) -> Result<Vec<Field<'i>>, String> {
    let names = identifiers(ports.iter().map(|port| port.name.as_str()), kind);
    let field = |(port, name): (&'i InterfacePort, String)| {
        let element = element(port.dtype)
            .ok_or_else(|| format!("{kind} `{}` is {port}, of which Rust has no elements", port.name))?;
        let array = port
            .fixed()
            .map(|dims| dims.iter().rev().fold(element.to_owned(), |inner, extent| format!("[{inner}; {extent}]")));
        Ok(Field { name, port, element, array })
    };
    ports.iter().zip(names).map(field).collect()
}

/// The Rust type of an element; floats that Rust lacks are their bits.
fn element(dtype: DType) -> Option<&'static str> {
    use DType::*;
    Some(match dtype {
        F32 => "f32",
        F64 => "f64",
        U8 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 => "u8",
        U16 | F16 | BF16 => "u16",
        U32 => "u32",
        U64 => "u64",
        I8 => "i8",
        I16 => "i16",
        I32 => "i32",
        I64 => "i64",
        Bool => "bool",
        String | C64 | C128 | U4 | I4 | F4E2M1 | U2 | I2 => return None,
    })
}

fn put_inputs(out: &mut String, inputs: &[Field<'_>], interface: &Interface) {
    out.push_str("/// What a run takes.\n#[derive(Clone, Copy, Debug)]\n");
    let _ = writeln!(out, "pub struct Inputs{} {{", if inputs.is_empty() { "" } else { "<'a>" });
    for field in inputs {
        let _ = writeln!(out, "{}    pub {}: {},", field.comment(), field.name, field.borrowed("'a"));
    }
    out.push_str("}\n\n");
    if !interface.symbols.is_empty() {
        out.push_str(
            "/// The sizes that inputs decide.\n#[derive(Clone, Copy, Debug, PartialEq, Eq)]\npub struct Dims {\n",
        );
        for (name, symbol) in dims(interface).iter().zip(&interface.symbols) {
            let _ = write!(out, "    /// From {} to {}.\n    pub {name}: usize,\n", symbol.min, symbol.max);
        }
        out.push_str("}\n\n");
    }
}

fn dims(interface: &Interface) -> Vec<String> {
    identifiers(interface.symbols.iter().map(|symbol| symbol.name.as_str()), "dim")
}

/// The type of the inputs where nobody asks for their lifetime.
fn inputs_type(inputs: &[Field<'_>]) -> &'static str {
    if inputs.is_empty() { "Inputs" } else { "Inputs<'_>" }
}

/// The array of the inputs' values.
fn put_values(out: &mut String, inputs: &[Field<'_>], indent: &str) {
    let _ = writeln!(out, "{indent}let mut values = [");
    for (index, field) in inputs.iter().enumerate() {
        let name = &field.name;
        let _ = match field.port.fixed() {
            Some(dims) => writeln!(
                out,
                "{indent}    ::onnxc_runtime::linked::value(model, false, {index}, ::core::ptr::from_ref(inputs.{name}), \
                 &{dims:?}),"
            ),
            None => writeln!(
                out,
                "{indent}    ::onnxc_runtime::linked::value(model, false, {index}, inputs.{name}.elements().as_ptr(), \
                 &inputs.{name}.shape()),"
            ),
        };
    }
    let _ = writeln!(out, "{indent}];");
    if inputs.is_empty() {
        let _ = writeln!(out, "{indent}let Inputs {{}} = inputs;");
    }
}

fn put_static(out: &mut String, inputs: &[Field<'_>], outputs: &[Field<'_>], interface: &Interface) {
    out.push_str("/// What a run gives.\n#[derive(Clone, Debug, PartialEq)]\npub struct Outputs {\n");
    for field in outputs {
        let array = field.array.as_deref().expect("the shapes of a static model are fixed");
        let _ = writeln!(out, "{}    pub {}: {array},", field.comment(), field.name);
    }
    out.push_str("}\n\nimpl Outputs {\n    /// Outputs to be filled.\n    pub const ZERO: Self = Self {");
    for (index, field) in outputs.iter().enumerate() {
        let zero = match field.element {
            "bool" => "false",
            "f32" | "f64" => "0.0",
            _ => "0",
        };
        let dims = field.port.fixed().expect("the shapes of a static model are fixed");
        let value = dims.iter().rev().fold(zero.to_owned(), |inner, extent| format!("[{inner}; {extent}]"));
        let _ = write!(out, "{}{}: {value}", if index == 0 { " " } else { ", " }, field.name);
    }
    let (arena, worker) = (interface.arena_bytes().unwrap_or(0), interface.worker_bytes);
    let taken = inputs_type(inputs);
    let _ = write!(
        out,
        " }};\n}}\n\n\
         // SAFETY: numbers, `bool`s and arrays of them.\n\
         unsafe impl ::onnxc_runtime::linked::Zeroable for Outputs {{}}\n\n\
         /// Bytes of the arena of one worker.\n\
         pub const ARENA_BYTES: usize = {arena};\n\n\
         /// What each further worker adds to the arena.\n\
         pub const WORKER_BYTES: usize = {worker};\n\n\
         /// The memory that a run computes in: it lies on the stack, in a static or wherever there is room.\n\
         pub type Arena = [::onnxc_runtime::Block; ::onnxc_runtime::linked::blocks(ARENA_BYTES)];\n\n\
         /// An arena.\n\
         pub const ARENA: Arena = [::onnxc_runtime::Block::NEW; ::onnxc_runtime::linked::blocks(ARENA_BYTES)];\n\n\
         /// Runs the model on the calling thread, in memory of the caller's.\n\
         pub fn run_in(arena: &mut Arena, inputs: {taken}, outputs: &mut Outputs) -> \
         ::core::result::Result<(), ::onnxc_runtime::RunError> {{\n    \
             execute(::onnxc_runtime::linked::Memory::of(arena), inputs, outputs, ::core::option::Option::None)\n\
         }}\n\n\
         fn execute(\n    memory: ::onnxc_runtime::linked::Memory,\n    inputs: {taken},\n    outputs: &mut Outputs,\n    \
         parallel: ::core::option::Option<&dyn ::onnxc_runtime::Parallel>,\n) -> \
         ::core::result::Result<(), ::onnxc_runtime::RunError> {{\n    let model = descriptor();\n"
    );
    put_values(out, inputs, "    ");
    out.push_str("    let mut results = [\n");
    for (index, Field { name, .. }) in outputs.iter().enumerate() {
        let _ = writeln!(
            out,
            "        ::onnxc_runtime::linked::room(model, {index}, (&raw mut outputs.{name}).cast(), \
             size_of_val(&outputs.{name})),"
        );
    }
    let _ = write!(
        out,
        "    ];\n    \
         // SAFETY: the model is this module's, and its ports are as declared above.\n    \
         unsafe {{ ::onnxc_runtime::linked::run(model, &mut values, &mut results, memory, parallel) }}\n}}\n\n\
         ::onnxc_runtime::__with_alloc! {{\n    \
         /// The model with memory of its own. Runs allocate nothing; each thread may have its own.\n    \
         pub struct Model(::onnxc_runtime::linked::Fixed<Outputs>);\n\n    \
         impl Model {{\n        \
         /// With the memory of one worker.\n        \
         pub fn new() -> Self {{\n            Self(::onnxc_runtime::linked::Fixed::new(ARENA_BYTES))\n        }}\n\n        \
         /// Runs the model on the calling thread.\n        \
         pub fn run(&mut self, inputs: {taken}) -> ::core::result::Result<&Outputs, ::onnxc_runtime::RunError> {{\n            \
         let (memory, outputs) = self.0.parts(ARENA_BYTES, WORKER_BYTES, 1);\n            \
         execute(memory, inputs, outputs, ::core::option::Option::None)?;\n            \
         ::core::result::Result::Ok(self.0.outputs())\n        }}\n\n        \
         /// Runs the model's tasks on these threads; the result is the same.\n        \
         pub fn run_on(\n            &mut self,\n            threads: &dyn ::onnxc_runtime::Parallel,\n            \
         inputs: {taken},\n        ) -> ::core::result::Result<&Outputs, ::onnxc_runtime::RunError> {{\n            \
         let (memory, outputs) = self.0.parts(ARENA_BYTES, WORKER_BYTES, threads.workers());\n            \
         execute(memory, inputs, outputs, ::core::option::Option::Some(threads))?;\n            \
         ::core::result::Result::Ok(self.0.outputs())\n        }}\n    }}\n\n    \
         impl ::core::default::Default for Model {{\n        fn default() -> Self {{\n            Self::new()\n        }}\n    \
         }}\n}}\n\n"
    );
}

fn put_varying(out: &mut String, inputs: &[Field<'_>], outputs: &[Field<'_>], interface: &Interface) {
    let taken = inputs_type(inputs);
    let (given, given_for) = if outputs.is_empty() { ("Outputs", "Outputs") } else { ("Outputs<'_>", "Outputs<'a>") };
    out.push_str("/// What a run gives.\n#[derive(Clone, Copy, Debug, PartialEq)]\n");
    let _ = writeln!(out, "pub struct {given_for} {{");
    for field in outputs {
        let _ = writeln!(out, "{}    pub {}: {},", field.comment(), field.name, field.borrowed("'a"));
    }
    out.push_str(
        "}\n\n/// The outputs of a run.\n///\n/// # Safety\n/// The values are those of a run that succeeded, and \
                  nothing is written to their memory while `'a` lasts.\n",
    );
    let _ = write!(
        out,
        "unsafe fn outputs<'a>(values: &[::onnxc_runtime::abi::onnxc_value]) -> {given_for} {{\n    \
         // SAFETY: the ports have these types, and the rest is the caller's promise.\n    unsafe {{\n        Outputs {{\n"
    );
    for (index, field) in outputs.iter().enumerate() {
        let function = if field.array.is_some() { "array" } else { "elements" };
        let _ = writeln!(out, "            {}: ::onnxc_runtime::linked::{function}(&values[{index}]),", field.name);
    }
    out.push_str("        }\n    }\n}\n\n");
    // Where data decides sizes, a caller could not know them beforehand.
    if interface.memory == MemoryClass::Dims {
        put_dims_in_memory(out, inputs, outputs, interface);
    }
    let _ = write!(
        out,
        "::onnxc_runtime::__with_alloc! {{\n    \
         /// The model with memory of its own, which grows with what it is given. Each thread may have its own.\n    \
         pub struct Model(::onnxc_runtime::linked::Growing);\n\n    \
         impl Model {{\n        \
         /// Without memory.\n        \
         pub const fn new() -> Self {{\n            Self(::onnxc_runtime::linked::Growing::new())\n        }}\n\n        \
         /// Runs the model on the calling thread.\n        \
         pub fn run(&mut self, inputs: {taken}) -> ::core::result::Result<{given}, ::onnxc_runtime::RunError> {{\n            \
         self.execute(inputs, ::core::option::Option::None)\n        }}\n\n        \
         /// Runs the model's tasks on these threads; the result is the same.\n        \
         pub fn run_on(\n            &mut self,\n            threads: &dyn ::onnxc_runtime::Parallel,\n            \
         inputs: {taken},\n        ) -> ::core::result::Result<{given}, ::onnxc_runtime::RunError> {{\n            \
         self.execute(inputs, ::core::option::Option::Some(threads))\n        }}\n\n        \
         fn execute(\n            &mut self,\n            inputs: {taken},\n            \
         parallel: ::core::option::Option<&dyn ::onnxc_runtime::Parallel>,\n        ) -> \
         ::core::result::Result<{given}, ::onnxc_runtime::RunError> {{\n            let model = descriptor();\n"
    );
    put_values(out, inputs, "            ");
    out.push_str(
        "            // SAFETY: the model is this module's, and its ports are as declared above.\n            \
         let results = unsafe { self.0.run(model, &mut values, parallel)? };\n            \
         // SAFETY: the outputs' memory is written to by the next run, which needs `&mut self`.\n            \
         ::core::result::Result::Ok(unsafe { outputs(&results) })\n        }\n    }\n\n    \
         impl ::core::default::Default for Model {\n        fn default() -> Self {\n            Self::new()\n        }\n    \
         }\n}\n\n",
    );
}

/// `Room`, `arena_bytes` and `run_in` of a model whose sizes follow from its inputs'.
fn put_dims_in_memory(out: &mut String, inputs: &[Field<'_>], outputs: &[Field<'_>], interface: &Interface) {
    out.push_str("/// Where [`run_in`] puts outputs: as many elements as they have, or more.\n#[derive(Debug)]\n");
    let lifetime = if outputs.is_empty() { "" } else { "<'a>" };
    let _ = writeln!(out, "pub struct Room{lifetime} {{");
    for field in outputs {
        let ty = field.array.clone().unwrap_or_else(|| format!("[{}]", field.element));
        let _ = writeln!(out, "{}    pub {}: &'a mut {ty},", field.comment(), field.name);
    }
    let names: Vec<String> = dims(interface).iter().map(|name| format!("dims.{name}")).collect();
    let _ = write!(
        out,
        "}}\n\n\
         /// Bytes of the arena of a run with these sizes on one worker.\n\
         pub fn arena_bytes(dims: Dims) -> ::core::result::Result<usize, ::onnxc_runtime::RunError> {{\n    \
         ::onnxc_runtime::linked::plan(descriptor(), &[{}])\n}}\n\n\
         /// Runs the model on the calling thread, in memory of the caller's.\n\
         pub fn run_in<'a>(\n    arena: &mut [::onnxc_runtime::Block],\n    inputs: {},\n    room: Room{lifetime},\n) -> \
         ::core::result::Result<Outputs{lifetime}, ::onnxc_runtime::RunError> {{\n    let model = descriptor();\n",
        names.join(", "),
        inputs_type(inputs),
    );
    put_values(out, inputs, "    ");
    out.push_str("    let mut results = [\n");
    for (index, Field { name, .. }) in outputs.iter().enumerate() {
        let _ = writeln!(
            out,
            "        ::onnxc_runtime::linked::room(model, {index}, (&raw mut *room.{name}).cast(), \
             size_of_val(room.{name})),"
        );
    }
    out.push_str(
        "    ];\n    let memory = ::onnxc_runtime::linked::Memory::of(arena);\n    \
         // SAFETY: the model is this module's, and its ports are as declared above; `room` is borrowed for `'a`.\n    \
         unsafe {\n        \
         ::onnxc_runtime::linked::run(model, &mut values, &mut results, memory, ::core::option::Option::None)?;\n        \
         ::core::result::Result::Ok(outputs(&results))\n    }\n}\n\n",
    );
}

fn put_descriptor(out: &mut String, prefix: &str) {
    let _ = write!(
        out,
        "/// What the model says about itself.\n\
         pub fn descriptor() -> &'static ::onnxc_runtime::abi::onnxc_model {{\n    \
         unsafe extern \"C\" {{\n        #[link_name = {prefix:?}]\n        \
         static MODEL: ::onnxc_runtime::abi::onnxc_model;\n    }}\n    \
         // SAFETY: the build script has it linked in; it is never written to.\n    \
         unsafe {{ &MODEL }}\n}}\n"
    );
}
