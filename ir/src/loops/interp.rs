//! interp: see the module list in `loops`.
