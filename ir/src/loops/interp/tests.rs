//! What the interpreter does beyond single operators, which the legaliser's tests cover.

use super::*;
use crate::dtype::DType;
use crate::loops::{Address, KernelBuilder, LoopKind, Stride};
use crate::scalar::{BinaryOp, CmpOp, Scalar};

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn to_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

/// y[task] = sum of the row of x, four lanes at a time with a tail.
fn row_sums() -> Kernel {
    let mut b = KernelBuilder::new("row_sums");
    let x = b.buffer("x", DType::F32, Access::Read, None);
    let y = b.buffer("y", DType::F32, Access::Write, None);
    let n = b.param("n");
    b.task_loop(|b, task| {
        let zero = b.constant(Scalar::f32(0.0), 4);
        let sums = b.for_(LoopKind::Serial, 0.into(), n.into(), 4, &[zero], |b, i, carried| {
            let left = b.isub(n, i);
            let left = b.val(left);
            let at = Address::default().plus(task, Stride::Value(n)).plus(i, Stride::Const(1));
            let v = b.load(x, at, 4, Some(left));
            vec![b.binary(BinaryOp::Add, carried[0], v)]
        });
        let sum = b.reduce_lanes(BinaryOp::Add, sums[0]);
        b.store(y, Address::default().plus(task, Stride::Const(1)), sum, None);
    });
    b.finish()
}

#[test]
fn tails_are_predicated() {
    let mut x = floats(&(0..14).map(|i| i as f32).collect::<Vec<_>>());
    let mut y = floats(&[0.0; 2]);
    run_kernel(&row_sums(), &mut [&mut x, &mut y], &[7], 0, 2, 0).expect("it runs");
    assert_eq!(to_floats(&y), [21.0, 70.0]);
}

#[test]
fn accesses_are_checked() {
    let mut x = floats(&[0.0; 13]);
    let mut y = floats(&[0.0; 2]);
    let error = run_kernel(&row_sums(), &mut [&mut x, &mut y], &[7], 0, 2, 0).expect_err("the last row is cut");
    let InterpError::OutOfBounds { index, len, inst, name, .. } = error else { panic!("{error}") };
    assert_eq!((index, len, &name[..]), (13, 13, "x"));
    assert!(inst.contains("load @0["), "{inst}");
}

#[test]
fn loops_swap_what_they_carry() {
    let mut b = KernelBuilder::new("fibonacci");
    let y = b.buffer("y", DType::I64, Access::Write, Some(2));
    b.task_loop(|b, _| {
        let (zero, one) = (b.i64(0), b.i64(1));
        // (a, b) = (b, a + b) ten times; then swapped an odd number of times.
        let pair = b.for_(LoopKind::Serial, 0.into(), 10.into(), 1, &[zero, one], |b, _, c| {
            vec![c[1], b.binary(BinaryOp::Add, c[0], c[1])]
        });
        let pair = b.while_(&[pair[0], pair[1], zero], |b, c| {
            let next = b.binary(BinaryOp::Add, c[2], one);
            let limit = b.i64(3);
            (b.compare(CmpOp::Lt, next, limit), vec![c[1], c[0], next])
        });
        let less = b.compare(CmpOp::Lt, pair[0], pair[1]);
        let pair = b.if_(less, |_| vec![pair[0], pair[1]], |_| vec![pair[1], pair[0]]);
        b.store(y, Address::at(0), pair[0], None);
        b.store(y, Address::at(1), pair[1], None);
    });
    let mut y = vec![0; 16];
    run_kernel(&b.finish(), &mut [&mut y], &[], 0, 1, 0).expect("it runs");
    let values: Vec<i64> = y.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().expect("8 bytes"))).collect();
    assert_eq!(values, [55, 89]);
}

