//! The four methods of systemd's manager that scopes need.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::dbus::{Address, Call, DbusError};
use super::super::{CgroupError, Result};
use super::{Connection, Value};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How long systemd may take to carry a job out: with many units starting at once it is seconds.
const JOB: Duration = Duration::from_secs(30);

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// A systemd that can be asked: that of the machine, or that of this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Systemd {
    whose: Whose,
    answer: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    System,
    User,
    At(Address),
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Done,
    /// `failed`, `canceled`, `timeout`, `dependency` or `skipped`.
    Other(String),
}

impl Systemd {
    /// The machine's, over the system bus; where that does not run, over systemd's own socket.
    pub fn system() -> Self {
        Self { whose: Whose::System, answer: ANSWER }
    }

    /// This user's, over the session bus.
    pub fn user() -> Self {
        Self { whose: Whose::User, answer: ANSWER }
    }

    /// One behind the bus at `address`, with its own patience for an answer.
    pub fn at(address: Address, answer: Duration) -> Self {
        Self { whose: Whose::At(address), answer }
    }

    /// Whether this is the user's own.
    pub fn is_user(&self) -> bool {
        self.whose == Whose::User
    }

    /// Whether it can be asked at all: an error says what is missing.
    pub fn check(&self) -> Result<()> {
        self.session().map(drop)
    }

    pub(super) fn session(&self) -> Result<Session> {
        match &self.whose {
            Whose::At(address) => self.over_bus(address),
            Whose::System => {
                if !Path::new("/run/systemd/system").is_dir() {
                    return Err(CgroupError::NoSystemd { what: "process 1 of this machine is not systemd" });
                }
                let address = match std::env::var("DBUS_SYSTEM_BUS_ADDRESS") {
                    Ok(text) => Address::parse(&text).map_err(unreachable_bus)?,
                    Err(_) => Address::Path("/run/dbus/system_bus_socket".into()),
                };
                self.bus_or_peer(&address, Path::new("/run/systemd/private"))
            }
            Whose::User => {
                let runtime = match std::env::var_os("XDG_RUNTIME_DIR") {
                    Some(dir) => PathBuf::from(dir),
                    None => format!("/run/user/{}", rustix::process::geteuid().as_raw()).into(),
                };
                let address = match std::env::var("DBUS_SESSION_BUS_ADDRESS") {
                    Ok(text) => Address::parse(&text).map_err(unreachable_bus)?,
                    Err(_) => Address::Path(runtime.join("bus")),
                };
                self.bus_or_peer(&address, &runtime.join("systemd/private"))
            }
        }
    }

    fn bus_or_peer(&self, address: &Address, peer: &Path) -> Result<Session> {
        match self.over_bus(address) {
            Err(CgroupError::Bus { cause: DbusError::Connect { .. } }) if peer.exists() => {
                let connection = Connection::to_peer(&Address::Path(peer.into()), self.answer);
                Ok(Session { connection: connection.map_err(unreachable_bus)? })
            }
            other => other,
        }
    }

    fn over_bus(&self, address: &Address) -> Result<Session> {
        let mut connection = Connection::to_bus(address, self.answer).map_err(unreachable_bus)?;
        let rule = format!(
            "type='signal',sender='{DESTINATION}',path='{MANAGER}',interface='{MANAGER_INTERFACE}',member='JobRemoved'"
        );
        let call = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "AddMatch",
            body: vec![Value::str(rule)],
        };
        connection.call(call).map_err(unreachable_bus)?;
        Ok(Session { connection })
    }
}

fn unreachable_bus(cause: DbusError) -> CgroupError {
    CgroupError::Bus { cause }
}

/// A connection to systemd for one errand.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
}

impl Session {
    /// Starts a transient unit and waits until it is there.
    pub fn start(&mut self, unit: &str, properties: Vec<Value>) -> Result<Job> {
        let properties = Value::Array("(sv)".to_owned(), properties);
        let auxiliary = Value::Array("(sa(sv))".to_owned(), Vec::new());
        let body = vec![Value::str(unit), Value::str("replace"), properties, auxiliary];
        let job = self.manager(unit, "StartTransientUnit", body)?;
        self.wait(unit, &job)
    }

