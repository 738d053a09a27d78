//! Images, for pods: pulled with a pod's credentials, listed, removed, and looked up for containers.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::info;

use super::error::{ErrorKind, NodeError, Result};
use super::ids;
use super::index::Node;
use super::settings::Settings;
use super::source::RegistrySource;
use super::spec::ImageDefaults;
use super::types::{ContainerConfig, ImageSpec};
use super::views::{FsUsage, ImageView, PullAuth};
use crate::image::platform::Platform;
use crate::image::pull::{Progress, PullError, Puller};
use crate::image::reference::Reference;
use crate::image::rootfs::copy_up;
use crate::image::store::{Image, Store};
use crate::image::unpack::Limits;
use crate::image::users::UserDb;
use crate::registry::{AuthFields, Credentials, Repository};

/// A pull under way, for those who want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// The reference as it was asked for.
    pub image: String,
    /// Compressed bytes that have come, and how many there will be; both 0 while the manifest is not known.
    pub bytes: u64,
    pub total: u64,
    /// When it began, nanoseconds since the epoch.
    pub started_at: i64,
}

/// What pulls are under way, and how those before went.
#[derive(Debug, Default)]
pub struct Pulls {
    running: Mutex<HashMap<u64, (String, i64, Progress)>>,
    next: AtomicU64,
}

impl Pulls {
    fn begin(&self, image: &str, progress: &Progress) -> Running<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, (image.to_owned(), ids::now(), progress.clone()));
        Running { pulls: self, number }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, (String, i64, Progress)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pull is under way as long as this lives, also when its caller gives it up.
struct Running<'a> {
    pulls: &'a Pulls,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.pulls.lock().remove(&self.number);
    }
}

/// Opens the store and what pulls into it.
pub(super) fn open_store(settings: &Settings) -> Result<(Store, Puller)> {
    let path = settings.root.join("images");
    let store = Store::open(&path).map_err(|cause| NodeError::internal("image store", cause))?;
    for dropped in &store.report().dropped {
        tracing::warn!(path = %dropped.path.display(), reason = %dropped.reason, "an image is incomplete and has to be pulled again");
    }
    let config = &settings.images;
    store.set_pinned(&config.pinned);
    let limits = Limits { layer_bytes: config.max_layer_bytes, entries: config.max_layer_entries, ..Limits::default() };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parallel = if config.parallel_layers == 0 { cores.max(3) } else { config.parallel_layers };
    let puller = Puller::new(store.clone(), limits, parallel);
    Ok((store, puller))
}

impl Node {
    /// `PullImage`: brings an image and gives its id. Dropping the future gives up this caller's interest.
    pub async fn pull_image(&self, image: ImageSpec, auth: Option<PullAuth>) -> Result<String> {
        let name = image.image.as_str();
        let reference: Reference =
            name.parse().map_err(|cause| NodeError::invalid(format!("image \"{name}\": {cause}")))?;
        let credentials = credentials(auth.as_ref(), reference.domain())?;
        let repository = Repository::new(reference.domain(), reference.path())
            .map_err(|cause| NodeError::invalid(format!("image \"{name}\": {cause}")))?;
        let session = self.inner.registry.session(repository, credentials).map_err(|cause| registry_error(&cause))?;
        let progress = Progress::default();
        let _running = self.inner.pulls.begin(name, &progress);
        let began = Instant::now();
        let source = Arc::new(RegistrySource::new(session));
        let pulled = self.inner.puller.pull(source, &reference, &Platform::host(), &progress).await;
        let pulled = pulled.map_err(|cause| pull_error(&cause))?;
        let (_, bytes, _) = progress.total();
        info!(image = name, id = %pulled.id, bytes, seconds = began.elapsed().as_secs_f64(), "image is pulled");
        Ok(pulled.id.to_string())
    }

    /// Pulls under way, the oldest first.
    pub fn pulls(&self) -> Vec<PullProgress> {
        let running = self.inner.pulls.lock();
        let mut pulls: Vec<_> = running
            .values()
            .map(|(image, started_at, progress)| {
                let (bytes, total, _) = progress.total();
                PullProgress { image: image.clone(), bytes, total, started_at: *started_at }
            })
            .collect();
        pulls.sort_by_key(|pull| pull.started_at);
        pulls
    }

    /// `ImageStatus`: `None` for an image that is not here.
    pub fn image_status(&self, image: &ImageSpec) -> Option<ImageView> {
        self.inner.images.find(&image.image).map(|image| view(&image))
    }

    /// `ListImages`, by id.
    pub fn list_images(&self, filter: Option<&ImageSpec>) -> Vec<ImageView> {
        let wanted = filter.map(|spec| spec.image.as_str()).filter(|name| !name.is_empty());
        let mut images = match wanted {
            Some(name) => self.inner.images.find(name).into_iter().collect(),
            None => self.inner.images.images(),
        };
        images.sort_by(|a, b| a.id.cmp(&b.id));
        images.iter().map(|image| view(image)).collect()
    }

