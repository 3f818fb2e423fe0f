//! A tiny hand-assembled x86-64 "model": code, a table, a descriptor with pointers, and weights.
//!
//! - `int net_pick(unsigned i)`: the table's word i, through a PC-relative address;
//! - `void net_copy(void *to, size_t bytes)`: copies from the weights' start, through the GOT and `memcpy`;
//! - `int net_answer(void)`: calls a local function;
//! - `net`: {name, net_pick, net_answer, weights + 64}.

use std::io::Write;

use onnxc_backend::object::weights::Weights;
use onnxc_backend::object::{CompiledFunction, DataObject, ObjectSpec, Reloc, Relocation};
use onnxc_backend::target::Target;

/// Bytes of the first chunk of weights.
pub const WEIGHTS: usize = 10_000;

/// Byte `index` of the weights.
pub fn weight(index: usize) -> u8 {
    (index * 7 % 251) as u8
}

fn function(name: &str, global: bool, code: &[u8], relocations: &[(u64, Reloc, &str)]) -> CompiledFunction {
    let relocation = |&(offset, kind, symbol): &(u64, Reloc, &str)| Relocation {
        offset,
        kind,
        symbol: symbol.to_owned(),
        addend: -4,
    };
    CompiledFunction {
        name: name.to_owned(),
        global,
        code: code.to_vec(),
        align: 16,
        relocations: relocations.iter().map(relocation).collect(),
        stack_bytes: 0,
        unwind: None,
    }
}

/// The object, compiled for `target`, whose machine is x86-64.
pub fn spec(target: &Target) -> ObjectSpec<'_> {
    // lea rax, [rip + net_table]; mov edi, edi; mov eax, [rax + rdi*4]; ret
    let pick = [0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x89, 0xff, 0x8b, 0x04, 0xb8, 0xc3];
    // mov rdx, rsi; mov rsi, [rip + net_weights@GOT]; sub rsp, 8; call memcpy; add rsp, 8; ret
    let copy = [
        0x48, 0x89, 0xf2, 0x48, 0x8b, 0x35, 0, 0, 0, 0, 0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4,
        0x08, 0xc3,
    ];
    // sub rsp, 8; call net_forty; add rsp, 8; add eax, 2; ret
    let answer = [0x48, 0x83, 0xec, 0x08, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 0x08, 0x83, 0xc0, 0x02, 0xc3];
    // mov eax, 40; ret
    let forty = [0xb8, 40, 0, 0, 0, 0xc3];

    let mut table = DataObject::new("net_table");
    for word in [3, 1, 4, 1, 5] {
        table.put_u32(word);
    }
    let mut descriptor = DataObject::new("net").exported();
    descriptor.put_pointer("net_name", 0).put_pointer("net_pick", 0).put_pointer("net_answer", 0);
    descriptor.put_pointer("net_weights", 64);

    let mut weights = Weights::new("net_weights");
    weights.push(WEIGHTS as u64, |out: &mut dyn Write| out.write_all(&(0..WEIGHTS).map(weight).collect::<Vec<_>>()));
    weights.push(3, |out: &mut dyn Write| out.write_all(&[9, 9, 9]));
    ObjectSpec {
        target,
        prefix: "net".to_owned(),
        functions: vec![
            function("net_pick", true, &pick, &[(3, Reloc::X86PCRel4, "net_table")]),
            function(
                "net_copy",
                true,
                &copy,
                &[(6, Reloc::X86GOTPCRel4, "net_weights"), (15, Reloc::X86CallPLTRel4, "memcpy")],
            ),
            function("net_answer", true, &answer, &[(5, Reloc::X86CallPCRel4, "net_forty")]),
            function("net_forty", false, &forty, &[]),
        ],
        data: vec![table, DataObject::c_string("net_name", "a network"), descriptor],
        weights: Some(weights),
        externals: vec![],
    }
}
