//! The defaults as a commented file, and the reference page: both from the sections themselves.

use toml::Value;

use super::Config;
use super::docs::{self, FieldDoc};

/// One table of the file: its path, what is known of its keys, and its default values.
pub(super) struct Section {
    pub(super) path: String,
    pub(super) doc: Vec<&'static str>,
    pub(super) fields: Vec<(FieldDoc, Option<Value>)>,
    /// Tables that a person adds, one a name or one after the other: none is there by default.
    pub(super) added: Vec<Added>,
}

/// A kind of table that a person may add.
pub(super) struct Added {
    /// With its brackets, as in `[registry.hosts."NAME"]`.
    pub(super) header: String,
    pub(super) about: FieldDoc,
    pub(super) fields: Vec<FieldDoc>,
}

/// All tables, in the order of the printed file.
pub(super) fn sections() -> Vec<Section> {
    let defaults = Value::try_from(Config::default()).expect("the defaults are tables, strings, numbers and lists");
    let mut sections = Vec::new();
    collect("", "Config", &defaults, &mut sections);
    sections
}

/// Adds the table at `path`, whose struct is `name`, and those below it.
fn collect(path: &str, name: &str, defaults: &Value, sections: &mut Vec<Section>) {
    let Some(known) = docs::find(name) else { return };
    let join =
        |field: &FieldDoc| if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
    let mut section = Section { path: path.to_owned(), doc: known.doc, fields: Vec::new(), added: Vec::new() };
    let mut below = Vec::new();
    for field in known.fields {
        let value = defaults.get(field.name).cloned();
        match value {
            Some(table) if docs::find(field.kind).is_some() => below.push((field, table)),
            Some(_) if field.example.is_none() && element(field.kind).is_some() => {
                added(&join(&field), field, &mut section.added);
            }
            value => section.fields.push((field, value)),
        }
    }
    if !path.is_empty() {
        sections.push(section);
    }
    for (field, table) in below {
        collect(&join(&field), field.kind, &table, sections);
    }
}

/// The struct in a map or a list of structs, and how a table of one begins and ends.
fn element(kind: &'static str) -> Option<(&'static str, bool)> {
    let map = kind.strip_prefix("BTreeMap<String, ");
    let name = map.or_else(|| kind.strip_prefix("Vec<"))?.strip_suffix('>')?;
    docs::find(name).map(|_| (name, map.is_some()))
}

fn added(path: &str, field: FieldDoc, all: &mut Vec<Added>) {
    let Some((name, is_map)) = element(field.kind) else { return };
    let inner = if is_map { format!("{path}.\"NAME\"") } else { path.to_owned() };
    let header = if is_map { format!("[{inner}]") } else { format!("[[{inner}]]") };
    let fields = docs::find(name).unwrap_or_default().fields;
    let (tables, fields): (Vec<FieldDoc>, Vec<FieldDoc>) = fields.into_iter().partition(|f| element(f.kind).is_some());
    all.push(Added { header, about: field, fields });
    for table in tables {
        added(&format!("{inner}.{}", table.name), table, all);
    }
}

/// The default configuration as a file to start from: every key with its comment. A key without a default is there
/// as a comment.
pub fn default_toml() -> String {
    let mut out =
        String::from("# Orlop's configuration. Every value here is the default; keep only what you change.\n");
    for Section { path, doc, fields, added } in sections() {
        out.push('\n');
        comment(&mut out, &doc);
        out.push_str(&format!("[{path}]\n"));
        for (field, value) in fields {
            out.push('\n');
            comment(&mut out, &field.doc);
            match (value, field.example) {
                (Some(value), None) => out.push_str(&format!("{} = {value}\n", field.name)),
                (_, example) => out.push_str(&format!("# {} = {}\n", field.name, example.unwrap_or_default())),
            }
        }
        for Added { header, about, fields } in added {
            out.push('\n');
            comment(&mut out, &about.doc);
            let keys: Vec<&str> = fields.iter().map(|field| field.name).collect();
            out.push_str(&format!("# {header}  # with {}\n", keys.join(", ")));
        }
    }
    out
}

/// The reference page, docs/configuration.md.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         One TOML file, `/etc/orlop/config.toml`; it may be absent. `orlop config default` prints it with all defaults,\n\
         `orlop config validate` names every problem in it with its line. A key that is not listed here is an error.\n\n\
         This page is generated from the source (`src/config.rs` and the structs it names); a test keeps it so.\n",
    );
    for Section { path, doc, fields, added } in sections() {
        out.push_str(&format!("\n## `[{path}]`\n\n{}\n", doc.join("\n")));
        for (field, value) in fields {
            out.push_str(&format!("\n### `{path}.{}`\n\n{}\n", field.name, field.doc.join("\n")));
            match (value, field.example) {
                (Some(value), None) => out.push_str(&format!("\nDefault: `{value}`\n")),
                (_, Some(example)) => {
                    out.push_str(&format!("\nUnset by default. Example: `{} = {example}`\n", field.name));
                }
                (None, None) => out.push_str("\nUnset by default.\n"),
            }
        }
        for Added { header, about, fields } in added {
            out.push_str(&format!("\n### `{header}`\n\n{}\n\n", about.doc.join("\n")));
            for field in fields {
                out.push_str(&format!("- `{}`: {}\n", field.name, field.doc.join("\n  ")));
            }
        }
    }
    out
}

fn comment(out: &mut String, doc: &[&str]) {
    for line in doc {
        out.push_str(if line.is_empty() { "#" } else { "# " });
        out.push_str(line);
        out.push('\n');
    }
}
