//! `ContainerConfig` and what is in it.

use std::collections::BTreeMap;

use super::resources::resources;
use super::{id_mapping, id_mapping_view, image, known, security, signal};
use crate::cri::v1;
use crate::cri::validate::{
    ANNOTATIONS_LIMIT, ARGUMENT_LIMIT, At, Checked, Invalid, LABELS_LIMIT, LIST_LIMIT, NAME_LIMIT, absolute, beneath,
    each, name, pairs, quoted, required, text, word,
};
use crate::node::types::{ContainerConfig, ContainerMetadata, Device, EnvVar, Mount, Propagation};

/// A container's config.
pub fn container_config(c: v1::ContainerConfig) -> Checked<ContainerConfig> {
    if c.windows.is_some() {
        return Err(Invalid::of("windows", "this node runs Linux"));
    }
    if !c.working_dir.is_empty() {
        absolute(&c.working_dir).at("working_dir")?;
    }
    pairs(&c.labels, LABELS_LIMIT).at("labels")?;
    pairs(&c.annotations, ANNOTATIONS_LIMIT).at("annotations")?;
    beneath(&c.log_path).at("log_path")?;
    let linux = c.linux.unwrap_or_default();
    let stop_signal = known::<v1::Signal>(c.stop_signal, "signal").at("stop_signal")?;
    Ok(ContainerConfig {
        metadata: required(c.metadata).and_then(metadata).at("metadata")?,
        image: required(c.image).and_then(image::spec).at("image")?,
        command: arguments(c.command).at("command")?,
        args: arguments(c.args).at("args")?,
        working_dir: c.working_dir,
        envs: each(c.envs, LIST_LIMIT, env).at("envs")?,
        mounts: each(c.mounts, LIST_LIMIT, mount).at("mounts")?,
        devices: each(c.devices, LIST_LIMIT, device).at("devices")?,
        labels: c.labels,
        annotations: c.annotations,
        log_path: c.log_path,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        resources: linux.resources.map(resources).transpose().at("linux.resources")?,
        security: security::container_security(linux.security_context.unwrap_or_default())
            .at("linux.security_context")?,
        cdi_devices: each(c.cdi_devices, LIST_LIMIT, |d| cdi_device(&d.name).at("name").map(|()| d.name))
            .at("CDI_devices")?,
        stop_signal: signal::number(stop_signal),
    })
}

/// The arguments of a process. A list may be empty; a process's first word is the caller's to check.
pub fn arguments(list: Vec<String>) -> Checked<Vec<String>> {
    each(list, LIST_LIMIT, |argument| text(&argument, ARGUMENT_LIMIT - 1).map(|()| argument))
}

/// A mount as a status echoes it.
pub fn mount_view(m: &Mount) -> v1::Mount {
    v1::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.readonly,
        selinux_relabel: m.selinux_relabel,
        propagation: match m.propagation {
            Propagation::Private => v1::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
        }
        .into(),
        uid_mappings: m.uid_mappings.iter().map(id_mapping_view).collect(),
        gid_mappings: m.gid_mappings.iter().map(id_mapping_view).collect(),
        recursive_read_only: m.recursive_read_only,
        image: m.image.as_ref().map(image::spec_view),
        image_sub_path: m.image_sub_path.clone(),
        mount_options: m.mount_options.clone(),
    }
}

fn metadata(m: v1::ContainerMetadata) -> Checked<ContainerMetadata> {
    name(&m.name).at("name")?;
    Ok(ContainerMetadata { name: m.name, attempt: m.attempt })
}

/// A value is bytes: only NUL, which would end it early, is wrong in it.
fn env(e: v1::KeyValue) -> Checked<EnvVar> {
    if e.key.is_empty() || e.key.contains(['=', '\0']) {
        return Err(Invalid::of("key", format!("{} is no name of a variable", quoted(&e.key))));
    }
    if e.value.contains(&0) {
        return Err(Invalid::of("value", "has a NUL byte"));
    }
    // KEY=VALUE and the end.
    let bytes = e.key.len() + e.value.len() + 2;
    if bytes > ARGUMENT_LIMIT {
        return Err(Invalid::new(format!("has {bytes} bytes, at most {ARGUMENT_LIMIT} are taken by the kernel")));
    }
    Ok(EnvVar { key: e.key, value: e.value })
}

fn mount(m: v1::Mount) -> Checked<Mount> {
    absolute(&m.container_path).at("container_path")?;
    match &m.image {
        None => absolute(&m.host_path).at("host_path")?,
        Some(_) if !m.host_path.is_empty() => return Err(Invalid::of("host_path", "is set beside image")),
        Some(_) => beneath(&m.image_sub_path).at("image_sub_path")?,
    }
    if m.image.is_none() && !m.image_sub_path.is_empty() {
        return Err(Invalid::of("image_sub_path", "is set without image"));
    }
    let propagation = match known(m.propagation, "propagation").at("propagation")? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if m.recursive_read_only && !m.readonly {
        return Err(Invalid::of("recursive_read_only", "needs readonly"));
    }
    if m.recursive_read_only && propagation != Propagation::Private {
        return Err(Invalid::of("recursive_read_only", "needs PROPAGATION_PRIVATE"));
    }
    Ok(Mount {
        container_path: m.container_path,
        host_path: m.host_path,
        readonly: m.readonly,
        selinux_relabel: m.selinux_relabel,
        propagation,
        uid_mappings: each(m.uid_mappings, LIST_LIMIT, id_mapping).at("uidMappings")?,
        gid_mappings: each(m.gid_mappings, LIST_LIMIT, id_mapping).at("gidMappings")?,
        recursive_read_only: m.recursive_read_only,
        image: m.image.map(image::spec).transpose().at("image")?,
        image_sub_path: m.image_sub_path,
        mount_options: mount_options(m.mount_options).at("mount_options")?,
    })
}

/// The contract allows these three, each once.
fn mount_options(options: Vec<String>) -> Checked<Vec<String>> {
    let mut seen = BTreeMap::new();
    for option in &options {
        if !matches!(option.as_str(), "noexec" | "nodev" | "nosuid") {
            return Err(Invalid::new(format!("{} is none of noexec, nodev, nosuid", quoted(option))));
        }
        if seen.insert(option, ()).is_some() {
            return Err(Invalid::new(format!("{} is there twice", quoted(option))));
        }
    }
    Ok(options)
}

fn device(d: v1::Device) -> Checked<Device> {
    absolute(&d.container_path).at("container_path")?;
    absolute(&d.host_path).at("host_path")?;
    if d.permissions.is_empty() || d.permissions.len() > 3 || !d.permissions.chars().all(|c| "rwm".contains(c)) {
        return Err(Invalid::of("permissions", format!("{} is no choice of r, w and m", quoted(&d.permissions))));
    }
    Ok(Device { container_path: d.container_path, host_path: d.host_path, permissions: d.permissions })
}

/// `vendor.com/class=name`; what it stands for is the node's to find.
fn cdi_device(name: &str) -> Checked {
    word(name, NAME_LIMIT)?;
    let parts = name.split_once('=').and_then(|(kind, device)| Some((kind.split_once('/')?, device)));
    match parts {
        Some(((vendor, class), device)) if !vendor.is_empty() && !class.is_empty() && !device.is_empty() => Ok(()),
        _ => Err(Invalid::new(format!("{} is no name such as \"vendor.com/class=device\"", quoted(name)))),
    }
}
