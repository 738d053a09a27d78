use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn lines(settings: &[Setting]) -> Vec<String> {
    settings.iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
}

fn v1(json: &str, current: &Current) -> Vec<String> {
    lines(&super::v1::plan(&resources(json), current).unwrap())
}

fn v2(json: &str, current: &Current) -> Vec<String> {
    lines(&super::v2::plan(&resources(json), current, Controllers::all()).unwrap())
}

fn v1_error(json: &str) -> String {
    super::v1::plan(&resources(json), &Current::fresh()).unwrap_err().to_string()
}

fn v2_error(json: &str) -> String {
    let available = Controllers::CPU | Controllers::MEMORY | Controllers::PIDS;
    super::v2::plan(&resources(json), &Current::fresh(), available).unwrap_err().to_string()
}

const POD: &str = r#"{"cpu":{"shares":102,"quota":20000,"period":100000,"cpus":"0-1","mems":"0"},
    "memory":{"limit":134217728,"swap":134217728},"pids":{"limit":50}}"#;

#[test]
fn the_limits_of_a_pod() {
    let want = [
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "cpu.shares=102",
        "cpu.cfs_quota_us=20000",
        "memory.limit_in_bytes=134217728",
        "memory.memsw.limit_in_bytes=134217728",
        "pids.max=50",
    ];
    assert_eq!(v1(POD, &Current::fresh()), want);
    let want = [
        "cpu.weight=17",
        "cpu.max=20000 100000",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "memory.swap.max=0",
        "memory.max=134217728",
        "pids.max=50",
    ];
    assert_eq!(v2(POD, &Current::fresh()), want);
}

