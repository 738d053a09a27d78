//! What `orlop runtime` costs beside Debian's crun and runc: the same bundles, pair by pair in one run.
//!
//!     cargo bench --bench runtime                  # root; Debian's crun, runc, busybox-static, strace
//!
//! | variable | meaning |
//! |---|---|
//! | BENCH_ROUNDS | 200 rounds; in each, every runtime takes its turn |
//! | BENCH_RUNTIME | another `orlop` to measure than the one that cargo built |
//! | BENCH_ONLY | only the tables whose title contains this |
//!
//! A ratio is the median over the rounds of our time divided by the other's in that round, so that what else the machine
//! does counts for both. crun refuses the hybrid layout of cgroups, so all runs are made in a mount namespace in which
//! an empty tmpfs covers /sys/fs/cgroup/unified, where there is one.

#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has nothing better to do.

#[allow(unused)]
#[path = "../tests/support/bundle.rs"]
mod bundle;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

struct Runtime {
    name: &'static str,
    program: Vec<String>,
}

/// A bundle for one program, with or without the default seccomp profile.
struct Stage {
    directory: tempfile::TempDir,
    state: PathBuf,
}

impl Stage {
    fn new(program: &[&str], seccomp: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("orlop-bench-").tempdir_in("/dev/shm").unwrap();
        bundle::make_rootfs(&directory.path().join("rootfs"));
        let mut config = bundle::config("", "orlop-bench");
        // The last one that Debian's crun knows.
        config["ociVersion"] = json!("1.0.2");
        // One for each container, since there may be several at a time.
        config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        config["process"]["args"] = json!(program);
        if seccomp {
            config["linux"]["seccomp"] = default_seccomp();
        }
        std::fs::write(directory.path().join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let state = directory.path().join("state");
        Self { directory, state }
    }

    fn command(&self, runtime: &Runtime, arguments: &[&str]) -> Command {
        let mut command = Command::new(&runtime.program[0]);
        command.args(&runtime.program[1..]).arg("--root").arg(self.state.join(runtime.name)).args(arguments);
        command.current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        command
    }

    fn call(&self, runtime: &Runtime, arguments: &[&str]) {
        let status = self.command(runtime, arguments).status().unwrap();
        assert!(status.success(), "{} {arguments:?}: {status}", runtime.name);
    }
}

fn default_seccomp() -> Value {
    // Of a container with the usual capabilities of containerd.
    let usual = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
    let bounding = usual.iter().fold(0, |set, capability| set | 1u64 << capability);
    serde_json::to_value(orlop::runtime::seccomp::default_profile(bounding)).unwrap()
}

fn main() {
    if !bundle::able() {
        return;
    }
    cover_hybrid();
    let ours = env::var("BENCH_RUNTIME").unwrap_or_else(|_| env!("CARGO_BIN_EXE_orlop").to_owned());
    let mut runtimes = vec![Runtime { name: "orlop", program: vec![ours, "runtime".to_owned()] }];
    for (name, path) in [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc")] {
        match Path::new(path).exists() {
            true => runtimes.push(Runtime { name, program: vec![path.to_owned()] }),
            false => println!("skipped: no {path}"),
        }
    }
    let rounds: usize = env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let only = env::var("BENCH_ONLY").unwrap_or_default();
    let table = |title: &str, rounds: usize, body: &mut dyn FnMut(&Runtime) -> Duration| {
        if title.contains(&only) {
            compare(title, &runtimes, rounds, body);
        }
    };

    let plain = Stage::new(&["/bin/true"], false);
    table("run", rounds, &mut |runtime| timed(|| plain.call(runtime, &["run", "bench-run"])));
    let filtered = Stage::new(&["/bin/true"], true);
    table("run with the default seccomp profile", rounds, &mut |runtime| {
        timed(|| filtered.call(runtime, &["run", "bench-seccomp"]))
    });
    if "what seccomp costs".contains(&only) {
        seccomp_cost(&runtimes[0], rounds, &plain, &filtered);
    }

    let sleeper = Stage::new(&["/bin/sleep", "100000"], false);
    table("create, start, delete --force", rounds / 2, &mut |runtime| {
        timed(|| {
            for verb in [&["create", "bench-life"][..], &["start", "bench-life"], &["delete", "--force", "bench-life"]]
            {
                sleeper.call(runtime, verb);
            }
        })
    });
    if "exec".contains(&only) {
        for runtime in &runtimes {
            sleeper.call(runtime, &["run", "--detach", &format!("bench-exec-{}", runtime.name)]);
        }
        table("exec", rounds, &mut |runtime| {
            timed(|| sleeper.call(runtime, &["exec", &format!("bench-exec-{}", runtime.name), "/bin/true"]))
        });
        for runtime in &runtimes {
            sleeper.call(runtime, &["delete", "--force", &format!("bench-exec-{}", runtime.name)]);
        }
    }
    if "forks and executions of a run".contains(&only) {
        count(&runtimes, &plain);
    }
}

fn timed(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// In a mount namespace of this process's own.
fn cover_hybrid() {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    if Path::new("/sys/fs/cgroup/unified").is_dir() {
        mount(Some("tmpfs"), "/sys/fs/cgroup/unified", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    }
}

fn compare(title: &str, runtimes: &[Runtime], rounds: usize, body: &mut dyn FnMut(&Runtime) -> Duration) {
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        for turn in 0..runtimes.len() {
            // Nobody is always the first.
            let runtime = &runtimes[(turn + round) % runtimes.len()];
            let time = body(runtime).as_secs_f64() * 1e3;
            // The first round fills caches.
            if round > 0 {
                times.entry(runtime.name).or_default().push(time);
            }
        }
    }
    println!(
        "\n## {title} ({rounds} rounds)\n\n| | median, ms | 95 of 100 | least | ours, as part of it |\n|---|---|---|---|---|"
    );
    let ours = &times[runtimes[0].name];
    for runtime in runtimes {
        let theirs = &times[runtime.name];
        let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let (median, high, least) = (part(theirs, 0.5), part(theirs, 0.95), part(theirs, 0.0));
        println!("| {} | {median:.2} | {high:.2} | {least:.2} | {:.2} |", runtime.name, part(&ratios, 0.5));
    }
}

/// A quantile.
fn part(values: &Vec<f64>, of: f64) -> f64 {
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * of) as usize]
}

