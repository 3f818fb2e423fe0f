//! Each class of instructions on hand-written kernels, with results that PTX's definition gives.

mod common;

use common::{complaint, run, run_blocks, words};
use onnxc_standin_cuda::{Memory, Module};

/// One thread computes `%r1` from `%r2 = a` and `%r3 = b`.
fn word(body: &str, a: u32, b: u32) -> u32 {
    let input: Vec<u8> = [a, b].iter().flat_map(|w| w.to_le_bytes()).collect();
    let body = format!("ld.global.v2.u32 {{%r2, %r3}}, [%rd1];\n{body}\nst.global.u32 [%rd0], %r1;");
    words(&run(&body, &input, 4, 1).unwrap())[0]
}

/// One thread computes `%f1` from `%f2 = a` and `%f3 = b`.
fn float(body: &str, a: f32, b: f32) -> f32 {
    let body = format!("mov.b32 %f2, %r2;\nmov.b32 %f3, %r3;\n{body}\nmov.b32 %r1, %f1;");
    f32::from_bits(word(&body, a.to_bits(), b.to_bits()))
}

#[test]
fn integers() {
    let m = u32::MAX;
    assert_eq!(word("add.u32 %r1, %r2, %r3;", m, 3), 2);
    assert_eq!(word("sub.s32 %r1, %r2, %r3;", 1, 3), m - 1);
    assert_eq!(word("mul.lo.s32 %r1, %r2, %r3;", m, 5), (-5i32) as u32);
    assert_eq!(word("mul.hi.u32 %r1, %r2, %r3;", m, m), m - 1);
    assert_eq!(word("mul.hi.s32 %r1, %r2, %r3;", m, 1), m);
    assert_eq!(word("mad.lo.u32 %r1, %r2, %r3, 7;", 3, 4), 19);
    assert_eq!(word("mul.wide.s32 %rd3, %r2, %r3;\ncvt.u32.u64 %r1, %rd3;", m, 2), m - 1);
    assert_eq!(word("mul.wide.s32 %rd3, %r2, %r3;\nshr.u64 %rd3, %rd3, 32;\ncvt.u32.u64 %r1, %rd3;", m, 2), m);
    assert_eq!(word("mul.wide.u32 %rd3, %r2, %r3;\nshr.u64 %rd3, %rd3, 32;\ncvt.u32.u64 %r1, %rd3;", m, 2), 1);
    assert_eq!(word("div.s32 %r1, %r2, %r3;", (-7i32) as u32, 2), (-3i32) as u32);
    assert_eq!(word("rem.s32 %r1, %r2, %r3;", (-7i32) as u32, 2), m);
    assert_eq!(word("div.u32 %r1, %r2, %r3;", 7, 0), m);
    assert_eq!(word("min.s32 %r1, %r2, %r3;", m, 1), m);
    assert_eq!(word("min.u32 %r1, %r2, %r3;", m, 1), 1);
    assert_eq!(word("abs.s32 %r1, %r2;", m, 0), 1);
    assert_eq!(word("neg.s32 %r1, %r2;", 1, 0), m);
    assert_eq!(word("shl.b32 %r1, %r2, %r3;", 1, 32), 0);
    assert_eq!(word("shr.s32 %r1, %r2, %r3;", 0x8000_0000, 99), m);
    assert_eq!(word("shr.u32 %r1, %r2, %r3;", 0x8000_0000, 99), 0);
    assert_eq!(word("shf.l.wrap.b32 %r1, %r2, %r3, 8;", 0x1122_3344, 0x5566_7788), 0x6677_8811);
    assert_eq!(word("shf.r.clamp.b32 %r1, %r2, %r3, 40;", 1, 0x5566_7788), 0x5566_7788);
    assert_eq!(word("lop3.b32 %r1, %r2, %r3, 255, 0x96;", 0xF0, 0x3C), 0xF0 ^ 0x3C ^ 0xFF);
    assert_eq!(word("prmt.b32 %r1, %r2, %r3, 0x5410;", 0xAAAA_1122, 0xBBBB_3344), 0x3344_1122);
    assert_eq!(word("bfe.u32 %r1, %r2, 4, 8;", 0xABCD, 0), 0xBC);
    assert_eq!(word("bfe.s32 %r1, %r2, 4, 8;", 0xABCD, 0), 0xFFFF_FFBC);
    assert_eq!(word("bfi.b32 %r1, %r2, %r3, 8, 4;", 0x5, 0xFFFF), 0xF5FF);
    assert_eq!(word("popc.b32 %r1, %r2;", 0xF0F0, 0), 8);
    assert_eq!(word("clz.b32 %r1, %r2;", 0xFF, 0), 24);
    assert_eq!(word("brev.b32 %r1, %r2;", 1, 0), 0x8000_0000);
    assert_eq!(word("bfind.u32 %r1, %r2;", 0x100, 0), 8);
    assert_eq!(word("dp4a.s32.s32 %r1, %r2, %r3, 1;", 0xFF02_0304, 0x0101_0101), 9);
    assert_eq!(word("mov.b32 {%h1, %h2}, %r2;\nmov.b32 %r1, {%h2, %h1};", 0x1111_2222, 0), 0x2222_1111);
}

