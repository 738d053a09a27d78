#![allow(clippy::unwrap_used)]
//! The logs of real containers.

mod shim_support;

use std::os::fd::AsFd;
use std::time::Instant;

use orlop::shim::client::{ContainerIo, ShimEventKind};
use shim_support::container::*;
use shim_support::*;

async fn ended(pod: &mut Pod) {
    match pod.event().await {
        ShimEventKind::Exited { drained: true, .. } => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn long_lines_come_in_parts() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let script = "i=0; while [ $i -lt 2000 ]; do printf 01234567890123456789; i=$((i+1)); done; echo; echo short";
    Box1::shell(script).run(&pod, "c1").await;
    ended(&mut pod).await;
    let got = records(&pod.path("c1.log"));
    let tags: Vec<_> = got.iter().map(|record| (&record[..9], record.len() - 9)).collect();
    assert_eq!(tags, [("stdout P ", 16_384), ("stdout P ", 16_384), ("stdout F ", 40_000 - 32_768), ("stdout F ", 5)]);
}

/// Rotation while it prints as fast as it can: every line is in one of the files, once, and in order.
#[tokio::test]
async fn no_line_is_lost_when_the_log_is_rotated() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let count = 400_000;
    Box1::shell(&format!("seq {count}")).run(&pod, "c1").await;
    let mut rotated = 0;
    for i in 0..30 {
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        std::fs::rename(pod.path("c1.log"), pod.path(&format!("c1.log.{i:03}"))).unwrap();
        let log = open_log(&pod.path("c1.log"));
        rotated += 1;
        if pod.client.reopen_log("c1", log.as_fd()).await.is_err() {
            break;
        }
    }
    ended(&mut pod).await;
    let mut files: Vec<_> = (0..rotated).map(|i| pod.path(&format!("c1.log.{i:03}"))).collect();
    files.push(pod.path("c1.log"));
    let filled = files.iter().filter(|file| file.metadata().unwrap().len() > 0).count();
    println!("{filled} of {} files have lines", files.len());
    let numbers = files.iter().flat_map(|file| records(file));
    let mut next = 1;
    for record in numbers {
        assert_eq!(record, format!("stdout F {next}"));
        next += 1;
    }
    assert_eq!(next - 1, count);
    let log = open_log(&pod.path("c1.log"));
    assert!(pod.client.reopen_log("c1", log.as_fd()).await.is_err(), "it prints nothing any more");
}

/// The point of the shim: nobody is there, and the container prints on.
#[tokio::test]
async fn a_container_prints_without_an_agent() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let container = Box1::shell("while [ ! -e /go ]; do sleep 0.01; done; seq 100000; exit 0");
    container.run(&pod, "c1").await;
    pod.disconnect().await;
    std::fs::File::create(container.path("go")).unwrap();
    until(|| pod.path("c1.exit").exists()).await;
    let got = records(&pod.path("c1.log"));
    assert_eq!((got.len(), got.last().unwrap().as_str()), (100_000, "stdout F 100000"));
}

/// The figure that the performance page quotes, with a container at the other end and the file on tmpfs.
#[tokio::test]
async fn heavy_output_is_pumped_fast() {
    if !busybox() {
        return;
    }
    let mut pod = Pod::new().await;
    let megabytes = 1200;
    // 99 characters and a line feed.
    let line = "0123456789".repeat(9) + "012345678\n";
    let container = Box1::shell("cat $(yes /lines | head -n 20)");
    std::fs::write(container.path("lines"), line.repeat(600_000)).unwrap();
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("c1.log");
    let log = open_log(&path);
    let start = Instant::now();
    container.start(&pod, "c1", ContainerIo::Pipes { log: Some(log.as_fd()), stdin: false }).await.unwrap();
    ended(&mut pod).await;
    let rate = megabytes as f64 / start.elapsed().as_secs_f64();
    println!("log of a container: {rate:.0} MB/s of lines of 100 bytes");
    assert_eq!(path.metadata().unwrap().len(), megabytes * 10_000 * 140);
}
