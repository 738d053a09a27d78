//! The table of mount options of the runtime specification.

use super::Result;
use crate::runtime::plan::MountFlags;

/// What one option does.
#[derive(Clone, Copy)]
enum Effect {
    /// `MOUNT_ATTR_*`, on this mount or on all below it too.
    Set(u64, Reach),
    Clear(u64, Reach),
    /// One value of the access time setting, which is no set of bits.
    Atime(u64, Reach),
    Propagate(u64),
    /// A flag of the super block, by the name that fsconfig(2) knows.
    Super(&'static str),
    /// Something that mount(2) has a flag for and that no file system of a container minds.
    Nothing,
    Bind {
        recursive: bool,
    },
    Remount,
    CopyUp,
    IdMap(Reach),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    One,
    All,
}

use Effect::{Atime, Bind, Clear, CopyUp, IdMap, Nothing, Propagate, Remount, Set, Super};
use Reach::{All, One};

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
const RELATIME: u64 = libc::MOUNT_ATTR_RELATIME;
const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

const OPTIONS: &[(&str, Effect)] = &[
    ("async", Super("async")),
    ("atime", Atime(RELATIME, One)),
    ("bind", Bind { recursive: false }),
    ("defaults", Nothing),
    ("dev", Clear(NODEV, One)),
    ("diratime", Clear(NODIRATIME, One)),
    ("dirsync", Super("dirsync")),
    ("exec", Clear(NOEXEC, One)),
    ("idmap", IdMap(One)),
    ("iversion", Nothing),
    ("lazytime", Super("lazytime")),
    ("loud", Nothing),
    ("mand", Super("mand")),
    ("noatime", Atime(NOATIME, One)),
    ("nodev", Set(NODEV, One)),
    ("nodiratime", Set(NODIRATIME, One)),
    ("noexec", Set(NOEXEC, One)),
    ("noiversion", Nothing),
    ("nolazytime", Super("nolazytime")),
    ("nomand", Super("nomand")),
    ("norelatime", Atime(RELATIME, One)),
    ("nostrictatime", Atime(RELATIME, One)),
    ("nosuid", Set(NOSUID, One)),
    ("nosymfollow", Set(NOSYMFOLLOW, One)),
    ("private", Propagate(libc::MS_PRIVATE)),
    ("ratime", Atime(RELATIME, All)),
    ("rbind", Bind { recursive: true }),
    ("rdev", Clear(NODEV, All)),
    ("rdiratime", Clear(NODIRATIME, All)),
    ("relatime", Atime(RELATIME, One)),
    ("remount", Remount),
    ("rexec", Clear(NOEXEC, All)),
    ("ridmap", IdMap(All)),
    ("rnoatime", Atime(NOATIME, All)),
    ("rnodev", Set(NODEV, All)),
    ("rnodiratime", Set(NODIRATIME, All)),
    ("rnoexec", Set(NOEXEC, All)),
    ("rnorelatime", Atime(RELATIME, All)),
    ("rnostrictatime", Atime(RELATIME, All)),
    ("rnosuid", Set(NOSUID, All)),
    ("rnosymfollow", Set(NOSYMFOLLOW, All)),
    ("ro", Set(RDONLY, One)),
    ("rprivate", Propagate(libc::MS_PRIVATE | libc::MS_REC)),
    ("rrelatime", Atime(RELATIME, All)),
    ("rro", Set(RDONLY, All)),
    ("rrw", Clear(RDONLY, All)),
    ("rshared", Propagate(libc::MS_SHARED | libc::MS_REC)),
    ("rslave", Propagate(libc::MS_SLAVE | libc::MS_REC)),
    ("rstrictatime", Atime(STRICTATIME, All)),
    ("rsuid", Clear(NOSUID, All)),
    ("rsymfollow", Clear(NOSYMFOLLOW, All)),
    ("runbindable", Propagate(libc::MS_UNBINDABLE | libc::MS_REC)),
    ("rw", Clear(RDONLY, One)),
    ("shared", Propagate(libc::MS_SHARED)),
    ("silent", Nothing),
    ("slave", Propagate(libc::MS_SLAVE)),
    ("strictatime", Atime(STRICTATIME, One)),
    ("suid", Clear(NOSUID, One)),
    ("symfollow", Clear(NOSYMFOLLOW, One)),
    ("sync", Super("sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagate(libc::MS_UNBINDABLE)),
];

/// The options that `features` lists: those that are no data for the file system.
pub fn known_options() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// The options of one mount, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Some: a bind, recursive or not.
    pub bind: Option<bool>,
    pub remount: bool,
    pub copy_up: bool,
    /// Some: id-mapped, alone or with all below it.
    pub idmap: Option<bool>,
    pub flags: MountFlags,
    /// For the file system.
    pub data: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Reads the options of the mount at `target`; of two that contradict each other the later one counts.
pub(super) fn parse(target: &str, options: &[String]) -> Result<Options> {
    let mut all = Options::default();
    let mut propagations = 0;
    for option in options {
        let field = || format!("mounts {target}: option {option:?}");
        let Ok(found) = OPTIONS.binary_search_by(|(name, _)| (*name).cmp(option)) else {
            let (key, value) = option.split_once('=').map_or((option.as_str(), None), |(k, v)| (k, Some(v)));
            if key.is_empty() || option.contains('\0') {
                return super::invalid(field(), "is no mount option");
            }
            all.data.push((key.into(), value.map(Into::into)));
            continue;
        };
        let flags = &mut all.flags;
        match OPTIONS[found].1 {
            Set(bits, reach) => flags.apply(bits, 0, reach),
            Clear(bits, reach) => flags.apply(0, bits, reach),
            Atime(value, reach) => flags.apply(value, ATIME, reach),
            Propagate(kind) => {
                let Some(place) = flags.propagation.get_mut(propagations) else {
                    return super::invalid(field(), "is one propagation too many");
                };
                *place = kind as u32;
                propagations += 1;
            }
            Super(name) => all.data.push((name.into(), None)),
            Nothing => {}
            Bind { recursive } => all.bind = Some(recursive || all.bind == Some(true)),
            Remount => all.remount = true,
            CopyUp => all.copy_up = true,
            IdMap(reach) => all.idmap = Some(reach == All),
        }
    }
    Ok(all)
}

impl MountFlags {
    fn apply(&mut self, set: u64, clear: u64, reach: Reach) {
        let (all_set, all_clear) = match reach {
            One => (&mut self.set, &mut self.clear),
            All => (&mut self.recursive_set, &mut self.recursive_clear),
        };
        *all_set = *all_set & !clear | set;
        // The access time is cleared as a whole whenever it is set.
        *all_clear = *all_clear & !(set & !ATIME) | clear;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_for_its_search() {
        assert!(OPTIONS.is_sorted_by(|a, b| a.0 < b.0));
    }

    fn parsed(options: &[&str]) -> Options {
        parse("/x", &options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn every_option_that_the_specification_demands_is_known() {
        let must = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime \
            noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate \
            rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable mand nomand symfollow \
            nosymfollow rro rrw rsuid rnosuid rdev rnodev rexec rnoexec rdiratime rnodiratime rrelatime rnorelatime \
            ratime rnoatime rstrictatime rnostrictatime rsymfollow rnosymfollow tmpcopyup";
        for option in must.split_ascii_whitespace() {
            assert!(
                parsed(&[option]).data.iter().all(|(k, _)| matches!(
                    OPTIONS.iter().find(|(n, _)| n.as_bytes() == k.as_slice()),
                    Some((_, Super(_)))
                )),
                "{option}"
            );
        }
    }

    #[test]
    fn the_later_of_two_contradictions_counts() {
        assert_eq!(parsed(&["ro", "rw"]).flags, MountFlags { clear: RDONLY, ..MountFlags::default() });
        assert_eq!(parsed(&["rw", "ro"]).flags, MountFlags { set: RDONLY, ..MountFlags::default() });
        let atime = parsed(&["noatime", "strictatime"]).flags;
        assert_eq!((atime.set, atime.clear), (STRICTATIME, ATIME));
        let atime = parsed(&["noatime", "relatime", "nosuid"]).flags;
        assert_eq!((atime.set, atime.clear), (NOSUID, ATIME));
    }

    #[test]
    fn recursive_forms_are_kept_apart() {
        let flags = parsed(&["rbind", "ro", "rnosuid", "rro"]).flags;
        assert_eq!(flags.set, RDONLY);
        assert_eq!(flags.recursive_set, NOSUID | RDONLY);
    }

    #[test]
    fn unknown_options_are_data_with_or_without_value() {
        let options = parsed(&["mode=0755", "size=64k", "nr_inodes=1=2", "inode64", "sync"]);
        let data: Vec<_> = options
            .data
            .iter()
            .map(|(k, v)| (String::from_utf8_lossy(k), v.as_deref().map(String::from_utf8_lossy)))
            .collect();
        let expected = [
            ("mode", Some("0755")),
            ("size", Some("64k")),
            ("nr_inodes", Some("1=2")),
            ("inode64", None),
            ("sync", None),
        ];
        assert_eq!(data.len(), expected.len());
        for ((k, v), (ek, ev)) in data.iter().zip(expected) {
            assert_eq!((k.as_ref(), v.as_deref()), (ek, ev));
        }
    }

    #[test]
    fn id_mapping_has_two_forms_and_empty_options_are_refused() {
        assert_eq!(parsed(&["bind"]).idmap, None);
        assert_eq!(parsed(&["idmap"]).idmap, Some(false));
        assert_eq!(parsed(&["ridmap"]).idmap, Some(true));
        assert!(parse("/x", &[String::new()]).is_err());
        assert!(parse("/x", &["=x".into()]).is_err());
    }
}
