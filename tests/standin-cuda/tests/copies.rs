//! `cp.async` and a pipeline of it: data arrives when it is waited for, and what forgets to wait is reported.

mod common;

use common::{bytes, complaint, half, numbers, run, run_with, words};
use onnxc_standin_cuda::{Memory, Module};

/// A tile that a copy of a word to each thread's place overwrites, and a wait.
fn copy(after: &str) -> String {
    format!(
        ".shared .align 16 .b8 tile[512];\nmov.u32 %r1, tile;\nmad.lo.u32 %r2, %r0, 4, %r1;\nst.shared.u32 [%r2], 9;\n\
         cp.async.ca.shared.global [%r2], [%rd1], 4;\ncp.async.commit_group;\n{after}\n\
         ld.shared.u32 %r3, [%r2];\nst.global.u32 [%rd0], %r3;"
    )
}

#[test]
fn copies_arrive_when_waited_for() {
    let input = bytes((0..32).map(|i| i + 100));
    for wait in ["cp.async.wait_group 0;", "cp.async.wait_all;"] {
        assert_eq!(words(&run(&copy(wait), &input, 128, 32).unwrap())[3], 103);
    }
    for wait in ["", "cp.async.wait_group 1;"] {
        let report = complaint(&copy(wait), 32, 1);
        assert!(report.race && report.text.contains("nothing waited for it"), "{}", report.text);
        // Where races are not looked at, neither the old value nor the new one is there.
        let lost = words(&run_with(&copy(wait), &input, 128, [32, 1, 0], false).unwrap());
        assert_eq!(lost[3], u32::MAX);
    }
    // Two groups, of which the older one has arrived.
    let two = "cp.async.ca.shared.global [%r2+256], [%rd1], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;";
    assert_eq!(words(&run(&copy(two), &input, 128, 32).unwrap())[3], 103);
    let newer = copy(two).replace("ld.shared.u32 %r3, [%r2]", "ld.shared.u32 %r3, [%r2+256]");
    assert!(complaint(&newer, 32, 1).text.contains("nothing waited for it"));
}

#[test]
fn copies_of_all_sizes() {
    // 16 bytes of which `valid` are read, and the zeros behind them.
    let body = |how: &str, count: u32, valid: &str| {
        format!(
            ".shared .align 16 .b8 tile[16];\nmov.u32 %r1, tile;\nst.shared.v4.u32 [%r1], {{7, 7, 7, 7}};\n\
             cp.async.{how}.shared.global [%r1], [%rd1], {count}{valid};\ncp.async.wait_all;\n\
             ld.shared.v4.u32 {{%r2, %r3, %r4, %r5}}, [%r1];\nst.global.v4.u32 [%rd0], {{%r2, %r3, %r4, %r5}};"
        )
    };
    let input = bytes([1, 2, 3, 0x0405_0607]);
    let got = |how, count, valid| words(&run(&body(how, count, valid), &input, 16, 1).unwrap());
    assert_eq!(got("ca", 4, ""), [1, 7, 7, 7]);
    assert_eq!(got("ca", 8, ""), [1, 2, 7, 7]);
    assert_eq!(got("ca", 16, ""), [1, 2, 3, 0x0405_0607]);
    assert_eq!(got("cg", 16, ""), [1, 2, 3, 0x0405_0607]);
    assert_eq!(got("cg", 16, ", 14"), [1, 2, 3, 0x0607]);
    let hinted = body("cg", 16, "").replace("global [%r1]", "global.L2::128B [%r1]");
    assert_eq!(words(&run(&hinted, &input, 16, 1).unwrap())[2], 3);
    assert_eq!(got("ca", 8, ", 4"), [1, 0, 7, 7]);
    assert_eq!(got("cg", 16, ", 0"), [0; 4]);
    // What is not read may lie anywhere.
    assert_eq!(words(&run(&body("cg", 16, ", 4"), &input[..4], 16, 1).unwrap()), [1, 0, 0, 0]);
    let wild = body("cg", 16, ", 0").replace("[%rd1]", "[%rd1+4096]");
    assert_eq!(words(&run(&wild, &input, 16, 1).unwrap()), [0; 4]);
    assert!(complaint(&body("cg", 16, ", 17"), 1, 1).text.contains("is to read 17"));
    assert!(complaint(&body("ca", 8, "").replace("[%rd1]", "[%rd1+4]"), 1, 1).misaligned);
    assert!(
        complaint(&body("ca", 8, "").replace("async.ca.shared.global [%r1]", "async.ca.shared.global [%r1+12]"), 1, 1)
            .misaligned
    );
    assert!(complaint(&body("cg", 16, "").replace("[%rd1]", "[%rd1+128]"), 1, 1).text.contains("out of bounds"));
    let load = |how: &str, count: u32| {
        let text = format!(
            ".version 7.8\n.target sm_80\n.address_size 64\n.entry k()\n{{\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n\
             cp.async.{how}.shared.global [%r1], [%rd1], {count};\n}}"
        );
        Module::load(&text, 80, &mut Memory::default()).map(|_| ())
    };
    assert_eq!(load("cg", 16), Ok(()));
    assert!(load("cg", 8).is_err() && load("ca", 12).is_err());
}