#[test]
fn floats() {
    assert_eq!(float("add.f32 %f1, %f2, %f3;", 1.5, 2.25), 3.75);
    assert_eq!(float("add.rz.f32 %f1, %f2, %f3;", 1.0, 1e-20), 1.0);
    assert_eq!(float("add.rp.f32 %f1, %f2, %f3;", 1.0, 1e-20), 1.0f32.next_up());
    assert_eq!(float("add.rm.f32 %f1, %f2, %f3;", 1.0, -1e-20), 1.0f32.next_down());
    assert_eq!(
        float("fma.rn.f32 %f1, %f2, %f3, 0fBF800000;", 1.0 + f32::EPSILON, 1.0 - f32::EPSILON),
        -f32::EPSILON * f32::EPSILON
    );
    assert_eq!(float("div.rn.f32 %f1, %f2, %f3;", 1.0, 3.0), 1.0 / 3.0);
    assert_eq!(float("sqrt.rn.f32 %f1, %f2;", 2.0, 0.0), 2.0f32.sqrt());
    assert_eq!(float("rcp.rn.f32 %f1, %f2;", 3.0, 0.0), 1.0 / 3.0);
    assert_eq!(float("min.f32 %f1, %f2, %f3;", f32::NAN, 2.0), 2.0);
    assert!(float("min.NaN.f32 %f1, %f2, %f3;", f32::NAN, 2.0).is_nan());
    assert!(float("max.f32 %f1, %f2, %f3;", -0.0, 0.0).is_sign_positive());
    assert_eq!(float("ex2.approx.f32 %f1, %f2;", 3.0, 0.0), 8.0);
    assert_eq!(float("lg2.approx.f32 %f1, %f2;", 8.0, 0.0), 3.0);
    assert_eq!(float("add.ftz.f32 %f1, %f2, %f3;", 1e-40, 0.0), 0.0);
    assert_eq!(float("mul.sat.f32 %f1, %f2, %f3;", 3.0, 2.0), 1.0);
    assert_eq!(float("neg.f32 %f1, %f2;", 3.0, 2.0), -3.0);
    assert_eq!(float("copysign.f32 %f1, %f2, %f3;", -3.0, 2.0), -2.0);
    assert_eq!(
        float(
            "cvt.f64.f32 %fd1, %f2;\nfma.rn.f64 %fd1, %fd1, %fd1, 0d3FF0000000000000;\ncvt.rn.f32.f64 %f1, %fd1;",
            3.0,
            0.0
        ),
        10.0
    );
    // 1 + 2^-11 is halfway between two numbers of f16.
    let half = "cvt.rn.f16.f32 %h1, %f2;\ncvt.rn.f16.f32 %h2, %f3;\n{op}\ncvt.f32.f16 %f1, %h3;";
    assert_eq!(float(&half.replace("{op}", "add.f16 %h3, %h1, %h2;"), 1.0, 2f32.powi(-11)), 1.0);
    assert_eq!(float(&half.replace("{op}", "mul.f16 %h3, %h1, %h2;"), 300.0, 300.0), f32::INFINITY);
    assert_eq!(float(&half.replace("{op}", "fma.rn.f16 %h3, %h1, %h2, %h2;"), 3.0, 4.0), 16.0);
    let pair = "cvt.rn.bf16x2.f32 %r4, %f2, %f3;\nfma.rn.bf16x2 %r4, %r4, %r4, %r4;\nmov.b32 {%h1, %h2}, %r4;\nmov.b32 %r5, {0, %h2};\nmov.b32 %f1, %r5;";
    assert_eq!(float(pair, 3.0, 5.0), 12.0);
}

