//! Images that want more than to be run: through the CRI socket of a whole agent.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use tonic::Code;

use crate::support::agent::{Agent, in_netns, run};
use crate::support::image::{TestImage, busybox, layered, tar};
use crate::support::kubelet::Kubelet;
use crate::support::registry::TestRegistry;
use crate::support::rig::{Rig, image, mount, security};

/// An agent, a registry, and a pod, for images that a test makes itself.
struct Place {
    registry: TestRegistry,
    kubelet: Kubelet,
    pod: String,
    config: orlop::cri::v1::PodSandboxConfig,
    agent: Agent,
}

impl Place {
    async fn new() -> Option<Self> {
        let registry = TestRegistry::start()?;
        let agent = Agent::start("").await;
        let mut kubelet = Kubelet::new(&agent, "").await;
        let config = kubelet.pod("pod");
        let pod = kubelet.run_pod(&config).await.unwrap();
        Some(Self { registry, kubelet, pod, config, agent })
    }

    /// Pushes, pulls, creates and starts.
    async fn run(&mut self, name: &str, image: &TestImage) -> Result<String, tonic::Status> {
        self.kubelet.image = image.push(&self.registry, &format!("test/{name}"), "1").await;
        let reference = self.kubelet.image.clone();
        self.kubelet.pull(&reference).await?;
        let spec = self.kubelet.container(name, &["sleep", "1000"]);
        self.kubelet.run(&self.pod, spec, &self.config).await
    }

    async fn end(mut self) {
        self.kubelet.end_pod(&self.pod).await;
        self.agent.assert_clean().await;
    }
}

/// Busybox with a layer more, made by `change` in an empty directory.
fn with_layer(config: serde_json::Value, change: impl FnOnce(&Path)) -> TestImage {
    let stage = tempfile::tempdir().unwrap();
    change(stage.path());
    let mut layers = busybox(json!({})).layers;
    layers.push(tar(stage.path()));
    layered(&layers, config)
}

fn plain() -> serde_json::Value {
    json!({ "Env": ["PATH=/bin"] })
}

/// A directory of the host with one file in it.
fn canary() -> tempfile::TempDir {
    let canary = tempfile::Builder::new().prefix("orlop-canary").tempdir_in("/var/tmp").unwrap();
    fs::write(canary.path().join("mine"), "mine").unwrap();
    canary
}

#[track_caller]
fn untouched(canary: &tempfile::TempDir) {
    let names: Vec<_> = fs::read_dir(canary.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["mine"]);
    assert_eq!(fs::read_to_string(canary.path().join("mine")).unwrap(), "mine");
}

#[test]
fn cve_2022_23648_image_volumes_that_lead_to_the_host() {
    in_netns(|| async {
        let Some(mut place) = Place::new().await else { return };
        let canary = canary();
        let target = canary.path().display().to_string();
        let up = format!("{}{target}", "/..".repeat(8));
        for (n, volume) in
            [up.clone(), format!("/data/..{up}"), "/link".into(), "/climb/x/../../mine".into()].iter().enumerate()
        {
            let config = json!({ "Env": ["PATH=/bin"], "Volumes": { volume: {} } });
            let image = with_layer(config, |root| {
                symlink(&target, root.join("link")).unwrap();
                symlink(up.trim_start_matches('/'), root.join("climb")).unwrap();
            });
            // It starts without anything of the host, or it does not start.
            if let Ok(id) = place.run(&format!("volume{n}"), &image).await {
                let found = place.kubelet.sh(&id, "find / -type f -name mine | grep -v ^/proc; exit 0").await;
                assert_eq!(found, "", "{volume}");
            }
            untouched(&canary);
        }
        place.end().await;
    });
}

