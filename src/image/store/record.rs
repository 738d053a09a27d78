//! Records of images: reading, writing, and what follows from them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Image, ImageLayer, Inner, LayerInfo, NewImage, State, Store, StoreError, Usage};
use crate::image::config::ImageConfig;
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// What a small file takes on disk.
const BLOCK: u64 = 4096;

/// `images/<hex>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    id: Digest,
    tags: Vec<String>,
    repo_digests: Vec<String>,
    /// As the config says.
    #[serde(default)]
    created: String,
    pulled: i64,
    size: u64,
    documents: Vec<Digest>,
    layers: Vec<ImageLayer>,
}

impl Record {
    fn of(image: &Image) -> Self {
        Self {
            id: image.id.clone(),
            tags: image.tags.clone(),
            repo_digests: image.repo_digests.clone(),
            created: image.config.created.clone(),
            pulled: image.pulled,
            size: image.size,
            documents: image.documents.clone(),
            layers: image.layers.clone(),
        }
    }
}

impl Inner {
    /// Reads a record and checks that all of the image is there.
    pub(super) fn load(&self, path: &Path, layers: &HashMap<Digest, LayerInfo>) -> Result<Image, StoreError> {
        let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
        let text = fs::read(path).map_err(|error| StoreError::io("read", path, error))?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if self.record(&record.id) != path {
            return Err(damaged("its name is not its id".into()));
        }
        if let Some(layer) = record.layers.iter().find(|layer| !layers.contains_key(&layer.diff_id)) {
            return Err(StoreError::NoLayer(layer.diff_id.clone()));
        }
        let config_path = self.blob(&record.id);
        let config = fs::read(&config_path).map_err(|error| StoreError::io("read", &config_path, error))?;
        if !record.id.verifies(&config) {
            let reason = "its content does not have the digest of its name".into();
            return Err(StoreError::Damaged { path: config_path, reason });
        }
        let config = ImageConfig::parse(&config, record.layers.len())
            .map_err(|source| StoreError::Config { id: record.id.clone(), source })?;
        Ok(Image {
            lowers: self.lowers(&record.layers, layers),
            id: record.id,
            tags: record.tags,
            repo_digests: record.repo_digests,
            layers: record.layers,
            documents: record.documents,
            size: record.size,
            pulled: record.pulled,
            config: Arc::new(config),
            pinned: false,
        })
    }

    /// See [`Image::lowers`].
    fn lowers(&self, layers: &[ImageLayer], known: &HashMap<Digest, LayerInfo>) -> Arc<[PathBuf]> {
        let mut seen = HashSet::new();
        let mut lowers = Vec::new();
        for layer in layers.iter().rev() {
            let info = known.get(&layer.diff_id);
            let empty = info.is_some_and(|info| info.inodes <= 1 && info.entries == 0);
            if !empty && seen.insert(&layer.diff_id) {
                lowers.push(self.layer(&layer.diff_id).join("diff"));
            }
            if info.is_some_and(|info| info.opaque_root) {
                break;
            }
        }
        if lowers.is_empty() {
            lowers.push(self.root.join("empty"));
        }
        lowers.into()
    }

    /// Writes a record under a temporary name. Not synced.
    fn stage(&self, image: &Image) -> Result<PathBuf, StoreError> {
        let text = serde_json::to_vec_pretty(&Record::of(image))
            .map_err(|error| StoreError::Damaged { path: self.record(&image.id), reason: error.to_string() })?;
        self.write_temporary(&text)
    }

    fn write_temporary(&self, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.ingest_dir().join(super::ingest::unique_name()?);
        File::create_new(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| StoreError::io("write", &path, error))?;
        Ok(path)
    }

    fn add_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.blob(digest);
        if fs::read(&path).is_ok_and(|known| known == bytes) {
            return Ok(());
        }
        let temporary = self.write_temporary(bytes)?;
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(|error| StoreError::io("make", parent, error))?;
        rename(&temporary, &path)
    }

    /// Removes blobs that no record names. The writer's lock is held.
    pub(super) fn sweep_blobs(&self) {
        let state = self.state();
        let used: HashSet<PathBuf> = state
            .images
            .values()
            .flat_map(|image| image.documents.iter().chain([&image.id]))
            .map(|digest| self.blob(digest))
            .collect();
        drop(state);
        for algorithm in ["sha256", "sha512"] {
            let Ok(entries) = fs::read_dir(self.root.join("blobs").join(algorithm)) else { continue };
            for entry in entries.flatten().filter(|entry| !used.contains(&entry.path())) {
                if let Err(error) = fs::remove_file(entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove a blob that no image has");
                }
            }
        }
    }
}

