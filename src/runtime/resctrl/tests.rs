//! Against a directory that stands for a resctrl: what the kernel puts into its groups is put there by the test.

use serde_json::{Value, json};

use super::*;

fn asked(value: Value) -> LinuxIntelRdt {
    serde_json::from_value(value).unwrap()
}

struct Fake(tempfile::TempDir, Resctrl);

fn fake() -> Fake {
    let directory = tempfile::tempdir().unwrap();
    let resctrl = Resctrl(directory.path().to_owned());
    fs::write(directory.path().join("schemata"), "MB:0=100\nL3:0=fff;1=fff\n").unwrap();
    fs::create_dir(directory.path().join("mon_groups")).unwrap();
    Fake(directory, resctrl)
}

impl Fake {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A group that somebody made before.
    fn group(&self, name: &str, schemata: &str) {
        fs::create_dir_all(self.path(name).join("mon_groups")).unwrap();
        fs::write(self.path(name).join("schemata"), schemata).unwrap();
    }

    fn refused(&self, value: Value) -> String {
        let before = fs::read_dir(self.0.path()).unwrap().count();
        let error = self.1.prepare(&asked(value), "c1").unwrap_err().to_string();
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), before, "{error}");
        error
    }
}

#[test]
fn the_mount_is_found() {
    let table = "25 1 0:22 / /proc rw shared:1 - proc proc rw\n30 25 0:26 / /sys/fs/resctrl rw - resctrl resctrl rw\n";
    assert_eq!(Resctrl::in_table(table).unwrap().0, Path::new("/sys/fs/resctrl"));
    assert!(Resctrl::in_table("25 1 0:22 / /resctrl rw - proc resctrl rw\n").is_none());
}

#[test]
fn a_group_of_its_own_comes_and_goes_with_the_container() {
    let fake = fake();
    let rdt = asked(json!({}));
    let groups = fake.1.prepare(&rdt, "c1").unwrap();
    assert_eq!(groups, Groups { tasks: vec![fake.path("c1/tasks")], made: vec![fake.path("c1")] });
    assert!(fake.path("c1").is_dir());
    assert_eq!(fake.1.tasks(&rdt, "c1").unwrap(), groups.tasks);
    assert!(fake.refused(json!({})).contains("is there already"));
    fake.1.remove(&rdt, "c1").unwrap();
    assert!(!fake.path("c1").exists());
    fake.1.remove(&rdt, "c1").unwrap();
    // A schema that cannot be written: the directory has no such file, as no kernel made it.
    assert!(fake.refused(json!({ "l3CacheSchema": "L3:0=f" })).contains("c1/schemata"));
}

#[test]
fn a_group_that_is_there_is_shared_and_kept() {
    let fake = fake();
    fake.group("gold", "    L3:0=00f;1=7ff\n    MB:0= 50;1=100\n");
    let gold = |more: Value| {
        let mut value = json!({ "closID": "gold" });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    for more in [json!({}), json!({ "l3CacheSchema": "L3:0=f" }), json!({ "memBwSchema": "MB:1=100;0=50" })] {
        let rdt = asked(gold(more));
        let groups = fake.1.prepare(&rdt, "c1").unwrap();
        assert_eq!(groups, Groups { tasks: vec![fake.path("gold/tasks")], made: vec![] });
        fake.1.remove(&rdt, "c1").unwrap();
    }
    assert!(fake.path("gold").is_dir());
    for more in [json!({ "l3CacheSchema": "L3:0=ff" }), json!({ "memBwSchema": "MB:2=50" })] {
        assert!(fake.refused(gold(more)).contains("has not"));
    }
    // The complete schemata are written in any case, and last.
    let rdt = asked(gold(json!({ "schemata": ["L3:0=3", "MB:0=20"], "memBwSchema": "MB:0=50" })));
    fake.1.prepare(&rdt, "c1").unwrap();
    let text = fs::read_to_string(fake.path("gold/schemata")).unwrap();
    assert!(text.starts_with("L3:0=3\nMB:0=20\n"), "{text}");
}

#[test]
fn monitoring_has_a_group_of_its_own_in_any_class() {
    let fake = fake();
    fake.group("gold", "L3:0=f\n");
    for (class, monitor) in [("gold", "gold/mon_groups/c1"), ("/", "mon_groups/c1")] {
        let rdt = asked(json!({ "closID": class, "enableMonitoring": true }));
        let groups = fake.1.prepare(&rdt, "c1").unwrap();
        assert_eq!(groups.made, [fake.path(monitor)]);
        assert_eq!(groups.tasks.last(), Some(&fake.path(monitor).join("tasks")));
        assert!(fake.1.prepare(&rdt, "c1").is_err(), "one monitor a container");
        fake.1.remove(&rdt, "c1").unwrap();
        assert!(!fake.path(monitor).exists());
    }
}

#[test]
fn what_is_wrong_is_named() {
    let fake = fake();
    for (value, text) in [
        (json!({ "closID": "absent" }), "linux.intelRdt.closID: there is no group"),
        (json!({ "closID": "../x" }), "linux.intelRdt.closID"),
        (json!({ "closID": "info" }), "linux.intelRdt.closID"),
        (json!({ "closID": "" }), "linux.intelRdt.closID"),
        (json!({ "l3CacheSchema": "L3:0=f\nMB:0=1" }), "linux.intelRdt.l3CacheSchema"),
        (json!({ "memBwSchema": "L3:0=f" }), "linux.intelRdt.memBwSchema"),
        (json!({ "schemata": ["a\nb"] }), "linux.intelRdt.schemata"),
    ] {
        let error = fake.refused(value);
        assert!(error.contains(text), "{error}");
    }
}
