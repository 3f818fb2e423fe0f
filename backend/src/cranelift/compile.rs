//! A program to an object: kernels in parallel, the host program, descriptors, weights.

use std::io;

use bytes::Bytes;
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::{self, OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_entity::EntityRef;
use cranelift_frontend::FunctionBuilderContext;
use onnxc_ir::dim::{Dim, Symbol};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Kernel;
use onnxc_ir::loops::legalize::legalize;
use onnxc_ir::program::{Port, Program, Remark, Step};
use onnxc_ir::tensor::Constant;
use rayon::prelude::*;
use target_lexicon::BinaryFormat;

use super::code::Names;
use super::entry::{Entry, MAX_RANK, processor_words, variant_cell};
use super::kernel::{CAPS, KernelOptions, translate};
use super::operators::{external_symbols, operators};
use crate::header::{ABI_HEADER, HeaderModel, HeaderPort};
use crate::neon;
use crate::object::weights::Weights;
use crate::object::{CompiledFunction, DataObject, ObjectSpec, Unwind};
use crate::ptx;
use crate::target::{Gpu, Target};
use crate::vector;

/// The version of the ABI in `onnxc.h`.
pub const ABI_VERSION: i32 = 1;

/// Why a program could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Cranelift refused; a fault of this crate or a limit of Cranelift.
    #[error("code generation of `{function}`: {message}")]
    Cranelift {
        /// The function.
        function: String,
        /// What Cranelift says.
        message: String,
    },
    /// Code cannot be generated for the target.
    #[error("target `{target}`: {message}")]
    Target {
        /// The target's name.
        target: String,
        /// Why.
        message: String,
    },
    /// An input or output has more dimensions than the ABI has room for.
    #[error("`{name}` has {rank} dimensions; compiled models take at most {MAX_RANK}")]
    Rank {
        /// The port's name.
        name: String,
        /// Its number of dimensions.
        rank: usize,
    },
}

/// Evaluates a constant's bytes, when they are written.
pub type Evaluate<'a> = dyn Fn(Constant) -> io::Result<Bytes> + Sync + 'a;

/// Where a compiled model has its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightPlacement {
    /// In the object.
    #[default]
    Embedded,
    /// In a file of their own, which the caller of the model maps.
    External,
}

/// A program as code.
pub struct Compiled<'a> {
    /// What goes into the object.
    pub spec: ObjectSpec<'a>,
    /// What goes into a file of its own: its bytes have to be hashed, see [`Compiled::set_weights_hash`].
    pub external: Option<Weights<'a>>,
    /// What the header says.
    pub header: HeaderModel,
    /// Bytes of the kernels of each target.
    pub variant_code: Vec<u64>,
    /// Kernels whose code is not as wide as the target allows, and why.
    pub remarks: Vec<Remark>,
}

impl Compiled<'_> {
    /// States what the file of the external weights hashes to, so that the model's caller can tell it from others.
    ///
    /// # Panics
    /// When the weights are embedded.
    pub fn set_weights_hash(&mut self, hash: [u8; 32]) {
        let name = weights_hash_symbol(&self.spec.prefix);
        let object = self.spec.data.iter_mut().find(|object| object.name == name);
        object.expect("models with external weights have a place for their hash").bytes = hash.to_vec();
    }
}

fn weights_hash_symbol(prefix: &str) -> String {
    format!("{prefix}__weights_hash")
}

/// Compiles a program for its target, or one target for each of its variants, of which the first is what the host program
/// is compiled for. `hash` identifies the source model and the options.
/// The weights go into the object.
pub fn compile<'a>(
    program: &'a Program,
    targets: &'a [Target],
    hash: [u8; 32],
    evaluate: &'a Evaluate<'a>,
) -> Result<Compiled<'a>, CompileError> {
    compile_with(program, targets, hash, evaluate, WeightPlacement::Embedded)
}

