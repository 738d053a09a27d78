//! Layers made to break out, to hang, or to take all of a machine. Each runs through the whole pipeline into a store; each
//! either fails with its reason or stays inside; none changes anything outside, and no failed one leaves anything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::{Expected, Limits, UnpackError, Unpacked, start};
use crate::image::digest::Digest;
use crate::image::store::{Lease, Store};
use crate::image::test_layers::{Head, Tar, gzip, zstd};

/// A store, and beside it what must not change.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

/// Path to kind, mode, owner, size, time and content.
type Snapshot = BTreeMap<PathBuf, (u32, u32, u64, i64, Vec<u8>)>;

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), "alive").unwrap();
        fs::create_dir(dir.path().join("outside/dir")).unwrap();
        fs::write(dir.path().join("outside/dir/file"), "here").unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }

    fn snapshot(&self) -> Snapshot {
        let mut found = Snapshot::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path == self.store.root() {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                if meta.is_dir() {
                    pending.push(path.clone());
                }
                found.insert(path, (meta.mode(), meta.uid(), meta.nlink(), meta.mtime(), content));
            }
        }
        found
    }

    fn unpack(
        &self,
        blob: &[u8],
        expected: Expected,
        limits: &Limits,
    ) -> Result<(PathBuf, Unpacked, Lease), UnpackError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ingest = self.store.begin_layer(&expected.diff_id).unwrap();
        let path = self.store.root().join("layers/sha256").join(expected.diff_id.hex()).join("diff");
        runtime.block_on(async {
            let mut job = start(ingest.dir().unwrap(), expected, limits.clone(), ingest).unwrap();
            for chunk in blob.chunks(10_000) {
                job.push(Bytes::copy_from_slice(chunk)).await?;
            }
            let (unpacked, ingest) = job.finish().await?;
            let lease = ingest.commit(&unpacked).unwrap();
            Ok((path, unpacked, lease))
        })
    }

    fn leaves_nothing(&self) {
        for dir in ["ingest", "layers/sha256"] {
            let dir = self.store.root().join(dir);
            let empty = (0..300).any(|_| {
                let empty = fs::read_dir(&dir).unwrap().next().is_none();
                if !empty {
                    std::thread::sleep(Duration::from_millis(10));
                }
                empty
            });
            assert!(empty, "{} is not empty", dir.display());
        }
    }
}

fn expected(tar: &[u8], blob: &[u8]) -> Expected {
    Expected { digest: Digest::sha256(blob), size: blob.len() as u64, diff_id: Digest::sha256(tar) }
}

/// The layer has to fail with a reason that contains the text.
fn fails(name: &str, make: impl Fn(&str) -> Vec<u8>, reason: &str) {
    let place = Place::new();
    let before = place.snapshot();
    let tar = make(&place.outside());
    let blob = gzip(&tar);
    let error = place.unpack(&blob, expected(&tar, &blob), &Limits::default()).expect_err(name).to_string();
    assert!(error.contains(reason), "{name}: {error}");
    assert_eq!(place.snapshot(), before, "{name}: something outside changed");
    place.leaves_nothing();
}

/// The layer may be unpacked, and everything stays inside; `check` looks at the result.
fn contained(name: &str, make: impl Fn(&str) -> Vec<u8>, check: impl Fn(&Path, &str)) {
    let place = Place::new();
    let before = place.snapshot();
    let tar = make(&place.outside());
    let blob = zstd(&tar);
    let unpacked = place.unpack(&blob, expected(&tar, &blob), &Limits::default());
    let (path, ..) = unpacked.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(place.snapshot(), before, "{name}: something outside changed");
    check(&path, &place.outside());
}

fn inside(layer: &Path, absolute: &str) -> PathBuf {
    layer.join(absolute.trim_start_matches('/'))
}