#[test]
fn sources_must_stay() {
    let change = "st.global.u32 [%rd1], 5;\ncp.async.wait_all;";
    assert!(complaint(&copy(change), 32, 1).text.contains("changed before it was waited for"));
    let twice = "cp.async.ca.shared.global [%r2], [%rd1], 4;\ncp.async.wait_all;";
    assert!(complaint(&copy(twice), 32, 1).text.contains("is under way"));
    let some = "setp.lt.u32 %p1, %r0, 16;\n@%p1 cp.async.wait_all;";
    assert!(complaint(&copy(some), 32, 1).text.contains("whole warps"));
}

const STEPS: usize = 4;
const STAGES: usize = 3;

/// 32x8 = 32x64 times 64x8 in f16 by two warps: three stages of tiles, of which two are on their way. `early` gives the next
/// copies before the barrier.
fn pipeline(wait: &str, barrier: &str, early: bool) -> String {
    let mut body = String::from(
        "shr.u32 %r6, %r0, 1;\nand.b32 %r7, %r0, 1;\nshr.u32 %r8, %r0, 5;\nand.b32 %r9, %r0, 31;\nmov.u32 %r5, dynamic;\n\
         ld.param.u64 %rd3, [in];\nmul.wide.u32 %rd4, %r6, 128;\nadd.s64 %rd4, %rd3, %rd4;\nmul.wide.u32 %rd6, %r7, 16;\n\
         add.s64 %rd4, %rd4, %rd6;\nmul.wide.u32 %rd5, %r0, 16;\nadd.s64 %rd5, %rd3, %rd5;\n\
         mad.lo.u32 %r1, %r0, 16, %r5;\nadd.u32 %r2, %r1, 3072;\nsetp.lt.u32 %p1, %r0, 16;\n\
         and.b32 %r10, %r9, 15;\nshr.u32 %r11, %r9, 4;\nmad.lo.u32 %r3, %r8, 512, %r5;\nmad.lo.u32 %r3, %r10, 32, %r3;\n\
         mad.lo.u32 %r3, %r11, 16, %r3;\nmad.lo.u32 %r4, %r10, 16, %r5;\nadd.u32 %r4, %r4, 3072;\n\
         mov.f32 %f1, 0f00000000;\nmov.f32 %f2, %f1;\nmov.f32 %f3, %f1;\nmov.f32 %f4, %f1;\n",
    );
    let copies = |step: usize| {
        let stage = step % STAGES;
        let given = format!(
            "cp.async.cg.shared.global [%r1+{}], [%rd4+{}], 16;\n@%p1 cp.async.cg.shared.global [%r2+{}], [%rd5+{}], 16;\n",
            1024 * stage,
            32 * step,
            256 * stage,
            4096 + 256 * step
        );
        // Behind the end groups are empty, so that the count of those under way stays.
        format!("{}cp.async.commit_group;\n", if step < STEPS { given } else { String::new() })
    };
    (0..STAGES - 1).for_each(|step| body += &copies(step));
    for step in 0..STEPS {
        let next = copies(step + STAGES - 1);
        body += &if early { format!("{wait}\n{next}{barrier}\n") } else { format!("{wait}\n{barrier}\n{next}") };
        let stage = step % STAGES;
        body += &format!(
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r3+{}];\n\
             ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {{%r24, %r25}}, [%r4+{}];\n\
             mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%f1, %f2, %f3, %f4}}, {{%r20, %r21, %r22, %r23}}, \
             {{%r24, %r25}}, {{%f1, %f2, %f3, %f4}};\n",
            1024 * stage,
            256 * stage
        );
    }
    body + "ld.param.u64 %rd7, [out];\nmad.lo.u32 %r12, %r8, 512, 0;\nmad.lo.u32 %r12, %r9, 8, %r12;\ncvt.u64.u32 %rd8, %r12;\n\
            add.s64 %rd7, %rd7, %rd8;\nst.global.v2.f32 [%rd7], {%f1, %f2};\nst.global.v2.f32 [%rd7+256], {%f3, %f4};"
}

