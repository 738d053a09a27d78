//! Opening a store: what is there, what is left over, what is broken.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::sync::SyncGate;
use super::{Inner, LayerInfo, State, StoreError, record, trash};
use crate::image::digest::Digest;

/// What opening found and did.
#[derive(Debug, Default)]
pub struct OpenReport {
    pub images: usize,
    pub layers: usize,
    /// Pulls that were cut off; their data is being deleted.
    pub leftovers: usize,
    /// Records and layers that could not be used. They were removed; a pull makes them anew.
    pub dropped: Vec<Dropped>,
    /// The machine went down while the store was open.
    pub unclean: bool,
}

/// Something that could not be used.
#[derive(Debug)]
pub struct Dropped {
    pub path: PathBuf,
    pub reason: String,
}

pub(super) fn open(root: &Path) -> Result<Inner, StoreError> {
    for (dir, mode) in [
        ("", 0o700),
        ("images", 0o700),
        ("blobs/sha256", 0o700),
        ("layers/sha256", 0o700),
        ("ingest", 0o700),
        ("empty", 0o755),
    ] {
        let path = root.join(dir);
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            // An existing one may have been made by someone less careful: setuid files of images are in there.
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(mode)))
            .map_err(|error| StoreError::io("make", &path, error))?;
    }
    let root = root.canonicalize().map_err(|error| StoreError::io("find", root, error))?;
    let lock = lock(&root)?;
    scatter(&root.join("ingest"));
    let mut inner = Inner {
        sync: SyncGate::new(&root)?,
        root,
        _lock: lock,
        state: Mutex::default(),
        writer: Mutex::default(),
        report: OpenReport::default(),
        users: Mutex::default(),
    };
    let mut report = OpenReport { unclean: inner.stamp()?, ..OpenReport::default() };
    let mut trash = inner.leftovers()?;
    report.leftovers = trash.len();
    let mut state = State::default();
    inner.read_layers(&mut state, &mut report, &mut trash)?;
    inner.read_images(&mut state, &mut report)?;
    report.images = state.images.len();
    report.layers = state.layers.len();
    record::count_files(&mut state);
    inner.state = Mutex::new(state);
    inner.report = report;
    trash::delete_in_background(trash);
    Ok(inner)
}

fn lock(root: &Path) -> Result<OwnedFd, StoreError> {
    let path = root.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| StoreError::io("open", &path, error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(root.to_owned())),
        Err(error) => Err(StoreError::io("lock", &path, error)),
    }
}

/// Tells ext4 that what is in a directory is not related. Layers that are unpacked side by side then have their inodes in
/// different parts of the disk; and one that is made again after its deletion does not look for free inodes among those
/// that were freed a moment ago, which ext4 without a journal passes over one by one. Other file systems know no such hint.
pub(crate) fn scatter(dir: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let Ok(dir) = fs::File::open(dir) else { return };
    if let Ok(flags) = ioctl_getflags(&dir) {
        // A hint that is not taken is no loss.
        ioctl_setflags(&dir, flags | IFlags::TOPDIR).ok();
    }
}

impl Inner {
    /// Notes that this boot has the store open. True if an earlier one had, too, and did not close it.
    fn stamp(&self) -> Result<bool, StoreError> {
        let path = self.root.join("boot");
        let now = boot_id();
        let before = fs::read_to_string(&path).unwrap_or_default();
        let unclean = before.strip_suffix(" open\n").is_some_and(|boot| boot != now);
        fs::write(&path, format!("{now} open\n")).map_err(|error| StoreError::io("write", &path, error))?;
        Ok(unclean)
    }

    fn leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        entries(&self.ingest_dir())
    }

    fn read_layers(
        &self,
        state: &mut State,
        report: &mut OpenReport,
        trash: &mut Vec<PathBuf>,
    ) -> Result<(), StoreError> {
        for algorithm in entries(&self.root.join("layers"))? {
            for path in entries(&algorithm)? {
                match self.read_layer(&path) {
                    Ok(info) => {
                        state.layer_usage.bytes += info.bytes;
                        state.layer_usage.inodes += info.inodes;
                        state.layers.insert(info.diff_id.clone(), info);
                    }
                    Err(reason) => {
                        report.dropped.push(Dropped { path: path.clone(), reason });
                        let to = self.ingest_dir().join(super::ingest::unique_name()?);
                        fs::rename(&path, &to).map_err(|error| StoreError::io("move away", &path, error))?;
                        trash.push(to);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_layer(&self, path: &Path) -> Result<LayerInfo, String> {
        let text = fs::read(path.join("layer.json")).map_err(|error| format!("layer.json: {error}"))?;
        let info: LayerInfo = serde_json::from_slice(&text).map_err(|error| format!("layer.json: {error}"))?;
        if self.layer(&info.diff_id) != path {
            return Err("layer.json is that of another layer".into());
        }
        match fs::symlink_metadata(path.join("diff")) {
            Ok(meta) if meta.is_dir() => Ok(info),
            Ok(_) => Err("diff is no directory".into()),
            Err(error) => Err(format!("diff: {error}")),
        }
    }

    fn read_images(&self, state: &mut State, report: &mut OpenReport) -> Result<(), StoreError> {
        let mut pulled: HashMap<String, (i64, Digest)> = HashMap::new();
        for path in entries(&self.images_dir())? {
            match self.load(&path, &state.layers) {
                Ok(image) => {
                    for name in image.names() {
                        let claim = (image.pulled, image.id.clone());
                        let holder = pulled.entry(name.to_owned()).or_insert_with(|| claim.clone());
                        if *holder < claim {
                            *holder = claim;
                        }
                    }
                    state.images.insert(image.id.clone(), Arc::new(image));
                }
                Err(error) => {
                    report.dropped.push(Dropped { path: path.clone(), reason: error.to_string() });
                    fs::remove_file(&path).map_err(|error| StoreError::io("remove", &path, error))?;
                }
            }
        }
        state.names = pulled.into_iter().map(|(name, (_, id))| (name, id)).collect();
        let State { images, names, .. } = state;
        for image in images.values_mut() {
            let lost = |tag: &String| names.get(tag) != Some(&image.id);
            if image.tags.iter().any(lost) {
                let mut without = super::Image::clone(image);
                without.tags.retain(|tag| names.get(tag) == Some(&without.id));
                *image = Arc::new(without);
            }
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Only a hint for the next start.
        fs::write(self.root.join("boot"), format!("{} closed\n", boot_id())).ok();
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = || fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    list().map_err(|error| StoreError::io("list", dir, error))
}