#[test]
fn conversions() {
    let to_int = |ty: &str, x: f32| word(&format!("mov.b32 %f2, %r2;\ncvt.{ty}.f32 %r1, %f2;"), x.to_bits(), 0);
    assert_eq!(to_int("rzi.s32", -2.7), (-2i32) as u32);
    assert_eq!(to_int("rni.s32", 2.5), 2);
    assert_eq!(to_int("rmi.s32", -2.5), (-3i32) as u32);
    assert_eq!(to_int("rpi.u32", 2.1), 3);
    assert_eq!(to_int("rzi.u32", -5.0), 0);
    assert_eq!(to_int("rzi.s32", 1e20), i32::MAX as u32);
    assert_eq!(to_int("rzi.s32", f32::NAN), 0);
    assert_eq!(word("cvt.s32.s8 %r1, %r2;", 0x1FF, 0), u32::MAX);
    assert_eq!(word("cvt.u32.u8 %r1, %r2;", 0x1FF, 0), 0xFF);
    assert_eq!(word("cvt.sat.s8.s32 %r1, %r2;", 300, 0), 127);
    assert_eq!(word("cvt.sat.u8.s32 %r1, %r2;", (-4i32) as u32, 0), 0);
    assert_eq!(
        word("cvt.s64.s32 %rd3, %r2;\nshr.s64 %rd3, %rd3, 16;\ncvt.u32.u64 %r1, %rd3;", 0x8000_0000, 0),
        0xFFFF_8000
    );
    assert_eq!(float("cvt.rn.f32.u32 %f1, %r2;", f32::from_bits(0xFFFF_FFFF), 0.0), 4294967296.0);
    assert_eq!(float("cvt.rz.f32.u32 %f1, %r2;", f32::from_bits(0xFFFF_FFFF), 0.0), 4294967040.0);
    assert_eq!(float("cvt.rni.f32.f32 %f1, %f2;", 3.5, 0.0), 4.0);
    assert_eq!(float("cvt.sat.f32.f32 %f1, %f2;", f32::NAN, 0.0), 0.0);
    assert_eq!(float("cvt.rna.tf32.f32 %f1, %f2;", 1.0 + 2f32.powi(-11), 0.0), 1.0 + 2f32.powi(-10));
}

#[test]
fn predicates_and_selection() {
    let compare = |op: &str, a: f32, b: f32| {
        float(&format!("setp.{op}.f32 %p1, %f2, %f3;\nselp.f32 %f1, 0f3F800000, 0f00000000, %p1;"), a, b) == 1.0
    };
    assert!(compare("lt", 1.0, 2.0) && !compare("lt", f32::NAN, 2.0) && compare("ltu", f32::NAN, 2.0));
    assert!(compare("ne", 1.0, 2.0) && !compare("ne", f32::NAN, 2.0) && compare("neu", f32::NAN, 2.0));
    assert!(compare("nan", f32::NAN, 2.0) && !compare("num", f32::NAN, 2.0) && compare("equ", 2.0, 2.0));
    let both = "setp.lt.s32 %p1|%p2, %r2, %r3;\nselp.u32 %r1, 1, 2, %p2;";
    assert_eq!((word(both, u32::MAX, 1), word(both, 1, u32::MAX)), (2, 1));
    let and = "setp.gt.s32 %p1, %r2, 0;\nsetp.gt.and.s32 %p2, %r3, 0, %p1;\nselp.u32 %r1, 1, 0, %p2;";
    assert_eq!((word(and, 1, 1), word(and, 0, 1)), (1, 0));
    let logic = "setp.gt.s32 %p1, %r2, 0;\nsetp.gt.s32 %p2, %r3, 0;\nxor.pred %p3, %p1, %p2;\nnot.pred %p3, %p3;\n\
                 @%p3 mov.u32 %r1, 5;\n@!%p3 mov.u32 %r1, 6;";
    assert_eq!((word(logic, 1, 1), word(logic, 0, 1)), (5, 6));
    assert_eq!(
        word("mov.b32 %f2, %r2;\ntestp.finite.f32 %p1, %f2;\nselp.u32 %r1, 1, 0, %p1;", f32::INFINITY.to_bits(), 0),
        0
    );
}

