use super::super::host::Version;
use super::super::settings::Current;
use super::super::{Controllers, v1, v2};
use super::properties::{of_devices, of_settings};
use super::*;

fn v2_properties(json: &str) -> Vec<Value> {
    let resources = serde_json::from_str(json).unwrap();
    let settings = v2::plan(&resources, &Current::fresh(), Controllers::all()).unwrap();
    of_settings(&settings).unwrap().into_iter().map(|property| property.value).collect()
}

fn v1_properties(json: &str) -> Vec<Value> {
    let resources = serde_json::from_str(json).unwrap();
    let settings = v1::plan(&resources, &Current::fresh()).unwrap();
    of_settings(&settings).unwrap().into_iter().map(|property| property.value).collect()
}

fn number(name: &str, value: u64) -> Value {
    Value::property(name, Value::U64(value))
}

#[test]
fn names() {
    let name = ScopeName::parse("kubepods-burstable-pod1.slice:cri:abc", "system.slice", "c").unwrap();
    assert_eq!(name.unit, "cri-abc.scope");
    let path = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-abc.scope";
    assert_eq!(name.path().unwrap().as_str(), path);
    assert_eq!(
        ScopeName::parse("::abc", "system.slice", "c").unwrap().path().unwrap().as_str(),
        "/system.slice/abc.scope"
    );
    assert_eq!(ScopeName::parse("", "user.slice", "c+1").unwrap().unit, "orlop-c\\x2b1.scope");
    assert_eq!(ScopeName::parse("-.slice:a:b", "x.slice", "c").unwrap().path().unwrap().as_str(), "/a-b.scope");
    for (bad, why) in [
        ("/kubepods/pod1", "slice:prefix:name"),
        ("a.slice:b", "slice:prefix:name"),
        ("a.slice:b:c:d", "slice:prefix:name"),
        ("a.slice:b:", "needs a name"),
        ("a:b:c", "must be a slice"),
        ("a--b.slice:b:c", "between each two dashes"),
        ("-a.slice:b:c", "between each two dashes"),
        ("../a.slice:b:c", "no '/'"),
        ("a.slice::b.slice", "not in a slice"),
    ] {
        let message = ScopeName::parse(bad, "system.slice", "c").unwrap_err().to_string();
        assert!(message.contains(why), "{bad}: {message}");
    }
    assert!(ScopeName::new("a.slice", "b", &"x".repeat(300)).unwrap_err().to_string().contains("255"));
    assert_eq!(ScopeName::new("a.slice", "b", "../../c").unwrap().unit, "b-..\\x2f..\\x2fc.scope");
}

#[test]
fn parents_as_kubelets_name_them() {
    let path = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
    assert_eq!(slice_of_path(path).unwrap(), "kubepods-burstable-pod1_2.slice");
    assert_eq!(slice_of_path("kubepods.slice").unwrap(), "kubepods.slice");
    assert!(slice_of_path("/kubepods-burstable.slice").unwrap_err().to_string().contains("elsewhere"));
    assert!(slice_of_path("/kubepods/burstable/pod1").unwrap_err().to_string().contains("must be a slice"));
}

#[test]
fn limits_of_v2() {
    let json = r#"{"cpu":{"shares":1025,"quota":12345,"period":50000,"cpus":"0-2,9","mems":"0"},
        "memory":{"limit":1000000,"swap":1500000,"reservation":5},"pids":{"limit":0},
        "blockIO":{"weight":1000},
        "unified":{"memory.high":"1G","memory.oom.group":"1","hugetlb.2MB.max":"0"}}"#;
    let got = v2_properties(json);
    for want in [
        number("CPUWeight", 101),
        number("CPUQuotaPerSecUSec", 250_000),
        number("CPUQuotaPeriodUSec", 50_000),
        Value::property("AllowedCPUs", Value::bytes(&[0b111, 0b10])),
        Value::property("AllowedMemoryNodes", Value::bytes(&[1])),
        number("MemoryMax", 1_000_000),
        number("MemorySwapMax", 500_000),
        number("MemoryLow", 5),
        number("MemoryHigh", 1 << 30),
        number("TasksMax", 0),
        number("IOWeight", 10_000),
        Value::property("OOMPolicy", Value::str("kill")),
    ] {
        assert!(got.contains(&want), "{want:?} is not in {got:?}");
    }
    assert_eq!(got.len(), 12);
}

