//! Private network namespaces for tests: nothing here touches the machine's own network.
#![allow(dead_code)]

pub mod plugins;

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use orlop::network::{
    BuiltinConfig, Network, NetworkConfig, NetworkKind, PodNetwork, PodNetworkRequest, PortMapping, Protocol,
};

pub const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a test on a thread of its own, in a network namespace of its own with loopback up, and in a mount
/// namespace of its own.
pub fn private<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests run as root");
        // Pinned namespaces are mounts; those of a failed test go with its mount namespace.
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The namespace of the calling thread.
pub fn here() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// Runs something in another namespace.
pub fn inside<T: Send>(namespace: impl AsFd + Sync, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs `ip` and returns what it printed.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A second namespace that the node reaches by a link: the node is 192.0.2.1 and 2001:db8::1, the outside is .2. It
/// has no route to pods.
pub fn outside() -> OwnedFd {
    let node = here();
    let outside = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        here()
    });
    let outside = outside.join().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), node.as_raw_fd());
    inside(&outside, || {
        ip("link set lo up");
        ip(&format!("link add out0 type veth peer name up0 netns {path}"));
        ip("addr add 192.0.2.2/24 dev out0");
        ip("addr add 2001:db8::2/64 dev out0 nodad");
        ip("link set out0 up");
    });
    ip("addr add 192.0.2.1/24 dev up0");
    ip("addr add 2001:db8::1/64 dev up0 nodad");
    ip("link set up0 up");
    outside
}

/// A built-in network on a subnet, recovered and ready.
pub async fn builtin(root: &Path, change: impl FnOnce(&mut BuiltinConfig)) -> Network {
    let network = Network::open(&builtin_config(change), root, &root.join("state")).await.unwrap();
    network.recover(&[]).await.unwrap();
    network.status().unwrap();
    network
}

pub fn builtin_config(change: impl FnOnce(&mut BuiltinConfig)) -> NetworkConfig {
    let mut config = NetworkConfig { kind: NetworkKind::Builtin, ..NetworkConfig::default() };
    config.builtin.pool_size = 4;
    change(&mut config.builtin);
    config
}

pub fn request(id: &str) -> PodNetworkRequest {
    PodNetworkRequest {
        id: id.to_owned(),
        name: format!("pod-{id}"),
        namespace: "default".to_owned(),
        uid: format!("uid-{id}"),
        ..PodNetworkRequest::default()
    }
}

pub fn port(protocol: Protocol, host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol, container_port, host_port, host_ip: host_ip.to_owned() }
}

pub async fn pod(network: &Network, id: &str, ports: &[PortMapping]) -> PodNetwork {
    network.setup(PodNetworkRequest { port_mappings: ports.to_vec(), ..request(id) }).await.unwrap()
}

/// Serves TCP in a namespace: each caller is told its own address. Ends after `calls`.
pub fn serve_tcp(namespace: &OwnedFd, address: SocketAddr, calls: usize) -> std::thread::JoinHandle<()> {
    let listener = inside(namespace, || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for _ in 0..calls {
            let (mut stream, peer) = accept(&listener);
            stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
        }
    })
}

/// Waits for a caller, but not for ever.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&patience)).unwrap();
    assert!(ready > 0, "nobody called the server");
    listener.accept().unwrap()
}

/// Calls a server of [`serve_tcp`] and returns whom it saw.
pub fn call_tcp(namespace: &OwnedFd, address: SocketAddr) -> std::io::Result<IpAddr> {
    inside(namespace, || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut seen = String::new();
        stream.read_to_string(&mut seen)?;
        Ok(seen.parse().unwrap())
    })
}

/// Echoes one datagram in a namespace.
pub fn serve_udp(namespace: &OwnedFd, address: SocketAddr, calls: usize) -> std::thread::JoinHandle<()> {
    let socket = inside(namespace, || UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::spawn(move || {
        for _ in 0..calls {
            let mut buffer = [0; 64];
            let Ok((_, peer)) = socket.recv_from(&mut buffer) else { return };
            socket.send_to(peer.ip().to_string().as_bytes(), peer).unwrap();
        }
    })
}

pub fn call_udp(namespace: &OwnedFd, address: SocketAddr) -> std::io::Result<IpAddr> {
    inside(namespace, || {
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(address)?;
        socket.send(b"hello")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap())
    })
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE * 3;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many pod links the calling thread's namespace has.
pub fn pod_links() -> usize {
    ip("-o link show type veth").lines().filter(|line| line.contains(": orlop")).count()
}

pub fn primary(pod: &PodNetwork) -> IpAddr {
    pod.record.ips[0]
}

pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}
