//! Messages as bytes (D-Bus specification, "Message Protocol"), little-endian both ways.

use super::value::{Value, first_type};

/// What is received at most; what systemd says is a few hundred bytes.
pub(super) const MAX: usize = 1 << 20;

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub kind: Kind,
    /// Its number on its connection.
    pub serial: u32,
    /// The number of the call that it answers.
    pub reply_to: Option<u32>,
    pub path: String,
    pub interface: String,
    pub member: String,
    /// The name of an error.
    pub error: String,
    pub destination: String,
    pub body: Vec<Value>,
}

impl Message {
    /// An empty one.
    pub fn new(kind: Kind, serial: u32) -> Self {
        let empty = String::new;
        Self {
            kind,
            serial,
            reply_to: None,
            path: empty(),
            interface: empty(),
            member: empty(),
            error: empty(),
            destination: empty(),
            body: Vec::new(),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::default();
        for value in &self.body {
            body.put(value);
        }
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        let mut out = Writer { bytes: vec![b'l', kind, 0, 1] };
        out.number(&(body.bytes.len() as u32).to_le_bytes());
        out.number(&self.serial.to_le_bytes());
        let signature: String = self.body.iter().map(Value::signature).collect();
        let texts = [
            (1, Value::Path(self.path.clone())),
            (2, Value::str(&self.interface)),
            (3, Value::str(&self.member)),
            (4, Value::str(&self.error)),
            (6, Value::str(&self.destination)),
            (8, Value::Signature(signature)),
        ];
        let mut fields: Vec<Value> = Vec::new();
        for (code, value) in texts {
            let empty = match &value {
                Value::Signature(text) => text.is_empty(),
                value => value.as_str().is_none_or(str::is_empty),
            };
            if !empty {
                fields.push(Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]));
            }
        }
        if let Some(serial) = self.reply_to {
            fields.push(Value::Struct(vec![Value::Byte(5), Value::Variant(Box::new(Value::U32(serial)))]));
        }
        out.put(&Value::Array("(yv)".to_owned(), fields));
        out.align(8);
        out.bytes.extend(body.bytes);
        out.bytes
    }

    /// The first message in `bytes` and its length; `None` while it is not all there.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        if bytes.len() < 16 {
            return Ok(None);
        }
        if bytes[0] != b'l' || bytes[3] != 1 {
            return Err("another byte order or version");
        }
        let kind = match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err("an unknown kind of message"),
        };
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (body_len, fields_len) = (number(4) as usize, number(12) as usize);
        if body_len > MAX || fields_len > MAX {
            return Err("a message that is too long");
        }
        let start = (16 + fields_len).next_multiple_of(8);
        let end = start + body_len;
        if bytes.len() < end {
            return Ok(None);
        }
        let mut message = Self::new(kind, number(8));
        let mut signature = String::new();
        let mut reader = Reader { bytes: &bytes[..16 + fields_len], at: 12, depth: 0 };
        let Value::Array(_, fields) = reader.take("a(yv)")? else { return Err("fields that are none") };
        for field in fields {
            let Value::Struct(field) = field else { continue };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { continue };
            let text = || value.as_str().unwrap_or_default().to_owned();
            match (code, &**value) {
                (1, _) => message.path = text(),
                (2, _) => message.interface = text(),
                (3, _) => message.member = text(),
                (4, _) => message.error = text(),
                (5, Value::U32(serial)) => message.reply_to = Some(*serial),
                (6, _) => message.destination = text(),
                (8, Value::Signature(text)) => signature.clone_from(text),
                _ => {} // unknown fields are to be ignored
            }
        }
        // Alignment counts from the start of the body, which is aligned itself.
        let mut reader = Reader { bytes: &bytes[start..end], at: 0, depth: 0 };
        let mut rest = signature.as_str();
        while !rest.is_empty() {
            let (first, after) = first_type(rest).ok_or("a signature that ends too early")?;
            message.body.push(reader.take(first)?);
            rest = after;
        }
        Ok(Some((message, end)))
    }
}

