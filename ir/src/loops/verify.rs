//! verify: see the module list in `loops`.