#[test]
fn defaults_cost_no_write_in_a_fresh_cgroup_and_are_written_in_another() {
    let json = r#"{"cpu":{"shares":1024,"quota":-1,"period":100000,"burst":0,"idle":0},
        "memory":{"limit":-1,"swap":-1},"pids":{"limit":-1}}"#;
    assert!(v1(json, &Current::fresh()).is_empty());
    assert!(v2(json, &Current::fresh()).is_empty());
    assert_eq!(v1(json, &Current::default()).len(), 8);
    assert_eq!(v2(json, &Current::default()).len(), 7);
    assert!(v1("{}", &Current::default()).is_empty());
    let zero = r#"{"cpu":{"shares":0,"quota":0,"period":0},"memory":{"limit":0,"swap":0}}"#;
    assert!(v1(zero, &Current::default()).is_empty() && v2(zero, &Current::default()).is_empty());
    assert_eq!(v1(r#"{"pids":{"limit":0}}"#, &Current::fresh()), ["pids.max=0"]);
}

#[test]
fn v1_memory_is_written_in_the_order_that_the_kernel_allows() {
    let now = |memory, memory_and_swap| Current { memory, memory_and_swap, ..Current::default() };
    let json = r#"{"memory":{"limit":200,"swap":300}}"#;
    let limit_first = ["memory.limit_in_bytes=200", "memory.memsw.limit_in_bytes=300"];
    let both_first = ["memory.memsw.limit_in_bytes=300", "memory.limit_in_bytes=200"];
    assert_eq!(v1(json, &now(Some(100), Some(100))), both_first);
    assert_eq!(v1(json, &now(Some(400), Some(400))), limit_first);
    assert_eq!(v1(json, &now(None, None)), limit_first);
    let none = v1(r#"{"memory":{"limit":-1}}"#, &now(Some(100), Some(100)));
    assert_eq!(none, ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
    // Swap not mentioned: the old allowance of 50 stays when the total has to grow.
    let grown = v1(r#"{"memory":{"limit":500}}"#, &now(Some(100), Some(150)));
    assert_eq!(grown, ["memory.memsw.limit_in_bytes=550", "memory.limit_in_bytes=500"]);
    assert_eq!(v1(r#"{"memory":{"limit":120}}"#, &now(Some(100), Some(150))), ["memory.limit_in_bytes=120"]);
}

#[test]
fn cpu_max_keeps_what_is_not_mentioned() {
    let current = Current { cpu_max: Some("50000 100000".to_owned()), ..Current::default() };
    assert_eq!(v2(r#"{"cpu":{"period":20000}}"#, &current), ["cpu.max=50000 20000"]);
    assert_eq!(v2(r#"{"cpu":{"quota":7000}}"#, &current), ["cpu.max=7000"]);
    assert_eq!(v2(r#"{"cpu":{"quota":-1}}"#, &current), ["cpu.max=max"]);
    assert_eq!(v2(r#"{"cpu":{"idle":1,"shares":100}}"#, &current), ["cpu.idle=1"]);
}

#[test]
fn everything_else() {
    let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
        "blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":500}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]},
        "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":1}}}"#;
    let want = [
        "io.bfq.weight=500",
        "io.bfq.weight=8:0 500",
        "io.max=8:0 rbps=1000",
        "io.max=8:0 wiops=max",
        "hugetlb.2MB.rsvd.max=4194304",
        "hugetlb.2MB.max=4194304",
        "rdma.max=mlx4_0 hca_object=1",
        "rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
    ];
    assert_eq!(v2(json, &Current::fresh()), want);
    let json = r#"{"hugepageLimits":[{"pageSize":"1GB","limit":0}],
        "network":{"classID":1048577,"priorities":[{"name":"eth0","priority":500}]},
        "blockIO":{"weight":10,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}]},
        "memory":{"reservation":7,"kernelTCP":8,"swappiness":0,"disableOOMKiller":true}}"#;
    let want = [
        "memory.soft_limit_in_bytes=7",
        "memory.kmem.tcp.limit_in_bytes=8",
        "memory.swappiness=0",
        "memory.oom_control=1",
        "blkio.bfq.weight=10",
        "blkio.throttle.read_bps_device=8:0 1000",
        "hugetlb.1GB.rsvd.limit_in_bytes=0",
        "hugetlb.1GB.limit_in_bytes=0",
        "net_cls.classid=1048577",
        "net_prio.ifpriomap=eth0 500",
    ];
    assert_eq!(v1(json, &Current::fresh()), want);
}

#[test]
fn unified_comes_last_and_line_by_line() {
    let json = r#"{"memory":{"limit":100},"unified":{"memory.oom.group":"1","memory.max":"50",
        "io.max":"8:0 rbps=1\n8:16 rbps=2","cgroup.max.depth":"3"}}"#;
    let want = [
        "memory.max=100",
        "cgroup.max.depth=3",
        "io.max=8:0 rbps=1",
        "io.max=8:16 rbps=2",
        "memory.max=50",
        "memory.oom.group=1",
    ];
    assert_eq!(v2(json, &Current::fresh()), want);
}

#[test]
fn what_cannot_be_done_says_why() {
    let has = |text: String, words: &[&str]| {
        assert!(words.iter().all(|word| text.contains(word)), "{text:?} lacks one of {words:?}");
    };
    for key in
        ["a/b.c", "../x.y", "nodot", ".x", "memory.", "cgroup.procs", "cgroup.kill", "memory..max", "cgroup.freeze"]
    {
        has(v2_error(&format!(r#"{{"unified":{{"{key}":"1"}}}}"#)), &["unified", key]);
    }
    has(v2_error(r#"{"unified":{"hugetlb.2MB.max":"1"}}"#), &["hugetlb", "controller"]);
    assert_eq!(v2(r#"{"unified":{"nonsense.max":"1"}}"#, &Current::fresh()), ["nonsense.max=1"], "the kernel decides");
    has(v1_error(r#"{"unified":{"memory.max":"1"}}"#), &["unified", "v2 only"]);
    has(v2_error(r#"{"memory":{"swappiness":1}}"#), &["swappiness", "v2"]);
    has(v2_error(r#"{"memory":{"disableOOMKiller":true}}"#), &["disableOOMKiller"]);
    has(v2_error(r#"{"cpu":{"realtimeRuntime":5}}"#), &["realtime"]);
    has(v2_error(r#"{"network":{"classID":5}}"#), &["classID", "v1 only"]);
    has(v2_error(r#"{"memory":{"swap":5}}"#), &["memory.swap", "memory.limit"]);
    has(v1_error(r#"{"memory":{"swap":5}}"#), &["memory.swap", "memory.limit"]);
    has(v1_error(r#"{"memory":{"limit":6,"swap":5}}"#), &["memory.swap = 5", "(6)"]);
    has(v1_error(r#"{"memory":{"swappiness":101}}"#), &["101"]);
    has(v1_error(r#"{"cpu":{"cpus":"0;rm"}}"#), &["cpu.cpus", "0;rm"]);
    has(v1_error(r#"{"hugepageLimits":[{"pageSize":"../x","limit":0}]}"#), &["pageSize", "../x"]);
    has(v2_error(r#"{"rdma":{"a b":{"hcaHandles":1}}}"#), &["rdma", "a b"]);
}
