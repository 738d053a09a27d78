//! What a cgroup uses. Kubelets ask for all containers every few seconds, so it is made to cost little: the files stay
//! open, each is read with one pread(2) into a buffer on the stack, and numbers are parsed in place.

use std::os::fd::OwnedFd;

use rustix::io::{Errno, pread, retry_on_intr};

use super::group::Cgroup;
use super::host::{Controllers, Version};
use super::io::Dir;
use super::{CgroupError, Result, parse};

/// What `ContainerStats` of CRI needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LightStats {
    /// CPU time used since the cgroup was made, nanoseconds.
    pub cpu_usage_ns: u64,
    pub memory: MemoryStats,
    /// Processes and threads, `None` where the pids controller is missing.
    pub pids: Option<u64>,
}

/// Everything that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub io: IoStats,
    /// v2 only, and only where the kernel keeps pressure.
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

/// CPU times, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    pub usage_ns: u64,
    pub user_ns: u64,
    pub system_ns: u64,
    /// Enforcement periods, those in which the quota ran out, and the time waited for it.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

/// Memory, bytes; of the cgroup and all below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: u64,
    /// Usage less the file pages that were not used of late.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The lowest limit from here up; `None` for none.
    pub limit: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// `None` where the kernel does not count swap.
    pub swap_usage: Option<u64>,
    /// `None` for no limit, and where the kernel does not count swap.
    pub swap_limit: Option<u64>,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidsStats {
    pub current: Option<u64>,
    pub limit: Option<u64>,
}

/// Block I/O since the cgroup was made, all devices together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub read_operations: u64,
    pub write_operations: u64,
}

/// Time that some, or all, of the processes waited for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub some: PressureLine,
    pub full: PressureLine,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureLine {
    pub total_ns: u64,
    /// Shares of the last 10, 60 and 300 seconds, percent times 100.
    pub avg10: u64,
    pub avg60: u64,
    pub avg300: u64,
}

/// The files that [`Cgroup::stats_light`] reads, open. `None`: this machine has no such file.
#[derive(Debug)]
pub(super) struct Files {
    cpu: Option<OwnedFd>,
    usage: Option<OwnedFd>,
    memory: Option<OwnedFd>,
    limit: Option<OwnedFd>,
    swap: Option<OwnedFd>,
    swap_limit: Option<OwnedFd>,
    pids: Option<OwnedFd>,
}

/// Twice what the longest of them, `memory.stat`, has today.
const BUFFER: usize = 8192;

impl Cgroup {
    /// CPU, memory and processes, as cheaply as can be.
    pub fn stats_light(&self) -> Result<LightStats> {
        let files = self.files()?;
        let mut buffer = [0u8; BUFFER];
        let version = self.host.version();
        let cpu = self.read_open(&files.cpu, &mut buffer)?;
        let cpu_usage_ns = match version {
            Version::V1 => parse::number(cpu).unwrap_or(0),
            Version::V2 => parse::micros(parse::value_of(cpu, b"usage_usec").unwrap_or(0)),
        };
        let pids = self.read_open(&files.pids, &mut buffer)?;
        let pids = parse::number(pids);
        let memory = self.memory(files, &mut buffer)?;
        Ok(LightStats { cpu_usage_ns, memory, pids })
    }

    /// Everything.
    pub fn stats(&self) -> Result<Stats> {
        let light = self.stats_light()?;
        let mut buffer = [0u8; 2 * BUFFER];
        let mut stats = Stats { memory: light.memory, ..Stats::default() };
        stats.pids.current = light.pids;
        stats.pids.limit = parse::limit(self.read_file(Controllers::PIDS, "pids.max", &mut buffer)?).flatten();
        match self.host.version() {
            Version::V1 => {
                stats.cpu.usage_ns = light.cpu_usage_ns;
                self.rest_of_v1(&mut stats, &mut buffer)?;
            }
            Version::V2 => self.rest_of_v2(&mut stats, &mut buffer)?,
        }
        Ok(stats)
    }

