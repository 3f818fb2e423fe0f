//! print: see the module list in `loops`.
