//! What a container sees beside its image: volumes of the host, of the image, and images themselves.

#![allow(clippy::unwrap_used)] // It is all test code.

mod support;

use orlop::cri::v1;
use serde_json::json;
use support::agent::in_netns;
use support::kubelet::code;
use support::rig::{Rig, image, mount, security};
use tonic::Code;

#[test]
fn mounts_are_bound_as_asked() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let dir = rig.agent.dir.join("volumes");
        std::fs::create_dir_all(dir.join("data/deep")).unwrap();
        std::fs::write(dir.join("file"), "content\n").unwrap();
        std::os::unix::fs::symlink(dir.join("data"), dir.join("link")).unwrap();
        let id = rig
            .run("main", |spec| {
                spec.mounts = vec![
                    mount(&dir.join("data"), "/mnt/rw"),
                    v1::Mount { readonly: true, ..mount(&dir.join("data"), "/mnt/ro") },
                    mount(&dir.join("file"), "/etc/file"),
                    mount(&dir.join("link"), "/mnt/link"),
                    mount(&dir.join("made"), "/mnt/made"),
                    v1::Mount { readonly: true, recursive_read_only: true, ..mount(&dir.join("data"), "/mnt/rro") },
                ];
            })
            .await;
        assert_eq!(rig.sh(&id, "cat /etc/file; touch /mnt/rw/x /mnt/made/y; ls /mnt/link").await, "content\ndeep\nx");
        assert!(dir.join("made/y").exists());
        for path in ["/mnt/ro/z", "/mnt/rro/z"] {
            let (exit, _, _) = rig.kubelet.exec(&id, &["touch", path]).await.unwrap();
            assert_ne!(exit, 0, "{path}");
        }
        let mounts = rig.kubelet.status(&id).await.unwrap().mounts;
        assert_eq!(mounts.len(), 6);
        assert_eq!((mounts[0].container_path.as_str(), mounts[1].readonly), ("/mnt/rw", true));
        let wrong = rig
            .try_run("rro", |spec| {
                spec.mounts = vec![v1::Mount { recursive_read_only: true, ..mount(&dir, "/x") }];
            })
            .await;
        assert_eq!(code(wrong), Code::InvalidArgument, "recursive read-only needs read-only");
        rig.end().await;
    });
}

