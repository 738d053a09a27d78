//! A container's scope: made, changed, removed.

use oci_spec::runtime::LinuxResources;

use super::super::dbus::DbusError;
use super::super::devices::Rules;
use super::super::group::{Cgroup, CreateOptions};
use super::super::host::{Host, Version};
use super::super::settings::{self, Current, Setting};
use super::super::sys;
use super::super::{CgroupError, CgroupPath, Result};
use super::client::{Job, Session, is_taken};
use super::properties::{OOM_POLICY, Property, of_devices, of_settings};
use super::{ScopeName, Systemd, Value};

pub use sys::Seed;

/// A scope of a systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub systemd: Systemd,
    /// The unit's name.
    pub unit: String,
}

/// What is told to systemd beside the limits.
#[derive(Debug, Default)]
pub struct ScopeOptions {
    /// The processes with which it begins, which systemd moves into it. None: a [`Seed`] is made.
    pub pids: Vec<i32>,
    /// More properties, as [`super::parse_property`] gives them.
    pub properties: Vec<Value>,
}

impl Host {
    /// Makes a scope with its limits. The cgroup exists until its last process ends: the first one has to be in it
    /// before the seed is dropped.
    ///
    /// A unit of this name that is there is refused, unless all that is left of it is that it failed.
    pub fn create_scope(
        &self,
        systemd: &Systemd,
        name: &ScopeName,
        resources: &LinuxResources,
        options: ScopeOptions,
    ) -> Result<(Cgroup, Option<Seed>)> {
        let tolerate = CreateOptions::default().tolerate_missing_hugetlb;
        let settings = settings::plan(self, resources, &Current::fresh(), tolerate)?;
        let rules = resources.devices().as_deref().map(Rules::parse).transpose()?;
        let limits = of_settings(&settings)?;
        let devices = rules.as_ref().map(|rules| of_devices(rules, self.version())).transpose()?.unwrap_or_default();
        name.path()?; // a refused name is told before anything is made

        let mut session = systemd.session()?;
        let (seed, pids) = if options.pids.is_empty() {
            let seed = Seed::new().map_err(|source| CgroupError::Seed { source })?;
            let pid = seed.pid();
            (Some(seed), vec![pid])
        } else {
            (None, options.pids)
        };
        let mut fixed = self.fixed_properties(name, &pids);
        fixed.extend(devices);
        let mut attempt = |limits: Vec<Property>| {
            let mut properties = fixed.clone();
            properties.extend(supported(&mut session, limits)?);
            properties.extend(options.properties.clone());
            start(&mut session, &name.unit, properties)
        };
        match attempt(limits.clone()) {
            Err(error) if limits.iter().any(|limit| limit.is(OOM_POLICY)) && does_not_know(&error, OOM_POLICY) => {
                attempt(limits.into_iter().filter(|limit| !limit.is(OOM_POLICY)).collect())?;
            }
            other => other?,
        }

        let scope = Scope { systemd: systemd.clone(), unit: name.unit.clone() };
        let made = self.finish(&mut session, name, &scope, &settings, rules.as_ref());
        if made.is_err() {
            // The first error is the one to tell.
            let _ = session.stop(&name.unit);
            let _ = session.reset_failed(&name.unit);
        }
        Ok((made?, seed))
    }

    fn fixed_properties(&self, name: &ScopeName, pids: &[i32]) -> Vec<Value> {
        let io = if self.version() == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
        let pids = pids.iter().map(|pid| Value::U32(pid.cast_unsigned())).collect();
        vec![
            Value::property("Description", Value::str(format!("container {}", name.unit.trim_end_matches(".scope")))),
            Value::property("Slice", Value::str(&name.slice)),
            Value::property("Delegate", Value::Bool(true)),
            Value::property("PIDs", Value::Array("u".to_owned(), pids)),
            Value::property("CPUAccounting", Value::Bool(true)),
            Value::property("MemoryAccounting", Value::Bool(true)),
            Value::property(io, Value::Bool(true)),
            Value::property("TasksAccounting", Value::Bool(true)),
            Value::property("DefaultDependencies", Value::Bool(false)),
            // A failed one is not kept for somebody to look at.
            Value::property("CollectMode", Value::str("inactive-or-failed")),
            // Unasked, systemd gives each unit a share of the machine's processes. What is asked for comes after this.
            Value::property("TasksMax", Value::U64(u64::MAX)),
        ]
    }

