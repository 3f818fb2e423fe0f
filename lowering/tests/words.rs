//! Products and convolutions of 8-bit integers over words of weights: whatever types a machine multiplies, the lowered program,
//! run by the Loop IR's interpreter, gives the sums that the Tensor IR's interpreter gives, and stays inside of its buffers.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::InstData;
use onnxc_ir::machine::{Dots, MachineModel};
use onnxc_ir::program::interp::{run_program, weight_section};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::interp::{constant_bytes, interpret};
use onnxc_ir::tensor::op::{Contract, Conv};
use onnxc_ir::tensor::{Builder, Graph, OriginData, TensorBytes, TensorType, Value};
use onnxc_lowering::pipeline::{Options, lower};

const TYPES: [DType; 2] = [DType::I8, DType::U8];

/// Machines as different as the code generators: wide vectors with one instruction for mixed types or products of halves,
/// narrow ones with products of halves, and narrow ones that multiply by lanes.
fn machines() -> Vec<MachineModel> {
    let halves = Dots { signed: true, mixed: true, unsigned: true, factor_registers: 2, temporaries: 2 };
    let narrow = MachineModel { dots: halves, ..MachineModel::BASELINE };
    let wide = MachineModel {
        kernel_lanes_f32: 16,
        stream_lanes_f32: 16,
        kernel_vector_registers: 32,
        has_predicates: true,
        moves_narrow: true,
        ..MachineModel::BASELINE
    };
    let arm = MachineModel { kernel_vector_registers: 32, multiplies_by_lanes: true, ..MachineModel::BASELINE };
    let (mixed, signed) = (Dots { mixed: true, ..Dots::NONE }, Dots { signed: true, ..Dots::NONE });
    vec![
        MachineModel { dots: mixed, ..wide.clone() },
        MachineModel { dots: halves, ..wide },
        narrow,
        MachineModel { dots: signed, ..arm.clone() },
        MachineModel { dots: Dots { mixed: true, ..signed }, ..arm.clone() },
        MachineModel { dots: Dots { unsigned: true, temporaries: 3, ..signed }, ..arm },
    ]
}

/// Numbers that repeat late, with the extremes of the type among them.
fn samples(dtype: DType, shape: &[i64], seed: u32) -> TensorBytes {
    let mut state = seed;
    let bytes: Vec<u8> = (0..shape.iter().product::<i64>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 28 {
                0 => 0x80,
                1 => 0x7f,
                2 => 0xff,
                _ => (state >> 16) as u8,
            }
        })
        .collect();
    TensorBytes { dtype, shape: shape.into(), bytes: bytes.into() }
}

