//! Weights in a file of their own, opened and handed to sessions.

#![allow(unused_crate_dependencies)]

mod fake;

use std::ffi::c_int;
use std::sync::Arc;

use fake::{fake_static, model};
use onnxc_runtime::abi::{MODEL_EXTERNAL_WEIGHTS, onnxc_call, onnxc_model, onnxc_value};
use onnxc_runtime::{Error, Model, Session, Status, TensorView, Weights};

const WEIGHTS: [u8; 128] = *b"weights!weights!weights!weights!weights!weights!weights!weights!\
                             weights!weights!weights!weights!weights!weights!weights!weights!";
/// SHA-256 of these.
static HASH: [u8; 32] = [
    0x99, 0xaf, 0x4c, 0x31, 0x9c, 0xd7, 0x56, 0x30, 0xe5, 0xd2, 0xad, 0xa5, 0x84, 0x9a, 0x36, 0xb1, 0x65, 0x84, 0x63,
    0xfe, 0x02, 0x17, 0xa4, 0xfc, 0xce, 0x8d, 0x93, 0x3a, 0x3d, 0xc7, 0xfd, 0x06,
];

/// `fake_static`'s output is the first twelve weights instead.
unsafe extern "C" fn run(_: *const onnxc_value, outputs: *mut onnxc_value, call: *const onnxc_call) -> c_int {
    // SAFETY: the session hands in its call and its one output of twelve `f32`s.
    unsafe {
        if (*call).weights.is_null() || (*call).weights_bytes != WEIGHTS.len() as u64 {
            return Status::Weights.code();
        }
        let weights = (*call).weights.cast::<u8>();
        for i in 0..12 {
            (*outputs).tensor.data.cast::<f32>().add(i).write(f32::from(*weights.add(i)));
        }
    }
    0
}

fn external() -> Model {
    let descriptor = onnxc_model {
        flags: MODEL_EXTERNAL_WEIGHTS,
        weight_bytes: WEIGHTS.len() as u64,
        weights_hash: HASH.as_ptr(),
        run: Some(run),
        ..fake_static
    };
    model(Box::leak(Box::new(descriptor)))
}

fn refused(result: Result<Weights, Error>) -> Status {
    match result {
        Err(Error::Call { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_read_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.weights");
    std::fs::write(&file, WEIGHTS).unwrap();
    let external = external();
    assert_eq!(external.weights_hash(), Some(HASH));
    let weights = Arc::new(Weights::open(&external, &file).unwrap());
    let mut session = Session::new(&external, &[], 1).unwrap();
    let (x, bias) = ([0f32; 12], [0f32; 3]);
    let inputs = [TensorView::new(&[4, 3], &x).unwrap(), TensorView::new(&[3], &bias).unwrap()];
    assert!(session.run(&inputs).is_err());
    session.set_weights(weights.clone()).unwrap();
    // The file that was opened stays mapped when its name goes to another.
    std::fs::remove_file(&file).unwrap();
    drop(weights);
    session.run(&inputs).unwrap();
    let expected: Vec<f32> = b"weights!weig".iter().map(|&byte| byte.into()).collect();
    assert_eq!(session.output(0).unwrap().elements::<f32>().unwrap(), expected);
}

#[test]
fn other_files_and_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.weights");
    let external = external();
    assert_eq!(refused(Weights::open(&external, &file)), Status::WeightsFile);
    assert_eq!(refused(Weights::open(&external, folder.path())), Status::WeightsFile);
    let mut spoiled = WEIGHTS;
    spoiled[100] += 1;
    for bytes in [&spoiled[..], &WEIGHTS[..127], &[]] {
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(refused(Weights::open(&external, &file)), Status::Weights);
    }
    // Whichever bit is another, and where there is more.
    for bit in 0..8 * WEIGHTS.len() {
        let mut spoiled = WEIGHTS.to_vec();
        spoiled[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, spoiled).unwrap();
        assert_eq!(refused(Weights::open(&external, &file)), Status::Weights, "bit {bit}");
    }
    std::fs::write(&file, [&WEIGHTS[..], b"w"].concat()).unwrap();
    assert_eq!(refused(Weights::open(&external, &file)), Status::Weights);
    #[cfg(unix)]
    {
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(refused(Weights::open(&external, &pipe)), Status::WeightsFile);
    }
    std::fs::write(&file, WEIGHTS).unwrap();
    let embedded = model(&fake_static);
    assert_eq!(refused(Weights::open(&embedded, &file)), Status::Weights);
    let weights = Arc::new(Weights::open(&external, &file).unwrap());
    let mut other = Session::new(&embedded, &[], 1).unwrap();
    assert!(matches!(other.set_weights(weights), Err(Error::Call { status: Status::Weights, .. })));
}