#[test]
fn paths_meet_again() {
    // A loop of `tid` rounds, in which odd rounds take another path; then all threads shuffle.
    let body = "mov.u32 %r1, 0;\nmov.u32 %r2, 0;\n\
        LOOP:\nsetp.ge.u32 %p1, %r2, %r0;\n@%p1 bra DONE;\nand.b32 %r3, %r2, 1;\nsetp.eq.u32 %p2, %r3, 0;\n@%p2 bra EVEN;\n\
        add.u32 %r1, %r1, 10;\nbra NEXT;\nEVEN:\nadd.u32 %r1, %r1, 1;\nNEXT:\nadd.u32 %r2, %r2, 1;\nbra LOOP;\n\
        DONE:\nshfl.sync.bfly.b32 %r4, %r1, 1, 31, 0xffffffff;\nst.global.u32 [%rd0], %r4;";
    let out = words(&run(body, &[], 128, 32).unwrap());
    let rounds = |t: u32| t / 2 * 10 + t.div_ceil(2);
    assert_eq!(out, (0..32).map(|t| rounds(t ^ 1)).collect::<Vec<_>>());
    let early =
        "setp.gt.u32 %p1, %r0, 3;\n@%p1 bra OUT;\nst.global.u32 [%rd0], %r0;\nret;\nOUT:\nst.global.u32 [%rd0], 77;\n";
    assert_eq!(words(&run(early, &[], 32, 8).unwrap()), [0, 1, 2, 3, 77, 77, 77, 77]);
}

#[test]
fn warps_talk() {
    let each = |body: &str| words(&run(&format!("{body}\nst.global.u32 [%rd0], %r1;"), &[], 128, 32).unwrap());
    assert_eq!(each("shfl.sync.up.b32 %r1, %r0, 1, 0, -1;")[..4], [0, 0, 1, 2]);
    assert_eq!(each("shfl.sync.down.b32 %r1, %r0, 4, 31, -1;")[26..], [30, 31, 28, 29, 30, 31]);
    assert_eq!(
        each("shfl.sync.idx.b32 %r1, %r0, 3, 0x181f, -1;")[..16],
        [3, 3, 3, 3, 3, 3, 3, 3, 11, 11, 11, 11, 11, 11, 11, 11]
    );
    let odd = "and.b32 %r2, %r0, 1;\nsetp.eq.u32 %p1, %r2, 1;\n";
    assert_eq!(each(&format!("{odd}vote.sync.ballot.b32 %r1, %p1, -1;"))[5], 0xAAAA_AAAA);
    assert_eq!(each(&format!("{odd}vote.sync.any.pred %p2, %p1, -1;\nselp.u32 %r1, 1, 0, %p2;"))[0], 1);
    assert_eq!(each(&format!("{odd}vote.sync.all.pred %p2, %p1, -1;\nselp.u32 %r1, 1, 0, %p2;"))[1], 0);
    assert_eq!(each("redux.sync.add.s32 %r1, %r0, -1;")[7], 31 * 16);
    assert_eq!(each(&format!("{odd}match.any.sync.b32 %r1, %r2, -1;"))[0], 0x5555_5555);
    let apart = format!("{odd}@%p1 bra ODD;\nshfl.sync.bfly.b32 %r1, %r0, 2, 31, -1;\nODD:");
    assert!(run(&apart, &[], 128, 32).unwrap_err().text.contains("members"));
}

#[test]
fn memory_of_all_spaces() {
    let reverse = ".shared .align 4 .b8 tile[256];\nmov.u32 %r1, tile;\nmad.lo.u32 %r2, %r0, 4, %r1;\nst.shared.u32 [%r2], %r0;\n\
        bar.sync 0;\nsub.u32 %r3, 63, %r0;\nmad.lo.u32 %r4, %r3, 4, %r1;\nld.shared.u32 %r5, [%r4];\nst.global.u32 [%rd0], %r5;";
    assert_eq!(words(&run(reverse, &[], 256, 64).unwrap()), (0..64).rev().collect::<Vec<u32>>());
    let local = ".local .align 4 .b8 mine[16];\nmov.u64 %rd3, mine;\nst.local.u32 [%rd3+4], %r0;\ncvta.local.u64 %rd4, %rd3;\n\
        ld.u32 %r1, [%rd4+4];\nst.global.u32 [%rd0], %r1;";
    assert_eq!(words(&run(local, &[], 128, 32).unwrap())[31], 31);
    let bytes =
        "ld.global.s8 %r1, [%rd1];\nld.global.u8 %r2, [%rd1];\nadd.u32 %r1, %r1, %r2;\nst.global.u32 [%rd0], %r1;";
    assert_eq!(words(&run(bytes, &[0x80, 0, 0, 0], 4, 1).unwrap()), [0]);
    let atomic = "ld.param.u64 %rd3, [out];\nld.param.u64 %rd4, [in];\nmov.u32 %r1, 1;\natom.global.add.u32 %r2, [%rd4], %r1;\nst.global.u32 [%rd0], %r2;";
    let mut out = words(&run(atomic, &[0; 4], 256, 64).unwrap());
    out.sort_unstable();
    assert_eq!(out, (0..64).collect::<Vec<u32>>());
}