/// Lowers a model of one input for each machine and compares. Says for how many machines there were dot products.
fn check(input: DType, shape: &[i64], build: impl Fn(&mut Builder<'_>, Value) -> Result<Value, BuildError>) -> usize {
    let mut dots = 0;
    for machine in machines() {
        let mut graph = Graph::new("words");
        let origin = graph.origins.push(OriginData { path: "n".into(), operator: "Op".into() });
        let body = graph.body();
        let x = graph.add_param(body, TensorType::fixed(input, shape));
        graph.input_names = vec!["x".into()];
        let mut b = Builder::new(&mut graph, body, &[origin][..]);
        let result = build(&mut b, x).unwrap();
        graph.output_names = vec!["y".into()];
        graph.regions[body].results = vec![result];
        let tensors = [samples(input, shape, 5)];
        let expected = interpret(&graph, &tensors).unwrap().remove(0).to_i64().unwrap();
        let program = lower(graph, &Options::new(machine.clone()), |_, _| {}).unwrap();
        let has = |data: &InstData| matches!(data, InstData::Dot4 { .. });
        dots += usize::from(program.kernels.values().any(|k| k.insts.values().any(|inst| has(&inst.data))));
        let weights = weight_section(&program, |c, i| Ok::<_, ()>(constant_bytes(c, i))).unwrap();
        let found = run_program(&program, &weights, &tensors).unwrap().remove(0).to_i64().unwrap();
        assert_eq!(found, expected, "{input} {shape:?} on {machine:?}\n{program}");
    }
    dots
}

#[test]
fn products_agree() {
    // Whole words and a rest; few rows and many; columns of less than a panel, of some strips, and of a rest.
    for [rows, depth, columns] in [[1, 64, 40], [5, 7, 3], [9, 22, 49], [33, 4, 16], [20, 132, 80], [2, 5, 33]] {
        for (input, weight) in TYPES.into_iter().flat_map(|input| TYPES.map(|weight| (input, weight))) {
            for transposed in [false, true] {
                let dots = check(input, &[rows, depth], |b, x| {
                    let shape = if transposed { [columns, depth] } else { [depth, columns] };
                    let w = b.constant(samples(weight, &shape, 7), "w")?;
                    let rhs = if transposed { [1, 2] } else { [2, 1] };
                    let labels = |l: [u8; 2]| l.as_slice().into();
                    let (lhs, out, acc) = (labels([0, 2]), labels([0, 1]), DType::I32);
                    b.contract(Contract { lhs, rhs: labels(rhs), out, acc, panel: None }, x, w)
                });
                // One machine has products of signed numbers only.
                let lacking = usize::from(weight == DType::U8);
                assert_eq!(dots, machines().len() - lacking, "{input} {weight}");
            }
        }
    }
}

#[test]
fn convolutions_agree() {
    // Channels, columns, kernel, stride, dilation, and whether there are words: a colour picture, whole words, taps that
    // lie apart, and such of no whole words.
    let cases = [
        (3, 20, [3, 3], 2, 1, true),
        (8, 33, [3, 3], 1, 1, true),
        (8, 17, [2, 3], 1, 2, true),
        (5, 9, [1, 2], 1, 2, false),
        (6, 40, [1, 1], 2, 1, true),
        (2, 5, [1, 1], 2, 1, false),
    ];
    for (channels, columns, kernel, stride, dilation, words) in cases {
        for (input, weight) in TYPES.map(|input| (input, DType::I8)) {
            let dots = check(input, &[2, channels, 9, 11], |b, x| {
                let filter = samples(weight, &[columns, channels, kernel[0], kernel[1]], 3);
                let filter = b.constant(filter, "filter")?;
                // Around the picture is another number than 0.
                let fill = b.number(input, 100.0)?;
                let margin = [0, 0, 1, 1].map(Into::into);
                let x = b.pad(x, fill, &margin, &margin)?;
                let both = |n: i64| [n, n].as_slice().into();
                let conv = Conv {
                    strides: both(stride),
                    pad_lo: both(0),
                    pad_hi: both(0),
                    lhs_dilation: both(1),
                    rhs_dilation: both(dilation),
                    groups: 1,
                    channels_last: false,
                    acc: DType::I32,
                    panel: None,
                    kernel: kernel.as_slice().into(),
                    winograd: None,
                };
                b.conv(conv, x, filter)
            });
            assert_eq!(dots, if words { machines().len() } else { 0 }, "{channels} channels, {kernel:?}");
        }
    }
}

#[test]
fn depthwise_convolutions_agree() {
    for input in TYPES {
        check(input, &[1, 19, 7, 9], |b, x| {
            let filter = b.constant(samples(DType::I8, &[19, 1, 3, 3], 3), "filter")?;
            let both = |n: i64| [n, n].as_slice().into();
            let conv = Conv {
                strides: both(1),
                pad_lo: both(1),
                pad_hi: both(1),
                lhs_dilation: both(1),
                rhs_dilation: both(1),
                groups: 19,
                channels_last: false,
                acc: DType::I32,
                panel: None,
                kernel: [3, 3].as_slice().into(),
                winograd: None,
            };
            b.conv(conv, x, filter)
        });
    }
}
