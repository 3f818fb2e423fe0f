//! Kernels translated for Cranelift against the interpreter of the Loop IR: every operation on every type and lane count,
//! tails, and control flow. Each target that this processor runs executes them; the others must at least compile them.

mod comparing;
mod compiling;
mod running;

use onnxc_backend::target::Target;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::interp::run_kernel;
use onnxc_ir::loops::legalize::{Caps, legalize};
use onnxc_ir::loops::{Access, Address, Buffer, FmaMode, Kernel, KernelBuilder, LoopKind, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

use comparing::same;
use compiling::cranelift;
use running::execute;

const TYPES: [DType; 11] = [
    DType::F32,
    DType::F64,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
    DType::Bool,
];
const LANES: [u16; 5] = [1, 2, 4, 8, 16];
/// Elements of each buffer.
const LEN: usize = 64;

/// Runs a kernel over `tasks` tasks on every target and under the interpreter; what they leave in the buffers is the same
/// but for the bits of NaNs.
fn check(kernel: &Kernel, buffers: &[Vec<u8>], params: &[i64], tasks: i64) {
    let legal = legalize(kernel, &Caps::default());
    let mut theirs = buffers.to_vec();
    let mut regions: Vec<&mut [u8]> = theirs.iter_mut().map(|b| &mut b[..]).collect();
    run_kernel(kernel, &mut regions, params, 0, tasks, 0).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    let types: Vec<DType> = kernel.arguments().map(|(_, b)| b.dtype).collect();
    for name in ["x86_64", "x86_64-avx2", "x86_64-avx512", "aarch64", "aarch64-dotprod"] {
        let target = Target::parse(name).unwrap();
        let code = cranelift(&legal, &target);
        if !target.runs_on_host() {
            continue;
        }
        let ours = execute(&code, &legal, buffers, params, tasks);
        for (buffer, ((a, b), dtype)) in ours.iter().zip(&theirs).zip(&types).enumerate() {
            let size = dtype.bytes().unwrap() as usize;
            for (i, (x, y)) in a.chunks(size).zip(b.chunks(size)).enumerate() {
                assert!(same(*dtype, x, y), "{name}: buffer {buffer}[{i}] is {x:?}, not {y:?}\n{kernel}");
            }
        }
    }
}

/// Elements with every extreme of the type, in an order that `seed` changes.
fn data(dtype: DType, seed: usize) -> Vec<u8> {
    let size = dtype.bytes().unwrap() as usize;
    let element = |i: usize| -> [u8; 8] {
        let i = (i * 7 + seed * 13) % 97;
        let float = match i % 16 {
            0 => 0.0,
            1 => -0.0,
            2 => f64::NAN,
            3 => f64::INFINITY,
            4 => f64::NEG_INFINITY,
            5 => 2.5,
            6 => -0.5,
            7 => 3e9,
            8 => -1e20,
            9 => 1e-40,
            i => (i as f64 - 12.0) * 1.37,
        };
        let whole: i64 = match i % 12 {
            0 => 0,
            1 => -1,
            2 => i64::MIN >> (64 - dtype.bits()),
            3 => i64::MAX >> (64 - dtype.bits()),
            4 => 1,
            5 => 33,
            i => (i as i64 - 8) * 5,
        };
        match dtype {
            DType::F32 => u64::from((float as f32).to_bits()).to_le_bytes(),
            DType::F64 => float.to_le_bytes(),
            DType::Bool => u64::from(i.is_multiple_of(3)).to_le_bytes(),
            _ => whole.to_le_bytes(),
        }
    };
    (0..LEN).flat_map(|i| element(i)[..size].to_vec()).collect()
}

/// A kernel of one task under construction, with what its buffers hold.
struct Trial {
    b: KernelBuilder,
    buffers: Vec<Vec<u8>>,
}

impl Trial {
    fn new(name: String) -> Trial {
        Trial { b: KernelBuilder::new(name), buffers: Vec::new() }
    }

    fn input(&mut self, dtype: DType) -> Buffer {
        self.buffers.push(data(dtype, self.buffers.len()));
        self.b.buffer("in", dtype, Access::Read, Some(LEN as u64))
    }

    /// Stores a value in a buffer of its own, between elements that must stay as they are.
    fn output(&mut self, val: Val) {
        let dtype = self.b.ty(val).dtype;
        self.buffers.push(data(dtype, 3));
        let buffer = self.b.buffer("out", dtype, Access::Write, Some(LEN as u64));
        self.b.store(buffer, Address::at(3), val, None);
    }

    fn check(self) {
        check(&self.b.finish(), &self.buffers, &[], 1);
    }
}

#[test]
fn operators() {
    let unary = [
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Not,
        UnaryOp::Sqrt,
        UnaryOp::Floor,
        UnaryOp::Ceil,
        UnaryOp::Trunc,
        UnaryOp::Round,
    ];
    for dtype in TYPES {
        for lanes in LANES {
            let mut t = Trial::new(format!("operators_{dtype}x{lanes}"));
            let (x, y, z) = (t.input(dtype), t.input(dtype), t.input(dtype));
            for start in [0, 16] {
                let [v, w, u] = [x, y, z].map(|buffer| t.b.load(buffer, Address::at(start), lanes, None));
                for op in unary.into_iter().filter(|op| op.accepts(dtype)) {
                    let val = t.b.unary(op, v);
                    t.output(val);
                }
                for &op in BinaryOp::ALL.iter().filter(|&&op| op.accepts(dtype) && op != BinaryOp::Pow) {
                    let val = t.b.binary(op, v, w);
                    t.output(val);
                }
                for &op in CmpOp::ALL {
                    let mask = t.b.compare(op, v, w);
                    t.output(mask);
                    let val = t.b.select(mask, w, u);
                    t.output(val);
                }
                if dtype.is_float() {
                    let val = t.b.mul_add(v, w, u, FmaMode::Separate);
                    t.output(val);
                }
            }
            t.check();
        }
    }
}

/// Instructions may read an operand from memory, but only where they take any address.
#[test]
fn operands_anywhere_in_memory() {
    for dtype in TYPES.into_iter().filter(|&dtype| dtype != DType::Bool) {
        for lanes in LANES {
            let mut t = Trial::new(format!("memory_{dtype}x{lanes}"));
            let (x, y) = (t.input(dtype), t.input(dtype));
            let load = |t: &mut Trial| [x, y].map(|buffer| t.b.load(buffer, Address::at(1), lanes, None));
            for &op in BinaryOp::ALL.iter().filter(|&&op| op.accepts(dtype) && op != BinaryOp::Pow) {
                let [v, w] = load(&mut t);
                let val = t.b.binary(op, v, w);
                t.output(val);
            }
            for &op in CmpOp::ALL {
                let [v, w] = load(&mut t);
                let mask = t.b.compare(op, v, w);
                t.output(mask);
                let [v, w] = load(&mut t);
                let one = t.b.constant(Scalar { dtype, bits: 1 }, lanes);
                for mask in [t.b.compare(op, v, one), t.b.compare(op, one, w)] {
                    let chosen = t.b.select(mask, one, w);
                    t.output(chosen);
                }
            }
            t.check();
        }
    }
}

#[test]
fn conversions() {
    for from in TYPES {
        for lanes in LANES {
            let mut t = Trial::new(format!("conversions_{from}x{lanes}"));
            let x = t.input(from);
            for start in [0, 16, 32] {
                let v = t.b.load(x, Address::at(start), lanes, None);
                for to in TYPES {
                    let val = t.b.cast(to, v);
                    t.output(val);
                    if to.bits() == from.bits() && from != DType::Bool && to != DType::Bool {
                        let val = t.b.bitcast(to, v);
                        t.output(val);
                    }
                }
            }
            t.check();
        }
    }
}

#[test]
fn lanes() {
    use BinaryOp::{Add, And, Max, Min, Mul, Or, Xor};
    for dtype in TYPES {
        for lanes in LANES.into_iter().filter(|&l| l > 1) {
            let mut t = Trial::new(format!("lanes_{dtype}x{lanes}"));
            let (x, y) = (t.input(dtype), t.input(dtype));
            let v = t.b.load(x, Address::at(0), lanes, None);
            let w = t.b.load(y, Address::at(5), lanes, None);
            for op in [Add, Mul, Min, Max, And, Or, Xor].into_iter().filter(|op| op.accepts(dtype)) {
                let val = t.b.reduce_lanes(op, v);
                t.output(val);
            }
            let last = t.b.extract(v, lanes - 1);
            t.output(last);
            let splat = t.b.splat(last, lanes);
            t.output(splat);
            let splat = t.b.load_splat(x, Address::at(9), lanes);
            t.output(splat);
            let zipped: Vec<u16> = (0..lanes).map(|i| i / 2 + i % 2 * lanes).collect();
            let val = t.b.shuffle(v, w, &zipped);
            t.output(val);
            let backwards: Vec<u16> = (0..lanes).rev().collect();
            let val = t.b.shuffle(w, v, &backwards);
            t.output(val);
            t.check();
        }
    }
}

/// Every count from below 0 to above the lanes, at the very end of the buffer, so that nothing beyond may be touched.
#[test]
fn tails() {
    for dtype in TYPES {
        for lanes in LANES {
            let mut b = KernelBuilder::new(format!("tails_{dtype}x{lanes}"));
            let x = b.buffer("x", dtype, Access::Read, None);
            let y = b.buffer("y", dtype, Access::Write, None);
            let z = b.buffer("z", dtype, Access::Write, None);
            b.task_loop(|b, task| {
                // Task t leaves t - 1 elements from its address to the end; the last task lies before that.
                let count = b.isub(task, 1);
                let below = b.imax(count, 0);
                let start = b.isub(LEN as i64, below);
                let at = b.advance(Address::default(), start, 1);
                let count = b.val(count);
                let val = b.load(x, at.clone(), lanes, Some(count));
                b.store(y, at.clone(), val, Some(count));
                let row = Address::default().plus(task, Stride::Const(lanes.into()));
                b.store(z, row.clone(), val, None);
                let ramp = b.iota(DType::I64, lanes);
                let val = b.gather(x, at, ramp, Some(count));
                let one = b.constant(Scalar::i64(-1), lanes);
                let backwards = b.binary(BinaryOp::Mul, ramp, one);
                b.scatter(z, row.offset_by(2 * i64::from(lanes) - 1), backwards, val, Some(count));
            });
            let tasks = usize::from(lanes) + 3;
            let size = dtype.bytes().unwrap() as usize;
            let rows = vec![1; (tasks + 2) * usize::from(lanes) * size];
            check(&b.finish(), &[data(dtype, 0), data(dtype, 1), rows], &[], tasks as i64);
        }
    }
}

/// Loops that carry vectors, with bounds and strides that only a run knows, loops without iterations, branches, scratch.
#[test]
fn control_flow() {
    for lanes in LANES {
        let mut b = KernelBuilder::new(format!("flow_x{lanes}"));
        let x = b.buffer("x", DType::F32, Access::Read, None);
        let y = b.buffer("y", DType::F32, Access::Write, None);
        let n = b.buffer("n", DType::I64, Access::Write, None);
        let kept = b.buffer("kept", DType::F32, Access::Scratch, Some(LEN as u64));
        let (rows, stride) = (b.param("rows"), b.param("stride"));
        b.task_loop(|b, task| {
            let zero = b.constant(Scalar::f32(0.0), lanes);
            let rows = b.imin(rows, task);
            let sums = b.for_(LoopKind::Serial, Index::Const(0), rows, 1, &[zero, zero], |b, i, sums| {
                let at = Address::default().plus(i, Stride::Value(stride)).plus(task, Stride::Const(2));
                let v = b.load(x, at.clone(), lanes, None);
                let sums = b.for_(LoopKind::Serial, Index::Const(0), task.into(), 2, sums, |b, j, sums| {
                    let w = b.load_splat(x, at.plus(j, Stride::Const(1)), lanes);
                    // The two accumulators change places in each iteration.
                    vec![b.mul_add(v, w, sums[1], FmaMode::Separate), sums[0]]
                });
                b.store(kept, Address::default().plus(i, Stride::Const(lanes.into())), sums[0], None);
                sums
            });
            let odd = b.irem(task, 2);
            let odd = b.index_compare(CmpOp::Eq, odd, 1);
            let picked = b.if_(
                odd,
                |b| {
                    let some = b.index_compare(CmpOp::Gt, rows, 0);
                    b.if_(some, |b| vec![b.load(kept, Address::at(0), lanes, None)], |_| vec![zero])
                },
                |b| vec![b.binary(BinaryOp::Sub, sums[0], sums[1])],
            );
            b.store(y, Address::default().plus(task, Stride::Const(lanes.into())), picked[0], None);
            // How many steps the Collatz sequence from the task's number takes.
            let (from, none) = (b.iadd(task, 1), b.i64(0));
            let from = b.val(from);
            let steps = b.while_(&[from, none], |b, carried| {
                let half = b.idiv(carried[0], 2);
                let triple = b.imul(carried[0], 3);
                let triple = b.iadd(triple, 1);
                let even = b.irem(carried[0], 2);
                let even = b.index_compare(CmpOp::Eq, even, 0);
                let (half, triple) = (b.val(half), b.val(triple));
                let next = b.select(even, half, triple);
                let steps = b.iadd(carried[1], 1);
                (b.index_compare(CmpOp::Gt, next, 1), vec![next, b.val(steps)])
            });
            b.store(n, Address::default().plus(task, Stride::Const(1)), steps[1], None);
        });
        let values = (0..LEN).flat_map(|i| ((i % 11) as f32 - 5.0).to_le_bytes()).collect();
        let out = vec![0; 8 * usize::from(lanes) * 4];
        check(&b.finish(), &[values, out, vec![0; 64]], &[3, 10], 8);
    }
}
