//! The functions on strings of the support library, for those who place a compiled model in memory themselves.

use std::ffi::{c_int, c_void};

/// An `onnxc_operator_fn` of the support library.
type Function = unsafe extern "C" fn(*const c_void) -> c_int;

macro_rules! functions {
    ($($name:ident),+ $(,)?) => {
        unsafe extern "C" {
            $(fn $name(operation: *const c_void) -> c_int;)+
        }

        /// Symbols that compiled models may refer to, with their functions here.
        pub const STRING_FUNCTIONS: &[(&str, Function)] = &[$((stringify!($name), $name)),+];
    };
}

functions!(
    onnxc_strings_enter,
    onnxc_strings_leave,
    onnxc_strings_concat,
    onnxc_strings_count,
    onnxc_strings_split,
    onnxc_strings_replace,
    onnxc_strings_accept,
    onnxc_strings_order,
    onnxc_strings_parse_int,
    onnxc_strings_parse_float,
    onnxc_strings_format_int,
    onnxc_strings_format_float,
);