#[test]
fn a_pipeline_of_copies_is_right_and_its_mistakes_are_reported() {
    let (a, b) = (numbers(32 * 64, 5), numbers(64 * 8, 6));
    let input: Vec<u8> = a.iter().chain(&b).flat_map(|&x| half(x).to_le_bytes()).collect();
    let shared = (STAGES * (1024 + 256)) as u32;
    let result = |body: &str, races| run_with(body, &input, 1024, [64, 1, shared], races);
    let (wait, barrier) = ("cp.async.wait_group 1;", "bar.sync 0;");
    let out = words(&result(&pipeline(wait, barrier, false), true).unwrap());
    for row in 0..32 {
        for column in 0..8 {
            let want: i32 = (0..64).map(|k| a[row * 64 + k] * b[k * 8 + column]).sum();
            assert_eq!(f32::from_bits(out[row * 8 + column]), want as f32, "row {row}, column {column}");
        }
    }
    let fails = |wait, barrier, early| result(&pipeline(wait, barrier, early), true).expect_err("reports").text;
    for late in ["", "cp.async.wait_group 2;"] {
        let text = fails(late, barrier, false);
        assert!(text.contains("nothing waited for it"), "{text}");
        let lost = words(&result(&pipeline(late, barrier, false), false).unwrap());
        assert!(lost.iter().any(|&x| f32::from_bits(x).is_nan()));
    }
    // Without a barrier a warp reads what the other one copied; before it, one overwrites what the other still reads.
    for text in [fails(wait, "", false), fails(wait, barrier, true), fails(wait, "bar.warp.sync -1;", false)] {
        assert!(text.contains("race in Shared memory") || text.contains("nothing waited for it"), "{text}");
    }
    let text = fails(wait, barrier, true);
    assert!(text.contains("writes, thread") && text.contains("read it"), "{text}");
}

#[test]
fn shared_memory_has_an_end() {
    let result = |bytes: u32, dynamic| {
        let body = format!(".shared .align 16 .b8 tile[{bytes}];\nst.global.u32 [%rd0], %r0;");
        run_with(&body, &[], 128, [32, 1, dynamic], true).map(|_| ()).map_err(|report| report.text)
    };
    assert_eq!(result(16, 98 * 1024), Ok(()));
    assert!(result(16, 99 * 1024).unwrap_err().contains("bytes of shared memory"));
    let text = ".version 7.8\n.target sm_80\n.address_size 64\n.entry k()\n{\n.shared .b8 tile[49153];\nret;\n}";
    assert!(Module::load(text, 80, &mut Memory::default()).unwrap_err().contains("49153 bytes of shared memory"));
}
