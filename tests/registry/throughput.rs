//! One blob streams from loopback, whole; how fast, and what it costs, is printed:
//! `cargo test --release --test registry much -- --nocapture`.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::common::{digest, noise, session};

const SIZE: u64 = 128 << 20;

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sends the same MiB again and again; its own CPU time is taken off the account.
fn serve(size: u64, cpu_time: Arc<AtomicU64>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let block = noise(1 << 20);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").unwrap();
            for _ in 0..size / block.len() as u64 {
                if stream.write_all(&block).is_err() {
                    break;
                }
            }
            cpu_time.store(cpu(ClockId::ThreadCPUTime).as_nanos() as u64, Ordering::SeqCst);
        }
    });
    addr
}

fn report(what: &str, bytes: u64, chunks: u64, begin: (Instant, Duration), server: Duration) {
    let time = begin.0.elapsed();
    let spent = cpu(ClockId::ProcessCPUTime) - begin.1 - server;
    println!(
        "{what}: {:.2} GB/s, {:.3} s CPU a GB on our side, {chunks} chunks of {} KiB on average",
        bytes as f64 / time.as_secs_f64() / 1e9,
        spent.as_secs_f64() / (bytes as f64 / 1e9),
        bytes / chunks.max(1) / 1024,
    );
}

#[test]
fn much_arrives_whole() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let spent = Arc::new(AtomicU64::new(0));
    let addr = serve(SIZE, Arc::clone(&spent));
    let session = session(&addr.to_string());
    let mut before = Duration::ZERO;
    let mut server_time = || {
        std::thread::sleep(Duration::from_millis(50));
        let now = Duration::from_nanos(spent.load(Ordering::SeqCst));
        let used = now.saturating_sub(before);
        before = now;
        used
    };
    for round in 0..2 {
        let begin = (Instant::now(), cpu(ClockId::ProcessCPUTime));
        let chunks = runtime.block_on(async {
            let mut stream = session.blob(&digest(b""), SIZE, &[]).unverified();
            let (mut chunks, mut bytes) = (0, 0);
            while let Some(chunk) = stream.next_chunk().await.unwrap() {
                chunks += 1;
                bytes += chunk.len() as u64;
            }
            assert_eq!(bytes, SIZE);
            chunks
        });
        report(&format!("stream, round {round}"), SIZE, chunks, begin, server_time());
    }

    // As the image store reads: a task hands chunks to a thread.
    let begin = (Instant::now(), cpu(ClockId::ProcessCPUTime));
    let (send, receive) = mpsc::sync_channel::<bytes::Bytes>(4);
    let reader = std::thread::spawn(move || receive.iter().map(|chunk| u64::from(!chunk.is_empty())).sum::<u64>());
    let mut stream = session.blob(&digest(b""), SIZE, &[]).unverified();
    runtime.block_on(async {
        tokio::spawn(async move {
            while let Some(chunk) = stream.next_chunk().await.unwrap() {
                send.send(chunk).unwrap();
            }
        })
        .await
        .unwrap();
    });
    let chunks = reader.join().unwrap();
    report("stream to a thread", SIZE, chunks, begin, server_time());

    // Verified: what the digest costs on top.
    let begin = (Instant::now(), cpu(ClockId::ProcessCPUTime));
    let chunks = runtime.block_on(async {
        let mut stream = session.blob(&digest(b""), SIZE, &[]);
        let mut chunks = 0;
        while let Ok(Some(_)) = stream.next_chunk().await {
            chunks += 1;
        }
        chunks
    });
    report("stream, verified", SIZE, chunks, begin, server_time());
}