/// As [`compile`], with the weights where they are asked for.
pub fn compile_with<'a>(
    program: &'a Program,
    targets: &'a [Target],
    hash: [u8; 32],
    evaluate: &'a Evaluate<'a>,
    placement: WeightPlacement,
) -> Result<Compiled<'a>, CompileError> {
    if let Some(port) = program.inputs.iter().chain(&program.outputs).find(|p| p.ty.rank() > MAX_RANK) {
        return Err(CompileError::Rank { name: port.name.clone(), rank: port.ty.rank() });
    }
    assert_eq!(targets.len(), program.variants.len().max(1), "there is a target for each variant");
    let target = &targets[0];
    let isas = targets.iter().map(instruction_set).collect::<Result<Vec<OwnedTargetIsa>, _>>()?;
    let isa = &isas[0];
    let prefix = &program.name;
    let names: Vec<String> = program
        .kernels
        .iter()
        .map(|(i, kernel)| format!("{prefix}_k{}_{}", i.index(), sanitized(&kernel.name)))
        .collect();
    let external_weights = placement == WeightPlacement::External && !program.weights.is_empty();
    let device =
        target.gpu().map(|gpu| gpu_objects(program, target, gpu, hash, &names, external_weights)).transpose()?;
    // Of kernels for a GPU the host has descriptions only.
    let kernels: Vec<(usize, &Kernel)> = match device {
        Some(_) => Vec::new(),
        None => program.kernels.iter().map(|(number, kernel)| (program.variant_of[number] as usize, kernel)).collect(),
    };
    let compiled: Result<Vec<(CompiledFunction, Option<vector::Unsupported>)>, CompileError> = kernels
        .par_iter()
        .zip(&names)
        .map(|(&(variant, kernel), name)| compile_kernel(kernel, name, &targets[variant], &*isas[variant], program))
        .collect();
    let (mut functions, lacks): (Vec<CompiledFunction>, Vec<_>) = compiled?.into_iter().unzip();
    let mut variant_code = vec![0; targets.len()];
    kernels.iter().zip(&functions).for_each(|((variant, _), f)| variant_code[*variant] += f.code.len() as u64);
    let remarks = kernels.iter().zip(lacks).filter_map(|((variant, kernel), lack)| {
        let made = if targets[*variant].is_aarch64() { "code by Cranelift" } else { "code for 128 bits" };
        let text = format!("`{}`: {made}: {}", kernel.name, lack?);
        Some(Remark { pass: "codegen", origin: kernel.name.clone(), text })
    });
    let remarks = remarks.collect();
    let symbols = program.named_symbols();
    let gpu = device.is_some();
    let entry = Entry { isa: &**isa, program, kernels: &names, targets, symbols, external_weights, gpu };
    let host: Result<Vec<CompiledFunction>, CompileError> = entry
        .functions()
        .into_par_iter()
        .map(|host| finish(&host.name, host.global, host.function, &host.names, &**isa))
        .collect();
    functions.extend(host?);
    if !program.variants.is_empty() {
        functions.push(processor_words(prefix));
    }

    let weights = weights(program, evaluate);
    let code_bytes = functions.iter().map(|f| f.code.len() as u64).sum();
    let mut data = descriptors(program, target, hash, code_bytes, external_weights);
    if external_weights {
        let mut hash = DataObject::new(weights_hash_symbol(prefix));
        hash.put(&[0; 32]);
        data.push(hash);
    }
    if !program.variants.is_empty() {
        data.push(variant_cell(prefix));
    }
    let weights = (!program.weights.is_empty()).then_some(weights);
    let (embedded, external) = if external_weights { (None, weights) } else { (weights, None) };
    data.extend(device.into_iter().flatten());
    let spec = ObjectSpec {
        target,
        prefix: prefix.clone(),
        functions,
        data,
        weights: embedded,
        externals: external_symbols(program),
    };
    let mut header = header(program, targets);
    if gpu {
        header.notes.push(
            "Kernels run on an NVIDIA GPU: the program needs cuda*.c of the support library; tensors may be kDLCUDA."
                .into(),
        );
    }
    if external.is_some() {
        header.notes.push(format!(
            "Weights: {} bytes in a file of their own, which onnxc_call.weights is to name in memory.",
            program.weight_bytes
        ));
    }
    Ok(Compiled { spec, external, header, variant_code, remarks })
}

