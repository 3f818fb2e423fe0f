// fake.c, by hand; `onnxc_runtime::include_model!` brings it in.

/// What a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `x`: `f32[4, 3]`.
    pub x: &'a [[f32; 3]; 4],
    /// `bias`: `f32[3]`.
    pub bias: &'a [f32; 3],
}

/// What a run gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// `y`: `f32[4, 3]`.
    pub y: [[f32; 3]; 4],
}

impl Outputs {
    /// Outputs to be filled.
    pub const ZERO: Self = Self { y: [[0.0; 3]; 4] };
}

// SAFETY: numbers, `bool`s and arrays of them.
unsafe impl ::onnxc_runtime::linked::Zeroable for Outputs {}

/// Bytes of the arena of one worker.
pub const ARENA_BYTES: usize = 64;

/// What each further worker adds to the arena.
pub const WORKER_BYTES: usize = 64;

/// The memory that a run computes in: it lies on the stack, in a static or wherever there is room.
pub type Arena = [::onnxc_runtime::Block; ::onnxc_runtime::linked::blocks(ARENA_BYTES)];

/// An arena.
pub const ARENA: Arena = [::onnxc_runtime::Block::NEW; ::onnxc_runtime::linked::blocks(ARENA_BYTES)];

/// Runs the model on the calling thread, in memory of the caller's.
pub fn run_in(arena: &mut Arena, inputs: Inputs<'_>, outputs: &mut Outputs) -> ::core::result::Result<(), ::onnxc_runtime::RunError> {
    execute(::onnxc_runtime::linked::Memory::of(arena), inputs, outputs, ::core::option::Option::None)
}

fn execute(
    memory: ::onnxc_runtime::linked::Memory,
    inputs: Inputs<'_>,
    outputs: &mut Outputs,
    parallel: ::core::option::Option<&dyn ::onnxc_runtime::Parallel>,
) -> ::core::result::Result<(), ::onnxc_runtime::RunError> {
    let model = descriptor();
    let mut values = [
        ::onnxc_runtime::linked::value(model, false, 0, ::core::ptr::from_ref(inputs.x), &[4, 3]),
        ::onnxc_runtime::linked::value(model, false, 1, ::core::ptr::from_ref(inputs.bias), &[3]),
    ];
    let mut results = [
        ::onnxc_runtime::linked::room(model, 0, (&raw mut outputs.y).cast(), size_of_val(&outputs.y)),
    ];
    // SAFETY: the model is this module's, and its ports are as declared above.
    unsafe { ::onnxc_runtime::linked::run(model, &mut values, &mut results, memory, parallel) }
}

::onnxc_runtime::__with_alloc! {
    /// The model with memory of its own. Runs allocate nothing; each thread may have its own.
    pub struct Model(::onnxc_runtime::linked::Fixed<Outputs>);

    impl Model {
        /// With the memory of one worker.
        pub fn new() -> Self {
            Self(::onnxc_runtime::linked::Fixed::new(ARENA_BYTES))
        }

        /// Runs the model on the calling thread.
        pub fn run(&mut self, inputs: Inputs<'_>) -> ::core::result::Result<&Outputs, ::onnxc_runtime::RunError> {
            let (memory, outputs) = self.0.parts(ARENA_BYTES, WORKER_BYTES, 1);
            execute(memory, inputs, outputs, ::core::option::Option::None)?;
            ::core::result::Result::Ok(self.0.outputs())
        }

        /// Runs the model's tasks on these threads; the result is the same.
        pub fn run_on(
            &mut self,
            threads: &dyn ::onnxc_runtime::Parallel,
            inputs: Inputs<'_>,
        ) -> ::core::result::Result<&Outputs, ::onnxc_runtime::RunError> {
            let (memory, outputs) = self.0.parts(ARENA_BYTES, WORKER_BYTES, threads.workers());
            execute(memory, inputs, outputs, ::core::option::Option::Some(threads))?;
            ::core::result::Result::Ok(self.0.outputs())
        }
    }

    impl ::core::default::Default for Model {
        fn default() -> Self {
            Self::new()
        }
    }
}

/// What the model says about itself.
pub fn descriptor() -> &'static ::onnxc_runtime::abi::onnxc_model {
    unsafe extern "C" {
        #[link_name = "fake_static"]
        static MODEL: ::onnxc_runtime::abi::onnxc_model;
    }
    // SAFETY: the build script has it linked in; it is never written to.
    unsafe { &MODEL }
}