    fn finish(
        &self,
        session: &mut Session,
        name: &ScopeName,
        scope: &Scope,
        settings: &[Setting],
        rules: Option<&Rules>,
    ) -> Result<Cgroup> {
        // A user's systemd is somewhere below the machine's; it knows where.
        let path = match scope.systemd.is_user() {
            true => CgroupPath::new(&session.cgroup_of_scope(&name.unit)?)?,
            false => name.path()?,
        };
        self.complete(&path)?;
        let group = Cgroup::at(self, &path)?.with_scope(scope.clone());
        group.apply(settings)?;
        if let Some(rules) = rules {
            group.set_devices(rules, self.version() == Version::V2)?;
        }
        Ok(group)
    }
}

/// Whether systemd refused a property by its name.
fn does_not_know(error: &CgroupError, property: &str) -> bool {
    matches!(error, CgroupError::Unit { cause: DbusError::Answer { message, .. }, .. } if message.contains(property))
}

/// Starts it. What failed before under this name is forgotten, once.
pub(super) fn start(session: &mut Session, unit: &str, properties: Vec<Value>) -> Result<()> {
    let job = match session.start(unit, properties.clone()) {
        Err(error) if is_taken(&error) => {
            session.reset_failed(unit)?;
            session.start(unit, properties)?
        }
        other => other?,
    };
    match job {
        Job::Done => Ok(()),
        Job::Other(result) => {
            let _ = session.reset_failed(unit); // the first error is the one to tell
            Err(CgroupError::Job { unit: unit.to_owned(), result: format!("ended as {result:?}") })
        }
    }
}

/// The values of those properties that this systemd has.
fn supported(session: &mut Session, properties: Vec<Property>) -> Result<Vec<Value>> {
    // Older ones than 240 are older than any kernel that this is for.
    let version = if properties.iter().any(|property| property.since > 240) { session.version()? } else { 0 };
    Ok(properties.into_iter().filter(|p| p.since <= version).map(|p| p.value).collect())
}

impl Scope {
    /// Tells systemd what was written to the control files, that it does not write something else.
    pub(in super::super) fn set(&self, group: &Cgroup, settings: &[Setting], rules: Option<&Rules>) -> Result<()> {
        let mut told = settings.to_vec();
        for setting in &mut told {
            // A quota without its period says little: the file has both by now.
            if setting.file == "cpu.max"
                && let Ok(text) = group.dir_of(setting.controller)?.try_read("cpu.max")
            {
                setting.value = text;
            }
        }
        if told.iter().any(|setting| setting.file.starts_with("cpu.cfs_")) {
            for file in ["cpu.cfs_quota_us", "cpu.cfs_period_us"] {
                let controller = super::super::Controllers::CPU;
                let value = group.dir_of(controller)?.read(file)?;
                told.push(Setting::new(controller, file, value, "cpu.quota"));
            }
        }
        let mut limits = of_settings(&told)?;
        limits.retain(|limit| !limit.is(OOM_POLICY));
        let mut session = self.systemd.session()?;
        let mut properties = supported(&mut session, limits)?;
        if let Some(rules) = rules {
            properties.extend(of_devices(rules, group.host().version())?);
        }
        if properties.is_empty() {
            return Ok(());
        }
        session.set(&self.unit, properties)
    }

    /// Stops the unit, which ends what is in it, and makes systemd forget it. One that is gone is fine.
    pub fn stop(&self) -> Result<()> {
        let mut session = self.systemd.session()?;
        session.stop(&self.unit)?;
        session.reset_failed(&self.unit)
    }
}