#[test]
fn quotas_are_rounded_up_to_what_systemd_keeps() {
    let quota = |quota: i64, period: u64| {
        let json = format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#);
        v2_properties(&json).into_iter().next()
    };
    assert_eq!(quota(50_000, 100_000), Some(number("CPUQuotaPerSecUSec", 500_000)));
    assert_eq!(quota(1_000, 100_000), Some(number("CPUQuotaPerSecUSec", 10_000)));
    assert_eq!(quota(999, 100_000), Some(number("CPUQuotaPerSecUSec", 10_000)));
    assert_eq!(quota(1_001, 100_000), Some(number("CPUQuotaPerSecUSec", 20_000)));
    assert_eq!(quota(-1, 100_000), None, "a new unit has none");
    let max = v2_properties(r#"{"unified":{"cpu.max":"max 50000"}}"#);
    assert_eq!(max, [number("CPUQuotaPerSecUSec", u64::MAX), number("CPUQuotaPeriodUSec", 50_000)]);
    let without = v2_properties(r#"{"cpu":{"quota":20000}}"#);
    assert_eq!(without[0], number("CPUQuotaPerSecUSec", 200_000));
}

#[test]
fn an_idle_cpu_is_a_weight_of_none() {
    assert_eq!(v2_properties(r#"{"cpu":{"idle":1,"shares":500}}"#), [number("CPUWeight", 0)]);
}

#[test]
fn limits_of_v1() {
    let got = v1_properties(
        r#"{"cpu":{"shares":500,"quota":20000,"period":100000},"memory":{"limit":4096},"pids":{"limit":-1},
            "blockIO":{"weight":500}}"#,
    );
    for want in [
        number("CPUShares", 500),
        number("CPUQuotaPerSecUSec", 200_000),
        number("MemoryLimit", 4096),
        number("BlockIOWeight", 500),
    ] {
        assert!(got.contains(&want), "{want:?} is not in {got:?}");
    }
}

#[test]
fn nonsense_in_lists_and_numbers_is_refused() {
    for unified in
        [r#"{"cpuset.cpus":"5-1"}"#, r#"{"cpuset.cpus":"a"}"#, r#"{"cpuset.cpus":"99999"}"#, r#"{"memory.max":"5X"}"#]
    {
        let resources = serde_json::from_str(&format!(r#"{{"unified":{unified}}}"#)).unwrap();
        let settings = v2::plan(&resources, &Current::fresh(), Controllers::all()).unwrap();
        let message = of_settings(&settings).unwrap_err().to_string();
        assert!(message.contains("unified"), "{message}");
    }
}

#[test]
fn devices_are_told_on_v1_only() {
    let rules = super::super::devices::Rules::parse(&super::super::default_device_rules()).unwrap();
    assert_eq!(of_devices(&rules, Version::V2).unwrap(), []);
    let told = of_devices(&rules, Version::V1).unwrap();
    assert!(told.contains(&Value::property("DevicePolicy", Value::str("strict"))));
    let Some(Value::Struct(last)) = told.last() else { panic!("{told:?}") };
    let Value::Variant(list) = &last[1] else { panic!("{last:?}") };
    let Value::Array(_, list) = &**list else { panic!("{list:?}") };
    let pair = |node: &str, access: &str| Value::Struct(vec![Value::str(node), Value::str(access)]);
    for want in [pair("/dev/char/1:3", "rwm"), pair("char-*", "m"), pair("block-*", "m"), pair("char-pts", "rwm")] {
        assert!(list.contains(&want), "{want:?} is not in {list:?}");
    }
}

#[test]
fn annotations() {
    let ok = |name: &str, text: &str| parse_property(&format!("org.systemd.property.{name}"), text).unwrap();
    assert_eq!(
        ok("CollectMode", "'inactive-or-failed'"),
        Value::property("CollectMode", Value::str("inactive-or-failed"))
    );
    assert_eq!(ok("TimeoutStopUSec", "uint64 5"), number("TimeoutStopUSec", 5));
    assert_eq!(ok("TimeoutStopSec", "5"), number("TimeoutStopUSec", 5_000_000));
    assert_eq!(ok("TimeoutStopSec", "uint64 7"), number("TimeoutStopUSec", 7_000_000));
    assert_eq!(ok("TimeoutStopSec", "1.5"), number("TimeoutStopUSec", 1_500_000));
    assert_eq!(ok("CPUAccounting", " true "), Value::property("CPUAccounting", Value::Bool(true)));
    assert_eq!(
        ok("After", r#"['a.service', "b\"c"]"#),
        Value::property("After", Value::strings(["a.service", "b\"c"]))
    );
    assert_eq!(ok("After", "@as []"), Value::property("After", Value::strings::<String>([])));
    assert_eq!(ok("TasksMax", "@t 0x10"), number("TasksMax", 16));
    let pair = Value::Struct(vec![Value::str("/dev/x"), Value::U64(5)]);
    assert_eq!(
        ok("IOReadBandwidthMax", "[('/dev/x', uint64 5)]"),
        Value::property("IOReadBandwidthMax", Value::Array("(st)".to_owned(), vec![pair]))
    );
    for (name, text) in [
        ("collectMode", "true"),
        ("Collect-Mode", "true"),
        ("", "true"),
        ("CollectMode", "inactive"),
        ("CollectMode", "'a' 'b'"),
        ("CollectMode", "'a"),
        ("CollectMode", "[1, 'a']"),
        ("CollectMode", "[]"),
        ("CollectMode", "99999999999"),
        ("CollectMode", "byte 256"),
        ("CollectMode", "[[[[[[[[[[[[[[1]]]]]]]]]]]]]]"),
        ("CollectMode", "'a\0'"),
        ("TimeoutStopSec", "'5'"),
        ("TimeoutStopSec", "-5"),
    ] {
        let error = parse_property(&format!("org.systemd.property.{name}"), text);
        assert!(error.is_err(), "{name} = {text}: {error:?}");
    }
}

#[test]
fn without_systemd_the_error_says_what_to_do() {
    if std::path::Path::new("/run/systemd/system").is_dir() {
        Systemd::system().check().unwrap();
        return;
    }
    let message = Systemd::system().check().unwrap_err().to_string();
    assert!(message.contains("process 1") && message.contains("cgroupfs"), "{message}");
}

mod manager;
