//! Comparing random tensors: what was drawn by another generator agrees in type, shape and distribution, not in elements.
//!
//! The test is Kolmogorov's and Smirnov's of two samples: the greatest distance between the shares of elements up to a
//! number, against the bound that two samples of one distribution pass but once in a thousand. Both samples are fixed, so a
//! verdict never changes from run to run.

use super::elements::Element;
use super::values::DataValue;

/// How rarely two samples of one distribution are called different.
const SIGNIFICANCE: f64 = 1e-3;

/// Whether two tensors have one type and shape and could be samples of one distribution; otherwise why not.
pub fn compare_distributions(actual: &DataValue, expected: &DataValue) -> Result<(), String> {
    let (DataValue::Tensor(y), DataValue::Tensor(to)) = (actual, expected) else {
        return Err("only tensors have a distribution".to_owned());
    };
    if y.dtype() != to.dtype() || y.dims() != to.dims() {
        return Err(format!("{}{:?} for {}{:?}", y.dtype(), y.dims(), to.dtype(), to.dims()));
    }
    let sorted = |t: &crate::proto::TensorData| {
        let mut values: Vec<f64> = (0..t.len()).filter_map(|i| number(&t.element(i))).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (a, b) = (sorted(y), sorted(to));
    if a.iter().any(|v| !v.is_finite()) && b.iter().all(|v| v.is_finite()) {
        return Err("elements that are not finite".to_owned());
    }
    let (n, m) = (a.len() as f64, b.len() as f64);
    let bound = (-(SIGNIFICANCE / 2.0).ln() / 2.0 * (n + m) / (n * m)).sqrt();
    let distance = greatest_distance(&a, &b);
    if distance > bound {
        return Err(format!("another distribution: {distance:.3} apart, at most {bound:.3} is likely"));
    }
    Ok(())
}

fn number(element: &Element) -> Option<f64> {
    match element {
        Element::Int(value) => Some(*value as f64),
        Element::Real(value) => Some(*value),
        Element::Complex(..) | Element::Text(_) => None,
    }
}

/// The greatest difference of the shares up to any number, in two sorted lists.
fn greatest_distance(a: &[f64], b: &[f64]) -> f64 {
    let share = |list: &[f64], x: f64| list.partition_point(|&v| v <= x) as f64 / list.len().max(1) as f64;
    a.iter().chain(b).map(|&x| (share(a, x) - share(b, x)).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::tensor::TensorBytes;

    use super::*;

    fn tensor(values: &[f32]) -> DataValue {
        DataValue::Tensor(TensorBytes::from_f32(&[values.len() as i64], values).into())
    }

    #[test]
    fn samples_of_one_distribution_agree_and_others_do_not() {
        let ramp = |offset: f32| (0..400).map(|i| (i as f32 * 0.618 + offset).fract()).collect::<Vec<f32>>();
        let (a, b) = (tensor(&ramp(0.0)), tensor(&ramp(0.31)));
        assert_eq!(compare_distributions(&a, &b), Ok(()));
        let shifted: Vec<f32> = ramp(0.0).iter().map(|v| v + 0.3).collect();
        assert!(compare_distributions(&a, &tensor(&shifted)).is_err_and(|e| e.contains("distribution")));
        let squared: Vec<f32> = ramp(0.0).iter().map(|v| v * v).collect();
        assert!(compare_distributions(&a, &tensor(&squared)).is_err());
        assert!(compare_distributions(&a, &tensor(&[0.5])).is_err_and(|e| e.contains("[400]")));
    }
}
