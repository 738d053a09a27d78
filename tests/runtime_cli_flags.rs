//! The options of `create`, `run` and `exec`, with runc's meaning and words.

#![allow(clippy::unwrap_used)]

#[path = "support/bundle.rs"]
mod bundle;

use std::fs;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bundle::{Bundle, finish, skip, wait_until};
use serde_json::json;

/// The same call, with redirections of a shell before it.
fn with_descriptors(redirections: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{redirections}; exec \"$0\" \"$@\"")).arg(command.get_program());
    shell.args(command.get_args()).current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    shell
}

fn receive(listener: &UnixListener) -> (OwnedFd, String) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (socket, _): (UnixStream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let slices = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let n = recvmsg(&socket, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (fd.unwrap(), String::from_utf8_lossy(&bytes[..n]).into_owned())
}

#[test]
fn descriptors_are_preserved_and_no_others() {
    let Some(mut bundle) = Bundle::new("preserve", "") else { return };
    fs::write(bundle.path().join("three"), "third").unwrap();
    fs::write(bundle.path().join("four"), "fourth").unwrap();
    fs::write(bundle.path().join("nine"), "never").unwrap();
    let open = "exec 3<three 4<four 9<nine";
    bundle.script("ls /proc/self/fd | tr '\\n' ' '; cat <&3; cat <&4");
    bundle.options = vec!["--preserve-fds".into(), "2".into()];
    let run = bundle.command(&["run", "--preserve-fds", "2", &bundle.id]);
    // 5 is the directory that ls reads.
    assert_eq!(finish(with_descriptors(open, &run)).output(), "0 1 2 3 4 5 thirdfourth");
    let run = bundle.command(&["run", &bundle.id]);
    bundle.script("ls /proc/self/fd | tr '\\n' ' '");
    bundle.write_config();
    assert_eq!(finish(with_descriptors(open, &run)).output(), "0 1 2 3 ");
    // What is not open cannot be passed on, whatever this program itself has there by then.
    let run = bundle.command(&["--log", "log", "run", "--preserve-fds", "3", &bundle.id]);
    let failed = finish(with_descriptors(open, &run)).failed();
    assert!(failed.contains("unable to stat preserved-fd 2 (of 3)"), "{failed}");
    bundle.nothing_left();

    bundle.script("exec sleep 1000");
    bundle.run_detached_from(open);
    let exec = bundle.command(&["exec", "--preserve-fds", "1", &bundle.id, "cat", "/proc/self/fd/3"]);
    assert_eq!(finish(with_descriptors(open, &exec)).output(), "third");
    let exec = bundle.command(&["exec", &bundle.id, "ls", "/proc/self/fd"]);
    assert_eq!(finish(with_descriptors(open, &exec)).output(), "0\n1\n2\n3\n");
}

trait FromShell {
    fn run_detached_from(&self, redirections: &str);
}

impl FromShell for Bundle {
    fn run_detached_from(&self, redirections: &str) {
        let run = self.command(&["run", "--detach", "--preserve-fds", "2", &self.id]);
        let mut shell = with_descriptors(redirections, &run);
        assert!(shell.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }
}

#[test]
fn sockets_of_an_activation_go_on_to_the_program() {
    let Some(bundle) = Bundle::new("listen", "env | grep LISTEN | sort; cat <&3; cat <&4") else { return };
    fs::write(bundle.path().join("three"), "third ").unwrap();
    fs::write(bundle.path().join("four"), "fourth").unwrap();
    let run = bundle.command(&["run", "--preserve-fds", "1", &bundle.id]);
    let open = "exec 3<three 4<four; export LISTEN_FDS=1 LISTEN_PID=$$";
    assert_eq!(finish(with_descriptors(open, &run)).output(), "LISTEN_FDS=1\nLISTEN_PID=1\nthird fourth");
    // Those of another process are not ours.
    let other = Bundle::new("listen-other", "env | grep LISTEN; ls /proc/self/fd | wc -l").unwrap();
    let run = other.command(&["run", &other.id]);
    assert_eq!(finish(with_descriptors("exec 3</dev/null; export LISTEN_FDS=1 LISTEN_PID=1", &run)).output(), "4\n");
}

#[test]
fn a_pidfd_socket_gets_the_process() {
    let Some(bundle) = Bundle::new("pidfd", "exec sleep 1000") else { return };
    let path = bundle.path().join("pidfd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let pid_of = |fd: &OwnedFd| -> i32 {
        use std::os::fd::AsRawFd;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
    };
    let mut bundle = bundle;
    bundle.options = vec!["--pidfd-socket".into(), path.to_str().unwrap().into()];
    let pid = bundle.create();
    let (process, name) = receive(&listener);
    assert_eq!((pid_of(&process), name.as_str()), (pid, "pidfd"));
    bundle.start();
    let mut exec = bundle.command(&["exec", "--detach", "--pid-file", "exec.pid", "--pidfd-socket"]);
    exec.arg(&path).args([&bundle.id, "sleep", "1000"]).stdout(Stdio::null());
    assert!(exec.status().unwrap().success());
    let (process, _) = receive(&listener);
    assert_eq!(pid_of(&process).to_string(), fs::read_to_string(bundle.path().join("exec.pid")).unwrap());
    rustix::process::pidfd_send_signal(process.as_fd(), rustix::process::Signal::KILL).unwrap();
    // Nobody listens: then there is no container.
    let other = Bundle::new("pidfd-nobody", "exec sleep 1000").unwrap();
    let failed = other.refused(&["create", "--pidfd-socket", "nobody", &other.id]);
    assert!(failed.contains("send the process to nobody"), "{failed}");
    other.nothing_left();
}

#[test]
fn without_pivot_root_the_host_is_covered() {
    let script = "cat /etc/mark; readlink /proc/self/root; \
        (echo x >/proc/sys/kernel/panic) 2>/dev/null || echo readonly";
    let Some(mut bundle) = Bundle::new("no-pivot", script) else { return };
    fs::write(bundle.rootfs().join("etc/mark"), "inside\n").unwrap();
    bundle.options = vec!["--no-pivot".into()];
    assert_eq!(bundle.output(), "inside\n/\nreadonly\n");
    // Whoever breaks out of the chroot finds no whole proc or sysfs either: the container's are all there are.
    bundle.script("cat /proc/self/mountinfo");
    let table = bundle.output();
    let whole: Vec<&str> = table
        .lines()
        .filter(|line| line.contains(" - proc ") || line.contains(" - sysfs "))
        .filter(|line| line.split(' ').nth(3) == Some("/"))
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(whole, ["/proc", "/sys"], "{table}");
}

#[test]
fn what_follows_the_id_of_an_exec_is_the_command() {
    let Some(bundle) = Bundle::new("exec-args", "exec sleep 1000") else { return };
    bundle.run_detached();
    let id = bundle.id.as_str();
    assert_eq!(bundle.ok(&["exec", id, "echo", "--tty", "-d", "--", "--help", "-u"]), "--tty -d -- --help -u\n");
    assert_eq!(bundle.ok(&["exec", id, "sh", "-c", "echo $0 $1", "--cwd", "/"]), "--cwd /\n");
    let failed = bundle.refused(&["exec", id, "--tty"]);
    assert!(failed.contains("exec: \"--tty\": executable file not found in $PATH"), "{failed}");
    let failed = bundle.refused(&["exec", "--no-such", id, "true"]);
    assert!(failed.contains("flag provided but not defined: --no-such"), "{failed}");
    assert!(bundle.refused(&["exec", id]).contains("process args cannot be empty"));
    bundle.refused(&["exec"]);
}

#[test]
fn an_exec_is_what_its_options_say() {
    let Some(mut bundle) = Bundle::new("exec-options", "exec sleep 1000") else { return };
    bundle.process()["user"] = json!({ "uid": 1, "gid": 2, "additionalGids": [3] });
    bundle.run_detached();
    let id = bundle.id.as_str();
    assert_eq!(bundle.ok(&["exec", "--cwd", "/tmp", id, "pwd"]), "/tmp\n");
    assert_eq!(bundle.ok(&["exec", "--env", "A=1", "-e", "A=2", "-e", "B=3", id, "sh", "-c", "echo $A$B"]), "23\n");
    assert_eq!(bundle.ok(&["exec", "-u", "5", id, "id"]), "uid=5 gid=2 groups=3\n");
    assert_eq!(bundle.ok(&["exec", "--user", "5:6", "-g", "7", id, "id"]), "uid=5 gid=6 groups=3,7\n");
    // CVE-2026-30892: nothing but whole numbers, and none that becomes root.
    for user in ["", ":1", "1:", "0x1", "+1", "-1", "4294967296", "4294967295", "root", "1:2:3", " 1"] {
        bundle.refused(&["exec", &format!("--user={user}"), id, "id"]);
    }
    let status = |options: &[&str]| {
        let words = [&["exec", "-u", "0"], options, &[id, "grep", "-E", "^(Cap|NoNew)", "/proc/self/status"]].concat();
        bundle.ok(&words)
    };
    let value = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::trim)).unwrap().to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    let (without, with) = (status(&[]), status(&["--cap", "CAP_SYS_CHROOT"]));
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(value(&without, set) | 1 << 18, value(&with, set), "{with}");
    }
    assert_eq!((value(&with, "CapInh:"), value(&with, "CapAmb:")), (0, 0));
    assert!(bundle.refused(&["exec", "--cap", "CAP_NONSENSE", id, "id"]).contains("CAP_NONSENSE"));
}

