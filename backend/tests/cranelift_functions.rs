//! Functions that Cranelift compiled go through the object writer, with their relocations and unwind tables.

use std::process::Command;
use std::sync::Arc;

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, Function, GlobalValueData, InstBuilder, MemFlagsData, Signature,
    UserExternalName, UserFuncName, types,
};
use cranelift_codegen::isa::{self, CallConv, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use object::{Object, ObjectSection, ObjectSymbol};
use onnxc_backend::object::emit;
use onnxc_backend::object::weights::Weights;
use onnxc_backend::object::{CompiledFunction, ObjectSpec};
use onnxc_backend::target::Target;

const NAMES: [&str; 3] = ["memcpy", "net_weights", "net_inner"];

fn isa(target: &Target) -> Arc<dyn TargetIsa> {
    let mut shared = settings::builder();
    shared.set("is_pic", "true").unwrap();
    let mut builder = isa::lookup(target.triple().clone()).unwrap();
    for setting in target.cranelift_settings() {
        builder.enable(setting).unwrap();
    }
    builder.finish(settings::Flags::new(shared)).unwrap()
}

/// `outer(to, callback)`: copies 16 bytes of weights to `to`, then calls `inner(callback)`, which calls `callback()`.
fn compile(name: &str, isa: &dyn TargetIsa) -> CompiledFunction {
    let pointer = AbiParam::new(types::I64);
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params = vec![pointer; if name == "net_inner" { 1 } else { 2 }];
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut context = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut function, &mut context);
    let block = builder.create_block();
    builder.append_block_params_for_function_params(block);
    builder.switch_to_block(block);
    builder.seal_block(block);
    let params = builder.block_params(block).to_vec();
    let user = |builder: &mut FunctionBuilder<'_>, index| {
        builder.func.declare_imported_user_function(UserExternalName::new(0, index))
    };
    if name == "net_inner" {
        let signature = builder.import_signature(Signature::new(CallConv::SystemV));
        builder.ins().call_indirect(signature, params[0], &[]);
    } else {
        let weights = user(&mut builder, 1);
        let weights = builder.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(weights),
            offset: 0.into(),
            colocated: false,
            tls: false,
        });
        let weights = builder.ins().symbol_value(types::I64, weights);
        let sixteen = builder.ins().iconst(types::I64, 16);
        let call = |builder: &mut FunctionBuilder<'_>, index, params: &[_], results: &[_], arguments: &[_]| {
            let name = user(builder, index);
            let mut signature = Signature::new(CallConv::SystemV);
            signature.params = params.to_vec();
            signature.returns = results.to_vec();
            let signature = builder.import_signature(signature);
            let colocated = index == 2;
            let data = ExtFuncData { name: ExternalName::user(name), signature, colocated, patchable: false };
            let callee = builder.import_function(data);
            builder.ins().call(callee, arguments);
        };
        call(&mut builder, 0, &[pointer; 3], &[pointer], &[params[0], weights, sixteen]);
        call(&mut builder, 2, &[pointer], &[], &[params[1]]);
        let first = builder.ins().load(types::I8, MemFlagsData::trusted(), weights, 0);
        builder.ins().store(MemFlagsData::trusted(), first, params[0], 0);
    }
    builder.ins().return_(&[]);
    builder.finalize(isa.frontend_config());
    let mut context = Context::for_function(function);
    context.compile(isa, &mut ControlPlane::default()).unwrap();
    let compiled = context.compiled_code().unwrap();
    let symbol_of = |name: &UserExternalName| NAMES[name.index as usize].to_owned();
    CompiledFunction::from_cranelift(name, name == "net_outer", &context.func, compiled, isa, symbol_of).unwrap()
}

fn spec(target: &Target) -> ObjectSpec<'_> {
    let isa = isa(target);
    let mut weights = Weights::new("net_weights");
    weights.push(16, |out: &mut dyn std::io::Write| out.write_all(b"sixteen weights\0"));
    ObjectSpec {
        target,
        prefix: "net".into(),
        functions: ["net_inner", "net_outer"].map(|name| compile(name, &*isa)).into(),
        data: vec![],
        weights: Some(weights),
        externals: vec![],
    }
}

#[test]
fn every_elf_target_takes_them() {
    for name in ["x86_64", "aarch64"] {
        let target = Target::parse(name).unwrap();
        let image = emit::object_image(&spec(&target)).unwrap();
        let file = object::File::parse(&image[..]).unwrap();
        let undefined: Vec<_> =
            file.symbols().filter(|symbol| symbol.is_undefined()).map(|symbol| symbol.name()).collect();
        assert_eq!(undefined.into_iter().filter(|name| *name != Ok("")).collect::<Vec<_>>(), [Ok("memcpy")], "{name}");
        let frames = file.section_by_name(".eh_frame").unwrap();
        assert_eq!(frames.relocations().count(), 2, "{name}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn they_run_after_loading() {
    use onnxc_backend::loader::LoadedModel;
    extern "C" fn callback() {}
    let target = Target::parse("x86_64").unwrap();
    let model = LoadedModel::load(emit::object_image(&spec(&target)).unwrap().into(), &[]).unwrap();
    let mut copied = [0u8; 16];
    // SAFETY: the function has this signature and writes 16 bytes.
    unsafe {
        let outer: extern "C" fn(*mut u8, extern "C" fn()) = std::mem::transmute(model.symbol("net_outer").unwrap());
        outer(copied.as_mut_ptr(), callback);
    }
    assert_eq!(&copied, b"sixteen weights\0");
}

const PROGRAM: &str = r#"
#include <execinfo.h>
#include <string.h>
void net_outer(char *to, void (*callback)(void));
static void *frames[8];
static int count;
static void callback(void) { count = backtrace(frames, 8); }
int main(void) {
    char text[16];
    net_outer(text, callback);
    if (strcmp(text, "sixteen weights") != 0) return 1;
    /* callback, net_inner, net_outer, main and what called main */
    if (count < 5) return 2;
    return (char *)frames[3] < (char *)main || (char *)frames[3] > (char *)main + 200;
}
"#;

#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
fn a_debugger_can_unwind_through_them() {
    let target = Target::parse("x86_64").unwrap();
    let folder = tempfile::tempdir().unwrap();
    emit::object_file(&spec(&target), &folder.path().join("net.o")).unwrap();
    std::fs::write(folder.path().join("main.c"), PROGRAM).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Werror", "-fomit-frame-pointer", "main.c", "net.o", "-o", "main"]);
    let output = compiler.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let ran = Command::new(folder.path().join("main")).status().unwrap();
    assert_eq!(ran.code(), Some(0));
}
