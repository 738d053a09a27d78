use std::os::unix::net::UnixStream;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_socket_has_its_modes_and_goes_when_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/orlop.sock");
    let socket = Socket::bind(&path).unwrap();
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(&dir.path().join("a")), 0o711);
    assert_eq!(mode(&dir.path().join("a/b")), 0o711);
    UnixStream::connect(&path).unwrap();
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_living_socket_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orlop.sock");
    // Served by somebody who knows nothing of our lock file.
    let foreign = UnixListener::bind(&path).unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    drop(foreign);
    // Now it is stale: the file is there, but nobody answers.
    assert!(path.exists());
    let ours = Socket::bind(&path).unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    UnixStream::connect(&path).unwrap();
    drop(ours);
    Socket::bind(&path).unwrap();
}

/// A process that accepts nothing any more still owns its socket, and asking must not hang.
#[test]
fn a_busy_socket_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orlop.sock");
    let busy = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&busy, 1).unwrap();
    let _waiting: Vec<_> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orlop.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_that_was_replaced_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orlop.sock");
    let socket = Socket::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn wrong_paths_are_refused() {
    assert!(matches!(Socket::bind(Path::new("orlop.sock")), Err(SocketError::NotAbsolute(_))));
    assert!(matches!(Socket::bind(Path::new("/")), Err(SocketError::NotAbsolute(_))));
    let long = Path::new("/tmp").join("x".repeat(120));
    assert!(matches!(Socket::bind(&long), Err(SocketError::TooLong(_))));
}
