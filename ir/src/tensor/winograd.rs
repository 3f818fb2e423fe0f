//! The matrices of Winograd's algorithm for 3x3 filters (Lavin and Gray, 2015): F(2x2, 3x3) and F(4x4, 3x3).
//!
//! With output tiles of m x m and `t = m + 2`, a tile is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`, where `g` is the 3x3 filter and `d` the
//! t x t patch of the input. The products of the middle take `t²` multiplications for `m²` results where the plain
//! convolution takes `9 m²`.

/// The matrices for one size of tile, row-major.
#[derive(Debug)]
pub struct Winograd {
    /// Outputs of a tile along each side: m.
    pub tile: usize,
    /// Bᵀ: t x t, transforms patches of the input.
    pub input: &'static [f64],
    /// G: t x 3, transforms filters.
    pub filter: &'static [f64],
    /// A left inverse of G: 3 x t, gives filters back.
    pub filter_inverse: &'static [f64],
    /// Aᵀ: m x t, gives the outputs.
    pub output: &'static [f64],
}

impl Winograd {
    /// The side of a patch and of a transformed filter.
    pub const fn patch(&self) -> usize {
        self.tile + 2
    }

    /// The matrices for tiles of `tile` x `tile` outputs, if there are any.
    pub fn of(tile: u32) -> Option<&'static Winograd> {
        match tile {
            2 => Some(&F2),
            4 => Some(&F4),
            _ => None,
        }
    }
}

static F2: Winograd = Winograd {
    tile: 2,
    #[rustfmt::skip]
    input: &[
        1.0, 0.0, -1.0, 0.0,
        0.0, 1.0, 1.0, 0.0,
        0.0, -1.0, 1.0, 0.0,
        0.0, 1.0, 0.0, -1.0,
    ],
    #[rustfmt::skip]
    filter: &[
        1.0, 0.0, 0.0,
        0.5, 0.5, 0.5,
        0.5, -0.5, 0.5,
        0.0, 0.0, 1.0,
    ],
    #[rustfmt::skip]
    filter_inverse: &[
        1.0, 0.0, 0.0, 0.0,
        0.0, 1.0, -1.0, 0.0,
        0.0, 0.0, 0.0, 1.0,
    ],
    #[rustfmt::skip]
    output: &[
        1.0, 1.0, 1.0, 0.0,
        0.0, 1.0, -1.0, -1.0,
    ],
};

static F4: Winograd = Winograd {
    tile: 4,
    #[rustfmt::skip]
    input: &[
        4.0, 0.0, -5.0, 0.0, 1.0, 0.0,
        0.0, -4.0, -4.0, 1.0, 1.0, 0.0,
        0.0, 4.0, -4.0, -1.0, 1.0, 0.0,
        0.0, -2.0, -1.0, 2.0, 1.0, 0.0,
        0.0, 2.0, -1.0, -2.0, 1.0, 0.0,
        0.0, 4.0, 0.0, -5.0, 0.0, 1.0,
    ],
    #[rustfmt::skip]
    filter: &[
        1.0 / 4.0, 0.0, 0.0,
        -1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0,
        -1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0,
        1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0,
        1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0,
        0.0, 0.0, 1.0,
    ],
    #[rustfmt::skip]
    filter_inverse: &[
        4.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        0.0, -3.0, 3.0, 0.0, 0.0, 0.0,
        0.0, 0.0, 0.0, 0.0, 0.0, 1.0,
    ],
    #[rustfmt::skip]
    output: &[
        1.0, 1.0, 1.0, 1.0, 1.0, 0.0,
        0.0, 1.0, -1.0, 2.0, -2.0, 0.0,
        0.0, 1.0, 1.0, 4.0, 4.0, 0.0,
        0.0, 1.0, -1.0, 8.0, -8.0, 1.0,
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(matrix: &[f64], columns: usize, x: &[f64]) -> Vec<f64> {
        matrix.chunks(columns).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    /// One dimension decides: the algorithm applies the same matrices along both.
    #[test]
    fn matrices_compute_a_convolution() {
        for tile in [2, 4] {
            let w = Winograd::of(tile).unwrap();
            let t = w.patch();
            let d: Vec<f64> = (0..t).map(|i| (i * i) as f64 - 3.5).collect();
            let g = [2.0, -1.5, 0.75];
            let u = apply(w.filter, 3, &g);
            let product: Vec<f64> = u.iter().zip(apply(w.input, t, &d)).map(|(a, b)| a * b).collect();
            for (i, y) in apply(w.output, t, &product).into_iter().enumerate() {
                let expected: f64 = (0..3).map(|k| g[k] * d[i + k]).sum();
                assert!((y - expected).abs() < 1e-9, "F({tile}, 3) at {i}: {y} for {expected}");
            }
            for (a, b) in apply(w.filter_inverse, t, &u).iter().zip(g) {
                assert!((a - b).abs() < 1e-12);
            }
        }
        assert!(Winograd::of(3).is_none());
    }
}
