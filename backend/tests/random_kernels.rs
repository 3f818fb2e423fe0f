//! Random well-formed kernels on the Loop IR's interpreter, Cranelift and the wide backend: what they leave in the buffers
//! is the same but for the bits of NaNs.
//!
//! A kernel is grown from a list of choices, so that proptest can shrink it by shrinking the list. The seed is fixed;
//! `ONNXC_RANDOM_KERNELS=N` runs N kernels from another seed.
#![cfg(target_arch = "x86_64")]

mod comparing;
mod compiling;
mod emulating;
mod running;

use onnxc_backend::cranelift::kernel::CAPS;
use onnxc_backend::neon::{self, Features};
use onnxc_backend::target::Target;
use onnxc_backend::vector::{self, Isa};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::interp::{Binding, FlatKernel, Options};
use onnxc_ir::loops::legalize::legalize;
use onnxc_ir::loops::verify::verify;
use onnxc_ir::loops::{Access, Address, Buffer, FmaMode, Kernel, KernelBuilder, LaneType, LoopKind, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};
use proptest::collection::vec;
use proptest::num::u16::ANY;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use comparing::same;
use compiling::cranelift;
use emulating::{check_text, emulate};
use running::execute;

/// Elements of each buffer.
const LEN: i64 = 256;
/// Types in memory, each with a buffer that is read and one that is written.
const STORED: [DType; 12] = [
    DType::F32,
    DType::F64,
    DType::I64,
    DType::I32,
    DType::U64,
    DType::U32,
    DType::I16,
    DType::U8,
    DType::I8,
    DType::Bool,
    DType::F16,
    DType::BF16,
];
/// Types of vectors.
const WIDE: [DType; 6] = [DType::F32, DType::I32, DType::F64, DType::I64, DType::U32, DType::U64];
/// Types of vectors where floats of 16 bits count as such.
const WIDE_OR_HALF: [DType; 8] = {
    let [a, b, c, d, e, f] = WIDE;
    [a, b, c, d, e, f, DType::F16, DType::BF16]
};
const LANES: [u16; 6] = [16, 8, 4, 1, 32, 2];
const TASKS: i64 = 2;

/// Grows a kernel.
struct Grow<'c> {
    b: KernelBuilder,
    /// Whether there are floats of 16 bits.
    halves: bool,
    choices: std::slice::Iter<'c, u16>,
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
    /// What operations may use: the values of the open blocks.
    pool: Vec<Val>,
    /// Indices with their bounds.
    indices: Vec<(Val, i64)>,
}