    fn rest_of_v1(&self, stats: &mut Stats, buffer: &mut [u8]) -> Result<()> {
        let number = |text: &[u8]| parse::number(text).unwrap_or(0);
        stats.cpu.user_ns = number(self.read_file(Controllers::CPUACCT, "cpuacct.usage_user", buffer)?);
        stats.cpu.system_ns = number(self.read_file(Controllers::CPUACCT, "cpuacct.usage_sys", buffer)?);
        for (key, value) in parse::pairs(self.read_file(Controllers::CPU, "cpu.stat", buffer)?) {
            match key {
                b"nr_periods" => stats.cpu.periods = value,
                b"nr_throttled" => stats.cpu.throttled_periods = value,
                b"throttled_time" => stats.cpu.throttled_ns = value,
                _ => {}
            }
        }
        let bytes = self.read_file(Controllers::BLKIO, "blkio.throttle.io_service_bytes_recursive", buffer)?;
        (stats.io.read_bytes, stats.io.write_bytes) = sum_v1_io(bytes);
        let operations = self.read_file(Controllers::BLKIO, "blkio.throttle.io_serviced_recursive", buffer)?;
        (stats.io.read_operations, stats.io.write_operations) = sum_v1_io(operations);
        Ok(())
    }

    fn rest_of_v2(&self, stats: &mut Stats, buffer: &mut [u8]) -> Result<()> {
        for (key, value) in parse::pairs(self.read_file(Controllers::CPU, "cpu.stat", buffer)?) {
            match key {
                b"usage_usec" => stats.cpu.usage_ns = parse::micros(value),
                b"user_usec" => stats.cpu.user_ns = parse::micros(value),
                b"system_usec" => stats.cpu.system_ns = parse::micros(value),
                b"nr_periods" => stats.cpu.periods = value,
                b"nr_throttled" => stats.cpu.throttled_periods = value,
                b"throttled_usec" => stats.cpu.throttled_ns = parse::micros(value),
                _ => {}
            }
        }
        stats.io = sum_v2_io(self.read_file(Controllers::BLKIO, "io.stat", buffer)?);
        stats.cpu_pressure = pressure(self.read_file(Controllers::CPU, "cpu.pressure", buffer)?);
        stats.memory_pressure = pressure(self.read_file(Controllers::CPU, "memory.pressure", buffer)?);
        stats.io_pressure = pressure(self.read_file(Controllers::CPU, "io.pressure", buffer)?);
        Ok(())
    }

    fn memory(&self, files: &Files, buffer: &mut [u8]) -> Result<MemoryStats> {
        let mut memory = MemoryStats::default();
        let Some(usage) = parse::number(self.read_open(&files.usage, buffer)?) else { return Ok(memory) };
        memory.usage = usage;
        let mut inactive_file = 0;
        let text = self.read_open(&files.memory, buffer)?;
        if self.host.version() == Version::V1 {
            let (mut both, mut limit) = (None, None);
            for (key, value) in parse::pairs(text) {
                match key {
                    b"hierarchical_memory_limit" => limit = known_limit(value),
                    b"hierarchical_memsw_limit" => both = known_limit(value),
                    b"total_rss" => memory.rss = value,
                    b"total_swap" => memory.swap_usage = Some(value),
                    b"total_pgfault" => memory.page_faults = value,
                    b"total_pgmajfault" => memory.major_page_faults = value,
                    b"total_inactive_file" => inactive_file = value,
                    _ => {}
                }
            }
            memory.limit = limit;
            memory.swap_limit = both.zip(limit).map(|(both, limit)| both.saturating_sub(limit));
        } else {
            for (key, value) in parse::pairs(text) {
                match key {
                    b"anon" => memory.rss = value,
                    b"inactive_file" => inactive_file = value,
                    b"pgfault" => memory.page_faults = value,
                    b"pgmajfault" => memory.major_page_faults = value,
                    _ => {}
                }
            }
            memory.limit = parse::limit(self.read_open(&files.limit, buffer)?).flatten();
            memory.swap_usage = parse::number(self.read_open(&files.swap, buffer)?);
            memory.swap_limit = parse::limit(self.read_open(&files.swap_limit, buffer)?).flatten();
        }
        memory.working_set = usage.saturating_sub(inactive_file);
        Ok(memory)
    }

