//! Shared libraries with a user's operators, for models that run in this process.
//!
//! A library stays loaded as long as the process: the code of models refers to its functions.

use std::path::PathBuf;

use onnxc_backend::loader::HostSymbol;
use onnxc_frontend::import::CustomOperator;

use super::execute::run_failure;
use crate::diagnostics::Failure;

/// The functions of `operators` that the libraries have, each from the first one that has it.
///
/// # Errors
/// If a library cannot be loaded.
pub(super) fn functions<'o>(
    libraries: &[PathBuf],
    operators: &'o [CustomOperator],
) -> Result<Vec<HostSymbol<'o>>, Failure> {
    let mut found: Vec<HostSymbol<'o>> = Vec::new();
    for path in libraries {
        let library = platform::open(path)
            .map_err(|reason| run_failure(format!("the library `{}` cannot be loaded: {reason}", path.display())))?;
        for operator in operators {
            let name = operator.symbol.as_str();
            if found.iter().all(|symbol| symbol.name != name)
                && let Some(address) = platform::function(library, name)
            {
                found.push(HostSymbol { name, address });
            }
        }
    }
    Ok(found)
}

#[cfg(unix)]
mod platform {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// What the dynamic linker gives for a library.
    pub type Library = *mut libc::c_void;

    /// Loads a library, for good.
    pub fn open(path: &Path) -> Result<Library, String> {
        // A name without a folder would be looked for where the system's libraries are.
        let path = std::path::absolute(path).map_err(|e| e.to_string())?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: the name ends with a zero. What the library runs when it is loaded is what the user asked for.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !library.is_null() {
            return Ok(library);
        }
        // SAFETY: the text, where there is one, ends with a zero and stays until this thread's next call.
        let text = unsafe {
            let text = libc::dlerror();
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        Err(text)
    }

    /// The address of a function, if the library has it.
    pub fn function(library: Library, name: &str) -> Option<*const u8> {
        let name = CString::new(name).ok()?;
        // SAFETY: the library is loaded and the name ends with a zero.
        let address = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!address.is_null()).then_some(address as *const u8)
    }
}

#[cfg(not(unix))]
mod platform {
    use std::path::Path;

    /// There are none.
    pub type Library = std::convert::Infallible;

    /// Refuses.
    pub fn open(_: &Path) -> Result<Library, String> {
        Err("this build of onnxc loads no libraries".to_owned())
    }

    /// Never called.
    pub fn function(library: Library, _: &str) -> Option<*const u8> {
        match library {}
    }
}