#[test]
fn mounts_propagate_in_the_directions_that_were_asked_for() {
    in_netns(|| async {
        let privileged_pod = |config: &mut v1::PodSandboxConfig| {
            config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        };
        let mut rig = Rig::with_pod(image(), privileged_pod).await;
        let dir = rig.agent.dir.join("shared");
        std::fs::create_dir_all(&dir).unwrap();
        let tmpfs = |path: &std::path::Path| {
            use rustix::mount::{MountFlags, mount};
            mount("test", path, "tmpfs", MountFlags::empty(), None).unwrap();
        };
        tmpfs(&dir);
        rustix::mount::mount_change(&dir, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        for name in ["host", "box", "secret"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let run = |propagation: v1::MountPropagation| {
            let mount = v1::Mount { propagation: propagation.into(), ..mount(&dir, "/shared") };
            move |spec: &mut v1::ContainerConfig| {
                security(spec).privileged = true;
                spec.mounts = vec![mount];
            }
        };
        let both = rig.run("both", run(v1::MountPropagation::PropagationBidirectional)).await;
        let down = rig.run("down", run(v1::MountPropagation::PropagationHostToContainer)).await;
        let none = rig.run("none", run(v1::MountPropagation::PropagationPrivate)).await;
        tmpfs(&dir.join("host"));
        std::fs::write(dir.join("host/seen"), "").unwrap();
        let sees = "test -e /shared/host/seen && echo yes || echo no";
        assert_eq!(rig.sh(&both, sees).await, "yes");
        assert_eq!(rig.sh(&down, sees).await, "yes");
        assert_eq!(rig.sh(&none, sees).await, "no");
        rig.sh(&both, "mount -t tmpfs x /shared/box && touch /shared/box/up").await;
        assert!(dir.join("box/up").exists());
        assert_eq!(rig.sh(&down, "test -e /shared/box/up && echo yes").await, "yes");
        rig.sh(&down, "mount -t tmpfs x /shared/secret && touch /shared/secret/up").await;
        assert!(!dir.join("secret/up").exists());
        let private = rig.agent.dir.join("private");
        std::fs::create_dir_all(&private).unwrap();
        tmpfs(&private);
        rustix::mount::mount_change(&private, rustix::mount::MountPropagationFlags::PRIVATE).unwrap();
        let wrong = rig
            .try_run("wrong", |spec| {
                let propagation = v1::MountPropagation::PropagationBidirectional.into();
                spec.mounts = vec![v1::Mount { propagation, ..mount(&private, "/x") }];
            })
            .await;
        assert!(wrong.unwrap_err().message().contains("not shared"));
        for path in [dir.join("box"), dir.join("host"), dir, private] {
            rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        rig.end().await;
    });
}

#[test]
fn image_volumes_are_copied_up() {
    in_netns(|| async {
        let mut rig = Rig::new(json!({ "Env": ["PATH=/bin"], "Volumes": { "/data": {}, "/new/volume": {} } })).await;
        let id = rig.run("main", |_| {}).await;
        assert_eq!(
            rig.sh(&id, "cat /data/sub/file; ls -d /new/volume; grep -c ' /data ' /proc/self/mountinfo").await,
            "from the image\n/new/volume\n1"
        );
        rig.sh(&id, "touch /data/mine").await;
        rig.end().await;
    });
}

#[test]
fn images_are_volumes_too() {
    in_netns(|| async {
        let mut rig = Rig::new(image()).await;
        let volume = |sub_path: &str, readonly: bool, image: &str| v1::Mount {
            container_path: "/volume".into(),
            readonly,
            image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
            image_sub_path: sub_path.to_owned(),
            ..Default::default()
        };
        let image = rig.kubelet.image.clone();
        let whole = rig.run("whole", |spec| spec.mounts = vec![volume("", true, &image)]).await;
        assert_eq!(rig.sh(&whole, "cat /volume/data/sub/file; /volume/bin/echo runs").await, "from the image\nruns");
        let (exit, _, err) = rig.kubelet.exec(&whole, &["touch", "/volume/x"]).await.unwrap();
        assert!(exit != 0 && err.contains("Read-only"), "{err}");
        let status = rig.kubelet.status(&whole).await.unwrap();
        assert_eq!(status.mounts[0].image.as_ref().unwrap().image_ref, status.image_id);
        let part = rig.run("part", |spec| spec.mounts = vec![volume("data/sub", true, &image)]).await;
        assert_eq!(rig.sh(&part, "ls /volume").await, "file");
        for (name, mount, wanted) in [
            ("writable", volume("", false, &image), Code::InvalidArgument),
            ("nowhere", volume("no/such", true, &image), Code::Unknown),
            ("upwards", volume("../..", true, &image), Code::InvalidArgument),
            ("absent", volume("", true, "localhost/no/image:1"), Code::Unknown),
        ] {
            let failure = rig.try_run(name, |spec| spec.mounts = vec![mount]).await.unwrap_err();
            assert_eq!(failure.code(), wanted, "{name}: {failure}");
            if wanted == Code::Unknown {
                assert!(failure.message().starts_with("ImageVolumeMountFailed"), "{failure}");
            }
        }
        // The image may go: what runs keeps what it stands on, also over a restart.
        let spec = v1::ImageSpec { image: image.clone(), ..Default::default() };
        rig.kubelet.images.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await.unwrap();
        rig.agent.restart().await;
        rig.kubelet.reconnect(&rig.agent).await;
        assert_eq!(rig.sh(&whole, "cat /volume/data/sub/file /data/sub/file").await, "from the image\nfrom the image");
        rig.end().await;
    });
}