/// A run with the profile and one without, in turns.
fn seccomp_cost(ours: &Runtime, rounds: usize, plain: &Stage, filtered: &Stage) {
    let mut differences = Vec::new();
    for _ in 0..rounds {
        let without = timed(|| plain.call(ours, &["run", "bench-plain"]));
        let with = timed(|| filtered.call(ours, &["run", "bench-filtered"]));
        differences.push((with.as_secs_f64() - without.as_secs_f64()) * 1e3);
    }
    println!("\n## what seccomp costs\n\nmedian of {rounds} differences: {:.3} ms", part(&differences, 0.5));
}

/// Every fork and every execution from the runtime's own, the container's program included.
fn count(runtimes: &[Runtime], stage: &Stage) {
    let log = stage.directory.path().join("strace");
    println!("\n## forks and executions of a run\n\n| | forks | threads | executions |\n|---|---|---|---|");
    for runtime in runtimes {
        let traced = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=clone,clone3,fork,vfork,execve,execveat", "-o"])
            .arg(&log)
            .args(&runtime.program)
            .arg("--root")
            .arg(stage.state.join(runtime.name))
            .args(["run", "bench-count"])
            .current_dir(stage.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        if !traced.is_ok_and(|status| status.success()) {
            println!("| {} | skipped: strace is missing or failed | | |", runtime.name);
            continue;
        }
        let text = std::fs::read_to_string(&log).unwrap();
        let calls = |names: &[&str]| {
            let begun = text.lines().filter(move |line| !line.contains("resumed>") && !line.contains("= -1 "));
            let of_these: Vec<String> = names.iter().map(|name| format!(" {name}(")).collect();
            begun.filter(|line| of_these.iter().any(|name| line.contains(name))).map(str::to_owned).collect::<Vec<_>>()
        };
        let clones = calls(&["clone", "clone3", "fork", "vfork"]);
        let threads = clones.iter().filter(|line| line.contains("CLONE_THREAD")).count();
        let executions = calls(&["execve", "execveat"]).len();
        println!("| {} | {} | {threads} | {executions} |", runtime.name, clones.len() - threads);
    }
}
