use super::*;

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu\\054cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

#[test]
fn mount_lines() {
    let mounts: Vec<Mount> = HYBRID.lines().filter_map(parse_mount).collect();
    assert_eq!(mounts.len(), 3);
    assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(mounts[0].controllers, Controllers::CPU | Controllers::CPUACCT);
    assert_eq!(mounts[1].controllers, Controllers::SYSTEMD);
    assert!(mounts[2].v2 && mounts[2].whole && mounts[2].controllers.is_empty());
    let part = parse_mount("1 2 0:3 /docker/a /c rw - cgroup cgroup rw,memory").unwrap();
    assert!(!part.whole);
    assert!(parse_mount("nonsense").is_none());
    assert_eq!(unescape("a\\040b\\134\\9"), "a b\\\\9");
}

#[test]
fn no_cgroups_is_an_error() {
    assert!(Host::from_mountinfo("", false).unwrap_err().to_string().contains("cgroup"));
}

#[test]
fn this_machine() {
    let host = Host::detect().unwrap();
    assert!(host.controllers().contains(Controllers::NEEDED), "{}", host.controllers());
    assert!(host.exists(&CgroupPath::new("/").unwrap()));
    assert!(host.children(&CgroupPath::new("/orlop-there-is-none").unwrap()).unwrap().is_empty());
}

#[test]
fn names_of_controllers() {
    let set = Controllers::from_words("cpuset cpu io memory unknown");
    assert_eq!(set.to_enable(), "+cpu +cpuset +memory +io");
    assert_eq!(set.to_string(), "cpu cpuset memory io");
}

#[test]
fn paths() {
    let path = CgroupPath::new("//kubepods//burstable/pod1/").unwrap();
    assert_eq!(path.as_str(), "/kubepods/burstable/pod1");
    assert_eq!(path.relative(), "kubepods/burstable/pod1");
    assert_eq!(path.child("c").unwrap().as_str(), "/kubepods/burstable/pod1/c");
    assert_eq!(path.parent().unwrap().parent().unwrap().parent().unwrap().as_str(), "/");
    assert_eq!(CgroupPath::new("/").unwrap().parent(), None);
    assert_eq!(CgroupPath::new("/").unwrap().child("a").unwrap().as_str(), "/a");
    for bad in ["", "a/b", "/a/../b", "/..", "/a/./b", "/a\nb", "/a\0b"] {
        let message = CgroupPath::new(bad).unwrap_err().to_string();
        assert!(message.contains("refused"), "{message}");
    }
    assert!(path.child("a/b").is_err() && path.child("").is_err() && path.child("..").is_err());
}