    /// `RemoveImage`: with all its names. What runs of it keeps its layers.
    pub async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        let Some(found) = self.inner.images.find(&image.image) else { return Ok(()) };
        let store = self.inner.images.clone();
        let id = found.id.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove(&id)).await;
        removed
            .map_err(|cause| NodeError::internal(format!("removing image {}", found.id), cause))?
            .map_err(|cause| NodeError::internal(format!("removing image {}", found.id), cause))?;
        info!(image = %image.image, id = %found.id, "image is removed");
        Ok(())
    }

    /// `ImageFsInfo`: the filesystem of images, and that of what containers write. Nothing is walked.
    pub fn image_fs_info(&self) -> Result<(Vec<FsUsage>, Vec<FsUsage>)> {
        let usage = self.inner.images.usage();
        let timestamp = ids::now();
        let images = FsUsage {
            timestamp,
            mountpoint: self.inner.images.root().display().to_string(),
            used_bytes: usage.bytes,
            inodes_used: usage.inodes,
        };
        let (bytes, inodes) = self.written();
        let containers = FsUsage {
            timestamp,
            mountpoint: self.inner.dirs.containers().display().to_string(),
            used_bytes: bytes,
            inodes_used: inodes,
        };
        Ok((vec![images], vec![containers]))
    }

    /// What a container is made of.
    pub(super) fn image_for(&self, spec: &ImageSpec) -> Result<Arc<Image>> {
        let found = self.inner.images.find(&spec.image);
        found.ok_or_else(|| {
            let message = format!("image \"{}\" is not here; pull it before a container is made of it", spec.image);
            NodeError::new(ErrorKind::NotFound, message)
        })
    }

    /// The users and groups of an image, read once.
    pub(super) async fn image_users(&self, image: &Arc<Image>) -> Result<Arc<UserDb>> {
        let users = self.inner.images.users(image);
        users.map_err(|cause| NodeError::internal(format!("users of image {}", image.id), cause))
    }

    /// Fills a directory for each volume that the image declares and the request does not.
    pub(super) async fn make_volumes(
        &self,
        image: &Arc<Image>,
        dir: &Path,
        config: &ContainerConfig,
    ) -> Result<Vec<(String, PathBuf)>> {
        let asked: Vec<PathBuf> =
            config.mounts.iter().map(|mount| super::spec::clean_path(&mount.container_path)).collect();
        let mut volumes = Vec::new();
        for (number, destination) in image.config.config.volumes.iter().enumerate() {
            let clean = super::spec::clean_path(destination);
            if !clean.has_root() || asked.contains(&clean) {
                continue;
            }
            let source = dir.join("volumes").join(number.to_string());
            let failed = |cause: &dyn std::fmt::Display| {
                NodeError::internal(format!("volume \"{destination}\" of image {}", image.id), cause)
            };
            std::fs::create_dir_all(&source).map_err(|cause| failed(&cause))?;
            let (from, into, of) = (clean.clone(), source.clone(), image.clone());
            tokio::task::spawn_blocking(move || copy_up(&of, &from, &into))
                .await
                .map_err(|cause| failed(&cause))?
                .map_err(|cause| failed(&cause))?;
            volumes.push((clean.display().to_string(), source));
        }
        Ok(volumes)
    }
}

/// The credentials of a request, for the registry that the image is in; without, none.
fn credentials(auth: Option<&PullAuth>, registry: &str) -> Result<Credentials> {
    let Some(auth) = auth else { return Ok(Credentials::Anonymous) };
    let fields = AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    };
    Credentials::from_fields(&fields, registry).map_err(|cause| NodeError::invalid(cause.to_string()))
}

/// A registry's failure; kubelets know one that may pass by its first word.
fn registry_error(cause: &crate::registry::Error) -> NodeError {
    use crate::registry::ErrorKind as Kind;
    let kind = match cause.kind() {
        Kind::Unavailable | Kind::RateLimited | Kind::Canceled => {
            return NodeError::new(ErrorKind::Known, format!("RegistryUnavailable: {cause}"));
        }
        Kind::NotFound => ErrorKind::NotFound,
        Kind::Unauthorized | Kind::Forbidden => ErrorKind::PermissionDenied,
        Kind::Config => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    NodeError::new(kind, cause.to_string())
}

/// A pull's failure: what the registry said decides its kind, wherever it came up.
fn pull_error(cause: &PullError) -> NodeError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(cause);
    while let Some(error) = next {
        if let Some(registry) = error.downcast_ref::<crate::registry::Error>() {
            let mut found = registry_error(registry);
            if found.kind != ErrorKind::Known {
                found.message = cause.to_string();
            }
            return found;
        }
        next = error.source();
    }
    let kind = match cause {
        PullError::Platform { .. } => ErrorKind::NotFound,
        PullError::NotAnImage { .. } => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    NodeError::new(kind, cause.to_string())
}

/// What a container takes from its image.
pub(super) fn defaults(image: &Image) -> ImageDefaults {
    let config = &image.config.config;
    ImageDefaults {
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        stop_signal: config.stop_signal.clone(),
    }
}

/// `repository@digest` where there is one, else the id.
pub(super) fn image_ref(image: &Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

fn view(image: &Image) -> ImageView {
    let user = image.config.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    let config = serde_json::json!({
        "user": image.config.config.user,
        "env": image.config.config.env,
        "entrypoint": image.config.config.entrypoint,
        "cmd": image.config.config.cmd,
        "labels": image.config.config.labels,
        "layers": image.layers,
    });
    ImageView {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        pinned: image.pinned,
        info: BTreeMap::from([("image".to_owned(), config.to_string())]),
    }
}
