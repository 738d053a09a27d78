//! Volumes and root file systems that somebody changes while a container is made over them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::json;

use crate::bundle::Bundle;
use crate::race::{Canary, Racer, rounds};

/// A volume at /vol that other containers write to, with a directory `dir` and a link `link` that leads to the canary.
fn shared_volume(bundle: &mut Bundle, canary: &Canary) -> PathBuf {
    let volume = bundle.path().join("volume");
    fs::create_dir_all(volume.join("dir/inner")).unwrap();
    symlink(canary.climbing(), volume.join("link")).unwrap();
    bundle.mount("/vol", "bind", volume.to_str().unwrap(), &["bind", "rprivate"]);
    volume
}

#[test]
fn cve_2021_30465_mount_target_swapped_for_a_link() {
    // What is mounted must be where it belongs, or the container does not start.
    let Some(mut bundle) = Bundle::new("swap", "ls -d /vol/*/t /vol/*/inner/t 2>/dev/null; exit 0") else { return };
    let canary = Canary::new(&bundle);
    let volume = shared_volume(&mut bundle, &canary);
    fs::create_dir_all(volume.join("dir/t")).unwrap();
    bundle.mount("/vol/dir/t", "tmpfs", "t", &[]);
    bundle.mount("/vol/dir/inner", "bind", volume.to_str().unwrap(), &["rbind", "ro"]);
    let racer = Racer::exchange(&volume.join("dir"), &volume.join("link"));
    let rounds = rounds(&bundle, &racer, |_| canary.untouched());
    assert!(rounds.started > 0, "{rounds:?}");
}

#[test]
fn cve_2024_45310_directories_and_files_made_during_a_swap() {
    let Some(mut bundle) = Bundle::new("make", "true") else { return };
    let canary = Canary::new(&bundle);
    let volume = shared_volume(&mut bundle, &canary);
    let source = bundle.path().join("source");
    fs::write(&source, "source").unwrap();
    bundle.mount("/vol/dir/a/b/c", "tmpfs", "t", &[]);
    bundle.mount("/vol/dir/d/e/file", "bind", source.to_str().unwrap(), &["bind"]);
    bundle.process()["cwd"] = json!("/vol/dir/g/h");
    let (dir, link) = (volume.join("dir"), volume.join("link"));
    let mut turn = 0u32;
    let racer = Racer::new(move || {
        turn += 1;
        // What was made is taken away from time to time, so that it is to be made again.
        if turn.is_multiple_of(16) {
            for made in ["a", "d", "g"] {
                let _ = fs::remove_dir_all(dir.join(made));
            }
        }
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &link, flags).is_ok()
    });
    let rounds = rounds(&bundle, &racer, |_| canary.untouched());
    assert!(rounds.started > 0, "{rounds:?}");
}

#[test]
fn cve_2019_19921_proc_swapped_for_a_link() {
    // Whoever writes to the root file system makes /proc a link to a tree of his own, and back.
    let script = "for d in /proc /other; do cd $d && test -e self/stat || continue; \
        stat -c '%F %t %T' version; cat cmdline; (echo x > sysrq-trigger) 2>/dev/null || echo refused; done; exit 0";
    let Some(mut bundle) = Bundle::new("proc-race", script) else { return };
    let canary = Canary::new(&bundle);
    let root = bundle.rootfs();
    fs::create_dir_all(root.join("decoy/sys")).unwrap();
    for name in ["version", "cmdline", "sysrq-trigger"] {
        fs::write(root.join("decoy").join(name), "").unwrap();
    }
    symlink("/decoy", root.join("other")).unwrap();
    bundle.linux()["maskedPaths"] = json!(["/proc/version", "/proc/cmdline"]);
    bundle.linux()["readonlyPaths"] = json!(["/proc/sys", "/proc/sysrq-trigger"]);
    let racer = Racer::exchange(&root.join("proc"), &root.join("other"));
    let rounds = rounds(&bundle, &racer, |called| {
        if called.status.success() && !called.stdout.is_empty() {
            // Under whatever name the container finds its procfs, what is to be covered is covered.
            let lines: Vec<_> = called.stdout.lines().collect();
            assert!(lines.chunks(2).all(|found| found == ["character special file 1 3", "refused"]), "{called:#?}");
        }
        canary.untouched();
    });
    assert!(rounds.started > 0 && rounds.refused > 0, "{rounds:?}");
}