    /// Stops a unit and waits until it is gone. One that is not there is fine.
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        match self.manager(unit, "StopUnit", vec![Value::str(unit), Value::str("replace")]) {
            Ok(job) => self.wait(unit, &job).map(drop),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes systemd forget how a unit failed. One that is not there is fine.
    pub fn reset_failed(&mut self, unit: &str) -> Result<()> {
        match self.manager(unit, "ResetFailedUnit", vec![Value::str(unit)]) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Changes properties of a unit until it ends.
    pub fn set(&mut self, unit: &str, properties: Vec<Value>) -> Result<()> {
        let properties = Value::Array("(sv)".to_owned(), properties);
        self.manager(unit, "SetUnitProperties", vec![Value::str(unit), Value::Bool(true), properties]).map(drop)
    }

    /// systemd's version, such as 252.
    pub fn version(&mut self) -> Result<u32> {
        let text = self.property("systemd", MANAGER, MANAGER_INTERFACE, "Version")?;
        let digits: String =
            text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        Ok(digits.parse().unwrap_or(0))
    }

    /// The cgroup of a scope, from the hierarchy's root.
    pub fn cgroup_of_scope(&mut self, unit: &str) -> Result<String> {
        let path = format!("{MANAGER}/unit/{}", label(unit));
        self.property(unit, &path, "org.freedesktop.systemd1.Scope", "ControlGroup")
    }

    fn property(&mut self, unit: &str, path: &str, interface: &str, name: &str) -> Result<String> {
        let call = Call {
            destination: DESTINATION,
            path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            body: vec![Value::str(interface), Value::str(name)],
        };
        let answer = self.connection.call(call).map_err(|cause| failed(unit, cause))?;
        Ok(answer.first().and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Calls the manager; gives the path that most of its methods answer with.
    fn manager(&mut self, unit: &str, member: &str, body: Vec<Value>) -> Result<String> {
        let call = Call { destination: DESTINATION, path: MANAGER, interface: MANAGER_INTERFACE, member, body };
        let answer = self.connection.call(call).map_err(|cause| failed(unit, cause))?;
        Ok(answer.first().and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    fn wait(&mut self, unit: &str, job: &str) -> Result<Job> {
        let deadline = Instant::now() + JOB;
        loop {
            let signal = match self.connection.signal(deadline, "the end of the job") {
                Err(DbusError::Silent { .. }) => {
                    return Err(CgroupError::Job {
                        unit: unit.to_owned(),
                        result: format!("is not done after {} s", JOB.as_secs()),
                    });
                }
                other => other.map_err(|cause| failed(unit, cause))?,
            };
            if let ("JobRemoved", [_, path, _, result]) = (signal.member.as_str(), signal.body.as_slice())
                && path.as_str() == Some(job)
            {
                return Ok(match result.as_str().unwrap_or_default() {
                    "done" => Job::Done,
                    other => Job::Other(other.to_owned()),
                });
            }
        }
    }
}

fn failed(unit: &str, cause: DbusError) -> CgroupError {
    CgroupError::Unit { unit: unit.to_owned(), cause }
}

/// Whether systemd says that there is no such unit.
pub(super) fn is_missing(error: &CgroupError) -> bool {
    has_name(error, "org.freedesktop.systemd1.NoSuchUnit")
}

/// Whether systemd says that there is such a unit already.
pub(super) fn is_taken(error: &CgroupError) -> bool {
    has_name(error, "org.freedesktop.systemd1.UnitExists")
}

fn has_name(error: &CgroupError, name: &str) -> bool {
    matches!(error, CgroupError::Unit { cause, .. } if cause.name() == Some(name))
}

/// A unit's name as a part of an object path: what is no letter or digit becomes `_` and two digits.
fn label(unit: &str) -> String {
    let mut out = String::with_capacity(2 * unit.len());
    for (index, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("_{byte:02x}"));
        }
    }
    out
}
