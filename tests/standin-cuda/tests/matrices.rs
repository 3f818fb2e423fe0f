//! `ldmatrix` and `mma.sync`: every operand's element lies where PTX's tables of fragments say, in all types.

mod common;

use common::{brain, bytes, complaint, half, numbers, run, words};
use onnxc_standin_cuda::{Memory, Module};

/// A product with 16 rows and 8 columns.
struct Product {
    /// What follows `mma.sync.aligned.`.
    name: &'static str,
    k: usize,
    /// Bits of an element of A and B.
    bits: usize,
    element: fn(i32) -> u32,
    /// Bits of a sum, and one that is a whole number.
    sum: (usize, fn(i32) -> u32),
    /// Row and column of element `i` of A in lane `4 g + t`, as the table says.
    a: fn(usize, usize, usize) -> (usize, usize),
    /// The same of B.
    b: fn(usize, usize, usize) -> (usize, usize),
}

const F32: (usize, fn(i32) -> u32) = (32, |x| (x as f32).to_bits());
const F16: (usize, fn(i32) -> u32) = (16, |x| u32::from(half(x)));
const S32: (usize, fn(i32) -> u32) = (32, |x| x as u32);

/// 16-bit elements: A has a0, a1 in row g, a2, a3 in row g + 8, and a4 to a7 the same 8 columns on.
const A16: fn(usize, usize, usize) -> (usize, usize) = |g, t, i| {
    let row = if i < 2 || (4..6).contains(&i) { g } else { g + 8 };
    (row, 2 * t + (i & 1) + if i < 4 { 0 } else { 8 })
};
const B16: fn(usize, usize, usize) -> (usize, usize) = |g, t, i| (2 * t + (i & 1) + if i < 2 { 0 } else { 8 }, g);
const A32: fn(usize, usize, usize) -> (usize, usize) =
    |g, t, i| (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 });
const B32: fn(usize, usize, usize) -> (usize, usize) = |g, t, i| (if i == 0 { t } else { t + 4 }, g);
const A8: fn(usize, usize, usize) -> (usize, usize) = |g, t, i| {
    let row = if i < 4 || (8..12).contains(&i) { g } else { g + 8 };
    (row, 4 * t + (i & 3) + if i < 8 { 0 } else { 16 })
};
const B8: fn(usize, usize, usize) -> (usize, usize) = |g, t, i| (4 * t + (i & 3) + if i < 4 { 0 } else { 16 }, g);

fn halves(x: i32) -> u32 {
    u32::from(half(x))
}
fn brains(x: i32) -> u32 {
    u32::from(brain(x))
}
fn floats(x: i32) -> u32 {
    (x as f32).to_bits()
}
fn signed(x: i32) -> u32 {
    u32::from(x as i8 as u8)
}
/// Numbers above 127, so that signs matter.
fn unsigned(x: i32) -> u32 {
    (x + 200) as u32
}

const PRODUCTS: [Product; 10] = [
    Product { name: "m16n8k16.row.col.f32.f16.f16.f32", k: 16, bits: 16, element: halves, sum: F32, a: A16, b: B16 },
    Product { name: "m16n8k16.row.col.f16.f16.f16.f16", k: 16, bits: 16, element: halves, sum: F16, a: A16, b: B16 },
    Product { name: "m16n8k16.row.col.f32.bf16.bf16.f32", k: 16, bits: 16, element: brains, sum: F32, a: A16, b: B16 },
    Product { name: "m16n8k8.row.col.f32.f16.f16.f32", k: 8, bits: 16, element: halves, sum: F32, a: A16, b: B16 },
    Product { name: "m16n8k8.row.col.f32.bf16.bf16.f32", k: 8, bits: 16, element: brains, sum: F32, a: A16, b: B16 },
    Product { name: "m16n8k8.row.col.f32.tf32.tf32.f32", k: 8, bits: 32, element: floats, sum: F32, a: A32, b: B32 },
    Product { name: "m16n8k4.row.col.f32.tf32.tf32.f32", k: 4, bits: 32, element: floats, sum: F32, a: A32, b: B32 },
    Product { name: "m16n8k32.row.col.s32.s8.s8.s32", k: 32, bits: 8, element: signed, sum: S32, a: A8, b: B8 },
    Product { name: "m16n8k32.row.col.s32.u8.u8.s32", k: 32, bits: 8, element: unsigned, sum: S32, a: A8, b: B8 },
    Product { name: "m16n8k16.row.col.s32.s8.s8.s32", k: 16, bits: 8, element: signed, sum: S32, a: A8, b: B8 },
];

