//! The functions that programs for GPUs call, for those who place a compiled model in memory themselves.

use std::ffi::{CStr, c_char, c_void};

macro_rules! functions {
    ($($name:ident),+ $(,)?) => {
        unsafe extern "C" {
            // Compiled models know the parameters; here only the addresses matter.
            $(fn $name();)+
        }

        /// Symbols that models compiled for GPUs refer to, with their addresses here.
        pub fn cuda_functions() -> Vec<(&'static str, *const c_void)> {
            vec![$((stringify!($name), $name as *const c_void)),+]
        }
    };
}

functions!(
    onnxc_cuda_begin,
    onnxc_cuda_launch,
    onnxc_cuda_copy,
    onnxc_cuda_read,
    onnxc_cuda_write,
    onnxc_cuda_end,
    onnxc_cuda_leave,
);

unsafe extern "C" {
    fn onnxc_cuda_message() -> *const c_char;
}

/// What the driver said about the last failure of a run of this thread; empty if there was none.
pub fn cuda_message() -> String {
    // SAFETY: the function takes nothing and gives a string of this thread.
    unsafe { CStr::from_ptr(onnxc_cuda_message()) }.to_string_lossy().into_owned()
}