/// The weight section.
pub fn weights<'a>(program: &'a Program, evaluate: &'a Evaluate<'a>) -> Weights<'a> {
    let mut weights = Weights::new(format!("{}_weights", program.name));
    for weight in &program.weights {
        let (constant, bytes) = (weight.constant, weight.bytes);
        weights.push_at(weight.offset, bytes, move |out: &mut dyn io::Write| {
            let data = evaluate(constant)?;
            if data.len() as u64 != bytes {
                return Err(io::Error::other(format!(
                    "constant {constant} has {} bytes instead of {bytes}",
                    data.len()
                )));
            }
            out.write_all(&data)
        });
    }
    weights.len = program.weight_bytes;
    weights
}

/// Cranelift's IR of the kernels.
pub fn clif(program: &Program, targets: &[Target]) -> String {
    let mut text = String::new();
    for (number, kernel) in &program.kernels {
        let target = &targets[program.variant_of[number] as usize];
        let Ok(isa) = instruction_set(target) else { return String::new() };
        let options = KernelOptions::of(target);
        let legal = legalize(kernel, &CAPS);
        let function = translate(&legal, options, isa.frontend_config(), &mut FunctionBuilderContext::new());
        text.push_str(&format!("; {}\n{}\n", kernel.name, function.display()));
    }
    text
}

/// Assembly of the kernels.
pub fn assembly(program: &Program, targets: &[Target]) -> Result<String, CompileError> {
    if let Some(gpu) = targets[0].gpu() {
        return Ok(ptx::module(program, gpu.sm).text);
    }
    let isas = targets.iter().map(instruction_set).collect::<Result<Vec<OwnedTargetIsa>, _>>()?;
    let mut text = String::new();
    for (number, kernel) in &program.kernels {
        let variant = program.variant_of[number] as usize;
        let (target, isa) = (&targets[variant], &isas[variant]);
        let options = KernelOptions::of(target);
        let fail = |message: String| CompileError::Cranelift { function: kernel.name.clone(), message };
        if let Some(Ok(code)) = own_code(kernel, target, program) {
            text.push_str(&code.listing(&kernel.name));
            continue;
        }
        let legal = legalize(kernel, &CAPS);
        let function = translate(&legal, options, isa.frontend_config(), &mut FunctionBuilderContext::new());
        let mut context = Context::for_function(function);
        context.set_disasm(true);
        context.compile(&**isa, &mut ControlPlane::default()).map_err(|e| fail(format!("{:?}", e.inner)))?;
        let code = context.compiled_code().and_then(|c| c.vcode.clone()).unwrap_or_default();
        text.push_str(&format!("# {} (128 bits)\n{code}\n", kernel.name));
    }
    Ok(text)
}

fn instruction_set(target: &Target) -> Result<OwnedTargetIsa, CompileError> {
    let fail = |message: String| CompileError::Target { target: target.name().to_owned(), message };
    let mut shared = settings::builder();
    // The order of a kernel's instructions is the schedule's; Cranelift keeps it at this level.
    // COFF has no GOT, which Cranelift's position-independent code asks for: its code is relative to the PC without.
    let pic = if target.binary_format() == BinaryFormat::Coff { "false" } else { "true" };
    for (name, value) in [("is_pic", pic), ("opt_level", "none"), ("unwind_info", "true")] {
        shared.set(name, value).map_err(|e| fail(e.to_string()))?;
    }
    // Stacks grow page by page on Windows: a frame must touch each.
    for (name, value) in [("enable_probestack", "true"), ("probestack_strategy", "inline")] {
        shared.set(name, value).map_err(|e| fail(e.to_string()))?;
    }
    shared
        .set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" })
        .map_err(|e| fail(e.to_string()))?;
    let mut builder = isa::lookup(target.triple().clone()).map_err(|e| fail(e.to_string()))?;
    for setting in target.cranelift_settings() {
        builder.enable(setting).map_err(|e| fail(e.to_string()))?;
    }
    builder.finish(settings::Flags::new(shared)).map_err(|e| fail(e.to_string()))
}

/// A kernel's machine code by a code generator of our own.
enum OwnCode {
    Wide(vector::WideCode),
    Neon(neon::NeonCode),
}

