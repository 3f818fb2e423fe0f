//! Decoders that keep their caches: a hundred steps give what the same model gives with caches handed in and out.
//!
//! `cargo xtask setup` grows the models in `build/zoo`; `ONNXC_ZOO` names another place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use onnxc_backend::loader::{LoadedModel, ObjectImage};
use onnxc_runtime::{Model, Session, TensorView};

const STEPS: usize = 100;

fn compiled(name: &str, arguments: &[&str]) -> Model {
    let zoo = std::env::var_os("ONNXC_ZOO")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/zoo"), PathBuf::from);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let object = folder.path().join("m.o");
    let model = zoo.join(name).join("model.onnx");
    let output = Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .arg(model)
        .arg("-o")
        .arg(&object)
        .args(["--name", "m"])
        .args(arguments)
        .output()
        .expect("onnxc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let loaded = LoadedModel::load(ObjectImage::open(&object).expect("an object"), &[]).expect("it loads");
    let descriptor = loaded.symbol("m").expect("the descriptor");
    // SAFETY: the object was just made by the compiler, and its loader keeps it mapped.
    unsafe { Model::from_raw(descriptor.cast(), Arc::new(loaded)) }.expect("a descriptor")
}

/// The values of symbols by their names.
fn dims(model: &Model, values: &[(&str, i64)]) -> Vec<i64> {
    let value = |name: &str| values.iter().find(|(n, _)| *n == name).expect("a symbol of the test").1;
    model.symbols().iter().map(|symbol| value(&symbol.name)).collect()
}

/// Decodes `STEPS` tokens in both ways. `cache` is the shape of a cache with the place of its length; `positions` says
/// whether the model takes them.
fn decode(name: &str, batch: i64, sequence: &str, past: &str, symbols: &[(&str, i64)], cache: &[i64], positions: bool) {
    let (state, room) = ("past*=present*", format!("{past}=0..{STEPS}"));
    let kept = compiled(name, &["--state", state, "--dim", &room]);
    let plain = compiled(name, &[]);
    let sizes = |length: i64| [symbols, &[(sequence, 1), (past, length)]].concat();
    let mut with_state = Session::new(&kept, &dims(&kept, &sizes(STEPS as i64 - 1)), 1).expect("a session");
    let mut without = Session::new(&plain, &dims(&plain, &sizes(0)), 1).expect("a session");
    let caches = plain.inputs().iter().filter(|port| port.name.starts_with("past")).count();
    assert_eq!(kept.inputs().iter().filter(|port| port.state).count(), caches);
    let shape = |length: usize| cache.iter().map(|&d| if d < 0 { length as i64 } else { d }).collect::<Vec<_>>();
    // Twice: the second time after a reset.
    for round in 0..2 {
        with_state.reset();
        let mut pasts: Vec<Vec<f32>> = vec![Vec::new(); caches];
        for step in 0..STEPS {
            let tokens: Vec<i64> = (0..batch).map(|b| (step as i64 * 37 + b * 11 + round) % 1000).collect();
            let at = vec![step as i64; batch as usize];
            let mut inputs = vec![TensorView::new(&[batch, 1], &tokens).expect("tokens")];
            if positions {
                inputs.push(TensorView::new(&[batch, 1], &at).expect("positions"));
            }
            with_state.run(&inputs).expect("a step with states");
            let before = shape(step);
            inputs.extend(pasts.iter().map(|past| TensorView::new(&before, past).expect("a cache")));
            without.set_dims(&dims(&plain, &sizes(step as i64))).expect("a plan");
            without.run(&inputs).expect("a step without states");
            let logits =
                |session: &Session| session.output(0).expect("logits").elements::<f32>().expect("f32").to_vec();
            let (found, expected) = (logits(&with_state), logits(&without));
            let most = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            let error = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(error <= 1e-5 * most, "step {step}: {error} of {most}");
            if step + 1 == STEPS {
                // What is forgotten can be said again.
                for (number, _) in kept.inputs().iter().enumerate().filter(|(_, port)| port.state) {
                    with_state.truncate_state(number, step as i64).expect("there are as many");
                    assert!(with_state.truncate_state(number, step as i64 + 1).is_err(), "there are fewer");
                }
                with_state.run(&inputs[..1 + usize::from(positions)]).expect("a step once more");
                assert_eq!(logits(&with_state), found);
            }
            pasts = (1..=caches)
                .map(|i| without.output(i).expect("a cache").elements::<f32>().expect("f32").to_vec())
                .collect();
        }
        let inputs = [vec![0i64; batch as usize], vec![STEPS as i64; batch as usize]];
        let inputs: Vec<_> = inputs.iter().map(|x| TensorView::new(&[batch, 1], x).expect("a view")).collect();
        let full = with_state.run(&inputs[..1 + usize::from(positions)]);
        assert!(full.is_err(), "a full cache takes no more");
    }
}

#[test]
fn gpt2_decodes_with_caches_of_its_own() {
    decode("gpt2_kv_dyn", 1, "s27", "s11", &[], &[1, 12, -1, 64], false);
}

#[test]
fn llama_decodes_with_caches_of_its_own() {
    decode("llama70m_dyn_dynamo", 2, "s27", "s12", &[("s11", 2)], &[2, 2, -1, 64], true);
}

/// What is given for a state is put there, and what a run makes of it is taken from there: for every data set of the
/// model, so the room of a cache is above the largest of them (64 steps and one more).
#[test]
fn commands_give_states_and_take_them() {
    let zoo = std::env::var_os("ONNXC_ZOO")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/zoo"), PathBuf::from);
    for (name, past) in [("gpt2_kv_dyn", "s11"), ("llama70m_dyn_dynamo", "s12")] {
        let (folder, room) = (zoo.join(name), format!("{past}=0..96"));
        let state = ["--state", "past*=present*", "--dim", &room];
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_onnxc"));
            let output = command.args(arguments).args(state).output().expect("onnxc runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        };
        run(&["test", folder.to_str().expect("a path in UTF-8"), "--jobs", "1", "--max-rel", "1e-4"]);
        let inputs = folder.join("test_data_set_0");
        let files = (0..).map(|i| inputs.join(format!("input_{i}.npy"))).take_while(|path| path.is_file());
        let files: Vec<String> = files.map(|path| path.to_str().expect("a path in UTF-8").to_owned()).collect();
        let model = folder.join("model.onnx");
        let model = model.to_str().expect("a path in UTF-8");
        run(&["bench", model, "--inputs", &files.join(","), "--seconds", "0.2", "--json"]);
    }
}
