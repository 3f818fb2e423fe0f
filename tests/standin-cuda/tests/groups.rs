//! `wgmma` and `mbarrier`: operands lie where descriptors say, and what a device would let pass is reported.

mod common;

use common::{brain, bytes, half, numbers, words};
use onnxc_standin_cuda::{Grid, Map, Memory, Module, Report, launch};

/// Runs a kernel of one block on an image of shared memory, which its threads copy to `image`, and gives the words that
/// they store: `%rd0` is the thread's place in the output for `each` words.
fn run(body: &str, image: &[u8], threads: u32, each: u32) -> Result<Vec<u32>, Report> {
    run_mapped(body, image, threads, each, plain)
}

/// A map of the image as rows of 256 bytes, which boxes of 8 rows by 128 bytes are copied of.
fn plain(base: u64) -> Map {
    Map { element: 2, base, sizes: vec![100, 12], strides: vec![256], lengths: vec![64, 8], width: 128 }
}

/// The same with a tensor map of the image where it is.
fn run_mapped(body: &str, image: &[u8], threads: u32, each: u32, map: fn(u64) -> Map) -> Result<Vec<u32>, Report> {
    let per_thread = image.len() as u32 / 4 / threads;
    let copy: String = (0..per_thread)
        .map(|i| {
            let at = i * 4 * threads;
            format!("ld.global.b32 %r1, [%rd1+{at}];\nst.shared.b32 [%r2+{at}], %r1;\n")
        })
        .collect();
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 image[];\n\
         .visible .entry k(.param .u64 out, .param .u64 in, .param .align 64 .b8 map[128])\n{{\n.reg .pred %p<8>;\n.reg .b32 %r<32>;\n\
         .reg .f32 %f<64>;\n.reg .b64 %rd<16>;\nld.param.u64 %rd0, [out];\nld.param.u64 %rd1, [in];\n\
         mov.u32 %r0, %tid.x;\nmul.wide.u32 %rd2, %r0, {};\nadd.s64 %rd0, %rd0, %rd2;\nmul.wide.u32 %rd2, %r0, 4;\n\
         add.s64 %rd1, %rd1, %rd2;\nmov.u32 %r3, image;\nshl.b32 %r2, %r0, 2;\nadd.u32 %r2, %r2, %r3;\n{}\nret;\n}}\n",
        4 * each,
        body.replace("COPY", &copy)
    );
    let mut memory = Memory::default();
    let module = Module::load(&text, 90, &mut memory).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let size = u64::from(4 * each * threads);
    let (out, from) = (memory.allocate(size), memory.allocate(image.len() as u64));
    memory.range(from, image.len() as u64).unwrap().copy_from_slice(image);
    let mut params: Vec<u8> = [out, from].iter().flat_map(|p| p.to_le_bytes()).collect();
    params.resize(64, 0);
    params.extend(map(from).encode().expect("the map is one"));
    // Room for barriers behind the image.
    let grid = Grid { blocks: [1; 3], threads: [threads, 1, 1], dynamic_shared: image.len() as u32 + 64 };
    launch(module.kernel("k").unwrap(), &mut memory, &params, grid, true, &mut 1)?;
    Ok(words(memory.range(out, size).unwrap()))
}

fn complaint(body: &str, image: &[u8], threads: u32, each: u32) -> String {
    run(body, image, threads, each).expect_err("reports").text
}

/// A product of 64 rows and 8 columns, operands at 0 and 8192 with descriptors that have these upper bits.
fn product(instruction: &str, upper: [u64; 2], immediates: &str) -> String {
    let [a, b] = upper;
    format!(
        "COPY
fence.proxy.async.shared::cta;
bar.sync 0;
shr.u32 %r4, %r3, 4;
cvt.u64.u32 %rd3, %r4;
or.b64 %rd4, %rd3, {a};
add.s64 %rd5, %rd3, 512;
or.b64 %rd5, %rd5, {b};
mov.f32 %f0, 0f3F800000;
mov.f32 %f1, 0f3F800000;
mov.f32 %f2, 0f3F800000;
mov.f32 %f3, 0f3F800000;
setp.eq.u32 %p0, %r0, %r0;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.{instruction} {{%f0, %f1, %f2, %f3}}, %rd4, %rd5, %p0{immediates};
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
st.global.f32 [%rd0], %f0;
st.global.f32 [%rd0+4], %f1;
st.global.f32 [%rd0+8], %f2;
st.global.f32 [%rd0+12], %f3;"
    )
}

/// Patterns of 1024 bytes, 128 bytes wide, one after the other.
const ROWS: u64 = 1 << 62 | 64 << 32 | 1 << 16;
const HALVES: &str = "m64n8k16.f32.f16.f16";

