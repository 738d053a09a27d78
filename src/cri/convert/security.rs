//! Security contexts of pods and containers, and the namespaces that they ask for.

use super::{id_mapping, id_mapping_view, known};
use crate::cri::v1;
use crate::cri::validate::{
    At, Checked, Invalid, LIST_LIMIT, NAME_LIMIT, PATH_LIMIT, absolute, each, id, line, named, quoted, text, within,
};
use crate::node::types::{
    Capabilities, ContainerSecurity, GroupsPolicy, NamespaceMode, NamespaceOptions, PodSecurity, SeLinuxOptions,
    SecurityProfile, UserNamespace,
};
use crate::runtime::compile::CAPABILITY_NAMES;

/// Ids of users and groups; the last one means "none" to the kernel.
const IDS: std::ops::RangeInclusive<i64> = 0..=(u32::MAX as i64 - 1);

/// `LinuxSandboxSecurityContext`.
pub fn pod_security(s: v1::LinuxSandboxSecurityContext) -> Checked<PodSecurity> {
    let run_as_user = user(s.run_as_user).at("run_as_user")?;
    let run_as_group = user(s.run_as_group).at("run_as_group")?;
    // A group without a user is no error here: no process of the pod's own would have it.
    let namespaces = namespaces(s.namespace_options.unwrap_or_default()).at("namespace_options")?;
    if namespaces.pid == NamespaceMode::Target {
        return Err(Invalid::of("namespace_options.pid", "TARGET is for containers only"));
    }
    #[expect(deprecated)] // What kubelets before `seccomp` sent.
    let seccomp = seccomp(s.seccomp, &s.seccomp_profile_path)?;
    Ok(PodSecurity {
        namespaces,
        selinux: s.selinux_options.map(selinux).transpose().at("selinux_options")?,
        run_as_user,
        run_as_group,
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: groups(s.supplemental_groups)?,
        groups_policy: policy(s.supplemental_groups_policy)?,
        privileged: s.privileged,
        seccomp,
        apparmor: s.apparmor.map(apparmor).transpose().at("apparmor")?,
    })
}

/// `LinuxContainerSecurityContext`.
pub fn container_security(s: v1::LinuxContainerSecurityContext) -> Checked<ContainerSecurity> {
    let run_as_user = user(s.run_as_user).at("run_as_user")?;
    let run_as_group = user(s.run_as_group).at("run_as_group")?;
    text(&s.run_as_username, NAME_LIMIT).at("run_as_username")?;
    if run_as_user.is_some() && !s.run_as_username.is_empty() {
        return Err(Invalid::of("run_as_username", "is set beside run_as_user"));
    }
    if run_as_group.is_some() && run_as_user.is_none() && s.run_as_username.is_empty() {
        return Err(Invalid::of("run_as_group", "is set without run_as_user or run_as_username"));
    }
    #[expect(deprecated)] // What kubelets before `seccomp` and `apparmor` sent.
    let (seccomp, apparmor) =
        (seccomp(s.seccomp, &s.seccomp_profile_path)?, container_apparmor(s.apparmor, &s.apparmor_profile)?);
    Ok(ContainerSecurity {
        capabilities: capabilities(s.capabilities.unwrap_or_default()).at("capabilities")?,
        privileged: s.privileged,
        namespaces: namespaces(s.namespace_options.unwrap_or_default()).at("namespace_options")?,
        selinux: s.selinux_options.map(selinux).transpose().at("selinux_options")?,
        run_as_user,
        run_as_username: s.run_as_username,
        run_as_group,
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: groups(s.supplemental_groups)?,
        groups_policy: policy(s.supplemental_groups_policy)?,
        no_new_privs: s.no_new_privs,
        masked_paths: paths(s.masked_paths).at("masked_paths")?,
        readonly_paths: paths(s.readonly_paths).at("readonly_paths")?,
        seccomp,
        apparmor,
    })
}

