//! `linux.intelRdt`: groups of the resctrl file system, which share caches and memory bandwidth.
//!
//! The directories are made before the container, its process enters by writing `0` to their `tasks` files, and they go
//! when it is deleted, if they were made for it alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;

/// What is in a group's directory, and so no name of one.
const RESERVED: [&str; 3] = ["info", "mon_groups", "mon_data"];

/// Why a container has no group.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// There is no such file system here.
    #[error("linux.intelRdt: no resctrl file system is mounted (mount -t resctrl resctrl /sys/fs/resctrl)")]
    NotMounted,
    /// A field is wrong.
    #[error("linux.intelRdt.{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    /// The kernel refused a step.
    #[error("linux.intelRdt: {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

type Result<T> = std::result::Result<T, ResctrlError>;

/// A mounted resctrl.
#[derive(Clone, Debug)]
pub struct Resctrl(PathBuf);

/// What a container was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// The files that each of its processes writes itself to, in this order.
    pub tasks: Vec<PathBuf>,
    /// Directories that were made for it now, outermost first.
    pub made: Vec<PathBuf>,
}

impl Groups {
    /// Takes back what was made, for a container that never came to be.
    pub fn undo(&self) {
        for path in self.made.iter().rev() {
            // What led here is the error to tell.
            let _ = fs::remove_dir(path);
        }
    }
}

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Result<T> {
    Err(ResctrlError::Invalid { field, reason: reason.into() })
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| ResctrlError::File { path: path.to_owned(), source })
}

impl Resctrl {
    /// Where this machine has it.
    pub fn of_host() -> Result<Self> {
        let table = Path::new("/proc/self/mountinfo");
        Self::in_table(&at(table, fs::read_to_string(table))?).ok_or(ResctrlError::NotMounted)
    }

    fn in_table(mountinfo: &str) -> Option<Self> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = before.split(' ').nth(4)?;
            (after.split(' ').next() == Some("resctrl")).then(|| Self(PathBuf::from(point)))
        })
    }

    /// Makes what the container `id` is to have. On an error nothing is left of it.
    pub fn prepare(&self, asked: &LinuxIntelRdt, id: &str) -> Result<Groups> {
        let mut groups = Groups::default();
        match self.fill(asked, id, &mut groups) {
            Ok(()) => Ok(groups),
            Err(error) => {
                groups.undo();
                Err(error)
            }
        }
    }

    fn fill(&self, asked: &LinuxIntelRdt, id: &str, groups: &mut Groups) -> Result<()> {
        let lines = lines(asked)?;
        let group = self.group(asked, id)?;
        let own = asked.clos_id().is_none();
        let there = group.is_dir();
        match there {
            true if own => return invalid("closID", format!("a group {id:?} is there already; name it to share it")),
            true => {
                let file = group.join("schemata");
                let present = at(&file, fs::read_to_string(&file))?;
                for line in lines.iter().filter(|line| !line.replaces) {
                    compare(line.text, &present)?;
                }
            }
            false if !own && lines.is_empty() => {
                return invalid(
                    "closID",
                    format!("there is no group {}, and no schema to make it with", group.display()),
                );
            }
            false => {
                at(&group, fs::create_dir(&group))?;
                groups.made.push(group.clone());
            }
        }
        let written: Vec<_> = lines.iter().filter(|line| line.replaces || !there).map(|line| line.text).collect();
        if !written.is_empty() {
            let file = group.join("schemata");
            let text = written.join("\n") + "\n";
            let opened = at(&file, fs::OpenOptions::new().write(true).open(&file))?;
            // In one call, so that the kernel takes all or nothing.
            at(&file, rustix::io::write(&opened, text.as_bytes()).map_err(io::Error::from))?;
        }
        groups.tasks = tasks(&group, asked, id);
        if asked.enable_monitoring().unwrap_or(false) {
            let monitor = group.join("mon_groups").join(id);
            at(&monitor, fs::create_dir(&monitor))?;
            groups.made.push(monitor);
        }
        Ok(())
    }

    /// The `tasks` files for one process more of the container `id`.
    pub fn tasks(&self, asked: &LinuxIntelRdt, id: &str) -> Result<Vec<PathBuf>> {
        Ok(tasks(&self.group(asked, id)?, asked, id))
    }

    /// Removes what was made for the container `id` alone; that it is gone already is fine.
    pub fn remove(&self, asked: &LinuxIntelRdt, id: &str) -> Result<()> {
        let group = self.group(asked, id)?;
        let mut gone = Vec::new();
        if asked.enable_monitoring().unwrap_or(false) {
            gone.push(group.join("mon_groups").join(id));
        }
        if asked.clos_id().is_none() {
            gone.push(group);
        }
        for path in gone {
            match fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => at(&path, other)?,
            }
        }
        Ok(())
    }

    /// The directory of a container's class of service.
    fn group(&self, asked: &LinuxIntelRdt, id: &str) -> Result<PathBuf> {
        let name = asked.clos_id().as_deref().unwrap_or(id);
        if name == "/" {
            return Ok(self.0.clone());
        }
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\n', '\0']);
        if !plain || RESERVED.contains(&name) {
            return invalid("closID", format!("{name:?} is no name of a group"));
        }
        Ok(self.0.join(name))
    }
}

