use super::*;

fn file(text: &str) -> AuthFile {
    serde_json::from_str(text).unwrap()
}

async fn user_of(file: &AuthFile, registry: &str, path: &str) -> Option<String> {
    match file.credentials(&Repository::new(registry, path).unwrap()).await.unwrap() {
        Some(Credentials::Basic { username, .. }) => Some(username),
        Some(Credentials::IdentityToken(token)) => Some(format!("token {token}")),
        _ => None,
    }
}

#[tokio::test]
async fn entries_by_host_and_namespace() {
    let file = file(
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHVi OnA=" , "username": "hub", "password": "p"},
            "r.io": {"username": "all", "password": "p"},
            "r.io/team": {"username": "team", "password": "p"},
            "r.io/team/app": {"auth": "YXBwOnA="},
            "http://plain.io:5000/v2/": {"identitytoken": "i"},
            "empty.io": {}
        }, "HttpHeaders": {"x": "y"}}"#,
    );
    assert_eq!(user_of(&file, "docker.io", "library/x").await.as_deref(), Some("hub"));
    assert_eq!(user_of(&file, "r.io", "x").await.as_deref(), Some("all"));
    assert_eq!(user_of(&file, "r.io", "team/x").await.as_deref(), Some("team"));
    assert_eq!(user_of(&file, "r.io", "teammate/x").await.as_deref(), Some("all"));
    assert_eq!(user_of(&file, "r.io", "team/app").await.as_deref(), Some("app"));
    assert_eq!(user_of(&file, "plain.io:5000", "x").await.as_deref(), Some("token i"));
    for registry in ["plain.io", "r.io:5000", "empty.io", "io", "evil.r.io"] {
        assert_eq!(user_of(&file, registry, "x").await, None, "{registry}");
    }
}

#[tokio::test]
async fn mistakes_do_not_quote_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert!(AuthFile::read(&path).unwrap().is_none());
    std::fs::write(&path, r#"{"auths": {"r.io": {"auth": 12345678, "password": "hush"}}}"#).unwrap();
    let error = AuthFile::read(&path).unwrap_err().to_string();
    assert!(error.contains("config.json") && !error.contains("12345678"), "{error}");
    std::fs::write(&path, r#"{"auths": {"r.io": {"auth": "hush"}}}"#).unwrap();
    let file = AuthFile::read(&path).unwrap().unwrap();
    let error = file.credentials(&Repository::new("r.io", "x").unwrap()).await.unwrap_err().to_string();
    assert!(!error.contains("hush"), "{error}");
    assert!(!format!("{file:?}").contains("hush"));
}

#[tokio::test]
async fn helpers_with_names_that_are_paths_are_not_run() {
    for name in ["../evil", "a/b", "", "a b"] {
        assert!(ask_helper(name, "r.io").await.is_err(), "{name}");
    }
    let error = ask_helper("surely-not-there", "r.io").await.unwrap_err();
    assert!(error.contains("cannot be started"), "{error}");
}

/// A helper that is a shell script.
async fn script(text: &str) -> std::result::Result<Option<Credentials>, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("helper");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    loop {
        match run_helper(path.to_str().unwrap(), "https://r.io").await {
            // A child of another test still holds the file open, for as long as its exec takes.
            Err(why) if why.contains("busy") => tokio::time::sleep(Duration::from_millis(5)).await,
            result => return result,
        }
    }
}

#[tokio::test]
async fn helpers_are_asked_by_their_protocol() {
    let answer =
        r#"read server; [ "$1 $server" = "get https://r.io" ] && echo '{"ServerURL":"x","Username":"u","Secret":"s"}'"#;
    assert_eq!(script(answer).await.unwrap(), Some(Credentials::basic("u", "s")));
    let token = r#"echo '{"Username":"<token>","Secret":"s"}'"#;
    assert_eq!(script(token).await.unwrap(), Some(Credentials::IdentityToken("s".into())));
    assert_eq!(script("echo credentials not found in native keychain; exit 1").await.unwrap(), None);
    assert_eq!(script("echo '{}'").await.unwrap(), None);
    let error = script("echo locked; exit 3").await.unwrap_err();
    assert!(error.contains("locked"), "{error}");
    assert!(script("echo hush").await.is_err_and(|e| !e.contains("hush")));
    assert!(script("yes | head -c 3000000").await.is_err());
}
