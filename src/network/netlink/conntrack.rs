//! Connection tracking: makes the kernel forget flows that a mapping changed under.
//!
//! The address translation of a flow is fixed by its first packet. A UDP sender that never pauses keeps its flow for
//! ever, and with it the way to a pod that is long gone, or to none.

use rustix::net::netlink::NETFILTER;

use super::{Batch, NetlinkError, Socket, attributes};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

// Attributes, from linux/netfilter/nfnetlink_conntrack.h.
const TUPLE_ORIG: u16 = 1;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_DESTINATION_PORT: u16 = 3;
const FILTER_ORIG_FLAGS: u16 = 1;
const BY_PROTO_NUMBER: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;
/// The flag of an attribute that holds attributes.
const NESTED: u16 = 1 << 15;

/// A conntrack socket.
#[derive(Debug)]
pub(in crate::network) struct Conntrack(Socket);

/// What names a flow in a request: its original tuple, and its zone where it has one.
type Flow = (Vec<u8>, Option<Vec<u8>>);

impl Conntrack {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(Some(NETFILTER), 0)?))
    }

    /// Forgets the flows of a protocol to a port, wherever they were sent.
    pub fn forget(&mut self, protocol: u8, port: u16) -> Result<(), NetlinkError> {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let flows = match self.flows(family, protocol, port, true) {
                // The kernel filters since 5.8; before, we do.
                Err(error) if error.errno().is_some() => self.flows(family, protocol, port, false)?,
                other => other?,
            };
            for (tuple, zone) in flows {
                let mut batch = Batch::new();
                batch
                    .message(DELETE, libc::NLM_F_ACK as u16)
                    .raw(&[family, 0, 0, 0])
                    .attribute(NESTED | TUPLE_ORIG, &tuple);
                if let Some(zone) = zone {
                    batch.attribute(ZONE, &zone);
                }
                match self.0.transact("forgetting a flow", &mut batch, |_, _| {}) {
                    // It ended by itself.
                    Err(error) if error.is_absent() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn flows(&mut self, family: u8, protocol: u8, port: u16, filter: bool) -> Result<Vec<Flow>, NetlinkError> {
        let mut batch = Batch::new();
        batch.message(GET, libc::NLM_F_DUMP as u16).raw(&[family, 0, 0, 0]);
        if filter {
            batch.nest(TUPLE_ORIG, |batch| {
                batch.nest(TUPLE_PROTO, |batch| {
                    batch.u8(PROTO_NUMBER, protocol).attribute(PROTO_DESTINATION_PORT, &port.to_be_bytes());
                });
            });
            batch.nest(FILTER, |batch| {
                batch.u32(FILTER_ORIG_FLAGS, BY_PROTO_NUMBER | BY_DESTINATION_PORT);
            });
        }
        let mut flows = Vec::new();
        self.0.dump("listing flows", &mut batch, |_, payload| {
            let Some(flow) = payload.get(4..).map(attributes) else { return };
            let Some(tuple) = flow.get(TUPLE_ORIG) else { return };
            let Some(proto) = attributes(tuple).nested(TUPLE_PROTO) else { return };
            let wanted = proto.get(PROTO_NUMBER) == Some(&[protocol])
                && proto.get(PROTO_DESTINATION_PORT) == Some(&port.to_be_bytes());
            if wanted {
                flows.push((tuple.to_vec(), flow.get(ZONE).map(<[u8]>::to_vec)));
            }
        })?;
        Ok(flows)
    }
}
