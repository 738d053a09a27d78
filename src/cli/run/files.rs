//! What a pod without a kubelet needs on disk: a directory for its logs and its emptyDirs.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::convert::Surroundings;
use super::manifest::{HostPath, Pod};
use crate::cri::v1::PodSandbox;

/// Where `orlop run` keeps files.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct RunDir {
    /// Where the logs and emptyDir volumes of pods from `orlop run` are
    #[arg(long = "run-dir", env = "ORLOP_RUN_DIR", default_value = "/var/lib/orlop-run", value_name = "DIR")]
    base: PathBuf,
}

impl RunDir {
    /// The directory of the pod with this uid. `None` for a uid that `orlop run` did not make: it could name any place.
    fn of(&self, uid: &str) -> Option<PathBuf> {
        let made = uid.len() == 36 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        made.then(|| self.base.join(uid))
    }
}

/// What a new pod finds around it.
///
/// # Errors
/// The system has no randomness, or the directory is not an absolute path.
pub(super) fn surroundings(dir: &RunDir) -> anyhow::Result<Surroundings> {
    if !dir.base.is_absolute() {
        bail!("--run-dir {} is not an absolute path", dir.base.display());
    }
    let uid = random_uid()?;
    let dir = dir.of(&uid).context("a uid of our own has its form")?;
    // A node without it resolves nothing, and neither does the pod.
    let host_resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Ok(Surroundings { uid, dir, host_resolv_conf })
}

/// A random (version 4) UUID, as a Kubernetes uid is.
fn random_uid() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Makes the directories that the pod will use, and checks its hostPaths.
///
/// # Errors
/// Names the path.
pub(super) fn make(pod: &Pod, around: &Surroundings) -> anyhow::Result<()> {
    let made = |path: &Path| format!("{} cannot be made", path.display());
    // Logs may hold secrets, and an emptyDir can be written by every user: nobody else comes in here. Containers do not
    // come this way, they have the directories mounted.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&around.dir).with_context(|| made(&around.dir))?;
    for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
        let path = around.log_directory().join(&container.name);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).with_context(|| made(&path))?;
    }
    for volume in &pod.spec.volumes {
        if let Some(host) = &volume.host_path {
            host_path(host).with_context(|| format!("volume \"{}\": hostPath {}", volume.name, host.path))?;
        }
        if volume.empty_dir.is_some() {
            let path = around.empty_dir(&volume.name);
            fs::create_dir_all(&path).with_context(|| made(&path))?;
            // Whatever user a container has must be able to write there; with fsGroup, files are that group's.
            let group = pod.spec.security_context.fs_group;
            std::os::unix::fs::chown(&path, None, group).with_context(|| made(&path))?;
            let mode = if group.is_some() { 0o2777 } else { 0o777 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn host_path(host: &HostPath) -> anyhow::Result<()> {
    let path = Path::new(&host.path);
    if !path.is_absolute() {
        bail!("is not an absolute path");
    }
    match host.kind.as_str() {
        "" => {}
        "DirectoryOrCreate" => fs::create_dir_all(path)?,
        "Directory" if path.is_dir() => {}
        "File" if path.is_file() => {}
        kind @ ("Directory" | "File") => bail!("is no {kind}"),
        kind => bail!("type {kind} is not supported by `orlop run`"),
    }
    Ok(())
}

/// Removes the files of a pod, if `orlop run` made it.
///
/// # Errors
/// Names the directory that cannot be removed.
pub(in crate::cli) fn remove_files(dir: &RunDir, pod: &PodSandbox) -> anyhow::Result<()> {
    pod.metadata.as_ref().map_or(Ok(()), |metadata| remove(dir, &metadata.uid))
}

/// As [`remove_files`], by uid.
pub(super) fn remove(dir: &RunDir, uid: &str) -> anyhow::Result<()> {
    let Some(path) = dir.of(uid) else { return Ok(()) };
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
