use super::*;

#[test]
fn an_error_names_the_field_from_the_outside() {
    let wrong: Checked = Err(Invalid::new("is missing"));
    let error = wrong.at("host_path").item(3).at("mounts").at("config").unwrap_err();
    assert_eq!(error.to_string(), "config.mounts[3].host_path: is missing");
}

#[test]
fn ids_are_words_that_could_be_ids() {
    for right in ["0123abc", "non-existing_id.1", &"f".repeat(256)] {
        id(right).unwrap();
    }
    for wrong in ["", ".", "..", "-", "a/b", "../a", "a b", "a\0", "ä", "a\n", &"f".repeat(257)] {
        id(wrong).unwrap_err();
    }
}

#[test]
fn paths_stay_where_they_belong() {
    for right in ["", "a", "a/b.log", "...", "a/..b/c.."] {
        beneath(right).unwrap();
    }
    for wrong in ["/a", "..", "../a", "a/../b", "a/..", "a\0b", &"a".repeat(4096)] {
        beneath(wrong).unwrap_err();
    }
    absolute("/").unwrap();
    for wrong in ["", "a", "./a", "/a\0"] {
        absolute(wrong).unwrap_err();
    }
}

#[test]
fn names_of_sysctls() {
    for right in ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.100/rp_filter", "kernel.shm_rmid_forced"] {
        sysctl(right).unwrap();
    }
    for wrong in ["", "net", "net..x", ".net.x", "net.x.", "net/../x", "net.x=1", "net x.y", "net.x\n", "net/../../etc"]
    {
        sysctl(wrong).unwrap_err();
    }
}

#[test]
fn lists_of_cpus() {
    for right in ["", "0", "0-3", "0,2-4,7"] {
        cpu_list(right).unwrap();
    }
    for wrong in ["a", "-1", "1-", "3-1", "0,,1", "0 1", "0\n", "999999", ","] {
        cpu_list(wrong).unwrap_err();
    }
}

#[test]
fn pairs_count_all_their_bytes() {
    let of = |n: usize| BTreeMap::from([("k".to_owned(), "v".repeat(n - 1))]);
    pairs(&of(100), 100).unwrap();
    pairs(&of(101), 100).unwrap_err();
    pairs(&BTreeMap::from([(String::new(), String::new())]), 100).unwrap_err();
    pairs(&BTreeMap::from([("k".repeat(KEY_LIMIT + 1), String::new())]), LABELS_LIMIT).unwrap_err();
}

#[test]
fn long_values_are_cut_in_errors() {
    assert_eq!(quoted("a\n"), r#""a\n""#);
    let long = quoted(&"ä".repeat(1000));
    assert!(long.len() < 200 && long.ends_with("(2000 bytes)"), "{long}");
}
