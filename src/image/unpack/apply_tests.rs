use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::*;
use crate::image::test_layers::{Head, Tar};

struct Layer {
    dir: tempfile::TempDir,
    applied: Applied,
}

impl Layer {
    fn of(tar: Tar) -> Self {
        Self::try_of(tar.end()).unwrap()
    }

    fn try_of(tar: Vec<u8>) -> Result<Self, UnpackError> {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        // A thread for its own file mode mask, as in the pipeline.
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            rustix::process::umask(rustix::fs::Mode::empty());
            apply(&mut TarReader::new(tar.as_slice()), root.into(), &Limits::default())
        });
        thread.join().unwrap().map(|applied| Self { dir, applied })
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join(path)
    }

    fn meta(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
    }

    fn is_opaque(&self, path: &str) -> bool {
        xattr(&self.path(path), "trusted.overlay.opaque").as_deref() == Some(b"y")
    }

    fn names(&self) -> BTreeMap<String, char> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                let kind = entry.file_type().unwrap();
                let mark = match (kind.is_dir(), kind.is_symlink(), kind.is_char_device()) {
                    (true, ..) => 'd',
                    (_, true, _) => 'l',
                    (_, _, true) => 'c',
                    _ => 'f',
                };
                found.insert(path.strip_prefix(self.dir.path()).unwrap().to_str().unwrap().to_owned(), mark);
                if kind.is_dir() {
                    pending.push(path);
                }
            }
        }
        found
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

#[test]
fn files_have_all_of_their_attributes() {
    let head = Head::new("bin/tool", b'0', 4).mode(0o6751).owner(1000, 2000).clone();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = Layer::of(
        Tar::new()
            .pax(&[
                ("mtime", b"1234567890.123456789"),
                ("SCHILY.xattr.security.capability", capability),
                ("SCHILY.xattr.user.note", b"a=b\n"),
            ])
            .head(&head)
            .data(b"data")
            .file("plain", b""),
    );
    let meta = layer.meta("bin/tool");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.len()), (0o6751, 1000, 2000, 4));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(xattr(&layer.path("bin/tool"), "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(xattr(&layer.path("bin/tool"), "user.note").as_deref(), Some(&b"a=b\n"[..]));
    let parent = layer.meta("bin");
    assert_eq!((parent.mode() & 0o7777, parent.uid(), parent.gid()), (0o755, 0, 0), "a parent that no entry made");
    assert_eq!(layer.meta("plain").mtime(), 1_000_000_000);
    assert_eq!(layer.applied.entries, 2);
    assert_eq!((layer.applied.inodes, layer.applied.bytes), (4, 3 * 4096));
}

#[test]
fn directories_keep_their_time_and_mode() {
    let layer = Layer::of(
        Tar::new()
            .head(Head::new("./", b'5', 0).mode(0o1777).owner(3, 4))
            .head(Head::new("d/", b'5', 0).mode(0o2700).owner(5, 6))
            .file("d/f", b"x")
            .head(Head::new("ro", b'5', 0).mode(0o555))
            .file("ro/f", b"x"),
    );
    let root = layer.meta(".");
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()), (0o1777, 3, 4, 1_000_000_000));
    let dir = layer.meta("d");
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid(), dir.mtime()), (0o2700, 5, 6, 1_000_000_000));
    assert_eq!(layer.meta("d/f").gid(), 0, "setgid of a directory is not handed down");
    assert_eq!(layer.meta("ro").mode() & 0o777, 0o555);
}

