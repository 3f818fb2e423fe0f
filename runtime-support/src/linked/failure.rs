//! Why a run of a linked model failed, in the model's own names.

use core::ffi::CStr;
use core::fmt;

use crate::abi::{onnxc_fault, onnxc_model};
use crate::status::Status;

/// A run that failed. Its text names the port, axis and numbers that it is about.
#[derive(Clone, Copy)]
pub struct RunError {
    model: &'static onnxc_model,
    status: Status,
    fault: onnxc_fault,
}

impl RunError {
    pub(super) fn new(model: &'static onnxc_model, status: Status, fault: onnxc_fault) -> Self {
        Self { model, status, fault }
    }

    /// What kind of failure it is.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Where it is, as numbers.
    pub fn fault(&self) -> onnxc_fault {
        self.fault
    }

    /// The name of the port it is about.
    fn port(&self) -> Option<(&'static str, &'static str)> {
        let fault = &self.fault;
        let (word, first, count) = match fault.output {
            0 => ("input", self.model.inputs, self.model.input_count),
            _ => ("output", self.model.outputs, self.model.output_count),
        };
        let index = u32::try_from(fault.port).ok().filter(|&index| index < count)?;
        // SAFETY: a linked descriptor has as many ports as it says, and each a name.
        let name = unsafe { CStr::from_ptr((*first.add(index as usize)).name) };
        Some((word, name.to_str().unwrap_or("?")))
    }

    /// The ONNX node of the step it is about.
    fn step(&self) -> Option<&'static str> {
        let index = u32::try_from(self.fault.step).ok().filter(|&index| index < self.model.step_count)?;
        // SAFETY: a linked descriptor has as many steps as it says, each a terminated string.
        let name = unsafe { CStr::from_ptr(*self.model.steps.add(index as usize)) };
        Some(name.to_str().unwrap_or("?"))
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((word, name)) = self.port() {
            write!(f, "{word} {name:?}")?;
            if self.fault.axis >= 0 {
                write!(f, ", axis {}", self.fault.axis)?;
            }
            f.write_str(": ")?;
        } else if let Some(step) = self.step() {
            write!(f, "{step}: ")?;
        }
        write!(f, "{}", self.status)?;
        match (self.fault.expected, self.fault.actual) {
            (-1, -1) => Ok(()),
            (-1, actual) => write!(f, " (got {actual})"),
            (expected, -1) => write!(f, " (expected {expected})"),
            (expected, actual) => write!(f, " (expected {expected}, got {actual})"),
        }
    }
}

impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?})", self.status)
    }
}

impl core::error::Error for RunError {}
