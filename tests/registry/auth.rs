//! Log-in: each way to get in, and that nothing of one caller serves another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use orlop::registry::{Client, ClientConfig, Credentials, ErrorKind, ManifestRef, Repository};

use crate::common::{MANIFEST, config, noise, read, session_with};
use crate::server::{Reply, Seen, Server};

/// base64 of `user:hush-hush`
const USER: &str = "Basic dXNlcjpodXNoLWh1c2g=";

fn tag() -> ManifestRef {
    ManifestRef::tag("v1").unwrap()
}

fn user() -> Credentials {
    Credentials::basic("user", "hush-hush")
}

/// A registry with a token server on the same port. `grant` makes the answer of the token server; the registry takes
/// any token that `good` likes.
fn token_registry(
    grant: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    good: impl Fn(&str, &Seen) -> bool + Send + Sync + 'static,
) -> Server {
    Server::start(move |seen| {
        if seen.path() == "/token" {
            return grant(seen);
        }
        match seen.header("authorization").and_then(|a| a.strip_prefix("Bearer ")) {
            Some(token) if good(token, seen) => Reply::manifest(MANIFEST),
            _ => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#).header(
                "www-authenticate",
                r#"Bearer realm="/token",service="here & now",scope="repository:team/app:pull""#,
            ),
        }
    })
}

