//! Images as volumes: mounted once a pod below its state, read-only, and bound into the containers that ask for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ErrorKind, NodeError, Result};
use super::index::Node;
use super::pod::Pod;
use super::records;
use super::types::{ContainerConfig, Mount};
use crate::image::rootfs::{attach, directory};
use crate::image::store::{Image, Lease};

/// The directory in a pod's state that they are mounted in.
pub(super) const DIRECTORY: &str = "images";

impl Node {
    /// Says for each image volume of a request which image it is: what a status tells, and what makes two requests
    /// the same.
    pub(super) fn name_volumes(&self, config: &mut ContainerConfig) -> Result<()> {
        for mount in &mut config.mounts {
            let image = self.volume_image(mount)?;
            if let (Some(spec), Some(image)) = (&mut mount.image, image) {
                spec.image_ref = image.id.to_string();
            }
        }
        Ok(())
    }

    /// Mounts the image volumes of a container, and gives for each the index of its mount and its directory on the
    /// host. `lease` comes to keep their layers too.
    pub(super) fn mount_volumes(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
        lease: &mut Lease,
    ) -> Result<Vec<(usize, PathBuf)>> {
        let mut volumes = Vec::new();
        for (index, mount) in config.mounts.iter().enumerate() {
            let Some(image) = self.volume_image(mount)? else { continue };
            lease.merge(self.inner.images.lease(&image).map_err(|cause| failed(mount, &cause))?);
            let attached = self.attach_image(pod, mount, &image)?;
            let inside = Path::new(&mount.image_sub_path);
            volumes.push((index, directory(&attached, inside).map_err(|cause| failed(mount, &cause))?));
        }
        Ok(volumes)
    }

    /// The image that a mount asks for, if it asks for one.
    fn volume_image(&self, mount: &Mount) -> Result<Option<Arc<Image>>> {
        let Some(spec) = &mount.image else { return Ok(None) };
        if !mount.readonly {
            let message = format!("mount on \"{}\": an image can only be mounted with readonly", mount.container_path);
            return Err(NodeError::invalid(message));
        }
        let found = self.inner.images.find(&spec.image);
        found.map(Some).ok_or_else(|| failed(mount, &format!("image \"{}\" is not here; pull it first", spec.image)))
    }

    fn attach_image(&self, pod: &Pod, mount: &Mount, image: &Image) -> Result<PathBuf> {
        let target = self.inner.dirs.pod_state(&pod.id).join(DIRECTORY).join(image.id.hex());
        if target.exists() {
            return Ok(target);
        }
        records::make_dir(&target, 0o700).map_err(|cause| failed(mount, &cause))?;
        attach(image, &target).map_err(|cause| {
            // Without its directory the next try begins anew.
            let _ = std::fs::remove_dir(&target);
            failed(mount, &cause)
        })?;
        Ok(target)
    }
}

/// Kubelets know this one by its first word.
fn failed(mount: &Mount, cause: &dyn std::fmt::Display) -> NodeError {
    let message = format!("ImageVolumeMountFailed: mount on \"{}\": {cause}", mount.container_path);
    NodeError::new(ErrorKind::Known, message)
}
