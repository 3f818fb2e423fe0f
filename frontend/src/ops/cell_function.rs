//! The activation functions of recurrent cells.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::ExprIndex;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `alpha * x + beta`.
    Affine(f32, f32),
    /// `x`, times alpha below 0.
    LeakyRelu(f32),
    /// `x` from alpha on, 0 below.
    ThresholdedRelu(f32),
    /// `alpha * tanh(beta * x)`.
    ScaledTanh(f32, f32),
    /// `alpha * x + beta` within 0 and 1.
    HardSigmoid(f32, f32),
    /// `x`, below 0 `alpha * (exp(x) - 1)`.
    Elu(f32),
    /// `x / (1 + |x|)`.
    Softsign,
    /// `log(1 + exp(x))`.
    Softplus,
}

impl Activation {
    /// The function of this name in any case, with its numbers taken from the lists, or defaults where those have ended.
    pub fn read(
        name: &str,
        alphas: &mut impl Iterator<Item = f32>,
        betas: &mut impl Iterator<Item = f32>,
    ) -> Option<Activation> {
        let mut alpha = |default: f32| alphas.next().unwrap_or(default);
        let mut beta = |default: f32| betas.next().unwrap_or(default);
        Some(match name.to_ascii_lowercase().as_str() {
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
            "leakyrelu" => Activation::LeakyRelu(alpha(0.01)),
            "thresholdedrelu" => Activation::ThresholdedRelu(alpha(1.0)),
            "scaledtanh" => Activation::ScaledTanh(alpha(1.0), beta(1.0)),
            "hardsigmoid" => Activation::HardSigmoid(alpha(0.2), beta(0.5)),
            "elu" => Activation::Elu(alpha(1.0)),
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => return None,
        })
    }

    /// The function of a step of an expression in a type.
    ///
    /// # Errors
    /// If the type has no constants.
    pub fn apply(self, e: &mut ExprBuilder, dtype: DType, x: ExprIndex) -> Result<ExprIndex, BuildError> {
        let number = |e: &mut ExprBuilder, value: f32| e.number(dtype, f64::from(value));
        let (zero, one) = (number(e, 0.0)?, number(e, 1.0)?);
        let affine = |e: &mut ExprBuilder, alpha: f32, beta: f32| -> Result<ExprIndex, BuildError> {
            let (alpha, beta) = (number(e, alpha)?, number(e, beta)?);
            let product = e.mul(x, alpha);
            Ok(e.add(product, beta))
        };
        Ok(match self {
            Activation::Relu => e.max(x, zero),
            Activation::Tanh => e.tanh(x),
            Activation::Sigmoid => e.sigmoid(x),
            Activation::Affine(alpha, beta) => affine(e, alpha, beta)?,
            Activation::LeakyRelu(alpha) => {
                let alpha = number(e, alpha)?;
                let (scaled, keep) = (e.mul(x, alpha), e.ge(x, zero));
                e.select(keep, x, scaled)
            }
            Activation::ThresholdedRelu(alpha) => {
                let alpha = number(e, alpha)?;
                let keep = e.ge(x, alpha);
                e.select(keep, x, zero)
            }
            Activation::ScaledTanh(alpha, beta) => {
                let (alpha, beta) = (number(e, alpha)?, number(e, beta)?);
                let scaled = e.mul(x, beta);
                let tanh = e.tanh(scaled);
                e.mul(alpha, tanh)
            }
            Activation::HardSigmoid(alpha, beta) => {
                let line = affine(e, alpha, beta)?;
                let above = e.max(line, zero);
                e.min(above, one)
            }
            Activation::Elu(alpha) => {
                let alpha = number(e, alpha)?;
                let power = e.exp(x);
                let below = e.sub(power, one);
                let (scaled, keep) = (e.mul(alpha, below), e.ge(x, zero));
                e.select(keep, x, scaled)
            }
            Activation::Softsign => {
                let size = e.abs(x);
                let divisor = e.add(one, size);
                e.div(x, divisor)
            }
            Activation::Softplus => {
                // max(x, 0) + log(1 + exp(-|x|)) does not overflow.
                let size = e.abs(x);
                let negative = e.neg(size);
                let power = e.exp(negative);
                let sum = e.add(one, power);
                let (log, above) = (e.log(sum), e.max(x, zero));
                e.add(above, log)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_to_the_functions_that_take_them() {
        let (mut alphas, mut betas) = ([0.5, 2.0].into_iter(), [3.0].into_iter());
        let mut read = |name| Activation::read(name, &mut alphas, &mut betas);
        assert_eq!(read("Tanh"), Some(Activation::Tanh));
        assert_eq!(read("LeakyRelu"), Some(Activation::LeakyRelu(0.5)));
        assert_eq!(read("HARDSIGMOID"), Some(Activation::HardSigmoid(2.0, 3.0)));
        assert_eq!(read("Affine"), Some(Activation::Affine(1.0, 0.0)));
        assert_eq!(read("Gelu"), None);
    }
}