impl OwnCode {
    /// The assembly, below the name as a comment.
    fn listing(&self, name: &str) -> String {
        match self {
            OwnCode::Wide(code) => format!("# {name}\n{}\n", code.disassembly()),
            OwnCode::Neon(code) => format!("// {name}\n{}\n", code.disassembly()),
        }
    }

    fn into_function(self, name: &str) -> CompiledFunction {
        let (code, stack_bytes, frame) = match self {
            OwnCode::Wide(code) => (code.bytes, code.stack_bytes, code.frame),
            OwnCode::Neon(code) => (code.bytes, code.stack_bytes, code.frame),
        };
        let (name, relocations, unwind) = (name.to_owned(), Vec::new(), Some(Unwind::Frame(frame)));
        CompiledFunction { name, global: false, code, align: 64, relocations, stack_bytes, unwind }
    }
}

/// Nothing where there is no code generator of our own for the target, or none that does better.
fn own_code(kernel: &Kernel, target: &Target, program: &Program) -> Option<Result<OwnCode, vector::Unsupported>> {
    if let Some(isa) = target.wide_isa() {
        return Some(vector::compile(kernel, isa, program.flushes_subnormals).map(OwnCode::Wide));
    }
    let features = target.neon().filter(|&features| neon::is_wanted(kernel, features))?;
    Some(neon::compile(kernel, features).map(OwnCode::Neon))
}

fn compile_kernel(
    kernel: &Kernel,
    name: &str,
    target: &Target,
    isa: &dyn TargetIsa,
    program: &Program,
) -> Result<(CompiledFunction, Option<vector::Unsupported>), CompileError> {
    // What our own code generators lack goes to Cranelift, with the same calling convention.
    let lacks = match own_code(kernel, target, program) {
        Some(Ok(code)) => return Ok((code.into_function(name), None)),
        Some(Err(lack)) => Some(lack),
        None => None,
    };
    let options = KernelOptions::of(target);
    let legal = legalize(kernel, &CAPS);
    let function = translate(&legal, options, isa.frontend_config(), &mut FunctionBuilderContext::new());
    Ok((finish(name, false, function, &Names::default(), isa)?, lacks))
}

fn finish(
    name: &str,
    global: bool,
    function: Function,
    names: &Names,
    isa: &dyn TargetIsa,
) -> Result<CompiledFunction, CompileError> {
    let fail = |message: String| CompileError::Cranelift { function: name.to_owned(), message };
    let mut context = Context::for_function(function);
    context.compile(isa, &mut ControlPlane::default()).map_err(|e| fail(format!("{:?}", e.inner)))?;
    let compiled = context.compiled_code().expect("the function was compiled");
    CompiledFunction::from_cranelift(name, global, &context.func, compiled, isa, |n| names.name(n))
        .map_err(|e| fail(e.to_string()))
}

/// A name as part of a symbol: letters, digits, `.` and `_`.
fn sanitized(name: &str) -> String {
    name.chars().take(80).map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect()
}

/// The statuses' messages from 0 downwards, as `onnxc.h` lists them.
pub fn status_messages() -> Vec<&'static str> {
    let mut messages = Vec::new();
    for line in ABI_HEADER.lines() {
        let Some(rest) = line.trim().strip_prefix("X(ONNXC_") else { continue };
        let Some((_, rest)) = rest.split_once(", \"") else { continue };
        let Some((message, _)) = rest.split_once("\")") else { continue };
        messages.push(message);
    }
    messages
}

/// DLPack's code, bits and lanes.
pub(super) fn dlpack(dtype: DType) -> [u8; 4] {
    use DType::*;
    let code = match dtype {
        I64 | I32 | I16 | I8 | I4 | I2 => 0,
        U64 | U32 | U16 | U8 | U4 | U2 => 1,
        F64 | F32 | F16 => 2,
        String => return [3, 64, 2, 0],
        BF16 => 4,
        C64 | C128 => 5,
        Bool => 6,
        F8E4M3FN => 10,
        F8E4M3FNUZ => 11,
        F8E5M2 => 12,
        F8E5M2FNUZ => 13,
        F8E8M0 => 14,
        F4E2M1 => 17,
    };
    [code, dtype.bits() as u8, 1, 0]
}