#[test]
fn scratch_does_not_outlive_its_task() {
    let mut b = KernelBuilder::new("leak");
    let y = b.buffer("y", DType::F32, Access::Write, None);
    let tmp = b.buffer("tmp", DType::F32, Access::Scratch, Some(4));
    b.task_loop(|b, task| {
        let before = b.load(tmp, Address::at(1), 1, None);
        b.store(y, Address::default().plus(task, Stride::Const(1)), before, None);
        let one = b.constant(Scalar::f32(1.0), 1);
        b.store(tmp, Address::at(1), one, None);
    });
    let mut y = floats(&[0.0; 3]);
    run_kernel(&b.finish(), &mut [&mut y], &[], 0, 3, 0).expect("it runs");
    assert!(to_floats(&y).iter().all(|v| v.is_nan()));
}

#[test]
fn gathers_and_scatters_follow_their_indices() {
    let mut b = KernelBuilder::new("reverse");
    let x = b.buffer("x", DType::U8, Access::Read, None);
    let y = b.buffer("y", DType::U8, Access::Write, None);
    b.task_loop(|b, _| {
        let iota = b.iota(DType::I64, 4);
        let three = b.constant(Scalar::i64(3), 4);
        let back = b.binary(BinaryOp::Sub, three, iota);
        let v = b.gather(x, Address::at(1), back, None);
        let w = b.shuffle(v, v, &[1, 0, 7, 6]);
        let count = b.i64(3);
        b.scatter(y, Address::at(0), back, w, Some(count));
    });
    let mut x = vec![9, 10, 11, 12, 13];
    let mut y = vec![0; 4];
    run_kernel(&b.finish(), &mut [&mut x, &mut y], &[], 0, 1, 0).expect("it runs");
    // v = 13 12 11 10, w = 12 13 10 11, lanes 0 to 2 go to 3, 2, 1.
    assert_eq!(y, [0, 10, 13, 12]);
}

#[test]
fn sub_byte_elements_share_bytes() {
    let mut b = KernelBuilder::new("nibbles");
    let x = b.buffer("x", DType::I4, Access::Read, Some(3));
    let y = b.buffer("y", DType::I4, Access::Write, Some(3));
    b.task_loop(|b, _| {
        for (from, to) in [(0, 2), (1, 1), (2, 0)] {
            let v = b.load(x, Address::at(from), 1, None);
            b.store(y, Address::at(to), v, None);
        }
    });
    let (mut x, mut y) = (vec![0x21, 0x03], vec![0xff, 0xff]);
    run_kernel(&b.finish(), &mut [&mut x, &mut y], &[], 0, 1, 0).expect("it runs");
    assert_eq!(y, [0x23, 0xf1]);
}

#[test]
fn endless_loops_are_stopped() {
    let mut b = KernelBuilder::new("endless");
    b.task_loop(|b, _| {
        let yes = b.constant(Scalar::bool(true), 1);
        b.while_(&[], |_, _| (yes, vec![]));
    });
    let kernel = b.finish();
    let options = Options { max_steps: 1000, ..Options::default() };
    let error = FlatKernel::new(&kernel).run(&mut [], &[], &[], [0, 1, 0], &options).expect_err("it is stopped");
    assert_eq!(error, InterpError::TooLong { kernel: "endless".into(), steps: 1000 });
}

/// Attention of `m` queries over `n` keys of 4 elements and values of 3, in tiles of 4 queries. A mask is added; keys behind
/// `c` count no more.
const ATTENTION: &str = r#"
kernel "attention" ("m", "n", "c") {
  buffer @0 "q": f32 read
  buffer @1 "k": f32 read
  buffer @2 "v": f32 read
  buffer @3 "mask": f32 read
  buffer @4 "y": f32 write
  buffer @5 "sums": f32[32] scratch
  body (%b, %e, %w) {
    %m: i64 = param 0
    %n: i64 = param 1
    %c: i64 = param 2
    %four: i64 = const 4
    %zero: i64 = const 0
    for serial %task in %b..%e step 1 {
      %first: i64 = mul %task, %four
      attend.bf16 4 depth 4 width 3 sums @5 pitch 8 queries @0[0] rows %first..%m (0:4) depth (0:1)
        keys @1[0] rows %zero..%n (0:4) depth (0:1) values @2[0] rows %zero..%n (0:1) depth (0:%n)
        score (%row, %column, %product) {
        %bias: f32 = load @3[%row*%n + %column]
        %sum: f32 = add %product, %bias
        %least: f32 = const -inf
        %counts: bool = compare.lt %column, %c
        %score: f32 = select %counts, %sum, %least
        yield %score
      } then {
        %left: i64 = sub %m, %first
        %rows: i64 = min %left, %four
        %three: i64 = const 3
        for gpu_thread.1 %i in %zero..%rows step 1 {
          %s: f32x4 = load @5[%i*8] first %three
          %at: i64 = add %first, %i
          store @4[%at*3], %s first %three
          yield
        }
        yield
      }
      yield
    }
    yield
  }
}
"#;

