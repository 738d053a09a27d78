//! Hooks, which are programs of the host with root's rights.

use std::fs;

use serde_json::json;

use crate::bundle::Bundle;

#[test]
fn cve_2025_23266_hooks_get_nothing_of_the_container() {
    let Some(mut bundle) = Bundle::new("hook-env", "true") else { return };
    let notes = bundle.path().join("notes");
    fs::create_dir(&notes).unwrap();
    // A library that the image brings would be loaded by the dynamic linker of the host's program.
    bundle.process()["env"] =
        json!(["PATH=/bin", "LD_PRELOAD=./evil.so", "LD_LIBRARY_PATH=.", "LD_AUDIT=./evil.so", "BASH_ENV=./evil"]);
    fs::write(bundle.rootfs().join("evil.so"), "").unwrap();
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let script = format!("{{ pwd; /usr/bin/env; }} > {}/{kind}", notes.display());
        bundle.config["hooks"][kind] = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
    }
    let called = bundle.run();
    assert!(called.status.success(), "{called:#?}");
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        let seen = fs::read_to_string(notes.join(kind)).unwrap();
        assert!(!seen.contains("evil") && !seen.contains("LD_"), "{kind}: {seen}");
        // Nor is it in the image's file system when it starts.
        let directory = seen.lines().next().unwrap();
        assert!(!directory.starts_with(bundle.rootfs().to_str().unwrap()), "{kind}: {directory}");
    }
}
