//! The documents say what is there: every link leads somewhere, every command exists.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// README.md and what is in docs/, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .chain([root.join("README.md")])
        .map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    for (page, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if link.contains("://") || file.is_empty() {
                continue;
            }
            let target = page.parent().unwrap().join(file);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
        }
    }
}

#[test]
fn every_command_exists() {
    let mut commands = BTreeSet::new();
    for (_, text) in pages() {
        // In code, a command begins a line or follows a backquote or a separator.
        let code = text.split(['`', '\n', ';', '|', '&']);
        commands.extend(code.filter_map(|part| {
            let (program, rest) = part.trim().split_once(' ')?;
            let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase()).collect();
            (program == "orlop" && !word.is_empty()).then_some(word)
        }));
    }
    assert!(commands.contains("serve") && commands.len() > 5, "{commands:?}");
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_orlop")).args([&command, "--help"]).output().unwrap();
        assert!(output.status.success(), "`orlop {command}` is in a document and does not exist");
    }
}
