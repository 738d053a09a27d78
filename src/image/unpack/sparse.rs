//! Which parts of a sparse file a layer holds.

/// A part of the file that has data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// All such parts, in order.
pub(crate) type Map = Vec<Segment>;

/// A map that was checked: in order, not overlapping, within the file, and as long as the data.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) map: Map,
    /// The size of the file with its holes.
    pub(crate) real_size: u64,
}

impl Sparse {
    /// `data` is the number of bytes that the archive holds for the file.
    pub(crate) fn new(map: Map, real_size: u64, data: u64) -> Result<Self, &'static str> {
        let mut end = 0_u64;
        let mut total = 0_u64;
        for segment in &map {
            if segment.offset < end {
                return Err("its parts overlap or are out of order");
            }
            end = segment.offset.checked_add(segment.len).ok_or("a part ends beyond any file")?;
            total = total.checked_add(segment.len).ok_or("its parts are longer than any file")?;
        }
        if end > real_size {
            return Err("a part ends beyond the file");
        }
        if total != data {
            return Err("its parts are not as long as the data");
        }
        Ok(Self { map, real_size })
    }
}
