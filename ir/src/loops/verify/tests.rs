//! Valid kernels pass, and what is wrong in others is named.

use cranelift_entity::EntityRef;

use super::*;
use crate::loops::parse::parse;

fn problems(body: &str) -> Vec<String> {
    let text = format!(
        "kernel \"t\" (\"n\") {{\n buffer @0 \"x\": f32 read\n buffer @1 \"y\": f32 write in_place @0\n body (%b, %e, %w) {{\n{body}\n yield\n }}\n}}\n"
    );
    match verify(&parse(&text).expect("the text parses")) {
        Ok(()) => vec![],
        Err(error) => {
            assert!(error.problems.iter().all(|(inst, _)| inst.is_none()) || error.text.contains("// "), "{error}");
            error.problems.into_iter().map(|(_, message)| message).collect()
        }
    }
}

#[test]
fn valid_kernels_pass() {
    let body = "%n: i64 = param 0
        %z: f32x4 = const 0.0
        for serial %i in %b..%e step 1 {
            %s: f32x4 = for serial %j in %b..%n step 4 carry (%c = %z) {
                %v: f32x4 = load @0[%i*%n + %j] first %n
                %t: f32x4 = mul_add.fused %v, %v, %c
                yield %t
            }
            %r: f32 = reduce.add %s
            store @1[%i], %r
            yield
        }";
    assert_eq!(problems(body), Vec::<String>::new());
}

#[test]
fn violations_are_named() {
    let cases = [
        ("%a: f32 = const 1.0\n%c: f32x4 = add %a, %a", "the result is f32x4, not f32"),
        ("%a: f32 = const 1.0\n%c: f32 = shl %a, %a", "there is no shl of f32"),
        ("%a: f32 = const 1.0\nstore @0[%b], %a", "@0 `x` is only read"),
        ("%a: f32 = load @0[%b + %b*3]", "%0 appears twice in the address"),
        ("%a: f32 = const 1.0\n%c: f32 = load @0[%a]", "an index is f32, not i64"),
        ("%a: f32 = load @0[0] first %b\n%m: bool = compare.lt %a, %b", "the second operand is i64, not f32"),
        ("for serial %i in %b..%e step 0 {\nyield\n}", "the step is positive"),
        ("for unrolled %i in %b..%e step 1 {\nyield\n}", "an unrolled loop has constant bounds"),
        (
            "%a: f32 = const 1.0\n%r: f32 = for serial %i in %b..%e step 1 carry (%c = %a) {\nyield %i\n}",
            "b1 yields (i64), not (f32)",
        ),
        (
            "for serial %i in %b..%e step 1 {\n%a: f32 = load @0[%i]\nyield\n}\nstore @1[0], %a",
            "%4 is not visible here",
        ),
        ("%p: i64 = param 7", "the kernel has 1 parameters"),
        (
            "%a: f32x6 = load @0[0]\n%r: f32 = reduce.add %a",
            "lanes that are combined pair up: their number is a power of two",
        ),
        ("%a: f32x4 = load @0[0]\n%r: f32 = extract %a, 4", "%3 has 4 lanes"),
        ("%a: i32x4 = load @0[0]", "the result is i32x4, not f32x4"),
        ("%a: f32x4 = load @0[0]\n%r: f32x4 = dot4.u8i8 %a, %a, %a", "the accumulator is f32x4, not i32x4"),
        ("%a: f32x4 = load @0[0]\n%r: f64x4 = bitcast %a", "f32 and f64 do not share a representation"),
        ("%a: f32 = load @0[0]\nif %a {\nyield\n} else {\nyield\n}", "the condition is f32, not bool"),
    ];
    for (body, message) in cases {
        let found = problems(body);
        assert!(found.iter().any(|p| p == message), "{body}\n{found:?}");
    }
}

#[test]
fn broken_references_are_found_without_a_panic() {
    let mut kernel = crate::loops::KernelBuilder::new("t").finish();
    let body = kernel.body;
    let inst = kernel
        .insts
        .push(super::super::InstRecord { data: InstData::Splat(Val::new(99)), results: smallvec::smallvec![] });
    kernel.blocks[body].insts.insert(0, inst);
    let error = verify(&kernel).expect_err("%99 does not exist");
    assert!(error.to_string().contains("%99"), "{error}");
}
