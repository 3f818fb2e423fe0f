//! The way of a graph through lowering, from top to bottom.

use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::{Apart, Program};
use onnxc_ir::tensor::{Graph, Op};

use crate::passes::rewrite::PassContext;
use crate::specialize::SizeCase;
use crate::variants::Programs;
use crate::{LowerError, passes, program, specialize, variants};

/// What the caller decides about lowering.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine to schedule for.
    pub machine: MachineModel,
    /// More able machines, each more than the ones before it, and what they are called: the program gets a variant for each.
    pub variants: Vec<(String, MachineModel)>,
    /// Sizes that the program gets steps of its own for, beside those for every size. The first that a run has counts.
    pub specialized: Vec<SizeCase>,
    /// Only what an operation's definition rounds is rounded: no Winograd, and subnormal numbers stay.
    pub strict: bool,
    /// A layout for tests instead of the dense one.
    pub apart: Option<Apart>,
    /// Little code before fast code: small tiles, and no Winograd, whose transforms are long.
    pub small: bool,
    /// Inputs that are kept from run to run, each with the output that is its next value.
    pub states: Vec<(usize, usize)>,
}

impl Options {
    /// The default rules for a machine.
    pub fn new(machine: MachineModel) -> Options {
        Options {
            machine,
            variants: Vec::new(),
            specialized: Vec::new(),
            strict: false,
            apart: None,
            small: false,
            states: Vec::new(),
        }
    }
}

