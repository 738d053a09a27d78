//! Users and groups as an image has them, and the `User` that its config names.
//!
//! `etc/passwd` and `etc/group` come from whoever made the image: they are read up to a size, lines that make no sense are
//! left out, and a number that is no id is never taken for another one.

use std::path::Path;

use super::rootfs::{RootfsError, View};
use super::store::Image;

/// Bytes of etc/passwd or etc/group that are read.
const MAX_FILE: u64 = 1 << 20;
/// Lines of them that are kept.
const MAX_ENTRIES: usize = 1 << 16;
/// The highest id that Kubernetes, runc and containerd take.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// Why a user or group is not known.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error("user {0:?} is malformed: user, user:group, uid or uid:gid is expected")]
    Malformed(String),
    #[error("{0:?} is no user or group id: ids are 0 to {MAX_ID}")]
    Range(String),
    #[error("the image has no user {0:?} in etc/passwd")]
    NoUser(String),
    #[error("the image has no group {0:?} in etc/group")]
    NoGroup(String),
}

/// A number or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdOrName {
    Id(u32),
    Name(String),
}

impl IdOrName {
    /// Decimal digits alone are a number. `+0`, `-1` and `0x0` are names, which no sane image has.
    fn parse(text: &str) -> Result<Self, UserError> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let id = text.parse().ok().filter(|id| *id <= MAX_ID);
            return id.map(Self::Id).ok_or_else(|| UserError::Range(text.to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// The `User` of an image's config, or of a request in the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    pub user: IdOrName,
    pub group: Option<IdOrName>,
}

impl UserSpec {
    /// An empty text is root.
    pub fn parse(text: &str) -> Result<Self, UserError> {
        let malformed = || UserError::Malformed(text.to_owned());
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if text.is_empty() {
            return Ok(Self { user: IdOrName::Id(0), group: None });
        }
        if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
            return Err(malformed());
        }
        if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'/') {
            return Err(malformed());
        }
        Ok(Self { user: IdOrName::parse(user)?, group: group.map(IdOrName::parse).transpose()? })
    }
}

/// A line of etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// A line of etc/group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Empty if etc/passwd does not have the uid.
    pub name: String,
    /// `/` if etc/passwd does not say.
    pub home: String,
    /// Of the groups that list the name, in order, without the primary one.
    pub groups: Vec<u32>,
}

/// An image's users and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserDb {
    users: Vec<User>,
    groups: Vec<Group>,
}

impl UserDb {
    /// Reads both files of an image. Missing ones are empty.
    pub fn load(image: &Image) -> Result<Self, UserError> {
        let view = View::open(image.lower_dirs())?;
        let read = |path: &str| view.read(Path::new(path), MAX_FILE).map(Option::unwrap_or_default);
        Ok(Self::parse(&read("etc/passwd")?, &read("etc/group")?))
    }

