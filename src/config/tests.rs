//! The printed defaults are the defaults, the reference page is what the code says, and what is wrong is named.

use std::path::Path;

use super::*;

fn problems(text: &str) -> Vec<String> {
    match Config::parse("c.toml", text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid { problems }) => problems.iter().map(Problem::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(Config::parse("c.toml", "").unwrap(), Config::default());
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    assert_eq!(Config::parse("default", &default_toml()).unwrap(), Config::default());
}

#[test]
fn the_examples_are_valid_too() {
    let mut text = String::new();
    for section in print::sections() {
        text += &format!("[{}]\n", section.path);
        for (field, _) in section.fields {
            text += &field.example.map(|value| format!("{} = {value}\n", field.name)).unwrap_or_default();
        }
    }
    let wrong: Vec<String> = problems(&text).into_iter().filter(|p| !p.ends_with("is not a file")).collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{text}");
}

/// The leaves of the defaults, as `section.key`.
fn keys(path: &str, table: &toml::Table, found: &mut Vec<String>) {
    let sections: Vec<String> = print::sections().into_iter().map(|s| s.path).collect();
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(inner) if path == *key || sections.contains(&path) => keys(&path, inner, found),
            _ => found.push(path),
        }
    }
}

#[test]
fn every_key_is_documented() {
    let documented: Vec<String> = print::sections()
        .iter()
        .inspect(|section| assert!(!section.doc.is_empty(), "[{}]", section.path))
        .flat_map(|section| {
            let added = section.added.iter().map(|added| added.about.clone());
            let fields = section.fields.iter().map(|(field, _)| field.clone()).chain(added);
            fields.map(|field| (section.path.clone(), field)).collect::<Vec<_>>()
        })
        .map(|(path, field)| {
            assert!(!field.doc.is_empty(), "{path}.{}", field.name);
            format!("{path}.{}", field.name)
        })
        .collect();
    let mut found = Vec::new();
    keys("", toml::Value::try_from(Config::default()).unwrap().as_table().unwrap(), &mut found);
    assert!(found.len() > 10);
    for key in found {
        assert!(documented.contains(&key), "{key} is not documented");
    }
}

#[test]
fn a_struct_is_read_with_its_comments() {
    let source = "/// Not this.\npub enum A {\n}\n\n/// One.\n///\n/// Two.\n#[derive(Debug)]\npub struct B {\n    /// X.\n    \
                  #[serde(default)]\n    pub x: u32,\n    /// Y.\n    /// Example: `\"a\"`\n    pub y: Option<String>,\n}\n";
    let found = docs::find_in(source, "B").unwrap();
    assert_eq!(found.doc, ["One.", "", "Two."]);
    assert_eq!(found.fields[0].doc, ["X."]);
    assert_eq!((found.fields[1].name, found.fields[1].kind), ("y", "Option<String>"));
    assert_eq!((found.fields[1].doc.as_slice(), found.fields[1].example), (&["Y."][..], Some("\"a\"")));
    assert_eq!(docs::find_in(source, "A"), None);
}

/// `UPDATE_DOCS=1 cargo test --lib config::` writes the page anew.
#[test]
fn the_reference_page_is_what_the_code_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, markdown()).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap();
    assert!(written == markdown(), "docs/configuration.md is old: UPDATE_DOCS=1 cargo test --lib config:: renews it");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
    assert_eq!(
        problems("[paths]\nroot = \"/a\"\nsokcet = \"/b\"\n"),
        ["c.toml:3: paths.sokcet: unknown key; did you mean \"socket\"?"]
    );
    assert_eq!(problems("\n[path]\nroot = \"/a\"\n"), ["c.toml:2: path: unknown key; did you mean \"paths\"?"]);
    assert_eq!(
        problems("[paths]\nbananas = 1\n"),
        ["c.toml:2: paths.bananas: unknown key; known are root, state, socket"]
    );
}

#[test]
fn an_unknown_value_names_the_nearest() {
    assert_eq!(
        problems("[log]\nformat = \"jsn\"\n"),
        ["c.toml:2: log.format: unknown value \"jsn\"; did you mean \"json\"?"]
    );
}

#[test]
fn every_problem_is_named_in_the_order_of_the_file() {
    let text = "[paths]\nroot = 5\nstate = \"run\"\n\n[runtime]\ncgroup_parent = \"../x\"\nfoo = 1\ncgroup_driver = \"systend\"\n\
                [metrics]\naddress = \"x\"\n[registry.hosts.a]\nmirrors = [{ ulr = \"x\" }]\n";
    let found = problems(text);
    let lines: Vec<&str> = found.iter().map(|p| p.split(": ").next().unwrap()).collect();
    let expected: Vec<String> = [2, 3, 6, 7, 8, 10, 12].iter().map(|line| format!("c.toml:{line}")).collect();
    assert_eq!(lines, expected, "{found:#?}");
    assert!(found[0].contains("paths.root: invalid type: integer `5`"), "{found:#?}");
    assert!(found[6].contains("registry.hosts.a.mirrors: unknown key; did you mean \"url\"?"), "{found:#?}");
}

#[test]
fn under_systemd_the_parent_is_a_slice() {
    let systemd = "[runtime]\ncgroup_driver = \"systemd\"\n";
    assert!(problems(&format!("{systemd}cgroup_parent = \"/x\"\n"))[0].contains("slice"));
    let config = Config::parse("c.toml", systemd).unwrap();
    assert_eq!(config.runtime.cgroup_parent(), "orlop.slice");
    assert_eq!(Config::default().runtime.cgroup_parent(), "/orlop");
}

#[test]
fn text_that_is_not_toml_has_a_line() {
    let found = problems("[paths]\nroot = \n");
    assert!(found[0].starts_with("c.toml:2: "), "{found:?}");
}

#[test]
fn a_missing_file_is_the_defaults_only_when_nobody_named_it() {
    let error = Config::load(Some(Path::new("/nonexistent/orlop.toml"))).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/orlop.toml: cannot be read"), "{error}");
}

#[test]
fn distances() {
    assert_eq!(parse::distance("socket", "socket"), 0);
    assert_eq!(parse::distance("sokcet", "socket"), 1);
    assert_eq!(parse::distance("", "abc"), 3);
    assert_eq!(parse::distance("root", "state"), 4);
}

#[test]
fn handlers_are_checked_when_the_agent_starts() {
    let text = |table: &str| format!("[runtime.handlers.{table}");
    assert_eq!(problems(&text("busy]\npath = \"/bin/sh\"\nargs = [\"-x\"]\nroot = \"/run/x\"")), [""; 0]);
    assert_eq!(problems(&text("mine]")), [""; 0]);
    for (table, why) in [
        ("crun]\npath = \"crun\"", "is not an absolute path"),
        ("crun]\npath = \"/no/such/crun\"", "No such file"),
        ("crun]\npath = \"/etc\"", "is not a file"),
        ("crun]\npath = \"/etc/passwd\"", "cannot be executed"),
        ("crun]\npath = \"/bin/sh\"\nargs = [\"\"]", "a word is empty"),
        ("crun]\npath = \"/bin/sh\"\nroot = \"x\"", "root: \"x\" is not an absolute path"),
        ("crun]\nargs = [\"-x\"]", "its path is missing"),
        ("orlop]\npath = \"/bin/sh\"", "is the runtime that is built in"),
        ("\"A/b\"]", "is no name of a handler"),
        ("crun]\nbinary = \"/bin/sh\"", "unknown key"),
    ] {
        let found = problems(&text(table));
        assert!(found.len() == 1 && found[0].contains(why), "{table}: {found:?}");
    }
}
