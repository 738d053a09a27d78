//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    orlop::cli::main()
}
