//! The process that stays with a pod. All of it is in [`orlop::shim::server`].

use std::process::ExitCode;

fn main() -> ExitCode {
    match orlop::shim::server::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("orlop-shim: {e}");
            ExitCode::FAILURE
        }
    }
}