fn tasks(group: &Path, asked: &LinuxIntelRdt, id: &str) -> Vec<PathBuf> {
    let monitor = asked.enable_monitoring().unwrap_or(false).then(|| group.join("mon_groups").join(id).join("tasks"));
    [group.join("tasks")].into_iter().chain(monitor).collect()
}

/// A line of the schemata.
struct Line<'a> {
    text: &'a str,
    /// It is written to a group that is there already too; others are only compared.
    replaces: bool,
}

/// In the order in which the specification has them written.
fn lines(asked: &LinuxIntelRdt) -> Result<Vec<Line<'_>>> {
    let single = [
        ("l3CacheSchema", asked.l3_cache_schema().as_deref(), false),
        ("memBwSchema", asked.mem_bw_schema().as_deref(), false),
    ];
    let complete = asked.schemata().iter().flatten().map(|line| ("schemata", Some(line.as_str()), true));
    let mut lines = Vec::new();
    for (field, text, replaces) in single.into_iter().chain(complete) {
        let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
        if text.contains('\n') {
            return invalid(field, format!("{text:?} is more than one line"));
        }
        if field == "memBwSchema" && !text.starts_with("MB:") {
            return invalid(field, format!("{text:?} does not begin with \"MB:\""));
        }
        lines.push(Line { text, replaces });
    }
    Ok(lines)
}

/// "L3:0=7f0;1=1f" as its resource, and what each domain has.
fn parse(line: &str) -> Option<(&str, Vec<(&str, &str)>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let pairs = domains.split(';').map(|pair| pair.split_once('=').map(|(d, v)| (d.trim(), v.trim())));
    Some((resource.trim(), pairs.collect::<Option<_>>()?))
}

/// Whether a group that is there already is as asked for.
fn compare(asked: &str, present: &str) -> Result<()> {
    let Some((resource, domains)) = parse(asked) else {
        return invalid("closID", format!("the schema {asked:?} cannot be compared"));
    };
    let found = present.lines().filter_map(parse).find(|(name, _)| *name == resource);
    let same = |one: &str, other: &str| one.trim_start_matches('0') == other.trim_start_matches('0');
    let agrees = found.is_some_and(|(_, has)| {
        domains.iter().all(|(domain, value)| has.iter().any(|(d, v)| d == domain && same(v, value)))
    });
    if agrees { Ok(()) } else { invalid("closID", format!("the group is there already and has not {asked:?}")) }
}

#[cfg(test)]
mod tests;
