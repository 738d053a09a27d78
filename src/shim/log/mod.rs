//! What containers print, into files in the format that kubelets read:
//! `<RFC 3339 time> stdout|stderr F|P <line>`, a record a line, P for all but the last part of a line that is longer than
//! 16 KiB or has no end.

mod frame;
mod pump;
mod stamp;

pub(super) use pump::{Buffers, Pumped, Stream, StreamName};