impl Grow<'_> {
    fn choose(&mut self, among: usize) -> usize {
        usize::from(self.choices.next().copied().unwrap_or(0)) % among
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.choose(list.len())]
    }

    fn wide(&self) -> &'static [DType] {
        if self.halves { &WIDE_OR_HALF } else { &WIDE }
    }

    fn ty(&mut self) -> LaneType {
        let lanes = self.pick(&LANES);
        let stored = if self.halves { &STORED[..] } else { &STORED[..10] };
        let dtype = if lanes == 1 { self.pick(stored) } else { self.pick(self.wide()) };
        // A scalar of the types that vectors have, more often than of the others.
        let dtype = if lanes == 1 && self.choose(3) > 0 { self.pick(self.wide()) } else { dtype };
        LaneType { dtype, lanes }
    }

    fn constant(&mut self, ty: LaneType) -> Val {
        let n = self.pick(&[1i64, 0, -1, 3, 7, -100, i64::from(i32::MIN), 1 << 40]);
        let bits = match ty.dtype {
            DType::F32 => u64::from((n as f32 * 0.75).to_bits()),
            DType::F64 => (n as f64 * 0.75).to_bits(),
            DType::Bool => u64::from(n & 1 == 1),
            other => n as u64 & (u64::MAX >> (64 - other.bits())),
        };
        self.b.constant(Scalar { dtype: ty.dtype, bits }, ty.lanes)
    }

    /// A value of this type: one there is already, or a new one.
    fn operand(&mut self, ty: LaneType) -> Val {
        let fitting: Vec<Val> = self.pool.iter().copied().filter(|&v| self.b.ty(v) == ty).collect();
        if !fitting.is_empty() && self.choose(8) > 0 {
            // Late ones more often.
            let back = self.choose(4).min(fitting.len() - 1);
            return fitting[fitting.len() - 1 - back];
        }
        if ty.dtype == DType::Bool && ty.lanes > 1 {
            return self.mask(ty.lanes);
        }
        if self.choose(3) == 0 { self.constant(ty) } else { self.load(ty) }
    }

    /// A comparison of this many lanes.
    fn mask(&mut self, lanes: u16) -> Val {
        let dtype = self.pick(self.wide());
        let (x, y) = (self.operand(LaneType { dtype, lanes }), self.operand(LaneType { dtype, lanes }));
        let op = self.pick(CmpOp::ALL);
        self.b.compare(op, x, y)
    }

    /// An address of `lanes` elements inside of a buffer.
    fn address(&mut self, lanes: u16) -> Address {
        let mut room = LEN - i64::from(lanes);
        let mut address = Address::at(self.choose(40) as i64);
        room -= address.offset;
        for _ in 0..self.choose(3) {
            let number = self.choose(self.indices.len().max(1));
            let Some(&(index, bound)) = self.indices.get(number) else { break };
            let stride = self.pick(&[1, 3, 8, 16, 4, 2]);
            let reach = (bound - 1) * stride;
            if reach <= room && !address.terms.iter().any(|(v, _)| *v == index) {
                address = address.plus(index, Stride::Const(stride));
                room -= reach;
            }
        }
        address
    }

    /// A count of valid lanes, sometimes none or too many of them.
    fn count(&mut self, lanes: u16) -> Option<Val> {
        if lanes == 1 || self.choose(3) > 0 {
            return None;
        }
        let some = self.choose(usize::from(lanes) + 4) as i64 - 2;
        let number = self.choose(self.indices.len() + 1);
        let Some(&(index, _)) = self.indices.get(number) else {
            return Some(self.b.i64(some));
        };
        let sum = self.b.isub(some, index);
        Some(self.b.val(sum))
    }

    fn load(&mut self, ty: LaneType) -> Val {
        let buffer = self.inputs[STORED.iter().position(|&t| t == ty.dtype).expect("a type with a buffer")];
        match self.choose(5) {
            0 if ty.lanes > 1 => {
                let address = self.address(1);
                self.b.load_splat(buffer, address, ty.lanes)
            }
            1 if ty.lanes > 1 => {
                let ramp = self.b.iota(DType::I64, ty.lanes);
                let stride = self.pick(&[1, 2, 5]);
                let stride = self.b.constant(Scalar::i64(stride), ty.lanes);
                let indices = self.b.binary(BinaryOp::Mul, ramp, stride);
                let (address, count) = (Address::at(self.choose(90) as i64), self.count(ty.lanes));
                self.b.gather(buffer, address, indices, count)
            }
            _ => {
                let (address, count) = (self.address(ty.lanes), self.count(ty.lanes));
                self.b.load(buffer, address, ty.lanes, count)
            }
        }
    }

    /// Words of four bytes.
    fn words(&mut self, lanes: u16) -> Val {
        let dtype = self.pick(&[DType::U8, DType::I8]);
        let buffer = self.inputs[STORED.iter().position(|&t| t == dtype).expect("a type with a buffer")];
        if self.choose(2) == 0 {
            let address = self.address(4);
            return self.b.load_word_splat(buffer, address, lanes);
        }
        let address = self.address(4 * lanes);
        self.b.load_words(buffer, address, lanes)
    }

    fn store(&mut self) {
        let storable = |ty: LaneType| STORED.contains(&ty.dtype) && (ty.lanes == 1 || ty.dtype != DType::Bool);
        let values: Vec<Val> = self.pool.iter().copied().filter(|&v| storable(self.b.ty(v))).collect();
        let Some(&value) = values.len().checked_sub(1).map(|last| &values[last - self.choose(3).min(last)]) else {
            return;
        };
        let ty = self.b.ty(value);
        let buffer = self.outputs[STORED.iter().position(|&t| t == ty.dtype).expect("a type with a buffer")];
        let (address, count) = (self.address(ty.lanes), self.count(ty.lanes));
        self.b.store(buffer, address, value, count);
    }

    fn arithmetic(&mut self) -> Val {
        let ty = self.ty();
        let float = ty.dtype.is_float();
        match self.choose(11) {
            8 => {
                let words = LaneType { dtype: DType::I32, ..ty };
                let factors = [(); 2].map(|()| match self.choose(2) {
                    0 => self.words(ty.lanes),
                    _ => self.operand(words),
                });
                let types = [(); 2].map(|()| self.pick(&[DType::U8, DType::I8]));
                let acc = self.operand(words);
                self.b.dot4(factors[0], factors[1], acc, types)
            }
            9 => {
                let narrow = self.pick(&[DType::U8, DType::I8, DType::I16]);
                let bytes = self.load(LaneType { dtype: narrow, ..ty });
                let to = self.pick(&[DType::I32, DType::F32, DType::U32]);
                self.b.cast(to, bytes)
            }
            10 => {
                let from = self.pick(&[DType::I32, DType::U32]);
                let (x, to) =
                    (self.operand(LaneType { dtype: from, ..ty }), self.pick(&[DType::U8, DType::I8, DType::I16]));
                self.b.cast(to, x)
            }
            0 => {
                let floats = [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sqrt, UnaryOp::Floor, UnaryOp::Ceil, UnaryOp::Trunc]
                    .iter()
                    .chain(&[UnaryOp::Round, UnaryOp::Exp, UnaryOp::Tanh]);
                let all: Vec<UnaryOp> = floats.chain(&[UnaryOp::Not]).copied().collect();
                let fitting: Vec<UnaryOp> = all.into_iter().filter(|op| op.accepts(ty.dtype)).collect();
                let (op, x) = (self.pick(&fitting), self.operand(ty));
                self.b.unary(op, x)
            }
            1 => {
                let mask = LaneType { dtype: DType::Bool, ..ty };
                let (mask, x, y) = (self.operand(mask), self.operand(ty), self.operand(ty));
                self.b.select(mask, x, y)
            }
            2 => self.mask(ty.lanes),
            3 if float => {
                let mode = self.pick(&[FmaMode::Fused, FmaMode::Separate]);
                let (x, y, sum) = (self.operand(ty), self.operand(ty), self.operand(ty));
                self.b.mul_add(x, y, sum, mode)
            }
            4 if ty.dtype != DType::Bool => {
                let to = self.pick(self.wide());
                let x = self.operand(ty);
                self.b.cast(to, x)
            }
            5 if ty.lanes > 1 => {
                let x = self.operand(ty);
                match self.choose(3) {
                    0 => {
                        let lane = self.choose(usize::from(ty.lanes)) as u16;
                        self.b.extract(x, lane)
                    }
                    _ => {
                        let fitting: Vec<BinaryOp> = [BinaryOp::Add, BinaryOp::Max, BinaryOp::Min, BinaryOp::Xor]
                            .into_iter()
                            .filter(|op| op.accepts(ty.dtype))
                            .collect();
                        let op = self.pick(&fitting);
                        self.b.reduce_lanes(op, x)
                    }
                }
            }
            6 if ty.lanes > 1 => {
                let scalar = self.operand(LaneType::scalar(ty.dtype));
                self.b.splat(scalar, ty.lanes)
            }
            _ => {
                let all = [
                    BinaryOp::Add,
                    BinaryOp::Mul,
                    BinaryOp::Sub,
                    BinaryOp::Div,
                    BinaryOp::Min,
                    BinaryOp::Max,
                    BinaryOp::And,
                    BinaryOp::Or,
                    BinaryOp::Xor,
                    BinaryOp::Shl,
                    BinaryOp::Shr,
                    BinaryOp::Rem,
                ];
                let fitting: Vec<BinaryOp> =
                    all.into_iter().filter(|op| op.accepts(ty.dtype) && !(float && *op == BinaryOp::Rem)).collect();
                let (op, x, y) = (self.pick(&fitting), self.operand(ty), self.operand(ty));
                self.b.binary(op, x, y)
            }
        }
    }

    /// Operations until the choices end or the block has enough.
    fn block(&mut self, depth: usize) {
        let (values, indices) = (self.pool.len(), self.indices.len());
        for _ in 0..2 + self.choose(7) {
            match self.choose(12) {
                0 | 1 if depth < 3 => self.for_loop(depth),
                2 if depth < 3 => self.branch(depth),
                3 if depth < 3 => self.while_loop(),
                4 | 5 => self.store(),
                _ => {
                    let value = self.arithmetic();
                    self.pool.push(value);
                }
            }
        }
        self.store();
        // The values of a block are not visible after it; the caller pushes results.
        self.pool.truncate(values);
        self.indices.truncate(indices);
    }

    fn carried(&mut self) -> Vec<Val> {
        (0..self.choose(4))
            .map(|_| {
                let ty = self.ty();
                self.operand(ty)
            })
            .collect()
    }

    fn for_loop(&mut self, depth: usize) {
        let init = self.carried();
        let types: Vec<LaneType> = init.iter().map(|&v| self.b.ty(v)).collect();
        let (lo, trips, step) = (self.choose(2) as i64, self.choose(6) as i64, 1 + self.choose(2) as i64);
        let (low, high) = (Index::Const(lo), Index::Const(lo + trips * step));
        if trips < 2 {
            return;
        }
        let scope = self.b.begin_for(LoopKind::Serial, low, high, step, &init);
        let (values, indices) = (self.pool.len(), self.indices.len());
        self.indices.push((scope.index, lo + trips * step));
        self.pool.push(scope.index);
        self.pool.extend(&scope.carried);
        self.block(depth + 1);
        let yielded: Vec<Val> = types.iter().map(|&ty| self.operand(ty)).collect();
        self.pool.truncate(values);
        self.indices.truncate(indices);
        let results = self.b.end_for(scope, &yielded);
        self.pool.extend(results);
    }

    fn branch(&mut self, depth: usize) {
        let types: Vec<LaneType> = (0..self.choose(3)).map(|_| self.ty()).collect();
        let cond = self.operand(LaneType::scalar(DType::Bool));
        let mut sides = Vec::new();
        for _ in 0..2 {
            let block = self.b.open_block(&[]);
            let values = self.pool.len();
            self.block(depth + 1);
            let yielded: Vec<Val> = types.iter().map(|&ty| self.operand(ty)).collect();
            self.pool.truncate(values);
            self.b.close_block(&yielded);
            sides.push(block);
        }
        let results = self.b.choose(cond, sides[0], sides[1]);
        self.pool.extend(results);
    }

    /// A loop that counts down, with one more value that it carries.
    fn while_loop(&mut self) {
        let trips = self.choose(4) as i64;
        let ty = self.ty();
        let (left, start) = (self.b.i64(trips), self.operand(ty));
        let mut inner = None;
        let results = self.b.while_(&[left, start], |b, carried| {
            let less = b.isub(carried[0], 1);
            let less = b.val(less);
            let again = b.index_compare(CmpOp::Gt, less, 0);
            let op = if ty.dtype == DType::Bool { BinaryOp::Xor } else { BinaryOp::Add };
            let next = b.binary(op, carried[1], carried[1]);
            inner = Some(next);
            (again, vec![less, next])
        });
        self.pool.extend(results);
    }
}

