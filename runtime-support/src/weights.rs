//! Weights in a file of their own, mapped read-only and compared with what the model says of them.

use std::ffi::CString;
use std::path::Path;

use crate::abi::{self, onnxc_weights};
use crate::error::Error;
use crate::model::Model;
use crate::status::Status;

/// The file of weights of a model that was compiled with `--weights external`; any number of its sessions may share it.
#[derive(Debug)]
pub struct Weights {
    raw: onnxc_weights,
    /// What the file hashes to.
    hash: [u8; 32],
}

// SAFETY: read-only memory with no ties to a thread.
unsafe impl Send for Weights {}
// SAFETY: as for Send.
unsafe impl Sync for Weights {}

impl Weights {
    /// Maps a file and compares its length and its SHA-256 with the model's, which reads all of it once. The file is to
    /// stay as it is while it is mapped: replace it by renaming another to its name.
    ///
    /// # Errors
    /// [`Status::WeightsFile`] where it cannot be opened or mapped, [`Status::Weights`] where it is not this model's.
    pub fn open(model: &Model, path: &Path) -> Result<Self, Error> {
        let refused = |status: Status| Error::status(status.code());
        let hash = model.weights_hash().ok_or_else(|| refused(Status::Weights))?;
        let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| refused(Status::WeightsFile))?;
        let mut raw = onnxc_weights { data: std::ptr::null(), bytes: 0 };
        // SAFETY: the model is checked, the path ends, and there is a place for the answer.
        let status = unsafe { abi::onnxc_weights_open(model.raw(), path.as_ptr(), &mut raw) };
        if status == 0 { Ok(Self { raw, hash }) } else { Err(Error::status(status)) }
    }

    /// Whether they are those of this model.
    pub(crate) fn belong_to(&self, model: &Model) -> bool {
        model.weights_hash() == Some(self.hash) && model.weight_bytes() == self.raw.bytes
    }

    pub(crate) fn raw(&self) -> onnxc_weights {
        self.raw
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: opened by the library; sessions that use it keep it alive.
        unsafe { abi::onnxc_weights_close(&mut self.raw) }
    }
}
