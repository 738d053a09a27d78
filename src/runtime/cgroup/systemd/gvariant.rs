//! Values of properties as annotations give them, in the text form of GVariant: `true`, `'text'`, `uint64 5`,
//! `['a', 'b']`, `[('/dev/sda', uint64 5)]`.

use super::super::{CgroupError, Result};
use super::Value;

/// The annotations with this prefix are properties of the scope.
pub const PREFIX: &str = "org.systemd.property.";

/// The property that the annotation `key` gives, whose name must begin with [`PREFIX`]. A name that ends with `Sec` and
/// has a plain number is one in seconds, which systemd takes in microseconds under the name with `USec`.
pub fn parse(key: &str, text: &str) -> Result<Value> {
    let refuse = |reason: &str| CgroupError::invalid(format!("annotation {key}"), text, reason);
    let name = key.strip_prefix(PREFIX).unwrap_or_default();
    // As systemd names its properties; the last letter too.
    if name.len() < 3
        || !name.starts_with(|c: char| c.is_ascii_uppercase())
        || !name.chars().all(|c| c.is_ascii_alphabetic())
    {
        return Err(refuse("this cannot be the name of a property of systemd"));
    }
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value(0).ok_or_else(|| refuse("it is no value in GVariant's text form"))?;
    if !parser.rest.trim().is_empty() {
        return Err(refuse("something follows the value"));
    }
    match name.strip_suffix("Sec").filter(|stem| !stem.ends_with(['U', 'N'])) {
        None => Ok(Value::property(name, value)),
        Some(stem) => {
            let micros = |seconds: f64| (seconds >= 0.0).then_some((seconds * 1e6) as u64);
            let micros = match value {
                Value::I32(v) => micros(f64::from(v)),
                Value::U32(v) => micros(f64::from(v)),
                Value::I64(v) => u64::try_from(v).ok().and_then(|v| v.checked_mul(1_000_000)),
                Value::U64(v) => v.checked_mul(1_000_000),
                Value::F64(v) => micros(v),
                _ => None,
            };
            let micros = micros.ok_or_else(|| refuse("a time must be a number of seconds"))?;
            Ok(Value::property(format!("{stem}USec"), Value::U64(micros)))
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, text: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.skip();
        if depth > 8 {
            return None;
        }
        match self.rest.chars().next()? {
            '\'' | '"' => self.quoted().map(Value::Str),
            '[' => {
                self.eat("[");
                let values = self.list("]", depth)?;
                let element = values.first()?.signature();
                values.iter().all(|value| value.signature() == element).then_some(Value::Array(element, values))
            }
            '(' => {
                self.eat("(");
                self.list(")", depth).map(Value::Struct)
            }
            '<' => {
                self.eat("<");
                let value = self.value(depth + 1)?;
                self.eat(">").then(|| Value::Variant(Box::new(value)))
            }
            '@' => {
                self.eat("@");
                let end = self.rest.find(' ')?;
                let (signature, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.typed(signature, depth)
            }
            _ => {
                let word = self.word();
                match word {
                    "true" => Some(Value::Bool(true)),
                    "false" => Some(Value::Bool(false)),
                    "boolean" => self.typed("b", depth),
                    "byte" => self.typed("y", depth),
                    "int16" => self.typed("n", depth),
                    "uint16" => self.typed("q", depth),
                    "int32" => self.typed("i", depth),
                    "uint32" => self.typed("u", depth),
                    "int64" => self.typed("x", depth),
                    "uint64" => self.typed("t", depth),
                    "double" => self.typed("d", depth),
                    "string" => self.typed("s", depth),
                    "objectpath" => self.typed("o", depth),
                    "signature" => self.typed("g", depth),
                    // Without a type: a number with a point is a double, another one 32 bits with a sign.
                    word if word.contains(['.', 'e']) && !word.starts_with("0x") => word.parse().ok().map(Value::F64),
                    word => i32::try_from(integer(word)?).ok().map(Value::I32),
                }
            }
        }
    }

    fn typed(&mut self, signature: &str, depth: usize) -> Option<Value> {
        self.skip();
        if let Some(element) = signature.strip_prefix('a') {
            if !self.eat("[") {
                return None;
            }
            let mut values = Vec::new();
            while !self.eat("]") {
                values.push(self.typed(element, depth + 1).filter(|_| depth < 8)?);
                self.eat(",");
            }
            return Some(Value::Array(element.to_owned(), values));
        }
        match signature {
            "s" => self.quoted().map(Value::Str),
            "o" => self.quoted().map(Value::Path),
            "g" => self.quoted().map(Value::Signature),
            "b" => match self.word() {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => None,
            },
            "d" => self.word().parse().ok().map(Value::F64),
            "y" => integer(self.word())?.try_into().ok().map(Value::Byte),
            "n" => integer(self.word())?.try_into().ok().map(Value::I16),
            "q" => integer(self.word())?.try_into().ok().map(Value::U16),
            "i" => integer(self.word())?.try_into().ok().map(Value::I32),
            "u" => integer(self.word())?.try_into().ok().map(Value::U32),
            "x" => integer(self.word())?.try_into().ok().map(Value::I64),
            "t" => integer(self.word())?.try_into().ok().map(Value::U64),
            _ => self.value(depth + 1).filter(|value| value.signature() == signature),
        }
    }

    fn list(&mut self, end: &str, depth: usize) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !self.eat(end) {
            values.push(self.value(depth + 1)?);
            if !self.eat(",") && !self.rest.trim_start().starts_with(end) {
                return None;
            }
        }
        Some(values)
    }

    fn quoted(&mut self) -> Option<String> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next().filter(|(_, c)| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    other => text.push(other),
                },
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text).filter(|text| !text.contains('\0'));
                }
                c => text.push(c),
            }
        }
        None
    }
}

fn integer(word: &str) -> Option<i128> {
    match word.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}