#[test]
fn links_devices_and_fifos() {
    let layer = Layer::of(
        Tar::new()
            .file("a", b"data")
            .hard_link("b", "a")
            .hard_link("dir/c", "/./a")
            .head(Head::new("s", b'2', 0).link("../any/where").owner(9, 9))
            .hard_link("s2", "s")
            .head(Head::new("null", b'3', 0).device(1, 3).mode(0o666))
            .head(Head::new("disk", b'4', 0).device(8, 1).owner(0, 6))
            .head(Head::new("pipe", b'6', 0).mode(0o622)),
    );
    assert_eq!(layer.meta("a").nlink(), 3);
    assert_eq!(layer.meta("a").ino(), layer.meta("dir/c").ino());
    assert_eq!(fs::read_link(layer.path("s2")).unwrap(), Path::new("../any/where"));
    assert_eq!((layer.meta("s").uid(), layer.meta("s").mtime()), (9, 1_000_000_000));
    let null = layer.meta("null");
    assert!(
        null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3) && null.mode() & 0o777 == 0o666
    );
    assert!(layer.meta("disk").file_type().is_block_device() && layer.meta("disk").gid() == 6);
    assert!(layer.meta("pipe").file_type().is_fifo() && layer.meta("pipe").mode() & 0o777 == 0o622);
    // a, dir, s, null, disk, pipe and the root.
    assert_eq!(layer.applied.inodes, 7);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let layer = Layer::of(
        Tar::new()
            .file("etc/.wh.gone", b"")
            .file("kept", b"1")
            .file(".wh.kept", b"")
            .file(".wh.later", b"")
            .file("later", b"2")
            .file(".wh.missing/", b""),
    );
    assert!(layer.is_whiteout("etc/gone"));
    assert_eq!(fs::read(layer.path("kept")).unwrap(), b"1");
    assert_eq!(fs::read(layer.path("later")).unwrap(), b"2");
    assert!(layer.is_whiteout("missing"));
    assert!(layer.names().keys().all(|name| !name.contains(".wh.")));
}

#[test]
fn a_whiteout_of_a_directory_that_the_layer_has_makes_it_opaque() {
    let before = Tar::new().file(".wh.d", b"").dir("d").file("d/new", b"");
    let after = Tar::new().dir("d").file("d/new", b"").file(".wh.d", b"");
    let implicit = Tar::new().file(".wh.d", b"").file("d/new", b"");
    for tar in [before, after, implicit] {
        let layer = Layer::of(tar);
        assert!(layer.is_opaque("d") && layer.has("d/new") && !layer.applied.opaque_root);
    }
}

#[test]
fn opaque_directories_have_no_whiteouts() {
    let first = Tar::new().dir("d").file("d/.wh..wh..opq", b"").file("d/.wh.x", b"").file("d/y", b"");
    let last = Tar::new().dir("d").file("d/.wh.x", b"").file("d/y", b"").file("d/.wh..wh..opq", b"");
    for tar in [first, last] {
        let layer = Layer::of(tar);
        assert!(layer.is_opaque("d") && layer.has("d/y") && !layer.has("d/x"));
        assert_eq!(layer.meta("d").mtime(), 1_000_000_000);
    }
    let root = Layer::of(Tar::new().file(".wh..wh..opq", b"").file("x", b""));
    assert!(root.applied.opaque_root);
}

