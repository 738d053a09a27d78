//! `orlop serve`: the agent.
//!
//! The order of a start: the configuration is checked, then what listens is bound (a second agent ends here), then the
//! node is opened, which finds again what an earlier agent left. Only then is anything answered, and the service
//! manager told that the agent is ready. Nothing stops with the agent: pods go on without it.

mod notify;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::config::load;
use crate::config::{CgroupDriver, Config, LogFormat};
use crate::cri::server;
use crate::cri::socket::Socket;
use crate::node::{Node, Settings, views};
use crate::telemetry::http::{self, Sources};
use crate::telemetry::{Metrics, log};

/// Threads of the event loop at most. They wait for sockets and for small files; a big machine needs no more.
const MAX_THREADS: usize = 4;

/// Run the agent
///
/// It answers CRI on its socket until SIGTERM or SIGINT; then it takes no more requests, finishes those under way, and
/// ends. A second signal ends it at once. Pods go on running without it, and the next agent finds them again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop serve                       with /etc/orlop/config.toml, or the defaults if there is none
  orlop serve --config other.toml
  RUST_LOG=info,orlop::network=debug orlop serve

Then tell the kubelet: containerRuntimeEndpoint: unix:///run/orlop/orlop.sock")]
pub(super) struct ServeArgs {
    /// The configuration file; without it, /etc/orlop/config.toml if that is there
    #[arg(short, long, env = "ORLOP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<u8> {
    let config = load(args.config.as_deref())?;
    log::init(&config.log.level, config.log.format == LogFormat::Json).context("log.level")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_THREADS))
        .enable_all()
        .build()
        .context("the event loop cannot start")?;
    let result = runtime.block_on(serve(&config));
    // Whatever still runs on a thread of its own (a read of a slow disk) does not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(config: &Config) -> anyhow::Result<u8> {
    let started = std::time::Instant::now();
    let signals = Signals::listen()?;
    let socket = Socket::bind(&config.paths.socket)?;
    let tcp = bind_metrics(&config.metrics.address).await?;
    let path = config.http_socket();
    let unix = http::bind_unix(&path).with_context(|| format!("{} cannot be bound", path.display()))?;

    let metrics = Arc::new(Metrics::new());
    let node = Node::open(settings(config)).await.context("the node cannot be opened")?;
    let counted = node.clone();
    metrics.set_counts(move || counted.counts());
    let sources = Arc::new(sources(&node, &metrics));
    tokio::spawn(http::serve_unix(unix, Arc::clone(&sources)));
    if let Some(tcp) = tcp {
        tokio::spawn(http::serve_tcp(tcp, sources));
    }

    notify::tell("READY=1");
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %config.paths.socket.display(),
        took = ?started.elapsed(),
        "ready"
    );
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let serving = server::serve(node, socket, metrics, async {
        // The sender gone is a reason to stop as well.
        let _ = stopped.await;
    });
    let code = tokio::select! {
        result = serving => result.map(|()| 0)?,
        code = signals.second(stop) => code,
    };
    // The next agent binds it anew.
    let _ = std::fs::remove_file(path);
    tracing::info!("ended; pods go on running");
    Ok(code)
}

async fn bind_metrics(address: &str) -> anyhow::Result<Option<TcpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    let parsed: SocketAddr = address.parse().with_context(|| format!("metrics.address \"{address}\""))?;
    let bound = http::bind_tcp(parsed).await;
    bound.map(Some).with_context(|| {
        format!("metrics.address {address} cannot be bound; set another in the configuration, or \"\" for none")
    })
}

/// The configuration in the node's terms.
fn settings(config: &Config) -> Settings {
    Settings {
        root: config.paths.root.clone(),
        state: config.paths.state.clone(),
        network: config.network.clone(),
        registry: config.registry.clone(),
        images: config.images.clone(),
        cgroup_driver: match config.runtime.cgroup_driver {
            CgroupDriver::Cgroupfs => views::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => views::CgroupDriver::Systemd,
        },
        cgroup_parent: config.runtime.cgroup_parent().to_owned(),
        handlers: config.runtime.handlers.clone(),
        default_sysctls: config.runtime.default_sysctls.clone().into_iter().collect(),
        seccomp_profile: config.runtime.seccomp_profile.clone(),
    }
}

fn sources(node: &Node, metrics: &Arc<Metrics>) -> Sources {
    let (healthy, pulling) = (node.clone(), node.clone());
    Sources {
        metrics: Arc::clone(metrics),
        health: Box::new(move || healthy.healthy()),
        pulls: Box::new(move || {
            let pulls = pulling.pulls().into_iter();
            pulls
                .map(|pull| serde_json::json!({"image": pull.image, "bytes": pull.bytes, "total": pull.total}))
                .collect()
        }),
    }
}

/// The signals that end an agent.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Tells `stop` of the first signal; ready with the second, whose exit code it gives.
    async fn second(mut self, stop: tokio::sync::oneshot::Sender<()>) -> u8 {
        self.next().await;
        notify::tell("STOPPING=1");
        tracing::info!("stopping: no more requests are taken, those under way are finished");
        let _ = stop.send(());
        self.next().await;
        tracing::warn!("stopping at once: a second signal came");
        1
    }
}
