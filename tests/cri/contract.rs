//! Our contract is the published one: names, numbers, types, services, to the last field.
//!
//! `proto/api.proto` has our own comments, so its text differs from the published file; what it describes must not. The
//! published side is a listing, one line a fact, that `tests/contract` makes from the module's own descriptors.

use std::path::Path;
use std::process::Command;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract");
const COMMITTED: &str = include_str!("../contract/cri-v0.37.2.txt");

#[test]
fn the_contract_is_the_published_one() {
    compare(COMMITTED, &ours());
}

/// The committed listing is what the module says today, where there is a Go toolchain to ask.
#[test]
fn the_listing_is_the_modules_own() {
    let go = |args: &[&str]| Command::new("go").args(args).current_dir(DIRECTORY).env("GOTOOLCHAIN", "local").output();
    match go(&["mod", "download"]) {
        Err(error) => return eprintln!("skipped: no go on this machine: {error}"),
        Ok(output) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr);
            return eprintln!("skipped: the module cri-api v0.37.2 cannot be had here: {}", why.trim());
        }
        Ok(_) => {}
    }
    let output = go(&["run", "."]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compare(COMMITTED, std::str::from_utf8(&output.stdout).unwrap());
}

/// Each line that only one side has, rather than two walls of text.
fn compare(published: &str, found: &str) {
    let missing: Vec<_> = published.lines().filter(|line| !found.lines().any(|l| l == *line)).collect();
    let added: Vec<_> = found.lines().filter(|line| !published.lines().any(|l| l == *line)).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing: {missing:#?}\nadded: {added:#?}");
    assert_eq!(published, found, "the order or the number of equal lines differs");
    assert!(published.lines().count() > 800, "the listing is cut off");
    assert!(Path::new(DIRECTORY).join("main.go").exists());
}

fn ours() -> String {
    let set = FileDescriptorSet::decode(orlop::cri::DESCRIPTORS).unwrap();
    assert_eq!(set.file.len(), 1);
    let file = &set.file[0];
    let scope = format!(".{}", file.package());
    let mut lines = vec![format!("package {} {}", file.package(), file.syntax())];
    file.message_type.iter().for_each(|m| message(&mut lines, &scope, m));
    file.enum_type.iter().for_each(|e| enumeration(&mut lines, &scope, e));
    for service in &file.service {
        for m in &service.method {
            let stream = |yes| if yes { "stream " } else { "" };
            lines.push(format!(
                "rpc {scope}.{}.{} {}{} -> {}{}",
                service.name(),
                m.name(),
                stream(m.client_streaming()),
                m.input_type(),
                stream(m.server_streaming()),
                m.output_type()
            ));
        }
    }
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

fn message(lines: &mut Vec<String>, scope: &str, m: &DescriptorProto) {
    let name = format!("{scope}.{}", m.name());
    let flag = |yes: bool, text: &'static str| if yes { text } else { "" };
    let map = m.options.as_ref().is_some_and(|o| o.map_entry());
    lines.push(format!("message {name}{}", flag(map, " map")));
    for f in &m.field {
        let kind = Type::try_from(f.r#type.unwrap()).unwrap().as_str_name();
        let label = Label::try_from(f.label.unwrap()).unwrap().as_str_name();
        let type_name = f.type_name.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
        lines.push(format!(
            "field {name} {} {} {} {}{type_name}{}{}{}",
            f.number(),
            f.name(),
            label.trim_start_matches("LABEL_").to_lowercase(),
            kind.trim_start_matches("TYPE_").to_lowercase(),
            flag(f.options.as_ref().is_some_and(|o| o.deprecated()), " deprecated"),
            flag(f.proto3_optional(), " presence"),
            flag(f.oneof_index.is_some(), " oneof"),
        ));
    }
    m.nested_type.iter().for_each(|nested| message(lines, &name, nested));
    m.enum_type.iter().for_each(|e| enumeration(lines, &name, e));
}

fn enumeration(lines: &mut Vec<String>, scope: &str, e: &EnumDescriptorProto) {
    lines.extend(e.value.iter().map(|v| format!("enum {scope}.{} {} {}", e.name(), v.number(), v.name())));
}
