//! The names on the wire, and the three answers of the HTTP server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http::{Sources, bind_tcp, bind_unix, serve_tcp, serve_unix};
use super::process;
use super::{Counts, Metrics};

#[test]
fn operations_and_errors_are_counted_by_rpc() {
    let metrics = Metrics::new();
    metrics.operation("RunPodSandbox", Duration::from_millis(3), None);
    metrics.operation("StopContainer", Duration::from_millis(1), Some("NotFound"));
    let text = metrics.text();
    for line in [
        "orlop_cri_operation_duration_seconds_count{rpc=\"RunPodSandbox\"} 1",
        "orlop_cri_operation_duration_seconds_bucket{le=\"0.005\",rpc=\"RunPodSandbox\"} 1",
        "orlop_cri_operation_duration_seconds_bucket{le=\"0.0025\",rpc=\"RunPodSandbox\"} 0",
        "orlop_cri_errors_total{rpc=\"StopContainer\",code=\"NotFound\"} 1",
        concat!("orlop_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn objects_are_counted_when_asked() {
    let metrics = Metrics::new();
    assert!(!metrics.text().contains("orlop_pods"));
    metrics.set_counts(|| Counts { pods_ready: 2, containers_running: 3, shims: 2, ..Counts::default() });
    let text = metrics.text();
    for line in ["orlop_pods{state=\"ready\"} 2", "orlop_containers{state=\"running\"} 3", "orlop_shims 2"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn a_pull_ends_one_way_or_the_other() {
    let metrics = Metrics::new();
    metrics.pull(Duration::from_secs(2), None);
    metrics.pull(Duration::from_secs(2), Some("NotFound"));
    metrics.set_counts(|| Counts { pulls_in_progress: 1, pulled_bytes: 1000, ..Counts::default() });
    let text = metrics.text();
    for line in [
        "orlop_image_pulls_in_progress 1",
        "orlop_image_pull_duration_seconds_count 1",
        "orlop_image_pull_failures_total{cause=\"NotFound\"} 1",
        "orlop_image_pulled_bytes_total 1000",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn the_process_shows_itself() {
    assert!(process::read().is_some());
    let text = Metrics::new().text();
    for name in
        ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        let value: f64 = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{name}\n{text}"))
            .parse()
            .unwrap();
        assert!(value >= 0.0, "{name} {value}");
    }
}

async fn get(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin), path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_server_answers_over_tcp_and_over_the_socket_file() {
    let healthy = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&healthy);
    let sources = Arc::new(Sources {
        metrics: Arc::new(Metrics::new()),
        health: Box::new(move || asked.load(Ordering::Relaxed).then_some(()).ok_or("no network".to_owned())),
        pulls: Box::new(|| serde_json::json!([{"image": "a"}])),
    });
    let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    std::fs::write(&path, "left over").unwrap();
    let unix = bind_unix(&path).unwrap();
    let servers =
        [tokio::spawn(serve_tcp(tcp, Arc::clone(&sources))), tokio::spawn(serve_unix(unix, Arc::clone(&sources)))];

    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let answer = get(&mut stream, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("openmetrics-text"), "{answer}");
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert!(get(&mut stream, "/pulls").await.ends_with("[{\"image\":\"a\"}]"));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert!(get(&mut stream, "/healthz").await.starts_with("HTTP/1.1 200 OK"));
    healthy.store(false, Ordering::Relaxed);
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let answer = get(&mut stream, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no network\n"), "{answer}");
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert!(get(&mut stream, "/other").await.starts_with("HTTP/1.1 404"));
    servers.iter().for_each(tokio::task::JoinHandle::abort);
}
