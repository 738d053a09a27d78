//! The arguments themselves.

use std::ffi::OsString;

use clap::CommandFactory;

use super::*;

fn code(arguments: &[&str]) -> u8 {
    run_with(arguments.iter().map(OsString::from))
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_explained() {
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
    }
    let run = Cli::command().find_subcommand("run").unwrap().get_long_about().unwrap().to_string();
    assert!(run.contains("initContainers"), "{run}");
}

#[test]
fn what_cannot_be_used_ends_with_64() {
    assert_eq!(code(&["orlop", "frobnicate"]), EXIT_USAGE);
    assert_eq!(code(&["orlop", "exec", "web"]), EXIT_USAGE);
    assert_eq!(code(&["orlop", "config", "validate", "/nonexistent/orlop.toml"]), EXIT_USAGE);
    assert_eq!(code(&["orlop", "pods", "--endpoint", "tcp://127.0.0.1:1"]), EXIT_USAGE);
}

#[test]
fn what_fails_ends_with_1_and_what_works_with_0() {
    assert_eq!(code(&["orlop", "pods", "--endpoint", "unix:///nonexistent/orlop.sock"]), 1);
    assert_eq!(code(&["orlop", "config", "default"]), 0);
    assert_eq!(code(&["orlop", "--version"]), 0);
}

#[test]
fn tables_are_aligned_without_trailing_spaces() {
    let rows = [["a".to_owned(), "b".to_owned()], ["long".to_owned(), String::new()]];
    assert_eq!(output::table(["X", "Y"], &rows), "X     Y\na     b\nlong\n");
}

#[test]
fn sizes_and_ids_are_short() {
    assert_eq!(output::bytes(999), "999B");
    assert_eq!(output::bytes(319_000_000), "319.0MB");
    assert_eq!(output::memory(20 << 10), "20.0KiB");
    assert_eq!(output::short_id("sha256:0123456789abcdef"), "0123456789ab");
    assert_eq!(output::ago(0), "-");
}
