use oci_spec::runtime::LinuxDeviceCgroup;

use super::*;

fn spec(json: &str) -> Vec<LinuxDeviceCgroup> {
    serde_json::from_str(json).unwrap()
}

const USUAL: &str = r#"[{"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
    {"allow":true,"type":"c","major":136,"access":"rw"},
    {"allow":true,"type":"b","access":"m"}]"#;

#[test]
fn an_empty_list_allows_nothing() {
    assert_eq!(Rules::parse(&[]).unwrap(), Rules::default());
    assert_eq!(Rules::default().exceptions().unwrap().steps(), [("devices.deny", "a".to_owned())]);
}

#[test]
fn the_usual_list() {
    let rules = Rules::parse(&spec(USUAL)).unwrap();
    assert!(!rules.default_allow && rules.rules.len() == 3);
    let steps = rules.exceptions().unwrap().steps();
    let want = [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rwm"),
        ("devices.allow", "c 136:* rw"),
        ("devices.allow", "b *:* m"),
    ];
    assert_eq!(steps, want.map(|(file, text)| (file, text.to_owned())));
}

#[test]
fn a_rule_about_everything_voids_the_earlier() {
    let rules = Rules::parse(&spec(
        r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},{"allow":true,"access":"rwm"}]"#,
    ))
    .unwrap();
    assert_eq!(rules, Rules { default_allow: true, rules: Vec::new() });
    assert!(rules.allow_everything());
    let rules = Rules::parse(&spec(r#"[{"allow":true,"type":"a","major":7,"access":"r"}]"#)).unwrap();
    assert_eq!(rules.rules.iter().map(|rule| rule.kind).collect::<Vec<_>>(), [Kind::Block, Kind::Char]);
}

#[test]
fn access_is_added_and_taken_bit_by_bit() {
    let rules = Rules::parse(&spec(
        r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"r"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"wm"},
            {"allow":false,"type":"c","major":1,"minor":3,"access":"m"}]"#,
    ))
    .unwrap();
    assert_eq!(rules.exceptions().unwrap().steps()[1].1, "c 1:3 rw");
}

#[test]
fn what_v1_cannot_say_is_an_error() {
    let rules = Rules::parse(&spec(
        r#"[{"allow":true,"type":"c","major":1,"access":"rwm"},
            {"allow":false,"type":"c","major":1,"minor":8,"access":"w"}]"#,
    ))
    .unwrap();
    let message = rules.exceptions().unwrap_err().to_string();
    assert!(message.contains("c 1:8 w") && message.contains("v1"), "{message}");
}

#[test]
fn nonsense_is_refused() {
    for json in [
        r#"[{"allow":true,"type":"c","major":1,"minor":3,"access":"rx"}]"#,
        r#"[{"allow":true,"type":"c","major":-2,"minor":3,"access":"r"}]"#,
        r#"[{"allow":true,"type":"c","major":4294967296,"minor":3,"access":"r"}]"#,
    ] {
        assert!(Rules::parse(&spec(json)).unwrap_err().to_string().contains("devices"), "{json}");
    }
}

#[test]
fn a_change_never_takes_away_what_stays() {
    let old = Exceptions::parse_list("c 1:3 rwm\nc 1:5 rw\nb *:* m\n").unwrap();
    let new = Exceptions::parse_list("c 1:3 rw\nc 1:7 r\nb *:* m\n").unwrap();
    let steps = old.steps_to(&new);
    let want = [("devices.allow", "c 1:7 r"), ("devices.deny", "c 1:3 m"), ("devices.deny", "c 1:5 rw")];
    assert_eq!(steps, want.map(|(file, text)| (file, text.to_owned())));
    assert!(old.steps_to(&old).is_empty());
    let open = Exceptions::parse_list("a *:* rwm").unwrap();
    assert_eq!(old.steps_to(&open), [("devices.allow", "a".to_owned())]);
}

#[test]
fn the_default_devices_are_there() {
    let rules = Rules::parse(&default_device_rules()).unwrap();
    let lines: Vec<_> = rules.exceptions().unwrap().steps().into_iter().map(|(_, line)| line).collect();
    for want in ["c *:* m", "b *:* m", "c 1:3 rwm", "c 1:9 rwm", "c 5:2 rwm", "c 136:* rwm"] {
        assert!(lines.iter().any(|line| line == want), "{want} in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line == "c 5:1 rwm"), "the console of the machine");
}
