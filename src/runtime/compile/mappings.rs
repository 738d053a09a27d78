//! Mappings of ids, and offsets of clocks: what user and time namespaces are made with.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxIdMapping, LinuxTimeOffset};

use super::{Result, invalid};
use crate::runtime::plan::{IdMaps, IdRange, TimeOffset};

/// The most lines that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_RANGES: usize = 340;
/// The longest text that it takes: less than a page.
const MAX_TEXT: usize = 4095;

/// Both mappings, or none. Nothing is ever cut: what the kernel would not take whole is an error here.
pub(super) fn id_maps(
    field: &str,
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<Option<IdMaps>> {
    let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => return Ok(None),
        (true, false) => return invalid(format!("{field}uidMappings"), "is missing, as there are gidMappings"),
        (false, true) => return invalid(format!("{field}gidMappings"), "is missing, as there are uidMappings"),
        (false, false) => {}
    }
    let maps = IdMaps {
        uids: ranges(&format!("{field}uidMappings"), uids)?,
        gids: ranges(&format!("{field}gidMappings"), gids)?,
    };
    Ok(Some(maps))
}

fn ranges(field: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<IdRange>> {
    if mappings.len() > MAX_RANGES {
        let reason = format!("has {} entries, and the kernel takes no more than {MAX_RANGES}", mappings.len());
        return invalid(field, reason);
    }
    let ranges: Vec<IdRange> =
        mappings.iter().map(|m| IdRange { inside: m.container_id(), outside: m.host_id(), size: m.size() }).collect();
    for range in &ranges {
        let text = || format!("{} to {} ({} ids)", range.inside, range.outside, range.size);
        if range.size == 0 {
            return invalid(field, format!("{} maps nothing", text()));
        }
        // The last of all numbers is nobody's id.
        if [range.inside, range.outside].iter().any(|start| start.checked_add(range.size).is_none()) {
            return invalid(field, format!("{} goes beyond the last id", text()));
        }
    }
    for (what, start) in
        [("container", (|r: &IdRange| r.inside) as fn(&IdRange) -> u32), ("host", |r: &IdRange| r.outside)]
    {
        let mut sorted: Vec<&IdRange> = ranges.iter().collect();
        sorted.sort_unstable_by_key(|range| start(range));
        if let Some(pair) = sorted.windows(2).find(|pair| start(pair[0]) + pair[0].size > start(pair[1])) {
            return invalid(field, format!("maps the {what}'s id {} twice", start(pair[1])));
        }
    }
    let length: usize = ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.size).len()).sum();
    if length > MAX_TEXT {
        let reason = format!("comes to {length} bytes, and the kernel takes no more than {MAX_TEXT}");
        return invalid(field, reason);
    }
    Ok(ranges)
}

/// In the order of their names.
pub(super) fn time_offsets(offsets: Option<&HashMap<String, LinuxTimeOffset>>) -> Result<Vec<TimeOffset>> {
    let mut all = Vec::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        let field = || format!("linux.timeOffsets {clock:?}");
        if !matches!(clock.as_str(), "boottime" | "monotonic") {
            return invalid(field(), "is no clock of a time namespace (boottime, monotonic)");
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds >= 1_000_000_000 {
            return invalid(field(), format!("{nanoseconds} nanoseconds are a second or more"));
        }
        all.push(TimeOffset { clock: clock.clone(), seconds: offset.secs().unwrap_or(0), nanoseconds });
    }
    all.sort_by(|a, b| a.clock.cmp(&b.clock));
    Ok(all)
}

#[cfg(test)]
mod tests;
