//! Compiles digits.onnx for the program's target, for one image at a time.

fn main() -> Result<(), onnxc::build::Error> {
    onnxc::build::Model::new("digits.onnx").dim("batch", 1).compile()?;
    Ok(())
}
