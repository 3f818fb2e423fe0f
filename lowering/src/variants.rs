//! One program of several, which are one model lowered for different machines.
//!
//! Before: programs from clones of one graph, cut and scheduled each for its machine; so ports, symbols and constants are
//! the same, and equal constants have equal handles. After: one program whose only step dispatches among their steps, with
//! the kernels of all, the weights of all, each constant once, and memory enough for any.

use std::collections::HashMap;

use onnxc_ir::program::{KernelRef, Place, Program, Room, Step, Weight};
use onnxc_ir::tensor::Constant;

use crate::plan_memory::ALIGNMENT;

/// Merges the programs of one model; the first machine's comes first, and `names` is what they are called.
pub fn merge<'n>(programs: Vec<Program>, names: impl Iterator<Item = &'n str>) -> Program {
    let slots = programs.iter().map(|p| p.string_slots.unwrap_or(p.slots)).max().expect("there is a program");
    let mut programs = programs.into_iter();
    let first = programs.next().expect("there is a program");
    let mut all = Program { steps: Vec::new(), kernels: Default::default(), ..first.clone() };
    all.variants = names.map(str::to_owned).collect();
    if first.string_slots.is_some() {
        all.string_slots = Some(slots);
        all.slots = slots + (first.slots - first.string_slots.unwrap_or(first.slots));
    } else {
        all.slots = slots;
    }
    let mut offsets: HashMap<Constant, u64> = all.weights.iter().map(|w| (w.constant, w.offset)).collect();
    let mut lists = Vec::new();
    for (variant, program) in std::iter::once(first).chain(programs).enumerate() {
        assert_eq!(program.constants.len(), all.constants.len(), "the variants have the same constants");
        assert_eq!(program.symbols.len(), all.symbols.len(), "the variants have the same symbols");
        assert_eq!(program.string_slots.is_some(), all.string_slots.is_some(), "the variants have the same strings");
        let name = all.variants[variant].clone();
        let mut moved = HashMap::new();
        for weight in &program.weights {
            let offset = *offsets.entry(weight.constant).or_insert_with(|| {
                let offset = all.weight_bytes;
                all.weights.push(Weight { offset, ..*weight });
                all.weight_bytes = (offset + weight.bytes.max(1)).next_multiple_of(ALIGNMENT);
                offset
            });
            moved.insert(weight.offset, offset);
        }
        let mut kernels = HashMap::new();
        for (number, mut kernel) in program.kernels {
            if variant > 0 {
                kernel.name = format!("{}.{name}", kernel.name);
            }
            let kernel = all.kernels.push(kernel);
            all.variant_of[kernel] = variant as u32;
            kernels.insert(number, kernel);
        }
        let mut list = program.steps;
        list.iter_mut().for_each(|step| renumber(step, &kernels, &moved));
        lists.push(list);
        if variant > 0 {
            for size in program.sizes.into_iter().filter(|size| !all.sizes.contains(size)).collect::<Vec<_>>() {
                all.sizes.push(size);
            }
            all.arena_bytes =
                all.arena_bytes.maximum(&program.arena_bytes).expect("sizes were checked when the graph was built");
            all.scratch_bytes = all.scratch_bytes.max(program.scratch_bytes);
            all.rooms.extend(program.rooms.into_iter().map(|room| Room { variant: variant as u32, ..room }));
            all.remarks.extend(program.remarks.into_iter().map(|mut remark| {
                remark.text = format!("{name}: {}", remark.text);
                remark
            }));
        }
    }
    all.steps = vec![Step::Dispatch { lists }];
    all
}

/// Gives the kernels and weights of a step the places that they have in the merged program.
fn renumber(step: &mut Step, kernels: &HashMap<KernelRef, KernelRef>, weights: &HashMap<u64, u64>) {
    let place = |place: &mut Place| {
        if let Place::Weights(offset) = place {
            *offset = weights[offset];
        }
    };
    match step {
        Step::Launch(launch) => {
            launch.kernel = kernels[&launch.kernel];
            launch.buffers.iter_mut().for_each(place);
        }
        Step::Call(call) => call.inputs.iter_mut().chain(&mut call.outputs).for_each(|(p, _)| place(p)),
        Step::Copy { from, to, .. } => [from, to].into_iter().for_each(place),
        Step::Bind { from, .. } | Step::Append { from, .. } => place(from),
        Step::If { condition, then, otherwise, .. } => {
            place(condition);
            then.iter_mut().chain(otherwise).for_each(|step| renumber(step, kernels, weights));
        }
        Step::Loop { trips, condition, counter, body, .. } => {
            [trips, condition, counter].into_iter().for_each(place);
            body.iter_mut().for_each(|step| renumber(step, kernels, weights));
        }
        Step::Dispatch { lists } => lists.iter_mut().flatten().for_each(|step| renumber(step, kernels, weights)),
        Step::Strings { inputs, output, .. } => {
            inputs.iter_mut().for_each(|(p, _)| place(p));
            place(&mut output.0);
        }
        Step::Assign { .. }
        | Step::Move { .. }
        | Step::Require { .. }
        | Step::Allocate { .. }
        | Step::Release { .. }
        | Step::State { .. } => {}
    }
}
