//! Buildah, with `--runtime`.

use crate::bundle::Called;
use crate::place::Place;

struct Buildah<'a>(&'a Place);

impl Buildah<'_> {
    fn call(&self, arguments: &[&str]) -> Called {
        let (root, run) = (self.0.text("storage"), self.0.text("run-of-buildah"));
        let globals = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        self.0.call("buildah", &[&globals[..], arguments].concat())
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let called = self.call(arguments);
        assert!(called.status.success(), "{called:#?}");
        called.stdout.trim_end().to_owned()
    }
}

#[test]
fn buildah_builds_images() {
    let Some(place) = Place::new("buildah", &["buildah"]) else { return };
    let buildah = Buildah(&place);
    let runc = place.runc();
    let own = ["--runtime", &runc, "--isolation", "oci", "--network", "none"];
    let container = buildah.ok(&["from", "--quiet", "oci:layout"]);
    let run = |command: &[&'static str]| buildah.call(&[&["run"], &own[..], &[&container, "--"], command].concat());
    let called = run(&["sh", "-c", "echo built > /f; id -u"]);
    assert_eq!((called.status.code(), called.stdout.as_str()), (Some(0), "0\n"), "{called:#?}");
    assert_eq!(run(&["sh", "-c", "exit 6"]).status.code(), Some(6));
    let called = run(&["/not/there"]);
    assert!(!called.status.success() && called.stderr.contains("no such file"), "{called:#?}");
    buildah.ok(&["commit", "--quiet", &container, "localhost/built:1"]);
    let recipe = "FROM localhost/built:1\nRUN cat /f >/g && id -u\nUSER user\nRUN id -un\n";
    std::fs::write(place.path("Containerfile"), recipe).unwrap();
    let built = buildah
        .call(&[&["bud"], &own[..], &["--pull-never", "-f", "Containerfile", "-t", "localhost/more:1", "."]].concat());
    assert!(built.status.success() && built.stdout.contains("user\n"), "{built:#?}");
    buildah.ok(&["rm", &container]);
    assert_eq!(buildah.ok(&["containers", "--quiet"]), "");
}