/// A pass: its name and what it does.
pub type Pass = (&'static str, fn(&mut Graph, &mut PassContext));

/// The passes over the Tensor IR, in order.
pub const PASSES: &[Pass] = &[
    // What is kept from run to run is appended to in place.
    ("keep_states", passes::keep_states::run),
    // Composites without a schedule become their definition.
    ("inline_composites", passes::inline_composites::run),
    // Products of 16-bit floats are those, where there are instructions for them.
    ("narrow_products", passes::narrow_products::run),
    // Loops of known length and decided branches become straight lines.
    ("unroll_loops", passes::unroll_loops::run),
    // Strings become numbers in a table of the run.
    ("number_strings", passes::number_strings::run),
    // Memory has whole bytes; what is packed is unpacked where it is read.
    ("unpack_elements", passes::unpack_elements::run),
    // Quantised models compute with their integers.
    ("compute_quantized", passes::compute_quantized::run),
    // Floats of 16 bits are computed with as f32.
    ("widen_halves", passes::widen_halves::run),
    // Arithmetic on shapes and weights is done now; weights become recipes.
    ("fold_constants", passes::fold_constants::run),
    // What branches and loops use of the weights made so far is theirs: there it can be folded and packed.
    ("sink_constants", passes::sink_constants::run),
    // One form for the many ways to write the same thing.
    ("canonicalize", passes::canonicalize::run),
    // Softmax and normalisations that are spelled out become what they are.
    ("recognize_norms", passes::recognize_norms::run),
    // Scales after convolutions and products go into their weights.
    ("fold_affine", passes::fold_affine::run),
    // Convolutions see channels last; transposes move to the ends.
    ("assign_layout", passes::assign_layout::run),
    // 3x3 convolutions with fewer multiplications,
    ("choose_winograd", passes::choose_winograd::run),
    // Schedules see only windows that lie inside of their input.
    ("pad_convs", passes::pad_convs::run),
    // The new weights become recipes, and what is left of the rearrangement takes its simplest form.
    ("fold_constants", passes::fold_constants::run),
    ("canonicalize", passes::canonicalize::run),
    // Products with few tiles and much depth are cut,
    ("split_products", passes::split_products::run),
    // weights put in the order in which kernels read them,
    ("pack_weights", passes::pack_weights::run),
    // which again are recipes.
    ("fold_constants", passes::fold_constants::run),
    // Large pictures are reduced row by row.
    ("split_reductions", passes::split_reductions::run),
    // What cannot be compiled is refused, all of it at once.
    ("check_supported", passes::check_supported::run),
    // Pairs of elementwise operations become one expression, so that a chain after an anchor has one user each.
    ("fuse_elementwise", passes::fuse_elementwise::run),
    // Cuts what is left into groups; from here on every node is a kernel, a constant or a second name.
    ("fuse", passes::fuse::run),
];

/// Runs the passes on a graph. `observe` is called after each pass with its name. Gives what the passes left beside it.
///
/// # Errors
/// Everything in the graph that cannot be compiled.
pub fn run_passes(
    graph: &mut Graph,
    options: &Options,
    mut observe: impl FnMut(&str, &Graph),
) -> Result<PassContext, LowerError> {
    let mut cx = context(options, &options.machine);
    run_list(graph, &mut cx, PASSES, &mut observe)?;
    Ok(cx)
}

fn context(options: &Options, machine: &MachineModel) -> PassContext {
    let mut cx = PassContext::new(machine.clone());
    cx.strict = options.strict;
    cx.small = options.small;
    cx.wanted_states.clone_from(&options.states);
    cx
}

fn run_list(
    graph: &mut Graph,
    cx: &mut PassContext,
    passes: &[Pass],
    observe: &mut dyn FnMut(&str, &Graph),
) -> Result<(), LowerError> {
    let body = graph.body();
    for (name, pass) in passes {
        // Each branch and loop body is a graph of its own to a pass: regions are closed.
        let mut waiting = vec![body];
        while let Some(region) = waiting.pop() {
            graph.body = Some(region);
            pass(graph, cx);
            let ops = graph.regions[region].nodes.iter().map(|&n| &graph.nodes[n].op);
            waiting.extend(ops.filter(|op| matches!(op, Op::If { .. } | Op::Loop { .. })).flat_map(Op::regions));
        }
        graph.body = Some(body);
        if cfg!(debug_assertions)
            && let Err(errors) = onnxc_ir::tensor::verify::verify(graph)
        {
            panic!("after `{name}`: {errors}");
        }
        observe(name, graph);
        if !cx.unsupported.is_empty() {
            return Err(LowerError::Unsupported { nodes: std::mem::take(&mut cx.unsupported) });
        }
    }
    Ok(())
}

/// The last pass that comes before sizes are looked at: afterwards the graphs for some sizes go their own ways.
const BEFORE_SIZES: &str = "number_strings";

/// What the passes before that do once more where sizes became known.
const KNOWN_SIZES: &[Pass] =
    &[("fold_constants", passes::fold_constants::run), ("unroll_loops", passes::unroll_loops::run)];

/// Lowers a graph. `observe` is called after each pass with its name.
///
/// # Errors
/// Everything in the graph that cannot be compiled, and cases that the model cannot have.
pub fn lower(
    mut graph: Graph,
    options: &Options,
    mut observe: impl FnMut(&str, &Graph),
) -> Result<Program, LowerError> {
    let variants = options.variants.iter().map(|(_, machine)| machine);
    let machines: Vec<&MachineModel> = std::iter::once(&options.machine).chain(variants).collect();
    let (last, shared) = PASSES.split_last().expect("there are passes");
    let common = shared.iter().position(|(name, _)| *name == BEFORE_SIZES).expect("it is a pass") + 1;
    let (before, after) = shared.split_at(common);
    // The variants read the same weights: how those are stored is decided once, for the most able machine.
    let mut cx = context(options, machines[machines.len() - 1]);
    run_list(&mut graph, &mut cx, before, &mut observe)?;
    let outside = specialize::ports(&graph, &cx.packed);

    let mut sizes = Vec::new();
    let mut programs: Vec<Vec<Program>> = vec![Vec::new(); machines.len()];
    let mut remarks = Vec::new();
    let mut packed = None;
    for case in std::iter::once(None).chain(options.specialized.iter().map(Some)) {
        let (mut graph, mut cx) = (graph.clone(), cx.clone());
        if let Some(case) = case {
            cx.remarks.clear();
            let refuse = |why| LowerError::Sizes { case: case.to_string(), why };
            sizes.push((case.clone(), specialize::specialize(&mut graph, &outside, case).map_err(refuse)?));
            run_list(&mut graph, &mut cx, KNOWN_SIZES, &mut observe)?;
        }
        run_list(&mut graph, &mut cx, after, &mut observe)?;
        for (machine, programs) in machines.iter().zip(&mut programs) {
            let mut graph = graph.clone();
            cx.machine = (*machine).clone();
            run_list(&mut graph, &mut cx, std::slice::from_ref(last), &mut observe)?;
            // The ports keep the sizes that callers see, and so the symbols that entry binds.
            let packed = packed.as_ref().unwrap_or(&cx.packed);
            programs.push(program::lower(graph, machine, packed, &cx.states, options.apart)?);
        }
        packed.get_or_insert_with(|| specialize::merged_ports(&cx.packed, &outside));
        remarks.extend(cx.remarks.into_iter().map(|mut remark| {
            if let Some(case) = case {
                remark.text = format!("{case}: {}", remark.text);
            }
            remark
        }));
    }

    let merge = |mut programs: Vec<Program>, what: &Programs<'_>| match programs.len() {
        1 => Ok(programs.remove(0)),
        _ => variants::merge(programs, what),
    };
    let whole = programs.into_iter().map(|programs| merge(programs, &Programs::Sizes(&sizes)));
    let whole = whole.collect::<Result<Vec<Program>, LowerError>>()?;
    let names = options.variants.iter().map(|(name, _)| name.clone());
    let names: Vec<String> = std::iter::once("baseline".to_owned()).chain(names).collect();
    let mut program = merge(whole, &Programs::Machines(&names))?;
    program.remarks.splice(0..0, remarks);
    program.flushes_subnormals = !options.strict;
    Ok(program)
}