/// How the elements of an array, and its first, are aligned.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.number(&(text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn short_text(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn put(&mut self, value: &Value) {
        match value {
            Value::Byte(v) => self.bytes.push(*v),
            Value::Bool(v) => self.number(&u32::from(*v).to_le_bytes()),
            Value::I16(v) => self.number(&v.to_le_bytes()),
            Value::U16(v) => self.number(&v.to_le_bytes()),
            Value::I32(v) => self.number(&v.to_le_bytes()),
            Value::U32(v) => self.number(&v.to_le_bytes()),
            Value::I64(v) => self.number(&v.to_le_bytes()),
            Value::U64(v) => self.number(&v.to_le_bytes()),
            Value::F64(v) => self.number(&v.to_le_bytes()),
            Value::Str(text) | Value::Path(text) => self.text(text),
            Value::Signature(text) => self.short_text(text),
            Value::Variant(inner) => {
                self.short_text(&inner.signature());
                self.put(inner);
            }
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|field| self.put(field));
            }
            Value::Array(element, values) => {
                self.number(&[0; 4]);
                let length_at = self.bytes.len() - 4;
                // The padding before the first element is not counted.
                self.align(alignment(element));
                let start = self.bytes.len();
                values.iter().for_each(|value| self.put(value));
                let length = (self.bytes.len() - start) as u32;
                self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

const SHORT: &str = "a value that ends too early";

impl Reader<'_> {
    fn number<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.at = self.at.next_multiple_of(N);
        let bytes = self.bytes.get(self.at..self.at + N).and_then(|bytes| bytes.try_into().ok()).ok_or(SHORT)?;
        self.at += N;
        Ok(bytes)
    }

    fn text(&mut self, len: usize) -> Result<String, &'static str> {
        let bytes = self.bytes.get(self.at..self.at + len).ok_or(SHORT)?;
        self.at += len + 1; // a zero follows
        String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8")
    }

    fn short_text(&mut self) -> Result<String, &'static str> {
        let [len] = self.number::<1>()?;
        self.text(usize::from(len))
    }

    fn take(&mut self, signature: &str) -> Result<Value, &'static str> {
        if self.depth > 32 {
            return Err("a value that is nested too deeply");
        }
        self.depth += 1;
        let value = self.take_one(signature);
        self.depth -= 1;
        value
    }

    fn take_one(&mut self, signature: &str) -> Result<Value, &'static str> {
        Ok(match signature.as_bytes().first().ok_or("an empty signature")? {
            b'y' => Value::Byte(self.number::<1>()?[0]),
            b'b' => Value::Bool(u32::from_le_bytes(self.number()?) != 0),
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            b'u' | b'h' => Value::U32(u32::from_le_bytes(self.number()?)),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::F64(f64::from_le_bytes(self.number()?)),
            b's' | b'o' => {
                let len = u32::from_le_bytes(self.number()?) as usize;
                let text = self.text(len)?;
                if signature == "o" { Value::Path(text) } else { Value::Str(text) }
            }
            b'g' => Value::Signature(self.short_text()?),
            b'v' => {
                let inner = self.short_text()?;
                match first_type(&inner) {
                    Some((first, "")) => Value::Variant(Box::new(self.take(first)?)),
                    _ => return Err("a variant that is not one value"),
                }
            }
            b'(' | b'{' => {
                self.at = self.at.next_multiple_of(8);
                let mut rest = signature.get(1..signature.len() - 1).ok_or("a structure without an end")?;
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (first, after) = first_type(rest).ok_or("a structure without an end")?;
                    fields.push(self.take(first)?);
                    rest = after;
                }
                Value::Struct(fields)
            }
            b'a' => {
                let len = u32::from_le_bytes(self.number()?) as usize;
                let element = &signature[1..];
                self.at = self.at.next_multiple_of(alignment(element));
                let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or(SHORT)?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.take(element)?);
                }
                Value::Array(element.to_owned(), values)
            }
            _ => return Err("an unknown type"),
        })
    }
}