/// Whether a product is that of `a` (64 rows) and `b` (8 rows) plus 1, as lanes hold it.
fn check(found: &[u32], a: &[i32], b: &[i32], depth: usize, what: &str) {
    for (thread, four) in found.chunks(4).enumerate() {
        for (i, &word) in four.iter().enumerate() {
            let (row, column) = (thread / 32 * 16 + thread % 32 / 4 + i / 2 * 8, thread % 4 * 2 + i % 2);
            let sum: i32 = 1 + (0..depth).map(|k| a[row * depth + k] * b[column * depth + k]).sum::<i32>();
            assert_eq!(f32::from_bits(word), sum as f32, "{what}: row {row}, column {column}");
        }
    }
}

/// An image of both operands, elements at the bytes that `place` says of row and depth.
fn image(
    operands: [&[i32]; 2],
    depth: usize,
    element: fn(i32) -> Vec<u8>,
    places: [fn(usize, usize) -> usize; 2],
) -> Vec<u8> {
    let mut all = vec![0; 8192 + 4096];
    for ((values, place), start) in operands.iter().zip(places).zip([0, 8192]) {
        for (i, &value) in values.iter().enumerate() {
            let (bytes, at) = (element(value), start + place(i / depth, i % depth));
            all[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    all
}

fn two(bits: u16) -> Vec<u8> {
    bits.to_le_bytes().to_vec()
}

/// Rows of 128 bytes, chunks exchanged by the row.
const MAJOR_K: fn(usize, usize) -> usize = |row, k| row * 128 + ((k / 8) ^ (row % 8)) * 16 + k % 8 * 2;
/// Depths of 64 rows.
const MAJOR_M: fn(usize, usize) -> usize = |row, k| k * 128 + ((row / 8) ^ (k % 8)) * 16 + row % 8 * 2;

#[test]
fn operands_lie_where_descriptors_say() {
    let (a, b) = (numbers(64 * 16, 3), numbers(8 * 16, 5));
    let halves = |places| image([&a, &b], 16, |x| two(half(x)), places);
    let by_k = halves([MAJOR_K, MAJOR_K]);
    let plain = run(&product(HALVES, [ROWS; 2], ", 1, 1, 0, 0"), &by_k, 128, 4).unwrap();
    check(&plain, &a, &b, 16, "major in K");
    let brains = image([&a, &b], 16, |x| two(brain(x)), [MAJOR_K; 2]);
    let found = run(&product("m64n8k16.f32.bf16.bf16", [ROWS; 2], ", 1, 1, 0, 0"), &brains, 128, 4).unwrap();
    check(&found, &a, &b, 16, "bf16");
    let by_m = halves([MAJOR_M, MAJOR_K]);
    let found = run(&product(HALVES, [ROWS; 2], ", 1, 1, 1, 0"), &by_m, 128, 4).unwrap();
    check(&found, &a, &b, 16, "major in M");
    // 64 rows in two patterns of 32, 2048 bytes apart, whose rows have 64 bytes.
    let narrow: fn(usize, usize) -> usize =
        |row, k| row / 32 * 2048 + k * 64 + ((row / 8 % 4) ^ (k / 2 % 4)) * 16 + row % 8 * 2;
    let upper = 2 << 62 | 32 << 32 | 128 << 16;
    let found = run(&product(HALVES, [upper, ROWS], ", 1, 1, 1, 0"), &halves([narrow, MAJOR_K]), 128, 4).unwrap();
    check(&found, &a, &b, 16, "major in M, 64 bytes wide");
    // No exchange: eight rows of 16 bytes, the next eight 256 bytes on, the second chunk 128 bytes on.
    let bare: fn(usize, usize) -> usize = |row, k| row / 8 * 256 + k / 8 * 128 + row % 8 * 16 + k % 8 * 2;
    let upper = 16 << 32 | 8 << 16;
    let found = run(&product(HALVES, [upper, ROWS], ", 1, 1, 0, 0"), &halves([bare, MAJOR_K]), 128, 4).unwrap();
    check(&found, &a, &b, 16, "without a swizzle");
    // Words, of which eight are a product's depth.
    let (a, b) = (numbers(64 * 8, 7), numbers(8 * 8, 11));
    let place: fn(usize, usize) -> usize = |row, k| row * 128 + ((k / 4) ^ (row % 8)) * 16 + k % 4 * 4;
    let words = image([&a, &b], 8, |x| (x as f32).to_le_bytes().to_vec(), [place; 2]);
    let found = run(&product("m64n8k8.f32.tf32.tf32", [ROWS; 2], ", 1, 1"), &words, 128, 4).unwrap();
    check(&found, &a, &b, 8, "tf32");
}

#[test]
fn wrong_descriptors_give_wrong_numbers_or_reports() {
    let (a, b) = (numbers(64 * 16, 3), numbers(8 * 16, 5));
    let memory = image([&a, &b], 16, |x| two(half(x)), [MAJOR_K; 2]);
    let right = run(&product(HALVES, [ROWS; 2], ", 1, 1, 0, 0"), &memory, 128, 4).unwrap();
    for upper in [64 << 32 | 1 << 16, 2 << 62 | 64 << 32, 1 << 62 | 32 << 32] {
        assert!(run(&product(HALVES, [upper, ROWS], ", 1, 1, 0, 0"), &memory, 128, 4).unwrap() != right, "{upper:#x}");
    }
    let wild = complaint(&product(HALVES, [1 << 62 | 4096 << 32, ROWS], ", 1, 1, 0, 0"), &memory, 128, 4);
    assert!(wild.contains("out of bounds"), "{wild}");
    let odd = complaint(&product(HALVES, [ROWS | 1 << 52, ROWS], ", 1, 1, 0, 0"), &memory, 128, 4);
    assert!(odd.contains("is no descriptor"), "{odd}");
}

#[test]
fn what_lacks_an_order_is_reported() {
    let memory = vec![0; 8192 + 4096];
    let right = product(HALVES, [ROWS; 2], ", 1, 1, 0, 0");
    assert!(run(&right, &memory, 128, 4).is_ok());
    for (without, what) in [
        ("wgmma.wait_group.sync.aligned 0;\n", "a wgmma under way will write"),
        ("wgmma.fence.sync.aligned;\n", "with no wgmma.fence since"),
        ("fence.proxy.async.shared::cta;\n", "with no fence.proxy.async since"),
        ("bar.sync 0;\n", "race in Shared memory"),
    ] {
        let said = complaint(&right.replace(without, ""), &memory, 128, 4);
        assert!(said.contains(what), "without {without}: {said}");
    }
    // What is read is overwritten before it is waited for.
    let early = right.replace("wgmma.wait_group", "st.shared.b32 [%r2], %r0;\nwgmma.wait_group");
    let said = complaint(&early, &memory, 128, 4);
    assert!(said.contains("race in Shared memory"), "{said}");
}

/// The second warp stores, the first waits and reads what it stored: a word for each lane at 0, the barrier at 4096.
const HANDED: &str = "
setp.eq.u32 %p0, %r0, 0;
@%p0 mbarrier.init.shared::cta.b64 [%r3+4096], 32;
@%p0 fence.mbarrier_init.release.cluster;
bar.sync 0;
setp.lt.u32 %p1, %r0, 32;
@%p1 bra READS;
st.shared.b32 [%r2], %r0;
mbarrier.arrive.shared::cta.b64 _, [%r3+4096];
bra END;
READS:
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3+4096], 0;
@!%p2 bra READS;
ld.shared.b32 %r4, [%r2+128];
st.global.b32 [%rd0], %r4;
END:";

#[test]
fn barriers_order_those_who_wait() {
    let memory = bytes([0; 1024]);
    let found = run(HANDED, &memory, 64, 1).unwrap();
    assert_eq!(found[..32], (32..64).collect::<Vec<u32>>()[..]);
    let said = complaint(&HANDED.replace("@!%p2 bra READS;\n", ""), &memory, 64, 1);
    assert!(said.contains("race in Shared memory"), "{said}");
    // Lanes that arrive by themselves hand on nothing that others of their warp did without a barrier.
    let alone = HANDED
        .replace("[%r3+4096], 32;", "[%r3+4096], 1;")
        .replace("mbarrier.arrive", "setp.eq.u32 %p3, %r0, 32;\n@%p3 mbarrier.arrive");
    assert!(complaint(&alone, &memory, 64, 1).contains("race in Shared memory"));
    let met = alone.replace("setp.eq.u32 %p3, %r0, 32;", "bar.warp.sync 0xffffffff;\nsetp.eq.u32 %p3, %r0, 32;");
    assert_eq!(run(&met, &memory, 64, 1).unwrap()[..32], (32..64).collect::<Vec<u32>>()[..]);
    // The other parity is that of the phase before the first: nothing is waited for.
    let said = complaint(&HANDED.replace("[%r3+4096], 0;", "[%r3+4096], 1;"), &memory, 64, 1);
    assert!(said.contains("race in Shared memory"), "{said}");
    let said = complaint(&HANDED.replace("[%r3+4096], 32;", "[%r3+4096], 33;"), &memory, 64, 1);
    assert!(said.contains("that nothing completes"), "{said}");
    let said = complaint(
        &HANDED.replace(
            "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3+4096]",
            "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3+4104]",
        ),
        &memory,
        64,
        1,
    );
    assert!(said.contains("no mbarrier was made here"), "{said}");
}

/// A box at column 64 and row 6, of which 36 columns and 6 rows are inside; each thread takes 8 words of it.
const BOXED: &str = "
mov.b64 %rd3, map;
cvta.param.u64 %rd4, %rd3;
setp.eq.u32 %p0, %r0, 0;
@%p0 mbarrier.init.shared::cta.b64 [%r3+4096], 1;
@%p0 fence.mbarrier_init.release.cluster;
bar.sync 0;
mov.u32 %r4, 64;
mov.u32 %r5, 6;
@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3+4096], 1024;
@%p0 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd4, {%r4, %r5}], [%r3+4096];
WAITS:
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3+4096], 0;
@!%p2 bra WAITS;
shl.b32 %r6, %r0, 5;
add.u32 %r6, %r6, %r3;
ld.shared.v4.b32 {%r7, %r8, %r9, %r10}, [%r6];
st.global.v4.b32 [%rd0], {%r7, %r8, %r9, %r10};
ld.shared.v4.b32 {%r7, %r8, %r9, %r10}, [%r6+16];
st.global.v4.b32 [%rd0+16], {%r7, %r8, %r9, %r10};";

