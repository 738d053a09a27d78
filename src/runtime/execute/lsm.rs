//! Labels of the security modules, for the program that is executed at the end.
//!
//! The files are opened before anything of the container is in reach, and written when it is nearly over: what the
//! runtime itself still does is not the program's to be allowed.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::context::{Context, Step, show};
use super::procfs::Procfs;
use super::status::{Notice, Stage};
use crate::runtime::plan::ProcessPlan;

/// A file of /proc/self/attr, and what is written to it.
#[derive(Debug)]
struct Attribute {
    file: OwnedFd,
    value: Vec<u8>,
    field: &'static str,
    label: Vec<u8>,
}

/// What the program gets.
#[derive(Debug, Default)]
pub(super) struct Labels(Vec<Attribute>);

impl Labels {
    /// The procfs of the host, if there is anything to write: before it is out of reach.
    pub fn procfs(plan: &ProcessPlan) -> Step<Option<Procfs>> {
        if plan.apparmor.is_none() && plan.selinux.is_none() {
            return Ok(None);
        }
        Procfs::of_host().at(Stage::Security, || "find a procfs to write labels to".into()).map(Some)
    }

    /// Opens what will be written, by the very process that writes it. Keys that are made from here on have the label of
    /// the program.
    pub fn open(plan: &ProcessPlan, procfs: Option<Procfs>) -> Step<Self> {
        let mut labels = Self::default();
        let Some(procfs) = procfs else { return Ok(labels) };
        if let Some(profile) = &plan.apparmor {
            let field = "process.apparmorProfile";
            let file = match open(&procfs, "attr/apparmor/exec") {
                // Before 5.1 the modules shared one file.
                Err(Errno::NOENT) => open(&procfs, "attr/exec"),
                other => other,
            };
            let file = file.at(Stage::Security, || format!("{field}: reach AppArmor"))?;
            let value = [b"exec ", profile.as_slice()].concat();
            labels.0.push(Attribute { file, value, field, label: profile.clone() });
        }
        if let Some(label) = &plan.selinux {
            let field = "process.selinuxLabel";
            let reach = || format!("{field}: reach SELinux");
            let keys = open(&procfs, "attr/keycreate").at(Stage::Security, reach)?;
            Attribute { file: keys, value: label.clone(), field, label: label.clone() }.write()?;
            let file = open(&procfs, "attr/exec").at(Stage::Security, reach)?;
            labels.0.push(Attribute { file, value: label.clone(), field, label: label.clone() });
        }
        Ok(labels)
    }

    /// From the next execve(2) on.
    pub fn apply(self) -> Step<()> {
        self.0.iter().try_for_each(Attribute::write)
    }
}

/// A module takes the writes of a thread to its own files only.
fn open(procfs: &Procfs, path: &str) -> Result<OwnedFd, Errno> {
    procfs.open(&[b"thread-self/", path.as_bytes()].concat(), OFlags::WRONLY)
}

impl Attribute {
    fn write(&self) -> Step<()> {
        let Err(error) = rustix::io::write(&self.file, &self.value) else { return Ok(()) };
        let label = show(&self.label);
        let detail = match error {
            Errno::NOENT => format!("{}: no profile {label:?} is loaded in AppArmor", self.field),
            Errno::INVAL => format!("{}: {label:?} is refused by the policy that is loaded", self.field),
            _ => format!("{}: apply {label:?}", self.field),
        };
        Err(Notice { stage: Stage::Security, errno: error.raw_os_error(), detail })
    }
}
