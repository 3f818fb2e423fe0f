//! legalize: see the module list in `loops`.