/// TensorProto's number of an element type.
fn onnx_number(dtype: DType) -> u32 {
    use DType::*;
    match dtype {
        F32 => 1,
        U8 => 2,
        I8 => 3,
        U16 => 4,
        I16 => 5,
        I32 => 6,
        I64 => 7,
        String => 8,
        Bool => 9,
        F16 => 10,
        F64 => 11,
        U32 => 12,
        U64 => 13,
        C64 => 14,
        C128 => 15,
        BF16 => 16,
        F8E4M3FN => 17,
        F8E4M3FNUZ => 18,
        F8E5M2 => 19,
        F8E5M2FNUZ => 20,
        U4 => 21,
        I4 => 22,
        F4E2M1 => 23,
        F8E8M0 => 24,
        U2 => 25,
        I2 => 26,
    }
}

/// Collects strings as data objects.
pub(super) struct Strings<'p> {
    prefix: &'p str,
    objects: Vec<DataObject>,
}

impl Strings<'_> {
    /// The symbol of a text.
    pub(super) fn add(&mut self, text: &str) -> String {
        let name = format!("{}__s{}", self.prefix, self.objects.len());
        self.objects.push(DataObject::c_string(&name, text));
        name
    }
}

/// Tensor maps as `csrc/cuda_internal.h` has them.
fn tensor_maps(name: String, maps: &[ptx::TensorMap]) -> DataObject {
    let mut object = DataObject::new(name);
    let dimensions = 5;
    for map in maps {
        // CU_TENSOR_MAP_DATA_TYPE_UINT8, _UINT16; CU_TENSOR_MAP_SWIZZLE_32B, _128B.
        object.put_u32(map.buffer).put_u32(map.element_bytes - 1).put_u32(map.sizes.len() as u32);
        object.put_u32(if map.swizzle == 32 { 1 } else { 3 }).put_u64(map.offset);
        for list in [&map.sizes, &map.strides] {
            let filled = list.iter().copied().chain(std::iter::repeat(ptx::Known { factor: 1, param: None }));
            for known in filled.take(dimensions) {
                object.put_u64(known.factor as u64).put_u64(known.param.map_or(u64::MAX, u64::from));
            }
        }
        for length in map.lengths.iter().copied().chain(std::iter::repeat(1)).take(dimensions + 1) {
            object.put_u32(length);
        }
    }
    object
}

/// What the support library is told of a model for a GPU and of its kernels, whose descriptions take the place of their
/// code; `csrc/cuda_internal.h` has both structures.
fn gpu_objects(
    program: &Program,
    target: &Target,
    gpu: &Gpu,
    hash: [u8; 32],
    names: &[String],
    external_weights: bool,
) -> Result<Vec<DataObject>, CompileError> {
    let refused = |step: &Step| {
        let node = step.origins().first().map_or("the model", |&o| program.origins[o].path.as_str());
        let message = format!("{node}: programs for GPUs cannot work on text or call functions of the user's");
        CompileError::Target { target: target.name().to_owned(), message }
    };
    let steps = program.all_steps();
    if let Some(step) = steps.iter().find(|s| matches!(s, Step::Strings { .. } | Step::Call(_))) {
        return Err(refused(step));
    }
    let prefix = &program.name;
    let module = ptx::module(program, gpu.sm);
    let mut objects = vec![DataObject::c_string(format!("{prefix}__ptx"), &module.text)];
    for (number, (info, symbol)) in module.kernels.iter().zip(names).enumerate() {
        let name = DataObject::c_string(format!("{symbol}__name"), &info.name);
        let kernel = &program.kernels[onnxc_ir::program::KernelRef::new(number)];
        let mut object = DataObject::new(symbol.clone());
        object.put_pointer(name.name.clone(), 0).put_u32(info.threads).put_u32(info.workers_per_block());
        object.put_u64(info.scratch_bytes).put_u64(info.max_workers.unwrap_or(0));
        object.put_u32(number as u32).put_u32(kernel.arguments().count() as u32);
        object.put_u32(kernel.params.len() as u32).put_u32(info.shared_bytes);
        object.put_u32(info.blocks_per_multiprocessor.unwrap_or(0)).put_u32(info.maps.len() as u32);
        if info.maps.is_empty() {
            object.put_u64(0);
        } else {
            let maps = tensor_maps(format!("{symbol}__maps"), &info.maps);
            object.put_pointer(maps.name.clone(), 0);
            objects.push(maps);
        }
        objects.extend([name, object]);
    }
    let looks = steps.iter().any(|step| !matches!(step, Step::Launch(_) | Step::Copy { .. } | Step::Select { .. }));
    let capability: String = gpu.sm.chars().filter(char::is_ascii_digit).collect();
    let exact = if gpu.sm.ends_with('a') { "0" } else { "" };
    let mut model = DataObject::new(format!("{prefix}__cuda"));
    model.put_u32(1).put_u32(format!("{capability}{exact}").parse().expect("a number"));
    model.put_pointer(format!("{prefix}__ptx"), 0).put(&hash);
    // The caller's call names external ones.
    if program.weights.is_empty() || external_weights {
        model.put_u64(0);
    } else {
        model.put_pointer(format!("{prefix}_weights"), 0);
    }
    model.put_u64(if program.weights.is_empty() { 0 } else { program.weight_bytes });
    model.put_u32(module.kernels.len() as u32).put_u32(program.inputs.len() as u32);
    model.put_u32(program.outputs.len() as u32).put_u32(program.slots);
    model.put_u32(program.symbols.len() as u32).put_u32(u32::from(looks));
    objects.push(model);
    Ok(objects)
}

