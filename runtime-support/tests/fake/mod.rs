//! The models of `tests/model/fake.c`, linked into a test.

// Each test binary uses some of this.
#![allow(dead_code)]

use onnxc_runtime::Model;
use onnxc_runtime::abi::onnxc_model;

#[link(name = "onnxc_fake_model", kind = "static")]
unsafe extern "C" {
    /// y[4,3] = 2 x + bias; static, a task per row.
    pub safe static fake_static: onnxc_model;
    /// y[2 n] = x twice, x i64[n], n in 1..=1000.
    pub safe static fake_dims: onnxc_model;
    /// y = the elements of x f32[n] that are not 0; 13 is out of domain.
    pub safe static fake_data: onnxc_model;
}

/// The model of a descriptor above.
pub fn model(descriptor: &'static onnxc_model) -> Model {
    // SAFETY: the descriptors of fake.c keep the contract of onnxc.h.
    unsafe { Model::from_static(descriptor) }.expect("a descriptor of this version")
}