fn grow(choices: &[u16], halves: bool) -> Kernel {
    let mut b = KernelBuilder::new("random");
    let name = |prefix: &str, t: DType| format!("{prefix}_{t}");
    let inputs = STORED.map(|t| b.buffer(name("in", t), t, Access::Read, Some(LEN as u64))).to_vec();
    let outputs = STORED.map(|t| b.buffer(name("out", t), t, Access::Write, Some(LEN as u64))).to_vec();
    let n = b.param("n");
    let [begin, end] = b.task_range();
    let scope = b.begin_for(LoopKind::Serial, Index::Val(begin), Index::Val(end), 1, &[]);
    let task = scope.index;
    let mut grow =
        Grow { b, halves, choices: choices.iter(), inputs, outputs, pool: vec![n, task], indices: vec![(task, TASKS)] };
    while grow.choices.len() > 0 {
        grow.block(0);
    }
    let mut b = grow.b;
    b.end_for(scope, &[]);
    b.finish()
}

/// Elements with signs, extremes and numbers that are no numbers.
fn data(dtype: DType, seed: usize) -> Vec<u8> {
    let size = dtype.bytes().expect("a whole number of bytes") as usize;
    let element = |i: usize| -> [u8; 8] {
        let i = (i * 11 + seed * 17) % 61;
        let float = match i {
            0 => 0.0,
            1 => f64::NAN,
            2 => f64::INFINITY,
            3 => f64::NEG_INFINITY,
            4 => 3e9,
            5 => -1e19,
            _ => (i as f64 - 30.0) * 0.375,
        };
        match dtype {
            DType::F32 => u64::from((float as f32).to_bits()).to_le_bytes(),
            DType::F64 => float.to_bits().to_le_bytes(),
            DType::F16 | DType::BF16 => Scalar::number(dtype, float).expect("a float").bits.to_le_bytes(),
            DType::Bool => (i as u64 % 2).to_le_bytes(),
            _ if i == 0 => i64::MIN.to_le_bytes(),
            _ if i == 1 => (i64::MAX >> (64 - dtype.bits())).to_le_bytes(),
            _ => (i as i64 - 30).to_le_bytes(),
        }
    };
    (0..LEN as usize).flat_map(|i| element(i)[..size].to_vec()).collect()
}