#[test]
fn no_new_privileges_can_be_asked_for_an_exec() {
    let Some(mut bundle) = Bundle::new("exec-nnp", "exec sleep 1000") else { return };
    bundle.process()["noNewPrivileges"] = json!(false);
    bundle.run_detached();
    let look = ["grep", "NoNewPrivs", "/proc/self/status"];
    assert_eq!(bundle.exec(&look).output(), "NoNewPrivs:\t0\n");
    let words = [&["exec", "--no-new-privs", &bundle.id], &look[..]].concat();
    assert_eq!(bundle.ok(&words), "NoNewPrivs:\t1\n");
}

#[test]
fn an_exec_into_what_does_not_run_is_refused() {
    let Some(bundle) = Bundle::new("exec-states", "exec sleep 1000") else { return };
    bundle.run_detached();
    let id = bundle.id.as_str();
    let paused = bundle.call(&["pause", id]);
    if paused.status.success() {
        let failed = bundle.refused(&["exec", id, "true"]);
        assert!(failed.contains("cannot exec in a paused container (use --ignore-paused to override)"), "{failed}");
        let mut waiting = bundle.command(&["exec", "--ignore-paused", id, "echo", "resumed"]);
        let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        bundle.ok(&["resume", id]);
        assert_eq!(waiting.wait_with_output().unwrap().stdout, b"resumed\n");
    } else {
        skip("no freezer here");
    }
    bundle.ok(&["kill", id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(bundle.refused(&["exec", id, "true"]).contains("cannot exec in a stopped container"));
    assert!(bundle.refused(&["exec", "orlop-test-nobody", "true"]).contains("does not exist"));
}

#[test]
fn an_exec_goes_into_a_cgroup_below_the_containers_and_no_other() {
    let Some(bundle) = Bundle::new("exec-cgroup", "exec sleep 1000") else { return };
    let pid = bundle.run_detached();
    let id = bundle.id.as_str();
    for path in ["../x", "..", "memory:..", "a/../../b"] {
        let failed = bundle.refused(&["exec", "--cgroup", path, id, "true"]);
        let no_controllers = path.contains(':') && failed.contains("cgroup v2 has no controllers to name");
        assert!(failed.contains("is not a sub cgroup path") || no_controllers, "{path}: {failed}");
    }
    bundle.refused(&["exec", "--cgroup", "missing", id, "true"]);
    assert_eq!(bundle.ok(&["exec", "--cgroup", "/", id, "echo", "here"]), "here\n");
    let made: Vec<_> = bundle.cgroups().into_iter().map(|group| group.join("below")).collect();
    for group in &made {
        fs::create_dir(group).unwrap();
    }
    let v1 = made.len() > 1;
    // cpuset needs its lists before anybody can enter.
    if let Some(cpuset) = made.iter().find(|group| group.join("cpuset.cpus").exists() && v1) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(cpuset.join(file), fs::read(cpuset.parent().unwrap().join(file)).unwrap()).unwrap();
        }
    }
    let mut exec = bundle.command(&["exec", "--detach", "--pid-file", "exec.pid", "--cgroup", "below", id]);
    assert!(exec.args(["sleep", "1000"]).stdout(Stdio::null()).status().unwrap().success());
    let within: i32 = fs::read_to_string(bundle.path().join("exec.pid")).unwrap().parse().unwrap();
    let groups = fs::read_to_string(format!("/proc/{within}/cgroup")).unwrap();
    assert_eq!(groups.lines().filter(|line| line.ends_with(&format!("/{id}/below"))).count(), made.len(), "{groups}");
    if v1 {
        let mut exec = bundle.command(&["exec", "--detach", "--pid-file", "exec.pid", "--cgroup", "memory:below", id]);
        assert!(exec.args(["sleep", "1000"]).stdout(Stdio::null()).status().unwrap().success());
        let within = fs::read_to_string(bundle.path().join("exec.pid")).unwrap();
        let groups = fs::read_to_string(format!("/proc/{within}/cgroup")).unwrap();
        assert_eq!(groups.lines().filter(|line| line.ends_with("/below")).count(), 1, "{groups}");
        assert!(
            bundle.refused(&["exec", "--cgroup", "nothing:below", id, "true"]).contains("unknown controller nothing")
        );
    }
    assert!(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().contains(id));
}