#[test]
fn boxes_come_exchanged_with_zeros_outside() {
    let image: Vec<u8> = (0..4096u32).map(|i| (i * 7 + i / 256) as u8 | 1).collect();
    let found: Vec<u8> = bytes(run(BOXED, &image, 32, 8).unwrap());
    for (at, &byte) in found.iter().enumerate() {
        let (row, chunk, within) = (at / 128, (at / 16 % 8) ^ (at / 128 % 8), at % 16);
        let (y, x) = (row + 6, 128 + chunk * 16 + within);
        let wanted = if y < 12 && x < 200 { image[y * 256 + x] } else { 0 };
        assert_eq!(byte, wanted, "row {row}, byte {at}");
    }
}

#[test]
fn boxes_that_nothing_orders_are_reported() {
    let image = vec![0; 4096];
    let said = |from: &str, to: &str| {
        assert!(BOXED.contains(from), "{from}");
        complaint(&BOXED.replace(from, to), &image, 32, 8)
    };
    let early = said("@!%p2 bra WAITS;\n", "");
    assert!(early.contains("is under way"), "{early}");
    assert!(said("@%p0 fence.mbarrier_init.release.cluster;\n", "").contains("no fence.mbarrier_init"));
    for count in ["1023;", "2048;"] {
        assert!(said("1024;", count).contains("that nothing completes"));
    }
    assert!(said("[%r3], [%rd4", "[%r3+64], [%rd4").contains("multiple of 128 bytes"));
    assert!(said("map;", "in;").contains("no tensor map"));
    let two = "[%rd4, {%r4, %r5}], [%r3+4096];\n@%p0 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd4, {%r4, %r5}], [%r3+4096];\n";
    assert!(said("[%rd4, {%r4, %r5}], [%r3+4096];\n", two).contains("is under way"));
    // Rows behind the memory that there is.
    let far = |base| Map { sizes: vec![100, 64], ..plain(base) };
    let report =
        run_mapped(&BOXED.replace("mov.u32 %r5, 6;", "mov.u32 %r5, 16;"), &image, 32, 8, far).expect_err("out");
    assert!(report.text.contains("out of bounds in Global memory"), "{}", report.text);
    assert!(Map { strides: vec![250], ..plain(0) }.encode().is_none());
    assert!(Map { lengths: vec![128, 8], ..plain(0) }.encode().is_none());
}

#[test]
fn registers_are_given_to_groups() {
    let image = vec![0; 4096];
    let body = "setp.lt.u32 %p0, %r0, 128;\n@%p0 bra FEW;\nsetmaxnreg.inc.sync.aligned.u32 MANY;\nbra END;\nFEW:\n\
                setmaxnreg.dec.sync.aligned.u32 40;\nEND:";
    assert!(run(&body.replace("MANY", "232"), &image, 256, 1).is_ok());
    let said = complaint(&body.replace("MANY", "232").replace("128", "96"), &image, 256, 1);
    assert!(said.contains("not the same for all warps of a group"), "{said}");
    let said = complaint(&body.replace("MANY", "256"), &image, 512, 1);
    assert!(said.contains("65536 are there"), "{said}");
}
