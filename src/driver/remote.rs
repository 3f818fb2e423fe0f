//! Models on another machine: many of them linked into one program, which a runner such as an emulator executes.
//!
//! The program is `remote.c` beside this file, whose header says what its two files hold. A batch of models costs one link
//! and one start; a crash costs one run, after which the program is started again behind it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use onnxc_backend::cranelift::compile::{WeightPlacement, status_messages};
use onnxc_backend::header::ABI_HEADER;
use onnxc_backend::object::emit::object_file;
use onnxc_frontend::data::DataValue;
use onnxc_frontend::import::Structure;
use onnxc_frontend::proto::{TensorData, dtype_from_onnx, dtype_to_onnx};
use onnxc_ir::dtype::DType;
use onnxc_ir::strings;
use onnxc_ir::tensor::TensorBytes;
use onnxc_runtime::SUPPORT_SOURCES;

use super::compile::{hash, import, lower, object_failure, with_compiled};
use super::execute::run_failure;
use super::options::CompileOptions;
use super::ports::{PortInfo, ports, tensors_of, values_of};
use crate::diagnostics::Failure;
use crate::values::{Value, to_tensor_bytes};

const PROGRAM: &str = include_str!("remote.c");
/// The sources of what models that work on strings call.
const STRING_SOURCES: [&str; 3] = ["strings.c", "strings_numbers.c", "strings_text.c"];
/// The same of models for GPUs.
const GPU_SOURCES: [&str; 2] = ["cuda.c", "cuda_device.c"];
const INPUTS: &str = "inputs.bin";
const OUTPUTS: &str = "outputs.bin";

/// A model that was compiled to a file, with what is known of its inputs and outputs.
pub struct RemoteModel {
    inputs: Vec<PortInfo>,
    structures: [Vec<(String, Structure)>; 2],
    steps: Vec<String>,
    object: PathBuf,
    prefix: String,
    /// Whether it calls the support library's functions on strings.
    strings: bool,
    /// Whether it calls those on GPUs.
    gpu: bool,
}

/// What a run on the other machine gave.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The run's number.
    pub run: u32,
    /// 0, or the status that it ended with.
    status: i32,
    /// The step that failed, if one did.
    step: usize,
    tensors: Vec<TensorData>,
}

impl RemoteModel {
    /// Compiles a model to an object whose symbols begin with the options' name.
    pub fn compile(model: &Path, object: &Path, options: &CompileOptions) -> Result<RemoteModel, Failure> {
        let imported = import(model, options)?;
        let (inputs, _) = ports(&imported)?;
        let structures = [imported.inputs.clone(), imported.outputs.clone()];
        let targets = options.targets()?;
        let program = lower(imported, &targets, None, options)?;
        let hash = hash(model, &targets, options)?;
        with_compiled(&program, &targets, hash, WeightPlacement::Embedded, |compiled| {
            object_file(&compiled.spec, object).map_err(|e| object_failure(&e, object))
        })?;
        let step = |&o: &_| format!("{} {}", program.origins[o].operator, program.origins[o].path);
        let steps = program.all_steps().iter().map(|s| s.origins().first().map(step).unwrap_or_default()).collect();
        let (object, prefix, strings) = (object.to_owned(), options.name.clone(), program.string_slots.is_some());
        let gpu = targets[0].gpu().is_some();
        Ok(RemoteModel { inputs, structures, steps, object, prefix, strings, gpu })
    }

    /// Appends a run of model number `model` on these inputs to the program's input file.
    pub fn encode(&self, run: u32, model: u32, inputs: &[Value], out: &mut Vec<u8>) -> Result<(), Failure> {
        let tensors = tensors_of(inputs, &self.structures[0])?;
        if tensors.len() != self.inputs.len() {
            return Err(run_failure(format!("{} inputs for {}", tensors.len(), self.inputs.len())));
        }
        let mut record: Vec<u8> = [run, model, tensors.len() as u32].iter().flat_map(|n| n.to_le_bytes()).collect();
        for (value, port) in tensors.iter().zip(&self.inputs) {
            let tensor = to_tensor_bytes(value, port)?;
            record.extend(dtype_to_onnx(tensor.dtype).to_le_bytes());
            record.extend((tensor.shape.len() as u32).to_le_bytes());
            record.extend(tensor.shape.iter().flat_map(|n| n.to_le_bytes()));
            record.extend((tensor.bytes.len() as u64).to_le_bytes());
            record.extend_from_slice(&tensor.bytes);
        }
        out.extend(record);
        Ok(())
    }

