//! Two processes in one small program: the one that stays with a pod, all of which is in [`orlop::shim::server`], and
//! under the name of `orlop-init` the one that becomes a container's, which is in [`orlop::runtime::execute`].

use std::process::ExitCode;

use orlop::runtime::execute;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|name| name.as_encoded_bytes() == execute::INIT.to_bytes()) {
        execute::init(args.next().as_deref());
    }
    match orlop::shim::server::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("orlop-shim: {e}");
            ExitCode::FAILURE
        }
    }
}
