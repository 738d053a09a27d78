//! The program: found, and executed.

use std::ffi::{CStr, CString};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, statat};
use rustix::io::Errno;

use super::context::{Step, show};
use super::status::{Notice, Stage};
use crate::runtime::plan::ProcessPlan;
use crate::runtime::sys::process::{CStringArray, execute};

/// Everything that execve(2) needs, laid out before the process gives up what it may not have.
#[derive(Debug)]
pub(super) struct Program {
    name: Vec<u8>,
    /// Where to try, in order.
    candidates: Vec<CString>,
    args: CStringArray,
    env: CStringArray,
}

pub(super) fn c_string(bytes: &[u8], stage: Stage) -> Step<CString> {
    CString::new(bytes).map_err(|_| Notice {
        stage,
        errno: 0,
        detail: format!("{:?} contains a NUL byte", show(bytes)),
    })
}

impl Program {
    pub fn new(plan: &ProcessPlan) -> Step<Self> {
        let strings =
            |list: &[Vec<u8>]| list.iter().map(|s| c_string(s, Stage::Execute)).collect::<Step<Vec<CString>>>();
        let name = plan.args.first().cloned().unwrap_or_default();
        let candidates = if name.contains(&b'/') {
            vec![c_string(&name, Stage::Execute)?]
        } else {
            let path = plan.env.iter().rev().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or_default();
            path.split(|&b| b == b':')
                .filter(|directory| !directory.is_empty() && !name.is_empty())
                .map(|directory| c_string(&[directory, b"/", &name].concat(), Stage::Execute))
                .collect::<Step<_>>()?
        };
        Ok(Self {
            name,
            candidates,
            args: CStringArray::new(strings(&plan.args)?),
            env: CStringArray::new(strings(&plan.env)?),
        })
    }

    /// Executes the first candidate that is there, and returns only with the reason why none is.
    ///
    /// Nothing is looked up before: the kernel's own answer, as the user that it is now, is the only right one.
    pub fn execute(&self) -> Notice {
        if self.name.is_empty() {
            let detail = "the configuration has no process to start".to_owned();
            return Notice { stage: Stage::Execute, errno: 0, detail };
        }
        let mut denied = None;
        for path in &self.candidates {
            let error = execute(path, &self.args, &self.env);
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                // Not there; or there, and its interpreter is not.
                Some(Errno::NOENT | Errno::NOTDIR) if !is_file(path) => {}
                Some(Errno::ACCESS) => denied = Some(Errno::ACCESS),
                errno => return self.failed(Some(path), errno.unwrap_or(Errno::IO)),
            }
        }
        self.failed(None, denied.unwrap_or(Errno::NOENT))
    }

    /// What [`Program::execute`] will find, without executing it.
    pub fn check(&self) -> Step<()> {
        if self.name.is_empty() {
            return Ok(());
        }
        let mut denied = None;
        for path in &self.candidates {
            match executable(path) {
                Ok(()) if is_file(path) => return Ok(()),
                // A filter that is in force already hides it; the attempt itself will tell.
                Err(Errno::PERM | Errno::NOSYS) => return Ok(()),
                Ok(()) | Err(Errno::ACCESS) => denied = Some(Errno::ACCESS),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(self.failed(Some(path), errno)),
            }
        }
        Err(self.failed(None, denied.unwrap_or(Errno::NOENT)))
    }

    /// In the words that engines know.
    fn failed(&self, path: Option<&CString>, errno: Errno) -> Notice {
        let name = show(&self.name);
        let (errno, detail) = match (path, errno) {
            (None, Errno::NOENT) if !self.name.contains(&b'/') => {
                (0, format!("exec: {name:?}: executable file not found in $PATH"))
            }
            (None, Errno::NOENT) => (libc::ENOENT, format!("exec: {name:?}: stat {name}")),
            (None, errno) => (errno.raw_os_error(), format!("exec: {name:?}")),
            (Some(path), errno) => (errno.raw_os_error(), format!("exec {}", path.to_string_lossy())),
        };
        Notice { stage: Stage::Execute, errno, detail }
    }
}

/// Filters older than faccessat2 refuse that; the old call asks for the real ids, which are the effective ones here.
fn executable(path: &CStr) -> Result<(), Errno> {
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::PERM | Errno::NOSYS) => accessat(CWD, path, Access::EXEC_OK, AtFlags::empty()),
        other => other,
    }
}

fn is_file(path: &CStr) -> bool {
    statat(CWD, path, AtFlags::empty()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}
