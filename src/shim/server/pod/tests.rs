use super::*;

#[test]
fn sysctls_belong_to_namespaces() {
    assert_eq!(namespace_of("net/ipv4/ip_forward"), libc::CLONE_NEWNET);
    assert_eq!(namespace_of("kernel/shm_rmid_forced"), libc::CLONE_NEWIPC);
    assert_eq!(namespace_of("kernel/sem"), libc::CLONE_NEWIPC);
    assert_eq!(namespace_of("fs/mqueue/msg_max"), libc::CLONE_NEWIPC);
    assert_eq!(namespace_of("kernel/domainname"), libc::CLONE_NEWUTS);
    for hosts in ["kernel/core_pattern", "net", "vm/swappiness", "fs/file-max", "kernel/domainname2", ""] {
        assert_eq!(namespace_of(hosts), 0, "{hosts}");
    }
}