#[test]
fn cve_2024_40635_and_2026_46680_users_that_are_root_by_accident() {
    in_netns(|| async {
        let Some(mut place) = Place::new().await else { return };
        let image = |user: &str| {
            with_layer(json!({ "Env": ["PATH=/bin"], "User": user }), |root| {
                fs::create_dir(root.join("etc")).unwrap();
                let users = "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\n\
                    -1:x:0:0::/:/bin/sh\nwrap:x:4294967296:4294967296::/:/bin/sh\nminus:x:-1:-1::/:/bin/sh\n";
                fs::write(root.join("etc/passwd"), users).unwrap();
            })
        };
        for (n, user) in [
            "4294967296",
            "2147483648",
            "4294967295",
            "-1",
            "65536:-1",
            "65536:4294967296",
            "+0",
            "wrap",
            "minus",
            "0x0",
            "1000:wrap",
        ]
        .iter()
        .enumerate()
        {
            let refused = place.run(&format!("user{n}"), &image(user)).await;
            let refused = refused.expect_err(user);
            assert!(matches!(refused.code(), Code::InvalidArgument | Code::Unknown), "{user}: {refused}");
        }
        // A user that is named like a number is that number.
        let id = place.run("number", &image("1000")).await.unwrap();
        assert_eq!(place.kubelet.sh(&id, "id -u").await, "1000");
        let user = place.kubelet.status(&id).await.unwrap().user.unwrap().linux.unwrap();
        assert_eq!(user.uid, 1000);
        place.end().await;
    });
}

#[test]
fn cve_2025_4437_and_2026_47262_endless_users_and_groups() {
    in_netns(|| async {
        let Some(mut place) = Place::new().await else { return };
        // 192 MiB of groups, all of which have the user in them.
        let image = with_layer(json!({ "Env": ["PATH=/bin"], "User": "web" }), |root| {
            fs::create_dir(root.join("etc")).unwrap();
            let line = format!("{}:x:5:{}web\n", "g".repeat(64), "someone,".repeat(120));
            fs::write(root.join("etc/group"), line.repeat((192 << 20) / line.len())).unwrap();
        });
        let peak = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
        };
        let reference = image.push(&place.registry, "test/groups", "1").await;
        place.kubelet.pull(&reference).await.unwrap();
        // The pull has its own limits; what counts here is the start.
        fs::write(format!("/proc/{}/clear_refs", place.agent.pid()), "5").unwrap();
        let before = peak(place.agent.pid());
        place.kubelet.image = reference;
        let spec = place.kubelet.container("groups", &["sleep", "1000"]);
        let result = place.kubelet.run(&place.pod, spec, &place.config).await;
        let after = peak(place.agent.pid());
        assert!(after < before + 48, "from {before} to {after} MiB: {result:?}");
        place.end().await;
    });
}

#[test]
fn cve_2024_5154_etc_is_a_link_to_the_host() {
    in_netns(|| async {
        let Some(mut place) = Place::new().await else { return };
        let canary = canary();
        let target = canary.path().display().to_string();
        for (n, way) in [target.clone(), format!("{}{target}", "../".repeat(8))].iter().enumerate() {
            // Without the layer of busybox's own /etc.
            let stage = tempfile::tempdir().unwrap();
            fs::create_dir(stage.path().join("bin")).unwrap();
            fs::copy("/bin/busybox", stage.path().join("bin/sleep")).unwrap();
            symlink(way, stage.path().join("etc")).unwrap();
            let image = layered(&[tar(stage.path())], plain());
            let started = place.run(&format!("etc{n}"), &image).await;
            untouched(&canary);
            // /etc/hosts and its like are mounted beneath the root, wherever the link leads there.
            started.unwrap();
        }
        place.end().await;
    });
}

#[test]
fn cve_2026_53488_labels_of_images_mean_nothing() {
    in_netns(|| async {
        let Some(mut place) = Place::new().await else { return };
        let labels = json!({
            "io.kubernetes.pod.uid": "uid-other", "io.kubernetes.cri.container-type": "sandbox",
            "containerd.io/restart.status": "running", "org.systemd.property.ExecStart": "['/bin/sh']",
            "io.cri-containerd.image": "managed", "orlop.privileged": "true",
        });
        let image = with_layer(json!({ "Env": ["PATH=/bin"], "Labels": labels }), |_| {});
        let id = place.run("labels", &image).await.unwrap();
        let status = place.kubelet.status(&id).await.unwrap();
        assert!(status.labels.is_empty() && status.annotations.is_empty(), "{status:?}");
        let set = "grep CapEff /proc/1/status";
        assert_eq!(place.kubelet.sh(&id, set).await, "CapEff:\t00000000a80425fb");
        place.end().await;
    });
}

