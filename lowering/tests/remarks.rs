//! Remarks say what was decided for each kernel, with the numbers that decided it.

use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::Remark;
use onnxc_ir::tensor::op::Conv;
use onnxc_ir::tensor::{Builder, Graph, OriginData, TensorBytes, TensorType};
use onnxc_lowering::pipeline::{Options, lower};

/// The remarks about a 3x3 convolution of a picture of this side.
fn remarks(channels: i64, side: i64, strict: bool) -> Vec<Remark> {
    let mut graph = Graph::new("remarks");
    let origin = graph.origins.push(OriginData { path: "block/conv".into(), operator: "Conv".into() });
    let body = graph.body();
    let x = graph.add_param(body, TensorType::fixed(DType::F32, &[1, channels, side, side]));
    graph.input_names = vec!["x".into()];
    graph.output_names = vec!["y".into()];
    let mut b = Builder::new(&mut graph, body, &[origin][..]);
    let count = (channels * channels * 9) as usize;
    let filter = TensorBytes::from_f32(&[channels, channels, 3, 3], &vec![0.5; count]);
    let filter = b.constant(filter, "filter").unwrap();
    let one = || [1, 1].as_slice().into();
    let conv = Conv {
        strides: one(),
        pad_lo: one(),
        pad_hi: one(),
        lhs_dilation: one(),
        rhs_dilation: one(),
        groups: 1,
        channels_last: false,
        acc: DType::F32,
        panel: None,
        kernel: [3, 3].as_slice().into(),
        winograd: None,
    };
    let y = b.conv(conv, x, filter).unwrap();
    graph.regions[body].results = vec![y];
    let options = Options { strict, ..Options::new(MachineModel::BASELINE) };
    lower(graph, &options, |_, _| {}).unwrap().remarks
}

fn texts<'r>(remarks: &'r [Remark], pass: &str) -> Vec<&'r str> {
    remarks.iter().filter(|r| r.pass == pass).map(|r| &r.text[..]).collect()
}

#[test]
fn the_algorithm_and_its_gain_are_stated() {
    let many = remarks(64, 56, false);
    assert!(many.iter().all(|r| r.origin == "block/conv"), "{many:?}");
    let [choice] = texts(&many, "choose_winograd")[..] else { panic!("one choice: {many:?}") };
    assert!(choice.starts_with("F(4x4,3x3): "), "{choice}");
    assert!(texts(&many, "schedule").iter().any(|t| t.contains("Winograd F(4x4,3x3): 196 tiles")), "{many:?}");

    let few = remarks(256, 2, false);
    let [choice] = texts(&few, "choose_winograd")[..] else { panic!("one choice: {few:?}") };
    assert!(choice.starts_with("direct: "), "{choice}");
    assert!(texts(&few, "schedule").iter().any(|t| t.contains("matrix product over packed weights")), "{few:?}");
}

#[test]
fn the_strict_rules_leave_nothing_to_choose() {
    let strict = remarks(64, 56, true);
    assert!(texts(&strict, "choose_winograd").is_empty(), "{strict:?}");
    let schedules = texts(&strict, "schedule");
    assert!(schedules.iter().any(|t| t.starts_with("conv: ") && t.contains(" tasks")), "{schedules:?}");
}
