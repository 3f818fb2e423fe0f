//! See the module list in `tensor`.