/// What a kernel is given, and what the interpreter makes of it.
fn interpret(kernel: &Kernel) -> Result<[Vec<Vec<u8>>; 2], String> {
    verify(kernel).map_err(|e| format!("{e}\n{kernel}"))?;
    let legal = legalize(kernel, &CAPS);
    let buffers: Vec<Vec<u8>> = kernel.arguments().enumerate().map(|(i, (_, b))| data(b.dtype, i)).collect();
    let mut expected = buffers.clone();
    let mut regions: Vec<&mut [u8]> = expected.iter_mut().map(|b| &mut b[..]).collect();
    let bindings: Vec<Binding> =
        regions.iter().enumerate().map(|(region, b)| Binding { region, offset: 0, bytes: b.len() }).collect();
    // As the processors compute that run these kernels.
    let options = Options { fuse: true, ..Options::default() };
    let run = FlatKernel::new(&legal).run(&mut regions, &bindings, &[5], [0, TASKS, 0], &options);
    run.map_err(|e| format!("{e}\n{kernel}"))?;
    Ok([buffers, expected])
}

/// `Err` says where results differ.
fn compare(kernel: &Kernel, name: &str, found: &[Vec<u8>], expected: &[Vec<u8>]) -> Result<(), String> {
    for ((_, buffer), (found, expected)) in kernel.arguments().zip(found.iter().zip(expected)) {
        let size = buffer.dtype.bytes().expect("whole bytes") as usize;
        for (i, (x, y)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
            if !same(buffer.dtype, x, y) {
                return Err(format!("{name}: {}[{i}] is {x:?}, not {y:?}\n{kernel}", buffer.name));
            }
        }
    }
    Ok(())
}

