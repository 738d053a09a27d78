use super::*;

fn text(seconds: u64, nanoseconds: u32) -> String {
    let mut out = [0; STAMP];
    write(seconds, nanoseconds, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn known_times() {
    assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(text(951_782_399, 999_999_999), "2000-02-28T23:59:59.999999999Z");
    assert_eq!(text(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
    assert_eq!(text(1_700_000_000, 120_000_000), "2023-11-14T22:13:20.120000000Z");
    assert_eq!(text(253_402_300_799, 0), "9999-12-31T23:59:59.000000000Z");
}

/// Every day from 1970 to 2370, against a calendar that counts them one by one.
#[test]
fn every_day_of_an_era() {
    let (mut year, mut month, mut day) = (1970, 1, 1);
    for days in 0..146_097 {
        assert_eq!(date(days), (year, month, day));
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        day += 1;
        if day > length {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
}
