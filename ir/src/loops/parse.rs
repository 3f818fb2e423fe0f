//! parse: see the module list in `loops`.