#[test]
fn wild_accesses_are_reported() {
    let after = complaint("st.global.u32 [%rd0+252], %r0;", 2, 1);
    assert!(after.text.contains("thread 1") && after.text.contains("out of bounds"), "{}", after.text);
    assert!(after.text.contains("256 bytes into an allocation of 256"), "{}", after.text);
    assert!(complaint("ld.global.u32 %r1, [%rd1+128];", 1, 1).text.contains("line 19"));
    assert!(complaint("ld.global.u32 %r1, [%rd1+2];", 1, 1).misaligned);
    assert!(complaint("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+8];", 1, 1).misaligned);
    assert!(complaint(".shared .b8 t[16];\nst.shared.u32 [t+16], %r0;", 1, 1).text.contains("16 bytes"));
    assert!(complaint("mov.u64 %rd3, 0;\nld.global.u32 %r1, [%rd3];", 1, 1).text.contains("in no allocation"));
}

#[test]
fn races_are_reported() {
    let shared = ".shared .align 4 .b8 t[256];\nmov.u32 %r1, t;\nmad.lo.u32 %r2, %r0, 4, %r1;\nst.shared.u32 [%r2], %r0;\n{between}\n\
        xor.b32 %r3, %r2, 4;\nld.shared.u32 %r4, [%r3];\nst.global.u32 [%rd0], %r4;";
    assert!(complaint(&shared.replace("{between}", ""), 64, 1).race);
    assert!(run(&shared.replace("{between}", "bar.sync 0;"), &[], 256, 64).is_ok());
    // Neighbours are of one warp, whose own barrier is enough; threads of two warps want the block's.
    assert!(run(&shared.replace("{between}", "bar.warp.sync -1;"), &[], 256, 64).is_ok());
    assert!(
        complaint(&shared.replace("{between}", "bar.warp.sync -1;").replace("%r2, 4;\nld", "%r2, 128;\nld"), 64, 1)
            .race
    );
    let all = "ld.param.u64 %rd3, [out];\nst.global.u32 [%rd3], 1;";
    assert!(complaint(all, 2, 1).text.contains("wrote it"));
    assert!(complaint(all, 1, 2).race);
    // Written after others read it.
    let late =
        "ld.param.u64 %rd3, [in];\nld.global.u32 %r1, [%rd3];\nsetp.eq.u32 %p1, %r0, 1;\n@%p1 st.global.u32 [%rd3], 1;";
    assert!(complaint(late, 2, 1).race);
    assert!(run(&late.replace("setp", "bar.warp.sync -1;\nsetp"), &[0; 256], 4, 32).is_ok());
    // Bytes side by side are no race, nor are atomic operations.
    let bytes =
        "ld.param.u64 %rd3, [out];\ncvt.u64.u32 %rd4, %r0;\nadd.s64 %rd3, %rd3, %rd4;\nst.global.u8 [%rd3], %r0;";
    assert_eq!(run(bytes, &[], 32, 32).unwrap()[31], 31);
    let red = "ld.param.u64 %rd3, [in];\nred.global.add.f32 [%rd3], 0f3F800000;";
    assert!(run_blocks(red, &[0; 256], 4, 32, 2).is_ok());
}

#[test]
fn barriers_want_all() {
    let some = "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra A;\nbra B;\nA:\nbar.sync 0;\nB:";
    assert!(complaint(some, 32, 1).text.contains("a part of a warp"));
    let ids = "mov.u32 %r1, %warpid;\nbar.sync %r1;";
    assert!(complaint(ids, 64, 1).text.contains("never reach"));
}

#[test]
fn what_is_not_in_the_subset_is_refused() {
    let load = |line: &str, capability| {
        let text =
            format!(".version 7.8\n.target sm_80\n.address_size 64\n.entry k()\n{{\n.reg .b32 %r<4>;\n{line}\n}}");
        Module::load(&text, capability, &mut Memory::default()).map(|_| ())
    };
    assert_eq!(load("add.u32 %r1, %r2, %r3;", 80), Ok(()));
    assert!(load("frobnicate.u32 %r1, %r2;", 80).unwrap_err().contains("line 7"));
    assert!(load("add.u32 %r1, %r2, %r9;", 80).unwrap_err().contains("'%r9' is no register"));
    assert!(load("bra NOWHERE;", 80).unwrap_err().contains("NOWHERE"));
    assert!(load("ret;", 75).unwrap_err().contains("compute capability 7.5"));
}