#[test]
fn attention_weighs_values_by_masked_scores() {
    let kernel = crate::loops::parse::parse(ATTENTION).expect("the text parses");
    crate::loops::verify::verify(&kernel).unwrap_or_else(|e| panic!("{e}"));
    let (m, n, c) = (7, 5, 4);
    // Numbers that 8 bits of mantissa hold.
    let some = |count: usize, step: f32| -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin() * 64.0).map(f32::round).map(|x| x / 32.0).collect()
    };
    let (q, k, v) = (some(m * 4, 0.7), some(n * 4, 0.9), some(3 * n, 1.3));
    let mut mask = some(m * n, 0.4);
    // The third query sees nothing; the fourth one sees scores of the least number alone.
    mask[2 * n..3 * n].fill(f32::NEG_INFINITY);
    mask[3 * n..4 * n].fill(f32::MIN);
    let bf16 = |x: f32| {
        let half = crate::evaluate::cast(DType::F32, DType::BF16, x.to_bits().into());
        f32::from_bits(crate::evaluate::cast(DType::BF16, DType::F32, half) as u32)
    };
    let mut expected = vec![];
    for row in 0..m {
        let dot = |j: usize| (0..4).map(|d| q[row * 4 + d] * k[j * 4 + d]).sum::<f32>();
        let scores: Vec<f32> = (0..c).map(|j| dot(j) + mask[row * n + j]).collect();
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
        let total: f32 = weights.iter().sum();
        let sum = |c: usize| weights.iter().enumerate().map(|(j, &w)| bf16(w) * v[c * n + j]).sum::<f32>();
        expected.extend((0..3).map(|c| sum(c) / total));
    }
    let legal = crate::loops::legalize::legalize(&kernel, &Default::default());
    for kernel in [&kernel, &legal] {
        crate::loops::verify::verify(kernel).unwrap_or_else(|e| panic!("{e}"));
        let mut buffers = [&q, &k, &v, &mask, &vec![0.0; m * 3]].map(|list| floats(list));
        let [q, k, v, mask, y] = &mut buffers;
        run_kernel(kernel, &mut [q, k, v, mask, y], &[m as i64, n as i64, c as i64], 0, 2, 0)
            .unwrap_or_else(|e| panic!("{e}"));
        for (i, (got, want)) in to_floats(y).into_iter().zip(&expected).enumerate() {
            assert!((got - want).abs() <= 1e-6 || got.is_nan() && want.is_nan(), "{i}: {got} for {want}");
            assert_eq!(got.is_nan(), i / 3 == 2, "{i}: {got}");
        }
    }
    // A score that reads behind its row's end is found.
    let mut buffers = [&q, &k, &v, &mask[..1].to_vec(), &vec![0.0; m * 3]].map(|list| floats(list));
    let [q, k, v, mask, y] = &mut buffers;
    let error = run_kernel(&kernel, &mut [q, k, v, mask, y], &[m as i64, n as i64, c as i64], 0, 1, 0);
    assert!(matches!(error, Err(InterpError::OutOfBounds { .. })), "{error:?}");
}

