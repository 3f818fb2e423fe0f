//! Nested loops over contracted dimensions, which carry sums.

use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{FmaMode, LoopKind, Val};
use onnxc_ir::scalar::BinaryOp;

use crate::codegen::GroupKernel;

/// Innermost contracted dimensions of at most this size have no loop.
const UNROLLED: i64 = 4;

/// `a * b + sum`; floats may round once.
pub fn multiply_add(k: &mut GroupKernel<'_>, a: Val, b: Val, sum: Val) -> Val {
    if k.b.ty(sum).dtype.is_float() {
        return k.b.mul_add(a, b, sum, FmaMode::Fused);
    }
    let product = k.b.binary(BinaryOp::Mul, a, b);
    k.b.binary(BinaryOp::Add, sum, product)
}

/// What runs inside of nested loops: it gets their coordinates and what is carried, and gives what is carried on.
pub type NestBody<'a> = dyn FnMut(&mut GroupKernel<'_>, &[Index], &[Val]) -> Vec<Val> + 'a;

/// Serial loops over `extents`, outermost first, that carry values through `body`.
pub fn nest(
    k: &mut GroupKernel<'_>,
    extents: &[Index],
    coords: &mut Vec<Index>,
    init: &[Val],
    body: &mut NestBody<'_>,
) -> Vec<Val> {
    let Some((&extent, inner)) = extents.split_first() else { return body(k, coords, init) };
    if let (Index::Const(extent @ 1..=UNROLLED), []) = (extent, inner) {
        // A few steps, such as the colours of a pixel, cost less than the loop around them.
        let mut carried = init.to_vec();
        for i in 0..extent {
            coords.push(Index::Const(i));
            carried = body(k, coords, &carried);
            coords.pop();
        }
        return carried;
    }
    steps(k, (Index::Const(0), extent), inner, coords, init, body)
}

/// The outermost of nested loops, whose bounds are given. The innermost one takes as many steps at once as a vector has
/// lanes where the machine multiplies by them.
pub(super) fn steps(
    k: &mut GroupKernel<'_>,
    (from, to): (Index, Index),
    inner: &[Index],
    coords: &mut Vec<Index>,
    init: &[Val],
    body: &mut NestBody<'_>,
) -> Vec<Val> {
    let lanes = i64::from(k.machine.kernel_lanes_f32);
    let once = if inner.is_empty() && k.machine.multiplies_by_lanes { lanes } else { 1 };
    let mut carried = init.to_vec();
    let mut from = from;
    for step in [once, 1] {
        let whole = k.b.isub(to, from);
        let whole = k.b.idiv(whole, step);
        let whole = k.b.imul(whole, step);
        let end = k.b.iadd(from, whole);
        if end == from {
            continue;
        }
        carried = k.for_(LoopKind::Serial, from, end, step, &carried, |k, i, carried| {
            let first = k.b.index(i);
            let mut carried = carried.to_vec();
            for n in 0..step {
                coords.push(k.b.iadd(first, n));
                carried = nest(k, inner, coords, &carried, body);
                coords.pop();
            }
            carried
        });
        from = end;
        if once == 1 {
            break;
        }
    }
    carried
}