#[test]
fn signals_go_on_to_what_is_waited_for() {
    let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let Some(bundle) = Bundle::new("signals", script) else { return };
    let mut run = bundle.command(&["run", &bundle.id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = run.stdout.take().unwrap();
    let mut text = [0; 6];
    output.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ready\n");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), run.wait().unwrap().code()), ("got\n", Some(9)));
    bundle.nothing_left();
}

#[test]
fn a_terminal_can_be_used_through_pipes() {
    let Some(mut bundle) = Bundle::new("pipes", "tty; cat") else { return };
    bundle.process()["terminal"] = json!(true);
    let mut run = bundle.command(&["run", &bundle.id]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    // The end of the pipe is the end of what is typed.
    let start = Instant::now();
    let output = run.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(30));
    // Whether what is typed is echoed before the program prints depends on who is quicker.
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = text.split("\r\n").collect();
    lines.sort_unstable();
    assert_eq!(lines, ["", "/dev/pts/0", "hello", "hello"]);
    assert!(output.status.success());
    bundle.nothing_left();
}

#[test]
fn a_terminal_changes_its_size_with_the_callers() {
    let Some(mut bundle) = Bundle::new("winch", "trap 'stty size' WINCH; stty size; while :; do sleep 0.01; done")
    else {
        return;
    };
    bundle.process()["terminal"] = json!(true);
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    let size = |rows, columns| {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).unwrap();
    };
    size(11, 22);
    let mut run = bundle.command(&["run", &bundle.id]);
    let mut run =
        run.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave).spawn().unwrap();
    let mut seen = String::new();
    let mut until = |what: &str| {
        wait_until(what, || {
            let mut bytes = [0; 256];
            let n = rustix::io::read(&master, &mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
            seen.contains(what)
        });
    };
    until("11 22");
    size(33, 44);
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::WINCH).unwrap();
    until("33 44");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    assert_eq!(run.wait().unwrap().code(), Some(128 + 9));
}

