//! Printing and parsing are inverse, and errors have lines.

use super::super::{Attend, Digit, Digits, Tile, TileOperand};
use super::*;
use crate::loops::KernelBuilder;
use crate::loops::legalize::{Caps, legalize};
use crate::loops::verify::verify;

/// A kernel with every kind of instruction.
fn all_kinds() -> Kernel {
    let mut b = KernelBuilder::new("all \"kinds\"\u{7}");
    let x = b.buffer("x", DType::F32, Access::Read, None);
    let y = b.buffer("y", DType::F32, Access::Write, Some(64));
    b.allow_in_place(y, x);
    let bytes = b.buffer("bytes", DType::U8, Access::Read, None);
    let sums = b.buffer("sums", DType::I32, Access::Write, None);
    let tmp = b.buffer("tmp", DType::F32, Access::Scratch, Some(256));
    let n = b.param("n");
    b.task_loop(|b, task| {
        let at = Address::at(-3).plus(task, Stride::Const(8)).plus(n, Stride::Value(task));
        b.prefetch(x, at.clone(), Locality::L2);
        let v = b.load(x, at.clone(), 8, Some(n));
        let s = b.load_splat(x, at.clone(), 8);
        let iota = b.iota(DType::I64, 8);
        let g = b.gather(x, at.clone(), iota, None);
        let inf = b.constant(Scalar::f32(f32::INFINITY), 8);
        let half = b.constant(Scalar::f32(-0.5), 8);
        let f = b.mul_add(v, s, g, FmaMode::Fused);
        let f = b.mul_add(f, half, inf, FmaMode::Separate);
        let t = b.unary(UnaryOp::Tanh, f);
        let mask = b.compare(CmpOp::Le, t, v);
        let t = b.select(mask, t, v);
        let bits = b.bitcast(DType::I32, t);
        let wide = b.cast(DType::F64, bits);
        let back = b.cast(DType::F32, wide);
        let sh = b.shuffle(back, t, &[7, 9, 0, 15, 1, 2, 3, 4]);
        let total = b.reduce_lanes(BinaryOp::Max, sh);
        let one = b.extract(sh, 3);
        let sum = b.binary(BinaryOp::Add, total, one);
        let all = b.splat(sum, 8);
        b.store(tmp, Address::at(0), all, None);
        b.scatter(y, at, iota, all, Some(n));
        let cond = b.index_compare(CmpOp::Lt, task, n);
        let digits = |list: &[Digit]| Digits::from_slice(list);
        let whole = digits(&[Digit { size: 0, stride: Stride::Value(n) }]);
        let two = digits(&[Digit { size: 0, stride: Stride::Const(16) }, Digit { size: 4, stride: Stride::Const(-1) }]);
        let lhs = TileOperand {
            buffer: x,
            address: Address::at(2).plus(task, Stride::Const(8)),
            first: task,
            bound: n,
            rows: whole.clone(),
            depth: two.clone(),
        };
        let rhs = TileOperand { rows: two, depth: whole, ..lhs.clone() };
        let (kind, pitch) = (TileKind::Tf32, 16);
        let (body, row) = b.begin_tile();
        b.store(y, Address::at(0).plus(row, Stride::Const(1)), one, None);
        let [queries, keys, values] = [&lhs, &rhs, &lhs].map(TileOperand::clone);
        b.end_tile(Tile { kind, rows: 16, cols: 16, band: 16, depth: n, lhs, rhs, sums: tmp, pitch, body });
        let (score, [row, column, product]) = b.begin_score();
        let mask = b.load(x, Address::at(0).plus(row, Stride::Const(8)).plus(column, Stride::Const(1)), 1, None);
        let sum = b.binary(BinaryOp::Add, product, mask);
        b.close_block(&[sum]);
        let body = b.open_block(&[]);
        b.store(y, Address::at(0), one, None);
        let (rows, depth, width) = (16, 8, 16);
        b.end_attend(Attend { kind, rows, depth, width, queries, keys, values, sums: tmp, pitch, score, body });
        let chosen = b.if_(cond, |_| vec![total, one], |_| vec![one, one]);
        let looped = b.while_(&[chosen[0]], |b, c| {
            let next = b.binary(BinaryOp::Mul, c[0], chosen[1]);
            (cond, vec![next])
        });
        let r = b.for_(LoopKind::Unrolled, 0.into(), 4.into(), 2, &looped, |b, _, c| vec![b.unary(UnaryOp::Neg, c[0])]);
        b.store(y, Address::at(0), r[0], None);
        let words = b.load_words(bytes, Address::at(0), 8);
        let word = b.load_word_splat(bytes, Address::at(3), 8);
        let dots = b.dot4(words, word, bits, [DType::U8, DType::I8]);
        b.store(sums, Address::at(0), dots, None);
    });
    b.finish()
}

#[test]
fn print_and_parse_are_inverse() {
    let kernel = all_kinds();
    verify(&kernel).unwrap_or_else(|e| panic!("{e}"));
    for kernel in [legalize(&kernel, &Caps::default()), kernel] {
        verify(&kernel).unwrap_or_else(|e| panic!("{e}"));
        let text = kernel.to_string();
        let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        verify(&parsed).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(parsed.to_string(), text);
        assert_eq!(parsed.vals, kernel.vals);
    }
    let both = format!("{kernel}{kernel}", kernel = all_kinds());
    assert_eq!(parse_all(&both).map(|k| k.len()), Ok(2));
}

#[test]
fn errors_have_lines() {
    let cases = [
        ("kernel \"a\" () {\n body (%b, %e, %w) {\n  %x: f32 = frob %b\n }\n}", 3, "`frob` is no operation"),
        ("kernel \"a\" () {\n body (%b, %e, %w) {\n  yield %q\n }\n}", 3, "%q is not defined before"),
        ("kernel \"a\" () {\n body (%b, %b, %w) {\n  yield\n }\n}", 2, "%b is defined twice"),
        ("kernel \"a\" () {\n body (%b, %e, %w) {\n %c: i8 = const 300\n }\n}", 3, "`300` is no constant of type i8"),
        ("kernel \"a\" () {\n buffer @0 \"x\": f33 read\n", 2, "`f33` is no element type"),
        ("kernel \"a", 1, "a string has no end"),
        ("kernel \"a\" () {\n body (%b) {\n", 3, "a block has no end"),
    ];
    for (text, line, message) in cases {
        assert_eq!(parse(text), Err(ParseError { line, message: message.into() }), "{text}");
    }
}

#[test]
fn constants_of_every_type_come_back() {
    let all = DType::ALL.into_iter().filter(|d| !matches!(d, DType::String | DType::C64 | DType::C128));
    for dtype in all {
        let patterns =
            [0, 1, 0x80, 0x7f80_0000, 0x7fc0_0001, 0xffff_ffff, u64::MAX, 0x3ff0_0000_0000_0000, 0x3f80_0000];
        for bits in patterns {
            let bits = if dtype == DType::Bool { bits & 1 } else { bits & (u64::MAX >> (64 - dtype.bits())) };
            let scalar = Scalar { dtype, bits };
            let text = super::super::print::scalar_text(scalar);
            assert_eq!(Parser::new(&text).scalar(dtype), Ok(scalar), "{text}");
        }
    }
}
