//! Tables for every way to name an upstream, and for everything that names none.