#[test]
fn paths_that_lead_out() {
    let out = "leads out of the layer";
    fails("dot dot", |_| Tar::new().file("../outside/canary", b"dead").end(), out);
    fails("dot dot inside", |_| Tar::new().file("a/../../outside/canary", b"dead").end(), out);
    fails("dot dot directory", |_| Tar::new().dir("..").end(), out);
    fails("absolute dot dot", |_| Tar::new().file("/../canary", b"dead").end(), out);
    fails("dot dot in PAX", |_| Tar::new().pax(&[("path", b"../canary")]).file("ok", b"dead").end(), out);
    fails("dot dot symlink", |_| Tar::new().symlink("../../x", "y").end(), out);
    fails("dot dot device", |_| Tar::new().head(Head::new("../x", b'3', 0).device(1, 3)).end(), out);
    fails("dot dot whiteout", |_| Tar::new().file("../outside/.wh.canary", b"").end(), out);
    fails("dot dot opaque", |_| Tar::new().file("../outside/.wh..wh..opq", b"").end(), out);
    contained(
        "absolute",
        |outside| Tar::new().pax(&[("path", format!("{outside}/canary").as_bytes())]).file("x", b"dead").end(),
        |layer, outside| assert_eq!(fs::read(inside(layer, outside).join("canary")).unwrap(), b"dead"),
    );
}

