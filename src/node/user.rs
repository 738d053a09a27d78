//! Who a container's process is: from what was asked for and what the image says to numbers.
//!
//! Numbers are never guessed: what is out of range, or a name that the image does not know, is an error, for a
//! wrapped number can be root's (CVE-2024-40635).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{NodeError, Result};
use super::index::Node;
use super::spec::ResolvedUser;
use super::types::{ContainerConfig, ContainerSecurity, GroupsPolicy};
use crate::image::store::Image;
use crate::image::users::UserDb;

impl Node {
    /// Resolves the user of a container of this image.
    pub(super) async fn resolve_user(&self, image: &Arc<Image>, config: &ContainerConfig) -> Result<ResolvedUser> {
        let users = self.image_users(image).await?;
        resolve(&config.security, image.config.config.user.as_str(), &users)
            .map_err(|cause| NodeError::invalid(format!("container \"{}\": {cause}", config.metadata.name)))
    }
}

/// The user part: a number or a name.
fn resolve(
    security: &ContainerSecurity,
    image_user: &str,
    users: &UserDb,
) -> std::result::Result<ResolvedUser, String> {
    let (user_text, group_text) = match image_user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (image_user, ""),
    };
    let asked_user = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => Some(id(uid)?.to_string()),
        (None, "") => None,
        (None, name) => Some(name.to_owned()),
    };
    // The image's group goes with the image's user only.
    let (user, image_group) = match &asked_user {
        Some(user) => (user.as_str(), ""),
        None => (user_text, group_text),
    };
    let (uid, entry) = find_user(user, users)?;
    let gid = match security.run_as_group {
        Some(gid) => id(gid)?,
        None if !image_group.is_empty() => find_group(image_group, users)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = BTreeSet::from([gid]);
    if security.groups_policy == GroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        groups.extend(users.groups_of(&entry.name));
    }
    for group in &security.supplemental_groups {
        groups.insert(id(*group)?);
    }
    Ok(ResolvedUser { uid, gid, groups: groups.into_iter().collect(), home: entry.map(|entry| entry.home) })
}

/// A user of the image's database.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    gid: u32,
    home: String,
}

fn find_user(text: &str, users: &UserDb) -> std::result::Result<(u32, Option<Entry>), String> {
    let text = if text.is_empty() { "0" } else { text };
    if let Some(uid) = number(text)? {
        let entry = users.user_by_uid(uid);
        let entry = entry.map(|user| Entry { name: user.name.clone(), gid: user.gid, home: user.home.clone() });
        return Ok((uid, entry));
    }
    let user = users
        .user_by_name(text)
        .ok_or_else(|| format!("user \"{text}\" is not in /etc/passwd of the image; give a number, or add it there"))?;
    Ok((user.uid, Some(Entry { name: user.name.clone(), gid: user.gid, home: user.home.clone() })))
}

fn find_group(text: &str, users: &UserDb) -> std::result::Result<u32, String> {
    if let Some(gid) = number(text)? {
        return Ok(gid);
    }
    let missing = || format!("group \"{text}\" is not in /etc/group of the image; give a number, or add it there");
    users.group_by_name(text).map(|group| group.gid).ok_or_else(missing)
}

/// `None` for a name. What looks like a number must be one that can be an id.
fn number(text: &str) -> std::result::Result<Option<u32>, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    // A sign is nothing that an image means well: "+0" is root to those who do not look for it.
    let value = text.parse().ok().filter(|_: &i64| digits == text);
    id(value.ok_or_else(|| format!("\"{text}\" is no id: ids are 0 to {}", i32::MAX))?).map(Some)
}

/// The kernel's ids are 32 bits, but the upper half means trouble everywhere; CRI's own limit is the same.
fn id(value: i64) -> std::result::Result<u32, String> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= i32::MAX as u32)
        .ok_or_else(|| format!("{value} is no id: ids are 0 to {}", i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:web,other\nshared:x:50:web\nwheel:x:10:root\n";

    fn with(security: ContainerSecurity, image_user: &str) -> std::result::Result<ResolvedUser, String> {
        resolve(&security, image_user, &UserDb::parse(PASSWD.as_bytes(), GROUP.as_bytes()))
    }

    #[test]
    fn the_image_names_user_and_group() {
        let user = with(ContainerSecurity::default(), "web").unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (33, 34, [4, 34, 50].as_slice()));
        assert_eq!(user.home.as_deref(), Some("/srv"));
        let user = with(ContainerSecurity::default(), "33:shared").unwrap();
        assert_eq!((user.uid, user.gid), (33, 50));
        let root = with(ContainerSecurity::default(), "").unwrap();
        assert_eq!((root.uid, root.gid, root.groups.as_slice()), (0, 0, [0, 10].as_slice()));
    }

    #[test]
    fn the_request_goes_before_the_image() {
        let security = ContainerSecurity { run_as_user: Some(1000), ..ContainerSecurity::default() };
        let user = with(security.clone(), "33:34").unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (1000, 0, [0].as_slice()));
        let user = with(ContainerSecurity { run_as_group: Some(2000), ..security }, "").unwrap();
        assert_eq!((user.gid, user.groups.as_slice()), (2000, [2000].as_slice()));
        let named = ContainerSecurity { run_as_username: "web".into(), ..ContainerSecurity::default() };
        assert_eq!(with(named, "").unwrap().uid, 33);
    }

    #[test]
    fn strict_leaves_out_the_groups_of_the_image() {
        let security = ContainerSecurity {
            groups_policy: GroupsPolicy::Strict,
            supplemental_groups: vec![7, 34],
            ..ContainerSecurity::default()
        };
        assert_eq!(with(security, "web").unwrap().groups, [7, 34]);
    }

    #[test]
    fn what_is_no_id_is_never_root() {
        for text in
            ["4294967296", "2147483648", "-1", "65536:-1", "+0", "99999999999999999999", "nobody", "web:nogroup"]
        {
            assert!(with(ContainerSecurity::default(), text).is_err(), "{text}");
        }
        let negative = ContainerSecurity { run_as_user: Some(-1), ..ContainerSecurity::default() };
        assert!(with(negative, "").is_err());
    }
}
