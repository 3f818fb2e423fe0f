// fake.c, by hand; `onnxc_runtime::include_model!` brings it in.

/// What a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `x`: `f32[n]`.
    pub x: ::onnxc_runtime::View<'a, f32, 1>,
}

/// The sizes that inputs decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// From 1 to 1000.
    pub n: usize,
}

/// What a run gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outputs<'a> {
    /// `y`: `f32[m]`.
    pub y: ::onnxc_runtime::View<'a, f32, 1>,
}

/// The outputs of a run.
///
/// # Safety
/// The values are those of a run that succeeded, and nothing is written to their memory while `'a` lasts.
unsafe fn outputs<'a>(values: &[::onnxc_runtime::abi::onnxc_value]) -> Outputs<'a> {
    // SAFETY: the ports have these types, and the rest is the caller's promise.
    unsafe {
        Outputs {
            y: ::onnxc_runtime::linked::elements(&values[0]),
        }
    }
}

::onnxc_runtime::__with_alloc! {
    /// The model with memory of its own, which grows with what it is given. Each thread may have its own.
    pub struct Model(::onnxc_runtime::linked::Growing);

    impl Model {
        /// Without memory.
        pub const fn new() -> Self {
            Self(::onnxc_runtime::linked::Growing::new())
        }

        /// Runs the model on the calling thread.
        pub fn run(&mut self, inputs: Inputs<'_>) -> ::core::result::Result<Outputs<'_>, ::onnxc_runtime::RunError> {
            self.execute(inputs, ::core::option::Option::None)
        }

        /// Runs the model's tasks on these threads; the result is the same.
        pub fn run_on(
            &mut self,
            threads: &dyn ::onnxc_runtime::Parallel,
            inputs: Inputs<'_>,
        ) -> ::core::result::Result<Outputs<'_>, ::onnxc_runtime::RunError> {
            self.execute(inputs, ::core::option::Option::Some(threads))
        }

        fn execute(
            &mut self,
            inputs: Inputs<'_>,
            parallel: ::core::option::Option<&dyn ::onnxc_runtime::Parallel>,
        ) -> ::core::result::Result<Outputs<'_>, ::onnxc_runtime::RunError> {
            let model = descriptor();
            let mut values = [
                ::onnxc_runtime::linked::value(model, false, 0, inputs.x.elements().as_ptr(), &inputs.x.shape()),
            ];
            // SAFETY: the model is this module's, and its ports are as declared above.
            let results = unsafe { self.0.run(model, &mut values, parallel)? };
            // SAFETY: the outputs' memory is written to by the next run, which needs `&mut self`.
            ::core::result::Result::Ok(unsafe { outputs(&results) })
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
        #[link_name = "fake_data"]
        static MODEL: ::onnxc_runtime::abi::onnxc_model;
    }
    // SAFETY: the build script has it linked in; it is never written to.
    unsafe { &MODEL }
}
