use super::exec::parse_user;
use super::kill::parse_signal;
use super::record::check_id;

#[test]
fn users_are_numbers_in_full() {
    assert_eq!(parse_user("1"), Ok((1, None)));
    assert_eq!(parse_user("1:2"), Ok((1, Some(2))));
    for bad in ["", ":1", "1:", "0x1", "+1", "-1", "4294967296", "4294967295", "root", "1:2:3", " 1"] {
        assert!(parse_user(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn signals_have_names_and_numbers() {
    for (text, number) in [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("term", 15), ("SIGUSR1", 10), ("34", 34), ("0", 0)] {
        assert_eq!(parse_signal(text).unwrap(), number);
    }
    for bad in ["", "SIG9", "65", "-9", "SIGNOTHING", "SIG"] {
        assert!(parse_signal(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn ids_are_no_paths_and_no_options() {
    for good in ["a", "web-1", "A_b+c.d"] {
        check_id(good).unwrap();
    }
    for bad in ["", "..", ".", ".x", "a/b", "-x", "a b", "a\n", &"a".repeat(1025)] {
        assert!(check_id(bad).is_err(), "{bad:?}");
    }
}
