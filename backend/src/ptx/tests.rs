//! What small kernels become.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::legalize::{Caps, legalize};
use onnxc_ir::loops::{Access, Address, FmaMode, KernelBuilder, LoopKind, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, Scalar};

use super::kernel::{Mapping, emit};

/// The PTX of a kernel with an `f32` input and output of `n` elements each.
fn ptx(n: u64, body: impl FnOnce(&mut KernelBuilder, Val, [onnxc_ir::loops::Buffer; 2])) -> String {
    let mut b = KernelBuilder::new("k");
    let x = b.buffer("x", DType::F32, Access::Read, Some(n));
    let y = b.buffer("y", DType::F32, Access::Write, Some(n));
    b.task_loop(|b, task| body(b, task, [x, y]));
    emit(&legalize(&b.finish(), &Caps::default()), "k", 16, 128, None)
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn aligned_vectors_move_sixteen_bytes() {
    let aligned = ptx(2048, |b, task, [x, y]| {
        let at = Address::at(0).plus(task, Stride::Const(128));
        let v = b.load(x, at.clone(), 128, None);
        let v = b.binary(BinaryOp::Add, v, v);
        b.store(y, at, v, None);
    });
    assert_eq!((count(&aligned, "ld.global.nc.v4.b32"), count(&aligned, "st.global.v4.b32")), (1, 1), "{aligned}");
    assert_eq!(count(&aligned, "add.rn.f32"), 4, "{aligned}");
    assert_eq!(count(&aligned, "bar.warp.sync"), 0, "{aligned}");
    // Rows of 130 elements begin at every other element.
    let odd = ptx(2080, |b, task, [x, y]| {
        let at = Address::at(0).plus(task, Stride::Const(130));
        let v = b.load(x, at.clone(), 128, None);
        b.store(y, at, v, None);
    });
    assert_eq!((count(&odd, "ld.global.nc.v2.b32"), count(&odd, "st.global.v2.b32")), (2, 2), "{odd}");
}

#[test]
fn counted_lanes_have_predicates() {
    let text = ptx(2048, |b, task, [x, y]| {
        let at = Address::at(0).plus(task, Stride::Const(128));
        let count = b.isub(100, task);
        let count = b.val(count);
        let v = b.load(x, at.clone(), 128, Some(count));
        b.store(y, at, v, Some(count));
    });
    // Whole pieces, and three single lanes where the count ends within one.
    for (whole, single) in [("ld.global.nc.v4.b32", "ld.global.nc.b32"), ("st.global.v4.b32", "st.global.b32")] {
        assert_eq!((count(&text, whole), count(&text, single)), (1, 3), "{text}");
    }
    assert!(text.lines().filter(|l| l.contains("st.global") || l.contains("ld.global")).all(|l| l.contains("@%p")));
}

#[test]
fn reductions_meet_in_the_tree_of_the_loop_ir_and_one_thread_stores() {
    let text = ptx(2048, |b, task, [x, y]| {
        let v = b.load(x, Address::at(0).plus(task, Stride::Const(128)), 128, None);
        let sum = b.reduce_lanes(BinaryOp::Add, v);
        b.store(y, Address::at(0).plus(task, Stride::Const(1)), sum, None);
    });
    let distances: Vec<&str> = text.lines().filter(|l| l.contains("shfl.sync.bfly")).map(|l| l.trim()).collect();
    assert_eq!(distances.len(), 20, "{text}");
    let last = distances[19];
    assert!(distances[0].ends_with(", 16, 31, 0xffffffff;") && last.ends_with(", 1, 31, 0xffffffff;"), "{text}");
    assert!(text.lines().any(|l| l.contains("@%p") && l.contains("st.global.b32")), "{text}");
    // Extremes are the same in any order: the thread's own lanes come first.
    let greatest = ptx(2048, |b, task, [x, y]| {
        let v = b.load(x, Address::at(0).plus(task, Stride::Const(128)), 128, None);
        let most = b.reduce_lanes(BinaryOp::Max, v);
        b.store(y, Address::at(0).plus(task, Stride::Const(1)), most, None);
    });
    assert_eq!(count(&greatest, "shfl.sync.bfly"), 5, "{greatest}");
    assert_eq!(count(&greatest, "max.NaN.f32"), 8, "{greatest}");
}

#[test]
fn what_another_thread_wrote_is_read_behind_a_barrier() {
    let text = ptx(2048, |b, task, [x, y]| {
        let v = b.load(x, Address::at(0).plus(task, Stride::Const(32)), 32, None);
        b.store(y, Address::at(0).plus(task, Stride::Const(32)), v, None);
        let back = b.load(y, Address::at(0).plus(task, Stride::Const(32)), 32, None);
        let one = b.load(y, Address::at(5).plus(task, Stride::Const(32)), 1, None);
        let one = b.splat(one, 32);
        let sum = b.binary(BinaryOp::Add, back, one);
        b.store(y, Address::at(0).plus(task, Stride::Const(32)), sum, None);
    });
    let order: Vec<&str> = text
        .lines()
        .filter_map(|l| ["ld.global.b32", "st.global.b32", "bar.warp.sync"].into_iter().find(|what| l.contains(what)))
        .collect();
    let (load, store, meet) = ("ld.global.b32", "st.global.b32", "bar.warp.sync");
    // Its own lane a thread reads at once; another's behind a barrier; and it is overwritten when all have read it.
    assert_eq!(order, [store, load, meet, load, meet, store, meet], "{text}");
}

#[test]
fn a_kernel_without_vectors_runs_on_threads() {
    let mut b = KernelBuilder::new("k");
    let x = b.buffer("x", DType::F64, Access::Read, Some(16));
    let y = b.buffer("y", DType::F64, Access::Write, Some(16));
    b.task_loop(|b, task| {
        let at = Address::at(0).plus(task, Stride::Const(1));
        let v = b.load(x, at.clone(), 1, None);
        let two = b.constant(Scalar { dtype: DType::F64, bits: 2f64.to_bits() }, 1);
        let v = b.mul_add(v, two, v, FmaMode::Separate);
        let w = b.mul_add(v, two, v, FmaMode::Fused);
        b.store(y, at, w, None);
    });
    let kernel = b.finish();
    assert_eq!(Mapping::of(&kernel), Mapping::Thread);
    let text = emit(&kernel, "k", 16, 128, None);
    assert!(text.contains("mad.lo.u32") && !text.contains("shfl") && !text.contains("bar."), "{text}");
    let rounded = [count(&text, "mul.rn.f64"), count(&text, "add.rn.f64"), count(&text, "fma.rn.f64")];
    assert_eq!(rounded, [1, 1, 1], "{text}");
}

#[test]
fn small_indices_divide_on_thirty_two_bits() {
    let text = ptx(2048, |b, task, [x, y]| {
        let row = b.idiv(task, 7);
        let row = b.val(row);
        let v = b.load(x, Address::at(0).plus(row, Stride::Const(1)), 1, None);
        b.store(y, Address::at(0).plus(task, Stride::Const(1)), v, None);
    });
    assert_eq!((count(&text, "div.u32"), count(&text, "div.s64")), (1, 0), "{text}");
}

#[test]
fn carried_values_change_places_at_once() {
    let text = ptx(2048, |b, task, [x, y]| {
        let at = Address::at(0).plus(task, Stride::Const(2));
        let (p, q) = (b.load(x, at.clone(), 1, None), b.load(x, at.clone().offset_by(1), 1, None));
        let carried =
            b.for_(LoopKind::Serial, Index::Const(0), Index::Const(5), 1, &[p, q], |_, _, c| vec![c[1], c[0]]);
        b.store(y, at, carried[0], None);
    });
    // p' = q, q' = p through a register of its own.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let moves: Vec<(&str, &str)> = lines
        .iter()
        .skip_while(|l| !l.starts_with("$L_loop"))
        .filter_map(|l| l.strip_prefix("mov.b32 ")?.strip_suffix(';')?.split_once(", "))
        .collect();
    let [(t, q), (q2, p), (p2, t2)] = moves[..] else { panic!("{text}") };
    assert_eq!((t, q, p), (t2, q2, p2), "{text}");
}
