//! Conversions between the numbers of cgroup v1, in which the runtime-spec speaks, and those of v2.

use super::{CgroupError, Result};

/// `cpu.weight` (v2) for `cpu.shares` (v1): the curve through (2, 1), (1024, 100) and (262144, 10000) that runtimes
/// agreed on, so that a container without limits keeps the default weight. `None` for 0, which means unset.
pub fn weight_from_shares(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // The curve meets whole numbers exactly; rounding errors of the power must not push it to the next.
            Some((10f64.powf(exponent) - 1e-9).ceil() as u64)
        }
    }
}

/// `io.weight` (v2, 1 to 10000) for a blkio weight (v1, 10 to 1000). `None` for 0, which means unset.
pub fn io_weight_from_blkio(weight: u16) -> Option<u64> {
    (weight != 0).then(|| 1 + (u64::from(weight).max(10) - 10) * 9999 / 990)
}

/// What to write to `memory.swap.max` for the spec's `limit` and `swap`, of which the latter is memory and swap
/// together. `None`: nothing. 0 counts as unset in both.
pub fn swap_max(limit: Option<i64>, swap: Option<i64>) -> Result<Option<String>> {
    let limit = limit.filter(|limit| *limit != 0);
    let Some(swap) = swap.filter(|swap| *swap != 0) else {
        // Memory without a limit and swap not mentioned: both are meant.
        return Ok(limit.is_some_and(|limit| limit < 0).then(|| "max".to_owned()));
    };
    if swap < 0 {
        return Ok(Some("max".to_owned()));
    }
    match limit {
        None | Some(..0) => Err(CgroupError::invalid("memory.swap", swap, "it needs a memory.limit")),
        Some(limit) if swap < limit => Err(CgroupError::invalid(
            "memory.swap",
            swap,
            format!("it is memory and swap together and must not be less than memory.limit ({limit})"),
        )),
        Some(limit) => Ok(Some((swap - limit).to_string())),
    }
}

/// The text of a limit in which a negative number means none.
pub fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
mod tests;
