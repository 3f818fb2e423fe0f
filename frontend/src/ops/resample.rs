//! The mathematics of resizing one axis: where output elements lie in the input, and the weights of their neighbours.

/// How values between elements are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Interpolation {
    /// The nearest element.
    Nearest(Rounding),
    /// A line between two elements.
    Linear,
    /// A cubic between four elements, with this parameter.
    Cubic(f64),
}

/// Which element is the nearest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// Halves go down.
    PreferFloor,
    /// Halves go up.
    PreferCeil,
    /// Always down.
    Floor,
    /// Always up.
    Ceil,
}

/// How positions in the output become positions in the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    /// Centres of elements correspond.
    HalfPixel,
    /// As `HalfPixel`, with both images centred where the scaled size is no integer.
    HalfPixelSymmetric,
    /// As `HalfPixel`, but 0 for a single element.
    PytorchHalfPixel,
    /// First and last elements correspond.
    AlignCorners,
    /// First elements correspond.
    Asymmetric,
    /// Between two relative positions in the input; outside of the input is this value.
    Crop {
        /// Where the output begins.
        start: f64,
        /// Where it ends.
        end: f64,
        /// The value outside.
        outside: f64,
    },
}

/// One axis to resize.
#[derive(Clone, Copy, Debug)]
pub(super) struct AxisResize {
    /// Elements of the input.
    pub input: i64,
    /// Elements of the output.
    pub output: i64,
    /// Output elements per input element.
    pub scale: f64,
    /// The positions.
    pub transform: Transform,
    /// The weights.
    pub interpolation: Interpolation,
    /// Whether the kernel is stretched to cover all elements when there are fewer in the output.
    pub antialias: bool,
    /// Whether elements outside of the input have no weight, instead of being those at the border.
    pub exclude_outside: bool,
}

/// Each output element as a weighted sum of input elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taps {
    /// Neighbours per output element.
    pub count: usize,
    /// Input indices, `[output, count]`, within the input.
    pub indices: Vec<i64>,
    /// Their weights, `[output, count]`.
    pub weights: Vec<f32>,
    /// What is added, `[output]`; only where a part lies outside of the input.
    pub added: Option<Vec<f32>>,
}

impl AxisResize {
    /// The position in the input of output element `o`.
    fn position(&self, o: i64) -> f64 {
        let (o, input, output) = (o as f64, self.input as f64, self.scale * self.input as f64);
        match self.transform {
            Transform::HalfPixel => (o + 0.5) / self.scale - 0.5,
            Transform::HalfPixelSymmetric => {
                let offset = input / 2.0 * (1.0 - self.output as f64 / output);
                offset + (o + 0.5) / self.scale - 0.5
            }
            Transform::PytorchHalfPixel if output == 1.0 => -0.5,
            Transform::PytorchHalfPixel => (o + 0.5) / self.scale - 0.5,
            Transform::AlignCorners if output == 1.0 => 0.0,
            Transform::AlignCorners => o * (input - 1.0) / (output - 1.0),
            Transform::Asymmetric => o / self.scale,
            Transform::Crop { start, end, .. } => {
                let extent = (end - start) * (input - 1.0);
                let inner = if output == 1.0 { extent / 2.0 } else { o * extent / (output - 1.0) };
                inner + start * (input - 1.0)
            }
        }
    }

