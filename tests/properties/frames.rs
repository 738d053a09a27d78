//! What arrives on sockets and in files: the shim's messages, the executor's reports, plans.

use orlop::runtime::execute::{Report, read_status};
use orlop::runtime::plan::Plan;
use orlop::shim::protocol::{ExitRecord, Request, ToAgent, decode_sysctls, encode_sysctls, valid_id};

pub fn check(bytes: &[u8]) {
    // Whatever is understood is written again as what is understood in the same way.
    if let Ok((request, _)) = postcard::take_from_bytes::<(u32, Request<'_>)>(bytes) {
        let again = postcard::to_allocvec(&request).unwrap();
        assert_eq!(postcard::from_bytes::<(u32, Request<'_>)>(&again).unwrap(), request);
    }
    if let Ok((message, _)) = postcard::take_from_bytes::<ToAgent<'_>>(bytes) {
        let again = postcard::to_allocvec(&message).unwrap();
        assert_eq!(postcard::from_bytes::<ToAgent<'_>>(&again).unwrap(), message);
    }
    if let Ok(plan) = Plan::decode(bytes) {
        assert_eq!(Plan::decode(&plan.encode().unwrap()).unwrap(), plan);
    }
    let pairs: Vec<_> = decode_sysctls(bytes).collect();
    let texts =
        pairs.iter().map(|(key, value)| Some((std::str::from_utf8(key).ok()?, std::str::from_utf8(value).ok()?)));
    if let Some(texts) = texts.collect::<Option<Vec<_>>>() {
        let again = encode_sysctls(texts.iter().copied()).expect("no NUL is left in them");
        assert_eq!(decode_sysctls(&again).collect::<Vec<_>>(), pairs);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Some(record) = ExitRecord::parse(text) {
            assert_eq!(ExitRecord::parse(record.line().as_str()), Some(record));
        }
        if valid_id(text) {
            assert!(!text.contains(['/', '\0']) && !text.starts_with('.'), "{text:?}");
        }
    }
    status(bytes);
}

/// One packet of the executor's socket.
fn status(bytes: &[u8]) {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.unwrap();
    if bytes.is_empty() {
        return;
    }
    send(&theirs, bytes, SendFlags::empty()).unwrap();
    drop(theirs);
    use std::os::fd::AsFd;
    match read_status(ours.as_fd()) {
        // No descriptor came with it.
        Ok(Report::Console(_)) => panic!("a console out of nothing"),
        Ok(Report::End) => panic!("a packet is no end"),
        Ok(_) | Err(_) => {}
    }
}
