//! A compiled model whose runs are tests of its code: on fenced memory, on poisoned memory, twice, with equal results.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use cranelift_entity::EntityRef;
use onnxc_backend::target::Target;
use onnxc_ir::dim::Dim;
use onnxc_ir::program::{Apart, Program, Room};
use onnxc_ir::tensor::TensorBytes;
use onnxc_runtime::{Model, Session};

use super::compile::{import, lower};
use super::execute::{StepInfo, load_native, run_failure, step_info};
use super::guard::{self, Fenced, FencedMemory};
use super::options::{Checks, CompileOptions};
use super::ports::{Input, outputs_of, symbol_values, view};
use crate::diagnostics::Failure;

/// What memory is full of before each of the two runs: ones, which are NaN in every floating-point type, and a pattern
/// that is a small number in all of them.
const POISON: [u8; 2] = [0xFF, 0xA5];

/// The model, compiled once for each of the layouts.
pub struct Checked {
    layouts: Vec<Laid>,
    poison: bool,
}

/// One layout of the program.
struct Laid {
    model: Model,
    apart: Option<Apart>,
    rooms: Vec<Room>,
    arena_bytes: Dim,
    scratch_bytes: u64,
    steps: Vec<String>,
}

impl Checked {
    /// Compiles and loads the model in the layouts that the checks need.
    pub fn load(path: &Path, targets: &[Target], checks: Checks, options: &CompileOptions) -> Result<Checked, Failure> {
        let apart = |at_end| Some(Apart { page: guard::page(), at_end });
        let layouts = if checks.guard { vec![apart(true), apart(false)] } else { vec![None] };
        let layouts = layouts.into_iter().map(|apart| {
            let program = lower(import(path, options)?, targets, apart, options)?;
            let (model, weights) = load_native(path, targets, &program, options)?;
            if let (Some(_), Some(first)) = (apart, weights) {
                fence_weights(&program, first as usize)?;
            }
            let step_name = |info: StepInfo| format!("kernel {} ({})", info.kernel, info.nodes.join(", "));
            Ok(Laid {
                model,
                apart,
                arena_bytes: program.arena_bytes.clone(),
                scratch_bytes: program.scratch_bytes,
                steps: program.all_steps().into_iter().map(|step| step_name(step_info(&program, step))).collect(),
                rooms: program.rooms,
            })
        });
        Ok(Checked { layouts: layouts.collect::<Result<_, Failure>>()?, poison: checks.poison })
    }

    /// Runs the model twice.
    ///
    /// # Errors
    /// When a run fails, or the two differ.
    pub fn run(&self, inputs: &[Input]) -> Result<Vec<TensorBytes>, Failure> {
        let mut results = Vec::new();
        for (i, poison) in POISON.into_iter().enumerate() {
            let laid = &self.layouts[i.min(self.layouts.len() - 1)];
            results.push(laid.run(inputs, if self.poison { poison } else { 0 })?);
        }
        let [first, second] = &results[..] else { unreachable!("there are two runs") };
        let name = |i: usize| &self.layouts[0].model.outputs()[i].name;
        if let Some(i) = (0..first.len()).find(|&i| first[i] != second[i]) {
            let why = "two runs differ, so the result depends on what its memory held before or on where it is";
            return Err(run_failure(format!("output {i} (`{}`): {why}", name(i))));
        }
        Ok(results.swap_remove(0))
    }
}

impl Laid {
    fn run(&self, inputs: &[Input], fill: u8) -> Result<Vec<TensorBytes>, Failure> {
        let failed = |e: onnxc_runtime::Error| run_failure(e.to_string());
        let no_memory = || run_failure("there is no memory for a fenced run");
        guard::watch_steps(self.steps.clone());
        let at_end = self.apart.is_none_or(|apart| apart.at_end);
        let dims = symbol_values(&self.model, inputs);
        let mut places = Vec::new();
        for (i, input) in inputs.iter().enumerate() {
            let fenced = Fenced::copy_of(input.bytes(), at_end).ok_or_else(no_memory)?;
            guard::watch(fenced.addresses(), format!("input {i}"));
            places.push((input.dtype, &input.shape[..], fenced));
        }
        let arena = self.arena(&dims);
        let memory = FencedMemory { at_end, fill, arena: Some(arena), live: HashMap::new() };
        let mut session = Session::with_allocator(&self.model, &dims, Box::new(memory)).map_err(failed)?;
        session.set_trace(Some(Box::new(guard::trace)));
        let views = places.iter().map(|(dtype, shape, fenced)| view(*dtype, shape, fenced.bytes()));
        let views = views.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        session.run(&views).map_err(failed)?;
        outputs_of(&session)
    }

    /// The parts of the arena that hold something, as byte ranges; all of it where tensors lie side by side.
    fn arena(&self, dims: &[i64]) -> Vec<Range<usize>> {
        let value = |dim: &Dim| dim.eval(|symbol| dims[symbol.index()]).expect("the plan was made for these") as usize;
        let tensors = value(&self.arena_bytes);
        let all = tensors + self.scratch_bytes as usize;
        let scratch = std::iter::once(if self.apart.is_none() { 0..all } else { tensors..all });
        let rooms = self.rooms.iter().map(|Room { offset, bytes, .. }| value(offset)..value(offset) + value(bytes));
        rooms.chain(scratch).collect()
    }
}

/// Takes the access to the pages between constants away.
fn fence_weights(program: &Program, first: usize) -> Result<(), Failure> {
    let place = |offset: u64, bytes: u64| first + offset as usize..first + (offset + bytes) as usize;
    let covered: Vec<Range<usize>> = program.weights.iter().map(|w| place(w.offset, w.bytes)).collect();
    // SAFETY: the weight section lies in pages of its own, and what is in it is covered.
    unsafe { guard::fence(place(0, program.weight_bytes), &covered) }
        .map_err(|e| run_failure(format!("the weights cannot be fenced: {e}")))
}
