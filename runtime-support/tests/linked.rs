//! The modules that `onnxc::build` writes, over models written by hand: `tests/generated` holds their text, which a test
//! of the compiler compares with what it writes now.

#![allow(unused_crate_dependencies)]

mod fake;

/// The modules; the archive that they refer to is linked by `fake`.
mod generated {
    #[allow(dead_code)]
    pub mod fake_static {
        include!("generated/fake_static.rs");
    }
    #[allow(dead_code)]
    pub mod fake_dims {
        include!("generated/fake_dims.rs");
    }
    #[allow(dead_code)]
    pub mod fake_data {
        include!("generated/fake_data.rs");
    }
}

use generated::{fake_data, fake_dims, fake_static};
use onnxc_runtime::{Block, Pool, Status, View};

const X: [[f32; 3]; 4] = [[0., 1., 2.], [3., 4., 5.], [6., 7., 8.], [9., 10., 11.]];
const BIAS: [f32; 3] = [0.5, -1., 0.];
const Y: [[f32; 3]; 4] = [[0.5, 1., 4.], [6.5, 7., 10.], [12.5, 13., 16.], [18.5, 19., 22.]];

#[test]
fn descriptors_are_the_linked_ones() {
    assert!(std::ptr::eq(fake_static::descriptor(), &fake::fake_static));
}

#[test]
fn arrays_go_in_and_come_out() {
    let mut outputs = fake_static::Outputs::ZERO;
    fake_static::run_in(&mut { fake_static::ARENA }, fake_static::Inputs { x: &X, bias: &BIAS }, &mut outputs).unwrap();
    assert_eq!(outputs.y, Y);
    let mut model = fake_static::Model::new();
    for _ in 0..2 {
        assert_eq!(model.run(fake_static::Inputs { x: &X, bias: &BIAS }).unwrap().y, Y);
    }
}

#[test]
fn a_model_moves_between_threads_and_uses_those_it_is_given() {
    fn is_send<T: Send>(model: T) -> T {
        model
    }
    let pool = Pool::new(3).unwrap();
    let mut model = is_send(fake_static::Model::new());
    let mut growing = is_send(fake_dims::Model::new());
    std::thread::spawn(move || {
        assert_eq!(model.run_on(&pool, fake_static::Inputs { x: &X, bias: &BIAS }).unwrap().y, Y);
        let x = [4, 5];
        let outputs = growing.run_on(&pool, fake_dims::Inputs { x: View::new([2], &x).unwrap() }).unwrap();
        assert_eq!(outputs.y.elements(), [4, 5, 4, 5]);
    })
    .join()
    .unwrap();
}

#[cfg(feature = "rayon")]
#[test]
fn rayon_s_threads_run_the_tasks() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut model = fake_static::Model::new();
    for _ in 0..100 {
        assert_eq!(model.run_on(&pool, fake_static::Inputs { x: &X, bias: &BIAS }).unwrap().y, Y);
    }
}

#[test]
fn memory_grows_with_the_inputs() {
    let mut model = fake_dims::Model::default();
    for length in [1, 1000, 3] {
        let x: Vec<i64> = (0..length).collect();
        let outputs = model.run(fake_dims::Inputs { x: View::new([x.len()], &x).unwrap() }).unwrap();
        assert_eq!(outputs.y.shape(), [2 * x.len()]);
        assert_eq!(outputs.y.elements(), [x.clone(), x].concat());
    }
}

#[test]
fn a_caller_s_memory_serves_sizes_of_inputs() {
    let bytes = fake_dims::arena_bytes(fake_dims::Dims { n: 3 }).unwrap();
    let mut arena = vec![Block::NEW; onnxc_runtime::linked::blocks(bytes)];
    let inputs = fake_dims::Inputs { x: View::new([3], &[7, 8, 9]).unwrap() };
    let mut y = [0; 10];
    let outputs = fake_dims::run_in(&mut arena, inputs, fake_dims::Room { y: &mut y }).unwrap();
    assert_eq!(outputs.y.elements(), [7, 8, 9, 7, 8, 9]);
    let error = fake_dims::run_in(&mut arena, inputs, fake_dims::Room { y: &mut y[..5] }).unwrap_err();
    assert_eq!(error.status(), Status::More);
    assert_eq!(fake_dims::arena_bytes(fake_dims::Dims { n: 1001 }).unwrap_err().status(), Status::DimRange);
}

#[test]
fn data_decides_how_much_comes_out() {
    let mut model = fake_data::Model::new();
    for (x, y) in [(&[1.0, 0.0, 2.0][..], &[1.0, 2.0][..]), (&[0.0; 2], &[]), (&[3.0], &[3.0])] {
        let outputs = model.run(fake_data::Inputs { x: View::new([x.len()], x).unwrap() }).unwrap();
        assert_eq!(outputs.y.elements(), y);
    }
}

#[test]
fn failures_name_port_and_step() {
    let mut model = fake_dims::Model::new();
    let error = model.run(fake_dims::Inputs { x: View::new([0], &[]).unwrap() }).unwrap_err();
    let text = "input \"x\", axis 0: a dim is negative or outside the range that the model was compiled for";
    assert!(error.to_string().starts_with(text), "{error}");
    let mut model = fake_data::Model::new();
    let inputs = fake_data::Inputs { x: View::new([1], &[13.0]).unwrap() };
    let error = model.run(inputs).unwrap_err();
    assert_eq!(error.status(), Status::DataValue);
    assert!(error.to_string().contains("a value in the data is outside its operator's domain"), "{error}");
}