#[test]
fn go_2022_0360_documents_that_are_two_things_at_once() {
    in_netns(|| async {
        let Some(mut place) = Place::new().await else { return };
        let image = busybox(plain());
        let reference = image.push(&place.registry, "test/two", "good").await;
        place.kubelet.pull(&reference).await.unwrap();
        let config = crate::support::image::digest(&image.config);
        let layer = crate::support::image::digest(&image.layers[0]);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let document = json!({
            "schemaVersion": 2, "mediaType": kind,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": image.config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": image.layers[0].len() }],
            "manifests": [{ "mediaType": kind, "digest": config, "size": image.config.len() }],
        });
        // A registry that checks nothing: the file is put where Debian's keeps it.
        let bytes = document.to_string().into_bytes();
        let digest = crate::support::image::digest(&bytes);
        let hex = digest.trim_start_matches("sha256:");
        let data = place.registry.data().join("docker/registry/v2");
        let blob = data.join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
        let manifests = data.join("repositories/test/two/_manifests");
        let link = format!("sha256:{hex}");
        for directory in [
            blob.clone(),
            manifests.join(format!("revisions/sha256/{hex}")),
            manifests.join("tags/both/current"),
            manifests.join(format!("tags/both/index/sha256/{hex}")),
        ] {
            fs::create_dir_all(&directory).unwrap();
            match directory == blob {
                true => fs::write(directory.join("data"), &bytes).unwrap(),
                false => fs::write(directory.join("link"), &link).unwrap(),
            }
        }
        let refused = place.kubelet.pull(&reference.replace(":good", ":both")).await.unwrap_err();
        assert!(!refused.message().is_empty(), "{refused}");
        place.end().await;
    });
}

#[test]
fn cve_2022_4318_and_2026_15809_homes_that_are_lines() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        for (n, home) in
            ["/x\nroot2::0:0::/:/bin/sh", "/x\r\nroot2::0:0::/:/bin/sh", "/x:/bin/sh\\nroot2::0:0::/:/bin/sh"]
                .iter()
                .enumerate()
        {
            let started = rig
                .try_run(&format!("home{n}"), |spec| {
                    spec.envs = vec![orlop::cri::v1::KeyValue { key: "HOME".into(), value: (*home).into() }];
                    security(spec).run_as_user = crate::support::rig::int(4242);
                })
                .await;
            if let Ok(id) = started {
                assert_eq!(
                    rig.sh(&id, "cat /etc/passwd").await,
                    "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/var/www:/bin/sh"
                );
            }
        }
        rig.end().await;
    });
}

#[test]
fn cve_2021_30465_a_pods_volume_swapped_while_containers_start() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let canary = canary();
        let volume = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir_all(volume.path().join("dir/inner")).unwrap();
        let up = format!("{}{}", "/..".repeat(8), canary.path().display());
        symlink(&up, volume.path().join("link")).unwrap();
        // One container of the pod writes to the volume, as fast as it can; the others are made over it.
        let _racer = crate::race::Racer::exchange(&volume.path().join("dir"), &volume.path().join("link"));
        let begin = std::time::Instant::now();
        let mut started = 0;
        for n in 0..60 {
            if begin.elapsed().as_secs() >= 5 {
                break;
            }
            let result = rig
                .try_run(&format!("c{n}"), |spec| {
                    spec.mounts = vec![mount(volume.path(), "/vol"), mount(volume.path(), "/vol/dir/inner/new")];
                })
                .await;
            if let Ok(id) = result {
                started += 1;
                let (_, out, _) = rig.kubelet.exec(&id, &["sh", "-c", "find /vol -name mine"]).await.unwrap();
                assert_eq!(out, "");
                rig.kubelet.stop(&id, 0).await.unwrap();
            }
            untouched(&canary);
        }
        assert!(started > 0);
        let mounts = run(std::process::Command::new("cat").arg("/proc/self/mountinfo"));
        assert!(!mounts.contains(canary.path().to_str().unwrap()));
        rig.end().await;
    });
}