/// Runs a kernel everywhere; `Err` says where results differ. `wide` counts the kernels that the wide backend has made.
fn check(kernel: &Kernel, wide: &mut [usize; 4]) -> Result<(), String> {
    let [buffers, expected] = interpret(kernel)?;
    let legal = legalize(kernel, &CAPS);
    let target = Target::parse("x86_64-avx2").map_err(|e| e.to_string())?;
    if target.runs_on_host() {
        compare(kernel, "Cranelift", &execute(&cranelift(&legal, &target), &legal, &buffers, &[5], TASKS), &expected)?;
    }
    let isas = [("x86_64-avx512", Isa::Avx512Vnni), ("x86_64-avx512", Isa::Avx512), ("x86_64-avx2", Isa::Avx2)];
    for (n, (name, isa)) in isas.into_iter().enumerate() {
        if Target::parse(name).is_ok_and(|t| t.runs_on_host())
            && let Ok(code) = vector::compile(kernel, isa, false)
        {
            wide[n] += 1;
            compare(kernel, name, &execute(&code.bytes, &legal, &buffers, &[5], TASKS), &expected)?;
        }
    }
    wide[3] += 1;
    Ok(())
}

#[test]
fn random_kernels_agree() {
    let other = std::env::var("ONNXC_RANDOM_KERNELS").ok().map(|n| n.parse().expect("a number of kernels"));
    let config =
        Config { cases: other.unwrap_or(300), max_shrink_iters: 4000, failure_persistence: None, ..Config::default() };
    let mut runner = match other {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let wide = std::cell::RefCell::new([0; 4]);
    let result = runner.run(&vec(ANY, 10..200), |choices| {
        check(&grow(&choices, false), &mut wide.borrow_mut()).map_err(proptest::test_runner::TestCaseError::fail)
    });
    if let Err(TestError::Fail(reason, choices)) = result {
        panic!("{reason}\n{choices:?}");
    }
    let [vnni, avx512, avx2, all] = *wide.borrow();
    assert_eq!(vnni, avx512);
    eprintln!("of {all} kernels the wide backend has made {avx512} for AVX-512 and {avx2} for AVX2");
}

/// The same on AArch64, with floats of 16 bits, under an emulator.
#[test]
fn random_kernels_agree_on_aarch64() {
    let other = std::env::var("ONNXC_RANDOM_KERNELS").ok().map(|n| n.parse().expect("a number of kernels"));
    let config =
        Config { cases: other.unwrap_or(150), max_shrink_iters: 1000, failure_persistence: None, ..Config::default() };
    let mut runner = match other {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let made = std::cell::RefCell::new([0; 2]);
    let result = runner.run(&vec(ANY, 10..200), |choices| {
        let kernel = grow(&choices, true);
        let features = Features { dotprod: true, i8mm: true, bf16: choices[0] % 2 == 0 };
        let check = || -> Result<(), String> {
            let [buffers, expected] = interpret(&kernel)?;
            made.borrow_mut()[1] += 1;
            let Ok(code) = neon::compile(&kernel, features) else { return Ok(()) };
            made.borrow_mut()[0] += 1;
            check_text(&code);
            compare(&kernel, "AArch64", &emulate(&code.bytes, &kernel, &buffers, &[5], TASKS), &expected)
        };
        check().map_err(proptest::test_runner::TestCaseError::fail)
    });
    if let Err(TestError::Fail(reason, choices)) = result {
        panic!("{reason}\n{choices:?}");
    }
    let [compiled, all] = *made.borrow();
    eprintln!("of {all} kernels {compiled} were made for AArch64");
    assert!(compiled * 10 >= all * 9, "{compiled} of {all} kernels");
}
