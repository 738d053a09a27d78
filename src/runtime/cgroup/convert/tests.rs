use super::*;

#[test]
fn shares_follow_the_agreed_curve() {
    let vector = [
        (2, 1),
        (3, 2),
        (10, 4),
        (51, 11),
        (102, 17),
        (204, 29),
        (256, 35),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (4096, 303),
        (22_000, 1204),
        (262_144, 10_000),
        (1 << 40, 10_000),
    ];
    for (shares, weight) in vector {
        assert_eq!(weight_from_shares(shares), Some(weight), "{shares}");
    }
    assert_eq!(weight_from_shares(0), None);
    assert_eq!(weight_from_shares(1), Some(1));
}

#[test]
fn shares_never_turn_the_order_around() {
    let mut last = 0;
    for shares in 1..20_000 {
        let weight = weight_from_shares(shares).unwrap();
        assert!((1..=10_000).contains(&weight) && weight >= last, "{shares} -> {weight}");
        last = weight;
    }
}

#[test]
fn blkio_weights_span_the_range() {
    assert_eq!(io_weight_from_blkio(0), None);
    assert_eq!(io_weight_from_blkio(10), Some(1));
    assert_eq!(io_weight_from_blkio(500), Some(4950));
    assert_eq!(io_weight_from_blkio(1000), Some(10_000));
}

#[test]
fn swap_is_the_part_beyond_the_limit() {
    let ok = |limit, swap| swap_max(limit, swap).unwrap();
    assert_eq!(ok(Some(100), Some(300)).as_deref(), Some("200"));
    assert_eq!(ok(Some(100), Some(100)).as_deref(), Some("0"));
    assert_eq!(ok(Some(100), Some(-1)).as_deref(), Some("max"));
    assert_eq!(ok(Some(-1), Some(0)).as_deref(), Some("max"));
    assert_eq!(ok(Some(-1), None).as_deref(), Some("max"));
    assert_eq!(ok(Some(-1), Some(-1)).as_deref(), Some("max"));
    assert_eq!(ok(None, Some(-1)).as_deref(), Some("max"));
    assert_eq!(ok(Some(100), None), None);
    assert_eq!(ok(None, None), None);
    for (limit, swap) in [(Some(100), 99), (None, 100), (Some(-1), 100), (Some(0), 100)] {
        let message = swap_max(limit, Some(swap)).unwrap_err().to_string();
        assert!(message.contains("memory.swap") && message.contains("memory.limit"), "{message}");
    }
}