/// The model's descriptor and what it points to.
fn descriptors(
    program: &Program,
    target: &Target,
    hash: [u8; 32],
    code_bytes: u64,
    external_weights: bool,
) -> Vec<DataObject> {
    let prefix = &program.name;
    let symbol = |suffix: &str| format!("{prefix}_{suffix}");
    let mut strings = Strings { prefix, objects: Vec::new() };

    let mut messages = DataObject::new(symbol("_messages"));
    for text in status_messages().into_iter().chain(["unknown status"]) {
        messages.put_pointer(strings.add(text), 0);
    }
    let mut ports = DataObject::new(symbol("_ports"));
    for (i, port) in program.inputs.iter().enumerate() {
        // ONNXC_PORT_STATE, the axis that grows and the output.
        let state = program.states.iter().find(|state| state.input as usize == i);
        let flags = state.map_or(0, |state| 2 | state.axis.map_or(0, |axis| (axis + 1) << 4) | (state.output << 8));
        put_port(&mut ports, port, flags, program.named_symbols(), &mut strings);
    }
    for (i, port) in program.outputs.iter().enumerate() {
        let state = program.states.iter().any(|state| state.output as usize == i);
        put_port(&mut ports, port, if state { 2 } else { 0 }, program.named_symbols(), &mut strings);
    }
    let mut symbols = DataObject::new(symbol("_symbols"));
    for s in program.symbols.iter().take(program.named_symbols()) {
        let (least, most) = program.symbols.bounds(s);
        let name = strings.add(program.symbols.name(s));
        symbols.put_pointer(name, 0).put_u64(least as u64).put_u64(most as u64);
    }
    let mut steps = DataObject::new(symbol("_steps"));
    let all_steps = program.all_steps();
    for step in &all_steps {
        let text = match (step.origins().first(), step) {
            (Some(&o), _) => format!("{} {}", program.origins[o].operator, program.origins[o].path),
            (None, Step::Release { .. } | Step::Move { .. }) => "Memory".to_owned(),
            (None, Step::Assign { .. }) => "Sizes".to_owned(),
            (None, _) => "Copy".to_owned(),
        };
        steps.put_pointer(strings.add(&text), 0);
    }
    let fixed = program.named_symbols() == 0;
    let arena = program.arena_bytes.as_const().filter(|_| fixed).unwrap_or(0) as u64;
    let scratch = if fixed { program.scratch_bytes } else { 0 };
    let (name, target_name) = (strings.add(prefix), strings.add(target.name()));
    let mut model = DataObject::new(prefix.clone()).exported();
    model.put_u32(ABI_VERSION as u32).put_u32(192);
    model.put_pointer(name, 0).put(&hash);
    // ONNXC_MEMORY_STATIC, _DIMS, _DATA.
    model.put_u32(if program.allocates() { 2 } else { u32::from(!fixed) });
    // ONNXC_MODEL_EXTERNAL_WEIGHTS, _GPU.
    let gpu = target.gpu().is_some();
    model.put_u32(u32::from(external_weights) | u32::from(gpu) << 1);
    model.put_u32(program.inputs.len() as u32).put_u32(program.outputs.len() as u32);
    model.put_pointer(symbol("_ports"), 0).put_pointer(symbol("_ports"), program.inputs.len() as i64 * 144);
    model.put_u32(program.named_symbols() as u32).put_u32(all_steps.len() as u32);
    model.put_pointer(symbol("_symbols"), 0).put_pointer(symbol("_steps"), 0);
    model.put_u64(if fixed { arena + scratch } else { 0 }).put_u64(scratch);
    model.put_u64(code_bytes).put_u64(program.weight_bytes);
    for entry in ["plan", "run", "run_dl", "status"] {
        if entry == "run_dl" && program.allocates() {
            model.put_u64(0);
        } else {
            model.put_pointer(symbol(entry), 0);
        }
    }
    model.put_pointer(target_name, 0);
    if external_weights {
        model.put_pointer(weights_hash_symbol(prefix), 0);
    } else {
        model.put_u64(0);
    }
    model.put_u64(0);
    debug_assert_eq!(model.bytes.len(), 192);
    let operators = operators(program, &mut strings);
    let mut all = strings.objects;
    all.extend(operators);
    all.extend([messages, ports, symbols, steps, model]);
    if program.string_slots.is_some() {
        all.extend(super::strings::objects(prefix, &program.strings));
    }
    all
}

