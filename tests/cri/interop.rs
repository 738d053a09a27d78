//! Go's gRPC, which kubelets and crictl are made with, against our server.

use std::process::Command;

use crate::harness::Wire;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_clients_are_understood_however_they_name_the_socket() {
    let go =
        |args: Vec<String>| Command::new("go").args(args).current_dir(DIRECTORY).env("GOTOOLCHAIN", "local").output();
    match go(vec!["mod".into(), "download".into()]) {
        Err(error) => return eprintln!("skipped: no go on this machine: {error}"),
        Ok(output) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr);
            return eprintln!("skipped: the Go modules cannot be had here: {}", why.trim());
        }
        Ok(_) => {}
    }
    let wire = Wire::new().await;
    let socket = wire.dir.path().join("orlop.sock").display().to_string();
    let run = move || go(vec!["run".into(), "./interop".into(), socket]).unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
