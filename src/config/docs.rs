//! The documentation of the settings, taken from the doc comments of their structs.
//!
//! The sources that define settings are part of the program as text, and the little that is needed of Rust's syntax is
//! read from them: a struct, the comment above it, its public fields and the comments above those. So a section is an
//! ordinary struct, wherever it lives, and there is no second place where a default or a comment could be old. A test
//! goes over every key of the defaults and asks for its comment.

/// Every file that defines a part of [`super::Config`].
const SOURCES: [&str; 3] =
    [include_str!("../config.rs"), include_str!("../network/config.rs"), include_str!("../registry/config.rs")];

/// A struct as its source has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StructDoc {
    /// Lines, without the slashes.
    pub(super) doc: Vec<&'static str>,
    pub(super) fields: Vec<FieldDoc>,
}

/// A field of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldDoc {
    pub(super) name: &'static str,
    pub(super) doc: Vec<&'static str>,
    /// What stands between the backquotes of a last line "Example: `…`": the value, in TOML.
    pub(super) example: Option<&'static str>,
    /// The type, as written.
    pub(super) kind: &'static str,
}

/// The struct `name` of any of the sources.
pub(super) fn find(name: &str) -> Option<StructDoc> {
    SOURCES.iter().find_map(|source| find_in(source, name))
}

pub(super) fn find_in(source: &'static str, name: &str) -> Option<StructDoc> {
    let head = format!("pub struct {name} {{");
    let mut doc = Vec::new();
    let mut lines = source.lines();
    loop {
        let line = lines.next()?;
        if line == head {
            break;
        }
        comment(line, &mut doc);
    }
    let mut fields = Vec::new();
    let mut field_doc = Vec::new();
    for line in lines.take_while(|line| *line != "}") {
        let declared = line.trim().strip_prefix("pub ").and_then(|rest| rest.strip_suffix(',')?.split_once(": "));
        if let Some((name, kind)) = declared {
            fields.push(field(name, kind, std::mem::take(&mut field_doc)));
        } else {
            comment(line.trim(), &mut field_doc);
        }
    }
    Some(StructDoc { doc, fields })
}

/// Adds a line of a doc comment to `doc`; attributes leave it alone, anything else ends it.
fn comment(line: &'static str, doc: &mut Vec<&'static str>) {
    match line.strip_prefix("///") {
        Some(text) => doc.push(text.trim()),
        None if line.starts_with("#[") => {}
        None => doc.clear(),
    }
}

fn field(name: &'static str, kind: &'static str, mut doc: Vec<&'static str>) -> FieldDoc {
    let example = doc.last().and_then(|line| line.strip_prefix("Example: `")?.strip_suffix('`'));
    if example.is_some() {
        doc.pop();
    }
    FieldDoc { name, doc, example, kind }
}