fn names(first: usize, count: usize) -> String {
    let all: Vec<String> = (first..first + count).map(|i| format!("%r{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

#[test]
fn products_in_all_types() {
    for p in &PRODUCTS {
        // What the element's bits stand for: unsigned ones are shifted.
        let meant = |x: i32| if p.name.contains("u8") { x + 200 } else { x };
        let (a, b, c) = (numbers(16 * p.k, 1), numbers(p.k * 8, 2), numbers(16 * 8, 3));
        let (per, sums) = (32 / p.bits, 32 / p.sum.0);
        let (na, nb, nc) = (16 * p.k / 32 / per, p.k * 8 / 32 / per, 4 / sums);
        let mut input = vec![0u32; 32 * (na + nb + nc)];
        let place = |i: usize| (4 * (i / 2), i & 1);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for i in 0..na * per {
                let (row, column) = (p.a)(g, t, i);
                input[32 * (i / per) + lane] |= (p.element)(a[row * p.k + column]) << (p.bits * (i % per));
            }
            for i in 0..nb * per {
                let (row, column) = (p.b)(g, t, i);
                input[32 * (na + i / per) + lane] |= (p.element)(b[row * 8 + column]) << (p.bits * (i % per));
            }
            for i in 0..4 {
                let (row, column) = (g + 2 * place(i).0, 2 * t + place(i).1);
                input[32 * (na + nb + i / sums) + lane] |= (p.sum.1)(c[row * 8 + column]) << (p.sum.0 * (i % sums));
            }
        }
        let loads: String =
            (0..na + nb + nc).map(|i| format!("ld.global.u32 %r{}, [%rd1+{}];\n", 10 + i, 128 * i)).collect();
        let stores: String = (0..nc).map(|i| format!("st.global.u32 [%rd0+{}], %r{};\n", 128 * i, 40 + i)).collect();
        let [d, a_names, b_names, c_names] =
            [(40, nc), (10, na), (10 + na, nb), (10 + na + nb, nc)].map(|(first, count)| names(first, count));
        let body = format!("{loads}mma.sync.aligned.{} {d}, {a_names}, {b_names}, {c_names};\n{stores}", p.name);
        let out = words(&run(&body, &bytes(input), 128 * nc as u64, 32).unwrap());
        for row in 0..16 {
            for column in 0..8 {
                let products = (0..p.k).map(|k| meant(a[row * p.k + k]) * meant(b[k * 8 + column]));
                let want = (p.sum.1)(c[row * 8 + column] + products.sum::<i32>());
                let (lane, i) = (4 * (row % 8) + column / 2, 2 * (row / 8) + column % 2);
                let got = out[32 * (i / sums) + lane] >> (p.sum.0 * (i % sums));
                let got = if p.sum.0 == 16 { got & 0xFFFF } else { got };
                assert_eq!(got, want, "{}: row {row}, column {column}", p.name);
            }
        }
    }
}

#[test]
fn loads_of_matrices() {
    // Row r of all, that of lane r, holds 8 r to 8 r + 7, and lies somewhere else in the tile.
    let input = bytes((0..32 * 4).map(|i| (2 * i) | ((2 * i + 1) << 16)));
    for (count, name) in [(1, "x1"), (2, "x2"), (4, "x4")] {
        for transposed in [false, true] {
            // The other lanes' addresses are not looked at.
            let body = format!(
                ".shared .align 16 .b8 tile[512];\nmul.wide.u32 %rd3, %r0, 12;\nadd.s64 %rd3, %rd1, %rd3;\n\
                 ld.global.v4.u32 {{%r5, %r6, %r7, %r8}}, [%rd3];\nmov.u32 %r1, tile;\nmad.lo.u32 %r2, %r0, 5, 3;\n\
                 and.b32 %r2, %r2, 31;\nmad.lo.u32 %r1, %r2, 16, %r1;\nst.shared.v4.u32 [%r1], {{%r5, %r6, %r7, %r8}};\n\
                 bar.warp.sync -1;\nsetp.ge.u32 %p1, %r0, {};\nselp.u32 %r1, 0xFFFF01, %r1, %p1;\n\
                 ldmatrix.sync.aligned.m8n8.{name}{}.shared.b16 {}, [%r1];\n{}",
                8 * count,
                if transposed { ".trans" } else { "" },
                names(10, count),
                (0..count).map(|i| format!("st.global.u32 [%rd0+{}], %r{};\n", 128 * i, 10 + i)).collect::<String>(),
            );
            let out = words(&run(&body, &input, 128 * count as u64, 32).unwrap());
            for m in 0..count {
                for lane in 0..32 {
                    let at = |row: usize, column: usize| (8 * (8 * m + row) + column) as u32;
                    let (g, t) = (lane / 4, lane % 4);
                    let want = if transposed {
                        at(2 * t, g) | at(2 * t + 1, g) << 16
                    } else {
                        at(g, 2 * t) | at(g, 2 * t + 1) << 16
                    };
                    assert_eq!(out[32 * m + lane], want, "{name}, transposed {transposed}, matrix {m}, lane {lane}");
                }
            }
        }
    }
}

#[test]
fn wrong_uses_are_reported() {
    let tile = ".shared .align 16 .b8 tile[512];\nmov.u32 %r1, tile;\nmad.lo.u32 %r1, %r0, 16, %r1;\n";
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r1];";
    assert!(complaint(&format!("{tile}add.u32 %r1, %r1, 8;\n{load}"), 32, 1).misaligned);
    assert!(complaint(&format!("{tile}add.u32 %r1, %r1, 16;\n{load}"), 32, 1).text.contains("out of bounds"));
    assert!(complaint(&format!("{tile}{load}"), 16, 1).text.contains("a part of a warp"));
    // Another lane wrote the row.
    let write = format!("{tile}xor.b32 %r2, %r1, 16;\nst.shared.u32 [%r2], 1;\n{load}");
    assert!(complaint(&write, 32, 1).race);
    let product = "setp.lt.u32 %p1, %r0, 8;\n@%p1 mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 \
                   {%f1, %f2, %f3, %f4}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f2, %f3, %f4};";
    assert!(complaint(product, 32, 1).text.contains("a part of a warp"));
}

#[test]
fn products_outside_of_the_subset_are_refused() {
    let load = |line: &str| {
        let text =
            format!(".version 7.8\n.target sm_80\n.address_size 64\n.entry k()\n{{\n.reg .b32 %r<9>;\n{line}\n}}");
        Module::load(&text, 80, &mut Memory::default()).map(|_| ())
    };
    let product = |name: &str| {
        let four = "{%r1, %r2, %r3, %r4}";
        load(&format!("mma.sync.aligned.{name} {four}, {four}, {{%r5, %r6}}, {four};"))
    };
    assert_eq!(product("m16n8k16.row.col.f32.f16.f16.f32"), Ok(()));
    for name in [
        "m16n8k16.col.row.f32.f16.f16.f32",
        "m16n8k16.row.col.f32.f16.bf16.f32",
        "m16n8k16.row.col.f16.f16.f16.f16",
        "m16n8k32.row.col.satfinite.s32.s8.s8.s32",
        "m8n8k4.row.col.f32.f16.f16.f32",
    ] {
        assert!(product(name).is_err(), "{name}");
    }
    assert!(load("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r2];").is_err());
}