#[tokio::test]
async fn basic_is_learned_once() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(USER) => Reply::manifest(MANIFEST),
        _ => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
    });
    let client = Client::new(config()).unwrap();
    let repository = Repository::new(&server.host(), "team/app").unwrap();
    for _ in 0..2 {
        client.session(repository.clone(), user()).unwrap().manifest(&tag(), &[]).await.unwrap();
    }
    assert_eq!(server.seen().len(), 3);
    for (credentials, requests) in [(Credentials::Anonymous, 1), (Credentials::basic("user", "wrong-wrong"), 1)] {
        let before = server.seen().len();
        let error = client.session(repository.clone(), credentials).unwrap().manifest(&tag(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong-wrong"));
        assert_eq!(server.seen().len() - before, requests, "no storm that would lock an account");
    }
}

#[tokio::test]
async fn tokens_are_fetched_by_get_and_kept_by_caller() {
    let server = token_registry(
        |seen| {
            Reply::new(
                200,
                format!(r#"{{"token":"for-{}"}}"#, seen.header("authorization").unwrap_or("nobody").replace(' ', "-")),
            )
        },
        |_, _| true,
    );
    let client = Client::new(config()).unwrap();
    let repository = Repository::new(&server.host(), "team/app").unwrap();
    let get = async |credentials: Credentials| {
        client.session(repository.clone(), credentials).unwrap().manifest(&tag(), &[]).await.unwrap();
        server.seen().last().unwrap().header("authorization").unwrap().to_owned()
    };
    let bearer_of_user = format!("Bearer for-{}", USER.replace(' ', "-"));
    assert_eq!(get(Credentials::Anonymous).await, "Bearer for-nobody");
    assert_eq!(get(user()).await, bearer_of_user);
    assert_eq!(get(Credentials::basic("other", "pass")).await, "Bearer for-Basic-b3RoZXI6cGFzcw==");
    assert_eq!(server.count("/token"), 3);
    assert_eq!(get(Credentials::Anonymous).await, "Bearer for-nobody");
    assert_eq!(get(user()).await, bearer_of_user);
    assert_eq!(server.count("/token"), 3);

    let seen: Vec<_> = server.seen().into_iter().filter(|s| s.path() == "/token").collect();
    assert_eq!(seen[0].query(), "service=here%20%26%20now&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[1].query(), "account=user&service=here%20%26%20now&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!(client.counters().snapshot().tokens, 3);
}

#[tokio::test]
async fn identity_tokens_are_exchanged_by_post() {
    let server = token_registry(
        |seen| {
            let form = String::from_utf8(seen.body.clone()).unwrap();
            if seen.method == "POST"
                && seen.header("content-type") == Some("application/x-www-form-urlencoded")
                && form.contains("grant_type=refresh_token&refresh_token=hush%26hush&client_id=orlop")
                && form.ends_with("&service=here%20%26%20now&scope=repository%3Ateam%2Fapp%3Apull")
            {
                Reply::new(200, r#"{"access_token":"good","expires_in":300}"#)
            } else {
                Reply::new(400, r#"{"error":"invalid_grant"}"#)
            }
        },
        |token, _| token == "good",
    );
    let good = session_with(config(), &server.host(), Credentials::IdentityToken("hush&hush".into()));
    good.manifest(&tag(), &[]).await.unwrap();
    let bad = session_with(config(), &server.host(), Credentials::IdentityToken("hush-other".into()));
    let error = bad.manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Unauthorized, Some(400)));
    assert!(error.to_string().contains("invalid_grant") && !error.to_string().contains("hush"), "{error}");
}

#[tokio::test]
async fn a_token_server_without_get_is_asked_by_post() {
    let server = token_registry(
        |seen| match seen.method.as_str() {
            "GET" => Reply::new(405, ""),
            _ if seen.body.starts_with(b"grant_type=password&username=user&password=hush-hush&") => {
                Reply::new(200, r#"{"access_token":"good"}"#)
            }
            _ => Reply::new(401, ""),
        },
        |token, _| token == "good",
    );
    session_with(config(), &server.host(), user()).manifest(&tag(), &[]).await.unwrap();
}

#[tokio::test]
async fn registry_tokens_are_sent_as_they_are() {
    let server = token_registry(|_| Reply::new(200, r#"{"token":"fetched"}"#), |token, _| token == "given");
    session_with(config(), &server.host(), Credentials::RegistryToken("given".into()))
        .manifest(&tag(), &[])
        .await
        .unwrap();
    assert_eq!(server.seen().len(), 1);
    let error = session_with(config(), &server.host(), Credentials::RegistryToken("old".into()))
        .manifest(&tag(), &[])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(server.count("/token"), 0);
}

#[tokio::test]
async fn many_requests_wait_for_one_token() {
    let server = token_registry(
        |_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            Reply::new(200, r#"{"token":"good"}"#)
        },
        |token, _| token == "good",
    );
    let session = session_with(config(), &server.host(), user());
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.manifest(&tag(), &[]).await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_is_replaced() {
    let blob = noise(500_000);
    let whole = blob.clone();
    let grants = Arc::new(AtomicUsize::new(0));
    let granted = Arc::clone(&grants);
    let server = Server::start(move |seen| {
        if seen.path() == "/token" {
            let n = granted.fetch_add(1, Ordering::SeqCst);
            return Reply::new(200, format!(r#"{{"token":"t{n}"}}"#));
        }
        // Each token is good for one request, and each answer breaks off once.
        let newest = format!("Bearer t{}", granted.load(Ordering::SeqCst).saturating_sub(1));
        let reply = match (seen.header("authorization"), seen.range()) {
            (Some(token), None) if token == newest => Reply::blob(&whole, seen).cut(200_000),
            (Some("Bearer t0"), Some(_)) => Reply::new(401, ""),
            (Some(token), Some(_)) if token == newest => Reply::blob(&whole, seen),
            _ => Reply::new(401, ""),
        };
        if reply.status == 401 { reply.header("www-authenticate", "Bearer realm=\"/token\"") } else { reply }
    });
    let session = session_with(config(), &server.host(), user());
    assert_eq!(read(&session, &blob).await.unwrap(), blob);
    assert_eq!(grants.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_registry_that_is_never_content_is_left() {
    let server = token_registry(|_| Reply::new(200, r#"{"token":"x"}"#), |_, _| false);
    let error = session_with(config(), &server.host(), user()).manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(error.registry_message().unwrap().code, "UNAUTHORIZED");
    assert!(server.count("/token") <= 2 && server.seen().len() <= 5, "{}", server.seen().len());

    let server = Server::start(|_| Reply::new(401, "").header("www-authenticate", "Negotiate"));
    let error = session_with(config(), &server.host(), user()).manifest(&tag(), &[]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unauthorized && error.to_string().contains("negotiate"), "{error}");

    let server = Server::start(|_| Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#));
    let error = session_with(config(), &server.host(), user()).manifest(&tag(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden);
}

#[tokio::test]
async fn answers_of_the_token_server_are_checked() {
    for (name, reply, kind) in [
        ("no JSON", Reply::new(200, "hush"), ErrorKind::InvalidContent),
        ("no token", Reply::new(200, "{}"), ErrorKind::InvalidContent),
        ("no header value", Reply::new(200, r#"{"token":"a\nb"}"#), ErrorKind::Unauthorized),
        ("huge", Reply::new(200, " ".repeat(2 << 20)), ErrorKind::InvalidContent),
        ("down", Reply::new(503, ""), ErrorKind::Unavailable),
        ("forbidden", Reply::new(403, r#"{"details":"incorrect username or password"}"#), ErrorKind::Forbidden),
    ] {
        let server = token_registry(move |_| reply.clone(), |_, _| false);
        let error = session_with(config(), &server.host(), user()).manifest(&tag(), &[]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(!error.to_string().contains("hush"), "{name}");
    }
}

#[tokio::test]
async fn a_passing_failure_of_the_token_server_is_waited_out() {
    let tries = AtomicUsize::new(0);
    let server = token_registry(
        move |_| match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::new(502, ""),
            1 => Reply { hang_up: true, ..Reply::new(200, "") },
            _ => Reply::new(200, r#"{"token":"good"}"#),
        },
        |token, _| token == "good",
    );
    session_with(config(), &server.host(), user()).manifest(&tag(), &[]).await.unwrap();
}

#[tokio::test]
async fn a_caller_without_credentials_gets_those_of_the_machine() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(USER) => Reply::manifest(MANIFEST),
        Some(_) => Reply::new(403, ""),
        None => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let auths = format!(r#"{{"auths":{{"{}/team":{{"auth":"dXNlcjpodXNoLWh1c2g="}}}}}}"#, server.host());
    std::fs::write(&file, auths).unwrap();
    let config = ClientConfig { auth_files: vec![dir.path().join("none.json"), file.clone()], ..config() };
    let client = Client::new(config).unwrap();
    let get = async |path: &str, credentials: Credentials| {
        let session = client.session(Repository::new(&server.host(), path).unwrap(), credentials).unwrap();
        session.manifest(&tag(), &[]).await
    };
    get("team/app", Credentials::Anonymous).await.unwrap();
    assert_eq!(get("other/app", Credentials::Anonymous).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    // Credentials that came with the request are never mixed with those of the machine.
    assert_eq!(get("team/app", Credentials::basic("pod", "pass")).await.unwrap_err().kind(), ErrorKind::Forbidden);
    std::fs::write(&file, "{").unwrap();
    let error = get("team/app", Credentials::Anonymous).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("config.json"), "{error}");
}