#[test]
fn attention_of_what_it_does_not_take_is_no_kernel() {
    let problems = |from: &str, to: &str| {
        let text = ATTENTION.replace(from, to);
        assert_ne!(text, ATTENTION);
        let kernel = crate::loops::parse::parse(&text).expect("the text parses");
        crate::loops::verify::verify(&kernel).map_err(|e| e.to_string()).expect_err("it is invalid")
    };
    assert!(problems("attend.bf16", "attend.i8").contains("attention is of floats"));
    assert!(
        problems("values @2[0] rows %zero..%n", "values @2[0] rows %zero..%m").contains("keys and values are as many")
    );
    assert!(problems("f32[32] scratch", "f32[31] scratch").contains("a band fits"));
    assert!(problems("width 3", "width 9").contains("their rows lie apart"));
    let stored = problems("%least: f32", "store @4[0], %sum\n %least: f32");
    assert!(stored.contains("scores are made of scalars, without an effect"), "{stored}");
}

/// `y = x * w^T` of odd sizes by tiles of 16 x 16 in bands of 8; `w` lies in panels of 16 columns.
const TILES: &str = r#"
kernel "tiles" ("m", "n", "k") {
  buffer @0 "x": f32 read
  buffer @1 "w": f32 read
  buffer @2 "y": f32 write
  buffer @3 "sums": f32[160] scratch
  body (%b, %e, %w) {
    %m: i64 = param 0
    %n: i64 = param 1
    %k: i64 = param 2
    %tile: i64 = const 16
    %zero: i64 = const 0
    %eight: i64 = const 8
    for serial %task in %b..%e step 1 {
      %row: i64 = mul %task, %tile
      %panel: i64 = mul %k, %tile
      tile.f16 16x16 band 8 depth %k sums @3 pitch 20 lhs @0[0] rows %row..%m (0:%k) depth (0:1)
        rhs @1[0] rows %zero..%n (0:%panel, 16:1) depth (0:16) each %band {
        %first: i64 = add %row, %band
        %left: i64 = sub %m, %first
        %rows: i64 = min %left, %eight
        for gpu_thread.1 %i in %zero..%rows step 1 {
          %v: f32x16 = load @3[%i*20]
          %at: i64 = add %first, %i
          store @2[%at*%n], %v first %n
          yield
        }
        yield
      }
      yield
    }
    yield
  }
}
"#;

#[test]
fn tiles_sum_rounded_products_band_by_band() {
    let kernel = crate::loops::parse::parse(TILES).expect("the text parses");
    crate::loops::verify::verify(&kernel).unwrap_or_else(|e| panic!("{e}"));
    let (m, n, k) = (19, 13, 5);
    let x: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
    let w: Vec<f32> = (0..k * 16).map(|i| if i % 16 < n { (i as f32 * 0.11).cos() } else { f32::NAN }).collect();
    let half = |x: f32| {
        let half = crate::evaluate::cast(DType::F32, DType::F16, x.to_bits().into());
        f32::from_bits(crate::evaluate::cast(DType::F16, DType::F32, half) as u32)
    };
    let expected: Vec<f32> =
        (0..m * n).map(|i| (0..k).fold(0.0, |sum, d| sum + half(x[i / n * k + d]) * half(w[d * 16 + i % n]))).collect();
    let legal = crate::loops::legalize::legalize(&kernel, &Default::default());
    for kernel in [&kernel, &legal] {
        let (mut x, mut w, mut y) = (floats(&x), floats(&w), floats(&vec![0.0; m * n]));
        let params = [m as i64, n as i64, k as i64];
        run_kernel(kernel, &mut [&mut x, &mut w, &mut y], &params, 0, 2, 0).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(to_floats(&y), expected);
    }
    // A depth too many reads behind the operand.
    let (mut x, mut w, mut y) = (floats(&x), floats(&w), floats(&vec![0.0; m * n]));
    let error = run_kernel(&kernel, &mut [&mut x, &mut w, &mut y], &[m as i64, n as i64, 6], 1, 2, 0);
    assert!(matches!(error, Err(InterpError::OutOfBounds { .. })), "{error:?}");
}