#[test]
fn a_console_and_a_socket_for_it_go_together() {
    let Some(mut bundle) = Bundle::new("console-checks", "true") else { return };
    let id = bundle.id.clone();
    assert!(bundle.refused(&["create", "--console-socket", "s", &id]).contains("cannot use console socket"));
    bundle.process()["terminal"] = json!(true);
    for verb in [&["create"][..], &["run", "--detach"]] {
        let words = [verb, &[id.as_str()]].concat();
        assert!(bundle.refused(&words).contains("cannot allocate tty if"), "{words:?}");
    }
    bundle.nothing_left();
}

#[test]
fn the_callers_keyring_can_be_kept() {
    if !std::path::Path::new("/proc/keys").exists() {
        return skip("the kernel has no keyrings");
    }
    // Two containers, since the keyring of one that has ended can be seen until the kernel has cleared it away.
    for (options, expected) in [(&[][..], "1\n"), (&["--no-new-keyring".to_owned()][..], "0\n")] {
        let Some(mut bundle) = Bundle::new("keyring", "") else { return };
        let script = format!("grep -c '_ses.{}' /proc/keys || true", bundle.id);
        bundle.script(&script);
        bundle.linux()["maskedPaths"] = json!([]);
        bundle.options = options.to_vec();
        assert_eq!(bundle.output(), expected);
    }
}

#[test]
fn what_is_kept_can_be_looked_at() {
    let Some(bundle) = Bundle::new("keep", "exit 4") else { return };
    let called = bundle.call(&["run", "--keep", "--no-subreaper", &bundle.id]);
    assert_eq!(called.status.code(), Some(4), "{called:?}");
    assert_eq!(bundle.status(), "stopped");
    bundle.ok(&["delete", &bundle.id]);
    bundle.nothing_left();
}
