//! Cranelift's compiled code in the object writer's terms.

use cranelift_codegen::ir::{ExternalName, Function, LibCall, UserExternalName};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{CodegenError, CompiledCode, FinalizedRelocTarget};

use super::{CompiledFunction, Relocation, Unwind};

impl CompiledFunction {
    /// Takes over what Cranelift compiled from `function`.
    ///
    /// `symbol_of` names what the function refers to. The unwind information is there when the instruction set's
    /// `unwind_info` setting is on.
    ///
    /// # Panics
    /// On a library call other than the `mem*` ones: legalised Loop IR leaves none.
    pub fn from_cranelift(
        name: impl Into<String>,
        global: bool,
        function: &Function,
        compiled: &CompiledCode,
        isa: &dyn TargetIsa,
        symbol_of: impl Fn(&UserExternalName) -> String,
    ) -> Result<Self, CodegenError> {
        let name = name.into();
        let relocations = compiled.buffer.relocs().iter().map(|reloc| {
            let (symbol, addend) = match &reloc.target {
                FinalizedRelocTarget::ExternalName(ExternalName::User(user)) => {
                    (symbol_of(&function.params.user_named_funcs()[*user]), reloc.addend)
                }
                FinalizedRelocTarget::ExternalName(ExternalName::LibCall(call)) => {
                    (libcall_symbol(&name, *call).to_owned(), reloc.addend)
                }
                FinalizedRelocTarget::ExternalName(other) => {
                    panic!("`{name}` refers to {other:?}, which has no symbol")
                }
                FinalizedRelocTarget::Func(offset) => (name.clone(), reloc.addend + i64::from(*offset)),
            };
            Relocation { offset: u64::from(reloc.offset), kind: reloc.kind, symbol, addend }
        });
        let relocations = relocations.collect();
        let align = compiled.buffer.alignment.max(isa.function_alignment().preferred);
        // The frame ends at the saved frame pointer, beside which lies the return address.
        let frame = compiled.buffer.frame_layout().map_or(0, |layout| layout.frame_to_fp_offset);
        Ok(Self {
            global,
            stack_bytes: frame + 16,
            code: compiled.buffer.data().to_vec(),
            align,
            relocations,
            unwind: if isa.flags().unwind_info() {
                compiled.create_unwind_info(isa)?.map(Unwind::Cranelift)
            } else {
                None
            },
            name,
        })
    }
}

fn libcall_symbol(function: &str, call: LibCall) -> &'static str {
    match call {
        LibCall::Memcpy => "memcpy",
        LibCall::Memmove => "memmove",
        LibCall::Memset => "memset",
        other => panic!("`{function}` calls {other}, which the legaliser must expand"),
    }
}