    /// Opens the files at the first use.
    fn files(&self) -> Result<&Files> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let open = |controller, name| match self.host.dir_of(controller, &self.path) {
            None => Ok(None),
            Some(dir) => match dir.open(name) {
                Ok(fd) => Ok(Some(fd)),
                Err(Errno::NOENT) if dir.exists() => Ok(None),
                Err(Errno::NOENT | Errno::NODEV) => Err(CgroupError::Gone { path: self.path.to_string() }),
                Err(source) => Err(CgroupError::Read { file: dir.path(name), source }),
            },
        };
        let none = || Ok::<_, CgroupError>(None);
        let v1 = self.host.version() == Version::V1;
        let pick = |v1_name, v2_name| if v1 { v1_name } else { v2_name };
        let memory = Controllers::MEMORY;
        let files = Files {
            cpu: open(pick(Controllers::CPUACCT, Controllers::CPU), if v1 { "cpuacct.usage" } else { "cpu.stat" })?,
            usage: open(memory, if v1 { "memory.usage_in_bytes" } else { "memory.current" })?,
            memory: open(memory, "memory.stat")?,
            limit: if v1 { none()? } else { open(memory, "memory.max")? },
            swap: if v1 { none()? } else { open(memory, "memory.swap.current")? },
            swap_limit: if v1 { none()? } else { open(memory, "memory.swap.max")? },
            pids: open(Controllers::PIDS, "pids.current")?,
        };
        Ok(self.files.get_or_init(|| files))
    }

    /// Reads an open file from its beginning; a missing one is empty.
    fn read_open<'b>(&self, file: &Option<OwnedFd>, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let Some(fd) = file else { return Ok(&[]) };
        // A control file is one record to the kernel: it comes whole if the buffer is big enough.
        let len = match retry_on_intr(|| pread(fd, &mut buffer[..], 0)) {
            Ok(len) if len == buffer.len() => buffer.iter().rposition(|byte| *byte == b'\n').unwrap_or(0),
            Ok(len) => len,
            Err(Errno::NODEV) => return Err(CgroupError::Gone { path: self.path.to_string() }),
            // Pressure that was switched off when the kernel started.
            Err(Errno::OPNOTSUPP) => 0,
            Err(source) => {
                let file = self.home().map(|dir| dir.path("")).unwrap_or_default();
                return Err(CgroupError::Read { file, source });
            }
        };
        Ok(&buffer[..len])
    }

    /// Opens and reads a file; a missing one is empty.
    fn read_file<'b>(&self, controller: Controllers, name: &str, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let Some(dir) = self.host.dir_of(controller, &self.path) else { return Ok(&[]) };
        match open_for(&dir, name)? {
            None => Ok(&[]),
            fd => self.read_open(&fd, buffer),
        }
    }
}

fn open_for(dir: &Dir<'_>, name: &str) -> Result<Option<OwnedFd>> {
    match dir.open(name) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
        Err(source) => Err(CgroupError::Read { file: dir.path(name), source }),
    }
}

fn known_limit(value: u64) -> Option<u64> {
    parse::limit(value.to_string().as_bytes()).flatten()
}

/// `8:0 Read 4096` and `8:0 Write 512` lines: the sums of reads and writes.
fn sum_v1_io(text: &[u8]) -> (u64, u64) {
    let (mut reads, mut writes) = (0, 0);
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ').skip(1);
        match (words.next(), words.next().and_then(parse::number)) {
            (Some(b"Read"), Some(value)) => reads = value.saturating_add(reads),
            (Some(b"Write"), Some(value)) => writes = value.saturating_add(writes),
            _ => {}
        }
    }
    (reads, writes)
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …` lines.
fn sum_v2_io(text: &[u8]) -> IoStats {
    let mut sum = IoStats::default();
    for word in text.split(|byte| byte.is_ascii_whitespace()) {
        let Some(at) = word.iter().position(|byte| *byte == b'=') else { continue };
        let value = parse::number(&word[at + 1..]).unwrap_or(0);
        match &word[..at] {
            b"rbytes" => sum.read_bytes = sum.read_bytes.saturating_add(value),
            b"wbytes" => sum.write_bytes = sum.write_bytes.saturating_add(value),
            b"rios" => sum.read_operations = sum.read_operations.saturating_add(value),
            b"wios" => sum.write_operations = sum.write_operations.saturating_add(value),
            _ => {}
        }
    }
    sum
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full …`; totals are microseconds.
fn pressure(text: &[u8]) -> Option<Pressure> {
    let mut found = None;
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let pressure: &mut Pressure = match words.next() {
            Some(b"some" | b"full") => found.get_or_insert_default(),
            _ => continue,
        };
        let out = if line.starts_with(b"some") { &mut pressure.some } else { &mut pressure.full };
        for word in words {
            let Some(at) = word.iter().position(|byte| *byte == b'=') else { continue };
            let value = &word[at + 1..];
            match &word[..at] {
                b"avg10" => out.avg10 = parse::hundredths(value).unwrap_or(0),
                b"avg60" => out.avg60 = parse::hundredths(value).unwrap_or(0),
                b"avg300" => out.avg300 = parse::hundredths(value).unwrap_or(0),
                b"total" => out.total_ns = parse::micros(parse::number(value).unwrap_or(0)),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
