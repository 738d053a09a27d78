//! Cgroups in hierarchies that only an external runtime uses: on v1 a named one, or a v2 one beside the controllers.

use std::fs;
use std::path::{Path, PathBuf};

/// Removes a cgroup from every hierarchy of the machine in which it is empty.
pub(in crate::node) fn remove_everywhere(path: &str) {
    for mount in hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) {
        // Where it is not, or is in use, it is not ours to remove.
        let _ = fs::remove_dir(mount.join(path.trim_start_matches('/')));
    }
}

/// Where whole cgroup hierarchies are mounted (proc_pid_mountinfo(5)).
fn hierarchies(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let kind = after.split(' ').next()?;
        (root == "/" && matches!(kind, "cgroup" | "cgroup2")).then(|| Path::new(point).to_path_buf())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_those_that_are_mounted_whole() {
        let table = "\
30 1 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,name=systemd
33 30 0:29 /a /mnt/part rw - cgroup cgroup rw,cpu
";
        let found: Vec<PathBuf> = hierarchies(table).collect();
        assert_eq!(found, [Path::new("/sys/fs/cgroup/unified"), Path::new("/sys/fs/cgroup/systemd")]);
    }
}