impl Store {
    /// Makes an image visible: its documents and its record are written, synced, and named.
    ///
    /// An image that is there already gets the new names and documents. A tag that another image had moves to this one.
    /// Blocks on the disk.
    pub fn commit_image(&self, new: NewImage) -> Result<Arc<Image>, StoreError> {
        let id = Digest::sha256(&new.config);
        let config = ImageConfig::parse(&new.config, new.layers.len())
            .map_err(|source| StoreError::Config { id: id.clone(), source })?;
        let inner = &self.inner;
        let _writer = inner.writer();
        inner.add_blob(&id, &new.config)?;
        for (digest, bytes) in &new.documents {
            inner.add_blob(digest, bytes)?;
        }
        let documents_size = new.documents.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + new.config.len();
        let image = {
            let state = inner.state();
            if let Some(layer) = new.layers.iter().find(|layer| !state.layers.contains_key(&layer.diff_id)) {
                return Err(StoreError::NoLayer(layer.diff_id.clone()));
            }
            let unique: HashSet<&Digest> = new.layers.iter().map(|layer| &layer.diff_id).collect();
            let layers_size: u64 =
                unique.iter().filter_map(|diff_id| state.layers.get(*diff_id)).map(|info| info.bytes).sum();
            let (tag, repo_digest) = names(&new);
            let known = state.images.get(&id);
            let mut image = Image {
                lowers: inner.lowers(&new.layers, &state.layers),
                tags: known.map_or_else(Vec::new, |known| known.tags.clone()),
                repo_digests: known.map_or_else(Vec::new, |known| known.repo_digests.clone()),
                documents: known.map_or_else(Vec::new, |known| known.documents.clone()),
                layers: new.layers,
                size: layers_size + documents_size as u64,
                pulled: now(),
                config: Arc::new(config),
                pinned: false,
                id,
            };
            add(&mut image.tags, tag);
            add(&mut image.repo_digests, repo_digest);
            for (digest, _) in new.documents {
                image.documents.retain(|known| *known != digest);
                image.documents.push(digest);
            }
            image.pinned = fits_any(&state.pinned, &image);
            Arc::new(image)
        };
        self.write(&image)?;
        self.take_names_from_others(&image)?;
        let mut state = inner.state();
        for layer in &image.layers {
            state.doomed.remove(&layer.diff_id);
        }
        state.names.extend(image.names().map(|name| (name.to_owned(), image.id.clone())));
        state.images.insert(image.id.clone(), image.clone());
        count_files(&mut state);
        Ok(image)
    }

    /// Syncs and names a record.
    fn write(&self, image: &Image) -> Result<(), StoreError> {
        let inner = &self.inner;
        let temporary = inner.stage(image)?;
        // This also covers the names of the layers and the blobs that were renamed before.
        inner.sync.sync()?;
        rename(&temporary, &inner.record(&image.id))?;
        let dir = inner.images_dir();
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|error| StoreError::io("sync", &dir, error))
    }

    /// Where a crash leaves a name with two images, the one pulled last has it.
    fn take_names_from_others(&self, image: &Image) -> Result<(), StoreError> {
        let inner = &self.inner;
        let losers: Vec<Arc<Image>> = {
            let state = inner.state();
            let others = image.tags.iter().filter_map(|tag| state.names.get(tag)).filter(|id| **id != image.id);
            let ids: HashSet<&Digest> = others.collect();
            ids.into_iter().filter_map(|id| state.images.get(id).cloned()).collect()
        };
        for loser in losers {
            let mut without = Image::clone(&loser);
            without.tags.retain(|tag| !image.tags.contains(tag));
            let temporary = inner.stage(&without)?;
            rename(&temporary, &inner.record(&without.id))?;
            let mut state = inner.state();
            without.pinned = fits_any(&state.pinned, &without);
            state.images.insert(without.id.clone(), Arc::new(without));
        }
        Ok(())
    }

    /// Removes an image with all of its names. False if there is none.
    ///
    /// Layers that nothing else has are deleted in the background, those that a lease has when it is released.
    pub fn remove(&self, id: &Digest) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let _writer = inner.writer();
        let path = inner.record(id);
        let Some(image) = inner.state().images.get(id).cloned() else { return Ok(false) };
        fs::remove_file(&path).map_err(|error| StoreError::io("remove", &path, error))?;
        {
            let mut state = inner.state();
            state.images.remove(id);
            state.names.retain(|_, named| named != id);
            state.doomed.extend(image.diff_ids());
        }
        inner.users.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        inner.sweep_blobs();
        count_files(&mut inner.state());
        self.sweep_layers();
        Ok(true)
    }
}

/// The tag and the repo digest that a new image gets.
fn names(new: &NewImage) -> (Option<String>, Option<String>) {
    let Some(reference) = &new.reference else { return (None, None) };
    let resolved = new.documents.first().map(|(digest, _)| reference.pinned_to(digest));
    (reference.tagged(), resolved)
}

fn add(names: &mut Vec<String>, name: Option<String>) {
    if let Some(name) = name.filter(|name| !names.contains(name)) {
        names.push(name);
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| StoreError::io("name", to, error))
}

/// Records, configs and manifests. Few and small, so they are counted anew at each change.
pub(super) fn count_files(state: &mut State) {
    let mut documents: HashSet<&Digest> = HashSet::new();
    for image in state.images.values() {
        documents.extend(image.documents.iter().chain([&image.id]));
    }
    let files = (documents.len() + state.images.len()) as u64;
    state.file_usage = Usage { bytes: files * BLOCK, inodes: files };
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A pattern without `*` is a reference, which is completed as all are.
pub(super) fn pinned_pattern(pattern: &str) -> String {
    if pattern.contains('*') {
        return pattern.to_owned();
    }
    pattern.parse::<Reference>().map_or_else(|_| pattern.to_owned(), |reference| reference.to_string())
}

/// Whether one of an image's names fits one of the patterns.
pub(super) fn fits_any(patterns: &[String], image: &Image) -> bool {
    image.names().any(|name| patterns.iter().any(|pattern| fits(pattern, name)))
}

/// `*` stands for any text, also none.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_patterns() {
        let pause = "registry.k8s.io/pause:3.10";
        for (pattern, fit) in [
            (pause, true),
            ("registry.k8s.io/*", true),
            ("*pause*", true),
            ("*:3.10", true),
            ("r*k8s*3.10", true),
            ("*", true),
            ("registry.k8s.io/pause", false),
            ("pause*", false),
            ("*x*", false),
            ("", false),
        ] {
            assert_eq!(fits(pattern, pause), fit, "{pattern}");
        }
        assert_eq!(pinned_pattern("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(pinned_pattern("nginx*"), "nginx*");
    }
}
