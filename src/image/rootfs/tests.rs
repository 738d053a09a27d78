use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::image::platform::Platform;
use crate::image::pull::{Progress, Puller};
use crate::image::store::{Image, Store};
use crate::image::test_layers::{Head, Memory, Tar, TestLayer};
use crate::image::unpack::Limits;

struct Fixture {
    dir: tempfile::TempDir,
    _store: Store,
    image: Arc<Image>,
}

impl Fixture {
    fn new(layers: Vec<Tar>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut memory = Memory::new();
        let layers: Vec<TestLayer> = layers.into_iter().map(TestLayer::gzip).collect();
        memory.add_image("1", &layers, "{}");
        let puller = Puller::new(store.clone(), Limits::default(), 2);
        let reference = "a.example/i:1".parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (progress, platform) = (Progress::default(), Platform::host());
        let pulled = puller.pull(Arc::new(memory), &reference, &platform, &progress);
        let image = runtime.block_on(pulled).unwrap();
        Self { dir, _store: store, image }
    }

    fn destination(&self) -> PathBuf {
        let path = self.dir.path().join("volume");
        fs::create_dir(&path).unwrap();
        path
    }
}

#[test]
fn the_view_merges_layers() {
    let fixture = Fixture::new(vec![
        Tar::new().file("etc/a", b"low").file("etc/gone", b"x").dir("d").file("d/hidden", b""),
        Tar::new().file("etc/a", b"high").file("etc/.wh.gone", b"").file("d/.wh..wh..opq", b"").file("d/new", b"new"),
        Tar::new().symlink("link", "/etc/a").symlink("out", "../../../../etc/a").symlink("loop", "loop"),
    ]);
    let lowers = fixture.image.lowers();
    let old = mount::merged_as_on_old_kernels(&lowers).unwrap();
    for view in [View::open(&lowers).unwrap(), View { root: old }] {
        let read = |path: &str| view.read(Path::new(path), 100).unwrap();
        for path in ["etc/a", "/etc/a", "link", "out", "etc/../etc/a", "../../etc/a"] {
            assert_eq!(read(path).as_deref(), Some(&b"high"[..]), "{path}");
        }
        for path in ["etc/gone", "d/hidden", "nothing", "etc/a/below"] {
            assert_eq!(read(path), None, "{path}");
        }
        assert_eq!(read("d/new").as_deref(), Some(&b"new"[..]));
        assert!(matches!(view.read(Path::new("etc"), 100), Err(RootfsError::NotAFile(_))));
        assert!(matches!(view.read(Path::new("etc/a"), 3), Err(RootfsError::TooLarge { limit: 3, .. })));
        assert!(matches!(view.read(Path::new("loop"), 3), Err(RootfsError::Path { .. })));
    }
}

#[test]
fn a_single_layer_has_no_whiteouts_to_show() {
    let fixture = Fixture::new(vec![
        Tar::new()
            .file(".wh.x", b"")
            .head(&Head::new("pipe", b'6', 0))
            .head(Head::new("null", b'3', 0).device(1, 3))
            .dir("d")
            .file("d/.wh.y", b""),
    ]);
    let view = View::open(fixture.image.lower_dirs()).unwrap();
    assert_eq!(view.read(Path::new("x"), 10).unwrap(), None);
    for path in ["pipe", "null"] {
        // Neither is opened: the one would wait, the other might do something.
        assert!(matches!(view.read(Path::new(path), 10), Err(RootfsError::NotAFile(_))));
    }
    let volume = fixture.destination();
    assert!(copy_up(&fixture.image, Path::new("/d"), &volume).unwrap());
    assert!(fs::read_dir(&volume).unwrap().next().is_none());
}

#[test]
fn copies_a_directory_with_everything() {
    let head = Head::new("data/file", b'0', 4).mode(0o4640).owner(10, 20).clone();
    let fixture = Fixture::new(vec![
        Tar::new()
            .head(Head::new("data", b'5', 0).mode(0o1770).owner(1, 2))
            .file("data/gone", b"")
            .file("data/sub/low", b"l"),
        Tar::new()
            .pax(&[("SCHILY.xattr.user.x", b"y")])
            .head(&head)
            .data(b"data")
            .hard_link("data/same", "data/file")
            .symlink("data/sub/link", "/etc/passwd")
            .head(Head::new("data/pipe", b'6', 0).mode(0o600))
            .head(Head::new("data/null", b'3', 0).device(1, 3).mode(0o666))
            .file("data/.wh.gone", b"")
            .head(Head::new("data", b'5', 0).mode(0o1770).owner(1, 2))
            .symlink("alias", "data"),
    ]);
    let volume = fixture.destination();
    assert!(copy_up(&fixture.image, Path::new("/alias"), &volume).unwrap());
    let meta = |path: &str| fs::symlink_metadata(volume.join(path)).unwrap();
    let root = meta("");
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()), (0o1770, 1, 2, 1_000_000_000));
    let file = meta("file");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.mtime()), (0o4640, 10, 20, 1_000_000_000));
    assert_eq!(fs::read(volume.join("file")).unwrap(), b"data");
    assert_eq!(file.ino(), meta("same").ino());
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(volume.join("file"), "user.x", &mut value).unwrap(), 1);
    assert_eq!(fs::read_link(volume.join("sub/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read(volume.join("sub/low")).unwrap(), b"l");
    assert!(meta("pipe").file_type().is_fifo() && meta("null").rdev() == rustix::fs::makedev(1, 3));
    assert!(!volume.join("gone").exists());
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 5);
}

/// CVE-2022-23648: a volume's path that is a symlink copied directories of the host.
#[test]
fn paths_of_volumes_stay_in_the_image() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let target = outside.path().to_str().unwrap();
    let fixture = Fixture::new(vec![
        Tar::new().file("f", b""),
        Tar::new()
            .symlink("abs", target)
            .symlink("up", &format!("../../../../../../{target}"))
            .symlink("magic", "/proc/self/root")
            .dir("d"),
    ]);
    let volume = fixture.destination();
    let up = format!("../../../../..{target}");
    for path in ["/abs", "up", "magic", "/proc/self/root", &up, "/nothing"] {
        assert!(!copy_up(&fixture.image, Path::new(path), &volume).unwrap(), "{path}");
    }
    assert!(matches!(copy_up(&fixture.image, Path::new("f"), &volume), Err(RootfsError::NotADirectory(_))));
    assert!(fs::read_dir(&volume).unwrap().next().is_none());
    // Nor is a symlink of the host followed where the copy goes.
    let link = fixture.dir.path().join("link");
    symlink(outside.path(), &link).unwrap();
    assert!(copy_up(&fixture.image, Path::new("d"), &link).is_err());
    assert_eq!(fs::metadata(outside.path()).unwrap().permissions().mode() & 0o777, 0o711);
}
