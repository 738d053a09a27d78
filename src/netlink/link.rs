//! Messages about links (rtnetlink(7)).

use super::Batch;

/// Begins a message about the link of an index (0: the one that an attribute names), with `struct ifinfomsg`: which of
/// its `IFF_*` change, and to what.
pub fn link_message(batch: &mut Batch, kind: u16, flags: u16, index: u32, set: u32, change: u32) -> &mut Batch {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&set.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    batch.message(kind, flags).raw(&fixed)
}