#[test]
fn books_of_aufs_are_left_out() {
    let layer = Layer::of(
        Tar::new()
            .dir(".wh..wh.plnk")
            .file(".wh..wh.plnk/1.2", b"")
            .file(".wh..wh.aufs", b"")
            .dir(".wh..wh.orph")
            .file("x", b""),
    );
    assert_eq!(layer.names().into_keys().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn the_last_of_a_path_wins() {
    let layer = Layer::of(
        Tar::new()
            .file("f", b"one")
            .hard_link("g", "f")
            .file("f", b"two")
            .dir("d")
            .file("d/x/y", b"")
            .file("d", b"file")
            .symlink("l", "f")
            .dir("l")
            .head(Head::new("m", b'5', 0).mode(0o700))
            .file("m/kept", b"")
            .head(Head::new("m", b'5', 0).mode(0o711))
            .file("p", b"")
            .file("p/child", b""),
    );
    assert_eq!(fs::read(layer.path("f")).unwrap(), b"two");
    assert_eq!(fs::read(layer.path("g")).unwrap(), b"one");
    assert!(layer.meta("d").is_file() && layer.meta("l").is_dir() && layer.meta("p/child").is_file());
    assert!(layer.has("m/kept") && layer.meta("m").mode() & 0o777 == 0o711);
}

#[test]
fn parents_that_are_symlinks_are_followed_within_the_layer() {
    let layer = Layer::of(
        Tar::new()
            .symlink("lib", "usr/lib")
            .file("lib/a", b"")
            .dir("usr/lib")
            .symlink("usr/abs", "/opt")
            .file("usr/abs/b", b"")
            .symlink("up", "usr/../../../etc")
            .file("up/c", b""),
    );
    for path in ["usr/lib/a", "opt/b", "etc/c"] {
        assert!(layer.has(path), "{path}");
    }
    assert!(layer.meta("lib").is_symlink());
}

#[test]
fn names_in_every_form() {
    let long = "d/".repeat(120) + "long name that no header holds";
    let prefix = Head::new("file", b'0', 0).put(345, b"in/the/prefix").clone();
    let gnu = Head::new("gnu", b'0', 0).put(257, b"ustar  \0").put(345, b"no prefix").clone();
    let v7 = Head::new("old/", 0, 0).put(257, &[0; 8]).clone();
    let layer = Layer::of(
        Tar::new()
            .raw_pax(b'L', format!("{long}\0").as_bytes())
            .file("cut", b"1")
            .pax(&[("path", "pax/ünïcode".as_bytes())])
            .file("ascii", b"2")
            .head(&prefix)
            .head(&gnu)
            .head(&v7)
            .raw_pax(b'K', [b"t".repeat(300), vec![0]].concat().as_slice())
            .symlink("link", "cut")
            .raw_pax(b'g', b"19 path=not/this/one\n")
            .file("./a//b/../b/./c", b"3")
            .file("raw-\u{1}", b""),
    );
    for path in [long.as_str(), "pax/ünïcode", "in/the/prefix/file", "gnu", "a/b/c", "raw-\u{1}"] {
        assert!(layer.has(path), "{path}");
    }
    assert!(layer.meta("old").is_dir());
    assert_eq!(fs::read_link(layer.path("link")).unwrap().as_os_str().len(), 300);
}

#[test]
fn sparse_files_of_every_kind() {
    let pieces = b"headtail";
    let mut gnu = Head::new("gnu", b'S', 8);
    gnu.put(257, b"ustar  \0").octal(386, 12, 0).octal(398, 12, 4).octal(410, 12, 100_000).octal(422, 12, 4);
    gnu.put(434, &[0; 48]).octal(483, 12, 200_000);
    let map = b"2\n0\n4\n100000\n4\n";
    let mut one = map.to_vec();
    one.resize(512, 0);
    one.extend_from_slice(pieces);
    let real: (&str, &[u8]) = ("GNU.sparse.realsize", b"200000");
    let old: [(&str, &[u8]); 6] = [
        ("GNU.sparse.size", b"200000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"4"),
        ("GNU.sparse.offset", b"100000"),
        ("GNU.sparse.numbytes", b"4"),
    ];
    let layer = Layer::of(
        Tar::new()
            .head(&gnu)
            .data(pieces)
            .pax(&old)
            .file("v00", pieces)
            .pax(&[("GNU.sparse.map", b"0,4,100000,4"), ("GNU.sparse.name", b"v01"), real])
            .file("GNUSparseFile.1/v01", pieces)
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"v10"), real])
            .file("GNUSparseFile.1/v10", &one)
            .file("after", b"ok"),
    );
    let mut content = vec![0; 200_000];
    content[..4].copy_from_slice(b"head");
    content[100_000..100_004].copy_from_slice(b"tail");
    for name in ["gnu", "v00", "v01", "v10"] {
        assert!(fs::read(layer.path(name)).unwrap() == content, "{name}");
        assert!(layer.meta(name).blocks() < 100, "{name} has no holes");
    }
    assert_eq!(fs::read(layer.path("after")).unwrap(), b"ok");
}

#[test]
fn a_gnu_sparse_map_goes_on_in_blocks() {
    let mut head = Head::new("s", b'S', 26);
    head.put(257, b"ustar  \0").put(482, &[1]).octal(483, 12, 26_000);
    for at in 0..4 {
        head.octal(386 + at * 24, 12, at as u64 * 1000).octal(398 + at * 24, 12, 1);
    }
    let mut tar = Tar::new().head(&head);
    for block in 0..2 {
        let mut entries = Head([0; 512]);
        for at in 0..21.min(22 - block * 21) {
            let number = 4 + block * 21 + at;
            entries.octal(at * 24, 12, number as u64 * 1000).octal(12 + at * 24, 12, 1);
        }
        entries.0[504] = u8::from(block == 0);
        tar.bytes.extend_from_slice(&entries.0);
    }
    let layer = Layer::of(tar.data(b"abcdefghijklmnopqrstuvwxyz").file("after", b""));
    let content = fs::read(layer.path("s")).unwrap();
    assert_eq!((content.len(), content[25_000], content[1000], content[1]), (26_000, b'z', b'b', 0));
    assert!(layer.has("after"));
}

#[test]
fn empty_layers() {
    for tar in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10240]] {
        let layer = Layer::try_of(tar).unwrap();
        assert_eq!((layer.applied.entries, layer.applied.inodes), (0, 1));
    }
}
