//! The wire format: messages with a header, a fixed part and nested attributes, all padded to four bytes.

pub(super) const ERROR: u16 = libc::NLMSG_ERROR as u16;
pub(super) const DONE: u16 = libc::NLMSG_DONE as u16;

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;
/// The two flags above the type of an attribute: nested, and in network byte order.
const TYPE_MASK: u16 = !(0b11 << 14);
/// The answer carries extended attributes (a message in words).
const ACK_TLVS: u16 = 0x200;
/// The answer does not repeat the request.
const CAPPED: u16 = 0x100;
const ACK_MESSAGE: u16 = 1;

/// What is read of a message's header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
}

/// Messages that are sent with one system call.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

/// Where an open attribute begins.
#[derive(Debug)]
#[must_use = "an attribute that is never closed has no length"]
pub struct Open(usize);

impl Batch {
    /// Without messages yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message; NLM_F_REQUEST is added to the flags.
    pub fn message(&mut self, kind: u16, flags: u16) -> &mut Self {
        self.finish();
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self
    }

    /// Asks for an acknowledgement of the message begun last.
    pub fn acknowledge(&mut self) {
        if let Some(&start) = self.starts.last() {
            let flags = self.u16_at(start + 6) | libc::NLM_F_ACK as u16;
            self.bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    /// Appends to the fixed part.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute with its value.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// A number of this machine's byte order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order, as netfilter wants them.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// A byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attribute(kind, &[value])
    }

    /// A string with its terminating NUL.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let length = (4 + value.len() + 1) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
        self
    }

    /// Opens an attribute that holds attributes.
    pub fn open(&mut self, kind: u16) -> Open {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Open(at)
    }

    /// Ends what [`Batch::open`] began.
    pub fn close(&mut self, open: Open) {
        let length = (self.bytes.len() - open.0) as u16;
        self.bytes[open.0..open.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute that holds what `fill` adds.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let open = self.open(kind);
        fill(self);
        self.close(open);
        self
    }

    /// Numbers the messages from `first` on; the last number is returned.
    pub(super) fn number(&mut self, first: u32) -> u32 {
        self.finish();
        let mut sequence = first;
        for &start in &self.starts {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
        }
        sequence.wrapping_sub(1)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes the length of the message begun last.
    fn finish(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

/// The messages of a received datagram. A message that claims more than there is ends the iteration.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_of(rest.get(..4)?)? as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
        let header =
            Header { kind: u16_of(&message[4..])?, flags: u16_of(&message[6..])?, sequence: u32_of(&message[8..])? };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, &message[HEADER..]))
    })
}

/// The error number and explanation of an NLMSG_ERROR; `None` for an acknowledgement.
pub(super) fn refusal(header: Header, payload: &[u8]) -> Option<(i32, String)> {
    let code = u32_of(payload).unwrap_or_default() as i32;
    if code == 0 {
        return None;
    }
    let mut text = String::new();
    if header.flags & ACK_TLVS != 0 {
        // After the code: the header of the request, and the rest of the request unless it was cut off.
        let request = payload.get(4..).unwrap_or_default();
        let length = if header.flags & CAPPED != 0 { HEADER } else { u32_of(request).unwrap_or_default() as usize };
        let rest = request.get(length.next_multiple_of(4)..).unwrap_or_default();
        if let Some(message) = attributes(rest).string(ACK_MESSAGE) {
            text = message.to_owned();
        }
    }
    Some((-code, text))
}

/// Reads the attributes of a message or of a nested attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(&'a [u8]);

/// The attributes that these bytes are.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Attributes<'a> {
    /// Type and value of each.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let length = u16_of(rest)? as usize;
            let kind = u16_of(rest.get(2..)?)? & TYPE_MASK;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of the first attribute of this type.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A number of this machine's byte order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        u32_of(self.get(kind)?)
    }

    /// The attributes that an attribute holds.
    pub fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// A string; what is not UTF-8 counts as absent.
    pub fn string(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(value).ok()
    }
}

/// The number that the bytes begin with.
pub fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// The number that the bytes begin with.
pub fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The number that the bytes begin with.
pub fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}