    /// The outputs in an answer.
    pub fn decode(&self, answer: &Answer) -> Result<Vec<Value>, Failure> {
        if answer.status != 0 {
            let messages = status_messages();
            let index = usize::try_from(-i64::from(answer.status)).unwrap_or(usize::MAX);
            let message = messages.get(index).copied().unwrap_or("unknown status");
            let place = self.steps.get(answer.step).map_or(String::new(), |step| format!("{step}: "));
            return Err(run_failure(format!("{place}{message}")));
        }
        Ok(values_of(answer.tensors.iter().cloned().map(DataValue::Tensor).collect(), &self.structures[1]))
    }

    /// The names of the model's outputs.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.structures[1].iter().map(|(name, _)| name.as_str())
    }
}

/// The whole answers at the beginning of what the program wrote; a crash may have cut the last one.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some(answer) = answer(&mut bytes) {
        found.push(answer);
    }
    found
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn word(bytes: &mut &[u8]) -> Option<i32> {
    take(bytes, 4).map(|b| i32::from_le_bytes(b.try_into().expect("four bytes were taken")))
}

fn long(bytes: &mut &[u8]) -> Option<i64> {
    take(bytes, 8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes were taken")))
}

fn answer(bytes: &mut &[u8]) -> Option<Answer> {
    let (run, status, step, count) = (word(bytes)?, word(bytes)?, word(bytes)?, word(bytes)?);
    let mut tensors = Vec::new();
    for _ in 0..count {
        let dtype = dtype_from_onnx(word(bytes)?)?;
        let rank = word(bytes)?;
        let dims: Vec<i64> = (0..rank).map(|_| long(bytes)).collect::<Option<_>>()?;
        let length = usize::try_from(long(bytes)?).ok()?;
        let elements = take(bytes, length)?.to_vec().into();
        tensors.push(if dtype == DType::String {
            let tensor = TensorBytes { dtype, shape: dims.into(), bytes: elements };
            strings::unpacked(&tensor)?;
            tensor.into()
        } else {
            TensorData::dense(dtype, dims, elements).ok()?
        });
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Some(Answer { run: run as u32, status, step, tensors })
}

/// How the program is built for a target and run there.
pub struct RemoteProgram {
    folder: PathBuf,
    compiler: Vec<String>,
    runner: Vec<String>,
}

/// How a run of the program ended.
pub enum Ending {
    /// It ended by itself.
    Exit(ExitStatus),
    /// It wrote nothing for as long as a run may take.
    TimedOut,
}

impl RemoteProgram {
    /// Compiles the program into `folder`. `compiler` and `runner` are commands with arguments, separated by spaces; an
    /// empty runner starts the program itself.
    pub fn new(folder: &Path, compiler: &str, runner: &str) -> Result<RemoteProgram, Failure> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let program = RemoteProgram { folder: folder.to_owned(), compiler: words(compiler), runner: words(runner) };
        if program.compiler.is_empty() {
            return Err(Failure::usage("--cc names no compiler"));
        }
        program.write("onnxc.h", ABI_HEADER.as_bytes())?;
        program.write("remote.c", PROGRAM.as_bytes())?;
        for (path, text) in SUPPORT_SOURCES {
            let name = path.rsplit('/').next().unwrap_or(path);
            if name.ends_with("support.h")
                || name.ends_with("internal.h")
                || STRING_SOURCES.contains(&name)
                || GPU_SOURCES.contains(&name)
            {
                program.write(name, text.as_bytes())?;
            }
        }
        let output = program.compile(&["-std=c11", "-O1", "-c", "remote.c", "-o", "remote.o"])?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::usage(format!("{compiler} cannot compile C for the target:\n{text}")));
        }
        Ok(program)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|e| Failure::io(&path, &e))
    }

    fn compile<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Result<Output, Failure> {
        let mut command = Command::new(&self.compiler[0]);
        command.args(&self.compiler[1..]).args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command.output().map_err(|e| Failure::usage(format!("cannot run {}: {e}", self.compiler[0])))
    }

    /// Links the models, whose numbers are their places, into a program called `name`; what the linker says where it
    /// refuses.
    pub fn link(&self, name: &str, models: &[&RemoteModel]) -> Result<Result<(), String>, Failure> {
        let mut table = String::from("#include \"onnxc.h\"\n");
        models.iter().for_each(|m| table += &format!("ONNXC_DECLARE_MODEL({});\n", m.prefix));
        table += "extern const onnxc_model *const onnxc_remote_models[];\n";
        table += "const onnxc_model *const onnxc_remote_models[] = {\n";
        models.iter().for_each(|m| table += &format!("    &{},\n", m.prefix));
        table += &format!(
            "}};\nextern const uint32_t onnxc_remote_model_count;\n\
                           const uint32_t onnxc_remote_model_count = {};\n",
            models.len()
        );
        self.write("table.c", table.as_bytes())?;
        let mut arguments: Vec<std::ffi::OsString> = Vec::new();
        arguments.extend(["-std=c11", "remote.o", "table.c"].map(Into::into));
        arguments.extend(models.iter().map(|m| m.object.clone().into_os_string()));
        if models.iter().any(|m| m.strings) {
            arguments.extend(STRING_SOURCES.map(Into::into));
        }
        if models.iter().any(|m| m.gpu) {
            arguments.extend(GPU_SOURCES.map(Into::into));
            arguments.extend(["-pthread", "-ldl"].map(Into::into));
        }
        arguments.extend(["-o".into(), name.into()]);
        let output = self.compile(&arguments)?;
        let text = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok(if output.status.success() { Ok(()) } else { Err(text()) })
    }

    /// Gives the program its inputs, runs those from `first` on, and reads what it answered. `limit` is how long it may go
    /// without an answer.
    pub fn run(
        &self,
        name: &str,
        inputs: &[u8],
        first: u32,
        limit: Duration,
    ) -> Result<(Vec<Answer>, Ending), Failure> {
        self.write(INPUTS, inputs)?;
        self.write(OUTPUTS, &[])?;
        let program = self.folder.join(name);
        let (outputs, first) = (self.folder.join(OUTPUTS), first.to_string());
        let mut command = match self.runner.split_first() {
            Some((runner, arguments)) => {
                let mut command = Command::new(runner);
                command.args(arguments).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        command.args([INPUTS, OUTPUTS, &first]).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |e: io::Error| Failure::usage(format!("cannot run {command:?}: {e}", command = self.runner));
        let mut child = command.spawn().map_err(failed)?;
        let (mut last, mut written) = (Instant::now(), 0);
        let ending = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break Ending::Exit(status);
            }
            let length = fs::metadata(&outputs).map_or(0, |m| m.len());
            if length != written {
                (last, written) = (Instant::now(), length);
            }
            if last.elapsed() > limit {
                // It has either ended meanwhile or is killed; both are waited for.
                let _ = child.kill();
                child.wait().map_err(failed)?;
                break Ending::TimedOut;
            }
            sleep(Duration::from_millis(5));
        };
        let bytes = fs::read(&outputs).map_err(|e| Failure::io(&outputs, &e))?;
        Ok((answers(&bytes), ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with one tensor of two i64.
    fn whole() -> Vec<u8> {
        let mut bytes: Vec<u8> = [7i32, 0, -1, 1, 7, 1].iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.extend([2i64, 16, 5, 6].iter().flat_map(|n| n.to_le_bytes()));
        bytes
    }

    #[test]
    fn answers_end_where_the_program_was_cut_off() {
        let two = [whole(), whole()].concat();
        let found = answers(&two);
        assert_eq!((found.len(), found[1].run, found[1].tensors[0].dims()), (2, 7, &[2i64][..]));
        for cut in 1..whole().len() {
            assert_eq!(answers(&two[..two.len() - cut]).len(), 1, "{cut} bytes cut");
        }
    }
}
