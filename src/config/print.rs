//! The defaults as a commented file, and the reference page: both from the sections themselves.

use toml::Value;

use super::settings::{Documented, Field};
use super::{Config, Images, Log, Metrics, Paths, Runtime};

/// A section with what is known of its keys.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) fields: &'static [Field],
}

fn section<T: Documented>(name: &'static str) -> Section {
    Section { name, doc: T::DOC, fields: T::FIELDS }
}

/// All sections, in the order of the printed file.
pub(super) fn sections() -> Vec<Section> {
    vec![
        section::<Paths>("paths"),
        section::<Runtime>("runtime"),
        section::<Images>("images"),
        section::<Metrics>("metrics"),
        section::<Log>("log"),
    ]
}

/// The default configuration as a file to start from: every key with its comment. A key without a default is there
/// as a comment.
pub fn default_toml() -> String {
    let mut out =
        String::from("# Orlop's configuration. Every value here is the default; keep only what you change.\n");
    let defaults = defaults();
    for Section { name, doc, fields } in sections() {
        out.push('\n');
        comment(&mut out, doc);
        out.push_str(&format!("[{name}]\n"));
        for field in fields {
            out.push('\n');
            comment(&mut out, field.doc);
            let value = value_of(&defaults, name, field);
            match (value, field.example) {
                (Some(value), None) => out.push_str(&format!("{} = {value}\n", field.name)),
                (_, Some(example)) => out.push_str(&format!("# {} = {example}\n", field.name)),
                (None, None) => out.push_str(&format!("# {} =\n", field.name)),
            }
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
         This page is generated from the source (`src/config.rs` and the sections it names); a test keeps it so.\n",
    );
    let defaults = defaults();
    for Section { name, doc, fields } in sections() {
        out.push_str(&format!("\n## `[{name}]`\n\n{}\n", text(doc)));
        for field in fields {
            out.push_str(&format!("\n### `{name}.{}`\n\n{}\n", field.name, text(field.doc)));
            match (value_of(&defaults, name, field), field.example) {
                (Some(value), None) => out.push_str(&format!("\nDefault: `{value}`\n")),
                (_, Some(example)) => {
                    out.push_str(&format!("\nUnset by default. Example: `{} = {example}`\n", field.name))
                }
                (None, None) => out.push_str("\nUnset by default.\n"),
            }
        }
    }
    out
}

fn defaults() -> Value {
    Value::try_from(Config::default()).expect("the defaults are tables, strings, numbers and lists")
}

fn value_of<'a>(defaults: &'a Value, section: &str, field: &Field) -> Option<&'a Value> {
    defaults.get(section)?.get(field.name)
}

fn comment(out: &mut String, doc: &[&str]) {
    for line in doc {
        out.push_str(&format!("#{line}\n"));
    }
}

fn text(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}
