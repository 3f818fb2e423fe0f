//! Compiling a legalised kernel with Cranelift alone.

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;
use onnxc_backend::cranelift::kernel::{KernelOptions, translate};
use onnxc_backend::target::Target;
use onnxc_ir::loops::Kernel;

/// Cranelift's code of a legalised kernel. It must be whole in itself: no library call.
pub fn cranelift(legal: &Kernel, target: &Target) -> Vec<u8> {
    let mut shared = settings::builder();
    for (name, value) in [("is_pic", "true"), ("opt_level", "none"), ("enable_verifier", "true")] {
        shared.set(name, value).unwrap();
    }
    let mut builder = isa::lookup(target.triple().clone()).unwrap();
    for setting in target.cranelift_settings() {
        builder.enable(setting).unwrap();
    }
    let isa = builder.finish(settings::Flags::new(shared)).unwrap();
    let options = KernelOptions::of(target);
    let function = translate(legal, options, isa.frontend_config(), &mut FunctionBuilderContext::new());
    let mut context = Context::for_function(function);
    if let Err(e) = context.compile(&*isa, &mut ControlPlane::default()) {
        let message = format!("{:?}", e.inner);
        panic!("{target}: {message}\n{legal}\n{}", context.func.display());
    }
    let compiled = context.compiled_code().unwrap();
    assert!(compiled.buffer.relocs().is_empty(), "{target}: {:?}\n{legal}", compiled.buffer.relocs());
    compiled.buffer.data().to_vec()
}