/// `NamespaceOption` as a status echoes it.
pub fn namespaces_view(n: &NamespaceOptions) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: mode_view(n.network).into(),
        pid: mode_view(n.pid).into(),
        ipc: mode_view(n.ipc).into(),
        target_id: n.target_id.clone(),
        userns_options: n.userns.as_ref().map(|u| v1::UserNamespace {
            mode: if u.pod { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Node }.into(),
            uids: u.uids.iter().map(id_mapping_view).collect(),
            gids: u.gids.iter().map(id_mapping_view).collect(),
        }),
    }
}

fn namespaces(n: v1::NamespaceOption) -> Checked<NamespaceOptions> {
    let network = mode(n.network).at("network")?;
    let ipc = mode(n.ipc).at("ipc")?;
    let pid = mode(n.pid).at("pid")?;
    if matches!(network, NamespaceMode::Container | NamespaceMode::Target) {
        return Err(Invalid::of("network", "is the pod's or the node's"));
    }
    if ipc == NamespaceMode::Target {
        return Err(Invalid::of("ipc", "TARGET is for pid only"));
    }
    if pid == NamespaceMode::Target {
        id(&n.target_id).at("target_id")?;
    } else if !n.target_id.is_empty() {
        return Err(Invalid::of("target_id", "is set, but pid is not TARGET"));
    }
    let userns = n.userns_options.map(userns).transpose().at("userns_options")?;
    Ok(NamespaceOptions { network, pid, ipc, target_id: n.target_id, userns })
}

fn mode(value: i32) -> Checked<NamespaceMode> {
    Ok(match known(value, "namespace mode")? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => NamespaceMode::Target,
    })
}

fn mode_view(mode: NamespaceMode) -> v1::NamespaceMode {
    match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target => v1::NamespaceMode::Target,
    }
}

/// A user namespace has one range of users and one of groups, and both begin with the container's root.
fn userns(u: v1::UserNamespace) -> Checked<UserNamespace> {
    let pod = match known(u.mode, "namespace mode").at("mode")? {
        v1::NamespaceMode::Pod => true,
        v1::NamespaceMode::Node => false,
        v1::NamespaceMode::Container | v1::NamespaceMode::Target => {
            return Err(Invalid::of("mode", "a user namespace is the pod's or the node's"));
        }
    };
    let mapped = |field: &str, ids: Vec<v1::IdMapping>| {
        let ids = each(ids, LIST_LIMIT, id_mapping).at(field)?;
        match (pod, ids.as_slice()) {
            (false, []) => Ok(ids),
            (false, _) => Err(Invalid::of(field, "the node's user namespace takes no mapping")),
            (true, [one]) if one.container_id == 0 => Ok(ids),
            (true, [_]) => Err(Invalid::of(field, "id 0 of the container is not mapped")),
            (true, _) => Err(Invalid::of(field, format!("one mapping is needed, {} are there", ids.len()))),
        }
    };
    Ok(UserNamespace { pod, uids: mapped("uids", u.uids)?, gids: mapped("gids", u.gids)? })
}

fn user(value: Option<v1::Int64Value>) -> Checked<Option<i64>> {
    let Some(v1::Int64Value { value }) = value else { return Ok(None) };
    within(value, IDS, "")?;
    Ok(Some(value))
}

fn groups(groups: Vec<i64>) -> Checked<Vec<i64>> {
    // What setgroups(2) takes is more than any pod needs.
    each(groups, 65_536, |group| within(group, IDS, "").map(|()| group)).at("supplemental_groups")
}

