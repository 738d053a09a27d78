//! `process.apparmorProfile`, `process.selinuxLabel`, `linux.mountLabel`: where the kernel has the module.
//!
//! The test for AppArmor wants a kernel with `security=apparmor` and the package `apparmor`; it loads a profile of its
//! own and takes it out again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use orlop::runtime::security::SecurityModules;

use crate::bundle::{Bundle, able, skip};

/// A profile that is loaded as long as this lives: nobody under it reads /secret.
struct Profile {
    name: String,
    file: tempfile::NamedTempFile,
}

impl Profile {
    fn load(name: &str) -> Option<Self> {
        if !able() {
            return None;
        }
        if !SecurityModules::of_host().apparmor {
            skip("needs a kernel with AppArmor switched on (security=apparmor)");
            return None;
        }
        let name = format!("orlop-test-{name}-{}", std::process::id());
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  network, capability, file, umount, mount, \
             pivot_root, signal, ptrace, unix,\n  deny /secret rw,\n}}\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        let profile = Self { name, file };
        let loaded = profile.parser("--add");
        assert!(loaded.success(), "apparmor_parser: {loaded:?}");
        Some(profile)
    }

    /// In a mount namespace of its own that has a securityfs.
    fn parser(&self, action: &str) -> std::process::ExitStatus {
        let script = "mount -t securityfs securityfs /sys/kernel/security 2>/dev/null; \
            exec apparmor_parser --skip-cache \"$@\"";
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh", action])
            .arg(self.file.path())
            .stdout(Stdio::null())
            .status()
            .unwrap()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

#[test]
fn a_profile_of_apparmor_confines_the_program() {
    let Some(profile) = Profile::load("confine") else { return };
    let script = "cat /proc/self/attr/current; cat /secret 2>&1; cat /open";
    let Some(mut bundle) = Bundle::new("apparmor", script) else { return };
    fs::write(bundle.rootfs().join("secret"), "secret\n").unwrap();
    fs::write(bundle.rootfs().join("open"), "open\n").unwrap();
    assert!(bundle.output().contains("secret\nopen\n"));
    bundle.process()["apparmorProfile"] = profile.name.clone().into();
    for no_new_privileges in [true, false] {
        bundle.process()["noNewPrivileges"] = no_new_privileges.into();
        let output = bundle.output();
        let expected = format!("{} (enforce)\ncat: can't open '/secret': Permission denied\nopen\n", profile.name);
        assert_eq!(output, expected);
    }
    // A user with a filter cannot do what is done for it before.
    bundle.process()["user"] = serde_json::json!({ "uid": 1000, "gid": 1000 });
    assert!(bundle.output().starts_with(&profile.name));
}

#[test]
fn an_exec_is_confined_by_the_profile_too() {
    let Some(profile) = Profile::load("exec") else { return };
    let Some(mut bundle) = Bundle::new("apparmor-exec", "exec sleep 1000") else { return };
    bundle.process()["apparmorProfile"] = profile.name.clone().into();
    let pid = bundle.run_detached();
    let expected = format!("{} (enforce)\n", profile.name);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap(), expected);
    assert_eq!(bundle.exec(&["cat", "/proc/self/attr/current"]).output(), expected);
}

#[test]
fn cve_2019_16884_a_proc_of_the_image_does_not_take_the_label() {
    let Some(profile) = Profile::load("fake") else { return };
    let Some(mut bundle) = Bundle::new("apparmor-fake", "exec sleep 1000") else { return };
    // The image's own /proc, in which every name is there that a label could be written to.
    bundle.unmount("/proc");
    bundle.linux()["maskedPaths"] = serde_json::json!([]);
    bundle.linux()["readonlyPaths"] = serde_json::json!([]);
    for pid in ["self", "thread-self", "1"] {
        for directory in ["attr", "attr/apparmor"] {
            let directory = bundle.directory_inside(&format!("/proc/{pid}/{directory}"));
            for name in ["exec", "current"] {
                fs::write(directory.join(name), "").unwrap();
            }
        }
    }
    bundle.process()["apparmorProfile"] = profile.name.clone().into();
    let pid = bundle.run_detached();
    let expected = format!("{} (enforce)\n", profile.name);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap(), expected);
    assert_eq!(fs::read_to_string(bundle.rootfs().join("proc/self/attr/exec")).unwrap(), "");
}

#[test]
fn a_profile_that_is_not_loaded_is_an_error_at_create() {
    let Some(mut bundle) = Bundle::new("apparmor-missing", "true") else { return };
    bundle.process()["apparmorProfile"] = "orlop-no-such-profile".into();
    let error = bundle.refused(&["create", &bundle.id]);
    assert!(error.contains("process.apparmorProfile"), "{error}");
    match SecurityModules::of_host().apparmor {
        true => assert!(error.contains("no profile \"orlop-no-such-profile\" is loaded"), "{error}"),
        false => assert!(error.contains("no AppArmor on this host"), "{error}"),
    }
    bundle.nothing_left();
    bundle.process()["apparmorProfile"] = "unconfined".into();
    bundle.output();
}

#[test]
fn labels_of_selinux_are_errors_where_there_is_none() {
    if SecurityModules::of_host().selinux {
        return skip("SELinux is switched on here");
    }
    let Some(mut bundle) = Bundle::new("selinux", "true") else { return };
    bundle.process()["selinuxLabel"] = "system_u:system_r:container_t:s0".into();
    assert!(bundle.fails().contains("process.selinuxLabel of the OCI specification is not supported: no SELinux"));
    bundle.process()["selinuxLabel"] = "".into();
    bundle.linux()["mountLabel"] = "system_u:object_r:container_file_t:s0".into();
    assert!(bundle.fails().contains("linux.mountLabel of the OCI specification is not supported: no SELinux"));
}

#[test]
fn the_modules_are_found() {
    let found = SecurityModules::of_host();
    let Ok(list) = fs::read_to_string("/sys/kernel/security/lsm") else {
        // Without a securityfs: what is not in the kernel is not found, at least.
        let there = Path::new("/sys/module/apparmor").exists();
        return assert!(there || !found.apparmor);
    };
    assert_eq!(found.apparmor, list.split(',').any(|name| name == "apparmor"));
}
