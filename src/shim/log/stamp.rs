//! Times as `2006-01-02T15:04:05.000000000Z`, without a calendar library.

/// Bytes of a time.
pub(super) const STAMP: usize = 30;

const DAY: u64 = 86_400;

/// Writes a time (seconds and nanoseconds since 1970, UTC) that is in the years up to 9999.
pub(super) fn write(seconds: u64, nanoseconds: u32, out: &mut [u8; STAMP]) {
    let (year, month, day) = date(seconds / DAY);
    let second = seconds % DAY;
    *out = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut out[0..4], year);
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], second / 3600);
    digits(&mut out[14..16], second / 60 % 60);
    digits(&mut out[17..19], second % 60);
    digits(&mut out[20..29], nanoseconds.into());
}

fn digits(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day since 1970. Years are taken to begin in March, so that the odd day comes last, and days
/// are counted in eras of 400 such years, which are all alike.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    // From the first of March of year 0 to 1970.
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March have 153 days, and so the five after them.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests;