fn policy(value: i32) -> Checked<GroupsPolicy> {
    Ok(match known(value, "policy").at("supplemental_groups_policy")? {
        v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn selinux(s: v1::SeLinuxOption) -> Checked<SeLinuxOptions> {
    for (field, value) in [("user", &s.user), ("role", &s.role), ("type", &s.r#type), ("level", &s.level)] {
        line(value, NAME_LIMIT).at(field)?;
    }
    Ok(SeLinuxOptions { user: s.user, role: s.role, kind: s.r#type, level: s.level })
}

/// A seccomp profile, or what its deprecated path says. `None` is unconfined.
fn seccomp(profile: Option<v1::SecurityProfile>, path: &str) -> Checked<Option<SecurityProfile>> {
    let local = |path: &str| absolute(path).map(|()| SecurityProfile::Localhost(path.to_owned()));
    let Some(profile) = profile else {
        return Ok(match path {
            "" => None,
            "runtime/default" | "docker/default" => Some(SecurityProfile::RuntimeDefault),
            "unconfined" => Some(SecurityProfile::Unconfined),
            path => match path.strip_prefix("localhost/") {
                Some(path) => Some(local(path).at("seccomp_profile_path")?),
                None => {
                    return Err(Invalid::of("seccomp_profile_path", format!("{} is no profile", quoted(path))));
                }
            },
        });
    };
    profile_of(profile, local).at("seccomp").map(Some)
}

fn apparmor(profile: v1::SecurityProfile) -> Checked<SecurityProfile> {
    profile_of(profile, apparmor_local)
}

fn container_apparmor(profile: Option<v1::SecurityProfile>, name: &str) -> Checked<Option<SecurityProfile>> {
    if let Some(profile) = profile {
        return apparmor(profile).at("apparmor").map(Some);
    }
    Ok(match name {
        "" => None,
        "runtime/default" => Some(SecurityProfile::RuntimeDefault),
        "unconfined" => Some(SecurityProfile::Unconfined),
        name if name.starts_with("localhost/") => Some(apparmor_local(name).at("apparmor_profile")?),
        name => return Err(Invalid::of("apparmor_profile", format!("{} is no profile", quoted(name)))),
    })
}

/// Kubelets have sent the name with and without the prefix.
fn apparmor_local(name: &str) -> Checked<SecurityProfile> {
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    named(name, PATH_LIMIT).and_then(|()| line(name, PATH_LIMIT))?;
    if name.trim() != name {
        return Err(Invalid::new(format!("{} begins or ends with a blank", quoted(name))));
    }
    Ok(SecurityProfile::Localhost(name.to_owned()))
}

fn profile_of(
    profile: v1::SecurityProfile,
    local: impl Fn(&str) -> Checked<SecurityProfile>,
) -> Checked<SecurityProfile> {
    use v1::security_profile::ProfileType;
    Ok(match known(profile.profile_type, "profile type").at("profile_type")? {
        ProfileType::Localhost => local(&profile.localhost_ref).at("localhost_ref")?,
        _ if !profile.localhost_ref.is_empty() => {
            return Err(Invalid::of("localhost_ref", "is set, but the profile is not Localhost"));
        }
        ProfileType::RuntimeDefault => SecurityProfile::RuntimeDefault,
        ProfileType::Unconfined => SecurityProfile::Unconfined,
    })
}

fn paths(paths: Vec<String>) -> Checked<Vec<String>> {
    each(paths, LIST_LIMIT, |path| absolute(&path).map(|()| path))
}

fn capabilities(c: v1::Capability) -> Checked<Capabilities> {
    let list = |names: Vec<String>, field: &str| each(names, LIST_LIMIT, |name| capability(&name)).at(field);
    Ok(Capabilities {
        add: list(c.add_capabilities, "add_capabilities")?,
        drop: list(c.drop_capabilities, "drop_capabilities")?,
        add_ambient: list(c.add_ambient_capabilities, "add_ambient_capabilities")?,
    })
}

/// A capability's name as the domain has it: upper case, without `CAP_`. Manifests have it in all ways.
fn capability(name: &str) -> Checked<String> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" || CAPABILITY_NAMES.contains(&plain) {
        return Ok(plain.to_owned());
    }
    Err(Invalid::new(format!("{} is no capability", quoted(name))))
}