fn put_port(object: &mut DataObject, port: &Port, flags: u32, named_symbols: usize, strings: &mut Strings<'_>) {
    let ty = &port.ty;
    let name = strings.add(&port.name);
    object.put_pointer(name, 0).put_u32(1).put_u32(ty.rank() as u32);
    object.put(&dlpack(ty.dtype)).put_u32(onnx_number(ty.dtype));
    for axis in 0..MAX_RANK {
        let extent = ty.shape.get(axis).map_or(0, |d| d.as_const().unwrap_or(-1));
        object.put_u64(extent as u64);
    }
    for axis in 0..MAX_RANK {
        let named = |s: &Symbol| s.index() < named_symbols;
        let symbol = ty.shape.get(axis).and_then(Dim::as_symbol).filter(named).map_or(-1, |s| s.index() as i32);
        object.put_u32(symbol as u32);
    }
    let bytes = ty.static_len().and_then(|n| n.checked_mul(ty.dtype.port_bits().into()));
    let bytes = bytes.map_or(-1, |bits| bits.div_euclid(8) + i64::from(bits % 8 != 0));
    object.put_u64(bytes as u64).put_u64(0).put(&[0; 4]).put_u32(flags);
}

fn header(program: &Program, targets: &[Target]) -> HeaderModel {
    let carried: Vec<&str> = targets[1..].iter().map(Target::name).collect();
    let note = || format!("Carries code for {} too: the processor decides which of it runs.", carried.join(" and "));
    let port = |port: &Port| HeaderPort {
        name: port.name.clone(),
        what: {
            let dims: Vec<String> = port.ty.shape.iter().map(|d| d.display(&program.symbols).to_string()).collect();
            format!("{} [{}]", port.ty.dtype, dims.join(", "))
        },
    };
    HeaderModel {
        prefix: program.name.clone(),
        target: targets[0].name().to_owned(),
        inputs: program.inputs.iter().map(port).collect(),
        outputs: program.outputs.iter().map(port).collect(),
        symbols: program
            .symbols
            .iter()
            .take(program.named_symbols())
            .map(|s| program.symbols.name(s).to_owned())
            .collect(),
        notes: if carried.is_empty() { Vec::new() } else { vec![note()] },
    }
}
