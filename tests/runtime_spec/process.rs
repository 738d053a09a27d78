//! `process`: ids, limits, scheduling, environment.

use serde_json::json;

use crate::bundle::Bundle;

#[test]
fn the_user_its_groups_and_its_umask() {
    let script = "id -u; id -g; id -G; umask; pwd; echo $HOME";
    let Some(mut bundle) = Bundle::new("user", script) else { return };
    bundle.process()["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27 });
    bundle.process()["cwd"] = json!("/work/here");
    assert_eq!(bundle.output(), "1000\n1001\n1001 7 8\n0027\n/work/here\n/home/user\n");
    bundle.nothing_left();
}
