use std::sync::Mutex;

use super::*;

#[derive(Default)]
struct Recorder(Mutex<Vec<(&'static str, Code)>>);

impl Observer for Recorder {
    fn observed(&self, rpc: &'static str, code: Code, _: Duration) {
        self.0.lock().unwrap().push((rpc, code));
    }
}

#[tokio::test]
async fn each_end_is_reported_once() {
    let recorder = Recorder::default();
    observe(&recorder, "A", None, async { Ok(1) }).await.unwrap();
    observe::<()>(&recorder, "B", None, async { Err(Status::not_found("x")) }).await.unwrap_err();
    let never = observe::<()>(&recorder, "C", None, std::future::pending());
    tokio::time::timeout(Duration::from_millis(5), never).await.unwrap_err();
    let late = observe::<()>(&recorder, "D", Some(Duration::from_millis(5)), std::future::pending()).await.unwrap_err();
    assert_eq!((late.code(), late.message()), (Code::DeadlineExceeded, "D: the time that the client gave is over"));
    let seen = recorder.0.into_inner().unwrap();
    let expected = [("A", Code::Ok), ("B", Code::NotFound), ("C", Code::Cancelled), ("D", Code::DeadlineExceeded)];
    assert_eq!(seen, expected);
}

#[test]
fn deadlines_are_read_as_the_protocol_writes_them() {
    let read = |text: &'static str| {
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
        deadline(&request)
    };
    assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
    assert_eq!(read("3M"), Some(Duration::from_secs(180)));
    assert_eq!(read("4S"), Some(Duration::from_secs(4)));
    assert_eq!(read("50m"), Some(Duration::from_millis(50)));
    assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
    assert_eq!(read("1n"), Some(Duration::from_nanos(1)));
    for wrong in ["", "S", "1", "-1S", "123456789S", "1s", "+1S"] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
    assert_eq!(deadline(&Request::new(())), None);
}

#[test]
fn metrics_count_what_the_wire_sees() {
    let metrics = Metrics::new();
    metrics.observed("Status", Code::Ok, Duration::from_millis(1));
    metrics.observed("ContainerStatus", Code::NotFound, Duration::from_millis(1));
    metrics.observed("PullImage", Code::Unknown, Duration::from_secs(1));
    let text = metrics.text();
    for line in [
        r#"orlop_cri_operation_duration_seconds_count{rpc="Status"} 1"#,
        r#"orlop_cri_errors_total{rpc="ContainerStatus",code="NotFound"} 1"#,
        r#"orlop_image_pull_failures_total{cause="Unknown"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    // tonic's own names are the specification's, but for one.
    for code in (1..=16).map(Code::from) {
        assert_eq!(name(code), format!("{code:?}"));
    }
}