    /// From the contents of etc/passwd and etc/group.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Self {
        Self {
            users: lines(passwd).filter_map(user).take(MAX_ENTRIES).collect(),
            groups: lines(group).filter_map(self::group).take(MAX_ENTRIES).collect(),
        }
    }

    pub fn user_by_name(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    pub fn user_by_uid(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    pub fn group_by_name(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The ids of the groups that list a user, in the order of the file, each once.
    pub fn groups_of(&self, name: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for group in &self.groups {
            if group.members.iter().any(|member| member == name) && !ids.contains(&group.gid) {
                ids.push(group.gid);
            }
        }
        ids
    }

    /// Who is meant. Names have to be in the image, numbers need not.
    pub fn resolve(&self, spec: &UserSpec) -> Result<Identity, UserError> {
        let (uid, known) = match &spec.user {
            IdOrName::Id(uid) => (*uid, self.user_by_uid(*uid)),
            IdOrName::Name(name) => {
                let user = self.user_by_name(name).ok_or_else(|| UserError::NoUser(name.clone()))?;
                (user.uid, Some(user))
            }
        };
        let gid = match &spec.group {
            None => known.map_or(0, |user| user.gid),
            Some(IdOrName::Id(gid)) => *gid,
            Some(IdOrName::Name(name)) => self.group_by_name(name).ok_or_else(|| UserError::NoGroup(name.clone()))?.gid,
        };
        let mut groups = known.map_or_else(Vec::new, |user| self.groups_of(&user.name));
        groups.retain(|group| *group != gid);
        let home = known.map(|user| user.home.as_str()).filter(|home| home.starts_with('/')).unwrap_or("/");
        Ok(Identity {
            uid,
            gid,
            name: known.map_or_else(String::new, |user| user.name.clone()),
            home: home.to_owned(),
            groups,
        })
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    // Bytes that are no text belong to lines that nobody asks for.
    file.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

/// `name:password:uid:gid:comment:home:shell`
fn user(line: &str) -> Option<User> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
    let home = fields.nth(1).unwrap_or("");
    Some(User { name: name.to_owned(), uid, gid, home: home.to_owned() })
}

/// `name:password:gid:member,member`
fn group(line: &str) -> Option<Group> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let gid = id(fields.nth(1)?)?;
    let members = fields.next().unwrap_or("").split(',').map(str::trim).filter(|member| !member.is_empty());
    Some(Group { name: name.to_owned(), gid, members: members.map(str::to_owned).collect() })
}

fn id(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The highest value means "unchanged" to the kernel.
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbad:x:-1:0::/:\n\
        big:x:4294967295:0::/:\noverflow:x:4294967296:0::/:\nshort:x\n\xff\xfe:x:5:5::/:\nnohome:x:7:7\n#app:x:0:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:app,other\nwheel:x:10:other,app\nwheel2:x:10:app\nbad:x:x:app\n";

    fn resolve(text: &str) -> Result<Identity, UserError> {
        UserDb::parse(PASSWD, GROUP).resolve(&UserSpec::parse(text)?)
    }

    #[test]
    fn resolves_users() {
        let app = Identity { uid: 1000, gid: 1001, name: "app".into(), home: "/home/app".into(), groups: vec![50, 10] };
        assert_eq!(resolve("app").unwrap(), app);
        assert_eq!(resolve("1000").unwrap(), app);
        assert_eq!(resolve("app:staff").unwrap(), Identity { gid: 50, groups: vec![10], ..app.clone() });
        assert_eq!(resolve("app:7").unwrap(), Identity { gid: 7, ..app });
        let root = resolve("").unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        let unknown = resolve("12345").unwrap();
        assert_eq!(unknown, Identity { uid: 12345, gid: 0, name: String::new(), home: "/".into(), groups: vec![] });
        assert_eq!(resolve("nohome").unwrap().home, "/");
        assert_eq!(resolve("00").unwrap().uid, 0);
    }

    #[test]
    fn numbers_never_wrap() {
        for text in [
            "4294967296",
            "4294967295",
            "2147483648",
            "65536:4294967296",
            "18446744073709551616",
            "99999999999999999999:0",
        ] {
            assert!(matches!(resolve(text), Err(UserError::Range(_))), "{text}");
        }
        // CVE-2024-40635: these were read as numbers, and as root.
        for text in ["+0", "-0", "-1", "0x0", "1e3", "٣", "overflow", "bad", "big", "#app"] {
            assert!(matches!(resolve(text), Err(UserError::NoUser(_))), "{text}");
        }
        assert!(matches!(resolve("65536:-1"), Err(UserError::NoGroup(_))));
        assert!(matches!(resolve("app:bad"), Err(UserError::NoGroup(_))));
        for text in [":", ":0", "0:", "a:b:c", " 0", "0 ", "a\nb", "../x", "a\0"] {
            assert!(matches!(resolve(text), Err(UserError::Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn stays_within_bounds() {
        let many = "u:x:1:1::/:\n".repeat(MAX_ENTRIES + 10);
        assert_eq!(UserDb::parse(many.as_bytes(), b"").users.len(), MAX_ENTRIES);
        let db = UserDb::parse(b"", b"");
        assert_eq!(db.resolve(&UserSpec::parse("0").unwrap()).unwrap().uid, 0);
        assert_eq!(db.groups_of("x"), [0_u32; 0]);
    }
}
