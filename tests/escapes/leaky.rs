//! An engine that has descriptors open on the host and does not close them for its children.

use std::path::Path;
use std::process::Command;

/// As `command`, begun with descriptors 3 to 7 on `directory`, 8 on the file `mine` in it and 9 on a device.
pub fn leaky(command: &Command, directory: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    let script =
        "d=$1; shift; exec 3<\"$d\" 4<\"$d\" 5<\"$d\" 6<\"$d\" 7<\"$d\" 8<>\"$d/mine\" 9</dev/zero; exec \"$@\"";
    shell.args(["-c", script, "sh"]).arg(directory).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell.stdin(std::process::Stdio::null());
    shell
}