    /// The kernel's weights for neighbours around a position that lies `ratio`, in (0, 1], after an element.
    fn coefficients(&self, ratio: f64) -> Vec<f64> {
        // The kernel is stretched only where elements are left out.
        let scale = if self.antialias { self.scale.min(1.0) } else { 1.0 };
        let (kernel, radius): (&dyn Fn(f64) -> f64, f64) = match self.interpolation {
            Interpolation::Nearest(rounding) => {
                let upper = match rounding {
                    _ if ratio == 1.0 => true,
                    Rounding::PreferFloor => ratio > 0.5,
                    Rounding::PreferCeil => ratio >= 0.5,
                    Rounding::Floor => false,
                    Rounding::Ceil => true,
                };
                return if upper { vec![0.0, 1.0] } else { vec![1.0, 0.0] };
            }
            Interpolation::Linear => (&|x: f64| (1.0 - x.abs()).max(0.0), 1.0),
            Interpolation::Cubic(a) => (&move |x: f64| cubic(x.abs(), a), 2.0),
        };
        let first = (-radius / scale).floor() as i64 + 1;
        let mut weights: Vec<f64> = (first..2 - first).map(|i| kernel((i as f64 - ratio) * scale)).collect();
        if self.antialias {
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights
    }

    /// The neighbours of all output elements.
    pub fn taps(&self) -> Taps {
        let count = self.coefficients(1.0).len();
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        let mut added = vec![0.0; usize::try_from(self.output).unwrap_or(0)];
        for (o, added) in added.iter_mut().enumerate() {
            let x = self.position(o as i64);
            if let Transform::Crop { outside, .. } = self.transform
                && (x < 0.0 || x > (self.input - 1) as f64)
            {
                *added = outside as f32;
                indices.extend(std::iter::repeat_n(0, count));
                weights.extend(std::iter::repeat_n(0.0, count));
                continue;
            }
            // The element on the left, which for a position on an element is the one before it.
            let left = x.ceil() as i64 - 1;
            let mut row = self.coefficients(x - left as f64);
            let first = left + 1 - (count / 2) as i64;
            let neighbours = first..first + count as i64;
            if self.exclude_outside {
                for (w, i) in row.iter_mut().zip(neighbours.clone()) {
                    *w = if (0..self.input).contains(&i) { *w } else { 0.0 };
                }
                let sum: f64 = row.iter().sum();
                row.iter_mut().filter(|_| sum != 0.0).for_each(|w| *w /= sum);
            }
            indices.extend(neighbours.map(|i| i.clamp(0, (self.input - 1).max(0))));
            weights.extend(row.iter().map(|&w| w as f32));
        }
        let added = added.iter().any(|&a| a != 0.0).then_some(added);
        let taps = Taps { count, indices, weights, added };
        if matches!(self.interpolation, Interpolation::Nearest(_)) { taps.single() } else { taps }
    }
}

impl Taps {
    /// The same with one neighbour, where only one of two has a weight.
    fn single(self) -> Taps {
        let chosen = |row: (&[i64], &[f32])| if row.1[1] != 0.0 { (row.0[1], row.1[1]) } else { (row.0[0], row.1[0]) };
        let rows = self.indices.chunks_exact(2).zip(self.weights.chunks_exact(2)).map(chosen);
        let (indices, weights) = rows.unzip();
        Taps { count: 1, indices, weights, added: self.added }
    }

    /// The repetition factor, where each input element just appears that many times in a row.
    pub fn repetition(&self, input: i64) -> Option<i64> {
        let output = self.indices.len() as i64;
        let factor = if input > 0 && output % input == 0 { output / input } else { return None };
        let repeats = self.indices.iter().enumerate().all(|(o, &i)| i == o as i64 / factor);
        let plain = self.count == 1 && self.added.is_none() && self.weights.iter().all(|&w| w == 1.0);
        (factor > 0 && repeats && plain).then_some(factor)
    }
}

/// The cubic convolution kernel at a distance.
fn cubic(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(input: i64, output: i64, transform: Transform, interpolation: Interpolation) -> AxisResize {
        let scale = output as f64 / input as f64;
        AxisResize { input, output, scale, transform, interpolation, antialias: false, exclude_outside: false }
    }

    #[test]
    fn doubling_repeats() {
        let nearest = Interpolation::Nearest(Rounding::PreferFloor);
        assert_eq!(axis(3, 6, Transform::HalfPixel, nearest).taps().repetition(3), Some(2));
        let ceil = Interpolation::Nearest(Rounding::Ceil);
        assert_eq!(axis(3, 6, Transform::Asymmetric, ceil).taps().indices, [0, 1, 1, 2, 2, 2]);
        assert_eq!(axis(3, 6, Transform::Asymmetric, ceil).taps().repetition(3), None);
    }

    #[test]
    fn linear_weights() {
        let taps = axis(2, 4, Transform::HalfPixel, Interpolation::Linear).taps();
        assert_eq!(taps.indices, [0, 0, 0, 1, 0, 1, 1, 1]);
        assert_eq!(taps.weights, [0.25, 0.75, 0.75, 0.25, 0.25, 0.75, 0.75, 0.25]);
        let corners = axis(3, 5, Transform::AlignCorners, Interpolation::Linear).taps();
        assert_eq!(corners.weights[2..4], [0.5, 0.5]);
    }

    #[test]
    fn kernels_sum_to_one() {
        for interpolation in [Interpolation::Linear, Interpolation::Cubic(-0.75)] {
            for antialias in [false, true] {
                let resize = AxisResize { antialias, ..axis(17, 5, Transform::HalfPixel, interpolation) };
                let taps = resize.taps();
                for row in taps.weights.chunks_exact(taps.count) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
                }
            }
        }
    }

    #[test]
    fn outside_of_a_crop_is_the_given_value() {
        let crop = Transform::Crop { start: 0.5, end: 1.5, outside: 7.0 };
        let taps = axis(5, 3, crop, Interpolation::Linear).taps();
        assert_eq!(taps.added, Some(vec![0.0, 0.0, 7.0]));
        assert_eq!(taps.weights[4..], [0.0, 0.0]);
    }
}