#[test]
fn cve_2025_31133_null_device_swapped_while_masking() {
    let Some(mut bundle) = Bundle::new("null-race", "cat /secret; stat -c '%F %t %T' /secret") else { return };
    let canary = Canary::new(&bundle);
    bundle.unmount("/dev");
    let (root, dev) = (bundle.rootfs(), bundle.rootfs().join("dev"));
    fs::write(root.join("secret"), "secret\n").unwrap();
    fs::write(root.join("target"), "target\n").unwrap();
    bundle.linux()["maskedPaths"] = json!(["/secret"]);
    // The first start makes the device in the image's /dev.
    assert_eq!(bundle.output(), "character special file 1 3\n");
    symlink("/target", dev.join("link")).unwrap();
    let racer = Racer::exchange(&dev.join("null"), &dev.join("link"));
    let rounds = rounds(&bundle, &racer, |called| {
        if called.status.success() {
            assert_eq!(called.stdout, "character special file 1 3\n", "{called:#?}");
        }
        canary.untouched();
    });
    assert!(rounds.started > 0 && rounds.refused > 0, "{rounds:?}");
    drop(racer);
    assert_eq!(fs::read_to_string(root.join("target")).unwrap(), "target\n");
}

#[test]
fn cve_2025_52565_console_swapped_for_a_link() {
    let script = "grep -c ' /dev/pts/0 .*devpts\\| /0 /dev/console .*devpts' /proc/self/mountinfo; \
        grep devpts /proc/self/mountinfo | cut -d' ' -f4,5";
    let Some(mut bundle) = Bundle::new("console-race", script) else { return };
    let canary = Canary::new(&bundle);
    bundle.unmount("/dev");
    bundle.process()["terminal"] = json!(true);
    let dev = bundle.rootfs().join("dev");
    fs::create_dir(dev.join("pts")).unwrap();
    fs::write(dev.join("console"), "").unwrap();
    fs::write(bundle.rootfs().join("target"), "target\n").unwrap();
    symlink("/target", dev.join("link")).unwrap();
    // It also tries the way by which the slave is found, though that is another file system by then.
    let racer = Racer::exchange(&dev.join("console"), &dev.join("link"));
    // The terminal's output comes back through the runtime in the foreground.
    let rounds = rounds(&bundle, &racer, |called| {
        if called.status.success() {
            // Whatever the name is now, only this one place has the terminal bound over it.
            let places: Vec<_> = called.stdout.lines().skip(1).map(str::trim_end).collect();
            let bound: Vec<_> = places.iter().filter(|place| place.starts_with("/0 ")).collect();
            assert!(bound.len() == 1 && !bound[0].ends_with("/target"), "{called:#?}");
        }
        canary.untouched();
    });
    assert!(rounds.started > 0 && rounds.refused > 0, "{rounds:?}");
    drop(racer);
    assert_eq!(fs::read_to_string(bundle.rootfs().join("target")).unwrap(), "target\n");
}

#[test]
fn cve_2025_52881_sysctls_do_not_go_through_the_images_proc() {
    // No procfs is mounted, and the image has files, then links, in the places that would be written to.
    let Some(mut bundle) = Bundle::new("sysctl-race", "cat /proc/sys/kernel/shmmni") else { return };
    let canary = Canary::new(&bundle);
    bundle.unmount("/proc");
    bundle.linux()["maskedPaths"] = json!([]);
    bundle.linux()["readonlyPaths"] = json!([]);
    let fake = bundle.rootfs().join("proc/sys/kernel");
    fs::create_dir_all(&fake).unwrap();
    fs::write(fake.join("shmmni"), "untouched\n").unwrap();
    symlink(canary.climbing() + "/mine", fake.join("link")).unwrap();
    bundle.linux()["sysctl"] = json!({ "kernel.shmmni": "4098" });
    assert_eq!(bundle.output(), "untouched\n");
    bundle.script("exit 0");
    let racer = Racer::exchange(&fake.join("shmmni"), &fake.join("link"));
    let rounds = rounds(&bundle, &racer, |called| {
        assert!(called.status.success(), "{called:#?}");
        canary.untouched();
    });
    assert!(rounds.started > 0, "{rounds:?}");
}
