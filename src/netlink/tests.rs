//! The wire format, without a kernel.

use proptest::prelude::*;

use super::message::{messages, refusal};
use super::{Batch, attributes};

#[test]
fn what_is_packed_can_be_read() {
    let mut batch = Batch::new();
    batch.message(16, 0).raw(&[1, 2, 3, 4]).string(3, "orlop0").u32(4, 1500);
    batch.nest(18, |batch| {
        batch.u8(1, 7).attribute(2, b"abcde").be32(3, 1);
    });
    batch.message(17, 4).raw(&[9; 6]);
    assert_eq!(batch.number(41), 42);
    let read: Vec<_> = messages(batch.bytes()).collect();
    let [(first, payload), (second, rest)] = read.as_slice() else { panic!("{read:?}") };
    assert_eq!((first.kind, first.flags, first.sequence), (16, 1, 41));
    assert_eq!((second.kind, second.flags, second.sequence), (17, 5, 42));
    assert_eq!(*rest, [9, 9, 9, 9, 9, 9, 0, 0]);
    let top = attributes(&payload[4..]);
    assert_eq!((top.string(3), top.u32(4)), (Some("orlop0"), Some(1500)));
    let nested = top.nested(18).unwrap();
    assert_eq!(
        (nested.get(1), nested.get(2), nested.get(3)),
        (Some(&[7][..]), Some(&b"abcde"[..]), Some(&[0, 0, 0, 1][..]))
    );
    assert!(nested.get(4).is_none());
}

#[test]
fn an_acknowledgement_is_no_refusal() {
    let mut batch = Batch::new();
    batch.message(2, 0).raw(&0_i32.to_ne_bytes()).raw(&[0; 16]);
    batch.message(2, 0).raw(&(-17_i32).to_ne_bytes()).raw(&[0; 16]);
    batch.number(1);
    let read: Vec<_> = messages(batch.bytes()).map(|(header, payload)| refusal(header, payload)).collect();
    assert_eq!(read, [None, Some((17, String::new()))]);
}

proptest! {
    /// Whatever arrives is read without a panic and without end.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        for (header, payload) in messages(&bytes) {
            let _ = refusal(header, payload);
            let mut count = 0;
            for (kind, _) in attributes(payload).iter() {
                let _ = (attributes(payload).string(kind), attributes(payload).u32(kind));
                count += 1;
            }
            prop_assert!(count <= payload.len());
        }
    }
}
