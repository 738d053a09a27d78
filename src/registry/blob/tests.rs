use super::*;

#[test]
fn ranges() {
    let get = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, text.parse().unwrap());
        content_range(&headers)
    };
    assert_eq!(get("bytes 5-9/10"), Some((5, 9, Some(10))));
    assert_eq!(get("bytes 5-9/*"), Some((5, 9, None)));
    for wrong in ["", "bytes", "bytes 5-/10", "bytes */10", "items 5-9/10", "bytes -1-9/10", "bytes 5-9/x"] {
        assert_eq!(get(wrong), None, "{wrong}");
    }
}

#[test]
fn pace_is_judged_at_the_end_of_a_window_only() {
    let window = Duration::from_secs(10);
    let mut pace = Pace::default();
    pace.add(Duration::from_secs(9), 0);
    assert!(pace.judge(window, 100).is_ok());
    pace.add(Duration::from_secs(1), 1000);
    assert!(pace.judge(window, 100).is_ok());
    assert_eq!(pace.bytes, 0);
    pace.add(Duration::from_secs(10), 999);
    assert!(pace.judge(window, 100).is_err());
    let mut idle = Pace::default();
    idle.add(window, 0);
    assert!(idle.judge(window, 0).is_err());
}
