//! What this runtime calls itself, in the form that engines read.
//!
//! The first line is `NAME version VERSION`: Docker splits it at the word, go-runc wants the name `runc` there, Podman
//! shows all of it. `spec:` is the version of the runtime specification.

/// The newest version of the runtime specification that is known here.
pub(super) const SPEC: &str = "1.3.0";

/// What follows the name of the program.
pub(super) const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "+orlop\nspec: 1.3.0");