#[test]
fn symlinks_that_lead_out() {
    contained(
        "absolute symlink for a parent",
        |outside| Tar::new().symlink("x", outside).file("x/canary", b"dead").file("x/new", b"dead").end(),
        |layer, outside| {
            assert_eq!(fs::read_link(layer.join("x")).unwrap(), Path::new(outside));
            assert_eq!(fs::read(inside(layer, outside).join("new")).unwrap(), b"dead");
        },
    );
    contained(
        "relative symlink for a parent",
        |_| Tar::new().symlink("x", "../../../../../../../outside").file("x/canary", b"dead").end(),
        |layer, _| assert_eq!(fs::read(layer.join("outside/canary")).unwrap(), b"dead"),
    );
    contained(
        "a chain of symlinks",
        |outside| {
            Tar::new()
                .symlink("a", "b/../..")
                .symlink("b", outside)
                .dir("a/outside")
                .file("a/outside/canary", b"dead")
                .end()
        },
        |layer, _| assert!(fs::symlink_metadata(layer.join("a")).unwrap().is_symlink()),
    );
    contained(
        "a file through a symlink",
        |outside| Tar::new().symlink("f", &format!("{outside}/canary")).file("f", b"dead").end(),
        |layer, _| assert!(fs::symlink_metadata(layer.join("f")).unwrap().is_file()),
    );
    contained(
        "a directory through a symlink",
        |outside| {
            let meta = Head::new("d", b'5', 0).mode(0o777).owner(1, 1).clone();
            Tar::new().symlink("d", outside).head(&meta).file("d/canary", b"x").end()
        },
        |layer, _| assert!(fs::symlink_metadata(layer.join("d")).unwrap().is_dir()),
    );
    contained(
        "a directory that becomes a symlink",
        |outside| Tar::new().dir("d").file("d/old", b"1").symlink("d", outside).file("d/new", b"2").end(),
        |layer, outside| {
            assert!(fs::symlink_metadata(layer.join("d")).unwrap().is_symlink());
            assert!(!inside(layer, outside).join("old").exists());
            assert_eq!(fs::read(inside(layer, outside).join("new")).unwrap(), b"2");
        },
    );
    contained(
        "a device through a symlink",
        |outside| {
            let node = Head::new("f", b'3', 0).device(1, 3).clone();
            Tar::new().symlink("f", &format!("{outside}/canary")).head(&node).end()
        },
        |layer, _| assert!(fs::symlink_metadata(layer.join("f")).unwrap().file_type().is_char_device()),
    );
    fails("a loop", |_| Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").end(), "too many symlinks");
    fails("a loop to itself", |_| Tar::new().symlink("a", "a/a/a").file("a/x", b"").end(), "too many symlinks");
    fails("an empty target", |_| Tar::new().symlink("a", "").end(), "empty");
    contained(
        "proc's magic links",
        |_| Tar::new().symlink("p", "/proc/self/root").file("p/tmp/x", b"").end(),
        |layer, _| assert!(layer.join("proc/self/root/tmp/x").exists()),
    );
}

#[test]
fn hard_links_that_lead_out() {
    fails("dot dot", |_| Tar::new().hard_link("h", "../../outside/canary").end(), "outside of the layer");
    fails(
        "absolute",
        |outside| Tar::new().pax(&[("linkpath", format!("{outside}/canary").as_bytes())]).hard_link("h", "x").end(),
        "does not have",
    );
    fails(
        "through a symlink",
        |outside| Tar::new().symlink("d", outside).hard_link("h", "d/canary").end(),
        "does not have",
    );
    fails("to a directory", |_| Tar::new().dir("d").hard_link("h", "d").end(), "to a directory");
    fails("to the root", |_| Tar::new().hard_link("h", ".").end(), "to a directory");
    fails("to nothing", |_| Tar::new().hard_link("h", "").end(), "outside of the layer");
    fails("to itself", |_| Tar::new().hard_link("h", "h").end(), "does not have");
    fails("to what it replaces", |_| Tar::new().file("d/f", b"").hard_link("d", "d/f").end(), "does not have");
    contained(
        "to a symlink, then written to",
        |outside| {
            let tar = Tar::new().symlink("s", &format!("{outside}/canary")).hard_link("h", "s");
            tar.file("h", b"dead").end()
        },
        |layer, _| assert_eq!(fs::read(layer.join("h")).unwrap(), b"dead"),
    );
    // CVE-2021-32760: the mode of a hard link to a symlink was set on what that leads to.
    contained(
        "to a symlink, with a mode",
        |outside| {
            let link = Head::new("h", b'1', 0).link("s").mode(0o4777).owner(5, 5).clone();
            Tar::new().symlink("s", &format!("{outside}/canary")).head(&link).end()
        },
        |layer, _| assert!(fs::symlink_metadata(layer.join("h")).unwrap().is_symlink()),
    );
}

#[test]
fn roots_that_are_replaced() {
    let only = "can only be a directory";
    // CVE-2021-29136: later entries went through it.
    for name in ["/.", "./", ".", "/", "a/.."] {
        fails(name, |outside| Tar::new().symlink(name, outside).file("canary", b"dead").end(), only);
    }
    fails("a file", |_| Tar::new().file(".", b"x").end(), only);
    fails("a hard link", |_| Tar::new().file("f", b"").hard_link("./", "f").end(), only);
    fails("a device", |_| Tar::new().head(Head::new("/", b'3', 0).device(0, 0)).end(), only);
    fails("no name", |_| Tar::new().file("", b"x").end(), "is empty");
}

#[test]
fn whiteouts_that_lead_out() {
    fails("nothing", |_| Tar::new().file("a/.wh.", b"").end(), "names nothing");
    fails("dot", |_| Tar::new().file("a/.wh..", b"").end(), "names nothing");
    fails("dot dot", |_| Tar::new().file("a/.wh...", b"").end(), "names nothing");
    fails("a directory", |_| Tar::new().file(".wh.a/b", b"").end(), "kept for whiteouts");
    fails("made by a symlink", |_| Tar::new().symlink("s", ".wh.a").file("s/b", b"").end(), "kept for whiteouts");
    contained(
        "through a symlink",
        |outside| Tar::new().symlink("d", outside).file("d/.wh.canary", b"").file("d/.wh..wh..opq", b"").end(),
        |layer, outside| assert!(inside(layer, outside).is_dir()),
    );
    contained(
        "a device that overlayfs takes for one",
        |_| Tar::new().file("f", b"x").head(Head::new("f", b'3', 0).device(0, 0)).end(),
        |layer, _| {
            let meta = fs::symlink_metadata(layer.join("f")).unwrap();
            assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
        },
    );
    contained(
        "attributes of overlayfs",
        |_| {
            let records: [(&str, &[u8]); 3] = [
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.trusted.overlay.metacopy", b""),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ];
            Tar::new().pax(&records).dir("d").end()
        },
        |layer, _| {
            let mut names = vec![0; 4096];
            let len = rustix::fs::llistxattr(layer.join("d"), names.as_mut_slice()).unwrap();
            let names = String::from_utf8(names[..len].to_vec()).unwrap();
            for name in names.split('\0').filter(|name| name.contains("overlay")) {
                assert!(name.starts_with("trusted.overlay.overlay."), "{name}");
            }
        },
    );
}

#[test]
fn devices_and_fifos_that_hang() {
    contained(
        "a fifo that is written to",
        |_| Tar::new().head(&Head::new("p", b'6', 0)).file("p", b"data").end(),
        |layer, _| assert_eq!(fs::read(layer.join("p")).unwrap(), b"data"),
    );
    contained(
        "a parent that is a fifo",
        |_| Tar::new().head(&Head::new("p", b'6', 0)).file("p/x", b"data").end(),
        |layer, _| assert_eq!(fs::read(layer.join("p/x")).unwrap(), b"data"),
    );
    let huge = |_: &str| Tar::new().head(Head::new("d", b'4', 0).put(329, b"\x80\0\0\x01\0\0\0\0")).end();
    fails("a device number out of range", huge, "device number");
    contained(
        "setuid",
        |_| Tar::new().head(Head::new("su", b'0', 0).mode(0o4755).owner(0, 0)).end(),
        |layer, _| {
            assert_eq!(fs::metadata(layer.join("su")).unwrap().mode() & 0o7777, 0o4755);
            let store = layer.ancestors().nth(4).unwrap();
            assert_eq!(fs::metadata(store).unwrap().permissions().mode() & 0o777, 0o700, "only root may look in");
        },
    );
}

#[test]
fn headers_that_lie() {
    let bad = "is invalid";
    fails(
        "checksum",
        |_| {
            let mut tar = Tar::new().file("a", b"").end();
            tar[0] ^= 1;
            tar
        },
        "checksum",
    );
    fails("negative size", |_| Tar::new().head(Head::new("a", b'0', 0).put(124, &[0xff; 12])).end(), "negative");
    fails(
        "size of 8 EiB",
        |_| Tar::new().head(Head::new("a", b'0', 0).put(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")).end(),
        "ends in the middle",
    );
    fails(
        "PAX size of 16 EiB",
        |_| Tar::new().pax(&[("size", b"18446744073709551615")]).file("a", b"").end(),
        "ends in the middle",
    );
    fails(
        "PAX size beyond numbers",
        |_| Tar::new().pax(&[("size", b"18446744073709551616")]).file("a", b"").end(),
        bad,
    );
    fails("PAX size negative", |_| Tar::new().pax(&[("size", b"-1")]).file("a", b"").end(), bad);
    fails("owner -1", |_| Tar::new().head(Head::new("a", b'0', 0).put(108, &[0xff; 8])).end(), "owner");
    fails("PAX owner 2^32-1", |_| Tar::new().pax(&[("uid", b"4294967295")]).file("a", b"").end(), "owner");
    fails("PAX group 2^32", |_| Tar::new().pax(&[("gid", b"4294967296")]).file("a", b"").end(), "group");
    fails("NUL in a path", |_| Tar::new().pax(&[("path", b"a\0b")]).file("a", b"").end(), "NUL");
    fails("record too long", |_| Tar::new().raw_pax(b'x', b"99 path=a\n").file("a", b"").end(), bad);
    fails("record without end", |_| Tar::new().raw_pax(b'x', b"9 path=ab").file("a", b"").end(), bad);
    fails("PAX of 2 MiB", |_| Tar::new().raw_pax(b'x', &vec![b'x'; 2 << 20]).file("a", b"").end(), "more than the");
    fails(
        "long name of 2 MiB",
        |_| Tar::new().raw_pax(b'L', &vec![b'x'; 2 << 20]).file("a", b"").end(),
        "more than the",
    );
    fails("global PAX of 2 MiB", |_| Tar::new().raw_pax(b'g', &vec![b'x'; 2 << 20]).end(), "more than the");
    fails("a name of 300 bytes", |_| Tar::new().raw_pax(b'L', &[b'x'; 300]).file("a", b"").end(), "longer than 255");
    fails(
        "a path of 5000 bytes",
        |_| Tar::new().raw_pax(b'L', "ab/".repeat(1700).as_bytes()).file("a", b"").end(),
        "longer than 4095",
    );
    fails(
        "1000 directories deep",
        |_| Tar::new().raw_pax(b'L', "a/".repeat(1000).as_bytes()).dir("a").end(),
        "too deep",
    );
    fails("unknown type", |_| Tar::new().head(&Head::new("a", b'V', 0)).end(), "unknown type");
    fails(
        "cut in the data",
        |_| {
            let mut tar = Tar::new().file("a", &[1; 5000]).bytes;
            tar.truncate(2000);
            tar
        },
        "in the middle",
    );
    fails(
        "cut in a header",
        |_| {
            let mut tar = Tar::new().file("a", b"x").file("b", b"").bytes;
            tar.truncate(1300);
            tar
        },
        "in the middle",
    );
    fails(
        "lone zeros",
        |_| {
            let tar = Tar::new().file("a", b"").data(&[0; 512]);
            tar.file("b", b"").end()
        },
        "lone block",
    );
    fails("no tar", |_| b"<html>404 not found</html>".repeat(100), bad);
}

/// CVE-2025-62518 and its kin: readers that disagree about where data ends see other archives in one.
#[test]
fn data_is_never_taken_for_headers() {
    let inner = Tar::new().file("smuggled", b"x").bytes;
    let size = inner.len().to_string();
    contained(
        "size in PAX, none in the header",
        |_| {
            let head = Head::new("a", b'0', 0);
            Tar::new().pax(&[("size", size.as_bytes())]).head(&head).data(&inner).file("b", b"").end()
        },
        |layer, _| {
            assert!(!layer.join("smuggled").exists() && layer.join("b").exists());
            assert_eq!(fs::metadata(layer.join("a")).unwrap().len(), inner.len() as u64);
        },
    );
    contained(
        "a directory with a size",
        |_| Tar::new().head(&Head::new("d", b'5', 4096)).file("b", b"").end(),
        |layer, _| assert!(layer.join("b").exists()),
    );
}

#[test]
fn sparse_maps_that_lie() {
    let sparse = |map: &str, real: &str, data: &[u8]| {
        let records: [(&str, &[u8]); 3] =
            [("GNU.sparse.major", b"0"), ("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.realsize", real.as_bytes())];
        Tar::new().pax(&records).file("s", data).end()
    };
    fails("overlapping", |_| sparse("0,4,2,4", "100", b"12345678"), "overlap");
    fails("out of order", |_| sparse("50,4,0,4", "100", b"12345678"), "out of order");
    fails("beyond the file", |_| sparse("98,4", "100", b"1234"), "beyond");
    fails("beyond any file", |_| sparse("18446744073709551615,4", "100", b"1234"), "beyond");
    fails("longer than the data", |_| sparse("0,400", "1000", b"1234"), "not as long");
    fails("shorter than the data", |_| sparse("0,2", "1000", b"1234"), "not as long");
    fails("16 EiB of holes", |_| sparse("0,4", "18446744073709551615", b"1234"), "sparse file would be");
    fails("too many parts", |_| sparse(&"0,0,".repeat(70_000), "10", b""), "too many parts");
    fails(
        "no size",
        |_| Tar::new().pax(&[("GNU.sparse.map", b"0,4")]).file("s", b"1234").end(),
        "real size is missing",
    );
    fails(
        "unknown version",
        |_| Tar::new().pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"2")]).file("s", b"1234").end(),
        "version",
    );
    let one = |map: &[u8]| {
        Tar::new()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
            .file("s", map)
            .end()
    };
    fails("endless digits", |_| one(&[b'1'; 2000]), "no number");
    fails("count of 2^40", |_| one(&[&b"1099511627776\n"[..], &[0; 498]].concat()), "too many parts");
    fails("map longer than the data", |_| one(b"60000\n1\n"), "longer than the data");
    fails("GNU header in a ustar archive", |_| Tar::new().head(&Head::new("s", b'S', 0)).end(), "GNU format");
}

#[test]
fn bombs() {
    let place = Place::new();
    let limits = Limits { ratio_from: 1 << 20, ratio: 100, layer_bytes: 64 << 20, entries: 100, reserve: 0 };
    let zeros = Tar::new().file("zeros", &vec![0; 8 << 20]).end();
    for blob in [gzip(&zeros), zstd(&zeros)] {
        let error = place.unpack(&blob, expected(&zeros, &blob), &limits).expect_err("a bomb").to_string();
        assert!(error.contains("ratio of compression"), "{error}");
    }
    let large = Limits { layer_bytes: 1 << 20, ..limits.clone() };
    for blob in [gzip(&zeros), zstd(&zeros), zeros.clone()] {
        let error = place.unpack(&blob, expected(&zeros, &blob), &large).expect_err("a large layer").to_string();
        assert!(error.contains("size of the uncompressed layer"), "{error}");
    }
    let many = (0..200).fold(Tar::new(), |tar, number| tar.file(&format!("f{number}"), b"")).end();
    let error = place.unpack(&many, expected(&many, &many), &limits).expect_err("many entries").to_string();
    assert!(error.contains("number of entries"), "{error}");
    let full = Limits { reserve: u64::MAX, ..Limits::default() };
    let error = place.unpack(&many, expected(&many, &many), &full).expect_err("a full disk").to_string();
    assert!(error.contains("bytes free"), "{error}");
    place.leaves_nothing();
}

#[test]
fn blobs_that_are_not_what_was_asked_for() {
    let place = Place::new();
    let tar = Tar::new().file("a", b"1").end();
    let blob = gzip(&tar);
    let right = expected(&tar, &blob);
    let limits = Limits::default();
    let other = Digest::sha256(b"other");
    let cases = [
        (Expected { digest: other.clone(), ..right.clone() }, "the blob is"),
        (Expected { diff_id: other, ..right.clone() }, "the uncompressed layer is"),
        (Expected { size: right.size + 1, ..right.clone() }, "bytes, not"),
        (Expected { size: right.size - 1, ..right.clone() }, "bytes, not"),
        // A compressed blob whose digest is given as diff id, too.
        (Expected { diff_id: right.digest.clone(), ..right.clone() }, "the uncompressed layer is"),
    ];
    for (wrong, reason) in cases {
        let error = place.unpack(&blob, wrong, &limits).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
    for (start, reason) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91A", "bzip2"), (b"\x04\x22\x4d\x18\0\0", "lz4")] {
        let error = place.unpack(start, expected(start, start), &limits).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut damaged = blob.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    assert!(place.unpack(&damaged, expected(&tar, &damaged), &limits).is_err());
    for cut in [gzip(&tar), zstd(&tar)] {
        let cut = &cut[..cut.len() - 3];
        let error = place.unpack(cut, expected(&tar, cut), &limits).expect_err("cut").to_string();
        assert!(error.contains("ends too early"), "{error}");
    }
    place.leaves_nothing();
}
