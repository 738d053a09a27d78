//! The truth about pods and containers: small JSON files, each written whole and renamed into place.
//!
//! | file | what it says | lives |
//! |---|---|---|
//! | `<root>/pods/<id>/pod.json` | what was asked for, and when | until the pod is removed |
//! | `<root>/pods/<id>/network.json` | what the network gave, and what its teardown needs | until the pod is stopped |
//! | `<root>/pods/<id>/stopped.json` | that the pod was stopped | with the pod |
//! | `<root>/containers/<id>/container.json` | what was asked for, and what it was resolved to | until it is removed |
//! | `<root>/containers/<id>/exit.json` | how it ended | with the container |
//! | `<state>/containers/<id>.json` | when it was started | until it ends, or the machine does |
//!
//! Nothing here waits for a disk: a record that power loss cut short is treated as absent, and what it was about can
//! still be removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::NodeError;
use super::external::ExternalRuntime;
use super::spec::{ImageDefaults, ResolvedUser};
use super::types::{ContainerConfig, PodConfig};
use crate::image::digest::Digest;
use crate::image::store::scatter;

/// The version that is written into records; a reader refuses what is newer.
pub const VERSION: u32 = 1;

/// `pod.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodRecord {
    pub version: u32,
    pub id: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Cgroups above its containers' that were not there before it, the deepest first: they go with it.
    pub made_cgroups: Vec<String>,
    /// Where systemd makes the cgroups.
    #[serde(default)]
    pub scope: Option<PodScope>,
    pub config: PodConfig,
    /// What runs its containers, if it is not the built-in runtime.
    #[serde(default)]
    pub external: Option<ExternalRuntime>,
}

/// The unit of systemd that a pod is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodScope {
    pub slice: String,
    pub unit: String,
    /// Its cgroup, from the hierarchy's root.
    pub path: String,
}

/// `stopped.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoppedRecord {
    pub at: i64,
}

/// `container.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub version: u32,
    pub id: String,
    pub pod_id: String,
    pub created_at: i64,
    pub config: ContainerConfig,
    pub image_id: String,
    pub image_ref: String,
    pub image: ImageDefaults,
    pub user: ResolvedUser,
    /// Absolute, or empty.
    pub log_path: String,
    /// A Linux signal number.
    pub stop_signal: i32,
    /// Diff ids of the layers that it stands on: its image's, and those of its image volumes.
    pub layers: Vec<Digest>,
    /// Layer directories of the image, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Directories of the image that are volumes: destination, and directory on the host.
    pub volumes: Vec<(String, PathBuf)>,
    /// Image volumes: the index of the mount, and the directory on the host.
    pub image_volumes: Vec<(usize, PathBuf)>,
    /// From the hierarchy's root.
    pub cgroup: String,
}

/// `<state>/containers/<id>.json`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StartedRecord {
    pub at: i64,
    pub pid: i32,
}

/// `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 0 for a container that never ran.
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
}

/// Where everything of the node is.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub root: PathBuf,
    pub state: PathBuf,
}

impl Dirs {
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn pod(&self, id: &str) -> PathBuf {
        self.root.join("pods").join(id)
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// What of a pod dies with the machine: its socket, its generated files, its shared memory.
    pub fn pod_state(&self, id: &str) -> PathBuf {
        self.state.join("pods").join(id)
    }

    pub fn shim_socket(&self, id: &str) -> PathBuf {
        self.pod_state(id).join("shim.sock")
    }

    pub fn started(&self, id: &str) -> PathBuf {
        self.state.join("containers").join(format!("{id}.json"))
    }

    /// Makes the directories that everything else is in; only root may look inside.
    pub fn prepare(&self) -> io::Result<()> {
        for dir in [self.root.clone(), self.state.clone()] {
            make_dir(&dir, 0o711)?;
        }
        for dir in [self.pods(), self.containers(), self.state.join("pods"), self.state.join("containers")] {
            make_dir(&dir, 0o700)?;
        }
        // Directories that come and go all the time.
        scatter(&self.pods());
        scatter(&self.containers());
        Ok(())
    }
}

/// Makes a directory and its parents, and gives the last one its mode even if it was there.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Writes a record whole: readers see the old one or the new one.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), NodeError> {
    let text = serde_json::to_vec(record).map_err(|cause| NodeError::internal(path.display(), cause))?;
    let partial = path.with_extension("json.new");
    let written = fs::write(&partial, &text).and_then(|()| fs::rename(&partial, path));
    written.map_err(|cause| NodeError::internal(format!("writing {}", path.display()), cause))
}

/// Reads a record; `None` if there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NodeError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(NodeError::internal(format!("reading {}", path.display()), cause)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|cause| NodeError::internal(format!("reading {}", path.display()), cause))
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(NodeError::internal(format!("removing {}", path.display()), cause))
        }
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; it may be gone already. Mounts inside must be gone.
pub fn remove_tree(path: &Path) -> Result<(), NodeError> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(NodeError::internal(format!("removing {}", path.display()), cause))
        }
        _ => Ok(()),
    }
}

/// Names of the entries of a directory; none if it does not exist.
pub fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
