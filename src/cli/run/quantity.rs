//! Kubernetes quantities: `500m`, `64Mi`, `1.5`, `2e3`.

/// The value of `text` times `scale`, rounded up; a `scale` of 1000 gives thousandths.
pub(super) fn parse(text: &str, scale: i64) -> Option<i64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    // An exponent, as in 2e3; the suffix E alone is exa.
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty() && *rest != "i") {
        let factor = 10f64.powi(exponent.parse().ok()?);
        return round_up(number.parse::<f64>().ok()? * factor * scale as f64);
    }
    let (numerator, denominator): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let tens = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let value = digits.checked_mul(numerator)?.checked_mul(i128::from(scale))?;
    let divisor = denominator.checked_mul(tens)?;
    i64::try_from(value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).ok()
}

fn round_up(value: f64) -> Option<i64> {
    let value = value.ceil();
    (value.is_finite() && value.abs() < i64::MAX as f64).then_some(value as i64)
}
