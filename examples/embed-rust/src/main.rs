//! Reads handwritten digits with a network that is compiled into the program: `build.rs` compiled `digits.onnx`, and
//! nothing lies beside the binary when it runs.

onnxc_runtime::include_model!(digits);

/// The digits that training did not see, each a label and 8x8 pixels from 0 to 16.
static HELD_BACK: &[u8] = include_bytes!("../held_back.bin");

/// A handwritten digit and what it is.
struct Sample {
    label: u8,
    image: [[[[f32; 8]; 8]; 1]; 1],
}

fn samples() -> impl Iterator<Item = Sample> {
    let (records, rest) = HELD_BACK.as_chunks::<65>();
    assert!(rest.is_empty(), "each digit has 65 bytes");
    records.iter().map(|record| {
        let mut image = [[[[0.0; 8]; 8]; 1]; 1];
        for (pixel, &byte) in
            image.as_flattened_mut().as_flattened_mut().as_flattened_mut().iter_mut().zip(&record[1..])
        {
            *pixel = f32::from(byte);
        }
        Sample { label: record[0], image }
    })
}

/// The likeliest digit and how sure the network is.
fn read(model: &mut digits::Model, sample: &Sample) -> Result<(u8, f32), onnxc_runtime::RunError> {
    let outputs = model.run(digits::Inputs { image: &sample.image })?;
    let best = outputs.scores[0].iter().copied().zip(0u8..).max_by(|a, b| a.0.total_cmp(&b.0));
    let (score, digit) = best.expect("there are ten scores");
    Ok((digit, score))
}

fn main() -> Result<(), onnxc_runtime::RunError> {
    let mut model = digits::Model::new();
    let (mut right, mut all) = (0, 0);
    for sample in samples() {
        let (digit, score) = read(&mut model, &sample)?;
        all += 1;
        if digit == sample.label {
            right += 1;
        } else {
            println!("{} read as {digit}, {:.0} % sure:", sample.label, score * 100.0);
            for row in sample.image[0][0] {
                println!(
                    "    {}",
                    row.map(|pixel| [' ', '.', '+', '#', '#'][(pixel / 4.0) as usize]).iter().collect::<String>()
                );
            }
        }
    }
    println!("{right} of {all} right; {} bytes of code", digits::descriptor().code_bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_97_of_100_held_back_digits_are_read_right() {
        let mut model = digits::Model::new();
        let right = samples().filter(|sample| read(&mut model, sample).unwrap().0 == sample.label).count();
        assert_eq!(samples().count(), 360);
        assert!(right * 100 >= 97 * 360, "{right} of 360");
    }

    #[test]
    fn the_network_s_code_is_small() {
        let bytes = digits::descriptor().code_bytes;
        assert!((1..=32 << 10).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn it_runs_in_memory_of_the_caller_s() {
        let sample = samples().next().unwrap();
        let (mut arena, mut outputs) = (digits::ARENA, digits::Outputs::ZERO);
        digits::run_in(&mut arena, digits::Inputs { image: &sample.image }, &mut outputs).unwrap();
        assert_eq!(&outputs, digits::Model::new().run(digits::Inputs { image: &sample.image }).unwrap());
        assert!((outputs.scores[0].iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn threads_change_nothing() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let (mut alone, mut together) = (digits::Model::new(), digits::Model::new());
        for sample in samples() {
            let inputs = digits::Inputs { image: &sample.image };
            assert_eq!(alone.run(inputs).unwrap(), together.run_on(&pool, inputs).unwrap());
        }
    }
}
